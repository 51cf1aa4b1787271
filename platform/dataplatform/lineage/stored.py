"""What is kept in `data_catalog`: jobs by hour, distinct queries, their edges.

A query is resolved when its fingerprint is new, when an older version of the resolver resolved it, or when a table it names has changed
since: an hour costs what is new in it. An hour's jobs are replaced as a whole, so an hour can be collected again at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..contracts.load import Contracts
from ..errors import PlatformError
from ..settings import Settings
from ..warehouse.client import Warehouse
from .catalog import Catalog
from .declared import asset_edges, declared_digest, declared_edges, refined
from .edges import CONTRACT, Edge, Resolution
from .history import catalog_as_of, made_table, remember
from .hours import RESOLVER_VERSION
from .impact import StoredEdge
from .jobs import Job, resolve_job
from .query_log import LABEL, LoggedJob, finished_jobs, read_schemas
from .resolve import resolve
from .tables import COLUMNS, DATASET, EDGES, HOURS, JOBS, LINEAGE_VIEW, QUERIES, SPECS, names, prepare, replace, stage
from .workers import in_large_thread

MAX_TEXT = 200_000
"""Characters kept of a query's text."""
DECLARED = CONTRACT
"""Fingerprint of the edges that contracts declare."""
_KNOWN = (Path(__file__).parent / "known_queries.sql").read_text()
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class Collected:
    """What a collection of the hours [start, end) came to. `at`: when the log was read."""

    start: datetime = _NEVER
    end: datetime = _NEVER
    at: datetime = _NEVER
    by_hour: dict[datetime, int] = field(default_factory=dict)
    jobs: int = 0
    distinct: int = 0
    resolved: int = 0
    edges: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)


def catalog_warehouse(settings: Settings) -> Warehouse:
    """The warehouse, whose jobs are marked as this bookkeeping's own."""
    return Warehouse(settings, labels={"domain": LABEL})


@dataclass(frozen=True)
class CollectedHour:
    """When an hour (UTC) was collected last, with which contracts and resolver. `whole`: it was over then."""

    hour: datetime
    at: datetime
    declared: str
    resolver: str

    @property
    def whole(self) -> bool:
        return self.at >= self.hour + timedelta(hours=1)


def collected_hours(warehouse: Warehouse) -> dict[datetime, CollectedHour]:
    """All hours that were collected."""
    if HOURS.name not in warehouse.tables(DATASET):
        return {}
    rows = warehouse.query(f"SELECT * FROM `{warehouse.table_id(DATASET, HOURS.name)}`", name="lineage_collected").rows
    return {
        row["hour"]: CollectedHour(row["hour"], row["collected_at"], row["declared"], row["resolver_version"])
        for row in rows
    }


def unknown_hours(
    warehouse: Warehouse, hours: list[datetime], collected: Mapping[datetime, CollectedHour], now: datetime
) -> list[datetime]:
    """Those of the hours that have something to collect: jobs, where the hour was never collected or is over; else new texts."""
    if not hours:
        return []
    found: dict[datetime, set[str]] = {}
    for one in finished_jobs(warehouse, min(hours), max(hours) + timedelta(hours=1)):
        hour = one.ended_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        found.setdefault(hour, set()).add(one.job.fingerprint())
    known: set[str] | None = None
    due = []
    for hour in hours:
        texts = found.get(hour, set())
        if hour in collected and hour + timedelta(hours=1) > now:
            if known is None:
                prepare(warehouse)
                known = _known(warehouse)
            texts = texts - known
        if texts:
            due.append(hour)
    return due


def described_at(warehouse: Warehouse) -> datetime | None:
    """When `columns` was written last; None when it never was."""
    table = warehouse.table_id(DATASET, COLUMNS.name)
    rows = warehouse.query(f"SELECT MAX(described_at) AS at FROM `{table}`", name="columns_described").rows
    at: datetime | None = rows[0]["at"]
    return at


