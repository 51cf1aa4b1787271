"""The law: the tables equal the source, whatever is killed; the history holds every acknowledged change exactly once.

A random workload runs against the real server while capture, MongoDB server, BigQuery server and the run that applies hours are
killed with SIGKILL at random. `-m long` is the long form: more than 100 kills, runs through Dagster.
"""

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from source_lab import Lab, soon, wait_for

from dataplatform.local.servers import CHECKOUT, Server, free_ports, mongo_command
from dataplatform.settings import Settings

APPLY = """
from datetime import UTC, datetime, timedelta
from dataplatform.cdc.hours import CollectionHours
from dataplatform.contracts.collections import load_collections
from dataplatform.settings import get_settings
settings = get_settings()
hours = CollectionHours(settings, load_collections(settings.schemas_dir).contracts)
until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
hours.close(until)
for due in hours.due(until):
    names = [name for name in hours.contracts if any(asset.endswith(name.replace(".", "__")) for asset in due.assets)]
    for one in hours.materialise(names, due.start, due.end):
        if one.error:
            raise one.error
"""


class Workload:
    """Random changes by one client, each with a number of its own; what was acknowledged is remembered."""

    def __init__(self, uri: str, database: str, seed: int) -> None:
        # Without retries by the driver: a change whose answer is lost may have happened, and is not counted on.
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            uri, retryWrites=False, serverSelectionTimeoutMS=2000, socketTimeoutMS=5000
        )
        self.db = self.client[database]
        self.rng = random.Random(seed)
        self.acknowledged: set[int] = set()
        self.tried = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def key(self) -> Any:
        number = self.rng.randrange(60)
        kinds = (number, Int64(2**40 + number), f"k{number}", {"a": number, "b": 1}, ObjectId(f"{number:024x}"))
        return self.rng.choice(kinds)

    def value(self) -> Any:
        choices = (1, 2.5, "text", None, [1, 2], {"x": 1}, Decimal128("1.5"), True)
        return self.rng.choice(choices)

    def _run(self) -> None:
        while not self.stop.is_set():
            self.tried += 1
            number = self.tried
            try:
                self.one(number)
            except PyMongoError as error:
                if not isinstance(error, OperationFailure):
                    time.sleep(0.05)
            time.sleep(0.004)

    def one(self, number: int) -> None:
        docs, moving = self.db.docs, self.db.moving
        match self.rng.randrange(20):
            case 0 | 1 | 2 | 3 | 4 | 5:
                docs.insert_one({"_id": self.key(), "op": number, "v": self.value()})
                self.acknowledged.add(number)
            case 6 | 7 | 8 | 9 | 10:
                if docs.update_one({"_id": self.key()}, {"$set": {"op": number, "v": self.value()}}).modified_count:
                    self.acknowledged.add(number)
            case 11 | 12:
                if docs.replace_one({"_id": self.key()}, {"op": number, "w": self.value()}).modified_count:
                    self.acknowledged.add(number)
            case 13 | 14 | 15:
                docs.delete_one({"_id": self.key()})
            case 16:
                keys = [self.key(), self.key()]
                with self.client.start_session() as session, session.start_transaction():
                    docs.delete_many({"_id": {"$in": keys}}, session=session)
                    docs.insert_one({"_id": keys[0], "op": number, "t": True}, session=session)
                self.acknowledged.add(number)
            case 17 | 18:
                moving.insert_one({"op": number})
            case 19 if self.rng.random() < 0.05:
                moving.drop()
            case 19 if self.rng.random() < 0.05:
                self.db.other.insert_one({"op": number})
                self.db.other.rename("moving", dropTarget=True)


