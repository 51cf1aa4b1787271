"""Scripts: variables, temporary tables, branches and loops, routines, EXECUTE IMMEDIATE, CALL; and pipe queries.

Branches are merged: what any of them may do is an edge, steered by the condition. Loops are gone through twice, which is enough for a
value to come round.
"""

from __future__ import annotations

import re

from sqlglot import exp

from .blocks import Block, Conditional, ForEach, ProcedureText, Statement, blocks
from .expressions import Constant, Routine, declared_shape, output_name
from .lexemes import lexemes, split_top
from .parsing import SyntaxProblem, parse, parse_expression
from .pipes import ROWS, PipeQuery, Stage, lift_pipes
from .relations import Hole, Item, Relation, Scope
from .statements import Statements
from .values import IDENTITY, NOTHING, Influences, Mix, Value, add_influences, add_steering, with_influences

_WITHOUT_DATA = frozenset(
    [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "RAISE",
        "RETURN",
        "BREAK",
        "LEAVE",
        "CONTINUE",
        "ITERATE",
        "ASSERT",
        "GRANT",
        "REVOKE",
        "UNDROP",
        "END",
        "EXCEPTION",
        "TRUNCATE",
    ]
)
_CREATED_WITHOUT_DATA = re.compile(
    r"\s*(?:EXPORT\s+(?:MODEL|TABLE\s+METADATA)|(?:CREATE|ALTER|DROP)\s+(?:OR\s+REPLACE\s+)?"
    r"(?:SCHEMA|DATABASE|SEARCH|VECTOR|ROW|CAPACITY|RESERVATION|ASSIGNMENT|BI_CAPACITY|CONNECTION|PROJECT|ORGANIZATION|ALL|INDEX|PRIVILEGE|DATA_POLICY|PROPERTY))\b",
    re.IGNORECASE,
)
MAX_CALLS = 20
"""How deep CALL and EXECUTE IMMEDIATE may nest."""


