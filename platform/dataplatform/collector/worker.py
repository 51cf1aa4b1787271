"""One of several collector processes behind a port: `python -m dataplatform.collector.worker SHARED HOST PORT PARENT`."""

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from ..errors import PlatformError
from ..settings import get_settings
from .server import serve


def main() -> None:
    """Serve until told to stop, or until the process that started this one is gone."""
    shared, host, port, parent = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no worker outlives its parent
        if os.getppid() != int(parent):
            return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        serve(get_settings(), host, int(port), shared=Path(shared))
    except PlatformError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
