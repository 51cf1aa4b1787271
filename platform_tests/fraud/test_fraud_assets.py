"""Fraud assets in Dagster, on the embedded server: a day of features, an hour of decisions, the policies."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dataplatform.decisions.judge import Answer, Reason, Record, Versions, landed_line
from dataplatform.fraud.assets import definitions
from dataplatform.fraud.catalog import load_catalog
from dataplatform.fraud.tables import load_decisions, load_features, rule_rates
from dataplatform.landing import Writer, open_landing
from dataplatform.warehouse.client import Warehouse

SCHEMAS = Path(__file__).parents[2] / "schemas"
DAY = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def settings(settings_for):
    return settings_for(schemas_dir=SCHEMAS)


def line(number, rules=("takeover",), received=DAY):
    at = (received + timedelta(seconds=number)).isoformat().replace("+00:00", "Z")
    answer = Answer(
        f"r{number}", "transfer", "send_transfer_pay", "hold", "hold", 80, [Reason(each, "why") for each in rules], (), (),
        {"amount": 5}, Versions("abc", 1, 1), [], "", [], at, 0.4,
    )  # fmt: skip
    return landed_line(Record(at, f"r{number}", "test", answer, {}, {}, {}, {}))


def test_definitions_are_whole(settings):
    found = definitions(settings)
    keys = {key.to_user_string() for key in found.resolve_asset_graph().get_all_asset_keys()}
    assert {"fraud/features_user", "fraud/features_article", "fraud/decisions", "fraud/policies/transfer"} <= keys
    policies = next(each for each in found.assets if dg.AssetKey(["fraud", "policies", "transfer"]) in each.keys)
    deps = policies.asset_deps[dg.AssetKey(["fraud", "policies", "transfer"])]
    assert (
        dg.AssetKey(["fraud", "features_receiver"]) in deps and dg.AssetKey(["fraud", "features_article"]) not in deps
    )


def test_a_day_of_features_and_an_hour_of_decisions(settings):
    warehouse = Warehouse(settings)
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('events')}`")
    warehouse.query(
        f"CREATE TABLE `{warehouse.table_id('events', 'install_app_app')}` AS SELECT 'e1' AS event_id, 'd1' AS device_id,"
        " 'u1' AS user_id, TIMESTAMP '2026-01-01 12:00:00+00' AS occurred_at, TIMESTAMP '2026-01-01 12:00:00+00' AS received_at,"
        " TIMESTAMP '2026-01-01 12:00:00+00' AS hour UNION ALL SELECT 'e2', 'd1', 'u1', TIMESTAMP '2026-01-02 15:00:00+00',"
        " TIMESTAMP '2026-01-02 15:00:00+00', TIMESTAMP '2026-01-02 15:00:00+00'"
    )
    writer = Writer(open_landing(settings, "decisions"))
    for number in (1, 2, 3, 2):
        writer.append(line(number), DAY + timedelta(seconds=number))
    writer.flush()
    writer.close()
    found = definitions(settings)
    with dg.instance_for_test() as instance:
        for asset, partition in (("fraud/features_device", "2026-01-02"), ("fraud/decisions", "2026-01-02-00:00")):
            assert dg.materialize(
                list(found.assets), selection=[asset], partition_key=partition, instance=instance
            ).success
        assert dg.materialize(list(found.assets), selection=["fraud/policies/transfer"], instance=instance).success
    # Once more: a day and an hour are replaced, never added to.
    catalog = load_catalog(SCHEMAS)
    assert load_features(warehouse, catalog, catalog.entities["device"], DAY, DAY + timedelta(days=1)) == 1
    landing = open_landing(settings, "decisions")
    assert load_decisions(warehouse, landing, DAY, DAY + timedelta(hours=1)) == 3
    rows = warehouse.query(f"SELECT * FROM `{warehouse.table_id('fraud', 'features_device')}`").rows
    assert [(row["entity_key"], row["days_since_install"], row["users_24h"]) for row in rows] == [("d1", 1, 0)]
    rows = warehouse.query(
        f"SELECT request_id, level, rules FROM `{warehouse.table_id('fraud', 'decisions')}` ORDER BY request_id"
    ).rows
    assert [(row["request_id"], row["level"], row["rules"]) for row in rows] == [
        (f"r{n}", "hold", ["takeover"]) for n in (1, 2, 3)
    ]
    rates = {row["rule"]: row["odd"] for row in rule_rates(warehouse, catalog, DAY) if row["policy"] == "transfer"}
    assert rates["takeover"] == "always fires" and rates["burst"] == "never fires"
