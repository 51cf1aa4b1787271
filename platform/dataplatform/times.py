"""Times that people type."""

from datetime import UTC, datetime

import click


class Time(click.ParamType[datetime]):
    """An ISO 8601 time of a command line, such as `2026-01-31T07:00:00Z`, `2026-01-31T07` or `2026-01-31`: in UTC, as which it is
    also read where it has no offset."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time in UTC; a usage error where the text is none."""
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(str(value))
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time such as 2026-01-31T07:00:00Z", param, ctx)
