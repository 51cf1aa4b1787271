"""Replay: an event's hours judged again by its present contract, so that what was wrongly refused moves into its table."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import click

from ..due import HOUR, Due, ranges
from ..errors import PlatformError
from ..landing import hour_of
from ..settings import Settings, get_settings
from .hours import LEDGER, REJECTED, EventHours, asset_of


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of an event's records in a range of hours."""

    received: int = 0
    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay of the hours `[start, end)`: the counts before it and after it."""

    event: str
    start: datetime
    end: datetime
    before: Tally
    after: Tally

    def lines(self) -> list[str]:
        """The counts as a small table."""
        names = [field.name for field in fields(Tally)]
        rows = [f"{name:12}{getattr(self.before, name):>12,}{getattr(self.after, name):>12,}" for name in names]
        return [f"{'':12}{'before':>12}{'after':>12}", *rows]


def replay(
    event: str,
    since: datetime,
    until: datetime | None = None,
    *,
    settings: Settings | None = None,
    echo: Callable[[str], None] = click.echo,
) -> Replayed:
    """Judge the closed hours of `[since, until)` again by the event's present contract, as one Dagster run.

    Times are received times, cut to hours; without `until` every closed hour from `since` on is meant, the running one too
    where it was closed early. Replaying twice changes nothing. Raises PlatformError for an event without a contract, where
    none of the hours is closed, and where a run or a blocking check fails; ContractError where a contract does not hold.
    """
    from ..contracts.load import load_contracts
    from ..runs import bury_dead_runs, dagster_instance, execute
    from .assets import event_definitions

    settings = settings or get_settings()
    contracts = load_contracts(settings.schemas_dir)
    if event not in contracts.events:
        raise PlatformError(
            f"no contract has the name `{event}`", where=str(settings.schemas_dir), fix="add the contract, then replay"
        )
    stream = EventHours(settings, contracts.events)
    start = max(hour_of(since), stream.first_hour)
    end = stream.last_end(until or datetime.now(UTC) + HOUR)
    closed = [hour for hour in stream.landing.manifests(start) if hour < end] if start < end else []
    if not closed:
        raise PlatformError(
            f"no hour between {since:%Y-%m-%d %H}:00 and {end:%Y-%m-%d %H}:00 is closed",
            where=stream.landing.uri,
            fix="run `dataplatform catch-up` first, or give an earlier --since",
        )
    before = tally(stream, event, start, end)
    outcomes = []
    with dagster_instance(settings) as instance:
        bury_dead_runs(instance)
        definitions = event_definitions(settings, contracts)
        for piece in plan(event, closed):
            outcome = execute(definitions, instance, piece, stream.name)
            echo(f"run {outcome.run_id[:8]} {'succeeded' if outcome.ok else 'failed'} in {outcome.seconds:.1f} s")
            outcomes.append(outcome)
    if failures := [line for outcome in outcomes for line in outcome.failures]:
        raise PlatformError(
            "\n".join(failures),
            where=asset_of(event),
            fix="mend what is told above and replay again: nothing is done twice",
        )
    replayed = Replayed(event, start, end, before, tally(stream, event, start, end))
    for line in replayed.lines():
        echo(line)
    return replayed


def plan(event: str, closed: list[datetime]) -> list[Due]:
    """The runs of a replay: the event's table, the rejected and the ledger, for each stretch of closed hours."""
    assets = (asset_of(event), REJECTED, LEDGER)
    return [Due(assets, start, end, "replay", f"replay:{event}:{start.isoformat()}") for start, end in ranges(closed)]


def tally(stream: EventHours, event: str, start: datetime, end: datetime) -> Tally:
    """The event's counts in the range, by the ledger."""
    if "ledger" not in stream.warehouse.tables("events"):
        return Tally()
    (row,) = stream.warehouse.query(
        f"""SELECT SUM(received) AS received, SUM(accepted) AS accepted, SUM(rejected) AS rejected,
  SUM(duplicates) AS duplicates
FROM {stream.tables.ledger}
WHERE hour >= @start AND hour < @end AND event = @event""",
        {"start": start, "end": end, "event": event},
        name="events_tally",
    ).rows
    return Tally(**{name: value or 0 for name, value in row.items()})
