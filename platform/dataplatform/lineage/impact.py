"""The graph of columns: what a column becomes, what it is made of, the queries on the way, what nobody reads.

A node is a column path of a table. A path and those below or above it go together: whoever reads `s` reads `s.x`, and what is copied as `s`
takes `s.x` along. `*` stands for all columns of a table: the target of an edge that decides about whole rows, the source when a table
without a schema was read as a whole.
"""

from __future__ import annotations

import gc
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import PlatformError
from .edges import CONTRACT, WHOLE_ROW
from .names import general_path, general_table

Node = tuple[str, str]
"""(table, column path)"""
Direction = Literal["downstream", "upstream"]


class StoredEdge(msgspec.Struct, frozen=True, gc=False):
    """An edge as it is kept: with the job that made it. `target_table` None: the query was only read."""

    source_table: str | None
    source_column: str | None
    target_table: str | None
    target_column: str
    type: str
    subtype: str
    masking: bool = False
    expression: str = ""
    confidence: float = 1.0
    job_id: str | None = None
    kind: str = "edge"
    user_email: str | None = None
    last_seen: str | None = None

    @property
    def source(self) -> Node:
        """The node it starts from; only of edges that have one."""
        return self.source_table or "", self.source_column or ""

    @property
    def target(self) -> Node:
        """The node it ends at."""
        return self.target_table or "", self.target_column


class Reached(msgspec.Struct, frozen=True, gc=False):
    """A column that was reached: by which edge from which node, at what distance."""

    node: Node
    depth: int
    edge: StoredEdge | None
    before: Reached | None

    @property
    def path(self) -> list[Reached]:
        """From the start to here."""
        steps: list[Reached] = []
        at: Reached | None = self
        while at is not None:
            steps.append(at)
            at = at.before
        return steps[::-1]

    @property
    def indirect(self) -> bool:
        """Whether an INDIRECT edge is on the way."""
        return any(step.edge is not None and step.edge.type == "INDIRECT" for step in self.path)


