"""Random declarations over columns of every type: the SQL over a table as the warehouse has it, and the online state, agree.

A case is one moment at which all features of one declaration are asked for. Streams have ties in time, late facts, unknown values;
the state is closed and opened, and events come to it again.
"""

import itertools
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dataplatform.fraud.expression import print_expression
from dataplatform.fraud.fact_types import DeclaredFact
from dataplatform.fraud.features import UNITS, Feature, parse_entity
from dataplatform.fraud.history import history_statement, warehouse_source
from dataplatform.fraud.moments import Event, Moment
from dataplatform.fraud.online import OnlineFeatures, features_in_order
from dataplatform.fraud.staging import typed_row
from dataplatform.fraud.tree import And, Comparison, Constant, Not, Or
from dataplatform.warehouse.client import Warehouse

TYPES = {
    "whole": "INT64",
    "exact": "NUMERIC",
    "real": "FLOAT64",
    "text": "STRING",
    "flag": "BOOL",
    "at": "TIMESTAMP",
    "day": "DATE",
    "user_id": "STRING",
    "other_id": "STRING",
}
COLUMNS = {"send": {name: DeclaredFact(held) for name, held in TYPES.items()}}
VALUES = {
    "whole": [0, 1, -3, 7, 2**53 + 1, -(2**40)],
    "exact": [
        Decimal("0.1"),
        Decimal("99.99"),
        Decimal("-3"),
        Decimal("12345678901.123456789"),
        Decimal("0.000000001"),
    ],
    "real": [0.0, 0.1, 0.2, -2.5, 1e15, 5.5, 0.1234567895, 2.0000000005, 1e-10, 123456.7891234565, 1e300, float("nan")],
    "text": ["", "a", "b", "it's", "한국", "A"],
    "flag": [True, False],
    "at": [0, 1, 1_767_225_600_000_000, 1_767_225_600_000_001, -1],
    "day": ["2026-01-01", "1969-12-31", "2024-02-29"],
}
KEYS = ["a", "b", "c", "d"]
WINDOWS = ["1s", "1h", "90m", "24h", "3d", "30d"]
START = 1_767_225_600_000_000
HOUR, DAY = UNITS["hours"], UNITS["days"]
STAMP = pa.timestamp("us", tz="UTC")
ARROW = {
    "INT64": pa.int64(),
    "NUMERIC": pa.decimal128(38, 9),
    "FLOAT64": pa.float64(),
    "STRING": pa.string(),
    "BOOL": pa.bool_(),
}


@st.composite
def comparisons(draw):
    name = draw(st.sampled_from(sorted(VALUES)))
    operator = draw(st.sampled_from(["=", "!="] if name == "flag" else ["=", "!=", "<", "<=", ">", ">="]))
    value = draw(st.sampled_from([each for each in VALUES[name] if str(each) != "nan"]))
    if name == "at":
        value = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        value = float(value)
    return Comparison(name, operator, Constant(value))


FILTERS = st.one_of(
    comparisons(),
    comparisons().map(Not),
    st.lists(comparisons(), min_size=2, max_size=3).map(lambda each: And(tuple(each))),
    st.lists(comparisons(), min_size=2, max_size=3).map(lambda each: Or(tuple(each))),
)


@st.composite
def declarations(draw):
    """The text of an entity: every aggregation at least once, over random columns, filters and windows."""
    lines = ["entity: user", "key: user_id", "features:"]
    wanted = ["count", "count_distinct", "sum", "mean", "min", "max", "last", "time_since_first", "time_since_last"]
    wanted += draw(st.lists(st.sampled_from(wanted), max_size=6))
    numbers = []
    for place, aggregation in enumerate(wanted):
        parts = [f"name: f{place}", "event: send", f"aggregation: {aggregation}"]
        column = None
        if aggregation in ("sum", "mean"):
            column = draw(st.sampled_from(["whole", "exact", "real"]))
        elif aggregation not in ("count", "time_since_first", "time_since_last"):
            column = draw(st.sampled_from(sorted(VALUES)))
        if column is not None:
            parts.append(f"of: {column}")
        if aggregation in ("sum", "min", "max", "last"):
            held = TYPES[column]
            others = {"INT64": ["NUMERIC", "FLOAT64"], "NUMERIC": ["FLOAT64"]}.get(held, [])
            if held == "FLOAT64" and aggregation == "sum":
                others = ["NUMERIC"]
            parts.append(f"type: {draw(st.sampled_from([held, *others]))}")
        if aggregation.startswith("time_since"):
            unit = draw(st.sampled_from(sorted(UNITS)))
            parts += [f"unit: {unit}", f"type: {draw(st.sampled_from(['INT64', 'FLOAT64']))}"]
        window = "ever" if aggregation == "time_since_first" and draw(st.booleans()) else draw(st.sampled_from(WINDOWS))
        parts.append(f"window: {window}")
        if draw(st.booleans()):
            parts.append(f"by: {draw(st.sampled_from(['user_id', 'other_id']))}")
        if draw(st.integers(0, 2)) == 0:
            quoted = print_expression(draw(FILTERS)).replace("'", "''")
            parts.append(f"where: '{quoted}'")
        if aggregation in ("count", "sum", "mean"):
            numbers.append(f"f{place}")
            if draw(st.integers(0, 3)) == 0:
                parts.append(f"no_data: {draw(st.sampled_from(['0', 'unknown']))}")
        lines.append(f"  - {{{', '.join(parts)}}}")
    of, over = draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))
    lines.append(f"  - {{name: ratio, aggregation: ratio, of: {of}, over: {over}}}")
    return "\n".join(lines)


