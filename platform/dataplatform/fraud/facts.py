"""Facts and lists as they arrive in files and requests: read, checked against a policy's types, refused with the place."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..contracts.errors import ContractError, Problem
from .document import shown, suggestion
from .fact_types import UNTYPED, TypedPolicy
from .tree import Fact, Kind, Policy, Scalar
from .values import ValueProblem, read_parameter, read_value

MAX_LINE = 1 << 20
"""Bytes one set of facts may have."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_PROBLEMS = 50
"""After so many mistakes a file is given up."""
MAX_LIST = 2_000_000
"""Entries one list may have."""


@dataclass(frozen=True, slots=True)
class FactProblem:
    """A fact that cannot be used. `pointer` is a JSON pointer into the line or request."""

    pointer: str
    code: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class FactLine:
    """One line of a facts file: its id as it was sent, and its facts in the policy's types."""

    id: str | int
    facts: Mapping[str, Fact]


def pointer(*keys: str) -> str:
    """A JSON pointer (RFC 6901) of keys from the root."""
    return "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in keys)


def check_facts(typed: TypedPolicy, facts: Mapping[str, object]) -> tuple[dict[str, Fact], list[FactProblem]]:
    """The facts a policy reads, in its types, and what is wrong with them. Facts that it does not read are left out."""
    read: dict[str, Fact] = {}
    problems: list[FactProblem] = []
    for fact, fact_type in typed.types.items():
        value = facts.get(fact)
        if value is None:
            continue
        try:
            read[fact] = _any_scalar(value) if fact_type == UNTYPED else read_value(value, fact_type)
        except ValueProblem as problem:
            problems.append(
                FactProblem(pointer("facts", fact), problem.code, f"{fact} is {problem.message}", problem.fix)
            )
    return read, problems


def read_facts(file: Path, typed: TypedPolicy) -> Iterator[FactLine]:
    """Every line of a facts file, in order; keys beside id and facts are passed over.

    ContractError with all mistakes (the first fifty) after the last line.

    Lines that hold only white space are passed over.
    """
    problems: list[Problem] = []
    for number, raw in _lines(file, problems):
        line = _fact_line(file, number, raw, typed, problems)
        if line is not None and not problems:
            yield line
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise ContractError(problems)


def read_lists(file: Path) -> tuple[dict[str, frozenset[Scalar]], dict[str, Kind | None]]:
    """Lists by name with the kind of their entries (None when empty), from {"name": ["a", …]}."""
    problems: list[Problem] = []
    try:
        root = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise ContractError(
            [Problem(file, 0, "", "unreadable", f"cannot be read: {error.strerror}", "check the path")]
        ) from None
    except (msgspec.DecodeError, ValueError) as error:
        raise ContractError(
            [Problem(file, 0, "", "not_json", f"is no JSON: {error}", 'write {"name": ["entry", …]}')]
        ) from None
    if not isinstance(root, dict):
        raise ContractError(
            [
                Problem(
                    file, 0, "", "wrong_type", f"lists are an object, not {shown(root)}", 'write {"name": ["entry", …]}'
                )
            ]
        )
    lists: dict[str, frozenset[Scalar]] = {}
    kinds: dict[str, Kind | None] = {}
    for name, entries in root.items():
        place = pointer(name)
        if not isinstance(entries, list):
            message = f"{name} is a list, not {shown(entries)}"
            problems.append(Problem(file, 0, place, "wrong_type", message, 'write ["entry", …]'))
            continue
        if len(entries) > MAX_LIST:
            message = f"{name} has more than {MAX_LIST:,} entries"
            problems.append(Problem(file, 0, place, "too_long", message, "declare a feature instead of a list"))
            continue
        kind, found = _entries(file, name, entries, problems)
        kinds[name] = kind
        lists[name] = frozenset(found)
    if problems:
        raise ContractError(problems)
    return lists, kinds


def check_lists(policy: Policy, lists: Mapping[str, object], where: Path) -> None:
    """ContractError when a policy names a list that was not given."""
    problems = []
    for name in policy.lists():
        if name not in lists:
            near = suggestion(name, lists)
            fix = f"rename {near} to {name}" if near else f'give it in the lists, such as {{"{name}": []}}'
            problems.append(Problem(where, 0, "", "unknown_list", f"the list {name} is not given", fix))
    if problems:
        raise ContractError(problems)


