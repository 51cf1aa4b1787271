"""A policy as one Python function: what decides while a person waits.

The function has two bodies. When every fact is known (nearly always) the rules are plain `and`/`or`/`not`. When one is
missing, each rule is asked twice: can it be true, and must it be true; where it can and need not, it is undecided. That
is three-valued logic without ever building a third value.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .fact_types import TypedPolicy, list_entries, operand_value
from .tree import LEVELS, RANK, And, Comparison, Decision, Expression, Fact, InList, Leaf, Not, Or, Scalar, leaves

type Outcome = tuple[int, int, tuple[str, ...], tuple[str, ...]]
"""Rank of the level, score, names of the rules that fired, names of those that could not be decided."""
type Decide = Callable[[Mapping[str, Fact]], Outcome]

_OPERATORS = {"=": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
SHARED_FROM = 3
"""A comparison that so many rules ask for is calculated once; rarer ones only when a rule gets that far."""


def compile_policy(
    typed: TypedPolicy, parameters: Mapping[str, Scalar], lists: Mapping[str, frozenset[Scalar]]
) -> Decide:
    """The policy under these parameters and lists as a function of facts.

    The facts must be of the policy's types already (`facts.check_facts`); a missing fact or None is unknown.
    A list that is missing makes its memberships unknown.
    """
    source, names = policy_source(typed, parameters, lists)
    code = compile(source, f"<policy {typed.policy.name}>", "exec")
    exec(code, names)  # noqa: S102  # source is made from the typed tree: names and literals are printed by repr
    decide: Decide = names["decide"]
    return decide


def decision(outcome: Outcome) -> Decision:
    """An outcome as people and files see it."""
    rank, score, fired, unknown = outcome
    return Decision(LEVELS[rank], score, fired, unknown)  # type: ignore[arg-type]  # one of the literal's own values


def policy_source(
    typed: TypedPolicy, parameters: Mapping[str, Scalar], lists: Mapping[str, frozenset[Scalar]]
) -> tuple[str, dict[str, Any]]:
    """The function's source, and the global names it needs (lists and values without a literal)."""
    policy = typed.policy
    names: dict[str, Any] = {"__builtins__": {}}
    facts = policy.facts()
    variable = {fact: f"f{number}" for number, fact in enumerate(facts)}
    writer = _Writer(typed, parameters, lists, variable, names)
    resolved = [policy.resolved(rule.when) for rule in policy.rules]

    counts = Counter(leaf for when in resolved for leaf in set(leaves(when)))
    shared = [leaf for leaf, count in counts.items() if count >= SHARED_FROM]

    lines = ["def decide(facts):", "    get = facts.get"]
    lines += [f"    {variable[fact]} = get({fact!r})" for fact in facts]
    absent = [each for each in policy.lists() if each not in lists]
    missing = " or ".join(f"{each} is None" for each in variable.values()) or "False"
    lines += [
        f"    if {'True' if absent else missing}:",
        f"        return with_unknowns({', '.join(variable.values())})",
        "    score = rank = 0",
        "    fired = ()",
    ]
    writer.share(shared)
    lines += [f"    {name} = {writer.known(leaf)}" for leaf, name in writer.shared_known.items()]
    writer.use_shared = True
    for rule, when in zip(policy.rules, resolved, strict=True):
        lines.append(f"    if {writer.expression(when)}:")
        lines += _effect(rule.name, rule.score, RANK[rule.level] if rule.level else 0)
    lines += [*_bands(policy.levels), "    return rank, score, fired, ()", ""]

    writer.use_shared = False
    lines += [
        f"def with_unknowns({', '.join(variable.values())}):",
        "    score = rank = 0",
        "    fired = unknown = ()",
    ]
    for leaf, name in writer.shared_known.items():
        lines.append(f"    {name}_can = {writer.possible(leaf)}")
        lines.append(f"    {name}_must = {writer.certain(leaf)}")
    writer.use_shared = True
    for rule, when in zip(policy.rules, resolved, strict=True):
        lines.append(f"    if {writer.expression(when, 'can')}:")
        lines.append(f"        if {writer.expression(when, 'must')}:")
        lines += [f"    {line}" for line in _effect(rule.name, rule.score, RANK[rule.level] if rule.level else 0)]
        lines.append("        else:")
        lines.append(f"            unknown += ({rule.name!r},)")
    lines += [
        *_bands(policy.levels),
        f"    if unknown and rank < {RANK[policy.unknown]}:",
        f"        rank = {RANK[policy.unknown]}",
        "    return rank, score, fired, unknown",
        "",
    ]
    return "\n".join(lines), names


