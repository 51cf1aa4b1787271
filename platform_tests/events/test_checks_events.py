"""Checks fail when they should: rows taken from a table, files not loaded, events suddenly refused, columns suddenly empty."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_project import HOUR, START, Project, click

from dataplatform.definitions import definitions_for
from dataplatform.due import Due
from dataplatform.events.checks import balance_result, checked_range, complete_result
from dataplatform.runs import RANGE_END_TAG, RANGE_START_TAG, dagster_instance, execute


@pytest.fixture
def project(settings_for: Any, tmp_path: Path) -> Project:
    return Project(settings_for(first_hour=START), tmp_path)


def sql(project: Project, text: str) -> None:
    project.stream.warehouse.query(text.format(t=project.stream.tables))


def test_a_tampered_table_fails_the_blocking_check(project: Project) -> None:
    project.land(START, [click(f"id-{i}") for i in range(5)])
    assert project.catch_up(START + HOUR).ok
    stream = project.stream
    assert balance_result(stream, START, START + HOUR).passed
    assert complete_result(stream, START, START + HOUR).passed
    sql(project, f"DELETE FROM {stream.tables.event('click_item_shop')} WHERE event_id = 'id-3'")
    found = balance_result(stream, START, START + HOUR)
    assert not found.passed
    assert "the ledger says 5 accepted, the table holds 4" in (found.description or "")
    # The ledger materialised again counts the tables, does not add up, and fails the run.
    with dagster_instance(project.settings) as instance:
        due = Due(("events/ledger",), START, START + HOUR, "by hand", "x")
        outcome = execute(definitions_for(project.settings), instance, due, "events")
    assert not outcome.ok
    assert "balances" in outcome.failures[0]
    result = project.catch_up(START + HOUR)
    assert not result.ok
    assert "received 5 is not accepted 4" in result.broken[0]
    # Materialising the event again mends it.
    stream.materialise(["events/click_item_shop", "events/ledger"], START, START + HOUR)
    assert project.catch_up(START + HOUR).ok
    project.check()


def test_rows_missing_from_received_are_found(project: Project) -> None:
    project.land(START, [click(f"id-{i}") for i in range(5)])
    assert project.catch_up(START + HOUR).ok
    stream = project.stream
    sql(project, f"DELETE FROM {stream.tables.received} WHERE event_id = 'id-2'")
    found = complete_result(stream, START, START + HOUR)
    assert not found.passed
    assert "4 rows for 5 lines" in (found.description or "")
    sql(project, f"DELETE FROM {stream.tables.received} WHERE TRUE")
    assert "is not in received" in (complete_result(stream, START, START + HOUR).description or "")


def test_rates_against_the_hours_before(project: Project) -> None:
    for hour in range(2):
        project.land(START + hour * HOUR, [click(f"{hour}-{i}", place="list") for i in range(120)])
    bad = [click(f"2-{i}", "nonsense" if i % 2 else 1) for i in range(240)]
    project.land(START + 2 * HOUR, bad)
    result = project.catch_up(START + 2 * HOUR)
    assert result.ok, [result.lines, *result.runs]
    assert project.catch_up(START + 3 * HOUR).ok
    with dagster_instance(project.settings) as instance:
        found = {}
        for name in ("reject_rate", "null_rates"):
            key = dg.AssetCheckKey(dg.AssetKey(["events", "click_item_shop"]), name)
            record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
            assert record.event is not None
            assert record.event.dagster_event is not None
            found[name] = record.event.dagster_event.asset_check_evaluation_data
    assert not found["reject_rate"].passed
    assert "50.0% refused, 0.0%" in (found["reject_rate"].description or "")
    assert not found["null_rates"].passed
    assert "place: 100% empty, 0% before" in (found["null_rates"].description or "")
    assert found["null_rates"].severity == dg.AssetCheckSeverity.WARN


def test_the_checked_hours_are_those_of_the_run(project: Project) -> None:
    tags = {RANGE_START_TAG: "2026-01-01-03:00", RANGE_END_TAG: "2026-01-01-05:00"}
    assert checked_range(tags, project.stream) == (START + 3 * HOUR, START + 6 * HOUR)
    assert checked_range({"dagster/partition": "2026-01-01-03:00"}, project.stream) == (
        START + 3 * HOUR,
        START + 4 * HOUR,
    )
    start, end = checked_range({}, project.stream)
    assert end - start == HOUR
