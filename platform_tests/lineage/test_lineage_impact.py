"""The graph of columns: reach in both directions, paths of STRUCTs, whole rows, what is unused, what a change breaks."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataplatform.errors import PlatformError
from dataplatform.lineage.catalog import catalog_from
from dataplatform.lineage.commands import lineage
from dataplatform.lineage.impact import (
    Graph,
    StoredEdge,
    as_dot,
    as_mermaid,
    as_table,
    changes,
    parse_node,
    read_edges,
    with_changed,
)
from dataplatform.lineage.resolve import resolve

CATALOG = catalog_from(
    {
        "p.raw.users": {
            "columns": [
                {"name": "id", "type": "INT64"},
                {"name": "email", "type": "STRING"},
                {"name": "country", "type": "STRING"},
                {
                    "name": "address",
                    "type": "RECORD",
                    "fields": [{"name": "city", "type": "STRING"}, {"name": "zip", "type": "STRING"}],
                },
                {"name": "never", "type": "STRING"},
            ]
        }
    }
)
STATEMENTS = {
    "stage": (
        "SELECT id, LOWER(email) AS email, address, country FROM raw.users WHERE country IS NOT NULL",
        "p.mart.users",
    ),
    "mart": ("SELECT email AS contact, address.city AS town FROM mart.users", "p.mart.contacts"),
    "count": ("SELECT country, COUNT(*) AS people FROM mart.users GROUP BY country", "p.mart.countries"),
    "read": ("SELECT town FROM mart.contacts", None),
}


def edges_of(statements: dict[str, tuple[str, str | None]]) -> list[StoredEdge]:
    found = []
    for job, (sql, target) in statements.items():
        result = resolve(sql, CATALOG, project="p", destination=target)
        found += [
            StoredEdge(**{**{f: getattr(e, f) for f in e.__struct_fields__}, "job_id": job}) for e in result.edges
        ]
    return found


GRAPH = Graph(edges_of(STATEMENTS))


def names(found: list) -> list[str]:
    return [".".join(one.node) for one in found]


def test_downstream_of_a_column() -> None:
    found = GRAPH.reach(("p.raw.users", "email"))
    assert names(found) == ["p.mart.users.email", "p.mart.contacts.contact"]
    assert [one.depth for one in found] == [1, 2]
    assert [step.edge.job_id for step in found[1].path if step.edge] == ["stage", "mart"]


def test_a_struct_s_field_goes_with_the_struct() -> None:
    assert names(GRAPH.reach(("p.raw.users", "address.city"))) == ["p.mart.users.address.city", "p.mart.contacts.town"]
    assert names(GRAPH.reach(("p.raw.users", "address.zip"))) == ["p.mart.users.address.zip"]
    assert "p.mart.contacts.town" in names(GRAPH.reach(("p.raw.users", "address")))
    upstream = names(GRAPH.reach(("p.mart.contacts", "town"), "upstream"))
    assert upstream == ["p.mart.users.address.city", "p.raw.users.address.city"]


def test_depth_and_indirect() -> None:
    assert names(GRAPH.reach(("p.raw.users", "email"), depth=1)) == ["p.mart.users.email"]
    direct = set(names(GRAPH.reach(("p.raw.users", "country"))))
    assert direct == {"p.mart.users.country", "p.mart.countries.country"}
    indirect = GRAPH.reach(("p.raw.users", "country"), indirect=True)
    assert "p.mart.contacts.contact" in names(indirect)  # by the filter on whole rows
    assert any(one.indirect for one in indirect)


def test_a_cycle_ends() -> None:
    sql = {"one": ("SELECT id FROM raw.users UNION ALL SELECT id FROM mart.ids", "p.mart.ids")}
    assert names(Graph(edges_of(sql)).reach(("p.raw.users", "id"))) == ["p.mart.ids.id"]


def test_what_nobody_reads() -> None:
    assert GRAPH.is_read(("p.raw.users", "email"))
    assert GRAPH.is_read(("p.mart.contacts", "town"))  # by a query without a target
    assert GRAPH.is_read(("p.mart.users", "country"))
    assert not GRAPH.is_read(("p.mart.contacts", "contact"))
    assert not GRAPH.is_read(("p.raw.users", "never"))


def test_the_steps_between() -> None:
    found = GRAPH.between(("p.raw.users", "email"), ("p.mart.contacts", "contact"))
    assert [edge.job_id for edge in found] == ["stage", "mart"]
    assert GRAPH.between(("p.raw.users", "email"), ("p.mart.contacts", "town")) == []
    assert [edge.job_id for edge in GRAPH.shortest(("p.raw.users", "email"), ("p.mart.contacts", "contact"))] == [
        "stage",
        "mart",
    ]


def test_a_change_that_breaks() -> None:
    new = edges_of({"stage": ("SELECT id, UPPER(country) AS country, address FROM raw.users", "p.mart.users")})
    old = edges_of(STATEMENTS)
    found = {".".join(one.node): one for one in changes(old, with_changed(old, new))}
    assert found["p.mart.users.email"].gone
    assert set(found) == {"p.mart.users.email"}


def test_a_change_of_one_of_two_queries_leaves_the_other_as_it_is() -> None:
    old = edges_of(
        {
            "keys": ("SELECT id, country FROM raw.users", "p.mart.users"),
            "mail": ("SELECT id, email FROM raw.users", "p.mart.users"),
        }
    )

    def gone_or_changed(**queries: str) -> dict[str, bool]:
        new = edges_of({name: (text, "p.mart.users") for name, text in queries.items()})
        return {one.node[1]: one.gone for one in changes(old, with_changed(old, new))}

    assert gone_or_changed(keys="SELECT id FROM raw.users") == {"country": True}
    assert gone_or_changed(unnamed="SELECT id, UPPER(country) AS country FROM raw.users") == {}
    assert gone_or_changed(unnamed="SELECT email AS country FROM raw.users") == {"country": False}
    assert gone_or_changed(unnamed="SELECT email AS other FROM raw.users") == {"other": False}
    assert gone_or_changed(one="SELECT id FROM raw.users", mail="SELECT email FROM raw.users") == {"country": True}
    assert gone_or_changed(keys="SELECT 1 AS id", mail="SELECT email FROM raw.users") == {"id": False, "country": True}


def test_what_contracts_declare_is_no_query_that_a_changed_one_replaces() -> None:
    declared = [StoredEdge("mongo.a.t", "x", "p.d.t", "x", "DIRECT", "IDENTITY", job_id="contract")]
    new = [StoredEdge("p.d.s", "y", "p.d.t", "y", "DIRECT", "IDENTITY", job_id="new")]
    assert with_changed(declared, new) == declared + new


def test_drawings() -> None:
    start = ("p.raw.users", "email")
    found = GRAPH.reach(start)
    assert '"p.raw.users.email" -> "p.mart.users.email" [label="transformation"]' in as_dot(
        start, found, downstream=True
    )
    assert "c0 -->|transformation| c1" in as_mermaid(start, found, downstream=True)
    assert "p.mart.contacts.contact" in as_table(found)


def test_columns_by_name() -> None:
    assert parse_node("p.d.events_20260101.s.x") == ("p.d.events_*", "s.x")
    with pytest.raises(PlatformError):
        parse_node("d.t")


def test_columns_are_found_by_whatever_their_table_is_called() -> None:
    graph = Graph(
        [
            StoredEdge("gs://in/x.csv", "a", "p.d.t", "Items", "DIRECT", "IDENTITY"),
            StoredEdge("example.com:p.d.t", "a.b", "p.d.events_*", "x", "DIRECT", "IDENTITY"),
            StoredEdge("dagster.events/t", "*", "p.d.t", "*", "INDIRECT", "ASSET"),
        ]
    )
    assert graph.find("gs://in/x.csv.A") == ("gs://in/x.csv", "a")
    assert graph.find("example.com:p.d.t.a") == ("example.com:p.d.t", "a")
    assert graph.find("example.com:p.d.t.A.B") == ("example.com:p.d.t", "a.b")
    assert graph.find("`p.d.events_20260101`.x") == graph.find("p.d.events_*.X") == ("p.d.events_*", "x")
    assert graph.find("dagster.events/t.*") == ("dagster.events/t", "*")
    assert graph.find("p.d.t.items.sku") == ("p.d.t", "Items.sku")
    assert [graph.find(text) for text in ("p.d.T.items", "p.d.t.item", "p.d.t", "x", "", "...")] == [None] * 6


@pytest.fixture
def edges_file(tmp_path: Path) -> Path:
    path = tmp_path / "edges.jsonl"
    lines = [
        json.dumps({"kind": "edge", **{f: getattr(e, f) for f in e.__struct_fields__}}) for e in edges_of(STATEMENTS)
    ]
    path.write_text("\n".join([*lines, json.dumps({"kind": "unresolved", "job_id": "x", "reason": "syntax"})]) + "\n")
    return path


def test_commands_over_a_file(edges_file: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    arguments = ["--edges", str(edges_file)]
    shown = run(lineage, ["impact", "p.raw.users.email", *arguments])
    assert "p.mart.contacts.contact" in shown.output
    records = json.loads(
        run(lineage, ["impact", "p.mart.contacts.town", "--upstream", "--format", "json", *arguments]).stdout
    )
    assert records[-1]["column"] == "address.city"
    assert records[-1]["path"][0]["job_id"] == "mart"
    for form, word in (("dot", "digraph"), ("mermaid", "flowchart")):
        assert run(lineage, ["impact", "p.raw.users.email", "--format", form, *arguments]).output.startswith(word)
    assert "job stage" in run(lineage, ["explain", "p.raw.users.email", "p.mart.contacts.contact", *arguments]).output
    assert "p.mart.contacts.contact" in run(lineage, ["unused", *arguments]).output
    assert "no table that is known" in str(run(lineage, ["unused", "--table", "p.mart.nope", *arguments]).exception)
    marks = tmp_path / "marks.json"
    marks.write_text(json.dumps({"p.raw.users.email": "email"}))
    assert "p.mart.contacts.contact" in run(lineage, ["pii", "--marks", str(marks), *arguments]).output
    new = tmp_path / "new.jsonl"
    new.write_text("")
    assert run(lineage, ["diff", "--old", str(edges_file), "--new", str(new), "--check"]).exit_code == 0
    changed = edges_of({"stage": ("SELECT id, address, country FROM raw.users", "p.mart.users")})
    new.write_text("\n".join(json.dumps({f: getattr(e, f) for f in e.__struct_fields__}) for e in changed))
    broken = run(lineage, ["diff", "--old", str(edges_file), "--new", str(new), "--check"])
    assert "breaks p.mart.contacts.contact" in broken.output
    assert broken.exit_code != 0


def test_a_whole_table_in_any_case_and_a_change_that_mends_its_readers(edges_file: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    known = ["--edges", str(edges_file)]
    assert "p.mart.contacts.contact" in run(lineage, ["impact", "p.mart.users.*", *known]).output
    one, other = (run(lineage, ["impact", f"p.mart.users.{name}", *known]).output for name in ("email", "EMAIL"))
    assert one == other
    assert "p.mart.contacts.contact" in one
    assert "no edge names" in run(lineage, ["impact", "p.mart.users.emial", *known]).output
    changed = edges_of(
        {
            "stage": ("SELECT id, address, country FROM raw.users", "p.mart.users"),
            "contacts": ("SELECT address AS contact FROM mart.users", "p.mart.contacts"),
        }
    )
    new = tmp_path / "new.jsonl"
    new.write_text("\n".join(json.dumps({f: getattr(e, f) for f in e.__struct_fields__}) for e in changed))
    mended = run(lineage, ["diff", "--old", str(edges_file), "--new", str(new), "--check"])
    assert "gone     p.mart.users.email" in mended.output
    assert "breaks p.mart.contacts" not in mended.output


def test_the_steps_go_through_whole_rows() -> None:
    edges = [
        StoredEdge("p.d.a", "x", "p.d.b", "*", "INDIRECT", "FILTER", job_id="1"),
        StoredEdge("p.d.a", "y", "p.d.b", "y", "DIRECT", "IDENTITY", job_id="1"),
        StoredEdge("p.d.b", "y", "p.d.c", "z", "DIRECT", "IDENTITY", job_id="2"),
    ]
    way = Graph(edges).between(("p.d.a", "x"), ("p.d.c", "z"), indirect=True)
    assert [edge.target for edge in way] == [("p.d.b", "*"), ("p.d.c", "z")]


def test_from_what_a_model_is_trained_on_to_its_predictions() -> None:
    graph = Graph(
        edges_of(
            {
                "train": (
                    "CREATE MODEL mart.model OPTIONS (model_type = 'x') AS SELECT id, country FROM raw.users",
                    None,
                ),
                "use": (
                    "SELECT predicted_country FROM ML.PREDICT(MODEL mart.model, (SELECT 1 AS id))",
                    "p.mart.guesses",
                ),
            }
        )
    )
    start, end = ("p.raw.users", "country"), ("p.mart.guesses", "predicted_country")
    assert end in {one.node for one in graph.reach(start)}
    assert start in {one.node for one in graph.reach(end, "upstream")}
    assert [edge.job_id for edge in graph.between(start, end)] == ["train", "use"]


def test_a_file_that_is_no_edges(tmp_path: Path) -> None:
    path = tmp_path / "edges.jsonl"
    path.write_text('{"kind":"edge"}\n')
    with pytest.raises(PlatformError, match="line 1 is no edge"):
        list(read_edges(path))


def test_ten_thousand_descendants_are_quick() -> None:
    edges = [
        StoredEdge("p.d.t0", "c", f"p.d.t{1 + i}", f"c{j}", "DIRECT", "IDENTITY", job_id="j")
        for i in range(100)
        for j in range(100)
    ]
    graph = Graph(edges)
    best = 1.0
    for _ in range(3):
        started = time.perf_counter()
        assert len(graph.reach(("p.d.t0", "c"))) == 10_000
        best = min(best, time.perf_counter() - started)
    assert best < 0.5  # the bar of 100 ms is measured by benchmarks/lineage_impact.py, on a quiet machine


def test_constants_of_a_table_are_columns_and_those_of_an_answer_are_none() -> None:
    graph = Graph(
        [
            StoredEdge(None, None, "p.a.t", "one", "DIRECT", "CONSTANT"),
            StoredEdge(None, None, None, "now", "DIRECT", "CONSTANT"),
        ]
    )
    assert graph.tables == ["p.a.t"]
    assert graph.constants == {("p.a.t", "one")}
