"""Answers that were given: kept so that the same request gets the same answer, also after a kill, and landed before they go out.

Two steps, in this order: the answer and its record go into SQLite (whoever comes first with a request id wins, in any
process), then the record goes into the landing, with one fsync for all who wait. SQLite's own writes survive the kill of a
process, not the loss of power: what was landed and is missing there is read back at the start. Rows beyond what their writer
has marked as landed are landed again: a record may be in the landing twice, never missing; `fraud.decisions` keeps one a request id.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..landing import Landing, Writer, hour_of

KEEP_HOURS = 72
"""How long a request id is remembered."""
SWEEP_SECONDS = 0.005
"""How often deadlines are looked at."""
RETRY_SECONDS = 0.1
"""How long after SQLite refused an answer that a person has already, it is tried again."""
READ_BACK_HOURS = 2
"""SQLite makes its writes durable every few thousand; two hours of traffic are more than that, or few enough to read."""
MAX_WAITING = 20_000
"""Decisions that may wait for the disk; more are answered 503."""
_ROWS = 64
"""Rows of one INSERT."""
_FORGET_EACH = 2
"""For every id that comes so many may be forgotten: all that are old go, and nobody waits for many at once."""
_CHECKPOINT_SECONDS = 0.1
"""While a part of the log goes to the disk, what is landed waits for the disk as well: often and short, not seldom and long."""
_MOST_LOG_BYTES = 64 << 20
"""SQLite's log is begun anew beyond this; until then nobody waits for its pages to be written to the file."""
_LANDED = 0
"""The writer of rows that came out of the landing."""
_TABLES = f"""
CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
  received INTEGER NOT NULL, writer INTEGER NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS writers (writer INTEGER PRIMARY KEY AUTOINCREMENT, landed INTEGER NOT NULL);
INSERT OR IGNORE INTO writers VALUES ({_LANDED}, {2**62});
"""
"""Every process is a writer; its rows up to `landed` are in the landing."""
_INSERT = "INSERT OR IGNORE INTO kept (request_id, digest, received, writer, record) VALUES (?, ?, ?, ?, ?)"
_SELECT = "SELECT digest, record, id <= landed FROM kept JOIN writers USING (writer) WHERE request_id = ?"
_FORGET = (
    "DELETE FROM kept WHERE id IN (SELECT id FROM kept ORDER BY id LIMIT ?) AND received < ?"
    " AND id <= (SELECT landed FROM writers WHERE writers.writer = kept.writer)"
)


