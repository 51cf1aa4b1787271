"""What makes the embedded BigQuery server quicker: the same answers with less work.

Loaded by `bigquery_server`, in the same Python, where this package is not installed: it imports nothing of it. Each function
here replaces one thing of a pinned version of `local-bigquery`, says which work it spares, and falls back to the server's own
way where it does not know better.
"""

import functools
import importlib.util
import json
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


def quicken() -> None:
    """Put all of it in place; before the server's first request.

    Tables are not made several in one transaction, though the lake reads its whole catalogue again after each: of such a
    transaction it now and then writes freed memory into its catalogue as a dataset's name.
    """
    known_absences()
    quick_lookups()
    quick_columns()
    quick_listings()
    quick_starts()
    quick_walks()
    shared_lookups()
    kept_translations()
    few_writes()


def known_absences() -> None:
    """DuckDB imports pandas for each parameter of each statement, to see whether it is one of its missing values. Where it is
    not installed every import goes through all folders of the path, and lets another thread take the interpreter at each."""
    if importlib.util.find_spec("pandas") is None:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # the import system's own mark for "not to be found"


def quick_lookups() -> None:
    """Every table of a statement is looked up several times, each by listing the tables of all datasets with their sizes: 50 ms
    where there are a hundred. The lake's own catalogue answers for one dataset in one."""
    import duckdb
    from local_bigquery.engine import database

    slow = database.objects

    @functools.wraps(slow)
    def objects(project_id: str, dataset_id: str, table_id: str | None = None) -> list[tuple[str, str, int]]:
        lake = database.quote(f"__ducklake_metadata_{project_id}")
        try:
            if project_id == "emulator" and table_id is not None:  # results of queries: tables of DuckDB's own
                try:
                    count = database.fetch(f"SELECT count(*) FROM {database.quote(project_id, dataset_id, table_id)}")
                except duckdb.CatalogException:
                    return []
                return [(table_id, "TABLE", count[0][0])]
            found: list[tuple[str, str, int]] = database.fetch(LOOK_UP.format(lake=lake), [dataset_id, table_id])
            return found
        except duckdb.Error:  # not a lake (the results of queries), or another layout of its catalogue
            found = slow(project_id, dataset_id, table_id)
            return found

    database.objects = objects


def quick_columns() -> None:
    """Two things are asked about the columns of every table of a statement, each by listing all columns of all tables: which
    may not be NULL, and whether there is one with the time of ingestion. The lake's own catalogue answers for one table."""
    import duckdb
    from local_bigquery.catalog import tables
    from local_bigquery.engine import database
    from local_bigquery.sql.rules import partitions

    listed = "FROM duckdb_columns() WHERE database_name = ? AND schema_name = ? AND table_name = ? AND"
    required = f"SELECT column_name {listed} NOT is_nullable"
    quick = {
        required: f"SELECT column_name {COLUMNS} AND NOT c.nulls_allowed",
        f"SELECT 1 {listed} column_name = ?": f"SELECT 1 {COLUMNS} AND column_name = ?",
    }

    class Database:
        """The server's database, for the modules that ask about columns."""

        def __getattr__(self, name: str) -> Any:
            return getattr(database, name)

        @staticmethod
        def fetch(sql: str, parameters: Any = None) -> Any:
            if sql == required and parameters[0] == "emulator":
                return []  # a query's result: its columns may all be NULL
            if sql in quick and parameters[0] != "emulator":
                lake = database.quote(f"__ducklake_metadata_{parameters[0]}")
                try:
                    return database.fetch(quick[sql].format(lake=lake), parameters[1:])
                except duckdb.Error:  # not a lake, or another layout of its catalogue
                    pass
            return database.fetch(sql, parameters)

    tables.database = partitions.database = Database()


def quick_listings() -> None:
    """A listing of a dataset's tables reads the metadata of all of them, and then of each by itself: once is enough."""
    from local_bigquery.catalog import datasets, metadata, tables
    from local_bigquery.engine import database
    from local_bigquery.models import Table

    def list_(project_id: str, dataset_id: str) -> list[Any]:
        datasets.get(project_id, dataset_id)
        stored = {one.tableReference.tableId: one for one in metadata.list_(Table, project_id, dataset_id)}
        kinds = {table: kind for table, kind, _ in database.objects(project_id, dataset_id)}
        found = []
        for table in sorted(kinds.keys() | stored.keys()):
            resource = stored.get(table)
            if not tables.expired(resource):
                resource = resource or tables.defaults(project_id, dataset_id, table)
                kind = tables._type(resource, kinds.get(table, "TABLE"))
                found.append(resource.without(*tables.DERIVED).replace(type=kind))
        return found

    tables.list_ = list_


