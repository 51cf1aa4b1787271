"""Honest people and six fraud patterns of a marketplace, labelled: what the shipped policies catch, shown instead of assumed.

Everything is made from one seed. Events are in the columns that features and policies read; each is decided by the policy of
its kind with the online features as they are at that moment, becomes known a second later, and is then judged by the policies of
the stream.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .catalog import Catalog
from .compiled import Decide, compile_policy, decision
from .fact_types import TypedPolicy
from .moments import Event
from .online import OnlineFeatures
from .tree import RANK, Decision, Fact

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START = 1_767_225_600 * SECOND
"""2026-01-01T00:00:00Z, in microseconds since 1970."""
STOPS = RANK["hold"]
WARNS = RANK["warn_confirm"]
HONEST = "honest"


@dataclass(frozen=True, slots=True)
class Act:
    """One event of someone, with the pattern it belongs to (`honest` for most)."""

    time: int
    event: str
    user: str
    device: str
    columns: Mapping[str, Fact]
    label: str


@dataclass
class Caught:
    """Of one pattern: actors, those warned, stopped or alerted at least once, decisions, and those that warned or stopped.

    `rules` are (policy, rule) that fired where someone was warned or an alert was given.
    """

    actors: set[str] = field(default_factory=set)
    warned: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    alerted: set[str] = field(default_factory=set)
    decisions: int = 0
    warnings: int = 0
    stops: int = 0
    alerts: int = 0
    rules: set[tuple[str, str]] = field(default_factory=set)
    flagged: list[frozenset[tuple[str, str]]] = field(default_factory=list)
    """Of each warning and alert, the rules that fired."""

    def note(self, user: str, policy: str, decided: Decision, alert_from: int | None) -> None:
        """Count a decision, or (with the rank from which on there are alerts) a judgement after the event."""
        rank = RANK[decided.level]
        if alert_from is None:
            self.decisions += 1
            self.warnings += rank >= WARNS
            self.stops += rank >= STOPS
            if rank >= STOPS:
                self.stopped.add(user)
            if rank < WARNS:
                return
            self.warned.add(user)
        elif rank >= alert_from:
            self.alerts += 1
            self.alerted.add(user)
        else:
            return
        rules = frozenset((policy, rule) for rule in decided.rules)
        self.rules |= rules
        self.flagged.append(rules)


def simulate(people: int = 300, frauds: int = 8, days: int = 30, seed: int = 1) -> list[Act]:
    """`people` honest ones over `days`, and of every pattern `frauds` actors, in order of time."""
    chance = random.Random(seed)
    acts: list[Act] = []
    for number in range(people):
        acts += _honest(chance, f"person{number}", days, people)
    for pattern in (takeover, mule_fan_out, fast_in_out, triangulation, escrow_link, slow_ramp):
        for number in range(frauds):
            begin = START + chance.randrange(days // 2 * DAY, (days - 2) * DAY)
            acts += pattern(chance, f"{pattern.__name__}{number}", begin)
    return sorted(acts, key=lambda act: (act.time, act.user, act.event))


def judge_acts(catalog: Catalog, acts: list[Act]) -> dict[str, Caught]:
    """By pattern, what the catalogue's policies with their default parameters catch, before the event and after it."""
    states = {name: OnlineFeatures(entity) for name, entity in catalog.entities.items()}
    judges: dict[str, list[tuple[TypedPolicy, Decide]]] = {}
    for typed in catalog.policies.values():
        decide = compile_policy(typed, typed.policy.defaults(), _no_lists(typed))
        judges.setdefault(typed.policy.event, []).append((typed, decide))
    caught: dict[str, Caught] = {}
    waiting: deque[tuple[Act, Event]] = deque()

    def judge(act: Act, *, after: bool) -> None:
        own = caught.setdefault(act.label, Caught())
        for typed, decide in judges.get(act.event, ()):
            stream = typed.policy.stream
            if (stream is not None) is after:
                decided = decision(decide(_facts(catalog, typed, states, act)))
                own.note(act.user, typed.policy.name, decided, RANK[stream.alert] if stream else None)

    def become_known(until: int) -> None:
        while waiting and waiting[0][1].known <= until:
            act, event = waiting.popleft()
            judge(act, after=True)
            for state in states.values():
                state.apply([event])

    for number, act in enumerate(acts):
        become_known(act.time)
        caught.setdefault(act.label, Caught()).actors.add(act.user)
        judge(act, after=False)
        waiting.append((act, _event(catalog, act, f"e{number}")))
    become_known(acts[-1].time + 2 * SECOND if acts else 0)
    return caught


