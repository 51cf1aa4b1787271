"""Fixtures of the whole suite: the embedded servers, started once a session (a worker, under pytest-xdist), and settings for a test."""

import gc
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pg8000.exceptions
import pg8000.native
import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry

from dataplatform.local.servers import Server, accepts_connections, bigquery_command, free_ports, mongo_command
from dataplatform.settings import Settings

SettingsFor = Callable[..., Settings]


class BigQuery:
    """The embedded BigQuery server of this session. `kill` is SIGKILL; `start` brings it back with its data, on its ports."""

    project = "local"

    def __init__(self, folder: Path) -> None:
        port, grpc_port = free_ports(2)
        self.data_dir = folder
        self.gcs_root = folder / "gcs"
        self.endpoint = f"http://127.0.0.1:{port}"
        self.grpc_endpoint = f"127.0.0.1:{grpc_port}"
        self._server = Server(
            "bigquery",
            bigquery_command(folder, port, grpc_port, memory_limit="2GB", threads=1),
            log=folder / "server.log",
            ready_url=self.endpoint,
            start_seconds=120,
        )

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def running(self) -> bool:
        return self._server.process is not None

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()

    def stop(self) -> None:
        self._server.stop()


class Mongo:
    """The MongoDB-protocol server of this session; with DATAPLATFORM_TEST_MONGO_URI that one, which `kill` cannot kill."""

    def __init__(self, folder: Path, uri: str | None) -> None:
        self._server: Server | None = None
        if uri is None:
            (port,) = free_ports(1)
            uri = f"mongodb://127.0.0.1:{port}/"
            self._server = Server(
                "mongo",
                mongo_command(folder / "data", port),
                log=folder / "server.log",
                ready_port=port,
                start_seconds=60,
            )
        self.uri = uri

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded server, so that a test may kill it."""
        return self._server is not None

    @property
    def pid(self) -> int:
        assert self._server is not None, "not the embedded server"
        return self._server.pid

    @property
    def running(self) -> bool:
        return self._server is None or self._server.process is not None

    def start(self) -> None:
        if self._server is not None:
            self._server.start()

    def kill(self) -> None:
        assert self._server is not None, "a server given by DATAPLATFORM_TEST_MONGO_URI is not ours to kill"
        self._server.kill()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


class RedisServer:
    """A real redis-server of this session, durable with every write; `kill` is SIGKILL."""

    def __init__(self, program: str, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{port}/0"
        self._server = Server(
            "redis",
            [program, "--port", str(port), "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"],
            log=folder / "server.log",
            ready_port=port,
            start_seconds=20,
        )

    def start(self) -> None:
        """Until it answers: it takes connections a moment before it has read what it held."""
        self._server.start()
        client = redis.Redis.from_url(
            self.url, retry=Retry(ConstantBackoff(0.01), 1_000), retry_on_error=[BusyLoadingError]
        )
        client.ping()
        client.close()

    def kill(self) -> None:
        self._server.kill()

    def pause(self) -> None:
        """Let it hang: it takes connections and answers nothing."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._server.stop()


REDIS_PROGRAM = shutil.which("redis-server")


def _postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs, where there is one: on PATH, or where Debian puts them."""
    program = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = Path(program) if program else debian[-1] if debian else None
    return found.parent if found else None


POSTGRES_PROGRAMS = _postgres_programs()


class Postgres:
    """A real PostgreSQL of this session. It refuses to run as root, so that it runs as another user there."""

    def __init__(self, programs: Path, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.folder = folder
        self._programs = programs
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        data = self.folder / "data"
        initdb = [self._programs / "initdb", "-D", data, "-U", "test", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=self._user)
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", data, "-k", self.folder, "-h", "127.0.0.1", "-p", str(self.port), "-F"],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "server.log").open("wb"),
            user=self._user,
        )
        deadline = time.monotonic() + 30
        while not accepts_connections(self.port):
            assert time.monotonic() < deadline and self._process.poll() is None, (
                self.folder / "server.log"
            ).read_text()
            time.sleep(0.05)

    def new_database(self) -> str:
        """URL of an empty database of its own."""
        name = f"t{uuid.uuid4().hex[:12]}"
        deadline = time.monotonic() + 10
        while True:  # it takes connections a little before it is ready
            try:
                connection = pg8000.native.Connection("test", host="127.0.0.1", port=self.port, database="postgres")
                break
            except pg8000.exceptions.DatabaseError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        connection.run(f"CREATE DATABASE {name}")
        connection.close()
        return f"postgresql+pg8000://test@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, where one is installed. Without one, its tests are not collected, and the summary says so."""
    assert POSTGRES_PROGRAMS is not None, "PostgreSQL is not installed"
    with tempfile.TemporaryDirectory(prefix="dataplatform-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(POSTGRES_PROGRAMS, Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real redis-server, where there is one on PATH. Without one, tests of the adapter are not collected at all, and the
    summary says so.
    """
    assert REDIS_PROGRAM is not None, "no redis-server on PATH"
    server = RedisServer(REDIS_PROGRAM, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES_PROGRAMS else [])])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLAlchemy URL of an empty database, of every kind that the store of parameters and cases is used on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'parameters.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


def pytest_collection_finish() -> None:
    """All that is imported stays to the end: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says whether what needs a server of the machine was tested."""
    for what, found, fix in (
        ("Redis, for the online features", REDIS_PROGRAM, "redis-server"),
        ("PostgreSQL, for parameters and cases", POSTGRES_PROGRAMS, "postgresql"),
    ):
        if found is None:
            terminalreporter.section(f"NOT TESTED: {what}", yellow=True)
            terminalreporter.line(f"It is not on this machine; install {fix} and run the tests again.")
        else:
            terminalreporter.line(f"{what}: tested with {found}")


@pytest.fixture(scope="session")
def bigquery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    """The embedded BigQuery server. A test that kills it starts it again before it ends."""
    server = BigQuery(tmp_path_factory.mktemp("bigquery"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """The MongoDB-protocol server. A test that kills it (only when `embedded`) starts it again before it ends."""
    server = Mongo(tmp_path_factory.mktemp("mongo"), os.environ.get("DATAPLATFORM_TEST_MONGO_URI"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def dataset_prefix() -> str:
    """A prefix that no other test's datasets have: the server is shared by the session."""
    return f"t{uuid.uuid4().hex[:10]}_"


@pytest.fixture
def settings_for(tmp_path: Path, bigquery: BigQuery, dataset_prefix: str) -> SettingsFor:
    """Makes the settings of a test: a data folder of its own, the session's server, datasets and bucket of its own.

    Its landing lies in a bucket below the server's `gcs_root`, so that load jobs by `gs://` find the files. Anything can be overridden.
    """

    def make(**overrides: Any) -> Settings:
        bucket = dataset_prefix.rstrip("_")
        data_dir = tmp_path / "data"
        if not data_dir.exists():
            data_dir.mkdir()
            (data_dir / "gcs").symlink_to(bigquery.gcs_root, target_is_directory=True)
        values: dict[str, Any] = {
            "env": "local",
            "data_dir": data_dir,
            "bucket": bucket,
            "project": bigquery.project,
            "bigquery_endpoint": bigquery.endpoint,
            "bigquery_grpc_endpoint": bigquery.grpc_endpoint,
            "dataset_prefix": dataset_prefix,
            "first_hour": datetime.fromisoformat("2026-01-01T00:00:00Z"),
        }
        return Settings(**(values | overrides))

    return make
