"""Fraud detection as Dagster assets: features of every entity by day, decisions and alerts by hour, the policies."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from ..asking import ask
from ..contracts.load import Contracts, load_contracts
from ..due import Due
from ..runs import asset_key, partition_key, process_tags
from ..settings import Settings
from ..warehouse.client import Warehouse
from ..warehouse.tables import ensure
from .agreement import compare
from .catalog import FEATURES_FOLDER, POLICIES_FOLDER, Catalog, load_catalog
from .documents import DATASET as CHANGES
from .documents import is_collection, raw_table
from .drift import drift, feature_spans
from .dry_runs import Question, dry_run
from .due import DAY, NO_PARTITION, FraudStream, definition_digest, features_key, policy_key
from .fact_types import TypedPolicy
from .features import EntityFeatures, describe
from .labels import LABELS, LABELS_TABLE, replace_labels
from .parameters import ParameterStore, database_url
from .report import write_report
from .tables import (
    LANDED_TABLES,
    LandedTable,
    RuleRate,
    features_table,
    load_features,
    load_landed,
    rule_rates,
    stream_rule_rates,
)

BACKTESTS = "fraud/backtests"
FRESHNESS_DAY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=30), warn_window=timedelta(hours=27))
FRESHNESS_HOUR = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))


def definitions(settings: Settings, contracts: Contracts | None = None) -> dg.Definitions:
    """All definitions of fraud detection. Sends no request: clients are made when a run first needs them."""
    contracts = contracts or load_contracts(settings.schemas_dir)
    catalog = load_catalog(settings.schemas_dir, contracts)
    if not catalog.entities and not catalog.policies:
        return dg.Definitions()
    stream = FraudStream(settings, catalog)
    owners = {name: [f"team:{name}", owner.email] for name, owner in contracts.owners.items()}
    features = [features_asset(stream, entity, owners) for entity in catalog.entities.values()]
    return dg.Definitions(
        assets=[
            *features,
            policies_asset(stream, owners),
            *(landed_asset(stream, table, owners) for table in LANDED_TABLES),
            labels_asset(stream),
            backtests_asset(stream, owners),
        ],
        asset_checks=[
            *(agreement_check(stream, entity) for entity in catalog.entities.values()),
            *(drift_check(stream, entity) for entity in catalog.entities.values()),
            rates_check(settings, catalog, "decisions", rule_rates),
            rates_check(settings, catalog, "judged", stream_rule_rates),
        ],
        jobs=[dg.define_asset_job("backtest", dg.AssetSelection.assets(dg.AssetKey(BACKTESTS.split("/"))))],
        sensors=[fraud_sensor(stream)],
    )


def features_asset(stream: FraudStream, entity: EntityFeatures, owners: dict[str, list[str]]) -> dg.AssetsDefinition:
    """Every feature of an entity at the end of each day, for the keys that were seen in it."""
    events = sorted({event for event, _ in entity.streams})

    @dg.asset(
        key=features_key(entity.entity).split("/"),
        deps=[[CHANGES, raw_table(event)] if is_collection(event) else ["events", event] for event in events],
        description=f"{entity.description} Features at the end of the day.",
        group_name="fraud",
        kinds={"bigquery", "table"},
        owners=owners.get(entity.owner, []),
        code_version=definition_digest(entity),
        partitions_def=dg.DailyPartitionsDefinition(start_date=stream.first_day, timezone="UTC", end_offset=1),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=FRESHNESS_DAY,
        metadata={
            "features": dg.MetadataValue.md(
                "\n".join(
                    f"- `{each.name}` ({each.type}): {each.description} — {describe(each)}" for each in entity.features
                )
            ),
            "file": f"{FEATURES_FOLDER}/{entity.entity}.yaml",
        },
        pool="bigquery",
    )
    def features(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        context.instance.add_run_tags(context.run_id, process_tags())
        warehouse = stream.warehouse.labelled(dagster_run=context.run_id)
        window = context.partition_time_window
        key = features_key(entity.entity)
        rows = 0
        with stream.lease.hold(context.run_id):
            ensure(warehouse, [features_table(entity)])
            # Read before the events are: what comes in between makes the day due again.
            made_from = stream.feature_digests(datetime.now(UTC) + timedelta(hours=1))
            day = window.start
            while day < window.end:
                found = load_features(warehouse, stream.catalog, entity, day, day + DAY)
                context.add_asset_metadata(
                    {"dagster/partition_row_count": found}, asset_key(key), partition_key(day, DAY)
                )
                rows += found
                day += DAY
            stream.note(
                {
                    (asset, day): digest
                    for (asset, day), (digest, _) in made_from.items()
                    if asset == key and window.start <= day < window.end
                }
            )
        return dg.MaterializeResult(metadata={"rows": rows})

    return features


def agreement_check(stream: FraudStream, entity: EntityFeatures) -> dg.AssetChecksDefinition:
    """A sample of the features, recalculated by the online state from the same events: no value may differ."""

    @dg.asset_check(
        asset=dg.AssetKey(features_key(entity.entity).split("/")),
        name="online_agrees",
        description=agreement_check.__doc__,
    )
    def online_agrees(_: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        day = stream.settled_day(entity.entity)
        count, differences = compare(stream.warehouse, entity, day) if day is not None else (0, [])
        told = [
            f"{each.feature} of {each.entity_key}: {each.warehouse} in the warehouse, {each.online} online"
            for each in differences[:20]
        ]
        return dg.AssetCheckResult(
            passed=not differences,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"day": str(day), "compared": count, "different": len(differences), "differences": told},
        )

    return online_agrees


def drift_check(stream: FraudStream, entity: EntityFeatures) -> dg.AssetChecksDefinition:
    """Features of the latest whole day whose unknown values or means are far from those of the week before."""

    @dg.asset_check(
        asset=dg.AssetKey(features_key(entity.entity).split("/")), name="drift", description=drift_check.__doc__
    )
    def drifted(_: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        spans = feature_spans(stream.warehouse, entity, datetime.now(UTC))
        odd = {name: said for name, (before, now) in spans.items() if (said := drift(before, now))}
        return dg.AssetCheckResult(
            passed=not odd,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"features": len(spans), "drifted": [f"{name}: {said}" for name, said in odd.items()]},
        )

    return drifted


def policies_asset(stream: FraudStream, owners: dict[str, list[str]]) -> dg.AssetsDefinition:
    """Every policy as an asset that depends on the features it reads: from a feature to what it decides."""
    catalog = stream.catalog
    digests = stream.policy_digests()

    def spec(typed: TypedPolicy) -> dg.AssetSpec:
        policy = typed.policy
        roles = catalog.roles(policy)
        used = {roles[fact.partition(".")[0]].entity for fact in typed.types if fact.partition(".")[0] in roles}
        return dg.AssetSpec(
            policy_key(policy.name).split("/"),
            deps=[_source(policy.event), *(["fraud", f"features_{name}"] for name in sorted(used))],
            description=policy.description,
            group_name="fraud",
            kinds={"yaml"},
            owners=owners.get(policy.owner, []),
            code_version=digests[policy_key(policy.name), NO_PARTITION],
            metadata={
                "rules": len(policy.rules),
                "parameters": len(policy.parameters),
                "file": f"{POLICIES_FOLDER}/{policy.name}.yaml",
            },
        )

    @dg.multi_asset(name="policies", specs=[spec(typed) for typed in catalog.policies.values()], can_subset=True)
    def policies(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        context.instance.add_run_tags(context.run_id, process_tags())
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        stream.note({place: digest for place, digest in digests.items() if place[0] in selected})
        for key in context.selected_asset_keys:
            typed = catalog.policies[key.path[-1]]
            lines = [f"- `{rule.name}`: {rule.reason}" for rule in typed.policy.rules]
            yield dg.MaterializeResult(
                asset_key=key,
                data_version=dg.DataVersion(digests[key.to_user_string(), NO_PARTITION]),
                metadata={"rules": dg.MetadataValue.md("\n".join(lines)), "facts": sorted(typed.types)},
            )

    return policies


def _source(event: str) -> list[str]:
    """The asset of what a policy judges: of an event, or of a collection's typed table."""
    database, dot, collection = event.partition(".")
    return ["mongo", f"{database}__{collection}"] if dot else ["events", event]


