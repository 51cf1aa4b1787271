"""Why an event is rejected: the codes, what each means, and the words that Python and SQL both use.

A *fault* is a reason that the door finds in the text of the event, without a contract; it is landed with the event. All
other reasons come from the contract and are found twice, by the verdict in Python and by the compiled SQL.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from dataplatform.contracts.fields import Field


class Reason(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong with one event.

    `path` is a JSON pointer (RFC 6901) into the event, such as `/params/items/3/price`; the empty pointer is the event as a
    whole. `code` is stable; `message` is for people, and the same text from Python and from SQL.
    """

    path: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Code:
    """One code of a reason.

    `door` says that the door finds it in the text alone (a fault); `unreadable` that nothing else about the event is
    judged once it has this fault, because its text cannot be relied on.
    """

    name: str
    meaning: str
    door: bool = False
    unreadable: bool = False


CODES: dict[str, Code] = {
    code.name: code
    for code in (
        Code("not_json", "The text is not JSON (RFC 8259, in UTF-8). NaN and Infinity are not JSON.", True, True),
        Code("not_object", "The event, or its `params`, is not a JSON object.", True, True),
        Code("duplicate_key", "An object has the same key twice; which value was meant cannot be known.", True, True),
        Code("nul_character", "A string or key holds the character U+0000, which many readers cut off.", True, True),
        Code("lone_surrogate", "A string or key holds half of a surrogate pair, which is no Unicode text.", True, True),
        Code("too_deep", "Objects and arrays are nested deeper than 64 levels.", True, True),
        Code("array_too_long", "An array has more than 10,000 elements, or the event more than 100,000 values in all.", True, True),
        Code("number_too_large", "A number that no type can hold (beyond 64-bit floating point).", True, True),
        Code("inexact_number", "A number that 64-bit integers and floating point would change; matters for NUMERIC "
             "and JSON parameters only, where it must be sent as a string.", True),
        Code("missing", "A required value is missing or null."),
        Code("wrong_type", "The value has not the JSON form of its type, or does not fit the type exactly."),
        Code("wrong_length", "`event_id` has 1 to 128 characters, `event` 1 to 300.", True),
        Code("null_element", "An array has a null element; BigQuery's arrays hold none."),
        Code("not_in_values", "The value is none of those the contract allows."),
        Code("too_small", "The value is below the contract's minimum."),
        Code("too_large", "The value is above the contract's maximum."),
        Code("pattern", "The text does not match the contract's pattern as a whole."),
        Code("unknown_event", "No contract has this event name."),
    )
}  # fmt: skip
"""All codes, in the order of the documentation."""

UNREADABLE: tuple[str, ...] = tuple(code.name for code in CODES.values() if code.unreadable)
"""Faults after which the event's parameters are not looked at."""

INEXACT_NUMBER = Reason("", "inexact_number", "a number that would be changed: send it as a string")
NULL_ELEMENT = "an element is null"
UNKNOWN_EVENT = Reason("/event", "unknown_event", "no contract has this event name")

WRONG_TYPE: dict[str, str] = {
    "STRING": "not a string",
    "INT64": "not an integer of 64 bits, as a number or in a string",
    "FLOAT64": "not a number",
    "NUMERIC": "not a decimal of at most 29 digits before and 9 after the point",
    "BOOL": "not true or false",
    "TIMESTAMP": "not a time such as 2026-01-31T23:59:59.123456+09:00",
    "DATE": "not a date such as 2026-01-31",
    "STRUCT": "not an object",
}
"""Message of `wrong_type` for each type; a JSON parameter takes anything."""
WRONG_TYPE_REPEATED = "not an array"
MISSING = "required, but missing or null"


def wrong_type(field: Field, path: str = "") -> Reason:
    """The value (or, for a repeated field, one element) has not the form of the field's type."""
    return Reason(path, "wrong_type", WRONG_TYPE[field.type])


def not_in_values(field: Field, path: str = "") -> Reason:
    values = list(map(str, field.values or ()))
    shown = ", ".join(values[:20]) + (f", … ({len(values)} values)" if len(values) > 20 else "")
    return Reason(path, "not_in_values", f"not one of {shown}")


def too_small(field: Field, path: str = "") -> Reason:
    return Reason(path, "too_small", f"smaller than {field.min}")


def too_large(field: Field, path: str = "") -> Reason:
    return Reason(path, "too_large", f"larger than {field.max}")


def pattern(field: Field, path: str = "") -> Reason:
    return Reason(path, "pattern", f"does not match {field.pattern}")


def pointer(path: str, key: str | int) -> str:
    """JSON pointer to a member of what `path` points to."""
    if isinstance(key, int):
        return f"{path}/{key}"
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def documentation(codes: Iterable[Code] = CODES.values()) -> str:
    """The table of codes as Markdown, for docs/events.md."""
    rows = [f"| `{code.name}` | {'door' if code.door else 'contract'} | {code.meaning} |" for code in codes]
    return "\n".join(["| code | found by | meaning |", "|---|---|---|", *rows])
