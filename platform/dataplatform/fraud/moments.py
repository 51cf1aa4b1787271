"""The files of `dataplatform fraud features`: events as they happened and became known, and the moments that are asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..contracts.errors import ContractError, Problem
from .document import shown
from .facts import BYTE_ORDER_MARK
from .features import EntityFeatures
from .tree import Fact, Scalar
from .values import ValueProblem, micros, nine_places, plain_value, read_value

MAX_LINE = 1 << 20
MAX_PROBLEMS = 50


@dataclass(frozen=True, slots=True)
class Event:
    """One event as features see it: times in microseconds since 1970, keys as texts, columns in their types."""

    event: str
    event_id: str
    happened: int
    known: int
    keys: Mapping[str, str | None]
    values: Mapping[str, Fact]


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment at which all features of an entity are wanted. `row` is the line as it came."""

    row: Mapping[str, Any]
    key: str | None
    time: int


def read_events(file: Path, entity: EntityFeatures) -> list[Event]:
    """The events that the features read, in the order in which they became known, without repetitions.

    A line is {"event", "event_time", "known_at", "event_id", …}, its parameters beside these or inside "params".
    `known_at` is `event_time` where it is missing; without an event_id every line is an event of its own. Of two events
    with one id the first known counts. ContractError tells every mistake with its line.
    """
    problems: list[Problem] = []
    wanted = _wanted(entity)
    events: list[Event] = []
    for number, row in _rows(file, problems):
        event = row.get("event")
        if not isinstance(event, str):
            _note(problems, file, number, "/event", "missing", f"event is a text, not {shown(event)}", "name the event")
            continue
        if event in wanted:
            read = _event(file, number, row, event, wanted[event], entity.columns.get(event, {}), problems)
            if read is not None:
                events.append(read)
    if problems:
        raise ContractError(problems)
    # Of what became known at the same time, the file's order decides: sort() keeps it.
    events.sort(key=lambda each: each.known)
    seen: set[tuple[str, str]] = set()
    first = []
    for each in events:
        if (each.event, each.event_id) not in seen:
            seen.add((each.event, each.event_id))
            first.append(each)
    return first


def read_moments(file: Path, entity: EntityFeatures) -> list[Moment]:
    """The moments of a file, in its order: {<entity's key>: …, "time": …}; "at" and "event_time" are read as well.

    A missing or null key makes every feature unknown.
    """
    problems: list[Problem] = []
    moments = []
    for number, row in _rows(file, problems):
        name = next((each for each in ("time", "at", "event_time") if each in row), "time")
        time = _time(file, number, row, name, problems)
        key = row.get(entity.key)
        if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
            message = f"{entity.key} is a text, not {shown(key)}"
            _note(problems, file, number, f"/{entity.key}", "wrong_type", message, "send the key as a text")
        elif time is not None:
            moments.append(Moment(row, None if key is None else str(key), time))
    if problems:
        raise ContractError(problems)
    return moments


def answer_line(moment: Moment, entity: EntityFeatures, values: Mapping[str, Fact]) -> bytes:
    """One line of the output: the row as it came, and its features by name."""
    features = {each.name: plain_value(values.get(each.name), each.type) for each in entity.features}
    return msgspec.json.encode({**moment.row, "features": features})


def read_column(value: object, column_type: str) -> Scalar:
    """A value of an event's column; a NUMERIC may have more than nine decimals (rounded as BigQuery does) or be a text."""
    if column_type == "ANY":
        if isinstance(value, str | bool | int | float):
            return value if isinstance(value, str) else msgspec.json.encode(value).decode()
        raise ValueProblem("wrong_type", f"{shown(value)} where one value is wanted", "choose a column with one value")
    if column_type == "NUMERIC" and isinstance(value, float):
        value = nine_places(value)
    return read_value(value, column_type)


