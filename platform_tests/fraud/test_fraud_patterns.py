"""What the shipped policies catch of labelled fraud, held so that a change of a policy shows."""

from pathlib import Path

from dataplatform.fraud.catalog import load_catalog
from dataplatform.fraud.patterns import Caught, judge_acts, simulate, table


def test_the_shipped_policies_catch_the_patterns():
    catalog = load_catalog(Path(__file__).parents[2] / "schemas")
    acts = simulate(people=80, frauds=4, seed=3)
    assert simulate(people=80, frauds=4, seed=3) == acts
    rows = {row["pattern"]: row for row in table(judge_acts(catalog, acts))}
    for pattern in ("takeover", "mule_fan_out", "fast_in_out", "triangulation", "escrow_link", "slow_ramp"):
        assert rows[pattern]["warned"] >= 0.5, pattern
        assert rows[pattern]["precision"] >= 0.8, pattern
    for pattern in ("mule_fan_out", "escrow_link", "slow_ramp"):
        assert rows[pattern]["alerted"] >= 0.5, pattern
    assert rows["honest"]["stops"] <= rows["honest"]["decisions"] * 0.005
    assert rows["honest"]["alerts"] <= rows["honest"]["decisions"] * 0.005
    assert rows["all frauds"]["caught"] >= 0.75
    assert rows["all frauds"]["precision"] >= 0.8


def test_precision_of_a_pattern_is_of_the_rules_that_fired_on_it():
    """Two warnings by one rule, one of them of an honest person; another rule that was always right."""
    shared, own = ("p", "shared"), ("p", "own")
    caught = {
        "mule": Caught(actors={"a", "b"}, warned={"a"}, warnings=1, rules={shared}, flagged=[frozenset({shared})]),
        "ramp": Caught(actors={"c"}, alerted={"c"}, alerts=1, rules={own}, flagged=[frozenset({own})]),
        "honest": Caught(actors={"h"}, warned={"h"}, warnings=1, rules={shared}, flagged=[frozenset({shared})]),
    }
    rows = {row["pattern"]: row for row in table(caught)}
    assert (rows["mule"]["caught"], rows["mule"]["precision"]) == (0.5, 0.5)
    assert (rows["ramp"]["caught"], rows["ramp"]["precision"]) == (1.0, 1.0)
    assert (rows["honest"]["precision"], rows["all frauds"]["precision"]) == (None, 2 / 3)
