"""`resolve(statement, catalog)`: the edges of a statement or script, and what of it could not be told. Pure: no clock, no files."""

from __future__ import annotations

from .catalog import Catalog
from .edges import Resolution, Unresolved
from .expressions import Session
from .names import general_path, is_anonymous
from .parsing import SyntaxProblem
from .scripts import Scripts


def resolve(
    statement: str,
    catalog: Catalog,
    *,
    project: str | None = None,
    default_dataset: str | None = None,
    destination: str | None = None,
    through_views: bool = False,
) -> Resolution:
    """All edges of `statement`, for all of its output columns in one pass.

    `project` is the job's; `default_dataset` is `project.dataset`; `destination` is where a query's answer goes
    (`project.dataset.table`; None or BigQuery's own anonymous table: it is only read, and the edges have no target table).
    `through_views` resolves views to their base tables instead of naming the views. Never raises for what stands in the
    statement: what cannot be told is in `unresolved`, with its reason.
    """
    target = None if destination is None or is_anonymous(destination) else general_path(destination)
    if not statement.strip():
        return Resolution([], [Unresolved(target, None, "no_query", "")])
    run = Scripts(Session(catalog, project, default_dataset, through_views))
    try:
        run.run(statement)
        for position, answer in enumerate(run.answers):
            run.write_relation(target if position == len(run.answers) - 1 else None, answer)
    except RecursionError:
        run.note("too_deep", "")
    except SyntaxProblem as error:
        run.note("syntax", str(error))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, AssertionError) as error:
        run.note("internal", f"{type(error).__name__}: {error}"[:300])
    unresolved = list(run.unresolved) + [Unresolved(target, None, *note) for note in run.notes]
    return Resolution(list(run.edges.values()), list(dict.fromkeys(unresolved)))
