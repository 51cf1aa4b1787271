"""The position file: all that a capture remembers, in one file that is only ever replaced by compare-and-set.

One file a *unit*, which is what one change stream serves: a connection, or a database of one where the settings say so. It holds
the resume token and the position of what is durably landed, the lease of the process that may write, and every
collection's snapshot. Data files become durable first and the file after them, so a crash reads some changes again and loses
none; a process that lost the lease cannot replace the file, so it can never move the position.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from threading import RLock
from typing import Any, Literal

import msgspec

from ..contracts.collections import CollectionContract
from ..errors import PlatformError
from ..landing import Conflict, Landing, open_landing
from ..lease import Holder
from ..settings import Settings
from .names import table_name
from .positions import Position

LEASE_SECONDS = 30.0
"""A holder of another machine that has not renewed for this long is taken for dead."""

type SnapshotState = Literal["waiting", "running", "done"]


class FencedError(PlatformError):
    """Another capture has the unit."""


class Snapshot(msgspec.Struct):
    """One reading of a whole collection.

    `position`: the source had reached it when the snapshot began (its rows have this position). `last_id`: canonical text of the
    `_id` up to which everything is landed. `runs`: (epoch, first, last) of the chunk files. `blocks_from`: hours from this
    one on are not complete before it ends. `hour`: the hour in which it ended, to which its rows belong. `sweep`: what it
    did not see is deleted. `restarts` counts how often a process took it up again.
    """

    generation: int
    reason: str
    requested_at: datetime
    state: SnapshotState = "waiting"
    position: str | None = None
    last_id: str | None = None
    rows: int = 0
    estimate: int = 0
    bytes: int = 0
    runs: list[tuple[int, int, int]] = []
    blocks_from: datetime | None = None
    sweep: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    hour: datetime | None = None
    restarts: int = 0

    @property
    def files(self) -> list[str]:
        """Paths of its chunk files below the collection's stream."""
        return [
            f"snapshots/{self.generation:04d}/{number:06d}-{epoch:06d}.ndjson.gz"
            for epoch, first, last in self.runs
            for number in range(first, last + 1)
        ]


class CollectionState(msgspec.Struct):
    """What is known of one collection. `since`: the first hour that has changes of it. `left`: the source's time from which on the
    stream did not read it, because no valid contract named it."""

    since: datetime
    position: str | None = None
    changed_at: datetime | None = None
    changes: int = 0
    snapshot: Snapshot | None = None
    ended: list[Snapshot] = []
    missing: bool = False
    left: datetime | None = None

    def complete_through(self, passed: datetime) -> datetime | None:
        """End of the complete hours when the stream has passed a time; None before the first snapshot has ended."""
        hour = floor_hour(passed)
        if self.snapshot is not None and self.snapshot.blocks_from is not None:
            hour = min(hour, self.snapshot.blocks_from)
        return hour if hour > self.since else None

    def snapshots_of(self, hour: datetime) -> list[Snapshot]:
        """The snapshots whose rows belong to the hour."""
        return [one for one in self.ended if one.hour == hour]


class Lost(msgspec.Struct):
    """Changes that the source no longer had: from the last position to when that was found out."""

    found_at: datetime
    after: datetime
    until: datetime
    reason: str


class ImportState(msgspec.Struct):
    """What `cdc import` goes on from. `newest`: greatest imported position of each collection; `starts`: first position of each
    collection in a file, by the file's SHA-256, where the file cannot tell it by itself."""

    newest: dict[str, str] = {}
    starts: dict[str, dict[str, str]] = {}


class UnitState(msgspec.Struct):
    """The content of a position file. `token`: canonical Extended JSON of the resume token; `passed`: (t, i) up to which
    everything is landed; `epoch` counts the processes that have written."""

    epoch: int = 0
    holder: Holder | None = None
    token: str | None = None
    start_after: bool = False
    start_at: tuple[int, int] | None = None
    passed: tuple[int, int] = (0, 0)
    ordinals: dict[str, Any] | None = None
    changes: int = 0
    committed_at: datetime | None = None
    started_at: datetime | None = None
    oplog_first: datetime | None = None
    oplog_filled: float | None = None
    oplog_asked_at: datetime | None = None
    rate: float = 0.0
    collections: dict[str, CollectionState] = {}
    lost: list[Lost] = []
    imports: ImportState = msgspec.field(default_factory=ImportState)

    @property
    def passed_at(self) -> datetime:
        """The source's clock up to which everything is landed."""
        return datetime.fromtimestamp(self.passed[0], UTC)


