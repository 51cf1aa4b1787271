"""Lineage as Dagster assets: distinct queries and their edges by hour, contracts' edges, columns with their coverage, personal data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ..contracts.load import Contracts, load_contracts_leniently
from ..runs import process_tags
from ..settings import Settings
from .checks import complete_check, coverage_check, personal_data_check
from .hours import RESOLVER_VERSION, LineageHours
from .sensors import log_sensor

if TYPE_CHECKING:
    from .impact import Graph

FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=6), warn_window=timedelta(hours=3))
"""Hours of the query log are collected when they are over; what is later than this, nobody looks after."""
QUERIES_KEY = dg.AssetKey(["data_catalog", "lineage_queries"])
LINEAGE_KEY = dg.AssetKey(["data_catalog", "lineage"])
COLUMNS_KEY = dg.AssetKey(["data_catalog", "columns"])
PII_KEY = dg.AssetKey(["data_catalog", "pii"])


def definitions(
    settings: Settings, contracts: Contracts | None = None, others: Iterable[object] = ()
) -> dg.Definitions:
    """All definitions of lineage. Sends no request.

    `contracts` are read from `schemas_dir` when they are not given; `others` are the assets of the other domains, whose tables
    are told by whom they are made.
    """
    known = contracts if contracts is not None else load_contracts_leniently(settings.schemas_dir)[0]
    specs = [spec for one in others if isinstance(one, dg.AssetsDefinition) for spec in one.specs]
    promised = {spec.key: _promise(spec.freshness_policy) for spec in specs}
    promised |= dict.fromkeys([QUERIES_KEY, LINEAGE_KEY, COLUMNS_KEY, PII_KEY], _promise(FRESHNESS))
    return dg.Definitions(
        assets=[query_assets(settings, known, promised), column_assets(settings, list(promised))],
        asset_checks=[
            coverage_check(settings, QUERIES_KEY),
            complete_check(settings, COLUMNS_KEY),
            personal_data_check(settings, PII_KEY),
        ],
        sensors=[log_sensor(LineageHours(settings, known))],
    )


def _promise(policy: object) -> str:
    """What a freshness policy promises, in minutes or by its deadline; empty where it is none."""
    window = getattr(policy, "fail_window", None)
    if window is not None:
        return f"{window.to_timedelta() // timedelta(minutes=1)} min"
    deadline = getattr(policy, "deadline_cron", None)
    return f"by {deadline}" if deadline else ""


def query_assets(settings: Settings, contracts: Contracts, promised: Mapping[dg.AssetKey, str]) -> dg.AssetsDefinition:
    """Jobs of an hour, what is new among their texts, and the graph over all of it."""

    @dg.multi_asset(
        name="lineage",
        specs=[
            dg.AssetSpec(
                QUERIES_KEY,
                description="Distinct queries of the log: text, whether it was resolved, and why not.",
                group_name="data_catalog",
                kinds={"bigquery", "table"},
                tags={"domain": "lineage"},
                freshness_policy=FRESHNESS,
                code_version=RESOLVER_VERSION,
            ),
            dg.AssetSpec(
                LINEAGE_KEY,
                deps=[QUERIES_KEY],
                description="Column to column, direct and indirect, with the query that makes it, first and last run.",
                group_name="data_catalog",
                kinds={"bigquery", "view"},
                tags={"domain": "lineage"},
                freshness_policy=FRESHNESS,
                code_version=RESOLVER_VERSION,
            ),
        ],
        partitions_def=dg.HourlyPartitionsDefinition(start_date=settings.first_hour, timezone="UTC", end_offset=1),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool="bigquery",
    )
    def lineage(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        from . import stored

        context.instance.add_run_tags(context.run_id, process_tags())
        window = context.partition_time_window
        warehouse = stored.catalog_warehouse(settings).labelled(dagster_run=context.run_id)
        done = stored.collect(warehouse, window.start.astimezone(UTC), window.end.astimezone(UTC))
        older = stored.resolve_again(warehouse)
        made = {key.to_user_string(): promise for key, promise in promised.items()}
        declared = stored.declare(warehouse, settings, contracts, made)
        stored.note_hours(warehouse, settings, contracts, done)
        facts = {"jobs": done.jobs, "distinct": done.distinct, "resolved_now": done.resolved, "resolved_again": older}
        yield dg.MaterializeResult(
            asset_key=QUERIES_KEY,
            metadata={
                **facts,
                "statuses": dg.MetadataValue.json(done.statuses),
                "reasons": dg.MetadataValue.json(done.reasons),
            },
        )
        yield dg.MaterializeResult(
            asset_key=LINEAGE_KEY, metadata={"new_edges": done.edges, "declared_edges": declared}
        )

    return lineage


def column_assets(settings: Settings, keys: Sequence[dg.AssetKey]) -> dg.AssetsDefinition:
    """Columns as they are now, and where personal data has gone."""

    @dg.multi_asset(
        name="columns",
        specs=[
            dg.AssetSpec(
                COLUMNS_KEY,
                deps=[LINEAGE_KEY],
                description="Columns of all tables: type, whether their sources are known, whether anything reads them.",
                group_name="data_catalog",
                kinds={"bigquery", "table"},
                tags={"domain": "lineage"},
                freshness_policy=FRESHNESS,
            ),
            dg.AssetSpec(
                PII_KEY,
                deps=[LINEAGE_KEY],
                description="Columns that hold personal data by their origin, with the way it came.",
                group_name="data_catalog",
                kinds={"bigquery", "table"},
                tags={"domain": "lineage"},
                freshness_policy=FRESHNESS,
            ),
        ],
        pool="bigquery",
    )
    def columns(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        from .described import describe_columns, describe_personal_data
        from .impact import Graph
        from .stored import catalog_warehouse, stored_edges

        context.instance.add_run_tags(context.run_id, process_tags())
        warehouse = catalog_warehouse(settings).labelled(dagster_run=context.run_id)
        graph = Graph(stored_edges(settings))
        found = describe_columns(warehouse, graph)
        yield dg.MaterializeResult(
            asset_key=COLUMNS_KEY,
            metadata={
                "columns": found.columns,
                "with_source": found.with_source,
                "without_source": dg.MetadataValue.md(
                    "\n".join(f"- `{name}`" for name in found.without[:200]) or "none"
                ),
            },
        )
        rows = describe_personal_data(warehouse, settings, graph)
        yield dg.MaterializeResult(asset_key=PII_KEY, metadata={"columns": rows})
        for key in keys:
            lineage = column_lineage(graph, settings, key)
            if lineage is not None and lineage != _told_last(context.instance, key):
                context.log_event(
                    dg.AssetObservation(asset_key=key, metadata={"dagster/column_lineage": lineage, **_NOTE})
                )

    return columns


_NOTE = {"dataplatform/observed_by": "data_catalog/columns"}


def column_lineage(graph: "Graph", settings: Settings, key: dg.AssetKey) -> dg.TableColumnLineage | None:
    """Dagster's form of an asset's direct edges from columns of other assets' tables; None where there are none."""
    from .declared import asset_table

    table = asset_table(settings, key.to_user_string())
    if table is None:
        return None
    found: dict[str, list[dg.TableColumnDep]] = {}
    for column in graph.columns(table):
        sources = {node for edge, node in graph.steps((table, column), False, False) if edge.source_table}
        found[column] = [
            dg.TableColumnDep(asset_key=dg.AssetKey(source.split(".")[-2:]), column_name=path)
            for source, path in sorted(sources)
            if source.startswith(f"{settings.project}.")
        ]
    known = {column: deps for column, deps in found.items() if deps}
    return dg.TableColumnLineage(deps_by_column=known) if known else None


def _told_last(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.TableColumnLineage | None:
    records = instance.fetch_observations(key, limit=1).records
    observation = records[0].asset_observation if records else None
    told = observation.metadata.get("dagster/column_lineage") if observation is not None else None
    return told.value if isinstance(told, dg.TableColumnLineageMetadataValue) else None
