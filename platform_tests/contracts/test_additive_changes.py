"""What is called additive is: an event that the old contract accepts is accepted by the new one, and every old column can become the new one."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from dataplatform.contracts.bigquery import event_schema
from dataplatform.contracts.compatibility import contract_changes, is_breaking
from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import FIELD_TYPES
from dataplatform.contracts.load import load_contracts
from dataplatform.events.verdict import Judge
from dataplatform.local.samples import valid_params

Params = list[dict[str, Any]]
WIDER = {("INTEGER", "NUMERIC")}


def lists_of(params: Params) -> list[Params]:
    return [params, *(inner for field in params if "fields" in field for inner in lists_of(field["fields"]))]


def change(params: Params, random: Random) -> None:
    """One change of any kind somewhere in the tree."""
    fields = random.choice(lists_of(params))
    field = random.choice(fields) if fields else None

    def add() -> None:
        new = {"name": f"new_{random.randrange(1000)}", "type": "STRING", "required": random.random() < 0.3}
        fields.insert(random.randint(0, len(fields)), new)

    def remove() -> None:
        if field is not None and len(fields) > 1:
            fields.remove(field)

    def bound() -> None:
        if field is not None and isinstance(field.get("min"), int):
            field["min"] += random.choice([-1, 1])
        elif field is not None:
            field.pop("max", None)

    def value() -> None:
        if field is not None and field.get("values") and field["type"] == "STRING":
            field["values"] = random.choice([field["values"][1:] or None, [*field["values"], "more"], None])

    def set_to(key: str, choose: Callable[[], Any]) -> None:
        if field is not None:
            field[key] = choose()

    random.choice(
        [
            add,
            remove,
            bound,
            value,
            lambda: set_to("required", lambda: random.random() < 0.3),
            lambda: set_to("repeated", lambda: random.random() < 0.5),
            lambda: set_to("type", lambda: random.choice(FIELD_TYPES)),
            lambda: set_to("pattern", lambda: None),
            lambda: set_to("pii", lambda: random.random() < 0.5),
            lambda: random.shuffle(fields),
        ]
    )()


def can_become(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """BigQuery's rule for one column, said a second time and on its own."""
    same_type = old["type"] == new["type"] or ((old["type"], new["type"]) in WIDER and old["mode"] != "REPEATED")
    same_mode = old["mode"] == new["mode"] or (old["mode"], new["mode"]) == ("REQUIRED", "NULLABLE")
    before = {column["name"]: column for column in old.get("fields", [])}
    after = {column["name"]: column for column in new.get("fields", [])}
    return same_type and same_mode and columns_can_become(before, after)


def columns_can_become(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> bool:
    return all(name in after and can_become(column, after[name]) for name, column in before.items()) and all(
        column["mode"] != "REQUIRED" for name, column in after.items() if name not in before
    )


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_by_an_additive_change(seed: int) -> None:
    random = Random(seed)
    contracts = list(load_contracts(Path("schemas")).events.values())
    seen = {"additive": 0, "breaking": 0}
    for old in random.sample(contracts, 12):
        data = old.model_dump(mode="json", exclude_defaults=True)
        events = [
            b'{"event_id":"%d","event":"%s","params":%s}' % (number, old.name.encode(), params)
            for number, params in enumerate(valid_params(old, Judge({old.name: old}), random, 6))
        ]
        for _ in range(6):
            changed = EventContract.model_validate(data).model_dump(mode="json", exclude_defaults=True)
            for _ in range(random.randint(1, 2)):
                change(changed.setdefault("params", []), random)
            try:
                new = EventContract.model_validate(changed)
            except ValidationError:
                continue  # a change to what is no contract at all
            changes = contract_changes(old, new)
            if is_breaking(changes):
                seen["breaking"] += 1
                continue
            seen["additive"] += 1
            before = {column["name"]: column for column in event_schema(old)}
            after = {column["name"]: column for column in event_schema(new)}
            assert columns_can_become(before, after), changes
            judge = Judge({new.name: new})
            for event in events:
                assert judge.judge(event).reasons == [], (changes, event)
    assert min(seen.values()) >= 5, "both kinds are tried"
