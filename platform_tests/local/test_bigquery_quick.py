"""What makes the embedded BigQuery server quicker changes no answer: a statement that was translated before is translated again
when its tables are not what they were, and tables made at the same time are told apart."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import NotFound
from google.cloud import bigquery

from dataplatform.warehouse.client import Warehouse, WarehouseError
from dataplatform.warehouse.tables import TableSpec, ensure


@pytest.fixture
def warehouse(settings_for: Any) -> Warehouse:
    found = Warehouse(settings_for())
    ensure(found, [TableSpec("quick", "t", [{"name": "a", "type": "INT64"}])])
    return found


def test_a_column_more(warehouse: Warehouse) -> None:
    table = warehouse.table_id("quick", "t")
    everything = f"SELECT * FROM `{table}`"
    warehouse.query(f"INSERT INTO `{table}` (a) VALUES (1)")
    for _ in range(3):
        assert warehouse.query(everything).rows == [{"a": 1}]
    warehouse.query(f"ALTER TABLE `{table}` ADD COLUMN b STRING")
    for _ in range(2):
        assert warehouse.query(everything).rows == [{"a": 1, "b": None}]
    warehouse.query(f"ALTER TABLE `{table}` DROP COLUMN a")
    assert warehouse.query(everything).rows == [{"b": None}]


def test_another_type_of_the_same_name(warehouse: Warehouse) -> None:
    """What `1.1 * a` is depends on the type of a: FLOAT64 or NUMERIC."""
    table = warehouse.table_id("quick", "t")
    product = f"SELECT 1.1 * a AS p FROM `{table}`"
    for type_name, expected in (("INT64", "3.3000000000000003"), ("NUMERIC", "3.3"), ("INT64", "3.3000000000000003")):
        warehouse.query(f"CREATE OR REPLACE TABLE `{table}` (a {type_name})")
        warehouse.query(f"INSERT INTO `{table}` (a) VALUES (3)")
        for _ in range(2):
            [row] = warehouse.query(product).rows
            assert str(row["p"]).rstrip("0") == expected


def test_a_script_with_other_parameters(warehouse: Warehouse) -> None:
    table = warehouse.table_id("quick", "t")
    script = f"""
        CREATE TEMP TABLE chosen AS SELECT a + @more AS a FROM UNNEST([1, 2]) AS a WHERE a >= @least;
        DELETE FROM `{table}` AS t WHERE t.a >= @least;
        INSERT INTO `{table}` (a) SELECT a FROM chosen;
        SELECT a FROM `{table}` ORDER BY a;
    """
    for least, more, expected in ((1, 0, [1, 2]), (2, 10, [1, 12]), (1, 5, [6, 7])):
        found = warehouse.script(script, {"least": least, "more": more})
        assert [row["a"] for row in found.rows] == expected
    with pytest.raises(WarehouseError, match="least"):
        warehouse.script(script, {"more": 1})
    [row] = warehouse.query(f"SELECT COUNT(*) AS n FROM `{table}`").rows
    assert row["n"] == 2


def test_a_view_that_was_redefined(warehouse: Warehouse) -> None:
    view = warehouse.table_id("quick", "v")
    for number in (1, 2, 3):
        warehouse.query(f"CREATE OR REPLACE VIEW `{view}` AS SELECT {number} AS n")
        for _ in range(2):
            assert warehouse.query(f"SELECT n FROM `{view}`").rows == [{"n": number}]


def test_a_table_that_has_expired(warehouse: Warehouse) -> None:
    table = warehouse.client.get_table(warehouse.table_id("quick", "t"))
    table.expires = datetime.now(UTC) + timedelta(hours=1)
    warehouse.client.update_table(table, ["expires"])
    counted = f"SELECT COUNT(*) AS n FROM `{warehouse.table_id('quick', 't')}`"
    for _ in range(2):
        assert warehouse.query(counted).rows == [{"n": 0}]
    table = warehouse.client.get_table(table)
    table.expires = datetime.now(UTC) - timedelta(seconds=1)
    with suppress(NotFound):  # the server's answer shows the table, which is gone
        warehouse.client.update_table(table, ["expires"])
    with pytest.raises(WarehouseError, match="was not found"):
        warehouse.query(counted)


def test_a_row_access_policy(warehouse: Warehouse) -> None:
    table = warehouse.table_id("quick", "t")
    warehouse.query(f"INSERT INTO `{table}` (a) VALUES (1), (2)")
    counted = f"SELECT COUNT(*) AS n FROM `{table}`"
    for _ in range(2):
        assert warehouse.query(counted).rows == [{"n": 2}]
    warehouse.query(f"CREATE ROW ACCESS POLICY ones ON `{table}` GRANT TO ('allUsers') FILTER USING (a = 1)")
    assert warehouse.query(counted).rows == [{"n": 1}]
    warehouse.query(f"DROP ALL ROW ACCESS POLICIES ON `{table}`")
    assert warehouse.query(counted).rows == [{"n": 2}]


def test_an_error_is_told_the_same_way_again(warehouse: Warehouse) -> None:
    table = warehouse.table_id("quick", "t")
    divided = f"SELECT DIV(10, a) AS d FROM `{table}`"
    assert warehouse.query(divided).rows == []
    warehouse.query(f"INSERT INTO `{table}` (a) VALUES (0)")
    messages = set()
    for _ in range(3):
        with pytest.raises(WarehouseError) as told:
            warehouse.query(divided)
        messages.add(str(told.value).split(" (job")[0])
    assert len(messages) == 1
    assert "zero" in messages.pop()


def test_a_temporary_function_belongs_to_its_script(warehouse: Warehouse) -> None:
    for number in (1, 2):
        script = f"CREATE TEMP FUNCTION f(x INT64) AS (x + {number}); SELECT f(1) AS y;"
        for _ in range(2):
            assert warehouse.script(script).rows == [{"y": 1 + number}]


def test_tables_made_at_the_same_time(warehouse: Warehouse) -> None:
    """One that cannot be made is told so; the others are made."""
    dataset = f"{warehouse.client.project}.{warehouse.dataset_id('quick').split('.')[-1]}"

    def make(name: str) -> str:
        column = bigquery.SchemaField("a", "INT64")
        try:
            warehouse.client.create_table(
                bigquery.Table(f"{dataset}.{name}", schema=[column, column][: 1 + (name == "twice")])
            )
        except Exception as error:
            return type(error).__name__
        return "made"

    names = ["t", "twice", *(f"n{index}" for index in range(8))]
    with ThreadPoolExecutor(len(names)) as pool:
        outcomes = dict(zip(names, pool.map(make, names), strict=True))
    assert outcomes.pop("t") == "Conflict"
    assert outcomes.pop("twice") == "Conflict"
    assert set(outcomes.values()) == {"made"}
    assert set(warehouse.tables("quick")) >= set(outcomes)


def test_jobs_of_a_script_are_listed(warehouse: Warehouse) -> None:
    job = warehouse.client.query(
        f"CREATE TEMP TABLE x AS SELECT 1 AS a; SELECT a FROM x; -- {warehouse.table_id('quick', 't')}"
    )
    job.result()
    children = list(warehouse.client.list_jobs(parent_job=job.job_id))
    assert sorted(child.statement_type for child in children) == ["CREATE_TABLE_AS_SELECT", "SELECT"]
    assert {child.state for child in children} == {"DONE"}
