"""Running the decision service: one process, or several that share the port."""

import logging
import socket

import uvicorn

from ..errors import PlatformError
from ..settings import Settings
from .http import Door


def serve(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT; requests that have begun are answered and files finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if workers > 1:
        uvicorn.run(
            "dataplatform.decisions.http:app",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            log_level="warning",
            access_log=False,
            loop="uvloop",
            http="httptools",
        )
        return
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise PlatformError(
                f"cannot listen: {error.strerror}", where=f"{host}:{port}", fix="choose another --port"
            ) from error
        print(f"decisions on http://{host}:{listener.getsockname()[1]}", flush=True)  # noqa: T201  # for whoever started it
        config = uvicorn.Config(
            Door(settings), log_level="warning", access_log=False, loop="uvloop", http="httptools", backlog=2048
        )
        uvicorn.Server(config).run(sockets=[listener])
