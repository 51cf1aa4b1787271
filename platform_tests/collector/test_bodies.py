"""Cutting a body into events loses nothing, whatever the body."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.collector.bodies import MAX_EVENTS, Malformed, _cut, _cut_by_brackets, events_of, unzip
from dataplatform.collector.problems import Refusal

TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
).flatmap(
    lambda value: st.sampled_from(
        [
            json.dumps(value),
            json.dumps(value, ensure_ascii=False),
            json.dumps(value, separators=(",", ":")),
            json.dumps(value, indent=1),
        ]
    )
)
SPOILT = st.sampled_from(
    ['{"a":NaN}', "Infinity", '{"a":"\\ud800"}', "01", "{a:1}", "1e", '{"a" 1}', "'x'", '{"a":"b\\x"}']
)


def texts_of(body: bytes) -> list[bytes]:
    return [bytes(raw) for raw in events_of(body)]


FRAMES = st.sampled_from(
    [
        b"[%b]",
        b' {"batch" : [%b]}',
        b'{"batch":[%b],"sentAt":"x"} ',
        b'{"writeKey":"k","batch":[%b],"sentAt":"x"}',
        b'{"context" : {"batch":[1, "]"]} , "n":-1.5,"s":"\\"[", "\\u0062atch" : [%b]}',
    ]
)


@given(st.lists(TEXTS, max_size=8), FRAMES)
def test_every_event_is_given_as_its_own_text(texts: list[str], frame: bytes) -> None:
    events = [text.encode("utf-8", "surrogatepass") for text in texts]
    body = frame % b" ,\n".join(events)
    assert texts_of(body) == events
    assert _cut_by_brackets(body) == [bytes(raw) for raw in _cut(body)] == events


@pytest.mark.parametrize("text", ["{not json}", '{"event_id":"z",}', '{"a":1 "b":2}', '{"a":tru}', '{"a":01}'])
def test_one_event_that_is_no_json_is_a_malformed_body(text: str) -> None:
    with pytest.raises(Malformed) as fault:
        events_of(text.encode())
    assert 0 < fault.value.offset < len(text)


@given(st.lists(TEXTS | SPOILT, min_size=1, max_size=8), SPOILT, st.integers(0, 8), FRAMES)
def test_an_event_that_is_no_json_is_cut_out_alone(texts: list[str], spoilt: str, place: int, frame: bytes) -> None:
    texts.insert(min(place, len(texts)), spoilt)
    events = [text.encode() for text in texts]
    assert texts_of(frame % b",".join(events)) == events


@given(st.binary(max_size=60) | st.text('[]{},":1 \\batch', max_size=40).map(str.encode))
def test_any_bytes_are_events_or_malformed_at_a_place(body: bytes) -> None:
    try:
        events = texts_of(body)
    except Malformed as fault:
        assert 0 <= fault.offset <= len(body)
    except Refusal as refusal:
        assert refusal.code == "two_batches"
    else:
        assert all(event in body for event in events)


def test_a_body_as_deep_as_it_is_long_is_told_from_its_neighbours_only_up_to_a_depth() -> None:
    def nested(depth: int) -> bytes:
        return b'{"event":' + b"[" * depth + b"]" * depth + b"}"

    assert texts_of(b"[%b,1]" % nested(900)) == [nested(900), b"1"]
    for body in (
        nested(1_000_000),
        b"[%b,1]" % nested(1_000_000),
        b"[" * 1_000_000,
        b"[" * 1_000_000 + b"]" * 1_000_000,
    ):
        with pytest.raises(Malformed):
            events_of(body)


def test_a_million_little_elements_are_refused_without_being_made() -> None:
    with pytest.raises(Refusal, match=f"more than {MAX_EVENTS} events"):
        events_of(b"[" + b"1," * 1_000_000 + b"1]")
    dense = b'[{"a":[' + b"1," * 300_000 + b"1]}]"
    assert texts_of(dense) == [dense[1:-1]]


@given(st.binary(max_size=2000), st.integers(1, 4))
def test_unzip_gives_what_was_zipped(data: bytes, parts: int) -> None:
    step = len(data) // parts + 1
    zipped = b"".join(gzip.compress(data[start : start + step]) for start in range(0, len(data) + 1, step))
    assert unzip(zipped, "gzip") == data


@given(st.binary(min_size=1, max_size=300), st.data())
def test_half_a_gzip_is_told(data: bytes, draw: st.DataObject) -> None:
    zipped = gzip.compress(data)
    with pytest.raises(Refusal):
        unzip(zipped[: draw.draw(st.integers(1, len(zipped) - 1))], "gzip")
