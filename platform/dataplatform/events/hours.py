"""Received hours of behaviour logs, from landed files to tables: what is due, and the work of a range of hours.

The law here: the tables are a function of the landed files and the contracts alone. Whatever part of an hour is asked for,
what it stands on is brought up to date first, so no order of asking gives another result.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..contracts.bigquery import event_schema
from ..contracts.events import EventContract
from ..due import HOUR, Due, hours_between, range_text, ranges
from ..errors import PlatformError
from ..landing import HourState, Landing, Manifest, hour_of, open_landing
from ..lease import Lease
from ..settings import Settings
from . import received, sql
from .settled import Settled

if TYPE_CHECKING:
    # Google's client takes longer to import than the rest of the definitions, and only runs and sensors need it.
    from ..warehouse.client import Result, Typed, Warehouse
    from ..warehouse.tables import TableSpec

LANDING = "landing/events"
RECEIVED = "events_raw/received"
REJECTED = "events/rejected"
DUPLICATES = "events/duplicates"
LEDGER = "events/ledger"

STAGING = "received_staging"
"""Stays empty. Where a load job puts a range's files, before they replace the range, is a table of the run's own, which
begins with this name: a run that was thought dead and wakes cannot change what another has staged."""
STAGING_EXPIRES = timedelta(days=1)
"""After which BigQuery drops what a killed run has staged."""
FILES_PER_LOAD = 10_000
"""BigQuery's limit of URIs in one load job."""
PARALLEL_STATEMENTS = 4
_LANDING_TYPE = "ARRAY<STRUCT<hour TIMESTAMP, digest STRING>>"

NEW_FILES = "its files are new"
LATE_FILES_BEFORE = "an earlier hour has late files"
NEW_CONTRACT = "its contract changed"
"""Reasons of what is due."""

type Log = Callable[[str], None]


def asset_of(event: str) -> str:
    """Asset key (with slashes) of an event's table."""
    return f"events/{event}"


@dataclass(frozen=True, slots=True)
class Count:
    """What became of one event's records in one hour."""

    received: int = 0
    accepted: int = 0
    duplicates: int = 0

    @property
    def rejected(self) -> int:
        return self.received - self.accepted - self.duplicates

    def __add__(self, other: "Count") -> "Count":
        return Count(self.received + other.received, self.accepted + other.accepted, self.duplicates + other.duplicates)


@dataclass
class Piece:
    """One asset brought up to date for a range. `rows` is per hour, where it is known; `facts` are for people."""

    asset: str
    statement: str = ""
    jobs: list[str] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0
    rows: dict[datetime, int] = field(default_factory=dict)
    facts: dict[datetime, dict[str, Any]] = field(default_factory=dict)

    def add(self, result: "Result") -> "Result":
        """Count a job in."""
        self.jobs.append(result.job_id)
        self.seconds += result.seconds
        self.bytes += result.bytes
        return result


@dataclass
class Materialized:
    """What a range's work gave: one piece an asset, and the counts by (hour, event) where they were taken."""

    start: datetime
    end: datetime
    manifests: dict[datetime, Manifest] = field(default_factory=dict)
    """Of the range and its look-back, as the work found them."""
    pieces: dict[str, Piece] = field(default_factory=dict)
    counts: dict[tuple[datetime, str], Count] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    """What was changed on tables, such as columns added."""
    unbalanced: list[dict[str, Any]] | None = None
    """Ledger rows that do not balance; None where the ledger was not written."""

    def piece(self, asset: str) -> Piece:
        return self.pieces.setdefault(asset, Piece(asset))


