"""The marketplace simulator: batches of events as many devices would send them, with every kind of dirt, over past hours.

`Traffic` makes the batches (pure: contracts, seed and hours decide every byte) and keeps the account of what the warehouse must
hold in the end; `send` posts them to a collector over real HTTP and tells what it acknowledged.
"""

import http.client
import queue
import threading
import time
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from urllib.parse import urlsplit

import msgspec

from ..contracts.events import EventContract
from ..errors import PlatformError
from ..events.verdict import Judge
from .samples import Broken, broken_events, valid_params

BATCH_EVENTS = 500
VARIANTS = 60
IDENTIFY = "identify_user_segment"
"""Different sets of parameters of one event; ids, times and users differ in every event."""
FREQUENT = ("show", "view", "search", "click", "like", "send", "start")
"""Actions that people do most, in order: their events come first in the mix."""
_UNKNOWN = (b"open_door_iot", b"tap_button", b"VIEW_ITEM_MARKETPLACE", b"view_item_marketplace_v9")
_PARAMS_OPEN = b'"params":{'
_ID_IN_TEXT = slice(len(b'{"event_id":"'), len(b'{"event_id":"') + 32)
PATIENCE_SECONDS = 60.0
"""How long a sender tries again when the collector sheds load or is being started again."""


@dataclass(frozen=True)
class Dirt:
    """Shares of the events that are not simply right, of 1."""

    duplicate_in_batch: float = 0.005
    duplicate_across_batches: float = 0.01
    duplicate_across_hours: float = 0.005
    conflicting: float = 0.002
    """The id of an earlier event with another body."""
    broken: float = 0.012
    """Rejected, for every reason there is."""
    unknown: float = 0.003
    """A name that no contract has."""
    extra: float = 0.01
    """Accepted, with parameters that the contract does not know."""
    late: float = 0.01
    """Happened days before it was sent."""
    wrong_clock: float = 0.01
    """The device's clock is hours, or decades, off."""
    segment: float = 0.05
    """Sent through the Segment API, a few of them as calls that have no contract."""

    def kinds(self) -> list[tuple[str, float]]:
        """Name and share of each kind that is decided event by event."""
        return [(one.name, getattr(self, one.name)) for one in fields(self) if one.name != "segment"]


@dataclass
class Account:
    """What became (or must become) of the events of an hour under one name."""

    received: int = 0
    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0

    def add(self, *, received: int = 0, accepted: int = 0, rejected: int = 0, duplicates: int = 0) -> None:
        self.received += received
        self.accepted += accepted
        self.rejected += rejected
        self.duplicates += duplicates


@dataclass(frozen=True, slots=True)
class Batch:
    """One HTTP request."""

    hour: datetime
    received_at: datetime
    path: str
    body: bytes
    events: int


