"""Events are OpenLineage's: read strictly by the classes that it generates from its schemas, and checked by schemas that are served."""

import json
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import attr
import pytest
from click.testing import CliRunner, Result
from openlineage.client.generated.base import EventType, RunEvent
from openlineage.client.generated.column_lineage_dataset import ColumnLineageDatasetFacet, Transformation
from openlineage.client.serde import Serde
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from dataplatform.contracts.load import load_contracts
from dataplatform.lineage.catalog import catalog_from
from dataplatform.lineage.commands import lineage
from dataplatform.lineage.declared import asset_edges, declared_edges
from dataplatform.lineage.edges import Edge
from dataplatform.lineage.impact import StoredEdge
from dataplatform.lineage.jobs import Job, resolve_job
from dataplatform.lineage.openlineage import mistakes, run_events
from dataplatform.settings import Settings

AT = datetime(2026, 1, 1, tzinfo=UTC)
FACETS = {"columnLineage": ColumnLineageDatasetFacet}
SUBTYPES = {
    "DIRECT": {"IDENTITY", "TRANSFORMATION", "AGGREGATION"},
    "INDIRECT": {"JOIN", "GROUP_BY", "FILTER", "SORT", "WINDOW", "CONDITIONAL"},
}
"""What OpenLineage's documentation of the facet lists."""
CATALOG = catalog_from(
    {
        "p.a.t": {"columns": [{"name": n, "type": "STRING"} for n in ("x", "y", "k")]},
        "p.b.u": {"columns": [{"name": n, "type": "STRING"} for n in ("x", "y", "k")]},
    }
)
JOBS = [
    Job(
        job_id="every kind of edge",
        project_id="p",
        destination_table="p.b.out",
        query="SELECT t.x, UPPER(t.y) AS y, IF(t.k = 'a', u.x, u.y) AS c, SHA256(t.x) AS masked, COUNT(u.x) AS n, MAX(u.y) AS m,"
        " 1 AS one, FIRST_VALUE(t.y) OVER (PARTITION BY t.k ORDER BY t.x) AS w FROM a.t JOIN b.u USING (k) WHERE t.x > ''"
        " GROUP BY ALL ORDER BY m",
    ),
    Job(
        job_id="a script with two targets",
        project_id="p",
        query="CREATE TABLE b.one AS SELECT x FROM a.t; INSERT b.u (x) SELECT y FROM a.t WHERE FALSE; DELETE b.u WHERE k = ''",
    ),
    Job(job_id="partly", project_id="p", destination_table="p.b.out", query="SELECT t.x, n.* FROM a.t CROSS JOIN a.nowhere AS n"),
    Job(job_id="only read", project_id="p", query="SELECT x FROM a.t"),
    Job(job_id="not SQL", project_id="p", destination_table="p.b.out", query="SELEC"),
    Job(job_id="load", job_type="LOAD", destination_table="p.b.u", source_uris=("gs://in/2026-01-01/f.csv",)),
    Job(job_id="copy", job_type="COPY", destination_table="p.b.copy", source_tables=("p.b.u",)),
    Job(job_id="extract", job_type="EXTRACT", source_tables=("p.b.u",), destination_uris=("gs://bucket/out/*.csv",)),
]  # fmt: skip


def stored(job: Job, edge: Edge) -> StoredEdge:
    fields = {name: getattr(edge, name) for name in edge.__struct_fields__}
    return StoredEdge(
        **fields, job_id=job.job_id, last_seen="2025-12-31T23:00:00+00:00" if job.job_id == "copy" else None
    )


@pytest.fixture(scope="module")
def edges() -> list[StoredEdge]:
    """Of every kind of job, and of the project's own contracts and assets."""
    made = [stored(job, edge) for job in JOBS for edge in resolve_job(job, CATALOG).edges]
    settings = Settings()
    declared = declared_edges(settings, load_contracts(settings.schemas_dir))
    return [*made, *declared, *asset_edges(settings, {"events/click_item_shop": "180 min"})]


