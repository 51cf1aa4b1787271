"""The MongoDB-protocol server as this platform runs it. Started by file path with the Python of `.venv-mongo`, where this
package is not installed: it imports nothing of it. Its arguments are those of `secantusd-py`.

What it adds to `secantusdb`: it ends at once when it is told to. By itself it waits two seconds for a thread that sits in
`accept`, which closing the socket does not wake; and a signal that comes in its first moment is lost.
"""

import contextlib
import socket
import sys
from typing import Any

LOOK_SECONDS = 0.2
"""How often the main thread looks whether a signal came: one that comes just before it begins to wait does not wake it."""


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    from secantus import cli
    from secantus.server import SecantusDBServer

    stop = SecantusDBServer.stop

    def stop_at_once(server: Any) -> None:
        if server._socket is not None:
            with contextlib.suppress(OSError):
                server._socket.shutdown(socket.SHUT_RDWR)
        stop(server)

    def wait(server: Any) -> None:
        while not server._stop_event.wait(LOOK_SECONDS):
            pass

    SecantusDBServer.stop = stop_at_once
    SecantusDBServer.wait = wait
    return int(cli.main())


if __name__ == "__main__":
    sys.exit(main())