class Graph:
    """Edges by their ends. Building is linear in the edges; a question costs what it reaches."""

    def __init__(self, edges: Iterable[StoredEdge]) -> None:
        self.edges: list[StoredEdge] = []
        self._by_source: dict[Node, list[int]] = defaultdict(list)
        self._by_target: dict[Node, list[int]] = defaultdict(list)
        self.constants: set[Node] = set()
        """Columns that some query makes of no column."""
        self._columns: dict[str, dict[str, None]] = defaultdict(dict)
        self._nested: dict[Node, list[str]] = defaultdict(list)
        self._read: set[Node] = set()
        self._sources: list[Node] = []
        self._targets: list[Node] = []
        self._direct: list[bool] = []
        self._whole: set[str] = set()
        """Tables that need a second look: fields of STRUCTs or `*` are among their columns."""
        collecting = gc.isenabled()
        gc.disable()  # millions of small objects, none of them garbage: collecting meanwhile takes most of the time
        try:
            self._build(edges)
        finally:
            if collecting:
                gc.enable()

    def _build(self, edges: Iterable[StoredEdge]) -> None:
        for edge in edges:
            if edge.source_table is None:
                if edge.target_table is not None:
                    self._see(edge.target)
                    self.constants.add(edge.target)
                continue
            source = edge.source
            self._see(source)
            if edge.target_table is None:
                self._read.add(source)
                continue
            target = edge.target
            self._see(target)
            number = len(self.edges)
            self.edges.append(edge)
            self._sources.append(source)
            self._targets.append(target)
            self._direct.append(edge.type == "DIRECT")
            self._by_source[source].append(number)
            self._by_target[target].append(number)

    def _see(self, node: Node) -> None:
        table, path = node
        columns = self._columns[table]
        if path not in columns:
            columns[path] = None
            if path == WHOLE_ROW:
                self._whole.add(table)
            elif "." in path:
                self._whole.add(table)
                at = path
                while (dot := at.rfind(".")) > 0:
                    at = at[:dot]
                    self._nested[table, at].append(path)

    @property
    def tables(self) -> list[str]:
        """All tables of the graph."""
        return list(self._columns)

    def columns(self, table: str) -> list[str]:
        """Column paths of a table that edges name."""
        return [path for path in self._columns.get(table, {}) if path != WHOLE_ROW]

    def named(self, node: Node) -> Node | None:
        """The column as edges write it, in whatever case it was asked for; None when no edge names it."""
        table, path = node
        columns = self._columns.get(table)
        if columns is None or path == WHOLE_ROW or path in columns or node in self._nested:
            return node if columns is not None else None
        asked = f"{path.lower()}."
        for one in columns:
            if f"{one.lower()}.".startswith(asked):
                return table, one[: len(path)]
        for one in columns:  # a field of a column that edges name as a whole
            if asked.startswith(f"{one.lower()}."):
                return table, one + path[len(one) :]
        return None

    def find(self, text: str) -> Node | None:
        """The column that a text names, whichever of its dots ends the table's name: files and assets have names of other lengths."""
        parts = text.replace("`", "").split(".")
        for at in range(len(parts) - 1, 0, -1):
            table, path = ".".join(parts[:at]), ".".join(parts[at:])
            found = self.named((table, path)) or self.named((general_path(table), path))
            if found is not None:
                return found
        return None

    def into(self, node: Node) -> list[StoredEdge]:
        """Edges that end at exactly this node, DIRECT and INDIRECT."""
        return [self.edges[number] for number in self._by_target.get(node, ())]

    def reach(
        self, start: Node, direction: Direction = "downstream", *, depth: int | None = None, indirect: bool = False
    ) -> list[Reached]:
        """All columns reached from `start`, nearest first, without the start itself.

        `depth` bounds the number of edges; without `indirect` only DIRECT edges are followed.
        """
        first = Reached(start, 0, None, None)
        seen: set[Node] = {start}
        found: list[Reached] = []
        waiting = deque([first])
        down = direction == "downstream"
        index, ends = (self._by_source, self._targets) if down else (self._by_target, self._sources)
        edges, direct, whole = self.edges, self._direct, self._whole
        while waiting:
            at = waiting.popleft()
            distance = at.depth + 1
            if depth is not None and distance > depth:
                continue
            for number in index.get(at.node, ()):
                node = ends[number]
                if node not in seen and (indirect or direct[number]):
                    seen.add(node)
                    reached = Reached(node, distance, edges[number], at)
                    found.append(reached)
                    waiting.append(reached)
            if at is first or at.node[0] in whole or "." in at.node[1]:
                for edge, node in self.steps(at.node, down, indirect):
                    if node not in seen:
                        seen.add(node)
                        reached = Reached(node, distance, edge, at)
                        found.append(reached)
                        waiting.append(reached)
        return found

    def steps(self, node: Node, down: bool, indirect: bool) -> Iterator[tuple[StoredEdge, Node]]:
        """Edges that leave a node, with the node they lead to."""
        table, path = node
        index = self._by_source if down else self._by_target
        for number in index.get(node, ()):
            edge = self.edges[number]
            if indirect or edge.type == "DIRECT":
                yield edge, edge.target if down else edge.source
        if "." in path:
            at = path
            while (dot := at.rfind(".")) > 0:
                at = at[:dot]
                for number in index.get((table, at), ()):
                    edge = self.edges[number]
                    if indirect or edge.type == "DIRECT":
                        other, column = edge.target if down else edge.source
                        rest = path[dot:] if edge.subtype == "IDENTITY" and column != WHOLE_ROW else ""
                        yield edge, (other, column + rest)
        for below in self._nested.get(node, ()):
            for number in index.get((table, below), ()):
                edge = self.edges[number]
                if indirect or edge.type == "DIRECT":
                    yield edge, edge.target if down else edge.source
        if path == WHOLE_ROW:
            for column in list(self._columns.get(table, ())):
                if column != WHOLE_ROW:
                    for number in index.get((table, column), ()):
                        edge = self.edges[number]
                        if indirect or edge.type == "DIRECT":
                            yield edge, edge.target if down else edge.source
        else:
            for number in index.get((table, WHOLE_ROW), ()):
                edge = self.edges[number]
                if indirect or edge.type == "DIRECT":
                    other, column = edge.target if down else edge.source
                    same = edge.type == "DIRECT" and edge.subtype == "IDENTITY" and column == WHOLE_ROW
                    yield edge, (other, path if same else column)

    def between(self, source: Node, target: Node, *, indirect: bool = False) -> list[StoredEdge]:
        """All edges on the ways from `source` to `target`, in the order in which they are met."""
        back = {one.node for one in self.reach(target, "upstream", indirect=indirect)} | {target}
        if source not in back and not any(related(source, node) for node in back):
            return []
        rows = {node[0] for node in back}
        found: dict[int, StoredEdge] = {}
        for at in (source, *(one.node for one in self.reach(source, indirect=indirect))):
            for edge, node in self.steps(at, True, indirect):
                whole = (node[0], WHOLE_ROW) in back or (node[1] == WHOLE_ROW and node[0] in rows)
                if whole or node in back or related(node, target):
                    found.setdefault(id(edge), edge)
        return list(found.values())

    def shortest(self, source: Node, target: Node, *, indirect: bool = False) -> list[StoredEdge]:
        """The edges of one shortest way; empty when there is none."""
        for one in self.reach(source, indirect=indirect):
            if one.node == target or related(one.node, target):
                return [step.edge for step in one.path if step.edge is not None]
        return []

    def is_read(self, node: Node) -> bool:
        """Whether any query reads the column, or one below or above it, be it only to filter."""
        table, path = node
        names = [path, WHOLE_ROW, *self._nested.get(node, ())]
        at = path
        while (dot := at.rfind(".")) > 0:
            at = at[:dot]
            names.append(at)
        return any(self._by_source.get((table, name)) or (table, name) in self._read for name in names)


