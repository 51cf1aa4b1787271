"""Judging history by 50 rules of 4 conditions: the policy's SQL on the embedded engine, Polars by hand, Python row by row.

    python benchmarks/fraud_backtest.py [--rows 1000000]

All give the level and score of every row, and which rules fired or could not be decided; the answers are compared. The SQL reads a table and makes
one, as a backtest does; so does the Polars that it is measured by. What Polars does with everything in memory already stands beside it.

Of the SQL, a part does not grow with the rows: the embedded server's job, and its translation of a statement of two hundred comparisons. "Each further row"
is what is left without it. Python stands here three times: a loop over the rules as a person writes it (which decides by score alone, facts all known),
and the two evaluators of decisions, which keep account of what fired and of what is unknown as well.
"""

import argparse
import operator
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from fraud_engine import FIELDS, rules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    import polars as pl
    import pyarrow as pa

    from dataplatform.fraud.compiled import compile_policy
    from dataplatform.fraud.engine import sql_engine
    from dataplatform.fraud.fact_types import DeclaredFact
    from dataplatform.fraud.policies import parse_policy
    from dataplatform.fraud.policy_sql import policy_statement, table_column
    from dataplatform.fraud.traced import Tracer
    from dataplatform.fraud.tree import RANK
    from dataplatform.settings import Settings

    bands = {"monitor": 10, "hold": 60, "block": 200}
    ranks = {"monitor": 1, "hold": 3, "block": 4}
    lines = ["policy: p", "event: e", "unknown: hold", f"levels: {bands}".replace("'", ""), "rules:"]
    for number, rule in enumerate(rules()):
        when = " AND ".join(f"{f} {o} {v!r}" for f, o, v in rule)
        lines.append(f'  - {{name: r{number}, when: "{when}", score: 10}}')
    declared = {f: DeclaredFact("INT64" if f[0] == "n" else "STRING") for f in FIELDS}
    typed = parse_policy("\n".join(lines), declared=declared)
    chance = random.Random(11)
    count = arguments.rows
    columns = {f: chance.choices(range(100) if f[0] == "n" else "abcd", k=count) for f in FIELDS}
    rows = pa.table({"id": pa.array(range(count), pa.int64()), **columns})
    settings = Settings(first_hour=datetime(2026, 1, 1, tzinfo=UTC), data_dir=Path(tempfile.mkdtemp()))
    with sql_engine(settings) as warehouse:
        warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id('bench')}`")
        warehouse.load_rows(rows, "bench", "facts")
        table, out = (f"`{warehouse.table_id('bench', each)}`" for each in ("facts", "decided"))
        used = {name: table_column(declared[name].type, name) for name in typed.types}
        statement = policy_statement(typed, {}, {}, used, table, as_arrays=False)
        sql = 1e9
        one_row = f"`{warehouse.table_id('bench', 'one_row')}`"
        warehouse.query(f"CREATE TABLE {one_row} AS SELECT * FROM {table} LIMIT 1")
        planning = 1e9
        for _ in range(arguments.turns):
            warehouse.query(f"DROP TABLE IF EXISTS {out}")
            before = time.perf_counter()
            warehouse.query(f"CREATE TABLE {out} AS {statement.replace(table, one_row)}")
            planning = min(planning, time.perf_counter() - before)
            warehouse.query(f"DROP TABLE {out}")
            before = time.perf_counter()
            warehouse.query(f"CREATE TABLE {out} AS {statement}")
            sql = min(sql, time.perf_counter() - before)
        total = warehouse.query(
            f"SELECT SUM(level) AS levels, SUM(score) AS scores, SUM(BIT_COUNT(fired_0)) AS fired FROM {out}"
        ).rows[0]
    frame = pl.from_arrow(rows)
    test = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "=": "eq"}
    fired = [
        pl.all_horizontal(*(getattr(pl.col(f), test[o])(v) for f, o, v in rule)).alias(f"rule_{n}")
        for n, rule in enumerate(rules())
    ]

    def by_hand(source):
        """The rules as someone writes them in Polars, over a frame or a scan of a file."""
        found = source.select("id", *fired).with_columns(
            score=pl.sum_horizontal(pl.col(f"rule_{n}").cast(pl.Int64) * 10 for n in range(50)),
            undecided=pl.any_horizontal(pl.col(f"rule_{n}").is_null() for n in range(50)),
        )
        by_score = (
            pl.when(pl.col("score") >= bands["block"])
            .then(ranks["block"])
            .when(pl.col("score") >= bands["hold"])
            .then(ranks["hold"])
            .when(pl.col("score") >= bands["monitor"])
            .then(ranks["monitor"])
            .otherwise(0)
        )
        least = pl.when("undecided").then(ranks["hold"]).otherwise(0)
        return found.with_columns(level=pl.max_horizontal(by_score, least))

    fired_names = [f"rule_{n}" for n in range(50)]
    folder = Path(tempfile.mkdtemp())
    frame.write_parquet(folder / "facts.parquet")
    in_memory = polars = 1e9
    for _ in range(arguments.turns):
        before = time.perf_counter()
        judged = by_hand(frame)
        in_memory = min(in_memory, time.perf_counter() - before)
        before = time.perf_counter()
        by_hand(pl.scan_parquet(folder / "facts.parquet")).sink_parquet(folder / "decided.parquet")
        polars = min(polars, time.perf_counter() - before)
    sample = [{f: columns[f][n] for f in FIELDS} for n in range(min(count, 5_000))]  # the rest would take as long each

    def row_by_row(decide):
        """Seconds for all rows, from the sample; and the sample's outcomes."""
        before = time.perf_counter()
        outcomes = [decide(row) for row in sample]
        return (time.perf_counter() - before) * count / len(sample), outcomes

    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
    rules_list = rules()

    def by_loop(row):
        """The rules as someone writes them in Python, over facts that are all known."""
        score = 0
        for rule in rules_list:
            if all(compare[o](row[f], v) for f, o, v in rule):
                score += 10
        return next((ranks[level] for level in reversed(bands) if score >= bands[level]), 0), score

    loop, looped = row_by_row(by_loop)
    traced, traces = row_by_row(Tracer(typed, {}, {}).trace)
    compiled, outcomes = row_by_row(compile_policy(typed, {}, {}))
    expected = judged.head(len(sample))
    levels, scores = expected["level"].to_list(), expected["score"].to_list()
    agrees = (
        int(total["scores"]) == judged["score"].sum()
        and int(total["levels"]) == judged["level"].sum()
        and int(total["fired"]) == judged.select(pl.sum_horizontal(fired_names)).to_series().sum()
        and looped == list(zip(levels, scores, strict=True))
        and [o[:2] for o in outcomes] == looped
        and [(RANK[t.decision.level], t.decision.score) for t in traces] == looped
    )
    print(f"{count:,} rows × 50 rules × 4 conditions; answers agree: {agrees}")
    print(f"{'':<36}{'seconds':>9}{'× Polars':>10}{'× SQL':>8}")
    for name, value in (
        ("policy's SQL, embedded engine", sql),
        ("  of it the statement: over 1 row", planning),
        ("  of it each further row", sql - planning),
        ("Polars by hand, file to file", polars),
        ("Polars by hand, in memory", in_memory),
        ("Python, a loop over the rules", loop),
        ("Python, traced evaluator", traced),
        ("Python, compiled evaluator", compiled),
    ):
        print(f"{name:<36}{value:>9.2f}{value / polars:>10.2f}{value / sql:>8.1f}")


if __name__ == "__main__":
    main()
