"""A plain reading of the mapping table: what a typed row holds of a document, and what is left over."""

import base64
from datetime import UTC, datetime, timedelta
from decimal import Decimal, getcontext
from typing import Any

from dataplatform.cdc.schema import Node, pointer
from dataplatform.cdc.shapes import kind_of

getcontext().prec = 60  # no product of a Decimal128 is rounded here


def model_value(node: Node, value: Any, left: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The column's value of a parsed canonical value; what cannot be held goes into `left`."""
    kind = kind_of(value)
    if kind == "null":
        return [] if node.repeated else None
    if node.type == "JSON":
        return value
    if node.repeated:
        if kind != "array":
            left[pointer(path)] = value
            return []
        inside: dict[str, Any] = {}
        result = [model_one(node, element, inside, (*path, str(number))) for number, element in enumerate(value)]
        if None in result:
            inside = {pointer(path): value}
        left |= inside
        return [held for held in result if held is not None]
    held = model_one(node, value, left, path)
    if held is None:
        left[pointer(path)] = value
    return held


def model_one(node: Node, value: Any, left: dict[str, Any], path: tuple[str, ...]) -> Any:
    kind = kind_of(value)
    if kind not in node.accepts:
        return None
    if node.type == "STRUCT":
        columns = {child.key for child in node.fields} | ({"_id"} if not path and node.key == "" else set())
        if node.closed or any(key in value for key in node.hidden):
            left |= {pointer((*path, k)): v for k, v in value.items() if k not in columns and v is not None}
        return {
            child.column: model_value(child, value.get(child.key), left, (*path, child.key)) for child in node.fields
        }
    inner = next(iter(value.values())) if isinstance(value, dict) else value
    if node.type == "STRING" and node.pinned and kind == "bool":
        return "true" if value else "false"
    match node.type:
        case "STRING":
            return inner if kind != "date" else str(model_time(inner))
        case "INT64":
            return int(inner)
        case "FLOAT64":
            return float(inner)
        case "NUMERIC":
            number = Decimal(inner)
            if not number.is_finite() or abs(number) >= Decimal(10) ** 29:
                return None
            return number if (number * 10**9) % 1 == 0 else None
        case "BOOL":
            return value
        case "TIMESTAMP":
            if kind == "timestamp":
                return datetime.fromtimestamp(inner["t"], UTC)
            return model_time(inner)
        case "BYTES":
            return base64.b64decode(inner["base64"])
    raise AssertionError(node.type)


def model_time(inner: Any) -> datetime | None:
    milliseconds = int(inner["$numberLong"])
    if not -62_135_596_800_000 <= milliseconds <= 253_402_300_799_999:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def normal(value: Any) -> Any:
    """Values as the client gives them and as the model does, made comparable (NaN equals NaN)."""
    match value:
        case dict():
            return {key: normal(inner) for key, inner in value.items() if key != "one"}
        case list():
            return [normal(inner) for inner in value]
        case float():
            return repr(value)
        case datetime():
            return value.isoformat()
        case Decimal():
            return format(value.normalize(), "f")
    return value
