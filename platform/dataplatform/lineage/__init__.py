"""Column lineage: from the text of queries to a graph of columns.

Reads as: `names` and `catalog` say what is known of tables; `lexemes`, `blocks`, `parsing` turn a text into statements;
`values` and `relations` are what the resolver thinks in; `expressions`, `queries`, `pipes`, `statements`, `scripts` resolve, each
built on the one before; `resolve` is the pure function over all of it. `fingerprint` and `extract` run it over a query log.
`impact`, `pii` and `openlineage` use the edges. Only `assets` knows Dagster.
"""

from .catalog import Catalog, catalog_from, load_catalog
from .edges import REASONS, Edge, Resolution, Unresolved
from .resolve import resolve

__all__ = ["REASONS", "Catalog", "Edge", "Resolution", "Unresolved", "catalog_from", "load_catalog", "resolve"]
