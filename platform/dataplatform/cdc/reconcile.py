"""Is the table what the source is? Counts by range of `_id`, and the documents of a sample, as of the table's position.

Counts and the sample's keys are read from the narrow columns; of the wide one, the documents, only short ranges of the cluster key in
a few partitions. The source moves on while it is compared. A document that differs is only a difference when no change of it has been landed
after what the table holds, up to the time at which it was read: so a check never blames a change that is on its way.
"""

import gzip
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from bson import ObjectId, Timestamp
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ..contracts.collections import CollectionContract
from ..errors import PlatformError
from ..landing import HourState, LandedFile, Landing
from ..settings import Settings
from ..warehouse.client import Warehouse
from . import changes, connections, sql
from .buckets import bucket_of
from .changes import Change, encode, time_text
from .extended_json import CODEC, canonical, parse
from .hours import CollectionHours
from .positions import Position
from .state import floor_hour
from .tables import tables_of

SAMPLE = 200
"""Documents looked at from each side."""
PARTITIONS = 6
"""Of so many partitions, chosen at random by their size, documents are read; of more where they hold fewer than SAMPLE together."""
PASS_SECONDS = 20.0
"""How long the capture may take to reach what was read."""
KEPT_SECONDS = 0.1


class NotReachedError(PlatformError):
    """The capture is not where the source was read, so nothing can be said of what differs."""


@dataclass(frozen=True)
class Difference:
    """One document that is not the same: `source` and `table` are canonical texts, None where it is not there."""

    key: str
    source: str | None
    table: str | None

    @property
    def kind(self) -> str:
        """missing (in the table), extra (in the table), or different."""
        if self.table is None:
            return "missing"
        return "extra" if self.source is None else "different"


