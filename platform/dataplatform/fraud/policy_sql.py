"""A policy as one GoogleSQL SELECT over a table of facts: what a month of history is judged with.

SQL's own NULL logic is the three-valued logic of the rules; where it differs, the text is written so that it agrees:
`NULL IN ()` is guarded, NaN is read as NULL, and a number is compared with a literal exactly, also where one is INT64 and
the other FLOAT64 (SQL would round the INT64).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from .fact_types import UNTYPED, TypedPolicy, operand_value
from .tree import (
    LEVELS,
    RANK,
    And,
    Comparison,
    Decision,
    Expression,
    Fact,
    InList,
    Leaf,
    Not,
    Or,
    Scalar,
    leaves,
)
from .values import INT64_MAX, INT64_MIN

MAX_INLINE_LIST = 200
"""Longer lists are read from a table instead of being written into the statement."""
BATCH_BYTES = 4_000_000
BATCH_ROWS = 20_000
WORD = 62
"""Rules that one INT64 has a bit for."""


@dataclass(frozen=True, slots=True)
class FactColumn:
    """Where a fact stands in the table of facts: SQL expressions, each NULL where the fact is not of that form.

    A declared number has one of `integer`, `real`, `decimal`; an undeclared one has `integer` and `real`, of which at
    most one is not NULL. TIMESTAMP is an `integer`, its microseconds since 1970. Everything else is `plain`.
    """

    integer: str | None = None
    real: str | None = None
    decimal: str | None = None
    plain: str | None = None

    @property
    def forms(self) -> tuple[str, ...]:
        return tuple(form for form in (self.integer, self.real, self.decimal, self.plain) if form is not None)


def table_column(fact_type: str, column: str) -> FactColumn:
    """A fact that is a column of a table, by its declared type."""
    match fact_type:
        case "INT64":
            return FactColumn(integer=column)
        case "FLOAT64":
            return FactColumn(real=f"IF(IS_NAN({column}), NULL, {column})")
        case "NUMERIC":
            return FactColumn(decimal=column)
        case "TIMESTAMP":
            return FactColumn(integer=f"UNIX_MICROS({column})")
        case "DATE":
            return FactColumn(plain=f"CAST({column} AS STRING)")
        case _:
            return FactColumn(plain=column)


def column_value(fact_type: str, value: str) -> str:
    """A fact as statements calculate it, as a column of its declared type holds it: the way back from `table_column`."""
    match fact_type:
        case "TIMESTAMP":
            return f"TIMESTAMP_MICROS({value})"
        case "DATE":
            return f"CAST({value} AS DATE)"
        case _:
            return value


def policy_statement(
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    columns: Mapping[str, FactColumn],
    source: str,
    *,
    keep: Sequence[str] = ("id",),
    list_table: str | None = None,
    as_arrays: bool = True,
) -> str:
    """The SELECT: `keep`, level (rank, INT64), score (INT64), rules and unknown (ARRAY<STRING>), one row a fact row.

    `source` stands behind FROM. `list_table` (columns list STRING, value STRING) holds the lists that are too long to
    be written into the text. With `as_arrays` false, rules come as bits (`rule_bit`) of the INT64 columns `fired_<word>` and
    `unknown_<word>`: a column a rule would cost more to write than all rules cost to judge.
    """
    policy = typed.policy
    writer = _Writer(typed, parameters, lists, columns, list_table)
    resolved = [policy.resolved(rule.when) for rule in policy.rules]
    counts = Counter(leaf for when in resolved for leaf in leaves(when))
    shared = {leaf: f"shared_{number}" for number, leaf in enumerate(each for each in counts if counts[each] > 1)}
    tests = {leaf: shared.get(leaf) or writer.leaf(leaf) for leaf in counts}
    kept = ", ".join(keep)
    conditions = "".join(f",\n    {writer.leaf(leaf)} AS {name}" for leaf, name in shared.items())
    tested = f"tested AS (\n  SELECT *{conditions}\n  FROM {source}\n),\n" if shared else ""
    rules = "".join(f",\n    {_logic(when, tests)} AS rule_{number}" for number, when in enumerate(resolved))
    score = " + ".join(
        ["0", *(f"IF(rule_{number}, {rule.score}, 0)" for number, rule in enumerate(policy.rules) if rule.score)]
    )
    rule_names = [f"rule_{number}" for number in range(len(policy.rules))]
    # A rule is undecided only where a fact is missing, which is seldom: the rules are looked at one by one only there.
    missing = " OR ".join(f"{form} IS NULL" for fact in policy.facts() for form in columns[fact].forms) or "FALSE"
    if any(name not in lists for name in policy.lists()):
        missing = "TRUE"
    undecided = "missing AND (" + (" OR ".join(f"{name} IS NULL" for name in rule_names) or "FALSE") + ")"
    words = range(-(-len(rule_names) // WORD)) if not as_arrays else range(0)
    if not as_arrays:
        score = _score_of_bits([rule.score for rule in policy.rules])
        undecided = " OR ".join(f"unknown_{word} != 0" for word in words) or "FALSE"
    ranks = ["0"]
    if policy.levels:
        bands = " ".join(
            f"WHEN score >= {_number(least)} THEN {RANK[level]}" for level, least in reversed(policy.levels)
        )
        ranks.append(f"CASE {bands} ELSE 0 END")
    for rank in sorted({RANK[rule.level] for rule in policy.rules if rule.level}):
        forced = [n for n, rule in enumerate(policy.rules) if rule.level and RANK[rule.level] == rank]
        fired = [f"rule_{n}" for n in forced] if as_arrays else _any_bit(forced)
        ranks.append(f"IF(COALESCE({' OR '.join(fired)}, FALSE), {rank}, 0)")
    if RANK[policy.unknown]:
        ranks.append(f"IF(undecided, {RANK[policy.unknown]}, 0)")
    level = f"GREATEST({', '.join(ranks)})" if len(ranks) > 1 else "0"
    if as_arrays:
        names = [text_literal(rule.name) for rule in policy.rules]
        answer = (
            f",\n  {_chosen([f'rule_{n}' for n in range(len(names))], names)} AS rules"
            f",\n  {_chosen([f'rule_{n} IS NULL' for n in range(len(names))], names)} AS unknown"
        )
        last = "ruled"
        flagged = ""
    else:
        answer = "".join(f", fired_{word}, unknown_{word}" for word in words)
        bits = "".join(
            f",\n    {_bits(rule_names[word * WORD : (word + 1) * WORD])} AS fired_{word}"
            f",\n    IF(missing, {_bits([f'{name} IS NULL' for name in rule_names[word * WORD : (word + 1) * WORD]])}, 0)"
            f" AS unknown_{word}"
            for word in words
        )
        last = "flagged"
        flagged = f"flagged AS (\n  SELECT {kept}{bits}\n  FROM ruled\n),\n"
    return (
        f"WITH {tested}ruled AS (\n  SELECT {kept},\n    {missing} AS missing{rules}\n"
        f"  FROM {'tested' if shared else source}\n),\n"
        f"{flagged}scored AS (\n  SELECT *, {score} AS score, {undecided} AS undecided\n  FROM {last}\n)\n"
        f"SELECT {kept}, {level} AS level, score{answer}\nFROM scored"
    )


def long_lists(typed: TypedPolicy, lists: Mapping[str, frozenset[Scalar]]) -> dict[str, frozenset[Scalar]]:
    """The policy's lists that belong into a table."""
    return {name: lists[name] for name in typed.policy.lists() if len(lists.get(name, ())) > MAX_INLINE_LIST}


