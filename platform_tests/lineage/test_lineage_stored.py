"""Collection from the embedded server's own job log into `data_catalog`, and questions over the stored graph."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from dataplatform.lineage import stored
from dataplatform.lineage.impact import Graph
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse


def test_from_the_job_log_to_the_graph(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    warehouse = Warehouse(settings)
    stored.prepare(stored.catalog_warehouse(settings))
    before = datetime.now(UTC) - timedelta(seconds=2)
    dataset = warehouse.dataset_id("shop")
    warehouse.query(f"CREATE SCHEMA `{dataset}`")
    warehouse.query(f"CREATE TABLE `{dataset}.users` (id INT64, email STRING, age INT64)")
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
    inserts = [
        row
        for row in ours.query(
            f"SELECT q.fingerprint, COUNT(*) AS runs FROM `{ours.table_id('data_catalog', 'lineage_jobs')}` AS j "
            f"JOIN `{ours.table_id('data_catalog', 'lineage_queries')}` AS q ON q.fingerprint = j.fingerprint "
            f"WHERE STARTS_WITH(q.text, 'INSERT INTO `{dataset}.users`') GROUP BY q.fingerprint"
        ).rows
    ]
    assert [row["runs"] for row in inserts] == [2]  # other literals, one entry

    graph = Graph(stored.stored_edges(settings))
    found = graph.reach((f"{dataset}.users", "email"))
    assert [".".join(one.node) for one in found] == [f"{dataset}.adults.email", f"{dataset}.mails.mail"]
    assert graph.is_read((f"{dataset}.mails", "mail"))
    assert f"{dataset}.adults" in {one.node[0] for one in graph.reach((f"{dataset}.users", "age"), indirect=True)}

    again = stored.collect(ours, start, end)
    assert again.resolved == 0
    assert again.jobs == first.jobs
    assert len(Graph(stored.stored_edges(settings)).edges) == len(graph.edges)

    ours.query(f"UPDATE `{ours.table_id('data_catalog', 'lineage_queries')}` SET resolver_version = '0' WHERE TRUE")
    assert stored.resolve_again(ours) > 0
    assert len(Graph(stored.stored_edges(settings)).edges) == len(graph.edges)

    coverage = stored.describe_columns(ours, settings)
    shop = [name for name in coverage.without if name.startswith(f"{dataset}.")]
    assert shop == []