log = logging.getLogger(__name__)


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
        self._tidy = self._connect()
        self._number: int = self._database.execute(
            "INSERT INTO writers (landed) VALUES (0) RETURNING writer"
        ).fetchone()[0]
        self._thread = ThreadPoolExecutor(1, "answers")
        self._waiting: list[_Waiting] = []
        self._landed = self._marked = 0
        """Up to which row this process's decisions are landed, and up to which SQLite knows it."""
        self._to_land: list[tuple[bytes, datetime]] = []
        """Records whose landing failed: they go with the next ones."""
        self._running = False
        self._flying: dict[str, asyncio.Future[Kept]] = {}
        self._late: dict[str, Kept] = {}
        """What was answered before it was durable: the same again, until it is."""
        self._closing = False
        self.commits = 0
        self._committing: list[_Waiting] = []
        self._sweep: asyncio.TimerHandle | None = None

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")  # one who commits would wait for it: see `checkpoint`
        database.executescript(_TABLES)
        return database

    def record(self, request_id: str) -> bytes | None:
        """The record of a decision, None where there is none (any more)."""
        row = self._row(request_id)
        return None if row is None else row[1]

    def flying(self, request_id: str, wait_seconds: float) -> "asyncio.Future[Kept] | None":
        """The answer that is being made durable, of a request that comes a second time meanwhile.

        After `wait_seconds` it is the one that was given already, not landed.
        """
        flying, late = self._flying.get(request_id), self._late.get(request_id)
        if flying is None or late is None:
            return flying
        return asyncio.ensure_future(self._within(flying, late, wait_seconds))

    async def _within(self, flying: "asyncio.Future[Kept]", late: Kept, wait_seconds: float) -> Kept:
        with suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(flying), max(wait_seconds, 0.0))
        return late

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
            again, self._to_land = self._to_land, []
            stored = False
            try:
                kept, last = await loop.run_in_executor(self._thread, self._store, batch, self._landed)
                stored = True
                again += [
                    (one.record, each.received) for each, (to_land, one) in zip(batch, kept, strict=True) if to_land
                ]
                for record, received in again:
                    self.writer.append(record, received)
                await self.writer.commit()
            except Exception as error:
                self._to_land = again
                given = [] if stored else [each for each in batch if each.request_id in self._late]
                if self._closing:  # the next start reads them out of the landing
                    self._to_land += [(each.record, each.received) for each in given]
                elif given:
                    self._waiting = given + self._waiting
                retried = set() if self._closing else {each.request_id for each in given}
                for each in batch:
                    if each.request_id in retried:
                        continue
                    self._no_longer_flies(each)
                    if not each.future.done():
                        each.future.set_exception(BusyError(str(error)))
                        each.future.exception()
                if retried:
                    self._committing = []
                    await asyncio.sleep(RETRY_SECONDS)
                continue
            self.commits += 1
            self._landed = max(self._landed, last)
            for each, (_, one) in zip(batch, kept, strict=True):
                self._no_longer_flies(each)
                if not each.future.done():
                    each.future.set_result(one)
        self._committing = []
        self._running = False

    def _no_longer_flies(self, waiting: _Waiting) -> None:
        self._flying.pop(waiting.request_id, None)
        self._late.pop(waiting.request_id, None)

    def _answer_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer those whose deadline has come; they go on being made durable, also where SQLite refuses at first."""
        now = loop.time()
        for each in (*self._committing, *self._waiting):
            if each.late_at <= now and not each.future.done():
                earlier = self._row(each.request_id)
                if earlier is not None and earlier[0] != each.digest:
                    continue  # a repetition of another process's request: only that one's answer will do
                if earlier is not None and earlier[1] != each.record:
                    late = Kept(*earlier, mine=False, landed=False)
                else:
                    late = Kept(each.digest, each.record, mine=True, landed=False)
                each.future.set_result(late)
                self._late[each.request_id] = late
                each.future = self._flying[each.request_id] = loop.create_future()
                each.late_at = now + 3600.0
        busy = self._committing or self._waiting
        self._sweep = loop.call_later(SWEEP_SECONDS, self._answer_late, loop) if busy else None

    def _row(self, request_id: str) -> tuple[bytes, bytes] | None:
        row: tuple[bytes, bytes] | None = self._reader.execute(
            "SELECT digest, record FROM kept WHERE request_id = ?", (request_id,)
        ).fetchone()
        return row

    def _store(self, batch: list[_Waiting], landed: int) -> tuple[list[tuple[bool, Kept]], int]:
        """Runs in the thread: whether each has to be landed, and what its request id has, by whoever was first; the last row.

        The rows go in by few statements: the thread needs the interpreter between two of them, and would wait for it.
        """
        database = self._database
        kept: list[tuple[bool, Kept]] = []
        last = 0
        database.execute("BEGIN IMMEDIATE")
        try:
            if landed > self._marked:
                database.execute("UPDATE writers SET landed = ? WHERE writer = ?", (landed, self._number))
            for start in range(0, len(batch), _ROWS):
                part = batch[start : start + _ROWS]
                values: list[Any] = []
                for each in part:
                    received = int(each.received.timestamp() * 1e6)
                    values += (each.request_id, each.digest, received, self._number, each.record)
                row = database.execute(_INSERT + ", (?, ?, ?, ?, ?)" * (len(part) - 1), values)
                if row.rowcount == len(part):
                    kept += [(True, Kept(each.digest, each.record, mine=True)) for each in part]
                else:
                    kept += [self._winner(each) for each in part]
                if row.rowcount:
                    last = row.lastrowid or last
            database.execute(_FORGET, (_FORGET_EACH * len(batch), self._clock() - KEEP_HOURS * 3_600_000_000))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        self._marked = max(self._marked, landed)
        return kept, last

    def _winner(self, waiting: _Waiting) -> tuple[bool, Kept]:
        digest, record, is_landed = self._database.execute(_SELECT, (waiting.request_id,)).fetchone()
        return not is_landed, Kept(digest, record, mine=record == waiting.record)

    async def keep_landing(self) -> None:
        """Mark what was landed and finish files that are old enough, again and again: for a task of its own."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.5)
            if not self._running and not self._waiting:
                try:
                    if self._landed > self._marked:
                        await loop.run_in_executor(self._thread, self._store, [], self._landed)
                    self.writer.rotate()
                    if self.writer.has_closing:
                        await self.writer.commit()
                except Exception as error:  # of the disk or the object store: tried again with the next look
                    log.error("files of decisions could not be finished: %s", error)

    def checkpoint(self) -> None:
        """Bring SQLite's log into its file beside those who write, and begin it anew where it has become long: then they wait."""
        self._tidy.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        with suppress(FileNotFoundError):
            if self.path.with_name(f"{self.path.name}-wal").stat().st_size > _MOST_LOG_BYTES:
                self._tidy.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    async def keep_log_short(self) -> None:
        """`checkpoint` again and again: for a task of its own."""
        while True:
            await asyncio.sleep(_CHECKPOINT_SECONDS)
            with suppress(sqlite3.Error):  # the disk's failures are told where decisions are kept
                await asyncio.to_thread(self.checkpoint)

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
                    request_id, digest = read(line)
                    row = (request_id, digest, self._clock(), _LANDED, line)
                    found += self._database.execute(_INSERT, row).rowcount
        self._database.execute("COMMIT")
        return found

    def land_again(self) -> int:
        """At the start: land what a killed process had kept and perhaps not landed; gives how many."""
        rows = self._database.execute(
            "SELECT id, record, received FROM kept JOIN writers USING (writer) WHERE id > landed AND writer != ? ORDER BY id",
            (self._number,),
        ).fetchall()
        for _, record, received in rows:
            self.writer.append(record, datetime.fromtimestamp(received / 1e6, UTC))
        if rows:
            self.writer.flush()
            self._database.execute(
                "UPDATE writers SET landed = max(landed, ?) WHERE writer != ?", (rows[-1][0], self._number)
            )
        return len(rows)

    async def close(self) -> None:
        """Answer all who wait, finish the files."""
        self._closing = True
        while self._running or self._waiting:
            await asyncio.sleep(0.005)
        for record, received in self._to_land:
            self.writer.append(record, received)
        self.writer.close()
        self._store([], self._landed)
        self._thread.shutdown()
        self._database.close()
        self._reader.close()
        self._tidy.close()
