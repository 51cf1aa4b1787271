"""The row that an accepted event becomes, in plain Python: what the compiled SQL is held to, and what `validate` shows."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import FLATTEN_SEPARATOR, Field

from .exact import ENVELOPE_TEXTS, Integer, Object, Real, parse, read_timestamp, read_value


def flatten(contract: EventContract, raw: bytes, received_at: datetime) -> dict[str, Any]:
    """Column → value of an event that was accepted; `received_at` is in UTC.

    Values are str, int, float, Decimal, bool, datetime (UTC), date, list, and dict for the STRUCTs inside of arrays; those
    of type JSON are what `json` would have read, with numbers beyond 64-bit integers as floats.
    """
    document = parse(raw)
    params = document.get("params")
    params = Object() if params is None else params
    event_time, sent_at = (_time(document.get(key)) for key in ("event_time", "sent_at"))
    row: dict[str, Any] = {"event_id": document["event_id"], "event": document["event"]}
    row |= {"event_time": event_time, "sent_at": sent_at}
    row |= {key: document.get(key) for key in ENVELOPE_TEXTS}
    row |= {"received_at": received_at, "hour": received_at.replace(minute=0, second=0, microsecond=0)}
    row["occurred_at"] = occurred_at(event_time, sent_at, received_at)
    _columns(contract.params, params, "", row)
    row["_extra"] = extra(contract.params, params)
    return row


def occurred_at(event_time: datetime | None, sent_at: datetime | None, received_at: datetime) -> datetime | None:
    """The device's time, corrected by how far its clock was off; None where it is not known or beyond years 1 to 9999."""
    if event_time is None or sent_at is None:
        return event_time
    try:
        return event_time + timedelta(microseconds=(received_at - sent_at) // timedelta(microseconds=1))
    except OverflowError:
        return None


def extra(fields: Sequence[Field], value: Object) -> dict[str, Any] | None:
    """Keys that the fields do not name, nested as sent; an array has an object for each element. None: there are none."""
    known = {field.name: field for field in fields}
    found = {key: plain(member) for key, member in value.items() if key not in known}
    for name, field in known.items():
        member = value.get(name)
        if field.type != "STRUCT" or member is None:
            continue
        if field.repeated:
            elements = [extra(field.fields, element) for element in member]
            if any(element is not None for element in elements):
                found[name] = [element or {} for element in elements]
        else:
            inner = extra(field.fields, member)
            if inner is not None:
                found[name] = inner
    return found or None


def plain(value: Any) -> Any:
    """A parsed JSON value with numbers as int (64 bits) or float."""
    if type(value) is Integer:
        number = int(value)
        return number if -(2**63) <= number < 2**63 else float(value)
    if type(value) is Real:
        return float(value)
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [plain(element) for element in value]
    return value


def _time(text: Any) -> datetime | None:
    return None if text is None else read_timestamp(text)


def _columns(fields: Sequence[Field], value: Object | None, prefix: str, row: dict[str, Any]) -> None:
    for field in fields:
        member = None if value is None else value.get(field.name)
        if field.type == "STRUCT" and not field.repeated:
            _columns(field.fields, member, f"{prefix}{field.name}{FLATTEN_SEPARATOR}", row)
        else:
            row[prefix + field.name] = _value(field, member)


def _value(field: Field, value: Any) -> Any:
    if field.repeated:
        return [_one(field, element) for element in value or ()]
    return None if value is None else _one(field, value)


def _one(field: Field, value: Any) -> Any:
    if field.type == "STRUCT":
        return {child.name: _value(child, value.get(child.name)) for child in field.fields}
    return plain(value) if field.type == "JSON" else read_value(field, value)
