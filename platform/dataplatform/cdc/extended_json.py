"""Canonical Extended JSON (MongoDB specification, version 2): the one text form of a document.

It is compact (no blanks) and keeps every BSON type apart, so that two documents are equal exactly when their texts are. The text
is built directly, by a table from type to writer, which costs a third of `bson.json_util`; the tests hold the two together.
"""

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring
from math import isfinite, isnan
from typing import Any
from uuid import UUID

from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.json_util import CANONICAL_JSON_OPTIONS

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS, tz_aware=True)
"""How documents are decoded here: dates as milliseconds, because Python's dates end at the year 9999."""

type Writer = Callable[[Any], str]

_text: Callable[[str], str] = encode_basestring
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def canonical(value: Any) -> str:
    """The canonical Extended JSON of a decoded BSON value or document."""
    writer = _WRITERS.get(type(value))
    return writer(value) if writer is not None else _other(value)


def _document(value: Mapping[str, Any]) -> str:
    writers = _WRITERS
    keys = _keys
    text = _text
    parts = []
    for key, item in value.items():
        head = keys.get(key)
        if head is None:
            head = _key(key)
        kind = type(item)
        if kind is str:
            parts.append(head + text(item))
        else:
            writer = writers.get(kind)
            parts.append(head + (writer(item) if writer is not None else _other(item)))
    return "{" + ",".join(parts) + "}"


def _array(value: list[Any]) -> str:
    writers = _WRITERS
    return "[" + ",".join([(writers.get(type(item)) or _other)(item) for item in value]) + "]"


_keys: dict[str, str] = {}
_MAX_KEYS = 20_000


def _key(key: str) -> str:
    """`"key":`, remembered while there is room: field names repeat in every document."""
    head = _text(key) + ":"
    if len(_keys) < _MAX_KEYS and len(key) <= 64:
        _keys[key] = head
    return head


def _int(value: int) -> str:
    return f'{{"$numberInt":"{value}"}}' if -2147483648 <= value <= 2147483647 else f'{{"$numberLong":"{value}"}}'


def _double(value: float) -> str:
    if isfinite(value):
        return f'{{"$numberDouble":"{value!r}"}}'
    if isnan(value):
        return '{"$numberDouble":"NaN"}'
    return '{"$numberDouble":"Infinity"}' if value > 0 else '{"$numberDouble":"-Infinity"}'


def _decimal(value: Decimal128) -> str:
    return f'{{"$numberDecimal":"{_decimal_text(value)}"}}'


def _decimal_text(value: Decimal128) -> str:
    """What `str(value)` gives, read off the bits where the number is written without an exponent (six times as fast)."""
    bits = int.from_bytes(value.bid, "little")
    if bits >> 125 & 3 != 3:  # not NaN, infinite or of the rare second form
        exponent = (bits >> 113 & 0x3FFF) - 6176
        digits = str(bits & _COEFFICIENT)
        point = len(digits) + exponent
        if exponent <= 0 and point > -6 and len(digits) <= 34:
            if exponent:
                digits = f"{digits[:point]}.{digits[point:]}" if point > 0 else f"0.{'0' * -point}{digits}"
            return f"-{digits}" if bits >> 127 else digits
    return str(value)


_COEFFICIENT = (1 << 113) - 1


def _binary(value: Binary) -> str:
    return _binary_of(value, value.subtype)


def _binary_of(value: bytes, subtype: int) -> str:
    return f'{{"$binary":{{"base64":"{base64.b64encode(value).decode()}","subType":"{subtype:02x}"}}}}'


def _regex(value: Regex[Any]) -> str:
    pattern = value.pattern if isinstance(value.pattern, str) else value.pattern.decode()
    options = "".join(letter for letter, flag in _REGEX_FLAGS if value.flags & flag)
    return f'{{"$regularExpression":{{"pattern":{_text(pattern)},"options":"{options}"}}}}'


_REGEX_FLAGS = (("i", 2), ("l", 4), ("m", 8), ("s", 16), ("u", 32), ("x", 64))


def _code(value: Code) -> str:
    if value.scope is None:
        return f'{{"$code":{_text(str(value))}}}'
    return f'{{"$code":{_text(str(value))},"$scope":{_document(value.scope)}}}'


def _datetime(value: datetime) -> str:
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return _milliseconds((aware - _EPOCH) // _MILLISECOND)


_MILLISECOND = datetime(1970, 1, 1, 0, 0, 0, 1000) - datetime(1970, 1, 1)  # noqa: DTZ001  # a difference


def _milliseconds(value: int) -> str:
    return f'{{"$date":{{"$numberLong":"{value:d}"}}}}'


def _other(value: Any) -> str:
    """A subclass or a value of a plain Python type that BSON also takes."""
    for kind in type(value).__mro__:
        writer = _WRITERS.get(kind)
        if writer is not None:
            return writer(value)
    if isinstance(value, Mapping):
        return _document(value)
    raise TypeError(f"{type(value).__name__} is not a BSON type")


_WRITERS: dict[type, Writer] = {
    str: _text,
    int: _int,
    Int64: lambda value: f'{{"$numberLong":"{int.__repr__(value)}"}}',
    bool: lambda value: "true" if value else "false",
    float: _double,
    type(None): lambda _: "null",
    dict: _document,
    list: _array,
    tuple: lambda value: _array(list(value)),
    ObjectId: lambda value: f'{{"$oid":"{value.binary.hex()}"}}',
    DatetimeMS: lambda value: _milliseconds(int(value)),
    datetime: _datetime,
    Decimal128: _decimal,
    Binary: _binary,
    bytes: lambda value: _binary_of(value, 0),
    UUID: lambda value: _binary_of(value.bytes, 4),
    Timestamp: lambda value: f'{{"$timestamp":{{"t":{value.time},"i":{value.inc}}}}}',
    Regex: _regex,
    Code: _code,
    DBRef: lambda value: _document(value.as_doc()),
    MinKey: lambda _: '{"$minKey":1}',
    MaxKey: lambda _: '{"$maxKey":1}',
}


def parse(text: str | bytes) -> Any:
    """The BSON value of a canonical text, as `bson` decodes it (dates as `DatetimeMS`)."""
    options = CANONICAL_JSON_OPTIONS.with_options(
        datetime_conversion=DatetimeConversion.DATETIME_MS, tz_aware=True, document_class=dict
    )
    return json_util.loads(text, json_options=options)
