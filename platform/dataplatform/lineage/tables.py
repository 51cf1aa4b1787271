"""The tables of `data_catalog` and how rows get into them: staged by one load job, then put in place by one statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..warehouse.client import Warehouse
from ..warehouse.tables import TableSpec, ensure

DATASET = "data_catalog"


def columns(text: str) -> list[dict[str, str]]:
    columns = []
    for part in text.split(","):
        name, type_, *mode = part.split()
        columns.append({"name": name, "type": type_, "mode": mode[0] if mode else "NULLABLE"})
    return columns


JOBS = TableSpec(
    DATASET,
    "lineage_jobs",
    columns(
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
    columns(
        "fingerprint STRING, project_id STRING, default_dataset STRING, destination_table STRING, job_type STRING, text STRING,"
        "status STRING, reasons STRING REPEATED, details STRING REPEATED, resolver_version STRING, example_job_id STRING, resolved_at TIMESTAMP"
    ),
    clustering=("fingerprint",),
    description="Distinct queries: text, whether it was resolved, and why not.",
)
EDGES = TableSpec(
    DATASET,
    "lineage_edges",
    columns(
        "fingerprint STRING, source_table STRING, source_column STRING, target_table STRING, target_column STRING, type STRING,"
        "subtype STRING, masking BOOL, expression STRING, confidence FLOAT64, edge_id STRING, since TIMESTAMP, replaced_at TIMESTAMP"
    ),
    clustering=("fingerprint",),
    description="Edges of distinct queries and of contracts; `replaced_at`: when the same query, resolved again, had it no more.",
)
COLUMNS = TableSpec(
    DATASET,
    "columns",
    columns(
        "table_name STRING, column_path STRING, type STRING, mode STRING, has_source BOOL, is_empty BOOL, is_read BOOL, described_at TIMESTAMP"
    ),
    clustering=("table_name",),
    description="Columns of all tables as they are now: whether their sources are known, whether anything reads them; "
    "`is_empty`: the table has no rows, so nothing has come to it from anywhere.",
)
PERSONAL = TableSpec(
    DATASET,
    "pii",
    columns(
        "table_name STRING, column_path STRING, mark STRING, origin STRING, path STRING REPEATED, stopped_by STRING,"
        "confidence FLOAT64, found_at TIMESTAMP"
    ),
    clustering=("table_name",),
    description="Where personal data has gone: column, mark, origin, the way; `stopped_by` names the masking where a mark ends.",
)
HOURS = TableSpec(
    DATASET,
    "lineage_hours",
    columns("hour TIMESTAMP, collected_at TIMESTAMP, jobs INT64, declared STRING, resolver_version STRING"),
    description="Which hours of the query log were collected, when, and with which contracts and resolver.",
)
SCHEMAS = TableSpec(
    DATASET,
    "schemas",
    columns(
        "day TIMESTAMP, table_name STRING, type STRING, columns STRING, definition STRING, digest STRING, worked_out BOOL,"
        "seen_at TIMESTAMP, changed_at TIMESTAMP"
    ),
    partition_field="day",
    clustering=("table_name",),
    description="Schemas and definitions of views and routines as they were: a row a day, and one for each change.",
)
SPECS = (JOBS, QUERIES, EDGES, COLUMNS, PERSONAL, HOURS, SCHEMAS)

ARROW = {
    "STRING": pa.string(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "BOOL": pa.bool_(),
}

LINEAGE_VIEW = r"""
CREATE OR REPLACE VIEW `{dataset}.lineage` AS
SELECT
  REGEXP_EXTRACT(e.source_table, r'^([^.]+)\.') AS source_project, REGEXP_EXTRACT(e.source_table, r'^[^.]+\.([^.]+)\.') AS source_dataset,
  REGEXP_EXTRACT(e.target_table, r'^([^.]+)\.') AS target_project, REGEXP_EXTRACT(e.target_table, r'^[^.]+\.([^.]+)\.') AS target_dataset,
  e.source_table, e.source_column, e.target_table, e.target_column, e.type, e.subtype, e.masking, e.expression, e.confidence,
  e.since, e.replaced_at, e.replaced_at IS NULL AS current_edge, e.fingerprint, u.first_seen, u.last_seen, u.runs, u.example_job_id, u.user_email, u.labels
FROM `{dataset}.lineage_edges` AS e
LEFT JOIN (
  SELECT fingerprint, MIN(started_at) AS first_seen, MAX(started_at) AS last_seen, COUNT(*) AS runs, MIN(job_id) AS example_job_id,
    MAX(user_email) AS user_email, MAX(labels) AS labels
  FROM `{dataset}.lineage_jobs` GROUP BY fingerprint
) AS u ON u.fingerprint = e.fingerprint
"""


def prepare(warehouse: Warehouse) -> None:
    """Make the tables and the view."""
    if ensure(warehouse, SPECS) or "lineage" not in warehouse.tables(DATASET):
        warehouse.query(LINEAGE_VIEW.format(dataset=warehouse.dataset_id(DATASET)), name="lineage_view")


def names(spec: TableSpec) -> str:
    """The columns of a table, for a statement."""
    return ", ".join(column["name"] for column in spec.schema)


def stage(warehouse: Warehouse, spec: TableSpec, rows: list[dict[str, Any]]) -> str:
    """Load rows into the table's staging table; its full name."""
    fields = []
    for column in spec.schema:
        type_ = ARROW[column["type"]]
        fields.append((column["name"], pa.list_(type_) if column.get("mode") == "REPEATED" else type_))
    name = f"{spec.name}_staged"
    warehouse.load_rows(pa.Table.from_pylist(rows, schema=pa.schema(fields)), DATASET, name, schema=list(spec.schema))
    return warehouse.table_id(DATASET, name)


def replace(
    warehouse: Warehouse,
    spec: TableSpec,
    rows: list[dict[str, Any]],
    doomed: str = "TRUE",
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Put rows in the place of those that `doomed`, a condition on `t` with parameters, holds of; in one statement."""
    staged = stage(warehouse, spec, rows)
    columns_ = names(spec)
    warehouse.query(
        f"MERGE `{warehouse.table_id(DATASET, spec.name)}` AS t USING (SELECT {columns_} FROM `{staged}`) AS s ON FALSE "
        f"WHEN NOT MATCHED BY SOURCE AND {doomed} THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({columns_}) VALUES ({columns_})",
        parameters,
        name=spec.name,
    )
