"""Collection from the embedded server's own job log into `data_catalog`, and questions over the stored graph."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from dataplatform.contracts.load import Contracts
from dataplatform.lineage import assets, stored
from dataplatform.lineage.impact import Graph
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse

DOCS = Path(__file__).parents[2] / "docs" / "lineage.md"


def test_from_the_job_log_to_the_graph(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    warehouse = Warehouse(settings)
    stored.prepare(stored.catalog_warehouse(settings))
    before = datetime.now(UTC) - timedelta(seconds=2)
    dataset = warehouse.dataset_id("shop")
    warehouse.query(f"CREATE SCHEMA `{dataset}`; CREATE TABLE `{dataset}.users` (id INT64, email STRING, age INT64)")
    for age in (3, 4):
        warehouse.query(f"INSERT INTO `{dataset}.users` (id, email, age) VALUES ({age}, 'x', {age})")
    warehouse.query(
        f"CREATE VIEW `{dataset}.adults` AS SELECT id, LOWER(email) AS email FROM `{dataset}.users` WHERE age > 17"
    )
    warehouse.query(f"CREATE TABLE `{dataset}.mails` AS SELECT email AS mail FROM `{dataset}.adults`")
    warehouse.query(f"SELECT mail FROM `{dataset}.mails`")
    end = datetime.now(UTC) + timedelta(hours=1)
    start = before.replace(minute=0, second=0, microsecond=0)
    ours = stored.catalog_warehouse(settings)

    first = stored.collect(ours, start, end)
    assert first.resolved >= 5
    inserts = list(
        ours.query(
            f"SELECT q.fingerprint, COUNT(*) AS runs FROM `{ours.table_id('data_catalog', 'lineage_jobs')}` AS j "
            f"JOIN `{ours.table_id('data_catalog', 'lineage_queries')}` AS q ON q.fingerprint = j.fingerprint "
            f"WHERE STARTS_WITH(q.text, 'INSERT INTO `{dataset}.users`') GROUP BY q.fingerprint"
        ).rows
    )
    assert [row["runs"] for row in inserts] == [2]  # other literals, one entry

    graph = Graph(stored.stored_edges(settings))
    found = graph.reach((f"{dataset}.users", "email"))
    assert [".".join(one.node) for one in found] == [f"{dataset}.adults.email", f"{dataset}.mails.mail"]
    assert graph.is_read((f"{dataset}.mails", "mail"))
    assert f"{dataset}.adults" in {one.node[0] for one in graph.reach((f"{dataset}.users", "age"), indirect=True)}

    documented = re.search(r"```sql\n(WITH RECURSIVE reached.*?)```", DOCS.read_text(), re.DOTALL)
    assert documented is not None
    in_sql = ours.query(
        documented[1].replace("data_catalog.lineage", f"`{ours.table_id('data_catalog', 'lineage')}`"),
        {"table": f"{dataset}.users", "column": "email"},
    ).rows
    assert [(row["table_name"], row["column_name"]) for row in in_sql][1:] == [one.node for one in found]

    (named,) = ours.query(
        "SELECT source_project, source_dataset, target_project, target_dataset, runs, example_job_id IS NOT NULL AS has_job"
        f" FROM `{ours.table_id('data_catalog', 'lineage')}` WHERE target_table = '{dataset}.mails' AND type = 'DIRECT'"
    ).rows
    assert list(named.values()) == [*dataset.split("."), *dataset.split("."), 1, True]

    again = stored.collect(ours, start, end)
    assert again.resolved == 0
    assert again.jobs == first.jobs
    assert len(Graph(stored.stored_edges(settings)).edges) == len(graph.edges)

    ours.query(f"UPDATE `{ours.table_id('data_catalog', 'lineage_queries')}` SET resolver_version = '0' WHERE TRUE")
    assert stored.resolve_again(ours) > 0
    assert len(Graph(stored.stored_edges(settings)).edges) == len(graph.edges)


def test_assets_of_an_hour(settings_for: Callable[..., Settings]) -> None:
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    settings = settings_for(first_hour=hour - timedelta(hours=1))
    contracts = Contracts()
    warehouse = Warehouse(settings)
    dataset = warehouse.dataset_id("shop")
    warehouse.query(f"CREATE SCHEMA `{dataset}`; CREATE TABLE `{dataset}.one` AS SELECT 1 AS a, 'x' AS b")
    warehouse.query(f"CREATE TABLE `{dataset}.two` AS SELECT a + 1 AS c FROM `{dataset}.one`")
    definitions = assets.definitions(settings, contracts)
    dg.Definitions.validate_loadable(definitions)
    with dg.DagsterInstance.ephemeral() as instance:
        found = list(definitions.assets or ())
        done = dg.materialize(
            [found[0]], instance=instance, partition_key=hour.strftime("%Y-%m-%d-%H:%M"), raise_on_error=True
        )
        assert done.success
        (facts,) = [
            event.materialization.metadata
            for event in done.get_asset_materialization_events()
            if event.asset_key == assets.QUERIES_KEY
        ]
        assert facts["jobs"].value >= 2
        assert dg.materialize([found[1]], instance=instance, raise_on_error=True).success
        assert stored.query_coverage(stored.catalog_warehouse(settings)).statuses
    rows = warehouse.query(
        f"SELECT column_path, has_source, is_read FROM `{warehouse.table_id('data_catalog', 'columns')}` "
        f"WHERE table_name IN ('{dataset}.one', '{dataset}.two') ORDER BY table_name, column_path"
    ).rows
    assert [(row["column_path"], row["has_source"], row["is_read"]) for row in rows] == [
        ("a", True, True),
        ("b", True, False),
        ("c", True, False),
    ]
