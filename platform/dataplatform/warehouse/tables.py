"""What a table should be, and the changes that make it so. Nothing is ever dropped or narrowed."""

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .client import Warehouse, WarehouseError, label_value
from .lazily import Lazily

if TYPE_CHECKING:
    from google.api_core import exceptions as google_errors
    from google.cloud import bigquery
else:
    google_errors = Lazily("google.api_core.exceptions")
    bigquery = Lazily("google.cloud.bigquery")

type ColumnSpec = Mapping[str, Any]
"""A column in the API's JSON form: name, type, mode, description, fields, policyTags."""

SPEC_LABEL = "dataplatform_spec"
"""Label of a table that holds the digest of the spec it was last made to meet, so that one listing tells what changed."""

PARALLEL_CHANGES = 10
"""Tables made or changed at a time; each is a request of its own, and there may be a thousand."""

WIDENINGS: dict[tuple[str, str], bool] = dict.fromkeys(
    [
        ("INT64", "NUMERIC"),
        ("INT64", "BIGNUMERIC"),
        ("INT64", "FLOAT64"),
        ("NUMERIC", "BIGNUMERIC"),
        ("NUMERIC", "FLOAT64"),
    ],
    True,
)
"""Types that a column can become without a rewrite, by BigQuery's rules."""

_STANDARD_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
_API_TYPES = {standard: legacy for legacy, standard in _STANDARD_TYPES.items()}


