"""Declared features: `schemas/features/<entity>.yaml` as plain frozen values, with every mistake in the file.

A feature is a number (or text, or time) about one entity at one moment t, made from the events that happened in
[t − window, t) and were known at t. An event at the very moment t is not in it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ..contracts.errors import ContractError, Problem
from .document import Document, Step, parse_document, read_document, shown, suggestion
from .documents import has_plain_name, is_collection
from .expression import ExpressionError, parse_rule, print_expression
from .fact_types import DeclaredFact, TypedPolicy, type_policy
from .tree import (
    KIND_OF_TYPE,
    VALUE_TYPES,
    Comparison,
    Expression,
    InList,
    ParameterReference,
    Policy,
    Rule,
    Scalar,
    leaves,
    references,
)
from .values import ValueProblem, read_value

Aggregation = Literal[
    "count", "count_distinct", "sum", "mean", "min", "max", "last", "time_since_first", "time_since_last", "ratio"
]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)
NUMERIC_TYPES = frozenset({"INT64", "FLOAT64", "NUMERIC"})
UNITS = {"seconds": 1_000_000, "minutes": 60_000_000, "hours": 3_600_000_000, "days": 86_400_000_000}
"""Units of time_since_…, in microseconds."""
SUMMED_BELOW = {"INT64": 10**13, "NUMERIC": 10**19, "FLOAT64": 10**19}
"""By a column's type: sums and means leave larger amounts out, either sign. A million of those below fit the type of the sum, so that
nobody's events can make one that is an error for all.
"""
MAX_WINDOW_DAYS = 400
FILE_KEYS = ("entity", "key", "owner", "description", "features")
FEATURE_KEYS = (
    "name",
    "event",
    "by",
    "where",
    "aggregation",
    "of",
    "over",
    "window",
    "type",
    "unit",
    "no_data",
    "description",
    "owner",
    "pii",
)
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WINDOW = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)\Z")
_WINDOW_MICROS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_NEEDS_OF = frozenset({"count_distinct", "sum", "mean", "min", "max", "last"})
_COUNTS = frozenset({"count", "count_distinct"})


@dataclass(frozen=True, slots=True)
class Feature:
    """One declared feature.

    `event` is the name of an event, or of a collection (`shop.articles`) whose changes are the events.
    `by` is the event's column that holds the entity's key. `window` is in microseconds, None for all of history (only
    for time_since_first). A ratio has `of` and `over`, the names of two features of the file, and no event.
    `no_data` is the value where no event is in the window; None is unknown.
    """

    name: str
    aggregation: Aggregation
    type: str
    event: str = ""
    by: str = ""
    where: Expression | None = None
    of: str = ""
    over: str = ""
    window: int | None = None
    unit: str = ""
    no_data: Scalar | None = None
    description: str = ""
    owner: str = ""
    pii: bool = False

    @property
    def stream(self) -> tuple[str, str]:
        """The events it is made from and how they are told apart: (event, by)."""
        return self.event, self.by


@dataclass(frozen=True)
class EntityFeatures:
    """All features of one entity. `columns` are, by event, the columns they read with their types."""

    entity: str
    key: str
    features: tuple[Feature, ...]
    columns: Mapping[str, Mapping[str, str]]
    owner: str = ""
    description: str = ""

    @cached_property
    def streams(self) -> dict[tuple[str, str], tuple[Feature, ...]]:
        """(event, by) → the features made from it, ratios left out, in the file's order."""
        found: dict[tuple[str, str], list[Feature]] = {}
        for feature in self.features:
            if feature.aggregation != "ratio":
                found.setdefault(feature.stream, []).append(feature)
        return {stream: tuple(features) for stream, features in found.items()}

    @cached_property
    def by_name(self) -> dict[str, Feature]:
        """Name → feature."""
        return {feature.name: feature for feature in self.features}

    def filter_of(self, feature: Feature) -> TypedPolicy | None:
        """The feature's `where` as a policy of one rule, so that it is evaluated as rules are."""
        if feature.where is None:
            return None
        policy = Policy(feature.name, feature.event, "pass", (Rule("matches", feature.where),))
        return TypedPolicy(policy, {fact: self.columns[feature.event][fact] for fact in policy.facts()})

    def facts(self, role: str) -> dict[str, DeclaredFact]:
        """The facts that policies see of this entity: `<role>.<feature>`, and `<role>.id`, its key."""
        facts = {f"{role}.{each.name}": DeclaredFact(each.type, each.unit, "feature") for each in self.features}
        return {f"{role}.id": DeclaredFact("STRING", "", "entity")} | facts


