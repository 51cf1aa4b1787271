"""Running the door: one process, or several that share the port."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from ..errors import PlatformError
from ..landing import open_landing
from ..settings import Settings
from .door import Door
from .live_contracts import LiveContracts
from .metrics import Reading, merge

STREAM = "events"
DRAIN_SECONDS = 10.0
_SHARE_SECONDS = 1.0
_SHORT_LIFE_SECONDS = 5.0
OTHER_FILES = 100
"""Descriptors that are kept for landing files, contracts, logs, and connections that are just being refused."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    shared: Path | None = None,
    started: Callable[[int], None] = lambda _: None,
) -> None:
    """Run one collector process until SIGTERM or SIGINT; requests that have begun are answered and files finished.

    `shared` is the folder where the processes of one port put their metrics; `started` is told the port.
    """
    # The commit's thread needs the interpreter for microseconds only; it should not wait 5 ms for it each time.
    sys.setswitchinterval(0.0005)
    gc.set_threshold(50_000, 20, 100)
    keep_freed_memory()
    uvloop.run(_serve(settings, host, port, shared, started))


def keep_freed_memory(size: int = 64 << 20) -> None:
    """Let glibc keep so many bytes of freed memory for the next request; another C library is left as it is.

    Else bodies and writes of some 100 kB are given back and got anew, a page fault for each 4 kB: a sixth of all time.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, min(size, 32 << 20))  # more is not taken
        mallopt(_M_TRIM_THRESHOLD, size)


def connections_possible(wanted: int) -> int:
    """How many connections this process may have: those wanted, or fewer where the system gives it fewer open files.

    The soft limit is raised as far as is needed and allowed. Without a descriptor left nothing could be landed either.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    possible = wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - OTHER_FILES))
    if possible < wanted:
        log.warning("at most %d connections, because this process may have %d open files only", possible, soft)
    return possible


async def _serve(settings: Settings, host: str, port: int, shared: Path | None, started: Callable[[int], None]) -> None:
    possible = connections_possible(settings.collector_max_connections)
    settings = settings.model_copy(update={"collector_max_connections": possible})
    landing = open_landing(settings, STREAM)
    if finished := await asyncio.to_thread(landing.finish_dead):
        log.info("finished %d open files of dead predecessors", finished)
    contracts = LiveContracts(settings.schemas_dir)
    contracts.reload()
    share = None if shared is None else SharedMetrics(shared)
    door = Door(settings, landing, contracts, *([] if share is None else [share.gather]))
    door.look_at_disk()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        server = await loop.create_server(
            door.server.protocol, host, port, backlog=2048, reuse_port=True if shared is not None else None
        )
    except OSError as error:
        raise PlatformError(
            f"cannot listen: {error.strerror or error}",
            where=f"{host}:{port}",
            fix="stop what listens there, or choose another --port",
        ) from error
    tasks = [asyncio.create_task(door.keep()), asyncio.create_task(contracts.watch())]
    if share is not None:
        tasks.append(asyncio.create_task(share.publish(door.reading)))
    gc.collect()
    gc.freeze()  # what lives as long as the process need not be looked at by every collection
    started(server.sockets[0].getsockname()[1])
    await stop.wait()
    server.close()
    await door.server.drain(DRAIN_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while door.waiting:
        await asyncio.sleep(0.01)
    await asyncio.wait([door.writer.commit()])  # nothing of a commit is under way after this
    door.writer.close()


class SharedMetrics:
    """Metrics of the processes behind one port: each writes its own to a folder, whoever is asked adds them up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = folder / f"{os.getpid()}.json"

    async def publish(self, reading: Callable[[], Reading]) -> None:
        """Write this process's metrics down every second."""
        while True:
            part = self.own.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(reading()))
            part.rename(self.own)
            await asyncio.sleep(_SHARE_SECONDS)

    def gather(self, own: Reading) -> Reading:
        """This process's metrics and the latest of the others'."""
        readings = [own]
        for path in self.folder.glob("*.json"):
            if path != self.own:
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    readings.append(msgspec.json.decode(path.read_bytes(), type=Reading))
        return merge(readings)


def serve_with_workers(command: list[str], workers: int, module: str = "dataplatform.collector.worker") -> int:
    """Run `workers` processes of a module that share a port until SIGTERM or SIGINT; the exit status.

    One that dies is started anew; one that dies before it has run for a few seconds ends them all, with status 1.
    """
    stopping = False

    def stop(number: int, frame: object) -> None:
        del number, frame
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    status = 0
    with tempfile.TemporaryDirectory(prefix="collector-metrics-") as shared:

        def start() -> tuple[subprocess.Popen[bytes], float]:
            arguments = [sys.executable, "-m", module, shared, *command]
            return subprocess.Popen(arguments), time.monotonic()

        running = [start() for _ in range(workers)]
        while not stopping:
            for place, (worker, since) in enumerate(running):
                if worker.poll() is None:
                    continue
                if time.monotonic() - since < _SHORT_LIFE_SECONDS:
                    status, stopping = 1, True
                else:
                    log.error("worker %d ended with status %s; another one starts", worker.pid, worker.returncode)
                    running[place] = start()
            time.sleep(0.1)
        for worker, _ in running:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker, _ in running:
            worker.wait()
    return status
