"""The one door to BigQuery: statements, load jobs, bulk reads, and what is said when they fail.

The same code speaks to BigQuery and to the embedded server; only the endpoint and the credentials differ. Every statement
runs as a job with a name and labels of its own, so that what a killed run left behind can be found and ended
(`Warehouse.cancel`).
"""

import contextlib
import io
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..errors import PlatformError
from ..settings import Settings
from .lazily import Lazily

if TYPE_CHECKING:
    import pyarrow as pa
    import requests
    from google.api_core import exceptions as google_errors
    from google.api_core.retry import Retry
    from google.auth import exceptions as auth_errors
    from google.cloud import bigquery
else:
    # Google's client takes as long to import as Dagster; definitions and commands that send no request go without it.
    pa = Lazily("pyarrow")
    requests = Lazily("requests")
    google_errors = Lazily("google.api_core.exceptions")
    auth_errors = Lazily("google.auth.exceptions")
    bigquery = Lazily("google.cloud.bigquery")

_JOB_ID = re.compile(r"[^A-Za-z0-9_-]+")
"""What BigQuery allows in a label's value (63 characters) and in a job's id (1,024)."""

RECONNECT_SECONDS = 20.0
"""How long a request waits for an endpoint that does not answer, before it is an error; a restarted embedded server takes 8 s."""


LOST_SECONDS = 15.0
"""How long a cancelled job of the embedded server may take to end before it is taken for one that died with a server."""


class WarehouseError(PlatformError):
    """A statement or request that BigQuery refused. `reason` is BigQuery's word for it, such as `invalidQuery`."""

    def __init__(self, message: str, *, where: str = "", fix: str = "", reason: str = "", job_id: str = "") -> None:
        super().__init__(message, where=where, fix=fix)
        self.reason = reason
        self.job_id = job_id


class WarehouseUnreachableError(WarehouseError):
    """The server does not answer, or went away in the middle. Whether the statement took effect is not known."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A query parameter whose type cannot be read off its value: None, an empty list, JSON text, a DATE as text."""

    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Result:
    """What a job gave.

    `rows` are the rows of the (last) SELECT, as dictionaries; `affected` the rows a DML or load wrote, None for others;
    `bytes` what was billed for scanning (0 on the embedded server); `seconds` wall time, waiting included.
    """

    job_id: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    affected: int | None = None
    bytes: int = 0
    seconds: float = 0.0


type Parameters = Mapping[str, Any]


