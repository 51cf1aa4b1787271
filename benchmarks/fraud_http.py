"""Decisions over HTTP with 20 online features and the landing of each, beside a bare FastAPI echo of the same bodies.

    python benchmarks/fraud_http.py [--seconds 6] [--connections 32] [--workers 1]

wrk sends both the same requests, every one with an id of its own. FastAPI is installed into a temporary environment from the
configured package index. The decisions read features of a person with a history; every answer is durable and landed.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).parents[1]
HALF_CONNECTIONS = 256
SCRIPT = """
local n = 0
local id = 0
function setup(thread) thread:set("id", id); id = id + 1 end
function delay() return -PAUSE * math.log(1 - math.random()) end
request = function()
  n = n + 1
  local body = '{"request_id":"RUN-' .. id .. "-" .. n .. '","event":"send_transfer_pay","entities":{"sender":"u' .. (n % 500)
    .. '","receiver":"acc' .. (n % 500) .. '","device":"d' .. (n % 500) .. '"},"facts":{"amount":5000,"currency":"KRW","is_first":true},"deadline_ms":5000}'
  return wrk.format("POST", nil, {["X-API-Key"] = "local", ["Content-Type"] = "application/json"}, body)
end
"""
ECHO = """
from typing import Any
from fastapi import FastAPI
app = FastAPI()
@app.post("/v1/decisions")
async def decide(body: dict[str, Any]) -> dict[str, Any]:
    return body
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait(port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server does not start")


def wrk(
    port: int, folder: Path, run: str, seconds: float, connections: int, pause: float = 0
) -> tuple[float, float, float, int]:
    """Requests a second, p50 and p99 in ms, and how many answers were no 200."""
    script = folder / f"{run}.lua"
    text = SCRIPT.replace("RUN", run).replace("PAUSE", str(pause))
    lines = [line for line in text.splitlines() if pause or not line.startswith("function delay")]
    script.write_text("\n".join(lines))
    done = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            str(script),
            f"http://127.0.0.1:{port}/v1/decisions",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    def ms(label: str) -> float:
        value, unit = re.search(rf"{label}\s+([0-9.]+)(us|ms|s)", done).groups()
        return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]

    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    return (
        float(re.search(r"Requests/sec:\s+([0-9.]+)", done).group(1)),
        ms("50%"),
        ms("99%"),
        int(bad.group(1)) if bad else 0,
    )


MORE_RULES = """\
  - {name: more_devices, when: sender.devices_30d > 20 OR sender.addresses_24h > 20, score: 1, reason: For the measurement.}
  - {name: more_sums, when: sender.transferred_24h > 100000000 OR sender.transfer_max_30d > 100000000, score: 1, reason: For the measurement.}
  - {name: more_senders, when: receiver.transfers_24h > 1000 OR receiver.senders_30d > 1000, score: 1, reason: For the measurement.}
"""


def schemas(folder: Path) -> Path:
    """The checkout's schemas, with more rules in the policy, so that a decision reads 20 features and more."""
    copied = folder / "schemas"
    shutil.copytree(ROOT / "schemas", copied)
    policy = copied / "policies" / "transfer.yaml"
    policy.write_text(policy.read_text().replace("levels: ", f"{MORE_RULES}levels: "))
    return copied


