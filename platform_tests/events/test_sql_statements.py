"""Duplicates, counts, ledger, and what is due, by the statements on the embedded server."""

import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))
from agreement import Tables, contract_of, event_of

from dataplatform.events import scanned, sql
from dataplatform.events.received import Record, received_at_text
from dataplatform.events.verdict import Judge
from dataplatform.warehouse.client import Typed

CONTRACT = contract_of([{"name": "n", "type": "INT64"}])
OTHER = contract_of([], action="drop")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def record(hours: float, event_id: str, params: str = '{"n":1}', file: str = "a", **more: Any) -> Record:
    """A record received so many hours after FIRST; `load` gives it its line."""
    raw = event_of(more.get("contract", CONTRACT), event_id, params)
    verdict = Judge({CONTRACT.name: CONTRACT, OTHER.name: OTHER}).judge(raw)
    at = received_at_text(FIRST + hours * HOUR)
    return Record(at, "test", verdict.event, verdict.event_id, raw.decode(), verdict.faults, file, 0)


def hours_of(first: int, last: int, lookback: int = 24) -> dict[str, Any]:
    return {"start": FIRST + first * HOUR, "end": FIRST + last * HOUR, "lookback_hours": lookback}


def landing(**digests: str) -> dict[str, Any]:
    """Manifests: h<hour>=digest."""
    rows = [{"hour": FIRST + int(name[1:]) * HOUR, "digest": digest} for name, digest in digests.items()]
    return {"landing": Typed("ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>", rows)}


def at(hours: float) -> datetime:
    return FIRST + hours * HOUR


def work(tables: Tables, first: int, last: int, *, only_counts: bool = False, **digests: str) -> None:
    """Everything but the load, for a range; `only_counts` leaves out accepted and rejected rows."""
    parameters = hours_of(first, last)
    started = tables.warehouse.query("SELECT CURRENT_TIMESTAMP() AS now").rows[0]["now"]
    if only_counts:
        tables.warehouse.script(sql.duplicates_statement(tables.names), parameters)
    else:
        tables.materialize(parameters)
    counts = tables.warehouse.query(sql.counts_statement(tables.contracts.values(), tables.names), parameters).rows
    accepted = [{key: row[key] for key in ("hour", "event", "accepted")} for row in counts]
    more = landing(**digests) | {
        "accepted": Typed("ARRAY<STRUCT<hour TIMESTAMP, event STRING, accepted INT64>>", accepted),
        "started_at": started,
    }
    tables.warehouse.script(sql.ledger_statement(tables.contracts.values(), tables.names), parameters | more)


def load(tables: Tables, records: list[Record], first: int, last: int, **digests: str) -> None:
    lines: Counter[str] = Counter()
    numbered = []
    for one in records:
        lines[one.file] += 1
        numbered.append(msgspec.structs.replace(one, line=lines[one.file]))
    tables.load(numbered, hours_of(first, last))
    tables.warehouse.script(sql.loaded_statement(tables.names), hours_of(first, last) | landing(**digests))


