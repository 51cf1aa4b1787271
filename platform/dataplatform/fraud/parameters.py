"""Parameters, lists and roles, live: every version with who, when and why, in SQLite or PostgreSQL.

A change of thresholds is a version of all of a policy's parameters. It goes draft → dry_run → shadow → share → live, forward
only (steps may be left out), and is retired when another goes live. A policy that can block or sanction wants a second person's
approval before a version decides anything. Whoever changes a version that is no longer the newest gets a conflict with the
difference, never a silent overwrite. Every change that decisions depend on raises one counter, which their processes watch.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from ..contracts.errors import ContractError
from ..errors import PlatformError
from .document import suggestion
from .fact_types import TypedPolicy
from .facts import set_parameters
from .reachable import contradiction
from .tree import KIND_OF_TYPE, InList, Policy, Scalar, leaves
from .values import ValueProblem, plain_value, read_parameter, read_value, time_text

State = Literal["draft", "dry_run", "shadow", "share", "live", "retired"]
STATES: tuple[str, ...] = get_args(State)
Role = Literal["viewer", "editor", "approver"]
ROLES: tuple[str, ...] = get_args(Role)
"""Each may do what those before it may."""
MAX_LIST_ENTRY = 500
MAX_TEXT = 10_000
MAX_LOGGED = 1_000
"""Entries of one change of a list that are in the log by their value; of more there is the number, and the first."""
MAX_NAME = 200
MAX_NUMBER = 2**31 - 1
"""The largest version or case that a database can be asked for."""
_MOST_ASKED = 5_000
"""Values in one statement; databases take some 30,000."""
_LIST_CHANGES = ("list_add", "list_remove")
_MIGRATION_LOCK = 7_305_001
_migrating = threading.Lock()

_metadata = sa.MetaData()
_versions = sa.Table(
    "parameter_versions",
    _metadata,
    sa.Column("policy", sa.String(200), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(20)),
    sa.Column("values", sa.JSON),
    sa.Column("base_version", sa.Integer),
    sa.Column("share_percent", sa.Integer),
    sa.Column("author", sa.String(200)),
    sa.Column("reason", sa.Text),
    sa.Column("created_at", sa.BigInteger),
    sa.Column("approved_by", sa.String(200)),
    sa.Column("live_at", sa.BigInteger),
    sa.Column("dry_run", sa.JSON),
)
_entries = sa.Table(
    "list_entries",
    _metadata,
    sa.Column("list", sa.String(200), primary_key=True),
    sa.Column("value", sa.String(500), primary_key=True),
    sa.Column("kind", sa.String(10)),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("author", sa.String(200)),
    sa.Column("reason", sa.Text),
    sa.Column("created_at", sa.BigInteger),
)
_roles = sa.Table(
    "roles", _metadata, sa.Column("user", sa.String(200), primary_key=True), sa.Column("role", sa.String(20))
)
_changes = sa.Table(
    "changes",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger),
    sa.Column("user", sa.String(200)),
    sa.Column("what", sa.String(40)),
    sa.Column("policy", sa.String(200)),
    sa.Column("version", sa.Integer),
    sa.Column("detail", sa.JSON),
)
_generation = sa.Table("generation", _metadata, sa.Column("number", sa.Integer))


class NotAllowedError(PlatformError):
    """The person's role does not allow it, or a second person is needed (403)."""


class UnknownVersionError(PlatformError):
    """There is no such policy, version or list (404)."""


class ConflictError(PlatformError):
    """Another change came first (409). `difference` is, by parameter, what each side says."""

    def __init__(self, message: str, difference: Mapping[str, Mapping[str, object]], *, where: str = "") -> None:
        lines = "; ".join(
            f"{name}: based on {each['base']}, now {each['live']}, wanted {each['wanted']}"
            for name, each in difference.items()
        )
        fix = "read the live version and make the change again on top of it"
        super().__init__(f"{message}{f' ({lines})' if lines else ''}", where=where, fix=fix)
        self.difference = difference


