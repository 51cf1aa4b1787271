"""The tree of a contract's parameters as GoogleSQL: typed columns, whether they are valid, and every reason why not.

The JSON text of each field is looked up once, in a common table expression `fields` with one column a field; all the rest
is said about these texts (sql_types.py). Repeated fields are read in one pass each, in `arrays`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import FLATTEN_SEPARATOR, Field

from . import reasons as why
from .reasons import INEXACT_NUMBER, UNREADABLE, Reason
from .sql_types import FIRST_TIME, LAST_TIME, bounds, form, literal, value

_RESERVED = """
all and any array as asc assert_rows_modified at between by case cast collate contains create cross cube current
    default define desc distinct else end enum escape except exclude exists extract false fetch following for from full
    group grouping groups hash having if ignore in inner intersect interval into is join lateral left like limit lookup
    merge natural new no not null nulls of on or order outer over partition preceding proto qualify range recursive respect
    right rollup rows select set some struct tablesample then to treat true unbounded union unnest using when where window
    with within"""
RESERVED = frozenset(_RESERVED.split())
"""GoogleSQL's reserved words: names that have to be quoted."""

ENVELOPE_TEXTS = ("user_id", "device_id", "session_id", "platform", "app_version")


def quoted(name: str) -> str:
    return f"`{name}`" if name.lower() in RESERVED else name


@dataclass(frozen=True, slots=True)
class Place:
    """One field of the tree outside of arrays.

    `text` is the column of `fields` with its JSON text (NULL: missing or null); `pointer` its JSON pointer; `owner` the
    `text` of the STRUCT it is a member of (of the parameters, on top); `column` its flattened name.
    """

    field: Field
    column: str
    text: str
    owner: str
    path: str
    pointer: str

    @property
    def array(self) -> str:
        """Column of `arrays` with what was read of a repeated field: STRUCT<items, valid, more, extra>."""
        return f"{self.column}__read"


PARAMS = "_params"


def places(fields: tuple[Field, ...], owner: str = PARAMS, path: tuple[str, ...] = ()) -> Iterator[Place]:
    """All fields outside of arrays, a STRUCT before its members, in the order of the contract."""
    for field in fields:
        here = (*path, field.name)
        column = FLATTEN_SEPARATOR.join(here)
        text = f"{column}__text"
        yield Place(field, column, text, owner, ".".join(("$.params", *here)), "/".join(("/params", *here)))
        if field.type == "STRUCT" and not field.repeated:
            yield from places(field.fields, text, here)


def is_flattened(field: Field) -> bool:
    return field.type == "STRUCT" and not field.repeated


def json_text(source: str, path: str) -> str:
    """JSON text of a member; NULL where it is missing or null (the embedded server gives the text `null`)."""
    return f"NULLIF(JSON_QUERY({source}, '{path}'), 'null')"


def fields_columns(contract: EventContract, source: str) -> str:
    """Columns of `fields`: the text of the parameters and of each of them."""
    columns = [f"{json_text(source, '$.params')} AS {PARAMS}"]
    columns += [f"{json_text(source, place.path)} AS {place.text}" for place in places(contract.params)]
    return ",\n      ".join(columns)


# -- accepted rows ----------------------------------------------------------------------------------------------------


