"""The partition of a document in its BigQuery tables: a function of its `_id`, so that a MERGE can name the partitions it needs.

The rule. The partition column is a DATE, partitioned by MONTH.
- `_id` is an ObjectId: the first day of the month in which the ObjectId was made (1970 to 2106). Documents that change are mostly
  young, so an hour's changes meet few partitions. The time inside an ObjectId is only a hint: nothing depends on it being true.
- any other `_id`: one of 256 months from January 2200 on, by the CRC-32 of its canonical Extended JSON.
In total at most 1,900 partitions, below BigQuery's limits (10,000 a table, 4,000 changed by one statement).
"""

import zlib
from datetime import UTC, datetime
from functools import lru_cache

_OBJECT_ID = '{"$oid":"'
_HASHED_YEAR = 2200
_HASHED_MONTHS = 256


def bucket_of(key: str) -> str:
    """Partition (`YYYY-MM-01`) of a document, from the canonical Extended JSON of its `_id`."""
    if key.startswith(_OBJECT_ID) and len(key) == 35:
        return _month_of_day(int(key[9:17], 16) // 86_400)
    number = zlib.crc32(key.encode()) % _HASHED_MONTHS
    return f"{_HASHED_YEAR + number // 12:04d}-{number % 12 + 1:02d}-01"


@lru_cache(maxsize=4096)
def _month_of_day(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-01")
