"""Lineage as Dagster assets: distinct queries and their edges by hour, contracts' edges, columns with their coverage, personal data."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

import dagster as dg

from ..contracts.load import Contracts, load_contracts_leniently
from ..runs import process_tags
from ..settings import Settings
from .checks import coverage_check, personal_data_check
from .hours import RESOLVER_VERSION, LineageHours
from .sensors import log_sensor

QUERIES_KEY = dg.AssetKey(["data_catalog", "lineage_queries"])
LINEAGE_KEY = dg.AssetKey(["data_catalog", "lineage"])
COLUMNS_KEY = dg.AssetKey(["data_catalog", "columns"])
PII_KEY = dg.AssetKey(["data_catalog", "pii"])


def definitions(settings: Settings, contracts: Contracts | None = None) -> dg.Definitions:
    """All definitions of lineage. Sends no request; `contracts` are read from `schemas_dir` when they are not given."""
    known = contracts if contracts is not None else load_contracts_leniently(settings.schemas_dir)[0]
    return dg.Definitions(
        assets=[query_assets(settings, known), column_assets(settings)],
        asset_checks=[coverage_check(settings, QUERIES_KEY), personal_data_check(settings, PII_KEY)],
        sensors=[log_sensor(LineageHours(settings, known))],
    )


def query_assets(settings: Settings, contracts: Contracts) -> dg.AssetsDefinition:
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
                code_version=RESOLVER_VERSION,
            ),
            dg.AssetSpec(
                LINEAGE_KEY,
                deps=[QUERIES_KEY],
                description="Column to column, direct and indirect, with the query that makes it, first and last run.",
                group_name="data_catalog",
                kinds={"bigquery", "view"},
                tags={"domain": "lineage"},
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
        declared = stored.declare(warehouse, settings, contracts)
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


def column_assets(settings: Settings) -> dg.AssetsDefinition:
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
            ),
            dg.AssetSpec(
                PII_KEY,
                deps=[LINEAGE_KEY],
                description="Columns that hold personal data by their origin, with the way it came.",
                group_name="data_catalog",
                kinds={"bigquery", "table"},
                tags={"domain": "lineage"},
            ),
        ],
        pool="bigquery",
    )
    def columns(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        from . import stored

        context.instance.add_run_tags(context.run_id, process_tags())
        warehouse = stored.catalog_warehouse(settings).labelled(dagster_run=context.run_id)
        found = stored.describe_columns(warehouse, settings)
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
        rows = stored.describe_personal_data(warehouse, settings)
        yield dg.MaterializeResult(asset_key=PII_KEY, metadata={"columns": rows})

    return columns
