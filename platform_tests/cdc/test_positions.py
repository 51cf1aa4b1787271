"""Positions order as text; ordinals go on counting over a resume in the middle of a transaction; keys have one partition."""

import json

from bson import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.cdc.buckets import bucket_of
from dataplatform.cdc.positions import Ordinals, Position

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
