"""Features as they are now: a state that takes events one by one as they become known, and answers at once.

What is kept: per stream and entity the events of the longest window, and of time_since_first over all of history the first
time. All of it is in a store (`stores`: SQLite, or Redis); memory holds the entities that were used last. An event id that was
seen is not counted again, whatever the order of arrival, so a replay after a crash changes nothing.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from .compiled import compile_policy
from .features import SUMMED_BELOW, UNITS, EntityFeatures, Feature
from .moments import Event, Moment
from .stores import SqliteStore, Store
from .tree import Fact, Scalar
from .values import INT64_MAX, INT64_MIN

MAX_ENTITIES = 50_000
"""Entities of a stream that memory holds; the others are read again from the disk when they are asked for."""
FORGET_EVERY = 50_000
"""Events between two clean-ups of what no window can see any more."""
_SLACK = 1
_NINE = 1_000_000_000
_FLOAT_PLACES = 9
_SUMS = ("sum", "mean")
_WIDE = Context(prec=60)


@dataclass(slots=True)
class _Series:
    """The events of one entity that one filter lets pass and that have a value, in order of (happened, known, id)."""

    order: list[tuple[int, int, str]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    """When each happened: what windows are looked up in."""
    values: list[Any] = field(default_factory=list)
    sums: list[int] = field(default_factory=lambda: [0])

    def add(self, place: tuple[int, int, str], value: Any, exact: int | None) -> None:
        if not self.order or place > self.order[-1]:
            self.order.append(place)
            self.times.append(place[0])
            self.values.append(value)
            if exact is not None:
                self.sums.append(self.sums[-1] + exact)
            return
        at = bisect_left(self.order, place)
        self.order.insert(at, place)
        self.times.insert(at, place[0])
        self.values.insert(at, value)
        if exact is not None:
            self.sums.insert(at + 1, self.sums[at] + exact)
            for later in range(at + 2, len(self.sums)):
                self.sums[later] += exact

    def forget(self, before: int) -> None:
        """Drop the events that happened before a moment."""
        at = bisect_left(self.times, before)
        if at > 64 and at > len(self.order) // 2:
            del self.order[:at], self.times[:at], self.values[:at], self.sums[:at]


@dataclass(frozen=True, slots=True)
class _Measure:
    """What one series holds: a filter and a column ("" for whole events). `exact` makes the number that is summed."""

    of: str
    matches: Callable[[Mapping[str, Fact]], bool] | None
    exact: Callable[[Any], int | None] | None


@dataclass(slots=True)
class _Stream:
    number: int
    by: str
    columns: tuple[str, ...]
    features: tuple[tuple[Feature, int], ...]
    """Each with the place of its series."""
    measures: tuple[_Measure, ...]
    firsts: tuple[tuple[Feature, int], ...]
    """Features over all of history with the place of their measure."""
    window: int
    cache: OrderedDict[str, list[_Series]] = field(default_factory=OrderedDict)
    first_cache: OrderedDict[str, list[int | None]] = field(default_factory=OrderedDict)


@dataclass(frozen=True, slots=True)
class _Windowed:
    """A feature with a window, ready to be read."""

    feature: Feature
    name: str
    series: int
    window: int
    held: str
    """Type of the column that it is of."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to look at for some features: streams with their features (those over all of history apart), and ratios."""

    streams: tuple[tuple[_Stream, tuple[_Windowed, ...], tuple[tuple[Feature, int], ...]], ...]
    ratios: tuple[Feature, ...]


