"""Peers on one collection: documents a second to durable records, and what survives of types, updates and deletions.

    .venv/bin/python benchmarks/cdc_peers.py [--documents 20000] [--dlt PYTHON] [--tap PROGRAM]

The peers are no dependencies of this project: give their environments, made beside it. `--dlt` is the Python of one that has dlt, duckdb and
its MongoDB source (PyPI has that source inside `ingestr`, such as `ingestr==0.13.94` installed without its dependencies);
`--tap` is the program of Singer's `tap-mongodb`, which Meltano runs. A peer that is not given is left out, and said so.

Each reads the collection whole, then again after one document in a hundred was changed and one in a hundred deleted.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
from bson import Decimal128, Int64, ObjectId

from dataplatform.cdc.changes import decode, fold
from dataplatform.cdc.extended_json import CODEC, canonical
from dataplatform.cdc.service import capture_once
from dataplatform.cdc.state import landing_of
from dataplatform.contracts.collections import load_collections
from dataplatform.landing import LandedFile
from dataplatform.local.servers import Server, free_ports, mongo_command
from dataplatform.settings import Settings

DLT = """
import sys, json, time
import dlt
from ingestr.src.mongodb import mongodb
uri, folder = sys.argv[1:]
pipeline = dlt.pipeline("bench", destination=dlt.destinations.duckdb(folder + "/dlt.duckdb"), dataset_name="bench", pipelines_dir=folder)
source = mongodb(connection_url=uri, database="bench", collection_names=["docs"], write_disposition="merge")
started = time.perf_counter()
pipeline.run(source)
seconds = time.perf_counter() - started
with pipeline.sql_client() as client:
    with client.execute_query("SELECT * FROM docs") as cursor:
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row)) for row in cursor.fetchall()]
print(json.dumps({"seconds": seconds, "rows": rows}, default=str))
"""
DOCUMENT: dict[str, Any] = {
    "long": Int64(2**60 + 1),
    "decimal": Decimal128("1.10"),
    "date": datetime(1931, 5, 6, 7, 8, 9, 123000, tzinfo=UTC),
    "id": ObjectId("6b05381b5ceab495e96d2fbe"),
    "double": 2.0,
    "nested": {"a": [1, {"b": "c"}]},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--dlt", type=Path)
    parser.add_argument("--tap", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    (port,) = free_ports(1)
    server = Server("mongo", mongo_command(folder / "m", port, cache="1G"), log=folder / "log", ready_port=port)
    server.start()
    uri = f"mongodb://127.0.0.1:{port}/"
    client: pymongo.MongoClient = pymongo.MongoClient(uri)
    peers: list[tuple[str, Any]] = [("cdc capture", Capture(folder, uri))]
    if arguments.dlt:
        peers.append(("dlt, mongodb source, merge", Dlt(arguments.dlt, folder, uri)))
    if arguments.tap:
        peers.append(("Singer tap-mongodb", Tap(arguments.tap, folder, port)))
    try:
        print(f"{'':<28}{'first/s':>10}{'again s':>10}{'changed':>10}{'deleted':>10}   types kept")
        for name, peer in peers:
            client.bench.drop_collection("docs")
            docs = client.bench.docs
            for first in range(0, arguments.documents, 1000):
                docs.insert_many(
                    [
                        {"_id": first + n, "v": 0, "mixed": n if n % 2 else str(n), "text": "x" * 600, **DOCUMENT}
                        for n in range(1000)
                    ]
                )
            seconds, _ = peer.read()
            docs.update_many({"_id": {"$mod": [100, 1]}}, {"$set": {"v": 1}})
            docs.delete_many({"_id": {"$mod": [100, 2]}})
            again, rows = peer.read()
            changed = sum(row.get("v") == 1 for row in rows.values())
            gone = sum(str(key) not in rows for key in range(2, arguments.documents, 100))
            every = arguments.documents // 100
            kept = [field for field in [*DOCUMENT, "mixed"] if peer.keeps(field, rows)]
            print(
                f"{name:<28}{arguments.documents / seconds:>10,.0f}{again:>10.1f}{changed / every:>10.0%}{gone / every:>10.0%}"
                f"   {', '.join(kept) or 'none'}",
                flush=True,
            )
        for name, given in (("dlt", arguments.dlt), ("tap-mongodb", arguments.tap)):
            if not given:
                print(f"{name}: not given, so not run")
    finally:
        client.close()
        server.kill()
        shutil.rmtree(folder)


class Capture:
    """Ours, up to the landed files; what they fold to is what the tables become."""

    def __init__(self, folder: Path, uri: str) -> None:
        (folder / "schemas" / "collections").mkdir(parents=True)
        (folder / "schemas" / "collections" / "bench.docs.yaml").write_text(
            "connection: bench\ndatabase: bench\ncollection: docs\nowner: team\ndescription: A benchmark.\n"
            "snapshot: {documents_per_second: 1000000}\n"
        )
        self.settings = Settings(data_dir=folder / "data", schemas_dir=folder / "schemas", connections={"bench": uri})
        self.uri = uri

    def read(self) -> tuple[float, dict[str, Any]]:
        started = time.perf_counter()
        state = capture_once(self.settings, print)["bench"]
        seconds = time.perf_counter() - started
        contract = load_collections(self.settings.schemas_dir).contracts["bench.docs"]
        landing = landing_of(self.settings, contract)
        files = [file for hour in landing.states() for file in landing.files(hour)]
        files += [LandedFile(name, 0) for one in state.collections["bench.docs"].ended for name in one.files]
        lines = [line for file in files for line in gzip.decompress(landing.read(file)).splitlines()]
        self.texts = {key: one.document for key, one in fold(map(decode, lines)).items() if one.document}
        rows = [json.loads(text) for text in self.texts.values()]
        return seconds, {row["_id"]["$numberInt"]: row | {"v": int(row["v"]["$numberInt"])} for row in rows}

    def keeps(self, field: str, rows: dict[str, Any]) -> bool:
        """Byte for byte, against the source."""
        docs = pymongo.MongoClient(self.uri).bench.get_collection("docs", codec_options=CODEC)
        return bool(rows) and all(
            json.loads(self.texts[canonical(one["_id"])])[field] == json.loads(canonical(one))[field]
            for one in docs.find({}).limit(50)
        )


class Peer:
    def keeps(self, field: str, rows: dict[str, Any]) -> bool:
        """Generously: a text with the same value is the value; of the mixed field, every value came through."""
        if field == "mixed":
            return all(
                any(str(value) == str(int(key) % 1000) for name, value in row.items() if name.startswith("mixed"))
                for key, row in list(rows.items())[:50]
            )
        row = rows[min(rows)]
        value = row.get(field)
        match field:
            case "long":
                return str(value) == str(2**60 + 1)
            case "decimal":
                return str(value) in ("1.10", "1.1")
            case "date":
                return str(value).replace("T", " ")[:23] == "1931-05-06 07:08:09.123"
            case "nested":
                return (json.loads(value) if isinstance(value, str) else value) == DOCUMENT["nested"]
            case "double":
                return str(value) == "2.0"
        return str(value) == str(DOCUMENT[field])


class Dlt(Peer):
    def __init__(self, python: Path, folder: Path, uri: str) -> None:
        self.command = [str(python), "-c", DLT, uri, str(folder / "dlt")]
        (folder / "dlt").mkdir()

    def read(self) -> tuple[float, dict[str, Any]]:
        done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found = json.loads(done.stdout.splitlines()[-1])
        return found["seconds"], {str(row.get("_id", row.get("id"))): row for row in found["rows"]}


class Tap(Peer):
    """Reads the whole collection each time (FULL_TABLE), as it does where no field tells the time of a change. Its records upsert."""

    def __init__(self, program: Path, folder: Path, port: int) -> None:
        self.program, self.folder = program, folder
        self.records: dict[str, Any] = {}
        config = {"host": "127.0.0.1", "port": str(port), "user": "", "password": "", "database": "bench"}
        (folder / "tap.json").write_text(json.dumps(config))

    def run(self, *arguments: str) -> str:
        command = [str(self.program), "--config", str(self.folder / "tap.json"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return done.stdout

    def read(self) -> tuple[float, dict[str, Any]]:
        # Its discovery goes by the roles of its user, and this server asks for none: so the catalog is written here.
        root = {
            "table-key-properties": ["_id"],
            "database-name": "bench",
            "is-view": False,
            "valid-replication-keys": ["_id"],
            "selected": True,
            "replication-method": "FULL_TABLE",
        }
        stream = {"table_name": "docs", "stream": "docs", "tap_stream_id": "bench-docs", "schema": {"type": "object"}}
        catalog = {"streams": [stream | {"metadata": [{"breadcrumb": [], "metadata": root}]}]}
        (self.folder / "catalog.json").write_text(json.dumps(catalog))
        started = time.perf_counter()
        output = self.run("--catalog", str(self.folder / "catalog.json"))
        seconds = time.perf_counter() - started
        for line in output.splitlines():
            message = json.loads(line)
            if message["type"] == "RECORD":
                self.records[str(message["record"]["_id"])] = message["record"]
        return seconds, self.records


if __name__ == "__main__":
    main()
