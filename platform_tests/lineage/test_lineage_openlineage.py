"""Events are OpenLineage's: what its RunEvent and its column-lineage facet require, and no more than they know."""

import json
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from click.testing import CliRunner
from jsonschema import Draft202012Validator, FormatChecker

from dataplatform.lineage.commands import lineage
from dataplatform.lineage.impact import StoredEdge
from dataplatform.lineage.openlineage import run_events

TEXT = {"type": "string"}
URI = {"type": "string", "format": "uri", "pattern": "^https?://"}
DATASET = {"type": "object", "required": ["namespace", "name"], "properties": {"namespace": TEXT, "name": TEXT}}
INPUT_FIELD = {
    "type": "object",
    "required": ["namespace", "name", "field"],
    "properties": {
        **{"namespace": TEXT, "name": TEXT, "field": TEXT},
        "transformations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type"],
                "additionalProperties": False,
                "properties": {
                    "type": {"enum": ["DIRECT", "INDIRECT"]},
                    "subtype": TEXT,
                    "description": TEXT,
                    "masking": {"type": "boolean"},
                },
            },
        },
    },
}
FACET = {
    "type": "object",
    "required": ["_producer", "_schemaURL", "fields"],
    "properties": {
        **{"_producer": URI, "_schemaURL": URI},
        "fields": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["inputFields"],
                "properties": {"inputFields": {"type": "array", "items": INPUT_FIELD}},
            },
        },
        "dataset": {"type": "array", "items": INPUT_FIELD},
    },
}
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        **{"producer": URI, "schemaURL": URI},
        "eventTime": {"type": "string", "format": "date-time"},
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": {"type": "object", "required": ["runId"], "properties": {"runId": {"type": "string", "format": "uuid"}}},
        "job": DATASET,
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {
            "type": "array",
            "items": {
                **DATASET,
                "properties": {"facets": {"type": "object", "properties": {"columnLineage": FACET}}},
            },
        },
    },
}
EDGES = [
    StoredEdge("p.a.t", "x", "p.b.u", "y", "DIRECT", "TRANSFORMATION", False, "UPPER(x)", job_id="one"),
    StoredEdge("p.a.t", "k", "p.b.u", "*", "INDIRECT", "FILTER", False, "k = 1", job_id="one"),
    StoredEdge(None, None, "p.b.u", "z", "DIRECT", "CONSTANT", False, "1", job_id="one"),
    StoredEdge("p.b.u", "y", "gs://bucket/out/*.csv", "y", "DIRECT", "IDENTITY", False, "y", job_id="two"),
    StoredEdge("p.b.u", "y", None, "y", "DIRECT", "IDENTITY", False, "y", job_id="read"),
]


def test_events_are_valid_and_whole() -> None:
    events = list(run_events(EDGES, datetime(2026, 1, 1, tzinfo=UTC)))
    validator = Draft202012Validator(RUN_EVENT, format_checker=FormatChecker())
    for event in events:
        assert list(validator.iter_errors(event)) == []
    assert [event["job"]["name"] for event in events] == ["one", "two"]
    facet = events[0]["outputs"][0]["facets"]["columnLineage"]
    assert facet["fields"]["y"]["inputFields"][0]["transformations"] == [
        {"type": "DIRECT", "subtype": "TRANSFORMATION", "description": "UPPER(x)", "masking": False}
    ]
    assert facet["fields"]["z"] == {"inputFields": []}
    assert [entry["field"] for entry in facet["dataset"]] == ["k"]
    assert (events[1]["outputs"][0]["namespace"], events[1]["outputs"][0]["name"]) == ("gs://bucket", "out/*.csv")
    again = list(run_events(EDGES, datetime(2026, 1, 2, tzinfo=UTC)))
    assert [event["run"] for event in again] == [event["run"] for event in events]


def test_to_a_file_and_by_http(tmp_path: Path) -> None:
    edges = tmp_path / "edges.jsonl"
    edges.write_text("\n".join(json.dumps({f: getattr(e, f) for f in e.__struct_fields__}) for e in EDGES))
    output = tmp_path / "events.jsonl"
    assert CliRunner().invoke(lineage, ["openlineage", "--edges", str(edges), "--output", str(output)]).exit_code == 0
    assert len(output.read_text().splitlines()) == 2
    received: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/api/v1/lineage"
        assert CliRunner().invoke(lineage, ["openlineage", "--edges", str(edges), "--url", url]).exit_code == 0
    finally:
        server.shutdown()
        server.server_close()
    assert len(received) == 2
