"""The embedded BigQuery server as this platform runs it. Started by file path with the Python of `.venv-bigquery`, where this
package is not installed: it imports nothing of it.

What it adds to `local-bigquery`: DuckDB's memory is bounded (it would take 80 % of the machine's), its extensions are those
that set-up put into this environment (not into a home folder), and jobs that a killed predecessor left RUNNING are ended, so that clients that
wait for them are told instead of waiting for ever.
"""

import argparse
import functools
import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--project", default="local")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--memory-limit", default="4GB", help="DuckDB's, for all statements together")
    parser.add_argument("--threads", type=int, help="DuckDB's for one statement; by default one for each core")
    arguments = parser.parse_args()
    arguments.data_dir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GCS_LOCAL_ROOT", str(arguments.data_dir / "gcs"))

    configure_engine(arguments.memory_limit, arguments.data_dir / "spill", arguments.threads)
    from local_bigquery.settings import settings

    settings.bigquery_host = "127.0.0.1"
    settings.bigquery_port = arguments.port
    settings.grpc_port = arguments.grpc_port
    settings.default_project_id = arguments.project
    settings.data_dir = arguments.data_dir
    beside("bigquery_quick").quicken()
    end_lost_jobs()

    import uvicorn
    from local_bigquery.grpc import server

    spare_the_collector()
    grpc_server, _ = server.start("127.0.0.1", arguments.grpc_port)
    uvicorn.run(
        "local_bigquery:app",
        host="127.0.0.1",
        port=arguments.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    grpc_server.stop(None)


def beside(name: str) -> ModuleType:
    """The module in the file of this name next to this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configure_engine(limit: str, spill: Path, threads: int | None = None) -> None:
    """Every database that this process opens gets the limit, a folder to spill to and this environment's extensions."""
    import duckdb

    connect = duckdb.connect
    ours = {"memory_limit": limit, "temp_directory": str(spill)}
    if threads:
        ours["threads"] = str(threads)
    if (extensions := Path(sys.prefix) / "extensions").exists():
        ours["extension_directory"] = str(extensions)

    @functools.wraps(connect)
    def bounded(database: str = ":memory:", read_only: bool = False, config: dict[str, Any] | None = None) -> Any:
        return connect(database, read_only=read_only, config=ours | (config or {}))

    duckdb.connect = bounded


def spare_the_collector() -> None:
    """Translating a statement makes and drops tens of thousands of small objects; the default thresholds would walk through
    everything the process holds many times a statement, which was half of its time."""
    import local_bigquery  # noqa: F401  # all that lives as long as the process

    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def end_lost_jobs() -> None:
    """Jobs that no process runs any more become DONE with an error of a reason that the server knows how to tell: whoever still
    waits for one hears at once what became of it."""
    from local_bigquery.engine import database

    error = {"reason": "stopped", "message": "The server was restarted while the job ran."}
    for project, job, resource in database.fetch(
        "SELECT project_id, job_id, resource FROM emulator.jobs WHERE state <> 'DONE'"
    ):
        ended = json.loads(resource)
        ended["status"] = {"state": "DONE", "errorResult": error, "errors": [error]}
        ended.setdefault("statistics", {})["endTime"] = str(time.time_ns() // 1_000_000)
        database.execute(
            "UPDATE emulator.jobs SET state = 'DONE', resource = ? WHERE project_id = ? AND job_id = ?",
            [json.dumps(ended), project, job],
        )


if __name__ == "__main__":
    main()
