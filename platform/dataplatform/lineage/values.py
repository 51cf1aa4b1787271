"""What a column or an expression is made of: the columns that feed it, and those that steer it.

A value is one of four things: nothing (a literal), a column of a table, a row (a STRUCT, whose fields are kept apart), or a mix
of other values. Arrays are transparent: an array of structs and one of its elements are the same value. Values are immutable and
work out their sources only when asked, so a wide query costs what its output uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .catalog import Field
    from .relations import Relation

IDENTITY, TRANSFORMATION, AGGREGATION = 0, 1, 2
MASKED = 4
CERTAIN, TOLD, INFERRED, AMBIGUOUS = 0, 8, 16, 24
CONFIDENCE = {CERTAIN: 1.0, TOLD: 0.9, INFERRED: 0.5, AMBIGUOUS: 0.3}
"""How sure an edge is: by schema; by being the only candidate; by the destination's schema; by being one of several."""

GAP = "?"
"""Kind of an influence that stands for something unresolved: (reason, detail, GAP)."""

Origin = tuple[str, str]
"""(table, column path)"""
Influence = tuple[str, str, str]
"""(table, column path, indirect subtype)"""
Sources = dict[Origin, int]
Influences = dict[Influence, tuple[int, exp.Expr | None]]

_CODES = range(32)
MERGE = [[max(a & 3, b & 3) | (a & b & MASKED) | min(a & 24, b & 24) for b in _CODES] for a in _CODES]
"""A source that comes in two ways: the stronger transformation, masked only when both are, the surer confidence."""
RAISE = [[max(a & 3, by & 3) | ((a | by) & MASKED) | max(a & 24, by & 24) for a in _CODES] for by in _CODES]
"""A source that goes through an operation."""


def add_sources(into: Sources, sources: Sources, by: int = 0) -> None:
    """Merge `sources`, raised by an operation's code, into `into`."""
    if by:
        row = RAISE[by]
        for origin, plain in sources.items():
            code = row[plain]
            known = into.get(origin)
            into[origin] = code if known is None else MERGE[known][code]
    else:
        for origin, code in sources.items():
            known = into.get(origin)
            into[origin] = code if known is None else MERGE[known][code]


def add_influences(into: Influences, influences: Influences) -> None:
    """Merge, keeping the expression that came first."""
    for key, entry in influences.items():
        if key not in into:
            into[key] = entry


def add_steering(into: Influences, value: Value, subtype: str, node: exp.Expr | None) -> None:
    """All that feeds or steers `value` becomes an influence of this subtype."""
    for (table, path), code in value.sources().items():
        key = (table, path, subtype)
        if key not in into:
            into[key] = (code, node)
    add_influences(into, value.influences())


class Value:
    """A literal: no column feeds it. Base of the others."""

    __slots__ = ()
    node: exp.Expr | None = None

    def sources(self) -> Sources:
        """The columns that feed this value."""
        return {}

    def influences(self) -> Influences:
        """The columns that steer it, and its gaps."""
        return {}

    def field(self, name: str) -> Value | None:  # noqa: ARG002
        """The field of that name (lower case), or None when there is none."""
        return NOTHING

    def field_names(self) -> list[str] | None:
        """Names of the fields in order; empty for what is no STRUCT; None when that is not known."""
        return []

    def exploded(self) -> list[tuple[str, Value]] | None:
        """The fields when they come from different places, else None: then the value goes as a whole."""
        return None


NOTHING = Value()


class Gap(Value):
    """A value that could not be told."""

    __slots__ = ("_influences",)

    def __init__(self, reason: str, detail: str) -> None:
        self._influences: Influences = {(reason, detail, GAP): (0, None)}

    def influences(self) -> Influences:
        return self._influences

    def field(self, name: str) -> Value | None:  # noqa: ARG002
        return self

    def field_names(self) -> list[str] | None:
        return None


class ColumnValue(Value):
    """A column of a table, or a field of one."""

    __slots__ = ("_sources", "code", "node", "origin", "shape")

    def __init__(self, origin: Origin, code: int, shape: Field | None) -> None:
        self.origin = origin
        self.code = code
        self.shape = shape
        self.node = None
        self._sources: Sources = {origin: code}

    def sources(self) -> Sources:
        return self._sources

    def field(self, name: str) -> Value | None:
        table, path = self.origin
        if self.shape is None or self.shape.type == "UNKNOWN":
            return ColumnValue((table, f"{path}.{name}"), max(self.code, TOLD), None)
        if self.shape.type in ("JSON", "ANY"):
            return Mix((self,), TRANSFORMATION)
        child = self.shape.child(name)
        return None if child is None else ColumnValue((table, f"{path}.{child.name}"), self.code, child)

    def field_names(self) -> list[str] | None:
        if self.shape is None or self.shape.type == "UNKNOWN":
            return None
        return [child.name for child in self.shape.fields]


