"""`dataplatform fraud cases …`: what the API does, on the store itself."""

from typing import Any

import click
import msgspec

from .cases import STATUSES, Cases
from .parameter_commands import AS, open_store
from .values import time_text


@click.group()
def cases() -> None:
    """What alerts found about people and accounts, and what became of it."""


@cases.command("list")
@click.option(
    "--status",
    type=click.Choice(["active", "any", *STATUSES]),
    default="active",
    show_default=True,
    help="active: all that are not closed.",
)
@click.option("--assignee", help="Only those of this person.")
@click.option("--policy", help="Only those with an alert of this policy.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@AS
def list_cases(status: str, assignee: str | None, policy: str | None, limit: int, user: str) -> None:
    """Cases, newest first."""
    chosen = None if status == "any" else status
    for case in Cases(open_store()).find(by=user, status=chosen, assignee=assignee, policy=policy, limit=limit):
        who = f"{case.entity} {case.entity_key}"
        click.echo(
            f"{case.id:>6}  {case.status:<10} {case.level:<13}{case.score:>5}  {case.alerts:>4} alerts"
            f"  {time_text(case.opened_at)[:19]}  {case.assignee or '–':<12} {who}"
        )


@cases.command("show")
@click.argument("case", type=int)
@AS
def show_case(case: int, user: str) -> None:
    """A case with its evidence, decisions and history, as JSON."""
    found = Cases(open_store()).read(case, by=user)
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


@cases.command()
@click.argument("case", type=int)
@click.argument("person")
@AS
def assign(case: int, person: str, user: str) -> None:
    """Give a case to someone (`-`: to nobody)."""
    _change(case, {"assignee": None if person == "-" else person}, user)


@cases.command("set")
@click.argument("case", type=int)
@click.argument("status", type=click.Choice(STATUSES))
@click.option("--note", default="", help="What was found.")
@click.option("--version", type=int, help="The version the change is made on; by default the one of now.")
@AS
def set_status(case: int, status: str, note: str, version: int | None, user: str) -> None:
    """Change a case's status; confirmed and dismissed close it."""
    _change(case, {"status": status}, user, note=note, version=version)


@cases.command()
@click.argument("case", type=int)
@click.argument("text")
@AS
def note(case: int, text: str, user: str) -> None:
    """Write a note into a case's history."""
    Cases(open_store()).note(case, text, by=user)
    click.echo(f"noted in case {case}")


def _change(number: int, changes: dict[str, Any], user: str, *, note: str = "", version: int | None = None) -> None:
    store = Cases(open_store())
    if version is None:
        version = store.read(number, by=user)["version"]
    case = store.change(number, changes, version=version, by=user, note=note)
    click.echo(f"case {case.id} is {case.status}, assigned to {case.assignee or 'nobody'} (version {case.version})")
