"""The tree of a contract's parameters as GoogleSQL: typed columns, whether they are valid, and every reason why not.

The JSON text of each field is looked up once, in a common table expression `fields` with one column a field; all the rest
is said about these texts (sql_types.py). Repeated fields are read in one pass each, in `arrays`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import FLATTEN_SEPARATOR, Field

from . import reasons as why
from .reasons import INEXACT_NUMBER, UNREADABLE, Reason
from .sql_types import (
    FIRST_CHARACTERS,
    FIRST_OF_ARRAY,
    FIRST_TIME,
    LAST_TIME,
    begins_otherwise,
    bounds,
    form,
    literal,
    null_or_begins,
    value,
)

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
class Member:
    """One field of an object, down to the next arrays.

    `text` is the SQL column with its JSON text (see `json_text`), `value` that with its typed value (of a repeated
    field: STRUCT<items, valid, extra>), `owner` the `text` of the object it is in. `path` are the keys from the
    outermost object (the parameters, or one element of an array).
    """

    field: Field
    text: str
    value: str
    owner: str
    path: tuple[str, ...]

    @property
    def own(self) -> str:
        """Column with the text of a STRUCT's keys that the contract does not know (`{…}`)."""
        return f"{self.text}_own"

    @property
    def flattened(self) -> bool:
        return self.field.type == "STRUCT" and not self.field.repeated


PARAMS = "_params"
VALID = "_valid__"
"""Column of the judged rows: the contract accepts it. No parameter can be called so (`__` is for flattening)."""
ELEMENT = "e"


def parameters(contract: EventContract) -> list[Member]:
    """The parameters outside of arrays, a STRUCT before its members; typed values are named as the table's columns."""
    columns = {column.name.lower() for column in contract.columns}
    mark = "__text"
    while any(f"{name}{mark}" in columns or name.endswith(mark) for name in columns):
        mark += "_"

    def walk(fields: tuple[Field, ...], owner: str, path: tuple[str, ...]) -> Iterator[Member]:
        for field in fields:
            here = (*path, field.name)
            name = FLATTEN_SEPARATOR.join(here)
            read = f"{name}{mark}read" if field.repeated else quoted(name)
            yield Member(field, f"{name}{mark}", read, owner, here)
            if field.type == "STRUCT" and not field.repeated:
                yield from walk(field.fields, f"{name}{mark}", here)

    return list(walk(contract.params, PARAMS, ()))


def element_members(fields: tuple[Field, ...]) -> list[Member]:
    """The fields of one element of an array, likewise; columns are numbered, names being free within an element."""

    def walk(fields: tuple[Field, ...], owner: str, path: tuple[str, ...], prefix: str) -> Iterator[Member]:
        for index, field in enumerate(fields):
            here = (*path, field.name)
            text = f"{prefix}{index}"
            yield Member(field, text, f"{text}_read" if field.repeated else value_of(field, text), owner, here)
            if field.type == "STRUCT" and not field.repeated:
                yield from walk(field.fields, text, here, f"{text}_")

    return list(walk(fields, ELEMENT, (), "m"))


def value_of(field: Field, q: str) -> str:
    return "" if field.type == "STRUCT" else value(field, q)


def json_text(source: str, *path: str) -> str:
    """JSON text of a member; NULL where it is missing. Of a null, BigQuery gives NULL and the embedded server `null`."""
    return f"JSON_QUERY({source}, '{'.'.join(('$', *path))}')"


def missing(q: str) -> str:
    """Condition, never NULL: the member is missing or null."""
    return f"IFNULL({q}, 'null') = 'null'"


def present(q: str) -> str:
    return f"IFNULL({q}, 'null') != 'null'"


def lines(columns: Iterable[str], indent: int) -> str:
    return (",\n" + " " * indent).join(columns)


def texts(members: list[Member], source: str) -> list[str]:
    """Columns of `fields`: the text of the parameters and of each of them."""
    return [
        f"{json_text(source, 'params')} AS {PARAMS}",
        *(f"{json_text(source, 'params', *member.path)} AS {member.text}" for member in members),
    ]


# -- accepted rows ----------------------------------------------------------------------------------------------------


