"""What a contract allows of a field's values, as Python compares them; SQL is given the same values as literals."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dataplatform.contracts.fields import Field
from dataplatform.contracts.values import exact_value


@dataclass(frozen=True, slots=True)
class Bounds:
    """`values`, `min` and `max` of a field, read as its type: int, float, Decimal, datetime (UTC), date, str or bool.

    Minimum and maximum are inclusive.
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
    return Bounds(
        values=None if field.values is None else frozenset(exact_value(field.type, value) for value in field.values),
        min=None if field.min is None else exact_value(field.type, field.min),
        max=None if field.max is None else exact_value(field.type, field.max),
    )