@dataclass(frozen=True, slots=True)
class ParameterVersion:
    """One version of all parameters of a policy. `values` as JSON holds them; times in microseconds since 1970."""

    policy: str
    version: int
    state: State
    values: Mapping[str, Any]
    base_version: int
    share_percent: int
    author: str
    reason: str
    created_at: int
    approved_by: str | None = None
    live_at: int | None = None
    dry_run: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class InForce:
    """What decisions of one policy are made with now."""

    live: ParameterVersion
    shadow: ParameterVersion | None = None
    share: ParameterVersion | None = None


@dataclass(frozen=True)
class Snapshot:
    """All that decision processes need, at one value of the counter."""

    generation: int
    policies: Mapping[str, InForce]
    lists: Mapping[str, frozenset[Scalar]] = field(default_factory=dict)
    next_expiry: int | None = None
    """When the first list entry expires (microseconds since 1970)."""
    lists_changed: int = 0
    """The last change of a list that is in it."""


def database_url(text: str, data_dir: Path) -> URL:
    """The store's URL: as given, else a SQLite file in the data folder. PostgreSQL's driver here is pg8000."""
    if text:
        url = make_url(text)
        return url.set(drivername="postgresql+pg8000") if url.drivername in ("postgresql", "postgres") else url
    return URL.create("sqlite", database=str(data_dir / "fraud" / "parameters.sqlite"))


