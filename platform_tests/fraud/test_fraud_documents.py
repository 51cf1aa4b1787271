"""Features over the changes of captured collections: the warehouse's table of changes and the stream give the same."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from dataplatform.cdc.changes import Change, decode, time_text
from dataplatform.cdc.positions import Position
from dataplatform.contracts.errors import ContractError
from dataplatform.decisions.stream import Feed
from dataplatform.fraud.agreement import compare
from dataplatform.fraud.catalog import load_catalog
from dataplatform.fraud.documents import changes_table, is_collection
from dataplatform.fraud.features import parse_entity
from dataplatform.fraud.history import history_statement, warehouse_source
from dataplatform.fraud.moments import Moment
from dataplatform.fraud.online import features_in_order
from dataplatform.fraud.staging import typed_row
from dataplatform.fraud.tables import features_table, load_features
from dataplatform.warehouse.client import Warehouse
from dataplatform.warehouse.tables import ensure

SCHEMAS = Path(__file__).parents[2] / "schemas"
CATALOG = load_catalog(SCHEMAS)
START = datetime(2026, 1, 10, tzinfo=UTC)
IDS = ['{"$oid":"65a0000000000000000000aa"}', '{"$numberInt":"7"}', '"old-1"', '{"$numberLong":"8"}']
KEYS = ["65a0000000000000000000aa", "7", "old-1", "8"]
AMOUNTS = [
    '{"$numberInt":"5"}',
    '{"$numberLong":"12345678901"}',
    '{"$numberDecimal":"99.99"}',
    '{"$numberDouble":"0.1"}',
    '"1500"',
    '"much"',
    "null",
    "{}",
    "[]",
]


def change_lines(collection, count):
    """Landed lines of a collection's changes: keys, numbers and texts of every kind, late ones, deletes, snapshots."""
    chance = random.Random(collection)
    for number in range(count):
        at = START + timedelta(seconds=chance.randrange(0, 20 * 86_400))
        captured = at + timedelta(milliseconds=chance.choice([0, 1, 5_000, 86_400_000]))
        operation = chance.choice(["insert", "insert", "update", "replace", "delete", "snapshot"])
        document = None
        if operation != "delete":
            fields = {
                "_id": chance.choice(IDS),
                "buyer": chance.choice(IDS),
                "seller": chance.choice([*IDS, "null"]),
                "by": chance.choice(IDS),
                "amount": chance.choice(AMOUNTS),
                "price": chance.choice(AMOUNTS),
                "status": chance.choice(['"selling"', '"sold"', '"예약중"']),
            }
            shown = {name: text for name, text in fields.items() if chance.random() < 0.9}
            document = "{" + ",".join(f'"{name}":{text}' for name, text in shown.items()) + "}"
        change = Change(
            operation=operation,
            key=chance.choice(IDS),
            position=str(Position(int(at.timestamp()), number + 1, 0)),
            changed_at=time_text(round(at.timestamp() * 1000)),
            captured_at=time_text(round(captured.timestamp() * 1000)),
            document=document,
            bucket="2026-01-01",
        )
        yield msgspec.json.encode(change)


def load(warehouse, collection, lines):
    changes = [decode(line) for line in lines]
    stamp = pa.timestamp("us", tz="UTC")

    def times(values):
        return pa.array([datetime.fromisoformat(each) for each in values], stamp)

    rows = pa.table(
        {
            "hour": times([each.changed_at[:13] + ":00:00Z" for each in changes]),
            "operation": [each.operation for each in changes],
            "_id": [each.key for each in changes],
            "document": pa.array([each.document for each in changes], pa.string()),
            "position": [each.position for each in changes],
            "changed_at": times([each.changed_at for each in changes]),
            "captured_at": times([each.captured_at for each in changes]),
        }
    )
    warehouse.load_rows(rows, "mongo_raw", changes_table(collection))


