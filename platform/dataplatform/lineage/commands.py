"""`dataplatform lineage …`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ..errors import PlatformError
from ..settings import get_settings
from .catalog import load_catalog
from .declared import contract_marks, promises, table_owners
from .impact import (
    Graph,
    as_dot,
    as_mermaid,
    as_records,
    as_table,
    changes,
    parse_node,
    read_edges,
    with_changed,
)


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
    *, queries: Path, schemas: Path, workers: int, output: Path | None, seconds: float, memory_mb: int, distinct: bool
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


_EDGES = click.option(
    "--edges",
    type=click.Path(path_type=Path),
    help="Output of `lineage extract`; when not given, data_catalog.lineage is read.",
)


def _graph(edges: Path | None) -> Graph:
    if edges is not None:
        return Graph(read_edges(edges))
    from .stored import stored_edges

    return Graph(stored_edges(get_settings()))


@lineage.command()
@click.argument("column")
@click.option("--upstream", is_flag=True, help="What the column is made of, instead of what it becomes.")
@click.option("--depth", type=click.IntRange(1), help="Most edges on a way.")
@click.option("--indirect", is_flag=True, help="Follow filters, joins, groupings and conditions as well.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "dot", "mermaid"]), default="table", show_default=True
)
@_EDGES
def impact(column: str, *, upstream: bool, depth: int | None, indirect: bool, form: str, edges: Path | None) -> None:
    """What depends on COLUMN (project.dataset.table.column; `*` for all of a table), nearest first.

    With owners, promises of freshness that are hit, and the last run of the query on the way.
    """
    graph = _graph(edges)
    start = graph.find(column)
    if start is None:
        start = parse_node(column)
        click.echo(f"no edge names {'.'.join(start)}: nothing is known to make or read it", err=True)
    found = graph.reach(start, "upstream" if upstream else "downstream", depth=depth, indirect=indirect)
    owners = table_owners(get_settings())
    promised = promises(get_settings(), graph.edges)
    if form == "json":
        records = [
            record
            | {"owner": owners.get(_short(str(record["table"]))), "fresh_within": promised.get(str(record["table"]))}
            for record in as_records(found)
        ]
        click.echo(json.dumps(records, indent=2, ensure_ascii=False))
    elif form == "dot":
        click.echo(as_dot(start, found, downstream=not upstream))
    elif form == "mermaid":
        click.echo(as_mermaid(start, found, downstream=not upstream))
    else:
        tables = {one.node[0] for one in found}
        click.echo(as_table(found, {table: owners.get(_short(table), "") for table in tables}, promised))
        hit = sum(table in promised for table in tables)
        click.echo(
            f"{len(found)} columns of {len(tables)} tables; {hit} of these have a promise of freshness", err=True
        )


def _short(table: str) -> str:
    return ".".join(table.split(".")[-2:])


@lineage.command()
@click.argument("source")
@click.argument("target")
@click.option("--indirect", is_flag=True, help="Follow filters, joins, groupings and conditions as well.")
@_EDGES
def explain(source: str, target: str, indirect: bool, edges: Path | None) -> None:
    """The steps from the column SOURCE to the column TARGET, each with its SQL and its query."""
    graph = _graph(edges)
    ends = [graph.find(text) or parse_node(text) for text in (source, target)]
    found = graph.between(ends[0], ends[1], indirect=indirect)
    if not found:
        raise PlatformError(f"{target} does not come from {source}", fix="" if indirect else "try --indirect")
    for edge in found:
        click.echo(f"{'.'.join(edge.source)}\n  → {'.'.join(edge.target)}   {edge.subtype.lower()}   job {edge.job_id}")
        click.echo(f"    {edge.expression}")


@lineage.command()
@_EDGES
@click.option("--schemas", type=click.Path(path_type=Path), help="Schemas; only columns that these know are asked for.")
@click.option("--table", "tables", multiple=True, help="Only this table (may be repeated).")
def unused(edges: Path | None, schemas: Path | None, tables: tuple[str, ...]) -> None:
    """Columns that no query reads."""
    graph = _graph(edges)
    known = None
    if schemas is not None:
        known = load_catalog(schemas).tables
    elif edges is None:
        from .history import catalog_now
        from .stored import catalog_warehouse

        known = catalog_now(catalog_warehouse(get_settings())).tables
    for table in tables:
        if table not in (known if known is not None else graph.tables):
            raise PlatformError(f"{table} is no table that is known here", fix="write project.dataset.table")
    for table in sorted(tables or (known if known is not None else graph.tables)):
        described = known.get(table) if known is not None else None
        columns = (
            [one.name for one in (described.columns or {}).values()] if described is not None else graph.columns(table)
        )
        for column in columns:
            if not graph.is_read((table, column)):
                click.echo(f"{table}.{column}")


@lineage.command()
@click.option(
    "--old", "old", type=click.Path(path_type=Path), help="Edges of the present; default: data_catalog.lineage."
)
@click.option("--new", "new", type=click.Path(path_type=Path), required=True, help="Edges of the changed queries.")
@click.option("--check", is_flag=True, help="Exit with status 1 when a column that something reads is no longer made.")
def diff(old: Path | None, new: Path, check: bool) -> None:
    """What changed queries would change: columns that gain or lose sources, and what reads the columns that go away."""
    if old is not None:
        present = list(read_edges(old))
    else:
        from .stored import stored_edges

        present = list(stored_edges(get_settings()))
    after = with_changed(present, read_edges(new))
    graph = Graph(after)
    owners = table_owners(get_settings())
    broken = 0
    for change in changes(present, after):
        name = ".".join(change.node)
        if not change.gone:
            click.echo(f"changed  {name}")
            for node in change.added:
                click.echo(f"    + {'.'.join(node)}")
            for node in change.removed:
                click.echo(f"    - {'.'.join(node)}")
            continue
        click.echo(f"gone     {name}")
        for one in graph.reach(change.node, indirect=True):
            broken += 1
            owner = owners.get(_short(one.node[0]))
            click.echo(f"    breaks {'.'.join(one.node)}{f' of {owner}' if owner else ''}")
    if check and broken:
        raise PlatformError(
            f"{broken} downstream columns break", fix="keep the columns, or change what reads them first"
        )


@lineage.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--edges", type=click.Path(path_type=Path), help="Output of `lineage extract`; else data_catalog.lineage."
)
@click.option("--declared", is_flag=True, help="Look at what contracts declare alone: needs no warehouse, for CI.")
@click.option("--check", is_flag=True, help="Exit with status 1 when something breaks.")
def contracts(reference: str, edges: Path | None, declared: bool, check: bool) -> None:
    """What the contracts' changes since the Git commit, branch or tag REF break downstream, with the owner of each."""
    from .contract_changes import contract_changes

    changed = contract_changes(get_settings(), reference)
    graph = Graph([*changed.edges, *([] if declared else _graph(edges).edges)])
    broken = 0
    for column in changed.broken:
        owner = changed.owners.get(_short(column.node[0]))
        click.echo(f"{column.what:9}{'.'.join(column.node)}{f' of {owner}' if owner else ''}")
        for one in graph.reach(column.node, indirect=True):
            broken += 1
            owner = changed.owners.get(_short(one.node[0]))
            click.echo(f"    breaks {'.'.join(one.node)}{f' of {owner}' if owner else ''}")
    if not broken:
        click.echo(f"nothing downstream breaks since {reference}")
    elif check:
        raise PlatformError(
            f"{broken} downstream columns break", fix="keep the columns, or change what reads them first"
        )