def table_specs(contracts: Iterable[EventContract], settings: Settings) -> "list[TableSpec]":
    """Every table of behaviour logs."""
    from ..warehouse.tables import TableSpec

    return [
        TableSpec(
            "events_raw",
            "received",
            received.RECEIVED_SCHEMA,
            "hour",
            clustering=("event", "hour", "event_id"),
            description="Everything the collector received, one row an event, as the text that arrived.",
        ),
        TableSpec(
            "events_raw",
            "loads",
            received.LOADS_SCHEMA,
            "hour",
            description="Which manifest each hour of `received` was loaded from.",
        ),
        TableSpec(
            "events_raw",
            STAGING,
            received.STAGING_SCHEMA,
            description="Files on their way into `received`; worth nothing.",
        ),
        TableSpec(
            "events",
            "rejected",
            received.REJECTED_SCHEMA,
            "hour",
            clustering=("event", "hour"),
            description="Received events that their contract refuses, whole, with every reason.",
        ),
        TableSpec(
            "events",
            "duplicates",
            received.DUPLICATES_SCHEMA,
            "hour",
            clustering=("event", "hour"),
            description="Received events whose id was received before, within the look-back.",
        ),
        TableSpec(
            "events",
            "ledger",
            received.LEDGER_SCHEMA,
            "hour",
            clustering=("event", "hour"),
            description="Per hour and event: received = accepted + rejected + duplicates.",
        ),
        *(event_table(contract, settings) for contract in contracts),
    ]


def event_table(contract: EventContract, settings: Settings) -> "TableSpec":
    """The table of one event's accepted rows."""
    from ..warehouse.client import label_value
    from ..warehouse.tables import TableSpec

    return TableSpec(
        "events",
        contract.name,
        event_schema(contract, settings.policy_tag),
        "hour",
        clustering=("hour", "user_id", "event_id"),
        description=contract.description,
        labels={
            "owner": label_value(contract.owner),
            "domain": label_value(contract.domain),
            "service": contract.service,
            "contract_version": label_value(contract.version),
            "status": contract.status,
        },
    )


