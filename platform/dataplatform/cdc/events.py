"""From the events of a change stream to landed records: pure, one event at a time, in the stream's order."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from .buckets import bucket_of
from .changes import Change, encode, time_text, transaction_text
from .extended_json import canonical
from .positions import Ordinals, Position


class Landable(NamedTuple):
    """One record and where it belongs. `resnapshot`: the collection got documents without events (a rename onto it)."""

    namespace: str
    position: Position
    changed_at: int
    line: bytes
    resnapshot: str | None = None


def landable(
    event: Mapping[str, Any],
    ordinals: Ordinals,
    namespaces: Collection[str],
    captured_at: str,
    looked_up: str | None = None,
) -> Iterator[Landable]:
    """The records of one event: one, or for a rename or a dropped database one for every contracted collection it touches.

    `ordinals` counts on. `looked_up`: position that the source had reached when it looked the documents of updates up. `changed_at` (milliseconds since 1970) is the wall time, or the cluster time where the server
    gives none (before MongoDB 6.0).
    """
    operation: str = event["operationType"]
    time = event["clusterTime"]
    wall = event.get("wallTime")
    milliseconds = int(wall) if wall is not None else time.time * 1000
    changed_at = time_text(milliseconds)
    ns = event.get("ns")
    if ns is None:
        return
    database = ns["db"]
    namespace = f"{database}.{ns.get('coll', '')}"
    if operation in _DOCUMENT:
        if namespace not in namespaces:
            return
        position = ordinals.next(time, namespace)
        key = canonical(event["documentKey"]["_id"])
        document = event.get("fullDocument")
        description = event.get("updateDescription")
        change = Change(
            operation,
            key,
            str(position),
            changed_at,
            captured_at,
            None if document is None else canonical(document),
            None if description is None else canonical(description),
            transaction_text(event) if "txnNumber" in event else None,
            None,
            bucket_of(key),
            looked_up if operation == "update" else None,
        )
        yield Landable(namespace, position, milliseconds, encode(change))
        return
    touched: list[tuple[str, str | None]] = []
    if operation == "drop":
        touched = [(namespace, None)]
    elif operation == "dropDatabase":
        touched = [(name, None) for name in sorted(namespaces) if name.startswith(f"{database}.")]
    elif operation == "rename":
        to = f"{event['to']['db']}.{event['to']['coll']}"
        touched = [(namespace, None), (to, f"renamed from {namespace}")]
    for name, resnapshot in touched:
        if name not in namespaces:
            continue
        position = ordinals.next(time, name)
        detail = f"{event['to']['db']}.{event['to']['coll']}" if operation == "rename" else None
        change = Change(operation, None, str(position), changed_at, captured_at, detail=detail)
        yield Landable(name, position, milliseconds, encode(change), resnapshot)


_DOCUMENT = frozenset({"insert", "update", "replace", "delete"})


def snapshot_line(document: Mapping[str, Any], position: Position, captured_at: str, looked_up: str | None) -> bytes:
    """The record of a document that a snapshot read. It is as of `position` or later, up to `looked_up`; its time is the
    position's."""
    key = canonical(document["_id"])
    at = time_text(position.t * 1000)
    return encode(
        Change(
            "snapshot",
            key,
            str(position),
            at,
            captured_at,
            canonical(document),
            bucket=bucket_of(key),
            looked_up=looked_up,
        )
    )
