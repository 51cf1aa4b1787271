"""A collection refreshed after 1 % changed, against the full dump it replaces; and what a merge costs as the table grows.

    .venv/bin/python benchmarks/cdc_refresh.py [--documents 1000000] [--merge-rows 1000000 10000000]

Documents read, the MongoDB server's CPU seconds, and the time to a fresh table. The full dump is `find()`, relaxed Extended JSON
by msgspec, one load job that replaces the table: no deletes, no history, no types of its own.
"""

import argparse
import gzip
import json
import shutil
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psutil
import pymongo
from bson import ObjectId, json_util

from dataplatform.cdc import sql
from dataplatform.cdc.hours import CollectionHours
from dataplatform.cdc.service import capture_once
from dataplatform.cdc.sql import RAW_SCHEMA, Tables
from dataplatform.cdc.state import PositionFile, Unit, UnitState
from dataplatform.contracts.collections import load_collections
from dataplatform.local.servers import Server, bigquery_command, free_ports, mongo_command
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse
from dataplatform.warehouse.tables import TableSpec, ensure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--merge-rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    mongo_port, port, grpc = free_ports(3)
    bigquery = Server(
        "bigquery",
        bigquery_command(folder / "bq", port, grpc),
        log=folder / "bq.log",
        ready_url=f"http://127.0.0.1:{port}",
        start_seconds=120,
    )
    mongo = Server(
        "mongo",
        [*mongo_command(folder / "m", mongo_port, cache="1G"), "--oplog-max-entries", "3000000"],
        log=folder / "log",
        ready_port=mongo_port,
    )
    bigquery.start()
    mongo.start()
    try:
        (folder / "data").mkdir()
        (folder / "bq" / "gcs").mkdir(parents=True, exist_ok=True)
        (folder / "data" / "gcs").symlink_to(folder / "bq" / "gcs")
        settings = Settings(
            data_dir=folder / "data",
            schemas_dir=folder / "schemas",
            bigquery_endpoint=f"http://127.0.0.1:{port}",
            bigquery_grpc_endpoint=f"127.0.0.1:{grpc}",
            connections={"bench": f"mongodb://127.0.0.1:{mongo_port}/"},
        )
        if arguments.documents:
            refresh(settings, mongo, arguments.documents)
        merges(settings, arguments.merge_rows)
    finally:
        mongo.kill()
        bigquery.kill()
        shutil.rmtree(folder)


def cpu(server: Server) -> float:
    root = psutil.Process(server.pid)
    return sum(sum(one.cpu_times()[:2]) for one in [root, *root.children(recursive=True)])


