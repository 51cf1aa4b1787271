"""Sensors ask once for what is due, and not while a run is at work, nor for what a catch-up did."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_project import CLICK, HOUR, Project, click

from dataplatform.events.assets import event_definitions
from dataplatform.runs import RANGE_END_TAG, RANGE_START_TAG, STREAM_TAG, parse_partition_key
from dataplatform.settings import Settings


@pytest.fixture
def project(settings_for: Any, tmp_path: Path) -> Project:
    """Its first hour is the last full one, as a sensor closes all hours up to now."""
    from datetime import UTC, datetime

    first = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 3 * HOUR
    return Project(settings_for(first_hour=first), tmp_path)


def tick(project: Project, sensor: str, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    definitions = event_definitions(project.settings, project.contracts)
    (found,) = [s for s in definitions.sensors or [] if s.name == sensor]
    with dg.build_sensor_context(instance=instance, cursor=cursor, definitions=definitions) as context:
        return found.evaluate_tick(context)


def test_hours_that_are_over_and_changed_contracts_are_asked_for_once(project: Project) -> None:
    first = project.settings.first_hour
    project.land(first, [click("a"), click("map", place="map")])
    with dg.DagsterInstance.ephemeral() as instance:
        data = tick(project, "events_hour_closed", instance)
        (request,) = data.run_requests
        assert parse_partition_key(request.tags[RANGE_START_TAG]) == first
        assert parse_partition_key(request.tags[RANGE_END_TAG]) == first + 2 * HOUR
        assert dg.AssetKey(["events", "click_item_shop"]) in request.asset_selection
        # What was asked for a moment ago is not asked for again, and failed things wait.
        assert tick(project, "events_hour_closed", instance, data.cursor).run_requests == []
        # A catch-up does it: nothing is due, for no sensor.
        assert project.catch_up(first + 3 * HOUR).ok
        for sensor in ("events_hour_closed", "events_hour_reopened", "events_contract_changed"):
            assert not tick(project, sensor, instance).run_requests
        # Where nothing happened since, the warehouse is not even asked.
        asked, project.settings = project.settings, away(project)
        for sensor in ("events_hour_closed", "events_hour_reopened", "events_contract_changed"):
            assert tick(project, sensor, instance).skip_message == "nothing is due"
        project.settings = asked
        # A changed contract is asked for by event.
        project.write("events/shop/click_item_shop.yaml", CLICK.replace("[list, detail]", "[list, detail, map]"))
        (changed,) = tick(project, "events_contract_changed", instance).run_requests
        assert [key.to_user_string() for key in changed.asset_selection] == [
            "events/click_item_shop",
            "events/rejected",
            "events/ledger",
        ]
        project.write("events/shop/click_item_shop.yaml", CLICK)
        # A late file re-opens its hour: another key.
        project.land(first, [click("b")])
        (again,) = tick(project, "events_hour_closed", instance, data.cursor).run_requests
        assert again.run_key != request.run_key
        # While a run is at work nobody asks.
        instance.add_run(dg.DagsterRun("job", status=dg.DagsterRunStatus.STARTED, tags={STREAM_TAG: "events"}))
        skipped = tick(project, "events_hour_closed", instance, data.cursor)
        assert not skipped.run_requests
        assert "at work" in skipped.skip_message


def away(project: Project) -> Settings:
    """The project's settings, with a server that does not answer."""
    return project.settings.model_copy(update={"bigquery_endpoint": "http://127.0.0.1:9"})


def test_a_server_that_is_away_is_a_reason_not_a_crash(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataplatform.warehouse import client

    monkeypatch.setattr(client, "RECONNECT_SECONDS", 0.3)
    project.settings = away(project)
    project.land(project.settings.first_hour, [click("a")])
    with dg.DagsterInstance.ephemeral() as instance:
        data = tick(project, "events_hour_closed", instance)
    assert not data.run_requests
    assert "does not answer" in data.skip_message
