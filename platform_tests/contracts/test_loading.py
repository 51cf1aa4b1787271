"""Contract files, good and bad: every mistake is told at once, with its place.

A bad case marks its lines: `#! code path` at the end of a line says what is wrong there. What cannot be marked in place is said at
the top: `# expect: LINE PATH CODE` (`-` is the whole document, `3+` is line 3 or later). `# file:` gives the place of the file.
"""

import copy
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dataplatform.contracts.errors import ContractError, Problem
from dataplatform.contracts.events import ENVELOPE_COLUMNS, EventContract
from dataplatform.contracts.fields import Field
from dataplatform.contracts.load import load_contracts, load_contracts_leniently, parse_contracts
from dataplatform.contracts.rules import field_mistakes

CASES = Path(__file__).parent / "cases"
BAD = sorted((CASES / "bad").glob("*.yaml"))
GOOD = sorted((CASES / "good").glob("*.yaml"))
SUPPORT = {name: (CASES / name).read_bytes() for name in ("vocabulary.yaml", "owners.yaml")}
PLACE = "events/pay/send_transfer_pay.yaml"
BASE = b"action: send\nobject: transfer\nservice: pay\nowner: payments\ndomain: pay\ndescription: Money was sent.\n"


def expected(text: str) -> set[tuple[int, str, str]]:
    marks = {
        (number, "" if path == "-" else path, code)
        for number, line in enumerate(text.split("\n"), 1)
        for code, path in re.findall(r"#! (\w+) (\S+)", line)
    }
    heads = re.findall(r"^# expect: (\d+)(\+?) (\S+) (\w+)$", text, re.MULTILINE)
    return marks | {(-int(line) if later else int(line), "" if p == "-" else p, c) for line, later, p, c in heads}


def found(problems: list[Problem], wanted: set[tuple[int, str, str]]) -> set[tuple[int, str, str]]:
    """What was found, with the line of an expectation of `3+` where it is met."""
    loose = {code: line for line, _, code in wanted if line < 0}
    loose_paths = {code: path for line, path, code in wanted if line < 0}
    result = set()
    for problem in problems:
        floor = loose.get(problem.code)
        if floor is not None and problem.line >= -floor and problem.path.startswith(loose_paths[problem.code]):
            result.add((floor, loose_paths[problem.code], problem.code))
        else:
            result.add((problem.line, problem.path, problem.code))
    return result


@pytest.mark.parametrize("case", BAD, ids=lambda path: path.stem)
def test_bad(case: Path) -> None:
    text = case.read_bytes().decode()
    place = re.search(r"^# file: (\S+)$", text, re.MULTILINE)
    contracts, problems = parse_contracts({**SUPPORT, place[1] if place else PLACE: case.read_bytes()}, Path("schemas"))
    wanted = expected(text)
    assert wanted, "the case says nothing"
    assert found(problems, wanted) == wanted
    assert len(problems) == len(wanted), "nothing is told twice"
    assert not contracts.events
    for problem in problems:
        assert problem.message
        assert problem.fix, "every mistake has a way out"
        assert str(problem).startswith(f"schemas/{place[1] if place else PLACE}:{problem.line}:")


@pytest.mark.parametrize("case", GOOD, ids=lambda path: path.stem)
def test_good(case: Path) -> None:
    contracts, problems = parse_contracts({**SUPPORT, PLACE: case.read_bytes()})
    assert problems == []
    assert list(contracts.events) == ["send_transfer_pay"]


def test_only_what_is_needed_has_sensible_defaults() -> None:
    contract = parse_contracts({**SUPPORT, PLACE: BASE + b"params: [{name: a, type: STRING}]"})[0].events[
        "send_transfer_pay"
    ]
    assert (contract.status, contract.version, contract.major) == ("active", "1.0", 1)
    assert not contract.params[0].required
    assert not contract.params[0].repeated


@pytest.mark.parametrize(
    ("body", "code", "fix"),
    [
        (b"ownr: x", "unknown_key", "did you mean `owner`?"),
        (b"params: [{name: a, type: integer}]", "unknown_type", "did you mean `INT64`?"),
        (b"params: [{name: a, type: STRNG}]", "unknown_type", "did you mean `STRING`?"),
        (b"params: [{name: a, type: record}]", "unknown_type", "did you mean `STRUCT`?"),
        (b"version: 1.10", "wrong_kind", 'write it in quotes: "1.10"'),
        (
            b"params: [{name: a, type: NUMERIC, max: 12345678901234567890.25}]",
            "number_not_exact",
            '"12345678901234567890.25"',
        ),
    ],
)
def test_the_way_out_is_told(body: bytes, code: str, fix: str) -> None:
    _, problems = parse_contracts({**SUPPORT, PLACE: BASE + body})
    assert [problem.code for problem in problems] == [code]
    assert fix in problems[0].fix


