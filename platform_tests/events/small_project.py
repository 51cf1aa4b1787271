"""A small project of its own for a test: contracts in a folder, a landing, datasets, and the comparison with the model."""

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import law_model as model
from law_model import HOUR, Landed

from dataplatform.contracts.load import Contracts, load_contracts
from dataplatform.events.hours import EventHours
from dataplatform.events.verdict import Judge
from dataplatform.runs import dagster_instance
from dataplatform.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)

VOCABULARY = """\
actions: {click: Someone taps., view: Someone sees., pay: Money moves.}
objects: {item: Something for sale., order: A purchase.}
services: {shop: The shop., bank: The bank.}
"""
OWNERS = """\
shop-team: {description: Runs the shop., email: shop@example.com}
"""
CLICK = """\
action: click
object: item
service: shop
owner: shop-team
domain: commerce
description: Someone taps an item.
params:
  - {name: item_id, type: INT64, required: true}
  - {name: place, type: STRING, values: [list, detail]}
  - {name: score, type: FLOAT64, min: 0, max: 100}
"""
PAY = """\
action: pay
object: order
service: bank
owner: shop-team
domain: commerce
description: Someone pays an order.
params:
  - {name: amount, type: NUMERIC, required: true}
  - name: buyer
    type: STRUCT
    fields:
      - {name: name, type: STRING, pii: true}
      - {name: since, type: DATE}
  - name: items
    type: STRUCT
    repeated: true
    fields:
      - {name: sku, type: STRING, required: true}
      - {name: count, type: INT64}
      - {name: tags, type: STRING, repeated: true}
  - {name: paid_at, type: TIMESTAMP}
"""


@functools.cache
def _dagster_home() -> Path:
    """An empty Dagster instance, made once: its databases' migrations take longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="dagster-"))
    with dagster_instance(Settings(data_dir=folder, first_hour=START)) as instance:
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
    return folder / "dagster"


class Project:
    """One environment. `records` is all that landed, which with the contracts decides what the tables must hold."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.schemas = folder / "schemas"
        self.settings = settings.model_copy(update={"schemas_dir": self.schemas})
        self.records: list[Landed] = []
        self.closed: set[datetime] = set()
        self._files = 0
        shutil.copytree(_dagster_home(), self.settings.data_dir / "dagster")
        self.write("vocabulary.yaml", VOCABULARY)
        self.write("owners.yaml", OWNERS)
        self.write("events/shop/click_item_shop.yaml", CLICK)
        self.write("events/bank/pay_order_bank.yaml", PAY)

    def write(self, path: str, text: str) -> None:
        """Write a file of the contracts' folder."""
        file = self.schemas / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @property
    def contracts(self) -> Contracts:
        return load_contracts(self.schemas)

    @property
    def stream(self) -> EventHours:
        return EventHours(self.settings, self.contracts.events)

    def land(
        self, hour: datetime, payloads: Iterable[str], *, spread: Callable[[int], float] | None = None
    ) -> list[Landed]:
        """Land one file of events for an hour, received in this order (or where `spread` puts each, in seconds)."""
        self._files += 1
        name = f"w-{self._files:06d}"
        judge = Judge(self.contracts.events)
        landed = []
        for index, payload in enumerate(payloads):
            verdict = judge.judge(payload.encode())
            seconds = spread(index) if spread else self._files * 60 + index * 0.001
            landed.append(
                Landed(
                    hour + timedelta(seconds=seconds),
                    "local",
                    verdict.event,
                    verdict.event_id,
                    payload,
                    tuple((fault.path, fault.code, fault.message) for fault in verdict.faults),
                    name,
                    index + 1,
                )
            )
        data = b"".join(model.record_of(record) + b"\n" for record in landed)
        self.stream.landing.put(hour, f"{name}.ndjson", data)
        self.records += landed
        return landed

    def catch_up(self, until: datetime, selection: str | None = None) -> Any:
        """`dataplatform catch-up`, in this process."""
        from dataplatform.catch_up import catch_up

        lines: list[str] = []
        result = catch_up(until, selection, lines.append, settings=self.settings)
        return result

    def hours(self) -> list[datetime]:
        """Hours that are closed now."""
        return [hour for hour in self.stream.landing.manifests() if hour >= self.settings.first_hour]

    def expected(self) -> model.Expected:
        """What the law says that the tables hold now."""
        return model.tables(self.records, self.contracts.events, self.hours(), self.settings.lookback_hours)

    def check(self) -> None:
        """Every table equals the model."""
        expected = self.expected()
        contracts = self.contracts.events
        for name, contract in contracts.items():
            same(name, [event_row(row, contract) for row in self.rows("events", name)], expected.accepted[name])
        same("received", [_faults(row) for row in self.rows("events_raw", "received")], expected.received)
        same("rejected", [_reasons(row) for row in self.rows("events", "rejected")], expected.rejected)
        same("duplicates", self.rows("events", "duplicates"), expected.duplicates)
        same("ledger", self.rows("events", "ledger"), expected.ledger)

    def rows(self, dataset: str, table: str) -> list[dict[str, Any]]:
        """A table's rows."""
        found: list[dict[str, Any]] = self.stream.warehouse.read(dataset, table).to_pylist()
        return found

    def total(self, what: str, event: str | None = None) -> int:
        """A sum over the ledger."""
        return sum(row[what] for row in self.rows("events", "ledger") if event in (None, row["event"]))


def same(table: str, found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Fail with the first difference of two tables; columns that the model does not have are left out."""
    keys = expected[0].keys() if expected else set()
    left = model.comparable({key: row.get(key) for key in keys} if keys else row for row in found)
    right = model.comparable(expected)
    if left != right:
        only_found = [row for row in left if row not in set(right)][:2]
        only_expected = [row for row in right if row not in set(left)][:2]
        raise AssertionError(
            f"{table}: {len(left)} rows, the model has {len(right)}\n  table: {only_found}\n  model: {only_expected}"
        )


def event_row(row: Mapping[str, Any], contract: Any) -> dict[str, Any]:
    """A row of an event's table with its JSON columns read."""
    read = dict(row)
    for name in ["_extra", *(column.name for column in contract.columns if column.field.type == "JSON")]:
        if isinstance(read.get(name), str):
            read[name] = json.loads(read[name])
    return read


def _reasons(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"reasons": sorted((r["path"], r["code"], r["message"]) for r in row["reasons"])}


def _faults(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"faults": sorted((r["path"], r["code"], r["message"]) for r in row["faults"] or [])}


def click(event_id: str, item_id: Any = 1, **params: Any) -> str:
    """The text of a click."""
    return json.dumps({"event_id": event_id, "event": "click_item_shop", "params": {"item_id": item_id, **params}})


__all__ = ["CLICK", "HOUR", "PAY", "START", "Project", "click", "event_row", "same"]