class EventHours:
    """Behaviour logs of one environment, by received hours (UTC). Implements `due.Stream`."""

    name = "events"

    def __init__(
        self,
        settings: Settings,
        contracts: Mapping[str, EventContract],
        *,
        warehouse: "Warehouse | None" = None,
        landing: Landing | None = None,
    ) -> None:
        self.settings = settings
        self.contracts = dict(contracts)
        self._warehouse = warehouse.labelled(stream=self.name) if warehouse else None
        self._landing = landing
        self.tables = sql.Tables(settings.project, settings.dataset("events"), settings.dataset("events_raw"))

    @property
    def warehouse(self) -> "Warehouse":
        """BigQuery, with jobs that carry the stream's name; made at first use."""
        if self._warehouse is None:
            from ..warehouse.client import Warehouse

            self._warehouse = Warehouse(self.settings, labels={"stream": self.name})
        return self._warehouse

    @property
    def landing(self) -> Landing:
        """The landed files of the stream; opened at first use."""
        if self._landing is None:
            self._landing = open_landing(self.settings, self.name)
        return self._landing

    @property
    def lease(self) -> Lease:
        """Who materialises holds it."""
        return Lease(self.landing.conditional("materialising.json"))

    @property
    def settled(self) -> Settled:
        """Which days the next look at what is due may leave out."""
        return Settled(self.landing.conditional("settled.json"), self.lease)

    @property
    def _settled_key(self) -> str:
        digests = [self.contracts[name].digest for name in sorted(self.contracts)]
        deciding = (self.tables, self.first_hour, self.settings.lookback_hours, digests)
        return hashlib.sha256(repr(deciding).encode()).hexdigest()[:32]

    @property
    def first_hour(self) -> datetime:
        return hour_of(self.settings.first_hour)

    def last_end(self, until: datetime) -> datetime:
        """End of the last hour that `until` lets close: whole hours only, and none that has not begun."""
        return min(hour_of(until), hour_of(datetime.now(UTC)) + HOUR)

    # Closing.

    def close(self, until: datetime, settle_seconds: float = 60.0) -> list[str]:
        end = self.last_end(until)
        self.landing.settle(end, settle_seconds)
        states = self.landing.states(self.first_hour)
        lines: list[str] = []
        closed: list[datetime] = []
        for hour in hours_between(self.first_hour, end):
            state = states.get(hour)
            if state == HourState.CLOSED:
                continue
            self.landing.close(hour)
            if state == HourState.REOPENED:
                lines.append(f"events: {hour:%Y-%m-%d %H}:00 re-opened by late files, closed again")
            else:
                closed.append(hour)
        lines[:0] = [f"events: closed {range_text(first, last)}" for first, last in ranges(closed)]
        return lines

    # What is due.

    def due(self, until: datetime, *, whole: bool = True) -> list[Due]:
        """What is due, as `due.Stream` has it. Not `whole`: the warehouse is asked only from the first day on that can differ
        from the last look at it (`settled`), which gives the same and asks nothing at all where nothing happened.
        """
        end = self.last_end(until)
        if end <= self.first_hour:
            return []
        manifests = self.landing.manifests(self.first_hour)
        closed = {hour: manifest for hour, manifest in manifests.items() if hour < end}
        days, now = _days(closed), datetime.now(UTC)
        look = self.settled.look(self._settled_key, days, now, whole=whole)
        if look.start is None:
            return []
        # A look-up in tables that are not there yet would fail; and new columns show even if no hour is due.
        if _made_anew(self.ensure_tables()):
            look = self.settled.look(self._settled_key, days, now, whole=True)
        asked = [manifest for hour, manifest in closed.items() if look.start is None or hour.date() >= look.start]
        rows = self.warehouse.query(
            sql.due_statement(self.contracts.values(), self.tables),
            self._parameters(asked[0].hour, end) | {"landing": _landing(asked)},
            name="events_due",
        ).rows
        self.settled.note(look, min((row["hour"].date() for row in rows), default=None))
        return self.plan(rows, closed)

    def plan(self, rows: Sequence[Mapping[str, Any]], manifests: Mapping[datetime, Manifest]) -> list[Due]:
        """Runs for what is due: `rows` have event, hour, reason, as `sql.due_statement` gives them.

        Hours whose files are new are loaded; hours that only stand on such ones are judged again but not loaded (loading
        would make the hours after them due, and so on); hours whose contracts changed need these events alone.
        """
        reasons: dict[datetime, set[str]] = {}
        events: dict[datetime, set[str]] = {}
        for row in rows:
            reasons.setdefault(row["hour"], set()).add(row["reason"])
            events.setdefault(row["hour"], set()).add(row["event"])
        digests = [self.contracts[name].digest for name in sorted(self.contracts)]

        def piece(assets: tuple[str, ...], start: datetime, end: datetime, why: str) -> Due:
            hours = hours_between(start, end)
            cause = [[hour.isoformat(), sorted(reasons[hour]), manifests[hour].digest] for hour in hours]
            digest = hashlib.sha256(repr((assets, cause, digests)).encode()).hexdigest()[:16]
            return Due(assets, start, end, why, digest)

        whole = (*map(asset_of, self.contracts), DUPLICATES, REJECTED, LEDGER)
        loads, judges, contracts = [], [], []
        for hour, found in reasons.items():
            if "landing" in found or ("new" in found and events[hour] >= self.contracts.keys()):
                loads.append(hour)
            elif "earlier" in found:
                judges.append(hour)
            else:
                contracts.append(hour)
        plan = [piece((LANDING, RECEIVED, *whole), *found, NEW_FILES) for found in ranges(loads)]
        plan += [piece(whole, *found, LATE_FILES_BEFORE) for found in ranges(judges)]
        for start, end in ranges(contracts):
            changed = set().union(*(events[hour] for hour in hours_between(start, end))) & self.contracts.keys()
            plan.append(piece((*map(asset_of, sorted(changed)), REJECTED, LEDGER), start, end, NEW_CONTRACT))
        return sorted(plan, key=lambda due: due.start or self.first_hour)

    def broken(self, until: datetime) -> list[str]:
        end = self.last_end(until)
        if "ledger" not in self.warehouse.tables("events"):
            return []
        return [describe_imbalance(row) for row in self.unbalanced(self.first_hour, end)]

    def unbalanced(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Ledger rows of the range whose parts do not add up to what was received."""
        return self.warehouse.query(
            sql.balance_statement(self.tables), {"start": start, "end": end}, name="events_balance"
        ).rows

    # What the checks compare.

    def differing(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Where the ledger's counts of the range are not those of the tables: hour, event, what, said, held."""
        counts = [
            {
                "hour": hour,
                "event": event,
                "received": count.received,
                "accepted": count.accepted,
                "duplicates": count.duplicates,
            }
            for (hour, event), count in self._counts(start, end, self.contracts, Piece(LEDGER)).items()
        ]
        ranged = {"start": start, "end": end}
        rejected = self.warehouse.query(
            f"""SELECT hour, event, COUNT(*) AS rejected
FROM {self.tables.rejected}
WHERE hour >= @start AND hour < @end
GROUP BY hour, event""",
            ranged,
            name="events_counts",
        ).rows
        ledger = self.warehouse.query(
            f"""SELECT hour, event, received, accepted, rejected, duplicates
FROM {self.tables.ledger}
WHERE hour >= @start AND hour < @end""",
            ranged,
            name="events_counts",
        ).rows
        held: dict[tuple[datetime, str], dict[str, int]] = {}
        for row in [*counts, *rejected]:
            held.setdefault((row["hour"], row["event"]), {}).update(row)
        said = {(row["hour"], row["event"]): row for row in ledger}
        return [
            {"hour": hour, "event": event, "what": what, "said": in_ledger, "held": in_table}
            for hour, event in sorted(held.keys() | said.keys())
            for what in ("received", "accepted", "rejected", "duplicates")
            if (in_ledger := said.get((hour, event), {}).get(what, 0))
            != (in_table := held.get((hour, event), {}).get(what, 0))
        ]

    def incomplete(self, start: datetime, end: datetime) -> list[str]:
        """Landed files of the range whose lines are not, one by one, the rows of `received`."""
        rows = self.warehouse.query(
            f"""SELECT hour, file, COUNT(*) AS row_count, COUNT(DISTINCT line) AS line_count, MAX(line) AS last_line
FROM {self.tables.received}
WHERE hour >= @start AND hour < @end
GROUP BY hour, file""",
            {"start": start, "end": end},
            name="events_complete",
        ).rows
        held = {(row["hour"], row["file"]): row for row in rows}
        manifests = self.landing.manifests(start)
        landed = {
            (hour, file.stem): file
            for hour, manifest in manifests.items()
            if start <= hour < end
            for file in manifest.files
            if file.size
        }
        wrong = [f"{landed[key].uri(self.landing)} is not in received" for key in sorted(landed.keys() - held.keys())]
        wrong += [
            f"received holds rows of {file} at {hour:%Y-%m-%d %H}:00, which did not land"
            for hour, file in sorted(held.keys() - landed.keys())
        ]
        wrong += [
            f"{landed[key].uri(self.landing)}: {row['row_count']} rows for {row['last_line']} lines"
            for key, row in sorted(held.items())
            if key in landed and not row["row_count"] == row["line_count"] == row["last_line"]
        ]
        return wrong

    def reject_rates(self, baseline: datetime, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Per event: received and rejected in `[start, end)`, and `…_before` in `[baseline, start)`, by the ledger."""
        return self.warehouse.query(
            f"""SELECT
  event,
  SUM(IF(hour >= @start, received, 0)) AS received,
  SUM(IF(hour >= @start, rejected, 0)) AS rejected,
  SUM(IF(hour < @start, received, 0)) AS received_before,
  SUM(IF(hour < @start, rejected, 0)) AS rejected_before
FROM {self.tables.ledger}
WHERE hour >= @baseline AND hour < @end
GROUP BY event""",
            {"baseline": baseline, "start": start, "end": end},
            name="events_reject_rates",
        ).rows

    def null_counts(
        self, columns: Mapping[str, Sequence[str]], baseline: datetime, start: datetime, end: datetime
    ) -> list[dict[str, Any]]:
        """Per event, and for `[baseline, start)` and `[start, end)` (`present`): row_count, and nulls of each column."""
        parts = [
            f"""SELECT '{event}' AS event, hour >= @start AS present, COUNT(*) AS row_count,
  [{", ".join(f"COUNTIF(`{name}` IS NULL)" for name in names)}] AS nulls
FROM {self.tables.event(event)}
WHERE hour >= @baseline AND hour < @end
GROUP BY present"""
            for event, names in columns.items()
        ]
        parameters = {"baseline": baseline, "start": start, "end": end}
        chunks = ["\nUNION ALL\n".join(parts[first : first + 20]) for first in range(0, len(parts), 20)]
        with ThreadPoolExecutor(PARALLEL_STATEMENTS) as pool:
            futures = [pool.submit(self.warehouse.query, text, parameters, name="events_nulls") for text in chunks]
            return [row for future in futures for row in future.result().rows]

    # The work.

    def materialise(
        self,
        assets: Collection[str],
        start: datetime,
        end: datetime,
        *,
        owner: str = "",
        log: Log = lambda _: None,
    ) -> Materialized:
        """Bring `assets` up to date for the hours `[start, end)`; the result names every asset that was worked on.

        What the asked ones stand on is brought up to date as well: received rows of the range and its look-back that
        are not loaded as their manifest says, and, for the rejected and the ledger, all that is due in the range. Every
        statement replaces the range in its table, so repeating any part, or all after a crash, ends in the same rows.
        Raises PlatformError: an hour that is still open, a warehouse that is away, a statement that fails.
        """
        # Its jobs are told from those of who only reads: these need no lease, and nobody ends them.
        worker = copy(self)
        worker._warehouse = self.warehouse.labelled(lease=self.name)
        with self.lease.hold(owner or "dataplatform") as lease:
            # A statement that a killed run left behind may still be at work, on what was landed then.
            worker.warehouse.cancel(except_runs=[owner] if owner else [], lease=self.name)
            self.settled.lower(start.date())
            return worker._materialise(set(assets), start, end, lease, log)

    def _materialise(self, wanted: set[str], start: datetime, end: datetime, lease: Lease, log: Log) -> Materialized:
        done = Materialized(start, end)
        done.changes = self.ensure_tables()
        if _made_anew(done.changes):
            self.settled.lower(self.first_hour.date())
        self._read_manifests(wanted, done)
        self._load(wanted, done, lease, log)
        if not wanted - {LANDING, RECEIVED}:
            return done
        started_at = self.warehouse.query("SELECT CURRENT_TIMESTAMP() AS now", name="events_clock").rows[0]["now"]
        wanted = wanted | self._prerequisites(wanted, done)
        lease.check()
        self._judge(wanted, done, log)
        if wanted & {REJECTED, LEDGER}:
            lease.check()
            self._reject(done, log)
        if LEDGER in wanted:
            lease.check()
            self._write_ledger(started_at, done)
        self._describe(done)
        return done

    def _read_manifests(self, wanted: set[str], done: Materialized) -> None:
        """Manifests of the range and its look-back, after closing the range where that was asked for."""
        start, end = done.start, done.end
        if LANDING in wanted:
            piece = done.piece(LANDING)
            before = time.monotonic()
            self.landing.settle(end)
            for hour in hours_between(start, end):
                manifest = self.landing.close(hour)
                piece.rows[hour] = len(manifest.files)
                piece.facts[hour] = {"files": len(manifest.files), "bytes": manifest.size, "digest": manifest.digest}
            piece.seconds = time.monotonic() - before
        found = self.landing.manifests(start - self._lookback)
        done.manifests = {hour: manifest for hour, manifest in found.items() if hour < end}
        open_hours = [hour for hour in hours_between(start, end) if hour not in done.manifests]
        if open_hours and wanted != {LANDING}:
            raise PlatformError(
                f"{len(open_hours)} hour(s) are still open, the first is {open_hours[0]:%Y-%m-%d %H}:00",
                where=self.landing.uri,
                fix=f"materialise {LANDING} with it, or run `dataplatform catch-up --until TIME`",
            )

    def _load(self, wanted: set[str], done: Materialized, lease: Lease, log: Log) -> None:
        """Load what is not in `received` as its manifest says; the range itself in any case where that was asked for."""
        start, end, manifests = done.start, done.end, done.manifests
        if wanted == {LANDING}:
            return
        loaded = {
            row["hour"]: row["landing_digest"]
            for row in self.warehouse.query(
                f"SELECT hour, landing_digest FROM {self.tables.loads} WHERE hour >= @start AND hour < @end",
                {"start": start - self._lookback, "end": end},
                name="events_loads",
            ).rows
        }
        stale = {
            hour
            for hour, manifest in manifests.items()
            if loaded.get(hour) != manifest.digest and hour >= self.first_hour
        }
        if RECEIVED in wanted:
            stale |= set(hours_between(start, end))
        piece = done.piece(RECEIVED) if stale else Piece(RECEIVED)
        for first, last in ranges(stale):
            chosen = [manifests[hour] for hour in hours_between(first, last)]
            files = [file for manifest in chosen for file in manifest.files]
            before = time.monotonic()
            staging = self._stage([file.uri(self.landing) for file in files], piece)
            piece.statement = sql.received_statement(staging, self.tables)
            parameters = self._parameters(first, last)
            lease.check()
            piece.add(self.warehouse.script(piece.statement, parameters, name="events_received"))
            if files:
                piece.add(self.warehouse.query(f"DROP TABLE {staging}", name="events_stage"))
            landing = {"landing": _landing(chosen)}
            piece.add(
                self.warehouse.script(sql.loaded_statement(self.tables), parameters | landing, name="events_loaded")
            )
            for manifest in chosen:
                piece.facts[manifest.hour] = {"bytes": manifest.size, "files": len(manifest.files)}
            log(
                f"received: {range_text(first, last)} from {len(files)} files "
                f"({sum(file.size for file in files):,} bytes) in {time.monotonic() - before:.1f} s"
            )

    def _stage(self, uris: Sequence[str], piece: Piece) -> str:
        """Load files into a table of their own; its quoted name."""
        table = f"{STAGING}_{uuid.uuid4().hex[:12]}" if uris else STAGING
        for first in range(0, len(uris), FILES_PER_LOAD):
            piece.add(
                self.warehouse.load(
                    uris[first : first + FILES_PER_LOAD],
                    "events_raw",
                    table,
                    received.STAGING_SCHEMA,
                    write="WRITE_APPEND" if first else "WRITE_TRUNCATE",
                    expires=None if first else datetime.now(UTC) + STAGING_EXPIRES,
                )
            )
        return f"`{self.warehouse.table_id('events_raw', table)}`"

    def _prerequisites(self, wanted: set[str], done: Materialized) -> set[str]:
        """What the wanted assets of the range stand on and is due there: the duplicates; of rejected and ledger, all."""
        start, end = done.start, done.end
        events = set(map(asset_of, self.contracts))
        sums = wanted & {REJECTED, LEDGER}
        if wanted >= (events | {DUPLICATES} if sums else {DUPLICATES}):
            return set()
        inside = [done.manifests[hour] for hour in hours_between(start, end)]
        rows = self.warehouse.query(
            sql.due_statement(self.contracts.values(), self.tables),
            self._parameters(start, end) | {"landing": _landing(inside)},
            name="events_due",
        ).rows
        due = {DUPLICATES} if any(row["reason"] != "contract" for row in rows) else set()
        if sums and rows:
            due |= {asset_of(row["event"]) for row in rows} & events | {REJECTED}
        return due

    def _judge(self, wanted: set[str], done: Materialized, log: Log) -> None:
        """The duplicates, and then the accepted rows of the wanted events: independent of each other, so side by side."""
        start, end = done.start, done.end
        work: list[tuple[str, str]] = []
        parameters = self._parameters(start, end)
        filled = self._filled(start, end)
        for name, contract in self.contracts.items():
            asset = asset_of(name)
            if asset in wanted and name in filled:
                work.append((asset, sql.accepted_statement(contract, self.tables)))
            elif asset in wanted:
                done.pieces[asset] = Piece(asset)

        def run(asset: str, statement: str) -> Piece:
            piece = Piece(asset, statement=statement)
            piece.add(self.warehouse.script(statement, parameters, name=asset.replace("/", "_")))
            return piece

        before = time.monotonic()
        if DUPLICATES in wanted:
            done.pieces[DUPLICATES] = run(DUPLICATES, sql.duplicates_statement(self.tables))
        with ThreadPoolExecutor(PARALLEL_STATEMENTS, thread_name_prefix="statement") as pool:
            futures = [pool.submit(run, asset, statement) for asset, statement in work]
            try:
                for future in futures:
                    piece = future.result()
                    done.pieces[piece.asset] = piece
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
        log(f"accepted: {len(work)} statements for {range_text(start, end)} in {time.monotonic() - before:.1f} s")

    def _filled(self, start: datetime, end: datetime) -> set[str]:
        """Events that were received in the range, or have rows there by the ledger; the tables of others stay as they are:
        most hours of most events are empty, and a statement costs the same."""
        rows = self.warehouse.query(
            f"""SELECT DISTINCT event FROM {self.tables.received} WHERE hour >= @start AND hour < @end
UNION DISTINCT
SELECT DISTINCT event FROM {self.tables.ledger} WHERE hour >= @start AND hour < @end AND accepted > 0""",
            {"start": start, "end": end},
            name="events_filled",
        ).rows
        return {row["event"] for row in rows}

    def _reject(self, done: Materialized, log: Log) -> None:
        start, end = done.start, done.end
        piece = done.piece(REJECTED)
        before = time.monotonic()
        parameters = self._parameters(start, end)
        self._count(done, piece)
        rejecting = sorted({event for (_, event), count in done.counts.items() if count.rejected})
        scripts = sql.rejected_scripts(self.contracts, rejecting, self.tables)
        for script in scripts:
            piece.add(self.warehouse.script(script, parameters, name="events_rejected"))
        piece.statement = "\n\n".join(scripts)
        log(f"rejected: of {len(rejecting)} events in {time.monotonic() - before:.1f} s")

    def _count(self, done: Materialized, piece: Piece) -> None:
        done.counts = self._counts(done.start, done.end, self._filled(done.start, done.end), piece)

    def _counts(
        self, start: datetime, end: datetime, events: Collection[str], piece: Piece
    ) -> dict[tuple[datetime, str], Count]:
        """What the tables hold, by hour and event; those of `events` are read."""
        counted = [contract for name, contract in self.contracts.items() if name in events]
        counts: dict[tuple[datetime, str], Count] = {}
        for first in range(0, len(counted) or 1, sql.MAX_TABLES):
            result = piece.add(
                self.warehouse.query(
                    sql.counts_statement(counted[first : first + sql.MAX_TABLES], self.tables),
                    self._parameters(start, end),
                    name="events_counts",
                )
            )
            for row in result.rows:
                key = (row["hour"], row["event"])
                before = counts.get(key, Count())
                counts[key] = Count(row["received"], before.accepted + row["accepted"], row["duplicates"])
        return counts

    def _write_ledger(self, started_at: datetime, done: Materialized) -> None:
        start, end = done.start, done.end
        piece = done.piece(LEDGER)
        piece.statement = sql.ledger_statement(self.contracts.values(), self.tables)
        landing = _landing(done.manifests[hour] for hour in hours_between(start, end))
        parameters = self._parameters(start, end) | {
            "landing": landing,
            "accepted": _accepted(done.counts),
            "started_at": started_at,
        }
        piece.add(self.warehouse.script(piece.statement, parameters, name="events_ledger"))
        done.unbalanced = self.unbalanced(start, end)

    def _describe(self, done: Materialized) -> None:
        """Rows per hour of each piece, from the counts."""
        if not done.counts:
            return
        totals: dict[datetime, Count] = dict.fromkeys(hours_between(done.start, done.end), Count())
        for (hour, event), count in done.counts.items():
            totals[hour] = totals.get(hour, Count()) + count
            if event in self.contracts and (piece := done.pieces.get(asset_of(event))):
                piece.rows[hour] = count.accepted
                piece.facts[hour] = {
                    "received": count.received,
                    "rejected": count.rejected,
                    "duplicates": count.duplicates,
                }
        for asset, attribute in ((RECEIVED, "received"), (DUPLICATES, "duplicates"), (REJECTED, "rejected")):
            if piece := done.pieces.get(asset):
                piece.rows |= {hour: getattr(count, attribute) for hour, count in totals.items()}
        for name in self.contracts:
            if piece := done.pieces.get(asset_of(name)):
                for hour in totals:
                    piece.rows.setdefault(hour, 0)

    def summary(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Totals of the ledger per hour of the range: hour, received, accepted, rejected, duplicates, conflicting."""
        return self.warehouse.query(
            f"""SELECT hour, SUM(received) AS received, SUM(accepted) AS accepted, SUM(rejected) AS rejected,
  SUM(duplicates) AS duplicates, SUM(conflicting) AS conflicting
FROM {self.tables.ledger}
WHERE hour >= @start AND hour < @end
GROUP BY hour
ORDER BY hour""",
            {"start": start, "end": end},
            name="events_summary",
        ).rows

    def ensure_tables(self) -> list[str]:
        """Make the tables of the events and what stands beside them meet the contracts; what was done, a line each.

        `due` and `materialise` do so themselves; it is for who has time before.
        """
        from ..warehouse.tables import ensure

        return ensure(self.warehouse, table_specs(self.contracts.values(), self.settings))

    @property
    def _lookback(self) -> timedelta:
        return self.settings.lookback_hours * HOUR

    def _parameters(self, start: datetime, end: datetime) -> dict[str, Any]:
        return {"start": start, "end": end, "lookback_hours": self.settings.lookback_hours}


def describe_imbalance(row: Mapping[str, Any]) -> str:
    """One ledger row that does not balance, for people."""
    return (
        f"events.ledger: {row['event'] or '(no name)'} at {row['hour']:%Y-%m-%d %H}:00: received {row['received']} is not "
        f"accepted {row['accepted']} + rejected {row['rejected']} + duplicates {row['duplicates']}"
    )


def _days(manifests: Mapping[datetime, Manifest]) -> dict[date, str]:
    """What identifies the manifests of each day, for the mark of what is settled."""
    days: dict[date, list[str]] = {}
    for hour, manifest in manifests.items():
        days.setdefault(hour.date(), []).append(f"{hour.hour} {manifest.digest}")
    return {day: hashlib.sha256("\n".join(sorted(held)).encode()).hexdigest()[:32] for day, held in days.items()}


def _made_anew(changes: Iterable[str]) -> bool:
    """Whether a table was made, so that what was noted of it before is worth nothing."""
    return any(change.startswith("created ") for change in changes)


def _landing(manifests: Iterable[Manifest]) -> "Typed":
    from ..warehouse.client import Typed

    return Typed(_LANDING_TYPE, [{"hour": manifest.hour, "digest": manifest.digest} for manifest in manifests])


def _accepted(counts: Mapping[tuple[datetime, str], Count]) -> "Typed":
    from ..warehouse.client import Typed

    return Typed(
        "ARRAY<STRUCT<hour TIMESTAMP, event STRING, accepted INT64>>",
        [
            {"hour": hour, "event": event, "accepted": count.accepted}
            for (hour, event), count in counts.items()
            if count.accepted
        ],
    )
