"""Every setting of the platform, with its default and meaning. Nothing else in the code reads the environment."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from .errors import PlatformError

STACK_FILE = "stack.json"
"""In the data folder: what the local stack remembers (ports, first hour), written by `dataplatform up`."""


class Settings(BaseSettings):
    """Read from `DATAPLATFORM_<NAME>`; where the environment is local, then from the running local stack."""

    model_config = SettingsConfigDict(
        env_prefix="DATAPLATFORM_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    env: Literal["local", "gcp"] = Field("local", description="Where the platform runs: this machine, or Google Cloud.")
    data_dir: Path = Field(Path(".data"), description="Local only: folder of the stack's data, logs and landing files.")
    schemas_dir: Path = Field(Path("schemas"), description="Folder of the contracts.")

    project: str = Field("local", description="Google Cloud project that runs jobs and holds the datasets.")
    location: str = Field("US", description="BigQuery location of the datasets and jobs.")
    dataset_prefix: str = Field("", description="Put before every dataset's name, such as `staging_`.")
    bucket: str = Field("landing", description="Bucket of the landing; locally a folder below `<data_dir>/gcs`.")
    bigquery_endpoint: str | None = Field(
        None, description="REST endpoint of the embedded BigQuery server; unset on GCP."
    )
    bigquery_grpc_endpoint: str | None = Field(None, description="host:port of the embedded Storage API; unset on GCP.")
    bigquery_memory_limit: str = Field(
        "4GB", description="Local only: memory of the embedded BigQuery server's engine."
    )
    policy_tag: str | None = Field(
        None, description="Resource name of the policy tag that columns with personal data get; unset: described only."
    )
    pii_allowed: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Dataset → kinds of personal data (`email`, `phone`, …) it may hold; none listed: any kind.",
    )
    max_bytes_billed: int = Field(1 << 40, description="Bytes one query may scan before BigQuery refuses it.")

    first_hour: datetime = Field(description="First hour (UTC) that has partitions. Required on GCP.")
    lookback_hours: int = Field(168, ge=1, description="How far back (hours) an event id is known, for duplicates.")

    collector_host: str = Field("127.0.0.1", description="Address the collector listens on.")
    collector_port: int = Field(8080, description="Port the collector listens on.")
    write_keys: dict[str, str] = Field(
        default_factory=dict, description="Write key → name of the source. Locally the key `local` always exists."
    )
    landing_rotate_seconds: float = Field(
        1.0, gt=0, description="Oldest age of an open landing file before it is finished."
    )
    landing_rotate_bytes: int = Field(64 << 20, description="Largest size of an open landing file.")
    accept_received_at: bool = Field(
        False, description="Local only: take `X-Received-At` for the received time, so that the past can be simulated."
    )
    collector_max_queued_bytes: int = Field(
        96 << 20, gt=0, description="Bytes received and not yet durable above which the collector answers 503."
    )
    collector_min_free_bytes: int = Field(
        256 << 20, ge=0, description="Free bytes of the landing's disk below which the collector answers 503."
    )
    collector_events_per_second: float = Field(
        0, ge=0, description="Events one write key may send a second, on average, before 429; 0 for no limit."
    )
    collector_burst_events: int = Field(
        20_000, ge=1000, description="Events a write key may send at once after a silence, where there is a limit."
    )
    collector_request_seconds: float = Field(
        30, gt=0, description="Seconds a client may take to send one whole request, before 408."
    )
    collector_idle_seconds: float = Field(75, gt=0, description="Seconds a connection may be silent between requests.")
    collector_max_connections: int = Field(
        10_000, gt=0, description="Connections of one collector process; more are answered 503 and closed."
    )

    decisions_host: str = Field("127.0.0.1", description="Address the decision service listens on.")
    decisions_port: int = Field(8070, description="Port the decision service listens on.")
    decision_keys: dict[str, str] = Field(
        default_factory=dict,
        description="API key of the decision service → name of who uses it. Locally `local` and `second` always exist.",
    )
    fraud_database: str = Field(
        "", description="SQLAlchemy URL of parameters and lists; empty: a SQLite file in `<data_dir>/fraud`."
    )

    connections: dict[str, SecretStr] = Field(default_factory=dict, description="Name → URI of a source database.")
    cdc_commit_seconds: float = Field(
        2.0, gt=0, description="Longest time (seconds) that captured changes wait before they are landed."
    )
    cdc_stream_scope: Literal["deployment", "database"] = Field(
        "deployment", description="What one change stream serves: a whole connection, or each of its databases."
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_environment(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("env", "local") == "local":
            values.setdefault("first_hour", _floor_hour(datetime.now(UTC)) - timedelta(hours=24))
            values["write_keys"] = {"local": "local"} | dict(values.get("write_keys") or {})
            keys = {"local": "local", "second": "second"}
            values["decision_keys"] = keys | dict(values.get("decision_keys") or {})
        return values

    @model_validator(mode="after")
    def _only_local(self) -> "Settings":
        if self.env == "gcp" and self.accept_received_at:
            raise ValueError("accept_received_at is for the local environment only")
        if self.first_hour.tzinfo is None:
            raise ValueError("first_hour needs a time zone, such as 2026-01-01T00:00:00Z")
        return self

    @property
    def landing_url(self) -> str:
        """URL of the landing's root: `gs://<bucket>`, locally a `file://` folder that the embedded server also sees."""
        if self.env == "gcp":
            return f"gs://{self.bucket}"
        return (self.data_dir / "gcs" / self.bucket).resolve().as_uri()

    def dataset(self, name: str) -> str:
        """Name of a dataset in this environment."""
        return f"{self.dataset_prefix}{name}"

    def described(self) -> list["Described"]:
        """Every setting with its value (secrets masked), where the value comes from, and what it means."""
        environment = {name.lower() for name in os.environ}
        stack = _of_the_stack(self.data_dir) if self.env == "local" else {}
        described: list[Described] = []
        for name, field in type(self).model_fields.items():
            variable = f"{self.model_config['env_prefix']}{name}".lower()
            if any(known == variable or known.startswith(f"{variable}__") for known in environment):
                source: Source = "environment"
            else:
                source = "stack" if name in stack else "default"
            described.append(Described(name, _shown(name, getattr(self, name)), source, field.description or ""))
        return described

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings
        return (init_settings, env_settings, StackSource(settings_cls, env_settings), file_secret_settings)


