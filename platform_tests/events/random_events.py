"""Random contracts, and random events of them: mostly right, in every way wrong."""

import json
from random import Random
from typing import Any

from agreement import contract_of

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import Field

NAMES = [
    "id",
    "name",
    "Price",
    "order",
    "select",
    "_x",
    "a1",
    "hour_of_day",
    "group",
    "value",
    "text",
    "items",
    "to",
    "E",
    "o",
]
TYPES = ["STRING", "INT64", "FLOAT64", "NUMERIC", "BOOL", "TIMESTAMP", "DATE", "JSON"]

RIGHT: dict[str, list[str]] = {
    "STRING": [
        '"a"',
        '""',
        '"null"',
        '"true"',
        '"12"',
        '"a b"',
        '"naïve"',
        '"\\ud83d\\ude00"',
        '"q\\"\\\\"',
        '"AB"',
        '"new"',
    ],
    "INT64": [
        "0",
        "1",
        "-7",
        "5",
        "42",
        '"42"',
        "9007199254740993",
        "-9223372036854775808",
        '"9223372036854775807"',
        "-0",
    ],
    "FLOAT64": ["0", "1.5", "-0.0", "1e3", "0.1", "2.50", "1e-7", "123456789.123456789", "9007199254740993", "5e-324"],
    "NUMERIC": [
        '"12.50"',
        "12.5",
        "0",
        "-1",
        '"-0.01"',
        "1e2",
        "1e-9",
        "0.000000001",
        '"99999999999999999999.5"',
        "1.10",
    ],
    "BOOL": ["true", "false"],
    "TIMESTAMP": ['"2026-01-31T12:00:00Z"', '"2020-06-30T23:59:59.999999+09:00"', '"1999-12-31T00:00:00-05:30"'],
    "DATE": ['"2026-01-31"', '"2024-02-29"', '"0001-01-01"', '"9999-12-31"'],
    "JSON": ['"x"', "1", "-2.5", "true", '{"a":[1,null,{"b":{}}]}', "[]", "{}", "[[1],[2.5]]"],
}
WRONG = [
    "1.0", "1e3", "1e400", "9223372036854775808", "12345678901234567.89", "0.1000000000000000055", "1e-400", "1E+2",
    '"1.0"', '"007"', '"+1"', '" 1"', '"1e3"', '"-0"', '"NaN"', '"true"', '"yes"', '"2026-02-30"', '"2026-01-31"',
    '"10000-01-01"', '"99999-01-01"', '"infinity"', '"-infinity"', '"0001-01-01 (BC)"', '"10000-01-01T00:00:00Z"', '"epoch"',
    '"2026-01-31T24:00:00Z"', '"2026-01-31T12:00:00"', '"2026-01-31 12:00:00Z"', '"0000-01-01"', '"0001-01-01T00:00:00+01:00"',
    '"2026-01-31T12:00:00.1234567Z"', '"1.0000000000"', '"123456789012345678901234567890"', "true", "false", "{}", "[]",
    '{"a":1}', '{"a":1,"a":2}', "[null]", '[["x"]]', '[{"id":1}]', '"a\\u0000"', '"\\udc00"', "1e29", "1e-10", "-1e-9",
]  # fmt: skip


def random_contract(random: Random, action: str) -> EventContract:
    return contract_of(random_fields(random, 3), action)


def random_fields(random: Random, depth: int) -> list[Field]:
    names = random.sample(NAMES, random.randint(1, 5))
    distinct = {name.lower(): name for name in names}.values()
    return [random_field(random, name, depth) for name in distinct]


def random_field(random: Random, name: str, depth: int) -> Field:
    more: dict[str, Any] = {"required": random.random() < 0.3, "repeated": random.random() < 0.25}
    if depth and random.random() < 0.3:
        return Field(name=name, type="STRUCT", fields=tuple(random_fields(random, depth - 1)), **more)
    kind = random.choice(TYPES)
    if random.random() < 0.4:
        more |= random.choice(BOUNDS.get(kind, [{}]))
    return Field(name=name, type=kind, **more)


