"""The tables of fraud detection: what they hold, and the statements that replace a day or an hour of them."""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from ..landing import LandedFile, Landing
from ..warehouse.client import Warehouse, WarehouseError
from ..warehouse.tables import TableSpec
from .catalog import Catalog
from .features import EntityFeatures
from .history import history_statement, warehouse_source
from .policy_sql import column_value

DATASET = "fraud"
DECISIONS = "fraud/decisions"
MOSTLY = 0.5
"""A rule that is undecided more often than this is odd."""
LANDED_SCHEMA: list[dict[str, Any]] = [
    {"name": "received_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When the request came."},
    {"name": "request_id", "type": "STRING", "mode": "REQUIRED", "description": "The caller's id of the request."},
    {"name": "client", "type": "STRING", "mode": "NULLABLE", "description": "Whose API key it came with."},
    {"name": "policy", "type": "STRING", "mode": "NULLABLE", "description": "The policy that decided."},
    {"name": "event", "type": "STRING", "mode": "NULLABLE", "description": "The kind of event that was judged."},
    {"name": "decision", "type": "STRING", "mode": "NULLABLE", "description": "allow, confirm, hold or deny."},
    {"name": "level", "type": "STRING", "mode": "NULLABLE", "description": "pass to sanction."},
    {"name": "score", "type": "INTEGER", "mode": "NULLABLE", "description": "Sum of the scores of the fired rules."},
    {"name": "rules", "type": "STRING", "mode": "REPEATED", "description": "Rules that fired."},
    {"name": "unknown", "type": "STRING", "mode": "REPEATED", "description": "Rules that could not be decided."},
    {"name": "fallback", "type": "STRING", "mode": "NULLABLE", "description": "Why the fallback counts; empty: not."},
    {"name": "policy_version", "type": "STRING", "mode": "NULLABLE", "description": "Digest of the policy's text."},
    {"name": "parameters_version", "type": "INTEGER", "mode": "NULLABLE", "description": "Version of its parameters."},
    {"name": "latency_ms", "type": "FLOAT", "mode": "NULLABLE", "description": "Until it was decided."},
    {"name": "record", "type": "STRING", "mode": "NULLABLE", "description": "All it was made from, as JSON."},
]
"""Columns of a landed file of decisions, in BigQuery's API form."""
_API_TYPES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}


def decisions_table() -> TableSpec:
    """`fraud.decisions`: one row a request id, partitioned by the hour it came."""
    hour = {
        "name": "hour",
        "type": "TIMESTAMP",
        "mode": "REQUIRED",
        "description": "received_at, cut to the hour (UTC).",
    }
    return TableSpec(
        DATASET,
        "decisions",
        [hour, *LANDED_SCHEMA],
        partition_field="hour",
        clustering=("policy", "request_id"),
        description="Every decision of the decision service.",
    )


