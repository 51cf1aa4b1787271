"""Change records: one landed line each, and what many of them come to.

A record is one JSON object on one line, with the columns of CHANGES_SCHEMA. Anything may write them: our capture, or the readers of
other engines' envelopes (`envelopes.py`).
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec

type Operation = Literal["insert", "update", "replace", "delete", "snapshot", "drop", "rename", "dropDatabase"]

DOCUMENT_OPERATIONS = ("insert", "update", "replace", "delete", "snapshot")
BARRIER_OPERATIONS = ("drop", "rename", "dropDatabase")
"""After these the collection has no documents: whatever is older than their position is deleted."""

CHANGES_SCHEMA: tuple[dict[str, str], ...] = (
    {
        "name": "operation",
        "type": "STRING",
        "description": "insert, update, replace, delete, snapshot, drop, rename, …",
    },
    {
        "name": "_id",
        "type": "STRING",
        "description": "Canonical Extended JSON of the document's _id; null for drop, rename.",
    },
    {
        "name": "document",
        "type": "STRING",
        "description": "Canonical Extended JSON of the whole document, where known.",
    },
    {"name": "update", "type": "STRING", "description": "Canonical Extended JSON of the update's description."},
    {"name": "position", "type": "STRING", "description": "Cluster time and ordinal; orders as text."},
    {"name": "changed_at", "type": "TIMESTAMP", "description": "Wall time of the change at the source."},
    {"name": "captured_at", "type": "TIMESTAMP", "description": "When the capture read it."},
    {
        "name": "transaction",
        "type": "STRING",
        "description": "Session and number of its transaction, where it had one.",
    },
    {"name": "detail", "type": "STRING", "description": "Of a rename: the new name."},
    {"name": "bucket", "type": "DATE", "description": "Partition of the document's rows; see the rule in the docs."},
    {
        "name": "looked_up",
        "type": "STRING",
        "description": "Position of the source when the document was read, where it was not told with the change.",
    },
)
"""Columns of a landed record, in the API's form."""


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change. Texts are canonical Extended JSON; times are RFC 3339 in UTC; `bucket` is `YYYY-MM-DD`.

    `looked_up`: the document was not told with the change but read afterwards, when the source had reached this position; it
    holds every later change of the document up to there. Absent where the document is the one the change made, or where
    nobody knows.
    """

    operation: str
    key: str | None = msgspec.field(name="_id")
    position: str
    changed_at: str
    captured_at: str
    document: str | None = None
    update: str | None = None
    transaction: str | None = None
    detail: str | None = None
    bucket: str | None = None
    looked_up: str | None = None


_decoder = msgspec.json.Decoder(Change)
_encoder = msgspec.json.Encoder()


def decode(line: bytes) -> Change:
    """A landed line; msgspec.ValidationError or DecodeError where it is none."""
    return _decoder.decode(line)


def encode(change: Change) -> bytes:
    """The landed line (without its newline) of a change."""
    return _encoder.encode(change)


def time_text(milliseconds: int) -> str:
    """RFC 3339 text of milliseconds since 1970 (within the years 1 to 9999)."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class State(msgspec.Struct, frozen=True):
    """The latest state of one document: deleted (then `document` is None) or there; the position says since when.

    `last_document`: of a deleted one, the newest document that is known of it.
    """

    key: str
    document: str | None
    deleted: bool
    position: str
    last_document: str | None = None


def fold(changes: Iterable[Change], barriers: Iterable[str] = ()) -> dict[str, State]:
    """The newest state of every document, whatever the order of the changes and however often each of them comes.

    - The greatest position wins; of the same position read twice, the one captured last.
    - An update without its document says nothing of the state: the document has been deleted since (`updateLookup` looks
      when the event is read), and that later change is still to come.
    - Drop and rename are *barriers*: a change before one is a deletion at the barrier. `barriers` are those known already.
    """
    changes = list(changes)
    barrier = max([*barriers, *(c.position for c in changes if c.operation in BARRIER_OPERATIONS)], default="")
    newest: dict[str, tuple[str, str, Change]] = {}
    documents: dict[str, tuple[str, str, Change]] = {}
    for change in changes:
        if change.key is None or (change.operation == "update" and change.document is None):
            continue
        rank = (change.position, change.captured_at, change)
        known = newest.get(change.key)
        if known is None or rank[:2] > known[:2]:
            newest[change.key] = rank
        known = documents.get(change.key)
        if change.document is not None and (known is None or rank[:2] > known[:2]):
            documents[change.key] = rank
    states = {}
    for key, (position, _, change) in newest.items():
        deleted = position < barrier or change.operation == "delete"
        last = documents[key][2].document if deleted and key in documents else None
        states[key] = State(key, None if deleted else change.document, deleted, max(position, barrier), last)
    return states


def transaction_text(event: Mapping[str, Any]) -> str | None:
    """`<session>:<number>` of an event inside a transaction, else None."""
    number = event.get("txnNumber")
    if number is None:
        return None
    session = (event.get("lsid") or {}).get("id")
    return f"{bytes(session).hex() if isinstance(session, bytes) else ''}:{int(number)}"
