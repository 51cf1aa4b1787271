"""`make demo`: the whole platform on simulated traffic, and the checks that it is right.

The demo is a list of steps; a domain that wants to be shown adds one to `STEPS`. A step does its part on the running
stack, prints what a person wants to see, and hands its checks to the `Demo`.
"""

import json
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from ..contracts.load import Contracts, load_contracts
from ..events.hours import EventHours
from ..settings import Settings, get_settings
from ..warehouse.client import Warehouse
from . import control
from .fraud_demo import Paid, pay_many, show_fraud
from .lineage_demo import show_lineage
from .services import SERVICES
from .shop import Changed, apply_collections, change_collections
from .simulator import Account, Batch, Traffic, send
from .stack import is_running, read_memory

HOUR = timedelta(hours=1)
TAKING_IN = ("bigquery", "collector")
DAEMON = "dagster-daemon"
"""Comes after the demo has materialised everything: its sensors would share out the same work."""

RELOAD_SECONDS = 30
"""How long the web interface may show no assets: while its code is loaded anew, because a contract changed."""


@dataclass
class SimulatedHour:
    """What was sent to one hour: what the collector acknowledged, and the account of it by event.

    `exact` is False when the sending was interrupted or a request had to be repeated: then the account is a lower bound.
    """

    acknowledged: int = 0
    exact: bool = False
    account: dict[str, Account] = field(default_factory=dict)


@dataclass(frozen=True)
class Beside:
    """What was done while the events were materialised."""

    paid: Paid
    changed: Changed


@dataclass
class Demo:
    """What the steps share: the settings of the running stack, what was sent, the checks so far."""

    settings: Settings
    events: int
    hours: int
    seed: int
    contracts: Contracts
    checks: list[tuple[str, bool, str]] = field(default_factory=list)
    sent: dict[datetime, SimulatedHour] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="beside"))
    """What is done while the steps go on, one after the other."""
    tables: Future[list[str]] | None = None
    beside: Future[Beside] | None = None

    def say(self, line: str = "") -> None:
        """A line of progress with the time since the start."""
        click.echo(f"{time.monotonic() - self.started:6.1f} s  {line}" if line else "")

    def check(self, name: str, holds: bool, detail: str = "") -> None:
        """Keep and print one check."""
        self.checks.append((name, holds, detail))
        click.echo(f"    {'ok    ' if holds else 'FAILED'}  {name}{f': {detail}' if detail else ''}")

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.settings, labels={"command": "demo"})

    @property
    def record(self) -> Path:
        """Where what was sent is remembered, so that the demo can go on later."""
        return self.settings.data_dir / "demo.json"


@dataclass(frozen=True)
class Step:
    """One part of the demo."""

    name: str
    run: Callable[[Demo], None]


def run_demo(*, events: int, hours: int, seed: int, once: bool) -> bool:
    """Run every step; then stay up until Ctrl-C, or (`once`) end everything. Tells whether every check holds."""
    _interruptible()
    settings = get_settings()
    contracts = load_contracts(settings.schemas_dir)
    ours = not is_running(settings.data_dir.resolve())
    demo = Demo(settings, events, hours, seed, contracts)
    try:
        for step in STEPS:
            demo.say(step.name)
            step.run(demo)
        held = all(holds for _, holds, _ in demo.checks)
        click.echo()
        demo.say("every check holds" if held else "NOT every check holds")
        if not once:
            _interruptible()
            click.echo(
                "          The stack stays up until Ctrl-C." if ours else "          The stack was up before and stays."
            )
            while ours and is_running(settings.data_dir.resolve()):
                time.sleep(0.5)
        return held
    except KeyboardInterrupt:
        return bool(demo.checks) and not once
    finally:
        if ours:
            demo.say("stopping …")
            control.down(settings.data_dir)


def start(demo: Demo) -> None:
    """The servers that take events in and store them; the settings are read again, for now they name the servers."""
    first_hour = _this_hour() - demo.hours * HOUR
    given: dict[str, Any] = {"accept_received_at": True}
    if not read_memory(demo.settings.data_dir.resolve()).given:
        given["first_hour"] = first_hour.isoformat()
    _up(demo, list(TAKING_IN), given)
    get_settings.cache_clear()
    demo.settings = get_settings()
    control.up(demo.settings, [name for name in _wanted(demo) if name != DAEMON], wait=False)
    demo.tables = demo.pool.submit(EventHours(demo.settings, demo.contracts.events).ensure_tables)


