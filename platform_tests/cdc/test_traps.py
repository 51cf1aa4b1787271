"""Each trap of change streams by its name, against the real server."""

import json
import random
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS
from source_lab import HOUR, Background, Lab, soon, wait_for

from dataplatform.cdc import changes
from dataplatform.cdc.capture import Capture
from dataplatform.cdc.connections import connect, operation_time
from dataplatform.cdc.extended_json import canonical
from dataplatform.cdc.history import replay
from dataplatform.cdc.service import contracts_of
from dataplatform.cdc.state import FencedError, PositionFile, request_snapshot

DIRTY: list[dict[str, Any]] = [
    {"_id": 1, "n": 1, "s": "text", "when": DatetimeMS(-86_400_000)},
    {"_id": Int64(2), "n": Int64(2**40), "o": {"a": 1, "b": "x"}},
    {"_id": 2.5, "n": 1.5, "o": [1, 2]},
    {"_id": Decimal128("3.5"), "n": Decimal128("1.10"), "f": float("nan")},
    {"_id": "a", "n": "five", "a.b": 1, "$x": 2, "": 3, "A": 1, "a": 2},
    {"_id": None, "when": "no date"},
    {"_id": True, "l": [{"q": 1}, {"q": 2, "r": None}]},
    {"_id": ObjectId("6b05381b5ceab495e96d2fbe"), "f": float("inf")},
    {"_id": {"b": 1, "a": 2}, "m": {f"k{i}": i for i in range(300)}},
    {"_id": {"a": 2, "b": 1}, "x": None},
    {"_id": DatetimeMS(-1000), "t": Timestamp(7, 1)},
    {"_id": b"\x00\x01"},
    {"_id": float("nan")},
    {"_id": MinKey()},
    {"_id": MaxKey()},
]


def test_mixed_id_types_in_snapshot_and_stream(lab: Lab) -> None:
    lab.contract("docs", "snapshot: {chunk_documents: 2}\n")
    lab.db.docs.insert_many(DIRTY)
    lab.capture()
    lab.assert_landed("docs")
    # Not of NaN and null: this server refuses the one, and tells of the other's update without making it.
    lab.db.docs.update_many({"_id": {"$not": {"$type": ["double", "null"]}}}, {"$set": {"seen": True}})
    lab.db.docs.delete_one({"_id": {"b": 1, "a": 2}})
    lab.db.docs.replace_one({"_id": "a"}, {"n": 6})
    lab.capture()
    lab.assert_landed("docs")


def test_mid_transaction_resume(lab: Lab) -> None:
    lab.contract("docs")
    lab.capture()
    with lab.client.start_session() as session, session.start_transaction():
        for number in range(7):
            lab.db.docs.insert_one({"_id": number}, session=session)
        lab.db.docs.delete_one({"_id": 3}, session=session)
        lab.db.docs.insert_one({"_id": 3, "again": True}, session=session)
    # A capture that reads two events an answer and dies after the second: its token stands inside the transaction.
    capture = Capture(lab.settings, lab.unit, contracts_of(lab.settings, print))
    client = connect(lab.settings, "lab")
    capture.positions.acquire("test")
    capture._load()
    capture._look(client)
    from dataplatform.cdc.stream import ChangeStream

    stream = ChangeStream(client, None, ((lab.database, "docs"),), batch_documents=2)
    capture._take(stream.open(token=capture._token))
    capture._take(stream.next())
    capture._commit()
    capture.positions.release()
    client.close()
    ordinals = [line.position.rsplit(".", 1)[1] for line in lab.landed("docs")]
    assert ordinals == ["0000000", "0000001"]
    lab.capture()
    lab.assert_landed("docs")
    landed = lab.landed("docs")
    assert [change.position.rsplit(".", 1)[1] for change in landed] == [f"{n:07d}" for n in range(9)]
    assert len({change.transaction for change in landed}) == 1


def test_update_lookup_skew(lab: Lab) -> None:
    lab.contract("docs")
    lab.capture()
    lab.db.docs.insert_many([{"_id": "gone"}, {"_id": "newer", "n": 0}])
    lab.db.docs.update_one({"_id": "gone"}, {"$set": {"n": 1}})
    lab.db.docs.update_one({"_id": "newer"}, {"$set": {"n": 1}})
    lab.db.docs.update_one({"_id": "newer"}, {"$set": {"n": 2}})
    lab.db.docs.delete_one({"_id": "gone"})
    lab.capture()
    updates = [change for change in lab.landed("docs") if change.operation == "update"]
    assert {change.key: change.document for change in updates}['"gone"'] is None
    assert updates[1].document == updates[2].document == '{"_id":"newer","n":{"$numberInt":"2"}}'
    lab.assert_landed("docs")


