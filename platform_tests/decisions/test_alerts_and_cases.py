"""After the event: alerts from landed events and changes, once in effect whatever is killed or delivered again, and their cases."""

import asyncio
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from dataplatform.cdc.changes import Change, encode
from dataplatform.cdc.positions import Position
from dataplatform.cdc.state import landing_of
from dataplatform.contracts.collections import load_collections
from dataplatform.contracts.load import load_contracts
from dataplatform.decisions.alerts import ALERTS_STREAM, JUDGED_STREAM, Alert, Judged
from dataplatform.decisions.judge import Answer, Record, Versions, landed_line, replay
from dataplatform.decisions.service import DecisionService
from dataplatform.decisions.stream import Feed
from dataplatform.events.received import Record as Received
from dataplatform.events.received import encode_record
from dataplatform.fraud.cases import CaseAlert, CaseDecision, Cases, UnknownCaseError
from dataplatform.fraud.catalog import load_catalog
from dataplatform.fraud.parameters import ConflictError, NotAllowedError, ParameterStore, database_url
from dataplatform.fraud.values import micros, time_text
from dataplatform.landing import hour_of, open_landing
from dataplatform.settings import Settings

SCHEMAS = Path(__file__).parents[2] / "schemas"
CONTRACTS = load_contracts(SCHEMAS)
CATALOG = load_catalog(SCHEMAS, CONTRACTS)
NOW = micros(datetime.now(UTC).isoformat()) - 3_600_000_000
SECOND = 1_000_000


@pytest.fixture
def settings(tmp_path):
    return settings_of(tmp_path)


def settings_of(folder):
    return Settings(env="local", data_dir=folder, schemas_dir=SCHEMAS, first_hour=datetime(2026, 1, 1, tzinfo=UTC))


def feed_of(settings):
    return Feed(settings, CATALOG, CONTRACTS)


def received(number, event, user, params, event_id=None):
    """A landed line, a second later than the one before."""
    at = time_text(NOW + number * SECOND)
    event_id = event_id or f"e{number}"
    body = {
        "event": event,
        "event_id": event_id,
        "event_time": at,
        "user_id": user,
        "device_id": f"d-{user}",
        "params": params,
    }
    return encode_record(Received(at, "test", event, event_id, json.dumps(body), [], "f", number))


def transfer(number, user, account):
    params = {
        "transfer_id": f"tr_{number:016x}",
        "amount": "50000",
        "currency": "KRW",
        "sender": {"account_no": "99999999"},
        "receiver": {"account_no": f"{account:08d}"},
        "method": "balance",
        "is_first": True,
    }
    return received(number, "send_transfer_pay", user, params)


def mules(count=3, transfers=10, start=0):
    """New accounts that each pay many: lines in their order. From the seventh transfer on each is an alert."""
    lines = []
    number = start
    for mule in range(count):
        agreed = [{"document": "terms", "version": "1", "agreed": True}]
        registered = {"method": "phone", "agreements": agreed}
        lines.append(received(number, "register_user_identity", f"mule{mule}", registered))
        number += 1
        for turn in range(transfers):
            lines.append(transfer(number, f"mule{mule}", 1000 * mule + turn))
            number += 1
    return lines


def land(settings, lines, name="w-000001.ndjson", stream="events", at=None):
    hour = hour_of(datetime.fromtimestamp((at or NOW) / 1e6, UTC))
    open_landing(settings, stream).put(hour, name, b"\n".join(lines) + b"\n")


def alerts(settings):
    """Every landed alert, as it stands in the files."""
    return landed(settings, ALERTS_STREAM, Alert)


def landed(settings, stream, held):
    landing = open_landing(settings, stream)
    files = [file for hour in landing.hours() for file in landing.files(hour)]
    return [msgspec.json.decode(line, type=held) for file in files for line in landing.read(file).splitlines()]


def cases_of(settings):
    store = ParameterStore(database_url("", settings.data_dir), CATALOG.policies)
    for person, role in (("vera", "viewer"), ("ed", "editor"), ("eve", "editor")):
        store.grant(person, role, by="root")
    return Cases(store)


