"""`dataplatform contracts …`, run as a user runs it, on folders and Git repositories of its own."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dataplatform.cli import main
from dataplatform.settings import get_settings

CASES = Path(__file__).parent / "cases"
PLACE = "events/pay/send_transfer_pay.yaml"
BASE = "action: send\nobject: transfer\nservice: pay\nowner: payments\ndomain: pay\ndescription: Money was sent.\n"
PARAMS = "params:\n  - {name: amount, type: INT64, required: true}\n  - {name: memo, type: STRING, pii: true}\n"
COMMAND = Path(sys.executable).parent / "dataplatform"


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    root = tmp_path / "company" / "schemas"
    (root / PLACE).parent.mkdir(parents=True)
    for name in ("vocabulary.yaml", "owners.yaml"):
        shutil.copy(CASES / name, root)
    (root / PLACE).write_text(BASE + PARAMS)
    return root


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(schemas: Path, *arguments: str) -> Done:
    """The command in this process, through the same entry point."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("DATAPLATFORM_SCHEMAS_DIR", str(schemas))
        patch.setenv("DATAPLATFORM_DATA_DIR", str(schemas / "none"))
        patch.setattr(sys, "argv", ["dataplatform", "contracts", *arguments])
        get_settings.cache_clear()
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        finally:
            get_settings.cache_clear()
    return Done(code, out.getvalue(), err.getvalue())


def git(schemas: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=schemas.parent, check=True, capture_output=True)


@pytest.fixture
def repository(schemas: Path) -> Path:
    git(schemas, "init", "-q", "-b", "main")
    (schemas.parent / "README.md").write_text("x")
    git(schemas, "add", "README.md")
    git(schemas, "commit", "-q", "-m", "before there were contracts")
    git(schemas, "tag", "before")
    git(schemas, "add", ".")
    git(schemas, "commit", "-q", "-m", "contracts")
    return schemas


def test_check(schemas: Path) -> None:
    done = run(schemas, "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 event of 1 service: no mistakes\n", "")
    (schemas / PLACE).write_text(BASE + "params:\n  - {name: a, type: STRNG}\n  - {name: b, type: INT64, min: x}\n")
    done = run(schemas, "check")
    assert done.returncode == 1
    assert f"{schemas / PLACE}:8: params[0].type: `STRNG` is no type [unknown_type]" in done.stderr
    assert "    mend: did you mean `STRING`?" in done.stderr
    assert f"{schemas / PLACE}:9: params[1].min:" in done.stderr
    assert done.stderr.endswith("2 mistakes in 1 file\n")
    assert "Traceback" not in done.stderr


def test_check_looks_at_collections_as_well(schemas: Path) -> None:
    (schemas / "collections").mkdir()
    file = schemas / "collections" / "shop.users.yaml"
    text = "connection: shop\ndatabase: shop\ncollection: users\nowner: payments\ndescription: A user.\n"
    file.write_text(text)
    assert run(schemas, "check").stdout == "1 event of 1 service, 1 collection: no mistakes\n"
    file.write_text(text.replace("payments", "nobody"))
    assert f"{file}:4: owner: `nobody` is not among the owners" in run(schemas, "check").stderr


def test_the_installed_command(schemas: Path) -> None:
    (schemas / PLACE).write_text("action: [")
    environment = {**os.environ, "DATAPLATFORM_SCHEMAS_DIR": str(schemas)}
    command = [str(COMMAND), "contracts", "build"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{schemas / PLACE}:2: not YAML" in done.stderr
    assert "Traceback" not in done.stderr


def test_build(schemas: Path) -> None:
    stale = run(schemas, "build", "--check")
    assert stale.returncode == 1
    assert "send_transfer_pay.json: missing" in stale.stdout
    assert "run `dataplatform contracts build`" in stale.stderr
    assert not (schemas / "generated").exists(), "--check writes nothing"
    assert run(schemas, "build").returncode == 0
    assert run(schemas, "build", "--check").returncode == 0
    (schemas / PLACE).unlink()
    assert "send_transfer_pay.json: of no contract" in run(schemas, "build", "--check").stdout
    assert run(schemas, "build").returncode == 0
    assert [path.name for path in (schemas / "generated").rglob("*.json")] == ["contract.schema.json"]


def test_diff_of_an_additive_change(repository: Path) -> None:
    assert run(repository, "diff", "HEAD").stdout == "0 contracts changed since HEAD, nothing breaking\n"
    (repository / PLACE).write_text(BASE + PARAMS + "  - {name: fee, type: NUMERIC}\n")
    done = run(repository, "diff", "main")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "send_transfer_pay",
        "  additive params.fee: a new NUMERIC",
        '  hint: raise `version` to "1.1", so that rejections tell the two apart',
        "1 contract changed since main, nothing breaking",
    ]