def typed_select(contract: EventContract) -> tuple[list[str], str]:
    """Names of the table's columns, and the SQL from `fresh` (event_id, event, received_at, hour, payload) to its rows.

    `fresh` must hold only payloads that are readable JSON.
    """
    everything = list(places(contract.params))
    columns = [
        ("event_id", "event_id"),
        ("event", "event"),
        ("event_time", "event_time"),
        ("sent_at", "sent_at"),
        *((name, name) for name in ENVELOPE_TEXTS),
        ("received_at", "received_at"),
        ("hour", "hour"),
        ("occurred_at", occurred_at()),
    ]
    for place in everything:
        if place.field.repeated:
            columns.append((quoted(place.column), f"IFNULL({place.array}.items, [])"))
        elif not is_flattened(place.field):
            columns.append((quoted(place.column), value(place.field, place.text)))
    columns.append(("_extra", extra_column(contract)))
    selected = ",\n  ".join(sql if sql == name else f"{sql} AS {name}" for name, sql in columns)
    valid = "\n  AND ".join(f"({valid_condition(place)})" for place in everything) or "TRUE"
    return (
        [name for name, _ in columns],
        f"""\
  fields AS (  -- the JSON text of each parameter; NULL where it is missing or null
    SELECT event_id, event, received_at, hour,
      SAFE_CAST(JSON_VALUE(payload, '$.event_time') AS TIMESTAMP) AS event_time,
      SAFE_CAST(JSON_VALUE(payload, '$.sent_at') AS TIMESTAMP) AS sent_at,
      {_lines(f"JSON_VALUE(payload, '$.{name}') AS {name}" for name in ENVELOPE_TEXTS)},
      {fields_columns(contract, "payload")}
    FROM fresh
  ){arrays_clause(everything)}
SELECT
  {selected}
FROM {"arrays" if any(place.field.repeated for place in everything) else "fields"}
WHERE {valid}""",
    )


def _lines(columns: Iterator[str]) -> str:
    return ",\n      ".join(columns)


def occurred_at() -> str:
    """The device's time, corrected by how far its clock was off; NULL beyond the years 1 to 9999."""
    micros = "UNIX_MICROS(event_time) + UNIX_MICROS(received_at) - UNIX_MICROS(sent_at)"
    return (
        f"CASE WHEN sent_at IS NULL THEN event_time"
        f" WHEN {micros} BETWEEN UNIX_MICROS({FIRST_TIME}) AND UNIX_MICROS({LAST_TIME})"
        f" THEN TIMESTAMP_MICROS({micros}) END"
    )


def valid_condition(place: Place) -> str:
    """Condition that is TRUE where the field is as the contract says, given that its owner is."""
    field, q = place.field, place.text
    right = valid_value(field, q)
    if field.repeated:
        right = f"STARTS_WITH({q}, '[') AND IFNULL({place.array}.valid, TRUE)"
    if not field.required:
        return right if right == "TRUE" else f"{q} IS NULL OR {_grouped(right)}"
    present = f"{q} IS NOT NULL" if right == "TRUE" else f"{q} IS NOT NULL AND {_grouped(right)}"
    return present if place.owner == PARAMS else f"{place.owner} IS NULL OR {_grouped(present)}"


def valid_value(field: Field, q: str) -> str:
    """Condition on a text that is not NULL: form and bounds of one value."""
    conditions = [form(field, q), *(f"NOT ({broken})" for _, broken in bounds(field, q))]
    return " AND ".join(map(_grouped, conditions)) if len(conditions) > 1 else conditions[0]


def _grouped(condition: str) -> str:
    return f"({condition})" if " OR " in condition or " AND " in condition else condition


def elements(q: str) -> str:
    """Elements of a repeated field as rows: `e` the JSON text (NULL for null), `o` the position."""
    return f"UNNEST(IF(STARTS_WITH({q}, '['), JSON_QUERY_ARRAY({q}, '$'), [])) AS e WITH OFFSET AS o"


def arrays_clause(everything: list[Place]) -> str:
    """Common table expression `arrays`: `fields`, and what was read of each repeated field."""
    repeated = [place for place in everything if place.field.repeated]
    if not repeated:
        return ""
    columns = ",\n      ".join(f"{read_array(place.field, place.text, 6)} AS {place.array}" for place in repeated)
    return f""",
  arrays AS (  -- each repeated parameter, read element by element in one pass
    SELECT *,
      {columns}
    FROM fields
  )"""


