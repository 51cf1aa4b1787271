"""The oracle that needs no labels: change one value of one source column; every output column that changes must descend from it."""

import os
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery as bigquery_client

from dataplatform.lineage.catalog import catalog_from
from dataplatform.lineage.edges import Resolution
from dataplatform.lineage.resolve import resolve

sys.path.insert(0, str(Path(__file__).parent))
from statement_generator import TABLES, StatementGenerator

CATALOG = catalog_from(
    {
        f"p.d.{table}": {"columns": [{"name": name, "type": "INT64"} for name in names]}
        for table, names in TABLES.items()
    }
)
ROWS = 7
Data = dict[str, list[list[int | None]]]


def base_data(seed: int) -> Data:
    """Small tables, whose values collide often so that joins and groups find partners."""
    chosen = random.Random(seed)
    return {
        table: [
            [row + 1, *(chosen.choice([None, *range(1, 9)]) for _ in names[1:])]  # id is unique
            for row in range(ROWS)
        ]
        for table, names in TABLES.items()
    }


def with_data(statement: str, data: Data) -> str:
    """The statement over these rows: WITH entries take the tables' places."""
    entries = []
    for table, names in TABLES.items():
        rows = []
        for values in data[table]:
            cells = ["CAST(NULL AS INT64)" if value is None else str(value) for value in values]
            rows.append(
                "STRUCT(" + ", ".join(f"{cell} AS {name}" for cell, name in zip(cells, names, strict=True)) + ")"
            )
        entries.append(f"{table} AS (SELECT * FROM UNNEST([{', '.join(rows)}]))")
    return f"WITH {', '.join(entries)} SELECT * FROM ({statement})"


def variants(seed: int, data: Data) -> list[tuple[str, str, Data]]:
    """One change each: a column of a table, in one row, but never an id's uniqueness."""
    chosen = random.Random(seed)
    found = []
    for table, names in TABLES.items():
        for position, name in enumerate(names):
            changed = {key: [list(row) for row in rows] for key, rows in data.items()}
            row = chosen.randrange(ROWS)
            old = changed[table][row][position]
            new = chosen.choice([value for value in (*range(1, 9), 40) if value != old])
            changed[table][row][position] = 50 + row if name == "id" else new
            found.append((table, name, changed))
    return found


def columns(rows: list[tuple], names: list[str]) -> dict[str, Counter]:
    """Each column's values, whatever the order of the rows."""
    return {name: Counter(row[position] for row in rows) for position, name in enumerate(names)}


def descendants(result: Resolution, table: str, column: str, names: list[str]) -> set[str]:
    """Output columns that the edges say depend on the column."""
    found: set[str] = set()
    for edge in result.edges:
        if (edge.source_table, edge.source_column) == (f"p.d.{table}", column):
            found |= set(names) if edge.target_column == "*" else {edge.target_column.split(".")[0]}
    return found


def run_oracle(client: bigquery_client.Client, seeds: range, at_once: int) -> dict[str, int]:
    """Run statements and their variants; raises AssertionError for an influence that the edges miss."""
    counted = Counter()
    for seed in seeds:
        statement, names = StatementGenerator(seed).statement()
        result = resolve(statement, CATALOG, project="p", default_dataset="p.d", destination="p.d.out")
        assert not result.unresolved, (seed, statement, result.unresolved)
        data = base_data(seed)
        changes = variants(seed, data)
        random.Random(seed).shuffle(changes)
        changes.sort(key=lambda change: not all(re.search(rf"\b{word}\b", statement) for word in change[:2]))
        changes = changes[: at_once - 1]  # columns that the text names come first
        texts = [with_data(statement, one) for one in (data, *(changed for _, _, changed in changes))]
        listed = ", ".join(names)
        union = " UNION ALL ".join(f"SELECT {at} AS variant, {listed} FROM ({text})" for at, text in enumerate(texts))
        answers: list[list[tuple]] = [[] for _ in texts]
        try:
            for row in client.query(union).result():
                values = tuple(row.values())
                answers[values[0]].append(values[1:])
        except GoogleAPICallError as error:
            counted["not run"] += 1
            counted[f"not run: {str(error)[:80]}"] += 1
            continue
        counted["statements"] += 1
        before = columns(answers[0], names)
        for (table, column, _), rows in zip(changes, answers[1:], strict=True):
            after = columns(rows, names)
            moved = {name for name in names if before[name] != after[name]}
            counted["variants"] += 1
            counted["influences"] += len(moved)
            missing = moved - descendants(result, table, column, names)
            assert not missing, f"seed {seed}: {table}.{column} changed {missing}\n{statement}"
    return dict(counted)


@pytest.fixture(scope="module")
def client(bigquery: Any) -> bigquery_client.Client:
    return bigquery_client.Client(
        project=bigquery.project, credentials=AnonymousCredentials(), client_options={"api_endpoint": bigquery.endpoint}
    )


def test_no_observed_influence_is_missing(client: bigquery_client.Client) -> None:
    counted = run_oracle(client, range(12), at_once=5)
    assert counted["statements"] >= 10, counted
    assert counted["influences"] > 10, counted


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_no_observed_influence_is_missing_at_length(client: bigquery_client.Client) -> None:
    count = int(os.environ.get("LINEAGE_ORACLE_STATEMENTS", "560"))
    counted = run_oracle(client, range(1000, 1000 + count), at_once=6)
    print(counted)
    assert counted["statements"] >= 0.89 * count, counted
