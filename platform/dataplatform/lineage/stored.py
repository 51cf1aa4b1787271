"""The tables of `data_catalog`: jobs by hour, distinct queries, their edges, columns; and the view `lineage` over them.

A query is resolved when its fingerprint is new, or was resolved by an older version of the resolver: an hour costs what is new in it. An
hour's jobs are replaced as a whole, so an hour can be collected again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from ..contracts.load import Contracts
from ..errors import PlatformError
from ..settings import Settings
from ..warehouse.client import Warehouse
from ..warehouse.tables import TableSpec, ensure
from .catalog import Catalog, Field
from .declared import CONTRACT, contract_marks, declared_digest, declared_edges, refined
from .edges import Edge, Resolution
from .hours import RESOLVER_VERSION
from .impact import Graph, StoredEdge, parse_node
from .jobs import Job, resolve_job
from .pii import Finding, forbidden, spread
from .query_log import LABEL, LoggedJob, finished_jobs, read_catalog
from .resolve import resolve
from .workers import in_large_thread

DATASET = "data_catalog"
MAX_TEXT = 200_000
"""Characters kept of a query's text."""
DECLARED = CONTRACT
"""Fingerprint of the edges that contracts declare."""


def _columns(text: str) -> list[dict[str, str]]:
    columns = []
    for part in text.split(","):
        name, type_, *mode = part.split()
        columns.append({"name": name, "type": type_, "mode": mode[0] if mode else "NULLABLE"})
    return columns


JOBS = TableSpec(
    DATASET,
    "lineage_jobs",
    _columns(
        "hour TIMESTAMP, job_id STRING, project_id STRING, fingerprint STRING, destination_table STRING, user_email STRING,"
        "statement_type STRING, labels STRING, parent_job_id STRING, started_at TIMESTAMP, ended_at TIMESTAMP, bytes INT64"
    ),
    partition_field="hour",
    clustering=("fingerprint",),
    description="Finished jobs by the hour they ended in, each with the fingerprint of its text.",
)
QUERIES = TableSpec(
    DATASET,
    "lineage_queries",
    _columns(
        "fingerprint STRING, project_id STRING, default_dataset STRING, destination_table STRING, job_type STRING, text STRING,"
        "status STRING, reasons STRING REPEATED, details STRING REPEATED, resolver_version STRING, example_job_id STRING, resolved_at TIMESTAMP"
    ),
    clustering=("fingerprint",),
    description="Distinct queries: text, whether it was resolved, and why not.",
)
EDGES = TableSpec(
    DATASET,
    "lineage_edges",
    _columns(
        "fingerprint STRING, source_table STRING, source_column STRING, target_table STRING, target_column STRING, type STRING,"
        "subtype STRING, masking BOOL, expression STRING, confidence FLOAT64"
    ),
    clustering=("fingerprint",),
    description="Edges of distinct queries and of contracts.",
)
COLUMNS = TableSpec(
    DATASET,
    "columns",
    _columns(
        "table_name STRING, column_path STRING, type STRING, mode STRING, has_source BOOL, is_read BOOL, described_at TIMESTAMP"
    ),
    clustering=("table_name",),
    description="Columns of all tables as they are now: whether their sources are known, whether anything reads them.",
)
PERSONAL = TableSpec(
    DATASET,
    "pii",
    _columns(
        "table_name STRING, column_path STRING, mark STRING, origin STRING, path STRING REPEATED, stopped_by STRING,"
        "confidence FLOAT64, found_at TIMESTAMP"
    ),
    clustering=("table_name",),
    description="Where personal data has gone: column, mark, origin, the way; `stopped_by` names the masking where a mark ends.",
)
HOURS = TableSpec(
    DATASET,
    "lineage_hours",
    _columns("hour TIMESTAMP, collected_at TIMESTAMP, jobs INT64, declared STRING, resolver_version STRING"),
    description="Which hours of the query log were collected, when, and with which contracts and resolver.",
)
SPECS = (JOBS, QUERIES, EDGES, COLUMNS, PERSONAL, HOURS)

