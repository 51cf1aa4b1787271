"""Labels for backtests: what closed cases say of the events that their alerts were about.

`fraud.labels` has one row an event, from wherever one is told: chargebacks and other tables write theirs with a `source` of their own,
and theirs count before ours. A case that is opened again takes its labels back.
"""

import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

import pyarrow as pa

from ..warehouse.client import Warehouse, WarehouseError
from ..warehouse.tables import TableSpec, ensure
from .cases import CaseLabel
from .tables import DATASET

LABELS = f"{DATASET}/labels"
LABELS_TABLE = TableSpec(
    DATASET,
    "labels",
    [
        {"name": "event_id", "type": "STRING", "mode": "REQUIRED", "description": "The event."},
        {"name": "fraud", "type": "BOOLEAN", "mode": "REQUIRED", "description": "Whether it was fraud."},
        {"name": "known_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": "Since when that is known."},
        {"name": "source", "type": "STRING", "mode": "NULLABLE", "description": "Who says so: `case`, or another."},
        {"name": "case_id", "type": "INTEGER", "mode": "NULLABLE", "description": "The case that says so."},
    ],
    clustering=("event_id",),
    description="What is known of events afterwards: fraud or not.",
)
_ARROW = pa.schema(
    [
        ("event_id", pa.string()),
        ("fraud", pa.bool_()),
        ("known_at", pa.timestamp("us", tz="UTC")),
        ("case_id", pa.int64()),
    ]
)
_TYPES = {str(each["name"]): str(each["type"]) for each in LABELS_TABLE.schema if each["name"] in _ARROW.names}


def replace_labels(warehouse: Warehouse, labels: Iterable[CaseLabel]) -> int:
    """Replace the labels that are of cases; gives how many there are now.

    Without any it is the same statement: the query log tells where the columns come from before the first case is closed.
    """
    rows = [
        {
            "event_id": each.event_id,
            "fraud": each.fraud,
            "known_at": datetime.fromtimestamp(each.known_at / 1e6, UTC),
            "case_id": each.case_id,
        }
        for each in labels
    ]
    ensure(warehouse, [LABELS_TABLE])
    target = f"`{warehouse.table_id(DATASET, 'labels')}`"
    staging = f"labels_{uuid.uuid4().hex[:12]}"
    warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id('fraud_staging')}`", name="fraud_staging")
    source = f"`{warehouse.table_id('fraud_staging', staging)}`"
    try:
        # The schema is stated for the query log: the table is gone before anything looks at it.
        schema = [{"name": name, "type": kind} for name, kind in _TYPES.items()]
        warehouse.load_rows(pa.Table.from_pylist(rows, _ARROW), "fraud_staging", staging, schema=schema)
        warehouse.query(
            "BEGIN TRANSACTION;\n"
            f"DELETE FROM {target} WHERE source = 'case';\n"
            f"INSERT INTO {target} (event_id, fraud, known_at, source, case_id)\n"
            f"SELECT s.event_id, s.fraud, s.known_at, 'case', s.case_id FROM {source} AS s\n"
            f"WHERE NOT EXISTS (SELECT 1 FROM {target} AS t WHERE t.event_id = s.event_id);\n"
            "COMMIT TRANSACTION;",
            name="labels",
        )
    finally:
        with suppress(WarehouseError):
            warehouse.query(f"DROP TABLE IF EXISTS {source}")
    found = warehouse.query(f"SELECT COUNT(*) AS n FROM {target} WHERE source = 'case'", name="labels").rows
    return int(found[0]["n"])
