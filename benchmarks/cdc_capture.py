"""Capture against a bare pymongo loop that reads the same stream and throws it away; a snapshot beside a live workload.

    .venv/bin/python benchmarks/cdc_capture.py [--changes 60000] [--updates 0.5]

The bare loop reads the same stream: the same filter, the same look-up, after the same token; it is read before and after the capture and the
mean counts. The loop without the look-up reads less: of an update (`--updates` is their share; the rest are inserts) no document.
Everything runs on one machine, the server too; compare the ratios of one run, not numbers of different machines.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pymongo

from dataplatform.cdc.capture import Capture
from dataplatform.cdc.service import contracts_of
from dataplatform.cdc.state import PositionFile, Unit, request_snapshot
from dataplatform.cdc.stream import match_of
from dataplatform.contracts.collections import SnapshotLimits, load_collections
from dataplatform.local.servers import Server, free_ports, mongo_command
from dataplatform.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=60_000)
    parser.add_argument("--updates", type=float, default=0.0, help="share of the changes that are updates")
    parser.add_argument("--rate", type=int, help="documents a second of the snapshot, instead of the default")
    parser.add_argument("--only-beside", action="store_true", help="only the snapshot beside a workload")
    parser.add_argument("--capture", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.capture:
        measured(json.loads(arguments.capture))
        return
    folder = Path(tempfile.mkdtemp())
    (port,) = free_ports(1)
    command = [*mongo_command(folder / "m", port, cache="1G"), "--oplog-max-entries", "1000000"]
    server = Server("mongo", command, log=folder / "log", ready_port=port)
    server.start()
    try:
        uri = f"mongodb://127.0.0.1:{port}/"
        (folder / "schemas" / "collections").mkdir(parents=True)
        if not arguments.only_beside:
            run(folder, uri, arguments.changes, arguments.updates)
        beside(pymongo.MongoClient(uri), folder, uri, arguments.rate)
    finally:
        server.kill()
        shutil.rmtree(folder)


def run(folder: Path, uri: str, changes: int, share: float) -> None:
    schemas = folder / "schemas" / "collections"
    (schemas / "bench.docs.yaml").write_text(
        "connection: bench\ndatabase: bench\ncollection: docs\nowner: team\ndescription: A benchmark.\n"
        "snapshot: {documents_per_second: 1000000}\n"
    )
    place = {"data_dir": str(folder), "schemas_dir": str(folder / "schemas"), "connections": {"bench": uri}}
    client: pymongo.MongoClient = pymongo.MongoClient(uri)
    docs = client.bench.docs
    docs.insert_one({"_id": "first"})
    capture(place)
    with docs.watch() as stream:
        stream.try_next()
        token = stream.resume_token
    document = {
        **{f"text{n}": "x" * 100 for n in range(8)},
        **{f"number{n}": n for n in range(4)},
        "at": datetime.now(UTC),
        "tags": ["a", "b"],
    }
    updates = int(changes * share)
    for first in range(0, changes - updates, 1000):
        docs.insert_many([{"_id": n, **document} for n in range(first, min(first + 1000, changes - updates))])
    for first in range(0, updates, 1000):
        some = [n % (changes - updates) for n in range(first, min(first + 1000, updates))]
        docs.bulk_write([pymongo.UpdateOne({"_id": n}, {"$inc": {"number0": 1}}) for n in some])

    def bare(look_up: str | None = "updateLookup") -> float:
        """Changes a second of a loop that throws them away."""
        started = time.perf_counter()
        seen = 0
        pipeline = [{"$match": match_of([("bench", "docs")])}]
        with client.watch(pipeline, full_document=look_up, resume_after=token) as stream:
            for _ in stream:
                seen += 1
                if seen == changes:
                    break
        return changes / (time.perf_counter() - started)

    before = bare()
    result = capture(place)
    loop = (before + bare()) / 2
    without = bare(None)
    assert result["changes"] == changes, result
    ours = changes / result["seconds"]
    print(f"{'':<36}{'changes/s':>12}{'of bare':>10}{'CPU µs each':>14}{'peak MB':>10}")
    print(f"{'bare pymongo loop, same stream':<36}{loop:>12,.0f}{1:>10.0%}")
    print(f"{'the same without the look-up':<36}{without:>12,.0f}{without / loop:>10.0%}")
    print(
        f"{'cdc capture':<36}{ours:>12,.0f}{ours / loop:>10.0%}{result['cpu'] / changes * 1e6:>14.1f}{result['mb']:>10.0f}"
    )
    large(client, place)


def large(client: pymongo.MongoClient, place: dict) -> None:
    """Memory with documents of 15 MB."""
    for number in range(6):
        client.bench.docs.insert_one({"_id": f"large{number}", "body": "y" * 15_000_000})
    result = capture(place)
    print(f"{'6 documents of 15 MB':<36}{'':>36}{result['mb']:>10.0f}")


ROUNDS = 7
ROUND_SECONDS = 5.0
SAMPLES_SECONDS = 0.002


def beside(client: pymongo.MongoClient, folder: Path, uri: str, rate: int | None) -> None:
    """The workload's latency without and with a snapshot at the default rate limit (or `rate`), in turns while a capture runs.

    A machine's own disturbances are as large as what is looked for: so the medians of the turns are compared, and the
    order within a turn changes.
    """
    documents = int((rate or SnapshotLimits().documents_per_second) * (ROUND_SECONDS + 3))
    docs = client.bench.second
    for first in range(0, documents, 1000):
        docs.insert_many([{"_id": n, "v": 0, "pad": "x" * 500} for n in range(first, min(first + 1000, documents))])
    settings = Settings(data_dir=folder, schemas_dir=folder / "schemas", connections={"bench": uri})
    limits = f"snapshot: {{documents_per_second: {rate}}}\n" if rate else ""
    file = folder / "schemas" / "collections" / "bench.second.yaml"
    file.write_text(f"connection: bench\ndatabase: bench\ncollection: second\nowner: team\ndescription: One.\n{limits}")
    contract = load_collections(settings.schemas_dir).contracts["bench.second"]
    positions = PositionFile(settings, Unit("bench"))
    command = [sys.executable, "-c", "from dataplatform.cli import main; main()", "cdc", "capture"]
    environment = os.environ | {
        "DATAPLATFORM_DATA_DIR": str(folder),
        "DATAPLATFORM_SCHEMAS_DIR": str(folder / "schemas"),
        "DATAPLATFORM_CONNECTIONS__BENCH": uri,
    }

    def ended() -> bool:
        collection = positions.read().collections.get("bench.second")
        return collection is not None and collection.snapshot is None

    def begun() -> bool:
        collection = positions.read().collections.get("bench.second")
        return collection is not None and collection.snapshot is not None and collection.snapshot.state == "running"

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition():
            time.sleep(0.05)

    def latencies() -> list[float]:
        found = []
        number, deadline = 0, time.perf_counter() + ROUND_SECONDS
        while time.perf_counter() < deadline:
            begun = time.perf_counter()
            docs.update_one({"_id": number * 37 % documents}, {"$inc": {"v": 1}})
            found.append((time.perf_counter() - begun) * 1e3)
            number += 1
            time.sleep(SAMPLES_SECONDS)
        return sorted(found)

    turns: dict[bool, list[list[float]]] = {False: [], True: []}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(ended)  # the collection's first snapshot
            for turn in range(ROUNDS):
                for snapshot in (turn % 2 == 0, turn % 2 == 1):
                    if snapshot:
                        request_snapshot(settings, contract, "benchmark")
                        wait_for(begun)
                    turns[snapshot].append(latencies())
                    if snapshot:
                        assert begun(), "the snapshot ended before the turn did"
                        wait_for(ended)
        finally:
            process.terminate()
    print(f"\n{'update while a capture runs':<36}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}   p99 of each turn")
    medians = {}
    for snapshot, name in (
        (False, "without a snapshot"),
        (True, f"beside one ({contract.snapshot.documents_per_second}/s)"),
    ):
        at = {part: [one[int(len(one) * part)] for one in turns[snapshot]] for part in (0.5, 0.95, 0.99)}
        medians[snapshot] = [statistics.median(at[part]) for part in at]
        shown = "".join(f"{value:>10.2f}" for value in medians[snapshot])
        print(f"{name:<36}{shown}   {' '.join(f'{value:.1f}' for value in at[0.99])}")
    rises = [beside / alone - 1 for alone, beside in zip(medians[False], medians[True], strict=True)]
    print(f"{'rise':<36}" + "".join(f"{rise:>10.0%}" for rise in rises))


def capture(place: dict) -> dict:
    """`cdc capture --once` in a process of its own: seconds, CPU seconds, peak memory."""
    command = [sys.executable, __file__, "--capture", json.dumps(place)]
    return json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ).stdout.splitlines()[-1]
    )


def measured(place: dict) -> None:
    settings = Settings(**place)
    work = Capture(settings, Unit("bench"), contracts_of(settings, print))
    before = work.positions.read().changes
    cpu, started = time.process_time(), time.perf_counter()
    state = work.run(once=True)
    print(
        json.dumps(
            {
                "changes": state.changes - before,
                "seconds": time.perf_counter() - started,
                "cpu": time.process_time() - cpu,
                "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
