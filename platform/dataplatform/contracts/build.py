"""The files that are compiled from the contracts and kept beside them, for those who do not run the platform.

    generated/<event>.json               Spark's StructType of the event as it is sent
    generated/bigquery/<event>.json      columns of the event's table, as BigQuery's API and `bq` read them
    generated/json_schema/<event>.json   JSON Schema of the event as it is sent
    generated/contract.schema.json       JSON Schema of a contract file, for editors

The files are a function of the contracts alone: the same bytes on every machine.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bigquery import POLICY_TAG_PLACEHOLDER, event_schema
from .json_schema import contract_json_schema, event_json_schema
from .load import Contracts
from .spark import event_struct

GENERATED_FOLDER = "generated"
_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as the contracts say: paths inside of the generated folder."""

    missing: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.stale or self.unwanted)


def generated_files(contracts: Contracts) -> dict[str, str]:
    """Path inside of the generated folder → content, of all files."""
    files = {"contract.schema.json": _pretty(contract_json_schema(contracts))}
    for name, contract in contracts.events.items():
        files[f"{name}.json"] = _pretty(event_struct(contract))
        files[f"bigquery/{name}.json"] = _pretty(event_schema(contract, POLICY_TAG_PLACEHOLDER))
        files[f"json_schema/{name}.json"] = _pretty(event_json_schema(contract))
    return files


def difference(folder: Path, files: Mapping[str, str]) -> Difference:
    """What in a folder is not as `files` says. JSON files that are not among them are unwanted; others are left alone."""
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.json")}
    return Difference(
        missing=tuple(sorted(files.keys() - present.keys())),
        stale=tuple(
            name for name in sorted(files.keys() & present.keys()) if present[name].read_bytes() != files[name].encode()
        ),
        unwanted=tuple(sorted(present.keys() - files.keys())),
    )


def write(folder: Path, files: Mapping[str, str]) -> Difference:
    """Make a folder as `files` says; the result tells what was not. Each file is replaced at once, so that none is ever half there."""
    found = difference(folder, files)
    for name in (*found.missing, *found.stale):
        _replace(folder / name, files[name])
    for name in found.unwanted:
        (folder / name).unlink()
    return found


def _replace(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _pretty(value: Any) -> str:
    return _rendered(value, "") + "\n"


def _rendered(value: Any, indent: str) -> str:
    """JSON in which what fits a line stays on it: one column, one line, so that a change reads as one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(flat) <= _WIDTH or not isinstance(value, dict | list):
        return flat
    inner = indent + " "
    if isinstance(value, list):
        lines = [_rendered(item, inner) for item in value]
        opening, closing = "[", "]"
    else:
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_rendered(item, inner)}" for key, item in value.items()]
        opening, closing = "{", "}"
    return opening + "\n" + ",\n".join(inner + line for line in lines) + "\n" + indent + closing
