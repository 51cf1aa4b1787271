"""What contracts say about columns: edges that no query makes, personal data, owners.

Sources outside the warehouse are nodes as well, each a "table" with columns: `event.<service>.<event>` has an event's parameters,
`mongodb.<database>.<collection>` a collection's fields, `mysql.<database>.<table>` (or another kind) what `schemas/sources/` declares.
Below the warehouse `fraud.policy.<policy>` has `condition.<name>`, `rule.<name>` and `level`. So one graph goes from a source to a policy.
Contracts of features and policies are read as plain data: only the names in them are wanted, not what they mean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..contracts.bigquery import PII_MARK, event_schema
from ..contracts.collections import CollectionContract, load_collections_leniently
from ..contracts.documents import read_data
from ..contracts.events import ENVELOPE_FIELDS, EventContract
from ..contracts.fields import columns_of
from ..contracts.load import Contracts, load_contracts_leniently
from ..contracts.sources import EVENT_TARGET, SOURCES_FOLDER, SourceContract, load_sources_leniently
from ..settings import Settings
from .edges import CONTRACT, WHOLE_ROW
from .impact import Node, StoredEdge

FOLDERS = ("collections", "features", "policies", SOURCES_FOLDER)
"""Folders of contracts, beside the events', that declare edges."""

_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'")
_NAME = re.compile(r"(?<![\w$.])[a-z_]\w*(?:\.[a-z_]\w*)?")


def event_table(contract: EventContract) -> str:
    """Name of an event in the graph."""
    return f"event.{contract.service}.{contract.name}"


def declared_edges(
    settings: Settings, contracts: Contracts, discovered: Mapping[str, str] | None = None
) -> Iterator[StoredEdge]:
    """All edges that contracts declare. `discovered`: see `collection_edges`."""
    yield from event_edges(settings, contracts)
    yield from collection_edges(settings, discovered or {})
    yield from source_edges(settings, contracts)
    yield from feature_edges(settings, contracts)
    yield from policy_edges(settings, contracts)


def declared_digest(settings: Settings, contracts: Contracts) -> str:
    """Equal as long as the contracts declare the same."""
    digest = hashlib.sha256(f"{settings.project} {settings.dataset_prefix}".encode())
    for name, contract in sorted(contracts.events.items()):
        digest.update(f"{name} {contract.digest}\n".encode())
    for folder in FOLDERS:
        for file in _files(settings.schemas_dir / folder):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


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


class _Discovered(msgspec.Struct):
    """As much of a typed table's schema, as `mongo_raw.schemas` keeps it, as lineage needs."""

    key: str
    column: str
    fields: list[_Discovered] = msgspec.field(default_factory=list)


def collection_edges(settings: Settings, discovered: Mapping[str, str]) -> Iterator[StoredEdge]:
    """MongoDB field → its place in the raw document and in that of each change → typed column.

    `discovered`: `<database>.<collection>` → JSON of the typed table's schema in force. Where it is missing, the contract's
    fields are told under their own names.
    """
    collections, _ = load_collections_leniently(settings.schemas_dir)
    decoder = msgspec.json.Decoder(_Discovered)
    for namespace, contract in collections.contracts.items():
        source = f"mongodb.{namespace}"
        name = collection_table(contract)
        raw = f"{settings.project}.{settings.dataset('mongo_raw')}.{name}"
        typed = f"{settings.project}.{settings.dataset('mongo')}.{name}"
        if namespace in discovered:
            pairs = list(_paths(decoder.decode(discovered[namespace]).fields))
        else:
            pairs = [(one.path, one.path) for one in contract.fields]
        yield _declared(source, "_id", raw, "_id")
        yield _declared(source, "_id", f"{raw}__changes", "_id")
        yield _declared(source, "_id", typed, "_id")
        for path, column in pairs:
            yield _declared(source, path, raw, f"document.{path}")
            yield _declared(source, path, f"{raw}__changes", f"document.{path}")
            yield _declared(raw, f"document.{path}", typed, column, "TRANSFORMATION")


def collection_table(contract: CollectionContract) -> str:
    """Name of a collection's tables."""
    return f"{contract.database}__{contract.collection}"


