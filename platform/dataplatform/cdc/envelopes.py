"""Change records of other engines: the JSON envelopes of Debezium's and Flink CDC's MongoDB connectors, as ours.

Whoever runs such an engine lands its messages, one a line; `dataplatform cdc import` (or a stream processor that calls
`record_of`) turns them into records of our form, and everything after the landing is the same.

Positions. Both envelopes carry the cluster time: Debezium as `source.ts_ms` and `source.ord` (the increment), Flink CDC as
`clusterTime`/`source.ts_ms`. Neither numbers the events of a transaction, so the ordinal is counted in the order of the lines, as in
our own capture; the messages of one collection must be read in their order (one partition a collection, or a key of the
collection's name), and each once: a message that the engine repeats within a transaction counts as another change.

A file that is imported again is known by its SHA-256 and counts from where it first did. Any other file goes on counting where
the first change of a collection in it has the cluster time of the collection's newest one (a transaction that was split between
two files), and else from zero. So the same transaction cut into other files must not be imported a second time.
"""

import gzip
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bson import Timestamp

from ..contracts.collections import CollectionContract
from ..errors import PlatformError
from ..settings import Settings
from .buckets import bucket_of
from .changes import Change, encode, time_text
from .extended_json import canonical, parse
from .positions import LAST_ORDINAL, Ordinals, Position
from .state import (
    CollectionState,
    ImportState,
    PositionFile,
    Unit,
    UnitState,
    announce_late,
    hour_of_position,
    landing_of,
)
from .stream import before

_log = logging.getLogger(__name__)

_DEBEZIUM = {"c": "insert", "u": "update", "d": "delete", "r": "snapshot"}
_FLINK = frozenset({"insert", "update", "replace", "delete", "drop", "rename", "dropDatabase"})


class EnvelopeError(PlatformError):
    """A message that is none of the envelopes known here."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One record of ours and where it belongs."""

    namespace: str
    position: Position
    line: bytes


