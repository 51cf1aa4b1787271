"""The BigQuery schema of an event's table, in the JSON form of BigQuery's API, and back."""

from collections.abc import Sequence
from typing import Any

from .events import LEADING_FIELDS, TRAILING_FIELDS, EventContract
from .fields import Field, FieldType

PII_MARK = " [personal data]"
"""Ends the description of every column that holds personal data, so that the mark is seen wherever the table is."""
POLICY_TAG_PLACEHOLDER = "projects/PROJECT/locations/LOCATION/taxonomies/TAXONOMY/policyTags/PERSONAL_DATA"
"""Stands for the policy tag in `schemas/generated/bigquery`; the real one belongs to a project."""

_API_NAMES: dict[FieldType, str] = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_FIELD_TYPES: dict[str, FieldType] = {name: field_type for field_type, name in _API_NAMES.items()}


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


def _flattened(fields: Sequence[Field], prefix: str, *, required: bool, pii: bool, policy_tag: str | None) -> "Any":
    for field in fields:
        name = prefix + field.name
        if field.type == "STRUCT" and not field.repeated:
            yield from _flattened(
                field.fields,
                f"{name}__",
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
    description = (field.description + (PII_MARK if pii else "")).strip()
    if description:
        column["description"] = description
    if field.type == "STRUCT":
        column["fields"] = [field_schema(inner, policy_tag, pii=pii) for inner in field.fields]
    elif pii and policy_tag:
        column["policyTags"] = {"names": [policy_tag]}
    return column
