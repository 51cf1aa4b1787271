"""What a user sees: status, errors that name what to mend, and never a password."""

import base64
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from source_lab import Background, Lab, wait_for

from dataplatform.cdc import connections, service
from dataplatform.cdc.commands import _key, cdc
from dataplatform.cdc.connections import SourceError, connect, redact, source_error
from dataplatform.cdc.secrets import SecretError, secret_of
from dataplatform.cdc.service import capture_once
from dataplatform.cdc.snapshot import Pace
from dataplatform.cdc.state import PositionFile, Unit, UnitState, landing_of, units_of
from dataplatform.cdc.status import metrics_text, status_of
from dataplatform.errors import PlatformError
from dataplatform.local.servers import Server, environment_program, free_ports

SECRET = "s3cr:et/word"
QUOTED = "s3cr%3Aet%2Fword"


def test_status_of_a_running_capture(lab: Lab) -> None:
    lab.contract("docs")
    lab.contract("other")
    lab.db.docs.insert_one({"_id": 1})
    (one, two) = status_of(lab.settings, lab.contracts)
    assert (one.state, two.state) == ("not_started", "not_started")
    background = Background(lab)
    wait_for(
        lambda: len(lab.state.collections) == 2 and all(c.ended for c in lab.state.collections.values()), "snapshots"
    )
    lab.db.docs.insert_one({"_id": 2})
    wait_for(lambda: lab.state.collections[f"{lab.database}.docs"].changes == 1, "the change")
    (docs, _) = status_of(lab.settings, lab.contracts)
    assert docs.state == "streaming"
    assert docs.lag_seconds is not None
    assert docs.lag_seconds < 30
    assert docs.changes == 1
    assert docs.position is not None
    assert docs.held_by is not None
    late = status_of(lab.settings, lab.contracts, now=lab.state.passed_at + timedelta(hours=3))
    assert late[0].state == "behind"
    text = metrics_text([docs])
    assert f'cdc_changes_total{{collection="{lab.database}.docs",connection="lab"}} 1' in text
    background.end()
    result = lab.run("cdc", "status", "--json")
    assert result.returncode == 0, result.stderr
    assert [row["collection"] for row in json.loads(result.stdout)] == [f"{lab.database}.docs", f"{lab.database}.other"]
    assert json.loads(result.stdout)[0]["held_by"] is None


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"mongodb://user:{QUOTED}@127.0.0.1:1/", "no server answers"),
        (f"mongo://user:{QUOTED}@127.0.0.1:1/", "not a MongoDB URI"),
        (f"mongodb://user:{SECRET}@127.0.0.1:1/", "not a MongoDB URI"),
        ("mongodb://user:s3cr@et/word@127.0.0.1:1/", "not a MongoDB URI"),
        ("mongodb://127.0.0.1:1/?nonsense", "not a MongoDB URI"),
    ],
)
def test_a_wrong_uri(lab: Lab, monkeypatch: pytest.MonkeyPatch, uri: str, message: str) -> None:
    lab.contract("docs")
    monkeypatch.setattr(connections, "SELECTION_SECONDS", 0.3)
    settings = lab.settings.model_copy(update={"connections": {"lab": _Secret(uri)}})
    with pytest.raises(SourceError, match=message) as caught:
        capture_once(settings, lambda line: None)
    assert "DATAPLATFORM_CONNECTIONS__LAB" in str(caught.value)
    assert not re.search("s3cr|et/word", str(caught.value))
    assert QUOTED not in str(caught.value)


class _Secret:
    def __init__(self, uri: str) -> None:
        self.uri = uri

    def get_secret_value(self) -> str:
        return self.uri


