"""Keeps the wanted services running: starts them in order of dependency, looks after their health, starts them again with a
growing pause when they die, and ends them in reverse order. One process a stack, started by `guard.py`."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import PlatformError
from ..settings import Settings
from .servers import CHECKOUT, accepts_connections, answers_http, tethered
from .services import BY_NAME, LOCATION, SERVICES, Health, Place, Service
from .stack import Memory, ServiceState, State, allot_ports, read_memory, read_wanted, write_memory

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 30.0
"""A service that ran this long starts again with the first pause."""
UNHEALTHY_SECONDS = 5.0
"""A service that has not answered for this long is shown as unhealthy; it may only be busy."""
LOG_BYTES = 64 << 20
"""A log that has grown past this is moved to `<name>.log.1`."""


class Supervised:
    """One service in the supervisor's hands: a task that starts it, watches it and starts it again."""

    def __init__(self, service: Service, supervisor: "Supervisor") -> None:
        self.service = service
        self.supervisor = supervisor
        self.status = ServiceState(url=service.url(supervisor.place), details=service.details(supervisor.place))
        self.healthy = asyncio.Event()
        self.stopping = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.task is None or self.task.done():
            self.stopping.clear()
            self.task = asyncio.create_task(self._keep_running(), name=self.service.name)

    async def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL when it takes longer than its `stop_seconds`."""
        self.stopping.set()
        if self.task is not None:
            await self.task

    async def _keep_running(self) -> None:
        self._is("waiting")
        await self._unless_stopping(self._dependencies())
        pause = FIRST_PAUSE_SECONDS
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                ended = await self._run_once()
            except (OSError, PlatformError) as error:
                ended = f"cannot start: {error}"
            self.healthy.clear()
            if self.stopping.is_set():
                break
            if time.monotonic() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self.status.last_exit = ended
            self.status.restarts += 1
            self._is("backing off", pid=None)
            self.supervisor.say(f"{self.service.name} {ended}; again in {pause:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self._is("stopped", pid=None)

    async def _dependencies(self) -> None:
        for name in self.service.depends_on:
            await self.supervisor.services[name].healthy.wait()

    async def _run_once(self) -> str:
        """Start the process and stay until it has ended; tells how it ended."""
        service, place = self.service, self.supervisor.place
        log = self.supervisor.logs / f"{service.name}.log"
        _turn(log)
        with log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *tethered(service.command(place)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=CHECKOUT,
                env={**os.environ, **self.supervisor.environment, **service.environment(place)},
            )
        self._is("starting", pid=self.process.pid)
        ended = asyncio.create_task(self.process.wait())
        watch = asyncio.create_task(self._watch_health())
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({ended, watch, stop}, return_when=asyncio.FIRST_COMPLETED)
        how = watch.result() if watch.done() and not watch.cancelled() else None
        watch.cancel()
        stop.cancel()
        if not ended.done():
            if self.stopping.is_set():
                self._is("stopping", pid=self.process.pid)
            await self._end(ended)
        self.process = None
        return how or _how_it_ended(ended.result())

    async def _end(self, ended: "asyncio.Task[int]") -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await asyncio.wait({ended}, timeout=self.service.stop_seconds)
        with contextlib.suppress(ProcessLookupError):
            if not ended.done():
                self.process.kill()
        await ended

    async def _watch_health(self) -> str:
        """Returns only when the service must be ended because it does not get or stay healthy."""
        since, limit = time.monotonic(), self.service.start_seconds
        while True:
            if await self._is_healthy(since):
                since, limit = time.monotonic(), self.service.hang_seconds
                self.healthy.set()
                if self.status.state != "running":
                    self._is("running", pid=self.status.pid)
            elif self.status.state == "running" and time.monotonic() - since > UNHEALTHY_SECONDS:
                self._is("unhealthy", pid=self.status.pid)
            if time.monotonic() - since > limit:
                return f"was not healthy for {limit:.0f} s and was ended"
            await asyncio.sleep(2.0 if self.healthy.is_set() else 0.1)

    async def _is_healthy(self, since: float) -> bool:
        if self.service.health.port is None:
            return self.healthy.is_set() or time.monotonic() - since > self.service.health.alive_seconds
        return await asyncio.to_thread(probe, self.service.health, self.supervisor.place)

    async def _unless_stopping(self, waited: Any) -> None:
        stop = asyncio.create_task(self.stopping.wait())
        work = asyncio.create_task(waited)
        await asyncio.wait({stop, work}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        work.cancel()

    def _is(self, state: State, *, pid: int | None = None) -> None:
        self.status.state = state
        self.status.pid = pid
        self.status.since = time.time()
        self.supervisor.remember()


class Supervisor:
    """All services of one stack. Lives in the main thread: a child's tether is bound to the thread that started it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.logs = data_dir / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        before = read_memory(data_dir)
        settings = Settings()  # `up` has put this folder into the environment
        ports = allot_ports(before.ports | {"collector": settings.collector_port, "decisions": settings.decisions_port})
        self.place = Place(data_dir=data_dir, ports=ports, settings=settings)
        self.memory = Memory(
            ports=ports, given=before.given, settings=dict(before.given), guard=os.getppid(), supervisor=os.getpid()
        )
        for service in SERVICES:
            for name, value in service.settings(self.place).items():
                known = self.memory.settings.get(name)
                self.memory.settings[name] = known | value if isinstance(known, dict) else value
        self.environment = {
            "DATAPLATFORM_DATA_DIR": str(data_dir),
            "DATAPLATFORM_SCHEMAS_DIR": str(settings.schemas_dir.resolve()),
        }
        self.services = {service.name: Supervised(service, self) for service in SERVICES}
        self.stopped = asyncio.Event()
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; SIGHUP has it look again at which services are wanted."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self.changed.set)
        prepare_dagster(self.place)
        self.remember()
        self.changed.set()
        stop = asyncio.create_task(self.stopped.wait())
        while not self.stopped.is_set():
            change = asyncio.create_task(self.changed.wait())
            await asyncio.wait({stop, change}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            if self.changed.is_set() and not self.stopped.is_set():
                self.changed.clear()
                await self._become(read_wanted(self.data_dir))
        await self._become([])

    async def _become(self, wanted: list[str]) -> None:
        """Start what is wanted, end what is not: those that depend on another before it, the others at the same time."""
        for name in wanted:
            if name in self.services:
                self.services[name].start()
        ending = {name for name in self.services if name not in wanted}
        gone = {name: asyncio.Event() for name in ending}

        async def end(name: str) -> None:
            for service in SERVICES:
                if name in service.depends_on and service.name in ending:
                    await gone[service.name].wait()
            await self.services[name].stop()
            gone[name].set()

        await asyncio.gather(*(end(name) for name in ending))

    def remember(self) -> None:
        """Write what others may know to `stack.json`."""
        self.memory.services = {
            name: one.status for name, one in self.services.items() if one.task is not None and one.status.since
        }
        if self.logs.exists():  # else the folder was deleted, and shall not come back
            write_memory(self.data_dir, self.memory)

    def say(self, line: str) -> None:
        """A line in the supervisor's own log."""
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}", flush=True)  # noqa: T201  # is its log


def probe(health: Health, place: Place) -> bool:
    """Whether a service answers now."""
    assert health.port is not None
    if health.path is not None:
        return answers_http(place.url(health.port) + health.path, timeout_seconds=5)
    return accepts_connections(place.ports[health.port])


def prepare_dagster(place: Place) -> None:
    """DAGSTER_HOME with the project's dagster.yaml, and a workspace that names the one code server both Dagster services share."""
    home = place.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if (CHECKOUT / "dagster.yaml").exists():
        shutil.copyfile(CHECKOUT / "dagster.yaml", home / "dagster.yaml")
    (home / "workspace.yaml").write_text(
        "load_from:\n"
        "  - grpc_server:\n"
        "      host: 127.0.0.1\n"
        f"      port: {place.ports['dagster-code']}\n"
        f"      location_name: {LOCATION}\n"
    )


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"


def _turn(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


if __name__ == "__main__":
    assert set(BY_NAME) == {service.name for service in SERVICES}
    asyncio.run(Supervisor(Path(sys.argv[1])).run())
