"""Every case tells exactly its edges."""

import sys
from pathlib import Path

import pytest

from dataplatform.lineage.catalog import catalog_from
from dataplatform.lineage.resolve import resolve

sys.path.insert(0, str(Path(__file__).parent))
from lineage_cases import Case, cases_catalog, read_cases, told

ALL = read_cases()
CATALOG = cases_catalog()


@pytest.mark.parametrize("case", ALL, ids=[f"{case.file}: {case.title}" for case in ALL])
def test_case(case: Case) -> None:
    result = resolve(case.statement, CATALOG, project="p", default_dataset="p.d", destination="p.d.out")
    found = told(result)
    problems = [f"missing   {edge}" for edge in sorted(case.edges - found, key=str)]
    problems += [f"unwanted  {edge}" for edge in sorted(found - case.edges, key=str)]
    reasons = {(one.target_column, one.reason, one.detail) for one in result.unresolved}
    for expected in case.unresolved:
        match = {one for one in reasons if one[:2] == expected[:2] and one[2].startswith(expected[2])}
        problems += [] if match else [f"missing reason   {expected}"]
        reasons -= match
    problems += [f"unwanted reason  {one}" for one in sorted(reasons, key=str)]
    assert not problems, "\n".join(["", case.statement, *problems])


def test_there_are_enough_cases() -> None:
    assert len(ALL) >= 250
    assert len({(case.file, case.title) for case in ALL}) == len(ALL)


def test_views_resolve_to_base_tables_as_well() -> None:
    sql = "SELECT a1, bb FROM v2"
    named = told(resolve(sql, CATALOG, project="p", default_dataset="p.d", destination="p.d.out"))
    assert {edge[:2] for edge in named} == {("p.d.v2", "a1"), ("p.d.v2", "bb")}
    base = told(resolve(sql, CATALOG, project="p", default_dataset="p.d", destination="p.d.out", through_views=True))
    assert {edge[:2] + edge[3:5] for edge in base} == {
        ("p.d.t", "a", "a1", "TRANSFORMATION"),
        ("p.d.t", "b", "bb", "TRANSFORMATION"),
        ("p.d.t", "ok", "*", "FILTER"),
    }


def test_a_view_that_was_redefined_is_resolved_as_it_is_now() -> None:
    schemas = {"p.d.t": {"columns": [{"name": "a", "type": "INT64"}, {"name": "b", "type": "INT64"}]}}
    for column in ("a", "b"):
        view = {"type": "VIEW", "columns": [], "definition": f"CREATE VIEW d.v AS SELECT {column} AS x FROM d.t"}
        catalog = catalog_from(schemas | {"p.d.v": view})
        found = told(resolve("SELECT x FROM p.d.v", catalog, project="p", destination="p.d.out", through_views=True))
        assert {edge[:2] for edge in found} == {("p.d.t", column)}


def test_a_view_defined_through_itself_ends() -> None:
    view = {"type": "VIEW", "columns": [], "definition": "CREATE VIEW d.v AS SELECT * FROM d.v"}
    catalog = catalog_from({"p.d.v": view})
    for through in (False, True):
        result = resolve("SELECT x FROM p.d.v", catalog, project="p", destination="p.d.out", through_views=through)
        assert result.unresolved


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t",
        "SELECT * FROM t AS x",
        "SELECT t.a, x.b FROM t JOIN d.t2 AS x ON x.a = t.a",
        "WITH c AS (SELECT a FROM t) SELECT COUNT(*) OVER (PARTITION BY a) AS n, a FROM c WHERE a > 1",
        "INSERT INTO t (a) SELECT b FROM d.t2",
        "UPDATE t SET a = 1 WHERE b = 2",
        "MERGE t USING d.t2 AS s ON s.a = t.a WHEN NOT MATCHED THEN INSERT ROW",
        "CREATE TABLE t AS SELECT a FROM d.t2",
        "LOAD DATA INTO t FROM FILES (format = 'CSV', uris = ['gs://b/x.csv'])",
    ],
)
def test_a_table_without_a_dataset_is_one_reason_and_no_node(sql: str) -> None:
    result = resolve(sql, CATALOG, project="p", destination="p.d.out")
    assert [(one.reason, one.detail) for one in result.unresolved] == [("no_default_dataset", "t")]
    tables = {table for edge in result.edges for table in (edge.source_table, edge.target_table)}
    assert tables <= {"p.d.t2", "p.d.out", None}


def test_a_temporary_table_needs_no_dataset() -> None:
    sql = "CREATE TEMP TABLE x AS SELECT a FROM p.d.t; SELECT a FROM x"
    result = resolve(sql, CATALOG, project="p", destination="p.d.out")
    assert result.unresolved == []
    assert told(result) == {("p.d.t", "a", "p.d.out", "a", "IDENTITY", False, 1.0)}
