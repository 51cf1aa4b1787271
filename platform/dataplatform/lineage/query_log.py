"""Finished jobs and schemas of all projects and regions: what the resolver is fed with. The one place where BigQuery and the
embedded server differ here.

On BigQuery jobs come from `INFORMATION_SCHEMA.JOBS` (`finished_jobs.sql`), and what that view does not say of load, copy and extract
jobs from the jobs themselves; on the embedded server, whose view lacks destinations, from the list of jobs. Schemas come from
`INFORMATION_SCHEMA` on both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ..warehouse.client import Warehouse
from .jobs import Job

LABEL = "lineage"
"""Value of the label `domain` on our own bookkeeping's jobs, which are left out."""
_JOBS = (Path(__file__).parent / "finished_jobs.sql").read_text()
_OF_A_RUN = re.compile(r"(?<=[\w*])_[0-9a-f]{12}(?=`|$)")
"""Ends the name of a table that lives as long as the run that made it."""


class LoggedJob(msgspec.Struct, frozen=True):
    """A finished job with what only the log knows: when (UTC), and how much was scanned."""

    job: Job
    started_at: datetime
    ended_at: datetime
    bytes_processed: int


class Place(msgspec.Struct, frozen=True):
    """A project and one of the regions in which its jobs run and its datasets are."""

    project: str
    region: str


def places(warehouse: Warehouse) -> list[Place]:
    """All projects and regions whose log is read: those of the setting `lineage_sources`, else our own."""
    given = [Place(*one.rpartition(".")[::2]) for one in warehouse.settings.lineage_sources]
    return given or [Place(warehouse.project, warehouse.settings.location.lower())]


def _in(warehouse: Warehouse, place: Place) -> Warehouse:
    """The warehouse with its jobs in the place's region, as `INFORMATION_SCHEMA` demands."""
    if warehouse.embedded or place.region == warehouse.settings.location.lower():
        return warehouse
    return Warehouse(warehouse.settings.model_copy(update={"location": place.region}), labels=warehouse.labels)


def jobs_statement(place: Place) -> str:
    """The statement for the finished jobs of a place; its parameters are `start` and `end`."""
    return _JOBS.format(project=place.project, region=place.region)


def finished_jobs(warehouse: Warehouse, start: datetime, end: datetime) -> Iterator[LoggedJob]:
    """Jobs that ended in [start, end) and moved or read data, of all places, each once, without our own bookkeeping's.

    Tables that a run makes for itself, named with 12 hexadecimal digits at the end, are told without these: so all runs are one
    text, and one node of the graph.
    """
    seen: set[tuple[str | None, str]] = set()
    for place in places(warehouse):
        found = _listed(warehouse, place, start, end) if warehouse.embedded else _queried(warehouse, place, start, end)
        for logged in found:
            job = logged.job
            labels = job.labels or {}
            key = (job.project_id, job.job_id)
            if key in seen or not job.counts or (isinstance(labels, dict) and labels.get("domain") == LABEL):
                continue
            seen.add(key)
            yield msgspec.structs.replace(logged, job=_general(job))


def _general(job: Job) -> Job:
    def general(name: str) -> str:
        return _OF_A_RUN.sub("", name)

    return msgspec.structs.replace(
        job,
        query=general(job.query) if job.query else None,
        destination_table=general(job.destination_table) if job.destination_table else None,
        source_tables=tuple(map(general, job.source_tables)),
    )


def _listed(warehouse: Warehouse, place: Place, start: datetime, end: datetime) -> Iterator[LoggedJob]:
    def search() -> list[Any]:
        return list(
            warehouse.client.list_jobs(
                project=place.project,
                all_users=True,
                state_filter="done",
                max_creation_time=end,
                retry=warehouse.retry(),
            )
        )

    found = []
    for job in warehouse.request("list of finished jobs", search):
        ended = job.ended or job.created
        if ended is not None and start <= ended < end:
            scanned = int(getattr(job, "total_bytes_processed", 0) or 0)
            found.append(LoggedJob(described_job(job), job.started or job.created, ended, scanned))
    yield from sorted(found, key=lambda one: (one.ended_at, one.job.job_id))


def described_job(job: Any) -> Job:
    """A job as Google's client describes it."""
    kind = str(job.job_type or "query").upper()
    source = getattr(job, "source", None)
    sources = getattr(job, "sources", None) or ([source] if source is not None else [])
    default = getattr(job, "default_dataset", None)
    return Job(
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
        columns=tuple(column.name for column in (getattr(job, "schema", None) or ()) if kind == "LOAD"),
        error_result=job.error_result,
        dry_run=bool(getattr(job, "dry_run", False)),
    )


def _table(reference: Any) -> str | None:
    if reference is None or not hasattr(reference, "table_id"):
        return None
    return f"{reference.project}.{reference.dataset_id}.{reference.table_id}"


