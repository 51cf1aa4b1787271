import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dataplatform.errors import PlatformError
from dataplatform.landing import HourState, LandedFile, Landing, Writer, hour_of, open_landing
from dataplatform.settings import Settings

HOUR = datetime(2026, 1, 31, 7, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


def test_an_hour_is_open_closed_reopened_closed(landing: Landing) -> None:
    landing.put(HOUR, "w-000001.ndjson", b"1\n")
    assert landing.hours() == [HOUR]
    assert (landing.manifest(HOUR), landing.state(HOUR)) == (None, HourState.OPEN)
    manifest = landing.close(HOUR)
    assert manifest.files == (LandedFile("2026-01-31/07/w-000001.ndjson", 2),)
    assert landing.state(HOUR) == HourState.CLOSED
    landing.put(HOUR, "late-000001.ndjson", b"22\n")
    assert landing.state(HOUR) == HourState.REOPENED
    assert landing.states() == {HOUR: HourState.REOPENED}
    again = landing.close(HOUR)
    assert [file.stem for file in again.files] == ["late-000001", "w-000001"]
    assert again.digest != manifest.digest
    assert landing.states() == {HOUR: HourState.CLOSED}
    assert again.files[0].uri(landing) == "gs://landing/events/2026-01-31/07/late-000001.ndjson"
    assert again.size == 5


def test_closing_again_changes_nothing(landing: Landing, another: Callable[[Landing], Landing]) -> None:
    landing.put(HOUR, "w-000001.ndjson", b"1\n")
    manifest = landing.close(HOUR)
    assert another(landing).close(HOUR) == manifest == landing.manifest(HOUR)


def test_an_empty_hour_gets_an_empty_manifest(landing: Landing) -> None:
    manifest = landing.close(HOUR)
    assert (manifest.files, landing.hours(), landing.state(HOUR)) == ((), [HOUR], HourState.CLOSED)
    assert landing.close(NEXT).digest == manifest.digest


def test_the_same_files_have_the_same_digest_whatever_their_order(landing: Landing) -> None:
    for name in ("b.ndjson", "a.ndjson"):
        landing.put(HOUR, name, b"1\n")
    first = landing.close(HOUR)
    assert [file.file_name for file in first.files] == ["a.ndjson", "b.ndjson"]


def test_a_landed_file_is_never_replaced(landing: Landing) -> None:
    file = landing.put(HOUR, "w-000001.ndjson", b"1\n")
    with pytest.raises(FileExistsError):
        landing.put(HOUR, "w-000001.ndjson", b"2\n")
    assert landing.read(file) == b"1\n"


@pytest.mark.parametrize("name", ["manifest.json", "../x.ndjson", "a/b.ndjson", ".x", "x.open", "x.part", "x#1", ""])
def test_a_name_that_readers_would_not_see_is_refused(landing: Landing, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        landing.put(HOUR, name, b"")


def test_other_extensions_are_files_too(landing: Landing) -> None:
    for name in ("a.ndjson.zst", "b.ndjson.gz", "c.parquet"):
        landing.put(HOUR, name, b"x")
    assert [file.stem for file in landing.close(HOUR).files] == ["a", "b", "c"]


def test_states_of_many_hours_by_one_listing(landing: Landing) -> None:
    hours = [HOUR + timedelta(hours=number) for number in range(50)]
    for hour in hours:
        landing.put(hour, "w-000001.ndjson", b"1\n")
        landing.close(hour)
    landing.put(hours[7], "w-000002.ndjson", b"1\n")
    landing.put(hours[-1] + timedelta(hours=1), "w-000001.ndjson", b"1\n")
    states = landing.states()
    assert [hour for hour, state in states.items() if state is HourState.REOPENED] == [hours[7]]
    assert [hour for hour, state in states.items() if state is HourState.OPEN] == [hours[-1] + timedelta(hours=1)]
    assert list(landing.states(since=hours[40])) == [*hours[40:], hours[-1] + timedelta(hours=1)]


def test_what_else_lies_in_the_folder_is_no_hour_and_no_file(local: Landing) -> None:
    assert local.folder is not None
    local.put(HOUR, "w-000001.ndjson", b"1\n")
    for path in ("README", "2026-01-31/notes.txt", "2026-01-31/99/x.ndjson", "2026-13-01/00/x.ndjson"):
        (local.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (local.folder / path).write_text("x")
    for name in ("w-000002.ndjson.open", ".hidden", "x.ndjson.a1.part", "_SUCCESS"):
        (local.folder / "2026-01-31/07" / name).write_text("x")
    assert local.hours() == [HOUR]
    assert [file.stem for file in local.close(HOUR).files] == ["w-000001"]
    assert list(local.states()) == [HOUR]


def test_many_closers_and_late_files_never_lose_a_file(landing: Landing, another: Callable[[Landing], Landing]) -> None:
    digests: list[int] = []
    stop = threading.Event()

    def close() -> None:
        mine = another(landing)
        while not stop.is_set():
            digests.append(len(mine.close(HOUR).files))

    with ThreadPoolExecutor(4) as pool:
        closers = [pool.submit(close) for _ in range(4)]
        for number in range(60):
            landing.put(HOUR, f"w-{number:06d}.ndjson", b"1\n")
        stop.set()
    for closer in closers:
        closer.result()
    assert landing.close(HOUR).files == landing.files(HOUR)
    assert len(landing.files(HOUR)) == 60


def test_a_broken_manifest_says_where_and_what_to_do(landing: Landing) -> None:
    landing.conditional("2026-01-31/07/manifest.json").write(b"{", None)
    with pytest.raises(PlatformError, match=r"events/2026-01-31/07/manifest.json.*not a manifest(.|\n)*close the hour"):
        landing.close(HOUR)


def test_an_hour_that_is_closed_while_a_writer_still_holds_a_file_for_it(local: Landing) -> None:
    writer = Writer(local, rotate_seconds=3600)
    writer.append(b'{"a":1}', HOUR)
    writer.flush()
    with pytest.raises(PlatformError, match="a writer still holds 1 open file"):
        local.settle(NEXT, timeout_seconds=0.1)
    assert local.close(HOUR).files == ()
    local.settle(HOUR, timeout_seconds=0.1)  # an earlier hour does not wait for it
    threading.Timer(0.2, writer.close).start()
    local.settle(NEXT, timeout_seconds=5)
    assert local.state(HOUR) == HourState.REOPENED
    assert local.read(local.close(HOUR).files[0]) == b'{"a":1}\n'


def test_settle_waits_for_the_last_moment_of_the_hour(landing: Landing) -> None:
    now = datetime.now(UTC)
    landing.settle(now)
    assert (datetime.now(UTC) - now).total_seconds() >= 0.9


def test_hours_are_utc_hours(landing: Landing) -> None:
    assert hour_of(datetime.fromisoformat("2026-01-31T09:59:59.999999+02:00")) == HOUR
    with pytest.raises(ValueError, match="no time zone"):
        hour_of(datetime(2026, 1, 31))  # noqa: DTZ001
    with pytest.raises(ValueError, match="not the start of an hour"):
        landing.close(HOUR + timedelta(minutes=1))


def test_the_settings_name_the_landing(tmp_path: Path) -> None:
    landing = open_landing(Settings(data_dir=tmp_path), "events")
    landing.put(HOUR, "w-000001.ndjson", b"1\n")
    assert (tmp_path / "gcs/landing/events/2026-01-31/07/w-000001.ndjson").read_bytes() == b"1\n"
    assert landing.close(HOUR).files[0].uri(landing) == "gs://landing/events/2026-01-31/07/w-000001.ndjson"
