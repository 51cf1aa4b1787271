"""The contracts of a folder: read, checked against each other and the vocabulary, every mistake with its place.

vocabulary.yaml                  actions, objects, services: word → what it means
owners.yaml                      team → description, email
events/<service>/<name>.yaml     one contract a file
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic import Field as PydanticField

from .documents import Document, Mistake, dotted, read_data, read_document
from .documents import Path as DocumentPath
from .errors import ContractError, Problem
from .events import ENVELOPE_COLUMNS, EventContract, Word
from .fields import FIELD_TYPES, Field
from .rules import field_mistakes

VOCABULARY_FILE = "vocabulary.yaml"
OWNERS_FILE = "owners.yaml"
EVENTS_FOLDER = "events"

type Sources = Mapping[str, bytes]
"""Path inside the folder of the contracts (with `/`) → content of the file."""

_FIELDS: TypeAdapter[tuple[Field, ...]] = TypeAdapter(tuple[Field, ...])
_Text = Annotated[str, StringConstraints(min_length=1)]


class Vocabulary(BaseModel):
    """The words that the names of events are made of, each with what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    actions: dict[Word, _Text] = PydanticField(default_factory=dict, description="What happens: verbs.")
    objects: dict[Word, _Text] = PydanticField(default_factory=dict, description="What it happens to: nouns.")
    services: dict[Word, _Text] = PydanticField(default_factory=dict, description="Where it happens.")


class Owner(BaseModel):
    """A team that answers for contracts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: _Text = PydanticField(description="What the team does.")
    email: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")] = PydanticField(
        description="Where the team is reached."
    )


@dataclass(frozen=True)
class Contracts:
    """All that a folder of contracts says. `events` is in the order of the names; `files` gives each event's file."""

    events: Mapping[str, EventContract] = field(default_factory=dict)
    owners: Mapping[str, Owner] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    files: Mapping[str, Path] = field(default_factory=dict)


def load_contracts(root: Path) -> Contracts:
    """Read the folder `root`; raises ContractError with all mistakes of all files if there is one."""
    contracts, problems = load_contracts_leniently(root)
    if problems:
        raise ContractError(problems)
    return contracts


def load_contracts_leniently(root: Path) -> tuple[Contracts, list[Problem]]:
    """Read the folder `root`; the contracts of the files that hold, and what is wrong with the others.

    Never raises for what is in the files: a service goes on with the good ones.
    """
    sources, problems = read_sources(root)
    contracts, more = parse_contracts(sources, root)
    return contracts, [*problems, *more]


def read_sources(root: Path) -> tuple[Sources, list[Problem]]:
    """The contract files of a folder as bytes, and what could not be read."""
    if not root.is_dir():
        fix = "give the folder of the contracts (the setting `schemas_dir`)"
        return {}, [Problem(root, 0, "", "no_folder", "no such folder", fix)]
    sources: dict[str, bytes] = {}
    problems: list[Problem] = []
    candidates = [root / VOCABULARY_FILE, root / OWNERS_FILE, *sorted((root / EVENTS_FOLDER).rglob("*"))]
    for file in candidates:
        if file.name.startswith(".") or file.suffix not in {".yaml", ".yml"} or not file.is_file():
            continue
        try:
            sources[file.relative_to(root).as_posix()] = file.read_bytes()
        except OSError as error:
            fix = "give the file to the user that runs this"
            problems.append(Problem(file, 0, "", "unreadable", error.strerror or str(error), fix))
    return sources, problems


def parse_contracts(sources: Sources, root: Path = Path()) -> tuple[Contracts, list[Problem]]:
    """The contracts that the files hold, and every mistake. `root` is only put before the paths."""
    problems: list[Problem] = []
    vocabulary = _parse_vocabulary(sources, root, problems)
    known_owners = _parse_owners(sources, root, problems)
    owners = None if any(problem.file == root / OWNERS_FILE for problem in problems) else known_owners
    found: dict[str, list[tuple[str, EventContract]]] = {}
    for path in sorted(sources):
        if not path.startswith(f"{EVENTS_FOLDER}/"):
            continue
        contract = _good_event(sources[path])
        if contract is None or _context_mistakes(path, _words(contract), contract, vocabulary, owners):
            document = read_document(sources[path])
            contract, mistakes = _validate(EventContract, document)
            mistakes += _context_mistakes(path, document.data, contract, vocabulary, owners)
            problems += _located(root / path, document, mistakes)
        if contract is not None:
            found.setdefault(contract.name, []).append((path, contract))
            if len(found[contract.name]) > 1:
                other = root / found[contract.name][0][0]
                message = f"`{contract.name}` is also the contract in {other}"
                problems.append(Problem(root / path, 1, "", "duplicate_event", message, "remove one of the two files"))
    broken = {problem.file for problem in problems}
    good = {
        name: files[0] for name, files in sorted(found.items()) if len(files) == 1 and root / files[0][0] not in broken
    }
    contracts = Contracts(
        events={name: contract for name, (_, contract) in good.items()},
        owners=known_owners,
        vocabulary=vocabulary or Vocabulary(),
        files={name: root / path for name, (path, _) in good.items()},
    )
    return contracts, problems


