"""One change stream, read by plain commands: batches with their resume token and the source's time.

Commands instead of the driver's cursor, because the answers also carry the operation time (which tells how far an empty batch
reaches) and come as whole batches. The resume token is opaque here, always: it is kept and handed back, never read.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bson import Int64, Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from .extended_json import CODEC, canonical, parse
from .positions import Position

HISTORY_LOST = frozenset({286, 280})
"""ChangeStreamHistoryLost, ChangeStreamFatalError."""
_TOO_LARGE = 10334
AWAIT_MILLISECONDS = 500


class HistoryLostError(Exception):
    """The source no longer has what follows the resume token."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one answer gave: events, the token that stands after them, and a time before which nothing more will come.

    `passed` is None where this batch tells no new one. `looked_up` is the position that the source had reached when it
    answered: the documents of updates were read at it or before. None where the source does not say.
    """

    events: list[dict[str, Any]]
    token: str
    passed: tuple[int, int] | None
    looked_up: str | None = None


@dataclass
class ChangeStream:
    """The change stream of a deployment, or of one database, filtered to some collections."""

    client: MongoClient[dict[str, Any]]
    database: str | None
    namespaces: tuple[tuple[str, str], ...]
    batch_documents: int = 1000
    await_milliseconds: int = AWAIT_MILLISECONDS
    split: bool = False
    """Ask the server to split events that are larger than 16 MiB (MongoDB 6.0.9 and later)."""
    _cursor: int = 0
    _seen: Timestamp | None = None
    _fragments: list[dict[str, Any]] = field(default_factory=list)

    def open(
        self, *, token: str | None = None, start_after: bool = False, start_at: tuple[int, int] | None = None
    ) -> Batch:
        """Begin after a token (canonical text), at a time, or now. HistoryLostError where the token is too old."""
        stage: dict[str, Any] = {"fullDocument": "updateLookup"}
        if self.database is None:
            stage["allChangesForCluster"] = True
        if token is not None:
            stage["startAfter" if start_after else "resumeAfter"] = parse(token)
        elif start_at is not None:
            stage["startAtOperationTime"] = Timestamp(*start_at)
        pipeline: list[dict[str, Any]] = [{"$changeStream": stage}, {"$match": match_of(self.namespaces)}]
        if self.split:
            pipeline.append({"$changeStreamSplitLargeEvent": {}})
        self._fragments.clear()
        self._seen = None
        return self._answer(
            {
                "aggregate": 1,
                "pipeline": pipeline,
                "cursor": {"batchSize": 0},
                "readConcern": {"level": "majority"},
            },
            "firstBatch",
        )

    def next(self) -> Batch:
        """The next batch; empty when nothing happened for half a second."""
        return self._answer(
            {
                "getMore": Int64(self._cursor),
                "collection": "$cmd.aggregate",
                "batchSize": self.batch_documents,
                "maxTimeMS": self.await_milliseconds,
            },
            "nextBatch",
        )

    def close(self) -> None:
        """Give the server's cursor up."""
        if self._cursor:
            with contextlib.suppress(PyMongoError):
                self._database.command({"killCursors": "$cmd.aggregate", "cursors": [Int64(self._cursor)]})
            self._cursor = 0

    @property
    def invalidated(self) -> bool:
        """Whether the server ended the stream (after an `invalidate` event)."""
        return self._cursor == 0

    @property
    def _database(self) -> Any:
        return self.client[self.database or "admin"]

    def _answer(self, command: Mapping[str, Any], part: str) -> Batch:
        try:
            answer = self._database.command(command, codec_options=CODEC)
        except OperationFailure as error:
            if error.code in HISTORY_LOST:
                raise HistoryLostError(str((error.details or {}).get("errmsg", error))) from error
            if error.code == _TOO_LARGE and not self.split:
                self.split = True  # the caller opens the stream again
            raise
        cursor = answer["cursor"]
        self._cursor = int(cursor["id"])
        events = self._whole(cursor[part])
        passed: tuple[int, int] | None = None
        if events:
            last = events[-1]["clusterTime"]
            passed = before(last)
        elif part == "nextBatch" and self._seen is not None and not self._fragments:
            # The stream was read to its end after the source had said this time.
            passed = (self._seen.time, self._seen.inc)
        now: Timestamp | None = answer.get("operationTime")
        self._seen = now or self._seen
        token = cursor.get("postBatchResumeToken") or events[-1]["_id"]
        return Batch(events, canonical(token), passed, None if now is None else str(Position.reached(now)))

    def _whole(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Events with those that came in fragments put together."""
        if not self.split and not self._fragments:
            return events
        whole = []
        for event in events:
            part = event.get("splitEvent")
            if part is None:
                whole.append(event)
                continue
            self._fragments.append(event)
            if part["fragment"] == part["of"]:
                joined: dict[str, Any] = {}
                for fragment in self._fragments:
                    joined |= fragment
                del joined["splitEvent"]
                self._fragments.clear()
                whole.append(joined)
        return whole


def before(time: Timestamp) -> tuple[int, int]:
    """The last moment before a cluster time."""
    return (time.time, time.inc - 1) if time.inc > 0 else (time.time - 1, 2**32 - 1)


def match_of(namespaces: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Filter of the stream: the collections' own events, renames onto them, and drops of their databases."""
    names = [{"db": database, "coll": collection} for database, collection in namespaces]
    databases = sorted({name["db"] for name in names})
    return {
        "$or": [
            {"ns": {"$in": names}},
            {"to": {"$in": names}},
            {"operationType": "dropDatabase", "ns.db": {"$in": databases}},
            {"operationType": "invalidate"},
        ]
    }