class _SecretManager(BaseHTTPRequestHandler):
    """Answers as Google's does, for two secrets."""

    def do_GET(self) -> None:
        match self.path:
            case "/v1/projects/p/secrets/uri/versions/latest:access":
                status, content = 200, {"payload": {"data": base64.b64encode(b"mongodb://u:p@h/\n").decode()}}
            case "/v1/projects/p/secrets/uri/versions/3:access":
                status, content = 403, {"error": "no"}
            case _:
                status, content = 404, {}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_uri_from_the_secret_manager(lab: Lab) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _SecretManager)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"

    def read(reference: str, endpoint: str = endpoint) -> str:
        return secret_of(reference, "THE_SETTING", endpoint=endpoint, session=requests.Session())

    assert read("sm://projects/p/secrets/uri") == "mongodb://u:p@h/"
    for reference, message in [
        ("sm://projects/p/secrets/uri/versions/3", "HTTP 403.*Secret Accessor"),
        ("sm://projects/p/secrets/other", "HTTP 404.*check project"),
        ("sm://p/uri", "names no secret"),
    ]:
        with pytest.raises(SecretError, match=f"(?s)THE_SETTING.*{message}"):
            read(reference)
    server.shutdown()
    server.server_close()
    with pytest.raises(SecretError, match="cannot be read: ConnectionError"):
        read("sm://projects/p/secrets/uri", endpoint)
    # A connection whose setting names a secret asks for it: without credentials here, it says which and where.
    settings = lab.settings.model_copy(update={"connections": {"lab": _Secret("sm://nonsense")}})
    with pytest.raises(SecretError, match="names no secret") as caught:
        connections.uri_of(settings, "lab")
    assert caught.value.where == "DATAPLATFORM_CONNECTIONS__LAB"


def test_no_uri_at_all(lab: Lab) -> None:
    lab.contract("docs")
    result = lab.run("cdc", "capture", "--once", "--connection", "nobody")
    assert result.returncode == 1
    assert "no contract names the connection `nobody`" in result.stderr
    with pytest.raises(SourceError, match="has no URI"):
        connect(lab.settings, "nobody")


def test_errors_of_the_deployment_say_what_to_mend() -> None:
    uri = f"mongodb://me:{QUOTED}@h/"
    refused = source_error(OperationFailure(f"not authorized, {uri}", 13), "shop", uri)
    assert "grant find and changeStream" in str(refused)
    assert QUOTED not in str(refused)
    assert "user and password" in str(source_error(OperationFailure("bad", 18), "shop", uri))
    assert "replica set" in str(source_error(OperationFailure("only supported", 40573), "shop", uri))
    assert redact(f"x {SECRET} y", uri) == "x *** y"


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[Any]:
    """Starts the server in another way."""
    started: list[Server] = []

    def start(*options: str, folder: str | None = None) -> str:
        """With a folder's name: on the data of the server that was started there before, and is ended."""
        if folder is not None:
            for one in started:
                one.stop()
        (port,) = free_ports(1)
        command = [str(environment_program(".venv-mongo", "secantusd-py")), "--port", str(port), *options]
        server = Server(
            "mongo",
            [*command, "--storage-path", str(tmp_path / (folder or f"m{port}"))],
            tmp_path / "log",
            ready_port=port,
        )
        server.start()
        started.append(server)
        return f"mongodb://127.0.0.1:{port}/"

    yield start
    for server in started:
        server.kill()


def test_no_replica_set(lab: Lab, other_server: Any) -> None:
    lab.contract("docs")
    settings = lab.settings.model_copy(update={"connections": {"lab": _Secret(other_server("--standalone"))}})
    with pytest.raises(SourceError, match="is no replica set"):
        capture_once(settings, lambda line: None)


def test_a_user_who_may_not_read(lab: Lab, other_server: Any) -> None:
    """Wrong password and missing rights, told by a server that asks for them; collections of other connections go on."""
    uri = other_server("--sync-on-commit", folder="auth")
    admin: MongoClient[dict[str, Any]] = MongoClient(uri)
    admin.admin.command("createUser", "reader", pwd=SECRET, roles=[{"role": "read", "db": "elsewhere"}])
    admin.close()
    uri = other_server("--auth", folder="auth")
    address = uri.removeprefix("mongodb://")
    lab.contract("docs")
    lab.db.docs.insert_one({"_id": 1})
    other = lab.settings.schemas_dir / "collections" / "shop.refused.yaml"
    other.write_text("connection: refused\ndatabase: shop\ncollection: refused\nowner: team\ndescription: A test.\n")
    for user, message in [
        (f"reader:{QUOTED}", "may not read.*grant find and changeStream"),
        ("reader:wrong", "refuses the user.*check user and password"),
    ]:
        secrets = {"lab": _Secret(lab.uri), "refused": _Secret(f"mongodb://{user}@{address}?authSource=admin")}
        settings = lab.settings.model_copy(update={"connections": secrets})
        with pytest.raises(SourceError, match=f"(?s)DATAPLATFORM_CONNECTIONS__REFUSED.*{message}") as caught:
            capture_once(settings, lambda line: None)
        assert SECRET not in str(caught.value)
        assert lab.state.collections[f"{lab.database}.docs"].ended, "the other connection goes on"
    lab.assert_landed("docs")


