"""The law as a model in plain Python: what the tables must hold, given the landed records and the contracts.

It takes `events.verdict.Judge` for whether an event's parameters are right, which is held to the SQL by tests of its own.
What is a duplicate, in what order things came, how values become columns, and what the ledger says, is decided here anew.
"""

import json
import random
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import Field
from dataplatform.events.received import Record, encode_record
from dataplatform.events.verdict import Judge

HOUR = timedelta(hours=1)
TEXTS = ("user_id", "device_id", "session_id", "platform", "app_version")
type Row = dict[str, Any]


@dataclass(frozen=True)
class Landed:
    """One landed record, as the model sees it."""

    received_at: datetime
    source: str
    event: str
    event_id: str | None
    payload: str
    faults: tuple[tuple[str, str, str], ...]
    file: str
    line: int

    @property
    def hour(self) -> datetime:
        return self.received_at.replace(minute=0, second=0, microsecond=0)

    @property
    def order(self) -> tuple[datetime, str, int]:
        return (self.received_at, self.file, self.line)


@dataclass
class Expected:
    """What the tables hold, as rows without an order. Ledger rows are without digests and times."""

    received: list[Row] = field(default_factory=list)
    accepted: dict[str, list[Row]] = field(default_factory=dict)
    rejected: list[Row] = field(default_factory=list)
    duplicates: list[Row] = field(default_factory=list)
    ledger: list[Row] = field(default_factory=list)


def record_of(landed: Landed) -> bytes:
    """The line of a landed file."""
    from dataplatform.events.reasons import Reason

    return encode_record(
        Record(
            landed.received_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            landed.source,
            landed.event,
            landed.event_id,
            landed.payload,
            [Reason(*fault) for fault in landed.faults],
            landed.file,
            landed.line,
        )
    )


def tables(
    records: Iterable[Landed], contracts: Mapping[str, EventContract], hours: Iterable[datetime], lookback_hours: int
) -> Expected:
    """The tables after every one of `hours` (all closed) was materialised."""
    hours = set(hours)
    judge = Judge(contracts)
    expected = Expected(accepted={name: [] for name in contracts})
    ledger: dict[tuple[datetime, str], Row] = {}
    for hour in hours:
        for name in contracts:
            ledger[hour, name] = _ledger_row(hour, name, contracts.get(name))
    seen: dict[tuple[str, str], list[Landed]] = {}
    for record in sorted((r for r in records if r.hour in hours), key=lambda r: r.order):
        expected.received.append(_received_row(record))
        row = ledger.setdefault(
            (record.hour, record.event), _ledger_row(record.hour, record.event, contracts.get(record.event))
        )
        row["received"] += 1
        first = None
        if record.event_id is not None:
            earlier = seen.setdefault((record.event, record.event_id), [])
            within = [r for r in earlier if r.hour >= record.hour - lookback_hours * HOUR]
            first = within[0] if within else None
            earlier.append(record)
        if first is not None:
            conflicting = first.payload != record.payload
            row["duplicates"] += 1
            row["conflicting"] += conflicting
            expected.duplicates.append(
                {
                    "event_id": record.event_id,
                    "event": record.event,
                    "hour": record.hour,
                    "received_at": record.received_at,
                    "first_received_at": first.received_at,
                    "conflicting": conflicting,
                    "file": record.file,
                    "line": record.line,
                }
            )
            continue
        verdict = judge.judge(record.payload.encode())
        if verdict.reasons:
            row["rejected"] += 1
            expected.rejected.append(
                {
                    "event_id": record.event_id,
                    "event": record.event,
                    "hour": record.hour,
                    "received_at": record.received_at,
                    "source": record.source,
                    "payload": record.payload,
                    "contract_version": contracts[record.event].version if record.event in contracts else None,
                    "reasons": sorted((r.path, r.code, r.message) for r in verdict.reasons),
                    "file": record.file,
                    "line": record.line,
                }
            )
        else:
            row["accepted"] += 1
            expected.accepted[record.event].append(accepted_row(record, contracts[record.event]))
    expected.ledger = list(ledger.values())
    return expected


def _ledger_row(hour: datetime, event: str, contract: EventContract | None) -> Row:
    counts = dict.fromkeys(("received", "accepted", "rejected", "duplicates", "conflicting"), 0)
    return {"hour": hour, "event": event, **counts, "contract_version": contract.version if contract else None}


def _received_row(record: Landed) -> Row:
    return {
        "hour": record.hour,
        "received_at": record.received_at,
        "source": record.source,
        "event": record.event,
        "event_id": record.event_id,
        "payload": record.payload,
        "faults": sorted(record.faults),
        "file": record.file,
        "line": record.line,
    }


def accepted_row(record: Landed, contract: EventContract) -> Row:
    """The columns of an accepted event."""
    event = json.loads(record.payload, parse_float=Decimal)
    event_time, sent_at = _time(event.get("event_time")), _time(event.get("sent_at"))
    occurred_at = event_time
    if event_time is not None and sent_at is not None:
        occurred_at = event_time + (record.received_at - sent_at)
    row: Row = {
        "event_id": record.event_id,
        "event": record.event,
        "event_time": event_time,
        "sent_at": sent_at,
        **{name: event.get(name) for name in TEXTS},
        "received_at": record.received_at,
        "hour": record.hour,
        "occurred_at": occurred_at,
    }
    params = event.get("params") or {}
    for column in contract.columns:
        value: Any = params
        for key in column.path:
            value = value.get(key) if isinstance(value, dict) else None
        row[column.name] = _convert(column.field, value)
    row["_extra"] = extra(contract.params, params)
    return row


