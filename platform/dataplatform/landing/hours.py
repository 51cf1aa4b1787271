"""The hours of one stream: which there are, what is in them, closing them and noticing that one was re-opened."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec
import obstore
from obstore.store import GCSStore, LocalStore, MemoryStore

from ..errors import PlatformError
from ..settings import Settings
from .conditional import ConditionalFile, Conflict
from .durable import create_file, finish_if_dead, make_folder, remove_if_left
from .layout import (
    MANIFEST_NAME,
    OPEN_SUFFIX,
    PART_SUFFIX,
    check_file_name,
    hour_path,
    is_finished,
    parse_hour,
    parse_path,
)
from .manifest import LandedFile, Manifest, decode_manifest, digest_of

if TYPE_CHECKING:
    from obstore import ObjectMeta  # exists for type checkers only
    from obstore.store import RetryConfig

GRACE_SECONDS = 1.0
"""How long after its end an hour may still get its first bytes: what was received in its last moment is being written."""
_CLOSE_ATTEMPTS = 50
_RETRIES: "RetryConfig" = {"max_retries": 5, "retry_timeout": timedelta(seconds=20)}
"""Of one request to the object store: whoever waits for an answer must not wait for minutes."""


class HourState(StrEnum):
    """OPEN: no manifest yet. CLOSED: the manifest names every finished file. REOPENED: there are files it does not name."""

    OPEN = "open"
    CLOSED = "closed"
    REOPENED = "reopened"


class Landing:
    """One stream of a landing, over an obstore store. All times are UTC; files are immutable once they are seen here."""

    def __init__(self, store: Any, stream: str, uri: str, root: Path | None = None) -> None:
        """`store` holds the streams; `uri` is the stream's `gs://…`; `root` is the store's folder where it is the local disk."""
        self.store = store
        self.stream = stream
        self.uri = uri
        self.root = root
        self._manifests: dict[str, tuple[str | None, Manifest]] = {}

    @property
    def folder(self) -> Path | None:
        """The stream's folder where the landing is on the local disk."""
        return None if self.root is None else self.root / self.stream

    def hours(self) -> list[datetime]:
        """Hours that have a folder, in order."""
        days = obstore.list_with_delimiter(self.store, self.stream)["common_prefixes"]
        found = []
        for day in days:
            for folder in obstore.list_with_delimiter(self.store, day)["common_prefixes"]:
                hour = parse_hour(*folder.split("/")[-2:])
                if hour is not None:
                    found.append(hour)
        return sorted(found)

    def files(self, hour: datetime) -> tuple[LandedFile, ...]:
        """The hour's finished files, by name, whether a manifest names them or not."""
        return tuple(sorted(self._listed(self._list(f"{hour_path(hour)}/"))[0].get(hour, [])))

    def read(self, file: LandedFile) -> bytes:
        """The whole content of a finished file."""
        return bytes(obstore.get(self.store, f"{self.stream}/{file.name}").bytes())

    def put(self, hour: datetime, name: str, data: bytes) -> LandedFile:
        """Land a whole file at once (any extension); durable when this returns. FileExistsError where the name is taken."""
        landed = LandedFile(f"{hour_path(hour)}/{check_file_name(name)}", len(data))
        if self.folder is not None:
            path = self.folder / landed.name
            make_folder(path.parent)
            create_file(path, data)
        else:
            try:
                obstore.put(self.store, f"{self.stream}/{landed.name}", data, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                raise FileExistsError(landed.name) from None
        return landed

    def conditional(self, path: str) -> ConditionalFile:
        """A compare-and-set file below the stream, such as a capture's position."""
        return ConditionalFile(self.store, f"{self.stream}/{path}", self.root)

    def close(self, hour: datetime) -> Manifest:
        """Write down which finished files the hour consists of; the present manifest where it says so already.

        The manifest that was read before the files were listed must still be there when the new one is written, so
        two closers never interleave and a manifest never loses a file. An hour without files gets an empty manifest.
        """
        stored = self.conditional(f"{hour_path(hour)}/{MANIFEST_NAME}")
        for attempt in range(_CLOSE_ATTEMPTS):
            present = stored.read()
            files = self.files(hour)
            if present is not None:
                manifest = self._decode(hour, present[0])
                if manifest.files == files:
                    return manifest
            manifest = Manifest(hour, files, digest_of(files), datetime.now(UTC))
            try:
                stored.write(manifest.encode(), None if present is None else present[1])
            except Conflict:
                time.sleep(min(0.001 * 2**attempt, 0.2))
            else:
                return manifest
        raise PlatformError(
            "the hour's manifest changes faster than it can be written",
            where=f"{self.uri}/{hour_path(hour)}/{MANIFEST_NAME}",
            fix="stop the other processes that close this hour and close it again",
        )

    def manifest(self, hour: datetime) -> Manifest | None:
        """The hour's manifest, None where it was never closed."""
        present = self.conditional(f"{hour_path(hour)}/{MANIFEST_NAME}").read()
        return None if present is None else self._decode(hour, present[0])

    def state(self, hour: datetime) -> HourState:
        """Whether the hour is open, closed, or closed with files that came later."""
        manifest = self.manifest(hour)
        if manifest is None:
            return HourState.OPEN
        return HourState.CLOSED if manifest.files == self.files(hour) else HourState.REOPENED

    def states(self, since: datetime | None = None) -> dict[datetime, HourState]:
        """State of every hour that has a file or a manifest (from `since` on), by one listing.

        Manifests are read once and again only when their entity tag changes, so asking often is cheap.
        """
        offset = None if since is None else f"{self.stream}/{hour_path(since)}"
        files, manifests = self._listed(self._list("", offset))
        closed = dict(zip(manifests, self._read_manifests(manifests), strict=True))
        states = {}
        for hour in sorted(files.keys() | manifests.keys()):
            manifest = closed.get(hour)
            if manifest is None:
                states[hour] = HourState.OPEN
            elif manifest.files == tuple(sorted(files.get(hour, []))):
                states[hour] = HourState.CLOSED
            else:
                states[hour] = HourState.REOPENED
        return states

    def manifests(self, since: datetime | None = None) -> dict[datetime, Manifest]:
        """The manifest of every hour that was ever closed (from `since` on), by one listing; re-opened hours have their old one."""
        offset = None if since is None else f"{self.stream}/{hour_path(since)}"
        _, entries = self._listed(self._list("", offset))
        return dict(sorted(zip(entries, self._read_manifests(entries), strict=True)))

    def settle(self, until: datetime, timeout_seconds: float = 60.0) -> None:
        """Wait until what writers hold open for hours before `until` is finished; finish what dead writers left.

        Files opened after this call are not waited for: they re-open their hour. Raises PlatformError after the timeout.
        """
        deadline = time.monotonic() + timeout_seconds
        now = time.time()
        if until.timestamp() <= now < until.timestamp() + GRACE_SECONDS:
            time.sleep(until.timestamp() + GRACE_SECONDS - now)
        waiting = list(self._open_files(lambda hour: hour < until))
        while waiting := [path for path in waiting if not finish_if_dead(path)]:
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"a writer still holds {len(waiting)} open file(s) after {timeout_seconds:g} s",
                    where=str(waiting[0]),
                    fix="lower landing_rotate_seconds, or stop the process that hangs: its files are finished after it",
                )
            time.sleep(0.02)

    def finish_dead(self) -> int:
        """Finish every file that dead writers left open, of any hour, without waiting for live ones; how many."""
        return sum(finish_if_dead(path) for path in self._open_files(lambda hour: True))  # noqa: ARG005

    def _open_files(self, wanted: Callable[[datetime], bool]) -> Iterator[Path]:
        if self.folder is None or not self.folder.is_dir():
            return
        for day in sorted(self.folder.iterdir()):
            if not day.is_dir():
                continue
            for folder in sorted(day.iterdir()):
                hour = parse_hour(day.name, folder.name)
                if hour is None or not wanted(hour):
                    continue
                for path in sorted(folder.iterdir()):
                    if path.name.endswith(OPEN_SUFFIX):
                        yield path
                    elif path.name.endswith(PART_SUFFIX):
                        remove_if_left(path)

    def _list(self, below: str, offset: str | None = None) -> "Iterable[ObjectMeta]":
        for chunk in obstore.list(self.store, f"{self.stream}/{below}".rstrip("/"), offset=offset, chunk_size=1000):
            yield from chunk

    def _listed(
        self, entries: "Iterable[ObjectMeta]"
    ) -> tuple[dict[datetime, list[LandedFile]], dict[datetime, "ObjectMeta"]]:
        files: dict[datetime, list[LandedFile]] = {}
        manifests: dict[datetime, ObjectMeta] = {}
        skip = len(self.stream) + 1
        for entry in entries:
            path: str = entry["path"][skip:]
            place = parse_path(path)
            if place is None:
                continue
            hour, name = place
            if name == MANIFEST_NAME:
                manifests[hour] = entry
            elif is_finished(name):
                files.setdefault(hour, []).append(LandedFile(path, entry["size"]))
        return files, manifests

    def _read_manifests(self, entries: "dict[datetime, ObjectMeta]") -> list[Manifest]:
        def read(hour: datetime) -> Manifest:
            entry = entries[hour]
            known = self._manifests.get(entry["path"])
            if known is not None and known[0] == entry["e_tag"]:
                return known[1]
            found = obstore.get(self.store, entry["path"])
            manifest = self._decode(hour, bytes(found.bytes()))
            self._manifests[entry["path"]] = (found.meta["e_tag"], manifest)
            return manifest

        unknown = sum(path["path"] not in self._manifests for path in entries.values())
        if unknown < 32:
            return [read(hour) for hour in entries]
        with ThreadPoolExecutor(16) as readers:
            return list(readers.map(read, entries))

    def _decode(self, hour: datetime, data: bytes) -> Manifest:
        try:
            return decode_manifest(data)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise PlatformError(
                f"not a manifest: {error}",
                where=f"{self.uri}/{hour_path(hour)}/{MANIFEST_NAME}",
                fix="remove the file and close the hour again: the manifest is written anew from the hour's files",
            ) from error


def open_landing(settings: Settings, stream: str, store: Any = None) -> Landing:
    """The stream of the landing that the settings name; `store` stands in for theirs (a MemoryStore, in tests)."""
    uri = f"gs://{settings.bucket}/{stream}"
    if store is not None:
        return Landing(
            store, stream, uri, Path(store.prefix) if isinstance(store, LocalStore) and store.prefix else None
        )
    url = urlsplit(settings.landing_url)
    if url.scheme == "gs":
        return Landing(GCSStore(url.netloc, retry_config=_RETRIES), stream, uri)
    if url.scheme == "memory":
        return Landing(MemoryStore(), stream, uri)
    root = Path(unquote(url.path))
    make_folder(root)
    return Landing(LocalStore(root), stream, uri, root)
