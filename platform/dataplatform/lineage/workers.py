"""Processes that resolve statements, with limits that hold: a statement that takes too long, or takes its process down, costs only itself.

The parser is compiled code, which neither a signal handler nor Python's recursion limit stops; ending the process does. A process is
given one statement at a time: then neither side ever writes to a pipe whose other end is writing as well.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import msgspec

from .catalog import Catalog
from .edges import Resolution, Unresolved
from .jobs import Job, resolve_job

STACK_BYTES = 512 << 20
"""Stack of the resolving thread: deep nesting is recursion, in compiled code as well. Only what is used is ever allocated."""


class Answer(msgspec.Struct):
    """What a job's resolution comes to: counts, and the output lines with NUL in the place of the job's id, ready for any job."""

    status: str
    edges: int
    reasons: tuple[str, ...]
    lines: bytes


def render(result: Resolution) -> Answer:
    """The output lines of a resolution."""
    encode = msgspec.json.encode
    lines = [b'{"kind":"edge","job_id":\0,' + encode(edge)[1:] for edge in result.edges]
    lines += [b'{"kind":"unresolved","job_id":\0,' + encode(one)[1:] for one in result.unresolved]
    lines.append(b"")
    reasons = tuple(dict.fromkeys(one.reason for one in result.unresolved))
    return Answer(result.status, len(result.edges), reasons, b"\n".join(lines))


def failed(job: Job, reason: str, detail: str) -> Answer:
    """The answer for a job that could not be resolved at all."""
    return render(Resolution([], [Unresolved(job.destination_table, None, reason, detail)]))


def answer(job: Job, catalog: Catalog) -> Answer:
    """Resolve one job; any failure of the resolver itself becomes a reason."""
    try:
        return render(resolve_job(job, catalog))
    except MemoryError:
        return failed(job, "memory_limit", "")
    except RecursionError:
        return failed(job, "too_deep", "")
    except Exception as error:  # one statement's failure must not cost the others
        return failed(job, "internal", f"{type(error).__name__}: {error}"[:300])


def in_large_thread[T](function: Callable[[], T]) -> T:
    """Run in a thread whose stack is large enough for deeply nested statements."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    saved = threading.stack_size(STACK_BYTES)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 200_000))
    try:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
    finally:
        threading.stack_size(saved)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _serve(connection: Connection, catalog: Catalog, memory_bytes: int) -> None:
    if memory_bytes:
        limit = _address_space() + STACK_BYTES + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    # Syntax trees are cyclic and large: collecting them often costs a third of the time, the catalog never changes.
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)

    def loop() -> None:
        try:
            while True:
                number, job = connection.recv()
                connection.send((number, answer(job, catalog)))
        except (EOFError, OSError, KeyboardInterrupt):
            return

    in_large_thread(loop)


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a kernel's file, not a path of ours
        return int(statm.read().split()[0]) * resource.getpagesize()


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    at_hand: tuple[int, Job] | None = None
    since: float = 0.0


class Workers:
    """A number of resolving processes. `submit` jobs under numbers of your own, `collect` answers in any order."""

    def __init__(self, catalog: Catalog, count: int, seconds: float, memory_bytes: int = 0) -> None:
        """`seconds` and `memory_bytes` (0: unlimited) bound each statement."""
        self._catalog = catalog
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._context = multiprocessing.get_context("fork")
        self._waiting: deque[tuple[int, Job]] = deque()
        self._workers = [self._start() for _ in range(max(1, count))]

    @property
    def open(self) -> int:
        """Jobs submitted and not yet answered."""
        return len(self._waiting) + sum(worker.at_hand is not None for worker in self._workers)

    def submit(self, number: int, job: Job) -> None:
        """Hand in a job."""
        self._waiting.append((number, job))
        self._feed()

    def collect(self) -> Iterator[tuple[int, Answer]]:
        """Answers that are there; waits for at least one when any job is open."""
        if not self.open:
            return
        yielded = False
        while not yielded:
            busy = {worker.connection: worker for worker in self._workers if worker.at_hand}
            now = time.monotonic()
            deadline = min(worker.since for worker in busy.values()) + self._seconds
            for ready in wait(list(busy), timeout=max(0.0, deadline - now)):
                worker = busy[ready]  # type: ignore[index]
                try:
                    number, found = worker.connection.recv()
                except (EOFError, OSError):
                    yielded = True
                    yield self._replace(worker, "crashed", f"exit status {worker.process.exitcode}")
                    continue
                worker.at_hand = None
                self._feed()
                yielded = True
                yield number, found
            now = time.monotonic()
            for worker in list(self._workers):
                if worker.at_hand and now - worker.since >= self._seconds and not worker.connection.poll():
                    yielded = True
                    yield self._replace(worker, "time_limit", f"more than {self._seconds:g} s")

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
            worker.process.join()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._catalog, self._memory_bytes), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _feed(self) -> None:
        for worker in self._workers:
            if not self._waiting:
                return
            if worker.at_hand is None:
                worker.at_hand = self._waiting.popleft()
                worker.since = time.monotonic()
                try:
                    worker.connection.send(worker.at_hand)
                except OSError:
                    continue  # `collect` finds it dead

    def _replace(self, worker: _Worker, reason: str, detail: str) -> tuple[int, Answer]:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        if reason == "crashed":
            detail = f"exit status {worker.process.exitcode}"
        assert worker.at_hand is not None
        number, job = worker.at_hand
        self._workers[self._workers.index(worker)] = self._start()
        self._feed()
        return number, failed(job, reason, detail)
