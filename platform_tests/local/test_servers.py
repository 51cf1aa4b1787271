"""The session's servers: they run our wrapper, are bounded, and come back with their data after a kill."""

import signal

from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery as bq
from pymongo import MongoClient

from dataplatform.local.servers import Server, free_ports, mongo_command


def client_of(server):
    options = {"api_endpoint": server.endpoint}
    return bq.Client(project=server.project, credentials=AnonymousCredentials(), client_options=options)


def test_the_server_keeps_its_data_over_a_kill(bigquery, dataset_prefix):
    client = client_of(bigquery)
    client.create_dataset(f"{dataset_prefix}d")
    client.query_and_wait(f"CREATE TABLE {dataset_prefix}d.t AS SELECT 1 AS x")
    bigquery.kill()
    bigquery.start()
    assert [row.x for row in client_of(bigquery).query_and_wait(f"SELECT x FROM {dataset_prefix}d.t")] == [1]


def test_mongo_keeps_what_it_acknowledged_over_a_kill(mongo, dataset_prefix):
    documents = MongoClient(mongo.uri)[dataset_prefix].documents
    documents.insert_many([{"_id": number} for number in range(50)])
    if mongo.embedded:
        mongo.kill()
        mongo.start()
    assert MongoClient(mongo.uri)[dataset_prefix].documents.count_documents({}) == 50


def test_mongo_ends_when_it_is_told_to_in_its_first_moment(tmp_path):
    (port,) = free_ports(1)
    server = Server("mongo", mongo_command(tmp_path / "data", port), log=tmp_path / "log", ready_port=port)
    server.start()
    process = server.process
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(8) == 0
    finally:
        server.kill()
