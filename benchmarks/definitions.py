"""How long the Dagster definitions of 1,000 contracts take to import, and where an hour of many event types spends its time.

    python benchmarks/definitions.py [--contracts 1000] [--types N]

`--types N` also lands one small hour of N event types and materialises it as one run against an embedded server that it starts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

VOCABULARY = "actions: {{click: A tap.}}\nobjects:\n{objects}\nservices: {{shop: The shop.}}\n"
OWNERS = "shop-team: {description: Runs the shop., email: shop@example.com}\n"
CONTRACT = """\
action: click
object: {name}
service: shop
owner: shop-team
domain: commerce
description: Someone taps {name}.
params:
  - {{name: item_id, type: INT64, required: true, description: The item.}}
  - {{name: place, type: STRING, values: [list, detail], description: Where.}}
  - {{name: price, type: NUMERIC, description: Its price.}}
  - name: seller
    type: STRUCT
    fields:
      - {{name: name, type: STRING, pii: true}}
      - {{name: since, type: DATE}}
"""
START = datetime(2026, 1, 1, tzinfo=UTC)


def write_contracts(folder: Path, count: int) -> None:
    """A folder of `count` contracts of six columns each."""
    names = [f"thing{index}" for index in range(count)]
    events = folder / "events" / "shop"
    events.mkdir(parents=True)
    (folder / "vocabulary.yaml").write_text(
        VOCABULARY.format(objects="\n".join(f"  {name}: A thing." for name in names))
    )
    (folder / "owners.yaml").write_text(OWNERS)
    for name in names:
        (events / f"click_{name}_shop.yaml").write_text(CONTRACT.format(name=name))


def imported(schemas: Path, module: str) -> float:
    """CPU seconds a fresh process takes to import a module (other work on the machine counts little), the best of three."""
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    environment = os.environ | {
        "DATAPLATFORM_SCHEMAS_DIR": str(schemas),
        "DATAPLATFORM_BIGQUERY_ENDPOINT": "http://127.0.0.1:9",
    }
    best = min(
        float(
            subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    )
    return best


def materialised(folder: Path, schemas: Path) -> list[tuple[str, float]]:
    """Where an hour of all event types spends its time, in seconds."""
    from dataplatform.catch_up import catch_up
    from dataplatform.contracts.load import load_contracts
    from dataplatform.events.hours import EventHours
    from dataplatform.events.received import Record, encode_record
    from dataplatform.local.servers import Server, bigquery_command, free_ports
    from dataplatform.settings import Settings

    port, grpc_port = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    server = Server(
        "bigquery",
        bigquery_command(folder, port, grpc_port, memory_limit="4GB"),
        log=folder / "server.log",
        ready_url=url,
        start_seconds=120,
    )
    server.start()
    try:
        settings = Settings(
            data_dir=folder,
            schemas_dir=schemas,
            bigquery_endpoint=url,
            bigquery_grpc_endpoint=f"127.0.0.1:{grpc_port}",
            first_hour=START,
        )
        contracts = load_contracts(schemas).events
        stream = EventHours(settings, contracts)
        lines = []
        for number, name in enumerate(contracts):
            payload = json.dumps({"event_id": f"{number}", "event": name, "params": {"item_id": number}})
            lines.append(
                encode_record(
                    Record("2026-01-01T00:00:01.000000Z", "local", name, str(number), payload, [], "w", number + 1)
                )
            )
        stream.landing.put(START, "w.ndjson", b"\n".join(lines) + b"\n")
        spans: list[tuple[str, float]] = []
        began = time.perf_counter()
        stream.due(START)
        stream.close(START + timedelta(hours=1))
        due = stream.due(START + timedelta(hours=1))
        spans.append(("create tables, see what is due", time.perf_counter() - began))
        steps: list[tuple[str, float]] = []
        began = time.perf_counter()
        stream.materialise(
            due[0].assets, START, START + timedelta(hours=1), log=lambda line: steps.append((line, time.perf_counter()))
        )
        before = began
        for line, at in steps:
            spans.append((line, at - before))
            before = at
        spans.append(("ledger, balance", time.perf_counter() - before))
        spans.append(("all, without Dagster", time.perf_counter() - began))
        stream.warehouse.query(f"DELETE FROM {stream.tables.ledger} WHERE TRUE")
        began = time.perf_counter()
        result = catch_up(START + timedelta(hours=1), None, lambda _: None, settings=settings)
        spans.append(("again by `catch-up`, as a Dagster run", time.perf_counter() - began))
        if not result.ok:
            raise SystemExit("\n".join(result.lines))
    finally:
        server.stop()
    return spans


def main() -> None:
    """Print the tables; exit status 1 where the import misses its bar of 3 seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contracts", type=int, default=1000)
    parser.add_argument("--types", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_contracts(folder / "schemas", arguments.contracts)
        write_contracts(folder / "one", 1)
        bare = imported(folder / "schemas", "dagster")
        empty = imported(folder / "one", "dataplatform.definitions")
        full = imported(folder / "schemas", "dataplatform.definitions")
        print(f"{'import':44}{'CPU s':>10}{'ratio':>8}")
        for label, seconds in (
            ("dagster alone", bare),
            ("definitions, one contract", empty),
            (f"definitions, {arguments.contracts:,} contracts", full),
        ):
            print(f"{label:44}{seconds:10.2f}{seconds / bare:8.2f}")
        if arguments.types:
            write_contracts(folder / "types", arguments.types)
            print(f"\n{f'an hour of {arguments.types:,} event types':72}{'seconds':>10}")
            for label, seconds in materialised(folder / "data", folder / "types"):
                print(f"{label[:71]:72}{seconds:10.2f}")
        if full >= 3:
            raise SystemExit(f"the import took {full:.2f} s, the bar is 3 s")


if __name__ == "__main__":
    main()