class OnlineFeatures:
    """The state of one entity's features, in a store: by default one SQLite file (in memory without a path).

    One process writes; others may read the same store. `apply` wants events in the order in which they become known, for
    an event counts from the moment it is applied.
    """

    def __init__(
        self,
        entity: EntityFeatures,
        store: Store | Path | None = None,
        *,
        max_entities: int = MAX_ENTITIES,
        stale_seconds: float = 0.0,
        reading: bool = False,
    ) -> None:
        """`stale_seconds`: how long what another process has written may go unseen by `features`.

        With `reading` the store is not changed: LookupError where it holds no state of these features, or (from `features`)
        one that is still being built, for then an event that is missing is not known to be none.
        """
        self.entity = entity
        self.reading = reading
        self.stale_seconds = stale_seconds
        self._looked_at = 0.0
        self.max_entities = max_entities
        self._streams, self._by_event = _streams(entity)
        self._plans: dict[frozenset[str] | None, _Plan] = {}
        self._store: Store = SqliteStore(store) if isinstance(store, Path) or store is None else store
        (self._store.find if reading else self._store.prepare)(self.definition)
        self._known = self._store.watermark()
        self._built = self._store.built()
        self._since_clean_up = 0
        self._version = self._store.version()

    @property
    def definition(self) -> str:
        """What the state is of: another definition starts from nothing."""
        return repr([(s.number, s.by, s.columns, s.window, s.features, s.firsts) for s in self._streams])

    @property
    def identity(self) -> str:
        """Another one where the state was begun anew: by a new definition, or because the store was lost."""
        return self._store.identity()

    @property
    def built(self) -> bool:
        """Whether all of history is in the state."""
        return self._built

    def mark_built(self) -> None:
        """Say that all of history is in the state: from now on it answers those who read."""
        self._store.mark_built()
        self._built = True

    def close(self) -> None:
        """Close the store; everything applied is in it."""
        self._store.close()

    def apply(self, events: Iterable[Event]) -> int:
        """Take events in, all of them or (when the process dies) none; gives how many had not been seen before."""
        with self.taking() as take:
            return sum(map(take, events))

    @contextmanager
    def taking(self) -> Iterator[Callable[[Event], int]]:
        """A function that takes one event in and says whether it is new (1 or 0); all is kept at the end, or nothing.

        Features that are asked for meanwhile see what was taken.
        """
        self._store.begin()
        try:
            self._refresh()
            yield self._apply
            if self._since_clean_up >= FORGET_EVERY:
                self._forget()
            self._store.commit(self._known)
        except BaseException:
            self._store.rollback()
            self._clear()
            raise

    def features(self, key: str | None, moment: int, names: frozenset[str] | None = None) -> dict[str, Fact]:
        """All features of an entity at a moment (microseconds since 1970), or those of `names`; none known without a key.

        The moment must not be before what was already forgotten: at the latest event known, or later.
        """
        found: dict[str, Fact] = {}
        if key is None:
            return {feature.name: None for feature in self.entity.features}
        now = monotonic()
        if now - self._looked_at >= self.stale_seconds:
            self._looked_at = now
            self._refresh()
        if self.reading and not self._built:
            raise LookupError(f"features of {self.entity.entity} are being built")
        plan = self._plans.get(names)
        if plan is None:
            plan = self._plans[names] = self._plan(names)
        wanted = {
            stream.number: self._since(stream)
            for stream, windowed, _ in plan.streams
            if windowed and key not in stream.cache
        }
        wanted_firsts = [
            stream.number for stream, _, firsts in plan.streams if firsts and key not in stream.first_cache
        ]
        if wanted or wanted_firsts:
            self._store.prefetch(key, wanted, wanted_firsts)
        for stream, windowed, firsts in plan.streams:
            if windowed:
                series = self._series(stream, key)
                for each in windowed:
                    one = series[each.series]
                    seen = one.times
                    high = len(seen)
                    if high and seen[-1] >= moment:
                        high = bisect_left(seen, moment)
                    low = bisect_left(seen, moment - each.window, 0, high)
                    feature = each.feature
                    found[each.name] = (
                        _aggregate(feature, one, low, high, moment, each.held) if low < high else feature.no_data
                    )
            if firsts:
                times = self._firsts(stream, key)
                for feature, position in firsts:
                    first = times[position]
                    if first is not None and first < moment:
                        found[feature.name] = _elapsed(feature, moment - first)
                    else:
                        found[feature.name] = feature.no_data
        for feature in plan.ratios:
            found[feature.name] = _ratio(feature, found)
        return found

    def _plan(self, names: frozenset[str] | None) -> "_Plan":
        """Which streams have to be looked at for some features."""
        streams = []
        for stream in self._streams:
            windowed = tuple(
                _Windowed(
                    feature,
                    feature.name,
                    position,
                    feature.window or 0,
                    self.entity.columns[feature.event].get(feature.of, ""),
                )
                for feature, position in stream.features
                if names is None or feature.name in names
            )
            firsts = tuple(
                (feature, position)
                for position, (feature, _) in enumerate(stream.firsts)
                if names is None or feature.name in names
            )
            if windowed or firsts:
                streams.append((stream, windowed, firsts))
        ratios = (each for each in self.entity.features if each.aggregation == "ratio")
        return _Plan(tuple(streams), tuple(each for each in ratios if names is None or each.name in names))

    def _apply(self, event: Event) -> int:
        streams = self._by_event.get(event.event)
        if not streams:
            return 0
        fresh = self._store.see(event.event, event.event_id, event.known)
        self._known = max(self._known, event.known)
        self._since_clean_up += 1
        if not fresh:
            return 0
        place = (event.happened, event.known, event.event_id)
        for stream in streams:
            key = event.keys.get(stream.by)
            if key is None:
                continue
            row = [event.values.get(column) for column in stream.columns]
            if event.happened >= self._known - stream.window:
                self._store.keep(stream.number, stream.window, key, place, _encode(row))
                series = stream.cache.get(key)
                if series is not None:
                    _add(stream, series, place, event.values)
            if stream.firsts:
                self._apply_first(stream, key, event)
        return 1

    def _apply_first(self, stream: _Stream, key: str, event: Event) -> None:
        times = self._firsts(stream, key)
        for position, (_, measure) in enumerate(stream.firsts):
            matches = stream.measures[measure].matches
            if matches is not None and not matches(event.values):
                continue
            known = times[position]
            if known is None or event.happened < known:
                times[position] = event.happened
                self._store.keep_first(stream.number, position, key, event.happened)

    def _series(self, stream: _Stream, key: str) -> list[_Series]:
        series = stream.cache.get(key)
        if series is not None:
            stream.cache.move_to_end(key)
            return series
        series = [_Series() for _ in stream.measures]
        for happened, known, identity, row in self._store.kept(stream.number, key, self._since(stream)):
            values = dict(zip(stream.columns, _decode(row), strict=True))
            _add(stream, series, (happened, known, identity), values)
        stream.cache[key] = series
        if len(stream.cache) > self.max_entities:
            stream.cache.popitem(last=False)
        return series

    def _since(self, stream: _Stream) -> int:
        """What happened before it no window sees any more."""
        return self._known - stream.window - _SLACK

    def _firsts(self, stream: _Stream, key: str) -> list[int | None]:
        times = stream.first_cache.get(key)
        if times is not None:
            stream.first_cache.move_to_end(key)
            return times
        times = [None] * len(stream.firsts)
        for position, happened in self._store.firsts(stream.number, key):
            times[position] = happened
        stream.first_cache[key] = times
        if len(stream.first_cache) > self.max_entities:
            stream.first_cache.popitem(last=False)
        return times

    def _forget(self) -> None:
        """Drop what no window can see any more, in the store and in memory."""
        self._since_clean_up = 0
        longest = 0
        before = {}
        for stream in self._streams:
            before[stream.number] = self._since(stream)
            longest = max(longest, stream.window)
            for series in stream.cache.values():
                for each in series:
                    each.forget(before[stream.number])
        self._store.forget(before, self._known - longest - _SLACK)

    def _refresh(self) -> None:
        """Forget what memory holds when another process has written to the store."""
        version = self._store.version()
        if version != self._version:
            self._version = version
            self._built = False
            if self.reading:
                self._store.find(self.definition)  # its writer may have other features by now
            self._clear()

    def _clear(self) -> None:
        for stream in self._streams:
            stream.cache.clear()
            stream.first_cache.clear()
        self._known = self._store.watermark()
        self._built = self._store.built()


