"""How the embedded servers are started: their commands, and one server as a plain child process for tests and benchmarks."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..errors import PlatformError

CHECKOUT = Path(__file__).resolve().parents[3]
"""The project's root: the embedded servers live in environments of their own beside `.venv`."""

BELOW_EPHEMERAL = range(10_000, 32_000)
"""Ports that no system gives to outgoing connections by itself."""

TETHER = Path(__file__).with_name("tether.py")


def bigquery_command(
    data_dir: Path, port: int, grpc_port: int, memory_limit: str = "4GB", threads: int | None = None
) -> list[str]:
    """Command of the embedded BigQuery server on 127.0.0.1; its `gs://` is the folder `<data_dir>/gcs`.

    `threads` work on one statement; by default one for each core, which over a few rows is more work than it spares.
    """
    python = environment_program(".venv-bigquery", "python")
    server = Path(__file__).with_name("bigquery_server.py")
    return [
        *(str(python), "-P", str(server)),
        *("--port", str(port), "--grpc-port", str(grpc_port)),
        *("--data-dir", str(data_dir), "--memory-limit", memory_limit),
        *(("--threads", str(threads)) if threads else ()),
    ]


def mongo_command(data_dir: Path, port: int, *, cache: str = "256M") -> list[str]:
    """Command of the MongoDB-protocol server on 127.0.0.1; what it acknowledged survives a kill."""
    python = environment_program(".venv-mongo", "python")
    server = Path(__file__).with_name("mongo_server.py")
    return [
        *(str(python), "-P", str(server)),
        *("--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data_dir)),
        *("--sync-on-commit", "--noop-heartbeat-seconds", "1", "--cache-size", cache, "--log-level", "WARNING"),
    ]


def environment_program(environment: str, name: str) -> Path:
    """A program of one of the project's environments; a clear error when `make setup` has not made it."""
    program = CHECKOUT / environment / "bin" / name
    if not program.exists():
        raise PlatformError("is not installed", where=str(program), fix=f"run `make setup` in {CHECKOUT}")
    return program


def tethered(command: list[str]) -> list[str]:
    """The same command as a child that ends when this process does, however that happens."""
    return [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now, all different.

    At random from below those that systems give to outgoing connections: of these, one would often be taken by the time a
    server has started.
    """
    found: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", secrets.choice(BELOW_EPHEMERAL)))
                found[int(one.getsockname()[1])] = one
    return list(found)


def answers_http(url: str, timeout_seconds: float = 2.0) -> bool:
    """Whether any HTTP answer below 500 comes from the URL."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds):  # noqa: S310  # our own http:// URL
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False


def accepts_connections(port: int, timeout_seconds: float = 1.0) -> bool:
    """Whether something listens on the port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds):
        return True
    return False


@dataclass
class Server:
    """One server as a child process of this one. `start` after `kill` or `stop` uses the same folder and ports."""

    name: str
    command: list[str]
    log: Path
    ready_url: str | None = None
    ready_port: int | None = None
    start_seconds: float = 60.0
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; an error when it does not run."""
        if self.process is None:
            raise PlatformError("is not running", where=self.name)
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        output: IO[bytes]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                tethered(self.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )
        deadline = time.monotonic() + self.start_seconds
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                self.kill()
                raise PlatformError(f"did not start:\n{tail}", where=self.name, fix=f"see {self.log}")
            time.sleep(0.05)

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """SIGTERM, then SIGKILL when it takes longer than the time-out."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _ready(self) -> bool:
        if self.ready_url is not None:
            return answers_http(self.ready_url)
        return self.ready_port is None or accepts_connections(self.ready_port)
