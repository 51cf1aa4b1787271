"""Patterns of contracts: the part of RE2 that Python's `re` reads the same way."""

import re
from functools import lru_cache

SPACE = r"\t\n\f\r "
"""RE2's \\s; Python's has the vertical tab as well."""
NOT_SPACE = r"\x00-\x08\x0b\x0e-\x1f!-\U0010ffff"
"""RE2's \\S inside a class."""
ESCAPES = set("dDwWntrfv") | set(r"\.[]{}()*+?^$|/-_ ,:;!@#%&=<>~'\"`")
IN_CLASS = set("dDwWntrfv") | set(r"\.[]{}()*+?^$|/-_ ,:;!@#%&=<>~'\"`")


class UnsupportedPattern(ValueError):
    """A pattern that RE2 and Python would read differently, or that is not valid."""


@lru_cache(maxsize=4096)
def python_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern for `fullmatch`, meaning what RE2 means by it.

    Allowed are literals, `.`, classes, groups `(…)` and `(?:…)`, `|`, `* + ? {m,n}` with their lazy forms, `\\d \\w \\s`
    and their opposites (ASCII, as in RE2), and `^` and `$` at the two ends, where they say nothing. The rest (anchors
    elsewhere, look-around, back-references, flags, Unicode and POSIX classes) raises UnsupportedPattern.
    """
    text = pattern.removeprefix("^")
    if text.endswith("$") and not re.search(r"(?<!\\)(?:\\\\)*\\\$$", text):
        text = text[:-1]
    out: list[str] = []
    in_class = False
    position = 0
    while position < len(text):
        char = text[position]
        following = text[position + 1 : position + 2]
        if char == "\\":
            if in_class and following == "s":
                out.append(SPACE)
            elif in_class and following == "S":
                out.append(NOT_SPACE)
            elif following == "s":
                out.append(f"[{SPACE}]")
            elif not in_class and following == "S":
                out.append(f"[^{SPACE}]")
            elif following and following in (IN_CLASS if in_class else ESCAPES):
                out.append(char + following)
            else:
                raise UnsupportedPattern(f"\\{following} in {pattern!r} is not read the same by RE2 and Python")
            position += 2
            continue
        if in_class:
            if char == "[" or text[position : position + 2] in ("--", "&&", "~~", "||"):
                raise UnsupportedPattern(f"{char!r} inside a class of {pattern!r} needs a backslash")
            if char == "]":
                in_class = False
        elif char == "[":
            in_class = True
            if text[position + 1 : position + 3] in ("^]",) or following == "]":
                raise UnsupportedPattern(f"']' inside a class of {pattern!r} needs a backslash")
            if following == "^":
                out.append("[^")
                position += 2
                continue
        elif char in "^$":
            raise UnsupportedPattern(f"{char!r} in the middle of {pattern!r}")
        elif char == "(" and following == "?" and text[position + 2 : position + 3] != ":":
            raise UnsupportedPattern(f"a group (?… of {pattern!r} that is not (?:…)")
        elif char in "*+?}" and following == "+":
            raise UnsupportedPattern(f"a possessive repetition in {pattern!r}")
        out.append(char)
        position += 1
    for low, high in re.findall(r"\{(\d+)(?:,(\d*))?\}", text):
        if max(int(low), int(high or 0)) > 1000:
            raise UnsupportedPattern(f"a repetition of more than 1000 times in {pattern!r}")
    try:
        return re.compile("".join(out), re.ASCII)
    except re.error as error:
        raise UnsupportedPattern(f"{pattern!r}: {error}") from None


def re2_pattern(pattern: str) -> str:
    """The pattern for REGEXP_CONTAINS, which then matches the whole text; checked like `python_pattern`."""
    python_pattern(pattern)
    text = pattern.removeprefix("^")
    if text.endswith("$") and not re.search(r"(?<!\\)(?:\\\\)*\\\$$", text):
        text = text[:-1]
    return f"^(?:{text})$"
