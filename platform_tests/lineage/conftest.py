"""Tests of lineage read the whole query log of their project: so each has a project, and a log, of its own."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from dataplatform.settings import Settings


@pytest.fixture
def settings_for(settings_for: Callable[..., Settings]) -> Callable[..., Settings]:
    """The suite's settings, in a project that no other test has."""
    project = f"log-{uuid.uuid4().hex[:10]}"

    def make(**overrides: Any) -> Settings:
        return settings_for(**{"project": project, **overrides})

    return make
