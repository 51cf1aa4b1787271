"""Features: SQL over history, the online state and a naive calculation give the same, on the traps by name and at random."""

import json
import random
import shutil
import time
import uuid
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from dataplatform.contracts.errors import ContractError
from dataplatform.errors import PlatformError
from dataplatform.fraud.commands import fraud
from dataplatform.fraud.fact_types import DeclaredFact
from dataplatform.fraud.features import UNITS, load_entity, parse_entity
from dataplatform.fraud.moments import Event, Moment, read_events, read_moments
from dataplatform.fraud.online import OnlineFeatures, features_in_order
from dataplatform.fraud.redis_store import RedisStore
from dataplatform.fraud.staging import features_by_sql
from dataplatform.fraud.values import micros, time_text
from dataplatform.warehouse.client import Warehouse

FILE = Path(__file__).parent / "cases" / "features_user.yaml"
ENTITY = load_entity(FILE)
START = micros("2026-01-10T00:00:00Z")
STORES = ["sqlite", *(["redis"] if shutil.which("redis-server") else [])]
"""What the online state is tested on; the summary of the tests says where Redis could not be."""
HOUR = UNITS["hours"]
DAY = UNITS["days"]


@pytest.fixture(params=STORES)
def new_store(request, tmp_path):
    """A function that opens the same store again and again, as processes do."""
    if request.param == "sqlite":
        return lambda: tmp_path / "state.sqlite"
    server = request.getfixturevalue("redis_server")
    name = uuid.uuid4().hex
    return lambda: RedisStore(server.url, name)


def naive(entity, events, moments):
    """Every feature from its definition, one moment after the other, by plain loops."""
    return [naive_one(entity, events, moment) for moment in moments]


def naive_one(entity, events, moment):
    found = {}
    for f in entity.features:
        if f.aggregation == "ratio":
            of, over = found[f.of], found[f.over]
            bad = moment.key is None
            found[f.name] = None if bad else f.no_data if of is None or not over else float(of) / float(over)
            continue
        if moment.key is None:
            found[f.name] = None
            continue
        matches = entity.filter_of(f)
        seen = []
        for e in events:
            if e.event != f.event or e.keys.get(f.by) != moment.key or e.known > moment.time:
                continue
            if not (e.happened < moment.time and (f.window is None or e.happened >= moment.time - f.window)):
                continue
            if matches is not None and not naive_where(f.where, e.values):
                continue
            if f.of and e.values.get(f.of) is None:
                continue
            seen.append(e)
        seen.sort(key=lambda e: (e.happened, e.known, e.event_id))
        if f.aggregation in ("sum", "mean"):
            seen = [e for e in seen if abs(e.values[f.of]) < (10**13 if f.of == "fee" else 10**19)]
        value = naive_value(entity, f, seen, moment) if seen else None
        found[f.name] = f.no_data if value is None else value
    return found


def naive_where(expression, values):
    from dataplatform.fraud.tree import And, Not

    def walk(e):
        if isinstance(e, Not):
            inner = walk(e.operand)
            return None if inner is None else not inner
        if isinstance(e, And):
            outcomes = [walk(each) for each in e.operands]
            return False if False in outcomes else None if None in outcomes else True
        value = values.get(e.fact)
        if value is None:
            return None
        bound = e.operand.value
        bound = Decimal(str(bound)) if isinstance(value, Decimal) else bound
        return {
            "=": value == bound,
            "<": e.operator == "<" and value < bound,
            ">": e.operator == ">" and value > bound,
        }[e.operator]

    return walk(expression) is True


def exact_sum(values):
    with localcontext(prec=60):
        return sum(values)


def naive_value(entity, f, seen, moment):
    values = [e.values[f.of] for e in seen] if f.of else []
    match f.aggregation:
        case "count":
            return len(seen)
        case "count_distinct":
            return len(set(values))
        case "sum":
            total = exact_sum(values)
            if f.type == "INT64" and not -(2**63) <= total < 2**63:
                return None
            return float(total) if f.type == "FLOAT64" else total
        case "mean":
            return float(exact_sum(values)) / len(values)
        case "min" | "max":
            value = min(values) if f.aggregation == "min" else max(values)
            return float(value) if f.type == "FLOAT64" else value
        case "last":
            return values[-1]
        case "time_since_first" | "time_since_last":
            at = seen[0].happened if f.aggregation == "time_since_first" else seen[-1].happened
            span = moment.time - at
            return span // UNITS[f.unit] if f.type == "INT64" else span / UNITS[f.unit]


