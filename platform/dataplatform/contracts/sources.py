"""What is known of databases outside the platform: their tables' columns, and where each goes.

sources/<name>.yaml   one database a file

Nothing is captured by it. It lets lineage go on from a column of a service's own database to the event or the table that it feeds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic import Field as PydanticField

from .collections import mistakes_of
from .documents import dotted, read_document
from .errors import Problem
from .events import ENVELOPE_FIELDS
from .fields import columns_of
from .load import OWNERS_FILE, Contracts

SOURCES_FOLDER = "sources"
EVENT_TARGET = "event"
"""First part of a target that is an event's parameter."""
_Text = Annotated[str, StringConstraints(min_length=1)]


class SourceColumn(BaseModel):
    """A column (of MongoDB: a field's path) and what it feeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: tuple[Annotated[str, StringConstraints(pattern=r"^[^.\s]+\.[^.\s]+\.[^\s]+$")], ...] = PydanticField(
        description="What it feeds: `event.<event>.<parameter>`, or `<dataset>.<table>.<column>`."
    )
    subtype: Literal["IDENTITY", "TRANSFORMATION", "AGGREGATION"] = PydanticField(
        "IDENTITY", description="Whether it arrives as it is."
    )
    pii: bool = PydanticField(False, description="Holds personal data; lineage follows it.")
    description: str = PydanticField("", description="What it means.")


class SourceTable(BaseModel):
    """A table, or a collection, of the database."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: Mapping[str, SourceColumn] = PydanticField(description="Its columns by name.")
    owner: str = PydanticField("", description="The team that answers for it; the database's when not given.")
    description: str = PydanticField("", description="What a row is.")


class SourceContract(BaseModel):
    """A database that feeds the platform by ways that the platform does not see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mysql", "postgresql", "mongodb", "service"] = PydanticField(description="What kind of database.")
    database: _Text = PydanticField(description="Its name.")
    owner: _Text = PydanticField(description="The team that answers for it, as in owners.yaml.")
    description: _Text = PydanticField(description="What it holds.")
    tables: Mapping[str, SourceTable] = PydanticField(description="Its tables by name.")

    def node(self, table: str) -> str:
        """Name of one of its tables in the graph of lineage."""
        return f"{self.kind}.{self.database}.{table}"

    def flows(self) -> Iterator[tuple[str, str, SourceColumn, str]]:
        """(table, column's name, column, what it feeds), for all of them."""
        for name, table in self.tables.items():
            for path, column in table.columns.items():
                for target in column.to:
                    yield name, path, column, target


@dataclass(frozen=True)
class Sources:
    """The contracts of a folder by file name; `files` gives each one's file."""

    contracts: Mapping[str, SourceContract] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


def load_sources_leniently(root: Path, known: Contracts | None = None) -> tuple[Sources, list[Problem]]:
    """The contracts of the files that hold, and what is wrong with the others; against `known` events and owners where given."""
    contracts: dict[str, SourceContract] = {}
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    folder = root / SOURCES_FOLDER
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        document = read_document(file.read_bytes())
        mistakes = [Problem(file, m.line, dotted(m.path), m.code, m.message, m.fix) for m in document.mistakes]
        if not mistakes and not isinstance(document.data, dict):
            mistakes = [Problem(file, 1, "", "not_a_mapping", "a mapping is meant", "write `key: value` lines")]
        if not mistakes:
            try:
                contract = SourceContract.model_validate(document.data)
            except ValidationError as error:
                mistakes = mistakes_of(error, file, document, SourceContract, "a source", "docs/lineage.md")
            else:
                if known is not None:
                    mistakes = [
                        Problem(file, document.line_of(path), dotted(path), code, message, fix)
                        for path, code, message, fix in _unknown(contract, known)
                    ]
                contracts[file.stem], files[file.stem] = contract, file
        problems += mistakes
    return Sources(contracts, files), problems


def _unknown(contract: SourceContract, known: Contracts) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
    """Owners, events and parameters that are named and not there."""
    owners: dict[tuple[str, ...], str] = {("owner",): contract.owner}
    owners |= {("tables", name, "owner"): one.owner for name, one in contract.tables.items() if one.owner}
    for path, owner in owners.items():
        if known.owners and owner not in known.owners:
            yield path, "unknown_owner", f"`{owner}` is not among the owners", f"add the team to {OWNERS_FILE}"
    for table, name, _, target in contract.flows():
        kind, event, parameter = target.split(".", 2)
        if kind != EVENT_TARGET:
            continue
        at = ("tables", table, "columns", name, "to")
        found = known.events.get(event)
        if found is None:
            yield at, "unknown_event", f"no event is called `{event}`", "name one that `contracts list` shows"
        elif parameter not in {one.name for one in ENVELOPE_FIELDS} | {
            ".".join(column.path) for column in columns_of(found.params)
        }:
            yield at, "unknown_parameter", f"`{event}` has no parameter `{parameter}`", f"`contracts show {event}`"