def stream(number, count, asked):
    """Events in the order in which they became known, and moments."""
    chance = random.Random(number)
    times = [START + chance.randrange(0, 40 * DAY) for _ in range(count // 4)]
    times += [START + chance.randrange(0, 30) * HOUR for _ in range(count // 4)]
    events = []
    for place in range(count):
        happened = chance.choice(times) + chance.choice([0, 0, 0, 1, -1, 1_000_000, HOUR])
        known = happened + chance.choice([0, 0, 0, 1, 60_000_000, 5 * HOUR, 3 * DAY])
        values = {name: chance.choice([*values, None]) for name, values in VALUES.items()}
        keys = {name: chance.choice([*KEYS, *KEYS, None]) for name in ("user_id", "other_id")}
        values = {name: value for name, value in (values | keys).items() if str(value) not in ("nan", "None")}
        events.append(Event("send", f"e{place}", happened, known, keys, values))
    events.sort(key=lambda each: each.known)
    instants = [each.happened for each in events] + [each.known for each in events] + times
    moments = [
        Moment(
            {},
            chance.choice([*KEYS, *KEYS, "nobody", None]),
            chance.choice(instants) + chance.choice([0, 0, 0, 1, -1, HOUR, DAY, 3 * DAY, 3 * DAY + 1, 1_000_000]),
        )
        for _ in range(asked)
    ]
    return events, moments


def clock_of(event):
    """What the device's clock said: nothing, or a time after the event was received, where it happened when it was received."""
    if event.happened < event.known:
        return event.happened
    return {0: None, 1: event.known + 40 * DAY, 2: event.known + 1}.get(sum(event.event_id.encode()) % 5, event.known)


def table_of(events, number):
    """The events as `events.send` holds them, NaN where a FLOAT64 is unknown in every other stream."""
    unknown = float("nan") if number % 2 else None
    columns = {
        "event_id": pa.array([each.event_id for each in events], pa.string()),
        "occurred_at": pa.array([clock_of(each) for each in events], pa.int64()).cast(STAMP),
        "received_at": pa.array([each.known for each in events], pa.int64()).cast(STAMP),
        "hour": pa.array([each.known // HOUR * HOUR for each in events], pa.int64()).cast(STAMP),
    }
    for name, held in TYPES.items():
        values = [each.values.get(name, unknown if held == "FLOAT64" else None) for each in events]
        if held == "TIMESTAMP":
            columns[name] = pa.array(values, pa.int64()).cast(STAMP)
        elif held == "DATE":
            columns[name] = pa.array([None if v is None else date.fromisoformat(v) for v in values], pa.date32())
        else:
            columns[name] = pa.array(values, ARROW[held])
    return pa.table(columns)


def by_sql(warehouse, entity, events, moments, number):
    """Features at the moments from a table of events, by the statement that assets and backtests use."""
    warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id('random')}`")
    places = pa.table(
        {
            "place": pa.array(range(len(moments)), pa.int64()),
            "entity_key": pa.array([each.key for each in moments], pa.string()),
            "moment": pa.array([each.time for each in moments], pa.int64()),
        }
    )
    warehouse.load_rows(table_of(events, number), "random", f"send_{number}")
    warehouse.load_rows(places, "random", f"moments_{number}")
    table, asked = (f"`{warehouse.table_id('random', f'{each}_{number}')}`" for each in ("send", "moments"))
    start, end = "TIMESTAMP '2026-01-01 00:00:00+00'", "TIMESTAMP '2026-12-31 00:00:00+00'"
    sources = {"send": warehouse_source(table, "send", entity, start, end)}
    rows = warehouse.query(f"{history_statement(entity, sources, asked)}\nORDER BY place").rows
    warehouse.query(f"DROP TABLE {table}")
    warehouse.query(f"DROP TABLE {asked}")
    return [typed_row(entity, row) for row in rows]


def online(entity, events, moments, path, number):
    """Features by the state, which is closed and opened again, sees events twice and remembers two keys."""
    chance = random.Random(number)
    state = OnlineFeatures(entity, path, max_entities=2)
    found = [{} for _ in moments]
    place = 0
    for index in sorted(range(len(moments)), key=lambda each: moments[each].time):
        until = place
        while until < len(events) and events[until].known <= moments[index].time:
            until += 1
        state.apply(events[place:until])
        if chance.random() < 0.05:
            state.close()
            state = OnlineFeatures(entity, path, max_entities=2)
        if chance.random() < 0.1:
            again = events[max(0, until - 10) : until]
            chance.shuffle(again)
            assert state.apply(again) == 0
        place = until
        found[index] = state.features(moments[index].key, moments[index].time)
    state.close()
    return found


def same(entity, moments, expected, found):
    for moment, one, other in zip(moments, expected, found, strict=True):
        for name, value in one.items():
            told = (entity.by_name[name], moment.key, moment.time, value, other[name])
            assert other[name] == value and (value is None) == (other[name] is None), told


def agree(warehouse, folder, seed_number, declarations_wanted, events_wanted, moments_wanted):
    """Compare random declarations over random streams; gives the number of moments compared."""
    compared = 0
    files = itertools.count()
    folder = folder / str(seed_number)
    folder.mkdir()

    @seed(seed_number)
    @settings(
        max_examples=declarations_wanted,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(declarations(), st.integers(0, 2**32))
    def compare(text, number):
        nonlocal compared
        entity = parse_entity(text, events=COLUMNS)
        events, moments = stream(number, events_wanted, moments_wanted)
        path = folder / f"{next(files)}.sqlite"
        remembered = online(entity, events, moments, path, number)
        same(entity, moments, features_in_order(entity, events, moments), remembered)
        same(entity, moments, by_sql(warehouse, entity, events, moments, number), remembered)
        compared += len(moments)

    compare()
    return compared


def test_history_agrees_with_online(bigquery, settings_for, tmp_path):
    assert agree(Warehouse(settings_for()), tmp_path, 20261124, 4, 120, 100) >= 400


@pytest.mark.long
def test_history_agrees_with_online_long(bigquery, settings_for, tmp_path):
    warehouse = Warehouse(settings_for())
    assert sum(agree(warehouse, tmp_path, each, 20, 150, 200) for each in (1, 2, 3)) >= 10_000


def test_columns_that_are_calculated_are_read_under_their_names(bigquery, settings_for, tmp_path):
    """FLOAT64, TIMESTAMP and DATE columns, which the statement reads by an expression, in every place of a declaration."""
    text = """\
entity: user
key: user_id
features:
  - {name: real_max, event: send, aggregation: max, of: real, type: FLOAT64, window: 30d, where: real > 0.1}
  - {name: real_sum, event: send, aggregation: sum, of: real, type: FLOAT64, window: 3d}
  - {name: real_mean, event: send, aggregation: mean, of: real, window: 3d}
  - {name: reals, event: send, aggregation: count_distinct, of: real, window: 3d}
  - {name: at_last, event: send, aggregation: last, of: at, type: TIMESTAMP, window: 30d}
  - {name: at_min, event: send, aggregation: min, of: at, type: TIMESTAMP, window: 3d, where: at > '1970-01-01T00:00:00Z'}
  - {name: day_max, event: send, aggregation: max, of: day, type: DATE, window: 30d, where: day > '1969-12-31'}
  - {name: days, event: send, aggregation: count_distinct, of: day, window: 3d, by: other_id}
"""
    entity = parse_entity(text, events=COLUMNS)
    assert {type(each) for each in entity.features} == {Feature}
    for number in (1, 2):
        events, moments = stream(number, 120, 60)
        expected = features_in_order(entity, events, moments)
        assert all(any(row[name] is not None for row in expected) for name in entity.by_name)
        same(entity, moments, by_sql(Warehouse(settings_for()), entity, events, moments, number), expected)
