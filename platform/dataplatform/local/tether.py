"""Runs a command that ends when its parent does: `python -I -S tether.py PARENT_PID COMMAND…`.

Linux tells a process of its parent's death by a signal that survives `exec`, so nothing stays between the two. Elsewhere the
command simply runs; its process group is then ended by whoever started it. Standard library only: it starts in 20 ms.
"""

import os
import signal
import sys

LOCKED = 75
"""Exit status of the guard when another stack holds the lock."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Have signal `number` sent to this process when its parent `parent` ends; ends at once if that has happened already."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(0)


def adopt_orphans() -> None:
    """Make descendants whose own parent has ended children of this process, not of init."""
    if sys.platform == "linux":
        _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # the command is the caller's own
