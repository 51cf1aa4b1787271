"""Where things stand in a stream's folder: `<YYYY-MM-DD>/<HH>/<writer>-<sequence>.<extension>` and `manifest.json`."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

MANIFEST_NAME = "manifest.json"
OPEN_SUFFIX = ".open"
"""Ends the name of a file that a writer still appends to; readers never see it."""
PART_SUFFIX = ".part"
"""Ends the name of a whole file on its way to its place; what a dead process left of it is worth nothing."""

HOUR = timedelta(hours=1)
_FILE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._=-]*$")
_HOUR_PATH = re.compile(r"^(\d{4}-\d{2}-\d{2})/(\d{2})/([^/]+)$")


def hour_of(time: datetime) -> datetime:
    """The UTC hour that a time with a zone belongs to."""
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone; landing hours are UTC")
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hour_path(hour: datetime) -> str:
    """`2026-01-31/07` for the hour that starts then; an error where the time is not the start of an hour."""
    if hour_of(hour) != hour:
        raise ValueError(f"{hour.isoformat()} is not the start of an hour")
    return hour.astimezone(UTC).strftime("%Y-%m-%d/%H")


def parse_path(path: str) -> tuple[datetime, str] | None:
    """(hour, file name) of a path below a stream, or None where it is not a place of the layout."""
    match = _HOUR_PATH.match(path)
    if match is None:
        return None
    hour = parse_hour(match[1], match[2])
    return None if hour is None else (hour, match[3])


@lru_cache(maxsize=1 << 14)  # a listing has the same hour many times, and listings are the same again and again
def parse_hour(day: str, hour: str) -> datetime | None:
    """The hour of a pair of folder names such as `2026-01-31`, `07`; None where they are no such names."""
    try:
        return datetime.strptime(f"{day} {hour}", "%Y-%m-%d %H").replace(tzinfo=UTC)
    except ValueError:
        return None


def is_finished(name: str) -> bool:
    """Whether a file of this name, in an hour's folder, is data that readers may see."""
    return (
        name != MANIFEST_NAME
        and not name.startswith((".", "_"))
        and not name.endswith((OPEN_SUFFIX, PART_SUFFIX))
        and "#" not in name  # how the object-store library names what it is still writing
    )


def check_file_name(name: str) -> str:
    """The name itself, or ValueError where it would not be seen by readers or would leave the hour's folder."""
    if not _FILE_NAME.match(name) or not is_finished(name):
        raise ValueError(f"{name!r} is not a name for a landed file")
    return name
