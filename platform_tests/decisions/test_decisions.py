"""The decision service as a process, over HTTP: answers, mistakes, repetitions, kills, parameters live."""

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from dataplatform.decisions.answers import KEEP_HOURS
from dataplatform.decisions.backtests import Backtests
from dataplatform.decisions.http import Door
from dataplatform.decisions.judge import BadRequestError, Record, record_of, replay
from dataplatform.decisions.rates import SharedRates
from dataplatform.decisions.service import DecisionService
from dataplatform.decisions.sources import state_path
from dataplatform.fraud import commands
from dataplatform.fraud.backtest import make_empty
from dataplatform.fraud.cases import CaseAlert, Cases
from dataplatform.fraud.catalog import load_catalog
from dataplatform.fraud.dry_runs import DryRuns, Question
from dataplatform.fraud.moments import Event
from dataplatform.fraud.online import OnlineFeatures
from dataplatform.fraud.parameters import ParameterStore, database_url
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse

SCHEMAS = Path(__file__).parents[2] / "schemas"
CATALOG = load_catalog(SCHEMAS)
HEADERS = {"X-API-Key": "local"}


class Service:
    """One server process on a data folder of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.environment = environment
        self.settings = Settings(
            env="local", data_dir=folder, schemas_dir=SCHEMAS, first_hour=datetime(2026, 1, 1, tzinfo=UTC)
        )
        self.port = 0
        self.process = None

    def start(self):
        environment = {
            "DATAPLATFORM_DATA_DIR": str(self.settings.data_dir),
            "DATAPLATFORM_SCHEMAS_DIR": str(SCHEMAS),
            "PATH": "/usr/bin:/bin",
            **self.environment,
        }
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("dataplatform")), "fraud", "serve", "--port", str(self.port)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        self.port = int(line.rsplit(":", 1)[1])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("does not start")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)

    def landed(self):
        """request id → answer of every whole line of the landing."""
        found = {}
        for file in (self.settings.data_dir / "gcs").rglob("*"):
            if file.is_file() and ".ndjson" in file.name:
                for line in file.read_bytes().split(b"\n")[:-1]:
                    record = record_of(line)
                    found.setdefault(record.request_id, []).append(msgspec.json.encode(record.answer))
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decisions")
    service = Service(folder)
    fill(service.settings)
    service.start()
    yield service
    service.stop()


def fill(settings):
    """Online features of two people: an old account, and one of today that pays many."""
    now = time.time_ns() // 1000
    events = [
        Event(
            "register_user_identity",
            "r1",
            now - 400 * 86_400_000_000,
            now - 400 * 86_400_000_000,
            {"user_id": "old"},
            {},
        )
    ]
    events.append(
        Event("register_user_identity", "r2", now - 3_600_000_000, now - 3_600_000_000, {"user_id": "new"}, {})
    )
    for number in range(12):
        at = now - 600_000_000 + number
        values = {
            "amount": Decimal(5000),
            "currency": "KRW",
            "receiver__account_no": f"acc{number}",
            "is_first": True,
        }
        keys = {"user_id": "new", "receiver__account_no": f"acc{number}", "device_id": "phone"}
        events.append(Event("send_transfer_pay", f"t{number}", at, at, keys, values))
    for name, entity in CATALOG.entities.items():
        path = state_path(settings, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = OnlineFeatures(entity, path)
        state.apply(events)
        state.mark_built()
        state.close()


def body(request_id, sender="new", **facts):
    return {
        "request_id": request_id,
        "event": "send_transfer_pay",
        "entities": {"sender": sender, "receiver": "acc1", "device": "phone"},
        "facts": {"amount": 5000, "currency": "KRW", "is_first": True} | facts,
        "deadline_ms": 5000,
    }


def ask(service, content, **more):
    return httpx.post(f"{service.url}/v1/decisions", json=content, headers=HEADERS, **more)


def test_a_decision_by_http(running):
    answer = ask(running, body("first")).json()
    assert answer["level"] == "block" and answer["decision"] == "deny" and answer["score"] == 130
    assert [reason["code"] for reason in answer["reasons"]] == [
        "new_member_fan_out",
        "fan_out_first_time",
        "unusual_hour",
    ]
    assert answer["features"]["sender.receivers_24h"] == 12 and answer["features"]["sender.account_age_days"] == 0
    assert answer["versions"]["parameters"] == 1 and answer["landed"] and not answer["fallback"]
    assert ask(running, body("second", sender="old")).json()["score"] == 0


def test_the_same_request_gets_the_same_bytes_and_another_body_a_conflict(running):
    first = ask(running, body("same"))
    assert ask(running, body("same")).content == first.content
    other = ask(running, body("same", amount=6000))
    assert other.status_code == 409 and other.json()["problems"][0]["pointer"] == "/request_id"


def test_an_explanation_and_a_replay_from_the_record(running):
    answer = ask(running, body("why")).json()
    record = httpx.get(f"{running.url}/v1/decisions/why", headers=HEADERS).content
    trace = replay(msgspec.json.decode(record, type=Record), CATALOG.policies["transfer"])
    assert (trace.decision.level, trace.decision.score) == (answer["level"], answer["score"])
    explained = httpx.get(f"{running.url}/v1/decisions/why/explanation", headers=HEADERS).json()
    assert any("new_member_fan_out fired (+60)" in sentence for sentence in explained["sentences"])
    assert httpx.get(f"{running.url}/v1/decisions/never", headers=HEADERS).status_code == 404


@pytest.mark.parametrize(
    ("content", "status", "pointer"),
    [
        (b"{", 400, None),
        (b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"amount": NaN}}', 400, None),
        (b"[]", 422, ""),
        (b'{"request_id": 5, "event": "x"}', 422, "/request_id"),
        (b'{"event": "send_transfer_pay"}', 422, "/request_id"),
        (b'{"request_id": "x", "event": "no_event"}', 422, "/event"),
        (b'{"request_id": "", "event": "send_transfer_pay"}', 422, "/request_id"),
        (b'{"request_id": "x", "event": "send_transfer_pay", "factz": {}}', 422, "/factz"),
        (b'{"request_id": "x", "event": "e", "entities": {"ok": "a", "sender": 5}}', 422, "/entities/sender"),
        (b'{"request_id": "x", "event": "e", "entities": {"a/b~": null}}', 422, "/entities/a~1b~0"),
        (b'{"request_id": "x", "event": "e", "entities": []}', 422, "/entities"),
        (b'{"request_id": "x", "event": "e", "entities": {"sender": 5}, "facts": {"amount": 1e400}}', 400, None),
        (b'{"request_id": "x", "event": "e", "entities": {"sender": 5}, "facts": {"amount": NaN}}', 400, None),
        (b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"amount": 1e400}}', 422, "/facts"),
        (b'{"request_id": "x", "event": "e", "deadline_ms": 1.5}', 422, "/deadline_ms"),
        (b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"amount": "5000"}}', 422, "/facts/amount"),
        (b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"amuont": 5}}', 422, "/facts/amuont"),
        (b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"is_first": 1}}', 422, "/facts/is_first"),
        (b'{"request_id": "x", "event": "send_transfer_pay", "entities": {"user": "a"}}', 422, "/entities/user"),
        (b'{"request_id": "x", "event": "send_transfer_pay", "deadline_ms": 0}', 422, "/deadline_ms"),
        (
            b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"memo": "' + b"y" * (10 << 20) + b'"}}',
            413,
            None,
        ),
        (b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"amount": ' + b"[" * 100_000, 400, None),
    ],
)
def test_bad_requests_are_refused_with_their_place(running, content, status, pointer):
    answer = httpx.post(f"{running.url}/v1/decisions", content=content, headers=HEADERS)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if pointer is not None:
        assert answer.json()["problems"][0]["pointer"] == pointer


def test_places_that_are_none(running):
    twice = httpx.post(f"{running.url}/v1/decisions?from=app", json=body("query"), headers=HEADERS)
    assert twice.status_code == 200
    for method, path, status in (("GET", "/v1/decisions", 404), ("GET", "/nope", 404), ("PUT", "/v1/policies", 405)):
        answer = httpx.request(method, running.url + path, headers=HEADERS)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    slash = b'{"request_id": "x", "event": "send_transfer_pay", "facts": {"a/b": 1}}'
    refused = httpx.post(f"{running.url}/v1/decisions", content=slash, headers=HEADERS).json()
    assert refused["problems"][0]["pointer"] == "/facts/a~1b"


def test_what_the_protocol_refuses_is_in_the_words_of_this_service(running):
    large = httpx.post(f"{running.url}/v1/decisions", content=b"y" * ((1 << 20) + 1), headers=HEADERS)
    assert large.json() == {
        "type": "about:blank",
        "status": 413,
        "title": "The body has more than 1,048,576 bytes.",
        "fix": "send only the facts that are needed",
    }
    long = httpx.get(f"{running.url}/v1/{'y' * 9000}", headers=HEADERS)
    assert (long.status_code, long.json()["type"]) == (414, "about:blank")


def test_a_fault_and_too_many_requests(tmp_path):
    """A door of this process: a fault while a request is taken in, and a limit for each key."""

    async def run():
        door = Door(direct(tmp_path, decision_requests_per_second=2).settings)
        await door.service.start()
        door.service.begin = None  # a fault: what is called is no function
        server = await asyncio.get_running_loop().create_server(door.server.protocol, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, headers=HEADERS) as api:
            fault = await api.post("/v1/decisions", json=body("fault"))
            fast = [await api.get("/v1/policies") for _ in range(3)]
            other = await api.get("/v1/policies", headers={"X-API-Key": "second"})
            health = await api.get("/healthz")
            metrics = await api.get("/metrics")
        server.close()
        await door.service.stop()
        return fault, fast, other, health, metrics

    fault, fast, other, health, metrics = asyncio.run(run())
    assert (fault.status_code, fault.json()["title"]) == (500, "The service has a fault.")
    assert "collector" not in fault.text
    assert [answer.status_code for answer in fast][-1] == 429 and fast[0].status_code == 200
    assert int(fast[-1].headers["retry-after"]) >= 1 and "2 requests a second" in fast[-1].json()["title"]
    assert other.status_code == health.status_code == 200  # each key has its own
    assert 'kind="refused_429"' in metrics.text


def test_api_keys(running):
    assert httpx.post(f"{running.url}/v1/decisions", json=body("x"), headers={"X-API-Key": "wrong"}).status_code == 401
    assert httpx.get(f"{running.url}/v1/policies").status_code == 401
    bearer = {"Authorization": "Bearer local"}
    assert httpx.post(f"{running.url}/v1/decisions", json=body("bearer"), headers=bearer).status_code == 200


def test_openapi_describes_every_route(running):
    document = httpx.get(f"{running.url}/openapi.json").json()
    assert document["components"]["schemas"]["Answer"]["properties"].keys() == ask(running, body("doc")).json().keys()
    wanted = {
        "/v1/decisions",
        "/v1/lists/{name}",
        "/v1/policies/{policy}/backtests/{run}",
        "/v1/policies/{policy}/export",
    }
    assert wanted <= document["paths"].keys()


def grant(service):
    store = ParameterStore(database_url("", service.settings.data_dir), CATALOG.policies)
    store.grant("local", "editor", by="test")
    store.grant("second", "approver", by="test")
    return store


def test_a_threshold_is_in_force_within_a_second(tmp_path):
    service = Service(tmp_path)
    other = Service(tmp_path, DATAPLATFORM_FRAUD_GIT_REMOTE=str(tmp_path / "nothing.git"))
    fill(service.settings)
    service.start()
    other.start()
    try:
        grant(service)
        api = httpx.Client(base_url=service.url, headers=HEADERS)
        assert ask(service, body("before")).json()["score"] == 130
        path = "/v1/policies/transfer/parameters"
        change = {"changes": {"many_receivers": 20}, "base_version": 1, "reason": "A flea market this weekend."}
        draft = api.post(path, json=change)
        assert draft.status_code == 201, draft.text
        assert api.post(f"{path}/2/state", json={"state": "live"}).status_code == 403
        assert api.post(f"{path}/2/state", json={"state": "shadow"}).status_code == 200
        approved = httpx.post(f"{service.url}{path}/2/approve", headers={"X-API-Key": "second"})
        assert approved.json()["approved_by"] == "second"
        began = time.monotonic()
        while not (shadowed := ask(service, body(f"shadowed-{time.monotonic()}")).json())["shadow"]:
            assert time.monotonic() - began < 1.0
            time.sleep(0.01)
        assert shadowed["score"] == 130 and shadowed["shadow"][0]["score"] == 40
        assert api.post(f"{path}/2/state", json={"state": "live"}).status_code == 200
        began = time.monotonic()
        while ask(service, body(f"after-{time.monotonic()}")).json()["versions"]["parameters"] != 2:
            assert time.monotonic() - began < 1.0
            time.sleep(0.01)
        while ask(other, body(f"other-{time.monotonic()}")).json()["versions"]["parameters"] != 2:
            assert time.monotonic() - began < 1.0  # in every process
            time.sleep(0.01)
        assert ask(service, body("after")).json()["score"] == 40
        assert ask(service, body("before")).json()["score"] == 130
        late = api.post(path, json=change | {"changes": {"many_receivers": 5}})
        assert late.status_code == 409 and late.json()["difference"]["many_receivers"] == {
            "base": 8,
            "live": 20,
            "wanted": 5,
        }
        assert api.post(path, json=change | {"base_version": 2, "changes": {"many_receivers": 1000}}).status_code == 422
        watched = {"entries": ["acc1"], "reason": "Reported twice."}
        assert api.post("/v1/lists/watched_accounts", json=watched).status_code == 200
        slip = api.post("/v1/lists/watched_accountz", json=watched)
        assert slip.status_code == 404 and "watched_accounts" in slip.json()["fix"]
        for when in ("2001-01-01T00:00:00Z", "soon"):
            assert api.post("/v1/lists/watched_accounts", json=watched | {"expires_at": when}).status_code == 422
        began = time.monotonic()
        while ask(service, body(f"watched-{time.monotonic()}")).json()["level"] != "block":
            assert time.monotonic() - began < 1.0
            time.sleep(0.01)
        assert api.post("/v1/policies/transfer/rollback", json={"reason": "Over."}).json()["version"] == 3
        service.kill()
        service.start()
        assert ask(service, body("again")).json()["versions"]["parameters"] == 3
        # A decision made under the retired version is made again from its record, with that version's values.
        record = httpx.get(f"{service.url}/v1/decisions/after", headers=HEADERS).content
        trace = replay(msgspec.json.decode(record, type=Record), CATALOG.policies["transfer"])
        assert (trace.decision.score, trace.parameters["many_receivers"]) == (40, 20)
        # Nobody asked for the Git copy, and where its remote is gone decisions go on and that is told.
        copied = tmp_path / "fraud" / "parameters" / "schemas" / "parameters" / "transfer.yaml"
        while not (copied.exists() and "version: 3" in copied.read_text()):
            assert time.monotonic() - began < 15
            time.sleep(0.05)
        while (said := httpx.get(f"{other.url}/healthz").json()["git_copy"]) == "ok":
            assert time.monotonic() - began < 15
            time.sleep(0.05)
        assert "ls-remote" in said and httpx.get(f"{service.url}/healthz").json()["git_copy"] == "ok"
        assert "fraud_git_copy_failed 1" in httpx.get(f"{other.url}/metrics").text
        assert ask(other, body("without a copy")).json()["versions"]["parameters"] == 3
    finally:
        service.stop()
        other.stop()


def test_a_version_lives_by_http_alone(settings_for, tmp_path, monkeypatch):
    """Draft, dry run over the warehouse, shadow, share, live, the Git copy: no command line but for the roles."""
    settings = settings_for()
    warehouse = Warehouse(settings)
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('events')}`")
    make_empty(warehouse, CATALOG, "login_account_identity")
    columns = "(event_id, user_id, device_id, occurred_at, received_at, hour)"
    at = "TIMESTAMP '2026-01-10 03:00:00+00'"
    rows = ", ".join(f"('e{n}', 'u1', 'd1', {at}, {at}, {at})" for n in range(3))
    warehouse.query(f"INSERT INTO `{warehouse.table_id('events', 'login_account_identity')}` {columns} VALUES {rows}")
    service = Service(
        tmp_path / "service",
        DATAPLATFORM_BIGQUERY_ENDPOINT=settings.bigquery_endpoint,
        DATAPLATFORM_BIGQUERY_GRPC_ENDPOINT=settings.bigquery_grpc_endpoint,
        DATAPLATFORM_DATASET_PREFIX=settings.dataset_prefix,
        DATAPLATFORM_PROJECT=settings.project,
    )
    service.start()
    try:
        api = httpx.Client(base_url=f"{service.url}/v1/policies/new_device", headers=HEADERS)
        period = {"from": "2026-01-10T00:00:00Z", "to": "2026-01-11T00:00:00Z"}
        assert api.post("/backtests", json=period).status_code == 403
        assert api.get("/export").status_code == 403
        grant(service)
        same = {"changes": {"many_users": 4}, "base_version": 1, "reason": "Nothing."}
        assert api.post("/parameters", json=same).status_code == 422
        change = {"changes": {"many_users": 20}, "base_version": 1, "reason": "A family shares a tablet."}
        assert api.post("/parameters", json=change).json()["version"] == 2
        for wrong, status in (
            ({"from": "yesterday"}, 422),
            ({"to": period["from"]}, 422),
            ({"from": "2020-01-01T00:00:00Z"}, 422),
            ({"version": 9}, 404),
            ({"changes": {"many_users": 1000}}, 422),
            ({"changes": {"many_userz": 5}}, 422),
        ):
            assert api.post("/backtests", json=period | wrong).status_code == status, wrong
        begun = api.post("/backtests", json=period | {"version": 2})
        assert begun.status_code == 202 and begun.headers["location"].endswith(begun.json()["id"])
        second = api.post("/backtests", json=period)
        assert (second.status_code, "retry-after" in second.headers) == (429, True)
        run = f"/backtests/{begun.json()['id']}"
        assert httpx.get(f"{service.url}/v1/policies/listing{run}", headers=HEADERS).status_code == 404
        assert api.get("/backtests/..").status_code == api.get("/backtests/none").status_code == 404
        deadline = time.monotonic() + 60
        while (state := api.get(run).json())["status"] == "running" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert state["status"] == "done", state
        assert state["report"]["decisions"] == 3
        assert state["report"]["parameters"]["many_users"] == {"live": 4, "tried": 20}
        # Any process of the same store tells it.
        elsewhere = DryRuns(ParameterStore(database_url("", service.settings.data_dir), CATALOG.policies))
        assert elsewhere.state("new_device", begun.json()["id"]) == state
        # The command asks the same, and the service tells what it found.
        here = settings.model_copy(update={"data_dir": service.settings.data_dir, "schemas_dir": SCHEMAS})
        monkeypatch.setattr(commands, "get_settings", lambda: here)
        arguments = ["new_device", "--version=2", "--from=2026-01-10", "--to=2026-01-11", "--as=local"]
        said = CliRunner().invoke(commands.backtest, [*arguments, f"--output={tmp_path / 'report'}"])
        assert said.exit_code == 0 and "3 decisions" in said.output, said
        assert "Backtest of new_device" in (tmp_path / "report" / "report.html").read_text()
        (told,) = re.findall(r"backtest (\w{12})", said.output)
        assert api.get(f"/backtests/{told}").json()["report"] == state["report"]
        versions = api.get("/parameters").json()["versions"]
        assert (versions[0]["state"], versions[0]["dry_run"]["decisions"]) == ("dry_run", 3)
        assert api.post("/parameters/2/state", json={"state": "shadow"}).status_code == 200
        approved = api.post("/parameters/2/approve", headers={"X-API-Key": "second"})
        assert approved.status_code == 200
        assert api.post("/parameters/2/state", json={"state": "share", "share_percent": 10}).status_code == 200
        assert api.post("/parameters/2/state", json={"state": "live"}).status_code == 200
        files = api.get("/export").json()["files"]
        assert sorted(files) == ["new_device.yaml", "new_device/1.yaml", "new_device/2.yaml"]
        assert "many_users" in files["new_device.yaml"] and "version: 2" in files["new_device.yaml"]
        # What goes wrong in the process is told.
        warehouse.query(f"DROP TABLE `{warehouse.table_id('events', 'login_account_identity')}`")
        failing = api.post("/backtests", json=period)
        run = f"/backtests/{failing.json()['id']}"
        while (state := api.get(run).json())["status"] == "running" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert state["status"] == "failed" and "materialise the event's asset" in state["error"]
    finally:
        service.stop()


def test_a_backtest_that_was_killed_is_told_and_makes_room(tmp_path):
    """By the process that started it at once, by all others when it has been silent for long."""
    now = [time.time_ns() // 1000]
    store = ParameterStore(database_url("", tmp_path), CATALOG.policies, clock=lambda: now[0])
    runs, backtests, other = DryRuns(store), Backtests(), Backtests()  # of two processes of the service
    question = Question("new_device", "2026-01-10T00:00:00+00:00", "2026-01-11T00:00:00+00:00", "local")
    run = backtests.start(runs, question)
    child = backtests._children[run]
    try:
        assert other.state(runs, "new_device", run)["status"] == "running"
        with pytest.raises(BadRequestError, match="Another backtest") as refused:
            other.start(runs, question)
        assert refused.value.status == 429
    finally:
        child.kill()
        child.wait()
    state = backtests.state(runs, "new_device", run)
    assert state["status"] == "failed" and "ended before it was done" in state["error"]
    lost = runs.begin(question, alone=True)
    assert runs.state("new_device", lost)["status"] == "running"
    now[0] += 31_000_000
    state = other.state(runs, "new_device", lost)
    assert state["status"] == "failed" and "ended before it was done" in state["error"]
    assert runs.begin(question, alone=True) not in (run, lost)


@pytest.mark.parametrize("kills", [pytest.param(1, id="short"), pytest.param(12, id="long", marks=pytest.mark.long)])
def test_kill_9_under_load(tmp_path, kills):
    """No answered decision is lost, and every request id has one answer for ever."""
    service = Service(tmp_path)
    fill(service.settings)
    service.start()
    answered = {}
    conflicts = []
    stop = threading.Event()
    chance = random.Random(kills)

    def client(number):
        own = random.Random(number)
        count = 0
        with httpx.Client(headers=HEADERS, timeout=5) as http:
            while not stop.is_set():
                count += 1
                request_id = f"{number}-{count}" if own.random() < 0.8 else f"{number}-{own.randrange(1, count + 1)}"
                amount = 1000 + int(request_id.split("-")[1])
                try:
                    answer = http.post(f"{service.url}/v1/decisions", json=body(request_id, amount=amount))
                except httpx.TransportError:
                    time.sleep(0.02)
                    continue
                if answer.status_code == 200 and answer.json()["landed"]:
                    if answered.setdefault(request_id, answer.content) != answer.content:
                        conflicts.append(request_id)
                elif answer.status_code not in (200, 503):
                    conflicts.append((request_id, answer.text))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        time.sleep(0.5 + chance.random())
        service.kill()
        service.start()
    time.sleep(0.7)
    stop.set()
    for thread in threads:
        thread.join()
    for request_id in random.Random(1).sample(sorted(answered), 25):
        again = ask(service, body(request_id, amount=1000 + int(request_id.split("-")[1])))
        assert again.content == answered[request_id]
    service.stop()
    assert not conflicts
    landed = service.landed()
    assert len(answered) > 100
    for request_id, answer in answered.items():
        assert answer in landed[request_id]
        assert len(set(landed[request_id])) == 1


def direct(tmp_path, sources=None, **settings):
    return DecisionService(
        Settings(
            env="local", data_dir=tmp_path, schemas_dir=SCHEMAS, first_hour=datetime(2026, 1, 1, tzinfo=UTC), **settings
        ),
        CATALOG,
        sources,
    )


def decide(service, content):
    async def run():
        await service.start()
        try:
            return json.loads(await service.decide(msgspec.json.encode(content), "test"))
        finally:
            await service.stop()

    return asyncio.run(run())


class Down:
    def features(self, key, moment, names=None):
        raise ConnectionError("down")


class Slow:
    def features(self, key, moment, names=None):
        time.sleep(0.1)
        return {}


def test_without_its_feature_store_it_answers_the_fallback(tmp_path):
    answer = decide(direct(tmp_path, dict.fromkeys(CATALOG.entities, Down())), body("down"))
    assert (answer["level"], answer["fallback"]) == ("hold", "features")
    assert answer["degraded"] == ["features of user", "features of receiver", "features of device"]


def test_the_explanation_of_a_fallback_is_of_the_decision_that_was_given(tmp_path):
    service = direct(tmp_path, dict.fromkeys(CATALOG.entities, Down()))
    answer = decide(service, {"request_id": "down", "event": "send_transfer_pay", "entities": {"sender": "u1"}})
    landing = service.answers.landing
    [line] = [
        line for hour in landing.hours() for file in landing.files(hour) for line in landing.read(file).splitlines()
    ]
    record = record_of(line)
    trace = replay(record, CATALOG.policies["transfer"])
    assert trace.decision.level == answer["level"] == "hold"
    assert trace.sentences[0].startswith("The answer is at least hold, the policy's fallback, because features could")


def test_past_its_deadline_it_answers_the_fallback(tmp_path):
    answer = decide(direct(tmp_path, dict.fromkeys(CATALOG.entities, Slow())), body("slow") | {"deadline_ms": 50})
    assert (answer["level"], answer["fallback"]) == ("hold", "deadline")


def test_past_its_deadline_it_asks_no_more_of_a_slow_store(tmp_path):
    slow = dict.fromkeys(CATALOG.entities, Slow())
    answer = decide(direct(tmp_path, slow), body("slower") | {"deadline_ms": 50})
    assert answer["degraded"] == ["features of receiver", "features of device"] and answer["latency_ms"] < 200


def test_without_its_parameters_it_answers_the_fallback(tmp_path):
    service = direct(tmp_path, fraud_database="sqlite:////proc/nowhere/parameters.sqlite")
    answer = decide(service, body("no parameters"))
    assert (answer["level"], answer["fallback"], "parameters" in answer["degraded"]) == (
        "hold",
        "parameters" if not answer["degraded"][1:] else "features",
        True,
    )


def test_a_slow_disk_does_not_keep_the_person_waiting(tmp_path):
    service = direct(tmp_path)
    original = service.answers._store

    def slow(batch, landed):
        time.sleep(0.3)
        return original(batch, landed)

    service.answers._store = slow

    async def run():
        await service.start()
        content = msgspec.json.encode(body("slow disk") | {"deadline_ms": 50})
        began = time.perf_counter()
        first = json.loads(await service.decide(content, "test"))
        took = time.perf_counter() - began
        again = await service.decide(content, "test")
        took_again = time.perf_counter() - began
        patient = msgspec.json.encode(body("slow disk") | {"deadline_ms": 5000})
        second = json.loads(await service.decide(patient, "test"))
        await service.stop()
        return first, json.loads(again), second, took, took_again

    first, again, second, took, took_again = asyncio.run(run())
    assert took < 0.2 and took_again < 0.25
    assert first["landed"] is False and second["landed"] is True
    assert first | {"landed": True} == second
    assert again == first


def test_one_of_several_processes_tells_what_is_wrong_without_a_traceback(tmp_path):
    worker = [sys.executable, "-m", "dataplatform.decisions.worker", str(tmp_path), "127.0.0.1", "0"]
    place = {"DATAPLATFORM_DATA_DIR": str(tmp_path), "DATAPLATFORM_SCHEMAS_DIR": str(tmp_path / "none")}
    ended = subprocess.run(worker, env=os.environ | place, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "no such folder" in ended.stderr and "Traceback" not in ended.stderr


def test_an_answer_that_was_given_is_made_durable_although_its_database_refuses_at_first(tmp_path):
    service = direct(tmp_path)
    original = service.answers._store
    refusals = [sqlite3.OperationalError("database is locked")] * 2

    def refusing(batch, landed):
        if batch and refusals:
            time.sleep(0.1)
            raise refusals.pop()
        return original(batch, landed)

    service.answers._store = refusing

    async def run():
        await service.start()
        first = json.loads(await service.decide(msgspec.json.encode(body("given") | {"deadline_ms": 40}), "test"))
        second = json.loads(await service.decide(msgspec.json.encode(body("given") | {"deadline_ms": 9000}), "test"))
        await service.stop()
        return first, second

    first, second = asyncio.run(run())
    assert first["landed"] is False
    assert second == first | {"landed": True}
    assert len(Service(tmp_path).landed()["given"]) == 1


def test_answers_that_sqlite_lost_with_the_power_come_back_from_the_landing(tmp_path):
    first = decide(direct(tmp_path), body("power"))
    for file in (tmp_path / "fraud").glob("answers.sqlite*"):
        file.unlink()
    assert decide(direct(tmp_path), body("power")) == first


def test_two_processes_give_one_answer(tmp_path):
    """The second process is asked while the first is still writing, with another bench."""
    one, two = direct(tmp_path), direct(tmp_path)

    async def run():
        await one.start()
        await two.start()
        content = msgspec.json.encode(body("both"))
        answers = await asyncio.gather(*(service.decide(content, "test") for service in (one, two, one, two)))
        await one.stop()
        await two.stop()
        return set(answers)

    assert len(asyncio.run(run())) == 1


def test_unknown_features_end_as_the_policy_says(tmp_path):
    service = direct(
        tmp_path,
        {
            name: type("Empty", (), {"features": lambda self, key, moment, names=None: {}})()
            for name in CATALOG.entities
        },
    )
    answer = decide(service, body("unknown"))
    assert (
        answer["level"] == "monitor"
        and "sender.account_age_days" in answer["unknown_facts"]
        and answer["fallback"] == ""
    )


def test_cases_over_http(running):
    """Roles, versions with the difference, notes, and decisions of this service that are linked."""
    store = ParameterStore(database_url("", running.settings.data_dir), CATALOG.policies)
    evidence = {"facts": {"amount": 5}}
    number = Cases(store).take(CaseAlert("http-1", 1, "mule_network", "e", "1", "user", "new", "hold", 60, evidence))
    at = f"{running.url}/v1/cases"
    assert httpx.get(at).status_code == 401
    assert httpx.get(at, headers={"X-API-Key": "second"}).status_code == 403
    store.grant("local", "editor", by="root")
    store.grant("second", "viewer", by="root")
    listed = httpx.get(at, headers=HEADERS, params={"status": "active", "entity_key": "new"}).json()
    assert [(case["id"], case["level"], case["version"]) for case in listed["cases"]] == [(number, "hold", 1)]
    for query in ({"colour": "red"}, {"status": "lost"}, {"limit": "many"}):
        assert httpx.get(at, headers=HEADERS, params=query).status_code == 422
    assert httpx.get(f"{at}/99999", headers=HEADERS).status_code == 404
    change = {"version": 1, "status": "in_review", "assignee": "local", "note": "Mine."}
    assert httpx.patch(f"{at}/{number}", headers={"X-API-Key": "second"}, json=change).status_code == 403
    assert httpx.patch(f"{at}/{number}", headers=HEADERS, json=change).json()["version"] == 2
    late = httpx.patch(f"{at}/{number}", headers=HEADERS, json={"version": 1, "status": "dismissed"})
    assert late.status_code == 409
    assert late.json()["difference"]["status"] == {"base": "open", "live": "in_review", "wanted": "dismissed"}
    for bad in ({"version": "1"}, {"version": 2}, {"version": 2, "status": "lost"}, {"version": 2, "level": "pass"}):
        assert httpx.patch(f"{at}/{number}", headers=HEADERS, json=bad).status_code == 422
    assert httpx.post(f"{at}/{number}/notes", headers=HEADERS, json={"note": "Called."}).status_code == 201
    httpx.post(f"{running.url}/v1/decisions", headers=HEADERS, json=body("case-1"))
    linked = httpx.post(f"{at}/{number}/decisions", headers=HEADERS, json={"request_id": "case-1"})
    assert (linked.status_code, linked.json()["linked"]) == (201, True)
    assert httpx.post(f"{at}/{number}/decisions", headers=HEADERS, json={"request_id": "none"}).status_code == 422
    case = httpx.get(f"{at}/{number}", headers={"X-API-Key": "second"}).json()
    assert [each["request_id"] for each in case["decisions"]] == ["case-1"]
    assert [each["what"] for each in case["history"]] == ["opened", "changed", "note", "linked"]
    assert case["evidence"][0]["evidence"] == evidence
    assert {"/v1/cases", "/v1/cases/{case}"} <= httpx.get(f"{running.url}/openapi.json").json()["paths"].keys()


def test_a_landing_that_failed_is_repeated_with_the_next(tmp_path):
    """The first decision is refused as not durable; it is landed with the second one, once."""
    service = direct(tmp_path)
    commit = service.answers.writer.commit
    failures = [OSError("no space left")]

    def failing():
        if not failures:
            return commit()
        for file in service.answers.writer._files.values():
            file.pending.clear()
        future = asyncio.get_running_loop().create_future()
        future.set_exception(failures.pop())
        return future

    service.answers.writer.commit = failing

    async def run():
        await service.start()
        with pytest.raises(BadRequestError) as error:
            await service.decide(msgspec.json.encode(body("lost")), "test")
        assert error.value.status == 503
        await service.decide(msgspec.json.encode(body("next")), "test")
        await service.stop()

    asyncio.run(run())
    landed = Service(tmp_path).landed()
    assert {name: len(answers) for name, answers in landed.items()} == {"lost": 1, "next": 1}


def test_processes_count_a_users_requests_together(tmp_path):
    """However a user's requests are spread over the processes of a host, and also after it was started again."""
    one, two = (SharedRates(tmp_path, ["a", "b"], 10.0) for _ in range(2))
    now = 1000.0
    taken = [each.wait("a", now) == 0 for _ in range(10) for each in (one, two)]
    assert taken == [True] * 10 + [False] * 10
    assert two.wait("a", now) == pytest.approx(0.1) and two.wait("b", now) == 0
    # At twice the allowed rate for ten seconds, one half is refused.
    passed = sum(each.wait("a", now + n / 10) == 0 for n in range(1, 101) for each in (one, two))
    assert passed == 100
    assert [each.wait("a", 5.0) for each in (one, two)] == [0, 0]  # the clock began anew
    slow = SharedRates(tmp_path, ["a", "b"], 0.5)
    assert slow.wait("a", now) == 0 and slow.wait("a", now + 1.9) > 0 and slow.wait("a", now + 2.0) == 0