def quick_starts() -> None:
    """Every job asks which temporary tables its session has, by listing all tables of all datasets. A job without a session
    has none before its first statement."""
    from local_bigquery.jobs import query

    slow = query.execute
    asked = "SELECT table_name FROM duckdb_tables() WHERE temporary"

    class Nothing:
        def fetchall(self) -> list[tuple[Any, ...]]:
            return []

    class Cursor:
        """The connection of one job outside a session."""

        def __init__(self, cursor: Any) -> None:
            self._cursor = cursor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cursor, name)

        def sql(self, text: str, *arguments: Any, **named: Any) -> Any:
            return Nothing() if text == asked else self._cursor.sql(text, *arguments, **named)

    @functools.wraps(slow)
    def execute(cursor: Any, *arguments: Any, session: Any = None, **named: Any) -> Any:
        return slow(cursor if session else Cursor(cursor), *arguments, session=session, **named)

    query.execute = execute


def shared_lookups() -> None:
    """What a SELECT looks up in one JSON text is read from it at once: DuckDB parses the whole text for every single look-up."""
    from local_bigquery.sql.rules import NODE_RULES
    from sqlglot import exp

    def look_up(projection: Any) -> Any:
        """The look-up of a constant path that a projection is, bare or converted to a type."""
        found = projection.unalias()
        while isinstance(found, exp.Cast):
            found = found.this
        path = found.args.get("expression")
        known = isinstance(found, exp.JSONExtract | exp.JSONExtractScalar) and isinstance(path, exp.JSONPath)
        simple = known and all(isinstance(part, exp.JSONPathRoot | exp.JSONPathKey) for part in path.expressions)
        return found if simple and len(path.expressions) > 1 else None

    def share(node: Any, _context: Any) -> Any:
        if (
            not isinstance(node, exp.Select)
            or node.is_star
            or any(node.args.get(key) for key in node.args.keys() - PLAIN)
        ):
            return node
        by_text: dict[str, list[Any]] = {}
        for projection in node.expressions:
            if found := look_up(projection):
                by_text.setdefault(found.this.sql(), []).append(found)
        shared = [found for found in by_text.values() if len(found) >= FEWEST_SHARED]
        source = node.args.get("from_")
        if not shared or source is None or not isinstance(source.this, exp.Table | exp.Subquery):
            return node
        inner = exp.Select(expressions=[exp.Star()], from_=source, where=node.args.get("where"))
        for number, found in enumerate(shared):
            paths = exp.Array(expressions=[one.expression for one in found])
            read = exp.Anonymous(this="json_extract", expressions=[found[0].this.copy(), paths])
            inner.append("expressions", exp.alias_(read, f"__read{number}"))
            for index, one in enumerate(found, 1):
                column = exp.column(f"__read{number}")
                part = exp.Anonymous(this="list_extract", expressions=[column, exp.Literal.number(index)])
                if isinstance(one, exp.JSONExtractScalar):
                    one.set("this", part)
                    one.set("expression", exp.JSONPath(expressions=[exp.JSONPathRoot()]))
                else:
                    one.replace(part)
        node.set("where", None)
        node.set(
            "from_",
            exp.From(
                this=exp.Subquery(
                    this=inner, alias=exp.TableAlias(this=exp.to_identifier(source.alias_or_name or "__source"))
                )
            ),
        )
        return node

    NODE_RULES.append(share)


PLAIN = {"with_", "expressions", "from_", "where"}
"""Parts of a SELECT that reads one thing."""
FEWEST_SHARED = 3

COLUMNS = """
FROM {lake}.ducklake_column AS c
JOIN {lake}.ducklake_table AS t ON t.table_id = c.table_id AND t.end_snapshot IS NULL
JOIN {lake}.ducklake_schema AS s ON s.schema_id = t.schema_id AND s.end_snapshot IS NULL
WHERE s.schema_name = ? AND t.table_name = ? AND c.end_snapshot IS NULL AND c.parent_column IS NULL"""

LOOK_UP = """
WITH dataset AS (SELECT schema_id FROM {lake}.ducklake_schema WHERE end_snapshot IS NULL AND schema_name = $1)
SELECT table_name, 'TABLE', coalesce(record_count, 0)
FROM {lake}.ducklake_table
JOIN dataset USING (schema_id)
LEFT JOIN {lake}.ducklake_table_stats USING (table_id)
WHERE end_snapshot IS NULL AND table_name = coalesce($2, table_name)
UNION ALL
SELECT view_name, 'VIEW', 0
FROM {lake}.ducklake_view
JOIN dataset USING (schema_id)
WHERE end_snapshot IS NULL AND view_name = coalesce($2, view_name)
ORDER BY 1
"""


