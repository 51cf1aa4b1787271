"""Which documents a comparison reads: short ranges of keys of a few partitions, whatever the table's size."""

import random
from collections.abc import Callable
from datetime import date

from bson import ObjectId
from source_lab import Lab

from dataplatform.cdc.buckets import bucket_of
from dataplatform.cdc.extended_json import canonical
from dataplatform.cdc.reconcile import PARTITIONS, _chosen, _documents_sql, _source_counts
from dataplatform.cdc.sql import text
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse

MONTHS, EACH = 24, 40


def test_documents_are_read_of_short_ranges_in_few_partitions(settings_for: Callable[..., Settings]) -> None:
    warehouse = Warehouse(settings_for())
    raw = warehouse.table_id("sampled", "docs")
    keys = [
        canonical(ObjectId(f"{1_600_000_000 + month * 2_700_000:08x}{number:016x}"))
        for month in range(MONTHS)
        for number in range(EACH)
    ]
    rows = ", ".join(f"({text(key)}, 'd', FALSE, DATE '{bucket_of(key)}')" for key in keys)
    warehouse.script(
        f"CREATE SCHEMA `{warehouse.dataset_id('sampled')}`;"
        f"CREATE TABLE `{raw}` (_id STRING, document STRING, deleted BOOL, bucket DATE); INSERT INTO `{raw}` VALUES {rows}"
    )
    sizes: dict[date, int] = {}
    for key in keys:
        bucket = date.fromisoformat(bucket_of(key))
        sizes[bucket] = sizes.get(bucket, 0) + 1
    for seed in range(3):
        rng = random.Random(seed)
        chosen = _chosen(sizes, 30, rng)
        statement = _documents_sql(warehouse, raw, chosen, sizes, rng, 30)
        found = [row["_id"] for row in warehouse.query(statement).rows]
        assert len(chosen) == PARTITIONS
        assert len(found) == 30 == len(set(found))
        assert {bucket_of(key) for key in found} == {one.isoformat() for one in chosen}
        assert statement.count("_id BETWEEN") == PARTITIONS
    small = dict.fromkeys(sizes, 1)
    assert len(_chosen(small, 200, random.Random(1))) == len(small), "a small table is compared as a whole"
    everything = _documents_sql(warehouse, raw, sorted(sizes), sizes, random.Random(1), None)
    assert len(warehouse.query(everything).rows) == len(keys)


def test_the_last_month_of_object_ids_has_no_end(lab: Lab) -> None:
    """Their four bytes of seconds end in February 2106."""
    last = ObjectId("f" * 24)
    lab.db.docs.insert_many([{"_id": last}, {"_id": ObjectId("0" * 24)}, {"_id": "text"}, {"_id": 7}])
    months = [date.fromisoformat(bucket_of(canonical(one))) for one in (ObjectId("0" * 24), last)]
    assert _source_counts(lab.db.docs, months) == {"1970-01-01": 1, "2106-02-01": 1, "other": 2}
