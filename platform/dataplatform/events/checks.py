"""Asset checks of behaviour logs: nothing lost, nothing counted twice, nothing suddenly refused or empty."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ..contracts.events import EventContract
from ..runs import range_of
from .hours import LEDGER, RECEIVED, EventHours, describe_imbalance

BALANCES = dg.AssetCheckSpec(
    "balances",
    asset=LEDGER.split("/"),
    blocking=True,
    description="Received = accepted + rejected + duplicates, for every hour and event, counted in the tables themselves.",
)
COMPLETE = dg.AssetCheckSpec(
    "complete",
    asset=RECEIVED.split("/"),
    blocking=True,
    description="Every line of every landed file of the hour is a row, once.",
)
BASELINE_HOURS = 24
"""How many hours before the checked range its rates are compared with."""
LEAST_ROWS = 100
"""Rates of fewer events are chance."""
RATE_STEP = 0.2
"""A share that grew by more than this (of all events) is worth a look."""
SHOWN = 20


def balance_result(stream: EventHours, start: datetime, end: datetime) -> dg.AssetCheckResult:
    """The ledger's rows of the range balance, and say what the tables hold now."""
    wrong = [describe_imbalance(row) for row in stream.unbalanced(start, end)]
    wrong += [
        f"{row['event'] or '(no name)'} at {row['hour']:%Y-%m-%d %H}:00: the ledger says {row['said']} {row['what']}, "
        f"the table holds {row['held']}"
        for row in stream.differing(start, end)
    ]
    return dg.AssetCheckResult(
        asset_key=BALANCES.asset_key,
        check_name=BALANCES.name,
        passed=not wrong,
        description=_listed(wrong) if wrong else "every row of the ledger balances",
        metadata={"wrong": len(wrong)},
    )


def complete_result(stream: EventHours, start: datetime, end: datetime) -> dg.AssetCheckResult:
    """`received` holds the landed files of the range, line by line."""
    wrong = stream.incomplete(start, end)
    return dg.AssetCheckResult(
        asset_key=COMPLETE.asset_key,
        check_name=COMPLETE.name,
        passed=not wrong,
        description=_listed(wrong) if wrong else "every landed line is a row",
        metadata={"wrong": len(wrong)},
    )


def rate_checks(stream: EventHours) -> list[dg.AssetChecksDefinition]:
    """For every event: are more events refused, or more columns empty, than in the hours before?"""
    names = sorted(stream.contracts)
    specs = [
        dg.AssetCheckSpec(
            "reject_rate",
            asset=["events", name],
            description=f"The share of refused events is not {RATE_STEP:.0%} above that of the {BASELINE_HOURS} hours before.",
        )
        for name in names
    ] + [
        dg.AssetCheckSpec(
            "null_rates",
            asset=["events", name],
            description=f"No column is empty in {RATE_STEP:.0%} more rows than in the {BASELINE_HOURS} hours before.",
        )
        for name in names
    ]
    if not specs:
        return []

    @dg.multi_asset_check(name="events_rates", specs=specs, can_subset=True, pool="bigquery")
    def events_rates(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        start, end = checked_range(context.run.tags, stream)
        asked: dict[str, set[str]] = {"reject_rate": set(), "null_rates": set()}
        for key in context.selected_asset_check_keys:
            asked[key.name].add(key.asset_key.path[-1])
        baseline = start - timedelta(hours=BASELINE_HOURS)
        if asked["reject_rate"]:
            rows = {row["event"]: row for row in stream.reject_rates(baseline, start, end)}
            for name in sorted(asked["reject_rate"]):
                yield _reject_result(name, rows.get(name))
        if asked["null_rates"]:
            contracts = [stream.contracts[name] for name in sorted(asked["null_rates"])]
            rates = null_rates(stream, contracts, baseline, start, end)
            for contract in contracts:
                yield _null_result(contract, rates[contract.name])

    return [events_rates]


def checked_range(tags: Mapping[str, str], stream: EventHours) -> tuple[datetime, datetime]:
    """The hours a run is about, by its tags; the newest full hour where it is about none."""
    found = range_of(tags)
    if found is not None:
        return found
    end = stream.last_end(datetime.now(UTC))
    return end - timedelta(hours=1), end


def null_rates(
    stream: EventHours, contracts: Iterable[EventContract], baseline: datetime, start: datetime, end: datetime
) -> dict[str, dict[str, tuple[float, float]]]:
    """Per event and optional column: share of empty values in the baseline and in the range, where both have LEAST_ROWS."""
    columns = {contract.name: nullable_columns(contract) for contract in contracts}
    rows = stream.null_counts({name: found for name, found in columns.items() if found}, baseline, start, end)
    before = {row["event"]: row for row in rows if not row["present"]}
    now = {row["event"]: row for row in rows if row["present"]}
    rates: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in columns}
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if min(old["row_count"], new["row_count"]) >= LEAST_ROWS:
            rates[name] = {
                column: (old["nulls"][index] / old["row_count"], new["nulls"][index] / new["row_count"])
                for index, column in enumerate(columns[name])
            }
    return rates


def nullable_columns(contract: EventContract) -> list[str]:
    """Columns of parameters that may be empty, and are not repeated (those are never NULL)."""
    return [column.name for column in contract.columns if not column.field.required and not column.field.repeated]


def _reject_result(name: str, row: Mapping[str, Any] | None) -> dg.AssetCheckResult:
    passed, text, metadata = True, "too few events to compare", {}
    if row is not None and min(row["received"], row["received_before"]) >= LEAST_ROWS:
        now, before = row["rejected"] / row["received"], row["rejected_before"] / row["received_before"]
        passed = now - before <= RATE_STEP
        text = f"{now:.1%} refused, {before:.1%} in the {BASELINE_HOURS} hours before"
        metadata = {"rate": now, "rate_before": before}
    return dg.AssetCheckResult(
        asset_key=["events", name],
        check_name="reject_rate",
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata=metadata,
    )


def _null_result(contract: EventContract, rates: Mapping[str, tuple[float, float]]) -> dg.AssetCheckResult:
    grown = {column: pair for column, pair in rates.items() if pair[1] - pair[0] > RATE_STEP}
    text = "too few events to compare" if not rates else "no column is emptier than before"
    if grown:
        text = _listed([f"{column}: {now:.0%} empty, {before:.0%} before" for column, (before, now) in grown.items()])
    return dg.AssetCheckResult(
        asset_key=["events", contract.name],
        check_name="null_rates",
        passed=not grown,
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={"rates": dg.MetadataValue.json({column: round(pair[1], 4) for column, pair in rates.items()})},
    )


def _listed(lines: list[str]) -> str:
    more = f"\nand {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "\n".join(lines[:SHOWN]) + more
