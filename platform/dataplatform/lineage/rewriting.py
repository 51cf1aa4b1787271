"""What GoogleSQL has and the parser's grammar has not, written as something of the same lineage that it has."""

from __future__ import annotations

import re

from .lexemes import Lexeme, lexemes, split_top

PATH = r"(?:`[^`]+`|[\w-]+)(?:\.(?:`[^`]+`|[\w-]+))*"
_FIELD = r"(?:`[^`]+`|\w+)(?:\.(?:`[^`]+`|\w+))+"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        (r"\bCREATE(\s+OR\s+REPLACE)?\s+SNAPSHOT\s+TABLE\b", r"CREATE\1 TABLE"),
        (r"\bCREATE(\s+OR\s+REPLACE)?(\s+TEMP(?:ORARY)?)?\s+AGGREGATE\s+FUNCTION\b", r"CREATE\1\2 FUNCTION"),
        (r"\bNOT\s+AGGREGATE(?=\s*[,)])", ""),
        (rf"\bCREATE(\s+OR\s+REPLACE)?\s+MATERIALIZED\s+VIEW\s+({PATH}).*?\bAS\s+REPLICA\s+OF\s+({PATH})", r"CREATE TABLE \2 COPY \3"),
        (rf"\b((?:CLONE|COPY)\s+{PATH})\s+(?:OPTIONS|FOR)\b.*$", r"\1"),
        (r"\b(?:TABLE\s*<[^()]*?>|ANY\s+TABLE)(?=\s*[,)])", "ANY TYPE"),
        (rf"([(,]\s*(?:\w+\s*=>\s*)?)TABLE\s+({PATH})", r"\1(SELECT * FROM \2)"),
        (rf"([(,]\s*)MODEL\s+({PATH})", r"\1MODEL_OF((SELECT * FROM \2))"),
        (rf"\bWITH\s+CONNECTION\s+{PATH}", ""),
        (
            r"(\bCREATE(?:\s+OR\s+REPLACE)?\s+EXTERNAL\s+TABLE\b[^;]*?)\s+WITH\s+PARTITION\s+COLUMNS(?:\s*\([^()]*\))?",
            r"\1",
        ),
        (r"\bCREATE(\s+OR\s+REPLACE)?\s+TEMP(?:ORARY)?\s+TABLE\s+FUNCTION\b", r"CREATE\1 TABLE FUNCTION"),
        (rf"(,|\bJOIN)\s*({_FIELD})((?:\s+AS)?\s+\w+)??(\s+WITH\s+OFFSET)\b", r"\1 UNNEST(\2)\3\4"),
        (
            r"\bSELECT\s+WITH\s+(?:DIFFERENTIAL_PRIVACY|AGGREGATION_THRESHOLD|ANONYMIZATION)"
            r"(?:\s+OPTIONS\s*\((?:[^()]|\([^()]*\))*\))?",
            "SELECT",
        ),
        (r",\s*contribution_bounds_per_(?:group|row)\s*=>\s*\([^()]*\)", ""),
        (r"\bAI\s*\.\s*IF\s*\(", "AI.IF_TRUE("),
    )
)  # fmt: skip
_DEPTH = re.compile(
    r"\s*WITH\s+DEPTH(?:\s+AS\s+(`[^`]+`|\w+))?(?:\s+BETWEEN\s+\S+\s+AND\s+\w+|\s+MAX\s+\w+)?", re.IGNORECASE
)
_CLAUSES = frozenset({"PARTITION", "ORDER", "MEASURES", "AFTER", "PATTERN", "DEFINE", "OPTIONS"})
_COMMA = frozenset({","})