@dataclass
class EnvelopeReader:
    """Reads the messages of one stream in their order. `captured_at` is RFC 3339 of when they were landed.

    `ordinals`: of each collection, for its messages may stand in files of its own, of any times.
    """

    captured_at: str
    ordinals: dict[str, Ordinals] = field(default_factory=dict)

    def read(self, messages: Iterable[bytes], where: str = "message") -> Iterator[Imported]:
        """Our records of these messages; tombstones (empty messages after a delete) and heartbeats give none."""
        for number, message in enumerate(messages, 1):
            if not message.strip() or message.strip() == b"null":
                continue
            try:
                data = json.loads(message)
            except (ValueError, RecursionError) as error:  # ValueError: also for bytes that are no UTF-8
                raise EnvelopeError(
                    f"not JSON: {error}", where=f"{where}:{number}", fix="give uncompressed files, one message a line"
                ) from None
            try:
                yield from self._one(data, f"{where}:{number}")
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise EnvelopeError(
                    f"a broken envelope: {type(error).__name__}: {error}",
                    where=f"{where}:{number}",
                    fix="land the engine's message as it came",
                ) from None

    def _one(self, data: Any, where: str) -> Iterator[Imported]:
        if isinstance(data, dict) and "schema" in data and "payload" in data:  # Kafka Connect's JSON with schemas
            data = data["payload"]
        if data is None:
            return
        if not isinstance(data, dict):
            raise EnvelopeError("not an object", where=where, fix="land Debezium's or Flink CDC's JSON")
        if "op" in data and "source" in data:
            yield self._debezium(data, where)
        elif data.get("operationType") in _FLINK:
            yield self._flink(data, where)
        elif "ts_ms" in data and len(data) == 1:  # Debezium's heartbeat
            return
        else:
            fix = "land the whole envelope: without the transform that unwraps `after`"
            raise EnvelopeError("neither Debezium's nor Flink CDC's envelope", where=where, fix=fix)

    def _debezium(self, data: dict[str, Any], where: str) -> Imported:
        """`before`, `after`, `updateDescription`, `source`, `op`, `ts_ms`; documents are Extended JSON texts."""
        source = data["source"]
        operation = _DEBEZIUM.get(data["op"])
        if operation is None:
            raise EnvelopeError(f"unknown op {data['op']!r}", where=where, fix="c, u, d and r are known")
        document = _document(data.get("after"))
        change = data.get("updateDescription")
        if operation == "update" and change is None and document is not None:
            operation = "replace"
        key = None
        if document is not None:
            key = canonical(document["_id"])
        elif data.get("before"):
            key = canonical(_must(_document(data["before"]), where)["_id"])
        elif data.get("_key") is not None:
            key = _key(data["_key"])
        if key is None:
            fix = "set capture.mode=change_streams_update_full_with_pre_image, or land the message's key as `_key`"
            raise EnvelopeError("a delete without its key", where=where, fix=fix)
        milliseconds = int(source["ts_ms"])
        cluster = Timestamp(milliseconds // 1000, int(source.get("ord") or 0))
        wall = source.get("wallTime")
        return self._record(
            operation,
            f"{source['db']}.{source['collection']}",
            key,
            document,
            time=cluster,
            milliseconds=int(wall) if wall else milliseconds,
            update=_description(change),
            transaction=_transaction(source),
        )

    def _flink(self, data: dict[str, Any], where: str) -> Imported:
        """A change stream event with Extended JSON texts in `documentKey`, `fullDocument`, and Debezium's `source`."""
        operation = str(data["operationType"])
        source = data.get("source") or {}
        if operation == "insert" and str(source.get("snapshot")) == "true":
            operation = "snapshot"
        ns = data["ns"]
        namespace = f"{ns['db']}.{ns.get('coll', '')}"
        cluster = _cluster_time(data.get("clusterTime"), source, data)
        milliseconds = int(source.get("ts_ms") or data.get("ts_ms") or 0) or cluster.time * 1000
        if operation in ("drop", "rename", "dropDatabase"):
            return self._record(operation, namespace, None, None, time=cluster, milliseconds=milliseconds)
        key_document = _must(_document(data.get("documentKey")), where)
        identity = key_document.get("_id", key_document)
        change = data.get("updateDescription")
        return self._record(
            operation,
            namespace,
            canonical(identity),
            _document(data.get("fullDocument")),
            time=cluster,
            milliseconds=milliseconds,
            update=_description(change),
        )

    def _record(
        self,
        operation: str,
        namespace: str,
        key: str | None,
        document: dict[str, Any] | None,
        *,
        time: Timestamp,
        milliseconds: int,
        update: str | None = None,
        transaction: str | None = None,
    ) -> Imported:
        if operation == "snapshot":
            position = Position(time.time, time.inc, LAST_ORDINAL)
        else:
            position = self.ordinals.setdefault(namespace, Ordinals()).next(time, namespace)
        change = Change(
            operation,
            key,
            str(position),
            time_text(milliseconds),
            self.captured_at,
            None if document is None or operation == "delete" else canonical(document),
            update,
            transaction,
            bucket=None if key is None else bucket_of(key),
        )
        return Imported(namespace, position, encode(change))


def import_envelopes(
    settings: Settings,
    contracts: Mapping[str, CollectionContract],
    connection: str,
    files: Iterable[Path],
) -> dict[str, int]:
    """Land the messages of these files, in their order, for the contracted collections of a connection; how many of each.

    The engine that wrote them is then the connection's capture: the position file says how far it is, so that its hours become
    complete, and our own capture is fenced off while this runs. Importing a file again, whole, in any order with others, lands the
    same positions again: see the module's text for what counts as the same file.
    """
    landings = {name: landing_of(settings, one) for name, one in contracts.items() if one.connection == connection}
    if not landings:
        raise PlatformError(
            f"no contract names the connection `{connection}`",
            where=str(settings.schemas_dir / "collections"),
            fix="check the name, or add a contract",
        )
    positions = PositionFile(settings, Unit(connection))
    state = positions.acquire("cdc import")
    reader = EnvelopeReader(time_text(time.time_ns() // 1_000_000))
    counts: dict[str, int] = {}
    strange: Counter[str] = Counter()
    last: dict[str, Position] = {}
    try:
        for sequence, file in enumerate(files, 1):
            lines: dict[tuple[str, datetime], list[bytes]] = {}
            read: dict[
                str, tuple[Position, Position]
            ] = {}  # first and greatest position of each collection in the file
            with file.open("rb") as messages:
                digest = hashlib.file_digest(messages, "sha256").hexdigest()
                messages.seek(0)
                reader.ordinals = _begin(positions.state.imports, digest)
                for one in reader.read(messages, where=str(file)):
                    if one.namespace not in landings:
                        strange[one.namespace] += 1
                        continue
                    lines.setdefault((one.namespace, hour_of_position(one.position)), []).append(one.line)
                    counts[one.namespace] = counts.get(one.namespace, 0) + 1
                    if one.position.ordinal != LAST_ORDINAL:
                        first, greatest = read.get(one.namespace, (one.position, one.position))
                        read[one.namespace] = first, max(greatest, one.position)
                        last[one.namespace] = one.position
            for (name, hour), some in lines.items():
                data = gzip.compress(b"\n".join(some) + b"\n", compresslevel=1, mtime=0)
                landings[name].put(hour, f"{state.epoch:06d}-{sequence:06d}-import.ndjson.gz", data)
                announce_late(landings[name], [hour])

            def change(
                state: UnitState,
                lines: dict[tuple[str, datetime], list[bytes]] = lines,
                digest: str = digest,
                read: dict[str, tuple[Position, Position]] = read,
            ) -> None:
                _end(state.imports, digest, read)
                for (name, hour), some in lines.items():
                    collection = state.collections.setdefault(name, CollectionState(hour))
                    collection.since = min(collection.since, hour)
                    collection.changes += len(some)
                    if name in last:
                        collection.position = str(last[name])
                newest = max(last.values(), default=None)
                if newest is not None:
                    state.passed = max(state.passed, before(Timestamp(newest.t, newest.i)))

            positions.commit(change)
    finally:
        positions.release()
    for name, count in sorted(strange.items()):
        _log.warning("%s: %d messages left out, for no contract of this connection names the collection", name, count)
    return counts


def _begin(imports: ImportState, digest: str) -> dict[str, Ordinals]:
    """Where the ordinals of a file's collections begin, if their first change has that cluster time."""
    if digest in imports.starts:
        begin = {name: Position.parse(text) for name, text in imports.starts[digest].items()}
    else:
        begin = {name: Position.parse(text) for name, text in imports.newest.items()}
        begin = {name: at._replace(ordinal=at.ordinal + 1) for name, at in begin.items()}
    return {name: Ordinals(at.t, at.i, {name: at.ordinal}) for name, at in begin.items()}


def _end(imports: ImportState, digest: str, read: Mapping[str, tuple[Position, Position]]) -> None:
    """Remember a file that was read: only what a second import of it could not tell by itself."""
    for name, (_, greatest) in read.items():
        imports.newest[name] = max(imports.newest.get(name, ""), str(greatest))
    imports.starts[digest] = {name: str(first) for name, (first, _) in read.items()}
    for known, begin in list(imports.starts.items()):
        kept = {
            name: text
            for name, text in begin.items()
            # A file that began with a cluster time begins at zero again by itself, once a later one was imported.
            if Position.parse(text).ordinal or Position.parse(text)[:2] == Position.parse(imports.newest[name])[:2]
        }
        if kept:
            imports.starts[known] = kept
        else:
            del imports.starts[known]


def _document(text: Any) -> dict[str, Any] | None:
    """A document of Extended JSON (canonical or relaxed), given as text or as an object."""
    if text is None or text == "":
        return None
    found = parse(text if isinstance(text, str) else json.dumps(text))
    return found if isinstance(found, dict) else None


def _description(change: Any) -> str | None:
    """The description of an update as a change stream tells it; the envelopes hold parts of it as texts."""
    if isinstance(change, str):
        change = json.loads(change) if change else None
    if not change:
        return None
    truncated = [
        {"field": one["field"], "newSize": int(one.get("newSize", one.get("size", 0)))}
        for one in change.get("truncatedArrays") or []
    ]
    return canonical(
        {
            "updatedFields": _document(change.get("updatedFields")) or {},
            "removedFields": list(change.get("removedFields") or []),
            "truncatedArrays": truncated,
        }
    )


def _must(document: dict[str, Any] | None, where: str) -> dict[str, Any]:
    if document is None:
        raise EnvelopeError("no key", where=where, fix="land the whole envelope")
    return document


def _key(text: Any) -> str:
    """Key of a Debezium message: `{"id": "<Extended JSON of the _id>"}`."""
    if isinstance(text, dict) and "id" in text:
        text = text["id"]
    return canonical(parse(text if isinstance(text, str) else json.dumps(text)))


def _transaction(source: dict[str, Any]) -> str | None:
    number = source.get("txnNumber")
    return None if number is None else f"{source.get('lsid') or ''}:{number}"


def _cluster_time(value: Any, source: dict[str, Any], data: dict[str, Any]) -> Timestamp:
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, dict) and "$timestamp" in value:
        return Timestamp(int(value["$timestamp"]["t"]), int(value["$timestamp"]["i"]))
    milliseconds = int(source.get("ts_ms") or data.get("ts_ms") or 0)
    return Timestamp(milliseconds // 1000, int(source.get("ord") or 0))
