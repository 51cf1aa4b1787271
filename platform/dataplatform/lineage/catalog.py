"""What is known of the warehouse: columns of tables with their STRUCT trees, definitions of views and routines.

Made from a schemas file, `{"project.dataset.table": {"type": "TABLE"|"VIEW"|"ROUTINE", "columns": [{"name", "type", "mode",
"fields"}], "definition": "CREATE …"}}`, or from the warehouse. Nothing here knows SQL: the columns of a view that are not stated are
worked out by the resolver and kept in `Catalog.inferred`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import PlatformError
from .names import general_path
from .values import CERTAIN, TOLD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCALARS = frozenset(
    [
        "STRING",
        "BYTES",
        "INTEGER",
        "INT64",
        "INT",
        "SMALLINT",
        "BIGINT",
        "TINYINT",
        "BYTEINT",
        "FLOAT",
        "FLOAT64",
        "BOOLEAN",
        "BOOL",
        "TIMESTAMP",
        "DATE",
        "TIME",
        "DATETIME",
        "GEOGRAPHY",
        "NUMERIC",
        "BIGNUMERIC",
        "DECIMAL",
        "BIGDECIMAL",
        "JSON",
        "INTERVAL",
        "RANGE",
        "FOREIGN",
    ]
)
STRUCTS = frozenset({"RECORD", "STRUCT"})
ANY, UNKNOWN = "ANY", "UNKNOWN"
"""Types of inferred columns: some scalar; not known at all."""
_PARAMETERS = re.compile(r"\(.*\)\s*$|<.*>\s*$", re.DOTALL)


class Field:
    """A column or a field of a STRUCT. `type` is BigQuery's, upper case; arrays are told by `mode` REPEATED."""

    __slots__ = ("_children", "fields", "mode", "name", "type")

    def __init__(self, name: str, type_: str, mode: str = "NULLABLE", fields: tuple[Field, ...] = ()) -> None:
        self.name = name
        self.type = type_
        self.mode = mode
        self.fields = fields
        self._children: dict[str, Field] | None = None

    def child(self, name: str) -> Field | None:
        """The field of that name, whatever its case."""
        if self._children is None:
            self._children = {child.name.lower(): child for child in self.fields}
        return self._children.get(name.lower())


@dataclass
class Table:
    """A table, view or routine. `columns` (by lower-case name) is None when they are not known."""

    name: str
    type: str = "TABLE"
    columns: dict[str, Field] | None = None
    definition: str | None = None
    code: int = CERTAIN
    """CERTAIN, or TOLD where the columns were worked out."""


@dataclass(frozen=True)
class Problem:
    """Something in the schemas that is not understood."""

    table: str
    column: str
    reason: str
    detail: str


@dataclass
class Catalog:
    """Tables by `project.dataset.table`, date shards under `_*`."""

    tables: dict[str, Table] = field(default_factory=dict)
    routines: dict[str, Table] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    inferred: dict[str, Table] = field(default_factory=dict)
    """Views whose columns the resolver worked out from their definitions."""
    _names: list[str] | None = None
    _wildcards: dict[str, Table | None] = field(default_factory=dict)

    def get(self, name: str, *, wildcard: bool = False) -> Table | None:
        """The table of that full name; `wildcard`: the name was written with `*`, so it stands for all tables with that prefix."""
        table = self.tables.get(name)
        if table is None and wildcard:
            if name not in self._wildcards:
                self._wildcards[name] = self._wildcard(name)
            table = self._wildcards[name]
        return table

    def _wildcard(self, name: str) -> Table | None:
        if self._names is None:
            self._names = sorted(self.tables)
        prefix = name[:-2]
        columns: dict[str, Field] = {}
        for at in range(bisect_left(self._names, prefix), len(self._names)):
            if not self._names[at].startswith(prefix):
                break
            for key, column in (self.tables[self._names[at]].columns or {}).items():
                columns.setdefault(key, column)
        return Table(name, columns=columns, code=TOLD) if columns else None

    def add(self, name: str, description: Mapping[str, Any]) -> None:
        """One entry of a schemas file; what is not understood goes to `problems`."""
        type_ = str(description.get("type") or "TABLE").upper()
        definition = description.get("definition") or None
        if type_ in ("ROUTINE", "FUNCTION", "PROCEDURE", "TABLE FUNCTION"):
            self.routines[name] = Table(name, type_, None, definition)
            return
        name = general_path(name)
        fields = self._fields(name, "", description.get("columns") or [])
        columns = {column.name.lower(): column for column in fields} or None
        known = self.tables.get(name)
        if known is not None and known.columns and columns:
            columns = known.columns | {key: column for key, column in columns.items() if key not in known.columns}
        self.tables[name] = Table(name, type_, columns, definition)

    def _fields(self, table: str, path: str, columns: Any) -> tuple[Field, ...]:
        fields = []
        if not isinstance(columns, list | tuple):
            self.problems.append(Problem(table, path or "*", "unknown_type", "the columns are not a list"))
            return ()
        for column in columns:
            if not isinstance(column, dict) or not isinstance(column.get("name"), str) or not column["name"]:
                self.problems.append(Problem(table, path or "*", "unknown_type", "a column without a name"))
                continue
            name = column["name"]
            mode = str(column.get("mode") or "NULLABLE").upper()
            written = str(column.get("type") or "").strip()
            if written.upper().startswith("ARRAY<"):
                mode, written = "REPEATED", written[6:-1].strip()
            base = _PARAMETERS.sub("", written.upper()).strip()
            children = column.get("fields") or _fields_of(written)
            where = f"{path}.{name}" if path else name
            if base not in SCALARS and base not in STRUCTS and base != UNKNOWN:
                self.problems.append(Problem(table, where, "unknown_type", f"type {column.get('type')!r}"))
                base = UNKNOWN
            elif base in STRUCTS and not children:
                base = UNKNOWN
            fields.append(Field(name, base, mode, self._fields(table, where, children)))
        return tuple(fields)


def _fields_of(written: str) -> list[dict[str, str]]:
    """`STRUCT<a INT64, b STRUCT<c STRING>>` as descriptions of its fields; none for any other type, or where one has no name."""
    if not written.upper().startswith("STRUCT<"):
        return []
    pieces, depth = [""], 0
    for character in written[7:-1]:
        depth += {"<": 1, "(": 1, ">": -1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    named = [piece.split(None, 1) for piece in pieces]
    return [{"name": name, "type": kind} for name, kind in named] if all(len(one) == 2 for one in named) else []


def catalog_from(schemas: Mapping[str, Any]) -> Catalog:
    """Catalog of the content of a schemas file."""
    catalog = Catalog()
    for name, description in schemas.items():
        if isinstance(description, dict):
            catalog.add(name, description)
        else:
            catalog.problems.append(Problem(name, "*", "unknown_type", "the table's description is not an object"))
    return catalog


def load_catalog(path: Path) -> Catalog:
    """Catalog of a schemas file; raises PlatformError when the file is not a JSON object."""
    try:
        schemas = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise PlatformError(
            f"cannot be read: {error.strerror}", where=str(path), fix="give an existing file"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PlatformError(
            f"is not JSON: {error}", where=str(path), fix="write one JSON object, table → columns"
        ) from error
    if not isinstance(schemas, dict):
        raise PlatformError("is not a JSON object", where=str(path), fix="write one JSON object, table → columns")
    return catalog_from(schemas)