_ARROW = {
    "STRING": pa.string(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "BOOL": pa.bool_(),
}


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


def prepare(warehouse: Warehouse) -> None:
    """Make the tables and the view."""
    ensure(warehouse, SPECS)
    dataset = warehouse.dataset_id(DATASET)
    warehouse.query(_LINEAGE_VIEW.format(dataset=dataset), name="lineage_view")


_LINEAGE_VIEW = """
CREATE OR REPLACE VIEW `{dataset}.lineage` AS
SELECT e.source_table, e.source_column, e.target_table, e.target_column, e.type, e.subtype, e.masking, e.expression, e.confidence,
  e.fingerprint, u.first_seen, u.last_seen, u.runs, u.example_job_id, u.user_email, u.labels
FROM `{dataset}.lineage_edges` AS e
LEFT JOIN (
  SELECT fingerprint, MIN(started_at) AS first_seen, MAX(started_at) AS last_seen, COUNT(*) AS runs, MIN(job_id) AS example_job_id,
    MAX(user_email) AS user_email, MAX(labels) AS labels
  FROM `{dataset}.lineage_jobs` GROUP BY fingerprint
) AS u ON u.fingerprint = e.fingerprint
"""


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
            known = known if known is not None else _known(warehouse)
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
    rows = warehouse.query(
        f"SELECT fingerprint FROM `{warehouse.table_id(DATASET, QUERIES.name)}` WHERE resolver_version = @version",
        {"version": RESOLVER_VERSION},
        name="known_queries",
    ).rows
    return {row["fingerprint"] for row in rows}


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
    staged = _stage(warehouse, HOURS, rows)
    names = ", ".join(column["name"] for column in HOURS.schema)
    warehouse.query(
        f"MERGE `{warehouse.table_id(DATASET, HOURS.name)}` AS t USING (SELECT {names} FROM `{staged}`) AS s ON FALSE "
        "WHEN NOT MATCHED BY SOURCE AND t.hour >= @start AND t.hour < @end THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({names})",
        {"start": done.start, "end": done.end},
        name="lineage_hours",
    )


def collect(warehouse: Warehouse, start: datetime, end: datetime) -> Collected:
    """Take the jobs that ended in [start, end) and resolve the texts that are new. Doing it again changes nothing."""
    prepare(warehouse)
    now = datetime.now(UTC)
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
        catalog, _ = read_catalog(warehouse)
        resolutions = in_large_thread(lambda: {key: resolve_job(one.job, catalog) for key, one in new.items()})
    for resolution in resolutions.values():
        result.edges += len(resolution.edges)
        result.statuses[resolution.status] = result.statuses.get(resolution.status, 0) + 1
        for reason in {one.reason for one in resolution.unresolved}:
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
    _replace_jobs(warehouse, zip(fingerprints, logged, strict=True), start, end)
    if new:
        _store_queries(warehouse, new, resolutions)
    return result


def resolve_again(warehouse: Warehouse) -> int:
    """Resolve the kept queries that an older version of the resolver resolved; the number of them."""
    rows = warehouse.query(
        f"SELECT * FROM `{warehouse.table_id(DATASET, QUERIES.name)}` WHERE resolver_version != @version",
        {"version": RESOLVER_VERSION},
        name="older_queries",
    ).rows
    if not rows:
        return 0
    catalog, _ = read_catalog(warehouse)
    now = datetime.now(UTC)
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
        if row["text"]
    }
    resolutions = in_large_thread(lambda: {key: resolve_job(one.job, catalog) for key, one in kept.items()})
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
    staged = _stage(warehouse, JOBS, rows)
    names = ", ".join(column["name"] for column in JOBS.schema)
    warehouse.query(
        f"MERGE `{warehouse.table_id(DATASET, JOBS.name)}` AS t USING (SELECT {names} FROM `{staged}`) AS s ON FALSE "
        "WHEN NOT MATCHED BY SOURCE AND t.hour >= @start AND t.hour < @end THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({names})",
        {"start": start, "end": end},
        name="lineage_jobs",
    )


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
    _replace_by_fingerprint(warehouse, QUERIES, queries)


