"""The capture: reads a unit's change stream, lands what it gives, and takes the snapshots that are due, beside it.

Order of a commit: the data files become durable, then the position file is replaced by compare-and-set. Whatever kills the
process in between makes the next one read those changes again, to the same positions.
"""

import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from queue import Empty, Full, Queue
from typing import Any

from pymongo import MongoClient
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    CursorNotFound,
    NotPrimaryError,
    OperationFailure,
    ProtocolError,
    PyMongoError,
)

from ..contracts.collections import CollectionContract
from ..errors import PlatformError
from ..landing import Landing
from ..settings import Settings
from . import connections
from .changes import time_text
from .events import landable
from .positions import Ordinals, Position
from .snapshot import run_snapshot
from .state import (
    CollectionState,
    FencedError,
    Lost,
    PositionFile,
    Snapshot,
    Unit,
    UnitState,
    floor_hour,
    landing_of,
    requested_snapshot,
)
from .stream import Batch, ChangeStream, HistoryLostError

_log = logging.getLogger(__name__)

MAX_BUFFERED_BYTES = 48 << 20
"""Uncompressed size of the records of a commit; what is kept in memory is compressed."""
MAX_BATCH_DOCUMENTS = 1000
BATCH_BYTES = 16 << 20
"""An answer holds as many changes as fit in about so many bytes by the size of the last ones, so that large documents stay few."""
RENEW_SECONDS = 5.0
"""A quiet stream commits this often: it renews the lease and says that its hours are complete."""
OPLOG_SECONDS = 600.0
LOOK_SECONDS = 2.0
"""How often contracts and requests are looked at."""
AGAIN_SECONDS = 60.0
"""After so long a snapshot that the source refused is tried again."""
GIVE_UP_SECONDS = 60.0
"""`--once` and `--until` end with an error when the source has not answered for this long; a service tries on."""

type Contracts = Mapping[str, CollectionContract]


@dataclass
class _Buffer:
    """Records of one collection and hour, compressed as they come."""

    landing: Landing
    rows: int = 0
    position: Position | None = None
    changed_at: int = 0
    compressor: Any = field(default_factory=lambda: zlib.compressobj(1, zlib.DEFLATED, 31))
    parts: list[bytes] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    def squeeze(self) -> int:
        """Compress what has come; how many bytes that was."""
        data = b"\n".join(self.lines) + b"\n"
        self.lines.clear()
        self.parts.append(self.compressor.compress(data))
        return len(data)

    def finish(self) -> bytes:
        return b"".join([*self.parts, self.compressor.flush()])