def related(one: Node, other: Node) -> bool:
    """Whether the paths are the same column, or one is a field of the other."""
    if one[0] != other[0]:
        return False
    left, right = one[1], other[1]
    return left == right or left.startswith(right + ".") or right.startswith(left + ".") or WHOLE_ROW in (left, right)


@dataclass(frozen=True)
class Change:
    """A column whose sources differ between two sets of edges."""

    node: Node
    added: tuple[Node, ...]
    removed: tuple[Node, ...]
    gone: bool
    """The column is not made any more."""


def with_changed(present: Iterable[StoredEdge], changed: Iterable[StoredEdge]) -> list[StoredEdge]:
    """The present edges as they would be with the changed queries: those of the queries that these replace give way to theirs.

    A changed query replaces the one of its own job id, else that of the queries into the same table that it resembles most: in the
    columns it makes, then in their sources, then the one that ran last. Where it has no column in common with any, it replaces the
    only query into its table, or, where there are several, none. Each replaces one query at most; every other query stays, and so does
    what contracts declare.
    """
    old, new = _by_query(present), _by_query(changed)
    replaced = {query for query in new if query and query in old}
    writers: dict[str, set[str]] = defaultdict(set)
    for query, edges in old.items():
        for edge in edges:
            if edge.target_table is not None and query != CONTRACT:
                writers[edge.target_table].add(query)
    pairs = []
    for query in new.keys() - replaced:
        into = {edge.target_table for edge in new[query] if edge.target_table is not None}
        candidates = {one for table in into for one in writers.get(table, ())} - replaced
        for candidate in candidates:
            columns, sources = (
                len(_made(new[query], with_source=way) & _made(old[candidate], with_source=way))
                for way in (False, True)
            )
            if columns or len(candidates) == 1:
                last = max((edge.last_seen or "" for edge in old[candidate]), default="")
                pairs.append((columns, sources, last, candidate, query))
    done: set[str] = set()
    for *_, candidate, query in sorted(pairs, reverse=True):
        if candidate not in replaced and query not in done:
            replaced.add(candidate)
            done.add(query)
    kept = [edge for query, edges in old.items() if query not in replaced for edge in edges]
    return kept + [edge for edges in new.values() for edge in edges]


def _by_query(edges: Iterable[StoredEdge]) -> dict[str, list[StoredEdge]]:
    found: dict[str, list[StoredEdge]] = {}
    for edge in edges:
        found.setdefault(edge.job_id or "", []).append(edge)
    return found


def _made(edges: Iterable[StoredEdge], *, with_source: bool) -> set[tuple[object, ...]]:
    """What a query makes: its target columns, alone or each with its source."""
    return {
        (*edge.target, edge.source_table, edge.source_column) if with_source else edge.target
        for edge in edges
        if edge.target_table is not None and edge.type == "DIRECT"
    }


def changes(before: Iterable[StoredEdge], after: Iterable[StoredEdge]) -> list[Change]:
    """Columns whose direct sources differ between all edges of two states; of `after`, see `with_changed`."""
    old, new = _sources(before), _sources(after)
    found = []
    for node in sorted({*old, *new}):
        if old.get(node) != new.get(node):
            had, has = old.get(node, set()), new.get(node, set())
            found.append(Change(node, tuple(sorted(has - had)), tuple(sorted(had - has)), node not in new))
    return found


