"""What asks for runs: an hour that is over, an hour that got late files, a contract that changed.

All three read the warehouse's own ledger, as `dataplatform catch-up` does, so neither asks for what the other has done; and
none asks while a run of behaviour logs is under way. Two that start at once wait for each other at the stream's lease.
The warehouse is asked only about days that can differ from the last look (`settled`): mostly about none.
"""

from collections.abc import Callable
from datetime import datetime

import dagster as dg

from ..asking import ask
from ..contracts.errors import ContractError
from ..contracts.load import Contracts, load_contracts
from ..due import Due
from ..runs import reload_code_location
from .hours import LATE_FILES_BEFORE, NEW_CONTRACT, NEW_FILES, EventHours


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
    def find(now: datetime) -> list[Due]:
        if close:
            for line in stream.close(now, settle_seconds=2.0):
                context.log.info(line)
        return [piece for piece in stream.due(now, whole=False) if wanted(piece)]

    return ask(context, stream.name, find)
