"""Captured collections as Dagster assets: a raw and a typed table each, by hours of the source's clock.

All of them are one `multi_asset`, so that a run brings several collections, and a range of hours, up to date in one process.
"""

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from ..asking import ask
from ..contracts.collections import Collections, load_collections_leniently
from ..due import Due
from ..errors import PlatformError
from ..runs import STREAM_TAG, asset_key, partition_key, process_tags
from ..settings import Settings
from .hours import Applied, CollectionHours, raw_asset, typed_asset
from .names import table_name
from .reconcile import Reconciliation, reconcile
from .sql import CONFLICTS
from .status import CollectionStatus, status_of

_log = logging.getLogger(__name__)

OPLOG_WARNING = timedelta(hours=24)
OPLOG_ERROR = timedelta(hours=6)
"""Oplog that must be left: less is a warning, an error. A capture that stands still that long loses changes."""
RECONCILE_CRON = "30 3 * * *"
WATCH_CRON = "20 * * * *"


def definitions(settings: Settings) -> dg.Definitions:
    """All definitions of captured collections. Sends no request; a contract that does not hold is left out and logged."""
    collections, problems = load_collections_leniently(settings.schemas_dir)
    for problem in problems:
        _log.error("%s", problem)
    if not collections.contracts:
        return dg.Definitions()
    stream = CollectionHours(settings, collections.contracts)
    checks = [reconciliation_checks(settings, stream), watch_checks(settings, stream)]
    jobs = [
        dg.define_asset_job(f"mongo_{what}_checks", selection=dg.AssetSelection.checks(one))
        for what, one in zip(("reconcile", "watch"), checks, strict=True)
    ]
    return dg.Definitions(
        assets=[source_assets(collections), hourly_assets(settings, collections, stream)],
        asset_checks=checks,
        jobs=jobs,
        schedules=[
            dg.ScheduleDefinition(
                name=name, job=job, cron_schedule=cron, default_status=dg.DefaultScheduleStatus.RUNNING
            )
            for name, job, cron in zip(
                ("mongo_reconcile_daily", "mongo_watch_hourly"), jobs, (RECONCILE_CRON, WATCH_CRON), strict=True
            )
        ],
        sensors=[hour_sensor(stream)],
    )


def source_assets(collections: Collections) -> dg.AssetsDefinition:
    """The collections themselves, as assets that live outside."""
    specs = [
        dg.AssetSpec(
            ["mongodb", table_name(one.database, one.collection)],
            description=f"{one.description} MongoDB collection {one.namespace} of connection {one.connection}.",
            group_name=f"mongo_{table_name(one.database, '').strip('_')}",
            kinds={"mongodb"},
            owners=[f"team:{one.owner}"],
        )
        for one in collections.contracts.values()
    ]
    return dg.AssetsDefinition(specs=specs)