def typed_select(contract: EventContract) -> tuple[list[str], str]:
    """Names of the table's columns, and the SQL from `fresh` (event_id, event, received_at, hour, payload) to its rows.

    `fresh` must hold only payloads that are readable JSON.
    """
    members = parameters(contract)
    envelope = ["event_id", "event", "event_time", "sent_at", *ENVELOPE_TEXTS, "received_at", "hour"]
    own_columns = [quoted(column.name) for column in contract.columns]
    arrays = [f"{read_array(m.field, m.text, 6)} AS {m.value}" for m in members if m.field.repeated]
    typed = [f"{value(m.field, m.text)} AS {m.value}" for m in members if not m.field.repeated and not m.flattened]
    typed += own_texts(contract.params, PARAMS, members)
    arrays_clause = f"""
  arrays AS (  -- each repeated parameter, read element by element in one pass
    SELECT *,
      {lines(arrays, 6)}
    FROM fields
  ),"""
    valid = "\n    AND ".join(f"({condition})" for condition in valid_conditions(members)) or "TRUE"
    results = [
        f"IFNULL({m.value}.items, []) AS {quoted(FLATTEN_SEPARATOR.join(m.path))}" if m.field.repeated else m.value
        for m in members
        if not m.flattened
    ]
    columns = [*envelope, "occurred_at", *own_columns, "_extra"]
    return (
        columns,
        f"""\
  fields AS (  -- the JSON text of each parameter; NULL where it is missing
    SELECT event_id, event, received_at, hour,
      SAFE_CAST(JSON_VALUE(payload, '$.event_time') AS TIMESTAMP) AS event_time,
      SAFE_CAST(JSON_VALUE(payload, '$.sent_at') AS TIMESTAMP) AS sent_at,
      {lines((f"JSON_VALUE(payload, '$.{name}') AS {name}" for name in ENVELOPE_TEXTS), 6)},
      {lines(texts(members, "payload"), 6)}
    FROM fresh
  ),{arrays_clause if arrays else ""}
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      UNIX_MICROS(event_time) + UNIX_MICROS(received_at) - UNIX_MICROS(sent_at) AS _micros,
      {lines(typed, 6)}
    FROM {"arrays" if arrays else "fields"}
  )
SELECT
  {", ".join(envelope)},
  CASE
    WHEN sent_at IS NULL THEN event_time
    WHEN _micros BETWEEN UNIX_MICROS({FIRST_TIME}) AND UNIX_MICROS({LAST_TIME}) THEN TIMESTAMP_MICROS(_micros)
  END AS occurred_at,
  {"".join(f"{result}, " for result in results)}
  {extra_column(members)} AS _extra,
  {valid} AS {VALID}
FROM typed""",
    )


def valid_conditions(members: list[Member]) -> Iterator[str]:
    """Conditions that are all TRUE where the members of an object are as the contract says."""
    for member in members:
        q = member.text
        right = valid_value(member)
        if not member.field.required:
            first = None if member.field.repeated else FIRST_CHARACTERS.get(member.field.type)
            if first and not bounds(member.field, member.value):
                yield null_or_begins(q, first)
            elif right != "TRUE":
                yield f"{missing(q)} OR {grouped(right)}"
            continue
        here = present(q) if right == "TRUE" else right  # no form is right for null
        yield here if member.owner in (PARAMS, ELEMENT) else f"{missing(member.owner)} OR {grouped(here)}"


def valid_value(member: Member) -> str:
    """Condition on the text of a member that is there: form and bounds."""
    if member.field.repeated:
        return f"STARTS_WITH({member.text}, '[') AND IFNULL({member.value}.valid, TRUE)"
    return valid_scalar(member.field, member.text, member.value)


def valid_scalar(field: Field, q: str, x: str) -> str:
    conditions = [form(field, q, x), *(condition for _, condition in bounds(field, x))]
    return " AND ".join(map(grouped, conditions)) if len(conditions) > 1 else conditions[0]


def grouped(condition: str) -> str:
    return f"({condition})" if " OR " in condition or " AND " in condition else condition


