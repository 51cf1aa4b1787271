"""Rows with named columns: what a table, a sub-query or a join gives, and where a name is looked up in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .names import PSEUDO_COLUMNS
from .values import AMBIGUOUS, CERTAIN, IDENTITY, INFERRED, NOTHING, TOLD, ColumnValue, Influences, Mix, RowValue, Value

if TYPE_CHECKING:
    from .catalog import Table

CLOSED, WEAKLY_OPEN, OPEN = 0, 1, 2
"""Whether a relation may have columns that are not listed: no; an element of unknown type might; a table without a schema."""


class Hole:
    """All columns of something whose columns are not known, at one place of a list, but those in `excluded`."""

    __slots__ = ("excluded", "source")

    def __init__(self, source: Relation | Value, excluded: frozenset[str] = frozenset()) -> None:
        self.source = source
        self.excluded = excluded

    def get(self, name: str) -> Value | None:
        """The column of that name, which may be there."""
        if name in self.excluded:
            return None
        return self.source.get(name) if isinstance(self.source, Relation) else self.source.field(name)

    def whole(self) -> Value:
        """All of it as one value."""
        return RowValue(self.source) if isinstance(self.source, Relation) else self.source


Item = tuple[str, Value] | Hole


class Relation:
    """Columns in order, some of them perhaps unknown (holes), and what decides about its rows.

    `row` is set for a value table (SELECT AS STRUCT / AS VALUE, an array's elements): the value of a whole row.
    """

    def __init__(self, items: list[Item], rows: Influences | None = None, row: Value | None = None) -> None:
        self._items = items
        self.rows: Influences = {} if rows is None else rows
        self.row = row
        self._index: dict[str, Value] | None = None
        self._holes: list[Hole] = []

    @property
    def items(self) -> list[Item]:
        """Columns and holes in order."""
        return self._items

    def _indexed(self) -> dict[str, Value]:
        if self._index is None:
            index: dict[str, Value] = {}
            for item in self._items:
                if isinstance(item, Hole):
                    self._holes.append(item)
                else:
                    index.setdefault(item[0].lower(), item[1])
            self._index = index
        return self._index

    @property
    def openness(self) -> int:
        """CLOSED, WEAKLY_OPEN or OPEN."""
        self._indexed()
        return OPEN if self._holes else CLOSED

    def certain(self, name: str) -> Value | None:
        """The listed column of that name (lower case)."""
        return self._indexed().get(name)

    def guess(self, name: str) -> Value | None:
        """The column of that name (lower case) that a hole may have."""
        self._indexed()
        found = [value for hole in self._holes if (value := hole.get(name)) is not None]
        if not found:
            return None
        return found[0] if len(found) == 1 else Mix(found, AMBIGUOUS, keeps_fields=True)

    def get(self, name: str) -> Value | None:
        """The column of that name (lower case), listed or not."""
        value = self.certain(name)
        return self.guess(name) if value is None else value

    def names(self) -> list[str] | None:
        """Names in order, None when there are holes."""
        self._indexed()
        return None if self._holes else [item[0] for item in self.items if not isinstance(item, Hole)]

    def everything(self) -> list[tuple[str, Value]]:
        """All columns; a hole counts as one column named `*`."""
        return [("*", item.whole()) if isinstance(item, Hole) else item for item in self.items]

    def whole_row(self) -> Value:
        """The row as a value."""
        return RowValue(self) if self.row is None else self.row

    def first(self) -> Value:
        """The value of a scalar sub-query."""
        if self.row is not None:
            return self.row
        return self.everything()[0][1] if self.items else NOTHING


class TableRelation(Relation):
    """A table or view that is read."""

    def __init__(self, name: str, table: Table | None) -> None:
        super().__init__([])
        self.name = name
        self.table = table
        self._columns: dict[str, ColumnValue] = {}
        self._listed: list[Item] | None = None

    @property
    def known(self) -> bool:
        """Whether its columns are known."""
        return self.table is not None and self.table.columns is not None

    @property
    def items(self) -> list[Item]:
        if self._listed is None:
            if self.table is None or self.table.columns is None:
                self._listed = [Hole(self)]
            else:
                self._listed = [(field.name, self._column(field.name.lower())) for field in self.table.columns.values()]
        return self._listed

    def _column(self, name: str) -> ColumnValue:
        value = self._columns.get(name)
        if value is None:
            assert self.table is not None and self.table.columns is not None
            field = self.table.columns[name]
            value = self._columns[name] = ColumnValue((self.name, field.name), self.table.code, field)
        return value

    @property
    def openness(self) -> int:
        return CLOSED if self.known else OPEN

    def certain(self, name: str) -> Value | None:
        if self.table is not None and self.table.columns is not None and name in self.table.columns:
            return self._column(name)
        if name in PSEUDO_COLUMNS and self.known:
            return ColumnValue((self.name, name.upper()), CERTAIN, None)
        return None

    def guess(self, name: str) -> Value | None:
        if self.known:
            return None
        value = self._columns.get(name)
        if value is None:
            value = self._columns[name] = ColumnValue((self.name, name), TOLD, None)
        return value

    def names(self) -> list[str] | None:
        if self.table is None or self.table.columns is None:
            return None
        return [field.name for field in self.table.columns.values()]

    def everything(self) -> list[tuple[str, Value]]:
        if not self.known:
            return [("*", ColumnValue((self.name, "*"), INFERRED, None))]
        return super().everything()


class ElementRelation(Relation):
    """Elements of an array in FROM: fields of a STRUCT are its columns; anything else is one column named by the alias."""

    def __init__(self, element: Value, alias: str | None, rows: Influences) -> None:
        self.element = element
        names = element.field_names()
        items: list[Item]
        if names:
            items = [(name, element.field(name.lower()) or NOTHING) for name in names]
        elif names is None:
            items = [Hole(element)] if alias is None else [(alias, element)]
        else:
            items = [(alias or "f0_", element)]
        super().__init__(items, rows, element)
        self._unknown = names is None

    @property
    def openness(self) -> int:
        return WEAKLY_OPEN if self._unknown else CLOSED

    def certain(self, name: str) -> Value | None:
        return None if self._unknown else super().certain(name)

    def guess(self, name: str) -> Value | None:
        return self.element.field(name) if self._unknown else None


class Scope:
    """Where names are looked up: the FROM clause of one SELECT, the select list's aliases, the scopes around it, variables."""

    __slots__ = (
        "alias_holes",
        "aliases",
        "ctes",
        "merged",
        "parent",
        "paths",
        "preferred",
        "ranges",
        "relations",
        "rows",
        "variables",
        "windows",
    )

    def __init__(self, parent: Scope | None, ctes: dict[str, object], variables: dict[str, Value]) -> None:
        self.parent = parent
        self.ctes = ctes
        self.variables = variables
        self.ranges: dict[str, Relation | Value] = {}
        self.paths: dict[str, Relation] = {}
        self.relations: list[Relation] = []
        self.merged: dict[str, tuple[str, Value]] = {}
        self.aliases: dict[str, Value] = {}
        self.preferred: dict[str, Value] = {}
        """Aliases that come before columns of their name, outside of aggregates."""
        self.alias_holes: list[Hole] = []
        self.rows: Influences = {}
        self.windows: dict[str, object] = {}

    def add(self, alias: str | None, relation: Relation) -> None:
        """A relation of the FROM clause."""
        if alias:
            self.ranges[alias.lower()] = relation
        self.relations.append(relation)
        for key, entry in relation.rows.items():
            self.rows.setdefault(key, entry)

    def merge(self, names: list[str], relation: Relation) -> None:
        """JOIN … USING: both sides feed the merged column. Call before `relation` is added."""
        merged: dict[str, tuple[str, Value]] = {}
        for name in names:
            key = name.lower()
            left = self.local(key)
            right = relation.get(key)
            sides = [side for side in (left, right) if side is not None]
            if sides:
                merged[key] = (name, Mix(sides, IDENTITY, keeps_fields=True))
        self.merged = merged | {key: entry for key, entry in self.merged.items() if key not in merged}

    def local(self, name: str) -> Value | None:
        """A column of this scope's FROM clause, by its lower-case name."""
        if name in self.merged:
            return self.merged[name][1]
        for relation in self.relations:
            value = relation.certain(name)
            if value is not None:
                return value
        return None

    def is_named_outside(self, name: str) -> bool:
        """Whether a scope around this one has a table or variable of that name."""
        at = self.parent
        while at is not None:
            if name in at.ranges:
                return True
            at = at.parent
        return False

    def local_guess(self, name: str) -> Value | None:
        """A column that tables without a schema may have."""
        for openness in (OPEN, WEAKLY_OPEN):
            found = [
                value
                for relation in self.relations
                if relation.openness == openness and (value := relation.guess(name)) is not None
            ]
            if len(found) == 1:
                return found[0]
            if found:
                return Mix(found, AMBIGUOUS, keeps_fields=True)
        return None

    def star(self) -> list[Item]:
        """What `*` stands for."""
        items: list[Item] = list(self.merged.values())
        hidden = frozenset(self.merged)
        for relation in self.relations:
            for item in relation.items:
                if isinstance(item, Hole):
                    items.append(Hole(item.source, item.excluded | hidden) if hidden else item)
                elif item[0].lower() not in hidden:
                    items.append(item)
        return items
