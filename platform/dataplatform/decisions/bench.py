"""What is in force, kept up to date: the store's counter is looked at five times a second, and what changed is compiled anew."""

import asyncio
import logging
import time
from collections.abc import Mapping

from ..errors import PlatformError
from ..fraud.catalog import Catalog
from ..fraud.parameters import ParameterStore, Snapshot, database_url
from ..settings import Settings
from .judge import Bench, bench_of, digest_of

POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


class Benches:
    """The benches of all policies. Replaced as a whole, so that a decision sees one state of the store.

    `by_event` are those that decide while a person waits, `streams` those that judge after the event, by event or collection.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings = settings
        self.catalog = catalog
        self.digests = {name: digest_of(typed) for name, typed in catalog.policies.items()}
        """Version of each policy's text."""
        self.store: ParameterStore | None = None
        self.reachable = False
        self.loaded_at = 0.0
        self._generation = -1
        self._snapshot: Snapshot | None = None
        self._next_expiry: int | None = None
        self.by_event: Mapping[str, Bench] = {}
        self.streams: Mapping[str, tuple[Bench, ...]] = {}
        self._compile(None)

    def load(self) -> bool:
        """Look at the store once; gives whether something changed. The last known state stays where it is down."""
        try:
            if self.store is None:
                url = database_url(self.settings.fraud_database, self.settings.data_dir)
                self.store = ParameterStore(url, self.catalog.policies)
            generation = self.store.generation()
            expired = self._next_expiry is not None and time.time_ns() // 1000 >= self._next_expiry
            if generation != self._generation or expired:
                snapshot = self.store.snapshot(self._snapshot)
                self._compile(snapshot)
                self._generation, self._next_expiry = snapshot.generation, snapshot.next_expiry
                self._snapshot = snapshot
                self.loaded_at = time.time()
                self.reachable = True
                return True
            self.reachable = True
        except Exception as error:  # any driver's error: decisions go on with what was known
            if self.reachable or self.store is None:
                log.error(
                    "the store of parameters is down: %s", error if isinstance(error, PlatformError) else repr(error)
                )
            self.reachable = False
        return False

    @property
    def live_versions(self) -> Mapping[str, int]:
        """By policy, the version of its parameters that is live; empty while the store was never reached."""
        return {name: each.live.version for name, each in self._snapshot.policies.items()} if self._snapshot else {}

    async def watch(self) -> None:
        """Look at the store for ever."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.load)

    def _compile(self, snapshot: Snapshot | None) -> None:
        values = self.store.values if self.store is not None else None
        by_event: dict[str, Bench] = {}
        streams: dict[str, tuple[Bench, ...]] = {}
        for name, typed in self.catalog.policies.items():
            bench = bench_of(typed, self.catalog, snapshot, values, self.digests[name])
            event = typed.policy.event
            if typed.policy.stream is None:
                by_event[event] = bench
            else:
                streams[event] = (*streams.get(event, ()), bench)
        self.by_event, self.streams = by_event, streams
