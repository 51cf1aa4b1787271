"""Changes of captured collections as events that features are made from: where they stand, and how fields are read.

A change happened when the source says so (`changed_at`) and is known since it was captured (`captured_at`). Its columns are
`operation`, `document_id`, and the fields of the whole document after it, by their path with `__` for the dot.
"""

import re

from .policy_sql import text_literal

OPERATIONS = ("insert", "update", "replace", "delete")
"""Changes that count; what a snapshot reads has not happened now."""
DATASET = "mongo_raw"
OPERATION, DOCUMENT_ID = "operation", "document_id"
_PLAIN = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*\.[A-Za-z0-9]+(_[A-Za-z0-9]+)*\Z")
_NUMBERS = ("$numberInt", "$numberLong", "$numberDecimal", "$numberDouble")


def is_collection(event: str) -> bool:
    """Whether the events of this name are changes of a collection, `<database>.<collection>`."""
    return "." in event


def has_plain_name(collection: str) -> bool:
    """Whether the names of a collection's tables are its own, letter for letter."""
    return bool(_PLAIN.match(collection))


def raw_table(collection: str) -> str:
    """Table (of `DATASET`) of a collection's documents; the asset that the changes come with."""
    return collection.replace(".", "__", 1)


def changes_table(collection: str) -> str:
    """Table (of `DATASET`) of a collection's changes."""
    return f"{raw_table(collection)}__changes"


def path_of(column: str) -> list[str]:
    """Keys of the field that a column is: `seller___id` is `seller._id`."""
    return column.split("__")


def column_sql(column: str, held: str) -> str:
    """SQL of a column of a change, in the form in which features read its type: TIMESTAMP as microseconds, DATE as text."""
    if column == OPERATION:
        return OPERATION
    if column == DOCUMENT_ID:
        return _text("_id", [])
    source, path = "document", path_of(column)
    numbers = ", ".join(_value(source, [*path, kind]) for kind in _NUMBERS)
    match held:
        case "INT64" | "NUMERIC" | "FLOAT64":
            return f"SAFE_CAST(COALESCE({numbers}, {_value(source, path)}) AS {held})"
        case "BOOL":
            return f"CASE {_value(source, path)} WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END"
        case "TIMESTAMP":
            return f"1000 * SAFE_CAST({_value(source, [*path, '$date', '$numberLong'])} AS INT64)"
        case _:
            return _text(source, path)


def empty_source(columns: dict[str, str]) -> str:
    """SQL that stands for the changes of a collection that was never captured."""
    kinds = {"INT64": "INT64", "TIMESTAMP": "INT64", "FLOAT64": "FLOAT64", "NUMERIC": "NUMERIC", "BOOL": "BOOL"}
    selected = ", ".join(f"CAST(NULL AS {kinds.get(held, 'STRING')}) AS {name}" for name, held in columns.items())
    return (
        "SELECT CAST(NULL AS STRING) AS event_id, CAST(NULL AS INT64) AS happened, CAST(NULL AS INT64) AS known,"
        f" {selected} FROM UNNEST([1]) AS nothing WHERE FALSE"
    )


def changes_source(table: str, columns: dict[str, str], where: str) -> str:
    """SQL of a collection's changes with these columns (name → type); `where` bounds the column `hour`."""
    selected = ", ".join(f"{column_sql(name, held)} AS {name}" for name, held in columns.items())
    operations = ", ".join(text_literal(each) for each in OPERATIONS)
    return (
        "SELECT CONCAT(position, ' ', _id) AS event_id, UNIX_MICROS(LEAST(changed_at, captured_at)) AS happened,"
        f" UNIX_MICROS(captured_at) AS known, {selected}\n"
        f" FROM {table} WHERE operation IN ({operations}) AND _id IS NOT NULL AND {where}"
    )


def _text(source: str, path: list[str]) -> str:
    """A text, a number or an ObjectId as text."""
    wrapped = ", ".join(_value(source, [*path, kind]) for kind in ("$oid", *_NUMBERS))
    return f"COALESCE({_value(source, path)}, {wrapped})"


def _value(source: str, path: list[str]) -> str:
    return f"JSON_VALUE({source}, {text_literal('$' + ''.join(f'.{chr(34)}{key}{chr(34)}' for key in path))})"
