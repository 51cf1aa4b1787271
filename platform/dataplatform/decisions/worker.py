"""One of several processes behind a port: `python -m dataplatform.decisions.worker SHARED HOST PORT`."""

import ctypes
import logging
import signal
import sys

from ..contracts.errors import ContractError
from ..errors import PlatformError
from ..settings import get_settings
from .server import serve_one


def main() -> None:
    """Serve until told to stop, or until the process that started this one is gone."""
    _, host, port = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no worker outlives its parent
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        serve_one(get_settings(), host, int(port), shared_port=True)
    except (PlatformError, ContractError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
