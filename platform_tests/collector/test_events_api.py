import base64
import gzip
import json
import uuid
from typing import Any

import httpx
import pytest

from platform_tests.collector.conftest import Running, event


def new_id() -> str:
    return uuid.uuid4().hex


def records_of(collector: Running, *ids: str) -> list[dict[str, Any]]:
    return [record for record in collector.landed() if record["event_id"] in ids]


def test_one_event_is_landed_as_the_text_that_arrived(collector: Running) -> None:
    one = new_id()
    text = (
        f'{{"event_id": "{one}", "event":"like_item_shop",  "event_time":"2026-01-31T10:00:00Z",'
        '"params":{"item_id":"é\\u00e9","x":1.00}}'
    )
    answer = collector.post(text)
    assert answer.status_code == 200
    assert answer.json() == {"received": 1, "accepted": 1, "refused": 0, "errors": []}
    (record,) = records_of(collector, one)
    assert record["payload"] == text
    assert (record["source"], record["event"], record["faults"]) == ("local", "like_item_shop", [])
    assert record["received_at"].endswith("Z")
    assert len(record["received_at"]) == 27


@pytest.mark.parametrize("shape", ["batch", "array"])
def test_a_batch_gets_a_verdict_for_each_event_and_all_are_stored(collector: Running, shape: str) -> None:
    good, bad, unknown, broken = (new_id() for _ in range(4))
    texts = [
        json.dumps(event(good)),
        json.dumps(event(bad, params={"place": -1})),
        json.dumps(event(unknown, event="no_such_event")),
        f'{{"event_id":"{broken}","event":"like_item_shop","event":"like_item_shop"}}',
    ]
    body = f"[{', '.join(texts)}]" if shape == "array" else f'{{"batch": [{",".join(texts)}], "other": 1}}'
    answer = collector.post(body).json()
    assert {name: answer[name] for name in ("received", "accepted", "refused")} == {
        "received": 4,
        "accepted": 1,
        "refused": 3,
    }
    assert [(error["index"], error["event_id"], error["event"]) for error in answer["errors"]][:2] == [
        (1, bad, "like_item_shop"),
        (2, unknown, "no_such_event"),
    ]
    reasons = [{(reason["pointer"], reason["code"]) for reason in error["errors"]} for error in answer["errors"]]
    assert reasons[0] == {("/params/item_id", "missing"), ("/params/place", "too_small")}
    assert reasons[1] == {("/event", "unknown_event")}
    assert ("/event", "duplicate_key") in reasons[2]
    assert all(reason["message"] for error in answer["errors"] for reason in error["errors"])
    stored = [record["payload"] for record in collector.landed()]
    assert all(text in stored for text in texts)


