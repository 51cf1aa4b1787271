"""The GoogleSQL of behaviour logs: from landed files to the tables of events, one range of hours at a time.

Every function here is pure: contracts in, the text of a statement (or script) out. All take the same query parameters:

- `@start`, `@end` TIMESTAMP: the range of received hours `[start, end)`, both whole hours;
- `@lookback_hours` INT64: how many hours before its own an event's id is looked for (duplicates).

What else a statement needs is named in its docstring. Order for one range:

    received_statement     staging → events_raw.received           (rows of the landed files)
    loaded_statement       events_raw.loads                        (which manifest was loaded, when)
    duplicates_statement   events.duplicates
    accepted_statement     events.<name>, one an event             (any order, may run at the same time)
    counts_statement       a query: what is left must be rejected, so its events are compiled into the next
    rejected_scripts       events.rejected
    ledger_statement       events.ledger                           (last: a ledger row says that the hour is done)

Each replaces exactly the hours of its range in its table, whatever was there: running any of them again, or after a crash,
ends in the same rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataplatform.contracts.events import EventContract

from .reasons import UNKNOWN_EVENT
from .sql_fields import VALID, inexact_paths, readable, reasons_select, struct, typed_select
from .sql_types import literal

STATEMENTS = Path(__file__).parent / "statements"
MAX_SCRIPT = 800_000
"""Bytes of one script's statements; BigQuery's limit is 1 MB of query text."""


MAX_TABLES = 400
"""Events' tables read by one statement; BigQuery's limit is 1,000 tables in a query, and each may be read twice."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Where the tables are: the project and the names of the two datasets, with the environment's prefix."""

    project: str
    events: str = "events"
    raw: str = "events_raw"

    def event(self, name: str) -> str:
        """An event's own table, quoted for use in SQL."""
        return f"`{self.project}.{self.events}.{name}`"

    @property
    def rejected(self) -> str:
        return self.event("rejected")

    @property
    def duplicates(self) -> str:
        return self.event("duplicates")

    @property
    def ledger(self) -> str:
        return self.event("ledger")

    @property
    def received(self) -> str:
        return f"`{self.project}.{self.raw}.received`"

    @property
    def loads(self) -> str:
        return f"`{self.project}.{self.raw}.loads`"


def received_statement(staging: str, tables: Tables) -> str:
    """Replaces the hours of the range in `events_raw.received` by the rows of `staging`.

    `staging` is the quoted name of a table that a load job filled from the range's manifests (columns:
    `received.STAGING_SCHEMA`). Rows whose received_at lies outside the range are left out (they cannot be: a landed file
    holds one hour).
    """
    return written("received", tables, staging=staging)


def loaded_statement(tables: Tables) -> str:
    """Notes in `events_raw.loads` which manifest each hour of the range was loaded from; run after `received_statement`.

    Besides `@start`, `@end`: `@landing` ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>, the manifests that were loaded.
    `loaded_at` is the warehouse's clock.
    """
    return written("loaded", tables)


def accepted_statement(contract: EventContract, tables: Tables) -> str:
    """One event's accepted rows of the range: validated, de-duplicated, flattened, replacing the range in its table.

    Run it after `duplicates_statement`: which rows are duplicates is told once for all events, because it takes a look at
    the ids of the whole look-back, and an event's own statement then reads the range alone.
    A script, not one MERGE. Rows are judged before the transaction, into a temporary table: engines like to push a
    condition on what was read from JSON down to where it is read, and then read it twice. And where BigQuery replaces
    whole partitions by DELETE for nothing, the embedded server makes the rows of a MERGE twice.
    """
    table = tables.event(contract.name)
    columns, select = typed_select(contract)
    listed = ", ".join(columns)
    return f"""\
-- {contract.name} {contract.version}: accepted events, one row each.
CREATE TEMP TABLE judged AS
WITH
{duplicate_rows(tables, f"event = {literal(contract.name)} AND ")},
  fresh AS (
    SELECT r.event_id, r.event, r.received_at, r.hour, r.payload
    FROM {tables.received} AS r
    LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
    WHERE r.event = {literal(contract.name)} AND r.hour >= @start AND r.hour < @end
      AND d.line IS NULL AND NOT r.refused{minds_inexact(contract)}
  ),
{select};

BEGIN TRANSACTION;

DELETE FROM {table} AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO {table}
  ({listed})
SELECT {listed}
FROM judged
WHERE {VALID};

COMMIT TRANSACTION;
"""


def minds_inexact(contract: EventContract) -> str:
    """Condition that leaves out events with an inexact number where the contract has a NUMERIC or JSON."""
    regex = inexact_paths(contract)
    if not regex:
        return ""
    return f"""
      AND NOT (
        ARRAY_LENGTH(r.faults) > 0
        AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE REGEXP_CONTAINS(f.path, {literal(regex)}))
      )"""


