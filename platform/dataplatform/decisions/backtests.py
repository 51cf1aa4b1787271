"""Backtests that are asked for by HTTP: each a process of its own, so that decisions do not wait for it.

A run is a folder below `<data_dir>/fraud/backtests`: `question.json` when it began, `report.json`, `error.txt` what its process
said, `done` when all of it went well. Its process holds a lock on that folder as long as it lives, so that every process of the service, also one
that was started later, can tell a running one from one that was killed. One more lock lets one backtest run at a time.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ..contracts.errors import ContractError
from ..errors import PlatformError
from ..fraud.parameters import UnknownVersionError
from .judge import BadRequestError

RUN_SECONDS = 900
"""A backtest that takes longer is ended."""
MAX_DAYS = 400
KEPT_RUNS = 50
MAX_ERROR = 2_000


class Question(msgspec.Struct):
    """What is asked. `start` and `end` in RFC 3339, UTC; with a `version` and no changes the summary is kept with the version."""

    policy: str
    start: str
    end: str
    by: str
    version: int | None = None
    changes: dict[str, Any] = {}

    def arguments(self) -> list[str]:
        """Those of `dataplatform fraud backtest`, but for the output."""
        values = [f"--set={name}={_text(value)}" for name, value in self.changes.items()]
        version = [] if self.version is None else [f"--version={self.version}"]
        return [f"--from={self.start[:19]}", f"--to={self.end[:19]}", f"--as={self.by}", *version, *values]


@dataclass
class Backtests:
    """The runs of one data folder; safe to use from several threads and processes."""

    folder: Path
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self, question: Question) -> str:
        """Begin a run and give its id; BadRequestError (429) while another one runs.

        The question has to be checked: what is wrong with it would only be told as the run's error.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._forget()
        run = uuid.uuid4().hex[:12]
        with (self.folder / "one-at-a-time.lock").open("w") as one:
            if not _lock(one.fileno()):
                raise BadRequestError(429, "Another backtest is running.")
            place = self.folder / run
            place.mkdir()
            (place / "question.json").write_bytes(msgspec.json.encode(question))
            with (place / "lock").open("w") as own, (place / "error.txt").open("wb") as errors:
                _lock(own.fileno())
                # The locks are the process's as well, and last until the last who holds them is gone.
                if self._child is not None:
                    self._child.poll()  # it has ended, and is now forgotten by the system as well
                self._child = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(place), *question.arguments(), "--", question.policy],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[one.fileno(), own.fileno()],
                )
        return run

    def state(self, policy: str, run: str) -> dict[str, Any]:
        """A run as JSON holds it: id, question, status (running, done or failed), and its report or error.

        UnknownVersionError where the policy has no such run (any more).
        """
        place = self.folder / run
        try:
            if not run.isalnum():
                raise FileNotFoundError
            question = msgspec.json.decode((place / "question.json").read_bytes(), type=Question)
            running = _is_locked(place / "lock")
            error = (place / "error.txt").read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            question = None
        if question is None or question.policy != policy:
            raise UnknownVersionError("there is no such backtest", where=run, fix="start one; old ones are forgotten")
        found: dict[str, Any] = {"id": run, **msgspec.to_builtins(question)}
        if running:
            return found | {"status": "running"}
        if not (place / "done").exists():
            told = "The service has a fault." if "Traceback" in error else error[-MAX_ERROR:]
            return found | {"status": "failed", "error": told or "The run was ended before it was done."}
        return found | {"status": "done", "report": msgspec.json.decode((place / "report.json").read_bytes())}

    def _forget(self) -> None:
        runs = [file.parent for file in self.folder.glob("*/question.json")]
        for place in sorted(runs, key=lambda each: each.stat().st_mtime)[: -KEPT_RUNS + 1]:
            if not _is_locked(place / "lock"):
                shutil.rmtree(place, ignore_errors=True)


def check_period(start: datetime, end: datetime) -> None:
    """PlatformError for a period that is longer than a request may ask for."""
    if (end - start).days > MAX_DAYS:
        raise PlatformError(
            f"the period has more than {MAX_DAYS} days", fix="ask for less, or use dataplatform fraud backtest"
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _lock(file: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_locked(file: Path) -> bool:
    # A shared lock: two who look at once do not see each other.
    handle = os.open(file, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def main() -> None:
    """One run, as a process, FOLDER [OPTION…] -- POLICY: the command of the same name, ended after RUN_SECONDS."""
    from ..fraud.commands import backtest

    def too_long(number: int, frame: object) -> None:
        del number, frame
        sys.exit(f"The backtest took longer than {RUN_SECONDS} s and was ended; ask for a shorter period.")

    signal.signal(signal.SIGALRM, too_long)  # an exception, so that its tables are dropped
    signal.alarm(RUN_SECONDS)
    place, *arguments = sys.argv[1:]
    try:
        backtest.main([f"--output={place}", *arguments], standalone_mode=False)
    except (PlatformError, ContractError) as error:
        sys.exit(str(error))
    (Path(place) / "done").touch()


if __name__ == "__main__":
    main()
