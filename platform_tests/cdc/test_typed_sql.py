"""The compiled SQL gives, on the BigQuery server, what a plain reading of the mapping table gives in Python."""

import json
import random
import uuid
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from typed_model import model_one, normal

from dataplatform.cdc import schema as schemas
from dataplatform.cdc.extended_json import canonical
from dataplatform.cdc.schema import Node, Pin, evolve, pointer
from dataplatform.cdc.shapes import SHAPE_SQL, WRAPPERS, seen_of, shape_of
from dataplatform.cdc.sql import Tables, refused_sql, unmapped_sql, value_sql, wide_sql
from dataplatform.cdc.sql import text as quoted
from dataplatform.warehouse.client import Warehouse


def run(warehouse: Warehouse, root: Node, documents: list[str]) -> list[tuple[dict[str, Any], Any]]:
    """(row, _unmapped) of every document, from one statement."""
    fields = ", ".join(f"{value_sql(node, 'd', (node.key,))} AS `{node.column}`" for node in root.fields)
    rows = warehouse.query(
        f"SELECT {fields or '1 AS one'}, TO_JSON_STRING({unmapped_sql(root, 'd')}) AS _unmapped "
        f"FROM UNNEST(@documents) AS d WITH OFFSET AS row_offset ORDER BY row_offset",
        {"documents": documents},
    ).rows
    return [
        ({k: v for k, v in row.items() if k != "_unmapped"}, json.loads(row["_unmapped"] or "null")) for row in rows
    ]


def compare(
    warehouse: Warehouse, documents: list[dict[str, Any]], pins: tuple[Pin, ...] = (), present: Node | None = None
) -> schemas.Evolution:
    texts = [canonical(document) for document in documents]
    evolution = evolve(present or schemas.empty(), seen_of((shape_of(text), 1) for text in texts), pins)
    got = run(warehouse, evolution.root, texts)
    for text, (row, unmapped) in zip(texts, got, strict=True):
        parsed = json.loads(text)
        left: dict[str, Any] = {}
        expected = model_one(evolution.root, parsed, left, ())
        assert left == (unmapped or {}), text
        assert normal(row) == normal(expected), text
    return evolution


@pytest.fixture(scope="module")
def warehouse(bigquery: Any) -> Warehouse:
    from dataplatform.settings import Settings

    return Warehouse(
        Settings(bigquery_endpoint=bigquery.endpoint, bigquery_grpc_endpoint=bigquery.grpc_endpoint, project="local")
    )


OID = ObjectId("6b05381b5ceab495e96d2fbe")
TRAPS: dict[str, list[dict[str, Any]]] = {
    "int_long_double_decimal": [{"n": 1}, {"n": Int64(2**53 + 1)}, {"n": 1.5}, {"n": Decimal128("2.25")}],
    "int_then_decimal": [{"n": 1}, {"n": Decimal128("2.25")}, {"n": Decimal128("1E-10")}, {"n": Decimal128("1E+3")}],
    "decimals": [
        {"n": Decimal128(t)}
        for t in ("0.000000001", "-1234567890123456789012345.123456789", "1E+28", "NaN", "1.10", "0E+3", "1E-9")
    ],
    "integer_string_conflict": [{"a": 5}, {"a": 6}, {"a": "7"}, {"a": None}, {}],
    "string_integer_conflict": [{"a": "5"}, {"a": "6"}, {"a": 7}, {"a": True}, {"a": OID}],
    "object_array_conflict": [{"a": {"b": 1}}, {"a": {"b": 2}}, {"a": [{"b": 3}]}, {"a": []}, {"a": 4}],
    "array_object_conflict": [{"a": [1, 2]}, {"a": [3, "x"]}, {"a": {"b": 1}}, {"a": [None, 4]}, {"a": []}],
    "object_and_wrapper": [{"a": {"b": 1}}, {"a": {"b": 1}}, {"a": OID}, {"a": DatetimeMS(5)}, {"a": {"$x": 1}}],
    "names": [
        {"a.b": 1, "$x": 2, "": 3, "A": 4, "a": 5, "é": 6, "1st": 7, "_PARTITIONTIME": 8, "_unmapped": 9, "it's": 1}
    ],
    "unaddressable": [{'q"uote': 1, "a": 2}, {"back\\slash": 1, "a": 3}, {"a": 4}, {"o": {'x"': 1}, "a": 1}],
    "dates": [
        {"d": DatetimeMS(v)} for v in (-1, 0, -62_135_596_800_000, -62_135_596_800_001, 253_402_300_800_000, 2**62)
    ],
    "timestamp_kind": [{"d": Timestamp(5, 1)}, {"d": DatetimeMS(5000)}],
    "nan": [{"f": float("nan")}, {"f": float("inf")}, {"f": -0.0}, {"f": 1e300}, {"f": 5}, {"f": Int64(2**60 + 1)}],
    "binary": [{"b": b"\x00\x01"}, {"b": Binary(b"x" * 16, 4)}, {"b": "text"}],
    "json_kinds": [{"r": Regex("a", "i"), "m": MinKey(), "x": {"y": Regex("b")}}, {"r": 5, "m": "z", "x": {"y": 1}}],
    "nested": [
        {"a": {"b": {"c": [{"d": 1, "e": [1.5]}, {"d": "x"}]}}},
        {"a": {"b": {"c": [{"d": 2, "e": [2.5, "no"]}]}}},
        {"a": {"b": 5}},
        {"a": {"b": {}}},
    ],
    "array_of_arrays": [{"a": [[1, 2], [3]]}, {"a": [[4]], "b": []}],
    "texts": [{"s": 'quote " and \\ and \n and é'}, {"s": ""}, {"s": "null"}, {"s": "true"}, {"s": '{"$oid":"x"}'}],
    "bools": [{"b": True}, {"b": False}, {"b": "true"}, {"b": 1}],
    "empty_object": [{"a": {}}, {"a": {"b": None}}],
}


