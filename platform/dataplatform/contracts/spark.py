"""An event as it is sent, as a Spark StructType in the JSON that Spark's `StructType.fromJson` and `DataType.fromJson` read.

The StructType describes the message, not the table: the envelope's keys and `params` as one struct, with nothing flattened. A job that
reads the landed payloads gives it to `from_json`.

Spark has no type for JSON: such a field is a string that carries `"type": "JSON"` in its metadata. NUMERIC is decimal(38,9). Descriptions are
`comment`, as Spark itself writes them; personal data is marked by `"pii": true`. Values, bounds and patterns stay in the contract.
"""

from collections.abc import Sequence
from typing import Any, cast

from .events import ENVELOPE_FIELDS, EventContract
from .fields import Field, FieldType

_SPARK_TYPES: dict[FieldType, str] = {
    "STRING": "string",
    "INT64": "long",
    "FLOAT64": "double",
    "NUMERIC": "decimal(38,9)",
    "BOOL": "boolean",
    "TIMESTAMP": "timestamp",
    "DATE": "date",
    "JSON": "string",
}
_FIELD_TYPES: dict[str, FieldType] = {
    spark: field_type for field_type, spark in _SPARK_TYPES.items() if field_type != "JSON"
}


def event_struct(contract: EventContract) -> dict[str, Any]:
    """The StructType of the event as it is sent: the envelope's keys, then `params`."""
    params = {
        "name": "params",
        "type": struct_of(contract.params),
        "nullable": not any(field.required for field in contract.params),
        "metadata": {"comment": contract.description},
    }
    return {"type": "struct", "fields": [*(_struct_field(field) for field in ENVELOPE_FIELDS), params]}


def struct_of(fields: Sequence[Field]) -> dict[str, Any]:
    """The StructType of a tree of fields."""
    return {"type": "struct", "fields": [_struct_field(field) for field in fields]}


def fields_of_struct(struct: dict[str, Any]) -> tuple[Field, ...]:
    """The tree of fields that a StructType describes, as the start of a contract for data that Spark knows already.

    Raises ValueError for what a contract cannot say: maps, arrays of arrays, arrays with nulls and types it does not have.
    """
    return tuple(_field_of(field) for field in struct["fields"])


def _struct_field(field: Field) -> dict[str, Any]:
    spark_type: Any = struct_of(field.fields) if field.type == "STRUCT" else _SPARK_TYPES[field.type]
    if field.repeated:
        spark_type = {"type": "array", "elementType": spark_type, "containsNull": False}
    metadata: dict[str, Any] = {}
    if field.description:
        metadata["comment"] = field.description
    if field.pii:
        metadata["pii"] = True
    if field.type == "JSON":
        metadata["type"] = "JSON"
    return {"name": field.name, "type": spark_type, "nullable": not field.required, "metadata": metadata}


def _field_of(struct_field: dict[str, Any]) -> Field:
    name: str = struct_field["name"]
    metadata: dict[str, Any] = struct_field.get("metadata") or {}
    element: Any = struct_field["type"]
    repeated = isinstance(element, dict) and element["type"] == "array"
    if repeated:
        if element["containsNull"]:
            raise ValueError(f"`{name}`: BigQuery's arrays hold no nulls")
        element = element["elementType"]
    fields: tuple[Field, ...] = ()
    field_type: FieldType
    if isinstance(element, dict) and element["type"] == "struct":
        field_type, fields = "STRUCT", fields_of_struct(element)
    elif element == "string" and metadata.get("type") == "JSON":
        field_type = "JSON"
    elif isinstance(element, str) and element in _FIELD_TYPES:
        field_type = _FIELD_TYPES[element]
    else:
        what = element if isinstance(element, str) else cast(str, element["type"])
        raise ValueError(f"`{name}`: a contract has no type for Spark's {what}")
    return Field(
        name=name,
        type=field_type,
        required=not struct_field["nullable"],
        repeated=repeated,
        description=metadata.get("comment", ""),
        pii=metadata.get("pii", False),
        fields=fields,
    )