def landed_asset(stream: FraudStream, table: LandedTable, owners: dict[str, list[str]]) -> dg.AssetsDefinition:
    """A landed table by hour; the decisions stand on the policies that decide, all else on those of the stream."""
    of_stream = table.name != "decisions"
    policies = [typed.policy for typed in stream.catalog.policies.values() if bool(typed.policy.stream) is of_stream]

    @dg.asset(
        key=table.asset.split("/"),
        deps=[policy_key(policy.name).split("/") for policy in policies],
        description=table.description,
        group_name="fraud",
        kinds={"bigquery", "table"},
        owners=sorted({owner for policy in policies for owner in owners.get(policy.owner, [])}),
        partitions_def=dg.HourlyPartitionsDefinition(
            start_date=stream.settings.first_hour, timezone="UTC", end_offset=1
        ),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=FRESHNESS_HOUR,
        pool="bigquery",
    )
    def landed(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        context.instance.add_run_tags(context.run_id, process_tags())
        warehouse = stream.warehouse.labelled(dagster_run=context.run_id)
        window = context.partition_time_window
        landing = stream.landing(table)
        with stream.lease.hold(context.run_id):
            ensure(warehouse, [table.spec])
            # An hour that is not over stays open, so that it is due once it is.
            over = datetime.now(UTC) >= window.end
            rows = load_landed(warehouse, table, landing, window.start, window.end, close=over)
            stream.note(
                {
                    place: digest
                    for place, digest in stream.landed_digests(table, window.end).items()
                    if window.start <= place[1]
                }
            )
        return dg.MaterializeResult(metadata={"rows": rows})

    return landed


class BacktestConfig(dg.Config):
    """One question to history: a policy, some of its parameters' values, and days in UTC, the second exclusive."""

    policy: str
    start: str
    end: str
    changes: dict[str, str] = Field(default_factory=dict)


def backtests_asset(stream: FraudStream, owners: dict[str, list[str]]) -> dg.AssetsDefinition:
    """Reports of what changed parameters would have done; each run of the job `backtest` asks one question."""
    catalog = stream.catalog

    @dg.asset(
        key=BACKTESTS.split("/"),
        deps=[policy_key(name).split("/") for name in catalog.policies],
        description=backtests_asset.__doc__,
        group_name="fraud",
        kinds={"html"},
        owners=sorted({owner for typed in catalog.policies.values() for owner in owners.get(typed.policy.owner, [])}),
        pool="bigquery",
    )
    def backtests(context: dg.AssetExecutionContext, config: BacktestConfig) -> dg.MaterializeResult[Any]:
        settings = stream.settings
        store = ParameterStore(database_url(settings.fraud_database, settings.data_dir), catalog.policies)
        start, end = (datetime.fromisoformat(each).replace(tzinfo=UTC) for each in (config.start, config.end))
        question = Question(config.policy, start.isoformat(), end.isoformat(), "dagster", changes=dict(config.changes))
        run, report = dry_run(store, catalog, stream.warehouse.labelled(dagster_run=context.run_id), question)
        page = write_report(report, settings.data_dir / "fraud" / "backtests" / context.run_id)
        return dg.MaterializeResult(
            metadata={
                "policy": config.policy,
                "id": run,
                "period": f"{start:%F} to {end:%F}",
                "parameters": report["parameters"],
                "decisions": report["decisions"],
                "changed": report["changed"],
                "report": dg.MetadataValue.path(str(page)),
            }
        )

    return backtests


def labels_asset(stream: FraudStream) -> dg.AssetsDefinition:
    """What closed cases say of the events they were about, for backtests."""

    @dg.asset(
        key=LABELS.split("/"),
        deps=[["fraud", "alerts"]],
        description=LABELS_TABLE.description,
        group_name="fraud",
        kinds={"bigquery", "table"},
        pool="bigquery",
    )
    def labels(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        context.instance.add_run_tags(context.run_id, process_tags())
        with stream.lease.hold(context.run_id):
            digest = stream.labels_digest()  # read before: what is closed in between makes it due again
            rows = replace_labels(stream.warehouse.labelled(dagster_run=context.run_id), stream.cases.labels())
            stream.note({(LABELS, NO_PARTITION): digest})
        return dg.MaterializeResult(metadata={"rows": rows})

    return labels


def rates_check(
    settings: Settings,
    catalog: Catalog,
    table: str,
    rates: Callable[[Warehouse, Catalog, datetime], list[RuleRate]],
) -> dg.AssetChecksDefinition:
    """Rules that fired never or always, or were mostly undecided, in the last seven days."""

    @dg.asset_check(asset=dg.AssetKey(["fraud", table]), name="rules_fire", description=rates_check.__doc__)
    def rules_fire(_: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        found = rates(Warehouse(settings), catalog, datetime.now(UTC) - timedelta(days=7))
        odd = [rate for rate in found if rate.odd]
        return dg.AssetCheckResult(
            passed=not odd,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "odd": [f"{rate.policy}.{rate.rule}: {rate.odd}" for rate in odd],
                "rates": dg.MetadataValue.md(
                    "\n".join(
                        f"- `{rate.policy}.{rate.rule}`: fired {rate.fired}, undecided {rate.undecided} of {rate.judged}"
                        for rate in found
                    )
                ),
            },
        )

    return rules_fire


def fraud_sensor(stream: FraudStream) -> dg.SensorDefinition:
    """Closes hours of decisions that are over, and asks for what is due; the same thing again only after a while."""

    @dg.sensor(
        name="fraud_due",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.all(),
        description="Materialises policies that changed, days of features whose events came, hours of decisions and alerts.",
    )
    def fraud_due(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # A policy that changed while the code location is loaded is read with its next load.
        def find(now: datetime) -> list[Due]:
            for line in stream.close(now, settle_seconds=2.0):
                context.log.info(line)
            return stream.due(now)

        return ask(context, stream.name, find)

    return fraud_due
