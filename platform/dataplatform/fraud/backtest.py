"""What a policy would have done: its rules over past events, with the features as they were at each of them.

Everything runs in the warehouse: per role of the policy one table of features at the events' times, one table of facts,
one of decisions under the live parameters and one under the tried ones, and small questions about the two.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..errors import PlatformError
from ..warehouse.client import Warehouse, WarehouseError
from .catalog import Catalog
from .documents import is_collection
from .fact_types import TypedPolicy
from .facts import set_parameters
from .features import EntityFeatures
from .history import HAPPENED, Source, history_statement, warehouse_source
from .parameters import ParameterStore, ParameterVersion
from .policy_sql import FactColumn, column_value, policy_statement, rule_bit, table_column
from .staging import staged_lists
from .tables import source_tables
from .tree import LEVELS, RANK, Scalar
from .values import plain_value

EVENTS = "events"
STAGING = "fraud_staging"
LABELS = "fraud.labels"
"""Table of confirmed cases and chargebacks: event_id STRING, fraud BOOL, known_at TIMESTAMP."""
AMOUNTS = ("amount", "total", "price", "price__amount")
"""Columns that hold what an event is about in money, the first that is there."""
STOPS = RANK["hold"]
"""From this level on a decision stops something: what precision and recall are of."""
EXAMPLES = 20


@dataclass(frozen=True)
class Backtest:
    """One question: a policy, its parameters that are live and those that are tried, over [start, end)."""

    typed: TypedPolicy
    live: Mapping[str, Scalar]
    tried: Mapping[str, Scalar]
    lists: Mapping[str, frozenset[Scalar]]
    start: datetime
    end: datetime


def backtest_of(
    catalog: Catalog,
    store: ParameterStore,
    policy: str,
    changes: Mapping[str, object],
    start: datetime,
    end: datetime,
    version: ParameterVersion | None = None,
) -> Backtest:
    """What is live against some changes of it, or of a version; over [start, end).

    PlatformError for a policy that does not exist or does not judge events, ContractError for values that cannot be.
    """
    store.versions(policy)  # says so when there is no such policy
    typed = catalog.policies[policy]
    if is_collection(typed.policy.event):
        raise PlatformError(
            f"{policy} judges changes of {typed.policy.event}", fix="backtests are of policies that judge events"
        )
    if start >= end:
        raise PlatformError(
            f"the period from {start:%F %R} to {end:%F %R} is empty", fix="choose an end after the start"
        )
    snapshot = store.snapshot()
    live = store.values(snapshot.policies[policy].live)
    checked = set_parameters(typed.policy, changes)
    base = live if version is None else store.values(version)
    return Backtest(typed, live, base | {name: checked[name] for name in changes}, snapshot.lists, start, end)


def run_backtest(warehouse: Warehouse, catalog: Catalog, asked: Backtest, labels: str | None = None) -> dict[str, Any]:
    """The report, as JSON holds it. `labels` is the id of a table like `LABELS`; by default that, where there is one.

    PlatformError when there is no table of the policy's event.
    """
    policy = asked.typed.policy
    if policy.event not in warehouse.tables(EVENTS):
        raise PlatformError(
            f"there is no table {EVENTS}.{policy.event}", where=policy.name, fix="materialise the event's asset first"
        )
    for entity in catalog.roles(policy).values():
        for event, _ in entity.streams:
            if not is_collection(event) and event not in warehouse.tables(EVENTS):
                make_empty(warehouse, catalog, event)
    if labels is None and "labels" in warehouse.tables("fraud"):
        labels = f"`{warehouse.table_id('fraud', 'labels')}`"
    warehouse.query(f"CREATE SCHEMA IF NOT EXISTS `{warehouse.dataset_id(STAGING)}`", name="backtest")
    tables = BacktestTables(warehouse, uuid.uuid4().hex[:12])
    parameters = {"start": asked.start, "end": asked.end}
    try:
        with staged_lists(warehouse, asked.typed, asked.lists) as list_table:
            for name, statement in statements(warehouse, catalog, asked, tables, list_table):
                warehouse.query(f"CREATE TABLE {tables[name]} AS\n{statement}", parameters, name="backtest")
        return _report(warehouse, asked, tables, labels)
    finally:
        tables.drop()


class BacktestTables:
    """The tables of one run, by what they hold; they go away with it."""

    def __init__(self, warehouse: Warehouse, run: str) -> None:
        self.warehouse = warehouse
        self.run = run
        self.made: list[str] = []

    def __getitem__(self, name: str) -> str:
        table = f"`{self.warehouse.table_id(STAGING, f'{name}_{self.run}')}`"
        if table not in self.made:
            self.made.append(table)
        return table

    def drop(self) -> None:
        for table in self.made:
            with suppress(WarehouseError):
                self.warehouse.query(f"DROP TABLE IF EXISTS {table}", name="backtest")


def statements(
    warehouse: Warehouse,
    catalog: Catalog,
    asked: Backtest,
    tables: Mapping[str, str] | BacktestTables,
    list_table: str | None = None,
) -> list[tuple[str, str]]:
    """(table, SELECT) of every step, in order. Statements take @start and @end; `list_table` as in `policy_statement`."""
    policy = asked.typed.policy
    event_table = f"`{warehouse.table_id(EVENTS, policy.event)}`"
    inside = "hour >= TIMESTAMP_TRUNC(@start, HOUR) AND hour < TIMESTAMP_ADD(@end, INTERVAL 1 DAY)"
    exactly = f"{HAPPENED} >= @start AND {HAPPENED} < @end"
    found: list[tuple[str, str]] = []
    keys = role_keys(asked.typed, catalog)
    for role, entity in catalog.roles(policy).items():
        wanted = used_features(asked.typed, role, entity)
        if role not in keys or not wanted.features:
            continue
        sources: dict[str, Source] = {
            event: warehouse_source(table, event, wanted, "@start", "@end")
            for event, table in source_tables(warehouse, wanted).items()
        }
        moments = (
            f"(SELECT event_id, CAST({keys[role]} AS STRING) AS entity_key, UNIX_MICROS({HAPPENED}) AS moment"
            f" FROM {event_table} WHERE {inside} AND {exactly}) AS asked"
        )
        found.append((f"features_{role}", history_statement(wanted, sources, moments, keep=("event_id",))))
    found.append(("facts", facts_statement(asked.typed, catalog, tables, event_table, f"{inside} AND {exactly}")))
    columns = fact_columns(asked.typed)
    for name, values in (("live", asked.live), ("tried", asked.tried)):
        statement = policy_statement(
            asked.typed,
            values,
            asked.lists,
            columns,
            tables["facts"],
            keep=("event_id",),
            list_table=list_table,
            as_arrays=False,
        )
        found.append((name, statement))
    return found


def role_keys(typed: TypedPolicy, catalog: Catalog) -> dict[str, str]:
    """Role → the column of the policy's event that holds its key; roles without one have unknown features."""
    return catalog.key_columns(typed.policy)


