"""The tables of fraud detection: what they hold, and the statements that replace a day or an hour of them."""

import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ..landing import LandedFile, Landing
from ..warehouse.client import Warehouse, WarehouseError
from ..warehouse.tables import TableSpec
from .catalog import Catalog
from .documents import DATASET as CHANGES
from .documents import changes_table, column_sql, is_collection
from .features import EntityFeatures
from .history import history_statement, warehouse_source
from .policy_sql import column_value

DATASET = "fraud"
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
ALERTS_SCHEMA: list[dict[str, Any]] = [
    {"name": "alerted_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When it was found."},
    {"name": "alert_id", "type": "STRING", "mode": "REQUIRED", "description": "Made of policy, source and source_id."},
    {"name": "policy", "type": "STRING", "mode": "NULLABLE", "description": "The policy that found it."},
    {"name": "source", "type": "STRING", "mode": "NULLABLE", "description": "The event, or the collection."},
    {"name": "source_id", "type": "STRING", "mode": "NULLABLE", "description": "Event id, or the change's position."},
    {"name": "happened_at", "type": "TIMESTAMP", "mode": "NULLABLE", "description": "When the event happened."},
    {"name": "known_at", "type": "TIMESTAMP", "mode": "NULLABLE", "description": "When it became known."},
    {"name": "entity", "type": "STRING", "mode": "NULLABLE", "description": "Kind of the entity it is about."},
    {"name": "entity_key", "type": "STRING", "mode": "NULLABLE", "description": "Its key."},
    {"name": "level", "type": "STRING", "mode": "NULLABLE", "description": "monitor to sanction."},
    {"name": "score", "type": "INTEGER", "mode": "NULLABLE", "description": "Sum of the scores of the fired rules."},
    {"name": "rules", "type": "STRING", "mode": "REPEATED", "description": "Rules that fired."},
    {"name": "unknown", "type": "STRING", "mode": "REPEATED", "description": "Rules that could not be decided."},
    {"name": "policy_version", "type": "STRING", "mode": "NULLABLE", "description": "Digest of the policy's text."},
    {"name": "parameters_version", "type": "INTEGER", "mode": "NULLABLE", "description": "Version of its parameters."},
    {"name": "record", "type": "STRING", "mode": "NULLABLE", "description": "All it was made from, as JSON."},
]
JUDGED_SCHEMA: list[dict[str, Any]] = [
    {
        "name": "judged_at",
        "type": "TIMESTAMP",
        "mode": "REQUIRED",
        "description": "When the counts were landed; they are since the time before.",
    },
    {"name": "writer", "type": "STRING", "mode": "REQUIRED", "description": "Which stream process counted."},
    {"name": "policy", "type": "STRING", "mode": "REQUIRED", "description": "The policy."},
    {"name": "rule", "type": "STRING", "mode": "REQUIRED", "description": "Its rule."},
    {"name": "judged", "type": "INTEGER", "mode": "REQUIRED", "description": "Events and changes it was asked about."},
    {"name": "fired", "type": "INTEGER", "mode": "REQUIRED", "description": "Of these, in which it fired."},
    {"name": "undecided", "type": "INTEGER", "mode": "REQUIRED", "description": "Of these, where it was undecided."},
]


@dataclass(frozen=True)
class LandedTable:
    """A table that is loaded from a landing by hour. Of rows with the same `key` the first by `time` stays."""

    name: str
    schema: list[dict[str, Any]]
    key: tuple[str, ...]
    time: str
    description: str

    @property
    def asset(self) -> str:
        """Its asset. The landing's stream has the table's name."""
        return f"{DATASET}/{self.name}"

    @property
    def spec(self) -> TableSpec:
        """The table, partitioned by the hour of `time`."""
        hour = {
            "name": "hour",
            "type": "TIMESTAMP",
            "mode": "REQUIRED",
            "description": f"{self.time}, cut to the hour (UTC).",
        }
        return TableSpec(
            DATASET,
            self.name,
            [hour, *self.schema],
            partition_field="hour",
            clustering=("policy", *self.key[:1]),
            description=self.description,
        )


LANDED_TABLES: tuple[LandedTable, ...] = (
    LandedTable("decisions", LANDED_SCHEMA, ("request_id",), "received_at", "Every decision of the decision service."),
    LandedTable(
        "alerts", ALERTS_SCHEMA, ("alert_id",), "alerted_at", "What policies of the stream found after the event."
    ),
    LandedTable(
        "judged",
        JUDGED_SCHEMA,
        ("writer", "policy", "rule", "judged_at"),
        "judged_at",
        "How often rules of the stream's policies were asked, fired and were undecided.",
    ),
)
_API_TYPES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}


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


def source_tables(warehouse: Warehouse, entity: EntityFeatures) -> dict[str, str]:
    """By event, the table that an entity's features are made from; "" of a collection that was never captured."""
    found = {}
    captured: Collection[str] | None = None
    for event in dict.fromkeys(event for event, _ in entity.streams):
        if not is_collection(event):
            found[event] = f"`{warehouse.table_id('events', event)}`"
            continue
        if captured is None:
            captured = warehouse.tables(CHANGES)
        name = changes_table(event)
        found[event] = f"`{warehouse.table_id(CHANGES, name)}`" if name in captured else ""
    return found


