"""The collector over an object store: every commit is a finished object, and no answer comes before it is."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from dataplatform.collector.door import Door
from dataplatform.collector.live_contracts import LiveContracts
from dataplatform.landing import Landing
from dataplatform.landing import writer as writer_module
from dataplatform.settings import Settings
from platform_tests.collector.conftest import event, write_contracts


def served(tmp_path: Path, use: Callable[[Door, httpx.AsyncClient], Awaitable[None]]) -> Landing:
    """Runs a door over a store in memory, in this process."""
    landing = Landing(MemoryStore(), "events", "gs://landing/events")
    contracts = LiveContracts(write_contracts(tmp_path / "schemas"))
    contracts.reload()

    async def go() -> None:
        door = Door(Settings(data_dir=tmp_path), landing, contracts)
        server = await asyncio.get_running_loop().create_server(door.server.protocol, "127.0.0.1", 0)
        keeping = asyncio.create_task(door.keep())
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, auth=("local", "")) as client:
            await use(door, client)
        keeping.cancel()
        server.close()

    asyncio.run(go())
    return landing


def stored(landing: Landing) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for hour in landing.hours()
        for file in landing.files(hour)
        for line in landing.read(file).splitlines()
    ]


def test_what_is_acknowledged_is_in_a_finished_object(tmp_path: Path) -> None:
    async def use(door: Door, client: httpx.AsyncClient) -> None:
        for number in range(3):
            answer = await client.post("/v1/events", json=[event(f"{number}-{place}") for place in range(10)])
            assert answer.json()["accepted"] == 10
            assert len(stored(door.writer.landing)) == 10 * (number + 1)
        many = await asyncio.gather(*(client.post("/v1/events", json=event(f"m-{number}")) for number in range(50)))
        assert {answer.status_code for answer in many} == {200}
        assert (await client.get("/readyz")).status_code == 200

    landing = served(tmp_path, use)
    records = stored(landing)
    assert len(records) == 80
    objects = {(record["file"], record["line"]) for record in records}
    assert len(objects) == 80
    assert {file for file, _ in objects} == {file.stem for hour in landing.hours() for file in landing.files(hour)}


def test_a_store_that_is_gone_is_503_until_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = obstore.put

    async def use(door: Door, client: httpx.AsyncClient) -> None:
        def gone(*_: object, **__: object) -> None:
            raise GenericError("connection refused")

        monkeypatch.setattr(writer_module.obstore, "put", gone)
        answer = await client.post("/v1/events", json=event("lost"))
        assert (answer.status_code, answer.json()["code"]) == (503, "not_written")
        assert (await client.get("/readyz")).status_code == 503
        monkeypatch.setattr(writer_module.obstore, "put", real)
        assert (await client.post("/v1/events", json=event("back"))).status_code == 200
        assert (await client.get("/readyz")).status_code == 200

    assert [record["event_id"] for record in stored(served(tmp_path, use))] == ["back"]


def test_a_put_whose_answer_was_lost_is_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = obstore.put

    async def use(door: Door, client: httpx.AsyncClient) -> None:
        def twice(*arguments: Any, **more: Any) -> Any:
            real(*arguments, **more)
            return real(*arguments, **more)

        monkeypatch.setattr(writer_module.obstore, "put", twice)
        assert (await client.post("/v1/events", json=event("once"))).status_code == 200

    assert [record["event_id"] for record in stored(served(tmp_path, use))] == ["once"]


def test_no_answer_comes_before_the_store_has_it_and_the_lag_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reached = obstore.put, threading.Event()

    async def use(door: Door, client: httpx.AsyncClient) -> None:
        def slow(*arguments: Any, **more: Any) -> Any:
            reached.wait(20)
            return real(*arguments, **more)

        monkeypatch.setattr(writer_module.obstore, "put", slow)
        assert "\ncollector_lag_seconds 0\n" in (await client.get("/metrics")).text
        sending = asyncio.create_task(client.post("/v1/events", json=event("slow")))
        await asyncio.sleep(0.3)
        assert not sending.done()
        told = re.search(r"^collector_lag_seconds (\S+)$", (await client.get("/metrics")).text, re.MULTILINE)
        assert told is not None and 0.1 < float(told[1]) < 20
        reached.set()
        assert (await sending).status_code == 200
        assert "\ncollector_lag_seconds 0\n" in (await client.get("/metrics")).text

    assert [record["event_id"] for record in stored(served(tmp_path, use))] == ["slow"]
