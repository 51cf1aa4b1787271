"""The shape of a document: its canonical text with every string value emptied. Few documents differ in shape.

BigQuery takes the shapes of an hour's changes in one statement (`SHAPE_SQL`) and counts them; what types the fields have is read off
the distinct shapes here. So discovery sees every document, and moves almost nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SHAPE_SQL = r"""REGEXP_REPLACE({document}, r'("(?:[^"\\]|\\.)*":)|"(?:[^"\\]|\\.)*"', r'\1""')"""
"""GoogleSQL: a key keeps its text and gets `""` after its colon, a value becomes `""`."""

_STRING = re.compile(r'("(?:[^"\\]|\\.)*":)|"(?:[^"\\]|\\.)*"')
_MARKED = re.compile(r'("(?:[^"\\]|\\.)*":)""|""')

WRAPPERS: dict[str, str] = {
    "$oid": "oid",
    "$numberInt": "int",
    "$numberLong": "long",
    "$numberDouble": "double",
    "$numberDecimal": "decimal",
    "$date": "date",
    "$binary": "binary",
    "$timestamp": "timestamp",
    "$regularExpression": "regex",
    "$code": "code",
    "$ref": "dbref",
    "$minKey": "minKey",
    "$maxKey": "maxKey",
    "$undefined": "undefined",
    "$symbol": "symbol",
    "$dbPointer": "dbPointer",
}
"""First key of an Extended JSON wrapper → the BSON kind it stands for."""


def shape_of(document: str) -> str:
    """What SHAPE_SQL gives for a canonical text."""
    return _STRING.sub(lambda match: (match[1] or "") + '""', document)


@dataclass(slots=True)
class Seen:
    """What was seen at one path: how many values of which kind, and what was inside objects and arrays."""

    kinds: Counter[str] = field(default_factory=Counter)
    fields: dict[str, "Seen"] = field(default_factory=dict)
    element: "Seen | None" = None

    def add(self, value: Any, count: int) -> None:
        """Count a value of a parsed shape `count` times."""
        kind = kind_of(value)
        self.kinds[kind] += count
        if kind == "object":
            for key, inner in value.items():
                seen = self.fields.get(key)
                if seen is None:
                    seen = self.fields[key] = Seen()
                seen.add(inner, count)
        elif kind == "array":
            if self.element is None:
                self.element = Seen()
            for inner in value:
                self.element.add(inner, count)


def kind_of(value: Any) -> str:
    """BSON kind of a value of a parsed shape (or of parsed canonical JSON)."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            first = next(iter(value), None)
            return WRAPPERS.get(first, "object") if first is not None else "object"
    return "number"  # only inside a wrapper


def seen_of(shapes: Iterable[tuple[str, int]]) -> Seen:
    """What the documents of these (shape, count) pairs hold together."""
    root = Seen()
    for shape, count in shapes:
        root.add(json.loads(_MARKED.sub(lambda match: match[1] or '""', shape)), count)
    return root
