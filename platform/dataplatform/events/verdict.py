"""Is this event what its contract says? The verdict in Python, from the bytes of one event.

There are two ways to it, which always agree. The quick one decodes straight into types compiled from the contract and
accepts what is surely right; it never refuses. All that is not surely right goes the exact way, which keeps the text of
every number, sees every key, and names every reason. The compiled SQL (sql.py) comes to the same reasons from the landed
record; how each type is read is told in docs/events.md.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from itertools import count as numbers_from
from json import JSONDecodeError, JSONDecoder
from math import isinf
from typing import Annotated, Any, Literal, Union, cast

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import Field
from dataplatform.contracts.patterns import compile_pattern

from . import reasons as why
from .bounds import Bounds, bounds_of
from .reasons import INEXACT_NUMBER, Reason, pointer

MAX_DEPTH = 64
"""Levels of objects and arrays; BigQuery's columns take 15, its JSON 500."""
MAX_ELEMENTS = 10_000
MAX_EVENT_ID = 128
MAX_EVENT_NAME = 300
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

ENVELOPE_TEXTS = ("user_id", "device_id", "session_id", "platform", "app_version")
ENVELOPE_TIMES = ("event_time", "sent_at")

TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?)(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)",
    re.ASCII,
)
"""RFC 3339 with an offset, as BigQuery takes it: no leap second, at most microseconds, offsets up to 14 hours."""
TIME_SURE = re.compile(
    r"(?:19|20)\d\d-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:0\d|1[0-3]):[0-5]\d)",
    re.ASCII,
)
"""Times that exist without looking at a calendar."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
INTEGER_TEXT = re.compile(r"0|-?[1-9][0-9]{0,18}")
DECIMAL_TEXT = re.compile(r"-?(?:0|[1-9][0-9]{0,28})(?:\.[0-9]{1,9})?")

TAB, LINE_FEED, RETURN, SPACE, BACKSLASH = b"\t\n\r \\"
"""As numbers: looking for one of these in bytes is twenty times as fast as looking for bytes of length one."""


class Verdict(msgspec.Struct, frozen=True):
    """What one event is worth.

    `event` is the name as sent, or empty where there is none of 1 to 300 characters; `event_id` likewise, or None.
    `faults` are to be landed with the event. `reasons` is everything that refuses it (empty: accepted); a fault
    `inexact_number` is among them only where the contract's type minds. `contract_version` is None for unknown events.
    Duplicates are not judged here: only the warehouse sees all that was received.
    """

    event: str
    event_id: str | None
    faults: list[Reason]
    reasons: list[Reason]
    contract_version: str | None

    @property
    def accepted(self) -> bool:
        return not self.reasons


class Judge:
    """Verdicts for a set of contracts, by event name. Compiled once; any thread may use it."""

    def __init__(self, contracts: Mapping[str, EventContract]) -> None:
        self._exact = {name: ExactContract(contract) for name, contract in contracts.items()}
        sure = [compile_sure(contract) for contract in contracts.values()]
        self._sure = {contract.envelope: (contract.keys, contract.name, contract.version) for contract in sure}
        self._decode: Callable[[bytes], Any] = (
            msgspec.json.Decoder(Union[tuple(self._sure)]).decode if sure else _never  # noqa: UP007
        )

    def judge(self, raw: bytes) -> Verdict:
        """The verdict on one event, given its JSON text as it arrived."""
        return self.judge_all((raw,))[0]

    def judge_all(self, raws: Sequence[bytes]) -> list[Verdict]:
        """The verdicts on several events, in order; the same as one by one, and quicker."""
        decode, sure = self._decode, self._sure
        times: list[str] = []
        decimals: list[Raw] = []
        time, decimal = times.append, decimals.append
        verdicts = []
        for raw in raws:
            before = len(times)
            try:
                event = decode(raw)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                verdicts.append(self.judge_exactly(raw))
                continue
            keys_of, name, version = sure[type(event)]
            keys = keys_of(event, time, decimal)
            # Of a key that is twice in the text one is lost in the decoded event. Every key is followed by a colon. So if
            # the keys and the times, which have two colons at least, make up all colons of the text, none was lost.
            if (
                keys
                and len(raw) <= SURE_LENGTH
                and (
                    (BACKSLASH not in raw and keys + 2 * (len(times) - before) == raw.count(b":"))
                    or has_no_more_keys(raw, keys)
                )
            ):
                verdicts.append(Verdict(name, event.event_id, [], [], version))
            else:
                verdicts.append(self.judge_exactly(raw))
        if are_sure_times(times) and are_sure_decimals(decimals):
            return verdicts
        if len(raws) == 1:
            return [self.judge_exactly(raws[0])]
        return [self.judge(raw) for raw in raws]

    def judge_exactly(self, raw: bytes) -> Verdict:
        """The same verdict the long way: used for all that is unusual, and by tests to hold the quick way to it."""
        try:
            document = parse(raw)
        except NotJson as error:
            fault = Reason("", error.code, error.message)
            return Verdict("", None, [fault], [fault], None)
        faults: list[Reason] = []
        find_faults(document, "", 0, faults)
        if type(document) is not Object:
            faults.append(Reason("", "not_object", "the event is not a JSON object"))
            return Verdict("", None, faults, [f for f in faults if f.code != INEXACT_NUMBER.code], None)
        broken = {fault.path for fault in faults}
        event, event_id = judge_names(document, broken, faults)
        judge_envelope(document, faults)
        params = document.get("params")
        if params is not None and type(params) is not Object:
            faults.append(Reason("/params", "not_object", "params is not a JSON object"))
        reasons = [fault for fault in faults if fault.code != INEXACT_NUMBER.code]
        readable = not any(why.CODES[fault.code].unreadable for fault in faults)
        contract = self._exact.get(event)
        if contract is None:
            if event:
                reasons.append(why.UNKNOWN_EVENT)
            return Verdict(event, event_id, faults, reasons, None)
        if readable:
            inexact = {fault.path for fault in faults if fault.code == INEXACT_NUMBER.code}
            if inexact:
                harmless = contract.inexact(cast(Object, params or Object()), inexact, reasons)
                faults = [f for f in faults if f.code != INEXACT_NUMBER.code or f.path not in harmless]
            told = {reason.path for reason in reasons}
            found: list[Reason] = []
            contract.judge(params or Object(), found)
            reasons.extend(reason for reason in found if reason.path not in told)
        return Verdict(event, event_id, faults, reasons, contract.version)


def _never(raw: bytes) -> Any:
    raise ValueError(raw)


# -- the exact way: text to values ------------------------------------------------------------------------------------


class Integer(str):
    """A JSON number without fraction and exponent, as its text."""

    __slots__ = ()


class Real(str):
    """A JSON number with a fraction or an exponent, as its text."""

    __slots__ = ()


class Object(dict[str, Any]):
    """A JSON object; `repeated` are the keys it has more than once (the last value is kept)."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, Any]] | None = None) -> None:
        super().__init__(pairs or ())
        self.repeated: list[str] = []
        if pairs and len(pairs) != len(self):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen and key not in self.repeated:
                    self.repeated.append(key)
                seen.add(key)


