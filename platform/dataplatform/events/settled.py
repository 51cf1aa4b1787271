"""Up to where nothing is due: the days that a look at the warehouse may leave out, because nothing of them can have changed.

What is due of an hour depends on its manifest, on the contracts, and on what the warehouse holds of it and of its look-back.
So a day of which nothing was due stays so until one of these changes. The mark of the settled days, a file in the landing,
therefore names the contracts and each day's manifests; and whoever changes the warehouse takes the day and all later ones off
the mark before it begins (`lower`), under the stream's lease. (Hours of the look-back that it loads as well are due themselves, so
their days were not settled.) A look that meets such work notes nothing.

Only `EventHours` writes these tables. What somebody else did to them by hand is found by the next whole look: that of every
`dataplatform catch-up`, and one a day of the sensors.
"""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import msgspec

from ..landing import ConditionalFile, Conflict
from ..lease import Lease

WHOLE_LOOK_EVERY = timedelta(hours=24)

_log = logging.getLogger(__name__)

type Days = Mapping[date, str]
"""Day (UTC) → what identifies the manifests of its closed hours."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Nothing was due of `days` as they were then, by what `key` stands for. `whole_at` is the time of the last whole look (UTC)."""

    key: str
    days: dict[date, str]
    whole_at: datetime
    writing: str
    """Tells two writings of one content apart, so that a look notices that there was a change meanwhile."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look under way. `start` is the first day to ask about; None where nothing can have changed."""

    start: date | None
    key: str
    days: Days
    whole_at: datetime
    mark: Mark | None
    version: str | None
    undisturbed: bool
    """Nobody was at work when it began."""


class Settled:
    """The mark of one stream."""

    def __init__(self, file: ConditionalFile, lease: Lease) -> None:
        """`lease` is the one that those who work on the tables hold."""
        self._file = file
        self._lease = lease

    def look(self, key: str, days: Days, now: datetime, *, whole: bool = False) -> Look:
        """Begin a look at `days`; of all of them if it has to be a whole one, or the last such was long ago.

        `key` stands for all else that decides what is due: the contracts and settings.
        """
        mark, version = self._read()
        # In this order: whoever begins after it was free writes the mark, which `note` then notices. A dead holder counts as
        # one at work: the statements that it left behind may be.
        undisturbed = self._lease.holder() is None
        known = mark if mark is not None and mark.key == key and now - mark.whole_at < WHOLE_LOOK_EVERY else None
        if whole or known is None:
            return Look(min(days, default=None), key, days, now, mark, version, undisturbed)
        start = min((day for day, identity in days.items() if known.days.get(day) != identity), default=None)
        return Look(start, key, days, known.whole_at, mark, version, undisturbed)

    def note(self, look: Look, first_due: date | None) -> None:
        """End a look: the days before `first_due` (all, where nothing is due) are settled, if nobody was at work meanwhile."""
        settled = {day: identity for day, identity in look.days.items() if first_due is None or day < first_due}
        mark = Mark(look.key, settled, look.whole_at, uuid.uuid4().hex)
        present = look.mark
        if not look.undisturbed or (
            present is not None
            and (present.key, present.days, present.whole_at) == (mark.key, mark.days, mark.whole_at)
        ):
            return
        try:
            self._file.write(msgspec.json.encode(mark), look.version)
        except Conflict:
            pass
        except Exception as error:  # it only saves the next look some work
            _log.warning("what is settled was not noted in %s: %s", self._file.path, error)

    def lower(self, day: date) -> None:
        """Take this day and all later ones off; call it under the lease before their rows, or what they stand on, change."""
        while True:
            mark, version = self._read()
            days = {} if mark is None else {one: identity for one, identity in mark.days.items() if one < day}
            key, whole_at = ("", datetime.fromtimestamp(0, UTC)) if mark is None else (mark.key, mark.whole_at)
            try:
                # Written even where nothing is taken off: a look that began before must notice.
                self._file.write(msgspec.json.encode(Mark(key, days, whole_at, uuid.uuid4().hex)), version)
            except Conflict:
                continue
            return

    def _read(self) -> tuple[Mark | None, str | None]:
        stored = self._file.read()
        if stored is None:
            return None, None
        try:
            return msgspec.json.decode(stored[0], type=Mark), stored[1]
        except msgspec.MsgspecError:
            return None, stored[1]
