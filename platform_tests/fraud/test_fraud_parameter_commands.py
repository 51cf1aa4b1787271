"""`dataplatform fraud parameters …` from a draft to the Git copy."""

import pytest
from click.testing import CliRunner

from dataplatform.errors import PlatformError
from dataplatform.fraud import parameter_commands
from dataplatform.fraud.parameter_commands import lists, parameters
from dataplatform.fraud.parameters import NotAllowedError, ParameterStore, UnknownVersionError
from dataplatform.fraud.policies import parse_policy
from dataplatform.settings import get_settings

POLICY = """\
policy: transfer
event: e
unknown: monitor
parameters:
  min_membership: {type: INT64, unit: days, default: 30, min: 0, max: 365}
rules:
  - {name: new, when: age < $min_membership OR receiver IN LIST watched, level: block}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    policies = {"transfer": parse_policy(POLICY)}
    store = ParameterStore(f"sqlite:///{tmp_path / 'p.sqlite'}", policies)
    monkeypatch.setattr(parameter_commands, "open_store", lambda: store)
    settings = get_settings().model_copy(update={"data_dir": tmp_path / "data"})
    monkeypatch.setattr(parameter_commands, "get_settings", lambda: settings)

    def run(group, *arguments):
        return CliRunner().invoke(group, arguments, catch_exceptions=False).output

    return run


def test_a_threshold_from_draft_to_git(run, tmp_path):
    run(parameters, "grant", "ed", "editor")
    run(parameters, "grant", "ada", "approver")
    draft = run(parameters, "set", "transfer", "min_membership=70 days", "--reason", "Mules.", "--as", "ed")
    assert draft == "version 2 of transfer is a draft\n"
    with pytest.raises(NotAllowedError):
        run(parameters, "advance", "transfer", "2", "live", "--as", "ed")
    run(parameters, "approve", "transfer", "2", "--as", "ada")
    assert "is live" in run(parameters, "advance", "transfer", "2", "live", "--as", "ed")
    shown = run(parameters, "show", "transfer")
    assert "min_membership = 70 days" in shown and "approved by ada: Mules." in shown
    assert "wrote" in run(parameters, "export", str(tmp_path / "copy"))
    assert "version 3" in run(parameters, "rollback", "transfer", "--reason", "Over.", "--as", "ed")
    assert run(parameters, "history", "transfer").count("\n") == 4
    copied = tmp_path / "data" / "fraud" / "parameters" / "schemas" / "parameters"
    assert "version: 3" in (copied / "transfer.yaml").read_text() and (copied / "transfer" / "2.yaml").exists()


def test_lists(run):
    run(parameters, "grant", "ed", "editor")
    run(lists, "add", "watched", "a", "b", "--until", "2099-01-01T00:00:00Z", "--reason", "r", "--as", "ed")
    run(lists, "remove", "watched", "b", "--reason", "r", "--as", "ed")
    assert run(lists, "show", "watched") == "a\n"
    with pytest.raises(UnknownVersionError, match="did you mean watched"):
        run(lists, "add", "watchedz", "a", "--reason", "r", "--as", "ed")
    with pytest.raises(UnknownVersionError):
        run(lists, "show", "nolist")
    for until in ("2001-01-01T00:00:00Z", "tomorrow"):
        with pytest.raises(PlatformError, match=r"expired|no time"):
            run(lists, "add", "watched", "c", "--until", until, "--reason", "r", "--as", "ed")
