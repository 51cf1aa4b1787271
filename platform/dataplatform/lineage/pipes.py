"""Pipe syntax: `FROM t |> WHERE … |> AGGREGATE …`.

A pipe query is lifted out of the text, which keeps a table name in its place, and is resolved stage by stage over one scope: that is how
its names are defined (a table's alias stays visible until a stage makes new rows).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from sqlglot import exp

from .lexemes import Lexeme, lexemes, split_top
from .parsing import SyntaxProblem, parse
from .rewriting import rows_matched

_ORDERING = re.compile(r"\s+(?:ASC|DESC)(?:\s+NULLS\s+(?:FIRST|LAST))?\s*$", re.IGNORECASE)
_JOINS = frozenset({"JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS"})
_SETS = frozenset({"UNION", "INTERSECT", "EXCEPT"})


ROWS = "__rows"
"""Stands for the rows so far in the query that a stage is (QUERY)."""


@dataclass(frozen=True)
class Stage:
    """One step: the operator's word, and what follows it as trees."""

    operator: str
    nodes: tuple[exp.Expr, ...] = ()
    names: tuple[str, ...] = ()
    keys: tuple[exp.Expr, ...] = ()


@dataclass(frozen=True)
class PipeQuery:
    """A pipe query: the query it starts with, then its stages."""

    first: exp.Expr
    stages: tuple[Stage, ...]


def lift_pipes(text: str, prefix: str = "__pipe_") -> tuple[str, dict[str, PipeQuery]]:
    """The text with each pipe query replaced by `SELECT * FROM <prefix><n>`, and the pipe queries. Raises SyntaxProblem."""
    pipes: dict[str, PipeQuery] = {}
    if "|>" not in text:
        return text, pipes
    while (found := _innermost(text)) is not None:
        start, end = found
        head, query = _head(text[start:end])
        name = f"{prefix}{len(pipes)}"
        pieces = [piece for _, piece in split_top(query, frozenset({"|>"}))]
        first = pieces[0] if not pieces[0].upper().startswith("FROM") else "SELECT * " + pieces[0]
        start_query = parse(first)
        if not isinstance(start_query, exp.Query):
            raise SyntaxProblem(f"not a query before |>: {first[:100]}")
        pipes[name] = PipeQuery(start_query, tuple(_stage(piece) for piece in pieces[1:]))
        lifted = f"{text[:start]}{head} SELECT * FROM {name} {text[end:]}"
        if lifted.count("|>") >= text.count("|>"):
            raise SyntaxProblem(f"not a query before |>: {head[:100]}")
        text = lifted
    return text, pipes


def _innermost(text: str) -> tuple[int, int] | None:
    """Where the deepest parenthesis (or the whole text) with a pipe in it starts and ends."""
    opened: list[tuple[int, bool]] = [(0, False)]
    end = len(text)
    for lexeme in lexemes(text):
        if lexeme.word == "(":
            opened.append((lexeme.end, False))
        elif lexeme.word == ")" and len(opened) > 1:
            start, piped = opened.pop()
            if piped:
                return start, lexeme.start
        elif lexeme.word == "|>":
            opened[-1] = (opened[-1][0], True)
        elif lexeme.word == ";" and len(opened) == 1:
            end = lexeme.start
    return (0, end) if opened[0][1] else None


def _head(text: str) -> tuple[str, str]:
    """What stands before the query itself (CREATE … AS, INSERT INTO …, WITH …), and the query."""
    depth = 0
    found: list[Lexeme] = lexemes(text)
    for position, lexeme in enumerate(found):
        if lexeme.word == "|>" and depth <= 0:
            break
        if lexeme.word == "(":
            if position == 0:
                break
            depth += 1
        elif lexeme.word == ")":
            depth -= 1
        elif depth == 0 and lexeme.word in ("FROM", "SELECT"):
            return text[: lexeme.start], text[lexeme.start :]
    return "", text


def _listed(text: str) -> list[str]:
    return [_ORDERING.sub("", piece) for _, piece in split_top(text, frozenset({","})) if piece]


def _select(text: str) -> exp.Select:
    node = parse(f"SELECT {text}")
    if not isinstance(node, exp.Select):
        raise SyntaxProblem(f"not a select list: {text[:100]}")
    return node


