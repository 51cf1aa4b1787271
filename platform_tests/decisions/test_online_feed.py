"""Landed events reach the online features once in effect: refused ones, repetitions, restarts, lateness."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dataplatform.decisions import stream
from dataplatform.decisions.stream import Feed
from dataplatform.events.received import Record, encode_record
from dataplatform.fraud.features import UNITS
from dataplatform.fraud.values import micros, time_text
from dataplatform.landing import hour_of, open_landing
from dataplatform.settings import Settings

SCHEMAS = Path(__file__).parents[2] / "schemas"
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


def record(number, event_id, received, amount="250.5", account="12345678", **envelope):
    event = {
        "event": "send_transfer_pay",
        "event_id": event_id,
        "event_time": time_text(micros(received)),
        "user_id": "u1",
        "device_id": "d1",
        "params": {
            "transfer_id": "tr_0123456789abcdef",
            "amount": amount,
            "currency": "KRW",
            "sender": {"account_no": "99999999"},
            "receiver": {"account_no": account},
            "method": "balance",
            "is_first": True,
        },
    } | envelope
    return encode_record(Record(received, "test", event["event"], event_id, json.dumps(event), [], "f", number))


@pytest.fixture
def settings(tmp_path):
    return Settings(env="local", data_dir=tmp_path, schemas_dir=SCHEMAS, first_hour=datetime(2026, 1, 1, tzinfo=UTC))


def test_landed_events_become_features_once(settings):
    landing = open_landing(settings, "events")
    first, second = f"{NOW:%Y-%m-%dT%H:%M:%S}.000000Z", f"{NOW:%Y-%m-%dT%H:%M:%S}.000001Z"
    sent = time_text(micros(second) + 60_000_000)
    lines = [
        record(1, "a", first),
        record(2, "b", second, account="22222222", sent_at=sent),
        record(3, "a", second, amount="9999"),
        record(4, "refused", second, currency=5, params={"amount": -1}),
        record(5, "refused", second),
    ]
    landing.put(hour_of(NOW), "w-0001.ndjson", b"\n".join(lines) + b"\n")
    feed = Feed(settings)
    assert feed.run_once() == 3
    assert feed.run_once() == 0
    now = micros(second) + UNITS["minutes"]
    found = feed.states["user"].features("u1", now)
    assert (found["transfers_1h"], float(found["transferred_1h"]), found["receivers_24h"]) == (2, 501.0, 2)
    assert feed.states["receiver"].features("12345678", now)["transfers_1h"] == 1
    # b's clock was a minute ahead when it was sent: it happened a minute before it was received.
    assert feed.states["receiver"].features("22222222", micros(second) - 60_000_000 + 2)["transfers_1h"] == 1
    feed.close()
    again = Feed(settings)
    assert again.run_once() == 0
    assert again.events(b"\n".join(lines)) == 0
    landing.put(hour_of(NOW), "w-0002.ndjson", record(1, "c", second) + b"\n")
    assert again.run_once() == 1
    assert again.states["user"].features("u1", now)["transfers_1h"] == 3
    again.close()


def test_files_of_earlier_hours_are_found_a_little_later(settings, monkeypatch):
    """Every look sees the newest hours; what is landed in an hour long over is seen within seconds, not at once."""
    landing = open_landing(settings, "events")
    feed = Feed(settings)
    feed.run_once()
    now = [1000.0]
    monkeypatch.setattr(stream.time, "monotonic", lambda: now[0])
    feed.run_once()
    old = NOW - timedelta(hours=8)
    landing.put(hour_of(old), "w-0001.ndjson", record(1, "old", f"{old:%Y-%m-%dT%H:%M:%S}.000000Z") + b"\n")
    landing.put(hour_of(NOW), "w-0001.ndjson", record(1, "new", f"{NOW:%Y-%m-%dT%H:%M:%S}.000000Z") + b"\n")
    assert feed.run_once() == 1
    now[0] += stream.REREAD_SECONDS
    assert feed.run_once() == 1
    assert feed.run_once() == 0
    feed.close()


def test_what_no_clock_or_a_wrong_one_dates_happened_when_it_was_received(settings):
    """As in history: a device's clock that says nothing, a time to come, or one before the year 1."""
    received = f"{NOW:%Y-%m-%dT%H:%M:%S}.000000Z"
    lines = [
        record(1, "none", received, event_time=None),
        record(2, "ahead", received, event_time="2099-01-01T00:00:00Z"),
        record(3, "odd", received, event_time="0001-01-01T00:00:00Z", sent_at="9999-12-31T00:00:00Z"),
    ]
    feed = Feed(settings)
    assert feed.events(b"\n".join(lines)) == 3
    at = micros(received)
    assert [feed.states["user"].features("u1", at + after)["transfers_1h"] for after in (0, 1)] == [0, 3]
    feed.close()
