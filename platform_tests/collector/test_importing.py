"""`dataplatform events import` and `validate`, as commands on real files."""

import gc
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore

from dataplatform.errors import PlatformError
from dataplatform.events.importing import events_in, moment_of, take_in
from dataplatform.events.verdict import Judge
from dataplatform.landing import Landing, Writer
from platform_tests.collector.conftest import event, write_contracts

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    schemas = write_contracts(tmp_path / "schemas")

    def run_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("dataplatform")), "events", *arguments],
            env=os.environ
            | {"DATAPLATFORM_DATA_DIR": str(tmp_path / "data"), "DATAPLATFORM_SCHEMAS_DIR": str(schemas)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run_it


def landed(tmp_path: Path) -> list[dict[str, Any]]:
    root = tmp_path / "data" / "gcs" / "landing"
    landing = Landing(LocalStore(root, mkdir=True), "events", "gs://landing/events", root)
    return [
        json.loads(line)
        for hour in landing.hours()
        for file in landing.files(hour)
        for line in landing.read(file).splitlines()
    ]


LINES = [
    json.dumps(event("a")),
    json.dumps(event("b", params={"place": -1})),
    "no json {",
    json.dumps(event("a")),
    json.dumps(event("c", event="unknown_thing_here")),
]


@pytest.mark.parametrize("form", ["lines", "array", "lines.gz", "array.gz", "bom", "crlf", "pretty"])
def test_import_lands_every_event_whatever_the_verdict(run: Run, tmp_path: Path, form: str) -> None:
    good = [line for line in LINES if line.startswith("{")]
    text = (f"[\n{','.join(good)}\n]" if form.startswith("array") else "\n".join([*LINES, "", ""])).encode()
    if form == "pretty":
        good = [json.dumps(json.loads(line), indent=2) for line in good]
        text = "\n".join(good).encode()
    if form == "bom":
        text = b"\xef\xbb\xbf" + text
    if form == "crlf":
        text = text.replace(b"\n", b"\r\n")
    file = tmp_path / "events.data"
    file.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    done = run("import", str(file), "--source", "old-system")
    assert (done.returncode, done.stderr) == (0, "")
    expected = good if form.startswith("array") or form == "pretty" else LINES
    records = landed(tmp_path)
    assert [record["payload"] for record in records] == expected
    assert [record["line"] for record in records] == list(range(1, len(expected) + 1))
    assert {record["source"] for record in records} == {"old-system"}
    assert f"landed {len(expected)} events: 2 accepted" in done.stdout
    assert "1 repeat an event_id" in done.stdout
    assert "too_small" in done.stdout
    assert not list((tmp_path / "data").rglob("*.open"))


def test_validate_writes_nothing_and_says_where(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(LINES))
    done = run("validate", str(file))
    assert done.returncode == 1
    assert "5 events: 2 accepted, 3 refused" in done.stdout
    rows = {tuple(line.split()[1:3]) for line in done.stdout.splitlines() if ":2:" in line or ":5:" in line}
    assert rows == {
        ("like_item_shop", "missing"),
        ("like_item_shop", "too_small"),
        ("unknown_thing_here", "unknown_event"),
    }
    assert not (tmp_path / "data").exists()
    file.write_text(LINES[0])
    assert run("validate", str(file)).returncode == 0
    file.write_text("\n")
    empty = run("validate", str(file))
    assert (empty.returncode, empty.stdout) == (0, "0 events: 0 accepted, 0 refused\n")
    file.write_text(f"{LINES[0]}\n{LINES[0]}\n[")
    file.write_bytes(gzip.compress(file.read_bytes() * 1000)[:-20])
    broken = run("validate", str(file))
    assert broken.returncode == 1
    assert f"{file}, after {file}:" in broken.stderr
    assert "Traceback" not in broken.stderr


def test_many_events_come_in_chunks_with_times_that_never_go_back(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson.gz"
    with gzip.open(file, "wt") as stream:
        stream.writelines(f"{json.dumps(event(f'many-{number}'))}\n" for number in range(5001))
    assert run("import", str(file)).returncode == 0
    records = landed(tmp_path)
    assert [record["event_id"] for record in records] == [f"many-{number}" for number in range(5001)]
    times = [record["received_at"] for record in records]
    assert times == sorted(times)


def test_a_file_that_breaks_off_keeps_what_was_read_and_says_so(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson.gz"
    whole = gzip.compress("\n".join(json.dumps(event(f"cut-{number}")) for number in range(20_000)).encode(), 1)
    file.write_bytes(whole[: len(whole) * 3 // 4])
    done = run("import", str(file))
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert 0 < len(landed(tmp_path)) < 20_000


def test_a_contract_that_is_broken_stops_an_import_before_it_begins(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(LINES[0])
    (tmp_path / "schemas" / "events" / "shop" / "like_item_shop.yaml").write_text("params: [")
    done = run("import", str(file))
    assert done.returncode == 1
    assert "like_item_shop.yaml" in done.stderr
    assert not (tmp_path / "data").exists()


def test_replay_needs_a_time_that_is_one(run: Run) -> None:
    done = run("replay", "--event", "like_item_shop", "--since", "yesterday")
    assert done.returncode == 2
    assert "no time such as" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[1, 2]", [b"1", b"2"]),
        (b"  [1]\n", [b"1"]),
        (b'[1]\n{"a":1}\n', [b"[1]", b'{"a":1}']),
        (b" [1]\n\n[2]", [b"[1]", b"[2]"]),
        (b"[\n]\n", []),
        (b'\xef\xbb\xbf[{"a":1}]', [b'{"a":1}']),
        (b"", []),
        (b"\n\n", []),
        (b'{"a":1}', [b'{"a":1}']),
        (b"\xff\n1", [b"\xff", b"1"]),
        (b'{"\xff":1}\n{"a":"\xff"}\n', [b'{"\xff":1}', b'{"a":"\xff"}']),
        # Events over several lines, one after the other, and among lines.
        (b'{\n "a": 1\n}\n{\n "a": 2\n}', [b'{\n "a": 1\n}', b'{\n "a": 2\n}']),
        (b'{"b":1}\r\n{\r\n"a": [\r\n {"x":"}"}\r\n]\r\n}\r\n', [b'{"b":1}', b'{\r\n"a": [\r\n {"x":"}"}\r\n]\r\n}']),
        (b'{\n"a": "\\"{",\n"b": [{\n}]}\n{"b":1}', [b'{\n"a": "\\"{",\n"b": [{\n}]}', b'{"b":1}']),
        (b'{\n "a": 1,\n}\n{"b":1}', [b'{\n "a": 1,\n}', b'{"b":1}']),
        (b'{"b":1}\n{\n "a": 1,\n', [b'{"b":1}', b'{\n "a": 1,']),
        (b'{"a":\nno json\n{"b":1}\n', [b'{"a":', b"no json", b'{"b":1}']),
        (b'{"a":1}{"b":2}\n{"a":tru}', [b'{"a":1}{"b":2}', b'{"a":tru}']),
    ],
)
def test_what_a_file_holds(tmp_path: Path, text: bytes, expected: list[bytes]) -> None:
    file = tmp_path / "x"
    file.write_bytes(text)
    assert [raw for _, raw in events_in(file)] == expected


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be read"):
        list(events_in(tmp_path))


PACKED = gzip.compress(b'{"a":1}\n' * 100_000, mtime=0)


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        (b"[1,\n 2", ":2", "the array is no JSON: Input data was truncated"),
        (b'[{"a":1},\n{"a":2}\n{"a":3}]', ":3", "the array is no JSON: "),
        (b"[1]x", ":1", "the array is no JSON: "),
        (gzip.compress(b"[1,\n 2", mtime=0), ":2", "the array is no JSON: "),
        (PACKED[: len(PACKED) // 2], ", after {file}:", "end-of-stream marker"),
        (PACKED[:-8], ", after {file}:100000", "end-of-stream marker"),
        (PACKED[:-8] + b"12345678", ", after {file}:100000", "CRC check failed"),
        (PACKED[:5], "", "end-of-stream marker"),
        ('{"a":1}\n'.encode("utf-16"), "", "it is UTF-16"),
        (b"PK\x03\x04...", "", "it is a zip archive"),
        (b'{"a":1}\n{"a":"' + b"x" * (4 << 20) + b'"}', ":2", "a line of more than 4,194,304 bytes"),
        (gzip.compress(b"x" * (40 << 20), mtime=0), ":1", "a line of more than"),
        (b'[1,{"a":"' + b"x" * (4 << 20) + b'"}]', "[1]", "an event of 4,194,312 bytes"),
    ],
)
def test_what_is_refused_is_told_with_its_place(tmp_path: Path, data: bytes, place: str, reason: str) -> None:
    file = tmp_path / "x"
    file.write_bytes(data)
    with pytest.raises(PlatformError) as raised:
        list(events_in(file))
    assert raised.value.where.startswith(f"{file}{place.format(file=file)}")
    assert reason in raised.value.message


def test_a_large_event_over_several_lines_that_never_ends_is_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "x"
    lines = [b'{"a": [', *(b'{"pad": "' + b"x" * 1000 + b'"},' for _ in range(5000))]
    file.write_bytes(b"\n".join(lines))
    assert [raw for _, raw in events_in(file)] == lines


def test_one_event_over_several_lines_is_one_event(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    text = json.dumps(event("e-1"), indent=2)
    file.write_text(f"\n{text}\n")
    assert [raw.decode() for _, raw in events_in(file)] == [text]
    file.write_bytes(gzip.compress(text.encode()))
    assert [raw.decode() for _, raw in events_in(file)] == [text]


def test_a_first_line_that_is_no_json_is_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "lines.ndjson"
    lines = ['{"broken":', *(json.dumps({"number": number, "pad": "x" * 1000}) for number in range(5000))]
    file.write_text("\n" + "\n".join(lines))
    assert list(events_in(file)) == [(f"{file}:{at}", line.encode()) for at, line in enumerate(lines, 2)]


def test_the_byte_0_is_landed_as_a_replacement(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "zero.ndjson"
    file.write_bytes(b'{"event":"a\0b"}\n')
    run("import", str(file))
    (record,) = landed(tmp_path)
    assert record["payload"] == '{"event":"a\N{REPLACEMENT CHARACTER}b"}'
    assert [fault["code"] for fault in record["faults"]] == ["not_json"]


def test_nothing_of_what_was_landed_is_kept_in_memory(tmp_path: Path) -> None:
    writer = Writer(Landing(LocalStore(tmp_path, mkdir=True), "events", "gs://landing/events", tmp_path))
    raws, moment, judge = [b'{"event_id":"1"}'] * 10, moment_of(datetime.now(UTC)), Judge({})
    blocks = []
    for _ in range(2):
        for _ in range(100):
            take_in(raws, "local", moment, judge, writer)
            writer.flush()
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    writer.close()
    assert blocks[1] - blocks[0] < 100
