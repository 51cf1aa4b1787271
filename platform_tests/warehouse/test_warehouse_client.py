"""The door to BigQuery against the embedded server: what it gives back, and what it says when something is wrong."""

import threading
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from dataplatform.errors import PlatformError
from dataplatform.warehouse import client as client_module
from dataplatform.warehouse.client import Typed, Warehouse, WarehouseError, WarehouseUnreachableError
from dataplatform.warehouse.tables import TableSpec, ensure

SLOW = "SELECT COUNT(*) FROM UNNEST(GENERATE_ARRAY(1, 100000)) a, UNNEST(GENERATE_ARRAY(1, 100000)) b"


@pytest.fixture
def warehouse(settings_for: Any) -> Warehouse:
    return Warehouse(settings_for(), labels={"stream": "test"})


def test_parameters_take_their_types_from_values(warehouse: Warehouse) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    values = {
        "flag": True,
        "whole": 2**60,
        "real": 1.5,
        "money": Decimal("12345678901234567890.123456789"),
        "time": noon,
        "day": date(2026, 1, 1),
        "text": "it's `quoted`",
        "many": ["a", "b"],
        "none": Typed("STRING", None),
        "empty": Typed("ARRAY<INT64>", []),
        "pairs": Typed("ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>", [{"hour": noon, "digest": "x"}]),
        "no_pairs": Typed("ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>", []),
    }
    columns = ", ".join(f"@{name} AS {name}" for name in values if not name.endswith("pairs"))
    (row,) = warehouse.query(f"SELECT {columns}", {k: v for k, v in values.items() if not k.endswith("pairs")}).rows
    assert row == {
        **{name: value for name, value in values.items() if not isinstance(value, Typed)},
        "none": None,
        "empty": [],
    }
    for name, expected in (("pairs", [{"hour": noon, "digest": "x"}]), ("no_pairs", [])):
        found = warehouse.query(f"SELECT p.hour, p.digest FROM UNNEST(@{name}) AS p", {name: values[name]}).rows
        assert found == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [(datetime(2026, 1, 1), "time zone"), ([], "Typed"), (None, "Typed"), (object(), "Typed")],  # noqa: DTZ001
)
def test_a_parameter_without_a_type_is_refused(warehouse: Warehouse, value: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        warehouse.query("SELECT @x", {"x": value})


def test_an_error_names_the_statement_and_its_line(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError) as caught:
        warehouse.query("SELECT\n  1,\n  nope\nFROM UNNEST([1])", name="counting")
    assert caught.value.reason == "invalidQuery"
    assert "counting" in str(caught.value)
    assert "  nope" in str(caught.value)
    assert caught.value.where == warehouse.endpoint


def test_a_missing_table_is_an_error_with_its_name(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match="nowhere"):
        warehouse.query("SELECT * FROM nowhere.nothing")


def test_jobs_carry_labels_and_a_readable_id(warehouse: Warehouse) -> None:
    result = warehouse.labelled(dagster_run="ABC-def").query("SELECT 1 AS one", name="events/x")
    assert result.job_id.startswith("dataplatform_events_x_abc-def_")
    job = warehouse.client.get_job(result.job_id)
    assert job.labels == {"stream": "test", "dagster_run": "abc-def"}


def test_a_given_job_id_is_run_once(warehouse: Warehouse) -> None:
    ensure(warehouse, [TableSpec("t", "once", [{"name": "n", "type": "INT64"}])])
    insert = f"INSERT INTO `{warehouse.table_id('t', 'once')}` VALUES (1)"
    identity = f"once_{time.monotonic_ns()}"
    for _ in range(2):
        warehouse.query(insert, job_id=identity)
    assert warehouse.query(f"SELECT COUNT(*) AS n FROM `{warehouse.table_id('t', 'once')}`").rows == [{"n": 1}]


def test_a_script_gives_the_rows_of_its_last_select(warehouse: Warehouse) -> None:
    result = warehouse.script("DECLARE x INT64 DEFAULT 20; SET x = x + 1; SELECT x * 2 AS answer;")
    assert result.rows == [{"answer": 42}]


def test_load_replaces_and_read_gives_arrow(warehouse: Warehouse, bigquery: Any) -> None:
    schema = [{"name": "n", "type": "INT64"}, {"name": "s", "type": "STRING"}]
    folder = bigquery.gcs_root / warehouse.settings.bucket
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        (folder / f"{part}.ndjson").write_text("".join(f'{{"n": {part * 10 + i}, "s": "x"}}\n' for i in range(3)))
    ensure(warehouse, [TableSpec("t", "loaded", schema)])
    uris = [f"gs://{warehouse.settings.bucket}/{part}.ndjson" for part in range(2)]
    for _ in range(2):
        assert warehouse.load(uris, "t", "loaded", schema).affected == 6
    table = warehouse.read("t", "loaded", columns=["n"], where="n >= 10")
    assert sorted(table.column("n").to_pylist()) == [10, 11, 12]
    with pytest.raises(WarehouseError, match="load"):
        warehouse.load([f"gs://{warehouse.settings.bucket}/none.ndjson"], "t", "loaded", schema)


def test_cancel_ends_jobs_by_label_and_spares_others(warehouse: Warehouse) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            warehouse.labelled(dagster_run="slow").query(f"{SLOW}, UNNEST(GENERATE_ARRAY(1, 1000)) c")
        except WarehouseError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    while not warehouse.running_jobs(dagster_run="slow") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert warehouse.cancel(except_runs=["slow"], stream="test") == []
    assert len(warehouse.cancel(stream="test")) == 1
    thread.join(20)
    assert "cancelled" in str(caught[0])
    assert warehouse.cancel(stream="test") == []


def test_no_server_is_an_error_that_says_what_to_do(settings_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RECONNECT_SECONDS", 0.5)
    lost = Warehouse(settings_for(bigquery_endpoint="http://127.0.0.1:9"))
    with pytest.raises(WarehouseUnreachableError, match="dataplatform up bigquery"):
        lost.query("SELECT 1")
    with pytest.raises(PlatformError, match="BIGQUERY_ENDPOINT"):
        Warehouse(settings_for(bigquery_endpoint=None)).query("SELECT 1")


def test_a_server_killed_in_the_middle_of_a_statement(warehouse: Warehouse, bigquery: Any) -> None:
    """The statement fails at once instead of waiting for ever; the job it leaves behind disturbs nobody afterwards."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            warehouse.query(f"{SLOW}, UNNEST(GENERATE_ARRAY(1, 1000)) c")
        except WarehouseError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    while not warehouse.running_jobs(stream="test") and time.monotonic() < deadline:
        time.sleep(0.1)
    bigquery.kill()
    try:
        thread.join(30)
        assert isinstance(caught[0], WarehouseUnreachableError)
    finally:
        bigquery.start()
    assert warehouse.query("SELECT 1 AS one").rows == [{"one": 1}]
    assert warehouse.cancel(stream="test") == []


def test_who_waits_for_a_statement_is_told_that_the_server_was_restarted(warehouse: Warehouse, bigquery: Any) -> None:
    job = warehouse.client.query(f"{SLOW}, UNNEST(GENERATE_ARRAY(1, 1000)) c")
    bigquery.kill()
    bigquery.start()
    with pytest.raises(WarehouseError, match="The server was restarted while the job ran"):
        warehouse._finish("slow", job, lambda: job.result(**warehouse._waiting()))


def test_values_looked_up_together_are_those_looked_up_alone(warehouse: Warehouse) -> None:
    """The embedded server reads several look-ups in one text at once; what they give is the same."""
    texts = ['{"a": 1, "b": "x", "c": {"d": [1, null]}}', '{"b": null, "c": {"d": "y"}}', "{}", "[1]"]
    rows = ", ".join(f"STRUCT({number} AS number, '{text}' AS text)" for number, text in enumerate(texts))
    looked_up = [
        "JSON_VALUE(t.text, '$.a')", "JSON_VALUE(t.text, '$.b')", "JSON_QUERY(t.text, '$.c')", "JSON_VALUE(t.text, '$.c.d')",
        "JSON_QUERY(t.text, '$.c.d')", "SAFE_CAST(JSON_VALUE(t.text, '$.a') AS INT64)",
    ]  # fmt: skip
    source = f"FROM (SELECT number, text FROM UNNEST([{rows}])) AS t WHERE t.number < 10"
    together = warehouse.query(
        f"SELECT t.number, {', '.join(f'{text} AS c{n}' for n, text in enumerate(looked_up))} {source}"
    ).rows
    for n, text in enumerate(looked_up):
        alone = warehouse.query(f"SELECT t.number, {text} AS c{n} {source}").rows
        key = {row["number"]: row[f"c{n}"] for row in together}
        assert key == {row["number"]: row[f"c{n}"] for row in alone}
    assert {row["c3"] for row in together} == {None, "y"}
