"""Names of tables as they are written in SQL, and the one form they have in the result: `project.dataset.table`."""

import re

_SHARD = re.compile(r"_(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$")
_SHARD_OF_SHARD = re.compile(r"_\d*$")
_NUMBERED = re.compile(r"\d{4}|\d{2}-\d{2}")
INFORMATION_SCHEMA = "INFORMATION_SCHEMA"
PSEUDO_COLUMNS = frozenset(
    {"_partitiontime", "_partitiondate", "_table_suffix", "_file_name", "_change_type", "_change_timestamp"}
)
"""Columns that a table has without its schema saying so, in lower case."""


def general_table(table: str) -> str:
    """The name without what differs from day to day: a date shard or wildcard ends in `_*`, a partition decorator is gone.

    `events_20260101`, `events_2026*`, `events_*` and `events_20260101$20260101` are all `events_*`.
    """
    table = table.partition("$")[0].partition("@")[0]
    if "*" in table:
        return _SHARD_OF_SHARD.sub("", table.partition("*")[0]).rstrip("_") + "_*"
    shard = _SHARD.search(table)
    return table[: shard.start()] + "_*" if shard else table


def general_path(path: str) -> str:
    """`general_table` on the last part of a dotted path."""
    if INFORMATION_SCHEMA in path.upper():
        return path
    head, dot, table = path.rpartition(".")
    return head + dot + general_table(table)


def general_uri(uri: str) -> str:
    """A file's URI without what differs from day to day: from the first part that holds a date or a number of four digits, `*`."""
    scheme, found, path = uri.partition("://")
    bucket, *parts = (path if found else uri).split("/")
    for at, part in enumerate(parts):
        if "*" in part or _NUMBERED.search(part):
            parts = [*parts[:at], "*"]
            break
    return (scheme + found if found else "") + "/".join([bucket, *parts])


def qualified(parts: list[str], project: str | None, default_dataset: str | None) -> str | None:
    """The full name of a table whose path has these parts, or None when it lacks a dataset and there is no default.

    `project` is the project of the job; `default_dataset` is `project.dataset` or `dataset`. Each part may itself hold
    dots, as a path in one pair of back-quotes does. `region-xx.INFORMATION_SCHEMA.V` counts as a dataset's view.
    """
    parts = [piece for part in parts for piece in part.split(".")]
    upper = [part.upper() for part in parts]
    if INFORMATION_SCHEMA in upper:
        at = upper.index(INFORMATION_SCHEMA)
        view = ".".join(parts[at:])
        head = parts[:at]
        if not head:
            head = (default_dataset or "").split(".") if default_dataset else []
        if len(head) == 1 and project:
            head = [project, *head]
        return ".".join([*head, view])
    if len(parts) > 3:  # a domain-scoped project, `example.com:project`, keeps its dots
        parts = [".".join(parts[:-2]), *parts[-2:]]
    parts[-1] = general_table(parts[-1])
    if len(parts) == 3:
        return ".".join(parts)
    if len(parts) == 2:
        return ".".join([project, *parts]) if project else ".".join(parts)
    if not default_dataset:
        return None
    if "." not in default_dataset and project:
        default_dataset = f"{project}.{default_dataset}"
    return f"{default_dataset}.{parts[0]}"


def is_anonymous(table: str) -> bool:
    """Whether this is BigQuery's own table for a query's answer: nobody's data, so reading into it is usage, not lineage."""
    dataset = table.split(".")[-2] if table.count(".") >= 1 else ""
    return dataset.startswith("_")
