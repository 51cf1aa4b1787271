"""`dataplatform fraud parameters …` and `dataplatform fraud lists …`: what the API does, on the store itself."""

import getpass
from pathlib import Path

import click

from ..errors import PlatformError
from ..settings import get_settings
from .catalog import load_catalog
from .facts import assignments
from .git_copy import GitCopyError, commit_live, export_live
from .parameters import ROLES, ParameterStore, database_url
from .values import ValueProblem, micros, time_text

AS = click.option(
    "--as", "user", default=getpass.getuser, show_default="who is logged in", help="Who makes the change."
)
REASON = click.option("--reason", required=True, help="Why, in a sentence.")


def open_store() -> ParameterStore:
    """The store of this environment."""
    settings = get_settings()
    catalog = load_catalog(settings.schemas_dir)
    return ParameterStore(database_url(settings.fraud_database, settings.data_dir), catalog.policies)


def _copy(store: ParameterStore) -> None:
    """Write the Git copy at once; where that fails the decision service tries again, and this command has done its work."""
    settings = get_settings()
    try:
        commit_live(store, settings.data_dir / "fraud" / "parameters", settings.fraud_git_remote)
    except GitCopyError as error:
        click.echo(f"the Git copy was not written: {error}", err=True)


@click.group()
def parameters() -> None:
    """Thresholds, live: draft, dry run, shadow, share, live, rollback."""


@parameters.command("show")
@click.argument("policy")
def show_parameters(policy: str) -> None:
    """What is in force, and every version."""
    store = open_store()
    declared = (
        {each.name: each for each in store.policies[policy].policy.parameters} if policy in store.policies else {}
    )
    versions = store.versions(policy)
    live = next(each for each in versions if each.state == "live")
    for name, value in live.values.items():
        unit = f" {declared[name].unit}" if name in declared and declared[name].unit else ""
        click.echo(f"{name} = {value}{unit}")
    for each in versions:
        share = f" {each.share_percent}%" if each.state == "share" else ""
        approved = f", approved by {each.approved_by}" if each.approved_by else ""
        made = time_text(each.created_at)[:19]
        click.echo(f"version {each.version:>3}  {each.state}{share:<5}  {made}  {each.author}{approved}: {each.reason}")


@parameters.command("set")
@click.argument("policy")
@click.argument("changes", nargs=-1, required=True, metavar="NAME=VALUE…")
@click.option("--base", type=int, help="The live version the change is made on; by default the one that is live now.")
@REASON
@AS
def set_values(policy: str, changes: tuple[str, ...], base: int | None, reason: str, user: str) -> None:
    """Make a draft. Decides nothing until it is advanced."""
    store = open_store()
    if base is None:
        base = next(each.version for each in store.versions(policy) if each.state == "live")
    made = store.propose(policy, assignments(changes), base_version=base, by=user, reason=reason)
    click.echo(f"version {made.version} of {policy} is a draft")


@parameters.command()
@click.argument("policy")
@click.argument("version", type=int)
@AS
def approve(policy: str, version: int, user: str) -> None:
    """Say yes as the second person."""
    open_store().approve(policy, version, by=user)
    click.echo(f"version {version} of {policy} is approved by {user}")


@parameters.command()
@click.argument("policy")
@click.argument("version", type=int)
@click.argument("state", type=click.Choice(["shadow", "share", "live"]))
@click.option("--percent", type=click.IntRange(1, 99), default=None, help="Share of the decisions, for `share`.")
@AS
def advance(policy: str, version: int, state: str, percent: int | None, user: str) -> None:
    """Move a version forward."""
    store = open_store()
    done = store.advance(policy, version, state, by=user, share_percent=percent or 0)
    click.echo(f"version {version} of {policy} is {done.state}")
    if done.state == "live":
        _copy(store)


@parameters.command()
@click.argument("policy")
@click.option("--to", type=int, help="The version to go back to; by default the one that was live before.")
@click.option("--base", type=int, help="The version that was seen to be live: a conflict where another is.")
@REASON
@AS
def rollback(policy: str, to: int | None, base: int | None, reason: str, user: str) -> None:
    """The values before, live again at once."""
    store = open_store()
    made = store.rollback(policy, by=user, reason=reason, to=to, base_version=base)
    click.echo(f"version {made.version} of {policy} is live")
    _copy(store)


@parameters.command()
@click.argument("user")
@click.argument("role", type=click.Choice(ROLES))
def grant(user: str, role: str) -> None:
    """Give someone a role; whoever can open the database may."""
    open_store().grant(user, role, by=getpass.getuser())
    click.echo(f"{user} is {role}")


@parameters.command()
@click.argument("policy", required=False)
def history(policy: str | None) -> None:
    """Who did what, when and why."""
    for each in open_store().changes(policy):
        version = f" {each['version']}" if each["version"] is not None else ""
        click.echo(
            f"{each['at'][:19]}  {each['user']:<12} {each['what']:<10} {each['policy']}{version}  {each['detail']}"
        )


@parameters.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("schemas/parameters"))
def export(folder: Path) -> None:
    """Write what is live (POLICY.yaml) and all that ever was (POLICY/VERSION.yaml) into a folder of your own."""
    for file in export_live(open_store(), folder):
        click.echo(f"wrote {file}")


@click.group()
def lists() -> None:
    """Block and allow lists: entries, with an expiry where wanted."""


@lists.command("add")
@click.argument("name")
@click.argument("entries", nargs=-1, required=True)
@click.option("--until", help="When the entries expire, such as 2026-12-31T00:00:00Z; never by default.")
@REASON
@AS
def add(name: str, entries: tuple[str, ...], until: str | None, reason: str, user: str) -> None:
    """Add texts to a list."""
    try:
        expires = micros(until) if until else None
    except ValueProblem as problem:
        raise PlatformError(problem.message, where="--until", fix=problem.fix) from None
    count = open_store().put_entries(name, list(entries), by=user, reason=reason, expires_at=expires)
    click.echo(f"{count} entries in {name}")


@lists.command("remove")
@click.argument("name")
@click.argument("entries", nargs=-1, required=True)
@REASON
@AS
def remove(name: str, entries: tuple[str, ...], reason: str, user: str) -> None:
    """Take entries out of a list."""
    count = open_store().remove_entries(name, list(entries), by=user, reason=reason)
    click.echo(f"{count} entries taken out of {name}")


@lists.command("show")
@click.argument("name")
def show_list(name: str) -> None:
    """The entries that have not expired."""
    for entry in sorted(open_store().entries(name), key=str):
        click.echo(entry)