def test_a_word_that_is_not_in_the_vocabulary_has_a_near_one() -> None:
    text = BASE.replace(b"object: transfer", b"object: transfr")
    _, problems = parse_contracts({**SUPPORT, "events/pay/send_transfr_pay.yaml": text})
    assert (
        problems[0].fix
        == "did you mean `transfer`? Otherwise add it to `objects` in vocabulary.yaml, with what it means"
    )


def test_half_an_owners_file_refuses_no_contract() -> None:
    owners = SUPPORT["owners.yaml"] + b"other: {description: x}\n"
    text = BASE.replace(b"owner: payments", b"owner: other")
    contracts, problems = parse_contracts({**SUPPORT, "owners.yaml": owners, PLACE: text})
    assert [problem.code for problem in problems] == ["missing_key"]
    assert list(contracts.owners) == ["payments"]
    assert list(contracts.events) == ["send_transfer_pay"]


def test_no_owner_at_all_is_none_of_the_owners() -> None:
    _, problems = parse_contracts({**SUPPORT, "owners.yaml": b"{}\n", PLACE: BASE})
    assert [problem.code for problem in problems] == ["unknown_owner"]


def test_not_utf8() -> None:
    _, problems = parse_contracts({**SUPPORT, PLACE: BASE + b"params: []\n# \xff\xfe\n"})
    assert [(problem.code, problem.line) for problem in problems] == [("not_utf8", 8)]


def test_two_contracts_of_one_name() -> None:
    other = "events/pay/again/send_transfer_pay.yaml"
    contracts, problems = parse_contracts({**SUPPORT, PLACE: BASE, other: BASE})
    assert contracts.events == {}
    codes = {(str(problem.file), problem.code) for problem in problems}
    assert codes == {(other, "wrong_place"), (PLACE, "duplicate_event")}
    duplicate = next(problem for problem in problems if problem.code == "duplicate_event")
    assert other in duplicate.message


def test_a_second_major_version_is_a_contract_beside_the_first() -> None:
    second = "events/pay/send_transfer_pay_v2.yaml"
    contracts, problems = parse_contracts({**SUPPORT, PLACE: BASE, second: BASE + b'version: "2.0"\n'})
    assert problems == []
    assert list(contracts.events) == ["send_transfer_pay", "send_transfer_pay_v2"]
    assert contracts.events["send_transfer_pay_v2"].base_name == "send_transfer_pay"


def test_leniently_the_good_files_are_there(tmp_path: Path) -> None:
    write_folder(tmp_path, {PLACE: BASE, "events/marketplace/view_item_marketplace.yaml": b"action: ["})
    contracts, problems = load_contracts_leniently(tmp_path)
    assert list(contracts.events) == ["send_transfer_pay"]
    assert contracts.files["send_transfer_pay"] == tmp_path / PLACE
    assert [problem.code for problem in problems] == ["not_yaml"]
    with pytest.raises(ContractError) as raised:
        load_contracts(tmp_path)
    assert raised.value.problems == problems


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        {
            PLACE: BASE,
            "events/README.md": b"# x",
            "events/pay/.#send.yaml": b"[",
            "events/pay/x.yaml~": b"[",
            "collections/a.yaml": b"[",
        },
    )
    assert list(load_contracts(tmp_path).events) == ["send_transfer_pay"]


def test_no_folder_no_vocabulary_no_owners(tmp_path: Path) -> None:
    _, problems = load_contracts_leniently(tmp_path / "nowhere")
    assert {"no_folder"} <= {problem.code for problem in problems}
    (tmp_path / "events/pay").mkdir(parents=True)
    (tmp_path / PLACE).write_bytes(BASE)
    contracts, problems = load_contracts_leniently(tmp_path)
    assert {(problem.file.name, problem.code) for problem in problems} == {
        ("vocabulary.yaml", "no_file"),
        ("owners.yaml", "no_file"),
    }
    assert list(contracts.events) == ["send_transfer_pay"], "what cannot be checked takes no good contract down"


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("vocabulary.yaml", b"actions: {send: x, Send: y}\n", (1, "actions.Send", "bad_word")),
        ("vocabulary.yaml", b"actions:\n  send:\n", (2, "actions.send", "wrong_kind")),
        ("vocabulary.yaml", b"actions: {}\nverbs: {}\n", (2, "verbs", "unknown_key")),
        ("vocabulary.yaml", b"- send\n", (1, "", "not_a_mapping")),
        ("owners.yaml", b"payments:\n  email: x@y.z\n", (1, "payments.description", "missing_key")),
        ("owners.yaml", b"payments:\n  description: x\n  email: nobody\n", (3, "payments.email", "bad_email")),
        (
            "owners.yaml",
            b"payments:\n  description: x\n  email: a@b.c\npayments: {}\n",
            (4, "payments", "duplicate_key"),
        ),
        ("owners.yaml", b"", (1, "", "empty")),
    ],
)
def test_mistakes_in_vocabulary_and_owners(name: str, content: bytes, place: tuple[int, str, str]) -> None:
    _, problems = parse_contracts({**SUPPORT, name: content})
    assert [(problem.line, problem.path, problem.code) for problem in problems] == [place]


