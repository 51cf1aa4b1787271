"""Every trap of cases/traps.yaml: what Python says, what the tables hold, and what was expected of both."""

import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from agreement import Tables, comparable, contract_of, difference, outcomes

from dataplatform.events.verdict import Judge

CASES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "cases" / "traps.yaml").read_text())
CONTRACT = contract_of(CASES["contract"])


def deep(levels: int) -> str:
    return '{"x":' + "[" * levels + "]" * levels + "}"


def text_of(index: int, trap: dict[str, Any]) -> bytes:
    """The event's bytes, with all placeholders filled."""
    if "hex" in trap:
        return bytes.fromhex(trap["hex"])
    text = trap.get("event", '{"event_id":ID,"event":"CONTRACT","params":PARAMS}')
    if "params" in trap:
        params = trap["params"]
        if params.startswith("DEEP"):
            params = deep(int(params.removeprefix("DEEP")))
        text = text.replace("PARAMS", params)
    for name, value in {
        "DIGITS400": "9" * 400,
        "DIGITS300": "9" * 300,
        "TAGS10001": ",".join(['"a"'] * 10_001),
        "NUMBERS10000": ",".join(["7"] * 10_000),
        "ID128": f"{index:0128}",
        ":ID": f':"trap-{index}"',
        "CONTRACT": CONTRACT.name,
    }.items():
        text = text.replace(name, value)
    return text.encode()


def as_expected(actual: Any, expected: Any) -> Any:
    """A value as the cases write it: decimals and times as text."""
    if isinstance(actual, dict):
        return {key: as_expected(value, None) for key, value in actual.items()}
    if isinstance(actual, list):
        return [as_expected(value, None) for value in actual]
    if isinstance(actual, Decimal):
        text = f"{actual:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return actual.isoformat() if isinstance(actual, datetime | date) else actual


@pytest.mark.usefixtures("bigquery")
def test_every_trap_ends_the_same_way_in_python_and_sql(settings_for: Any, bigquery: Any) -> None:
    traps = list(CASES["traps"].items())
    events = [text_of(index, trap) for index, (_, trap) in enumerate(traps)]
    tables = Tables(settings_for(), bigquery.gcs_root, [CONTRACT])
    found = outcomes(tables, events)
    wrong = []
    for line, ((name, trap), event, (verdict, outcome)) in enumerate(zip(traps, events, found, strict=True), 1):
        if text := difference(tables.contracts, line, event, verdict, outcome):
            wrong.append(f"{name}: {text}")
        reasons = sorted(f"{reason.path} {reason.code}" for reason in verdict.reasons)
        expected = [reason.replace("DEEPPATH", "/params/x" + "/0" * 62) for reason in trap.get("reasons", [])]
        if reasons != sorted(expected):
            wrong.append(f"{name}: {reasons} instead of {trap.get('reasons', 'being accepted')}")
        if verdict.event != trap.get("event_name", CONTRACT.name):
            wrong.append(f"{name}: event name {verdict.event!r}")
        for column, value in trap.get("columns", {}).items():
            actual = as_expected(outcome.accepted[0][column], value) if outcome.accepted else "no row"
            if comparable(actual) != comparable(value):
                wrong.append(f"{name}: {column} is {actual!r}, not {value!r}")
    assert not wrong, "\n".join(wrong)
    assert len(traps) > 75


@pytest.mark.parametrize("name", CASES["traps"])
def test_the_quick_way_never_differs_from_the_exact_way(name: str) -> None:
    judge = Judge({CONTRACT.name: CONTRACT})
    event = text_of(0, CASES["traps"][name])
    assert judge.judge(event) == judge.judge_exactly(event)