@dataclass
class Reconciliation:
    """What a comparison found. `counts` are (range, source, table, changes on their way) where the counts cannot be right.

    `sampled` documents were compared; of `found` more it was only seen that the table has them. `document_partitions` of `partitions`
    had documents read.
    """

    collection: str
    position: str
    read_at: datetime
    ranges: int = 0
    source_documents: int = 0
    table_documents: int = 0
    sampled: int = 0
    found: int = 0
    partitions: int = 0
    document_partitions: int = 0
    moved_on: int = 0
    typed_behind: int = 0
    unmapped: int = 0
    counts: list[tuple[str, int, int, int]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.counts and not self.differences and not self.typed_behind


def reconcile(
    settings: Settings,
    hours: CollectionHours,
    contract: CollectionContract,
    *,
    sample: int = SAMPLE,
    seed: int | None = None,
    everything: bool = False,
) -> Reconciliation:
    """Compare one collection with its tables. `everything` compares every document instead of a sample.

    Raises NotReachedError where the capture does not reach the time at which the source was read.
    """
    uri = connections.uri_of(settings, contract.connection)
    client = connections.connect(settings, contract.connection, uri=uri)
    try:
        return _reconcile(client, hours, contract, sample, seed, everything=everything)
    except PyMongoError as error:
        raise connections.source_error(error, contract.connection, uri) from error
    finally:
        client.close()


def _reconcile(
    client: MongoClient[dict[str, Any]],
    hours: CollectionHours,
    contract: CollectionContract,
    sample: int,
    seed: int | None,
    *,
    everything: bool,
) -> Reconciliation:
    name = contract.namespace
    warehouse = hours.warehouse
    tables = tables_of(warehouse, contract)
    collection = client[contract.database].get_collection(contract.collection, codec_options=CODEC)

    table_counts = {
        row["bucket"]: (row["documents"], row["position"])
        for row in warehouse.query(
            f"SELECT bucket, COUNTIF(NOT deleted) AS documents, MAX(position) AS position FROM `{tables.raw}` GROUP BY bucket",
            name="cdc_reconcile",
        ).rows
    }
    position = max((at for _, at in table_counts.values()), default="")
    rng = random.Random(seed)
    source: dict[str, str] = {}
    if everything:
        source = {canonical(one["_id"]): canonical(one) for one in collection.find({})}
    else:
        for one in collection.aggregate([{"$sample": {"size": sample}}]):
            source[canonical(one["_id"])] = canonical(one)
    sizes = {bucket: documents for bucket, (documents, _) in table_counts.items() if documents}
    chosen = sorted(sizes) if everything else _chosen(sizes, sample, rng)
    statement = _documents_sql(warehouse, tables.raw, chosen, sizes, rng, None if everything else sample)
    table = {row["_id"]: row["document"] for row in warehouse.query(statement, name="cdc_reconcile").rows}
    # Each side's sample is looked up on the other side.
    for key in [key for key in table if key not in source]:
        found = collection.find_one({"_id": parse(key)}) if not everything else None
        if found is not None and canonical(found["_id"]) == key:
            source[key] = canonical(found)
    unknown = [key for key in source if key not in table]
    near = _rows_of(warehouse, tables.raw, "document", [key for key in unknown if _bucket(key) in chosen])
    table |= {row["_id"]: row["document"] for row in near}
    others = [key for key in unknown if _bucket(key) not in chosen]
    there = {row["_id"] for row in _rows_of(warehouse, tables.raw, "position", others)}
    source = {key: document for key, document in source.items() if key not in there}
    counts = _source_counts(collection, sorted(table_counts))
    read_at = connections.operation_time(client)

    result = Reconciliation(name, position, datetime.fromtimestamp(read_at.time, UTC), ranges=len(counts))
    moved = _moved_on(hours, contract, position, read_at)
    result.sampled, result.found = len(source.keys() | table.keys()), len(there)
    result.partitions, result.document_partitions = len(sizes), len(chosen)
    for key in sorted(source.keys() | table.keys()):
        if source.get(key) == table.get(key):
            continue
        if key in moved:
            result.moved_on += 1
        else:
            result.differences.append(Difference(key, source.get(key), table.get(key)))
    in_flight: dict[date, int] = {}
    for key in moved:
        bucket = _bucket(key)
        in_flight[bucket] = in_flight.get(bucket, 0) + 1
    result.source_documents = sum(counts.values())
    result.table_documents = sum(count for count, _ in table_counts.values())
    hashed = [bucket for bucket in table_counts if bucket.year >= 2200]
    for label, ours, theirs, flying in [
        *(
            (bucket.isoformat()[:7], table_counts[bucket][0], counts[bucket.isoformat()], in_flight.get(bucket, 0))
            for bucket in table_counts
            if bucket.year < 2200
        ),
        (
            "other _ids",
            sum(table_counts[bucket][0] for bucket in hashed),
            counts["other"],
            sum(n for bucket, n in in_flight.items() if bucket.year >= 2200 or bucket not in table_counts),
        ),
    ]:
        if abs(ours - theirs) > flying:
            result.counts.append((label, theirs, ours, flying))
    typed = warehouse.query(
        "SELECT COUNTIF(t._id IS NULL OR r._id IS NULL OR r.position != t._position) AS behind, COUNTIF(left_over) AS unmapped "
        f"FROM (SELECT _id, position FROM `{tables.raw}` WHERE NOT deleted) AS r "
        "FULL JOIN (SELECT _id, _position, _unmapped IS NOT NULL AS left_over "
        f"FROM `{tables.typed}` WHERE NOT _deleted) AS t ON r._id = t._id",
        name="cdc_reconcile",
    ).rows[0]
    result.typed_behind, result.unmapped = typed["behind"], typed["unmapped"]
    return result


def _chosen(sizes: Mapping[date, int], sample: int, rng: random.Random) -> list[date]:
    """Partitions to read documents of: at random by their size, at least PARTITIONS, and enough for the sample."""
    by_chance = sorted(sizes, key=lambda bucket: rng.random() ** (1 / sizes[bucket]), reverse=True)
    chosen: list[date] = []
    while by_chance and (len(chosen) < PARTITIONS or sum(sizes[one] for one in chosen) < sample):
        chosen.append(by_chance.pop(0))
    return sorted(chosen)


def _documents_sql(
    warehouse: Warehouse,
    raw: str,
    chosen: Sequence[date],
    sizes: Mapping[date, int],
    rng: random.Random,
    sample: int | None,
) -> str:
    """Statement of the documents to compare: all of the chosen partitions, or where these hold many more than the sample, a range of
    neighbouring keys of each, whose ends are found among the keys alone and then stand in the statement for BigQuery to prune by."""
    buckets = sql.dates([one.isoformat() for one in chosen])
    whole = f"SELECT _id, document FROM `{raw}` WHERE NOT deleted AND bucket IN ({buckets})"
    if sample is None or len(chosen) > PARTITIONS:
        return whole
    many = -(-sample // max(1, len(chosen)))
    starts = [(one.isoformat(), rng.randint(1, max(1, sizes[one] - many + 1))) for one in chosen]
    places = ", ".join(f"STRUCT(DATE '{bucket}' AS bucket, {start} AS start)" for bucket, start in starts)
    if not places:
        return whole
    ends = warehouse.query(
        f"SELECT k.bucket, MIN(k._id) AS first, MAX(k._id) AS last FROM (\n"
        f"  SELECT bucket, _id, ROW_NUMBER() OVER (PARTITION BY bucket ORDER BY _id) AS place\n"
        f"  FROM `{raw}` WHERE NOT deleted AND bucket IN ({buckets})\n"
        f") AS k JOIN UNNEST([{places}]) AS p ON k.bucket = p.bucket\n"
        f"WHERE k.place >= p.start AND k.place < p.start + {many} GROUP BY k.bucket",
        name="cdc_reconcile",
    ).rows
    return (
        "\nUNION ALL\n".join(
            f"SELECT _id, document FROM `{raw}` WHERE NOT deleted AND bucket = DATE '{row['bucket']}'"
            f" AND _id BETWEEN {sql.text(row['first'])} AND {sql.text(row['last'])}"
            for row in ends
        )
        or whole
    )


def _rows_of(warehouse: Warehouse, raw: str, column: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    if not keys:
        return []
    buckets = sql.dates(sorted({bucket_of(key) for key in keys}))
    return warehouse.query(
        f"SELECT _id, {column} FROM `{raw}` WHERE NOT deleted AND bucket IN ({buckets}) AND _id IN UNNEST(@keys)",
        {"keys": list(keys)},
        name="cdc_reconcile",
    ).rows


def _bucket(key: str) -> date:
    return date.fromisoformat(bucket_of(key))


def _source_counts(collection: Any, buckets: Iterable[date]) -> dict[str, int]:
    """Documents of each ObjectId month of the table, and all others: ranges of the `_id` index, none of them read twice."""
    counts: dict[str, int] = {}
    for bucket in buckets:
        if bucket.year >= 2200:
            continue
        start = datetime(bucket.year, bucket.month, 1, tzinfo=UTC)
        end = datetime(bucket.year + bucket.month // 12, bucket.month % 12 + 1, 1, tzinfo=UTC)
        limits = {"$gte": ObjectId.from_datetime(start)}
        if end.timestamp() < 2**32:  # the month in which an ObjectId's seconds run out has no end
            limits["$lt"] = ObjectId.from_datetime(end)
        counts[bucket.isoformat()] = collection.count_documents({"_id": limits})
    counts["other"] = collection.count_documents({}) - sum(counts.values())
    return counts


def _moved_on(hours: CollectionHours, contract: CollectionContract, position: str, read_at: Timestamp) -> set[str]:
    """Keys of the changes that were landed after the table's position, up to the time at which the source was read."""
    name = contract.namespace
    deadline = time.monotonic() + PASS_SECONDS
    while True:
        found = hours.states().get(name)
        if found is None:
            raise PlatformError("no capture has taken it up yet", where=name, fix="run `dataplatform cdc capture`")
        if found[0].passed >= (read_at.time, read_at.inc):
            break
        holder = found[0].holder
        if time.monotonic() > deadline or holder is None or not holder.alive:
            raise NotReachedError(
                f"the capture has not reached {datetime.fromtimestamp(read_at.time, UTC):%H:%M:%S}, when the source was read",
                where=name,
                fix="let `dataplatform cdc capture` run while it is compared, or start one with `--until` a minute from now beside it",
            )
        time.sleep(KEPT_SECONDS)
    landing = hours.landings[name]
    since = floor_hour(Position.parse(position).time) if position else None
    keys: set[str] = set()
    for hour in landing.states(since):
        for file in landing.files(hour):
            keys |= _keys_after(landing, file, position)
    return keys


def _keys_after(landing: Landing, file: LandedFile, position: str) -> set[str]:
    return {
        change.key
        for line in gzip.decompress(landing.read(file)).splitlines()
        if (change := changes.decode(line)).key is not None and change.position > position
    }


def repair(
    settings: Settings, hours: CollectionHours, contract: CollectionContract, keys: Iterable[str]
) -> tuple[str, int]:
    """Land the present state of these documents as corrections; (file, how many). Applied like every other change.

    Each correction has the position that the source had reached before its document was read, so a change after that
    still wins.
    """
    uri = connections.uri_of(settings, contract.connection)
    client = connections.connect(settings, contract.connection, uri=uri)
    try:
        collection = client[contract.database].get_collection(contract.collection, codec_options=CODEC)
        now = connections.operation_time(client)
        position = Position.reached(now)
        at = time_text(time.time_ns() // 1_000_000)
        lines = []
        for key in sorted(set(keys)):
            found: Mapping[str, Any] | None = collection.find_one({"_id": parse(key)})
            if found is not None and canonical(found["_id"]) != key:
                found = None  # a number that compares equal, of another type
            lines.append(
                encode(
                    Change(
                        "delete" if found is None else "replace",
                        key,
                        str(position),
                        time_text(now.time * 1000),
                        at,
                        None if found is None else canonical(found),
                        detail="repair",
                        bucket=bucket_of(key),
                        looked_up=str(Position.reached(connections.operation_time(client))),
                    )
                )
            )
    except PyMongoError as error:
        raise connections.source_error(error, contract.connection, uri) from error
    finally:
        client.close()
    landing = hours.landings[contract.namespace]
    hour = floor_hour(position.time)
    data = gzip.compress(b"\n".join(lines) + b"\n", mtime=0)
    file = landing.put(hour, f"repair-{time.time_ns()}.ndjson.gz", data)
    return file.uri(landing), len(lines)


__all__ = ["Difference", "HourState", "Reconciliation", "reconcile", "repair"]
