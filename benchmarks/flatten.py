"""Flattening: the compiled statement against the same SELECT that checks nothing, and against what people write in Python.

    .venv/bin/python benchmarks/flatten.py [--rows 200000]

Events of 20 parameters lie in `events_raw.received` of an embedded BigQuery server that is started for this. All end in a
table of that server, replacing what was there. One in 200 events is wrong and one in 200 a duplicate, so that there is
something to find. Peers: the same columns by the same SELECT and INSERT without checks, look-back and unknown keys;
pydantic row by row, Arrow, Parquet, load job; Polars' JSON decoding, Parquet, load job (which checks nothing).
"""

import argparse
import json
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import polars
import psutil
import pyarrow
import pyarrow.parquet
import pydantic
from google.cloud import bigquery

from dataplatform.contracts.bigquery import event_schema
from dataplatform.contracts.events import EventContract
from dataplatform.events import received, scanned, sql
from dataplatform.events.received import Record, encode_record, received_at_text
from dataplatform.events.sql_types import value
from dataplatform.events.verdict import Judge
from dataplatform.local.servers import Server, bigquery_command, free_ports
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse
from dataplatform.warehouse.tables import TableSpec, ensure

START = datetime(2026, 1, 2, 3, tzinfo=UTC)
RANGE = {"start": START, "end": START + timedelta(hours=1), "lookback_hours": 168}
CITIES = ["Seoul", "Busan", "Daegu", "Incheon", "서울", "부산"]

PARAMS: list[dict[str, Any]] = [
    {"name": "item_id", "type": "STRING", "required": True},
    {"name": "title", "type": "STRING"},
    {"name": "city", "type": "STRING"},
    {"name": "category", "type": "STRING", "values": ("phone", "book", "bike", "desk")},
    {"name": "currency", "type": "STRING", "pattern": "[A-Z]{3}"},
    {"name": "referrer", "type": "STRING"},
    {"name": "query", "type": "STRING"},
    {"name": "position", "type": "INT64", "required": True, "min": 0},
    {"name": "views", "type": "INT64"},
    {"name": "seller", "type": "INT64", "required": True},
    {"name": "stars", "type": "INT64", "min": 1, "max": 5},
    {"name": "distance", "type": "FLOAT64", "min": 0},
    {"name": "score", "type": "FLOAT64"},
    {"name": "price", "type": "NUMERIC", "required": True, "min": 0},
    {"name": "fee", "type": "NUMERIC"},
    {"name": "negotiable", "type": "BOOL"},
    {"name": "sold", "type": "BOOL"},
    {"name": "listed_at", "type": "TIMESTAMP"},
    {"name": "available", "type": "DATE"},
    {"name": "app_build", "type": "INT64"},
]


def contract(action: str = "view") -> EventContract:
    return EventContract.model_validate(
        {
            "action": action,
            "object": "item",
            "service": "bench",
            "owner": "bench",
            "domain": "bench",
            "description": "An event to measure with.",
            "params": tuple(PARAMS),
        }
    )


class Params(pydantic.BaseModel):
    """The same contract as people write it in pydantic."""

    item_id: str
    title: str | None = None
    city: str | None = None
    category: Literal["phone", "book", "bike", "desk"] | None = None
    currency: Annotated[str, pydantic.StringConstraints(pattern="^[A-Z]{3}$")] | None = None
    referrer: str | None = None
    query: str | None = None
    position: Annotated[int, pydantic.Field(ge=0)]
    views: int | None = None
    seller: int
    stars: Annotated[int, pydantic.Field(ge=1, le=5)] | None = None
    distance: Annotated[float, pydantic.Field(ge=0)] | None = None
    score: float | None = None
    price: Annotated[Decimal, pydantic.Field(ge=0, max_digits=38, decimal_places=9)]
    fee: Annotated[Decimal, pydantic.Field(max_digits=38, decimal_places=9)] | None = None
    negotiable: bool | None = None
    sold: bool | None = None
    listed_at: pydantic.AwareDatetime | None = None
    available: date | None = None
    app_build: int | None = None


