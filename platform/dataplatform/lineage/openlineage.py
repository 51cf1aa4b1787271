"""Edges as OpenLineage events, for who wants them elsewhere: one COMPLETE event for each job and target, to a file or by HTTP."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from referencing.retrieval import to_cached_resource

from .declared import ASSET
from .edges import CONTRACT, WHOLE_ROW
from .impact import StoredEdge

PRODUCER = "https://github.com/dataplatform/dataplatform"
SPEC = "https://openlineage.io/spec"
RUN_EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
COLUMN_LINEAGE = f"{SPEC}/facets/1-2-0/ColumnLineageDatasetFacet.json#/$defs/ColumnLineageDatasetFacet"
OUTSIDE = frozenset({"event", "mongodb", "mysql", "postgresql", "service", "fraud"})
"""First parts of nodes that are no tables of BigQuery: they are namespaces of their own."""
_RUNS = uuid.UUID("6f0b8f6e-0f0f-5e0b-9d3e-6f9d3c1f9a55")


def run_events(edges: Iterable[StoredEdge], at: datetime) -> Iterator[dict[str, Any]]:
    """Events of time `at` (used where an edge does not say when its query ran last). The run's id is made of the job's."""
    by_job: dict[tuple[str, str], list[StoredEdge]] = {}
    for edge in edges:
        if edge.target_table is not None and edge.subtype != ASSET:
            by_job.setdefault((edge.job_id or "", edge.target_table), []).append(edge)
    for (job, target), group in by_job.items():
        yield _event(job, target, group, at)


def _event(job: str, target: str, edges: list[StoredEdge], at: datetime) -> dict[str, Any]:
    fields: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    whole: dict[tuple[str, str], dict[str, Any]] = {}
    inputs: dict[str, None] = {}
    for edge in edges:
        if edge.source_table is None or edge.source_column is None:
            fields.setdefault(edge.target_column, {})
            continue
        inputs[edge.source_table] = None
        into = whole if edge.target_column == WHOLE_ROW else fields.setdefault(edge.target_column, {})
        namespace, name = _dataset(edge.source_table)
        entry = into.setdefault(
            (edge.source_table, edge.source_column),
            {"namespace": namespace, "name": name, "field": edge.source_column, "transformations": []},
        )
        entry["transformations"].append(
            {"type": edge.type, "subtype": edge.subtype, "description": edge.expression, "masking": edge.masking}
        )
    namespace, name = _dataset(target)
    lineage: dict[str, Any] = {
        "_producer": PRODUCER,
        "_schemaURL": COLUMN_LINEAGE,
        "fields": {column: {"inputFields": list(entries.values())} for column, entries in fields.items()},
    }
    if whole:
        lineage["dataset"] = list(whole.values())
    seen = max((edge.last_seen for edge in edges if edge.last_seen), default=None)
    return {
        "eventType": "COMPLETE",
        "eventTime": seen or at.isoformat(),
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
        "run": {"runId": str(uuid.uuid5(_RUNS, f"{job}\0{target}"))},
        "job": {
            "namespace": "contracts" if job == CONTRACT else "bigquery",
            "name": target if job in ("", CONTRACT) else job,
        },
        "inputs": [dict(zip(("namespace", "name"), _dataset(table), strict=True)) for table in inputs],
        "outputs": [{"namespace": namespace, "name": name, "facets": {"columnLineage": lineage}}],
    }


def _dataset(table: str) -> tuple[str, str]:
    """OpenLineage's naming: `bigquery` and the full name; a bucket and the path in it; outside BigQuery the kind and the rest."""
    if table.startswith("gs://"):
        bucket, _, path = table[5:].partition("/")
        return f"gs://{bucket}", path or "/"
    kind, _, name = table.partition(".")
    return (kind, name) if kind in OUTSIDE else ("bigquery", table)


def official_schemas(at: str = SPEC) -> Registry[Any]:
    """OpenLineage's own JSON Schemas, each read when it is first named: from its site, or from a copy of the site's folder `spec`
    (a path or a URL)."""

    @to_cached_resource(from_contents=DRAFT202012.create_resource)
    def retrieve(uri: str) -> str:
        if not uri.startswith(f"{SPEC}/"):
            raise LookupError(f"{uri} is none of OpenLineage's")
        name = uri.removeprefix(f"{SPEC}/")
        if not at.startswith(("http://", "https://")):
            return (Path(at) / name).read_text()
        return httpx.get(f"{at.rstrip('/')}/{name}", timeout=30, follow_redirects=True).raise_for_status().text

    return Registry(retrieve=retrieve)  # type: ignore[call-arg]


_FORMATS = FormatChecker(formats=("uuid",))
"""The formats that OpenLineage's schemas state. jsonschema itself passes over times and URIs where other packages are not installed."""


@_FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    """RFC 3339."""
    return not isinstance(value, str) or bool(_TIME.fullmatch(value) and datetime.fromisoformat(value))


@_FORMATS.checks("uri", raises=ValueError)
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme and not re.search(r"\s", value))


_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def mistakes(event: dict[str, Any], schemas: Registry[Any]) -> Iterator[str]:
    """Where an event, or a facet in it, is not what the schema says that it names as its own.

    Raises referencing.exceptions.Unresolvable when a schema cannot be read.
    """
    for place, part, schema in stated_schemas(event):
        validator = Draft202012Validator({"$ref": schema}, registry=schemas, format_checker=_FORMATS)
        for error in validator.iter_errors(part):
            yield f"{place}{error.json_path[1:]}: {error.message}"


def stated_schemas(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The event and its facets: place, what is there, and the URL of the schema that it names as its own."""
    yield "event", event, event["schemaURL"]
    parts = {"run": event["run"], "job": event["job"]}
    for side in ("inputs", "outputs"):
        parts |= {f"{side}[{number}]": dataset for number, dataset in enumerate(event[side])}
    for place, part in parts.items():
        for name, facet in part.get("facets", {}).items():
            yield f"{place}.facets.{name}", facet, facet["_schemaURL"]
