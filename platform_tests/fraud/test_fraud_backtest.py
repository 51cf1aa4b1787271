"""A backtest in the warehouse decides every event as the online state and the compiled policy would have then."""

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from dataplatform.errors import PlatformError
from dataplatform.fraud.agreement import compare
from dataplatform.fraud.assets import backtests_asset
from dataplatform.fraud.backtest import Backtest, role_keys, run_backtest, used_features
from dataplatform.fraud.catalog import Catalog
from dataplatform.fraud.compiled import compile_policy, decision
from dataplatform.fraud.drift import FeatureSpan, drift, feature_spans
from dataplatform.fraud.dry_runs import DryRuns
from dataplatform.fraud.due import FraudStream
from dataplatform.fraud.fact_types import DeclaredFact
from dataplatform.fraud.features import parse_entity
from dataplatform.fraud.moments import Event, Moment
from dataplatform.fraud.online import features_in_order
from dataplatform.fraud.parameters import ParameterStore, database_url
from dataplatform.fraud.policies import parse_policy
from dataplatform.fraud.policy_sql import policy_statement, rule_bit, table_column
from dataplatform.fraud.report import html_page
from dataplatform.fraud.tables import features_table, load_features
from dataplatform.fraud.tree import LEVELS
from dataplatform.fraud.values import micros
from dataplatform.warehouse.client import Warehouse
from dataplatform.warehouse.tables import ensure

COLUMNS = {
    "send": {
        name: DeclaredFact(held)
        for name, held in {
            "amount": "NUMERIC",
            "receiver": "STRING",
            "method": "STRING",
            "promised": "TIMESTAMP",
            "due": "DATE",
            "risk": "FLOAT64",
            "user_id": "STRING",
            "device_id": "STRING",
        }.items()
    },
    "register": {"user_id": DeclaredFact("STRING"), "device_id": DeclaredFact("STRING")},
}
USER = """\
entity: user
key: user_id
features:
  - {name: age_days, event: register, aggregation: time_since_first, window: ever, type: INT64, unit: days}
  - {name: sent_24h, event: send, aggregation: count, window: 24h}
  - {name: receivers_7d, event: send, aggregation: count_distinct, of: receiver, window: 7d}
  - {name: amount_24h, event: send, aggregation: sum, of: amount, type: NUMERIC, window: 24h, no_data: 0}
  - {name: mean_30d, event: send, aggregation: mean, of: amount, window: 30d}
  - {name: to_mean, aggregation: ratio, of: amount_24h, over: mean_30d}
  - {name: promised, event: send, aggregation: last, of: promised, type: TIMESTAMP, window: 30d}
  - {name: due, event: send, aggregation: max, of: due, type: DATE, window: 30d}
  - {name: risk, event: send, aggregation: max, of: risk, type: FLOAT64, window: 30d}
"""
ACCOUNT = """\
entity: account
key: account_no
features:
  - {name: senders_24h, event: send, by: receiver, aggregation: count_distinct, of: user_id, window: 24h}
"""
POLICY = """\
policy: transfer
event: send
unknown: monitor
entities: {sender: user, to: account}
parameters:
  young: {type: INT64, unit: days, default: 5, min: 0, max: 100}
  large: {type: NUMERIC, default: 500, min: 0, max: 100000}
rules:
  - {name: young, when: sender.age_days < $young AND amount >= $large, score: 40, reason: r}
  - {name: many, when: sender.receivers_7d >= 3 OR to.senders_24h >= 3, score: 30, reason: r}
  - {name: unusual, when: sender.to_mean > 3, score: 30, reason: r}
  - {name: listed, when: to.id IN LIST watched AND method != 'card', level: block, reason: r}
  - {name: times, when: sender.promised < '2026-01-05T00:00:00Z' OR sender.due > '2026-01-10', score: 10, reason: r}
  - {name: own_times, when: promised >= '2026-01-05T00:00:00Z' AND due <= '2026-01-10' AND risk < 0.5, score: 5, reason: r}
  - {name: risky, when: sender.risk >= 0.75, score: 10, reason: r}
  - {name: never, when: sender.sent_24h > 1000, level: sanction, reason: r}
levels: {monitor: 30, hold: 60, block: 100}
"""
START = datetime(2026, 1, 10, tzinfo=UTC)