def test_alerts_and_cases_once_in_effect(settings):
    lines = mules()
    land(settings, [*lines, *lines[5:9]])
    feed = feed_of(settings)
    feed.run_once()
    found = alerts(settings)
    assert Counter(each.entity_key for each in found) == {"mule0": 4, "mule1": 4, "mule2": 4}
    one = found[0]
    assert (one.policy, one.source, one.level, one.entity) == (
        "mule_network",
        "send_transfer_pay",
        "warn_confirm",
        "user",
    )
    assert one.rules == ["new_member_fan_out"]
    record = msgspec.json.decode(one.record, type=Record)
    again = replay(record, CATALOG.policies[one.policy]).decision
    assert (again.level, list(again.rules)) == (one.level, one.rules)
    assert record.answer.features["sender.receivers_24h"] == 6  # the transfer itself is not in its own history

    cases = cases_of(settings).find(by="vera")
    assert sorted((case.entity_key, case.alerts) for case in cases) == [("mule0", 4), ("mule1", 4), ("mule2", 4)]
    # Delivered again: by a new file, by a queue, by a process that starts anew, by a state that is built anew.
    land(settings, lines, "w-000002.ndjson")
    feed.run_once()
    feed.events(b"\n".join(lines))
    feed.deliver()
    feed.close()
    for file in (settings.data_dir / "fraud" / "online").glob("*.sqlite*"):
        file.unlink()
    rebuilt = feed_of(settings)
    assert rebuilt.run_once() == len(lines)
    # Each event was counted once, and the counts are landed once.
    for _ in range(2):
        rebuilt.box.send_counts(time.time_ns() // 1000, every=0)
        rebuilt.deliver()
    counts = landed(settings, JUDGED_STREAM, Judged)
    fired = {each.rule: (each.judged, each.fired) for each in counts if each.policy == "mule_network"}
    assert len(counts) == sum(1 for each in counts if each.policy in ("mule_network", "slow_ramp")) == 7
    assert fired["new_member_fan_out"] == (30, 12) and fired["strangers_pay"] == (30, 0)
    rebuilt.close()
    assert len(alerts(settings)) == len(found)
    assert sum(case.alerts for case in cases_of(settings).find(by="vera")) == len(found)


def test_old_history_fills_the_features_and_gives_no_alerts(settings):
    old = NOW - 200 * 3600 * SECOND
    lines = [line.replace(time_text(NOW)[:10].encode(), time_text(old)[:10].encode()) for line in mules(1)]
    land(settings, lines, at=old)
    feed = feed_of(settings)
    assert feed.run_once() == len(lines)
    assert alerts(settings) == []
    feed.close()


def test_what_a_contract_refuses_and_what_is_no_record_gives_no_alert_and_stops_nothing(settings):
    lines = mules(1)
    bad = received(90, "send_transfer_pay", "mule0", {"amount": -1})
    land(settings, [b"{broken", *lines, bad, b'{"event": 5}'])
    feed = feed_of(settings)
    feed.run_once()
    assert len(alerts(settings)) == 4
    feed.close()


def change(number, operation, price, seller="watched-1", at=None):
    document = json.dumps(
        {"_id": {"$oid": f"{number:024x}"}, "price": {"$numberDecimal": str(price)}, "seller": {"_id": seller}}
    )
    time = time_text(at or NOW + number * SECOND)
    key = json.dumps({"$oid": f"{number:024x}"})
    gone = operation == "delete"
    position = Position(1_000 + number, 1)
    return encode(
        Change(
            operation=operation,
            key=key,
            position=str(position),
            changed_at=time,
            captured_at=time,
            document=None if gone else document,
        )
    )


def test_changes_of_a_collection_are_judged(settings):
    store = cases_of(settings).store
    store.put_entries("watched_users", ["watched-1"], by="ed", reason="A report.")
    lines = [
        change(1, "insert", 9_000_000, "someone"),
        change(2, "insert", 1_000, "someone"),
        change(3, "update", 1_000),
        change(4, "delete", 1_000),
        change(5, "snapshot", 9_000_000),
    ]
    landing = landing_of(settings, load_collections(SCHEMAS).contracts["shop.articles"])
    hour = hour_of(datetime.fromtimestamp(NOW / 1e6, UTC))
    landing.put(hour, "c-000001.ndjson.gz", gzip.compress(b"\n".join(lines) + b"\n"))  # as captures write them
    feed = feed_of(settings)
    feed.run_once()
    feed.changes("shop.articles", b"\n".join(lines))
    feed.deliver()
    found = {(each.entity_key, each.level, *each.rules) for each in alerts(settings)}
    assert found == {("someone", "monitor", "dear_article"), ("watched-1", "hold", "watched_user")}
    assert len(alerts(settings)) == 2
    feed.close()


def test_cases_wait_for_their_database_and_alerts_do_not(settings):
    feed = feed_of(settings)
    feed.run_once()
    feed.benches.reachable = False
    feed.events(b"\n".join(mules(1)))
    assert feed.deliver() == 0
    assert len(alerts(settings)) == 4
    feed.benches.load()
    assert feed.deliver() == 4
    assert feed.deliver() == 0
    assert len(alerts(settings)) == 4
    feed.close()


def decision(number, sender, level="hold"):
    """A landed decision about a sender."""
    at = time_text(NOW + number * SECOND)
    answer = Answer(
        f"r{number}", "transfer", "send_transfer_pay", "hold", level, 80, [], (), (), {}, Versions("abc", 1, 1), [], "", [], at, 0.4
    )  # fmt: skip
    return landed_line(Record(at, f"r{number}", "test", answer, {"sender": sender, "receiver": "acc"}, {}, {}, {}))


def test_decisions_are_linked_with_the_case_before_and_after_it_is_opened(settings):
    land(settings, [decision(1, "mule0"), decision(2, "mule0", level="pass"), decision(3, "other")], stream="decisions")
    feed = feed_of(settings)
    feed.run_once()
    land(settings, mules(1))
    feed.run_once()
    cases = cases_of(settings)
    [case] = cases.find(by="vera")

    def linked():
        return [each["request_id"] for each in cases.read(case.id, by="vera")["decisions"]]

    feed.events(b"\n".join(mules(1, transfers=11)[-1:]))  # one more alert, after the decisions were noted
    feed.deliver()
    assert linked() == ["r1"]
    land(settings, [decision(4, "mule0"), decision(1, "mule0")], "w-000002.ndjson", stream="decisions")
    feed.run_once()
    feed.run_once()
    assert linked() == ["r1", "r4"]
    feed.close()


def test_a_look_that_fails_in_the_middle_is_made_again(settings, monkeypatch):
    """A full disk while decisions are noted: the next look finds everything as it was."""
    land(settings, [decision(1, "mule0")], stream="decisions")
    land(settings, mules(1))
    feed = feed_of(settings)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feed.box, "note_decision", full)
    with pytest.raises(OSError, match="No space"):
        feed.run_once()
    monkeypatch.undo()
    feed.run_once()
    assert len(alerts(settings)) == 4
    assert [case.alerts for case in cases_of(settings).find(by="vera")] == [4]
    assert [each.request_id for each in feed.box.recent_decisions("user", "mule0")] == ["r1"]
    feed.close()


