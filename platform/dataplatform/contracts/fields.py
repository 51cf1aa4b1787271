"""The field tree: what a parameter of an event (or a field of a document) is, and the columns it becomes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr, StringConstraints
from pydantic import Field as PydanticField

FieldType = Literal["STRING", "INT64", "FLOAT64", "NUMERIC", "BOOL", "TIMESTAMP", "DATE", "JSON", "STRUCT"]
"""BigQuery's (GoogleSQL's) names of the types a field may have."""

FIELD_TYPES: tuple[str, ...] = get_args(FieldType)
FLATTEN_SEPARATOR = "__"
MAX_STRUCT_DEPTH = 15
"""BigQuery's limit of nested STRUCT levels in a column."""
MAX_NAME_LENGTH = 300
"""BigQuery's limit of a column name, in characters."""

type Scalar = StrictStr | StrictInt | StrictFloat | StrictBool
"""A constant as YAML gives it; `values.exact_value` tells what it is in its field's type."""
type Bound = StrictInt | StrictFloat | StrictStr


class Field(BaseModel):
    """One field of a contract: a leaf, a STRUCT, or a repeated one of either.

    The model holds the form; that a tree of fields can become a table is checked by `rules.field_mistakes`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=MAX_NAME_LENGTH)] = (
        PydanticField(description="Name of the key in the event's JSON, and (after flattening) of the column.")
    )
    type: FieldType = PydanticField(description="GoogleSQL type of the column.")
    required: StrictBool = PydanticField(False, description="An event without it, or with null, is rejected.")
    repeated: StrictBool = PydanticField(False, description="A list of values; becomes a REPEATED column.")
    description: str = PydanticField("", description="What it means; becomes the column's description.")
    pii: StrictBool = PydanticField(
        False, description="Holds personal data; the column is marked and followed by lineage."
    )
    values: tuple[Scalar, ...] | None = PydanticField(None, description="The only values allowed (an enumeration).")
    min: Bound | None = PydanticField(
        None, description="Smallest value allowed, inclusive; a number, or text for NUMERIC, DATE and TIMESTAMP."
    )
    max: Bound | None = PydanticField(
        None, description="Largest value allowed, inclusive; a number, or text for NUMERIC, DATE and TIMESTAMP."
    )
    pattern: str | None = PydanticField(
        None, description="RE2 regular expression that the whole of a STRING must match."
    )
    fields: tuple["Field", ...] = PydanticField((), description="The fields of a STRUCT.")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an event's table: a leaf of the tree, or a repeated field with everything below it.

    `name` is the flattened name (`parent__child`); `path` the keys from `params` down to the value.
    """

    name: str
    path: tuple[str, ...]
    field: Field

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Keys of the STRUCTs that were flattened away above this column."""
        return self.path[:-1]


def columns_of(fields: tuple[Field, ...], path: tuple[str, ...] = ()) -> Iterator[Column]:
    """Columns that a tree of fields is flattened to, in the order of the contract.

    A STRUCT that is not repeated is flattened; a repeated STRUCT stays one REPEATED column with its fields nested.
    """
    for field in fields:
        here = (*path, field.name)
        if field.type == "STRUCT" and not field.repeated:
            yield from columns_of(field.fields, here)
        else:
            yield Column(FLATTEN_SEPARATOR.join(here), here, field)