@lineage.command()
@_EDGES
@click.option(
    "--marks",
    type=click.Path(path_type=Path),
    help='JSON, {"project.dataset.table.column": "email"}; default: contracts.',
)
@click.option(
    "--tags", is_flag=True, help="Propose policy tags instead: one JSON object for each column that should have one."
)
def pii(edges: Path | None, marks: Path | None, tags: bool) -> None:
    """Where personal data has gone, and where it stops."""
    from .pii import proposed_tags, spread

    graph = _graph(edges)
    if marks is not None:
        given = {parse_node(column): str(mark) for column, mark in read_json(marks).items()}
    else:
        given = contract_marks(get_settings())
    result = spread(graph, given)
    if tags:
        for tag in proposed_tags(result.findings, get_settings().project, get_settings().policy_tag):
            click.echo(json.dumps(tag, ensure_ascii=False))
        return
    for finding in result.findings:
        via = " → ".join(".".join(edge.target) for edge in finding.path[:-1])
        click.echo(
            f"{finding.mark:12} {'.'.join(finding.node)}   from {'.'.join(finding.origin)}{f' via {via}' if via else ''}"
        )
    for stop in result.stopped:
        click.echo(f"{'stopped':12} {'.'.join(stop.edge.target)}   {stop.why}: {stop.edge.expression}")