def read_array(field: Field, q: str, indent: int) -> str:
    """Sub-query that reads a repeated field: STRUCT<items ARRAY, valid BOOL, more BOOL, extra STRING>.

    `more`: an element has keys that the contract does not know; `extra`: these, as the text of a JSON array with an object
    for each element.
    """
    pad = " " * indent
    if field.type != "STRUCT":
        e = "NULLIF(e, 'null')"
        return (
            f"(SELECT AS STRUCT\n{pad}  ARRAY_AGG({value(field, 'e')} ORDER BY o) AS items,\n"
            f"{pad}  LOGICAL_AND({e} IS NOT NULL AND {_grouped(valid_value(field, 'e'))}) AS valid\n"
            f"{pad}FROM {elements(q)})"
        )
    members = list(members_of(field.fields))
    plain = [f"{json_text('e', path)} AS {alias}" for _, alias, path, _ in members]
    nested = [
        f"{read_array(child, alias, indent + 6)} AS {alias}_read" for child, alias, _, _ in members if child.repeated
    ]
    inner = f"(\n{pad}  SELECT o, NULLIF(e, 'null') AS e, {', '.join(plain)}\n{pad}  FROM {elements(q)}\n{pad})"
    if nested:
        inner = f"(\n{pad}  SELECT *, {', '.join(nested)}\n{pad}  FROM {inner}\n{pad})"
    valid = ["e IS NOT NULL", "STARTS_WITH(e, '{')"]
    for child, alias, _, owner in members:
        if child.repeated:
            right = f"STARTS_WITH({alias}, '[') AND IFNULL({alias}_read.valid, TRUE)"
        else:
            right = valid_value(child, alias)
        if child.required:
            condition = f"{alias} IS NOT NULL" + ("" if right == "TRUE" else f" AND {_grouped(right)}")
            valid.append(condition if owner == "e" else f"{owner} IS NULL OR {_grouped(condition)}")
        elif right != "TRUE":
            valid.append(f"{alias} IS NULL OR {_grouped(right)}")
    conditions = " AND ".join(_grouped(condition) for condition in valid)
    more = f"IFNULL({more_condition('e', members)}, FALSE)"
    extra = extra_text(field.fields, "e", members)
    return (
        f"(SELECT AS STRUCT\n"
        f"{pad}  ARRAY_AGG({struct_value('e', members)} ORDER BY o) AS items,\n"
        f"{pad}  LOGICAL_AND({conditions}) AS valid,\n"
        f"{pad}  LOGICAL_OR({more}) AS more,\n"
        f"{pad}  ARRAY_TO_STRING(ARRAY_AGG(IF({more}, IFNULL({extra}, '{{}}'), '{{}}') ORDER BY o), ',') AS extra\n"
        f"{pad}FROM {inner})"
    )


type Member = tuple[Field, str, str, str]
"""Field, alias of its text, its path below the element, alias of its owner's text."""


def members_of(fields: tuple[Field, ...], owner: str = "e", path: str = "$", prefix: str = "m") -> Iterator[Member]:
    """Fields of an element down to the next arrays, a STRUCT before its members."""
    for index, field in enumerate(fields):
        alias = f"{prefix}{index}"
        here = f"{path}.{field.name}"
        yield field, alias, here, owner
        if is_flattened(field):
            yield from members_of(field.fields, alias, here, f"{alias}_")


def struct_value(owner: str, members: list[Member]) -> str:
    """A STRUCT of typed values (inside of arrays, STRUCTs stay nested)."""
    values = []
    for field, alias, _, own in members:
        if own != owner:
            continue
        if field.repeated:
            sql = f"IFNULL({alias}_read.items, [])"
        elif field.type == "STRUCT":
            sql = f"IF({alias} IS NULL, NULL, {struct_value(alias, members)})"
        else:
            sql = value(field, alias)
        values.append(f"{sql} AS {quoted(field.name)}")
    return f"STRUCT({', '.join(values)})"


# -- what no contract knows -------------------------------------------------------------------------------------------


def known_size(owner: str, members: list[Member]) -> str:
    """Bytes of an object's text if it has no other keys than the contract's: `{"key":text,…}` without white space."""
    terms = ["1"]
    for field, alias, _, own in members:
        if own != owner:
            continue
        inner = known_size(alias, members) if is_flattened(field) else f"BYTE_LENGTH({alias})"
        terms.append(f"IF({alias} IS NULL, 0, {len(field.name) + 4} + {inner})")
    return " + ".join(terms)


def more_condition(owner: str, members: list[Member]) -> str:
    """Condition: the object (or an object below it) may have keys that the contract does not know.

    Counting bytes is cheap, and never misses a key: without one the text is exactly as long as its known parts.
    """
    conditions = [f"BYTE_LENGTH({owner}) != {known_size(owner, members)}"]
    conditions += [
        f"IFNULL({_read(alias)}.more, FALSE)"
        for field, alias, _, _ in members
        if field.repeated and field.type == "STRUCT"
    ]
    return " OR ".join(conditions)


