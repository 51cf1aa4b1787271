"""Cases: what alerts found about one entity (a person, an account), gathered until someone says what it was.

An entity has at most one open case; alerts join it, each once, whatever is delivered how often. People assign it, look into
it, note, link decisions and close it as confirmed or dismissed; whoever changes a case that somebody else has changed meanwhile
gets a conflict with the difference. The next alert after the closing opens a new case.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec
import sqlalchemy as sa

from ..errors import PlatformError
from .parameters import MAX_NUMBER, ConflictError, ParameterStore, UnknownVersionError, check_text
from .tree import RANK
from .values import time_text

Status = Literal["open", "in_review", "confirmed", "dismissed"]
STATUSES: tuple[str, ...] = get_args(Status)
CLOSED = frozenset({"confirmed", "dismissed"})
MAX_PAGE = 500
STREAM_USER = "stream"
"""Who acts where the stream process does."""

_metadata = sa.MetaData()
_cases = sa.Table(
    "cases",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("entity", sa.String(200)),
    sa.Column("entity_key", sa.String(500)),
    sa.Column("status", sa.String(20)),
    sa.Column("assignee", sa.String(200)),
    sa.Column("level", sa.String(20)),
    sa.Column("score", sa.Integer),
    sa.Column("alerts", sa.Integer),
    sa.Column("version", sa.Integer),
    sa.Column("opened_at", sa.BigInteger),
    sa.Column("updated_at", sa.BigInteger),
    sa.Column("closed_at", sa.BigInteger),
)
_alerts = sa.Table(
    "case_alerts",
    _metadata,
    sa.Column("alert_id", sa.String(64), primary_key=True),
    sa.Column("case_id", sa.Integer),
    sa.Column("at", sa.BigInteger),
    sa.Column("policy", sa.String(200)),
    sa.Column("source", sa.String(300)),
    sa.Column("source_id", sa.String(500)),
    sa.Column("level", sa.String(20)),
    sa.Column("score", sa.Integer),
    sa.Column("evidence", sa.JSON),
)
_decisions = sa.Table(
    "case_decisions",
    _metadata,
    sa.Column("case_id", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.String(300), primary_key=True),
    sa.Column("at", sa.BigInteger),
    sa.Column("policy", sa.String(200)),
    sa.Column("level", sa.String(20)),
    sa.Column("decision", sa.String(20)),
    sa.Column("linked_by", sa.String(200)),
)
_history = sa.Table(
    "case_history",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("case_id", sa.Integer),
    sa.Column("at", sa.BigInteger),
    sa.Column("user", sa.String(200)),
    sa.Column("what", sa.String(40)),
    sa.Column("detail", sa.JSON),
)


class CaseAlert(msgspec.Struct, frozen=True):
    """An alert as a case keeps it; `at` in microseconds since 1970, `evidence` is what it was made from, as JSON holds it."""

    alert_id: str
    at: int
    policy: str
    source: str
    source_id: str
    entity: str
    entity_key: str
    level: str
    score: int
    evidence: dict[str, Any]


class CaseDecision(msgspec.Struct, frozen=True):
    """A decision that belongs to a case; `at` in microseconds since 1970."""

    request_id: str
    at: int
    policy: str
    level: str
    decision: str


class Case(msgspec.Struct, frozen=True):
    """One case. Times are microseconds since 1970; `version` counts the changes that people made."""

    id: int
    entity: str
    entity_key: str
    status: str
    assignee: str | None
    level: str
    score: int
    alerts: int
    version: int
    opened_at: int
    updated_at: int
    closed_at: int | None


class CaseLabel(msgspec.Struct, frozen=True):
    """What a closed case says of an event that it was about; `known_at` (microseconds since 1970) is when it was closed."""

    event_id: str
    fraud: bool
    known_at: int
    case_id: int


class UnknownCaseError(UnknownVersionError):
    """There is no such case (404)."""


class Cases:
    """The cases in a store of parameters: the same database and roles. Safe to use from several threads and processes."""

    def __init__(self, store: ParameterStore) -> None:
        self.store = store

    # What the stream process does.

    def take(self, alert: CaseAlert, decisions: list[CaseDecision] | None = None) -> int:
        """Put an alert into the open case of its entity, or open one; the case's id. An alert that was taken before stays."""
        with self.store.writing() as connection:
            known = connection.execute(
                sa.select(_alerts.c.case_id).where(_alerts.c.alert_id == alert.alert_id)
            ).scalar_one_or_none()
            if known is not None:
                return int(known)
            now = self.store.clock()
            case = self._open_case(connection, alert.entity, alert.entity_key)
            if case is None:
                made = connection.execute(
                    sa.insert(_cases).values(
                        entity=alert.entity,
                        entity_key=alert.entity_key,
                        status="open",
                        level=alert.level,
                        score=alert.score,
                        alerts=1,
                        version=1,
                        opened_at=now,
                        updated_at=now,
                    )
                ).inserted_primary_key
                assert made is not None
                number = int(made[0])
                self._log(connection, number, STREAM_USER, "opened", {"policy": alert.policy, "level": alert.level})
            else:
                number = case.id
                level = max(case.level, alert.level, key=lambda each: RANK.get(each, 0))
                connection.execute(
                    sa.update(_cases)
                    .where(_cases.c.id == number)
                    .values(level=level, score=max(case.score, alert.score), alerts=case.alerts + 1, updated_at=now)
                )
            connection.execute(
                sa.insert(_alerts).values(
                    case_id=number,
                    **{name: getattr(alert, name) for name in alert.__struct_fields__ if not name.startswith("entity")},
                )
            )
            self._link(connection, number, decisions or [], STREAM_USER)
            return number

    def link_open(self, entity: str, key: str, decisions: list[CaseDecision]) -> int:
        """Link decisions about an entity to its open case, where there is one; how many were new."""
        with self.store.engine.connect() as connection:
            if self._open_case(connection, entity, key) is None:
                return 0
        with self.store.writing() as connection:
            case = self._open_case(connection, entity, key)
            return 0 if case is None else self._link(connection, case.id, decisions, STREAM_USER)

    def labels(self) -> list[CaseLabel]:
        """One label an event, in their order: of the case that was closed last. Changes of collections have none."""
        query = (
            sa.select(_alerts.c.source_id, _cases.c.status, _cases.c.closed_at, _cases.c.id)
            .join(_cases, _cases.c.id == _alerts.c.case_id)
            .where(_cases.c.status.in_(CLOSED), _alerts.c.source.not_like("%.%"))
            .order_by(_cases.c.closed_at, _cases.c.id)
        )
        with self.store.engine.connect() as connection:
            found = {
                row.source_id: CaseLabel(row.source_id, row.status == "confirmed", row.closed_at, row.id)
                for row in connection.execute(query)
            }
        return [found[event_id] for event_id in sorted(found)]

    # What people do.

    def find(
        self,
        *,
        by: str,
        status: str | None = None,
        assignee: str | None = None,
        policy: str | None = None,
        entity: str | None = None,
        entity_key: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Case]:
        """Cases, newest first. `status` may be `active` for those that are not closed; `before` is an id, for the next page."""
        self.store.demand(by, "viewer")
        for text in (assignee, policy, entity, entity_key):
            if text is not None:
                check_text(text, "a filter", "cases")
        query = sa.select(_cases).order_by(_cases.c.id.desc()).limit(max(1, min(limit, MAX_PAGE)))
        if status == "active":
            query = query.where(_cases.c.closed_at.is_(None))
        elif status is not None:
            query = query.where(_cases.c.status == _status(status))
        if assignee is not None:
            query = query.where(_cases.c.assignee == assignee)
        if entity is not None:
            query = query.where(_cases.c.entity == entity)
        if entity_key is not None:
            query = query.where(_cases.c.entity_key == entity_key)
        if policy is not None:
            query = query.where(_cases.c.id.in_(sa.select(_alerts.c.case_id).where(_alerts.c.policy == policy)))
        if before is not None:
            query = query.where(_cases.c.id < before)
        with self.store.engine.connect() as connection:
            return [Case(**row._mapping) for row in connection.execute(query)]

    def read(self, number: int, *, by: str) -> dict[str, Any]:
        """A case with its alerts, decisions and history, as JSON holds it, times in RFC 3339."""
        self.store.demand(by, "viewer")
        with self.store.engine.connect() as connection:
            case = self._get(connection, number)

            def rows(table: sa.Table, order: sa.ColumnElement[Any]) -> list[dict[str, Any]]:
                query = sa.select(table).where(table.c.case_id == number).order_by(order)
                return [_plain(dict(row._mapping) | {"case_id": None}) for row in connection.execute(query)]

            return plain_case(case) | {
                "evidence": rows(_alerts, _alerts.c.at),
                "decisions": rows(_decisions, _decisions.c.at),
                "history": rows(_history, _history.c.id),
            }

    def change(self, number: int, changes: Mapping[str, Any], *, version: int, by: str, note: str = "") -> Case:
        """Change `status` or `assignee`. `version` is the one that the person saw: ConflictError with the difference when
        somebody else has changed the case since.
        """
        self.store.demand(by, "editor")
        wanted = dict(changes)
        for name in wanted:
            if name not in ("status", "assignee"):
                raise PlatformError(
                    f"{name} of a case cannot be changed", where=f"case {number}", fix="status, assignee"
                )
        if "status" in wanted:
            _status(wanted["status"])
        assignee = wanted.get("assignee")
        if assignee is not None and self.store.role(assignee) is None:
            raise PlatformError(
                f"{assignee} has no role here",
                where=f"case {number}",
                fix="assign it to one who has, see `fraud parameters grant`",
            )
        with self.store.writing() as connection:
            case = self._get(connection, number)
            if case.version != version:
                raise ConflictError(
                    f"case {number} has version {case.version}, the change was made on {version}",
                    self._difference(connection, case, version, wanted),
                    where=f"case {number}",
                )
            reopened = case.closed_at is not None and wanted.get("status", case.status) not in CLOSED
            if reopened and self._open_case(connection, case.entity, case.entity_key) is not None:
                raise ConflictError(
                    f"{case.entity} {case.entity_key} has another open case", {}, where=f"case {number}"
                )
            now = self.store.clock()
            closed = wanted.get("status", case.status) in CLOSED
            values = wanted | {
                "version": version + 1,
                "updated_at": now,
                "closed_at": (case.closed_at or now) if closed else None,
            }
            connection.execute(sa.update(_cases).where(_cases.c.id == number).values(**values))
            was = {name: getattr(case, name) for name in wanted}
            detail = {"from": was, "to": wanted, "version": version + 1} | (
                {"note": check_text(note, "a note", f"case {number}")} if note else {}
            )
            self._log(connection, number, by, "changed", detail)
            return self._get(connection, number)

    def note(self, number: int, text: str, *, by: str) -> None:
        """Write a note into the history; needs no version, for it overwrites nothing."""
        self.store.demand(by, "editor")
        with self.store.writing() as connection:
            self._get(connection, number)
            self._log(connection, number, by, "note", {"note": check_text(text, "a note", f"case {number}")})

    def link(self, number: int, decision: CaseDecision, *, by: str) -> bool:
        """Link a decision by hand; False where it was linked before."""
        self.store.demand(by, "editor")
        with self.store.writing() as connection:
            self._get(connection, number)
            return self._link(connection, number, [decision], by) == 1

    # Inside.

    def _get(self, connection: sa.Connection, number: int) -> Case:
        row = (
            connection.execute(sa.select(_cases).where(_cases.c.id == number)).first() if number <= MAX_NUMBER else None
        )
        if row is None:
            raise UnknownCaseError(f"there is no case {number}", fix="list the cases")
        return Case(**row._mapping)

    def _open_case(self, connection: sa.Connection, entity: str, key: str) -> Case | None:
        query = sa.select(_cases).where(
            _cases.c.entity == entity, _cases.c.entity_key == key, _cases.c.closed_at.is_(None)
        )
        row = connection.execute(query).first()
        return None if row is None else Case(**row._mapping)

    def _link(self, connection: sa.Connection, number: int, decisions: list[CaseDecision], by: str) -> int:
        query = sa.select(_decisions.c.request_id).where(_decisions.c.case_id == number)
        known = set(connection.execute(query).scalars())
        fresh = [each for each in decisions if each.request_id not in known]
        for each in fresh:
            connection.execute(
                sa.insert(_decisions).values(case_id=number, linked_by=by, **msgspec.structs.asdict(each))
            )
        if fresh and by != STREAM_USER:
            self._log(connection, number, by, "linked", {"decisions": [each.request_id for each in fresh]})
        return len(fresh)

    def _difference(
        self, connection: sa.Connection, case: Case, version: int, wanted: Mapping[str, Any]
    ) -> dict[str, dict[str, object]]:
        """What is not as it was at a version, by name: then, now, and wanted."""
        query = sa.select(_history.c.detail).where(_history.c.case_id == case.id, _history.c.what == "changed")
        base: dict[str, Any] = {}
        for detail in connection.execute(query.order_by(_history.c.id.desc())).scalars():
            if detail["version"] > version:
                base |= detail["from"]
        return {
            name: {"base": base.get(name, now), "live": now, "wanted": wanted.get(name, base.get(name, now))}
            for name in ("status", "assignee")
            if (now := getattr(case, name)) != base.get(name, now) or name in wanted
        }

    def _log(self, connection: sa.Connection, number: int, user: str, what: str, detail: Mapping[str, Any]) -> None:
        connection.execute(
            sa.insert(_history).values(case_id=number, at=self.store.clock(), user=user, what=what, detail=dict(detail))
        )


def plain_case(case: Case) -> dict[str, Any]:
    """A case as JSON holds it, times in RFC 3339."""
    return _plain(msgspec.structs.asdict(case))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    times = ("at", "opened_at", "updated_at", "closed_at")
    found = {name: time_text(value) if name in times and value is not None else value for name, value in row.items()}
    return {name: value for name, value in found.items() if name != "case_id"}


def _status(status: object) -> str:
    if status not in STATUSES:
        raise PlatformError(f"{status!r} is no status of a case", fix=f"one of {', '.join(STATUSES)}")
    return str(status)
