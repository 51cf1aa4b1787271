"""What asks for runs: an hour that is over, an hour that got late files, a contract that changed.

All three read the warehouse's own ledger, as `dataplatform catch-up` does, so neither asks for what the other has done; and
none asks while a run of behaviour logs is under way. Two that start at once wait for each other at the stream's lease.
The warehouse is asked only about days that can differ from the last look (`settled`): mostly about none.
"""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg

from ..contracts.errors import ContractError
from ..contracts.load import Contracts, load_contracts
from ..due import Due
from ..errors import PlatformError
from ..runs import reload_code_location, run_request, unfinished_runs
from .hours import LATE_FILES_BEFORE, NEW_CONTRACT, NEW_FILES, EventHours

FIRST_RETRY = timedelta(minutes=2)
LONGEST_RETRY = timedelta(hours=2)
"""What failed is asked for again, each time after twice as long, up to this."""


def event_sensors(stream: EventHours, contracts: Contracts) -> list[dg.SensorDefinition]:
    """The sensors of behaviour logs, running unless switched off."""

    @dg.sensor(
        name="events_hour_closed",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.all(),
        description="Closes hours that are over and whose writers have let go, and materialises them.",
    )
    def hour_closed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return _evaluate(context, stream, close=True, wanted=lambda due: due.reason == NEW_FILES)

    @dg.sensor(
        name="events_hour_reopened",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.all(),
        description="Materialises again what stands on an hour that got files after it was closed.",
    )
    def hour_reopened(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return _evaluate(context, stream, close=False, wanted=lambda due: due.reason == LATE_FILES_BEFORE)

    @dg.sensor(
        name="events_contract_changed",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.all(),
        description="Judges the hours again that were judged by another version of a contract.",
    )
    def contract_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            present = load_contracts(stream.settings.schemas_dir)
        except ContractError as error:
            return dg.SkipReason(f"the contracts do not hold, the last good ones stay:\n{error}")
        if present.events != contracts.events:
            reloading = reload_code_location(context.instance)
            return dg.SkipReason(
                "the contracts changed since this code location was loaded: it is being reloaded"
                if reloading
                else "the contracts changed since this code location was loaded: reload it"
            )
        return _evaluate(context, stream, close=False, wanted=lambda due: due.reason == NEW_CONTRACT)

    return [hour_closed, hour_reopened, contract_changed]


def _evaluate(
    context: dg.SensorEvaluationContext, stream: EventHours, *, close: bool, wanted: Callable[[Due], bool]
) -> dg.SensorResult | dg.SkipReason:
    now = datetime.now(UTC)
    if unfinished := unfinished_runs(context.instance, stream.name):
        return dg.SkipReason(f"run {unfinished[0].run_id} is at work on {stream.name}")
    try:
        if close:
            for line in stream.close(now, settle_seconds=2.0):
                context.log.info(line)
        due = [piece for piece in stream.due(now, whole=False) if wanted(piece)]
    except PlatformError as error:
        # The next tick tries again; the reason shows at the sensor.
        return dg.SkipReason(str(error))
    asked = _Asked.decode(context.cursor)
    chosen = asked.choose(due, now)
    return dg.SensorResult(
        run_requests=[run_request(piece, stream.name, asked.attempts[piece.digest]) for piece in chosen],
        skip_reason=None if chosen else "nothing is due" if not due else "what failed is asked for again later",
        cursor=asked.encode(),
    )


class _Asked:
    """The cursor: how often, and when last, each thing that is still due was asked for."""

    def __init__(self, attempts: dict[str, int], times: dict[str, str]) -> None:
        self.attempts = attempts
        self.times = times

    @classmethod
    def decode(cls, cursor: str | None) -> "_Asked":
        known = json.loads(cursor) if cursor else {}
        return cls(dict(known.get("attempts", {})), dict(known.get("times", {})))

    def encode(self) -> str:
        return json.dumps({"attempts": self.attempts, "times": self.times})

    def choose(self, due: Iterable[Due], now: datetime) -> list[Due]:
        due = list(due)
        still = {piece.digest for piece in due}
        self.attempts = {digest: count for digest, count in self.attempts.items() if digest in still}
        self.times = {digest: time for digest, time in self.times.items() if digest in still}
        chosen = []
        for piece in due:
            tried = self.attempts.get(piece.digest, 0)
            pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** max(0, tried - 1))
            if tried and now - datetime.fromisoformat(self.times[piece.digest]) < pause:
                continue
            self.attempts[piece.digest] = tried + 1
            self.times[piece.digest] = now.isoformat()
            chosen.append(piece)
        return chosen
