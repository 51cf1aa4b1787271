"""The way of every event into the landing, from the collector as from a file: judged, then landed whatever the verdict."""

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count as numbers_from
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Raw

from dataplatform.errors import PlatformError
from dataplatform.landing import NonDecreasingClock, Writer, hour_of

from .reasons import Reason
from .received import Record, decode_payload, received_at_text
from .sure import UNDECODABLE
from .verdict import Judge, Judged, Verdict

_encode_lines = msgspec.json.Encoder().encode_lines
CHUNK_EVENTS = 2000
"""Events of a file that share one received time and one commit."""
LARGEST_EVENT = 4 << 20
"""Bytes of one event of a file: what the collector takes in one request."""
LARGEST_ARRAY = 1 << 30
"""Bytes of a file that is one JSON array, unpacked: it is read as a whole."""
_NO_FAULTS: list[Reason] = []
_BLANK = b" \t\r\n"
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_OTHER_FORMS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
    b"Obj\x01": "Avro",
}
"""How files of other forms begin; no JSON does."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A received time: as records write it (RFC 3339, UTC, microseconds), and the landing hour it belongs to."""

    text: str
    hour: datetime


def moment_of(time: datetime) -> Moment:
    """The moment of a time with a zone."""
    time = time.astimezone(UTC)
    return Moment(received_at_text(time), hour_of(time))


def take_in(raws: Sequence[bytes | Raw], source: str, moment: Moment, judge: Judge, writer: Writer) -> Judged:
    """Judge events and append every one of them to the landing; the verdicts, in order.

    They are durable after the writer's next flush or commit, not before.
    """
    file = writer.open_file(moment.hour)
    judged = judge.judge_batch(raws)
    faults = [_NO_FAULTS] * len(raws)
    for place, verdict in judged.exactly.items():
        faults[place] = verdict.faults
    # A list: an iterator would be kept by `encode_lines` for ever, with all that it holds.
    records = list(
        map(
            Record, repeat(moment.text), repeat(source), judged.events, judged.event_ids, payloads_of(raws), faults,
            repeat(file.stem), numbers_from(file.lines + 1),
        )
    )  # fmt: skip
    if records:
        writer.add(file, _encode_lines(records), len(records))
    return judged