class Scripts(Statements):
    """A whole text to edges. `answers` are the rows of its queries, in order."""

    def run(self, text: str) -> None:
        """Take the edges of a script or a single statement; the query answers are gathered in `answers`."""
        self.answers: list[Relation] = []
        self._depth = 0
        found = blocks(text)
        self.resolved_again = len(found) > 1 or not isinstance(found[0], Statement) if found else False
        self._blocks(found)

    def _blocks(self, found: list[Block] | tuple[Block, ...]) -> None:
        for block in found:
            if isinstance(block, Statement):
                try:
                    self._text_statement(block.text)
                except SyntaxProblem as error:
                    self.note("syntax", str(error))
                except (AttributeError, KeyError, IndexError, TypeError, ValueError, AssertionError) as error:
                    # A tree that no valid statement has; it costs this statement, not the script.
                    self.note("internal", f"{type(error).__name__}: {error}"[:300])
            elif isinstance(block, Conditional):
                self._conditional(block)
            elif isinstance(block, ForEach):
                self._for_each(block)
            else:
                self._procedure(block)

    def _conditional(self, block: Conditional) -> None:
        saved = self.steering
        self.steering = dict(saved)
        for condition in block.conditions:
            try:
                node = self._condition(condition)
                add_steering(self.steering, self.value(node, self.root()), "CONDITIONAL", node)
            except SyntaxProblem as error:
                self.note("syntax", str(error))
        for _ in range(2 if block.loop else 1):
            self._blocks(block.body)
        self.steering = saved

    def _for_each(self, block: ForEach) -> None:
        try:
            relation = self.query(self.tree(block.query), self.root(), ordered=True)
        except SyntaxProblem as error:
            self.note("syntax", str(error))
            return
        saved = self.steering
        self.steering = dict(saved)
        add_influences(self.steering, relation.rows)
        self.session.variables[block.variable.strip("`").lower()] = relation.whole_row()
        for _ in range(2):
            self._blocks(block.body)
        self.steering = saved

    # -- one statement

    def tree(self, text: str) -> exp.Expr:
        """The tree of a statement; its pipe queries are kept under names of their own."""
        rest, pipes = lift_pipes(text, f"__pipe_{len(self.session.pipes)}_")
        self.session.pipes.update(pipes)
        return parse(rest)

    def _condition(self, text: str) -> exp.Expr:
        select = self.tree(f"SELECT {text}")
        if not isinstance(select, exp.Select) or not select.expressions:
            raise SyntaxProblem(f"not a condition: {text[:100]}")
        condition: exp.Expr = select.expressions[0]
        return condition

    def _text_statement(self, text: str) -> None:
        found = lexemes(text, 2)
        words = [lexeme.word for lexeme in found]
        first = words[0] if words else ""
        if words == ["EXECUTE", "IMMEDIATE"]:
            self._execute(text[found[1].end :])
        elif first == "CALL":
            self._call_procedure(text[found[0].end :])
        elif first == "GRAPH":
            self.note("unsupported", " ".join(text.split()[:2])[:100])
        elif first in _WITHOUT_DATA or _CREATED_WITHOUT_DATA.match(text):
            return
        else:
            node = self.tree(text)
            if isinstance(node, exp.Declare):
                self._declare(node)
            elif isinstance(node, exp.Set):
                self._set(node)
            else:
                relation = self.statement(node)
                if relation is not None:
                    add_influences(relation.rows, self.steering)
                    self.answers.append(relation)

    def _declare(self, node: exp.Declare) -> None:
        for item in node.expressions:
            default = item.args.get("default")
            value: Value = NOTHING
            if isinstance(default, exp.Expr):
                value = self.value(default, self.root())
                value = Constant(default) if value is NOTHING else value
            for name in item.this if isinstance(item.this, list) else [item.this]:
                self.session.variables[str(name.name).lower()] = value

    def _set(self, node: exp.Set) -> None:
        for item in node.expressions:
            assignment = item.this
            if not isinstance(assignment, exp.EQ):
                continue
            value = self.value(assignment.expression, self.root())
            if isinstance(assignment.this, exp.Tuple):
                names = value.field_names() or []
                for position, variable in enumerate(assignment.this.expressions):
                    part = value.field(names[position].lower()) if position < len(names) else value
                    self._assign(str(variable.name), part or NOTHING)
            else:
                self._assign(str(assignment.this.name), Constant(assignment.expression) if value is NOTHING else value)

    def _assign(self, name: str, value: Value) -> None:
        key = name.lower()
        known = self.session.variables.get(key, NOTHING)
        if self.steering:  # in a branch or loop the old value may stay
            own: Influences = dict(self.steering)
            value = Mix((known, value), IDENTITY, keeps_fields=True, own=own, node=value.node)
        self.session.variables[key] = value

    def _execute(self, text: str) -> None:
        pieces = dict(split_top(text, frozenset({"INTO", "USING"})))
        statement = self._constant_text(parse_expression(pieces[""]))
        if statement is None:
            self.note("dynamic_sql", " ".join(text.split())[:200])
            return
        if self._depth >= MAX_CALLS:
            self.note("too_deep", "EXECUTE IMMEDIATE")
            return
        saved = dict(self.session.variables)
        if "USING" in pieces:
            self._bind_parameters(pieces["USING"])
        answers, self.answers = self.answers, []
        self._depth += 1
        try:
            self._blocks(blocks(statement))
        finally:
            self._depth -= 1
        given, self.answers = self.answers, answers
        self.session.variables = saved
        if "INTO" in pieces and given:
            for position, name in enumerate(_names(pieces["INTO"])):
                columns = given[-1].everything()
                value = columns[position][1] if position < len(columns) else NOTHING
                self._assign(name, with_influences(value, given[-1].rows))
        else:
            self.answers += given

    def _bind_parameters(self, text: str) -> None:
        values: list[Value] = []
        select = parse(f"SELECT {text}")
        for item in select.expressions:
            value = self.value(item.unalias(), self.root())
            values.append(value)
            if isinstance(item, exp.Alias):
                self.session.variables[f"@{item.alias.lower()}"] = value
        self.session.variables["?"] = Mix(values, IDENTITY)

    def _constant_text(self, node: exp.Expr) -> str | None:
        """The text an expression gives, when it is made of literals (and variables that hold literals) alone."""
        if isinstance(node, exp.Literal | exp.RawString):
            return str(node.this)
        if isinstance(node, exp.Paren):
            return self._constant_text(node.this)
        if isinstance(node, exp.DPipe):
            parts = [self._constant_text(node.this), self._constant_text(node.expression)]
        elif isinstance(node, exp.Concat):
            parts = [self._constant_text(one) for one in node.expressions]
        elif isinstance(node, exp.Format):
            pattern = self._constant_text(node.this)
            given = [self._constant_text(one) for one in node.expressions]
            if pattern is None or re.sub(r"%[sdt]", "", pattern).count("%"):
                return None
            if len(re.findall(r"%[sdt]", pattern)) != len(given) or any(one is None for one in given):
                return None
            texts = iter(given)
            return re.sub(r"%[sdt]", lambda _: next(texts) or "", pattern)
        elif isinstance(node, exp.Column) and not node.args.get("table"):
            value = self.session.variables.get(node.name.lower())
            return self._constant_text(value.node) if isinstance(value, Constant) and value.node is not None else None
        elif isinstance(node, exp.Parameter):
            project = isinstance(node.this, exp.Parameter) and node.this.name == "project_id"
            return self.session.project if project else None
        else:
            return None
        return "".join(part or "" for part in parts) if all(part is not None for part in parts) else None

    # -- routines

    def define_function(self, node: exp.Expr) -> None:
        """CREATE FUNCTION and CREATE TABLE FUNCTION: known to what follows."""
        path, routine = _function(node)
        self.session.routines[path.lower()] = routine
        if "." in path:
            self.session.routines[self.table_name(path.split(".")).lower()] = routine

    def read_routine(self, text: str) -> Routine | None:
        """The routine of a CREATE statement, as the catalog keeps it."""
        try:
            found = blocks(text)
            if len(found) == 1 and isinstance(found[0], ProcedureText):
                return _procedure(found[0])
            node = self.tree(text)
        except SyntaxProblem:
            return None
        return _function(node)[1] if isinstance(node, exp.Create) and node.args.get("kind") == "FUNCTION" else None

    def _procedure(self, block: ProcedureText) -> None:
        routine = _procedure(block)
        self.session.routines[block.name.lower()] = routine
        self.session.routines[self.table_name(block.name.split(".")).lower()] = routine

    def _call_procedure(self, text: str) -> None:
        path = text.partition("(")[0].replace("`", "").strip().split(".")
        routine = self.routine(path)
        if routine is None or not isinstance(routine.body, str):
            self.note("unknown_procedure", ".".join(path))
            return
        if self._depth >= MAX_CALLS:
            self.note("too_deep", f"CALL {'.'.join(path)}")
            return
        call = parse_expression("called" + text[text.index("(") :]) if "(" in text else exp.Anonymous(this="called")
        arguments = list(call.expressions)
        saved = self.session.variables
        bound = self.bind(routine, arguments, self.root())
        for parameter, argument in zip(routine.parameters, arguments, strict=False):
            if bound.get(parameter) is NOTHING and (said := self._constant_text(argument)) is not None:
                bound[parameter] = Constant(exp.Literal.string(said))  # the body may execute it
        self.session.variables = saved | bound
        self._depth += 1
        try:
            self._blocks(blocks(routine.body))
        finally:
            self._depth -= 1
            inside, self.session.variables = self.session.variables, saved
        for parameter, argument in zip(routine.parameters, arguments, strict=False):
            if parameter in routine.outputs and isinstance(argument, exp.Column):
                self._assign(argument.name, inside.get(parameter, NOTHING))

    # -- pipes

    def pipe(self, pipe: object, scope: Scope) -> Relation:
        """The rows of a pipe query."""
        assert isinstance(pipe, PipeQuery)
        first = pipe.first
        at = Scope(scope, scope.ctes, scope.variables)
        plain = (
            isinstance(first, exp.Select) and len(first.expressions) == 1 and isinstance(first.expressions[0], exp.Star)
        )
        if plain and {key for key, value in first.args.items() if value} <= {"expressions", "from_", "joins"}:
            self._source(first.args["from_"].this, at)
            for join in first.args.get("joins") or ():
                self._join(join, at)
        else:
            at.add(None, self.query(first, scope))
        for stage in pipe.stages:
            if stage.operator == "WITH":
                scope = self._with(stage.nodes[0], scope)
                at.ctes = scope.ctes
            else:
                at = self._stage(stage, at, scope)
        return Relation(at.star(), at.rows)

    def _stage(self, stage: Stage, at: Scope, outer: Scope) -> Scope:
        operator = stage.operator
        if operator == "WHERE":
            self.steer(at.rows, stage.nodes[0], at, "FILTER")
        elif operator == "JOIN":
            self._join(stage.nodes[0], at)
        elif operator == "ORDER":
            for key in stage.nodes[0].expressions:
                add_steering(at.rows, self.value(key.this, at), "SORT", key.this)
        elif operator == "DISTINCT":
            for _, value in Relation(at.star()).everything():
                add_steering(at.rows, value, "GROUP_BY", None)
        elif operator in ("LIMIT", "TABLESAMPLE", "ASSERT"):
            pass
        elif operator == "SELECT":
            node = stage.nodes[0]
            assert isinstance(node, exp.Select)
            for window in node.args.get("windows") or ():
                at.windows[str(window.this.name).lower()] = window
            relation = Relation(self._select_list(node, at), at.rows)
            if node.args.get("distinct") is not None:
                for _, value in relation.everything():
                    add_steering(relation.rows, value, "GROUP_BY", None)
            return _fresh(relation, outer)
        elif operator == "EXTEND":
            node = stage.nodes[0]
            assert isinstance(node, exp.Select)
            return _fresh(Relation([*at.star(), *self._select_list(node, at)], at.rows), outer, at)
        elif operator in ("SET", "DROP", "RENAME"):
            return _fresh(Relation(self._edited(stage, at), at.rows), outer, at)
        elif operator == "AS":
            return _fresh(Relation(at.star(), at.rows), outer, alias=stage.names[0])
        elif operator == "AGGREGATE":
            return _fresh(self._aggregated(stage, at), outer)
        elif operator == "QUERY":
            inside = Scope(outer, outer.ctes | {ROWS: Relation(at.star(), at.rows)}, outer.variables)
            return _fresh(self.query(stage.nodes[0], inside), outer, alias=next(iter(stage.names), None))
        elif operator == "SET_OPERATION":
            relation = Relation(at.star(), at.rows)
            for node in stage.nodes:
                assert isinstance(node, exp.SetOperation)
                relation = self._combine([relation, self.query(node.expression, outer)], node)
            return _fresh(relation, outer)
        else:  # PIVOT, UNPIVOT
            relation = Relation(at.star(), at.rows)
            for node in stage.nodes:
                relation = self._pivot(node, relation, outer)
            return _fresh(relation, outer)
        return at

    def _edited(self, stage: Stage, at: Scope) -> list[Item]:
        items = at.star()
        if stage.operator == "DROP":
            dropped = frozenset(stage.names)
            return [
                Hole(item.source, item.excluded | dropped) if isinstance(item, Hole) else item
                for item in items
                if isinstance(item, Hole) or item[0].lower() not in dropped
            ]
        if stage.operator == "RENAME":
            names = {
                item.this.name.lower(): item.alias for item in stage.nodes[0].expressions if isinstance(item, exp.Alias)
            }
            return [
                item if isinstance(item, Hole) else (names.get(item[0].lower(), item[0]), item[1]) for item in items
            ]
        new: dict[str, Value] = {}
        for one in stage.nodes:
            value = self.value(one.expression, at)
            new[str(one.this.name).lower()] = Constant(one.expression) if value is NOTHING else value
        return [item if isinstance(item, Hole) else (item[0], new.get(item[0].lower(), item[1])) for item in items]

    def _aggregated(self, stage: Stage, at: Scope) -> Relation:
        items: list[Item] = []
        rows = dict(at.rows)
        for position, key in enumerate(stage.keys):
            inner = key.unalias()
            value = self.value(inner, at)
            add_steering(rows, value, "GROUP_BY", inner)
            name = output_name(key, lambda position=position: f"f{position}_")  # type: ignore[misc]
            items.append((name, Constant(inner) if value is NOTHING else value))
        if stage.nodes:
            node = stage.nodes[0]
            assert isinstance(node, exp.Select)
            items += self._select_list(node, at)
        return Relation(items, rows)


