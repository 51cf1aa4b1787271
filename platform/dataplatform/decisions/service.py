"""The decision service without its HTTP: a body in, the bytes of an answer out."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from ..fraud.catalog import Catalog, load_catalog
from ..fraud.document import suggestion
from ..fraud.facts import FactProblem
from ..landing import open_landing
from ..settings import Settings
from .answers import Answers, BusyError, Kept
from .bench import Benches
from .copies import LiveCopy
from .judge import (
    Answer,
    BadRequestError,
    FeatureSource,
    Record,
    judge,
    landed_line,
    look_up,
    read_given,
    read_request,
    record_of,
)
from .sources import open_sources

type Done = Callable[[bytes | BadRequestError], None]
"""Told the bytes of an answer, or what is wrong."""

STREAM = "decisions"
_encode = msgspec.json.Encoder().encode
_NOT_LANDED = (b'"landed":true', b'"landed":false')


def digest_of_request(event: str, entities: Mapping[str, str], facts: Mapping[str, Any]) -> bytes:
    """Tells one request from another under the same id; the order of keys and the deadline do not count."""
    return hashlib.blake2b(msgspec.json.encode([event, entities, facts], order="sorted"), digest_size=16).digest()


def _landed_request(line: bytes) -> tuple[str, bytes]:
    record = record_of(line)
    digest = digest_of_request(record.answer.event, record.entities, record.given)
    return record.request_id, digest


class DecisionService:
    """One process of the service."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog | None = None,
        sources: Mapping[str, FeatureSource] | None = None,
    ) -> None:
        self.settings = settings
        self.catalog = catalog or load_catalog(settings.schemas_dir)
        self.benches = Benches(settings, self.catalog)
        self.copy = LiveCopy(settings, self.benches)
        self.sources = sources or open_sources(settings, self.catalog.entities)
        self.answers = Answers(settings.data_dir / "fraud" / "answers.sqlite", open_landing(settings, STREAM))
        self.counts: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Finish what a predecessor left, load what is in force, and keep both up to date."""
        await asyncio.to_thread(self.answers.landing.finish_dead)
        await asyncio.to_thread(self.answers.read_back, _landed_request)
        await asyncio.to_thread(self.answers.land_again)
        await asyncio.to_thread(self.benches.load)
        answers = self.answers
        for keep in (self.benches.watch(), answers.keep_landing(), answers.keep_log_short(), self.copy.watch()):
            self._tasks.append(asyncio.create_task(keep))

    async def stop(self) -> None:
        """Answer all who wait, finish the files."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.answers.close()

    async def decide(self, body: bytes, client: str) -> bytes:
        """The answer to a body, as `begin` tells it."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(outcome: bytes | BadRequestError) -> None:
            if isinstance(outcome, bytes):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

        self.begin(body, client, done)
        return await future

    def begin(self, body: bytes, client: str, done: Done) -> None:
        """Decide, and tell `done` the answer as soon as it is durable (or late); never before this returns.

        The same request id gets the same bytes; with another body it is a 409. BadRequestError says what is wrong with the
        request, 503 that the disk takes no more.
        """
        started = time.perf_counter()
        request = read_request(body)
        digest = digest_of_request(request.event, request.entities, request.facts)
        answers = self.answers
        bench = self.benches.by_event.get(request.event)
        if bench is None:
            near = suggestion(request.event, self.benches.by_event)
            fix = f"write {near}" if near else f"one of {', '.join(self.benches.by_event)}"
            problem = FactProblem("/event", "unknown_event", f"no policy judges {request.event}", fix)
            raise BadRequestError(422, "The request has mistakes.", [problem])
        deadline = (request.deadline_ms or bench.typed.policy.deadline_ms) / 1000
        flying = answers.flying(request.request_id, deadline)
        if flying is not None:
            flying.add_done_callback(partial(self._repeated, request.request_id, digest, done))
            return
        given = read_given(bench, request)
        now = datetime.now(UTC)
        facts, down = look_up(bench, request, self.sources, time.time_ns() // 1000, started + deadline)
        facts |= given
        spent = time.perf_counter() - started
        judged = judge(
            bench,
            request,
            facts,
            client=client,
            received=now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            down=down,
            late=spent > deadline,
            latency_ms=round(1000 * spent, 3),
        )
        level = judged.answer.level
        self.counts[level] = self.counts.get(level, 0) + 1
        if judged.answer.fallback:
            key = f"fallback_{judged.answer.fallback}"
            self.counts[key] = self.counts.get(key, 0) + 1
        rest = deadline - (time.perf_counter() - started)
        try:
            durable = answers.keep(request.request_id, digest, landed_line(judged.record), now, rest)
        except BusyError:
            raise BadRequestError(503, "Too many decisions wait for the disk.") from None
        durable.add_done_callback(partial(self._decided, judged.answer, digest, done))

    def _decided(self, answer: Answer, digest: bytes, done: Done, durable: "asyncio.Future[Kept]") -> None:
        if durable.cancelled() or durable.exception() is not None or not durable.result().mine:
            self._repeated(answer.request_id, digest, done, durable)
            return
        if durable.result().landed:
            done(_encode(answer))
            return
        # The person does not wait for the disk: the answer says that it is not landed yet, and it goes on being.
        self.counts["not_landed"] = self.counts.get("not_landed", 0) + 1
        done(_encode(answer).replace(*_NOT_LANDED))

    def _repeated(self, request_id: str, digest: bytes, done: Done, durable: "asyncio.Future[Kept]") -> None:
        """The answer that a request id has; 409 where it is another request's."""
        if durable.cancelled() or (error := durable.exception()) is not None:
            reason = "the service stops" if durable.cancelled() else error
            done(BadRequestError(503, f"The decision could not be made durable: {reason}"))
            return
        kept = durable.result()
        if kept.digest != digest:
            problem = FactProblem(
                "/request_id", "conflict", f"{request_id} was another request", "give every request its own id"
            )
            done(BadRequestError(409, "The request id was used before, with another body.", [problem]))
            return
        answer = _encode(record_of(kept.record).answer)
        done(answer if kept.landed else answer.replace(*_NOT_LANDED))

    def record(self, request_id: str) -> Record | None:
        """The record of a decision."""
        raw = self.answers.record(request_id)
        return None if raw is None else record_of(raw)
