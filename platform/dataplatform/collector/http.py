"""HTTP/1.1 as the collector needs it: bounded in every direction, answers in order, parsed by llhttp (httptools).

Starlette on uvicorn costs several times what judging a batch costs; this protocol hands whole bodies to one application
and writes its answers. It knows nothing of events.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic
from typing import Protocol

import httptools

from .problems import Refusal

MAX_HEADER_BYTES = 32 << 10
MAX_URL_BYTES = 8 << 10
PIPELINE_LIMIT = 32
"""Requests of one connection that may wait for their answers before no more is read from it."""
TOLD_CONNECTIONS = 50
"""Connections above the limit that are open for a moment, to be told so; still more are broken at once."""
LINGER_BYTES = 16 << 20
LINGER_SECONDS = 2.0
"""How much and how long a refused sender may go on sending (to nobody), so that it reads the answer before the connection breaks."""

log = logging.getLogger(__name__)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """One whole request. `headers` by lower-case name (of a repeated one, the last); `started` in monotonic seconds."""

    method: bytes
    url: bytes
    headers: dict[bytes, bytes]
    body: bytes
    started: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one connection may cost."""

    body_bytes: int
    request_seconds: float
    idle_seconds: float
    connections: int


class Slot:
    """The place of one answer in the order of a connection's answers."""

    __slots__ = ("connection", "data", "head", "keep_alive", "old")

    def __init__(self, connection: "Connection", keep_alive: bool, *, head: bool = False, old: bool = False) -> None:
        self.connection = connection
        self.keep_alive = keep_alive
        self.head = head
        self.old = old
        self.data: bytes | None = None

    def answer(self, status: int, body: bytes, fields: bytes = b"") -> None:
        """Give the answer; it is written when all before it are. `fields` are whole header lines."""
        lines = [_STATUS_LINES[status], self.connection.server.date, fields]
        if status != HTTPStatus.NO_CONTENT:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        if not self.keep_alive or self.connection.server.stopping:
            self.keep_alive = False
            lines.append(b"Connection: close\r\n")
        elif self.old:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        if not self.head:
            lines.append(body)
        self.give(b"".join(lines))

    def refuse(self, refusal: Refusal, fields: bytes = b"") -> None:
        """Answer with a problem, in the application's words."""
        refusal = self.connection.server.word(refusal)
        self.answer(refusal.status, refusal.body(), refusal.header_lines() + fields)

    def give(self, data: bytes) -> None:
        """The answer as the bytes that are written."""
        self.data = data
        self.connection.write_ready()


class Application(Protocol):
    """What is served: told of a request's head before its body is read, and of each whole request."""

    def admit(self, method: bytes, url: bytes, headers: dict[bytes, bytes]) -> Refusal | None:
        """Whether the body is worth reading."""

    def handle(self, slot: Slot, request: Request) -> None:
        """Answer by the slot, now or later; Refusal may be raised."""

    def failed(self, refusal: Refusal) -> None:
        """A request that never became whole was refused."""

    @property
    def common_fields(self) -> bytes:
        """Header lines of every answer that the protocol gives by itself."""


class Server:
    """What the connections of one process share."""

    def __init__(
        self, application: Application, limits: Limits, word: Callable[[Refusal], Refusal] = lambda refusal: refusal
    ) -> None:
        """`word` puts what the protocol refuses by itself into the application's words; as it stands, they are the collector's."""
        self.application = application
        self.limits = limits
        self.word = word
        self.connections: set[Connection] = set()
        self.receiving_bytes = 0
        """Bytes of bodies that have arrived but are not whole."""
        self.aborted = 0
        """Requests whose connection broke before they were whole."""
        self.stopping = False
        self.date = _date_line()

    def protocol(self) -> "Connection":
        return Connection(self)

    def sweep(self) -> None:
        """Close what is too slow or silent; called every second or so."""
        now = monotonic()
        self.date = _date_line()
        for connection in list(self.connections):
            connection.check(now)

    async def drain(self, seconds: float) -> None:
        """Let the requests that have begun come to their end; then close everything."""
        self.stopping = True
        end = monotonic() + seconds
        while self.connections and monotonic() < end:
            for connection in list(self.connections):
                connection.close_if_idle()
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()


def _other_transfer_coding(coding: bytes) -> Refusal:
    """What it holds cannot be told from its bytes, so none of it may be taken for events (RFC 9112, 6.1: 501)."""
    return Refusal(
        501,
        "unknown_transfer_coding",
        f"Transfer-Encoding {coding[:100].decode('latin-1')!r} is not understood",
        "send chunks of the plain body, or of one with Content-Encoding: gzip",
    )