def features_table(entity: EntityFeatures) -> TableSpec:
    """`fraud.features_<entity>`: one row a key and day in which it was seen; the features at the end of the day."""
    columns: list[Mapping[str, Any]] = [
        {"name": "day", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "The day (UTC), at its beginning."},
        {"name": "entity_key", "type": "STRING", "mode": "REQUIRED", "description": f"The {entity.key}."},
        {"name": "moment", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When the features were so."},
    ]
    for each in entity.features:
        kind = _API_TYPES.get(each.type, each.type)
        columns.append({"name": each.name, "type": kind, "mode": "NULLABLE", "description": each.description})
    return TableSpec(
        DATASET,
        f"features_{entity.entity}",
        columns,
        partition_field="day",
        partition_type="DAY",
        clustering=("entity_key",),
        description=f"{entity.description} Features at the end of each day.",
    )


def features_merge(warehouse: Warehouse, entity: EntityFeatures) -> str:
    """Replaces the day @start (until @end): reads the day and, before it, the longest window, whatever history there is."""
    sources = {
        event: warehouse_source(f"`{warehouse.table_id('events', event)}`", event, entity, "@start", "@end")
        for event, _ in entity.streams
    }
    keys = "\n  UNION DISTINCT\n  ".join(
        f"SELECT CAST({by} AS STRING) AS entity_key FROM `{warehouse.table_id('events', event)}`"
        f" WHERE hour >= @start AND hour < @end AND {by} IS NOT NULL"
        for event, by in entity.streams
    )
    moments = f"(SELECT entity_key, UNIX_MICROS(@end) AS moment FROM (\n  {keys}\n)) AS seen"
    names = ", ".join(each.name for each in entity.features)
    values = ", ".join(f"{column_value(each.type, each.name)} AS {each.name}" for each in entity.features)
    target = f"`{warehouse.table_id(DATASET, f'features_{entity.entity}')}`"
    return (
        f"MERGE {target} AS t USING (\n"
        f"SELECT @start AS day, entity_key, @end AS moment, {values} FROM (\n"
        f"{history_statement(entity, sources, moments, keep=('entity_key',))}\n)) AS s ON FALSE\n"
        "WHEN NOT MATCHED BY SOURCE AND t.day = @start THEN DELETE\n"
        f"WHEN NOT MATCHED THEN INSERT (day, entity_key, moment, {names})"
        f" VALUES (day, entity_key, moment, {names})"
    )


def load_features(
    warehouse: Warehouse, catalog: Catalog, entity: EntityFeatures, start: datetime, end: datetime
) -> int:
    """Replace one day of an entity's features; gives its rows. Events that never came count as none."""
    from .backtest import make_empty

    existing = warehouse.tables("events")
    for event in sorted({event for event, _ in entity.streams}):
        if event not in existing:
            make_empty(warehouse, catalog, event)
    warehouse.query(features_merge(warehouse, entity), {"start": start, "end": end}, name=f"features_{entity.entity}")
    table = f"`{warehouse.table_id(DATASET, f'features_{entity.entity}')}`"
    rows = warehouse.query(f"SELECT COUNT(*) AS n FROM {table} WHERE day = @start", {"start": start}).rows
    return int(rows[0]["n"])


def load_decisions(
    warehouse: Warehouse, landing: Landing, start: datetime, end: datetime, *, close: bool = True
) -> int:
    """Replace the hours of `fraud.decisions` from the landing; gives their rows. The first landed of an id stays.

    With `close` the hours' manifests are written first, so that a late file re-opens them.
    """
    files: list[LandedFile] = []
    hour = start
    while hour < end:
        files += landing.close(hour).files if close else landing.files(hour)
        hour += timedelta(hours=1)
    target = f"`{warehouse.table_id(DATASET, 'decisions')}`"
    if not files:
        warehouse.query(f"DELETE FROM {target} WHERE hour >= @start AND hour < @end", {"start": start, "end": end})
        return 0
    staging = f"decisions_{uuid.uuid4().hex[:12]}"
    warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id('fraud_staging')}`", name="fraud_staging")
    try:
        warehouse.load([file.uri(landing) for file in files], "fraud_staging", staging, LANDED_SCHEMA)
        names = ", ".join(column["name"] for column in LANDED_SCHEMA)
        warehouse.query(
            f"MERGE {target} AS t USING (\n"
            f"SELECT TIMESTAMP_TRUNC(received_at, HOUR) AS hour, {names}\n"
            f"FROM `{warehouse.table_id('fraud_staging', staging)}`\n"
            "QUALIFY ROW_NUMBER() OVER (PARTITION BY request_id ORDER BY received_at, record) = 1\n) AS s ON FALSE\n"
            "WHEN NOT MATCHED BY SOURCE AND t.hour >= @start AND t.hour < @end THEN DELETE\n"
            f"WHEN NOT MATCHED THEN INSERT (hour, {names}) VALUES (hour, {names})",
            {"start": start, "end": end},
            name="decisions",
        )
    finally:
        with suppress(WarehouseError):
            warehouse.query(f"DROP TABLE IF EXISTS `{warehouse.table_id('fraud_staging', staging)}`")
    rows = warehouse.query(
        f"SELECT COUNT(*) AS n FROM {target} WHERE hour >= @start AND hour < @end", {"start": start, "end": end}
    ).rows
    return int(rows[0]["n"])


def rule_rates(warehouse: Warehouse, catalog: Catalog, since: datetime) -> list[dict[str, Any]]:
    """Of every rule: how often it fired and was undecided; `odd` says never, always or mostly undecided, else ""."""
    table = f"`{warehouse.table_id(DATASET, 'decisions')}`"

    def ask(selected: str, joined: str) -> dict[tuple[str, str], int]:
        rows = warehouse.query(
            f"SELECT d.policy AS policy, {selected} AS rule, COUNT(*) AS n FROM {table} AS d{joined}"
            " WHERE d.hour >= @since GROUP BY 1, 2",
            {"since": since},
            name="rule_rates",
        ).rows
        return {(row["policy"], row["rule"]): row["n"] for row in rows}

    totals = ask("''", "")
    fired = ask("rule", ", UNNEST(d.rules) AS rule")
    unknown = ask("rule", ", UNNEST(d.unknown) AS rule")
    found = []
    for name, typed in catalog.policies.items():
        total = totals.get((name, ""), 0)
        for rule in typed.policy.rules:
            hits, missed = fired.get((name, rule.name), 0), unknown.get((name, rule.name), 0)
            odd = ""
            if total:
                odd = (
                    "never fires"
                    if not hits
                    else "always fires"
                    if hits == total
                    else "mostly undecided"
                    if missed > MOSTLY * total
                    else ""
                )
            found.append(
                {
                    "policy": name,
                    "rule": rule.name,
                    "decisions": total,
                    "fired": hits,
                    "undecided": missed,
                    "odd": odd,
                }
            )
    return found
