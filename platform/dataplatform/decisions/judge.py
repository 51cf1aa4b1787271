"""What one decision is: the request as it comes, the record that is kept, and how one is made from the other.

Everything that made a decision is in its record (facts, memberships, parameter values, versions), so that `replay` gives the
same answer from the record alone, whenever.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Any, Protocol

import msgspec

from ..fraud.catalog import Catalog
from ..fraud.compiled import Decide, Outcome, compile_policy
from ..fraud.document import shown, suggestion
from ..fraud.expression import print_expression
from ..fraud.fact_types import TypedPolicy, list_entries
from ..fraud.facts import FactProblem, pointer
from ..fraud.features import EntityFeatures
from ..fraud.parameters import ParameterVersion, Snapshot
from ..fraud.policies import print_policy
from ..fraud.traced import Trace, trace_policy
from ..fraud.tree import LEVELS, RANK, Decision, Fact, InList, Scalar, leaves
from ..fraud.values import ValueProblem, plain_value, read_value

ACTIONS: Mapping[str, str] = {
    "pass": "allow",
    "monitor": "allow",
    "warn_confirm": "confirm",
    "hold": "hold",
    "block": "deny",
    "sanction": "deny",
}
"""What the caller does at each level."""
MAX_TEXT = 300
_FIELD = re.compile(r"(missing required|unknown) field `(.*)`")
_ENCODER = msgspec.json.Encoder()


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/decisions."""

    request_id: str
    event: str
    entities: dict[str, str] = {}
    facts: dict[str, Any] = {}
    deadline_ms: int | None = None


FALLBACKS = {
    "parameters": "the parameters were never reached",
    "features": "features could not be read",
    "deadline": "it took longer than its deadline",
}
"""Why an answer is of the fallback."""


class Reason(msgspec.Struct):
    """A rule that fired: its name and what it means."""

    code: str
    sentence: str


class Shadow(msgspec.Struct):
    """What other parameters would have said. `share` tells whether they were the ones that decided."""

    parameters: int
    level: str
    score: int
    rules: tuple[str, ...]


class Versions(msgspec.Struct):
    """What the decision was made with: digest of the policy's text, version of its parameters, counter of the store."""

    policy: str
    parameters: int
    generation: int


class Answer(msgspec.Struct):
    """Answer of POST /v1/decisions.

    `features` are the facts used, given and looked up. `fallback` says why the policy's stated fallback is in the answer: ""
    where it is not. `landed` is false where the deadline came before the disk.
    """

    request_id: str
    policy: str
    event: str
    decision: str
    level: str
    score: int
    reasons: list[Reason]
    unknown: tuple[str, ...]
    unknown_facts: tuple[str, ...]
    features: dict[str, Any]
    versions: Versions
    shadow: list[Shadow]
    fallback: str
    degraded: list[str]
    decided_at: str
    latency_ms: float
    landed: bool = True


class Record(msgspec.Struct):
    """A decision with all that it was made from: enough to make it again. Times in RFC 3339, UTC."""

    received_at: str
    request_id: str
    client: str
    answer: Answer
    entities: dict[str, str]
    given: dict[str, Any]
    memberships: dict[str, bool]
    parameters: dict[str, Any]


class Landed(msgspec.Struct):
    """One line of the landing, as `fraud.decisions` has it; `record` is the JSON text of the Record."""

    received_at: str
    request_id: str
    client: str
    policy: str
    event: str
    decision: str
    level: str
    score: int
    rules: list[str]
    unknown: list[str]
    fallback: str
    policy_version: str
    parameters_version: int
    latency_ms: float
    record: str


def landed_line(record: Record) -> bytes:
    """The line of the landing, without its line feed."""
    answer = record.answer
    return _ENCODER.encode(
        Landed(
            record.received_at,
            record.request_id,
            record.client,
            answer.policy,
            answer.event,
            answer.decision,
            answer.level,
            answer.score,
            [reason.code for reason in answer.reasons],
            list(answer.unknown),
            answer.fallback,
            answer.versions.policy,
            answer.versions.parameters,
            answer.latency_ms,
            _ENCODER.encode(record).decode(),
        )
    )


def record_of(line: bytes) -> Record:
    """The record in a line of the landing."""
    return msgspec.json.decode(msgspec.json.decode(line, type=Landed).record, type=Record)


