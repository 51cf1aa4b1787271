"""What a statement does to the columns of its target: SELECT, INSERT, UPDATE, MERGE, DELETE, CREATE, EXPORT, LOAD."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from sqlglot import exp

from .catalog import UNKNOWN, Field, Table
from .edges import WHOLE_ROW, Edge, EdgeType, Unresolved
from .expressions import Constant, Session, declared_shape
from .names import general_uri
from .parsing import MAX_EXPRESSION, parse, sql
from .queries import Queries, _shape, filled
from .relations import Hole, Item, Relation, Scope, TableRelation
from .rewriting import PATH
from .values import (
    CONFIDENCE,
    GAP,
    IDENTITY,
    MASKED,
    NOTHING,
    TOLD,
    ColumnValue,
    Influences,
    Mix,
    Value,
    add_influences,
    nodes_of,
    with_influences,
)

_SUBTYPES = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")
_ALTERED = re.compile(
    r"\s*(?:(?:(?:MATERIALIZED|EXTERNAL)\s+)?(?:TABLE|VIEW)|MODEL|FUNCTION|PROCEDURE|SNAPSHOT\s+TABLE)\s+(?!.*\bRENAME\s+TO\b)",
    re.IGNORECASE | re.DOTALL,
)
_RENAMED = re.compile(rf"\s*TABLE\s+(?:IF\s+EXISTS\s+)?({PATH})\s+(RENAME\s+COLUMN\b.*)", re.IGNORECASE | re.DOTALL)
_RENAMING = re.compile(r"\bRENAME\s+COLUMN\s+(?:IF\s+EXISTS\s+)?(`[^`]+`|\w+)\s+TO\s+(`[^`]+`|\w+)", re.IGNORECASE)
Assignment = tuple[str, Value]


class Statements(Queries):
    """Statements to edges."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.edges: dict[tuple[str | None, str | None, str | None, str, str, str], Edge] = {}
        self.unresolved: dict[Unresolved, None] = {}
        self.steering: Influences = {}
        """What decides whether the present statement of a script runs at all."""
        self._texts: dict[int, tuple[exp.Expr, str]] = {}

    def root(self) -> Scope:
        """The scope around a statement."""
        return Scope(None, {}, self.session.variables)

    def statement(self, node: exp.Expr) -> Relation | None:
        """Take the edges of a statement; a query's rows are given back instead, for the caller knows where they go."""
        if isinstance(node, exp.Query):
            return self.query(node, self.root(), ordered=True)
        handler = _HANDLERS.get(type(node))
        if handler is not None:
            handler(self, node)
        elif not isinstance(node, _WITHOUT_DATA):
            self.note("unsupported", f"{node.key.upper()} {sql(node)[:100]}")
        return None

    # -- writing

    def target(self, table: exp.Expr) -> str:
        """Full name of the table that a statement writes."""
        parts = [str(table.args[key].this) for key in ("catalog", "db") if table.args.get(key) is not None]
        parts.append(str(table.this.this) if isinstance(table.this, exp.Identifier) else str(table.this.name))
        return self.session.temporary_name(parts) or self.table_name(parts)

    def columns_of(self, target: str) -> list[str] | None:
        """Names of a target's columns, None when they are not known."""
        temporary = self.session.temporary.get(target.lower())
        if temporary is not None:
            return temporary.names()
        relation = self.table(target)
        return relation.names()

    def write(
        self, target: str | None, assignments: Iterable[Assignment], rows: Influences, *, defines: bool = False
    ) -> None:
        """Columns of `target` get these values; `rows` decide about whole rows. A temporary table keeps them instead.

        `defines`: the statement makes the table, so its columns are what the statement says, whatever was known.
        """
        if target is not None and target.lower() in self.session.temporary:
            self._write_temporary(target.lower(), assignments, rows)
            return
        # What the script itself has made has no stated types; what it has only changed keeps them.
        table = self.session.catalog.get(target) if target is not None and not defines else None
        shapes = (self.created.get(target or "") or table).columns if table is not None else None
        for name, value in assignments:
            if shapes is None:
                self._column_edges(target, name, value)
                continue
            path, shape = _stated_path(name, shapes)
            if path is None:
                self._unresolved(target, name, "not_in_target", f"the schema of {target} has no {name}")
            else:
                self._column_edges(target, path, value, shape)
        for (source, path, subtype), (code, node) in (rows | self.steering).items():
            if subtype == GAP:
                self._unresolved(target, None, source, path)
            else:
                self._edge(source, path, target, WHOLE_ROW, type_="INDIRECT", subtype=subtype, code=code, node=node)

    def write_relation(
        self, target: str | None, relation: Relation, names: list[str] | None = None, *, defines: bool = False
    ) -> None:
        """A query's rows go to `target`, by position when `names` are given, else under their own names."""
        known = names
        if (
            known is None
            and target is not None
            and relation.names() is None
            and target.lower() not in self.session.temporary
        ):
            table = self.session.catalog.get(target)
            if table is not None and table.columns is not None:
                known = [column.name for column in table.columns.values()]
        relation = filled(relation, known) if known else relation
        if any(isinstance(item, Hole) and not self._nobodys(item.source) for item in relation.items):
            self._unresolved(target, None, "star_over_unknown_schema", "the columns of * are not known")
        items = relation.everything()
        if names is not None:
            if len(names) != len(items) and relation.names() is not None:
                self._unresolved(target, None, "column_count", f"{len(items)} columns for {len(names)}")
            items = [(name, value) for name, (_, value) in zip(names, items, strict=False)]
        self.write(target, items, relation.rows, defines=defines)

    def _nobodys(self, source: object) -> bool:
        return isinstance(source, TableRelation) and source.name in self.without_dataset

    def _write_temporary(self, target: str, assignments: Iterable[Assignment], rows: Influences) -> None:
        table = self.session.temporary[target]
        new = {name.lower(): value for name, value in assignments}
        items: list[Item] = []
        for item in table.items:
            if isinstance(item, Hole):
                items.append(item)
                continue
            value = new.pop(item[0].lower(), None)
            if value is None:
                items.append(item)
            elif item[1] is NOTHING or isinstance(item[1], Constant):
                items.append((item[0], value))
            else:
                items.append((item[0], Mix((item[1], value), IDENTITY, keeps_fields=True, node=value.node)))
        merged = dict(table.rows)
        add_influences(merged, rows)
        add_influences(merged, self.steering)
        self.session.temporary[target] = Relation(items, merged)

    def _column_edges(self, target: str | None, path: str, value: Value, shape: Field | None = None) -> None:
        fields = value.exploded()
        if fields and (shape is None or shape.type == UNKNOWN):
            for name, child in fields:
                self._column_edges(target, path if name == "*" else f"{path}.{name}", child)
            return
        if fields and shape is not None and len(fields) == len(shape.fields):
            # A STRUCT is written by position where its own names are not the column's.
            own = {name.lower(): child for name, child in fields}
            named = all(inner.name.lower() in own for inner in shape.fields)
            for inner, (_, child) in zip(shape.fields, fields, strict=True):
                member = own[inner.name.lower()] if named else child
                self._column_edges(target, f"{path}.{inner.name}", member, inner)
            return
        sources = value.sources()
        influences = value.influences()
        if not sources and not influences:
            self._edge(None, None, target, path, type_="DIRECT", subtype="CONSTANT", code=0, node=value.node)
            return
        nodes = nodes_of(value)
        for (table, column), code in sources.items():
            for node in nodes.get((table, column)) or [value.node]:
                self._edge(
                    table,
                    column,
                    target,
                    path,
                    type_="DIRECT",
                    subtype=_SUBTYPES[code & 3],
                    code=code,
                    node=node,
                    text=column,
                )
        for (table, column, subtype), (code, node) in influences.items():
            if subtype == GAP:
                self._unresolved(target, path, table, column)
            else:
                self._edge(table, column, target, path, type_="INDIRECT", subtype=subtype, code=code, node=node)

    def _edge(
        self,
        source: str | None,
        column: str | None,
        target: str | None,
        path: str,
        *,
        type_: EdgeType,
        subtype: str,
        code: int,
        node: exp.Expr | None,
        text: str = "",
    ) -> None:
        if source in self.without_dataset or target in self.without_dataset:
            return  # nobody's table: the note tells of it
        key = (source, column, target, path, type_, subtype)
        known = self.edges.get(key)
        confidence = CONFIDENCE[code & 24]
        masking = bool(code & MASKED)
        expression = ""
        if known is not None:
            if type_ == "INDIRECT" or subtype == "IDENTITY":
                if known.confidence >= confidence:
                    return
            else:  # another clause or statement of a script: all its expressions are told, it masks when all do
                expression, confidence = known.expression, max(confidence, known.confidence)
                masking = masking and known.masking
        own = self._text(node) if node is not None else text
        if not expression:
            expression = own
        elif own not in expression.split(", ") and own != expression:
            expression = f"{expression}, {own}"[:MAX_EXPRESSION]
        self.edges[key] = Edge(
            source,
            column,
            target,
            path,
            type_,
            subtype,
            masking,
            expression,
            confidence,
        )

    def _text(self, node: exp.Expr) -> str:
        known = self._texts.get(id(node))
        if known is None:
            known = self._texts[id(node)] = (node, sql(node, keep=self.resolved_again))
        return known[1]

    def _unresolved(self, target: str | None, path: str | None, reason: str, detail: str) -> None:
        if target not in self.without_dataset:
            self.unresolved.setdefault(Unresolved(target, path, reason, detail))

    # -- statements

    def _insert(self, node: exp.Expr) -> None:
        into = node.this
        table = into.this if isinstance(into, exp.Schema) else into
        target = self.target(table)
        names = [str(one.name) for one in into.expressions] if isinstance(into, exp.Schema) else self.columns_of(target)
        query = node.args.get("source") or node.args.get("expression")
        scope = self._with(node, self.root())
        if query is None:
            return
        relation = self.query(query, scope)
        self.write_relation(target, relation, names)

    def _target_scope(self, table: exp.Expr, target: str, outer: Scope | None = None) -> Scope:
        scope = outer or self.root()
        relation = self.session.temporary.get(target) or self.table(target)
        alias = table.args.get("alias")
        scope.add(str(alias.name) if alias is not None else str(table.name).rpartition(".")[2], relation)
        if isinstance(relation, TableRelation):
            for start in range(3):
                scope.paths[".".join(target.split(".")[start:]).lower()] = relation
        return scope

    def _assignments(self, node: exp.Expr, table: exp.Expr, scope: Scope, own: Influences) -> list[Assignment]:
        """`SET a = …, b.c = …`"""
        alias = table.args.get("alias")
        prefixes = {str(alias.name if alias is not None else table.name).lower()}
        result: list[Assignment] = []
        for one in node.expressions:
            if not isinstance(one, exp.EQ):
                continue
            left = one.this
            parts = [
                str(left.args[key].this) for key in ("catalog", "db", "table", "this") if left.args.get(key) is not None
            ]
            if isinstance(left, exp.Dot):
                parts = [str(identifier.name) for identifier in left.find_all(exp.Identifier)]
            if len(parts) > 1 and parts[0].lower() in prefixes:
                column = scope.relations[0].certain(parts[0].lower())
                if column is None or column.field(parts[1].lower()) is None:
                    parts = parts[1:]
            right = one.expression
            default = isinstance(right, exp.Column) and not right.this.args.get("quoted") and len(right.parts) == 1
            default = default and right.name.upper() == "DEFAULT"
            value = NOTHING if default else self.value(right, scope)
            if value is NOTHING:
                value = Constant(right)
            result.append((".".join(parts), with_influences(value, own)))
        return result

    def _update(self, node: exp.Expr) -> None:
        table = node.this
        target = self.target(table)
        scope = self._target_scope(table, target, self._own_scope(node))
        source = node.args.get("from_")
        if source is not None:
            self._source(source.this, scope)
            for join in source.args.get("joins") or ():
                self._join(join, scope)
        own: Influences = dict(scope.rows)
        if node.args.get("where") is not None:
            self.steer(own, node.args["where"].this, scope, "FILTER")
        self.write(target, self._assignments(node, table, scope, own), {})

    def _own_scope(self, node: exp.Expr) -> Scope:
        base = self._with(node, self.root())
        return Scope(base, base.ctes, base.variables)

    def _delete(self, node: exp.Expr) -> None:
        tables = node.args.get("tables")
        table = tables[0] if tables else node.this
        target = self.target(table)
        scope = self._target_scope(table, target, self._own_scope(node))
        rows: Influences = {}
        if node.args.get("where") is not None:
            self.steer(rows, node.args["where"].this, scope, "FILTER")
        self.write(target, (), rows)

    def _merge(self, node: exp.Expr) -> None:
        table = node.this
        target = self.target(table)
        both = self._target_scope(table, target, self._own_scope(node))
        source = Scope(both.parent, both.ctes, both.variables)
        self._source(node.args["using"], source)
        self._source(node.args["using"], both)
        rows: Influences = dict(source.rows)
        self.steer(rows, node.args["on"], both, "JOIN")
        for when in node.args["whens"].expressions:
            condition = when.args.get("condition")
            own: Influences = {}
            if condition is not None:
                self.steer(own, condition, both, "FILTER")
            then = when.args["then"]
            if isinstance(then, exp.Update):
                self.write(target, self._assignments(then, table, both, own), {})
            elif isinstance(then, exp.Insert):
                add_influences(rows, own)
                self._merge_insert(target, then, source)
            else:
                add_influences(rows, own)
        self.write(target, (), rows)

    def _merge_insert(self, target: str, node: exp.Insert, source: Scope) -> None:
        into, values = node.this, node.args.get("expression")
        names: list[str] | None
        if isinstance(into, exp.Var):  # INSERT ROW: all columns of the source, by position
            self.write_relation(target, Relation(source.star(), {}), self.columns_of(target))
            return
        if not values and isinstance(into, exp.Tuple) and len(into.expressions) == 1:  # INSERT VALUES (…)
            call = into.expressions[0]
            names, values = self.columns_of(target), exp.Tuple(expressions=call.expressions)
        else:
            names = [str(one.name) for one in into.expressions] if into is not None else self.columns_of(target)
        if not isinstance(values, exp.Expr):
            return
        given = values.expressions if isinstance(values, exp.Tuple) else [values]
        assignments: list[Assignment] = []
        for position, one in enumerate(given):
            value = self.value(one, source)
            if names is not None and position >= len(names):
                self._unresolved(target, None, "column_count", f"{len(given)} values for {len(names)}")
                break
            name = names[position] if names is not None else one.name or f"f{position}_"
            assignments.append((name, Constant(one) if value is NOTHING else value))
        self.write(target, assignments, {})

    def _create(self, node: exp.Expr) -> None:
        kind = str(node.args.get("kind") or "").upper()
        if kind == "FUNCTION":
            self.define_function(node)
            return
        if kind not in ("TABLE", "VIEW", "MODEL"):
            return
        into = node.this
        table = into.this if isinstance(into, exp.Schema) else into
        *head, own_name = ".".join(part.name for part in table.parts).split(".")
        properties = node.args.get("properties")
        kinds = {type(one) for one in properties.expressions} if properties is not None else set()
        temporary = exp.TemporaryProperty in kinds or [part.lower() for part in head] == ["_session"]
        names: list[str] | None = None
        if isinstance(into, exp.Schema):
            names = [str(one.name) for one in into.expressions if isinstance(one, exp.ColumnDef | exp.Identifier)]
        relation: Relation | None = None
        like: list[str] | None = None
        if isinstance(node.args.get("expression"), exp.Query):
            relation = self.query(node.args["expression"], self.root())
        elif node.args.get("clone") is not None:
            relation = self._from_only(node.args["clone"].this, self.root())
        elif properties is not None:
            for one in properties.expressions:
                if isinstance(one, exp.LikeProperty):
                    like = self._from_only(one.this, self.root()).names()
        if temporary or (not head and own_name.lower() in self.session.temporary):
            self._create_temporary(own_name.lower(), relation, names or like)
            return
        target = self.target(table)
        if relation is None and exp.ExternalProperty in kinds and names:
            relation = Relation(_read_from(_files(properties), names))
        if relation is None:
            self._remember(target, [(name, NOTHING) for name in names or like or []])
            return
        self.write_relation(target, relation, names, defines=True)
        if relation.names() is not None and kind != "MODEL":
            pairs = relation.everything()
            self._remember(
                target, [(names[at] if names and at < len(names) else name, v) for at, (name, v) in enumerate(pairs)]
            )

    def _remember(self, target: str, columns: list[Assignment]) -> None:
        """A table that the script makes is known to its later statements."""
        if columns and target not in self.session.catalog.tables:
            fields = [_shape(name, value) for name, value in columns]
            self.created[target] = Table(target, "TABLE", {one.name.lower(): one for one in fields})

    @property
    def created(self) -> dict[str, Table]:
        """Tables that the script made so far."""
        return self.session.created

    def _create_temporary(self, name: str, relation: Relation | None, names: list[str] | None) -> None:
        if relation is None:
            items: list[Item] = [(column, NOTHING) for column in names or ()]
            self.session.temporary[name] = Relation(items)
            return
        rows = dict(relation.rows)
        add_influences(rows, self.steering)
        if names:
            relation = filled(relation, names)
            items = [(column, value) for column, (_, value) in zip(names, relation.everything(), strict=False)]
        else:
            items = relation.items
        self.session.temporary[name] = Relation(items, rows)

    def define_function(self, node: exp.Expr) -> None:
        """CREATE FUNCTION / TABLE FUNCTION (see `scripts`)."""
        raise NotImplementedError

    def _export(self, node: exp.Expr) -> None:
        options = node.args.get("options")
        target = general_uri(next(iter(_option(options, "uri")), "export"))
        self.write_relation(target, self.query(node.this, self.root(), ordered=True))

    def _load(self, node: exp.Expr) -> None:
        into = node.this
        table = into.this if isinstance(into, exp.Schema) else into
        files = _files(node.args.get("files"))
        names = [str(one.name) for one in into.expressions] if isinstance(into, exp.Schema) else None
        if node.args.get("temp"):
            self._create_temporary(str(table.name).lower(), Relation(_read_from(files, names or [WHOLE_ROW])), None)
            return
        target = self.target(table)
        names = names or self.columns_of(target) or [WHOLE_ROW]
        self.write(target, Relation(_read_from(files, names)).everything(), {})

    def _alter(self, node: exp.Expr) -> None:
        if node.args.get("kind") != "TABLE":
            return
        target = self.target(node.this)
        for action in node.args.get("actions") or ():
            if isinstance(action, exp.AlterRename):
                name = str(action.this.name)
                if target in self.session.temporary:
                    self.session.temporary[name.lower()] = self.session.temporary.pop(target)
                    continue
                relation = Relation(self.table(target).items)
                target = f"{target.rpartition('.')[0]}.{name}"
                self.write_relation(target, relation)
                if relation.names() is not None:
                    self._remember(target, relation.everything())
            elif isinstance(action, exp.RenameColumn):
                before, after = str(action.this.name), str(action.args["to"].name)
                if target not in self.session.temporary:
                    value = self.table(target).get(before.lower()) or ColumnValue((target, before), IDENTITY, None)
                    self.write(target, [(after, value)], {}, defines=True)
                self._change_columns(target, {before.lower(): after})
            elif isinstance(action, exp.ColumnDef):
                self._change_columns(target, {}, added=action)
            elif isinstance(action, exp.Drop) and action.args.get("kind") == "COLUMN":
                self._change_columns(target, {str(one.name).lower(): None for one in action.args.get("tables") or ()})

    def _change_columns(
        self, target: str, renamed: Mapping[str, str | None], added: exp.ColumnDef | None = None
    ) -> None:
        """The columns of a table have these names from now on (None: it is gone), and one more."""
        temporary = self.session.temporary.get(target)
        if temporary is not None:
            items: list[Item] = []
            for item in temporary.items:
                name = None if isinstance(item, Hole) else renamed.get(item[0].lower(), item[0])
                if isinstance(item, Hole):
                    items.append(item)
                elif name is not None:
                    items.append((name, item[1]))
            if added is not None and added.name.lower() not in {one.lower() for one in temporary.names() or ()}:
                items.append((added.name, NOTHING))
            self.session.temporary[target] = Relation(items, temporary.rows)
            return
        table = self.stored(target)
        if table is None or table.columns is None:
            return
        columns = [
            Field(name, field.type, field.mode, field.fields)
            for key, field in table.columns.items()
            if (name := renamed.get(key, field.name)) is not None
        ]
        if added is not None and added.name.lower() not in table.columns:
            columns.append(declared_shape(added.name, added.args.get("kind")) or Field(added.name, UNKNOWN))
        self.created[target] = replace(table, columns={field.name.lower(): field for field in columns})

    def _command(self, node: exp.Expr) -> None:
        """What the parser keeps as text. An ALTER among these changes options or a definition: no data moves."""
        renamed = _RENAMED.match(str(node.expression))
        if str(node.this).upper() == "ALTER" and renamed is not None:
            for column, name in _RENAMING.findall(renamed[2]):
                self._alter(parse(f"ALTER TABLE {renamed[1]} RENAME COLUMN {column} TO {name}"))
        elif str(node.this).upper() != "ALTER" or not _ALTERED.match(str(node.expression)):
            self.note("unsupported", f"COMMAND {sql(node)[:100]}")

    def _drop(self, node: exp.Expr) -> None:
        for table in node.args.get("tables") or [node.this]:
            if isinstance(table, exp.Table):
                temporary = self.session.temporary_name([part.name for part in table.parts])
                self.session.temporary.pop(temporary or "", None)


def _files(options: exp.Expr | None) -> list[str]:
    """The files that a table is read from, each folder of all days once."""
    return list(dict.fromkeys(map(general_uri, _option(options, "uris")))) or ["files"]


def _read_from(files: list[str], names: Iterable[str]) -> list[Item]:
    """Columns of a table that is read from files."""
    return [(name, Mix([ColumnValue((file, name), TOLD, None) for file in files], IDENTITY)) for name in names]


def _stated_path(name: str, columns: Mapping[str, Field]) -> tuple[str | None, Field | None]:
    """The column path as the schema writes it, with its type; None when the schema does not have it."""
    first, *rest = name.split(".")
    field = columns.get(first.lower())
    if field is None:
        return (name, None) if name == WHOLE_ROW else (None, None)
    path = field.name
    for part in rest:
        inner = field.child(part)
        if inner is None:
            return (name, None) if field.type == UNKNOWN else (None, None)
        path, field = f"{path}.{inner.name}", inner
    return path, field


def _option(properties: exp.Expr | None, name: str) -> list[str]:
    """The texts of an option."""
    for one in properties.expressions if properties is not None else ():
        if type(one) is exp.Property and str(one.this.name).lower() == name:
            value = one.args["value"]
            return [str(each.name) for each in (value.expressions if isinstance(value, exp.Array) else [value])]
    return []


_HANDLERS: dict[type[exp.Expr], Callable[[Statements, exp.Expr], None]] = {
    exp.Insert: Statements._insert,
    exp.Update: Statements._update,
    exp.Delete: Statements._delete,
    exp.Merge: Statements._merge,
    exp.Create: Statements._create,
    exp.Export: Statements._export,
    exp.LoadData: Statements._load,
    exp.Alter: Statements._alter,
    exp.Command: Statements._command,
    exp.Drop: Statements._drop,
}
_WITHOUT_DATA = (
    exp.Semicolon,
    exp.EndStatement,
    exp.Transaction,
    exp.Commit,
    exp.Rollback,
    exp.TruncateTable,
    exp.Grant,
    exp.Revoke,
    exp.Use,
    exp.Describe,
)
