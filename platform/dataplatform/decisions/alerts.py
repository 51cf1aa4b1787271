"""Alerts: policies with `stream` judge what was landed, and what they find is kept until it is landed and in a case.

Once in effect. What was judged and what was found become durable together, before the online features take the events in; so a
killed process judges a batch whole or not at all. An alert's id is made of its policy and the event's id, and its file's name of
the batch: landing it again, or giving it to the cases again, changes nothing.
"""

import hashlib
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..fraud.cases import CaseAlert, CaseDecision, Cases
from ..fraud.moments import Event
from ..fraud.tree import RANK, Fact
from ..fraud.values import plain_value, time_text
from ..landing import Landing, hour_of
from .bench import Benches
from .judge import Bench, FeatureSource, Record, Request, judge, look_up

ALERTS_STREAM = "alerts"
JUDGED_STREAM = "judged"
COUNT_MICROS = 30_000_000
"""How often counts are landed."""
_encode = msgspec.json.Encoder().encode


class Alert(msgspec.Struct):
    """One line of the landing, as `fraud.alerts` has it. Times in RFC 3339; `record` is the JSON text of a decision's Record.

    `source` and `source_id` name what was judged: an event and its id, or a collection and the change's position.
    """

    alert_id: str
    alerted_at: str
    policy: str
    source: str
    source_id: str
    happened_at: str
    known_at: str
    entity: str
    entity_key: str
    level: str
    score: int
    rules: list[str]
    unknown: list[str]
    policy_version: str
    parameters_version: int
    record: str


class Judged(msgspec.Struct):
    """One line of the landing, as `fraud.judged` has it: how often a rule was asked, fired and was undecided since the line before."""

    judged_at: str
    writer: str
    policy: str
    rule: str
    judged: int
    fired: int
    undecided: int


@dataclass
class Count:
    """How often a policy judged, and its rules fired and were undecided."""

    judged: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)


def alert_id(policy: str, source: str, source_id: str) -> str:
    """The id of what a policy finds in an event, whoever judges it and however often."""
    return hashlib.blake2b(msgspec.json.encode([policy, source, source_id]), digest_size=16).hexdigest()


def alert_of(
    bench: Bench,
    key_columns: Mapping[str, str],
    event: Event,
    sources: Mapping[str, FeatureSource],
    now: datetime,
    count: Count,
) -> Alert | None:
    """What a policy says of an event with the features as they are, when it became known; None below its level for alerts.

    It is counted in `count`. ConnectionError where a store of features is down: the event is judged when it is back.
    """
    policy = bench.typed.policy
    stream = policy.stream
    assert stream is not None
    keys = {role: key for role, column in key_columns.items() if (key := event.keys.get(column)) is not None}
    given: dict[str, Fact] = {
        name: value for name, value in event.values.items() if value is not None and name in bench.types
    }
    plain = {name: plain_value(value, bench.types[name]) for name, value in given.items()}
    identity = alert_id(policy.name, event.event, event.event_id)
    request = Request(identity, event.event, keys, plain)
    facts, down = look_up(bench, request, sources, event.known)
    if down:
        raise ConnectionError(f"no {', '.join(down)}")
    at = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
    judged = judge(bench, request, facts | given, client="stream", received=at, down=[], late=False, latency_ms=0.0)
    answer = judged.answer
    count.judged += 1
    count.fired.update(reason.code for reason in answer.reasons)
    count.undecided.update(answer.unknown)
    subject = keys.get(stream.case)
    if subject is None or RANK[answer.level] < RANK[stream.alert]:
        return None
    return Alert(
        alert_id=identity,
        alerted_at=at,
        policy=policy.name,
        source=event.event,
        source_id=event.event_id,
        happened_at=time_text(event.happened),
        known_at=time_text(event.known),
        entity=bench.roles[stream.case].entity,
        entity_key=subject,
        level=answer.level,
        score=answer.score,
        rules=[reason.code for reason in answer.reasons],
        unknown=list(answer.unknown),
        policy_version=answer.versions.policy,
        parameters_version=answer.versions.parameters,
        record=_encode(judged.record).decode(),
    )


