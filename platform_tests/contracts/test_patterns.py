"""A contract's patterns mean the same in Python and in RE2. The judge is RE2 itself, which pyarrow brings along."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplatform.contracts.patterns import PatternError, check_pattern, compile_pattern, portable_pattern

CASES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "cases" / "patterns.yaml").read_text())
ATOMS = [
    *"ab-_ 0é한", ".", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\b", "^", "$", r"\.", r"\x41", r"\n", r"\v", r"\-", "|",
    "[ab]", r"[^\d]", r"[\s\S]", "[a-z_-]", r"[\W]", "[é-한]", "(a)", "(?:b|)", "(",
]  # fmt: skip
QUANTIFIERS = ["", "", "", "*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "??"]
patterns = st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(QUANTIFIERS)), max_size=5).map(
    lambda parts: "".join(atom + quantifier for atom, quantifier in parts)
)
texts = st.text(st.sampled_from([*"ab-_ 0Aé한.\n\v\t\r", "\u00a0", "٣", "😀"]), max_size=6)


def re2_takes(pattern: str, text: str) -> bool:
    found = pc.match_substring_regex(pa.array([text]), rf"\A(?:{pattern})\z")
    result: bool = found[0].as_py()
    return result


@pytest.mark.parametrize("case", CASES["taken"], ids=lambda case: repr(case["pattern"]))
def test_taken(case: dict[str, Any]) -> None:
    compiled = compile_pattern(case["pattern"])
    for text in [*case["takes"], *case["refuses"]]:
        expected = text in case["takes"]
        assert bool(compiled.fullmatch(text)) is expected, repr(text)
        assert re2_takes(case["pattern"], text) is expected, repr(text)
        assert bool(re.search(portable_pattern(case["pattern"]), text)) is expected, repr(text)


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["pattern"])
def test_refused(case: dict[str, str]) -> None:
    with pytest.raises(PatternError, match=re.escape(case["because"])):
        check_pattern(case["pattern"])


@settings(max_examples=600, deadline=None)
@given(patterns, st.lists(texts, min_size=1, max_size=4))
def test_what_is_taken_means_the_same_in_re2(pattern: str, samples: list[str]) -> None:
    try:
        compiled = compile_pattern(pattern)
    except PatternError:
        return
    for text in samples:
        assert bool(compiled.fullmatch(text)) == re2_takes(pattern, text)


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from([*r"ab0(){}[]|*+?^$.\,-:=!<>PdswSDWbBZz&~"]), max_size=10))
def test_whatever_is_taken_is_known_to_re2(pattern: str) -> None:
    try:
        compiled = compile_pattern(pattern)
    except PatternError:
        return
    assert bool(compiled.fullmatch("ab")) == re2_takes(pattern, "ab")


def test_a_pattern_has_a_length() -> None:
    check_pattern("a" * 1000)
    with pytest.raises(PatternError, match="1000"):
        check_pattern("a" * 1001)
