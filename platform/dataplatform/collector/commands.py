"""`dataplatform collector`."""

import logging
import os
import sys

import click

from ..settings import get_settings
from .server import serve, serve_with_workers


@click.command()
@click.option("--host", help="Address to listen on; by default the setting collector_host.")
@click.option("--port", type=int, help="Port to listen on (0: a free one); by default the setting collector_port.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the port.")
def collector(host: str | None, port: int | None, workers: int) -> None:
    """Run the collector in the foreground: events in by HTTP, durable files out.

    Ends on SIGTERM or Ctrl-C, after the requests that have begun are answered and the open files are finished.
    """
    settings = get_settings()
    host = host or settings.collector_host
    port = settings.collector_port if port is None else port
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    if workers == 1:
        serve(settings, host, port, started=lambda bound: click.echo(f"collector listens on http://{host}:{bound}"))
        return
    if port == 0:
        raise click.UsageError("several workers need a --port that they can share")
    click.echo(f"collector listens on http://{host}:{port} with {workers} processes")
    sys.exit(serve_with_workers([host, str(port), str(os.getpid())], workers))
