"""How sensors ask for what is due: each thing once, and while it stays due again, after ever longer pauses."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from .due import Due
from .errors import PlatformError
from .runs import run_request, unfinished_runs

FIRST_RETRY = timedelta(minutes=2)
LONGEST_RETRY = timedelta(hours=2)
"""What failed is asked for again, each time after twice as long, up to this."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How often a thing was asked for, and when last (UTC)."""

    count: int
    at: datetime

    def is_over(self, now: datetime) -> bool:
        """Whether it may be asked for again."""
        pause: timedelta = FIRST_RETRY * (1 << min(self.count - 1, 16))
        return now - self.at >= min(LONGEST_RETRY, pause)


def attempts_of(cursor: str | None) -> dict[str, Attempt]:
    """What a sensor's cursor remembers, by digest of what was due. One that cannot be read remembers nothing."""
    try:
        known = json.loads(cursor or "{}")
        return {digest: Attempt(int(count), datetime.fromisoformat(at)) for digest, (count, at) in known.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def cursor_of(attempts: dict[str, Attempt]) -> str:
    """The inverse of `attempts_of`."""
    return json.dumps({digest: [each.count, each.at.isoformat()] for digest, each in attempts.items()})


def next_attempts(due: Sequence[Due], before: dict[str, Attempt], now: datetime) -> dict[str, Attempt]:
    """What is remembered of all that is due, where those whose pause is over are asked for `now`; the rest is forgotten."""
    return {
        piece.digest: Attempt(last.count + 1 if last else 1, now) if last is None or last.is_over(now) else last
        for piece in due
        for last in [before.get(piece.digest)]
    }


def ask(
    context: dg.SensorEvaluationContext, stream: str, find: Callable[[datetime], Sequence[Due]]
) -> dg.SensorResult | dg.SkipReason:
    """A tick of a stream's sensor: runs for what `find` says is due now, unless a run of the stream is at work.

    A PlatformError of `find` shows at the sensor, and the next tick tries again.
    """
    if running := unfinished_runs(context.instance, stream):
        return dg.SkipReason(f"run {running[0].run_id} is at work on {stream}")
    now = datetime.now(UTC)
    try:
        due = find(now)
    except PlatformError as error:
        return dg.SkipReason(str(error))
    attempts = next_attempts(due, attempts_of(context.cursor), now)
    chosen = [piece for piece in due if attempts[piece.digest].at == now]
    return dg.SensorResult(
        run_requests=[run_request(piece, stream, attempts[piece.digest].count) for piece in chosen],
        skip_reason=None if chosen else "what failed is asked for again later" if due else "nothing is due",
        cursor=cursor_of(attempts),
    )
