"""A finished job of the query log, and its edges: of its SQL text, or, for load, copy and extract jobs, of its configuration."""

from __future__ import annotations

from typing import Any

import msgspec

from .catalog import Catalog
from .edges import WHOLE_ROW, Edge, Resolution, Unresolved
from .fingerprint import fingerprint
from .names import general_path, general_uri, is_anonymous
from .resolve import resolve


class Job(msgspec.Struct, frozen=True):
    """One record of a query log. Times are RFC 3339 UTC texts; tables are `project.dataset.table`.

    The second half is what a log may also tell: jobs that are no queries, and facts that make a job no lineage.
    """

    job_id: str = ""
    project_id: str | None = None
    query: str | None = None
    destination_table: str | None = None
    default_dataset: str | None = None
    statement_type: str | None = None
    creation_time: Any = None
    user_email: str | None = None
    labels: Any = None

    job_type: str | None = None
    parent_job_id: str | None = None
    source_tables: tuple[str, ...] = ()
    source_uris: tuple[str, ...] = ()
    destination_uris: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Of a load job, the columns that its configuration states."""
    error_result: Any = None
    dry_run: bool | None = None

    @property
    def counts(self) -> bool:
        """False for what moved no data: a failed job or a dry run.

        A script and its child jobs both count: which of the two a log holds is decided where it is read (`finished_jobs.sql`).
        """
        return not self.error_result and not self.dry_run

    def fingerprint(self) -> str:
        """Equal for jobs that have the same edges: the same text but for literals, from the same place to the same place."""
        target = general_path(self.destination_table) if self.destination_table else None
        if target is not None and is_anonymous(target):
            target = None
        if not self.query:
            ends = (
                *map(general_path, self.source_tables),
                *_files(self.source_uris),
                "→",
                *_files(self.destination_uris),
            )
            return fingerprint("", self.job_type, target, *ends)
        return fingerprint(self.query, self.project_id, self.default_dataset, target)


def resolve_job(job: Job, catalog: Catalog, *, through_views: bool = False) -> Resolution:
    """The edges of a job. Never raises for what stands in it."""
    if job.query:
        return resolve(
            job.query,
            catalog,
            project=job.project_id,
            default_dataset=job.default_dataset,
            destination=job.destination_table,
            through_views=through_views,
        )
    kind = (job.job_type or "").upper()
    if kind == "COPY" and job.destination_table:
        return _copy(job.source_tables, general_path(job.destination_table), catalog)
    if kind == "LOAD" and job.destination_table:
        return _load(job, general_path(job.destination_table), catalog)
    if kind == "EXTRACT" and job.destination_uris:
        found = [_copy(job.source_tables, uri, catalog) for uri in _files(job.destination_uris)]
        return Resolution([edge for one in found for edge in one.edges], [r for one in found for r in one.unresolved])
    return Resolution([], [Unresolved(job.destination_table, None, "no_query", job.job_type or "")])


def _copy(sources: tuple[str, ...], target: str, catalog: Catalog) -> Resolution:
    edges: list[Edge] = []
    unresolved: list[Unresolved] = []
    for source in map(general_path, sources):
        columns = _columns(source, catalog) or _columns(target, catalog)
        if columns is None:
            unresolved.append(Unresolved(target, None, "unknown_schema", source))
        for column in columns or [WHOLE_ROW]:
            confidence = 1.0 if columns else 0.5
            edges.append(Edge(source, column, target, column, "DIRECT", "IDENTITY", False, column, confidence))
    return Resolution(edges, unresolved)


def _load(job: Job, target: str, catalog: Catalog) -> Resolution:
    columns = _columns(target, catalog) or list(job.columns)
    edges = [
        Edge(uri, column, target, column, "DIRECT", "IDENTITY", False, column, 0.9)
        for uri in _files(job.source_uris) or ("upload",)
        for column in columns or [WHOLE_ROW]
    ]
    return Resolution(edges, [] if columns else [Unresolved(target, None, "unknown_schema", target)])


def _files(uris: tuple[str, ...]) -> tuple[str, ...]:
    """Files by the folder that holds those of all days, each once."""
    return tuple(dict.fromkeys(map(general_uri, uris)))


def _columns(table: str, catalog: Catalog) -> list[str] | None:
    known = catalog.get(table)
    return [column.name for column in known.columns.values()] if known is not None and known.columns else None
