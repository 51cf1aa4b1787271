"""One fingerprint for all runs of a text: literals, comments, white space and date shards folded away.

What decides about edges is not folded: digits of names (in back-quotes, of hyphenated projects), URIs of files, ordinals of GROUP BY
and ORDER BY, JSON paths and keys, the names that PIVOT makes of its literals, the names of columns that GAP_FILL and RANGE_SESSIONIZE are
given, and texts that are themselves SQL (EXECUTE IMMEDIATE, EXTERNAL_QUERY, the arguments of CALL, which a procedure may execute; of
these, dates and times are folded).
"""

from __future__ import annotations

import hashlib
import re

from .names import general_uri

# Each pattern starts with one of few characters, so that the scan between matches runs at the speed of a character search.
_QUOTED = re.compile(
    r"'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|`[^`]*`|--[^\n]*|\#[^\n]*|/\*.*?\*/",
    re.DOTALL,
)
_SHARD = re.compile(r"_(?:19|20)\d{6}\b")
_CALL = r"\([^()]*(?:\([^()]*\)[^()]*)*\)"
_ITEM = rf"[\w.`]+(?: ?{_CALL})?(?: (?:[aA][sS][cC]|[dD][eE][sS][cC]))?(?: [nN][uU][lL][lL][sS] (?:[fF][iI][rR]|[lL][aA])[sS][tT])?"
_ORDINALS = re.compile(rf"[bB][yY] {_ITEM}(?:, ?{_ITEM})*")
_HYPHENATED = re.compile(r"-[\w-]{1,30}\.(?:[A-Za-z_]\w*\.|`)")
"""What follows the first hyphen of `my-project-1.dataset.table`."""
_FILES = ("gs://", "s3://", "azure://")
_NUMBER = re.compile(r"[0-9][\w.]*")
_KEPT_DIGITS = str.maketrans("0123456789", "".join(chr(0xE000 + digit) for digit in range(10)))
_AS_WRITTEN = ("pivot", "immediate", "external_query", "gap_fill", "range_sessionize")
_CALL_WORD = re.compile(r"\bcall\b")
_TIME = re.compile(r"['\"]\d{4}-\d{2}-\d{2}(?:[ tT][\d:.]+)?(?:Z| ?UTC|[+-]\d{2}:?\d{2})?['\"]")
"""A literal that is a date or a time and nothing else."""
_LIST = re.compile(r"[(\[] ?\?(?: ?, ?\?)+ ?[)\]]")
_ROWS = re.compile(r"(\((?: ?\? ?,?)+\))(?: ?, ?\1)+")


def folded(text: str) -> str:
    """The text with what differs from run to run folded away."""
    lower = text.lower()
    if any(word in lower for word in _AS_WRITTEN):
        return " ".join(_QUOTED.sub(_uncommented, text).split())
    if "call" in lower and _CALL_WORD.search(lower):
        return " ".join(_QUOTED.sub(_undated, text).split())
    text = " ".join(_QUOTED.sub(_unquoted, text).split())
    text = _SHARD.sub("_*", text)
    text = _HYPHENATED.sub(_kept, text)
    text = _ORDINALS.sub(_ordinals, text)
    text = _NUMBER.sub(_number, text)
    text = _LIST.sub(_list, text)
    return _ROWS.sub(r"\1", text)


def _uncommented(match: re.Match[str]) -> str:
    piece = match.group()
    return piece if piece[0] in "'\"`" else " "


def _undated(match: re.Match[str]) -> str:
    return "?" if _TIME.fullmatch(match.group()) else _uncommented(match)


def _unquoted(match: re.Match[str]) -> str:
    piece = match.group()
    first = piece[0]
    if first == "`":
        return _SHARD.sub("_*", piece).translate(_KEPT_DIGITS)
    if first not in "'\"":
        return " "
    if piece[1:2] == "$":
        return piece  # a JSON path
    if piece[1:].startswith(_FILES):
        return piece[0] + general_uri(piece[1:-1]).translate(_KEPT_DIGITS) + piece[0]
    text, start, end = match.string, match.start(), match.end()
    subscript = start > 1 and text[start - 1] == "[" and text[end : end + 1] == "]"
    return piece if subscript and (text[start - 2].isalnum() or text[start - 2] in "_)]`") else "?"


def _kept(match: re.Match[str]) -> str:
    return match.group().translate(_KEPT_DIGITS)


def _ordinals(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 6) : match.start()].upper()
    return match.group().translate(_KEPT_DIGITS) if before.endswith(("GROUP ", "ORDER ")) else match.group()


def _list(match: re.Match[str]) -> str:
    piece = match.group()
    if piece[0] == "[":
        return "[?]"
    before = match.string[max(0, match.start() - 3) : match.start()].upper().strip()
    return "(?)" if before == "IN" else piece


def _number(match: re.Match[str]) -> str:
    start = match.start()
    before = match.string[start - 1] if start else ""
    return match.group() if before.isalnum() or (before in "_@$" and before) else "?"


def fingerprint(text: str, *context: str | None) -> str:
    """16 hex characters for the folded text and what else its edges depend on: project, default dataset, destination."""
    digest = hashlib.blake2b(folded(text).encode("utf-8", "replace"), digest_size=8)
    for part in context:
        digest.update(b"\0" + (part or "").encode("utf-8", "replace"))
    return digest.hexdigest()
