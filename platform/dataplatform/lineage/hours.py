"""Hours of the query log: which of them are due, as `due.Stream` says it. The hours are those in which jobs ended, not those of data.

Which hours were collected stands in `data_catalog.lineage_hours`. An hour that was collected before it was over is due once
more when it is; a running hour, where it is asked for, only while its log has texts that are not known.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..contracts.load import Contracts
from ..due import HOUR, Due, hours_between, ranges
from ..settings import Settings

if TYPE_CHECKING:
    # The client and the parser take longer to import than all definitions; an idle catch-up needs neither.
    from ..warehouse.client import Warehouse

NAME = "lineage"
LINEAGE_ASSETS = ("data_catalog/lineage_queries", "data_catalog/lineage")
COLUMN_ASSETS = ("data_catalog/columns", "data_catalog/pii")
RESOLVER_VERSION = "5"
"""Raised when the resolver tells other edges than before: kept queries are then resolved again."""
NEW_JOBS = "its jobs are new"
OTHER_CONTRACTS = "what contracts declare, or the resolver, changed"
NEW_EDGES = "the graph changed"


class LineageHours:
    """The query log of one environment. Implements `due.Stream`; closes nothing, for jobs that ended do not change."""

    name = NAME

    def __init__(self, settings: Settings, contracts: Contracts, *, warehouse: Warehouse | None = None) -> None:
        self.settings = settings
        self.contracts = contracts
        self._warehouse = warehouse

    @property
    def warehouse(self) -> Warehouse:
        """BigQuery, with jobs that are marked as this bookkeeping's own; made at first use."""
        if self._warehouse is None:
            from .stored import catalog_warehouse

            self._warehouse = catalog_warehouse(self.settings)
        return self._warehouse

    def close(self, until: datetime) -> list[str]:
        """Nothing: the log closes itself."""
        del until
        return []

    def broken(self, until: datetime) -> list[str]:
        """Nothing: no check of lineage blocks."""
        del until
        return []

    def due(self, until: datetime) -> list[Due]:
        """Hours with jobs that were not collected, then the columns that stand on them."""
        from .declared import declared_digest
        from .stored import collected_hours, described_at, unknown_hours

        now = datetime.now(UTC)
        end = min(_hour_of(until), _hour_of(now) + HOUR)
        first = _hour_of(self.settings.first_hour)
        if end <= first:
            return []
        collected = collected_hours(self.warehouse)
        wanted = [hour for hour in hours_between(first, end) if hour not in collected or not collected[hour].whole]
        hours = unknown_hours(self.warehouse, wanted, collected, now)
        digest = declared_digest(self.settings, self.contracts)
        reason = NEW_JOBS
        newest = max(collected.values(), key=lambda one: one.at, default=None)
        if not hours and newest is not None and (newest.declared, newest.resolver) != (digest, RESOLVER_VERSION):
            hours, reason = [max(hour for hour in collected)], OTHER_CONTRACTS
        pieces = [
            Due(LINEAGE_ASSETS, start, stop, reason, _digest(start, stop, digest, RESOLVER_VERSION, newest))
            for start, stop in ranges(hours)
        ]
        if pieces or (newest is not None and (described_at(self.warehouse) or newest.at) <= newest.at):
            cause = [piece.digest for piece in pieces] or [str(newest)]
            pieces.append(Due(COLUMN_ASSETS, None, None, NEW_EDGES, _digest(*cause)))
        return pieces


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr([str(one) for one in parts]).encode()).hexdigest()[:16]
