"""A step of the demo: the lineage of all that the demo's own queries did, and what hangs on one field of MongoDB."""

from datetime import UTC, datetime, timedelta
from typing import Protocol

from ..settings import Settings

FIELD = ("mongodb.shop.articles", "price")
"""Field of a source whose way down to features and policies is shown."""
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
    from ..lineage.described import columns_without_source, personal_data
    from ..lineage.hours import LineageHours
    from ..lineage.impact import Graph
    from ..lineage.tables import DATASET
    from ..runs import dagster_instance, execute

    settings = demo.settings
    stream = LineageHours(settings, load_contracts(settings.schemas_dir))
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    definitions = definitions_of(settings)
    ran = True
    with dagster_instance(settings) as instance:
        for piece in stream.due(until):
            outcome = execute(definitions, instance, piece, stream.name)
            demo.say(f"  run {outcome.run_id[:8]} {'succeeded' if outcome.ok else 'failed'} in {outcome.seconds:.1f} s")
            for line in outcome.failures:
                demo.say(f"  {line}")
            ran = ran and outcome.ok
    demo.check("the lineage is materialised", ran)
    warehouse = stored.catalog_warehouse(settings)
    queries = stored.query_coverage(warehouse)
    columns = warehouse.query(
        f"SELECT COUNT(*) AS columns, COUNTIF(has_source) AS mapped FROM `{warehouse.table_id(DATASET, 'columns')}`",
        name="lineage_demo",
    ).rows[0]
    total = sum(queries.statuses.values())
    unresolved = total - queries.statuses.get("resolved", 0)
    demo.say(f"  {columns['mapped']:,} of {columns['columns']:,} columns mapped, from {total:,} distinct queries")
    reasons = ", ".join(f"{reason}: {count}" for reason, count in queries.reasons.items())
    demo.check("no query is unresolved", unresolved == 0, reasons or f"{total:,} queries")
    ours = {
        f"{settings.project}.{settings.dataset(key.path[0])}."
        for key in definitions.resolve_asset_graph().get_all_asset_keys()
    }
    without = columns_without_source(warehouse)
    empty = columns_without_source(warehouse, of_empty_tables=True)
    without += [name for name in empty if name.startswith(tuple(ours))]
    others = f"; {columns['columns'] - columns['mapped']} of empty tables that are not the project's"
    demo.check(
        "every column of every table the project builds has its sources",
        not without,
        ", ".join(without[:5])
        or f"{columns['mapped']:,} columns{others if columns['mapped'] < columns['columns'] else ''}",
    )
    graph = Graph(stored.stored_edges(settings))
    found = graph.reach(FIELD)
    features = sorted({one.node[1] for one in found if ".features_" in one.node[0] and one.node[1] != "entity_key"})
    policies = sorted({one.node[0].removeprefix(POLICY) for one in found if one.node[0].startswith(POLICY)})
    way = next((one for one in found if one.node[0].startswith(POLICY) and one.node[1] == "level"), None)
    if way is not None:
        demo.say(f"  {' → '.join('.'.join(step.node) for step in way.path)}")
    demo.check(
        f"{'.'.join(FIELD)} leads to features and policies",
        bool(features and policies),
        f"{', '.join(features)}; {', '.join(policies)}",
    )
    personal = personal_data(warehouse)
    demo.say(
        f"  personal data is in {sum(personal.values())} columns: "
        + ", ".join(f"{n} in {d}" for d, n in personal.items())
    )
    demo.check("personal data is followed from its contracts", bool(personal))
