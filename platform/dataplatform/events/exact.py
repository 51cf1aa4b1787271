"""Judging parsed values: the exact way to a verdict, which keeps the text of every number and names every reason."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from itertools import islice
from json import JSONDecodeError, JSONDecoder
from math import isinf
from typing import Any

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import Field
from dataplatform.contracts.patterns import compile_pattern

from . import reasons as why
from .bounds import Bounds, bounds_of
from .reasons import INEXACT_NUMBER, Reason, pointer

MAX_DEPTH = 64
"""Levels of objects and arrays; BigQuery's columns take 15, its JSON 500."""
MAX_ELEMENTS = 10_000
MAX_VALUES = 100_000
"""Members and elements of one event: each that is parsed here costs some 200 bytes and 2 µs, and 4 MiB can hold two million."""
MAX_SHOWN_KEY = 300
"""Characters of a key in a path; no contract's are longer. Every path below a key repeats it."""
MAX_EVENT_ID = 128
MAX_EVENT_NAME = 300
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

ENVELOPE_TEXTS = ("user_id", "device_id", "session_id", "platform", "app_version")
ENVELOPE_TIMES = ("event_time", "sent_at")

TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?)(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)",
    re.ASCII,
)
"""RFC 3339 with an offset, as BigQuery takes it: no leap second, at most microseconds, offsets up to 14 hours."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
INTEGER_TEXT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_TEXT_OR_COMMA = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|(,)', re.DOTALL)
DECIMAL_TEXT = re.compile(r"-?(?:0|[1-9][0-9]{0,28})(?:\.[0-9]{1,9})?")


# -- text to values ----------------------------------------------------------------------------------------------------


class Integer(str):
    """A JSON number without fraction and exponent, as its text."""

    __slots__ = ()


class Real(str):
    """A JSON number with a fraction or an exponent, as its text."""

    __slots__ = ()


class Object(dict[str, Any]):
    """A JSON object; `repeated` are the keys it has more than once (the last value is kept)."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, Any]] | None = None) -> None:
        super().__init__(pairs or ())
        self.repeated: list[str] = []
        if pairs and len(pairs) != len(self):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen and key not in self.repeated:
                    self.repeated.append(key)
                seen.add(key)