def elements(q: str, offset: str = "o") -> str:
    """Elements of a repeated field as rows: `e` the JSON text (NULL for null), `o` the position."""
    return f"UNNEST(IF(STARTS_WITH({q}, '['), JSON_QUERY_ARRAY({q}, '$'), [])) AS e WITH OFFSET AS {offset}"


def read_array(field: Field, q: str, indent: int) -> str:
    """Sub-query that reads a repeated field: STRUCT<items ARRAY, valid BOOL, extra STRING>.

    `extra`: keys of the elements that the contract does not know, as the text of a JSON array with an object for each
    element; NULL where there are none.
    """
    pad = "\n" + " " * indent
    if field.type != "STRUCT":
        valid = valid_scalar(field, "e", value(field, "e"))
        condition = present("e") + ("" if valid == "TRUE" else f" AND {grouped(valid)}")
        return (
            # BigQuery writes no array with a NULL in it, not even that of a row which is not valid and goes nowhere.
            f"(SELECT AS STRUCT{pad}  ARRAY_AGG({value(field, 'e')} IGNORE NULLS ORDER BY o) AS items,"
            f"{pad}  LOGICAL_AND(IFNULL({condition}, FALSE)) AS valid"
            f"{pad}FROM {elements(q)})"
        )
    members = element_members(field.fields)
    columns = [f"{json_text('e', *member.path)} AS {member.text}" for member in members]
    rows = f"(SELECT {', '.join(['o', 'e', *columns])}{pad}    FROM {elements(q)})"
    # Columns by name: with a star in a correlated sub-query, the embedded server cannot tell whose column a name is.
    names = ["o", "e", *(member.text for member in members)]
    nested = [f"{read_array(m.field, m.text, indent + 4)} AS {m.value}" for m in members if m.field.repeated]
    if nested:
        rows = f"(SELECT {', '.join(names + nested)}{pad}    FROM {rows})"
        names += [member.value for member in members if member.field.repeated]
    own = own_texts(field.fields, ELEMENT, members)
    rows = f"(SELECT {', '.join(names + own)}{pad}    FROM {rows})"
    conditions = " AND ".join(map(grouped, ["STARTS_WITH(e, '{')", *valid_conditions(members)]))
    extra = extra_text(ELEMENT, members)
    more = f"LOGICAL_OR({extra} IS NOT NULL)"
    extras = f"ARRAY_TO_STRING(ARRAY_AGG(IFNULL({extra}, '{{}}') ORDER BY o), ',')"
    return (
        f"(SELECT AS STRUCT{pad}  ARRAY_AGG({struct_value(ELEMENT, members)} ORDER BY o) AS items,"
        f"{pad}  LOGICAL_AND(IFNULL({conditions}, FALSE)) AS valid,"
        f"{pad}  IF({more}, {extras}, NULL) AS extra"
        f"{pad}FROM {rows})"
    )


def struct_value(owner: str, members: list[Member]) -> str:
    """A STRUCT of typed values (inside of arrays, STRUCTs stay nested)."""
    values = []
    for member in members:
        if member.owner != owner:
            continue
        sql = member.value
        if member.field.repeated:
            sql = f"IFNULL({member.value}.items, [])"
        elif member.flattened:
            sql = f"IF({missing(member.text)}, NULL, {struct_value(member.text, members)})"
        values.append(f"{sql} AS {quoted(member.field.name)}")
    return f"STRUCT({', '.join(values)})"


# -- what no contract knows -------------------------------------------------------------------------------------------


def known_size(owner: str, members: list[Member]) -> str:
    """Length of an object's text if it has no other keys than the contract's: `{"key":text,…}` without white space."""
    terms = ["1"]
    for member in members:
        if member.owner == owner:
            size = known_size(member.text, members) if member.flattened else f"LENGTH({member.text})"
            terms.append(f"IFNULL({len(member.field.name) + 4} + {size}, 0)")
    size = " + ".join(terms)
    return size if owner in (PARAMS, ELEMENT) else f"IF(STARTS_WITH({owner}, '{{'), {size}, LENGTH({owner}))"


