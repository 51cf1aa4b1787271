"""The door: every request of the collector, from its head to its answer."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from time import monotonic
from typing import Any

import msgspec
from msgspec import Raw

from ..events.importing import Moment, moment_of, take_in
from ..events.verdict import Verdict
from ..landing import Landing, NonDecreasingClock, Writer, unique_writer_name
from ..settings import Settings
from . import segment
from .bodies import MAX_BODY_BYTES, MAX_EVENTS, Malformed, events_of, unzip
from .http import Limits, Request, Server, Slot
from .keys import RateLimit, WriteKeys
from .live_contracts import LiveContracts
from .metrics import Metrics, Reading, text
from .problems import Refusal

MAX_ANSWERED_REASONS = 1000
"""Reasons that one answer lists; the rest are counted there, and all of them are in `events.rejected`."""
FAILURE_SECONDS = 5.0
"""How long a failed write makes the collector unready, if no other attempt tells more."""

CORS = b"Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Retry-After\r\n"
_JSON = b"Content-Type: application/json\r\n" + CORS
_PREFLIGHT = (
    CORS + b"Access-Control-Allow-Methods: POST, OPTIONS\r\n"
    b"Access-Control-Allow-Headers: Authorization, Content-Type, Content-Encoding, X-Write-Key\r\n"
    b"Access-Control-Max-Age: 86400\r\n"
)
_SEGMENT_KINDS: dict[bytes, str | None] = {b"/v1/batch": None, b"/v1/import": None} | {
    b"/v1/" + kind.encode(): kind for kind in segment.KINDS
}
_POSTS = frozenset({b"/v1/events", *_SEGMENT_KINDS})
_GETS = frozenset({b"/", b"/healthz", b"/readyz", b"/metrics"})

log = logging.getLogger(__name__)


class Door:
    """The collector's application: takes events in, and tells how it is."""

    def __init__(
        self,
        settings: Settings,
        landing: Landing,
        contracts: LiveContracts,
        gather: Callable[[Reading], Reading] = lambda reading: reading,
    ) -> None:
        """`gather` adds the readings of other processes to this one's."""
        self.settings = settings
        self.contracts = contracts
        self.keys = WriteKeys(settings.write_keys)
        self.rates = RateLimit(settings.collector_events_per_second, settings.collector_burst_events)
        self.clock = NonDecreasingClock()
        self.metrics = Metrics()
        self.writer = Writer(
            landing,
            name=unique_writer_name("c"),
            rotate_seconds=settings.landing_rotate_seconds,
            rotate_bytes=settings.landing_rotate_bytes,
        )
        self.gather = gather
        self.server = Server(
            self,
            Limits(
                MAX_BODY_BYTES,
                settings.collector_request_seconds,
                settings.collector_idle_seconds,
                settings.collector_max_connections,
            ),
        )
        self.free_bytes: int | None = None
        self.waiting: dict[Slot, float] = {}
        """Requests whose events are appended and not durable, with their start; the oldest first."""
        self.last_durable: float | None = None

    # -- what the protocol asks

    @property
    def common_fields(self) -> bytes:
        return CORS

    def admit(self, method: bytes, url: bytes, headers: dict[bytes, bytes]) -> Refusal | None:
        """Refuse by the head alone, so that the body is not even kept."""
        path, _, query = url.partition(b"?")
        if method != b"POST" or path not in _POSTS:
            return None
        refusal = self.overload()
        if refusal is None:
            try:
                source = self.keys.source(headers, query)
            except Refusal as unknown:
                refusal = unknown
            else:
                refusal = None if source is None else self._too_fast(source)
        if refusal is not None:
            self.failed(refusal)
        return refusal

    def failed(self, refusal: Refusal) -> None:
        self.metrics.requests[refusal.status] += 1
        if refusal.status in (429, 503):
            self.metrics.shed[refusal.code] += 1

    def handle(self, slot: Slot, request: Request) -> None:
        try:
            self._route(slot, request)
        except Refusal as refusal:
            self.failed(refusal)
            raise

    # -- routes

    def _route(self, slot: Slot, request: Request) -> None:
        path, _, query = request.url.partition(b"?")
        method = request.method
        if method == b"POST" and path in _POSTS:
            if path == b"/v1/events":
                self._take_events(slot, request, query)
            else:
                self._take_segment(slot, request, query, _SEGMENT_KINDS[path])
            return
        if method == b"OPTIONS":
            self.metrics.requests[204] += 1
            slot.answer(204, b"", _PREFLIGHT)
        elif path in _GETS and method in (b"GET", b"HEAD"):
            self._tell(slot, path)
        else:
            raise _no_such_place(method, path)

    def _take_events(self, slot: Slot, request: Request, query: bytes) -> None:
        source = self.keys.source(request.headers, query)
        body = unzip(request.body, request.headers.get(b"content-encoding", b"").decode("latin-1").lower())
        if source is None:
            self.keys.require_some_in(body)
            source = self._source_of(segment.write_key_of(body))
        try:
            raws = events_of(body)
        except Malformed as fault:
            self._keep_malformed(slot, request, body, fault, source)
            return
        self._land(slot, request, raws, source, b"")

    def _take_segment(self, slot: Slot, request: Request, query: bytes, kind: str | None) -> None:
        source = self.keys.source(request.headers, query)
        body = unzip(request.body, request.headers.get(b"content-encoding", b"").decode("latin-1").lower())
        if source is None:
            self.keys.require_some_in(body)
            if kind is None:
                source = self._source_of(segment.write_key_of(body))
        try:
            messages = segment.messages_of(body, kind)
        except Malformed as fault:
            self._keep_malformed(slot, request, body, fault, source)
            return
        if source is None:
            source = self._source_of(messages.write_key)
        self._land(slot, request, messages.events, source, b'"success":true,')

    def _source_of(self, key: str | None) -> str:
        """The source of a key that stands in the body only; refused as it would have been by the head."""
        source = self.keys.of_key(key)
        if (refusal := self._too_fast(source)) is not None:
            raise refusal
        return source

    def _land(self, slot: Slot, request: Request, raws: Sequence[bytes | Raw], source: str, prefix: bytes) -> None:
        refused = self._append(request, raws, source)
        answer = b'{%b"received":%d,"accepted":%d,"refused":%d,"errors":%b}' % (
            prefix,
            len(raws),
            len(raws) - len(refused),
            len(refused),
            _errors(refused) if refused else b"[]",
        )
        self._answer_when_durable(slot, request, partial(slot.answer, 200, answer, _JSON), 200)

    def _keep_malformed(self, slot: Slot, request: Request, body: bytes, fault: Malformed, source: str | None) -> None:
        """A body that cannot be cut into events: landed as one event that is no JSON, answered 400."""
        if source is None:
            source = self.keys.of_key(None)
        refusal = Refusal(
            400,
            "not_json",
            f"the body is not JSON from byte {fault.offset} on: {fault.message}",
            'send one event, a JSON array of events, or {"batch": [events]}',
            more={"offset": fault.offset},
        )
        if not body.strip():
            raise refusal
        self._append(request, [body], source)
        self._answer_when_durable(slot, request, partial(slot.refuse, refusal, CORS), 400)

    def _append(self, request: Request, raws: Sequence[bytes | Raw], source: str) -> list[tuple[int, Verdict]]:
        """Judge and append events, and count them; the refused ones with their places."""
        judged = take_in(raws, source, self._moment(request.headers), self.contracts.judge, self.writer)
        refused = judged.refused
        self.rates.spend(source, len(raws), monotonic())
        count = self.metrics
        count.received_bytes += len(request.body)
        count.received[source] += len(raws)
        if refused:
            count.refused[source] += len(refused)
            count.reasons.update(reason.code for _, verdict in refused for reason in verdict.reasons)
        return refused

    def _answer_when_durable(self, slot: Slot, request: Request, answer: Callable[[], None], status: int) -> None:
        self.waiting[slot] = request.started
        self.writer.commit().add_done_callback(partial(self._durable, slot, answer, status))

    def _durable(self, slot: Slot, answer: Callable[[], None], status: int, commit: "asyncio.Future[None]") -> None:
        started = self.waiting.pop(slot)
        now = monotonic()
        error = commit.exception()
        if error is None:
            self.last_durable = now
            self.metrics.requests[status] += 1
            self.metrics.observe(now - started)
            answer()
            return
        refusal = _not_written(str(error))
        self.failed(refusal)
        slot.refuse(refusal, CORS)

    def _moment(self, headers: dict[bytes, bytes]) -> Moment:
        told = headers.get(b"x-received-at")
        if told is not None and self.settings.accept_received_at:
            try:
                time = datetime.fromisoformat(told.decode("ascii"))
                if time.tzinfo is None:
                    raise ValueError("no offset")
                return moment_of(time)
            except (ValueError, OverflowError) as error:
                raise Refusal(
                    400,
                    "bad_received_at",
                    f"X-Received-At is no time: {error}",
                    "send RFC 3339 with an offset, such as 2026-01-31T23:59:59.123456Z",
                ) from None
        seconds, microseconds = divmod(self.clock.microseconds(), 1_000_000)
        start, hour = _second(seconds)
        return Moment(f"{start}.{microseconds:06d}Z", hour)

    # -- protection

    def overload(self) -> Refusal | None:
        """Why nothing can be taken in now, or None."""
        queued = self.writer.pending_bytes + self.server.receiving_bytes
        if queued > self.settings.collector_max_queued_bytes:
            return Refusal(
                503, "overloaded", f"{queued} bytes wait to be written", "send it again later", retry_after=1
            )
        if self.free_bytes is not None and self.free_bytes < self.settings.collector_min_free_bytes:
            return Refusal(
                503,
                "disk_nearly_full",
                f"{self.free_bytes} bytes are free on the disk",
                "send it again later",
                retry_after=10,
            )
        return None

    def _too_fast(self, source: str) -> Refusal | None:
        wait = self.rates.wait(source, monotonic())
        if not wait:
            return None
        limit = self.settings.collector_events_per_second
        return Refusal(
            429,
            "too_many_events",
            f"more than {limit:g} events a second",
            "send it again after Retry-After",
            retry_after=wait,
        )

    async def keep(self, seconds: float = 0.1) -> None:
        """Finish files in time, look at the disk, close what is slow; runs until cancelled."""
        turn = 0
        while True:
            try:
                if turn % 10 == 0:
                    self.server.sweep()
                    self.look_at_disk()
                self.writer.rotate()
                if self.writer.has_closing:
                    # Who appended before is told by a future of their own; a failure is told by /readyz.
                    self.writer.commit().add_done_callback(lambda done: done.exception())
            except Exception:
                log.exception("keeping the collector in order failed; it is tried again")
            turn += 1
            await asyncio.sleep(seconds)

    def look_at_disk(self) -> None:
        folder = self.writer.landing.root
        if folder is not None:
            self.free_bytes = shutil.disk_usage(folder).free

    # -- what it tells

    def _tell(self, slot: Slot, path: bytes) -> None:
        status, fields = 200, _JSON
        if path == b"/metrics":
            fields = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" + CORS
            body = text(self.gather(self.reading()))
        elif path == b"/readyz":
            ready, state = self.readiness()
            body = msgspec.json.encode(state)
            if not ready:
                status, fields = 503, _JSON + b"Retry-After: 1\r\n"
        elif path == b"/healthz":
            body = b'{"alive":true}'
        else:
            places = [f"POST {place.decode()}" for place in sorted(_POSTS)] + [
                "GET /healthz",
                "GET /readyz",
                "GET /metrics",
            ]
            body = msgspec.json.encode({"collector": "dataplatform", "places": places})
        self.metrics.requests[status] += 1
        slot.answer(status, body, fields)

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether events are taken in now, and the state behind it. Broken contracts are told; they stop nothing."""
        overload = self.overload()
        failing = self.writer.last_failure
        if failing is not None and monotonic() - self.writer.last_failure_at > FAILURE_SECONDS:
            failing = None  # only a new attempt can tell
        state = {
            "ready": overload is None and failing is None and not self.server.stopping,
            "overload": None if overload is None else overload.detail,
            "write_failure": failing,
            "contracts": {
                "in_force": len(self.contracts.contracts.events),
                "problems": [str(problem) for problem in self.contracts.problems[:100]],
                "failure": self.contracts.failure,
            },
        }
        return bool(state["ready"]), state

    def reading(self) -> Reading:
        """This process's metrics."""
        oldest = next(iter(self.waiting.values()), None)
        gauges = {
            "collector_connections": len(self.server.connections),
            "collector_queued_bytes": self.writer.pending_bytes + self.server.receiving_bytes,
            "collector_open_file_age_seconds": self.writer.oldest_open_seconds,
            "collector_lag_seconds": 0.0 if oldest is None else monotonic() - oldest,
            "collector_contracts": len(self.contracts.contracts.events),
            "collector_contract_problems": len(self.contracts.problems) + (self.contracts.failure is not None),
            "collector_write_failing": float(self.writer.last_failure is not None),
            "collector_commits_total": self.writer.commits,
            "collector_finished_files_total": self.writer.finished_files,
            "collector_aborted_requests_total": self.server.aborted,
        }
        if self.free_bytes is not None:
            gauges["collector_free_bytes"] = self.free_bytes
        return self.metrics.reading(gauges)


