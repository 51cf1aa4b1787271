"""The query log: which jobs count, what of them is kept, from which projects and regions."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from dataplatform.lineage.catalog import catalog_from
from dataplatform.lineage.edges import Edge, Resolution
from dataplatform.lineage.history import made_table
from dataplatform.lineage.jobs import Job, resolve_job
from dataplatform.lineage.names import general_uri
from dataplatform.lineage.query_log import Place, finished_jobs, jobs_statement, places, queried_job
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse

SNAPSHOT = Path(__file__).parent / "snapshots" / "finished_jobs.sql"
START = datetime(2026, 1, 1, 3, tzinfo=UTC)


def test_the_statement_for_bigquery_is_as_reviewed() -> None:
    assert jobs_statement(Place("shop-prod", "eu")) == SNAPSHOT.read_text()


@pytest.mark.parametrize(
    ("uri", "general"),
    [
        ("gs://landing/events/2026-11-24/08/c-20261124T100452-e617eae2-000001.ndjson", "gs://landing/events/*"),
        ("gs://b/users/part-00000.parquet", "gs://b/users/*"),
        ("gs://b/static/countries.csv", "gs://b/static/countries.csv"),
        ("gs://b/exports/*.csv", "gs://b/exports/*"),
        ("gs://b2026/x.csv", "gs://b2026/x.csv"),
    ],
)
def test_files_are_told_by_the_folder_of_all_days(uri: str, general: str) -> None:
    assert general_uri(uri) == general


def test_each_job_counts_once(settings_for: Callable[..., Settings]) -> None:
    """The statement itself, over a table of the shape of BigQuery's view."""
    warehouse = Warehouse(settings_for())
    dataset = warehouse.dataset_id("log")
    warehouse.query(f"CREATE SCHEMA `{dataset}`")
    strings = ("project_id", "query", "job_type", "statement_type", "user_email", "parent_job_id", "state")
    warehouse.query(
        f"CREATE TABLE `{dataset}.jobs` (job_id STRING, {', '.join(f'{name} STRING' for name in strings)}, cache_hit BOOL,"
        " creation_time TIMESTAMP, start_time TIMESTAMP, end_time TIMESTAMP, total_bytes_processed INT64,"
        " labels ARRAY<STRUCT<key STRING, value STRING>>, error_result STRUCT<reason STRING, message STRING>,"
        " destination_table STRUCT<project_id STRING, dataset_id STRING, table_id STRING>)"
    )
    rows = {
        "plain": ("'SELECT 1'", "'SELECT'", "NULL", "NULL"),
        "static": ("'CREATE TEMP TABLE x AS SELECT 1; SELECT * FROM x'", "'SCRIPT'", "NULL", "NULL"),
        "static_child": ("'SELECT * FROM x'", "'SELECT'", "'static'", "NULL"),
        "dynamic": ("'EXECUTE  IMMEDIATE text'", "'SCRIPT'", "NULL", "NULL"),
        "dynamic_child": ("'SELECT 2'", "'SELECT'", "'dynamic'", "NULL"),
        "orphan": ("'SELECT 3'", "'SELECT'", "'older than what is looked at'", "NULL"),
        "failed": ("'SELECT 4'", "'SELECT'", "NULL", "STRUCT('invalid' AS reason, 'no' AS message)"),
    }
    values = ", ".join(
        f"('{name}', 'p', {text}, 'QUERY', {kind}, 'a@b', {parent}, 'DONE', FALSE, TIMESTAMP '2026-01-01 03:10:00+00',"
        f" TIMESTAMP '2026-01-01 03:10:00+00', TIMESTAMP '2026-01-01 03:{10 + number}:00+00', 5,"
        f" [STRUCT('team' AS key, 'x' AS value)], {error},"
        " STRUCT('p' AS project_id, 'd' AS dataset_id, 't' AS table_id))"
        for number, (name, (text, kind, parent, error)) in enumerate(rows.items())
    )
    warehouse.query(
        f"INSERT INTO `{dataset}.jobs` (job_id, {', '.join(strings)}, cache_hit, creation_time, start_time, end_time,"
        f" total_bytes_processed, labels, error_result, destination_table) VALUES {values}"
    )
    sql = jobs_statement(Place("p", "us")).replace("`p`.`region-us`.INFORMATION_SCHEMA.JOBS", f"`{dataset}.jobs`")
    found = warehouse.query(sql, {"start": START, "end": START + timedelta(hours=1)}).rows
    jobs = [queried_job(row) for row in found]
    assert [job.job_id for job in jobs] == ["plain", "static", "dynamic_child", "orphan"]
    assert (jobs[0].destination_table, jobs[0].default_dataset, jobs[0].labels) == ("p.d.t", "p.d", {"team": "x"})
    later = warehouse.query(sql, {"start": START + timedelta(hours=1), "end": START + timedelta(hours=2)}).rows
    assert later == []


