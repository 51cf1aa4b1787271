"""How GoogleSQL reads the JSON text of one value as each type: its form, its value, its bounds.

`q` is everywhere SQL that gives the JSON text of the value (as JSON_QUERY does: `"text"`, `12.5`, `{…}`). The same
rules in Python are in verdict.py; where the embedded server and BigQuery answer otherwise, the text here avoids it.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from dataplatform.contracts.fields import Field

from . import reasons as why
from .bounds import bounds_of
from .reasons import Reason

TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00)$"
)
DECIMAL = r"^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$"
FIRST_TIME = "TIMESTAMP '0001-01-01 00:00:00+00'"
LAST_TIME = "TIMESTAMP '9999-12-31 23:59:59.999999+00'"


def literal(value: Any) -> str:
    """A Python value as a GoogleSQL literal."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
        return f"'{escaped}'"
    if isinstance(value, Decimal):
        return f"NUMERIC '{value:f}'"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value:%Y-%m-%d %H:%M:%S.%f}+00'"
    if isinstance(value, float):
        return f"CAST('{value!r}' AS FLOAT64)"
    if isinstance(value, int):
        return str(value)
    return f"DATE '{value.isoformat()}'"


def text_of(q: str) -> str:
    """The value as text: a string without its quotes, a number or constant as it is, NULL for objects and arrays."""
    return f"JSON_VALUE({q}, '$')"


def form(field: Field, q: str, x: str | None = None) -> str:
    """Condition: the value has the JSON form of the type and fits it exactly. FALSE or NULL otherwise, and of null.

    `x` is SQL of the typed value where that is at hand.
    """
    v = text_of(q)
    x = x or (value(field, q) if field.type not in ("STRUCT", "STRING", "BOOL", "JSON", "NUMERIC") else "")
    match field.type:
        case "STRING":
            return f"STARTS_WITH({q}, '\"')"
        case "INT64":
            # The embedded server casts '1.0' to 1, BigQuery takes '007': only what is written the same again is right.
            return f"CAST({x} AS STRING) = {v} OR {q} = '-0'"
        case "FLOAT64":
            return f"SUBSTR({q}, 1, 1) NOT IN ('\"', 't', 'f') AND {x} IS NOT NULL"
        case "NUMERIC":
            # A number may be written (or shown by the server) as 1e-9 or 12.50000000000: it is right if NUMERIC keeps it.
            return (
                f"CASE WHEN REGEXP_CONTAINS({v}, r'{DECIMAL}') THEN TRUE"
                f" WHEN SUBSTR({q}, 1, 1) NOT IN ('\"', 't', 'f')"
                f" THEN SAFE_CAST(CAST(SAFE_CAST({v} AS NUMERIC) AS STRING) AS FLOAT64) = SAFE_CAST({v} AS FLOAT64) END"
            )
        case "BOOL":
            return f"{q} IN ('true', 'false')"
        case "TIMESTAMP":
            return f"REGEXP_CONTAINS({v}, r'{TIME}') AND {x} BETWEEN {FIRST_TIME} AND {LAST_TIME}"
        case "DATE":
            # The embedded server also has the years before 1 and after 9999, and infinity: none of these has ten characters.
            return f"LENGTH({v}) = 10 AND CAST({x} AS STRING) = {v}"
        case "STRUCT":
            return f"STARTS_WITH({q}, '{{')"
    return "TRUE"


FIRST_CHARACTERS = {"STRING": "'\"'", "BOOL": "'t', 'f'", "STRUCT": "'{'"}
"""For types whose form shows in the first character of the text: these characters, as SQL."""
FIRST_OF_ARRAY = "'['"


def null_or_begins(q: str, first: str) -> str:
    """Condition, never NULL: the value is missing, null, or begins with one of the characters."""
    return f"IFNULL(SUBSTR({q}, 1, 1), 'n') IN ({first}, 'n')"


def begins_otherwise(q: str, first: str) -> str:
    """Condition: the value is there, not null, and begins with none of the characters."""
    return f"SUBSTR({q}, 1, 1) NOT IN ({first}, 'n')"


def value(field: Field, q: str) -> str:
    """The typed value; NULL where `q` is. Only to be relied on where `form` holds."""
    v = text_of(q)
    match field.type:
        case "STRING":
            return v
        case "INT64" | "TIMESTAMP" | "DATE":
            return f"SAFE_CAST({v} AS {field.type})"
        case "FLOAT64":
            return f"SAFE_CAST({q} AS FLOAT64)"
        case "NUMERIC":
            # Text to NUMERIC costs the embedded server a hundred times text to INT64: so count in units of 0.000000001
            # where they fit, which is exact as well.
            point = f"STRPOS({v}, '.')"
            units = f"CONCAT(REPLACE({v}, '.', ''), REPEAT('0', 9 - IF({point} = 0, 0, LENGTH({v}) - {point})))"
            return (
                f"CASE WHEN REGEXP_CONTAINS({v}, r'{DECIMAL}') THEN COALESCE("
                f"CAST(CAST(SAFE_CAST({units} AS INT64) AS NUMERIC) * NUMERIC '0.000000001' AS NUMERIC),"
                f" SAFE_CAST({v} AS NUMERIC)) ELSE SAFE_CAST({v} AS NUMERIC) END"
            )
        case "BOOL":
            return f"CASE {q} WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END"
        case "JSON":
            # In an array, because the embedded server makes a number on its own a FLOAT64.
            parsed = f"JSON_QUERY(PARSE_JSON(CONCAT('[', {q}, ']'), wide_number_mode => 'round'), '$[0]')"
            return f"CASE WHEN {q} != 'null' THEN {parsed} END"
    raise ValueError(f"a {field.type} has no value of its own")


def bounds(field: Field, x: str) -> list[tuple[Reason, str]]:
    """What the contract asks of values that have the right form: a condition, and the reason (without path) if it fails."""
    limits = bounds_of(field)
    found: list[tuple[Reason, str]] = []
    if limits.values is not None:
        listed = ", ".join(literal(allowed) for allowed in sorted(limits.values))
        found.append((why.not_in_values(field), f"{x} IN ({listed})"))
    if limits.min is not None:
        found.append((why.too_small(field), f"{x} >= {literal(limits.min)}"))
    if limits.max is not None:
        found.append((why.too_large(field), f"{x} <= {literal(limits.max)}"))
    if field.pattern is not None:
        found.append((why.pattern(field), f"REGEXP_CONTAINS({x}, {literal(f'^(?:{field.pattern})$')})"))
    return found