def test_a_snapshot_that_is_refused_stops_no_other_collection(lab: Lab, other_server: Any) -> None:
    uri = other_server("--enable-test-commands", "--sync-on-commit")
    settings = lab.settings.model_copy(update={"connections": {"lab": _Secret(uri)}})
    lab.close()
    lab.__init__(settings, uri)  # type: ignore[misc]
    lab.contract("bad")
    lab.contract("good")
    for name in ("bad", "good"):
        lab.db[name].insert_one({"_id": 1})
    data = {"failCommands": ["listCollections"], "errorCode": 13}
    lab.client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
    with pytest.raises(SourceError, match="may not read"):
        lab.capture()
    assert not lab.state.collections[f"{lab.database}.bad"].ended
    lab.assert_landed("good")
    lab.capture()
    lab.assert_landed("bad")
    lab.client.close()


def test_error_286_reads_everything_again_and_says_so(lab: Lab, other_server: Any) -> None:
    """The oplog is shorter than the capture's pause: code 286. The table is made equal beside itself, and the gap is recorded."""
    uri = other_server("--oplog-max-entries", "300", "--sync-on-commit")
    settings = lab.settings.model_copy(update={"connections": {"lab": _Secret(uri)}})
    lab.close()
    lab.__init__(settings, uri)  # type: ignore[misc]
    lab.contract("docs")
    lab.db.docs.insert_many([{"_id": n} for n in range(20)])
    lab.capture()
    lab.db.docs.delete_many({"_id": {"$lt": 5}})
    for _ in range(4):
        lab.db.noise.insert_many([{"n": number} for number in range(1000)])
    lab.db.docs.insert_one({"_id": 100})
    state = lab.capture()
    (lost,) = state.lost
    assert "286" in lost.reason or "oplog" in lost.reason.lower() or "resume" in lost.reason.lower()
    assert lost.after <= lost.until
    ended = state.collections[f"{lab.database}.docs"].ended
    assert [(one.reason, one.sweep) for one in ended] == [("new collection", True), ("history lost", True)]
    lab.assert_landed("docs")
    (status,) = status_of(lab.settings, lab.contracts)
    assert len(status.lost) == 1
    lab.client.close()  # before its server ends, for which closing would wait


def test_a_server_that_dies_is_waited_for(lab: Lab, mongo: Any) -> None:
    if not mongo.embedded:
        return
    lab.contract("docs")
    lab.db.docs.insert_one({"_id": 1})
    background = Background(lab)
    wait_for(lambda: lab.state.token is not None, "the first commit")
    mongo.kill()
    time.sleep(0.3)
    mongo.start()
    lab.db.docs.insert_one({"_id": 2})
    wait_for(
        lambda: any(one.key == '{"$numberInt":"2"}' for one in lab.landed("docs")), "the change after the death", 30
    )
    background.end()
    lab.assert_landed("docs")


def test_a_worker_that_dies_is_taken_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two databases, one stream each; the process that has both is killed, and a standby takes both and loses nothing."""
    monkeypatch.setattr(service, "TAKE_SECONDS", 0.3)
    monkeypatch.setenv("DATAPLATFORM_CDC_STREAM_SCOPE", "database")
    second = f"{lab.database}second"
    contract = lab.contract("docs")
    text = (lab.settings.schemas_dir / "collections" / f"{contract.namespace}.yaml").read_text()
    other = lab.settings.schemas_dir / "collections" / f"{second}.docs.yaml"
    other.write_text(text.replace(f"database: {lab.database}", f"database: {second}"))
    lab.settings = lab.settings.model_copy(update={"cdc_stream_scope": "database"})
    databases = {Unit("lab", lab.database): lab.db, Unit("lab", second): lab.client[second]}

    def states() -> list[UnitState]:
        return [PositionFile(lab.settings, unit).read() for unit in databases]

    def held_by(pid: int) -> bool:
        return all(state.holder is not None and state.holder.pid == pid for state in states())

    first = lab.process("cdc", "capture")
    wait_for(lambda: held_by(first.pid) and all(state.token for state in states()), "the first worker's leases")
    stop = threading.Event()
    told: list[str] = []
    standby = threading.Thread(
        target=service.capture_always, args=(lab.settings, told.append), kwargs={"standby": True, "stop": stop}
    )
    standby.start()
    wait_for(lambda: len(told) == 2, "the standby's word that it waits")
    assert all("another capture has `lab/" in line for line in told)
    first.kill()
    first.wait()
    for database in databases.values():
        database.docs.insert_one({"_id": "after the death"})
    wait_for(lambda: held_by(os.getpid()), "the take-over")
    wait_for(lambda: all(sum(c.changes for c in state.collections.values()) for state in states()), "the changes")
    stop.set()
    standby.join(30)
    lab.unit = Unit("lab", lab.database)
    lab.assert_landed("docs")


def test_databases_are_units_of_their_own(lab: Lab) -> None:
    contract = lab.contract("docs")
    other = contract.model_copy(update={"database": "second"})
    assert [unit.name for unit in units_of([contract, other], "deployment")] == ["lab"]
    names = sorted([f"lab/{lab.database}", "lab/second"])
    assert sorted(unit.name for unit in units_of([contract, other], "database")) == names


def test_the_pace_is_lowered_while_the_source_is_slow() -> None:
    now = [0.0]
    latency = [0.001]
    pace = Pace(1000, lambda: latency[0], clock=lambda: now[0])
    for _ in range(30):
        now[0] += pace.wait_seconds(100)
    assert 2.5 < now[0] < 3.5  # 3,000 documents at 1,000 a second
    latency[0] = 0.1
    for _ in range(40):
        now[0] += pace.wait_seconds(100) + 0.01
    assert pace.rate < 300
    latency[0] = 0.001
    for _ in range(400):
        now[0] += pace.wait_seconds(100) + 0.01
    assert pace.rate == 1000


@pytest.mark.parametrize("key", ["no json", '{"$oid":"x"}', '{"$oid":5}', '{"$numberDecimal":"x"}', "[" * 100_000])
def test_a_key_that_is_none(key: str) -> None:
    with pytest.raises(PlatformError, match="not Extended JSON") as caught:
        _key(key)
    assert caught.value.where == key


def test_a_key_is_taken_as_its_canonical_text() -> None:
    assert _key("5") == '{"$numberInt":"5"}'
    assert _key(' {"$oid" : "6b05381b5ceab495e96d2fbe"}') == '{"$oid":"6b05381b5ceab495e96d2fbe"}'


def test_reconcile_tells_no_capture_from_a_difference(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a capture that runs nothing can be said of what differs: not the exit status of a difference."""
    lab.contract("docs")
    lab.db.docs.insert_one({"_id": 1})
    lab.sync()
    lab.db.docs.insert_one({"_id": 2})
    monkeypatch.setattr("dataplatform.cdc.commands.get_settings", lambda: lab.settings)
    result = CliRunner().invoke(cdc, ["reconcile", f"{lab.database}.docs"])
    assert result.exit_code == 3, result.output
    assert "`--until` a minute from now" in result.output


@pytest.mark.parametrize("command", [["as-of", "5"], ["reconcile"], ["repair"]], ids=lambda command: command[0])
def test_before_there_are_tables(lab: Lab, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    lab.contract("docs")
    monkeypatch.setattr("dataplatform.cdc.commands.get_settings", lambda: lab.settings)
    result = CliRunner().invoke(cdc, [command[0], f"{lab.database}.docs", *command[1:]])
    assert isinstance(result.exception, PlatformError), result.output
    assert "catch-up" in str(result.exception)


def test_small_files_that_cannot_be_read(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """They are named; a broken request for one collection's snapshot stops no other collection."""
    docs, other = lab.contract("docs"), lab.contract("other")
    lab.db.docs.insert_one({"_id": 1})
    lab.db.other.insert_one({"_id": 1})
    landing_of(lab.settings, docs).conditional("resnapshot.json").write(b"{", None)
    with pytest.raises(PlatformError, match="cannot be read") as caught:
        lab.capture()
    assert str(caught.value.where).endswith("resnapshot.json")
    assert caplog.text.count("cannot be read") == 1
    lab.assert_landed("docs")
    lab.assert_landed("other")
    landing_of(lab.settings, other).conditional("applied.json").write(b"[]", None)
    with pytest.raises(PlatformError, match="cannot be read") as caught:
        status_of(lab.settings, lab.contracts)
    assert str(caught.value.where).endswith("applied.json")


def test_ports_that_cannot_be_had() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(cdc, ["capture", "--once", "--metrics-port", str(port)])
    assert isinstance(result.exception, PlatformError)
    assert result.exception.where == f"127.0.0.1:{port}"
    assert CliRunner().invoke(cdc, ["capture", "--once", "--metrics-port", "99999999"]).exit_code == 2