class Event(pydantic.BaseModel):
    event_id: str
    event: str
    event_time: pydantic.AwareDatetime | None = None
    sent_at: pydantic.AwareDatetime | None = None
    user_id: str | None = None
    device_id: str | None = None
    session_id: str | None = None
    platform: str | None = None
    app_version: str | None = None
    params: Params


def make_events(random_: random.Random, name: str, rows: int) -> Callable[[], Any]:
    """Landed records (lines) of so many events, a few of them wrong or twice."""

    def one(number: int) -> str:
        params = {
            "item_id": f"item-{random_.randrange(10**7)}",
            "title": f"A very good thing, number {random_.randrange(10**4)}",
            "city": random_.choice(CITIES),
            "category": random_.choice(["phone", "book", "bike", "desk"]),
            "currency": "KRW",
            "referrer": "https://example.com/search",
            "query": random_.choice(["camera", "table", "shoes"]),
            "position": random_.randrange(100),
            "views": random_.randrange(10**6),
            "seller": random_.randrange(10**9),
            "stars": random_.randint(1, 5),
            "distance": round(random_.random() * 20, 3),
            "score": random_.random(),
            "price": f"{random_.randrange(10**6)}.{random_.randrange(100):02}",
            "fee": f"{random_.randrange(1000)}.5",
            "negotiable": random_.random() < 0.5,
            "sold": random_.random() < 0.1,
            "listed_at": f"2026-01-{random_.randint(1, 28):02}T10:00:00.{random_.randrange(1000):03}Z",
            "available": f"2026-02-{random_.randint(1, 28):02}",
            "app_build": random_.randrange(10**4),
        }
        if number % 200 == 7:
            params |= random_.choice([{"stars": 9}, {"price": "-1"}, {"category": "boat"}, {"item_id": None}])
        event = {
            "event_id": str(uuid.UUID(int=random_.getrandbits(128), version=4)),
            "event": name,
            "event_time": "2026-01-02T03:04:05.678Z",
            "sent_at": "2026-01-02T03:04:06.001Z",
            "user_id": f"u{random_.randrange(10**6)}",
            "device_id": f"d{random_.randrange(10**6)}",
            "session_id": f"s{random_.randrange(10**6)}",
            "platform": "ios",
            "app_version": "7.1.0",
            "params": params,
        }
        return json.dumps(event, ensure_ascii=False, separators=(",", ":"))

    def lines() -> Any:
        judge = Judge({name: contract(name.split("_", 1)[0])})
        payload = ""
        for number in range(rows):
            payload = payload if number % 200 == 13 else one(number)
            verdict = judge.judge(payload.encode())
            at = START + timedelta(seconds=3599 * number // rows, microseconds=number % 1000)
            yield encode_record(
                Record(
                    received_at_text(at),
                    "bench",
                    verdict.event,
                    verdict.event_id,
                    payload,
                    verdict.faults,
                    f"w-{number // 50_000:04}",
                    number % 50_000 + 1,
                )
            )

    return lines


def bare_statement(of: EventContract, tables: sql.Tables, table: str) -> str:
    """The same columns by the same casts, without any check, look-back and `_extra`."""
    texts = ["user_id", "device_id", "session_id", "platform", "app_version"]
    columns = ["event_id", "event", "event_time", "sent_at", *texts, "received_at", "hour", "occurred_at"]
    values = [
        "event_id",
        "event",
        "SAFE_CAST(JSON_VALUE(payload, '$.event_time') AS TIMESTAMP)",
        "SAFE_CAST(JSON_VALUE(payload, '$.sent_at') AS TIMESTAMP)",
        *(f"JSON_VALUE(payload, '$.{name}')" for name in texts),
        "received_at",
        "hour",
        "TIMESTAMP_MICROS(UNIX_MICROS(SAFE_CAST(JSON_VALUE(payload, '$.event_time') AS TIMESTAMP)) +"
        " UNIX_MICROS(received_at) - UNIX_MICROS(SAFE_CAST(JSON_VALUE(payload, '$.sent_at') AS TIMESTAMP)))",
    ]
    for field in of.params:
        columns.append(field.name)
        # The values of the compiled statement, looked up in the payload itself.
        q = f"JSON_QUERY(payload, '$.params.{field.name}')"
        text = f"JSON_VALUE(payload, '$.params.{field.name}')"
        if field.type in ("FLOAT64", "BOOL"):
            values.append(f"SAFE_CAST({text} AS {field.type})")
        else:
            values.append(value(field, q).replace(f"JSON_VALUE({q}, '$')", text))
    selected = ",\n  ".join(values)
    return f"""\
BEGIN TRANSACTION;
DELETE FROM {table} AS t WHERE t.hour >= @start AND t.hour < @end;
INSERT INTO {table} ({", ".join(columns)})
SELECT
  {selected}
FROM {tables.received}
WHERE event = '{of.name}' AND hour >= @start AND hour < @end;
COMMIT TRANSACTION;
"""


ARROW = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("event_id", "event")),
        *((name, pyarrow.timestamp("us", "UTC")) for name in ("event_time", "sent_at")),
        *((name, pyarrow.string()) for name in ("user_id", "device_id", "session_id", "platform", "app_version")),
        *((name, pyarrow.timestamp("us", "UTC")) for name in ("received_at", "hour", "occurred_at")),
        *(
            (
                param["name"],
                {
                    "STRING": pyarrow.string(),
                    "INT64": pyarrow.int64(),
                    "FLOAT64": pyarrow.float64(),
                    "NUMERIC": pyarrow.decimal128(38, 9),
                    "BOOL": pyarrow.bool_(),
                    "TIMESTAMP": pyarrow.timestamp("us", "UTC"),
                    "DATE": pyarrow.date32(),
                }[param["type"]],
            )
            for param in PARAMS
        ),
    ]
)


