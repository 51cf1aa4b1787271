"""Debezium's and Flink CDC's envelopes, from cases as data, read in their order by one reader."""

import gzip
import json
from pathlib import Path

import pytest

from dataplatform.cdc.envelopes import EnvelopeError, EnvelopeReader, import_envelopes
from dataplatform.cdc.hours import CollectionHours
from dataplatform.cdc.state import PositionFile, Unit
from dataplatform.contracts.collections import load_collections
from dataplatform.errors import PlatformError
from dataplatform.local.servers import CHECKOUT
from dataplatform.settings import Settings

CASES = json.loads((Path(__file__).parent / "cases" / "envelopes.json").read_text())


def test_envelopes_become_our_records() -> None:
    reader = EnvelopeReader("2026-11-24T08:00:00.000Z")
    for case in CASES:
        if "error" in case:
            continue
        found = list(reader.read([json.dumps(case["message"]).encode(), b"", b"null"]))
        if case["record"] is None:
            assert found == [], case["name"]
            continue
        (one,) = found
        record = json.loads(one.line)
        assert one.namespace == case["namespace"], case["name"]
        assert {key: record.get(key) for key in case["record"]} == case["record"], case["name"]


@pytest.mark.parametrize("case", [case for case in CASES if "error" in case], ids=lambda case: case["name"])
def test_what_is_no_envelope_is_named_with_its_place(case: dict[str, object]) -> None:
    with pytest.raises(EnvelopeError, match=str(case["error"])) as caught:
        list(EnvelopeReader("x").read([b"", json.dumps(case["message"]).encode()], where="topic.ndjson"))
    assert caught.value.where == "topic.ndjson:2"
    for line in (b"{", b"\x1f\x8b\x08\x00", b"[" * 100_000):
        with pytest.raises(EnvelopeError, match="not JSON"):
            list(EnvelopeReader("x").read([line]))


@pytest.mark.parametrize(
    "message",
    [
        '{"op":"c","after":"{not json","source":{"ts_ms":1,"db":"shop","collection":"chats"}}',
        '{"op":"c","after":"{\\"a\\":1}","source":{"ts_ms":1,"db":"shop","collection":"chats"}}',
        '{"op":"c","after":"{\\"_id\\":1}","source":{"ts_ms":1,"collection":"chats"}}',
        '{"op":"c","after":"{\\"_id\\":1}","source":{"ts_ms":"x","db":"shop","collection":"chats"}}',
        '{"operationType":"insert","ns":null}',
        '{"operationType":"insert","source":"x","ns":{"db":"shop","coll":"chats"}}',
        '{"op":"c","after":{"_id":{"$oid":"zz"}},"source":{"ts_ms":1,"db":"shop","collection":"chats"}}',
        '{"op":"c","after":{"_id":{"$numberDecimal":"x"}},"source":{"ts_ms":1,"db":"shop","collection":"chats"}}',
        '{"op":"c","after":{"_id":{"$date":{"$numberLong":"1%s"}}},"source":{"ts_ms":1,"db":"shop","collection":"chats"}}'
        % ("0" * 30),
        '{"op":"u","after":{"_id":1},"updateDescription":5,"source":{"ts_ms":1,"db":"shop","collection":"chats"}}',
        '{"op":"c","after":{"_id":1},"source":{"ts_ms":1,"wallTime":1%s,"db":"shop","collection":"chats"}}'
        % ("0" * 30),
    ],
)
def test_a_broken_envelope_is_named_with_its_place(message: str) -> None:
    with pytest.raises(EnvelopeError, match="a broken envelope") as caught:
        list(EnvelopeReader("x").read([message.encode()], where="topic.ndjson"))
    assert caught.value.where == "topic.ndjson:1"


