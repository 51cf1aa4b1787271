"""Twenty-four point-in-time features over many events: the compiled SQL, the best hand-written SQL, Polars; and the online state.

    python benchmarks/fraud_features.py [--events 200000] [--users 20000]

All give the features at every event (its own moment). Same inputs; the answers are compared. Also the cost of one day's increment
by length of the history before it, and online updates a second.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

WINDOWS = ["1h", "6h", "1d", "3d", "7d", "30d"]
MICROS = {"h": 3_600_000_000, "d": 86_400_000_000}
HISTORIES = (31, 90, 180)
EVENT_COLUMNS = {
    "event_id": "STRING",
    "user_id": "STRING",
    "occurred_at": "TIMESTAMP",
    "received_at": "TIMESTAMP",
    "hour": "TIMESTAMP",
    "amount": "INTEGER",
}
PANDAS = """
import sys, time
import pandas as pd
frame = pd.read_csv(sys.argv[1])
frame["h"] = pd.to_datetime(frame["h"], unit="us")
def features(person):
    person = person.sort_values("h").set_index("h")
    for window in sys.argv[2:]:
        rolled = person["a"].rolling(window, closed="left")
        for name in ("count", "sum", "max", "mean"):
            person[f"{name}_{window}"] = getattr(rolled, name)()
    return person