def _stage(text: str) -> Stage:
    found = lexemes(text)
    word = found[0].word if found else ""
    rest = text[found[0].end :].strip() if found else ""
    if word == "SELECT":
        return Stage(word, (parse(text),))
    if word in ("EXTEND", "WINDOW"):
        return Stage("EXTEND", (_select(rest),))
    if word == "SET":
        return Stage(word, tuple(parse(f"UPDATE t SET {rest}").expressions))
    if word == "DROP":
        return Stage(word, names=tuple(name.strip("` ").lower() for name in _listed(rest)))
    if word == "RENAME":
        return Stage(word, (_select(rest),))
    if word == "AS":
        return Stage(word, names=(rest.strip("` "),))
    if word == "WHERE":
        return Stage(word, (parse(f"SELECT 1 FROM t WHERE {rest}").args["where"].this,))
    if word == "AGGREGATE":
        pieces = split_top(rest, frozenset({"GROUP"}))
        aggregates = _listed(pieces[0][1])
        keys: list[exp.Expr] = []
        if len(pieces) > 1:
            by = re.sub(r"^\s*(?:AND\s+ORDER\s+)?BY\s+", "", pieces[1][1], flags=re.IGNORECASE)
            keys = _keys(by)
        return Stage(word, (_select(", ".join(aggregates)),) if aggregates else (), keys=tuple(keys))
    if word == "WITH":
        return Stage(word, (parse(f"{text} SELECT 1"),))
    if not _SETS.isdisjoint(one.word for one in found[:3]):
        return _set_operation(text, found)
    if word in _JOINS:
        return Stage("JOIN", tuple(parse(f"SELECT * FROM t {text}").args["joins"]))
    if word == "ORDER":
        return Stage(word, (parse(f"SELECT * FROM t {text}").args["order"],))
    if word in ("PIVOT", "UNPIVOT"):
        return Stage(word, tuple(parse(f"SELECT * FROM t {text}").args["from_"].this.args["pivots"]))
    if word == "MATCH_RECOGNIZE":
        return Stage("QUERY", (parse(rows_matched(text[found[1].end : found[-1].start], ROWS)),))
    if word == "CALL":
        return _called(rest)
    if word in ("LIMIT", "TABLESAMPLE", "ASSERT", "DISTINCT"):
        return Stage(word)
    raise SyntaxProblem(f"unknown pipe operator {word}")


def _keys(by: str) -> list[exp.Expr]:
    """Keys of GROUP BY; of grouping sets each once."""
    if re.match(r"\s*(?:GROUPING\s+SETS|ROLLUP|CUBE)\b", by, re.IGNORECASE):
        group = parse(f"SELECT 1 FROM t GROUP BY {by}").args["group"]
        return list({column.sql(): column for column in group.find_all(exp.Column)}.values())
    return list(_select(", ".join(_listed(by))).expressions)


def _set_operation(text: str, found: list[Lexeme]) -> Stage:
    """`UNION ALL (query), (query)`, each of them combined with the rows so far."""
    start = next(
        (
            one.start
            for one, inner in pairwise(found)
            if one.word == "(" and inner.word in ("SELECT", "FROM", "WITH", "(")
        ),
        len(text),
    )
    queries = _listed(text[start:])
    return Stage("SET_OPERATION", tuple(parse(f"SELECT 1 {text[:start]} {query}") for query in queries))


def _called(text: str) -> Stage:
    """CALL of a table function: the rows so far are its table."""
    name, _, rest = text.partition("(")
    end = rest.rfind(")")
    if end < 0:
        raise SyntaxProblem(f"not a call: {text[:100]}")
    arguments = rest[:end].strip()
    rows = f"(SELECT * FROM {ROWS})"
    given = [arguments, rows] if arguments.upper().startswith("MODEL") else [rows, arguments]
    alias = re.sub(r"^AS\b", "", rest[end + 1 :].strip(), flags=re.IGNORECASE).strip("` ")
    query = parse(f"SELECT * FROM {name}({', '.join(filter(None, given))})")
    return Stage("QUERY", (query,), names=(alias,) if alias else ())