def _convert(field: Field, value: Any) -> Any:
    if field.repeated:
        return [_convert_one(field, item) for item in (value or [])]
    return None if value is None else _convert_one(field, value)


def _convert_one(field: Field, value: Any) -> Any:
    match field.type:
        case "STRUCT":
            return {inner.name: _convert(inner, value.get(inner.name)) for inner in field.fields}
        case "INT64":
            return int(value)
        case "FLOAT64":
            return float(value)
        case "NUMERIC":
            return Decimal(value)
        case "TIMESTAMP":
            return _time(value)
        case "DATE":
            return date.fromisoformat(value)
        case "JSON":
            return plain(value)
    return value


def extra(fields: tuple[Field, ...], value: Any) -> Any:
    """Keys that the contract does not know, nested as they were sent; None where there are none.

    An array of STRUCT has an object for each element, `{}` where it is as the contract knows it.
    """
    known = {f.name: f for f in fields}
    found: Row = {}
    for key, item in value.items():
        if key not in known:
            found[key] = plain(item)
        elif known[key].type == "STRUCT" and item is not None:
            nested = [extra(known[key].fields, one) or {} for one in (item if known[key].repeated else [item])]
            if any(nested):
                found[key] = nested if known[key].repeated else nested[0]
    return found or None


def plain(value: Any) -> Any:
    """JSON with its numbers as floats or integers, so that two spellings of one value are equal."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def comparable(rows: Iterable[Row]) -> list[str]:
    """Rows as texts in an order, so that two tables are equal where these are."""
    return sorted(json.dumps(_tidy(row), sort_keys=True, default=str) for row in rows)


def _tidy(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tidy(item) for item in value]
    return value


# Random events.


def valid_value(field: Field, rng: random.Random) -> Any:
    """A JSON value that the field accepts."""
    if field.repeated:
        one = field.model_copy(update={"repeated": False})
        return [valid_value(one, rng) for _ in range(rng.randint(1 if field.required else 0, 3))]
    if field.values is not None:
        return rng.choice(field.values)
    match field.type:
        case "STRING":
            return "".join(rng.choices(string.ascii_letters + " äß한글🙂'\"\\\n", k=rng.randint(0, 12)))
        case "INT64":
            number = rng.choice([0, 1, -7, 2**53 + 1, -(2**63), 2**63 - 1, rng.randint(-1000, 1000)])
            return rng.choice([number, str(number)])
        case "FLOAT64":
            return rng.choice([0.5, -1.25, 3, 1e10, 0.1])
        case "NUMERIC":
            return rng.choice(["12345678901234567890.123456789", "0.1", 17, 2.5])
        case "BOOL":
            return rng.random() < 0.5
        case "TIMESTAMP":
            return rng.choice(["2026-01-31T23:59:59.123456+09:00", "2025-12-31T00:00:00Z"])
        case "DATE":
            return rng.choice(["2026-02-28", "2024-02-29"])
        case "JSON":
            return rng.choice([1, "x", [1, {"a": None}], {"k": [True]}])
        case _:
            value = {f.name: valid_value(f, rng) for f in field.fields if f.required or rng.random() < 0.7}
            return value | (
                {"unheard_of": rng.choice([1, "x", {"deep": [1, None]}, None])} if rng.random() < 0.2 else {}
            )


def random_payload(
    contracts: Mapping[str, EventContract], rng: random.Random, *, event_id: str, unknown: Iterable[str] = ()
) -> str:
    """The text of one event: mostly right, sometimes wrong in one of many ways."""
    names = [*contracts, *unknown]
    name = rng.choice(names)
    contract = contracts.get(name)
    params: Any = (
        {f.name: valid_value(f, rng) for f in contract.params if f.required or rng.random() < 0.8}
        if contract
        else {"a": 1}
    )
    event: Row = {"event_id": event_id, "event": name, "params": params}
    if rng.random() < 0.7:
        event["event_time"] = "2026-01-01T00:30:00.5Z"
    if rng.random() < 0.5:
        event["sent_at"] = "2026-01-01T01:30:01+01:00"
    for text in TEXTS:
        if rng.random() < 0.3:
            event[text] = f"{text}-{rng.randint(0, 5)}"
    wrong = rng.random()
    if contract is not None and wrong < 0.3 and params:
        key = rng.choice(list(params))
        if wrong < 0.1:
            del params[key]
        elif wrong < 0.2:
            params[key] = rng.choice([None, {"no": 1}, "nonsense", -(10**30), [[]], [None], True])
        else:
            params["unheard_of"] = rng.choice([1, {"deep": [1, 2]}, None])
    elif wrong < 0.33:
        del event["event_id"]
    elif wrong < 0.36:
        event["params"] = rng.choice([None, [], "x"])
    elif wrong < 0.39:
        event["user_id"] = 7
    text = json.dumps(event, ensure_ascii=rng.random() < 0.5)
    if 0.39 <= wrong < 0.41:
        return text[:-3]
    if 0.41 <= wrong < 0.43:
        return text[:-1] + ', "event_id": "twice"}'
    return text
