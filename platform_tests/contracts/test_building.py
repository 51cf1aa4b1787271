"""The generated files: of the shipped contracts as they should be, and written so that none is ever half there."""

import json
from pathlib import Path

import pytest
from pyspark.sql.types import StructType

from dataplatform.contracts.build import Difference, difference, generated_files, write
from dataplatform.contracts.load import Contracts, load_contracts

SCHEMAS = Path("schemas")


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return load_contracts(SCHEMAS)


def test_the_shipped_files_are_what_the_contracts_say(contracts: Contracts) -> None:
    assert difference(SCHEMAS / "generated", generated_files(contracts)) == Difference()


def test_spark_reads_every_struct_type(contracts: Contracts) -> None:
    for name in contracts.events:
        text = (SCHEMAS / "generated" / f"{name}.json").read_text()
        read = StructType.fromJson(json.loads(text))
        assert read.jsonValue() == json.loads(text)
        assert read.names[-1] == "params"


def test_writing_makes_what_is_missing_stale_or_of_no_contract(tmp_path: Path, contracts: Contracts) -> None:
    files = generated_files(contracts)
    first = write(tmp_path, files)
    assert first == Difference(missing=tuple(sorted(files)))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(files)

    (tmp_path / "send_transfer_pay.json").write_text("{}")
    (tmp_path / "bigquery" / "send_transfer_pay.json").unlink()
    (tmp_path / "json_schema" / "of_no_contract.json").write_text("{}")
    (tmp_path / "README.md").write_text("of a person")
    expected = Difference(
        missing=("bigquery/send_transfer_pay.json",),
        stale=("send_transfer_pay.json",),
        unwanted=("json_schema/of_no_contract.json",),
    )
    assert difference(tmp_path, files) == expected
    assert write(tmp_path, files) == expected
    assert not difference(tmp_path, files)
    assert (tmp_path / "README.md").read_text() == "of a person"


def test_what_is_as_it_should_be_is_not_touched(tmp_path: Path, contracts: Contracts) -> None:
    files = generated_files(contracts)
    write(tmp_path, files)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert write(tmp_path, files) == Difference()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == times


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, contracts: Contracts, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = generated_files(contracts)
    write(tmp_path, files)
    old = (tmp_path / "send_transfer_pay.json").read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, {**files, "send_transfer_pay.json": "other"})
    assert (tmp_path / "send_transfer_pay.json").read_bytes() == old
    assert [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"] == []


def test_the_editors_schema_knows_the_words(contracts: Contracts) -> None:
    schema = json.loads(generated_files(contracts)["contract.schema.json"])
    assert "send" in schema["properties"]["action"]["enum"]
    assert "payments" in schema["properties"]["owner"]["enum"]
    assert schema["required"] == ["action", "object", "service", "owner", "domain", "description"]
    for file in contracts.files.values():
        first = file.read_text().split("\n", 1)[0]
        assert first == "# yaml-language-server: $schema=../../generated/contract.schema.json"
