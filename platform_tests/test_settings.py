"""Settings: where a value comes from, what is refused and how it is told, that each is documented, that secrets stay secret."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from dataplatform.cli import cli
from dataplatform.errors import PlatformError
from dataplatform.settings import Settings, get_settings, settings_table

DOCS = Path(__file__).parents[1] / "docs" / "operations.md"
GCP = {"ENV": "gcp", "PROJECT": "my-project", "BUCKET": "my-landing", "FIRST_HOUR": "2026-01-01T00:00:00Z"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """No stack, no settings but the test's."""
    for name in list(os.environ):
        if name.startswith("DATAPLATFORM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATAPLATFORM_DATA_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def given(monkeypatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"DATAPLATFORM_{name}", value)


def described() -> dict[str, dict[str, str]]:
    return json.loads(CliRunner().invoke(cli, ["settings", "--json"], catch_exceptions=False).stdout)


def refusal() -> str:
    with pytest.raises(PlatformError) as raised:
        get_settings()
    return str(raised.value)


def test_every_setting_has_a_meaning():
    assert [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")] == []


def test_the_documentation_lists_every_setting():
    assert settings_table() in DOCS.read_text(), (
        "run `dataplatform settings --markdown` and put it into docs/operations.md"
    )


def test_the_environment_comes_before_the_stack_and_the_stack_before_the_default(tmp_path, monkeypatch):
    remembered = {"collector_port": 8081, "bigquery_endpoint": "http://127.0.0.1:9"}
    (tmp_path / "stack.json").write_text(json.dumps({"settings": remembered}))
    monkeypatch.setenv("DATAPLATFORM_COLLECTOR_PORT", "8082")
    settings = Settings()
    assert (settings.collector_port, settings.bigquery_endpoint) == (8082, "http://127.0.0.1:9")
    shown = described()
    assert shown["collector_port"] == {
        "value": "8082",
        "source": "environment",
        "variable": "DATAPLATFORM_COLLECTOR_PORT",
        "meaning": "Port the collector listens on.",
    }
    assert shown["bigquery_endpoint"]["source"] == "stack"
    assert shown["location"]["source"] == "default"


def test_the_stack_is_that_of_the_folder_that_is_given(tmp_path):
    (tmp_path / "stack.json").write_text(json.dumps({"settings": {"collector_port": 8081}}))
    other = tmp_path / "other"
    other.mkdir()
    (other / "stack.json").write_text(json.dumps({"settings": {"collector_port": 8082}}))
    assert Settings(data_dir=other).collector_port == 8082


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_stack_file_that_is_none_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "stack.json").write_text(content)
    assert f"{tmp_path}/stack.json" in refusal()


def test_a_data_folder_that_is_a_file_is_an_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    given(monkeypatch, {"DATA_DIR": str(tmp_path / "file")})
    assert "Not a directory" in refusal()


def test_on_gcp_the_local_stack_says_nothing(tmp_path, monkeypatch):
    (tmp_path / "stack.json").write_text(json.dumps({"settings": {"bigquery_endpoint": "http://127.0.0.1:9"}}))
    given(monkeypatch, GCP | {"WRITE_KEYS": '{"k": "app"}'})
    settings = get_settings()
    assert settings.bigquery_endpoint is None
    assert settings.landing_url == "gs://my-landing"
    assert settings.write_keys == {"k": "app"}
    assert settings.decision_keys == {}


def test_secrets_are_masked(monkeypatch):
    secrets = {
        "CONNECTIONS__SHOP": "mongodb://user:hunter2@host/",
        "CONNECTIONS": '{"other": "mongodb://user:hunter3@host/"}',
        "WRITE_KEYS": '{"hunter4": "web", "hunter5": "app"}',
        "DECISION_KEYS": '{"hunter6": "pay"}',
        "FRAUD_DATABASE": "postgresql+psycopg://fraud:hunter7@8@host/name?sslpassword=hunter9",
        "FRAUD_ONLINE": "rediss://default:hunter1@redis:6379/0?password=hunter10",
    }
    given(monkeypatch, secrets)
    for arguments in (["settings"], ["settings", "--json"]):
        assert "hunter" not in CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout
    assert "hunter" not in repr(get_settings().connections)
    shown = described()
    assert shown["write_keys"]["value"] == "local=local, **********=web, **********=app"
    assert shown["decision_keys"]["value"] == "local=local, second=second, **********=pay"
    assert shown["connections"] == shown["connections"] | {
        "value": "other=**********, shop=**********",
        "source": "environment",
    }
    assert shown["fraud_database"]["value"] == "postgresql+psycopg://**********@host/name?**********"
    assert Settings().connections["shop"].get_secret_value() == "mongodb://user:hunter2@host/"


def test_secrets_are_not_in_what_is_told_of_mistakes(monkeypatch):
    given(
        monkeypatch,
        {
            "WRITE_KEYS": '{"hunter 1": "web", "hunter2": "", "hunter3": {"a": 1}}',
            "DECISION_KEYS": '{"hunter4": "pay"',
            "FRAUD_DATABASE": "user:hunter5@host",
            "CONNECTIONS__MY-SHOP": "hunter6",
        },
    )
    told = refusal()
    assert "hunter" not in told
    assert [line.partition(":")[0].strip() for line in told.splitlines()[1:-1]] == [
        *["DATAPLATFORM_WRITE_KEYS"] * 3,
        "DATAPLATFORM_DECISION_KEYS",
        "DATAPLATFORM_FRAUD_DATABASE",
        "DATAPLATFORM_CONNECTIONS__MY-SHOP",
    ]
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert "hunter4" not in str(raised.value)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ENV": "aws"}, "ENV=aws: input should be 'local' or 'gcp'"),
        ({"ENV": ""}, "ENV=: input should be 'local' or 'gcp'"),
        ({"ENV": "gcp"} | {key: value for key, value in GCP.items() if key != "PROJECT"}, "PROJECT: is required"),
        ({"ENV": "gcp"} | {key: value for key, value in GCP.items() if key != "BUCKET"}, "BUCKET: is required"),
        ({"ENV": "gcp"} | {key: value for key, value in GCP.items() if key != "FIRST_HOUR"}, "FIRST_HOUR: is required"),
        (GCP | {"ACCEPT_RECEIVED_AT": "true"}, "is for the local environment only"),
        (GCP | {"BIGQUERY_ENDPOINT": "http://127.0.0.1:9050"}, "is for the local environment only"),
        ({"FIRST_HOUR": "yesterday"}, "FIRST_HOUR=yesterday: input should be a valid datetime"),
        ({"FIRST_HOUR": "2026-01-01T00:00:00"}, "needs a time zone"),
        ({"FIRST_HOUR": "2026-01-01T00:00:00+05:30"}, "not the start of an hour (UTC): write 2025-12-31T18:00:00Z"),
        ({"FIRST_HOUR": "0001-01-01T00:00:00Z"}, "is before 2000"),
        ({"LOOKBACK_HOURS": "0"}, "LOOKBACK_HOURS=0: input should be greater than or equal to 1"),
        ({"LOOKBACK_HOURS": "1000000000"}, "LOOKBACK_HOURS=1000000000: input should be less than"),
        ({"COLLECTOR_PORT": "0"}, "COLLECTOR_PORT=0: input should be greater"),
        ({"COLLECTOR_PORT": "65536"}, "COLLECTOR_PORT=65536: input should be less"),
        ({"DECISIONS_PORT": "http"}, "DECISIONS_PORT=http: input should be a valid integer"),
        ({"COLLECTOR_HOST": "http://0.0.0.0"}, "without a scheme"),
        ({"COLLECTOR_HOST": "0.0.0.0:80"}, "without a port"),
        ({"LANDING_ROTATE_BYTES": "-1"}, "greater than 0"),
        ({"LANDING_ROTATE_SECONDS": "nan"}, "finite"),
        ({"CDC_COMMIT_SECONDS": "inf"}, "finite"),
        ({"MAX_BYTES_BILLED": "0"}, "greater than 0"),
        ({"BIGQUERY_MEMORY_LIMIT": "lots"}, "such as 4GB"),
        ({"ACCEPT_RECEIVED_AT": "perhaps"}, "valid boolean"),
        ({"PROJECT": "My_Project"}, "a project id"),
        ({"BUCKET": "gs://landing"}, "without gs://"),
        ({"BUCKET": "a..b"}, "a bucket's name"),
        ({"DATASET_PREFIX": "a-"}, "letters, digits and underscores"),
        ({"LOCATION": "Seoul"}, "asia-northeast3"),
        ({"BIGQUERY_ENDPOINT": "127.0.0.1:9050"}, "such as http://127.0.0.1:9050"),
        ({"BIGQUERY_GRPC_ENDPOINT": "http://127.0.0.1"}, "such as 127.0.0.1:9060"),
        ({"POLICY_TAG": "tag"}, "projects/PROJECT/locations/"),
        ({"DATA_DIR": ""}, "DATA_DIR=: is empty"),
        ({"WRITE_KEYS": '{"": "web"}'}, "not empty"),
        ({"WRITE_KEYS": '{"a:b": "web"}'}, "without a colon"),
        ({"WRITE_KEYS": '{"k": " "}'}, "WRITE_KEYS: has to be a name, and not empty"),
        ({"WRITE_KEYS": '["k"]'}, 'has to be JSON, such as {"name": "value"}'),
        ({"WRITE_KEYS": '{"k": '}, "WRITE_KEYS: has to be JSON, such as"),
        ({"WRITE_KEYS": ""}, "WRITE_KEYS: has to be JSON, such as"),
        ({"WRITE_KEYS__Key": "web"}, "loses its capitals"),
        ({"CONNECTIONS__SHOP": ""}, "CONNECTIONS__SHOP: is empty"),
        ({"PII_ALLOWED__EVENTS": "email"}, 'PII_ALLOWED__EVENTS=email: has to be JSON, such as ["value"]'),
        ({"PII_ALLOWED": '{"a b": []}'}, "a dataset's name"),
        ({"PII_ALLOWED": '{"events": [""]}'}, "not empty"),
        ({"COLECTOR_PORT": "1"}, "COLECTOR_PORT: no such setting; did you mean DATAPLATFORM_COLLECTOR_PORT?"),
        ({"CONNECTIONS_SHOP": "x"}, "did you mean DATAPLATFORM_CONNECTIONS__SHOP?"),
        ({"COLLECTOR_PORT__A": "1"}, "COLLECTOR_PORT__A: no such setting"),
        ({"XYZZY": "1"}, "DATAPLATFORM_XYZZY: no such setting\n"),
    ],
)
def test_what_is_refused(variables, told, monkeypatch):
    given(monkeypatch, variables)
    assert told in refusal()


