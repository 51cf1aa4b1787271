"""A day of hours materialised again, as a range, against one statement over the day.

    python benchmarks/backfill.py [--hours 24] [--events 24000] [--types 4]

The bar: the whole Dagster run over the day costs less than twice the event's own statements over the day in one go.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from definitions import START, write_contracts

HOUR = timedelta(hours=1)


def main() -> None:
    """Print the table; exit status 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--events", type=int, default=24_000)
    parser.add_argument("--types", type=int, default=4)
    arguments = parser.parse_args()

    from dataplatform.contracts.load import load_contracts
    from dataplatform.definitions import definitions_for
    from dataplatform.due import Due
    from dataplatform.events import sql
    from dataplatform.events.hours import DUPLICATES, LEDGER, REJECTED, EventHours, asset_of
    from dataplatform.events.received import Record, encode_record
    from dataplatform.local.servers import Server, bigquery_command, free_ports
    from dataplatform.runs import dagster_instance, execute
    from dataplatform.settings import Settings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_contracts(folder / "schemas", arguments.types)
        port, grpc_port = free_ports(2)
        url = f"http://127.0.0.1:{port}"
        server = Server(
            "bigquery",
            bigquery_command(folder / "data", port, grpc_port, memory_limit="4GB"),
            log=folder / "server.log",
            ready_url=url,
            start_seconds=120,
        )
        server.start()
        try:
            settings = Settings(
                data_dir=folder / "data",
                schemas_dir=folder / "schemas",
                bigquery_endpoint=url,
                bigquery_grpc_endpoint=f"127.0.0.1:{grpc_port}",
                first_hour=START,
            )
            contracts = load_contracts(settings.schemas_dir).events
            stream = EventHours(settings, contracts)
            names = list(contracts)
            for hour in range(arguments.hours):
                lines = []
                for index in range(arguments.events // arguments.hours):
                    at = START + hour * HOUR + timedelta(microseconds=index * 1000)
                    event = names[index % len(names)]
                    params = {"item_id": index, "place": "list", "price": "12.50"}
                    payload = json.dumps({"event_id": f"{hour}-{index}", "event": event, "params": params})
                    stamp = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    record = Record(stamp, "local", event, f"{hour}-{index}", payload, [], "w", index + 1)
                    lines.append(encode_record(record))
                stream.landing.put(START + hour * HOUR, "w.ndjson", b"\n".join(lines) + b"\n")
            end = START + arguments.hours * HOUR
            stream.close(end)
            everything = (*map(asset_of, names), DUPLICATES, REJECTED, LEDGER)
            for due in stream.due(end):
                stream.materialise(due.assets, START, end)
            parameters = {"start": START, "end": end, "lookback_hours": settings.lookback_hours}
            statements = [
                sql.duplicates_statement(stream.tables),
                *(sql.accepted_statement(contract, stream.tables) for contract in contracts.values()),
                sql.ledger_statement(contracts.values(), stream.tables),
            ]
            landing = stream._parameters(START, end) | {"started_at": START}
            from dataplatform.events.hours import Piece, _accepted, _landing

            landing["landing"] = _landing(stream.landing.manifests().values())
            landing["accepted"] = _accepted(stream._counts(START, end, names, Piece("")))
            began = time.perf_counter()
            for statement in statements:
                stream.warehouse.script(statement, landing if "@landing" in statement else parameters)
            bare = time.perf_counter() - began
            began = time.perf_counter()
            with dagster_instance(settings) as instance:
                outcome = execute(
                    definitions_for(settings), instance, Due(everything, START, end, "again", "x"), "events"
                )
            run = time.perf_counter() - began
            if not outcome.ok:
                raise SystemExit("\n".join(outcome.failures))
            began = time.perf_counter()
            stream.materialise(everything, START, START + HOUR)
            single = time.perf_counter() - began
        finally:
            server.stop()
    print(f"{arguments.events:,} events of {arguments.types} types over {arguments.hours} hours\n")
    print(f"{'':56}{'seconds':>10}{'ratio':>8}")
    for label, seconds in (
        ("one statement an event, duplicates and ledger, over the day", bare),
        ("the day materialised again, as one Dagster run", run),
        (f"hour by hour (one hour took {single:.2f} s)", single * arguments.hours),
    ):
        print(f"{label:60}{seconds:6.2f}{seconds / bare:8.2f}")
    if run >= 2 * bare:
        raise SystemExit(f"the day took {run / bare:.2f} times one statement over it, the bar is 2")


if __name__ == "__main__":
    main()
