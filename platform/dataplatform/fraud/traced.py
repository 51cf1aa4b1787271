"""A policy evaluated step by step: what every condition saw, how each rule came out, and why, in sentences."""

from collections.abc import Mapping
from dataclasses import dataclass

from .expression import print_expression
from .fact_types import TypedPolicy, operand_value
from .tree import (
    LEVELS,
    RANK,
    And,
    Comparison,
    ConditionReference,
    Decision,
    Expression,
    Fact,
    InList,
    Leaf,
    Not,
    Or,
    ParameterReference,
    Policy,
    Rule,
    Scalar,
)
from .values import plain_value, time_text

_SAID = {
    "<": "is below",
    "<=": "is at most",
    ">": "is above",
    ">=": "is at least",
    "=": "is",
    "!=": "is not",
}
_SAID_NOT = {
    "<": "is not below",
    "<=": "is not at most",
    ">": "is not above",
    ">=": "is not at least",
    "=": "is not",
    "!=": "is",
}


@dataclass(frozen=True, slots=True)
class ConditionTrace:
    """One comparison: what it says, what the fact was, what it was compared with, and how it came out.

    `name` is the condition's, "" where the comparison stands in the rule itself. `outcome` None is unknown.
    """

    name: str
    text: str
    fact: str
    value: object
    operand: object
    parameter: str
    outcome: bool | None
    sentence: str


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """One rule: whether it fired (None: undecided), with all of its conditions, also those that did not matter."""

    name: str
    outcome: bool | None
    score: int
    level: str | None
    reason: str
    conditions: tuple[ConditionTrace, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A decision with everything that led to it."""

    decision: Decision
    rules: tuple[RuleTrace, ...]
    parameters: Mapping[str, object]
    sentences: tuple[str, ...]


def trace_policy(
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    facts: Mapping[str, Fact],
) -> Trace:
    """Evaluate every condition of every rule; the facts must be of the policy's types already."""
    policy = typed.policy
    rules = tuple(_trace_rule(typed, index, parameters, lists, facts) for index in range(len(policy.rules)))
    fired = tuple(rule.name for rule in rules if rule.outcome is True)
    unknown = tuple(rule.name for rule in rules if rule.outcome is None)
    score = sum(rule.score for rule in rules if rule.outcome is True)
    rank = rank_of(policy, score, fired, unknown)
    decision = Decision(LEVELS[rank], score, fired, unknown)  # type: ignore[arg-type]  # one of the literal's values
    used = {each.name: plain_value(parameters[each.name], each.type) for each in policy.parameters}
    told = tuple(rule.sentence for rule in rules if rule.outcome is not False)
    return Trace(decision, rules, used, (_verdict(policy, decision), *told))


def rank_of(policy: Policy, score: int, fired: tuple[str, ...], unknown: tuple[str, ...]) -> int:
    """Rank of the level: the highest of the score's band, the fired rules' own levels, and `unknown` where it counts."""
    rank = 0
    for level, least in policy.levels:
        if score >= least:
            rank = max(rank, RANK[level])
    for rule in policy.rules:
        if rule.level and rule.name in fired:
            rank = max(rank, RANK[rule.level])
    return max(rank, RANK[policy.unknown]) if unknown else rank


def _trace_rule(
    typed: TypedPolicy,
    index: int,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    facts: Mapping[str, Fact],
) -> RuleTrace:
    rule = typed.policy.rules[index]
    tests = typed.policy.tests()
    seen: list[ConditionTrace] = []

    def walk(expression: Expression) -> bool | None:
        match expression:
            case ConditionReference(name):
                return leaf(name, tests[name])
            case Comparison() | InList():
                return leaf("", expression)
            case Not(operand):
                inner = walk(operand)
                return None if inner is None else not inner
            case And(operands):
                outcomes = [walk(each) for each in operands]
                return False if False in outcomes else None if None in outcomes else True
            case Or(operands):
                outcomes = [walk(each) for each in operands]
                return True if True in outcomes else None if None in outcomes else False

    def leaf(name: str, test: Leaf) -> bool | None:
        traced = _trace_leaf(name, test, typed, parameters, lists, facts)
        seen.append(traced)
        return traced.outcome

    outcome = walk(rule.when)
    return RuleTrace(
        rule.name, outcome, rule.score, rule.level, rule.reason, tuple(seen), _rule_sentence(rule, outcome, seen)
    )


def _trace_leaf(  # noqa: PLR0917
    name: str,
    test: Leaf,
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    facts: Mapping[str, Fact],
) -> ConditionTrace:
    value = facts.get(test.fact)
    fact_type = typed.types[test.fact]
    outcome: bool | None
    if isinstance(test, InList):
        entries = lists.get(test.list)
        outcome = None if value is None or entries is None else value in entries
        operand: object = test.list
        parameter = ""
    else:
        bound = operand_value(test, fact_type, parameters)
        outcome = None if value is None else _compare(value, test.operator, bound)
        operand = plain_value(bound, fact_type)
        parameter = test.operand.name if isinstance(test.operand, ParameterReference) else ""
    return ConditionTrace(
        name,
        print_expression(test),
        test.fact,
        plain_value(value, fact_type),
        operand,
        parameter,
        outcome,
        _leaf_sentence(test, value, fact_type, operand, parameter, outcome, typed, known_list=_has_list(test, lists)),
    )


def _has_list(test: Leaf, lists: Mapping[str, frozenset[Scalar]]) -> bool:
    return not isinstance(test, InList) or test.list in lists


def _compare(value: Scalar, operator: str, bound: Scalar) -> bool:
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


def _leaf_sentence(  # noqa: PLR0917
    test: Leaf,
    value: Fact,
    fact_type: str,
    operand: object,
    parameter: str,
    outcome: bool | None,
    typed: TypedPolicy,
    *,
    known_list: bool,
) -> str:
    if value is None:
        return f"{test.fact} is not known"
    shown = (
        time_text(value) if fact_type == "TIMESTAMP" and isinstance(value, int) else str(plain_value(value, fact_type))
    )
    if isinstance(test, InList):
        if not known_list:
            return f"the list {test.list} is not at hand for {test.fact} ({shown})"
        return f"{test.fact} ({shown}) is {'' if outcome else 'not '}in the list {test.list}"
    unit = ""
    if parameter:
        unit = typed.policy.parameter(parameter).unit
        unit = f" {unit}" if unit else ""
    said = (_SAID if outcome else _SAID_NOT)[test.operator]
    through = f" (${parameter})" if parameter else ""
    return f"{test.fact} ({shown}) {said} {operand}{unit}{through}"


def _rule_sentence(rule: Rule, outcome: bool | None, seen: list[ConditionTrace]) -> str:
    told = list(dict.fromkeys(each.sentence for each in seen))
    if outcome is None:
        missing = list(dict.fromkeys(each.sentence for each in seen if each.outcome is None))
        return f"{rule.name} could not be decided: {', '.join(missing)}."
    because = ", ".join(told)
    if outcome:
        effect = ", ".join(
            [*([f"{rule.score:+d}"] if rule.score else []), *([f"at least {rule.level}"] if rule.level else [])]
        )
        return (
            f"{rule.name} fired ({effect or 'no score'}): {f'{rule.reason} ' if rule.reason else ''}Because {because}."
        )
    return f"{rule.name} did not fire: {because}."


def _verdict(policy: Policy, decision: Decision) -> str:
    text = f"{policy.name}: {decision.level}, score {decision.score}, {len(decision.rules)} rules fired"
    if decision.unknown:
        text += f", {len(decision.unknown)} could not be decided (then at least {policy.unknown})"
    return text + "."