@pytest.mark.parametrize("seed", range(3))
def test_update_lookup_skew_is_taken_out_of_the_history(lab: Lab, seed: int) -> None:
    """Every document that was looked up late is replayed: at each change it is what it was at the source, byte for byte."""
    lab.contract("docs")
    lab.capture()
    rng = random.Random(seed)
    docs, truth = lab.db.docs, []

    def change() -> Any:
        field, value = rng.choice("abc"), rng.choice([1, 2.5, "x", [1, 2], {"x": 1}, None])
        return rng.choice(
            [
                {"$set": {field: value}},
                {"$unset": {field: ""}},
                {"$set": {"o.p": value, "o.q": {"r": rng.randrange(9)}}},
                {"$push": {"l": rng.randrange(9)}},
                {"$push": {"l": {"$each": [7, 8], "$slice": -4}}},
                {"$pop": {"l": 1}},
                {"$set": {"l.1": rng.randrange(9), field: value}},
                {"$unset": {"o.q": ""}},
                {"$inc": {"o.n": 1}},
            ]
        )

    for number in range(60):
        before = docs.find_one({"_id": 1})
        if before is None:
            docs.insert_one({"_id": 1, "number": number, "l": [0, 1], "o": {}})
        elif rng.random() < 0.05:
            docs.delete_one({"_id": 1})
        elif rng.random() < 0.08:
            docs.replace_one({"_id": 1}, {"number": number, "l": [3], "o": {"p": 1}})
        else:
            docs.update_one({"_id": 1}, change())
        after = docs.find_one({"_id": 1})
        if after != before:
            truth.append(None if after is None else canonical(after))
    lab.capture()
    landed = lab.landed("docs")
    told = [one.document for one in landed]
    assert told != truth, "nothing was looked up late"
    moments = replay(reversed(landed))
    assert [moment.document for moment in moments] == truth
    assert all(moment.exact for moment in moments)
    # Without what came before there is nothing to replay from: it is said so.
    first = next(number for number, one in enumerate(landed) if one.operation == "update")
    assert not replay(landed[first:])[0].exact or landed[first].document == truth[first]


def test_a_null_document_of_an_update_is_not_a_delete() -> None:
    # The update is landed, the deletion that made its document null is not yet.
    position = f"{int(time.time()):010d}.0000000001.0000000"
    fold = changes.fold(
        [
            changes.Change("insert", "1", "a", "", "", '{"n":0}'),
            changes.Change("update", "1", position, "", "", None),
        ]
    )
    assert not fold["1"].deleted
    assert fold["1"].document == '{"n":0}'


def test_delete_and_insert_again(lab: Lab) -> None:
    lab.contract("docs")
    lab.db.docs.insert_many([{"_id": 1, "v": 1}, {"_id": 2, "v": 1}])
    lab.capture()
    lab.db.docs.delete_many({})
    lab.db.docs.insert_one({"_id": 1, "v": 2})
    lab.capture()
    lab.assert_landed("docs")


def test_quiet_collection(lab: Lab) -> None:
    """A collection without a change: its position advances, its token stays young, its hours become complete."""
    lab.contract("quiet")
    lab.db.quiet.insert_one({"_id": 1})
    first = lab.capture()
    for _ in range(200):
        lab.db.other.insert_one({})
    second = lab.capture()
    assert second.token != first.token
    assert second.passed > first.passed
    assert second.collections[f"{lab.database}.quiet"].changes == 0
    collection = second.collections[f"{lab.database}.quiet"]
    assert collection.complete_through(second.passed_at + HOUR) == soon()


def test_an_hour_is_complete_only_when_the_stream_has_passed_its_end(lab: Lab) -> None:
    contract = lab.contract("docs")
    lab.db.docs.insert_one({"_id": 1})
    lab.capture()
    hours = lab.hours()
    now = datetime.now(UTC)
    assert hours.close(now) == []
    lab.db.docs.insert_one({"_id": 2})
    lab.capture()
    hours.close(soon())  # the running hour may be closed early, with what is there of it
    landing = hours.landings[contract.namespace]
    (hour,) = landing.states()
    assert landing.state(hour) == "closed"
    lab.db.docs.insert_one({"_id": 3})  # late: it re-opens the hour
    lab.capture()
    assert landing.state(hour) == "reopened"
    lab.assert_landed("docs")


