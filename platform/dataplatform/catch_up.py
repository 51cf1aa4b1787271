"""`dataplatform catch-up`: close hours and materialise all that is due, through Dagster, in this process.

It uses the same definitions and the same instance as the daemon and the web interface, so its runs are seen there. What is
due comes from the warehouse, never from memory of earlier runs: after a crash, or beside a running daemon, it does what is
left. Each domain says what is due in its own room (`due.Stream`); here that becomes runs.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from .cdc.hours import CollectionHours
from .contracts.collections import load_collections_leniently
from .contracts.load import load_contracts
from .due import Due, Stream, range_text
from .errors import PlatformError
from .events.assets import contracts_due
from .events.hours import EventHours
from .fraud.catalog import BrokenCollectionError, load_catalog
from .fraud.due import FraudStream
from .lineage.hours import LineageHours
from .runs import Interrupted, RunOutcome, bury_dead_runs, dagster_instance, execute, select
from .settings import Settings, get_settings
from .times import Time

if TYPE_CHECKING:
    import dagster as dg

MAX_ROUNDS = 5
"""What is done makes other things due (late files, the hours after them); more rounds than this mean a mistake."""

type Echo = Callable[[str], None]


@dataclass
class CatchUpResult:
    """What a catch-up did. `ok` says that all was materialised and every blocking check holds."""

    until: datetime
    lines: list[str] = field(default_factory=list)
    runs: list[RunOutcome] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    left: list[Due] = field(default_factory=list)
    """What is still due, because a run for it failed."""

    @property
    def ok(self) -> bool:
        return not self.broken and not self.left and all(run.ok for run in self.runs)


def streams(settings: Settings) -> tuple[list[Stream], list[str]]:
    """(every domain's stream, in the order in which they stand on each other; what is left out, for its contract does not hold)."""
    contracts = load_contracts(settings.schemas_dir)
    collections, broken = load_collections_leniently(settings.schemas_dir)
    left_out = [str(problem) for problem in broken]
    found: list[Stream] = [EventHours(settings, contracts.events), CollectionHours(settings, collections.contracts)]
    try:
        found.append(FraudStream(settings, load_catalog(settings.schemas_dir, contracts)))
    except BrokenCollectionError as error:
        left_out += [f"fraud: {problem}" for problem in error.problems if problem not in broken]
    return [*found, LineageHours(settings, contracts)], left_out  # last: it reads the log of all that the others did


def catch_up(
    until: datetime | None = None,
    selection: str | None = None,
    echo: Echo = click.echo,
    *,
    settings: Settings | None = None,
) -> CatchUpResult:
    """Close every hour that ends at or before `until` (UTC; default now) and materialise all that is due.

    `until` may lie in the running hour's end, which closes that hour early; files that land in it later re-open it.
    `selection` is a Dagster asset selection such as `key:"events/*"`; the rest stays due. Raises ContractError,
    and PlatformError where the warehouse is away; what was done until then stands, and a repetition does the rest.
    """
    settings = settings or get_settings()
    until = until or datetime.now(UTC)
    if until.tzinfo is None:
        raise PlatformError(f"{until} has no time zone", where="until", fix="write it as 2026-01-31T07:00:00Z")
    result = CatchUpResult(until)

    def say(line: str) -> None:
        result.lines.append(line)
        echo(line)

    with dagster_instance(settings) as instance:
        for run_id in bury_dead_runs(instance):
            say(f"run {run_id[:8]} was left by a process that is gone: marked as failed")
        definitions: dg.Definitions | None = None
        if selection is not None:  # a mistake in it is told even where nothing is due
            definitions = definitions_of(settings)
            select(definitions, (), selection)
        known, left_out = streams(settings)
        result.broken += left_out
        for stream in known:
            for line in stream.close(until):
                say(line)
        for stream in known:
            tried: set[str] = set()
            for _ in range(MAX_ROUNDS):
                due = [piece for piece in stream.due(until) if piece.digest not in tried]
                if not due:
                    break
                definitions = definitions or definitions_of(settings)
                todo = due if selection is None else select(definitions, due, selection)
                if not todo:
                    break
                for piece in todo:
                    say(f"{stream.name}: {describe(piece)}")
                    outcome = execute(definitions, instance, piece, stream.name)
                    say(
                        f"  run {outcome.run_id[:8]} {'succeeded' if outcome.ok else 'failed'} in {outcome.seconds:.1f} s"
                    )
                    for line in outcome.failures:
                        say(f"  {line}")
                    result.runs.append(outcome)
                    tried.add(piece.digest)
            if selection is None and tried:
                result.left += stream.due(until)
            result.broken += stream.broken(until)
        if selection is None and (changed := contracts_due(instance, load_contracts(settings.schemas_dir))):
            definitions = definitions or definitions_of(settings)
            outcome = execute(definitions, instance, changed, "contracts")
            say(f"contracts: noted the new versions of {len(changed.assets)} service(s)")
            result.runs.append(outcome)
    return result


def definitions_of(settings: Settings) -> "dg.Definitions":
    """The project's definitions, imported only where something is due: an idle catch-up stays quick."""
    from .definitions import definitions_for

    return definitions_for(settings)


def describe(due: Due) -> str:
    """What a run will do, for people."""
    count = f"{len(due.assets)} asset{'s' if len(due.assets) != 1 else ''}"
    if due.start is None or due.end is None:
        return f"{count}: {due.reason}"
    hours = f"{due.hours} hour{'s' if due.hours != 1 else ''}"
    return f"{count} for {range_text(due.start, due.end)} ({hours}): {due.reason}"


def _interrupt(number: int, _frame: object) -> None:
    raise Interrupted(number)


@click.command("catch-up")
@click.option(
    "--until",
    type=Time(),
    help="Close and materialise hours that end at or before this (UTC unless it says otherwise); default now.",
)
@click.option("--select", "selection", help='Dagster asset selection, such as key:"events/*"; the rest stays due.')
def command(until: datetime | None, selection: str | None) -> None:
    """Close hours and materialise all that is due; exit status 0 only if every blocking check holds."""
    started = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        result = catch_up(until, selection)
    except Interrupted as interrupted:
        click.echo(f"stopped by {interrupted}; a repetition does what is left", err=True)
        raise SystemExit(128 + interrupted.signal) from None
    for line in result.broken:
        click.echo(f"does not hold: {line}", err=True)
    for piece in result.left:
        click.echo(f"still due: {describe(piece)}", err=True)
    seconds = timedelta(seconds=round(time.monotonic() - started))
    if result.ok:
        click.echo(f"all is up to date: {len(result.runs)} run(s) in {seconds}" if result.runs else "nothing was due")
        return
    click.echo(f"not all is well after {len(result.runs)} run(s) in {seconds}", err=True)
    raise SystemExit(1)
