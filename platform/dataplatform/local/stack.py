"""What a stack remembers in its data folder: `stack.json` (written by the supervisor, read by everything), the lock that says
whether it runs, and the list of services that are wanted."""

import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import PlatformError
from ..settings import STACK_FILE
from .services import SERVICES

State = Literal["waiting", "starting", "running", "unhealthy", "backing off", "stopping", "stopped"]


@dataclass
class ServiceState:
    """How one service is doing. `since` is when the state began, in seconds since the epoch; `last_exit` tells of its last end."""

    state: State = "stopped"
    pid: int | None = None
    restarts: int = 0
    since: float = 0.0
    last_exit: str | None = None
    url: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Memory:
    """The content of `stack.json`.

    `given` are the settings that whoever first started the stack asked for (such as `first_hour`); `settings` are these and
    what the services add: every command of the platform reads them as its defaults.
    """

    ports: dict[str, int] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    guard: int | None = None
    supervisor: int | None = None
    services: dict[str, ServiceState] = field(default_factory=dict)


def read_memory(data_dir: Path) -> Memory:
    """What the folder's stack remembers; an empty memory for a new folder."""
    try:
        found = json.loads((data_dir / STACK_FILE).read_text())
    except FileNotFoundError:
        return Memory()
    found["services"] = {name: ServiceState(**state) for name, state in found.get("services", {}).items()}
    return Memory(**found)


def write_memory(data_dir: Path, memory: Memory) -> None:
    """Replace `stack.json` at once: a reader sees the old or the new one."""
    _replace(data_dir / STACK_FILE, json.dumps(asdict(memory), indent=2) + "\n")


def read_wanted(data_dir: Path) -> list[str]:
    """Names of the services that shall run."""
    with suppress(FileNotFoundError):
        names: list[str] = json.loads((data_dir / "wanted.json").read_text())
        return names
    return []


def write_wanted(data_dir: Path, names: list[str]) -> None:
    """Say which services shall run; the supervisor looks when it gets SIGHUP."""
    _replace(data_dir / "wanted.json", json.dumps(names) + "\n")


def is_running(data_dir: Path) -> bool:
    """Whether a guard or its supervisor holds the stack's lock."""
    with suppress(FileNotFoundError), (data_dir / "stack.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def changing(data_dir: Path) -> Iterator[None]:
    """Hold the right to start or change the stack: of two commands at once the second waits.

    Raises PlatformError where the folder cannot be made or written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / "change.lock").open("ab")
    except OSError as error:
        raise PlatformError(
            f"cannot be written: {error.strerror}",
            where=str(data_dir),
            fix="set DATAPLATFORM_DATA_DIR to a folder of your own",
        ) from error
    with file as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def allot_ports(remembered: Mapping[str, int], preferred: Mapping[str, int] | None = None) -> dict[str, int]:
    """A free port of 127.0.0.1 for every port of every service, kept for this process as long as it lives.

    The remembered one where it is free, else the first free one from the preferred number up.
    """
    if preferred is None:
        preferred = {name: number for service in SERVICES for name, number in service.ports.items()}
    taken: set[int] = set()
    ports: dict[str, int] = {}
    for name, number in preferred.items():
        tries = [remembered[name]] if name in remembered else []
        tries += range(number, number + 1000)
        port = next(port for port in tries if port not in taken and _is_free(port) and _reserve(port))
        ports[name] = port
        taken.add(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            one.bind(("127.0.0.1", port))
            return True
    return False


_RESERVED: dict[int, int] = {}
"""Port → the descriptor whose lock keeps it."""


def _reserve(port: int) -> bool:
    """Keep a port from other stacks of this user, which would find it free until the service that gets it has started."""
    if port in _RESERVED:
        return True
    folder = Path(tempfile.gettempdir()) / f"dataplatform-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _RESERVED[port] = descriptor
    return True


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text)
    new.replace(path)
