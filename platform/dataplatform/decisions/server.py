"""Running the decision service: one process, or several that share the port."""

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from ..collector.server import serve_with_workers
from ..errors import PlatformError
from ..settings import Settings
from .http import Door

DRAIN_SECONDS = 10.0
WORKER = "dataplatform.decisions.worker"


def serve(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT; requests that have begun are answered and files finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if workers > 1:
        sys.exit(serve_with_workers([host, str(port)], workers, module=WORKER))
    serve_one(settings, host, port)


def serve_one(settings: Settings, host: str, port: int, *, shared_port: bool = False) -> None:
    """One process; with `shared_port` others may listen on the same port."""
    # The thread that writes needs the interpreter for microseconds only; it should not wait 5 ms for it each time.
    sys.setswitchinterval(0.0005)
    gc.set_threshold(50_000, 20, 100)
    uvloop.run(_serve(settings, host, port, shared_port))


async def _serve(settings: Settings, host: str, port: int, shared_port: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    door = Door(settings)
    try:
        server = await loop.create_server(
            door.server.protocol, host, port, backlog=2048, reuse_port=shared_port or None, start_serving=False
        )
    except OSError as error:
        raise PlatformError(
            f"cannot listen: {error.strerror or error}", where=f"{host}:{port}", fix="choose another --port"
        ) from error
    await door.service.start()
    sweep = loop.create_task(door.sweep())
    gc.collect()
    gc.freeze()  # what lives as long as the process need not be looked at by every collection
    await server.start_serving()
    print(f"decisions on http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201  # for whoever started it
    await stop.wait()
    server.close()
    await door.server.drain(DRAIN_SECONDS)
    sweep.cancel()
    await door.service.stop()
