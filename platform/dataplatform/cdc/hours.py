"""Source hours of collections, from landed files to tables: what is complete, what is due, and the work of a range of hours.

The law here: a collection's tables are a function of its landed files. Applying an hour again, or hours in any order, changes
nothing, because every document keeps its greatest position and a deletion is a position too.
"""

import gzip
import hashlib
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ..contracts.collections import CollectionContract
from ..due import HOUR, Due, hours_between, ranges
from ..errors import PlatformError
from ..landing import HourState, LandedFile, Landing, Manifest, open_landing
from ..lease import Lease
from ..settings import Settings
from ..warehouse.client import Typed, Warehouse, WarehouseError, WarehouseUnreachableError
from ..warehouse.tables import ensure
from . import changes, schema, sql
from .history import Moment, replay
from .names import table_name
from .positions import Position
from .schema import Node, Pin, Step
from .shapes import seen_of
from .state import (
    AppliedState,
    CollectionState,
    PositionFile,
    Snapshot,
    UnitState,
    landing_of,
    late_hours,
    snapshot_uris,
    units_of,
    write_applied,
)
from .tables import RAW, STAGING_SCHEMA, TYPED, collection_specs, shared_specs, tables_of, typed_spec

FILES_PER_LOAD = 10_000
LOOK_BACK = timedelta(hours=24)
"""Hours that are looked at again and again though they were complete and applied."""
WHOLE_LOOK_SECONDS = 6 * 3600.0
"""How often a process that goes on looking looks at every hour again; each process does so at first."""
PARALLEL_COLLECTIONS = 3
type Log = Callable[[str], None]


def raw_asset(contract: CollectionContract) -> str:
    """Asset key (with slashes) of the raw table."""
    return f"{RAW}/{table_name(contract.database, contract.collection)}"


def typed_asset(contract: CollectionContract) -> str:
    """Asset key (with slashes) of the typed table."""
    return f"{TYPED}/{table_name(contract.database, contract.collection)}"


