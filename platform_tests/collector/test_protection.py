"""What the collector does when there is too much, too little room, or a broken contract."""

import asyncio
import contextlib
import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from dataplatform.collector import live_contracts
from dataplatform.collector.keys import RateLimit
from dataplatform.collector.live_contracts import LiveContracts
from dataplatform.contracts.load import load_contracts
from platform_tests.collector.conftest import LIKE, Running, event, read_answers, write_contracts

Start = Callable[..., Running]


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.02)


def batch(prefix: str, count: int = 1000) -> str:
    return json.dumps([event(f"{prefix}-{number}") for number in range(count)])


def test_a_token_bucket_refills_with_time() -> None:
    limit = RateLimit(per_second=10, burst=20)
    assert limit.wait("a", 0.0) == 0
    limit.spend("a", 50, 0.0)
    assert limit.wait("a", 0.0) == pytest.approx(3.1)
    assert limit.wait("b", 0.0) == 0
    assert limit.wait("a", 3.2) == 0
    assert RateLimit(0, 20).wait("a", 0.0) == 0


def test_too_many_events_of_one_key_are_429(start: Start) -> None:
    collector = start(
        collector_events_per_second="1000", collector_burst_events="1000", write_keys='{"web":"web","app":"app"}'
    )
    with httpx.Client(base_url=collector.url) as client:
        assert client.post("/v1/events", content=batch("a"), headers={"X-Write-Key": "web"}).status_code == 200
        assert client.post("/v1/events", content=batch("b"), headers={"X-Write-Key": "web"}).status_code in (200, 429)
        answer = client.post("/v1/events", content=batch("c"), headers={"X-Write-Key": "web"})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_events")
        assert 1 <= int(answer.headers["retry-after"]) <= 3
        assert client.post("/v1/events", content=batch("d"), headers={"X-Write-Key": "app"}).status_code == 200
    assert collector.metrics()['collector_shed_requests_total{cause="too_many_events"}'] >= 1


def test_too_many_events_of_a_key_in_the_body_are_429(start: Start) -> None:
    collector = start(
        collector_events_per_second="10", collector_burst_events="1000", write_keys='{"web":"web","app":"app"}'
    )
    message = event("a", type="track")

    def post(path: str, key: str, count: int = 1) -> httpx.Response:
        body = {**message, "writeKey": key} if path == "/v1/track" else {"batch": [message] * count, "writeKey": key}
        return httpx.post(f"{collector.url}{path}", json=body)

    for _ in range(2):
        assert post("/v1/events", "web", 600).status_code == 200
    for path in ("/v1/events", "/v1/batch", "/v1/track"):
        shed = post(path, "web")
        assert (shed.status_code, shed.json()["code"]) == (429, "too_many_events"), path
        assert 1 <= int(shed.headers["retry-after"]) <= 21
        assert post(path, "app").status_code == 200
    assert collector.metrics()['collector_shed_requests_total{cause="too_many_events"}'] == 3
    assert len(collector.landed()) == 1203


def test_the_age_of_an_open_file_is_told(start: Start) -> None:
    collector = start(landing_rotate_seconds="1")
    assert collector.metrics()["collector_open_file_age_seconds"] == 0
    assert collector.post(batch("x", 1)).status_code == 200
    until(lambda: 0.2 < collector.metrics()["collector_open_file_age_seconds"] < 3)
    until(lambda: collector.metrics()["collector_open_file_age_seconds"] == 0)
    assert collector.metrics()["collector_finished_files_total"] == 1


def test_bodies_that_wait_are_bounded(start: Start) -> None:
    collector = start(collector_max_queued_bytes="3000000")
    half = (
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Write-Key: local\r\nContent-Length: 2000000\r\n\r\n"
        + b" " * 1_900_000
    )
    connections = [collector.socket() for _ in range(2)]
    for connection in connections:
        connection.sendall(half)
    until(lambda: collector.metrics()["collector_queued_bytes"] > 3_000_000)
    answer = collector.post(batch("x", 1))
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
    assert httpx.get(f"{collector.url}/readyz").status_code == 503
    for connection in connections:
        connection.close()
    until(lambda: collector.metrics()["collector_queued_bytes"] == 0)
    assert collector.post(batch("x", 1)).status_code == 200
    assert httpx.get(f"{collector.url}/readyz").status_code == 200