def _known(warehouse: Warehouse) -> set[str]:
    statement = _KNOWN.format(dataset=warehouse.dataset_id(DATASET))
    return {row["fingerprint"] for row in warehouse.query(statement, {"version": RESOLVER_VERSION}, name="known").rows}


def note_hours(warehouse: Warehouse, settings: Settings, contracts: Contracts, done: Collected) -> None:
    """Write down that the hours of a collection are done; last of all, so that what was cut off is due again."""
    rows = [
        {
            "hour": done.start + timedelta(hours=index),
            "collected_at": done.at,
            "jobs": done.by_hour.get(done.start + timedelta(hours=index), 0),
            "declared": declared_digest(settings, contracts),
            "resolver_version": RESOLVER_VERSION,
        }
        for index in range((done.end - done.start) // timedelta(hours=1))
    ]
    replace(warehouse, HOURS, rows, "t.hour >= @start AND t.hour < @end", {"start": done.start, "end": done.end})


def collect(warehouse: Warehouse, start: datetime, end: datetime) -> Collected:
    """Take the jobs that ended in [start, end) and resolve the texts that are new. Doing it again changes nothing."""
    prepare(warehouse)
    now = datetime.now(UTC)
    remember(warehouse, read_schemas(warehouse), now)
    logged = list(finished_jobs(warehouse, start, end))
    fingerprints = [one.job.fingerprint() for one in logged]
    known = _known(warehouse)
    new: dict[str, LoggedJob] = {}
    for fingerprint, one in zip(fingerprints, logged, strict=True):
        if fingerprint not in known:
            new.setdefault(fingerprint, one)
    result = Collected(start, end, now, jobs=len(logged), distinct=len(set(fingerprints)), resolved=len(new))
    for one in logged:
        hour = one.ended_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        result.by_hour[hour] = result.by_hour.get(hour, 0) + 1
    resolutions: dict[str, Resolution] = {}
    if new:
        catalog = catalog_as_of(warehouse, end)
        resolutions, made = in_large_thread(lambda: _resolved(new, catalog))
        remember(warehouse, made, now, worked_out=True)
    for resolution in resolutions.values():
        result.edges += len(resolution.edges)
        result.statuses[resolution.status] = result.statuses.get(resolution.status, 0) + 1
        for reason in {one.reason for one in resolution.unresolved}:
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
    _replace_jobs(warehouse, zip(fingerprints, logged, strict=True), start, end)
    if new:
        _store_queries(warehouse, new, resolutions)
    return result


def _resolved(
    jobs: Mapping[str, LoggedJob], catalog: Catalog
) -> tuple[dict[str, Resolution], dict[str, dict[str, Any]]]:
    """Resolutions in the order of the log, and the tables that the jobs made and that are in no catalog; later jobs read them."""
    resolutions: dict[str, Resolution] = {}
    made: dict[str, dict[str, Any]] = {}
    for key, one in jobs.items():
        resolutions[key] = resolve_job(one.job, catalog)
        if (table := made_table(one.job, resolutions[key], catalog)) is not None:
            made[table[0]] = table[1]
            catalog.add(*table)
    return resolutions, made


def resolve_again(warehouse: Warehouse) -> int:
    """Resolve the kept queries that an older version of the resolver resolved; the number of them."""
    rows = warehouse.query(
        f"SELECT * FROM `{warehouse.table_id(DATASET, QUERIES.name)}` WHERE resolver_version != @version"
        " AND LENGTH(text) < @most",  # a text that was cut tells less than it did
        {"version": RESOLVER_VERSION, "most": MAX_TEXT},
        name="older_queries",
    ).rows
    if not rows:
        return 0
    now = datetime.now(UTC)
    catalog = catalog_as_of(warehouse, now)
    kept = {
        row["fingerprint"]: LoggedJob(
            Job(
                job_id=row["example_job_id"],
                project_id=row["project_id"],
                query=row["text"],
                destination_table=row["destination_table"],
                default_dataset=row["default_dataset"],
                job_type=row["job_type"],
            ),
            now,
            now,
            0,
        )
        for row in rows
    }
    resolutions, _ = in_large_thread(lambda: _resolved(kept, catalog))
    _store_queries(warehouse, kept, resolutions)
    return len(kept)


def _replace_jobs(warehouse: Warehouse, jobs: Iterable[tuple[str, LoggedJob]], start: datetime, end: datetime) -> None:
    rows = [
        {
            "hour": one.ended_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0),
            "job_id": one.job.job_id,
            "project_id": one.job.project_id,
            "fingerprint": fingerprint,
            "destination_table": one.job.destination_table,
            "user_email": one.job.user_email,
            "statement_type": one.job.statement_type,
            "labels": json.dumps(one.job.labels, sort_keys=True) if one.job.labels else None,
            "parent_job_id": one.job.parent_job_id,
            "started_at": one.started_at,
            "ended_at": one.ended_at,
            "bytes": one.bytes_processed,
        }
        for fingerprint, one in jobs
    ]
    replace(warehouse, JOBS, rows, "t.hour >= @start AND t.hour < @end", {"start": start, "end": end})