@lru_cache(maxsize=4)
def _second(seconds: int) -> tuple[str, datetime]:
    time = datetime.fromtimestamp(seconds, UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S"), time.replace(minute=0, second=0)


def _errors(refused: list[tuple[int, Verdict]]) -> bytes:
    left = MAX_ANSWERED_REASONS
    errors: list[dict[str, Any]] = []
    for index, verdict in refused:
        told = verdict.reasons[: max(0, left)]
        left -= len(told)
        error: dict[str, Any] = {
            "index": index,
            "event_id": verdict.event_id,
            "event": verdict.event,
            "errors": [{"pointer": reason.path, "code": reason.code, "message": reason.message} for reason in told],
        }
        if len(told) < len(verdict.reasons):
            error["not_shown"] = len(verdict.reasons) - len(told)
        errors.append(error)
    return msgspec.json.encode(errors)


def _no_such_place(method: bytes, path: bytes) -> Refusal:
    allowed = "POST, OPTIONS" if path in _POSTS else "GET, HEAD, OPTIONS" if path in _GETS else ""
    shown = f"{method.decode()} {path[:200].decode('latin-1')}"
    if allowed:
        return Refusal(405, "wrong_method", f"{shown} is not served", f"use {allowed}", headers=(("Allow", allowed),))
    return Refusal(404, "no_such_place", f"{shown} is not served", f"send up to {MAX_EVENTS} events to POST /v1/events")


def _not_written(detail: str) -> Refusal:
    return Refusal(
        503, "not_written", f"the events could not be made durable: {detail}", "send them again later", retry_after=2
    )