@pytest.mark.parametrize("name", TRAPS)
def test_trap(warehouse: Warehouse, name: str) -> None:
    compare(warehouse, [{"_id": number, **document} for number, document in enumerate(TRAPS[name])])


def test_five_thousand_dynamic_keys_become_one_json_column(warehouse: Warehouse) -> None:
    documents = [{"_id": i, "m": {f"k{i}_{j}": j for j in range(1000)}, "a": 1} for i in range(5)]
    evolution = compare(warehouse, documents)
    assert [(node.column, node.type) for node in evolution.root.fields] == [("m", "JSON"), ("a", "INT64")]


ODD_KEYS = {
    "~/": 1,
    'q"': {"a": ["x\n  y", None, {}]},
    "back\\": "s",
    "null": None,
    "": 0,
    "é.$": {"a": 1},
    "\n": 2,
    "a ": 1,
}


def test_a_map_that_grows_later_is_closed_and_keeps_what_has_no_column(warehouse: Warehouse) -> None:
    first = evolve(schemas.empty(), seen_of([(shape_of(canonical({"m": {"a": 1}, "l": [{"a": 1}], "x": 1})), 1)]))
    late = {"a": 2, **{f"k{j}": j for j in range(300)}, **ODD_KEYS}
    documents = [
        {"_id": 1, "m": late, "l": [{"a": 2}, {"a": 3, **late}], "x": 2},
        {"_id": 2, "m": {"a": 3}, "l": [{"a": 4}], "x": "no number"},
        {"_id": 3, "m": {}, "l": None},
        {"_id": 4, "m": OID, "l": []},
        {"_id": 5, "l": [{"a": "no number", "b": 1}, None, late]},
    ]
    texts = [canonical(one) for one in documents]
    second = evolve(first.root, seen_of((shape_of(text), 1) for text in texts))
    assert [step.path for step in second.steps if step.step == "too_many_keys"] == ["/m", "/l"]
    for text, (row, unmapped) in zip(texts, run(warehouse, second.root, texts), strict=True):
        left: dict[str, Any] = {}
        assert normal(row) == normal(model_one(second.root, json.loads(text), left, ()))
        assert (unmapped or {}) == left
    assert left.keys() == {"/l"}  # a list with more than objects: whole
    parsed = json.loads(texts[0])
    (_, unmapped), *_ = run(warehouse, second.root, texts)
    strays = [key for key in late if key not in ("a", "null")]
    assert unmapped.keys() == {pointer((*at, key)) for at in (("m",), ("l", "1")) for key in strays}
    assert unmapped["/m/~0~1"] == parsed["m"]["~/"]
    assert unmapped['/m/q"'] == parsed["m"]['q"']


