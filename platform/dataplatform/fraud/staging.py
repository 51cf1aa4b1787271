"""What statements read beside the warehouse's own tables: a file's events and moments, and long lists.

They are loaded into tables, which go away afterwards.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ..warehouse.client import Warehouse, WarehouseError
from .fact_types import TypedPolicy
from .features import EntityFeatures
from .history import history_statement, staged_source
from .moments import Event, Moment
from .policy_sql import list_text, long_lists
from .tree import Fact, Scalar

DATASET = "fraud_staging"
_ARROW = {
    "INT64": pa.int64(),
    "TIMESTAMP": pa.int64(),
    "FLOAT64": pa.float64(),
    "NUMERIC": pa.decimal128(38, 9),
    "BOOL": pa.bool_(),
}


def features_by_sql(
    warehouse: Warehouse, entity: EntityFeatures, events: Sequence[Event], moments: Sequence[Moment]
) -> list[dict[str, Fact]]:
    """Features at many moments, in their order; values in the types of the declaration."""
    if not moments:
        return []
    run = uuid.uuid4().hex[:12]
    warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id(DATASET)}`", name="fraud_staging")
    tables = {event: f"events_{number}_{run}" for number, event in enumerate(entity.columns)}
    moments_table = f"moments_{run}"
    try:
        for event, table in tables.items():
            warehouse.load_rows(_event_rows(entity, event, events), DATASET, table)
        warehouse.load_rows(_moment_rows(moments), DATASET, moments_table)
        sources = {
            event: staged_source(f"`{warehouse.table_id(DATASET, table)}`", event, entity)
            for event, table in tables.items()
        }
        statement = history_statement(entity, sources, f"`{warehouse.table_id(DATASET, moments_table)}`")
        rows = warehouse.query(f"{statement}\nORDER BY place", name="fraud_features").rows
    finally:
        for table in [*tables.values(), moments_table]:
            with suppress(WarehouseError):
                warehouse.query(f"DROP TABLE IF EXISTS `{warehouse.table_id(DATASET, table)}`", name="fraud_staging")
    return [typed_row(entity, row) for row in rows]


@contextmanager
def staged_lists(
    warehouse: Warehouse, typed: TypedPolicy, lists: Mapping[str, frozenset[Scalar]]
) -> Iterator[str | None]:
    """The table (columns list STRING, value STRING) of the policy's lists that are too long for a statement's text, quoted;
    None where all are short.
    """
    long = long_lists(typed, lists)
    if not long:
        yield None
        return
    table = f"lists_{uuid.uuid4().hex[:12]}"
    quoted = f"`{warehouse.table_id(DATASET, table)}`"
    warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id(DATASET)}`", name="fraud_staging")
    columns = {
        "list": pa.array([name for name, values in long.items() for _ in values], pa.string()),
        "value": pa.array([list_text(value) for values in long.values() for value in values], pa.string()),
    }
    try:
        warehouse.load_rows(pa.table(columns), DATASET, table)
        yield quoted
    finally:
        with suppress(WarehouseError):
            warehouse.query(f"DROP TABLE IF EXISTS {quoted}", name="fraud_staging")


def typed_row(entity: EntityFeatures, row: Mapping[str, Any]) -> dict[str, Fact]:
    """A row of `history_statement` in the forms in which policies hold facts."""
    return {feature.name: _typed(row[feature.name]) for feature in entity.features}


def _typed(value: Any) -> Fact:
    typed: Fact = value.isoformat() if hasattr(value, "isoformat") else value
    return typed


def _event_rows(entity: EntityFeatures, event: str, events: Sequence[Event]) -> pa.Table:
    wanted = [each for each in events if each.event == event]
    columns: dict[str, Any] = {
        "event": pa.array([event] * len(wanted), pa.string()),
        "event_id": pa.array([each.event_id for each in wanted], pa.string()),
        "happened": pa.array([each.happened for each in wanted], pa.int64()),
        "known": pa.array([each.known for each in wanted], pa.int64()),
    }
    for stream, by in entity.streams:
        if stream == event:
            columns[by] = pa.array([each.keys.get(by) for each in wanted], pa.string())
    for name, held in entity.columns[event].items():
        values = [each.values.get(name) for each in wanted]
        if held == "NUMBER":
            whole = [value if isinstance(value, int) else None for value in values]
            real = [value if isinstance(value, float) else None for value in values]
            columns[f"{name}__integer"] = pa.array(whole, pa.int64())
            columns[f"{name}__real"] = pa.array(real, pa.float64())
        elif held == "NUMERIC":
            exact = [None if value is None else Decimal(value) for value in values]
            columns[name] = pa.array(exact, _ARROW["NUMERIC"])
        elif name not in columns:
            columns[name] = pa.array(values, _ARROW.get(held, pa.string()))
    return pa.table(columns)


def _moment_rows(moments: Sequence[Moment]) -> pa.Table:
    return pa.table(
        {
            "place": pa.array(range(len(moments)), pa.int64()),
            "entity_key": pa.array([each.key for each in moments], pa.string()),
            "moment": pa.array([each.time for each in moments], pa.int64()),
        }
    )
