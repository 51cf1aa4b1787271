"""The text form of rules and policy files: what reads, and what each mistake says."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dataplatform.contracts.errors import ContractError
from dataplatform.fraud.expression import ExpressionError, parse_rule, print_expression
from dataplatform.fraud.fact_types import DeclaredFact
from dataplatform.fraud.policies import parse_policy, print_policy

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