def rule_bit(number: int, column: str = "fired") -> tuple[str, int]:
    """The column in which a rule (by its place in the policy) has its bit, and the bit's value."""
    return f"{column}_{number // WORD}", 1 << (number % WORD)


def filter_sql(typed: TypedPolicy, columns: Mapping[str, FactColumn]) -> str:
    """The first rule's expression as one SQL condition, NULL where it cannot be decided."""
    writer = _Writer(typed, {}, {}, columns, None)
    when = typed.policy.resolved(typed.policy.rules[0].when)
    return _logic(when, {leaf: f"({writer.leaf(leaf)})" for leaf in leaves(when)})


type RunQuery = Callable[[str, Mapping[str, Sequence[str]]], Iterable[Mapping[str, Any]]]
"""Runs a statement with array-of-STRING parameters and gives its rows."""


def decide_by_sql(
    run: RunQuery,
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    facts: Sequence[Mapping[str, Fact]],
    list_table: str | None = None,
) -> list[Decision]:
    """Decisions for many facts by the SQL engine, in their order. `list_table` as in `policy_statement`."""
    decisions: list[Decision] = []
    statement = policy_statement(
        typed, parameters, lists, row_columns(typed), "facts", keep=("place",), list_table=list_table
    )
    # The statement's own WITH is continued, so that all stays one SELECT.
    query = f"WITH facts AS (\n{rows_statement(typed)}\n),\n{statement.removeprefix('WITH ')}\nORDER BY place"
    for batch in batches([encode_row(typed, row) for row in facts]):
        for row in run(query, {"rows": batch}):
            level: Any = LEVELS[row["level"]]
            decisions.append(Decision(level, row["score"], tuple(row["rules"]), tuple(row["unknown"])))
    return decisions


