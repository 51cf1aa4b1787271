"""The graph of behaviour logs: every table is there, described, owned, and can be asked for alone."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_project import HOUR, START, Project, click

from dataplatform.definitions import definitions_for
from dataplatform.due import Due
from dataplatform.errors import PlatformError
from dataplatform.events.hours import LANDING, RECEIVED
from dataplatform.runs import dagster_instance, execute, partition_key

KEYS = {
    "contracts/shop",
    "contracts/bank",
    "landing/events",
    "events_raw/received",
    "events/click_item_shop",
    "events/pay_order_bank",
    "events/rejected",
    "events/duplicates",
    "events/ledger",
}


@pytest.fixture
def project(settings_for: Any, tmp_path: Path) -> Project:
    return Project(settings_for(first_hour=START), tmp_path)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project without a server: definitions must not need one."""
    from dataplatform.settings import Settings

    tmp_path = tmp_path_factory.mktemp("offline")
    return Project(Settings(data_dir=tmp_path, first_hour=START, bigquery_endpoint="http://127.0.0.1:9"), tmp_path)


@pytest.fixture(scope="module")
def definitions(offline: Project) -> dg.Definitions:
    return definitions_for(offline.settings)


def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_definitions_hold_every_table_and_need_no_server(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)
    assert specs(definitions).keys() >= KEYS


def test_an_event_is_described_by_its_contract(definitions: dg.Definitions) -> None:
    spec = specs(definitions)["events/pay_order_bank"]
    assert spec.description == "Someone pays an order."
    assert spec.owners == ["team:shop-team", "shop@example.com"]
    assert spec.kinds == {"bigquery", "table"}
    assert spec.tags["domain"] == "commerce"
    assert spec.freshness_policy is not None
    columns = {column.name: column for column in spec.metadata["dagster/column_schema"].columns}
    assert columns["buyer__name"].type == "STRING"
    assert columns["items.sku"].constraints.nullable is False
    assert columns["items"].type.startswith("ARRAY")
    (reference,) = spec.metadata["dagster/code_references"].code_references
    assert Path(reference.file_path).name == "pay_order_bank.yaml"


def test_every_table_has_a_freshness_policy_and_hourly_partitions(definitions: dg.Definitions) -> None:
    tables = [
        spec
        for key, spec in specs(definitions).items()
        if key.startswith(("events/", "events_raw/")) and "bigquery" in spec.kinds
    ]
    assert len(tables) >= 6
    for spec in tables:
        assert spec.freshness_policy is not None, spec.key
        assert isinstance(spec.partitions_def, dg.HourlyPartitionsDefinition), spec.key


def test_the_running_hour_is_a_partition(definitions: dg.Definitions) -> None:
    spec = specs(definitions)["events/ledger"]
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    assert spec.partitions_def is not None
    keys = set(spec.partitions_def.get_partition_keys(current_time=datetime.now(UTC)))
    assert partition_key(now) in keys
    assert partition_key(now + HOUR) not in keys


def test_all_hourly_assets_are_one_step_with_a_pool(definitions: dg.Definitions) -> None:
    events = definitions.resolve_assets_def(dg.AssetKey(["events", "ledger"]))
    assert events.can_subset
    assert events.op.pool == "bigquery"
    assert {key.to_user_string() for key in events.keys} >= KEYS - {"contracts/shop", "contracts/bank"}
    assert events.backfill_policy == dg.BackfillPolicy.single_run()


def test_an_open_hour_an_event_alone_and_the_numbers_of_each_hour(project: Project) -> None:
    project.land(START, [click("a"), click("a"), click("b"), click("c", "nonsense")])
    project.land(START + HOUR, [click("b", 2), click("d")])
    stream = project.stream
    # An open hour is refused unless it is closed with it.
    with pytest.raises(PlatformError, match="still open"):
        stream.materialise([RECEIVED], START, START + HOUR)
    stream.close(START + 2 * HOUR)
    # Nothing was loaded before: what the table stands on, in the hours before as well, is brought up to date first.
    with dagster_instance(project.settings) as instance:
        due = Due(("events/click_item_shop",), START + HOUR, START + 2 * HOUR, "by hand", "x")
        outcome = execute(definitions_for(project.settings), instance, due, "events")
        assert outcome.ok, outcome.failures
        event = instance.get_latest_materialization_event(dg.AssetKey(["events", "click_item_shop"]))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.partition == partition_key(START + HOUR)
        metadata = event.asset_materialization.metadata
        assert {"statement", "job_ids", "duration_seconds"} <= metadata.keys()
    assert [row["event_id"] for row in project.rows("events", "click_item_shop")] == ["d"]
    assert project.rows("events", "ledger") == []
    assert len(stream.due(START + 2 * HOUR)) == 1

    # The event alone stays due. Materialisations of both hours in one run carry the numbers of each.
    result = project.catch_up(START + 2 * HOUR)
    assert result.ok, [result.lines, *result.runs]
    project.check()
    found: dict[str | None, dict[str, int]] = {}
    with dagster_instance(project.settings) as instance:
        for record in instance.fetch_materializations(dg.AssetKey(["events", "click_item_shop"]), limit=2).records:
            materialization = record.asset_materialization
            assert materialization is not None
            found[materialization.partition] = {
                key: value.value for key, value in materialization.metadata.items() if isinstance(value.value, int)
            }
    names = ("dagster/partition_row_count", "duplicates", "rejected")
    assert [found[partition_key(START)][name] for name in names] == [2, 1, 1]
    assert [found[partition_key(START + HOUR)][name] for name in names] == [1, 1, 0]


def test_an_hour_is_closed_with_what_is_loaded_of_it(project: Project) -> None:
    project.land(START, [click("a")])
    project.stream.materialise([LANDING, RECEIVED], START, START + HOUR)
    assert len(project.rows("events_raw", "received")) == 1


def test_ranges_of_what_is_due(project: Project) -> None:
    """Whole hours in one run, hours that only stand on late files without loading, changed contracts by event."""
    stream = project.stream
    for index in range(6):
        stream.landing.put(START + index * HOUR, "f.ndjson", b"{}\n" * (index + 1))
        stream.landing.close(START + index * HOUR)
    manifests = stream.landing.manifests()

    def row(index: int, event: str, reason: str) -> dict[str, Any]:
        return {"hour": START + index * HOUR, "event": event, "reason": reason}

    events = list(stream.contracts)
    rows = [row(i, event, "new") for i in (0, 1) for event in events]
    rows += [row(2, events[0], "earlier"), row(4, events[1], "contract"), row(5, events[1], "contract")]
    plan = stream.plan(rows, manifests)
    assert [(p.start, p.end) for p in plan] == [
        (START, START + 2 * HOUR),
        (START + 2 * HOUR, START + 3 * HOUR),
        (START + 4 * HOUR, START + 6 * HOUR),
    ]
    assert LANDING in plan[0].assets
    assert LANDING not in plan[1].assets
    assert RECEIVED not in plan[1].assets
    assert plan[2].assets == (f"events/{events[1]}", "events/rejected", "events/ledger")
    assert len({piece.digest for piece in plan}) == 3
    assert timedelta(hours=plan[0].hours) == 2 * HOUR
