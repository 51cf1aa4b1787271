"""docs/lineage.md: the table of reasons is the code's, and every command is in it. Run with LINEAGE_WRITE_DOCS=1 to write the table."""

import os
from pathlib import Path

from dataplatform.lineage.commands import lineage
from dataplatform.lineage.edges import REASONS

DOCS = Path(__file__).parents[2] / "docs" / "lineage.md"
BEGIN, END = "<!-- reasons:begin -->\n", "<!-- reasons:end -->"


def test_reasons_are_documented() -> None:
    text = DOCS.read_text()
    head, _, rest = text.partition(BEGIN)
    present, _, tail = rest.partition(END)
    table = "| reason | meaning |\n|---|---|\n" + "".join(
        f"| `{key}` | {meaning} |\n" for key, meaning in REASONS.items()
    )
    if os.environ.get("LINEAGE_WRITE_DOCS"):
        DOCS.write_text(f"{head}{BEGIN}{table}{END}{tail}")
        return
    assert present == table


def test_commands_are_documented() -> None:
    text = DOCS.read_text()
    for name in lineage.commands:
        assert f"dataplatform lineage {name}" in text
