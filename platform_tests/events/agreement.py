"""Runs events through the real statements on the embedded server, and says what became of each."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dataplatform.contracts.bigquery import event_schema
from dataplatform.contracts.events import EventContract
from dataplatform.events import received, sql
from dataplatform.events.flatten import flatten
from dataplatform.events.reasons import Reason
from dataplatform.events.received import Record, decode_payload, encode_record, received_at_text
from dataplatform.events.verdict import Judge, Verdict
from dataplatform.settings import Settings
from dataplatform.warehouse.client import Warehouse
from dataplatform.warehouse.tables import TableSpec, ensure

START = datetime(2026, 1, 2, 3, tzinfo=UTC)
RANGE = {"start": START, "end": START + timedelta(hours=1), "lookback_hours": 168}


@dataclass
class Outcome:
    """What the tables hold of one received event: its rows, and the reasons of a rejected one."""

    accepted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[frozenset[Reason]] = field(default_factory=list)


class Tables:
    """Datasets of one test, and the statements on them."""

    def __init__(self, settings: Settings, gcs_root: Path, contracts: Iterable[EventContract]) -> None:
        self.warehouse = Warehouse(settings)
        self.bucket = gcs_root / settings.bucket
        self.bucket.mkdir(parents=True, exist_ok=True)
        self.url = f"gs://{settings.bucket}"
        self.names = sql.Tables(settings.project, settings.dataset("events"), settings.dataset("events_raw"))
        self.contracts = {contract.name: contract for contract in contracts}
        specs = [
            TableSpec("events_raw", "staging", received.STAGING_SCHEMA),
            TableSpec("events_raw", "received", received.RECEIVED_SCHEMA, "hour", clustering=("event", "event_id")),
            TableSpec("events_raw", "loads", received.LOADS_SCHEMA),
            TableSpec("events", "rejected", received.REJECTED_SCHEMA, "hour", clustering=("event",)),
            TableSpec("events", "duplicates", received.DUPLICATES_SCHEMA, "hour", clustering=("event",)),
            TableSpec("events", "ledger", received.LEDGER_SCHEMA, "hour", clustering=("event",)),
        ]
        specs += [
            TableSpec("events", name, event_schema(contract), "hour") for name, contract in self.contracts.items()
        ]
        ensure(self.warehouse, specs)

    def load(self, records: Sequence[Record], parameters: dict[str, Any] | None = None) -> None:
        """Puts landed records in place as a range of hours."""
        file = self.bucket / "records.ndjson"
        file.write_bytes(b"".join(encode_record(record) + b"\n" for record in records))
        self.warehouse.load([f"{self.url}/{file.name}"], "events_raw", "staging", received.STAGING_SCHEMA)
        staging = f"`{self.warehouse.table_id('events_raw', 'staging')}`"
        self.warehouse.script(sql.received_statement(staging, self.names), parameters or RANGE)

    def materialize(self, parameters: dict[str, Any] | None = None, rejecting: Iterable[str] | None = None) -> None:
        """All events of a range: duplicates, accepted, rejected."""
        parameters = parameters or RANGE
        self.warehouse.script(sql.duplicates_statement(self.names), parameters)
        for contract in self.contracts.values():
            self.warehouse.script(sql.accepted_statement(contract, self.names), parameters)
        names = [*self.contracts, "no_such_event"] if rejecting is None else rejecting
        for script in sql.rejected_scripts(self.contracts, names, self.names):
            self.warehouse.script(script, parameters)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return self.warehouse.query(f"SELECT * FROM {self.names.event(name)}").rows


def outcomes(tables: Tables, events: Sequence[bytes]) -> list[tuple[Verdict, Outcome]]:
    """Python's verdict on each event, and what the tables hold of it. Event ids have to differ where there are any."""
    judge = Judge(tables.contracts)
    verdicts = [judge.judge(event) for event in events]
    records = [
        Record(
            received_at_text(received_at(line)),
            "test",
            verdict.event,
            verdict.event_id,
            decode_payload(event),
            verdict.faults,
            "w-1",
            line,
        )
        for line, (event, verdict) in enumerate(zip(events, verdicts, strict=True), 1)
    ]
    tables.load(records)
    tables.materialize()
    found = [Outcome() for _ in events]
    for name in tables.contracts:
        for row in tables.rows(name):
            found[line_of(row["received_at"])].accepted.append(row)
    for row in tables.rows("rejected"):
        reasons = frozenset(Reason(**reason) for reason in row["reasons"])
        assert len(reasons) == len(row["reasons"]), f"a reason twice: {row['reasons']}"
        found[line_of(row["received_at"])].rejected.append(reasons)
    return list(zip(verdicts, found, strict=True))