def _paths(
    fields: Iterable[_Discovered], above: tuple[str, ...] = (), column: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    for field in fields:
        keys, columns = (*above, field.key), (*column, field.column)
        if field.fields:
            yield from _paths(field.fields, keys, columns)
        else:
            yield ".".join(keys), ".".join(columns)


def source_edges(settings: Settings, contracts: Contracts) -> Iterator[StoredEdge]:
    """Column of another database → event parameter or column of the warehouse, as `schemas/sources/*.yaml` declare it."""
    for contract in _sources(settings):
        for table, name, column, target in contract.flows():
            dataset, to, path = target.split(".", 2)
            if dataset == EVENT_TARGET:
                if (event := contracts.events.get(to)) is not None:
                    in_envelope = path in {field.name for field in ENVELOPE_FIELDS}
                    parameter = path if in_envelope else f"params.{path}"
                    yield _declared(contract.node(table), name, event_table(event), parameter, column.subtype)
            else:
                full = f"{settings.project}.{settings.dataset(dataset)}.{to}"
                yield _declared(contract.node(table), name, full, path, column.subtype)


def _sources(settings: Settings) -> Iterable[SourceContract]:
    return load_sources_leniently(settings.schemas_dir)[0].contracts.values()


def feature_edges(settings: Settings, contracts: Contracts) -> Iterator[StoredEdge]:
    """Event column → feature, and feature → the ratio made of it."""
    for _, document in _documents(settings, "features"):
        target = features_table(settings, str(document.get("entity")))
        key = str(document.get("key"))
        features = [one for one in document.get("features") or () if isinstance(one, dict) and one.get("name")]
        names = {str(one["name"]) for one in features}
        for feature in features:
            name, event, aggregation = str(feature["name"]), feature.get("event"), str(feature.get("aggregation"))
            if event is None:
                for part in (feature.get("of"), feature.get("over")):
                    if part in names:
                        yield _declared(target, str(part), target, name, "TRANSFORMATION", expression=aggregation)
                continue
            by, where = str(feature.get("by") or key), str(feature.get("where") or "")
            value = str(feature.get("of") or ("occurred_at" if aggregation.startswith("time_since") else "event_id"))
            source, columns = _read_by_features(settings, contracts, str(event), {value, by, *_names_in(where)})
            if "." in str(event):
                yield from _change_edges(f"mongodb.{event}", source, columns.values())
            counted = aggregation in ("count", "count_distinct")
            said = _SAID.get(aggregation, f"{aggregation.upper()}({{}})").format(value)
            for column in sorted(_names_in(value) & columns.keys()):
                yield _declared(source, columns[column], target, name, "AGGREGATION", masking=counted, expression=said)
            if by in columns:
                yield _declared(source, columns[by], target, name, "GROUP_BY", kind="INDIRECT", expression=by)
                yield _declared(source, columns[by], target, "entity_key", expression=by)
            for column in sorted(_names_in(where) & columns.keys()):
                yield _declared(source, columns[column], target, name, "CONDITIONAL", kind="INDIRECT", expression=where)


def _read_by_features(
    settings: Settings, contracts: Contracts, event: str, names: Iterable[str]
) -> tuple[str, dict[str, str]]:
    """The table that features of an event are made from, and the columns of it that `names` are.

    Of a collection (`<database>.<collection>`) it is the table of changes; any name is a path of the document there, with `__` for the dot.
    """
    if "." not in event:
        table = f"{settings.project}.{settings.dataset('events')}.{event}"
        return table, {name: name for name in _event_columns(contracts, event)}
    table = f"{settings.project}.{settings.dataset('mongo_raw')}.{event.replace('.', '__', 1)}__changes"
    return table, {name: _OF_CHANGES.get(name) or f"document.{name.replace('__', '.')}" for name in names}


_SAID = {"count_distinct": "COUNT(DISTINCT {})", "mean": "AVG({})"}
"""Aggregations that SQL names otherwise."""
_OF_CHANGES = {"operation": "operation", "document_id": "_id", "event_id": "_id", "occurred_at": "changed_at"}
"""Names that are no fields of the document → columns of the table of changes."""


def _change_edges(collection: str, changes: str, columns: Iterable[str]) -> Iterator[StoredEdge]:
    for column in columns:
        path = column.removeprefix("document.")
        if path != column or path == "_id":
            yield _declared(collection, path, changes, column)


def feature_types(settings: Settings) -> dict[Node, str]:
    """Feature → the type that its contract states, or nothing."""
    return {
        (features_table(settings, str(document.get("entity"))), str(feature["name"])): str(feature.get("type") or "")
        for _, document in _documents(settings, "features")
        for feature in document.get("features") or ()
        if isinstance(feature, dict) and feature.get("name")
    }


def features_table(settings: Settings, entity: str) -> str:
    """The table of an entity's features."""
    return f"{settings.project}.{settings.dataset('fraud')}.features_{entity}"


def policy_table(policy: str) -> str:
    """Name of a policy in the graph."""
    return f"fraud.policy.{policy}"


def policy_edges(settings: Settings, contracts: Contracts) -> Iterator[StoredEdge]:
    """Feature or event column → condition → rule → the policy's level."""
    features = {
        str(document.get("entity")): {str(one.get("name")) for one in document.get("features") or ()}
        for _, document in _documents(settings, "features")
    }
    collections = load_collections_leniently(settings.schemas_dir)[0].contracts
    for file, document in _documents(settings, "policies"):
        policy = str(document.get("policy") or file.stem)
        target = policy_table(policy)
        event = str(document.get("event"))
        columns = {name: name for name in _event_columns(contracts, event)}
        events = f"{settings.project}.{settings.dataset('events')}.{event}"
        if event in collections:  # a policy that judges changes of a collection
            columns = {"__".join(field.keys): field.path for field in collections[event].fields}
            columns["document_id"] = "_id"
            events = f"mongodb.{event}"
        entities = {str(alias): str(entity) for alias, entity in (document.get("entities") or {}).items()}
        conditions = {str(name): str(text) for name, text in (document.get("conditions") or {}).items()}
        rules = {
            f"rule.{rule['name']}": str(rule.get("when") or "")
            for rule in document.get("rules") or ()
            if isinstance(rule, dict) and rule.get("name")
        }
        for made, text in [*((f"condition.{name}", text) for name, text in conditions.items()), *rules.items()]:
            for name in sorted(_names_in(text)):
                alias, _, feature = name.partition(".")
                if feature and alias in entities:
                    table = features_table(settings, entities[alias])
                    known = features.get(entities[alias], set())
                    column = feature if feature in known else "entity_key" if feature == "id" else None
                    if column is not None:
                        yield _declared(table, column, target, made, "TRANSFORMATION", expression=text)
                elif name in conditions:
                    yield _declared(target, f"condition.{name}", target, made, "TRANSFORMATION", expression=text)
                elif name in columns:
                    yield _declared(events, columns[name], target, made, "TRANSFORMATION", expression=text)
        for rule in rules:
            yield _declared(target, rule, target, "level", "TRANSFORMATION")


ASSET = "ASSET"
"""Subtype of the edges from an asset to its table: who makes it, not where its data comes from."""


def asset_table(settings: Settings, asset: str) -> str | None:
    """The table of an asset: keys of two parts are `<dataset>/<table>`."""
    dataset, _, table = asset.partition("/")
    return f"{settings.project}.{settings.dataset(dataset)}.{table}" if table and "/" not in table else None


def asset_node(asset: str) -> str:
    """Name of an asset in the graph."""
    return f"dagster.{asset}"


def asset_edges(settings: Settings, assets: Mapping[str, str]) -> Iterator[StoredEdge]:
    """Dagster asset → all rows of its table. `assets`: key → what is promised of its freshness, or nothing."""
    for asset, promise in sorted(assets.items()):
        if (table := asset_table(settings, asset)) is not None:
            yield _declared(asset_node(asset), WHOLE_ROW, table, WHOLE_ROW, ASSET, kind="INDIRECT", expression=promise)


def promises(settings: Settings, edges: Iterable[StoredEdge]) -> dict[str, str]:
    """Table → what is promised of its freshness: by its asset's policy, else by its contract's objective."""
    found = {edge.target_table or "": edge.expression for edge in edges if edge.subtype == ASSET and edge.expression}
    for contract in load_collections_leniently(settings.schemas_dir)[0].contracts.values():
        table = f"{settings.project}.{settings.dataset('mongo')}.{collection_table(contract)}"
        found[table] = f"{contract.freshness_minutes} min"
    return found


def _names_in(expression: str) -> set[str]:
    """Names, with at most one qualifier, in an expression of features or policies; parameters (`$name`) and texts are none."""
    return set(_NAME.findall(_TEXT.sub("''", expression)))


def _event_columns(contracts: Contracts, event: str) -> set[str]:
    contract = contracts.events.get(event)
    if contract is None:
        return set()
    return {str(column["name"]) for column in event_schema(contract)}


def _documents(settings: Settings, folder: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files of a folder that hold a mapping; what does not is reported where the contracts are checked."""
    for file in _files(settings.schemas_dir / folder):
        data = read_data(file.read_bytes())
        if isinstance(data, dict):
            yield file, data


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml") and file.name[0] != ".")


def _declared(
    source: str,
    path: str,
    target: str,
    column: str,
    subtype: str = "IDENTITY",
    *,
    kind: str = "DIRECT",
    masking: bool = False,
    expression: str = "",
) -> StoredEdge:
    said = expression or ("" if subtype == ASSET else path)
    return StoredEdge(source, path, target, column, kind, subtype, masking, said, 1.0, CONTRACT)


def refined(edges: Iterable[StoredEdge]) -> list[StoredEdge]:
    """The edges without those that a contract tells more exactly.

    A query that reads a field out of a JSON column has an edge from the whole column. Where a contract says which field it is
    (an edge from below that column to the same target), the query's edge goes: else every field would seem to feed every column.
    """
    known = list(edges)
    finer: set[tuple[str, str, str, str]] = set()
    for edge in known:
        if edge.job_id == CONTRACT and edge.type == "DIRECT" and "." in (edge.source_column or ""):
            at = edge.source_column or ""
            while (dot := at.rfind(".")) > 0:
                at = at[:dot]
                finer.add((edge.source_table or "", at, edge.target_table or "", edge.target_column.partition(".")[0]))
    return [
        edge
        for edge in known
        if edge.type != "DIRECT"
        or edge.subtype == "IDENTITY"
        or (
            edge.source_table or "",
            edge.source_column or "",
            edge.target_table or "",
            edge.target_column.partition(".")[0],
        )
        not in finer
    ]


def contract_marks(settings: Settings) -> dict[Node, str]:
    """Columns that contracts mark as personal data: of event tables, of collections, of other databases."""
    contracts, _ = load_contracts_leniently(settings.schemas_dir)
    marks: dict[Node, str] = {}
    for contract in contracts.events.values():
        table = f"{settings.project}.{settings.dataset('events')}.{contract.name}"
        for path in _marked(event_schema(contract), ""):
            marks[table, path] = path.rpartition("__")[2].rpartition(".")[2]
    for namespace, collection in load_collections_leniently(settings.schemas_dir)[0].contracts.items():
        for field in collection.fields:
            if field.pii:
                marks[f"mongodb.{namespace}", field.path] = field.keys[-1]
    for source in _sources(settings):
        for table, name, column, _ in source.flows():
            if column.pii:
                marks[source.node(table), name] = name.rpartition(".")[2]
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
    """The last two parts of a table's name → the team that owns its contract."""
    if not settings.schemas_dir.is_dir():
        return {}
    contracts, _ = load_contracts_leniently(settings.schemas_dir)
    dataset = settings.dataset("events")
    owners = {f"{dataset}.{contract.name}": contract.owner for contract in contracts.events.values()}
    owners |= {f"{contract.service}.{contract.name}": contract.owner for contract in contracts.events.values()}
    for namespace, collection in load_collections_leniently(settings.schemas_dir)[0].contracts.items():
        owners[namespace] = collection.owner
        for dataset in (settings.dataset("mongo_raw"), settings.dataset("mongo")):
            owners[f"{dataset}.{collection_table(collection)}"] = collection.owner
        owners[f"{settings.dataset('mongo_raw')}.{collection_table(collection)}__changes"] = collection.owner
    for source in _sources(settings):
        for name, described in source.tables.items():
            owners.setdefault(f"{source.database}.{name}", described.owner or source.owner)
    for _, document in _documents(settings, "features"):
        owners[f"{settings.dataset('fraud')}.features_{document.get('entity')}"] = str(document.get("owner") or "")
    for file, document in _documents(settings, "policies"):
        owners[f"policy.{document.get('policy') or file.stem}"] = str(document.get("owner") or "")
    return owners
