"""What is due, in words that all domains share: a domain says which of its assets lack which hours, and nothing of Dagster."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Due:
    """One run's worth of work: these assets, for the hours `[start, end)` (UTC); both None for assets without partitions.

    `assets` are asset keys with slashes, such as `events/click_item_ads`. `reason` says in a few words why. `digest` is the
    same as long as the same thing is due for the same cause, so that nobody asks for one thing twice. `unit` is the length of
    the assets' partitions: an hour, or a day, and then start and end are whole days.
    """

    assets: tuple[str, ...]
    start: datetime | None
    end: datetime | None
    reason: str
    digest: str
    unit: timedelta = HOUR

    @property
    def hours(self) -> int:
        """Number of hours in the range; 0 for assets without partitions."""
        return 0 if self.start is None or self.end is None else (self.end - self.start) // HOUR


class Stream(Protocol):
    """What `catch_up` and the sensors need of a domain."""

    name: str

    def close(self, until: datetime) -> list[str]:
        """Settle the writers and close every hour that ends at or before `until`; what was done, a line each."""
        ...

    def due(self, until: datetime) -> list[Due]:
        """What is due among the hours that end at or before `until`, in the order in which it has to be done."""
        ...

    def broken(self, until: datetime) -> list[str]:
        """Blocking checks that do not hold, a line each, whatever is due."""
        ...


def ranges(hours: Iterable[datetime]) -> list[tuple[datetime, datetime]]:
    """Hours as contiguous ranges `[start, end)`, in order."""
    found: list[tuple[datetime, datetime]] = []
    for hour in sorted(set(hours)):
        if found and found[-1][1] == hour:
            found[-1] = (found[-1][0], hour + HOUR)
        else:
            found.append((hour, hour + HOUR))
    return found


def hours_between(start: datetime, end: datetime) -> Sequence[datetime]:
    """The hours of `[start, end)`; both are whole hours."""
    return [start + index * HOUR for index in range(max(0, (end - start) // HOUR))]


def range_text(start: datetime, end: datetime) -> str:
    """`2026-01-31 07:00`, or `2026-01-31 07:00 to 09:00` for a range: the first and the last hour in it."""
    last = end - HOUR
    if last <= start:
        return f"{start:%Y-%m-%d %H}:00"
    day = "" if last.date() == start.date() else f"{last:%Y-%m-%d} "
    return f"{start:%Y-%m-%d %H}:00 to {day}{last:%H}:00"