class BadRequestError(Exception):
    """A request that cannot be judged: `status`, and each mistake with its JSON pointer."""

    def __init__(self, status: int, title: str, problems: list[FactProblem] | None = None) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.problems = problems or []


class FeatureSource(Protocol):
    """Where online features come from."""

    def features(self, key: str | None, moment: int, names: frozenset[str] | None = None) -> Mapping[str, Fact]:
        """Features of one entity now; raises when the store is down."""
        ...


@dataclass(frozen=True)
class Compiled:
    """A policy under one version of its parameters."""

    version: ParameterVersion
    values: Mapping[str, Scalar]
    plain: Mapping[str, Any]
    decide: Decide


@dataclass(frozen=True)
class Bench:
    """One policy ready to decide. `live` is None while the store of parameters was never reached."""

    typed: TypedPolicy
    digest: str
    roles: Mapping[str, EntityFeatures]
    wanted: Mapping[str, frozenset[str]]
    types: Mapping[str, str]
    rewritten: frozenset[str]
    """Facts that JSON holds in another form than rules: NUMERIC and TIMESTAMP."""
    memberships: tuple[tuple[str, str, frozenset[Scalar]], ...]
    """Text, fact and entries of every list membership that rules ask for."""
    sentences: Mapping[str, str]
    generation: int
    live: Compiled | None
    shadow: Compiled | None = None
    share: Compiled | None = None


@dataclass
class Judged:
    """A decision before it is made durable."""

    answer: Answer
    record: Record
    facts: Mapping[str, Fact] = field(default_factory=dict)


def bench_of(
    typed: TypedPolicy, catalog: Catalog, snapshot: Snapshot | None, values: Any = None, digest: str | None = None
) -> Bench:
    """Compile what is in force of one policy; `values` gives the values of a version (ParameterStore.values), `digest` is the
    policy's, where it is known: it takes milliseconds.
    """
    policy = typed.policy
    roles = catalog.roles(policy)
    types = {name: fact.type for name, fact in catalog.columns[policy.event].items()}
    wanted: dict[str, frozenset[str]] = {}
    for role, entity in roles.items():
        facts = entity.facts(role)
        types |= {name: fact.type for name, fact in facts.items()}
        names = {name.removeprefix(f"{role}.") for name in typed.types if name in facts} - {"id"}
        parts = {part for name in names for part in (entity.by_name[name].of, entity.by_name[name].over) if part}
        wanted[role] = frozenset(names | {part for part in parts if part in entity.by_name})
    tests = {
        leaf: None for rule in policy.rules for leaf in leaves(policy.resolved(rule.when)) if isinstance(leaf, InList)
    }
    lists = {name: snapshot.lists.get(name, frozenset()) for name in policy.lists()} if snapshot else {}
    in_force = snapshot.policies.get(policy.name) if snapshot else None

    def compiled(version: ParameterVersion | None) -> Compiled | None:
        if version is None:
            return None
        held: dict[str, Scalar] = values(version)
        plain = {each.name: plain_value(held[each.name], each.type) for each in policy.parameters}
        return Compiled(version, held, plain, compile_policy(typed, held, lists))

    return Bench(
        typed=typed,
        digest=digest or digest_of(typed),
        roles=roles,
        wanted=wanted,
        types=types,
        rewritten=frozenset(name for name, held in typed.types.items() if held in ("NUMERIC", "TIMESTAMP")),
        memberships=tuple(
            (print_expression(test), test.fact, list_entries(lists[test.list], typed.types[test.fact]))
            for test in tests
            if test.list in lists
        ),
        sentences={rule.name: rule.reason or rule.name for rule in policy.rules},
        generation=snapshot.generation if snapshot else 0,
        live=compiled(in_force.live) if in_force else None,
        shadow=compiled(in_force.shadow) if in_force else None,
        share=compiled(in_force.share) if in_force else None,
    )


def digest_of(typed: TypedPolicy) -> str:
    """Version of a policy's text: a hash of its printed form."""
    return hashlib.sha256(print_policy(typed.policy).encode()).hexdigest()[:12]


