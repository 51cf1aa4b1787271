"""Kill -9 at random: the process that lands events, the BigQuery server, and the run that materialises.

At the end nothing that was acknowledged is missing, nothing is there twice, and every table equals the model of the landed files.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "events"))
sys.path.insert(0, str(Path(__file__).parent))
from law_model import Landed, random_payload
from small_project import HOUR, START, Project
from test_catch_up import environment, start_catch_up

from dataplatform.local.servers import free_ports

HOURS = 3


class Collector:
    """A collector of the project, in a process of its own, that takes received times from the past."""

    def __init__(self, project: Project) -> None:
        self.project = project
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        program = Path(sys.executable).parent / "dataplatform"
        more = {"DATAPLATFORM_COLLECTOR_PORT": str(self.port), "DATAPLATFORM_ACCEPT_RECEIVED_AT": "true"}
        more["DATAPLATFORM_LANDING_ROTATE_SECONDS"] = "0.2"
        log = (self.project.settings.data_dir / "collector.log").open("ab")
        self.process = subprocess.Popen(
            [program, "collector"], env=environment(self.project) | more, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=1).status_code < 500:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError("the collector did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def send(self, payloads: list[str], received_at: datetime) -> bool:
        """One batch; whether it was acknowledged."""
        try:
            answer = httpx.post(
                f"http://127.0.0.1:{self.port}/v1/events",
                content=("[" + ",".join(payloads) + "]").encode(),
                auth=("local", ""),
                headers={
                    "Content-Type": "application/json",
                    "X-Received-At": received_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                },
                timeout=10,
            )
        except httpx.HTTPError:
            return False
        return answer.status_code < 400


def landed_records(project: Project) -> list[Landed]:
    """Every landed record, as the model takes it."""
    landing = project.stream.landing
    found = []
    for hour in landing.hours():
        for file in landing.files(hour):
            for line in landing.read(file).splitlines():
                record = json.loads(line)
                found.append(
                    Landed(
                        datetime.fromisoformat(record["received_at"]).astimezone(UTC),
                        record["source"],
                        record["event"],
                        record["event_id"],
                        record["payload"],
                        tuple((fault["path"], fault["code"], fault["message"]) for fault in record["faults"]),
                        record["file"],
                        record["line"],
                    )
                )
    return found


def chaos(project: Project, bigquery: Any, seed: int, victims: list[str]) -> None:
    rng = random.Random(seed)
    collector = Collector(project)
    acknowledged: set[str] = set()
    ids: list[str] = []
    try:
        for victim in victims:
            for _ in range(rng.randint(1, 5)):
                batch = []
                for _ in range(rng.randint(1, 30)):
                    if not ids or rng.random() < 0.8:
                        ids.append(f"id-{len(ids)}")
                    event_id = ids[-1] if rng.random() < 0.8 else rng.choice(ids)
                    payload = random_payload(
                        project.contracts.events, rng, event_id=event_id, unknown=["no_such_event"]
                    )
                    if json_ok(payload):
                        batch.append(payload)
                if batch and collector.send(
                    batch, START + rng.randrange(HOURS) * HOUR + rng.uniform(1, 3599) * HOUR / 3600
                ):
                    acknowledged.update(batch)
            run = start_catch_up(project, START + HOURS * HOUR)
            time.sleep(rng.uniform(0.0, 6.0))
            if victim == "collector":
                collector.kill()
                collector.start()
            elif victim == "bigquery":
                bigquery.kill()
                bigquery.start()
            else:
                os.kill(run.pid, signal.SIGKILL)
            run.communicate(timeout=200)
    finally:
        if not bigquery.running:
            bigquery.start()
        collector.kill()
    result = project.catch_up(START + HOURS * HOUR)
    assert result.ok, result.lines
    project.records = landed_records(project)
    landed = {record.payload for record in project.records}
    assert acknowledged <= landed, f"{len(acknowledged - landed)} acknowledged events are lost"
    assert len(acknowledged) > 10
    project.check()


def json_ok(payload: str) -> bool:
    """Whether the text can stand in a batch: a batch that is not JSON is refused as a whole."""
    try:
        json.loads(payload)
    except ValueError:
        return False
    return True


@pytest.fixture
def project(settings_for: Any, tmp_path: Path) -> Project:
    return Project(settings_for(first_hour=START, lookback_hours=2), tmp_path)


@pytest.mark.timeout(600)
def test_a_kill_of_each(project: Project, bigquery: Any) -> None:
    chaos(project, bigquery, seed=7, victims=["run", "bigquery", "collector"])


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_fifty_kills(project: Project, bigquery: Any) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "20261124"))
    victims = random.Random(seed).choices(["collector", "bigquery", "run"], k=50)
    chaos(project, bigquery, seed, victims)