def test_what_is_left_over_in_lists_stands_by_its_index(warehouse: Warehouse) -> None:
    rule = {"l~": [{"q": [{"a": 1, "t": [1]}], "o": {"n": 1}}]}
    root = evolve(schemas.empty(), seen_of([(shape_of(canonical(rule)), 9)])).root
    odd = {"l~": [rule["l~"][0], {"q": [{"a": 2}, {"a": "x", "t": [2, "y"]}], "o": {"n": "z"}}, {"q": [5], "o": 6}]}
    ((row, unmapped),) = run(warehouse, root, [canonical(odd)])
    assert unmapped == {
        "/l~0/1/q/1/a": "x",
        "/l~0/1/q/1/t": [{"$numberInt": "2"}, "y"],
        "/l~0/1/o/n": "z",
        "/l~0/2/q": [{"$numberInt": "5"}],
        "/l~0/2/o": {"$numberInt": "6"},
    }
    (column,) = row.values()
    assert [len(one["q"]) for one in column] == [1, 2, 0]


def test_a_document_of_too_many_keys_keeps_what_has_no_column(warehouse: Warehouse) -> None:
    first = evolve(schemas.empty(), seen_of([(shape_of(canonical({"_id": 1, "a": 1, "o": {"b": 1}})), 1)]))
    late = {"_id": 2, "a": 5, "o": {"b": 2}, **ODD_KEYS, **{f"k{n}": n for n in range(schemas.MAX_TOP_KEYS)}}
    second = evolve(first.root, seen_of([(shape_of(canonical(late)), 1)]))
    assert second.root.closed
    ((row, unmapped),) = run(warehouse, second.root, [canonical(late)])
    assert row == {"a": 5, "o": {"b": 2}}
    assert unmapped == {
        pointer((k,)): v for k, v in json.loads(canonical(late)).items() if k not in ("_id", "a", "o") and v is not None
    }


def test_values_too_large_for_their_column_are_counted(warehouse: Warehouse) -> None:
    """Of each field: how many values of a kind that its column takes are left over. And a document without such is not asked for."""
    large = [
        Decimal128("1E+40"),
        Decimal128("NaN"),
        Decimal128("0." + "1" * 10),
        DatetimeMS(2**60),
        DatetimeMS(-(2**60)),
    ]
    documents = [
        {"_id": 1, "n": Decimal128("1.5"), "d": DatetimeMS(5), "o": {"n": Decimal128("1")}, "p": DatetimeMS(1)},
        *({"_id": 2 + n, "n": value, "o": {"n": value}} for n, value in enumerate(large[:3])),
        *({"_id": 5 + n, "d": value} for n, value in enumerate(large[3:])),
        {
            "_id": 8,
            "l": [Decimal128("1"), Decimal128("1E+40")],
            "s": [{"d": [DatetimeMS(1)]}, {"d": [DatetimeMS(2**61)] * 2}],
        },
        {"_id": 9, "p": DatetimeMS(2**60), "n": "text", "d": 5},
    ]
    texts = [canonical(one) for one in documents]
    root = evolve(schemas.empty(), seen_of((shape_of(text), 1) for text in texts), [Pin(("p",), "STRING")]).root
    dataset = f"{warehouse.project}.refused{uuid.uuid4().hex[:8]}"
    tables = Tables(*(f"{dataset}.{name}" for name in ("raw", "history", "typed", "staging", "newest")))
    listed = ", ".join(f"({quoted(one)})" for one in texts)
    warehouse.script(
        f"CREATE SCHEMA `{dataset}`; CREATE TABLE `{tables.newest}` (document STRING); INSERT INTO `{tables.newest}` VALUES {listed}"
    )
    statement, fields = refused_sql(tables, root, keep_deleted=False)
    (row,) = warehouse.query(statement).rows
    assert {field: row[f"c{n}"] for n, field in enumerate(fields) if row[f"c{n}"]} == {
        ("/n", "NUMERIC", "decimal"): 3,
        ("/d", "TIMESTAMP", "date"): 2,
        ("/o/n", "NUMERIC", "decimal"): 3,
        ("/l", "ARRAY<NUMERIC>", "[decimal]"): 1,
        ("/s/d", "ARRAY<TIMESTAMP>", "[date]"): 2,
        ("/p", "STRING", "date"): 1,
    }
    no_fields, none = refused_sql(
        tables, evolve(schemas.empty(), seen_of([]), [Pin(("n",), "JSON")]).root, keep_deleted=False
    )
    assert (warehouse.query(no_fields).rows, none) == ([{"documents": len(texts)}], [])
    wide = warehouse.query(
        f"SELECT JSON_VALUE(document, '$._id.\"$numberInt\"') AS n FROM `{tables.newest}` WHERE {wide_sql('document')}"
    ).rows
    assert {row["n"] for row in wide} == {"2", "3", "4", "5", "6", "8", "9"}


