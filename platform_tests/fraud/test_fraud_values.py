"""Values at the edges of their types: read exactly, or refused, and never a fault."""

from decimal import Decimal

import pytest

from dataplatform.fraud.features import parse_entity
from dataplatform.fraud.moments import read_events, read_moments
from dataplatform.fraud.values import ValueProblem, nine_places, read_value

ENTITY = """
entity: user
key: user_id
features:
  - {name: sent, event: pay, aggregation: sum, of: amount, type: NUMERIC, window: 1h}
"""


@pytest.mark.parametrize(
    "number",
    [12345678901234567890, -(10**29) + 1, Decimal("99999999999999999999999999999.999999999"), 1e28, 1e-9, -0.0, 0.1],
)
def test_every_numeric_is_read_exactly(number):
    assert read_value(number, "NUMERIC") == Decimal(str(number))


@pytest.mark.parametrize("number", [10**29, -(10**29), 10**400, 1e300, 1e-10, 1e-300, Decimal("1e-999999")])
def test_what_no_numeric_holds_is_refused(number):
    with pytest.raises(ValueProblem) as refused:
        read_value(number, "NUMERIC")
    assert refused.value.code == "out_of_range"


def test_a_float_is_rounded_to_nine_places_as_sql_does():
    assert nine_places(0.1234567895) == Decimal("0.123456790")
    assert nine_places(12345678901234567890.0) == Decimal("12345678901234567000")
    assert nine_places(1e300) == 1e300


def test_large_amounts_of_an_events_file(tmp_path):
    file = tmp_path / "events.ndjson"
    line = '{"event": "pay", "event_time": "2026-01-01T10:00:00Z", "user_id": "a", "amount": %s}\n'
    file.write_text("".join(line % amount for amount in ("12345678901234567890", "1e28")))
    events = read_events(file, parse_entity(ENTITY))
    assert [event.values["amount"] for event in events] == [12345678901234567890, Decimal("1e28")]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    file = tmp_path / "at.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"user_id": "a", "time": "2026-01-01T10:00:00Z"}\n')
    assert [moment.key for moment in read_moments(file, parse_entity(ENTITY))] == ["a"]
