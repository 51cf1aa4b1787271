"""Whether features in the warehouse are what the online state makes of the same events: a sample of a day's rows, recalculated."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..warehouse.client import Warehouse
from .features import EntityFeatures, Feature
from .history import warehouse_source
from .moments import Event, Moment
from .online import features_in_order
from .tables import DATASET, source_tables
from .values import micros

SAMPLE_KEYS = 15
SAMPLE_EVENTS = 4
"""Kinds of events whose features are compared of one day; the days take turns, so that all are compared in a while."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A feature of which the warehouse and the online state say something else."""

    entity_key: str
    feature: str
    warehouse: object
    online: object


def compared_features(entity: EntityFeatures, turn: int) -> EntityFeatures:
    """The entity with the features of some kinds of events; other ones with another turn. A ratio needs both its parts."""
    events = sorted({event for event, _ in entity.streams})
    count = min(SAMPLE_EVENTS, len(events))
    chosen = {events[(turn * count + place) % len(events)] for place in range(count)} if events else set()
    kept = {each.name: each for each in entity.features if each.event in chosen}

    def is_kept(feature: Feature) -> bool:
        if feature.aggregation == "ratio":
            return feature.of in kept and feature.over in kept
        return feature.name in kept

    return replace(entity, features=tuple(each for each in entity.features if is_kept(each)))


def compare(
    warehouse: Warehouse, entity: EntityFeatures, day: datetime, *, keys: int = SAMPLE_KEYS
) -> tuple[int, list[Difference]]:
    """(values that were compared, what differs) of a day of `fraud.features_<entity>` that is made from the events of now."""
    wanted = compared_features(entity, day.toordinal())
    table = f"`{warehouse.table_id(DATASET, f'features_{entity.entity}')}`"
    rows = warehouse.query(
        f"SELECT * FROM {table} WHERE day = @day ORDER BY TO_HEX(MD5(entity_key)) LIMIT {keys}",
        {"day": day},
        name="features_agree",
    ).rows
    if not rows or not wanted.features:
        return 0, []
    end = max(row["moment"] for row in rows)
    events = [
        event
        for each in {event for event, _ in wanted.streams}
        for event in _events(warehouse, wanted, each, rows, day, end)
    ]
    events.sort(key=lambda event: event.known)
    moments = [Moment({}, row["entity_key"], micros(row["moment"].isoformat())) for row in rows]
    online = features_in_order(wanted, events, moments)
    differences = [
        Difference(row["entity_key"], feature.name, row[feature.name], found[feature.name])
        for row, found in zip(rows, online, strict=True)
        for feature in wanted.features
        if _plain(row[feature.name]) != found[feature.name]
    ]
    return len(rows) * len(wanted.features), differences


def _events(
    warehouse: Warehouse,
    entity: EntityFeatures,
    event: str,
    rows: Iterable[Mapping[str, Any]],
    start: datetime,
    end: datetime,
) -> list[Event]:
    """All events of a kind that the features of these rows can see."""
    bys = sorted({by for each, by in entity.streams if each == event})
    source = warehouse_source(source_tables(warehouse, entity)[event], event, entity, "@start", "@end")
    seen = " OR ".join(f"CAST(e.{by} AS STRING) IN UNNEST(@keys)" for by in bys)
    found = warehouse.query(
        f"SELECT * FROM {source.sql} AS e WHERE {seen}",
        {"start": start, "end": end, "keys": [row["entity_key"] for row in rows]},
        name="features_agree",
    ).rows
    return [
        Event(
            event,
            row["event_id"],
            row["happened"],
            row["known"],
            {by: None if row[by] is None else str(row[by]) for by in bys},
            {column: _plain(row[column]) for column in entity.columns[event] if row[column] is not None},
        )
        for row in found
    ]


def _plain(value: Any) -> Any:
    """A value of the warehouse as facts are held: times as microseconds, dates as texts."""
    if isinstance(value, datetime):
        return micros(value.isoformat())
    return value.isoformat() if hasattr(value, "isoformat") else value
