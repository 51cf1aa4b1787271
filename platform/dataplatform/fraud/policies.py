"""Policy files: `schemas/policies/<policy>.yaml` read into the tree with every mistake in them, and printed back."""

import io
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ..contracts.errors import ContractError, Problem
from .document import Document, Step, dotted, parse_document, read_document, shown, suggestion
from .expression import KEYWORDS, ExpressionError, parse_condition, parse_rule, print_expression
from .fact_types import DeclaredFact, TypedPolicy, TypeProblem, type_policy, unresolved
from .features import EntityFeatures
from .reachable import contradiction
from .tree import (
    LEVELS,
    RANK,
    VALUE_TYPES,
    Comparison,
    Condition,
    Kind,
    Leaf,
    Level,
    Parameter,
    ParameterReference,
    Policy,
    Rule,
    Scalar,
    Stream,
    ValueType,
    leaves,
    references,
)
from .values import ValueProblem, check_bounds, plain_value, read_value

POLICY_KEYS = (
    "policy",
    "event",
    "owner",
    "description",
    "unknown",
    "deadline_ms",
    "fallback",
    "entities",
    "stream",
    "parameters",
    "conditions",
    "rules",
    "levels",
)
STREAM_KEYS = ("case", "alert", "keys")
PARAMETER_KEYS = ("type", "unit", "default", "min", "max", "owner", "description")
RULE_KEYS = ("name", "when", "score", "level", "reason")
MAX_RULES = 1_000

_STRICT_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_MARKS = ("?", "-", ":")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
"""What rules and policies may be called in a file that stands alone; conditions and parameters are words of expressions."""


def load_policy(
    file: Path,
    *,
    lists: Mapping[str, Kind | None] | None = None,
    declared: Mapping[str, DeclaredFact] | None = None,
    strict: bool = False,
) -> TypedPolicy:
    """Read and type one policy file; ContractError with every mistake in it.

    Without `declared` the file stands alone: its event and facts need not be declared anywhere. `strict` also wants
    what people need to work with the policy: owners, descriptions, bounds, reasons.
    """
    return _read(read_document(file), lists=lists, declared=declared, strict=strict)


def parse_policy(
    text: str,
    file: Path = Path("policy.yaml"),
    *,
    lists: Mapping[str, Kind | None] | None = None,
    declared: Mapping[str, DeclaredFact] | None = None,
    strict: bool = False,
) -> TypedPolicy:
    """`load_policy` of a text."""
    return _read(parse_document(text, file), lists=lists, declared=declared, strict=strict)


def print_policy(policy: Policy) -> str:
    """The YAML text that reads back as the same policy."""
    root: dict[str, Any] = {"policy": policy.name, "event": policy.event}
    if policy.owner:
        root["owner"] = policy.owner
    if policy.description:
        root["description"] = policy.description
    root["unknown"] = policy.unknown
    if policy.deadline_ms != Policy.__dataclass_fields__["deadline_ms"].default:
        root["deadline_ms"] = policy.deadline_ms
    if policy.fallback:
        root["fallback"] = policy.fallback
    if policy.entities:
        root["entities"] = _flow(dict(policy.entities))
    if policy.stream:
        row: dict[str, Any] = {"case": policy.stream.case, "alert": policy.stream.alert}
        root["stream"] = _flow(row | ({"keys": dict(policy.stream.keys)} if policy.stream.keys else {}))
    if policy.parameters:
        root["parameters"] = {each.name: _flow(_parameter_row(each)) for each in policy.parameters}
    if policy.conditions:
        root["conditions"] = {each.name: print_expression(each.test) for each in policy.conditions}
    root["rules"] = [_flow(_rule_row(rule)) for rule in policy.rules]
    if policy.levels:
        root["levels"] = _flow(dict(policy.levels))
    yaml = YAML()
    yaml.width = 10_000
    out = io.StringIO()
    yaml.dump(_quoted(root), out)
    return out.getvalue()