def _parse_vocabulary(sources: Sources, root: Path, problems: list[Problem]) -> Vocabulary | None:
    document = _support_document(VOCABULARY_FILE, sources, root, problems)
    if document is None:
        return None
    vocabulary, mistakes = _validate(Vocabulary, document)
    problems += _located(root / VOCABULARY_FILE, document, mistakes)
    return vocabulary


def _parse_owners(sources: Sources, root: Path, problems: list[Problem]) -> dict[str, Owner]:
    document = _support_document(OWNERS_FILE, sources, root, problems)
    if document is None:
        return {}
    owners: dict[str, Owner] = {}
    mistakes = list(document.mistakes)
    if not isinstance(document.data, dict):
        mistakes += _no_mapping(document)
    else:
        for name, data in document.data.items():
            owner, more = _validate(Owner, Document(data), (name,))
            mistakes += more
            if owner is not None:
                owners[name] = owner
    problems += _located(root / OWNERS_FILE, document, mistakes)
    return owners


def _support_document(name: str, sources: Sources, root: Path, problems: list[Problem]) -> Document | None:
    if name not in sources:
        fix = f"create it; docs/contracts.md shows what a {name} holds"
        problems.append(Problem(root / name, 0, "", "no_file", "no such file", fix))
        return None
    return read_document(sources[name])


@lru_cache(maxsize=5000)
def _good_event(content: bytes) -> EventContract | None:
    """The contract of a file that has no mistake in itself; kept, so that a changed folder is read again in no time."""
    data = read_data(content)
    if not isinstance(data, dict):
        return None
    try:
        return EventContract.model_validate(data)
    except ValidationError:
        return None


def _words(contract: EventContract) -> dict[str, str]:
    return {
        "action": contract.action,
        "object": contract.object,
        "service": contract.service,
        "owner": contract.owner,
    }


def _context_mistakes(
    path: str,
    data: Any,
    contract: EventContract | None,
    vocabulary: Vocabulary | None,
    owners: Mapping[str, Owner] | None,
) -> list[Mistake]:
    """What only the other files and the place of the file can tell."""
    return [*_vocabulary_mistakes(data, vocabulary, owners), *_place_mistakes(path, data, contract)]


def _validate[Model: BaseModel](
    model: type[Model], document: Document, at: DocumentPath = ()
) -> tuple[Model | None, list[Mistake]]:
    """The model of a document and all mistakes, of the writing and of the content. With mistakes there is no model."""
    mistakes = list(document.mistakes)
    if not isinstance(document.data, dict):
        return None, [*mistakes, *_no_mapping(document, at)]
    try:
        instance = model.model_validate(document.data)
    except ValidationError as error:
        return None, [*mistakes, *_content_mistakes(model, document, error, at)]
    return (instance if not mistakes else None), mistakes


def _content_mistakes(
    model: type[BaseModel], document: Document, error: ValidationError, at: DocumentPath
) -> list[Mistake]:
    mistakes: list[Mistake] = []
    form: list[Any] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "rules":
            mistakes += detail["ctx"]["mistakes"]
        else:
            form.append(detail)
    seen: set[DocumentPath] = set()
    for detail in form:
        mistake = _form_mistake(model, document, detail)
        if mistake.path not in seen:  # a union gives one error for each of its kinds
            seen.add(mistake.path)
            mistakes.append(Mistake((*at, *mistake.path), mistake.code, mistake.message, mistake.fix))
    if form:
        mistakes += _rules_of_the_rest(model, document.data, form)
    return mistakes


def _no_mapping(document: Document, at: DocumentPath = ()) -> list[Mistake]:
    if document.mistakes and document.data is None:
        return []
    if document.data is None:
        return [Mistake(at, "empty", "nothing is written here", "docs/contracts.md shows what belongs in it")]
    kind = "a list" if isinstance(document.data, list) else "a single value"
    return [
        Mistake(at, "not_a_mapping", f"a mapping (`key: value` lines) is meant, not {kind}", "write `key: value` lines")
    ]