def test_pins(warehouse: Warehouse) -> None:
    pins = (
        Pin(("a",), "STRING"),
        Pin(("n",), "NUMERIC"),
        Pin(("m",), "JSON"),
        Pin(("o", "x"), "FLOAT64"),
        Pin(("never",), "BYTES"),
        Pin(("list",), "INT64", repeated=True),
    )
    compare(
        warehouse,
        [
            {"_id": 1, "a": 5, "n": 1, "m": {"q": 1}, "o": {"x": 1}, "list": [1]},
            {"_id": 2, "a": 1.5, "n": Decimal128("1.5"), "m": [1, "x"], "o": {"x": "no", "y": True}, "list": 5},
            {"_id": 3, "a": True, "n": "1", "m": None, "o": None},
            {"_id": 4, "a": OID, "n": 2.5},
            {"_id": 5, "a": [1]},
        ],
        pins,
    )


SCALARS: list[Any] = [
    1,
    Int64(5),
    2.5,
    Decimal128("3.25"),
    "s",
    'q"',
    True,
    None,
    OID,
    DatetimeMS(-5),
    b"x",
    Regex("r"),
]


def random_value(rng: random.Random, depth: int) -> Any:
    choice = rng.random()
    if depth < 3 and choice < 0.2:
        return {rng.choice("abcXY$.é"): random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    if depth < 3 and choice < 0.4:
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return rng.choice(SCALARS)


@pytest.mark.parametrize("seed", range(4))
def test_random_documents(warehouse: Warehouse, seed: int) -> None:
    rng = random.Random(seed)
    documents = [
        {"_id": i, **{rng.choice("abcdAB"): random_value(rng, 0) for _ in range(rng.randint(0, 5))}} for i in range(120)
    ]
    compare(warehouse, documents)


@pytest.mark.parametrize("seed", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (6, 10, 12))])
def test_random_documents_of_closed_objects(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Objects, lists of objects and the document itself get more keys than fit: what has no column is left over, once."""
    for name, limit in (("MAX_KEYS", 2), ("MAX_TOP_KEYS", 5), ("PROVEN", 8)):
        monkeypatch.setattr(schemas, name, limit)
    rng = random.Random(seed)
    documents = [
        {"_id": i, **{rng.choice('abcdeAB~"'): random_value(rng, 0) for _ in range(rng.randint(0, 6))}}
        for i in range(80)
    ]
    known = shape_of(canonical({"a": {"a": 1}, "b": [{"a": 1}], "c": {"X": {"a": 1}}}))
    first = evolve(schemas.empty(), seen_of([(known, 1)])).root
    root = compare(warehouse, documents, present=first).root
    assert root.closed
    assert {node.key for node in root.fields if node.closed} == {"a", "b", "c"}


def test_shapes_are_the_same_in_sql(warehouse: Warehouse) -> None:
    rng = random.Random(7)
    texts = [canonical({"_id": i, "v": random_value(rng, 0), 'k"\\:""': '",":""'}) for i in range(100)]
    shape = SHAPE_SQL.format(document="d")
    rows = warehouse.query(
        f"SELECT {shape} AS shape FROM UNNEST(@documents) AS d WITH OFFSET AS o ORDER BY o", {"documents": texts}
    ).rows
    assert [row["shape"] for row in rows] == [shape_of(text) for text in texts]
    assert len(WRAPPERS) == 16