WHOLE = (CASES / "good" / "everything.yaml").read_bytes()
PIECES = [b"", b"\0", b"\xff", b":", b": ", b"- ", b"{", b"}", b"[", b"]", b'"', b"'", b"\n", b"\t", b"&a ", b"*a", b"!!str ", b"?", b"|",
          b"---\n", b"...\n", b"%YAML 9\n", b"1e999", b"~", b"<<: ", b"0x", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"#"]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4)
)
def test_a_file_broken_anyhow_is_a_problem_and_no_crash(cuts: list[tuple[int, int, bytes]]) -> None:
    content = WHOLE
    for start, length, piece in cuts:
        content = content[:start] + piece + content[start + length :]
    contracts, problems = parse_contracts({**SUPPORT, PLACE: content})
    assert bool(contracts.events) != bool(problems)
    lines = content.count(b"\n") + content.count(b"\r") + 2
    assert all(1 <= problem.line <= lines and problem.message and problem.fix for problem in problems)


OTHERS = st.sampled_from(
    [None, True, 5, 1.5, "", "x", "STRUCT", "STRING", [], {}, [1], {"name": 1}, [[]], {"fields": [{}]}, "9" * 30]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.randoms(use_true_random=False), OTHERS), min_size=1, max_size=4))
def test_values_of_other_kinds_anywhere_are_problems(changes: list[tuple[Random, Any]]) -> None:
    document: Any = yaml.safe_load((CASES / "bad" / "many_at_once.yaml").read_text())
    for random, other in changes:
        places = list(containers(document))
        container = random.choice(places)
        key: Any = random.choice([*container, "colour"] if isinstance(container, dict) else range(len(container)))
        container[key] = copy.deepcopy(other)
    contracts, problems = parse_contracts({**SUPPORT, PLACE: yaml.safe_dump(document).encode()})
    assert bool(contracts.events) != bool(problems)
    assert len({(problem.path, problem.code) for problem in problems}) == len(problems), "nothing is told twice"


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


def test_ten_thousand_columns() -> None:
    room = 10_000 - len(ENVELOPE_COLUMNS)
    fields = tuple(Field(name=f"f{number}", type="STRING") for number in range(room - 2))
    nested = Field(name="rows", type="STRUCT", repeated=True, fields=fields[:1])
    assert field_mistakes((*fields, nested), taken=ENVELOPE_COLUMNS) == []
    one_more = (*fields, nested.model_copy(update={"fields": fields[:2]}))
    assert [m.code for m in field_mistakes(one_more, taken=ENVELOPE_COLUMNS)] == ["too_many_columns"]


def test_a_contract_made_in_python_holds_as_well() -> None:
    words = {"action": "send", "object": "transfer", "service": "pay", "owner": "a", "domain": "b", "description": "c"}
    with pytest.raises(ValidationError, match="only a STRUCT has fields"):
        EventContract.model_validate(
            {**words, "params": [{"name": "a", "type": "STRING", "fields": [{"name": "b", "type": "STRING"}]}]}
        )


def test_the_shipped_contracts_hold() -> None:
    contracts = load_contracts(Path("schemas"))
    assert len(contracts.events) >= 50
    assert len({contract.service for contract in contracts.events.values()}) >= 7
    assert "send_transfer_pay" in contracts.events
    fields = [column.field for contract in contracts.events.values() for column in contract.columns]
    assert {field.type for field in fields} == {
        "STRING", "INT64", "FLOAT64", "NUMERIC", "BOOL", "TIMESTAMP", "DATE", "JSON", "STRUCT",
    }  # fmt: skip
    assert any(field.pii for field in fields)


def test_a_thousand_contracts_load_fast(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(1000)]
    text = Path("schemas/events/marketplace/create_item_marketplace.yaml").read_text()
    text = text.replace("action: create", "action: send").replace("service: marketplace", "service: pay")
    files = {
        f"events/pay/send_{word}_pay.yaml": text.replace("object: item", f"object: {word}").encode() for word in words
    }
    write_folder(tmp_path, files)
    shutil.copy("schemas/owners.yaml", tmp_path)
    objects = "".join(f"  {word}: x\n" for word in words)
    (tmp_path / "vocabulary.yaml").write_text(f"actions: {{send: x}}\nservices: {{pay: x}}\nobjects:\n{objects}")
    started = time.process_time()
    assert len(load_contracts(tmp_path).events) == 1000
    first = time.process_time() - started
    again = time.process_time()
    load_contracts(tmp_path)
    assert first < 2.0, "about 0.7 s of processor time on the slowest machine this was measured on"
    assert time.process_time() - again < first / 2, "files that have not changed are not read as YAML again"


def write_folder(root: Path, files: dict[str, bytes]) -> None:
    for name, content in {**SUPPORT, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
