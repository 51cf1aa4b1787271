"""A YAML file with the line of everything in it, and the mistakes found while it is read."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ..contracts.errors import ContractError, Problem

type Step = str | int


@dataclass
class Document:
    """A parsed file. `problems` grows while it is read, so that all mistakes are told at once."""

    file: Path
    root: CommentedMap
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: tuple[Step, ...]) -> int:
        """1-based line of the value at a path; of its nearest known ancestor where it is not there."""
        node: Any = self.root
        line = 1
        for step in path:
            try:
                mark = node.lc.data[step]
            except (AttributeError, KeyError, TypeError):
                return line
            # A mapping's entry is (key line, key column, value line, value column), a sequence's (line, column).
            line = mark[0] + 1
            node = node[step]
        return line

    def report(self, path: tuple[Step, ...], code: str, message: str, fix: str) -> None:
        """Note one mistake at a path."""
        self.problems.append(Problem(self.file, self.line(path), dotted(path), code, message, fix))

    def text(self, path: tuple[Step, ...], mapping: Mapping[Any, Any], key: str, *, required: bool = False) -> str:
        """The text under `key`; notes a mistake and gives "" where it is missing (and required) or no text."""
        if key not in mapping or mapping[key] is None:
            if required:
                self.report(path, "missing", f"{key} is missing", f"add {key}: …")
            return ""
        value = mapping[key]
        if not isinstance(value, str):
            self.report((*path, key), "wrong_type", f"{key} is a text, not {shown(value)}", "put it in quotes")
            return ""
        return str(value)

    def keys(self, path: tuple[Step, ...], mapping: Mapping[Any, Any], known: Iterable[str]) -> None:
        """Note every key that nothing reads."""
        known = list(known)
        for key in mapping:
            if key not in known:
                near = suggestion(str(key), known)
                self.report(
                    (*path, key) if isinstance(key, str) else path,
                    "unknown_key",
                    f"{key!r} is no key here",
                    f"write {near}" if near else f"one of {', '.join(known)}",
                )

    def mapping(self, path: tuple[Step, ...], value: Any, what: str, shape: str) -> CommentedMap | None:
        """`value` where it is a mapping; else a mistake is noted."""
        if isinstance(value, CommentedMap):
            return value
        self.report(path, "wrong_type", f"{what} is a mapping, not {shown(value)}", f"write {shape}")
        return None

    def sequence(self, path: tuple[Step, ...], value: Any, what: str, shape: str) -> CommentedSeq | None:
        """`value` where it is a list; else a mistake is noted."""
        if isinstance(value, CommentedSeq):
            return value
        self.report(path, "wrong_type", f"{what} is a list, not {shown(value)}", f"write {shape}")
        return None

    def raise_problems(self) -> None:
        """Raise ContractError with everything noted so far, in the order of the file; nothing when all is well."""
        if self.problems:
            raise ContractError(sorted(self.problems, key=lambda problem: problem.line))


def read_document(file: Path) -> Document:
    """Read a YAML file whose root is a mapping; ContractError with the line where it is none."""
    try:
        return parse_document(file.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise ContractError(
            [
                Problem(
                    file, 0, "", "unreadable", f"cannot be read: {error.strerror}", "check the path and its permissions"
                )
            ]
        ) from None
    except UnicodeDecodeError as error:
        raise ContractError(
            [Problem(file, 0, "", "unreadable", f"is no UTF-8: byte {error.start}", "save the file as UTF-8")]
        ) from None


def parse_document(text: str, file: Path) -> Document:
    """Read a YAML text; `file` is what the mistakes name."""
    try:
        root = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        code = "duplicate" if "duplicate key" in str(error.problem) else "not_yaml"
        fix = "give each key once" if code == "duplicate" else "quote texts that hold , : { } # or quotes"
        raise ContractError([Problem(file, line, "", code, f"{error.problem or error}", fix)]) from None
    except (YAMLError, ValueError) as error:
        raise ContractError([Problem(file, 0, "", "not_yaml", str(error), "write YAML")]) from None
    if not isinstance(root, CommentedMap):
        raise ContractError(
            [Problem(file, 1, "", "wrong_type", f"the file is a mapping, not {shown(root)}", "write key: value lines")]
        )
    return Document(file, root)


def dotted(path: Iterable[Step]) -> str:
    """`rules[2].when` for ("rules", 2, "when")."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, or ""."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return near[0] if near else ""


def shown(value: Any) -> str:
    """A value as an error names it, short."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
