"""What a change of a contract means for the table and for the apps that send the event.

additive  the table can become the new one without a rewrite, and every event that was accepted still is
breaking  one of both does not hold; it needs a new contract with the next major version, whose table is its own
text      nothing that is checked or stored changes

A table's part are BigQuery's own rules: a column can be added if it is not REQUIRED, relaxed, and its type changed from INT64 to NUMERIC;
elements of arrays keep their type; nothing can be removed, renamed or changed otherwise. BigQuery would turn INT64 and NUMERIC into FLOAT64 as
well, but that rounds what is stored and refuses numbers in quotes, which were accepted: it is breaking.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .events import EventContract
from .fields import Field
from .values import Exact, exact_value

type Kind = Literal["additive", "breaking", "text"]

WIDER_TYPES: Mapping[str, tuple[str, ...]] = {"INT64": ("NUMERIC",)}
"""Types that a column can be given without a rewrite and without loss, and that take every value the old type took."""

_TEXTS = ("owner", "domain", "description", "status")


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `path` is the field (`params.sender.bank.code`) or key that changed, `code` what was done to it."""

    path: str
    kind: Kind
    code: str
    message: str


def contract_changes(old: EventContract, new: EventContract) -> list[Change]:
    """All changes between two versions of one contract (of one name), in the order of the new one."""
    changes = [
        Change(key, "text", "changed_text", f"`{key}` was {getattr(old, key)!r}, is {getattr(new, key)!r}")
        for key in _TEXTS
        if getattr(old, key) != getattr(new, key)
    ]
    if old.version != new.version:
        changes.append(Change("version", "text", "changed_version", f"was {old.version}, is {new.version}"))
    changes += _tree_changes(old.params, new.params, "params", repeated=False)
    return changes


def folder_changes(old: Mapping[str, EventContract], new: Mapping[str, EventContract]) -> dict[str, list[Change]]:
    """The changes of every contract that changed, by its name; contracts that came and went are changes as well."""
    changes: dict[str, list[Change]] = {}
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            found = [Change("", "additive", "added_contract", "a new event")]
        elif name not in new:
            found = [_removed(old[name])]
        else:
            found = contract_changes(old[name], new[name])
        if found:
            changes[name] = found
    return changes


def is_breaking(changes: list[Change]) -> bool:
    """Whether the changes of a contract need a new major version."""
    return any(change.kind == "breaking" for change in changes)


def _removed(contract: EventContract) -> Change:
    if contract.status == "deprecated":
        return Change("", "text", "removed_contract", "the event was deprecated, and is gone")
    message = "the event is gone, and all that is still sent would be rejected; deprecate it first"
    return Change("", "breaking", "removed_contract", message)


def _tree_changes(old: tuple[Field, ...], new: tuple[Field, ...], at: str, *, repeated: bool) -> Iterator[Change]:
    """Changes between two lists of fields; `repeated` says that they are inside of an array."""
    before = {field.name: field for field in old}
    after = {field.name: field for field in new}
    for field in new:
        path = f"{at}.{field.name}"
        if field.name not in before:
            if field.required:
                message = (
                    "a new required field: apps that do not know it are rejected, and no REQUIRED column can be added"
                )
                yield Change(path, "breaking", "added_required_field", message)
            else:
                yield Change(path, "additive", "added_field", f"a new {_shown_type(field)}")
        else:
            yield from _field_changes(before[field.name], field, path, repeated=repeated)
    for field in old:
        if field.name not in after:
            message = "the field is gone, and BigQuery would have to rewrite the table"
            yield Change(f"{at}.{field.name}", "breaking", "removed_field", message)
    kept_before = [field.name for field in old if field.name in after]
    kept_after = [field.name for field in new if field.name in before]
    if kept_before != kept_after:
        yield Change(at, "text", "reordered_fields", "fields in another order; the table's columns stay where they are")