_AUTHORITY = re.compile(rb"https?://[^/?]*", re.IGNORECASE)
"""What stands before the path in a URL's absolute form."""


def _head_too_large() -> Refusal:
    return Refusal(431, "head_too_large", f"more than {MAX_HEADER_BYTES} bytes of header", "send less header")


def _date_line() -> bytes:
    return f"Date: {formatdate(usegmt=True)}\r\n".encode()


class Connection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "body",
        "body_bytes",
        "completed",
        "drained_bytes",
        "draining_until",
        "field_bytes",
        "head_bytes",
        "headers",
        "last",
        "parser",
        "paused_reading",
        "receiving",
        "refusal",
        "server",
        "slots",
        "started",
        "stuck_since",
        "transport",
        "url",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self.server = server
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.slots: deque[Slot] = deque()
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: bytes | bytearray = b""
        self.body_bytes = 0
        self.head_bytes = -1
        """Bytes fed of a head that has no end yet; -1 outside of one."""
        self.field_bytes = 0
        self.completed = False
        """Whether a request became whole in the data that is being parsed."""
        self.receiving = False
        self.refusal: Refusal | None = None
        self.started = self.last = monotonic()
        self.draining_until = 0.0
        self.drained_bytes = 0
        self.stuck_since = 0.0
        self.paused_reading = False

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.server.connections.add(self)
        excess = len(self.server.connections) - self.server.limits.connections
        if excess > TOLD_CONNECTIONS:
            self.abort()
        elif excess > 0:
            self._fail(Refusal(503, "too_many_connections", "too many connections", "try again later", retry_after=2))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.server.connections.discard(self)
        if self.receiving:
            self.server.aborted += 1
        self._forget_body()
        self.receiving = False
        self.transport = None

    def data_received(self, data: bytes) -> None:
        if self.draining_until:
            self.drained_bytes += len(data)
            if self.drained_bytes > LINGER_BYTES:
                self.abort()
            return
        self.completed = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no other protocol is spoken here: the request was answered as it is, and closes the connection
        except httptools.HttpParserCallbackError as error:
            log.error("request failed", exc_info=error.__context__ or error)
            self._fail(Refusal(500, "internal", "the collector has a fault", "send it again; tell the platform's team"))
        except httptools.HttpParserError as error:
            self._fail(Refusal(400, "bad_request", f"this is no HTTP: {error}", "use HTTP/1.1"))
        if self.head_bytes >= 0 and not self.completed:  # all of this belongs to a head that has no end yet
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEADER_BYTES:
                self._fail(_head_too_large())

    def eof_received(self) -> bool:
        # A client that has said all it had still waits for its answers.
        if not self.slots:
            return False
        self.slots[-1].keep_alive = False
        return True

    def pause_writing(self) -> None:
        self.stuck_since = monotonic()
        self._pause_reading()

    def resume_writing(self) -> None:
        self.stuck_since = 0.0
        self._resume_reading()

    # -- the parser's side

    def on_message_begin(self) -> None:
        if self.draining_until:
            return
        self.started = monotonic()
        self.receiving = True
        self.head_bytes = 0
        self.field_bytes = 0
        self.url = b""
        self.headers = {}
        self.refusal = None

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_URL_BYTES:
            self._fail(Refusal(414, "url_too_long", f"a URL of more than {MAX_URL_BYTES} bytes", "send a shorter one"))

    def on_header(self, name: bytes, value: bytes | None) -> None:
        value = value or b""
        self.field_bytes += len(name) + len(value)
        if self.field_bytes > MAX_HEADER_BYTES:
            self._fail(_head_too_large())
        elif self.head_bytes >= 0:  # else it is a trailer of a chunked body, which has no say in anything
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.head_bytes = -1
        if self.draining_until:
            return
        headers = self.headers
        if (authority := _AUTHORITY.match(self.url)) is not None:
            # As it is said to a proxy, and a server has to understand it (RFC 9112, 3.2.2): the path is what counts.
            path = self.url[authority.end() :]
            self.url = path if path.startswith(b"/") else b"/" + path
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.strip().lower() not in (b"chunked", b"identity"):
            self._fail(_other_transfer_coding(coding))
            return
        length = headers.get(b"content-length")
        limit = self.server.limits.body_bytes
        if length is not None and length.isdigit() and int(length) > limit:
            self._fail(self._too_large(limit))
            return
        self.refusal = self.server.application.admit(self.parser.get_method(), self.url, headers)
        if b"expect" in headers and headers[b"expect"].lower() == b"100-continue":
            if self.refusal is not None:
                self._fail(self.refusal)
                return
            slot = Slot(self, True)
            self.slots.append(slot)
            slot.give(_CONTINUE)

    def on_body(self, data: bytes) -> None:
        if self.draining_until or self.refusal is not None:
            return
        self.body_bytes += len(data)
        self.server.receiving_bytes += len(data)
        if self.body_bytes > self.server.limits.body_bytes:
            self._fail(self._too_large(self.server.limits.body_bytes))
            return
        if not self.body:
            self.body = data  # mostly the whole of it
        else:
            # Not a list of parts: chunks of two bytes would cost thirty times what they are counted as.
            if type(self.body) is bytes:
                self.body = bytearray(self.body)
            self.body += data

    def on_message_complete(self) -> None:
        if self.draining_until:
            return
        self.receiving = False
        self.completed = True
        self.last = monotonic()
        method = self.parser.get_method()
        slot = Slot(
            self,
            self.parser.should_keep_alive() and not self.parser.should_upgrade(),
            head=method == b"HEAD",
            old=self.parser.get_http_version() == "1.0",
        )
        self.slots.append(slot)
        if len(self.slots) > PIPELINE_LIMIT:
            self._pause_reading()
        body = bytes(self.body)
        self._forget_body()
        application = self.server.application
        if self.refusal is not None:
            slot.refuse(self.refusal, application.common_fields)
            return
        try:
            application.handle(slot, Request(method, self.url, self.headers, body, self.started))
        except Refusal as refusal:
            slot.refuse(refusal, application.common_fields)
        except Exception:
            log.exception("%s %s failed", method.decode(), self.url[:200].decode("latin-1"))
            fault = Refusal(500, "internal", "the collector has a fault", "send it again; tell the platform's team")
            slot.refuse(fault, application.common_fields)

    # -- writing

    def write_ready(self) -> None:
        """Write the answers that are ready, up to the first that is not."""
        slots = self.slots
        if not slots or slots[0].data is None:
            return
        ready = []
        close = False
        while slots and slots[0].data is not None:
            slot = slots.popleft()
            ready.append(slot.data)
            if not slot.keep_alive:
                close = True
                slots.clear()
        transport = self.transport
        if transport is None:
            return
        transport.write(ready[0] if len(ready) == 1 else b"".join(ready))  # type: ignore[arg-type]
        if close:
            self._linger()
        elif self.paused_reading and len(slots) < PIPELINE_LIMIT // 2 and not self.stuck_since:
            self._resume_reading()

    # -- ends

    def check(self, now: float) -> None:
        """Close the connection if it is too slow or has been silent too long."""
        limits = self.server.limits
        if self.draining_until:
            if now > self.draining_until:
                self.abort()
        elif self.stuck_since and now - self.stuck_since > limits.request_seconds:
            self.abort()
        elif self.receiving:
            if now - self.started > limits.request_seconds and not self.paused_reading:
                detail = f"the request was not whole after {limits.request_seconds:g} s"
                self._fail(Refusal(408, "too_slow", detail, "send smaller batches, or with gzip"))
        elif not self.slots and now - self.last > limits.idle_seconds:
            self.abort()

    def close_if_idle(self) -> None:
        if not self.slots and not self.receiving and not self.draining_until and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _too_large(self, limit: int) -> Refusal:
        return Refusal(413, "too_large", f"a body of more than {limit} bytes", f"send batches of at most {limit} bytes")

    def _fail(self, refusal: Refusal) -> None:
        """Answer a request that cannot be read to its end, and read no more."""
        if self.draining_until or self.transport is None:
            return
        self.server.application.failed(refusal)
        self.receiving = False
        self._forget_body()
        self.draining_until = monotonic() + max(LINGER_SECONDS, self.server.limits.request_seconds)
        slot = Slot(self, False)
        self.slots.append(slot)
        slot.refuse(refusal, self.server.application.common_fields)

    def _linger(self) -> None:
        """Say that nothing more comes; break the connection when the client has closed it too, or a moment later."""
        self.draining_until = monotonic() + LINGER_SECONDS
        transport = self.transport
        if transport is None:
            return
        self._resume_reading()
        try:
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
        except (OSError, RuntimeError):
            transport.close()

    def _forget_body(self) -> None:
        self.server.receiving_bytes -= self.body_bytes
        self.body_bytes = 0
        self.body = b""

    def _pause_reading(self) -> None:
        if not self.paused_reading and self.transport is not None:
            self.paused_reading = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.paused_reading and self.transport is not None:
            self.paused_reading = False
            self.transport.resume_reading()
