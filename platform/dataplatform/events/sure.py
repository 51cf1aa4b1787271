"""Decoding what is surely right: the quick way to a verdict, by types that are compiled from a contract.

It accepts or is not sure; it never refuses. Whatever it accepts, the exact way accepts (held by random tests).
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from itertools import count as numbers_from
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import Field
from dataplatform.contracts.patterns import compile_pattern

from .bounds import bounds_of
from .exact import (
    ENVELOPE_TEXTS,
    ENVELOPE_TIMES,
    INT64_MAX,
    INT64_MIN,
    MAX_ELEMENTS,
    MAX_EVENT_ID,
    NotJson,
    find_faults,
    parse,
    read_date,
    read_timestamp,
)
from .reasons import Reason

TAB, LINE_FEED, RETURN, SPACE, BACKSLASH = b"\t\n\r \\"
"""As numbers: looking for one of these in bytes is twenty times as fast as looking for bytes of length one."""

SURE_LENGTH = 2 * MAX_ELEMENTS
"""Bytes of an event in which no array can have too many elements."""
TIME_SURE = re.compile(
    r"(?:19|20)\d\d-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:0\d|1[0-3]):[0-5]\d)",
    re.ASCII,
)
"""Times that exist without looking at a calendar."""
ENVELOPE = frozenset({"event_id", "event", "params", *ENVELOPE_TIMES, *ENVELOPE_TEXTS})
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was asked for; the second for keys that are not UTF-8."""
_REMEMBERED = 2000
"""Bytes of the longest value that is remembered to be faultless."""
_members = msgspec.json.Decoder(dict[str, Raw])
_FEW_TIMES = 6
"""So many are quicker looked at one by one."""
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_DECIMAL = rb"(?:\"-?(?:0|[1-9][0-9]{0,28})(?:\.[0-9]{1,9})?\"|(?![^\n]{17})-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,9})?)"
INTEGER_SURE = r"^(?:0|-?[1-9][0-9]{0,17})\Z"
"""The text of an INT64, in range by its length."""
DECIMAL_SURE = re.compile(_DECIMAL)
"""Raw JSON of a NUMERIC: a bare number of at most 16 characters has at most 15 digits and so is exact."""
DECIMALS_SURE = re.compile(rb"(?:" + _DECIMAL + rb"\n)*+")
"""Lines of them."""


def are_sure_times(times: list[str]) -> bool:
    """Whether each text surely is a TIMESTAMP. With each digit as 0 and without milliseconds the usual ones are one text."""
    if len(times) > _FEW_TIMES:
        forms = "\n".join(times).encode().translate(_DIGITS_AS_ZERO) + b"\n"
        if forms.replace(b".000Z", b"Z") == b"0000-00-00T00:00:00Z\n" * len(times):
            try:
                msgspec.convert(times, list[datetime])  # fails for a day or an hour that there is not
            except msgspec.ValidationError:
                return False
            return True
    return None not in map(TIME_SURE.fullmatch, times)


def are_sure_decimals(decimals: list[Raw]) -> bool:
    """Whether each raw text surely is a NUMERIC."""
    return not decimals or DECIMALS_SURE.fullmatch(b"\n".join([*decimals, b""])) is not None


def read_sure_decimal(decimal: Raw) -> Decimal | None:
    """The NUMERIC of a raw text; None where it is not surely one."""
    raw = bytes(decimal)
    return None if DECIMAL_SURE.fullmatch(raw) is None else Decimal(raw.strip(b'"').decode())


def is_sure_json(value: bytes) -> bool:
    """Whether the raw text of a JSON parameter surely is right: text that was passed over is not known to be UTF-8."""
    return value[0] in b'"tf' and (value.isascii() or is_utf8(value))


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def has_no_more_keys(raw: bytes, keys: int) -> bool:
    """Whether a JSON text surely has so many keys, given that it has as many at least, and nothing that no text may hold.

    Where no quote is followed by white space, the colon of a key follows its quote at once.
    """
    return (
        keys == raw.count(b'":')
        and raw.find(b"\\u0000") < 0
        and not (LINE_FEED in raw or RETURN in raw or TAB in raw)
        and (SPACE not in raw or raw.find(b'" ') < 0)
    )


