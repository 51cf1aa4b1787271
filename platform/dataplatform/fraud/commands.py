"""`dataplatform fraud …`."""

import getpass
import importlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path

import click
import msgspec

from ..settings import get_settings
from ..times import Time
from .compiled import compile_policy, decision
from .fact_types import TypedPolicy
from .facts import FactLine, assignments, check_lists, read_facts, read_lists, set_parameters, write_lines
from .policies import load_policy
from .tree import Decision, Scalar

FILE = click.Path(dir_okay=False, path_type=Path)
SQL_BATCH = 20_000


LATER = {
    "parameters": "dataplatform.fraud.parameter_commands:parameters",
    "cases": "dataplatform.fraud.case_commands:cases",
    "lists": "dataplatform.fraud.parameter_commands:lists",
}
"""Groups of commands that are imported when they are called, so that the others start fast."""


class LazyCommands(click.Group):
    """A group with some of its commands in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        module, attribute = LATER[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyCommands)
def fraud() -> None:
    """Features, policies, parameters, decisions and backtests."""


@fraud.command()
@click.option("--policy", "policy_file", type=FILE, required=True, help="The policy's YAML file; it may stand alone.")
@click.option("--facts", "facts_file", type=FILE, required=True, help='Lines of {"id": …, "facts": {name: value}}.')
@click.option("--lists", "lists_file", type=FILE, help='Lists as {"name": ["entry", …]}.')
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="A parameter's value instead of its default."
)
@click.option(
    "--engine",
    type=click.Choice(["compiled", "traced", "sql"]),
    default="compiled",
    show_default=True,
    help="The function that decides, the one that explains, or BigQuery (the configured or the embedded server).",
)
@click.option("--output", type=FILE, required=True, help="Lines of {id, level, score, rules, unknown}.")
def evaluate(  # click passes by name
    policy_file: Path, facts_file: Path, lists_file: Path | None, changes: tuple[str, ...], engine: str, output: Path
) -> None:
    """Judge a file of facts by one policy."""
    lists, kinds = read_lists(lists_file) if lists_file else ({}, {})
    typed = load_policy(policy_file, lists=kinds)
    check_lists(typed.policy, lists, lists_file or policy_file)
    parameters = set_parameters(typed.policy, assignments(changes))
    lines = read_facts(facts_file, typed)
    if engine == "sql":
        rows = _by_sql(typed, parameters, lists, lines)
    elif engine == "traced":
        rows = _traced(typed, parameters, lists, lines)
    else:
        rows = _compiled(typed, parameters, lists, lines)
    count = write_lines(output, rows)
    click.echo(f"{count} decisions by {typed.policy.name} ({engine}) in {output}")


@fraud.command()
def check() -> None:
    """Check features and policies against the contracts of events; every mistake with its place."""
    from .catalog import load_catalog

    catalog = load_catalog(get_settings().schemas_dir)
    features = sum(len(entity.features) for entity in catalog.entities.values())
    rules = sum(len(typed.policy.rules) for typed in catalog.policies.values())
    click.echo(
        f"{features} features of {len(catalog.entities)} entities, "
        f"{rules} rules in {len(catalog.policies)} policies: all hold"
    )


@fraud.command()
@click.argument("policy_file", type=FILE)
def show(policy_file: Path) -> None:
    """Print a policy as it is understood: its text form, which reads back as the same policy."""
    from .policies import print_policy

    click.echo(print_policy(load_policy(policy_file).policy), nl=False)


@fraud.command()
@click.option("--definitions", type=FILE, required=True, help="The entity's features, a YAML file; it may stand alone.")
@click.option("--data", "data_file", type=FILE, required=True, help='Lines of {"event", "event_time", "known_at", …}.')
@click.option("--at", "at_file", type=FILE, required=True, help='Lines of {<the entity\'s key>: …, "time": …}.')
@click.option(
    "--engine",
    type=click.Choice(["sql", "online"]),
    default="online",
    show_default=True,
    help="The state that serves decisions, or BigQuery (the configured or the embedded server).",
)
@click.option("--output", type=FILE, required=True, help="The lines of --at, each with its features.")
def features(definitions: Path, data_file: Path, at_file: Path, engine: str, output: Path) -> None:
    """All features of an entity at given moments, as they were known then."""
    from .features import load_entity
    from .moments import answer_line, read_events, read_moments

    entity = load_entity(definitions)
    events = read_events(data_file, entity)
    moments = read_moments(at_file, entity)
    if engine == "sql":
        from .engine import sql_engine
        from .staging import features_by_sql

        with sql_engine() as warehouse:
            values = features_by_sql(warehouse, entity, events, moments)
    else:
        from .online import features_in_order

        values = features_in_order(entity, events, moments)
    lines = (answer_line(moment, entity, each) for moment, each in zip(moments, values, strict=True))
    count = write_lines(output, lines)
    click.echo(f"{len(entity.features)} features at {count} moments ({engine}) in {output}")


@fraud.command()
@click.argument("policy")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A parameter's value to be tried.")
@click.option("--version", type=int, help="Try this version of the parameters, and keep the summary with it.")
@click.option("--from", "start", type=Time(), required=True, help="UTC unless it says otherwise.")
@click.option("--to", "end", type=Time(), required=True, help="Exclusive.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("backtest"), show_default=True)
@click.option("--as", "user", default=getpass.getuser, show_default="who is logged in", help="Who tries the version.")
def backtest(  # click passes by name
    policy: str,
    changes: tuple[str, ...],
    version: int | None,
    start: datetime,
    end: datetime,
    output: Path,
    user: str,
) -> None:
    """What a policy would have decided in the past: report.json and report.html."""
    from ..warehouse.client import Warehouse
    from .catalog import load_catalog
    from .dry_runs import Question, dry_run
    from .parameters import ParameterStore, database_url
    from .report import write_report

    settings = get_settings()
    catalog = load_catalog(settings.schemas_dir)
    store = ParameterStore(database_url(settings.fraud_database, settings.data_dir), catalog.policies)
    begin, until = (each.isoformat() for each in (start, end))
    question = Question(policy, begin, until, user, version, dict(assignments(changes)))
    run, report = dry_run(store, catalog, Warehouse(settings), question)
    page = write_report(report, output)
    changed = report["changed"]
    click.echo(
        f"{report['decisions']:,} decisions, {changed['decisions']:,} change their level, "
        f"{changed['users']:,} people, {changed['amount']:,.0f} in amount: {page} (backtest {run})"
    )


@fraud.command()
@click.option("--host", help="Address to listen on; by default the setting decisions_host.")
@click.option("--port", type=int, help="Port to listen on (0: a free one); by default the setting decisions_port.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the port.")
def serve(host: str | None, port: int | None, workers: int) -> None:
    """Run the decision service in the foreground."""
    # By name: a domain's code never imports a service.
    server = importlib.import_module("dataplatform.decisions.server")
    settings = get_settings()
    host = host or settings.decisions_host
    server.serve(settings, host, settings.decisions_port if port is None else port, workers)


@fraud.command()
@click.option("--people", type=click.IntRange(10), default=300, show_default=True, help="Honest people.")
@click.option("--frauds", type=click.IntRange(1), default=8, show_default=True, help="Actors of each fraud pattern.")
@click.option("--seed", type=int, default=1, show_default=True)
def patterns(people: int, frauds: int, seed: int) -> None:
    """What the policies catch of six fraud patterns among honest people, simulated over a month."""
    from .catalog import load_catalog
    from .patterns import judge_acts, lines, simulate, table

    catalog = load_catalog(get_settings().schemas_dir)
    for line in lines(table(judge_acts(catalog, simulate(people, frauds, seed=seed)))):
        click.echo(line)


@fraud.command()
@click.option("--once", is_flag=True, help="Read what is there and end.")
def stream(once: bool) -> None:
    """Online features, alerts and cases from landed events and changes, in the foreground."""
    feed = importlib.import_module("dataplatform.decisions.stream").Feed(get_settings())
    if once:
        click.echo(f"{feed.run_once()} events in the online features")
        return
    click.echo("reading what was landed")
    feed.run()


def _row(line: FactLine, decided: Decision) -> bytes:
    return msgspec.json.encode(
        {
            "id": line.id,
            "level": decided.level,
            "score": decided.score,
            "rules": decided.rules,
            "unknown": decided.unknown,
        }
    )


def _compiled(
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    lines: Iterator[FactLine],
) -> Iterator[bytes]:
    decide = compile_policy(typed, parameters, lists)
    for line in lines:
        yield _row(line, decision(decide(line.facts)))


def _traced(
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    lines: Iterator[FactLine],
) -> Iterator[bytes]:
    from .traced import trace_policy

    for line in lines:
        yield _row(line, trace_policy(typed, parameters, lists, line.facts).decision)


def _by_sql(
    typed: TypedPolicy,
    parameters: Mapping[str, Scalar],
    lists: Mapping[str, frozenset[Scalar]],
    lines: Iterator[FactLine],
) -> Iterator[bytes]:
    from .engine import runner, sql_engine
    from .policy_sql import decide_by_sql
    from .staging import staged_lists

    with sql_engine() as warehouse, staged_lists(warehouse, typed, lists) as list_table:
        run = runner(warehouse)
        while batch := list(islice(lines, SQL_BATCH)):
            decided = decide_by_sql(run, typed, parameters, lists, [line.facts for line in batch], list_table)
            for line, each in zip(batch, decided, strict=True):
                yield _row(line, each)