def hourly_assets(settings: Settings, collections: Collections, stream: CollectionHours) -> dg.AssetsDefinition:
    """The raw and the typed table of every collection."""

    @dg.multi_asset(
        name="mongo",
        specs=list(_specs(collections)),
        partitions_def=dg.HourlyPartitionsDefinition(start_date=settings.first_hour, timezone="UTC", end_offset=1),
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        pool="bigquery",
    )
    def mongo(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        context.instance.add_run_tags(context.run_id, process_tags())
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        window = context.partition_time_window
        names = [
            name
            for name, one in collections.contracts.items()
            if raw_asset(one) in selected or typed_asset(one) in selected
        ]
        run = CollectionHours(settings, collections.contracts, stream.warehouse.labelled(dagster_run=context.run_id))
        done = run.materialise(names, window.start, window.end, owner=context.run_id, log=context.log.info)
        status = {one.collection: one for one in status_of(settings, collections.contracts)}
        failed = []
        for applied in done:
            if applied.error is not None:
                failed.append(f"{applied.contract.namespace}: {applied.error}")
                continue
            yield from _results(context, applied, status[applied.contract.namespace], selected)
        reached = {applied.contract.namespace for applied in done}
        failed += [f"{name}: no capture has taken it up yet" for name in names if name not in reached]
        if failed:
            raise dg.Failure("\n".join(failed), allow_retries=False)

    return mongo


def _specs(collections: Collections) -> Iterator[dg.AssetSpec]:
    for name, one in collections.contracts.items():
        group = f"mongo_{table_name(one.database, '').strip('_')}"
        policy = dg.FreshnessPolicy.time_window(
            fail_window=timedelta(minutes=one.freshness_minutes + 60),
            warn_window=timedelta(minutes=max(60, one.freshness_minutes)),
        )
        reference = dg.CodeReferencesMetadataValue(
            code_references=[
                dg.LocalFileCodeReference(
                    file_path=str(Path(collections.files[name]).resolve()), line_number=1, label=f"{name}.yaml"
                )
            ]
        )
        for asset, description, dep in (
            (
                raw_asset(one),
                f"Latest state and history of every document of {name}.",
                ["mongodb", raw_asset(one).split("/")[1]],
            ),
            (typed_asset(one), one.description, raw_asset(one).split("/")),
        ):
            yield dg.AssetSpec(
                asset.split("/"),
                deps=[dep],
                skippable=True,
                description=description,
                group_name=group,
                kinds={"bigquery", "table"},
                owners=[f"team:{one.owner}"],
                tags={"domain": one.domain or "mongo", "connection": one.connection},
                metadata={"dagster/code_references": reference},
                freshness_policy=policy,
            )


def _results(
    context: dg.AssetExecutionContext, applied: Applied, status: CollectionStatus, selected: set[str]
) -> Iterator[dg.MaterializeResult[Any]]:
    conflicts = [step for step in applied.steps if step.step in CONFLICTS]
    for step in applied.steps:
        say = context.log.warning if step in conflicts else context.log.info
        say(
            f"{applied.contract.namespace}: {step.step} {step.path or '/'} {step.before} → {step.after} ({step.count} values)"
        )
    common: dict[str, Any] = {
        "changes": applied.changes,
        "snapshot_rows": applied.snapshot_rows,
        "documents": applied.documents,
        "deletions": applied.deletions,
        "partitions": applied.partitions,
        "files": applied.files,
        "duration_seconds": round(applied.seconds, 3),
        "bytes_billed": applied.bytes,
        "lag_seconds": status.lag_seconds or 0.0,
        "table_lag_seconds": status.table_lag_seconds or 0.0,
        "changes_per_second": status.changes_per_second or 0.0,
        "position": status.position or "",
    }
    if status.oplog_seconds_left is not None:
        common["oplog_seconds_left"] = status.oplog_seconds_left
    typed = common | {
        "conflicts": len(conflicts),
        "conflicts_so_far": status.conflicts or 0,
        "dagster/column_schema": column_schema(applied.columns),
    }
    if applied.steps:
        rows = "\n".join(
            f"| `{s.path or '/'}` | {s.step} | {s.before} | {s.after} | {s.count} |" for s in applied.steps
        )
        typed["schema_steps"] = dg.MetadataValue.md(
            f"| field | step | before | after | values |\n|---|---|---|---|---|\n{rows}"
        )
    if applied.statement:
        typed["statement"] = dg.MetadataValue.md(f"```sql\n{applied.statement[:100_000]}\n```")
    for asset, metadata in ((raw_asset(applied.contract), common), (typed_asset(applied.contract), typed)):
        if asset not in selected:
            continue
        key = asset_key(asset)
        for hour, rows_of_hour in applied.rows_by_hour.items():
            context.add_asset_metadata({"dagster/partition_row_count": rows_of_hour}, key, partition_key(hour))
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)


def column_schema(columns: list[dict[str, Any]]) -> dg.TableSchema:
    """Columns as Dagster shows them, with the fields of STRUCTs below their column."""

    def flat(some: list[dict[str, Any]], prefix: str) -> Iterator[dg.TableColumn]:
        for column in some:
            kind = column["type"] if column.get("mode") != "REPEATED" else f"ARRAY<{column['type']}>"
            yield dg.TableColumn(prefix + column["name"], kind, description=column.get("description"))
            yield from flat(column.get("fields", []), f"{prefix}{column['name']}.")

    return dg.TableSchema(columns=list(flat(columns, "")))