def quick_walks() -> None:
    """Some forty rules walk through every statement from its root, a generator for each node: a plain loop takes half as
    long. And what is written as SQL last is not needed afterwards, so that it need not be copied before."""
    from local_bigquery.jobs import merge, query
    from local_bigquery.sql import script
    from local_bigquery.sql import translate as module
    from local_bigquery.sql.dialect import DuckDBDialect
    from local_bigquery.sql.rules import STATEMENT_RULES
    from sqlglot.expressions import core

    node_type = core.Expr

    def bfs(self: Any, prune: Any = None) -> Any:
        queue = deque([self])
        while queue:
            node = queue.popleft()
            yield node
            if prune and prune(node):
                continue
            for part in node.args.values():
                if isinstance(part, node_type):
                    queue.append(part)
                elif isinstance(part, list):
                    queue.extend(one for one in part if isinstance(one, node_type))

    core.Expression.bfs = bfs  # type: ignore[method-assign]

    def translate(tree: Any, context: Any) -> tuple[str, dict[str, Any]]:
        context.used.clear()
        tree = tree.copy()
        for rule in STATEMENT_RULES:
            tree = rule(tree, context)
        tree = module._rewrite(tree, context)
        return tree.sql(dialect=DuckDBDialect, copy=False), {name: context.values[name] for name in context.used}

    query.translate = merge.translate = script.translate = translate


def few_writes() -> None:
    """The jobs of a script's statements are written down with the script's own, at once, not each by itself."""
    from local_bigquery.engine import database
    from local_bigquery.jobs import store

    waiting: dict[tuple[str, str], list[Any]] = {}

    def save(job: Any) -> Any:
        project, name, parent = job.jobReference.projectId, job.jobReference.jobId, job.statistics.parentJobId
        created, resource = int(job.statistics.creationTime), json.dumps(job.dump())
        row = [project, name, parent, job.status.state, created, resource]
        if parent is not None:
            waiting.setdefault((project, parent), []).append(row)
            return job
        rows = [*waiting.pop((project, name), []), row]
        places = ", ".join("(?, ?, ?, ?, ?, ?)" for _ in rows)
        database.execute(
            f"INSERT OR REPLACE INTO emulator.jobs VALUES {places}", [value for one in rows for value in one]
        )
        return job

    store.save = save