class Chaos:
    """The processes, and their deaths."""

    def __init__(self, lab: Lab, mongo: Server, bigquery: Any, folder: Path, seed: int, *, dagster: bool) -> None:
        self.lab, self.mongo, self.bigquery, self.folder = lab, mongo, bigquery, folder
        self.rng = random.Random(seed)
        self.dagster = dagster
        self.kills: Counter[str] = Counter()
        self.capture: subprocess.Popen[str] | None = None
        self.run: subprocess.Popen[Any] | None = None

    def keep_running(self, *, run: bool = True) -> None:
        """Start what has ended; a run only with `run`, as every one costs seconds."""
        if self.capture is None or self.capture.poll() is not None:
            self.capture = self.lab.process("cdc", "capture", log=self.folder / "capture.log")
        if run and (self.run is None or self.run.poll() is not None):
            if self.dagster:
                self.run = self.lab.process(
                    "catch-up", "--until", f"{soon():%Y-%m-%dT%H}:00Z", log=self.folder / "run.log"
                )
            else:
                with (self.folder / "run.log").open("a") as log:
                    command = [sys.executable, "-c", APPLY]
                    self.run = subprocess.Popen(command, env=self.lab.environment(), stdout=log, stderr=log)

    def kill(self, what: str) -> None:
        self.kills[what] += 1
        match what:
            case "capture":
                assert self.capture is not None
                self.capture.kill()
                self.capture.wait()
            case "run":
                assert self.run is not None
                self.run.kill()
                self.run.wait()
            case "mongo":
                self.mongo.kill()
                time.sleep(self.rng.random() * 0.5)
                self.mongo.start()
            case "bigquery":
                self.bigquery.kill()
                self.bigquery.start()

    def end(self) -> None:
        for process in (self.capture, self.run):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def law(
    settings_for: Callable[..., Settings],
    bigquery: Any,
    tmp_path: Path,
    *,
    seed: int,
    plan: dict[str, int],
    dagster: bool,
) -> None:
    (port,) = free_ports(1)
    uri = f"mongodb://127.0.0.1:{port}/"
    mongo = Server("mongo", mongo_command(tmp_path / "mongo", port), log=tmp_path / "mongo.log", ready_port=port)
    mongo.start()
    settings = settings_for(schemas_dir=tmp_path / "schemas", connections={"lab": uri}, cdc_commit_seconds=0.2)
    lab = Lab(settings, uri)
    lab.contract("docs", "snapshot: {chunk_documents: 20, documents_per_second: 200}\n")
    lab.contract("moving")
    for name in ("vocabulary.yaml", "owners.yaml"):
        shutil.copyfile(CHECKOUT / "schemas" / name, settings.schemas_dir / name)
    lab.db.docs.insert_many([{"_id": f"before{n}", "v": n} for n in range(150)])
    workload = Workload(uri, lab.database, seed)
    chaos = Chaos(lab, mongo, bigquery, tmp_path, seed, dagster=dagster)
    order = [what for what, count in plan.items() for _ in range(count)]
    chaos.rng.shuffle(order)
    try:
        chaos.keep_running(run=dagster)
        wait_for(lambda: lab.state.token is not None, "the capture's first commit", 60)
        workload.thread.start()
        for what in order:
            time.sleep(chaos.rng.uniform(0.2, 3.0 if dagster else 0.8))
            chaos.keep_running(run=dagster or what in ("run", "bigquery"))
            if what == "run":
                time.sleep(chaos.rng.uniform(0.2, 12.0) if dagster else chaos.rng.uniform(1.0, 4.0))
            chaos.kill(what)
        chaos.keep_running(run=dagster)
        time.sleep(0.5)
    finally:
        workload.stop.set()
        workload.thread.join(timeout=30)
        chaos.end()
    try:
        if not bigquery.running:
            bigquery.start()
        assert chaos.kills.total() == len(order)
        lab.sync()
        print(
            f"seed {seed}: {workload.tried} changes tried, {len(workload.acknowledged)} acknowledged, kills {dict(chaos.kills)}"
        )
        for collection in ("docs", "moving"):
            lab.assert_equal(collection)
        seen = Counter(operation_number(row) for row in lab.history("docs"))
        missing = sorted(number for number in workload.acknowledged if seen[number] == 0)
        twice = sorted(number for number in workload.acknowledged if seen[number] > 1)
        assert not missing, f"acknowledged, not in the history: {missing[:10]}"
        assert not twice, f"twice in the history: {twice[:10]}"
        assert len(workload.acknowledged) > 30
    finally:
        lab.close()
        workload.client.close()
        mongo.kill()


def operation_number(row: dict[str, Any]) -> int | None:
    """The number of the change that a row of the history is about; what a snapshot read is about none."""
    match row["operation"]:
        case "insert" | "replace":
            found = json.loads(row["document"]).get("op")
        case "update":
            found = json.loads(row["update"])["updatedFields"].get("op")
        case _:
            return None
    return None if found is None else int(found["$numberInt"])


def test_the_law_short(settings_for: Callable[..., Settings], bigquery: Any, tmp_path: Path) -> None:
    plan = {"capture": 2, "mongo": 1, "run": 1, "bigquery": 1}
    law(settings_for, bigquery, tmp_path, seed=20261124, plan=plan, dagster=False)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [20261125, 20261126, 20261127])
def test_the_law_long(settings_for: Callable[..., Settings], bigquery: Any, tmp_path: Path, seed: int) -> None:
    """108 kills in all."""
    plan = {"capture": 16, "mongo": 10, "run": 6, "bigquery": 4}
    law(settings_for, bigquery, tmp_path, seed=seed, plan=plan, dagster=True)