class NotJson(Exception):
    """The text is not JSON."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _no_constant(name: str) -> Any:
    raise NotJson("not_json", f"{name} is not JSON")


_decoder = JSONDecoder(object_pairs_hook=Object, parse_int=Integer, parse_float=Real, parse_constant=_no_constant)


def parse(raw: bytes) -> Any:
    """JSON text as values that lose nothing: numbers keep their text, objects know their repeated keys."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise NotJson("not_json", f"not UTF-8 at byte {error.start}") from None
    try:
        return _decoder.decode(text)
    except JSONDecodeError as error:
        raise NotJson("not_json", f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise NotJson("too_deep", f"nested deeper than {MAX_DEPTH} levels") from None


def find_faults(value: Any, path: str, depth: int, faults: list[Reason]) -> None:
    """What is wrong with a JSON value whatever it is for; appended to `faults`."""
    kind = type(value)
    if kind is str:
        fault = text_fault(value)
        if fault is not None:
            faults.append(Reason(path, *fault))
    elif kind is Object:
        if depth == MAX_DEPTH:
            faults.append(Reason(path, "too_deep", f"nested deeper than {MAX_DEPTH} levels"))
            return
        faults.extend(
            Reason(pointer(path, readable_key(key)), "duplicate_key", "the key is there twice")
            for key in value.repeated
        )
        for key, member in value.items():
            fault = text_fault(key)
            here = pointer(path, readable_key(key))
            if fault is not None:
                faults.append(Reason(here, *fault))
            if type(member) is not bool and member is not None:
                find_faults(member, here, depth + 1, faults)
    elif kind is list:
        if depth == MAX_DEPTH:
            faults.append(Reason(path, "too_deep", f"nested deeper than {MAX_DEPTH} levels"))
        elif len(value) > MAX_ELEMENTS:
            faults.append(Reason(path, "array_too_long", f"more than {MAX_ELEMENTS} elements"))
        else:
            for index, element in enumerate(value):
                find_faults(element, f"{path}/{index}", depth + 1, faults)
    elif kind is Integer or kind is Real:
        if isinf(float(value)):
            faults.append(Reason(path, "number_too_large", "a number that no type can hold"))
        elif is_inexact(value):
            faults.append(Reason(path, INEXACT_NUMBER.code, INEXACT_NUMBER.message))


def text_fault(text: str) -> tuple[str, str] | None:
    """Code and message of what no text may hold."""
    if "\0" in text:
        return "nul_character", "holds the character U+0000"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "lone_surrogate", "holds half of a surrogate pair"
    return None


def readable_key(key: str) -> str:
    """A key as it can be shown and stored: what is no Unicode text in it is replaced."""
    return key.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def is_inexact(number: str) -> bool:
    """Would a reader that keeps 64-bit integers and floats change this (finite) number?"""
    if type(number) is Integer:
        if len(number) < 19:
            return False
        if len(number) > 400:
            return True
        value = int(number)
        return not INT64_MIN <= value <= INT64_MAX and int(float(number)) != value
    if len(number) < 16 and "e" not in number and "E" not in number:
        return False  # at most 15 digits: floats hold them all
    try:
        return Decimal(number) != Decimal(repr(float(number)))
    except InvalidOperation:  # an exponent beyond all measure
        return True


# -- the exact way: the envelope --------------------------------------------------------------------------------------


def judge_names(document: Object, broken: set[str], faults: list[Reason]) -> tuple[str, str | None]:
    """Event name ("" if unusable) and event id (None if unusable), with the faults of both."""
    texts: list[str | None] = []
    for key, longest in (("event", MAX_EVENT_NAME), ("event_id", MAX_EVENT_ID)):
        path = f"/{key}"
        value = document.get(key)
        texts.append(None)
        if value is None:
            faults.append(Reason(path, "missing", why.MISSING))
        elif type(value) is not str:
            faults.append(Reason(path, "wrong_type", why.WRONG_TYPE["STRING"]))
        elif not 1 <= len(value) <= longest:
            faults.append(Reason(path, "wrong_length", f"not of 1 to {longest} characters"))
        elif path not in broken:
            texts[-1] = value
    return texts[0] or "", texts[1]


def judge_envelope(document: Object, faults: list[Reason]) -> None:
    """Faults of the envelope's optional values."""
    for key in ENVELOPE_TEXTS:
        value = document.get(key)
        if value is not None and type(value) is not str:
            faults.append(Reason(f"/{key}", "wrong_type", why.WRONG_TYPE["STRING"]))
    for key in ENVELOPE_TIMES:
        value = document.get(key)
        if value is not None and (type(value) is not str or read_timestamp(value) is None):
            faults.append(Reason(f"/{key}", "wrong_type", why.WRONG_TYPE["TIMESTAMP"]))


# -- the exact way: values of a type ----------------------------------------------------------------------------------


def read_timestamp(text: str) -> datetime | None:
    """RFC 3339 with an offset, from year 1 to 9999 (in UTC), to the microsecond."""
    match = TIME.fullmatch(text)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_date(text: str) -> date | None:
    if DATE.fullmatch(text) is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def read_int64(value: Any) -> int | None:
    """An integer, or the text of one as BigQuery would write it; the number -0 is 0."""
    if type(value) in (Integer, str) and INTEGER_TEXT.fullmatch(value):
        number = int(value)
        return number if INT64_MIN <= number <= INT64_MAX else None
    return 0 if type(value) is Integer and value == "-0" else None


def read_numeric(value: Any) -> Decimal | None:
    """29 digits before the point and 9 after it; a number counts by its value, a string by its text as well."""
    if type(value) is str:
        return Decimal(value) if DECIMAL_TEXT.fullmatch(value) else None
    if type(value) not in (Integer, Real):
        return None
    if len(value) > 400 or abs(float(value)) >= 1e29:
        return None
    decimal = Decimal(value) if type(value) is Integer else Decimal(repr(float(value)))
    exponent = decimal.normalize().as_tuple().exponent
    return decimal if isinstance(exponent, int) and exponent >= -9 else None


def read_value(field: Field, value: Any) -> Any:
    """The value (of one element, for a repeated field) as Python holds it, or None where it has not the type's form.

    A JSON parameter gives the parsed value itself.
    """
    kind = type(value)
    match field.type:
        case "STRING":
            return value if kind is str else None
        case "INT64":
            return read_int64(value)
        case "FLOAT64":
            return float(value) if kind is Integer or kind is Real else None
        case "NUMERIC":
            return read_numeric(value)
        case "BOOL":
            return value if kind is bool else None
        case "TIMESTAMP":
            return read_timestamp(value) if kind is str else None
        case "DATE":
            return read_date(value) if kind is str else None
        case "STRUCT":
            return value if kind is Object else None
    return value


class ExactField:
    """One field of a contract, ready to judge parsed values."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.bounds: Bounds = bounds_of(field)
        self.pattern = compile_pattern(field.pattern) if field.pattern is not None else None
        self.fields = tuple(ExactField(child) for child in field.fields)

    def judge(self, value: Any, path: str, out: list[Reason]) -> None:
        """Reasons against the value of this field's key (None: missing or null)."""
        if value is None:
            if self.field.required:
                out.append(Reason(path, "missing", why.MISSING))
        elif not self.field.repeated:
            self.judge_one(value, path, out)
        elif type(value) is not list:
            out.append(Reason(path, "wrong_type", why.WRONG_TYPE_REPEATED))
        else:
            for index, element in enumerate(value):
                if element is None:
                    out.append(Reason(f"{path}/{index}", "null_element", why.NULL_ELEMENT))
                else:
                    self.judge_one(element, f"{path}/{index}", out)

    def judge_one(self, value: Any, path: str, out: list[Reason]) -> None:
        read = read_value(self.field, value)
        if read is None:
            out.append(why.wrong_type(self.field, path))
            return
        if self.field.type == "STRUCT":
            judge_members(self.fields, value, path, out)
            return
        bounds = self.bounds
        if bounds.values is not None and read not in bounds.values:
            out.append(why.not_in_values(self.field, path))
        if bounds.min is not None and read < bounds.min:
            out.append(why.too_small(self.field, path))
        if bounds.max is not None and read > bounds.max:
            out.append(why.too_large(self.field, path))
        if self.pattern is not None and self.pattern.fullmatch(read) is None:
            out.append(why.pattern(self.field, path))

    def inexact(self, value: Any, path: str, inexact: set[str], reasons: list[Reason], harmless: set[str]) -> None:
        """Sorts inexact numbers below `path` into reasons (NUMERIC, JSON) and harmless ones (FLOAT64)."""
        if self.field.repeated:
            elements = enumerate(value) if type(value) is list else ()
            below = [(element, f"{path}/{index}") for index, element in elements]
        else:
            below = [(value, path)]
        for element, here in below:
            if self.field.type == "STRUCT":
                if type(element) is Object:
                    for child in self.fields:
                        name = child.field.name
                        child.inexact(element.get(name), pointer(here, name), inexact, reasons, harmless)
            elif self.field.type == "JSON":
                reasons.extend(
                    Reason(spot, INEXACT_NUMBER.code, INEXACT_NUMBER.message)
                    for spot in sorted(inexact)
                    if spot == here or spot.startswith(f"{here}/")
                )
            elif here in inexact and self.field.type == "NUMERIC":
                reasons.append(Reason(here, INEXACT_NUMBER.code, INEXACT_NUMBER.message))
            elif here in inexact and self.field.type == "FLOAT64":
                harmless.add(here)


def judge_members(fields: tuple[ExactField, ...], value: Object, path: str, out: list[Reason]) -> None:
    for child in fields:
        name = child.field.name
        child.judge(value.get(name), f"{path}/{name}", out)


class ExactContract:
    """All parameters of one contract."""

    def __init__(self, contract: EventContract) -> None:
        self.version = contract.version
        self.fields = tuple(ExactField(field) for field in contract.params)

    def judge(self, params: Object, out: list[Reason]) -> None:
        judge_members(self.fields, params, "/params", out)

    def inexact(self, params: Object, inexact: set[str], reasons: list[Reason]) -> set[str]:
        """Adds inexact numbers that matter to `reasons`; the paths of those that surely never will are returned."""
        harmless: set[str] = set()
        for field in self.fields:
            name = field.field.name
            field.inexact(params.get(name), f"/params/{name}", inexact, reasons, harmless)
        return harmless


# -- the quick way ----------------------------------------------------------------------------------------------------


SURE_LENGTH = 2 * MAX_ELEMENTS
"""Bytes of an event in which no array can have too many elements."""

_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_DECIMAL = rb"(?:\"-?(?:0|[1-9][0-9]{0,28})(?:\.[0-9]{1,9})?\"|(?![^\n]{17})-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,9})?)"
DECIMAL_SURE = re.compile(_DECIMAL)
"""Raw JSON of a NUMERIC: a bare number of at most 16 characters has at most 15 digits and so is exact."""
DECIMALS_SURE = re.compile(rb"(?:" + _DECIMAL + rb"\n)*+")
"""Lines of them."""


def are_sure_times(times: list[str]) -> bool:
    """Whether each text surely is a TIMESTAMP. With each digit as 0 and without milliseconds the usual ones are one text."""
    if not times:
        return True
    forms = "\n".join(times).encode().translate(_DIGITS_AS_ZERO) + b"\n"
    if forms.replace(b".000Z", b"Z") != b"0000-00-00T00:00:00Z\n" * len(times):
        return None not in map(TIME_SURE.fullmatch, times)
    try:
        for _ in map(datetime.fromisoformat, times):  # fails for a day or an hour that there is not
            pass
    except ValueError:
        return False
    return True


def are_sure_decimals(decimals: list[Raw]) -> bool:
    """Whether each raw text surely is a NUMERIC."""
    return not decimals or DECIMALS_SURE.fullmatch(b"\n".join([*decimals, b""])) is not None


def read_sure_decimal(decimal: Raw) -> Decimal | None:
    """The NUMERIC of a raw text; None where it is not surely one."""
    raw = bytes(decimal)
    return None if DECIMAL_SURE.fullmatch(raw) is None else Decimal(raw.strip(b'"').decode())


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


type SureKeys = Callable[[Any, Callable[[str], None], Callable[[Raw], None]], int]
"""Of a decoded event: how many keys its text has, if no key is there twice; 0 if it is not surely right.

Times and NUMERICs, which are to be looked at as well, are given to the two functions.
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
        head = f"def sure_keys(event, time, decimal, {defaults}):"
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
        source.add(1, f"v = event.{key}")
        source.add(1, "if v is UNSET: n -= 1")
        if key in ENVELOPE_TIMES:
            source.add(1, "elif v is not None: time(v)")
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
            return Annotated[int, Meta(ge=at_least, le=at_most)]
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
            source.add(level, f"time({value})")
            if not bounds.any:
                return
            read = source.constant(read_timestamp)
        case "DATE":
            read = source.constant(read_date)
        case "NUMERIC":
            if not bounds.any:
                source.add(level, f"decimal({value})")
                return
            read = source.constant(read_sure_decimal)
        case "JSON":
            # Objects and arrays may repeat keys, and numbers may be inexact: only text and constants are sure.
            first = source.constant(b'"tf')
            source.add(level, f"if bytes({value})[0] not in {first}: {NOT_SURE}")
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