before = time.perf_counter()
frame.groupby("u")[["h", "a"]].apply(features)
print(time.perf_counter() - before)
"""
START = 1_767_225_600_000_000
DAYS = 60


def micros(window: str) -> int:
    return int(window[:-1]) * MICROS[window[-1]]


def definition() -> str:
    lines = ["entity: user", "key: user_id", "features:"]
    for window in WINDOWS:
        lines.append(f"  - {{name: count_{window}, event: send, aggregation: count, window: {window}, no_data: 0}}")
        lines.append(
            f"  - {{name: sum_{window}, event: send, aggregation: sum, of: amount, type: INT64, window: {window}, no_data: 0}}"
        )
        lines.append(
            f"  - {{name: max_{window}, event: send, aggregation: max, of: amount, type: INT64, window: {window}}}"
        )
        lines.append(f"  - {{name: mean_{window}, event: send, aggregation: mean, of: amount, window: {window}}}")
    return "\n".join(lines)


def hand_written(table: str) -> str:
    """RANGE windows over the events themselves: right only because every event here is known when it happens."""
    frames = ", ".join(
        f"w_{w} AS (PARTITION BY user_id ORDER BY happened RANGE BETWEEN {micros(w)} PRECEDING AND 1 PRECEDING)"
        for w in WINDOWS
    )
    columns = ", ".join(
        f"COUNT(*) OVER w_{w} AS count_{w}, COALESCE(SUM(amount) OVER w_{w}, 0) AS sum_{w}, MAX(amount) OVER w_{w} AS max_{w},"
        f" SUM(amount) OVER w_{w} / NULLIF(COUNT(amount) OVER w_{w}, 0) AS mean_{w}"
        for w in WINDOWS
    )
    return f"SELECT place, {columns} FROM {table} WINDOW {frames}"


def increments(warehouse, per_day: int, people: int) -> dict[int, float]:
    """Days of history in the table of events → seconds of the statement that the asset runs for the newest day."""
    from dataplatform.fraud.features import parse_entity
    from dataplatform.fraud.tables import features_merge, features_table
    from dataplatform.warehouse.tables import TableSpec, ensure

    entity = parse_entity(definition())
    columns = [{"name": n, "type": t} for n, t in EVENT_COLUMNS.items()]
    ensure(warehouse, [TableSpec("events", "send", columns, "hour", "DAY"), features_table(entity)])
    table = f"`{warehouse.table_id('events', 'send')}`"
    end = datetime(2026, 7, 1, tzinfo=UTC)
    found: dict[int, float] = {}
    filled = 0
    for days in HISTORIES:
        # Every day holds the same number of events of the same people.
        warehouse.query(
            f"INSERT INTO {table} (event_id, user_id, occurred_at, received_at, hour, amount)\n"
            "SELECT CONCAT(CAST(d AS STRING), '-', CAST(n AS STRING)), CONCAT('u', CAST(MOD(n * 7919 + d * 104729, @people) AS STRING)),"
            " at, at, TIMESTAMP_TRUNC(at, HOUR), MOD(n * 31 + d, 100000)\n"
            "FROM (SELECT d, n, TIMESTAMP_SUB(@end, INTERVAL (d * 86400 + DIV(n * 86399, @count) + 1) SECOND) AS at\n"
            "FROM UNNEST(GENERATE_ARRAY(@first, @last)) AS d, UNNEST(GENERATE_ARRAY(0, @count - 1)) AS n)",
            {"people": people, "end": end, "count": per_day, "first": filled, "last": days - 1},
        )
        filled = days
        best = 1e9
        for _ in range(2):
            before = time.perf_counter()
            warehouse.query(features_merge(warehouse, entity), {"start": end - timedelta(days=1), "end": end})
            best = min(best, time.perf_counter() - before)
        found[days] = best
    return found


def pandas_seconds(users: list[str], happened: list[int], amounts: list[int], people: int = 300) -> float:
    """Seconds of the Handbook's implementation (a group a person, a rolling window each), scaled up from some people."""
    chosen = set(sorted(set(users))[:people])
    rows = [(u, h, a) for u, h, a in zip(users, happened, amounts, strict=True) if u in chosen]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        python = f"{folder}/venv/bin/python"
        subprocess.run([python, "-m", "pip", "install", "-q", "pandas"], check=True)
        (Path(folder) / "rows.csv").write_text("u,h,a\n" + "\n".join(f"{u},{h},{a}" for u, h, a in rows))
        done = subprocess.run(
            [python, "-c", PANDAS, f"{folder}/rows.csv", *WINDOWS], check=True, capture_output=True, text=True
        )
    return float(done.stdout) * len(users) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--per-day", type=int, default=10_000, help="Events of a day, for the increments.")
    parser.add_argument("--pandas", action="store_true", help="Measure pandas too, in an environment made for it.")
    arguments = parser.parse_args()
    import polars as pl
    import pyarrow as pa

    from dataplatform.fraud.engine import sql_engine
    from dataplatform.fraud.features import parse_entity
    from dataplatform.fraud.history import history_statement, staged_source
    from dataplatform.fraud.moments import Event
    from dataplatform.fraud.online import OnlineFeatures
    from dataplatform.settings import Settings

    entity = parse_entity(definition())
    chance = random.Random(5)
    count = arguments.events
    happened = sorted(START + chance.randrange(DAYS * MICROS["d"]) for _ in range(count))
    users = [f"u{chance.randrange(arguments.users)}" for _ in range(count)]
    amounts = [chance.randrange(1, 100_000) for _ in range(count)]
    rows = pa.table(
        {
            "event": pa.array(["send"] * count, pa.string()),
            "event_id": pa.array([f"e{n}" for n in range(count)]),
            "place": pa.array(range(count), pa.int64()),
            "happened": pa.array(happened, pa.int64()),
            "known": pa.array(happened, pa.int64()),
            "user_id": pa.array(users),
            "amount": pa.array(amounts, pa.int64()),
        }
    )
    print(
        f"{count:,} events of {arguments.users:,} people, {len(entity.features)} features, windows {', '.join(WINDOWS)}"
    )
    settings = Settings(first_hour=datetime(2026, 1, 1, tzinfo=UTC), data_dir=Path(tempfile.mkdtemp()))
    with sql_engine(settings) as warehouse:
        warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id('bench')}`")
        warehouse.load_rows(rows, "bench", "events")
        table = f"`{warehouse.table_id('bench', 'events')}`"

        def timed(name: str, sql: str) -> float:
            best = 1e9
            for _ in range(arguments.turns):
                warehouse.query(f"DROP TABLE IF EXISTS `{warehouse.table_id('bench', name)}`")
                before = time.perf_counter()
                warehouse.query(f"CREATE TABLE `{warehouse.table_id('bench', name)}` AS {sql}")
                best = min(best, time.perf_counter() - before)
            return best

        moments = f"(SELECT place, user_id AS entity_key, happened AS moment FROM {table}) AS asked"
        compiled_sql = history_statement(entity, {"send": staged_source(table, "send", entity)}, moments)
        compiled = timed("compiled", compiled_sql)
        hand = timed("hand", hand_written(table))
        a, b = (f"`{warehouse.table_id('bench', each)}`" for each in ("compiled", "hand"))
        differ = " OR ".join(
            f"NOT (COALESCE(CAST(a.{f.name} AS FLOAT64), -1.0) = COALESCE(CAST(b.{f.name} AS FLOAT64), -1.0))"
            for f in entity.features
        )
        wrong = warehouse.query(f"SELECT COUNTIF({differ}) AS n FROM {a} AS a JOIN {b} AS b USING (place)").rows[0]["n"]
        costs = increments(warehouse, arguments.per_day, arguments.users)
    frame = pl.DataFrame(
        {
            "user_id": users,
            "at": pl.Series(happened).cast(pl.Datetime("us")),
            "amount": amounts,
        }
    ).sort("user_id", "at")
    before = time.perf_counter()
    for window in WINDOWS:
        frame.rolling("at", period=window, closed="left", group_by="user_id").agg(
            pl.len(),
            pl.col("amount").sum().alias("s"),
            pl.col("amount").max().alias("m"),
            pl.col("amount").mean().alias("a"),
        )
    polars = time.perf_counter() - before
    print(f"{'':<34}{'seconds':>9}{'× best':>8}")
    best = min(compiled, hand)
    for name, value in (
        ("compiled SQL", compiled),
        ("hand-written SQL (RANGE windows)", hand),
        ("Polars rolling", polars),
    ):
        print(f"{name:<34}{value:>9.2f}{value / best:>8.2f}")
    print(f"answers that differ: {wrong}")
    if arguments.pandas:
        print(
            f"pandas as the Handbook does it, {pandas_seconds(users, happened, amounts):,.0f} s (of 300 people, scaled)"
        )
    print(f"one day's increment ({arguments.per_day:,} events a day), by days of history in the table:")
    for days, seconds in costs.items():
        print(f"  {days:>4} days{seconds:>9.2f} s")
    events = [
        Event("send", f"e{n}", happened[n], happened[n], {"user_id": users[n]}, {"amount": amounts[n]})
        for n in range(min(count, 100_000))
    ]
    state = OnlineFeatures(entity, Path(tempfile.mkdtemp()) / "state.sqlite")
    before = time.perf_counter()
    for start in range(0, len(events), 5_000):
        state.apply(events[start : start + 5_000])
    print(f"online updates: {len(events) / (time.perf_counter() - before):,.0f} events/s")
    now = happened[len(events) - 1] + 1
    before = time.perf_counter()
    for number in range(2_000):
        state.features(f"u{number % arguments.users}", now)
    print(f"24 online features of one person: {(time.perf_counter() - before) / 2_000 * 1e6:,.0f} µs")


if __name__ == "__main__":
    main()
