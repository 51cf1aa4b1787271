"""The fast writer of canonical Extended JSON says the same as bson's own, for every BSON type."""

import datetime as dt
import uuid
from decimal import Decimal

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.cdc.extended_json import CODEC, canonical, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEY = TEXT.filter(lambda key: "\0" not in key)
DECIMALS = st.builds(
    lambda sign, digits, exponent: Decimal128(Decimal((sign, digits, exponent))),
    st.integers(0, 1),
    st.lists(st.integers(0, 9), min_size=1, max_size=34).map(tuple),
    st.integers(-6143, 6100) | st.integers(-12, 3),
)
SCALARS = st.one_of(
    TEXT,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(allow_nan=False) | st.just(float("nan")),  # a NaN of other bits has the same text
    st.booleans(),
    st.none(),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    DECIMALS,
    st.sampled_from(
        [Decimal128(text) for text in ("NaN", "Infinity", "-Infinity", "0E-6176", "-0", "0.000000", "1E-7")]
    ),
    st.binary(max_size=8),
    st.builds(Binary, st.binary(max_size=8), st.sampled_from([1, 5, 6, 7, 128])),
    st.binary(min_size=16, max_size=16).map(lambda data: Binary(data, 4)),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.builds(Regex, KEY, st.sampled_from(["", "i", "imsx"])),
    TEXT.map(Code),
    st.just(MinKey()),
    st.just(MaxKey()),
)
DOCUMENTS = st.dictionaries(
    KEY,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=6,
)


def reference(value: object) -> str:
    return json_util.dumps(
        value, json_options=json_util.CANONICAL_JSON_OPTIONS, separators=(",", ":"), ensure_ascii=False
    )


@given(DOCUMENTS)
def test_equals_json_util_and_comes_back(document: dict[str, object]) -> None:
    decoded = bson.decode(bson.encode(document), CODEC)
    text = canonical(decoded)
    assert text == reference(decoded)
    keys = str(document)
    if "$" not in keys:  # a key such as `$oid` in a document is ambiguous in Extended JSON itself
        assert bson.encode(parse(text)) == bson.encode(decoded)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, '{"$numberInt":"5"}'),
        (2**31, '{"$numberLong":"2147483648"}'),
        (Int64(5), '{"$numberLong":"5"}'),
        (5.0, '{"$numberDouble":"5.0"}'),
        (float("nan"), '{"$numberDouble":"NaN"}'),
        (float("-inf"), '{"$numberDouble":"-Infinity"}'),
        (Decimal128("1.10"), '{"$numberDecimal":"1.10"}'),
        (DatetimeMS(-1), '{"$date":{"$numberLong":"-1"}}'),
        (DatetimeMS(253402300800000), '{"$date":{"$numberLong":"253402300800000"}}'),
        (dt.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=dt.UTC), '{"$date":{"$numberLong":"-1"}}'),
        (uuid.UUID(int=1), '{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAQ==","subType":"04"}}'),
        (DBRef("c", 1), '{"$ref":"c","$id":{"$numberInt":"1"}}'),
        (Code("f", {"a": 1}), '{"$code":"f","$scope":{"a":{"$numberInt":"1"}}}'),
        ({"b": 1, "a": 2}, '{"b":{"$numberInt":"1"},"a":{"$numberInt":"2"}}'),
        ((1,), '[{"$numberInt":"1"}]'),
    ],
)
def test_named_values(value: object, text: str) -> None:
    assert canonical(value) == text


def test_what_is_no_bson_type_is_an_error() -> None:
    with pytest.raises(TypeError, match="set is not a BSON type"):
        canonical({"a": {1}})


def test_text_that_is_no_utf_8() -> None:
    """Servers do not look whether text is UTF-8. One such document must not stop a stream."""
    broken = bson.encode({"_id": "broken", "text": "abcd"}).replace(b"abcd", b"ab\xff\xfe")
    assert canonical(bson.decode(broken, CODEC)) == '{"_id":"broken","text":"ab\ufffd\ufffd"}'
