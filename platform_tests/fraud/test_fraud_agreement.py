"""The compiled function, the traced evaluator and the SQL say the same about every policy and every fact."""

import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dataplatform.fraud.compiled import compile_policy, decision
from dataplatform.fraud.engine import runner
from dataplatform.fraud.expression import parse_rule, print_expression
from dataplatform.fraud.policies import parse_policy, print_policy
from dataplatform.fraud.policy_sql import decide_by_sql
from dataplatform.fraud.traced import trace_policy
from dataplatform.warehouse.client import Warehouse

sys.path.insert(0, str(Path(__file__).parent))
from strategies import EXPRESSIONS, cases, policies

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=250, deadline=None, suppress_health_check=QUIET)
@given(EXPRESSIONS)
def test_printed_rules_read_back(expression):
    assert parse_rule(print_expression(expression)) == expression


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(policies())
def test_printed_policies_read_back(policy):
    assert parse_policy(print_policy(policy)).policy == policy


def agree(case):
    decide = compile_policy(case.typed, case.parameters, case.lists)
    decided = []
    for facts in case.facts:
        compiled = decision(decide(facts))
        assert compiled == trace_policy(case.typed, case.parameters, case.lists, facts).decision, facts
        decided.append(compiled)
    return decided


@settings(max_examples=200, deadline=None, suppress_health_check=QUIET)
@given(cases())
def test_compiled_agrees_with_traced(case):
    agree(case)


@pytest.mark.long
@settings(max_examples=3_000, deadline=None, suppress_health_check=QUIET)
@given(cases(min_facts=5, max_facts=12))
def test_compiled_agrees_with_traced_long(case):
    agree(case)


def agree_with_sql(warehouse, seed_number, policies_wanted, facts_wanted):
    """Judge many facts by many policies on the server, one statement a policy; gives the number of cases."""
    run = runner(warehouse)
    compared = 0

    @seed(seed_number)
    @settings(
        max_examples=policies_wanted,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(cases(max_rules=5, min_facts=8, max_facts=14), st.integers(0, 2**32))
    def compare(case, shuffle):
        nonlocal compared
        # Hypothesis draws few rows at a time: more are made by mixing the facts of those.
        chance = random.Random(shuffle)
        rows = list(case.facts)
        while len(rows) < facts_wanted:
            a, b = chance.choice(case.facts), chance.choice(case.facts)
            rows.append({k: v for k, v in {**a, **b}.items() if chance.random() < 0.85})
        decide = compile_policy(case.typed, case.parameters, case.lists)
        expected = [decision(decide(row)) for row in rows]
        found = decide_by_sql(run, case.typed, case.parameters, case.lists, rows)
        for row, one, other in zip(rows, expected, found, strict=True):
            assert one == other, row
        compared += len(rows)

    compare()
    return compared


def test_sql_agrees(bigquery, settings_for):
    assert agree_with_sql(Warehouse(settings_for()), 20261124, 20, 120) >= 1_500


@pytest.mark.long
def test_sql_agrees_long(bigquery, settings_for):
    total = sum(agree_with_sql(Warehouse(settings_for()), each, 40, 120) for each in (1, 2, 3))
    assert total >= 10_000
