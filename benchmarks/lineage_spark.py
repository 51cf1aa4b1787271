"""The Spark job in local mode beside the extractor: the same edges, and what each takes.

    python benchmarks/lineage_spark.py --queries FILE.jsonl --schemas FILE.json --python ENVIRONMENT/bin/python [--cores 2]

`--python` is an interpreter with pyspark, sqlglot, msgspec, click and pydantic-settings; Java is needed as well.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from dataplatform.lineage.catalog import load_catalog
from dataplatform.lineage.extract import extract, read_jobs

ROOT = Path(__file__).parents[1]
EDGE = ("source_table", "source_column", "target_table", "target_column", "type", "subtype", "masking", "confidence")


def edges(lines: Iterable[bytes]) -> set[tuple[object, ...]]:
    """Edges without the job, which either may choose among jobs of one text."""
    records = (json.loads(line) for line in lines if line.strip())
    return {tuple(record.get(name) for name in EDGE) for record in records if record["kind"] == "edge"}


def main() -> None:
    """Run both, compare, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", type=Path, required=True)
    arguments.add_argument("--schemas", type=Path, required=True)
    arguments.add_argument("--python", required=True)
    arguments.add_argument("--cores", type=int, default=2)
    chosen = arguments.parse_args()
    written: list[bytes] = []
    started = time.perf_counter()
    with chosen.queries.open("rb") as log:
        done = extract(read_jobs(log, str(chosen.queries)), load_catalog(chosen.schemas), written.append, distinct=True)
    ours = time.perf_counter() - started
    here = edges(line for chunk in written for line in chunk.splitlines())
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "edges"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "platform"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_SUBMIT_ARGS": f"--master local[{chosen.cores}] --conf spark.ui.enabled=false pyspark-shell",
        }
        job = [chosen.python, str(ROOT / "deploy" / "spark" / "lineage_job.py"), "--output", str(output)]
        job += ["--queries", str(chosen.queries), "--schemas", str(chosen.schemas)]
        started = time.perf_counter()
        subprocess.run(job, env=environment, check=True, stderr=subprocess.DEVNULL)
        theirs = time.perf_counter() - started
        there = edges(line for part in output.glob("part-*") for line in part.read_bytes().splitlines())
    print(f"{done.queries:,} jobs, {done.distinct:,} distinct texts, {len(here):,} distinct edges")
    print(f"extractor, 1 process     {ours:8.1f} s")
    print(f"Spark, local[{chosen.cores}]          {theirs:8.1f} s, with its start")
    print(f"edges in one only        {len(here ^ there):8,}")


if __name__ == "__main__":
    main()
