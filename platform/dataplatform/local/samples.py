"""Made-up events of any contract: parameters that keep it, and events that break it in every way there is.

Everything follows from a `random.Random`: the same seed makes the same events.
"""

import copy
import math
import re._constants as constants  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from random import Random
from typing import Any

import msgspec

from ..contracts.events import EventContract
from ..contracts.fields import Field
from ..contracts.patterns import compile_pattern
from ..events.verdict import Judge

LATEST = datetime(2026, 6, 1, tzinfo=UTC)
"""About when the made-up parameters' own dates and times lie; bounds of a contract move them."""
PRESENT = 0.85
"""How often an optional parameter is there."""

_WORDS = ("bicycle", "sofa", "desk", "camera", "jacket", "lamp", "guitar", "toaster", "stroller", "keyboard", "plant",
          "tent", "boots", "clock", "mirror", "piano", "chair", "helmet", "book", "console", "blue", "small", "old",
          "like new", "with box", "for pickup", "장난감", "자전거", "의자", "중고", "거의 새것", "émaillé", "🪑", "🚲")  # fmt: skip
_NAMES = ("Kim", "Lee", "Park", "Choi", "Jung", "Tanaka", "Smith", "Garcia", "Nguyen", "Kowalski")
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_. /:"


@dataclass(frozen=True, slots=True)
class Broken:
    """An event that is rejected with `code` among its reasons, given as the text before and after its id (None: it has none).

    `event` and `has_id` are what is still known about it: the name is empty where not even that can be read.
    """

    code: str
    event: str
    has_id: bool
    before: bytes
    after: bytes | None

    def text(self, event_id: bytes) -> bytes:
        """The whole event."""
        return self.before if self.after is None else self.before + event_id + self.after


def params_of(contract: EventContract, random: Random) -> dict[str, Any]:
    """Parameters that the contract accepts, in JSON's types."""
    return _struct(contract.params, random)


def valid_params(contract: EventContract, judge: Judge, random: Random, count: int) -> list[bytes]:
    """JSON texts of `count` sets of parameters, each accepted by the judge.

    Raises ValueError where none is found, such as for a pattern that hardly any text matches.
    """
    found: list[bytes] = []
    for _ in range(count * 3):
        text = msgspec.json.encode(params_of(contract, random))
        if judge.judge(_event(contract.name, text)).accepted:
            found.append(text)
            if len(found) == count:
                break
    if not found:
        raise ValueError(f"cannot make up parameters that {contract.name} accepts")
    return found


def broken_events(contract: EventContract, judge: Judge, random: Random) -> list[Broken]:
    """One event for each way in which an event of this contract can be rejected, each confirmed by the judge."""
    found: list[Broken] = []
    for code, break_params in _BREAK_PARAMS.items():
        for _ in range(5):
            params = _full_struct(contract.params, random)
            places = [place for place in _places(contract.params, params) if break_params(place)]
            if places:
                text = _event(contract.name, msgspec.json.encode(params))
                if (broken := _confirmed(code, text, judge)) is not None:
                    found.append(broken)
                    break
    params_text = msgspec.json.encode(params_of(contract, random))
    for code, text in _broken_texts(contract.name, params_text):
        if (broken := _confirmed(code, text, judge)) is not None:
            found.append(broken)
    return found


_ID = b"sample-id"


def _event(name: str, params: bytes) -> bytes:
    return b'{"event_id":"%b","event":"%b","params":%b}' % (_ID, name.encode(), params)


def _confirmed(code: str, text: bytes, judge: Judge) -> Broken | None:
    verdict = judge.judge(text)
    if code not in {reason.code for reason in verdict.reasons}:
        return None
    before, found, after = text.partition(_ID)
    if not found:
        return Broken(code, verdict.event, verdict.event_id is not None, text, None)
    return Broken(code, verdict.event, verdict.event_id is not None, before, after)


def _broken_texts(name: str, params: bytes) -> Iterator[tuple[str, bytes]]:
    """Events that are broken as texts, whatever the contract: what the door alone can find."""
    event = _event(name, params)

    def beside(key: str, value: bytes) -> bytes:
        return event[:-1] + b',"%b":%b}' % (key.encode(), value)

    yield "not_json", beside("score", b"NaN")
    yield "not_json", beside("score", b"01")
    yield "not_object", b'{"event_id":"%b","event":"%b","params":[1]}' % (_ID, name.encode())
    yield "duplicate_key", event[:-1] + b',"event_id":"another"}'
    yield "nul_character", beside("note", rb'"a\u0000b"')
    yield "lone_surrogate", beside("note", rb'"\ud83d"')
    yield "too_deep", beside("deep", b"[" * 80 + b"]" * 80)
    yield "array_too_long", beside("long", b"[" + b"0," * 10_000 + b"0]")
    yield "number_too_large", beside("huge", b"1e999")
    yield "wrong_length", event.replace(_ID, _ID + b"x" * 200)
    yield "missing", b'{"event":"%b","params":%b}' % (name.encode(), params)
    yield "wrong_type", beside("event_time", b'"yesterday"')
    yield "wrong_type", beside("user_id", b"17")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a field's value stands in made-up parameters."""

    holder: dict[str, Any]
    field: Field

    def set(self, value: Any) -> bool:
        self.holder[self.field.name] = [value] if self.field.repeated else value
        return True


