"""Starting, changing and ending a stack from outside its supervisor."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import PlatformError
from ..settings import Settings
from .services import BY_NAME, SERVICES, dependents, with_dependencies
from .stack import (
    Memory,
    changing,
    is_running,
    read_memory,
    read_wanted,
    write_memory,
    write_wanted,
)
from .tether import LOCKED

Say = Callable[[str], None]
FAILURES = 3
"""A service that died this often before it ever ran will not come up by waiting."""


def up(
    settings: Settings,
    services: Iterable[str] = (),
    *,
    given: Mapping[str, Any] | None = None,
    with_owner: bool = False,
    wait: bool = True,
    say: Say = lambda line: None,  # noqa: ARG005
) -> Memory:
    """Have the services (default: all that this project needs) running and healthy; what runs already is left alone.

    `given` are settings that the stack remembers and every command then reads. With `with_owner` the stack ends when the
    calling process does; it must then be called from a thread that lives as long. Without `wait` the services are only asked
    for. `say` is told of every service that came up.
    Raises PlatformError when a service does not come up: the others stay.
    """
    data_dir = settings.data_dir.resolve()
    names = with_dependencies(services or [service.name for service in SERVICES if service.wanted(settings)])
    with changing(data_dir):
        if is_running(data_dir):
            memory = read_memory(data_dir)
            other = {name: value for name, value in (given or {}).items() if memory.given.get(name) != value}
            if other:
                raise PlatformError(
                    f"the stack runs without {', '.join(sorted(other))} as asked for",
                    where=str(data_dir),
                    fix="`dataplatform down`, then again",
                )
            write_wanted(data_dir, with_dependencies([*read_wanted(data_dir), *names]))
            os.kill(_supervisor(data_dir), signal.SIGHUP)
        else:
            write_wanted(data_dir, names)
            _start(settings, data_dir, given or {}, with_owner)
    return _until_healthy(data_dir, names, say) if wait else read_memory(data_dir)


def down(data_dir: Path, services: Iterable[str] = (), *, timeout_seconds: float = 60) -> list[str]:
    """End the services (default: all) and what depends on them; tells which. Past the time-out they are killed."""
    data_dir = data_dir.resolve()
    if not is_running(data_dir):
        return []
    with changing(data_dir):
        running = [name for name in read_wanted(data_dir) if name in BY_NAME]
        chosen = list(services)
        with_dependencies(chosen)  # an unknown name is an error
        ending = [name for name in running if name in dependents(chosen)] if chosen else running
        if chosen and set(ending) != set(running):
            write_wanted(data_dir, [name for name in running if name not in ending])
            os.kill(_supervisor(data_dir), signal.SIGHUP)
            _wait(lambda: all(_state(data_dir, name) == "stopped" for name in ending), timeout_seconds)
            return ending
        memory = read_memory(data_dir)
        for process in (memory.guard, memory.supervisor):
            if process is not None and _signal(process, signal.SIGTERM):
                break
        if not _wait(lambda: not is_running(data_dir), timeout_seconds):
            for process in (memory.supervisor, memory.guard):
                if process is not None:
                    _signal(process, signal.SIGKILL)
            _wait(lambda: not is_running(data_dir), 10)
    return ending


def report(settings: Settings) -> dict[str, dict[str, Any]]:
    """What `dataplatform status --json` prints: for every service that is wanted its url, pid, state and more."""
    data_dir = settings.data_dir.resolve()
    memory = read_memory(data_dir)
    running = is_running(data_dir)
    found: dict[str, dict[str, Any]] = {}
    for name, status in memory.services.items():
        entry = {
            "url": status.url,
            "pid": status.pid,
            "state": status.state,
            "restarts": status.restarts,
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.since)),
            "last_exit": status.last_exit,
        } | status.details
        if not running:
            entry |= {"pid": None, "state": "stopped"}
        found[name] = entry
    return found


def log_tail(data_dir: Path, name: str, lines: int = 15) -> str:
    """The last lines of a service's log."""
    with suppress(FileNotFoundError):
        return "\n".join((data_dir / "logs" / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
    return ""


def _start(settings: Settings, data_dir: Path, given: Mapping[str, Any], with_owner: bool) -> None:
    """Start guard and supervisor, and wait until the supervisor has written where it is."""
    before = read_memory(data_dir)
    before.given = {"first_hour": settings.first_hour.isoformat()} | before.given | json.loads(json.dumps(dict(given)))
    before.settings |= before.given
    before.guard = before.supervisor = None
    before.services = {}
    write_memory(data_dir, before)
    (data_dir / "logs").mkdir(exist_ok=True)
    owner = os.getpid() if with_owner else 0
    guard = str(Path(__file__).with_name("guard.py"))
    supervisor = [sys.executable, "-m", "dataplatform.local.supervisor", str(data_dir)]
    with (data_dir / "logs" / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard, str(data_dir), str(owner), *supervisor],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "DATAPLATFORM_DATA_DIR": str(data_dir)},
        )
    if not _wait(lambda: read_memory(data_dir).supervisor is not None or process.poll() is not None, 30):
        process.terminate()
    if read_memory(data_dir).supervisor is None:
        reason = "another process holds its lock" if process.poll() == LOCKED else log_tail(data_dir, "supervisor")
        raise PlatformError(
            f"the supervisor did not start: {reason}", where=str(data_dir), fix="see logs/supervisor.log there"
        )


def _until_healthy(data_dir: Path, names: list[str], say: Say) -> Memory:
    deadline = time.monotonic() + sum(BY_NAME[name].start_seconds for name in names)
    told: set[str] = set()
    while True:
        memory = read_memory(data_dir)
        for name in names:
            status = memory.services.get(name)
            if status is None or name in told:
                continue
            if status.state == "running":
                told.add(name)
                say(f"{name:<15} {status.details.get('url', status.url) or ''}".rstrip())
            elif status.restarts >= FAILURES:
                raise PlatformError(
                    f"{name} does not start: it {status.last_exit}\n{log_tail(data_dir, name)}",
                    where=str(data_dir / "logs" / f"{name}.log"),
                    fix="mend what the log says; the stack keeps trying until `dataplatform down`",
                )
        if len(told) == len(names):
            return memory
        if not is_running(data_dir):
            raise PlatformError("the stack was stopped while it started", where=str(data_dir))
        if time.monotonic() > deadline:
            late = ", ".join(name for name in names if name not in told)
            raise PlatformError(
                f"not healthy in time: {late}", where=str(data_dir), fix="`dataplatform logs` tells more"
            )
        time.sleep(0.1)


def _supervisor(data_dir: Path) -> int:
    process = read_memory(data_dir).supervisor
    if process is None:
        raise PlatformError("the stack is only just starting", where=str(data_dir), fix="try again in a moment")
    return process


def _state(data_dir: Path, name: str) -> str:
    status = read_memory(data_dir).services.get(name)
    return status.state if status else "stopped"


def _signal(process: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, number)
        return True
    return False


def _wait(done: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
