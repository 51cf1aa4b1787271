"""The online features' feed: landed events, judged by their contracts, go into the state of every entity.

At least once in, once in effect: which files were read is noted after they were applied, and an event id that was seen is not
counted again. The first received event of an id counts, also when it was refused, as it does in the warehouse.
"""

import logging
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from ..contracts.load import Contracts, load_contracts
from ..events.received import Record
from ..events.verdict import Judge
from ..fraud.catalog import Catalog, load_catalog
from ..fraud.moments import Event, lookup, read_column
from ..fraud.tree import Fact
from ..fraud.values import ValueProblem, micros
from ..landing import Landing, open_landing
from ..settings import Settings
from .sources import open_state

EVENTS_STREAM = "events"
BATCH = 5_000
REREAD_HOURS = 26
"""Hours in which new files are looked for again and again; older ones are read once, at the start."""
log = logging.getLogger(__name__)


class OnlineFeed:
    """Reads landed events into the online state of all entities. One process does, beside any number of readers."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog | None = None,
        contracts: Contracts | None = None,
        landing: Landing | None = None,
    ) -> None:
        contracts = contracts or load_contracts(settings.schemas_dir)
        self.catalog = catalog or load_catalog(settings.schemas_dir, contracts)
        self.landing = landing or open_landing(settings, EVENTS_STREAM)
        self.judge = Judge(contracts.events)
        self.states = {}
        for name, entity in self.catalog.entities.items():
            self.states[name] = open_state(settings, entity)
        self._files = _FilesRead(settings.data_dir / "fraud" / "online" / "files.sqlite")
        self._files.reset_unless("".join(state.definition for state in self.states.values()))
        self.readers = _readers(self.catalog)
        self._started = False

    def run_once(self) -> int:
        """Read every finished file that was not read; gives the number of events that were new."""
        since = datetime.now(UTC) - timedelta(hours=REREAD_HOURS)
        applied = 0
        for hour in self.landing.hours():
            if self._started and hour < since:
                continue
            for file in self.landing.files(hour):
                if not self._files.is_read(file.name):
                    applied += self.apply(self.landing.read(file))
                    self._files.note(file.name)
        self._started = True
        return applied

    def run(self, seconds: float = 0.5) -> None:
        """Read for ever."""
        while True:
            applied = self.run_once()
            if applied:
                log.info("%d events in the online features", applied)
            time.sleep(seconds)

    def apply(self, data: bytes) -> int:
        """The events of one landed file (or of a batch of messages in its form, from any queue) into every state."""
        applied = 0
        batch: list[Event] = []
        for line in data.splitlines():
            event = self._event(msgspec.json.decode(line, type=Record))
            if event is not None:
                batch.append(event)
            if len(batch) >= BATCH:
                applied += self._apply(batch)
                batch = []
        return applied + self._apply(batch)

    def close(self) -> None:
        """Close all files."""
        for state in self.states.values():
            state.close()
        self._files.close()

    def _apply(self, batch: list[Event]) -> int:
        return max((state.apply(batch) for state in self.states.values()), default=0) if batch else 0

    def _event(self, record: Record) -> Event | None:
        reader = self.readers.get(record.event)
        if reader is None or record.event_id is None:
            return None
        known = micros(record.received_at)
        if record.faults or not self.judge.judge(record.payload.encode()).accepted:
            return Event(record.event, record.event_id, known, known, {}, {})
        row: Mapping[str, Any] = msgspec.json.decode(record.payload)
        keys, columns = reader
        happened = micros(row["event_time"]) if row.get("event_time") is not None else known
        if row.get("sent_at") is not None:
            happened += known - micros(row["sent_at"])
        found = {key: lookup(row, key)[0] for key in keys}
        values: dict[str, Fact] = {}
        for column, held in columns.items():
            value = lookup(row, column)[0]
            if value is not None:
                values[column] = _column(value, held)
        return Event(
            record.event,
            record.event_id,
            happened,
            known,
            {key: None if value is None else str(value) for key, value in found.items()},
            values,
        )


def _readers(catalog: Catalog) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Event → (columns that hold keys, columns that features read with their types)."""
    found: dict[str, tuple[dict[str, None], dict[str, str]]] = {}
    for entity in catalog.entities.values():
        for event, by in entity.streams:
            keys, columns = found.setdefault(event, ({}, {}))
            keys[by] = None
            columns |= entity.columns[event]
    return {event: (tuple(keys), columns) for event, (keys, columns) in found.items()}


def _column(value: Any, held: str) -> Fact:
    """A value that its contract has accepted, in the feature's form; exact decimals may travel as texts."""
    try:
        if held in ("NUMERIC", "FLOAT64", "INT64") and isinstance(value, str):
            number = Decimal(value)
            return number if held == "NUMERIC" else int(number) if held == "INT64" else float(number)
        if held == "INT64" and isinstance(value, float):
            return int(value)
        return read_column(value, held)
    except (ValueProblem, ArithmeticError, ValueError):
        return None


class _FilesRead:
    """Which landed files were applied."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("CREATE TABLE IF NOT EXISTS definition (text TEXT)")

    def reset_unless(self, definition: str) -> None:
        """Read everything again when a definition has changed: its state is empty."""
        row = self._database.execute("SELECT text FROM definition").fetchone()
        if row is None or row[0] != definition:
            self._database.execute("DELETE FROM files")
            self._database.execute("DELETE FROM definition")
            self._database.execute("INSERT INTO definition VALUES (?)", (definition,))

    def is_read(self, name: str) -> bool:
        return self._database.execute("SELECT 1 FROM files WHERE name = ?", (name,)).fetchone() is not None

    def note(self, name: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO files VALUES (?)", (name,))

    def close(self) -> None:
        self._database.close()