def kept_translations() -> None:
    """A statement that was translated is not parsed and translated again while the tables it names are what they were: half
    of the time of a statement over few rows is spent on that.

    Kept are SELECT, INSERT, DELETE and CREATE TEMP TABLE … AS SELECT of one table or more, outside sessions and scripts with
    variables. What a translation depends on is its key: the script and its place in it, the parameters' types, the caller,
    and each table's columns and metadata.
    """
    from local_bigquery.catalog import metadata, row_access, tables
    from local_bigquery.engine import database
    from local_bigquery.jobs import query
    from local_bigquery.models import Table
    from local_bigquery.sql import script
    from sqlglot import exp

    kept: dict[Any, tuple[str, frozenset[str], frozenset[Any], frozenset[str]]] = {}
    named: dict[Any, frozenset[Any]] = {}
    outlines: dict[str, Any] = {}
    versions: dict[tuple[str, ...], int] = {}
    lock = threading.Lock()
    current: ContextVar[str] = ContextVar("current", default="")
    expiring: ContextVar[list[bool] | None] = ContextVar("expiring", default=None)

    def noted(slow: Any) -> Any:
        """Changed metadata of a table count for that table; of anything else for all."""

        @functools.wraps(slow)
        def change(what: Any, *keys: str) -> Any:
            of_a_table = (what if isinstance(what, type) else type(what)) is Table and len(keys) == TABLE_KEYS
            changed = keys if of_a_table else ()
            with lock:
                versions[changed] = versions.get(changed, 0) + 1
            return slow(what, *keys)

        return change

    metadata.save, metadata.delete = noted(metadata.save), noted(metadata.delete)

    slow_expired = tables.expired

    @functools.wraps(slow_expired)
    def expired(stored: Any) -> bool:
        if (seen := expiring.get()) is not None and stored and stored.expirationTime:
            seen.append(True)
        return bool(slow_expired(stored))

    tables.expired = expired

    slow_script = functools.lru_cache(256)(script.parse_script)

    def parse_script(text: str) -> Any:
        current.set(text)
        return slow_script(text)

    script.parse_script = parse_script

    slow_parse = script.parse

    def parse(text: str) -> list[Any]:
        if (outline := outlines.get(text)) is not None:
            return [outline.copy()]
        trees: list[Any] = slow_parse(text)
        if len(trees) == 1:
            trees[0].meta["text"] = text
        return trees

    script.parse = parse

    def whole(tree: Any) -> Any:
        return slow_parse(tree.meta["text"])[0] if tree is not None and tree.meta.get("outline") else tree

    slow_error = query.from_duckdb
    query.from_duckdb = lambda error, context=None, tree=None: slow_error(error, context, whole(tree))

    def state(references: frozenset[Any]) -> tuple[Any, ...] | None:
        """Versions of the tables; None where one is not a table of a lake."""
        found: list[Any] = [versions.get((), 0)]
        for reference in sorted(references):
            lake = database.quote(f"__ducklake_metadata_{reference[0]}")
            rows = database.fetch(TABLE_STATE.format(lake=lake), list(reference[1:]))
            if len(rows) != 1:
                return None
            found.append((rows[0], versions.get(reference, 0)))
        return tuple(found)

    def moment(project: str) -> tuple[Any, ...]:
        """Changes with every change of a table's columns or metadata."""
        lake = database.quote(f"__ducklake_metadata_{project}")
        with lock:
            changes = sum(versions.values())
        return changes, database.fetch(LAKE_STATE.format(lake=lake))

    slow_translate: Callable[[Any, Any], tuple[str, dict[str, Any]]] = query.translate

    def translate(tree: Any, context: Any) -> tuple[str, dict[str, Any]]:
        text = tree.meta.get("text")
        simple = isinstance(tree, exp.Query | exp.Insert | exp.Delete) or temporary(tree)
        free = context.variables or context.functions or context.settings or context.system.get("session_id")
        if text is None or not simple or free or any(word in text for word in UNKEPT):
            return slow_translate(whole(tree), context)
        key = (
            current.get(),
            text,
            context.project_id,
            context.dataset_id,
            tuple(context.parameters.items()),
            frozenset(context.temporary),
            context.position,
            row_access.members(),
        )
        if (references := named.get(key)) is not None:
            known = kept.get((key, state(references)))
            if known is not None:
                sql, used, referenced, made = known
                context.referenced |= referenced
                context.temporary |= made
                context.used.clear()
                context.used |= used
                return sql, {name: context.values[name] for name in used}
        before, position, began = set(context.temporary), context.position, moment(context.project_id)
        seen: list[bool] = []
        token = expiring.set(seen)
        try:
            sql, bound = slow_translate(whole(tree), context)
        finally:
            expiring.reset(token)
        references = frozenset(context.referenced)
        # What changed while it was translated may be in the translation or not: then it is not kept.
        sure = not seen and context.position == position and all(one[0] == context.project_id for one in references)
        if sure and (now := state(references)) is not None and moment(context.project_id) == began:
            if len(kept) >= MOST_KEPT:
                kept.clear()
                named.clear()
                outlines.clear()
            named[key] = references
            kept[key, now] = (sql, frozenset(bound), references, frozenset(context.temporary - before))
            outlines[text] = outline(tree)
        return sql, bound

    query.translate = translate

    def temporary(tree: Any) -> bool:
        return (
            isinstance(tree, exp.Create)
            and tree.args.get("kind") == "TABLE"
            and isinstance(tree.this, exp.Table)
            and isinstance(tree.expression, exp.Query)
            and tree.find(exp.TemporaryProperty) is not None
        )

    def outline(tree: Any) -> Any:
        """The tree without what only its translation reads."""
        if tree.meta.get("outline"):
            return tree
        if isinstance(tree, exp.Query):
            small: Any = exp.Select()
        else:
            small = type(tree)(
                **{
                    name: part.copy() if hasattr(part, "copy") else part
                    for name, part in tree.args.items()
                    if name in KEPT
                }
            )
            if isinstance(tree, exp.Create):
                small.set("expression", exp.Select())
        small.meta.update(tree.meta, outline=True)
        return small


UNKEPT = ("@@", "INFORMATION_SCHEMA", "information_schema", "EXTERNAL_QUERY", "__TABLES__")
"""What is looked up when a statement with it is translated, and changes without a change of a table."""
KEPT = {"this", "kind", "properties", "replace", "exists"}
MOST_KEPT = 2_000
TABLE_KEYS = 3
"""A table's metadata is kept by project, dataset and table."""

LAKE_STATE = "SELECT max(schema_version) FROM {lake}.ducklake_snapshot"

TABLE_STATE = """
SELECT t.table_id, count(*), max(greatest(c.begin_snapshot, coalesce(c.end_snapshot, 0)))
FROM {lake}.ducklake_table AS t
JOIN {lake}.ducklake_schema AS s ON s.schema_id = t.schema_id AND s.end_snapshot IS NULL
JOIN {lake}.ducklake_column AS c ON c.table_id = t.table_id
WHERE t.end_snapshot IS NULL AND s.schema_name = ? AND t.table_name = ?
GROUP BY t.table_id
"""
