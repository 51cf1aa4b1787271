"""What an expression is made of: one walk over its syntax tree gives a `Value`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlglot import exp

from .catalog import ANY, Field
from .functions import (
    AGGREGATE_NAMES,
    KEEPING,
    MASKING,
    MASKING_NAMES,
    NAVIGATION,
    NO_VALUE,
    PACKAGES_THAT_MASK,
    PICKING,
    TRANSPARENT,
)
from .names import qualified
from .relations import Hole, Item, Relation, Scope
from .values import (
    AGGREGATION,
    IDENTITY,
    MASKED,
    NOTHING,
    TRANSFORMATION,
    ColumnValue,
    Gap,
    Influences,
    Mix,
    Opaque,
    RowValue,
    Shaped,
    Value,
    add_influences,
    add_steering,
)

if TYPE_CHECKING:
    from .catalog import Catalog, Table

Handler = Callable[["Expressions", exp.Expr, Scope], Value]


class Constant(Value):
    """A literal whose text is kept."""

    __slots__ = ("node",)

    def __init__(self, node: exp.Expr) -> None:
        self.node = node


@dataclass
class Routine:
    """A function, table function or procedure: `body` is an expression, a query, or the text of a script; None: not SQL."""

    parameters: list[str]
    body: exp.Expr | str | None
    outputs: frozenset[str] = frozenset()
    """Parameters of a procedure that are OUT or INOUT."""
    types: tuple[Field | None, ...] = ()
    """Declared types of the parameters that are STRUCTs or arrays of them."""
    returns: Field | None = None
    """Declared type of the result, when it is a STRUCT or an array of them."""


@dataclass
class Session:
    """What a statement is resolved in; a script changes it as it goes."""

    catalog: Catalog
    project: str | None = None
    default_dataset: str | None = None
    through_views: bool = False
    temporary: dict[str, Relation] = field(default_factory=dict)
    routines: dict[str, Routine] = field(default_factory=dict)
    variables: dict[str, Value] = field(default_factory=dict)
    created: dict[str, Table] = field(default_factory=dict)
    """Tables that the script itself makes."""
    expanded: dict[str, Relation | None] = field(default_factory=dict)
    """Views that were resolved to their base tables."""
    pipes: dict[str, object] = field(default_factory=dict)
    """Pipe queries by the name that stands for them in the text around (see `pipes`)."""

    def temporary_name(self, parts: list[str]) -> str | None:
        """The key of the temporary table that a path names, `tmp` or `_SESSION.tmp`; None when it is none's."""
        *head, key = ".".join(parts).lower().split(".")
        return key if key in self.temporary and head in ([], ["_session"]) else None


