"""The README's steps, run as they stand there, in a project that has three contracts."""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dataplatform.local.control import down

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path):
    """A folder that looks like the checkout, with few contracts and a stack of its own."""
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    for name in ("vocabulary.yaml", "owners.yaml"):
        shutil.copy(ROOT / "schemas" / name, schemas)
    (schemas / "events" / "marketplace").mkdir(parents=True)
    for name in ("like_item_marketplace", "hide_item_marketplace"):
        shutil.copy(ROOT / f"schemas/events/marketplace/{name}.yaml", schemas / "events" / "marketplace")
    yield tmp_path
    down(tmp_path / ".data")


@pytest.mark.timeout(400)
def test_the_steps_from_a_new_event_to_a_column(project):
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DATAPLATFORM_")}
    environment["DATAPLATFORM_FIRST_HOUR"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:00:00Z")
    contract, sent_by_curl, sent_by_segment, caught_up, read = blocks
    # A person's pace, where it matters: the collector notices a contract and closes its files within a second.
    steps = [contract, "sleep 1", sent_by_curl, sent_by_segment, "sleep 1", caught_up, read]
    script = "\n".join(["set -eu", ".venv/bin/dataplatform up bigquery collector", *steps])
    done = subprocess.run(
        ["bash", "-c", script], cwd=project, env=environment, capture_output=True, text=True, timeout=380, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"received":1,"accepted":1,"refused":0' in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("{'")]
    assert len(rows) == 3, done.stdout
    assert "'keyword': 'bicycle', 'max_price': Decimal('250000.5'), 'area__region_id': 4" in rows[0]
    assert "'colour': 'red'" in rows[0]
    assert "'keyword': 'desk', 'max_price': None, 'area__region_id': 7" in rows[1]
    assert "'path': '/params/max_price', 'code': 'too_small'" in rows[2]
