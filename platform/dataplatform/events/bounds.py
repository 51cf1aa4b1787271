"""What a contract allows of a field's values, as Python compares them; SQL is given the same values as literals."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import Any

from dataplatform.contracts.fields import Field, Scalar


@dataclass(frozen=True, slots=True)
class Bounds:
    """`values`, `min` and `max` of a field, read as its type: int, float, Decimal, datetime (UTC), date, str or bool.

    Minimum and maximum are inclusive. Those of STRING, BOOL, JSON and STRUCT are not compared and left out here.
    """

    values: frozenset[Any] | None
    min: Any
    max: Any

    @property
    def any(self) -> bool:
        return self.values is not None or self.min is not None or self.max is not None


@lru_cache(maxsize=4096)
def bounds_of(field: Field) -> Bounds:
    """Bounds of a field (of each element, for a repeated one)."""
    comparable = field.type in ("INT64", "FLOAT64", "NUMERIC", "TIMESTAMP", "DATE")
    values = None
    if field.values is not None and field.type not in ("JSON", "STRUCT"):
        values = frozenset(as_typed(field, value) for value in field.values)
    smallest = as_typed(field, field.min, ROUND_CEILING) if comparable and field.min is not None else None
    largest = as_typed(field, field.max, ROUND_FLOOR) if comparable and field.max is not None else None
    return Bounds(values, smallest, largest)


def as_typed(field: Field, value: Scalar, rounding: str = ROUND_FLOOR) -> Any:
    """A value written in a contract, as the field's type; `rounding` is for a fraction given as bound of an INT64."""
    match field.type:
        case "INT64":
            return int(Decimal(str(value)).to_integral_value(rounding))
        case "FLOAT64":
            return float(value)
        case "NUMERIC":
            return Decimal(str(value))
        case "TIMESTAMP":
            return datetime.fromisoformat(str(value)).astimezone(UTC)
        case "DATE":
            return date.fromisoformat(str(value))
        case "BOOL":
            return value if isinstance(value, bool) else str(value).lower() == "true"
    return str(value)