def set_parameters(policy: Policy, changes: Mapping[str, object], where: str = "--set") -> dict[str, Scalar]:
    """Values of all parameters: the defaults, and the changes within their bounds; ContractError with every mistake."""
    values = policy.defaults()
    problems = []
    for name, value in changes.items():
        try:
            parameter = policy.parameter(name)
        except KeyError:
            near = suggestion(name, values)
            fix = f"write {near}" if near else f"one of {', '.join(values) or 'none: the policy has no parameters'}"
            message = f"{policy.name} has no parameter {name}"
            problems.append(Problem(Path(where), 0, name, "unknown_parameter", message, fix))
            continue
        try:
            values[name] = read_parameter(value, parameter)
        except ValueProblem as problem:
            message = f"{name} = {value}: {problem.message}"
            problems.append(Problem(Path(where), 0, name, problem.code, message, problem.fix))
    if problems:
        raise ContractError(problems)
    return values


def assignments(changes: tuple[str, ...]) -> dict[str, object]:
    """`name=value` texts as a mapping; ContractError for one that is none, or given twice."""
    values: dict[str, object] = {}
    problems = []
    for change in changes:
        name, equals, value = change.partition("=")
        name = name.strip()
        if not equals or not name or name in values:
            message = f"{name} is set twice" if name in values else f"{change!r} is no name=value"
            problems.append(
                Problem(Path("--set"), 0, name, "syntax", message, "write --set min_membership=70, once each")
            )
        values[name] = value.strip()
    if problems:
        raise ContractError(problems)
    return values


def write_lines(file: Path, lines: Iterator[bytes]) -> int:
    """Write a file whole or not at all; gives the number of lines."""
    count = 0
    try:
        partial = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as out:
                for line in lines:
                    out.write(line + b"\n")
                    count += 1
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ContractError(
            [Problem(file, 0, "", "unwritable", f"cannot be written: {error.strerror}", "check the folder")]
        ) from None
    return count


def _lines(file: Path, problems: list[Problem]) -> Iterator[tuple[int, bytes]]:
    """(1-based number, bytes) of every line; one that is too long is noted and passed over without being kept."""
    try:
        with file.open("rb") as lines:
            number = 0
            while raw := lines.readline(MAX_LINE + 1):
                number += 1
                if number == 1:
                    raw = raw.removeprefix(BYTE_ORDER_MARK)
                if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
                    size = len(raw)
                    while rest := lines.readline(MAX_LINE):
                        size += len(rest)
                        if rest.endswith(b"\n"):
                            break
                    message = f"the line has {size:,} bytes, more than {MAX_LINE:,}"
                    problems.append(
                        Problem(file, number, "", "too_large", message, "send only the facts that are needed")
                    )
                elif raw.strip():
                    yield number, raw
    except OSError as error:
        problems.append(Problem(file, 0, "", "unreadable", f"cannot be read: {error.strerror}", "check the path"))


def _fact_line(file: Path, number: int, raw: bytes, typed: TypedPolicy, problems: list[Problem]) -> FactLine | None:
    shape = 'write {"id": "…", "facts": {"amount": 5000}}'

    def note(pointer: str, code: str, message: str, fix: str) -> None:
        problems.append(Problem(file, number, pointer, code, message, fix))

    try:
        row: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        text = str(error).removeprefix("JSON is malformed: ")
        fix = "leave a fact out where it is not known" if b"NaN" in raw or b"Infinity" in raw else shape
        note("", "not_json", f"is no JSON: {text}", fix)
        return None
    if not isinstance(row, dict):
        note("", "wrong_type", f"a line is an object, not {shown(row)}", shape)
        return None
    before = len(problems)
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int):
        message = "id is missing" if name is None else f"id is a text or a whole number, not {shown(name)}"
        note("/id", "missing" if name is None else "wrong_type", message, shape)
        name = ""
    facts = row.get("facts")
    if not isinstance(facts, dict):
        message = "facts is missing" if facts is None else f"facts is an object, not {shown(facts)}"
        note("/facts", "missing" if facts is None else "wrong_type", message, shape)
        return None
    read, found = check_facts(typed, facts)
    for problem in found:
        note(problem.pointer, problem.code, problem.message, problem.fix)
    return FactLine(name, read) if len(problems) == before else None


def _entries(file: Path, name: str, entries: list[Any], problems: list[Problem]) -> tuple[Kind | None, list[Scalar]]:
    if not entries:
        return None, []
    kind: Kind = "STRING" if isinstance(entries[0], str) else "NUMBER"
    found: list[Scalar] = []
    for index, entry in enumerate(entries):
        try:
            found.append(read_value(entry, kind))
        except ValueProblem as problem:
            message = f"entry {index} of {name} is {problem.message}"
            fix = "give a list entries of one kind, all texts or all numbers"
            problems.append(Problem(file, 0, f"/{name}/{index}", problem.code, message, fix))
            if len(problems) >= MAX_PROBLEMS:
                break
    return kind, found


def _any_scalar(value: object) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return read_value(value, "NUMBER")
    return read_value(value, "STRING")