def test_diff_refuses_a_breaking_change_without_a_new_major(repository: Path) -> None:
    breaking = BASE + PARAMS.replace("INT64", "STRING")
    (repository / PLACE).write_text(breaking)
    done = run(repository, "diff", "HEAD")
    assert done.returncode == 1
    assert "  breaking params.amount: INT64 became STRING" in done.stdout
    assert "breaking changes without a new major version: send_transfer_pay" in done.stderr
    assert "Traceback" not in done.stderr

    (repository / PLACE).write_text(BASE + PARAMS)
    (repository / PLACE).with_stem("send_transfer_pay_v2").write_text(breaking + 'version: "2.0"\n')
    done = run(repository, "diff", "HEAD")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["send_transfer_pay_v2", "  additive a new event"]


def test_diff_refuses_a_removal_that_was_not_announced(repository: Path) -> None:
    (repository / PLACE).unlink()
    assert run(repository, "diff", "HEAD").returncode == 1
    (repository / PLACE).write_text(BASE + PARAMS + "status: deprecated\n")
    assert run(repository, "diff", "HEAD").returncode == 0
    git(repository, "commit", "-q", "-a", "-m", "deprecated")
    (repository / PLACE).unlink()
    assert run(repository, "diff", "HEAD").returncode == 0


def test_diff_with_what_was_before_or_was_broken(repository: Path) -> None:
    done = run(repository, "diff", "before")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["send_transfer_pay", "  additive a new event"]
    (repository / PLACE).write_text(BASE + "params: [")
    git(repository, "commit", "-q", "-a", "-m", "broken")
    (repository / PLACE).write_text(BASE + PARAMS)
    done = run(repository, "diff", "HEAD")
    assert done.returncode == 0
    assert "did not hold at HEAD" in done.stderr


@pytest.mark.parametrize("reference", ["nothing", "HEAD~99", "--output=x", "HEAD:schemas"])
def test_diff_with_what_is_no_commit(repository: Path, reference: str) -> None:
    done = run(repository, "diff", "--", reference)
    assert done.returncode == 1
    assert "is no commit, branch or tag here" in done.stderr
    assert "Traceback" not in done.stderr


def test_diff_outside_of_a_repository(schemas: Path) -> None:
    done = run(schemas, "diff", "HEAD")
    assert done.returncode == 1
    assert "git says: fatal: not a git repository" in done.stderr


def test_list_and_show(schemas: Path) -> None:
    lines = run(schemas, "list").stdout.splitlines()
    assert lines[0].split() == ["event", "owner", "status", "version", "columns"]
    assert lines[1].split() == ["send_transfer_pay", "payments", "active", "1.0", "2"]
    shown = run(schemas, "show", "send_transfer_pay").stdout
    assert "Money was sent." in shown
    assert "memo" in shown
    assert "[personal data]" in shown
    wrong = run(schemas, "show", "send_transfer_pya")
    assert wrong.returncode == 1
    assert "did you mean send_transfer_pay?" in wrong.stderr


def test_draft_begins_a_contract_from_what_is_there(schemas: Path, tmp_path: Path) -> None:
    assert run(schemas, "build").returncode == 0
    for name in ("send_transfer_pay.json", "bigquery/send_transfer_pay.json"):
        done = run(schemas, "draft", str(schemas / "generated" / name))
        assert done.returncode == 0
        params = yaml.safe_load(done.stdout)["params"]
        assert params[0] == {
            "name": "event_id",
            "type": "STRING",
            "required": True,
            "description": "Id that the sender gave the event; unique here.",
        }
    for text in ('[{"name": "a", "type": "GEOGRAPHY"}]', '{"fields": [{"name": "a"}]}', "[", "5", '["a"]'):
        (tmp_path / "x.json").write_text(text)
        done = run(schemas, "draft", str(tmp_path / "x.json"))
        assert done.returncode == 1
        assert f"{tmp_path / 'x.json'}: no contract can be begun from it: " in done.stderr


def test_no_folder(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", "check")
    assert done.returncode == 1
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr
