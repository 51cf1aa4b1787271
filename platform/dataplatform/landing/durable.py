"""Local disk: the calls after which bytes and names survive a power cut, and the locks that tell a live writer."""

import contextlib
import errno
import fcntl
import os
import secrets
import time
from pathlib import Path

from .layout import OPEN_SUFFIX, PART_SUFFIX


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (created, renamed and removed files)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that each name is durable; nothing where it exists."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, however many calls that takes; OSError (ENOSPC, EFBIG, EDQUOT…) where that cannot be."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content at once: readers see the old or the new one, also after a power cut."""
    part = _write_part(path, data)
    try:
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_file(path: Path, data: bytes) -> None:
    """Create a file with all its content at once; FileExistsError where the name is taken."""
    part = _write_part(path, data)
    try:
        os.link(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _write_part(path: Path, data: bytes) -> Path:
    part = path.with_name(f"{path.name}.{secrets.token_hex(6)}{PART_SUFFIX}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return part


def lock(descriptor: int) -> bool:
    """Take the lock that says "a live process writes this"; False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still what stands under that name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def open_for_append(path: Path) -> int:
    """Create `<path>.open`, locked by this process; the descriptor. FileExistsError where either name is taken."""
    make_folder(path.parent)
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    growing = path.with_name(path.name + OPEN_SUFFIX)
    while True:
        descriptor = os.open(growing, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            # Between the creation and the lock someone may take the file for a dead writer's and remove it. Who does holds the
            # lock until it is removed, so the name is free again when we have it.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_at(descriptor, growing):
                sync_folder(path.parent)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def finish(descriptor: int, path: Path) -> None:
    """Rename `<path>.open` to `path`, durably, and let go of it. The content must be durable already."""
    growing = path.with_name(path.name + OPEN_SUFFIX)
    try:
        if os.fstat(descriptor).st_size == 0:
            growing.unlink(missing_ok=True)
        else:
            growing.rename(path)
        sync_folder(path.parent)
    finally:
        os.close(descriptor)


def finish_if_dead(growing: Path) -> bool:
    """Finish the open file of a dead writer: cut a torn last line, rename. False where a live writer holds it."""
    try:
        descriptor = os.open(growing, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    if not lock(descriptor):
        os.close(descriptor)
        return False
    if not is_at(descriptor, growing):
        os.close(descriptor)
        return True
    whole = _whole_lines(descriptor)
    if whole != os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, whole)
    os.fsync(descriptor)
    finish(descriptor, growing.with_name(growing.name.removesuffix(OPEN_SUFFIX)))
    return True


def remove_if_left(part: Path, *, older_than_seconds: float = 3600) -> None:
    """Remove what a dead process was putting in place as a whole: nobody was ever told that it is there."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - part.stat().st_mtime > older_than_seconds:
            part.unlink()


def _whole_lines(descriptor: int, block: int = 1 << 16) -> int:
    """Length up to and with the last newline of a file, in bytes."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - block)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
