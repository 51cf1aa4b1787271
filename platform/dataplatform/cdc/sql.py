"""The statements of an hour: GoogleSQL compiled from a schema and from the names of tables. Pure text; nothing runs here."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .changes import BARRIER_OPERATIONS
from .schema import Node, pointer
from .shapes import SHAPE_SQL, WRAPPERS

RAW_SCHEMA: tuple[dict[str, str], ...] = (
    {"name": "_id", "type": "STRING", "description": "Canonical Extended JSON of the document's _id."},
    {
        "name": "document",
        "type": "STRING",
        "description": "Canonical Extended JSON of the whole document; null when deleted.",
    },
    {"name": "deleted", "type": "BOOL", "description": "Whether the document is gone from the collection."},
    {
        "name": "position",
        "type": "STRING",
        "description": "Cluster time and ordinal of its newest change; orders as text.",
    },
    {"name": "changed_at", "type": "TIMESTAMP", "description": "Wall time of that change at the source."},
    {"name": "captured_at", "type": "TIMESTAMP", "description": "When the capture read it."},
    {"name": "bucket", "type": "DATE", "description": "Partition: the month of an ObjectId, else a hash of the _id."},
)

KEPT_COLUMNS: tuple[dict[str, str], ...] = (
    {
        "name": "last_document",
        "type": "STRING",
        "description": "Of a deleted document: what it last was, as far as that is known (canonical Extended JSON).",
    },
    {"name": "last_position", "type": "STRING", "description": "Position of the change that `last_document` is from."},
)
"""Columns that the raw table has besides where the contract keeps deletions. The typed rows of deleted documents are made
from them, so that they too are a function of the landed files, and outlive the typed table being built anew."""

OWN_COLUMNS: tuple[dict[str, str], ...] = (
    {"name": "_id", "type": "STRING", "description": "Canonical Extended JSON of the document's _id."},
    {
        "name": "_position",
        "type": "STRING",
        "description": "Position of the change that made this row; orders as text.",
    },
    {"name": "_changed_at", "type": "TIMESTAMP", "description": "Wall time of that change at the source."},
    {"name": "_captured_at", "type": "TIMESTAMP", "description": "When the capture read it."},
    {"name": "_deleted", "type": "BOOL", "description": "Deleted at the source and kept, where the contract says so."},
    {"name": "_bucket", "type": "DATE", "description": "Partition: the month of an ObjectId, else a hash of the _id."},
    {
        "name": "_unmapped",
        "type": "JSON",
        "description": "What could not be typed, by JSON pointer, as canonical Extended JSON.",
    },
)
"""Columns of a typed table beside the document's fields."""


@dataclass(frozen=True)
class Tables:
    """Full names (`project.dataset.table`) of one collection's tables."""

    raw: str
    history: str
    typed: str
    staging: str
    newest: str


# Values.


def value_sql(node: Node, source: str, path: Sequence[str], *, depth: int = 0) -> str:
    """Expression of a field's column; `source` is an expression of the canonical text that `path` (keys) leads down from."""
    if node.repeated:
        element, offset = f"e{depth}", f"o{depth}"
        array = f"UNNEST({_elements(source, path)}) AS {element} WITH OFFSET AS {offset}"
        if node.type == "STRUCT":
            inner = ", ".join(
                f"{value_sql(child, element, (child.key,), depth=depth + 1)} AS `{child.column}`"
                for child in node.fields
            )
            return f"ARRAY(SELECT AS STRUCT {inner} FROM {array} WHERE {is_object(element)} ORDER BY {offset})"
        value = _scalar(node, element, ())
        return (
            f"ARRAY(SELECT v{depth} FROM (SELECT {value} AS v{depth}, {offset} FROM {array})"
            f" WHERE v{depth} IS NOT NULL ORDER BY {offset})"
        )
    if node.type == "STRUCT":
        inner = ", ".join(
            f"{value_sql(child, source, (*path, child.key), depth=depth)} AS `{child.column}`" for child in node.fields
        )
        return f"IF({is_object(_query(source, path))}, STRUCT({inner}), NULL)"
    return _scalar(node, source, path)


