"""The services of the local stack as a table: a new service is a new row of `SERVICES`."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import PlatformError
from ..settings import Settings
from .servers import bigquery_command, mongo_command

LOCATION = "dataplatform.definitions"
"""Name and module of the Dagster code location, as in workspace.yaml."""


@dataclass(frozen=True)
class Place:
    """Where one stack lives: its data folder (absolute) and its ports on 127.0.0.1, by name."""

    data_dir: Path
    ports: Mapping[str, int]
    settings: Settings

    def url(self, port: str) -> str:
        """HTTP URL of a port."""
        return f"http://127.0.0.1:{self.ports[port]}"

    @property
    def dagster_home(self) -> Path:
        """The folder that DAGSTER_HOME names."""
        return self.data_dir / "dagster"


@dataclass(frozen=True)
class Health:
    """When a service counts as healthy: an HTTP answer below 500, an open port, or merely living for some seconds."""

    port: str | None = None
    path: str | None = None
    alive_seconds: float = 3.0


@dataclass(frozen=True)
class Service:
    """One supervised process.

    `ports` maps the names of its ports to the number that is tried first. `settings` are what other commands must know to
    find it (names of `Settings`). `start_seconds` is how long it may take to become healthy, `hang_seconds` how long it may
    stay unhealthy while its process lives; past either it is started again. `stop_seconds` is what it gets after SIGTERM.
    """

    name: str
    description: str
    command: Callable[[Place], list[str]]
    health: Health
    ports: Mapping[str, int] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    environment: Callable[[Place], dict[str, str]] = lambda _: {}
    settings: Callable[[Place], dict[str, Any]] = lambda _: {}
    details: Callable[[Place], dict[str, Any]] = lambda _: {}
    wanted: Callable[[Settings], bool] = lambda _: True
    start_seconds: float = 60.0
    hang_seconds: float = 180.0
    stop_seconds: float = 10.0

    def url(self, place: Place) -> str | None:
        """Where a person or program reaches it."""
        return place.url(self.health.port) if self.health.port else None


def _program(name: str, *arguments: str) -> list[str]:
    """A program of the environment that runs this."""
    return [str(Path(sys.executable).with_name(name)), *arguments]


def _has_collections(settings: Settings) -> bool:
    return any((settings.schemas_dir / "collections").glob("*.yaml"))


def _has_policies(settings: Settings) -> bool:
    return any((settings.schemas_dir / "policies").glob("*.yaml"))


SERVICES: tuple[Service, ...] = (
    Service(
        name="bigquery",
        description="embedded BigQuery server: REST and Storage API",
        command=lambda place: bigquery_command(
            place.data_dir / "bigquery",
            place.ports["bigquery"],
            place.ports["bigquery-grpc"],
            place.settings.bigquery_memory_limit,
        ),
        ports={"bigquery": 9050, "bigquery-grpc": 9060},
        health=Health(port="bigquery", path="/"),
        environment=lambda place: {"GCS_LOCAL_ROOT": str(place.data_dir / "gcs")},
        settings=lambda place: {
            "bigquery_endpoint": place.url("bigquery"),
            "bigquery_grpc_endpoint": f"127.0.0.1:{place.ports['bigquery-grpc']}",
        },
        details=lambda place: {
            "project": place.settings.project,
            "grpc": f"127.0.0.1:{place.ports['bigquery-grpc']}",
        },
        start_seconds=120,
    ),
    Service(
        name="mongo",
        description="MongoDB-protocol server: the source of change data capture",
        command=lambda place: mongo_command(place.data_dir / "mongo", place.ports["mongo"]),
        ports={"mongo": 27017},
        health=Health(port="mongo"),
        settings=lambda place: {"connections": {"marketplace": f"mongodb://127.0.0.1:{place.ports['mongo']}/"}},
        details=lambda place: {"url": f"mongodb://127.0.0.1:{place.ports['mongo']}/"},
        wanted=_has_collections,
    ),
    Service(
        name="collector",
        description="takes events over HTTP: /v1/events and the Segment API",
        command=lambda _: _program("dataplatform", "collector"),
        ports={"collector": 8080},
        health=Health(port="collector", path="/healthz"),
        environment=lambda place: {"DATAPLATFORM_COLLECTOR_PORT": str(place.ports["collector"])},
        settings=lambda place: {"collector_port": place.ports["collector"]},
    ),
    Service(
        name="capture",
        description="reads MongoDB's change streams and lands what changed; /metrics",
        command=lambda place: _program("dataplatform", "cdc", "capture", "--metrics-port", str(place.ports["capture"])),
        ports={"capture": 8090},
        health=Health(port="capture", path="/metrics"),
        depends_on=("mongo",),
        wanted=_has_collections,
    ),
    Service(
        name="decisions",
        description="the fraud decision service: /v1/decisions, parameters and lists; /openapi.json",
        command=lambda _: _program("dataplatform", "fraud", "serve"),
        ports={"decisions": 8070},
        health=Health(port="decisions", path="/healthz"),
        environment=lambda place: {"DATAPLATFORM_DECISIONS_PORT": str(place.ports["decisions"])},
        settings=lambda place: {"decisions_port": place.ports["decisions"]},
        wanted=_has_policies,
    ),
    Service(
        name="fraud-stream",
        description="fraud detection after the event: online features, alerts and cases from what was landed",
        command=lambda _: _program("dataplatform", "fraud", "stream"),
        health=Health(alive_seconds=3),
        wanted=_has_policies,
    ),
    Service(
        name="dagster-code",
        description="Dagster code server: loads the definitions, runs the runs",
        command=lambda place: _program(
            "dagster",
            *("code-server", "start", "--module-name", LOCATION, "--location-name", LOCATION),
            *("--host", "127.0.0.1", "--port", str(place.ports["dagster-code"]), "--log-level", "warning"),
        ),
        ports={"dagster-code": 4266},
        health=Health(port="dagster-code"),
        environment=lambda place: {"DAGSTER_HOME": str(place.dagster_home)},
        depends_on=("bigquery",),
        start_seconds=120,
    ),
    Service(
        name="dagster",
        description="Dagster's web interface",
        command=lambda place: _program(
            "dagster-webserver",
            *("--workspace", str(place.dagster_home / "workspace.yaml"), "--suppress-warnings"),
            *("--host", "127.0.0.1", "--port", str(place.ports["dagster"])),
        ),
        ports={"dagster": 3000},
        health=Health(port="dagster", path="/server_info"),
        environment=lambda place: {"DAGSTER_HOME": str(place.dagster_home)},
        depends_on=("dagster-code",),
        start_seconds=120,
    ),
    Service(
        name="dagster-daemon",
        description="Dagster's daemon: sensors, automation, backfills, queued runs",
        command=lambda place: _program(
            "dagster-daemon",
            *("run", "--workspace", str(place.dagster_home / "workspace.yaml"), "--log-level", "warning"),
        ),
        health=Health(alive_seconds=3),
        environment=lambda place: {"DAGSTER_HOME": str(place.dagster_home)},
        depends_on=("dagster-code",),
        stop_seconds=15,
    ),
)

BY_NAME: dict[str, Service] = {service.name: service for service in SERVICES}


def with_dependencies(names: Iterable[str]) -> list[str]:
    """The named services and all that they need, dependencies first; an error for an unknown name."""
    ordered: list[str] = []

    def add(name: str) -> None:
        if name not in BY_NAME:
            raise PlatformError(f"no such service: {name}", fix=f"one of {', '.join(BY_NAME)}")
        for dependency in BY_NAME[name].depends_on:
            add(dependency)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return ordered


def dependents(names: Iterable[str]) -> set[str]:
    """The named services and all that need one of them."""
    found = set(with_dependencies([])) | set(names)
    for service in SERVICES:  # in order of dependency: one pass finds all
        if found & set(service.depends_on):
            found.add(service.name)
    return found
