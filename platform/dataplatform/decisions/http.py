"""The door: the decision path by hand (it is most of the traffic), the rest by Starlette.

Both stand on the collector's HTTP/1.1: an ASGI server costs as much as the decision itself.
"""

import asyncio
import getpass
import json
import logging
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import partial
from math import ceil
from typing import Any
from urllib.parse import unquote

import msgspec
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..collector.http import Limits, Request, Server, Slot
from ..collector.problems import Refusal
from ..contracts.errors import ContractError
from ..errors import PlatformError
from ..fraud.dry_runs import DryRuns, Question
from ..fraud.facts import FactProblem
from ..fraud.git_copy import git_copy
from ..fraud.parameters import (
    ConflictError,
    NotAllowedError,
    ParameterStore,
    ParameterVersion,
    UnknownVersionError,
)
from ..fraud.values import ValueProblem, micros
from ..settings import Settings
from .backtests import Backtests, check_period
from .cases import CaseRoutes
from .judge import BadRequestError, replay
from .openapi import document
from .rates import SharedRates
from .service import DecisionService

MAX_BODY = 1 << 20
DECISIONS = b"/v1/decisions"

REQUEST_SECONDS = 30.0
IDLE_SECONDS = 300.0
MAX_CONNECTIONS = 10_000

type Message = MutableMapping[str, Any]

log = logging.getLogger(__name__)
_JSON = b"Content-Type: application/json\r\n"
_PROBLEM = b"Content-Type: application/problem+json\r\n"