def _sources(edges: Iterable[StoredEdge]) -> dict[Node, set[Node]]:
    found: dict[Node, set[Node]] = {}
    for edge in edges:
        if edge.target_table is not None and edge.type == "DIRECT":
            sources = found.setdefault(edge.target, set())
            if edge.source_table is not None:
                sources.add(edge.source)
    return found


def read_edges(path: Path) -> Iterator[StoredEdge]:
    """Edges of a file that `lineage extract` wrote. Raises PlatformError with the line's number for what is none."""
    decoder = msgspec.json.Decoder(StoredEdge)
    try:
        lines = path.open("rb")
    except OSError as error:
        raise PlatformError(
            f"cannot be read: {error.strerror}", where=str(path), fix="give an existing file"
        ) from error
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith(b'{"kind":"unresolved"'):
                continue
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if b'"unresolved"' in line:
                    continue
                raise PlatformError(
                    f"line {number} is no edge: {error}", where=str(path), fix="give the output of `lineage extract`"
                ) from error


def parse_node(text: str) -> Node:
    """`project.dataset.table.column.path`; raises PlatformError when it is too short."""
    parts = text.replace("`", "").split(".")
    if len(parts) < 4:
        raise PlatformError(
            f"{text!r} is no column", fix="write project.dataset.table.column, or project.dataset.table.*"
        )
    return ".".join([*parts[:2], general_table(parts[2])]), ".".join(parts[3:])


def as_table(
    found: list[Reached], owners: Mapping[str, str] | None = None, promised: Mapping[str, str] | None = None
) -> str:
    """One line for each column: distance, column, how, whose it is, what is promised of its freshness, the query and when it ran last.

    `owners` and `promised` are by table.
    """
    lines = [f"{'depth':>5}  {'column':60} {'by':20} {'owner':12} {'fresh within':12} {'last use':16} job"]
    for one in found:
        assert one.edge is not None
        how = one.edge.subtype.lower() + (" masked" if one.edge.masking else "")
        owner, promise = (owners or {}).get(one.node[0], ""), (promised or {}).get(one.node[0], "")
        last = (one.edge.last_seen or "")[:16].replace("T", " ")
        line = f"{one.depth:>5}  {'.'.join(one.node):60} {how:20} {owner:12} {promise:12} {last:16} {one.edge.job_id or ''}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def as_records(found: list[Reached]) -> list[dict[str, object]]:
    """For JSON: each column with its distance and the way to it."""
    return [
        {
            "table": one.node[0],
            "column": one.node[1],
            "depth": one.depth,
            "indirect": one.indirect,
            "last_use": one.edge.last_seen if one.edge is not None else None,
            "path": [
                {
                    "column": ".".join(step.node),
                    "type": step.edge.type,
                    "subtype": step.edge.subtype,
                    "expression": step.edge.expression,
                    "job_id": step.edge.job_id,
                }
                for step in one.path
                if step.edge is not None
            ],
        }
        for one in found
    ]


def _drawn(found: list[Reached], downstream: bool) -> list[tuple[str, str, str]]:
    arrows = []
    for one in found:
        assert one.before is not None and one.edge is not None
        ends = (".".join(one.before.node), ".".join(one.node))
        arrows.append((*(ends if downstream else ends[::-1]), one.edge.subtype.lower()))
    return arrows


def as_dot(start: Node, found: list[Reached], *, downstream: bool) -> str:
    """Graphviz."""
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];", f'  "{".".join(start)}" [style=bold];']
    lines += [f'  "{left}" -> "{right}" [label="{label}"];' for left, right, label in _drawn(found, downstream)]
    return "\n".join([*lines, "}"])


def as_mermaid(start: Node, found: list[Reached], *, downstream: bool) -> str:
    """Mermaid flowchart."""
    arrows = _drawn(found, downstream)
    names = dict.fromkeys([".".join(start), *(end for left, right, _ in arrows for end in (left, right))])
    ids = {name: f"c{number}" for number, name in enumerate(names)}
    lines = ["flowchart LR", *(f'  {ids[name]}["{name}"]' for name in names)]
    return "\n".join([*lines, *(f"  {ids[left]} -->|{label}| {ids[right]}" for left, right, label in arrows)])
