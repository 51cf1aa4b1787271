"""Answers that were given: kept so that the same request gets the same answer, also after a kill, and landed before they go out.

Two steps, in this order: the answer and its record go into SQLite (whoever comes first with a request id wins, in any
process), then the record goes into the landing, with one fsync for all who wait. SQLite's own writes survive the kill of a
process, not the loss of power: what was landed and is missing there is read back at the start. Rows that are not marked as
landed are landed again: a record may be in the landing twice, never missing; `fraud.decisions` keeps one a request id.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..landing import Landing, Writer, hour_of

KEEP_HOURS = 72
"""How long a request id is remembered."""
SWEEP_SECONDS = 0.005
"""How often deadlines are looked at."""
READ_BACK_HOURS = 2
"""SQLite makes its writes durable every few thousand; two hours of traffic are more than that, or few enough to read."""
MAX_WAITING = 20_000
"""Decisions that may wait for the disk; more are answered 503."""


class BusyError(Exception):
    """Too many decisions wait for the disk, or it takes no more."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a request id has: the digest of the request and the landed line. `mine` where this request was the first.

    `landed` is false where the deadline came first; it goes on being landed.
    """

    digest: bytes
    record: bytes
    mine: bool
    landed: bool = True


@dataclass(slots=True)
class _Waiting:
    request_id: str
    digest: bytes
    record: bytes
    received: datetime
    late_at: float
    future: "asyncio.Future[Kept]"


class Answers:
    """The memory of one process, on a file that all processes of the service share."""

    def __init__(self, path: Path, landing: Landing, *, clock: Callable[[], int] | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = Writer(landing)
        self.landing = landing
        self.path = path
        self._clock = clock or (lambda: time.time_ns() // 1000)
        self._database = self._connect()
        self._reader = self._connect()
        self._thread = ThreadPoolExecutor(1, "answers")
        self._waiting: list[_Waiting] = []
        self._landed: list[str] = []
        self._running = False
        self._flying: dict[str, asyncio.Future[Kept]] = {}
        self.commits = 0
        self._committing: list[_Waiting] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._forgotten = 0.0

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS answers (request_id TEXT PRIMARY KEY, digest BLOB NOT NULL, record BLOB NOT NULL, received INTEGER NOT NULL, landed INTEGER NOT NULL) WITHOUT ROWID"
        )
        database.execute("CREATE INDEX IF NOT EXISTS answers_not_landed ON answers (received) WHERE landed = 0")
        database.execute("CREATE INDEX IF NOT EXISTS answers_received ON answers (received)")
        return database

    def record(self, request_id: str) -> bytes | None:
        """The record of a decision, None where there is none (any more)."""
        row = self._reader.execute("SELECT record FROM answers WHERE request_id = ?", (request_id,)).fetchone()
        return None if row is None else row[0]

    def flying(self, request_id: str) -> "asyncio.Future[Kept] | None":
        """The answer that is being made durable, of a request that comes a second time meanwhile."""
        return self._flying.get(request_id)

    def keep(
        self, request_id: str, digest: bytes, record: bytes, received: datetime, wait_seconds: float
    ) -> "asyncio.Future[Kept]":
        """A future that is done when the request id is durable and landed: with this record, or an earlier one.

        After `wait_seconds` it is done anyway, not landed, unless the id was there before.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise BusyError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Kept] = loop.create_future()
        late_at = loop.time() + max(wait_seconds, 0.0)
        self._waiting.append(_Waiting(request_id, digest, record, received, late_at, future))
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._answer_late, loop)
        self._flying[request_id] = future
        if not self._running:
            self._running = True
            loop.create_task(self._run())  # noqa: RUF006  # ends by itself; `close` waits for it
        return future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            self._committing = batch
            landed, self._landed = self._landed, []
            try:
                kept = await loop.run_in_executor(self._thread, self._store, batch, landed)
                for each, (to_land, one) in zip(batch, kept, strict=True):
                    if to_land:
                        self.writer.append(one.record, each.received)
                await self.writer.commit()
            except Exception as error:
                self._landed += landed
                for each in batch:
                    self._flying.pop(each.request_id, None)
                    if not each.future.done():
                        each.future.set_exception(BusyError(str(error)))
                        each.future.exception()
                continue
            self.commits += 1
            for each, (to_land, one) in zip(batch, kept, strict=True):
                if to_land:
                    self._landed.append(each.request_id)
                self._flying.pop(each.request_id, None)
                if not each.future.done():
                    each.future.set_result(one)
        self._committing = []
        self._running = False

    def _answer_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer those whose deadline has come; they go on being made durable, and who asks again waits for that."""
        now = loop.time()
        for each in (*self._committing, *self._waiting):
            if each.late_at <= now and not each.future.done():
                earlier = self._row(each.request_id)
                if earlier is not None and earlier[0] != each.digest:
                    continue  # a repetition of another process's request: only that one's answer will do
                if earlier is not None and earlier[1] != each.record:
                    each.future.set_result(Kept(*earlier, mine=False, landed=False))
                else:
                    each.future.set_result(Kept(each.digest, each.record, mine=True, landed=False))
                each.future = self._flying[each.request_id] = loop.create_future()
                each.late_at = now + 3600.0
        busy = self._committing or self._waiting
        self._sweep = loop.call_later(SWEEP_SECONDS, self._answer_late, loop) if busy else None

    def _row(self, request_id: str) -> tuple[bytes, bytes] | None:
        row: tuple[bytes, bytes] | None = self._reader.execute(
            "SELECT digest, record FROM answers WHERE request_id = ?", (request_id,)
        ).fetchone()
        return row

    def _store(self, batch: list[_Waiting], landed: list[str]) -> list[tuple[bool, Kept]]:
        """Runs in the thread: whether it has to be landed, and what the request id has, by whoever was first."""
        database = self._database
        kept = []
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany("UPDATE answers SET landed = 1 WHERE request_id = ?", [(each,) for each in landed])
            for each in batch:
                row = (each.request_id, each.digest, each.record, int(each.received.timestamp() * 1e6))
                fresh = database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, 0)", row).rowcount
                if fresh:
                    kept.append((True, Kept(each.digest, each.record, mine=True)))
                    continue
                digest, record, is_landed = database.execute(
                    "SELECT digest, record, landed FROM answers WHERE request_id = ?", (each.request_id,)
                ).fetchone()
                kept.append((not is_landed, Kept(digest, record, mine=False)))
            if time.monotonic() - self._forgotten > 600:
                self._forgotten = time.monotonic()
                before = self._clock() - KEEP_HOURS * 3_600_000_000
                database.execute("DELETE FROM answers WHERE received < ? AND landed = 1", (before,))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        return kept

    async def keep_landing(self) -> None:
        """Mark what was landed and finish files that are old enough, again and again: for a task of its own."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.5)
            if not self._running and not self._waiting:
                if self._landed:
                    landed, self._landed = self._landed, []
                    await loop.run_in_executor(self._thread, self._store, [], landed)
                self.writer.rotate()
                if self.writer.has_closing:
                    await self.writer.commit()

    def read_back(self, read: Callable[[bytes], tuple[str, bytes]], hours: int = READ_BACK_HOURS) -> int:
        """At the start: what the landing has and SQLite lost with the power; gives how many.

        `read` gives (request id, digest of the request) of a landed line.
        """
        found = 0
        hour = hour_of(datetime.fromtimestamp(self._clock() / 1e6, UTC))
        self._database.execute("BEGIN IMMEDIATE")
        for back in range(hours + 1):
            for file in self.landing.files(hour - timedelta(hours=back)):
                for line in self.landing.read(file).splitlines():
                    row = (*read(line), line, self._clock())
                    found += self._database.execute(
                        "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, 1)", row
                    ).rowcount
        self._database.execute("COMMIT")
        return found

    def land_again(self) -> int:
        """At the start: land what a killed process had kept and perhaps not landed; gives how many."""
        rows = self._database.execute(
            "SELECT request_id, record, received FROM answers WHERE landed = 0 ORDER BY received"
        ).fetchall()
        for _, record, received in rows:
            self.writer.append(record, datetime.fromtimestamp(received / 1e6, UTC))
        if rows:
            self.writer.flush()
            self._store([], [row[0] for row in rows])
        return len(rows)

    async def close(self) -> None:
        """Answer all who wait, finish the files."""
        while self._running or self._waiting:
            await asyncio.sleep(0.005)
        self._store([], self._landed)
        self.writer.close()
        self._thread.shutdown()
        self._database.close()
        self._reader.close()