def features_merge(warehouse: Warehouse, entity: EntityFeatures) -> str:
    """Replaces the day @start (until @end): reads the day and, before it, the longest window, whatever history there is."""
    tables = source_tables(warehouse, entity)
    sources = {event: warehouse_source(tables[event], event, entity, "@start", "@end") for event, _ in entity.streams}

    def keys_of(event: str, by: str) -> str:
        column = column_sql(by, "STRING") if is_collection(event) else f"CAST({by} AS STRING)"
        return (
            f"SELECT DISTINCT {column} AS entity_key FROM {tables[event]}"
            f" WHERE hour >= @start AND hour < @end AND {column} IS NOT NULL"
        )

    keys = "\n  UNION DISTINCT\n  ".join(keys_of(event, by) for event, by in entity.streams if tables[event])
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
    for event in sorted({event for event, _ in entity.streams if not is_collection(event)}):
        if event not in existing:
            make_empty(warehouse, catalog, event)
    warehouse.query(features_merge(warehouse, entity), {"start": start, "end": end}, name=f"features_{entity.entity}")
    table = f"`{warehouse.table_id(DATASET, f'features_{entity.entity}')}`"
    rows = warehouse.query(f"SELECT COUNT(*) AS n FROM {table} WHERE day = @start", {"start": start}).rows
    return int(rows[0]["n"])


def load_landed(
    warehouse: Warehouse, table: LandedTable, landing: Landing, start: datetime, end: datetime, *, close: bool = True
) -> int:
    """Replace the hours of a table from its landing; gives their rows.

    With `close` the hours' manifests are written first, so that a late file re-opens them.
    """
    files: list[LandedFile] = []
    hour = start
    while hour < end:
        files += landing.close(hour).files if close else landing.files(hour)
        hour += timedelta(hours=1)
    target = f"`{warehouse.table_id(DATASET, table.name)}`"
    if not files:
        warehouse.query(f"DELETE FROM {target} WHERE hour >= @start AND hour < @end", {"start": start, "end": end})
        return 0
    staging = f"{table.name}_{uuid.uuid4().hex[:12]}"
    warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id('fraud_staging')}`", name="fraud_staging")
    try:
        warehouse.load([file.uri(landing) for file in files], "fraud_staging", staging, table.schema)
        names = ", ".join(column["name"] for column in table.schema)
        last = table.schema[-1]["name"]
        warehouse.query(
            f"MERGE {target} AS t USING (\n"
            f"SELECT TIMESTAMP_TRUNC({table.time}, HOUR) AS hour, {names}\n"
            f"FROM `{warehouse.table_id('fraud_staging', staging)}`\n"
            f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {', '.join(table.key)} ORDER BY {table.time}, {last}) = 1\n"
            ") AS s ON FALSE\n"
            "WHEN NOT MATCHED BY SOURCE AND t.hour >= @start AND t.hour < @end THEN DELETE\n"
            f"WHEN NOT MATCHED THEN INSERT (hour, {names}) VALUES (hour, {names})",
            {"start": start, "end": end},
            name=table.name,
        )
    finally:
        with suppress(WarehouseError):
            warehouse.query(f"DROP TABLE IF EXISTS `{warehouse.table_id('fraud_staging', staging)}`")
    rows = warehouse.query(
        f"SELECT COUNT(*) AS n FROM {target} WHERE hour >= @start AND hour < @end", {"start": start, "end": end}
    ).rows
    return int(rows[0]["n"])


@dataclass(frozen=True, slots=True)
class RuleRate:
    """How often a rule fired and was undecided among what its policy judged; `odd` says never, always or mostly undecided, else ""."""

    policy: str
    rule: str
    judged: int
    fired: int
    undecided: int

    @property
    def odd(self) -> str:
        """What is odd about it; nothing where nothing was judged."""
        if not self.judged:
            return ""
        if self.undecided > MOSTLY * self.judged:
            return "mostly undecided"
        return "never fires" if not self.fired else "always fires" if self.fired == self.judged else ""


def rule_rates(warehouse: Warehouse, catalog: Catalog, since: datetime) -> list[RuleRate]:
    """Every rule of the policies that decide, over the decisions since a time."""
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
    return [
        RuleRate(name, rule, totals.get((name, ""), 0), fired.get((name, rule), 0), unknown.get((name, rule), 0))
        for name, rule in _rules(catalog, of_stream=False)
    ]


def stream_rule_rates(warehouse: Warehouse, catalog: Catalog, since: datetime) -> list[RuleRate]:
    """Every rule of the policies of the stream, over what was judged since a time."""
    rows = warehouse.query(
        "SELECT policy, rule, SUM(judged) AS judged, SUM(fired) AS fired, SUM(undecided) AS undecided"
        f" FROM `{warehouse.table_id(DATASET, 'judged')}` WHERE hour >= @since GROUP BY 1, 2",
        {"since": since},
        name="rule_rates",
    ).rows
    found = {(row["policy"], row["rule"]): (row["judged"], row["fired"], row["undecided"]) for row in rows}
    return [RuleRate(*place, *found.get(place, (0, 0, 0))) for place in _rules(catalog, of_stream=True)]


def _rules(catalog: Catalog, *, of_stream: bool) -> list[tuple[str, str]]:
    return [
        (name, rule.name)
        for name, typed in catalog.policies.items()
        if (typed.policy.stream is not None) is of_stream
        for rule in typed.policy.rules
    ]
