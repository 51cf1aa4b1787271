"""The GoogleSQL of behaviour logs: from landed files to the tables of events, one range of hours at a time.

Every function here is pure: contracts in, the text of a statement (or script) out. All take the same query parameters:

- `@start`, `@end` TIMESTAMP: the range of received hours `[start, end)`, both whole hours;
- `@lookback_hours` INT64: how many hours before its own an event's id is looked for (duplicates).

What else a statement needs is named in its docstring. Order for one range:

    received_statement     staging → events_raw.received           (rows of the landed files)
    loaded_statement       events_raw.loads                        (which manifest was loaded, when)
    accepted_statement     events.<name>, one an event             (any order, may run at the same time)
    duplicates_statement   events.duplicates
    counts_statement       a query: what is left must be rejected, so its events are compiled into the next
    rejected_scripts       events.rejected
    ledger_statement       events.ledger                           (last: a ledger row says that the hour is done)

Each replaces exactly the hours of its range in its table, whatever was there: running any of them again, or after a crash,
ends in the same rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dataplatform.contracts.events import EventContract


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
    raise NotImplementedError


def loaded_statement(tables: Tables) -> str:
    """Notes in `events_raw.loads` which manifest each hour of the range was loaded from; run after `received_statement`.

    Besides `@start`, `@end`: `@landing` ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>, the manifests that were loaded.
    `loaded_at` is the warehouse's clock.
    """
    raise NotImplementedError


def accepted_statement(contract: EventContract, tables: Tables) -> str:
    """One event's accepted rows of the range: validated, de-duplicated, flattened, replacing the range in its table."""
    raise NotImplementedError


def duplicates_statement(tables: Tables) -> str:
    """All events' duplicates of the range into `events.duplicates` (contracts are not needed for it)."""
    raise NotImplementedError


def counts_statement(contracts: Iterable[EventContract], tables: Tables) -> str:
    """A query: event STRING, hour TIMESTAMP, received, accepted, duplicates INT64 of the range, for events received.

    received - accepted - duplicates is what is rejected: give the names of those events to `rejected_scripts`.
    Run it after the accepted rows and the duplicates of the range are in place.
    """
    raise NotImplementedError


def rejected_scripts(contracts: Mapping[str, EventContract], rejecting: Iterable[str], tables: Tables) -> list[str]:
    """Rejected rows of the range, with all reasons, into `events.rejected`.

    `rejecting` names the events that have any (from `counts_statement`); names without a contract are unknown events.
    Usually one script; more where the text would pass BigQuery's limit for a query, to be run in order: the first
    empties the range, and each puts its own events' rows in place. An empty `rejecting` empties the range.
    """
    raise NotImplementedError


def ledger_statement(contracts: Iterable[EventContract], tables: Tables) -> str:
    """Counts per hour and event of the range into `events.ledger`: one row for each contracted or received event.

    Besides `@start`, `@end`: `@landing` ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>, digest of the manifest of every hour
    of the range, and `@started_at` TIMESTAMP, the warehouse's clock before the range's first statement, which becomes
    `materialized_at` (so that an hour loaded in between makes the row due again).
    """
    raise NotImplementedError


def due_statement(contracts: Iterable[EventContract], tables: Tables) -> str:
    """A query: event STRING, hour TIMESTAMP, reason STRING of all that is due in the range.

    Besides `@start`, `@end`, `@lookback_hours`: `@landing` ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>, the manifests
    there are now (hours without a manifest are open, and never due).
    reason: `new` (no ledger row), `landing` (the hour's files changed), `contract` (its contract changed), `earlier`
    (an hour within its look-back was loaded again since and shares event ids with it).
    """
    raise NotImplementedError


def balance_statement(tables: Tables) -> str:
    """A query: event, hour, received, accepted, rejected, duplicates of ledger rows of the range that do not balance."""
    raise NotImplementedError