def test_an_event_that_is_not_json_does_not_spoil_its_neighbours(collector: Running) -> None:
    first, last = new_id(), new_id()
    spoilt = ['{"event_id":"x","params":{"a":NaN}}', '"\\ud800"', '{"a":01}']
    body = f'{{"batch":[{json.dumps(event(first))},{",".join(spoilt)}, {json.dumps(event(last))}]}}'
    answer = collector.post(body).json()
    assert (answer["received"], answer["accepted"], answer["refused"]) == (5, 2, 3)
    assert [error["index"] for error in answer["errors"]] == [1, 2, 3]
    stored = [record["payload"] for record in collector.landed()]
    assert all(text in stored for text in spoilt)


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        ("[1,,2]", 3),
        ('{"batch":[{"event_id":"1"}', 26),
        ("not json", 1),
        ('[{"event":"x"}] more', 17),
        ('{"batch":[1]', 12),
    ],
)
def test_a_malformed_body_is_400_with_the_offset_and_is_kept(collector: Running, body: str, offset: int) -> None:
    answer = collector.post(body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"], problem["offset"]) == (400, "not_json", offset)
    assert problem["fix"]
    kept = [record for record in collector.landed() if record["payload"] == body]
    assert kept
    assert (kept[0]["event"], kept[0]["event_id"]) == ("", None)
    assert [fault["code"] for fault in kept[0]["faults"]] == ["not_json"]


def test_bytes_that_are_not_utf8_are_kept_and_refused(collector: Running) -> None:
    answer = collector.post(b'[{"event_id":"\xff\xfe-bytes"}]').json()
    assert answer["refused"] == 1
    assert answer["errors"][0]["errors"][0]["code"] == "not_json"
    assert [record for record in collector.landed() if record["payload"] == '{"event_id":"��-bytes"}']


@pytest.mark.parametrize(
    ("body", "received"), [("[]", 0), ('{"batch":[]}', 0), ("5", 1), ('{"batch":5}', 1), ("[[1]]", 1)]
)
def test_bodies_at_the_edge(collector: Running, body: str, received: int) -> None:
    answer = collector.post(body).json()
    assert (answer["received"], answer["accepted"]) == (received, 0)


@pytest.mark.parametrize("body", ["", "   "])
def test_an_empty_body_is_400(collector: Running, body: str) -> None:
    assert collector.post(body).status_code == 400


def test_a_batch_that_is_there_twice_is_400(collector: Running) -> None:
    assert collector.post('{"batch":[1],"batch":[2]}').json()["code"] == "two_batches"


def test_a_byte_order_mark_is_no_fault(collector: Running) -> None:
    assert collector.post(b"\xef\xbb\xbf[]").status_code == 200


def test_a_thousand_events_are_taken_and_one_more_is_413(collector: Running) -> None:
    events = [event(new_id()) for _ in range(1000)]
    assert collector.post(json.dumps(events)).json()["accepted"] == 1000
    answer = collector.post(json.dumps([*events, event(new_id())]))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "1000 events" in answer.json()["fix"]
    assert collector.post(b"[" + b"1," * 2_000_000 + b"1]").status_code == 413


def test_a_body_over_four_mebibytes_is_413(collector: Running) -> None:
    small = json.dumps(event(new_id(), params={"item_id": "7", "x": ""}))
    fits = small.replace('"x": ""', '"x": "' + "y" * ((4 << 20) - len(small)) + '"')
    assert len(fits) == 4 << 20
    assert collector.post(fits).status_code == 200
    answer = collector.post(fits + " ")
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_gzip(collector: Running) -> None:
    one, two = new_id(), new_id()
    body = gzip.compress(json.dumps(event(one)).encode())
    assert collector.post(body, content_encoding="gzip").json()["accepted"] == 1
    parts = gzip.compress(f"[{json.dumps(event(two))}".encode()) + gzip.compress(b"]")
    assert collector.post(parts, content_encoding="gzip").json()["accepted"] == 1
    assert len(records_of(collector, one, two)) == 2


def test_a_gzip_bomb_is_413(collector: Running) -> None:
    bomb = gzip.compress(b"[" + b" " * (1 << 26) + b"]", compresslevel=9)
    assert len(bomb) < 4 << 20
    answer = collector.post(bomb, content_encoding="gzip")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    many = gzip.compress(b" " * (4 << 20)) * 100
    assert collector.post(many, content_encoding="gzip").status_code == 413


@pytest.mark.parametrize(
    "body",
    [b"not gzip", gzip.compress(b"[" + b"1," * 5000 + b"1]", mtime=0)[:-20], gzip.compress(b"[]", mtime=0) + b"tail"],
)
def test_what_is_no_gzip_or_half_of_one_is_400(collector: Running, body: bytes) -> None:
    assert collector.post(body, content_encoding="gzip").json()["code"] == "bad_gzip"


def test_an_unknown_encoding_is_415(collector: Running) -> None:
    answer = collector.post(b"[]", content_encoding="br")
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, identity")


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "query", "body"),
    [
        (basic("local:"), "", "[]"),
        (basic("local"), "", "[]"),
        ({"Authorization": "Bearer local"}, "", "[]"),
        ({"X-Write-Key": "local"}, "", "[]"),
        ({}, "?writeKey=local", "[]"),
        ({}, "?a=b&writeKey=lo%63al&c", "[]"),
        ({}, "", '{"batch":[],"writeKey":"local"}'),
    ],
)
def test_ways_to_give_the_write_key(collector: Running, headers: dict[str, str], query: str, body: str) -> None:
    assert httpx.post(f"{collector.url}/v1/events{query}", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "query", "body"),
    [
        ({}, "", "[1]"),
        ({"X-Write-Key": "nobody"}, "", "[1]"),
        ({"X-Write-Key": ""}, "", "[1]"),
        (basic("nobody:"), "", "[1]"),
        ({"Authorization": "Basic ###"}, "", "[1]"),
        ({"Authorization": "Digest x"}, "", "[1]"),
        ({}, "?writeKey=%ff", "[1]"),
        ({}, "", '{"batch":[1],"writeKey":"nobody"}'),
        ({}, "", '{"batch":[1],"writeKey":5}'),
    ],
)
def test_an_unknown_write_key_is_401_and_nothing_is_stored(
    collector: Running, headers: dict[str, str], query: str, body: str
) -> None:
    before = collector.metrics()["collector_commits_total"]
    answer = httpx.post(f"{collector.url}/v1/events{query}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unknown_write_key")
    assert "www-authenticate" in answer.headers
    assert collector.metrics()["collector_commits_total"] - before <= 1