def children(node: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes right below, in order."""
    for argument in node.args.values():
        if isinstance(argument, list):
            for one in argument:
                if isinstance(one, exp.Expr):
                    yield one
        elif isinstance(argument, exp.Expr):
            yield argument


def output_name(node: exp.Expr, anonymous: Callable[[], str]) -> str:
    """Name of a select item or STRUCT field."""
    if isinstance(node, exp.Alias | exp.PropertyEQ):
        return str(node.args["alias"].name if isinstance(node, exp.Alias) else node.this.name)
    if isinstance(node, exp.Column):
        return str(node.name)
    if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Identifier):
        return str(node.expression.name)
    if isinstance(node, exp.Paren):
        return output_name(node.this, anonymous)
    return anonymous()


class Expressions:
    """Expressions to values. `query` and `read_routine` come from the classes built on this one."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.notes: dict[tuple[str, str], None] = {}
        self.without_dataset: set[str] = set()
        """Tables whose dataset cannot be told."""
        self._calls: list[str] = []
        self.resolved_again = True
        """Whether trees may be resolved more than once: bodies of routines and loops are."""

    def query(self, node: exp.Expr, outer: Scope, *, ordered: bool = False) -> Relation:
        """The rows of a query (see `queries`)."""
        raise NotImplementedError

    def routine(self, parts: list[str]) -> Routine | None:
        """The definition of a routine by its path (see `queries`)."""
        raise NotImplementedError

    def note(self, reason: str, detail: str) -> None:
        """Something unresolved that concerns the statement, not one column."""
        self.notes.setdefault((reason, detail))

    # -- names

    def find(self, parts: list[str], scope: Scope) -> Value:
        """The value of a dotted path."""
        at: Scope | None = scope
        while at is not None:
            value = self._find_in(parts, at)
            if value is not None:
                return value
            at = at.parent
        first = parts[0].lower()
        if first in scope.variables:
            return self._walk(scope.variables[first], parts, 1)
        names = [relation.name for relation in scope.relations if hasattr(relation, "name")]
        return Gap("unknown_column", ".".join(parts) + (f" in {', '.join(names)}" if names else ""))

    def _find_in(self, parts: list[str], scope: Scope) -> Value | None:
        first = parts[0].lower()
        if first in scope.preferred:
            return self._walk(scope.preferred[first], parts, 1)
        found = scope.ranges.get(first)
        if found is not None:
            if isinstance(found, Value):
                return self._walk(found, parts, 1)
            if len(parts) == 1:
                return found.whole_row()
            value = found.get(parts[1].lower())
            if value is not None:
                return self._walk(value, parts, 2)
            if scope.local(first) is None:
                return Gap("unknown_column", ".".join(parts) + f" in {getattr(found, 'name', parts[0])}")
        value = scope.local(first)
        if value is not None:
            value = self._walk(value, parts, 1)
            if not isinstance(value, Gap) or len(parts) < 3:
                return value
        for length in range(2, min(len(parts), 4)):
            relation = scope.paths.get(".".join(parts[:length]).lower())
            member = relation.get(parts[length].lower()) if relation is not None else None
            if member is not None:
                return self._walk(member, parts, length + 1)
        if value is not None:
            return value
        if first in scope.aliases:
            return self._walk(scope.aliases[first], parts, 1)
        for hole in scope.alias_holes:
            value = hole.get(first)
            if value is not None and scope.local_guess(first) is None:
                return self._walk(value, parts, 1)
        if first in scope.variables:
            return self._walk(scope.variables[first], parts, 1)
        if len(parts) > 1 and scope.is_named_outside(first):
            return (
                None  # `t.a` is the outer table's column sooner than a field of a column that an unknown table may have
            )
        value = scope.local_guess(first)
        return None if value is None else self._walk(value, parts, 1)

    def _walk(self, value: Value, parts: list[str], start: int) -> Value:
        for part in parts[start:]:
            child = value.field(part.lower())
            if child is None:
                return Gap("unknown_field", ".".join(parts))
            value = child
        return value

    # -- expressions

    def value(self, node: exp.Expr, scope: Scope) -> Value:
        """What `node` is made of."""
        kind = node.__class__
        handler = HANDLERS.get(kind)
        if handler is None:
            handler = HANDLERS[kind] = _handler(kind)
        return handler(self, node, scope)

    def steer(self, into: Influences, node: exp.Expr, scope: Scope, subtype: str) -> None:
        """All that a condition or key depends on, conjunct by conjunct, becomes an influence of this subtype."""
        pending = [node]
        while pending:
            one = pending.pop()
            while isinstance(one, exp.Paren) and isinstance(one.this, exp.And | exp.Paren):
                one = one.this
            if isinstance(one, exp.And):
                pending += (one.expression, one.this)
            else:
                add_steering(into, self.value(one, scope), subtype, one)

    def _nothing(self, node: exp.Expr, scope: Scope) -> Value:  # noqa: ARG002
        return NOTHING

    def _operation(self, node: exp.Expr, scope: Scope) -> Value:
        kind = node.__class__
        by = (IDENTITY if kind in TRANSPARENT else TRANSFORMATION) | (MASKED if kind in MASKING else 0)
        parts = [value for child in children(node) if (value := self.value(child, scope)) is not NOTHING]
        if kind is exp.Paren and len(parts) == 1:
            return parts[0]
        return Mix(parts, by, keeps_fields=kind in KEEPING, node=node)

    def _binary(self, node: exp.Expr, scope: Scope) -> Value:
        """Operators; a chain of a thousand ORs is one mix, not a thousand nested ones."""
        parts = []
        pending = [node]
        while pending:
            one = pending.pop()
            kind = one.__class__
            handler = HANDLERS.get(kind)
            if handler is None:
                handler = HANDLERS[kind] = _handler(kind)
            if handler is _BINARY:
                pending += (child for child in (one.args.get("expression"), one.this) if isinstance(child, exp.Expr))
            else:
                value = handler(self, one, scope)
                if value is not NOTHING:
                    parts.append(value)
        return Mix(parts, TRANSFORMATION, node=node)

    def _column(self, node: exp.Expr, scope: Scope) -> Value:
        args = node.args
        this = args["this"]
        if isinstance(this, exp.Star):
            return NOTHING
        parts = [str(args[key].this) for key in ("catalog", "db", "table") if args.get(key) is not None]
        parts.append(str(this.this))
        value = self.find(parts, scope)
        if isinstance(value, Mix) and value.node is None:
            return Mix((value,), IDENTITY, keeps_fields=value.keeps_fields, node=node)
        return value

    def _dot(self, node: exp.Expr, scope: Scope) -> Value:
        assert isinstance(node, exp.Dot)
        member = node.expression
        if isinstance(member, exp.Func):
            return self._call(node, scope)
        value = self.value(node.this, scope)
        if isinstance(member, exp.Star):
            return value
        child = value.field(str(member.name).lower())
        if child is None:
            return Gap("unknown_field", node.sql("bigquery"))
        return Mix((child,), IDENTITY, keeps_fields=True, node=node) if isinstance(child, Mix) else child

    def _bracket(self, node: exp.Expr, scope: Scope) -> Value:
        assert isinstance(node, exp.Bracket)
        value = self.value(node.this, scope)
        own: Influences = {}
        path = False
        for index in node.expressions:
            if isinstance(index, exp.Literal):
                path = path or bool(index.is_string)
            else:
                add_steering(own, self.value(index, scope), "CONDITIONAL", index)
        path = path or (isinstance(value, ColumnValue) and value.shape is not None and value.shape.type == "JSON")
        return Mix((value,), TRANSFORMATION if path else IDENTITY, keeps_fields=not path, own=own, node=node)

    def _case(self, node: exp.Expr, scope: Scope) -> Value:
        own: Influences = {}
        parts = []
        branches = node.args.get("ifs") or [node]
        if node.args.get("ifs") and node.this is not None:
            add_steering(own, self.value(node.this, scope), "CONDITIONAL", node.this)
        for branch in branches:
            self.steer(own, branch.this, scope, "CONDITIONAL")
            parts.append(self.value(branch.args["true"], scope))
        default = node.args.get("default") or node.args.get("false")
        if default is not None:
            parts.append(self.value(default, scope))
        return Mix(parts, TRANSFORMATION, keeps_fields=True, own=own, node=node)

    def _nullif(self, node: exp.Expr, scope: Scope) -> Value:
        own: Influences = {}
        add_steering(own, self.value(node.expression, scope), "CONDITIONAL", node.expression)
        return Mix((self.value(node.this, scope),), TRANSFORMATION, own=own, node=node)

    def _aggregate(self, node: exp.Expr, scope: Scope) -> Value:
        kind = node.__class__
        by = (TRANSFORMATION if kind in NAVIGATION else AGGREGATION) | (MASKED if kind in MASKING else 0)
        own: Influences = {}
        preferred, scope.preferred = scope.preferred, {}
        if kind in (exp.ArgMax, exp.ArgMin):
            add_steering(own, self.value(node.expression, scope), "SORT", node.expression)
            parts = [self.value(node.this, scope)]
        else:
            parts = [value for child in children(node) if (value := self.value(child, scope)) is not NOTHING]
        scope.preferred = preferred
        return Mix(parts, by, keeps_fields=kind in PICKING, own=own, node=node)

    def _order(self, node: exp.Expr, scope: Scope) -> Value:
        """ORDER BY inside an aggregate."""
        own: Influences = {}
        for key in node.expressions:
            add_steering(own, self.value(key.this, scope), "SORT", key.this)
        value = self.value(node.this, scope) if node.this is not None else NOTHING
        return Mix((value,), IDENTITY, keeps_fields=True, own=own, node=node)

    def _limit(self, node: exp.Expr, scope: Scope) -> Value:
        return self.value(node.this, scope) if node.this is not None else NOTHING

    def _having_max(self, node: exp.Expr, scope: Scope) -> Value:
        own: Influences = {}
        add_steering(own, self.value(node.expression, scope), "SORT", node.expression)
        return Mix((self.value(node.this, scope),), IDENTITY, keeps_fields=True, own=own, node=node)

    def _filter(self, node: exp.Expr, scope: Scope) -> Value:
        own: Influences = {}
        self.steer(own, node.expression.this, scope, "FILTER")
        return Mix((self.value(node.this, scope),), IDENTITY, keeps_fields=True, own=own, node=node)

    def _window(self, node: exp.Expr, scope: Scope) -> Value:
        own: Influences = {}
        self._window_keys(own, node, scope)
        return Mix((self.value(node.this, scope),), IDENTITY, keeps_fields=True, own=own, node=node)

    def _window_keys(self, own: Influences, node: exp.Expr, scope: Scope) -> None:
        for key in node.args.get("partition_by") or ():
            add_steering(own, self.value(key, scope), "WINDOW", key)
        order = node.args.get("order")
        for key in order.expressions if order is not None else ():
            add_steering(own, self.value(key.this, scope), "WINDOW", key.this)
        named = node.args.get("alias")
        if named is not None:
            window = scope.windows.get(str(named.name).lower())
            if isinstance(window, exp.Window) and window is not node:
                self._window_keys(own, window, scope)

    def _in(self, node: exp.Expr, scope: Scope) -> Value:
        own: Influences = {}
        parts = [self.value(node.this, scope)]
        query = node.args.get("query")
        if query is not None:
            relation = self.query(query, scope)
            for _, value in relation.everything():
                add_steering(own, value, "FILTER", node)
            add_influences(own, relation.rows)
        unnest = node.args.get("unnest")
        if unnest is not None:
            parts += [self.value(array, scope) for array in unnest.expressions]
        parts += [self.value(one, scope) for one in node.expressions]
        return Mix([part for part in parts if part is not NOTHING], TRANSFORMATION, own=own, node=node)

    def _exists(self, node: exp.Expr, scope: Scope) -> Value:
        return Mix((), own=dict(self.query(node.this, scope).rows), node=node)

    def _quantified(self, node: exp.Expr, scope: Scope) -> Value:
        own: Influences = {}
        if isinstance(node.this, exp.Query):
            relation = self.query(node.this, scope)
            add_steering(own, relation.first(), "FILTER", node)
            add_influences(own, relation.rows)
            return Mix((), own=own, node=node)
        return self._operation(node, scope)

    def _subquery(self, node: exp.Expr, scope: Scope) -> Value:
        """A scalar sub-query, or the query in ARRAY(…)."""
        relation = self.query(node, scope, ordered=True)
        return Mix((relation.first(),), IDENTITY, keeps_fields=True, own=dict(relation.rows), node=node)

    def _unnest(self, node: exp.Expr, scope: Scope) -> Value:
        return Mix([self.value(array, scope) for array in node.expressions], keeps_fields=True, node=node)

    def _struct(self, node: exp.Expr, scope: Scope) -> Value:
        items: list[Item] = []
        for position, member in enumerate(node.expressions, 1):
            unnamed = f"_field_{position}"
            # (a, b) takes no names from its columns, STRUCT(a, b) does
            name = unnamed if isinstance(node, exp.Tuple) else output_name(member, lambda name=unnamed: name)  # type: ignore[misc]
            inner = member.expression if isinstance(member, exp.PropertyEQ) else member.unalias()
            value = self.value(inner, scope)
            items.append((name, Constant(inner) if value is NOTHING else value))
        return RowValue(Relation(items))

    def _array(self, node: exp.Expr, scope: Scope) -> Value:
        parts = [value for child in node.expressions if (value := self.value(child, scope)) is not NOTHING]
        if len(parts) > 1 and (names := parts[0].field_names()):
            parts = [parts[0], *(renamed(part, names) for part in parts[1:])]
        return Mix(parts, TRANSFORMATION, keeps_fields=True, node=node)

    def _cast(self, node: exp.Expr, scope: Scope) -> Value:
        value = self.value(node.this, scope)
        said = self.value(node.args["format"], scope) if isinstance(node.args.get("format"), exp.Expr) else NOTHING
        if said is not NOTHING:  # FORMAT and AT TIME ZONE may be expressions of columns
            return Mix((value, said), TRANSFORMATION, node=node)
        shape = declared_shape("", node.args["to"])
        if shape is not None:
            names = [child.name for child in shape.fields]
            value = renamed(value, names) if value.field_names() else Shaped(value, shape)
        if isinstance(node.this, exp.Struct | exp.Array | exp.Tuple):
            return value  # STRUCT<a INT64>(x) is a constructor that only names
        return Mix((value,), TRANSFORMATION, keeps_fields=True, node=node)

    def _lambda(self, node: exp.Expr, scope: Scope, element: Value = NOTHING) -> Value:
        """The body; `element` is what its first parameter stands for, the others are positions or results so far."""
        inner = Scope(scope, scope.ctes, scope.variables)
        for parameter in node.expressions:
            inner.ranges[str(parameter.name).lower()] = element if parameter is node.expressions[0] else NOTHING
        return self.value(node.this, inner)

    def _array_filter(self, node: exp.Expr, scope: Scope) -> Value:
        array = self.value(node.this, scope)
        own: Influences = {}
        condition = node.expression
        value = self._lambda(condition, scope, array) if isinstance(condition, exp.Lambda) else NOTHING
        add_steering(own, value, "FILTER", condition)
        return Mix((array,), TRANSFORMATION, keeps_fields=True, own=own, node=node)

    def _array_transform(self, node: exp.Anonymous, scope: Scope) -> Value:
        """ARRAY_TRANSFORM(array, element -> …)"""
        array, function = node.expressions
        elements = self.value(array, scope)
        own: Influences = {}
        add_steering(own, elements, "JOIN", array)
        return Mix((self._lambda(function, scope, elements),), TRANSFORMATION, keeps_fields=True, own=own, node=node)

    def _identifier(self, node: exp.Expr, scope: Scope) -> Value:
        """A bare name where the parser makes no column of it: a parameter of a lambda, a column in parentheses."""
        value = self.find([str(node.this)], scope)
        return NOTHING if isinstance(value, Gap) else value

    def _parameter(self, node: exp.Expr, scope: Scope) -> Value:
        name = "?" if isinstance(node, exp.Placeholder) else f"@{node.name.lower()}"
        return scope.variables.get(name, NOTHING)

    # -- functions

    def _call(self, node: exp.Expr, scope: Scope) -> Value:
        """A function that the parser has no class of: one of ours through its body, else all arguments feed the result."""
        function = node
        path: list[str] = []
        chained: list[exp.Expr] = []
        while isinstance(function, exp.Dot):
            if isinstance(function.expression, exp.Identifier):
                break
            if _is_path(function.this):
                path = _dotted(function.this)
            else:  # (x).function(y) is function(x, y)
                chained.append(function.this)
            function = function.expression
        if not isinstance(function, exp.Anonymous):
            if not chained and not isinstance(function, exp.If):  # AI.IF is no IF
                return self._operation(function, scope)
            by = AGGREGATION if isinstance(function, exp.AggFunc) else TRANSFORMATION
            parts = [self.value(one, scope) for one in (*chained, *children(function))]
            return Mix(
                [part for part in parts if part is not NOTHING],
                by | (MASKED if type(function) in MASKING else 0),
                node=node,
            )
        name = function.this
        path += str(name.this if isinstance(name, exp.Identifier) else name).split(".")
        arguments = [*chained, *function.expressions]
        routine = self.routine(path)
        key = ".".join(path).lower()
        if routine is not None and isinstance(routine.body, exp.Expr):
            if key in self._calls:
                return Gap("recursion", key)
            self._calls.append(key)
            self.resolved_again = True
            try:
                bound = self.bind(routine, arguments, scope)
                value = self.value(routine.body, Scope(None, {}, bound))
            finally:
                self._calls.pop()
            return Mix((value,), IDENTITY, keeps_fields=True, node=node)
        last = path[-1].upper()
        if last == "ARRAY_TRANSFORM" and len(arguments) == 2 and isinstance(arguments[1], exp.Lambda):
            return self._array_transform(function, scope)
        package = path[0].upper() if len(path) > 1 else ""
        masked = package in PACKAGES_THAT_MASK and not last.startswith("DECRYPT")
        masked = masked or (not package and last in MASKING_NAMES - {"INIT", "MERGE", "EXTRACT"})
        by = AGGREGATION if package == "HLL_COUNT" and last in AGGREGATE_NAMES else TRANSFORMATION
        parts = [value for one in arguments if (value := self.value(one, scope)) is not NOTHING]
        result = Mix(parts, by | (MASKED if masked else 0), node=node)
        if routine is not None and routine.returns is not None:
            return Shaped(result, routine.returns)
        return Opaque(result) if len(path) > 1 and not masked and by != AGGREGATION else result

    def bind(self, routine: Routine, arguments: list[exp.Expr], scope: Scope) -> dict[str, Value]:
        """Values of a routine's parameters."""
        bound: dict[str, Value] = {}
        for position, argument in enumerate(arguments):
            if isinstance(argument, exp.Kwarg):
                bound[str(argument.this.name).lower()] = self.value(argument.expression, scope)
            elif position < len(routine.parameters):
                value = self.value(argument, scope)
                declared = routine.types[position] if position < len(routine.types) else None
                if declared is not None and not value.field_names():
                    value = Shaped(value, declared)
                bound[routine.parameters[position]] = value
        for parameter in routine.parameters:
            bound.setdefault(parameter, NOTHING)  # its default, a constant
        return bound

    def table_name(self, parts: list[str]) -> str:
        """The full name of a table; where it has no dataset, its own, with a note, and it is kept out of the edges."""
        name = qualified(parts, self.session.project, self.session.default_dataset)
        if name is None:
            name = ".".join(parts)
            self.note("no_default_dataset", name)
            self.without_dataset.add(name)
        return name


def _is_path(node: exp.Expr) -> bool:
    return isinstance(node, exp.Identifier) or (
        isinstance(node, exp.Dot) and isinstance(node.expression, exp.Identifier) and _is_path(node.this)
    )


def _dotted(node: exp.Expr) -> list[str]:
    if isinstance(node, exp.Dot):
        return [*_dotted(node.this), *_dotted(node.expression)]
    return str(node.name).split(".")


def declared_shape(name: str, type_: exp.Expr | None) -> Field | None:
    """The type as a field tree when it is a STRUCT with named fields or an array of them, else None."""
    mode = "NULLABLE"
    while isinstance(type_, exp.DataType) and type_.this == exp.DType.ARRAY and type_.expressions:
        type_, mode = type_.expressions[0], "REPEATED"
    if not isinstance(type_, exp.DataType) or type_.this != exp.DType.STRUCT:
        return None
    members = [member for member in type_.expressions if isinstance(member, exp.ColumnDef)]
    if not members or len(members) != len(type_.expressions):
        return None
    fields = tuple(
        declared_shape(str(member.name), member.args.get("kind")) or Field(str(member.name), ANY) for member in members
    )
    return Field(name, "STRUCT", mode, fields)


def renamed(value: Value, names: list[str]) -> Value:
    """The STRUCT with its fields named anew by position; as it is when its fields are not known or not as many."""
    present = value.field_names()
    if not present or len(present) != len(names) or present == names:
        return value
    items: list[Item] = [(new, value.field(old.lower()) or NOTHING) for new, old in zip(names, present, strict=True)]
    return RowValue(Relation(items))


def spread(value: Value) -> list[Item]:
    """What `value.*` stands for."""
    names = value.field_names()
    if names is None:
        return [Hole(value)]
    return [(name, value.field(name.lower()) or NOTHING) for name in names]


_BINARY: Handler = Expressions._binary
HANDLERS: dict[type, Handler] = {
    exp.Column: Expressions._column,
    exp.Dot: Expressions._dot,
    exp.Bracket: Expressions._bracket,
    exp.Case: Expressions._case,
    exp.If: Expressions._case,
    exp.Nullif: Expressions._nullif,
    exp.Order: Expressions._order,
    exp.Limit: Expressions._limit,
    exp.HavingMax: Expressions._having_max,
    exp.Filter: Expressions._filter,
    exp.Window: Expressions._window,
    exp.In: Expressions._in,
    exp.Exists: Expressions._exists,
    exp.All: Expressions._quantified,
    exp.Any: Expressions._quantified,
    exp.Unnest: Expressions._unnest,
    exp.Struct: Expressions._struct,
    exp.Tuple: Expressions._struct,
    exp.Array: Expressions._array,
    exp.Cast: Expressions._cast,
    exp.TryCast: Expressions._cast,
    exp.Lambda: Expressions._lambda,
    exp.ArrayFilter: Expressions._array_filter,
    exp.Identifier: Expressions._identifier,
    exp.Parameter: Expressions._parameter,
    exp.Placeholder: Expressions._parameter,
    exp.Anonymous: Expressions._call,
    exp.AnonymousAggFunc: Expressions._aggregate,
}


def _handler(kind: type) -> Handler:
    if kind in NO_VALUE:
        return Expressions._nothing
    if issubclass(kind, exp.Query):
        return Expressions._subquery
    if issubclass(kind, exp.AggFunc):
        return Expressions._aggregate
    if issubclass(kind, exp.Binary) and not issubclass(kind, exp.PropertyEQ | exp.Kwarg):
        return _BINARY
    return Expressions._operation
