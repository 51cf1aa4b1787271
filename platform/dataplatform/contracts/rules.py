"""What a tree of fields must hold beyond its form, so that it can become columns of a BigQuery table."""

from collections.abc import Iterable, Iterator

from .documents import Mistake, Path, dotted
from .fields import FLATTEN_SEPARATOR, MAX_NAME_LENGTH, MAX_STRUCT_DEPTH, Field, Scalar
from .patterns import PatternError, check_pattern
from .values import Exact, ValueMistakeError, exact_value

MAX_COLUMNS = 10_000
"""BigQuery's limit of columns in a table, nested ones included."""
MAX_DESCRIPTION_LENGTH = 900
"""BigQuery keeps 1,024 characters of a column's description; the rest is room for the mark of personal data."""
RESERVED_PREFIXES = ("_partition", "_table_", "_file_", "_row_timestamp", "__root__", "_colidentifier")
"""BigQuery refuses columns that begin so, in capital or small letters."""

_ORDERED = ("INT64", "FLOAT64", "NUMERIC", "DATE", "TIMESTAMP")
_WITHOUT_VALUES = ("STRUCT", "JSON")


def field_mistakes(fields: tuple[Field, ...], taken: Iterable[str] = (), at: Path = ("params",)) -> list[Mistake]:
    """Every mistake in a tree of fields that stands at the path `at` of its document.

    `taken` are the names of columns that the table has besides (compared without regard to case).
    """
    mistakes: list[Mistake] = []
    for path, field, depth in _walk(fields, at, 0):
        mistakes += _of_name(path, field)
        mistakes += _of_kind(path, field, depth)
        mistakes += _of_constants(path, field)
    mistakes += _of_siblings(fields, at)
    mistakes += _of_columns(fields, at, list(taken))
    return mistakes


def _walk(fields: tuple[Field, ...], at: Path, depth: int) -> Iterator[tuple[Path, Field, int]]:
    for index, field in enumerate(fields):
        path = (*at, index)
        yield path, field, depth + (field.type == "STRUCT")
        if field.fields:
            yield from _walk(field.fields, (*path, "fields"), depth + 1)


def _of_name(path: Path, field: Field) -> Iterator[Mistake]:
    lowered = field.name.lower()
    for prefix in RESERVED_PREFIXES:
        if lowered.startswith(prefix):
            yield Mistake(
                (*path, "name"),
                "reserved_name",
                f"BigQuery keeps names that begin with `{prefix.upper()}` for itself",
                f"give `{field.name}` another name",
            )
    if len(field.description) > MAX_DESCRIPTION_LENGTH:
        yield Mistake(
            (*path, "description"),
            "description_too_long",
            f"{len(field.description)} characters; a column's description keeps {MAX_DESCRIPTION_LENGTH}",
            "say it in fewer words",
        )


def _of_kind(path: Path, field: Field, depth: int) -> Iterator[Mistake]:
    if field.type == "STRUCT" and not field.fields:
        yield Mistake(path, "struct_without_fields", f"`{field.name}` is a STRUCT without fields", "list its `fields`")
    if field.type != "STRUCT" and field.fields:
        yield Mistake(
            (*path, "fields"),
            "fields_without_struct",
            f"`{field.name}` is a {field.type}, and only a STRUCT has fields",
            "make its type STRUCT, or take `fields` out",
        )
    if field.type == "STRUCT" and depth == MAX_STRUCT_DEPTH + 1:
        yield Mistake(
            path,
            "too_deep",
            f"`{field.name}` is a STRUCT in {MAX_STRUCT_DEPTH} others; BigQuery allows {MAX_STRUCT_DEPTH} levels",
            "make the tree flatter, or keep this part as JSON",
        )