class StackSource(PydanticBaseSettingsSource):
    """What the local stack remembers, so that every command finds the running servers."""

    def __init__(self, settings_cls: type[BaseSettings], environment: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self.environment = environment

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        known = self.environment()
        if known.get("env", "local") != "local":
            return {}
        return _of_the_stack(Path(known.get("data_dir", ".data")))


Source = Literal["environment", "stack", "default"]


@dataclass(frozen=True)
class Described:
    """One setting as `dataplatform settings` prints it; `value` has its secrets masked."""

    name: str
    value: str
    source: Source
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"DATAPLATFORM_{self.name.upper()}"


def settings_table() -> str:
    """All settings as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined or default in (None, "", {}) else f"`{_shown(name, default)}`"
        rows.append(f"| `DATAPLATFORM_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def _of_the_stack(data_dir: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((data_dir / STACK_FILE).read_text()).get("settings", {})
    except FileNotFoundError:
        return {}
    return settings


def _shown(name: str, value: Any) -> str:
    if name == "write_keys":  # the keys are the secret; that `local` exists everybody knows
        value = {key if key == "local" else "*" * 10: source for key, source in value.items()}
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items()) or "none"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return "none" if value is None else str(value)


def _floor_hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Settings of this process, read once. Raises PlatformError that names the variable to mend."""
    try:
        return Settings()  # first_hour comes from the validator or the environment
    except ValidationError as error:
        problems = [(_variable(problem["loc"]), problem["msg"]) for problem in error.errors()]
    except SettingsError as error:  # a list or mapping that is not JSON
        problems = [("the environment", str(error))]
    lines = [f"{where}: {message.removeprefix('Value error, ')}" for where, message in problems]
    raise PlatformError("\n".join(lines), fix="`dataplatform settings --markdown` lists what each setting means")


def _variable(location: tuple[int | str, ...]) -> str:
    return "__".join(["DATAPLATFORM", *map(str, location)]).replace("__", "_", 1).upper() if location else "settings"
