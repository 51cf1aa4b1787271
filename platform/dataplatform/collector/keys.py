"""Who sends: write keys, where a request may carry one, and how much each may send."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import msgspec

from ..events.sure import UNDECODABLE
from .problems import Refusal

_QUERY_KEY = re.compile(rb"(?:^|&)writeKey=([^&]*)")
_BODY_KEY = re.compile(rb'"writeKey"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")', re.DOTALL)
_MAX_BODY_KEYS = 1000
"""Most keys looked at in a body: one of each event."""
_REMEMBERED_BYTES = 200
"""Longest `Authorization` that is remembered decoded."""


class WriteKeys:
    """Write key → source, by whatever way a request names its key."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._sources = dict(keys)

    def source(self, headers: Mapping[bytes, bytes], query: bytes) -> str | None:
        """The source that a request's head names, None where it names none; Refusal 401 where the key is unknown.

        Looked at in this order: `Authorization` (Basic, the key as user name; or Bearer), `X-Write-Key`, `?writeKey=`.
        """
        authorization = headers.get(b"authorization")
        if authorization is not None:
            short = len(authorization) < _REMEMBERED_BYTES
            return self.of_key(_authorized_short(authorization) if short else _authorized(authorization))
        key = headers.get(b"x-write-key")
        if key is None and query:
            match = _QUERY_KEY.search(query)
            key = unquote_to_bytes(match[1]) if match else None
        return None if key is None else self.of_key(key.decode("utf-8", "replace"))

    def require_some_in(self, body: bytes) -> None:
        """Refusal 401 unless a known key stands somewhere in the body as a `writeKey`.

        It is cheap whatever the body, so that work on it is done only for those who have a key; which of its keys counts
        is for the reader of the body to say.
        """
        told = None
        for number, match in enumerate(_BODY_KEY.finditer(body)):
            if number == _MAX_BODY_KEYS:
                break
            try:
                told = msgspec.json.decode(match[1], type=str)
            except UNDECODABLE:
                continue
            if told in self._sources:
                return
        self.of_key(told)

    def of_key(self, key: str | None) -> str:
        """The source of a key; Refusal 401 where there is none or it is unknown."""
        source = None if key is None else self._sources.get(key)
        if source is None:
            detail = "no write key was sent" if key is None else "the write key is unknown"
            raise Refusal(
                401,
                "unknown_write_key",
                detail,
                "send the source's write key as the user name of Basic authentication, or as X-Write-Key",
                headers=(("WWW-Authenticate", 'Basic realm="write key"'),),
            )
        return source


def _authorized(field: bytes) -> str | None:
    scheme, _, rest = field.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip().decode("utf-8", "replace")
    if scheme.lower() != b"basic":
        return None
    try:
        pair = base64.b64decode(rest.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return pair.partition(b":")[0].decode("utf-8", "replace")


# Passwords differ after one and the same public key: only so many headers are remembered.
_authorized_short = lru_cache(1024)(_authorized)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """A token bucket for each source; one token an event. Times are monotonic seconds."""

    def __init__(self, per_second: float, burst: float) -> None:
        """`per_second` 0 means no limit."""
        self.per_second = per_second
        self.burst = burst
        self._buckets: dict[str, _Bucket] = {}

    def wait(self, source: str, now: float) -> float:
        """Seconds until the source may send again; 0 when it may now."""
        if not self.per_second:
            return 0.0
        bucket = self._bucket(source, now)
        return 0.0 if bucket.tokens > 0 else (1 - bucket.tokens) / self.per_second

    def spend(self, source: str, events: int, now: float) -> None:
        """Count events that were taken in. The bucket may go below zero: the next request waits for it."""
        if self.per_second:
            self._bucket(source, now).tokens -= events

    def _bucket(self, source: str, now: float) -> _Bucket:
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = self._buckets[source] = _Bucket(self.burst, now)
        bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.at) * self.per_second)
        bucket.at = now
        return bucket
