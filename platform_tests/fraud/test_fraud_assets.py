"""Fraud assets in Dagster, on the embedded server: a day of features, an hour of decisions, the policies."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dataplatform.decisions.judge import Answer, Reason, Record, Versions, landed_line
from dataplatform.fraud.assets import definitions
from dataplatform.fraud.cases import CaseAlert
from dataplatform.fraud.catalog import load_catalog
from dataplatform.fraud.due import FraudStream
from dataplatform.fraud.labels import replace_labels
from dataplatform.fraud.tables import LANDED_TABLES, load_features, load_landed, rule_rates, stream_rule_rates
from dataplatform.landing import Writer, open_landing
from dataplatform.runs import execute
from dataplatform.warehouse.client import Warehouse

SCHEMAS = Path(__file__).parents[2] / "schemas"
DAY = datetime(2026, 1, 2, tzinfo=UTC)
END = DAY + timedelta(days=1)


@pytest.fixture
def settings(settings_for):
    return settings_for(schemas_dir=SCHEMAS, first_hour=DAY)


def line(number, rules=("takeover",), received=DAY):
    at = (received + timedelta(seconds=number)).isoformat().replace("+00:00", "Z")
    answer = Answer(
        f"r{number}", "transfer", "send_transfer_pay", "hold", "hold", 80, [Reason(each, "why") for each in rules], (), (),
        {"amount": 5}, Versions("abc", 1, 1), [], "", [], at, 0.4,
    )  # fmt: skip
    return landed_line(Record(at, f"r{number}", "test", answer, {}, {}, {}, {}))


def write_ledger(warehouse, hours, landing="a", event="install_app_app"):
    """The events' ledger with these hours of the day, of one event."""
    ledger = f"`{warehouse.table_id('events', 'ledger')}`"
    warehouse.query(
        f"CREATE TABLE IF NOT EXISTS {ledger} (hour TIMESTAMP, event STRING, accepted INT64, landing_digest STRING, contract_digest STRING)"
    )
    warehouse.query(
        f"DELETE FROM {ledger} WHERE hour IN UNNEST(@hours)", {"hours": [DAY + timedelta(hours=hour) for hour in hours]}
    )
    warehouse.query(
        f"INSERT INTO {ledger} SELECT hour, '{event}', 1, '{landing}', 'c' FROM UNNEST(@hours) AS hour",
        {"hours": [DAY + timedelta(hours=hour) for hour in hours]},
    )


def assets_due(stream, until):
    return {asset for piece in stream.due(until) for asset in piece.assets}