def features_in_order(
    entity: EntityFeatures, events: Sequence[Event], moments: Sequence[Moment], state: OnlineFeatures | None = None
) -> list[dict[str, Fact]]:
    """Features at many moments, in their order, by a state that sees events and moments as time passes.

    `events` are in the order in which they became known. An event that becomes known at the moment itself is seen.
    """
    state = state or OnlineFeatures(entity)
    found: list[dict[str, Fact]] = [{} for _ in moments]
    place = 0
    for index in sorted(range(len(moments)), key=lambda each: moments[each].time):
        moment = moments[index]
        until = place
        while until < len(events) and events[until].known <= moment.time:
            until += 1
        if until > place:
            state.apply(events[place:until])
            place = until
        found[index] = state.features(moment.key, moment.time)
    return found


def _streams(entity: EntityFeatures) -> tuple[list[_Stream], dict[str, list[_Stream]]]:
    streams = []
    by_event: dict[str, list[_Stream]] = {}
    for number, ((event, by), features) in enumerate(entity.streams.items()):
        measures: list[_Measure] = []
        places: dict[tuple[str, object, bool], int] = {}
        windowed: list[tuple[Feature, int]] = []
        firsts: list[tuple[Feature, int]] = []
        columns: dict[str, None] = {}
        for feature in features:
            # What is too large for sums is in no sum, and in everything else: sums are a series of their own.
            identity = (feature.of, feature.where, feature.aggregation in _SUMS)
            if identity not in places:
                places[identity] = len(measures)
                measures.append(_measure(entity, feature))
            (firsts if feature.window is None else windowed).append((feature, places[identity]))
            for name in [feature.of, *_filter_columns(entity, feature)]:
                if name:
                    columns[name] = None
        longest = max((feature.window or 0 for feature, _ in windowed), default=0)
        stream = _Stream(number, by, tuple(columns), tuple(windowed), tuple(measures), tuple(firsts), longest)
        streams.append(stream)
        by_event.setdefault(event, []).append(stream)
    return streams, by_event