def _queried(warehouse: Warehouse, place: Place, start: datetime, end: datetime) -> Iterator[LoggedJob]:
    there = _in(warehouse, place)
    for row in there.query(jobs_statement(place), {"start": start, "end": end}, name="query_log").rows:
        job = queried_job(row)
        if job.job_type in ("LOAD", "COPY", "EXTRACT"):  # the view says nothing of where these read

            def describe(job_id: str = job.job_id) -> Any:
                return there.client.get_job(job_id, project=place.project, location=place.region, retry=there.retry())

            job = described_job(there.request(f"job {job.job_id}", describe))
        started = row["start_time"] or row["creation_time"]
        yield LoggedJob(job, started, row["end_time"], row["total_bytes_processed"] or 0)


def queried_job(row: dict[str, Any]) -> Job:
    """A job as `finished_jobs.sql` tells it. The view has no default dataset: texts that lean on one are told by their destination's."""
    target = dataset = None
    if row["target_table"]:
        dataset = f"{row['target_project']}.{row['target_dataset']}"
        target = f"{dataset}.{row['target_table']}"
    kind = str(row["job_type"] or "QUERY")
    return Job(
        job_id=row["job_id"],
        project_id=row["project_id"],
        query=row["query"] if kind == "QUERY" else None,
        destination_table=target,
        default_dataset=dataset if dataset and not row["target_dataset"].startswith("_") else None,
        statement_type=row["statement_type"],
        creation_time=row["creation_time"].isoformat(),
        user_email=row["user_email"],
        labels={one["key"]: one["value"] for one in json.loads(row["labels"] or "[]") or []},
        job_type=kind,
        parent_job_id=row["parent_job_id"],
    )


def read_schemas(warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    """Tables, views and routines of all places as they are now, in the form of a schemas file."""
    described: dict[str, dict[str, Any]] = {}
    for place in places(warehouse):
        there = _in(warehouse, place)
        schema = f"`{place.project}`.`region-{place.region}`.INFORMATION_SCHEMA"
        columns = there.query(
            f"SELECT table_schema, table_name, field_path, data_type FROM {schema}.COLUMN_FIELD_PATHS", name="schemas"
        ).rows
        views = there.query(f"SELECT table_schema, table_name, view_definition FROM {schema}.VIEWS", name="views").rows
        for row in columns:
            table = f"{place.project}.{row['table_schema']}.{row['table_name']}"
            known = described.setdefault(table, {"type": "TABLE", "columns": []})
            _add_field(known["columns"], row["field_path"].split("."), row["data_type"])
        for row in views:
            table = f"{place.project}.{row['table_schema']}.{row['table_name']}"
            known = described.setdefault(table, {"columns": []})
            known |= {"type": "VIEW", "definition": row["view_definition"]}
        routines = _listed_routines(there, place) if there.embedded else _queried_routines(there, schema)
        for name, ddl in routines:
            described[f"{place.project}.{name}"] = {"type": "ROUTINE", "definition": ddl}
    return described


def row_count(warehouse: Warehouse, table: str) -> int:
    """Rows of a table, by its description; of a date-sharded or dropped one, and of a view, one: not known to be empty."""

    def describe() -> int:
        found = warehouse.client.get_table(table, retry=warehouse.retry())
        return 1 if found.num_rows is None or found.table_type == "VIEW" else int(found.num_rows)

    return 1 if table.endswith("_*") else warehouse.request(f"rows of {table}", describe)


def _add_field(fields: list[dict[str, Any]], path: list[str], type_: str) -> None:
    for name in path[:-1]:
        above = next((one for one in fields if one["name"] == name), None)
        if above is None:
            return
        fields = above.setdefault("fields", [])
    repeated = type_.startswith("ARRAY<")
    inner = type_[6:-1] if repeated else type_
    fields.append(
        {
            "name": path[-1],
            "type": "RECORD" if inner.startswith("STRUCT") else inner.partition("(")[0],
            "mode": "REPEATED" if repeated else "NULLABLE",
        }
    )


def _queried_routines(warehouse: Warehouse, schema: str) -> Iterator[tuple[str, str]]:
    sql = f"SELECT routine_schema, routine_name, ddl FROM {schema}.ROUTINES WHERE ddl IS NOT NULL"
    for row in warehouse.query(sql, name="routines").rows:
        yield f"{row['routine_schema']}.{row['routine_name']}", row["ddl"]


def _listed_routines(warehouse: Warehouse, place: Place) -> Iterator[tuple[str, str]]:
    """The embedded server's view has no definitions."""

    def search() -> list[Any]:
        client = warehouse.client
        datasets = client.list_datasets(place.project, retry=warehouse.retry())
        return [one for each in datasets for one in client.list_routines(each.reference, retry=warehouse.retry())]

    for routine in warehouse.request("routines", search):
        if routine.type_ != "SCALAR_FUNCTION" or (routine.language or "SQL") != "SQL" or not routine.body:
            continue
        arguments = ", ".join(f"`{one.name}` {_type_name(one)}" for one in routine.arguments)
        name = f"{routine.dataset_id}.{routine.routine_id}"
        yield name, f"CREATE FUNCTION `{place.project}.{name}`({arguments}) AS ({routine.body})"


def _type_name(argument: Any) -> str:
    kind = argument.data_type.type_kind if argument.data_type is not None else None
    return str(kind.name if kind is not None and kind.name not in ("STRUCT", "ARRAY") else "ANY TYPE")
