import asyncio
import errno
import fcntl
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from obstore.store import MemoryStore

from dataplatform.landing import HourState, Landing, NonDecreasingClock, WriteFailed, Writer, unique_writer_name
from dataplatform.landing import writer as writer_module

HOUR = datetime(2026, 1, 31, 7, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


def lines(landing: Landing, hour: datetime = HOUR) -> list[bytes]:
    return [line for file in landing.files(hour) for line in landing.read(file).splitlines()]


def test_records_are_in_finished_files_after_close(landing: Landing) -> None:
    writer = Writer(landing, name="w")
    places = [writer.append(b"%d" % number, HOUR) for number in range(3)]
    writer.close()
    assert places == [("w-000001", 1), ("w-000001", 2), ("w-000001", 3)]
    assert lines(landing) == [b"0", b"1", b"2"]
    assert writer.pending_bytes == 0


def test_an_open_file_is_not_visible(local: Landing) -> None:
    writer = Writer(local)
    writer.append(b"1", HOUR)
    writer.flush()
    assert local.files(HOUR) == local.close(HOUR).files == ()
    writer.close()
    assert local.state(HOUR) == HourState.REOPENED


def test_every_commit_is_a_finished_object_on_an_object_store() -> None:
    landing = Landing(MemoryStore(), "events", "gs://landing/events")
    writer = Writer(landing, name="w")
    for number in range(3):
        assert writer.append(b"%d" % number, HOUR) == (f"w-{number + 1:06d}", 1)
        writer.flush()
    assert [file.stem for file in landing.files(HOUR)] == ["w-000001", "w-000002", "w-000003"]


def test_a_file_is_finished_by_size_age_and_hour(local: Landing) -> None:
    writer = Writer(local, name="w", rotate_bytes=10, rotate_seconds=0.2)
    writer.append(b"123456789", HOUR)
    writer.append(b"1", HOUR)  # the first one is full
    writer.append(b"1", NEXT)
    writer.flush()
    assert [file.stem for file in local.files(HOUR)] == ["w-000001"]
    time.sleep(0.25)
    writer.rotate()
    assert writer.has_closing
    writer.flush()
    assert [file.stem for hour in (HOUR, NEXT) for file in local.files(hour)] == ["w-000001", "w-000002", "w-000003"]
    assert writer.finished_files == 3
    assert writer.oldest_open_seconds == 0


def test_all_who_wait_share_one_commit(landing: Landing) -> None:
    async def go() -> int:
        writer = Writer(landing, rotate_seconds=60)
        waits = []
        for number in range(1000):
            writer.append(b"%d" % number, HOUR)
            waits.append(writer.commit())
        await asyncio.gather(*waits)
        commits = writer.commits
        writer.append(b"more", HOUR)
        await writer.commit()
        writer.close()
        return commits

    assert asyncio.run(go()) == 1
    assert len(lines(landing)) == 1001


def test_what_is_acknowledged_while_another_commit_runs_is_durable(local: Landing) -> None:
    async def go() -> None:
        writer = Writer(local, rotate_seconds=60)

        async def send(number: int) -> None:
            await asyncio.sleep(number % 7 / 1000)
            writer.append(b"%d" % number, HOUR)
            await writer.commit()
            assert local.folder is not None
            on_disk = b"".join(path.read_bytes() for path in local.folder.rglob("*.open"))
            assert b"%d\n" % number in on_disk

        await asyncio.gather(*(send(number) for number in range(300)))
        assert writer.commits < 300
        writer.close()

    asyncio.run(go())
    assert sorted(map(int, lines(local))) == list(range(300))


def test_a_file_that_fills_up_while_it_is_written_is_finished_after_its_last_byte(
    local: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real = threading.Event(), writer_module.write_all

    def slow(descriptor: int, data: bytes) -> None:
        go_on.wait(5)
        real(descriptor, data)

    monkeypatch.setattr(writer_module, "write_all", slow)

    async def go() -> None:
        writer = Writer(local, name="w", rotate_bytes=10, rotate_seconds=60)
        writer.append(b"first", HOUR)
        first = writer.commit()
        await asyncio.sleep(0.05)
        assert writer.append(b"second", HOUR) == ("w-000001", 2)
        assert writer.append(b"third", HOUR) == ("w-000002", 1)
        second = writer.commit()
        go_on.set()
        await asyncio.gather(first, second)
        writer.close()

    asyncio.run(go())
    assert [local.read(file) for file in local.files(HOUR)] == [b"first\nsecond\n", b"third\n"]


def test_a_full_disk_leaves_nothing_half_written(local: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(local, name="w", rotate_seconds=60)
    writer.append(b"first", HOUR)
    writer.flush()

    def full(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writer_module, "write_all", full)
        writer.append(b"second", HOUR)
        with pytest.raises(WriteFailed, match="No space left on device"):
            writer.flush()
    assert writer.last_failure is not None
    assert lines(local) == [b"first"]
    assert writer.append(b"third", HOUR) == ("w-000002", 1)
    writer.close()
    assert (lines(local), writer.last_failure, writer.pending_bytes) == ([b"first", b"third"], None, 0)


def test_a_full_disk_fails_all_who_wait_and_then_heals(local: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> list[BaseException | None]:
        writer = Writer(local, rotate_seconds=60)
        writer.append(b"zero", HOUR)
        await writer.commit()
        with monkeypatch.context() as patched:

            def full(descriptor: int, data: bytes) -> None:
                time.sleep(0.05)
                os.write(descriptor, data[:3])
                raise OSError(errno.ENOSPC, "No space left on device")

            patched.setattr(writer_module, "write_all", full)
            writer.append(b"one", HOUR)
            first = writer.commit()
            await asyncio.sleep(0.02)
            writer.append(b"two", HOUR)  # for the next commit, but into the file that is being cut back
            second = writer.commit()
            results = await asyncio.gather(first, second, return_exceptions=True)
        writer.append(b"three", HOUR)
        await writer.commit()
        writer.close()
        return results  # type: ignore[return-value]

    assert [type(result) for result in asyncio.run(go())] == [WriteFailed, WriteFailed]
    assert lines(local) == [b"zero", b"three"]


def test_a_file_that_could_not_be_cut_back_is_cut_before_it_is_finished(
    local: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(local, rotate_seconds=60)
    writer.append(b"first", HOUR)
    writer.flush()

    def broken(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:3])
        raise OSError(errno.EIO, "Input/output error")

    def no_truncate(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(writer_module, "write_all", broken)
        patched.setattr(writer_module.os, "ftruncate", no_truncate)
        writer.append(b"second", HOUR)
        with pytest.raises(WriteFailed):
            writer.flush()
    assert lines(local) == []
    writer.flush()
    assert lines(local) == [b"first"]


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 60))])
def test_whatever_fails_what_is_acknowledged_stands_where_it_was_said_to(
    local: Landing, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    hours = [HOUR, NEXT]

    def failing(name: str, rate: float, before: Callable[..., None] = lambda *_: None) -> None:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            if chance.random() < rate:
                before(*arguments)
                raise OSError(errno.EIO, f"{name} fails")
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    real_write = os.write
    failing("write", 0.1, lambda descriptor, data: real_write(descriptor, bytes(data[: chance.randrange(len(data))])))
    failing("fdatasync", 0.05)
    failing("fsync", 0.03)
    failing("ftruncate", 0.3)
    acknowledged: dict[tuple[datetime, str, int], bytes] = {}

    async def go() -> None:
        writer = Writer(local, rotate_bytes=chance.choice([30, 300, 3000]), rotate_seconds=0.01)

        async def send(sender: int) -> None:
            for number in range(40):
                hour, record = chance.choice(hours), b"%d-%d" % (sender, number)
                place = writer.append(record, hour)
                try:
                    await writer.commit()
                except (WriteFailed, OSError):
                    continue
                acknowledged[hour, *place] = record
                if chance.random() < 0.2:
                    writer.rotate()

        await asyncio.gather(*(send(sender) for sender in range(8)))
        monkeypatch.undo()
        writer.close()
        assert writer.pending_bytes == 0

    asyncio.run(go())
    assert len(acknowledged) > 20
    local.finish_dead()
    stored = {
        (hour, file.stem, number): line
        for hour in hours
        for file in local.files(hour)
        for number, line in enumerate(local.read(file).split(b"\n")[:-1], 1)
    }
    assert acknowledged.items() <= stored.items()
    assert all(local.read(file).endswith(b"\n") for hour in hours for file in local.files(hour))
    assert all(re.fullmatch(rb"\d+-\d+", line) for line in stored.values())


CRASH = """
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from obstore.store import LocalStore
from dataplatform.landing import Landing, Writer
root = Path(sys.argv[1])
writer = Writer(Landing(LocalStore(root), "events", "gs://landing/events", root), name="dead", rotate_seconds=0.02)
number = 0
while True:
    for _ in range(100):
        writer.append(b"%d" % number + b" " * (number % 300), datetime.fromisoformat("2026-01-31T07:00:00Z"))
        number += 1
    writer.flush()
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [100, 700, 3000, 9000])
def test_kill_9_loses_nothing_acknowledged(local: Landing, acknowledged: int) -> None:
    assert local.root is not None
    process = subprocess.Popen([sys.executable, "-c", CRASH, str(local.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = 0
    while seen < acknowledged:
        seen = int(process.stdout.readline())
    process.kill()
    seen = max([seen, *(int(line) for line in process.stdout.read().split("\n")[:-1] if line)])
    process.wait()
    local.settle(NEXT, timeout_seconds=5)
    numbers = [int(line) for line in lines(local)]
    assert numbers[:seen] == list(range(seen))
    assert numbers == list(range(len(numbers)))
    assert local.folder is not None
    assert not list(local.folder.rglob("*.open"))


def test_the_torn_last_line_of_a_dead_writer_is_cut(local: Landing) -> None:
    assert local.folder is not None
    folder = local.folder / "2026-01-31/07"
    folder.mkdir(parents=True)
    (folder / "dead-000001.ndjson.open").write_bytes(b'{"a":1}\n' * 20_000 + b'{"a":')
    (folder / "dead-000002.ndjson.open").write_bytes(b"x" * 200_000)
    (folder / "dead-000003.ndjson.open").write_bytes(b"")
    local.settle(NEXT, timeout_seconds=1)
    assert [file.stem for file in local.files(HOUR)] == ["dead-000001"]
    assert local.read(local.files(HOUR)[0]) == b'{"a":1}\n' * 20_000
    assert [path.name for path in folder.iterdir()] == ["dead-000001.ndjson"]


def test_a_starting_writer_finishes_what_the_dead_left_but_not_what_the_living_hold(local: Landing) -> None:
    assert local.folder is not None
    living = Writer(local, name="living", rotate_seconds=60)
    living.append(b"1", HOUR)
    living.flush()
    (local.folder / "2026-01-31/07/dead-000001.ndjson.open").write_bytes(b"1\n2")
    local.finish_dead()
    assert [file.stem for file in local.files(HOUR)] == ["dead-000001"]
    living.append(b"2", HOUR)
    living.close()
    assert len(local.files(HOUR)) == 2


def test_a_file_that_is_taken_for_a_dead_writers_before_it_is_locked_is_opened_again(
    local: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, taken = fcntl.flock, []

    def flock_after_another(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(descriptor)
            assert local.finish_dead() == 1
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_another)
    writer = Writer(local)
    writer.append(b"1", HOUR)
    writer.flush()
    assert taken
    writer.close()
    assert lines(local) == [b"1"]


def test_readers_listing_while_files_are_finished_see_no_half_file(local: Landing) -> None:
    writer = Writer(local, rotate_seconds=60, rotate_bytes=1)
    for number in range(200):
        writer.append(b"%d" % number, HOUR)
        if number % 3 == 0:
            writer.flush()
        assert all(local.read(file).endswith(b"\n") for file in local.close(HOUR).files[-3:])
    writer.close()
    assert len(lines(local)) == 200


def test_the_hour_of_a_clock_jump(local: Landing) -> None:
    times = iter([7.5, 7.6, 9.5, 7.7, 9.6])
    clock = NonDecreasingClock(
        lambda: int((HOUR - timedelta(hours=7) + timedelta(hours=next(times))).timestamp()) * 10**9
    )
    writer = Writer(local, rotate_seconds=60)
    stamps = []
    for number in range(5):
        stamps.append(clock())
        writer.append(b"%d" % number, stamps[-1])
    writer.close()
    assert stamps == sorted(stamps)
    assert stamps[3] == stamps[2]
    assert lines(local, HOUR) == [b"0", b"1"]
    assert lines(local, HOUR + timedelta(hours=2)) == [b"2", b"3", b"4"]
    assert local.hours() == [HOUR, HOUR + timedelta(hours=2)]
    assert local.close(NEXT).files == ()


def test_the_clock_gives_microseconds_and_never_goes_back() -> None:
    clock = NonDecreasingClock(
        iter([1_500_000_000_123_456_789, 1_000_000_000_000_000_000, 1_500_000_000_123_457_000]).__next__
    )
    assert [clock.microseconds() for _ in range(3)] == [
        1_500_000_000_123_456,
        1_500_000_000_123_456,
        1_500_000_000_123_457,
    ]


def test_writers_have_names_of_their_own() -> None:
    assert len({unique_writer_name("c") for _ in range(1000)}) == 1000


def test_a_writers_name_must_be_a_file_name(landing: Landing) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Writer(landing, name="a/b")
