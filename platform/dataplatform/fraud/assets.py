"""Fraud detection as Dagster assets: features of every entity by day, the landed decisions by hour, the policies."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ..contracts.load import load_contracts
from ..landing import open_landing
from ..settings import Settings
from ..warehouse.client import Warehouse
from ..warehouse.tables import ensure
from .catalog import FEATURES_FOLDER, POLICIES_FOLDER, Catalog, load_catalog
from .fact_types import TypedPolicy
from .features import EntityFeatures, describe
from .tables import (
    DECISIONS,
    decisions_table,
    features_table,
    load_decisions,
    load_features,
    rule_rates,
)

FRESHNESS_DAY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=30), warn_window=timedelta(hours=27))
FRESHNESS_HOUR = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))


def definitions(settings: Settings) -> dg.Definitions:
    """All definitions of fraud detection. Sends no request: clients are made when a run first needs them."""
    contracts = load_contracts(settings.schemas_dir)
    catalog = load_catalog(settings.schemas_dir, contracts)
    owners = {name: [f"team:{name}", owner.email] for name, owner in contracts.owners.items()}
    features = [features_asset(settings, catalog, entity, owners) for entity in catalog.entities.values()]
    return dg.Definitions(
        assets=[*features, policies_asset(catalog, owners), decisions_asset(settings, catalog)],
        asset_checks=[rates_check(settings, catalog)],
    )


def features_asset(
    settings: Settings, catalog: Catalog, entity: EntityFeatures, owners: dict[str, list[str]]
) -> dg.AssetsDefinition:
    """Every feature of an entity at the end of each day, for the keys that were seen in it."""
    events = sorted({event for event, _ in entity.streams})

    @dg.asset(
        key=["fraud", f"features_{entity.entity}"],
        deps=[["events", event] for event in events],
        description=f"{entity.description} Features at the end of the day.",
        group_name="fraud",
        kinds={"bigquery", "table"},
        owners=owners.get(entity.owner, []),
        code_version=str(features_table(entity).digest),
        partitions_def=dg.DailyPartitionsDefinition(start_date=_first_day(settings), timezone="UTC", end_offset=1),
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        automation_condition=dg.AutomationCondition.on_cron("30 0 * * *"),
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
        warehouse = Warehouse(settings).labelled(dagster_run=context.run_id)
        ensure(warehouse, [features_table(entity)])
        window = context.partition_time_window
        rows = load_features(warehouse, catalog, entity, window.start, window.end)
        return dg.MaterializeResult(metadata={"dagster/row_count": rows})

    return features


def policies_asset(catalog: Catalog, owners: dict[str, list[str]]) -> dg.AssetsDefinition:
    """Every policy as an asset that depends on the features it reads: from a feature to what it decides."""

    def spec(typed: TypedPolicy) -> dg.AssetSpec:
        policy = typed.policy
        roles = catalog.roles(policy)
        used = {roles[fact.partition(".")[0]].entity for fact in typed.types if fact.partition(".")[0] in roles}
        return dg.AssetSpec(
            ["fraud", "policies", policy.name],
            deps=[["events", policy.event], *(["fraud", f"features_{name}"] for name in sorted(used))],
            description=policy.description,
            group_name="fraud",
            kinds={"yaml"},
            owners=owners.get(policy.owner, []),
            code_version=_digest(typed),
            automation_condition=dg.AutomationCondition.on_missing() | dg.AutomationCondition.code_version_changed(),
            metadata={
                "rules": len(policy.rules),
                "parameters": len(policy.parameters),
                "file": f"{POLICIES_FOLDER}/{policy.name}.yaml",
            },
        )

    @dg.multi_asset(name="policies", specs=[spec(typed) for typed in catalog.policies.values()], can_subset=True)
    def policies(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        for key in context.selected_asset_keys:
            typed = catalog.policies[key.path[-1]]
            lines = [f"- `{rule.name}`: {rule.reason}" for rule in typed.policy.rules]
            yield dg.MaterializeResult(
                asset_key=key,
                data_version=dg.DataVersion(_digest(typed)),
                metadata={"rules": dg.MetadataValue.md("\n".join(lines)), "facts": sorted(typed.types)},
            )

    return policies


def decisions_asset(settings: Settings, catalog: Catalog) -> dg.AssetsDefinition:
    """The landed decisions of each hour, one row a request id."""

    @dg.asset(
        key=DECISIONS.split("/"),
        deps=[["fraud", "policies", name] for name in catalog.policies],
        description="Every decision of the decision service, with all that it was made from.",
        group_name="fraud",
        kinds={"bigquery", "table"},
        partitions_def=dg.HourlyPartitionsDefinition(start_date=settings.first_hour, timezone="UTC", end_offset=1),
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=dg.AutomationCondition.on_cron("5 * * * *"),
        freshness_policy=FRESHNESS_HOUR,
        pool="bigquery",
    )
    def decisions(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        warehouse = Warehouse(settings).labelled(dagster_run=context.run_id)
        ensure(warehouse, [decisions_table()])
        window = context.partition_time_window
        landing = open_landing(settings, "decisions")
        rows = load_decisions(warehouse, landing, window.start, window.end, close=datetime.now(UTC) >= window.end)
        return dg.MaterializeResult(metadata={"dagster/row_count": rows})

    return decisions


def rates_check(settings: Settings, catalog: Catalog) -> dg.AssetChecksDefinition:
    """Rules that fired never or always, or were mostly undecided, in the last seven days."""

    @dg.asset_check(asset=dg.AssetKey(DECISIONS.split("/")), name="rules_fire", description=rates_check.__doc__)
    def rules_fire(_: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        found = rule_rates(Warehouse(settings), catalog, datetime.now(UTC) - timedelta(days=7))
        odd = [row for row in found if row["odd"]]
        return dg.AssetCheckResult(
            passed=not odd,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "odd": [f"{row['policy']}.{row['rule']}: {row['odd']}" for row in odd],
                "rates": dg.MetadataValue.md(
                    "\n".join(
                        f"- `{row['policy']}.{row['rule']}`: fired {row['fired']}, undecided {row['undecided']} of {row['decisions']}"
                        for row in found
                    )
                ),
            },
        )

    return rules_fire


def _digest(typed: TypedPolicy) -> str:
    import hashlib

    from .policies import print_policy

    return hashlib.sha256(print_policy(typed.policy).encode()).hexdigest()[:12]


def _first_day(settings: Settings) -> datetime:
    return settings.first_hour.replace(hour=0, minute=0, second=0, microsecond=0)
