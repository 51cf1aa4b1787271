"""A step of the demo: the lineage of all that the demo's own queries did, and what hangs on one event column."""

from datetime import UTC, datetime, timedelta
from typing import Protocol

from ..settings import Settings

COLUMN = ("send_transfer_pay", "amount")
"""Event and column whose way down to a policy is shown."""
POLICY = "fraud.policy."


class Telling(Protocol):
    """What the step needs of the demo."""

    settings: Settings

    def say(self, line: str = "") -> None: ...

    def check(self, name: str, holds: bool, detail: str = "") -> None: ...


def show_lineage(demo: Telling) -> None:
    """Collect the query log up to now through Dagster, then count columns and answer one question of impact."""
    from ..catch_up import definitions_of
    from ..contracts.load import load_contracts
    from ..lineage import stored
    from ..lineage.hours import LineageHours
    from ..lineage.impact import Graph
    from ..runs import dagster_instance, execute

    settings = demo.settings
    stream = LineageHours(settings, load_contracts(settings.schemas_dir))
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    ran = True
    with dagster_instance(settings) as instance:
        for piece in stream.due(until):
            outcome = execute(definitions_of(settings), instance, piece, stream.name)
            demo.say(f"  run {outcome.run_id[:8]} {'succeeded' if outcome.ok else 'failed'} in {outcome.seconds:.1f} s")
            for line in outcome.failures:
                demo.say(f"  {line}")
            ran = ran and outcome.ok
    demo.check("the lineage is materialised", ran)
    warehouse = stored.catalog_warehouse(settings)
    queries = stored.query_coverage(warehouse)
    columns = warehouse.query(
        "SELECT COUNT(*) AS columns, COUNTIF(has_source) AS mapped,"
        " ARRAY_AGG(IF(has_source, NULL, CONCAT(table_name, '.', column_path)) IGNORE NULLS LIMIT 5) AS others\n"
        f"FROM `{warehouse.table_id(stored.DATASET, 'columns')}`",
        name="lineage_demo",
    ).rows[0]
    total = sum(queries.statuses.values())
    unresolved = total - queries.statuses.get("resolved", 0)
    demo.say(f"  {columns['mapped']:,} of {columns['columns']:,} columns mapped, from {total:,} distinct queries")
    reasons = ", ".join(f"{reason}: {count}" for reason, count in queries.reasons.items())
    demo.check("no query is unresolved", unresolved == 0, reasons or f"{total:,} queries")
    demo.check(
        "every column has its sources",
        columns["mapped"] == columns["columns"],
        ", ".join(columns["others"] or ()) or f"{columns['columns']:,} columns",
    )
    event, column = COLUMN
    found = Graph(stored.stored_edges(settings)).reach((warehouse.table_id("events", event), column))
    policies = [one for one in found if one.node[0].startswith(POLICY) and one.node[1] == "level"]
    for one in policies[:1]:
        demo.say(f"  {' → '.join('.'.join(step.node) for step in one.path)}")
    demo.check(f"{event}.{column} leads to a policy", bool(policies), f"{len(found)} columns hang on it")
