"""Finished jobs and schemas of a warehouse: what the resolver is fed with. The one place where BigQuery and the embedded server differ here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from ..warehouse.client import Warehouse
from .catalog import Catalog
from .jobs import Job

LABEL = "lineage"
"""Value of the label `domain` on our own bookkeeping's jobs, which are left out."""


class LoggedJob(msgspec.Struct, frozen=True):
    """A finished job with what only the log knows: when (UTC), and how much was scanned."""

    job: Job
    started_at: datetime
    ended_at: datetime
    bytes_processed: int


def finished_jobs(warehouse: Warehouse, start: datetime, end: datetime) -> Iterator[LoggedJob]:
    """Jobs that ended in [start, end) and moved or read data. A script's parent is left out: its children are jobs as well,
    except on the embedded server, whose scripts have none."""
    found = _listed(warehouse, start, end) if warehouse.embedded else _queried(warehouse, start, end)
    for logged in found:
        labels = logged.job.labels or {}
        if logged.job.counts and not (isinstance(labels, dict) and labels.get("domain") == LABEL):
            yield logged


def _listed(warehouse: Warehouse, start: datetime, end: datetime) -> Iterator[LoggedJob]:
    def search() -> list[Any]:
        return list(
            warehouse.client.list_jobs(
                all_users=True, state_filter="done", max_creation_time=end, retry=warehouse.retry()
            )
        )

    for job in warehouse.request("list of finished jobs", search):
        ended = job.ended or job.created
        if ended is None or not start <= ended < end:
            continue
        kind = str(job.job_type or "query").upper()
        source = getattr(job, "source", None)
        sources = getattr(job, "sources", None) or ([source] if source is not None else [])
        default = getattr(job, "default_dataset", None)
        record = Job(
            job_id=job.job_id,
            project_id=job.project,
            query=getattr(job, "query", None) if kind == "QUERY" else None,
            destination_table=_table(getattr(job, "destination", None)),
            default_dataset=f"{default.project}.{default.dataset_id}" if default is not None else None,
            statement_type=getattr(job, "statement_type", None),
            creation_time=job.created.isoformat() if job.created else None,
            user_email=job.user_email,
            labels=dict(job.labels or {}),
            job_type=kind,
            parent_job_id=job.parent_job_id,
            source_tables=tuple(name for one in sources if (name := _table(one))),
            source_uris=tuple(getattr(job, "source_uris", None) or ()),
            destination_uris=tuple(getattr(job, "destination_uris", None) or ()),
            error_result=job.error_result,
            dry_run=bool(getattr(job, "dry_run", False)),
        )
        scanned = int(getattr(job, "total_bytes_processed", 0) or 0)
        yield LoggedJob(record, job.started or job.created, ended, scanned)


def _table(reference: Any) -> str | None:
    if reference is None or not hasattr(reference, "table_id"):
        return None
    return f"{reference.project}.{reference.dataset_id}.{reference.table_id}"


_JOBS = """
SELECT job_id, project_id, query, job_type, statement_type, user_email, parent_job_id, creation_time, start_time, end_time,
  total_bytes_processed, TO_JSON_STRING(labels) AS labels,
  destination_table.project_id AS target_project, destination_table.dataset_id AS target_dataset,
  destination_table.table_id AS target_table, TO_JSON_STRING(referenced_tables) AS referenced
FROM `{project}`.`region-{region}`.INFORMATION_SCHEMA.JOBS
WHERE end_time >= @start AND end_time < @end AND creation_time >= TIMESTAMP_SUB(@start, INTERVAL 1 DAY)
  AND state = 'DONE' AND error_result IS NULL AND NOT COALESCE(cache_hit, FALSE) AND COALESCE(statement_type, '') != 'SCRIPT'
"""


def _queried(warehouse: Warehouse, start: datetime, end: datetime) -> Iterator[LoggedJob]:
    """The view has no default dataset: texts that lean on it are told by their destination's."""
    sql = _JOBS.format(project=warehouse.project, region=warehouse.settings.location.lower())
    for row in warehouse.query(sql, {"start": start, "end": end}, name="query_log").rows:
        target = None
        if row["target_table"]:
            target = f"{row['target_project']}.{row['target_dataset']}.{row['target_table']}"
        kind = str(row["job_type"] or "QUERY")
        referenced = json.loads(row["referenced"] or "[]") or []
        sources = tuple(f"{one['project_id']}.{one['dataset_id']}.{one['table_id']}" for one in referenced)
        labels = {one["key"]: one["value"] for one in json.loads(row["labels"] or "[]") or []}
        record = Job(
            job_id=row["job_id"],
            project_id=row["project_id"],
            query=row["query"] if kind == "QUERY" else None,
            destination_table=target,
            default_dataset=f"{row['target_project']}.{row['target_dataset']}" if target else None,
            statement_type=row["statement_type"],
            creation_time=row["creation_time"].isoformat(),
            user_email=row["user_email"],
            labels=labels,
            job_type=kind,
            parent_job_id=row["parent_job_id"],
            source_tables=sources if kind != "QUERY" else (),
        )
        yield LoggedJob(
            record, row["start_time"] or row["creation_time"], row["end_time"], row["total_bytes_processed"] or 0
        )


def read_catalog(warehouse: Warehouse) -> tuple[Catalog, dict[str, dict[str, Any]]]:
    """The schemas and views of the project as they are now, as a catalog and in the form of a schemas file."""

    def describe() -> dict[str, dict[str, Any]]:
        client = warehouse.client
        found: dict[str, dict[str, Any]] = {}
        for dataset in client.list_datasets(retry=warehouse.retry()):
            for item in client.list_tables(dataset.reference, retry=warehouse.retry()):
                table = client.get_table(item.reference, retry=warehouse.retry())
                found[f"{table.project}.{table.dataset_id}.{table.table_id}"] = {
                    "type": table.table_type,
                    "columns": [column.to_api_repr() for column in table.schema],
                    "definition": table.view_query if table.table_type == "VIEW" else None,
                }
        return found

    described = warehouse.request("schemas of the project", describe)
    catalog = Catalog()
    for name, table in described.items():
        catalog.add(name, table)
    return catalog, described