def catalog():
    entities = {"user": parse_entity(USER, events=COLUMNS), "account": parse_entity(ACCOUNT, events=COLUMNS)}
    declared = dict(COLUMNS["send"]) | entities["user"].facts("sender") | entities["account"].facts("to")
    return Catalog(COLUMNS, entities, {"transfer": parse_policy(POLICY, declared=declared)})


def stream(seed, count=250):
    chance = random.Random(seed)
    events = []
    for number in range(count):
        at = micros("2026-01-01T00:00:00Z") + chance.randrange(0, 20 * 86_400) * 1_000_000
        known = at + chance.choice([0, 0, 1_000_000, 3_600_000_000, 86_400_000_000])
        kind = "register" if number < 5 else "send"
        user = f"u{number}" if number < 5 else f"u{chance.randrange(7)}"
        values = {"user_id": user, "device_id": "d"}
        if kind == "send":
            values |= {
                "amount": Decimal(chance.choice([10, 100, 499, 500, 2000])) / 4,
                "receiver": f"acc{chance.randrange(4)}",
                "method": chance.choice(["card", "balance", None]),
                "promised": chance.choice([None, at + 86_400_000_000]),
                "due": chance.choice([None, "2026-01-09", "2026-01-11"]),
                "risk": chance.choice([None, 0.1, 0.25, 0.75]),
            }
        keys = {"user_id": user, "receiver": values.get("receiver")}
        events.append(Event(kind, f"e{number}", at, known, keys, values))
    return sorted(events, key=lambda each: each.known)


