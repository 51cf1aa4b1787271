"""The BigQuery schema of an event's table, in the JSON form of BigQuery's API, and back."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from .events import LEADING_FIELDS, TRAILING_FIELDS, EventContract
from .fields import FIELD_TYPES, FLATTEN_SEPARATOR, Field, FieldType

PII_MARK = " [personal data]"
"""Ends the description of every column that holds personal data, so that the mark is seen wherever the table is."""
POLICY_TAG_PLACEHOLDER = "projects/PROJECT/locations/LOCATION/taxonomies/TAXONOMY/policyTags/PERSONAL_DATA"
"""Stands for the policy tag in `schemas/generated/bigquery`; the real one belongs to a project."""

_API_NAMES: dict[FieldType, str] = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_FIELD_TYPES: dict[str, FieldType] = {
    **{cast(FieldType, name): cast(FieldType, name) for name in FIELD_TYPES},
    **{name: field_type for field_type, name in _API_NAMES.items()},
}
_DDL_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"})


def event_schema(contract: EventContract, policy_tag: str | None = None) -> list[dict[str, Any]]:
    """Columns of `events.<name>`: the envelope's, the flattened parameters', `_extra`.

    A column is REQUIRED where every accepted event has a value: the field is required, and so is every STRUCT that was flattened
    away above it. Personal data is marked by the end of the description and, if `policy_tag` (a resource name) is given, by
    that policy tag on every leaf; a STRUCT that is marked as personal data marks all leaves below it.
    """
    return [
        *(field_schema(field, policy_tag) for field in LEADING_FIELDS),
        *params_schema(contract.params, policy_tag),
        *(field_schema(field, policy_tag) for field in TRAILING_FIELDS),
    ]


def params_schema(fields: Sequence[Field], policy_tag: str | None = None) -> list[dict[str, Any]]:
    """Columns that a tree of fields is flattened to, without an envelope."""
    return list(_flattened(fields, "", required=True, pii=False, policy_tag=policy_tag))


def _flattened(
    fields: Sequence[Field], prefix: str, *, required: bool, pii: bool, policy_tag: str | None
) -> Iterator[dict[str, Any]]:
    for field in fields:
        name = prefix + field.name
        if field.type == "STRUCT" and not field.repeated:
            yield from _flattened(
                field.fields,
                f"{name}{FLATTEN_SEPARATOR}",
                required=required and field.required,
                pii=pii or field.pii,
                policy_tag=policy_tag,
            )
        else:
            column = field.model_copy(update={"name": name, "required": required and field.required})
            yield field_schema(column, policy_tag, pii=pii)


def field_schema(field: Field, policy_tag: str | None = None, *, pii: bool = False) -> dict[str, Any]:
    """One column. `pii` says that something above it is personal data."""
    pii = pii or field.pii
    column: dict[str, Any] = {
        "name": field.name,
        "type": _API_NAMES.get(field.type, field.type),
        "mode": "REPEATED" if field.repeated else "REQUIRED" if field.required else "NULLABLE",
    }
    description = (field.description.strip() + (PII_MARK if pii else "")).strip()
    if description:
        column["description"] = description
    if field.type == "STRUCT":
        column["fields"] = [field_schema(inner, policy_tag, pii=pii) for inner in field.fields]
    elif pii and policy_tag:
        column["policyTags"] = {"names": [policy_tag]}
    return column


def fields_of_schema(schema: Sequence[dict[str, Any]]) -> tuple[Field, ...]:
    """The fields that the columns of a table describe, as a contract would say it; flattened columns stay flat.

    For comparing a table with its contract, and for a contract's start when the table is there first. Raises ValueError for a type that a
    contract cannot say.
    """
    return tuple(_field_of(column) for column in schema)


def _field_of(column: dict[str, Any]) -> Field:
    field_type = _FIELD_TYPES.get(column["type"])
    if field_type is None:
        raise ValueError(f"`{column['name']}`: a contract has no type for BigQuery's {column['type']}")
    description = column.get("description") or ""
    inner = fields_of_schema(column.get("fields") or ())
    marked = (" " + description).endswith(PII_MARK)
    return Field(
        name=column["name"],
        type=field_type,
        required=column.get("mode") == "REQUIRED",
        repeated=column.get("mode") == "REPEATED",
        description=(" " + description).removesuffix(PII_MARK).strip() if marked else description,
        pii=marked,
        fields=inner,
    )


def column_ddl(column: dict[str, Any], *, with_options: bool = True) -> str:
    """One column as GoogleSQL writes it in CREATE TABLE and ADD COLUMN: `name TYPE NOT NULL OPTIONS (description = '…')`."""
    parts = [f"`{column['name']}`", type_ddl(column, with_options=with_options)]
    if column.get("mode") == "REQUIRED":
        parts.append("NOT NULL")
    if with_options and column.get("description"):
        parts.append(f"OPTIONS (description = '{column['description'].translate(_DDL_ESCAPES)}')")
    return " ".join(parts)


def type_ddl(column: dict[str, Any], *, with_options: bool = False) -> str:
    """The type of a column as GoogleSQL writes it, such as `ARRAY<STRUCT<`a` INT64>>`."""
    field_type: str = _FIELD_TYPES.get(column["type"], column["type"])
    if field_type == "STRUCT":
        inner = ", ".join(column_ddl(field, with_options=with_options) for field in column["fields"])
        field_type = f"STRUCT<{inner}>"
    return f"ARRAY<{field_type}>" if column.get("mode") == "REPEATED" else field_type