def _field_changes(old: Field, new: Field, path: str, *, repeated: bool) -> Iterator[Change]:
    if old.description != new.description:
        yield Change(path, "text", "changed_description", "another description")
    if old.pii != new.pii:
        message = "is personal data now" if new.pii else "is no personal data any more"
        yield Change(path, "text", "changed_pii", message)
    if old.repeated != new.repeated:
        message = "became a list" if new.repeated else "is no list any more"
        yield Change(path, "breaking", "changed_repeated", message)
        return
    if old.required and not new.required:
        yield Change(path, "additive", "relaxed_required", "is not required any more")
    if new.required and not old.required:
        yield Change(path, "breaking", "required_now", "is required now, and events without it were accepted")
    if old.type != new.type:
        yield _type_change(old, new, path, in_array=repeated or new.repeated)
        if "STRUCT" in {old.type, new.type}:
            return
    yield from _constant_changes(old, new, path)
    yield from _tree_changes(old.fields, new.fields, path, repeated=repeated or new.repeated)


def _type_change(old: Field, new: Field, path: str, *, in_array: bool) -> Change:
    change = f"{old.type} became {new.type}"
    if old.type in {"INT64", "NUMERIC"} and new.type == "FLOAT64":
        message = f"{change}, which rounds to 15 digits and takes no number in quotes"
        return Change(path, "breaking", "changed_type", message)
    if new.type not in WIDER_TYPES.get(old.type, ()):
        return Change(path, "breaking", "changed_type", f"{change}, which BigQuery does not do without a rewrite")
    if in_array:
        return Change(path, "breaking", "changed_type", f"{change} inside of an array, whose elements keep their type")
    return Change(path, "additive", "widened_type", change)


def _constant_changes(old: Field, new: Field, path: str) -> Iterator[Change]:
    old_values, new_values = _exact_values(old), _exact_values(new)
    if old_values != new_values:
        if new_values is None:
            yield Change(path, "additive", "widened_values", "takes any value now")
        elif old_values is None:
            yield Change(path, "breaking", "narrowed_values", "takes only listed values now")
        else:
            if gone := old_values.keys() - new_values.keys():
                texts = ", ".join(sorted(old_values[value] for value in gone))
                yield Change(path, "breaking", "narrowed_values", f"does not take {texts} any more")
            if come := new_values.keys() - old_values.keys():
                texts = ", ".join(sorted(new_values[value] for value in come))
                yield Change(path, "additive", "widened_values", f"takes {texts} as well")
    yield from _bound_changes(old, new, path)
    if old.pattern != new.pattern:
        if new.pattern is None:
            yield Change(path, "additive", "widened_pattern", "takes any text now")
        else:
            message = "another pattern, and whether it takes all that the old one took cannot be told"
            yield Change(
                path, "breaking", "changed_pattern", message if old.pattern else "takes only matching text now"
            )


def _bound_changes(old: Field, new: Field, path: str) -> Iterator[Change]:
    for key, narrower in (("min", 1), ("max", -1)):
        was, now = _bound(old, key), _bound(new, key)
        if was == now:
            continue
        texts = f"`{key}` was {getattr(old, key)}, is {getattr(new, key)}".replace("None", "not set")
        direction = 1 if was is None else -1 if now is None else (1 if now > was else -1) * narrower  # type: ignore[operator]
        if direction > 0:
            yield Change(path, "breaking", f"narrowed_{key}", texts)
        else:
            yield Change(path, "additive", f"widened_{key}", texts)


def _bound(field: Field, key: str) -> Exact | None:
    bound = getattr(field, key)
    return None if bound is None else exact_value(field.type, bound)


def _exact_values(field: Field) -> dict[Exact, str] | None:
    if field.values is None:
        return None
    return {exact_value(field.type, value): str(value) for value in field.values}


def _shown_type(field: Field) -> str:
    return f"ARRAY<{field.type}>" if field.repeated else field.type