def load(warehouse, events):
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('events')}`")
    for kind, columns in COLUMNS.items():
        rows = [each for each in events if each.event == kind]
        stamp = pa.timestamp("us", tz="UTC")
        table = {
            "event_id": pa.array([each.event_id for each in rows], pa.string()),
            "occurred_at": pa.array([each.happened for each in rows], pa.int64()).cast(stamp),
            "received_at": pa.array([each.known for each in rows], pa.int64()).cast(stamp),
            "hour": pa.array([each.known // 3_600_000_000 * 3_600_000_000 for each in rows], pa.int64()).cast(stamp),
        }
        for name, fact in columns.items():
            values = [each.values.get(name) for each in rows]
            if fact.type == "TIMESTAMP":
                table[name] = pa.array(values, pa.int64()).cast(stamp)
            elif fact.type == "DATE":
                table[name] = pa.array([value and date.fromisoformat(value) for value in values], pa.date32())
            else:
                kinds = {"NUMERIC": pa.decimal128(38, 9), "FLOAT64": pa.float64()}
                table[name] = pa.array(values, kinds.get(fact.type, pa.string()))
        warehouse.load_rows(pa.table(table), "events", kind)


def expected(found, events, asked):
    """Decision by event id, by the online state and the compiled policy at the moment of each event."""
    typed = asked.typed
    sent = [
        each
        for each in events
        if each.event == "send" and asked.start.timestamp() * 1e6 <= each.happened < asked.end.timestamp() * 1e6
    ]
    facts = [{name: value for name, value in each.values.items() if name in typed.types} for each in sent]
    for role, entity in found.roles(typed.policy).items():
        wanted = used_features(typed, role, entity)
        key = role_keys(typed, found)[role]
        moments = [Moment({}, each.values.get(key), each.happened) for each in sent]
        for row, values, moment in zip(facts, features_in_order(wanted, events, moments), moments, strict=True):
            row |= {f"{role}.{name}": value for name, value in values.items()} | {f"{role}.id": moment.key}
    decided = {}
    for name, values in (("live", asked.live), ("tried", asked.tried)):
        decide = compile_policy(typed, values, asked.lists)
        decided[name] = {each.event_id: decision(decide(row)) for each, row in zip(sent, facts, strict=True)}
    return decided


@pytest.fixture
def warehouse(settings_for):
    return Warehouse(settings_for())


def test_history_is_decided_as_then(settings_for):
    settings = settings_for()
    warehouse = Warehouse(settings)
    found = catalog()
    typed = found.policies["transfer"]
    events = stream(3)
    load(warehouse, events)
    live = typed.policy.defaults()
    lists = {"watched": frozenset({"acc1", *(f"else{number}" for number in range(300))})}  # too long for a statement
    asked = Backtest(typed, live, live | {"young": 12, "large": Decimal(100)}, lists, START, START + timedelta(days=12))
    decided = expected(found, events, asked)
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('fraud')}`")
    labels = pa.table(
        {
            "event_id": list(decided["tried"]),
            "fraud": [number % 3 == 0 for number in range(len(decided["tried"]))],
            "known_at": pa.array([START] * len(decided["tried"]), pa.timestamp("us", tz="UTC")),
        }
    )
    # A report that was taken back later: what was known last counts, once.
    taken_back = labels.slice(0, 1).set_column(1, "fraud", [[not labels["fraud"][0].as_py()]])
    earlier = pa.array([START - timedelta(hours=1)], pa.timestamp("us", tz="UTC"))
    labels = pa.concat_tables([labels, taken_back.set_column(2, "known_at", earlier)])
    warehouse.load_rows(labels, "fraud", "labels")
    report = run_backtest(warehouse, found, asked)
    assert report["decisions"] == len(decided["live"]) > 100
    moves = {}
    for event_id, one in decided["live"].items():
        pair = (one.level, decided["tried"][event_id].level)
        moves[pair] = moves.get(pair, 0) + 1
    assert {(row["live"], row["tried"]): row["decisions"] for row in report["moves"]} == moves
    for row in report["rules"]:
        for side in ("live", "tried"):
            assert row[side] == sum(row["rule"] in each.rules for each in decided[side].values())
        assert row["unknown"] == sum(row["rule"] in each.unknown for each in decided["tried"].values())
    assert report["changed"]["decisions"] == sum(n for (one, other), n in moves.items() if one != other) > 0
    assert [row["rule"] for row in report["rules"] if row["never"]] == ["never"]
    stopping = {"hold", "block", "sanction"}
    caught = [n % 3 == 0 for n, each in enumerate(decided["tried"].values()) if each.level in stopping]
    assert report["labels"]["tried"]["precision"] == sum(caught) / len(caught)
    assert report["labels"]["labelled"] == len(decided["tried"]) and report["labels"]["unsettled"] == 0
    assert len(report["examples"]) == min(20, report["changed"]["decisions"])
    page = html_page(report)
    # The same question as a job in the graph.
    asset = backtests_asset(FraudStream(settings, found, warehouse), {})
    question = {
        "policy": "transfer",
        "start": "2026-01-10",
        "end": "2026-01-22",
        "changes": {"young": "12", "large": "100"},
    }
    with dg.instance_for_test() as instance:
        run = dg.materialize([asset], instance=instance, run_config={"ops": {"fraud__backtests": {"config": question}}})
        told = run.asset_materializations_for_node("fraud__backtests")[0].metadata
    assert told["decisions"].value == report["decisions"]
    kept = DryRuns(ParameterStore(database_url(settings.fraud_database, settings.data_dir), found.policies))
    state = kept.state("transfer", told["id"].value)
    assert state["status"] == "done" and state["report"]["decisions"] == report["decisions"]
    assert "Backtest of transfer" in Path(told["report"].value).read_text()
    assert "<svg" in page and "Backtest of transfer" in page and "precision" in page
    assert not list(warehouse.tables("fraud_staging"))


def test_rules_beyond_one_word_of_bits(warehouse):
    """130 rules, some undecided: every rule's bit is where `rule_bit` says."""
    head = ["policy: many", "event: send", "unknown: hold", "levels: {monitor: 10, block: 300}", "rules:"]
    when = "n.a >= {n} OR (n.b = {n} AND t.a = ''x'')"
    lines = [*head, *(f"  - {{name: r{n}, when: '{when.format(n=n)}', score: {n % 7}}}" for n in range(130))]
    declared = {"n.a": DeclaredFact("INT64"), "n.b": DeclaredFact("INT64"), "t.a": DeclaredFact("STRING")}
    typed = parse_policy("\n".join(lines), declared=declared)
    chance = random.Random(4)
    rows = [
        {
            "n.a": chance.choice([None, chance.randrange(130)]),
            "n.b": chance.randrange(130),
            "t.a": chance.choice([None, "x"]),
        }
        for _ in range(60)
    ]
    table = pa.table({"id": pa.array(range(60), pa.int64())} | {n[0] + n[2]: [r[n] for r in rows] for n in declared})
    warehouse.query(f"CREATE SCHEMA `{warehouse.dataset_id('bits')}`")
    warehouse.load_rows(table, "bits", "facts")
    columns = {name: table_column(fact.type, name[0] + name[2]) for name, fact in declared.items()}
    name = f"`{warehouse.table_id('bits', 'facts')}`"
    statement = policy_statement(typed, {}, {}, columns, name, as_arrays=False)
    decide = compile_policy(typed, {}, {})
    for row in warehouse.query(f"{statement}\nORDER BY id").rows:
        expected = decision(decide(rows[row["id"]]))
        for column, wanted in (("fired", expected.rules), ("unknown", expected.unknown)):
            places = [rule_bit(n, column) for n in range(130)]
            assert [f"r{n}" for n, (word, bit) in enumerate(places) if row[word] & bit] == list(wanted)
        assert (LEVELS[row["level"]], row["score"]) == (expected.level, expected.score)