def test_changes_are_events_in_history_and_online(settings_for):
    settings = settings_for(schemas_dir=SCHEMAS)
    warehouse = Warehouse(settings)
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('mongo_raw')}`")
    feed = Feed(settings, CATALOG)
    lines = {name: list(change_lines(name, 150)) for name in ("shop.transactions", "shop.articles", "shop.reviews")}
    events = []
    for name, each in lines.items():
        load(warehouse, name, each)
        events += [event for line in each if (event := feed._change(name, decode(line))) is not None]
    feed.close()
    events.sort(key=lambda each: each.known)
    chance = random.Random(5)
    moments = [
        Moment({}, chance.choice(KEYS), chance.choice(events).known + chance.choice([0, 0, 1, -1, 86_400_000_000]))
        for _ in range(60)
    ]
    asked = pa.table(
        {
            "place": pa.array(range(len(moments)), pa.int64()),
            "entity_key": [each.key for each in moments],
            "moment": pa.array([each.time for each in moments], pa.int64()),
        }
    )
    warehouse.load_rows(asked, "mongo_raw", "asked")
    start, end = "TIMESTAMP '2026-01-10 00:00:00+00'", "TIMESTAMP '2026-03-01 00:00:00+00'"
    for name in ("user", "article"):
        entity = CATALOG.entities[name]
        entity = replace(entity, features=tuple(each for each in entity.features if is_collection(each.event)))
        sources = {
            event: warehouse_source(
                f"`{warehouse.table_id('mongo_raw', changes_table(event))}`", event, entity, start, end
            )
            for event, _ in entity.streams
        }
        statement = history_statement(entity, sources, f"`{warehouse.table_id('mongo_raw', 'asked')}`")
        found = [typed_row(entity, row) for row in warehouse.query(f"{statement}\nORDER BY place").rows]
        expected = features_in_order(entity, events, moments)
        assert found == expected
        for feature in entity.features:
            assert len({row[feature.name] for row in found}) > 1, feature.name


def test_a_day_of_features_with_changes_and_without(settings_for):
    """The daily table counts keys that only changes name; a collection that was never captured has none."""
    text = """\
entity: buyer
key: buyer
features:
  - {name: purchases, event: shop.transactions, by: buyer, aggregation: count, where: operation = 'insert', window: 30d}
  - {name: paid, event: shop.transactions, by: buyer, aggregation: sum, of: amount, type: NUMERIC, window: 30d, no_data: 0}
  - {name: written, event: shop.reviews, by: by, aggregation: count, window: 30d}
"""
    entity = parse_entity(text, events=CATALOG.columns)
    warehouse = Warehouse(settings_for(schemas_dir=SCHEMAS))
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('mongo_raw')}`")
    load(warehouse, "shop.transactions", change_lines("shop.transactions", 80))
    ensure(warehouse, [features_table(entity)])
    day = START + timedelta(days=10)
    assert load_features(warehouse, CATALOG, entity, day, day + timedelta(days=1)) > 0
    rows = warehouse.query(f"SELECT * FROM `{warehouse.table_id('fraud', 'features_buyer')}`").rows
    assert {row["entity_key"] for row in rows} <= set(KEYS) and len({row["entity_key"] for row in rows}) == len(rows)
    assert any(row["purchases"] for row in rows) and {row["written"] for row in rows} == {0}
    assert compare(warehouse, entity, day) == (len(rows) * len(entity.features), [])


@pytest.mark.parametrize(
    ("feature", "code"),
    [
        ("{name: a, event: shop.transaction, by: buyer, aggregation: count, window: 1d}", "unknown_event"),
        (
            "{name: a, event: shop.transactions, by: buyer, aggregation: count, where: operation = 5, window: 1d}",
            "type_conflict",
        ),
        ("{name: a, event: send_transfer_pay, by: reciever, aggregation: count, window: 1d}", "unknown_column"),
    ],
)
def test_mistakes_about_sources_are_told(feature, code):
    with pytest.raises(ContractError) as error:
        parse_entity(f"entity: user\nkey: user_id\nfeatures:\n  - {feature}\n", events=CATALOG.columns)
    assert [problem.code for problem in error.value.problems] == [code]