def load_entity(file: Path, *, events: Mapping[str, Mapping[str, DeclaredFact]] | None = None) -> EntityFeatures:
    """Read one file of features; ContractError with every mistake.

    `events` gives the columns of every event; without it the file stands alone and types of columns come
    from how they are used.
    """
    return _read(read_document(file), events)


def parse_entity(
    text: str, file: Path = Path("features.yaml"), *, events: Mapping[str, Mapping[str, DeclaredFact]] | None = None
) -> EntityFeatures:
    """`load_entity` of a text."""
    return _read(parse_document(text, file), events)


def load_entities(
    root: Path, *, events: Mapping[str, Mapping[str, DeclaredFact]] | None = None
) -> tuple[dict[str, EntityFeatures], list[Problem]]:
    """All files of features below a folder that hold, by entity, and the mistakes of the others."""
    found: dict[str, EntityFeatures] = {}
    problems: list[Problem] = []
    for file in sorted(root.glob("*.yaml")):
        try:
            entity = load_entity(file, events=events)
        except ContractError as error:
            problems.extend(error.problems)
            continue
        if entity.entity != file.stem:
            message = f"the file is called {file.stem} and the entity {entity.entity}"
            problems.append(Problem(file, 1, "entity", "name", message, f"call the file {entity.entity}.yaml"))
        found[entity.entity] = entity
    return found, problems


def window_text(window: int | None) -> str:
    """A window as it is written, such as `24h`; `ever` for all of history."""
    if window is None:
        return "ever"
    for letter in ("d", "h", "m", "s"):
        if window % _WINDOW_MICROS[letter] == 0:
            return f"{window // _WINDOW_MICROS[letter]}{letter}"
    raise AssertionError(window)


def _read(document: Document, events: Mapping[str, Mapping[str, DeclaredFact]] | None) -> EntityFeatures:
    root = document.root
    document.keys((), root, FILE_KEYS)
    entity = document.text((), root, "entity", required=True)
    key = document.text((), root, "key", required=True)
    for name, value, pattern in (("entity", entity, _NAME), ("key", key, _COLUMN)):
        if value and not pattern.match(value):
            document.report((name,), "name", f"{value!r} is no name", "use letters, digits and _")
    owner = document.text((), root, "owner")
    rows = root.get("features")
    found: list[tuple[int, Feature]] = []
    if rows is None:
        document.report((), "missing", "features is missing", "add features: [{name: …, event: …, aggregation: …}]")
    else:
        for index, row in enumerate(document.sequence(("features",), rows, "features", "- {name: …}") or []):
            entry = document.mapping(("features", index), row, "a feature", "{name: …, event: …, aggregation: count}")
            feature = _feature(document, index, entry, key, owner) if entry is not None else None
            if feature is None:
                continue
            if any(feature.name == other.name for _, other in found):
                message = f"another feature is called {feature.name}"
                document.report(("features", index, "name"), "duplicate", message, "give it its own name")
            found.append((index, feature))
    _check_ratios(document, found)
    columns = _columns(document, found, events)
    document.raise_problems()
    return EntityFeatures(
        entity,
        key,
        tuple(feature for _, feature in found),
        columns,
        owner,
        document.text((), root, "description"),
    )


