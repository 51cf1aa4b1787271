"""A script cut into its statements and blocks. A text that is no script is one statement.

BigQuery's procedural language is not in the parser's grammar, and one statement that cannot be parsed must not cost the others, so
the text is cut here and each statement is parsed by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .lexemes import lexemes

_SCRIPT = re.compile(
    r"\s*(?:(?:--|\#)[^\n]*\n\s*|/\*.*?\*/\s*)*"
    r"(?:BEGIN|IF|LOOP|WHILE|REPEAT|FOR|CASE|\w+\s*:\s*(?:BEGIN|LOOP|WHILE|REPEAT|FOR)|CREATE\s+(?:OR\s+REPLACE\s+)?PROCEDURE)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Statement:
    """One statement's text."""

    text: str


@dataclass(frozen=True)
class Conditional:
    """Statements that run, once or often, when `conditions` (expressions) say so; `loop`: perhaps more than once."""

    conditions: tuple[str, ...]
    body: tuple[Block, ...]
    loop: bool = False


@dataclass(frozen=True)
class ForEach:
    """FOR variable IN (query) DO body."""

    variable: str
    query: str
    body: tuple[Block, ...]


@dataclass(frozen=True)
class ProcedureText:
    """CREATE PROCEDURE: the parameters' text and the body's."""

    name: str
    parameters: str
    body: str


Block = Statement | Conditional | ForEach | ProcedureText


def blocks(text: str) -> list[Block]:
    """The script's statements in order."""
    end = text.rstrip().rstrip(";").rstrip()
    if ";" not in end and not _SCRIPT.match(text):
        return [Statement(end)] if end else []
    return _Reader(text).block(frozenset())


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lexemes = lexemes(text)
        self.at = 0

    def word(self, ahead: int = 0) -> str:
        position = self.at + ahead
        return self.lexemes[position].word if position < len(self.lexemes) else ""

    def block(self, ends: frozenset[str]) -> list[Block]:
        """Statements up to one of the words in `ends`, which is not consumed."""
        found: list[Block] = []
        while self.at < len(self.lexemes) and self.word() not in ends:
            before = self.at
            found += self.one()
            if self.at == before:  # a word that fits nowhere: step over it rather than stand still
                self.at += 1
        return found

    def one(self) -> list[Block]:
        word = self.word()
        if word == ";":
            self.at += 1
            return []
        if self.word(1) == ":" and self.word(2) in ("BEGIN", "LOOP", "WHILE", "REPEAT", "FOR"):
            self.at += 2
            word = self.word()
        if word == "BEGIN" and self.word(1) not in ("TRANSACTION", ";", ""):
            return self.begin()
        if word == "BEGIN" and self.lexemes[self.at + 1 : self.at + 2] and self.lexemes[self.at + 1].word == "":
            return self.begin()
        if word == "IF":
            return self.conditional("IF", frozenset({"ELSEIF", "ELSE", "END"}))
        if word == "CASE":
            return self.conditional("CASE", frozenset({"WHEN", "ELSE", "END"}))
        if word == "LOOP":
            self.at += 1
            return self.loop((), "LOOP")
        if word == "WHILE":
            self.at += 1
            condition = self.until(frozenset({"DO"}))
            self.at += 1
            return self.loop((condition,), "WHILE")
        if word == "REPEAT":
            return self.repeat()
        if word == "FOR":
            return self.for_each()
        if word == "CREATE" and "PROCEDURE" in (self.word(1), self.word(3)):
            return self.procedure()
        start = self.at
        self.until(frozenset({";"}))
        text = self.slice(start, self.at)
        return [Statement(text)] if text else []

    def slice(self, start: int, end: int) -> str:
        end = min(end, len(self.lexemes))
        if start >= end:
            return ""
        return self.text[self.lexemes[start].start : self.lexemes[end - 1].end]

    def until(self, ends: frozenset[str]) -> str:
        """Text up to one of the words outside parentheses and CASE … END; the word is not consumed."""
        start, depth = self.at, 0
        while self.at < len(self.lexemes):
            word = self.word()
            if depth == 0 and word in ends:
                break
            if word in ("(", "[", "CASE"):
                depth += 1
            elif word in (")", "]") or (word == "END" and depth):
                depth -= 1
            self.at += 1
        return self.slice(start, self.at)

    def skip_end(self, *words: str) -> None:
        """Consume `END`, the words that may follow it, and the block's label, which may be told again."""
        for word in ("END", *words):
            if self.word() == word:
                self.at += 1
        if self.word() not in (";", "") and self.word(1) in (";", ""):
            self.at += 1

    def begin(self) -> list[Block]:
        self.at += 1
        found = self.block(frozenset({"END", "EXCEPTION"}))
        if self.word() == "EXCEPTION":
            self.at += 4  # EXCEPTION WHEN ERROR THEN
            found += self.block(frozenset({"END"}))
        self.skip_end()
        return found

    def conditional(self, kind: str, ends: frozenset[str]) -> list[Block]:
        conditions: list[str] = []
        body: list[Block] = []
        self.at += 1
        if kind == "CASE" and self.word() != "WHEN":
            conditions.append(self.until(frozenset({"WHEN"})))
        while self.at < len(self.lexemes) and self.word() != "END":
            if self.word() in ("ELSE", "ELSEIF", "WHEN"):
                alone = self.word() == "ELSE"
                self.at += 1
                if alone:
                    body += self.block(ends)
                    continue
            conditions.append(self.until(frozenset({"THEN"})))
            self.at += 1
            body += self.block(ends)
        self.skip_end(kind)
        return [Conditional(tuple(conditions), tuple(body))]

    def loop(self, conditions: tuple[str, ...], kind: str) -> list[Block]:
        body = self.block(frozenset({"END"}))
        self.skip_end(kind)
        return [Conditional(conditions, tuple(body), loop=True)]

    def repeat(self) -> list[Block]:
        self.at += 1
        body = self.block(frozenset({"UNTIL", "END"}))
        conditions: tuple[str, ...] = ()
        if self.word() == "UNTIL":
            self.at += 1
            conditions = (self.until(frozenset({"END"})),)
        self.skip_end("REPEAT")
        return [Conditional(conditions, tuple(body), loop=True)]

    def for_each(self) -> list[Block]:
        self.at += 1
        variable = self.slice(self.at, self.at + 1)
        self.at += 2
        query = self.until(frozenset({"DO"}))
        self.at += 1
        body = self.block(frozenset({"END"}))
        self.skip_end("FOR")
        return [ForEach(variable, query, tuple(body))]

    def procedure(self) -> list[Block]:
        while self.word() != "PROCEDURE":
            self.at += 1
        self.at += 1
        if self.word() == "IF":  # IF NOT EXISTS
            self.at += 3
        start = self.at
        while self.at < len(self.lexemes) and self.word() != "(":
            self.at += 1
        name = self.slice(start, self.at).replace("`", "")
        start = self.at
        self.until(frozenset({"OPTIONS", "BEGIN", "WITH", "LANGUAGE", ";"}))
        parameters = self.slice(start, self.at)[1:-1]
        self.until(frozenset({"BEGIN", ";"}))
        start = self.at
        if self.word() == "BEGIN":
            self.begin()
        return [ProcedureText(name, parameters, self.slice(start, self.at))]
