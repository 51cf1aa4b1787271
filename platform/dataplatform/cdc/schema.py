"""The typed table's columns: which BSON kinds become which type, and how columns come and widen. Never narrower, never fewer.

| BSON | column | |
|---|---|---|
| string, ObjectId, symbol | STRING | an ObjectId as its 24 hexadecimal digits |
| int, long | INT64 | |
| Decimal128 | NUMERIC | with more than 9 decimals or 29 digits before the point: `_unmapped` |
| double | FLOAT64 | NaN and infinities as they are |
| bool | BOOL | |
| date | TIMESTAMP | outside the years 1 to 9999: `_unmapped` |
| timestamp | TIMESTAMP | its seconds; the increment stays in the raw document |
| binary | BYTES | of every subtype, UUIDs too |
| document | STRUCT | JSON from 12 levels or MAX_KEYS distinct keys on |
| array | REPEATED | array of arrays: JSON |
| regular expression, code, DBRef, MinKey, MaxKey, … | JSON | canonical Extended JSON |
| null, and an array without elements | | no column until a value is seen |

Numbers widen INT64 → NUMERIC → FLOAT64. Kinds of different families do not: the kind seen most when the column was made keeps
it, every other value stays in `_unmapped` and is counted. A field that the contract pins has that type from the start; a
pinned STRING takes every scalar as its text.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .names import column_name
from .shapes import Seen

MAX_KEYS = 200
"""Distinct keys below one path from which on it is a map: one JSON column instead of a column a key."""
MAX_TOP_KEYS = 2_000
PROVEN = 10
"""Values that a new key must have in what is applied at once, to get a column of an object that had too many new keys."""
MAX_DEPTH = 12
MAX_HIDDEN = 20

ACCEPTED: dict[str, frozenset[str]] = {
    "STRING": frozenset({"string", "oid", "symbol"}),
    "INT64": frozenset({"int", "long"}),
    "NUMERIC": frozenset({"int", "long", "decimal"}),
    "FLOAT64": frozenset({"int", "long", "decimal", "double"}),
    "BOOL": frozenset({"bool"}),
    "TIMESTAMP": frozenset({"date", "timestamp"}),
    "BYTES": frozenset({"binary"}),
    "STRUCT": frozenset({"object"}),
}
"""Kinds that a column of a type takes."""
TEXT_OF_SCALARS = frozenset({"string", "oid", "symbol", "int", "long", "decimal", "double", "bool", "date"})
"""Kinds that a pinned STRING takes."""

_FAMILIES = ("object", "array", "string", "number", "time", "bool", "bytes", "other")
_FAMILY_OF = {
    **dict.fromkeys(("string", "oid", "symbol"), "string"),
    **dict.fromkeys(("int", "long", "decimal", "double"), "number"),
    **dict.fromkeys(("date", "timestamp"), "time"),
    "bool": "bool",
    "binary": "bytes",
    "object": "object",
    "array": "array",
}
_WIDER = {("INT64", "NUMERIC"), ("INT64", "FLOAT64"), ("NUMERIC", "FLOAT64")}
_SCALARS = frozenset({"STRING", "INT64", "NUMERIC", "FLOAT64", "BOOL", "TIMESTAMP", "BYTES"})


class Node(msgspec.Struct):
    """A field of the documents and its column.

    `pinned`: the contract gave the type. `closed`: too many new keys came at once; from then on a new key gets a column
    when it is PROVEN and there is room; keys without one go to `_unmapped`.
    `hidden`: keys below that no JSON path can name; they go to `_unmapped`.
    """

    key: str
    column: str
    type: str
    repeated: bool = False
    pinned: bool = False
    closed: bool = False
    hidden: list[str] = msgspec.field(default_factory=list)
    description: str = ""
    fields: list["Node"] = msgspec.field(default_factory=list)

    def field(self, key: str) -> "Node | None":
        """The field of that key."""
        return next((node for node in self.fields if node.key == key), None)

    @property
    def accepts(self) -> frozenset[str]:
        """Kinds that one value (or element) may have to be typed."""
        if self.type == "STRING" and self.pinned:
            return TEXT_OF_SCALARS
        return ACCEPTED[self.type]


class Pin(msgspec.Struct, frozen=True):
    """What the contract says of a field: `path` in keys from the document down (through arrays as well)."""

    path: tuple[str, ...]
    type: str | None = None
    repeated: bool = False
    description: str = ""


class Step(msgspec.Struct, frozen=True):
    """One step of evolution (`added`, `widened`, `rewritten`) or one conflict (`conflict`, `too_many_keys`, `refused`).

    `path` is a JSON pointer; `before` and `after` are types or kinds; `count` how many values.
    """

    path: str
    step: str
    before: str
    after: str
    count: int = 0


class Evolution(msgspec.Struct):
    """A schema and how it came to be. `rewrite`: BigQuery can't change the column in place, the table is built anew."""

    root: Node
    steps: list[Step]
    rewrite: bool = False


