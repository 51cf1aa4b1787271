"""The schema of an event's table, and that the embedded BigQuery server makes that very table of it."""

from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery as client_library

from dataplatform.contracts.bigquery import column_ddl, event_schema, fields_of_schema, params_schema
from dataplatform.contracts.events import EventContract
from dataplatform.contracts.load import load_contracts

WORDS = {"action": "send", "object": "transfer", "service": "pay", "owner": "a", "domain": "b", "description": "c"}
PARAMS: list[dict[str, Any]] = [
    {"name": "amount", "type": "NUMERIC", "required": True, "description": "Sum."},
    {
        "name": "sender",
        "type": "STRUCT",
        "required": True,
        "fields": [
            {"name": "id", "type": "INT64", "required": True},
            {"name": "bank", "type": "STRUCT", "fields": [{"name": "code", "type": "STRING", "required": True}]},
        ],
    },
    {"name": "tags", "type": "STRING", "repeated": True, "required": True},
    {
        "name": "address",
        "type": "STRUCT",
        "pii": True,
        "description": "Where.",
        "fields": [{"name": "zip", "type": "STRING", "description": "Its 'code'."}],
    },
    {
        "name": "lines",
        "type": "STRUCT",
        "repeated": True,
        "pii": True,
        "fields": [
            {"name": "n", "type": "FLOAT64", "required": True},
            {"name": "in", "type": "STRUCT", "fields": [{"name": "x", "type": "BOOL"}]},
        ],
    },
]
EXPECTED = [
    {"name": "amount", "type": "NUMERIC", "mode": "REQUIRED", "description": "Sum."},
    {"name": "sender__id", "type": "INTEGER", "mode": "REQUIRED"},
    {"name": "sender__bank__code", "type": "STRING", "mode": "NULLABLE"},
    {"name": "tags", "type": "STRING", "mode": "REPEATED"},
    {
        "name": "address__zip",
        "type": "STRING",
        "mode": "NULLABLE",
        "description": "Its 'code'. [personal data]",
        "policyTags": {"names": ["TAG"]},
    },
    {
        "name": "lines",
        "type": "RECORD",
        "mode": "REPEATED",
        "description": "[personal data]",
        "fields": [
            {
                "name": "n",
                "type": "FLOAT",
                "mode": "REQUIRED",
                "description": "[personal data]",
                "policyTags": {"names": ["TAG"]},
            },
            {
                "name": "in",
                "type": "RECORD",
                "mode": "NULLABLE",
                "description": "[personal data]",
                "fields": [
                    {
                        "name": "x",
                        "type": "BOOLEAN",
                        "mode": "NULLABLE",
                        "description": "[personal data]",
                        "policyTags": {"names": ["TAG"]},
                    }
                ],
            },
        ],
    },
]


def test_parameters() -> None:
    contract = EventContract.model_validate({**WORDS, "params": PARAMS})
    assert params_schema(contract.params, policy_tag="TAG") == EXPECTED


def test_the_envelope_stands_around_the_parameters() -> None:
    schema = event_schema(EventContract.model_validate({**WORDS, "params": PARAMS}))
    assert [(column["name"], column["type"]) for column in schema[:12]] == [
        ("event_id", "STRING"),
        ("event", "STRING"),
        ("event_time", "TIMESTAMP"),
        ("sent_at", "TIMESTAMP"),
        ("user_id", "STRING"),
        ("device_id", "STRING"),
        ("session_id", "STRING"),
        ("platform", "STRING"),
        ("app_version", "STRING"),
        ("received_at", "TIMESTAMP"),
        ("hour", "TIMESTAMP"),
        ("occurred_at", "TIMESTAMP"),
    ]
    assert (schema[-1]["name"], schema[-1]["type"]) == ("_extra", "JSON")
    assert all(column["description"] for column in (*schema[:12], schema[-1]))
    assert "policyTags" not in str(schema), "without a tag to give, none is given"


def test_ddl() -> None:
    contract = EventContract.model_validate({**WORDS, "params": PARAMS})
    columns = [column_ddl(column) for column in params_schema(contract.params)]
    assert columns == [
        "`amount` NUMERIC NOT NULL OPTIONS (description = 'Sum.')",
        "`sender__id` INT64 NOT NULL",
        "`sender__bank__code` STRING",
        "`tags` ARRAY<STRING>",
        "`address__zip` STRING OPTIONS (description = 'Its \\'code\\'. [personal data]')",
        "`lines` ARRAY<STRUCT<`n` FLOAT64 NOT NULL OPTIONS (description = '[personal data]'), "
        "`in` STRUCT<`x` BOOL OPTIONS (description = '[personal data]')> OPTIONS (description = '[personal data]')>> "
        "OPTIONS (description = '[personal data]')",
    ]


def test_the_server_makes_that_table(bigquery: Any, dataset_prefix: str) -> None:
    client = client_library.Client(
        project=bigquery.project,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": bigquery.endpoint},
    )
    dataset = client.create_dataset(f"{dataset_prefix}contracts")
    for name in ("complete_payment_pay", "show_feed_marketplace"):
        schema = event_schema(load_contracts(Path("schemas")).events[name])
        fields = [client_library.SchemaField.from_api_repr(column) for column in schema]
        client.create_table(client_library.Table(dataset.table(name), schema=fields))
        there = [field.to_api_repr() for field in client.get_table(dataset.table(name)).schema]
        assert fields_of_schema(there) == fields_of_schema(schema)
    client.delete_dataset(dataset, delete_contents=True)
