"""Names of MongoDB that BigQuery would refuse or confuse, and the names they get.

The rule, for tables and columns alike: every character outside `[A-Za-z0-9_]` becomes `_`; a column that would begin with a digit
gets `_` before it, one that BigQuery or this platform keeps for itself gets `f`; and whenever the name is not the original one
letter for letter (or would meet another), `_` and six hexadecimal digits of the original's SHA-256 are put after it. The
original stands in the description of the table or column.
"""

import hashlib
import re
from collections.abc import Collection

_BAD = re.compile(r"[^A-Za-z0-9_]")
_KEPT_PREFIXES = (
    "_table_",
    "_file_",
    "_partition",
    "_row_timestamp",
    "__root__",
    "_colidentifier",
    "_change_sequence_number",
    "_change_type",
    "_change_timestamp",
)
OWN_COLUMNS = frozenset(
    {"_id", "_bucket", "_position", "_changed_at", "_captured_at", "_deleted", "_unmapped"},
)
"""Columns of a typed table that are not fields of the document (`_id` is, and is the key)."""
MAX_COLUMN_LENGTH = 280
MAX_TABLE_LENGTH = 900


def table_name(database: str, collection: str) -> str:
    """`<database>__<collection>`, the name of a collection's tables."""
    plain = f"{database}__{collection}"
    name = _BAD.sub("_", plain)[:MAX_TABLE_LENGTH]
    unclear = "__" in database or "__" in collection or database.endswith("_") or collection.startswith("_")
    return f"{name}_{_mark(f'{database}.{collection}')}" if name != plain or unclear else name


def column_name(key: str, taken: Collection[str] = (), *, top: bool = True) -> str:
    """Column of a field. `taken` are the columns beside it in lower case, for BigQuery ignores case; `top` is the first level."""
    name = _BAD.sub("_", key)[:MAX_COLUMN_LENGTH] or "_"
    if name[0].isdigit():
        name = f"_{name}"
    if name.lower().startswith(_KEPT_PREFIXES) or (top and name.lower() in OWN_COLUMNS):
        name = f"f{name}"
    if name != key or name.lower() in taken:
        name = f"{name}_{_mark(key)}"
    return name


def _mark(original: str) -> str:
    return hashlib.sha256(original.encode()).hexdigest()[:6]