def empty() -> Node:
    """The schema of a collection of which nothing has been seen."""
    return Node("", "", "STRUCT")


def encode(root: Node) -> str:
    """The schema as JSON text."""
    return msgspec.json.encode(root).decode()


def decode(text: str) -> Node:
    """What `encode` wrote."""
    return msgspec.json.decode(text, type=Node)


def evolve(present: Node, seen: Seen, pins: Iterable[Pin] = ()) -> Evolution:
    """The schema that also holds what was seen. `present` is left as it is; the same input gives the same schema."""
    evolution = Evolution(decode(encode(present)), [])
    pinned = {pin.path: pin for pin in pins}
    _pin(evolution, pinned)
    if seen.kinds:
        _grow(evolution, evolution.root, seen, (), pinned)
    return evolution


def pointer(path: tuple[str, ...]) -> str:
    """JSON pointer of a path of keys."""
    return "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in path)


def _pin(evolution: Evolution, pins: Mapping[tuple[str, ...], Pin]) -> None:
    for path, pin in pins.items():
        if pin.type is None:
            continue
        parent = evolution.root
        for key in path[:-1]:
            inner = parent.field(key)
            if inner is None:
                inner = _make(parent, key, "STRUCT", top=parent is evolution.root)
            if inner.type != "STRUCT":
                break
            parent = inner
        else:
            _pin_one(evolution, parent, pin)


def _pin_one(evolution: Evolution, parent: Node, pin: Pin) -> None:
    node = parent.field(pin.path[-1])
    assert pin.type is not None
    if node is None:
        node = _make(parent, pin.path[-1], pin.type, top=parent is evolution.root)
        node.pinned, node.repeated, node.description = True, pin.repeated, pin.description
        evolution.steps.append(Step(pointer(pin.path), "added", "", _shown(node)))
        return
    node.description = pin.description
    if node.type == pin.type:
        if not node.pinned and node.type == "STRING":
            evolution.rewrite = True
        node.pinned = True
        return
    before = _shown(node)
    wider = pin.type == "JSON" or (pin.type == "STRING" and node.type in _SCALARS) or (node.type, pin.type) in _WIDER
    if not wider:
        evolution.steps.append(Step(pointer(pin.path), "refused", before, pin.type))
        return
    node.type, node.pinned = pin.type, True
    if pin.type == "JSON":
        node.repeated, node.fields = False, []
    evolution.rewrite = True
    evolution.steps.append(Step(pointer(pin.path), "rewritten", before, _shown(node)))


def _grow(
    evolution: Evolution, node: Node, seen: Seen, path: tuple[str, ...], pins: Mapping[tuple[str, ...], Pin]
) -> None:
    """Bring what was seen below a STRUCT into it."""
    limit = MAX_KEYS if path else MAX_TOP_KEYS
    unknown = [key for key in seen.fields if node.field(key) is None and not (not path and key == "_id")]
    fresh = [key for key in unknown if _choose(seen.fields[key], len(path)) is not None]
    for key in unknown:
        if not addressable(key) and key not in node.hidden and len(node.hidden) < MAX_HIDDEN:
            node.hidden.append(key)
            evolution.steps.append(Step(pointer((*path, key)), "conflict", "", "name", seen.fields[key].kinds.total()))
    fresh = [key for key in fresh if addressable(key)]
    if not node.closed and (len(node.fields) + len(fresh) > limit or len(node.hidden) == MAX_HIDDEN):
        node.closed = True
        evolution.steps.append(
            Step(
                pointer(path), "too_many_keys", str(len(node.fields)), str(len(node.fields) + len(fresh)), len(unknown)
            )
        )
    if node.closed:
        values = {key: sum(n for kind, n in seen.fields[key].kinds.items() if kind != "null") for key in fresh}
        proven = sorted((key for key in fresh if values[key] >= PROVEN), key=lambda key: (-values[key], key))
        fresh = proven[: max(0, limit - len(node.fields))]
    welcome = set(fresh)
    for key, inner in seen.fields.items():
        if not path and key == "_id":
            continue
        here = (*path, key)
        child = node.field(key)
        if child is None:
            if key not in welcome:
                continue
            chosen = _choose(inner, len(path))
            if chosen is None:
                continue
            child = _make(node, key, chosen[0], top=not path)
            child.repeated = chosen[1]
            pin = pins.get(here)
            child.description = pin.description if pin is not None else ""
            if child.type == "STRUCT":
                _fill(evolution, child, inner, here, pins)
            evolution.steps.append(Step(pointer(here), "added", "", _shown(child), inner.kinds.total()))
        else:
            _widen(evolution, child, inner, here)
            if child.type == "STRUCT":
                _fill(evolution, child, inner, here, pins)
        _report(evolution, child, inner, here)


