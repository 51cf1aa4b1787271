"""The SQL engine of commands that judge files: the configured BigQuery, else an embedded server for as long as it is needed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..settings import Settings, get_settings
from ..warehouse.client import Typed, Warehouse
from .policy_sql import RunQuery


def runner(warehouse: Warehouse) -> RunQuery:
    """Statements of this domain on a warehouse; array parameters are ARRAY<STRING>."""

    def run(statement: str, arrays: Mapping[str, Sequence[str]]) -> Iterable[Mapping[str, Any]]:
        parameters = {name: Typed("ARRAY<STRING>", list(values)) for name, values in arrays.items()}
        return warehouse.query(statement, parameters, name="fraud").rows

    return run


@contextmanager
def sql_engine(settings: Settings | None = None) -> Iterator[Warehouse]:
    """The warehouse to run statements on: BigQuery or the running stack's server, else on a server of its own in a temporary folder."""
    settings = settings or get_settings()
    if settings.env == "gcp" or settings.bigquery_endpoint is not None:
        yield Warehouse(settings)
        return
    from ..local.servers import Server, bigquery_command, free_ports

    with TemporaryDirectory(prefix="dataplatform-fraud-") as folder:
        port, grpc_port = free_ports(2)
        endpoint = f"http://127.0.0.1:{port}"
        server = Server(
            "bigquery",
            bigquery_command(Path(folder), port, grpc_port, memory_limit="2GB"),
            log=Path(folder) / "server.log",
            ready_url=endpoint,
        )
        server.start()
        try:
            yield Warehouse(settings.model_copy(update={"bigquery_endpoint": endpoint}))
        finally:
            server.stop()
