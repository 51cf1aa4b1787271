"""The landing: append-only files by received hour, each hour closed by a manifest, on local disk or an object store.

A *stream* (`events`, `cdc`, `decisions`, …) is a folder of hours; an hour is a folder of immutable files and, once it was
closed, its manifest. `Landing` reads and closes hours, `Writer` makes records durable, `ConditionalFile` is a small file
that two processes can never overwrite unseen. Everything here handles bytes and knows nothing of what they mean.
"""

from .conditional import ConditionalFile, Conflict
from .hours import HourState, Landing, open_landing
from .layout import hour_of
from .manifest import LandedFile, Manifest
from .writer import NonDecreasingClock, OpenFile, WriteFailed, Writer, unique_writer_name

__all__ = [
    "ConditionalFile",
    "Conflict",
    "HourState",
    "LandedFile",
    "Landing",
    "Manifest",
    "NonDecreasingClock",
    "OpenFile",
    "WriteFailed",
    "Writer",
    "hour_of",
    "open_landing",
    "unique_writer_name",
]
