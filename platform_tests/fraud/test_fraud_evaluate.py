"""`dataplatform fraud evaluate`, and the traps of three-valued logic by name."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from dataplatform.contracts.errors import ContractError
from dataplatform.fraud.commands import fraud
from dataplatform.fraud.compiled import compile_policy, decision
from dataplatform.fraud.facts import MAX_LINE, read_facts
from dataplatform.fraud.policies import parse_policy
from dataplatform.fraud.traced import trace_policy

CASES = Path(__file__).parent / "cases"
POLICY = """\
policy: transfer
event: send_transfer_pay
unknown: hold
parameters:
  min_membership: {type: INT64, unit: days, default: 30, min: 0, max: 365}
conditions:
  new_member: sender.account_age_days < $min_membership
  watched: receiver.id IN LIST watched_accounts
rules:
  - {name: new_member_fan_out, when: new_member AND sender.distinct_receivers_24h >= 10, score: 60}
  - {name: watched_receiver, when: watched AND NOT (new_member OR amount < 1000), level: block}
levels: {monitor: 30, warn_confirm: 50, hold: 70, block: 90}
"""
LISTS = {"watched_accounts": frozenset({"a"})}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "lists.json").write_text('{"watched_accounts": ["a"]}')

    def run(lines, *more, policy=None):
        if policy:
            (tmp_path / "policy.yaml").write_text(policy)
        (tmp_path / "facts.jsonl").write_text(
            "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        )
        arguments = [
            "--policy",
            "policy.yaml",
            "--facts",
            "facts.jsonl",
            "--lists",
            "lists.json",
            "--output",
            "out.jsonl",
        ]
        paths = [str(tmp_path / each) if "." in each else each for each in arguments]
        result = CliRunner().invoke(fraud, ["evaluate", *paths, *more])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    return run


FACTS = [
    {
        "id": "a",
        "facts": {
            "sender.account_age_days": 12,
            "amount": 5000.5,
            "sender.distinct_receivers_24h": 11,
            "receiver.id": "x",
            "other": [1],
        },
    },
    {
        "id": 2,
        "facts": {
            "sender.account_age_days": 120,
            "amount": 5000,
            "receiver.id": "a",
            "sender.distinct_receivers_24h": None,
        },
    },
    {"id": "c", "facts": {}},
]
DECISIONS = [
    {"id": "a", "level": "warn_confirm", "score": 60, "rules": ["new_member_fan_out"], "unknown": []},
    {"id": 2, "level": "block", "score": 0, "rules": ["watched_receiver"], "unknown": []},
    {"id": "c", "level": "hold", "score": 0, "rules": [], "unknown": ["new_member_fan_out", "watched_receiver"]},
]


@pytest.mark.parametrize("engine", ["compiled", "traced"])
def test_evaluate(files, engine):
    assert files(FACTS, "--engine", engine) == DECISIONS


def test_evaluate_by_sql(files, settings_for, monkeypatch):
    from dataplatform.fraud import engine

    settings = settings_for()
    monkeypatch.setattr(engine, "get_settings", lambda: settings)
    assert files(FACTS, "--engine", "sql") == DECISIONS


def test_a_set_parameter_changes_the_decision(files):
    assert [row["score"] for row in files(FACTS, "--set", "min_membership=10")] == [0, 0, 0]
    assert [row["score"] for row in files(FACTS, "--set", "min_membership=13 days")] == [60, 0, 0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("min_membership=366", "out_of_bounds"),
        ("min_membership=-1", "out_of_bounds"),
        ("min_membership=30 hours", "wrong_unit"),
        ("min_membership=30.5", "wrong_type"),
        ("min_membership=many", "wrong_type"),
        ("min_membership=NaN", "wrong_type"),
        ("membership=3", "unknown_parameter"),
        ("min_membership", "syntax"),
    ],
)
def test_a_wrong_set_is_refused(files, change, code):
    with pytest.raises(ContractError) as error:
        files(FACTS, "--set", change)
    assert [problem.code for problem in error.value.problems] == [code]


@pytest.mark.parametrize(
    "case", YAML(typ="safe").load((CASES / "bad_facts.yaml").read_text()), ids=lambda case: case["name"]
)
def test_bad_facts_are_refused_with_their_place(files, tmp_path, case):
    with pytest.raises(ContractError) as error:
        files([FACTS[0], case["line"], FACTS[1]])
    assert [(p.line, p.path, p.code) for p in error.value.problems] == [(2, case["pointer"], case["code"])]
    assert not (tmp_path / "out.jsonl").exists()


def test_ten_megabytes_of_facts(tmp_path):
    (tmp_path / "facts.jsonl").write_bytes(
        b'{"id":"a","facts":{"x":"' + b"y" * (10 << 20) + b'"}}\n{"id":"b","facts":{}}\n{}\n'
    )
    with pytest.raises(ContractError) as error:
        list(read_facts(tmp_path / "facts.jsonl", parse_policy(POLICY)))
    assert [(p.line, p.code) for p in error.value.problems][:2] == [(1, "too_large"), (3, "missing")]
    assert f"{MAX_LINE:,}" in str(error.value)


def test_a_list_that_is_not_given(files, tmp_path):
    with pytest.raises(ContractError, match="unknown_list"):
        files(FACTS, policy=POLICY.replace("watched_accounts", "watched"))


def test_a_list_of_a_million(files, tmp_path):
    (tmp_path / "lists.json").write_text(json.dumps({"watched_accounts": ["a", *(f"u{n}" for n in range(1_000_000))]}))
    assert files(FACTS) == DECISIONS


def test_a_mixed_list_is_refused(files, tmp_path):
    (tmp_path / "lists.json").write_text('{"watched_accounts": ["a", 5]}')
    with pytest.raises(ContractError, match="/watched_accounts/1"):
        files(FACTS)


def judge(when, facts):
    policy = f"policy: p\nevent: e\nunknown: monitor\nrules:\n  - {{name: r, when: {when}, level: block}}\n"
    typed = parse_policy(policy)
    compiled = decision(compile_policy(typed, {}, {})(facts))
    assert trace_policy(typed, {}, {}, facts).decision == compiled
    return "unknown" if compiled.unknown else bool(compiled.rules)


@pytest.mark.parametrize(
    ("when", "facts", "outcome"),
    [
        ("a > 1 AND b > 1", {"b": 0}, False),
        ("a > 1 AND b > 1", {"b": 2}, "unknown"),
        ("a > 1 OR b > 1", {"b": 2}, True),
        ("a > 1 OR b > 1", {"b": 0}, "unknown"),
        ("NOT a > 1", {}, "unknown"),
        ("NOT (a > 1 AND b > 1)", {"b": 0}, True),
        ("a = 0", {}, "unknown"),
        ("a != 0", {}, "unknown"),
        ("a > 1 OR NOT a > 1", {}, "unknown"),
    ],
)
def test_unknown_is_a_third_value(when, facts, outcome):
    """A missing fact is never 0; unknown AND false is false, unknown OR true is true, NOT unknown is unknown."""
    assert judge(when, facts) == outcome


def test_unknown_ends_as_the_policy_says():
    typed = parse_policy(
        "policy: p\nevent: e\nunknown: hold\nrules:\n  - {name: a, when: x > 1, level: block}\n  - {name: b, when: y > 1, level: monitor}\n"
    )
    decide = compile_policy(typed, {}, {})
    assert decision(decide({"x": 2})).level == "block"
    assert decision(decide({"y": 2})).level == "hold"
    assert decision(decide({"x": 0, "y": 0})).level == "pass"


def test_the_trace_says_why():
    typed = parse_policy(POLICY)
    trace = trace_policy(typed, {"min_membership": 30}, LISTS, FACTS[0]["facts"])
    assert trace.parameters == {"min_membership": 30}
    assert trace.rules[0].conditions[0].name == "new_member"
    assert trace.rules[0].conditions[0].operand == 30
    assert trace.sentences[1] == (
        "new_member_fan_out fired (+60): Because sender.account_age_days (12) is below 30 days ($min_membership), "
        "sender.distinct_receivers_24h (11) is at least 10."
    )
    unknown = trace_policy(typed, {"min_membership": 30}, LISTS, {"sender.account_age_days": 3})
    assert "new_member_fan_out could not be decided: sender.distinct_receivers_24h is not known." in unknown.sentences