def duplicate_rows(tables: Tables, condition: str = "") -> str:
    """Common table expression `duplicate` (hour, file, line): rows of the range whose id was received before."""
    return f"""\
  duplicate AS (
    SELECT hour, file, line
    FROM {tables.duplicates}
    WHERE {condition}hour >= @start AND hour < @end
  )"""


def duplicates_statement(tables: Tables) -> str:
    """All events' duplicates of the range into `events.duplicates` (contracts are not needed for it); run it first."""
    return written("duplicates", tables)


def counts_statement(contracts: Iterable[EventContract], tables: Tables) -> str:
    """A query: event STRING, hour TIMESTAMP, received, accepted, duplicates INT64 of the range, for events received.

    received - accepted - duplicates is what is rejected: give the names of those events to `rejected_scripts`.
    Run it after the accepted rows and the duplicates of the range are in place. `contracts` are those whose tables are
    counted: all, or only those of the events that were received, at most MAX_TABLES in one query.
    """
    accepted = "".join(
        f"""
    UNION ALL
    SELECT {literal(contract.name)}, hour, 0, COUNT(*), 0
    FROM {tables.event(contract.name)}
    WHERE hour >= @start AND hour < @end
    GROUP BY hour"""
        for contract in contracts
    )
    return written("counts", tables, accepted=accepted)


def rejected_scripts(contracts: Mapping[str, EventContract], rejecting: Iterable[str], tables: Tables) -> list[str]:
    """Rejected rows of the range, with all reasons, into `events.rejected`.

    `rejecting` names the events that have any (from `counts_statement`); names without a contract are unknown events.
    Usually one script; more where the text would pass BigQuery's limit for a query, to be run in order: the first
    empties the range, and each puts its own events' rows in place. An empty `rejecting` empties the range.
    """
    names = sorted(set(rejecting))
    known = [name for name in names if name in contracts]
    unknown = len(known) < len(names)
    chunks: list[list[tuple[str, str]]] = [[]]
    size = 0
    for name in known:
        insert = rejected_insert(contracts[name])
        if size + len(insert.encode()) > MAX_SCRIPT or len(chunks[-1]) == MAX_TABLES:
            chunks.append([])
            size = 0
        size += len(insert.encode())
        chunks[-1].append((name, insert))
    scripts = []
    for index, chunk in enumerate(chunks):
        judged = {name for name, _ in chunk}
        if unknown and index == 0:
            others = [literal(name) for name in sorted(contracts) if name not in judged]
            asked = f" AND r.event NOT IN ({', '.join(others)})" if others else ""
        else:
            asked = f" AND r.event IN ({', '.join(literal(name) for name in sorted(judged))})"
        inserts = [insert for _, insert in chunk]
        if unknown and index == 0:
            inserts.insert(0, unknown_insert(contracts))
        if index == 0:
            later = [literal(name) for following in chunks[1:] for name, _ in following]
            mine = f" AND t.event NOT IN ({', '.join(later)})" if later else ""
        else:
            mine = f" AND t.event IN ({', '.join(literal(name) for name, _ in chunk)})"
        scripts.append(rejected_script(inserts, asked, mine, sorted(judged), tables))
    return scripts


