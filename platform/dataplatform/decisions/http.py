"""The door: the decision path by hand (it is most of the traffic), the rest by Starlette."""

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..contracts.errors import ContractError
from ..errors import PlatformError
from ..fraud.facts import FactProblem
from ..fraud.parameters import (
    ConflictError,
    NotAllowedError,
    ParameterStore,
    ParameterVersion,
    UnknownVersionError,
)
from ..settings import Settings, get_settings
from .judge import BadRequestError, digest_of, replay
from .openapi import document
from .service import DecisionService

MAX_BODY = 1 << 20

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]

_JSON = [(b"content-type", b"application/json")]
_PROBLEM = [(b"content-type", b"application/problem+json")]


class Door:
    """The ASGI application of one process."""

    def __init__(self, settings: Settings, service: DecisionService | None = None) -> None:
        self.settings = settings
        self.service = service or DecisionService(settings)
        self.keys = {key.encode(): name for key, name in settings.decision_keys.items()}
        self.others = Starlette(
            routes=[
                Route("/healthz", self.health),
                Route("/metrics", self.metrics),
                Route("/openapi.json", self.openapi),
                Route("/v1/decisions/{request_id:path}/explanation", self.explanation),
                Route("/v1/decisions/{request_id:path}", self.decision),
                Route("/v1/policies", self.policies),
                Route("/v1/policies/{policy}/parameters", self.parameters, methods=["GET", "POST"]),
                Route("/v1/policies/{policy}/parameters/{version:int}/approve", self.approve, methods=["POST"]),
                Route("/v1/policies/{policy}/parameters/{version:int}/state", self.advance, methods=["POST"]),
                Route("/v1/policies/{policy}/rollback", self.rollback, methods=["POST"]),
                Route("/v1/policies/{policy}/changes", self.changes),
                Route("/v1/lists/{name}", self.list_entries, methods=["GET", "POST", "DELETE"]),
            ],
            exception_handlers={
                ContractError: _contract_error,
                PlatformError: _platform_error,
                BadRequestError: _bad_request,
            },
        )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path = scope["path"]
        client = self._client(scope)
        if client is None and path.startswith("/v1/"):
            await _answer(send, *_problem(401, "An API key is needed.", "send it in the header X-API-Key"))
            return
        if path == "/v1/decisions" and scope["method"] == "POST":
            await self._decide(client or "", receive, send)
            return
        scope["state"] = {"client": client}
        await self.others(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.service.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.service.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _client(self, scope: Message) -> str | None:
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                return self.keys.get(value)
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                return self.keys.get(value[7:].strip())
        return None

    async def _decide(self, client: str, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            await _answer(
                send, *_problem(413, f"The body has more than {MAX_BODY:,} bytes.", "send only what is needed")
            )
            return
        try:
            answer = await self.service.decide(body, client)
        except BadRequestError as error:
            await _answer(send, *_bad(error))
            return
        await _answer(send, 200, answer, _JSON)

    # Everything else.

    @property
    def store(self) -> ParameterStore:
        store = self.service.benches.store
        if store is None or not self.service.benches.reachable:
            raise BadRequestError(503, "The store of parameters does not answer.")
        return store

    async def health(self, _: HttpRequest) -> Response:
        benches = self.service.benches
        state = {"status": "ok" if benches.reachable else "degraded", "generation": benches._generation}
        return JSONResponse(state)

    async def metrics(self, _: HttpRequest) -> Response:
        lines = ["# TYPE fraud_decisions_total counter"]
        lines += [f'fraud_decisions_total{{kind="{kind}"}} {n}' for kind, n in sorted(self.service.counts.items())]
        lines += ["# TYPE fraud_commits_total counter", f"fraud_commits_total {self.service.answers.commits}"]
        lines += ["# TYPE fraud_parameters_reachable gauge"]
        lines += [f"fraud_parameters_reachable {int(self.service.benches.reachable)}"]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def openapi(self, _: HttpRequest) -> Response:
        return JSONResponse(document())

    async def decision(self, request: HttpRequest) -> Response:
        record = self._record(request)
        return Response(msgspec.json.encode(record), media_type="application/json")

    async def explanation(self, request: HttpRequest) -> Response:
        record = self._record(request)
        typed = self.service.catalog.policies.get(record.answer.policy)
        if typed is None or digest_of(typed) != record.answer.versions.policy:
            raise BadRequestError(
                410, "The policy's text has changed since; the record still has all it was made from."
            )
        return Response(msgspec.json.encode(replay(record, typed)), media_type="application/json")

    async def policies(self, _: HttpRequest) -> Response:
        snapshot = await asyncio.to_thread(self.store.snapshot)
        found = []
        for name, typed in self.service.catalog.policies.items():
            in_force = snapshot.policies.get(name)
            found.append(
                {
                    "policy": name,
                    "event": typed.policy.event,
                    "description": typed.policy.description,
                    "digest": digest_of(typed),
                    "live": in_force.live.version if in_force else None,
                    "shadow": in_force.shadow.version if in_force and in_force.shadow else None,
                    "share": in_force.share.version if in_force and in_force.share else None,
                    "blocks": typed.policy.blocks,
                }
            )
        return JSONResponse({"policies": found, "generation": snapshot.generation})

    async def parameters(self, request: HttpRequest) -> Response:
        policy = request.path_params["policy"]
        if request.method == "GET":
            versions = await asyncio.to_thread(self.store.versions, policy)
            typed = self.service.catalog.policies[policy]
            declared = msgspec.to_builtins(typed.policy.parameters, enc_hook=float)
            return JSONResponse({"declared": declared, "versions": [_plain(each) for each in versions]})
        body = await _json(request, {"changes": dict, "base_version": int, "reason": str})
        made = await asyncio.to_thread(
            self.store.propose,
            policy,
            body["changes"],
            base_version=body["base_version"],
            by=_user(request),
            reason=body["reason"],
        )
        return JSONResponse(_plain(made), 201)

    async def approve(self, request: HttpRequest) -> Response:
        place = request.path_params
        done = await asyncio.to_thread(self.store.approve, place["policy"], place["version"], by=_user(request))
        return JSONResponse(_plain(done))

    async def advance(self, request: HttpRequest) -> Response:
        place = request.path_params
        body = await _json(request, {"state": str}, {"share_percent": int})
        share = body.get("share_percent", 0)
        done = await asyncio.to_thread(
            self.store.advance, place["policy"], place["version"], body["state"], by=_user(request), share_percent=share
        )
        return JSONResponse(_plain(done))

    async def rollback(self, request: HttpRequest) -> Response:
        body = await _json(request, {"reason": str}, {"to": int})
        done = await asyncio.to_thread(
            self.store.rollback,
            request.path_params["policy"],
            by=_user(request),
            reason=body["reason"],
            to=body.get("to"),
        )
        return JSONResponse(_plain(done))

    async def changes(self, request: HttpRequest) -> Response:
        return JSONResponse({"changes": await asyncio.to_thread(self.store.changes, request.path_params["policy"])})

    async def list_entries(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        if request.method == "GET":
            snapshot = await asyncio.to_thread(self.store.snapshot)
            if name not in snapshot.lists:
                raise UnknownVersionError("there is no such list", where=name)
            return JSONResponse({"list": name, "entries": sorted(snapshot.lists[name], key=str)})
        optional = {"expires_at": str} if request.method == "POST" else {}
        body = await _json(request, {"entries": list, "reason": str}, optional)
        if request.method == "DELETE":
            done = await asyncio.to_thread(
                self.store.remove_entries, name, body["entries"], by=_user(request), reason=body["reason"]
            )
        else:
            done = await asyncio.to_thread(
                self.store.put_entries,
                name,
                body["entries"],
                by=_user(request),
                reason=body["reason"],
                expires_at=_expiry(body.get("expires_at")),
            )
        return JSONResponse({"list": name, "changed": done})

    def _record(self, request: HttpRequest) -> Any:
        record = self.service.record(request.path_params["request_id"])
        if record is None:
            raise UnknownVersionError("no such decision is remembered", where=request.path_params["request_id"])
        return record


def app() -> Door:
    """The application of the process's settings: what uvicorn's workers make."""
    return Door(get_settings())


def local_user() -> str:
    """Who uses the command line."""
    return getpass.getuser()


async def _body(receive: Receive) -> bytes | None:
    """The body, None where it is too large; what comes after the limit is read and forgotten."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body if len(body) <= MAX_BODY else None
    parts = [body]
    size = len(body)
    while message.get("more_body"):
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY:
            parts.append(part)
    return b"".join(parts) if size <= MAX_BODY else None


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _problem(status: int, title: str, fix: str = "", **more: Any) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    content = {"type": "about:blank", "status": status, "title": title} | ({"fix": fix} if fix else {}) | more
    headers = [*_PROBLEM, (b"retry-after", b"1")] if status == 503 else _PROBLEM
    return status, msgspec.json.encode(content), headers


def _bad(error: BadRequestError) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    problems = [
        {"pointer": each.pointer, "code": each.code, "message": each.message, "fix": each.fix}
        for each in error.problems
    ]
    more: dict[str, Any] = {"problems": problems} if problems else {}
    return _problem(error.status, error.title, **more)


def _as_response(problem: tuple[int, bytes, list[tuple[bytes, bytes]]]) -> Response:
    status, body, headers = problem
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


def _bad_request(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, BadRequestError)
    return _as_response(_bad(error))


def _contract_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ContractError)
    problems = [
        {"pointer": f"/changes/{each.path}", "code": each.code, "message": each.message, "fix": each.fix}
        for each in error.problems
    ]
    return _as_response(_problem(422, "The change has mistakes.", problems=problems))


def _platform_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, PlatformError)
    status, more = 422, {}
    if isinstance(error, ConflictError):
        status, more = 409, {"difference": error.difference}
    elif isinstance(error, NotAllowedError):
        status = 403
    elif isinstance(error, UnknownVersionError):
        status = 404
    return _as_response(_problem(status, error.message, error.fix, **more))


async def _json(
    request: HttpRequest, required: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> dict[str, Any]:
    shape = {**required, **(optional or {})}
    raw = await request.body()
    if len(raw) > MAX_BODY:
        raise BadRequestError(413, f"The body has more than {MAX_BODY:,} bytes.")
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequestError(400, f"The body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequestError(422, "The body is no object.")
    problems = [
        FactProblem(f"/{key}", "unknown_key", f"{key} is no key here", f"one of {', '.join(shape)}")
        for key in body
        if key not in shape
    ]
    for key, kind in shape.items():
        if key not in body:
            if key in required:
                problems.append(FactProblem(f"/{key}", "missing", f"{key} is missing", "add it"))
        elif not isinstance(body[key], kind) or (kind is int and isinstance(body[key], bool)):
            problems.append(FactProblem(f"/{key}", "wrong_type", f"{key} is no {kind.__name__}", "see /openapi.json"))
    if problems:
        raise BadRequestError(422, "The request has mistakes.", problems)
    return body


def _expiry(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise BadRequestError(422, f"{text!r} is no time with a zone.")
    return int(time.timestamp() * 1e6)


def _user(request: HttpRequest) -> str:
    user: str = request.scope["state"]["client"]
    return user


def _plain(version: ParameterVersion) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(msgspec.json.encode(version))
    return plain
