"""Positions order as text; ordinals go on counting over a resume in the middle of a transaction; keys have one partition."""

import json

import pytest
from bson import Timestamp
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.cdc.buckets import bucket_of
from dataplatform.cdc.changes import decode
from dataplatform.cdc.events import landable
from dataplatform.cdc.positions import Ordinals, Position
from dataplatform.cdc.schema import empty, evolve
from dataplatform.cdc.shapes import seen_of, shape_of
from dataplatform.cdc.sql import Tables, raw_sql, typed_sql
from dataplatform.cdc.state import hour_of_position

PARTS = st.builds(Position, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 9_999_999))


@given(PARTS, PARTS)
def test_text_orders_as_the_position(one: Position, other: Position) -> None:
    assert (str(one) < str(other)) == (one < other)
    assert Position.parse(str(one)) == one


EVENTS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["a.x", "a.y"])), max_size=20).map(sorted)


@given(EVENTS, st.integers(0, 20))
def test_mid_transaction_resume_goes_on_counting(events: list[tuple[int, str]], cut: int) -> None:
    def count(ordinals: Ordinals, some: list[tuple[int, str]]) -> list[Position]:
        return [ordinals.next(Timestamp(1, i), namespace) for i, namespace in some]

    whole = count(Ordinals(), events)
    first = Ordinals()
    begun = count(first, events[:cut])
    resumed = Ordinals.load(json.loads(json.dumps(first.dump())))
    assert begun + count(resumed, events[cut:]) == whole


@given(EVENTS)
def test_other_collections_do_not_change_ordinals(events: list[tuple[int, str]]) -> None:
    both = Ordinals()
    mixed = [(both.next(Timestamp(1, i), namespace), namespace) for i, namespace in events]
    alone = Ordinals()
    only = [alone.next(Timestamp(1, i), namespace) for i, namespace in events if namespace == "a.x"]
    assert [position for position, namespace in mixed if namespace == "a.x"] == only


def test_partition_of_a_key() -> None:
    assert bucket_of('{"$oid":"6b05381b5ceab495e96d2fbe"}') == "2026-11-01"
    assert bucket_of('{"$oid":"000000000000000000000000"}') == "1970-01-01"
    assert bucket_of('{"$oid":"ffffffffffffffffffffffff"}') == "2106-02-01"
    others = {bucket_of(f'{{"$numberInt":"{number}"}}') for number in range(5000)}
    assert len(others) == 256
    assert min(others) == "2200-01-01"
    assert max(others) == "2221-04-01"


def test_the_clock_is_the_sources() -> None:
    """The hour of a change is that of its cluster time, `changed_at` the source's wall time, `captured_at` ours."""
    event = {
        "operationType": "insert",
        "ns": {"db": "a", "coll": "x"},
        "clusterTime": Timestamp(1_795_503_600, 1),  # 07:00:00
        "wallTime": DatetimeMS(1_795_503_599_999),
        "documentKey": {"_id": 1},
        "fullDocument": {"_id": 1},
    }
    (one,) = landable(event, Ordinals(), {"a.x"}, "2026-11-24T09:00:00.000Z")
    change = decode(one.line)
    assert hour_of_position(one.position).hour == 7
    assert (change.changed_at, change.captured_at) == ("2026-11-24T06:59:59.999Z", "2026-11-24T09:00:00.000Z")
    del event["wallTime"]  # before MongoDB 6.0
    (one,) = landable(event, Ordinals(), {"a.x"}, "")
    assert decode(one.line).changed_at == "2026-11-24T07:00:00.000Z"


@pytest.mark.parametrize("keep", [False, True])
def test_a_merge_names_the_partitions_of_its_changes_and_no_other(keep: bool) -> None:
    """What BigQuery prunes by: literal partitions of the target, in every MERGE that is not a sweep."""
    tables = Tables("p.d.raw", "p.d.history", "p.d.typed", "p.d.staging", "p.d.newest")
    root = evolve(empty(), seen_of([(shape_of('{"_id":"a","n":{"$numberInt":"1"}}'), 1)])).root
    buckets = ["2026-10-01", "2026-11-01"]
    listed = "IN (DATE '2026-10-01', DATE '2026-11-01')"
    raw = raw_sql(tables, buckets, "", sweep=False, keep_deleted=keep)
    assert f"ON t._id = s._id AND t.bucket = s.bucket\n  AND t.bucket {listed}\n" in raw
    typed = typed_sql(tables, root, buckets, "", sweep=False, keep_deleted=keep)
    assert f"ON t._id = s._id AND t._bucket = s._bucket\n  AND t._bucket {listed}\n" in typed
    assert f"AND r.bucket {listed}\n" in typed
    assert "NOT MATCHED BY SOURCE" not in raw + typed
