"""Tables become what their spec says, keep every row and column they have, and refuse what BigQuery could not do."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest

from dataplatform.warehouse.client import Warehouse, WarehouseError
from dataplatform.warehouse.tables import SPEC_LABEL, TableSpec, add_field, ensure, standard_type

HOUR = {"name": "hour", "type": "TIMESTAMP", "mode": "REQUIRED"}
ITEMS = {
    "name": "items",
    "type": "RECORD",
    "mode": "REPEATED",
    "fields": [
        {"name": "sku", "type": "STRING", "mode": "REQUIRED"},
        {"name": "size", "type": "RECORD", "fields": [{"name": "width", "type": "INT64"}]},
    ],
}
SPEC = TableSpec(
    "t",
    "orders",
    [HOUR, {"name": "id", "type": "STRING", "mode": "REQUIRED", "description": "the id"}, ITEMS],
    "hour",
    clustering=("id",),
    description="orders",
    labels={"owner": "shop"},
)


@pytest.fixture
def warehouse(settings_for: Any) -> Warehouse:
    return Warehouse(settings_for())


def insert(warehouse: Warehouse) -> None:
    warehouse.query(
        f"INSERT INTO `{warehouse.table_id('t', 'orders')}` (hour, id, items) VALUES (TIMESTAMP '2026-01-01 00:00:00+00', 'a', "
        "[STRUCT('s' AS sku, STRUCT(3 AS width) AS size)])"
    )


def rows(warehouse: Warehouse) -> list[dict[str, Any]]:
    found = warehouse.query(f"SELECT * FROM `{warehouse.table_id('t', 'orders')}`").rows
    return [{key: value for key, value in row.items() if key != "hour"} for row in found]


def test_create_then_nothing_to_do(warehouse: Warehouse) -> None:
    assert ensure(warehouse, [SPEC]) == ["created t.orders"]
    assert ensure(warehouse, [SPEC]) == []
    table = warehouse.client.get_table(warehouse.table_id("t", "orders"))
    assert table.time_partitioning.field == "hour"
    assert table.time_partitioning.type_ == "DAY"
    assert table.clustering_fields == ["id"]
    assert table.description == "orders"
    assert table.labels == {"owner": "shop", SPEC_LABEL: SPEC.digest}
    assert next(f for f in table.schema if f.name == "id").description == "the id"


def test_new_columns_at_every_depth_keep_the_rows(warehouse: Warehouse) -> None:
    ensure(warehouse, [SPEC])
    insert(warehouse)
    size = {
        "name": "size",
        "type": "RECORD",
        "fields": [{"name": "width", "type": "INT64"}, {"name": "unit", "type": "STRING"}],
    }
    items = {**ITEMS, "fields": [{"name": "price", "type": "NUMERIC", "mode": "REQUIRED"}, ITEMS["fields"][0], size]}
    note = {"name": "note", "type": "STRING", "mode": "REQUIRED"}
    changed = replace(SPEC, schema=[HOUR, note, SPEC.schema[1], items], description="orders, all")
    assert ensure(warehouse, [changed]) == [
        "added t.orders.note",
        "added t.orders.items.price",
        "added t.orders.items.size.unit",
    ]
    assert rows(warehouse) == [
        {"id": "a", "items": [{"sku": "s", "size": {"width": 3, "unit": None}, "price": None}], "note": None}
    ]
    table = warehouse.client.get_table(warehouse.table_id("t", "orders"))
    assert [(f.name, f.mode) for f in table.schema][-1] == ("note", "NULLABLE")
    assert table.description == "orders, all"
    assert ensure(warehouse, [changed]) == []


def test_a_column_that_left_the_spec_stays(warehouse: Warehouse) -> None:
    ensure(warehouse, [SPEC])
    insert(warehouse)
    assert ensure(warehouse, [replace(SPEC, schema=[HOUR, ITEMS])]) == ["described t.orders"]
    assert rows(warehouse)[0]["id"] == "a"


def test_a_foreign_label_stays(warehouse: Warehouse) -> None:
    ensure(warehouse, [SPEC])
    table = warehouse.client.get_table(warehouse.table_id("t", "orders"))
    table.labels = {**table.labels, "cost": "centre7"}
    warehouse.client.update_table(table, ["labels"])
    ensure(warehouse, [replace(SPEC, labels={"owner": "Chat & Talk"})])
    labels = warehouse.client.get_table(warehouse.table_id("t", "orders")).labels
    assert (labels["cost"], labels["owner"]) == ("centre7", "chat___talk")


def test_widening(warehouse: Warehouse) -> None:
    ensure(warehouse, [TableSpec("t", "w", [{"name": "n", "type": "INT64"}])])
    warehouse.query(f"INSERT INTO `{warehouse.table_id('t', 'w')}` VALUES (7)")
    assert ensure(warehouse, [TableSpec("t", "w", [{"name": "n", "type": "NUMERIC"}])]) == [
        "widened t.w.n from INT64 to NUMERIC"
    ]
    assert warehouse.query(f"SELECT n FROM `{warehouse.table_id('t', 'w')}`").rows[0]["n"] == 7


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"type": "STRING"}, {"type": "INT64"}),
        ({"type": "NUMERIC"}, {"type": "INT64"}),
        ({"type": "INT64"}, {"type": "INT64", "mode": "REPEATED"}),
        (
            {"type": "RECORD", "fields": [{"name": "a", "type": "STRING"}]},
            {"type": "RECORD", "fields": [{"name": "a", "type": "INT64"}]},
        ),
    ],
)
def test_what_would_need_a_rewrite_is_refused(warehouse: Warehouse, before: Any, after: Any) -> None:
    ensure(warehouse, [TableSpec("t", "r", [{"name": "c", **before}])])
    with pytest.raises(WarehouseError, match="without a rewrite"):
        ensure(warehouse, [TableSpec("t", "r", [{"name": "c", **after}])])


def test_add_field(warehouse: Warehouse) -> None:
    ensure(warehouse, [SPEC])
    insert(warehouse)
    add_field(warehouse, "t", "orders", ["items", "size"], {"name": "height", "type": "INT64"})
    add_field(warehouse, "t", "orders", [], {"name": "extra", "type": "JSON"})
    assert rows(warehouse) == [
        {"id": "a", "items": [{"sku": "s", "size": {"width": 3, "height": None}}], "extra": None}
    ]


def test_standard_type() -> None:
    assert standard_type(ITEMS) == "ARRAY<STRUCT<`sku` STRING, `size` STRUCT<`width` INT64>>>"


def test_a_dataset_that_several_make_at_once(warehouse: Warehouse) -> None:
    """As collections do that are applied side by side for the first time."""
    together = Barrier(4)

    def make(number: int) -> list[str]:
        together.wait()
        return ensure(warehouse, [TableSpec("made", f"t{number}", ({"name": "a", "type": "STRING"},))])

    with ThreadPoolExecutor(4) as workers:
        assert len(list(workers.map(make, range(4)))) == 4
    assert len(warehouse.tables("made")) == 4
