"""Regular expressions that mean the same in BigQuery (RE2) and in Python.

RE2 and Python's `re` agree on a large common part; `check_pattern` accepts exactly that part and says what else it found,
`compile_pattern` gives the Python form with RE2's meaning where only the meaning differs (`\\d`, `\\w`, `\\b` are ASCII, `\\s` has no
vertical tab, `$` is the very end of the text).
"""

import re

MAX_PATTERN_LENGTH = 1000
MAX_REPEAT = 1000
"""RE2's limit of a counted repetition, and of the product of nested ones."""

_SPACE = r"\t\n\f\r "
_QUANTIFIER = re.compile(r"[*+?]|\{([0-9]+)(,([0-9]*))?\}")
_HEX = re.compile(r"x[0-9a-fA-F]{2}")
_CONTROLS = frozenset("tnrfv")
_CLASSES = frozenset("dDwW")
_PORTABLE_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_"}
_PORTABLE_END = r"(?![\s\S])"
"""`$` is before a last line feed as well in Python, `\\Z` is not known to ECMAScript."""
_GROUPS_THAT_RE2_LACKS = {
    "?=": "look-ahead",
    "?!": "look-ahead",
    "?<=": "look-behind",
    "?<!": "look-behind",
    "?>": "atomic groups",
    "?(": "conditions",
    "?#": "comments",
    "?P=": "back-references",
}


class PatternError(ValueError):
    """A regular expression that BigQuery does not know, or that would mean something else there."""


def check_pattern(pattern: str) -> None:
    """Raise PatternError with the reason when a pattern cannot be used."""
    _translate(pattern)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The compiled Python form; use `fullmatch`. Raises PatternError."""
    return re.compile(_translate(pattern), re.ASCII)


def portable_pattern(pattern: str) -> str:
    """The form that also means the same in ECMAScript's regular expressions, as JSON Schema uses them; anchored at both ends."""
    _translate(pattern)
    return f"^(?:{_Translator(pattern, portable=True).translate()}){_PORTABLE_END}"


