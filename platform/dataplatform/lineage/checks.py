"""What must hold of the lineage, as asset checks."""

import dagster as dg

from ..settings import Settings
from . import stored

LEAST_RESOLVED = 0.95
"""Share of distinct queries that must be told at least in part."""


def coverage_check(settings: Settings, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Coverage is a number: distinct queries that are resolved, wholly or partly, with the reasons of the rest."""

    @dg.asset_check(asset=asset, name="resolved", description="Nearly all distinct queries are told.")
    def resolved() -> dg.AssetCheckResult:
        counts = stored.query_coverage(stored.catalog_warehouse(settings))
        total = sum(counts.statuses.values())
        told = total - counts.statuses.get("failed", 0)
        return dg.AssetCheckResult(
            passed=not total or told / total >= LEAST_RESOLVED,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "queries": total,
                "told": told,
                "statuses": dg.MetadataValue.json(counts.statuses),
                "reasons": dg.MetadataValue.json(counts.reasons),
            },
        )

    return resolved