class Door:
    """The application of one process."""

    def __init__(self, settings: Settings, service: DecisionService | None = None) -> None:
        self.settings = settings
        self.service = service or DecisionService(settings)
        self.backtests = Backtests()
        self.keys = {key.encode(): name for key, name in settings.decision_keys.items()}
        self.server = Server(self, Limits(MAX_BODY, REQUEST_SECONDS, IDLE_SECONDS, MAX_CONNECTIONS), _worded)
        each_second = settings.decision_requests_per_second
        shared = settings.data_dir / "fraud"
        self.rates = SharedRates(shared, self.keys.values(), each_second) if each_second else None
        self._tasks: set[asyncio.Task[None]] = set()
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
                Route("/v1/policies/{policy}/backtests", self.start_backtest, methods=["POST"]),
                Route("/v1/policies/{policy}/backtests/{run}", self.backtest),
                Route("/v1/policies/{policy}/export", self.export),
                Route("/v1/policies/{policy}/rollback", self.rollback, methods=["POST"]),
                Route("/v1/policies/{policy}/changes", self.changes),
                Route("/v1/lists/{name}", self.list_entries, methods=["GET", "POST", "DELETE"]),
                *CaseRoutes(lambda: self.store, self.service.record, _json, _user).routes,
            ],
            exception_handlers={
                ContractError: _contract_error,
                PlatformError: _platform_error,
                BadRequestError: _bad_request,
                DBAPIError: _store_down,
                HTTPException: _no_such_place,
            },
        )
        self.others.router.redirect_slashes = False

    # What the protocol asks.

    @property
    def common_fields(self) -> bytes:
        return b""

    def admit(self, method: bytes, url: bytes, headers: dict[bytes, bytes]) -> Refusal | None:
        """Nothing is refused before its body is there: `handle` says why in the same form as everything else."""

    def failed(self, refusal: Refusal) -> None:
        """Count what never became a request."""
        key = f"refused_{refusal.status}"
        self.service.counts[key] = self.service.counts.get(key, 0) + 1

    def handle(self, slot: Slot, request: Request) -> None:
        client = self._client(request.headers)
        url = request.url
        guarded = url.startswith(b"/v1/")
        if guarded and client is None:
            _give(slot, *_problem(401, "An API key is needed.", "send it in the header X-API-Key"))
        elif guarded and self.rates is not None and (wait := self.rates.wait(client or "")):
            self.service.counts["refused_429"] = self.service.counts.get("refused_429", 0) + 1
            title = f"More than {self.rates.per_second:g} requests a second of one user."
            _give(slot, *_problem(429, title, "send it again after Retry-After", retry_after=ceil(wait)))
        elif (url == DECISIONS or url.startswith(DECISIONS + b"?")) and request.method == b"POST":
            try:
                self.service.begin(request.body, client or "", partial(_decided, slot))
            except BadRequestError as error:
                _give(slot, *_bad(error))
        else:
            task = asyncio.get_running_loop().create_task(self._by_starlette(slot, request, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _client(self, headers: Mapping[bytes, bytes]) -> str | None:
        key = headers.get(b"x-api-key")
        if key is None:
            scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer":
                return None
        return self.keys.get(key.strip())

    async def _by_starlette(self, slot: Slot, request: Request, client: str | None) -> None:
        path, _, query = request.url.partition(b"?")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method.decode("latin-1"),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers.items()),
            "client": None,
            "server": None,
            "state": {"client": client},
        }
        status = 500
        fields = b""
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": request.body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, fields
            if message["type"] == "http.response.start":
                status = message["status"]
                named = (pair for pair in message.get("headers", ()) if pair[0].lower() != b"content-length")
                fields = b"".join(b"%b: %b\r\n" % (name, value) for name, value in named)
            else:
                parts.append(message.get("body", b""))

        try:
            await self.others(scope, receive, send)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"][:200])
            _give(slot, *_problem(500, "The service has a fault.", "try again; tell the platform's team"))
        else:
            slot.answer(status, b"".join(parts), fields)

    async def sweep(self) -> None:
        """Close what is slow or silent, for ever: for a task of its own."""
        while True:
            self.server.sweep()
            await asyncio.sleep(1.0)

    # Everything else.

    @property
    def store(self) -> ParameterStore:
        store = self.service.benches.store
        if store is None or not self.service.benches.reachable:
            raise BadRequestError(503, "The store of parameters does not answer.")
        return store

    async def health(self, _: HttpRequest) -> Response:
        benches = self.service.benches
        failed = self.service.copy.failed
        state = {"status": "ok" if benches.reachable else "degraded", "generation": benches._generation}
        return JSONResponse(state | {"git_copy": failed or "ok"})

    async def metrics(self, _: HttpRequest) -> Response:
        lines = ["# TYPE fraud_decisions_total counter"]
        lines += [f'fraud_decisions_total{{kind="{kind}"}} {n}' for kind, n in sorted(self.service.counts.items())]
        lines += ["# TYPE fraud_commits_total counter", f"fraud_commits_total {self.service.answers.commits}"]
        lines += ["# TYPE fraud_parameters_reachable gauge"]
        lines += [f"fraud_parameters_reachable {int(self.service.benches.reachable)}"]
        lines += ["# TYPE fraud_git_copy_failed gauge", f"fraud_git_copy_failed {int(bool(self.service.copy.failed))}"]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def openapi(self, _: HttpRequest) -> Response:
        return JSONResponse(document())

    async def decision(self, request: HttpRequest) -> Response:
        record = self._record(request)
        return Response(msgspec.json.encode(record), media_type="application/json")

    async def explanation(self, request: HttpRequest) -> Response:
        record = self._record(request)
        typed = self.service.catalog.policies.get(record.answer.policy)
        digests = self.service.benches.digests
        if typed is None or digests[record.answer.policy] != record.answer.versions.policy:
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
                    "digest": self.service.benches.digests[name],
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

    async def start_backtest(self, request: HttpRequest) -> Response:
        """What a version, or some changes of what is live, would have decided over [from, to)."""
        policy = request.path_params["policy"]
        body = await _json(request, {"from": str, "to": str}, {"version": int, "changes": dict})
        start, end = (datetime.fromtimestamp((_time(body, key) or 0) // 1_000_000, UTC) for key in ("from", "to"))
        question = Question(
            policy, start.isoformat(), end.isoformat(), _user(request), body.get("version"), body.get("changes", {})
        )
        store = self.store

        def begin() -> str:
            store.demand(question.by, "editor")
            check_period(start, end)
            runs = DryRuns(store)
            runs.check(self.service.catalog, question)
            return self.backtests.start(runs, question)

        run = await asyncio.to_thread(begin)
        place = f"/v1/policies/{policy}/backtests/{run}"
        return JSONResponse({"id": run, "status": "running"}, 202, {"Location": place})

    async def backtest(self, request: HttpRequest) -> Response:
        place, store = request.path_params, self.store

        def look() -> bytes:
            store.demand(_user(request), "viewer")
            return msgspec.json.encode(self.backtests.state(DryRuns(store), place["policy"], place["run"]))

        return Response(await asyncio.to_thread(look), media_type="application/json")

    async def export(self, request: HttpRequest) -> Response:
        """The files of the Git copy, by name."""
        policy, store = request.path_params["policy"], self.store

        def copy() -> dict[str, str]:
            store.demand(_user(request), "viewer")
            return git_copy(store, policy)

        return JSONResponse({"policy": policy, "files": await asyncio.to_thread(copy)})

    async def rollback(self, request: HttpRequest) -> Response:
        body = await _json(request, {"reason": str}, {"to": int, "base_version": int})
        done = await asyncio.to_thread(
            self.store.rollback,
            request.path_params["policy"],
            by=_user(request),
            reason=body["reason"],
            to=body.get("to"),
            base_version=body.get("base_version"),
        )
        return JSONResponse(_plain(done))

    async def changes(self, request: HttpRequest) -> Response:
        return JSONResponse({"changes": await asyncio.to_thread(self.store.changes, request.path_params["policy"])})

    async def list_entries(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        if request.method == "GET":
            entries = await asyncio.to_thread(self.store.entries, name)
            return JSONResponse({"list": name, "entries": sorted(entries, key=str)})
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
                expires_at=_time(body, "expires_at"),
            )
        return JSONResponse({"list": name, "changed": done})

    def _record(self, request: HttpRequest) -> Any:
        record = self.service.record(request.path_params["request_id"])
        if record is None:
            raise UnknownVersionError("no such decision is remembered", where=request.path_params["request_id"])
        return record


def local_user() -> str:
    """Who uses the command line."""
    return getpass.getuser()


def _decided(slot: Slot, outcome: bytes | BadRequestError) -> None:
    if isinstance(outcome, bytes):
        slot.answer(200, outcome, _JSON)
    else:
        _give(slot, *_bad(outcome))


def _give(slot: Slot, status: int, body: bytes, fields: bytes) -> None:
    slot.answer(status, body, fields)


def _problem(status: int, title: str, fix: str = "", *, retry_after: int = 1, **more: Any) -> tuple[int, bytes, bytes]:
    content = {"type": "about:blank", "status": status, "title": title} | ({"fix": fix} if fix else {}) | more
    again = b"Retry-After: %d\r\n" % retry_after if status in (429, 503) else b""
    return status, msgspec.json.encode(content), _PROBLEM + again


class _Worded(Refusal):
    """What the protocol refuses, in the form of this service's other answers."""

    def body(self) -> bytes:
        return _problem(self.status, self.detail, self.fix)[1]


def _worded(refusal: Refusal) -> Refusal:
    detail, fix = {
        "too_large": (f"The body has more than {MAX_BODY:,} bytes.", "send only the facts that are needed"),
        "too_slow": (f"The request was not whole after {REQUEST_SECONDS:g} s.", "send it at once"),
        "internal": ("The service has a fault.", "try again; tell the platform's team"),
    }.get(refusal.code, (f"{refusal.detail[:1].upper()}{refusal.detail[1:]}.", refusal.fix))
    return _Worded(refusal.status, refusal.code, detail, fix, retry_after=refusal.retry_after, headers=refusal.headers)


def _bad(error: BadRequestError) -> tuple[int, bytes, bytes]:
    problems = [
        {"pointer": each.pointer, "code": each.code, "message": each.message, "fix": each.fix}
        for each in error.problems
    ]
    more: dict[str, Any] = {"problems": problems} if problems else {}
    return _problem(error.status, error.title, **more)


def _as_response(problem: tuple[int, bytes, bytes]) -> Response:
    status, body, fields = problem
    lines = (line.split(": ", 1) for line in fields.decode().splitlines())
    return Response(body, status, dict(lines))


def _bad_request(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, BadRequestError)
    return _as_response(_bad(error))


def _no_such_place(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _as_response(_problem(error.status_code, error.detail, "see /openapi.json"))
    answer.headers.update(error.headers or {})
    return answer


def _store_down(_: HttpRequest, error: Exception) -> Response:
    log.error("the store of parameters failed: %s", error)
    return _as_response(_problem(503, "The store of parameters does not answer.", "try again"))


def _contract_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ContractError)
    problems = [
        {"pointer": f"/changes/{each.path}", "code": each.code, "message": each.message, "fix": each.fix}
        for each in error.problems
    ]
    return _as_response(_problem(422, "The change has mistakes.", problems=problems))


def _platform_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, PlatformError)
    status = 422
    more: dict[str, Any] = {}
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


def _time(body: Mapping[str, Any], key: str) -> int | None:
    """A time of a body in microseconds since 1970, None where it has none."""
    if body.get(key) is None:
        return None
    try:
        return micros(body[key])
    except ValueProblem as problem:
        problems = [FactProblem(f"/{key}", problem.code, f"{key} is {problem.message}", problem.fix)]
        raise BadRequestError(422, "The request has mistakes.", problems) from None


def _user(request: HttpRequest) -> str:
    user: str = request.scope["state"]["client"]
    return user


def _plain(version: ParameterVersion) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(msgspec.json.encode(version))
    return plain
