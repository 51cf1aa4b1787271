"""Bytes that the compiled statements of one event's hour read, by BigQuery's rules, against the event's own share.

    python benchmarks/bytes.py [--hours 170] [--types 50] [--events 1000]

The embedded server counts no bytes, so they are modelled: BigQuery reads the columns a statement names, of the partitions its
filter leaves, and in a clustered table the blocks of the clustered values. On BigQuery proper `--dry-run` asks it instead.
"""

import argparse
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlglot
from sqlglot import exp

from dataplatform.contracts.load import load_contracts_leniently
from dataplatform.events import sql
from dataplatform.events.hours import EventHours
from dataplatform.settings import Settings

WIDTHS: Mapping[str, float] = {
    "hour": 8,
    "received_at": 8,
    "source": 8,
    "event": 24,
    "event_id": 38,
    "payload": 600,
    "faults": 2,
    "file": 22,
    "line": 8,
    "payload_digest": 34,
    "refused": 1,
}
"""Bytes of each column of `received`, a row: BigQuery counts a STRING as 2 and its length."""


def scans(statement: str, table: str) -> list[tuple[set[str], bool, bool]]:
    """Each reading of `table`: the columns, whether the look-back is read with the range, whether one event's only."""
    found = []
    for tree in sqlglot.parse(re.sub(r"--.*", "", statement), read="bigquery"):
        if tree is None:
            continue
        for select in tree.find_all(exp.Select):
            source = select.args.get("from_") or select.args.get("from")
            tables = [source.this] if source else []
            tables += [join.this for join in select.args.get("joins") or []]
            if not any(
                isinstance(item, exp.Table) and item.sql("bigquery").replace("`", "").startswith(table)
                for item in tables
            ):
                continue
            where = select.args.get("where")
            text = where.sql("bigquery") if where else ""
            columns = {column.name for column in select.find_all(exp.Column)} & WIDTHS.keys()
            found.append((columns, "@lookback_hours" in text, bool(re.search(r"\bevent\s*(=|IN)\s*", text))))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=168, help="hours of look-back")
    parser.add_argument("--types", type=int, default=50, help="event types, of equal share")
    parser.add_argument("--events", type=int, default=1000, help="events of one type in one hour")
    parser.add_argument(
        "--dry-run", action="store_true", help="ask BigQuery (DATAPLATFORM_ENV=gcp) instead of the model"
    )
    arguments = parser.parse_args()

    contracts, _ = load_contracts_leniently(Path("schemas"))
    tables = sql.Tables("local")
    contract = next(iter(contracts.events.values()))
    statements = {
        f"accepted: {contract.name}": sql.accepted_statement(contract, tables),
        "duplicates: all events": sql.duplicates_statement(tables),
    }
    if arguments.dry_run:
        stream = EventHours(Settings(), contracts.events)  # type: ignore[call-arg]
        start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        parameters = {"start": start, "end": start + timedelta(hours=1), "lookback_hours": arguments.hours}
        for label, text in statements.items():
            print(f"{label:50}{stream.warehouse.scanned_bytes(text, parameters):>16,} bytes")
        return
    own = arguments.events * sum(WIDTHS.values())
    print(
        f"one event of {arguments.types}, {arguments.events:,} rows an hour, look-back {arguments.hours} hours; own share {own / 1e6:.2f} MB\n"
    )
    print(f"{'statement: reading of received':60}{'MB':>10}{'of share':>10}")
    for label, text in statements.items():
        for columns, lookback, one_event in scans(text, "local.events_raw.received"):
            rows = arguments.events * (1 if one_event else arguments.types) * (1 + (arguments.hours if lookback else 0))
            size = rows * sum(WIDTHS[column] for column in columns)
            reach = "look-back" if lookback else "hour"
            what = f"{label}: {reach}, {'its cluster' if one_event else 'every event'}{', with payload' if 'payload' in columns else ''}"
            print(f"{what:60}{size / 1e6:10.2f}{size / own:10.2f}")
    print("\nThe look-back is read once for all events, without payloads: ids, times and places of 169 hours.")


if __name__ == "__main__":
    main()