def _places(fields: tuple[Field, ...], params: dict[str, Any]) -> Iterator[_Place]:
    for field in fields:
        if field.name not in params:
            continue
        value = params[field.name]
        if field.type == "STRUCT":
            for inner in value if field.repeated else [value]:
                yield from _places(field.fields, inner)
        yield _Place(params, field)


def _without(place: _Place) -> bool:
    return place.field.required and place.holder.pop(place.field.name, None) is not None


def _of_wrong_type(place: _Place) -> bool:
    wrong: dict[str, Any] = {"STRING": 7, "BOOL": "yes", "STRUCT": "none", "TIMESTAMP": "now", "DATE": "2026-02-30"}
    return place.field.type != "JSON" and place.set(wrong.get(place.field.type, "a lot"))


def _not_of_the_values(place: _Place) -> bool:
    return place.field.values is not None and place.field.type == "STRING" and place.set("something else")


def _beyond(place: _Place, *, below: bool) -> bool:
    field = place.field
    bound = field.min if below else field.max
    if bound is None or field.type not in ("INT64", "FLOAT64", "NUMERIC"):
        return False
    beyond = Decimal(str(bound)) + (-1 if below else 1)
    return place.set(str(beyond) if field.type == "NUMERIC" else int(beyond))


def _against_the_pattern(place: _Place) -> bool:
    if place.field.pattern is None:
        return False
    matcher = compile_pattern(place.field.pattern)
    wrong = next((text for text in ("", "\n", "~" * 2000) if not matcher.fullmatch(text)), None)
    return wrong is not None and place.set(wrong)


def _with_null(place: _Place) -> bool:
    return place.field.repeated and place.set(None)


def _inexact(place: _Place) -> bool:
    return place.field.type == "NUMERIC" and place.set(msgspec.Raw(b"0.12345678901234567890123"))


_BREAK_PARAMS: dict[str, Callable[[_Place], bool]] = {
    "missing": _without,
    "wrong_type": _of_wrong_type,
    "not_in_values": _not_of_the_values,
    "too_small": lambda place: _beyond(place, below=True),
    "too_large": lambda place: _beyond(place, below=False),
    "pattern": _against_the_pattern,
    "null_element": _with_null,
    "inexact_number": _inexact,
}


def _full_struct(fields: tuple[Field, ...], random: Random) -> dict[str, Any]:
    """Parameters with every optional one present."""
    return copy.deepcopy(_struct(fields, random, present=1.0))


def _struct(fields: tuple[Field, ...], random: Random, present: float = PRESENT) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in fields:
        if field.required or random.random() < present:
            if field.repeated:
                made[field.name] = [_value(field, random, present) for _ in range(random.randint(1, 3))]
            else:
                made[field.name] = _value(field, random, present)
    return made


def _value(field: Field, random: Random, present: float) -> Any:
    if field.type == "STRUCT":
        return _struct(field.fields, random, present)
    if field.values:
        value = random.choice(field.values)
        return str(value) if field.type == "NUMERIC" else value
    return _MAKERS[field.type](field, random)


def _string(field: Field, random: Random) -> str:
    if field.pattern is not None:
        return text_of_pattern(field.pattern, random)
    name = field.name.lower()
    if name == "id" or name.endswith(("_id", "_ids")):
        return f"{name.removesuffix('s').removesuffix('_id')}-{int(random.paretovariate(0.4)) % 1_000_000}"
    if "name" in name:
        return f"{random.choice(_NAMES)} {random.choice(_NAMES)}"
    if "email" in name:
        return f"{random.choice(_NAMES).lower()}{random.randrange(10_000)}@example.com"
    if "url" in name:
        return f"https://example.com/{random.randrange(1_000_000)}"
    return " ".join(random.choices(_WORDS, k=random.randint(1, 5)))


def _bounds(field: Field, low: Decimal, span: Decimal) -> tuple[Decimal, Decimal]:
    least = Decimal(str(field.min)) if field.min is not None else None
    most = Decimal(str(field.max)) if field.max is not None else None
    if least is None:
        least = low if most is None or most >= low else most - span
    return least, most if most is not None else least + span


