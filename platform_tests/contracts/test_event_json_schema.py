"""The JSON Schema of an event takes what may be sent, and says where the rest is wrong."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dataplatform.contracts.json_schema import event_json_schema
from dataplatform.contracts.load import load_contracts

EVENT: dict[str, Any] = {
    "event_id": "5f0c",
    "event": "send_transfer_pay",
    "event_time": "2026-01-31T12:00:00.123+09:00",
    "user_id": None,
    "params": {
        "transfer_id": "tr_0123456789abcdef",
        "amount": "1000000.55",
        "currency": "KRW",
        "fee": 500,
        "sender": {"account_no": "110-123-456789", "bank": {"code": "088"}},
        "receiver": {"account_no": "333-123-456789", "name": "김당근"},
        "method": "balance",
        "risk": [1, {"a": None}],
        "memo": None,
        "new_key": 1,
    },
    "new_key": 1,
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    contract = load_contracts(Path("schemas")).events["send_transfer_pay"]
    return jsonschema.Draft202012Validator(event_json_schema(contract))


def test_an_event(validator: jsonschema.Draft202012Validator) -> None:
    assert list(validator.iter_errors(EVENT)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("event", "send_transfer"),
        ("event_id", ""),
        ("event_id", "x" * 129),
        ("params.amount", None),
        ("params.amount", "1e3"),
        ("params.amount", 0),
        ("params.fee", 1.5),
        ("params.fee", "1.0"),
        ("params.currency", "XXX"),
        ("params.transfer_id", "tr_0123456789abcdef\n"),
        ("params.sender.bank", {}),
        ("params.is_first", "true"),
    ],
)
def test_what_is_wrong(validator: jsonschema.Draft202012Validator, path: str, value: Any) -> None:
    event = copy.deepcopy(EVENT)
    *above, last = path.split(".")
    target = event
    for key in above:
        target = target[key]
    target[last] = value
    (error,) = validator.iter_errors(event)
    assert ".".join(map(str, error.absolute_path)) == path
