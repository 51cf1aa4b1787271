"""Statements that are nearly right: whatever stands in a text, `resolve` answers, and soon."""

import random
import re
import sys
import time
from pathlib import Path

from dataplatform.lineage.catalog import Catalog
from dataplatform.lineage.resolve import resolve

sys.path.insert(0, str(Path(__file__).parent))
from lineage_cases import cases_catalog, read_cases

PIECES = [
    "SELECT",
    "(",
    ")",
    "*",
    ".",
    ",",
    "FROM",
    "UNNEST(",
    "STRUCT(",
    " AS ",
    "EXCEPT",
    ".x",
    "[0]",
    "JOIN",
    "IF",
    "END",
    ";",
]
PIECES += ["BEGIN", "|>", "CASE", "WITH", "'", "`", "/*", "@", "OVER", "QUALIFY", "MERGE", "CALL"]


def test_mutated_cases_are_answered() -> None:
    chosen = random.Random(5)
    statements = [case.statement for case in read_cases()]
    catalogs = [cases_catalog(), Catalog()]
    answered = told = 0
    for _ in range(1500):
        words = re.findall(r"\w+|[^\w\s]|\s+", chosen.choice(statements))
        for _ in range(chosen.randint(1, 3)):
            at = chosen.randrange(len(words))
            kind = chosen.random()
            if kind < 0.4 and len(words) > 1:
                del words[at]
            elif kind < 0.7:
                words[at] = chosen.choice(words)
            else:
                words.insert(at, chosen.choice(PIECES))
        text = "".join(words)
        started = time.process_time()
        result = resolve(text, chosen.choice(catalogs), project="p", default_dataset="p.d", destination="p.d.out")
        assert time.process_time() - started < 5, text
        answered += 1
        told += bool(result.edges)
    assert answered == 1500
    assert told > 250


def test_a_prefix_of_a_statement_is_answered() -> None:
    catalog = cases_catalog()
    for case in read_cases()[::7]:
        for end in range(1, len(case.statement), 9):
            resolve(case.statement[:end], catalog, project="p", default_dataset="p.d", destination="p.d.out")


def test_a_pipe_behind_a_parenthesis_that_nothing_opened_is_a_mistake() -> None:
    result = resolve(
        ") .t |> SELECT a |> UNION ALL (SELECT b, e( FROM t)", Catalog(), project="p", default_dataset="p.d"
    )
    assert [one.reason for one in result.unresolved] == ["syntax"]
