"""What a piece of data is: contracts, read from `schemas/`, and what is compiled from them.

    load            contracts of a folder, every mistake with its place
    events, fields  the model: EventContract, Field, the columns they become
    rules, values, patterns, documents    what holds for every contract, and how files are read
    bigquery, spark, json_schema          the same contract in other languages
    compatibility, history                what changed, and whether a table can follow
    build, commands                       generated files; `dataplatform contracts`

This room knows no other: who uses contracts imports the module that is needed (`from dataplatform.contracts.load import load_contracts`).
"""