class Unit(msgspec.Struct, frozen=True):
    """What one change stream serves."""

    connection: str
    database: str | None = None

    @property
    def name(self) -> str:
        """`<connection>` or `<connection>/<database>`."""
        return self.connection if self.database is None else f"{self.connection}/{self.database}"

    @property
    def file(self) -> str:
        """The position file below the connection's stream."""
        return "position.json" if self.database is None else f"position-{table_name(self.database, '')}.json"

    def serves(self, contract: CollectionContract) -> bool:
        """Whether the contract's collection is read by this unit."""
        return contract.connection == self.connection and self.database in (None, contract.database)


def units_of(contracts: Iterable[CollectionContract], scope: str) -> list[Unit]:
    """The units that serve these contracts, in order. `scope`: `deployment` or `database`."""
    if scope == "database":
        return [Unit(c, d) for c, d in sorted({(one.connection, one.database) for one in contracts})]
    return [Unit(name) for name in sorted({one.connection for one in contracts})]


def landing_of(settings: Settings, contract: CollectionContract) -> Landing:
    """The landing stream of one collection."""
    return open_landing(settings, f"mongo/{contract.connection}/{table_name(contract.database, contract.collection)}")


def _read[T](landing: Landing, name: str, kind: type[T]) -> T | None:
    """One of the small files below a collection's stream, None where it is not there; a PlatformError where it is none of ours."""
    present = landing.conditional(name).read()
    try:
        return None if present is None else msgspec.json.decode(present[0], type=kind)
    except msgspec.MsgspecError as error:
        raise PlatformError(
            f"cannot be read: {error}", where=f"{landing.uri}/{name}", fix="remove it: nothing depends on it for long"
        ) from None


REQUEST_FILE = "resnapshot.json"
"""Below a collection's stream: a wish for a new snapshot, which the capture that serves the collection looks for."""


class _Request(msgspec.Struct):
    requested_at: datetime
    reason: str


def request_snapshot(settings: Settings, contract: CollectionContract, reason: str) -> datetime:
    """Ask for a new snapshot of a collection; the time of the request. The capture need not run now."""
    file = landing_of(settings, contract).conditional(REQUEST_FILE)
    while True:
        present = file.read()
        now = datetime.now(UTC)
        data = msgspec.json.encode(_Request(now, reason))
        try:
            file.write(data, None if present is None else present[1])
        except Conflict:
            continue
        return now


def requested_snapshot(landing: Landing) -> tuple[datetime, str] | None:
    """When a new snapshot of the collection was last asked for, and why."""
    request = _read(landing, REQUEST_FILE, _Request)
    return None if request is None else (request.requested_at, request.reason)


LATE_FILE = "late.json"
"""Below a collection's stream: complete hours that got files from another writer than the capture, and when."""
_LATE_KEPT = timedelta(days=7)


def announce_late(landing: Landing, hours: Iterable[datetime]) -> None:
    """Tell whoever applies the hours of a collection that files were put into these, which may be long complete.

    Without it they are found the next time that every hour is looked at.
    """
    hours = set(hours)
    file = landing.conditional(LATE_FILE)
    while hours:
        present = file.read()
        now = datetime.now(UTC)
        known = {} if present is None else msgspec.json.decode(present[0], type=dict[datetime, datetime])
        kept = {hour: at for hour, at in known.items() if now - at < _LATE_KEPT}
        try:
            file.write(msgspec.json.encode(kept | dict.fromkeys(hours, now)), None if present is None else present[1])
        except Conflict:
            continue
        return


def late_hours(landing: Landing) -> set[datetime]:
    """Hours that were announced in the last days."""
    return set(_read(landing, LATE_FILE, dict[datetime, datetime]) or ())


APPLIED_FILE = "applied.json"
"""Below a collection's stream: how far its tables are, for whoever asks without the warehouse."""


class AppliedState(msgspec.Struct):
    """`through`: the source's time up to which the tables are complete. `conflicts`: rows of `schema_changes` that are one."""

    through: datetime
    applied_at: datetime
    conflicts: int


def read_applied(landing: Landing) -> AppliedState | None:
    """What was last applied to a collection's tables."""
    return _read(landing, APPLIED_FILE, AppliedState)