def read_request(body: bytes) -> Request:
    """The request of a body; BadRequestError with the place of the mistake."""
    try:
        request = msgspec.json.decode(body, type=Request)
    except msgspec.ValidationError as error:
        raise BadRequestError(422, "The request has mistakes.", _shape_problems(body, str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequestError(400, f"The body is no JSON: {error}") from None
    problems = []
    for name in ("request_id", "event"):
        text = getattr(request, name)
        if not text or len(text) > MAX_TEXT or "\x00" in text:
            problems.append(FactProblem(f"/{name}", "length", f"{name} has 1 to {MAX_TEXT} characters", "shorten it"))
    if request.deadline_ms is not None and not 1 <= request.deadline_ms <= 60_000:
        problems.append(FactProblem("/deadline_ms", "out_of_range", "a deadline is 1 to 60000 ms", "choose another"))
    for role, key in request.entities.items():
        if not key or len(key) > MAX_TEXT or "\x00" in key:
            problems.append(
                FactProblem(pointer("entities", role), "length", f"a key has 1 to {MAX_TEXT} characters", "shorten")
            )
    if problems:
        raise BadRequestError(422, "The request has mistakes.", problems)
    return request


def _shape_problems(body: bytes, told: str) -> list[FactProblem]:
    """The mistakes of a body that is no Request, from what msgspec tells of the first one."""
    message, _, path = told.partition(" - at `$")
    if (named := _FIELD.search(message)) is not None:
        place = path.rstrip("`").replace(".", "/") + pointer(named[2])
        if named[1] == "unknown":
            near = suggestion(named[2], Request.__struct_fields__)
            return [FactProblem(place, "unknown_key", message, f"write {near}" if near else "leave it out")]
        return [FactProblem(place, "missing", message, "add it")]
    fix = "see /openapi.json"
    if path.startswith(".entities["):  # which one is not told
        try:
            keys = msgspec.json.decode(body)["entities"]
        except msgspec.DecodeError as error:  # of what stands behind the entities
            raise BadRequestError(400, f"The body is no JSON: {error}") from None
        return [
            FactProblem(
                pointer("entities", role), "wrong_type", f"{shown(key)} is no key", "send it as a text, in quotes"
            )
            for role, key in keys.items()
            if not isinstance(key, str)
        ]
    path, inner, _ = path.partition("[")  # inside of a mapping it is not told where
    fix = "leave the fact out where it is not known" if inner else fix
    return [FactProblem(path.rstrip("`").replace(".", "/"), "wrong_type", message, fix)]


def read_given(bench: Bench, request: Request) -> dict[str, Fact]:
    """The facts that the request gives, in their types; BadRequestError with the pointer of each mistake."""
    problems = []
    given: dict[str, Fact] = {}
    types = bench.types
    for name, value in request.facts.items():
        held = types.get(name)
        if held is None:
            near = suggestion(name, types)
            fix = f"write {near}" if near else "see the event's contract and the policy's entities"
            problems.append(FactProblem(pointer("facts", name), "unknown_fact", f"{name} is no fact of the event", fix))
        elif value is not None and held not in ("REPEATED", "JSON"):
            try:
                given[name] = read_value(value, held)
            except ValueProblem as problem:
                message = f"{name} is {problem.message}"
                problems.append(FactProblem(f"/facts/{name}", problem.code, message, problem.fix))
    for role in request.entities:
        if role not in bench.roles:
            near = suggestion(role, bench.roles)
            fix = f"write {near}" if near else f"one of {', '.join(bench.roles)}"
            problems.append(FactProblem(pointer("entities", role), "unknown_entity", f"{role} is no entity here", fix))
    if problems:
        raise BadRequestError(422, "The request has mistakes.", problems)
    return given


def look_up(
    bench: Bench, request: Request, sources: Mapping[str, FeatureSource], moment: int, until: float = inf
) -> tuple[dict[str, Fact], list[str]]:
    """The features of the request's entities, and the entities whose store is down, or not asked any more: it is `until`
    on the clock of time.perf_counter.
    """
    found: dict[str, Fact] = {}
    down: list[str] = []
    for role, key in request.entities.items():
        found[f"{role}.id"] = key
        names = bench.wanted[role]
        if not names:
            continue
        entity = bench.roles[role].entity
        if perf_counter() > until:
            down.append(f"features of {entity}")
            continue
        try:
            values = sources[entity].features(key, moment, names)
        except Exception:  # whatever the store's client raises: the answer is the policy's fallback
            down.append(f"features of {entity}")
            continue
        for name in names:
            value = values.get(name)
            if value is not None:
                found[f"{role}.{name}"] = value
    return found, down


def judge(
    bench: Bench,
    request: Request,
    facts: Mapping[str, Fact],
    *,
    client: str,
    received: str,
    down: list[str],
    late: bool,
    latency_ms: float,
) -> Judged:
    """Decide. With a store `down`, or too `late`, the level is at least the policy's fallback, and the answer says so."""
    policy = bench.typed.policy
    chosen = bench.live
    shadows: list[Shadow] = []
    if bench.share is not None:
        # A request of the share is always of the share, whatever process decides it.
        if zlib.crc32(request.request_id.encode()) % 100 < bench.share.version.share_percent:
            chosen = bench.share
        else:
            shadows.append(_shadow(bench.share, facts))
    if bench.shadow is not None:
        shadows.append(_shadow(bench.shadow, facts))
    degraded = list(down)
    fallback = ""
    if chosen is None:
        outcome: Outcome = (0, 0, (), ())
        degraded.append("parameters")
        fallback = "parameters"
    else:
        outcome = chosen.decide(facts)
    rank, score, fired, unknown = outcome
    if down:
        fallback = "features"
    if late:
        fallback = "deadline"
    if fallback:
        rank = max(rank, RANK[policy.fallback_level])
    level = LEVELS[rank]
    types = bench.typed.types
    answer = Answer(
        request_id=request.request_id,
        policy=policy.name,
        event=policy.event,
        decision=ACTIONS[level],
        level=level,
        score=score,
        reasons=[Reason(name, bench.sentences[name]) for name in fired],
        unknown=unknown,
        unknown_facts=tuple([name for name in types if name not in facts]) if unknown else (),
        features={
            name: plain_value(value, types[name]) if name in bench.rewritten else value
            for name, value in facts.items()
            if name in types
        },
        versions=Versions(bench.digest, chosen.version.version if chosen else 0, bench.generation),
        shadow=shadows,
        fallback=fallback,
        degraded=degraded,
        decided_at=received,
        latency_ms=latency_ms,
    )
    memberships = {
        text: facts[fact] in entries for text, fact, entries in bench.memberships if facts.get(fact) is not None
    }
    record = Record(
        received_at=received,
        request_id=request.request_id,
        client=client,
        answer=answer,
        entities=request.entities,
        given=request.facts,
        memberships=memberships,
        parameters=dict(chosen.plain) if chosen else {},
    )
    return Judged(answer, record, facts)


def _shadow(compiled: Compiled, facts: Mapping[str, Fact]) -> Shadow:
    rank, score, fired, _ = compiled.decide(facts)
    return Shadow(compiled.version.version, LEVELS[rank], score, fired)


def replay(record: Record, typed: TypedPolicy) -> Trace:
    """The decision of a record once more, step by step: the same rules, score and level.

    Where the answer is of the policy's fallback, that is told, and the decision is the one that was given.

    The policy's text must be the one of the record: see `digest_of` and `Answer.versions`.
    """
    facts = {
        name: read_value(value, typed.types[name])
        for name, value in record.answer.features.items()
        if value is not None
    }
    policy = typed.policy
    values = {
        parameter.name: read_value(record.parameters[parameter.name], parameter.type)
        if parameter.name in record.parameters
        else parameter.default
        for parameter in policy.parameters
    }
    lists: dict[str, set[Scalar]] = {name: set() for name in policy.lists()}
    for rule in policy.rules:
        for leaf in leaves(policy.resolved(rule.when)):
            if isinstance(leaf, InList) and record.memberships.get(print_expression(leaf)):
                lists[leaf.list].add(facts[leaf.fact])
    trace = trace_policy(typed, values, {name: frozenset(each) for name, each in lists.items()}, facts)
    answer = record.answer
    if not answer.fallback:
        return trace
    given = Decision(answer.level, answer.score, tuple(each.code for each in answer.reasons), answer.unknown)  # type: ignore[arg-type]  # a level
    said = (
        f"The answer is at least {policy.fallback_level}, the policy's fallback, because {FALLBACKS[answer.fallback]}."
    )
    return msgspec.structs.replace(trace, decision=given, sentences=(said, *trace.sentences))