AMOUNTS = [
    *["100", "99.99", "0.01", "1234567.89", "12345678901.123456789"] * 3,
    *("90000000000000000000000000000", "9999999999999999000", "10000000000000000000", "-1e28"),
]
"""Some are so large that a sum of two would be none."""


def random_stream(seed, count=120, moments=60):
    """Events with ties, late ones, repetitions and unknown values, in the order in which they became known; and moments."""
    chance = random.Random(seed)
    times = [START + chance.randrange(0, 20 * DAY) for _ in range(count // 3)]
    times += [START + chance.randrange(0, 300) * HOUR // 10 for _ in range(count // 3)]
    users = ["a", "b", "c"]
    events = []
    for number in range(count):
        happened = chance.choice(times) + chance.choice([0, 0, 0, 1, -1, HOUR, DAY])
        late = chance.choice([0, 0, 0, 1, 60_000_000, 5 * HOUR, 3 * DAY, -1])
        kind = chance.choice(["send"] * 6 + ["refund", "register"])
        values = {}
        if kind == "send":
            values = {
                "amount": Decimal(chance.choice(AMOUNTS)),
                "method": chance.choice(["card", "balance", None]),
                "receiver": chance.choice([*users, "d", "e", None]),
                "fee": chance.choice([0, 5, -3, None] * 3 + [2**63 - 1, -(2**63), 10**13, 10**13 - 1]),
                "is_first": chance.choice([True, False, None]),
                "user_id": None,
            }
        elif kind == "refund":
            values = {"amount": Decimal(chance.choice(["0.5", "0.51", "7"]))}
        user = chance.choice([*users, None])
        if kind == "send":
            values["user_id"] = user
        keys = {"user_id": user, "receiver": values.get("receiver")}
        events.append(
            Event(
                kind, f"e{number}", happened, happened + late, keys, {k: v for k, v in values.items() if v is not None}
            )
        )
    events.sort(key=lambda e: e.known)
    instants = [e.happened for e in events] + [e.known for e in events] + times
    asked = []
    for _ in range(moments):
        time = chance.choice(instants) + chance.choice([0, 0, 1, -1, HOUR, 24 * HOUR, 24 * HOUR + 1, 7 * DAY])
        asked.append(Moment({}, chance.choice([*users, "d", None]), time))
    return events, asked


def same(expected, found):
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        for name, value in one.items():
            assert other[name] == value and (value is None) == (other[name] is None), (index, name, value, other[name])


@pytest.mark.parametrize("seed", range(12))
def test_online_is_the_definition(seed):
    events, moments = random_stream(seed)
    same(naive(ENTITY, events, moments), features_in_order(ENTITY, events, moments))


@pytest.mark.parametrize("seed", range(100, 102))
def test_sql_is_the_definition(seed, bigquery, settings_for):
    events, moments = random_stream(seed, 300, 200)
    same(naive(ENTITY, events, moments), features_by_sql(Warehouse(settings_for()), ENTITY, events, moments))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1_000, 1_020))
def test_all_three_agree_long(seed, bigquery, settings_for):
    events, moments = random_stream(seed, 900, 500)
    expected = naive(ENTITY, events, moments)
    same(expected, features_in_order(ENTITY, events, moments))
    same(expected, features_by_sql(Warehouse(settings_for()), ENTITY, events, moments))


@pytest.mark.parametrize("seed", range(8))
def test_restarts_replays_and_little_memory_change_nothing(seed, new_store):
    """The state is closed and opened between batches, batches are applied twice, and memory holds two entities."""
    events, moments = random_stream(seed)
    chance = random.Random(seed)
    expected = naive(ENTITY, events, moments)
    state = OnlineFeatures(ENTITY, new_store(), max_entities=2)
    place = 0
    for index in sorted(range(len(moments)), key=lambda each: moments[each].time):
        until = place
        while until < len(events) and events[until].known <= moments[index].time:
            until += 1
        batch = events[place:until]
        state.apply(batch)
        if chance.random() < 0.3:
            state.close()
            state = OnlineFeatures(ENTITY, new_store(), max_entities=2)
        if chance.random() < 0.3:
            again = events[max(0, place - 10) : until]
            chance.shuffle(again)
            assert state.apply(again) == 0
        place = until
        same([expected[index]], [state.features(moments[index].key, moments[index].time)])


def test_two_processes_see_the_same(new_store):
    events, _ = random_stream(5)
    writer = OnlineFeatures(ENTITY, new_store())
    reader = OnlineFeatures(ENTITY, new_store())
    for start in range(0, len(events), 10):
        writer.apply(events[start : start + 10])
        now = max(each.known for each in events[: start + 10]) + 1
        for user in ("a", "b", "c"):
            assert reader.features(user, now) == writer.features(user, now)


def test_a_definition_changed_at_noon_starts_from_nothing(new_store):
    events, _ = random_stream(5)
    OnlineFeatures(ENTITY, new_store()).apply(events)
    changed = parse_entity(FILE.read_text().replace("window: 1h", "window: 2h"))
    state = OnlineFeatures(changed, new_store())
    assert state.features("a", events[-1].known + 1)["account_age_days"] is None
    state.apply(events)
    moment = Moment({}, "a", max(each.known for each in events) + 1)
    same(naive(changed, events, [moment]), [state.features("a", moment.time)])


def test_who_only_reads_is_told_while_a_state_is_built_and_changes_nothing(new_store):
    """A missing event is none only when all of history is there; a reader of other features never touches the state."""
    events, _ = random_stream(5)
    changed = parse_entity(FILE.read_text().replace("window: 1h", "window: 2h"))
    now = max(each.known for each in events) + 1
    with pytest.raises(LookupError):
        OnlineFeatures(ENTITY, new_store(), reading=True)
    writer = OnlineFeatures(ENTITY, new_store())
    reader = OnlineFeatures(ENTITY, new_store(), reading=True)
    writer.apply(events[:100])
    with pytest.raises(LookupError, match="being built"):
        reader.features("a", now)
    writer.apply(events[100:])
    writer.mark_built()
    assert reader.features("a", now) == writer.features("a", now)
    with pytest.raises(LookupError):
        OnlineFeatures(changed, new_store(), reading=True)
    assert reader.features("b", now) == writer.features("b", now)
    # At noon another definition is deployed: the old reader stops, instead of reading what is not its own.
    again = OnlineFeatures(changed, new_store())
    again.apply(events)
    again.mark_built()
    if not isinstance(new_store(), RedisStore):
        for _ in range(2):
            with pytest.raises(LookupError):
                reader.features("c", now)
    assert OnlineFeatures(changed, new_store(), reading=True).features("a", now) == again.features("a", now)


def test_the_state_forgets_what_no_window_sees(new_store, monkeypatch):
    """Bounded in the store and in memory: what no window sees goes, and so do entities that were not used lately."""
    from dataplatform.fraud import online

    monkeypatch.setattr(online, "FORGET_EVERY", 50)
    state = OnlineFeatures(ENTITY, new_store(), max_entities=3)
    for day in range(200):
        at = START + day * DAY
        sent = [Event("send", f"{day}.{n}", at + n, at + n, {"user_id": "a"}, {"amount": Decimal(1)}) for n in range(5)]
        state.apply([*sent, Event("send", f"{day}.b", at + 9, at + 9, {"user_id": f"b{day}"}, {"amount": Decimal(1)})])
        state.features("a", at + 10)
        state.features(f"b{day}", at + 10)
    kept, seen = held_rows(state._store)
    assert 0 < kept < 300 and 0 < seen < 300
    assert all(len(stream.cache) <= 3 and len(stream.first_cache) <= 3 for stream in state._streams)
    assert all(
        len(each.order) < 400 for stream in state._streams for series in stream.cache.values() for each in series
    )
    assert state.features("a", START + 200 * DAY)["sent_24h"] == 5


def held_rows(store):
    """(events, ids) that a store holds."""
    if isinstance(store, RedisStore):
        names = store._client.keys(f"{store._prefix}kept:*")
        return sum(map(store._client.zcard, names)) - 200, store._client.zcard(store._key("seen"))
    ask = store._database.execute
    return ask("SELECT count(*) FROM kept").fetchone()[0], ask("SELECT count(*) FROM seen").fetchone()[0]


def test_a_batch_is_in_the_state_whole_or_not_at_all(new_store):
    events, _ = random_stream(6)
    now = max(each.known for each in events) + 1
    writer = OnlineFeatures(ENTITY, new_store())
    writer.apply(events[:50])
    before = [writer.features(user, now) for user in ("a", "b", "c")]
    with pytest.raises(RuntimeError, match="dies"), writer.taking() as take:
        for event in events[50:]:
            take(event)
        assert [writer.features(user, now) for user in ("a", "b", "c")] != before  # it sees its own
        assert [OnlineFeatures(ENTITY, new_store()).features(user, now) for user in ("a", "b", "c")] == before
        raise RuntimeError("dies")
    assert [writer.features(user, now) for user in ("a", "b", "c")] == before
    assert writer.apply(events) == len(events) - 50


if "redis" in STORES:

    def test_redis_killed_and_restarted_has_everything(redis_server):
        events, _ = random_stream(7)
        now = max(each.known for each in events) + 1
        state = OnlineFeatures(ENTITY, RedisStore(redis_server.url, "killed"))
        state.apply(events)
        expected = [state.features(user, now) for user in ("a", "b", "c")]
        redis_server.kill()
        reader = RedisStore(redis_server.url, "killed", timeout_seconds=0.05)
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(redis.RedisError):
                OnlineFeatures(ENTITY, reader)
        assert time.monotonic() - began < 1  # nobody waits for a server that is down
        redis_server.start()
        again = OnlineFeatures(ENTITY, RedisStore(redis_server.url, "killed"))
        assert [again.features(user, now) for user in ("a", "b", "c")] == expected
        assert again.apply(events) == 0

    def test_of_two_writers_on_redis_one_is_told(redis_server):
        events, _ = random_stream(8)
        first, second = (OnlineFeatures(ENTITY, RedisStore(redis_server.url, "two")) for _ in range(2))
        with pytest.raises(PlatformError, match="one stream process"), first.taking() as take:
            take(events[0])
            second.apply(events[:2])
        assert first.apply(events[:3]) == 1

    def test_an_emptied_redis_is_another_state(redis_server):
        state = OnlineFeatures(ENTITY, RedisStore(redis_server.url, "emptied"))
        before = state.identity
        state._store._client.flushdb()
        assert state.identity != before
        events, _ = random_stream(9)
        assert state.apply(events) == len(events)
        assert state.identity not in ("", before)


def one(events, key, time):
    [found] = features_in_order(ENTITY, sorted(events, key=lambda e: e.known), [Moment({}, key, time)])
    same(naive(ENTITY, events, [Moment({}, key, time)]), [found])
    return found


def send(identity, happened, known=None, user="a", **values):
    return Event(
        "send",
        identity,
        happened,
        happened if known is None else known,
        {"user_id": user, "receiver": values.get("receiver")},
        values,
    )


def test_two_at_the_same_microsecond_do_not_see_each_other():
    assert one([send("1", START), send("2", START)], "a", START)["sent_1h"] == 0
    assert one([send("1", START), send("2", START)], "a", START + 1)["sent_1h"] == 2


def test_the_window_begins_where_it_says():
    assert one([send("1", START)], "a", START + HOUR)["sent_1h"] == 1
    assert one([send("1", START)], "a", START + HOUR + 1)["sent_1h"] == 0


def test_a_late_event_is_not_seen_before_it_was_known():
    late = send("1", START, START + 2 * HOUR)
    assert one([late], "a", START + 2 * HOUR - 1)["sent_24h"] is None
    assert one([late], "a", START + 2 * HOUR)["sent_24h"] == 1


def test_no_history_is_unknown_and_counts_are_zero():
    found = one([], "nobody", START)
    assert found["sent_1h"] == 0 and found["amount_24h"] == 0
    assert (
        found["amount_mean_30d"] is None and found["amount_to_own_mean"] is None and found["account_age_days"] is None
    )
    assert set(one([], None, START).values()) == {None}


def test_a_ratio_to_the_own_mean():
    found = one(
        [send("1", START, amount=Decimal(100)), send("2", START + DAY, amount=Decimal(300))], "a", START + DAY + 1
    )
    assert found["amount_to_own_mean"] == 300 / 200


def test_a_refund_is_counted_by_itself():
    refund = Event("refund", "r", START, START, {"user_id": "a"}, {"amount": Decimal("0.4")})
    found = one([refund, send("1", START)], "a", START + 1)
    assert (found["refunds_7d"], found["refunded_7d"], found["refunds_to_sent"]) == (1, None, 1.0)


MONEY = parse_entity("""
entity: user
key: user_id
features:
  - {name: won_24h, event: send, aggregation: sum, of: amount, type: NUMERIC, window: 24h, where: currency = 'KRW'}
  - {name: kept_24h, event: send, aggregation: sum, of: amount, type: NUMERIC, window: 24h, where: NOT status = 'cancelled'}
  - {name: kept_to_won, aggregation: ratio, of: kept_24h, over: won_24h}
""")


def money(*events):
    moment = Moment({}, "a", START + HOUR)
    [found] = features_in_order(MONEY, list(events), [moment])
    same(naive(MONEY, list(events), [moment]), [found])
    return found


def test_another_currency_and_a_missing_one_are_not_added_up():
    sums = [("KRW", 5), ("JPY", 700), (None, 90)]
    events = [send(str(n), START, amount=Decimal(n), currency=each, status="sent") for each, n in sums]
    assert money(*events)["won_24h"] == 5


def test_a_cancelled_transfer_is_left_out_and_one_of_unknown_state_as_well():
    states = [("sent", 5), ("cancelled", 700), (None, 90)]
    events = [send(str(n), START, amount=Decimal(n), currency="KRW", status=each) for each, n in states]
    assert money(*events)["kept_24h"] == 5


def test_what_divides_by_zero_has_no_data():
    nothing = send("1", START, amount=Decimal(0), currency="KRW", status="sent")
    assert money(nothing) == {"won_24h": 0, "kept_24h": 0, "kept_to_won": None}


def test_the_first_known_of_one_id_counts(tmp_path):
    rows = [
        {
            "event": "send",
            "event_id": "x",
            "event_time": "2026-01-10T00:00:00Z",
            "known_at": "2026-01-10T00:00:05Z",
            "user_id": "a",
            "amount": 5,
        },
        {
            "event": "send",
            "event_id": "x",
            "event_time": "2026-01-10T00:00:00Z",
            "known_at": "2026-01-10T00:00:01Z",
            "user_id": "a",
            "params": {"amount": 7},
        },
        {"event": "view", "event_time": "whatever"},
    ]
    (tmp_path / "data.ndjson").write_text("\n".join(map(json.dumps, rows)))
    [event] = read_events(tmp_path / "data.ndjson", ENTITY)
    assert event.values == {"amount": 7, "user_id": "a"}
    assert event.known == START + 1_000_000


@pytest.mark.parametrize(
    ("row", "pointer", "code"),
    [
        ({"event": "send", "user_id": "a"}, "/event_time", "missing"),
        ({"event": "send", "event_time": "yesterday"}, "/event_time", "wrong_type"),
        ({"event": "send", "event_time": "2026-01-10T00:00:00"}, "/event_time", "wrong_type"),
        (
            {"event": "send", "event_time": "2026-01-10T00:00:00Z", "params": {"amount": "5"}},
            "/params/amount",
            "wrong_type",
        ),
        ({"event": "send", "event_time": "2026-01-10T00:00:00Z", "user_id": ["a"]}, "/user_id", "wrong_type"),
        ({"event": 5}, "/event", "missing"),
    ],
)
def test_bad_data_is_refused_with_its_place(tmp_path, row, pointer, code):
    (tmp_path / "data.ndjson").write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(ContractError) as error:
        read_events(tmp_path / "data.ndjson", ENTITY)
    assert (error.value.problems[0].line, error.value.problems[0].path, error.value.problems[0].code) == (
        2,
        pointer,
        code,
    )


def test_bad_moments_are_refused_with_their_place(tmp_path):
    (tmp_path / "at.jsonl").write_text(
        '{"user_id": "a", "time": "2026-01-10T00:00:00Z"}\n{"user_id": 1.5, "time": "x"}\n'
    )
    with pytest.raises(ContractError) as error:
        read_moments(tmp_path / "at.jsonl", ENTITY)
    assert {(p.line, p.path) for p in error.value.problems} == {(2, "/time"), (2, "/user_id")}


BAD = """\
entity: user
key: user_id
features:
  - {name: a, event: send, aggregation: count, window: 24 hours}
  - {name: b, event: send, aggregation: summ, of: amount, window: 24h, type: INT64}
  - {name: c, event: send, aggregation: sum, window: 24h, type: INT64}
  - {name: d, event: send, aggregation: count, window: ever}
  - {name: e, aggregation: ratio, of: a, over: nothing}
  - {name: f, event: send, aggregation: time_since_last, window: 1d, type: INT64}
  - {name: g, event: send, aggregation: count, window: 1d, where: amount <}
  - {name: h, event: send, aggregation: count, window: 1d, where: amount < $limit, no_data: none}
"""


def test_every_mistake_of_a_file_is_told():
    with pytest.raises(ContractError) as error:
        parse_entity(BAD)
    assert [(p.line, p.code) for p in error.value.problems] == [
        (4, "window"),
        (5, "unknown_aggregation"),
        (6, "missing"),
        (7, "window"),
        (8, "unknown_feature"),
        (9, "unit"),
        (10, "operand"),
        (11, "parameter"),
        (11, "wrong_type"),
    ]


def test_features_are_checked_against_events():
    events = {"send": {"amount": DeclaredFact("NUMERIC"), "user_id": DeclaredFact("STRING")}}
    text = """\
entity: user
key: user_id
features:
  - {name: a, event: sent, aggregation: count, window: 1d}
  - {name: b, event: send, aggregation: sum, of: amonut, type: NUMERIC, window: 1d}
  - {name: c, event: send, aggregation: sum, of: amount, type: INT64, window: 1d}
  - {name: d, event: send, aggregation: count, where: amount = 'x', window: 1d}
"""
    with pytest.raises(ContractError) as error:
        parse_entity(text, events=events)
    assert [(p.line, p.code) for p in error.value.problems] == [
        (4, "unknown_event"),
        (5, "unknown_column"),
        (6, "type_conflict"),
        (7, "type_conflict"),
    ]


def test_the_command_gives_the_same_by_both_engines(tmp_path, settings_for, monkeypatch):
    from dataplatform.fraud import engine

    settings = settings_for()
    monkeypatch.setattr(engine, "get_settings", lambda: settings)
    events, moments = random_stream(77, 60, 20)
    with (tmp_path / "data.ndjson").open("w") as out:
        for e in events:
            values = {k: float(v) if isinstance(v, Decimal) else v for k, v in e.values.items()}
            row = {
                "event": e.event,
                "event_id": e.event_id,
                "event_time": time_text(e.happened),
                "known_at": time_text(e.known),
            }
            out.write(json.dumps(row | {"user_id": e.keys["user_id"], "params": values}) + "\n")
    with (tmp_path / "at.jsonl").open("w") as out:
        for m in moments:
            out.write(json.dumps({"user_id": m.key, "time": time_text(m.time), "note": "kept"}) + "\n")
    answers = []
    for engine_name in ("online", "sql"):
        arguments = ["--definitions", FILE, "--data", tmp_path / "data.ndjson", "--at", tmp_path / "at.jsonl"]
        arguments += ["--engine", engine_name, "--output", tmp_path / "out.jsonl"]
        result = CliRunner().invoke(fraud, ["features", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        answers.append((tmp_path / "out.jsonl").read_text())
    assert answers[0] == answers[1]
    assert json.loads(answers[0].splitlines()[0])["note"] == "kept"
