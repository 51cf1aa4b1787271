"""The supervised stack, with real services: started again when they die, nothing left behind whoever is killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from dataplatform.local.control import down, report
from dataplatform.local.stack import allot_ports, is_running
from dataplatform.settings import Settings

PROGRAM = str(Path(sys.executable).with_name("dataplatform"))


class Stack:
    """`dataplatform …` with a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "DATAPLATFORM_DATA_DIR": str(folder)}

    def run(self, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [PROGRAM, *arguments], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self) -> dict[str, dict]:
        return report(Settings(data_dir=self.folder))

    def runs(self, service: str) -> bool:
        return self.status().get(service, {}).get("state") == "running"

    def memory(self) -> dict:
        return json.loads((self.folder / "stack.json").read_text())

    def processes(self) -> set[int]:
        """Every process that was started for this folder."""
        found = set()
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in line and process.pid != os.getpid():
                found.add(process.pid)
        return found

    def nothing_left(self, seconds: float = 20) -> bool:
        return until(lambda: not self.processes() and not is_running(self.folder), seconds)


def until(holds, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def stack(tmp_path):
    stack = Stack(tmp_path / "data")
    yield stack
    down(stack.folder)
    assert stack.nothing_left()


def test_services_are_kept_running_and_found_again_where_they_were(stack):
    assert stack.run("up", "mongo").startswith("mongo           mongodb://127.0.0.1:")
    first, memory = stack.status()["mongo"], stack.memory()

    os.kill(first["pid"], signal.SIGKILL)
    assert until(lambda: stack.status()["mongo"]["restarts"] == 1 and stack.runs("mongo"), 20)
    second = stack.status()["mongo"]
    assert (second["url"], second["last_exit"]) == (first["url"], "was ended by SIGKILL")
    assert second["pid"] != first["pid"]

    stack.run("up", "mongo")
    stack.run("up", "bigquery")
    shown = json.loads(stack.run("status", "--json"))
    assert shown["mongo"]["pid"] == second["pid"]
    assert shown["bigquery"]["url"] == stack.memory()["settings"]["bigquery_endpoint"]
    assert shown["bigquery"]["project"] == "local"

    assert stack.run("down", "bigquery") == "stopped bigquery\n"
    assert stack.runs("mongo") and not stack.runs("bigquery")
    assert stack.run("down") == "stopped mongo\n"
    assert not stack.runs("mongo")
    stack.run("status", fails=True)

    stack.run("up", "mongo")
    assert stack.memory()["ports"] == memory["ports"]
    assert stack.memory()["settings"] == memory["settings"]
    assert stack.memory()["settings"]["first_hour"]


def test_of_several_at_once_one_starts_the_stack(stack):
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: stack.run("up", "mongo"), range(3)))
    guards = [pid for pid in stack.processes() if "guard.py" in " ".join(psutil.Process(pid).cmdline())]
    assert guards == [stack.memory()["guard"]]


@pytest.mark.parametrize("victims", [["supervisor"], ["guard"], ["guard", "supervisor"]])
def test_no_orphan_when_the_stack_is_killed(stack, victims):
    stack.run("up", "mongo")
    memory = stack.memory()
    for victim in victims:
        os.kill(memory[victim], signal.SIGKILL)
    assert stack.nothing_left()


def test_a_stack_whose_folder_is_deleted_ends(stack):
    stack.run("up", "mongo")
    shutil.rmtree(stack.folder)
    assert stack.nothing_left()


def test_in_the_foreground_it_ends_with_ctrl_c_and_with_a_kill_of_the_command(stack):
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen([PROGRAM, "up", "mongo", "--foreground"], env=stack.environment)
        assert until(lambda: stack.runs("mongo"), 20)
        process.send_signal(number)
        process.wait(20)
        assert stack.nothing_left()


def test_an_unknown_service_is_an_error_with_the_names(stack):
    assert "one of bigquery, mongo" in stack.run("up", "mysql", fails=True)
    assert "no such service" in stack.run("logs", "mysql", fails=True)


def test_a_port_that_is_taken_is_replaced_by_the_next_free_one():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = allot_ports({"b": taken}, {"a": taken, "b": taken})
    assert len(set(ports.values())) == 2
    assert taken not in ports.values()


def test_a_port_is_kept_for_a_stack_before_its_service_has_started():
    asks = "import sys; from dataplatform.local.stack import allot_ports; print(allot_ports({}, {'a': 23456})['a'], flush=True); "
    first = subprocess.Popen([sys.executable, "-c", asks + "sys.stdin.read()"], stdin=-1, stdout=-1, text=True)
    try:
        one = int(first.stdout.readline())
        other = int(subprocess.run([sys.executable, "-c", asks], stdout=-1, text=True, check=True).stdout)
    finally:
        first.stdin.close()
        first.wait()
    assert other > one