def test_of_the_running_day_there_is_one_look(settings):
    """A day that is not over is due once; when it is over, again; then no more."""
    warehouse = Warehouse(settings)
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('events')}`")
    stream = FraudStream(settings, load_catalog(SCHEMAS), warehouse)
    asset = "fraud/features_device"
    write_ledger(warehouse, [0, 1])
    assert asset in assets_due(stream, END)
    stream.note({place: digest for place, (digest, _) in stream.feature_digests(END).items()})
    write_ledger(warehouse, [2])
    assert asset not in assets_due(stream, END)
    write_ledger(warehouse, range(3, 24))
    assert asset in assets_due(stream, END)
    stream.note({place: digest for place, (digest, _) in stream.feature_digests(END).items()})
    assert asset not in assets_due(stream, END)


def test_definitions_are_whole(settings):
    found = definitions(settings)
    keys = {key.to_user_string() for key in found.resolve_asset_graph().get_all_asset_keys()}
    assert {"fraud/features_user", "fraud/features_article", "fraud/decisions", "fraud/policies/transfer"} <= keys
    assert {"fraud/alerts", "fraud/judged", "fraud/labels", "fraud/policies/mule_network"} <= keys
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
    catalog = load_catalog(SCHEMAS)
    stream = FraudStream(settings, catalog, warehouse)
    write_ledger(warehouse, range(24))
    wanted = {"fraud/features_device", "fraud/decisions", "fraud/policies/transfer"}
    assert stream.close(END) == ["fraud: closed 2026-01-02 00:00 of decisions"]
    due = stream.due(END)
    assert [(len(piece.assets), piece.start, piece.end) for piece in due] == [
        (len(catalog.policies), None, None),
        (4, DAY, END),
        (1, DAY, DAY + timedelta(hours=1)),
        (1, None, None),  # the labels: their table is made before the first case is closed
    ]
    with dg.instance_for_test() as instance:
        for piece in (each for each in due if wanted & set(each.assets)):
            part = replace(piece, assets=tuple(sorted(wanted & set(piece.assets))))
            outcome = execute(found, instance, part, stream.name)
            assert outcome.ok, outcome.failures
    assert not wanted & assets_due(stream, END)
    # Late decisions re-open their hour; an event's hour that was judged again makes its day due, and no other entity's.
    writer = Writer(open_landing(settings, "decisions"))
    writer.append(line(2), DAY + timedelta(seconds=2))
    writer.flush()
    writer.close()
    stream.close(END)
    assert wanted & assets_due(stream, END) == {"fraud/decisions"}
    write_ledger(warehouse, [23], landing="other")
    assert wanted & assets_due(stream, END) == {"fraud/decisions", "fraud/features_device"}
    # Once more: a day and an hour are replaced, never added to.
    assert load_features(warehouse, catalog, catalog.entities["device"], DAY, DAY + timedelta(days=1)) == 1
    landing = open_landing(settings, "decisions")
    assert load_landed(warehouse, LANDED_TABLES[0], landing, DAY, DAY + timedelta(hours=1)) == 3
    rows = warehouse.query(f"SELECT * FROM `{warehouse.table_id('fraud', 'features_device')}`").rows
    assert [(row["entity_key"], row["days_since_install"], row["users_24h"]) for row in rows] == [("d1", 1, 0)]
    rows = warehouse.query(
        f"SELECT request_id, level, rules FROM `{warehouse.table_id('fraud', 'decisions')}` ORDER BY request_id"
    ).rows
    assert [(row["request_id"], row["level"], row["rules"]) for row in rows] == [
        (f"r{n}", "hold", ["takeover"]) for n in (1, 2, 3)
    ]
    rates = {rate.rule: rate.odd for rate in rule_rates(warehouse, catalog, DAY) if rate.policy == "transfer"}
    assert rates["takeover"] == "always fires" and rates["burst"] == "never fires"


def test_closed_cases_become_labels(settings):
    """One row an event; a chargeback counts before a case; a case that is opened again takes its labels back."""
    warehouse = Warehouse(settings)
    stream = FraudStream(settings, load_catalog(SCHEMAS), warehouse)
    cases = stream.cases
    cases.store.grant("ed", "editor", by="root")
    numbers = {}
    for number, (source, event_id, key) in enumerate(
        [
            ("send", "e1", "u1"),
            ("send", "e2", "u1"),
            ("send", "e3", "u2"),
            ("shop.articles", "p1", "u2"),
            ("send", "e4", "u3"),
        ]
    ):
        alert = CaseAlert(f"a{number}", number, "p", source, event_id, "user", key, "hold", 5, {})
        numbers[key] = cases.take(alert)
    cases.change(numbers["u1"], {"status": "confirmed"}, version=1, by="ed")
    cases.change(numbers["u2"], {"status": "dismissed"}, version=1, by="ed")

    def told():
        rows = warehouse.query(f"SELECT * FROM `{warehouse.table_id('fraud', 'labels')}` ORDER BY event_id").rows
        return [(row["event_id"], row["fraud"], row["source"]) for row in rows]

    assert replace_labels(warehouse, cases.labels()) == 3
    assert told() == [("e1", True, "case"), ("e2", True, "case"), ("e3", False, "case")]
    table = f"`{warehouse.table_id('fraud', 'labels')}`"
    warehouse.query(f"DELETE FROM {table} WHERE event_id = 'e3'")
    warehouse.query(
        f"INSERT INTO {table} (event_id, fraud, known_at, source) VALUES ('e3', TRUE, CURRENT_TIMESTAMP(), 'chargeback')"
    )
    found = definitions(settings)
    with dg.instance_for_test() as instance:
        for expected in (3, 1):
            [piece] = [piece for piece in stream.due(END) if piece.assets == ("fraud/labels",)]
            outcome = execute(found, instance, piece, stream.name)
            assert outcome.ok, outcome.failures
            assert len(told()) == expected and ("e3", True, "chargeback") in told()
            assert "fraud/labels" not in assets_due(stream, END)
            if expected == 3:
                cases.change(numbers["u1"], {"status": "in_review"}, version=2, by="ed")


def test_alerts_and_what_was_judged_become_tables_and_a_check(settings):
    """Landed alerts and counts of an hour, once although a file came twice; a rule that never fires is told."""
    warehouse = Warehouse(settings)
    catalog = load_catalog(SCHEMAS)
    found = definitions(settings)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    at = now.isoformat().replace("+00:00", "Z")
    alert = {
        "alert_id": "a1",
        "alerted_at": at,
        "policy": "mule_network",
        "source": "send_transfer_pay",
        "source_id": "e1",
    }
    alert |= {"happened_at": at, "known_at": at, "entity": "user", "entity_key": "u1", "level": "hold", "score": 60}
    alert |= {
        "rules": ["new_member_fan_out"],
        "unknown": [],
        "policy_version": "d",
        "parameters_version": 1,
        "record": "{}",
    }
    count = {"judged_at": at, "writer": "w", "policy": "mule_network", "judged": 10}
    counts = [
        count | {"rule": "new_member_fan_out", "fired": 2, "undecided": 0},
        count | {"rule": "strangers_pay", "fired": 0, "undecided": 0},
        count | {"rule": "names_differ", "fired": 0, "undecided": 9},
        count | {"rule": "shared_device", "fired": 10, "undecided": 0},
    ]
    for stream_name, rows in (("alerts", [alert, alert]), ("judged", counts)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        open_landing(settings, stream_name).put(now, "w.ndjson", text.encode())
    stream = FraudStream(settings, catalog, warehouse)
    stream.close(now + timedelta(hours=1))
    pieces = [
        piece for piece in stream.due(now + timedelta(hours=1)) if piece.assets[0] in ("fraud/alerts", "fraud/judged")
    ]
    assert len(pieces) == 2
    with dg.instance_for_test() as instance:
        for piece in pieces:
            outcome = execute(found, instance, piece, stream.name)
            assert outcome.ok, outcome.failures
    [row] = warehouse.query(f"SELECT * FROM `{warehouse.table_id('fraud', 'alerts')}`").rows
    assert (row["alert_id"], row["entity_key"], row["rules"]) == ("a1", "u1", ["new_member_fan_out"])
    rates = {
        rate.rule: rate.odd for rate in stream_rule_rates(warehouse, catalog, now) if rate.policy == "mule_network"
    }
    assert rates == {
        "new_member_fan_out": "",
        "strangers_pay": "never fires",
        "names_differ": "mostly undecided",
        "shared_device": "always fires",
        "watched_receiver": "",
    }
    assert not [
        piece for piece in stream.due(now + timedelta(hours=1)) if piece.assets[0].startswith(("fraud/a", "fraud/j"))
    ]
