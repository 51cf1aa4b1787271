"""Rules that can never fire: comparisons of one fact, joined by AND, that leave no value."""

from collections.abc import Mapping

from .expression import print_expression
from .fact_types import operand_value
from .tree import And, Comparison, Expression, Scalar


def contradiction(expression: Expression, types: Mapping[str, str], parameters: Mapping[str, Scalar]) -> str:
    """Why no facts can make the expression true, or "".

    Only comparisons that stand side by side in an AND are looked at: "" does not promise that the rule can fire.
    """
    operands = expression.operands if isinstance(expression, And) else (expression,)
    by_fact: dict[str, list[Comparison]] = {}
    for operand in operands:
        if isinstance(operand, And):
            reason = contradiction(operand, types, parameters)
            if reason:
                return reason
        elif isinstance(operand, Comparison):
            by_fact.setdefault(operand.fact, []).append(operand)
    for fact, tests in by_fact.items():
        for index, one in enumerate(tests):
            for other in tests[index + 1 :]:
                if _exclude(one, other, types[fact], parameters):
                    return f"{print_expression(one)} and {print_expression(other)} exclude each other"
    return ""


def _exclude(one: Comparison, other: Comparison, fact_type: str, parameters: Mapping[str, Scalar]) -> bool:
    a, b = operand_value(one, fact_type, parameters), operand_value(other, fact_type, parameters)
    pair = {one.operator, other.operator}
    if one.operator == "=" and other.operator == "=":
        return a != b
    if pair == {"=", "!="}:
        return a == b
    if one.operator == "=":
        return not _holds(a, other.operator, b)
    if other.operator == "=":
        return not _holds(b, one.operator, a)
    if one.operator in ("<", "<=") and other.operator in (">", ">="):
        return _empty(b, other.operator, a, one.operator, fact_type)
    if one.operator in (">", ">=") and other.operator in ("<", "<="):
        return _empty(a, one.operator, b, other.operator, fact_type)
    return False


def _empty(low: Scalar, low_operator: str, high: Scalar, high_operator: str, fact_type: str) -> bool:
    strict = low_operator == ">" or high_operator == "<"
    if fact_type == "INT64" and low_operator == ">" and high_operator == "<":
        return high - low <= 1  # type: ignore[operator]  # numbers: the type says so
    return low > high or (strict and low == high)  # type: ignore[operator]  # one kind: checked by the typing


def _holds(value: Scalar, operator: str, bound: Scalar) -> bool:
    match operator:
        case "<":
            return value < bound  # type: ignore[operator]  # one kind: checked by the typing
        case "<=":
            return value <= bound  # type: ignore[operator]  # one kind: checked by the typing
        case ">":
            return value > bound  # type: ignore[operator]  # one kind: checked by the typing
        case ">=":
            return value >= bound  # type: ignore[operator]  # one kind: checked by the typing
        case "=":
            return value == bound
        case _:
            return value != bound
