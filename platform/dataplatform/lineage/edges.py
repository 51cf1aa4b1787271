"""What the resolver answers: edges between columns, and what it could not tell."""

from typing import Literal

import msgspec

EdgeType = Literal["DIRECT", "INDIRECT"]

DIRECT_SUBTYPES = ("IDENTITY", "TRANSFORMATION", "AGGREGATION", "CONSTANT")
"""OpenLineage's direct subtypes, and CONSTANT for a column that no column feeds."""

INDIRECT_SUBTYPES = ("JOIN", "GROUP_BY", "FILTER", "SORT", "WINDOW", "CONDITIONAL")
"""OpenLineage's indirect subtypes."""

WHOLE_ROW = "*"
"""Target column of an indirect edge that decides whether, or how often, a whole row appears."""


CONTRACT = "contract"
"""Stands for the job in edges that no query makes: what contracts and assets declare."""


class Edge(msgspec.Struct, frozen=True):
    """One column feeds (DIRECT) or steers (INDIRECT) another.

    Tables are `project.dataset.table`, column paths are dotted. `target_table` is None for a query that only reads.
    `confidence` is 1.0 when schemas prove the edge, less when a name was told from its only candidate or inferred.
    """

    source_table: str | None
    source_column: str | None
    target_table: str | None
    target_column: str
    type: EdgeType
    subtype: str
    masking: bool
    expression: str
    confidence: float


class Unresolved(msgspec.Struct, frozen=True):
    """Something a statement does that could not be told, with the reason; `target_column` None: not one column's matter."""

    target_table: str | None
    target_column: str | None
    reason: str
    detail: str


class Resolution(msgspec.Struct, frozen=True):
    """All that a statement, or a script, tells."""

    edges: list[Edge]
    unresolved: list[Unresolved]

    @property
    def status(self) -> Literal["resolved", "partly", "failed"]:
        """`failed`: nothing but reasons; `partly`: edges and reasons."""
        if not self.unresolved:
            return "resolved"
        return "partly" if self.edges else "failed"


REASONS: dict[str, str] = {
    "unknown_schema": "The table is not in the schemas; columns named in the statement are told, others are not.",
    "unknown_column": "The schema of the table does not have this column.",
    "unknown_field": "The type of the column does not have this field.",
    "not_in_target": "The query gives a column that the schema of its target does not have.",
    "ambiguous_column": "More than one table without a schema may have this column; each gets an edge of low confidence.",
    "star_over_unknown_schema": "`*` over a table without a schema: its columns cannot be listed.",
    "unknown_type": "The schemas file states a type that is not BigQuery's; the column is taken without a type.",
    "no_default_dataset": "A table is named without a dataset and the job has no default dataset; it is in no edge.",
    "unknown_function": "A table function whose definition is not known.",
    "unknown_procedure": "CALL of a procedure whose definition is not known.",
    "dynamic_sql": "EXECUTE IMMEDIATE of a text that is computed at run time.",
    "column_count": "The query gives another number of columns than the statement names.",
    "no_query": "The job has no SQL text.",
    "syntax": "The text is not BigQuery's SQL, or the parser does not know it.",
    "unsupported": "The statement's kind moves data in a way the resolver does not know.",
    "too_deep": "The statement is nested deeper than the resolver goes.",
    "recursion": "A view or a function is defined through itself.",
    "time_limit": "The statement took longer than the time limit.",
    "memory_limit": "The statement needed more memory than the limit.",
    "crashed": "The process that resolved the statement died.",
    "internal": "The resolver itself failed; the detail says how.",
    "bad_record": "The line is JSON, but not a query record.",
}
"""Every reason with its meaning; the documentation's table is made from this."""
