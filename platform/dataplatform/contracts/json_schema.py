"""JSON Schemas (2020-12): of an event as it is sent, and of the contract files themselves for editors.

An event's schema is for editors, gateways and tests of senders. It says all that JSON Schema can say; the verdict on an event is the collector's, which
also looks into the texts that hold numbers and times.
"""

from collections.abc import Sequence
from typing import Any

from .events import ENVELOPE_FIELDS, EventContract
from .fields import Field
from .load import Contracts
from .patterns import portable_pattern

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_EVENT_ID_LENGTH = 128

_INT64_TEXT = r"^-?[0-9]{1,19}$"
_NUMERIC_TEXT = r"^-?[0-9]{1,29}(?:\.[0-9]{1,9})?$"


def event_json_schema(contract: EventContract) -> dict[str, Any]:
    """The JSON Schema of the event as it is sent: the envelope's keys and `params`. Unknown keys are allowed; they go to `_extra`."""
    envelope = {field.name: _value_schema(field) for field in ENVELOPE_FIELDS}
    envelope["event"] = {"const": contract.name, "description": envelope["event"]["description"]}
    envelope["event_id"] |= {"minLength": 1, "maxLength": MAX_EVENT_ID_LENGTH}
    required = [field.name for field in ENVELOPE_FIELDS if field.required]
    if any(field.required for field in contract.params):
        required.append("params")
    return {
        "$schema": DIALECT,
        "title": contract.name,
        "description": contract.description,
        "type": "object",
        "properties": {**envelope, "params": _object_schema(contract.params)},
        "required": required,
    }


def _object_schema(fields: Sequence[Field]) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _value_schema(field) for field in fields},
    }
    if required := [field.name for field in fields if field.required]:
        schema["required"] = required
    return schema


def _value_schema(field: Field) -> dict[str, Any]:
    schema = _object_schema(field.fields) if field.type == "STRUCT" else _scalar_schema(field)
    if field.repeated:
        schema = {"type": "array", "items": schema}
    described = {"description": field.description} if field.description else {}
    if field.required or not schema:
        return {**described, **schema}
    return {**described, "anyOf": [schema, {"type": "null"}]}


def _scalar_schema(field: Field) -> dict[str, Any]:
    match field.type:
        case "STRING":
            schema: dict[str, Any] = {"type": "string"}
            if field.values is not None:
                schema["enum"] = list(field.values)
            if field.pattern is not None:
                schema["pattern"] = portable_pattern(field.pattern)
            return schema
        case "INT64":
            return {"anyOf": [{"type": "integer", **_limits(field)}, {"type": "string", "pattern": _INT64_TEXT}]}
        case "NUMERIC":
            return {"anyOf": [{"type": "number", **_limits(field)}, {"type": "string", "pattern": _NUMERIC_TEXT}]}
        case "FLOAT64":
            return {"type": "number", **_limits(field)}
        case "BOOL":
            return {"type": "boolean"} if field.values is None else {"enum": list(field.values)}
        case "TIMESTAMP":
            return {"type": "string", "format": "date-time"}
        case "DATE":
            return {"type": "string", "format": "date", **({"enum": list(field.values)} if field.values else {})}
        case _:
            return {}


def _limits(field: Field) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if isinstance(field.min, int | float):
        limits["minimum"] = field.min
    if isinstance(field.max, int | float):
        limits["maximum"] = field.max
    if field.values is not None and all(isinstance(value, int | float) for value in field.values):
        limits["enum"] = list(field.values)
    return limits


def contract_json_schema(contracts: Contracts) -> dict[str, Any]:
    """The JSON Schema of a contract file, from the models, with the words and owners that there are to choose from."""
    schema = EventContract.model_json_schema()
    properties = schema["properties"]
    vocabulary = contracts.vocabulary
    for key, words in (
        ("action", vocabulary.actions),
        ("object", vocabulary.objects),
        ("service", vocabulary.services),
        ("owner", {name: owner.description for name, owner in contracts.owners.items()}),
    ):
        described = {"description": properties[key]["description"], "type": "string"}
        properties[key] = {
            **described,
            "enum": sorted(words),
            "markdownEnumDescriptions": [words[w] for w in sorted(words)],
        }
    schema["$defs"]["Field"] |= {
        "if": {"properties": {"type": {"const": "STRUCT"}}, "required": ["type"]},
        "then": {"required": ["fields"]},
        "else": {"properties": {"fields": {"maxItems": 0}}},
    }
    return {"$schema": DIALECT, **schema, "title": "Contract of an event"}
