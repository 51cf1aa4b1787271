"""A contract is the same contract as YAML, as a Spark StructType and as a BigQuery schema."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import jsonschema
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql.types import StructType

from dataplatform.contracts.bigquery import event_schema, fields_of_schema, params_schema
from dataplatform.contracts.compatibility import contract_changes
from dataplatform.contracts.documents import read_document
from dataplatform.contracts.events import ENVELOPE_COLUMNS, EventContract
from dataplatform.contracts.fields import FIELD_TYPES, Field
from dataplatform.contracts.json_schema import contract_json_schema, event_json_schema
from dataplatform.contracts.load import Contracts, Owner, Vocabulary
from dataplatform.contracts.rules import field_mistakes
from dataplatform.contracts.spark import event_struct, fields_of_struct, struct_of

CONTRACTS = Contracts(
    owners={"payments": Owner(description="Money.", email="payments@example.com")},
    vocabulary=Vocabulary(actions={"send": "x"}, objects={"transfer": "x"}, services={"pay": "x"}),
)
EDITORS = contract_json_schema(CONTRACTS)

FIRST, LAST = (datetime.fromisoformat(text) for text in ("0001-01-02T00:00:00", "9999-12-30T00:00:00"))

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
descriptions = st.one_of(
    st.just(""),
    st.sampled_from(["yes", "1.10", "a: b # c", "더보기", "'quotes' and \"quotes\"\n", "{a}", "- x", "null"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30),
)
money = st.decimals(-(10**20), 10**20, places=9)
constants: dict[str, st.SearchStrategy[Any]] = {
    "STRING": st.one_of(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8), st.just("no")),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "FLOAT64": st.floats(allow_nan=False, allow_infinity=False),
    "NUMERIC": st.one_of(money.map(lambda number: format(number, "f")), st.integers(-(10**9), 10**9)),
    "DATE": st.dates().map(date.isoformat),
    "TIMESTAMP": st.datetimes(FIRST, LAST, timezones=st.just(UTC)).map(datetime.isoformat),
    "BOOL": st.booleans(),
}
exact = {"NUMERIC": lambda value: Decimal(str(value)), "TIMESTAMP": datetime.fromisoformat}


@st.composite
def fields(draw: st.DrawFn, depth: int = 3) -> Field:
    field_type = draw(st.sampled_from(FIELD_TYPES if depth else FIELD_TYPES[:-1]))
    data: dict[str, Any] = {
        "name": draw(names),
        "type": field_type,
        "required": draw(st.booleans()),
        "repeated": draw(st.booleans()),
        "description": draw(descriptions),
        "pii": draw(st.booleans()),
    }
    of_order = exact.get(field_type, lambda value: value)
    if field_type == "STRUCT":
        data["fields"] = draw(trees(depth - 1, min_size=1))
    elif field_type in constants and draw(st.booleans()):
        data["values"] = tuple(draw(st.lists(constants[field_type], min_size=1, max_size=3, unique_by=of_order)))
    elif field_type in {"INT64", "FLOAT64", "NUMERIC", "DATE", "TIMESTAMP"} and draw(st.booleans()):
        low, high = sorted([draw(constants[field_type]), draw(constants[field_type])], key=of_order)
        data["min"], data["max"] = low, draw(st.sampled_from([high, None]))
    elif field_type == "STRING" and draw(st.booleans()):
        data["pattern"] = draw(st.sampled_from(["[a-z]+", r"\d{3}|\s", "'\"#: "]))
    return Field(**data)


def trees(depth: int = 3, min_size: int = 0) -> st.SearchStrategy[tuple[Field, ...]]:
    lists = st.lists(fields(depth), min_size=min_size, max_size=4, unique_by=lambda field: field.name.lower())
    return lists.map(tuple)


contracts = (
    st.tuples(trees(), st.sampled_from(["1.0", "1.10", "2.0", "12.3"]), descriptions.filter(bool))
    .filter(lambda parts: not field_mistakes(parts[0], taken=ENVELOPE_COLUMNS))
    .map(
        lambda parts: EventContract(
            action="send",
            object="transfer",
            service="pay",
            owner="payments",
            domain="pay",
            description=parts[2],
            version=parts[1],
            params=parts[0],
        )
    )
)


def structure(tree: tuple[Field, ...]) -> tuple[Field, ...]:
    """A tree without what only the contract says: values, bounds, patterns."""
    return tuple(
        field.model_copy(
            update={"values": None, "min": None, "max": None, "pattern": None, "fields": structure(field.fields)}
        )
        for field in tree
    )


class Dumper(yaml.SafeDumper):
    """Quotes what may be a number: it writes YAML 1.1, where `0E0` is a text, and contracts are read as YAML 1.2."""


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="'" if text[:1] in set("+-.0123456789") else None
    ),
)


@settings(max_examples=80, deadline=None)
@given(contracts)
@example(
    EventContract(action="send", object="transfer", service="pay", owner="payments", domain="pay", description="0E0")
)
def test_yaml(contract: EventContract) -> None:
    data = contract.model_dump(mode="json", exclude_defaults=True)
    for text in (yaml.dump(data, Dumper=Dumper, allow_unicode=True), json.dumps(data, ensure_ascii=False)):
        document = read_document(text.encode())
        assert document.mistakes == ()
        read = EventContract.model_validate(document.data)
        assert read == contract
        assert read.digest == contract.digest
        assert list(jsonschema.Draft202012Validator(EDITORS).iter_errors(document.data)) == []
    assert contract_changes(contract, contract) == []


@settings(max_examples=80, deadline=None)
@given(contracts)
def test_struct_type(contract: EventContract) -> None:
    assert fields_of_struct(struct_of(contract.params)) == structure(contract.params)
    struct = event_struct(contract)
    read = StructType.fromJson(json.loads(json.dumps(struct)))
    assert read.jsonValue() == struct, "Spark writes what it read"
    assert read["params"].dataType.jsonValue() == struct_of(contract.params)


@settings(max_examples=80, deadline=None)
@given(contracts)
def test_bigquery_schema(contract: EventContract) -> None:
    schema = event_schema(contract)
    assert [column["name"] for column in params_schema(contract.params)] == [column.name for column in contract.columns]
    read = fields_of_schema(schema)
    assert params_schema(read) == schema, "columns, read as fields, give the same columns"
    names_in_order = [column["name"] for column in schema]
    assert len({name.lower() for name in names_in_order}) == len(names_in_order)
    assert set(ENVELOPE_COLUMNS) <= set(names_in_order)


@settings(max_examples=60, deadline=None)
@given(trees())
def test_a_tree_without_flattening_comes_back_from_its_table(tree: tuple[Field, ...]) -> None:
    wrapped = (Field(name="rows", type="STRUCT", repeated=True, fields=tree),) if tree else ()
    read = fields_of_schema(params_schema(wrapped))
    assert marked(structure(read)) == marked(as_columns(structure(wrapped)))


def as_columns(tree: tuple[Field, ...], pii: bool = False) -> tuple[Field, ...]:
    """What BigQuery can say of a tree: a REPEATED column is not REQUIRED as well; personal data is marked all the way down."""
    return tuple(
        field.model_copy(
            update={
                "required": field.required and not field.repeated,
                "pii": field.pii or pii,
                "fields": as_columns(field.fields, field.pii or pii),
            }
        )
        for field in tree
    )


def marked(tree: tuple[Field, ...]) -> list[Any]:
    """A tree to compare: white space at the ends of a description is not kept."""
    return [
        (
            field.name,
            field.type,
            field.required,
            field.repeated,
            field.pii,
            field.description.strip(),
            marked(field.fields),
        )
        for field in tree
    ]


@settings(max_examples=60, deadline=None)
@given(contracts)
def test_json_schema_is_one(contract: EventContract) -> None:
    jsonschema.Draft202012Validator.check_schema(event_json_schema(contract))


@settings(max_examples=60, deadline=None)
@given(contracts)
def test_the_digest_is_of_what_is_stored(contract: EventContract) -> None:
    texts = contract.model_copy(
        update={
            "description": "x",
            "owner": "y",
            "domain": "z",
            "status": "deprecated",
            "params": without_texts(contract.params),
        }
    )
    assert texts.digest == contract.digest
    for other in (
        contract.model_copy(update={"version": "1.99"}),
        contract.model_copy(update={"params": (*contract.params, Field(name="zzzzzzzzzzzzzz", type="STRING"))}),
    ):
        assert other.digest != contract.digest


def without_texts(tree: tuple[Field, ...]) -> tuple[Field, ...]:
    return tuple(
        field.model_copy(update={"description": "", "pii": False, "fields": without_texts(field.fields)})
        for field in tree
    )
