"""Column lineage: from the text of queries to a graph of columns.

Reads as: `names` and `catalog` say what is known of tables; `lexemes`, `blocks`, `parsing` turn a text into statements;
`values` and `relations` are what the resolver thinks in; `expressions`, `queries`, `pipes`, `statements`, `scripts` resolve, each
built on the one before; `resolve` is the pure function over all of it. `fingerprint` and `extract` run it over a query log.
`declared` adds what contracts say; `impact`, `pii` and `openlineage` use the edges; `stored` keeps them, `hours` says what is due.
Only `assets`, `checks` and `sensors` know Dagster.

The names below are imported when they are asked for: definitions and idle commands go without the parser.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalog import Catalog, catalog_from, load_catalog
    from .edges import REASONS, Edge, Resolution, Unresolved
    from .resolve import resolve

__all__ = ["REASONS", "Catalog", "Edge", "Resolution", "Unresolved", "catalog_from", "load_catalog", "resolve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import catalog, edges, resolve

    for module in (catalog, edges, resolve):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
