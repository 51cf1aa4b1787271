"""The quick way to a verdict at its edges: whatever it accepts, the exact way accepts, alone and in a batch."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplatform.collector.bodies import Malformed, events_of
from dataplatform.collector.keys import WriteKeys
from dataplatform.collector.problems import Refusal
from dataplatform.collector.segment import event_of, messages_of, write_key_of
from dataplatform.contracts.events import EventContract
from dataplatform.events.verdict import Judge

CONTRACT = EventContract.model_validate(
    {
        "action": "pay",
        "object": "item",
        "service": "shop",
        "owner": "shop",
        "domain": "shop",
        "description": "A payment.",
        "params": [
            {"name": "price", "type": "NUMERIC"},
            {"name": "fee", "type": "NUMERIC", "min": "0", "max": "1000"},
            {"name": "at", "type": "TIMESTAMP"},
            {"name": "until", "type": "TIMESTAMP", "min": "2020-01-01T00:00:00Z"},
            {"name": "prices", "type": "NUMERIC", "repeated": True},
            {"name": "days", "type": "DATE", "repeated": True},
            {"name": "note", "type": "STRING"},
            {"name": "any", "type": "JSON"},
            {"name": "count", "type": "INT64"},
            {"name": "counts", "type": "INT64", "repeated": True},
            {"name": "place", "type": "INT64", "min": 0, "max": 12},
        ],
    }
)
JUDGE = Judge({CONTRACT.name: CONTRACT})
TIMES = (
    "2026-01-31T10:00:00Z", "2026-01-31T10:00:00.123Z", "2026-01-31T10:00:00.123456Z", "2026-01-31T10:00:00+09:00",
    "2024-02-29T23:59:59.999Z", "2026-02-29T10:00:00.000Z", "2026-01-31T24:00:00Z", "2026-01-31T10:60:00Z",
    "2026-01-31T10:00:60Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z",
    "2026-W05-6T10:00:00.123Z", "2026-01-31 10:00:00Z", "2026-01-31t10:00:00Z", "2026-01-31T10:00:00z",
    "2026-01-31T10:00:00,123Z", "2026-01-31T100000.12345Z", "2026-01-31T10:00:00.000.000Z", "2026-01-31T10:00:00",
    "2026-01-31T10:00:00.0000Z", "2026-01-31T10:00:00Z\\n2026-01-31T10:00:00Z", "\\u0032026-01-31T10:00:00Z",
    "2026-01-31T10\\u003a00:00Z", "２０26-01-31T10:00:00Z", "2026-01-31T10:00:00+23:00", "2026-01-31T10:00:00-00:00", "",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "1", "-1.5", "12.50", "1e3", "1E-9", "123456789012345", "1234567890123456", "123456789012.1234567",
    "0.1000000000000000055511151231257827", "-1234567890123.25", "999999999999999999999999999999", "1000.000000001",
    '"1"', '"-0.000000001"', '"12345678901234567890123456789.123456789"', '"1.0000000000"', '"NaN"', '"Infinity"',
    '"12"', '"-0"', '"999999999999999999"', '"9223372036854775808"', '"-9223372036854775808"', '"1e3"', '" 1"', '"+1"', '"1_0"', '"01"', '"1\\n"', '"١"', '""', "null", "true", "[]", "{}", '"1","2"',
)  # fmt: skip
UNKNOWN = (
    '"type":"track"', '"context":{"library": {"name":"x", "version":"1.0"}}', '"integrations":{}', '"a":null', '"b":[1,2.5,[]]',
    '"context":{"a":1,"a":2}', '"c":"\\u0000"', '"c":"\\ud800"', '"\\u0000":1', '"é":1', '"n":1e999', '"n":0.1234567890123456789',
    '"type":"twice"', '"event_id":"2"', '"\\u0074ype":1', '"q\\"":1', '"o":{"event_id":"2"}', '"x:y":":"', '"at":"2026-01-31T10:00:00Z"',
    f'"deep":{"[" * 63}{"]" * 63}', f'"deep":{"[" * 64}{"]" * 64}', f'"long":[{"1," * 10_000}1]',
)  # fmt: skip
"""Members beside the envelope, with faults and without."""


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """An event whose values stand at the edges of their types, whose keys may repeat, with white space or without."""
    time = st.sampled_from(TIMES).map(lambda text: f'"{text}"')
    number = st.sampled_from(NUMBERS)
    values = {
        "price": number, "fee": number, "count": number, "place": number, "at": time, "until": time,
        "prices": st.lists(number, max_size=3).map(lambda all_of: f"[{','.join(all_of)}]"),
        "counts": st.lists(number, max_size=3).map(lambda all_of: f"[{','.join(all_of)}]"),
        "days": st.just('["2026-01-31"]'), "note": st.sampled_from(['"a"', '"a: b"', '"\\"a\\":1"', '"},{"', '"\\u0000"']),
    }  # fmt: skip
    keys = draw(st.lists(st.sampled_from(sorted(values)), max_size=4, unique=not draw(st.booleans())))
    colon = draw(st.sampled_from([":", ": ", " :", ":\n"]))
    params = ",".join(f'"{key}"{colon}{draw(values[key])}' for key in keys)
    members = ['"event_id":"1"', f'"event":"{CONTRACT.name}"', f'"params":{{{params}}}']
    members += [
        f'"{key}":{draw(time)}' for key in draw(st.lists(st.sampled_from(["event_time", "sent_at"]), max_size=2))
    ]
    members += draw(st.lists(st.sampled_from(UNKNOWN), max_size=3))
    comma = draw(st.sampled_from([",", ", "]))
    return ("{" + comma.join(draw(st.permutations(members))) + "}").encode()


@settings(max_examples=400, deadline=None)
@given(raws=st.lists(texts(), min_size=1, max_size=4))
def test_the_quick_way_accepts_only_what_the_exact_way_accepts(raws: list[bytes]) -> None:
    exactly = [JUDGE.judge_exactly(raw) for raw in raws]
    assert [JUDGE.judge(raw) for raw in raws] == exactly
    assert JUDGE.judge_all(raws) == exactly


@pytest.mark.parametrize("key", ["at", "until", "event_time"])
@pytest.mark.parametrize("time", TIMES)
def test_a_time_means_the_same_both_ways(key: str, time: str) -> None:
    where = f'"event_time":"{time}","params":{{}}' if key == "event_time" else f'"params":{{"{key}":"{time}"}}'
    raw = f'{{"event_id":"1","event":"{CONTRACT.name}",{where}}}'.encode()
    good = f'{{"event_id":"1","event":"{CONTRACT.name}","event_time":"2026-01-31T10:00:00Z"}}'.encode()
    assert JUDGE.judge(raw) == JUDGE.judge_exactly(raw)
    many = [*[good] * 8, raw, good]  # so many times that they are looked at together
    assert JUDGE.judge_all(many) == [JUDGE.judge_exactly(one) for one in many]


@pytest.mark.parametrize("key", ["price", "fee", "count", "place"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_means_the_same_both_ways(key: str, number: str) -> None:
    raw = f'{{"event_id":"1","event":"{CONTRACT.name}","params":{{"{key}":{number}}}}}'.encode()
    good = f'{{"event_id":"1","event":"{CONTRACT.name}","params":{{"{key}":"1"}}}}'.encode()
    assert JUDGE.judge(raw) == JUDGE.judge_exactly(raw)
    assert JUDGE.judge_all([good, raw, good]) == [JUDGE.judge_exactly(one) for one in (good, raw, good)]


def test_usual_events_go_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JUDGE, "judge_exactly", None)
    params = (
        '{"count":"7","counts":[1,"-2"],"price":"12.50","fee":3,"at":"2026-01-31T10:00:00.123Z","note":"a: \\"b\\""}'
    )
    usual = f'{{"event_id":"1","event":"{CONTRACT.name}","sent_at":"2026-01-31T19:00:00+09:00","params":{params}}}'
    assert all(verdict.accepted for verdict in JUDGE.judge_all([usual.encode()] * 3))


BODIES = (
    b'{"batch":[{"type":"track","messageId":"m","event":"pay_item_shop","properties":{"note":"a"},"context":{"a":1}},'
    b'{"type":"group","groupId":"g","traits":{"x":1}}],"sentAt":"x","writeKey":"local"}',
    b'[{"event_id":"1","event":"pay_item_shop","params":{"any":"x","price":"1.5","at":"2026-01-31T10:00:00Z"}},{"event_id":"2"}]',
    b'{"event_id":"1","event":"pay_item_shop","type":"t","params":{"count":1,"days":["2026-01-31"]}}',
)
SPOILING = (
    b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\\ud800", b"\\u0000", b"\0", b"NaN",
    b"1e999", b"null", b" ", b"\n", "😀".encode(), b"-", b"0", b"9" * 400, b"\xef\xbb\xbf", b'"batch":', b'"event":"x",',
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 220), st.integers(0, 3), st.sampled_from(SPOILING)), min_size=1, max_size=3),
)
def test_a_spoilt_body_is_malformed_or_its_events_have_the_exact_verdict(
    body: bytes, spoilt: list[tuple[int, int, bytes]]
) -> None:
    for place, length, text in spoilt:
        at = place % len(body)
        body = body[:at] + text + body[at + length :]
    with contextlib.suppress(Refusal):
        WriteKeys({"local": "web"}).require_some_in(body)
    write_key_of(body)
    for kind in ("events", None, "track", "group"):
        try:
            raws = events_of(body) if kind == "events" else messages_of(body, kind).events
        except (Malformed, Refusal):
            continue
        assert JUDGE.judge_all(raws) == [JUDGE.judge_exactly(bytes(raw)) for raw in raws]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"event_id":"1","event":"pay_item_shop","params":{"any":"\xff"}}',
        b'{"event_id":"1","event":"pay_item_shop","params":{"any":"\xed\xa0\x80"}}',
        b'{"event_id":"1","event":"pay_item_shop","type":"\xff","params":{}}',
        b'{"event_id":"1","event":"pay_item_shop","\xff":1,"params":{}}',
        b'{"event_id":":1","params":{}}',
        b'{"event_id":":","evXnt":"pay_item_shop","params":{}}',
        b'{"event_id":"1","event":"","params":{}}',
    ],
)
@pytest.mark.parametrize("judge", [JUDGE, Judge({})], ids=["one contract", "none"])
def test_what_looks_right_until_it_is_read(judge: Judge, raw: bytes) -> None:
    assert judge.judge(raw) == judge.judge_exactly(raw)
    assert not judge.judge(raw).accepted


def test_an_event_deeper_than_any_stack_is_refused() -> None:
    deep = f'{{"event_id":"1","event":"{CONTRACT.name}","params":{{"any":{"[" * 100_000}{"]" * 100_000}}}}}'
    assert [reason.code for reason in JUDGE.judge(deep.encode()).reasons] == ["too_deep"]


def test_keys_that_no_contract_knows_do_not_leave_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    message = {
        "type": "track", "messageId": "1", "event": CONTRACT.name, "timestamp": "2026-01-31T10:00:00.123456+00:00",
        "context": {"library": {"name": "analytics-python", "version": "2"}}, "integrations": {}, "properties": {"note": "a: b"},
    }  # fmt: skip
    events = [event_of(json.dumps(message, separators=separators).encode(), None) for separators in ((",", ":"), None)]
    monkeypatch.setattr(JUDGE, "judge_exactly", None)
    assert all(verdict.accepted for verdict in JUDGE.judge_all(events))


def test_one_unusual_event_leaves_its_neighbours_on_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = f'{{"event_id":"1","event":"{CONTRACT.name}","params":{{"note":"a","at":"2026-01-31T10:00:00Z"}}}}'.encode()
    unusual = [
        usual.replace(b'"a"', b'"a:" '),
        usual.replace(b'"note"', b'"note":"b","note"'),
        usual.replace(b"T", b"t"),
        b"{}",
    ]
    raws = [usual, *unusual, usual]
    expected = [JUDGE.judge_exactly(raw) for raw in raws]
    exactly, judged = JUDGE.judge_exactly, []
    monkeypatch.setattr(JUDGE, "judge_exactly", lambda raw: judged.append(raw) or exactly(raw))
    assert JUDGE.judge_all(raws) == expected
    assert judged == unusual
