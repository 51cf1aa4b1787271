"""Accuracy of the resolver on a query log: what is parsed, which destination columns are found, what has its sources, and why not.

    python benchmarks/lineage_accuracy.py --queries FILE.jsonl --schemas FILE.json [--show REASON] [--misses N]

A destination whose columns the schemas state is an oracle: they are what the query must produce, in that order. Only queries with a
destination take part in that line.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from dataplatform.lineage.catalog import load_catalog
from dataplatform.lineage.names import PSEUDO_COLUMNS, general_path
from dataplatform.lineage.resolve import resolve


def in_order(expected: list[str], found: list[str]) -> int:
    """Length of the longest common subsequence: columns found, and found in order."""
    best = [0] * (len(found) + 1)
    for name in expected:
        previous = 0
        for at, other in enumerate(found, 1):
            previous, best[at] = best[at], previous + 1 if name == other else max(best[at], best[at - 1])
    return best[-1]


def has_column(columns: dict, path: str) -> bool:
    """Whether the schema has this dotted path."""
    first, *rest = path.split(".")
    if first.lower() in PSEUDO_COLUMNS:
        return True
    field = columns.get(first.lower())
    for part in rest:
        field = field.child(part) if field is not None else None
    return field is not None


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", type=Path, required=True)
    arguments.add_argument("--schemas", type=Path, required=True)
    arguments.add_argument("--misses", type=int, default=0, help="queries to list whose columns were not all found")
    arguments.add_argument("--show", default="", help="list the details of this reason")
    chosen = arguments.parse_args()
    catalog = load_catalog(chosen.schemas)
    stated = {name for name, table in catalog.tables.items() if table.columns}
    reasons: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    slowest = (0.0, "")
    misses = []
    started = time.perf_counter()
    for line in chosen.queries.open():
        job = json.loads(line)
        destination = general_path(job["destination_table"]) if job.get("destination_table") else None
        begun = time.perf_counter()
        result = resolve(
            job["query"],
            catalog,
            project=job["project_id"],
            default_dataset=job["default_dataset"],
            destination=destination,
        )
        slowest = max(slowest, (time.perf_counter() - begun, job["job_id"]))
        counted["statements"] += 1
        why = {one.reason for one in result.unresolved}
        reasons.update(why)
        counted["parsed"] += not why & {"syntax", "internal", "too_deep", "time_limit"}
        counted[result.status] += 1
        for one in result.unresolved:
            if one.reason == chosen.show:
                print(job["job_id"], one.target_column, one.detail)
        sourced: dict[str, bool] = {}
        for edge in result.edges:
            counted["edges"] += 1
            if edge.target_column != "*" and edge.target_table == destination:
                sourced[edge.target_column.split(".")[0].lower()] = True
            for table, column in ((edge.source_table, edge.source_column), (edge.target_table, edge.target_column)):
                if table in stated and column not in (None, "*"):
                    kind = "source" if (table, column) == (edge.source_table, edge.source_column) else "target"
                    if not has_column(catalog.tables[table].columns, column):
                        counted[f"{kind} columns not in the schema"] += 1
                        if chosen.show == f"not_in_schema_{kind}":
                            print(job["job_id"], table, column)
        for one in result.unresolved:
            if one.target_column is not None:
                sourced.setdefault(one.target_column.split(".")[0].lower(), False)
        counted["output columns"] += len(sourced)
        counted["output columns with sources"] += sum(sourced.values())
        if destination in stated:
            expected = list(catalog.tables[destination].columns)
            found = in_order(expected, list(sourced))
            counted["destination columns"] += len(expected)
            counted["destination columns found"] += found
            if found < len(expected):
                missing = [name for name in expected if name not in sourced]
                misses.append(
                    (job["job_id"], destination, len(expected) - found, f"missing {missing[:8]}", result.status)
                )
    seconds = time.perf_counter() - started

    def share(part: str, whole: str) -> str:
        return f"{counted[part]:>8,} of {counted[whole]:>8,}  {100 * counted[part] / max(counted[whole], 1):6.2f}%"

    print(f"statements parsed             {share('parsed', 'statements')}")
    print(f"destination columns in order  {share('destination columns found', 'destination columns')}")
    print(f"output columns with sources   {share('output columns with sources', 'output columns')}")
    for kind in ("source", "target"):
        print(f"{kind} columns not in schema   {counted[f'{kind} columns not in the schema']:>8,}")
    print(
        f"edges {counted['edges']:,}; resolved {counted['resolved']}, partly {counted['partly']}, failed {counted['failed']}"
    )
    print(
        f"{counted['statements'] / seconds:.0f} statements/s in one process; slowest {slowest[0]:.2f} s ({slowest[1]})"
    )
    for reason, count in reasons.most_common():
        print(f"  {reason:30} {count}")
    for miss in misses[: chosen.misses]:
        print(*miss)


if __name__ == "__main__":
    main()