def test_browsers_may_send(collector: Running) -> None:
    answer = httpx.options(
        f"{collector.url}/v1/events",
        headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"},
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "X-Write-Key" in answer.headers["access-control-allow-headers"]
    for body in ("[]", "[1,,"):
        assert collector.post(body, origin="https://shop.example").headers["access-control-allow-origin"] == "*"
    assert httpx.post(f"{collector.url}/v1/events").headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/events", 405, "POST, OPTIONS"),
        ("PUT", "/v1/batch", 405, "POST, OPTIONS"),
        ("POST", "/healthz", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/v2/events", 404, None),
        ("POST", "/", 405, "GET, HEAD, OPTIONS"),
    ],
)
def test_places_that_are_not_there(collector: Running, method: str, path: str, status: int, allow: str | None) -> None:
    answer = httpx.request(method, collector.url + path)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
    assert answer.headers["content-type"] == "application/problem+json"


def test_health_readiness_and_metrics(collector: Running) -> None:
    assert httpx.get(f"{collector.url}/healthz").json() == {"alive": True}
    head = httpx.head(f"{collector.url}/healthz")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "14")
    ready = httpx.get(f"{collector.url}/readyz").json()
    assert (ready["ready"], ready["contracts"]) == (True, {"in_force": 1, "problems": [], "failure": None})
    before = collector.metrics()
    collector.post(json.dumps([event(new_id()), event(new_id(), params={})]))
    after = collector.metrics()
    assert {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name) and "_total" in name
    } == {
        'collector_requests_total{status="200"}': 2,
        'collector_received_events_total{source="local"}': 2,
        'collector_accepted_events_total{source="local"}': 1,
        'collector_refused_events_total{source="local"}': 1,
        'collector_reasons_total{code="missing"}': 1,
        "collector_received_bytes_total": after["collector_received_bytes_total"]
        - before["collector_received_bytes_total"],
        "collector_commits_total": after["collector_commits_total"] - before["collector_commits_total"],
    } | {
        name: after[name] - before[name] for name in ("collector_finished_files_total",) if after[name] != before[name]
    }
    assert after["collector_contracts"] == 1
    assert after['collector_request_seconds_bucket{le="+Inf"}'] == after["collector_request_seconds_count"]
    assert {"collector_open_file_age_seconds", "collector_lag_seconds", "collector_free_bytes"} <= after.keys()


def test_received_at_is_not_taken_from_the_request_by_default(collector: Running) -> None:
    one = new_id()
    collector.post(json.dumps(event(one)), x_received_at="2020-01-01T00:00:00Z")
    assert not records_of(collector, one)[0]["received_at"].startswith("2020")


def test_received_at_never_goes_back(collector: Running) -> None:
    ids = [new_id() for _ in range(50)]
    with collector.client() as client:
        for one in ids:
            client.post("/v1/events", json=event(one))
    times = {record["event_id"]: record["received_at"] for record in collector.landed()}
    assert [times[one] for one in ids] == sorted(times[one] for one in ids)


def test_the_same_event_twice_is_landed_twice(collector: Running) -> None:
    one = new_id()
    for _ in range(2):
        assert collector.post(json.dumps(event(one))).json()["accepted"] == 1
    assert len(records_of(collector, one)) == 2
