"""Python's verdict and the compiled SQL come to the same end for random events of random contracts."""

import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from agreement import Tables, disagreements, outcomes
from random_events import random_contract, random_event

from dataplatform.events.verdict import Judge

SEEDS = st.integers(0, 2**32 - 1)


def python_and_sql_agree(settings_for: Any, bigquery: Any, seed: int, contracts: int, events: int) -> None:
    random = Random(seed)
    all_contracts = [random_contract(random, f"make{seed}x{index}") for index in range(contracts)]
    texts = [random_event(random, random.choice(all_contracts), number) for number in range(events)]
    tables = Tables(
        settings_for(dataset_prefix=f"agree{seed}_", bucket=f"agree{seed}"), bigquery.gcs_root, all_contracts
    )
    found = outcomes(tables, texts)
    wrong = disagreements(tables.contracts, texts, found)
    assert not wrong, f"seed {seed}: {len(wrong)} of {events}\n" + "\n".join(wrong[:5])
    accepted = sum(verdict.accepted for verdict, _ in found)
    assert events / 10 < accepted < events, f"seed {seed}: {accepted} of {events} accepted, which tests little"


def test_python_and_sql_agree(settings_for: Any, bigquery: Any) -> None:
    python_and_sql_agree(settings_for, bigquery, seed=20260102, contracts=3, events=900)


@pytest.mark.long
@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.generate],  # a failing seed names its events; to shrink a seed tells nothing
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=SEEDS)
def test_python_and_sql_agree_on_many_contracts(settings_for: Any, bigquery: Any, seed: int) -> None:
    python_and_sql_agree(settings_for, bigquery, seed, contracts=6, events=2_000)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_the_quick_way_accepts_only_what_the_exact_way_accepts(seed: int) -> None:
    random = Random(seed)
    contract = random_contract(random, "make")
    judge = Judge({contract.name: contract})
    events = [random_event(random, contract, number) for number in range(30)]
    exactly = [judge.judge_exactly(event) for event in events]
    for event, verdict in zip(events, exactly, strict=True):
        assert judge.judge(event) == verdict, event
    assert judge.judge_all(events) == exactly
    surely = [event for event, verdict in zip(events, exactly, strict=True) if verdict.accepted]
    assert judge.judge_all(surely) == [verdict for verdict in exactly if verdict.accepted]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200) | st.binary(max_size=50).map(lambda raw: raw.decode("latin-1")))
def test_any_text_has_a_verdict(text: str) -> None:
    contract = random_contract(Random(1), "make")
    judge = Judge({contract.name: contract})
    for raw in (text.encode("utf-8", "surrogatepass"), text.encode("utf-16")):
        verdict = judge.judge(raw)
        assert verdict == judge.judge_exactly(raw)
        assert verdict.reasons