def row_columns(typed: TypedPolicy) -> dict[str, FactColumn]:
    """Columns of the facts that `rows_statement` unpacks."""
    found = {}
    for number, fact in enumerate(typed.policy.facts()):
        match typed.types[fact]:
            case "INT64" | "TIMESTAMP":
                found[fact] = FactColumn(integer=f"i{number}")
            case "FLOAT64":
                found[fact] = FactColumn(real=f"r{number}")
            case "NUMERIC":
                found[fact] = FactColumn(decimal=f"d{number}")
            case "NUMBER":
                found[fact] = FactColumn(integer=f"i{number}", real=f"r{number}")
            case "BOOL":
                found[fact] = FactColumn(plain=f"b{number}")
            case _:
                found[fact] = FactColumn(plain=f"t{number}")
    return found


def rows_statement(typed: TypedPolicy) -> str:
    """SELECT that unpacks @rows (one JSON text a set of facts, from `encode_row`) into typed columns, and their place."""
    casts = {
        "i": "SAFE_CAST({} AS INT64)",
        "r": "SAFE_CAST({} AS FLOAT64)",
        "d": "SAFE_CAST({} AS NUMERIC)",
        "b": "{} = 'true'",
        "t": "{}",
    }
    unpacked = []
    for column in row_columns(typed).values():
        for name in column.forms:
            value = f"JSON_VALUE(row_text, '$.{name}')"
            unpacked.append(f",\n    {casts[name[0]].format(value)} AS {name}")
    return f"  SELECT place{''.join(unpacked)}\n  FROM UNNEST(@rows) AS row_text WITH OFFSET AS place"


def encode_row(typed: TypedPolicy, facts: Mapping[str, Fact]) -> str:
    """One set of facts as the JSON text that `rows_statement` unpacks; every value is a text, so that none is rounded."""
    row: dict[str, str] = {}
    for fact, column in row_columns(typed).items():
        value = facts.get(fact)
        if value is None:
            continue
        if isinstance(value, bool):
            row[column.forms[0]] = "true" if value else "false"
        elif isinstance(value, int) and column.integer:
            row[column.integer] = str(value)
        elif isinstance(value, int | float) and column.real:
            row[column.real] = repr(float(value))
        elif isinstance(value, Decimal):
            row[column.forms[0]] = format(value, "f")
        else:
            row[column.forms[0]] = str(value)
    return msgspec.json.encode(row).decode()