def _scalar(node: Node, source: str, path: Sequence[str]) -> str:
    def inner(*keys: str) -> str:
        return f"JSON_VALUE({source}, {_path((*path, *keys))})"

    def first(*wrappers: str) -> str:
        values = ", ".join(inner(wrapper) for wrapper in wrappers)
        return f"COALESCE({values})" if len(wrappers) > 1 else values

    query = _query(source, path)
    match node.type:
        case "STRING" if node.pinned:
            numbers = first("$oid", "$symbol", "$numberInt", "$numberLong", "$numberDecimal", "$numberDouble")
            text = f"IF(STARTS_WITH({query}, '\"') OR {query} IN ('true', 'false'), {inner()}, {numbers})"
            return f"COALESCE({text}, CAST({_time(inner)} AS STRING))"
        case "STRING":
            return f"IF(STARTS_WITH({query}, '\"'), {inner()}, {first('$oid', '$symbol')})"
        case "INT64":
            return f"SAFE_CAST({first('$numberInt', '$numberLong')} AS INT64)"
        case "NUMERIC":
            text = first("$numberInt", "$numberLong", "$numberDecimal")
            return f"IF(REGEXP_CONTAINS({text}, {_NUMERIC}), SAFE_CAST({text} AS NUMERIC), NULL)"
        case "FLOAT64":
            return f"SAFE_CAST({first('$numberDouble', '$numberInt', '$numberLong', '$numberDecimal')} AS FLOAT64)"
        case "BOOL":
            return f"CASE {query} WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END"
        case "TIMESTAMP":
            seconds = f"TIMESTAMP_SECONDS(SAFE_CAST({inner('$timestamp', 't')} AS INT64))"
            return f"COALESCE({_time(inner)}, {seconds})"
        case "BYTES":
            return f"FROM_BASE64({inner('$binary', 'base64')})"
        case "JSON":
            return f"PARSE_JSON(NULLIF({query}, 'null'))"
    raise ValueError(f"no column type {node.type}")


_NUMERIC = r"r'^-?(?:[0-9]{1,29}(?:\.[0-9]{1,9}0*)?|[0-9]{1,9}E-[1-9]|[0-9](?:\.[0-9]{1,9})?E\+[0-9]{1,2})$'"
"""Texts of numbers that NUMERIC holds exactly (others are rounded by a cast, which nobody would notice)."""
_FIRST_MILLISECOND = -62_135_596_800_000
_LAST_MILLISECOND = 253_402_300_799_999


def _time(inner: Callable[..., str]) -> str:
    milliseconds = f"SAFE_CAST({inner('$date', '$numberLong')} AS INT64)"
    return (
        f"CASE WHEN {milliseconds} BETWEEN {_FIRST_MILLISECOND} AND {_LAST_MILLISECOND}"
        f" THEN TIMESTAMP_MILLIS({milliseconds}) END"
    )


_WRAPPED = r"r'^\{" + '"' + r"\$(?:" + "|".join(name[1:] for name in WRAPPERS) + r")" + '"' + "'"


def is_object(text: str) -> str:
    """Whether a canonical text is a document and no wrapper such as `{"$oid":…}`."""
    return f"(STARTS_WITH({text}, '{{') AND NOT REGEXP_CONTAINS({text}, {_WRAPPED}))"


# What is left over.


def unmapped_sql(root: Node, source: str, alias: str | None = None) -> str:
    """Expression of `_unmapped`: a JSON object of everything below the document that no column holds, or NULL.

    `alias`: of a table that has the fields of the first level as columns (`field_columns`); else they are read from `source`.
    """
    items = [_strays(root, source, text('"/'), document=True)] if _may_stray(root) else []
    for number, child in enumerate(root.fields):
        field, path = (source, (child.key,)) if alias is None else (f"{alias}._f{number}", ())
        items += _left_over(child, field, path, "", (child.key,), 0)
    if not items:
        return "CAST(NULL AS JSON)"
    return f"PARSE_JSON(NULLIF(CONCAT('{{', RTRIM({_joined(items)}, ','), '}}'), '{{}}'))"