class RowValue(Value):
    """A STRUCT whose fields are known one by one: STRUCT(…), SELECT AS STRUCT, a table alias used as a value."""

    __slots__ = ("_influences", "_sources", "node", "relation")

    def __init__(self, relation: Relation) -> None:
        self.relation = relation
        self.node = None
        self._sources: Sources | None = None
        self._influences: Influences | None = None

    def sources(self) -> Sources:
        if self._sources is None:
            self._sources = {}
            for _, value in self.relation.everything():
                add_sources(self._sources, value.sources())
        return self._sources

    def influences(self) -> Influences:
        if self._influences is None:
            self._influences = {}
            for _, value in self.relation.everything():
                add_influences(self._influences, value.influences())
        return self._influences

    def field(self, name: str) -> Value | None:
        return self.relation.get(name)

    def field_names(self) -> list[str] | None:
        return self.relation.names()

    def exploded(self) -> list[tuple[str, Value]] | None:
        return self.relation.everything()


class Mix(Value):
    """Values that come together in one operation.

    `by` is the operation's code. `keeps_fields`: the result is one of its parts, or made of them (COALESCE, CASE, ARRAY_AGG,
    UNNEST, a cast), so a field of it is the mix of the parts' fields.
    """

    __slots__ = ("_influences", "_names", "_own", "_sources", "by", "keeps_fields", "node", "parts")

    def __init__(
        self,
        parts: Sequence[Value],
        by: int = IDENTITY,
        *,
        keeps_fields: bool = False,
        own: Influences | None = None,
        node: exp.Expr | None = None,
    ) -> None:
        self.parts = parts
        self.by = by
        self.keeps_fields = keeps_fields
        self.node = node
        self._own = own
        self._sources: Sources | None = None
        self._influences: Influences | None = None
        self._names: tuple[list[str] | None] | None = None

    def sources(self) -> Sources:
        if self._sources is None:
            self._sources = {}
            for part in self.parts:
                add_sources(self._sources, part.sources(), self.by)
        return self._sources

    def influences(self) -> Influences:
        if self._influences is None:
            gathered: Influences = dict(self._own) if self._own else {}
            for part in self.parts:
                add_influences(gathered, part.influences())
            self._influences = gathered
        return self._influences

    def field(self, name: str) -> Value | None:
        if not self.keeps_fields:
            return self
        found = [child for part in self.parts if part is not NOTHING and (child := part.field(name)) is not None]
        if not found:
            return NOTHING if all(part is NOTHING for part in self.parts) else None
        if len(found) == 1 and not self.by and not self._own:
            return found[0]
        return type(self)(found, self.by, keeps_fields=True, own=self._own, node=found[0].node)

    def field_names(self) -> list[str] | None:
        if self._names is None:  # kept: a UNION asks for them at each of its branches
            self._names = ([],)
            for part in self.parts if self.keeps_fields else ():
                names = part.field_names()
                if names is None or names:
                    self._names = (names,)
                    break
        return self._names[0]

    def exploded(self) -> list[tuple[str, Value]] | None:
        if not self.keeps_fields or all(part.exploded() is None for part in self.parts):
            return None
        names = self.field_names()
        if not names:
            return None
        return [(name, self.field(name.lower()) or NOTHING) for name in names]


class Branches(Mix):
    """A column of a UNION: each source is told with the expression of its own branch."""

    __slots__ = ()


def nodes_of(value: Value) -> dict[tuple[str, str], list[exp.Expr | None]]:
    """The expressions that each source goes through last in the branches of a UNION; empty for any other value."""
    found: dict[tuple[str, str], list[exp.Expr | None]] = {}
    waiting, branches = [value], False
    while waiting:
        at = waiting.pop()
        if isinstance(at, Branches) or (isinstance(at, Mix) and len(at.parts) == 1 and at.parts[0].node is at.node):
            branches = branches or isinstance(at, Branches)
            waiting += reversed(at.parts)
        elif branches:
            for source in at.sources():
                found.setdefault(source, []).append(at.node)
    return found


class Opaque(Value):
    """The result of something whose inside is not known: it may be a STRUCT, and each of its fields comes from all that went in."""

    __slots__ = ("inner",)

    def __init__(self, inner: Value) -> None:
        self.inner = inner

    @property
    def node(self) -> exp.Expr | None:  # type: ignore[override]
        """The expression's own."""
        return self.inner.node

    def sources(self) -> Sources:
        return self.inner.sources()

    def influences(self) -> Influences:
        return self.inner.influences()

    def field(self, name: str) -> Value | None:  # noqa: ARG002
        return self

    def field_names(self) -> list[str] | None:
        return None


class Shaped(Value):
    """A value of a declared type: the type names its fields, the value feeds them."""

    __slots__ = ("inner", "shape")

    def __init__(self, inner: Value, shape: Field) -> None:
        self.inner = inner
        self.shape = shape

    @property
    def node(self) -> exp.Expr | None:  # type: ignore[override]
        """The expression's own."""
        return self.inner.node

    def sources(self) -> Sources:
        return self.inner.sources()

    def influences(self) -> Influences:
        return self.inner.influences()

    def field(self, name: str) -> Value | None:
        shape = self.shape.child(name)
        if shape is None:
            return self.inner.field(name)
        return Shaped(self.inner.field(name) or self.inner, shape)

    def field_names(self) -> list[str] | None:
        return [child.name for child in self.shape.fields]


def with_influences(value: Value, own: Influences) -> Value:
    """The same value, steered by `own` as well."""
    return Mix((value,), IDENTITY, keeps_fields=True, own=own, node=value.node) if own else value
