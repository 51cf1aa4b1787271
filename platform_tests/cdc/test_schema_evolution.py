"""Schemas grow and never shrink, the same input gives the same schema; names follow their rule; personal data is marked."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.cdc import schema
from dataplatform.cdc.extended_json import canonical
from dataplatform.cdc.names import column_name, table_name
from dataplatform.cdc.schema import Node, evolve
from dataplatform.cdc.shapes import seen_of, shape_of
from dataplatform.cdc.tables import collection_specs, typed_columns
from dataplatform.contracts.collections import CollectionContract, load_collections, load_collections_leniently
from dataplatform.contracts.errors import ContractError
from dataplatform.local.servers import CHECKOUT

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abAB"), inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.dictionaries(st.sampled_from("abcAB"), VALUES, max_size=4), min_size=1, max_size=6)
WIDTH = {"INT64": 0, "NUMERIC": 1, "FLOAT64": 2}


def grown(root: Node, documents: list[dict[str, object]]) -> schema.Evolution:
    return evolve(root, seen_of((shape_of(canonical(document)), 1) for document in documents))


def assert_wider(before: Node, after: Node) -> None:
    for node in before.fields:
        other = after.field(node.key)
        assert other is not None, f"{node.key} was dropped"
        assert (other.column, other.repeated) == (node.column, node.repeated)
        assert other.type == node.type or WIDTH[other.type] > WIDTH[node.type]
        assert_wider(node, other)


@given(DOCUMENTS, DOCUMENTS)
def test_columns_are_added_and_widened_never_narrowed_or_dropped(
    first: list[dict[str, object]], second: list[dict[str, object]]
) -> None:
    one = grown(schema.empty(), first).root
    two = grown(one, second)
    assert_wider(one, two.root)
    again = grown(two.root, second)
    assert schema.encode(again.root) == schema.encode(two.root)
    assert {step.step for step in again.steps} <= {"conflict"}
    assert schema.decode(schema.encode(two.root)) == two.root


@given(st.lists(st.text(max_size=5), max_size=8, unique=True))
def test_columns_of_any_keys_are_names_that_differ(keys: list[str]) -> None:
    taken: set[str] = set()
    for key in keys:
        name = column_name(key, taken)
        assert name.replace("_", "a").isalnum()
        assert name.isascii()
        assert not name[0].isdigit()
        assert name.lower() not in taken
        taken.add(name.lower())


@pytest.mark.parametrize(
    ("key", "start"),
    [
        ("a.b", "a_b_"),
        ("1st", "_1st_"),
        ("_PARTITIONTIME", "f_PARTITIONTIME_"),
        ("_unmapped", "f_unmapped_"),
        ("_id", "f_id_"),
        ("", "__"),
        ("가격", "___"),
    ],
)
def test_a_name_that_is_changed_ends_in_a_mark_of_the_original(key: str, start: str) -> None:
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{6}", column_name(key))
    assert column_name("price") == "price"
    assert column_name("Price", {"price"}).startswith("Price_")


def test_table_names_cannot_meet() -> None:
    assert table_name("shop", "articles") == "shop__articles"
    names = {
        table_name(*pair)
        for pair in [("a", "b__c"), ("a__b", "c"), ("a_", "b"), ("a", "_b"), ("a", "b.c"), ("a", "b_c")]
    }
    assert len(names) == 6
    assert table_name("a", "x__changes") != "a__x__changes"


def test_personal_data_is_marked() -> None:
    contract = load_collections(CHECKOUT / "schemas").contracts["shop.users"]
    root = grown(schema.empty(), [{"phone": "1", "nickname": "n", "manner": 1.5}]).root
    found = {column["name"]: column for column in typed_columns(contract, root, "projects/p/tag")}
    assert found["phone"]["policyTags"] == {"names": ["projects/p/tag"]}
    assert "policyTags" not in found["manner"]
    raw = {column["name"]: column for column in collection_specs(contract, "projects/p/tag")[0].schema}
    assert "policyTags" in raw["document"]


def test_five_lines_are_a_contract(tmp_path: Path) -> None:
    folder = tmp_path / "collections"
    folder.mkdir()
    lines = "connection: a\ndatabase: b\ncollection: c\nowner: d\ndescription: e\n"
    (folder / "b.c.yaml").write_text(lines)
    assert isinstance(load_collections(tmp_path).contracts["b.c"], CollectionContract)
    (folder / "wrong.yaml").write_text(lines.replace("collection: c", "collection: x"))
    (folder / "b.y.yaml").write_text("connection: a\ndatabase: b\ncollection: y\nowner: d\nuri: mongodb://secret\n")
    good, problems = load_collections_leniently(tmp_path)
    assert list(good.contracts) == ["b.c"]
    assert {problem.code for problem in problems} == {"wrong_file_name", "missing", "extra_forbidden"}
    with pytest.raises(ContractError, match=r"rename the file to b\.x\.yaml"):
        load_collections(tmp_path)


def test_names_that_mongodb_has_not_are_the_files_mistake(tmp_path: Path) -> None:
    """The driver refuses them when they are used, and the other collections with them. A slash is no part of a file's name."""
    folder = tmp_path / "collections"
    folder.mkdir()
    names = ("my db", "c"), ("b", "a..b"), ("b", "$c"), ("b", ".c"), ("b", "c."), ("b", "a/b"), ("B-é", "Odd name-é.1")
    for number, (database, collection) in enumerate(names):
        lines = f"connection: a\ndatabase: '{database}'\ncollection: '{collection}'\nowner: d\ndescription: e\n"
        file = folder / f"{database}.{collection}.yaml".replace("/", "_")
        file.write_text(lines)
        assert len(list(folder.iterdir())) == number + 1
    good, problems = load_collections_leniently(tmp_path)
    assert set(good.contracts) == {"b.a/b", "B-é.Odd name-é.1"}
    assert [problem.code for problem in problems] == ["bad_name"] * 5


def test_a_flood_of_keys_does_not_keep_later_fields_from_their_columns() -> None:
    """One document with thousands of keys closes the schema; a field that enough documents have still gets a column."""
    root = grown(schema.empty(), [{"a": 1, "m": {"x": 1}}]).root
    flooded = grown(root, [{f"k{n}": n for n in range(2_100)}, {"m": {f"k{n}": n for n in range(300)}}])
    assert [step.step for step in flooded.steps] == ["too_many_keys", "too_many_keys"]
    late = [{"late": 1, f"noise{n}": 1, "m": {"late": n}} for n in range(schema.PROVEN)]
    grew = grown(flooded.root, late)
    assert [node.key for node in grew.root.fields] == ["a", "m", "late"]
    inner = grew.root.field("m")
    assert inner is not None
    assert [node.key for node in inner.fields] == ["x", "late"]
    wide = grown(schema.empty(), [{f"k{n:04}": n for n in range(2_100)}] * schema.PROVEN).root
    assert len(wide.fields) == schema.MAX_TOP_KEYS, "never more than there is room for"
