"""What asks for runs: an hour that is over, an hour that got late files, a contract that changed.

All three read the warehouse's own ledger, as `dataplatform catch-up` does, so neither asks for what the other has done; and
none asks while a run of behaviour logs is under way. Two that start at once wait for each other at the stream's lease.
"""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg

from ..contracts.errors import ContractError
from ..contracts.load import load_contracts
from ..due import Due
from ..errors import PlatformError
from .hours import LATE_FILES_BEFORE, NEW_CONTRACT, NEW_FILES, EventHours

STREAM_TAG = "dataplatform/stream"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
FIRST_RETRY = timedelta(minutes=2)
LONGEST_RETRY = timedelta(hours=2)
"""What failed is asked for again, each time after twice as long, up to this."""


def event_sensors(stream: EventHours) -> list[dg.SensorDefinition]:
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
            present = load_contracts(stream.settings.schemas_dir).events
        except ContractError as error:
            return dg.SkipReason(f"the contracts do not hold, the last good ones stay:\n{error}")
        if present != stream.contracts:
            return dg.SkipReason(
                "the contracts changed since this code location was loaded; it is to be reloaded first"
            )
        return _evaluate(context, stream, close=False, wanted=lambda due: due.reason == NEW_CONTRACT)

    return [hour_closed, hour_reopened, contract_changed]


def run_request(due: Due, stream: str, attempt: int = 1) -> dg.RunRequest:
    """The run that does what is due. Its key is what it is due for, so that one thing is asked for once an attempt."""
    tags = {STREAM_TAG: stream, "dataplatform/reason": due.reason}
    if due.start is not None and due.end is not None:
        tags |= {
            RANGE_START_TAG: due.start.strftime("%Y-%m-%d-%H:%M"),
            RANGE_END_TAG: (due.end - timedelta(hours=1)).strftime("%Y-%m-%d-%H:%M"),
        }
    return dg.RunRequest(
        run_key=f"{stream}:{due.digest}:{attempt}",
        asset_selection=[dg.AssetKey(asset.split("/")) for asset in due.assets],
        tags=tags,
    )


def unfinished_runs(instance: dg.DagsterInstance, stream: str) -> list[dg.DagsterRun]:
    """Runs of a stream that have not ended."""
    return list(instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags={STREAM_TAG: stream})))


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
        due = [piece for piece in stream.due(now) if wanted(piece)]
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
