"""docs/contracts.md says what the code does: keys, types, codes, and an example that holds."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from dataplatform.contracts.events import ENVELOPE_COLUMNS, EventContract
from dataplatform.contracts.fields import FIELD_TYPES, Field
from dataplatform.contracts.load import parse_contracts

PAGE = Path("docs/contracts.md").read_text()
CODE = "\n".join(
    Path("platform/dataplatform/contracts", name).read_text()
    for name in ("documents.py", "rules.py", "load.py", "history.py")
)


@pytest.mark.parametrize("model", [EventContract, Field])
def test_every_key(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert f"| `{name}` | {'yes' if field.is_required() else ''} | {field.description} |" in PAGE


def test_every_type_and_column() -> None:
    for field_type in FIELD_TYPES:
        assert f"| `{field_type}` |" in PAGE
    for column in ENVELOPE_COLUMNS:
        assert f"`{column}`" in PAGE


def test_every_code() -> None:
    table = PAGE.split("## Mistakes")[1]
    documented = {
        code for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    made = {f"bad_{key}" for key in ("action", "object", "service", "name", "version", "email")}
    made |= {f"unknown_{key}" for key in ("action", "object", "service")}
    for code in documented - made:
        assert f'"{code}"' in CODE, f"{code} is no code any more"
    cases = Path(__file__).parent / "cases" / "bad"
    seen = {
        code
        for case in cases.glob("*.yaml")
        for pair in re.findall(r"#! (\w+)|^# expect: \S+ \S+ (\w+)$", case.read_text(), re.MULTILINE)
        for code in pair
        if code
    }
    assert seen <= documented


def test_the_example_holds() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    text = re.sub(r"^   ", "", example, flags=re.MULTILINE)
    support = {name: Path("schemas", name).read_bytes() for name in ("vocabulary.yaml", "owners.yaml")}
    contracts, problems = parse_contracts({**support, "events/pay/send_transfer_pay.yaml": text.encode()})
    assert problems == []
    assert [column.name for column in contracts.events["send_transfer_pay"].columns] == [
        "amount",
        "receiver__account_no",
    ]
