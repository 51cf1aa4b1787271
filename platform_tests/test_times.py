"""Times of command lines."""

from datetime import UTC, datetime

import click
import pytest

from dataplatform.times import Time


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-01-31T07:00:00Z", 7),
        ("2026-01-31T07:00", 7),
        ("2026-01-31T07", 7),
        ("2026-01-31", 0),
        ("2026-01-31T16:00:00+09:00", 7),
    ],
)
def test_a_time_is_utc_where_it_does_not_say_otherwise(text: str, hour: int) -> None:
    assert Time().convert(text, None, None) == datetime(2026, 1, 31, hour, tzinfo=UTC)


@pytest.mark.parametrize("text", ["nonsense", "", "2026-13-01", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time such as"):
        Time().convert(text, None, None)