def read_json(path: Path) -> dict[str, object]:
    """A JSON object of a file; raises PlatformError."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PlatformError(str(error), where=str(path), fix="give a file with one JSON object") from error
    if not isinstance(content, dict):
        raise PlatformError("is not a JSON object", where=str(path), fix="give a file with one JSON object")
    return content


@lineage.command()
@_EDGES
@click.option(
    "--output", type=click.Path(path_type=Path), help="File, one event a line; standard output when not given."
)
@click.option(
    "--url", help="OpenLineage endpoint that takes each event by POST, such as http://marquez:5000/api/v1/lineage."
)
@click.option("--check", is_flag=True, help="Check each event against OpenLineage's own JSON Schemas; write none.")
@click.option(
    "--spec",
    default="https://openlineage.io/spec",
    show_default=True,
    help="Where these schemas are: the site, or a copy of its folder (path or URL).",
)
def openlineage(edges: Path | None, output: Path | None, url: str | None, check: bool, spec: str) -> None:
    """The graph as OpenLineage events."""
    from datetime import UTC, datetime

    from .openlineage import run_events

    if edges is not None:
        known = list(read_edges(edges))
    else:
        from .stored import stored_edges

        known = stored_edges(get_settings())
    events = run_events(known, datetime.now(UTC))
    if check:
        count, named = _check_events(events, spec)
        click.echo(f"{count} events are what OpenLineage's schemas ask for: {', '.join(named)}")
        return
    if url is not None:
        import httpx

        with httpx.Client(timeout=30) as client:
            for event in events:
                try:
                    client.post(url, json=event).raise_for_status()
                except httpx.HTTPError as error:
                    raise PlatformError(str(error), where=url, fix="check the endpoint") from error
        return
    lines = (json.dumps(event, ensure_ascii=False) for event in events)
    if output is not None:
        try:
            output.write_text("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise PlatformError(
                f"cannot be written: {error.strerror}", where=str(output), fix="give a writable path"
            ) from error
    else:
        for line in lines:
            click.echo(line)


def _check_events(events: Iterable[dict[str, Any]], spec: str) -> tuple[int, list[str]]:
    """The number of events, and the documents that they were checked by; raises PlatformError for the first that is not valid."""
    from referencing.exceptions import Unresolvable

    from .openlineage import SPEC, mistakes, official_schemas, stated_schemas

    schemas = official_schemas(spec)
    count = 0
    named: set[str] = set()
    for event in events:
        named |= {url.partition("#")[0].removeprefix(f"{SPEC}/") for *_, url in stated_schemas(event)}
        try:
            found = list(mistakes(event, schemas))
        except Unresolvable as error:
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            raise PlatformError(
                f"the schema {error.ref} cannot be read: {reason}",
                where=spec,
                fix="give a copy of the site's folder with --spec",
            ) from error
        if found:
            raise PlatformError(
                "\n".join(found), where=f"event of job {event['job']['name']}", fix="report this as a bug"
            )
        count += 1
    return count, sorted(named)
