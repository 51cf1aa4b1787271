"""A laboratory for the tests: a database of its own on the real server, its contracts, captures as threads or processes, and the
comparison of what came out with the source."""

import gzip
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from typed_model import model_one, normal

from dataplatform.cdc.changes import Change, decode, fold
from dataplatform.cdc.connections import connect
from dataplatform.cdc.extended_json import CODEC, canonical
from dataplatform.cdc.hours import Applied, CollectionHours
from dataplatform.cdc.names import table_name
from dataplatform.cdc.service import capture_once
from dataplatform.cdc.state import PositionFile, Unit, UnitState
from dataplatform.contracts.collections import CollectionContract, load_collections_leniently
from dataplatform.landing import LandedFile
from dataplatform.settings import Settings

HOUR = timedelta(hours=1)


class Lab:
    """One database with a name of its own, and a project that captures it."""

    def __init__(self, settings: Settings, uri: str) -> None:
        self.settings = settings
        self.uri = uri
        self.database = f"lab{uuid.uuid4().hex[:8]}"
        self.client: MongoClient[dict[str, Any]] = connect(settings, "lab")
        self.db = self.client.get_database(self.database, codec_options=CODEC)
        self.unit = Unit("lab")
        (settings.schemas_dir / "collections").mkdir(parents=True, exist_ok=True)

    def contract(self, collection: str, text: str = "") -> CollectionContract:
        """Write a contract of a collection of the database."""
        name = f"{self.database}.{collection}"
        file = self.settings.schemas_dir / "collections" / f"{name}.yaml"
        file.write_text(
            f"connection: lab\ndatabase: {self.database}\ncollection: {collection}\nowner: team\ndescription: A test.\n{text}"
        )
        contracts, problems = load_collections_leniently(self.settings.schemas_dir)
        assert not problems, problems
        return contracts.contracts[name]

    @property
    def contracts(self) -> dict[str, CollectionContract]:
        return dict(load_collections_leniently(self.settings.schemas_dir)[0].contracts)

    @property
    def state(self) -> UnitState:
        return PositionFile(self.settings, self.unit).read()

    def hours(self) -> CollectionHours:
        return CollectionHours(self.settings, self.contracts)

    # Work.

    def capture(self, **options: Any) -> UnitState:
        """`cdc capture --once`, in this process."""
        return capture_once(self.settings, lambda line: None, connection="lab", **options)["lab"]

    def apply(self) -> list[Applied]:
        """Close and apply what is due, the running hour too."""
        hours = self.hours()
        until = soon()
        hours.close(until)
        done = []
        for due in hours.due(until):
            assert due.start is not None
            assert due.end is not None
            names = {
                name
                for name, one in self.contracts.items()
                if f"mongo/{table_name(one.database, one.collection)}" in due.assets
            }
            done += hours.materialise(names, due.start, due.end)
        for one in done:
            if one.error is not None:
                raise one.error
        return done

    def sync(self) -> list[Applied]:
        """Capture and apply."""
        self.capture()
        return self.apply()

    # What is where.

    def source(self, collection: str) -> dict[str, str]:
        return {canonical(one["_id"]): canonical(one) for one in self.db[collection].find({})}

    def query(self, sql: str, **names: str) -> list[dict[str, Any]]:
        """Rows of a statement; `{raw}`, `{typed}`, `{history}`, `{as_of}` of `collection` are put in."""
        return self.hours().warehouse.query(sql.format(**names)).rows

    def names(self, collection: str) -> dict[str, str]:
        warehouse = self.hours().warehouse
        name = table_name(self.database, collection)
        return {
            "raw": warehouse.table_id("mongo_raw", name),
            "typed": warehouse.table_id("mongo", name),
            "history": warehouse.table_id("mongo_raw", f"{name}__changes"),
            "as_of": warehouse.table_id("mongo_raw", f"{name}__as_of"),
            "steps": warehouse.table_id("mongo_raw", "schema_changes"),
        }

    def table(self, collection: str) -> dict[str, str]:
        rows = self.query("SELECT _id, document FROM `{raw}` WHERE NOT deleted", **self.names(collection))
        return {row["_id"]: row["document"] for row in rows}

    def typed(self, collection: str) -> dict[str, dict[str, Any]]:
        rows = self.query("SELECT * FROM `{typed}` WHERE NOT _deleted", **self.names(collection))
        return {row["_id"]: row for row in rows}

    def history(self, collection: str) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM `{history}` ORDER BY position, _id", **self.names(collection))

    def steps(self, collection: str) -> list[tuple[str, str, str, str]]:
        rows = self.query(
            "SELECT path, step, before, after FROM `{steps}` WHERE collection = '{collection}' ORDER BY path, step",
            collection=f"{self.database}.{collection}",
            **self.names(collection),
        )
        return [(row["path"], row["step"], row["before"], row["after"]) for row in rows]

    def landed(self, collection: str) -> list[Change]:
        """Every landed record of the stream, in the order of the files."""
        landing = self.hours().landings[f"{self.database}.{collection}"]
        return [
            decode(line)
            for hour in landing.states()
            for file in landing.files(hour)
            for line in gzip.decompress(landing.read(file)).splitlines()
        ]

    def assert_landed(self, collection: str) -> None:
        """What was landed, folded, is the source, byte for byte; each change has one position."""
        landing = self.hours().landings[f"{self.database}.{collection}"]
        changes = self.landed(collection)
        barriers = []
        for snapshot in self.state.collections[f"{self.database}.{collection}"].ended:
            for name in snapshot.files:
                changes += [decode(line) for line in gzip.decompress(landing.read(LandedFile(name, 0))).splitlines()]
            if snapshot.sweep and snapshot.position:
                barriers.append(snapshot.position)
        random.shuffle(changes)
        source = self.source(collection)
        table = {key: one.document or "" for key, one in fold(changes, barriers).items() if not one.deleted}
        assert table == source, different(source, table)

    def assert_equal(self, collection: str) -> None:
        """The law: the raw table is the source, byte for byte, and the typed one has every value of it, in a column or left over."""
        source, table = self.source(collection), self.table(collection)
        assert table == source, different(source, table)
        typed, root = self.typed(collection), self.hours().schema_of(f"{self.database}.{collection}")
        assert typed.keys() == source.keys()
        for key, text in source.items():
            left: dict[str, Any] = {}
            expected = model_one(root, json.loads(text), left, ())
            assert normal({node.column: typed[key][node.column] for node in root.fields}) == normal(expected), text
            assert (typed[key]["_unmapped"] or {}) == left, text
        repeated = [
            key for key, n in Counter((h["position"], h["_id"]) for h in self.history(collection)).items() if n > 1
        ]
        assert not repeated

    # Captures of their own.

    def environment(self) -> dict[str, str]:
        """Variables that make a process work on this laboratory."""
        s = self.settings
        return {
            **os.environ,
            "DATAPLATFORM_DATA_DIR": str(s.data_dir),
            "DATAPLATFORM_SCHEMAS_DIR": str(s.schemas_dir),
            "DATAPLATFORM_BUCKET": s.bucket,
            "DATAPLATFORM_DATASET_PREFIX": s.dataset_prefix,
            "DATAPLATFORM_BIGQUERY_ENDPOINT": str(s.bigquery_endpoint),
            "DATAPLATFORM_BIGQUERY_GRPC_ENDPOINT": str(s.bigquery_grpc_endpoint),
            "DATAPLATFORM_FIRST_HOUR": s.first_hour.isoformat(),
            "DATAPLATFORM_CDC_COMMIT_SECONDS": str(s.cdc_commit_seconds),
            "DATAPLATFORM_CONNECTIONS__LAB": self.uri,
            "DAGSTER_HOME": "",
        }

    def process(self, *arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
        """`dataplatform …` as a process of its own."""
        command = [sys.executable, "-c", "from dataplatform.cli import main; main()", *arguments]
        if log is not None:
            with log.open("a") as output:
                return subprocess.Popen(command, env=self.environment(), stdout=output, stderr=output, text=True)
        return subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`dataplatform …` to its end."""
        return subprocess.run(
            [sys.executable, "-c", "from dataplatform.cli import main; main()", *arguments],
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def close(self) -> None:
        """The database stays: dropping one takes seconds, and the server is the session's own."""
        self.client.close()


class Background:
    """A capture in a thread, as a service."""

    def __init__(self, lab: Lab) -> None:
        from dataplatform.cdc.capture import Capture
        from dataplatform.cdc.service import contracts_of

        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.capture = Capture(lab.settings, lab.unit, contracts_of(lab.settings, lambda line: None), stop=self.stop)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.capture.run()
        except BaseException as error:  # looked at by the test
            self.error = error

    def end(self) -> None:
        self.stop.set()
        self.thread.join(timeout=30)
        if self.error is not None:
            raise self.error


def soon() -> datetime:
    """The end of the running hour."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + HOUR


def wait_for(condition: Any, what: str, timeout_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_seconds} s"
        time.sleep(0.05)


def different(source: dict[str, str], table: dict[str, str]) -> str:
    missing = sorted(source.keys() - table.keys())[:5]
    extra = sorted(table.keys() - source.keys())[:5]
    other = [key for key in source.keys() & table.keys() if source[key] != table[key]][:5]
    return f"missing {missing}, extra {extra}, other {[(k, source[k], table[k]) for k in other]}"
