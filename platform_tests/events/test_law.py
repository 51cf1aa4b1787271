"""The law: the tables are a function of the landed files and the contracts alone.

Random events land on time and late, in several files, with ids that come again within hours and beyond the look-back; hours are
materialised in any order, in part, again, with a crash in the middle; contracts change. At the end, when nothing is due, every
table equals the model.
"""

import contextlib
import random
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from law_model import random_payload
from small_project import CLICK, HOUR, Project
from small_project import START as MIDNIGHT

from dataplatform.due import Due
from dataplatform.events import sql
from dataplatform.events.hours import DUPLICATES, LANDING, LEDGER, RECEIVED, REJECTED, asset_of
from dataplatform.warehouse.client import Typed

LOOKBACK = 5
HOURS = 9
START = MIDNIGHT + timedelta(hours=20)
"""So that the hours belong to two days."""


class Crash(Exception):
    """Stands for a process that ends between two statements."""


def crash_after(steps: int) -> Any:
    """A log that ends the work at its n-th line."""
    left = [steps]

    def log(line: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash(line)

    return log


def land_some(project: Project, rng: random.Random, ids: list[str]) -> None:
    """One file for a random hour, some of whose ids were seen before."""
    hour = START + rng.randrange(HOURS) * HOUR
    payloads = []
    for _ in range(rng.randint(1, 25)):
        if ids and rng.random() < 0.35:
            event_id = rng.choice(ids)
        else:
            event_id = f"id-{len(ids)}"
            ids.append(event_id)
        payload = random_payload(project.contracts.events, rng, event_id=event_id, unknown=["no_such_event"])
        payloads.append(payload)
        if rng.random() < 0.15:
            payloads.append(payload)
    project.land(hour, payloads, spread=lambda _: rng.choice([0.0, 3599.999999, round(rng.uniform(0, 3599), 6)]))


def materialise_some(project: Project, rng: random.Random) -> None:
    """A random part of a random range, sometimes with a crash."""
    stream = project.stream
    start = START + rng.randrange(HOURS) * HOUR
    end = min(start + rng.randint(1, 3) * HOUR, START + HOURS * HOUR)
    everything = [*map(asset_of, stream.contracts), LANDING, RECEIVED, DUPLICATES, REJECTED, LEDGER]
    wanted = everything if rng.random() < 0.4 else [LANDING, *rng.sample(everything, rng.randint(1, 4))]
    with contextlib.suppress(Crash):
        stream.materialise(
            wanted, start, end, log=crash_after(rng.randint(0, 3)) if rng.random() < 0.4 else lambda _: None
        )


def asked_of_all(project: Project) -> list[Due]:
    """What is due, by asking about every hour there is."""
    stream = project.stream
    end = START + HOURS * HOUR
    closed = {hour: manifest for hour, manifest in stream.landing.manifests(START).items() if hour < end}
    parameters = {
        "start": START,
        "end": end,
        "lookback_hours": LOOKBACK,
        "landing": Typed(
            "ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>",
            [{"hour": hour, "digest": manifest.digest} for hour, manifest in closed.items()],
        ),
    }
    statement = sql.due_statement(stream.contracts.values(), stream.tables)
    return stream.plan(stream.warehouse.query(statement, parameters).rows, closed)


def due(project: Project) -> list[Due]:
    """What is due, by asking about the days that can differ from the look before: the same as by asking about all."""
    found = project.stream.due(START + HOURS * HOUR, whole=False)
    assert found == asked_of_all(project)
    return found


def settle(project: Project, rng: random.Random) -> None:
    """Everything that is due, until nothing is; in the order of time or not."""
    stream = project.stream
    end = START + HOURS * HOUR
    stream.close(end)
    for _ in range(6):
        pieces = due(project)
        if not pieces:
            return
        rng.shuffle(pieces)
        for piece in pieces:
            assert piece.start is not None
            assert piece.end is not None
            stream.materialise(piece.assets, piece.start, piece.end)
    raise AssertionError(f"still due: {due(project)}")


def run(project: Project, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    ids: list[str] = []
    for step in range(steps):
        land_some(project, rng, ids)
        if rng.random() < 0.5:
            materialise_some(project, rng)
            if project.hours():
                due(project)
        if step == steps // 2:
            wider = (
                CLICK.replace("  - {name: place", "  - {name: unheard_of, type: JSON}\n  - {name: place")
                + 'version: "1.1"\n'
            )
            project.write("events/shop/click_item_shop.yaml", wider)
        if step == steps - 2:
            settle(project, rng)
    settle(project, rng)
    project.check()


@pytest.fixture
def project(settings_for: Any, tmp_path: Path) -> Project:
    return Project(settings_for(lookback_hours=LOOKBACK, first_hour=START), tmp_path)


@pytest.mark.parametrize("seed", [2])
def test_any_order_ends_in_the_same_tables(project: Project, seed: int) -> None:
    run(project, seed, steps=4)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 120))
def test_any_order_at_length(project: Project, seed: int) -> None:
    run(project, seed, steps=14)
