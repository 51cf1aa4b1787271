"""What happens after the event: landed events and changes go through the policies with `stream`, and into the online features.

At least once in, once in effect. Which files were read is noted after they were applied; an event id that was seen is neither
counted nor judged again. The first received event of an id counts, also when it was refused, as it does in the warehouse. A
batch is judged event by event, each before the features have taken it in; its alerts are durable before the features are.

`Feed.run` reads the landing. Any other source gives batches of the same lines to `Feed.events` and `Feed.changes`, and
acknowledges them when these return: a subscriber of Pub/Sub, or a DoFn of Beam that is given batches.
"""

import gzip
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from bson import Decimal128
from bson.datetime_ms import DatetimeMS

from ..cdc.changes import Change, decode
from ..cdc.extended_json import parse
from ..cdc.state import landing_of
from ..contracts.collections import load_collections_leniently
from ..contracts.load import Contracts, load_contracts
from ..errors import PlatformError
from ..events.received import Record as Received
from ..events.verdict import Judge
from ..fraud.cases import Cases
from ..fraud.catalog import Catalog, load_catalog
from ..fraud.documents import OPERATIONS
from ..fraud.moments import Event, lookup, read_column
from ..fraud.tree import Fact
from ..fraud.values import ValueProblem, micros, time_text
from ..landing import Landing, open_landing
from ..settings import Settings
from .alerts import ALERTS_STREAM, JUDGED_STREAM, AlertBox, AlertStream, note_decisions
from .bench import Benches
from .judge import record_of
from .sources import open_state

EVENTS_STREAM = "events"
DECISIONS_STREAM = "decisions"
BATCH = 5_000
FRESH_HOURS = 2
"""Hours in which new files are looked for with every look."""
REREAD_HOURS = 26
"""Hours in which new files are looked for now and then; older ones are read once, at the start."""
REREAD_SECONDS = 5.0
MAX_FOLDERS = 500
FIRST_MICROS = -62_135_596_800_000_000
"""The year 1: no time is before it."""
log = logging.getLogger(__name__)