def _read(alias: str) -> str:
    return f"{alias.removesuffix('__text')}__read" if alias.endswith("__text") else f"{alias}_read"


def extra_text(fields: tuple[Field, ...], owner: str, members: list[Member]) -> str:
    """Text of a JSON object with the unknown keys of an object and of the objects below it; NULL where there are none."""
    own = f"PARSE_JSON({owner}, wide_number_mode => 'round')"
    for field in fields:
        own = f"JSON_REMOVE({own}, '$.{field.name}')"
    own = f"TO_JSON_STRING({own})"
    parts = []
    for field, alias, _, member_of in members:
        if member_of != owner or field.type != "STRUCT":
            continue
        key = literal(f'"{field.name}":')
        if field.repeated:
            parts.append(f"IF({_read(alias)}.more, CONCAT({key}, '[', {_read(alias)}.extra, ']'), NULL)")
        else:
            parts.append(
                f"IF(STARTS_WITH({alias}, '{{'), CONCAT({key}, {extra_text(field.fields, alias, members)}), NULL)"
            )
    if not parts:
        return f"NULLIF({own}, '{{}}')"
    inner = f"NULLIF(SUBSTR({own}, 2, LENGTH({own}) - 2), '')"
    return f"NULLIF(CONCAT('{{', ARRAY_TO_STRING([{', '.join([inner, *parts])}], ','), '}}'), '{{}}')"


def extra_column(contract: EventContract) -> str:
    members: list[Member] = [(p.field, p.text, p.path, p.owner) for p in places(contract.params)]
    more = more_condition(PARAMS, members)
    extra = extra_text(contract.params, PARAMS, members)
    return f"IF({more}, PARSE_JSON({extra}, wide_number_mode => 'round'), NULL)"


# -- rejected rows ----------------------------------------------------------------------------------------------------


def rejected_select(contract: EventContract) -> str:
    """The SQL from `fresh` (all of received) to rejected rows, with every reason."""
    regex = inexact_paths(contract)
    minded = f" OR (readable AND REGEXP_CONTAINS(f.path, {literal(regex)}))" if regex else ""
    reasons = ",\n        ".join(contract_reasons(contract))
    unreadable = ", ".join(literal(code) for code in UNREADABLE)
    found = f"IF(readable, ARRAY_CONCAT(\n        {reasons}\n      ), [])" if reasons else "[]"
    if not reasons:
        found = f"IF(FALSE, [{struct(Reason('', '', ''))}], [])"
    return f"""\
  judged AS (
    SELECT *, NOT (refused AND EXISTS (SELECT 1 FROM UNNEST(faults) AS f WHERE f.code IN ({unreadable}))) AS readable
    FROM fresh
  ),
  fields AS (  -- the JSON text of each parameter; NULL where it is missing or null, and where the event is unreadable
    SELECT event_id, event, hour, received_at, source, payload, file, line, readable, faults,
      {fields_columns(contract, "IF(readable, payload, NULL)")}
    FROM judged
  ),
  found AS (
    SELECT event_id, event, hour, received_at, source, payload, file, line,
      IF(ARRAY_LENGTH(faults) = 0, [], ARRAY(
        SELECT AS STRUCT f.path AS path, f.code AS code, f.message AS message
        FROM UNNEST(faults) AS f WHERE f.code != '{INEXACT_NUMBER.code}'{minded}
      )) AS told,
      {found} AS found
    FROM fields
  )
SELECT event_id, event, hour, received_at, source, payload, {literal(contract.version)},
  IF(ARRAY_LENGTH(told) = 0, found, ARRAY_CONCAT(told, ARRAY(  -- what the door has told is not told again
    SELECT AS STRUCT r.path AS path, r.code AS code, r.message AS message
    FROM UNNEST(found) AS r WHERE r.path NOT IN (SELECT t.path FROM UNNEST(told) AS t)
  ))),
  file, line
FROM found
WHERE ARRAY_LENGTH(told) + ARRAY_LENGTH(found) > 0"""


