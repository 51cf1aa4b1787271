"""Whether features are what they were: the latest whole day beside the days before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..warehouse.client import Warehouse
from .features import EntityFeatures
from .tables import DATASET

LEAST_ROWS = 100
"""Rows of each side below which nothing is said."""
UNKNOWN_CHANGE = 0.2
"""How much the share of unknown values may change."""
MEAN_CHANGE = 3.0
"""How many times larger or smaller a mean may become."""
_NUMBERS = ("INT64", "FLOAT64", "NUMERIC")


@dataclass(frozen=True, slots=True)
class FeatureSpan:
    """A feature over a span of days: rows, share of unknown values, and the mean of the known ones (None: no number)."""

    rows: int
    unknown: float
    mean: float | None


def drift(before: FeatureSpan, now: FeatureSpan) -> str:
    """What changed, for a person; "" where nothing did, or where there is too little to say so."""
    if min(before.rows, now.rows) < LEAST_ROWS:
        return ""
    if abs(now.unknown - before.unknown) > UNKNOWN_CHANGE:
        return f"unknown in {now.unknown:.0%} instead of {before.unknown:.0%}"
    if before.mean and now.mean and before.mean > 0 and now.mean > 0:
        times = now.mean / before.mean
        if times > MEAN_CHANGE or times < 1 / MEAN_CHANGE:
            return f"mean {now.mean:.4g} instead of {before.mean:.4g}"
    return ""


def feature_spans(
    warehouse: Warehouse, entity: EntityFeatures, until: datetime, days: int = 7
) -> dict[str, tuple[FeatureSpan, FeatureSpan]]:
    """By feature: the `days` before the latest day that ended by `until`, and that day. Empty where there is none."""
    table = f"`{warehouse.table_id(DATASET, f'features_{entity.entity}')}`"
    asked = []
    for number, feature in enumerate(entity.features):
        mean = f"AVG(CAST(f.{feature.name} AS FLOAT64))" if feature.type in _NUMBERS else "CAST(NULL AS FLOAT64)"
        asked.append(f"COUNTIF(f.{feature.name} IS NULL) AS u{number}, {mean} AS m{number}")
    rows = warehouse.query(
        f"SELECT f.day = l.day AS latest, COUNT(*) AS n, {', '.join(asked)}\nFROM {table} AS f"
        f" CROSS JOIN (SELECT MAX(day) AS day FROM {table} WHERE moment <= @until) AS l\n"
        f"WHERE f.day <= l.day AND f.day >= TIMESTAMP_SUB(l.day, INTERVAL {days} DAY) GROUP BY 1",
        {"until": until},
        name="features_drift",
    ).rows
    spans: Mapping[bool, Mapping[str, Any]] = {row["latest"]: row for row in rows}
    if len(spans) < 2:
        return {}

    def span(row: Mapping[str, Any], number: int) -> FeatureSpan:
        return FeatureSpan(row["n"], row[f"u{number}"] / row["n"], row[f"m{number}"])

    return {
        feature.name: (span(spans[False], number), span(spans[True], number))
        for number, feature in enumerate(entity.features)
    }
