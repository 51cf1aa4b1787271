"""Column lineage of a very large query log on Spark: the function of `dataplatform lineage extract`, one call a partition.

    spark-submit --py-files dataplatform.zip lineage_job.py --queries gs://…/jobs/*.jsonl --schemas gs://…/schemas.json --output gs://…/edges

The log is JSON lines (one job a line), as `lineage extract` reads; the output is the same JSON lines, in files of `--output`. Jobs are
brought together by fingerprint first, so that each distinct text is resolved once in the whole cluster; the edges carry the id of one
of its jobs, and `runs`, the number of them. A statement's time limit is held by ending the process that resolves it
(`dataplatform.lineage.workers`), so a statement that takes an executor down costs only itself.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplatform.lineage.catalog import Catalog


def keyed(lines: Iterable[str]) -> Iterator[tuple[str, tuple[str, int]]]:
    """Fingerprint → (the job's record, 1). Records that are no jobs are keyed by themselves, to be told as such."""
    import msgspec

    from dataplatform.lineage.jobs import Job

    decoder = msgspec.json.Decoder(Job)
    for line in lines:
        if not line.strip():
            continue
        try:
            job = decoder.decode(line.encode())
        except msgspec.DecodeError:
            yield line, (line, 1)
            continue
        if job.counts:
            yield job.fingerprint(), (line, 1)


def resolved(entries: Iterable[tuple[str, tuple[str, int]]], catalog: "Catalog", seconds: float) -> Iterator[str]:
    """Output lines of distinct jobs, without the catalog's own problems; `runs` is added to each."""
    from dataplatform.lineage.extract import extract, read_jobs

    catalog.problems.clear()
    jobs: list[tuple[object, int]] = []
    written: list[bytes] = []

    def records() -> Iterator[bytes]:
        """The jobs under their numbers instead of their ids, which need not be there or be one job's alone."""
        for _, (line, count) in entries:
            record = json.loads(line)
            if isinstance(record, dict):
                jobs.append((record.get("job_id", ""), count))
            else:
                jobs.append(("", count))
                record = {"job_id": "", "query": record}  # no job at all: told as one whose text is none
            yield json.dumps(record | {"job_id": str(len(jobs) - 1)}).encode()

    extract(read_jobs(records(), "log"), catalog, written.append, workers=1, seconds=seconds)
    for chunk in written:
        for line in chunk.splitlines():
            told = json.loads(line)
            told["job_id"], runs = jobs[int(told["job_id"])]
            yield json.dumps(told | {"runs": runs}, ensure_ascii=False)


def main() -> None:
    """Read, bring together, resolve, write; what is not understood in the schemas is written once."""
    from pyspark import SparkFiles
    from pyspark.sql import SparkSession

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", required=True)
    arguments.add_argument("--schemas", required=True)
    arguments.add_argument("--output", required=True)
    arguments.add_argument("--seconds", type=float, default=10.0, help="time limit of a statement")
    arguments.add_argument("--partitions", type=int, default=0, help="tasks that resolve; default: Spark's parallelism")
    chosen = arguments.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # on one machine the workers need what the driver has
    spark = SparkSession.builder.appName("dataplatform lineage").getOrCreate()
    context = spark.sparkContext
    context.addFile(chosen.schemas)
    schemas, seconds = PurePosixPath(chosen.schemas).name, chosen.seconds

    def catalog() -> "Catalog":
        from dataplatform.lineage.catalog import load_catalog

        return load_catalog(Path(SparkFiles.get(schemas)))

    def problems(_: Iterable[object]) -> Iterator[str]:
        from dataplatform.lineage.extract import problem_lines

        return (line.decode().rstrip("\n") for line in problem_lines(catalog()))

    distinct = (
        context.textFile(chosen.queries)
        .mapPartitions(keyed)
        .reduceByKey(
            lambda one, other: (min(one[0], other[0]), one[1] + other[1]),
            chosen.partitions or context.defaultParallelism,
        )
    )
    edges = distinct.mapPartitions(lambda entries: resolved(entries, catalog(), seconds))
    context.parallelize([0], 1).mapPartitions(problems).union(edges).saveAsTextFile(chosen.output)
    spark.stop()


if __name__ == "__main__":
    main()