def own_texts(fields: tuple[Field, ...], owner: str, members: list[Member]) -> list[str]:
    """Columns with the unknown keys of an object, and of each STRUCT in it, as text (`{…}`); NULL where there are none.

    Comparing lengths is cheap and never misses a key: without one the text is exactly as long as its known parts (a text
    with white space is longer, and looked at as well). Only then the known keys are taken out, one by one.
    """
    nested = [f"{m.value}.extra IS NOT NULL" for m in members if m.field.repeated and m.field.type == "STRUCT"]
    more = " OR ".join([f"LENGTH({owner}) != {known_size(owner, members)}", *nested])
    columns = [f"IF(STARTS_WITH({owner}, '{{') AND ({more}), {without(fields, owner)}, NULL) AS {owner}_own"]
    columns += [
        f"IF(STARTS_WITH({m.text}, '{{') AND LENGTH({m.text}) != {known_size(m.text, members)},"
        f" {without(m.field.fields, m.text)}, NULL) AS {m.own}"
        for m in members
        if m.flattened
    ]
    return columns


def without(fields: tuple[Field, ...], q: str) -> str:
    """Text of a JSON object without its known keys."""
    rest = f"PARSE_JSON({q}, wide_number_mode => 'round')"
    for field in fields:
        rest = f"JSON_REMOVE({rest}, '$.{field.name}')"
    return f"TO_JSON_STRING({rest})"


def extra_text(owner: str, members: list[Member]) -> str:
    """Text of a JSON object with the unknown keys of an object and of the objects below it; NULL where there are none."""
    parts = []
    for member in members:
        if member.owner != owner or member.field.type != "STRUCT":
            continue
        key = literal(f'"{member.field.name}":')
        if member.field.repeated:
            parts.append(f"CONCAT({key}, '[', {member.value}.extra, ']')")
        else:
            parts.append(f"CONCAT({key}, {extra_text(member.text, members)})")
    own = f"{owner}_own"
    if not parts:
        return f"NULLIF({own}, '{{}}')"
    inner = f"NULLIF(SUBSTR({own}, 2, LENGTH({own}) - 2), '')"
    return f"NULLIF(CONCAT('{{', ARRAY_TO_STRING([{', '.join([inner, *parts])}], ','), '}}'), '{{}}')"


def extra_column(members: list[Member]) -> str:
    text = extra_text(PARAMS, members)
    return f"IF({PARAMS}_own IS NULL, NULL, PARSE_JSON({text}, wide_number_mode => 'round'))"


# -- rejected rows ----------------------------------------------------------------------------------------------------


def reasons_select(contract: EventContract) -> str:
    """The SQL from `own` (hour, file, line, payload, faults, readable) to what was found against each row: hour, file, line, version, told,
    found. `told` are the door's faults that count, `found` what the contract says; both may be empty."""
    members = parameters(contract)
    regex = inexact_paths(contract)
    minded = f" OR (readable AND REGEXP_CONTAINS(f.path, {literal(regex)}))" if regex else ""
    typed = [f"{value(m.field, m.text)} AS {m.value}" for m in members if is_compared(m.field)]
    typed_clause = f""",
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      {lines(typed, 6)}
    FROM fields
  )"""
    reasons = contract_reasons(members) or [f"IF(FALSE, [{struct(Reason('', '', ''))}], [])"]
    return f"""\
  fields AS (  -- the JSON text of each parameter; NULL where it is missing, and where the event cannot be read
    SELECT hour, file, line, readable, faults,
      {lines(texts(members, "IF(readable, payload, NULL)"), 6)}
    FROM own
  ){typed_clause if typed else ""}
SELECT hour, file, line, {literal(contract.version)},
  IF(ARRAY_LENGTH(faults) = 0, [], ARRAY(
    SELECT AS STRUCT f.path AS path, f.code AS code, f.message AS message
    FROM UNNEST(faults) AS f WHERE f.code != '{INEXACT_NUMBER.code}'{minded}
  )),
  IF(NOT readable, [], ARRAY_CONCAT(
    {lines(reasons, 4)}
  ))
FROM {"typed" if typed else "fields"}"""


def is_compared(field: Field) -> bool:
    """Is the typed value needed to judge it, not only its text?"""
    if field.repeated or field.type in ("STRUCT", "JSON"):
        return False
    return field.type not in ("STRING", "NUMERIC", "BOOL") or bool(bounds(field, ""))


