"""Speed of the resolver against sqlglot's own lineage, and of the extractor over a query log. Prints one table for each part.

    python benchmarks/lineage.py [--queries FILE.jsonl --schemas FILE.json] [--corpus-queries 40] [--jobs 100000] [--texts 2000]

Ratios are of one run on one machine. `--jobs 1000000 --texts 20000` is the full log of equal texts.
"""

import argparse
import json
import os
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlglot
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from dataplatform.lineage.catalog import Catalog, catalog_from, load_catalog
from dataplatform.lineage.extract import extract, read_jobs
from dataplatform.lineage.resolve import resolve

WIDE_COLUMNS = 61


def wide_query() -> tuple[str, dict]:
    """One query of 61 output columns over two CTEs, and its schemas."""
    metrics = [f"m{i}" for i in range(25)]
    flags = [f"flag_{i}" for i in range(10)]
    orders = ", ".join(
        [f"SUM(IF(o.status = 'paid', o.{name}, 0)) AS {name}_paid" for name in metrics[:15]]
        + [f"MAX(o.{name}) AS {name}_max" for name in metrics]
    )
    users = ", ".join(f"COALESCE(u.{name}, FALSE) AND u.country = 'KR' AS {name}" for name in flags)
    columns = ["u.user_id", "u.country", "UPPER(u.name) AS name"]
    columns += [f"SAFE_DIVIDE(a.{name}_paid, NULLIF(a.orders, 0)) AS {name}_per_order" for name in metrics[:15]]
    columns += [f"ROUND(a.{name}_max * 100, 2) AS {name}_max" for name in metrics]
    columns += [f"IF(u.{name}, a.orders, 0) AS orders_{name}" for name in flags]
    columns += [
        f"CONCAT(u.country, '-', CAST(a.{name}_max AS STRING)) AS key_{name}" for name in metrics[: WIDE_COLUMNS - 53]
    ]
    assert len(columns) == WIDE_COLUMNS
    sql = (
        f"WITH a AS (SELECT o.user_id, COUNT(*) AS orders, {orders} FROM shop.orders AS o WHERE o.day >= '2026-01-01' GROUP BY o.user_id), "
        f"u AS (SELECT u.user_id, u.country, u.name, {users} FROM shop.users AS u) "
        f"SELECT {', '.join(columns)} FROM u LEFT JOIN a ON a.user_id = u.user_id WHERE u.country IS NOT NULL"
    )

    def table(names: list[str], kind: str) -> dict:
        return {"type": "TABLE", "columns": [{"name": name, "type": kind} for name in names]}

    schemas = {
        "p.shop.orders": table(["user_id", "day", "status", *metrics], "STRING"),
        "p.shop.users": table(["user_id", "country", "name", *flags], "STRING"),
    }
    return sql, schemas


def best(run: Callable[[], object], rounds: int) -> float:
    """The best of some rounds, in seconds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def sqlglot_schema(schemas: dict) -> MappingSchema:
    """The schemas in sqlglot's form (the types do not matter to its lineage)."""
    mapping: dict = {}
    for name, table in schemas.items():
        if table["columns"] and name.count(".") == 2:
            project, dataset, short = name.split(".")
            columns = {column["name"]: "STRING" for column in table["columns"]}
            mapping.setdefault(project, {}).setdefault(dataset, {})[short] = columns
    return MappingSchema(mapping, dialect="bigquery")


def compare(
    name: str, sql: str, schemas: dict, catalog: Catalog, project: str, dataset: str, rounds: int
) -> tuple[float, ...]:
    """Seconds of parse, parse + qualify, sqlglot.lineage for each column, and ours for all; the last is 0 where sqlglot fails."""
    schema = sqlglot_schema(schemas)

    def qualified() -> sqlglot.exp.Expr:
        return qualify(
            sqlglot.parse_one(sql, dialect="bigquery"),
            dialect="bigquery",
            schema=schema,
            catalog=project,
            db=dataset.rsplit(".", maxsplit=1)[-1],
        )

    tree = qualified()
    names = [projection.alias_or_name for projection in tree.selects]

    def each_column() -> None:
        from sqlglot.optimizer.scope import build_scope

        one = qualified()
        scope = build_scope(one)
        for column in names:
            lineage(column, one, schema=schema, dialect="bigquery", scope=scope)

    def all_at_once() -> None:
        lineage(None, sql, schema=schema, dialect="bigquery", catalog=project, db=dataset.rsplit(".", maxsplit=1)[-1])

    parse = best(lambda: sqlglot.parse_one(sql, dialect="bigquery"), rounds)
    both = best(qualified, rounds)
    theirs = best(each_column, 1)
    cached = best(all_at_once, 1)
    ours = best(lambda: resolve(sql, catalog, project=project, default_dataset=dataset, destination="p.d.out"), rounds)
    if name:
        print_row(name, parse, both, theirs, cached, ours, len(names))
    return parse, both, theirs, cached, ours, len(names)


def print_row(name: str, parse: float, both: float, theirs: float, cached: float, ours: float, columns: float) -> None:
    """A line of the table, in milliseconds."""
    print(
        f"{name:36} {columns:>7.0f} {parse * 1e3:>9.1f} {both * 1e3:>9.1f} {theirs * 1e3:>12.1f} {cached * 1e3:>12.1f}"
        f" {ours * 1e3:>9.2f} {theirs / ours:>7.0f}x {cached / ours:>7.0f}x {ours / both:>8.2f}"
    )


