"""What a landed file holds: one record an event, as it was received."""

from datetime import datetime
from typing import Any

import msgspec

from .reasons import Reason

_REASON_FIELDS = [
    {"name": "path", "type": "STRING", "mode": "NULLABLE", "description": "JSON pointer into the event."},
    {"name": "code", "type": "STRING", "mode": "NULLABLE", "description": "What kind of thing is wrong."},
    {"name": "message", "type": "STRING", "mode": "NULLABLE", "description": "The same for people."},
]

STAGING_SCHEMA: list[dict[str, Any]] = [
    {"name": "received_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When the door took it in."},
    {"name": "source", "type": "STRING", "mode": "NULLABLE", "description": "Whose write key it came with."},
    {"name": "event", "type": "STRING", "mode": "REQUIRED", "description": "Event name as sent; empty if none."},
    {"name": "event_id", "type": "STRING", "mode": "NULLABLE", "description": "Event id as sent; null if none."},
    {"name": "payload", "type": "STRING", "mode": "REQUIRED", "description": "The event's JSON text as it arrived."},
    {
        "name": "faults",
        "type": "RECORD",
        "mode": "REPEATED",
        "description": "What the door found wrong in the text itself, without a contract.",
        "fields": _REASON_FIELDS,
    },
    {"name": "file", "type": "STRING", "mode": "REQUIRED", "description": "Name of the landed file."},
    {"name": "line", "type": "INTEGER", "mode": "REQUIRED", "description": "Line of the landed file, from 1."},
]
"""Columns of a landed file, in BigQuery's API form: what a load job is given."""

RECEIVED_SCHEMA: list[dict[str, Any]] = [
    {"name": "hour", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "received_at, cut to the hour (UTC)."},
    *STAGING_SCHEMA,
    {
        "name": "payload_digest",
        "type": "STRING",
        "mode": "REQUIRED",
        "description": "MD5 of the payload, in hex: tells a repeated body from another one under the same id.",
    },
    {
        "name": "refused",
        "type": "BOOLEAN",
        "mode": "REQUIRED",
        "description": "The faults alone refuse it, whatever its contract says.",
    },
]
"""Columns of `events_raw.received`; partitioned by hour, clustered by event and event_id."""

LOADS_SCHEMA: list[dict[str, Any]] = [
    {"name": "hour", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "A received hour."},
    {"name": "landing_digest", "type": "STRING", "mode": "REQUIRED", "description": "Manifest it was loaded from."},
    {"name": "loaded_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When, by the warehouse's clock."},
]
"""Columns of `events_raw.loads`; one row an hour that was loaded."""

REJECTED_SCHEMA: list[dict[str, Any]] = [
    {"name": "event_id", "type": "STRING", "mode": "NULLABLE", "description": "Event id as sent; null if none."},
    {"name": "event", "type": "STRING", "mode": "REQUIRED", "description": "Event name as sent; empty if none."},
    {"name": "hour", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "received_at, cut to the hour (UTC)."},
    {"name": "received_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When the door took it in."},
    {"name": "source", "type": "STRING", "mode": "NULLABLE", "description": "Whose write key it came with."},
    {"name": "payload", "type": "STRING", "mode": "REQUIRED", "description": "The event's JSON text as it arrived."},
    {
        "name": "contract_version",
        "type": "STRING",
        "mode": "NULLABLE",
        "description": "Version of the contract that refused it; null if no contract has the name.",
    },
    {
        "name": "reasons",
        "type": "RECORD",
        "mode": "REPEATED",
        "description": "All that is wrong with it.",
        "fields": _REASON_FIELDS,
    },
    {"name": "file", "type": "STRING", "mode": "REQUIRED", "description": "Name of the landed file."},
    {"name": "line", "type": "INTEGER", "mode": "REQUIRED", "description": "Line of the landed file, from 1."},
]
"""Columns of `events.rejected`; partitioned by hour, clustered by event."""

DUPLICATES_SCHEMA: list[dict[str, Any]] = [
    {"name": "event_id", "type": "STRING", "mode": "REQUIRED", "description": "The id that was seen before."},
    {"name": "event", "type": "STRING", "mode": "REQUIRED", "description": "Event name as sent."},
    {"name": "hour", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "received_at, cut to the hour (UTC)."},
    {"name": "received_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When this one was taken in."},
    {
        "name": "first_received_at",
        "type": "TIMESTAMP",
        "mode": "REQUIRED",
        "description": "When the first one of this id within the look-back was taken in.",
    },
    {
        "name": "conflicting",
        "type": "BOOLEAN",
        "mode": "REQUIRED",
        "description": "Its text differs from that of the first one within the look-back.",
    },
    {"name": "file", "type": "STRING", "mode": "REQUIRED", "description": "Name of the landed file."},
    {"name": "line", "type": "INTEGER", "mode": "REQUIRED", "description": "Line of the landed file, from 1."},
]
"""Columns of `events.duplicates`; partitioned by hour, clustered by event."""

LEDGER_SCHEMA: list[dict[str, Any]] = [
    {"name": "hour", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "A received hour."},
    {"name": "event", "type": "STRING", "mode": "REQUIRED", "description": "Event name, contracted or received."},
    {"name": "received", "type": "INTEGER", "mode": "REQUIRED", "description": "Events received."},
    {"name": "accepted", "type": "INTEGER", "mode": "REQUIRED", "description": "Rows of the event's table."},
    {"name": "rejected", "type": "INTEGER", "mode": "REQUIRED", "description": "Rows of events.rejected."},
    {"name": "duplicates", "type": "INTEGER", "mode": "REQUIRED", "description": "Rows of events.duplicates."},
    {"name": "conflicting", "type": "INTEGER", "mode": "REQUIRED", "description": "Duplicates with another body."},
    {"name": "contract_version", "type": "STRING", "mode": "NULLABLE", "description": "Contract that judged it."},
    {"name": "contract_digest", "type": "STRING", "mode": "NULLABLE", "description": "Its content, as a hash."},
    {"name": "landing_digest", "type": "STRING", "mode": "NULLABLE", "description": "The hour's manifest, as a hash."},
    {
        "name": "materialized_at",
        "type": "TIMESTAMP",
        "mode": "REQUIRED",
        "description": "Warehouse's clock when the work on this row began.",
    },
]
"""Columns of `events.ledger`; partitioned by hour, clustered by event."""


class Record(msgspec.Struct, frozen=True):
    """One line of a landed file (NDJSON). `received_at` is RFC 3339 in UTC with microseconds."""

    received_at: str
    source: str
    event: str
    event_id: str | None
    payload: str
    faults: list[Reason]
    file: str
    line: int


_encoder = msgspec.json.Encoder()


def encode_record(record: Record) -> bytes:
    """The record as a line of a landed file, without its line feed.

    A payload that is not UTF-8 has to be decoded by the caller (`decode_payload`).
    """
    return _encoder.encode(record)


def decode_payload(raw: bytes) -> str:
    """The event's text as a landed record and BigQuery can hold it.

    Bytes that are not UTF-8, and the byte 0, become U+FFFD: such an event has the fault `not_json`, so nothing else is
    read from it. All other text stays as it is.
    """
    return raw.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def received_at_text(time: datetime) -> str:
    """A time (UTC) as landed records write it: `2026-01-31T23:59:59.123456Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
