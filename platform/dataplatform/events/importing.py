"""The way of every event into the landing, from the collector as from a file: judged, then landed whatever the verdict."""

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, cast

import msgspec

from dataplatform.errors import PlatformError
from dataplatform.landing import NonDecreasingClock, Writer, hour_of

from .received import Record, decode_payload, received_at_text
from .verdict import Judge, Verdict

_encode_lines = msgspec.json.Encoder().encode_lines
CHUNK_EVENTS = 2000
"""Events of a file that share one received time and one commit."""
_LARGEST_ALONE = 4 << 20
"""Bytes read to see whether a file is one event over several lines."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A received time: as records write it (RFC 3339, UTC, microseconds), and the landing hour it belongs to."""

    text: str
    hour: datetime


def moment_of(time: datetime) -> Moment:
    """The moment of a time with a zone."""
    time = time.astimezone(UTC)
    return Moment(received_at_text(time), hour_of(time))


def take_in(raws: Sequence[bytes], source: str, moment: Moment, judge: Judge, writer: Writer) -> list[Verdict]:
    """Judge events and append every one of them to the landing; the verdicts, in order.

    They are durable after the writer's next flush or commit, not before.
    """
    file = writer.open_file(moment.hour)
    verdicts = judge.judge_all(raws)
    stem, received_at = file.stem, moment.text
    records = [
        Record(received_at, source, verdict.event, verdict.event_id, payload, verdict.faults, stem, line)
        for line, (verdict, payload) in enumerate(zip(verdicts, payloads_of(raws), strict=True), file.lines + 1)
    ]
    if records:
        writer.add(file, _encode_lines(records), len(records))
    return verdicts


def payloads_of(raws: Sequence[bytes]) -> list[str]:
    """The events' texts as landed records hold them."""
    try:
        texts = [raw.decode() for raw in raws]
    except UnicodeDecodeError:
        return [decode_payload(raw) for raw in raws]
    return texts if "\0" not in "".join(texts) else [decode_payload(raw) for raw in raws]


@dataclass(slots=True)
class Count:
    """What became of the events of a file. `reasons` by (event, code); `repeated` had an id that the files had before."""

    received: int = 0
    accepted: int = 0
    refused: int = 0
    repeated: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str], str] = field(default_factory=dict)
    """For each of the reasons, where it was met first and how it reads."""
    _ids: set[tuple[str, str]] = field(default_factory=set)

    def add(self, verdict: Verdict, place: str) -> None:
        """Count one verdict; `place` is told of the first one of its kind."""
        self.received += 1
        if verdict.accepted:
            self.accepted += 1
        else:
            self.refused += 1
            for code, reason in {reason.code: reason for reason in reversed(verdict.reasons)}.items():
                kind = (verdict.event, code)
                self.reasons[kind] += 1
                self.first.setdefault(kind, f"{place}: {reason.path or '/'} {reason.message}")
        if verdict.event_id is not None:
            identity = (verdict.event, verdict.event_id)
            if identity in self._ids:
                self.repeated += 1
            self._ids.add(identity)


def events_in(path: Path, progress: Callable[[int], None] = lambda _: None) -> Iterator[tuple[str, bytes]]:
    """Place and raw text of every event of a file: NDJSON, one JSON array, or one event over several lines; gzipped or not.

    A line that is no JSON is given as it stands (the judge says what is wrong). `progress` is told how many bytes of the
    file have been read. Raises PlatformError where the file cannot be read or its gzip data is broken.
    """
    try:
        with path.open("rb") as file:
            head = file.read(2)
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if head == b"\x1f\x8b" else file
            text: io.BufferedReader[Any] = io.BufferedReader(cast(Any, stream), 1 << 20)
            first = _first_byte(text)
            if first == b"[":
                yield from _array_elements(path, text)
            else:
                yield from _lines_or_one(path, text, lambda: progress(file.tell()))
            progress(path.stat().st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise PlatformError(
            f"cannot be read: {error}",
            where=str(path),
            fix="give a whole file of NDJSON or one JSON array, plain or gzipped",
        ) from error


def _first_byte(text: "io.BufferedReader[Any]") -> bytes:
    if text.peek(3)[:3] == b"\xef\xbb\xbf":
        text.read(3)
    return text.peek(1).lstrip()[:1]


def _lines_or_one(
    path: Path, text: "io.BufferedReader[Any]", progress: Callable[[], None]
) -> Iterator[tuple[str, bytes]]:
    """Lines, unless only all of them together are JSON: one event that is written over several lines."""
    head = first = text.readline()
    while first and not first.strip():
        first = text.readline()
        head += first
    if first and not _is_json(first):
        head += text.read(_LARGEST_ALONE)
        if not text.peek(1) and _is_json(head):
            yield f"{path}", head.strip(b" \t\r\n")
            return
        head += text.readline()
    yield from _lines(path, chain(io.BytesIO(head), text), progress)


def _lines(
    path: Path, lines: Iterable[bytes], progress: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(lines, 1):
        raw = line.strip(b" \t\r\n")
        if raw:
            yield f"{path}:{number}", raw
        if number % CHUNK_EVENTS == 0:
            progress()


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _array_elements(path: Path, text: "io.BufferedReader[Any]") -> Iterator[tuple[str, bytes]]:
    body = text.read()
    try:
        elements: list[Any] = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        first, _, rest = body.partition(b"\n")
        if rest.strip() and _is_json(first):  # lines, the first of which happens to be an array
            yield from _lines(path, body.splitlines())
        else:  # kept as one event, which the judge refuses: nothing of it can be told apart
            yield f"{path}", body.strip(b" \t\r\n")
        return
    for number, raw in enumerate(elements):
        yield f"{path}[{number}]", bytes(raw)


def import_events(
    events: Iterable[tuple[str, bytes]],
    source: str,
    judge: Judge,
    writer: Writer,
    *,
    count: Count,
    clock: Callable[[], datetime] | None = None,
) -> None:
    """Land events received now; durable when this returns. What is in files already read by `count` is not skipped.

    Events that were imported before are landed again and counted as duplicates by the warehouse (by their event_id), so
    an import that broke off can simply be done again.
    """
    now = clock or NonDecreasingClock()
    chunk: list[tuple[str, bytes]] = []

    def land() -> None:
        moment = moment_of(now())
        verdicts = take_in([raw for _, raw in chunk], source, moment, judge, writer)
        writer.rotate()
        writer.flush()
        for (place, _), verdict in zip(chunk, verdicts, strict=True):
            count.add(verdict, place)
        chunk.clear()

    for event in events:
        chunk.append(event)
        if len(chunk) == CHUNK_EVENTS:
            land()
    if chunk:
        land()


def validate_events(events: Iterable[tuple[str, bytes]], judge: Judge, count: Count) -> None:
    """Judge events without landing them."""
    for place, raw in events:
        count.add(judge.judge(raw), place)
