"""The contract of a MongoDB collection: where it is, who answers for it, and what is known of its fields.

collections/<database>.<collection>.yaml   one contract a file
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic import Field as PydanticField

from .documents import Document, dotted, read_document
from .errors import ContractError, Problem

COLLECTIONS_FOLDER = "collections"

type ColumnType = Literal["STRING", "INT64", "FLOAT64", "NUMERIC", "BOOL", "TIMESTAMP", "BYTES", "JSON"]
_Text = Annotated[str, StringConstraints(min_length=1)]
_NO_DATABASE = re.compile(r'[\x00/\\. "$]')
_NO_COLLECTION = re.compile(r"[\x00$]|\.\.|^\.|\.$")
"""What is in no name of MongoDB's: the driver refuses such a name when it is used, which would stop the other collections."""


class CollectionField(BaseModel):
    """What is known of a field. Everything that is not said here is discovered from the documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: _Text = PydanticField(description="Keys from the document down, with dots; arrays are passed through.")
    type: ColumnType | None = PydanticField(
        None, description="Type of the column, fixed from the start; else discovered."
    )
    repeated: bool = PydanticField(False, description="With a type: a list of values of it.")
    pii: bool = PydanticField(False, description="Holds personal data; the column is marked and followed by lineage.")
    description: str = PydanticField("", description="What it means; becomes the column's description.")

    @property
    def keys(self) -> tuple[str, ...]:
        """The path as keys."""
        return tuple(self.path.split("."))


class SnapshotLimits(BaseModel):
    """How a snapshot may load the source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents_per_second: float = PydanticField(
        750, gt=0, description="Most documents a second; lowered by itself while the source's latency is raised."
    )
    chunk_documents: int = PydanticField(
        10_000, ge=1, le=1_000_000, description="Documents of a chunk, after each of which the snapshot can resume."
    )


class CollectionContract(BaseModel):
    """A collection that is captured. Its tables, assets and checks are made from this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")] = PydanticField(
        description="Name of the connection; its URI is DATAPLATFORM_CONNECTIONS__<NAME>, never here."
    )
    database: _Text = PydanticField(description="Database of the collection.")
    collection: _Text = PydanticField(description="The collection.")
    owner: _Text = PydanticField(description="The team that answers for it, as in owners.yaml.")
    description: _Text = PydanticField(description="What a document is, in a sentence or two.")
    domain: str = PydanticField("", description="The business domain it belongs to.")
    deletes: Literal["drop", "keep"] = PydanticField(
        "drop", description="Deleted documents: drop the row of the typed table, or keep it with `_deleted` set."
    )
    fields: tuple[CollectionField, ...] = PydanticField((), description="What is known of fields.")
    snapshot: SnapshotLimits = PydanticField(SnapshotLimits(), description="Limits of the snapshot.")
    history_days: int = PydanticField(90, ge=1, description="How long every change is kept in the history table.")
    freshness_minutes: int = PydanticField(
        120, ge=1, description="Objective: from a change at the source to the typed table."
    )

    @property
    def namespace(self) -> str:
        """`<database>.<collection>`, as MongoDB calls it."""
        return f"{self.database}.{self.collection}"


@dataclass(frozen=True)
class Collections:
    """The contracts of a folder by `<database>.<collection>`; `files` gives each one's file."""

    contracts: Mapping[str, CollectionContract] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def connections(self) -> tuple[str, ...]:
        """Names of the connections, in order."""
        return tuple(sorted({contract.connection for contract in self.contracts.values()}))

    def of(self, connection: str) -> dict[str, CollectionContract]:
        """The contracts of one connection."""
        return {name: one for name, one in self.contracts.items() if one.connection == connection}


def load_collections(root: Path) -> Collections:
    """Read `<root>/collections`; raises ContractError with all mistakes of all files if there is one."""
    collections, problems = load_collections_leniently(root)
    if problems:
        raise ContractError(problems)
    return collections


def load_collections_leniently(root: Path) -> tuple[Collections, list[Problem]]:
    """The contracts of the files that hold, and what is wrong with the others. No folder means no collections."""
    folder = root / COLLECTIONS_FOLDER
    contracts: dict[str, CollectionContract] = {}
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            content = file.read_bytes()
        except OSError as error:
            problems.append(Problem(file, 0, "", "unreadable", error.strerror or str(error), "make it readable"))
            continue
        contract, mistakes = _parse(file, read_document(content))
        problems += mistakes
        if contract is None:
            continue
        if contract.namespace in contracts:
            message = f"`{contract.namespace}` is also the contract in {files[contract.namespace]}"
            problems.append(Problem(file, 1, "", "duplicate_collection", message, "remove one of the two files"))
            continue
        contracts[contract.namespace] = contract
        files[contract.namespace] = file
    return Collections(contracts, files), problems


def _parse(file: Path, document: Document) -> tuple[CollectionContract | None, list[Problem]]:
    problems = [Problem(file, m.line, dotted(m.path), m.code, m.message, m.fix) for m in document.mistakes]
    if problems:
        return None, problems
    if not isinstance(document.data, dict):
        return None, [Problem(file, 1, "", "not_a_mapping", "a mapping is meant", "write `key: value` lines")]
    try:
        contract = CollectionContract.model_validate(document.data)
    except ValidationError as error:
        return None, mistakes_of(error, file, document, CollectionContract, "a collection's contract", "docs/cdc.md")
    for key, name, refused in (
        ("database", contract.database, _NO_DATABASE),
        ("collection", contract.collection, _NO_COLLECTION),
    ):
        if refused.search(name):
            message = f"`{name}` is no name that MongoDB gives a {key}"
            fix = f"write the {key}'s name as the source has it"
            problems.append(Problem(file, document.line_of((key,)), key, "bad_name", message, fix))
    expected = f"{contract.namespace}.yaml".replace("/", "_")
    if file.with_suffix(".yaml").name != expected:
        fix = f"rename the file to {expected}"
        problems.append(Problem(file, 1, "", "wrong_file_name", f"the contract is of {contract.namespace}", fix))
    seen: set[str] = set()
    for index, one in enumerate(contract.fields):
        line = document.line_of(("fields", index))
        if one.path in seen:
            problems.append(
                Problem(file, line, f"fields[{index}]", "duplicate_field", f"`{one.path}` twice", "keep one")
            )
        seen.add(one.path)
        if any(not key for key in one.keys) or one.path == "_id":
            fix = "write keys with single dots between them; `_id` is always there"
            problems.append(Problem(file, line, f"fields[{index}].path", "bad_path", f"`{one.path}` is no path", fix))
    return (None, problems) if problems else (contract, [])


def mistakes_of(
    error: ValidationError, file: Path, document: Document, model: type[BaseModel], what: str, documentation: str
) -> list[Problem]:
    """What a model refuses in a file, each with its line and a way out. `what` the file is, for people."""
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if isinstance(part, str | int))
        if detail["type"] == "missing":
            described = model.model_fields.get(str(path[-1]))
            meaning = f" ({described.description})" if described is not None else ""
            message, fix = f"`{path[-1]}` is missing", f"add a line `{path[-1]}: …`{meaning}"
        elif detail["type"] == "extra_forbidden":
            message = f"`{path[-1]}` is no key of {what}"
            fix = f"take it out; the keys are {', '.join(model.model_fields)}"
        else:
            message, fix = detail["msg"], f"{documentation} lists the keys with their meaning"
        problems.append(Problem(file, document.line_of(path), dotted(path), detail["type"], message, fix))
    return problems
