"""`dataplatform events`: events from files, and repaired rejections back into their place."""

import sys
from datetime import datetime
from pathlib import Path

import click

from dataplatform.contracts.load import load_contracts
from dataplatform.landing import Writer, open_landing, unique_writer_name
from dataplatform.settings import get_settings
from dataplatform.times import Time

from .importing import Count, events_in, import_events, validate_events
from .verdict import Judge

_FILES = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE…"
)


@click.group()
def events() -> None:
    """Import, validate and replay events."""


@events.command("import")
@_FILES
@click.option("--source", default="import", show_default=True, help="Name of the source that the events get.")
def import_command(files: tuple[Path, ...], source: str) -> None:
    """Land the events of files as if the collector received them now: NDJSON, events over several lines, or a JSON array,
    plain or gzipped.

    Every event is landed, refused ones with what is wrong with them, lines that are no JSON as well. An import that broke
    off (the place is told) can be done again: what was landed before is found by its event_id and counted as a duplicate.
    """
    settings = get_settings()
    judge = Judge(load_contracts(settings.schemas_dir).events)
    landing = open_landing(settings, "events")
    landing.finish_dead()
    writer = Writer(
        landing,
        name=unique_writer_name("i"),
        rotate_seconds=settings.landing_rotate_seconds,
        rotate_bytes=settings.landing_rotate_bytes,
    )
    count = Count()
    try:
        for file in files:
            with _Progress(file) as progress:
                import_events(events_in(file, progress.told), source, judge, writer, count=count)
    finally:
        writer.close()
        click.echo(f"landed {_summary(count)}")
        _print_reasons(count)
    if count.refused:
        click.echo("\nRefused events are landed too: mend the contract and use `dataplatform events replay`.")


@events.command()
@_FILES
def validate(files: tuple[Path, ...]) -> None:
    """Say what would happen to the events of files, without writing anything. Exit status 1 if any would be refused."""
    judge = Judge(load_contracts(get_settings().schemas_dir).events)
    count = Count()
    for file in files:
        with _Progress(file) as progress:
            validate_events(events_in(file, progress.told), judge, count)
    click.echo(_summary(count))
    _print_reasons(count)
    if count.refused:
        sys.exit(1)


@events.command()
@click.option("--event", required=True, help="Name of the event whose contract was mended.")
@click.option(
    "--since", required=True, type=Time(), help="First received hour to judge anew (UTC where no offset is given)."
)
@click.option("--until", type=Time(), help="End of the hours to judge anew, exclusive; by default all closed ones.")
def replay(event: str, since: datetime, until: datetime | None) -> None:
    """Judge what was received by the contract of today, and put repaired rejections in their place."""
    from .replay import replay as replay_event

    replay_event(event, since, until)


def _summary(count: Count) -> str:
    repeated = f"; {count.repeated:,} repeat an event_id of these files" if count.repeated else ""
    return f"{count.received:,} events: {count.accepted:,} accepted, {count.refused:,} refused{repeated}"


def _print_reasons(count: Count) -> None:
    if not count.reasons:
        return
    rows = [
        (f"{number:,}", event or "(no name)", code, count.first[event, code])
        for (event, code), number in count.reasons.most_common(50)
    ]
    header = ("events", "event", "code", "first met at")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(3)]
    click.echo("")
    for number, event, code, first in [header, *rows]:
        click.echo(f"{number:>{widths[0]}}  {event:<{widths[1]}}  {code:<{widths[2]}}  {first}")
    if len(count.reasons) > len(rows):
        click.echo(f"… and {len(count.reasons) - len(rows)} more kinds")


class _Progress:
    """A progress bar by bytes of the file, on the terminal only."""

    def __init__(self, file: Path) -> None:
        size = file.stat().st_size
        self._bar = click.progressbar(length=size, label=file.name, file=sys.stderr, hidden=not sys.stderr.isatty())
        self._at = 0

    def __enter__(self) -> "_Progress":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)

    def told(self, at: int) -> None:
        """Takes how many bytes of the file were read."""
        self._bar.update(at - self._at)
        self._at = at
