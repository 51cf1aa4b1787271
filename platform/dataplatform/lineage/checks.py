"""What must hold of the lineage, as asset checks."""

import dagster as dg

from ..settings import Settings

LEAST_RESOLVED = 0.95
"""Share of distinct queries that must be told at least in part."""


def coverage_check(settings: Settings, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Coverage is a number: distinct queries that are resolved, wholly or partly, with the reasons of the rest."""

    @dg.asset_check(asset=asset, name="resolved", description="Nearly all distinct queries are told.")
    def resolved() -> dg.AssetCheckResult:
        from . import stored

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


def complete_check(settings: Settings, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Every column of every table that has rows has its sources; those of tables that nothing was ever written to are listed."""

    @dg.asset_check(asset=asset, name="complete", description="Every column's sources are known.")
    def complete() -> dg.AssetCheckResult:
        from .described import columns_without_source
        from .stored import catalog_warehouse

        warehouse = catalog_warehouse(settings)
        found = columns_without_source(warehouse)
        empty = columns_without_source(warehouse, of_empty_tables=True)
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{len(found)} columns come from nowhere that is known" if found else None,
            metadata={
                "columns": len(found),
                "without_source": dg.MetadataValue.md(_listed(found)),
                "never_written": dg.MetadataValue.md(_listed(empty)),
            },
        )

    return complete


def _listed(names: list[str]) -> str:
    return "\n".join(f"- `{name}`" for name in names[:500]) or "none"


def personal_data_check(settings: Settings, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    """No personal data in datasets that may not hold it by their policy, the setting `pii_allowed`."""

    @dg.asset_check(asset=asset, name="allowed", description="No marked data has reached a dataset that forbids it.")
    def allowed() -> dg.AssetCheckResult:
        from .described import forbidden_data
        from .stored import catalog_warehouse

        found = forbidden_data(catalog_warehouse(settings), settings)
        listed = "\n".join(f"- `{'.'.join(one.node)}`: {one.mark}, from `{'.'.join(one.origin)}`" for one in found)
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"{len(found)} columns hold personal data that their dataset forbids" if found else None,
            metadata={"columns": len(found), "found": dg.MetadataValue.md(listed[:50_000] or "none")},
        )

    return allowed
