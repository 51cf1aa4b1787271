"""Every case tells exactly its edges."""

import sys
from pathlib import Path

import pytest

from dataplatform.lineage import resolve

sys.path.insert(0, str(Path(__file__).parent))
from lineage_cases import Case, cases_catalog, read_cases, told

ALL = read_cases()
CATALOG = cases_catalog()


@pytest.mark.parametrize("case", ALL, ids=[f"{case.file}: {case.title}" for case in ALL])
def test_case(case: Case) -> None:
    result = resolve(case.statement, CATALOG, project="p", default_dataset="p.d", destination="p.d.out")
    found = told(result)
    problems = [f"missing   {edge}" for edge in sorted(case.edges - found, key=str)]
    problems += [f"unwanted  {edge}" for edge in sorted(found - case.edges, key=str)]
    reasons = {(one.target_column, one.reason, one.detail) for one in result.unresolved}
    for expected in case.unresolved:
        match = {one for one in reasons if one[:2] == expected[:2] and one[2].startswith(expected[2])}
        problems += [] if match else [f"missing reason   {expected}"]
        reasons -= match
    problems += [f"unwanted reason  {one}" for one in sorted(reasons, key=str)]
    assert not problems, "\n".join(["", case.statement, *problems])


def test_there_are_enough_cases() -> None:
    assert len(ALL) >= 250
    assert len({(case.file, case.title) for case in ALL}) == len(ALL)
