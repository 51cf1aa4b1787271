"""A query log through the resolver: each distinct text once, by any number of processes, in bounded memory, in the log's order."""

from __future__ import annotations

import codecs
import json
import time
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from ..errors import PlatformError
from .catalog import Catalog
from .edges import REASONS
from .jobs import Job
from .workers import Answer, Workers, failed

WINDOW = 512
"""Jobs that may be under way before the oldest must be written: bounds memory, keeps the order."""
EXACT_TEXTS = 200_000
"""Exact texts remembered by their hash, so that a text seen before is not even folded."""

_DECODER = msgspec.json.Decoder(Job)


@dataclass
class Summary:
    """What a run came to."""

    queries: int = 0
    distinct: int = 0
    skipped: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    edges: int = 0
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """The table."""
        rate = self.queries / self.seconds if self.seconds else 0.0
        yield f"queries      {self.queries:>12,}   distinct {self.distinct:,}"
        yield f"resolved     {self.statuses['resolved']:>12,}"
        yield f"partly       {self.statuses['partly']:>12,}"
        yield f"failed       {self.statuses['failed']:>12,}"
        if self.skipped:
            yield f"no lineage   {self.skipped:>12,}   failed jobs and dry runs"
        yield f"edges        {self.edges:>12,}"
        yield f"queries/s    {rate:>12,.1f}   {self.seconds:.1f} s"
        if self.reasons:
            yield "reason                         queries"
            for reason, count in self.reasons.most_common():
                yield f"{reason:28} {count:>9,}   {REASONS.get(reason, '')}"


def read_jobs(lines: Iterable[bytes], where: str) -> Iterator[Job | tuple[str, str]]:
    """Jobs of a JSON-lines file; a record that is JSON but no job is (its id, what is wrong).

    Raises PlatformError with the line's number for a line that is not JSON.
    """
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
        if not line.strip():
            continue
        try:
            yield _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            try:
                record = json.loads(line, parse_constant=_no_constant)
            except (ValueError, RecursionError):
                raise PlatformError(
                    f"line {number} is not JSON: {error}", where=where, fix="write one JSON object a line"
                ) from error
            found = record.get("job_id") if isinstance(record, dict) else None
            yield found if isinstance(found, str) else "", f"line {number}: {error}"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@dataclass
class _Entry:
    """A distinct job: its answer when it is there (lines compressed), the jobs that wait for it."""

    answer: Answer | None = None
    written: bool = False


def problem_lines(catalog: Catalog) -> Iterator[bytes]:
    """Output lines for what is not understood in the schemas: no job's, so `job_id` is null."""
    for problem in catalog.problems:
        detail = {"target_table": problem.table, "target_column": problem.column}
        record = {"kind": "unresolved", "job_id": None, **detail, "reason": problem.reason, "detail": problem.detail}
        yield msgspec.json.encode(record) + b"\n"


def extract(
    jobs: Iterable[Job | tuple[str, str]],
    catalog: Catalog,
    write: Callable[[bytes], object],
    *,
    workers: int = 1,
    seconds: float = 10.0,
    memory_bytes: int = 2 << 30,
    distinct: bool = False,
) -> Summary:
    """Resolve `jobs` and `write` the output lines, in the order of the jobs.

    Jobs with the same fingerprint are resolved once; each gets its lines under its own id, with the expressions of the first, or,
    with `distinct`, only the first gets lines. `seconds` and `memory_bytes` bound each statement.
    """
    summary = Summary()
    started = time.perf_counter()
    for line in problem_lines(catalog):
        write(line)
    pool = Workers(catalog, workers, seconds, memory_bytes)
    try:
        _Run(pool, write, summary, distinct).run(jobs)
    finally:
        pool.close()
    summary.seconds = time.perf_counter() - started
    return summary


class _Run:
    def __init__(self, pool: Workers, write: Callable[[bytes], object], summary: Summary, distinct: bool) -> None:
        self.pool = pool
        self.write = write
        self.summary = summary
        self.distinct = distinct
        self.entries: list[_Entry] = []
        self.by_fingerprint: dict[str, int] = {}
        self.by_text: OrderedDict[bytes, int] = OrderedDict()
        self.window: deque[tuple[str, _Entry]] = deque()

    def run(self, jobs: Iterable[Job | tuple[str, str]]) -> None:
        for job in jobs:
            if isinstance(job, tuple):
                self.summary.queries += 1
                self.window.append((job[0], _Entry(failed(Job(), "bad_record", job[1]))))
            elif not job.counts:
                self.summary.skipped += 1
                continue
            else:
                self.summary.queries += 1
                self.window.append((job.job_id, self.entries[self._entry(job)]))
            self._flush()
            while len(self.window) >= WINDOW:
                self._collect()
        while self.window:
            self._flush()
            if self.window:
                self._collect()

    def _entry(self, job: Job) -> int:
        text = blake2b(
            "\0".join(
                (job.query or "", job.project_id or "", job.default_dataset or "", job.destination_table or "")
            ).encode("utf-8", "replace"),
            digest_size=12,
        ).digest()
        known = self.by_text.get(text) if job.query else None
        if known is not None:
            return known
        fingerprint = job.fingerprint()
        number = self.by_fingerprint.get(fingerprint)
        if number is None:
            number = self.by_fingerprint[fingerprint] = len(self.entries)
            self.entries.append(_Entry())
            self.summary.distinct += 1
            self.pool.submit(number, job)
        if job.query:
            self.by_text[text] = number
            if len(self.by_text) > EXACT_TEXTS:
                self.by_text.popitem(last=False)
        return number

    def _collect(self) -> None:
        for number, found in self.pool.collect():
            found.lines = zlib.compress(found.lines, 1)
            self.entries[number].answer = found
        self._flush()

    def _flush(self) -> None:
        while self.window and (found := self.window[0][1].answer) is not None:
            job_id, entry = self.window.popleft()
            self.summary.statuses[found.status] += 1
            self.summary.reasons.update(found.reasons)
            if self.distinct and entry.written:
                continue
            entry.written = True
            self.summary.edges += found.edges
            lines = found.lines if found.lines[:1] == b"{" else zlib.decompress(found.lines)
            if self.distinct:
                found.lines = b""
            self.write(lines.replace(b"\0", msgspec.json.encode(job_id)))