def _effect(name: str, score: int, rank: int) -> list[str]:
    lines = [f"        fired += ({name!r},)"]
    if score:
        lines.append(f"        score += {score}")
    if rank:
        lines.append(f"        if rank < {rank}:")
        lines.append(f"            rank = {rank}")
    return lines


def _bands(levels: tuple[tuple[str, float], ...]) -> list[str]:
    lines = []
    keyword = "if"
    for level, least in reversed(levels):
        lines += [
            f"    {keyword} score >= {least!r}:",
            f"        if rank < {RANK[level]}:",
            f"            rank = {RANK[level]}",
        ]
        keyword = "elif"
    return lines


class _Writer:
    """Prints expressions as Python: plainly for known facts, as `can` and `must` where one may be missing."""

    def __init__(
        self,
        typed: TypedPolicy,
        parameters: Mapping[str, Scalar],
        lists: Mapping[str, frozenset[Scalar]],
        variable: Mapping[str, str],
        names: dict[str, Any],
    ) -> None:
        self.typed = typed
        self.parameters = parameters
        self.lists = lists
        self.variable = variable
        self.names = names
        self.shared_known: dict[Leaf, str] = {}
        self.use_shared = False

    def share(self, shared: list[Leaf]) -> None:
        self.shared_known = {leaf: f"s{number}" for number, leaf in enumerate(shared)}

    def known(self, leaf: Leaf) -> str:
        fact = self.variable[leaf.fact]
        if isinstance(leaf, InList):
            return f"{fact} in {self._list(leaf.list, self.typed.types[leaf.fact])}"
        return f"{fact} {_OPERATORS[leaf.operator]} {self._operand(leaf)}"

    def possible(self, leaf: Leaf) -> str:
        if isinstance(leaf, InList) and leaf.list not in self.lists:
            return "True"
        return f"({self.variable[leaf.fact]} is None or {self.known(leaf)})"

    def certain(self, leaf: Leaf) -> str:
        if isinstance(leaf, InList) and leaf.list not in self.lists:
            return "False"
        return f"({self.variable[leaf.fact]} is not None and {self.known(leaf)})"

    def expression(self, expression: Expression, form: str = "known") -> str:
        match expression:
            case Not(operand):
                other = {"known": "known", "can": "must", "must": "can"}[form]
                return f"not ({self.expression(operand, other)})"
            case And(operands):
                return " and ".join(f"({self.expression(each, form)})" for each in operands)
            case Or(operands):
                return " or ".join(f"({self.expression(each, form)})" for each in operands)
            case Comparison() | InList():
                if self.use_shared and expression in self.shared_known:
                    name = self.shared_known[expression]
                    return name if form == "known" else f"{name}_{form}"
                return {"known": self.known, "can": self.possible, "must": self.certain}[form](expression)
            case _:
                raise AssertionError(expression)

    def _list(self, name: str, fact_type: str) -> str:
        variable = f"list_{name}" if fact_type != "NUMERIC" else f"exact_list_{name}"
        if variable in self.names:
            return variable
        # A missing list is never asked for: the known body is not entered without it.
        return self._global(variable, list_entries(self.lists.get(name, frozenset()), fact_type))

    def _operand(self, leaf: Comparison) -> str:
        value = operand_value(leaf, self.typed.types[leaf.fact], self.parameters)
        if isinstance(value, bool | int | float | str):
            return repr(value)
        return self._global(f"d{len(self.names)}", value)

    def _global(self, name: str, value: object) -> str:
        self.names[name] = value
        return name