def test_a_refused_request_leaves_its_connection_usable(start: Start) -> None:
    collector = start(collector_min_free_bytes=str(1 << 60))
    with httpx.Client(base_url=collector.url, auth=("local", "")) as client:
        for _ in range(3):
            answer = client.post("/v1/events", content=batch("x", 500))
            assert (answer.status_code, answer.json()["code"]) == (503, "disk_nearly_full")
            assert int(answer.headers["retry-after"]) > 0
    assert collector.metrics()["collector_connections"] == 1
    assert collector.landed() == []


def test_a_full_disk_is_503_and_leaves_nothing_half_written(start: Start) -> None:
    # The limit of a file's size fails a write in its middle just as a full disk does, and needs no privilege.
    collector = start(limits={resource.RLIMIT_FSIZE: 300_000}, landing_rotate_seconds="30")
    statuses, acknowledged, number = [], set(), 0
    while statuses.count(503) < 3:
        ids = [f"full-{number}-{place}" for place in range(100)]
        answer = collector.post(json.dumps([event(one) for one in ids]))
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            acknowledged.update(ids)
        else:
            assert answer.json()["code"] == "not_written"
            assert int(answer.headers["retry-after"]) > 0
            assert httpx.get(f"{collector.url}/readyz").status_code == 503
            assert collector.metrics()["collector_write_failing"] == 1
        number += 1
        assert number < 100
    assert collector.post(batch("after", 10)).status_code == 200
    assert httpx.get(f"{collector.url}/readyz").status_code == 200
    assert collector.stop() == 0
    ids = [record["event_id"] for record in collector.landed()]
    assert len(ids) == len(set(ids))
    assert acknowledged <= set(ids)
    assert set(ids) - acknowledged == {f"after-{place}" for place in range(10)}


def test_contracts_reload_while_it_runs_and_broken_ones_change_nothing(start: Start) -> None:
    collector = start()
    file = collector.schemas / "events" / "shop" / "like_item_shop.yaml"

    def accepted(name: str = "like_item_shop") -> bool:
        return bool(collector.post(json.dumps(event("reload", event=name))).json()["accepted"])

    def contracts() -> dict[str, object]:
        return httpx.get(f"{collector.url}/readyz").json()["contracts"]  # type: ignore[no-any-return]

    assert accepted()
    file.write_text("params: [")
    until(lambda: contracts()["problems"])
    assert "like_item_shop.yaml" in str(contracts()["problems"])
    assert httpx.get(f"{collector.url}/readyz").json()["ready"] is True
    assert collector.metrics()["collector_contract_problems"] >= 1
    assert accepted()
    file.write_text(LIKE + "  - {name: colour, type: STRING, required: true}\n")
    until(lambda: not accepted())
    assert contracts() == {"in_force": 1, "problems": [], "failure": None}
    file.with_name("view_item_shop.yaml").write_text(LIKE.replace("like", "view"))
    until(lambda: accepted("view_item_shop"))
    file.with_name("view_item_shop.yaml").unlink()
    until(lambda: not accepted("view_item_shop"))


