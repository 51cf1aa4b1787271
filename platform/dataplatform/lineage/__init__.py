"""Column lineage: from the text of queries to a graph of columns.

Reads as: `names` and `catalog` say what is known of tables; `lexemes`, `blocks`, `parsing` turn a text into statements;
`values` and `relations` are what the resolver thinks in; `expressions`, `queries`, `pipes`, `statements`, `scripts` resolve, each
built on the one before; `resolve` is the pure function over all of it. `fingerprint` and `extract` run it over a query log.
`declared` adds what contracts say; `impact`, `pii` and `openlineage` use the edges; `stored` keeps them, `hours` says what is due.
Only `assets`, `checks` and `sensors` know Dagster.

Nothing is imported here: definitions and idle commands go without the parser.
"""