def rewritten(text: str) -> str:
    """The text with all that is known here written otherwise; the same text where there is nothing of it."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    for _ in range(text.count("(")):
        changed = _first_change(text)
        if changed is None:
            break
        text = changed
    return text


def rows_matched(clauses: str, rows: str) -> str:
    """What MATCH_RECOGNIZE (`clauses`) makes of `rows` (what stands in FROM), as a query: keys and measures of the rows that the
    definitions admit."""
    pieces = dict(split_top(clauses, _CLAUSES))
    variables = {name for name, _ in map(_definition, _listed(pieces.get("DEFINE", "")))}
    variables |= set(re.findall(r"[A-Za-z_]\w*", pieces.get("PATTERN", "")))
    names = "|".join(sorted(map(re.escape, variables)))
    qualified = re.compile(rf"(?<![\w`.])(?:{names})\s*\.\s*(?=[\w`])", re.IGNORECASE)
    if names:  # a variable's columns are the rows' own
        pieces = {clause: qualified.sub("", text) for clause, text in pieces.items()}
    keys = _listed(re.sub(r"^\s*BY\b", "", pieces.get("PARTITION", ""), flags=re.IGNORECASE))
    conditions = [condition for _, condition in map(_definition, _listed(pieces.get("DEFINE", "")))]
    query = f"SELECT {', '.join([*keys, *_listed(pieces.get('MEASURES', ''))]) or '*'} FROM {rows}"
    if conditions:
        query += " WHERE " + " AND ".join(f"({condition})" for condition in conditions)
    if keys:
        query += " GROUP BY " + ", ".join(str(position + 1) for position in range(len(keys)))
    if "ORDER" in pieces:
        query += f" ORDER {pieces['ORDER']} LIMIT 1"
    return query


def _listed(text: str) -> list[str]:
    return [one for _, one in split_top(text, _COMMA) if one]


def _first_change(text: str) -> str | None:
    found = lexemes(text)
    for at, lexeme in enumerate(found):
        follows = found[at + 1].word if at + 1 < len(found) else ""
        if lexeme.word == "WITH" and follows == "(":
            end = _closing(found, at + 1)
            return _replaced(text, lexeme.start, found[end].end, _with_expression(_inside(text, found, at + 1, end)))
        if lexeme.word == "WITH" and follows == "DEPTH" and at and found[at - 1].word == ")":
            return _with_depth(text, found, at)
        if lexeme.word == "MATCH_RECOGNIZE" and follows == "(":
            end = _closing(found, at + 1)
            start = _start_of_source(found, at)
            rows = text[found[start].start : lexeme.start]
            query = rows_matched(_inside(text, found, at + 1, end), rows)
            return _replaced(text, found[start].start, found[end].end, f"({query})")
        if lexeme.word == "GRAPH_TABLE" and follows == "(" and _closing(found, at + 1) > at + 2:
            return _replaced(text, lexeme.start, found[_closing(found, at + 1)].end, "GRAPH_TABLE()")
        if lexeme.word == "LOAD" and follows == "DATA":
            plain = _load(text, found)
            return plain if plain != text else None
        if lexeme.word == "MODEL" and at and found[at - 1].word in ("CREATE", "REPLACE"):
            return _model(text, found)
    return None


def _replaced(text: str, start: int, end: int, new: str) -> str:
    return f"{text[:start]}{new}{text[end:]}"


def _closing(found: list[Lexeme], opened: int) -> int:
    """Position of the parenthesis that closes the one at `opened`; the last lexeme when none does."""
    depth = 0
    for position in range(opened, len(found)):
        depth += {"(": 1, ")": -1}.get(found[position].word, 0)
        if depth == 0:
            return position
    return len(found) - 1


def _opening(found: list[Lexeme], closed: int) -> int:
    depth = 0
    for position in range(closed, -1, -1):
        depth += {")": 1, "(": -1}.get(found[position].word, 0)
        if depth == 0:
            return position
    return 0


def _inside(text: str, found: list[Lexeme], opened: int, closed: int) -> str:
    return text[found[opened].end : found[closed].start]


def _with_expression(inside: str) -> str:
    """WITH(x AS 1, y AS x + 1, x + y): each name sees those before it."""
    *named, (_, body) = split_top(inside, _COMMA)
    rows = ""
    for name, value in (_definition(one) for _, one in named):
        rows = f"(SELECT *, {value} AS {name} FROM {rows})" if rows else f"(SELECT {value} AS {name})"
    return f"(SELECT {body} FROM {rows})" if rows else f"({body})"


def _definition(text: str) -> tuple[str, str]:
    """`name AS expression`."""
    name, _, expression = re.sub(r"^\s*(`[^`]+`|\w+)\s+AS\b", r"\1 AS", text, flags=re.IGNORECASE).partition(" AS")
    return name.strip(), expression.strip()


def _with_depth(text: str, found: list[Lexeme], at: int) -> str:
    """`name AS (…) WITH DEPTH AS depth`: one more column, around the entry."""
    clause = _DEPTH.match(text, found[at - 1].end)
    opened = _opening(found, at - 1)
    name = text[found[opened - 2].start : found[opened - 2].end] if opened > 1 else ""
    if clause is None or not name:
        return _replaced(text, found[at].start, found[at + 1].end, "")
    body = text[found[opened].start : found[at - 1].end]
    entry = f"(WITH RECURSIVE {name} AS {body} SELECT *, 0 AS {clause[1] or 'depth'} FROM {name})"
    return _replaced(text, found[opened].start, clause.end(), entry)


def _start_of_source(found: list[Lexeme], at: int) -> int:
    """Where what stands in FROM before the lexeme at `at` starts."""
    position = at
    while position and found[position - 1].word not in ("FROM", "JOIN", ",", "("):
        position -= 1
        if found[position].word == ")":
            position = _opening(found, position)
    return position


def _load(text: str, found: list[Lexeme]) -> str:
    """LOAD DATA: the table, its columns, the files; partition columns are columns."""
    files = next((at for at, one in enumerate(found) if one.word == "FILES" and found[at - 1].word == "FROM"), None)
    if files is None or files + 1 >= len(found):
        return text
    end = _closing(found, files + 1)
    tail = text[found[end].end :]
    extra = re.search(r"\bWITH\s+PARTITION\s+COLUMNS\s*\(([^()]*)\)", tail, re.IGNORECASE)
    head = re.sub(
        r"\s*\b(?:(?:PARTITION|CLUSTER)\s+BY|OPTIONS\s*\(|(?:OVERWRITE\s+)?PARTITIONS\s*\().*$",
        "",
        text[: found[files - 1].start],
        flags=re.IGNORECASE | re.DOTALL,
    ).rstrip()
    if extra is not None and head.endswith(")"):
        head = f"{head[:-1]}, {extra[1]})"
    return f"{head} {text[found[files - 1].start : found[end].end]}"


def _model(text: str, found: list[Lexeme]) -> str | None:
    """CREATE MODEL … AS (name AS (query), …): trained on the columns of all of them."""
    for at in range(1, len(found) - 1):
        if found[at - 1].word == "AS" and found[at].word == "(":
            inputs = [
                _definition(one)[1] for _, one in split_top(_inside(text, found, at, _closing(found, at)), _COMMA)
            ]
            if not all(one.startswith("(") for one in inputs):
                return None
            return f"{text[: found[at].start]}SELECT * FROM {' CROSS JOIN '.join(inputs)}"
    return None
