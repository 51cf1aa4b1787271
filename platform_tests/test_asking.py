"""How sensors ask: once, again after ever longer pauses, never for what is no longer due."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.asking import FIRST_RETRY, LONGEST_RETRY, Attempt, attempts_of, cursor_of, next_attempts
from dataplatform.due import HOUR, Due

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)


def due(digest: str) -> Due:
    return Due(("mongo/a__b",), NOW, NOW + HOUR, "its changes are new", digest)


def test_a_thing_is_asked_for_once_and_again_after_ever_longer_pauses() -> None:
    attempts = next_attempts([due("a")], {}, NOW)
    assert attempts == {"a": Attempt(1, NOW)}
    assert next_attempts([due("a")], attempts, NOW + FIRST_RETRY - timedelta(seconds=1)) == attempts
    pauses, at = [], NOW
    for _ in range(9):
        last = attempts["a"]
        while attempts["a"] == last:
            at += timedelta(minutes=1)
            attempts = next_attempts([due("a")], attempts_of(cursor_of(attempts)), at)
        assert attempts["a"].count == last.count + 1
        pauses.append(attempts["a"].at - last.at)
    assert pauses[:3] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY]
    assert pauses[-2:] == [LONGEST_RETRY, LONGEST_RETRY]


def test_what_is_no_longer_due_is_forgotten_and_what_is_new_waits_for_nothing() -> None:
    attempts = next_attempts([due("a"), due("b")], {}, NOW)
    later = NOW + timedelta(seconds=30)
    assert next_attempts([due("b"), due("c")], attempts, later) == {"b": Attempt(1, NOW), "c": Attempt(1, later)}


@pytest.mark.parametrize(
    "cursor", [None, "", "rubbish", "[1]", '{"a": 1}', '{"attempts": {"a": 1}, "times": {"a": "x"}}']
)
def test_a_cursor_that_cannot_be_read_remembers_nothing(cursor: str | None) -> None:
    assert attempts_of(cursor) == {}


@given(st.dictionaries(st.text(), st.builds(Attempt, st.integers(1, 10**6), st.datetimes(timezones=st.just(UTC)))))
def test_cursors_there_and_back(attempts: dict[str, Attempt]) -> None:
    assert attempts_of(cursor_of(attempts)) == attempts
