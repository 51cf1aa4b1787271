"""Snapshots: a whole collection read in the order of `_id`, beside the stream, resumable after every chunk, never too fast."""

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from pymongo import ASCENDING, MongoClient
from pymongo.errors import ConnectionFailure, CursorNotFound, OperationFailure, ProtocolError
from pymongo.read_concern import ReadConcern

from ..contracts.collections import CollectionContract
from ..landing import Landing
from .changes import time_text
from .connections import operation_time
from .events import snapshot_line
from .extended_json import CODEC, canonical, parse
from .positions import Position
from .state import CollectionState, PositionFile, Snapshot, UnitState, floor_hour

_log = logging.getLogger(__name__)

BATCH_SECONDS = 1 / 32
"""One answer holds what the rate limit allows in so many seconds. It is read at once, and holds others at the source up meanwhile: short
answers are what keeps the slowest of the workload's requests as they were. MongoDB ends an answer at 16 MiB."""
CHUNK_BYTES = 32 << 20
_CURSOR_ATTEMPTS = 20


class Pace:
    """How fast documents may be read: a limit, lowered while the source answers slower than it did.

    The source's latency is that of a ping, asked at most once a second. When it is more than twice its lowest (and at least
    2 ms more), the rate is halved, down to a fiftieth of the limit; else it rises by a tenth.
    """

    def __init__(self, limit: float, ping: Callable[[], float], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.rate = limit
        self.lowest = float("inf")
        self._ping = ping
        self._clock = clock
        self._asked = clock()
        self._due = clock()

    def wait_seconds(self, documents: int) -> float:
        """How long to wait after this many documents before the next are read."""
        now = self._clock()
        if now - self._asked >= 1.0:
            self._asked = now
            latency = self._ping()
            self.lowest = min(self.lowest, latency)
            slow = latency > 2 * self.lowest and latency > self.lowest + 0.002
            self.rate = max(self.limit / 50, self.rate / 2) if slow else min(self.limit, self.rate * 1.1)
        self._due = max(self._due, now - 1.0) + documents / self.rate
        return max(0.0, self._due - now)


def read_in_order(
    client: MongoClient[dict[str, Any]], contract: CollectionContract, after: str | None
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The collection's documents in the order of `_id`, of any mix of types, from after a key (canonical text) on; each with
    the position that the source had reached when it was read.

    The index's own bounds (`min` with `hint`) cross types, which `$gt` does not. A lost cursor is opened again after the
    last document.
    """
    collection = client[contract.database].get_collection(
        contract.collection, codec_options=CODEC, read_concern=ReadConcern("majority")
    )
    attempts, batch = 0, int(max(1, min(1000, contract.snapshot.documents_per_second * BATCH_SECONDS)))
    while True:
        with client.start_session(
            causal_consistency=False
        ) as session:  # it knows the operation time of the last answer
            cursor = collection.find({}, batch_size=batch, session=session).sort("_id", ASCENDING)
            if after is not None:
                cursor = cursor.min([("_id", parse(after))]).hint([("_id", ASCENDING)])
            try:
                for document in cursor:
                    key = canonical(document["_id"])
                    if key == after:
                        continue
                    now = session.operation_time
                    yield document, None if now is None else str(Position.reached(now))
                    after, attempts = key, 0
                return
            except (ConnectionFailure, CursorNotFound) as error:
                attempts += 1
                if attempts > _CURSOR_ATTEMPTS:
                    raise
                _log.warning("snapshot of %s: the cursor was lost (%s); reading on", contract.namespace, error)
                time.sleep(min(5.0, 0.2 * attempts))
            except ProtocolError as error:
                # An answer larger than the protocol allows: a server that counts documents and not bytes.
                if batch == 1:
                    raise
                batch = max(1, batch // 10)
                _log.warning("snapshot of %s: %s; reading %d at a time", contract.namespace, error, batch)
            except OperationFailure as error:
                if error.code in _DROPPED_UNDER_IT:
                    return
                raise
            finally:
                cursor.close()


_DROPPED_UNDER_IT = frozenset({175, 237})
"""QueryPlanKilled, CursorKilled: the collection was dropped or renamed while it was read."""


def run_snapshot(
    client: MongoClient[dict[str, Any]],
    contract: CollectionContract,
    landing: Landing,
    positions: PositionFile,
    stop: threading.Event,
) -> None:
    """Take the collection's snapshot from where it stands to its end; returns early when asked to stop or it was replaced."""
    namespace = contract.namespace
    generation = _begin(client, contract, positions)
    if generation is None:
        return
    snapshot = _present(positions, namespace, generation)
    assert snapshot is not None
    assert snapshot.position is not None
    position = Position.parse(snapshot.position)
    pace = Pace(contract.snapshot.documents_per_second, lambda: _latency(client))
    epoch = positions.state.epoch
    number = snapshot.runs[-1][2] + 1 if snapshot.runs else 1
    chunk = _Chunk()

    def land() -> None:
        nonlocal number, chunk
        name = f"snapshots/{generation:04d}/{number:06d}-{epoch:06d}.ndjson.gz"
        data = chunk.finish()
        file = landing.conditional(name)
        present = file.read()  # left by this very process, when the commit after it failed
        file.write(data, None if present is None else present[1])
        landed, last, at = chunk, chunk.last_key, number

        def done(state: UnitState) -> None:
            one = state.collections[namespace].snapshot
            if one is None or one.generation != generation:
                return
            one.rows += landed.rows
            one.bytes += len(data)
            one.last_id = last
            if one.runs and one.runs[-1][0] == epoch:
                one.runs[-1] = (epoch, one.runs[-1][1], at)
            else:
                one.runs.append((epoch, at, at))

        positions.commit(done)
        number += 1
        chunk = _Chunk()

    since = 0
    for document, looked_up in read_in_order(client, contract, snapshot.last_id):
        chunk.add(document, position, looked_up)
        since += 1
        if chunk.rows >= contract.snapshot.chunk_documents or chunk.size >= CHUNK_BYTES:
            land()
            if _present(positions, namespace, generation) is None:
                return
        if since >= 25:
            if stop.wait(pace.wait_seconds(since)):
                return
            since = 0
    if stop.is_set():
        return
    if chunk.rows:
        land()
    ended = operation_time(client)

    def end(state: UnitState) -> None:
        collection = state.collections[namespace]
        one = collection.snapshot
        if one is None or one.generation != generation:
            return
        one.state, one.ended_at = "done", datetime.now(UTC)
        one.hour = floor_hour(datetime.fromtimestamp(max(ended.time, state.passed[0]), UTC))
        collection.ended.append(one)
        collection.snapshot = None

    positions.commit(end)
    _log.info(
        "snapshot %d of %s: %d documents", generation, namespace, positions.state.collections[namespace].ended[-1].rows
    )


def _begin(client: MongoClient[dict[str, Any]], contract: CollectionContract, positions: PositionFile) -> int | None:
    """Token first: the snapshot's position is taken while the stream already reads the collection."""
    database = client[contract.database]
    missing = not database.list_collection_names(filter={"name": contract.collection})
    estimate = 0 if missing else database[contract.collection].estimated_document_count()
    now = operation_time(client)
    generation: int | None = None

    def begin(state: UnitState) -> None:
        nonlocal generation
        collection: CollectionState = state.collections[contract.namespace]
        collection.missing = missing
        one = collection.snapshot
        if one is None:
            return
        generation = one.generation
        one.estimate = estimate
        if one.position is None:
            one.position = str(Position.reached(now))
            one.started_at = datetime.now(UTC)
        else:
            one.restarts += 1
        one.state = "running"

    positions.commit(begin)
    if missing:
        _log.warning(
            "%s: the source has no such collection yet; check database and collection in its contract, or create it",
            contract.namespace,
        )
    return generation


def _present(positions: PositionFile, namespace: str, generation: int) -> Snapshot | None:
    collection = positions.state.collections.get(namespace)
    one = collection.snapshot if collection is not None else None
    return one if one is not None and one.generation == generation else None


def _latency(client: MongoClient[dict[str, Any]]) -> float:
    started = time.monotonic()
    client.admin.command({"ping": 1})
    return time.monotonic() - started


class _Chunk:
    """One file in the making, compressed as it grows."""

    def __init__(self) -> None:
        self.rows = 0
        self.size = 0
        self.last_key = ""
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
        self._parts: list[bytes] = []

    def add(self, document: dict[str, Any], position: Position, looked_up: str | None) -> None:
        line = snapshot_line(document, position, time_text(time.time_ns() // 1_000_000), looked_up) + b"\n"
        self.rows += 1
        self.size += len(line)
        self.last_key = canonical(document["_id"])
        self._parts.append(self._compressor.compress(line))

    def finish(self) -> bytes:
        return b"".join([*self._parts, self._compressor.flush()])
