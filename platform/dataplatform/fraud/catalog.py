"""All that a checkout declares for fraud detection: features of entities, policies, and the events both are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..contracts.collections import CollectionContract, load_collections_leniently
from ..contracts.errors import ContractError, Problem
from ..contracts.events import EventContract
from ..contracts.load import Contracts, load_contracts
from .documents import DOCUMENT_ID, OPERATION, OPERATIONS
from .fact_types import DeclaredFact, TypedPolicy
from .features import EntityFeatures, load_entities
from .policies import key_columns, load_policies
from .tree import VALUE_TYPES, Policy

FEATURES_FOLDER = "features"
POLICIES_FOLDER = "policies"
ENVELOPE: Mapping[str, str] = {
    "event_id": "STRING",
    "user_id": "STRING",
    "device_id": "STRING",
    "session_id": "STRING",
    "platform": "STRING",
    "app_version": "STRING",
}
"""Columns of every event that features and policies may read."""


class BrokenCollectionError(ContractError):
    """Features or policies need collections whose own contracts do not hold; everything but fraud detection can go on."""


@dataclass(frozen=True)
class Catalog:
    """`columns` are, by event or collection (`shop.articles`), what its columns are; `entities` and `policies` by name."""

    columns: Mapping[str, Mapping[str, DeclaredFact]]
    entities: Mapping[str, EntityFeatures]
    policies: Mapping[str, TypedPolicy]

    def key_columns(self, policy: Policy) -> dict[str, str]:
        """Role in the policy → the column of its event that holds the entity's key."""
        return key_columns(policy, self.columns[policy.event], self.entities)

    def roles(self, policy: Policy) -> dict[str, EntityFeatures]:
        """Role in the policy (such as sender) → the features of its entity."""
        return roles_of(policy, self.entities)


def load_catalog(schemas: Path, contracts: Contracts | None = None) -> Catalog:
    """Read and check features and policies against the contracts of events; ContractError with every mistake.

    A collection whose contract does not hold matters only to who names it: BrokenCollectionError then, with that file's mistakes first.
    """
    contracts = contracts or load_contracts(schemas)
    columns = {name: event_columns(contract) for name, contract in contracts.events.items()}
    collections, broken = load_collections_leniently(schemas)
    columns |= {name: change_columns(each) for name, each in collections.contracts.items()}
    entities, problems = load_entities(schemas / FEATURES_FOLDER, events=columns)
    unread = {file.stem for file in (schemas / FEATURES_FOLDER).glob("*.yaml")} - entities.keys()
    problems += _owners(schemas / FEATURES_FOLDER, entities, contracts)
    policies: dict[str, TypedPolicy] = {}
    try:
        policies = load_policies(schemas / POLICIES_FOLDER, events=columns, entities=entities, broken=unread)
    except ContractError as error:
        problems += error.problems
    if problems and broken:
        raise BrokenCollectionError(broken + problems)
    if problems:
        raise ContractError(problems)
    return Catalog(columns, entities, policies)


def event_columns(contract: EventContract) -> dict[str, DeclaredFact]:
    """What an event's columns are; of the type REPEATED for lists, which no condition can read."""
    columns = {name: DeclaredFact(held, "", "event") for name, held in ENVELOPE.items()}
    for column in contract.columns:
        held = "REPEATED" if column.field.repeated else column.field.type
        columns[column.name] = DeclaredFact(held, "", "event", column.field.values)
    return columns


def change_columns(contract: CollectionContract) -> dict[str, DeclaredFact]:
    """What a change of a collection is to a policy: the operation, the document's `_id` as a text, and its contracted fields.

    A path `seller.name` is the fact `seller__name`. Fields of lists, and those without a type, cannot be compared.
    """
    columns = {
        OPERATION: DeclaredFact("STRING", "", "change", OPERATIONS),
        DOCUMENT_ID: DeclaredFact("STRING", "", "change"),
    }
    for field in contract.fields:
        if field.type in VALUE_TYPES and not field.repeated:
            columns["__".join(field.keys)] = DeclaredFact(field.type or "", "", "change")
    return columns


def roles_of(policy: Policy, entities: Mapping[str, EntityFeatures]) -> dict[str, EntityFeatures]:
    """Role → entity: as the policy says, else every entity under its own name."""
    if not policy.entities:
        return dict(entities)
    return {role: entities[name] for role, name in policy.entities if name in entities}


def _owners(root: Path, entities: Mapping[str, EntityFeatures], contracts: Contracts) -> list[Problem]:
    problems = []
    for entity in entities.values():
        file = root / f"{entity.entity}.yaml"
        for feature in entity.features:
            if feature.owner not in contracts.owners:
                message = f"{feature.name} has the owner {feature.owner or 'none'}"
                problems.append(Problem(file, 0, feature.name, "unknown_owner", message, "name one of owners.yaml"))
            if not feature.description:
                message = f"{feature.name} has no description"
                problems.append(Problem(file, 0, feature.name, "missing", message, "say what it is, in a sentence"))
    return problems
