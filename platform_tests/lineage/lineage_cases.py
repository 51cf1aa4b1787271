"""Reads the case files (their form is told in cases/README.md)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import sqlglot
from sqlglot import exp

from dataplatform.lineage.catalog import Catalog, catalog_from
from dataplatform.lineage.edges import Resolution

CASES = Path(__file__).parent / "cases"
LINE = re.compile(
    r"^(?P<target>[\w.*]+) (?:!(?P<gap> .+)|(?P<arrow><-|<~) (?P<sources>.+?)"
    r"(?: (?P<subtype>transformation|aggregation|filter|join|group_by|sort|window|conditional))?"
    r"(?P<masked> masked)?(?: (?P<confidence>0\.\d+))?)$"
)
ExpectedEdge = tuple[str | None, str | None, str | None, str, str, bool, float]


@dataclass
class Case:
    """A statement and exactly what it must tell."""

    file: str
    title: str
    statement: str
    edges: set[ExpectedEdge] = field(default_factory=set)
    unresolved: list[tuple[str | None, str, str]] = field(default_factory=list)


def table_name(name: str) -> str:
    """`t` is p.d.t; a name with dots is whole."""
    return name if "." in name or "/" in name else f"p.d.{name}"


def parse_source(text: str) -> tuple[str | None, str | None]:
    """`t.s.x` → (p.d.t, s.x); `p.a.t.u` → (p.a.t, u)."""
    if text == "constant":
        return None, None
    if text.startswith("gs://"):
        table, _, column = text.rpartition(" ")
        return table, column
    parts = text.split(".")
    if parts[0] in ("p", "other-proj", "conn"):
        length = 4 if parts[0] == "conn" or "INFORMATION_SCHEMA" in parts else 3
        return ".".join(parts[:length]), ".".join(parts[length:])
    return table_name(parts[0]), ".".join(parts[1:])


def read_cases() -> list[Case]:
    """All cases of all files."""
    cases = []
    for path in sorted(CASES.glob("*.txt")):
        for block in re.split(r"^## ", path.read_text(), flags=re.MULTILINE)[1:]:
            title, _, rest = block.partition("\n")
            statement, separator, expected = rest.partition("\n--\n")
            assert separator, f"{path.name}: {title}: no line '--'"
            case = Case(path.stem, title.strip(), statement)
            target: str | None = "p.d.out"
            for line in filter(None, map(str.strip, expected.splitlines())):
                if line.startswith("-> "):
                    target = None if line == "-> none" else table_name(line[3:])
                elif line.startswith("! "):
                    reason, _, detail = line[2:].partition(" ")
                    case.unresolved.append((None, reason, detail))
                else:
                    match = LINE.match(line)
                    assert match, f"{path.name}: {title}: {line}"
                    if match["gap"]:
                        reason, _, detail = match["gap"].strip().partition(" ")
                        case.unresolved.append((match["target"], reason, detail))
                        continue
                    direct = match["arrow"] == "<-"
                    subtype = (match["subtype"] or "identity").upper()
                    for source in match["sources"].split(", "):
                        table, column = parse_source(source)
                        kind = "CONSTANT" if table is None else subtype
                        assert direct == (kind in ("IDENTITY", "TRANSFORMATION", "AGGREGATION", "CONSTANT")), line
                        confidence = float(match["confidence"] or 1)
                        case.edges.add(
                            (table, column, target, match["target"], kind, bool(match["masked"]), confidence)
                        )
            cases.append(case)
    return cases


def told(result: Resolution) -> set[ExpectedEdge]:
    """The edges of a resolution in the cases' form."""
    return {
        (e.source_table, e.source_column, e.target_table, e.target_column, e.subtype, e.masking, e.confidence)
        for e in result.edges
    }


def cases_schemas() -> dict[str, dict]:
    """cases/schemas.sql in the form of a schemas file."""
    schemas: dict[str, dict] = {}
    text = (CASES / "schemas.sql").read_text()
    for statement in re.split(r";\n(?=CREATE|$)", text):
        if not statement.strip():
            continue
        kind = re.match(r"\s*CREATE (TABLE FUNCTION|TABLE|VIEW|FUNCTION|PROCEDURE) ([\w.`*-]+)", statement)
        assert kind, statement
        name = kind[2].replace("`", "")
        if kind[1] == "TABLE":
            node = sqlglot.parse_one(statement, dialect="bigquery")
            schemas[name] = {"type": "TABLE", "columns": [_column(one) for one in node.this.expressions]}
        else:
            type_ = "VIEW" if kind[1] == "VIEW" else "ROUTINE"
            schemas[name] = {"type": type_, "columns": [], "definition": statement}
    return schemas


def _column(node: exp.ColumnDef) -> dict:
    mode, kind = "NULLABLE", node.args["kind"]
    if kind.this == exp.DType.ARRAY:
        mode, kind = "REPEATED", kind.expressions[0]
    if kind.this == exp.DType.STRUCT:
        return {"name": node.name, "type": "RECORD", "mode": mode, "fields": [_column(one) for one in kind.expressions]}
    return {"name": node.name, "type": kind.sql("bigquery"), "mode": mode}


def cases_catalog() -> Catalog:
    """The catalog of the cases."""
    return catalog_from(cases_schemas())