def _integer(field: Field, random: Random) -> int:
    low, high = _bounds(field, Decimal(0), Decimal(10_000))
    least, most = int(low.to_integral_value(ROUND_CEILING)), int(high.to_integral_value(ROUND_FLOOR))
    return least + int((most - least + 1) ** random.random()) - 1


def _float(field: Field, random: Random) -> float:
    low, high = _bounds(field, Decimal(0), Decimal(1000))
    value = random.uniform(float(low), float(high))
    rounded = round(value, 4)
    return rounded if float(low) <= rounded <= float(high) else value


def _numeric(field: Field, random: Random) -> str:
    low, high = _bounds(field, Decimal(0), Decimal(100_000))
    span = float(high - low)
    value = low + Decimal(math.expm1(random.random() * math.log1p(span))).quantize(Decimal("0.01"))
    return str(min(max(value, low), high))


def _timestamp(field: Field, random: Random) -> str:
    low = datetime.fromisoformat(str(field.min)) if field.min is not None else LATEST - timedelta(days=90)
    high = datetime.fromisoformat(str(field.max)) if field.max is not None else low + timedelta(days=90)
    return (low + (high - low) * random.random()).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _date(field: Field, random: Random) -> str:
    low = date.fromisoformat(str(field.min)) if field.min is not None else LATEST.date() - timedelta(days=9000)
    high = date.fromisoformat(str(field.max)) if field.max is not None else low + timedelta(days=9000)
    return (low + timedelta(days=random.randint(0, (high - low).days))).isoformat()


def _json(_: Field, random: Random) -> Any:
    return {"kind": random.choice(_WORDS[:8]), "rank": random.randrange(50), "tags": random.sample(_WORDS[:8], 2)}


_MAKERS: dict[str, Callable[[Field, Random], Any]] = {
    "STRING": _string,
    "INT64": _integer,
    "FLOAT64": _float,
    "NUMERIC": _numeric,
    "BOOL": lambda _, random: random.random() < 0.5,
    "TIMESTAMP": _timestamp,
    "DATE": _date,
    "JSON": _json,
}


def text_of_pattern(pattern: str, random: Random) -> str:
    """A text that the regular expression matches as a whole; of open repetitions it takes few."""
    return "".join(_from_tokens(_parsed(pattern), random))


@lru_cache(maxsize=1024)
def _parsed(pattern: str) -> Any:
    return parser.parse(pattern)


def _from_tokens(tokens: Any, random: Random) -> Iterator[str]:
    for operator, argument in tokens:
        if operator is constants.LITERAL:
            yield chr(argument)
        elif operator is constants.NOT_LITERAL:
            yield random.choice([one for one in _CHARACTERS if ord(one) != argument])
        elif operator is constants.ANY:
            yield random.choice(_CHARACTERS)
        elif operator is constants.IN:
            yield random.choice(_allowed(tuple(argument)))
        elif operator in (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT):
            least, most, inner = argument
            for _ in range(random.randint(least, min(int(most), least + 12))):
                yield from _from_tokens(inner, random)
        elif operator is constants.SUBPATTERN:
            yield from _from_tokens(argument[-1], random)
        elif operator is constants.BRANCH:
            yield from _from_tokens(random.choice(argument[1]), random)


@lru_cache(maxsize=4096)
def _allowed(members: tuple[tuple[Any, Any], ...]) -> list[str]:
    """Characters of a class: the usual ones it has, else one of its own."""
    negated = members[0][0] is constants.NEGATE
    allowed = [one for one in _CHARACTERS if negated != any(_is_in(one, member) for member in members)]
    if not allowed:
        allowed = [chr(argument) for operator, argument in members if operator is constants.LITERAL]
        allowed += [chr(argument[0]) for operator, argument in members if operator is constants.RANGE]
    return allowed or [" "]


def _is_in(character: str, member: tuple[Any, Any]) -> bool:
    operator, argument = member
    if operator is constants.LITERAL:
        return bool(ord(character) == argument)
    if operator is constants.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    return bool(operator is constants.CATEGORY and _CATEGORIES[argument](character))


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    constants.CATEGORY_DIGIT: str.isdigit,
    constants.CATEGORY_NOT_DIGIT: lambda one: not one.isdigit(),
    constants.CATEGORY_SPACE: str.isspace,
    constants.CATEGORY_NOT_SPACE: lambda one: not one.isspace(),
    constants.CATEGORY_WORD: lambda one: one.isalnum() or one == "_",
    constants.CATEGORY_NOT_WORD: lambda one: not (one.isalnum() or one == "_"),
}