def struct(reason: Reason, path: str | None = None) -> str:
    return (
        f"STRUCT({path or literal(reason.path)} AS path, {literal(reason.code)} AS code,"
        f" {literal(reason.message)} AS message)"
    )


def contract_reasons(contract: EventContract) -> list[str]:
    """SQL of arrays of reasons, to be concatenated: one for each thing that can be wrong."""
    found: list[str] = []
    for place in places(contract.params):
        owner = "TRUE" if place.owner == PARAMS else f"STARTS_WITH({place.owner}, '{{')"
        found += field_reasons(place.field, place.text, owner, literal(place.pointer))
        if place.field.repeated:
            found += array_reasons(place.field, place.text, literal(f"{place.pointer}/"), 8)
    return found


def field_reasons(field: Field, q: str, owner: str, path: str) -> list[str]:
    """Arrays of reasons against one field (its elements left out); `path` is SQL for its pointer."""
    found = []
    if field.required:
        present = "" if owner == "TRUE" else f"{owner} AND "
        found.append(_if(f"{present}{q} IS NULL", Reason("", "missing", why.MISSING), path))
    if field.repeated:
        found.append(_if(f"NOT STARTS_WITH({q}, '[')", Reason("", "wrong_type", why.WRONG_TYPE_REPEATED), path))
    else:
        found += value_reasons(field, q, path)
    return found


def value_reasons(field: Field, q: str, path: str) -> list[str]:
    """Arrays of reasons against one value, whose text may be NULL."""
    right = form(field, q)
    if right == "TRUE":
        return []
    found = [_if(f"{q} IS NOT NULL AND NOT ({right})", why.wrong_type(field), path)]
    found += [_if(f"{_grouped(right)} AND {broken}", reason, path) for reason, broken in bounds(field, q)]
    return found


def _if(condition: str, reason: Reason, path: str) -> str:
    return f"IF({condition}, [{struct(reason, path)}], [])"


def array_reasons(field: Field, q: str, path: str, indent: int) -> list[str]:
    """Arrays of reasons against the elements of a repeated field; `path` is SQL for its pointer and a slash."""
    pad = " " * indent
    here = f"CONCAT({path}, CAST(o AS STRING))"
    null = _if("e IS NULL", Reason("", "null_element", why.NULL_ELEMENT), here)
    columns = ["o", "NULLIF(e, 'null') AS e"]
    found = [null, *value_reasons(field, "e", here)]
    if field.type == "STRUCT":
        for child, alias, member_path, owner in members_of(field.fields):
            columns.append(f"{json_text('e', member_path)} AS {alias}")
            pointer = literal(member_path.replace("$", "").replace(".", "/"))
            spot = f"CONCAT({here}, {pointer})"
            found += field_reasons(child, alias, f"STARTS_WITH({owner}, '{{')", spot)
            if child.repeated:
                found += array_reasons(child, alias, f"CONCAT({here}, {pointer}, '/')", indent + 6)
    concatenated = f",\n{pad}    ".join(found)
    return [
        f"ARRAY(\n{pad}  SELECT AS STRUCT r.path AS path, r.code AS code, r.message AS message\n"
        f"{pad}  FROM (SELECT {', '.join(columns)} FROM {elements(q)}) AS x, UNNEST(ARRAY_CONCAT(\n"
        f"{pad}    {concatenated}\n{pad}  )) AS r\n{pad})"
    ]


# -- numbers that the door has found to be inexact --------------------------------------------------------------------


def inexact_paths(contract: EventContract) -> str:
    """Regular expression of the pointers where an inexact number is a reason: NUMERIC, and anywhere in JSON."""
    found = list(_inexact(contract.params, "/params/"))
    return f"^(?:{'|'.join(found)})" if found else ""


def _inexact(fields: tuple[Field, ...], path: str) -> Iterator[str]:
    for field in fields:
        here = f"{path}{field.name}" + ("/[0-9]+" if field.repeated else "")
        if field.type == "NUMERIC":
            yield f"{here}$"
        elif field.type == "JSON":
            yield f"{here}(?:/|$)"
        elif field.type == "STRUCT":
            yield from _inexact(field.fields, f"{here}/")
