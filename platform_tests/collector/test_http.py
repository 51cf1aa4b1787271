"""The protocol over a real socket: what clients do wrong, slowly, half, or all at once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from platform_tests.collector.conftest import Running, event, read_answers

Start = Callable[..., Running]
KEY = b"X-Write-Key: local\r\n"


def request(body: bytes = b"[]", headers: bytes = b"", version: bytes = b"1.1", path: bytes = b"/v1/events") -> bytes:
    return b"POST %s HTTP/%s\r\nHost: x\r\n%s%sContent-Length: %d\r\n\r\n%s" % (
        path,
        version,
        KEY,
        headers,
        len(body),
        body,
    )


def one(event_id: str) -> bytes:
    return json.dumps(event(event_id)).encode()


def landed_ids(collector: Running) -> list[str]:
    return [record["event_id"] for record in collector.landed()]


def test_keep_alive_and_close(collector: Running) -> None:
    with collector.socket() as connection:
        for number in range(3):
            connection.sendall(request(one(f"keep-{number}")))
            assert read_answers(connection, 1)[0][0] == 200
        connection.sendall(request(headers=b"Connection: close\r\n"))
        ((status, headers, _),) = read_answers(connection)
        assert (status, headers["connection"]) == (200, "close")


def test_http_1_0_closes_unless_told_otherwise(collector: Running) -> None:
    with collector.socket() as connection:
        connection.sendall(request(version=b"1.0", headers=b"Connection: keep-alive\r\n"))
        ((status, headers, _),) = read_answers(connection, 1)
        assert (status, headers["connection"]) == (200, "keep-alive")
        connection.sendall(request(version=b"1.0"))
        assert [answer[0] for answer in read_answers(connection)] == [200]


def test_pipelined_requests_are_answered_in_order(collector: Running) -> None:
    count = 300
    sent = [request(one(f"pipe-{number}")) if number % 3 else request(b"[1,,") for number in range(count)]
    sent[7] = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    sent[8] = b"HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    with collector.socket() as connection:
        connection.sendall(b"".join(sent[:8]))
        statuses = [answer[0] for answer in read_answers(connection, 8)]
        connection.sendall(b"".join(sent[9:]))
        statuses += [0, *(answer[0] for answer in read_answers(connection, count - 9))]
    assert statuses == [404 if n == 7 else 0 if n == 8 else 200 if n % 3 else 400 for n in range(count)]
    ids = landed_ids(collector)
    assert all(f"pipe-{number}" in ids for number in range(count) if number % 3 and number not in (7, 8))


def test_a_body_in_chunks(collector: Running) -> None:
    body = one("chunked")
    with collector.socket() as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n" + KEY + b"Transfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 7):
            part = body[start : start + 7]
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")
        assert read_answers(connection, 1)[0][0] == 200
    assert "chunked" in landed_ids(collector)


@pytest.mark.parametrize("place", [b"http://x", b"HTTPS://x:8080"])
def test_a_url_in_its_absolute_form(collector: Running, place: bytes) -> None:
    with collector.socket() as connection:
        connection.sendall(request(one("absolute"), path=place + b"/v1/events"))
        assert read_answers(connection, 1)[0][0] == 200
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % place)
        assert read_answers(connection, 1)[0][0] == 200
    assert "absolute" in landed_ids(collector)


def test_a_trailer_is_no_header(collector: Running) -> None:
    with collector.socket() as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"2\r\n[]\r\n0\r\n" + KEY + b"\r\n")
        assert read_answers(connection, 1)[0][0] == 401


def test_a_request_that_comes_byte_by_byte(collector: Running) -> None:
    with collector.socket() as connection:
        for byte in request(one("bytes")):
            connection.sendall(bytes([byte]))
        assert read_answers(connection, 1)[0][0] == 200


def test_expect_100_continue(collector: Running) -> None:
    body = one("expected")
    with collector.socket() as connection:
        head = request(body, headers=b"Expect: 100-continue\r\n").removesuffix(body)
        connection.sendall(head)
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answers(connection, 1)[0][0] == 200


def test_expect_100_continue_is_refused_before_the_body(collector: Running) -> None:
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    for fields, status in (
        (KEY + b"Content-Length: 5000000\r\n", 413),
        (b"X-Write-Key: no\r\nContent-Length: 5\r\n", 401),
    ):
        with collector.socket() as connection:
            connection.sendall(head + fields + b"\r\n")
            assert [answer[0] for answer in read_answers(connection)] == [status]


def test_a_body_that_is_said_to_be_too_large_is_refused_at_once(collector: Running) -> None:
    with collector.socket() as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n" + KEY + b"Content-Length: 9999999999\r\n\r\n")
        ((status, headers, body),) = read_answers(connection)
    assert (status, headers["connection"], json.loads(body)["code"]) == (413, "close", "too_large")


def test_a_chunked_body_that_never_ends(collector: Running) -> None:
    with collector.socket() as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n" + KEY + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 200 << 20:
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
        assert sent < 200 << 20
    with collector.socket() as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n" + KEY + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall((b"10000\r\n" + b" " * 65536 + b"\r\n") * 65)
        assert [answer[0] for answer in read_answers(connection)] == [413]


def test_a_body_cut_in_half_is_not_stored(collector: Running) -> None:
    before = collector.metrics()["collector_aborted_requests_total"]
    with collector.socket() as connection:
        whole = request(one("half"))
        connection.sendall(whole[: len(whole) // 2 + 40])
    deadline = time.monotonic() + 30
    while collector.metrics()["collector_aborted_requests_total"] == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert collector.metrics()["collector_aborted_requests_total"] == before + 1
    assert "half" not in landed_ids(collector)
    assert collector.metrics()["collector_queued_bytes"] == 0


def test_a_client_that_is_gone_before_the_answer_sends_again(collector: Running) -> None:
    for _ in range(2):
        with collector.socket() as connection:
            connection.sendall(request(one("gone")))
    deadline = time.monotonic() + 30
    while (count := landed_ids(collector).count("gone")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count == 2


def test_a_client_that_closes_its_side_still_gets_its_answer(collector: Running) -> None:
    with collector.socket() as connection:
        connection.sendall(request(one("shut")))
        connection.shutdown(1)
        assert [answer[0] for answer in read_answers(connection)] == [200]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/events HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/events HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n", 400),
        (b"POST /v1/events HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n", 501),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 9000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_is_no_request(collector: Running, sent: bytes, status: int) -> None:
    with collector.socket() as connection:
        connection.sendall(sent)
        answers = read_answers(connection)
    assert [answer[0] for answer in answers] == [status]
    assert answers[0][1]["content-type"] == "application/problem+json"
    assert answers[0][1]["connection"] == "close"


def test_an_upgrade_is_not_followed(collector: Running) -> None:
    with collector.socket() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert [answer[0] for answer in read_answers(connection)] == [200]


def test_ten_thousand_small_requests(collector: Running) -> None:
    texts = [request(one(f"small-{number}")) for number in range(10_000)]
    for turn in range(10):
        with collector.socket() as connection:
            for start in range(turn * 1000, turn * 1000 + 1000, 20):
                connection.sendall(b"".join(texts[start : start + 20]))
                assert {answer[0] for answer in read_answers(connection, 20)} == {200}
    ids = [one_id for one_id in landed_ids(collector) if one_id and one_id.startswith("small-")]
    assert sorted(ids) == sorted(f"small-{number}" for number in range(10_000))


def test_slow_clients_are_told_and_silent_ones_closed(start: Start) -> None:
    collector = start(collector_request_seconds="0.5", collector_idle_seconds="0.5")
    with (
        collector.socket() as head,
        collector.socket() as body,
        collector.socket() as silent,
        collector.socket() as kept,
    ):
        head.sendall(b"POST /v1/events HTTP/1.1\r\nX-Slow: ")
        body.sendall(request(one("slow"))[:-5])
        kept.sendall(request(one("kept")))
        begin = time.monotonic()
        assert read_answers(kept, 1)[0][0] == 200
        for slow in (head, body):
            assert [answer[0] for answer in read_answers(slow)] == [408]
        assert read_answers(silent) == []
        assert read_answers(kept) == []
        assert time.monotonic() - begin < 20
    assert landed_ids(collector) == ["kept"]


def test_a_client_that_reads_no_answers_is_not_read_either_and_then_closed(start: Start) -> None:
    collector = start(collector_request_seconds="1")
    with collector.socket() as connection:
        connection.settimeout(0.5)
        sent = 0
        text = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        with pytest.raises(OSError):  # full, or closed, whichever is first
            while sent < 400 << 20:
                sent += connection.send(text)
        assert sent < 400 << 20
    assert collector.post("[]").status_code == 200


def test_more_connections_than_allowed_are_told(start: Start) -> None:
    collector = start(collector_max_connections="3")
    connections = [collector.socket() for _ in range(4)]
    ((status, headers, _),) = read_answers(connections[3])
    assert (status, "retry-after" in headers) == (503, True)
    for connection in connections:
        connection.close()


def test_a_port_that_is_taken_is_said_without_a_traceback(collector: Running, start: Start) -> None:

    done = subprocess.run(
        [str(Path(sys.executable).with_name("dataplatform")), "collector", "--port", str(collector.port)],
        env=os.environ
        | {"DATAPLATFORM_DATA_DIR": str(collector.data), "DATAPLATFORM_SCHEMAS_DIR": str(collector.schemas)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr
