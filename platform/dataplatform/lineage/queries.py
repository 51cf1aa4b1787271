"""What a query's rows are made of: SELECT, FROM, joins, set operations, WITH, PIVOT, views and table functions."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from .catalog import ANY, UNKNOWN, Field, Table
from .edges import WHOLE_ROW
from .expressions import Constant, Expressions, Routine, Session, output_name, renamed, spread
from .names import qualified
from .parsing import SyntaxProblem
from .relations import ElementRelation, Hole, Item, Relation, Scope, TableRelation
from .values import (
    AMBIGUOUS,
    IDENTITY,
    INFERRED,
    NOTHING,
    TRANSFORMATION,
    Branches,
    ColumnValue,
    Gap,
    Influences,
    Mix,
    Opaque,
    Value,
    add_influences,
    add_steering,
    with_influences,
)

_OF_TABLES = frozenset({"vectorsearch", "gapfill", "aiforecast", "featuresattime", "anonymous"})
"""Table functions of the parser whose first argument is a table; that of all others is a model."""
_ADDED: dict[str, tuple[str, ...]] = {
    "APPENDS": ("_CHANGE_TYPE", "_CHANGE_TIMESTAMP"),
    "CHANGES": ("_CHANGE_TYPE", "_CHANGE_TIMESTAMP"),
}
"""Table functions that pass the rows of their table, and what they add."""
MAX_ROUNDS = 20
"""Rounds of a recursive CTE before its sources are taken as they are; each round adds sources or is the last."""


class CommonTable:
    """A WITH entry, resolved when it is first read."""

    __slots__ = ("names", "node", "relation", "scope")

    def __init__(self, node: exp.Expr, scope: Scope, names: list[str]) -> None:
        self.node = node
        self.scope = scope
        self.names = names
        self.relation: Relation | None = None


class Alternatives(Relation):
    """Rows of a set operation whose sides all have unknown columns."""

    def __init__(self, sides: list[Relation], rows: Influences) -> None:
        self.sides = sides
        super().__init__([Hole(self)], rows)

    def guess(self, name: str) -> Value | None:
        found = [value for side in self.sides if (value := side.get(name)) is not None]
        return Mix(found, IDENTITY, keeps_fields=True) if found else None

    def everything(self) -> list[tuple[str, Value]]:
        return [("*", Mix([value for side in self.sides for _, value in side.everything()]))]


class Queries(Expressions):
    """Queries to relations."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._views: list[str] = []

    def query(self, node: exp.Expr, outer: Scope, *, ordered: bool = False) -> Relation:
        """The rows of a query. `ordered`: its ORDER BY counts even without a LIMIT."""
        if isinstance(node, exp.Select):
            return self._select(node, outer, ordered)
        if isinstance(node, exp.SetOperation):
            return self._set_operation(node, outer, ordered)
        if isinstance(node, exp.Subquery):
            scope = self._with(node, outer)
            if isinstance(node.this, exp.Query) and not node.args.get("joins") and not node.args.get("pivots"):
                relation = self.query(node.this, scope, ordered=ordered)
                return self._ordered(node, relation, scope, ordered)
            return self._from_only(node, scope)
        if isinstance(node, exp.Table | exp.Unnest):
            return self._from_only(node, outer)
        if isinstance(node, exp.Values):
            return self.rows_of_values(node, outer)
        self.note("unsupported", type(node).__name__.upper())
        return Relation([])

    def _from_only(self, node: exp.Expr, outer: Scope) -> Relation:
        scope = Scope(outer, outer.ctes, outer.variables)
        self._source(node, scope)
        return Relation(scope.star(), scope.rows)

    def _with(self, node: exp.Expr, outer: Scope) -> Scope:
        clause = node.args.get("with_")
        if clause is None:
            return outer
        scope = Scope(outer, dict(outer.ctes), outer.variables)
        for cte in clause.expressions:
            alias = cte.args["alias"]
            names = [str(column.name) for column in alias.args.get("columns") or ()]
            # A recursive entry sees itself and those after it; any other sees those before it.
            seen = scope if clause.args.get("recursive") else Scope(outer, dict(scope.ctes), outer.variables)
            scope.ctes[str(alias.name).lower()] = CommonTable(cte.this, seen, names)
        return scope

    def _common_table(self, name: str, table: CommonTable) -> Relation:
        if table.relation is None:
            body = table.node
            while isinstance(body, exp.Subquery) and isinstance(body.this, exp.Query) and not body.args.get("with_"):
                body = body.this
            recursive = isinstance(body, exp.Union) and table.scope.ctes.get(name) is table
            table.relation = (
                self._recursive(table, body)
                if recursive and isinstance(body, exp.Union)
                else _with_names(self.query(body, table.scope), table.names)
            )
        return table.relation

    def _recursive(self, table: CommonTable, body: exp.Union) -> Relation:
        scope = self._with(body, table.scope)
        current = _with_names(self.query(body.this, scope), table.names)
        seen = -1
        for _ in range(MAX_ROUNDS):
            table.relation = current
            step = self.query(body.expression, scope)
            current = self._combine([current, step], body)
            size = len(current.rows) + sum(
                len(value.sources()) + len(value.influences()) for _, value in current.everything()
            )
            if size == seen:
                break
            seen = size
        return _with_names(current, table.names)

    # -- SELECT

    def _select(self, node: exp.Select, outer: Scope, ordered: bool) -> Relation:
        base = self._with(node, outer)
        args = node.args
        scope = Scope(base if base is not outer else outer, base.ctes, base.variables)
        source = args.get("from_")
        if source is not None:
            self._source(source.this, scope)
        for join in args.get("joins") or ():
            self._join(join, scope)
        rows = scope.rows
        if args.get("where") is not None:
            self.steer(rows, args["where"].this, scope, "FILTER")
        for window in args.get("windows") or ():
            scope.windows[str(window.this.name).lower()] = window

        items = self._select_list(node, scope)
        row: Value | None = None
        if args.get("kind") == "VALUE" and len(items) == 1 and not isinstance(items[0], Hole):
            row = items[0][1]
            items = spread(row) if row.field_names() != [] else items

        for item in items:
            if isinstance(item, Hole):
                scope.alias_holes.append(item)
            else:
                scope.aliases.setdefault(item[0].lower(), item[1])
        if args.get("group") is not None:
            self._group(args["group"], node, items, scope)
        if any(args.get(clause) is not None for clause in ("having", "qualify", "order")):
            scope.preferred = _computed(node, scope)
        if args.get("having") is not None:
            self.steer(rows, args["having"].this, scope, "FILTER")
        if args.get("qualify") is not None:
            self.steer(rows, args["qualify"].this, scope, "FILTER")
        relation = Relation(items, rows, row)
        if args.get("distinct") is not None:
            for _, value in relation.everything():
                add_steering(rows, value, "GROUP_BY", None)
        if args.get("order") is not None and (ordered or args.get("limit") is not None):
            self._sort(args["order"], items, scope, rows)
        if args.get("kind") == "STRUCT":
            relation.row = relation.whole_row()
        return relation

    def _select_list(self, node: exp.Select, scope: Scope) -> list[Item]:
        items: list[Item] = []
        anonymous = 0

        def unnamed() -> str:
            nonlocal anonymous
            anonymous += 1
            return f"f{anonymous - 1}_"

        for item in node.expressions:
            kind = item.__class__
            if kind is exp.Star:
                items += self._star(item, scope.star(), scope)
            elif kind is exp.Column and isinstance(item.this, exp.Star):
                parts = [
                    str(item.args[key].this) for key in ("catalog", "db", "table") if item.args.get(key) is not None
                ]
                items += self._star(item.this, self._star_of(parts, scope), scope)
            elif kind is exp.Dot and isinstance(item.expression, exp.Star):
                items += self._star(item.expression, spread(self.value(item.this, scope)), scope)
            else:
                inner = item.this if kind is exp.Alias else item
                value = self.value(inner, scope)
                items.append((output_name(item, unnamed), Constant(inner) if value is NOTHING else value))
        return items

    def _star_of(self, parts: list[str], scope: Scope) -> list[Item]:
        at: Scope | None = scope
        while at is not None:
            found = at.ranges.get(parts[0].lower())
            if isinstance(found, Relation) and len(parts) == 1:
                return list(found.items)
            path = at.paths.get(".".join(parts).lower())
            if path is not None:
                return list(path.items)
            at = at.parent
        return spread(self.find(parts, scope))

    def _star(self, star: exp.Expr, items: list[Item], scope: Scope) -> list[Item]:
        excluded = frozenset(str(one.name).lower() for one in star.args.get("except_") or ())
        replaced = {str(one.alias).lower(): one for one in star.args.get("replace") or ()}
        new_names = {str(one.this.name).lower(): str(one.alias) for one in star.args.get("rename") or ()}
        if not (excluded or replaced or new_names):
            return items
        result: list[Item] = []
        for item in items:
            if isinstance(item, Hole):
                result.append(Hole(item.source, item.excluded | excluded | replaced.keys() | new_names.keys()))
                continue
            key = item[0].lower()
            if key in replaced:
                one = replaced.pop(key)
                value = self.value(one.this, scope)
                result.append((item[0], Constant(one.this) if value is NOTHING else value))
            elif key in new_names:
                result.append((new_names[key], item[1]))
            elif key not in excluded:
                result.append(item)
        if any(isinstance(item, Hole) for item in items):  # what is replaced or renamed was inside the hole
            for one in replaced.values():
                value = self.value(one.this, scope)
                result.append((str(one.alias), Constant(one.this) if value is NOTHING else value))
            for old, new in new_names.items():
                if all(isinstance(item, Hole) or item[0].lower() != old for item in items):
                    result.append((new, self.find([old], scope)))
        return result

    def _group(self, group: exp.Expr, node: exp.Select, items: list[Item], scope: Scope) -> None:
        keys: list[exp.Expr] = list(group.expressions)
        for name in ("rollup", "cube", "grouping_sets"):
            keys += [one for one in group.args.get(name) or () if isinstance(one, exp.Expr)]
        if group.args.get("all"):
            keys += [
                item.unalias()
                for item in node.expressions
                if not isinstance(item, exp.Star) and item.find(exp.AggFunc) is None
            ]
        for key in keys:
            self._group_key(key, items, scope)

    def _group_key(self, key: exp.Expr, items: list[Item], scope: Scope) -> None:
        if isinstance(key, exp.Rollup | exp.Cube | exp.GroupingSets | exp.Tuple | exp.Paren):
            for inner in key.expressions or [key.this]:
                if isinstance(inner, exp.Expr):
                    self._group_key(inner, items, scope)
            return
        add_steering(scope.rows, self._key(key, items, scope), "GROUP_BY", key)

    def _key(self, key: exp.Expr, items: list[Item], scope: Scope) -> Value:
        """A key of GROUP BY or ORDER BY: an ordinal, an alias of the select list, or an expression."""
        if isinstance(key, exp.Literal) and not key.is_string and str(key.this).isdigit():
            position = int(key.this) - 1
            if all(not isinstance(item, Hole) for item in items[: position + 1]) and position < len(items):
                item = items[position]
                return item.whole() if isinstance(item, Hole) else item[1]
            return NOTHING
        if isinstance(key, exp.Column) and not key.args.get("table"):
            value = scope.aliases.get(str(key.name).lower())
            if value is not None:
                return value
        return self.value(key, scope)

    def _sort(self, order: exp.Expr, items: list[Item], scope: Scope, rows: Influences) -> None:
        for key in order.expressions:
            add_steering(rows, self._key(key.this, items, scope), "SORT", key.this)

    def _ordered(self, node: exp.Expr, relation: Relation, scope: Scope, ordered: bool) -> Relation:
        """ORDER BY around a set operation or a query in parentheses."""
        order = node.args.get("order")
        if order is None or not (ordered or node.args.get("limit") is not None):
            return relation
        inner = Scope(scope, scope.ctes, scope.variables)
        inner.add(None, relation)
        rows = dict(relation.rows)
        self._sort(order, relation.items, inner, rows)
        return Relation(relation.items, rows, relation.row)

    # -- FROM

    def _join(self, join: exp.Expr, scope: Scope) -> None:
        args = join.args
        using = [str(column.name) for column in args.get("using") or ()]
        if using:
            side = Scope(scope, scope.ctes, scope.variables)
            self._source(join.this, side)
            right = Relation(side.star(), side.rows)
            for name in using:
                for value in (scope.local(name.lower()) or scope.local_guess(name.lower()), right.get(name.lower())):
                    if value is not None:
                        add_steering(scope.rows, value, "JOIN", exp.column(name))
            scope.merge(using, right)
            scope.ranges |= side.ranges
            scope.paths |= side.paths
            scope.relations += side.relations
            for key, entry in side.rows.items():
                scope.rows.setdefault(key, entry)
        else:
            self._source(join.this, scope)
        if args.get("on") is not None:
            self.steer(scope.rows, args["on"], scope, "JOIN")

    def _source(self, node: exp.Expr, scope: Scope) -> None:
        """Add what stands in FROM to the scope."""
        if isinstance(node, exp.Unnest):
            self._unnest_source(node, scope)
        elif isinstance(node, exp.Table):
            self._table_source(node, scope)
        elif isinstance(node, exp.Subquery):
            alias = node.args.get("alias")
            if alias is None and isinstance(node.this, exp.Table | exp.Unnest):  # (a JOIN b): names inside stay visible
                self._source(node.this, scope)
            else:
                inner = self._with(node, scope)
                relation = self.query(node.this, inner)
                relation = self._ordered(node, relation, inner, False)
                self._add(node, str(alias.name) if alias is not None else None, relation, scope)
        elif isinstance(node, exp.Query):
            self._add(node, None, self.query(node, scope), scope)
        elif isinstance(node, exp.Lateral):
            self._source(node.this, scope)
        else:
            self.note("unsupported", f"FROM {type(node).__name__.upper()}")
        for join in node.args.get("joins") or ():
            self._join(join, scope)

    def _add(self, node: exp.Expr, alias: str | None, relation: Relation, scope: Scope) -> None:
        for pivot in node.args.get("pivots") or ():
            relation = self._pivot(pivot, relation, scope)
            pivoted = pivot.args.get("alias")
            if pivoted is not None:
                alias = str(pivoted.name)
        table_alias = node.args.get("alias")
        if table_alias is not None and table_alias.args.get("columns"):
            relation = _with_names(relation, [str(column.name) for column in table_alias.args["columns"]])
        scope.add(alias, relation)

    def _table_source(self, node: exp.Table, scope: Scope) -> None:
        this = node.this
        alias = str(node.args["alias"].name) if node.args.get("alias") is not None else None
        if not isinstance(this, exp.Identifier):
            self._add(node, alias, self._table_function(node, scope), scope)
            return
        parts = [str(node.args[key].this) for key in ("catalog", "db") if node.args.get(key) is not None]
        parts.append(str(this.this))
        alias = alias or parts[-1].rpartition(".")[2]
        if len(parts) == 1:
            local = self._local_table(parts[0], scope)
            if local is not None:
                self._add(node, alias, local, scope)
                return
        temporary = self.session.temporary_name(parts)
        if temporary is not None:
            self._add(node, alias, self.session.temporary[temporary], scope)
            return
        if len(parts) > 1 and self._is_array_path(parts, scope):
            unnest = exp.Unnest(
                expressions=[
                    exp.Column(**dict(zip(("this", "table", "db"), map(exp.to_identifier, parts[::-1]), strict=False)))
                ],
                alias=exp.TableAlias(columns=[exp.to_identifier(alias)]),
            )
            self._unnest_source(unnest, scope)
            return
        name = self.table_name(parts)
        relation = self.table(name, wildcard="*" in parts[-1])
        if isinstance(relation, TableRelation):
            for start in range(3):
                scope.paths[".".join(name.split(".")[start:]).lower()] = relation
            scope.paths[".".join(parts).lower()] = relation
        self._add(node, alias, relation, scope)

    def _local_table(self, name: str, scope: Scope) -> Relation | None:
        key = name.lower()
        common = scope.ctes.get(key)
        if isinstance(common, CommonTable):
            return self._common_table(key, common)
        if isinstance(common, Relation):
            return common
        pipe = self.session.pipes.get(name)
        if pipe is not None:
            return self.pipe(pipe, scope)
        return self.session.temporary.get(key)

    def pipe(self, pipe: object, scope: Scope) -> Relation:
        """The rows of a pipe query (see `pipes`)."""
        raise NotImplementedError

    def _is_array_path(self, parts: list[str], scope: Scope) -> bool:
        """Whether `a.b` in FROM is an array of a table in scope: it is when `a` is such a table's alias and no table has that name."""
        at: Scope | None = scope
        while at is not None:
            found = at.ranges.get(parts[0].lower())
            if found is not None:
                if isinstance(found, Relation) and found.certain(parts[1].lower()) is not None:
                    return True
                name = qualified(list(parts), self.session.project, self.session.default_dataset)
                return name is None or self.session.catalog.get(name) is None
            at = at.parent
        return False

    def table(self, name: str, *, wildcard: bool = False) -> Relation:
        """The rows of a stored table or view; `wildcard`: of all tables with that prefix."""
        temporary = self.session.temporary.get(name.lower())
        if temporary is not None:
            return temporary
        table = self.stored(name, wildcard=wildcard)
        if table is not None and table.definition and table.type in ("VIEW", "MATERIALIZED_VIEW", "MATERIALIZED VIEW"):
            if self.session.through_views:
                relation = self.view(table)
                if relation is not None:
                    return relation
            if table.columns is None:
                table = self._inferred(table)
        if (table is None or table.columns is None) and name not in self.without_dataset:
            self.note("unknown_schema", name)
        return TableRelation(name, table)

    def stored(self, name: str, *, wildcard: bool = False) -> Table | None:
        """A table or view as the script has made or changed it, else as the catalog knows it."""
        return self.session.created.get(name) or self.session.catalog.get(name, wildcard=wildcard)

    def view(self, view: Table) -> Relation | None:
        """The rows of a view through its definition; None when that cannot be told."""
        if not self.session.through_views:
            return self._view(view)
        if view.name not in self.session.expanded:
            relation = self._view(view)
            if view.name in self._views:
                return relation  # it is being resolved further up
            self.session.expanded[view.name] = relation
        return self.session.expanded[view.name]

    def _view(self, view: Table) -> Relation | None:
        if view.name in self._views:
            self.note("recursion", view.name)
            return None
        if len(self._views) > 50:
            return None
        project, dataset, _ = [*view.name.split(".", 2), "", ""][:3]
        inside = type(self)(
            Session(
                self.session.catalog,
                project,
                f"{project}.{dataset}",
                self.session.through_views,
                expanded=self.session.expanded,
            )
        )
        try:
            statement = inside.tree(view.definition or "")
        except SyntaxProblem:
            return None
        query = statement.expression if isinstance(statement, exp.Create) else statement
        names: list[str] = []
        if isinstance(statement, exp.Create) and isinstance(statement.this, exp.Schema):
            names = [str(column.name) for column in statement.this.expressions]
        if not isinstance(query, exp.Query):
            return None
        inside._views = [*self._views, view.name]
        relation = _with_names(inside.query(query, Scope(None, {}, {})), names)
        if self.session.through_views:
            self.notes |= inside.notes
        return relation

    def _inferred(self, view: Table) -> Table:
        """The view with the columns that its definition gives."""
        known = self.session.catalog.inferred.get(view.name)
        if known is None:
            if view.name in self._views:
                return view
            saved, self.session.through_views = self.session.through_views, False
            try:
                relation = self.view(view)
            finally:
                self.session.through_views = saved
            columns = None
            if relation is not None and relation.names():
                fields = [_shape(name, value) for name, value in relation.everything()]
                columns = {one.name.lower(): one for one in fields}
            known = Table(view.name, view.type, columns, view.definition)
            self.session.catalog.inferred[view.name] = known
        return known

    def _unnest_source(self, node: exp.Unnest, scope: Scope) -> None:
        alias = node.args.get("alias")
        name: str | None = None
        if alias is not None:
            columns = alias.args.get("columns")
            name = str(columns[0].name) if columns else (str(alias.name) or None)
        element: Value = NOTHING
        array: exp.Expr | None = None
        for array in node.expressions:
            if isinstance(array, exp.Column) and "offset" not in node.args and self._other_table(array, name, scope):
                return
            element = self.value(array, scope)
        rows: Influences = {}
        add_steering(rows, element, "JOIN", array)
        if isinstance(element, Mix) and isinstance(array, exp.Array):
            element = Mix(element.parts, IDENTITY, keeps_fields=True, node=element.node)  # making and unmaking it
        relation = ElementRelation(element, name, rows)
        for pivot in node.args.get("pivots") or ():
            self._add(node, name, self._pivot(pivot, relation, scope), scope)
            return
        scope.relations.append(relation)
        for key, entry in rows.items():
            scope.rows.setdefault(key, entry)
        if name:
            scope.ranges[name.lower()] = element
        offset = node.args.get("offset")
        if offset:
            position = str(offset.name) if isinstance(offset, exp.Identifier) else "offset"
            scope.relations.append(Relation([(position, Constant(exp.column(position)))]))

    def _other_table(self, array: exp.Column, alias: str | None, scope: Scope) -> bool:
        """`FROM a.t AS a, a.u`: a path that could be an array of alias `a` is the table `u` of dataset `a` when only that exists."""
        parts = [
            str(array.args[key].this) for key in ("catalog", "db", "table", "this") if array.args.get(key) is not None
        ]
        if len(parts) < 2 or self._is_array_path(parts, scope):
            return False
        self._table_source(
            exp.table_(parts[-1], db=parts[-2], catalog=parts[-3] if len(parts) > 2 else None, alias=alias), scope
        )
        return True

    def rows_of_values(self, node: exp.Expr, outer: Scope) -> Relation:
        """VALUES: columns by position."""
        columns: list[list[Value]] = []
        rows: Influences = {}
        for line in node.expressions:
            for position, one in enumerate(line.expressions if isinstance(line, exp.Tuple) else [line]):
                value = self.value(one, outer)
                if position == len(columns):
                    columns.append([])
                columns[position].append(Constant(one) if value is NOTHING else value)
        items: list[Item] = [
            (
                f"f{position}_",
                values[0] if len(values) == 1 else Mix(values, IDENTITY, keeps_fields=True, node=values[0].node),
            )
            for position, values in enumerate(columns)
        ]
        return Relation(items, rows)

    # -- set operations

    def _set_operation(self, node: exp.SetOperation, outer: Scope, ordered: bool) -> Relation:
        scope = self._with(node, outer)
        chain: list[exp.SetOperation] = []
        first: exp.Expr = node
        while isinstance(first, exp.SetOperation) and (first is node or not _decorated(first)):
            chain.append(first)
            first = first.this
        result = self.query(first, scope)
        for operation in reversed(chain):
            result = self._combine([result, self.query(operation.expression, scope)], operation)
        return self._ordered(node, result, scope, ordered)

    def _combine(self, sides: list[Relation], operation: exp.SetOperation) -> Relation:
        left, right = sides
        rows: Influences = dict(left.rows)
        add_influences(rows, right.rows)
        if isinstance(operation, exp.Union):
            result = self._union(left, right, rows, operation)
        else:
            for _, value in right.everything():
                add_steering(rows, value, "FILTER", None)
            result = Relation(left.items, rows)
        if operation.args.get("distinct") is not False:
            for _, value in result.everything():
                add_steering(rows, value, "GROUP_BY", None)
        return result

    def _union(self, left: Relation, right: Relation, rows: Influences, operation: exp.SetOperation) -> Relation:
        left_names, right_names = left.names(), right.names()
        if operation.args.get("by_name"):
            items: list[Item] = []
            for name in _names_of_union(left_names or [], right_names or [], operation):
                found = [value for side in (left, right) if (value := side.get(name.lower())) is not None]
                items.append((name, Branches(found, IDENTITY, keeps_fields=True)))
            return Relation(items, rows)
        if left_names is None and right_names is None:
            if len(left.items) == len(right.items) == 1:
                return Alternatives([left, right], rows)
            return self._union_of_open(left, right, rows)
        if left_names is None:
            left = filled(left, right_names or [])
        elif right_names is None:
            right = filled(right, left_names)
        ours, theirs = left.everything(), right.everything()
        if len(ours) != len(theirs):
            self.note("column_count", f"{len(ours)} and {len(theirs)} columns in a set operation")
        items = []
        for position, (name, value) in enumerate(ours):
            other = theirs[position][1] if position < len(theirs) else NOTHING
            names = value.field_names()
            if names and other.field_names() not in (None, names):
                other = renamed(other, names)
            node = value.node if value.sources() or not other.sources() else other.node
            items.append((name, Branches((value, other), IDENTITY, keeps_fields=True, node=node)))
        return Relation(items, rows)

    def _union_of_open(self, left: Relation, right: Relation, rows: Influences) -> Relation:
        """Both sides have holes: listed columns are paired by name, the rest stays a hole of both."""
        items: list[Item] = []
        named = {item[0].lower() for side in (left, right) for item in side.items if not isinstance(item, Hole)}
        done: set[str] = set()
        for item in left.items:
            if isinstance(item, Hole):
                items.append(Hole(Alternatives([left, right], {}), frozenset(named)))
            else:
                found = [value for side in (left, right) if (value := side.get(item[0].lower())) is not None]
                items.append((item[0], Mix(found, IDENTITY, keeps_fields=True)))
                done.add(item[0].lower())
        for item in right.items:
            if not isinstance(item, Hole) and item[0].lower() not in done:
                found = [value for side in (left, right) if (value := side.get(item[0].lower())) is not None]
                items.append((item[0], Mix(found, IDENTITY, keeps_fields=True)))
        return Relation(items, rows)

    # -- PIVOT, UNPIVOT

    def _pivot(self, pivot: exp.Expr, relation: Relation, outer: Scope) -> Relation:
        scope = Scope(outer, outer.ctes, outer.variables)
        scope.add(None, relation)
        rows = dict(relation.rows)
        field = pivot.args["fields"][0]
        if pivot.args.get("unpivot"):
            return self._unpivot(pivot, field, relation, scope, rows)
        own: Influences = {}
        add_steering(own, self.value(field.this, scope), "CONDITIONAL", field.this)
        used = {str(column.name).lower() for column in pivot.find_all(exp.Column)}
        items: list[Item] = []
        for item in relation.items:
            if isinstance(item, Hole):
                items.append(Hole(item.source, item.excluded | used))
            elif item[0].lower() not in used:
                items.append(item)
                add_steering(rows, item[1], "GROUP_BY", None)
        values = [(one.alias, self.value(one.unalias(), scope)) for one in pivot.expressions]
        for name in map(_pivot_name, field.expressions):
            for alias, value in values:
                items.append((f"{alias}_{name}" if alias else name, with_influences(value, own)))
        return Relation(items, rows)

    def _unpivot(
        self, pivot: exp.Expr, field: exp.Expr, relation: Relation, scope: Scope, rows: Influences
    ) -> Relation:
        names: list[str] = []
        for one in (expression.unnest() for expression in pivot.expressions):
            names += [str(inner.name) for inner in one.expressions] if isinstance(one, exp.Tuple) else [str(one.name)]
        groups: list[list[exp.Expr]] = []
        for one in field.expressions:
            inner = (one.this if isinstance(one, exp.PivotAlias) else one).unnest()
            groups.append(list(inner.expressions) if isinstance(inner, exp.Tuple) else [inner])
        used = {str(column.name).lower() for group in groups for column in group}
        items: list[Item] = []
        for item in relation.items:
            if isinstance(item, Hole):
                items.append(Hole(item.source, item.excluded | used))
            elif item[0].lower() not in used:
                items.append(item)
        for position, name in enumerate(names):
            parts = [self.value(group[position], scope) for group in groups if position < len(group)]
            value = Mix(parts, TRANSFORMATION, node=pivot)
            items.append((name, value))
            if not pivot.args.get("include_nulls"):
                add_steering(rows, value, "FILTER", pivot)
        items.append((str(field.this.name), Constant(field.this)))
        return Relation(items, rows)

    def tree(self, text: str) -> exp.Expr:
        """The tree of a statement, its pipe queries set apart (see `scripts`); raises SyntaxProblem."""
        raise NotImplementedError

    # -- routines

    def routine(self, parts: list[str]) -> Routine | None:
        """A function, table function or procedure of the script or of the catalog."""
        known = self.session.routines.get(".".join(parts).lower())
        if known is not None or (len(parts) == 1 and "." not in parts[0] and not self.session.catalog.routines):
            return known
        name = qualified(list(parts), self.session.project, self.session.default_dataset)
        if name is None:
            return None
        known = self.session.routines.get(name.lower())
        stored = self.session.catalog.routines.get(name)
        if known is None and stored is not None and stored.definition:
            known = self.read_routine(stored.definition)
            if known is not None:
                self.session.routines[name.lower()] = known
        return known

    def read_routine(self, text: str) -> Routine | None:
        """The routine that a CREATE statement defines (see `scripts`)."""
        raise NotImplementedError

    def _table_function(self, node: exp.Table, scope: Scope) -> Relation:
        call = node.this
        parts = [str(node.args[key].this) for key in ("catalog", "db") if node.args.get(key) is not None]
        if isinstance(call, exp.Anonymous):
            name = call.this
            parts.append(str(name.this) if isinstance(name, exp.Identifier) else str(name))
            routine = self.routine(parts)
            if routine is not None and isinstance(routine.body, exp.Query):
                key = ".".join(parts).lower()
                if key in self._calls:
                    self.note("recursion", key)
                    return Relation([])
                self._calls.append(key)
                try:
                    return self._routine_rows(routine, call, scope)
                finally:
                    self._calls.pop()
        else:
            parts.append(type(call).__name__.upper())
        return self._opaque(".".join(parts).upper(), call, scope)

    def _routine_rows(self, routine: Routine, call: exp.Anonymous, scope: Scope) -> Relation:
        inside = Scope(None, {}, {})
        for position, argument in enumerate(call.expressions):
            parameter = routine.parameters[position] if position < len(routine.parameters) else ""
            value = argument.expression if isinstance(argument, exp.Kwarg) else argument
            if isinstance(argument, exp.Kwarg):
                parameter = str(argument.this.name).lower()
            if isinstance(value, exp.Query):  # a table, or a scalar sub-query: the body says which
                inside.ctes[parameter] = self.query(value, scope)
            inside.variables[parameter] = self.value(value, scope)
        assert isinstance(routine.body, exp.Expr)
        return self.query(routine.body, inside)

    def _opaque(self, name: str, call: exp.Expr, scope: Scope) -> Relation:
        """A table function whose inside is not SQL: rows of its tables pass, what else it gives comes from all of its inputs."""
        inputs: list[Relation] = []
        parts: list[Value] = []
        for position, argument in enumerate(call.args.values()):
            for one in argument if isinstance(argument, list) else [argument]:
                if isinstance(one, exp.Anonymous) and str(one.this).upper() == "MODEL_OF" and one.expressions:
                    model = one.expressions[0].find(exp.Table)
                    parts += [] if model is None else [self._model(model)]
                elif isinstance(one, exp.Table) and position == 0 and call.key not in _OF_TABLES:
                    parts.append(self._model(one))
                elif isinstance(one, exp.Table):
                    inputs.append(self._from_only(one, scope))
                elif isinstance(one, exp.Query):
                    inputs.append(self.query(one, scope))
                elif isinstance(one, exp.Expr):
                    parts.append(self.value(one, scope))
        parts += [value for relation in inputs for _, value in relation.everything()]
        rows: Influences = {}
        for relation in inputs:
            add_influences(rows, relation.rows)
        function = name.rpartition(".")[2]
        passed = [item for relation in inputs for item in relation.items]
        if function in _ADDED and inputs:
            return Relation([*passed, *((one, Constant(exp.column(one))) for one in _ADDED[function])], rows)
        if call.key == "gapfill" and inputs:
            told = {str(one.this).lower() for one in call.find_all(exp.Literal) if one.is_string}
            kept = [(column, value) for column, value in inputs[0].everything() if column.lower() in told]
            return Relation([(column, Mix((value,), TRANSFORMATION, node=call)) for column, value in kept], rows)
        if function == "RANGE_SESSIONIZE" and inputs and len(call.expressions) > 1:
            ranges = inputs[0].get(call.expressions[1].name.lower()) or NOTHING
            return Relation([*passed, ("session_range", Mix((ranges,), TRANSFORMATION, node=call))], rows)
        mixed = Mix([part for part in parts if part is not NOTHING], TRANSFORMATION, node=call)
        if call.key == "vectorsearch" and len(inputs) == 2:
            return Relation(
                [("query", inputs[1].whole_row()), ("base", inputs[0].whole_row()), ("distance", mixed)], rows
            )
        if function == "EXTERNAL_QUERY" and len(call.expressions) > 1:
            external = self._external(*call.expressions[:2])
            if external is not None:
                return external
        if not name.startswith(("ML.", "AI.")):
            self.note("unknown_function", name)
            passed = []  # nobody knows which
        other: Value = Opaque(mixed) if mixed.parts else Gap("unknown_function", name)
        return Relation([*passed, Hole(other)], rows)

    def _model(self, node: exp.Table) -> Value:
        """A model stands for all that it was trained on."""
        parts = [str(node.args[key].this) for key in ("catalog", "db", "this") if node.args.get(key) is not None]
        return ColumnValue((self.table_name(parts), WHOLE_ROW), TRANSFORMATION, None)

    def _external(self, connection: exp.Expr, text: exp.Expr) -> Relation | None:
        """EXTERNAL_QUERY: the other database's query, whose tables are named `<connection>.<table>`."""
        if not isinstance(text, exp.Literal | exp.RawString) or not isinstance(connection, exp.Literal):
            return None
        for dialect in ("mysql", "postgres"):
            try:
                node = sqlglot.parse_one(str(text.this), dialect=dialect)
            except SqlglotError:
                continue
            if isinstance(node, exp.Query):
                for table in node.find_all(exp.Table):
                    if table.args.get("db") is not None and table.args.get("catalog") is None:
                        table.set("catalog", exp.to_identifier(str(connection.this)))
                inside = type(self)(Session(type(self.session.catalog)(), None, str(connection.this)))
                relation = inside.query(node, Scope(None, {}, {}))
                self.notes |= inside.notes
                return relation
        return None


