"""Parameters live: bounds, versions, conflicts, roles, two persons, rollback, lists with expiry, the Git copy."""

import threading
from pathlib import Path

import pytest

from dataplatform.contracts.errors import ContractError
from dataplatform.fraud.parameters import (
    ConflictError,
    NotAllowedError,
    ParameterStore,
    UnknownVersionError,
    export_live,
)
from dataplatform.fraud.policies import parse_policy

POLICY = """\
policy: transfer
event: e
unknown: monitor
parameters:
  min_membership: {type: INT64, unit: days, default: 30, min: 0, max: 365}
  large: {type: NUMERIC, unit: KRW, default: 1000000, min: 0, max: 50000000}
rules:
  - {name: new, when: age < $min_membership AND amount >= $large AND age > 2, level: LEVEL}
  - {name: watched, when: receiver IN LIST watched, level: hold}
"""


def open_store(path, level="block"):
    policies = {"transfer": parse_policy(POLICY.replace("LEVEL", level))}
    store = ParameterStore(f"sqlite:///{path / 'p.sqlite'}", policies)
    for user, role in (("vera", "viewer"), ("ed", "editor"), ("eve", "editor"), ("ada", "approver")):
        store.grant(user, role, by="root")
    return store


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def test_a_change_goes_live_by_two_persons(store):
    before = store.generation()
    draft = store.propose("transfer", {"min_membership": "70 days"}, base_version=1, by="ed", reason="A wave of mules.")
    assert (draft.version, draft.state, draft.values["min_membership"]) == (2, "draft", 70)
    assert store.generation() == before
    with pytest.raises(NotAllowedError, match="second person"):
        store.advance("transfer", 2, "live", by="ed")
    with pytest.raises(NotAllowedError, match="approver"):
        store.approve("transfer", 2, by="eve")
    store.record_dry_run("transfer", 2, {"changed": 3}, by="ed")
    store.advance("transfer", 2, "shadow", by="ed")
    assert store.snapshot().policies["transfer"].shadow.version == 2
    store.approve("transfer", 2, by="ada")
    store.advance("transfer", 2, "share", by="ed", share_percent=10)
    store.advance("transfer", 2, "live", by="ed")
    in_force = store.snapshot().policies["transfer"]
    assert (in_force.live.version, in_force.shadow, in_force.share) == (2, None, None)
    assert store.values(in_force.live)["min_membership"] == 70
    assert store.generation() > before
    assert store.version("transfer", 1).state == "retired"
    assert [each["what"] for each in store.changes("transfer")] == [
        "live",
        "share",
        "approve",
        "shadow",
        "dry_run",
        "propose",
    ]


def test_an_author_cannot_approve(store):
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ada", reason="why")
    with pytest.raises(NotAllowedError, match="wrote"):
        store.approve("transfer", 2, by="ada")


def test_a_policy_that_blocks_nobody_needs_one_person(tmp_path):
    store = open_store(tmp_path, level="hold")
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    assert store.advance("transfer", 2, "live", by="ed").state == "live"


def test_two_editors_at_once_one_gets_a_conflict_with_the_difference(tmp_path):
    store = open_store(tmp_path, level="hold")
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    store.propose("transfer", {"large": 5}, base_version=1, by="eve", reason="why")
    store.advance("transfer", 2, "live", by="ed")
    with pytest.raises(ConflictError) as error:
        store.advance("transfer", 3, "live", by="eve")
    assert error.value.difference == {
        "min_membership": {"base": 30, "live": 70, "wanted": 30},
        "large": {"base": 1000000, "live": 1000000, "wanted": 5},
    }
    with pytest.raises(ConflictError) as error:
        store.propose("transfer", {"min_membership": 20}, base_version=1, by="eve", reason="why")
    assert error.value.difference == {"min_membership": {"base": 30, "live": 70, "wanted": 20}}


def test_a_race_of_editors_has_one_winner(tmp_path):
    store = open_store(tmp_path, level="hold")
    for _ in range(6):
        store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    outcomes = []

    def run(version):
        own = ParameterStore(store.url, store.policies)
        try:
            outcomes.append(own.advance("transfer", version, "live", by="ed").state)
        except ConflictError:
            outcomes.append("conflict")

    threads = [threading.Thread(target=run, args=(version,)) for version in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 5 + ["live"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"min_membership": 366}, "out_of_bounds"),
        ({"min_membership": "30 hours"}, "wrong_unit"),
        ({"min_membership": 2.5}, "wrong_type"),
        ({"min_membershi": 3}, "unknown_parameter"),
        ({"min_membership": 2}, "cannot_fire"),
        ({"large": float("nan")}, "not_finite"),
    ],
)
def test_a_wrong_change_is_refused(store, changes, code):
    with pytest.raises(ContractError) as error:
        store.propose("transfer", changes, base_version=1, by="ed", reason="why")
    assert [problem.code for problem in error.value.problems] == [code]
    assert len(store.versions("transfer")) == 1


def test_roles(store):
    for user in ("vera", "nobody"):
        with pytest.raises(NotAllowedError):
            store.propose("transfer", {"min_membership": 70}, base_version=1, by=user, reason="why")
    with pytest.raises(UnknownVersionError):
        store.propose("unknown", {}, base_version=1, by="ed", reason="why")


def test_rollback(tmp_path):
    store = open_store(tmp_path, level="hold")
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    store.advance("transfer", 2, "live", by="ed")
    back = store.rollback("transfer", by="eve", reason="Too many holds.")
    assert (back.version, back.state, back.values["min_membership"]) == (3, "live", 30)
    assert store.rollback("transfer", by="eve", reason="No, it was right.", to=2).values["min_membership"] == 70
    assert [each.state for each in store.versions("transfer")] == ["live", "retired", "retired", "retired"]


def test_lists_with_expiry(tmp_path):
    now = [1_000_000]
    store = open_store(tmp_path)
    store.clock = lambda: now[0]
    store.put_entries("watched", ["a", "b"], by="ed", reason="Reported.", expires_at=2_000_000)
    store.put_entries("watched", ["c"], by="ed", reason="Confirmed.")
    snapshot = store.snapshot()
    assert snapshot.lists["watched"] == {"a", "b", "c"} and snapshot.next_expiry == 2_000_000
    now[0] = 2_000_000
    assert store.snapshot().lists["watched"] == {"c"}
    assert store.remove_entries("watched", ["c", "x"], by="ed", reason="Mistake.") == 1
    with pytest.raises(Exception, match="one list"):
        store.put_entries("watched", [5], by="ed", reason="why")


def test_parameters_survive_and_the_git_copy_follows(tmp_path):
    store = open_store(tmp_path, level="hold")
    assert len(export_live(store, tmp_path / "copy")) == 1
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    assert export_live(store, tmp_path / "copy") == []
    store.advance("transfer", 2, "live", by="ed")
    again = ParameterStore(store.url, store.policies)
    assert again.snapshot().policies["transfer"].live.version == 2
    [file] = export_live(again, tmp_path / "copy")
    assert "version: 2" in file.read_text() and "unit: days" in file.read_text()
    assert isinstance(file, Path)