def payloads_of(raws: Sequence[bytes | Raw]) -> list[str]:
    """The events' texts as landed records hold them."""
    try:
        texts = [str(raw, "utf-8") for raw in raws]
    except UnicodeDecodeError:
        return [decode_payload(bytes(raw)) for raw in raws]
    return texts if "\0" not in "".join(texts) else [decode_payload(bytes(raw)) for raw in raws]


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
    """Place and raw text of every event of a file: NDJSON, events over several lines, or one JSON array; gzipped or not.

    A line that is no JSON is given as it stands (the judge says what is wrong). `progress` is told how many bytes of the
    file have been read. Raises PlatformError, with the place, where the file cannot be read, is of another form, breaks off in its
    gzip data or in its array, or holds an event larger than 4 MiB (which the collector would not take either).
    """
    place = f"{path}"
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            if other := next((name for magic, name in _OTHER_FORMS.items() if head.startswith(magic)), None):
                raise _not_read(place, f"it is {other}")
            # Not below another buffer: what was unpacked before the data breaks off shall be seen.
            packed = head.startswith(b"\x1f\x8b")
            text = cast(io.BufferedReader, gzip.GzipFile(fileobj=file)) if packed else file
            if text.peek(3)[:3] == b"\xef\xbb\xbf":
                text.read(3)
            is_array = text.peek(1).lstrip()[:1] == b"["
            events = _array_elements(path, text) if is_array else _documents(path, _lines(path, text))
            for number, (place, raw) in enumerate(events, 1):
                if len(raw) > LARGEST_EVENT:
                    raise _not_read(place, f"an event of {len(raw):,} bytes; at most {LARGEST_EVENT:,} are taken")
                yield place, raw
                if number % CHUNK_EVENTS == 0:
                    progress(file.tell())
            progress(path.stat().st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise _not_read(place if place == f"{path}" else f"{path}, after {place}", str(error)) from error


def _not_read(place: str, reason: str) -> PlatformError:
    return PlatformError(
        f"cannot be read: {reason}",
        where=place,
        fix="give NDJSON or one JSON array, in UTF-8, plain or gzipped, and whole",
    )


type _Line = tuple[int, bytes]
"""A line with its number."""


def _lines(path: Path, text: io.BufferedReader) -> Iterator[_Line]:
    """Lines that are not blank, as they stand."""
    number = 0
    while line := text.readline(LARGEST_EVENT + 3):
        number += 1
        if len(line) > LARGEST_EVENT + 2:
            raise _not_read(f"{path}:{number}", f"a line of more than {LARGEST_EVENT:,} bytes")
        if line.strip(_BLANK):
            yield number, line


def _documents(path: Path, lines: Iterator[_Line]) -> Iterator[tuple[str, bytes]]:
    """An event a line, or one over several: from an opening brace whose line is no JSON to the line that closes it.

    Where the lines in between show that there was no such thing (a whole event begins no further in than the brace did),
    each is an event of its own, as is every other line that is no JSON.
    """
    opened: list[_Line] = []
    depth = size = 0
    for number, line in lines:
        if not opened:
            if not line.lstrip(_BLANK).startswith(b"{") or _is_json(line):
                yield f"{path}:{number}", line.strip(_BLANK)
                continue
            depth = size = 0
        elif line.lstrip(_BLANK).startswith(b"{") and _indent(line) <= _indent(opened[0][1]) and _is_json(line):
            yield from _each(path, [*opened, (number, line)])
            opened = []
            continue
        opened.append((number, line))
        depth += _opened_in(line)
        size += len(line)
        if depth <= 0:
            yield f"{path}:{opened[0][0]}", b"".join(one for _, one in opened).strip(_BLANK)
            opened = []
        elif size > LARGEST_EVENT:
            yield from _each(path, opened)
            opened = []
    if opened:  # it breaks off: the judge says so
        yield f"{path}:{opened[0][0]}", b"".join(one for _, one in opened).strip(_BLANK)


def _each(path: Path, lines: list[_Line]) -> Iterator[tuple[str, bytes]]:
    for number, line in lines:
        yield f"{path}:{number}", line.strip(_BLANK)


def _indent(line: bytes) -> int:
    return len(line) - len(line.lstrip(_BLANK))


def _opened_in(line: bytes) -> int:
    """How many more brackets a line opens than it closes, outside of its texts."""
    brackets = _TEXTS.sub(b"", line)
    return brackets.count(b"{") + brackets.count(b"[") - brackets.count(b"}") - brackets.count(b"]")


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except UNDECODABLE:
        return False
    return True


def _array_elements(path: Path, text: io.BufferedReader) -> Iterator[tuple[str, bytes]]:
    body = text.read(LARGEST_ARRAY + 1)
    if len(body) > LARGEST_ARRAY:
        raise _not_read(f"{path}", f"an array of more than {LARGEST_ARRAY:,} bytes; write an event a line")
    try:
        elements: list[Any] = msgspec.json.decode(body, type=list[msgspec.Raw])
    except UNDECODABLE as error:
        first, _, rest = body.lstrip(_BLANK).partition(b"\n")
        if rest.strip(_BLANK) and _is_json(first):  # lines, the first of which happens to be an array
            yield from _documents(path, _lines(path, io.BufferedReader(cast(Any, io.BytesIO(body)))))
            return
        at = re.search(r"\(byte (\d+)\)", str(error))
        line = body.count(b"\n", 0, int(at[1]) if at else len(body)) + 1
        raise _not_read(f"{path}:{line}", f"the array is no JSON: {error}") from None
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
        judged = take_in([raw for _, raw in chunk], source, moment, judge, writer)
        writer.rotate()
        writer.flush()
        for (place, _), verdict in zip(chunk, judge.verdicts(judged), strict=True):
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
