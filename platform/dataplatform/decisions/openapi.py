"""The OpenAPI document: schemas come from the same types that read and write the bodies."""

from typing import Any

import msgspec

from ..fraud.cases import STATUSES
from .judge import Answer, Record, Request


def document() -> dict[str, Any]:
    """OpenAPI 3.1 of the decision service."""
    _, schemas = msgspec.json.schema_components([Request, Answer, Record], ref_template="#/components/schemas/{name}")

    def body(name: str) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}

    problem = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}

    def failures(*statuses: int) -> dict[str, Any]:
        said = {
            400: "The body is no JSON.",
            401: "No known API key.",
            403: "The role does not allow it, or a second person is needed.",
            404: "There is no such thing.",
            409: "The request id had another body; or another change came first (with the difference).",
            410: "The policy's text has changed since.",
            413: "The body is too large.",
            429: "Too many requests of one user, or another backtest runs: after Retry-After.",
            422: "Mistakes, each with its JSON pointer.",
            503: "Too much waits for the disk, or the store is down: try again.",
        }
        return {str(status): {"description": said[status]} | problem for status in statuses}

    def named(name: str, kind: str = "string") -> dict[str, Any]:
        return {"name": name, "in": "path", "required": True, "schema": {"type": kind}}

    def asked(name: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "in": "query", "schema": schema}

    def change(
        summary: str,
        properties: dict[str, Any],
        required: list[str],
        *places: dict[str, Any],
        done: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        return {
            "summary": summary,
            "parameters": list(places),
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": (done or {"200": {"description": "Done."}}) | failures(400, 401, 403, 404, 409, 422, 503),
        }

    text, number = {"type": "string"}, {"type": "integer"}
    policy, version, case = named("policy"), named("version", "integer"), named("case", "integer")
    schemas = schemas | {
        "Problem": {
            "type": "object",
            "properties": {
                "status": number,
                "title": text,
                "fix": text,
                "problems": {"type": "array", "items": {"type": "object"}},
                "difference": {"type": "object"},
            },
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Decisions", "version": "1", "description": "Judges an event while a person waits."},
        "security": [{"key": []}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
        "paths": {
            "/v1/decisions": {
                "post": {
                    "summary": "Decide. The same request_id gives the same answer.",
                    "requestBody": {"required": True} | body("Request"),
                    "responses": {"200": {"description": "The decision."} | body("Answer")}
                    | failures(400, 401, 409, 413, 422, 503),
                }
            },
            "/v1/decisions/{request_id}": {
                "get": {
                    "summary": "The record of a decision.",
                    "parameters": [named("request_id")],
                    "responses": {"200": {"description": "The record."} | body("Record")} | failures(401, 404),
                }
            },
            "/v1/decisions/{request_id}/explanation": {
                "get": {
                    "summary": "Every condition's value and outcome, and sentences for a person.",
                    "parameters": [named("request_id")],
                    "responses": {"200": {"description": "The trace."}} | failures(401, 404, 410),
                }
            },
            "/v1/policies": {
                "get": {
                    "summary": "What is in force.",
                    "responses": {"200": {"description": "Policies."}} | failures(401, 503),
                }
            },
            "/v1/policies/{policy}/parameters": {
                "get": {
                    "summary": "Parameters and all versions.",
                    "parameters": [policy],
                    "responses": {"200": {"description": "Versions, newest first."}} | failures(401, 404, 503),
                },
                "post": change(
                    "A new draft.",
                    {"changes": {"type": "object"}, "base_version": number, "reason": text},
                    ["changes", "base_version", "reason"],
                    policy,
                ),
            },
            "/v1/policies/{policy}/parameters/{version}/approve": {
                "post": change("A second person says yes.", {}, [], policy, version)
            },
            "/v1/policies/{policy}/parameters/{version}/state": {
                "post": change(
                    "Move a version forward.",
                    {"state": {"enum": ["shadow", "share", "live"]}, "share_percent": number},
                    ["state"],
                    policy,
                    version,
                )
            },
            "/v1/policies/{policy}/backtests": {
                "post": change(
                    "Dry run: what a version, or changes of what is live, would have decided over [from, to), to the second.",
                    {"from": text, "to": text, "version": number, "changes": {"type": "object"}},
                    ["from", "to"],
                    policy,
                    done={"202": {"description": "It runs; Location is where its report will be."}} | failures(429),
                )
            },
            "/v1/policies/{policy}/backtests/{run}": {
                "get": {
                    "summary": "A backtest: status (running, done, failed), and its report or error.",
                    "parameters": [policy, named("run")],
                    "responses": {"200": {"description": "The run."}} | failures(401, 403, 404, 503),
                }
            },
            "/v1/policies/{policy}/export": {
                "get": {
                    "summary": "The copy for Git: what is live, and every version that ever was, as files.",
                    "parameters": [policy],
                    "responses": {"200": {"description": "Texts by file."}} | failures(401, 403, 404, 503),
                }
            },
            "/v1/policies/{policy}/rollback": {
                "post": change(
                    "The values before, live again; a conflict where another than base_version is live.",
                    {"reason": text, "to": number, "base_version": number},
                    ["reason"],
                    policy,
                )
            },
            "/v1/policies/{policy}/changes": {
                "get": {
                    "summary": "Who did what, when and why.",
                    "parameters": [policy],
                    "responses": {"200": {"description": "The log, newest first."}} | failures(401, 503),
                }
            },
            "/v1/lists/{name}": {
                "get": {
                    "summary": "Entries of a list.",
                    "parameters": [named("name")],
                    "responses": {"200": {"description": "Entries."}} | failures(401, 404, 503),
                },
                "post": change(
                    "Add entries.",
                    {"entries": {"type": "array"}, "reason": text, "expires_at": text},
                    ["entries", "reason"],
                    named("name"),
                ),
                "delete": change(
                    "Take entries out.",
                    {"entries": {"type": "array"}, "reason": text},
                    ["entries", "reason"],
                    named("name"),
                ),
            },
            "/v1/cases": {
                "get": {
                    "summary": "Cases, newest first.",
                    "parameters": [
                        asked("status", {"enum": ["active", *STATUSES]}),
                        *(asked(name, text) for name in ("assignee", "policy", "entity", "entity_key")),
                        *(asked(name, number) for name in ("limit", "before")),
                    ],
                    "responses": {"200": {"description": "Cases."}} | failures(401, 403, 422, 503),
                }
            },
            "/v1/cases/{case}": {
                "get": {
                    "summary": "A case with its evidence, linked decisions and history.",
                    "parameters": [case],
                    "responses": {"200": {"description": "The case."}} | failures(401, 403, 404, 503),
                },
                "patch": change(
                    "Change status or assignee, on the version that was seen; an empty assignee is nobody.",
                    {"version": number, "status": {"enum": list(STATUSES)}, "assignee": text, "note": text},
                    ["version"],
                    case,
                ),
            },
            "/v1/cases/{case}/notes": {"post": change("A note for the history.", {"note": text}, ["note"], case)},
            "/v1/cases/{case}/decisions": {
                "post": change("Link a decision.", {"request_id": text}, ["request_id"], case)
            },
        },
    }
