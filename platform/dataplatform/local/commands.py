"""`dataplatform up, down, status, logs, settings, demo`."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

import click

from ..errors import PlatformError
from ..settings import Settings, get_settings, settings_table
from . import control
from .services import BY_NAME
from .stack import is_running


@click.command()
@click.argument("services", nargs=-1, metavar="[SERVICE]…")
@click.option(
    "--detach/--foreground", default=True, help="Return when all is healthy (the default), or stay until Ctrl-C."
)
def up(services: tuple[str, ...], detach: bool) -> None:
    """Start the local stack, or the named services and what they need, and wait until all answer.

    What runs already is left alone. Ports and first hour are remembered in the data folder.
    """
    settings = _local_settings()
    memory = control.up(settings, services, with_owner=not detach, say=click.echo)
    click.echo(f"all {len(memory.services)} run; `dataplatform status` shows them, `dataplatform down` ends them")
    if not detach:
        _stay()
        click.echo("stopping …")
        control.down(settings.data_dir)


@click.command()
@click.argument("services", nargs=-1, metavar="[SERVICE]…")
def down(services: tuple[str, ...]) -> None:
    """Stop the local stack, or the named services and what needs them. Data and ports stay."""
    stopped = control.down(_local_settings().data_dir, services)
    click.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> None:
    """What runs, and where. Exit status 0 only when everything that shall run answers."""
    settings = _local_settings()
    found = control.report(settings)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("no stack in this data folder; `dataplatform up` starts one")
    else:
        for name, one in found.items():
            where = one["url"] or ""
            pid = f"pid {one['pid']}" if one["pid"] else ""
            again = f"{one['restarts']}x started again; last it {one['last_exit']}" if one["restarts"] else ""
            click.echo(f"{name:<15} {one['state']:<12} {pid:<12} {where:<28} {again}".rstrip())
    if not found or any(one["state"] != "running" for one in found.values()):
        sys.exit(1)


@click.command()
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="Lines of the past, of each service."
)
def logs(service: str | None, follow: bool, lines: int) -> None:
    """What the services (or one of them, or `supervisor`) print."""
    folder = _local_settings().data_dir / "logs"
    names = [*BY_NAME, "supervisor"]
    if service is not None and service not in names:
        raise PlatformError(f"no such service: {service}", fix=f"one of {', '.join(names)}")
    chosen = [service] if service else [name for name in names if (folder / f"{name}.log").exists()]
    if not any((folder / f"{name}.log").exists() for name in chosen):
        raise PlatformError("no logs yet", where=str(folder), fix="`dataplatform up` starts the stack")
    opened: dict[str, IO[str]] = {}
    for name in chosen:
        tail = control.log_tail(folder.parent, name, lines)
        for line in tail.splitlines():
            _print_line(name, line, alone=service is not None)
        if (folder / f"{name}.log").exists():
            opened[name] = (folder / f"{name}.log").open(errors="replace")
            opened[name].seek(0, os.SEEK_END)
    while follow:
        for name, file in opened.items():
            for line in file:
                _print_line(name, line.rstrip("\n"), alone=service is not None)
            if _is_replaced(file, folder / f"{name}.log"):
                file.close()
                opened[name] = (folder / f"{name}.log").open(errors="replace")
                break
        time.sleep(0.3)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--markdown", is_flag=True, help="Only names, defaults and meanings, as docs/operations.md has them.")
def settings(as_json: bool, markdown: bool) -> None:
    """Every setting with its value (secrets masked), where the value comes from, and its meaning."""
    if markdown:
        click.echo(settings_table())
        return
    described = get_settings().described()
    if as_json:
        entries = {
            one.name: {"value": one.value, "source": one.source, "variable": one.variable, "meaning": one.meaning}
            for one in described
        }
        click.echo(json.dumps(entries, indent=2))
        return
    name_width = max(len(one.variable) for one in described)
    for one in described:
        click.echo(f"{one.variable:<{name_width}}  {one.value}  ({one.source})")
        click.echo(f"{'':<{name_width}}  {one.meaning}")


@click.command()
@click.option("--once", is_flag=True, help="Stop everything at the end; exit status 0 only if every check holds.")
@click.option("--events", default=200_000, show_default=True, help="How many events to send, about.")
@click.option("--hours", default=6, show_default=True, help="Over how many past hours.")
@click.option("--seed", default=1, show_default=True, help="The same seed sends the same events.")
def demo(once: bool, events: int, hours: int, seed: int) -> None:
    """The whole platform on simulated traffic: start, simulate, materialise, check, and stay up until Ctrl-C."""
    from .demo import run_demo

    held = run_demo(events=events, hours=hours, seed=seed, once=once)
    if not held:
        sys.exit(1)


def _local_settings() -> Settings:
    settings = get_settings()
    if settings.env != "local":
        raise PlatformError(
            "the local stack is for the local environment", where="DATAPLATFORM_ENV", fix="unset DATAPLATFORM_ENV"
        )
    return settings


def _stay() -> None:
    """Return at Ctrl-C or SIGTERM."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    while not ended and is_running(get_settings().data_dir):
        time.sleep(0.2)


def _print_line(name: str, line: str, *, alone: bool) -> None:
    click.echo(line if alone else f"{name:<15} | {line}")


def _is_replaced(file: IO[str], path: Path) -> bool:
    return path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino
