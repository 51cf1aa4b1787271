"""The text form of rules and policy files: what reads, and what each mistake says."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from dataplatform.contracts.commands import contracts
from dataplatform.contracts.errors import ContractError
from dataplatform.fraud.expression import ExpressionError, parse_rule, print_expression
from dataplatform.fraud.fact_types import DeclaredFact
from dataplatform.fraud.features import EntityFeatures, Feature
from dataplatform.fraud.policies import load_policies, parse_policy, print_policy

CASES = Path(__file__).parent / "cases"
EXAMPLE = """\
policy: transfer
event: send_transfer_pay
unknown: hold                      # the least level when a rule could not be decided
parameters:
  min_membership: {type: INT64, unit: days, default: 30, min: 0, max: 365, owner: fds, description: Younger accounts count as new.}
conditions:
  new_member: sender.account_age_days < $min_membership
  fan_out: sender.distinct_receivers_24h >= 10
  watched: receiver.id IN LIST watched_accounts
rules:
  - {name: new_member_fan_out, when: new_member AND fan_out, score: 60, reason: Many receivers from a new account.}
  - {name: watched_receiver, when: watched AND NOT (new_member OR amount < 1000), level: block, reason: The receiver is watched.}
levels: {monitor: 30, warn_confirm: 50, hold: 70, block: 90}   # from the sum of scores; a rule's own level wins where it is higher
"""


def rows(name):
    return YAML(typ="safe").load((CASES / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", rows("expressions.yaml"), ids=lambda case: case["text"][:30] or "empty")
def test_expressions(case):
    if "code" not in case:
        assert print_expression(parse_rule(case["text"])) == case["prints"]
        return
    with pytest.raises(ExpressionError) as error:
        parse_rule(case["text"])
    assert (error.value.code, error.value.at + 1) == (case["code"], case["at"])
    assert error.value.fix


@pytest.mark.parametrize("case", rows("bad_policies.yaml"), ids=lambda case: case["name"])
def test_mistakes_in_policies(case):
    with pytest.raises(ContractError) as error:
        parse_policy(case["policy"], strict=case.get("strict", False))
    found = [[problem.code, problem.path, problem.line] for problem in error.value.problems]
    assert sorted(found) == sorted(case["problems"])


def test_the_shape_that_must_stay():
    typed = parse_policy(EXAMPLE)
    assert typed.types == {
        "sender.account_age_days": "NUMBER",
        "sender.distinct_receivers_24h": "NUMBER",
        "receiver.id": "STRING",
        "amount": "NUMBER",
    }
    assert parse_policy(print_policy(typed.policy)).policy == typed.policy
    assert typed.policy.blocks


def test_nesting_is_bounded():
    with pytest.raises(ExpressionError, match="inside each other"):
        parse_rule("(" * 5_000 + "a = 1")
    deep = "(a = 1 OR NOT " * 19 + "b = 2" + ")" * 19
    typed = parse_policy(f"policy: p\nevent: e\nunknown: hold\nrules:\n  - {{name: a, when: '{deep}', level: hold}}\n")
    from dataplatform.fraud.compiled import compile_policy

    assert compile_policy(typed, {}, {})({"a": 1, "b": 1})[0] == 3


def test_a_rule_that_names_a_feature_that_does_not_exist():
    declared = {"sender.account_age_days": DeclaredFact("INT64", "hours"), "amount": DeclaredFact("STRING")}
    with pytest.raises(ContractError) as error:
        parse_policy(EXAMPLE, declared=declared)
    codes = {(problem.code, problem.line) for problem in error.value.problems}
    assert codes == {("wrong_unit", 7), ("unknown_fact", 8), ("unknown_fact", 9), ("type_conflict", 12)}


STREAM = """\
policy: fan_out
event: EVENT
owner: fds
description: What a transfer looks like afterwards.
unknown: pass
entities: {sender: user}
stream: STREAM
rules:
  - {name: many, when: sender.age > 5, score: 60, reason: Many.}