def _wanted(entity: EntityFeatures) -> dict[str, list[str]]:
    """Event → the columns its streams are told apart by."""
    wanted: dict[str, list[str]] = {}
    for event, by in entity.streams:
        wanted.setdefault(event, []).append(by)
    return wanted


def _event(
    file: Path,
    number: int,
    row: Mapping[str, Any],
    event: str,
    keys: list[str],
    columns: Mapping[str, str],
    problems: list[Problem],
) -> Event | None:
    before = len(problems)
    happened = _time(file, number, row, "event_time", problems)
    known = _time(file, number, row, "known_at", problems) if row.get("known_at") is not None else happened
    identity = row.get("event_id", f"line {number}")
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        message = f"event_id is a text, not {shown(identity)}"
        _note(problems, file, number, "/event_id", "wrong_type", message, "send the id as a text")
    found_keys: dict[str, str | None] = {}
    for key in keys:
        value, pointer = lookup(row, key)
        if value is None:
            found_keys[key] = None
        elif isinstance(value, bool) or not isinstance(value, str | int):
            message = f"{key} is {shown(value)}, and a key is a text"
            _note(problems, file, number, pointer, "wrong_type", message, "send the key as a text")
        else:
            found_keys[key] = str(value)
    values: dict[str, Fact] = {}
    for column, column_type in columns.items():
        value, pointer = lookup(row, column)
        if value is None:
            continue
        try:
            values[column] = read_column(value, column_type)
        except ValueProblem as problem:
            _note(problems, file, number, pointer, problem.code, f"{column} is {problem.message}", problem.fix)
    if len(problems) > before or happened is None or known is None:
        return None
    return Event(event, str(identity), happened, known, found_keys, values)


def lookup(row: Mapping[str, Any], column: str) -> tuple[Any, str]:
    """The value of a column (`parent__child` for inner fields) and its JSON pointer: beside the envelope or in params."""
    params = row.get("params")
    places: list[tuple[Mapping[str, Any], str]] = [(row, "")]
    if isinstance(params, Mapping):
        places.append((params, "/params"))
    for root, prefix in places:
        if column in root:
            return root[column], f"{prefix}/{column}"
        node: Any = root
        for part in column.split("__"):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is not None:
            return node, prefix + "/" + column.replace("__", "/")
    return None, f"/{column}"


def _time(file: Path, number: int, row: Mapping[str, Any], key: str, problems: list[Problem]) -> int | None:
    value = row.get(key)
    fix = "write a time such as 2026-01-31T09:00:00Z"
    if isinstance(value, str):
        try:
            return micros(value)
        except ValueProblem as problem:
            _note(problems, file, number, f"/{key}", problem.code, f"{key}: {problem.message}", problem.fix)
            return None
    code = "missing" if value is None else "wrong_type"
    _note(problems, file, number, f"/{key}", code, f"{key} is a time, not {shown(value)}", fix)
    return None


def _rows(file: Path, problems: list[Problem]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if len(problems) >= MAX_PROBLEMS:
                    return
                raw = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if not raw.strip():
                    continue
                if len(raw) > MAX_LINE:
                    message = f"the line has {len(raw):,} bytes, more than {MAX_LINE:,}"
                    _note(problems, file, number, "", "too_large", message, "send only what is needed")
                    continue
                try:
                    row = msgspec.json.decode(raw)
                except (msgspec.DecodeError, ValueError, RecursionError) as error:
                    _note(problems, file, number, "", "not_json", f"is no JSON: {error}", "write one object a line")
                    continue
                if isinstance(row, dict):
                    yield number, row
                else:
                    message = f"a line is an object, not {shown(row)}"
                    _note(problems, file, number, "", "wrong_type", message, "write one object a line")
    except OSError as error:
        _note(problems, file, 0, "", "unreadable", f"cannot be read: {error.strerror}", "check the path")


def _note(problems: list[Problem], file: Path, line: int, pointer: str, code: str, message: str, fix: str) -> None:
    problems.append(Problem(file, line, pointer, code, message, fix))
