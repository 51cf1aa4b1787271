"""What asks for runs of lineage: hours of the query log that are over, when nothing else is at work."""

from datetime import UTC, datetime

import dagster as dg

from ..errors import PlatformError
from ..runs import STREAM_TAG, UNFINISHED, run_request
from .hours import LineageHours

INTERVAL_SECONDS = 300


def log_sensor(stream: LineageHours) -> dg.SensorDefinition:
    """Asks for one part of what is due at a time; again, where it failed, with every quarter of an hour."""

    @dg.sensor(
        name="lineage_hours",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.all(),
        description="Collects the hours of the query log that are over, and describes columns anew.",
    )
    def lineage_hours(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        running = context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=20)
        if at_work := [run for run in running if STREAM_TAG in run.tags]:
            return dg.SkipReason(f"run {at_work[0].run_id} is at work: the log is read after it")
        now = datetime.now(UTC)
        try:
            due = stream.due(now)
        except PlatformError as error:
            return dg.SkipReason(str(error))
        if not due:
            return dg.SkipReason("nothing is due")
        quarter = int(now.timestamp()) // 900
        return dg.SensorResult(run_requests=[run_request(due[0], stream.name, quarter)])

    return lineage_hours