def _quoted(node: Any) -> Any:
    """Texts with characters that YAML takes for the end of a line, or may not print, are written with escapes; those that
    begin like an entry of YAML are quoted, which ruamel forgets inside of { }.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = _quoted(value)
    elif isinstance(node, list):
        node[:] = [_quoted(each) for each in node]
    elif isinstance(node, str) and (not node.isprintable() or node[:1] in _MARKS):
        return DoubleQuotedScalarString(node)
    return node


def _flow(row: dict[str, Any]) -> CommentedMap:
    flow = CommentedMap(row)
    flow.fa.set_flow_style()
    return flow


def _parameter_row(parameter: Parameter) -> dict[str, Any]:
    row: dict[str, Any] = {"type": parameter.type}
    if parameter.unit:
        row["unit"] = parameter.unit
    row["default"] = plain_value(parameter.default, parameter.type)
    for key in ("min", "max"):
        bound = getattr(parameter, key)
        if bound is not None:
            row[key] = plain_value(bound, parameter.type)
    if parameter.owner:
        row["owner"] = parameter.owner
    if parameter.description:
        row["description"] = parameter.description
    return row


def _rule_row(rule: Rule) -> dict[str, Any]:
    row: dict[str, Any] = {"name": rule.name, "when": print_expression(rule.when)}
    if rule.score or rule.level is None:
        row["score"] = rule.score
    if rule.level:
        row["level"] = rule.level
    if rule.reason:
        row["reason"] = rule.reason
    return row


def _read(
    document: Document,
    *,
    lists: Mapping[str, Kind | None] | None,
    declared: Mapping[str, DeclaredFact] | None,
    strict: bool,
) -> TypedPolicy:
    typed = _typed(document, _untyped(document, strict=strict), lists=lists, declared=declared, strict=strict)
    document.raise_problems()
    return typed


def _untyped(document: Document, *, strict: bool) -> Policy:
    """What of the file could be read; mistakes are noted."""
    root = document.root
    document.keys((), root, POLICY_KEYS)
    name = document.text((), root, "policy", required=True)
    _check_name(document, ("policy",), name, "a policy", _STRICT_NAME if strict else _LABEL)
    event = document.text((), root, "event", required=True)
    parameters = _parameters(document, root.get("parameters"), strict=strict)
    conditions = _conditions(document, root.get("conditions"))
    rules = _rules(document, root.get("rules"), strict=strict)
    return Policy(
        name=name,
        event=event,
        unknown=_level(document, (), root, "unknown", required=True) or "pass",
        rules=rules,
        parameters=parameters,
        conditions=conditions,
        levels=_bands(document, root.get("levels"), strict=strict),
        owner=document.text((), root, "owner", required=strict),
        description=document.text((), root, "description", required=strict),
        deadline_ms=_deadline(document, root),
        entities=_roles(document, root.get("entities")),
        fallback=_level(document, (), root, "fallback"),
        stream=_stream(document, root.get("stream")),
    )


def _typed(
    document: Document,
    policy: Policy,
    *,
    lists: Mapping[str, Kind | None] | None,
    declared: Mapping[str, DeclaredFact] | None,
    strict: bool,
    unread: Collection[str] = (),
) -> TypedPolicy:
    """The policy with types. It holds only where no mistake is noted; what rests on another mistake is not told.

    `unread` as in `type_policy`.
    """
    _check_references(document, policy)
    if strict:
        _check_effect(document, policy)
    typed, problems = type_policy(policy, lists=lists, declared=declared, unread=unread)
    places = [index for index, _ in _indexed_rules(document, policy)]
    for problem in problems:
        _report_type(document, problem, places)
    if strict:
        _check_reachable(document, typed)
    return typed


def _check_name(
    document: Document, path: tuple[Step, ...], name: str, what: str, pattern: re.Pattern[str] = _STRICT_NAME
) -> None:
    if name and (not pattern.match(name) or name.upper() in KEYWORDS):
        document.report(
            path,
            "name",
            f"{name!r} is no name of {what}",
            "use small letters, digits and _, beginning with a letter, and none of " + ", ".join(sorted(KEYWORDS)),
        )


def _level(
    document: Document, path: tuple[Step, ...], mapping: Mapping[str, Any], key: str, *, required: bool = False
) -> Level | None:
    text = document.text(path, mapping, key, required=required)
    if not text:
        return None
    for level in LEVELS:
        if level == text:
            return level  # type: ignore[return-value]  # one of the literal's own values
    near = suggestion(text, LEVELS)
    document.report(
        (*path, key),
        "unknown_level",
        f"{text!r} is no level",
        f"write {near}" if near else f"one of {', '.join(LEVELS)}",
    )
    return None


def _deadline(document: Document, root: Mapping[str, Any]) -> int:
    value = root.get("deadline_ms", Policy.__dataclass_fields__["deadline_ms"].default)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 60_000:
        return int(value)
    document.report(
        ("deadline_ms",), "out_of_range", f"{shown(value)} is no deadline", "give milliseconds from 1 to 60000"
    )
    return 50


def _stream(document: Document, value: Any) -> Stream | None:
    if value is None:
        return None
    row = document.mapping(("stream",), value, "stream", "{case: sender, alert: warn_confirm}")
    if row is None:
        return None
    document.keys(("stream",), row, STREAM_KEYS)
    case = document.text(("stream",), row, "case", required=True)
    alert = _level(document, ("stream",), row, "alert") or "monitor"
    if alert == "pass":
        document.report(("stream", "alert"), "no_effect", "an alert at pass is one of every event", "write monitor")
    keys = row.get("keys")
    rows = None if keys is None else document.mapping(("stream", "keys"), keys, "keys", "{receiver: receiver__id}")
    return Stream(case, alert, tuple((str(role), str(column)) for role, column in (rows or {}).items()))


def _parameters(document: Document, value: Any, *, strict: bool) -> tuple[Parameter, ...]:
    if value is None:
        return ()
    rows = document.mapping(("parameters",), value, "parameters", "name: {type: INT64, default: 30}")
    found = []
    for name, row in (rows or {}).items():
        path: tuple[Step, ...] = ("parameters", str(name))
        _check_name(document, path, str(name), "a parameter", _STRICT_NAME if strict else _WORD)
        entry = document.mapping(path, row, "a parameter", "{type: INT64, unit: days, default: 30, min: 0, max: 365}")
        if entry is not None and (parameter := _parameter(document, path, str(name), entry, strict=strict)):
            found.append(parameter)
    return tuple(found)


def _parameter(
    document: Document, path: tuple[Step, ...], name: str, row: Mapping[str, Any], *, strict: bool
) -> Parameter | None:
    document.keys(path, row, PARAMETER_KEYS)
    type_name = document.text(path, row, "type", required=True)
    if type_name and type_name not in VALUE_TYPES:
        near = suggestion(type_name.upper(), VALUE_TYPES)
        document.report(
            (*path, "type"),
            "unknown_type",
            f"{type_name!r} is no type of a parameter",
            f"write {near}" if near else f"one of {', '.join(VALUE_TYPES)}",
        )
        return None
    if not type_name:
        return None
    values: dict[str, Scalar | None] = {}
    for key in ("default", "min", "max"):
        if row.get(key) is None:
            if key == "default" or (strict and type_name in ("INT64", "FLOAT64", "NUMERIC")):
                document.report(path, "missing", f"{key} is missing", f"add {key}: …")
            continue
        try:
            values[key] = read_value(row[key], type_name)
        except ValueProblem as problem:
            document.report((*path, key), problem.code, problem.message, problem.fix)
    if "default" not in values:
        return None
    value_type: ValueType = type_name  # type: ignore[assignment]  # checked against VALUE_TYPES above
    parameter = Parameter(
        name=name,
        type=value_type,
        default=values["default"],  # type: ignore[arg-type]  # never None: skipped above
        unit=document.text(path, row, "unit"),
        min=values.get("min"),
        max=values.get("max"),
        owner=document.text(path, row, "owner", required=strict),
        description=document.text(path, row, "description", required=strict),
    )
    if parameter.min is not None and parameter.max is not None and parameter.min > parameter.max:  # type: ignore[operator]
        document.report((*path, "min"), "bounds", "min is above max", "exchange them")
        return parameter
    try:
        check_bounds(parameter.default, parameter)
    except ValueProblem as problem:
        document.report(
            (*path, "default"), problem.code, f"default {problem.message}", "choose a default within the bounds"
        )
    return parameter


def _conditions(document: Document, value: Any) -> tuple[Condition, ...]:
    if value is None:
        return ()
    rows = document.mapping(("conditions",), value, "conditions", "name: fact >= 10")
    found = []
    for name, text in (rows or {}).items():
        path: tuple[Step, ...] = ("conditions", str(name))
        _check_name(document, path, str(name), "a condition", _WORD)
        if not isinstance(text, str):
            document.report(path, "wrong_type", f"a condition is a text, not {shown(text)}", "write fact >= 10")
            continue
        try:
            found.append(Condition(str(name), parse_condition(str(text))))
        except ExpressionError as error:
            _report_expression(document, path, str(text), error)
    return tuple(found)


def _rules(document: Document, value: Any, *, strict: bool) -> tuple[Rule, ...]:
    if value is None:
        document.report((), "missing", "rules is missing", "add rules: [{name: …, when: …, score: …, reason: …}]")
        return ()
    rows = document.sequence(("rules",), value, "rules", "- {name: …, when: …, score: …, reason: …}")
    if rows is not None and not rows:
        document.report(("rules",), "missing", "there is no rule", "add - {name: …, when: …, score: …, reason: …}")
    found: list[Rule] = []
    for index, row in enumerate(rows or []):
        path: tuple[Step, ...] = ("rules", index)
        entry = document.mapping(path, row, "a rule", "{name: …, when: …, score: 10, reason: …}")
        if entry is None:
            continue
        rule = _rule(document, path, entry, strict=strict)
        if rule and any(other.name == rule.name for other in found):
            document.report((*path, "name"), "duplicate", f"another rule is called {rule.name}", "give it its own name")
        if rule:
            found.append(rule)
    if len(found) > MAX_RULES:
        document.report(("rules",), "too_long", f"more than {MAX_RULES} rules", "split the policy")
    return tuple(found)


def _rule(document: Document, path: tuple[Step, ...], row: Mapping[str, Any], *, strict: bool) -> Rule | None:
    document.keys(path, row, RULE_KEYS)
    name = document.text(path, row, "name", required=True)
    _check_name(document, (*path, "name"), name, "a rule", _STRICT_NAME if strict else _LABEL)
    level = _level(document, path, row, "level")
    score = row.get("score", 0)
    if not isinstance(score, int) or isinstance(score, bool) or abs(score) > 1_000_000:
        document.report(
            (*path, "score"), "wrong_type", f"a score is a whole number, not {shown(score)}", "write score: 10"
        )
        score = 0
    if strict and "score" not in row and "level" not in row:
        document.report(path, "no_effect", "the rule changes nothing", "give it a score, a level, or both")
    reason = document.text(path, row, "reason", required=strict)
    text = row.get("when")
    if isinstance(text, bool) or not isinstance(text, str):
        found = "missing" if text is None else "wrong_type"
        document.report(
            path if text is None else (*path, "when"),
            found,
            f"when is a text, not {shown(text)}",
            "write when: fact >= 10",
        )
        return None
    try:
        when = parse_rule(str(text))
    except ExpressionError as error:
        _report_expression(document, (*path, "when"), str(text), error)
        return None
    return Rule(name, when, int(score), level, reason)


def _bands(document: Document, value: Any, *, strict: bool) -> tuple[tuple[Level, float], ...]:
    if value is None:
        return ()
    rows: Mapping[Any, Any] = document.mapping(("levels",), value, "levels", "{monitor: 30, hold: 70, block: 90}") or {}
    found: list[tuple[Level, float]] = []
    for key, least in rows.items():
        level = _level(document, ("levels",), {str(key): str(key)}, str(key))
        if level is None:
            continue
        if isinstance(least, bool) or not isinstance(least, int | float) or not abs(least) <= 1e15:
            document.report(
                ("levels", str(key)), "wrong_type", f"a score is a number, not {shown(least)}", f"write {key}: 50"
            )
            continue
        found.append((level, int(least) if isinstance(least, int) else float(least)))
    found.sort(key=lambda band: RANK[band[0]])
    for (milder, low), (harder, high) in pairwise(found):
        if low > high or (strict and low == high):
            document.report(
                ("levels", harder),
                "not_rising",
                f"{harder} begins at {high}, and the milder {milder} at {low}",
                "let the scores rise with the levels",
            )
    return tuple(found)


def _check_references(document: Document, policy: Policy) -> None:
    known = {parameter.name for parameter in policy.parameters}
    declared = {str(name) for name in document.root.get("conditions") or ()}
    for condition in policy.conditions:
        _check_parameters(document, ("conditions", condition.name), [condition.test], known)
    for index, rule in _indexed_rules(document, policy):
        path: tuple[Step, ...] = ("rules", index, "when")
        _check_parameters(document, path, list(leaves(rule.when)), known)
        for name, at in unresolved(rule.when, policy.conditions):
            if name in declared:
                continue  # its own mistake is told where it is written
            near = suggestion(name, declared)
            document.report(
                path,
                "unknown_condition",
                f"no condition is called {name} (character {at + 1})",
                f"write {near}" if near else f"add it to conditions, or compare it, such as {name} = TRUE",
            )


def _check_parameters(document: Document, path: tuple[Step, ...], tests: list[Any], known: set[str]) -> None:
    written = {str(name) for name in document.root.get("parameters") or ()}
    for test in tests:
        name = _parameter_of(test)
        if name is None or name in known or name in written:
            continue
        near = suggestion(name, known)
        document.report(
            path,
            "unknown_parameter",
            f"no parameter is called ${name}",
            f"write ${near}" if near else f"add {name} to parameters",
        )


def _parameter_of(test: Leaf) -> str | None:
    """The parameter that a comparison compares with."""
    operand = test.operand if isinstance(test, Comparison) else None
    return operand.name if isinstance(operand, ParameterReference) else None


def _indexed_rules(document: Document, policy: Policy) -> list[tuple[int, Rule]]:
    """(place in the file, rule) of the rules that could be read."""
    rows = document.root.get("rules")
    places: dict[Any, int] = {}
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, Mapping):
            places.setdefault(row.get("name"), index)
    return [(places.get(rule.name, 0), rule) for rule in policy.rules]


def _check_effect(document: Document, policy: Policy) -> None:
    most = sum(max(rule.score, 0) for rule in policy.rules)
    if policy.rules and policy.levels and not any(rule.level for rule in policy.rules) and most < policy.levels[0][1]:
        document.report(
            ("levels",),
            "cannot_fire",
            f"all rules together score {most}, and {policy.levels[0][0]} begins at {policy.levels[0][1]}",
            "raise scores, lower the levels, or give rules a level of their own",
        )
    if policy.rules and not policy.levels and not any(rule.level for rule in policy.rules):
        document.report(
            (), "cannot_fire", "scores have no levels to reach", "add levels: {monitor: 30, …}, or give rules a level"
        )


def _check_reachable(document: Document, typed: TypedPolicy) -> None:
    """Rules that contradict themselves, of those in which, and in whose conditions and parameters, there is no other mistake."""
    policy = typed.policy
    wrong = {problem.path.removesuffix(".when") for problem in document.problems}
    wrong_parameters = {path.split(".")[1] for path in wrong if path.startswith("parameters.")}
    known = {condition.name for condition in policy.conditions if f"conditions.{condition.name}" not in wrong}
    values = policy.defaults()
    for index, rule in _indexed_rules(document, policy):
        if f"rules[{index}]" in wrong or any(reference.name not in known for reference in references(rule.when)):
            continue
        when = policy.resolved(rule.when)
        used = {name for test in leaves(when) if (name := _parameter_of(test)) is not None}
        facts = {test.fact for test in leaves(when)}
        if used & wrong_parameters or not used <= values.keys() or not facts <= typed.types.keys():
            continue
        reason = contradiction(when, typed.types, values)
        if reason:
            document.report(
                ("rules", index, "when"), "cannot_fire", f"{rule.name} can never fire: {reason}", "change a comparison"
            )


def _report_expression(document: Document, path: tuple[Step, ...], text: str, error: ExpressionError) -> None:
    before = text[: error.at]
    line = before.count("\n")
    place = f"character {error.at + 1}"
    around = text[max(0, error.at - 15) : error.at + 15].replace("\n", " ")
    message = f"{error.message} ({place}: …{around}…)" if len(text) > 30 else f"{error.message} ({place})"
    number = document.line(path) + line
    document.problems.append(Problem(document.file, number, dotted(path), error.code, message, error.fix))


def _report_type(document: Document, problem: TypeProblem, places: list[int]) -> None:
    owner = problem.owner
    if isinstance(owner[1], int):
        owner = (owner[0], places[owner[1]], *owner[2:])
    document.report(owner, problem.code, problem.message, problem.fix)


def load_policies(
    root: Path,
    *,
    events: Mapping[str, Mapping[str, DeclaredFact]],
    entities: Mapping[str, EntityFeatures],
    broken: Collection[str] = (),
) -> dict[str, TypedPolicy]:
    """All policies below a folder, by name, checked against events (by event or collection, what its columns are) and the features of entities.

    ContractError with the mistakes of all files. The entities `broken` are there, but what features they have is not known.
    """
    found: dict[str, TypedPolicy] = {}
    problems: list[Problem] = []
    for file in sorted(root.glob("*.yaml")):
        try:
            document = read_document(file)
        except ContractError as error:
            problems.extend(error.problems)
            continue
        declared, unread = _declared(document, events, entities, broken)
        policy = _untyped(document, strict=True)
        _check_stream(document, policy, events, entities, unread)
        _check_one_decides(document, policy, found.values())
        typed = _typed(document, policy, lists=None, declared=declared, strict=True, unread=unread)
        if policy.name and policy.name != file.stem:
            message = f"the file is called {file.stem} and the policy {policy.name}"
            document.report(("policy",), "name", message, f"call the file {policy.name}.yaml")
        problems += sorted(document.problems, key=lambda problem: problem.line)
        if not document.problems:
            found[policy.name] = typed
    if problems:
        raise ContractError(problems)
    return found


def _declared(
    document: Document,
    events: Mapping[str, Mapping[str, DeclaredFact]],
    entities: Mapping[str, EntityFeatures],
    broken: Collection[str],
) -> tuple[dict[str, DeclaredFact], set[str]]:
    """The facts that a policy's event and entities give, and the roles ("" for the event) whose facts are not known.

    What it names and is not there is noted, and read as what was probably meant: its facts are none of the mistakes.
    """
    unread = set()
    event = str(document.root.get("event", ""))
    if event not in events:
        near = suggestion(event, events)
        fix = f"write {near}" if near else "add its contract to schemas/events or schemas/collections"
        document.report(("event",), "unknown_event", f"no event or collection is called {event}", fix)
        event = near
    if event not in events:
        unread.add("")
    facts = {name: fact for name, fact in events.get(event, {}).items() if fact.type not in ("REPEATED", "JSON")}
    roles = document.root.get("entities")
    named = roles.items() if isinstance(roles, Mapping) else ((each, each) for each in (*entities, *broken))
    for role, name in named:
        meant = str(name)
        if meant not in entities and meant not in broken:
            near = suggestion(meant, entities)
            fix = f"write {near}" if near else "declare it in schemas/features"
            document.report(("entities", str(role)), "unknown_entity", f"no entity is called {name}", fix)
            meant = near
        if meant in entities:
            facts |= entities[meant].facts(str(role))
        else:
            unread.add(str(role))
    return facts, unread


def key_columns(policy: Policy, columns: Collection[str], entities: Mapping[str, EntityFeatures]) -> dict[str, str]:
    """Role → the column of the policy's event that holds its entity's key; roles that have none are left out.

    It is the one that `stream` names, else the entity's own key, else the one by which its features tell the event apart.
    """
    named = dict(policy.stream.keys) if policy.stream else {}
    roles = dict(policy.entities) or {name: name for name in entities}
    found = {}
    for role, name in roles.items():
        entity = entities.get(name)
        if entity is None:
            continue
        candidates = [entity.key, *(by for event, by in entity.streams if event == policy.event)]
        column = named.get(role) or next((each for each in candidates if each in columns), None)
        if column is not None:
            found[role] = column
    return found


def _check_stream(
    document: Document,
    policy: Policy,
    events: Mapping[str, Mapping[str, DeclaredFact]],
    entities: Mapping[str, EntityFeatures],
    unread: Collection[str],
) -> None:
    columns = events.get(policy.event)
    if columns is None:
        return
    stream = policy.stream
    if stream is None:
        if "." in policy.event:
            fix = "add stream: {case: <role>}: changes of a collection are known after they happened"
            document.report(("event",), "needs_stream", f"{policy.event} is a collection", fix)
        return
    roles = key_columns(policy, columns, entities)
    for role, column in stream.keys:
        if column not in columns:
            near = suggestion(column, columns)
            fix = f"write {near}" if near else "see the contract of the event or collection"
            document.report(("stream", "keys", role), "unknown_column", f"{policy.event} has no {column}", fix)
        if role not in roles and role not in unread:
            document.report(("stream", "keys", role), "unknown_role", f"{role} is no entity here", "see entities")
    if stream.case not in roles and stream.case not in unread:
        message = f"{stream.case} is no entity whose key {policy.event} has"
        fix = f"one of {', '.join(roles)}, or name its column: keys: {{{stream.case}: …}}"
        document.report(("stream", "case"), "unknown_role", message, fix)


def _check_one_decides(document: Document, policy: Policy, others: Iterable[TypedPolicy]) -> None:
    """Of two policies that decide the same event while someone waits only one would be asked."""
    if policy.stream is not None:
        return
    for other in others:
        if other.policy.event == policy.event and other.policy.stream is None and other.policy.name != policy.name:
            message = f"{other.policy.name} decides {policy.event} as well"
            document.report(("event",), "duplicate", message, "put the rules together, or give one of them stream: …")


def _roles(document: Document, value: Any) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    rows = document.mapping(("entities",), value, "entities", "{sender: user}")
    for role in rows or ():
        _check_name(document, ("entities", str(role)), str(role), "a role")
    return tuple((str(role), str(name)) for role, name in (rows or {}).items())
