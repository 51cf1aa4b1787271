"""Parameters live: bounds, versions, conflicts, roles, two persons, rollback, lists with expiry, the Git copy."""

import threading

import pytest

from dataplatform.contracts.errors import ContractError
from dataplatform.errors import PlatformError
from dataplatform.fraud.cases import CaseAlert, CaseDecision, Cases
from dataplatform.fraud.dry_runs import BusyError, DryRuns, Question
from dataplatform.fraud.git_copy import export_live
from dataplatform.fraud.parameters import (
    ConflictError,
    NotAllowedError,
    ParameterStore,
    UnknownVersionError,
    database_url,
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


def policies_of(level):
    return {"transfer": parse_policy(POLICY.replace("LEVEL", level))}


def open_store(database, level="block"):
    store = ParameterStore(database, policies_of(level))
    for user, role in (("vera", "viewer"), ("ed", "editor"), ("eve", "editor"), ("ada", "approver")):
        store.grant(user, role, by="root")
    return store


@pytest.fixture
def store(database):
    return open_store(database)


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


def test_a_policy_that_blocks_nobody_needs_one_person(database):
    store = open_store(database, level="hold")
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    assert store.advance("transfer", 2, "live", by="ed").state == "live"


def test_two_editors_at_once_one_gets_a_conflict_with_the_difference(database):
    store = open_store(database, level="hold")
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


def test_a_race_of_editors_has_one_winner(database):
    store = open_store(database, level="hold")
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


def test_many_processes_that_start_at_once_make_one_database(database):
    """Whoever comes first migrates and seeds; nobody fails."""
    outcomes = []

    def start():
        try:
            outcomes.append(ParameterStore(database, policies_of("hold")).snapshot().policies["transfer"].live.version)
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [1] * 6
    assert len(ParameterStore(database, policies_of("hold")).versions("transfer")) == 1


def test_alerts_of_one_entity_at_once_make_one_case(database):
    store = open_store(database)
    evidence = {"facts": {"name": "\U0001f600 가"}}

    def take(number):
        alert = CaseAlert(f"a{number}", number, "p", "e", f"e{number}", "user", "u1", "hold", 5, evidence)
        for _ in range(2):
            Cases(ParameterStore(database, store.policies)).take(alert, [CaseDecision("r", 1, "p", "hold", "hold")])

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [case] = Cases(store).find(by="vera")
    found = Cases(store).read(case.id, by="vera")
    assert case.alerts == 6 and len(found["evidence"]) == 6 and len(found["decisions"]) == 1
    assert found["evidence"][0]["evidence"] == evidence


@pytest.mark.parametrize("changes", [{}, {"min_membership": "30 days"}, {"large": 1_000_000, "min_membership": 30}])
def test_a_draft_without_a_change_is_refused(tmp_path, changes):
    store = open_store(f"sqlite:///{tmp_path / 'p.sqlite'}")
    with pytest.raises(PlatformError, match="nothing is changed"):
        store.propose("transfer", changes, base_version=1, by="ed", reason="why")
    assert len(store.versions("transfer")) == 1


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
def test_a_wrong_change_is_refused(tmp_path, changes, code):
    store = open_store(f"sqlite:///{tmp_path / 'p.sqlite'}")
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


def test_rollback(database):
    store = open_store(database, level="hold")
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    store.advance("transfer", 2, "live", by="ed")
    back = store.rollback("transfer", by="eve", reason="Too many holds.")
    assert (back.version, back.state, back.values["min_membership"]) == (3, "live", 30)
    assert store.rollback("transfer", by="eve", reason="No, it was right.", to=2).values["min_membership"] == 70
    assert [each.state for each in store.versions("transfer")] == ["live", "retired", "retired", "retired"]


def test_of_two_who_roll_back_at_once_one_has_a_conflict(database):
    store = open_store(database, level="hold")
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    store.advance("transfer", 2, "live", by="ed")
    store.rollback("transfer", by="ed", reason="Too many holds.", base_version=2)
    with pytest.raises(ConflictError) as conflict:
        store.rollback("transfer", by="eve", reason="Too many holds.", base_version=2)
    assert conflict.value.difference["min_membership"]["live"] == 30
    assert store.snapshot().policies["transfer"].live.values["min_membership"] == 30


def test_lists_with_expiry(database):
    now = [1_000_000]
    store = open_store(database)
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


def test_the_log_says_which_entries_came_and_went(store):
    """Lists are not in the Git copy: who was on one at some time is read from the log."""
    store.put_entries("watched", ["a", "b"], by="ed", reason="Reported.", expires_at=4_102_444_800_000_000)
    store.remove_entries("watched", ["b", "never there"], by="ed", reason="Mistake.")
    removed, added = store.changes("watched")
    assert (added["user"], added["what"], added["detail"]["values"]) == ("ed", "list_add", ["a", "b"])
    assert added["detail"]["expires_at"].startswith("2100-01-01")
    assert (removed["what"], removed["detail"]) == (
        "list_remove",
        {"entries": 1, "reason": "Mistake.", "values": ["b"]},
    )


def test_more_entries_than_a_statement_takes(store):
    many = [f"account-{number:05}" for number in range(33_000)]
    assert store.put_entries("watched", many[:1_200], by="ed", reason="A leak.") == 1_200
    assert store.remove_entries("watched", many[1:], by="ed", reason="They were changed.") == 1_199
    assert store.snapshot().lists["watched"] == {"account-00000"}
    detail = store.changes("watched", limit=1)[0]["detail"]
    assert (detail["entries"], len(detail["values"])) == (1_199, 1_000)


def test_an_entry_twice_and_one_that_nothing_is_found_by(store):
    assert store.put_entries("watched", ["a", "a", "b"], by="ed", reason="Reported.") == 2
    assert store.put_entries("watched", ["b", "c"], by="ed", reason="Reported again.") == 2
    assert store.snapshot().lists["watched"] == {"a", "b", "c"}
    store.remove_entries("watched", ["a", "b", "c"], by="ed", reason="Mistake.")
    with pytest.raises(PlatformError, match="looks for receiver"):
        store.put_entries("watched", [110223333], by="ed", reason="A number where a text is looked for.")


def test_a_list_that_no_policy_uses_and_an_expiry_in_the_past_are_refused(store):
    with pytest.raises(UnknownVersionError, match="did you mean watched"):
        store.put_entries("watchedd", ["a"], by="ed", reason="A slip of the pen.")
    with pytest.raises(UnknownVersionError, match="did you mean watched"):
        store.remove_entries("watchedd", ["a"], by="ed", reason="A slip of the pen.")
    with pytest.raises(UnknownVersionError, match="one of watched"):
        store.entries("nothing like it")
    with pytest.raises(PlatformError, match="1970-01-01T00:00:01Z already"):
        store.put_entries("watched", ["a"], by="ed", reason="Reported.", expires_at=1_000_000)
    assert store.entries("watched") == frozenset()
    # What is left of a list that a policy used once can be taken out.
    store.put_entries("watched", ["a"], by="ed", reason="Reported.")
    store.policies = {"transfer": parse_policy(POLICY.replace("LEVEL", "hold").replace("LIST watched", "LIST other"))}
    assert store.entries("watched") == {"a"}
    assert store.remove_entries("watched", ["a"], by="ed", reason="Not used any more.") == 1


def test_lists_are_read_again_only_where_one_changed(store):
    now = [1_000_000]
    store.clock = lambda: now[0]
    store.put_entries("watched", ["a"], by="ed", reason="Reported.", expires_at=2_000_000)
    first = store.snapshot()
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    store.advance("transfer", 2, "shadow", by="ed")
    second = store.snapshot(first)
    assert second.generation > first.generation and second.policies["transfer"].shadow.version == 2
    assert second.lists is first.lists and second.next_expiry == 2_000_000
    store.put_entries("watched", ["b"], by="ed", reason="Reported.")
    assert store.snapshot(second).lists["watched"] == {"a", "b"}
    store.remove_entries("watched", ["b"], by="ed", reason="Mistake.")
    third = store.snapshot(second)
    assert third.lists["watched"] == {"a"}
    now[0] = 2_000_000
    assert store.snapshot(third).lists["watched"] == set()


def test_parameters_survive_and_the_git_copy_has_all_that_was_ever_live(database, tmp_path):
    store = open_store(database, level="hold")
    copy = tmp_path / "copy"
    written = lambda: sorted(str(file.relative_to(copy)) for file in export_live(store, copy))  # noqa: E731
    assert written() == ["transfer.yaml", "transfer/1.yaml"]
    store.propose("transfer", {"min_membership": 70}, base_version=1, by="ed", reason="why")
    assert written() == []
    # Three changes between two exports: none of them is missing, the one that never went live is none.
    store.advance("transfer", 2, "live", by="ed")
    store.propose("transfer", {"min_membership": 80}, base_version=2, by="ed", reason="shadow only")
    store.advance("transfer", 3, "shadow", by="ed")
    store.propose("transfer", {"min_membership": 90}, base_version=2, by="ed", reason="more")
    store.advance("transfer", 4, "live", by="ed")
    store.rollback("transfer", by="ed", reason="Too many holds.")
    first = (copy / "transfer" / "1.yaml").read_text()
    assert written() == ["transfer.yaml", "transfer/2.yaml", "transfer/4.yaml", "transfer/5.yaml"]
    assert written() == [] and (copy / "transfer" / "1.yaml").read_text() == first
    again = ParameterStore(store.url, store.policies)
    assert again.snapshot().policies["transfer"].live.version == 5
    live = (copy / "transfer.yaml").read_text()
    assert live == (copy / "transfer" / "5.yaml").read_text()
    assert "version: 5" in live and "unit: days" in live and "Too many holds." in live


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ana:hunter2@127.0.0.1:1/fraud", "does not answer"),
        ("oracle+nothing://ana:hunter2@127.0.0.1/fraud", "no such kind"),
        ("postgresql+psycopg2://ana:hunter2@127.0.0.1/fraud", "no such kind"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(tmp_path, url, said):
    with pytest.raises(PlatformError, match=said) as error:
        ParameterStore(database_url(url, tmp_path), policies_of("hold"))
    assert "hunter2" not in str(error.value) and "127.0.0.1" in str(error.value)


def test_what_no_database_holds_is_refused_by_all_alike(database):
    """Numbers beyond a column, texts with NUL, empty and endless reasons: an error with its way out, no driver's failure."""
    store = open_store(database, level="hold")
    cases = Cases(store)
    number = cases.take(CaseAlert("a1", 1, "p", "e", "e1", "user", "u1", "hold", 5, {}))
    for unknown in (
        lambda: store.version("transfer", 2**70),
        lambda: store.approve("transfer", 2**31, by="ada"),
        lambda: store.rollback("transfer", by="ed", reason="why", to=2**40),
        lambda: store.propose("transfer", {"large": 5}, base_version=2**65, by="ed", reason="why"),
        lambda: cases.read(2**70, by="vera"),
        lambda: store.rollback("no policy", by="ed", reason="why"),
    ):
        with pytest.raises(UnknownVersionError):
            unknown()
    for refused in (
        lambda: store.propose("transfer", {"large": 5}, base_version=1, by="ed", reason="a\x00b"),
        lambda: store.rollback("transfer", by="ed", reason=" "),
        lambda: store.put_entries("watched", ["a\x00"], by="ed", reason="why"),
        lambda: store.put_entries("w\x00", ["a"], by="ed", reason="why"),
        lambda: cases.note(number, "\x00", by="ed"),
        lambda: cases.note(number, "y" * 10_001, by="ed"),
        lambda: cases.find(by="vera", entity_key="\x00"),
    ):
        with pytest.raises(PlatformError, match=r"empty|long|NUL"):
            refused()
    assert store.remove_entries("watched", ["a\x00"], by="ed", reason="why") == 0


def test_backtests_are_kept_beside_the_parameters(database, monkeypatch):
    """What runs, what was told and what is silent; one at a time where that is asked for; old ones are forgotten."""
    now = [5_000_000]
    store = ParameterStore(database, policies_of("hold"), clock=lambda: now[0])
    runs = DryRuns(store)
    question = Question("transfer", "2026-01-10T00:00:00+00:00", "2026-01-11T00:00:00+00:00", "ed", 2, {"large": 5})
    run = runs.begin(question, alone=True)
    assert runs.question(run) == question and runs.state("transfer", run)["status"] == "running"
    with pytest.raises(BusyError):
        runs.begin(question, alone=True)
    runs.fail(run, "no table")
    runs.fail(run, "later, which changes nothing")
    assert runs.state("transfer", run) == {
        "id": run,
        "policy": "transfer",
        "start": question.start,
        "end": question.end,
        "by": "ed",
        "version": 2,
        "changes": {"large": 5},
        "status": "failed",
        "error": "no table",
    }
    for unknown in (("other", run), ("transfer", "none"), ("transfer", "a\x00")):
        with pytest.raises(UnknownVersionError):
            runs.state(*unknown)
    monkeypatch.setattr("dataplatform.fraud.dry_runs.KEPT", 3)
    for _ in range(5):
        now[0] += 1
        last = runs.begin(question)
    assert runs.state("transfer", last)["status"] == "running"
    with pytest.raises(UnknownVersionError):
        runs.state("transfer", run)
    now[0] += 31_000_000
    assert runs.state("transfer", last)["error"].startswith("The run was ended")