def simulate(demo: Demo) -> None:
    """Send events to every past hour that has none of ours yet."""
    demo.sent = _read_record(demo.record)
    end = _this_hour()
    wanted = [end - HOUR * back for back in range(demo.hours, 0, -1)]
    hours = [hour for hour in wanted if hour >= demo.settings.first_hour and hour not in demo.sent]
    if not hours:
        demo.say(f"nothing to send: {sum(demo.sent[hour].acknowledged for hour in wanted):,} events are there already")
        return
    # A hour that was begun before and not finished gets other events beside those that are there.
    traffic = Traffic(demo.contracts.events, f"{demo.seed}/{len(demo.sent)}")
    by_hour: Counter[datetime] = Counter()
    for hour in hours:
        demo.sent[hour] = SimulatedHour()
    _write_record(demo.record, demo.sent)
    per_hour = -(-demo.events // demo.hours)
    total = per_hour * len(hours)
    progress = _Progress(demo)

    def acknowledged(batch: Batch) -> None:
        by_hour[batch.hour] += batch.events
        progress.show(f"{by_hour.total():,} of {total:,} events acknowledged")

    def batches() -> Iterator[Batch]:
        for hour in hours:
            yield from traffic.hour(hour, per_hour)

    began = time.monotonic()
    collector = read_memory(demo.settings.data_dir.resolve()).services["collector"].url
    assert collector is not None
    sent = send(collector, batches(), on_acknowledged=acknowledged)
    seconds = time.monotonic() - began
    for hour in hours:
        account = dict(traffic.expected[hour])
        demo.sent[hour] = SimulatedHour(sent.acknowledged[hour], sent.uncertain == 0, account)
    _write_record(demo.record, demo.sent)
    progress.end(
        f"{sent.acknowledged.total():,} events of {len(demo.contracts.events)} types for {len(hours)} hour{'s' if len(hours) > 1 else ''} acknowledged in "
        f"{seconds:.1f} s; {sent.refused:,} of them refused, and kept with their reasons"
    )


def go_on_beside(demo: Demo) -> None:
    """The web interface, so that one can watch, and all else but the daemon; then payments of a fraudster, and the shop's
    changes. Nobody waits for it."""

    def beside() -> Beside:
        _up(demo, [name for name in _wanted(demo) if name != DAEMON], {})
        return Beside(pay_many(demo), change_collections(demo.settings))

    demo.beside = demo.pool.submit(beside)


def materialise(demo: Demo) -> None:
    """All that is due, through Dagster."""
    from ..catch_up import catch_up

    assert demo.tables is not None
    demo.tables.result()
    with _watching_jobs(demo):
        result = catch_up(_this_hour(), None, demo.say, settings=demo.settings)
    demo.check("every run succeeded, nothing is left due", not result.left and all(run.ok for run in result.runs))
    demo.check("every blocking check holds", not result.broken, "; ".join(result.broken[:5]))


def show_collections(demo: Demo) -> None:
    """What changed in the shop meanwhile: captured, applied and compared with its source."""
    assert demo.beside is not None
    changed = demo.beside.result().changed
    demo.say(f"  {changed.told}")
    if changed.reached is not None:
        apply_collections(demo, changed.reached)


def show_decisions(demo: Demo) -> None:
    """Live decisions, a changed threshold, and what became of the fraudster's payments."""
    assert demo.beside is not None
    show_fraud(demo, demo.beside.result().paid)


def start_the_daemon(demo: Demo) -> None:
    """The daemon from now on does by itself what the demo did by hand; it comes up while the last steps look around."""
    control.up(demo.settings, _wanted(demo), wait=False)


def check_services(demo: Demo) -> None:
    """Everything runs."""
    wanted = _wanted(demo)
    _up(demo, wanted, {})
    demo.check(f"all {len(wanted)} services run", all(_runs(demo, name) for name in wanted))


def show_ledger(demo: Demo) -> None:
    """The table of what became of everything received, and whether it is all of it."""
    ledger = demo.warehouse.table_id("events", "ledger")
    rows = demo.warehouse.query(
        f"SELECT hour, event, received, accepted, rejected, duplicates FROM `{ledger}` ORDER BY hour, event"
    ).rows
    by_hour: dict[datetime, Account] = defaultdict(Account)
    counted: dict[datetime, dict[str, Account]] = defaultdict(dict)
    for row in rows:
        counts = {name: row[name] for name in ("received", "accepted", "rejected", "duplicates")}
        by_hour[row["hour"]].add(**counts)
        counted[row["hour"]][row["event"]] = Account(**counts)
    click.echo()
    click.echo(f"    {'hour (UTC)':<18}{'received':>10}   {'accepted':>10}{'rejected':>10}{'duplicates':>12}")
    total = Account()
    for hour, account in by_hour.items():
        _print_account(f"{hour:%Y-%m-%d %H:%M}", account)
        total.add(**vars(account))
    _print_account("total", total)
    click.echo()

    hours = [hour for hour in demo.sent if hour in by_hour]
    acknowledged = sum(demo.sent[hour].acknowledged for hour in hours)
    received = sum(by_hour[hour].received for hour in hours)
    whole = all(demo.sent[hour].exact for hour in demo.sent)
    demo.check(
        "received is what the collector acknowledged",
        len(hours) == len(demo.sent) and (received == acknowledged if whole else received >= acknowledged),
        f"{received:,} received, {acknowledged:,} acknowledged",
    )
    unbalanced = [row for row in rows if row["received"] != row["accepted"] + row["rejected"] + row["duplicates"]]
    demo.check("received = accepted + rejected + duplicates, for every hour and event", not unbalanced)
    wrong = [
        f"{event} in {hour:%H:%M}: {counted[hour].get(event)} instead of {account}"
        for hour, simulated in demo.sent.items()
        if simulated.exact
        for event, account in simulated.account.items()
        if counted[hour].get(event) != account
    ]
    demo.check("each count is the simulator's own account", not wrong, "; ".join(wrong[:3]))


def check_tables(demo: Demo) -> None:
    """Every event type has its table, which holds what the ledger says."""
    warehouse = demo.warehouse
    names = sorted(demo.contracts.events)
    counts = " UNION ALL ".join(
        f"SELECT '{name}' AS event, COUNT(*) AS n FROM `{warehouse.table_id('events', name)}`" for name in names
    )
    held = {row["event"]: row["n"] for row in warehouse.query(counts).rows}
    ledger = warehouse.query(
        f"SELECT event, SUM(accepted) AS n FROM `{warehouse.table_id('events', 'ledger')}` GROUP BY event"
    ).rows
    accepted = {row["event"]: row["n"] for row in ledger}
    empty = [name for name in names if not held[name]]
    demo.check(f"all {len(names)} event types have rows", not empty, ", ".join(empty[:5]))
    wrong = [name for name in names if held[name] != accepted.get(name, 0)]
    demo.check(
        "every table holds what the ledger accepted", not wrong, ", ".join(wrong[:5]) or f"{sum(held.values()):,} rows"
    )


def check_assets(demo: Demo) -> None:
    """Every asset was materialised, as the web interface tells."""
    asked = "{ assetNodes { assetKey { path } isMaterializable assetMaterializations(limit: 1) { timestamp } } }"
    deadline = time.monotonic() + RELOAD_SECONDS
    while not (found := _ask_dagster(demo, asked)["assetNodes"]) and time.monotonic() < deadline:
        time.sleep(1)
    assets = [node for node in found if node["isMaterializable"]]
    missing = ["/".join(node["assetKey"]["path"]) for node in assets if not node["assetMaterializations"]]
    demo.check(f"all {len(assets)} assets are materialised", bool(assets) and not missing, ", ".join(missing[:5]))


def show_places(demo: Demo) -> None:
    """Where to look now."""
    memory = read_memory(demo.settings.data_dir.resolve())
    click.echo()
    for service in SERVICES:
        status = memory.services.get(service.name)
        if status is not None and status.url is not None:
            click.echo(f"    {service.name:<15} {status.details.get('url', status.url):<32} {service.description}")


STEPS: list[Step] = [
    Step("starting what takes events in", start),
    Step("simulating a marketplace", simulate),
    Step("starting Dagster's web interface and what else there is; meanwhile", go_on_beside),
    Step("materialising all that is due", materialise),
    Step("applying what changed in a shop's collections meanwhile", show_collections),
    Step("deciding about fraud, and changing a threshold", show_decisions),
    Step("what comes from where", show_lineage),
    Step("starting Dagster's daemon", start_the_daemon),
    Step("what became of everything", show_ledger),
    Step("looking into the tables", check_tables),
    Step("looking at the graph", check_assets),
    Step("looking after the services", check_services),
    Step("where to look now", show_places),
]


def _up(demo: Demo, services: list[str], given: dict[str, Any]) -> None:
    known = read_memory(demo.settings.data_dir.resolve()).services
    running = {name for name, status in known.items() if status.state == "running"} if _is_up(demo) else set()

    def say(line: str) -> None:
        if line.split(maxsplit=1)[0] not in running:
            demo.say(f"  {line}")

    control.up(demo.settings, services, given=given, with_owner=True, say=say)


def _wanted(demo: Demo) -> list[str]:
    return [service.name for service in SERVICES if service.wanted(demo.settings)]


def _interruptible() -> None:
    """Ctrl-C and SIGTERM end the demo in order, whatever started it or was imported since (Dagster sets handlers of its own)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _is_up(demo: Demo) -> bool:
    return is_running(demo.settings.data_dir.resolve())


def _runs(demo: Demo, name: str) -> bool:
    status = read_memory(demo.settings.data_dir.resolve()).services.get(name)
    return status is not None and status.state == "running"


def _this_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def _print_account(label: str, account: Account) -> None:
    click.echo(
        f"    {label:<18}{account.received:>10,} = {account.accepted:>10,}{account.rejected:>10,}{account.duplicates:>12,}"
    )


def _read_record(path: Path) -> dict[datetime, SimulatedHour]:
    with suppress(FileNotFoundError):
        return {
            datetime.fromisoformat(hour): SimulatedHour(
                one["acknowledged"], one["exact"], {name: Account(*counts) for name, counts in one["account"].items()}
            )
            for hour, one in json.loads(path.read_text()).items()
        }
    return {}


def _write_record(path: Path, sent: dict[datetime, SimulatedHour]) -> None:
    told = {
        hour.isoformat(): {
            "acknowledged": one.acknowledged,
            "exact": one.exact,
            "account": {name: list(vars(account).values()) for name, account in one.account.items()},
        }
        for hour, one in sent.items()
    }
    path.write_text(json.dumps(told))


def _ask_dagster(demo: Demo, query: str) -> dict[str, Any]:
    url = read_memory(demo.settings.data_dir.resolve()).services["dagster"].url
    request = urllib.request.Request(  # noqa: S310  # our own http:// URL
        f"{url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
    return dict(answer["data"])


@contextmanager
def _watching_jobs(demo: Demo) -> Iterator[None]:
    """Tell every few seconds how many jobs the warehouse has done since."""
    done = threading.Event()
    since = int(time.time() * 1000)
    jobs = f"{demo.settings.bigquery_endpoint}/bigquery/v2/projects/{demo.settings.project}/jobs"

    def watch() -> None:
        progress = _Progress(demo)
        while not done.wait(3):
            with suppress(OSError, KeyError, ValueError):
                url = f"{jobs}?stateFilter=done&maxResults=10000&minCreationTime={since}"
                with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  # our own http:// URL
                    finished = json.load(response).get("jobs", [])
                progress.show(f"  {len(finished)} jobs done by the warehouse")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)


class _Progress:
    """A line that says how far something is: rewritten on a terminal, now and then a new one elsewhere."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.terminal = sys.stdout.isatty()
        self.shown = time.monotonic()

    def show(self, line: str) -> None:
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 5.0):
            return
        self.shown = now
        if self.terminal:
            click.echo(f"\r{now - self.demo.started:6.1f} s    {line}\033[K", nl=False)
        else:
            self.demo.say(f"  {line}")

    def end(self, line: str) -> None:
        if self.terminal:
            click.echo("\r\033[K", nl=False)
        self.demo.say(f"  {line}")