@dataclass(frozen=True)
class TableSpec:
    """A table: where, its columns, how it is partitioned and clustered, and what is said about it.

    `dataset` is without the environment's prefix. `partition_type` is HOUR, DAY, MONTH or YEAR, of `partition_field`.
    """

    dataset: str
    name: str
    schema: Sequence[ColumnSpec]
    partition_field: str | None = None
    partition_type: str = "DAY"
    clustering: Sequence[str] = ()
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    require_partition_filter: bool = False

    @property
    def digest(self) -> str:
        """Content hash of the whole spec."""
        text = json.dumps(
            [
                [dict(column) for column in self.schema],
                [self.partition_field, self.partition_type, list(self.clustering), self.require_partition_filter],
                [self.description, dict(self.labels)],
            ],
            sort_keys=True,
            default=str,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def ensure(warehouse: Warehouse, specs: Iterable[TableSpec]) -> list[str]:
    """Make the tables meet their specs: create, add columns (nested ones too), widen, describe, label.

    One listing a dataset when nothing has changed. Returns what was done, a line each. A column whose type changed in
    any other way is a WarehouseError: such a change needs a table of its own. Columns that are in the table only stay.
    """
    changes: list[str] = []
    by_dataset: dict[str, list[TableSpec]] = {}
    for spec in specs:
        by_dataset.setdefault(spec.dataset, []).append(spec)
    for dataset, wanted in by_dataset.items():
        existing = warehouse.tables(dataset)
        if not existing:
            _create_dataset(warehouse, dataset)
        work = [
            (_alter if spec.name in existing else _create, spec)
            for spec in wanted
            if spec.name not in existing or (existing[spec.name].labels or {}).get(SPEC_LABEL) != spec.digest
        ]
        # The embedded server makes one at a time, and takes longer where several wait.
        parallel = 1 if warehouse.embedded else PARALLEL_CHANGES
        with ThreadPoolExecutor(parallel, thread_name_prefix="table") as pool:
            for done in pool.map(lambda one: one[0](warehouse, one[1]), work):
                changes += done
    return changes


def add_field(warehouse: Warehouse, dataset: str, table: str, path: Sequence[str], column: ColumnSpec) -> None:
    """Add one column, or one field inside a STRUCT (`path` names the STRUCTs from the column down).

    BigQuery takes it as an update of the table's schema, for SQL there cannot add a field to a STRUCT. The embedded server
    ignores that silently for nested fields, and takes `SET DATA TYPE` with the whole new type, which BigQuery does not.
    """
    current = _get(warehouse, dataset, table)
    columns: list[dict[str, Any]] = [schema_field.to_api_repr() for schema_field in current.schema]
    changed = _with_field(columns, list(path), column)
    if path and warehouse.embedded:
        top = next(c for c in changed if c["name"].lower() == path[0].lower())
        warehouse.query(
            f"ALTER TABLE `{warehouse.table_id(dataset, table)}` "
            f"ALTER COLUMN `{top['name']}` SET DATA TYPE {standard_type(top)}",
            name=f"add_field_{table}",
        )
    _update(warehouse, current, changed, ["schema"])


def standard_type(column: ColumnSpec) -> str:
    """GoogleSQL spelling of a column's type, such as `ARRAY<STRUCT<sku STRING, price NUMERIC>>`."""
    kind = _standard(column["type"])
    if kind == "STRUCT":
        kind = f"STRUCT<{', '.join(f'`{inner["name"]}` {standard_type(inner)}' for inner in column['fields'])}>"
    return f"ARRAY<{kind}>" if column.get("mode") == "REPEATED" else kind


_one_dataset = threading.Lock()
"""The embedded server fails those that make the same dataset at the same time."""


def _create_dataset(warehouse: Warehouse, dataset: str) -> None:
    made = bigquery.Dataset(warehouse.dataset_id(dataset))
    made.location = warehouse.settings.location
    with _one_dataset:
        warehouse.request(f"dataset {dataset}", lambda: warehouse.client.create_dataset(made, exists_ok=True))


def _create(warehouse: Warehouse, spec: TableSpec) -> list[str]:
    table = bigquery.Table(
        warehouse.table_id(spec.dataset, spec.name),
        schema=[bigquery.SchemaField.from_api_repr(dict(column)) for column in spec.schema],
    )
    if spec.partition_field:
        table.time_partitioning = bigquery.TimePartitioning(type_=spec.partition_type, field=spec.partition_field)
        table.require_partition_filter = spec.require_partition_filter or None
    table.clustering_fields = list(spec.clustering) or None
    table.description = spec.description or None
    table.labels = _labels_of(spec)

    def create() -> list[str]:
        try:
            warehouse.client.create_table(table, retry=warehouse.retry())
        except google_errors.Conflict:  # another run was quicker
            return _alter(warehouse, spec)
        return [f"created {spec.dataset}.{spec.name}"]

    return warehouse.request(f"table {spec.dataset}.{spec.name}", create)


def _alter(warehouse: Warehouse, spec: TableSpec) -> list[str]:
    current = _get(warehouse, spec.dataset, spec.name)
    columns: list[dict[str, Any]] = [schema_field.to_api_repr() for schema_field in current.schema]
    where = f"{spec.dataset}.{spec.name}"
    changes: list[str] = []
    for path, column in _missing(columns, spec.schema, ()):
        changes.append(f"added {where}.{'.'.join((*path, column['name']))}")
    for name, before, after in _widened(columns, spec.schema, where):
        warehouse.query(
            f"ALTER TABLE `{warehouse.table_id(spec.dataset, spec.name)}` ALTER COLUMN `{name}` SET DATA TYPE {after}",
            name=f"widen_{spec.name}",
        )
        changes.append(f"widened {where}.{name} from {before} to {after}")
    merged = _merged(columns, spec.schema)
    if warehouse.embedded:
        for top in merged:
            before_top = next((c for c in columns if c["name"].lower() == top["name"].lower()), None)
            if before_top and "fields" in top and standard_type(before_top) != standard_type(top):
                warehouse.query(
                    f"ALTER TABLE `{warehouse.table_id(spec.dataset, spec.name)}` "
                    f"ALTER COLUMN `{top['name']}` SET DATA TYPE {standard_type(top)}",
                    name=f"add_field_{spec.name}",
                )
    current.description = spec.description or None
    # A label that the spec does not know stays: someone else's tool may have put it there.
    current.labels = dict(current.labels or {}) | _labels_of(spec)
    _update(warehouse, current, merged, ["schema", "description", "labels"])
    return changes or [f"described {where}"]


def _get(warehouse: Warehouse, dataset: str, table: str) -> "bigquery.Table":
    target = warehouse.table_id(dataset, table)
    return warehouse.request(f"table {target}", lambda: warehouse.client.get_table(target, retry=warehouse.retry()))


def _update(warehouse: Warehouse, table: "bigquery.Table", columns: list[dict[str, Any]], fields: list[str]) -> None:
    table.schema = [bigquery.SchemaField.from_api_repr(column) for column in columns]
    warehouse.request(
        f"table {table.full_table_id}",
        lambda: warehouse.client.update_table(table, fields, retry=warehouse.retry()),
    )


def _labels_of(spec: TableSpec) -> dict[str, str]:
    return {key: label_value(value) for key, value in spec.labels.items()} | {SPEC_LABEL: spec.digest}


def _standard(kind: str) -> str:
    return _STANDARD_TYPES.get(kind.upper(), kind.upper())


def _by_name(columns: Iterable[ColumnSpec]) -> dict[str, ColumnSpec]:
    return {column["name"].lower(): column for column in columns}


def _missing(
    have: Sequence[ColumnSpec], want: Sequence[ColumnSpec], path: tuple[str, ...]
) -> list[tuple[tuple[str, ...], ColumnSpec]]:
    """Fields of `want` that `have` lacks, each with the STRUCTs above it."""
    known = _by_name(have)
    found: list[tuple[tuple[str, ...], ColumnSpec]] = []
    for column in want:
        existing = known.get(column["name"].lower())
        if existing is None:
            found.append((path, column))
        elif column.get("fields"):
            found += _missing(existing.get("fields", ()), column["fields"], (*path, existing["name"]))
    return found


def _widened(have: Sequence[ColumnSpec], want: Sequence[ColumnSpec], where: str) -> list[tuple[str, str, str]]:
    """Columns whose type changed, as (name, before, after); an error where BigQuery could not follow."""
    known = _by_name(have)
    found: list[tuple[str, str, str]] = []
    for column in want:
        existing = known.get(column["name"].lower())
        if existing is None:
            continue
        before, after = _standard(existing["type"]), _standard(column["type"])
        repeated = existing.get("mode") == "REPEATED"
        if repeated != (column.get("mode") == "REPEATED"):
            raise _cannot(f"{where}.{column['name']}", "REPEATED" if repeated else "not repeated", "the other way")
        if before != after:
            if (before, after) not in WIDENINGS or repeated:
                raise _cannot(f"{where}.{column['name']}", before, after)
            found.append((existing["name"], before, after))
        elif column.get("fields") and _widened(
            existing.get("fields", ()), column["fields"], f"{where}.{column['name']}"
        ):
            raise _cannot(f"{where}.{column['name']}", standard_type(existing), standard_type(column))
    return found


def _cannot(column: str, before: str, after: str) -> WarehouseError:
    return WarehouseError(
        f"the column is {before} and cannot become {after} without a rewrite",
        where=column,
        fix="give the contract its next major version, which has a table of its own",
    )


def _merged(have: Sequence[ColumnSpec], want: Sequence[ColumnSpec]) -> list[dict[str, Any]]:
    """`have` with the types, texts and marks of `want`, its order kept, new fields at the end."""
    wanted = _by_name(want)
    result: list[dict[str, Any]] = []
    for column in have:
        other = wanted.pop(column["name"].lower(), None)
        merged = dict(column)
        if other is not None:
            merged["type"] = other["type"]
            merged["description"] = other.get("description", "")
            if "policyTags" in other:
                merged["policyTags"] = other["policyTags"]
            # A column can be relaxed, never tightened.
            if column.get("mode") == "REQUIRED" and other.get("mode", "NULLABLE") == "NULLABLE":
                merged["mode"] = "NULLABLE"
            if other.get("fields"):
                merged["fields"] = _merged(column.get("fields", ()), other["fields"])
        result.append(merged)
    result += [_nullable(column) for column in want if column["name"].lower() in wanted]
    return result


def _nullable(column: ColumnSpec) -> dict[str, Any]:
    """A column as it can be added to a table that has rows: they have no value for it."""
    added = dict(column)
    if added.get("mode") == "REQUIRED":
        added["mode"] = "NULLABLE"
    return added


def _with_field(columns: list[dict[str, Any]], path: list[str], column: ColumnSpec) -> list[dict[str, Any]]:
    if not path:
        return [*columns, _nullable(column)]
    return [
        {**c, "fields": _with_field(c["fields"], path[1:], column)} if c["name"].lower() == path[0].lower() else c
        for c in columns
    ]