def _edge_row(fingerprint: str, edge: Any) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint,
        **{name: getattr(edge, name) for name in (column["name"] for column in EDGES.schema) if name != "fingerprint"},
    }


def _replace_edges(warehouse: Warehouse, fingerprints: list[str], rows: list[dict[str, Any]]) -> None:
    staged = _stage(warehouse, EDGES, rows)
    target = warehouse.table_id(DATASET, EDGES.name)
    names = ", ".join(column["name"] for column in EDGES.schema)
    warehouse.query(
        f"MERGE `{target}` AS t USING (SELECT {names} FROM `{staged}`) AS s ON FALSE "
        "WHEN NOT MATCHED BY SOURCE AND t.fingerprint IN UNNEST(@fingerprints) THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({names})",
        {"fingerprints": fingerprints},
        name="lineage_edges",
    )


def _replace_by_fingerprint(warehouse: Warehouse, spec: TableSpec, rows: list[dict[str, Any]]) -> None:
    staged = _stage(warehouse, spec, rows)
    target = warehouse.table_id(DATASET, spec.name)
    names = ", ".join(column["name"] for column in spec.schema)
    warehouse.query(
        f"MERGE `{target}` AS t USING (SELECT {names} FROM `{staged}`) AS s ON FALSE "
        "WHEN NOT MATCHED BY SOURCE AND t.fingerprint IN UNNEST(@fingerprints) THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({names})",
        {"fingerprints": [row["fingerprint"] for row in rows]},
        name=spec.name,
    )


def _stage(warehouse: Warehouse, spec: TableSpec, rows: list[dict[str, Any]]) -> str:
    fields = []
    for column in spec.schema:
        type_ = _ARROW[column["type"]]
        fields.append((column["name"], pa.list_(type_) if column.get("mode") == "REPEATED" else type_))
    name = f"{spec.name}_staged"
    warehouse.load_rows(pa.Table.from_pylist(rows, schema=pa.schema(fields)), DATASET, name, schema=list(spec.schema))
    return warehouse.table_id(DATASET, name)


