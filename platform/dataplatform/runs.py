"""Dagster runs: how what is due becomes one, in this process or by request, and what becomes of runs whose process died."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import sqlalchemy
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._grpc.client import DagsterGrpcClient
from ruamel.yaml import YAML

from .due import HOUR, Due
from .errors import PlatformError
from .lease import process_lives
from .settings import Settings

STREAM_TAG = "dataplatform/stream"
REASON_TAG = "dataplatform/reason"
HOST_TAG, PID_TAG, STARTED_TAG = "dataplatform/host", "dataplatform/pid", "dataplatform/process_started"
"""Which process works on a run, so that a run whose process is gone can be told from one that is slow."""
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"
ENGINES = 64
"""SQLite files (the event log has one a run) whose engines a process keeps."""
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class RunOutcome:
    """One run. `failures` are the blocking checks that do not hold, and what else went wrong, a line each."""

    run_id: str
    due: Due
    ok: bool
    seconds: float
    failures: tuple[str, ...] = ()


def partition_key(start: datetime, unit: timedelta = HOUR) -> str:
    """Dagster's key of an hourly partition, or of a daily one."""
    return start.astimezone(UTC).strftime("%Y-%m-%d-%H:%M" if unit == HOUR else "%Y-%m-%d")


def parse_partition_key(key: str) -> datetime:
    """The hour (UTC) of a partition's key."""
    return datetime.strptime(key, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC)


def asset_key(asset: str) -> dg.AssetKey:
    """The key of an asset written with slashes."""
    return dg.AssetKey(asset.split("/"))


def range_of(tags: Mapping[str, str]) -> tuple[datetime, datetime] | None:
    """The hours `[start, end)` that a run is about, by its tags; None where it is about none."""
    first = tags.get(RANGE_START_TAG) or tags.get(PARTITION_TAG)
    last = tags.get(RANGE_END_TAG) or tags.get(PARTITION_TAG)
    if first is None or last is None:
        return None
    return parse_partition_key(first), parse_partition_key(last) + HOUR


def run_tags(due: Due, stream: str) -> dict[str, str]:
    """Tags of the run that does what is due: its stream, its hours, why."""
    tags = {STREAM_TAG: stream, REASON_TAG: due.reason}
    if due.start is not None and due.end is not None:
        tags |= {RANGE_START_TAG: partition_key(due.start, due.unit)}
        tags[RANGE_END_TAG] = partition_key(due.end - due.unit, due.unit)
    return tags


def run_request(due: Due, stream: str, attempt: int = 1) -> dg.RunRequest:
    """The run that does what is due, for a sensor. Its key is what it is due for, so that one thing is asked for once an attempt."""
    return dg.RunRequest(
        run_key=f"{stream}:{due.digest}:{attempt}",
        asset_selection=[asset_key(asset) for asset in due.assets],
        tags=run_tags(due, stream),
    )


def process_tags() -> dict[str, str]:
    """Run tags that name this process."""
    pid = os.getpid()
    return {
        HOST_TAG: socket.gethostname(),
        PID_TAG: str(pid),
        STARTED_TAG: f"{psutil.Process(pid).create_time():.2f}",
    }


def unfinished_runs(instance: dg.DagsterInstance, stream: str) -> list[dg.DagsterRun]:
    """Runs of a stream that have not ended."""
    return list(instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags={STREAM_TAG: stream})))


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this machine as failed whose process is gone, and free their pool slots; the ids of those runs.

    Nothing else would, where no daemon runs: they would stay in progress, and their slots taken, for ever.
    """
    buried = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags={HOST_TAG: socket.gethostname()})):
        tags = run.tags
        if PID_TAG not in tags or process_lives(int(tags[PID_TAG]), float(tags[STARTED_TAG])):
            continue
        instance.report_run_failed(run, f"its process ({tags[PID_TAG]} on {tags[HOST_TAG]}) is gone")
        if instance.event_log_storage.supports_global_concurrency_limits:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        buried.append(run.run_id)
    return buried


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of this environment: DAGSTER_HOME where it is set, else `<data_dir>/dagster`."""
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else settings.data_dir.resolve() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    ours = Path(__file__).resolve().parents[2] / "dagster.yaml"
    if not (home / "dagster.yaml").exists() and ours.exists():
        shutil.copyfile(ours, home / "dagster.yaml")
    if settings.env == "local" and not sqlalchemy.event.contains(sqlalchemy.Engine, "connect", _without_fsync):
        sqlalchemy.event.listen(sqlalchemy.Engine, "connect", _without_fsync)
        _keep_engines()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _without_fsync(connection: Any, record: object) -> None:
    """Dagster writes each event of a run by transactions of its own: waiting for the disk was two fifths of a run.

    A killed process loses nothing by it. A machine that loses power may lose Dagster's local history, on which nothing here
    stands: what is due comes from the warehouse.
    """
    del record
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def _keep_engines() -> None:
    """Dagster's SQLite storages make an engine for every event and dispose of it: the file is opened, and SQLAlchemy compiles
    the statement, each time anew. That was half of a run over many partitions. A kept engine keeps its statements and connection.
    """
    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        vars(storage)["create_engine"] = _keeping(vars(storage)["create_engine"])


