"""Segment's API: the mapping as a pure function, and the real SDK over a socket."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import segment.analytics as sdk
from segment.analytics.client import Client

from dataplatform.collector.bodies import Malformed
from dataplatform.collector.problems import Refusal
from dataplatform.collector.segment import EVENT_NAMES, event_of, messages_of, write_key_of
from dataplatform.contracts.load import load_contracts
from dataplatform.events.verdict import Judge
from platform_tests.collector.conftest import Running


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        (
            "track",
            '{"messageId":"m1","event":"like_item_shop","timestamp":"2026-01-31T10:00:00Z","sentAt":"2026-01-31T10:00:01Z",'
            '"userId":"u1","anonymousId":"d1","properties":{"item_id": "7", "price":1.00},"context":{"a": 1}}',
            '{"event_id":"m1","event":"like_item_shop","event_time":"2026-01-31T10:00:00Z","sent_at":"2026-01-31T10:00:01Z",'
            '"user_id":"u1","device_id":"d1","params":{"item_id": "7", "price":1.00},"context":{"a": 1}}',
        ),
        (None, '{"type":"track","event":"x","messageId":1}', '{"type":"track","event":"x","event_id":1}'),
        (
            None,
            '{"type":"identify","messageId":"m","traits":{"a":1},"properties":{"b":2}}',
            '{"event":"identify_user_segment","type":"identify","event_id":"m","params":{"a":1},"properties":{"b":2}}',
        ),
        (
            "page",
            '{"name":"Home","properties":{"p":1}}',
            '{"event":"view_page_segment","name":"Home","params":{"p":1}}',
        ),
        ("screen", '{"event":"mine"}', '{"event":"view_screen_segment","segment_event":"mine"}'),
        # What group and alias say beside their traits becomes a param, where it can.
        (
            "group",
            '{"groupId":"g","traits": {"plan": "x"}}',
            '{"event":"identify_group_segment","params":{"groupId":"g","plan": "x"}}',
        ),
        ("group", '{"groupId":"g","traits":null}', '{"event":"identify_group_segment","params":{"groupId":"g"}}'),
        ("group", '{"groupId":"g","traits": { }}', '{"event":"identify_group_segment","params":{"groupId":"g"}}'),
        ("group", '{"traits":{"a":1}}', '{"event":"identify_group_segment","params":{"a":1}}'),
        (
            "group",
            '{"groupId":"g","traits":{"groupId":"own"}}',
            '{"event":"identify_group_segment","groupId":"g","params":{"groupId":"own"}}',
        ),
        ("group", '{"groupId":"g","traits":[1]}', '{"event":"identify_group_segment","groupId":"g","params":[1]}'),
        (
            "alias",
            '{"previousId":"p","userId":"u"}',
            '{"event":"alias_user_segment","user_id":"u","params":{"previousId":"p"}}',
        ),
        (None, '{"type":"nonsense","messageId":"m"}', '{"type":"nonsense","event_id":"m"}'),
        ("track", '{"event":"x","writeKey":"secret"}', '{"event":"x"}'),
        ("track", '{"event":"x","session_id":"s","platform":"ios"}', '{"event":"x","session_id":"s","platform":"ios"}'),
        # Our names in a Segment message: theirs is mapped, ours is kept beside it.
        (
            "track",
            '{"messageId":"m","event_id":"other","params":{"a":1},"properties":{"b":2}}',
            '{"event_id":"m","segment_event_id":"other","segment_params":{"a":1},"params":{"b":2}}',
        ),
        ("track", '{"event_id":"mine","params":{"a":1}}', '{"event_id":"mine","params":{"a":1}}'),
        ("alias", '{"properties":{"a":1}}', '{"event":"alias_user_segment","properties":{"a":1}}'),
        # What the judge has to see as it came.
        ("track", '{"messageId":"a","messageId":"b","event":"x"}', '{"messageId":"a","messageId":"b","event":"x"}'),
        ("track", '{"messageId":"a","\\u006dessageId":"b"}', '{"messageId":"a","\\u006dessageId":"b"}'),
        ("track", '{"messageId":NaN}', '{"messageId":NaN}'),
        ("track", "5", "5"),
        ("track", '"\\ud800"', '"\\ud800"'),
        # A key that is also inside is not twice.
        ("track", '{"event":"x","properties":{"event":"y"}}', '{"event":"x","params":{"event":"y"}}'),
    ],
)
def test_a_message_as_an_event(kind: str | None, message: str, expected: str) -> None:
    assert event_of(message.encode(), kind).decode() == expected


def test_what_a_batch_says_counts_for_its_messages() -> None:
    body = (
        b'{"batch":[{"type":"track","event":"x","sentAt":"own"},{"type":"track","event":"y"}],'
        b'"sentAt":"shared","context":{"c":1},"writeKey":"k"}'
    )
    messages = messages_of(body, None)
    assert messages.write_key == "k"
    assert [json.loads(event) for event in messages.events] == [
        {"type": "track", "event": "x", "sent_at": "own", "context": {"c": 1}},
        {"type": "track", "event": "y", "sent_at": "shared", "context": {"c": 1}},
    ]


@pytest.mark.parametrize("spoilt", [b'{"a":NaN}', b'{"a":"half a pair \\ud83d"}'])
@pytest.mark.parametrize(
    "frame", [b'{"writeKey":"k","batch":[%b],"sentAt":"T"}', b'{"sentAt":"T","batch":[%b],"writeKey":"k"}']
)
def test_a_message_that_is_no_json_takes_nothing_from_its_batch(frame: bytes, spoilt: bytes) -> None:
    messages = messages_of(b"\xef\xbb\xbf" + frame % (spoilt + b',{"event":"y"}'), None)
    assert (messages.write_key, write_key_of(frame % spoilt)) == ("k", "k")
    assert messages.events[0] == spoilt
    assert json.loads(messages.events[1]) == {"event": "y", "sent_at": "T"}
    assert messages_of(b'{"event":"y","writeKey":"k","properties":%b}' % spoilt, "track").write_key == "k"


def test_too_many_messages_and_half_a_body() -> None:
    with pytest.raises(Refusal):
        messages_of(b'{"batch":[' + b",".join([b"{}"] * 1001) + b"]}", None)
    with pytest.raises(Malformed):
        messages_of(b'{"batch":[{}', None)


def test_every_call_that_has_no_event_name_has_a_contract() -> None:
    judge = Judge(load_contracts(Path(__file__).parents[2] / "schemas").events)
    message = (
        '{"messageId":"m","userId":"u","groupId":"g","previousId":"p","name":"n","traits":{"a":1},"properties":{"b":2}}'
    )
    for kind in EVENT_NAMES:
        verdict = judge.judge(event_of(message.encode(), kind))
        assert (verdict.event, verdict.reasons) == (EVENT_NAMES[kind], [])


def records_of(collector: Running, *ids: str) -> dict[str, dict[str, Any]]:
    return {record["event_id"]: record for record in collector.landed() if record["event_id"] in ids}


@pytest.mark.parametrize("zipped", [False, True])
def test_the_python_sdk_works_unchanged(collector: Running, zipped: bool) -> None:
    errors: list[Any] = []
    client = Client(
        "local",
        host=collector.url,
        gzip=zipped,
        on_error=lambda error, batch: errors.append(error),
        max_retries=1,
        upload_size=7,
    )
    prefix = f"sdk-{zipped}"
    for number in range(20):
        client.track(
            "user-1", "like_item_shop", {"item_id": "7", "place": number}, message_id=f"{prefix}-{number}",
            timestamp=datetime(2026, 1, 31, 10, tzinfo=UTC),
        )  # fmt: skip
    client.identify("user-1", {"name": "é"}, message_id=f"{prefix}-identify")
    client.page("user-1", "shop", "home", {"p": 1}, message_id=f"{prefix}-page")
    client.screen("user-1", "shop", "home", message_id=f"{prefix}-screen")
    client.group("user-1", "g1", {"plan": "x"}, message_id=f"{prefix}-group")
    client.alias("old", "user-1", message_id=f"{prefix}-alias")
    client.flush()
    client.join()
    assert errors == []
    records = {
        record["event_id"]: record for record in collector.landed() if str(record["event_id"]).startswith(f"{prefix}-")
    }
    assert len(records) == 25
    track = json.loads(records[f"{prefix}-3"]["payload"])
    assert (track["event"], track["params"], track["user_id"]) == (
        "like_item_shop",
        {"item_id": "7", "place": 3},
        "user-1",
    )
    assert track["event_time"].startswith("2026-01-31T10:00:00")
    assert track["sent_at"]
    assert track["context"]["library"]["name"] == "analytics-python"
    assert "messageId" not in track
    names = {
        key.removeprefix(f"{prefix}-"): record["event"] for key, record in records.items() if not key[-1].isdigit()
    }
    assert names == {
        "identify": "identify_user_segment",
        "page": "view_page_segment",
        "screen": "view_screen_segment",
        "group": "identify_group_segment",
        "alias": "alias_user_segment",
    }
    assert all(record["source"] == "local" and record["faults"] == [] for record in records.values())


def test_the_sdk_is_told_that_its_write_key_is_unknown(collector: Running) -> None:
    errors: list[Any] = []
    client = Client("nobody", host=collector.url, on_error=lambda error, batch: errors.append(error), max_retries=0)
    client.track("user-1", "like_item_shop", {"item_id": "7"})
    client.flush()
    client.join()
    assert len(errors) == 1
    assert "401" in str(errors[0]) or "unknown" in str(errors[0])
    assert sdk.__name__


@pytest.mark.parametrize("call", ["track", "identify", "page", "screen", "group", "alias", "batch", "import"])
def test_every_call_is_taken(collector: Running, call: str) -> None:
    one = f"call-{call}"
    message = {"messageId": one, "userId": "u", "event": "like_item_shop", "properties": {"item_id": "7"}}
    body = {"batch": [message | {"type": "track"}]} if call in ("batch", "import") else message
    answer = httpx.post(f"{collector.url}/v1/{call}", json=body, auth=("local", ""))
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    assert answer.json()["received"] == 1
    assert one in records_of(collector, one)


def test_a_browser_sends_the_key_in_the_body(collector: Running) -> None:
    answer = httpx.post(f"{collector.url}/v1/track", json={"messageId": "browser", "event": "x", "writeKey": "local"})
    assert answer.json()["received"] == 1
    assert "local" not in records_of(collector, "browser")["browser"]["payload"]
    assert httpx.post(f"{collector.url}/v1/track", json={"event": "x"}).status_code == 401


def test_a_malformed_segment_body_is_400_and_kept(collector: Running) -> None:
    key = base64.b64encode(b"local:").decode()
    answer = httpx.post(f"{collector.url}/v1/batch", content=b'{"batch":[{]', headers={"Authorization": f"Basic {key}"})
    assert (answer.status_code, answer.json()["offset"]) == (400, 11)
    assert [record for record in collector.landed() if record["payload"] == '{"batch":[{]']


@pytest.mark.parametrize(
    "message", [b'{"messageId":"u","\xff":1}', b'{"messageId":"u","event":"\xff","writeKey":"\xff"}']
)
def test_a_message_that_is_not_utf8_is_kept_and_refused(collector: Running, message: bytes) -> None:
    for path, body in (("/v1/track", message), ("/v1/batch", b'{"batch":[%b]}' % message)):
        answer = collector.post(body, path)
        assert (answer.status_code, answer.json()["errors"][0]["errors"][0]["code"]) == (200, "not_json")
        assert httpx.post(collector.url + path, content=body).status_code == 401
    text = event_of(message, "track").decode("utf-8", "replace")
    assert [record["payload"] for record in collector.landed()].count(text) == 2