def _fill(
    evolution: Evolution, node: Node, seen: Seen, path: tuple[str, ...], pins: Mapping[tuple[str, ...], Pin]
) -> None:
    inside = seen.element if node.repeated else seen
    if inside is not None and inside.fields:
        _grow(evolution, node, inside, path, pins)


def _make(parent: Node, key: str, type_: str, *, top: bool) -> Node:
    taken = {node.column.lower() for node in parent.fields}
    node = Node(key, column_name(key, taken, top=top), type_)
    parent.fields.append(node)
    return node


def _choose(seen: Seen, depth: int) -> tuple[str, bool] | None:
    """(type, repeated) of a new column, or None where nothing was seen that could tell."""
    families: Counter[str] = Counter()
    for kind, count in seen.kinds.items():
        if kind == "array" and (seen.element is None or not seen.element.kinds):
            continue
        if kind == "object" and not seen.fields:
            continue
        if kind != "null":
            families[_FAMILY_OF.get(kind, "other")] += count
    if not families:
        return None
    family = max(families, key=lambda name: (families[name], -_FAMILIES.index(name)))
    match family:
        case "array":
            assert seen.element is not None
            inner = _choose(seen.element, depth)
            if inner is None:
                return None
            return ("JSON", False) if inner[1] or inner[0] == "JSON" else (inner[0], True)
        case "object":
            if depth >= MAX_DEPTH or len(seen.fields) > MAX_KEYS or any(not addressable(key) for key in seen.fields):
                return ("JSON", False)
            if all(_choose(inner, depth + 1) is None for inner in seen.fields.values()):
                return None
            return ("STRUCT", False)
        case "number":
            return (_number(seen.kinds), False)
    return ({"string": "STRING", "time": "TIMESTAMP", "bool": "BOOL", "bytes": "BYTES"}.get(family, "JSON"), False)


def _number(kinds: Mapping[str, int]) -> str:
    if kinds.get("double"):
        return "FLOAT64"
    return "NUMERIC" if kinds.get("decimal") else "INT64"


def _widen(evolution: Evolution, node: Node, seen: Seen, path: tuple[str, ...]) -> None:
    if node.pinned or node.type not in ("INT64", "NUMERIC"):
        return
    inside = seen.element if node.repeated else seen
    if inside is None:
        return
    after = _number(inside.kinds)
    if (node.type, after) in _WIDER:
        evolution.steps.append(Step(pointer(path), "widened", node.type, after, inside.kinds.total()))
        node.type = after
        # BigQuery widens a column of the first level in place, not a field of a STRUCT nor an array's elements.
        evolution.rewrite = evolution.rewrite or len(path) > 1 or node.repeated


def _report(evolution: Evolution, node: Node, seen: Seen, path: tuple[str, ...]) -> None:
    if node.type == "JSON":
        return
    wrong: Counter[str] = Counter()
    if node.repeated:
        wrong.update({k: n for k, n in seen.kinds.items() if k not in ("array", "null")})
        if seen.element is not None:
            wrong.update({f"[{k}]": n for k, n in seen.element.kinds.items() if k not in node.accepts})
    else:
        wrong.update({k: n for k, n in seen.kinds.items() if k != "null" and k not in node.accepts})
    for kind, count in sorted(wrong.items()):
        evolution.steps.append(Step(pointer(path), "conflict", _shown(node), kind, count))


def addressable(key: str) -> bool:
    """Whether a JSON path can name the key; an object with a key that none can is kept as JSON."""
    return key != "" and '"' not in key and "\\" not in key and all(character >= " " for character in key)


def _shown(node: Node) -> str:
    return f"ARRAY<{node.type}>" if node.repeated else node.type


def columns(root: Node) -> list[dict[str, Any]]:
    """The typed table's columns of the document, in the API's form."""
    return [_column(node, (node.key,)) for node in root.fields]


def _column(node: Node, path: tuple[str, ...]) -> dict[str, Any]:
    original = "" if node.key == node.column else f"MongoDB field {pointer(path)}"
    result: dict[str, Any] = {
        "name": node.column,
        "type": {"STRUCT": "RECORD"}.get(node.type, node.type),
        "mode": "REPEATED" if node.repeated else "NULLABLE",
        "description": ". ".join(part for part in (node.description, original) if part)[:1000],
    }
    if node.type == "STRUCT":
        result["fields"] = [_column(inner, (*path, inner.key)) for inner in node.fields]
    return result
