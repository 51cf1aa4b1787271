"""What is told of columns: whether their sources are known, whether anything reads them, where personal data has gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..settings import Settings
from ..warehouse.client import Warehouse
from .catalog import Field
from .declared import contract_marks
from .history import catalog_now
from .impact import Graph, parse_node
from .pii import Finding, forbidden, spread
from .query_log import row_count
from .tables import COLUMNS, DATASET, PERSONAL, replace


@dataclass(frozen=True)
class Coverage:
    """How many columns of all tables have their sources, and which have none although their table has rows."""

    columns: int
    with_source: int
    without: tuple[str, ...]


def describe_columns(warehouse: Warehouse, graph: Graph) -> Coverage:
    """Write `columns`: each column of each table, whether its sources are known and whether anything reads it."""
    catalog = catalog_now(warehouse)
    made: dict[str, set[str]] = {}
    for edge in graph.edges:
        made.setdefault(edge.target_table or "", set()).add(edge.target_column)
    for name, made_column in graph.constants:
        made.setdefault(name, set()).add(made_column)
    now = datetime.now(UTC)
    rows = []
    without = []
    for table in catalog.tables.values():
        names = made.get(table.name, set())
        told = {path: _is_made(path, names) for path, _ in _paths(table.columns or {})}
        is_empty = not all(told.values()) and not row_count(warehouse, table.name)
        for path, column in _paths(table.columns or {}):
            has_source = told[path]
            if not has_source and not is_empty:
                without.append(f"{table.name}.{path}")
            rows.append(
                {
                    "table_name": table.name,
                    "column_path": path,
                    "type": column.type,
                    "mode": column.mode,
                    "has_source": has_source,
                    "is_empty": is_empty,
                    "is_read": graph.is_read((table.name, path)),
                    "described_at": now,
                }
            )
    replace(warehouse, COLUMNS, rows)
    return Coverage(len(rows), len(rows) - len(without), tuple(without))


def _is_made(path: str, made: set[str]) -> bool:
    """Whether the column, something above it, or a field below it is made."""
    above = path
    while above not in made:
        if "." not in above:
            return any(name.startswith(f"{path}.") for name in made)
        above = above.rpartition(".")[0]
    return True


def describe_personal_data(warehouse: Warehouse, settings: Settings, graph: Graph) -> int:
    """Write `pii`: where the columns that contracts mark have gone, and where they stop; the number of rows."""
    marks = contract_marks(settings)
    result = spread(graph, marks)
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {
            "table_name": finding.node[0],
            "column_path": finding.node[1],
            "mark": finding.mark,
            "origin": ".".join(finding.origin),
            "path": [f"{'.'.join(edge.source)} → {'.'.join(edge.target)}: {edge.expression}" for edge in finding.path],
            "stopped_by": None,
            "confidence": finding.confidence,
            "found_at": now,
        }
        for finding in result.findings
    ]
    rows += [
        {
            "table_name": stop.edge.target[0],
            "column_path": stop.edge.target[1],
            "mark": stop.mark,
            "origin": ".".join(stop.origin),
            "path": [stop.edge.expression],
            "stopped_by": stop.why,
            "confidence": stop.edge.confidence,
            "found_at": now,
        }
        for stop in result.stopped
    ]
    replace(warehouse, PERSONAL, rows)
    return len(rows)


def columns_without_source(warehouse: Warehouse, *, of_empty_tables: bool = False) -> list[str]:
    """Columns whose sources are not known: of tables that have rows, or of those that nothing has ever come to."""
    rows = warehouse.query(
        f"SELECT table_name, column_path FROM `{warehouse.table_id(DATASET, COLUMNS.name)}`"
        " WHERE NOT has_source AND is_empty = @empty ORDER BY table_name, column_path",
        {"empty": of_empty_tables},
        name="columns_without_source",
    ).rows
    return [f"{row['table_name']}.{row['column_path']}" for row in rows]


def personal_data(warehouse: Warehouse) -> dict[str, int]:
    """Columns of our project's tables that hold personal data, by dataset."""
    rows = warehouse.query(
        "SELECT REGEXP_EXTRACT(table_name, r'^[^.]+\\.([^.]+)') AS dataset,"
        " COUNT(DISTINCT CONCAT(table_name, '.', column_path)) AS n\n"
        f"FROM `{warehouse.table_id(DATASET, PERSONAL.name)}`"
        " WHERE stopped_by IS NULL AND STARTS_WITH(table_name, @project) GROUP BY 1 ORDER BY 2 DESC, 1",
        {"project": f"{warehouse.project}."},
        name="personal_data",
    ).rows
    return {row["dataset"]: row["n"] for row in rows}


def forbidden_data(warehouse: Warehouse, settings: Settings) -> list[Finding]:
    """Personal data in datasets that may not hold it, by the setting `pii_allowed`."""
    if not settings.pii_allowed or PERSONAL.name not in warehouse.tables(DATASET):
        return []
    rows = warehouse.query(
        f"SELECT table_name, column_path, mark, origin FROM `{warehouse.table_id(DATASET, PERSONAL.name)}`"
        " WHERE stopped_by IS NULL ORDER BY table_name, column_path, origin",
        name="personal_data",
    ).rows
    found = [
        Finding((row["table_name"], row["column_path"]), row["mark"], parse_node(row["origin"]), ()) for row in rows
    ]
    allowed = {settings.dataset(name): frozenset(kinds) for name, kinds in settings.pii_allowed.items()}
    return forbidden(found, allowed)


def _paths(columns: Mapping[str, Field], above: str = "") -> Iterator[tuple[str, Field]]:
    for column in columns.values():
        path = f"{above}.{column.name}" if above else column.name
        yield path, column
        yield from _paths({one.name: one for one in column.fields}, path)
