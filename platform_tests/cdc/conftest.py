"""The laboratory of a test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from source_lab import Lab

from dataplatform.cdc import capture
from dataplatform.settings import Settings


@pytest.fixture
def lab(
    settings_for: Callable[..., Settings], mongo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    # A quiet stream says that it is there, and looks for new contracts, more often than it does in earnest.
    monkeypatch.setattr(capture, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(capture, "LOOK_SECONDS", 0.3)
    settings = settings_for(schemas_dir=tmp_path / "schemas", connections={"lab": mongo.uri}, cdc_commit_seconds=0.2)
    laboratory = Lab(settings, mongo.uri)
    yield laboratory
    laboratory.close()