def start_stream(settings):
    environment = {
        "DATAPLATFORM_DATA_DIR": str(settings.data_dir),
        "DATAPLATFORM_SCHEMAS_DIR": str(SCHEMAS),
        "PATH": "/usr/bin:/bin",
    }
    program = [str(Path(sys.executable).with_name("dataplatform")), "fraud", "stream"]
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_kill_9_at_random_moments_loses_no_alert_and_gives_none_twice(settings):
    chance = random.Random(3)
    lines = mules(count=60, transfers=12)
    parts = [lines[start : start + 40] for start in range(0, len(lines), 40)]
    cases_of(settings)  # the tables are there before the first process is killed
    process = start_stream(settings)
    kills = 0
    for number, part in enumerate(parts):
        land(settings, part, f"w-{number:06d}.ndjson")
        if number % 4 == 1:
            time.sleep(chance.uniform(0.4, 1.6))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            process = start_stream(settings)
            land(settings, part, f"w-{number:06d}-again.ndjson")
    process.kill()
    process.wait()
    feed = feed_of(settings)
    feed.run_once()
    feed.close()
    assert kills >= 4
    counted = Counter(each.alert_id for each in alerts(settings))
    assert set(counted.values()) == {1}
    assert len(counted) == 60 * 6
    cases = cases_of(settings).find(by="vera", limit=500)
    assert len(cases) == 60 and sum(case.alerts for case in cases) == len(counted)