def refresh(settings: Settings, mongo: Server, documents: int) -> None:
    collections = settings.schemas_dir / "collections"
    collections.mkdir(parents=True)
    (collections / "bench.docs.yaml").write_text(
        "connection: bench\ndatabase: bench\ncollection: docs\nowner: team\ndescription: A benchmark.\n"
        "snapshot: {documents_per_second: 1000000, chunk_documents: 50000}\n"
    )
    client: pymongo.MongoClient = pymongo.MongoClient(settings.connections["bench"].get_secret_value())
    docs = client.bench.docs
    first = datetime(2024, 1, 1, tzinfo=UTC)
    step = timedelta(days=700) / documents
    keys = []
    for start in range(0, documents, 5000):
        batch = []
        for n in range(start, min(start + 5000, documents)):
            made = ObjectId.from_datetime(first + n * step).binary[:4] + n.to_bytes(8, "big")
            keys.append(ObjectId(made))
            batch.append(
                {"_id": keys[-1], "n": n, "title": f"title {n}", "text": "x" * 200, "o": {"a": n, "b": [1, 2]}}
            )
        docs.insert_many(batch)
    hours = CollectionHours(settings, load_collections(settings.schemas_dir).contracts)
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)

    def apply() -> None:
        hours.close(until)
        for due in hours.due(until):
            for one in hours.materialise(["bench.docs"], due.start, due.end):
                if one.error:
                    raise one.error

    def timed() -> tuple[float, float]:
        """Seconds of all, and the source's CPU seconds while it was read."""
        started, used = time.perf_counter(), cpu(mongo)
        capture_once(settings, print)
        used = cpu(mongo) - used
        print(f"  captured in {time.perf_counter() - started:.1f} s", flush=True)
        an_hour_ago(settings)
        apply()
        return time.perf_counter() - started, used

    print(f"{documents:,} documents inserted", flush=True)
    initial = timed()
    print(f"first snapshot and tables: {initial[0]:.0f} s", flush=True)
    changed = keys[-documents // 100 :]
    for key in changed:
        docs.update_one({"_id": key}, {"$inc": {"n": 1}})
    ours = timed()
    started, used = time.perf_counter(), cpu(mongo)
    folder = settings.data_dir / "gcs" / settings.bucket
    with gzip.open(folder / "dump.ndjson.gz", "wt", compresslevel=1) as out:
        for document in docs.find({}, batch_size=5000):
            document["_id"] = str(document["_id"])
            out.write(json.dumps(document, default=json_util.default) + "\n")
    used = cpu(mongo) - used
    hours.warehouse.load(
        [f"gs://{settings.bucket}/dump.ndjson.gz"],
        "mongo_raw",
        "dump",
        [
            {"name": "_id", "type": "STRING"},
            {"name": "n", "type": "INTEGER"},
            {"name": "title", "type": "STRING"},
            {"name": "text", "type": "STRING"},
            {"name": "o", "type": "JSON"},
        ],
    )
    dump = (time.perf_counter() - started, used)
    print(f"{documents:,} documents, {len(changed):,} changed\n")
    print(f"{'':<24}{'documents read':>16}{'source CPU s':>14}{'seconds':>10}")
    print(f"{'first snapshot':<24}{documents:>16,}{initial[1]:>14.2f}{initial[0]:>10.1f}")
    print(f"{'refresh by changes':<24}{len(changed):>16,}{ours[1]:>14.2f}{ours[0]:>10.1f}")
    print(f"{'full dump':<24}{documents:>16,}{dump[1]:>14.2f}{dump[0]:>10.1f}")
    ratios = (documents / len(changed), dump[1] / max(ours[1], 1e-3), dump[0] / ours[0])
    print(f"{'dump / changes':<24}{ratios[0]:>16.0f}{ratios[1]:>14.1f}{ratios[2]:>10.1f}", flush=True)


def an_hour_ago(settings: Settings) -> None:
    """As if the snapshot had ended an hour ago: a refresh is of an hour of its own."""
    file = PositionFile(settings, Unit("bench")).file
    present = file.read()
    assert present is not None
    state = msgspec.json.decode(present[0], type=UnitState)
    collection = state.collections["bench.docs"]
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    collection.since = collection.ended[0].hour = hour
    file.write(msgspec.json.encode(state), present[1])


def merges(settings: Settings, sizes: list[int]) -> None:
    """10,000 changes of the youngest documents into tables of these sizes."""
    warehouse = Warehouse(settings)
    print(f"\n{'10,000 changes into':<24}{'seconds':>10}{'partitions':>12}{'of all':>8}{'rows in them':>14}")
    for rows in sizes:
        tables = Tables(*(warehouse.table_id("merge", f"{name}{rows}") for name in ("raw", "h", "t", "s", "newest")))
        specs = [
            TableSpec("merge", f"{name}{rows}", RAW_SCHEMA, "bucket", "MONTH", ("_id",)) for name in ("raw", "newest")
        ]
        ensure(warehouse, specs)
        for table, start in ((tables.raw, 0), (tables.newest, rows - 10_000)):
            warehouse.query(
                f"INSERT INTO `{table}` (_id, document, deleted, position, changed_at, captured_at, bucket)\n"
                'SELECT FORMAT(\'{"$oid":"%024x"}\', n), \'{"v":{"$numberInt":"1"}}\', FALSE,\n'
                f"  '{'0000000001' if start == 0 else '0000000002'}.0000000001.0000000', CURRENT_TIMESTAMP(), CURRENT_TIMESTAMP(),\n"
                f"  DATE_ADD(DATE '2016-01-01', INTERVAL CAST(FLOOR(n * 120 / {rows}) AS INT64) MONTH)\n"
                f"FROM UNNEST(GENERATE_ARRAY({start}, {rows} - 1)) AS n"
            )
        found = warehouse.query(f"SELECT bucket FROM `{tables.newest}` GROUP BY bucket").rows
        buckets = [row["bucket"].isoformat() for row in found]
        inside = warehouse.query(
            f"SELECT COUNT(*) AS inside FROM `{tables.raw}` WHERE bucket IN ({sql.dates(buckets)})"
        ).rows[0]["inside"]
        result = warehouse.query(sql.raw_sql(tables, buckets, "", sweep=False, keep_deleted=False))
        print(f"{rows:<24,}{result.seconds:>10.2f}{len(buckets):>12}{120:>8}{inside:>14,}")


if __name__ == "__main__":
    main()
