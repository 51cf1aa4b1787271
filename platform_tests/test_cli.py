"""The command line: every command is there, explains itself, and starts fast."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataplatform.cli import COMMANDS, cli

PROGRAM = str(Path(sys.executable).with_name("dataplatform"))


def test_help_lists_every_command():
    output = CliRunner().invoke(cli, ["--help"]).output
    for name, (_, line) in COMMANDS.items():
        assert name in output
        assert line.split()[0] in output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    done = CliRunner().invoke(cli, [name, "--help"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")
    assert len(done.output.splitlines()) > 4


def test_help_does_not_import_the_rooms():
    code = (
        "import sys\nfrom dataplatform.cli import main\nsys.argv = ['dataplatform', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted(name for name in ('dagster', 'google.cloud', 'pyarrow', 'pydantic_settings') if name in sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_mistakes_are_told_without_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    for command, variables, said in [
        ("status", {"DATAPLATFORM_ENV": "aws"}, "DATAPLATFORM_ENV"),
        ("status", {"DATAPLATFORM_FIRST_HOUR": "yesterday"}, "DATAPLATFORM_FIRST_HOUR"),
        ("status", {"DATAPLATFORM_ENV": "gcp"}, "DATAPLATFORM_FIRST_HOUR"),
        ("status", {"DATAPLATFORM_COLLECTOR_PROT": "1"}, "did you mean DATAPLATFORM_COLLECTOR_PORT?"),
        ("up", {"DATAPLATFORM_DATA_DIR": str(tmp_path / "file")}, f"{tmp_path}/file/stack.json: cannot be read"),
        ("up", {"DATAPLATFORM_DATA_DIR": "/proc/nowhere"}, "/proc/nowhere: cannot be written"),
    ]:
        environment = {**os.environ, "DATAPLATFORM_DATA_DIR": str(tmp_path), **variables}
        done = subprocess.run([PROGRAM, command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
