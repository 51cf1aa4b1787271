"""A real collector process on a port of its own, and a client that says exactly what it is told to."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from obstore.store import LocalStore

from dataplatform.landing import Landing

LIKE = """\
action: like
object: item
service: shop
owner: shop
domain: shop
description: A person liked an item.
params:
  - {name: item_id, type: STRING, required: true}
  - {name: place, type: INT64, min: 0}
"""
SUPPORT = {
    "vocabulary.yaml": ("actions: {like: likes, view: views}\nobjects: {item: a thing}\nservices: {shop: the shop}\n"),
    "owners.yaml": "shop: {description: the shop's team, email: shop@example.com}\n",
}


def write_contracts(root: Path) -> Path:
    (root / "events" / "shop").mkdir(parents=True)
    (root / "events" / "shop" / "like_item_shop.yaml").write_text(LIKE)
    for name, text in SUPPORT.items():
        (root / name).write_text(text)
    return root


@dataclass
class Running:
    """A collector process and its folders."""

    data: Path
    schemas: Path
    settings: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    limits: dict[int, int] = field(default_factory=dict)
    """Of the system on the process: `resource.RLIMIT_…` → value."""
    process: subprocess.Popen[str] | None = None
    url: str = ""
    port: int = 0

    def start(self) -> "Running":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DATAPLATFORM_")}
        environment |= {
            "DATAPLATFORM_DATA_DIR": str(self.data),
            "DATAPLATFORM_SCHEMAS_DIR": str(self.schemas),
            "DATAPLATFORM_LANDING_ROTATE_SECONDS": "0.2",
            **{f"DATAPLATFORM_{name.upper()}": value for name, value in self.settings.items()},
        }
        limits = self.limits
        log = (self.data.parent / f"{self.data.name}.log").open("a")
        self.process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("dataplatform")),
                "collector",
                "--port",
                str(self.port),
                *self.arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            preexec_fn=(lambda: [resource.setrlimit(kind, (most, most)) for kind, most in limits.items()] and None)
            if limits
            else None,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "listens on" in line, Path(log.name).read_text()
        self.url = line.split()[3]
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    @property
    def landing(self) -> Landing:
        root = self.data / "gcs" / "landing"
        return Landing(LocalStore(root), "events", "gs://landing/events", root)

    def landed(self) -> list[dict[str, Any]]:
        """Every record that readers see once all writers have let go of their files, in the order of the landing."""
        landing = self.landing
        landing.settle(datetime.now(UTC) + timedelta(hours=1), timeout_seconds=10)
        records = []
        for hour in landing.hours():
            for file in landing.files(hour):
                lines = landing.read(file).split(b"\n")
                assert lines.pop() == b""
                for number, line in enumerate(lines, 1):
                    record = msgspec.json.decode(line)
                    assert (record["file"], record["line"]) == (file.stem, number)
                    assert datetime.fromisoformat(record["received_at"]).strftime("%H") == f"{hour:%H}"
                    records.append(record)
        return records

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, auth=("local", ""), timeout=30)

    def post(self, body: bytes | str, path: str = "/v1/events", **headers: str) -> httpx.Response:
        with self.client() as client:
            return client.post(
                path, content=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def metrics(self) -> dict[str, float]:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def event(event_id: str, **more: Any) -> dict[str, Any]:
    """A valid event."""
    return {
        "event_id": event_id,
        "event": "like_item_shop",
        "event_time": "2026-01-31T10:00:00Z",
        "sent_at": "2026-01-31T10:00:01Z",
        "params": {"item_id": "7", "place": 1},
        **more,
    }


def read_answers(connection: socket.socket, count: int | None = None) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, header and body of so many answers, or of all until the connection is closed."""
    data, answers = b"", []
    while count is None or len(answers) < count:
        while b"\r\n\r\n" not in data or len(data) < _whole(data):
            try:
                more = connection.recv(1 << 20)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not data, data
                return answers
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in fields)}
        length = int(headers.get("content-length", 0))
        answers.append((int(status.split()[1]), headers, rest[:length]))
        data = rest[length:]
    assert not data
    return answers


def _whole(data: bytes) -> int:
    head, _, _ = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return len(head) + 4 + sum(lengths)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts collectors with settings of their own; all are stopped at the end."""
    started: list[Running] = []

    def start_one(*arguments: str, limits: dict[int, int] | None = None, **settings: str) -> Running:
        schemas = tmp_path / "schemas"
        if not schemas.exists():
            write_contracts(schemas)
        one = Running(tmp_path / f"data{len(started)}", schemas, settings, arguments, limits or {})
        started.append(one)
        return one.start()

    yield start_one
    for one in started:
        if one.process is not None and one.process.poll() is None:
            one.stop()
        shutil.rmtree(one.data, ignore_errors=True)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One collector with the default settings for a whole module."""
    root = tmp_path_factory.mktemp("collector")
    running = Running(root / "data", write_contracts(root / "schemas")).start()
    yield running
    assert running.stop() == 0