def cpu_seconds(process: int) -> float:
    """Processor time of a process and its children."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(stat.parent.name) == process or int(fields[1]) == process:
            found += (int(fields[11]) + int(fields[12])) / ticks
    return found


def fill(folder: Path, schemas_dir: Path) -> int:
    """History of 500 people, accounts and devices; gives the number of features that a decision looks up."""
    from dataplatform.decisions.judge import bench_of
    from dataplatform.fraud.catalog import load_catalog
    from dataplatform.fraud.moments import Event
    from dataplatform.fraud.online import OnlineFeatures
    from dataplatform.settings import Settings

    catalog = load_catalog(schemas_dir)
    settings = Settings(data_dir=folder, first_hour=datetime(2026, 1, 1, tzinfo=UTC))
    now = time.time_ns() // 1000
    events = []
    for number in range(500):
        user, account, device = f"u{number}", f"acc{number}", f"d{number}"
        old = now - 100 * 86_400_000_000
        events.append(
            Event("register_user_identity", f"r{number}", old, old, {"user_id": user, "device_id": device}, {})
        )
        events.append(Event("install_app_app", f"i{number}", old, old, {"device_id": device}, {}))
        for turn in range(20):
            at = now - turn * 3_600_000_000
            values = {
                "amount": Decimal(3000 + turn),
                "currency": "KRW",
                "receiver__account_no": f"acc{turn}",
                "is_first": False,
                "user_id": user,
            }
            keys = {"user_id": user, "receiver__account_no": account, "device_id": device}
            events.append(Event("send_transfer_pay", f"t{number}-{turn}", at, at, keys, values))
            login = {"risk_score": 0.1, "device_id": device, "ip": "10.0.0.1", "user_id": user}
            events.append(
                Event(
                    "login_account_identity", f"l{number}-{turn}", at, at, {"user_id": user, "device_id": device}, login
                )
            )
            events.append(
                Event(
                    "charge_balance_pay",
                    f"c{number}-{turn}",
                    at,
                    at,
                    {"user_id": user},
                    {"amount": Decimal(5000), "currency": "KRW"},
                )
            )
    for name, entity in catalog.entities.items():
        path = settings.data_dir / "fraud" / "online" / f"{name}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        state = OnlineFeatures(entity, path)
        started = time.perf_counter()
        state.apply(events)
        state.mark_built()
        print(f"online update, {name}: {len(events) / (time.perf_counter() - started):,.0f} events/s")
        state.close()
    bench = bench_of(catalog.policies["transfer"], catalog, None)
    return sum(len(names) for names in bench.wanted.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--echo-python", help="A Python that has FastAPI and uvicorn, instead of a new environment.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "echo_app.py").write_text(ECHO)
        python = Path(arguments.echo_python or folder / "venv" / "bin" / "python")
        if not arguments.echo_python:
            subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "-q", "fastapi", "uvicorn", "uvloop", "httptools"], check=True
            )
        schemas_dir = schemas(folder)
        looked_up = fill(folder / "data", schemas_dir)
        bare_port, port = free_port(), free_port()
        environment = os.environ | {
            "DATAPLATFORM_DATA_DIR": str(folder / "data"),
            "DATAPLATFORM_SCHEMAS_DIR": str(schemas_dir),
        }
        bare = subprocess.Popen(
            [
                str(python),
                "-m",
                "uvicorn",
                "echo_app:app",
                "--port",
                str(bare_port),
                "--log-level",
                "error",
                "--no-access-log",
            ],
            cwd=folder,
        )
        program = Path(sys.executable).with_name("dataplatform")
        ours = subprocess.Popen(
            [str(program), "fraud", "serve", "--port", str(port), "--workers", str(arguments.workers)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait(bare_port)
            wait(port)
            time.sleep(2)
            seconds, connections = int(arguments.seconds), arguments.connections
            for which in (bare_port, port):
                wrk(which, folder, f"warm{which}", 1, connections)
            print(f"{looked_up} features a decision, {connections} connections, {arguments.workers} worker(s)")
            print(f"{'':<28}{'a second':>10}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}{'CPU µs each':>13}")
            rates = {}
            for turn in range(2):
                for name, which, process in (("FastAPI echo", bare_port, bare.pid), ("decisions", port, ours.pid)):
                    spent = cpu_seconds(process)
                    rate, p50, p99, bad = wrk(which, folder, f"{which}x{turn}", seconds, connections)
                    spent = (cpu_seconds(process) - spent) / (rate * seconds)
                    rates.setdefault(name, []).append(rate)
                    print(f"{name:<28}{rate:>10,.0f}{p50:>9.2f}{p99:>9.2f}{bad:>8}{1e6 * spent:>13.0f}")
            best = max(rates["decisions"])
            # Many connections, each with pauses of random lengths: requests come as people send them, not in step.
            pause = round(1000 * HALF_CONNECTIONS / (best / 2))
            for name, which in (("FastAPI echo", bare_port), ("decisions", port)):
                rate, p50, p99, bad = wrk(which, folder, f"half{which}", seconds, HALF_CONNECTIONS, pause)
                print(f"{name + ' at that half load':<28}{rate:>10,.0f}{p50:>9.2f}{p99:>9.2f}{bad:>8}")
            print(f"decisions / echo, by rate: {100 * best / max(rates['FastAPI echo']):.0f}%")
            metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            print(
                " ".join(line for line in metrics.splitlines() if "commits_total " in line and not line.startswith("#"))
            )
        finally:
            for process in (ours, bare):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
