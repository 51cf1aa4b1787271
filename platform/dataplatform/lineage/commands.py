"""`dataplatform lineage …`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import PlatformError
from .catalog import load_catalog


@click.group()
def lineage() -> None:
    """Column lineage, impact and personal data."""


@lineage.command()
@click.option(
    "--queries", "queries", type=click.Path(path_type=Path), required=True, help="Query log, one JSON object a line."
)
@click.option(
    "--schemas", "schemas", type=click.Path(path_type=Path), required=True, help="Tables' schemas, one JSON object."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes that resolve.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the edges go; standard output when not given.")
@click.option("--seconds", default=10.0, show_default=True, help="Time limit of a statement.")
@click.option("--memory-mb", default=2048, show_default=True, help="Memory limit of a statement; 0 for none.")
@click.option("--distinct", is_flag=True, help="Write the edges of equal texts once, under the id of the first job.")
def extract(
    queries: Path, schemas: Path, workers: int, output: Path | None, seconds: float, memory_mb: int, distinct: bool
) -> None:
    """Edges of a query log, one JSON object a line, and a summary on standard error. Needs no server."""
    from .extract import extract as run
    from .extract import read_jobs

    catalog = load_catalog(schemas)
    try:
        log = queries.open("rb")
    except OSError as error:
        raise PlatformError(
            f"cannot be read: {error.strerror}", where=str(queries), fix="give an existing file"
        ) from error
    try:
        sink = output.open("wb") if output is not None else sys.stdout.buffer
    except OSError as error:
        log.close()
        raise PlatformError(
            f"cannot be written: {error.strerror}", where=str(output), fix="give a writable path"
        ) from error
    with log:
        try:
            summary = run(
                read_jobs(log, str(queries)),
                catalog,
                sink.write,
                workers=workers,
                seconds=seconds,
                memory_bytes=memory_mb << 20,
                distinct=distinct,
            )
        finally:
            if output is not None:
                sink.close()
            else:
                sink.flush()
    for line in summary.lines():
        click.echo(line, err=True)
