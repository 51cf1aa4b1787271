"""A policy evaluated step by step: what every condition saw, how each rule came out, and why, in sentences."""

import operator as operators
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from .expression import print_expression
from .fact_types import TypedPolicy, list_entries, operand_value
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
from .values import plain_value

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


class ConditionTrace(msgspec.Struct, frozen=True):
    """One comparison: what it says, what the fact was, what it was compared with, and how it came out.

    `name` is the condition's, "" where the comparison stands in the rule itself. `outcome` None is unknown.
    """

    name: str
    text: str
    fact: str
    operator: str
    value: Any
    operand: Any
    parameter: str
    outcome: bool | None


class RuleTrace(msgspec.Struct, frozen=True):
    """One rule: whether it fired (None: undecided), with all of its conditions, also those that did not matter."""

    name: str
    outcome: bool | None
    score: int
    level: str | None
    reason: str
    conditions: tuple[ConditionTrace, ...]
    sentence: str


class Trace(msgspec.Struct, frozen=True):
    """A decision with everything that led to it."""

    decision: Decision
    rules: tuple[RuleTrace, ...]
    parameters: Mapping[str, Any]
    sentences: tuple[str, ...]


def trace_policy(
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    facts: Mapping[str, Fact],
) -> Trace:
    """Evaluate every condition of every rule; the facts must be of the policy's types already."""
    return Tracer(typed, parameters, lists).trace(facts)


type _Walk = Callable[[Mapping[str, Fact], list[ConditionTrace]], bool | None]


class Tracer:
    """A policy under one set of parameters and lists, for many facts: what does not depend on facts is made once."""

    def __init__(
        self, typed: TypedPolicy, parameters: Mapping[str, Scalar], lists: Mapping[str, frozenset[Scalar]]
    ) -> None:
        self.typed = typed
        self.parameters = parameters
        self.lists = lists
        tests = typed.policy.tests()
        self._walks = [self._walk(rule.when, tests) for rule in typed.policy.rules]
        self._used = {each.name: plain_value(parameters[each.name], each.type) for each in typed.policy.parameters}

    def trace(self, facts: Mapping[str, Fact]) -> Trace:
        """Every condition of every rule on these facts."""
        policy = self.typed.policy
        rules = []
        for rule, walk in zip(policy.rules, self._walks, strict=True):
            seen: list[ConditionTrace] = []
            outcome = walk(facts, seen)
            sentence = _rule_sentence(rule, outcome, seen, self.typed)
            rules.append(RuleTrace(rule.name, outcome, rule.score, rule.level, rule.reason, tuple(seen), sentence))
        fired = tuple([rule.name for rule in rules if rule.outcome is True])
        unknown = tuple([rule.name for rule in rules if rule.outcome is None])
        score = sum(rule.score for rule in rules if rule.outcome is True)
        rank = rank_of(policy, score, fired, unknown)
        decision = Decision(LEVELS[rank], score, fired, unknown)  # type: ignore[arg-type]  # one of the literal's values
        told = [rule.sentence for rule in rules if rule.outcome is not False]
        return Trace(decision, tuple(rules), self._used, (_verdict(policy, decision), *told))

    def _walk(self, expression: Expression, tests: Mapping[str, Leaf]) -> _Walk:
        match expression:
            case ConditionReference(name):
                return self._leaf(name, tests[name])
            case Comparison() | InList():
                return self._leaf("", expression)
            case Not(operand):
                inner = self._walk(operand, tests)

                def negation(facts: Mapping[str, Fact], seen: list[ConditionTrace]) -> bool | None:
                    outcome = inner(facts, seen)
                    return None if outcome is None else not outcome

                return negation
            case And(operands) | Or(operands):
                # One false decides an AND, one true an OR; every operand is walked, so that all of it is seen.
                decisive = isinstance(expression, Or)
                parts = [self._walk(each, tests) for each in operands]

                def combination(facts: Mapping[str, Fact], seen: list[ConditionTrace]) -> bool | None:
                    outcomes = [part(facts, seen) for part in parts]
                    return decisive if decisive in outcomes else None if None in outcomes else not decisive

                return combination

    def _leaf(self, name: str, test: Leaf) -> _Walk:
        fact, fact_type, text = test.fact, self.typed.types[test.fact], print_expression(test)
        holds: Callable[[Any], bool] | None
        operand: Any
        operator: str
        parameter = ""
        if isinstance(test, InList):
            operator, operand = "IN LIST", test.list
            entries = self.lists.get(test.list)
            holds = None if entries is None else list_entries(entries, fact_type).__contains__
        else:
            bound = operand_value(test, fact_type, self.parameters)
            operator, operand = test.operator, plain_value(bound, fact_type)
            if isinstance(test.operand, ParameterReference):
                parameter = test.operand.name
            holds = partial(_REVERSED[operator], bound)

        def walk(facts: Mapping[str, Fact], seen: list[ConditionTrace]) -> bool | None:
            value = facts.get(fact)
            outcome = None if value is None or holds is None else holds(value)
            shown = plain_value(value, fact_type)
            seen.append(ConditionTrace(name, text, fact, operator, shown, operand, parameter, outcome))
            return outcome

        return walk


_REVERSED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operators.gt,
    "<=": operators.ge,
    ">": operators.lt,
    ">=": operators.le,
    "=": operators.eq,
    "!=": operators.ne,
}
"""By operator, the function that takes the operand first: `fact < 5` is `5 > fact`."""


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


def condition_sentence(traced: ConditionTrace, typed: TypedPolicy) -> str:
    """What one condition saw, for a person."""
    if traced.value is None:
        return f"{traced.fact} is not known"
    if traced.operator == "IN LIST":
        if traced.outcome is None:
            return f"the list {traced.operand} is not at hand for {traced.fact} ({traced.value})"
        return f"{traced.fact} ({traced.value}) is {'' if traced.outcome else 'not '}in the list {traced.operand}"
    unit = typed.policy.parameter(traced.parameter).unit if traced.parameter else ""
    said = (_SAID if traced.outcome else _SAID_NOT)[traced.operator]
    through = f" (${traced.parameter})" if traced.parameter else ""
    return f"{traced.fact} ({traced.value}) {said} {traced.operand}{f' {unit}' if unit else ''}{through}"


def _rule_sentence(rule: Rule, outcome: bool | None, seen: list[ConditionTrace], typed: TypedPolicy) -> str:
    if outcome is False:
        return f"{rule.name} did not fire."
    told = [each for each in seen if outcome or each.outcome is None]
    because = ", ".join(dict.fromkeys(condition_sentence(each, typed) for each in told))
    if outcome is None:
        return f"{rule.name} could not be decided: {because}."
    effect = ", ".join(
        [
            *([f"{rule.score:+d}"] if rule.score else []),
            *([f"at least {rule.level}"] if rule.level else []),
        ]
    )
    return f"{rule.name} fired ({effect or 'no score'}): {f'{rule.reason} ' if rule.reason else ''}Because {because}."


def _verdict(policy: Policy, decision: Decision) -> str:
    text = f"{policy.name}: {decision.level}, score {decision.score}, {len(decision.rules)} rules fired"
    if decision.unknown:
        text += f", {len(decision.unknown)} could not be decided (then at least {policy.unknown})"
    return text + "."
