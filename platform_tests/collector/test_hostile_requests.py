"""A request costs little until its sender's key is known, and a bounded time after that."""

import base64
import gzip
import json
import time
from collections.abc import Callable

import httpx
import pytest

from dataplatform.collector import keys
from dataplatform.collector.bodies import MAX_BODY_BYTES, MAX_GZIP_MEMBERS, Malformed, events_of, unzip
from dataplatform.collector.keys import WriteKeys
from dataplatform.collector.problems import Refusal
from platform_tests.collector.conftest import Running, event

SECONDS = 1.0
"""Several times what any of these takes on a busy machine, and far below what one of them took when it was quadratic."""

HOSTILE = {
    "a string of quotes that never ends": b'["' + b'\\"' * (MAX_BODY_BYTES // 2),
    "empty strings": b"[x" + b'""' * (MAX_BODY_BYTES // 2),
    "empty objects": b"[x," + b"{}" * (MAX_BODY_BYTES // 2),
    "brackets that only open": b"[{}" * (MAX_BODY_BYTES // 3),
    "commas": b"[{x" + b"," * MAX_BODY_BYTES,
    "keys of keys": b"{x" + b'"writeKey":"a",' * (MAX_BODY_BYTES // 15),
    "half a key": b'["writeKey"' * (MAX_BODY_BYTES // 11),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_malformed_body_costs_a_bounded_time(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(Refusal):
        WriteKeys({"local": "web"}).require_some_in(body)
    with pytest.raises(Malformed):
        events_of(body)
    assert time.process_time() - began < SECONDS


def test_gzip_members_are_counted() -> None:
    one = gzip.compress(b"")
    assert unzip(one * MAX_GZIP_MEMBERS + b"\0\0", "gzip") == b""
    began = time.process_time()
    with pytest.raises(Refusal) as refused:
        unzip(one * (MAX_BODY_BYTES // len(one)), "gzip")
    assert (refused.value.status, refused.value.code) == (400, "bad_gzip")
    assert time.process_time() - began < SECONDS


def test_headers_with_ever_other_passwords_are_not_all_remembered() -> None:
    known = WriteKeys({"local": "web"})
    for number in [*range(3000), 10**300]:
        field = b"Basic " + base64.b64encode(b"local:%d" % number)
        assert known.source({b"authorization": field}, b"") == "web"
    assert keys._authorized_short.cache_info().currsize <= 1024


@pytest.mark.parametrize(
    "body",
    [
        b'{"batch":[{"a":1}],"b\\u0061tch":[{"a":2}]}',
        b'{"b\\u0061tch":[{"a":1}],"\\u0062atch":[{"a":2}]}',
        b'{"batch":[{"a":NaN}],"b\\u0061tch":[{"a":2}]}',
    ],
)
def test_a_second_batch_is_told_however_its_key_is_written(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        events_of(body)
    assert refused.value.code == "two_batches"


def test_escapes_beside_one_batch_are_no_second_batch() -> None:
    (event_text,) = events_of(b'{"batch":["batch \\u0061"],"context":{"b\\u0061tch":"\\u00e9"}}')
    assert bytes(event_text) == b'"batch \\u0061"'


def test_only_a_key_in_the_body_opens_what_the_head_does_not(start: Callable[..., Running]) -> None:
    collector = start(write_keys='{"pub/1":"web"}')
    message = {"type": "track", "event": "like_item_shop", "messageId": "m", "properties": {"item_id": "7"}}
    with httpx.Client(base_url=collector.url) as client:
        for path in ("/v1/events", "/v1/batch", "/v1/track"):
            for body in (b"[" + b"1," * 100_000 + b"1]", b'{"writeKey":"other"}', b'{"batch":[{"a":"writeKey"}]}', b""):
                answer = client.post(path, content=body)
                assert (answer.status_code, answer.json()["code"]) == (401, "unknown_write_key")
            assert answer.headers["access-control-expose-headers"] == "Retry-After"
        hidden = {"batch": [message], "context": {"writeKey": "pub/1"}}
        assert client.post("/v1/batch", json=hidden).status_code == 401
        batch = json.dumps({"batch": [message], "writeKey": "pub/1"})
        assert client.post("/v1/batch", content=batch.replace("pub/1", "pub\\/1")).status_code == 200
        assert client.post("/v1/track", json={**message, "writeKey": "pub/1"}).status_code == 200
        assert client.post("/v1/events", json={"batch": [event("e")], "writeKey": "pub/1"}).status_code == 200
