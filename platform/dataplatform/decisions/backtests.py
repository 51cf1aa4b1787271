"""Backtests that are asked for by HTTP: each a process of its own, so that decisions do not wait for it.

The store knows what runs and keeps the reports (`fraud.dry_runs`), so that every process of the service, on every machine, tells them.
"""

import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..contracts.errors import ContractError
from ..errors import PlatformError
from ..fraud.catalog import load_catalog
from ..fraud.dry_runs import ENDED, BusyError, DryRuns, Question
from ..fraud.parameters import ParameterStore, database_url
from ..settings import get_settings
from ..warehouse.client import Warehouse
from .judge import BadRequestError

RUN_SECONDS = 900
"""A backtest that takes longer is ended."""
MAX_DAYS = 400


@dataclass
class Backtests:
    """The runs that one process of the service has started."""

    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def start(self, runs: DryRuns, question: Question) -> str:
        """Begin a run and give its id; BadRequestError (429) while another one runs.

        The question has to be checked: what is wrong with it would only be told as the run's error.
        """
        self._tell_ended(runs)
        try:
            run = runs.begin(question, alone=True)
        except BusyError:
            raise BadRequestError(429, "Another backtest is running.") from None
        try:
            child = subprocess.Popen([sys.executable, "-m", __name__, run], stdin=subprocess.DEVNULL)
        except OSError as error:
            runs.fail(run, f"its process could not be started: {error.strerror}")
            raise
        with self._lock:
            self._children[run] = child
        return run

    def state(self, runs: DryRuns, policy: str, run: str) -> dict[str, Any]:
        """`DryRuns.state`; of a run of this process also when it was killed a moment ago."""
        self._tell_ended(runs)
        return runs.state(policy, run)

    def _tell_ended(self, runs: DryRuns) -> None:
        with self._lock:
            ended = [run for run, child in self._children.items() if child.poll() is not None]
            for run in ended:
                del self._children[run]
        for run in ended:
            runs.fail(run, ENDED)  # changes nothing where it has told its own end


def check_period(start: datetime, end: datetime) -> None:
    """PlatformError for a period that is longer than a request may ask for."""
    if (end - start).days > MAX_DAYS:
        raise PlatformError(
            f"the period has more than {MAX_DAYS} days", fix="ask for less, or use dataplatform fraud backtest"
        )


def main() -> None:
    """One run that has begun, as a process, ID: ended after RUN_SECONDS."""
    run = sys.argv[1]
    settings = get_settings()
    catalog = load_catalog(settings.schemas_dir)
    runs = DryRuns(ParameterStore(database_url(settings.fraud_database, settings.data_dir), catalog.policies))

    def too_long(number: int, frame: object) -> None:
        del number, frame
        raise PlatformError(
            f"the backtest took longer than {RUN_SECONDS} s and was ended", fix="ask for a shorter period"
        )

    signal.signal(signal.SIGALRM, too_long)  # an exception, so that its tables are dropped
    signal.alarm(RUN_SECONDS)
    try:
        runs.run(run, Warehouse(settings), catalog, runs.check(catalog, runs.question(run)))
    except (PlatformError, ContractError) as error:
        runs.fail(run, str(error))
        sys.exit(str(error))


if __name__ == "__main__":
    main()
