"""Catch-up from landed files to tables: what is due and nothing else, whatever was killed, changed or came late."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "events"))
from small_project import CLICK, HOUR, PAY, START, Project, click

from dataplatform.errors import PlatformError
from dataplatform.events.hours import EventHours
from dataplatform.lease import Holder, Lease
from dataplatform.runs import dagster_instance, unfinished_runs
from dataplatform.warehouse import client


@pytest.fixture
def project(settings_for: Any, tmp_path: Path) -> Project:
    return Project(settings_for(first_hour=START, lookback_hours=4), tmp_path)


def environment(project: Project) -> dict[str, str]:
    """Settings of the project, for another process."""
    settings = project.settings
    return os.environ | {
        "DATAPLATFORM_DATA_DIR": str(settings.data_dir),
        "DATAPLATFORM_SCHEMAS_DIR": str(settings.schemas_dir),
        "DATAPLATFORM_BUCKET": settings.bucket,
        "DATAPLATFORM_DATASET_PREFIX": settings.dataset_prefix,
        "DATAPLATFORM_BIGQUERY_ENDPOINT": str(settings.bigquery_endpoint),
        "DATAPLATFORM_BIGQUERY_GRPC_ENDPOINT": str(settings.bigquery_grpc_endpoint),
        "DATAPLATFORM_FIRST_HOUR": settings.first_hour.isoformat(),
        "DATAPLATFORM_LOOKBACK_HOURS": str(settings.lookback_hours),
    }


def start_catch_up(project: Project, until: datetime) -> subprocess.Popen[str]:
    program = Path(sys.executable).parent / "dataplatform"
    return subprocess.Popen(
        [program, "catch-up", "--until", until.strftime("%Y-%m-%dT%H:%M:%SZ")],
        env=environment(project) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What a process prints up to the line with this text."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    raise AssertionError(f"{text!r} is not in {printed}")


@pytest.mark.timeout(600)
def test_a_selection_then_hours_in_one_run_then_late_files_then_changed_contracts(project: Project) -> None:
    """One project through all that makes hours due. Everything here is one story, as each catch-up costs seconds."""
    unknown = '{"event_id": "v1", "event": "view_item_shop", "params": {"item_id": 7}}'
    paid = '{"event_id": "p1", "event": "pay_order_bank", "params": {"amount": "1.5", "items": [{"sku": "s", "color": "red"}]}}'
    project.land(START, [unknown, click("0-a"), click("shared"), click("0-b", "nonsense")])
    for index in (1, 2):
        project.land(START + index * HOUR, [click(f"{index}-a"), click("shared"), click(f"{index}-b", "nonsense")])

    # A selection does only that part; one that means nothing is a mistake.
    with pytest.raises(PlatformError, match="no asset is meant"):
        project.catch_up(START + HOUR, 'key:"events/clicks"')
    result = project.catch_up(START + HOUR, 'key:"events/click_item_shop"')
    assert [run.due.assets for run in result.runs] == [("events/click_item_shop",)]
    assert len(project.rows("events", "click_item_shop")) == 2
    assert project.rows("events", "ledger") == []

    # Hours that are due for one reason are one run, and nothing is due after it.
    result = project.catch_up(START + 3 * HOUR)
    assert result.ok, result.lines
    (run,) = [run for run in result.runs if run.due.start]
    assert (run.due.start, run.due.end) == (START, START + 3 * HOUR)
    project.check()
    began = time.process_time()
    again = project.catch_up(START + 3 * HOUR)
    assert again.ok
    assert again.runs == []
    assert time.process_time() - began < 5

    # A late file, and the hour that stands on it by a shared id.
    project.land(START, [click("1-a", place="list"), click("new"), paid], spread=lambda _: 3599.0)
    late = project.catch_up(START + 3 * HOUR)
    assert late.ok, late.lines
    assert [(run.due.start, run.due.reason) for run in late.runs] == [
        (START, "its files are new"),
        (START + HOUR, "an earlier hour has late files"),
    ]

    # A new contract and a new nested field flow to columns; what they do not touch is not done again.
    assert project.total("rejected", "view_item_shop") == 1
    assert '"color"' in str(project.rows("events", "pay_order_bank")[0]["_extra"])
    view = CLICK.replace("action: click", "action: view").split("  - {name: place")[0]
    project.write("events/shop/view_item_shop.yaml", view)
    wider = PAY.replace("      - {name: count", "      - {name: color, type: STRING}\n      - {name: count")
    project.write("events/bank/pay_order_bank.yaml", wider + 'version: "1.1"\n')
    result = project.catch_up(START + 3 * HOUR)
    assert result.ok, result.lines
    project.check()
    (row,) = project.rows("events", "view_item_shop")
    assert row["item_id"] == 7
    (row,) = project.rows("events", "pay_order_bank")
    assert row["items"][0]["color"] == "red"
    assert row["_extra"] is None
    assert project.total("rejected", "view_item_shop") == project.total("rejected", "pay_order_bank") == 0
    assert "events/click_item_shop" not in {asset for run in result.runs for asset in run.due.assets}

    # A retired contract refuses what it took, and its table is kept as it was.
    before = project.rows("events", "click_item_shop")
    (project.schemas / "events/shop/click_item_shop.yaml").unlink()
    result = project.catch_up(START + 3 * HOUR)
    assert result.ok, result.lines
    project.check()
    assert project.total("accepted", "click_item_shop") == 0
    assert len(project.rows("events", "click_item_shop")) == len(before) > 3


@pytest.mark.timeout(600)
def test_signals_and_several_at_once_then_the_running_hour_then_a_server_gone_then_a_broken_ledger(
    settings_for: Any, tmp_path: Path, bigquery: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One project through all that goes wrong, by the command and in this process."""
    running = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    project = Project(settings_for(first_hour=running - HOUR), tmp_path)
    project.land(running - HOUR, [click(f"{i}") for i in range(50)])
    project.land(running, [click("a")], spread=lambda _: 1.0)

    # A run that is told to stop ends as failed, and the command says by what it was stopped.
    process = start_catch_up(project, running + HOUR / 2)
    printed = read_until(process, "its files are new")
    assert f"closed {running - HOUR:%Y-%m-%d %H:%M}" in printed
    time.sleep(1.0)
    processes = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM; a repetition does what is left" in output
    assert "Traceback" not in output
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    with dagster_instance(project.settings) as instance:
        assert unfinished_runs(instance, "events") == []
        assert [run.status.value for run in instance.get_runs()] == ["FAILURE"]
    assert project.stream.lease.holder() is None

    # Of two at once one works while the other waits for it; this one or that is told to stop.
    at_once = [start_catch_up(project, running + HOUR / 2) for _ in range(2)]
    read_until(at_once[1], "its files are new")
    at_once[1].send_signal(signal.SIGINT)
    for process, status in zip(at_once, (0, 128 + signal.SIGINT), strict=True):
        output, _ = process.communicate(timeout=220)
        assert process.returncode == status, output
        assert "Traceback" not in output
    project.check()
    with dagster_instance(project.settings) as instance:
        assert unfinished_runs(instance, "events") == []
    assert project.hours() == [running - HOUR]

    # The running hour is closed early, with what is there of it.
    assert project.catch_up(running + HOUR).ok
    assert project.hours() == [running - HOUR, running]
    project.check()

    # A late file of it; the server goes in the middle, which fails clearly, and a repetition ends well.
    project.land(running, [click("a"), click("b")], spread=lambda _: 2.0)
    judge = EventHours._judge

    def gone(self: EventHours, *arguments: Any) -> None:
        bigquery.kill()
        judge(self, *arguments)

    monkeypatch.setattr(client, "RECONNECT_SECONDS", 1.0)
    monkeypatch.setattr(EventHours, "_judge", gone)
    try:
        with pytest.raises(client.WarehouseUnreachableError, match="does not answer"):
            project.catch_up(running + HOUR)
    finally:
        monkeypatch.undo()
        bigquery.start()
    assert project.catch_up(running + HOUR).ok
    project.check()
    assert project.total("accepted") == 52

    # A ledger that does not add up: the command says so by its status.
    stream = project.stream
    stream.warehouse.query(f"UPDATE {stream.tables.ledger} SET accepted = 7 WHERE event = 'click_item_shop'")
    process = start_catch_up(project, running + HOUR)
    output, _ = process.communicate(timeout=220)
    assert process.returncode == 1, output
    assert "does not hold" in output


