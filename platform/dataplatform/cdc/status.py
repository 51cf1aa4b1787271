"""How far every collection is: from small files in the landing alone, so that it costs nothing and works while anything is down."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..contracts.collections import CollectionContract
from ..settings import Settings
from .names import table_name
from .state import AppliedState, PositionFile, Snapshot, UnitState, landing_of, read_applied, units_of


class CollectionStatus(msgspec.Struct):
    """One collection. Times are UTC; seconds are of wall time.

    `state`: not_started, snapshot, streaming, behind (later than its objective allows) or lost (re-snapshot under way).
    `lag_seconds`: now − the source's time up to which everything is landed; `table_lag_seconds`: now − the source's time up to
    which the tables are complete, which is what the objective is about. `oplog_seconds_left`: how long the capture may
    stand still before changes are lost (estimated while the oplog is not full yet); None where the user may not see the oplog.
    """

    collection: str
    connection: str
    table: str
    state: str
    position: str | None = None
    passed_at: datetime | None = None
    complete_through: datetime | None = None
    changed_at: datetime | None = None
    lag_seconds: float | None = None
    table_through: datetime | None = None
    table_lag_seconds: float | None = None
    changes: int = 0
    changes_per_second: float | None = None
    oplog_seconds_left: float | None = None
    snapshot: dict[str, Any] | None = None
    snapshots_ended: int = 0
    missing_at_source: bool = False
    conflicts: int | None = None
    held_by: str | None = None
    lost: list[dict[str, Any]] = []


def status_of(
    settings: Settings,
    contracts: Mapping[str, CollectionContract],
    *,
    now: datetime | None = None,
) -> list[CollectionStatus]:
    """The status of every contracted collection, in order."""
    now = now or datetime.now(UTC)
    found: list[CollectionStatus] = []
    for unit in units_of(contracts.values(), settings.cdc_stream_scope):
        state = PositionFile(settings, unit).read()
        served = [contract for contract in contracts.values() if unit.serves(contract)]
        found += [_one(state, read_applied(landing_of(settings, one)), one, now) for one in served]
    return sorted(found, key=lambda one: one.collection)


def _one(
    state: UnitState,
    applied: AppliedState | None,
    contract: CollectionContract,
    now: datetime,
) -> CollectionStatus:
    name = contract.namespace
    result = CollectionStatus(
        name, contract.connection, table_name(contract.database, contract.collection), "not_started"
    )
    if applied is not None:
        result.table_through, result.conflicts = applied.through, applied.conflicts
    collection = state.collections.get(name)
    if collection is None:
        return result
    lag = max(0.0, (now - state.passed_at).total_seconds())
    result.position, result.passed_at = collection.position, state.passed_at
    result.changed_at, result.changes = collection.changed_at, collection.changes
    result.complete_through = collection.complete_through(state.passed_at)
    result.lag_seconds, result.changes_per_second = round(lag, 1), state.rate
    table_lag = max(0.0, (now - (result.table_through or collection.since)).total_seconds())
    result.table_lag_seconds = round(table_lag, 1)
    result.snapshots_ended, result.missing_at_source = len(collection.ended), collection.missing
    if state.oplog_first is not None:
        result.oplog_seconds_left = round(_oplog_left(state, state.oplog_first), 1)
    if state.holder is not None:
        result.held_by = f"{state.holder.pid}@{state.holder.host}" + ("" if state.holder.alive else " (gone)")
    result.lost = [msgspec.to_builtins(one) for one in state.lost]
    if collection.snapshot is not None:
        result.snapshot = _progress(collection.snapshot, now)
        result.state = "lost" if collection.snapshot.reason == "history lost" else "snapshot"
    else:
        result.state = "behind" if max(lag, table_lag) > contract.freshness_minutes * 60 else "streaming"
    return result


def _oplog_left(state: UnitState, first: datetime) -> float:
    """Seconds of oplog between its oldest entry and what is landed; of one that is not full yet, the seconds it will hold at this
    rate, less what is not landed yet."""
    asked = max(state.oplog_asked_at or state.passed_at, state.passed_at)
    held = (asked - first).total_seconds()
    will_hold = held / state.oplog_filled if state.oplog_filled and state.oplog_filled < 1 else held
    return will_hold - (asked - state.passed_at).total_seconds()


def _progress(snapshot: Snapshot, now: datetime) -> dict[str, Any]:
    seconds_left: float | None = None
    if snapshot.started_at is not None and snapshot.rows:
        elapsed = (now - snapshot.started_at).total_seconds()
        seconds_left = round(max(0, snapshot.estimate - snapshot.rows) * elapsed / snapshot.rows, 1)
    return {
        "generation": snapshot.generation,
        "reason": snapshot.reason,
        "state": snapshot.state,
        "rows": snapshot.rows,
        "estimated_rows": snapshot.estimate,
        "bytes": snapshot.bytes,
        "seconds_left": seconds_left,
        "restarts": snapshot.restarts,
    }


def metrics_text(found: list[CollectionStatus]) -> str:
    """The same numbers in Prometheus' text format."""
    lines = []
    for name, kind, meaning, read in _METRICS:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        for one in found:
            value = read(one)
            if value is not None:
                labels = f'collection="{_label(one.collection)}",connection="{_label(one.connection)}"'
                lines.append(f"{name}{{{labels}}} {value}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_METRICS: tuple[tuple[str, str, str, Any], ...] = (
    (
        "cdc_lag_seconds",
        "gauge",
        "Seconds since the source's time up to which all is landed.",
        lambda one: one.lag_seconds,
    ),
    (
        "cdc_table_lag_seconds",
        "gauge",
        "Seconds since the source's time up to which the tables are complete.",
        lambda one: one.table_lag_seconds,
    ),
    ("cdc_conflicts_total", "counter", "Schema conflicts of the typed table.", lambda one: one.conflicts),
    ("cdc_changes_total", "counter", "Changes landed.", lambda one: one.changes),
    ("cdc_changes_per_second", "gauge", "Changes a second of the connection.", lambda one: one.changes_per_second),
    ("cdc_oplog_seconds_left", "gauge", "Seconds until changes would be lost.", lambda one: one.oplog_seconds_left),
    (
        "cdc_snapshot_estimated_rows",
        "gauge",
        "Documents that it will have.",
        lambda one: (one.snapshot or {}).get("estimated_rows"),
    ),
    ("cdc_snapshot_rows", "gauge", "Documents of the running snapshot.", lambda one: (one.snapshot or {}).get("rows")),
    ("cdc_snapshot_seconds_left", "gauge", "Estimate.", lambda one: (one.snapshot or {}).get("seconds_left")),
    ("cdc_lost_total", "counter", "Times that the source had lost changes.", lambda one: len(one.lost)),
)