def _translate(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise PatternError(f"longer than {MAX_PATTERN_LENGTH} characters")
    translated = _Translator(pattern, portable=False).translate()
    try:
        re.compile(translated, re.ASCII)
    except re.error as error:
        raise PatternError(str(error)) from error
    return translated


class _Translator:
    def __init__(self, pattern: str, *, portable: bool) -> None:
        self.pattern = pattern
        self.portable = portable
        self.at = 0
        self.out: list[str] = []

    def translate(self) -> str:
        self.alternatives(depth=0)
        if self.at < len(self.pattern):
            raise PatternError("`)` without `(`; write `\\)` for the character")
        return "".join(self.out)

    def alternatives(self, depth: int) -> int:
        """Translate up to a closing bracket or the end; the result is the largest product of counted repetitions."""
        if depth > 100:
            raise PatternError("groups nested more than 100 deep")
        largest = 1
        while self.at < len(self.pattern) and self.pattern[self.at] != ")":
            largest = max(largest, self.quantified(self.atom(depth)))
        return largest

    def atom(self, depth: int) -> int | None:
        """Translate one thing that may be repeated; None for what may not (anchors, `|`)."""
        character = self.pattern[self.at]
        self.at += 1
        if character == "(":
            return self.group(depth)
        if character == "[":
            self.character_class()
        elif character == "\\":
            return self.escape()
        elif character in "*+?":
            raise PatternError(f"`{character}` repeats nothing; write `\\{character}` for the character")
        elif character in "{}]":
            raise PatternError(f"write `\\{character}` for the character `{character}`")
        elif character in "^|":
            self.out.append(character)
            return None
        elif character == "$":
            self.out.append(_PORTABLE_END if self.portable else r"\Z")
            return None
        else:
            self.out.append(character)
        return 1

    def group(self, depth: int) -> int:
        rest = self.pattern[self.at :]
        if rest.startswith("?:"):
            self.at += 2
        elif rest.startswith("?"):
            for start, what in sorted(_GROUPS_THAT_RE2_LACKS.items(), key=lambda item: -len(item[0])):
                if rest.startswith(start):
                    raise PatternError(f"BigQuery (RE2) has no {what}: `({start}`")
            raise PatternError(f"`({rest[:3]}`: only `(…)` and `(?:…)` are groups here")
        self.out.append("(?:")
        inside = self.alternatives(depth + 1)
        if self.at >= len(self.pattern):
            raise PatternError("`(` without `)`; write `\\(` for the character")
        self.at += 1
        self.out.append(")")
        return inside

    def escape(self) -> int | None:
        if self.at >= len(self.pattern):
            raise PatternError("ends in a single `\\`")
        character = self.pattern[self.at]
        if character == "b":  # not its opposite: in an empty text `\B` is there for RE2 and not for Python
            self.at += 1
            self.out.append(r"\b")
            return None
        if character in "sS":
            self.at += 1
            self.out.append(f"[{'^' if character == 'S' else ''}{_SPACE}]")
        elif self.portable and character in "dDwW":
            self.at += 1
            self.out.append(f"[{'^' if character.isupper() else ''}{_PORTABLE_CLASSES[character.lower()]}]")
        else:
            self.out.append(self.plain_escape())
        return 1

    def plain_escape(self) -> str:
        """An escape that means the same inside and outside of a character class."""
        character = self.pattern[self.at]
        if hexadecimal := _HEX.match(self.pattern, self.at):
            self.at = hexadecimal.end()
            return f"\\{hexadecimal.group()}"
        if character in _CLASSES or character in _CONTROLS or (character.isascii() and not character.isalnum()):
            self.at += 1
            return f"\\{character}"
        if character.isdigit():
            raise PatternError(f"BigQuery (RE2) has no back-references: `\\{character}`")
        raise PatternError(f"`\\{character}` is not known to both BigQuery and Python")

    def character_class(self) -> None:
        self.out.append("[")
        if self.pattern.startswith("^", self.at):
            self.at += 1
            self.out.append("^")
        start = self.at
        while self.at < len(self.pattern):
            character = self.pattern[self.at]
            if character == "]":
                if self.at == start:
                    raise PatternError("an empty `[]`; write `\\]` for the character")
                self.at += 1
                self.out.append("]")
                return
            self.at += 1
            if character == "[":
                raise PatternError("`[` inside of `[…]`; write `\\[` for the character, `a-z` for a POSIX class")
            if character == "\\":
                if self.at >= len(self.pattern):
                    break
                self.out.append(self.class_escape())
            elif self.pattern.startswith(character, self.at) and character in "&~|-":
                raise PatternError(f"`{character * 2}` inside of `[…]`; write `\\{character}` for the character")
            else:
                self.out.append(character)
        raise PatternError("`[` without `]`; write `\\[` for the character")

    def class_escape(self) -> str:
        character = self.pattern[self.at]
        if character == "s":
            self.at += 1
            return _SPACE
        if character == "S":
            self.at += 1
            return r"\S\v"
        if self.portable and character in _PORTABLE_CLASSES:
            self.at += 1
            return _PORTABLE_CLASSES[character]
        return self.plain_escape()

    def quantified(self, inside: int | None) -> int:
        quantifier = _QUANTIFIER.match(self.pattern, self.at)
        if quantifier is None:
            return inside or 1
        if inside is None:
            raise PatternError(f"`{quantifier.group()}` repeats nothing")
        self.at = quantifier.end()
        self.out.append(quantifier.group())
        counts = [int(count) for count in (quantifier.group(1), quantifier.group(3)) if count]
        product = inside * max([1, *counts])
        if product > MAX_REPEAT:
            raise PatternError(f"`{quantifier.group()}` repeats more than {MAX_REPEAT} times, which RE2 refuses")
        if len(counts) == 2 and counts[0] > counts[1]:
            raise PatternError(f"`{quantifier.group()}` has its smallest count first")
        if self.pattern.startswith("?", self.at):
            self.at += 1
            self.out.append("?")
        if _QUANTIFIER.match(self.pattern, self.at):
            raise PatternError(f"`{quantifier.group()}{self.pattern[self.at]}` repeats a repetition")
        return product