class Warehouse:
    """BigQuery in one environment. Safe to share between threads; cheap to make (no request is sent)."""

    def __init__(
        self, settings: Settings, *, labels: Mapping[str, str] | None = None, client: "bigquery.Client | None" = None
    ) -> None:
        self.settings = settings
        self.labels = {key: label_value(value) for key, value in (labels or {}).items()}
        self.project = settings.project
        self.endpoint = settings.bigquery_endpoint or "https://bigquery.googleapis.com"
        self.embedded = settings.bigquery_endpoint is not None
        self._client = client
        self._lock = threading.Lock()
        self._abandoned: set[str] = set()

    def __repr__(self) -> str:
        return f"Warehouse({self.project} at {self.endpoint})"

    def labelled(self, **labels: str) -> "Warehouse":
        """The same warehouse whose jobs carry these labels as well."""
        return Warehouse(self.settings, labels=self.labels | labels, client=self._client)

    @property
    def client(self) -> "bigquery.Client":
        """Google's client, for what this class does not wrap."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> "bigquery.Client":
        if self.embedded:
            from google.api_core.client_options import ClientOptions
            from google.auth.credentials import AnonymousCredentials

            return bigquery.Client(
                project=self.project,
                credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
                client_options=ClientOptions(api_endpoint=self.endpoint),
                location=self.settings.location,
            )
        if self.settings.env == "local":
            raise WarehouseUnreachableError(
                "no embedded BigQuery server is known",
                where="DATAPLATFORM_BIGQUERY_ENDPOINT",
                fix="start it with `dataplatform up bigquery`, or set the endpoint",
            )
        try:
            return bigquery.Client(project=self.project, location=self.settings.location)
        except auth_errors.GoogleAuthError as error:
            raise WarehouseUnreachableError(
                str(error), where=self.project, fix="run `gcloud auth application-default login`"
            ) from error

    def dataset_id(self, dataset: str) -> str:
        """`project.dataset`, with the environment's prefix."""
        return f"{self.project}.{self.settings.dataset(dataset)}"

    def table_id(self, dataset: str, table: str) -> str:
        """`project.dataset.table`, with the environment's prefix."""
        return f"{self.dataset_id(dataset)}.{table}"

    # Statements.

    def query(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        name: str = "query",
        labels: Mapping[str, str] | None = None,
        max_bytes_billed: int | None = None,
        job_id: str | None = None,
    ) -> Result:
        """Run one statement and wait for it.

        `name` begins the job's id. Parameters take their types from their values (datetimes must have a time zone);
        see `Typed` for the rest. A given `job_id` makes the call idempotent: a job of that id that exists is waited for
        instead of run again. Raises WarehouseError, which names the statement, and WarehouseUnreachableError.
        """
        return self._run(
            sql, parameters, name=name, labels=labels, max_bytes_billed=max_bytes_billed, job_id=job_id, script=False
        )

    def script(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        name: str = "script",
        labels: Mapping[str, str] | None = None,
        max_bytes_billed: int | None = None,
    ) -> Result:
        """Run several statements as one job; never retried by the client, for half of it may have been done.

        `rows` are those of the last statement, where that is a SELECT.
        """
        return self._run(
            sql, parameters, name=name, labels=labels, max_bytes_billed=max_bytes_billed, job_id=None, script=True
        )

    def scanned_bytes(self, sql: str, parameters: Parameters | None = None) -> int:
        """Bytes the statement would scan, by a dry run (always 0 on the embedded server, which counts none)."""
        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False, query_parameters=_parameters(parameters))
        job = self.request("dry run", lambda: self.client.query(sql, job_config=config, retry=self.retry()))
        return int(job.total_bytes_processed or 0)

    def _run(
        self,
        sql: str,
        parameters: Parameters | None,
        *,
        name: str,
        labels: Mapping[str, str] | None,
        max_bytes_billed: int | None,
        job_id: str | None,
        script: bool,
    ) -> Result:
        config = bigquery.QueryJobConfig(
            labels=self._labels(labels),
            query_parameters=_parameters(parameters),
            maximum_bytes_billed=max_bytes_billed or self.settings.max_bytes_billed,
            priority="INTERACTIVE",
        )
        identity = job_id or self._job_id(name)
        started = time.monotonic()

        def submit() -> Any:
            # The id is fixed before the request: when the answer is lost, asking again finds the job, not a second one.
            try:
                return self.client.query(
                    sql, job_config=config, job_id=identity, retry=self.retry(), job_retry=None, project=self.project
                )
            except google_errors.Conflict:
                return self.client.get_job(identity, retry=self.retry())

        job = self.request(name, submit, sql=sql, job_id=identity)
        rows = self._finish(name, job, lambda: [dict(row.items()) for row in job.result(**self._waiting())], sql=sql)
        affected = None if script else job.num_dml_affected_rows
        return Result(
            job_id=job.job_id,
            rows=rows,
            affected=affected,
            bytes=int(job.total_bytes_billed or 0),
            seconds=time.monotonic() - started,
        )

    # Loads and reads.

    def load(
        self,
        uris: Sequence[str],
        dataset: str,
        table: str,
        schema: Sequence[Mapping[str, Any]],
        *,
        format: str = "NEWLINE_DELIMITED_JSON",  # the API's own word
        write: str = "WRITE_TRUNCATE",
        expires: datetime | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Result:
        """Load files (`gs://…`) into a table by one load job; the table then holds them and, by default, nothing else.

        `schema` is in the API's JSON form. A load appends or replaces as a whole or not at all. With `expires` the table
        is dropped then, as staging tables should be. BigQuery takes at most 10,000 URIs a job: more are an error here.
        """
        if not uris:
            raise ValueError("a load job needs at least one file")
        config = bigquery.LoadJobConfig(
            schema=[bigquery.SchemaField.from_api_repr(dict(column)) for column in schema],
            source_format=format,
            write_disposition=write,
            labels=self._labels(labels),
        )
        target = self.table_id(dataset, table)
        identity = self._job_id(f"load_{table}")
        started = time.monotonic()

        def submit() -> Any:
            try:
                return self.client.load_table_from_uri(
                    list(uris), target, job_id=identity, job_config=config, retry=self.retry()
                )
            except google_errors.Conflict:
                return self.client.get_job(identity, retry=self.retry())

        job = self.request(f"load {target}", submit, job_id=identity)
        self._finish(f"load {target}", job, lambda: job.result(**self._waiting()))
        if expires is not None:
            self._expire(target, expires)
        return Result(job_id=job.job_id, affected=job.output_rows, seconds=time.monotonic() - started)

    def _expire(self, target: str, expires: datetime) -> None:
        def update() -> None:
            table = self.client.get_table(target, retry=self.retry())
            table.expires = expires
            self.client.update_table(table, ["expires"], retry=self.retry())

        self.request(f"expiration of {target}", update)

    def load_rows(
        self,
        rows: "pa.Table",
        dataset: str,
        table: str,
        *,
        write: str = "WRITE_TRUNCATE",
        schema: Sequence[Mapping[str, Any]] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Result:
        """Load an Arrow table through a Parquet upload, by one load job."""
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(rows, buffer)
        options = bigquery.ParquetOptions()  # type: ignore[no-untyped-call]
        options.enable_list_inference = True
        config = bigquery.LoadJobConfig(
            source_format="PARQUET", write_disposition=write, labels=self._labels(labels), parquet_options=options
        )
        if schema is not None:
            config.schema = [bigquery.SchemaField.from_api_repr(dict(column)) for column in schema]
        target = self.table_id(dataset, table)
        started = time.monotonic()

        def submit() -> Any:
            return self.client.load_table_from_file(
                buffer, target, rewind=True, job_id=self._job_id(f"load_{table}"), job_config=config
            )

        job = self.request(f"load {target}", submit)
        self._finish(f"load {target}", job, lambda: job.result(**self._waiting()))
        return Result(job_id=job.job_id, affected=job.output_rows, seconds=time.monotonic() - started)

    def read(
        self, dataset: str, table: str, *, columns: Sequence[str] | None = None, where: str = "", streams: int = 1
    ) -> "pa.Table":
        """A table's rows as Arrow, through the Storage Read API (ten times as fast as paging through results).

        `where` is a row restriction in SQL, such as `hour = TIMESTAMP '2026-01-01 00:00:00+00'`; the order is not defined.
        """
        from google.cloud import bigquery_storage_v1 as storage

        target = self.table_id(dataset, table)

        def fetch() -> "pa.Table":
            reader = self._storage()
            session = reader.create_read_session(
                parent=f"projects/{self.project}",
                read_session=storage.types.ReadSession(
                    table=f"projects/{self.project}/datasets/{self.settings.dataset(dataset)}/tables/{table}",
                    data_format=storage.types.DataFormat.ARROW,
                    read_options=storage.types.ReadSession.TableReadOptions(
                        selected_fields=list(columns or []), row_restriction=where
                    ),
                ),
                max_stream_count=streams,
            )
            schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
            batches: list[pa.RecordBatch] = []
            for stream in session.streams:
                for page in reader.read_rows(stream.name):
                    data = pa.py_buffer(page.arrow_record_batch.serialized_record_batch)
                    batches.append(pa.ipc.read_record_batch(data, schema))
            return pa.Table.from_batches(batches, schema=schema)

        return self.request(f"read {target}", fetch)

    def _storage(self) -> Any:
        from google.cloud import bigquery_storage_v1 as storage

        if self.settings.bigquery_grpc_endpoint is None:
            return storage.BigQueryReadClient()  # type: ignore[no-untyped-call]
        import grpc  # type: ignore[import-untyped]
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        # Without a size limit of its own: a page of wide rows passes gRPC's default of 4 MiB.
        channel = grpc.insecure_channel(
            self.settings.bigquery_grpc_endpoint, options=[("grpc.max_receive_message_length", -1)]
        )
        return storage.BigQueryReadClient(  # type: ignore[no-untyped-call]
            transport=BigQueryReadGrpcTransport(channel=channel)
        )

    # Jobs.

    def running_jobs(self, **labels: str) -> list[str]:
        """Ids of the unfinished jobs that carry all these labels, of any client, newest first.

        On the embedded server a job that its server's death has cut off may stay listed; `cancel` gives up on such a one.
        """
        wanted = {key: label_value(value) for key, value in labels.items()}

        def search() -> list[str]:
            found: list[str] = []
            for state in ("running", "pending"):
                jobs = self.client.list_jobs(all_users=not self.embedded, state_filter=state, retry=self.retry())
                found.extend(job.job_id for job in jobs if wanted.items() <= dict(job.labels or {}).items())
            return found

        return self.request("list of jobs", search)

    def cancel(self, *, except_runs: Iterable[str] = (), timeout_seconds: float = 60.0, **labels: str) -> list[str]:
        """End the unfinished jobs that carry all these labels, and wait until they have ended; returns their ids.

        Jobs whose label `dagster_run` is one of `except_runs` are let be. A statement is atomic: a cancelled one has done
        nothing, one that was quicker than the request has done all.
        """
        spared = {label_value(run) for run in except_runs}
        ended: list[str] = []
        for job_id in self.running_jobs(**labels):
            if job_id in self._abandoned:
                continue

            def end(job_id: str = job_id) -> bool:
                job = self.client.get_job(job_id, retry=self.retry())
                if (job.labels or {}).get("dagster_run") in spared:
                    return False
                deadline = time.monotonic() + (LOST_SECONDS if self.embedded else timeout_seconds)
                while time.monotonic() < deadline:
                    job.cancel(retry=self.retry())
                    job.reload(retry=self.retry())
                    if job.done():
                        return True
                    time.sleep(0.2)
                # The embedded server's own death may have left a job listed that no process runs any more.
                self._abandoned.add(job_id)
                return False

            if self.request(f"cancellation of {job_id}", end):
                ended.append(job_id)
        return ended

    # Tables.

    def tables(self, dataset: str) -> "dict[str, bigquery.table.TableListItem]":
        """The tables and views of a dataset by name, from one listing; empty where the dataset does not exist."""

        def search() -> dict[str, Any]:
            try:
                return {
                    item.table_id: item
                    for item in self.client.list_tables(self.dataset_id(dataset), retry=self.retry())
                }
            except google_errors.NotFound:
                return {}

        return self.request(f"tables of {dataset}", search)

    # What can go wrong.

    def request[T](self, what: str, call: Callable[[], T], *, sql: str = "", job_id: str = "") -> T:
        """Call Google's client, and say what failed in words of ours (WarehouseError, WarehouseUnreachableError)."""
        try:
            return call()
        except PlatformError:
            raise
        except _unreachable_errors() as error:
            raise self._unreachable(what, job_id) from error
        except google_errors.RetryError as error:
            if isinstance(error.cause, _unreachable_errors()):
                raise self._unreachable(what, job_id) from error
            raise self._refused(what, error.cause or error, sql, job_id) from error
        except auth_errors.GoogleAuthError as error:
            raise WarehouseUnreachableError(
                f"{what}: {error}", where=self.endpoint, fix="run `gcloud auth application-default login`"
            ) from error
        except google_errors.ServiceUnavailable as error:
            raise self._unreachable(what, job_id) from error
        except google_errors.GoogleAPICallError as error:
            raise self._refused(what, error, sql, job_id) from error

    def _finish[T](self, what: str, job: Any, call: Callable[[], T], *, sql: str = "") -> T:
        """Wait for a job; one that nobody waits for any more is cancelled."""
        try:
            return self.request(what, call, sql=sql, job_id=job.job_id)
        except WarehouseUnreachableError:
            raise
        except BaseException as error:
            if not isinstance(error, PlatformError):  # an interrupt, a time-out of the waiting thread
                self._abandon(job)
            raise

    def _abandon(self, job: Any) -> None:
        with contextlib.suppress(google_errors.GoogleAPICallError, *_unreachable_errors()):
            job.cancel(retry=None, timeout=5)

    def _waiting(self) -> dict[str, Any]:
        # A job of BigQuery outlives a lost connection. One of the embedded server dies with its process, yet stays
        # listed as running, so that asking again would wait for ever.
        from google.api_core.retry import if_transient_error

        return {"retry": self.retry(if_transient_error) if self.embedded else self.retry()}

    def retry(self, predicate: Callable[[Exception], bool] | None = None) -> "Retry":
        """What requests that change nothing twice wait out: an endpoint that is not there for RECONNECT_SECONDS."""
        from google.api_core.retry import Retry

        again = predicate or (_never_arrived if self.embedded else _may_try_again)
        return Retry(predicate=again, initial=0.2, maximum=2.0, multiplier=1.5, timeout=RECONNECT_SECONDS)

    def _unreachable(self, what: str, job_id: str) -> WarehouseUnreachableError:
        return WarehouseUnreachableError(
            f"{what}: BigQuery does not answer",
            where=self.endpoint,
            fix="start it with `dataplatform up bigquery` and run again; nothing is done twice"
            if self.embedded
            else "run again; nothing is done twice",
            job_id=job_id,
        )

    def _refused(self, what: str, error: BaseException, sql: str, job_id: str) -> WarehouseError:
        details = list(getattr(error, "errors", None) or [])
        reason = str(details[0].get("reason", "")) if details else ""
        message = str(getattr(error, "message", None) or error).split("\n\nLocation:")[0].split("; reason:")[0]
        fix = {
            "bytesBilledLimitExceeded": "narrow the range, or raise DATAPLATFORM_MAX_BYTES_BILLED",
            "accessDenied": "grant the account roles/bigquery.jobUser and roles/bigquery.dataEditor",
        }.get(reason, "")
        shown = f"\n{_excerpt(sql, message)}" if sql else ""
        return WarehouseError(f"{what}: {message}{shown}", where=self.endpoint, fix=fix, reason=reason, job_id=job_id)

    def _labels(self, labels: Mapping[str, str] | None) -> dict[str, str]:
        return self.labels | {key: label_value(value) for key, value in (labels or {}).items()}

    def _job_id(self, name: str) -> str:
        run = self.labels.get("dagster_run", "")[:8]
        readable = "_".join(part for part in ("dataplatform", name, run) if part)
        return f"{_JOB_ID.sub('_', readable)[:200]}_{uuid.uuid4().hex[:12]}"


def _unreachable_errors() -> tuple[type[Exception], ...]:
    return (requests.ConnectionError, requests.Timeout, ConnectionError)


def _may_try_again(error: Exception) -> bool:
    from google.api_core.retry import if_transient_error

    return isinstance(error, _unreachable_errors()) or bool(if_transient_error(error))


def _never_arrived(error: Exception) -> bool:
    """The request found no server: unlike after a connection cut in the middle, nothing can have been begun."""
    from urllib3.exceptions import NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError)


def label_value(value: str) -> str:
    """A text as BigQuery takes it for a label's value: at most 63 small letters (of any script), digits, `_` and `-`."""
    return "".join(one if one.isalnum() or one in "_-" else "_" for one in str(value).lower())[:63]


def _excerpt(sql: str, message: str, around: int = 3) -> str:
    """The lines of the statement that the message points to (`at [12:3]`), or its first ones."""
    lines = sql.splitlines()
    position = re.search(r"\[(\d+):\d+\]", message)
    line = int(position.group(1)) if position else 1
    first = max(0, line - 1 - around)
    return "\n".join(f"{number + 1:>5} | {lines[number]}" for number in range(first, min(len(lines), line + around)))


def _parameters(parameters: Parameters | None) -> list[Any]:
    return [_parameter(name, value) for name, value in (parameters or {}).items()]


def _parameter(name: str, value: Any) -> Any:
    if isinstance(value, Typed):
        return _typed(name, value.type, value.value)
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"parameter {name}: an empty list has no type; use Typed('ARRAY<STRING>', [])")
        return bigquery.ArrayQueryParameter(name, _type_of(name, value[0]), list(value))
    return bigquery.ScalarQueryParameter(name, _type_of(name, value), value)


