"""Random GoogleSQL over small tables, for the perturbation oracle: nested, joined, grouped, windowed, with arrays and structs.

Every statement gives the same rows however often it is run: orders are total, nothing depends on time.
"""

import random

TABLES = {
    "t": ["id", "a", "b", "c", "g"],
    "u": ["id", "k", "v", "g"],
    "w": ["id", "x", "y"],
}
"""All columns are INT64."""

Query = tuple[str, list[str]]


class StatementGenerator:
    """Statements from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = 0

    def statement(self) -> Query:
        """A query and the names of its columns."""
        return self.query(self.random.choice([1, 2, 2, 3]), {})

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def query(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        if depth > 0:
            kind = self.random.choice(
                ["select"] * 6 + ["group", "group", "union", "cte", "cte", "except", "distinct", "window"]
            )
        else:
            kind = "select"
        return getattr(self, f"_{kind}")(depth, ctes)

    # -- rows

    def source(self, depth: int, ctes: dict[str, list[str]]) -> tuple[str, list[str]]:
        """One FROM item and its qualified columns."""
        alias = self.name("s")
        roll = self.random.random()
        if depth > 0 and roll < 0.4:
            text, columns = self.query(depth - 1, ctes)
            return f"({text}) AS {alias}", [f"{alias}.{column}" for column in columns]
        if ctes and roll < 0.6:
            name = self.random.choice(list(ctes))
            return f"{name} AS {alias}", [f"{alias}.{column}" for column in ctes[name]]
        table = self.random.choice(list(TABLES))
        return f"{table} AS {alias}", [f"{alias}.{column}" for column in TABLES[table]]

    def sources(self, depth: int, ctes: dict[str, list[str]]) -> tuple[str, list[str]]:
        text, columns = self.source(depth, ctes)
        for _ in range(self.random.choice([0, 0, 0, 1, 1, 2])):
            if self.random.random() < 0.15:
                alias = self.name("e")
                one, two = self.random.choice(columns), self.random.choice(columns)
                text += f" CROSS JOIN UNNEST([STRUCT({one} AS p, 1 AS q), STRUCT({two} AS p, 2 AS q)]) AS {alias}"
                columns = [*columns, f"{alias}.p", f"{alias}.q"]
                continue
            right, right_columns = self.source(0, ctes)
            join = self.random.choice(["JOIN", "LEFT JOIN", "LEFT JOIN", "LEFT JOIN"])
            on = f"{self.random.choice(columns)} = {self.random.choice(right_columns)}"
            text += f" {join} {right} ON {on}"
            columns = columns + right_columns
        return text, columns

    # -- values

    def value(self, columns: list[str], depth: int = 2) -> str:
        choice = self.random.choice
        if depth == 0 or self.random.random() < 0.35:
            return choice(columns)
        kind = choice(["add", "if", "case", "coalesce", "nullif", "struct", "array", "abs", "mod", "scalar", "json"])
        inner = lambda: self.value(columns, depth - 1)  # noqa: E731
        if kind == "add":
            return f"({inner()} {choice('+-*')} {inner()})"
        if kind == "if":
            return f"IF({self.condition(columns)}, {inner()}, {inner()})"
        if kind == "case":
            return f"CASE WHEN {self.condition(columns)} THEN {inner()} WHEN {self.condition(columns)} THEN 5 ELSE {inner()} END"
        if kind == "coalesce":
            return f"COALESCE({inner()}, {inner()}, 0)"
        if kind == "nullif":
            return f"NULLIF({inner()}, {inner()})"
        if kind == "struct":
            return f"STRUCT({inner()} AS m, {inner()} AS n).{choice('mn')}"
        if kind == "array":
            return f"[COALESCE({inner()}, 0), COALESCE({inner()}, 1)][OFFSET({choice('01')})]"
        if kind == "abs":
            return f"ABS({inner()})"
        if kind == "mod":
            return f"MOD({inner()}, 3)"
        if kind == "json":
            return f"CAST(JSON_VALUE(TO_JSON_STRING(STRUCT({inner()} AS m)), '$.m') AS INT64)"
        table = choice(list(TABLES))
        alias = self.name("q")
        target = choice(TABLES[table])
        return f"(SELECT SUM({alias}.{target}) FROM {table} AS {alias} WHERE {alias}.{choice(TABLES[table])} = {choice(columns)})"

    def condition(self, columns: list[str]) -> str:
        choice = self.random.choice
        kind = choice(["compare", "compare", "compare", "null", "between", "exists", "in", "and"])
        if kind == "compare":
            return f"{choice(columns)} {choice(['<', '>', '=', '<>'])} {choice([*columns, '3', '5'])}"
        if kind == "null":
            return f"{choice(columns)} IS {choice(['', 'NOT '])}NULL"
        if kind == "between":
            return f"{choice(columns)} BETWEEN 2 AND {choice([*columns, '7'])}"
        if kind == "and":
            return f"({choice(columns)} > 1 {choice(['AND', 'OR'])} {choice(columns)} < 8)"
        table = choice(list(TABLES))
        alias = self.name("q")
        if kind == "exists":
            return f"EXISTS(SELECT 1 FROM {table} AS {alias} WHERE {alias}.{choice(TABLES[table])} = {choice(columns)})"
        return f"{choice(columns)} IN (SELECT {alias}.{choice(TABLES[table])} FROM {table} AS {alias} WHERE {alias}.id > 1)"

    # -- queries

    def _items(self, columns: list[str]) -> tuple[str, list[str]]:
        names = [self.name("c") for _ in range(self.random.randint(1, 4))]
        return ", ".join(f"{self.value(columns)} AS {name}" for name in names), names

    def _where(self, columns: list[str]) -> str:
        return f" WHERE {self.condition(columns)}" if self.random.random() < 0.3 else ""

    def _select(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        text, columns = self.sources(depth, ctes)
        items, names = self._items(columns)
        return f"SELECT {items} FROM {text}{self._where(columns)}", names

    def _distinct(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        text, names = self._select(depth, ctes)
        return text.replace("SELECT ", "SELECT DISTINCT ", 1), names

    def _group(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        text, columns = self.sources(depth, ctes)
        key = self.random.choice(columns)
        names = [self.name("c") for _ in range(3)]
        functions = [
            "SUM({})",
            "MAX({})",
            "MIN({})",
            "COUNT({})",
            "COUNT(DISTINCT {})",
            "SUM(IF({} > 3, 1, 0))",
            "COUNTIF({} > 4)",
        ]
        aggregates = [self.random.choice(functions).format(self.value(columns, 1)) for _ in names[1:]]
        having = f" HAVING {self.random.choice(['SUM', 'MAX', 'COUNT'])}({self.random.choice(columns)}) > 2"
        text = (
            f"SELECT {key} AS {names[0]}, {aggregates[0]} AS {names[1]}, {aggregates[1]} AS {names[2]} FROM {text}"
            f"{self._where(columns)} GROUP BY {self.random.choice([key, '1'])}"
        )
        return text + (having if self.random.random() < 0.3 else ""), names

    def _window(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        table = self.random.choice(list(TABLES))
        columns = TABLES[table]
        functions = ["SUM({})", "LAG({})", "FIRST_VALUE({})", "MAX({})", "COUNT({})"]
        function = self.random.choice(functions).format(self.random.choice(columns))
        over = f"PARTITION BY {self.random.choice(columns)} ORDER BY {self.random.choice(columns)}, id"
        names = [self.name("c") for _ in range(3)]
        text = (
            f"SELECT {self.random.choice(columns)} AS {names[0]}, {function} OVER ({over}) AS {names[1]},"
            f" ROW_NUMBER() OVER ({over}) AS {names[2]} FROM {table}"
        )
        if self.random.random() < 0.5:
            text += f" QUALIFY ROW_NUMBER() OVER ({over}) = 1"
        return text, names

    def _sides(self, depth: int, ctes: dict[str, list[str]]) -> tuple[list[str], list[str]]:
        left, names = self._select(0, ctes)
        table = self.random.choice(list(TABLES))
        items = ", ".join(self.random.choice(TABLES[table]) for _ in names)
        return [left, f"SELECT {items} FROM {table}{self._where(TABLES[table])}"], names

    def _union(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        sides, names = self._sides(depth, ctes)
        return f" {self.random.choice(['UNION ALL', 'UNION DISTINCT'])} ".join(sides), names

    def _except(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        sides, names = self._sides(depth, ctes)
        return f" {self.random.choice(['EXCEPT DISTINCT', 'INTERSECT DISTINCT'])} ".join(sides), names

    def _cte(self, depth: int, ctes: dict[str, list[str]]) -> Query:
        name = self.name("cte")
        body, columns = self.query(depth - 1, ctes)
        text, names = self._select(depth - 1, {**ctes, name: columns})
        return f"WITH {name} AS ({body}) {text}", names