def _computed(node: exp.Select, scope: Scope) -> dict[str, Value]:
    """Aliases of aggregates and windows that are names of columns as well: HAVING, QUALIFY and ORDER BY mean the alias."""
    return {
        key: scope.aliases[key]
        for item in node.expressions
        if isinstance(item, exp.Alias)
        and (key := item.alias.lower()) in scope.aliases
        and scope.local(key) is not None
        and item.this.find(exp.AggFunc, exp.Window) is not None
    }


def _pivot_name(value: exp.Expr) -> str:
    """Name of the column that a value of PIVOT makes."""
    if isinstance(value, exp.PivotAlias):
        return str(value.args["alias"].name)
    if isinstance(value, exp.Neg):
        return f"_minus{_pivot_name(value.this)}"
    if isinstance(value, exp.Literal):
        text = str(value.this)
        return text if value.is_string else "_" + text.replace(".", "_point_")
    if isinstance(value, exp.Cast):
        return "_" + str(value.this.name).replace("-", "_")
    if isinstance(value, exp.Tuple | exp.Struct):
        return "_".join(map(_pivot_name, value.expressions))
    return "NULL" if isinstance(value, exp.Null) else value.sql("bigquery")


def _names_of_union(left: list[str], right: list[str], operation: exp.Expr) -> list[str]:
    """Columns of UNION … BY NAME: the left side's, those of both (INNER), those that are listed (ON), else of either."""
    listed = [str(column.name) for column in operation.args.get("on") or ()]
    if listed:
        return listed
    ours, theirs = {name.lower() for name in left}, {name.lower() for name in right}
    if operation.args.get("kind") == "INNER":
        return [name for name in left if name.lower() in theirs]
    if operation.args.get("side") == "LEFT":
        return left
    return [*left, *(name for name in right if name.lower() not in ours)]


def _decorated(node: exp.Expr) -> bool:
    return any(node.args.get(key) is not None for key in ("with_", "order", "limit"))


def _with_names(relation: Relation, names: list[str]) -> Relation:
    """The relation with its columns named anew by position."""
    if not names:
        return relation
    items: list[Item] = []
    present = relation if relation.names() is not None else filled(relation, names)
    for position, (old, value) in enumerate(present.everything()):
        items.append((names[position] if position < len(names) else old, value))
    return Relation(items, relation.rows)


def filled(relation: Relation, names: list[str]) -> Relation:
    """The relation with its holes filled by the names that the result is known to have, in order.

    Exact for one hole, whatever stands before and after it; with several, listed columns in between are paired by name and the
    rest may come from any of the holes.
    """
    holes = [position for position, item in enumerate(relation.items) if isinstance(item, Hole)]
    if not holes:
        return relation
    before = relation.items[: holes[0]]
    after = relation.items[holes[-1] + 1 :]
    listed = {item[0].lower(): item for item in relation.items if not isinstance(item, Hole)}
    if len(before) + len(after) > len(names):
        return relation
    middle = names[len(before) : len(names) - len(after)]
    items: list[Item] = list(before)
    for name in middle:
        key = name.lower()
        if key in listed and len(holes) > 1:
            items.append((name, listed[key][1]))
            continue
        found = [
            member
            for hole in (relation.items[position] for position in holes)
            if isinstance(hole, Hole) and (member := hole.get(key)) is not None
        ]
        value: Value = Gap("star_over_unknown_schema", name)
        if found:
            value = Mix(found, INFERRED if len(found) == 1 else AMBIGUOUS, keeps_fields=True, node=found[0].node)
        items.append((name, value))
    items += after
    return Relation(items, relation.rows, relation.row)


def _shape(name: str, value: Value) -> Field:
    """The type of a column as far as its value tells."""
    if isinstance(value, ColumnValue) and value.shape is not None:
        return Field(name, value.shape.type, value.shape.mode, value.shape.fields)
    names = value.field_names()
    if names is None:
        return Field(name, UNKNOWN)
    if not names:
        return Field(name, ANY)
    return Field(name, "STRUCT", "NULLABLE", tuple(_shape(one, value.field(one.lower()) or NOTHING) for one in names))