def _typed(name: str | None, kind: str, value: Any) -> Any:
    """A parameter of a stated type: a scalar, `ARRAY<…>`, or `STRUCT<a STRING, …>` of scalars from a mapping."""
    if kind.startswith("ARRAY<STRUCT<"):
        element = kind[len("ARRAY<") : -1]
        items = [_typed(None, element, item) for item in value]
        return bigquery.ArrayQueryParameter(name, _struct_type(element), items)
    if kind.startswith("ARRAY<"):
        return bigquery.ArrayQueryParameter(name, kind[len("ARRAY<") : -1], list(value))
    if kind.startswith("STRUCT<"):
        return bigquery.StructQueryParameter(name, *(_typed(key, type_, value[key]) for key, type_ in _members(kind)))
    return bigquery.ScalarQueryParameter(name, kind, value)


def _struct_type(kind: str) -> Any:
    members = [
        bigquery.ScalarQueryParameterType(type_, name=key)  # type: ignore[no-untyped-call]
        for key, type_ in _members(kind)
    ]
    return bigquery.StructQueryParameterType(*members)  # type: ignore[no-untyped-call]


def _members(kind: str) -> list[tuple[str, str]]:
    parts = (member.split() for member in kind[len("STRUCT<") : -1].split(","))
    return [(key, type_) for key, type_ in parts]


def _type_of(name: str, value: Any) -> str:
    match value:
        case bool():
            return "BOOL"
        case int():
            return "INT64"
        case float():
            return "FLOAT64"
        case Decimal():
            return "NUMERIC"
        case datetime():
            if value.tzinfo is None:
                raise ValueError(f"parameter {name}: a time without a time zone")
            return "TIMESTAMP"
        case date():
            return "DATE"
        case str():
            return "STRING"
        case bytes():
            return "BYTES"
    raise TypeError(f"parameter {name}: no BigQuery type for {type(value).__name__}; use Typed")
