"""Capture against a bare pymongo loop that reads the same stream and throws it away; a snapshot beside a live workload.

    .venv/bin/python benchmarks/cdc_capture.py [--changes 60000]

Everything runs on one machine, the server too; compare the ratios of one run, not numbers of different machines.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pymongo

from dataplatform.cdc.capture import Capture
from dataplatform.cdc.service import contracts_of
from dataplatform.cdc.state import Unit
from dataplatform.cdc.stream import match_of
from dataplatform.local.servers import Server, free_ports, mongo_command
from dataplatform.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=60_000)
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
        run(folder, f"mongodb://127.0.0.1:{port}/", arguments.changes)
    finally:
        server.kill()
        shutil.rmtree(folder)


def run(folder: Path, uri: str, changes: int) -> None:
    schemas = folder / "schemas" / "collections"
    schemas.mkdir(parents=True)
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
    for first in range(0, changes, 1000):
        docs.insert_many([{"_id": first + n, **document} for n in range(1000)])

    def bare(pipeline: list) -> float:
        """Changes a second of a loop that throws them away."""
        started = time.perf_counter()
        seen = 0
        with client.watch(pipeline, full_document="updateLookup", resume_after=token) as stream:
            for _ in stream:
                seen += 1
                if seen == changes:
                    break
        return changes / (time.perf_counter() - started)

    everything, same = bare([]), bare([{"$match": match_of([("bench", "docs")])}])
    result = capture(place)
    assert result["changes"] == changes, result
    ours = changes / result["seconds"]
    print(f"{'':<36}{'changes/s':>12}{'of bare':>10}{'CPU µs each':>14}{'peak MB':>10}")
    print(f"{'bare pymongo loop, same filter':<36}{same:>12,.0f}{1:>10.0%}")
    print(f"{'bare pymongo loop, no filter':<36}{everything:>12,.0f}{everything / same:>10.0%}")
    print(
        f"{'cdc capture':<36}{ours:>12,.0f}{ours / same:>10.0%}{result['cpu'] / changes * 1e6:>14.1f}{result['mb']:>10.0f}"
    )
    print(f"cdc capture is {ours / everything:.0%} of the loop without a filter, which this server applies in Python")
    large(client, place)
    beside(client, folder, uri)


def large(client: pymongo.MongoClient, place: dict) -> None:
    """Memory with documents of 15 MB."""
    for number in range(6):
        client.bench.docs.insert_one({"_id": f"large{number}", "body": "y" * 15_000_000})
    result = capture(place)
    print(f"{'6 documents of 15 MB':<36}{'':>36}{result['mb']:>10.0f}")


def beside(client: pymongo.MongoClient, folder: Path, uri: str) -> None:
    """The workload's latency without and with a snapshot at the default rate limit."""
    file = folder / "schemas" / "collections" / "bench.second.yaml"
    client.bench.drop_collection("second")
    for first in range(0, 12_000, 1000):
        client.bench.second.insert_many([{"_id": first + n, "v": 0, "pad": "x" * 500} for n in range(1000)])

    def latencies(seconds: float) -> list[float]:
        found = []
        deadline = time.perf_counter() + seconds
        number = 0
        while time.perf_counter() < deadline:
            begun = time.perf_counter()
            client.bench.second.update_one({"_id": number * 37 % 12_000}, {"$inc": {"v": 1}})
            found.append(time.perf_counter() - begun)
            number += 1
            time.sleep(0.004)
        return sorted(found)

    settings = Settings(data_dir=folder, schemas_dir=folder / "schemas", connections={"bench": uri})
    stop = threading.Event()
    thread = threading.Thread(
        target=Capture(settings, Unit("bench"), contracts_of(settings, print), stop=stop).run, daemon=True
    )
    thread.start()
    time.sleep(2)
    alone = latencies(6)
    file.write_text("connection: bench\ndatabase: bench\ncollection: second\nowner: team\ndescription: A benchmark.\n")
    time.sleep(2.2)
    both = latencies(5)
    stop.set()
    thread.join()
    print(f"\n{'update beside a snapshot':<28}{'p50 ms':>12}{'p99 ms':>10}")
    for name, found in (("capture only", alone), ("with snapshot (750/s)", both)):
        print(f"{name:<28}{found[len(found) // 2] * 1e3:>12.2f}{found[int(len(found) * 0.99)] * 1e3:>10.2f}")


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