class NotJson(Exception):
    """The text is not JSON, or none that is read here; `code` is the reason's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _no_constant(name: str) -> Any:
    raise NotJson("not_json", f"{name} is not JSON")


_decoder = JSONDecoder(object_pairs_hook=Object, parse_int=Integer, parse_float=Real, parse_constant=_no_constant)


def parse(raw: bytes) -> Any:
    """JSON text as values that lose nothing: numbers keep their text, objects know their repeated keys.

    Raises NotJson, also for what is too much to be parsed.
    """
    if len(raw) > MAX_VALUES and _has_too_many_values(raw):
        raise NotJson("array_too_long", f"more than {MAX_VALUES} values in all")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise NotJson("not_json", f"not UTF-8 at byte {error.start}") from None
    try:
        return _decoder.decode(text)
    except JSONDecodeError as error:
        raise NotJson("not_json", f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise NotJson("too_deep", f"nested deeper than {MAX_DEPTH} levels") from None


def _has_too_many_values(raw: bytes) -> bool:
    """By the commas outside of texts: all other values are the first of what holds them, so nested, and depth is bounded too."""
    if raw.count(b",") < MAX_VALUES:
        return False
    commas = (found for found in _TEXT_OR_COMMA.finditer(raw) if found.lastindex)
    return next(islice(commas, MAX_VALUES - 1, None), None) is not None


def find_faults(value: Any, path: str, depth: int, faults: list[Reason]) -> None:
    """What is wrong with a JSON value whatever it is for; appended to `faults`."""
    kind = type(value)
    if kind is str:
        fault = text_fault(value)
        if fault is not None:
            faults.append(Reason(path, *fault))
    elif kind is Object:
        if depth == MAX_DEPTH:
            faults.append(Reason(path, "too_deep", f"nested deeper than {MAX_DEPTH} levels"))
            return
        faults.extend(
            Reason(pointer(path, readable_key(key)), "duplicate_key", "the key is there twice")
            for key in value.repeated
        )
        for key, member in value.items():
            fault = text_fault(key)
            here = pointer(path, readable_key(key))
            if fault is not None:
                faults.append(Reason(here, *fault))
            if type(member) is not bool and member is not None:
                find_faults(member, here, depth + 1, faults)
    elif kind is list:
        if depth == MAX_DEPTH:
            faults.append(Reason(path, "too_deep", f"nested deeper than {MAX_DEPTH} levels"))
        elif len(value) > MAX_ELEMENTS:
            faults.append(Reason(path, "array_too_long", f"more than {MAX_ELEMENTS} elements"))
        else:
            for index, element in enumerate(value):
                find_faults(element, f"{path}/{index}", depth + 1, faults)
    elif kind is Integer or kind is Real:
        if isinf(float(value)):
            faults.append(Reason(path, "number_too_large", "a number that no type can hold"))
        elif is_inexact(value):
            faults.append(Reason(path, INEXACT_NUMBER.code, INEXACT_NUMBER.message))


def text_fault(text: str) -> tuple[str, str] | None:
    """Code and message of what no text may hold."""
    if "\0" in text:
        return "nul_character", "holds the character U+0000"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "lone_surrogate", "holds half of a surrogate pair"
    return None


def readable_key(key: str) -> str:
    """A key as it can be shown and stored: what is no Unicode text in it is replaced, and a long one cut."""
    if len(key) > MAX_SHOWN_KEY:
        key = key[:MAX_SHOWN_KEY] + "…"
    return key.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def is_inexact(number: str) -> bool:
    """Would a reader that keeps 64-bit integers and floats change this (finite) number?"""
    if type(number) is Integer:
        if len(number) < 19:
            return False
        if len(number) > 400:
            return True
        value = int(number)
        return not INT64_MIN <= value <= INT64_MAX and int(float(number)) != value
    if len(number) < 16 and "e" not in number and "E" not in number:
        return False  # at most 15 digits: floats hold them all
    try:
        return Decimal(number) != Decimal(repr(float(number)))
    except InvalidOperation:  # an exponent beyond all measure
        return True


# -- the envelope ------------------------------------------------------------------------------------------------------


def judge_names(document: Object, broken: set[str], faults: list[Reason]) -> tuple[str, str | None]:
    """Event name ("" if unusable) and event id (None if unusable), with the faults of both."""
    texts: list[str | None] = []
    for key, longest in (("event", MAX_EVENT_NAME), ("event_id", MAX_EVENT_ID)):
        path = f"/{key}"
        value = document.get(key)
        texts.append(None)
        if value is None:
            faults.append(Reason(path, "missing", why.MISSING))
        elif type(value) is not str:
            faults.append(Reason(path, "wrong_type", why.WRONG_TYPE["STRING"]))
        elif not 1 <= len(value) <= longest:
            faults.append(Reason(path, "wrong_length", f"not of 1 to {longest} characters"))
        elif path not in broken:
            texts[-1] = value
    return texts[0] or "", texts[1]


def judge_envelope(document: Object, faults: list[Reason]) -> None:
    """Faults of the envelope's optional values."""
    for key in ENVELOPE_TEXTS:
        value = document.get(key)
        if value is not None and type(value) is not str:
            faults.append(Reason(f"/{key}", "wrong_type", why.WRONG_TYPE["STRING"]))
    for key in ENVELOPE_TIMES:
        value = document.get(key)
        if value is not None and (type(value) is not str or read_timestamp(value) is None):
            faults.append(Reason(f"/{key}", "wrong_type", why.WRONG_TYPE["TIMESTAMP"]))


# -- values of a type --------------------------------------------------------------------------------------------------


def read_timestamp(text: str) -> datetime | None:
    """RFC 3339 with an offset, from year 1 to 9999 (in UTC), to the microsecond."""
    match = TIME.fullmatch(text)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_date(text: str) -> date | None:
    if DATE.fullmatch(text) is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def read_int64(value: Any) -> int | None:
    """An integer, or the text of one as BigQuery would write it; the number -0 is 0."""
    if type(value) in (Integer, str) and INTEGER_TEXT.fullmatch(value):
        number = int(value)
        return number if INT64_MIN <= number <= INT64_MAX else None
    return 0 if type(value) is Integer and value == "-0" else None


def read_numeric(value: Any) -> Decimal | None:
    """29 digits before the point and 9 after it; a number counts by its value, a string by its text as well."""
    if type(value) is str:
        return Decimal(value) if DECIMAL_TEXT.fullmatch(value) else None
    if type(value) not in (Integer, Real):
        return None
    if len(value) > 400 or abs(float(value)) >= 1e29:
        return None
    decimal = Decimal(value) if type(value) is Integer else Decimal(repr(float(value)))
    exponent = decimal.normalize().as_tuple().exponent
    return decimal if isinstance(exponent, int) and exponent >= -9 else None