_KINDS: tuple[tuple[str, str], ...] = (
    ("string_", "text"),
    ("bool_", "true or false"),
    ("int_", "a number or text"),
    ("float_", "a number or text"),
    ("tuple_", "a list"),
    ("dict_", "a mapping"),
    ("model_", "a mapping"),
)
_OTHER_NAMES_OF_TYPES = {
    "TEXT": "STRING",
    "STR": "STRING",
    "VARCHAR": "STRING",
    "INT": "INT64",
    "INTEGER": "INT64",
    "LONG": "INT64",
    "BIGINT": "INT64",
    "NUMBER": "NUMERIC",
    "DECIMAL": "NUMERIC",
    "MONEY": "NUMERIC",
    "FLOAT": "FLOAT64",
    "DOUBLE": "FLOAT64",
    "BOOLEAN": "BOOL",
    "DATETIME": "TIMESTAMP",
    "TIME": "TIMESTAMP",
    "RECORD": "STRUCT",
    "OBJECT": "STRUCT",
    "MAP": "JSON",
}
_FORMS = {
    "name": "letters, digits and `_`, beginning with a letter or `_`, at most 300 characters",
    "version": 'MAJOR.MINOR in quotes, such as "1.0"',
    "email": "an address such as team@example.com",
}


def _form_mistake(model: type[BaseModel], document: Document, detail: Any) -> Mistake:
    """What pydantic says about one place, in the words of someone who writes YAML."""
    kind: str = detail["type"]
    path, value = _resolve(document.data, detail["loc"])
    last = str(detail["loc"][-1])
    if kind == "missing":
        described = _fields_at(model, path)[last].description
        return Mistake((*path, last), "missing_key", f"`{last}` is missing", f"add a line `{last}: …` ({described})")
    if kind == "extra_forbidden":
        known = list(_fields_at(model, path[:-1]))
        fix = _did_you_mean(last, known) or f"take it out; the keys here are {', '.join(known)}"
        return Mistake(path, "unknown_key", f"`{last}` is no key of a contract", fix)
    if kind == "literal_error" and last == "type" and isinstance(value, str):
        meant = value.upper() if value.upper() in FIELD_TYPES else _OTHER_NAMES_OF_TYPES.get(value.upper())
        near = f"did you mean `{meant}`?" if meant else _did_you_mean(value.upper(), FIELD_TYPES)
        fix = near or f"the types are {', '.join(FIELD_TYPES)}"
        return Mistake(path, "unknown_type", f"`{value}` is no type", fix)
    if kind == "literal_error":
        return Mistake(
            path, "unknown_value", f"{_shown(value)} is not known here", f"write {detail['ctx']['expected']}"
        )
    meant_kind = next((text for start, text in _KINDS if kind.startswith(start) and kind.endswith("_type")), None)
    if meant_kind:
        quoted = meant_kind == "text" and isinstance(value, bool | int | float)
        text = document.texts.get(path, _plain(value))
        fix = f'write it in quotes: "{text}"' if quoted else f"write {meant_kind}"
        message = f"{meant_kind} is meant, but {_kind(value)} is written"
        return Mistake(path, "wrong_kind", message, fix)
    if kind in {"string_pattern_mismatch", "string_too_long"} and last in {
        *_FORMS,
        "action",
        "object",
        "service",
        "[key]",
    }:
        form = _FORMS.get(last, "one word of small letters and digits, at most 40 characters")
        return Mistake(
            path,
            f"bad_{last}" if last != "[key]" else "bad_word",
            f"{_shown(value)} is not well formed",
            f"write {form}",
        )
    if kind == "string_too_long":
        return Mistake(path, f"{last}_too_long", detail["msg"], "say it in fewer words")
    if kind == "string_too_short":
        return Mistake(path, "empty_text", f"`{last}` is empty", "say it in a sentence")
    return Mistake(path, kind, detail["msg"], "see docs/contracts.md")


def _resolve(data: Any, location: Sequence[str | int]) -> tuple[DocumentPath, Any]:
    """The part of pydantic's location that is a path of the document, and the value there.

    The kinds of a union and `[key]` at the end of it are pydantic's own.
    """
    path: list[str | int] = []
    for part in location:
        if part == "[key]":
            return tuple(path), path[-1]
        is_there = isinstance(part, int) if isinstance(data, list) else isinstance(data, dict) and part in data
        if not is_there:
            break
        data = data[part]
        path.append(part)
    return tuple(path), data