def _store_queries(warehouse: Warehouse, new: Mapping[str, LoggedJob], resolutions: Mapping[str, Resolution]) -> None:
    now = datetime.now(UTC)
    queries = []
    edges = []
    for fingerprint, one in new.items():
        resolution = resolutions[fingerprint]
        queries.append(
            {
                "fingerprint": fingerprint,
                "project_id": one.job.project_id,
                "default_dataset": one.job.default_dataset,
                "destination_table": one.job.destination_table,
                "job_type": one.job.job_type,
                "text": (one.job.query or "")[:MAX_TEXT] or None,
                "status": resolution.status,
                "reasons": sorted({item.reason for item in resolution.unresolved}),
                "details": [f"{item.reason}: {item.detail}"[:500] for item in resolution.unresolved][:100],
                "resolver_version": RESOLVER_VERSION,
                "example_job_id": one.job.job_id,
                "resolved_at": now,
            }
        )
        edges += [_edge_row(fingerprint, edge) for edge in resolution.edges]
    # Edges first: a query that is noted as resolved has its edges, whenever this is cut off.
    _replace_edges(warehouse, list(new), edges)
    replace(warehouse, QUERIES, queries, "t.fingerprint IN UNNEST(@fingerprints)", {"fingerprints": list(new)})


_OF_AN_EDGE = [
    column["name"]
    for column in EDGES.schema
    if column["name"] not in ("fingerprint", "edge_id", "since", "replaced_at")
]


def _edge_row(fingerprint: str, edge: Any) -> dict[str, Any]:
    told = {name: getattr(edge, name) for name in _OF_AN_EDGE}
    identity = json.dumps([fingerprint, *told.values()], ensure_ascii=False)
    digest = hashlib.blake2b(identity.encode("utf-8", "replace"), digest_size=12).hexdigest()
    return {"fingerprint": fingerprint, **told, "edge_id": digest}


def _replace_edges(warehouse: Warehouse, fingerprints: list[str], rows: list[dict[str, Any]]) -> None:
    """The edges of these queries are `rows` from now on. Those that stay are left alone, those that go are kept as replaced."""
    now = datetime.now(UTC)
    staged = stage(warehouse, EDGES, list({row["edge_id"]: row | {"since": now} for row in rows}.values()))
    columns = names(EDGES)
    warehouse.query(
        f"MERGE `{warehouse.table_id(DATASET, EDGES.name)}` AS t USING (SELECT {columns} FROM `{staged}`) AS s\n"
        "ON t.edge_id = s.edge_id AND t.replaced_at IS NULL\n"
        "WHEN NOT MATCHED BY SOURCE AND t.replaced_at IS NULL AND t.fingerprint IN UNNEST(@fingerprints) THEN\n"
        "  UPDATE SET replaced_at = @now\n"
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({columns})",
        {"fingerprints": fingerprints, "now": now},
        name="lineage_edges",
    )


