"""A small file with compare-and-set: what was read must still be there when the next content is written."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from .durable import make_folder, replace_file

type Version = str
"""Opaque; None stands for "there is no such file"."""


class Conflict(Exception):
    """The file changed between the read and the write: read again, decide again."""


class ConditionalFile:
    """One file, read and written as a whole, durable when `write` returns.

    Object stores compare entity tags. The local disk has no such request, so there the folder is locked (flock, one
    machine) while the present content's hash is compared and the new file renamed into place.
    """

    def __init__(self, store: Any, path: str, root: Path | None = None) -> None:
        """`path` is below the store's root; `root` is that root's folder where the store is the local disk."""
        self.store = store
        self.path = path
        self.local = None if root is None else root / path

    def read(self) -> tuple[bytes, Version] | None:
        """Content and version, or None where the file does not exist."""
        if self.local is not None:
            try:
                data = self.local.read_bytes()
            except FileNotFoundError:
                return None
            return data, _hash(data)
        try:
            found = obstore.get(self.store, self.path)
        except FileNotFoundError:
            return None
        return bytes(found.bytes()), _tag(found.meta)

    def write(self, data: bytes, expected: Version | None) -> Version:
        """Replace the version that was read (None: create the file); the new version.

        Raises Conflict where another content is there. A write whose answer was lost and that is sent again finds its
        own bytes and succeeds; who must know *who* wrote them puts that into the content.
        """
        if self.local is not None:
            return self._write_local(self.local, data, expected)
        try:
            mode: Any = "create" if expected is None else json.loads(expected)
            return _tag(obstore.put(self.store, self.path, data, mode=mode))
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            present = self.read()
            if present is not None and present[0] == data:
                return present[1]
            raise Conflict(self.path) from None

    def _write_local(self, path: Path, data: bytes, expected: Version | None) -> Version:
        make_folder(path.parent)
        with _locked(path.parent):
            present = self.read()
            version = None if present is None else present[1]
            if version == _hash(data):
                return version
            if version != expected:
                raise Conflict(self.path)
            replace_file(path, data)
        return _hash(data)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hash(data: bytes) -> Version:
    return hashlib.sha256(data).hexdigest()


def _tag(meta: Any) -> Version:
    return json.dumps({key: meta[key] for key in ("e_tag", "version") if meta[key] is not None})