def test_all_that_is_wrong_is_told_at_once(monkeypatch):
    given(monkeypatch, {"ENV": "gcp", "NONSENSE": "1", "COLLECTOR_PORT": "0", "WRITE_KEYS": "{", "DATASET_PREFIX": "-"})
    told = refusal()
    for name in ("PROJECT", "BUCKET", "FIRST_HOUR", "NONSENSE", "COLLECTOR_PORT", "WRITE_KEYS", "DATASET_PREFIX"):
        assert f"DATAPLATFORM_{name}" in told
    assert "mend: " in told


@pytest.mark.parametrize(
    "variables",
    [
        GCP | {"PROJECT": "example.com:my-project", "LOCATION": "eu", "DATASET_PREFIX": "Staging_2"},
        GCP | {"POLICY_TAG": "projects/p/locations/us/taxonomies/1/policyTags/2"},
        {"COLLECTOR_HOST": "::", "DECISIONS_HOST": "localhost", "BIGQUERY_ENDPOINT": "http://[::1]:9050/"},
        {"TEST_MONGO_URI": "mongodb://host", "CONNECTIONS__SHOP": "mongodb://host", "WRITE_KEYS__web-1": "web"},
        {"PII_ALLOWED": '{"marketing": []}', "PII_ALLOWED__EVENTS": '["email"]', "COLLECTOR_EVENTS_PER_SECOND": "0"},
        {"BIGQUERY_MEMORY_LIMIT": "1.5 GiB", "FRAUD_DATABASE": "sqlite:////tmp/x.sqlite", "BUCKET": "a.b-c_d"},
    ],
)
def test_what_is_accepted(variables, monkeypatch):
    given(monkeypatch, variables)
    get_settings()


def test_the_first_hour_is_an_hour_of_utc(monkeypatch):
    given(monkeypatch, {"FIRST_HOUR": "2026-01-01T09:00:00+09:00"})
    assert get_settings().first_hour == datetime(2026, 1, 1, tzinfo=UTC)
    assert described()["first_hour"]["value"] == "2026-01-01T00:00:00Z"


def test_mappings_of_both_forms_are_one(monkeypatch):
    given(
        monkeypatch, {"WRITE_KEYS": '{"K-1": "web"}', "WRITE_KEYS__k-2": "app", "CONNECTIONS__SHOP__EU": "mongodb://h"}
    )
    settings = get_settings()
    assert settings.write_keys == {"local": "local", "K-1": "web", "k-2": "app"}
    assert list(settings.connections) == ["shop__eu"]