def strictly(kind: Any, value: Any) -> Any:
    """`value` as the generated class `kind`: TypeError for a field it does not have, one that misses, or one of another type."""
    if kind is EventType:
        return EventType(value)
    if isinstance(kind, types.UnionType):
        return next(strictly(one, value) for one in kind.__args__ if one is not types.NoneType)
    if typing.get_origin(kind) is list:
        return [strictly(*typing.get_args(kind), one) for one in value]
    if typing.get_origin(kind) is dict:
        _, inner = typing.get_args(kind)
        return {
            name: strictly(FACETS[name] if "Facet" in inner.__name__ else inner, one) for name, one in value.items()
        }
    if attr.has(kind):
        hints = typing.get_type_hints(kind)
        fields = {field.name: field for field in attr.fields(kind)}
        if unknown := value.keys() - fields.keys():
            raise TypeError(f"{kind.__name__} has no {unknown}")
        given = {name: strictly(hints[name], one) for name, one in value.items()}
        made = kind(**{fields[name].alias: one for name, one in given.items() if fields[name].init})
        for name, one in given.items():
            if getattr(made, name) != one:
                raise TypeError(f"{kind.__name__}.{name} is {getattr(made, name)}, not {one}")
        if kind is Transformation and value["subtype"] not in SUBTYPES[value["type"]]:
            raise TypeError(f"no transformation: {value}")
        return made
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind}")
    return value


def pruned(value: Any) -> Any:
    """Without the lists and objects that a generated class fills in where nothing was given."""
    if isinstance(value, dict):
        return {name: pruned(one) for name, one in value.items() if name == "inputFields" or one not in ({}, [])}
    return [pruned(one) for one in value] if isinstance(value, list) else value


def test_every_event_is_read_whole_by_the_generated_classes(edges: list[StoredEdge]) -> None:
    events = list(run_events(edges, AT))
    for event in events:
        read = strictly(RunEvent, event)
        assert UUID(read.run.runId).version == 5
        assert pruned(Serde.to_dict(read)) == pruned(event)
    found = {
        (one["type"], one["subtype"], one["masking"])
        for event in events
        for facet in (event["outputs"][0]["facets"]["columnLineage"],)
        for field in [*facet.get("dataset", ()), *(f for x in facet["fields"].values() for f in x["inputFields"])]
        for one in field["transformations"]
    }
    assert {pair[:2] for pair in found} == {(kind, one) for kind, many in SUBTYPES.items() for one in many}
    assert {pair[2] for pair in found} == {True, False}


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.update(extra=1),
        lambda event: event.update(eventType="DONE"),
        lambda event: event.update(eventTime="yesterday"),
        lambda event: event.update(schemaURL="https://openlineage.io/spec/1-0-0/OpenLineage.json"),
        lambda event: event["run"].update(runId="7"),
        lambda event: event["job"].pop("name"),
        lambda event: event["outputs"][0]["facets"]["columnLineage"].pop("fields"),
        lambda event: event["outputs"][0]["facets"]["columnLineage"].update(_schemaURL="https://openlineage.io/x.json"),
        lambda event: event["outputs"][0]["facets"]["columnLineage"]["fields"]["y"]["inputFields"][0].pop("field"),
        lambda event: event["outputs"][0]["facets"]["columnLineage"]["fields"]["y"]["inputFields"][0][
            "transformations"
        ][0].update(subtype="COPY"),
    ],
)
def test_reading_is_strict(edges: list[StoredEdge], change: Any) -> None:
    event = next(iter(run_events(edges, AT)))
    change(event)
    with pytest.raises((TypeError, ValueError)):
        strictly(RunEvent, event)


def test_what_the_events_tell(edges: list[StoredEdge]) -> None:
    events = {
        (one["job"]["namespace"], one["job"]["name"], one["outputs"][0]["name"]): one for one in run_events(edges, AT)
    }
    jobs = {name for namespace, name, _ in events if namespace == "bigquery"}
    assert jobs == {"every kind of edge", "a script with two targets", "partly", "load", "copy", "extract"}
    event = events["bigquery", "every kind of edge", "p.b.out"]
    assert event["inputs"] == [{"namespace": "bigquery", "name": name} for name in ("p.a.t", "p.b.u")]
    facet = event["outputs"][0]["facets"]["columnLineage"]
    assert facet["fields"]["y"]["inputFields"] == [
        {
            **{"namespace": "bigquery", "name": "p.a.t", "field": "y"},
            "transformations": [
                {"type": "DIRECT", "subtype": "TRANSFORMATION", "description": "UPPER(t.y)", "masking": False}
            ],
        }
    ]
    assert facet["fields"]["one"] == {"inputFields": []}
    assert {entry["field"] for entry in facet["dataset"]} >= {"k", "x"}
    assert event["eventTime"] == "2026-01-01T00:00:00+00:00"
    assert events["bigquery", "copy", "p.b.copy"]["eventTime"] == "2025-12-31T23:00:00+00:00"
    extracted = events["bigquery", "extract", "out/*"]["outputs"][0]
    assert (extracted["namespace"], extracted["name"]) == ("gs://bucket", "out/*")
    kinds = {one["namespace"] for key, event in events.items() if key[0] == "contracts" for one in event["inputs"]}
    assert kinds == {"event", "mongodb", "mysql", "service", "fraud", "bigquery"}
    again = list(run_events(edges, datetime(2026, 1, 2, tzinfo=UTC)))
    assert [event["run"] for event in again] == [event["run"] for event in events.values()]
    assert len({event["run"]["runId"] for event in again}) == len(again)