def _feature(document: Document, index: int, row: Mapping[str, Any], key: str, owner: str) -> Feature | None:
    path: tuple[Step, ...] = ("features", index)
    before = len(document.problems)
    document.keys(path, row, FEATURE_KEYS)
    name = document.text(path, row, "name", required=True)
    if name and (not _NAME.match(name) or name == "id"):
        document.report((*path, "name"), "name", f"{name!r} is no name of a feature", "use small letters, digits and _")
    aggregation = document.text(path, row, "aggregation", required=True)
    if aggregation and aggregation not in AGGREGATIONS:
        near = suggestion(aggregation, AGGREGATIONS)
        fix = f"write {near}" if near else f"one of {', '.join(AGGREGATIONS)}"
        document.report((*path, "aggregation"), "unknown_aggregation", f"{aggregation!r} is no aggregation", fix)
    type_name = document.text(path, row, "type") or _usual_type(aggregation)
    if not type_name:
        document.report(path, "missing", "type is missing", "add type: INT64")
    elif type_name not in VALUE_TYPES:
        document.report(
            (*path, "type"), "unknown_type", f"{type_name!r} is no type", f"one of {', '.join(VALUE_TYPES)}"
        )
    of, over, event = (document.text(path, row, each) for each in ("of", "over", "event"))
    by = document.text(path, row, "by") or key
    if aggregation == "ratio":
        for each, given in (("of", of), ("over", over)):
            if not given:
                document.report(
                    path, "missing", f"{each} is missing", "a ratio has of: and over:, names of two features"
                )
        for each in ("event", "window", "where", "by"):
            if each in row:
                document.report((*path, each), "unknown_key", f"a ratio has no {each}", "its two features have it")
        event = by = ""
    else:
        if not event:
            document.report(path, "missing", "event is missing", "add event: <name of the event>")
        if aggregation in _NEEDS_OF and not of:
            document.report(path, "missing", f"of is missing: a {aggregation} of what", "add of: <column of the event>")
        if aggregation in AGGREGATIONS and aggregation not in _NEEDS_OF and of:
            document.report((*path, "of"), "unknown_key", f"{aggregation} is of whole events", "remove of")
        if over:
            document.report((*path, "over"), "unknown_key", "only a ratio has over", "remove it")
        for each, given in (("of", of), ("by", by)):
            if given and not _COLUMN.match(given):
                document.report(
                    (*path, each), "name", f"{given!r} is no column", "write parent__child for inner fields"
                )
    window = _window(document, path, row, aggregation)
    unit = document.text(path, row, "unit")
    _check_type(document, path, aggregation, type_name, unit)
    where = _where(document, path, row)
    no_data = _no_data(document, path, row, aggregation, type_name)
    pii = row.get("pii", False)
    if not isinstance(pii, bool):
        document.report((*path, "pii"), "wrong_type", f"pii is true or false, not {shown(pii)}", "write pii: true")
    if len(document.problems) > before:
        return None
    return Feature(
        name,
        aggregation,  # type: ignore[arg-type]  # checked against AGGREGATIONS above
        type_name,
        event,
        by,
        where,
        of,
        over,
        window,
        unit,
        no_data,
        document.text(path, row, "description"),
        document.text(path, row, "owner") or owner,
        pii is True,
    )


def _usual_type(aggregation: str) -> str:
    if aggregation in _COUNTS:
        return "INT64"
    return "FLOAT64" if aggregation in ("mean", "ratio", "time_since_first", "time_since_last") else ""


def _window(document: Document, path: tuple[Step, ...], row: Mapping[str, Any], aggregation: str) -> int | None:
    if aggregation == "ratio":
        return None
    text = row.get("window")
    if text is None:
        document.report(path, "missing", "window is missing", "add window: 24h")
        return None
    if text == "ever":
        if aggregation != "time_since_first":
            message = "only time_since_first may look at all of history"
            document.report((*path, "window"), "window", message, f"give a window up to {MAX_WINDOW_DAYS}d")
        return None
    match = _WINDOW.match(text) if isinstance(text, str) else None
    if match is None:
        fix = "write a number and s, m, h or d, such as 24h"
        document.report((*path, "window"), "window", f"{shown(text)} is no window", fix)
        return None
    window = int(match.group(1)) * _WINDOW_MICROS[match.group(2)]
    if window > MAX_WINDOW_DAYS * _WINDOW_MICROS["d"]:
        document.report((*path, "window"), "window", f"{text} is long", f"give a window up to {MAX_WINDOW_DAYS}d")
    return window


def _check_type(document: Document, path: tuple[Step, ...], aggregation: str, type_name: str, unit: str) -> None:
    if aggregation in _COUNTS and type_name not in ("INT64", ""):
        document.report((*path, "type"), "type_conflict", f"a {aggregation} is INT64", "write type: INT64")
    if aggregation in ("mean", "ratio") and type_name not in ("FLOAT64", ""):
        document.report((*path, "type"), "type_conflict", f"a {aggregation} is FLOAT64", "write type: FLOAT64")
    if aggregation == "sum" and type_name not in (*NUMERIC_TYPES, ""):
        document.report((*path, "type"), "type_conflict", "a sum is a number", "write INT64, NUMERIC or FLOAT64")
    if aggregation.startswith("time_since"):
        if type_name not in ("INT64", "FLOAT64"):
            document.report((*path, "type"), "type_conflict", "a time since is a number", "write INT64 or FLOAT64")
        if unit not in UNITS:
            message = f"{unit!r} is no unit of time" if unit else "unit is missing"
            document.report(path, "unit", message, f"add unit: one of {', '.join(UNITS)}")


