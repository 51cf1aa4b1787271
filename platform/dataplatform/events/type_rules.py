"""How each type is read, in words; tests hold every example here to the verdict, and docs/events.md is generated from it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """What of JSON a type takes. `accepts` and `refuses` are JSON texts."""

    type: str
    form: str
    accepts: tuple[str, ...]
    refuses: tuple[str, ...]


RULES: tuple[Rule, ...] = (
    Rule("STRING", "a string", ('""', '"12"', '"null"'), ("12", "true", "{}")),
    Rule(
        "INT64",
        "an integer of 64 bits, as a number without fraction and exponent, or as text without leading zeros",
        ("9007199254740993", '"9007199254740993"', "-0"),
        ("1.0", "1e3", '"007"', '"-0"', "9223372036854775808"),
    ),
    Rule(
        "FLOAT64",
        "a number; the nearest 64-bit float is meant",
        ("1", "2.50", "1e3", "0.1000000000000000055"),
        ('"1.5"', "1e400", "true"),
    ),
    Rule(
        "NUMERIC",
        "a decimal of at most 29 digits before and 9 after the point, in a string (without exponent) or as a number"
        " that 64-bit integers and floats keep",
        ('"12.50"', "12.50", "1e-9", '"99999999999999999999.5"'),
        ('"1.0000000000"', "1e-10", "12345678901234567.89", '"1e3"'),
    ),
    Rule("BOOL", "`true` or `false`", ("true", "false"), ('"true"', "1")),
    Rule(
        "TIMESTAMP",
        "RFC 3339 with `T`, an offset (`Z` or up to ±14:00) and at most 6 decimals; no leap second",
        ('"2026-01-31T23:59:59.123456+09:00"', '"2026-01-31T23:59:59Z"'),
        ('"2026-01-31T23:59:59"', '"2026-01-31 23:59:59Z"', '"2026-01-31T23:59:59.123456789Z"', "1767225600"),
    ),
    Rule("DATE", "`YYYY-MM-DD`, a day of the calendar", ('"2024-02-29"',), ('"2025-02-29"', '"2026-1-31"')),
    Rule(
        "JSON",
        "anything but numbers that 64-bit integers and floats would change",
        ('{"a":[1,null]}', '"x"', "2.50"),
        ("0.1234567890123456789",),
    ),
)


def documentation() -> str:
    """The rules as a Markdown table."""
    rows = [f"| {rule.type} | {rule.form} | {_listed(rule.accepts)} | {_listed(rule.refuses)} |" for rule in RULES]
    return "\n".join(["| type | form | such as | not |", "|---|---|---|---|", *rows])


def _listed(texts: tuple[str, ...]) -> str:
    return ", ".join(f"`{text}`" for text in texts)
