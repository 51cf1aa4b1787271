"""A step of the demo: live decisions, a threshold that two people change, alerts and a case, a backtest, what the policies catch."""

import http.client
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..contracts.load import Contracts
from ..settings import Settings
from ..warehouse.client import Warehouse
from .simulator import Batch, send
from .stack import read_memory

POLICY = "transfer"
EVENT = "send_transfer_pay"
PARAMETER = "large_amount"
PEOPLE = {"dana": "editor", "eli": "approver"}
"""Who changes the threshold: one writes, another approves."""
IN_FORCE_SECONDS = 1.0
ALERT_SECONDS = 15.0
_HOUR = timedelta(hours=1)


class Telling(Protocol):
    """What the demo gives a step."""

    settings: Settings
    contracts: Contracts

    def say(self, line: str = "") -> None: ...

    def check(self, name: str, holds: bool, detail: str = "") -> None: ...


class Decisions:
    """The decision service over one kept connection."""

    def __init__(self, url: str, key: str = "local") -> None:
        place = urlsplit(url)
        self.connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=30)
        self.headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def decide(self, event: str, entities: dict[str, str], facts: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """One decision with an id of its own: HTTP status and answer."""
        body = {"request_id": f"demo-{uuid.uuid4().hex}", "event": event, "entities": entities, "facts": facts}
        self.connection.request("POST", "/v1/decisions", json.dumps(body), self.headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def cases(self, entity_key: str) -> list[dict[str, Any]]:
        """The cases of one entity."""
        self.connection.request("GET", f"/v1/cases?entity_key={entity_key}", headers=self.headers)
        found: list[dict[str, Any]] = json.loads(self.connection.getresponse().read()).get("cases", [])
        return found


@dataclass(frozen=True)
class Paid:
    """Payments of a new account to many: whose they were, and when (UTC) they were sent."""

    user: str
    at: datetime


def show_fraud(demo: Telling, paid: Paid, *, decisions: int = 300) -> None:
    """The step. Leaves the policies' parameters as they were."""
    url = read_memory(demo.settings.data_dir.resolve()).services["decisions"].url
    assert url is not None
    service = Decisions(url)
    _decide_many(demo, service, decisions)
    _change_a_threshold(demo, service)
    _patterns(demo)
    _alert_and_case(demo, service, paid)
    _materialise(demo)
    _backtest(demo)


def _decide_many(demo: Telling, service: Decisions, count: int) -> None:
    levels: Counter[str] = Counter()
    refused: Counter[int] = Counter()
    features = 0
    seconds = []
    began = time.monotonic()
    for event, entities, facts in _requests(demo, count):
        started = time.monotonic()
        status, answer = service.decide(event, entities, facts)
        seconds.append(time.monotonic() - started)
        if status != 200:
            refused[status] += 1
            continue
        levels[answer["level"]] += 1
        features += sum(value is not None for value in answer["features"].values())
    spent = time.monotonic() - began
    seconds.sort()
    demo.say(
        f"  {count} decisions in {spent:.1f} s, median {1000 * seconds[len(seconds) // 2]:.1f} ms: "
        + ", ".join(f"{number} {level}" for level, number in levels.most_common())
    )
    demo.check("every decision was answered", not refused, f"{sum(refused.values())} were not" if refused else "")
    demo.check("decisions see the features of the simulated people", features > 0, f"{features:,} values")


def _requests(demo: Telling, count: int) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Transfers and withdrawals like those of the simulated people."""
    warehouse = Warehouse(demo.settings, labels={"command": "demo"})
    rng = random.Random(7)
    transfers = warehouse.query(
        "SELECT user_id, device_id, amount, currency, receiver__account_no AS receiver, is_first"
        f" FROM `{warehouse.table_id('events', EVENT)}` WHERE user_id IS NOT NULL ORDER BY event_id LIMIT 500"
    ).rows
    for number in range(count):
        row = rng.choice(transfers) if transfers else {}
        user = row.get("user_id") or f"u{number}"
        amount = float(row.get("amount") or 10_000)
        currency = row.get("currency") or "KRW"
        if number % 4 == 3:
            yield "withdraw_balance_pay", {"user": user}, {"amount": amount, "currency": currency}
            continue
        entities = {"sender": user, "receiver": row.get("receiver") or "110-1", "device": row.get("device_id") or "d1"}
        yield (
            EVENT,
            entities,
            {
                "amount": amount,
                "currency": currency,
                "is_first": bool(row.get("is_first")),
            },
        )


def _change_a_threshold(demo: Telling, service: Decisions) -> None:
    """One person writes a change, another approves it; then the time until a decision is made by it."""
    from ..fraud.catalog import load_catalog
    from ..fraud.parameters import ParameterStore, database_url

    catalog = load_catalog(demo.settings.schemas_dir, demo.contracts)
    store = ParameterStore(database_url(demo.settings.fraud_database, demo.settings.data_dir), catalog.policies)
    for person, role in PEOPLE.items():
        store.grant(person, role, by="demo")
    author, approver = PEOPLE
    live = store.snapshot().policies[POLICY].live
    before = store.values(live)[PARAMETER]

    def version() -> int:
        _, answer = service.decide(
            EVENT,
            {"sender": "u1", "receiver": "110-1", "device": "d1"},
            {"amount": 700_000, "currency": "KRW", "is_first": True},
        )
        found: int = answer["versions"]["parameters"]
        return found

    tried = 500_000 if before != 500_000 else 400_000  # a demo that was stopped halfway left the first
    made = store.propose(POLICY, {PARAMETER: tried}, base_version=live.version, by=author, reason="The demo's change.")
    store.approve(POLICY, made.version, by=approver)
    was = version()
    store.advance(POLICY, made.version, "live", by=author)
    began = time.monotonic()
    while (now := version()) != made.version and time.monotonic() - began < 10:
        time.sleep(0.005)
    seconds = time.monotonic() - began
    demo.say(
        f"  {PARAMETER} of {POLICY}: {before} → {tried} by {author}, approved by {approver}, in force in {seconds:.2f} s"
    )
    demo.check(
        "a changed threshold is in force within a second",
        was == live.version and now == made.version and seconds < IN_FORCE_SECONDS,
        f"{1000 * seconds:.0f} ms",
    )
    store.rollback(POLICY, by=author, reason="The demo is over.")


def pay_many(demo: Telling) -> Paid:
    """Events of a new account that pays many, for `show_fraud`.

    They are received before the demo's first hour, so that they are in no hour whose events the demo counts.
    """
    from ..fraud.catalog import load_catalog
    from ..fraud.parameters import ParameterStore, database_url

    settings = demo.settings
    collector = read_memory(settings.data_dir.resolve()).services["collector"].url
    assert collector is not None
    catalog = load_catalog(settings.schemas_dir, demo.contracts)
    store = ParameterStore(database_url(settings.fraud_database, settings.data_dir), catalog.policies)
    store.grant("local", "viewer", by="demo")  # the name of the key that the demo uses
    mule = f"mule-{uuid.uuid4().hex[:8]}"
    hour = settings.first_hour - _HOUR
    received = hour + timedelta(minutes=30)
    events = list(_mule(mule, received))
    body = json.dumps(events).encode()
    send(collector, [Batch(hour, received, "/v1/events", body, len(events))], connections=1)
    return Paid(mule, datetime.now(UTC))


def _alert_and_case(demo: Telling, service: Decisions, paid: Paid) -> None:
    """The landed events of the new account become alerts, and these a case."""
    cases: list[dict[str, Any]] = []
    began = time.monotonic()
    while not cases and time.monotonic() - began < ALERT_SECONDS:
        time.sleep(0.05)
        cases = service.cases(paid.user)
    for case in cases:
        seconds = (datetime.fromisoformat(case["opened_at"]) - paid.at).total_seconds()
        demo.say(
            f"  the transfers of {paid.user}: {case['alerts']} alerts in case {case['id']}, opened within {seconds:.1f} s"
        )
    demo.check("landed events become alerts and one case", [case["level"] for case in cases] == ["warn_confirm"])


def _mule(user: str, until: datetime) -> Iterator[dict[str, Any]]:
    """What a new account does that passes money on, a minute after the other."""

    def event(name: str, minutes: int, params: dict[str, Any]) -> dict[str, Any]:
        at = (until - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
        return {
            "event": name,
            "event_id": uuid.uuid4().hex,
            "event_time": at,
            "user_id": user,
            "device_id": f"phone-{user}",
            "params": params,
        }

    agreed = [{"document": "terms", "version": "1", "agreed": True}]
    yield event("register_user_identity", 20, {"method": "phone", "agreements": agreed})
    for turn in range(9):
        transfer = {
            "transfer_id": f"tr_{uuid.uuid4().hex[:16]}",
            "amount": "150000",
            "currency": "KRW",
            "sender": {"account_no": "99990000"},
            "receiver": {"account_no": f"7700-{turn:04d}"},
            "method": "balance",
            "is_first": True,
        }
        yield event(EVENT, 10 - turn, transfer)


def _materialise(demo: Telling) -> None:
    """What is due now, with the running hour of decisions and alerts, which is closed early; later ones re-open it."""
    from ..catch_up import definitions_of
    from ..fraud.catalog import load_catalog
    from ..fraud.due import FraudStream
    from ..runs import dagster_instance, execute

    stream = FraudStream(demo.settings, load_catalog(demo.settings.schemas_dir, demo.contracts))
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
    stream.close(until)
    ok = True
    with dagster_instance(demo.settings) as instance:
        for piece in stream.due(until):
            outcome = execute(definitions_of(demo.settings), instance, piece, stream.name)
            ok = ok and outcome.ok
            for line in outcome.failures:
                demo.say(f"  {line}")
    warehouse = Warehouse(demo.settings, labels={"command": "demo"})
    rows = warehouse.query(
        "SELECT COUNT(*) AS n, COUNT(DISTINCT request_id) AS ids"
        f" FROM `{warehouse.table_id('fraud', 'decisions')}` WHERE STARTS_WITH(request_id, 'demo-')"
    ).rows[0]
    demo.check("fraud.decisions has every decision once", ok and rows["n"] == rows["ids"] > 0, f"{rows['n']:,} rows")


def _backtest(demo: Telling) -> None:
    """What a lower threshold would have done to the demo's hours, as a run of Dagster."""
    from ..catch_up import definitions_of
    from ..due import Due
    from ..fraud.assets import BACKTESTS
    from ..runs import dagster_instance, execute

    start, end = demo.settings.first_hour, datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    question = {
        "policy": POLICY,
        "start": f"{start:%FT%T}",
        "end": f"{end:%FT%T}",
        "changes": {PARAMETER: "100000"},
    }
    asked = Due((BACKTESTS,), None, None, "the demo asks", "")
    with dagster_instance(demo.settings) as instance:
        outcome = execute(definitions_of(demo.settings), instance, asked, "fraud", {BACKTESTS: question})
    if not outcome.ok:
        demo.check("the backtest ran", False, "; ".join(outcome.failures))
        return
    folder = demo.settings.data_dir / "fraud" / "backtests" / outcome.run_id
    report = json.loads((folder / "report.json").read_bytes())
    warehouse = Warehouse(demo.settings, labels={"command": "demo"})
    table = warehouse.table_id("events", EVENT)
    events = warehouse.query(
        f"SELECT COUNT(*) AS n FROM `{table}` WHERE occurred_at >= @start AND occurred_at < @end",
        {"start": start, "end": end},
    ).rows[0]["n"]
    demo.say(
        f"  backtest of {PARAMETER}=100000: {report['changed']['decisions']:,} of {report['decisions']:,} decisions change, "
        f"{outcome.seconds:.1f} s: {folder / 'report.html'}"
    )
    demo.check("the backtest decided every transfer of the demo", report["decisions"] == events, f"{events:,}")


def _patterns(demo: Telling) -> None:
    """Precision and recall on the simulated fraud patterns, of a small population."""
    from ..fraud.catalog import load_catalog
    from ..fraud.patterns import judge_acts, lines, simulate, table

    catalog = load_catalog(demo.settings.schemas_dir, demo.contracts)
    rows = table(judge_acts(catalog, simulate(60, 3, seed=1)))
    demo.say("  what the policies catch: recall by actor; precision of warnings and alerts by the rules that fired")
    for line in lines(rows):
        demo.say(f"    {line}")
    demo.check(
        "most actors of every fraud pattern are caught",
        all(row["caught"] >= 0.5 for row in rows if row["pattern"] != "honest"),
    )