def due(tables: Tables, contracts: list[Any], first: int, last: int, **digests: str) -> set[tuple[str, int, str]]:
    rows = tables.warehouse.query(
        sql.due_statement(contracts, tables.names), hours_of(first, last) | landing(**digests)
    ).rows
    return {(row["event"], (row["hour"] - FIRST) // HOUR, row["reason"]) for row in rows}


def test_duplicates_are_what_was_received_before_within_the_lookback(settings_for: Any, bigquery: Any) -> None:
    tables = Tables(settings_for(), bigquery.gcs_root, [CONTRACT, OTHER])
    load(
        tables,
        [
            record(0.5, "once"),
            record(0.5, "batch"),
            record(0.5, "batch"),  # the same instant: the line decides
            record(0.5, "batch", '{"n":2}', file="b"),  # and before it the file
            record(0.6, "hours", '{"n":7}'),
            record(1.6, "hours", '{"n":8}'),
            record(1.7, "hours", '{"n":7}'),
            record(0.7, "far"),
            record(24.1, "far", '{"n":2}'),  # 24 hours later: known
            record(25.1, "chain", '{"n":1}'),
            record(0.8, "further"),
            record(25.0, "further", '{"n":9}'),  # 25 hours later: forgotten
            record(0.9, "other"),
            record(0.95, "other", "{}", contract=OTHER),  # the same id of another event
            record(0.2, "refused", '{"n":"x"}'),
            record(0.3, "refused", '{"n":1}'),  # the first received wins, even if refused
        ],
        0,
        26,
        h0="d0",
    )
    work(tables, 0, 26, h0="d0", h1="d1", h24="d24", h25="d25")
    duplicates = {
        (row["event_id"], row["received_at"], row["first_received_at"], row["conflicting"], row["file"], row["line"])
        for row in tables.rows("duplicates")
    }
    assert duplicates == {
        ("batch", at(0.5), at(0.5), False, "a", 3),
        ("batch", at(0.5), at(0.5), True, "b", 1),
        ("hours", at(1.6), at(0.6), True, "a", 5),
        ("hours", at(1.7), at(0.6), False, "a", 6),
        ("far", at(24.1), at(0.7), True, "a", 8),
        ("refused", at(0.3), at(0.2), True, "a", 15),
    }
    accepted = sorted((row["event_id"], row["n"]) for row in tables.rows(CONTRACT.name))
    assert accepted == sorted(
        [
            ("once", 1),
            ("batch", 1),
            ("hours", 7),
            ("far", 1),
            ("chain", 1),
            ("further", 1),
            ("further", 9),
            ("other", 1),
        ]
    )
    assert [row["event_id"] for row in tables.rows("rejected")] == ["refused"]
    ledger = {
        ((row["hour"] - FIRST) // HOUR, row["event"]): tuple(
            row[key] for key in ("received", "accepted", "rejected", "duplicates", "conflicting", "landing_digest")
        )
        for row in tables.rows("ledger")
    }
    assert ledger[0, CONTRACT.name] == (10, 6, 1, 3, 2, "d0")
    assert ledger[0, OTHER.name] == (1, 1, 0, 0, 0, "d0")
    assert ledger[1, CONTRACT.name] == (2, 0, 0, 2, 1, "d1")
    assert ledger[1, OTHER.name] == (0, 0, 0, 0, 0, "d1")
    assert tables.warehouse.query(sql.balance_statement(tables.names), hours_of(0, 26)).rows == []
    counts = tables.warehouse.query(sql.counts_statement(tables.contracts.values(), tables.names), hours_of(0, 1)).rows
    assert {(row["event"], row["received"], row["accepted"], row["duplicates"]) for row in counts} == {
        (CONTRACT.name, 10, 6, 3),
        (OTHER.name, 1, 1, 0),
    }
    one_hour = tables.rows(CONTRACT.name)
    work(tables, 24, 26, h24="d24", h25="d25")  # a part of the range again: nothing changes
    assert sorted(map(str, tables.rows(CONTRACT.name))) == sorted(map(str, one_hour))
    shares = [
        scanned.Share(**row)
        for row in tables.warehouse.query(
            scanned.SHARES.format(received=tables.names.received), {"start": at(0), "end": at(26)}
        ).rows
    ]
    own = scanned.table_bytes(shares, at(24), at(26), CONTRACT.name)
    assert 0 < own < scanned.table_bytes(shares, at(0), at(26), CONTRACT.name)
    assert scanned.duplicates_bytes(shares, at(24), at(26), 24) < scanned.table_bytes(shares, at(0), at(26))


def test_due_is_what_is_new_changed_or_looks_back_on_what_was_loaded_since(settings_for: Any, bigquery: Any) -> None:
    tables = Tables(settings_for(), bigquery.gcs_root, [CONTRACT])
    now = [CONTRACT]
    name = CONTRACT.name
    assert due(tables, now, 0, 3, h0="a", h1="b") == {(name, 0, "new"), (name, 1, "new")}
    load(tables, [record(0.5, "x"), record(1.5, "y")], 0, 2, h0="a", h1="b")
    work(tables, 0, 2, only_counts=True, h0="a", h1="b")
    assert due(tables, now, 0, 3, h0="a", h1="b") == set()
    assert due(tables, now, 0, 3, h0="a2", h1="b") == {(name, 0, "landing")}
    wider = contract_of([{"name": "n", "type": "INT64"}, {"name": "m", "type": "STRING"}])
    assert due(tables, [wider], 0, 3, h0="a", h1="b") == {(name, 0, "contract"), (name, 1, "contract")}
    # A late file of hour 0 shares no id with hour 1: only hour 0 is due.
    load(tables, [record(0.5, "x"), record(0.6, "z", file="late")], 0, 1, h0="a2")
    assert due(tables, now, 0, 3, h0="a2", h1="b") == {(name, 0, "landing")}
    work(tables, 0, 1, only_counts=True, h0="a2")
    assert due(tables, now, 0, 3, h0="a2", h1="b") == set()
    # A later one has the id of an event of hour 1.
    load(tables, [record(0.5, "x"), record(0.6, "z", file="late"), record(0.7, "y", file="later")], 0, 1, h0="a3")
    assert due(tables, now, 0, 3, h0="a3", h1="b") == {(name, 0, "landing"), (name, 1, "earlier")}
    work(tables, 0, 2, only_counts=True, h0="a3", h1="b")
    assert due(tables, now, 0, 3, h0="a3", h1="b") == set()
    assert [(row["event_id"], row["first_received_at"]) for row in tables.rows("duplicates")] == [("y", at(0.7))]
