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


@pytest.mark.timeout(600)
def test_tampered_tables_fail_and_rates_are_held_against_the_hours_before(project: Project) -> None:
    for hour in range(2):
        project.land(START + hour * HOUR, [click(f"{hour}-{i}", place="list") for i in range(120)])
    result = project.catch_up(START + 2 * HOUR)
    assert result.ok, [result.lines, *result.runs]
    stream = project.stream
    assert balance_result(stream, START, START + 2 * HOUR).passed
    assert complete_result(stream, START, START + 2 * HOUR).passed

    # A row taken from an event's table fails the blocking check.
    sql(project, f"DELETE FROM {stream.tables.event('click_item_shop')} WHERE event_id = '0-3'")
    found = balance_result(stream, START, START + HOUR)
    assert not found.passed
    assert "the ledger says 120 accepted, the table holds 119" in (found.description or "")
    # The ledger materialised again counts the tables, does not add up, and fails the run.
    with dagster_instance(project.settings) as instance:
        due = Due(("events/ledger",), START, START + HOUR, "by hand", "x")
        outcome = execute(definitions_for(project.settings), instance, due, "events")
    assert not outcome.ok
    assert "balances" in outcome.failures[0]
    result = project.catch_up(START + 2 * HOUR)
    assert not result.ok
    assert "received 120 is not accepted 119" in result.broken[0]
    # Materialising the event again mends it.
    stream.materialise(["events/click_item_shop", "events/ledger"], START, START + HOUR)

    # An hour whose events are suddenly refused, and whose column is suddenly empty.
    project.land(START + 2 * HOUR, [click(f"2-{i}", "nonsense" if i % 2 else 1) for i in range(240)])
    assert project.catch_up(START + 3 * HOUR).ok
    project.check()
    with dagster_instance(project.settings) as instance:
        rates = {}
        for name in ("reject_rate", "null_rates"):
            key = dg.AssetCheckKey(dg.AssetKey(["events", "click_item_shop"]), name)
            record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
            assert record.event is not None
            assert record.event.dagster_event is not None
            rates[name] = record.event.dagster_event.asset_check_evaluation_data
    assert not rates["reject_rate"].passed
    assert "50.0% refused, 0.0%" in (rates["reject_rate"].description or "")
    assert not rates["null_rates"].passed
    assert "place: 100% empty, 0% before" in (rates["null_rates"].description or "")
    assert rates["null_rates"].severity == dg.AssetCheckSeverity.WARN

    # Rows missing from what was received are found.
    sql(project, f"DELETE FROM {stream.tables.received} WHERE event_id = '0-2'")
    found = complete_result(stream, START, START + HOUR)
    assert not found.passed
    assert "119 rows for 120 lines" in (found.description or "")
    sql(project, f"DELETE FROM {stream.tables.received} WHERE TRUE")
    assert "is not in received" in (complete_result(stream, START, START + HOUR).description or "")


def test_the_checked_hours_are_those_of_the_run(project: Project) -> None:
    tags = {RANGE_START_TAG: "2026-01-01-03:00", RANGE_END_TAG: "2026-01-01-05:00"}
    assert checked_range(tags, project.stream) == (START + 3 * HOUR, START + 6 * HOUR)
    assert checked_range({"dagster/partition": "2026-01-01-03:00"}, project.stream) == (
        START + 3 * HOUR,
        START + 4 * HOUR,
    )
    start, end = checked_range({}, project.stream)
    assert end - start == HOUR