def declare(
    warehouse: Warehouse, settings: Settings, contracts: Contracts, assets: Mapping[str, str] | None = None
) -> int:
    """Store the edges that contracts declare, those of `assets` (see `asset_edges`), and those of our own tables; the number of them."""
    prepare(warehouse)
    rows = [
        _edge_row(DECLARED, edge)
        for edge in (
            *declared_edges(settings, contracts, discovered_schemas(warehouse)),
            *asset_edges(settings, assets or {}),
            *own_edges(warehouse),
        )
    ]
    _replace_edges(warehouse, [DECLARED], rows)
    return len(rows)


def own_edges(warehouse: Warehouse) -> Iterator[StoredEdge | Edge]:
    """Edges of this bookkeeping's tables, whose own jobs are left out of the log: from the resolver, and the view over them."""
    resolver = "dataplatform.lineage.resolver"
    for spec in SPECS:
        for table in (spec.name, f"{spec.name}_staged"):
            target = warehouse.table_id(DATASET, table)
            for column in spec.schema:
                name = str(column["name"])
                yield StoredEdge(resolver, name, target, name, "DIRECT", "IDENTITY", False, name, 1.0, CONTRACT)
    catalog = Catalog()
    for spec in SPECS:
        catalog.add(warehouse.table_id(DATASET, spec.name), {"columns": [dict(column) for column in spec.schema]})
    text = LINEAGE_VIEW.format(dataset=warehouse.dataset_id(DATASET))
    yield from in_large_thread(lambda: resolve(text, catalog, project=warehouse.project)).edges


def discovered_schemas(warehouse: Warehouse) -> dict[str, str]:
    """Of every captured collection the JSON of the typed table's schema in force; empty where nothing is captured yet."""
    if "schemas" not in warehouse.tables("mongo_raw"):
        return {}
    rows = warehouse.query(
        f"SELECT collection, `schema` FROM `{warehouse.table_id('mongo_raw', 'schemas')}`\n"
        "WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY collection ORDER BY version DESC) = 1",
        name="lineage_collections",
    ).rows
    return {row["collection"]: row["schema"] for row in rows}


def stored_edges(settings: Settings) -> list[StoredEdge]:
    """All edges of `data_catalog.lineage`, each with an example job; without those that a contract tells more exactly."""
    warehouse = catalog_warehouse(settings)
    if "lineage" not in warehouse.tables(DATASET):
        raise PlatformError(
            "there is no lineage yet",
            where=f"{warehouse.dataset_id(DATASET)}.lineage",
            fix="run `dataplatform catch-up`",
        )
    runs = {
        row["fingerprint"]: row
        for row in warehouse.query(
            "SELECT fingerprint, MAX(started_at) AS last_seen, MIN(job_id) AS job_id, MAX(user_email) AS user_email\n"
            f"FROM `{warehouse.table_id(DATASET, JOBS.name)}` GROUP BY fingerprint",
            name="lineage_runs",
        ).rows
    }
    never: dict[str, Any] = {}
    found = warehouse.read(DATASET, EDGES.name, columns=["fingerprint", *_OF_AN_EDGE], where="replaced_at IS NULL")
    return refined(
        StoredEdge(
            **{name: row[name] for name in _OF_AN_EDGE},
            job_id=ran.get("job_id") or row["fingerprint"],
            user_email=ran.get("user_email"),
            last_seen=ran["last_seen"].isoformat() if ran.get("last_seen") else None,
        )
        for row in found.to_pylist()
        for ran in (runs.get(row["fingerprint"], never),)
    )


def query_coverage(warehouse: Warehouse) -> Collected:
    """Statuses and reasons of all distinct queries."""
    prepare(warehouse)
    result = Collected()
    table = warehouse.table_id(DATASET, QUERIES.name)
    for row in warehouse.query(f"SELECT status, reasons FROM `{table}`", name="query_coverage").rows:
        result.statuses[row["status"]] = result.statuses.get(row["status"], 0) + 1
        for reason in row["reasons"] or ():
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
    return result
