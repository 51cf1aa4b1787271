"""Behaviour logs as Dagster assets: contracts, landed hours, received rows, a table an event, rejected, duplicates, ledger.

All hourly assets are one `multi_asset`: a run of an hour (or a range of hours, in a backfill) is one process that imports the
project once and brings whatever was selected up to date, with one statement an event.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from ..contracts.bigquery import event_schema
from ..contracts.events import EventContract
from ..contracts.load import Contracts
from ..due import Due
from ..runs import asset_key, partition_key, process_tags
from ..settings import Settings
from . import hours, received
from .checks import BALANCES, COMPLETE, balance_result, complete_result, rate_checks
from .hours import DUPLICATES, LANDING, LEDGER, RECEIVED, REJECTED, EventHours, Materialized, Piece
from .sensors import event_sensors

FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))
"""An hour is closed a little after its end; twice that and an hour more is late."""


def event_definitions(settings: Settings, contracts: Contracts) -> dg.Definitions:
    """All definitions of behaviour logs. Sends no request: clients are made when a run or sensor first needs them."""
    stream = EventHours(settings, contracts.events)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references, for every contract
        return dg.Definitions(
            assets=[contract_assets(contracts), hourly_assets(settings, contracts, stream)],
            asset_checks=rate_checks(stream),
            sensors=event_sensors(stream, contracts),
        )


def event_hours(settings: Settings) -> dg.HourlyPartitionsDefinition:
    """Received hours. The running one is a partition as well, so that it can be closed early."""
    return dg.HourlyPartitionsDefinition(start_date=settings.first_hour, timezone="UTC", end_offset=1)


def hourly_assets(settings: Settings, contracts: Contracts, stream: EventHours) -> dg.AssetsDefinition:
    """Everything that is materialised by received hours."""

    @dg.multi_asset(
        name="events",
        specs=[*_stage_specs(contracts), *(_event_spec(contract, contracts) for contract in contracts.events.values())],
        check_specs=[COMPLETE, BALANCES],
        partitions_def=event_hours(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        pool="bigquery",
    )
    def events(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        context.instance.add_run_tags(context.run_id, process_tags())
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        window = context.partition_time_window if _is_partitioned(context) else None
        start = window.start if window else stream.first_hour
        end = window.end if window else stream.last_end(datetime.now(UTC))
        run = EventHours(
            settings,
            contracts.events,
            warehouse=stream.warehouse.labelled(dagster_run=context.run_id),
            landing=stream.landing,
        )
        if selected:
            done = run.materialise(selected, start, end, owner=context.run_id, log=context.log.info)
            for change in done.changes:
                context.log.info(change)
            yield from _results(context, done, selected)
        checks = [(BALANCES, balance_result), (COMPLETE, complete_result)]
        if wanted := [check for spec, check in checks if spec.key in context.selected_asset_check_keys]:
            with run.lease.hold(context.run_id):  # no other run is halfway between the tables that are compared
                found = [check(run, start, end) for check in wanted]
            yield from found

    return events


def contract_assets(contracts: Contracts) -> dg.AssetsDefinition:
    """The contracts of a service as one asset, whose data version is their content."""
    by_service = _by_service(contracts)
    words = contracts.vocabulary.services

    @dg.multi_asset(
        name="contracts",
        specs=[
            dg.AssetSpec(
                ["contracts", service],
                description=words.get(service, ""),
                group_name="contracts",
                kinds={"yaml"},
                code_version=contracts_version(members),
                automation_condition=dg.AutomationCondition.on_missing()
                | dg.AutomationCondition.code_version_changed(),
                owners=sorted({owner for contract in members for owner in _owners(contract, contracts)}),
                metadata={
                    "events": len(members),
                    "dagster/code_references": _references(contracts.files[member.name] for member in members),
                },
            )
            for service, members in sorted(by_service.items())
        ],
        can_subset=True,
    )
    def contract_versions(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        for key in context.selected_asset_keys:
            members = by_service[key.path[-1]]
            yield dg.MaterializeResult(
                asset_key=key,
                data_version=dg.DataVersion(contracts_version(members)),
                metadata={
                    "events": len(members),
                    "versions": dg.MetadataValue.md(
                        "\n".join(f"- `{member.name}` {member.version} ({member.status})" for member in members)
                    ),
                },
            )

    return contract_versions


def contracts_due(instance: dg.DagsterInstance, contracts: Contracts) -> Due | None:
    """The contract assets whose content is not the one that Dagster last noted."""
    versions = {service: contracts_version(members) for service, members in _by_service(contracts).items()}
    stale = []
    for service, version in sorted(versions.items()):
        event = instance.get_latest_materialization_event(dg.AssetKey(["contracts", service]))
        noted = event.asset_materialization.tags if event and event.asset_materialization else None
        if (noted or {}).get("dagster/data_version") != version:
            stale.append(service)
    if not stale:
        return None
    digest = hashlib.sha256(repr([(service, versions[service]) for service in stale]).encode()).hexdigest()[:16]
    return Due(tuple(f"contracts/{service}" for service in stale), None, None, "the contracts changed", digest)


def _by_service(contracts: Contracts) -> dict[str, list[EventContract]]:
    by_service: dict[str, list[EventContract]] = {}
    for contract in contracts.events.values():
        by_service.setdefault(contract.service, []).append(contract)
    return by_service


def contracts_version(members: list[EventContract]) -> str:
    """Content hash of some contracts, texts included."""
    text = "\n".join(sorted(member.model_dump_json() for member in members))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_partitioned(context: dg.AssetExecutionContext) -> bool:
    return bool(context.has_partition_key or context.has_partition_key_range)


def _results(
    context: dg.AssetExecutionContext, done: Materialized, selected: set[str]
) -> Iterator[dg.MaterializeResult[Any]]:
    # Dagster wants what stands on others after them.
    last_ones = {LANDING: -2, RECEIVED: -1, REJECTED: 1, LEDGER: 2}
    for asset in sorted(selected, key=lambda asset: (last_ones.get(asset, 0), asset)):
        piece = done.pieces.get(asset, Piece(asset))
        key = asset_key(asset)
        for hour, rows in sorted(piece.rows.items()):
            if done.start <= hour < done.end:
                facts = {"dagster/partition_row_count": rows} | piece.facts.get(hour, {})
                context.add_asset_metadata(facts, key, partition_key(hour))
        # The statement is long and the same for the whole range, and metadata is stored once a partition.
        last = partition_key(done.end - timedelta(hours=1))
        if piece.statement:
            context.add_asset_metadata({"statement": dg.MetadataValue.md(f"```sql\n{piece.statement}\n```")}, key, last)
        if piece.jobs:
            context.add_asset_metadata({"job_ids": dg.MetadataValue.json(piece.jobs)}, key, last)
        metadata: dict[str, Any] = {"duration_seconds": round(piece.seconds, 3), "bytes_billed": piece.bytes}
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)
    for asset in sorted(done.pieces.keys() - selected):
        context.log.info(f"{asset} was brought up to date as well: what was asked for stands on it")


def _stage_specs(contracts: Contracts) -> Iterator[dg.AssetSpec]:
    events = [hours.asset_of(name).split("/") for name in contracts.events]
    yield dg.AssetSpec(
        LANDING.split("/"),
        description="Files of a received hour, closed by a manifest; files that come later re-open the hour.",
        group_name="landing",
        kinds={"ndjson"},
        tags={"domain": "events"},
    )
    yield _stage_spec(RECEIVED, "Everything received, one row an event, as the text that arrived.", [LANDING])
    yield _stage_spec(
        DUPLICATES, "Events whose id was received before, within the look-back; the first received wins.", [RECEIVED]
    )
    yield _stage_spec(REJECTED, "Events that their contract refuses, whole, with every reason.", [RECEIVED], events)
    yield _stage_spec(
        LEDGER, "Per hour and event: received = accepted + rejected + duplicates.", [REJECTED, DUPLICATES], events
    )


def _stage_spec(asset: str, description: str, deps: list[str], more: list[list[str]] | None = None) -> dg.AssetSpec:
    schema = {
        RECEIVED: received.RECEIVED_SCHEMA,
        DUPLICATES: received.DUPLICATES_SCHEMA,
        REJECTED: received.REJECTED_SCHEMA,
        LEDGER: received.LEDGER_SCHEMA,
    }[asset]
    return dg.AssetSpec(
        asset.split("/"),
        deps=[*(dep.split("/") for dep in deps), *(more or [])],
        description=description,
        group_name="events",
        kinds={"bigquery", "table"},
        tags={"domain": "events"},
        metadata={"dagster/column_schema": column_schema(schema)},
        freshness_policy=FRESHNESS,
    )


def _event_spec(contract: EventContract, contracts: Contracts) -> dg.AssetSpec:
    return dg.AssetSpec(
        ["events", contract.name],
        deps=[RECEIVED.split("/"), ["contracts", contract.service]],
        description=contract.description,
        group_name=contract.service,
        kinds={"bigquery", "table"},
        owners=_owners(contract, contracts),
        tags={"domain": contract.domain, "service": contract.service, "status": contract.status},
        code_version=contract.digest,
        metadata={
            "dagster/column_schema": column_schema(event_schema(contract)),
            "dagster/code_references": _references([contracts.files[contract.name]]),
            "contract_version": contract.version,
        },
        freshness_policy=FRESHNESS,
    )


def _owners(contract: EventContract, contracts: Contracts) -> list[str]:
    owner = contracts.owners.get(contract.owner)
    return [f"team:{contract.owner}", *([owner.email] if owner else [])]


def _references(files: Any) -> dg.CodeReferencesMetadataValue:
    return dg.CodeReferencesMetadataValue(
        code_references=[
            dg.LocalFileCodeReference(file_path=str(Path(file).resolve()), line_number=1, label=Path(file).name)
            for file in files
        ]
    )


def column_schema(schema: Sequence[Mapping[str, Any]]) -> dg.TableSchema:
    """Columns as Dagster shows them, with the fields of STRUCTs below their column."""
    return dg.TableSchema(columns=list(_columns(schema, "")))


def _columns(schema: Sequence[Mapping[str, Any]], prefix: str) -> Iterator[dg.TableColumn]:
    for column in schema:
        name = prefix + column["name"]
        mode = column.get("mode", "NULLABLE")
        yield dg.TableColumn(
            name,
            column["type"] if mode != "REPEATED" else f"ARRAY<{column['type']}>",
            description=column.get("description"),
            constraints=dg.TableColumnConstraints(nullable=mode != "REQUIRED"),
        )
        yield from _columns(column.get("fields", []), f"{name}.")