def _left_over(
    node: Node, source: str, path: tuple[str, ...], head: str, names: tuple[str, ...], depth: int
) -> Iterator[str]:
    """Texts of the members of `_unmapped` (`"<pointer>":<value>,` one after the other) for what no column holds at `path` below
    `source` and further down.

    The pointer is `head` (expression of its first part, with the quote before it; empty for the document) followed by `names`. Of a
    list of objects each object's members stand by its index. A list with anything else that does not fit stands there whole, for its
    column leaves that out, and the indexes of the two differ.
    """
    query = _query(source, path)
    there = f"COALESCE({query}, 'null') != 'null'"
    whole = f"CONCAT({_label(head, names, '":')}, {query}, ',')"
    if node.type == "JSON":
        return
    if node.repeated:
        element, offset = f"u{depth}", f"p{depth}"
        elements = f"UNNEST({_elements(source, path)}) AS {element}"
        held = is_object(element) if node.type == "STRUCT" else f"({_scalar(node, element, ())} IS NOT NULL)"
        odd = (
            f"{there} AND (NOT STARTS_WITH({query}, '[') OR EXISTS(SELECT 1 FROM {elements} WHERE {held} IS NOT TRUE))"
        )
        inside = []
        if node.type == "STRUCT":
            here = f"CONCAT({_label(head, names, '/')}, CAST({offset} AS STRING))"
            inside = [_strays(node, element, f"CONCAT({here}, '/')")] if _may_stray(node) else []
            for child in node.fields:
                inside += _left_over(child, element, (child.key,), here, (child.key,), depth + 1)
        found = f"ARRAY(SELECT {_joined(inside)} FROM {elements} WITH OFFSET AS {offset})" if inside else ""
        yield f"IF({odd}, {whole}, {f"ARRAY_TO_STRING({found}, '')" if inside else "''"})"
    elif node.type == "STRUCT":
        yield f"IF({there} AND NOT {is_object(query)}, {whole}, '')"
        if _may_stray(node):
            yield _strays(node, query, _label(head, names, "/"))
        for child in node.fields:
            yield from _left_over(child, source, (*path, child.key), head, (*names, child.key), depth)
    else:
        yield f"IF({there} AND {_scalar(node, source, path)} IS NULL, {whole}, '')"


def _joined(items: Sequence[str]) -> str:
    listed = ",\n      ".join(items)
    return f"CONCAT(\n      {listed})" if len(items) > 1 else listed


def _label(head: str, names: tuple[str, ...], end: str) -> str:
    """Expression of a pointer in a JSON text, from its opening quote to `end`."""
    rest = _name(pointer(names))[1:-1] + end
    return f"CONCAT({head}, {text(rest)})" if head else text('"' + rest)


def _may_stray(node: Node) -> bool:
    """Whether an object of the node can have keys that are no columns."""
    return node.closed or bool(node.hidden)


def _strays(node: Node, source: str, label: str, *, document: bool = False) -> str:
    """Text of the members (`"<pointer>": <value>,`) of an object, given by its canonical text, that no column holds. `label`:
    expression of the pointer up to its last slash, with the quote before it."""
    members, kept = _members(node, source, "m", document=document)
    key = "REPLACE(REPLACE(" + _MEMBER_KEY.format(member="m") + ", '~', '~0'), '/', '~1')"
    value = f"SUBSTR(m, LENGTH({_MEMBER_KEY.format(member='m')}) + 1)"
    return f"ARRAY_TO_STRING(ARRAY(SELECT CONCAT({label}, {key}, {value}, ',') FROM {members} WHERE {kept}), '')"


def _members(node: Node, source: str, alias: str, *, document: bool = False) -> tuple[str, str]:
    """(table, condition) of an object's members that no column holds, as texts `<key>": <value>`.

    No function of both servers lists an object's members. Pretty-printed, those of the first level, and only they, stand after a new line
    and two spaces: a text in JSON has no new line in it.
    """
    may = is_object(source)
    if not node.closed:
        found = " OR ".join(f"STRPOS({source}, {text(_name(key) + ':')}) > 0" for key in node.hidden)
        may = f"{may} AND ({found})"
    pretty = f"TO_JSON_STRING(PARSE_JSON(IF({may}, {source}, '{{}}')), TRUE)"
    members = f"UNNEST(SPLIT(REGEXP_EXTRACT({pretty}, {_INSIDE}), {text(_BETWEEN)})) AS {alias}"
    known = ", ".join(text(key) for key in (*(["_id"] if document else []), *(child.key for child in node.fields)))
    kept = f"NOT ENDS_WITH({alias}, '\": null')"
    return members, f"{kept} AND {_MEMBER_KEY.format(member=alias)} NOT IN ({known})" if known else kept


_INSIDE = r"""r'(?s)^\{\n  "(.*)\n\}$'"""
_BETWEEN = ',\n  "'
_MEMBER_KEY = r"""REGEXP_EXTRACT({member}, r'^((?:[^"\\]|\\.)*)":')"""