class Died(BaseException):
    """Stands for a kill at one place."""


@pytest.mark.parametrize("place", ["box.commit", "state.commit", "landing.put", "cases.take", "landed"])
def test_a_death_at_each_step_changes_nothing_in_the_end(settings, place, monkeypatch):
    """A process that dies at one place, and one after it that finishes."""
    land(settings, mules(2))
    feed = feed_of(settings)
    feed.benches.load()

    def dying(function, after):
        def wrapped(*arguments, **named):
            if after:
                function(*arguments, **named)
            raise Died

        return wrapped

    if place == "box.commit":
        feed.box.commit = dying(feed.box.commit, after=False)
    elif place == "state.commit":
        last = list(feed.states.values())[1]  # some states have the batch and others have not
        last._store.commit = dying(last._store.commit, after=False)
    elif place == "landing.put":
        feed.landings[ALERTS_STREAM].put = dying(feed.landings[ALERTS_STREAM].put, after=False)
    elif place == "landed":
        feed.landings[ALERTS_STREAM].put = dying(feed.landings[ALERTS_STREAM].put, after=True)
    else:
        taken = Cases.take
        monkeypatch.setattr(Cases, "take", lambda self, *args: (taken(self, *args), (_ for _ in ()).throw(Died))[0])
    with pytest.raises(Died):
        feed.run_once()
    monkeypatch.undo()
    feed.close()
    after = feed_of(settings)
    after.run_once()
    after.run_once()
    after.close()
    assert Counter(Counter(each.alert_id for each in alerts(settings)).values()) == {1: 8}
    assert sorted((case.entity_key, case.alerts) for case in cases_of(settings).find(by="vera")) == [
        ("mule0", 4),
        ("mule1", 4),
    ]


if shutil.which("redis-server"):

    def test_decisions_and_the_stream_on_redis(settings, redis_server):
        """The stream writes Redis and decisions read it; hung, it costs a decision little and the answer says so; emptied, it
        is filled again from the landing.
        """
        settings = settings.model_copy(update={"fraud_online": redis_server.url})
        lines = mules(1)
        land(settings, lines)
        feed = feed_of(settings)
        assert feed.run_once() == len(lines)
        assert len(alerts(settings)) == 4

        def decide(request_id):
            service = DecisionService(settings, CATALOG)
            body = {"request_id": request_id, "event": "send_transfer_pay", "entities": {"sender": "mule0"}}
            body |= {"facts": {"amount": 5000, "currency": "KRW", "is_first": True}, "deadline_ms": 2000}

            async def run():
                await service.start()
                began = time.perf_counter()
                answer = json.loads(await service.decide(msgspec.json.encode(body), "test"))
                took = time.perf_counter() - began
                await service.stop()
                return answer, took

            return asyncio.run(run())

        def decide_in_time(name):
            """Redis has 20 ms, which a loaded machine may not keep: then the answer says so, and the next one is asked for."""
            for attempt in range(20):
                answer, _ = decide(f"{name} {attempt}")
                if answer["fallback"] == "":
                    return answer
            raise AssertionError(answer)

        assert decide_in_time("there")["features"]["sender.receivers_24h"] == 10
        redis_server.pause()
        try:
            answer, took = decide("hung")
        finally:
            redis_server.resume()
        assert (answer["level"], answer["fallback"]) == ("hold", "features")
        assert took < 0.5
        feed.states["user"]._store._client.flushdb()
        answer, _ = decide("emptied")
        assert (answer["level"], answer["fallback"]) == ("hold", "features")  # nothing known is not "nothing happened"
        assert feed.run_once() == len(lines)
        assert decide_in_time("filled again")["features"]["sender.receivers_24h"] == 10
        assert len(alerts(settings)) == 4
        feed.close()


