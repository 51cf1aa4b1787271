"""The manifest of a closed hour: which files it consists of."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .hours import Landing


@dataclass(frozen=True, slots=True, order=True)
class LandedFile:
    """One finished, immutable file. `name` is its path below the stream (`2026-01-31/07/w-000001.ndjson`), `size` in bytes."""

    name: str
    size: int

    @property
    def file_name(self) -> str:
        """The name inside the hour's folder, such as `w-000001.ndjson`."""
        return self.name.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The file's name without its extensions, such as `w-000001`: what records carry as `file`."""
        return self.file_name.partition(".")[0]

    def uri(self, landing: "Landing") -> str:
        """`gs://<bucket>/<stream>/<name>`, which a load job reads on Google Cloud and from the embedded server alike."""
        return f"{landing.uri}/{self.name}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an hour consists of. `digest` identifies the set of files; `closed_at` is when this set was written down (UTC)."""

    hour: datetime
    files: tuple[LandedFile, ...]
    digest: str
    closed_at: datetime

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """The manifest as the JSON text that is stored."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """A stored manifest; `msgspec.ValidationError` or `DecodeError` where the text is no manifest."""
    return _decoder.decode(data)


def digest_of(files: Iterable[LandedFile]) -> str:
    """Identifies a set of files by their sorted names and sizes; contents never change under a name."""
    text = "".join(f"{file.name}\t{file.size}\n" for file in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_decoder = msgspec.json.Decoder(Manifest)
