"""Replay puts repaired rejections in their place, and changes nothing the second time."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_project import CLICK, HOUR, START, Project, click

from dataplatform.errors import PlatformError
from dataplatform.events.replay import Tally, replay
from dataplatform.landing import hour_of


@pytest.fixture
def project(settings_for: Any, tmp_path: Path) -> Project:
    return Project(settings_for(first_hour=START), tmp_path)


def test_a_mended_contract_takes_what_it_refused(settings_for: Any, tmp_path: Path) -> None:
    """In the hour before and in the running one, which is closed early."""
    start = hour_of(datetime.now(UTC)) - HOUR
    project = Project(settings_for(first_hour=start), tmp_path)
    project.land(start, [click("a", place="list"), click("b", place="map"), click("b", place="map")])
    project.land(start + HOUR, [click("c", place="map"), click("d", item_id=None)])
    assert project.catch_up(start + 2 * HOUR).ok
    project.write("events/shop/click_item_shop.yaml", CLICK.replace("[list, detail]", "[list, detail, map]"))
    lines: list[str] = []
    replayed = replay("click_item_shop", start, settings=project.settings, echo=lines.append)
    assert replayed.before == Tally(received=5, accepted=1, rejected=3, duplicates=1)
    assert replayed.after == Tally(received=5, accepted=3, rejected=1, duplicates=1)
    assert any("accepted" in line and "1" in line and "3" in line for line in lines)
    project.check()
    again = replay("click_item_shop", start, settings=project.settings, echo=lines.append)
    assert again.before == again.after == replayed.after
    project.check()
    # Replay did what catch-up would have done.
    runs = project.catch_up(start + 2 * HOUR).runs
    assert not [run for run in runs if any(asset.startswith("events/") for asset in run.due.assets)]


def test_what_cannot_be_replayed(project: Project) -> None:
    with pytest.raises(PlatformError, match="no contract has the name"):
        replay("click_nothing_shop", START, settings=project.settings)
    with pytest.raises(PlatformError, match="is closed"):
        replay("click_item_shop", START, settings=project.settings)