@dataclass
class Applied:
    """What a range of hours did to one collection's tables. `error` says why nothing, or not all, was done."""

    contract: CollectionContract
    start: datetime
    end: datetime
    changes: int = 0
    documents: int = 0
    deletions: int = 0
    snapshot_rows: int = 0
    files: int = 0
    partitions: int = 0
    rows_by_hour: dict[datetime, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    statement: str = ""
    seconds: float = 0.0
    bytes: int = 0
    jobs: list[str] = field(default_factory=list)
    digests: dict[datetime, str] = field(default_factory=dict)
    error: PlatformError | None = None


@dataclass(frozen=True)
class _Content:
    """What a collection's hours consist of."""

    files: Mapping[datetime, tuple[LandedFile, ...]]
    snapshots: Mapping[datetime, tuple[Snapshot, ...]]
    digests: Mapping[datetime, str]

    @property
    def all_snapshots(self) -> list[Snapshot]:
        return [one for hour in sorted(self.snapshots) for one in self.snapshots[hour]]


@dataclass(frozen=True)
class _News:
    """What was staged, folded: the greatest barrier and whether it is a new one, the partitions touched, (shape, documents), and
    whether some may hold what is too large for a column of the right type."""

    barrier: str
    sweep: bool = False
    buckets: Sequence[str] = ()
    shapes: Sequence[tuple[str, int]] = ()
    wide: bool = False


class CollectionHours:
    """The hours of all captured collections; a `due.Stream`, and the work."""

    name = "mongo"

    def __init__(
        self, settings: Settings, contracts: Mapping[str, CollectionContract], warehouse: Warehouse | None = None
    ) -> None:
        """Sends no request. `contracts` by `<database>.<collection>`."""
        self.settings = settings
        self.contracts = dict(contracts)
        self.warehouse = warehouse or Warehouse(settings)
        self.landings = {name: landing_of(settings, one) for name, one in self.contracts.items()}
        self.lease = Lease(open_landing(settings, "mongo").conditional("materialise.json"))
        self._settled: dict[str, tuple[datetime, datetime]] = {}
        self._whole_look = float("-inf")

    # What there is.

    def states(self) -> dict[str, tuple[UnitState, CollectionState]]:
        """Of every collection that a capture has taken up: its unit's state and its own."""
        found: dict[str, tuple[UnitState, CollectionState]] = {}
        for unit in units_of(self.contracts.values(), self.settings.cdc_stream_scope):
            state = PositionFile(self.settings, unit).read()
            for name, contract in self.contracts.items():
                if unit.serves(contract) and name in state.collections:
                    found[name] = (state, state.collections[name])
        return found

    def close(self, until: datetime) -> list[str]:
        """Close the hours that the stream has passed, of collections whose snapshots have ended.

        Where `until` lies in the future, the running hour is closed as well, with what is there of it.
        """
        lines = []
        for name, (unit, collection) in sorted(self.states().items()):
            through = self._through(unit, collection, until)
            closed = 0
            for hour, state in self._hour_states(name, collection).items():
                if hour < through and state is not HourState.CLOSED:
                    self.landings[name].close(hour)
                    closed += 1
            if closed:
                lines.append(f"mongo: closed {closed} hour{'s' if closed > 1 else ''} of {name}")
        return lines

    def due(self, until: datetime) -> list[Due]:
        """Complete hours whose files, or whose snapshots, are not those that were applied."""
        stale = self._stale(until)
        by_hours: dict[tuple[tuple[datetime, datetime], ...], list[str]] = {}
        for name, hours in stale.items():
            if hours:
                by_hours.setdefault(tuple(ranges(hours)), []).append(name)
        due = []
        for spans, names in by_hours.items():
            for start, end in spans:
                assets = [asset for name in sorted(names) for asset in self._assets(name)]
                parts = [
                    f"{name} {h} {d}"
                    for name in sorted(names)
                    for h, d in sorted(stale[name].items())
                    if start <= h < end
                ]
                digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
                due.append(Due(tuple(assets), start, end, "its changes are new", f"mongo-{digest}"))
        return sorted(due, key=lambda one: (one.start or until, one.assets))

    def broken(self, until: datetime) -> list[str]:
        """Collections whose hours that have ended by the clock are not complete."""
        now = datetime.now(UTC)
        lines = []
        for name, (unit, collection) in sorted(self.states().items()):
            ended = min(until, now).replace(minute=0, second=0, microsecond=0)
            if collection.since >= ended:
                continue
            through = collection.complete_through(unit.passed_at) or collection.since
            if through < ended:
                why = (
                    "a snapshot has not ended"
                    if unit.passed_at >= ended
                    else f"the stream is at {unit.passed_at:%H:%M:%S}"
                )
                lines.append(
                    f"mongo: {name} is complete only to {through:%Y-%m-%d %H:%M} ({why}); is `cdc capture` running?"
                )
        return lines

    def _assets(self, name: str) -> tuple[str, str]:
        contract = self.contracts[name]
        return raw_asset(contract), typed_asset(contract)

    def _through(self, unit: UnitState, collection: CollectionState, until: datetime) -> datetime:
        """End of the hours that may be applied."""
        end = until.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        complete = collection.complete_through(unit.passed_at) or collection.since
        waiting = collection.snapshot is not None and collection.snapshot.blocks_from is not None
        if until > datetime.now(UTC) and not waiting:
            running = unit.passed_at.replace(minute=0, second=0, microsecond=0) + HOUR
            complete = max(complete, running)
        return min(end, complete)

    # Which hours can differ. Those before `_settled` were found applied as they are when every hour was last looked at; a file can
    # come to one of them only from a writer that is not the capture. `announce_late` tells of it at once, the next whole look
    # finds it anyway.

    def _looked_from(self, name: str, collection: CollectionState) -> datetime | None:
        """The hour from which on the collection is looked at, None for all."""
        since, settled = self._settled.get(name, (None, None))
        return settled if since == collection.since else None

    def _hour_states(self, name: str, collection: CollectionState) -> dict[datetime, HourState]:
        """The hours with files that can differ from what was applied, and whether they are closed."""
        landing, start = self.landings[name], self._looked_from(name, collection)
        states = landing.states(start)
        if start is not None:
            states |= {hour: landing.state(hour) for hour in late_hours(landing) if hour < start}
        return states

    def _stale(self, until: datetime) -> dict[str, dict[datetime, str]]:
        """Of every collection: hours that are due, with the digest of what they consist of."""
        states = self.states()
        if not states:
            return {}
        if time.monotonic() - self._whole_look > WHOLE_LOOK_SECONDS:
            self._settled.clear()
            self._whole_look = time.monotonic()
        hours_of = {name: self._hour_states(name, collection) for name, (_, collection) in states.items()}
        starts = {name: self._looked_from(name, one) or one.since for name, (_, one) in states.items()}
        applied = self._applied_digests(min([*starts.values(), *(hour for some in hours_of.values() for hour in some)]))
        stale: dict[str, dict[datetime, str]] = {}
        for name, (unit, collection) in states.items():
            through = self._through(unit, collection, until)
            closed = {hour for hour, state in hours_of[name].items() if state is HourState.CLOSED and hour < through}
            hours = closed | set(hours_between(starts[name], through))
            hours |= {one.hour for one in collection.ended if one.hour and starts[name] <= one.hour < through}
            manifests = self.landings[name].manifests(self._looked_from(name, collection))
            found = {}
            for hour in hours:
                manifest = (manifests.get(hour) or self.landings[name].manifest(hour)) if hour in closed else None
                digest = digest_of(manifest, collection, hour)
                if applied.get((name, hour)) != digest:
                    found[hour] = digest
            stale[name] = found
            settled = min([through - LOOK_BACK, *found])
            self._settled[name] = (collection.since, max(collection.since, settled))
        return stale

    def _applied_digests(self, start: datetime) -> dict[tuple[str, datetime], str]:
        if "hours" not in self.warehouse.tables(RAW):
            return {}
        rows = self.warehouse.query(
            f"SELECT collection, hour, digest FROM `{self.warehouse.table_id(RAW, 'hours')}` WHERE hour >= @start",
            {"start": start},
            name="cdc_applied",
        ).rows
        return {(row["collection"], row["hour"]): row["digest"] for row in rows}

    # The work.

    def materialise(
        self,
        names: Collection[str],
        start: datetime,
        end: datetime,
        *,
        owner: str = "cdc",
        log: Log = lambda line: None,  # noqa: ARG005
    ) -> list[Applied]:
        """Apply the hours `[start, end)` of these collections. One that fails does not stop the others: see `Applied.error`."""
        with self.lease.hold(owner) as lease:
            states = self.states()
            todo = [self.contracts[name] for name in sorted(names)]
            known = [one for one in todo if one.namespace in states]
            for one in todo:
                if one.namespace not in states:
                    log(f"{one.namespace}: no capture has taken it up yet")
            ensure(
                self.warehouse,
                [*shared_specs(), *(spec for one in known for spec in collection_specs(one, self.settings.policy_tag))],
            )
            self._views(known)
            with ThreadPoolExecutor(1) as beside:
                asked = beside.submit(self._barriers)
                schemas, barriers = self._schemas(), asked.result()

            def work(contract: CollectionContract) -> Applied:
                lease.check()
                applied = Applied(contract, start, end)
                try:
                    self._apply(applied, states[contract.namespace][1], schemas, barriers, log)
                except WarehouseUnreachableError:
                    raise
                except PlatformError as error:
                    applied.error = error
                    log(f"{contract.namespace}: {error}")
                return applied

            with ThreadPoolExecutor(PARALLEL_COLLECTIONS) as workers:
                done = list(workers.map(work, known))
            self._note(done, states)
            return done

    def _content(self, name: str, collection: CollectionState, start: datetime, end: datetime) -> _Content:
        landing = self.landings[name]
        manifests: dict[datetime, Manifest] = {}
        for hour, state in landing.states(start).items():
            if start <= hour < end and state is not HourState.OPEN:
                manifest = landing.manifest(hour)
                if manifest is not None:
                    manifests[hour] = manifest
        files = {hour: manifest.files for hour, manifest in manifests.items() if manifest.files}
        ended = [one.hour for one in collection.ended if one.hour is not None]
        first = max(start, min([collection.since, *manifests, *ended]))
        digests = {hour: digest_of(manifests.get(hour), collection, hour) for hour in hours_between(first, end)}
        snapshots = {
            hour: tuple(found)
            for hour in {one.hour for one in collection.ended if one.hour is not None and start <= one.hour < end}
            if (found := collection.snapshots_of(hour))
        }
        return _Content(files, snapshots, digests)

    def _apply(
        self,
        applied: Applied,
        collection: CollectionState,
        schemas: Mapping[str, tuple[int, Node, bool]],
        barriers: Mapping[str, str],
        log: Log,
    ) -> None:
        contract = applied.contract
        name = contract.namespace
        tables = tables_of(self.warehouse, contract)
        content = self._content(name, collection, applied.start, applied.end)
        applied.digests = dict(content.digests)
        version, root, rewrite = schemas.get(name, (0, schema.empty(), False))
        staged = bool(content.files or content.snapshots)
        if not staged and version and not rewrite:
            applied.columns = [dict(column) for column in typed_spec(contract, root, self.settings.policy_tag).schema]
            return
        keep = contract.deletes == "keep"
        news = _News(barriers.get(name, ""))
        with ThreadPoolExecutor(1) as beside:
            kept = None
            if staged:
                self._load(applied, tables, content)
                kept = beside.submit(self._query, applied, _history(applied, tables, content), "cdc_history")
                news = self._fold(applied, tables, content, news.barrier)
            evolution = self._evolve(applied, tables, news, root, rewrite=rewrite, version=version)
            for step in applied.steps:
                log(f"{name}: {step.step} {step.path or '/'} {step.before} → {step.after} ({step.count} values)")
            if staged:
                raw = sql.raw_sql(tables, news.buckets, news.barrier, sweep=news.sweep, keep_deleted=keep)
                self._query(applied, raw, "cdc_raw")
            self._write_typed(applied, tables, news, evolution)
            if evolution.rewrite:
                self._keep_schema(name, version + 2, schema.Evolution(evolution.root, []))
            if kept is not None:
                kept.result()
        log(
            f"{name}: {applied.changes} changes, {applied.snapshot_rows} snapshot rows, {applied.documents} documents "
            f"({applied.deletions} deleted) in {applied.partitions} partitions"
        )

    def _fold(self, applied: Applied, tables: sql.Tables, content: _Content, barrier: str) -> "_News":
        """Fold what was staged to the newest change of every document."""
        swept = [one for one in content.all_snapshots if one.sweep and one.position is not None]
        barrier = max([barrier, *(one.position or "" for one in swept)])
        script = sql.newest_script(tables, barrier, keep_deleted=applied.contract.deletes == "keep")
        found = self._query(applied, script, "cdc_newest")
        barrier, sweep = self._new_barriers(applied, found, swept, barrier)
        _count(applied, found, content)
        return _News(
            barrier,
            sweep,
            sorted(row["value"] for row in found if row["kind"] == "bucket"),
            sorted((row["value"], row["number"]) for row in found if row["kind"] == "shape"),
            any(row["kind"] == "wide" and row["number"] for row in found),
        )

    def _evolve(
        self, applied: Applied, tables: sql.Tables, news: "_News", root: Node, *, rewrite: bool, version: int
    ) -> schema.Evolution:
        """The schema that also holds the news; it and its steps are kept where they are new. `rewrite`: one was begun and not ended."""
        contract = applied.contract
        pins = [Pin(one.keys, one.type, one.repeated, one.description) for one in contract.fields]
        evolution = schema.evolve(root, seen_of(news.shapes), pins)
        evolution.rewrite = (evolution.rewrite or rewrite) and version > 0
        applied.steps = evolution.steps + (self._refused(applied, tables, evolution.root) if news.wide else [])
        if schema.encode(evolution.root) != schema.encode(root) or not version or evolution.rewrite:
            self._keep_schema(contract.namespace, version + 1, evolution)
        self._keep_steps(applied)
        return evolution

    def _write_typed(self, applied: Applied, tables: sql.Tables, news: "_News", evolution: schema.Evolution) -> None:
        """The typed table: what is new merged into it, or all of it built anew from the raw one."""
        keep = applied.contract.deletes == "keep"
        spec = typed_spec(applied.contract, evolution.root, self.settings.policy_tag)
        applied.columns = [dict(column) for column in spec.schema]
        if evolution.rewrite:
            applied.statement = sql.rebuild_sql(tables, evolution.root, keep_deleted=keep)
            self._query(applied, applied.statement, "cdc_rebuild")
        ensure(self.warehouse, [spec])
        if not evolution.rewrite and (news.buckets or news.sweep):
            applied.statement = sql.typed_sql(
                tables, evolution.root, news.buckets, news.barrier, sweep=news.sweep, keep_deleted=keep
            )
            self._query(applied, applied.statement, "cdc_typed")

    def _refused(self, applied: Applied, tables: sql.Tables, root: Node) -> list[Step]:
        """A conflict for every field with values of a kind that its column takes, and too large or too fine for it."""
        statement, fields = sql.refused_sql(tables, root, keep_deleted=applied.contract.deletes == "keep")
        (row,) = self._query(applied, statement, "cdc_refused")
        return [
            Step(path, "conflict", type_, f"{kind} out of range", row[f"c{n}"])
            for n, (path, type_, kind) in enumerate(fields)
            if row[f"c{n}"]
        ]

    def _query(self, applied: Applied, statement: str, name: str) -> list[dict[str, Any]]:
        run = self.warehouse.script if ";\n" in statement else self.warehouse.query
        result = run(
            statement,
            name=name,
            labels={"collection": table_name(applied.contract.database, applied.contract.collection)},
        )
        applied.jobs.append(result.job_id)
        applied.seconds += result.seconds
        applied.bytes += result.bytes
        return result.rows

    def _load(self, applied: Applied, tables: sql.Tables, content: _Content) -> None:
        landing = self.landings[applied.contract.namespace]
        uris = [file.uri(landing) for hour in sorted(content.files) for file in content.files[hour]]
        uris += [uri for one in content.all_snapshots for uri in snapshot_uris(landing, one)]
        applied.files = len(uris)
        table = tables.staging.rsplit(".", 1)[1]
        if not uris:  # the snapshot of an empty collection
            self._query(applied, _empty_staging(tables), "cdc_staging")
            return
        for first in range(0, len(uris), FILES_PER_LOAD):
            try:
                result = self.warehouse.load(
                    uris[first : first + FILES_PER_LOAD],
                    RAW,
                    table,
                    STAGING_SCHEMA,
                    write="WRITE_APPEND" if first else "WRITE_TRUNCATE",
                    expires=None if self.warehouse.embedded else datetime.now(UTC) + timedelta(days=1),
                )
            except WarehouseUnreachableError:
                raise
            except WarehouseError as error:
                raise self._unreadable(landing, content, error) from error
            applied.jobs.append(result.job_id)
            applied.seconds += result.seconds

    def _unreadable(self, landing: Landing, content: _Content, error: WarehouseError) -> PlatformError:
        """Which file it is that cannot be loaded."""
        named = [(file.name, file.uri(landing)) for files in content.files.values() for file in files]
        named += [(name, f"{landing.uri}/{name}") for one in content.all_snapshots for name in one.files]
        for name, uri in named:
            wrong = fault_of(landing.read(LandedFile(name, 0)))
            if wrong is not None:
                return PlatformError(
                    f"the landed file cannot be read: {wrong}",
                    where=uri,
                    fix="move the file out of the landing and run `dataplatform cdc resnapshot` for its collection",
                )
        return error

    def _new_barriers(
        self, applied: Applied, found: list[dict[str, Any]], swept: list[Snapshot], barrier: str
    ) -> tuple[str, bool]:
        """Keep the drops, renames and repeated snapshots among what was staged; the greatest barrier, and whether there are new ones."""
        rows = {
            row["value"]: (row["kind"], datetime.fromtimestamp(row["number"] / 1e6, UTC), row["more"])
            for row in found
            if row["kind"] in changes.BARRIER_OPERATIONS
        }
        rows |= {
            one.position: ("snapshot", Position.parse(one.position).time, one.reason)
            for one in swept
            if one.position is not None
        }
        if not rows:
            return barrier, False
        listed = ",\n  ".join(
            f"STRUCT({sql.text(position)} AS position, {sql.text(operation)} AS operation,"
            f" TIMESTAMP {sql.text(_iso(at))} AS changed_at, {sql.text(detail)} AS detail)"
            for position, (operation, at, detail) in sorted(rows.items())
        )
        self._query(
            applied,
            f"MERGE `{self.warehouse.table_id(RAW, 'barriers')}` AS t\n"
            f"USING (SELECT * FROM UNNEST([\n  {listed}\n])) AS s\n"
            f"ON t.collection = {sql.text(applied.contract.namespace)} AND t.position = s.position\n"
            "WHEN NOT MATCHED THEN INSERT (collection, position, operation, changed_at, detail)\n"
            f"  VALUES ({sql.text(applied.contract.namespace)}, s.position, s.operation, s.changed_at, s.detail)",
            "cdc_barriers",
        )
        return max([barrier, *rows]), True

    # What is kept of schemas, barriers, hours.

    def _views(self, contracts: Iterable[CollectionContract]) -> None:
        """The view of the history, and how long that is kept; made again where either is another than it was."""
        present = self.warehouse.tables(RAW)
        for contract in contracts:
            name = f"{table_name(contract.database, contract.collection)}__as_of"
            tables = tables_of(self.warehouse, contract)
            body = sql.as_of_view_sql(tables, self.warehouse.table_id(RAW, "barriers"), contract.namespace)
            digest = hashlib.sha256(f"{body} {contract.history_days}".encode()).hexdigest()[:16]
            known = present.get(name)
            if known is not None and (known.labels or {}).get("body") == digest:
                continue
            self.warehouse.query(
                f"ALTER TABLE `{tables.history}` SET OPTIONS (partition_expiration_days = {contract.history_days})",
                name="cdc_expiration",
            )
            self.warehouse.query(
                f"CREATE OR REPLACE VIEW `{self.warehouse.table_id(RAW, name)}`\n"
                f"OPTIONS (labels = [('body', '{digest}')]) AS\n{body}",
                name="cdc_view",
            )

    def _schemas(self) -> dict[str, tuple[int, Node, bool]]:
        rows = self.warehouse.query(
            f"SELECT collection, version, `schema`, rewrite FROM `{self.warehouse.table_id(RAW, 'schemas')}`\n"
            "WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY collection ORDER BY version DESC) = 1",
            name="cdc_schemas",
        ).rows
        return {row["collection"]: (row["version"], schema.decode(row["schema"]), row["rewrite"]) for row in rows}

    def schema_of(self, name: str) -> Node:
        """The typed table's schema that is in force."""
        return self._schemas().get(name, (0, schema.empty(), False))[1]

    def moments(self, name: str, key: str) -> list[Moment]:
        """The states of one document (`key`: canonical text of its `_id`) as far as its history is kept, in order."""
        statement = sql.changes_of_sql(
            tables_of(self.warehouse, self.contracts[name]), self.warehouse.table_id(RAW, "barriers"), name
        )
        rows = self.warehouse.query(statement, {"key": key}, name="cdc_moments").rows
        return replay(
            changes.Change(
                row["operation"],
                row["_id"],
                row["position"],
                row["changed_at"].isoformat(),
                "",
                row["document"],
                row["update"],
                looked_up=row["looked_up"],
            )
            for row in rows
        )

    def _barriers(self) -> dict[str, str]:
        rows = self.warehouse.query(
            f"SELECT collection, MAX(position) AS position FROM `{self.warehouse.table_id(RAW, 'barriers')}` GROUP BY collection",
            name="cdc_barriers",
        ).rows
        return {row["collection"]: row["position"] for row in rows}

    def _keep_schema(self, name: str, version: int, evolution: schema.Evolution) -> None:
        self.warehouse.query(
            f"INSERT INTO `{self.warehouse.table_id(RAW, 'schemas')}` (collection, version, at, `schema`, rewrite)\n"
            "VALUES (@collection, @version, CURRENT_TIMESTAMP(), @content, @rewrite)",
            {
                "collection": name,
                "version": version,
                "content": schema.encode(evolution.root),
                "rewrite": evolution.rewrite,
            },
            name="cdc_schema",
        )

    def _keep_steps(self, applied: Applied) -> None:
        """One row a step; the same step of the same hour is not kept twice when it is applied again, but counted anew."""
        if not applied.steps:
            return
        listed = ",\n  ".join(
            f"STRUCT({sql.text(step.path)} AS path, {sql.text(step.step)} AS step, {sql.text(step.before)} AS before,"
            f" {sql.text(step.after)} AS after, {step.count} AS `values`)"
            for step in applied.steps
        )
        self._query(
            applied,
            f"MERGE `{self.warehouse.table_id(RAW, 'schema_changes')}` AS t\n"
            f"USING (SELECT * FROM UNNEST([\n  {listed}\n])) AS s\n"
            f"ON t.collection = {sql.text(applied.contract.namespace)}"
            f" AND t.hour = TIMESTAMP {sql.text(_iso(applied.start))}\n"
            "  AND t.path = s.path AND t.step = s.step AND t.before = s.before AND t.after = s.after\n"
            "WHEN MATCHED THEN UPDATE SET `values` = s.`values`\n"
            "WHEN NOT MATCHED THEN INSERT (at, collection, hour, path, step, before, after, `values`)\n"
            f"  VALUES (CURRENT_TIMESTAMP(), {sql.text(applied.contract.namespace)},"
            f" TIMESTAMP {sql.text(_iso(applied.start))}, s.path, s.step, s.before, s.after, s.`values`)",
            "cdc_steps",
        )

    def _note(self, done: list[Applied], states: Mapping[str, tuple[UnitState, CollectionState]]) -> None:
        """Write down which hours were applied, and from what, and how far each collection's tables are."""
        rows = [
            (applied.contract.namespace, hour, digest, applied.rows_by_hour.get(hour, 0))
            for applied in done
            if applied.error is None
            for hour, digest in applied.digests.items()
        ]
        if not rows:
            return
        names = sorted({row[0] for row in rows})
        found = self.warehouse.script(
            sql.hours_script(self.warehouse.table_id(RAW, "hours"), self.warehouse.table_id(RAW, "schema_changes")),
            {
                "names": names,
                "collections": [row[0] for row in rows],
                "hours": [row[1] for row in rows],
                "digests": [row[2] for row in rows],
                "changes": Typed("ARRAY<INT64>", [row[3] for row in rows]),
                "first": min(row[1] for row in rows),
                "last": max(row[1] for row in rows),
            },
            name="cdc_hours",
        ).rows
        for row in found:
            through = min(row["last"] + HOUR, states[row["collection"]][0].passed_at)
            state = AppliedState(through, datetime.now(UTC), row["conflicts"])
            write_applied(self.landings[row["collection"]], state)


def _history(applied: Applied, tables: sql.Tables, content: _Content) -> str:
    hours = {one.position: _iso(one.hour) for one in content.all_snapshots if one.position and one.hour}
    return sql.history_sql(tables, _iso(applied.start), _iso(applied.end), hours)


def _count(applied: Applied, found: list[dict[str, Any]], content: _Content) -> None:
    """What `newest_script` said of numbers."""
    for row in found:
        match row["kind"]:
            case "bucket":
                applied.partitions += 1
                applied.documents += row["number"]
                applied.deletions += int(row["more"])
            case "hour":
                hour = datetime.fromtimestamp(int(row["value"]) * 3600, UTC)
                applied.rows_by_hour[hour] = applied.rows_by_hour.get(hour, 0) + row["number"]
                applied.changes += row["number"]
            case "snapshot":
                applied.snapshot_rows += row["number"]
    for hour, snapshots in content.snapshots.items():
        rows = sum(one.rows for one in snapshots)
        applied.rows_by_hour[hour] = applied.rows_by_hour.get(hour, 0) + rows


def digest_of(manifest: Manifest | None, collection: CollectionState, hour: datetime) -> str:
    """Identifies what an hour of a collection consists of: its files, and the snapshots that ended in it."""
    parts = [manifest.digest if manifest is not None and manifest.files else "empty"]
    parts += [f"snapshot {one.generation} {one.position} {one.rows}" for one in collection.snapshots_of(hour)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def fault_of(data: bytes) -> str | None:
    """What is wrong with the bytes of a landed file, None where nothing is."""
    try:
        text = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        return f"not gzip ({error})"
    for number, line in enumerate(text.splitlines(), 1):
        try:
            changes.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"line {number} is no change record ({error})"
    return None


def _empty_staging(tables: sql.Tables) -> str:
    columns = ", ".join(f"CAST(NULL AS {column['type']}) AS `{column['name']}`" for column in STAGING_SCHEMA)
    return f"CREATE OR REPLACE TABLE `{tables.staging}` AS SELECT * FROM (SELECT {columns}) WHERE FALSE"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")