def table(caught: Mapping[str, Caught]) -> list[dict[str, Any]]:
    """One row a pattern, one of the honest, and one of all frauds.

    Recall is by actor: the share warned, stopped, alerted, or `caught` by any of these. Precision is by warning and alert: of
    those in which a rule fired that also fired on this pattern, the share that met a fraud.
    """
    fraud = sorted(name for name in caught if name != HONEST)
    flagged = [(name != HONEST, rules) for name, each in caught.items() for rules in each.flagged]
    rows = []
    for name in [*fraud, HONEST]:
        each = caught.get(name, Caught())
        right = [is_fraud for is_fraud, rules in flagged if rules & each.rules]
        row = _row(name, [each])
        rows.append(row | {"precision": sum(right) / len(right) if right and name != HONEST else None})
    right = [is_fraud for is_fraud, _ in flagged]
    last = _row("all frauds", [caught[name] for name in fraud])
    return [*rows, last | {"precision": sum(right) / len(right) if right else None}]


def _row(name: str, found: list[Caught]) -> dict[str, Any]:
    actors = max(sum(len(each.actors) for each in found), 1)

    def share(actors_of: Callable[[Caught], set[str]]) -> float:
        return sum(len(actors_of(each)) for each in found) / actors

    return {
        "pattern": name,
        "actors": sum(len(each.actors) for each in found),
        "warned": share(lambda each: each.warned),
        "stopped": share(lambda each: each.stopped),
        "alerted": share(lambda each: each.alerted),
        "caught": share(lambda each: each.warned | each.stopped | each.alerted),
        "decisions": sum(each.decisions for each in found),
        "warnings": sum(each.warnings for each in found),
        "stops": sum(each.stops for each in found),
        "alerts": sum(each.alerts for each in found),
    }


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table for a person."""
    found = [
        f"{'pattern':<15}{'actors':>7}{'warned':>8}{'stopped':>9}{'alerted':>9}{'recall':>8}{'precision':>11}"
        f"{'decisions':>11}{'warnings':>10}{'stops':>7}{'alerts':>8}"
    ]
    for row in rows:
        precision = "–" if row["precision"] is None else f"{row['precision']:.0%}"
        found.append(
            f"{row['pattern']:<15}{row['actors']:>7}{row['warned']:>8.0%}{row['stopped']:>9.0%}{row['alerted']:>9.0%}"
            f"{row['caught']:>8.0%}{precision:>11}"
            f"{row['decisions']:>11,}{row['warnings']:>10,}{row['stops']:>7,}{row['alerts']:>8,}"
        )
    return found


def _no_lists(typed: TypedPolicy) -> dict[str, frozenset[Any]]:
    return {name: frozenset() for name in typed.policy.lists()}


def _facts(catalog: Catalog, typed: TypedPolicy, states: Mapping[str, OnlineFeatures], act: Act) -> dict[str, Fact]:
    columns = _columns(act)
    facts: dict[str, Fact] = {
        name: value for name, value in columns.items() if name in typed.types and value is not None
    }
    columns_of_keys = catalog.key_columns(typed.policy)
    for role, entity in catalog.roles(typed.policy).items():
        key = columns.get(columns_of_keys.get(role, ""))
        if key is None:
            continue
        facts[f"{role}.id"] = key
        for name, value in states[entity.entity].features(str(key), act.time).items():
            if value is not None:
                facts[f"{role}.{name}"] = value
    return facts


def _columns(act: Act) -> dict[str, Fact]:
    return {"user_id": act.user, "device_id": act.device, **act.columns}


def _event(catalog: Catalog, act: Act, identity: str) -> Event:
    columns = _columns(act)
    keys = {
        by: None if columns.get(by) is None else str(columns[by])
        for entity in catalog.entities.values()
        for event, by in entity.streams
        if event == act.event
    }
    known = {name: value for name, value in columns.items() if value is not None}
    return Event(act.event, identity, act.time, act.time + SECOND, keys, known)


# Who does what. Each gives the acts of one actor.


def _send(amount: float, receiver: str, first: bool) -> dict[str, Fact]:
    return {
        "amount": Decimal(round(amount)),
        "currency": "KRW",
        "receiver__account_no": receiver,
        "receiver__name": receiver,
        "is_first": first,
        "method": "balance",
    }


def _login(risk: float, address: str, method: str = "biometric") -> dict[str, Fact]:
    return {"method": method, "attempt": 1, "ip": address, "risk_score": risk}


def _charge(amount: float) -> dict[str, Fact]:
    return {"amount": Decimal(round(amount)), "currency": "KRW", "account__account_no": "own"}


def _honest(chance: random.Random, user: str, days: int, people: int) -> Iterator[Act]:
    """Signs in on one phone, fills the balance, pays a few friends and sellers, writes in a few chats, sells now and then."""
    device, address = f"phone-{user}", f"ip-{user}"
    joined = START - chance.randrange(0, 900) * DAY if chance.random() < 0.9 else START + chance.randrange(days) * DAY
    yield Act(joined, "install_app_app", user, device, {}, HONEST)
    yield Act(joined + MINUTE, "register_user_identity", user, device, {"method": "otp"}, HONEST)
    friends = [f"account-person{chance.randrange(people)}" for _ in range(chance.randrange(2, 6))]
    paid: set[str] = set()
    usual = chance.choice([8_000, 20_000, 45_000])
    new_phone = chance.randrange(days) if chance.random() < 0.08 else None
    large_purchase = chance.randrange(days) if chance.random() < 0.1 else None
    for day in range(days):
        begin = START + day * DAY + chance.randrange(7, 22) * HOUR + chance.randrange(HOUR)
        if begin < joined or chance.random() < 0.4:
            continue
        yield Act(begin, "login_account_identity", user, device, _login(chance.betavariate(1, 9), address), HONEST)
        if day == new_phone:
            # Honest people buy phones too, and sign in on them from the shop.
            device = f"phone2-{user}"
            yield Act(begin + 1, "install_app_app", user, device, {}, HONEST)
            unusual = _login(chance.uniform(0.5, 0.95), f"shop-{user}", "password")
            yield Act(begin + 2, "login_account_identity", user, device, unusual, HONEST)
        if day == large_purchase:
            price = chance.randrange(1_000_000, 2_500_000)
            yield Act(begin + 2 * MINUTE, "charge_balance_pay", user, device, _charge(price), HONEST)
            seller = f"account-person{chance.randrange(people)}"
            at = begin + chance.randrange(5, 90) * MINUTE
            yield Act(at, "send_transfer_pay", user, device, _send(price, seller, seller not in paid), HONEST)
            paid.add(seller)
        if chance.random() < 0.25:
            yield Act(begin + MINUTE, "charge_balance_pay", user, device, _charge(usual * 3), HONEST)
        for _ in range(chance.choice([0, 0, 1, 1, 2])):
            seller = f"account-person{chance.randrange(people)}"
            receiver = chance.choice(friends) if chance.random() < 0.75 else seller
            at = begin + chance.randrange(2 * MINUTE, 2 * HOUR)
            amount = max(1_000, chance.lognormvariate(0, 0.6) * usual)
            yield Act(at, "send_transfer_pay", user, device, _send(amount, receiver, receiver not in paid), HONEST)
            paid.add(receiver)
        for room in range(chance.choice([0, 0, 1, 3])):
            at = begin + chance.randrange(HOUR)
            message: dict[str, Fact] = {
                "chat_room_id": f"{user}-{day}-{room}",
                "length": chance.randrange(2, 80),
                "kind": "text",
            }
            yield Act(at, "send_message_chat", user, device, message, HONEST)
        if chance.random() < 0.06:
            item: dict[str, Fact] = {
                "item_id": f"item-{user}-{day}",
                "price": round(chance.lognormvariate(10.5, 1)),
                "currency": "KRW",
            }
            yield Act(begin + 5 * MINUTE, "create_item_marketplace", user, device, item, HONEST)
        if chance.random() < 0.03:
            money: dict[str, Fact] = {"amount": Decimal(usual), "currency": "KRW"}
            yield Act(begin + 3 * HOUR, "withdraw_balance_pay", user, device, money, HONEST)


def takeover(chance: random.Random, user: str, begin: int) -> Iterator[Act]:
    """An old account, all at once on a new phone after an unusual sign-in, pays people it never paid."""
    own, theirs = f"phone-{user}", f"burner-{user}"
    yield Act(begin - 400 * DAY, "register_user_identity", user, own, {"method": "otp"}, "takeover")
    for day in range(20, 1, -2):
        at = begin - day * DAY
        yield Act(at, "login_account_identity", user, own, _login(0.05, f"ip-{user}"), HONEST)
        yield Act(at + MINUTE, "send_transfer_pay", user, own, _send(20_000, "account-friend", day < 20), HONEST)
    yield Act(begin, "install_app_app", user, theirs, {}, "takeover")
    yield Act(
        begin + MINUTE, "login_account_identity", user, theirs, _login(0.93, f"far-{user}", "password"), "takeover"
    )
    for turn in range(chance.randrange(3, 7)):
        at = begin + (4 + 3 * turn) * MINUTE
        sent = _send(chance.randrange(200_000, 900_000), f"mule-{user}-{turn}", True)
        yield Act(at, "send_transfer_pay", user, theirs, sent, "takeover")


def mule_fan_out(chance: random.Random, user: str, begin: int) -> Iterator[Act]:
    """A new account that gets money and spreads it over many accounts the same day."""
    device = f"phone-{user}"
    yield Act(begin, "install_app_app", user, device, {}, "mule_fan_out")
    yield Act(begin + MINUTE, "register_user_identity", user, device, {"method": "otp"}, "mule_fan_out")
    yield Act(begin + HOUR, "charge_balance_pay", user, device, _charge(3_000_000), "mule_fan_out")
    for turn in range(chance.randrange(12, 20)):
        at = begin + 2 * HOUR + turn * chance.randrange(3, 12) * MINUTE
        sent = _send(chance.randrange(90_000, 190_000), f"out-{user}-{turn}", True)
        yield Act(at, "send_transfer_pay", user, device, sent, "mule_fan_out")


def fast_in_out(chance: random.Random, user: str, begin: int) -> Iterator[Act]:
    """A large sum comes in and leaves within minutes for someone new, again and again."""
    device = f"phone-{user}"
    yield Act(begin - 60 * DAY, "register_user_identity", user, device, {"method": "otp"}, "fast_in_out")
    for turn in range(chance.randrange(2, 5)):
        at = begin + turn * 5 * HOUR
        amount = chance.randrange(1_500_000, 4_000_000)
        yield Act(at, "charge_balance_pay", user, device, _charge(amount), "fast_in_out")
        yield Act(
            at + 4 * MINUTE,
            "send_transfer_pay",
            user,
            device,
            _send(amount, f"fast-{user}-{turn}", True),
            "fast_in_out",
        )


def triangulation(chance: random.Random, user: str, begin: int) -> Iterator[Act]:
    """A new seller with many dear items that are bought elsewhere with stolen cards; the gains leave at once."""
    device = f"phone-{user}"
    yield Act(begin, "install_app_app", user, device, {}, "triangulation")
    for twin in range(3):
        yield Act(begin + (twin + 1) * MINUTE, "register_user_identity", f"{user}-{twin}", device, {}, "triangulation")
    for turn in range(chance.randrange(6, 12)):
        at = begin + HOUR + turn * 10 * MINUTE
        item: dict[str, Fact] = {
            "item_id": f"item-{user}-{turn}",
            "price": chance.randrange(600_000, 1_900_000),
            "currency": "KRW",
        }
        yield Act(at, "create_item_marketplace", f"{user}-{turn % 3}", device, item, "triangulation")


def escrow_link(chance: random.Random, user: str, begin: int) -> Iterator[Act]:
    """A new account writes the same link to a page of false escrow into many chats; people block it."""
    device = f"phone-{user}"
    yield Act(begin, "register_user_identity", user, device, {"method": "otp"}, "escrow_link")
    for turn in range(chance.randrange(15, 40)):
        at = begin + 10 * MINUTE + turn * MINUTE
        message: dict[str, Fact] = {"chat_room_id": f"{user}-{turn}", "length": 64, "kind": "text"}
        yield Act(at, "send_message_chat", user, device, message, "escrow_link")
        if turn % 6 == 5:
            block: dict[str, Fact] = {"blocked_id": user, "reason": "fraud"}
            yield Act(at + SECOND, "block_user_chat", f"victim-{user}-{turn}", "d", block, HONEST)


def slow_ramp(chance: random.Random, user: str, begin: int) -> Iterator[Act]:
    """A patient account: weeks of small transfers, then several large ones in an hour."""
    device = f"phone-{user}"
    yield Act(begin - 90 * DAY, "register_user_identity", user, device, {"method": "otp"}, "slow_ramp")
    for day in range(28, 1, -1):
        sent = _send(chance.randrange(4_000, 9_000), f"acc-{user}-{day % 4}", day > 24)
        yield Act(begin - day * DAY, "send_transfer_pay", user, device, sent, "slow_ramp")
    for turn in range(chance.randrange(6, 11)):
        sent = _send(chance.randrange(300_000, 800_000), f"end-{user}-{turn}", True)
        yield Act(begin + turn * 5 * MINUTE, "send_transfer_pay", user, device, sent, "slow_ramp")