def _where(document: Document, path: tuple[Step, ...], row: Mapping[str, Any]) -> Expression | None:
    text = row.get("where")
    if text is None:
        return None
    place = (*path, "where")
    if not isinstance(text, str):
        document.report(place, "wrong_type", f"where is a text, not {shown(text)}", "write where: method = 'card'")
        return None
    try:
        expression = parse_rule(str(text))
    except ExpressionError as error:
        document.report(place, error.code, f"{error.message} (character {error.at + 1})", error.fix)
        return None
    for reference in references(expression):
        message = f"{reference.name} alone is no comparison"
        document.report(place, "not_a_comparison", message, f"compare it, such as {reference.name} = TRUE")
    for leaf in leaves(expression):
        if isinstance(leaf, InList):
            document.report(place, "list", "lists change, history does not", "compare with literals joined by OR")
        elif isinstance(leaf.operand, ParameterReference):
            document.report(place, "parameter", "parameters change, history does not", "write the value out")
        if "." in leaf.fact:
            document.report(place, "name", f"{leaf.fact} is no column", "write parent__child for inner fields")
    return expression


def _no_data(
    document: Document, path: tuple[Step, ...], row: Mapping[str, Any], aggregation: str, type_name: str
) -> Scalar | None:
    value = row.get("no_data", 0 if aggregation in _COUNTS else "unknown")
    if value == "unknown" or type_name not in VALUE_TYPES:
        return None
    try:
        return read_value(value, type_name)
    except ValueProblem as problem:
        document.report((*path, "no_data"), problem.code, f"no_data is {problem.message}", f"{problem.fix}, or unknown")
        return None


def _check_ratios(document: Document, found: list[tuple[int, Feature]]) -> None:
    by_name = {feature.name: feature for _, feature in found}
    written = {str(row.get("name")) for row in document.root.get("features") or () if isinstance(row, Mapping)}
    for index, feature in found:
        if feature.aggregation != "ratio":
            continue
        for key in ("of", "over"):
            name = getattr(feature, key)
            part = by_name.get(name)
            path = ("features", index, key)
            if part is None and name not in written:
                near = suggestion(name, by_name)
                fix = f"write {near}" if near else "declare it in this file"
                document.report(path, "unknown_feature", f"no feature is called {name}", fix)
            elif part is not None and (part.aggregation == "ratio" or part.type not in NUMERIC_TYPES):
                document.report(path, "type_conflict", f"{name} is no plain number", "take a count, sum or mean")


def _columns(
    document: Document, found: list[tuple[int, Feature]], events: Mapping[str, Mapping[str, DeclaredFact]] | None
) -> dict[str, dict[str, str]]:
    """By event, the type of every column that features read; mistakes are noted where uses do not fit each other."""
    columns: dict[str, dict[str, str]] = {}
    by_event: dict[str, list[tuple[int, Feature]]] = {}
    for index, feature in found:
        if feature.aggregation != "ratio":
            by_event.setdefault(feature.event, []).append((index, feature))
    for event, features in by_event.items():
        known = None if events is None else events.get(event)
        if events is not None and known is None:
            near = suggestion(event, events)
            fix = f"write {near}" if near else "add its contract to schemas/events or schemas/collections"
            for index, _ in features:
                document.report(("features", index, "event"), "unknown_event", f"no event is called {event}", fix)
            continue
        changes = is_collection(event)
        if changes and not has_plain_name(event):
            message = f"the tables of {event} have names of their own"
            document.report(("features", features[0][0], "event"), "name", message, "features need a plain name")
        types: dict[str, str] = {}
        for index, feature in features:
            # A document may have fields that no contract names; an event has none.
            if known is not None and not changes and feature.by not in known:
                near = suggestion(feature.by, known)
                fix = f"write by: {near}" if near else f"add by: one of {', '.join(sorted(known))}"
                message = f"{event} has no column {feature.by}"
                document.report(("features", index), "unknown_column", message, fix)
        for name in dict.fromkeys(_read_columns(each for _, each in features)):
            if known is not None and not changes and name not in known:
                near = suggestion(name, known)
                index = next(i for i, each in features if name in _read_columns([each]))
                fix = f"write {near}" if near else f"one of {', '.join(sorted(known))}"
                document.report(("features", index), "unknown_column", f"{event} has no column {name}", fix)
                continue
            if known is not None and name in known:
                types[name] = known[name].type
            else:
                used = _used_type(document, features, name)
                types[name] = "STRING" if changes and used == "ANY" else used
        columns[event] = types
        _check_columns(document, features, types, known or {})
    return columns


