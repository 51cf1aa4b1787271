"""Settings: where a value comes from, what is refused, that each is told about."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from dataplatform.cli import cli
from dataplatform.settings import Settings, get_settings, settings_table

DOCS = Path(__file__).parents[1] / "docs" / "operations.md"


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


def described() -> dict[str, dict[str, str]]:
    return json.loads(CliRunner().invoke(cli, ["settings", "--json"], catch_exceptions=False).stdout)


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


def test_on_gcp_the_local_stack_says_nothing(tmp_path, monkeypatch):
    (tmp_path / "stack.json").write_text(json.dumps({"settings": {"bigquery_endpoint": "http://127.0.0.1:9"}}))
    monkeypatch.setenv("DATAPLATFORM_ENV", "gcp")
    monkeypatch.setenv("DATAPLATFORM_FIRST_HOUR", "2026-01-01T00:00:00Z")
    settings = Settings()
    assert settings.bigquery_endpoint is None
    assert settings.landing_url == "gs://landing"
    assert settings.write_keys == {}


def test_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("DATAPLATFORM_CONNECTIONS__SHOP", "mongodb://user:hunter2@host/")
    monkeypatch.setenv("DATAPLATFORM_WRITE_KEYS", '{"k-1234": "web"}')
    shown = described()
    assert "hunter2" not in json.dumps(shown)
    assert "k-1234" not in json.dumps(shown)
    assert shown["connections"]["source"] == "environment"
    assert "local=local" in shown["write_keys"]["value"]
    assert Settings().connections["shop"].get_secret_value() == "mongodb://user:hunter2@host/"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ENV": "gcp"}, "first_hour"),
        ({"ENV": "gcp", "FIRST_HOUR": "2026-01-01T00:00:00Z", "ACCEPT_RECEIVED_AT": "true"}, "local environment only"),
        ({"FIRST_HOUR": "2026-01-01T00:00:00"}, "needs a time zone"),
        ({"ENV": "aws"}, "'local' or 'gcp'"),
        ({"LOOKBACK_HOURS": "0"}, "lookback_hours"),
    ],
)
def test_what_is_refused(variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(f"DATAPLATFORM_{name}", value)
    with pytest.raises(ValidationError, match=message):
        Settings()
