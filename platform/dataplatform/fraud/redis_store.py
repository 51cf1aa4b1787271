"""Online features of one entity in Redis, for decision processes on several machines.

Keys are `fraud:<entity>:<definition>:…`, where <definition> is a digest: a new definition begins with keys of its own, and its writer
removes the others. Per entity's key and stream a sorted set by the time of the event; an event that no window sees any more
goes with the next one, or an idle set as a whole by its expiry. A batch is one MULTI, guarded by WATCH: all of it, or nothing.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..errors import PlatformError
from .stores import NOTHING_KNOWN, Place

IDLE_SECONDS = 8 * 86_400
"""How much longer than its window an idle set stays: a feed that was down so long still finds what it knew."""
READ_SECONDS = 0.02
"""What a decision waits for Redis; then the policy's fallback answers."""
WRITE_SECONDS = 10.0
PAUSE_SECONDS = 0.5
"""After a failure nobody asks for so long, so that not every decision waits for a server that hangs."""
_MICROS = 1_000_000


class RedisStore:
    """Implements `stores.Store`."""

    def __init__(self, url: str, entity: str, *, timeout_seconds: float = WRITE_SECONDS) -> None:
        """No request is sent before `prepare`. `timeout_seconds` is of each request."""
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self._name = f"fraud:{entity}:"
        self._prefix = ""
        self._pipe: Any = None
        self._writes: list[Callable[[Any], object]] = []
        self._new_ids: set[bytes] = set()
        self._new_rows: dict[str, list[tuple[int, int, str, bytes]]] = {}
        self._new_firsts: dict[str, dict[int, int]] = {}
        self._fetched: dict[str, Any] = {}
        self._own_commits = 0
        self._cleaned = False
        self._down_until = 0.0

    def find(self, definition: str) -> None:
        self._prefix = f"{self._name}{hashlib.sha256(definition.encode()).hexdigest()[:12]}:"
        if not self.identity():
            raise LookupError("Redis holds no state of these features")

    def built(self) -> bool:
        return bool(self._ask(lambda client: client.exists(self._key("built"))))

    def mark_built(self) -> None:
        pipe = self._client.pipeline()
        pipe.set(self._key("built"), 1)
        pipe.incr(self._key("version"))
        pipe.execute()
        self._own_commits += 1

    def prepare(self, definition: str) -> None:
        self._prefix = f"{self._name}{hashlib.sha256(definition.encode()).hexdigest()[:12]}:"
        self._ask(lambda client: client.set(self._key("identity"), secrets.token_hex(8), nx=True))

    def identity(self) -> str:
        token: bytes | None = self._ask(lambda client: client.get(self._key("identity")))
        return "" if token is None else token.decode()

    def version(self) -> int:
        return int(self._ask(lambda client: client.get(self._key("version"))) or 0) - self._own_commits

    def watermark(self) -> int:
        known: bytes | None = self._ask(lambda client: client.get(self._key("watermark")))
        return NOTHING_KNOWN if known is None else int(known)

    def begin(self) -> None:
        self._forget_writes()
        self._client.set(self._key("identity"), secrets.token_hex(8), nx=True)  # Redis may have lost everything
        self._pipe = self._client.pipeline()
        self._pipe.watch(self._key("version"))

    def commit(self, known: int) -> None:
        pipe = self._pipe
        latest = max(known, self.watermark())
        pipe.multi()
        for write in self._writes:
            write(pipe)
        pipe.set(self._key("watermark"), latest)
        pipe.incr(self._key("version"))
        try:
            pipe.execute()
        except redis.WatchError:
            raise PlatformError(
                "another process has written to the online features", where=self._prefix, fix="run one stream process"
            ) from None
        self._own_commits += 1
        self._forget_writes()
        if not self._cleaned:
            self._cleaned = True
            self._remove_other_definitions()

    def rollback(self) -> None:
        if self._pipe is not None:
            self._pipe.reset()
        self._forget_writes()

    def see(self, event: str, event_id: str, known: int) -> bool:
        member = f"{event}\0{event_id}".encode()
        if member in self._new_ids or self._ask(lambda client: client.zscore(self._key("seen"), member)) is not None:
            return False
        self._new_ids.add(member)
        self._writes.append(lambda pipe: pipe.zadd(self._key("seen"), {member: known}))
        return True

    def keep(self, stream: int, window: int, key: str, place: Place, row: bytes) -> None:
        happened, known, event_id = place
        name = self._kept_key(stream, key)
        member = msgspec.msgpack.encode((known, event_id, row))
        self._new_rows.setdefault(name, []).append((*place, row))

        def write(pipe: Any) -> None:
            pipe.zadd(name, {member: happened})
            pipe.zremrangebyscore(name, "-inf", known - window - 2)
            pipe.expire(name, window // _MICROS + IDLE_SECONDS)

        self._writes.append(write)

    def prefetch(self, key: str, kept: Mapping[int, int], firsts: Iterable[int]) -> None:
        names = {self._kept_key(stream, key): since for stream, since in kept.items()}
        others = [self._firsts_key(stream, key) for stream in firsts]

        def fetch(_: Any) -> list[Any]:
            pipe = self._client.pipeline(transaction=False)
            for name, since in names.items():
                pipe.zrangebyscore(name, since, "+inf", withscores=True)
            for name in others:
                pipe.hgetall(name)
            return pipe.execute()

        self._fetched = dict(zip([*names, *others], self._ask(fetch), strict=True))

    def kept(self, stream: int, key: str, since: int) -> Iterable[tuple[int, int, str, bytes]]:
        name = self._kept_key(stream, key)
        found = self._fetched.pop(name, None)
        if found is None:
            found = self._ask(lambda client: client.zrangebyscore(name, since, "+inf", withscores=True))
        rows = set(self._new_rows.get(name, ()))
        for member, happened in found:
            known, event_id, row = msgspec.msgpack.decode(member)
            rows.add((int(happened), known, event_id, row))
        return sorted(rows)

    def keep_first(self, stream: int, position: int, key: str, happened: int) -> None:
        name = self._firsts_key(stream, key)
        # The state has read what is there; it only comes with an earlier time.
        self._new_firsts.setdefault(name, {})[position] = happened
        self._writes.append(lambda pipe: pipe.hset(name, str(position), str(happened)))

    def firsts(self, stream: int, key: str) -> Iterable[tuple[int, int]]:
        name = self._firsts_key(stream, key)
        found = self._fetched.pop(name, None)
        if found is None:
            found = self._ask(lambda client: client.hgetall(name))
        times = {int(position): int(happened) for position, happened in found.items()}
        return (times | self._new_firsts.get(name, {})).items()

    def forget(self, before: Mapping[int, int], seen_before: int) -> None:  # noqa: ARG002  # `keep` trims the sets
        self._writes.append(lambda pipe: pipe.zremrangebyscore(self._key("seen"), "-inf", f"({seen_before}"))

    def close(self) -> None:
        self._client.close()

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _kept_key(self, stream: int, key: str) -> str:
        return f"{self._prefix}kept:{stream}:{key}"

    def _firsts_key(self, stream: int, key: str) -> str:
        return f"{self._prefix}firsts:{stream}:{key}"

    def _ask(self, request: Callable[[Any], Any]) -> Any:
        if time.monotonic() < self._down_until:
            raise redis.ConnectionError("Redis failed a moment ago")
        try:
            return request(self._client)
        except redis.RedisError:
            self._down_until = time.monotonic() + PAUSE_SECONDS
            raise

    def _forget_writes(self) -> None:
        self._writes = []
        self._new_ids = set()
        self._new_rows = {}
        self._new_firsts = {}
        self._pipe = None

    def _remove_other_definitions(self) -> None:
        for name in self._client.scan_iter(f"{self._name}*", count=1000):
            if not name.startswith(self._prefix.encode()):
                self._client.unlink(name)
