"""The simulated shop keeps its collections changing, with the dirt it promises, and its contracts type what comes."""

from typing import Any

from pymongo import MongoClient

from dataplatform.cdc import schema
from dataplatform.cdc.extended_json import CODEC, canonical
from dataplatform.cdc.schema import Pin, evolve
from dataplatform.cdc.shapes import seen_of, shape_of
from dataplatform.contracts.collections import load_collections
from dataplatform.local.servers import CHECKOUT
from dataplatform.local.shop import COLLECTIONS, Shop


def test_the_shop_changes_and_its_contracts_type_it(mongo: Any) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(mongo.uri)
    shop = Shop(client, seed=3, database="shoptest")
    shop.fill(articles=60, users=30)
    assert shop.run(changes=400) == 400
    assert {"view", "chat", "buy", "delete", "again", "dirt"} <= set(shop.counts)
    contracts = load_collections(CHECKOUT / "schemas").contracts
    assert set(contracts) == {f"shop.{name}" for name in COLLECTIONS}
    steps = {}
    for name in COLLECTIONS:
        texts = [canonical(one) for one in client["shoptest"].get_collection(name, codec_options=CODEC).find({})]
        pins = [Pin(one.keys, one.type, one.repeated) for one in contracts[f"shop.{name}"].fields]
        evolution = evolve(schema.empty(), seen_of((shape_of(text), 1) for text in texts), pins)
        steps[name] = evolution
        assert texts, name
    columns = {node.key: (node.type, node.repeated) for node in steps["articles"].root.fields}
    assert columns["price"] == ("NUMERIC", False)
    assert columns["attributes"] == ("JSON", False)
    assert columns["images"] == ("STRUCT", True)
    assert columns["seller"] == ("STRUCT", False)
    assert {step.path for step in steps["articles"].steps if step.step == "conflict"} >= {"/region", "/price"}
    client.close()
