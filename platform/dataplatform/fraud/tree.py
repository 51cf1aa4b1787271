"""The typed tree of a policy: parameters, conditions, rules and levels, as plain frozen values.

Everything that judges a payment (the compiled function, the traced evaluator, the SQL) is made from this tree and
nothing else. Two trees are equal when they mean the same text; positions in the file take no part in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal as OneOf
from typing import get_args

Level = OneOf["pass", "monitor", "warn_confirm", "hold", "block", "sanction"]
LEVELS: tuple[str, ...] = get_args(Level)
"""From the mildest to the hardest. A level's place in here is its rank."""
RANK: Mapping[str, int] = {level: rank for rank, level in enumerate(LEVELS)}
BLOCKING_LEVELS = frozenset({"block", "sanction"})
"""Levels that stop a person: a change of such a policy needs a second one who approves."""

ValueType = OneOf["INT64", "FLOAT64", "NUMERIC", "STRING", "BOOL", "TIMESTAMP", "DATE"]
VALUE_TYPES: tuple[str, ...] = get_args(ValueType)

Kind = OneOf["NUMBER", "STRING", "BOOL", "TIMESTAMP", "DATE"]
"""What can be compared with what: all numbers with each other, everything else only with its own kind."""
KIND_OF_TYPE: Mapping[str, Kind] = {
    "INT64": "NUMBER",
    "FLOAT64": "NUMBER",
    "NUMERIC": "NUMBER",
    "STRING": "STRING",
    "BOOL": "BOOL",
    "TIMESTAMP": "TIMESTAMP",
    "DATE": "DATE",
}

Operator = OneOf["<", "<=", ">", ">=", "=", "!="]
OPERATORS: tuple[str, ...] = get_args(Operator)

type Scalar = bool | int | float | Decimal | str
"""A value in a policy. A TIMESTAMP is its microseconds since 1970 (int), a DATE its ISO text (str)."""
type Fact = Scalar | None
"""A value of a fact in the same form; None is unknown."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal written in the policy, such as `30`, `0.5`, `'KR'`, `TRUE`."""

    value: bool | int | float | str


@dataclass(frozen=True, slots=True)
class ParameterReference:
    """`$name`: the value that the parameter has at the time of the decision."""

    name: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`fact < operand`. `at` is the offset of the fact in the text it was read from."""

    fact: str
    operator: Operator
    operand: Constant | ParameterReference
    at: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class InList:
    """`fact IN LIST name`."""

    fact: str
    list: str
    at: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ConditionReference:
    """The name of a condition, used in a rule."""

    name: str
    at: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Not:
    """True where its operand is false; unknown where it is unknown."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """False where one operand is false; else unknown where one is unknown; else true."""

    operands: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True where one operand is true; else unknown where one is unknown; else false."""

    operands: tuple["Expression", ...]


type Leaf = Comparison | InList
type Expression = Comparison | InList | ConditionReference | Not | And | Or


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named, bounded value that analysts change while the policy is live.

    `min` and `max` are inclusive and in `unit`, as is `default`.
    """

    name: str
    type: ValueType
    default: Scalar
    unit: str = ""
    min: Scalar | None = None
    max: Scalar | None = None
    owner: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with a name, so that rules can share it."""

    name: str
    test: Leaf


@dataclass(frozen=True, slots=True)
class Rule:
    """A logical combination of conditions; when it fires it adds `score` and forces at least `level`."""

    name: str
    when: Expression
    score: int = 0
    level: Level | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """That a policy judges after the event, from the stream of what was landed, and gives alerts.

    An alert belongs to the case of the entity in the role `case`. It is given from the level `alert` on. `keys` are (role,
    column): where an entity's key stands, if not in the column of its features.
    """

    case: str
    alert: Level = "monitor"
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules for one kind of event: decided while a person waits, or after it where `stream` is set.

    `levels` are (level, least score) rising in both. `unknown` is the least level of a decision in which a rule could
    not be decided. `fallback` is the level answered, marked as such, when the policy could not be evaluated in
    `deadline_ms` at all. `entities` are (role, entity): whose features the facts `<role>.<feature>` are.
    """

    name: str
    event: str
    unknown: Level
    rules: tuple[Rule, ...]
    parameters: tuple[Parameter, ...] = ()
    conditions: tuple[Condition, ...] = ()
    levels: tuple[tuple[Level, float], ...] = ()
    owner: str = ""
    description: str = ""
    deadline_ms: int = 50
    entities: tuple[tuple[str, str], ...] = ()
    fallback: Level | None = None
    stream: Stream | None = None

    @property
    def blocks(self) -> bool:
        """Whether a decision of this policy can stop a person."""
        reachable = {rule.level for rule in self.rules} | {level for level, _ in self.levels} | {self.unknown}
        return bool(reachable & BLOCKING_LEVELS)

    @property
    def fallback_level(self) -> Level:
        """The level when the policy cannot be evaluated: `fallback`, else `unknown`."""
        return self.fallback or self.unknown

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name; KeyError when there is none."""
        return next_named(self.parameters, name)

    def defaults(self) -> dict[str, Scalar]:
        """Parameter name → default."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    def tests(self) -> dict[str, Leaf]:
        """Condition name → what it compares."""
        return {condition.name: condition.test for condition in self.conditions}

    def resolved(self, expression: Expression) -> Expression:
        """The expression with every named condition replaced by what it compares."""
        return _resolve(expression, self.tests())

    def facts(self) -> tuple[str, ...]:
        """Names of all facts that rules depend on, sorted."""
        found = {leaf.fact for rule in self.rules for leaf in leaves(self.resolved(rule.when))}
        return tuple(sorted(found))

    def lists(self) -> tuple[str, ...]:
        """Names of all lists that rules depend on, sorted."""
        return tuple(
            sorted(
                {
                    leaf.list
                    for rule in self.rules
                    for leaf in leaves(self.resolved(rule.when))
                    if isinstance(leaf, InList)
                }
            )
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says about one set of facts: rules in the order of the policy."""

    level: Level
    score: int
    rules: tuple[str, ...]
    unknown: tuple[str, ...]


def next_named(parameters: tuple[Parameter, ...], name: str) -> Parameter:
    """The parameter called `name`; KeyError when there is none."""
    for parameter in parameters:
        if parameter.name == name:
            return parameter
    raise KeyError(name)


def leaves(expression: Expression) -> Iterator[Leaf]:
    """Every comparison of an expression, left to right; references to conditions are not followed."""
    match expression:
        case Comparison() | InList():
            yield expression
        case Not(operand):
            yield from leaves(operand)
        case And(operands) | Or(operands):
            for each in operands:
                yield from leaves(each)
        case ConditionReference():
            pass


def references(expression: Expression) -> Iterator[ConditionReference]:
    """Every named condition that an expression uses, left to right."""
    match expression:
        case ConditionReference():
            yield expression
        case Not(operand):
            yield from references(operand)
        case And(operands) | Or(operands):
            for each in operands:
                yield from references(each)
        case Comparison() | InList():
            pass


def _resolve(expression: Expression, tests: Mapping[str, Leaf]) -> Expression:
    match expression:
        case ConditionReference(name):
            return tests[name]
        case Not(operand):
            return Not(_resolve(operand, tests))
        case And(operands):
            return And(tuple(_resolve(each, tests) for each in operands))
        case Or(operands):
            return Or(tuple(_resolve(each, tests) for each in operands))
        case _:
            return expression