def _filter_columns(entity: EntityFeatures, feature: Feature) -> tuple[str, ...]:
    typed = entity.filter_of(feature)
    return typed.policy.facts() if typed is not None else ()


def _measure(entity: EntityFeatures, feature: Feature) -> _Measure:
    typed = entity.filter_of(feature)
    matches = None
    if typed is not None:
        decide = compile_policy(typed, {}, {})

        def matches(values: Mapping[str, Fact]) -> bool:
            return bool(decide(values)[2])

    exact: Callable[[Any], int | None] | None = None
    if feature.aggregation in _SUMS:
        exact = _whole if entity.columns[feature.event][feature.of] == "INT64" else _scaled
    return _Measure(feature.of, matches, exact)


def _whole(value: int) -> int | None:
    """An INT64 as sums add it; None where it is too large for them."""
    return value if abs(value) < SUMMED_BELOW["INT64"] else None


def _scaled(value: Any) -> int | None:
    """A number in billionths, so that sums are exact and do not depend on the order; None where it is too large for them."""
    if abs(value) >= SUMMED_BELOW["NUMERIC"]:
        return None
    if isinstance(value, float):
        # The decimal that the number is written as, as SQL reads it from the same text.
        value = Decimal(repr(value)).scaleb(_FLOAT_PLACES, _WIDE)
        return int(value.to_integral_value(ROUND_HALF_UP, _WIDE))
    return int(value.scaleb(_FLOAT_PLACES, _WIDE)) if isinstance(value, Decimal) else int(value) * _NINE


def _add(stream: _Stream, series: list[_Series], place: tuple[int, int, str], values: Mapping[str, Fact]) -> None:
    for measure, each in zip(stream.measures, series, strict=True):
        value = values.get(measure.of) if measure.of else True
        if value is None or (measure.matches is not None and not measure.matches(values)):
            continue
        if measure.exact is None:
            each.add(place, value, None)
        elif (exact := measure.exact(value)) is not None:
            each.add(place, value, exact)


def _aggregate(feature: Feature, series: _Series, low: int, high: int, moment: int, held: str) -> Fact:
    """The value from the part [low, high) of a series, which is not empty."""
    match feature.aggregation:
        case "count":
            return high - low
        case "count_distinct":
            return len(set(series.values[low:high]))
        case "sum" | "mean":
            total = _total(feature, held, series.sums[high] - series.sums[low], high - low)
            return feature.no_data if total is None else total
        case "min":
            return _converted(min(series.values[low:high]), feature.type)
        case "max":
            return _converted(max(series.values[low:high]), feature.type)
        case "last":
            return _converted(series.values[high - 1], feature.type)
        case "time_since_first":
            return _elapsed(feature, moment - series.times[low])
        case _:
            return _elapsed(feature, moment - series.times[high - 1])


def _total(feature: Feature, held: str, total: int, count: int) -> Fact:
    if held == "INT64":
        if feature.aggregation == "mean":
            return float(total) / count
        if feature.type == "INT64":
            return total if INT64_MIN <= total <= INT64_MAX else None
        return float(total) if feature.type == "FLOAT64" else Decimal(total)
    exact = Decimal(total).scaleb(-_FLOAT_PLACES, _WIDE)
    if feature.aggregation == "mean":
        return float(exact) / count
    return float(exact) if feature.type == "FLOAT64" else exact


def _converted(value: Any, value_type: str) -> Scalar:
    if value_type == "FLOAT64":
        return float(value)
    converted: Scalar = Decimal(value) if value_type == "NUMERIC" and isinstance(value, int) else value
    return converted


def _elapsed(feature: Feature, span: int) -> Scalar:
    unit = UNITS[feature.unit]
    return span // unit if feature.type == "INT64" else span / unit


def _ratio(feature: Feature, found: Mapping[str, Fact]) -> Fact:
    of, over = found[feature.of], found[feature.over]
    if of is None or over is None or not over:
        return feature.no_data
    return float(of) / float(over)


def _encode(row: list[Any]) -> bytes:
    return msgspec.msgpack.encode([("d", str(value)) if isinstance(value, Decimal) else value for value in row])


def _decode(row: bytes) -> list[Any]:
    return [Decimal(value[1]) if isinstance(value, list) else value for value in msgspec.msgpack.decode(row)]