def are_surely_right(raws: Sequence[bytes | Raw], keys: int, times: list[str], decimals: list[Raw]) -> bool:
    """Whether events that could be decoded surely are right, given their texts and what all of them hold together.

    Of a key that is twice in a text one is lost in the decoded event. Every key is followed by a colon. So if the keys and
    the times, which have two colons at least, make up all colons of the texts, none was lost from any of them.
    """
    text = b"".join(raws)
    if len(text) > SURE_LENGTH and max(map(len, raws)) > SURE_LENGTH:
        return False
    if (BACKSLASH in text or keys + 2 * len(times) != text.count(b":")) and not has_no_more_keys(text, keys):
        return False
    return are_sure_times(times) and are_sure_decimals(decimals)


def without_unknown_keys(raw: bytes) -> bytes | None:
    """An event's text without the keys beside its envelope, where these are surely without fault; None where there are none.

    No contract looks at them (Segment's `context`, `type`, `integrations`), so what is left has the verdict of the whole.
    """
    if len(raw) > SURE_LENGTH:
        return None
    try:
        members = _members.decode(raw)
    except UNDECODABLE:
        return None
    unknown = members.keys() - ENVELOPE
    if not unknown or not has_each_key_once(raw, members):
        return None
    for name in unknown:
        if not (name.isascii() and name.isprintable() and is_faultless(bytes(members[name]))):
            return None
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), members[name]) for name in members if name in ENVELOPE)


def has_each_key_once(raw: bytes, members: dict[str, Raw]) -> bool:
    """Whether an object, decoded to these members, surely had no others: the quotes of a lost one's key would be left over."""
    return raw.count(b'"') == 2 * len(members) + b"".join(members.values()).count(b'"')


@lru_cache(maxsize=4096)
def _is_faultless(value: bytes) -> bool:
    faults: list[Reason] = []
    try:
        find_faults(parse(value), "", 1, faults)
    except NotJson:
        return False
    return not faults


def is_faultless(value: bytes) -> bool:
    """Whether the text of a member's value has nothing wrong with it; what senders repeat is remembered."""
    return (_is_faultless if len(value) <= _REMEMBERED else _is_faultless.__wrapped__)(value)


type SureKeys = Callable[[Any, list[str], list[Raw]], int]
"""Of a decoded event: how many keys its text has, if no key is there twice; 0 if it is not surely right.

Times and NUMERICs, which are to be looked at as well, are added to the two lists.
"""

NOT_SURE = "return 0"


class SureContract(msgspec.Struct, frozen=True):
    """What decodes an event that is surely right, and what looks at it then."""

    name: str
    version: str
    envelope: type
    keys: SureKeys


class Source:
    """Python source of one SureKeys function."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"UNSET": UNSET}
        self.numbers = numbers_from()

    def add(self, level: int, line: str) -> None:
        self.lines.append("    " * level + line)

    def constant(self, value: Any) -> str:
        name = f"c{next(self.numbers)}"
        self.names[name] = value
        return name

    def compile(self, event: str) -> SureKeys:
        # Constants are given as defaults of parameters: a local name is found faster than a global one.
        defaults = ", ".join(f"{name}={name}" for name in self.names)
        head = f"def sure_keys(event, times, decimals, {defaults}):"
        code = compile("\n".join([head, *self.lines]), f"<verdict on {event}>", "exec")
        exec(code, self.names)  # noqa: S102  # nothing of the contract's text is in it, only numbered names
        return cast(SureKeys, self.names["sure_keys"])


def compile_sure(contract: EventContract) -> SureContract:
    """The type an event of this contract decodes to, and what counts its keys."""
    source = Source()
    keys = (*ENVELOPE_TIMES, *ENVELOPE_TEXTS)
    source.add(1, f"n = {len(keys) + 2}")
    members: list[Any] = [("event_id", Annotated[str, Meta(min_length=1, max_length=MAX_EVENT_ID)])]
    for key in keys:
        members.append((key, str | None | UnsetType, UNSET))
        if key in ENVELOPE_TIMES:
            source.add(1, f"v = event.{key}")
            source.add(1, "if v is UNSET: n -= 1")
            source.add(1, "elif v is not None: times.append(v)")
        else:
            source.add(1, f"if event.{key} is UNSET: n -= 1")
    params = sure_struct(contract.params)
    source.add(1, "p0 = event.params")
    if any(field.required for field in contract.params):
        members.append(("params", params))
        source.add(1, "n += 1")
        check_members(source, contract.params, "p0", 1)
    else:
        members.append(("params", params | None | UnsetType, UNSET))
        source.add(1, "if p0 is not UNSET:")
        source.add(2, "n += 1")
        source.add(2, "if p0 is not None:")
        check_members(source, contract.params, "p0", 3)
    source.add(1, "return n")
    envelope = msgspec.defstruct(
        "Event", members, kw_only=True, tag_field="event", tag=contract.name, forbid_unknown_fields=True, gc=False
    )
    return SureContract(contract.name, contract.version, envelope, source.compile(contract.name))


def sure_struct(fields: tuple[Field, ...]) -> Any:
    """A type that decodes an object of these fields and nothing else. Members are numbered: any name is a valid key."""
    members: list[Any] = []
    for index, field in enumerate(fields):
        kind: Any = sure_type(field)
        if field.repeated:
            kind = list.__class_getitem__(kind)
        if field.required:
            members.append((f"f{index}", kind))
        elif kind is Raw:
            members.append((f"f{index}", Raw, UNSET))  # no union has raw text in it; null is then the text `null`
        else:
            members.append((f"f{index}", kind | None | UnsetType, UNSET))
    names = {f"f{index}": field.name for index, field in enumerate(fields)}
    return msgspec.defstruct("Fields", members, kw_only=True, rename=names, forbid_unknown_fields=True, gc=False)


def sure_type(field: Field) -> Any:
    """A type that decodes what is surely of the field's type; what else is right goes the exact way."""
    bounds = bounds_of(field)
    match field.type:
        case "STRING":
            return Literal[tuple(sorted(bounds.values))] if bounds.values else str
        case "INT64":
            at_least = max(bounds.min, INT64_MIN) if bounds.min is not None else INT64_MIN
            at_most = min(bounds.max, INT64_MAX) if bounds.max is not None else INT64_MAX
            number: Any = Annotated[int, Meta(ge=at_least, le=at_most)]
            return number if bounds.any else number | Annotated[str, Meta(pattern=INTEGER_SURE)]
        case "FLOAT64":
            return float
        case "BOOL":
            return bool
        case "TIMESTAMP" | "DATE":
            return str
        case "STRUCT":
            return sure_struct(field.fields)
    return Raw


