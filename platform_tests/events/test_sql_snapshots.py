"""The compiled SQL, as a person reads it (what is written by hand stands in events/statements). To accept a change: `python platform_tests/events/test_sql_snapshots.py`."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from agreement import contract_of

from dataplatform.contracts.events import EventContract
from dataplatform.events import sql

SNAPSHOTS = Path(__file__).parent / "snapshots"
TABLES = sql.Tables("shop")
CONTRACTS: dict[str, list[dict[str, Any]]] = {
    "no_parameters": [],
    "scalars": [
        {"name": "item_id", "type": "STRING", "required": True},
        {"name": "count", "type": "INT64"},
        {"name": "ratio", "type": "FLOAT64"},
        {"name": "price", "type": "NUMERIC"},
        {"name": "sold", "type": "BOOL"},
        {"name": "seen_at", "type": "TIMESTAMP"},
        {"name": "day", "type": "DATE"},
        {"name": "blob", "type": "JSON"},
    ],
    "bounds": [
        {"name": "kind", "type": "STRING", "values": ("new", "it's")},
        {"name": "currency", "type": "STRING", "pattern": "[A-Z]{3}", "required": True},
        {"name": "stars", "type": "INT64", "min": 1, "max": 5},
        {"name": "price", "type": "NUMERIC", "min": "0.01"},
        {"name": "since", "type": "TIMESTAMP", "min": "2020-01-01T09:00:00+09:00"},
    ],
    "nested": [
        {
            "name": "seller",
            "type": "STRUCT",
            "required": True,
            "fields": (
                {"name": "id", "type": "INT64", "required": True},
                {
                    "name": "address",
                    "type": "STRUCT",
                    "fields": ({"name": "city", "type": "STRING", "required": True},),
                },
            ),
        },
        {"name": "order", "type": "STRING"},
    ],
    "arrays": [
        {"name": "tags", "type": "STRING", "repeated": True},
        {
            "name": "items",
            "type": "STRUCT",
            "repeated": True,
            "fields": (
                {"name": "id", "type": "STRING", "required": True},
                {"name": "prices", "type": "NUMERIC", "repeated": True},
                {"name": "size", "type": "STRUCT", "fields": ({"name": "width", "type": "INT64"},)},
            ),
        },
    ],
}


def contract(name: str) -> EventContract:
    return contract_of(CONTRACTS[name], action=name.split("_", maxsplit=1)[0])


def texts() -> dict[str, str]:
    """File name → SQL."""
    found = {}
    for name in CONTRACTS:
        compiled = contract(name)
        found[f"{name}.accepted.sql"] = sql.accepted_statement(compiled, TABLES)
        found[f"{name}.rejected.sql"] = sql.rejected_scripts({compiled.name: compiled}, [compiled.name], TABLES)[0]
    contracts = [contract("no_parameters"), contract("scalars")]
    unknown = sql.rejected_scripts({one.name: one for one in contracts}, ["what", contracts[0].name], TABLES)
    return found | {"unknown.rejected.sql": unknown[0]}


@pytest.mark.parametrize("name", texts())
def test_the_sql_is_as_it_was(name: str) -> None:
    assert texts()[name] == (SNAPSHOTS / name).read_text(), f"accept it by: python {Path(__file__).name}"


def test_no_snapshot_is_left_over() -> None:
    assert {file.name for file in SNAPSHOTS.iterdir()} == set(texts())


def test_rejections_of_very_many_events_are_cut_into_scripts_that_bigquery_takes() -> None:
    traps = yaml.safe_load((Path(__file__).parent / "cases" / "traps.yaml").read_text())["contract"]
    contracts = {one.name: one for one in (contract_of(traps, action=f"make{number}") for number in range(120))}
    scripts = sql.rejected_scripts(contracts, [*contracts, "unheard"], TABLES)
    assert len(scripts) > 1
    assert all(len(script.encode()) < 1_000_000 for script in scripts)
    for name in contracts:
        assert sum(f"-- {name} 1.0" in script for script in scripts) == 1
    assert "no contract has this event name" in scripts[0]
    assert all("no contract has this event name" not in script for script in scripts[1:])


def test_no_rejections_empty_the_range_and_judge_nothing() -> None:
    (script,) = sql.rejected_scripts({}, [], TABLES)
    assert "DELETE FROM `shop.events.rejected`" in script
    assert "INSERT" not in script


if __name__ == "__main__":
    SNAPSHOTS.mkdir(exist_ok=True)
    for file in SNAPSHOTS.iterdir():
        file.unlink()
    for file_name, text in texts().items():
        (SNAPSHOTS / file_name).write_text(text)