class AlertBox:
    """What was judged, and the alerts that are on their way, in one SQLite file. Whoever begins a batch is alone until its end."""

    def __init__(self, path: Path, *, keep_hours: int) -> None:
        """Ids are known for `keep_hours`; events that became known earlier are not judged at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.keep = keep_hours * 3_600_000_000
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        for statement in (
            "CREATE TABLE IF NOT EXISTS judged (source TEXT, id TEXT, known INTEGER, PRIMARY KEY (source, id)) WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS judged_known ON judged (known)",
            "CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER, stream TEXT, lines BLOB,"
            " landed INTEGER)",
            "CREATE TABLE IF NOT EXISTS counts (policy TEXT, rule TEXT, since INTEGER, judged INTEGER, fired INTEGER,"
            " undecided INTEGER, PRIMARY KEY (policy, rule)) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS decisions (entity TEXT, key TEXT, request_id TEXT, at INTEGER, line BLOB,"
            " PRIMARY KEY (entity, key, request_id)) WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS decisions_at ON decisions (at)",
            "CREATE TABLE IF NOT EXISTS name (token TEXT)",
        ):
            self._database.execute(statement)
        self._database.execute("BEGIN IMMEDIATE")
        row = self._database.execute("SELECT token FROM name").fetchone()
        if row is None:
            row = (secrets.token_hex(6),)
            self._database.execute("INSERT INTO name VALUES (?)", row)
        self._database.execute("COMMIT")
        self._name: str = row[0]

    def begin(self) -> None:
        """Begin a batch. What an earlier one left behind, that failed in the middle, is forgotten."""
        self.rollback()
        self._database.execute("BEGIN IMMEDIATE")

    def judge_once(self, event: Event, now: int) -> bool:
        """Note that an event is judged with this batch; False where it was before, or is too old for that to be known."""
        if event.known < now - self.keep:
            return False
        row = (event.event, event.event_id, event.known)
        return self._database.execute("INSERT OR IGNORE INTO judged VALUES (?, ?, ?)", row).rowcount == 1

    def count(self, now: int, policy: str, rule: str, judged: int, fired: int, undecided: int) -> None:
        """Add to what was counted since the counts were last sent on their way."""
        self._database.execute(
            "INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET judged = judged + excluded.judged,"
            " fired = fired + excluded.fired, undecided = undecided + excluded.undecided",
            (policy, rule, now, judged, fired, undecided),
        )

    def send_counts(self, now: int, *, every: int = COUNT_MICROS) -> None:
        """Put what was counted on its way, when the oldest of it is old enough."""
        (since,) = self._database.execute("SELECT min(since) FROM counts").fetchone()
        if since is None or since > now - every:
            return
        self.begin()
        rows = self._database.execute("SELECT policy, rule, judged, fired, undecided FROM counts ORDER BY policy, rule")
        lines = b"".join(_encode(Judged(time_text(now), self._name, *row)) + b"\n" for row in rows)
        self._send(now, JUDGED_STREAM, lines)
        self._database.execute("DELETE FROM counts")
        self._database.execute("COMMIT")

    def _send(self, now: int, stream: str, lines: bytes) -> None:
        self._database.execute(
            "INSERT INTO outbox (at, stream, lines, landed) VALUES (?, ?, ?, 0)", (now, stream, lines)
        )

    def commit(self, alerts: list[Alert], now: int) -> None:
        """Keep what the batch judged and found."""
        if alerts:
            lines = b"".join(_encode(alert) + b"\n" for alert in alerts)
            self._send(now, ALERTS_STREAM, lines)
        self._database.execute("DELETE FROM judged WHERE known < ?", (now - self.keep,))
        self._database.execute("DELETE FROM decisions WHERE at < ?", (now - self.keep,))
        self._database.execute("COMMIT")

    def rollback(self) -> None:
        """Forget the batch."""
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def deliver(self, landings: Mapping[str, Landing], cases: Cases | None) -> int:
        """Land what is on its way, and give alerts to the cases; without these they wait. How many alerts are done."""
        rows = self._database.execute("SELECT number, at, stream, lines, landed FROM outbox ORDER BY number").fetchall()
        done = 0
        for number, at, stream, lines, landed in rows:
            if not landed:
                hour = hour_of(datetime.fromtimestamp(at / 1e6, UTC))
                with suppress(FileExistsError):  # landed before the process died
                    landings[stream].put(hour, f"{self._name}-{number:09d}.ndjson", lines)
                self._database.execute("UPDATE outbox SET landed = 1 WHERE number = ?", (number,))
            if stream == ALERTS_STREAM:
                if cases is None:
                    continue
                for line in lines.splitlines():
                    alert = msgspec.json.decode(line, type=Alert)
                    cases.take(_case_alert(alert), self.recent_decisions(alert.entity, alert.entity_key))
                    done += 1
            self._database.execute("DELETE FROM outbox WHERE number = ?", (number,))
        return done

    def note_decision(self, entity: str, key: str, decision: CaseDecision) -> None:
        """Remember a decision about an entity, for the case that may come."""
        row = (entity, key, decision.request_id, decision.at, _encode(decision))
        self._database.execute("INSERT OR IGNORE INTO decisions VALUES (?, ?, ?, ?, ?)", row)

    def recent_decisions(self, entity: str, key: str, limit: int = 50) -> list[CaseDecision]:
        """The newest decisions about an entity."""
        rows = self._database.execute(
            "SELECT line FROM decisions WHERE entity = ? AND key = ? ORDER BY at DESC LIMIT ?", (entity, key, limit)
        )
        return [msgspec.json.decode(line, type=CaseDecision) for (line,) in rows]

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class AlertStream:
    """The policies that judge after the event: what they need of an event, and the alerts of a batch."""

    def __init__(self, benches: Benches, box: AlertBox) -> None:
        self.benches = benches
        self.box = box
        catalog = benches.catalog
        self.key_columns = {
            name: catalog.key_columns(typed.policy) for name, typed in catalog.policies.items() if typed.policy.stream
        }
        self._found: list[Alert] = []
        self._counts: dict[str, Count] = {}
        self._now = datetime.now(UTC)

    @property
    def wanted(self) -> dict[str, tuple[set[str], dict[str, str]]]:
        """By event or collection: the columns that hold keys, and those that policies read with their types."""
        found: dict[str, tuple[set[str], dict[str, str]]] = {}
        for name, columns in self.key_columns.items():
            typed = self.benches.catalog.policies[name]
            keys, read = found.setdefault(typed.policy.event, (set(), {}))
            keys |= set(columns.values())
            declared = self.benches.catalog.columns[typed.policy.event]
            read |= {fact: held for fact, held in typed.types.items() if fact in declared}
        return found

    def begin(self, now: datetime) -> None:
        """Begin a batch."""
        self._now, self._found, self._counts = now, [], {}
        self.box.begin()

    def look(self, event: Event, sources: Mapping[str, FeatureSource]) -> None:
        """Judge an event, before the features have taken it in; once, however often it comes."""
        benches = self.benches.streams.get(event.event)
        if not benches or not self.box.judge_once(event, _micros(self._now)):
            return
        if not event.keys:
            return  # refused by its contract: its id is taken, and nothing more
        for bench in benches:
            name = bench.typed.policy.name
            count = self._counts.setdefault(name, Count())
            found = alert_of(bench, self.key_columns[name], event, sources, self._now, count)
            if found is not None:
                self._found.append(found)

    def commit(self) -> None:
        """Make the batch durable."""
        now = _micros(self._now)
        for name, count in self._counts.items():
            for rule in self.benches.catalog.policies[name].policy.rules:
                self.box.count(now, name, rule.name, count.judged, count.fired[rule.name], count.undecided[rule.name])
        self.box.commit(self._found, now)


def note_decisions(box: AlertBox, benches: Benches, records: Iterable[Record]) -> set[tuple[str, str]]:
    """Remember decisions that are not `pass` under every entity they are about; these, as (entity, key)."""
    about: set[tuple[str, str]] = set()
    box.begin()
    for record in records:
        answer = record.answer
        typed = benches.catalog.policies.get(answer.policy)
        if typed is None or answer.level == "pass":
            continue
        at = _micros(datetime.fromisoformat(record.received_at))
        decision = CaseDecision(record.request_id, at, answer.policy, answer.level, answer.decision)
        roles = benches.catalog.roles(typed.policy)
        for role, key in record.entities.items():
            if role in roles:
                box.note_decision(roles[role].entity, key, decision)
                about.add((roles[role].entity, key))
    box.commit([], _micros(datetime.now(UTC)))
    return about


def _case_alert(alert: Alert) -> CaseAlert:
    record = msgspec.json.decode(alert.record, type=Record)
    return CaseAlert(
        alert_id=alert.alert_id,
        at=_micros(datetime.fromisoformat(alert.alerted_at)),
        policy=alert.policy,
        source=alert.source,
        source_id=alert.source_id,
        entity=alert.entity,
        entity_key=alert.entity_key,
        level=alert.level,
        score=alert.score,
        evidence={
            "happened_at": alert.happened_at,
            "reasons": [{"code": reason.code, "sentence": reason.sentence} for reason in record.answer.reasons],
            "unknown": alert.unknown,
            "facts": record.answer.features,
            "entities": record.entities,
            "policy_version": alert.policy_version,
            "parameters_version": alert.parameters_version,
            "parameters": record.parameters,
        },
    )


def _micros(time: datetime) -> int:
    return int(time.timestamp() * 1e6)
