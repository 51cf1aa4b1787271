"""What an HTTP client did wrong (or the collector cannot do now), as problem+json (RFC 9457)."""

from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec


class Refusal(Exception):
    """A request that is not taken in. `fix` says what the sender can do; `more` are further members of the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        fix: str,
        *,
        retry_after: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.fix = fix
        self.retry_after = retry_after
        self.headers = headers
        self.more = more or {}

    def body(self) -> bytes:
        """The problem as JSON."""
        return msgspec.json.encode(
            {
                "type": f"urn:dataplatform:collector:{self.code}",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "code": self.code,
                "detail": self.detail,
                "fix": self.fix,
                **self.more,
            }
        )

    def header_lines(self) -> bytes:
        """Header lines of the answer; Retry-After in whole seconds, at least 1."""
        fields: tuple[tuple[str, str], ...] = (("Content-Type", "application/problem+json"), *self.headers)
        if self.retry_after is not None:
            fields = (*fields, ("Retry-After", str(max(1, ceil(self.retry_after)))))
        return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")