class Capture:
    """One process's work on one unit. `run` returns when what was asked for is done, or `stop` is set."""

    def __init__(
        self,
        settings: Settings,
        unit: Unit,
        contracts: Callable[[], Contracts],
        *,
        stop: threading.Event | None = None,
        owner: str = "cdc capture",
    ) -> None:
        """`contracts` gives the present contracts (of all units); it is asked again every LOOK_SECONDS."""
        self.settings = settings
        self.unit = unit
        self.positions = PositionFile(settings, unit)
        self.stop = stop or threading.Event()
        self.owner = owner
        self._all_contracts = contracts
        self._uri = connections.uri_of(settings, unit.connection)
        self._contracts: dict[str, CollectionContract] = {}
        self._landings: dict[str, Landing] = {}
        self._buffers: dict[tuple[str, datetime], _Buffer] = {}
        self._buffered = 0
        self._ordinals = Ordinals()
        self._token: str | None = None
        self._start_after = False
        self._passed: tuple[int, int] = (0, 0)
        self._resnapshots: dict[str, tuple[str, datetime]] = {}
        self._sequence = 0
        self._taken = 0
        self._rate_since = time.monotonic()
        self._looked = 0.0
        self._split = False
        self._batch_documents = MAX_BATCH_DOCUMENTS
        self._oplog: threading.Thread | None = None
        self._snapshots: threading.Thread | None = None
        self._snapshots_stop = threading.Event()
        self._snapshot_error: BaseException | None = None
        self._refused: dict[str, tuple[float, PlatformError]] = {}
        self._unread: dict[str, PlatformError] = {}

    # The whole.

    def run(self, *, once: bool = False, until: datetime | None = None) -> UnitState:
        """Capture. `once`: snapshots and the stream up to now; `until`: up to that time of the source; else until `stop`."""
        client = connections.connect(self.settings, self.unit.connection, uri=self._uri)
        try:
            now = connections.check(client, self.unit.connection, self._uri)
            self.positions.acquire(self.owner)
            try:
                self._load()
                goal = (now.time, now.inc) if once else None
                if until is not None:
                    goal = (int(until.timestamp()), 0)
                self._serve(client, goal, once=once)
                if goal is not None:
                    for refusal in [*self._unread.values(), *(refusal for _, refusal in self._refused.values())]:
                        raise refusal
                return self.positions.state
            finally:
                self._end_snapshots()
                self.positions.release()
        except PyMongoError as error:
            raise connections.source_error(error, self.unit.connection, self._uri) from error
        finally:
            client.close()

    def _load(self) -> None:
        state = self.positions.state
        self._token, self._start_after = state.token, state.start_after
        self._passed = state.passed
        self._ordinals = Ordinals.load(state.ordinals) if state.ordinals is not None else Ordinals()

    def _serve(self, client: MongoClient[dict[str, Any]], goal: tuple[int, int] | None, *, once: bool) -> None:
        silent_since: float | None = None
        while not self.stop.is_set():
            try:
                if self._stream(client, goal, once=once):
                    return
                silent_since = None
            except HistoryLostError as error:
                self._lost_history(client, str(error))
            except ProtocolError as error:
                # An answer larger than the protocol allows: a server that counts documents and not bytes.
                if self._batch_documents == 1:
                    raise
                self._batch_documents = 1
                _log.warning("%s: %s; reading one change at a time", self.unit.name, error)
            except OperationFailure as error:
                if not _again(error):
                    raise
                _log.warning(
                    "%s: %s; opening the stream again", self.unit.name, connections.redact(str(error), self._uri)
                )
            except (AutoReconnect, ConnectionFailure, CursorNotFound, NotPrimaryError) as error:
                silent_since = silent_since or time.monotonic()
                if goal is not None and time.monotonic() - silent_since > GIVE_UP_SECONDS:
                    raise
                _log.warning("%s: %s; trying again", self.unit.name, connections.redact(str(error), self._uri)[:200])
                self._renew()
                self.stop.wait(0.5)

    def _stream(self, client: MongoClient[dict[str, Any]], goal: tuple[int, int] | None, *, once: bool) -> bool:
        """Read one opened stream; True when the goal is reached, False to open it again."""
        self._look(client)
        if not self._contracts:
            if goal is not None:
                return True
            self.stop.wait(LOOK_SECONDS)
            return False
        opened_for = tuple(sorted(self._contracts))
        stream = ChangeStream(client, self.unit.database, _namespaces(self._contracts), split=self._split)
        stream.batch_documents = self._batch_documents
        if goal is not None:
            stream.await_milliseconds = 50  # nobody waits for changes to come: the end of the stream is looked for
        state = self.positions.state
        first = stream.open(token=self._token, start_after=self._start_after, start_at=state.start_at)
        self._note_oplog(client)
        reader = _Reader(stream)
        committed = time.monotonic()
        snapshots_ran = self._snapshots_due()
        try:
            self._take(first)
            self._start_snapshots(client)
            reader.start()
            while not self.stop.is_set():
                batch = reader.get(0.05 if goal is not None else 0.2)
                if batch is not None:
                    self._take(batch)
                    stream.batch_documents = self._batch_documents
                    if any(event["operationType"] == "invalidate" for event in batch.events):
                        self._start_after = True
                        self._commit()
                        return False
                if self._snapshot_error is not None:
                    raise self._snapshot_error
                elapsed = time.monotonic() - committed
                if once and snapshots_ran and not self._snapshots_due():
                    # What a snapshot read may be younger than the goal: the stream follows up to its end.
                    ended = connections.operation_time(client)
                    goal, snapshots_ran = max(goal or (0, 0), (ended.time, ended.inc)), False
                snapshots_ran = snapshots_ran or self._snapshots_due()
                reached = goal is not None and self._passed >= goal and not (once and snapshots_ran)
                if (
                    reached
                    or self._resnapshots
                    or self._buffered >= MAX_BUFFERED_BYTES
                    or (self._buffers and elapsed >= self.settings.cdc_commit_seconds)
                    or elapsed >= RENEW_SECONDS
                ):
                    self._commit()
                    committed = time.monotonic()
                    self._start_snapshots(client)
                if reached:
                    return True
                if time.monotonic() - self._looked >= LOOK_SECONDS:
                    self._look(client)
                    self._note_oplog(client)
                    if tuple(sorted(self._contracts)) != opened_for:
                        self._commit()
                        return False
                    self._start_snapshots(client)
            self._commit()
            return True
        finally:
            reader.close()
            self._split = stream.split

    # What the stream gives.

    def _take(self, batch: Batch) -> None:
        captured_at = time_text(time.time_ns() // 1_000_000)
        touched: set[tuple[str, datetime]] = set()
        for event in batch.events:
            for record in landable(event, self._ordinals, self._contracts, captured_at, batch.looked_up):
                hour = _hour(record.position.t)
                key = (record.namespace, hour)
                buffer = self._buffers.get(key)
                if buffer is None:
                    buffer = self._buffers[key] = _Buffer(self._landings[record.namespace])
                buffer.lines.append(record.line)
                buffer.rows += 1
                buffer.position = record.position
                buffer.changed_at = max(buffer.changed_at, record.changed_at)
                touched.add(key)
                if record.resnapshot is not None:
                    self._resnapshots[record.namespace] = (record.resnapshot, hour)
        size = sum(self._buffers[key].squeeze() for key in touched)
        self._buffered += size
        if batch.events:
            fits = max(1, BATCH_BYTES * len(batch.events) // max(size, 1))
            self._batch_documents = min(MAX_BATCH_DOCUMENTS, fits, 2 * self._batch_documents)
        self._taken += len(batch.events)
        self._token, self._start_after = batch.token, False
        if batch.passed is not None and batch.passed > self._passed:
            self._passed = batch.passed

    def _commit(self) -> None:
        """Data first, then the position."""
        epoch = self.positions.state.epoch
        for (_, hour), buffer in self._buffers.items():
            self._sequence += 1
            buffer.landing.put(hour, f"{epoch:06d}-{self._sequence:06d}.ndjson.gz", buffer.finish())
        now = time.monotonic()
        rate = self._taken / max(now - self._rate_since, 0.001)
        resnapshots = dict(self._resnapshots)

        def change(state: UnitState) -> None:
            state.token, state.start_after = self._token, self._start_after
            state.ordinals = self._ordinals.dump()
            state.passed = max(state.passed, self._passed)
            state.changes += self._taken
            state.rate = round(rate, 1)
            if self._token is not None:
                state.start_at = None
            for (namespace, _), buffer in sorted(self._buffers.items(), key=lambda item: item[0][1]):
                collection = state.collections[namespace]
                collection.position = str(buffer.position)
                at = datetime.fromtimestamp(buffer.changed_at / 1000, UTC)
                collection.changed_at = max(collection.changed_at or at, at)
                collection.changes += buffer.rows
                collection.missing = False
            for namespace, (reason, hour) in resnapshots.items():
                _want_snapshot(state, namespace, reason, blocks_from=hour, sweep=True)

        self.positions.commit(change)
        self._buffers.clear()
        self._buffered = 0
        self._taken = 0
        self._rate_since = now
        self._resnapshots.clear()

    def _renew(self) -> None:
        if self.positions.idle_seconds > RENEW_SECONDS:
            self.positions.commit(lambda state: None)  # noqa: ARG005

    # Lost history.

    def _lost_history(self, client: MongoClient[dict[str, Any]], reason: str) -> None:
        """The source forgot what follows the token: say how much, go on from now, and read every collection again.

        Until those snapshots have ended, no hour from the gap on is complete.
        """
        now = connections.operation_time(client)
        state = self.positions.state
        after, found = state.passed_at, datetime.fromtimestamp(now.time, UTC)
        if self._token is not None:
            self._commit()  # what came before the gap
        self._token, self._start_after = None, False
        _log.error(
            "%s: changes from %s to %s (%s) are lost at the source: %s. Every collection is read again beside its table.",
            *(self.unit.name, after.isoformat(), found.isoformat(), found - after, reason),
        )

        def change(state: UnitState) -> None:
            state.token, state.start_after = None, False
            state.start_at = (now.time, now.inc)
            state.lost.append(Lost(datetime.now(UTC), after, found, reason))
            for namespace in self._contracts:
                if namespace in state.collections:
                    _want_snapshot(state, namespace, "history lost", blocks_from=floor_hour(after), sweep=True)

        self.positions.commit(change)

    def _note_oplog(self, client: MongoClient[dict[str, Any]]) -> None:
        """Find out how far back the oplog goes, for the next commit; asked seldom and beside the stream, for a server may read its
        whole oplog to answer."""
        asked, now = self.positions.state.oplog_asked_at, datetime.now(UTC)
        asking = self._oplog is not None and self._oplog.is_alive()
        if asking or (asked is not None and now - asked < timedelta(seconds=OPLOG_SECONDS)):
            return

        def asked_now(state: UnitState) -> None:
            state.oplog_asked_at = now  # whether an answer comes or not: it may cost the source much

        self.positions.commit(asked_now)

        def ask() -> None:
            first, filled = oplog_first(client), oplog_filled(client)

            def note(state: UnitState) -> None:
                state.oplog_first, state.oplog_filled = first, filled

            with contextlib.suppress(FencedError):  # which the stream finds as well, and says; or all has ended
                self.positions.commit(note)

        self._oplog = threading.Thread(target=ask, name=f"oplog-{self.unit.name}", daemon=True)
        self._oplog.start()

    # Contracts, requests, snapshots.

    def _look(self, client: MongoClient[dict[str, Any]]) -> None:
        """Take up new contracts and requests for snapshots."""
        self._looked = time.monotonic()
        wanted = {name: one for name, one in self._all_contracts().items() if self.unit.serves(one)}
        new = [name for name in wanted if name not in self.positions.state.collections]
        for name, contract in wanted.items():
            if name not in self._landings:
                self._landings[name] = landing_of(self.settings, contract)
        if new or (self._token is None and self.positions.state.start_at is None):
            now = connections.operation_time(client)
            moment = datetime.fromtimestamp(now.time, UTC)

            def register(state: UnitState) -> None:
                if state.started_at is None:
                    state.started_at = moment
                if state.token is None and state.start_at is None:
                    state.start_at = (now.time, now.inc)
                    state.passed = max(state.passed, (now.time, now.inc))
                for name in new:
                    since = floor_hour(moment)
                    state.collections[name] = CollectionState(since)
                    # Its tables may have documents, of another connection's stream or of a position file that was removed.
                    _want_snapshot(state, name, "new collection", blocks_from=since, sweep=True)

            self.positions.commit(register)
            self._passed = max(self._passed, self.positions.state.passed)
        self._note_absent(wanted)
        self._contracts = wanted
        for name in wanted:
            try:
                request = requested_snapshot(self._landings[name])
            except PlatformError as error:  # of this collection only: the others go on
                if name not in self._unread:
                    _log.error("%s: %s", name, error)
                self._unread[name] = error
                continue
            self._unread.pop(name, None)
            if request is None:
                continue
            asked, why = request
            collection = self.positions.state.collections[name]
            known = [*collection.ended, *([collection.snapshot] if collection.snapshot else [])]
            if all(one.requested_at < asked for one in known):
                self.positions.commit(
                    lambda state, name=name, why=why, asked=asked: _want_snapshot(  # type: ignore[misc]
                        state, name, why, blocks_from=None, sweep=True, requested_at=asked
                    )
                )

    def _note_absent(self, wanted: Contracts) -> None:
        """A collection without a valid contract is not in the stream, which goes on without it: once it has one again, what was
        missed is made good by a snapshot beside its table."""
        known = self.positions.state.collections
        gone = [name for name, one in known.items() if name not in wanted and one.left is None] if wanted else []
        back = [name for name in wanted if known[name].left is not None]
        for name in gone:
            _log.warning("%s: no valid contract names it any more; the stream goes on without it", name)
        for name in back:
            _log.warning("%s: not read since %s; it is read again beside its table", name, known[name].left)
        if not gone and not back:
            return

        def change(state: UnitState) -> None:
            for name in gone:
                state.collections[name].left = state.passed_at
            for name in back:
                left, state.collections[name].left = state.collections[name].left, None
                assert left is not None
                reason = f"no contract named it from {left:%Y-%m-%d %H:%M:%S} UTC on"
                _want_snapshot(state, name, reason, blocks_from=floor_hour(left), sweep=True)

        self.positions.commit(change)

    def _snapshots_due(self) -> bool:
        return bool(self._resnapshots) or any(self._snapshot_due(name) for name in self._contracts)

    def _snapshot_due(self, name: str) -> bool:
        refused_at, _ = self._refused.get(name, (float("-inf"), None))
        if time.monotonic() - refused_at < AGAIN_SECONDS:
            return False
        return self.positions.state.collections[name].snapshot is not None

    def _start_snapshots(self, client: MongoClient[dict[str, Any]]) -> None:
        """One snapshot after the other, in a thread beside the stream, which by now reads their collections."""
        if self._snapshots is not None and self._snapshots.is_alive():
            return
        if self._snapshot_error is not None or not self._snapshots_due():
            return

        def work() -> None:
            try:
                for name, contract in sorted(self._contracts.items()):
                    if self._snapshots_stop.is_set():
                        return
                    if not self._snapshot_due(name):
                        continue
                    try:
                        run_snapshot(client, contract, self._landings[name], self.positions, self._snapshots_stop)
                        self._refused.pop(name, None)
                    except OperationFailure as error:  # of this collection only: the others go on
                        if _again(error):
                            raise
                        refusal = connections.source_error(error, self.unit.connection, self._uri)
                        _log.error("snapshot of %s: %s", name, refusal)
                        self._refused[name] = (time.monotonic(), refusal)
            except (ConnectionFailure, OperationFailure) as error:  # taken up again from the last chunk
                _log.warning("snapshots of %s: %s", self.unit.name, connections.redact(str(error), self._uri)[:200])
            except BaseException as error:  # raised again where the stream is read
                self._snapshot_error = error

        self._snapshots_stop.clear()
        self._snapshots = threading.Thread(target=work, name=f"snapshots-{self.unit.name}", daemon=True)
        self._snapshots.start()

    def _end_snapshots(self) -> None:
        self._snapshots_stop.set()
        if self._snapshots is not None:
            self._snapshots.join(timeout=30)
        if self._oplog is not None:
            self._oplog.join(timeout=2)


def _want_snapshot(
    state: UnitState,
    namespace: str,
    reason: str,
    *,
    blocks_from: datetime | None,
    sweep: bool,
    requested_at: datetime | None = None,
) -> None:
    """Replace a snapshot that runs, or begin a new one: the next generation, which reads the collection from its start."""
    collection = state.collections[namespace]
    running = collection.snapshot
    generation = max([one.generation for one in [*collection.ended, *([running] if running else [])]], default=0) + 1
    if running is not None and running.blocks_from is not None:
        blocks_from = min(blocks_from or running.blocks_from, running.blocks_from)
    collection.snapshot = Snapshot(
        generation, reason, requested_at or datetime.now(UTC), blocks_from=blocks_from, sweep=sweep
    )


def oplog_first(client: MongoClient[dict[str, Any]]) -> datetime | None:
    """Time of the oldest entry of the oplog, None where the user may not see it (`local` needs the role clusterMonitor)."""
    try:
        entry = client["local"]["oplog.rs"].find_one({}, {"ts": 1}, sort=[("$natural", 1)], max_time_ms=2000)
    except PyMongoError:
        return None
    return None if entry is None or "ts" not in entry else datetime.fromtimestamp(entry["ts"].time, UTC)


def oplog_filled(client: MongoClient[dict[str, Any]]) -> float | None:
    """How full the oplog is, 0 to 1; None where the server or the user's rights do not say. A young one is not full yet."""
    try:
        (found,) = client["local"]["oplog.rs"].aggregate([{"$collStats": {"storageStats": {}}}], maxTimeMS=2000)
    except (PyMongoError, ValueError):
        return None
    stats = found.get("storageStats", {})
    parts = [stats[part] / stats[limit] for part, limit in (("size", "maxSize"), ("count", "max")) if stats.get(limit)]
    return max(parts, default=None)


def _namespaces(contracts: Contracts) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((one.database, one.collection) for one in contracts.values()))


def _again(error: OperationFailure) -> bool:
    """Whether opening the stream again may help: the driver's own list of errors to resume after."""
    return bool(error.has_error_label("ResumableChangeStreamError") or error.code in _RESUMABLE or error.code == 10334)


_RESUMABLE = frozenset(
    {6, 7, 43, 63, 89, 91, 133, 150, 189, 234, 237, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436}
)

_EPOCH_HOURS: dict[int, datetime] = {}


def _hour(seconds: int) -> datetime:
    number = seconds // 3600
    hour = _EPOCH_HOURS.get(number)
    if hour is None:
        hour = _EPOCH_HOURS[number] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    return hour


class _Reader:
    """Asks for the next batch while the last one is being written down; holds one batch at most."""

    def __init__(self, stream: ChangeStream) -> None:
        self.stream = stream
        self._queue: Queue[Batch | BaseException] = Queue(maxsize=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="change-stream", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def get(self, timeout_seconds: float) -> Batch | None:
        try:
            item = self._queue.get(timeout=timeout_seconds)
        except Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self.stream.close()

    def _work(self) -> None:
        while not self._stop.is_set():
            item: Batch | BaseException
            try:
                item = self.stream.next()
            except BaseException as error:  # raised where the batches are taken
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except Full:
                    continue
            if isinstance(item, BaseException) or self.stream.invalidated:
                return


__all__ = ["Capture", "FencedError", "oplog_filled", "oplog_first"]
