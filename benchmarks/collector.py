"""How many events a second one collector process takes in, judged and durable, against the same server that judges nothing.

    .venv/bin/python benchmarks/collector.py [--seconds 10] [--each 5] [--parameters 12]

The bare server is the collector itself (protocol, keys, limits, metrics, writer, group commit) without its heart: it reads
the body, appends it as it is and answers after the fsync. It does not even decode: what it does is what durable HTTP costs.
A second one cuts the body into events and writes each as a record, without judging: what a judge costs is the difference.
Load comes from `wrk` where it is installed, else from the bundled asyncio client (said below). `--seconds 60` watches the
memory for the minute that the bar asks for. Other load on the machine changes the times, not so much the CPU time an event.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
BATCH = 50

CONTRACT = """\
action: bench
object: item
service: bench
owner: bench
domain: bench
description: An event to measure with.
params:
"""
FIELDS = (
    ("text{n}", "STRING", lambda r: f"value {r.randrange(10**6)}"),
    ("kind{n}", "STRING, values: [red, green, blue]", lambda r: r.choice(["red", "green", "blue"])),
    ("count{n}", "INT64, min: 0, max: 1000000", lambda r: r.randrange(10**6)),
    ("score{n}", "FLOAT64", lambda r: round(r.random(), 4)),
    ("flag{n}", "BOOL", lambda r: r.random() < 0.5),
    ("price{n}", "NUMERIC", lambda r: f"{r.randrange(10**6)}.{r.randrange(100):02d}"),
    ("seen{n}", "TIMESTAMP", lambda r: f"2026-01-{r.randrange(1, 28):02d}T10:00:00.{r.randrange(10**3):03d}Z"),
)


def write_contracts(folder: Path, parameters: int) -> None:
    """The folder of contracts with one event of so many parameters."""
    lines = [CONTRACT]
    for number in range(parameters):
        name, kind, _ = FIELDS[number % len(FIELDS)]
        lines.append(f"  - {{name: {name.format(n=number)}, required: true, type: {kind}}}\n")
    file = folder / "events" / "bench" / "bench_item_bench.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("".join(lines))
    (folder / "vocabulary.yaml").write_text(
        "actions: {bench: measures}\nobjects: {item: a thing}\nservices: {bench: the benchmark}\n"
    )
    (folder / "owners.yaml").write_text("bench: {description: the benchmark, email: bench@example.com}\n")


def event(number: int, parameters: int, chance: random.Random) -> str:
    """One valid event as its JSON text."""
    params = {
        FIELDS[place % len(FIELDS)][0].format(n=place): FIELDS[place % len(FIELDS)][2](chance)
        for place in range(parameters)
    }
    envelope = {
        "event_id": f"{chance.getrandbits(128):032x}",
        "event": "bench_item_bench",
        "event_time": f"2026-01-31T10:{chance.randrange(60):02d}:{chance.randrange(60):02d}.{chance.randrange(1000):03d}Z",
        "sent_at": "2026-01-31T10:00:01Z",
        "user_id": str(number),
        "device_id": f"{chance.getrandbits(64):016x}",
        "platform": "ios",
        "app_version": "1.2.3",
        "params": params,
    }
    return json.dumps(envelope, separators=(",", ":"))


def segment_batch(events: list[str]) -> str:
    """The same events as Segment's Python SDK sends them."""
    renamed = {"event_id": "messageId", "event_time": "timestamp", "user_id": "userId", "device_id": "anonymousId"}
    shared = {
        "type": "track",
        "integrations": {},
        "context": {"library": {"name": "analytics-python", "version": "2.3.4"}},
    }
    messages = []
    for text in events:
        one = json.loads(text)
        message = {theirs: one[ours] for ours, theirs in renamed.items()}
        messages.append({**message, "event": one["event"], "properties": one["params"], **shared})
    return json.dumps({"batch": messages, "sentAt": "2026-01-31T10:00:01.123456+00:00"})


@dataclass(frozen=True)
class Result:
    requests: float
    """Requests a second, all answered 200."""
    p50: float
    p99: float
    """Milliseconds from request to durable answer."""
    wrong: int