def _read_columns(features: Iterable[Feature]) -> Iterable[str]:
    for feature in features:
        if feature.of:
            yield feature.of
        if feature.where is not None:
            for leaf in leaves(feature.where):
                yield leaf.fact


def _used_type(document: Document, features: list[tuple[int, Feature]], name: str) -> str:
    hard: dict[str, int] = {}
    soft = False
    tests: list[tuple[int, Comparison]] = []
    for index, feature in features:
        if feature.of == name:
            if feature.aggregation in ("min", "max", "last") or (
                feature.aggregation == "sum" and feature.type != "FLOAT64"
            ):
                hard.setdefault(feature.type, index)
            elif feature.aggregation in ("sum", "mean"):
                soft = True
        if feature.where is not None:
            tests += [
                (index, each) for each in leaves(feature.where) if isinstance(each, Comparison) and each.fact == name
            ]
    if len(hard) == 1 and (not soft or "INT64" in hard):
        return next(iter(hard))
    if hard or soft:
        if all(each in NUMERIC_TYPES for each in hard) and "INT64" not in hard:
            return "NUMERIC"
        index = list(hard.values())[-1]
        message = f"{name} is {' and '.join(sorted(hard))} in different features"
        document.report(("features", index), "type_conflict", message, "give the features one type")
        return next(iter(hard))
    if tests:
        rule = Rule("where", tests[0][1])
        typed, _ = type_policy(Policy("where", "", "pass", (rule,)))
        return typed.types[name]
    return "ANY"


def _check_columns(
    document: Document, features: list[tuple[int, Feature]], types: Mapping[str, str], known: Mapping[str, DeclaredFact]
) -> None:
    for index, feature in features:
        path: tuple[Step, ...] = ("features", index)
        held = types.get(feature.of)
        if held is not None and not _fits(held, feature):
            message = f"{feature.of} is {held}, and a {feature.aggregation} of {feature.type} is wanted"
            document.report((*path, "of"), "type_conflict", message, "change the feature's type or column")
        if feature.where is None:
            continue
        facts = {leaf.fact for leaf in leaves(feature.where)}
        declared = {name: known.get(name) or DeclaredFact(types[name]) for name in facts if name in types}
        if facts - declared.keys():
            continue
        _, problems = type_policy(
            replace(Policy("where", "", "pass", ()), rules=(Rule("where", feature.where),)),
            declared=declared,
        )
        for problem in problems:
            document.report((*path, "where"), problem.code, problem.message, problem.fix)


def _fits(held: str, feature: Feature) -> bool:
    if feature.aggregation == "count_distinct":
        return held not in ("JSON", "STRUCT", "REPEATED")
    if feature.aggregation == "mean":
        return held in NUMERIC_TYPES
    if held == feature.type:
        return True
    if feature.type == "FLOAT64":
        return held in NUMERIC_TYPES
    return feature.type == "NUMERIC" and held in ("INT64", "NUMERIC", "FLOAT64" if feature.aggregation == "sum" else "")


def describe(feature: Feature) -> str:
    """What a feature is, in one line for people."""
    if feature.aggregation == "ratio":
        return f"{feature.of} / {feature.over}"
    of = f" of {feature.of}" if feature.of else ""
    where = f" where {print_expression(feature.where)}" if feature.where is not None else ""
    return f"{feature.aggregation}{of} in {feature.event} by {feature.by}{where}, {window_text(feature.window)}"


__all__ = ["KIND_OF_TYPE", "EntityFeatures", "Feature", "load_entities", "load_entity", "parse_entity"]