def _fields_at(model: type[BaseModel], path: DocumentPath) -> Mapping[str, Any]:
    """Keys that may stand in the mapping at a path: those of the document, or of a field in its tree."""
    return Field.model_fields if any(isinstance(part, int) for part in path) else model.model_fields


def _did_you_mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return f"`{_plain(value)}`, which YAML reads as a boolean,"
        case int() | float():
            return f"`{value}`, which YAML reads as a number,"
        case str():
            return f"the text {_shown(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    text = _plain(value)
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"


def _rules_of_the_rest(model: type[BaseModel], data: dict[str, Any], form: list[Any]) -> list[Mistake]:
    """What the rules say about a tree of fields that has mistakes of form, each of those taken out of it.

    So that all mistakes of a file are told at once. A field whose name, type or fields are wrong is replaced, so that the others
    keep their places.
    """
    if model is not EventContract or not isinstance(data.get("params"), list):
        return []
    params = {"params": copy.deepcopy(data["params"])}
    places = {_resolve(data, detail["loc"])[0]: detail for detail in form}
    for place in sorted(places, key=len, reverse=True):
        if place[:1] != ("params",) or len(place) < 2:
            continue
        whole_field = isinstance(place[-1], int) and place[-2] in {"params", "fields"}
        if whole_field or place[-1] in {"name", "type", "fields"}:
            field_place = place if whole_field else place[:-1]
            stand_in = {"name": f"stand_in_{'_'.join(map(str, field_place))}", "type": "STRING"}
            _parent(params, field_place)[field_place[-1]] = stand_in
        else:
            _remove(params, place)
    try:
        fields = _FIELDS.validate_python(params["params"])
    except ValidationError:
        return []
    return field_mistakes(fields, taken=ENVELOPE_COLUMNS)


def _parent(data: Any, place: DocumentPath) -> Any:
    for part in place[:-1]:
        data = data[part]
    return data


def _remove(params: Any, place: DocumentPath) -> None:
    """Take out the key, of the innermost field around a place, that the place belongs to."""
    field_end = max(
        i for i in range(1, len(place)) if isinstance(place[i], int) and place[i - 1] in {"params", "fields"}
    )
    _parent(params, place[: field_end + 2]).pop(place[field_end + 1], None)


def _vocabulary_mistakes(data: Any, vocabulary: Vocabulary | None, owners: Mapping[str, Owner] | None) -> list[Mistake]:
    mistakes: list[Mistake] = []
    if not isinstance(data, dict):
        return mistakes
    if vocabulary is not None:
        known_words = {"action": vocabulary.actions, "object": vocabulary.objects, "service": vocabulary.services}
        for key, words in known_words.items():
            word = data.get(key)
            if isinstance(word, str) and word not in words:
                near = _did_you_mean(word, words)
                fix = f"{near} Otherwise add it" if near else "add it"
                fix += f" to `{key}s` in {VOCABULARY_FILE}, with what it means"
                mistakes.append(Mistake((key,), f"unknown_{key}", f"`{word}` is not in the vocabulary", fix))
    owner = data.get("owner")
    if owners is not None and isinstance(owner, str) and owner not in owners:
        near = _did_you_mean(owner, owners)
        fix = (f"{near} Otherwise add the team" if near else "add the team") + f" to {OWNERS_FILE}"
        mistakes.append(Mistake(("owner",), "unknown_owner", f"`{owner}` is not among the owners", fix))
    return mistakes


def _place_mistakes(path: str, data: Any, contract: EventContract | None) -> list[Mistake]:
    if contract is not None:
        service, name = contract.service, contract.name
    else:
        words = [data.get(key) for key in ("action", "object", "service")] if isinstance(data, dict) else []
        if not words or not all(isinstance(word, str) for word in words):
            return []
        service, name = str(words[2]), "_".join(map(str, words))
        major = str(data.get("version", "1")).split(".", 1)[0]
        name += f"_v{major}" if major.isdigit() and major != "1" else ""
    place = PurePosixPath(EVENTS_FOLDER, service, f"{name}.yaml")
    if PurePosixPath(path) == place:
        return []
    message = f"the event `{name}` of the service `{service}` is in a file of another name or folder"
    fix = f"move the file to {place}, or mend action, object, service or version"
    return [Mistake((), "wrong_place", message, fix)]


def _located(file: Path, document: Document, mistakes: Sequence[Mistake]) -> list[Problem]:
    problems = [
        Problem(
            file=file,
            line=mistake.line or document.line_of(mistake.path),
            path=dotted(mistake.path),
            code=mistake.code,
            message=mistake.message,
            fix=mistake.fix,
        )
        for mistake in mistakes
    ]
    return sorted(problems, key=lambda problem: problem.line)
