"""What asks for runs of lineage: hours of the query log that are over, when nothing else is at work."""

import dagster as dg

from ..asking import ask
from ..runs import STREAM_TAG, UNFINISHED
from .hours import LineageHours

INTERVAL_SECONDS = 300


def log_sensor(stream: LineageHours) -> dg.SensorDefinition:
    """Asks for one part of what is due at a time."""

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
        return ask(context, stream.name, lambda now: stream.due(now)[:1])

    return lineage_hours