def read_value(field: Field, value: Any) -> Any:
    """The value (of one element, for a repeated field) as Python holds it, or None where it has not the type's form.

    A JSON parameter gives the parsed value itself.
    """
    kind = type(value)
    match field.type:
        case "STRING":
            return value if kind is str else None
        case "INT64":
            return read_int64(value)
        case "FLOAT64":
            return float(value) if kind is Integer or kind is Real else None
        case "NUMERIC":
            return read_numeric(value)
        case "BOOL":
            return value if kind is bool else None
        case "TIMESTAMP":
            return read_timestamp(value) if kind is str else None
        case "DATE":
            return read_date(value) if kind is str else None
        case "STRUCT":
            return value if kind is Object else None
    return value


class ExactField:
    """One field of a contract, ready to judge parsed values."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.bounds: Bounds = bounds_of(field)
        self.pattern = compile_pattern(field.pattern) if field.pattern is not None else None
        self.fields = tuple(ExactField(child) for child in field.fields)

    def judge(self, value: Any, path: str, out: list[Reason]) -> None:
        """Reasons against the value of this field's key (None: missing or null)."""
        if value is None:
            if self.field.required:
                out.append(Reason(path, "missing", why.MISSING))
        elif not self.field.repeated:
            self.judge_one(value, path, out)
        elif type(value) is not list:
            out.append(Reason(path, "wrong_type", why.WRONG_TYPE_REPEATED))
        else:
            for index, element in enumerate(value):
                if element is None:
                    out.append(Reason(f"{path}/{index}", "null_element", why.NULL_ELEMENT))
                else:
                    self.judge_one(element, f"{path}/{index}", out)

    def judge_one(self, value: Any, path: str, out: list[Reason]) -> None:
        read = read_value(self.field, value)
        if read is None:
            out.append(why.wrong_type(self.field, path))
            return
        if self.field.type == "STRUCT":
            judge_members(self.fields, value, path, out)
            return
        bounds = self.bounds
        if bounds.values is not None and read not in bounds.values:
            out.append(why.not_in_values(self.field, path))
        if bounds.min is not None and read < bounds.min:
            out.append(why.too_small(self.field, path))
        if bounds.max is not None and read > bounds.max:
            out.append(why.too_large(self.field, path))
        if self.pattern is not None and self.pattern.fullmatch(read) is None:
            out.append(why.pattern(self.field, path))

    def inexact(self, value: Any, path: str, inexact: set[str], reasons: list[Reason], harmless: set[str]) -> None:
        """Sorts inexact numbers below `path` into reasons (NUMERIC, JSON) and harmless ones (FLOAT64)."""
        if self.field.repeated:
            elements = enumerate(value) if type(value) is list else ()
            below = [(element, f"{path}/{index}") for index, element in elements]
        else:
            below = [(value, path)]
        for element, here in below:
            if self.field.type == "STRUCT":
                if type(element) is Object:
                    for child in self.fields:
                        name = child.field.name
                        child.inexact(element.get(name), pointer(here, name), inexact, reasons, harmless)
            elif self.field.type == "JSON":
                reasons.extend(
                    Reason(spot, INEXACT_NUMBER.code, INEXACT_NUMBER.message)
                    for spot in sorted(inexact)
                    if spot == here or spot.startswith(f"{here}/")
                )
            elif here in inexact and self.field.type == "NUMERIC":
                reasons.append(Reason(here, INEXACT_NUMBER.code, INEXACT_NUMBER.message))
            elif here in inexact and self.field.type == "FLOAT64":
                harmless.add(here)


def judge_members(fields: tuple[ExactField, ...], value: Object, path: str, out: list[Reason]) -> None:
    for child in fields:
        name = child.field.name
        child.judge(value.get(name), f"{path}/{name}", out)


class ExactContract:
    """All parameters of one contract."""

    def __init__(self, contract: EventContract) -> None:
        self.version = contract.version
        self.fields = tuple(ExactField(field) for field in contract.params)

    def judge(self, params: Object, out: list[Reason]) -> None:
        judge_members(self.fields, params, "/params", out)

    def inexact(self, params: Object, inexact: set[str], reasons: list[Reason]) -> set[str]:
        """Adds inexact numbers that matter to `reasons`; the paths of those that surely never will are returned."""
        harmless: set[str] = set()
        for field in self.fields:
            name = field.field.name
            field.inexact(params.get(name), f"/params/{name}", inexact, reasons, harmless)
        return harmless