def write_applied(landing: Landing, applied: AppliedState) -> None:
    """Replace it. Only the holder of the lease on the hours does; another's newer content stays."""
    file = landing.conditional(APPLIED_FILE)
    present = file.read()
    with suppress(Conflict):
        file.write(msgspec.json.encode(applied), None if present is None else present[1])


def snapshot_uris(landing: Landing, snapshot: Snapshot) -> list[str]:
    """`gs://…` of a snapshot's files."""
    return [f"{landing.uri}/{PurePosixPath(name)}" for name in snapshot.files]


class PositionFile:
    """Reads and replaces the state of one unit; thread-safe, for the stream and the snapshots commit from their own threads."""

    def __init__(self, settings: Settings, unit: Unit) -> None:
        self.unit = unit
        self.file = open_landing(settings, f"mongo/{unit.connection}").conditional(unit.file)
        self.where = f"{settings.landing_url}/mongo/{unit.connection}/{unit.file}"
        self.lock = RLock()
        self.state = UnitState()
        self._version: str | None = None
        self._written = 0.0

    def read(self) -> UnitState:
        """The state as it stands in the file; an empty one where there is none."""
        present = self.file.read()
        return UnitState() if present is None else self._decode(present[0])

    def acquire(self, owner: str) -> UnitState:
        """Become the one process that writes; FencedError where another is alive."""
        with self.lock:
            while True:
                present = self.file.read()
                # Without a file the count begins at a number that no earlier file's processes have reached: files are named by it.
                state = UnitState(epoch=int(time.time())) if present is None else self._decode(present[0])
                if state.holder is not None and _alive(state.holder):
                    raise FencedError(
                        f"another capture has `{self.unit.name}`: process {state.holder.pid} on {state.holder.host}, "
                        f"renewed {time.time() - state.holder.renewed_at:.0f} s ago",
                        where=self.where,
                        fix=f"stop that one, or wait: {LEASE_SECONDS:g} s after its last renewal it is taken over",
                    )
                state.epoch += 1
                state.holder = Holder.this(owner)
                try:
                    self._version = self.file.write(_encode(state), None if present is None else present[1])
                except Conflict:
                    continue
                self.state, self._written = state, time.monotonic()
                return state

    def commit(self, change: Callable[[UnitState], None]) -> None:
        """Change the state and make it durable; FencedError, and nothing is changed, where another process has taken over."""
        with self.lock:
            state = _decoder.decode(_encode(self.state))
            change(state)
            if state.holder is None:  # given up, while a thread was still asking the source
                raise self._fenced()
            state.holder = Holder.this(state.holder.owner)
            state.committed_at = datetime.now(UTC)
            try:
                self._version = self.file.write(_encode(state), self._version)
            except Conflict:
                raise self._fenced() from None
            self.state, self._written = state, time.monotonic()

    def release(self) -> None:
        """Give the lease up, so that another process need not wait; says nothing where it is lost already."""
        with self.lock:
            state = _decoder.decode(_encode(self.state))
            state.holder = None
            try:
                self._version = self.file.write(_encode(state), self._version)
            except Conflict:
                return
            self.state = state

    @property
    def idle_seconds(self) -> float:
        """Seconds since the file was written."""
        return time.monotonic() - self._written

    def _fenced(self) -> FencedError:
        holder = self.read().holder
        who = "nobody now" if holder is None else f"process {holder.pid} on {holder.host}"
        return FencedError(
            f"another capture took `{self.unit.name}` over ({who}); this one stops and has moved nothing",
            where=self.where,
            fix="run one capture a connection; see `dataplatform cdc status`",
        )

    def _decode(self, data: bytes) -> UnitState:
        try:
            return _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise PlatformError(
                f"not a position file: {error}",
                where=self.where,
                fix="restore the file's last version; without one, remove it: everything is read again by snapshots",
            ) from error


def floor_hour(moment: datetime) -> datetime:
    """The hour (UTC) that a time belongs to."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hour_of_position(position: Position) -> datetime:
    """The hour of the source's clock that a change belongs to. The cluster time decides, for it orders as the stream does."""
    return floor_hour(position.time)


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """The hours from `start` to before `end`."""
    return [start + timedelta(hours=n) for n in range(max(0, int((end - start).total_seconds() // 3600)))]


def _alive(holder: Holder) -> bool:
    return holder.alive and time.time() - holder.renewed_at < LEASE_SECONDS


def _encode(state: UnitState) -> bytes:
    return msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n"


_decoder = msgspec.json.Decoder(UnitState)