def wrk(url: str, body: Path, seconds: float, connections: int, pause_ms: float = 0) -> Result:
    """Load from wrk; with a pause, each connection waits that long (± half) between requests."""
    script = body.with_suffix(".lua")
    delay = f"function delay() return {pause_ms} * (0.5 + math.random()) end" if pause_ms else ""
    script.write_text(
        f"""
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"], wrk.headers["X-Write-Key"] = "application/json", "local"
wrong = 0
function response(status) if status ~= 200 then wrong = wrong + 1 end end
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
{delay}
function done(summary, latency)
  local total = 0
  for _, thread in ipairs(threads) do total = total + thread:get("wrong") end
  print(string.format("RESULT %f %f %f %d", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    total + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    match = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+)", done.stdout)
    if match is None:
        raise SystemExit(f"wrk said nothing of use:\n{done.stdout}{done.stderr}")
    return Result(float(match[1]), float(match[2]), float(match[3]), int(match[4]))


def asyncio_load(url: str, body: Path, seconds: float, connections: int, pause_ms: float = 0) -> Result:
    """The same from this process's event loop; it takes more CPU than wrk, so the server seems slower."""
    host, port = url.split("/")[2].split(":")
    text = body.read_bytes()
    request = (
        f"POST /{url.split('/', 3)[3]} HTTP/1.1\r\nHost: {host}\r\nX-Write-Key: local\r\nContent-Length: {len(text)}\r\n\r\n"
    ).encode() + text
    latencies: list[float] = []
    wrong = 0

    async def client(end: float) -> None:
        nonlocal wrong
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end:
            if pause_ms:
                await asyncio.sleep(pause_ms * (0.5 + random.random()) / 1000)
            start = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            wrong += b" 200 " not in head[:20]
            latencies.append(time.perf_counter() - start)
        writer.close()

    async def run() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(client(end) for _ in range(connections)))

    import uvloop

    uvloop.run(run())
    latencies.sort()
    count = len(latencies)
    return Result(count / seconds, latencies[count // 2] * 1e3, latencies[int(count * 0.99)] * 1e3, wrong)


def bare(port: str, mode: str) -> None:
    """The peer: the collector with its heart taken out. `append` keeps the body as it is, `records` one record an event."""
    from functools import partial

    from dataplatform.collector import door, server
    from dataplatform.collector.http import Request, Slot
    from dataplatform.events.verdict import Judge, Judged
    from dataplatform.settings import get_settings

    class Bare(door.Door):
        def _take_events(self, slot: Slot, request: Request, query: bytes) -> None:
            self.keys.source(request.headers, query)
            self.writer.add(self.writer.open_file(self._moment(request.headers).hour), request.body + b"\n", 1)
            answer = partial(slot.answer, 200, b'{"received":1}', door.CORS)
            self._answer_when_durable(slot, request, answer, 200)

    if mode == "append":
        server.Door = Bare  # type: ignore[misc]
    else:
        Judge.judge_batch = lambda _, raws: Judged(["bench_item_bench"] * len(raws), ["1"] * len(raws), {})  # type: ignore[method-assign]
    server.serve(get_settings(), "127.0.0.1", int(port))


class Running:
    """A server process of this benchmark with a data folder of its own."""

    def __init__(self, kind: str, contracts: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-collector-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = os.environ | {
            "DATAPLATFORM_ENV": "local",
            "DATAPLATFORM_DATA_DIR": str(self.folder),
            "DATAPLATFORM_SCHEMAS_DIR": str(contracts),
        }
        if kind == "collector":
            command = [str(Path(sys.executable).with_name("dataplatform")), "collector", "--port", str(self.port)]
        else:
            command = [sys.executable, __file__, "--bare", str(self.port), kind]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=(self.folder / "log").open("wb")
        )
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit(f"{kind} did not start")

    def rss(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def cpu(self) -> float:
        """Seconds of CPU that the server has used, of all its threads, in the kernel as well."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM if self.process.poll() is None else 0)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10, help="at full load while the memory is watched; the bar is 60"
    )
    parser.add_argument("--each", type=float, default=5, help="seconds of every other measurement")
    parser.add_argument("--parameters", type=int, default=12)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--client", choices=["wrk", "asyncio"], default="wrk" if shutil.which("wrk") else "asyncio")
    parser.add_argument("--bare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(*options.bare)
        return
    load = wrk if options.client == "wrk" else asyncio_load
    chance = random.Random(1)
    work = Path(tempfile.mkdtemp(prefix="bench-collector-"))
    write_contracts(work / "schemas", options.parameters)
    events = [event(number, options.parameters, chance) for number in range(BATCH)]
    batch, single, segment = work / "batch.json", work / "single.json", work / "segment.json"
    batch.write_text('{"batch":[' + ",".join(events) + "]}")
    single.write_text(events[0])
    segment.write_text(segment_batch(events))
    print(
        f"{os.cpu_count()} cores, load from {options.client} ({options.connections} connections, on the same machine), "
        f"{options.parameters} parameters, {len(events[0])} bytes an event, fsync on {work}'s disk\n"
    )
    head = ("requests/s", "events/s", "p50 ms", "p99 ms", "not 200", "RSS MB", "events/CPU s")
    print(f"{'server':<42}" + "".join(f"{name:>13}" for name in head))
    rates: dict[str, float] = {}
    cpu_rates: dict[str, float] = {}

    def measure(
        name: str, server: Running, body: Path, size: int, *, key: str = "", connections: int = options.connections,
        seconds: float = options.each, pause: float = 0, path: str = "/v1/events",
    ) -> None:  # fmt: skip
        before = server.cpu()
        result = load(server.url + path, body, seconds, connections, pause)
        used = server.cpu() - before
        rate, cpu_rate = result.requests * size, result.requests * seconds * size / used
        if key:
            rates[key], cpu_rates[key] = rate, cpu_rate
        cells = (f"{result.requests:,.0f}", f"{rate:,.0f}", f"{result.p50:.2f}", f"{result.p99:.2f}")
        cells = (*cells, f"{result.wrong}", f"{server.rss():.0f}", f"{cpu_rate:,.0f}")
        print(f"{name:<42}" + "".join(f"{cell:>13}" for cell in cells), flush=True)

    names = {"append": "bare: read, append, fsync", "records": "bare, one record an event", "collector": "collector"}
    for kind, name in names.items():
        server = Running(kind, work / "schemas")
        try:
            load(f"{server.url}/v1/events", batch, 1, options.connections)
            measure(f"{name}, batches of {BATCH}", server, batch, BATCH, key=kind)
            if kind == "records":
                continue
            measure(f"{name}, single", server, single, 1, key=f"{kind}, single", connections=options.connections * 4)
            if kind != "collector":
                continue
            for path, body in (("/v1/events", batch), ("/v1/batch", segment)):
                answer = httpx.post(server.url + path, content=body.read_bytes(), headers={"X-Write-Key": "local"})
                if answer.json()["accepted"] != BATCH:
                    raise SystemExit(f"not all of {path}'s events are valid: {answer.text[:1000]}")
            measure(f"{name}, Segment batches of {BATCH}", server, segment, BATCH, path="/v1/batch")
            # A connection answers one request, then waits: so many connections and such a pause make half the load.
            pause = options.connections * 2 / (rates[kind] / BATCH / 2) * 1000
            measure("collector at half load", server, batch, BATCH, connections=options.connections * 2, pause=pause)
            start, peak = server.rss(), 0.0
            turns = max(1, round(options.seconds / 5))
            for turn in range(turns):
                title = f"collector, full load, {turn * 5}th to {turn * 5 + 5}th second"
                measure(title, server, batch, BATCH, seconds=5)
                peak = max(peak, server.rss())
            print(f"memory: {start:.0f} MB before, {peak:.0f} MB at most, {server.rss():.0f} MB after")
        finally:
            server.stop()
    print("\nratios, by the clock and by the server's CPU time (which other load on the machine does not change much):")
    for title, mine, theirs in (
        ("collector / bare, batches", "collector", "append"),
        ("collector / bare, single", "collector, single", "append, single"),
        ("collector / bare with records, batches", "collector", "records"),
    ):
        print(f"{title:<42}{rates[mine] / rates[theirs]:>8.0%}{cpu_rates[mine] / cpu_rates[theirs]:>8.0%}")
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
