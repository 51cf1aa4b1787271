"""Values as they come from outside (YAML, JSON, a command line): checked against a type and made comparable."""

import math
import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation

from .tree import Parameter, Scalar

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_NINE_PLACES = Decimal("0.000000001")
_NUMERIC_END = Decimal(10) ** 29
_WIDE = Context(prec=60, rounding=ROUND_HALF_UP)
"""A NUMERIC has 38 digits, and Python's usual context 28."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?\s?([Zz]|[+-]\d\d:\d\d)\Z")
_NUMBER_WITH_UNIT = re.compile(r"\s*([+-]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%][\w /%]*)?\s*\Z")


class ValueProblem(Exception):
    """A value that a type or a bound does not allow. `code` is stable."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


def read_value(value: object, value_type: str) -> Scalar:
    """A JSON or YAML value as this type holds it; ValueProblem when it is another type's.

    Numbers are never read from texts, nor texts from numbers. TIMESTAMP (RFC 3339 with a zone) becomes its
    microseconds since 1970, DATE stays its ISO text, NUMERIC becomes a Decimal.
    """
    match value_type:
        case "INT64":
            if isinstance(value, int) and not isinstance(value, bool):
                return _int64(int(value))
        case "FLOAT64":
            if isinstance(value, int | float) and not isinstance(value, bool):
                return _finite(value)
        case "NUMERIC":
            if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
                return _decimal(value)
        case "NUMBER":
            if isinstance(value, int) and not isinstance(value, bool):
                return _int64(int(value))
            if isinstance(value, float):
                return _finite(value)
        case "STRING":
            if isinstance(value, str):
                return _storable(str(value))
        case "BOOL":
            if isinstance(value, bool):
                return value
        case "TIMESTAMP":
            if isinstance(value, str):
                return micros(value)
            if isinstance(value, datetime):
                return micros(value.isoformat())
        case "DATE":
            if isinstance(value, str | date):
                return _iso_date(str(value))
    raise ValueProblem("wrong_type", f"{_kind(value)} where {_NAMES[value_type]} is wanted", _FIXES[value_type])


def read_parameter(text: object, parameter: Parameter) -> Scalar:
    """A parameter's new value, within its bounds; a text may be a number followed by the parameter's own unit."""
    value: object = text
    if isinstance(text, str) and parameter.type in ("INT64", "FLOAT64", "NUMERIC"):
        value = _number_in_unit(text, parameter)
    elif isinstance(text, str) and parameter.type == "BOOL":
        value = {"true": True, "false": False}.get(text.lower(), text)
    number = read_value(value, parameter.type)
    check_bounds(number, parameter)
    return number


def check_bounds(value: Scalar, parameter: Parameter) -> None:
    """ValueProblem when a value is outside the bounds of its parameter."""
    low, high = parameter.min, parameter.max
    if (low is not None and value < low) or (high is not None and value > high):  # type: ignore[operator]
        bounds = f"{_plain(low, parameter)} to {_plain(high, parameter)}"
        raise ValueProblem(
            "out_of_bounds",
            f"{_plain(value, parameter)} is outside {bounds}{' ' + parameter.unit if parameter.unit else ''}",
            "choose a value within the bounds, or ask the owner of the parameter to widen them",
        )