def _fresh(relation: Relation, outer: Scope, before: Scope | None = None, alias: str | None = None) -> Scope:
    """A scope over new rows; `before`: its aliases stay visible."""
    scope = Scope(outer, outer.ctes, outer.variables)
    scope.add(alias, relation)
    if before is not None:
        scope.ranges |= before.ranges
    return scope


def _names(text: str) -> list[str]:
    return [piece.strip("` ") for _, piece in split_top(text, frozenset({","}))]


def _function(node: exp.Expr) -> tuple[str, Routine]:
    function = node.this
    table = function.this
    parts = [str(table.args[key].name) for key in ("catalog", "db", "this") if table.args.get(key) is not None]
    properties = node.args.get("properties")
    language = [one for one in properties.expressions if isinstance(one, exp.LanguageProperty)] if properties else []
    body = node.args.get("expression")
    if isinstance(body, exp.Literal | exp.RawString) and language:
        body = None
    while isinstance(body, exp.Subquery) and isinstance(body.this, exp.Query):
        body = body.this
    returns = [one for one in properties.expressions if isinstance(one, exp.ReturnsProperty)] if properties else []
    return ".".join(parts), Routine(
        [str(one.name).lower() for one in function.expressions],
        body,
        types=tuple(declared_shape("", one.args.get("kind")) for one in function.expressions),
        returns=declared_shape("", returns[0].this) if returns else None,
    )


def _procedure(block: ProcedureText) -> Routine:
    names: list[str] = []
    outputs: set[str] = set()
    for _, piece in split_top(block.parameters, frozenset({","})):
        words = piece.split()
        if not words:
            continue
        out = words[0].upper() in ("OUT", "INOUT")
        name = words[1 if out or words[0].upper() == "IN" else 0].strip("`").lower()
        names.append(name)
        if out:
            outputs.add(name)
    return Routine(names, block.body, frozenset(outputs))
