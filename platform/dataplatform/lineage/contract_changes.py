"""What a change of contracts takes from its readers: columns that are gone or of another type, and the edges to who reads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from ..contracts.collections import load_collections_leniently
from ..contracts.history import contracts_at, sources_at
from ..contracts.load import Contracts, load_contracts
from ..contracts.sources import load_sources_leniently
from ..settings import Settings
from .declared import declared_edges, feature_types, table_owners
from .impact import Node, StoredEdge

READERS = ("features", "policies")
"""Folders of contracts that read what the others promise: what breaks is who reads it today."""


@dataclass(frozen=True)
class BrokenColumn:
    """A column that a contract gives no more, or gives as another type."""

    node: Node
    what: Literal["gone", "retyped"]


@dataclass(frozen=True)
class ContractChanges:
    """Broken columns, the declared edges of what was promised to who reads it now, and owners by the last two parts of a table's name."""

    broken: tuple[BrokenColumn, ...]
    edges: tuple[StoredEdge, ...]
    owners: Mapping[str, str]


def contract_changes(settings: Settings, reference: str) -> ContractChanges:
    """The changes since a Git commit, branch or tag. Raises ContractError when there is none, or when today's contracts do not hold."""
    old, _ = contracts_at(settings.schemas_dir, reference)
    new = load_contracts(settings.schemas_dir)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in sources_at(settings.schemas_dir, reference).items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        before = settings.model_copy(update={"schemas_dir": folder})
        broken = tuple(broken_columns(contract_columns(before, old), contract_columns(settings, new)))
        owners = {**table_owners(before), **table_owners(settings)}
        for reader in READERS:
            shutil.rmtree(folder / reader, ignore_errors=True)
            if (settings.schemas_dir / reader).is_dir():
                shutil.copytree(settings.schemas_dir / reader, folder / reader)
        return ContractChanges(broken, tuple(declared_edges(before, old)), owners)


def contract_columns(settings: Settings, contracts: Contracts) -> dict[Node, str]:
    """Column of an event, field of a collection, column of a source, feature → its type, as far as its contract states one."""
    found: dict[Node, str] = {}
    for contract in contracts.events.values():
        table = f"{settings.project}.{settings.dataset('events')}.{contract.name}"
        for column in contract.columns:
            found[table, column.name] = f"{column.field.type}{'[]' if column.field.repeated else ''}"
    collections = load_collections_leniently(settings.schemas_dir)[0].contracts
    captured = {f"mongodb.{namespace}" for namespace in collections}  # what these hold, their own contracts say
    for namespace, collection in collections.items():
        for field in collection.fields:
            found[f"mongodb.{namespace}", field.path] = f"{field.type or ''}{'[]' if field.repeated else ''}"
    for source in load_sources_leniently(settings.schemas_dir)[0].contracts.values():
        flows = [(source.node(table), name) for table, name, _, _ in source.flows()]
        found |= {node: "" for node in flows if node[0] not in captured}
    return found | feature_types(settings)


def broken_columns(old: Mapping[Node, str], new: Mapping[Node, str]) -> Iterator[BrokenColumn]:
    """What readers cannot rely on any more."""
    for node, kind in old.items():
        if node not in new:
            yield BrokenColumn(node, "gone")
        elif new[node] != kind:
            yield BrokenColumn(node, "retyped")