def test_snapshot_overlap(lab: Lab) -> None:
    """Changes while the snapshot reads: none is lost, and a document deleted meanwhile does not come back."""
    lab.contract("docs", "snapshot: {chunk_documents: 50, documents_per_second: 1500}\n")
    lab.db.docs.insert_many([{"_id": n, "v": 0, "pad": "x" * 200} for n in range(1500)])
    done = threading.Event()

    def workload() -> None:
        number = 0
        while not done.is_set():
            lab.db.docs.update_one({"_id": number % 1500}, {"$inc": {"v": 1}})
            lab.db.docs.delete_one({"_id": (number * 7) % 1500})
            if number % 3 == 0:
                lab.db.docs.insert_one({"_id": 2000 + number, "v": -1})
            number += 1
            time.sleep(0.002)

    thread = threading.Thread(target=workload)
    thread.start()
    try:
        state = lab.capture()
    finally:
        done.set()
        thread.join()
    (snapshot,) = state.collections[f"{lab.database}.docs"].ended
    assert snapshot.position is not None
    assert snapshot.runs[0][2] >= 10
    lab.capture()
    lab.assert_landed("docs")


def test_snapshot_resumes_at_its_last_chunk(lab: Lab) -> None:
    # Slow at first, so that it is stopped in the middle however busy the machine is.
    lab.contract("docs", "snapshot: {chunk_documents: 20, documents_per_second: 100}\n")
    lab.db.docs.insert_many([{"_id": n} for n in range(1000)])
    background = Background(lab)
    name = f"{lab.database}.docs"
    wait_for(lambda: rows_of(lab, name) >= 60, "60 rows of the snapshot")
    background.end()
    assert 60 <= rows_of(lab, name) < 1000
    lab.contract("docs", "snapshot: {chunk_documents: 100, documents_per_second: 5000}\n")
    state = lab.capture()
    (snapshot,) = state.collections[name].ended
    assert snapshot.rows == 1000
    assert snapshot.restarts == 1
    assert len(snapshot.runs) == 2
    lab.assert_landed("docs")


def rows_of(lab: Lab, name: str) -> int:
    collection = lab.state.collections.get(name)
    return 0 if collection is None or collection.snapshot is None else collection.snapshot.rows


def test_a_new_collection_starts_by_itself(lab: Lab) -> None:
    lab.contract("first")
    lab.db.first.insert_one({"_id": 1})
    lab.db.second.insert_one({"_id": 1})
    background = Background(lab)
    wait_for(lambda: f"{lab.database}.first" in lab.state.collections, "the first collection")
    lab.contract("second")
    name = f"{lab.database}.second"
    wait_for(lambda: name in lab.state.collections and lab.state.collections[name].ended, "the snapshot of the second")
    lab.db.second.insert_one({"_id": 2})
    wait_for(lambda: lab.state.collections[name].changes == 1, "a change of the second")
    background.end()
    lab.assert_landed("first")
    lab.assert_landed("second")


def test_a_contract_that_was_away(lab: Lab) -> None:
    """The stream goes on without a collection whose contract is gone or broken, but what it missed is never lost."""
    contract = lab.contract("docs")
    lab.contract("other")
    lab.db.docs.insert_many([{"_id": 1}, {"_id": 2}])
    lab.sync()
    file = lab.settings.schemas_dir / "collections" / f"{contract.namespace}.yaml"
    text = file.read_text()
    file.write_text("owner: [")
    lab.capture()
    lab.db.docs.insert_one({"_id": 3})
    lab.db.docs.delete_one({"_id": 1})
    lab.capture()
    file.write_text(text)
    lab.sync()
    lab.assert_equal("docs")
    (_, again) = lab.state.collections[contract.namespace].ended
    assert again.reason.startswith("no contract named it")
    lab.db.docs.insert_one({"_id": 4})
    lab.sync()
    lab.assert_equal("docs")
    assert len(lab.state.collections[contract.namespace].ended) == 2
    assert len(lab.state.collections[f"{lab.database}.other"].ended) == 1


