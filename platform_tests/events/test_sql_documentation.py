"""docs/events.md says what the code does. To bring it up to date: `python platform_tests/events/test_sql_documentation.py`."""

import re
from pathlib import Path

import pytest

from dataplatform.contracts.events import EventContract
from dataplatform.contracts.fields import Field
from dataplatform.events import reasons, type_rules
from dataplatform.events.verdict import Judge

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
GENERATED = {"types": type_rules.documentation, "reasons": reasons.documentation}


def regenerated(text: str) -> str:
    for name, document in GENERATED.items():
        text, found = re.subn(
            rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /{name} -->)",
            lambda match: match[1] + document() + "\n" + match[2],  # noqa: B023
            text,
            flags=re.DOTALL,
        )
        assert found == 1, name
    return text


def test_the_generated_parts_are_up_to_date() -> None:
    assert PAGE.read_text() == regenerated(PAGE.read_text())


EXAMPLES = [
    (rule.type, text, accepted)
    for rule in type_rules.RULES
    for accepted, texts in ((True, rule.accepts), (False, rule.refuses))
    for text in texts
]


@pytest.mark.parametrize(("kind", "text", "accepted"), EXAMPLES)
def test_every_example_of_the_type_rules_holds(kind: str, text: str, accepted: bool) -> None:
    contract = EventContract(
        action="make",
        object="thing",
        service="test",
        owner="team",
        domain="tests",
        description="A test.",
        params=(Field.model_validate({"name": "x", "type": kind}),),
    )
    event = f'{{"event_id":"1","event":"{contract.name}","params":{{"x":{text}}}}}'
    assert Judge({contract.name: contract}).judge(event.encode()).accepted is accepted


if __name__ == "__main__":
    PAGE.write_text(regenerated(PAGE.read_text()))
