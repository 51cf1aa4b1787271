"""The text form of conditions and rules: read into the tree, and printed back from it.

    rule       = and { OR and }
    and        = not { AND not }
    not        = NOT not | "(" rule ")" | comparison | condition
    comparison = fact ( "<" | "<=" | ">" | ">=" | "=" | "!=" ) ( literal | "$" parameter ) | fact IN LIST list

Words are written in capitals but read in any case. A text is in single or double quotes; a quote inside is doubled.
"""

import math
import re
from dataclasses import dataclass

from .tree import (
    OPERATORS,
    And,
    Comparison,
    ConditionReference,
    Constant,
    Expression,
    InList,
    Leaf,
    Not,
    Operator,
    Or,
    ParameterReference,
)

MAX_LENGTH = 20_000
"""Characters one rule may have."""
MAX_DEPTH = 40
"""Levels of parentheses and NOTs; Python's own compiler stops soon after."""
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
KEYWORDS = frozenset({"AND", "OR", "NOT", "IN", "TRUE", "FALSE", "NULL"})
"""Words no fact or condition can have as its name."""

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_]))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)
      | (?P<parameter>\$[A-Za-z_][A-Za-z0-9_]*)
      | (?P<symbol><=|>=|!=|<>|==|&&|\|\||[<>=()!])""",
    re.VERBOSE,
)
_FOREIGN = {"==": "=", "<>": "!=", "&&": "AND", "||": "OR", "!": "NOT"}
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class ExpressionError(Exception):
    """The text is no expression. `at` is the 0-based offset of the mistake in it, `code` is stable."""

    def __init__(self, at: int, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.at = at
        self.code = code
        self.message = message
        self.fix = fix


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """The text in capitals where it is a name, so that it can be compared with a keyword."""
        return self.text.upper() if self.kind == "name" else ""


def parse_rule(text: str) -> Expression:
    """Read a rule: comparisons and names of conditions, combined by AND, OR, NOT and parentheses."""
    return _Parser(text).whole()


def parse_condition(text: str) -> Leaf:
    """Read a condition: exactly one comparison or list membership."""
    expression = parse_rule(text)
    if isinstance(expression, Comparison | InList):
        return expression
    if isinstance(expression, ConditionReference):
        raise ExpressionError(
            expression.at,
            "not_a_comparison",
            f"a condition compares something, and {expression.name} alone does not",
            f"write it out, such as {expression.name} = TRUE or {expression.name} >= 10",
        )
    raise ExpressionError(
        0,
        "not_a_comparison",
        "a condition is one comparison, without AND, OR or NOT",
        "split it into conditions and combine them in a rule",
    )


def print_expression(expression: Expression) -> str:
    """The text that reads back as the same tree."""
    match expression:
        case Comparison(fact, operator, operand):
            return f"{fact} {operator} {print_operand(operand)}"
        case InList(fact, name):
            return f"{fact} IN LIST {name}"
        case ConditionReference(name):
            return name
        case Not(operand):
            return f"NOT {_inside(operand, And, Or)}"
        case And(operands):
            return " AND ".join(_inside(each, And, Or) for each in operands)
        case Or(operands):
            return " OR ".join(_inside(each, Or) for each in operands)


def print_operand(operand: Constant | ParameterReference) -> str:
    """A literal or a parameter as it is written."""
    if isinstance(operand, ParameterReference):
        return f"${operand.name}"
    value = operand.value
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def _inside(expression: Expression, *wrapped: type[And] | type[Or]) -> str:
    text = print_expression(expression)
    return f"({text})" if isinstance(expression, wrapped) else text


def _tokens(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            MAX_LENGTH, "too_long", f"longer than {MAX_LENGTH} characters", "split it into several rules"
        )
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(text, at)
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(_Token(kind, match.group(), at))
        at = match.end()
    found.append(_Token("end", "", len(text)))
    return found


def _unreadable(text: str, at: int) -> ExpressionError:
    character = text[at]
    if character in "'\"":
        return ExpressionError(
            at, "open_quote", "this quote is never closed", f"put {character} at the end of the text"
        )
    if wrong := re.match(r"[+-]?\.?[0-9][\w.]*", text[at:]):
        return ExpressionError(
            at, "not_a_number", f"{wrong.group()!r} is no number", "write a number without its unit, such as 30"
        )
    if character in "*/%+-":
        return ExpressionError(
            at, "arithmetic", "conditions do not calculate", "declare a feature that holds the result, and compare that"
        )
    if character == "$":
        return ExpressionError(at, "syntax", "a parameter's name follows its $", "write $name, such as $min_membership")
    return ExpressionError(at, "syntax", f"{character!r} has no meaning here", "remove it, or put texts in quotes")


class _Parser:
    """Recursive descent over the tokens; one method a line of the grammar."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.place = 0
        self.depth = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.place]

    def take(self) -> _Token:
        token = self.next
        self.place += 1
        return token

    def whole(self) -> Expression:
        if self.next.kind == "end":
            raise ExpressionError(0, "syntax", "there is nothing here", "write a comparison, such as amount >= 1000")
        expression = self.disjunction()
        token = self.next
        if token.kind == "end":
            return expression
        if token.text == ")":
            raise ExpressionError(token.at, "parenthesis", "this ) was never opened", "remove it, or open it before")
        if token.text in OPERATORS or token.text in ("==", "<>"):
            raise ExpressionError(
                token.at,
                "syntax",
                "a comparison has two sides, a fact on the left",
                "write two comparisons with AND between them",
            )
        raise ExpressionError(
            token.at, "syntax", f"{token.text!r} cannot stand here", "put AND or OR before it" + _foreign(token)
        )

    def disjunction(self) -> Expression:
        operands = [self.conjunction()]
        while self.next.word == "OR":
            self.take()
            operands.append(self.conjunction())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def conjunction(self) -> Expression:
        operands = [self.negation()]
        while self.next.word == "AND":
            self.take()
            operands.append(self.negation())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def negation(self) -> Expression:
        token = self.next
        if token.word != "NOT" and token.text != "(":
            return self.leaf()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(
                token.at, "too_deep", f"more than {MAX_DEPTH} parentheses or NOTs inside each other", "split the rule"
            )
        self.take()
        expression: Expression
        if token.text == "(":
            expression = self.disjunction()
            if self.next.text != ")":
                raise ExpressionError(
                    token.at, "parenthesis", "this ( is never closed", "put a ) after what belongs together"
                )
            self.take()
        else:
            expression = Not(self.negation())
        self.depth -= 1
        return expression

    def leaf(self) -> Expression:
        token = self.take()
        if token.kind in ("number", "text", "parameter") or token.word in ("TRUE", "FALSE", "NULL"):
            raise ExpressionError(
                token.at,
                "turned_around",
                f"a comparison begins with a fact, not with {token.text}",
                f"turn it around: fact first, then the operator, then {token.text}",
            )
        if token.kind != "name" or token.word in KEYWORDS:
            shown = "the end" if token.kind == "end" else repr(token.text)
            raise ExpressionError(
                token.at,
                "syntax",
                f"a comparison or the name of a condition is expected here, not {shown}",
                "write a comparison, such as amount >= 1000" + _foreign(token),
            )
        if self.next.word == "IN":
            return self.membership(token)
        if self.next.text in OPERATORS:
            operator = self.take().text
            return Comparison(token.text, _operator(operator), self.operand(), token.at)
        if self.next.text in ("==", "<>"):
            raise ExpressionError(
                self.next.at,
                "operator",
                f"{self.next.text} is no operator here",
                f"write {_FOREIGN[self.next.text]}",
            )
        if not _PLAIN_NAME.match(token.text):
            raise ExpressionError(
                token.at,
                "not_a_comparison",
                f"the fact {token.text} alone is no condition",
                f"compare it, such as {token.text} = TRUE",
            )
        return ConditionReference(token.text, token.at)

    def membership(self, fact: _Token) -> InList:
        self.take()
        if self.next.word != "LIST":
            raise ExpressionError(
                self.next.at, "syntax", "IN is followed by LIST and the name of a list", "write fact IN LIST name"
            )
        self.take()
        name = self.take()
        if name.kind != "name" or not _PLAIN_NAME.match(name.text):
            raise ExpressionError(
                name.at, "syntax", "the name of a list is expected here", "write its name, such as watched_accounts"
            )
        return InList(fact.text, name.text, fact.at)

    def operand(self) -> Constant | ParameterReference:
        token = self.take()
        if token.kind == "parameter":
            return ParameterReference(token.text[1:])
        if token.kind == "text":
            quote = token.text[0]
            return Constant(token.text[1:-1].replace(quote * 2, quote))
        if token.kind == "number":
            return Constant(_number(token))
        if token.word in ("TRUE", "FALSE"):
            return Constant(token.word == "TRUE")
        if token.word == "NULL":
            raise ExpressionError(
                token.at,
                "null",
                "nothing equals NULL: a missing fact makes the comparison unknown",
                "say in the policy's `unknown` what a missing fact means",
            )
        if token.kind == "name":
            raise ExpressionError(
                token.at,
                "operand",
                f"a fact is compared with a literal or a $parameter, not with {token.text}",
                f"put a text in quotes ('{token.text}'), a parameter after a $ (${token.text.replace('.', '_')}); "
                "to compare two facts declare their ratio as a feature",
            )
        shown = "the end" if token.kind == "end" else repr(token.text)
        raise ExpressionError(
            token.at,
            "operand",
            f"a literal or $parameter is expected here, not {shown}",
            "write a value after the operator",
        )


def _number(token: _Token) -> int | float:
    if re.fullmatch(r"[+-]?[0-9]+", token.text):
        whole = int(token.text)
        if not INT64_MIN <= whole <= INT64_MAX:
            raise ExpressionError(token.at, "out_of_range", f"{token.text} is beyond INT64", "use a smaller number")
        return whole
    value = float(token.text)
    if math.isinf(value):
        raise ExpressionError(token.at, "out_of_range", f"{token.text} is beyond FLOAT64", "use a smaller number")
    return value


def _operator(text: str) -> Operator:
    for operator in OPERATORS:
        if operator == text:
            return operator  # type: ignore[return-value]  # one of the literal's own values
    raise AssertionError(text)


def _foreign(token: _Token) -> str:
    return f"; for {token.text} write {_FOREIGN[token.text]}" if token.text in _FOREIGN else ""
