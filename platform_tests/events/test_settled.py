"""The mark of settled days never hides what is due, whoever works, looks or dies in between.

The warehouse is a few dictionaries here, with the rules of `due.sql`; `test_law.py` holds the same of the real one.
"""

import json
import random
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from dataplatform.events.settled import WHOLE_LOOK_EVERY, Look, Settled
from dataplatform.landing import ConditionalFile
from dataplatform.lease import Holder, Lease

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=number) for number in range(4)]
LOOKBACK = timedelta(days=2)
NOW = datetime(2026, 1, 9, tzinfo=UTC)
HELD = json.dumps(asdict(Holder.this("worker"))).encode()


class World:
    """Landed days, a warehouse, one that works on it and two that look at it, each by single steps."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.told: list[str] = []
        store = MemoryStore()
        self.lease = ConditionalFile(store, "lease.json")
        self.settled = Settled(ConditionalFile(store, "settled.json"), Lease(self.lease))
        # All but the last day is landed, judged and settled: what comes disturbs that.
        self.contracts, self.clock = 0, 2
        self.landed = dict.fromkeys(DAYS[:-1], 1)
        self.loads = dict.fromkeys(DAYS[:-1], (1, 1))
        """Day → version of its files, time."""
        self.ledger = dict.fromkeys(DAYS[:-1], (1, 0, 2))
        """Day → version of its files, version of the contracts, time."""
        self.settled.note(self.look(), None)
        self.work: list[tuple[str, date, int, int]] = []
        self.looking: Look | None = None

    def step(self) -> None:
        """Something happens."""
        steps = {
            self.files_land: 1,
            self.contracts_change: 0.3,
            self.one_looks: 3,
            self.the_other_is_done_looking if self.looking else self.the_other_begins_to_look: 3,
            self.the_worker_goes_on if self.work else self.a_worker_begins: 8,
            self.the_worker_dies: 0.5 if self.work else 0,
        }
        (chosen,) = self.rng.choices(list(steps), list(steps.values()))
        self.told.append(chosen.__name__)
        chosen()

    def due(self, start: date | None, landed: dict[date, int], contracts: int) -> list[date]:
        """Days from `start` on (None: none) that are due, by the warehouse as it is now."""
        found = []
        for day, version in landed.items():
            done = self.ledger.get(day)
            if (
                start is not None
                and day >= start
                and (
                    done is None
                    or done[:2] != (version, contracts)
                    or any(day - LOOKBACK <= early < day and at > done[2] for early, (_, at) in self.loads.items())
                )
            ):
                found.append(day)
        return found

    def look(self, *, whole: bool = False) -> Look:
        identities = {day: str(version) for day, version in self.landed.items()}
        return self.settled.look(str(self.contracts), identities, NOW, whole=whole)

    def files_land(self) -> None:
        day = self.rng.choice(DAYS)
        self.landed[day] = self.landed.get(day, 0) + 1

    def contracts_change(self) -> None:
        self.contracts = 1 - self.contracts

    def one_looks(self) -> None:
        look = self.look(whole=self.rng.random() < 0.3)
        found = self.due(look.start, self.landed, self.contracts)
        assert found == self.due(FIRST, self.landed, self.contracts), self.told
        if look.start is not None:
            self.settled.note(look, min(found, default=None))

    def the_other_begins_to_look(self) -> None:
        self.looking, self.seen = self.look(), (dict(self.landed), self.contracts)
        self.found = self.due(self.looking.start, *self.seen)

    def the_other_is_done_looking(self) -> None:
        look, self.looking = self.looking, None
        assert look is not None
        found = self.found if self.rng.random() < 0.5 else self.due(look.start, *self.seen)
        if look.start is not None:
            self.settled.note(look, min(found, default=None))

    def a_worker_begins(self) -> None:
        """By the contracts of now or of before; with what is not loaded in the look-back, as `EventHours` does it."""
        first = self.rng.randrange(len(DAYS))
        days = [day for day in DAYS[first : first + self.rng.randint(1, 3)] if day in self.landed]
        if not days:
            return
        self.hold(HELD)
        self.settled.lower(days[0])
        stale = {
            day
            for day, version in self.landed.items()
            if days[0] - LOOKBACK <= day <= days[-1] and self.loads.get(day, (0, 0))[0] != version
        }
        stale |= set(days) if self.rng.random() < 0.5 else set()
        contracts = self.contracts if self.rng.random() < 0.8 else 1 - self.contracts
        self.work = [("load", day, self.landed[day], contracts) for day in sorted(stale)]
        self.work += [("judge", day, self.landed[day], contracts) for day in days]
        self.started = 0

    def the_worker_goes_on(self) -> None:
        what, day, version, contracts = self.work.pop(0)
        self.clock += 1
        if what == "load":
            self.loads[day] = (version, self.clock)
        else:
            self.started = self.started or self.clock
            self.ledger[day] = (version, contracts, self.started)
        if not self.work:
            self.hold(b"")

    def the_worker_dies(self) -> None:
        self.work = []

    def hold(self, holder: bytes) -> None:
        present = self.lease.read()
        self.lease.write(holder, None if present is None else present[1])


def test_what_is_due_is_found_whoever_works_looks_and_dies() -> None:
    for seed in range(1500):
        world = World(random.Random(seed))
        for _ in range(20):
            world.step()


@pytest.mark.long
def test_what_is_due_is_found_at_length() -> None:
    for seed in range(1000, 50_000):
        world = World(random.Random(seed))
        for _ in range(40):
            world.step()


def quiet() -> Settled:
    store = MemoryStore()
    return Settled(ConditionalFile(store, "settled.json"), Lease(ConditionalFile(store, "lease.json")))


def test_days_are_left_out_until_they_differ_or_a_day_has_passed() -> None:
    settled = quiet()
    days = dict.fromkeys(DAYS, "files")
    settled.note(settled.look("key", days, NOW), DAYS[3])
    assert settled.look("key", days, NOW).start == DAYS[3]
    assert settled.look("key", days | {DAYS[1]: "more"}, NOW).start == DAYS[1]
    assert settled.look("other", days, NOW).start == DAYS[0]
    settled.note(settled.look("key", days, NOW), None)
    assert settled.look("key", days, NOW).start is None
    assert settled.look("key", days, NOW + WHOLE_LOOK_EVERY).start == DAYS[0]
    settled.lower(DAYS[2])
    assert settled.look("key", days, NOW).start == DAYS[2]


def test_a_mark_that_cannot_be_read_leaves_nothing_out() -> None:
    settled = quiet()
    settled._file.write(b"{", None)
    look = settled.look("key", {FIRST: "files"}, NOW)
    assert look.start == FIRST
    settled.note(look, None)
    assert settled.look("key", {FIRST: "files"}, NOW).start is None


def test_work_that_took_nothing_off_is_noticed_all_the_same(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    lease = Lease(ConditionalFile(store, "lease.json", tmp_path))
    settled = Settled(ConditionalFile(store, "settled.json", tmp_path), lease)
    settled.lower(FIRST)
    look = settled.look("key", {FIRST: "files"}, NOW)
    settled.lower(FIRST)
    settled.note(look, None)
    assert settled.look("key", {FIRST: "files"}, NOW).start == FIRST
