"""Owns everything that a local stack started, so that nothing is left behind: `python -I -S guard.py DATA_DIR OWNER COMMAND…`.

The guard starts the supervisor (COMMAND) and adopts every process below it whose own parent ended. When a service dies, what it
leaves behind is ended. When the supervisor ends, however that happens, all that is left below the guard is ended, then
the guard itself. When the guard is killed, the supervisor is told by `tether.py` and ends its services in order. It holds the
stack's lock, and so does the supervisor: the lock is free only when both are gone. OWNER is the process whose end ends the
stack too, or 0. Standard library only, so that it stays small and nothing in it can break.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tether import LOCKED, adopt_orphans, end_with_parent  # type: ignore[import-not-found]  # run by path

PATIENCE_SECONDS = 8.0
"""What a left-over process gets between SIGTERM and SIGKILL."""


def main() -> int:
    """Run until the supervisor has ended and nothing is left."""
    data_dir, owner, command = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    lock = os.open(data_dir / "stack.lock", os.O_RDWR | os.O_CREAT, 0o644)
    for attempt in range(20):  # a look at whether the stack runs takes the lock for an instant
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.05 if attempt < 19 else 0)
    else:
        return int(LOCKED)
    if owner:
        end_with_parent(owner)
    adopt_orphans()
    tether = str(Path(__file__).with_name("tether.py"))
    arguments = [sys.executable, "-I", "-S", tether, str(os.getpid()), *command]
    supervisor = subprocess.Popen(arguments, pass_fds=[lock])

    def forward(number: int, frame: object) -> None:  # noqa: ARG001
        supervisor.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)

    condemned: dict[int, float] = {}
    while supervisor.poll() is None:
        time.sleep(0.25)
        if not (data_dir / "stack.lock").exists():  # the folder was deleted: nobody could ever find this stack again
            supervisor.terminate()
        end(children(os.getpid()) - {supervisor.pid}, condemned)
    while left := children(os.getpid()):
        end(left | descendants(os.getpid()), condemned)
        time.sleep(0.1)
    return supervisor.returncode


def end(processes: set[int], condemned: dict[int, float]) -> None:
    """SIGTERM to each process at first sight, SIGKILL after the patience; the dead among our children are reaped."""
    now = time.monotonic()
    for process in processes:
        with contextlib.suppress(ChildProcessError):  # it may be a grandchild
            os.waitpid(process, os.WNOHANG)
        try:
            if process not in condemned:
                condemned[process] = now
                os.kill(process, signal.SIGTERM)
            elif now - condemned[process] > PATIENCE_SECONDS:
                os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            condemned.pop(process, None)


def children(parent: int) -> set[int]:
    """Process ids of the children of a process."""
    try:
        tasks = list(Path(f"/proc/{parent}/task").iterdir())
        return {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        pairs = (line.split() for line in listed.splitlines())
        return {int(pid) for pid, ppid in pairs if int(ppid) == parent}


def descendants(parent: int) -> set[int]:
    """Process ids of everything below a process."""
    found: set[int] = set()
    below = children(parent)
    while below:
        found |= below
        below = {grandchild for child in below for grandchild in children(child)} - found
    return found


if __name__ == "__main__":
    sys.exit(main())