def test_a_position_file_that_was_removed(lab: Lab) -> None:
    """What its error says is the way out: everything is read again, what was deleted meanwhile goes, no landed file is in the way."""
    lab.contract("docs")
    lab.db.docs.insert_many([{"_id": 1}, {"_id": 2}])
    lab.sync()
    lab.db.docs.insert_one({"_id": 3})
    lab.sync()
    (file,) = lab.settings.data_dir.glob(f"gcs/{lab.settings.bucket}/mongo/lab/position.json")
    file.unlink()
    lab.db.docs.delete_one({"_id": 1})
    lab.sync()
    lab.assert_equal("docs")
    lab.db.docs.insert_one({"_id": 4})
    lab.sync()
    lab.assert_equal("docs")


def test_a_file_that_breaks_while_the_capture_runs(lab: Lab) -> None:
    contract = lab.contract("docs")
    told: list[str] = []
    read = contracts_of(lab.settings, told.append)
    file = lab.settings.schemas_dir / "collections" / f"{contract.namespace}.yaml"
    text = file.read_text()
    assert list(read()) == [contract.namespace]
    file.write_text("")  # an editor that is writing it
    assert read() == {contract.namespace: contract}
    assert len(told) == 1
    file.write_text(text)
    assert read() == {contract.namespace: contract}
    file.unlink()
    assert not read()


def test_drop_and_create_again(lab: Lab) -> None:
    lab.contract("docs")
    lab.db.docs.insert_many([{"_id": n, "v": 1} for n in range(20)])
    lab.capture()
    lab.db.docs.insert_one({"_id": 99})
    lab.db.docs.drop()
    lab.db.docs.insert_many([{"_id": 1, "v": 2}, {"_id": 100, "v": 3}])
    lab.capture()
    lab.assert_landed("docs")
    assert [change.operation for change in lab.landed("docs") if change.key is None] == ["drop"]


def test_rename_from_and_onto(lab: Lab) -> None:
    lab.contract("one")
    lab.contract("two")
    lab.db.one.insert_many([{"_id": n, "from": "one"} for n in range(5)])
    lab.db.two.insert_many([{"_id": n, "from": "two"} for n in range(3, 9)])
    lab.capture()
    lab.db.one.rename("two", dropTarget=True)
    lab.capture()
    assert lab.source("one") == {}
    lab.assert_landed("one")
    lab.assert_landed("two")
    ended = lab.state.collections[f"{lab.database}.two"].ended
    assert ended[-1].reason == f"renamed from {lab.database}.one"
    lab.db.two.rename("elsewhere")
    lab.capture()
    lab.assert_landed("two")


def test_a_lookup_after_a_rename_onto_the_collection_is_not_exact(lab: Lab) -> None:
    """An update whose look-up finds the document of another collection, which came under its name without an event of its own."""
    contract = lab.contract("two")
    lab.db.two.insert_one({"_id": 1, "from": "two"})
    lab.capture()
    lab.db.one.insert_one({"_id": 1, "from": "one"})
    lab.db.two.update_one({"_id": 1}, {"$set": {"n": 5}})
    lab.db.one.rename("two", dropTarget=True)
    lab.sync()
    lab.assert_equal("two")
    (told,) = [change for change in lab.landed("two") if change.operation == "update"]
    assert told.document is not None
    assert "one" in told.document
    rows = lab.query("SELECT position, exact FROM `{as_of}`", **lab.names("two"))
    assert {row["position"]: row["exact"] for row in rows}[told.position] is False
    moments = lab.hours().moments(contract.namespace, '{"$numberInt":"1"}')
    (at,) = [moment for moment in moments if moment.position == told.position]
    truth = '{"_id":{"$numberInt":"1"},"from":"two","n":{"$numberInt":"5"}}'
    assert not at.exact or at.document == truth


def test_drop_database(lab: Lab) -> None:
    lab.contract("one")
    lab.contract("two")
    lab.db.one.insert_one({"_id": 1})
    lab.db.two.insert_one({"_id": 1})
    lab.capture()
    lab.client.drop_database(lab.database)
    lab.capture()
    assert lab.source("one") == lab.source("two") == {}
    lab.assert_landed("one")
    lab.assert_landed("two")
    lab.db.one.insert_one({"_id": 2})
    lab.capture()
    lab.assert_landed("one")


