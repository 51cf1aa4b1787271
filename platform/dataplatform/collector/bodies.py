"""A request's body as events: unzipped within bounds, cut into the raw text of each event, nothing re-written."""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from ..events.sure import UNDECODABLE
from .problems import Refusal

MAX_BODY_BYTES = 4 << 20
"""Largest body, before and after unzipping."""
MAX_EVENTS = 1000
"""Most events of one request."""

MAX_GZIP_MEMBERS = 64
"""Most gzip members of one body; a client sends one, a proxy that joins chunks a few."""

_GZIP_STEP = 1 << 16
"""Bytes given to zlib at once. It copies what follows a member, so this bounds the copy of each."""
_MAX_DEPTH = 1000
"""Deeper than any event may be: what is deeper still is not worth the time to find where it ends."""
_SMALL_REST = len('{"batch":[],"batch":[]}') - 1
_LARGE = 400_000
_MANY_COMMAS = 200_000
_BOM = b"\xef\xbb\xbf"
_MAX_BRACKETS = 100_000
"""Brackets looked at in a body that is no JSON: far more than 1000 events have, and read in less than 0.1 s."""
# Everything up to the next bracket (or comma), strings as a whole. Possessive, and a string that never ends reaches to the
# end of the body: so no byte is looked at twice.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+'
_NEXT_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_NEXT_BRACKET_OR_COMMA = re.compile(rb'[^"\[\]{},]*+(?:' + _STRING + rb'[^"\[\]{},]*+)*+([\[\]{},])', re.DOTALL)
_BATCH_KEY = re.compile(rb'"(?:b|\\u0062)(?:a|\\u0061)(?:t|\\u0074)(?:c|\\u0063)(?:h|\\u0068)"')
_NEXT_KEY = re.compile(rb"(?:^\{|[ \t\r\n]*+,)[ \t\r\n]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_SCALAR = re.compile(_STRING + rb'|[^"\[\]{},]++', re.DOTALL)
_ZEROS = re.compile(rb"\0*+")
_BYTE = re.compile(r"\(byte (\d+)\)")
_SPACE = b" \t\r\n"


class _Body(msgspec.Struct):
    """An object that is a batch, or one event."""

    batch: list[Raw] | msgspec.UnsetType = msgspec.UNSET
    event: Raw = Raw(b"")
    event_id: Raw = Raw(b"")


_array = msgspec.json.Decoder(list[Raw])
_object = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Malformed(Exception):
    """The text cannot be cut into events: it is not JSON from byte `offset` (0-based) on."""

    offset: int
    message: str