def _of_constants(path: Path, field: Field) -> Iterator[Mistake]:
    if (field.pattern, field.values, field.min, field.max) == (None, None, None, None):
        return
    if field.pattern is not None:
        if field.type != "STRING":
            yield Mistake(
                (*path, "pattern"),
                "pattern_without_string",
                f"`{field.name}` is a {field.type}, and only a STRING has a pattern",
                "take it out, or make the type STRING",
            )
        else:
            try:
                check_pattern(field.pattern)
            except PatternError as error:
                yield Mistake(
                    (*path, "pattern"),
                    "bad_pattern",
                    f"`{field.pattern}`: {error}",
                    "use what BigQuery's and Python's regular expressions share (docs/contracts.md, Patterns)",
                )
    if field.values is not None:
        yield from _of_values(path, field, field.values)
    bounds = {key: bound for key, bound in (("min", field.min), ("max", field.max)) if bound is not None}
    if bounds and field.type not in _ORDERED:
        for key in bounds:
            yield Mistake(
                (*path, key),
                "bound_without_order",
                f"`{field.name}` is a {field.type}; {', '.join(_ORDERED)} have a `{key}`",
                "use `pattern` for the length of a STRING" if field.type == "STRING" else "take it out",
            )
        return
    exact: dict[str, Exact] = {}
    for key, bound in bounds.items():
        try:
            exact[key] = exact_value(field.type, bound)
        except ValueMistakeError as error:
            yield Mistake((*path, key), "bad_bound", f"`{key}` of a {field.type}: {error}", error.fix)
    if len(exact) == 2 and exact["min"] > exact["max"]:  # type: ignore[operator]  # both of the field's one type
        yield Mistake(
            (*path, "min"),
            "min_above_max",
            f"`min` {field.min} is above `max` {field.max}: no value could pass",
            "exchange the two",
        )


def _of_values(path: Path, field: Field, values: tuple[Scalar, ...]) -> Iterator[Mistake]:
    here = (*path, "values")
    if field.type in _WITHOUT_VALUES:
        yield Mistake(
            here,
            "values_without_scalar",
            f"`{field.name}` is a {field.type}, which has no list of values",
            "take it out, or put it at a field inside" if field.type == "STRUCT" else "take it out",
        )
        return
    if not values:
        yield Mistake(here, "no_values", "an empty list: no value could pass", "list the values, or take it out")
    seen: dict[Exact, int] = {}
    for index, value in enumerate(values):
        try:
            exact = exact_value(field.type, value)
        except ValueMistakeError as error:
            yield Mistake((*here, index), "bad_value", f"a value of a {field.type}: {error}", error.fix)
            continue
        if exact in seen:
            yield Mistake((*here, index), "duplicate_value", f"`{value}` stands twice", "keep one of the two")
        seen[exact] = index


def _of_siblings(fields: tuple[Field, ...], at: Path) -> Iterator[Mistake]:
    seen: dict[str, str] = {}
    for index, field in enumerate(fields):
        path = (*at, index)
        lowered = field.name.lower()
        if lowered in seen:
            yield Mistake(
                (*path, "name"),
                "duplicate_name",
                f"`{field.name}` is a second field of this name"
                + ("" if seen[lowered] == field.name else f" (`{seen[lowered]}`; BigQuery does not tell case apart)"),
                "rename one of the two",
            )
        seen[lowered] = field.name
        if field.fields:
            yield from _of_siblings(field.fields, (*path, "fields"))


def _of_columns(fields: tuple[Field, ...], at: Path, taken: list[str]) -> Iterator[Mistake]:
    columns: dict[str, Path | None] = {name.lower(): None for name in taken}
    count = len(columns)
    for path, name, field in _columns(fields, at, ""):
        count += 1 + (sum(1 for _ in _walk(field.fields, path, 0)) if field.fields else 0)
        lowered = name.lower()
        if len(name) > MAX_NAME_LENGTH:
            yield Mistake(
                (*path, "name"),
                "name_too_long",
                f"the column would be called `{name[:40]}…`, {len(name)} characters of {MAX_NAME_LENGTH} allowed",
                "use shorter names on the way to it",
            )
        if lowered not in columns:
            columns[lowered] = path
            continue
        other = columns[lowered]
        if other is None:
            yield Mistake(
                (*path, "name"),
                "envelope_column",
                f"the column `{name}` would collide with the one of the same name that every event's table has",
                "give the parameter another name",
            )
        elif other[:-1] != path[:-1]:  # two fields of one parent are told by their names already
            yield Mistake(
                (*path, "name"),
                "column_collision",
                f"the column `{name}` is also what `{dotted(other)}` becomes",
                f"rename one of the two; `{FLATTEN_SEPARATOR}` joins the names of a STRUCT and its field",
            )
    if count > MAX_COLUMNS:
        yield Mistake(at, "too_many_columns", f"{count} columns of {MAX_COLUMNS} allowed", "keep rare parts as JSON")


def _columns(fields: tuple[Field, ...], at: Path, prefix: str) -> Iterator[tuple[Path, str, Field]]:
    for index, field in enumerate(fields):
        path = (*at, index)
        name = prefix + field.name
        if field.type == "STRUCT" and not field.repeated:
            yield from _columns(field.fields, (*path, "fields"), name + FLATTEN_SEPARATOR)
        else:
            yield path, name, field
