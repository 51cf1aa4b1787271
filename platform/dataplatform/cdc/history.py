"""One document's history replayed: what it was at any time, from the kept changes, by the descriptions of its updates.

The change stream tells an update's description and looks the whole document up later, when it may have changed again or be
gone. So the states between are replayed here: from a state that is known for certain, each description is applied in turn.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .changes import Change
from .extended_json import canonical, parse


@dataclass(frozen=True, slots=True)
class Moment:
    """The document from `position` (and the wall time `changed_at`) on, until the next one. `document` is canonical text,
    None where it is not there. `exact` is False where its text may hold later changes, or lack some."""

    position: str
    changed_at: str
    document: str | None
    exact: bool


def replay(changes: Iterable[Change]) -> list[Moment]:
    """The states of one document, in order. `changes`: its own, each once, and (without a key) the barriers of its
    collection, at which everything older is gone; in any order."""
    ordered = sorted(changes, key=lambda change: (change.position, change.key is not None))
    positions = [change.position for change in ordered]
    moments: list[Moment] = []
    known: dict[str, Any] | None = None
    certain = False
    for change in ordered:
        applied = None
        if change.key is None or change.operation == "delete":
            known, certain = None, True
        elif _is_exact(change, positions):
            known, certain = _document(change.document), True
        else:
            if certain and known is not None and change.update is not None:
                applied = apply_update(known, parse(change.update))
            known, certain = applied or _document(change.document) or known, applied is not None
        if change.key is None and not moments:  # a collection emptied before the document came
            continue
        text = None if known is None else canonical(known)
        moments.append(Moment(change.position, change.changed_at, text, certain))
    return moments


def _is_exact(change: Change, positions: list[str]) -> bool:
    """Whether the change's own document is the one it made: told with it, or looked up before the next change (or barrier: a
    collection renamed onto this one brings documents under the same keys)."""
    if change.document is None:
        return False
    if change.looked_up is None:
        return change.operation in ("insert", "replace")
    following = bisect_right(positions, change.position)
    return following == len(positions) or positions[following] > change.looked_up


def apply_update(document: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document after an update, by its description; None where the description does not fit it.

    A path such as `a.0` means an element where `a` is a list and a field where it is a document. Keys that hold dots
    themselves cannot be told from paths, so a document that has one on the way does not fit.
    """
    result: dict[str, Any] = _copy(document)
    try:
        for one in description.get("truncatedArrays") or []:
            holder, key = _place(result, one["field"])
            del holder[key][int(one["newSize"]) :]
        for path in description.get("removedFields") or []:
            holder, key = _place(result, path)
            if isinstance(holder, list):
                holder[key] = None
            else:
                holder.pop(key, None)
        for path, value in (description.get("updatedFields") or {}).items():
            holder, key = _place(result, path)
            if isinstance(holder, list) and key >= len(holder):
                holder.extend([None] * (key - len(holder)))
                holder.append(value)
            else:
                holder[key] = value
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    return result


def _place(document: dict[str, Any], path: str) -> tuple[Any, Any]:
    """What holds the last step of a path, and that step: a key, or an index."""
    holder: Any = document
    steps = path.split(".")
    for number, step in enumerate(steps):
        if isinstance(holder, dict):
            rest = ".".join(steps[number:])
            if any("." in key and rest.startswith(key) for key in holder):
                raise KeyError(path)
            key: Any = step
        else:
            key = int(step)
        if number == len(steps) - 1:
            return holder, key
        holder = holder[key]
    raise KeyError(path)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _document(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    found: dict[str, Any] = parse(text)
    return found
