"""Schemas over time, edges that are replaced, hours that are due, the checks; one project's story on one server."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg

from dataplatform.contracts.load import Contracts
from dataplatform.lineage import assets, stored
from dataplatform.lineage.checks import complete_check, personal_data_check
from dataplatform.lineage.described import columns_without_source, describe_columns, describe_personal_data
from dataplatform.lineage.history import catalog_as_of, catalog_now
from dataplatform.lineage.hours import LineageHours
from dataplatform.lineage.impact import Graph
from dataplatform.lineage.sensors import log_sensor
from dataplatform.runs import STREAM_TAG
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse

HOUR = timedelta(hours=1)


def sources(graph: Graph, table: str) -> dict[str, set[str]]:
    """Column of a table → the columns that feed it."""
    found: dict[str, set[str]] = {}
    for edge in graph.edges:
        if edge.target_table == table and edge.type == "DIRECT":
            found.setdefault(edge.target_column, set()).add(f"{edge.source[0].rpartition('.')[2]}.{edge.source[1]}")
    return found


def test_what_changes_is_resolved_again_and_nothing_is_forgotten(settings_for: Callable[..., Settings]) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    settings = settings_for(first_hour=hour - HOUR, pii_allowed={"shop": []})
    warehouse, ours = Warehouse(settings), stored.catalog_warehouse(settings)
    stream = LineageHours(settings, Contracts())
    shop = warehouse.dataset_id("shop")
    warehouse.query(
        f"CREATE SCHEMA `{shop}`; CREATE TABLE `{shop}.base` (id INT64, mail STRING);"
        f" INSERT INTO `{shop}.base` (id, mail) VALUES (1, 'x')"
    )
    copied = f"CREATE OR REPLACE TABLE `{shop}.copied` AS SELECT * FROM `{shop}.base`"
    warehouse.query(copied)
    warehouse.query(f"CREATE TABLE `{shop}.brief` AS SELECT id, mail AS m FROM `{shop}.base`")
    warehouse.query(f"CREATE TABLE `{shop}.kept` AS SELECT m FROM `{shop}.brief`")
    warehouse.query(f"DROP TABLE `{shop}.brief`")

    # The running hour is due while it has texts that are not known, and again when it is over.
    due = stream.due(hour + HOUR)
    assert [piece.assets for piece in due] == [LINEAGE, COLUMNS]
    first = stored.collect(ours, hour, hour + HOUR)
    stored.note_hours(ours, settings, Contracts(), first)
    assert [piece.assets for piece in stream.due(hour + HOUR)] == [COLUMNS]
    graph = Graph(stored.stored_edges(settings))
    assert sources(graph, f"{shop}.copied") == {"id": {"base.id"}, "mail": {"base.mail"}}
    assert sources(graph, f"{shop}.kept") == {"m": {"brief.m"}}

    # Other columns: the same text tells other edges from its next run on; what it told before stays on record.
    looked = datetime.now(UTC)
    warehouse.query(
        f"ALTER TABLE `{shop}.base` ADD COLUMN age INT64; UPDATE `{shop}.base` SET age = 3 WHERE TRUE;"
        f" ALTER TABLE `{shop}.base` DROP COLUMN mail;"
        f" CREATE TABLE `{shop}.empty` (a INT64); CREATE TABLE `{shop}.filled` (a INT64)"
    )
    warehouse.query(copied)
    stored.collect(ours, hour, hour + HOUR)
    graph = Graph(stored.stored_edges(settings))
    assert sources(graph, f"{shop}.copied").keys() == {"id", "age"}
    assert (catalog_as_of(ours, looked).tables[f"{shop}.base"].columns or {}).keys() == {"id", "mail"}
    assert (catalog_now(ours).tables[f"{shop}.base"].columns or {}).keys() == {"id", "age"}
    replaced = ours.query(
        f"SELECT target_column FROM `{ours.table_id('data_catalog', 'lineage')}`"
        f" WHERE NOT current_edge AND target_table = '{shop}.copied'"
    ).rows
    assert {row["target_column"] for row in replaced} == {"mail"}

    # A table that something outside fills has no source, and that fails the check; an empty one does not.
    ours.query(f"INSERT INTO `{shop}.filled` (a) VALUES (1)")  # our own bookkeeping's jobs are not in the log
    describe_columns(ours, graph)
    assert [name for name in columns_without_source(ours) if name.startswith(f"{shop}.")] == [f"{shop}.filled.a"]
    verdict = complete_check(settings, assets.COLUMNS_KEY)()
    assert isinstance(verdict, dg.AssetCheckResult)
    assert not verdict.passed

    # Marked data in a dataset that allows none fails the check `allowed`; without any it holds.
    allowed = personal_data_check(settings, assets.PII_KEY)
    describe_personal_data(ours, settings, Graph([]))
    verdict = allowed()
    assert isinstance(verdict, dg.AssetCheckResult)
    assert verdict.passed
    pii = ours.table_id("data_catalog", "pii")
    ours.query(
        f"INSERT INTO `{pii}` (table_name, column_path, mark, origin, path, confidence)"
        f" VALUES ('{shop}.copied', 'mail', 'email', 'mongodb.shop.users.mail', [], 1.0)"
    )
    verdict = allowed()
    assert isinstance(verdict, dg.AssetCheckResult)
    assert not verdict.passed
    assert "mongodb.shop.users.mail" in str(verdict.metadata["found"].value)

    # The sensor asks for the first thing that is due, and for nothing while other streams are at work.
    sensor = log_sensor(stream)
    first.at = datetime.now(UTC)
    stored.note_hours(ours, settings, Contracts(), first)
    with dg.DagsterInstance.ephemeral() as instance:
        asked = sensor(dg.build_sensor_context(instance=instance))
        assert isinstance(asked, dg.SensorResult)
        asset_selection = (asked.run_requests or [])[0].asset_selection or []
        assert tuple(key.to_user_string() for key in asset_selection) in (LINEAGE, COLUMNS)
        busy = dg.DagsterRun(
            job_name="other", status=dg.DagsterRunStatus.STARTED, tags={STREAM_TAG: "events"}, run_id=str(uuid.uuid4())
        )
        instance.add_run(busy)
        assert isinstance(sensor(dg.build_sensor_context(instance=instance)), dg.SkipReason)


LINEAGE = ("data_catalog/lineage_queries", "data_catalog/lineage")
COLUMNS = ("data_catalog/columns", "data_catalog/pii")


def test_assets_promise_freshness(settings_for: Callable[..., Settings]) -> None:
    definitions = assets.definitions(settings_for(), Contracts())
    specs = [spec for one in definitions.assets or () if isinstance(one, dg.AssetsDefinition) for spec in one.specs]
    assert {spec.key.to_user_string() for spec in specs} == {*LINEAGE, *COLUMNS}
    assert all(spec.freshness_policy is not None for spec in specs)
