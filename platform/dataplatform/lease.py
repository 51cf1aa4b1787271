"""One worker at a time: a lease on a stream, kept in its landing, that outlives no dead process.

A catch-up, the daemon's runs and a click in the UI may all want to materialise the same hours. Each statement is safe to
repeat, but two runs that began from different landings could overtake each other; so whoever materialises a stream holds its
lease. It is a file with compare-and-set beside the landed data, hence the same on a laptop and on Google Cloud.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Self

import psutil

from .errors import PlatformError
from .landing import ConditionalFile, Conflict

TTL_SECONDS = 60.0
"""A holder that has not renewed for this long is taken for dead. Renewed four times as often."""

_log = logging.getLogger(__name__)


class LeaseLostError(PlatformError):
    """Another worker took the lease while this one did not renew it (a long pause of the machine)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds it. `process_started_at` tells a process from a later one with the same number; times are Unix seconds."""

    owner: str
    host: str
    pid: int
    process_started_at: float
    renewed_at: float

    @classmethod
    def this(cls, owner: str) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(owner, socket.gethostname(), pid, psutil.Process(pid).create_time(), time.time())

    @property
    def alive(self) -> bool:
        """Whether the holder may still be at work: on this machine its process is asked for, elsewhere its renewal counts."""
        if self.host == socket.gethostname() and not process_lives(self.pid, self.process_started_at):
            return False
        return time.time() - self.renewed_at < TTL_SECONDS


def process_lives(pid: int, started_at: float) -> bool:
    """Whether the process of this number that started then (Unix seconds) still runs on this machine."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started_at) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Lease:
    """The lease of one file. `hold` is its only way in."""

    def __init__(self, file: ConditionalFile) -> None:
        self.file = file
        self._lost = threading.Event()
        self._renewed = 0.0  # time.time() of the last renewal that was written, as others see it

    def holder(self) -> Holder | None:
        """Who holds it now, dead or alive; None where nobody does."""
        present = self.file.read()
        return None if present is None else _decode(present[0])

    @contextmanager
    def hold(self, owner: str, wait_seconds: float = 900.0) -> Iterator[Self]:
        """Hold the lease; waits for a living holder. `owner` names the holder to others, such as a run's id.

        Raises PlatformError where it was not free in time.
        """
        self._lost.clear()
        version = self._take(owner, wait_seconds)
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(owner, version, done), name="lease", daemon=True)
        renewal.start()
        try:
            yield self
        finally:
            done.set()
            renewal.join()

    def check(self) -> None:
        """Raise LeaseLostError where somebody else took it, or may take it; call before what must not be done by two."""
        silent = time.time() - self._renewed
        if silent >= TTL_SECONDS:
            raise LeaseLostError(
                f"the lease was not renewed for {silent:.0f} s, so another worker may hold it",
                where=self.file.path,
                fix="see that the landing can be written, and run again; nothing is done twice",
            )
        if self._lost.is_set():
            raise LeaseLostError(
                "another worker took over the lease",
                where=self.file.path,
                fix="run again; nothing is done twice",
            )

    def _take(self, owner: str, wait_seconds: float) -> str:
        deadline = time.monotonic() + wait_seconds
        pause = 0.05
        while True:
            present = self.file.read()
            held = None if present is None else _decode(present[0])
            if held is None or not held.alive:
                try:
                    return self._write(owner, None if present is None else present[1])
                except Conflict:
                    continue
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"{held.owner} has held the lease for {wait_seconds:g} s (process {held.pid} on {held.host})",
                    where=self.file.path,
                    fix="wait for that run, or end it",
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def _write(self, owner: str, version: str | None) -> str:
        holder = Holder.this(owner)
        version = self.file.write(_encode(holder), version)
        self._renewed = holder.renewed_at
        return version

    def _renew(self, owner: str, version: str, done: threading.Event) -> None:
        while not done.wait(TTL_SECONDS / 4):
            try:
                version = self._write(owner, version)
            except Conflict:
                self._lost.set()
                return
            except Exception as error:  # a full disk, a store that is away: `check` counts the time since
                _log.warning("the lease %s was not renewed: %s", self.file.path, error)
        try:
            self.file.write(b"", version)
        except Conflict:
            self._lost.set()


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _decode(data: bytes) -> Holder | None:
    return Holder(**json.loads(data)) if data else None
