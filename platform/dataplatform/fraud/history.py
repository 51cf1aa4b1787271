"""Features as they were: one GoogleSQL SELECT that gives every feature of an entity at many moments.

Per stream (an event, told apart by one column) the moments are joined with the events of [t − longest window, t) that were
known at t, and grouped again; every feature is one aggregate over the part of the join that is in its own window. Times are
compared as UNIX_MICROS, so that a window ends exactly where it is said to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .documents import changes_source, empty_source, is_collection
from .features import SUMMED_BELOW, UNITS, EntityFeatures, Feature
from .policy_sql import FactColumn, filter_sql, table_column, text_literal
from .tree import Scalar

DAY = 86_400_000_000
HAPPENED = "LEAST(COALESCE(occurred_at, received_at), received_at)"
"""SQL: when an event of a table of the warehouse happened. Not after it was known, and then where no device's clock says when."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the events of one kind come from: SQL that stands behind FROM, and how its columns are written.

    It has the columns event_id STRING, happened and known (INT64, microseconds since 1970).
    """

    sql: str
    columns: Mapping[str, FactColumn]


def history_statement(
    entity: EntityFeatures,
    sources: Mapping[str, Source],
    moments: str,
    *,
    keep: Sequence[str] = ("place",),
) -> str:
    """The SELECT: `keep` and one column a feature, one row a moment.

    `moments` stands behind FROM and has `keep`, `entity_key` (STRING, NULL: every feature is unknown) and `moment` (INT64,
    microseconds); `keep` tells the rows apart.
    """
    kept = ", ".join(keep)
    parts = [f"moments AS (\n  SELECT {kept}, entity_key, moment\n  FROM {moments}\n)"]
    joins = []
    columns: dict[str, str] = {}
    for number, (stream, features) in enumerate(entity.streams.items()):
        parts.append(_stream(entity, number, stream, features, sources[stream[0]], keep))
        same = " AND ".join(f"s{number}.{each} = m.{each}" for each in keep)
        joins.append(f"LEFT JOIN stream_{number} AS s{number} ON {same}")
        for feature in features:
            columns[feature.name] = _value(feature, f"s{number}", entity)
    for feature in entity.features:
        if feature.aggregation == "ratio":
            columns[feature.name] = "NULL"
    plain = [feature for feature in entity.features if feature.aggregation != "ratio"]
    ratios = [feature for feature in entity.features if feature.aggregation == "ratio"]
    selected = "".join(f",\n    {columns[each.name]} AS {each.name}" for each in plain)
    joined = "\n  ".join(joins)
    answered = (
        f"answered AS (\n  SELECT m.{', m.'.join(keep)}, m.entity_key{selected}\n  FROM moments AS m\n  {joined}\n)"
    )
    parts.append(answered)
    last = "".join(
        f",\n  {_ratio(each, entity) if each in ratios else each.name} AS {each.name}" for each in entity.features
    )
    return f"WITH {',\n'.join(parts)}\nSELECT {kept}{last}\nFROM answered"


def warehouse_source(table: str, event: str, entity: EntityFeatures, start: str, end: str) -> Source:
    """The events of a table of the warehouse that moments in [start, end) can see (SQL expressions, TIMESTAMP).

    Of a collection the table is that of its changes, or "" where there is none.
    Only the partitions from the longest window (and a day) before `start` are read: nothing happened after it was known, whatever a
    clock says.
    """
    windows = [each.window for stream, found in entity.streams.items() if stream[0] == event for each in found]
    longest = None if None in windows else max(each for each in windows if each is not None)
    since = "" if longest is None else f"hour >= TIMESTAMP_SUB({start}, INTERVAL {longest // DAY + 2} DAY) AND "
    read = {name: table_column(held, name) for name, held in entity.columns[event].items()}
    keys = {by for each, by in entity.streams if each == event}
    if is_collection(event):
        held = dict(entity.columns[event]) | dict.fromkeys(keys, "STRING")
        where = f"{since}hour < {end}"
        sql = changes_source(table, held, where) if table else empty_source(held)
        return Source(f"(\n{sql}\n)", _own_columns(entity.columns[event]))
    # What is calculated from a column gets the column's name here, so that it can be told of either side of a join.
    names = [
        name if name not in read or read[name].forms[0] == name else f"{read[name].forms[0]} AS {name}"
        for name in sorted({*read, *keys})
    ]
    return Source(
        f"(SELECT event_id, UNIX_MICROS({HAPPENED}) AS happened, UNIX_MICROS(received_at) AS known,"
        f" {', '.join(names)}"
        f" FROM {table} WHERE {since}hour < {end})",
        _own_columns(entity.columns[event]),
    )


def staged_source(table: str, event: str, entity: EntityFeatures) -> Source:
    """The events of a table that `staged_columns` describes."""
    columns = _own_columns(entity.columns[event])
    return Source(f"(SELECT * FROM {table} WHERE event = {text_literal(event)})", columns)


def _own_columns(types: Mapping[str, str]) -> dict[str, FactColumn]:
    """Columns that are called what they are and stand in the form in which features read their types."""
    columns: dict[str, FactColumn] = {}
    for name, held in types.items():
        if held == "NUMBER":
            columns[name] = FactColumn(integer=f"{name}__integer", real=f"{name}__real")
        elif held in ("INT64", "TIMESTAMP"):
            columns[name] = FactColumn(integer=name)
        elif held == "FLOAT64":
            columns[name] = FactColumn(real=name)
        elif held == "NUMERIC":
            columns[name] = FactColumn(decimal=name)
        else:
            columns[name] = FactColumn(plain=name)
    return columns


def _stream(
    entity: EntityFeatures,
    number: int,
    stream: tuple[str, str],
    features: tuple[Feature, ...],
    source: Source,
    keep: Sequence[str],
) -> str:
    by = stream[1]
    windows = [feature.window for feature in features]
    longest = None if None in windows else max(window for window in windows if window is not None)
    filters: dict[str, str] = {}
    for feature in features:
        typed = entity.filter_of(feature)
        if typed is not None:
            filters.setdefault(filter_sql(typed, source.columns), f"matches_{len(filters)}")
    read = sorted({form for feature in features if feature.of for form in source.columns[feature.of].forms})
    matched = "".join(f",\n    {condition} AS {name}" for condition, name in filters.items())
    wanted = "".join(f", {form}" for form in read)
    summed = sorted({feature.of for feature in features if feature.aggregation in ("sum", "mean")})
    wanted += "".join(
        f",\n    {_summed(source.columns[of].forms[0], entity.columns[stream[0]][of])} AS {of}__summed" for of in summed
    )
    if any(feature.aggregation == "last" for feature in features):
        wanted += f",\n    ROW_NUMBER() OVER (PARTITION BY {by} ORDER BY happened, known, event_id) AS turn"
    aggregates = []
    for feature in features:
        aggregates += _aggregates(feature, entity, source, filters, longest)
    bound = "" if longest is None else f"\n    AND e.happened >= m.moment - {longest}"
    kept = ", ".join(f"m.{each}" for each in keep)
    return (
        f"events_{number} AS (\n"
        f"  SELECT CAST({by} AS STRING) AS entity_key, event_id, happened, known{wanted}{matched}\n"
        f"  FROM {source.sql} AS source\n  WHERE {by} IS NOT NULL\n),\n"
        f"stream_{number} AS (\n"
        f"  SELECT\n    {kept},\n    " + ",\n    ".join(aggregates) + "\n"
        f"  FROM moments AS m\n"
        f"  JOIN events_{number} AS e\n"
        f"    ON e.entity_key = m.entity_key\n"
        f"    AND e.happened < m.moment\n"
        f"    AND e.known <= m.moment{bound}\n"
        f"  GROUP BY {kept}\n)"
    )


def _aggregates(
    feature: Feature,
    entity: EntityFeatures,
    source: Source,
    filters: Mapping[str, str],
    longest: int | None,
) -> list[str]:
    conditions = []
    if feature.window is not None and feature.window != longest:
        conditions.append(f"e.happened >= m.moment - {feature.window}")
    typed = entity.filter_of(feature)
    if typed is not None:
        conditions.append(f"e.{filters[filter_sql(typed, source.columns)]}")
    seen = " AND ".join(conditions)

    def where(value: str) -> str:
        return f"IF({seen}, {value}, NULL)" if seen else value

    name = feature.name
    of = _of(source.columns[feature.of]) if feature.of else ""
    total = f"SUM({where(f'e.{feature.of}__summed')}) AS {name}"
    match feature.aggregation:
        case "count":
            return [f"COUNTIF({seen}) AS {name}" if seen else f"COUNT(*) AS {name}"]
        case "count_distinct":
            return [f"COUNT(DISTINCT {where(of)}) AS {name}"]
        case "sum":
            return [total]
        case "mean":
            return [total, f"COUNT({where(f'e.{feature.of}__summed')}) AS {name}__n"]
        case "min" | "max":
            return [f"{feature.aggregation.upper()}({where(of)}) AS {name}"]
        case "last":
            present = " AND ".join([*conditions, f"{of} IS NOT NULL"])
            return [f"MAX_BY({where(of)}, IF({present}, e.turn, NULL)) AS {name}"]
        case "time_since_first":
            return [f"MIN({where('e.happened')}) AS {name}"]
        case _:
            return [f"MAX({where('e.happened')}) AS {name}"]


def _summed(value: str, held: str) -> str:
    """A column as sums add it, NULL from `SUMMED_BELOW` on: an INT64 or a NUMERIC."""
    limit = str(SUMMED_BELOW[held])
    if held == "FLOAT64":
        # Through its text: the decimal that the number is written as.
        value = f"SAFE_CAST(CAST({value} AS STRING) AS NUMERIC)"
    if held != "INT64":
        limit = f"NUMERIC '{limit}'"
    return f"IF({value} < {limit} AND {value} > -{limit}, {value}, NULL)"


def _of(column: FactColumn) -> str:
    forms = [f"e.{form}" for form in column.forms]
    return forms[0] if len(forms) == 1 else f"COALESCE(CAST({forms[0]} AS FLOAT64), {forms[1]})"


def _value(feature: Feature, alias: str, entity: EntityFeatures) -> str:
    column = f"{alias}.{feature.name}"
    held = entity.columns[feature.event].get(feature.of, "")
    match feature.aggregation:
        case "count" | "count_distinct":
            value = f"NULLIF({column}, 0)"
        case "mean":
            value = f"SAFE_DIVIDE({_float(column, held)}, CAST({column}__n AS FLOAT64))"
        case "time_since_first" | "time_since_last":
            micros = f"(m.moment - {column})"
            unit = UNITS[feature.unit]
            value = f"DIV({micros}, {unit})" if feature.type == "INT64" else f"{micros} / {unit}"
        case "sum":
            value = _float(column, held) if feature.type == "FLOAT64" else f"SAFE_CAST({column} AS {feature.type})"
        case "min" | "max" | "last" if feature.type != held:
            value = _float(column, held) if feature.type == "FLOAT64" else f"CAST({column} AS {feature.type})"
        case _:
            value = column
    if feature.no_data is None:
        return value
    return f"IF(m.entity_key IS NULL, NULL, COALESCE({value}, {_literal(feature.no_data, feature.type)}))"


def _float(column: str, held: str) -> str:
    # Through its text: the nearest FLOAT64 on every engine, also beyond 2^53 units of the last place.
    return f"CAST({column} AS FLOAT64)" if held == "INT64" else f"CAST(CAST({column} AS STRING) AS FLOAT64)"


def _ratio(feature: Feature, entity: EntityFeatures) -> str:
    parts = []
    for name in (feature.of, feature.over):
        kind = entity.by_name[name].type
        parts.append(name if kind == "FLOAT64" else _float(name, kind))
    value = f"SAFE_DIVIDE({parts[0]}, {parts[1]})"
    if feature.no_data is None:
        return value
    return f"IF(entity_key IS NULL, NULL, COALESCE({value}, {_literal(feature.no_data, feature.type)}))"


def _literal(value: Scalar, value_type: str) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return text_literal(value) if value_type == "STRING" else f"{value_type} {text_literal(value)}"
    if value_type == "FLOAT64":
        return f"CAST('{value!r}' AS FLOAT64)"
    return f"NUMERIC '{value}'" if value_type == "NUMERIC" else str(value)
