"""What contracts declare: ways from a service's database to a policy, who owns what, and what a change breaks."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from dataplatform.contracts.commands import contracts as contracts_commands
from dataplatform.contracts.load import load_contracts
from dataplatform.contracts.sources import load_sources_leniently
from dataplatform.lineage.assets import column_lineage
from dataplatform.lineage.commands import lineage
from dataplatform.lineage.declared import asset_edges, contract_marks, declared_edges, promises, table_owners
from dataplatform.lineage.impact import Graph, StoredEdge
from dataplatform.lineage.pii import proposed_tags, spread
from dataplatform.settings import Settings, get_settings

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(env="local", schemas_dir=ROOT / "schemas", first_hour="2026-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def edges() -> list[StoredEdge]:
    return list(declared_edges(SETTINGS, load_contracts(SETTINGS.schemas_dir)))


@pytest.mark.parametrize(
    ("start", "reached"),
    [
        (("mongodb.shop.articles", "price"), ("fraud.policy.listing", "level")),
        (("mongodb.shop.articles", "price"), ("local.fraud.features_user", "item_price_mean_90d")),
        (("mysql.ledger.transfers", "amount"), ("fraud.policy.transfer", "level")),
        (("mysql.ledger.transfers", "amount"), ("local.fraud.features_user", "transferred_1h_to_mean")),
        (("event.pay.send_transfer_pay", "params.receiver.account_no"), ("local.fraud.features_user", "receivers_24h")),
        (("mongodb.shop.articles", "price"), ("fraud.policy.bait_article", "level")),
        (("mongodb.shop.transactions", "amount"), ("local.fraud.features_user", "purchased_30d")),
        (("mongodb.shop.transactions", "buyer"), ("local.fraud.features_user", "sold_to_7d")),
        (("mongodb.shop.articles", "_id"), ("local.fraud.features_article", "prices_7d")),
    ],
)
def test_from_a_source_to_features_and_policies(
    edges: list[StoredEdge], start: tuple[str, str], reached: tuple[str, str]
) -> None:
    assert reached in {one.node for one in Graph(edges).reach(start, indirect=start[1] == "_id")}


def test_a_count_of_people_is_no_personal_data(edges: list[StoredEdge]) -> None:
    found = spread(Graph(edges), {("mongodb.shop.transactions", "buyer"): "user_id"})
    assert ("local.fraud.features_user", "sold_to_7d") in {one.edge.target for one in found.stopped}
    assert ("local.fraud.features_user", "sold_to_7d") not in {one.node for one in found.findings}


def test_assets_are_who_makes_a_table_and_what_it_promises(edges: list[StoredEdge]) -> None:
    made = list(asset_edges(SETTINGS, {"fraud/features_user": "180 min", "contracts/pay": "", "a/b/c": "1 min"}))
    assert [(edge.source_table, edge.target_table) for edge in made] == [
        ("dagster.contracts/pay", "local.contracts.pay"),
        ("dagster.fraud/features_user", "local.fraud.features_user"),
    ]
    graph = Graph([*edges, *made])
    column = ("local.fraud.features_user", "transfers_1h")
    assert not any(one.node[0].startswith("dagster.") for one in graph.reach(column, "upstream"))
    assert ("dagster.fraud/features_user", "*") in {one.node for one in graph.reach(column, "upstream", indirect=True)}
    promised = promises(SETTINGS, graph.edges)
    assert promised["local.fraud.features_user"] == "180 min"
    assert promised["local.mongo.shop__users"] == "120 min"
    assert "local.contracts.pay" not in promised


def test_personal_data_of_a_source_is_followed_and_tags_are_proposed(edges: list[StoredEdge]) -> None:
    marks = contract_marks(SETTINGS)
    assert marks["mysql.ledger.accounts", "holder_name"] == "holder_name"
    found = spread(Graph(edges), {node: mark for node, mark in marks.items() if node[0].startswith("mysql.")})
    tags = proposed_tags(found.findings, "local", "projects/p/tags/1")
    columns = {(tag["table"], tag["column"]) for tag in tags}
    assert ("local.events.register_account_pay", "holder__name") in columns
    assert {tag["policy_tag"] for tag in tags} == {"projects/p/tags/1"}
    assert table_owners(SETTINGS)["ledger.accounts"] == "payments"
    assert table_owners(SETTINGS)["pay.send_transfer_pay"] == "payments"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("kind: oracle\ndatabase: x\nowner: payments\ndescription: x\ntables: {}\n", "kind"),
        ("kind: mysql\ndatabase: x\nowner: nobody\ndescription: x\ntables: {}\n", "`nobody` is not among the owners"),
        ("- a list\n", "a mapping is meant"),
        (
            "kind: mysql\ndatabase: x\nowner: payments\ndescription: x\ntables:\n  t:\n    columns:\n"
            "      c: {to: [event.send_transfer_pay.nothing]}\n",
            "`send_transfer_pay` has no parameter `nothing`",
        ),
        (
            "kind: mysql\ndatabase: x\nowner: payments\ndescription: x\ntables:\n  t:\n    columns:\n"
            "      c: {to: [event.no_such_event.x], colour: red}\n",
            "`colour` is no key of a source",
        ),
    ],
)
def test_mistakes_in_sources_are_told_with_their_line(tmp_path: Path, said: str, told: str) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "one.yaml").write_text(said)
    _, problems = load_sources_leniently(tmp_path, load_contracts(SETTINGS.schemas_dir))
    assert any(told in str(problem) and "one.yaml" in str(problem) for problem in problems)


def test_contracts_check_knows_sources() -> None:
    done = CliRunner().invoke(contracts_commands, ["--schemas-dir", str(SETTINGS.schemas_dir), "check"])
    assert done.exit_code == 0
    assert "3 sources" in done.output


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository of contracts, whose last commit is how they are today."""
    folder = tmp_path / "schemas"
    shutil.copytree(ROOT / "schemas", folder, ignore=shutil.ignore_patterns("generated"))
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "as they are"]):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)
    monkeypatch.setenv("DATAPLATFORM_SCHEMAS_DIR", str(folder))
    monkeypatch.setenv("DATAPLATFORM_DATA_DIR", str(tmp_path / "data"))
    get_settings.cache_clear()
    yield folder
    get_settings.cache_clear()