def test_imported_files_are_landed_and_their_hours_become_complete(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, schemas_dir=CHECKOUT / "schemas")
    contracts = load_collections(settings.schemas_dir).contracts
    messages = [json.dumps(case["message"]) for case in CASES if "error" not in case]
    file = tmp_path / "topic.ndjson"
    file.write_text("\n".join(messages) + "\n")
    counts = import_envelopes(settings, contracts, "marketplace", [file])
    assert counts == {"shop.articles": 3, "shop.users": 1, "shop.chats": 4}
    state = PositionFile(settings, Unit("marketplace")).read()
    assert state.passed == (1795504157, 0)
    assert state.holder is None
    hours = CollectionHours(settings, contracts)
    assert len(hours.landings["shop.chats"].states()) == 1
    assert import_envelopes(settings, contracts, "marketplace", [file]) == counts


def test_what_an_import_leaves_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(data_dir=tmp_path, schemas_dir=CHECKOUT / "schemas")
    contracts = load_collections(settings.schemas_dir).contracts
    file = tmp_path / "topic.ndjson"
    file.write_text('{"op":"c","after":{"_id":1},"source":{"ts_ms":1000,"db":"shop","collection":"nothing"}}\n')
    with pytest.raises(PlatformError, match="no contract names the connection `typo`"):
        import_envelopes(settings, contracts, "typo", [file])
    assert not list(tmp_path.rglob("position.json"))
    assert import_envelopes(settings, contracts, "marketplace", [file]) == {}
    assert "shop.nothing: 1 messages left out" in caplog.text


def test_a_file_imported_again_lands_the_same_positions(tmp_path: Path) -> None:
    """A transaction (one cluster time) in one file, and one that is split between two, in any order and at any time again."""
    settings = Settings(data_dir=tmp_path, schemas_dir=CHECKOUT / "schemas")
    contracts = load_collections(settings.schemas_dir).contracts
    hours = CollectionHours(settings, contracts)

    def file(name: str, messages: list[tuple[int, str]]) -> Path:
        lines = [
            json.dumps(
                {
                    "op": "c",
                    "after": json.dumps({"_id": f"{name}{number}"}),
                    "source": {"ts_ms": at * 1000, "ord": 1, "db": "shop", "collection": collection},
                }
            )
            for number, (at, collection) in enumerate(messages)
        ]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def landed() -> set[tuple[str, str, str]]:
        found = set()
        for name in ("shop.chats", "shop.articles"):
            landing = hours.landings[name]
            for hour in landing.states():
                for one in landing.files(hour):
                    for line in gzip.decompress(landing.read(one)).splitlines():
                        record = json.loads(line)
                        found.add((name, record["_id"], record["position"]))
        return found

    chats, articles = "chats", "articles"
    whole = file("whole", [(7200, chats), (7200, chats), (7200, articles)])
    half = file("half", [(7300, articles), (7400, chats), (7400, chats)])
    rest = file("rest", [(7400, chats), (7400, articles), (7500, chats)])
    files = [whole, whole, half, rest, articles_only := file("only", [(7250, articles), (7400, articles)])]
    import_envelopes(settings, contracts, "marketplace", [whole])
    import_envelopes(settings, contracts, "marketplace", [whole])
    once = landed()
    assert sorted(position[-7:] for _, _, position in once) == ["0000000", "0000000", "0000001"]
    import_envelopes(settings, contracts, "marketplace", files)
    found = landed()
    assert len(found) == 3 + 3 + 3 + 2
    of = {(name, key): position for name, key, position in found}
    assert of["shop.chats", '"rest0"'] == "0000007400.0000000001.0000002"
    assert of["shop.chats", '"rest2"'] == "0000007500.0000000001.0000000"
    for again in ([rest], [half], [rest, half], [whole], [articles_only], [half, rest, whole]):
        import_envelopes(settings, contracts, "marketplace", again)
        assert landed() == found, [one.name for one in again]
    kept = PositionFile(settings, Unit("marketplace")).read().imports.starts
    assert len(kept) == 1, "of most files nothing need be remembered"