@pytest.fixture
def written(edges: list[StoredEdge], tmp_path: Path) -> Path:
    """The edges in the form of `extract`."""
    path = tmp_path / "edges.jsonl"
    path.write_text("\n".join(json.dumps({f: getattr(e, f) for f in e.__struct_fields__}) for e in edges))
    return path


def command(written: Path, *options: str) -> Result:
    return CliRunner().invoke(lineage, ["openlineage", "--edges", str(written), *options])


@contextmanager
def served(handler: Any) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_to_a_file_and_by_http(edges: list[StoredEdge], written: Path, tmp_path: Path) -> None:
    output = tmp_path / "events.jsonl"
    assert command(written, "--output", str(output)).exit_code == 0
    count = len(list(run_events(edges, AT)))
    assert len(output.read_text().splitlines()) == count
    received: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with served(Handler) as url:
        assert command(written, "--url", f"{url}/api/v1/lineage").exit_code == 0
    assert len(received) == count


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("format_", "right", "wrong"),
    [
        (
            "date-time",
            ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456+09:00"],
            ["yesterday", "2026-01-01T00:00:00"],
        ),
        ("uri", ["https://a.b/c#/$defs/D", "urn:x"], ["no uri", "a/b", "https://a b"]),
        ("uuid", ["6f0b8f6e-0f0f-5e0b-9d3e-6f9d3c1f9a55"], ["7"]),
    ],
)
def test_formats_that_schemas_state_are_checked(format_: str, right: list[str], wrong: list[str]) -> None:
    schema = {"$id": "https://x", "properties": {"at": {"format": format_}}}
    schemas: Registry[Any] = Registry().with_resource("https://x", DRAFT202012.create_resource(schema))

    def told(value: str) -> list[str]:
        event = {"schemaURL": "https://x", "at": value, "run": {}, "job": {}, "inputs": [], "outputs": []}
        return list(mistakes(event, schemas))

    assert [told(value) for value in right] == [[] for _ in right]
    assert all(told(value) for value in wrong)


def test_check_by_the_schemas_that_events_name(edges: list[StoredEdge], written: Path, tmp_path: Path) -> None:
    site = "https://openlineage.io/spec"
    event = {
        "$id": f"{site}/2-0-2/OpenLineage.json",
        "$defs": {"RunEvent": {"required": ["run"]}, "F": {"type": "object"}},
    }
    column = {
        "$id": f"{site}/facets/1-2-0/ColumnLineageDatasetFacet.json",
        "$defs": {"ColumnLineageDatasetFacet": {"$ref": f"{event['$id']}#/$defs/F", "required": ["fields"]}},
    }
    spec = tmp_path / "spec"
    for schema in (event, column):
        file = spec / str(schema["$id"]).removeprefix(f"{site}/")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(schema))
    with served(partial(Quiet, directory=str(spec))) as url:
        for place in (url, str(spec)):
            result = command(written, "--check", "--spec", place)
            assert result.exit_code == 0, result.output
            assert result.output.startswith(f"{len(list(run_events(edges, AT)))} events")
            assert "2-0-2/OpenLineage.json, facets/1-2-0/ColumnLineageDatasetFacet.json" in result.output
        column["$defs"]["ColumnLineageDatasetFacet"]["required"] = ["transitions"]  # type: ignore[index]
        file.write_text(json.dumps(column))
        result = command(written, "--check", "--spec", url)
        assert "outputs[0].facets.columnLineage: 'transitions' is a required property" in str(result.exception)
        file.unlink()
        result = command(written, "--check", "--spec", url)
        assert "1-2-0/ColumnLineageDatasetFacet.json" in str(result.exception)
        assert "404" in str(result.exception)
    assert "No such file" in str(command(written, "--check", "--spec", str(spec)).exception)
