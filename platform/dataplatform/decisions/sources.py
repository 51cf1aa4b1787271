"""Where decisions and alerts find online features: the files or the Redis that the settings name."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from ..fraud.features import EntityFeatures
from ..fraud.online import OnlineFeatures
from ..fraud.tree import Fact
from ..settings import Settings
from .judge import FeatureSource

STALE_SECONDS = 0.005
"""How late a decision may see what the stream has written: asking the store each time would cost as much as deciding."""


def state_path(settings: Settings, entity: str) -> Path:
    """The file of an entity's online state."""
    return settings.data_dir / "fraud" / "online" / f"{entity}.sqlite"


def open_state(settings: Settings, entity: EntityFeatures) -> OnlineFeatures:
    """The state of an entity for the process that writes it; made where there is none."""
    url = settings.fraud_online
    if url:
        from ..fraud.redis_store import RedisStore

        return OnlineFeatures(entity, RedisStore(url, entity.entity))
    path = state_path(settings, entity.entity)
    path.parent.mkdir(parents=True, exist_ok=True)
    return OnlineFeatures(entity, path)


def open_sources(settings: Settings, entities: Mapping[str, EntityFeatures]) -> dict[str, FeatureSource]:
    """By entity, where decisions look for its features; nothing is opened before it is asked."""
    url = settings.fraud_online
    if url:
        return {name: StateRedis(entity, url) for name, entity in entities.items()}
    return {name: StateFile(entity, state_path(settings, name)) for name, entity in entities.items()}


class StateFile:
    """Online features of one entity, read from the file that the stream process writes; opened when it is there."""

    def __init__(self, entity: EntityFeatures, path: Path) -> None:
        self.entity = entity
        self.path = path
        self._state: OnlineFeatures | None = None

    def features(self, key: str | None, moment: int, names: frozenset[str] | None = None) -> Mapping[str, Fact]:
        """Features now; sqlite3.Error where the file cannot be read, FileNotFoundError or LookupError where it is not ready."""
        if self._state is None:
            if not self.path.exists():
                raise FileNotFoundError(self.path)
            self._state = OnlineFeatures(self.entity, self.path, stale_seconds=STALE_SECONDS, reading=True)
        try:
            return self._state.features(key, moment, names)
        except sqlite3.Error:
            self._state = None
            raise


class StateRedis:
    """Online features of one entity, read from Redis; waits for it no longer than a decision can."""

    def __init__(self, entity: EntityFeatures, url: str) -> None:
        from ..fraud.redis_store import READ_SECONDS, RedisStore

        self.entity = entity
        self._store = RedisStore(url, entity.entity, timeout_seconds=READ_SECONDS)
        self._state: OnlineFeatures | None = None

    def features(self, key: str | None, moment: int, names: frozenset[str] | None = None) -> Mapping[str, Fact]:
        """Features now; redis.RedisError where Redis does not answer or has failed a moment ago, LookupError where it is not ready."""
        if self._state is None:
            self._state = OnlineFeatures(self.entity, self._store, stale_seconds=STALE_SECONDS, reading=True)
        return self._state.features(key, moment, names)