def reconciliation_checks(settings: Settings, stream: CollectionHours) -> dg.AssetChecksDefinition:
    """Per collection: the tables equal the source. Reads a sample of it and waits for the capture to pass what it read, so once a
    day and by hand, not in every run that applies hours."""
    specs = [
        dg.AssetCheckSpec(
            "reconciled",
            asset=typed_asset(one).split("/"),
            description="Counts and a sample of documents equal the source.",
        )
        for one in stream.contracts.values()
    ]

    @dg.multi_asset_check(name="mongo_reconciled", specs=specs, can_subset=True)
    def mongo_reconciled(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if context.run.tags.get(STREAM_TAG) == stream.name:
            return
        for one in stream.contracts.values():
            typed = asset_key(typed_asset(one))
            if dg.AssetCheckKey(typed, "reconciled") not in context.selected_asset_check_keys:
                continue
            try:
                yield reconciled_result(typed, reconcile(settings, stream, one))
            except PlatformError as error:
                yield dg.AssetCheckResult(
                    passed=False, asset_key=typed, check_name="reconciled", description=str(error)
                )

    return mongo_reconciled


def watch_checks(settings: Settings, stream: CollectionHours) -> dg.AssetChecksDefinition:
    """Per collection: enough oplog is left, and its tables are complete in time. Asks nobody, so every hour."""
    specs = []
    for one in stream.contracts.values():
        specs += [
            dg.AssetCheckSpec(
                "complete",
                asset=typed_asset(one).split("/"),
                description="The table is complete up to the freshness objective ago.",
            ),
            dg.AssetCheckSpec(
                "oplog_headroom",
                asset=raw_asset(one).split("/"),
                description="The capture may stand still for hours and lose nothing.",
            ),
        ]

    @dg.multi_asset_check(name="mongo_watch", specs=specs, can_subset=True)
    def mongo_watch(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        wanted = context.selected_asset_check_keys
        status = {one.collection: one for one in status_of(settings, stream.contracts)}
        for name, one in stream.contracts.items():
            typed, raw = asset_key(typed_asset(one)), asset_key(raw_asset(one))
            if dg.AssetCheckKey(typed, "complete") in wanted:
                yield completeness_result(typed, status[name], one.freshness_minutes)
            if dg.AssetCheckKey(raw, "oplog_headroom") in wanted:
                yield headroom_result(raw, status[name])

    return mongo_watch


def completeness_result(key: dg.AssetKey, status: CollectionStatus, objective_minutes: int) -> dg.AssetCheckResult:
    """Whether everything up to the objective ago is in the table, and no snapshot is under way."""
    lag = status.table_lag_seconds
    passed = lag is not None and lag <= objective_minutes * 60 and status.snapshot is None
    return dg.AssetCheckResult(
        passed=passed,
        asset_key=key,
        check_name="complete",
        metadata={
            "state": status.state,
            "table_lag_seconds": lag if lag is not None else -1.0,
            "landing_lag_seconds": status.lag_seconds if status.lag_seconds is not None else -1.0,
            "table_through": status.table_through.isoformat() if status.table_through else "",
        },
    )


def headroom_result(key: dg.AssetKey, status: CollectionStatus) -> dg.AssetCheckResult:
    """How long the capture may stand still. Not known where the user may not read `local.oplog.rs`: passes with a warning."""
    left = status.oplog_seconds_left
    severity = dg.AssetCheckSeverity.ERROR
    if left is None:
        description = "the user may not see the oplog (role clusterMonitor), so how much is left is not known"
        return dg.AssetCheckResult(passed=True, asset_key=key, check_name="oplog_headroom", description=description)
    if left >= OPLOG_ERROR.total_seconds():
        severity = dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        passed=left >= OPLOG_WARNING.total_seconds(),
        severity=severity,
        asset_key=key,
        check_name="oplog_headroom",
        metadata={"oplog_seconds_left": left},
    )


def reconciled_result(key: dg.AssetKey, found: Reconciliation) -> dg.AssetCheckResult:
    """The comparison, with the keys that differ."""
    metadata: Mapping[str, Any] = {
        "source_documents": found.source_documents,
        "table_documents": found.table_documents,
        "sampled": found.sampled,
        "found_by_key_only": found.found,
        "partitions": found.partitions,
        "partitions_with_documents_read": found.document_partitions,
        "changed_since": found.moved_on,
        "position": found.position,
        "typed_behind": found.typed_behind,
        "unmapped_documents": found.unmapped,
        "counts": dg.MetadataValue.json([list(one) for one in found.counts]),
        "differences": dg.MetadataValue.json([{"kind": one.kind, "_id": one.key} for one in found.differences[:100]]),
    }
    description = "" if found.ok else f"run `dataplatform cdc repair {found.collection}`"
    return dg.AssetCheckResult(
        passed=found.ok, asset_key=key, check_name="reconciled", metadata=metadata, description=description
    )


def hour_sensor(stream: CollectionHours) -> dg.SensorDefinition:
    """Closes hours that every stream has passed, and asks for what is due; the same thing again only after a while."""

    @dg.sensor(
        name="mongo_hours",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.all(),
        description="Applies the hours of the source that are complete, and those that got late changes.",
    )
    def mongo_hours(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        def find(now: datetime) -> list[Due]:
            for line in stream.close(now):
                context.log.info(line)
            return stream.due(now)

        return ask(context, stream.name, find)

    return mongo_hours