def declare(warehouse: Warehouse, settings: Settings, contracts: Contracts) -> int:
    """Store the edges that contracts declare, that views are by their definition, and those of our own tables; the number of them."""
    prepare(warehouse)
    rows = [
        _edge_row(DECLARED, edge)
        for edge in (
            *declared_edges(settings, contracts, discovered_schemas(warehouse)),
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
    text = _LINEAGE_VIEW.format(dataset=warehouse.dataset_id(DATASET))
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
    view = f"{warehouse.dataset_id(DATASET)}.lineage"
    return refined(
        StoredEdge(
            row["source_table"],
            row["source_column"],
            row["target_table"],
            row["target_column"],
            row["type"],
            row["subtype"],
            bool(row["masking"]),
            row["expression"] or "",
            float(row["confidence"]),
            row["example_job_id"] or row["fingerprint"],
            user_email=row["user_email"],
            last_seen=row["last_seen"].isoformat() if row["last_seen"] else None,
        )
        for row in warehouse.query(f"SELECT * FROM `{view}`", name="lineage").rows
    )


@dataclass(frozen=True)
class Coverage:
    """How many columns of the project's tables have their sources."""

    columns: int
    with_source: int
    without: tuple[str, ...]


def describe_columns(warehouse: Warehouse, settings: Settings) -> Coverage:
    """Write `columns`: each column of each table, whether its sources are known and whether anything reads it."""
    prepare(warehouse)
    catalog, _ = read_catalog(warehouse)
    graph = Graph(stored_edges(settings))
    made: dict[str, set[str]] = {}
    constant = {
        (row["target_table"], row["target_column"])
        for row in warehouse.query(
            f"SELECT DISTINCT target_table, target_column FROM `{warehouse.table_id(DATASET, EDGES.name)}` WHERE source_table IS NULL",
            name="constants",
        ).rows
    }
    for edge in graph.edges:
        made.setdefault(edge.target_table or "", set()).add(edge.target_column)
    for table, column in constant:
        made.setdefault(table or "", set()).add(column)
    now = datetime.now(UTC)
    rows = []
    without = []
    for table in catalog.tables.values():
        for path, column in _paths(table.columns or {}):
            top = path.partition(".")[0]
            names = made.get(table.name, set())
            has_source = path in names or any(name == top or name.startswith(f"{top}.") for name in names)
            if not has_source:
                without.append(f"{table.name}.{path}")
            rows.append(
                {
                    "table_name": table.name,
                    "column_path": path,
                    "type": column.type,
                    "mode": column.mode,
                    "has_source": has_source,
                    "is_read": graph.is_read((table.name, path)),
                    "described_at": now,
                }
            )
    _replace_all(warehouse, COLUMNS, rows)
    return Coverage(len(rows), len(rows) - len(without), tuple(without))


def describe_personal_data(warehouse: Warehouse, settings: Settings) -> int:
    """Write `pii`: where the columns that contracts mark have gone, and where they stop; the number of rows."""
    graph = Graph(stored_edges(settings))
    marks = contract_marks(settings)
    result = spread(graph, marks)
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {
            "table_name": finding.node[0],
            "column_path": finding.node[1],
            "mark": finding.mark,
            "origin": ".".join(finding.origin),
            "path": [f"{'.'.join(edge.source)} → {'.'.join(edge.target)}: {edge.expression}" for edge in finding.path],
            "stopped_by": None,
            "confidence": finding.confidence,
            "found_at": now,
        }
        for finding in result.findings
    ]
    rows += [
        {
            "table_name": stop.edge.target[0],
            "column_path": stop.edge.target[1],
            "mark": stop.mark,
            "origin": ".".join(stop.origin),
            "path": [stop.edge.expression],
            "stopped_by": stop.why,
            "confidence": stop.edge.confidence,
            "found_at": now,
        }
        for stop in result.stopped
    ]
    _replace_all(warehouse, PERSONAL, rows)
    return len(rows)


def forbidden_data(warehouse: Warehouse, settings: Settings) -> list[Finding]:
    """Personal data in datasets that may not hold it, by the setting `pii_allowed`."""
    if not settings.pii_allowed or PERSONAL.name not in warehouse.tables(DATASET):
        return []
    rows = warehouse.query(
        f"SELECT table_name, column_path, mark, origin FROM `{warehouse.table_id(DATASET, PERSONAL.name)}`"
        " WHERE stopped_by IS NULL ORDER BY table_name, column_path, origin",
        name="personal_data",
    ).rows
    found = [
        Finding((row["table_name"], row["column_path"]), row["mark"], parse_node(row["origin"]), ()) for row in rows
    ]
    allowed = {settings.dataset(name): frozenset(kinds) for name, kinds in settings.pii_allowed.items()}
    return forbidden(found, allowed)


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


def _replace_all(warehouse: Warehouse, spec: TableSpec, rows: list[dict[str, Any]]) -> None:
    staged = _stage(warehouse, spec, rows)
    names = ", ".join(column["name"] for column in spec.schema)
    warehouse.query(
        f"MERGE `{warehouse.table_id(DATASET, spec.name)}` AS t USING (SELECT {names} FROM `{staged}`) AS s ON FALSE "
        f"WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({names})",
        name=spec.name,
    )


def _paths(columns: Mapping[str, Field], above: str = "") -> Iterator[tuple[str, Field]]:
    for column in columns.values():
        path = f"{above}.{column.name}" if above else column.name
        yield path, column
        yield from _paths({one.name: one for one in column.fields}, path)