def by_pydantic(file: Path, parquet: Path) -> int:
    """Row by row: record, event, checks, columns; then one Arrow table. First of an id wins. Returns the rows."""
    columns: dict[str, list[Any]] = {name: [] for name in ARROW.names}
    seen: set[str] = set()
    with file.open("rb") as lines:
        for line in lines:
            record = json.loads(line)
            if record["event_id"] in seen:
                continue
            seen.add(record["event_id"])
            try:
                event = Event.model_validate_json(record["payload"])
            except pydantic.ValidationError:
                continue
            received_at = datetime.fromisoformat(record["received_at"])
            row = event.model_dump()
            row |= row.pop("params")
            row["received_at"] = received_at
            row["hour"] = received_at.replace(minute=0, second=0, microsecond=0)
            row["occurred_at"] = (
                event.event_time + (received_at - event.sent_at)
                if event.event_time and event.sent_at
                else event.event_time
            )
            for name, column in columns.items():
                column.append(row[name])
    table = pyarrow.table(columns, schema=ARROW)
    pyarrow.parquet.write_table(table, parquet)
    return int(table.num_rows)


def by_polars(file: Path, parquet: Path) -> int:
    """All rows at once: decode the payloads by a schema, flatten, cast. Checks nothing; a wrong type ends it all."""
    kinds = {
        "STRING": polars.String,
        "INT64": polars.Int64,
        "FLOAT64": polars.Float64,
        "NUMERIC": polars.String,
        "BOOL": polars.Boolean,
        "TIMESTAMP": polars.String,
        "DATE": polars.String,
    }
    texts = ["event_time", "sent_at", "user_id", "device_id", "session_id", "platform", "app_version"]
    params = polars.Struct({param["name"]: kinds[param["type"]] for param in PARAMS})
    payload = polars.Struct(dict.fromkeys(texts, polars.String) | {"params": params})
    record = dict.fromkeys(("received_at", "event", "event_id", "payload"), polars.String)
    lines = polars.read_ndjson(file, schema_overrides=record)
    frame = lines.select("event_id", "event", "received_at", polars.col("payload").str.json_decode(payload)).unnest(
        "payload"
    )
    frame = frame.unnest("params")
    times = ["event_time", "sent_at", "received_at", *(p["name"] for p in PARAMS if p["type"] == "TIMESTAMP")]
    frame = frame.with_columns(
        *(polars.col(name).str.to_datetime("%+", time_unit="us", time_zone="UTC") for name in times),
        *(polars.col(p["name"]).str.to_date("%F") for p in PARAMS if p["type"] == "DATE"),
        *(polars.col(p["name"]).cast(polars.Decimal(38, 9)) for p in PARAMS if p["type"] == "NUMERIC"),
    )
    frame = frame.with_columns(
        hour=polars.col("received_at").dt.truncate("1h"),
        occurred_at=polars.col("event_time") + (polars.col("received_at") - polars.col("sent_at")),
    )
    frame.select(ARROW.names).write_parquet(parquet)
    return frame.height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="events to flatten")
    parser.add_argument("--runs", type=int, default=2, help="times each is run; the best counts")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="flatten-"))
    port, grpc_port = free_ports(2)
    server = Server(
        "bigquery",
        bigquery_command(folder, port, grpc_port),
        log=folder / "server.log",
        ready_url=f"http://127.0.0.1:{port}",
        start_seconds=120,
    )
    server.start()
    try:
        measure(arguments.rows, arguments.runs, folder, port=port, grpc_port=grpc_port, server_pid=server.pid)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def measure(rows: int, runs: int, folder: Path, *, port: int, grpc_port: int, server_pid: int) -> None:
    settings = Settings(
        data_dir=folder,
        bucket="bench",
        bigquery_endpoint=f"http://127.0.0.1:{port}",
        bigquery_grpc_endpoint=f"127.0.0.1:{grpc_port}",
        first_hour=START,
    )
    warehouse = Warehouse(settings)
    tables = sql.Tables(settings.project)
    measured = contract()
    schema = event_schema(measured)
    peers = ("bare", "pydantic", "polars")
    nullable = [column | {"mode": "NULLABLE"} for column in schema]
    specs = [
        TableSpec("events_raw", "staging", received.STAGING_SCHEMA),
        TableSpec("events_raw", "received", received.RECEIVED_SCHEMA, "hour", clustering=("event", "event_id")),
        TableSpec("events", "rejected", received.REJECTED_SCHEMA, "hour", clustering=("event",)),
        TableSpec("events", "duplicates", received.DUPLICATES_SCHEMA, "hour", clustering=("event",)),
        TableSpec("events", measured.name, schema, "hour"),
        *(TableSpec("events", name, nullable, "hour") for name in peers),
    ]
    ensure(warehouse, specs)
    bucket = folder / "gcs" / "bench"
    bucket.mkdir(parents=True)
    landed = bucket / "landed.ndjson"
    with landed.open("wb") as file:
        for line in make_events(random.Random(1), measured.name, rows)():
            file.write(line + b"\n")
    noise = bucket / "noise.ndjson"
    with noise.open("wb") as file:
        for line in make_events(random.Random(2), "open_item_bench", max(rows // 10, 1))():
            file.write(line + b"\n")
    size = landed.stat().st_size / 1e6
    print(f"{rows:,} events of {len(PARAMS)} parameters, {size:,.0f} MB landed; best of {runs}", flush=True)

    results: dict[str, tuple[float, float, int]] = {}

    def run(name: str, work: Callable[[], object], result: str | None, times: int = runs) -> None:
        best = (float("inf"), 0.0)
        for _ in range(times):
            before = cpu_seconds(server_pid)
            started = time.perf_counter()
            work()
            best = min(best, (time.perf_counter() - started, cpu_seconds(server_pid) - before))
        count = warehouse.query(f"SELECT COUNT(*) AS n FROM {result}").rows[0]["n"] if result else rows
        results[name] = (*best, count)
        print(f"  {name:<48} {best[0]:7.2f} s  {best[1]:7.2f} s CPU  {count:>10,} rows", flush=True)

    def load() -> None:
        uris = ["gs://bench/landed.ndjson", "gs://bench/noise.ndjson"]
        warehouse.load(uris, "events_raw", "staging", received.STAGING_SCHEMA)
        staging = f"`{warehouse.table_id('events_raw', 'staging')}`"
        warehouse.script(sql.received_statement(staging, tables), RANGE)

    def by_parquet(convert: Callable[[Path, Path], int], name: str) -> None:
        parquet = bucket / f"{name}.parquet"
        convert(landed, parquet)
        job = warehouse.client.load_table_from_uri(
            f"gs://bench/{parquet.name}",
            f"{settings.project}.events.{name}",
            job_config=bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE"),
        )
        job.result()

    run("landed files into received (with 10% others)", load, None, 1)
    run("same SELECT, nothing checked", lambda: warehouse.script(bare_statement(measured, tables, tables.event("bare")), RANGE),
        tables.event("bare"))  # fmt: skip
    work = [sql.duplicates_statement(tables), sql.accepted_statement(measured, tables)]
    run("compiled: duplicates and accepted rows", lambda: [warehouse.script(text, RANGE) for text in work],
        tables.event(measured.name))  # fmt: skip
    rejected = sql.rejected_scripts({measured.name: measured}, [measured.name], tables)
    run("compiled: rejected rows with all reasons", lambda: [warehouse.script(text, RANGE) for text in rejected],
        tables.rejected)  # fmt: skip
    run(
        "pydantic row by row, Arrow, Parquet, load job",
        lambda: by_parquet(by_pydantic, "pydantic"),
        tables.event("pydantic"),
        1,
    )
    try:
        run("Polars JSON decode, Parquet, load job", lambda: by_parquet(by_polars, "polars"), tables.event("polars"), 1)
    except polars.exceptions.PolarsError as error:
        print(f"  Polars ended in an error: {str(error)[:200]}")

    bare, compiled, rejecting, peer = (
        results[name][0]
        for name in (
            "same SELECT, nothing checked",
            "compiled: duplicates and accepted rows",
            "compiled: rejected rows with all reasons",
            "pydantic row by row, Arrow, Parquet, load job",
        )
    )
    print()
    print(f"compiled / nothing checked            {compiled / bare:5.2f}   (bar: at most 2.5)")
    print(f"  with the rejections                 {(compiled + rejecting) / bare:5.2f}")
    print(f"pydantic / compiled                   {peer / compiled:5.2f}   (bar: at least 3)")
    print(f"  with the rejections                 {peer / (compiled + rejecting):5.2f}")
    if "Polars JSON decode, Parquet, load job" in results:
        print(
            f"Polars (checks nothing) / compiled    {results['Polars JSON decode, Parquet, load job'][0] / compiled:5.2f}"
        )
    bare_cpu, compiled_cpu, peer_cpu = (
        results[name][1]
        for name in (
            "same SELECT, nothing checked",
            "compiled: duplicates and accepted rows",
            "pydantic row by row, Arrow, Parquet, load job",
        )
    )
    print(
        f"in CPU time: compiled / nothing checked {compiled_cpu / bare_cpu:.2f}, pydantic / compiled {peer_cpu / compiled_cpu:.2f}"
    )
    print(f"events a second, compiled             {rows / compiled:,.0f}")
    shares = [
        scanned.Share(**row)
        for row in warehouse.query(
            scanned.SHARES.format(received=tables.received), {k: RANGE[k] for k in ("start", "end")}
        ).rows
    ]
    read = scanned.table_bytes(shares, START, RANGE["end"], measured.name)  # type: ignore[arg-type]
    ids = scanned.duplicates_bytes(shares, START, RANGE["end"], 168)  # type: ignore[arg-type]
    whole = scanned.table_bytes(shares, START, RANGE["end"])  # type: ignore[arg-type]
    print(
        f"bytes read (modelled)                 {read / 1e6:,.1f} MB by the event's statement, {read / whole:.2f} of the hour;"
        f" {ids / 1e6:,.1f} MB once for the duplicates of all events"
    )


def cpu_seconds(pid: int) -> float:
    """Of the server and of this process: on a shared machine the fairer measure."""
    process = psutil.Process(pid)
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times) + time.process_time()


if __name__ == "__main__":
    main()