def batches(rows: Sequence[str]) -> Iterable[list[str]]:
    """The rows cut so that a request stays below what BigQuery takes."""
    batch: list[str] = []
    size = 0
    for row in rows:
        if batch and (size + len(row) > BATCH_BYTES or len(batch) >= BATCH_ROWS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row)
    if batch:
        yield batch


def text_literal(text: str) -> str:
    """A GoogleSQL string literal."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(character, character) for character in text) + "'"


def list_text(value: Scalar) -> str:
    """A list's entry as the text that its table holds."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def _bits(tests: list[str]) -> str:
    return " + ".join(f"IF({test}, {1 << place}, 0)" for place, test in enumerate(tests))


def _score_of_bits(scores: Sequence[int]) -> str:
    """The sum of the scores of the bits that are set: rules of one score are counted together."""
    masks: dict[tuple[int, int], int] = {}
    for number, score in enumerate(scores):
        if score:
            place = (number // WORD, score)
            masks[place] = masks.get(place, 0) | 1 << (number % WORD)
    return " + ".join(["0", *(f"{score} * BIT_COUNT(fired_{word} & {mask})" for (word, score), mask in masks.items())])


def _any_bit(numbers: Sequence[int]) -> list[str]:
    """By word, whether one of some rules fired."""
    masks: dict[str, int] = {}
    for number in numbers:
        word, bit = rule_bit(number)
        masks[word] = masks.get(word, 0) | bit
    return [f"(({word} & {mask}) != 0)" for word, mask in masks.items()]


def _chosen(tests: list[str], names: list[str]) -> str:
    parts = [f"IF({test}, [{name}], [])" for test, name in zip(tests, names, strict=True)]
    return f"ARRAY_CONCAT({', '.join(parts)})" if parts else "CAST([] AS ARRAY<STRING>)"


def _logic(expression: Expression, tests: Mapping[Leaf, str]) -> str:
    match expression:
        case Not(operand):
            return f"NOT ({_logic(operand, tests)})"
        case And(operands):
            return " AND ".join(_operand(each, tests) for each in operands)
        case Or(operands):
            return " OR ".join(_operand(each, tests) for each in operands)
        case Comparison() | InList():
            return tests[expression]
        case _:
            raise AssertionError(expression)


def _operand(expression: Expression, tests: Mapping[Leaf, str]) -> str:
    text = _logic(expression, tests)
    return text if isinstance(expression, Comparison | InList) else f"({text})"


@dataclass(frozen=True, slots=True)
class _Writer:
    typed: TypedPolicy
    parameters: Mapping[str, Scalar]
    lists: Mapping[str, frozenset[Scalar]]
    columns: Mapping[str, FactColumn]
    list_table: str | None

    def leaf(self, leaf: Leaf) -> str:
        column = self.columns[leaf.fact]
        if isinstance(leaf, InList):
            return self._membership(leaf, column)
        operand = operand_value(leaf, self.typed.types[leaf.fact], self.parameters)
        parts = []
        if column.integer is not None:
            parts.append(_integer(column.integer, leaf.operator, operand))
        if column.real is not None:
            parts.append(_real(column.real, leaf.operator, operand))
        if column.decimal is not None:
            parts.append(f"{column.decimal} {leaf.operator} {_decimal(operand)}")
        if column.plain is not None:
            literal = text_literal(operand) if isinstance(operand, str) else str(operand).upper()
            parts.append(f"{column.plain} {leaf.operator} {literal}")
        return _either(parts)

    def _membership(self, leaf: InList, column: FactColumn) -> str:
        entries = self.lists.get(leaf.list)
        if entries is None:
            return "CAST(NULL AS BOOL)"
        if len(entries) > MAX_INLINE_LIST and self.list_table:
            return self._in_table(leaf, column)
        parts = []
        for form, kind in ((column.integer, "i"), (column.real, "r"), (column.decimal, "d"), (column.plain, "t")):
            if form is not None:
                parts.append(_in_values(form, kind, entries))
        return _either(parts)

    def _in_table(self, leaf: InList, column: FactColumn) -> str:
        table = self.list_table
        chosen = f"FROM {table} AS entry WHERE entry.list = {text_literal(leaf.list)}"
        casts = (
            (column.integer, f"(SELECT SAFE_CAST(entry.value AS INT64) AS v {chosen})"),
            (column.real, f"(SELECT SAFE_CAST(entry.value AS FLOAT64) AS v {chosen})"),
            (column.decimal, f"(SELECT SAFE_CAST(entry.value AS NUMERIC) AS v {chosen})"),
            (column.plain, f"(SELECT entry.value AS v {chosen})"),
        )
        # Entries that are no INT64 would be NULL, and one NULL makes every miss unknown: leave them out.
        parts = [
            f"IF({form} IS NULL, NULL, {form} IN (SELECT v FROM {select} AS known WHERE v IS NOT NULL))"
            for form, select in casts
            if form is not None
        ]
        return _either(parts)


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"COALESCE({', '.join(parts)})"


def _constant(column: str, outcome: bool) -> str:
    """True or false for every known value, NULL for an unknown one."""
    return f"IF({column} IS NULL, NULL, {'TRUE' if outcome else 'FALSE'})"


def _integer(column: str, operator: str, operand: Scalar) -> str:
    """An INT64 column compared with any number, exactly."""
    number: int | float = operand  # type: ignore[assignment]  # numbers are compared with numbers only
    whole = math.floor(number)
    if whole != number:
        if operator in ("=", "!="):
            return _constant(column, operator == "!=")
        # Between two whole numbers: < and <= mean "at most the lower one".
        operator = "<=" if operator in ("<", "<=") else ">"
    if whole > INT64_MAX:
        return _constant(column, operator in ("<", "<=", "!="))
    if whole < INT64_MIN:
        return _constant(column, operator in (">", ">=", "!="))
    return f"{column} {operator} {_whole(whole)}"


def _real(column: str, operator: str, operand: Scalar) -> str:
    """A FLOAT64 column compared with any number, exactly."""
    number: int | float = operand  # type: ignore[assignment]  # numbers are compared with numbers only
    near = float(number)
    if near == number:
        return f"{column} {operator} {_float(near)}"
    # A whole number that no FLOAT64 is: between two neighbours.
    if operator in ("=", "!="):
        return _constant(column, operator == "!=")
    below = near if near < number else math.nextafter(near, -math.inf)
    return f"{column} {'<=' if operator in ('<', '<=') else '>'} {_float(below)}"


def _in_values(column: str, kind: str, entries: frozenset[Scalar]) -> str:
    match kind:
        case "i":
            wanted = sorted({int(v) for v in entries if not isinstance(v, str) and v == int(v)})
            literals = [_whole(value) for value in wanted if INT64_MIN <= value <= INT64_MAX]
        case "r":
            literals = [_float(float(v)) for v in sorted(v for v in entries if not isinstance(v, str)) if float(v) == v]
        case "d":
            # An entry with more decimals than a NUMERIC can have equals none.
            exact = sorted(Decimal(str(v)) for v in entries if not isinstance(v, str))
            literals = [_decimal(v) for v in exact if v == round(v, 9) and abs(v) < Decimal(10) ** 29]
        case _:
            literals = [text_literal(v) if isinstance(v, str) else str(v).upper() for v in sorted(entries, key=str)]
    if not literals:
        return _constant(column, False)
    return f"{column} IN ({', '.join(literals)})"


def _whole(value: int) -> str:
    return "CAST('-9223372036854775808' AS INT64)" if value == INT64_MIN else str(value)


def _float(value: float) -> str:
    # A bare 0.1 is a DECIMAL to some engines; the cast of its text is the same FLOAT64 everywhere.
    return f"CAST('{value!r}' AS FLOAT64)"


def _decimal(value: Scalar) -> str:
    return f"NUMERIC '{Decimal(str(value)):f}'"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else _float(value)


__all__ = ["UNTYPED", "FactColumn", "decide_by_sql", "policy_statement", "table_column"]
