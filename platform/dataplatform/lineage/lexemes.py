"""GoogleSQL cut into lexemes, as far as finding statements, blocks and pipes needs: strings and comments are never looked into.

The parser's own tokenizer is of no use here: it swallows the rest of a statement after words it takes for commands.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

STRING = r"""(?:[rR][bB]?|[bB][rR]?)?(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
COMMENT = r"--[^\n]*|\#[^\n]*|/\*.*?\*/"
_LEXEME = re.compile(
    rf"(?P<space>\s+|{COMMENT})|(?P<string>{STRING})|(?P<quoted>`[^`]*`|@@?[A-Za-z_]\w*|\.[A-Za-z_]\w*)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<pipe>\|>)|(?P<other>.)",
    re.DOTALL,
)


class Lexeme(NamedTuple):
    """A piece of the text. `word` is upper case for a word outside quotes, the character itself for punctuation, else ''.

    A parameter (`@end`) and a name behind a dot (`t.end`) are no words: there even reserved words are names.
    """

    word: str
    start: int
    end: int


def lexemes(text: str, most: int = sys.maxsize) -> list[Lexeme]:
    """All lexemes, or the first ones, but white space and comments."""
    found: list[Lexeme] = []
    for match in _LEXEME.finditer(text):
        kind = match.lastgroup
        if kind == "word":
            found.append(Lexeme(match.group().upper(), match.start(), match.end()))
        elif kind in ("other", "pipe"):
            found.append(Lexeme(match.group(), match.start(), match.end()))
        elif kind in ("string", "quoted"):
            found.append(Lexeme("", match.start(), match.end()))
        if len(found) >= most:
            break
    return found


def split_top(text: str, separators: frozenset[str]) -> list[tuple[str, str]]:
    """The text cut at separators outside parentheses: (separator before the piece, '' for the first; piece)."""
    pieces: list[tuple[str, str]] = []
    depth = 0
    start, before = 0, ""
    for lexeme in lexemes(text):
        if lexeme.word in ("(", "["):
            depth += 1
        elif lexeme.word in (")", "]"):
            depth -= 1
        elif depth == 0 and lexeme.word in separators:
            pieces.append((before, text[start : lexeme.start].strip()))
            start, before = lexeme.end, lexeme.word
    pieces.append((before, text[start:].strip()))
    return pieces
