"""Which type every fact of a policy has: declared by features and events, or inferred from what it is compared with."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from .document import suggestion
from .expression import print_expression
from .tree import (
    KIND_OF_TYPE,
    Comparison,
    Condition,
    Constant,
    Expression,
    InList,
    Kind,
    Leaf,
    ParameterReference,
    Policy,
    Scalar,
    leaves,
    references,
)
from .values import ValueProblem, read_value

UNTYPED = "ANY"
"""Type of a fact that is only looked for in empty lists."""


@dataclass(frozen=True, slots=True)
class DeclaredFact:
    """A fact that a feature or an event field declares; `values` are the only ones it has, where they are known."""

    type: str
    unit: str = ""
    source: str = ""
    values: tuple[object, ...] | None = None


@dataclass(frozen=True, slots=True)
class TypeProblem:
    """A comparison that cannot be right. `owner` is ("conditions", name) or ("rules", index, "when")."""

    owner: tuple[str | int, ...]
    at: int
    code: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class TypedPolicy:
    """A policy with the type of every fact it reads: what the three evaluators are made from.

    A type is one of `VALUE_TYPES`; `NUMBER` (whole or not, as it comes) where nothing declares the fact.
    """

    policy: Policy
    types: Mapping[str, str]
    declared: frozenset[str] = field(default_factory=frozenset)


def type_policy(
    policy: Policy,
    *,
    lists: Mapping[str, Kind | None] | None = None,
    declared: Mapping[str, DeclaredFact] | None = None,
    unread: Collection[str] = (),
) -> tuple[TypedPolicy, list[TypeProblem]]:
    """Type every fact and find every comparison that its type forbids.

    `lists` gives the kind of a list's entries (None when it is empty). With `declared`, a fact that it lacks is a
    mistake; without, types come from the comparisons alone and a conflict between two of them is the mistake. So it is for
    the facts of the roles `unread` ("" for the event), whose declarations could not be read.
    """
    lists = lists or {}
    parameters = {parameter.name: parameter for parameter in policy.parameters}
    uses: dict[str, list[tuple[tuple[str | int, ...], Leaf]]] = {}
    for owner, leaf in _uses(policy):
        uses.setdefault(leaf.fact, []).append((owner, leaf))

    types: dict[str, str] = {}
    problems: list[TypeProblem] = []
    for fact, places in uses.items():
        known = declared.get(fact) if declared is not None else None
        if declared is not None and (known or fact.rpartition(".")[0] not in unread):
            if known is None:
                problems += [_undeclared(owner, leaf, declared) for owner, leaf in places]
                continue
            types[fact] = known.type
        else:
            types[fact] = _inferred([leaf for _, leaf in places], parameters, lists)
        for owner, leaf in places:
            problem = _check(owner, leaf, types[fact], parameters, lists, places)
            if problem:
                problems.append(problem)
            elif known is not None:
                problems += _unit(owner, leaf, known, parameters)
                problems += _value(owner, leaf, known)
    return TypedPolicy(policy, types, frozenset(declared or ())), problems


def operand_value(leaf: Comparison, fact_type: str, parameters: Mapping[str, Scalar]) -> Scalar:
    """What a comparison compares with, in the form in which a fact of this type is held."""
    value: Scalar = leaf.operand.value if isinstance(leaf.operand, Constant) else parameters[leaf.operand.name]
    if fact_type == "NUMERIC":
        return value if isinstance(value, Decimal) else Decimal(str(value))
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if fact_type in ("TIMESTAMP", "DATE") and isinstance(leaf.operand, Constant):
        return read_value(value, fact_type)
    return value


def list_entries(entries: frozenset[Scalar], fact_type: str) -> frozenset[Scalar]:
    """A list's entries in the form in which a fact of this type is held: the number 0.1 is the NUMERIC 0.1."""
    if fact_type != "NUMERIC":
        return entries
    return frozenset(Decimal(str(entry)) for entry in entries if not isinstance(entry, str))


def _uses(policy: Policy) -> Iterator[tuple[tuple[str | int, ...], Leaf]]:
    for condition in policy.conditions:
        yield ("conditions", condition.name), condition.test
    for index, rule in enumerate(policy.rules):
        for leaf in leaves(rule.when):
            yield ("rules", index, "when"), leaf


def _operand_kind(leaf: Leaf, parameters: Mapping[str, object], lists: Mapping[str, Kind | None]) -> Kind | None:
    """The kind that a fact must have to be compared so; None where anything goes (empty list, unknown parameter)."""
    if isinstance(leaf, InList):
        return lists.get(leaf.list)
    if isinstance(leaf.operand, ParameterReference):
        parameter = parameters.get(leaf.operand.name)
        return KIND_OF_TYPE[parameter.type] if parameter is not None else None  # type: ignore[attr-defined]
    if isinstance(leaf.operand.value, bool):
        return "BOOL"
    return "STRING" if isinstance(leaf.operand.value, str) else "NUMBER"


