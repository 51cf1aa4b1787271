"""How many bytes the statements of events make BigQuery read, modelled: what it bills, without asking it.

BigQuery reads the columns a statement names, of the partitions (hours) it cannot leave out, and there of the blocks that may
hold the clustering value it asks for. The model takes the pruning as exact; real blocks hold a little of the neighbouring
events as well. The embedded server counts no bytes, so this is what tests and benchmarks compare.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

TIMESTAMP_BYTES = INT64_BYTES = 8
BOOL_BYTES = 1
STRING_OVERHEAD = 2
"""BigQuery's logical sizes: a STRING is its UTF-8 bytes and 2 more."""
ID_BYTES = 3 * STRING_OVERHEAD + 2 * TIMESTAMP_BYTES + INT64_BYTES
"""A row's hour, received_at and line, and the lengths of event, event_id and file."""


@dataclass(frozen=True, slots=True)
class Share:
    """What `events_raw.received` holds of one event in one hour: rows, and bytes of text by column."""

    hour: datetime
    event: str
    rows: int
    event_bytes: int
    event_id_bytes: int
    file_bytes: int
    payload_bytes: int
    faults_bytes: int

    @property
    def ids(self) -> int:
        """Bytes of the columns that decide duplicates: hour, received_at, event, event_id, file, line."""
        return self.rows * ID_BYTES + self.event_bytes + self.event_id_bytes + self.file_bytes

    @property
    def bodies(self) -> int:
        """Bytes of what is read besides of rows that are judged: payload, faults, refused."""
        return self.rows * (STRING_OVERHEAD + BOOL_BYTES) + self.payload_bytes + self.faults_bytes


SHARES = """\
SELECT hour, event, COUNT(*) AS `rows`, SUM(BYTE_LENGTH(event)) AS event_bytes,
  SUM(IFNULL(BYTE_LENGTH(event_id), 0)) AS event_id_bytes, SUM(BYTE_LENGTH(file)) AS file_bytes,
  SUM(BYTE_LENGTH(payload)) AS payload_bytes, SUM(BYTE_LENGTH(TO_JSON_STRING(faults))) AS faults_bytes
FROM {received}
WHERE hour >= @start AND hour < @end
GROUP BY hour, event
"""
"""Query that measures the shares of a range of hours; `{received}` is the table, quoted."""


def duplicates_bytes(shares: Iterable[Share], start: datetime, end: datetime, lookback_hours: int) -> int:
    """Bytes that `sql.duplicates_statement` reads, once for all events: the ids of the range and of its look-back."""
    earliest = start - timedelta(hours=lookback_hours)
    return sum(share.ids for share in shares if earliest <= share.hour < end)


def table_bytes(shares: Iterable[Share], start: datetime, end: datetime, event: str | None = None) -> int:
    """Bytes of a range of hours that are read to judge it: of one event (what `sql.accepted_statement` reads), or of all."""
    return sum(
        share.ids + share.bodies for share in shares if start <= share.hour < end and event in (None, share.event)
    )