def test_a_contracts_change_names_what_breaks_and_whose_it_is(changed: Path) -> None:
    runner = CliRunner()
    same = runner.invoke(lineage, ["contracts", "HEAD", "--declared", "--check"])
    assert (same.exit_code, same.output) == (0, "nothing downstream breaks since HEAD\n")
    contract = changed / "events" / "pay" / "charge_balance_pay.yaml"
    text = contract.read_text()
    assert "- name: amount\n    type: NUMERIC" in text
    contract.write_text(text.replace("- name: amount\n    type: NUMERIC", "- name: sum\n    type: NUMERIC"))
    broken = runner.invoke(lineage, ["contracts", "HEAD", "--declared", "--check"])
    assert broken.exit_code == 1
    assert "gone     local.events.charge_balance_pay.amount of payments" in broken.output
    assert "breaks local.fraud.features_user.charged_24h of trust" in broken.output
    assert "breaks fraud.policy.withdrawal.level of trust" in broken.output


def test_changes_of_collections_and_features_break_as_well(changed: Path) -> None:
    def told(file: str, before: str, after: str) -> str:
        path = changed / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))
        result = CliRunner().invoke(lineage, ["contracts", "HEAD", "--declared"])
        path.write_text(text)
        return result.output

    retyped = told("collections/shop.transactions.yaml", "path: amount, type: NUMERIC", "path: amount, type: STRING")
    assert "retyped  mongodb.shop.transactions.amount of payments" in retyped
    assert "breaks local.mongo.shop__transactions.amount of payments" in retyped
    assert "breaks local.fraud.features_user.purchased_30d of trust" in retyped
    gone = told("collections/shop.articles.yaml", "path: price,", "path: cost,")
    assert "gone     mongodb.shop.articles.price of listings" in gone
    assert "breaks fraud.policy.bait_article.level of trust" in gone
    declared = told("sources/ledger.yaml", "holder_name: {to:", "holder: {to:")
    assert "gone     mysql.ledger.accounts.holder_name of payments" in declared
    assert "breaks local.events.register_account_pay.holder__name of payments" in declared
    assert "gone     local.fraud.features_user.sales_30d of trust" in told(
        "features/user.yaml", "name: sales_30d,", "name: sales_month,"
    )


def test_impact_tells_owner_promise_and_last_use(tmp_path: Path) -> None:
    file = tmp_path / "edges.jsonl"
    edge = {
        "kind": "edge",
        "source_table": "p.a.t",
        "source_column": "x",
        "target_table": "local.mongo.shop__users",
        "target_column": "y",
        "type": "DIRECT",
        "subtype": "IDENTITY",
        "job_id": "one",
        "last_seen": "2026-01-02T03:04:05+00:00",
    }
    file.write_text(json.dumps(edge) + "\n")
    done = CliRunner().invoke(lineage, ["impact", "p.a.t.x", "--edges", str(file)])
    line = done.output.splitlines()[1].split()
    assert line == [
        "1",
        "local.mongo.shop__users.y",
        "identity",
        "identity",
        "120",
        "min",
        "2026-01-02",
        "03:04",
        "one",
    ]
    told = json.loads(
        CliRunner().invoke(lineage, ["impact", "p.a.t.x", "--edges", str(file), "--format", "json"]).output
    )
    assert (told[0]["owner"], told[0]["fresh_within"], told[0]["last_use"]) == (
        "identity",
        "120 min",
        "2026-01-02T03:04:05+00:00",
    )


def test_column_lineage_of_an_asset_names_assets(edges: list[StoredEdge]) -> None:
    key = dg.AssetKey(["fraud", "features_user"])
    found = column_lineage(Graph(edges), SETTINGS, key)
    assert found is not None
    assert found.deps_by_column["login_risk_max_24h"] == [
        dg.TableColumnDep(asset_key=dg.AssetKey(["events", "login_account_identity"]), column_name="risk_score")
    ]
    assert column_lineage(Graph(edges), SETTINGS, dg.AssetKey(["contracts", "pay"])) is None
    assert column_lineage(Graph(edges), SETTINGS, dg.AssetKey("alone")) is None