def test_places_are_the_settings(settings_for: Callable[..., Settings]) -> None:
    assert places(Warehouse(settings_for(project="local"))) == [Place("local", "us")]
    given = settings_for(lineage_sources=["shop-prod.eu", "example.com:ads.us-east1"])
    assert places(Warehouse(given)) == [Place("shop-prod", "eu"), Place("example.com:ads", "us-east1")]


def test_jobs_of_all_projects_and_tables_of_a_run(settings_for: Callable[..., Settings]) -> None:
    own = settings_for().project
    warehouse = Warehouse(settings_for(lineage_sources=[f"{own}.us", f"{own}.us"]))
    dataset = warehouse.dataset_id("runs")
    warehouse.query(f"CREATE SCHEMA `{dataset}`")
    before = datetime.now(UTC) - timedelta(seconds=1)
    staged = f"{dataset}.staging_0123456789ab"
    warehouse.query(f"CREATE TABLE `{staged}` AS SELECT 1 AS a, 'x' AS b")
    warehouse.query(f"SELECT a FROM `{staged}` WHERE b = 'staging_0123456789ab'")
    warehouse.query(f"DROP TABLE `{staged}`")
    found = [one.job for one in finished_jobs(warehouse, before, datetime.now(UTC) + timedelta(seconds=1))]
    texts = [job.query or "" for job in found if f"{dataset}.staging" in (job.query or "")]
    assert len(texts) == 3  # each once, although the place is named twice
    assert texts[1] == f"SELECT a FROM `{dataset}.staging` WHERE b = 'staging_0123456789ab'"


def test_a_table_that_came_and_went_is_known_by_its_query() -> None:
    catalog = catalog_from({"p.d.t": {"columns": [{"name": "a", "type": "INT64"}, {"name": "b", "type": "STRING"}]}})
    text = "CREATE TABLE d.gone AS SELECT a, STRUCT(b AS c) AS s, 1 AS one FROM d.t"
    job = Job(project_id="p", query=text, statement_type="CREATE_TABLE_AS_SELECT")
    made = made_table(job, resolve_job(job, catalog), catalog)
    assert made is not None
    catalog.add(*made)
    read = resolve_job(Job(project_id="p", query="SELECT * FROM d.gone WHERE s.c > ''"), catalog)
    assert [edge.target_column for edge in read.edges if edge.type == "DIRECT"] == ["a", "s", "one"]
    assert read.unresolved == []
    assert made_table(job, resolve_job(job, catalog), catalog) is None  # it is known now
    insert = Job(project_id="p", query="INSERT INTO d.other SELECT a FROM d.t", statement_type="INSERT")
    assert made_table(insert, resolve_job(insert, catalog), catalog) is None


def test_a_load_of_a_table_that_is_gone_has_the_columns_of_its_job() -> None:
    job = Job(
        project_id="p",
        job_type="LOAD",
        destination_table="p.d.staging",
        source_uris=("gs://b/x/2026-01-01/1.json", "gs://b/x/2026-01-01/2.json"),
        columns=("a", "b"),
    )
    assert resolve_job(job, catalog_from({})) == Resolution(
        [Edge("gs://b/x/*", name, "p.d.staging", name, "DIRECT", "IDENTITY", False, name, 0.9) for name in ("a", "b")],
        [],
    )


def test_load_and_extract_jobs_of_all_days_are_one_form_of_one_node() -> None:
    catalog = catalog_from({"p.d.t": {"columns": [{"name": "a", "type": "INT64"}]}})
    for files in (
        {"job_type": "LOAD", "destination_table": "p.d.t"},
        {"job_type": "EXTRACT", "source_tables": ("p.d.t",)},
    ):
        key = "source_uris" if files["job_type"] == "LOAD" else "destination_uris"
        one, other = (Job(project_id="p", **files, **{key: (f"gs://b/x/2026-01-0{day}/f",)}) for day in (1, 2))
        assert one.fingerprint() == other.fingerprint()
        (edge,) = resolve_job(one, catalog).edges
        assert "gs://b/x/*" in (edge.source_table, edge.target_table)
        assert one.fingerprint() != msgspec.structs.replace(one, **{key: ("gs://b/y/f",)}).fingerprint()
