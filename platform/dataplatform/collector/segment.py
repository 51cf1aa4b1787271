"""The Segment HTTP API: its messages as events of ours, every value the very text that was sent.

`messageId` becomes event_id, `timestamp` event_time, `sentAt` (of the message, else of the batch) sent_at, `userId`
user_id, `anonymousId` device_id, `properties` or `traits` params; a track call's `event` is the event's name, the other
calls have a name of their own (`EVENT_NAMES`). A group's `groupId` and an alias' `previousId` are put among the params. All
other keys of the message stay beside them.
"""

from dataclasses import dataclass, field
from json import loads

import msgspec
from msgspec import Raw

from ..events.sure import UNDECODABLE, has_each_key_once
from .bodies import events_of, frame_of

EVENT_NAMES = {
    "identify": "identify_user_segment",
    "page": "view_page_segment",
    "screen": "view_screen_segment",
    "group": "identify_group_segment",
    "alias": "alias_user_segment",
}
"""Event name of each call that has none of its own; their contracts are in `schemas/events/segment/`."""
KINDS = ("track", *EVENT_NAMES)

_RENAMED = {
    "messageId": "event_id",
    "timestamp": "event_time",
    "sentAt": "sent_at",
    "userId": "user_id",
    "anonymousId": "device_id",
}
_PARAMS = {"track": "properties", "page": "properties", "screen": "properties", "identify": "traits", "group": "traits"}
_ALSO_PARAMS = {"group": b"groupId", "alias": b"previousId"}
"""What these calls say outside of their traits: it becomes a param too, so that it can be a column."""
_LEFT_OUT = ""
_NAMES: dict[str | None, dict[str, str]] = {
    kind: {
        **_RENAMED,
        **({params: "params"} if (params := _PARAMS.get(kind or "track")) else {}),
        "writeKey": _LEFT_OUT,  # who may send, not what was sent
        **({"event": "segment_event"} if kind in EVENT_NAMES else {}),
    }
    for kind in (None, *KINDS)
}
"""Our name of each key of a call that is not called the same."""
_OURS = frozenset({*_RENAMED.values(), "params"})
_ENCODED = {name: b'"%b":' % name.encode() for names in _NAMES.values() for pair in names.items() for name in pair}
_FEW_KEYS = 50
"""So many keys are looked for in the text one by one; more are found by parsing it."""
_SHARED = ("sentAt", "context", "integrations")
"""Keys of a batch that count for each of its messages that has none of its own."""


class _Batch(msgspec.Struct):
    batch: list[Raw]


class _Keyed(msgspec.Struct):
    """Only the key of a body: all else of it is passed over."""

    write_key: Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="writeKey")


_message = msgspec.json.Decoder(dict[str, Raw])
_keyed = msgspec.json.Decoder(_Keyed)
_batch = msgspec.json.Decoder(_Batch)


@dataclass(frozen=True, slots=True)
class Messages:
    """What a request brought: the events, and the write key where the body has one."""

    events: list[bytes]
    write_key: str | None = None
    shared: dict[str, bytes] = field(default_factory=dict)


def messages_of(body: bytes, kind: str | None) -> Messages:
    """The events of a Segment request. `kind` is the call (`track`, …), or None for `/v1/batch` and `/v1/import`.

    Raises Malformed where the body is not JSON, Refusal where it holds too many events.
    """
    if kind is not None:
        raws, outer = [bytes(raw) for raw in events_of(body)], {}
        key = None
        for raw in raws:
            key = key or write_key_of(raw)
    else:
        outer = _keys_of(body) or _keys_of(frame_of(body)) or {}
        raws = [bytes(raw) for raw in events_of(body)]
        key = _write_key(outer)
    shared = {name: bytes(outer[name]) for name in _SHARED if name in outer} if "batch" in outer else {}
    return Messages([event_of(raw, kind, shared) for raw in raws], key, shared)


def event_of(raw: bytes, kind: str | None, shared: dict[str, bytes] | None = None) -> bytes:
    """One message as an event. What is no message, or has a key twice, is given back as it is: the judge says why."""
    keys = _keys_of(raw)
    if keys is None or _may_repeat(raw, keys):
        return raw
    if kind is None:
        told = bytes(keys.get("type", b'""'))
        kind = told[1:-1].decode() if told[1:-1].decode("utf-8", "replace") in KINDS else None
    members: dict[str, bytes] = {}
    params = _PARAMS.get(kind or "track")
    if kind in EVENT_NAMES:
        members["event"] = b'"' + EVENT_NAMES[kind].encode() + b'"'
    names = _NAMES[kind]
    for name, value in keys.items():
        new = names.get(name, name)
        if new == _LEFT_OUT and name in names:
            continue
        if new == name and new in _OURS and _is_taken(new, keys, params, shared or {}):
            new = f"segment_{name}"
        while new in members:
            new = f"segment_{new}"
        members[new] = bytes(value)
    if kind in _ALSO_PARAMS and (text := _with_param(members, _ALSO_PARAMS[kind])) is not None:
        del members[_ALSO_PARAMS[kind].decode()]
        members["params"] = text
    for name, text in (shared or {}).items():
        if name not in keys:
            members.setdefault(_RENAMED.get(name, name), text)
    return b"{%b}" % b",".join([_encoded(name) + value for name, value in members.items()])


def _encoded(name: str) -> bytes:
    return _ENCODED.get(name) or msgspec.json.encode(name) + b":"


def _with_param(members: dict[str, bytes], name: bytes) -> bytes | None:
    """The params with what stands beside them under this name; None where that is not there, or not to be put there."""
    value, params = members.get(name.decode()), members.get("params", b"null")
    if value is None:
        return None
    inner = {} if params == b"null" else _keys_of(params)
    if inner is None or name.decode() in inner:
        return None
    return b'{"%b":%b%b' % (name, value, b"," + params.lstrip()[1:] if inner else b"}")


def _is_taken(name: str, keys: dict[str, Raw], params: str | None, shared: dict[str, bytes]) -> bool:
    """Whether a Segment key of the message (or of the batch) is written under this name of ours."""
    if name == "params":
        return params in keys
    source = next(theirs for theirs, ours in _RENAMED.items() if ours == name)
    return source in keys or source in shared


def _keys_of(raw: bytes) -> dict[str, Raw] | None:
    try:
        return _message.decode(raw)
    except UNDECODABLE:
        return None


def _may_repeat(raw: bytes, keys: dict[str, Raw]) -> bool:
    """Whether the message's own keys (not those inside its values) repeat."""
    if has_each_key_once(raw, keys):
        return False
    suspicious = (
        len(keys) > _FEW_KEYS or b"\\u" in raw or any(raw.count(b'"' + name.encode() + b'"') > 1 for name in keys)
    )
    if not suspicious:
        return False
    try:
        pairs = loads(raw, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return True
    return len(pairs) != len({name for name, _ in pairs})


def write_key_of(body: bytes) -> str | None:
    """The `writeKey` of a body that is an object and has one, even where something else in it is no JSON (NaN, half a pair)."""
    try:
        key = _keyed.decode(body).write_key
    except UNDECODABLE:
        try:
            found = loads(frame_of(body))
        except (ValueError, RecursionError):
            return None
        told = found.get("writeKey") if isinstance(found, dict) else None
        return told if isinstance(told, str) else None
    return None if key is msgspec.UNSET else _write_key({"writeKey": key})


def _write_key(keys: dict[str, Raw] | None) -> str | None:
    if not keys or "writeKey" not in keys:
        return None
    try:
        return msgspec.json.decode(keys["writeKey"], type=str)
    except UNDECODABLE:
        return None
