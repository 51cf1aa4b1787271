"""GoogleSQL text to sqlglot's tree; what its parser does not take is written otherwise first (see `rewriting`)."""

from __future__ import annotations

import logging
import re

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, SqlglotError

from .rewriting import rewritten

# The parser logs a warning for each statement it keeps as an opaque command; we record those ourselves, with a reason.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

BIGQUERY = Dialect.get_or_raise("bigquery")
_GENERATOR = BIGQUERY.generator(comments=False)
MAX_EXPRESSION = 1000
"""Characters kept of an expression's text."""


class SyntaxProblem(Exception):
    """A text that is not taken as BigQuery's SQL; the message is one line with the place."""


def parse(text: str) -> exp.Expr:
    """The tree of one statement; raises SyntaxProblem."""
    try:
        node = _parse(text)
        if not isinstance(node, exp.Command):
            return node
    except SqlglotError as error:
        problem = SyntaxProblem(_one_line(error))
        node = None
    plain = rewritten(text)
    if plain != text:
        try:
            return _parse(plain)
        except SqlglotError:
            pass
    if node is None:
        raise problem
    return node


def _parse(text: str) -> exp.Expr:
    try:
        return next((one for one in BIGQUERY.parse(text) if one is not None), None) or exp.Semicolon()
    except (TypeError, AttributeError) as error:  # the compiled parser's way to say so, for some texts
        raise ParseError(f"not understood: {error}") from error


def parse_expression(text: str) -> exp.Expr:
    """The tree of an expression; raises SyntaxProblem."""
    select = parse(f"SELECT {text}")
    if not isinstance(select, exp.Select) or not select.expressions:
        raise SyntaxProblem(f"not an expression: {text[:100]}")
    found: exp.Expr = select.expressions[0].pop()
    return found


def sql(node: exp.Expr, *, keep: bool = True) -> str:
    """The text of a node, cut at MAX_EXPRESSION characters.

    The generator may rewrite queries on its way: `keep` when the tree will be resolved again.
    """
    try:
        text = _GENERATOR.generate(node, copy=keep and node.find(exp.Query, exp.Unnest) is not None)
    except (SqlglotError, ValueError):
        text = type(node).__name__
    return text if len(text) <= MAX_EXPRESSION else text[: MAX_EXPRESSION - 1] + "…"


def _one_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    return " ".join(text.split())[:300]