def by_column(queries: Path | None, schemas: Path | None, limit: int) -> None:
    """All columns of a statement: ours against sqlglot.lineage."""
    print("sqlglot.lineage: a call for each column over one shared scope; its all-columns mode with a shared cache")
    print(
        f"{'milliseconds':36} {'columns':>7} {'parse':>9} {'+qualify':>9} {'each column':>12} {'all, cached':>12} {'ours':>9}"
        f" {'faster':>8} {'/cached':>8} {'/p+q':>8}"
    )
    sql, described = wide_query()
    compare("61 columns over 2 CTEs", sql, described, catalog_from(described), "p", "p.shop", 5)
    if queries is None or schemas is None:
        return
    catalog = load_catalog(schemas)
    content = json.loads(schemas.read_text())
    schema_by_table = {name: table for name, table in content.items() if table["columns"]}
    jobs = [json.loads(line) for line in queries.open()]
    random.Random(7).shuffle(jobs)
    total = [0.0] * 6
    taken = tried = 0
    for job in jobs:
        if taken >= limit or tried >= 4 * limit:
            break
        tried += 1
        named = set(re.findall(r"[\w-]+\.\w+\.\w+", job["query"].replace("`", "")))
        few = {name: table for name, table in schema_by_table.items() if name in named}
        resolve(
            job["query"],
            catalog,
            project=job["project_id"],
            default_dataset=job["default_dataset"],
            destination="p.d.out",
        )
        try:
            found = compare("", job["query"], few, catalog, job["project_id"], job["default_dataset"], 1)
        except (sqlglot.errors.SqlglotError, ValueError, KeyError, AttributeError, RecursionError):
            continue
        taken += 1
        total = [one + other for one, other in zip(total, found, strict=True)]
    print_row(f"corpus: {taken} that sqlglot can, of {tried}", *total)


def by_workers(queries: Path, schemas: Path) -> None:
    """The corpus through the extractor."""
    print(f"\n{'workers':>7} {'queries':>9} {'edges':>10} {'seconds':>9} {'queries/s':>10}")
    for workers in (1, 2):
        catalog = load_catalog(schemas)
        with queries.open("rb") as log, Path(os.devnull).open("wb") as sink:
            done = extract(read_jobs(log, str(queries)), catalog, sink.write, workers=workers)
        print(
            f"{workers:>7} {done.queries:>9,} {done.edges:>10,} {done.seconds:>9.1f} {done.queries / done.seconds:>10.1f}"
        )


def log_of_equal_texts(queries: Path, path: Path, jobs: int, texts: int) -> None:
    """A log whose texts are the corpus's with other names and literals: `texts` of them distinct, `jobs` in all."""
    originals = [json.loads(line) for line in queries.open()]
    originals = [job for job in originals if len(job["query"]) < 6000]
    chosen = random.Random(11)
    distinct = []
    for number in range(texts):
        job = dict(originals[number % len(originals)])
        job["destination_table"] += f"_variant{number // len(originals)}"
        distinct.append(job)
    with path.open("w") as log:
        for number in range(jobs):
            job = distinct[number if number < texts else chosen.randrange(texts)]
            text = job["query"] + f"\n-- run {number % 50}"
            log.write(json.dumps(job | {"job_id": f"job{number}", "query": text}) + "\n")


def equal_texts(queries: Path, schemas: Path, jobs: int, texts: int, workers: int) -> None:
    """A log in which most texts have been seen: each is resolved once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        log_of_equal_texts(queries, path, jobs, texts)
        print(
            f"\n{jobs:,} jobs over {texts:,} distinct texts, {path.stat().st_size / 1e9:.2f} GB of log, {workers} workers"
        )
        catalog = load_catalog(schemas)
        state = {"seen": 0, "first": 0.0}
        started = time.perf_counter()

        def counted() -> object:
            for job in read_jobs(log, str(path)):
                state["seen"] += 1
                if state["seen"] == texts:
                    state["first"] = time.perf_counter()
                yield job

        with path.open("rb") as log, Path(os.devnull).open("wb") as sink:
            done = extract(counted(), catalog, sink.write, workers=workers, distinct=True)  # type: ignore[arg-type]
        ended = time.perf_counter()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"  distinct resolved {done.distinct:,} in {state['first'] - started:.1f} s ({texts / (state['first'] - started):.0f}/s)"
        )
        print(
            f"  repeated          {jobs - texts:,} in {ended - state['first']:.1f} s ({(jobs - texts) / (ended - state['first']):,.0f} jobs/s)"
        )
        print(f"  largest memory    {memory:,.0f} MB, of a worker {child:,.0f} MB")


def main() -> None:
    """Run all parts for which the files are given."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", type=Path)
    arguments.add_argument("--schemas", type=Path)
    arguments.add_argument("--corpus-queries", type=int, default=40, help="queries to compare with sqlglot.lineage")
    arguments.add_argument("--jobs", type=int, default=100_000)
    arguments.add_argument("--texts", type=int, default=2_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--only", choices=["columns", "workers", "log"])
    chosen = arguments.parse_args()
    if chosen.only in (None, "columns"):
        by_column(chosen.queries, chosen.schemas, chosen.corpus_queries)
    if chosen.queries is None or chosen.schemas is None:
        return
    if chosen.only in (None, "workers"):
        by_workers(chosen.queries, chosen.schemas)
    if chosen.only in (None, "log"):
        equal_texts(chosen.queries, chosen.schemas, chosen.jobs, chosen.texts, chosen.workers)


if __name__ == "__main__":
    main()