def rejected_script(inserts: list[str], asked: str, mine: str, judged: list[str], tables: Tables) -> str:
    """A script that judges (by `inserts` into `found`) and then puts the refused in place of the range's rows.

    `judged` are the events with a contract among them. What is in their tables was accepted and is not judged again: a
    row that is in neither place makes the ledger's balance fail.
    """
    head, rows = "", ""
    if inserts:
        accepted = "\n    UNION ALL ".join(
            f"SELECT event, event_id, hour FROM {tables.event(name)} WHERE hour >= @start AND hour < @end"
            for name in judged
        )
        listed = f""",
  accepted AS (  -- an id is accepted once in a range and its look-back
    {accepted}
  )""" if judged else ""  # fmt: skip
        joined = """
LEFT JOIN accepted AS a ON a.event = r.event AND a.event_id = r.event_id AND a.hour = r.hour""" if judged else ""  # fmt: skip
        left = " AND a.event_id IS NULL" if judged else ""
        head = f"""\
-- Duplicates are decided before anything else; an event is either a duplicate, or accepted, or rejected.
CREATE TEMP TABLE fresh AS
WITH
{duplicate_rows(tables)}{listed}
SELECT r.event, r.hour, r.file, r.line, r.payload, r.faults, {readable()} AS readable
FROM {tables.received} AS r
LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line{joined}
WHERE r.hour >= @start AND r.hour < @end AND d.line IS NULL{left}{asked};

-- What the door has told of each, and what its contract has found.
CREATE TEMP TABLE found (
  hour TIMESTAMP, file STRING, line INT64, contract_version STRING,
  told ARRAY<STRUCT<path STRING, code STRING, message STRING>>,
  found ARRAY<STRUCT<path STRING, code STRING, message STRING>>
);

{"".join(inserts)}"""
        rows = f"""\
INSERT INTO {tables.rejected}
  (event_id, event, hour, received_at, source, payload, contract_version, reasons, file, line)
SELECT r.event_id, r.event, r.hour, r.received_at, r.source, r.payload, f.contract_version,
  IF(ARRAY_LENGTH(f.told) = 0, f.found, ARRAY_CONCAT(f.told, ARRAY(  -- what the door has told is not told again
    SELECT AS STRUCT x.path AS path, x.code AS code, x.message AS message
    FROM UNNEST(f.found) AS x WHERE x.path NOT IN (SELECT t.path FROM UNNEST(f.told) AS t)
  ))),
  r.file, r.line
FROM {tables.received} AS r
JOIN found AS f ON f.hour = r.hour AND f.file = r.file AND f.line = r.line
WHERE r.hour >= @start AND r.hour < @end AND ARRAY_LENGTH(f.told) + ARRAY_LENGTH(f.found) > 0;

"""
    return f"""\
{head}BEGIN TRANSACTION;

DELETE FROM {tables.rejected} AS t
WHERE t.hour >= @start AND t.hour < @end{mine};

{rows}COMMIT TRANSACTION;
"""


def rejected_insert(contract: EventContract) -> str:
    """Statement that finds all reasons against one event's rows."""
    return f"""\
-- {contract.name} {contract.version}
INSERT INTO found (hour, file, line, contract_version, told, found)
WITH
  own AS (
    SELECT * FROM fresh WHERE event = {literal(contract.name)}
  ),
{reasons_select(contract)};

"""


def unknown_insert(contracts: Mapping[str, EventContract]) -> str:
    """Statement that finds the reason against the rows of all events without a contract (with a name or without)."""
    known = ", ".join(literal(name) for name in sorted(contracts))
    others = f"WHERE r.event NOT IN ({known})" if known else ""
    reason = struct(UNKNOWN_EVENT)
    return f"""\
-- Events that no contract has the name of
INSERT INTO found (hour, file, line, contract_version, told, found)
SELECT r.hour, r.file, r.line, NULL,
  ARRAY(
    SELECT AS STRUCT f.path AS path, f.code AS code, f.message AS message
    FROM UNNEST(r.faults) AS f WHERE f.code != 'inexact_number'
  ),
  IF(r.event = '', [], [{reason}])
FROM fresh AS r
{others};

"""


def ledger_statement(contracts: Iterable[EventContract], tables: Tables) -> str:
    """Counts per hour and event of the range into `events.ledger`: one row for each contracted or received event.

    Besides `@start`, `@end`: `@landing` ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>, digest of the manifest of every hour
    of the range; `@accepted` ARRAY<STRUCT<hour TIMESTAMP, event STRING, accepted INT64>>, as `counts_statement` gives them
    (BigQuery reads at most 1,000 tables in a query, and there may be as many events); and `@started_at` TIMESTAMP, the
    warehouse's clock before the range's first statement, which becomes `materialized_at` (so that an hour loaded in
    between makes the row due again).
    """
    rows = "".join(
        f",\n      ({literal(contract.name)}, {literal(contract.version)}, {literal(contract.digest)})"
        for contract in contracts
    )
    return written("ledger", tables, contracts=rows)


def due_statement(contracts: Iterable[EventContract], tables: Tables) -> str:
    """A query: event STRING, hour TIMESTAMP, reason STRING of all that is due in the range.

    Besides `@start`, `@end`, `@lookback_hours`: `@landing` ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>, the manifests
    there are now (hours without a manifest are open, and never due).
    reason: `new` (no ledger row), `landing` (the hour's files changed), `contract` (its contract changed), `earlier`
    (an hour within its look-back was loaded again since and shares event ids with it).
    """
    rows = "".join(f",\n      ({literal(contract.name)}, {literal(contract.digest)})" for contract in contracts)
    return written("due", tables, contracts=rows)


def balance_statement(tables: Tables) -> str:
    """A query: event, hour, received, accepted, rejected, duplicates of ledger rows of the range that do not balance."""
    return written("balance", tables)


def written(name: str, tables: Tables, **holes: str) -> str:
    """The statement of a file in `statements/`, with its holes filled."""
    text = (STATEMENTS / f"{name}.sql").read_text()
    return text.format(
        received=tables.received,
        loads=tables.loads,
        rejected=tables.rejected,
        duplicates=tables.duplicates,
        ledger=tables.ledger,
        **holes,
    )