def unzip(body: bytes, encoding: str, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body without its content encoding; never more than `limit` bytes are unpacked.

    Raises Refusal: 415 for an encoding we do not have, 413 for more than the limit, 400 for what is no gzip, half of one, or
    more than MAX_GZIP_MEMBERS of them. Nothing of a broken gzip body is landed: no text of it can be trusted.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise Refusal(
            415,
            "unknown_encoding",
            f"Content-Encoding {encoding!r} is not understood",
            "send the body as it is, or with Content-Encoding: gzip",
            headers=(("Accept-Encoding", "gzip, identity"),),
        )
    parts, size, at, members, view = [], 0, 0, 0, memoryview(body)
    try:
        while at < len(body):
            members += 1
            if members > MAX_GZIP_MEMBERS:
                raise Refusal(
                    400, "bad_gzip", f"more than {MAX_GZIP_MEMBERS} gzip members", "zip the whole body at once"
                )
            unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
            while not unpacker.eof:
                step = view[at : at + _GZIP_STEP]
                if not step:
                    raise Refusal(400, "bad_gzip", "the gzip body ends before it is complete", "send the whole body")
                part = unpacker.decompress(step, limit - size + 1)
                size += len(part)
                if size > limit:
                    raise too_large(f"more than {limit} bytes when unzipped")
                parts.append(part)
                at += len(step) - len(unpacker.unused_data)
            zeros = _ZEROS.match(body, at)
            at = at if zeros is None else zeros.end()
    except zlib.error as error:
        raise Refusal(
            400, "bad_gzip", f"the body is not gzip: {error}", "send gzip, or leave Content-Encoding away"
        ) from None
    return b"".join(parts)


def too_large(detail: str) -> Refusal:
    return Refusal(413, "too_large", detail, f"send batches of at most {MAX_EVENTS} events and {MAX_BODY_BYTES} bytes")


def events_of(body: bytes) -> Sequence[bytes | Raw]:
    """The text of each event of a body: one event, a JSON array of events, or `{"batch": [events]}`.

    An event that is not JSON by itself (NaN, half a surrogate pair) does not spoil its neighbours: as long as strings and
    brackets show where it begins and ends it is cut out, and judged alone. Raises Malformed where they do not (or where
    there are too many brackets to look at), and Refusal 413 for more events than allowed.
    """
    if body.startswith(_BOM):
        body = body[3:]
    if len(body) > _LARGE and body.count(b",") > _MANY_COMMAS:
        _cut_by_brackets(body)  # so that a million little elements are refused before a million objects stand in memory
    try:
        found = _cut(body)
    except UNDECODABLE as error:
        by_brackets = _cut_by_brackets(body)
        if by_brackets is None or (_is_one_event(body) and not _is_nearly_json(body)):
            raise malformed(body, error) from None
        found = by_brackets
    if len(found) > MAX_EVENTS:
        raise too_large(f"{len(found)} events in one request")
    return found


def _is_one_event(body: bytes) -> bool:
    """Whether a body that begins and ends with braces is no batch: there is no neighbour to be saved from it."""
    return _array_begin(body.strip(_SPACE)) is None


def _is_nearly_json(body: bytes) -> bool:
    """Whether it is JSON but for what has a reason of its own: NaN, half a surrogate pair, too deep."""
    try:
        json.loads(body)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _cut(body: bytes) -> Sequence[bytes | Raw]:
    start = body.lstrip(_SPACE)[:1]
    if start == b"[":
        return _checked(_array.decode(body))
    if start != b"{":
        msgspec.json.decode(body, type=Raw)
        return [body.strip(_SPACE)]
    try:
        whole = _object.decode(body)
    except msgspec.ValidationError:  # `batch` is no array: so it is one event with a strange key
        return [body.strip(_SPACE)]
    if whole.batch is msgspec.UNSET or bytes(whole.event) or bytes(whole.event_id):
        return [body.strip(_SPACE)]
    raws = _checked(whole.batch)
    # A second `batch` would replace the first. Where the events fill the body there is no room for one.
    rest = len(body) - sum(map(len, raws)) - len(raws)
    if rest > _SMALL_REST and _may_have_two_batches(body) and _has_key_twice(body, "batch"):
        raise _two_batches()
    return raws


def _checked(raws: list[Raw]) -> list[Raw]:
    if len(raws) > MAX_EVENTS:
        raise too_large(f"{len(raws)} events in one request")
    return raws


def _may_have_two_batches(body: bytes) -> bool:
    if b"\\u00" not in body:
        return body.count(b'"batch"') > 1
    keys = _BATCH_KEY.finditer(body)
    return next(keys, None) is not None and next(keys, None) is not None


def _two_batches() -> Refusal:
    return Refusal(400, "two_batches", "the body has the key `batch` twice", "send one batch in a request")


def _has_key_twice(body: bytes, key: str) -> bool:
    pairs: list[tuple[str, object]] = json.loads(body, object_pairs_hook=list)
    return sum(name == key for name, _ in pairs) > 1


def _cut_by_brackets(body: bytes) -> list[bytes] | None:
    """Elements of the array (or of the batch) as strings and brackets delimit them; None where these do not balance."""
    body = body.strip(_SPACE)
    begin = _array_begin(body)
    if begin is None:
        return [body] if body[:1] == b"{" and _balance(body, 0) == len(body) else None
    stack, cuts, end, at = [b"["], [begin], -1, begin
    closing = {b"[": b"]", b"{": b"}"}
    brackets = 0
    while stack:
        found = (_NEXT_BRACKET_OR_COMMA if len(stack) == 1 else _NEXT_BRACKET).match(body, at)
        if found is None:
            return None
        text, at = found[1], found.end()
        if text == b",":
            cuts.append(at)
            if len(cuts) > MAX_EVENTS:
                raise too_large(f"more than {MAX_EVENTS} events in one request")
            continue
        brackets += 1
        if brackets > _MAX_BRACKETS:
            return None
        if text in closing:
            stack.append(text)
            if len(stack) > _MAX_DEPTH:
                return None
        elif closing[stack.pop()] != text:
            return None
        end = at - 1
    if not _ends_well(body, end + 1):
        return None
    elements = [
        body[start : (cuts[index + 1] - 1 if index + 1 < len(cuts) else end)].strip(_SPACE)
        for index, start in enumerate(cuts)
    ]
    if elements == [b""]:
        return []
    return None if b"" in elements else elements


def _array_begin(body: bytes) -> int | None:
    """Where the elements begin: of the array, or of an object's `batch`, whatever keys stand before it; None where there is none."""
    if body[:1] == b"[":
        return 1
    at = 0
    while (key := _NEXT_KEY.match(body, at)) is not None:
        at = key.end()
        if _BATCH_KEY.fullmatch(key[1]):
            return at + 1 if body[at : at + 1] == b"[" else None
        if key[1] in (b'"event"', b'"event_id"'):
            return None
        if body[at : at + 1] in (b"[", b"{"):
            at = _balance(body, at)
        else:
            at = scalar.end() if (scalar := _SCALAR.match(body, at)) else -1
        if at < 0:
            return None
    return None


def frame_of(body: bytes) -> bytes:
    """A batch without its elements, so that its other keys can be read where one of these is no JSON; else the body itself."""
    body = body.removeprefix(_BOM).strip(_SPACE)
    begin = _array_begin(body) if body[:1] == b"{" else None
    end = -1 if begin is None else _balance(body, begin - 1)
    return body if end < 0 else body[:begin] + body[end - 1 :]


def _ends_well(body: bytes, end: int) -> bool:
    rest = body[end:].strip(_SPACE)
    if body[:1] == b"[":
        return not rest
    if rest == b"}":
        return True
    if rest[:1] != b",":
        return False
    try:
        others = msgspec.json.decode(b"{" + rest[1:], type=dict[str, Raw])
    except UNDECODABLE:
        return False
    if "batch" in others:
        raise _two_batches()
    return True


def _balance(body: bytes, begin: int) -> int:
    """Where the bracket at `begin` closes (the index after it), or -1."""
    depth, at = 0, begin
    for _ in range(_MAX_BRACKETS):
        found = _NEXT_BRACKET.match(body, at)
        if found is None:
            return -1
        at = found.end()
        depth += 1 if found[1] in (b"{", b"[") else -1
        if depth > _MAX_DEPTH:
            return -1
        if depth == 0:
            return at
    return -1


def malformed(body: bytes, error: Exception) -> Malformed:
    """Where and why a body is no JSON."""
    match = _BYTE.search(str(error))
    if match is not None:
        return Malformed(int(match[1]), str(error))
    if isinstance(error, RecursionError):
        return Malformed(0, "nested too deep")
    return Malformed(len(body), str(error))