def alert(number, key="u1", level="hold", policy="mule_network"):
    return CaseAlert(
        f"a{number}",
        1_000_000 * number,
        policy,
        "e",
        f"id{number}",
        "user",
        key,
        level,
        10 * number,
        {"facts": {"n": number}},
    )


def test_cases_are_changed_on_the_version_that_was_seen(settings):
    cases = cases_of(settings)
    number = cases.take(alert(1), [CaseDecision("r1", 5, "transfer", "hold", "hold")])
    assert cases.take(alert(1)) == number
    assert cases.take(alert(2, level="monitor")) == number
    case = cases.read(number, by="vera")
    assert (case["alerts"], case["level"], case["score"], case["status"], case["version"]) == (2, "hold", 20, "open", 1)
    assert [each["evidence"]["facts"] for each in case["evidence"]] == [{"n": 1}, {"n": 2}]
    assert [each["request_id"] for each in case["decisions"]] == ["r1"]
    changed = cases.change(number, {"assignee": "ed", "status": "in_review"}, version=1, by="ed", note="I look at it.")
    assert (changed.version, changed.assignee) == (2, "ed")
    cases.take(alert(3))  # an alert is nobody's change
    with pytest.raises(ConflictError) as conflict:
        cases.change(number, {"status": "dismissed"}, version=1, by="eve")
    assert conflict.value.difference == {
        "status": {"base": "open", "live": "in_review", "wanted": "dismissed"},
        "assignee": {"base": None, "live": "ed", "wanted": None},
    }
    with pytest.raises(NotAllowedError):
        cases.change(number, {"status": "dismissed"}, version=2, by="vera")
    with pytest.raises(NotAllowedError):
        cases.read(number, by="stranger")
    closed = cases.change(number, {"status": "confirmed"}, version=2, by="eve")
    assert closed.closed_at is not None
    reborn = cases.take(alert(4))
    assert reborn != number
    with pytest.raises(ConflictError, match="another open case"):
        cases.change(number, {"status": "open"}, version=3, by="ed")
    assert [each["what"] for each in cases.read(number, by="ed")["history"]] == ["opened", "changed", "changed"]
    assert [case.id for case in cases.find(by="vera", status="active")] == [reborn]
    assert [case.id for case in cases.find(by="vera", policy="mule_network", entity_key="u1")] == [reborn, number]
    assert [case.id for case in cases.find(by="vera", before=reborn, limit=1)] == [number]
    with pytest.raises(UnknownCaseError):
        cases.read(999, by="vera")


def test_cases_by_command(settings, monkeypatch):
    from dataplatform import cli
    from dataplatform import settings as settings_module

    number = cases_of(settings).take(alert(1))
    monkeypatch.setenv("DATAPLATFORM_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("DATAPLATFORM_SCHEMAS_DIR", str(SCHEMAS))
    settings_module.get_settings.cache_clear()

    def run(*arguments, code=0):
        result = CliRunner().invoke(cli.cli, ["fraud", "cases", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.output

    try:
        assert "u1" in run("list", "--as", "vera")
        assert "assigned to ed" in run("assign", number, "ed", "--as", "eve")
        run("note", number, "Called the bank.", "--as", "ed")
        assert "confirmed" in run("set", number, "confirmed", "--note", "A mule.", "--as", "ed")
        shown = json.loads(run("show", number, "--as", "vera"))
        assert (shown["status"], shown["assignee"]) == ("confirmed", "ed")
        assert shown["history"][2]["detail"] == {"note": "Called the bank."}
        assert "u1" not in run("list", "--as", "vera")
        run("set", number, "open", "--version", 1, "--as", "ed", code=1)
        run("assign", number, "nobody-known", "--as", "ed", code=1)
    finally:
        settings_module.get_settings.cache_clear()