def received_at(line: int) -> datetime:
    """Tells the line of a record: each is received a microsecond after the one before."""
    return START + timedelta(minutes=7, microseconds=line)


def line_of(time: datetime) -> int:
    return (time - received_at(1)) // timedelta(microseconds=1)


def disagreements(
    contracts: dict[str, EventContract], events: Sequence[bytes], found: Sequence[tuple[Verdict, Outcome]]
) -> list[str]:
    """How Python and SQL differ, in words; empty when they agree on every event, reason and value."""
    differing = (
        difference(contracts, line, event, verdict, outcome)
        for line, (event, (verdict, outcome)) in enumerate(zip(events, found, strict=True), 1)
    )
    return [text for text in differing if text]


def difference(
    contracts: dict[str, EventContract], line: int, event: bytes, verdict: Verdict, outcome: Outcome
) -> str | None:
    """How Python and SQL differ about one event (of the given line)."""
    said = (
        f"\nevent {event[:1000]!r}\n  python {sorted(map(str, verdict.reasons))}\n"
        f"  sql    {[sorted(map(str, reasons)) for reasons in outcome.rejected]} accepted {len(outcome.accepted)}"
    )
    if len(set(verdict.reasons)) != len(verdict.reasons):
        return f"a reason twice:{said}"
    if not verdict.accepted:
        return said if outcome.accepted or outcome.rejected != [frozenset(verdict.reasons)] else None
    if outcome.rejected or len(outcome.accepted) != 1:
        return said
    expected = flatten(contracts[verdict.event], event, received_at(line))
    row = outcome.accepted[0]
    if comparable(expected) == comparable(row):
        return None
    keys = sorted(key for key in expected | row if comparable(expected.get(key)) != comparable(row.get(key)))
    return f"values differ: {[(key, expected.get(key), row.get(key)) for key in keys]}{said}"


def comparable(value: Any) -> Any:
    """A value that equals another of the same type and content only (1 is not True, 1 is not 1.0, -0.0 is 0.0).

    Integers beyond 64 bits are only in JSON, where servers give them as integers or as floats.
    """
    if isinstance(value, dict):
        return {key: comparable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [comparable(element) for element in value]
    if isinstance(value, float) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        return ("float", value + 0.0)
    return (type(value).__name__, value)


def contract_of(params: Sequence[Any], action: str = "make", **more: Any) -> EventContract:
    """A contract with these parameters (Field objects, or what YAML would give)."""
    return EventContract.model_validate(
        {
            "action": action,
            "object": "thing",
            "service": "test",
            "owner": "team",
            "domain": "tests",
            "description": "A test.",
            "params": tuple(params),
            **more,
        }
    )


def event_of(contract: EventContract, event_id: str, params: str | None, **envelope: Any) -> bytes:
    """The text of an event; `params` is JSON text, as sent."""
    members = [f'"event_id":{json.dumps(event_id)}', f'"event":{json.dumps(contract.name)}']
    members += [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in envelope.items()]
    if params is not None:
        members.append(f'"params":{params}')
    return ("{" + ",".join(members) + "}").encode()
