"""Set-up's decisions; that it makes the environments is shown by every run of these tests."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    """The script as a module, for a project in a folder of its own."""
    spec = importlib.util.spec_from_file_location("set_up", ROOT / "tools" / "set_up.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("requirements.lock", "requirements-bigquery.lock", "requirements-mongo.lock", "pyproject.toml"):
        (tmp_path / name).write_text("a==1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "TOOLS", tmp_path / ".tools")
    return module


def test_an_environment_is_current_until_its_lock_file_changes(set_up, tmp_path):
    assert not set_up.is_current(".venv-mongo")
    (tmp_path / ".venv-mongo" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-mongo" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv-mongo" / set_up.STAMP).write_text(set_up.made_from(".venv-mongo"))
    assert set_up.is_current(".venv-mongo")
    (tmp_path / "pyproject.toml").write_text("only the project is installed from it")
    assert set_up.is_current(".venv-mongo")
    (tmp_path / "requirements-mongo.lock").write_text("a==2\n")
    assert not set_up.is_current(".venv-mongo")


def test_what_pip_is_told_holds_for_uv(set_up, tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://index.example/simple\nextra-index-url = https://more.example/simple\n"
        "trusted-host = index.example\ntimeout = 7\n"
    )
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "99")
    monkeypatch.setattr(os, "environ", dict(os.environ))  # what the script sets is gone after the test
    python = next(
        (path for path in (ROOT / ".tools/uv/bin/python", Path(sys.base_prefix) / "bin/python3") if path.exists()), None
    )
    assert python is not None
    set_up.adopt_pip_settings(python)
    assert os.environ["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert os.environ["UV_INSECURE_HOST"] == "index.example"
    assert os.environ["UV_HTTP_TIMEOUT"] == "99", "uv's own setting comes first"


def test_without_a_suitable_python_it_says_what_to_install(set_up, monkeypatch, capsys):
    monkeypatch.setattr(set_up, "is_wanted", lambda python: False)
    monkeypatch.setattr(set_up, "find_uv", lambda: None)
    assert set_up.main() == 1
    said = capsys.readouterr().err
    assert "Python 3.13 is needed" in said
    assert "pyenv install 3.13" in said


def test_lock_files_hold_names_and_versions_only():
    for lock in ROOT.glob("requirements*.lock"):
        for line in lock.read_text().splitlines():
            name, _, version = line.partition(" ; ")[0].partition("==")
            assert name and version, f"{lock.name}: {line}"
            assert "/" not in line, f"{lock.name}: {line}"
    assert "sqlglotc" not in (ROOT / "requirements-bigquery.lock").read_text(), (
        "the embedded server does not work with it"
    )