def micros(text: str) -> int:
    """Microseconds since 1970 (UTC) of an RFC 3339 time with a zone and at most six decimals."""
    if not _TIMESTAMP.match(text):
        raise ValueProblem(
            "wrong_type", f"{text[:40]!r} is no time with a zone", "write a time such as 2026-01-31T09:00:00Z"
        )
    try:
        time = datetime.fromisoformat(text.replace(" +", "+").replace("z", "Z"))
    except ValueError as error:
        raise ValueProblem(
            "wrong_type", f"{text[:40]!r} is no time: {error}", "write a time such as 2026-01-31T09:00:00Z"
        ) from None
    span = time - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def time_text(moment: int) -> str:
    """RFC 3339 (UTC, microseconds) of microseconds since 1970."""
    seconds, fraction = divmod(moment, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{fraction:06d}Z"


def plain_value(value: Scalar | None, value_type: str) -> object:
    """The value as JSON and YAML hold it: a TIMESTAMP as RFC 3339 text, a NUMERIC as a number."""
    if value is None:
        return None
    if value_type == "TIMESTAMP" and isinstance(value, int):
        return time_text(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _plain(value: Scalar | None, parameter: Parameter) -> str:
    return "any" if value is None else str(plain_value(value, parameter.type))


def _number_in_unit(text: str, parameter: Parameter) -> object:
    match = _NUMBER_WITH_UNIT.match(text)
    if match is None:
        return text
    number, unit = match.group(1).replace("_", ""), (match.group(2) or "").strip()
    if unit and unit != parameter.unit:
        raise ValueProblem(
            "wrong_unit",
            f"{text.strip()!r} is in {unit}, and {parameter.name} is in {parameter.unit or 'no unit'}",
            f"give the number in {parameter.unit}" if parameter.unit else "give the number without a unit",
        )
    if parameter.type == "NUMERIC":
        return Decimal(number)
    return int(number) if re.fullmatch(r"[+-]?[0-9]+", number) else float(number)


def _int64(value: int) -> int:
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueProblem("out_of_range", f"{value} is beyond INT64", "send identifiers as texts")
    return value


def _finite(value: float) -> float:
    if isinstance(value, int) and abs(value) > 2**1000:
        raise ValueProblem("out_of_range", "a number beyond FLOAT64", "send a smaller number")
    number = float(value)
    if math.isnan(number) or math.isinf(number):
        raise ValueProblem("not_finite", f"{number} is no number", "leave the fact out where it is not known")
    return number


def _decimal(value: float | Decimal) -> Decimal:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise ValueProblem("wrong_type", f"{value} is no number", "send a number") from None
    if not number.is_finite():
        raise ValueProblem("not_finite", f"{number} is no number", "leave the fact out where it is not known")
    if number.copy_abs() >= _NUMERIC_END or number != number.quantize(_NINE_PLACES, context=_WIDE):
        raise ValueProblem("out_of_range", f"{number} is no NUMERIC", "at most 29 digits and 9 decimals")
    return number


def nine_places(value: float) -> Decimal | float:
    """The decimal that a FLOAT64 is written as, rounded to a NUMERIC's places; as it came where no NUMERIC is so large."""
    number = Decimal(repr(value))
    fits = number.is_finite() and number.copy_abs() < _NUMERIC_END
    return number.quantize(_NINE_PLACES, context=_WIDE) if fits else value


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueProblem("wrong_type", "a text with a NUL character", "remove the character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueProblem("wrong_type", "a text with half a surrogate pair", "send valid Unicode") from None
    return text


def _iso_date(text: str) -> str:
    try:
        if len(text) == 10:
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise ValueProblem("wrong_type", f"{text[:40]!r} is no date", "write a date such as 2026-01-31")


_NAMES = {
    "INT64": "a whole number",
    "FLOAT64": "a number",
    "NUMERIC": "a number",
    "NUMBER": "a number",
    "STRING": "a text",
    "BOOL": "true or false",
    "TIMESTAMP": "a time",
    "DATE": "a date",
}
_FIXES = {
    "INT64": "send a whole number, without quotes and decimals",
    "FLOAT64": "send a number, without quotes",
    "NUMERIC": "send a number, without quotes",
    "NUMBER": "send a number, without quotes",
    "STRING": "send a text, in quotes",
    "BOOL": "send true or false, without quotes",
    "TIMESTAMP": "send a time such as 2026-01-31T09:00:00Z",
    "DATE": "send a date such as 2026-01-31",
}


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float | Decimal):
        text = str(value)
        return f"the number {text if len(text) <= 30 else text[:27] + '…'}"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 30 else value[:27] + '…'!r}"
    if isinstance(value, list):
        return "a list"
    return "an object"
