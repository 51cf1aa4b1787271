"""`/v1/cases`: the cases over HTTP. Who asks is whose API key it is; roles are those of the parameters."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..errors import PlatformError
from ..fraud.cases import CaseDecision, Cases, plain_case
from ..fraud.facts import FactProblem
from ..fraud.parameters import ParameterStore
from ..fraud.values import micros
from .judge import BadRequestError, Record

type ReadBody = Callable[..., Awaitable[dict[str, Any]]]
FILTERS = ("status", "assignee", "policy", "entity", "entity_key")


class CaseRoutes:
    """The routes, on a store that may be down (`store` raises then) and the decisions of this service."""

    def __init__(
        self,
        store: Callable[[], ParameterStore],
        record: Callable[[str], Record | None],
        read_body: ReadBody,
        user: Callable[[Request], str],
    ) -> None:
        self._store = store
        self._record = record
        self._read_body = read_body
        self._user = user

    @property
    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/cases", self.find),
            Route("/v1/cases/{case:int}", self.case, methods=["GET", "PATCH"]),
            Route("/v1/cases/{case:int}/notes", self.note, methods=["POST"]),
            Route("/v1/cases/{case:int}/decisions", self.link, methods=["POST"]),
        ]

    async def find(self, request: Request) -> Response:
        """GET: cases, newest first, by the filters of the query; `next` is `before` of the next page."""
        query = dict(request.query_params)
        limit, before = _number(query.pop("limit", None), "limit", 100), _number(query.pop("before", None), "before")
        for name in query:
            if name not in FILTERS:
                problem = FactProblem(f"/{name}", "unknown_key", f"{name} is no filter", f"one of {', '.join(FILTERS)}")
                raise BadRequestError(422, "The request has mistakes.", [problem])
        found = await asyncio.to_thread(
            self._cases.find, by=self._user(request), limit=limit or 100, before=before, **query
        )
        after = found[-1].id if len(found) == limit else None
        return JSONResponse({"cases": [plain_case(case) for case in found], "next": after})

    async def case(self, request: Request) -> Response:
        """GET: one case with all that belongs to it. PATCH: its status or assignee ("": nobody), on the version that was seen."""
        number = request.path_params["case"]
        if request.method == "GET":
            return _json(await asyncio.to_thread(self._cases.read, number, by=self._user(request)))
        body = await self._read_body(request, {"version": int}, {"status": str, "assignee": str, "note": str})
        version, note = body.pop("version"), body.pop("note", "")
        if "assignee" in body:
            body["assignee"] = body["assignee"] or None
        if not body:
            problem = FactProblem("", "missing", "nothing is changed", "give status or assignee")
            raise BadRequestError(422, "The request has mistakes.", [problem])
        case = await asyncio.to_thread(
            self._cases.change, number, body, version=version, by=self._user(request), note=note
        )
        return JSONResponse(plain_case(case))

    async def note(self, request: Request) -> Response:
        """POST: a note for the history."""
        body = await self._read_body(request, {"note": str})
        number = request.path_params["case"]
        await asyncio.to_thread(self._cases.note, number, body["note"], by=self._user(request))
        return JSONResponse({"case": number}, 201)

    async def link(self, request: Request) -> Response:
        """POST: link a decision of this service."""
        body = await self._read_body(request, {"request_id": str})
        record = self._record(body["request_id"])
        if record is None:
            raise PlatformError(
                "no such decision is remembered", where=body["request_id"], fix="give the request_id of a decision"
            )
        answer = record.answer
        decision = CaseDecision(
            record.request_id, micros(record.received_at), answer.policy, answer.level, answer.decision
        )
        number = request.path_params["case"]
        fresh = await asyncio.to_thread(self._cases.link, number, decision, by=self._user(request))
        return JSONResponse({"case": number, "linked": fresh}, 201 if fresh else 200)

    @property
    def _cases(self) -> Cases:
        return Cases(self._store())


def _json(content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _number(text: str | None, name: str, default: int | None = None) -> int | None:
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        problem = FactProblem(f"/{name}", "wrong_type", f"{name} is a whole number from 1 on", "correct it")
        raise BadRequestError(422, "The request has mistakes.", [problem])
    return int(text)
