"""The resolver's own cases, given to it, to sqlglot.lineage and to sqllineage: precision, recall and F1 of the edges between columns.

    python benchmarks/lineage_peers.py [--sqllineage FOLDER]

Only DIRECT edges with a source count, for the peers know no others; a STRUCT's field counts as that field for all. sqllineage is not
among the project's dependencies: `pip install --target FOLDER sqllineage` and give the folder.
"""

import argparse
import logging
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "platform_tests" / "lineage"))
from lineage_cases import Case, cases_catalog, cases_schemas, read_cases, told

from dataplatform.lineage.resolve import resolve

Edges = set[tuple[str, str, str, str]]
CATALOG = cases_catalog()
SCHEMAS = {name: table for name, table in cases_schemas().items() if table["type"] == "TABLE"}


def direct(edges: set) -> Edges:
    """(source table, column, target table, column) of the DIRECT edges with a source."""
    kinds = {"IDENTITY", "TRANSFORMATION", "AGGREGATION"}
    return {(e[0], e[1], e[2] or "", e[3]) for e in edges if e[4] in kinds}


def ours(case: Case) -> Edges:
    """This resolver."""
    return direct(told(resolve(case.statement, CATALOG, project="p", default_dataset="p.d", destination="p.d.out")))


def by_sqlglot(case: Case) -> Edges:
    """sqlglot.lineage over each output column."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.lineage import lineage
    from sqlglot.optimizer.qualify import qualify

    mapping: dict = {}
    for name, table in SCHEMAS.items():
        project, dataset, short = name.split(".")
        columns = {column["name"]: "STRING" for column in table["columns"]}
        mapping.setdefault(project, {}).setdefault(dataset, {})[short] = columns
    statement = sqlglot.parse_one(case.statement, dialect="bigquery")
    target, query = "p.d.out", statement
    if isinstance(statement, exp.Insert | exp.Create):
        table = statement.find(exp.Table)
        target = f"p.d.{table.name}"
        query = statement.expression
    names = [
        one.alias_or_name
        for one in qualify(query.copy(), schema=mapping, dialect="bigquery", catalog="p", db="d").selects
    ]
    found: Edges = set()
    for name in names:
        root = lineage(name, query, schema=mapping, dialect="bigquery", catalog="p", db="d")
        for node in root.walk():
            if isinstance(node.expression, exp.Table) and not node.downstream:
                table = node.expression
                found.add((f"{table.catalog}.{table.db}.{table.name}", node.name.rpartition(".")[2], target, name))
    return found


def by_sqllineage(case: Case) -> Edges:
    """sqllineage with the same schemas."""
    from sqllineage.core.metadata.dummy import DummyMetaDataProvider
    from sqllineage.runner import LineageRunner

    schemas = {
        name.partition(".")[2]: [column["name"] for column in table["columns"]] for name, table in SCHEMAS.items()
    }
    text = case.statement
    head = text.lstrip().split(None, 1)[0].upper() if text.strip() else ""
    if head in ("SELECT", "WITH", "FROM", "("):
        text = f"INSERT INTO d.out {text}"
    runner = LineageRunner(text, dialect="bigquery", metadata_provider=DummyMetaDataProvider(schemas))
    found: Edges = set()
    for path in runner.get_column_lineage():
        source, target = str(path[0]).lower(), str(path[-1]).lower()
        source_table, _, source_column = source.rpartition(".")
        target_table, _, target_column = target.rpartition(".")

        def full(name: str) -> str:
            short = name.replace("<default>.", "d.")
            return short if short.count(".") == 2 else f"p.{short}" if "." in short else f"p.d.{short}"

        found.add((full(source_table), source_column, full(target_table), target_column))
    return found


def folded(edges: Edges) -> Edges:
    """Case does not count."""
    return {tuple(part.lower() for part in edge) for edge in edges}  # type: ignore[misc]


def main() -> None:
    """Print the table: for each file of cases and in all."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sqllineage", type=Path, help="folder that sqllineage is installed in")
    chosen = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    tools: dict[str, Callable[[Case], Edges]] = {"ours": ours, "sqlglot.lineage": by_sqlglot}
    if chosen.sqllineage is not None:
        sys.path.append(str(chosen.sqllineage))
        tools["sqllineage"] = by_sqllineage
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for case in read_cases():
        expected = folded(direct(case.edges))
        for tool, run in tools.items():
            failed = 0
            try:
                found = folded(run(case))
            except Exception:  # a peer that gives up has found nothing
                found, failed = set(), 1
            for group in (case.file, "all"):
                count = counts[tool, group]
                count[0] += len(expected & found)
                count[1] += len(found - expected)
                count[2] += len(expected - found)
                count[3] += failed
                count[4] += 1
    print(f"{'cases':12} {'':>5}" + "".join(f" | {tool:^31}" for tool in tools))
    print(f"{'':12} {'':>5}" + " | precision recall    F1  failed" * len(tools))
    for group in [*sorted({group for _, group in counts if group != "all"}), "all"]:
        line = f"{group:12} {counts['ours', group][4]:>5}"
        for tool in tools:
            right, wrong, missed, failed, _ = counts[tool, group]
            precision = right / (right + wrong) if right + wrong else 1.0
            recall = right / (right + missed) if right + missed else 1.0
            f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            line += f" | {precision:>9.2f} {recall:>6.2f} {f1:>6.3f} {failed:>6}"
        print(line)


if __name__ == "__main__":
    main()
