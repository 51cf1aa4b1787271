"""The compiled function, the traced evaluator and the SQL say the same about every policy and every fact."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dataplatform.fraud.compiled import compile_policy, decision
from dataplatform.fraud.engine import runner
from dataplatform.fraud.expression import parse_rule, print_expression
from dataplatform.fraud.fact_types import DeclaredFact
from dataplatform.fraud.facts import check_facts
from dataplatform.fraud.policies import parse_policy, print_policy
from dataplatform.fraud.policy_sql import decide_by_sql
from dataplatform.fraud.staging import staged_lists
from dataplatform.fraud.traced import trace_policy
from dataplatform.warehouse.client import Warehouse

sys.path.insert(0, str(Path(__file__).parent))
from strategies import EXPRESSIONS, cases, policies

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=80, deadline=None, suppress_health_check=QUIET)
@given(EXPRESSIONS)
def test_printed_rules_read_back(expression):
    assert parse_rule(print_expression(expression)) == expression


@settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
@given(policies())
def test_printed_policies_read_back(policy):
    assert parse_policy(print_policy(policy)).policy == policy


@pytest.mark.long
@settings(max_examples=2_000, deadline=None, suppress_health_check=QUIET)
@given(EXPRESSIONS)
def test_printed_rules_read_back_long(expression):
    assert parse_rule(print_expression(expression)) == expression


@pytest.mark.long
@settings(max_examples=600, deadline=None, suppress_health_check=QUIET)
@given(policies())
def test_printed_policies_read_back_long(policy):
    assert parse_policy(print_policy(policy)).policy == policy


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\n", "\x07", "\ufeff"])
def test_texts_with_odd_characters_read_back(character):
    parsed = parse_policy(
        "policy: p\nevent: e\nunknown: pass\nparameters: {t: {type: STRING, default: x}}\n"
        "rules: [{name: r, when: f.a = $t, score: 1}]\n"
    ).policy
    policy = replace(parsed, parameters=(replace(parsed.parameters[0], default=f"a{character}b{character}"),))
    assert parse_policy(print_policy(policy)).policy == policy


def agree(case):
    decide = compile_policy(case.typed, case.parameters, case.lists)
    decided = []
    for facts in case.facts:
        compiled = decision(decide(facts))
        assert compiled == trace_policy(case.typed, case.parameters, case.lists, facts).decision, facts
        decided.append(compiled)
    return decided


@settings(max_examples=80, deadline=None, suppress_health_check=QUIET)
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
    assert agree_with_sql(Warehouse(settings_for()), 20261124, 10, 120) >= 1_000


@pytest.mark.long
def test_sql_agrees_long(bigquery, settings_for):
    total = sum(agree_with_sql(Warehouse(settings_for()), each, 40, 120) for each in (1, 2, 3))
    assert total >= 10_000


DECLARED = """\
policy: p
event: e
unknown: hold
parameters:
  since: {type: TIMESTAMP, default: "2026-01-10T00:00:00+09:00"}
  born: {type: DATE, default: "2000-02-29"}
  large: {type: NUMERIC, default: 99.99}
  ratio: {type: FLOAT64, default: 0.1}
rules:
  - {name: a, when: at >= $since AND at < '2026-02-01T00:00:00.000001Z', score: 1}
  - {name: b, when: day > $born OR day = '1999-12-31', score: 2}
  - {name: c, when: exact >= $large AND exact != 100.10, score: 4}
  - {name: d, when: whole < 2.5 OR whole >= 9007199254740993, score: 8}
  - {name: e, when: real <= $ratio AND real > -9007199254740993, score: 16}
  - {name: f, when: flag != FALSE, score: 32}
  - {name: g, when: whole IN LIST numbers OR real IN LIST numbers OR exact IN LIST numbers, score: 64}
  - {name: h, when: code IN LIST many, level: block}
levels: {monitor: 10, hold: 60}
"""
TYPES = {
    "at": "TIMESTAMP",
    "day": "DATE",
    "exact": "NUMERIC",
    "whole": "INT64",
    "real": "FLOAT64",
    "flag": "BOOL",
    "code": "STRING",
}
VALUES = {
    "at": [
        "2026-01-09T15:00:00Z",
        "2026-01-09T14:59:59.999999Z",
        "2026-02-01T00:00:00Z",
        "2026-02-01T00:00:00.000001Z",
    ],
    "day": ["2000-02-29", "2000-03-01", "1999-12-31"],
    "exact": [99.99, 99.989999999, 100.1, 100, 3, 0.1, 12345678901234567],
    "whole": [2, 3, 9007199254740992, 9007199254740993, -(2**63), 5],
    "real": [0.1, 0.10000000000000002, -9007199254740992.0, -9007199254740994.0, 3.0, 5.5],
    "flag": [True, False],
    "code": ["k0", "k299", "k300", "K0", ""],
}


def test_declared_types_agree(bigquery, settings_for):
    """Times, dates, exact decimals and a list too long for the statement, by all three evaluators."""
    lists = {"numbers": frozenset({3, 5.5, 0.1}), "many": frozenset(f"k{number}" for number in range(300))}
    declared = {name: DeclaredFact(held) for name, held in TYPES.items()}
    typed = parse_policy(DECLARED, lists={"numbers": "NUMBER", "many": "STRING"}, declared=declared)
    chance = random.Random(1)
    rows = []
    for _ in range(300):
        given = {name: chance.choice([*values, None]) for name, values in VALUES.items()}
        facts, problems = check_facts(typed, given)
        assert not problems
        rows.append(facts)
    parameters = typed.policy.defaults()
    decide = compile_policy(typed, parameters, lists)
    expected = [decision(decide(row)) for row in rows]
    assert expected == [trace_policy(typed, parameters, lists, row).decision for row in rows]
    warehouse = Warehouse(settings_for())
    with staged_lists(warehouse, typed, lists) as list_table:
        run, sent = runner(warehouse), []

        def recorded(statement, arrays):
            sent.append((len(statement), set(arrays)))
            return run(statement, arrays)

        found = decide_by_sql(recorded, typed, parameters, lists, rows, list_table)
    # Neither text nor parameters grow with a long list: it was sent once, for all statements.
    assert [arrays for _, arrays in sent] == [{"rows"}] and sent[0][0] < 10_000
    assert not warehouse.tables("fraud_staging")
    for row, one, other in zip(rows, expected, found, strict=True):
        assert one == other, row