def used_features(typed: TypedPolicy, role: str, entity: EntityFeatures) -> EntityFeatures:
    """The entity with only the features that the policy reads under a role, and the parts of ratios."""
    names = {
        fact.removeprefix(f"{role}.") for fact in typed.types if fact.startswith(f"{role}.")
    } & entity.by_name.keys()
    for name in list(names):
        feature = entity.by_name[name]
        if feature.aggregation == "ratio":
            names |= {feature.of, feature.over}
    return replace(entity, features=tuple(each for each in entity.features if each.name in names))


def fact_columns(typed: TypedPolicy) -> dict[str, FactColumn]:
    """Where each fact stands in the table of facts."""
    return {fact: table_column(typed.types[fact], f"f{number}") for number, fact in enumerate(sorted(typed.types))}


def facts_statement(
    typed: TypedPolicy, catalog: Catalog, tables: Mapping[str, str] | BacktestTables, event_table: str, where: str
) -> str:
    """One row an event: event_id, user_id, the amount, and the policy's facts as f0, f1, …"""
    columns = catalog.columns[typed.policy.event]
    keys = role_keys(typed, catalog)
    roles = catalog.roles(typed.policy)
    joins: dict[str, str] = {}
    selected = []
    for number, fact in enumerate(sorted(typed.types)):
        role, _, name = fact.partition(".")
        if fact in columns:
            value = f"e.{fact}"
        elif role not in keys:
            value = f"CAST(NULL AS {typed.types[fact]})"
        elif name == "id":
            value = f"CAST(e.{keys[role]} AS STRING)"
        else:
            joins[role] = f"LEFT JOIN {tables[f'features_{role}']} AS {role}_features USING (event_id)"
            value = column_value(roles[role].by_name[name].type, f"{role}_features.{name}")
        selected.append(f",\n  {value} AS f{number}")
    amount = next((each for each in AMOUNTS if each in columns), None)
    money = f"CAST(e.{amount} AS FLOAT64)" if amount else "CAST(NULL AS FLOAT64)"
    return (
        f"SELECT event_id, e.user_id, {HAPPENED} AS occurred_at, {money} AS amount{''.join(selected)}\n"
        f"FROM (SELECT * FROM {event_table} WHERE {where}) AS e\n" + "\n".join(joins.values())
    )


