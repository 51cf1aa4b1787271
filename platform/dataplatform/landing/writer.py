"""Making records durable: append, one fsync for all who wait, rotate.

On the local disk a file grows under the name `….open`, locked by its writer, and gets its own name when it is finished;
a group commit is one write and one fdatasync of it. On an object store every group commit is a finished object.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import obstore
from obstore.exceptions import BaseError

from ..errors import PlatformError
from .durable import finish, open_for_append, write_all
from .hours import Landing
from .layout import check_file_name, hour_of, hour_path


class WriteFailed(PlatformError):
    """The bytes could not be made durable (disk full, store gone); nothing of them is left half-written."""


class NonDecreasingClock:
    """UTC time of this process in whole microseconds that never goes back, whatever the machine's clock does.

    While the machine's clock is behind the latest time given out, that time is given out again: records keep their order
    and no hour gets records after later hours had some.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns) -> None:
        """`wall` gives nanoseconds since 1970."""
        self._wall = wall
        self._latest = 0

    def microseconds(self) -> int:
        """Microseconds since 1970."""
        now = self._wall() // 1000
        self._latest = max(self._latest, now)
        return self._latest

    def __call__(self) -> datetime:
        """The time as a datetime in UTC."""
        seconds, microseconds = divmod(self.microseconds(), 1_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


def unique_writer_name(prefix: str = "w") -> str:
    """A name that no other start of any process has: `<prefix>-<UTC start>-<random>`; sorts by start."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


@dataclass(eq=False, slots=True)
class OpenFile:
    """One file that grows. `stem` is its name without extension, `lines` how many lines it has (pending ones included)."""

    hour: datetime
    stem: str
    path: str
    """Below the stream, with extension."""
    opened: float
    """Monotonic seconds."""
    lines: int = 0
    size: int = 0
    """Bytes appended, pending ones included."""
    pending: list[bytes] = field(default_factory=list)
    finishing: bool = False
    descriptor: int | None = None
    durable: int = 0
    """Length in bytes up to which the file is known to be durable."""


@dataclass(slots=True)
class _Batch:
    """What one group commit writes: each file with its bytes, and whether it is finished by that.

    A file that is retired while the thread writes it gets more bytes by the next commit: so the flag of the moment when
    the batch was made counts, not the file's.
    """

    work: list[tuple[OpenFile, bytes, bool]]


class Writer:
    """Writes the files of one stream. One process, one thread, except that a commit's disk work runs in a thread of its own.

    `append` (or `open_file` and `add`, where a record carries its own file and line) only collects; after `flush` or
    `await commit()` everything collected before is durable. A commit that fails raises WriteFailed: the file is cut back
    to what is durable and finished, and records appended meanwhile fail with it, so line numbers stay true.
    """

    def __init__(
        self,
        landing: Landing,
        *,
        name: str | None = None,
        extension: str = "ndjson",
        rotate_seconds: float = 1.0,
        rotate_bytes: int = 64 << 20,
    ) -> None:
        self.landing = landing
        self.name = name or unique_writer_name()
        self.extension = extension
        self.rotate_seconds = rotate_seconds
        self.rotate_bytes = rotate_bytes
        self.pending_bytes = 0
        """Bytes appended that no commit has made durable yet, those being written included."""
        self.last_failure: str | None = None
        """Why the latest commit failed; None after one that did not."""
        self.last_failure_at = 0.0
        """Monotonic seconds of the latest commit that failed."""
        self.commits = 0
        self.finished_files = 0
        self._folder = landing.folder
        self._sequence = 0
        self._files: dict[datetime, OpenFile] = {}
        self._closing: list[OpenFile] = []
        self._waiting: asyncio.Future[None] | None = None
        self._committing = False
        self._thread: ThreadPoolExecutor | None = None
        check_file_name(f"{self.name}-000001.{extension}")

    def open_file(self, hour: datetime) -> OpenFile:
        """The file that the hour's next record goes to. Its `stem` and `lines + 1` are the record's place."""
        file = self._files.get(hour)
        if file is not None:
            if file.size < self.rotate_bytes and time.monotonic() - file.opened < self.rotate_seconds:
                return file
            self._retire(file)
        self._sequence += 1
        stem = f"{self.name}-{self._sequence:06d}"
        file = OpenFile(hour, stem, f"{hour_path(hour)}/{stem}.{self.extension}", time.monotonic())
        self._files[hour] = file
        return file

    def add(self, file: OpenFile, data: bytes, lines: int) -> None:
        """Append `lines` whole lines, newlines included, to a file that `open_file` just gave."""
        file.pending.append(data)
        file.lines += lines
        file.size += len(data)
        self.pending_bytes += len(data)

    def append(self, record: bytes, time: datetime) -> tuple[str, int]:
        """Append one record (without newline) received at that time; its place (file's stem, 1-based line)."""
        file = self.open_file(hour_of(time))
        self.add(file, record + b"\n", 1)
        return file.stem, file.lines

    def flush(self) -> None:
        """Make everything appended durable; for code without an event loop. Not to be mixed with `commit`."""
        batch = self._begin()
        try:
            self._write(batch)
        except BaseException as error:
            self._end(batch, error)
            raise
        self._end(batch, None)

    def commit(self) -> "asyncio.Future[None]":
        """A future that is done when everything appended so far is durable; all who ask meanwhile share one commit."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            self._waiting = loop.create_future()
            if not self._committing:
                self._committing = True
                # Not at once: what other connections have sent by now shall come into the same commit.
                loop.call_soon(self._start_commit, loop)
        return self._waiting

    def rotate(self) -> None:
        """Finish files that are old enough or belong to an hour that is over; called from a timer (or `close`)."""
        now = time.monotonic()
        for file in list(self._files.values()):
            if now - file.opened >= self.rotate_seconds or file.size >= self.rotate_bytes:
                self._retire(file)

    @property
    def oldest_open_seconds(self) -> float:
        """Age of the oldest file that is not finished yet; 0 where there is none."""
        files = [*self._files.values(), *self._closing]
        return max((time.monotonic() - file.opened for file in files), default=0.0)

    @property
    def has_closing(self) -> bool:
        """Whether files wait for the next commit to be finished."""
        return bool(self._closing)

    def close(self) -> None:
        """Make everything durable and finish all files. The writer can be used again (it opens new files)."""
        for file in list(self._files.values()):
            self._retire(file)
        self.flush()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _retire(self, file: OpenFile) -> None:
        if self._files.get(file.hour) is file:
            del self._files[file.hour]
        file.finishing = True
        self._closing.append(file)

    def _start_commit(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, None
        batch = self._begin()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "landing")
        done = loop.run_in_executor(self._thread, self._write, batch)
        done.add_done_callback(lambda future: self._after_commit(loop, batch, waiting, future))

    def _after_commit(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: _Batch,
        waiting: "asyncio.Future[None] | None",
        future: "asyncio.Future[None]",
    ) -> None:
        error = future.exception()
        self._end(batch, error)
        for one in (waiting, self._waiting if error else None):
            if one is not None and not one.done():
                if error is None:
                    one.set_result(None)
                else:
                    one.set_exception(error)
        if error is not None:
            self._waiting = None
        if self._waiting is not None:
            loop.call_soon(self._start_commit, loop)
        else:
            self._committing = False

    def _begin(self) -> _Batch:
        if self._folder is None:
            # An object cannot grow: every commit's files are finished by it.
            for file in list(self._files.values()):
                self._retire(file)
        files = [*self._closing, *self._files.values()]
        self._closing = []
        work = []
        for file in files:
            if file.pending or file.finishing:
                work.append((file, b"".join(file.pending), file.finishing))
                file.pending.clear()
        return _Batch(work)

    def _write(self, batch: _Batch) -> None:
        """The only part that runs in the thread; touches no state but the files' descriptors."""
        for file, data, finishing in batch.work:
            try:
                if self._folder is None:
                    self._put(file, data)
                else:
                    self._write_local(self._folder / file.path, file, data, finishing)
            except (OSError, BaseError) as error:
                raise WriteFailed(
                    f"{error}",
                    where=f"{self.landing.uri}/{file.path}",
                    fix="free space on the disk, or reach the store",
                ) from error

    def _write_local(self, path: Path, file: OpenFile, data: bytes, finishing: bool) -> None:
        if data:
            if file.descriptor is None:
                file.descriptor = open_for_append(path)
            write_all(file.descriptor, data)
            os.fdatasync(file.descriptor)
            file.durable += len(data)
        if finishing and file.descriptor is not None:
            if os.fstat(file.descriptor).st_size != file.durable:  # what a failed commit could not cut back
                os.ftruncate(file.descriptor, file.durable)
                os.fdatasync(file.descriptor)
            descriptor, file.descriptor = file.descriptor, None
            finish(descriptor, path)

    def _put(self, file: OpenFile, data: bytes) -> None:
        if not data:
            return
        path = f"{self.landing.stream}/{file.path}"
        try:
            obstore.put(self.landing.store, path, data, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            # Our names are ours alone: an earlier try of the same request has come through.
            if bytes(obstore.get(self.landing.store, path).bytes()) != data:
                raise

    def _end(self, batch: _Batch, error: BaseException | None) -> None:
        self.commits += 1
        self.pending_bytes -= sum(len(data) for _, data, _ in batch.work)
        if error is None:
            self.last_failure = None
            self.finished_files += sum(finishing for _, _, finishing in batch.work)
            return
        self.last_failure, self.last_failure_at = str(error), time.monotonic()
        for file in {*(file for file, _, _ in batch.work), *self._files.values(), *self._closing}:
            self._abandon(file)
        self._files.clear()
        self._closing = [file for file in self._closing if file.descriptor is not None]

    def _abandon(self, file: OpenFile) -> None:
        """Cut a file back to what is durable and finish it; where even that fails it is tried again with the next commit."""
        self.pending_bytes -= sum(len(data) for data in file.pending)
        file.pending.clear()
        file.finishing = True
        if file.descriptor is None or self._folder is None:
            return
        try:
            os.ftruncate(file.descriptor, file.durable)
            os.fdatasync(file.descriptor)
            descriptor, file.descriptor = file.descriptor, None
            finish(descriptor, self._folder / file.path)
        except OSError:
            if file not in self._closing:
                self._closing.append(file)
