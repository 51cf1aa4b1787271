"""`dataplatform contracts …`"""

import difflib
import importlib
import json
import sys
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.table import Table

from ..errors import PlatformError
from ..settings import get_settings
from .bigquery import event_schema, fields_of_schema, type_ddl
from .build import GENERATED_FOLDER, difference, generated_files, write
from .collections import Collections, load_collections_leniently
from .compatibility import Change, folder_changes, is_breaking
from .documents import read_document
from .errors import ContractError, Problem
from .events import EventContract
from .history import contracts_at
from .load import OWNERS_FILE, Contracts, load_contracts, load_contracts_leniently
from .sources import load_sources_leniently
from .spark import fields_of_struct

_COLOURS = {"additive": "green", "breaking": "red", "text": None}


@click.group()
@click.option(
    "--schemas-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the contracts; the setting `schemas_dir` if not given.",
)
@click.pass_context
def contracts(context: click.Context, schemas_dir: Path | None) -> None:
    """Check, build and compare the contracts."""
    context.obj = schemas_dir or get_settings().schemas_dir


@contracts.command()
@click.pass_obj
def check(root: Path) -> None:
    """Check every contract; tell every mistake with file, line and a way out."""
    found, problems = load_contracts_leniently(root)
    collections, more = load_collections_leniently(root)
    sources, of_sources = load_sources_leniently(root, found)
    problems += [*more, *_unknown_owners(collections, found), *of_sources]
    of_policies = _of_policies(root, found, {problem.file.stem for problem in problems})
    problems += [problem for problem in of_policies if problem not in problems]
    if problems:
        for problem in problems:
            click.echo(str(problem), err=True)
        files = len({problem.file for problem in problems})
        click.echo(f"\n{_count(len(problems), 'mistake')} in {_count(files, 'file')}", err=True)
        sys.exit(1)
    services = len({contract.service for contract in found.events.values()})
    events = f"{_count(len(found.events), 'event')} of {_count(services, 'service')}"
    captured = f", {_count(len(collections.contracts), 'collection')}" if collections.contracts else ""
    outside = f", {_count(len(sources.contracts), 'source')}" if sources.contracts else ""
    click.echo(f"{events}{captured}{outside}: no mistakes")


def _of_policies(root: Path, found: Contracts, broken: set[str]) -> list[Problem]:
    """Mistakes of features and policies, which read what contracts declare; files that name a contract that does not hold wait for it."""
    # By name: contracts know no domain.
    catalog = importlib.import_module("dataplatform.fraud.catalog")
    try:
        catalog.load_catalog(root, found)
    except ContractError as error:
        texts = {problem.file: problem.file.read_text("utf-8", "replace") for problem in error.problems}
        return [problem for problem in error.problems if not any(name in texts[problem.file] for name in broken)]
    return []


@contracts.command()
@click.option(
    "--check", "only_check", is_flag=True, help="Write nothing; exit with 1 if a file is not as it should be."
)
@click.pass_obj
def build(root: Path, only_check: bool) -> None:
    """Write what is compiled from the contracts to <schemas>/generated."""
    files = generated_files(load_contracts(root))
    folder = root / GENERATED_FOLDER
    found = difference(folder, files) if only_check else write(folder, files)
    for names, what, done in (
        (found.missing, "missing", "written"),
        (found.stale, "stale", "written again"),
        (found.unwanted, "of no contract", "removed"),
    ):
        for name in names:
            click.echo(f"{folder / name}: {what if only_check else done}")
    if only_check and found:
        raise PlatformError(
            "the generated files are not what the contracts say",
            where=str(folder),
            fix="run `dataplatform contracts build` and commit what it writes",
        )
    click.echo(f"{_count(len(files), 'file')} as the contracts say")


