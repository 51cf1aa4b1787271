"""Where a change stands in the order of its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from bson import Timestamp

LAST_ORDINAL = 9_999_999
"""After everything of its cluster time, such as what a snapshot read that was begun then."""


class Position(NamedTuple):
    """(seconds, increment) of the cluster time, and the ordinal within it, counted per collection.

    All events of a transaction carry one cluster time, which is why the ordinal is needed. It is counted per collection,
    so that it stays the same when other collections join or leave the stream. The text form orders as the position does.
    """

    t: int
    i: int
    ordinal: int = 0

    def __str__(self) -> str:
        return "%010d.%010d.%07d" % self  # noqa: UP031  # a third faster, and every change has one

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Position of its text form; ValueError where the text is none."""
        t, i, ordinal = text.split(".")
        return cls(int(t), int(i), int(ordinal))

    @classmethod
    def reached(cls, time: Timestamp) -> "Position":
        """The last position of a cluster time: what a reader has seen who was answered when the source had reached it."""
        return cls(time.time, time.inc, LAST_ORDINAL)

    @property
    def time(self) -> datetime:
        """The source's clock at this position (UTC, whole seconds)."""
        return datetime.fromtimestamp(self.t, UTC)


@dataclass(slots=True)
class Ordinals:
    """Counts the events of each collection within the present cluster time; what it holds is kept beside the resume token."""

    t: int = 0
    i: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def next(self, time: Timestamp, namespace: str) -> Position:
        """Position of the next event of the stream."""
        t, i = time.time, time.inc
        if t != self.t or i != self.i:
            self.t, self.i = t, i
            self.counts.clear()
        ordinal = self.counts.get(namespace, 0)
        self.counts[namespace] = ordinal + 1
        return Position(t, i, ordinal)

    def dump(self) -> dict[str, object]:
        """Plain data for the position file."""
        return {"t": self.t, "i": self.i, "counts": dict(self.counts)}

    @classmethod
    def load(cls, data: Mapping[str, object]) -> "Ordinals":
        """What `dump` wrote."""
        counts = data.get("counts")
        assert isinstance(counts, dict)
        return cls(int(str(data["t"])), int(str(data["i"])), {str(k): int(v) for k, v in counts.items()})
