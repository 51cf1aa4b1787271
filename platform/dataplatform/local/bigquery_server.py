"""The embedded BigQuery server as this platform runs it. Started by file path with the Python of `.venv-bigquery`, where this
package is not installed: it imports nothing of it.

What it adds to `local-bigquery`: DuckDB's memory is bounded (it would take 80 % of the machine's), its extensions are those
that set-up put into this environment (not into a home folder), and jobs that a killed predecessor left RUNNING are ended, so that clients that
wait for them are told instead of waiting for ever.
"""

import argparse
import functools
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--project", default="local")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--memory-limit", default="4GB", help="DuckDB's, for all statements together")
    arguments = parser.parse_args()
    arguments.data_dir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GCS_LOCAL_ROOT", str(arguments.data_dir / "gcs"))

    configure_engine(arguments.memory_limit, arguments.data_dir / "spill")
    from local_bigquery.settings import settings

    settings.bigquery_host = "127.0.0.1"
    settings.bigquery_port = arguments.port
    settings.grpc_port = arguments.grpc_port
    settings.default_project_id = arguments.project
    settings.data_dir = arguments.data_dir
    quick_lookups()
    quick_columns()
    quick_starts()
    shared_lookups()
    end_lost_jobs()

    import uvicorn
    from local_bigquery.grpc import server

    spare_the_collector()
    grpc_server, _ = server.start("127.0.0.1", arguments.grpc_port)
    uvicorn.run(
        "local_bigquery:app",
        host="127.0.0.1",
        port=arguments.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    grpc_server.stop(None)


def configure_engine(limit: str, spill: Path) -> None:
    """Every database that this process opens gets the limit, a folder to spill to and this environment's extensions."""
    import duckdb

    connect = duckdb.connect
    ours = {"memory_limit": limit, "temp_directory": str(spill)}
    if (extensions := Path(sys.prefix) / "extensions").exists():
        ours["extension_directory"] = str(extensions)

    @functools.wraps(connect)
    def bounded(database: str = ":memory:", read_only: bool = False, config: dict[str, Any] | None = None) -> Any:
        return connect(database, read_only=read_only, config=ours | (config or {}))

    duckdb.connect = bounded


def spare_the_collector() -> None:
    """Translating a statement makes and drops tens of thousands of small objects; the default thresholds would walk through
    everything the process holds many times a statement, which was half of its time."""
    import local_bigquery  # noqa: F401  # all that lives as long as the process

    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


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

    slow = database.fetch
    listed = "FROM duckdb_columns() WHERE database_name = ? AND schema_name = ? AND table_name = ? AND"
    quick = {
        f"SELECT column_name {listed} NOT is_nullable": f"SELECT column_name {COLUMNS} AND NOT c.nulls_allowed",
        f"SELECT 1 {listed} column_name = ?": f"SELECT 1 {COLUMNS} AND column_name = ?",
    }

    class Database:
        """The server's database, for the modules that ask about columns."""

        def __getattr__(self, name: str) -> Any:
            return getattr(database, name)

        @staticmethod
        def fetch(sql: str, parameters: Any = None) -> Any:
            if sql in quick and parameters[0] != "emulator":
                lake = database.quote(f"__ducklake_metadata_{parameters[0]}")
                try:
                    return slow(quick[sql].format(lake=lake), parameters[1:])
                except duckdb.Error:  # not a lake, or another layout of its catalogue
                    pass
            return slow(sql, parameters)

    tables.database = partitions.database = Database()


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


def end_lost_jobs() -> None:
    """Jobs that no process runs any more become DONE with an error that BigQuery's clients treat as retryable."""
    from local_bigquery.engine import database

    error = {"reason": "backendError", "message": "The server was restarted while the job ran."}
    for project, job, resource in database.fetch(
        "SELECT project_id, job_id, resource FROM emulator.jobs WHERE state <> 'DONE'"
    ):
        ended = json.loads(resource)
        ended["status"] = {"state": "DONE", "errorResult": error, "errors": [error]}
        ended.setdefault("statistics", {})["endTime"] = str(time.time_ns() // 1_000_000)
        database.execute(
            "UPDATE emulator.jobs SET state = 'DONE', resource = ? WHERE project_id = ? AND job_id = ?",
            [json.dumps(ended), project, job],
        )


if __name__ == "__main__":
    main()
