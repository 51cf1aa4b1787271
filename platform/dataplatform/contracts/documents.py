"""A YAML document as plain data, with the line of every part of it, and without YAML's surprises.

Read by YAML 1.2's core schema, as editors do: only `true` and `false` are booleans (`no`, `on` are text) and there are no dates or
base-60 numbers. Anchors, tags and second documents are refused: a contract is plain data. Nothing is silently changed:
a key that stands twice and a number that a double cannot hold exactly are mistakes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

type Path = tuple[str | int, ...]

MAX_NESTING = 64
"""Lists and mappings inside each other; twice what the deepest contract needs."""

_MAYBE_NOT_TEXT = frozenset("-+.0123456789~nNtTfF")
_CONSTANTS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OTHER_BASE = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_MAX_INT_DIGITS = 400


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake at a path of a document; `line` is 1-based, 0 until the place is looked up."""

    path: Path
    code: str
    message: str
    fix: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says: `data` of plain Python values, `lines` of every path, `mistakes` of the writing itself.

    `data` is None where the text is not YAML at all. `texts` is how the numbers and booleans were written (`1.10`).
    """

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()

    def line_of(self, path: Path) -> int:
        """The line of a path, or of the nearest part above it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(content: bytes) -> Document:
    """Read one file's bytes with the line of every part; never raises, mistakes are in the result."""
    return _read(content, with_lines=True)


def read_data(content: bytes) -> Any | None:
    """Only the data of one file's bytes, a third faster; None where there is any mistake (or nothing)."""
    document = _read(content, with_lines=False)
    return None if document.mistakes else document.data


def _read(content: bytes, *, with_lines: bool) -> Document:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Document(
            None, mistakes=(Mistake((), "not_utf8", "the file is not UTF-8 text", "save it as UTF-8", line),)
        )
    reader = _Reader(with_lines)
    try:
        # The parser's own events, not its composer: that one recurses in C, and a few thousand brackets would end the process.
        data = reader.document(iter(yaml.CSafeLoader(text).get_event, None))
    except _StopReadingError:
        data = None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reader.mistakes.append(
            Mistake((), "not_yaml", f"not YAML: {error.reason}", "take the special character out", line)
        )
        data = None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"not YAML: {error.context + ', ' if error.context else ''}{error.problem}"
        reader.mistakes.append(
            Mistake(
                (),
                "not_yaml",
                what,
                "look at the indentation, colons and quotes of this line and the one before",
                mark.line + 1 if mark else 1,
            )
        )
        data = None
    return Document(data, reader.lines, reader.texts, tuple(reader.mistakes))


def dotted(path: Path) -> str:
    """`params[2].fields[0].type`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


class _StopReadingError(Exception):
    """The rest of the document cannot be read; the reason is among the mistakes."""


class _Reader:
    def __init__(self, with_lines: bool) -> None:
        self.with_lines = with_lines
        self.lines: dict[Path, int] = {}
        self.texts: dict[Path, str] = {}
        self.mistakes: list[Mistake] = []

    def document(self, events: Iterator[Any]) -> Any:
        next(events)  # the start of the stream
        start = next(events)
        if isinstance(start, yaml.StreamEndEvent):
            return None
        data = self.value(next(events), events, ())
        next(events)  # the end of the document
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            self.add(after, (), "second_document", "a second document starts here", "one file holds one document")
        return data

    def value(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            if event.anchor is None and event.tag is None:
                return self.plain(event, path) if event.implicit[0] else event.value
            self.refuse_node(event, path)
            return event.value
        if len(path) > MAX_NESTING:
            self.add(event, path[:4], "too_deep", f"nested more than {MAX_NESTING} deep", "make the tree flatter")
            raise _StopReadingError
        if kind is yaml.AliasEvent:
            self.add(event, path, "alias", f"`*{event.anchor}` is an alias", "write the content out")
            return None
        if event.anchor is not None or event.tag is not None:
            self.refuse_node(event, path)
        return self.mapping(events, path) if kind is yaml.MappingStartEvent else self.sequence(events, path)

    def sequence(self, events: Iterator[Any], path: Path) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if type(event) is yaml.SequenceEndEvent:
                break
            here = (*path, len(items))
            if self.with_lines:
                self.lines[here] = _line(event)
            items.append(self.value(event, events, here))
        return items

    def mapping(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for event in events:
            if type(event) is yaml.MappingEndEvent:
                break
            key = event.value if type(event) is yaml.ScalarEvent else ""
            here = (*path, key)
            if type(event) is not yaml.ScalarEvent:
                self.add(event, path, "bad_key", "a key must be a word", "write `key: value`")
                raise _StopReadingError
            if key in items:
                self.add(
                    event,
                    here,
                    "duplicate_key",
                    f"`{key}` stands here and in line {self.lines.get(here, 0)}",
                    "keep one of the two",
                )
            elif self.with_lines:
                self.lines[here] = _line(event)
            value = self.value(next(events), events, here)
            items.setdefault(key, value)
        return items

    def plain(self, event: Any, path: Path) -> Any:
        text: str = event.value
        if text and text[0] not in _MAYBE_NOT_TEXT:
            return text
        if self.with_lines:
            self.texts[path] = text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INT.match(text):
            if len(text) <= _MAX_INT_DIGITS:
                return int(text)
            self.add(event, path, "number_not_exact", "a number of this length holds no value", "write fewer digits")
            return 0
        if _OTHER_BASE.match(text):
            return int(text, 0)
        if _FLOAT.match(text):
            number = float(text)
            exact = number not in (float("inf"), float("-inf")) and Decimal(repr(number)) == Decimal(text)
            if not exact:
                self.add(
                    event,
                    path,
                    "number_not_exact",
                    f"`{text}` has more digits than a YAML number keeps (it would become {number!r})",
                    f'write it in quotes: "{text}"',
                )
            return number
        if _NOT_FINITE.match(text):
            return float(text.replace(".", "", 1))
        return text

    def refuse_node(self, event: Any, path: Path) -> None:
        if event.anchor is not None:
            self.add(
                event,
                path,
                "alias",
                f"`&{event.anchor}` is an anchor",
                "take it out; write the content where it is needed",
            )
        if event.tag is not None:
            self.add(event, path, "tag", f"`{event.tag}` is a tag", "take it out; a contract is plain data")

    def add(self, event: Any, path: Path, code: str, message: str, fix: str) -> None:
        self.mistakes.append(Mistake(path, code, message, fix, _line(event)))


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