class ParameterStore:
    """The store. Safe to use from several threads and processes."""

    def __init__(
        self, url: URL | str, policies: Mapping[str, TypedPolicy], *, clock: Callable[[], int] | None = None
    ) -> None:
        """Make or migrate the tables; policies that have no version yet get their first one, live, from their defaults."""
        self.url = make_url(url)
        self.policies = policies
        self.clock = clock or (lambda: time.time_ns() // 1000)
        if self.url.get_backend_name() == "sqlite" and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        shown = self.url.render_as_string(hide_password=True)
        try:
            self.engine = sa.create_engine(self.url, pool_pre_ping=True)
        except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
            raise PlatformError(
                f"no such kind of database is known here: {error}",
                where=shown,
                fix="write postgresql://user:password@host/name in DATAPLATFORM_FRAUD_DATABASE",
            ) from None
        if self.url.get_backend_name() == "sqlite":
            _use_real_transactions(self.engine)
        try:
            self._migrate()
            self._seed()
        except sa.exc.DBAPIError as error:
            raise PlatformError(
                f"the store of parameters does not answer: {error.orig}",
                where=shown,
                fix="start the database, or correct DATAPLATFORM_FRAUD_DATABASE",
            ) from error

    # Reading.

    def generation(self) -> int:
        """The counter that every change of what is in force raises."""
        with self.engine.connect() as connection:
            number: int = connection.execute(sa.select(_generation.c.number)).scalar_one()
            return number

    def snapshot(self, known: Snapshot | None = None) -> Snapshot:
        """What is in force, as of one moment. Lists may be long: those of `known` are taken where none changed or expired."""
        now = self.clock()
        with self.engine.connect() as connection:
            number: int = connection.execute(sa.select(_generation.c.number)).scalar_one()
            rows = connection.execute(
                sa.select(_versions).where(_versions.c.state.in_(["live", "shadow", "share"]))
            ).all()
            last = sa.select(sa.func.max(_changes.c.id)).where(_changes.c.what.in_(_LIST_CHANGES))
            changed: int = connection.execute(last).scalar() or 0
            if known is not None and (known.lists_changed != changed or now >= (known.next_expiry or now + 1)):
                known = None
            entries = [] if known is not None else connection.execute(sa.select(_entries)).all()
        held: dict[str, dict[str, ParameterVersion]] = {}
        for row in rows:
            held.setdefault(row.policy, {})[row.state] = _version(row)
        policies = {
            name: InForce(each["live"], each.get("shadow"), each.get("share"))
            for name, each in held.items()
            if "live" in each
        }
        if known is not None:
            return replace(known, generation=number, policies=policies)
        lists: dict[str, set[Scalar]] = {
            name: set() for typed in self.policies.values() for name in typed.policy.lists()
        }
        expiries = []
        for row in entries:
            if row.expires_at is not None:
                if row.expires_at <= now:
                    continue
                expiries.append(row.expires_at)
            lists.setdefault(row.list, set()).add(_entry(row))
        frozen = {name: frozenset(values) for name, values in lists.items()}
        return Snapshot(number, policies, frozen, min(expiries, default=None), changed)

    def entries(self, name: str) -> frozenset[Scalar]:
        """The entries of a list that have not expired; UnknownVersionError where there is no such list."""
        found = self.snapshot().lists.get(name)
        if found is None:
            self._check_list(name)
        return found or frozenset()

    def versions(self, policy: str) -> list[ParameterVersion]:
        """All versions of a policy, newest first."""
        self._policy(policy)
        query = sa.select(_versions).where(_versions.c.policy == policy).order_by(_versions.c.version.desc())
        with self.engine.connect() as connection:
            return [_version(row) for row in connection.execute(query)]

    def version(self, policy: str, version: int) -> ParameterVersion:
        """One version; UnknownVersionError where there is none."""
        with self.engine.connect() as connection:
            return self._get(connection, policy, version)

    def values(self, version: ParameterVersion) -> dict[str, Scalar]:
        """A version's values in the types of the policy; a parameter that came later has its default."""
        policy = self._policy(version.policy).policy
        values = policy.defaults()
        for parameter in policy.parameters:
            if parameter.name in version.values:
                try:
                    values[parameter.name] = read_value(version.values[parameter.name], parameter.type)
                except ValueProblem:
                    continue  # its type was changed: the default of the new one
        return values

    def changes(self, policy: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The log, newest first: who did what, when and why."""
        query = sa.select(_changes).order_by(_changes.c.id.desc()).limit(limit)
        if policy is not None:
            query = query.where(_changes.c.policy == policy)
        with self.engine.connect() as connection:
            return [dict(row._mapping) | {"at": time_text(row.at)} for row in connection.execute(query)]

    def role(self, user: str) -> str | None:
        """A person's role, None where they have none."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(_roles.c.role).where(_roles.c.user == user)).scalar_one_or_none()

    # Changing.

    def grant(self, user: str, role: str, *, by: str) -> None:
        """Give a person a role. Whoever can open the database may: it is a command of its host, not of the API."""
        if role not in ROLES:
            raise PlatformError(f"{role!r} is no role", where=user, fix=f"one of {', '.join(ROLES)}")
        with self.writing() as connection:
            connection.execute(sa.delete(_roles).where(_roles.c.user == user))
            connection.execute(sa.insert(_roles).values(user=user, role=role))
            self._log(connection, by, "grant", "", None, {"user": user, "role": role})

    def propose(
        self, policy: str, changes: Mapping[str, object], *, base_version: int, by: str, reason: str
    ) -> ParameterVersion:
        """A new draft: the live version with some values changed.

        `base_version` is the live version that the person saw; ConflictError with the difference when another is live by
        now. ContractError when a value is out of bounds, of another type or unit, or when a rule could never fire any more.
        """
        typed = self._policy(policy)
        self.demand(by, "editor")
        check_text(reason, "a reason", policy)
        with self.writing() as connection:
            live = self._live(connection, policy)
            wanted = set_parameters(typed.policy, changes, where=policy)
            if live.version != base_version:
                base = self._get(connection, policy, base_version)
                raise ConflictError(
                    f"version {live.version} is live, the change was made on {base_version}",
                    _difference(base, live, {name: _plain(typed.policy, name, wanted[name]) for name in changes}),
                    where=policy,
                )
            before = self.values(live)
            values = before | {name: wanted[name] for name in changes}
            if values == before:
                raise PlatformError(
                    f"nothing is changed: all values are those of version {live.version}, which is live",
                    where=policy,
                    fix="give at least one parameter another value",
                )
            _check_rules(typed, values)
            version = (
                1
                + connection.execute(
                    sa.select(sa.func.max(_versions.c.version)).where(_versions.c.policy == policy)
                ).scalar_one()
            )
            plain = {name: _plain(typed.policy, name, value) for name, value in values.items()}
            self._insert(connection, policy, version, "draft", plain, base_version, by, reason)
            self._log(connection, by, "propose", policy, version, {"changes": _json(changes), "reason": reason})
            return self._get(connection, policy, version)

    def approve(self, policy: str, version: int, *, by: str) -> ParameterVersion:
        """A second person says yes; the author cannot."""
        self.demand(by, "approver")
        with self.writing() as connection:
            found = self._get(connection, policy, version)
            if found.author == by:
                raise NotAllowedError(
                    f"{by} wrote version {version}", where=policy, fix="ask another person with the role approver"
                )
            self._update(connection, found, approved_by=by)
            self._log(connection, by, "approve", policy, version, {})
            return self._get(connection, policy, version)

    def record_dry_run(self, policy: str, version: int, report: Mapping[str, Any], *, by: str) -> ParameterVersion:
        """Keep the summary of a backtest with the version; a draft becomes dry_run."""
        self.demand(by, "editor")
        with self.writing() as connection:
            found = self._get(connection, policy, version)
            state = "dry_run" if found.state == "draft" else found.state
            self._update(connection, found, dry_run=_json(report), state=state)
            self._log(connection, by, "dry_run", policy, version, {})
            return self._get(connection, policy, version)

    def advance(self, policy: str, version: int, state: str, *, by: str, share_percent: int = 0) -> ParameterVersion:
        """Move a version forward. Going live retires the version before, and needs that it was the one built upon."""
        typed = self._policy(policy)
        self.demand(by, "editor")
        if state not in ("shadow", "share", "live"):
            raise PlatformError(f"{state!r} is no step", where=policy, fix="one of shadow, share, live")
        if state == "share" and not 1 <= share_percent <= 99:
            raise PlatformError(f"{share_percent}% is no share", where=policy, fix="give 1 to 99 percent")
        with self.writing() as connection:
            found = self._get(connection, policy, version)
            if STATES.index(found.state) >= STATES.index(state) and not (found.state == state == "share"):
                raise ConflictError(f"version {version} is {found.state} already", {}, where=policy)
            live = self._live(connection, policy)
            if live.version != found.base_version:
                base = self._get(connection, policy, found.base_version)
                raise ConflictError(
                    f"version {live.version} is live, version {version} was made on {found.base_version}",
                    _difference(base, live, found.values),
                    where=policy,
                )
            if state in ("share", "live") and typed.policy.blocks and found.approved_by is None:
                raise NotAllowedError(
                    f"{policy} can block people: version {version} needs a second person",
                    where=policy,
                    fix="ask another person with the role approver to approve it",
                )
            replaced = ["live", "shadow", "share"] if state == "live" else [state]
            connection.execute(
                sa.update(_versions)
                .where(_versions.c.policy == policy, _versions.c.state.in_(replaced), _versions.c.version != version)
                .values(state="retired")
            )
            live_at = self.clock() if state == "live" else None
            self._update(connection, found, state=state, share_percent=share_percent, live_at=live_at)
            self._raise_counter(connection)
            self._log(connection, by, state, policy, version, {"share_percent": share_percent})
            return self._get(connection, policy, version)

    def rollback(
        self, policy: str, *, by: str, reason: str, to: int | None = None, base_version: int | None = None
    ) -> ParameterVersion:
        """The values of the version that was live before (or of `to`), live again at once, as a new version.

        ConflictError where another than `base_version` is live: of two who roll back at once the second would undo the first.

        They were approved when they first went live, so that one editor is enough.
        """
        self._policy(policy)
        self.demand(by, "editor")
        check_text(reason, "a reason", policy)
        if to is not None:
            self.version(policy, to)  # says so when there is no such version
        with self.writing() as connection:
            live = self._live(connection, policy)
            if base_version is not None and live.version != base_version:
                base = self._get(connection, policy, base_version)
                message = f"version {live.version} is live, {base_version} was to be rolled back"
                raise ConflictError(message, _difference(base, live, {}), where=policy)
            query = sa.select(_versions).where(
                _versions.c.policy == policy, _versions.c.live_at.is_not(None), _versions.c.version != live.version
            )
            if to is not None:
                query = query.where(_versions.c.version == to)
            row = connection.execute(query.order_by(_versions.c.live_at.desc(), _versions.c.version.desc())).first()
            if row is None:
                wanted = f"version {to} was" if to is not None else "no other version was"
                raise UnknownVersionError(f"{wanted} never live" if to else f"{wanted} live before", where=policy)
            before = _version(row)
            newest: int = connection.execute(
                sa.select(sa.func.max(_versions.c.version)).where(_versions.c.policy == policy)
            ).scalar_one()
            connection.execute(
                sa.update(_versions)
                .where(_versions.c.policy == policy, _versions.c.state.in_(["live", "shadow", "share"]))
                .values(state="retired")
            )
            self._insert(connection, policy, newest + 1, "live", dict(before.values), live.version, by, reason)
            made = self._get(connection, policy, newest + 1)
            self._update(connection, made, live_at=self.clock(), approved_by=before.approved_by)
            self._raise_counter(connection)
            self._log(connection, by, "rollback", policy, made.version, {"to": before.version, "reason": reason})
            return self._get(connection, policy, made.version)

    def put_entries(
        self, name: str, values: list[object], *, by: str, reason: str, expires_at: int | None = None
    ) -> int:
        """Add entries to a list (or give them a new expiry, microseconds since 1970); gives how many.

        UnknownVersionError where no policy looks into such a list; PlatformError for entries that could never be found.
        """
        self.demand(by, "editor")
        check_text(name, "a list's name", "lists", MAX_NAME)
        check_text(reason, "a reason", name)
        self._check_list(name)
        if expires_at is not None and expires_at <= self.clock():
            raise PlatformError(
                f"the entries would have expired at {time_text(expires_at)[:19]}Z already",
                where=name,
                fix="give a later time, or none; to end entries now take them out of the list",
            )
        rows: dict[str, dict[str, Any]] = {}
        for value in values:
            kind = "STRING" if isinstance(value, str) else "NUMBER"
            try:
                read = read_value(value, kind)
            except ValueProblem as problem:
                raise PlatformError(f"an entry is {problem.message}", where=name, fix=problem.fix) from None
            text = str(read)
            if not text or len(text) > MAX_LIST_ENTRY:
                raise PlatformError("an entry is empty or long", where=name, fix=f"1 to {MAX_LIST_ENTRY} characters")
            held = "INT64" if isinstance(read, int) else "FLOAT64" if kind == "NUMBER" else kind
            rows[text] = {"value": text, "kind": held}
        with self.writing() as connection:
            kinds = set(connection.execute(sa.select(_entries.c.kind).where(_entries.c.list == name)).scalars())
            if len({each == "STRING" for each in kinds | {row["kind"] for row in rows.values()}}) > 1:
                raise PlatformError("texts and numbers in one list", where=name, fix="give all entries one kind")
            self._check_kind(name, rows.values())
            extra = {"list": name, "expires_at": expires_at, "author": by, "reason": reason, "created_at": self.clock()}
            for part in _parts(list(rows.values())):
                values = [row["value"] for row in part]
                connection.execute(sa.delete(_entries).where(_entries.c.list == name, _entries.c.value.in_(values)))
            if rows:  # with RETURNING, because SQLAlchemy then sends many rows in one statement to PostgreSQL as well
                made = sa.insert(_entries).returning(_entries.c.list)
                connection.execute(made, [row | extra for row in rows.values()])
            self._raise_counter(connection)
            expires = {} if expires_at is None else {"expires_at": time_text(expires_at)}
            detail = {"entries": len(rows), "reason": reason, "values": list(rows)[:MAX_LOGGED]}
            self._log(connection, by, "list_add", name, None, detail | expires)
        return len(rows)

    def remove_entries(self, name: str, values: list[object], *, by: str, reason: str) -> int:
        """Take entries out of a list; gives how many were in it.

        UnknownVersionError where no policy looks into such a list and nothing is left in it.
        """
        self.demand(by, "editor")
        check_text(reason, "a reason", name)
        with self.writing() as connection:
            in_it = sa.select(_entries.c.list).where(_entries.c.list == name).limit(1)
            if "\x00" in name or connection.execute(in_it).first() is None:
                self._check_list(name)
            texts = sorted({text for value in values if "\x00" not in (text := str(value))})
            removed: list[str] = []
            for part in _parts(texts):
                these = (_entries.c.list == name, _entries.c.value.in_(part))
                removed += connection.execute(sa.select(_entries.c.value).where(*these)).scalars()
                connection.execute(sa.delete(_entries).where(*these))
            self._raise_counter(connection)
            detail = {"entries": len(removed), "reason": reason, "values": removed[:MAX_LOGGED]}
            self._log(connection, by, "list_remove", name, None, detail)
            return len(removed)

    # What the cases of the same database use.

    def demand(self, user: str, role: str) -> None:
        """NotAllowedError where a person has not that role, or a higher one."""
        held = self.role(user)
        if held is None or ROLES.index(held) < ROLES.index(role):
            raise NotAllowedError(
                f"{user} is {held or 'nobody'} here, and this needs the role {role}",
                fix=f"dataplatform fraud parameters grant {user} {role}",
            )

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction of the one who writes: others wait."""
        # The counter's row is the lock: of two editors one waits here, before it has read anything.
        with self.engine.begin() as connection:
            connection.execute(sa.update(_generation).values(number=_generation.c.number))
            yield connection

    # Inside.

    def _migrate(self) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        with _one_at_a_time(self.url), self.engine.begin() as connection:
            if self.url.get_backend_name() == "postgresql":
                # Tables that two processes make at once would meet in PostgreSQL's own catalogue.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _seed(self) -> None:
        with self.writing() as connection:
            known = set(connection.execute(sa.select(_versions.c.policy).distinct()).scalars())
            missing = [typed for name, typed in self.policies.items() if name not in known]
            for typed in missing:
                policy = typed.policy
                values = {name: _plain(policy, name, value) for name, value in policy.defaults().items()}
                self._insert(connection, policy.name, 1, "live", values, 0, "git", "The defaults of the policy's file.")
                connection.execute(
                    sa.update(_versions).where(_versions.c.policy == policy.name).values(live_at=self.clock())
                )
            if missing:
                self._raise_counter(connection)

    def _check_list(self, name: str) -> None:
        """UnknownVersionError for a list that no policy looks into: a slip of the pen would be in force nowhere."""
        known = sorted({each for typed in self.policies.values() for each in typed.policy.lists()})
        if name not in known:
            near = suggestion(name, known)
            fix = f"did you mean {near}?" if near else f"one of {', '.join(known)}" if known else "name it in a policy"
            raise UnknownVersionError("no policy uses a list of this name", where=name, fix=fix)

    def _check_kind(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """PlatformError for an entry that nothing could ever be found by: a number where policies look for a text."""
        numbers = {row["kind"] != "STRING" for row in rows}
        for typed in self.policies.values():
            for rule in typed.policy.rules:
                for leaf in leaves(typed.policy.resolved(rule.when)):
                    if not isinstance(leaf, InList) or leaf.list != name:
                        continue
                    if {"STRING": True, "NUMBER": False}.get(KIND_OF_TYPE.get(typed.types[leaf.fact], "")) in numbers:
                        kind = "numbers" if True in numbers else "texts"
                        message = f"{typed.policy.name} looks for {leaf.fact} in this list, and these are {kind}"
                        raise PlatformError(message, where=name, fix="send texts in quotes and numbers without")

    def _policy(self, name: str) -> TypedPolicy:
        typed = self.policies.get(name)
        if typed is None:
            raise UnknownVersionError(f"no policy is called {name}", fix=f"one of {', '.join(self.policies)}")
        return typed

    def _live(self, connection: sa.Connection, policy: str) -> ParameterVersion:
        query = sa.select(_versions).where(_versions.c.policy == policy, _versions.c.state == "live")
        row = connection.execute(query).first()
        if row is None:
            raise UnknownVersionError("no version is live", where=policy)
        return _version(row)

    def _get(self, connection: sa.Connection, policy: str, version: int) -> ParameterVersion:
        query = sa.select(_versions).where(_versions.c.policy == policy, _versions.c.version == version)
        row = connection.execute(query).first() if abs(version) <= MAX_NUMBER else None
        if row is None:
            raise UnknownVersionError(f"there is no version {version}", where=policy, fix="list the versions")
        return _version(row)

    def _insert(
        self,
        connection: sa.Connection,
        policy: str,
        version: int,
        state: str,
        values: Mapping[str, Any],
        base_version: int,
        author: str,
        reason: str,
    ) -> None:
        connection.execute(
            sa.insert(_versions).values(
                policy=policy,
                version=version,
                state=state,
                values=dict(values),
                base_version=base_version,
                share_percent=0,
                author=author,
                reason=reason,
                created_at=self.clock(),
            )
        )

    def _update(self, connection: sa.Connection, version: ParameterVersion, **values: Any) -> None:
        connection.execute(
            sa.update(_versions)
            .where(_versions.c.policy == version.policy, _versions.c.version == version.version)
            .values(**values)
        )

    def _raise_counter(self, connection: sa.Connection) -> None:
        connection.execute(sa.update(_generation).values(number=_generation.c.number + 1))

    def _log(
        self,
        connection: sa.Connection,
        user: str,
        what: str,
        policy: str,
        version: int | None,
        detail: Mapping[str, Any],
    ) -> None:
        connection.execute(
            sa.insert(_changes).values(
                at=self.clock(), user=user, what=what, policy=policy, version=version, detail=dict(detail)
            )
        )


def check_text(text: str, what: str, where: str, longest: int = MAX_TEXT) -> str:
    """The text; PlatformError where it is empty or longer than a database holds."""
    if not text.strip() or len(text) > longest or "\x00" in text:
        raise PlatformError(f"{what} is empty or too long", where=where, fix=f"write 1 to {longest:,} characters")
    return text


def _parts[T](values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[start : start + _MOST_ASKED] for start in range(0, len(values), _MOST_ASKED))


def _version(row: Any) -> ParameterVersion:
    return ParameterVersion(**row._mapping)


def _entry(row: Any) -> Scalar:
    if row.kind == "STRING":
        text: str = row.value
        return text
    return int(row.value) if row.kind == "INT64" else float(row.value)


def _plain(policy: Policy, name: str, value: Scalar) -> object:
    return plain_value(value, policy.parameter(name).type)


def _json(mapping: Mapping[str, Any]) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(dict(mapping), str_keys=True)
    return found


def _difference(
    base: ParameterVersion, live: ParameterVersion, wanted: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    names = [name for name in live.values if base.values.get(name) != live.values[name] or name in wanted]
    return {
        name: {
            "base": base.values.get(name),
            "live": live.values[name],
            "wanted": wanted.get(name, base.values.get(name)),
        }
        for name in names
        if not base.values.get(name) == live.values[name] == wanted.get(name, base.values.get(name))
    }


def _check_rules(typed: TypedPolicy, values: Mapping[str, Scalar]) -> None:
    from ..contracts.errors import Problem

    problems = []
    for rule in typed.policy.rules:
        reason = contradiction(typed.policy.resolved(rule.when), typed.types, values)
        if reason:
            message = f"{rule.name} could never fire any more: {reason}"
            problems.append(
                Problem(Path(typed.policy.name), 0, rule.name, "cannot_fire", message, "choose other values")
            )
    if problems:
        raise ContractError(problems)


def _use_real_transactions(engine: sa.Engine) -> None:
    """SQLite in WAL mode with transactions that begin where ours do: pysqlite's own begin with the first write only."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA busy_timeout = 10000")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")


@contextmanager
def _one_at_a_time(url: URL) -> Iterator[None]:
    """Migrations of a SQLite file by one process at a time (PostgreSQL has its own lock), and by one thread: Alembic's
    environment is a global.
    """
    with _migrating:
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            yield
            return
        with Path(f"{url.database}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


__all__ = ["ConflictError", "NotAllowedError", "ParameterStore", "Snapshot", "UnknownVersionError", "read_parameter"]
