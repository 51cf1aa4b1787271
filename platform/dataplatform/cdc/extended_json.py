"""Canonical Extended JSON (MongoDB specification, version 2): the one text form of a document.

It is compact (no blanks) and keeps every BSON type apart, so that two documents are equal exactly when their texts are. The text
is built directly, by a table from type to writer, which costs a third of `bson.json_util`; the tests hold the two together.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite, isnan
from typing import Any
from uuid import UUID

import msgspec
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from bson.json_util import CANONICAL_JSON_OPTIONS

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, tz_aware=True, unicode_decode_error_handler="replace"
)
"""How documents are decoded here: dates as milliseconds, because Python's dates end at the year 9999; text that is not UTF-8
(servers do not look) with U+FFFD where it is not, because one document must not stop a stream."""

type Writer = Callable[[Any], bytes]

_text: Callable[[str], bytes] = msgspec.json.Encoder().encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def canonical(value: Any) -> str:
    """The canonical Extended JSON of a decoded BSON value or document."""
    return _any(value).decode()


def _any(value: Any) -> bytes:
    return (_WRITERS.get(type(value)) or _other)(value)


def _document(value: Mapping[str, Any]) -> bytes:
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
    return b"{" + b",".join(parts) + b"}"


def _array(value: Sequence[Any]) -> bytes:
    writers = _WRITERS
    return b"[" + b",".join([(writers.get(type(item)) or _other)(item) for item in value]) + b"]"


_keys: dict[str, bytes] = {}
_MAX_KEYS = 20_000


def _key(key: str) -> bytes:
    """`"key":`, remembered while there is room: field names repeat in every document."""
    head = _text(key) + b":"
    if len(_keys) < _MAX_KEYS and len(key) <= 64:
        _keys[key] = head
    return head


def _int(value: int) -> bytes:
    return (b'{"$numberInt":"%d"}' if -2147483648 <= value <= 2147483647 else b'{"$numberLong":"%d"}') % value


def _double(value: float) -> bytes:
    if isfinite(value):
        return b'{"$numberDouble":"%a"}' % value
    if isnan(value):
        return b'{"$numberDouble":"NaN"}'
    return b'{"$numberDouble":"Infinity"}' if value > 0 else b'{"$numberDouble":"-Infinity"}'


def _decimal(value: Decimal128) -> bytes:
    return b'{"$numberDecimal":"%s"}' % _decimal_text(value).encode()


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


def _binary(value: Binary) -> bytes:
    return _binary_of(value, value.subtype)


def _binary_of(value: bytes, subtype: int) -> bytes:
    return b'{"$binary":{"base64":"%s","subType":"%02x"}}' % (base64.b64encode(value), subtype)


def _regex(value: Regex[Any]) -> bytes:
    pattern = value.pattern if isinstance(value.pattern, str) else value.pattern.decode()
    options = "".join(letter for letter, flag in _REGEX_FLAGS if value.flags & flag)
    return b'{"$regularExpression":{"pattern":%s,"options":"%s"}}' % (_text(pattern), options.encode())


_REGEX_FLAGS = (("i", 2), ("l", 4), ("m", 8), ("s", 16), ("u", 32), ("x", 64))


def _code(value: Code) -> bytes:
    if value.scope is None:
        return b'{"$code":%s}' % _text(str(value))
    return b'{"$code":%s,"$scope":%s}' % (_text(str(value)), _document(value.scope))


def _datetime(value: datetime) -> bytes:
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return _milliseconds((aware - _EPOCH) // _MILLISECOND)


_MILLISECOND = datetime(1970, 1, 1, 0, 0, 0, 1000) - datetime(1970, 1, 1)  # noqa: DTZ001  # a difference


def _milliseconds(value: int) -> bytes:
    return b'{"$date":{"$numberLong":"%d"}}' % value


def _other(value: Any) -> bytes:
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
    Int64: lambda value: b'{"$numberLong":"%d"}' % value,
    bool: lambda value: b"true" if value else b"false",
    float: _double,
    type(None): lambda _: b"null",
    dict: _document,
    list: _array,
    tuple: _array,
    ObjectId: lambda value: b'{"$oid":"%s"}' % value.binary.hex().encode(),
    DatetimeMS: lambda value: _milliseconds(int(value)),
    datetime: _datetime,
    Decimal128: _decimal,
    Binary: _binary,
    bytes: lambda value: _binary_of(value, 0),
    UUID: lambda value: _binary_of(value.bytes, 4),
    Timestamp: lambda value: b'{"$timestamp":{"t":%d,"i":%d}}' % (value.time, value.inc),
    Regex: _regex,
    Code: _code,
    DBRef: lambda value: _document(value.as_doc()),
    MinKey: lambda _: b'{"$minKey":1}',
    MaxKey: lambda _: b'{"$maxKey":1}',
}


def parse(text: str | bytes) -> Any:
    """The BSON value of a canonical text, as `bson` decodes it (dates as `DatetimeMS`); ValueError where it is none."""
    options = CANONICAL_JSON_OPTIONS.with_options(
        datetime_conversion=DatetimeConversion.DATETIME_MS, tz_aware=True, document_class=dict
    )
    try:
        return json_util.loads(text, json_options=options)
    except (BSONError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