@pytest.mark.long
@pytest.mark.timeout(600)
def test_beside_a_daemon(settings_for: Any, tmp_path: Path) -> None:
    """Daemon and catch-ups see the same hours due; whoever comes first, all end well and the tables are right."""
    running = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    project = Project(settings_for(first_hour=running - 4 * HOUR), tmp_path)
    for back in (4, 3, 2, 1):
        project.land(running - back * HOUR, [click(f"{back}-{i % 30}") for i in range(40)])
    log = (tmp_path / "daemon.log").open("wb")
    daemon = subprocess.Popen(
        [Path(sys.executable).parent / "dagster-daemon", "run", "-m", "dataplatform.definitions"],
        env=environment(project) | {"DAGSTER_HOME": str(project.settings.data_dir / "dagster")},
        stdout=log,
        stderr=log,
    )
    try:
        with dagster_instance(project.settings) as instance:
            deadline = time.monotonic() + 240
            while not instance.get_runs() and time.monotonic() < deadline:
                time.sleep(0.2)
            # The daemon's sensor has asked for a run. More is due from now on, too.
            project.land(running - 2 * HOUR, [click("late"), click("1-7")])
            for _ in range(2):
                beside = [start_catch_up(project, running) for _ in range(2)]
                for process in beside:
                    output, _ = process.communicate(timeout=200)
                    assert process.returncode == 0, output
                project.write("events/shop/click_item_shop.yaml", CLICK.replace("max: 100", "max: 50"))
            while unfinished_runs(instance, "events") and time.monotonic() < deadline:
                time.sleep(0.5)
            runs = instance.get_runs()
            assert {run.status.value for run in runs} == {"SUCCESS"}
            assert any("dagster/sensor_name" in run.tags for run in runs)
    finally:
        daemon.terminate()
        daemon.wait(60)
        log.close()
    project.check()


def test_the_lease_of_a_dead_process_is_free_and_a_live_one_is_waited_for(project: Project) -> None:
    file = project.stream.landing.conditional("lease.json")
    with Lease(file).hold("first"), pytest.raises(Exception, match="first has held the lease"):  # noqa: SIM117
        with Lease(file).hold("second", wait_seconds=0.2):
            pass
    assert Lease(file).holder() is None
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom dataplatform.landing import open_landing\n"
        "from dataplatform.lease import Lease\nfrom dataplatform.settings import Settings\n"
        "file = open_landing(Settings(), 'events').conditional('lease.json')\n"
        "with Lease(file).hold('other'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(project), stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    holder = Lease(file).holder()
    assert holder is not None
    assert (holder.owner, holder.pid, holder.alive) == ("other", other.pid, True)
    other.kill()
    other.wait()
    with Lease(file).hold("third", wait_seconds=5) as lease:
        lease.check()
        assert isinstance(lease.holder(), Holder)