def test_a_flood_of_connections_leaves_descriptors_for_the_landing(start: Start) -> None:
    collector = start(limits={resource.RLIMIT_NOFILE: 200}, landing_rotate_seconds="0.05")
    with collector.client() as client, contextlib.ExitStack() as flood:
        assert client.get("/healthz").status_code == 200
        for _ in range(300):
            flood.enter_context(collector.socket()).sendall(b"POST /v1/events HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        (collector.schemas / "owners.yaml").touch()
        for number in range(10):
            assert client.post("/v1/events", json=event(f"flood-{number}")).json()["accepted"] == 1
            time.sleep(0.1)
        ready = client.get("/readyz").json()
        assert (ready["ready"], ready["contracts"]) == (True, {"in_force": 1, "problems": [], "failure": None})
    until(lambda: collector.metrics()["collector_connections"] == 1)
    assert len(collector.landed()) == 10


def test_a_folder_of_contracts_that_is_gone_or_broken_from_the_start(tmp_path: Path) -> None:
    live = LiveContracts(tmp_path / "schemas")
    assert live.reload() is False
    assert live.problems
    write_contracts(tmp_path / "schemas")
    assert live.reload() is True
    assert list(live.contracts.events) == ["like_item_shop"]
    (tmp_path / "schemas").rename(tmp_path / "away")
    assert live.reload() is False
    assert list(live.contracts.events) == ["like_item_shop"]
    (tmp_path / "away").rename(tmp_path / "schemas")
    for name in ("events", "vocabulary.yaml", "owners.yaml"):
        (tmp_path / "schemas" / name).rename(tmp_path / name)
    assert live.reload() is False
    assert list(live.contracts.events) == ["like_item_shop"]
    for name in ("events", "owners.yaml"):
        (tmp_path / name).rename(tmp_path / "schemas" / name)
    (tmp_path / "schemas" / "vocabulary.yaml").write_text("actions: [")
    live.reload()
    assert live.problems
    assert list(live.contracts.events) == ["like_item_shop"]


def test_a_folder_of_contracts_that_is_exchanged_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_contracts, "_LOOK_MILLISECONDS", 200)
    first, second = write_contracts(tmp_path / "first"), write_contracts(tmp_path / "second")
    (second / "events" / "shop" / "view_item_shop.yaml").write_text(LIKE.replace("like", "view"))
    link = tmp_path / "schemas"
    link.symlink_to(first)

    async def go() -> None:
        live = LiveContracts(link)
        live.reload()
        assert len(live.contracts.events) == 1
        watching = asyncio.create_task(live.watch())
        for target, count in ((second, 2), (first, 1), (second, 2)):
            await asyncio.sleep(0.1)
            (tmp_path / "new").symlink_to(target)
            (tmp_path / "new").rename(link)
            async with asyncio.timeout(30):
                while len(live.contracts.events) != count:
                    await asyncio.sleep(0.02)
        watching.cancel()

    asyncio.run(go())


def test_a_contract_that_loads_but_cannot_be_compiled_stops_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_contracts(tmp_path / "schemas")
    (root / "events" / "shop" / "view_item_shop.yaml").write_text(LIKE.replace("like", "view"))
    assert len(load_contracts(root).events) == 2
    real = live_contracts.Judge

    def fragile(contracts: dict[str, object]) -> object:
        if "view_item_shop" in contracts:
            raise ValueError("no such pattern")
        return real(contracts)  # type: ignore[arg-type]

    monkeypatch.setattr(live_contracts, "Judge", fragile)
    live = LiveContracts(root)
    live.reload()
    assert list(live.contracts.events) == ["like_item_shop"]
    assert [(problem.code, problem.message) for problem in live.problems] == [("not_compilable", "no such pattern")]


