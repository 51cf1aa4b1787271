from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from dataplatform.landing import Landing


@pytest.fixture(params=["local", "memory"])
def landing(request: pytest.FixtureRequest, tmp_path: Path) -> Landing:
    """A stream on the local disk, and one on an object store with real conditional requests."""
    if request.param == "local":
        return Landing(LocalStore(tmp_path), "events", "gs://landing/events", tmp_path)
    return Landing(MemoryStore(), "events", "gs://landing/events")


@pytest.fixture
def local(tmp_path: Path) -> Landing:
    return Landing(LocalStore(tmp_path), "events", "gs://landing/events", tmp_path)


@pytest.fixture
def another(tmp_path: Path) -> Callable[[Landing], Landing]:
    """The same stream as another process sees it: nothing remembered."""
    return lambda landing: Landing(landing.store, landing.stream, landing.uri, landing.root)
