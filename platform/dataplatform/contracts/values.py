"""The value that a bound or an enumeration of a contract stands for, in the exact Python type of its field."""

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Context, Decimal, InvalidOperation

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
NUMERIC_MAX = Decimal("99999999999999999999999999999.999999999")
"""Largest NUMERIC; the smallest is its negative. 38 digits, 9 of them after the point."""
_NUMERIC_STEP = Decimal("0.000000001")
_EXACT = Context(prec=2000)

type Exact = str | int | float | bool | Decimal | date | datetime

_DECIMAL = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?\Z", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", re.ASCII)
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[-+][0-9]{2}:[0-9]{2})\Z", re.ASCII
)


class ValueMistakeError(ValueError):
    """A value that its field's type cannot hold. The text says why; `fix` how to write it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def exact_value(field_type: str, value: str | int | float | bool) -> Exact:
    """What `value` (as YAML gives it) is in a field of this type: int, float, Decimal, bool, str, date, datetime in UTC.

    Raises ValueMistakeError when the type cannot hold it, and for the types that have no constants (JSON, STRUCT).
    """
    reader = _READERS.get(field_type)
    if reader is None:
        raise ValueMistakeError(f"a {field_type} has no constants", "take it out")
    return reader(value)


def _string(value: str | int | float | bool) -> str:
    if not isinstance(value, str):
        raise ValueMistakeError(f"{_shown(value)} is not text", f'write it in quotes: "{_shown(value)}"')
    return value


def _int64(value: str | int | float | bool) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueMistakeError(f"{_shown(value)} is not an integer", "write an integer without quotes")
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueMistakeError(f"{value} does not fit an INT64", f"stay within {INT64_MIN} and {INT64_MAX}")
    return value


def _float64(value: str | int | float | bool) -> float:
    if isinstance(value, bool | str):
        raise ValueMistakeError(f"{_shown(value)} is not a number", "write a number without quotes")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number != value:
        raise ValueMistakeError(f"{value} is not held exactly by a FLOAT64", "write a finite number of fewer digits")
    return number


def _numeric(value: str | int | float | bool) -> Decimal:
    if isinstance(value, bool) or (isinstance(value, str) and not _DECIMAL.match(value)):
        raise ValueMistakeError(f"{_shown(value)} is not a decimal number", 'write it like 12.50 or "12.50"')
    try:
        number = Decimal(str(value))
    except InvalidOperation as error:  # inf and nan are Decimals, too; what is left is not a number
        raise ValueMistakeError(f"{value} is not a decimal number", 'write it like "12.50"') from error
    if not number.is_finite() or number.copy_abs() > NUMERIC_MAX:
        raise ValueMistakeError(f"{value} does not fit a NUMERIC", f"stay within ±{NUMERIC_MAX}")
    if number != number.quantize(_NUMERIC_STEP, context=_EXACT):
        raise ValueMistakeError(f"{value} has more than 9 decimals", "a NUMERIC keeps 9 digits after the point")
    return number


def _bool(value: str | int | float | bool) -> bool:
    if not isinstance(value, bool):
        raise ValueMistakeError(f"{_shown(value)} is not a BOOL", "write true or false, without quotes")
    return value


def _date(value: str | int | float | bool) -> date:
    fix = 'write it like "2026-01-31"'
    if not isinstance(value, str) or not _DATE.match(value):
        raise ValueMistakeError(f"{_shown(value)} is not a date", fix)
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ValueMistakeError(f"{value} is not a day of the calendar", fix) from error


def _timestamp(value: str | int | float | bool) -> datetime:
    fix = 'write it like "2026-01-31T12:00:00Z", with Z or an offset'
    if not isinstance(value, str) or not _TIMESTAMP.match(value):
        raise ValueMistakeError(f"{_shown(value)} is not a time of RFC 3339", fix)
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueMistakeError(f"{value} is not a time between the years 1 and 9999", fix) from error


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_READERS: dict[str, Callable[[str | int | float | bool], Exact]] = {
    "STRING": _string,
    "INT64": _int64,
    "FLOAT64": _float64,
    "NUMERIC": _numeric,
    "BOOL": _bool,
    "DATE": _date,
    "TIMESTAMP": _timestamp,
}