def readable() -> str:
    """Condition on a row of received: its payload can be read as JSON."""
    codes = ", ".join(literal(code) for code in UNREADABLE)
    return f"NOT (r.refused AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE f.code IN ({codes})))"


def struct(reason: Reason, path: str | None = None) -> str:
    return (
        f"STRUCT({path or literal(reason.path)} AS path, {literal(reason.code)} AS code,"
        f" {literal(reason.message)} AS message)"
    )


def contract_reasons(members: list[Member]) -> list[str]:
    """SQL of arrays of reasons, to be concatenated: one for each thing that can be wrong."""
    found: list[str] = []
    for member in members:
        pointer = "/".join(("/params", *member.path))
        found += member_reasons(member, literal(pointer))
        if member.field.repeated:
            found += array_reasons(member.field, member.text, literal(f"{pointer}/"))
    return found


def member_reasons(member: Member, path: str) -> list[str]:
    """Arrays of reasons against one field (its elements left out); `path` is SQL for its pointer."""
    q = member.text
    found = []
    if member.field.required:
        within = "" if member.owner == PARAMS else f"STARTS_WITH({member.owner}, '{{') AND "
        found.append(reason_if(f"{within}{missing(q)}", Reason("", "missing", why.MISSING), path))
    if member.field.repeated:
        wrong = Reason("", "wrong_type", why.WRONG_TYPE_REPEATED)
        return [*found, reason_if(begins_otherwise(q, FIRST_OF_ARRAY), wrong, path)]
    return [*found, *value_reasons(member.field, q, member.value, path)]


def value_reasons(field: Field, q: str, x: str, path: str) -> list[str]:
    """Array of reasons against one value, whose text may be NULL; `x` is its typed value."""
    right = form(field, q, x)
    if right == "TRUE":
        return []
    wrong = why.wrong_type(field)
    asked = [reason_if(f"NOT ({condition})", reason, path) for reason, condition in bounds(field, x)]
    first = FIRST_CHARACTERS.get(field.type)
    if not asked:
        otherwise = begins_otherwise(q, first) if first else f"{present(q)} AND NOT IFNULL({right}, FALSE)"
        return [reason_if(otherwise, wrong, path)]
    rest = asked[0] if len(asked) == 1 else f"ARRAY_CONCAT({', '.join(asked)})"
    return [
        f"CASE WHEN {missing(q)} THEN [] WHEN NOT IFNULL({right}, FALSE) THEN [{struct(wrong, path)}] ELSE {rest} END"
    ]


def reason_if(condition: str, reason: Reason, path: str) -> str:
    return f"IF({condition}, [{struct(reason, path)}], [])"


def array_reasons(field: Field, q: str, path: str, level: int = 0) -> list[str]:
    """Arrays of reasons against the elements of a repeated field; `path` is SQL for its pointer and a slash.

    `level` counts the arrays around: an inner one needs the positions in all of them for its pointers.
    """
    pad = "\n" + " " * (8 + 4 * level)
    offset = f"o{level}"
    here = f"CONCAT({path}, CAST({offset} AS STRING))"
    columns = [offset, "NULLIF(e, 'null') AS e"]
    found = [
        reason_if("e IS NULL", Reason("", "null_element", why.NULL_ELEMENT), here),
        *value_reasons(field, "e", value_of(field, "e"), here),
    ]
    for member in element_members(field.fields):
        columns.append(f"{json_text('e', *member.path)} AS {member.text}")
        pointer = "/".join(("", *member.path))
        found += member_reasons(member, f"CONCAT({here}, {literal(pointer)})")
        if member.field.repeated:
            found += array_reasons(member.field, member.text, f"CONCAT({here}, {literal(f'{pointer}/')})", level + 1)
    return [
        f"ARRAY({pad}  SELECT AS STRUCT r.path AS path, r.code AS code, r.message AS message"
        f"{pad}  FROM (SELECT {', '.join(columns)} FROM {elements(q, offset)}) AS x, UNNEST(ARRAY_CONCAT("
        f"{pad}    {lines(found, 12 + 4 * level)}{pad}  )) AS r)"
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