def test_invalidate(lab: Lab) -> None:
    """A stream of one database ends with an invalidate event when that is dropped, and is opened again after it."""
    lab.settings = lab.settings.model_copy(update={"cdc_stream_scope": "database"})
    from dataplatform.cdc.state import Unit

    lab.unit = Unit("lab", lab.database)
    lab.contract("docs")
    lab.db.docs.insert_one({"_id": 1})
    background = Background(lab)
    name = f"{lab.database}.docs"
    wait_for(lambda: name in lab.state.collections and lab.state.collections[name].ended, "the snapshot")
    lab.client.drop_database(lab.database)
    time.sleep(0.5)
    lab.db.docs.insert_one({"_id": 2})
    wait_for(
        lambda: any(change.key == '{"$numberInt":"2"}' for change in lab.landed("docs")), "the insert after the drop"
    )
    background.end()
    lab.assert_landed("docs")


def test_two_captures(lab: Lab) -> None:
    """The second says who has it, and stops; one that lost its lease cannot move the position."""
    lab.contract("docs")
    lab.db.docs.insert_one({"_id": 1})
    background = Background(lab)
    wait_for(lambda: lab.state.holder is not None and lab.state.collections, "the first capture")
    with pytest.raises(FencedError, match="another capture has `lab`: process"):
        lab.capture()
    result = lab.run("cdc", "capture", "--once")
    assert result.returncode == 1
    assert "another capture has `lab`" in result.stderr
    assert "Traceback" not in result.stderr
    # As if the first had paused for longer than its lease: another takes the file over behind its back.
    other = PositionFile(lab.settings, lab.unit)
    present = other.file.read()
    assert present is not None
    stolen = json.loads(present[0]) | {"epoch": 99, "holder": None}
    while True:
        present = other.file.read()
        assert present is not None
        try:
            other.file.write(json.dumps(stolen).encode(), present[1])
            break
        except Exception:  # the first was quicker
            continue
    lab.db.docs.insert_one({"_id": 2})
    with pytest.raises(FencedError, match="took `lab` over"):
        background.thread.join(15)
        background.end()
    assert lab.state.epoch == 99
    lab.capture()
    lab.assert_landed("docs")


def test_resnapshot_beside_the_table_and_swap(lab: Lab) -> None:
    """A deletion was lost. The collection is read again beside its tables, which are equal once the hour is applied."""
    contract = lab.contract("docs")
    lab.db.docs.insert_many([{"_id": n} for n in range(10)])
    lab.sync()
    landing = lab.hours().landings[contract.namespace]
    lab.db.docs.delete_one({"_id": 3})
    lab.capture()
    assert landing.folder is not None
    for hour in landing.states():
        for file in landing.files(hour):
            (landing.folder / file.name).unlink()
    with pytest.raises(AssertionError, match="extra"):
        lab.assert_landed("docs")
    request_snapshot(lab.settings, contract, "test")
    lab.capture()
    lab.assert_landed("docs")
    assert lab.state.collections[contract.namespace].ended[-1].sweep
    assert '{"$numberInt":"3"}' in lab.table("docs")
    lab.apply()
    lab.assert_equal("docs")


def test_a_contract_for_a_missing_collection(lab: Lab) -> None:
    lab.contract("nowhere")
    lab.contract("docs")
    lab.db.docs.insert_one({"_id": 1})
    state = lab.capture()
    assert state.collections[f"{lab.database}.nowhere"].missing
    lab.assert_landed("docs")
    lab.db.nowhere.insert_one({"_id": 5})
    lab.capture()
    assert not lab.state.collections[f"{lab.database}.nowhere"].missing
    lab.assert_landed("nowhere")


def test_operation_time_is_of_the_source(lab: Lab) -> None:
    before = operation_time(lab.client)
    lab.db.docs.insert_one({})
    assert operation_time(lab.client) > before


def test_documents_of_almost_16_mib_in_snapshot_and_stream(lab: Lab) -> None:
    """Answers of several such documents do not fit a message of this server: they are asked for in smaller numbers."""
    lab.contract("docs", "snapshot: {documents_per_second: 1000}\n")
    lab.db.docs.insert_many([{"_id": n, "small": n} for n in range(300)])
    for n in range(300, 304):
        lab.db.docs.insert_one({"_id": n, "body": "y" * 15_000_000})
    lab.capture()
    lab.assert_landed("docs")
    lab.db.docs.update_many({"_id": {"$gte": 300}}, {"$set": {"seen": True}})
    lab.capture()
    lab.assert_landed("docs")