def test_a_day_of_features_of_every_type(warehouse):
    """The table of features holds TIMESTAMP and DATE features as such."""
    found = catalog()
    events = stream(4, 60)
    load(warehouse, events)
    entity = found.entities["user"]
    ensure(warehouse, [features_table(entity)])
    start = datetime(2026, 1, 15, tzinfo=UTC)
    count = load_features(warehouse, found, entity, start, start + timedelta(days=1))
    rows = warehouse.query(f"SELECT * FROM `{warehouse.table_id('fraud', 'features_user')}` ORDER BY entity_key").rows
    moment = int((start + timedelta(days=1)).timestamp() * 1e6)
    asked = [Moment({}, row["entity_key"], moment) for row in rows]
    expected = features_in_order(entity, [each for each in events if each.known < moment], asked)
    assert len(rows) == count > 0
    for row, one in zip(rows, expected, strict=True):
        told = {name: micros(v.isoformat()) if name == "promised" and (v := row[name]) else row[name] for name in one}
        assert told | {"due": row["due"] and row["due"].isoformat()} == one
    # The check says the same of the warehouse's own events, and finds a value that is another.
    assert compare(warehouse, entity, start) == (len(rows) * len(entity.features), [])
    key = rows[0]["entity_key"]
    table = f"`{warehouse.table_id('fraud', 'features_user')}`"
    warehouse.query(f"UPDATE {table} SET sent_24h = sent_24h + 1, due = NULL WHERE entity_key = '{key}'")
    _, differences = compare(warehouse, entity, start)
    wrong = {(each.entity_key, each.feature) for each in differences}
    assert (key, "sent_24h") in wrong and wrong <= {(key, "sent_24h"), (key, "due")}
    # Drift is of the latest whole day beside the days before it.
    assert feature_spans(warehouse, entity, start + timedelta(days=1)) == {}
    before = load_features(warehouse, found, entity, start - timedelta(days=1), start)
    spans = feature_spans(warehouse, entity, start + timedelta(days=1))
    assert spans.keys() == entity.by_name.keys()
    assert (spans["sent_24h"][0].rows, spans["sent_24h"][1].rows) == (before, count)
    known = [row["sent_24h"] + (row["entity_key"] == key) for row in rows]
    assert spans["sent_24h"][1] == FeatureSpan(count, 0.0, pytest.approx(sum(known) / count))
    assert spans["due"][1].mean is None and spans["due"][1].unknown > 0


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (FeatureSpan(1000, 0.1, 5.0), FeatureSpan(1000, 0.15, 6.0), ""),
        (FeatureSpan(1000, 0.1, 5.0), FeatureSpan(1000, 0.5, 5.0), "unknown in 50% instead of 10%"),
        (FeatureSpan(1000, 0.1, 5.0), FeatureSpan(1000, 0.1, 20.0), "mean 20 instead of 5"),
        (FeatureSpan(1000, 0.1, 5.0), FeatureSpan(1000, 0.1, 1.0), "mean 1 instead of 5"),
        (FeatureSpan(1000, 0.1, None), FeatureSpan(1000, 0.1, None), ""),
        (FeatureSpan(1000, 0.1, 0.0), FeatureSpan(1000, 0.1, 4.0), ""),
        (FeatureSpan(50, 0.1, 5.0), FeatureSpan(1000, 0.9, 50.0), ""),
    ],
)
def test_drift(before, now, said):
    assert drift(before, now) == said


def test_an_event_that_never_came(warehouse):
    found = catalog()
    typed = found.policies["transfer"]
    live = typed.policy.defaults()
    asked = Backtest(typed, live, live, {"watched": frozenset()}, START, START + timedelta(days=1))
    with pytest.raises(PlatformError, match="no table"):
        run_backtest(warehouse, found, asked)
