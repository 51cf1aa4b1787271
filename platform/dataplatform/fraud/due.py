"""What of fraud detection is due: policies that changed, days of features whose events changed, hours of landed decisions.

It is decided from data: `fraud.materialised` says what each partition was made from, the ledger of the events and the manifests
of the landing say what it would be made from now. So whoever asks, and however often, gets what is left.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property

from ..due import HOUR, Due, range_text, ranges
from ..errors import PlatformError
from ..landing import HourState, Landing, open_landing
from ..lease import Lease
from ..settings import Settings
from ..warehouse.client import Warehouse
from ..warehouse.tables import TableSpec, ensure
from .cases import Cases
from .catalog import Catalog
from .documents import DATASET as CHANGES
from .documents import is_collection
from .features import EntityFeatures
from .labels import LABELS
from .parameters import ParameterStore, database_url
from .policies import print_policy
from .tables import DATASET, LANDED_TABLES, LandedTable, features_table

DAY = timedelta(days=1)
NO_PARTITION = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for the one piece of an asset without partitions."""
MATERIALISED = "materialised"
MATERIALISED_TABLE = TableSpec(
    DATASET,
    MATERIALISED,
    [
        {"name": "start", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "Beginning of the partition."},
        {"name": "asset", "type": "STRING", "mode": "REQUIRED", "description": "The asset's key, with slashes."},
        {"name": "digest", "type": "STRING", "mode": "REQUIRED", "description": "What it was made from, as a hash."},
        {"name": "materialized_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "When that was."},
    ],
    partition_field="start",
    partition_type="DAY",
    clustering=("asset",),
    description="What each partition of fraud detection was made from.",
)

type Digests = dict[tuple[str, datetime], str]
"""(asset, beginning of the partition) → what it is made from."""


def features_key(entity: str) -> str:
    """The asset of an entity's features."""
    return f"fraud/features_{entity}"


def policy_key(policy: str) -> str:
    """The asset of a policy."""
    return f"fraud/policies/{policy}"


class FraudStream:
    """Fraud detection of one environment; implements `due.Stream`. Sends no request before it is asked something."""

    name = "fraud"

    def __init__(self, settings: Settings, catalog: Catalog, warehouse: Warehouse | None = None) -> None:
        self.settings = settings
        self.catalog = catalog
        self.warehouse = (warehouse or Warehouse(settings)).labelled(stream=self.name)

    def landing(self, table: LandedTable) -> Landing:
        """Where the rows of a table are landed."""
        return open_landing(self.settings, table.name)

    @property
    def lease(self) -> Lease:
        """Whoever replaces partitions holds it."""
        return Lease(open_landing(self.settings, "decisions").conditional("materialise.json"))

    @property
    def first_day(self) -> datetime:
        """The day (UTC) of the first hour."""
        return _day(self.settings.first_hour)

    def close(self, until: datetime, settle_seconds: float = 60.0) -> list[str]:
        """Close the hours in which something was landed. Hours without anything stay as they are: nothing stands on them."""
        end = _hour(until)
        closed = []
        for table in LANDED_TABLES:
            landing = self.landing(table)
            waiting = [
                hour
                for hour in landing.hours()
                if self.settings.first_hour <= hour < end and landing.state(hour) is not HourState.CLOSED
            ]
            if not waiting:
                continue
            landing.settle(end, settle_seconds)
            for hour in waiting:
                landing.close(hour)
            closed += [f"fraud: closed {range_text(start, stop)} of {table.name}" for start, stop in ranges(waiting)]
        return closed

    def due(self, until: datetime) -> list[Due]:
        """Policies and features first: decisions and alerts stand on them."""
        if not self.catalog.entities and not self.catalog.policies:
            return []
        end = _hour(until)
        noted = self._noted()
        return [
            *self._due_policies(noted),
            *self._due_features(noted, end),
            *(piece for table in LANDED_TABLES for piece in self._due_landed(table, noted, end)),
            *self._due_labels(noted),
        ]

    def broken(self, until: datetime) -> list[str]:  # noqa: ARG002  # the same question to all domains
        """Nothing: the checks of fraud detection warn."""
        return []

    # What there would be.

    def policy_digests(self) -> Digests:
        """What each policy is made from: its text."""
        return {
            (policy_key(name), NO_PARTITION): _hash(print_policy(typed.policy))
            for name, typed in self.catalog.policies.items()
        }

    def landed_digests(self, table: LandedTable, end: datetime) -> Digests:
        """What each closed hour of a landed table before `end` is made from: its manifest."""
        landing = self.landing(table)
        return {
            (table.asset, hour): manifest.digest
            for hour, manifest in landing.manifests(self.settings.first_hour).items()
            if hour < end and landing.state(hour) is HourState.CLOSED
        }

    @cached_property
    def cases(self) -> Cases:
        """The cases; PlatformError where their database does not answer."""
        url = database_url(self.settings.fraud_database, self.settings.data_dir)
        return Cases(ParameterStore(url, self.catalog.policies))

    def labels_digest(self) -> str:
        """What the labels of cases are made from: all of them."""
        return _hash(repr(self.cases.labels()))

    def feature_digests(self, end: datetime) -> dict[tuple[str, datetime], tuple[str, bool]]:
        """What each day of features is made from (its definition, and the ledger of its events), and whether the day is over.

        The ledger counts from the day's longest window on, and so do the hours of captured collections. A day is over when its last hour is in the ledger.
        """
        events = sorted({event for entity in self.catalog.entities.values() for event, _ in entity.streams})
        if not events or "ledger" not in self.warehouse.tables("events"):
            return {}
        rows = self.warehouse.query(
            f"""SELECT TIMESTAMP_TRUNC(hour, DAY) AS day, event, MAX(hour) AS last,
  STRING_AGG(CONCAT(FORMAT_TIMESTAMP('%H', hour), ' ', COALESCE(landing_digest, ''), ' ', COALESCE(contract_digest, ''),
    ' ', CAST(accepted AS STRING)), ',' ORDER BY hour) AS made_from
FROM `{self.warehouse.table_id("events", "ledger")}`
WHERE hour >= @start AND hour < @end AND event IN UNNEST(@events)
GROUP BY 1, 2""",
            {"start": self.first_day, "end": max(end, self.first_day), "events": events},
            name="fraud_due",
        ).rows
        found: dict[datetime, dict[str, str]] = {}
        last: dict[datetime, datetime] = {}
        for row in rows:
            found.setdefault(row["day"], {})[row["event"]] = _hash(row["made_from"])
            last[row["day"]] = max(row["last"], last.get(row["day"], row["last"]))
        for day, collection, made_from in self._changes(events, end):
            found.get(day, {})[collection] = _hash(made_from)
        digests: dict[tuple[str, datetime], tuple[str, bool]] = {}
        for entity in self.catalog.entities.values():
            definition = definition_digest(entity)
            back = _longest_days(entity)
            for day in found:
                parts = [
                    f"{other:%Y-%m-%d} {event} {found[other].get(event, '')}"
                    for other in sorted(found)
                    if other <= day and (back is None or other >= day - back)
                    for event, _ in entity.streams
                ]
                over = last[day] >= day + DAY - HOUR
                digests[features_key(entity.entity), day] = (f"{definition}:{_hash(*parts)}", over)
        return digests

    def settled_day(self, entity: str) -> datetime | None:
        """The latest day of an entity's features that is made from what the events are now."""
        noted = self._noted()
        digests = self.feature_digests(_hour(datetime.now(UTC)) + HOUR)
        asset = features_key(entity)
        days = [
            day for (each, day), (digest, _) in digests.items() if each == asset and noted.get((each, day)) == digest
        ]
        return max(days, default=None)

    def _changes(self, events: Iterable[str], end: datetime) -> Iterator[tuple[datetime, str, str]]:
        """Day, collection, and what its changes of the day were applied from."""
        collections = [event for event in events if is_collection(event)]
        if not collections or "hours" not in self.warehouse.tables(CHANGES):
            return
        for row in self.warehouse.query(
            "SELECT TIMESTAMP_TRUNC(hour, DAY) AS day, collection,"
            " STRING_AGG(CONCAT(FORMAT_TIMESTAMP('%H', hour), ' ', digest), ',' ORDER BY hour, digest) AS made_from\n"
            f"FROM `{self.warehouse.table_id(CHANGES, 'hours')}`\n"
            "WHERE hour >= @start AND hour < @end AND collection IN UNNEST(@collections)\nGROUP BY 1, 2",
            {"start": self.first_day, "end": max(end, self.first_day), "collections": collections},
            name="fraud_due",
        ).rows:
            yield row["day"], row["collection"], row["made_from"]

    # What is due of it.

    def _due_policies(self, noted: Digests) -> list[Due]:
        stale = {key: digest for key, digest in self.policy_digests().items() if noted.get(key) != digest}
        if not stale:
            return []
        assets = tuple(sorted(asset for asset, _ in stale))
        return [Due(assets, None, None, "the policies changed", _hash(repr(sorted(stale.items()))))]

    def _due_features(self, noted: Digests, end: datetime) -> list[Due]:
        by_span: dict[tuple[datetime, datetime], list[tuple[str, str]]] = {}
        stale: dict[str, dict[datetime, str]] = {}
        for (asset, day), (digest, over) in self.feature_digests(end).items():
            known = noted.get((asset, day))
            # Of the running day there is a first look, and no more until it is over.
            same = known == digest if over else known is not None and known.split(":")[0] == digest.split(":")[0]
            if not same:
                stale.setdefault(asset, {})[day] = digest
        for asset, days in stale.items():
            for start, stop in _day_ranges(days):
                parts = [f"{asset} {day} {digest}" for day, digest in sorted(days.items()) if start <= day < stop]
                by_span.setdefault((start, stop), []).append((asset, _hash(*parts)))
        return [
            Due(
                tuple(asset for asset, _ in sorted(pieces)),
                start,
                stop,
                "their events or definitions are new",
                _hash(repr(sorted(pieces))),
                DAY,
            )
            for (start, stop), pieces in sorted(by_span.items())
        ]

    def _due_landed(self, table: LandedTable, noted: Digests, end: datetime) -> list[Due]:
        stale = {
            hour: digest
            for (asset, hour), digest in self.landed_digests(table, end).items()
            if noted.get((asset, hour)) != digest
        }
        return [
            Due(
                (table.asset,),
                start,
                stop,
                f"{table.name} were landed",
                _hash(
                    table.name, *(f"{hour} {digest}" for hour, digest in sorted(stale.items()) if start <= hour < stop)
                ),
            )
            for start, stop in ranges(stale)
        ]

    def _due_labels(self, noted: Digests) -> list[Due]:
        try:
            digest = self.labels_digest()
        except PlatformError:  # without the database of the cases nothing is new, and all else goes on
            return []
        if noted.get((LABELS, NO_PARTITION)) == digest:
            return []
        return [Due((LABELS,), None, None, "cases were closed", _hash(LABELS, digest))]

    # What was done.

    def note(self, made: Mapping[tuple[str, datetime], str]) -> None:
        """Write down what partitions were made from."""
        if not made:
            return
        ensure(self.warehouse, [MATERIALISED_TABLE])
        rows = sorted(made.items())
        starts = [start for (_, start), _ in rows]
        self.warehouse.query(
            f"""MERGE `{self.warehouse.table_id(DATASET, MATERIALISED)}` AS t
USING (
  SELECT start, @assets[OFFSET(o)] AS asset, @digests[OFFSET(o)] AS digest
  FROM UNNEST(@starts) AS start WITH OFFSET AS o
) AS s
ON t.asset = s.asset AND t.start = s.start AND t.start >= @first AND t.start <= @last
WHEN MATCHED THEN UPDATE SET digest = s.digest, materialized_at = CURRENT_TIMESTAMP()
WHEN NOT MATCHED THEN INSERT (start, asset, digest, materialized_at) VALUES (s.start, s.asset, s.digest, CURRENT_TIMESTAMP())""",
            {
                "starts": starts,
                "assets": [asset for (asset, _), _ in rows],
                "digests": [digest for _, digest in rows],
                "first": min(starts),
                "last": max(starts),
            },
            name="fraud_materialised",
        )

    def _noted(self) -> Digests:
        if MATERIALISED not in self.warehouse.tables(DATASET):
            return {}
        rows = self.warehouse.query(
            f"SELECT asset, start, digest FROM `{self.warehouse.table_id(DATASET, MATERIALISED)}`", name="fraud_due"
        ).rows
        return {(row["asset"], row["start"]): row["digest"] for row in rows}


def definition_digest(entity: EntityFeatures) -> str:
    """Changes with whatever changes an entity's features or their table."""
    return _hash(repr((entity.key, entity.features, sorted(entity.columns.items()))), features_table(entity).digest)


def _longest_days(entity: EntityFeatures) -> timedelta | None:
    """How far back, in whole days, the features of a day reach; None for ever."""
    windows = [feature.window for features in entity.streams.values() for feature in features]
    longest = timedelta(0)
    for window in windows:
        if window is None:
            return None
        longest = max(longest, timedelta(microseconds=window))
    return DAY * -(-longest // DAY)  # rounded up


def _day_ranges(days: Iterable[datetime]) -> list[tuple[datetime, datetime]]:
    found: list[tuple[datetime, datetime]] = []
    for day in sorted(days):
        if found and found[-1][1] == day:
            found[-1] = (found[-1][0], day + DAY)
        else:
            found.append((day, day + DAY))
    return found


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _day(moment: datetime) -> datetime:
    return _hour(moment).replace(hour=0)