def _inferred(tests: list[Leaf], parameters: Mapping[str, object], lists: Mapping[str, Kind | None]) -> str:
    kinds = [kind for test in tests if (kind := _operand_kind(test, parameters, lists)) is not None]
    for temporal in ("TIMESTAMP", "DATE"):
        if temporal in kinds:
            return temporal
    if kinds:
        return kinds[0]
    return "STRING" if any(isinstance(test, InList) and test.list not in lists for test in tests) else UNTYPED


def _check(
    owner: tuple[str | int, ...],
    leaf: Leaf,
    fact_type: str,
    parameters: Mapping[str, object],
    lists: Mapping[str, Kind | None],
    places: list[tuple[tuple[str | int, ...], Leaf]],
) -> TypeProblem | None:
    kind = _operand_kind(leaf, parameters, lists)
    fact_kind = KIND_OF_TYPE.get(fact_type, fact_type)
    if kind is None or fact_kind == UNTYPED:
        return None
    if kind == "STRING" and fact_kind in ("TIMESTAMP", "DATE") and isinstance(leaf, Comparison):
        if isinstance(leaf.operand, Constant):
            try:
                read_value(leaf.operand.value, fact_kind)
            except ValueProblem as problem:
                return TypeProblem(owner, leaf.at, problem.code, problem.message, problem.fix)
            return None
    elif kind == fact_kind:
        if fact_type == "NUMERIC" and isinstance(leaf, Comparison) and isinstance(leaf.operand, Constant):
            try:
                read_value(leaf.operand.value, fact_type)
            except ValueProblem as problem:
                return TypeProblem(owner, leaf.at, problem.code, problem.message, problem.fix)
        if kind == "BOOL" and isinstance(leaf, Comparison) and leaf.operator not in ("=", "!="):
            return TypeProblem(
                owner, leaf.at, "operator", f"true and false have no order: {print_expression(leaf)}", "use = or !="
            )
        return None
    other = next((print_expression(each) for _, each in places if each != leaf), "")
    because = f" ({other})" if other else ""
    return TypeProblem(
        owner,
        leaf.at,
        "type_conflict",
        f"{leaf.fact} is {_article(fact_kind)}{because} and is compared with {_article(kind)} in {print_expression(leaf)}",
        f"compare {leaf.fact} with {_article(fact_kind)}",
    )


def _undeclared(owner: tuple[str | int, ...], leaf: Leaf, declared: Mapping[str, DeclaredFact]) -> TypeProblem:
    near = suggestion(leaf.fact, declared)
    return TypeProblem(
        owner,
        leaf.at,
        "unknown_fact",
        f"no feature and no field of the event is called {leaf.fact}",
        f"write {near}" if near else "declare it in schemas/features, or use one that is declared",
    )


def _unit(
    owner: tuple[str | int, ...], leaf: Leaf, fact: DeclaredFact, parameters: Mapping[str, object]
) -> list[TypeProblem]:
    if not isinstance(leaf, Comparison) or not isinstance(leaf.operand, ParameterReference):
        return []
    parameter = parameters.get(leaf.operand.name)
    if parameter is None:
        return []
    unit: str = parameter.unit  # type: ignore[attr-defined]
    if unit == fact.unit or not fact.unit:
        return []
    message = f"{leaf.fact} is in {fact.unit} and ${leaf.operand.name} in {unit or 'no unit'}"
    return [TypeProblem(owner, leaf.at, "wrong_unit", message, f"give the parameter the unit {fact.unit}")]


def _value(owner: tuple[str | int, ...], leaf: Leaf, fact: DeclaredFact) -> list[TypeProblem]:
    if not isinstance(leaf, Comparison) or not isinstance(leaf.operand, Constant) or fact.values is None:
        return []
    if leaf.operator not in ("=", "!=") or leaf.operand.value in fact.values:
        return []
    near = suggestion(str(leaf.operand.value), [str(value) for value in fact.values])
    message = f"{leaf.fact} is never {leaf.operand.value!r}"
    fix = f"write {near!r}" if near else f"one of {', '.join(map(str, fact.values))}"
    return [TypeProblem(owner, leaf.at, "unknown_value", message, fix)]


def _article(kind: str) -> str:
    return {
        "NUMBER": "a number",
        "STRING": "a text",
        "BOOL": "true or false",
        "TIMESTAMP": "a time",
        "DATE": "a date",
    }[kind]


def unresolved(expression: Expression, conditions: tuple[Condition, ...]) -> list[tuple[str, int]]:
    """(name, offset) of every condition that an expression names and the policy does not have."""
    known = {condition.name for condition in conditions}
    return [(reference.name, reference.at) for reference in references(expression) if reference.name not in known]
