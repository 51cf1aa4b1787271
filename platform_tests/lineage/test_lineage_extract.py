"""`dataplatform lineage extract`: the interface that must stay, bad input, limits, and texts resolved once."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dataplatform.errors import PlatformError
from dataplatform.lineage import workers as lineage_workers
from dataplatform.lineage.catalog import Catalog, catalog_from
from dataplatform.lineage.extract import extract, problem_lines, read_jobs
from dataplatform.lineage.fingerprint import folded
from dataplatform.lineage.jobs import Job
from dataplatform.lineage.resolve import resolve

SCHEMAS = {
    "p.d.t": {
        "type": "TABLE",
        "columns": [
            {"name": "a", "type": "INT64", "mode": "NULLABLE"},
            {"name": "b", "type": "STRING", "mode": "NULLABLE"},
            {"name": "s", "type": "RECORD", "mode": "NULLABLE", "fields": [{"name": "x", "type": "INTEGER"}]},
        ],
    }
}


def job(number: int, query: str, **more: object) -> dict:
    return {
        "job_id": f"job{number}",
        "project_id": "p",
        "query": query,
        "destination_table": "p.d.out",
        "default_dataset": "p.d",
        "statement_type": "SELECT",
        "creation_time": "2026-01-01T00:00:00Z",
        "user_email": "etl@example.com",
        "labels": {"team": "x"},
    } | more


def run_command(tmp_path: Path, lines: list[str | bytes], *options: str) -> subprocess.CompletedProcess:
    queries = tmp_path / "queries.jsonl"
    queries.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    schemas = tmp_path / "schemas.json"
    if not schemas.exists():
        schemas.write_text(json.dumps(SCHEMAS))
    command = [sys.executable, "-c", "from dataplatform.cli import main; main()", "lineage", "extract"]
    command += ["--queries", str(queries), "--schemas", str(schemas), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def run_jobs(jobs: list[dict], catalog: Catalog | None = None, **options: object) -> tuple[list[dict], object]:
    written: list[bytes] = []
    records = [Job(**one) for one in jobs]
    summary = extract(records, catalog or catalog_from(SCHEMAS), written.append, **options)
    return [json.loads(line) for line in b"".join(written).splitlines()], summary


def test_output_is_as_documented(tmp_path: Path) -> None:
    output = tmp_path / "edges.jsonl"
    query = "SELECT a, s.x AS y, 1 AS one, UPPER(b) AS u, nope FROM t WHERE b = 'x'"
    done = run_command(tmp_path, [json.dumps(job(1, query))], "--output", str(output), "--workers", "2")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    edges = {record["target_column"]: record for record in records if record["kind"] == "edge"}
    assert list(edges["a"]) == [
        *("kind", "job_id", "source_table", "source_column", "target_table", "target_column"),
        *("type", "subtype", "masking", "expression", "confidence"),
    ]
    assert edges["y"]["source_column"] == "s.x"
    one = edges["one"]
    assert (one["source_table"], one["source_column"], one["subtype"], one["expression"]) == (
        None,
        None,
        "CONSTANT",
        "1",
    )
    assert (edges["u"]["subtype"], edges["u"]["expression"]) == ("TRANSFORMATION", "UPPER(b)")
    assert (edges["*"]["type"], edges["*"]["subtype"], edges["*"]["source_column"]) == ("INDIRECT", "FILTER", "b")
    (unresolved,) = [record for record in records if record["kind"] == "unresolved"]
    assert list(unresolved) == ["kind", "job_id", "target_table", "target_column", "reason", "detail"]
    assert (unresolved["job_id"], unresolved["target_column"], unresolved["reason"]) == (
        "job1",
        "nope",
        "unknown_column",
    )
    for word in ("queries", "resolved", "partly", "failed", "edges", "queries/s", "unknown_column"):
        assert word in done.stderr


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    done = run_command(tmp_path, [json.dumps(job(1, "SELECT a FROM t")), "", "{broken"])
    assert done.returncode == 1
    assert "line 3 is not JSON" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["not json", "[1]"])
def test_a_schemas_file_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "schemas.json").write_text(content)
    done = run_command(tmp_path, [json.dumps(job(1, "SELECT a FROM t"))])
    assert done.returncode == 1
    assert "schemas.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_input_costs_only_itself(tmp_path: Path) -> None:
    nested = "SELECT a FROM t"
    for depth in range(200):
        nested = f"WITH c{depth} AS ({nested}) SELECT a FROM c{depth}"
    chained = "WITH c0 AS (SELECT a FROM t)" + "".join(f", c{i} AS (SELECT a FROM c{i - 1})" for i in range(1, 200))
    text = "x" * 200
    large = "SELECT " + ", ".join(f"IF(b = 'value {i} {text}', a, {i}) AS c{i}" for i in range(4_500)) + " FROM t"
    assert len(large) > 1_000_000
    queries = {
        "invalid": "SELEC a FRM t",
        "large": large,
        "long": "SELECT a FROM t WHERE b IN (" + ", ".join(f"'{i:09}'" for i in range(20_000)) + ")",
        "nested": nested,
        "chained": chained + " SELECT a FROM c199",
        "parens": "SELECT " + "(" * 3000 + "a" + ")" * 3000 + " AS x FROM t",
        "dialect": "SELECT TOP 3 [a] FROM [t] WITH (NOLOCK)",
        "rubbish": "\x00\x01\ufffd\u2603'\"`;;((\\" + "\x7f" * 50,
        "empty": "  ",
        "good": "SELECT a FROM t",
    }
    lines = [json.dumps(job(0, text, job_id=name)) for name, text in queries.items()]
    lines += ['{"job_id": "list", "query": [1]}', "[1, 2]", '{"job_id": "none"}', '{"job_id": "null", "query": null}']
    output = tmp_path / "edges.jsonl"
    done = run_command(tmp_path, lines, "--output", str(output), "--seconds", "60", "--workers", "2")
    assert done.returncode == 0, done.stderr
    reasons: dict[str, set[str]] = {}
    edges: dict[str, int] = {}
    for record in map(json.loads, output.read_text().splitlines()):
        if record["kind"] == "edge":
            edges[record["job_id"]] = edges.get(record["job_id"], 0) + 1
        else:
            reasons.setdefault(record["job_id"], set()).add(record["reason"])
    assert edges["good"] == 1
    assert edges["nested"] == edges["chained"] == edges["parens"] == 1, reasons
    assert edges["large"] == 9_000
    assert edges["long"] == 2
    for name in ("invalid", "dialect", "rubbish"):
        assert reasons[name] == {"syntax"}, name
    assert reasons["empty"] == reasons["none"] == reasons["null"] == {"no_query"}
    assert reasons["list"] == {"bad_record"}
    assert reasons[""] == {"bad_record"}


def test_a_struct_written_as_one_type_has_its_fields() -> None:
    kinds = {
        "s": "STRUCT<x INT64, y ARRAY<STRUCT<z NUMERIC(38, 2)>>>",
        "a": "ARRAY<STRUCT<k STRING>>",
        "u": "STRUCT<INT64>",
    }
    catalog = catalog_from({"p.d.t": {"columns": [{"name": name, "type": kind} for name, kind in kinds.items()]}})
    assert catalog.problems == []
    result = resolve("SELECT s.*, a[0].k, s.nope FROM p.d.t", catalog, destination="p.d.out")
    assert {(edge.source_column, edge.confidence) for edge in result.edges} == {
        ("s.x", 1.0),
        ("s.y", 1.0),
        ("a.k", 1.0),
    }
    assert [one.reason for one in result.unresolved] == ["unknown_field"]


def test_an_unknown_type_is_one_record(tmp_path: Path) -> None:
    schemas = {
        "p.d.t": {"type": "TABLE", "columns": [{"name": "a", "type": "QUATERNION"}, {"name": "b", "type": "STRING"}]}
    }
    (tmp_path / "schemas.json").write_text(json.dumps(schemas))
    done = run_command(tmp_path, [json.dumps(job(1, "SELECT a, b FROM t"))])
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["target_table"], r["target_column"], r["reason"]) for r in records if r["kind"] == "unresolved"] == [
        ("p.d.t", "a", "unknown_type")
    ]
    assert [r["source_column"] for r in records if r["kind"] == "edge"] == ["a", "b"]


def test_equal_texts_are_resolved_once_and_written_for_each_job() -> None:
    jobs = [job(i, f"SELECT a FROM t WHERE b = 'x{i}' -- run {i}") for i in range(50)]
    records, summary = run_jobs(jobs)
    assert summary.distinct == 1
    assert [record["job_id"] for record in records] == [f"job{i}" for i in range(50) for _ in range(2)]
    records, summary = run_jobs(jobs, distinct=True)
    assert [record["job_id"] for record in records] == ["job0", "job0"]
    assert summary.queries == 50


def test_the_order_is_the_log_s_whatever_the_workers() -> None:
    jobs = [job(i, f"SELECT a + {'a * ' * (i % 7)} 1 AS c{i % 13} FROM t") for i in range(200)]
    one, _ = run_jobs(jobs, workers=1)
    three, _ = run_jobs(jobs, workers=3)
    assert one == three
    assert [record["job_id"] for record in one] == [f"job{i}" for i in range(200)]


def test_other_places_are_other_entries() -> None:
    jobs = [job(1, "SELECT a FROM t"), job(2, "SELECT a FROM t", destination_table="p.d.other")]
    records, summary = run_jobs(jobs)
    assert summary.distinct == 2
    assert [record["target_table"] for record in records] == ["p.d.out", "p.d.other"]


def test_failed_jobs_and_dry_runs_are_no_lineage() -> None:
    jobs = [
        job(1, "SELECT a FROM t", error_result={"reason": "stopped"}),
        job(2, "SELECT a FROM t", dry_run=True),
        job(3, "SELECT a FROM t", destination_table="p._1234abcd.anon5678"),
    ]
    records, summary = run_jobs(jobs)
    assert summary.skipped == 2
    assert [(record["job_id"], record["target_table"]) for record in records] == [("job3", None)]


def test_load_copy_and_extract_jobs() -> None:
    jobs = [
        {"job_id": "l", "job_type": "LOAD", "destination_table": "p.d.t", "source_uris": ("gs://b/x",)},
        {"job_id": "c", "job_type": "COPY", "destination_table": "p.d.t9", "source_tables": ("p.d.t",)},
        {"job_id": "e", "job_type": "EXTRACT", "source_tables": ("p.d.t",), "destination_uris": ("gs://b/y",)},
    ]
    records, _ = run_jobs(jobs)
    found = {(r["job_id"], r["source_table"], r["target_table"], r["target_column"]) for r in records}
    assert ("l", "gs://b/x", "p.d.t", "a") in found
    assert ("c", "p.d.t", "p.d.t9", "b") in found
    assert ("e", "p.d.t", "gs://b/y", "s") in found


def test_a_statement_over_its_time_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    real = lineage_workers.resolve_job

    def slow(one: Job, catalog: Catalog) -> object:
        while "forever" in (one.query or ""):
            pass
        return real(one, catalog)

    monkeypatch.setattr(lineage_workers, "resolve_job", slow)
    jobs = [job(1, "SELECT a FROM t"), job(2, "SELECT a AS forever FROM t"), job(3, "SELECT b FROM t")]
    records, summary = run_jobs(jobs, seconds=0.5)
    assert [(r["job_id"], r.get("reason")) for r in records] == [("job1", None), ("job2", "time_limit"), ("job3", None)]
    assert summary.reasons == {"time_limit": 1}


def test_a_union_of_thousands_costs_what_its_branches_do() -> None:
    union = " UNION ALL ".join(f"SELECT a, b, {number} AS c FROM t" for number in range(3000))
    _, summary = run_jobs([job(0, union)], seconds=6.0)
    assert summary.reasons == {}


def test_a_process_that_dies_costs_only_its_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real = lineage_workers.resolve_job

    def dies(one: Job, catalog: Catalog) -> object:
        if "dies" in (one.query or ""):
            os._exit(7)
        return real(one, catalog)

    monkeypatch.setattr(lineage_workers, "resolve_job", dies)
    jobs = [job(1, "SELECT a FROM t"), job(2, "SELECT a AS dies FROM t"), job(3, "SELECT b FROM t")]
    records, _ = run_jobs(jobs, workers=2)
    assert [(r["job_id"], r.get("reason")) for r in records] == [("job1", None), ("job2", "crashed"), ("job3", None)]


def test_memory_of_a_statement_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    real = lineage_workers.resolve_job

    def hungry(one: Job, catalog: Catalog) -> object:
        if "hungry" in (one.query or ""):
            return [bytearray(64 << 20) for _ in range(100)]
        return real(one, catalog)

    monkeypatch.setattr(lineage_workers, "resolve_job", hungry)
    records, _ = run_jobs([job(1, "SELECT a AS hungry FROM t"), job(2, "SELECT b FROM t")], memory_bytes=512 << 20)
    assert [(r["job_id"], r.get("reason")) for r in records] == [("job1", "memory_limit"), ("job2", None)]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("SELECT a FROM t WHERE b = 'x'", 'SELECT a\n  FROM t WHERE b = "y" -- z', True),
        ("SELECT a FROM t LIMIT 10", "SELECT a FROM t LIMIT 200", True),
        ("SELECT a FROM t_20260101", "SELECT a FROM t_20260102", True),
        ("SELECT a FROM `p.d.t_20260101`", "SELECT a FROM `p.d.t_20260102`", True),
        ("SELECT a FROM t WHERE b IN (1, 2)", "SELECT a FROM t WHERE b IN (3)", True),
        ("SELECT a FROM t WHERE b IN (1, 2)", "SELECT a FROM t WHERE b IN (3, 4, 5)", True),
        ("INSERT t VALUES (1, 'a')", "INSERT t VALUES (1, 'a'), (2, 'b')", True),
        ("SELECT a FROM t GROUP BY 1", "SELECT a FROM t GROUP BY 2", False),
        ("SELECT a FROM t1", "SELECT a FROM t2", False),
        ("SELECT 1", "SELECT 1, 2", False),
        ("SELECT JSON_VALUE(d, '$.a') FROM t", "SELECT JSON_VALUE(d, '$.b') FROM t", False),
        ("SELECT d['a'] FROM t", "SELECT d['b'] FROM t", False),
        ("SELECT * FROM t PIVOT(SUM(a) FOR b IN ('x'))", "SELECT * FROM t PIVOT(SUM(a) FOR b IN ('y'))", False),
        (
            "SELECT * FROM GAP_FILL(TABLE t, ts_column => 'a')",
            "SELECT * FROM GAP_FILL(TABLE t, ts_column => 'b')",
            False,
        ),
        ("SELECT * FROM RANGE_SESSIONIZE(TABLE t, 'a', [])", "SELECT * FROM RANGE_SESSIONIZE(TABLE t, 'b', [])", False),
        ("EXECUTE IMMEDIATE 'SELECT a FROM t'", "EXECUTE IMMEDIATE 'SELECT b FROM t'", False),
        ("CALL d.run('SELECT a FROM t')", "CALL d.run('SELECT b FROM t')", False),
        ("CALL d.run(1)", "CALL d.run(2)", False),
        ("DECLARE c STRING DEFAULT 'a'; CALL d.run(c)", "DECLARE c STRING DEFAULT 'b'; CALL d.run(c)", False),
        ("CALL d.run('2026-01-01') -- a", "CALL d.run('2026-01-02')", True),
        ("CALL d.run('2026-01-01 00:00:00')", "CALL d.run('2026-01-02T10:00:00Z')", True),
        ("SELECT calls FROM t WHERE b = 'x'", "SELECT calls FROM t WHERE b = 'y'", True),
        ("SELECT 'it''s' FROM t", "SELECT r'\\'' FROM t", False),
        ("SELECT a /* 'x */ FROM t", "SELECT a FROM t", True),
        ("SELECT a FROM `p-1.d.t`", "SELECT a FROM `p-2.d.t`", False),
        ("SELECT a FROM p-1.d.t", "SELECT a FROM p-2.d.t", False),
        ("SELECT a FROM p-1.d.t", "SELECT a FROM p-1.d.u", False),
        ("SELECT `1st` FROM t", "SELECT `2nd` FROM t", False),
        ("SELECT a-1.5 FROM t", "SELECT a-2.5 FROM t", True),
        ("SELECT a FROM t GROUP BY f(a, g(b)), 2", "SELECT a FROM t GROUP BY f(a, g(b)), 3", False),
        ("SELECT a FROM t GROUP BY ROLLUP(1)", "SELECT a FROM t GROUP BY ROLLUP(2)", False),
        ("SELECT a FROM t ORDER BY b NULLS LAST, 1", "SELECT a FROM t ORDER BY b NULLS LAST, 2", False),
        ("EXPORT DATA OPTIONS(uri='gs://a/*') AS SELECT 1", "EXPORT DATA OPTIONS(uri='gs://b/*') AS SELECT 1", False),
    ],
)
def test_folding(left: str, right: str, same: bool) -> None:
    assert (folded(left) == folded(right)) is same


def test_lines_of_another_shape_cost_only_themselves() -> None:
    lines = [
        b"\xef\xbb\xbf" + json.dumps(job(1, "SELECT a FROM t", creation_time=1767225600)).encode(),
        json.dumps(job(2, "SELECT \udcff\ud800")).encode(),
        b"[1]",
        json.dumps(job(3, "\x00\x01\x7f")).encode(),
    ]
    found = list(read_jobs(lines, "log"))
    assert [one[0] if isinstance(one, tuple) else one.job_id for one in found] == ["job1", "job2", "", "job3"]
    records, _ = run_jobs([job(3, "\x00\x01\x7f")])
    assert [record["reason"] for record in records] == ["unsupported"]


@pytest.mark.parametrize("line", [b'[{"job_id": "1"},', b"[" * 100_000, b"NaN"])
def test_a_line_that_is_not_json_is_told_by_its_number(line: bytes) -> None:
    with pytest.raises(PlatformError, match="line 1 is not JSON"):
        list(read_jobs([line], "log"))


@pytest.mark.parametrize("table", [{"columns": 5}, {"columns": [{"name": "a", "type": "RECORD", "fields": 7}]}])
def test_columns_that_are_no_list_are_a_problem_of_their_table(table: dict) -> None:
    assert [problem.table for problem in catalog_from({"p.d.t": table}).problems] == ["p.d.t"]


def test_the_spark_job_counts_runs_by_job_and_leaves_ids_as_they_are() -> None:
    path = Path(__file__).parents[2] / "deploy" / "spark" / "lineage_job.py"
    spec = importlib.util.spec_from_file_location("lineage_job", path)
    assert spec is not None and spec.loader is not None
    spark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(spark)
    one, other = (job(0, f"SELECT {column} FROM t", job_id="") for column in "ab")
    lines = [json.dumps(one)] * 3 + [json.dumps(other)] + ["[1]"] * 2 + ['{"job_id": "odd", "query": [1]}']
    together: dict[str, tuple[str, int]] = {}
    for key, (line, count) in spark.keyed(lines):
        together[key] = (line, together.get(key, (line, 0))[1] + count)
    catalog = catalog_from(SCHEMAS | {"p.d.odd": {"columns": [{"name": "x", "type": "NONSENSE"}]}})
    problems = list(problem_lines(catalog))
    assert [json.loads(line)["reason"] for line in problems] == ["unknown_type"]
    records = [json.loads(line) for line in spark.resolved(together.items(), catalog, 10.0)]
    told = [(one["job_id"], one.get("source_column") or one["reason"], one["runs"]) for one in records]
    assert told == [("", "a", 3), ("", "b", 1), ("", "bad_record", 2), ("odd", "bad_record", 1)]
