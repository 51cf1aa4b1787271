"""How many requests a user of API keys has sent, counted together by all processes of the service on a host.

Each user has eight bytes of a file that the processes map into memory: the time at which everything they sent would have been
sent at the allowed rate (the generic cell rate algorithm). No lock: two requests that are counted within the same microsecond by
two processes may count as one, and none ever waits for another process.
"""

import hashlib
import mmap
import struct
import time
from collections.abc import Iterable
from pathlib import Path

_SLOT = struct.Struct("d")


class SharedRates:
    """Each user may send `per_second` requests, up to a second's worth at once (at least one)."""

    def __init__(self, folder: Path, users: Iterable[str], per_second: float) -> None:
        """The file in `folder` is named after the users and the rate: processes of another configuration count apart."""
        self.per_second = per_second
        names = sorted(set(users))
        self._slots = {name: number * _SLOT.size for number, name in enumerate(names)}
        self._between = 1.0 / per_second
        self._burst = max(1.0, per_second) * self._between
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(repr((names, per_second)).encode()).hexdigest()[:12]
        with (folder / f"rates-{digest}").open("a+b") as file:
            file.truncate(max(1, len(names)) * _SLOT.size)
            self._bytes = mmap.mmap(file.fileno(), 0)

    def wait(self, user: str, now: float | None = None) -> float:
        """Seconds until a user may send again; 0 where this request is counted. `now` is on the host's monotonic clock."""
        now = time.monotonic() if now is None else now
        place = self._slots[user]
        (until,) = _SLOT.unpack_from(self._bytes, place)
        # Nothing lately, or written before the host was started.
        if not now <= until <= now + self._burst + self._between:
            until = now
        until += self._between
        if until - now > self._burst + 1e-9:
            return float(until - now - self._burst)
        _SLOT.pack_into(self._bytes, place, until)
        return 0.0
