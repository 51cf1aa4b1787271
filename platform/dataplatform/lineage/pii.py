"""Where personal data has gone: marks flow along direct edges and stop at masking functions that a policy states.

A mark starts at a column that a contract declares personal. It goes on with every DIRECT edge, unless on that edge every use of the
column is under a function that the policy trusts. When the edge's expression does not show that (it was cut, or the masking is in
an earlier step of the query), the mark goes on: too many findings are the safe side.

Aggregates by rule: a count shows no value, so it always stops a mark. A sum, a mean or a spread stops it unless the query groups (or
windows) by somebody's own key, for then it may be of one row: by a column that itself holds marked data, or whose name the policy counts
among the keys of people and devices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

from sqlglot import exp

from .edges import WHOLE_ROW
from .impact import Graph, Node, Reached, StoredEdge
from .parsing import MAX_EXPRESSION, SyntaxProblem, parse_expression

_HASHES: tuple[type[exp.Expr], ...] = (
    exp.MD5,
    exp.MD5Digest,
    exp.SHA,
    exp.SHA1Digest,
    exp.SHA2,
    exp.SHA2Digest,
    exp.FarmFingerprint,
)


@dataclass(frozen=True)
class MaskingPolicy:
    """What takes the person out of a value.

    `functions`: names, with or without their dataset, of functions that tokenise or encrypt; `reveals`: of those that undo it. `salted_hashes`: a hash counts
    when something secret goes into it beside the value (a literal does not hide: it is in the query log; a parameter, a variable or another
    column does). `unsalted_hashes`: any hash counts. `counts`: aggregate functions whose result holds no value. `aggregates`: those
    whose result shows no single value unless the group is one person's, which it is when grouped by marked data or by a column named in
    `keys`.
    """

    functions: frozenset[str] = frozenset({"aead.encrypt", "deterministic_encrypt", "tokenize"})
    reveals: frozenset[str] = frozenset(
        {"decrypt_string", "decrypt_bytes", "deterministic_decrypt_string", "deterministic_decrypt_bytes", "detokenize"}
    )
    salted_hashes: bool = True
    unsalted_hashes: bool = False
    counts: frozenset[str] = frozenset({"count", "countif", "approx_distinct"})
    aggregates: frozenset[str] = frozenset({"sum", "avg", "stddev", "variance"})
    keys: frozenset[str] = frozenset(
        {"user_id", "account_id", "customer_id", "member_id", "receiver_id", "device_id", "session_id", "phone_number"}
    )


@dataclass(frozen=True)
class Finding:
    """Marked data in a column, with the way it came."""

    node: Node
    mark: str
    origin: Node
    path: tuple[StoredEdge, ...]

    @property
    def confidence(self) -> float:
        """That of the least sure edge on the way."""
        return min((edge.confidence for edge in self.path), default=1.0)


@dataclass(frozen=True)
class Stopped:
    """Marked data that ends at a masking function."""

    edge: StoredEdge
    mark: str
    origin: Node
    why: str


@dataclass
class Spread:
    """Where marks went, and where they stopped."""

    findings: list[Finding] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)


def spread(graph: Graph, marks: Mapping[Node, str], policy: MaskingPolicy | None = None) -> Spread:
    """Follow every mark (column → kind, such as `email`) through the graph."""
    policy = policy or MaskingPolicy()
    strict = replace(policy, aggregates=frozenset())
    personal = {*marks, *(one.node for one in _spread(graph, marks, lambda _: strict).findings)}

    @cache
    def by_person(table: str, job_id: str | None, column: str) -> bool:
        keys = [*graph.into((table, WHOLE_ROW)), *graph.into((table, column))]
        return any(
            key.job_id == job_id
            and key.subtype in ("GROUP_BY", "WINDOW")
            and (key.source in personal or key.source[1].rpartition(".")[2].lower() in policy.keys)
            for key in keys
        )

    def at(edge: StoredEdge) -> MaskingPolicy:
        return strict if by_person(edge.target_table or "", edge.job_id, edge.target_column) else policy

    return _spread(graph, marks, at)


def _spread(graph: Graph, marks: Mapping[Node, str], policy: Callable[[StoredEdge], MaskingPolicy]) -> Spread:
    result = Spread()
    for origin, mark in marks.items():
        # Encrypted data is followed unseen: where it is decrypted, the mark is there again.
        seen = {(origin, False)}
        waiting = deque([(Reached(origin, 0, None, None), False)])
        while waiting:
            at, hidden = waiting.popleft()
            for edge, node in graph.steps(at.node, True, False):
                if (node, False) in seen:
                    continue
                if hidden:
                    becomes_hidden = not _reveals(edge.expression, policy(edge).reveals)
                else:
                    why = masked_by(edge, policy(edge))
                    if why is not None:
                        result.stopped.append(Stopped(edge, mark, origin, why))
                        if not why.startswith("function"):
                            continue
                    becomes_hidden = why is not None
                if (node, becomes_hidden) in seen:
                    continue
                seen.add((node, becomes_hidden))
                reached = Reached(node, at.depth + 1, edge, at)
                waiting.append((reached, becomes_hidden))
                if not becomes_hidden:
                    path = tuple(step.edge for step in reached.path if step.edge is not None)
                    result.findings.append(Finding(node, mark, origin, path))
    return result


@lru_cache(maxsize=100_000)
def _reveals(expression: str, functions: frozenset[str]) -> bool:
    try:
        tree = parse_expression(f"[{expression}]")
    except SyntaxProblem:
        return False
    return any(_is_one_of(_function_name(node), functions) for node in tree.find_all(exp.Func))


def _is_one_of(name: str, functions: frozenset[str]) -> bool:
    """With or without its dataset."""
    return bool(name) and (name in functions or name.rpartition(".")[2] in functions)


def masked_by(edge: StoredEdge, policy: MaskingPolicy) -> str | None:
    """Why a mark stops at this edge, or None when it goes on; the edge is looked at alone, without what its query groups by."""
    if edge.subtype == "IDENTITY" or not edge.expression or len(edge.expression) >= MAX_EXPRESSION:
        return None
    why = _masked(edge.expression, policy)
    # A branch of a UNION that does not hash is not in the expression, but in what the resolver says of the whole.
    return None if why is not None and why.startswith("hash") and not edge.masking else why


@lru_cache(maxsize=100_000)
def _masked(expression: str, policy: MaskingPolicy) -> str | None:
    try:
        tree = parse_expression(f"[{expression}]")  # several, where several clauses make the column
    except SyntaxProblem:
        return None
    columns = list(tree.find_all(exp.Column))
    if not columns:
        return None
    whys = [_why(column, tree, policy) for column in columns]
    return whys[0] if all(whys) else None


def _why(column: exp.Expr, tree: exp.Expr, policy: MaskingPolicy) -> str | None:
    at: exp.Expr | None = column
    while at is not None:
        if at.find_ancestor(exp.Query) is not None and at is column:
            return None  # inside a sub-query: not told from the text
        name = _function_name(at)
        if _is_one_of(name, policy.functions):
            return f"function {name}"
        if isinstance(at, exp.AggFunc) and (at.key in policy.counts or at.key in policy.aggregates):
            return f"aggregate {at.key}"
        if isinstance(at, _HASHES) and (policy.unsalted_hashes or (policy.salted_hashes and _salted(at))):
            return f"hash {at.key}"
        if at is tree:
            return None
        at = at.parent
    return None


def _function_name(node: exp.Expr) -> str:
    if isinstance(node, exp.Anonymous):
        name = node.this.name if isinstance(node.this, exp.Identifier) else str(node.this)
        path = [name]
        above = node.parent
        while isinstance(above, exp.Dot):
            path.insert(0, above.this.sql("bigquery").replace("`", ""))
            above = above.parent
        return ".".join(path).lower()
    return node.sql_name().lower() if isinstance(node, exp.Func) else ""


def _salted(node: exp.Expr) -> bool:
    """Something secret beside the value goes into the hash: a parameter, a variable, or a column named after its purpose."""
    if node.find(exp.Parameter) is not None:
        return True
    return any("salt" in name or "pepper" in name or "secret" in name for name in _names(node))


def _names(node: exp.Expr) -> list[str]:
    return [str(column.name).lower() for column in node.find_all(exp.Column)]


def forbidden(findings: Iterable[Finding], allowed: Mapping[str, frozenset[str]]) -> list[Finding]:
    """Findings in a dataset (`project.dataset` or `dataset`) whose policy does not allow the mark; a dataset without a policy allows all."""
    found = []
    for one in findings:
        table = one.node[0]
        dataset = table.rpartition(".")[0]
        policy = allowed.get(dataset, allowed.get(dataset.rpartition(".")[2]))
        if policy is not None and one.mark not in policy:
            found.append(one)
    return found


def proposed_tags(findings: Iterable[Finding], project: str, tag: str | None) -> list[dict[str, object]]:
    """A policy tag for each column of our project that holds personal data by its origin, with the reason; for people to decide.

    `tag` is the resource name from the settings; without one the kind of data stands in its place.
    """
    proposed: dict[Node, dict[str, object]] = {}
    for one in findings:
        table, column = one.node
        if table.startswith(f"{project}.") and one.node not in proposed:
            proposed[one.node] = {
                "table": table,
                "column": column,
                "policy_tag": tag or one.mark,
                "because": f"{one.mark} from {'.'.join(one.origin)}",
                "confidence": one.confidence,
            }
    return [proposed[node] for node in sorted(proposed)]