class Feed:
    """The stream process: online features, alerts and cases from what was landed. One does, beside any number of readers."""

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
        self.landings = {name: open_landing(settings, name) for name in (ALERTS_STREAM, JUDGED_STREAM)}
        self.decisions_landing = open_landing(settings, DECISIONS_STREAM)
        self.judge = Judge(contracts.events)
        self.states = {name: open_state(settings, entity) for name, entity in self.catalog.entities.items()}
        self.benches = Benches(settings, self.catalog)
        self.box = AlertBox(settings.data_dir / "fraud" / "alerts.sqlite", keep_hours=settings.lookback_hours)
        self.alerts = AlertStream(self.benches, self.box)
        folder = settings.data_dir / "fraud" / "online"
        folder.mkdir(parents=True, exist_ok=True)
        self._files = _FilesRead(folder / "files.sqlite")
        self.readers = _readers(self.catalog, self.alerts)
        self.collections = {
            name: landing_of(settings, contract)
            for name, contract in load_collections_leniently(settings.schemas_dir)[0].contracts.items()
            if name in self.readers
        }
        self._started = False
        self._reread_at = 0.0

    def run_once(self) -> int:
        """Read every finished file that was not read; gives the number of events that were new to the features."""
        self.benches.load()
        if not self.benches.loaded_at:
            raise PlatformError(
                "the parameters of the policies were never reached", fix="start their database; the stream tries again"
            )
        states = self.states.values()
        if self._files.reset_unless("".join(f"{state.definition}{state.identity}" for state in states)):
            self._started = False
        since = self._since()
        applied = self._read(self.landing, "", self.events, since)
        for state in states:
            if not state.built:
                state.mark_built()
        for name, landing in self.collections.items():
            self._read(landing, f"{name}/", partial(self.changes, name), since)
        self._read(self.decisions_landing, "decisions/", self.decisions, since)
        self.deliver()
        self._started = True
        return applied

    def run(self, seconds: float = 0.5) -> None:
        """Read for ever. What fails is tried again with the next look: nothing of it was noted as read."""
        failed = ""
        while True:
            try:
                applied = self.run_once()
            except Exception as error:  # of any store's driver
                if str(error) != failed:
                    log.error("the stream waits: %s", error)
                failed = str(error)
                time.sleep(2)
                continue
            failed = ""
            if applied:
                log.info("%d events in the online features", applied)
            time.sleep(seconds)

    def events(self, data: bytes) -> int:
        """The events of one landed file, or of a batch of messages in its form; how many were new to the features."""
        return self._apply(map(self._event, _lines(data, _decode_received)))

    def changes(self, collection: str, data: bytes) -> int:
        """The changes of one landed file of a collection, or of a batch of messages in its form."""
        return self._apply(self._change(collection, change) for change in _lines(data, decode))

    def decisions(self, data: bytes) -> int:
        """Decisions of the decision service, for the cases of those that they are about."""
        about = note_decisions(self.box, self.benches, _lines(data, record_of))
        cases = self.cases
        if cases is None:
            return 0  # they are linked with the entity's next alert
        return sum(cases.link_open(*each, self.box.recent_decisions(*each)) for each in about)

    def deliver(self) -> int:
        """Land the alerts that are on their way, and put them into cases; how many are done."""
        self.box.send_counts(time.time_ns() // 1000)
        return self.box.deliver(self.landings, self.cases)

    @property
    def cases(self) -> Cases | None:
        """The cases; None while their database does not answer."""
        store = self.benches.store
        return Cases(store) if store is not None and self.benches.reachable else None

    def close(self) -> None:
        """Close all files."""
        for state in self.states.values():
            state.close()
        self.box.close()
        self._files.close()

    def _since(self) -> datetime | None:
        """From which hour on this look is for new files; None for all."""
        if not self._started:
            return None
        hours = FRESH_HOURS
        if time.monotonic() - self._reread_at >= REREAD_SECONDS:
            self._reread_at = time.monotonic()
            hours = REREAD_HOURS
        return datetime.now(UTC) - timedelta(hours=hours)

    def _read(self, landing: Landing, prefix: str, apply: Callable[[bytes], int], since: datetime | None) -> int:
        applied = 0
        for hour in landing.hours():
            if since is not None and hour < since:
                continue
            for file in landing.files(hour):
                name = f"{prefix}{file.name}"
                if not self._files.is_read(name):
                    data = landing.read(file)
                    applied += apply(gzip.decompress(data) if name.endswith(".gz") else data)
                    self._files.note(name)
        return applied

    def _apply(self, events: Iterable[Event | None]) -> int:
        applied = 0
        batch: list[Event] = []
        for event in events:
            if event is not None:
                batch.append(event)
            if len(batch) >= BATCH:
                applied += self._take(batch)
                batch = []
        return applied + (self._take(batch) if batch else 0)

    def _take(self, batch: list[Event]) -> int:
        """Judge a batch and take it into the features. Where it ends early, it comes again: see the module's text."""
        applied = 0
        with ExitStack() as stack:
            self.alerts.begin(datetime.now(UTC))
            stack.callback(self.box.rollback)
            takes = [stack.enter_context(state.taking()) for state in self.states.values()]
            for event in batch:
                self.alerts.look(event, self.states)
                applied += max([take(event) for take in takes], default=0)
            self.alerts.commit()
        return applied

    def _event(self, record: Received) -> Event | None:
        reader = self.readers.get(record.event)
        if reader is None or record.event_id is None:
            return None
        known = micros(record.received_at)
        if record.faults or not self.judge.judge(record.payload.encode()).accepted:
            return Event(record.event, record.event_id, known, known, {}, {})
        row: Mapping[str, Any] = msgspec.json.decode(record.payload)
        happened = micros(row["event_time"]) if row.get("event_time") is not None else known
        if row.get("sent_at") is not None:
            happened += known - micros(row["sent_at"])
        if not FIRST_MICROS <= happened <= known:
            happened = known  # as `history.HAPPENED`
        return _read_event(
            reader, record.event, record.event_id, happened, known, lambda column: lookup(row, column)[0]
        )

    def _change(self, collection: str, change: Change) -> Event | None:
        reader = self.readers.get(collection)
        if reader is None or change.key is None or change.operation not in OPERATIONS:
            return None
        document = {} if change.document is None else parse(change.document)
        row = {"operation": change.operation, "document_id": _plain_key(parse(change.key))}
        identity = f"{change.position} {change.key}"

        def read(column: str) -> Any:
            return row[column] if column in row else _inner(document, column.split("__"))

        happened, known = micros(change.changed_at), micros(change.captured_at)
        return _read_event(reader, collection, identity, min(happened, known), known, read)


type _Reader = tuple[tuple[str, ...], dict[str, str]]
"""Columns that hold keys, and columns that features and policies read with their types."""


def _readers(catalog: Catalog, alerts: AlertStream) -> dict[str, _Reader]:
    """By event or collection, what is read of it."""
    found: dict[str, tuple[dict[str, None], dict[str, str]]] = {}
    for entity in catalog.entities.values():
        for event, by in entity.streams:
            keys, columns = found.setdefault(event, ({}, {}))
            keys[by] = None
            columns |= entity.columns[event]
    for event, (names, types) in alerts.wanted.items():
        keys, columns = found.setdefault(event, ({}, {}))
        keys |= dict.fromkeys(sorted(names))
        columns |= types
    return {event: (tuple(keys), columns) for event, (keys, columns) in found.items()}


_decode_received = msgspec.json.Decoder(Received).decode


def _lines[T](data: bytes, read: Callable[[bytes], T]) -> Iterator[T]:
    """What can be read of the lines of a file; one that cannot is told and passed over: it would stop the stream for ever."""
    for number, line in enumerate(data.splitlines(), 1):
        try:
            yield read(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("line %d is passed over: %s", number, error)


def _read_event(
    reader: _Reader, name: str, identity: str, happened: int, known: int, read: Callable[[str], Any]
) -> Event:
    keys, columns = reader
    found = {key: read(key) for key in keys}
    values: dict[str, Fact] = {}
    for column, held in columns.items():
        value = read(column)
        if value is not None:
            values[column] = _column(value, held)
    return Event(
        name,
        identity,
        happened,
        known,
        {key: None if value is None else str(_plain_key(value)) for key, value in found.items()},
        values,
    )


def _inner(document: Any, keys: list[str]) -> Any:
    """A field of a document by its path, where `__` stands for the dot: `seller___id` is `seller._id`."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _plain_key(value: Any) -> Any:
    """An ObjectId, a number or a text as the key of an entity."""
    return value if isinstance(value, str | int) else str(value)


def _column(value: Any, held: str) -> Fact:
    """A value that its contract has accepted, in the feature's form; exact decimals may travel as texts."""
    if isinstance(value, Decimal128):
        value = str(value.to_decimal())
    elif isinstance(value, DatetimeMS):
        value = time_text(1000 * int(value))
    try:
        if held in ("NUMERIC", "FLOAT64", "INT64") and isinstance(value, str):
            number = Decimal(value)
            if not number.is_finite():
                return None
            return number if held == "NUMERIC" else int(number) if held == "INT64" else float(number)
        if held == "INT64" and isinstance(value, float):
            return int(value)
        if held == "STRING" and not isinstance(value, str):
            return str(value)
        return read_column(value, held)
    except (ValueProblem, ArithmeticError, ValueError):
        return None


class _FilesRead:
    """Which landed files were applied. Memory holds those of the folders that were asked for last."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("CREATE TABLE IF NOT EXISTS definition (text TEXT)")
        self._folders: OrderedDict[str, set[str]] = OrderedDict()

    def reset_unless(self, definition: str) -> bool:
        """Read everything again (True) when a definition has changed or a state was lost: it is empty."""
        row = self._database.execute("SELECT text FROM definition").fetchone()
        if row is not None and row[0] == definition:
            return False
        self._folders.clear()
        self._database.execute("DELETE FROM files")
        self._database.execute("DELETE FROM definition")
        self._database.execute("INSERT INTO definition VALUES (?)", (definition,))
        return True

    def is_read(self, name: str) -> bool:
        folder = name.rpartition("/")[0]
        names = self._folders.get(folder)
        if names is None:
            rows = self._database.execute(
                "SELECT name FROM files WHERE name > ? AND name < ?", (f"{folder}/", f"{folder}0")
            )
            names = self._folders[folder] = {row[0] for row in rows}  # "0" comes after "/"
            if len(self._folders) > MAX_FOLDERS:
                self._folders.popitem(last=False)
        return name in names

    def note(self, name: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO files VALUES (?)", (name,))
        names = self._folders.get(name.rpartition("/")[0])
        if names is not None:
            names.add(name)

    def close(self) -> None:
        self._database.close()