BOUNDS: dict[str, list[dict[str, Any]]] = {
    "STRING": [
        {"values": ("a", "true", "new")},
        {"pattern": "[A-Z]{2}"},
        {"pattern": r"\w*"},
        {"pattern": r"[^\s]+|a b"},
    ],
    "INT64": [{"min": 0}, {"max": 5}, {"min": -7, "max": 42}, {"values": (1, 5, 42)}],
    "FLOAT64": [{"min": 0}, {"max": 1.5}, {"min": -1, "max": 2.5}, {"values": (0.0, 1.5)}],
    "NUMERIC": [{"min": 0}, {"max": "12.5"}, {"min": "-0.01", "max": 100}, {"values": ("12.50", "1.1")}],
    "TIMESTAMP": [{"min": "2020-06-30T14:59:59.999999Z"}, {"max": "2026-01-31T12:00:00Z"}],
    "DATE": [{"min": "2024-02-29"}, {"max": "2026-01-31"}, {"values": ("2026-01-31", "9999-12-31")}],
}


def random_event(random: Random, contract: EventContract, number: int) -> bytes:
    """One event's text; `number` makes its id."""
    wrong = random.choice([0, 0, 0, 0.03, 0.1, 0.5])
    params = random_object(random, contract.params, wrong)
    members = [f'"event_id":"random-{number}"', f'"event":{json.dumps(contract.name)}', f'"params":{params}']
    if random.random() < 0.3:
        members.append(f'"event_time":{random.choice([*RIGHT["TIMESTAMP"], "null", *WRONG])}')
        members.append(f'"sent_at":{random.choice(RIGHT["TIMESTAMP"])}')
    if random.random() < 0.1:
        members.append(f'"user_id":{random.choice([*RIGHT["STRING"], *WRONG])}')
    if random.random() < 0.05:
        members.append(f'"context":{random.choice(WRONG)}')
    if random.random() < 0.02:
        members.append(random.choice(members))
    random.shuffle(members)
    text = "{" + ",".join(members) + "}"
    if random.random() < 0.02:
        text = text[: random.randrange(len(text))]
    return text.encode()


def random_object(random: Random, fields: tuple[Field, ...], wrong: float) -> str:
    members = []
    space = random.choice(["", "", "", " ", "\n\t"])
    for field in fields:
        if random.random() < 0.25 and not (field.required and random.random() > wrong):
            continue
        members.append(f'"{field.name}"{space}:{random_value(random, field, wrong)}')
    if random.random() < 0.15:
        members.append(f'"unheard"{space}:{random.choice([*RIGHT["JSON"], *WRONG])}')
    if random.random() < 0.05:
        members.append(f'"{random.choice(fields).name.swapcase()}":{random.choice(WRONG)}')
    if members and random.random() < wrong / 10:
        members.append(random.choice(members))
    random.shuffle(members)
    return "{" + space + f",{space}".join(members) + "}"


def random_value(random: Random, field: Field, wrong: float) -> str:
    if random.random() < wrong:
        return random.choice(["null", *WRONG])
    if not field.required and random.random() < 0.05:
        return "null"
    if not field.repeated:
        return random_one(random, field, wrong)
    elements = [random_one(random, field, wrong) for _ in range(random.choice([0, 1, 2, 3]))]
    if random.random() < wrong:
        elements.append("null")
    return f"[{','.join(elements)}]"


def random_one(random: Random, field: Field, wrong: float) -> str:
    if random.random() < wrong:
        return random.choice(WRONG)
    if field.type == "STRUCT":
        return random_object(random, field.fields, wrong)
    if field.values and random.random() < 0.8:
        value = random.choice(field.values)
        return json.dumps(value)
    return random.choice(RIGHT[field.type])