def check_members(source: Source, fields: tuple[Field, ...], owner: str, level: int) -> None:
    """Counts the keys of `owner` and looks at what its type alone does not hold."""
    source.add(level, f"n += {len(fields)}")
    for index, field in enumerate(fields):
        value = f"v{next(source.numbers)}"
        checks = Source()
        checks.names, checks.numbers = source.names, source.numbers
        inner = level if field.required else level + 1
        if field.repeated:
            checks.add(inner, f"for x{value} in {value}:")
            check_value(checks, field, f"x{value}", inner + 1)
            if len(checks.lines) == 1:
                checks.lines.clear()
        else:
            check_value(checks, field, value, inner)
        if field.required and not checks.lines:
            continue
        source.add(level, f"{value} = {owner}.f{index}")
        if not field.required:
            source.add(level, f"if {value} is UNSET: n -= 1")
            if checks.lines:
                absent = "bytes({}) != b'null'" if sure_type(field) is Raw and not field.repeated else "{} is not None"
                source.add(level, f"elif {absent.format(value)}:")
        source.lines.extend(checks.lines)


def check_value(source: Source, field: Field, value: str, level: int) -> None:
    bounds = bounds_of(field)
    match field.type:
        case "STRUCT":
            check_members(source, field.fields, value, level)
            return
        case "TIMESTAMP":
            source.add(level, f"times.append({value})")
            if not bounds.any:
                return
            read = source.constant(read_timestamp)
        case "DATE":
            read = source.constant(read_date)
        case "NUMERIC":
            if not bounds.any:
                source.add(level, f"decimals.append({value})")
                return
            read = source.constant(read_sure_decimal)
        case "JSON":
            # Objects and arrays may repeat keys, and numbers may be inexact: only text and constants are sure.
            source.add(level, f"if not {source.constant(is_sure_json)}(bytes({value})): {NOT_SURE}")
            return
        case _:
            read = ""
    if read:
        read_value_name = f"r{value}"
        source.add(level, f"{read_value_name} = {read}({value})")
        source.add(level, f"if {read_value_name} is None: {NOT_SURE}")
        value = read_value_name
    if bounds.values is not None and field.type != "STRING":
        source.add(level, f"if {value} not in {source.constant(bounds.values)}: {NOT_SURE}")
    if field.type != "INT64":
        if bounds.min is not None:
            source.add(level, f"if {value} < {source.constant(bounds.min)}: {NOT_SURE}")
        if bounds.max is not None:
            source.add(level, f"if {value} > {source.constant(bounds.max)}: {NOT_SURE}")
    if field.pattern is not None:
        matches = source.constant(compile_pattern(field.pattern).fullmatch)
        source.add(level, f"if {matches}({value}) is None: {NOT_SURE}")