def _name(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


# What a column of the right type cannot hold.


def wide_sql(document: str) -> str:
    """Whether a document may hold a date or a decimal that TIMESTAMP or NUMERIC does not: quick, and true of some that fit."""
    numbers = r'date":\{"\$numberLong":"(?:-[0-9]{14}|[0-9]{15})|numberDecimal":"[^"]*(?:[EIN]|[0-9]{30}|\.[0-9]{10})'
    return f"REGEXP_CONTAINS({document}, r'\"\\$(?:{numbers})')"


_WIDE_KINDS = {"NUMERIC": ("decimal",), "FLOAT64": ("decimal",), "TIMESTAMP": ("date",), "STRING": ("date",)}
_WRAPPER_OF = {kind: wrapper for wrapper, kind in WRAPPERS.items()}


def refused_sql(tables: Tables, root: Node, *, keep_deleted: bool) -> tuple[str, list[tuple[str, str, str]]]:
    """(statement, [(pointer, column's type, kind)]): one row that counts, in the columns `c0`, `c1`, …, the values among the newest
    changes that are of a kind that their column takes, and too large or too fine for it."""
    document = "last_document" if keep_deleted else "document"
    found = [
        (pointer((child.key, *path)), type_, kind, count)
        for number, child in enumerate(root.fields)
        for path, type_, kind, count in _refused(child, f"n._f{number}", (), 0)
    ]
    counts = "".join(f",\n  COALESCE(SUM({count}), 0) AS c{n}" for n, (_, _, _, count) in enumerate(found))
    return (
        f"SELECT\n  COUNT(*) AS documents{counts}\n"
        f"FROM (SELECT n.{document}{field_columns(root, f'n.{document}')} FROM `{tables.newest}` AS n) AS n"
    ), [one[:3] for one in found]


def _refused(
    node: Node, source: str, path: tuple[str, ...], depth: int, *, element: bool = False
) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
    """(path, type, kind, how many of one document)."""
    if node.repeated and not element:
        name = f"r{depth}"
        for inner, type_, kind, count in _refused(node, name, (), depth + 1, element=True):
            inside = f"(SELECT COALESCE(SUM({count}), 0) FROM UNNEST({_elements(source, path)}) AS {name})"
            yield (*path, *inner), f"ARRAY<{type_}>" if not inner else type_, f"[{kind}]" if not inner else kind, inside
    elif node.type == "STRUCT":
        for child in node.fields:
            yield from _refused(child, source, (*path, child.key), depth)
    elif node.type != "STRING" or node.pinned:
        for kind in _WIDE_KINDS.get(node.type, ()):
            starts = text('{"' + _WRAPPER_OF[kind] + '"')
            test = f"STARTS_WITH({_query(source, path)}, {starts}) AND {_scalar(node, source, path)} IS NULL"
            yield path, node.type, kind, f"IF({test}, 1, 0)"


# Statements.


def field_columns(root: Node, source: str) -> str:
    """Select list that takes the fields of the first level out of the document, each once: what is made of them then reads
    short texts and not the document again and again."""
    return "".join(f", {_query(source, (node.key,))} AS _f{number}" for number, node in enumerate(root.fields))


def columns_sql(root: Node, alias: str) -> list[tuple[str, str]]:
    """(column, expression) of every field of the document, over a table that has `field_columns`."""
    return [(node.column, value_sql(node, f"{alias}._f{number}", ())) for number, node in enumerate(root.fields)]


def newest_script(tables: Tables, barrier: str, *, keep_deleted: bool) -> str:
    """Fold what was staged to the newest change of every document (`changes.fold` in SQL), and say what there is.

    `barrier` is the greatest one known before; with `keep_deleted` the newest document of each key stands beside its newest
    state (`KEPT_COLUMNS`). The rows that come back are (kind, value, number, more):
    `bucket`: a partition that the merges will name, its documents, its deletions; `shape`: a distinct shape, its documents;
    `wide`: how many documents may hold what a column of the right type cannot (`refused_sql` counts them);
    `hour`: hours since 1970, their changes; `snapshot`: the same of a snapshot's position, its rows; and one for each drop or rename, with its
    operation as kind, its position, its time in microseconds, and its detail as `more`.
    """
    names = ", ".join(text(name) for name in BARRIER_OPERATIONS)
    distinct = "COUNT(DISTINCT CONCAT(position, operation, COALESCE(_id, '')))"
    hour = "CAST(DIV(CAST(SUBSTR(position, 1, 10) AS INT64), 3600) AS STRING)"
    last = window = ""
    typed_document = "document"
    if keep_deleted:
        last = (
            ",\n  FIRST_VALUE(document IGNORE NULLS) OVER newest_first AS last_document"
            ",\n  FIRST_VALUE(IF(document IS NULL, NULL, position) IGNORE NULLS) OVER newest_first AS last_position"
        )
        window = (
            "\nWINDOW newest_first AS (PARTITION BY _id ORDER BY position DESC, captured_at DESC"
            " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
        )
        typed_document = "last_document"
    shape = SHAPE_SQL.format(document=typed_document)
    return f"""\
CREATE OR REPLACE TABLE `{tables.newest}`
OPTIONS (expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY)) AS
SELECT
  _id,
  IF(position < barrier OR operation = 'delete', NULL, document) AS document,
  position < barrier OR operation = 'delete' AS deleted,
  GREATEST(position, barrier) AS position,
  changed_at,
  captured_at,
  bucket{last}
FROM `{tables.staging}`
CROSS JOIN (
  SELECT GREATEST({text(barrier)}, COALESCE(MAX(position), '')) AS barrier
  FROM `{tables.staging}`
  WHERE operation IN ({names})
)
WHERE _id IS NOT NULL AND NOT (operation = 'update' AND document IS NULL)
QUALIFY ROW_NUMBER() OVER (PARTITION BY _id ORDER BY position DESC, captured_at DESC) = 1{window};
SELECT 'bucket' AS kind, CAST(bucket AS STRING) AS value, COUNT(*) AS number, CAST(COUNTIF(deleted) AS STRING) AS more
FROM `{tables.newest}` GROUP BY bucket
UNION ALL
SELECT 'shape', shape, COUNT(*), ''
FROM (SELECT {shape} AS shape FROM `{tables.newest}` WHERE {typed_document} IS NOT NULL) GROUP BY shape
UNION ALL
SELECT 'wide', '', COUNTIF({wide_sql(typed_document)}), '' FROM `{tables.newest}`
UNION ALL
SELECT IF(operation = 'snapshot', 'snapshot', 'hour'), {hour}, {distinct}, MAX(position)
FROM `{tables.staging}` GROUP BY 1, 2
UNION ALL
SELECT operation, position, UNIX_MICROS(changed_at), COALESCE(detail, '')
FROM `{tables.staging}` WHERE operation IN ({names})
"""


def history_sql(tables: Tables, start: str, end: str, snapshot_hours: Mapping[str, str]) -> str:
    """Replace the history of the hours `[start, end)` by what was staged, each change once: as it was read first, when the
    document that was looked up had had the least time to change again.

    `snapshot_hours`: position of a snapshot → the hour in which it ended, to which its rows belong.
    """
    names = [column["name"] for column in HISTORY_COLUMNS]
    hour = "TIMESTAMP_TRUNC(TIMESTAMP_SECONDS(CAST(SUBSTR(position, 1, 10) AS INT64)), HOUR)"
    if snapshot_hours:
        cases = " ".join(f"WHEN {text(at)} THEN TIMESTAMP {text(h)}" for at, h in sorted(snapshot_hours.items()))
        hour = f"IF(operation = 'snapshot', CASE position {cases} ELSE {hour} END, {hour})"
    fields = ", ".join(f"`{name}`" for name in names[1:])
    all_fields = ", ".join(f"`{name}`" for name in names)
    return f"""\
MERGE `{tables.history}` AS t
USING (
  SELECT {hour} AS hour, {fields}
  FROM `{tables.staging}`
  WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (PARTITION BY position, _id, operation ORDER BY captured_at) = 1
) AS s
ON FALSE
WHEN NOT MATCHED BY SOURCE AND t.hour >= TIMESTAMP {text(start)} AND t.hour < TIMESTAMP {text(end)} THEN DELETE
WHEN NOT MATCHED THEN INSERT ({all_fields}) VALUES ({", ".join(f"s.`{name}`" for name in names)})
"""


HISTORY_COLUMNS: tuple[dict[str, str], ...] = (
    {
        "name": "hour",
        "type": "TIMESTAMP",
        "description": "Hour of the source's clock (UTC); a snapshot's: when it ended.",
    },
    {
        "name": "operation",
        "type": "STRING",
        "description": "insert, update, replace, delete, snapshot, drop, rename, …",
    },
    {"name": "_id", "type": "STRING", "description": "Canonical Extended JSON of the document's _id."},
    {
        "name": "document",
        "type": "STRING",
        "description": "Canonical Extended JSON of the whole document, where known.",
    },
    {"name": "update", "type": "STRING", "description": "Canonical Extended JSON of the update's description."},
    {"name": "position", "type": "STRING", "description": "Cluster time and ordinal; orders as text."},
    {"name": "changed_at", "type": "TIMESTAMP", "description": "Wall time of the change at the source."},
    {"name": "captured_at", "type": "TIMESTAMP", "description": "When the capture read it."},
    {
        "name": "transaction",
        "type": "STRING",
        "description": "Session and number of its transaction, where it had one.",
    },
    {"name": "detail", "type": "STRING", "description": "Of a rename: the new name."},
    {
        "name": "looked_up",
        "type": "STRING",
        "description": "Position of the source when the document was read, where it was not told with the change.",
    },
)


def raw_sql(tables: Tables, buckets: Sequence[str], barrier: str, *, sweep: bool, keep_deleted: bool) -> str:
    """MERGE of the newest changes into the raw table. Names every partition it needs and reads no other.

    `sweep` (only when the changes hold a drop, a rename, or end a repeated snapshot) also turns every document that was last
    seen before the barrier into a deletion; only then the whole table is read. `keep_deleted`: a deleted row keeps the
    newest document that was ever seen of it, which may come after its deletion has been applied.
    """
    columns = ("document", "deleted", "position", "changed_at", "captured_at")
    names = ["_id", *columns, "bucket"]
    values = [f"s.{name}" for name in names]
    assign = [f"{name} = s.{name}" for name in columns]
    swept = ["document = CAST(NULL AS STRING)", "deleted = TRUE", f"position = {text(barrier)}"]
    late = ""
    if keep_deleted:
        known = "IF(t.deleted, t.last_position, t.position)"
        newer = f"COALESCE(s.last_position, '') >= COALESCE({known}, '')"
        assign += [
            f"last_document = IF(s.deleted, IF({newer}, s.last_document, IF(t.deleted, t.last_document, t.document)), NULL)",
            f"last_position = IF(s.deleted, IF({newer}, s.last_position, {known}), NULL)",
        ]
        late = (
            "\nWHEN MATCHED AND t.deleted AND s.last_position > COALESCE(t.last_position, '') THEN\n"
            "  UPDATE SET last_document = s.last_document, last_position = s.last_position"
        )
        names += ["last_document", "last_position"]
        values += ["IF(s.deleted, s.last_document, NULL)", "IF(s.deleted, s.last_position, NULL)"]
        swept += ["last_document = t.document", "last_position = t.position"]
    gone = ""
    if sweep:
        gone = (
            f"WHEN NOT MATCHED BY SOURCE AND t.position < {text(barrier)} AND NOT t.deleted THEN\n"
            f"  UPDATE SET {', '.join(swept)}\n"
        )
    on = "t._id = s._id AND t.bucket = s.bucket" + ("" if sweep else f"\n  AND t.bucket IN ({dates(buckets)})")
    return f"""\
MERGE `{tables.raw}` AS t
USING `{tables.newest}` AS s
ON {on}
WHEN MATCHED AND s.position > t.position THEN UPDATE SET {", ".join(assign)}{late}
WHEN NOT MATCHED THEN INSERT ({", ".join(names)}) VALUES ({", ".join(values)})
{gone}"""


def typed_sql(
    tables: Tables, root: Node, buckets: Sequence[str], barrier: str, *, sweep: bool, keep_deleted: bool
) -> str:
    """MERGE into the typed table of those changes that the raw table also holds as the newest.

    The raw table decides, because deleted documents are not in the typed one: a late change of a deleted document finds the
    deletion there. Only keys and positions of the named partitions are read for that; with `keep_deleted` also what the
    raw table keeps of deleted documents, which is what their typed rows are made of.
    """
    fields = columns_sql(root, "n")
    select = "".join(f",\n    {expression} AS `{column}`" for column, expression in fields)
    names = ["_position", "_changed_at", "_captured_at", "_deleted", "_unmapped", *(column for column, _ in fields)]
    insert = ["_id", "_bucket", *names]
    here = f"\n  AND t._bucket IN ({dates(buckets)})"
    there = f"\n        AND r.bucket IN ({dates(buckets)})"
    assign = ", ".join(f"`{name}` = s.`{name}`" for name in names)
    if keep_deleted:
        gone = kept = ""
        state = (
            "IF(r.deleted, r.last_document, n.document) AS document, r.deleted, r.position, r.changed_at, r.captured_at"
        )
        newest = "(r.position = n.position OR r.deleted)"
    else:
        gone = "WHEN MATCHED AND s._deleted THEN DELETE\n"
        kept = " AND NOT s._deleted"
        state = "n.document, n.deleted, n.position, n.changed_at, n.captured_at"
        newest = "r.position = n.position"
    swept = ""
    if sweep:
        here = ""
        action = f"UPDATE SET _deleted = TRUE, _position = {text(barrier)}" if keep_deleted else "DELETE"
        live = " AND NOT t._deleted" if keep_deleted else ""
        swept = f"WHEN NOT MATCHED BY SOURCE AND t._position < {text(barrier)}{live} THEN {action}\n"
    return f"""\
MERGE `{tables.typed}` AS t
USING (
  SELECT
    n._id,
    n.bucket AS _bucket,
    n.position AS _position,
    n.changed_at AS _changed_at,
    n.captured_at AS _captured_at,
    n.deleted AS _deleted,
    {unmapped_sql(root, "n.document", "n")} AS _unmapped{select}
  FROM (
    SELECT n.*{field_columns(root, "n.document")}
    FROM (
      SELECT n._id, n.bucket, {state}
      FROM `{tables.newest}` AS n
      JOIN `{tables.raw}` AS r
        ON r._id = n._id AND r.bucket = n.bucket AND {newest}{there}
    ) AS n
  ) AS n
) AS s
ON t._id = s._id AND t._bucket = s._bucket{here}
{gone}WHEN MATCHED THEN UPDATE SET {assign}
WHEN NOT MATCHED{kept} THEN
  INSERT ({", ".join(f"`{name}`" for name in insert)})
  VALUES ({", ".join(f"s.`{name}`" for name in insert)})
{swept}"""


def rebuild_sql(tables: Tables, root: Node, *, keep_deleted: bool) -> str:
    """Build the whole typed table anew from the raw one: what a change that BigQuery cannot make in place needs."""
    fields = columns_sql(root, "n")
    own = {
        "_id": "n._id",
        "_position": "n.position",
        "_changed_at": "n.changed_at",
        "_captured_at": "n.captured_at",
        "_deleted": "n.deleted",
        "_bucket": "n.bucket",
        "_unmapped": unmapped_sql(root, "n.document", "n"),
    }
    select = ",\n  ".join(f"{expression} AS `{column}`" for column, expression in (*own.items(), *fields))
    if keep_deleted:
        document = "IF(deleted, last_document, document) AS document"
        source = (
            f"(SELECT _id, {document}, deleted, position, changed_at, captured_at, bucket FROM `{tables.raw}`) AS n"
        )
    else:
        source = f"(SELECT * FROM `{tables.raw}` WHERE NOT deleted) AS n"
    return f"""\
CREATE OR REPLACE TABLE `{tables.typed}`
PARTITION BY DATE_TRUNC(_bucket, MONTH)
CLUSTER BY _id AS
SELECT
  {select}
FROM (
  SELECT n.*{field_columns(root, "n.document")}
  FROM {source}
) AS n
"""


def as_of_view_sql(tables: Tables, barriers: str, collection: str) -> str:
    """Body of the view of every state that a document had, and how long: `WHERE T >= valid_from AND T < valid_to AND NOT deleted`.

    A state ends with the next change of its document, or with the next barrier (`barriers` is the full name of that table).
    `exact`: the document is the one that the change made. The document of an update, or of a snapshot, is looked up after
    it; so it is exact only when neither a further change of it nor a barrier had come by then. Where it was gone by then, the
    state before stands in for it.
    """
    return f"""\
SELECT
  _id,
  IF(operation = 'delete', NULL, LAST_VALUE(document IGNORE NULLS) OVER so_far) AS document,
  operation = 'delete' AS deleted,
  operation IN ('insert', 'replace', 'delete') AND looked_up IS NULL
    OR document IS NOT NULL AND looked_up IS NOT NULL AND COALESCE(LEAD(position) OVER in_order, '~') > looked_up
      AND NOT EXISTS(SELECT 1 FROM UNNEST(barriers) AS b WHERE b.position > h.position AND b.position <= h.looked_up) AS exact,
  position,
  changed_at AS valid_from,
  LEAST(
    COALESCE(LEAD(changed_at) OVER in_order, {_END_OF_TIME}),
    COALESCE((SELECT MIN(b.changed_at) FROM UNNEST(barriers) AS b WHERE b.position > h.position), {_END_OF_TIME})
  ) AS valid_to
FROM `{tables.history}` AS h
CROSS JOIN (
  SELECT ARRAY_AGG(STRUCT(position AS position, changed_at AS changed_at)) AS barriers
  FROM `{barriers}` WHERE collection = {text(collection)}
)
WHERE _id IS NOT NULL
WINDOW
  in_order AS (PARTITION BY _id ORDER BY position),
  so_far AS (PARTITION BY _id ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
"""


_END_OF_TIME = "TIMESTAMP '9999-12-31 23:59:59+00'"


def changes_of_sql(tables: Tables, barriers: str, collection: str) -> str:
    """Every kept change of the document `@key`, and the barriers of its collection, for `history.replay`."""
    return f"""\
SELECT operation, _id, document, `update`, position, changed_at, looked_up
FROM `{tables.history}` WHERE _id = @key
UNION ALL
SELECT operation, NULL, NULL, NULL, position, changed_at, NULL
FROM `{barriers}` WHERE collection = {text(collection)}
"""


CONFLICTS = ("conflict", "too_many_keys", "refused")
"""Steps of `schema_changes` that say of values that have no column."""


def hours_script(hours: str, schema_changes: str) -> str:
    """Write down that `@hours` of `@collections` (lists side by side, within `@first` and `@last`) were applied from `@digests`, with
    `@changes`. The rows that come back say of each of `@names`: the last of its applied hours before which none is missing, and
    its conflicts."""
    return f"""\
MERGE `{hours}` AS t
USING (
  SELECT collection, hour, @digests[OFFSET(o)] AS digest, @changes[OFFSET(o)] AS changes
  FROM UNNEST(@collections) AS collection WITH OFFSET AS o
  JOIN UNNEST(@hours) AS hour WITH OFFSET AS p ON o = p
) AS s
ON t.collection = s.collection AND t.hour = s.hour AND t.hour >= @first AND t.hour <= @last
WHEN MATCHED THEN UPDATE SET digest = s.digest, changes = s.changes, applied_at = CURRENT_TIMESTAMP()
WHEN NOT MATCHED THEN INSERT (hour, collection, digest, changes, applied_at)
  VALUES (s.hour, s.collection, s.digest, s.changes, CURRENT_TIMESTAMP());
SELECT collection, last, COALESCE(conflicts, 0) AS conflicts
FROM (
  SELECT collection, MIN(IF(COALESCE(following > TIMESTAMP_ADD(hour, INTERVAL 1 HOUR), TRUE), hour, NULL)) AS last
  FROM (
    SELECT collection, hour, LEAD(hour) OVER (PARTITION BY collection ORDER BY hour) AS following
    FROM `{hours}` WHERE collection IN UNNEST(@names)
  )
  GROUP BY collection
)
LEFT JOIN (
  SELECT collection, COUNT(*) AS conflicts
  FROM `{schema_changes}` WHERE step IN ({", ".join(text(step) for step in CONFLICTS)}) GROUP BY collection
) USING (collection)
"""


def _query(source: str, path: Sequence[str]) -> str:
    return f"JSON_QUERY({source}, {_path(path)})" if path else source


def _elements(source: str, path: Sequence[str]) -> str:
    """The elements of a list, none of anything else (which the embedded server refuses and BigQuery answers with NULL)."""
    query = _query(source, path)
    return f"JSON_QUERY_ARRAY(IF(STARTS_WITH({query}, '['), {query}, '[]'))"


def _path(path: Sequence[str]) -> str:
    return text("$" + "".join(f'."{key}"' for key in path))


def text(value: str) -> str:
    """A GoogleSQL string literal."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def dates(buckets: Sequence[str]) -> str:
    return ", ".join(f"DATE '{bucket}'" for bucket in buckets) if buckets else "DATE '0001-01-01'"
