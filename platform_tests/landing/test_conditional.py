from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplatform.landing import Conflict, Landing


def test_a_file_is_created_once(landing: Landing) -> None:
    file = landing.conditional("position.json")
    assert file.read() is None
    version = file.write(b"1", None)
    assert file.read() == (b"1", version)
    with pytest.raises(Conflict):
        file.write(b"2", None)


def test_what_was_read_must_still_be_there(landing: Landing) -> None:
    file = landing.conditional("position.json")
    first = file.write(b"1", None)
    second = file.write(b"2", first)
    with pytest.raises(Conflict):
        file.write(b"3", first)
    assert file.read() == (b"2", second)
    file.write(b"3", second)


def test_a_write_whose_answer_was_lost_may_be_sent_again(landing: Landing) -> None:
    file = landing.conditional("position.json")
    first = file.write(b"1", None)
    file.write(b"2", first)
    file.write(b"2", first)
    assert file.read() is not None


def test_a_file_that_was_removed_is_a_conflict(landing: Landing) -> None:
    file = landing.conditional("position.json")
    with pytest.raises(Conflict):
        file.write(b"2", '{"e_tag": "\\"99\\""}')


def test_increments_from_many_sides_are_all_counted(landing: Landing, another: Callable[[Landing], Landing]) -> None:
    def increment(_: int) -> int:
        file, conflicts = another(landing).conditional("a/b/counter"), 0
        while True:
            present = file.read()
            # The writer's own mark: equal bytes of two writers would count as one write.
            number = 0 if present is None else int(present[0].split()[0])
            try:
                file.write(f"{number + 1} {id(file)}".encode(), None if present is None else present[1])
            except Conflict:
                conflicts += 1
            else:
                return conflicts

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(80)))
    present = landing.conditional("a/b/counter").read()
    assert present is not None
    assert present[0].split()[0] == b"80"
