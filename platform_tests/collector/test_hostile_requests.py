"""A request costs little until its sender's key is known, and a bounded time after that."""

import base64
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from dataplatform.collector import keys
from dataplatform.collector.bodies import MAX_BODY_BYTES, MAX_GZIP_MEMBERS, Malformed, events_of, unzip
from dataplatform.collector.keys import WriteKeys
from dataplatform.collector.problems import Refusal
from dataplatform.collector.segment import event_of
from dataplatform.contracts.load import load_contracts
from dataplatform.events.verdict import Judge
from platform_tests.collector.conftest import Running, event, read_answers, write_contracts

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


def filled(begin: bytes, part: bytes, end: bytes) -> bytes:
    """One event as large as a body may be."""
    frame = b'{"event_id":"1","event":"like_item_shop","params":{"item_id":"7","x":%b%b}}'
    return frame % (begin + part * ((MAX_BODY_BYTES - 200 - len(begin)) // len(part)), end)


LONG_KEY = b'{"' + b"k" * (MAX_BODY_BYTES // 2) + b'":['
LARGE = {
    "integers": (filled(b"[", b"1,", b"1]"), ["array_too_long"]),
    "objects": (filled(b"[", b"{},", b"{}]"), ["array_too_long"]),
    "keys": (filled(b'{"a":1', b',"a":1', b"}"), ["array_too_long"]),
    "faults": (filled(b"[[1]", b',["\\u0000"]', b"]"), ["array_too_long"]),
    "members below a long key": (filled(LONG_KEY, b'{"abcdefghijklmnop":[1,2,3]},' * 5, b"1]}"), ["array_too_long"]),
    "few members below a long key": (filled(LONG_KEY + b"[1]", b',["' + b"a" * 1000 + b'"]', b"]}"), []),
    "one number": (filled(b"", b"1", b""), ["number_too_large"]),
    "one text of commas": (filled(b'"', b",", b'"'), []),
}


@pytest.mark.parametrize(("raw", "codes"), LARGE.values(), ids=LARGE)
def test_an_event_that_fills_a_body_costs_a_bounded_time(tmp_path: Path, raw: bytes, codes: list[str]) -> None:
    judge = Judge(load_contracts(write_contracts(tmp_path / "schemas")).events)
    began = time.process_time()
    verdict = judge.judge(raw)
    assert time.process_time() - began < SECONDS
    assert [reason.code for reason in verdict.reasons] == codes


def test_a_path_repeats_no_key_that_is_longer_than_any_contracts(tmp_path: Path) -> None:
    judge = Judge(load_contracts(write_contracts(tmp_path / "schemas")).events)
    members = ",".join(f'"{number}":1' for number in range(20_000))
    raw = f'{{"event_id":"1","event":"like_item_shop","params":{{"item_id":"7","{"k" * 2_000_000}":{{"n":"\\u0000",{members}}}}}}}'
    began = time.process_time()
    (reason,) = judge.judge(raw.encode()).reasons
    assert time.process_time() - began < SECONDS
    assert reason.path == f"/params/{'k' * 300}…/n"


def test_a_segment_message_of_many_keys_costs_a_bounded_time() -> None:
    message = b'{"messageId":"m","event":"x",%b}' % b",".join(b'"%06x":1' % number for number in range(100_000))
    began = time.process_time()
    assert event_of(message, "track").startswith(b'{"event_id":"m","event":"x","000000":1,')
    assert time.process_time() - began < SECONDS
    twice = message.replace(b'"00ffff"', b'"000001"')
    assert event_of(twice, "track") == twice


def test_chunks_of_two_bytes_cost_what_they_are_counted_as(collector: Running) -> None:
    assert collector.process is not None
    memory = psutil.Process(collector.process.pid).memory_info
    with collector.socket() as connection:
        head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Write-Key: local\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"2\r\n[ \r\n")
        before, size = memory().rss, 500_000
        connection.sendall(b"2\r\n  \r\n" * (size // 2 - 1))
        deadline = time.monotonic() + 30
        while collector.metrics()["collector_queued_bytes"] < size and time.monotonic() < deadline:
            time.sleep(0.02)
        assert memory().rss - before < 10 * size
        connection.sendall(b"2\r\n ]\r\n0\r\n\r\n")
        assert read_answers(connection, 1)[0][0] == 200


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
