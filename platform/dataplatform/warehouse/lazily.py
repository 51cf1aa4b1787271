"""A module that is imported at its first use."""

import importlib
from typing import Any


class Lazily:
    """Stands for a module whose import is long and not always needed. Attributes are those of the module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
