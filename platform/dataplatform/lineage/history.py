"""Schemas as they were: what each table's columns and definition have been, so that a query is resolved with what it ran on.

A table that is gone is known as it was last. One that came and went between two looks is known by the query that made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ..warehouse.client import Warehouse
from .catalog import UNKNOWN, Catalog
from .edges import WHOLE_ROW, Resolution
from .jobs import Job
from .tables import DATASET, SCHEMAS, names, stage

DROPPED = "DROPPED"
"""Type in a row that says that a table is gone."""

type Described = dict[str, Any]
"""A table, view or routine, as in a schemas file."""


def remember(
    warehouse: Warehouse, described: Mapping[str, Described], at: datetime, *, worked_out: bool = False
) -> list[str]:
    """Write down what differs from what was seen last, and everything once a day; the names of what changed."""
    table = warehouse.table_id(DATASET, SCHEMAS.name)
    last = {
        row["table_name"]: row
        for row in warehouse.query(
            f"SELECT table_name, digest, day, changed_at, worked_out FROM `{table}`\n"
            "WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY table_name ORDER BY seen_at DESC) = 1",
            name="schemas_seen",
        ).rows
    }
    if not worked_out:
        gone = {
            name: {"type": DROPPED} for name, row in last.items() if name not in described and not row["worked_out"]
        }
        described = {**described, **gone}
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    rows = []
    changed = []
    for name, one in described.items():
        columns = json.dumps(one.get("columns") or [], separators=(",", ":"))
        digest = hashlib.sha256(f"{one.get('type')}\0{columns}\0{one.get('definition')}".encode()).hexdigest()[:16]
        known = last.get(name)
        same = known is not None and known["digest"] == digest
        if same and known is not None and (known["day"] == day or one.get("type") == DROPPED):
            continue
        if not same:
            changed.append(name)
        rows.append(
            {
                "day": day,
                "table_name": name,
                "type": one.get("type") or "TABLE",
                "columns": columns,
                "definition": one.get("definition"),
                "digest": digest,
                "worked_out": worked_out,
                "seen_at": at,
                "changed_at": known["changed_at"] if same and known is not None else at,
            }
        )
    if rows:
        staged = stage(warehouse, SCHEMAS, rows)
        columns_ = names(SCHEMAS)
        warehouse.query(f"INSERT INTO `{table}` ({columns_}) SELECT {columns_} FROM `{staged}`", name="schemas")
    return changed


def catalog_now(warehouse: Warehouse) -> Catalog:
    """What was there at the last look."""
    table = warehouse.table_id(DATASET, SCHEMAS.name)
    rows = warehouse.query(
        f"SELECT table_name, type, columns, definition, worked_out FROM `{table}`\n"
        "WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY table_name ORDER BY seen_at DESC) = 1",
        name="schemas_now",
    ).rows
    return _catalog(row for row in rows if row["type"] != DROPPED and not row["worked_out"])


def catalog_as_of(warehouse: Warehouse, moment: datetime) -> Catalog:
    """Everything as it was then (UTC); what was seen only later, as it was seen first."""
    table = warehouse.table_id(DATASET, SCHEMAS.name)
    rows = warehouse.query(
        f"SELECT table_name, type, columns, definition FROM `{table}`\n"
        f"WHERE type != '{DROPPED}' QUALIFY ROW_NUMBER() OVER ("
        "PARTITION BY table_name ORDER BY seen_at <= @moment DESC, IF(seen_at <= @moment, seen_at, NULL) DESC, seen_at) = 1",
        {"moment": moment},
        name="schemas_as_of",
    ).rows
    return _catalog(rows)


def _catalog(rows: Iterable[Mapping[str, Any]]) -> Catalog:
    catalog = Catalog()
    for row in rows:
        described = {"type": row["type"], "columns": json.loads(row["columns"]), "definition": row["definition"]}
        catalog.add(row["table_name"], described)
    return catalog


def made_table(job: Job, resolution: Resolution, catalog: Catalog) -> tuple[str, Described] | None:
    """The table that a query made, where no look at the schemas has found it: its columns are those of the query."""
    if job.statement_type not in ("CREATE_TABLE_AS_SELECT", "CREATE_VIEW") and job.job_type != "LOAD":
        return None
    targets = {edge.target_table for edge in resolution.edges}
    if len(targets) != 1 or any(
        one.target_column is None for one in resolution.unresolved if one.reason != "unknown_schema"
    ):
        return None
    (target,) = targets
    if target is None or catalog.get(target) is not None:
        return None
    columns: list[dict[str, Any]] = []
    for path in dict.fromkeys(edge.target_column for edge in resolution.edges if edge.target_column != WHOLE_ROW):
        fields = columns
        for name in path.split("."):
            known = next((one for one in fields if one["name"] == name), None)
            if known is None:
                known = {"name": name, "type": UNKNOWN, "mode": "NULLABLE", "fields": []}
                fields.append(known)
            fields = known["fields"]
    for one in columns:
        _as_records(one)
    return target, {"type": "TABLE", "columns": columns}


def _as_records(column: dict[str, Any]) -> None:
    if column["fields"]:
        column["type"] = "RECORD"
    for one in column["fields"]:
        _as_records(one)