def make_empty(warehouse: Warehouse, catalog: Catalog, event: str) -> None:
    """An event that never came has no table: features see none of it."""
    types = {
        name: fact.type for name, fact in catalog.columns[event].items() if fact.type not in ("REPEATED", "STRUCT")
    }
    envelope = ["occurred_at TIMESTAMP", "received_at TIMESTAMP", "hour TIMESTAMP"]
    columns = ", ".join([*envelope, *(f"{name} {held}" for name, held in types.items())])
    warehouse.query(f"CREATE TABLE IF NOT EXISTS `{warehouse.table_id(EVENTS, event)}` ({columns})", name="backtest")


def _report(warehouse: Warehouse, asked: Backtest, tables: BacktestTables, labels: str | None) -> dict[str, Any]:
    policy = asked.typed.policy
    facts, live, tried = tables["facts"], tables["live"], tables["tried"]
    joined = f"{facts} AS f JOIN {live} AS a USING (event_id) JOIN {tried} AS b USING (event_id)"

    def ask(sql: str) -> list[dict[str, Any]]:
        return warehouse.query(sql, name="backtest").rows

    moves = ask(
        "SELECT a.level AS live, b.level AS tried, COUNT(*) AS decisions, COUNT(DISTINCT f.user_id) AS users,"
        f" COALESCE(SUM(f.amount), 0) AS amount FROM {joined} GROUP BY 1, 2 ORDER BY 1, 2"
    )
    changed_users = ask(f"SELECT COUNT(DISTINCT f.user_id) AS n FROM {joined} WHERE a.level != b.level")[0]["n"]
    rules = range(len(policy.rules))
    hits = ask(
        "SELECT "
        + ", ".join(
            f"COUNTIF({_has('a', n)}) AS live_{n}, COUNTIF({_has('b', n)}) AS tried_{n},"
            f" COUNTIF({_has('a', n)} AND {_has('b', n)}) AS both_{n},"
            f" COUNTIF({_has('b', n, 'unknown')}) AS unknown_{n}, COUNTIF({_alone('b', n, len(rules))}) AS alone_{n}"
            for n in rules
        )
        + f" FROM {joined}"
    )[0]
    pairs = [(m, n) for m in rules for n in rules if m < n]
    overlap: dict[tuple[int, int], int] = {}
    for start in range(0, len(pairs), 400):
        part = pairs[start : start + 400]
        row = ask(
            "SELECT "
            + ", ".join(f"COUNTIF({_has('b', m)} AND {_has('b', n)}) AS o_{m}_{n}" for m, n in part)
            + f" FROM {tried} AS b"
        )[0]
        overlap |= {pair: row[f"o_{pair[0]}_{pair[1]}"] for pair in part}
    examples = ask(
        "SELECT event_id, f.user_id, f.occurred_at, f.amount, a.level AS live, b.level AS tried, a.score AS live_score,"
        f" b.score AS tried_score FROM {joined} WHERE a.level != b.level"
        f" ORDER BY ABS(a.level - b.level) DESC, f.amount DESC, event_id LIMIT {EXAMPLES}"
    )
    days = ask(
        "SELECT DATE(f.occurred_at) AS day, COUNT(*) AS decisions,"
        f" COUNTIF(a.level >= {STOPS}) AS live_stopped, COUNTIF(b.level >= {STOPS}) AS tried_stopped"
        f" FROM {joined} GROUP BY 1 ORDER BY 1"
    )
    names = [rule.name for rule in policy.rules]
    plain = {
        name: {"live": plain_value(asked.live[name], kind), "tried": plain_value(asked.tried[name], kind)}
        for name, kind in ((each.name, each.type) for each in policy.parameters)
    }
    total = sum(row["decisions"] for row in moves)
    changed = [row for row in moves if row["live"] != row["tried"]]
    return {
        "policy": policy.name,
        "event": policy.event,
        "from": asked.start.isoformat(),
        "to": asked.end.isoformat(),
        "parameters": plain,
        "decisions": total,
        "changed": {
            "decisions": sum(row["decisions"] for row in changed),
            "users": changed_users,
            "amount": float(sum(row["amount"] for row in changed)),
        },
        "moves": [
            {
                "live": LEVELS[row["live"]],
                "tried": LEVELS[row["tried"]],
                "decisions": row["decisions"],
                "users": row["users"],
                "amount": float(row["amount"]),
            }
            for row in moves
        ],
        "rules": [
            {
                "rule": name,
                "live": hits[f"live_{n}"],
                "tried": hits[f"tried_{n}"],
                "both": hits[f"both_{n}"],
                "alone": hits[f"alone_{n}"],
                "unknown": hits[f"unknown_{n}"],
                "never": hits[f"tried_{n}"] == 0,
                "always": total > 0 and hits[f"tried_{n}"] == total,
            }
            for n, name in enumerate(names)
        ],
        "overlap": [{"rules": [names[m], names[n]], "decisions": count} for (m, n), count in overlap.items() if count],
        "labels": _labels(ask, joined, labels, len(policy.rules), names) if labels else None,
        "days": [
            {**row, "day": row["day"].isoformat() if hasattr(row["day"], "isoformat") else row["day"]} for row in days
        ],
        "examples": [
            {
                **row,
                "occurred_at": row["occurred_at"].isoformat(),
                "live": LEVELS[row["live"]],
                "tried": LEVELS[row["tried"]],
            }
            for row in examples
        ],
    }


