"""Every setting of the platform, with its default and meaning. Nothing else in the code reads the environment."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .errors import PlatformError

PREFIX = "DATAPLATFORM_"
TEST_PREFIX = "DATAPLATFORM_TEST_"
"""Begins the names of variables that only the tests read."""
STACK_FILE = "stack.json"
"""In the data folder: what the local stack remembers (ports, first hour), written by `dataplatform up`."""

_MASK = "*" * 10
_SECRET_KEYS = {"write_keys": ("local",), "decision_keys": ("local", "second")}
"""Mappings whose keys are the secret, and the keys of these that everybody knows."""
_SECRET = {*_SECRET_KEYS, "fraud_database", "fraud_git_remote", "fraud_online", "connections"}
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


def _shaped(pattern: str, shape: str) -> AfterValidator:
    """Only texts that match as a whole; `shape` tells in words which these are."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"has to be {shape}")
        return text

    return AfterValidator(check)


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("is empty: give a value, or leave the variable away for the default")
    return value


Folder = Annotated[Path, BeforeValidator(_not_empty)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Host = Annotated[
    str,
    _shaped(
        r"[A-Za-z0-9][A-Za-z0-9_.-]*|[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*",
        "a host's name or address, without a scheme and without a port",
    ),
]
Key = Annotated[str, _shaped(r"[!-9;-~]+", "a key of visible ASCII characters without a colon, and not empty")]
Name = Annotated[str, _shaped(r"\S(.*\S)?", "a name, and not empty")]
ConnectionName = Annotated[
    str, _shaped(r"[A-Za-z][A-Za-z0-9_]*", "a connection's name: letters, digits and underscores")
]
LogPlace = Annotated[str, _shaped(r"[a-z0-9][a-z0-9.:-]*\.[a-z0-9-]+", "a project and a region, such as shop-prod.eu")]
DatasetName = Annotated[str, _shaped(r"[A-Za-z0-9_]{1,1024}", "a dataset's name: letters, digits and underscores")]


class Settings(BaseSettings):
    """Read from `DATAPLATFORM_<NAME>`; where the environment is local, then from the running local stack.

    Raises pydantic's ValidationError; `get_settings` tells a user what is wrong, all at once.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_nested_max_split=1,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # some inputs are secrets
    )

    env: Literal["local", "gcp"] = Field("local", description="Where the platform runs: this machine, or Google Cloud.")
    data_dir: Folder = Field(
        Path(".data"), description="Local only: folder of the stack's data, logs and landing files."
    )
    schemas_dir: Folder = Field(Path("schemas"), description="Folder of the contracts.")

    project: Annotated[
        str,
        _shaped(
            r"([a-z0-9.-]+:)?[a-z]([a-z0-9-]{0,28}[a-z0-9])?",
            "a project id: at most 30 lower-case letters, digits and hyphens, the first a letter",
        ),
    ] = Field(
        description="Google Cloud project that runs jobs and holds the datasets. Required on GCP; locally `local`."
    )
    location: Annotated[str, _shaped(r"(?i:US|EU|[a-z]+-[a-z]+\d+)", "US, EU or a region such as asia-northeast3")] = (
        Field("US", description="BigQuery location of the datasets and jobs.")
    )
    dataset_prefix: Annotated[
        str, _shaped(r"([A-Za-z][A-Za-z0-9_]{0,511})?", "letters, digits and underscores, the first a letter")
    ] = Field("", description="Put before every dataset's name, such as `staging_`.")
    bucket: Annotated[
        str,
        _shaped(
            r"(?!goog)(?!.*\.\.)[a-z0-9][a-z0-9_.-]{1,220}[a-z0-9]",
            "a bucket's name without gs://: at least 3 lower-case letters, digits, hyphens, underscores and dots",
        ),
    ] = Field(description="Bucket of the landing. Required on GCP; locally `landing`, a folder below `<data_dir>/gcs`.")
    bigquery_endpoint: (
        Annotated[str, _shaped(r"https?://[^/@\s]+/?", "a URL of host and port, such as http://127.0.0.1:9050")] | None
    ) = Field(None, description="REST endpoint of the embedded BigQuery server; unset on GCP.")
    bigquery_grpc_endpoint: Annotated[str, _shaped(r"[^/@\s]+:\d+", "host:port, such as 127.0.0.1:9060")] | None = (
        Field(None, description="host:port of the embedded Storage API; unset on GCP.")
    )
    bigquery_memory_limit: Annotated[
        str, _shaped(r"0*[1-9]\d*(\.\d+)? ?([KMGT]i?B)", "a number and a unit, such as 4GB or 512MiB")
    ] = Field("4GB", description="Local only: memory of the embedded BigQuery server's engine.")
    policy_tag: (
        Annotated[
            str,
            _shaped(
                r"projects/[^/]+/locations/[^/]+/taxonomies/[^/]+/policyTags/[^/]+",
                "projects/PROJECT/locations/LOCATION/taxonomies/NUMBER/policyTags/NUMBER",
            ),
        ]
        | None
    ) = Field(
        None, description="Resource name of the policy tag that columns with personal data get; unset: described only."
    )
    pii_allowed: dict[DatasetName, list[Name]] = Field(
        default_factory=dict,
        description="Dataset → kinds of personal data (`email`, `phone`, …) it may hold; one not listed may hold any.",
    )
    lineage_sources: list[LogPlace] = Field(
        default_factory=list,
        description="`project.region` of every query log that lineage reads, such as `shop-prod.eu`; none: our own.",
    )
    max_bytes_billed: Count = Field(1 << 40, description="Bytes one query may scan before BigQuery refuses it.")

    first_hour: datetime = Field(
        description="First hour that has partitions, such as `2026-01-01T00:00:00Z`. Required on GCP; locally a day before `up`."
    )
    lookback_hours: int = Field(
        168, ge=1, le=24 * 366, description="How far back (hours) an event id is known, for duplicates."
    )

    collector_host: Host = Field("127.0.0.1", description="Address the collector listens on.")
    collector_port: Port = Field(8080, description="Port the collector listens on.")
    write_keys: dict[Key, Name] = Field(
        default_factory=dict, description="Write key → name of the source. Locally the key `local` always exists."
    )
    landing_rotate_seconds: Seconds = Field(
        1.0, description="Oldest age of an open landing file before it is finished."
    )
    landing_rotate_bytes: Count = Field(64 << 20, description="Largest size of an open landing file.")
    accept_received_at: bool = Field(
        False, description="Local only: take `X-Received-At` for the received time, so that the past can be simulated."
    )
    collector_max_queued_bytes: Count = Field(
        96 << 20, description="Bytes received and not yet durable above which the collector answers 503."
    )
    collector_min_free_bytes: int = Field(
        256 << 20, ge=0, description="Free bytes of the landing's disk below which the collector answers 503."
    )
    collector_events_per_second: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="Events one write key may send a second, on average, before 429; 0 for no limit.",
    )
    collector_burst_events: int = Field(
        20_000, ge=1000, description="Events a write key may send at once after a silence, where there is a limit."
    )
    collector_request_seconds: Seconds = Field(
        30, description="Seconds a client may take to send one whole request, before 408."
    )
    collector_idle_seconds: Seconds = Field(75, description="Seconds a connection may be silent between requests.")
    collector_max_connections: Count = Field(
        10_000, description="Connections of one collector process; more are answered 503 and closed."
    )

    decisions_host: Host = Field("127.0.0.1", description="Address the decision service listens on.")
    decisions_port: Port = Field(8070, description="Port the decision service listens on.")
    decision_keys: dict[Key, Name] = Field(
        default_factory=dict,
        description="API key of the decision service → name of who uses it. Locally `local` and `second` always exist.",
    )
    decision_requests_per_second: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="Requests one user of API keys may send a second to all processes of the decision service on a host, before 429; 0 for no limit.",
    )
    fraud_database: Annotated[
        str,
        _shaped(r"([a-z][a-z0-9+]*://\S*)?", "an SQLAlchemy URL, such as postgresql+pg8000://user:password@host/name"),
    ] = Field(
        "", description="SQLAlchemy URL of parameters, lists and cases; empty: a SQLite file in `<data_dir>/fraud`."
    )
    fraud_git_remote: Annotated[
        str, _shaped(r"([^\s-]\S*)?", "a Git URL, such as https://github.com/company/data-platform.git")
    ] = Field(
        "",
        description="Git repository that gets the branch `parameters-live` with every version of parameters that went live; empty: none but that in `<data_dir>/fraud/parameters`.",
    )
    fraud_online: Annotated[
        str, _shaped(r"((rediss?|unix)://\S*)?", "a URL of Redis, such as rediss://user:password@host:6379/0")
    ] = Field("", description="Redis that holds the online features; empty: SQLite files in `<data_dir>/fraud/online`.")

    connections: dict[ConnectionName, Annotated[SecretStr, BeforeValidator(_not_empty)]] = Field(
        default_factory=dict, description="Name → URI of a source database."
    )
    cdc_commit_seconds: Seconds = Field(
        2.0, description="Longest time (seconds) that captured changes wait before they are landed."
    )
    cdc_stream_scope: Literal["deployment", "database"] = Field(
        "deployment", description="What one change stream serves: a whole connection, or each of its databases."
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_environment(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("env", "local") == "local":
            values.setdefault("project", "local")
            values.setdefault("bucket", "landing")
            values.setdefault("first_hour", _floor_hour(datetime.now(UTC)) - timedelta(hours=24))
            for name, known in _SECRET_KEYS.items():
                given = values.get(name, {})
                if isinstance(given, dict):
                    values[name] = dict(zip(known, known, strict=True)) | given
        return values

    @field_validator("accept_received_at", "bigquery_endpoint", "bigquery_grpc_endpoint")
    @classmethod
    def _only_local(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("env") == "gcp":
            raise ValueError("is for the local environment only: unset it on GCP")
        return value

    @field_validator("first_hour")
    @classmethod
    def _whole_hour(cls, time: datetime) -> datetime:
        if time.tzinfo is None:
            raise ValueError("needs a time zone, such as 2026-01-01T00:00:00Z")
        if time < _EARLIEST:
            raise ValueError(f"is before {_EARLIEST:%Y}: every hour since then would be a partition")
        time = time.astimezone(UTC)
        if time != _floor_hour(time):
            raise ValueError(f"is not the start of an hour (UTC): write {_floor_hour(time):%Y-%m-%dT%H}:00:00Z")
        return time

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
        del env_settings
        environment = Environment(settings_cls)
        given = (environment, init_settings)
        return (init_settings, environment, StackSource(settings_cls, given), file_secret_settings)


class Environment(EnvSettingsSource):
    """Variables; one that should be JSON and is not stays a text, which is then refused with all else that is wrong."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class StackSource(PydanticBaseSettingsSource):
    """What the local stack remembers, so that every command finds the running servers."""

    def __init__(self, settings_cls: type[BaseSettings], given: Iterable[PydanticBaseSettingsSource]) -> None:
        super().__init__(settings_cls)
        self.given = tuple(given)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for source in self.given:
            known |= source()
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
        return variable_of(self.name)


def variable_of(setting: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{setting.upper()}"


def settings_table() -> str:
    """All settings as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined or default in (None, "", {}) else f"`{_shown(name, default)}`"
        rows.append(f"| `{variable_of(name)}` | {shown} | {field.description} |")
    return "\n".join(rows)


def _of_the_stack(data_dir: Path) -> dict[str, Any]:
    path = data_dir / STACK_FILE
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes()).get("settings", {})
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PlatformError(
            f"cannot be read: {error.strerror}", where=str(path), fix=f"give a folder of your own by {PREFIX}DATA_DIR"
        ) from error
    except (ValueError, AttributeError) as error:
        raise PlatformError(
            "not what `dataplatform up` writes", where=str(path), fix="remove the file and start the stack again"
        ) from error
    return settings


def _shown(name: str, value: Any) -> str:
    if name in _SECRET_KEYS:
        value = [(key if key in _SECRET_KEYS[name] else _MASK, source) for key, source in value.items()]
    elif isinstance(value, dict):
        value = [(key, ", ".join(one) or "none" if isinstance(one, list) else one) for key, one in value.items()]
    elif name in ("fraud_database", "fraud_git_remote", "fraud_online"):
        # Passwords stand before the host or among the options.
        value = re.sub(r"(?<=//)\S*@", f"{_MASK}@", re.sub(r"\?.*", f"?{_MASK}", value))
    if isinstance(value, list):
        return ", ".join(f"{key}={one}" for key, one in value) or "none"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return "none" if value in (None, "") else str(value)


def _floor_hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Settings of this process, read once. Raises one PlatformError for all that is wrong, each with its variable."""
    problems = _unknown_variables(os.environ)
    try:
        settings = Settings()  # what has no default comes from the validator or the environment
    except ValidationError as error:
        problems += [_problem(one) for one in error.errors()]
    if problems:
        raise PlatformError(
            "\n  ".join(["the settings do not hold:", *problems]),
            fix="set or unset these variables; `dataplatform settings --markdown` lists all, with their meanings",
        )
    return settings


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that mean nothing: most likely a slip of the pen."""
    known = {variable_of(name): name for name in Settings.model_fields}
    mappings = {
        variable for variable, name in known.items() if get_origin(Settings.model_fields[name].annotation) is dict
    }
    problems = []
    for given in sorted(environment):
        name, nested, key = given.partition("__")
        variable = name.upper()
        if not variable.startswith(PREFIX) or variable.startswith(TEST_PREFIX):
            continue
        if variable not in known or (nested and variable not in mappings):
            near = [f"{one}__{variable.removeprefix(f'{one}_')}" for one in mappings if variable.startswith(f"{one}_")]
            named = difflib.get_close_matches(variable.removeprefix(PREFIX).lower(), Settings.model_fields, n=1)
            near += map(variable_of, named)
            problems.append(f"{given}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
        elif known[variable] in _SECRET_KEYS and key != key.lower():
            problems.append(f"{variable}__…: the name of a variable loses its capitals; write {variable} as JSON")
    return problems


def _problem(error: ErrorDetails) -> str:
    """One thing that is wrong with a value, on one line: where it was given, what it is (no secrets), what it has to be."""
    setting, *inside = map(str, error["loc"])
    given, reason = error["input"], error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{variable_of(setting)}: is required where {PREFIX}ENV is gcp ({Settings.model_fields[setting].description})"
    if error["type"] in ("dict_type", "list_type"):
        form = '{"name": "value"}' if error["type"] == "dict_type" else '["value"]'
        reason = f"has to be JSON, such as {form}"
        try:
            json.loads(given) if isinstance(given, str) else None
        except ValueError as mistake:
            reason += f" ({mistake})"
    if setting in _SECRET_KEYS:
        inside = []
    variable = "__".join([variable_of(setting), *(one.upper() for one in inside if one != "[key]")])
    shown = "" if setting in _SECRET or not isinstance(given, str | int | float) else f"={str(given)[:100]}"
    return f"{variable}{shown}: {reason[0].lower()}{reason[1:]}"