def test_sqlites_log_stays_short_and_nobody_who_commits_tidies_it(tmp_path, monkeypatch):
    monkeypatch.setattr("dataplatform.decisions.answers._MOST_LOG_BYTES", 200_000)
    service = direct(tmp_path)
    answers = service.answers
    log = answers.path.with_name("answers.sqlite-wal")

    async def keep(count, prefix):
        waits = [
            answers.keep(f"{prefix}{n}", b"d", msgspec.json.encode(["x" * 2_000]), datetime.now(UTC), 60.0)
            for n in range(count)
        ]
        await asyncio.gather(*waits)

    async def run():
        await keep(2_500, "a")  # more than SQLite's own limit of 1,000 pages
        grown = log.stat().st_size
        answers.checkpoint()  # in the file, and the log begins anew
        for turn in range(5):
            await keep(50, f"b{turn}-")
            answers.checkpoint()
        kept = answers.record("a2499"), log.stat().st_size
        await answers.close()
        return grown, *kept

    grown, record, after = asyncio.run(run())
    assert grown > 4_100_000 and after <= grown and record is not None
    assert sum(file.stat().st_size for file in (tmp_path / "fraud").glob("answers.sqlite")) > 5_000_000


def test_old_request_ids_are_forgotten_a_few_at_a_time(tmp_path):
    """Two go for each that comes, so that nobody waits for many; what was never landed stays."""
    answers = direct(tmp_path).answers
    now = datetime.now(UTC)
    old = now - timedelta(hours=KEEP_HOURS, minutes=1)

    async def keep(names, received):
        await asyncio.gather(*(answers.keep(name, b"d", b"{}", received, 60.0) for name in names))

    def kept():
        return [name for (name,) in answers._reader.execute("SELECT request_id FROM kept ORDER BY id")]

    async def run():
        await keep([f"old{n}" for n in range(100)], old)
        await keep(["young"], now - timedelta(hours=KEEP_HOURS - 1))
        await keep(["first"], now)
        seen = kept()
        for turn in range(5):
            await keep([f"new{turn}-{n}" for n in range(20)], now)
        return seen, kept()

    seen, after = asyncio.run(run())
    assert 94 <= sum(name.startswith("old") for name in seen) <= 98
    assert after[:2] == ["young", "first"] and len(after) == 102