def _has(alias: str, number: int, column: str = "fired") -> str:
    """SQL: whether a rule fired (or is unknown)."""
    name, bit = rule_bit(number, column)
    return f"({alias}.{name} & {bit}) != 0"


def _alone(alias: str, number: int, count: int) -> str:
    """SQL: whether a rule, and no other one, fired."""
    name, bit = rule_bit(number)
    words = dict.fromkeys(rule_bit(each)[0] for each in range(count))
    return " AND ".join(f"{alias}.{word} = {bit if word == name else 0}" for word in words)


def _labels(ask: Any, joined: str, labels: str, count: int, names: list[str]) -> dict[str, Any]:
    """Precision and recall of stopping, of both, over events that have a label; and how late labels come."""
    # An event may have been reported and judged again: what was known last counts, once.
    last = (
        f"(SELECT event_id, fraud, known_at FROM {labels} WHERE fraud IS NOT NULL"
        " QUALIFY ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY known_at DESC, fraud DESC) = 1)"
    )
    labelled = f"{joined} JOIN {last} AS l USING (event_id)"
    row = ask(
        "SELECT COUNT(*) AS labelled, COUNTIF(l.fraud) AS fraud, "
        + ", ".join(
            f"COUNTIF({side}.level >= {STOPS} AND l.fraud) AS {name}_hit,"
            f" COUNTIF({side}.level >= {STOPS} AND NOT l.fraud) AS {name}_false"
            for side, name in (("a", "live"), ("b", "tried"))
        )
        + ", COALESCE(AVG(TIMESTAMP_DIFF(l.known_at, f.occurred_at, HOUR)), 0) AS delay_hours,"
        + " COALESCE(MAX(TIMESTAMP_DIFF(l.known_at, f.occurred_at, HOUR)), 0) AS longest_delay_hours"
        + "".join(
            f", COUNTIF({_has('b', n)} AND l.fraud) AS rule_{n}_hit, COUNTIF({_has('b', n)} AND NOT l.fraud) AS rule_{n}_false"
            for n in range(count)
        )
        + f" FROM {labelled}"
    )[0]

    unsettled = ask(
        f"SELECT COUNT(*) AS n FROM {joined} LEFT JOIN {last} AS l USING (event_id)"
        f" CROSS JOIN (SELECT MAX(known_at) AS newest FROM {labels}) AS known WHERE l.event_id IS NULL"
        f" AND f.occurred_at > TIMESTAMP_SUB(known.newest, INTERVAL {row['longest_delay_hours']} HOUR)"
    )[0]["n"]

    def rates(prefix: str) -> dict[str, Any]:
        hit, false, fraud = row[f"{prefix}_hit"], row[f"{prefix}_false"], row["fraud"]
        return {
            "caught": hit,
            "false_alarms": false,
            "precision": hit / (hit + false) if hit + false else None,
            "recall": hit / fraud if fraud else None,
        }

    return {
        "labelled": row["labelled"],
        "fraud": row["fraud"],
        "mean_delay_hours": float(row["delay_hours"]),
        "longest_delay_hours": row["longest_delay_hours"],
        "unsettled": unsettled,
        "live": rates("live"),
        "tried": rates("tried"),
        "rules": [{"rule": name} | rates(f"rule_{n}") for n, name in enumerate(names)],
    }