def test_the_past_can_be_simulated_where_the_setting_allows_it(start: Start) -> None:
    collector = start(accept_received_at="true")
    assert collector.post(batch("past", 3), x_received_at="2026-01-31T09:59:59.123456+02:00").status_code == 200
    assert collector.post(batch("now", 1)).status_code == 200
    for wrong in ("yesterday", "2026-01-31T09:59:59"):
        answer = collector.post(batch("x", 1), x_received_at=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_received_at")
    past = [record for record in collector.landed() if record["received_at"].startswith("2026-01-31")]
    assert [record["event_id"] for record in past] == ["past-0", "past-1", "past-2"]
    assert {record["received_at"] for record in past} == {"2026-01-31T07:59:59.123456Z"}
    assert next(f"{hour:%Y-%m-%d %H}" for hour in collector.landing.hours()) == "2026-01-31 07"


def test_sigterm_answers_what_has_begun_and_finishes_files(start: Start) -> None:
    collector = start(landing_rotate_seconds="30")
    body = json.dumps(event("last")).encode()
    with collector.socket() as begun, collector.socket() as idle:
        begun.sendall(
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Write-Key: local\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        until(lambda: collector.metrics()["collector_connections"] == 3)
        assert collector.process is not None
        collector.process.send_signal(signal.SIGTERM)
        assert idle.recv(10) == b""
        begun.sendall(body)
        ((status, headers, _),) = read_answers(begun)
        assert (status, headers["connection"]) == (200, "close")
    assert collector.process.wait(30) == 0
    assert not list(collector.data.rglob("*.open"))
    assert [record["event_id"] for record in collector.landed()] == ["last"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
def test_kill_9_while_sending_loses_nothing_acknowledged(start: Start, seed: int) -> None:
    collector = start(landing_rotate_seconds="0.1")
    acknowledged: set[str] = set()
    sent: set[str] = set()
    stop = threading.Event()

    def send(sender: int) -> None:
        number = 0
        while not stop.is_set():
            ids = [f"{sender}-{number}-{place}" for place in range(20)]
            body = json.dumps([event(one) for one in ids]).encode()
            number += 1
            try:
                with socket.create_connection(("127.0.0.1", collector.port), timeout=2) as connection:
                    sent.update(ids)
                    connection.sendall(
                        b"POST /v1/events HTTP/1.1\r\nX-Write-Key: local\r\nContent-Length: %d\r\n\r\n%s"
                        % (len(body), body)
                    )
                    if connection.recv(4096).startswith(b"HTTP/1.1 200"):
                        acknowledged.update(ids)
            except OSError:
                time.sleep(0.01)

    senders = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for sender in senders:
        sender.start()
    for kill in range(3):
        target = len(acknowledged) + 200 + 137 * seed * (kill + 1)
        until(lambda target=target: len(acknowledged) >= target, 60)  # type: ignore[misc]
        collector.kill()
        collector.start()
    stop.set()
    for sender in senders:
        sender.join()
    assert collector.stop() == 0
    ids = {record["event_id"] for record in collector.landed()}
    assert acknowledged <= ids <= sent
    assert not list(collector.data.rglob("*.open"))


def test_several_workers_share_the_port_and_the_metrics(start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    collector = start("--workers", "2", "--port", str(port))
    collector.port = port
    collector.url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{collector.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    until(answers, 20)
    time.sleep(0.5)
    for number in range(40):
        assert collector.post(batch(f"w{number}", 2)).status_code == 200
    until(lambda: collector.metrics().get('collector_received_events_total{source="local"}', 0) == 80)
    assert len({record["file"].rsplit("-", 1)[0] for record in collector.landed()}) == 2
    assert len(collector.landed()) == 80
    assert collector.stop() == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.long
def test_a_worker_that_dies_is_started_anew(start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    collector = start("--workers", "2", "--port", str(port))
    collector.port, collector.url = port, f"http://127.0.0.1:{port}"
    assert collector.process is not None
    parent = psutil.Process(collector.process.pid)

    def up() -> bool:
        return len(parent.children()) == 2 and all(
            any(one.status == "LISTEN" for one in child.net_connections()) for child in parent.children()
        )

    until(up, 20)
    first = parent.children()
    until(lambda: time.time() - max(child.create_time() for child in first) > 5.5, 20)
    first[0].kill()
    until(lambda: up() and first[0] not in parent.children(), 20)
    assert collector.post(batch("again", 1)).status_code == 200
    collector.kill()
    until(lambda: not any(child.is_running() for child in first[1:]), 20)
