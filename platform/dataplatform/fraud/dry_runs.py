"""Backtests that were asked for: every one is a row beside the parameters, whoever asked and whoever runs it.

The command line, the Dagster job and the decision service ask and run them by the same function, and any process tells their
reports. Who runs one says so every few seconds; one that has been silent for long was killed.
"""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from ..contracts.errors import ContractError
from ..errors import PlatformError
from ..warehouse.client import Warehouse
from .backtest import Backtest, backtest_of, run_backtest
from .catalog import Catalog
from .parameters import ParameterStore, UnknownVersionError

BEAT_SECONDS = 5.0
SILENT_MICROS = 30_000_000
"""Who has not said for so long that it runs is gone."""
KEPT = 200
MAX_ERROR = 2_000
ENDED = "The run was ended before it was done."

_backtests = sa.Table(
    "backtests",
    sa.MetaData(),
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("policy", sa.String(200)),
    sa.Column("question", sa.JSON),
    sa.Column("status", sa.String(20)),
    sa.Column("began_at", sa.BigInteger),
    sa.Column("beat_at", sa.BigInteger),
    sa.Column("report", sa.JSON),
    sa.Column("error", sa.Text),
)


class BusyError(PlatformError):
    """Another backtest is running."""


class Question(msgspec.Struct):
    """What is asked. `start` and `end` in RFC 3339, UTC; with a `version` and no changes the summary is kept with the version."""

    policy: str
    start: str
    end: str
    by: str
    version: int | None = None
    changes: dict[str, Any] = {}


class DryRuns:
    """The backtests of a store. Safe to use from several threads and processes."""

    def __init__(self, store: ParameterStore) -> None:
        self.store = store

    def check(self, catalog: Catalog, question: Question) -> Backtest:
        """What the question comes to; PlatformError or ContractError for one that cannot be asked."""
        version = None if question.version is None else self.store.version(question.policy, question.version)
        start, end = (datetime.fromisoformat(each) for each in (question.start, question.end))
        return backtest_of(catalog, self.store, question.policy, question.changes, start, end, version)

    def begin(self, question: Question, *, alone: bool = False) -> str:
        """Note that a backtest runs, and give its id. `alone`: BusyError where another one runs."""
        now, run = self.store.clock(), uuid.uuid4().hex[:12]
        with self.store.writing() as connection:
            living = sa.and_(_backtests.c.status == "running", _backtests.c.beat_at > now - SILENT_MICROS)
            if alone and connection.execute(sa.select(_backtests.c.id).where(living)).first() is not None:
                raise BusyError("another backtest is running", fix="try again when it is done")
            old = sa.select(_backtests.c.id).order_by(_backtests.c.began_at.desc()).offset(KEPT).limit(KEPT)
            forgotten = [row.id for row in connection.execute(old)]
            if forgotten:
                connection.execute(sa.delete(_backtests).where(_backtests.c.id.in_(forgotten)))
            row = {"id": run, "policy": question.policy, "question": msgspec.to_builtins(question)}
            connection.execute(sa.insert(_backtests).values(**row, status="running", began_at=now, beat_at=now))
        return run

    def question(self, run: str) -> Question:
        """What was asked."""
        return msgspec.convert(self._row(run).question, Question)

    def state(self, policy: str, run: str) -> dict[str, Any]:
        """A run as JSON holds it: id, question, status (running, done or failed), and its report or error.

        UnknownVersionError where the policy has no such run (any more).
        """
        row = self._row(run)
        if row.policy != policy:
            raise self._unknown(run)
        found: dict[str, Any] = {"id": row.id, **row.question, "status": row.status}
        if row.status == "running" and row.beat_at <= self.store.clock() - SILENT_MICROS:
            return found | {"status": "failed", "error": ENDED}
        if row.status == "failed":
            return found | {"error": row.error}
        return found | ({"report": row.report} if row.status == "done" else {})

    def fail(self, run: str, error: str) -> None:
        """Note why a run that is not done will never be."""
        self._note(run, status="failed", error=error[-MAX_ERROR:])

    def run(self, run: str, warehouse: Warehouse, catalog: Catalog, asked: Backtest) -> dict[str, Any]:
        """Run a backtest that has begun, and keep its report; the summary with the version it tries. Gives the report."""
        try:
            with self._beating(run):
                report = run_backtest(warehouse, catalog, asked)
        except (PlatformError, ContractError) as error:
            self.fail(run, str(error))
            raise
        except BaseException as error:
            self.fail(run, ENDED if not isinstance(error, Exception) else "The service has a fault.")
            raise
        question = self.question(run)
        if question.version is not None and not question.changes:
            summary = {key: report[key] for key in ("from", "to", "decisions", "changed")}
            self.store.record_dry_run(question.policy, question.version, summary, by=question.by)
        self._note(run, status="done", report=msgspec.to_builtins(report))
        return report

    @contextmanager
    def _beating(self, run: str) -> Iterator[None]:
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_SECONDS):
                with suppress(sa.exc.DBAPIError):
                    self._note(run, beat_at=self.store.clock())

        thread = threading.Thread(target=beat, name="backtest", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _note(self, run: str, **values: Any) -> None:
        still = sa.and_(_backtests.c.id == run, _backtests.c.status == "running")
        with self.store.engine.begin() as connection:
            connection.execute(sa.update(_backtests).where(still).values(**values))

    def _row(self, run: str) -> Any:
        query = sa.select(_backtests).where(_backtests.c.id == run)
        with self.store.engine.connect() as connection:
            row = None if "\x00" in run else connection.execute(query).first()
        if row is None:
            raise self._unknown(run)
        return row

    @staticmethod
    def _unknown(run: str) -> UnknownVersionError:
        return UnknownVersionError("there is no such backtest", where=run, fix="start one; old ones are forgotten")


def dry_run(
    store: ParameterStore, catalog: Catalog, warehouse: Warehouse, question: Question
) -> tuple[str, dict[str, Any]]:
    """Check a question, run it here and now, and keep the report; gives its id and the report."""
    runs = DryRuns(store)
    asked = runs.check(catalog, question)
    run = runs.begin(question)
    return run, runs.run(run, warehouse, catalog, asked)
