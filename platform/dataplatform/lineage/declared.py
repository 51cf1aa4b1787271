"""What contracts say about columns: edges that no query makes (event parameter → column), personal data, owners.

Sources outside the warehouse are nodes as well: `event.<service>.<event name>` is a table whose columns are the event's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..contracts.bigquery import PII_MARK, event_schema
from ..contracts.events import ENVELOPE_FIELDS, EventContract
from ..contracts.fields import columns_of
from ..contracts.load import Contracts, load_contracts_leniently
from ..settings import Settings
from .impact import Node, StoredEdge


def event_table(contract: EventContract) -> str:
    """Name of an event in the graph."""
    return f"event.{contract.service}.{contract.name}"


def event_edges(settings: Settings, contracts: Contracts) -> Iterator[StoredEdge]:
    """Event parameter → column of `events.<name>`, for all contracts."""
    for contract in contracts.events.values():
        source = event_table(contract)
        target = f"{settings.project}.{settings.dataset('events')}.{contract.name}"
        for field in ENVELOPE_FIELDS:
            yield _declared(source, field.name, target, field.name)
        yield _declared(source, "event_time", target, "occurred_at", "TRANSFORMATION")
        yield _declared(source, "sent_at", target, "occurred_at", "TRANSFORMATION")
        for column in columns_of(contract.params):
            yield _declared(source, ".".join(("params", *column.path)), target, column.name)


def _declared(source: str, path: str, target: str, column: str, subtype: str = "IDENTITY") -> StoredEdge:
    return StoredEdge(source, path, target, column, "DIRECT", subtype, False, path, 1.0, "contract")


def contract_marks(settings: Settings) -> dict[Node, str]:
    """Columns of event tables that contracts mark as personal data."""
    contracts, _ = load_contracts_leniently(settings.schemas_dir)
    marks: dict[Node, str] = {}
    for contract in contracts.events.values():
        table = f"{settings.project}.{settings.dataset('events')}.{contract.name}"
        for path in _marked(event_schema(contract), ""):
            marks[table, path] = path.rpartition("__")[2].rpartition(".")[2]
    return marks


def _marked(columns: list[dict[str, object]], above: str) -> Iterator[str]:
    for column in columns:
        path = f"{above}.{column['name']}" if above else str(column["name"])
        inner = column.get("fields")
        if isinstance(inner, list) and inner:
            yield from _marked(inner, path)
        elif str(column.get("description") or "").endswith(PII_MARK.strip()):
            yield path


def table_owners(settings: Settings) -> Mapping[str, str]:
    """`dataset.table` → the team that owns its contract."""
    if not settings.schemas_dir.is_dir():
        return {}
    contracts, _ = load_contracts_leniently(settings.schemas_dir)
    dataset = settings.dataset("events")
    return {f"{dataset}.{contract.name}": contract.owner for contract in contracts.events.values()}
