"""Where the online features of one entity are kept: in a SQLite file, or in Redis (`redis_store`)."""

import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

type Place = tuple[int, int, str]
"""Of an event: happened and known (microseconds since 1970), and its id."""

NOTHING_KNOWN = -(2**62)


class Store(Protocol):
    """What online features need of a store. One process writes, between `begin` and `commit`; any number read."""

    def prepare(self, definition: str) -> None:
        """Make the store ready. State of another definition is thrown away: it is built again from history."""
        ...

    def find(self, definition: str) -> None:
        """Make the store ready for one who only reads; LookupError where there is no state of this definition."""
        ...

    def built(self) -> bool:
        """Whether all of history is in the state, so that what it lacks has not happened."""
        ...

    def mark_built(self) -> None:
        """Say that all of history is in the state."""
        ...

    def identity(self) -> str:
        """A token that is made with the state; another one where the state was begun anew."""
        ...

    def version(self) -> int:
        """A number that changes when another connection has committed."""
        ...

    def watermark(self) -> int:
        """The latest time at which something became known, as of the last commit."""
        ...

    def begin(self) -> None:
        """Begin to write."""
        ...

    def commit(self, known: int) -> None:
        """Keep all that was written since `begin`, and the watermark: all of it or, when the process dies, nothing."""
        ...

    def rollback(self) -> None:
        """Forget what was written since `begin`."""
        ...

    def see(self, event: str, event_id: str, known: int) -> bool:
        """Note an event's id; False where it was noted before."""
        ...

    def keep(self, stream: int, window: int, key: str, place: Place, row: bytes) -> None:
        """Keep an event of an entity; no one will ask for those that happened longer than `window` before it was known."""
        ...

    def prefetch(self, key: str, kept: Mapping[int, int], firsts: Iterable[int]) -> None:
        """Say what will be asked for next: by stream since when, and the streams of first times."""
        ...

    def kept(self, stream: int, key: str, since: int) -> Iterable[tuple[int, int, str, bytes]]:
        """The events of an entity that happened since a time, in the order of their places."""
        ...

    def keep_first(self, stream: int, position: int, key: str, happened: int) -> None:
        """Keep the first time of something, instead of the one before."""
        ...

    def firsts(self, stream: int, key: str) -> Iterable[tuple[int, int]]:
        """(position, first time) of an entity."""
        ...

    def forget(self, before: Mapping[int, int], seen_before: int) -> None:
        """Drop events by stream that happened before a time, and the ids of events known before another."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...


class SqliteStore:
    """One SQLite file; without a path in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self._database = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")

    def prepare(self, definition: str) -> None:
        database = self._database
        if self._is_of(definition):
            return  # whoever only reads waits for no writer
        database.execute("BEGIN IMMEDIATE")
        database.execute("CREATE TABLE IF NOT EXISTS definition (text TEXT)")
        database.execute("CREATE TABLE IF NOT EXISTS identity (token TEXT)")
        database.execute("CREATE TABLE IF NOT EXISTS built (token TEXT)")
        held = database.execute("SELECT text FROM definition").fetchone()
        if held is not None and held[0] != definition:
            for table in ("seen", "kept", "firsts", "watermark"):
                database.execute(f"DROP TABLE IF EXISTS {table}")
            database.execute("DELETE FROM definition")
            database.execute("DELETE FROM identity")
            database.execute("DELETE FROM built")
            held = None
        if held is None:
            database.execute("INSERT INTO definition VALUES (?)", (definition,))
            database.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))
            database.execute(
                "CREATE TABLE seen (event TEXT, event_id TEXT, known INTEGER, PRIMARY KEY (event, event_id)) WITHOUT ROWID"
            )
            database.execute(
                "CREATE TABLE kept (stream INTEGER, key TEXT, happened INTEGER, known INTEGER, event_id TEXT, row BLOB,"
                " PRIMARY KEY (stream, key, happened, known, event_id)) WITHOUT ROWID"
            )
            database.execute(
                "CREATE TABLE firsts (stream INTEGER, position INTEGER, key TEXT, happened INTEGER,"
                " PRIMARY KEY (stream, key, position)) WITHOUT ROWID"
            )
            database.execute("CREATE TABLE watermark (known INTEGER)")
            database.execute("INSERT INTO watermark VALUES (?)", (NOTHING_KNOWN,))
        database.execute("COMMIT")

    def find(self, definition: str) -> None:
        if not self._is_of(definition):
            raise LookupError("the file holds no state of these features")

    def built(self) -> bool:
        return self._database.execute("SELECT 1 FROM built").fetchone() is not None

    def mark_built(self) -> None:
        self._database.execute("INSERT INTO built SELECT token FROM identity")

    def _is_of(self, definition: str) -> bool:
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"definition", "identity", "built"} <= tables:
            return False
        row: tuple[str] | None = self._database.execute("SELECT text FROM definition").fetchone()
        return row == (definition,)

    def identity(self) -> str:
        row = self._database.execute("SELECT token FROM identity").fetchone()
        return "" if row is None else str(row[0])

    def version(self) -> int:
        number: int = self._database.execute("PRAGMA data_version").fetchone()[0]
        return number

    def watermark(self) -> int:
        known: int = self._database.execute("SELECT known FROM watermark").fetchone()[0]
        return known

    def begin(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def commit(self, known: int) -> None:
        self._database.execute("UPDATE watermark SET known = max(known, ?)", (known,))
        self._database.execute("COMMIT")

    def rollback(self) -> None:
        self._database.execute("ROLLBACK")

    def see(self, event: str, event_id: str, known: int) -> bool:
        row = (event, event_id, known)
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", row).rowcount == 1

    def keep(self, stream: int, window: int, key: str, place: Place, row: bytes) -> None:  # noqa: ARG002  # Redis wants it
        self._database.execute("INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?, ?)", (stream, key, *place, row))

    def kept(self, stream: int, key: str, since: int) -> Iterable[tuple[int, int, str, bytes]]:
        return self._database.execute(
            "SELECT happened, known, event_id, row FROM kept WHERE stream = ? AND key = ? AND happened >= ?"
            " ORDER BY happened, known, event_id",
            (stream, key, since),
        )

    def prefetch(self, key: str, kept: Mapping[int, int], firsts: Iterable[int]) -> None:
        """Nothing: a look into the file costs little."""

    def keep_first(self, stream: int, position: int, key: str, happened: int) -> None:
        self._database.execute(
            "INSERT INTO firsts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET happened = excluded.happened",
            (stream, position, key, happened),
        )

    def firsts(self, stream: int, key: str) -> Iterable[tuple[int, int]]:
        return self._database.execute(
            "SELECT position, happened FROM firsts WHERE stream = ? AND key = ?", (stream, key)
        )

    def forget(self, before: Mapping[int, int], seen_before: int) -> None:
        for stream, time in before.items():
            self._database.execute("DELETE FROM kept WHERE stream = ? AND happened < ?", (stream, time))
        self._database.execute("DELETE FROM seen WHERE known < ?", (seen_before,))

    def close(self) -> None:
        self._database.close()
