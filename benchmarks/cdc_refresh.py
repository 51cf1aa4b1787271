"""A collection refreshed after 1 % changed, against the full dump it replaces; and what a merge costs as the table grows.

    .venv/bin/python benchmarks/cdc_refresh.py [--documents 1000000] [--text 200] [--merge-rows 1000000 10000000] [--folder FOLDER]

With `--folder` the servers' data stays there: the first run fills them and takes the first snapshot, the second measures.

Documents read, the MongoDB server's CPU seconds, and the time to a fresh table, of

- *changes*: `cdc capture --once` reads the changes from the stream's position on, then they are applied (history, raw and typed table);
- *changes, capture running*: the same while a capture runs as a service: the time is from the last change to the fresh tables. The
  source's CPU cannot be told from the workload's there; it is that of the same changes in the line above;
- *full dump*: `find()`, one load job that replaces one table of the same content: canonical Extended JSON of every document, and typed
  columns by a given schema. Without a history, deletions or a schema found by itself.

The larger the documents (`--text` is the length of their text), the more a dump costs, while a change costs the source mostly the same.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psutil
import pymongo
from bson import ObjectId

from dataplatform.cdc import sql
from dataplatform.cdc.connections import operation_time
from dataplatform.cdc.extended_json import canonical
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
    parser.add_argument("--text", type=int, default=900, help="characters of text in a document; 900 make one of 1 KB")
    parser.add_argument("--merge-rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, help="keep the data here, in two runs")
    arguments = parser.parse_args()
    folder: Path = arguments.folder or Path(tempfile.mkdtemp())
    filled = (folder / "filled").exists()
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
        (folder / "data").mkdir(exist_ok=True)
        (folder / "bq" / "gcs").mkdir(parents=True, exist_ok=True)
        if not (folder / "data" / "gcs").exists():
            (folder / "data" / "gcs").symlink_to(folder / "bq" / "gcs")
        settings = Settings(
            data_dir=folder / "data",
            schemas_dir=folder / "schemas",
            bigquery_endpoint=f"http://127.0.0.1:{port}",
            bigquery_grpc_endpoint=f"127.0.0.1:{grpc}",
            connections={"bench": f"mongodb://127.0.0.1:{mongo_port}/"},
        )
        if arguments.documents:
            refresh = Refresh(settings, mongo, arguments.documents, arguments.text)
            if not filled:
                refresh.fill()
                (folder / "filled").touch()
            if filled or not arguments.folder:
                refresh.measure()
        if filled or not arguments.folder:
            merges(settings, arguments.merge_rows)
    finally:
        mongo.stop()
        bigquery.stop()
        if filled or not arguments.folder:
            shutil.rmtree(folder)


def cpu(server: Server) -> float:
    root = psutil.Process(server.pid)
    return sum(sum(one.cpu_times()[:2]) for one in [root, *root.children(recursive=True)])


class Refresh:
    """One collection, its first snapshot, and then the two ways to a fresh table."""

    def __init__(self, settings: Settings, mongo: Server, documents: int, text: int) -> None:
        collections = settings.schemas_dir / "collections"
        collections.mkdir(parents=True, exist_ok=True)
        (collections / "bench.docs.yaml").write_text(
            "connection: bench\ndatabase: bench\ncollection: docs\nowner: team\ndescription: A benchmark.\n"
            "snapshot: {documents_per_second: 1000000, chunk_documents: 50000}\n"
        )
        self.settings, self.mongo, self.documents, self.words = settings, mongo, documents, "x" * text
        self.docs = pymongo.MongoClient(settings.connections["bench"].get_secret_value()).bench.docs
        self.hours = CollectionHours(settings, load_collections(settings.schemas_dir).contracts)
        self.until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)

    def key(self, n: int) -> ObjectId:
        """Made evenly over two years."""
        made = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=700) / self.documents * n
        return ObjectId(ObjectId.from_datetime(made).binary[:4] + n.to_bytes(8, "big"))

    def fill(self) -> None:
        started = time.perf_counter()
        there = self.docs.find_one({"_id": self.key(self.documents - 1)}) is not None  # from a run that was ended early
        for start in range(0, 0 if there else self.documents, 5000):
            self.docs.insert_many(
                [
                    {"_id": self.key(n), "n": n, "title": f"title {n}", "text": self.words, "o": {"a": n, "b": [1, 2]}}
                    for n in range(start, min(start + 5000, self.documents))
                ],
                ordered=False,
            )
        print(f"{self.documents:,} documents inserted in {time.perf_counter() - started:.0f} s", flush=True)
        seconds, used = self.captured()
        print(f"first snapshot: {seconds:.0f} s, {used:.0f} CPU seconds of the source", flush=True)
        an_hour_ago(self.settings)
        started = time.perf_counter()
        self.apply()
        print(f"first tables: {time.perf_counter() - started:.0f} s", flush=True)

    def measure(self) -> None:
        changed = self.documents // 100
        self.captured()  # so that what is asked only now and then (the oplog's age) is not asked in the part that is measured
        self.change(changed)
        started = time.perf_counter()
        capture, used = self.captured()
        self.apply()
        at_once = time.perf_counter() - started
        running = self.beside_a_running_capture(changed)
        dump, load, dump_used = self.dump()
        print(f"{self.documents:,} documents of {len(self.words) + 120:,} bytes, {changed:,} changed")
        print(f"{'':<28}{'documents read':>16}{'source CPU s':>14}{'seconds':>10}{'of them reading':>17}")
        print(f"{'changes':<28}{changed:>16,}{used:>14.2f}{at_once:>10.1f}{capture:>17.1f}")
        print(f"{'changes, capture running':<28}{changed:>16,}{'':>14}{running[0]:>10.1f}{running[1]:>17.1f}")
        print(f"{'full dump':<28}{self.documents:>16,}{dump_used:>14.2f}{dump + load:>10.1f}{dump:>17.1f}")
        ratios = (self.documents / changed, dump_used / max(used, 1e-3), (dump + load) / at_once)
        print(f"{'dump / changes':<28}{ratios[0]:>16.0f}{ratios[1]:>14.1f}{ratios[2]:>10.1f}")
        print(f"{'dump / capture running':<28}{'':>30}{(dump + load) / running[0]:>10.1f}", flush=True)

    def change(self, count: int) -> None:
        for first in range(self.documents - count, self.documents, 1000):
            some = range(first, min(first + 1000, self.documents))
            self.docs.bulk_write([pymongo.UpdateOne({"_id": self.key(n)}, {"$inc": {"n": 1}}) for n in some])

    def beside_a_running_capture(self, changed: int) -> tuple[float, float]:
        """Seconds from the last change to the fresh tables, and to when it was landed."""
        environment = {
            **os.environ,
            "DATAPLATFORM_DATA_DIR": str(self.settings.data_dir),
            "DATAPLATFORM_SCHEMAS_DIR": str(self.settings.schemas_dir),
            "DATAPLATFORM_CONNECTIONS__BENCH": self.settings.connections["bench"].get_secret_value(),
        }
        command = [sys.executable, "-c", "from dataplatform.cli import main; main()", "cdc", "capture"]
        capture = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            file = PositionFile(self.settings, Unit("bench"))
            while file.read().holder is None:
                time.sleep(0.1)
            self.change(changed)
            started = time.perf_counter()
            last = operation_time(self.docs.database.client)
            while file.read().passed < (last.time, last.inc):
                time.sleep(0.02)
            landed = time.perf_counter() - started
            self.apply()
            return time.perf_counter() - started, landed
        finally:
            capture.terminate()
            capture.wait()

    def captured(self) -> tuple[float, float]:
        """Seconds of `cdc capture --once`, and the source's CPU seconds."""
        started, used = time.perf_counter(), cpu(self.mongo)
        capture_once(self.settings, print)
        return time.perf_counter() - started, cpu(self.mongo) - used

    def apply(self) -> None:
        self.hours.close(self.until)
        for due in self.hours.due(self.until):
            for one in self.hours.materialise(["bench.docs"], due.start, due.end):
                if one.error:
                    raise one.error

    def dump(self) -> tuple[float, float, float]:
        """Seconds of reading and of loading, and the source's CPU seconds."""
        started, used = time.perf_counter(), cpu(self.mongo)
        folder = self.settings.data_dir / "gcs" / self.settings.bucket
        with gzip.open(folder / "dump.ndjson.gz", "wb", compresslevel=1) as out:
            for document in self.docs.find({}):
                row = document | {"_id": canonical(document["_id"]), "document": canonical(document)}
                out.write(msgspec.json.encode(row) + b"\n")
        used = cpu(self.mongo) - used
        read = time.perf_counter()
        self.hours.warehouse.load(
            [f"gs://{self.settings.bucket}/dump.ndjson.gz"],
            "mongo_raw",
            "dump",
            [
                {"name": "_id", "type": "STRING"},
                {"name": "document", "type": "STRING"},
                {"name": "n", "type": "INTEGER"},
                {"name": "title", "type": "STRING"},
                {"name": "text", "type": "STRING"},
                {
                    "name": "o",
                    "type": "RECORD",
                    "fields": [
                        {"name": "a", "type": "INTEGER"},
                        {"name": "b", "type": "INTEGER", "mode": "REPEATED"},
                    ],
                },
            ],
        )
        return read - started, time.perf_counter() - read, used


def an_hour_ago(settings: Settings) -> None:
    """As if the first snapshot had ended an hour ago: a refresh is of an hour of its own."""
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