@contracts.command()
@click.argument("reference", metavar="REF")
@click.pass_obj
def diff(root: Path, reference: str) -> None:
    """What changed since a Git commit, branch or tag; exit with 1 if a breaking change has no new major version."""
    new = load_contracts(root)
    old, old_problems = contracts_at(root, reference)
    for file in sorted({problem.file for problem in old_problems}):
        click.echo(f"{file} did not hold at {reference}, and is not compared", err=True)
    changes = folder_changes(old.events, new.events)
    for name, found in changes.items():
        click.echo(name)
        for change in found:
            click.echo(f"  {_line(change)}")
        if hint := _version_hint(old.events.get(name), new.events.get(name), found):
            click.echo(f"  {hint}")
    broken = [name for name, found in changes.items() if is_breaking(found)]
    if broken:
        raise PlatformError(
            f"breaking changes without a new major version: {', '.join(broken)}",
            where=str(root),
            fix="undo them, or write the new form as a contract of its own, with the next major version, in <name>_v<major>.yaml",
        )
    click.echo(f"{_count(len(changes), 'contract')} changed since {reference}, nothing breaking")


@contracts.command("list")
@click.pass_obj
def list_contracts(root: Path) -> None:
    """Name, owner, status, version and number of parameters of every contract."""
    table = Table("event", "owner", "status", "version", "columns", box=None, pad_edge=False)
    for name, contract in load_contracts(root).events.items():
        table.add_row(name, contract.owner, contract.status, contract.version, str(len(contract.columns)))
    _print(table)


@contracts.command()
@click.argument("name")
@click.pass_obj
def show(root: Path, name: str) -> None:
    """One event: what it is, and the columns of its table."""
    found = load_contracts(root)
    contract = found.events.get(name)
    if contract is None:
        near = difflib.get_close_matches(name, found.events, n=1)
        fix = f"did you mean {near[0]}?" if near else "`dataplatform contracts list` shows all"
        raise PlatformError(f"there is no event `{name}`", where=str(root), fix=fix)
    click.echo(f"{name} {contract.version} ({contract.status}), owner {contract.owner}, domain {contract.domain}")
    click.echo(f"{found.files[name]}\n{contract.description}\n")
    table = Table("column", "type", "mode", "description", box=None, pad_edge=False)
    for column in event_schema(contract):
        table.add_row(column["name"], type_ddl(column), column["mode"].lower(), column.get("description", ""))
    _print(table)


@contracts.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def draft(file: Path) -> None:
    """Begin a contract from FILE, a Spark StructType or a BigQuery schema as JSON: prints its `params`."""
    try:
        document = json.loads(file.read_bytes())
        fields = fields_of_struct(document) if isinstance(document, dict) else fields_of_schema(document)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"`{error}` is missing" if isinstance(error, KeyError) else str(error)
        fix = "give what `StructType.json()` or `bq show --schema` prints, and take out what a contract cannot say"
        raise PlatformError(f"no contract can be begun from it: {reason}", where=str(file), fix=fix) from error
    params = [field.model_dump(mode="json", exclude_defaults=True) for field in fields]
    click.echo(yaml.safe_dump({"params": params}, sort_keys=False, allow_unicode=True, width=120), nl=False)


def _unknown_owners(collections: Collections, found: Contracts) -> list[Problem]:
    """Owners of collections that are not among the owners; nothing if there are no owners to look among."""
    return [
        Problem(
            file=collections.files[name],
            line=read_document(collections.files[name].read_bytes()).line_of(("owner",)),
            path="owner",
            code="unknown_owner",
            message=f"`{contract.owner}` is not among the owners",
            fix=f"add the team to {OWNERS_FILE}",
        )
        for name, contract in collections.contracts.items()
        if found.owners and contract.owner not in found.owners
    ]


def _print(table: Table) -> None:
    """On a terminal as wide as it is; into a pipe or file with nothing cut off."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    with console.capture() as capture:
        console.print(table, markup=False)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def _line(change: Change) -> str:
    kind = click.style(change.kind, fg=_COLOURS[change.kind])
    path = f" {change.path}:" if change.path else ""
    return f"{kind}{path} {change.message}"


def _version_hint(old: EventContract | None, new: EventContract | None, changes: list[Change]) -> str:
    if old is None or new is None or old.version != new.version or not any(c.kind == "additive" for c in changes):
        return ""
    major, minor = old.version.split(".")
    return f'hint: raise `version` to "{major}.{int(minor) + 1}", so that rejections tell the two apart'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
