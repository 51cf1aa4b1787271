"""The tables of captured collections, and the small ones beside them that say how they came to be."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts.bigquery import PII_MARK
from ..contracts.collections import CollectionContract
from ..warehouse.client import Warehouse
from ..warehouse.tables import TableSpec
from .changes import CHANGES_SCHEMA
from .names import table_name
from .schema import Node, columns
from .sql import HISTORY_COLUMNS, KEPT_COLUMNS, OWN_COLUMNS, RAW_SCHEMA, Tables

RAW = "mongo_raw"
TYPED = "mongo"

_MAX_HOURLY_DAYS = 400
"""BigQuery keeps at most 10,000 partitions a table: a longer history is partitioned by day."""

SCHEMA_CHANGES: tuple[dict[str, str], ...] = (
    {"name": "at", "type": "TIMESTAMP", "description": "When the step was made."},
    {"name": "collection", "type": "STRING", "description": "<database>.<collection>"},
    {"name": "hour", "type": "TIMESTAMP", "description": "First hour of the changes that made the step necessary."},
    {"name": "path", "type": "STRING", "description": "JSON pointer of the field."},
    {"name": "step", "type": "STRING", "description": "added, widened, rewritten; conflict, too_many_keys, refused."},
    {"name": "before", "type": "STRING", "description": "Type before; of a conflict: the column's type."},
    {
        "name": "after",
        "type": "STRING",
        "description": "Type after; of a conflict: the kind of value that does not fit.",
    },
    {"name": "values", "type": "INT64", "description": "How many values were seen."},
)
SCHEMAS: tuple[dict[str, str], ...] = (
    {"name": "collection", "type": "STRING", "description": "<database>.<collection>"},
    {"name": "version", "type": "INT64", "description": "Counts up; the greatest one is in force."},
    {"name": "at", "type": "TIMESTAMP", "description": "When it was made."},
    {"name": "schema", "type": "STRING", "description": "The fields and their columns, as JSON."},
    {"name": "rewrite", "type": "BOOL", "description": "The typed table has to be built anew for it."},
)
BARRIERS: tuple[dict[str, str], ...] = (
    {"name": "collection", "type": "STRING", "description": "<database>.<collection>"},
    {"name": "position", "type": "STRING", "description": "Everything older is deleted."},
    {"name": "operation", "type": "STRING", "description": "drop, rename, dropDatabase, snapshot."},
    {"name": "changed_at", "type": "TIMESTAMP", "description": "When it happened at the source."},
    {"name": "detail", "type": "STRING", "description": "Of a rename: the new name; of a snapshot: why it was taken."},
)
HOURS: tuple[dict[str, str], ...] = (
    {"name": "hour", "type": "TIMESTAMP", "description": "Hour of the source's clock (UTC)."},
    {"name": "collection", "type": "STRING", "description": "<database>.<collection>"},
    {"name": "digest", "type": "STRING", "description": "What the hour consisted of when it was applied."},
    {"name": "changes", "type": "INT64", "description": "Records of the hour (snapshots' too), each once."},
    {"name": "applied_at", "type": "TIMESTAMP", "description": "When it was applied."},
)


def tables_of(warehouse: Warehouse, contract: CollectionContract) -> Tables:
    """Full names of a collection's tables."""
    name = table_name(contract.database, contract.collection)
    return Tables(
        raw=warehouse.table_id(RAW, name),
        history=warehouse.table_id(RAW, f"{name}__changes"),
        typed=warehouse.table_id(TYPED, name),
        staging=warehouse.table_id(RAW, f"{name}__staging"),
        newest=warehouse.table_id(RAW, f"{name}__newest"),
    )


def shared_specs() -> list[TableSpec]:
    """The tables that all collections share."""
    return [
        TableSpec(
            RAW,
            "schema_changes",
            SCHEMA_CHANGES,
            description="Every step of a typed table's evolution, every conflict.",
        ),
        TableSpec(RAW, "schemas", SCHEMAS, description="Every version of every typed table's schema."),
        TableSpec(RAW, "barriers", BARRIERS, description="Drops, renames and repeated snapshots."),
        TableSpec(RAW, "hours", HOURS, "hour", "DAY", description="Which hours were applied, and from what."),
    ]


def collection_specs(contract: CollectionContract, policy_tag: str | None = None) -> list[TableSpec]:
    """The tables of one collection, but the typed one, whose columns come with its documents.

    Where the contract names personal data, the whole documents are marked as such.
    """
    name = table_name(contract.database, contract.collection)
    labels = {"collection": name[:63].lower(), "owner": contract.owner}
    original = f"MongoDB collection {contract.namespace} of connection {contract.connection}."
    personal = any(one.pii for one in contract.fields)

    def marked(columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        held = ("document", "update", "last_document") if personal else ()
        return [_personal(dict(one), policy_tag) if one["name"] in held else dict(one) for one in columns]

    return [
        TableSpec(
            RAW,
            name,
            marked([*RAW_SCHEMA, *(KEPT_COLUMNS if contract.deletes == "keep" else ())]),
            "bucket",
            "MONTH",
            ("_id",),
            f"Latest state of every document, deleted ones too. {original}",
            labels,
        ),
        TableSpec(
            RAW,
            f"{name}__changes",
            marked(HISTORY_COLUMNS),
            "hour",
            "DAY" if contract.history_days > _MAX_HOURLY_DAYS else "HOUR",
            ("_id",),
            f"Every change, kept {contract.history_days} days. {original}",
            labels,
        ),
    ]


def typed_spec(contract: CollectionContract, root: Node, policy_tag: str | None = None) -> TableSpec:
    """The typed table."""
    return TableSpec(
        TYPED,
        table_name(contract.database, contract.collection),
        typed_columns(contract, root, policy_tag),
        "_bucket",
        "MONTH",
        ("_id",),
        f"{contract.description} MongoDB collection {contract.namespace}.",
        {"owner": contract.owner},
    )


def typed_columns(contract: CollectionContract, root: Node, policy_tag: str | None = None) -> list[dict[str, Any]]:
    """Columns of the typed table, with the contract's texts and marks; what is below a marked field is marked as well."""
    known = {one.keys: one for one in contract.fields}
    own = [dict(column) for column in OWN_COLUMNS]
    if any(one.pii for one in contract.fields):
        own = [_personal(column, policy_tag) if column["name"] == "_unmapped" else column for column in own]

    def told(
        nodes: Sequence[Node], made: list[dict[str, Any]], path: tuple[str, ...], pii: bool
    ) -> list[dict[str, Any]]:
        for node, column in zip(nodes, made, strict=True):
            here = (*path, node.key)
            field = known.get(here)
            personal = pii or (field is not None and field.pii)
            if field is not None and field.description and field.description not in column["description"]:
                column["description"] = f"{field.description} {column['description']}".strip()
            if node.type == "STRUCT":
                told(node.fields, column["fields"], here, personal)
            elif personal:
                _personal(column, policy_tag)
        return made

    return [*own, *told(root.fields, columns(root), (), False)]


def _personal(column: dict[str, Any], policy_tag: str | None) -> dict[str, Any]:
    column["description"] = (column.get("description", "") + PII_MARK).strip()
    if policy_tag:
        column["policyTags"] = {"names": [policy_tag]}
    return column


STAGING_SCHEMA = CHANGES_SCHEMA