@dataclass
class Traffic:
    """Batches of simulated events for whole hours, in order of the hours.

    `expected` holds, once the batches are made, what the warehouse must count for each hour and event name, given that
    nothing else sends events with these ids: first received wins, look-back longer than the simulated hours.
    """

    contracts: Mapping[str, EventContract]
    seed: str
    dirt: Dirt = field(default_factory=Dirt)
    expected: dict[datetime, dict[str, Account]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.contracts:
            raise PlatformError("there are no contracts to simulate", fix="add one under schemas/events")
        random = Random(f"{self.seed}/samples")
        judge = Judge(self.contracts)
        self._names = sorted(self.contracts, key=lambda name: (_frequency(self.contracts[name]), random.random()))
        self._weights = list(accumulate(1 / (rank + 2) for rank in range(len(self._names))))
        self._params = {
            name.encode(): valid_params(self.contracts[name], judge, random, VARIANTS) for name in self._names
        }
        self._broken: dict[str, list[Broken]] = defaultdict(list)
        for name in self._names[:: max(1, len(self._names) // 20)]:
            for broken in broken_events(self.contracts[name], judge, random):
                self._broken[broken.code].append(broken)
        self._codes = sorted(self._broken)
        self._people = _people(random)
        self._hour_before: list[tuple[bytes, bytes]] = []

    def hour(self, hour: datetime, events: int) -> Iterator[Batch]:
        """Batches of about `events` events that are received within one hour (a whole hour, UTC)."""
        accounts: dict[str, Account] = defaultdict(Account)
        self.expected[hour] = accounts
        under_way = _Hour(Random(f"{self.seed}/{hour.isoformat()}"), accounts, list(self._codes))
        sizes = [BATCH_EVENTS] * (events // BATCH_EVENTS) + ([events % BATCH_EVENTS] if events % BATCH_EVENTS else [])
        every = round(1 / self.dirt.segment) if self.dirt.segment else 0
        for number, size in enumerate(sizes):
            received_at = hour + timedelta(hours=1) * ((number + 0.5) / len(sizes))
            if every and number % every == every - 1:
                yield Batch(hour, received_at, "/v1/batch", self._segment_batch(under_way, received_at, size), size)
            else:
                texts = self._events(under_way, received_at, size)
                yield Batch(hour, received_at, "/v1/events", b"[" + b",\n".join(texts) + b"]", len(texts))
        self._hour_before = under_way.pool[-2000:]

    def _events(self, hour: "_Hour", received_at: datetime, size: int) -> list[bytes]:
        """The texts of one batch; the accounts are kept, and some accepted events added to the pool."""
        random, kinds = hour.random, self.dirt.kinds()
        limits = list(accumulate(share for _, share in kinds))
        names = random.choices(self._encoded_names, cum_weights=self._weights, k=size)
        moments = _Moments(received_at)
        texts: list[bytes] = []
        simple: Counter[bytes] = Counter()
        uniform, choice, bits = random.random, random.choice, random.getrandbits
        hour.here = []
        for name in names:
            draw = uniform()
            if draw < limits[-1]:
                texts.append(self._unusual(hour, kinds[bisect(limits, draw)][0], name, moments))
                continue
            text = b'{"event_id":"%032x","event":"%b",%b,%b,"params":%b}' % (
                bits(128),
                name,
                moments.usual(uniform()),
                choice(self._people),
                choice(self._params[name]),
            )
            simple[name] += 1
            hour.here.append((name, text))
            texts.append(text)
        for name, count in simple.items():
            hour.accounts[name.decode()].add(received=count, accepted=count)
        hour.pool.extend(hour.here[:: max(1, len(hour.here) // 50)])
        return texts

    def _unusual(self, hour: "_Hour", kind: str, name: bytes, moments: "_Moments") -> bytes:
        """The text of one event that is not simply right; its account is kept."""
        random, accounts = hour.random, hour.accounts
        again = {
            "duplicate_in_batch": hour.here,
            "duplicate_across_batches": hour.pool,
            "duplicate_across_hours": self._hour_before,
            "conflicting": hour.pool,
        }.get(kind)
        if again:
            known, text = random.choice(again)
            accounts[known.decode()].add(received=1, duplicates=1)
            if kind == "conflicting":
                return self._text(text[_ID_IN_TEXT], known, moments.usual(random.random()), random)
            return text
        event_id = b"%032x" % random.getrandbits(128)
        if kind == "broken":
            code = hour.codes.pop() if hour.codes else random.choice(self._codes)  # each once, then at random
            broken = random.choice(self._broken[code])
            accounts[broken.event].add(received=1, rejected=1)
            return broken.text(event_id)
        if kind == "unknown":
            name = random.choice(_UNKNOWN)
            accounts[name.decode()].add(received=1, rejected=1)
            return b'{"event_id":"%b","event":"%b",%b,"params":{"a":1}}' % (event_id, name, moments.usual(0.5))
        accounts[name.decode()].add(received=1, accepted=1)
        if kind == "late":
            times = moments.late(random.uniform(0.2, 6))
        elif kind == "wrong_clock":
            times = moments.wrong(random)
        else:
            times = moments.usual(random.random())
        text = self._text(event_id, name, times, random)
        if kind == "extra":
            opened = text.index(_PARAMS_OPEN) + len(_PARAMS_OPEN)
            comma = b"" if text[opened : opened + 1] == b"}" else b","
            extra = b'"experiment_%d":{"arm":"a","since":17}' % random.randrange(3)
            return text[:opened] + extra + comma + text[opened:]
        return text

    def _text(self, event_id: bytes, name: bytes, times: bytes, random: Random) -> bytes:
        person, params = random.choice(self._people), random.choice(self._params[name])
        return b'{"event_id":"%b","event":"%b",%b,%b,"params":%b}' % (event_id, name, times, person, params)

    def _segment_batch(self, hour: "_Hour", received_at: datetime, size: int) -> bytes:
        """A body as Segment's libraries send it."""
        random, accounts = hour.random, hour.accounts
        moments = _Moments(received_at)
        messages: list[bytes] = []
        for name in random.choices(self._encoded_names, cum_weights=self._weights, k=size):
            head = b'{"messageId":"%032x","timestamp":"%b","anonymousId":"a-%d","userId":"u-%d",' % (
                random.getrandbits(128),
                moments.text(-random.random() * 20),
                random.randrange(5000),
                random.randrange(5000),
            )
            if random.random() < 0.01:
                messages.append(head + b'"type":"identify","traits":{"plan":"free"}}')
                known = IDENTIFY in self.contracts
                accounts[IDENTIFY].add(received=1, accepted=int(known), rejected=int(not known))
            else:
                params = random.choice(self._params[name])
                messages.append(head + b'"type":"track","event":"%b","properties":%b}' % (name, params))
                accounts[name.decode()].add(received=1, accepted=1)
        context = b'"context":{"library":{"name":"analytics-python","version":"2.4.0"}}'
        return b'{"batch":[%b],"sentAt":"%b",%b}' % (b",".join(messages), moments.text(-0.1), context)

    @property
    def _encoded_names(self) -> list[bytes]:
        return list(self._params)


@dataclass
class _Hour:
    """An hour whose batches are being made: `pool` holds (name, text) of accepted events that may be sent again, `here` those
    of the present batch, `codes` the reasons that no event of the hour has been rejected for yet."""

    random: Random
    accounts: dict[str, Account]
    codes: list[str]
    pool: list[tuple[bytes, bytes]] = field(default_factory=list)
    here: list[tuple[bytes, bytes]] = field(default_factory=list)


class _Moments:
    """Times of a batch as JSON, relative to when it is received."""

    def __init__(self, received_at: datetime) -> None:
        self.received_at = received_at
        sent = self.text(-0.25)
        self._usual = [
            b'"event_time":"%b","sent_at":"%b"' % (self.text(-0.3 - seconds / 4), sent) for seconds in range(100)
        ]

    def text(self, seconds: float) -> bytes:
        """RFC 3339 with milliseconds."""
        time = self.received_at + timedelta(seconds=seconds)
        return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z".encode()

    def usual(self, draw: float) -> bytes:
        """Up to 25 seconds before it was sent."""
        return self._usual[int(draw * 100)]

    def late(self, days: float) -> bytes:
        """Happened days before: the device was off-line."""
        return b'"event_time":"%b","sent_at":"%b"' % (self.text(-days * 86400), self.text(-0.25))

    def wrong(self, random: Random) -> bytes:
        """Both times by a clock that is hours ahead or behind, or at its beginning."""
        if random.random() < 0.2:
            return b'"event_time":"1970-01-01T00:00:17.000Z","sent_at":"1970-01-01T00:00:20.000Z"'
        off = random.uniform(-40_000, 40_000)
        return b'"event_time":"%b","sent_at":"%b"' % (self.text(off - 3), self.text(off))


def _frequency(contract: EventContract) -> int:
    return FREQUENT.index(contract.action) if contract.action in FREQUENT else len(FREQUENT)


def _people(random: Random, count: int = 4000) -> list[bytes]:
    """User, device, session, platform and version as the JSON members of an event's envelope."""
    people = []
    for number in range(count):
        platform = random.choice(("ios", "android", "android", "web"))
        version = f"{random.randint(4, 6)}.{random.randint(0, 20)}.{random.randint(0, 3)}"
        user = '"user_id":null' if random.random() < 0.1 else f'"user_id":"u-{number}"'
        people.append(
            f'{user},"device_id":"d-{number}-{random.getrandbits(32):08x}","session_id":"s-{random.getrandbits(48):012x}",'
            f'"platform":"{platform}","app_version":"{version}"'.encode()
        )
    return people


@dataclass
class Sent:
    """What the collector said. `uncertain` counts events of requests that were repeated because no answer came: the
    collector may have them twice, as duplicates."""

    acknowledged: Counter[datetime] = field(default_factory=Counter)
    refused: int = 0
    uncertain: int = 0
    requests: int = 0
    bytes: int = 0


class _Answer(msgspec.Struct):
    received: int = 0
    refused: int = 0


def send(
    url: str,
    batches: Iterable[Batch],
    *,
    write_key: str = "local",
    connections: int = 3,
    on_acknowledged: Callable[[Batch], None] = lambda batch: None,  # noqa: ARG005
) -> Sent:
    """Post the batches to the collector at `url` over several kept connections, each with its received time.

    Returns when all are acknowledged; raises PlatformError when one is refused or the collector stays away.
    `on_acknowledged` is called from the senders' threads, one at a time.
    """
    sent, lock = Sent(), threading.Lock()
    waiting: queue.Queue[Batch | None] = queue.Queue(maxsize=connections * 2)
    failures: list[BaseException] = []

    def work() -> None:
        connection = _Connection(url, write_key)
        while (batch := waiting.get()) is not None:
            if failures:
                continue
            try:
                answer, repeated = connection.post(batch)
            except (PlatformError, OSError, http.client.HTTPException) as error:
                failures.append(error)
                continue
            with lock:
                sent.acknowledged[batch.hour] += answer.received
                sent.refused += answer.refused
                sent.uncertain += batch.events if repeated else 0
                sent.requests += 1
                sent.bytes += len(batch.body)
                on_acknowledged(batch)
        connection.close()

    threads = [threading.Thread(target=work, daemon=True, name=f"sender-{number}") for number in range(connections)]
    for thread in threads:
        thread.start()
    try:
        for batch in batches:
            waiting.put(batch)
            if failures:
                break
    finally:
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return sent


class _Connection:
    """One kept connection to the collector, opened again when it breaks."""

    def __init__(self, url: str, write_key: str) -> None:
        self.address = urlsplit(url)
        self.write_key = write_key
        self._decode = msgspec.json.Decoder(_Answer).decode
        self._open: http.client.HTTPConnection | None = None

    def post(self, batch: Batch) -> tuple[_Answer, bool]:
        """The answer, and whether the request was repeated without knowing what became of it before."""
        headers = {
            "Content-Type": "application/json",
            "X-Write-Key": self.write_key,
            "X-Received-At": batch.received_at.astimezone(UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
        }
        deadline = time.monotonic() + PATIENCE_SECONDS
        repeated = False
        while True:
            try:
                if self._open is None:
                    assert self.address.hostname is not None
                    self._open = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=30)
                self._open.request("POST", batch.path, batch.body, headers)
                response = self._open.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                repeated = True
                if time.monotonic() > deadline:
                    raise PlatformError(f"no answer: {error}", where=self.address.geturl()) from error
                time.sleep(0.2)
                continue
            if response.status == 200:
                return self._decode(content), repeated
            if response.status not in (429, 503) or time.monotonic() > deadline:
                shown = content[:300].decode(errors="replace")
                raise PlatformError(
                    f"answered {response.status} to {batch.events} events: {shown}",
                    where=self.address.geturl() + batch.path,
                )
            time.sleep(min(float(response.headers.get("Retry-After") or 0.2), 2.0))

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