def _keeping(make: Callable[..., sqlalchemy.Engine]) -> Callable[..., sqlalchemy.Engine]:
    kept: dict[str, tuple[sqlalchemy.Engine, Callable[[], None]]] = {}

    def engine_of(url: str, **options: Any) -> sqlalchemy.Engine:
        if url not in kept:
            if len(kept) == ENGINES:
                for _, end in kept.values():
                    end()
                kept.clear()
            engine = make(url, **(options | {"poolclass": sqlalchemy.QueuePool}))
            kept[url] = engine, engine.dispose
            vars(engine)["dispose"] = lambda: None
        return kept[url][0]

    return engine_of


def reload_code_location(instance: dg.DagsterInstance, after_seconds: float = 2.0) -> bool:
    """Have the local stack's code server read the project anew, in a moment (a sensor's own answer has to get out first).

    The web interface and the daemon notice by themselves. False where there is no such server: a deployed code location is
    replaced with its contracts.
    """
    workspace = Path(instance.root_directory) / "workspace.yaml"
    if not workspace.exists():
        return False
    entries = YAML(typ="safe").load(workspace.read_text()).get("load_from", [])
    servers = [entry["grpc_server"] for entry in entries if "grpc_server" in entry]

    def reload() -> None:
        time.sleep(after_seconds)
        for server in servers:
            # The server that answers this is replaced by it, so the answer may be cut off.
            with contextlib.suppress(Exception):
                DagsterGrpcClient(host=server["host"], port=server["port"]).reload_code(timeout=180)

    threading.Thread(target=reload, name="reload", daemon=True).start()
    return bool(servers)


def select(definitions: dg.Definitions, due: Sequence[Due], selection: str) -> list[Due]:
    """Those parts of what is due that a Dagster asset selection names, such as `key:"events/*"`."""
    try:
        keys = dg.AssetSelection.from_string(selection).resolve(definitions.resolve_asset_graph())
    except Exception as error:
        raise PlatformError(
            f"not an asset selection: {error}",
            where=selection,
            fix='write it as in Dagster\'s interface, such as key:"events/*" or tag:service=chat',
        ) from error
    if not keys:
        raise PlatformError(
            "no asset is meant by it", where=selection, fix='such as key:"events/*" or tag:service=chat'
        )
    chosen = {key.to_user_string() for key in keys}
    parts = []
    for piece in due:
        assets = tuple(asset for asset in piece.assets if asset in chosen)
        if assets:
            parts.append(replace(piece, assets=assets))
    return parts


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came; `signal` is its number. The run that was at work is marked as failed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Collects (on leaving) the numbers of SIGINT and SIGTERM that came meanwhile, whoever handled them: Dagster swallows both."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield came
        finally:
            signal.set_wakeup_fd(before)
            with contextlib.suppress(BlockingIOError):
                came += [number for number in reading.recv(4096) if number in (signal.SIGINT, signal.SIGTERM)]


def execute(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    due: Due,
    stream: str,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunOutcome:
    """Do what is due by one run in this process. What goes wrong inside is in the outcome; only Interrupted is raised.

    `config` is that of assets that ask for some, by their keys with slashes.
    """
    keys = [asset_key(asset) for asset in due.assets]
    job = definitions.resolve_implicit_job_def_def_for_assets(keys)
    if job is None:
        raise PlatformError(f"no one run can hold {', '.join(due.assets[:5])}", where=stream)
    started = time.monotonic()
    with interrupts_noted() as came:
        done = job.execute_in_process(
            instance=instance,
            asset_selection=keys,
            # The process is named before the run begins: killed at any instant, it can be told to be dead.
            tags={**run_tags(due, stream), **process_tags()},
            raise_on_error=False,
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {key.replace("/", "__"): {"config": dict(given)} for key, given in (config or {}).items()},
            },
        )
    if came:
        raise Interrupted(came[0])
    failures = tuple(_failures(done))
    return RunOutcome(done.run_id, due, done.success and not failures, time.monotonic() - started, failures)


def _failures(done: dg.ExecuteInProcessResult) -> Iterator[str]:
    """Why a run failed, and the blocking checks that do not hold: for people, without tracebacks."""
    for evaluation in done.get_asset_check_evaluations():
        if not evaluation.passed and evaluation.blocking:
            name = f"{evaluation.asset_key.to_user_string()}:{evaluation.check_name}"
            yield f"check {name} does not hold: {evaluation.description}"
    for event in done.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            error = getattr(event.event_specific_data, "error", None)
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None and error.cls_name != "DagsterAssetCheckFailedError":
                yield f"{event.step_key}: {error.message.strip()}"
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE and not done.all_node_events:
            yield f"the run failed: {event.message}"
