"""Every kind of change, and whether it is additive, breaking or text; and that BigQuery can do the additive ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dataplatform.contracts.compatibility import contract_changes, folder_changes, is_breaking
from dataplatform.contracts.events import EventContract

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "cases" / "compatibility.yaml").read_text())


def contract(params: list[dict[str, Any]], **more: Any) -> EventContract:
    words = {"action": "send", "object": "transfer", "service": "pay", "owner": "a", "domain": "b", "description": "c"}
    return EventContract.model_validate({**words, "params": params, **more})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_change(case: dict[str, Any]) -> None:
    changes = contract_changes(contract(case["before"]), contract(case["after"]))
    assert [f"{change.kind} {change.code} {change.path}" for change in changes] == case["changes"]
    assert is_breaking(changes) == any(line.startswith("breaking") for line in case["changes"])
    assert all(change.message for change in changes)


def test_keys_of_the_contract_are_texts() -> None:
    changes = contract_changes(contract([]), contract([], owner="x", domain="y", status="draft", version="1.1"))
    assert {(change.kind, change.path) for change in changes} == {
        ("text", "owner"),
        ("text", "domain"),
        ("text", "status"),
        ("text", "version"),
    }


def test_contracts_come_and_go() -> None:
    old = {"a": contract([]), "b": contract([], status="deprecated"), "c": contract([])}
    new = {"c": contract([]), "d": contract([])}
    changes = folder_changes(old, new)
    assert {name: [(change.kind, change.code) for change in found] for name, found in changes.items()} == {
        "a": [("breaking", "removed_contract")],
        "b": [("text", "removed_contract")],
        "d": [("additive", "added_contract")],
    }
