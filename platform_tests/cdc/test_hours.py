"""Landed hours in the warehouse: evolution, history, kept deletions, any order, a broken file; reconciliation and repair."""

import gzip
import json
import random
import time
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from bson import Decimal128
from source_lab import HOUR, Background, Lab, soon, wait_for

from dataplatform.cdc.assets import definitions
from dataplatform.cdc.buckets import bucket_of
from dataplatform.cdc.changes import Change, decode, encode, fold, time_text
from dataplatform.cdc.hours import CollectionHours
from dataplatform.cdc.positions import Position
from dataplatform.cdc.reconcile import reconcile, repair
from dataplatform.cdc.schema import MAX_KEYS
from dataplatform.cdc.state import CollectionState, PositionFile, UnitState, announce_late
from dataplatform.cdc.status import status_of
from dataplatform.errors import PlatformError
from dataplatform.lease import Holder
from dataplatform.runs import dagster_instance, execute


def json_of(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def test_a_collection_from_a_dagster_run_to_a_repair(lab: Lab) -> None:
    """A Dagster run applies what is due; types widen and conflict; deletions are kept; every state can be asked for; then
    rows of the table are broken, found and repaired, and a type widens below a STRUCT (a rewrite). One collection, as each sync
    costs seconds."""
    contract = lab.contract("docs", "deletes: keep\nfields:\n  - {path: pinned, type: NUMERIC, description: Money.}\n")
    lab.db.docs.insert_many([{"_id": n, "n": n, "o": {"a": n}, "l": [n], "m": {"a": n}} for n in range(4)])
    lab.capture()
    lab.db.docs.insert_one({"_id": "v", "v": 1})
    time.sleep(0.05)
    middle = datetime.now(UTC)
    time.sleep(0.05)
    lab.db.docs.replace_one({"_id": "v"}, {"v": 2})
    lab.db.docs.update_one({"_id": "v"}, {"$set": {"v": 3}})
    lab.db.docs.update_one({"_id": "v"}, {"$set": {"v": 4}})
    lab.capture()
    hours = lab.hours()
    hours.close(soon())
    (due,) = hours.due(soon())
    with dagster_instance(lab.settings) as instance:
        outcome = execute(definitions(lab.settings), instance, due, hours.name)
        assert outcome.ok, outcome.failures
        event = instance.get_latest_materialization_event(dg.AssetKey(due.assets[1].split("/")))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    columns = metadata["dagster/column_schema"].value
    assert isinstance(columns, dg.TableSchema)
    assert "n" in [column.name for column in columns.columns]
    assert metadata["snapshot_rows"].value == 4
    (status,) = status_of(lab.settings, lab.contracts)
    assert status.table_through == lab.state.passed_at, "the tables have what is landed"
    assert status.conflicts == 0
    assert hours.due(soon()) == []
    lab.assert_equal("docs")
    rows = lab.query(
        "SELECT document FROM `{as_of}` WHERE _id = '\"v\"' AND TIMESTAMP '{at}' >= valid_from AND TIMESTAMP '{at}' < valid_to",
        at=middle.isoformat(),
        **lab.names("docs"),
    )
    assert rows == [{"document": '{"_id":"v","v":{"$numberInt":"1"}}'}]
    states = lab.query(
        "SELECT document, exact FROM `{as_of}` WHERE _id = '\"v\"' ORDER BY position", **lab.names("docs")
    )
    assert [(json.loads(row["document"])["v"]["$numberInt"], row["exact"]) for row in states] == [
        ("1", True),
        ("2", True),
        ("4", False),  # the update to 3, looked up when it was 4 already
        ("4", True),
    ]
    moments = lab.hours().moments(contract.namespace, '"v"')
    assert [json.loads(one.document or "")["v"]["$numberInt"] for one in moments] == ["1", "2", "3", "4"]
    assert all(one.exact for one in moments)

    lab.db.docs.insert_one({"_id": "text", "n": "5", "o": [1], "pinned": "no number"})
    lab.db.docs.insert_one({"_id": "double", "n": 2.5, "pinned": 3})
    lab.db.docs.insert_one({"_id": "large", "pinned": Decimal128("1E+40")})
    lab.db.docs.insert_one({"_id": "flood", "m": {"a": 1} | {f"k{n}": "v" for n in range(MAX_KEYS)}})
    lab.db.docs.delete_one({"_id": 2})
    lab.sync()
    lab.assert_equal("docs")
    typed = lab.typed("docs")
    assert typed['"text"']["n"] is None
    left = {"/n": "5", "/o": [{"$numberInt": "1"}], "/pinned": "no number"}
    assert json_of(typed['"text"']["_unmapped"]) == left
    assert (typed['"double"']["n"], typed['"double"']["pinned"]) == (2.5, 3)
    assert (typed['{"$numberInt":"3"}']["n"], typed['{"$numberInt":"3"}']["o"]) == (3.0, {"a": 3})
    kept = lab.query("SELECT n FROM `{typed}` WHERE _deleted", **lab.names("docs"))
    assert kept == [{"n": 2.0}]
    steps = lab.steps("docs")
    assert ("/n", "widened", "INT64", "FLOAT64") in steps
    assert ("/n", "conflict", "FLOAT64", "string") in steps
    assert ("/o", "conflict", "STRUCT", "array") in steps
    assert ("/pinned", "conflict", "NUMERIC", "decimal out of range") in steps
    assert json_of(typed['"large"']["_unmapped"]) == {"/pinned": {"$numberDecimal": "1E+40"}}
    flood = {f"/m/k{n}": "v" for n in range(MAX_KEYS)}
    assert (typed['"flood"']["m"], json_of(typed['"flood"']["_unmapped"])) == ({"a": 1}, flood)
    (status,) = status_of(lab.settings, lab.contracts)
    assert status.conflicts == sum(step in ("conflict", "too_many_keys") for _, step, _, _ in steps) > 4

    hours = lab.hours()
    assert hours.due(soon()) == []
    names = lab.names("docs")
    hours.warehouse.script(
        f"DELETE FROM `{names['raw']}` WHERE _id = '\"v\"';\n"
        f"UPDATE `{names['raw']}` SET document = '{{}}' WHERE _id = '\"text\"';\n"
        f"INSERT INTO `{names['raw']}` (_id, document, deleted, position, bucket) VALUES"
        f" ('\"extra\"', '{{}}', FALSE, '0000000001.0000000001.0000000', DATE '{bucket_of(chr(34) + 'extra' + chr(34))}')"
    )
    lab.db.docs.insert_one({"_id": "on its way"})
    with pytest.raises(PlatformError, match="let `dataplatform cdc capture` run"):
        reconcile(lab.settings, hours, contract)
    background = Background(lab)
    wait_for(lambda: lab.state.holder is not None, "the capture")
    found = reconcile(lab.settings, hours, contract)
    assert {(one.key, one.kind) for one in found.differences} == {
        ('"v"', "missing"),
        ('"text"', "different"),
        ('"extra"', "extra"),
    }
    assert found.moved_on == 1
    assert not found.ok
    repair(lab.settings, hours, contract, [one.key for one in found.differences])
    background.end()
    lab.db.docs.insert_one({"_id": "rewrite", "o": {"a": 1.5, "b": "new"}, "l": [0.5], "n": "6"})
    lab.sync()
    lab.assert_equal("docs")
    typed = lab.typed("docs")
    assert (typed['"rewrite"']["o"], typed['"rewrite"']["l"]) == ({"a": 1.5, "b": "new"}, [0.5])
    assert typed['{"$numberInt":"3"}']["o"] == {"a": 3.0, "b": None}
    assert json_of(typed['"flood"']["_unmapped"]) == flood
    counted = lab.query(
        "SELECT `values` FROM `{steps}` WHERE path = '/n' AND step = 'conflict' AND collection = '{collection}'",
        collection=contract.namespace,
        **names,
    )
    assert counted == [{"values": 2}], "one row for the hour, counted anew"
    kept = lab.query(
        'SELECT n, o, l FROM `{typed}` WHERE _deleted AND _id = \'{{"$numberInt":"2"}}\'', **lab.names("docs")
    )
    assert kept == [{"n": 2.0, "o": {"a": 2.0, "b": None}, "l": [2.0]}], "a rewrite must not lose what was kept"
    background = Background(lab)
    wait_for(lambda: lab.state.holder is not None, "the capture")
    assert reconcile(lab.settings, lab.hours(), contract, everything=True).ok
    background.end()


@pytest.mark.parametrize("order", [(1, 0, 1), pytest.param((2, 0, 1, 0), marks=pytest.mark.long)], ids=str)
def test_random_changes_in_any_order_fold_the_same_in_sql(lab: Lab, order: tuple[int, ...]) -> None:
    """Hours of random changes (drops and late files among them), applied in random order and again, are what `fold` says."""
    contract = lab.contract("docs", "deletes: keep\n")
    rng = random.Random(11)
    start = soon() - 4 * HOUR
    hours = lab.hours()
    landing = hours.landings[contract.namespace]
    every: list[Change] = []
    live: set[str] = set()
    for hour in range(max(order) + 1):
        lines = []
        for number in range(60):
            second = int((start + hour * HOUR).timestamp()) + number * 50
            key = f'{{"$numberInt":"{rng.randrange(12)}"}}'
            operation = rng.choice(
                ["insert", "update", "update", "replace", "delete", "lost", "drop" if number == 30 else "insert"]
            )
            if operation in ("update", "lost", "delete") and key not in live:
                operation = "insert"  # as at a source: nothing else happens to what is not there
            if operation == "drop":
                live.clear()
            elif operation == "delete":
                live.remove(key)
            else:
                live.add(key)
            document = (
                None if operation in ("delete", "lost", "drop") else f'{{"_id":{key},"v":{{"$numberInt":"{number}"}}}}'
            )
            change = Change(
                "update" if operation == "lost" else operation,
                None if operation == "drop" else key,
                str(Position(second, 1, rng.randrange(2))),
                time_text(second * 1000),
                time_text(second * 1000 + 5),
                document,
                bucket=None if operation == "drop" else bucket_of(key),
            )
            lines += [encode(change)] * rng.choice([1, 1, 2])
        rng.shuffle(lines)
        for part in range(2):
            name = f"f{hour}-{part}.ndjson.gz"
            landing.put(start + hour * HOUR, name, gzip.compress(b"\n".join(lines[part::2])))
        every += [decode(line) for line in lines]
    positions = PositionFile(lab.settings, lab.unit)
    positions.file.write(
        _state(
            UnitState(
                holder=None,
                passed=(int(soon().timestamp()), 0),
                collections={contract.namespace: CollectionState(start)},
            )
        ),
        None,
    )
    hours.close(start + 3 * HOUR)
    for hour in order:
        hours.materialise([contract.namespace], start + hour * HOUR, start + (hour + 1) * HOUR)
    expected = {key: (one.document, one.deleted, one.position) for key, one in fold(every).items()}
    rows = lab.query("SELECT _id, document, deleted, position FROM `{raw}`", **lab.names("docs"))
    assert {row["_id"]: (row["document"], row["deleted"], row["position"]) for row in rows} == expected
    kept = lab.query("SELECT _id, v, _position, _deleted FROM `{typed}`", **lab.names("docs"))
    values = {key: one.document or one.last_document for key, one in fold(every).items()}
    numbers = {key: None if text is None else int(json.loads(text)["v"]["$numberInt"]) for key, text in values.items()}
    assert {row["_id"]: (row["v"], row["_position"], row["_deleted"]) for row in kept} == {
        key: (numbers[key], position, deleted) for key, (_, deleted, position) in expected.items()
    }
    for second in range(int(start.timestamp()) + 777, int((start + (max(order) + 1) * HOUR).timestamp()), 1000):
        at = time_text(second * 1000)
        then = fold(one for one in every if one.changed_at <= at)
        rows = lab.query(
            "SELECT _id, document FROM `{as_of}` WHERE TIMESTAMP '{at}' >= valid_from AND TIMESTAMP '{at}' < valid_to"
            " AND NOT deleted",
            at=at,
            **lab.names("docs"),
        )
        assert {row["_id"]: row["document"] for row in rows} == {
            k: s.document for k, s in then.items() if not s.deleted
        }
    history = {(row["position"], row["_id"], row["operation"]) for row in lab.history("docs")}
    assert len(lab.history("docs")) == len(history)
    assert history == {(one.position, one.key, one.operation) for one in every}


def test_only_hours_that_can_differ_are_looked_at(lab: Lab) -> None:
    """After one look at every hour, old ones are looked at only when a writer announces them, or by the next whole look."""
    contract = lab.contract("docs")
    now = soon()
    old, since = now - 50 * HOUR, now - 60 * HOUR
    hours = lab.hours()
    landing = hours.landings[contract.namespace]
    state = UnitState(passed=(int(now.timestamp()), 0), collections={contract.namespace: CollectionState(since)})
    PositionFile(lab.settings, lab.unit).file.write(_state(state), None)
    hours.materialise([contract.namespace], since, now)
    hours.close(now)
    assert hours.due(now) == []

    def land(name: str) -> None:
        at = time_text(int(old.timestamp()) * 1000)
        change = Change(
            "insert", f'"{name}"', str(Position(int(old.timestamp()), 1)), at, at, "{}", bucket="2200-01-01"
        )
        landing.put(old, f"{name}.ndjson.gz", gzip.compress(encode(change)))

    def due(some: CollectionHours) -> list[datetime | None]:
        some.close(now)
        return [one.start for one in some.due(now)]

    land("unannounced")
    assert due(hours) == []
    assert due(lab.hours()) == [old], "a new process looks at every hour"
    hours.materialise([contract.namespace], old, old + HOUR)
    assert due(hours) == []
    land("announced")
    announce_late(landing, [old])
    assert due(hours) == [old]
    hours.materialise([contract.namespace], old, old + HOUR)
    assert due(hours) == []
    assert set(lab.table("docs")) == {'"unannounced"', '"announced"'}


def _state(state: UnitState) -> bytes:
    import msgspec

    return msgspec.json.encode(state)


def test_an_unreadable_landed_file_stops_only_its_collection(lab: Lab) -> None:
    bad = lab.contract("bad")
    lab.contract("good")
    lab.db.bad.insert_one({"_id": 1})
    lab.db.good.insert_one({"_id": 1})
    lab.capture()
    hours = lab.hours()
    start = soon() - HOUR
    file = hours.landings[bad.namespace].put(start, "torn.ndjson.gz", b"\x1f\x8b\x08\x00torn")
    hours.close(soon())
    done = {one.contract.collection: one for one in hours.materialise(lab.contracts, start, soon())}
    assert done["good"].error is None
    assert isinstance(done["bad"].error, PlatformError)
    assert file.uri(hours.landings[bad.namespace]) in str(done["bad"].error)
    assert "not gzip" in str(done["bad"].error)
    lab.assert_equal("good")


def test_a_holder_of_another_machine_is_waited_for(lab: Lab) -> None:
    """A lease of a machine that cannot be asked counts until it has not been renewed for a while."""
    lab.contract("docs")
    positions = PositionFile(lab.settings, lab.unit)
    holder = Holder("capture", "elsewhere", 1, 0.0, time.time() - 5)
    version = positions.file.write(_state(UnitState(holder=holder)), None)
    result = lab.run("cdc", "capture", "--once")
    assert "process 1 on elsewhere" in result.stderr
    gone = Holder("capture", "elsewhere", 1, 0.0, time.time() - 31)
    positions.file.write(_state(UnitState(holder=gone)), version)
    assert lab.capture().epoch == 1
