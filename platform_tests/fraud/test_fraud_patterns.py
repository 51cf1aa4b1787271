"""What the shipped policies catch of labelled fraud, held so that a change of a policy shows."""

from pathlib import Path

from dataplatform.fraud.catalog import load_catalog
from dataplatform.fraud.patterns import judge_acts, simulate, table


def test_the_shipped_policies_catch_the_patterns():
    catalog = load_catalog(Path(__file__).parents[2] / "schemas")
    acts = simulate(people=80, frauds=4, seed=3)
    assert simulate(people=80, frauds=4, seed=3) == acts
    rows = {row["pattern"]: row for row in table(judge_acts(catalog, acts))}
    for pattern in ("takeover", "mule_fan_out", "fast_in_out", "triangulation", "escrow_link", "slow_ramp"):
        assert rows[pattern]["warned"] >= 0.5, pattern
    assert rows["honest"]["stops"] <= rows["honest"]["decisions"] * 0.005
    assert rows["all frauds"]["warned"] >= 0.75
    assert rows["all frauds"]["precision_stopped"] >= 0.8