levels: {monitor: 30}
"""
COLUMNS = {
    "send": {"user_id": DeclaredFact("STRING"), "amount": DeclaredFact("NUMERIC")},
    "shop.articles": {"operation": DeclaredFact("STRING"), "seller___id": DeclaredFact("STRING")},
}
USER = EntityFeatures("user", "user_id", (Feature("age", "time_since_first", "INT64", event="send", by="user_id"),), {})


@pytest.mark.parametrize(
    ("event", "stream", "code"),
    [
        ("send", "{case: sender, alert: warn_confirm}", None),
        ("send", "{case: sender, keys: {sender: user_id}}", None),
        ("shop.articles", "{case: sender, keys: {sender: seller___id}}", None),
        ("shop.articles", "{case: sender}", "unknown_role"),
        ("shop.articles", "{case: sender, keys: {sender: seller_id}}", "unknown_column"),
        ("shop.articles", "", "needs_stream"),
        ("shop.article", "{case: sender}", "unknown_event"),
        ("send", "{case: receiver}", "unknown_role"),
        ("send", "{case: sender, keys: {receiver: user_id}}", "unknown_role"),
        ("send", "{alert: hold}", "missing"),
        ("send", "{case: sender, alert: pass}", "no_effect"),
        ("send", "{case: sender, alert: high}", "unknown_level"),
        ("send", "{case: sender, kees: {}}", "unknown_key"),
        ("send", "true", "wrong_type"),
    ],
)
def test_policies_of_the_stream_are_checked_against_their_event_or_collection(tmp_path, event, stream, code):
    text = STREAM.replace("EVENT", event).replace("stream: STREAM\n", f"stream: {stream}\n" if stream else "")
    (tmp_path / "fan_out.yaml").write_text(text)
    if code is None:
        policy = load_policies(tmp_path, events=COLUMNS, entities={"user": USER})["fan_out"].policy
        assert policy.stream is not None and policy.stream.case == "sender"
        assert parse_policy(print_policy(policy)).policy == policy
        return
    with pytest.raises(ContractError) as error:
        load_policies(tmp_path, events=COLUMNS, entities={"user": USER})
    assert code in [problem.code for problem in error.value.problems]
    assert all(problem.line for problem in error.value.problems)


def test_one_policy_decides_an_event_and_any_number_judge_it_afterwards(tmp_path):
    for name in ("a", "b"):
        text = STREAM.replace("fan_out", name).replace("EVENT", "send")
        (tmp_path / f"{name}.yaml").write_text(text.replace("STREAM", "{case: sender}"))
    assert len(load_policies(tmp_path, events=COLUMNS, entities={"user": USER})) == 2
    for name in ("a", "b"):
        text = STREAM.replace("fan_out", name).replace("EVENT", "send")
        (tmp_path / f"{name}.yaml").write_text(text.replace("stream: STREAM\n", ""))
    with pytest.raises(ContractError, match="a decides send as well"):
        load_policies(tmp_path, events=COLUMNS, entities={"user": USER})


def test_contracts_check_tells_undeclared_names_of_policies_and_features(tmp_path):
    schemas = tmp_path / "schemas"
    shutil.copytree(Path(__file__).parents[2] / "schemas", schemas)

    def check():
        return CliRunner().invoke(contracts, ["--schemas-dir", str(schemas), "check"])

    assert check().exit_code == 0
    for file, right, wrong in (
        ("policies/transfer.yaml", "sender.receivers_24h", "sender.receiverz_24h"),
        ("features/user.yaml", "of: device_id", "of: device_ix"),
    ):
        text = (schemas / file).read_text()
        (schemas / file).write_text(text.replace(right, wrong))
        told = check()
        assert (
            told.exit_code == 1 and f"{file}:" in told.stderr and f"write {right.removeprefix('of: ')}" in told.stderr
        )
        (schemas / file).write_text(text)


def test_one_check_tells_what_is_wrong_in_policies_features_and_contracts(tmp_path):
    """A mistake in one file, or in one part of it, does not hide those that do not rest on it."""
    schemas = tmp_path / "schemas"
    shutil.copytree(Path(__file__).parents[2] / "schemas", schemas)
    for file, right, wrong in (
        ("policies/transfer.yaml", "sender.receivers_24h", "sender.receiverz_24h"),
        ("policies/transfer.yaml", "event: send_transfer_pay", "event: send_transfer_pai"),
        ("policies/transfer.yaml", "deadline_ms: 40", "deadline_ms: 0"),
        ("policies/listing.yaml", "entities: {", "stream: {case: nobody}\nentities: {"),
        ("policies/new_device.yaml", "unknown: ", "unknown: x"),
        ("features/device.yaml", "aggregation: count", "aggregation: cound"),
        ("collections/shop.articles.yaml", "collection: articles", "colection: articles"),
    ):
        text = (schemas / file).read_text()
        assert right in text, (file, right)
        (schemas / file).write_text(text.replace(right, wrong, 1))
    told = CliRunner().invoke(contracts, ["--schemas-dir", str(schemas), "check"]).stderr
    for wanted in (
        "receiverz_24h",
        "send_transfer_pai",
        "0 is no deadline",
        "nobody is no entity",
        "cound",
        "colection",
    ):
        assert wanted in told, (wanted, told)
    mistakes = [line for line in told.splitlines() if ".yaml:" in line]
    assert len(mistakes) == len(set(mistakes)) == 9
    assert "no feature and no field of the event is called amount" not in told  # the event was meant, and has it


@pytest.mark.parametrize(
    "value",
    [
        "?",
        "? a",
        "-",
        "- a",
        ":",
        ": a",
        "a: b",
        "#",
        "\u2028",
        "'",
        '"',
        "{",
        "]",
        ",",
        "~",
        "=",
        "!x",
        "&a",
        "*a",
        "%",
        "@",
        "`",
        "|",
        ">",
        " a ",
        "",
    ],
)
def test_texts_that_look_like_yaml_read_back(value):
    text = f"policy: p\nevent: e\nunknown: pass\nparameters:\n  t: {{type: STRING, default: {json.dumps(value)}}}\nrules:\n  - {{name: r, when: a = $t, level: block, reason: {json.dumps(value)}}}\n"
    policy = parse_policy(text).policy
    assert policy.parameters[0].default == policy.rules[0].reason == value
    assert parse_policy(print_policy(policy)).policy == policy
