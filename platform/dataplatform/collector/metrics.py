"""What the collector counts, as Prometheus' text; several processes' counts can be added up."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the latency histogram, in seconds."""

_MEANINGS = {
    "collector_requests_total": ("counter", "Requests answered, by status."),
    "collector_received_events_total": ("counter", "Events received and durable, by source."),
    "collector_accepted_events_total": ("counter", "Events whose contract they keep, by source."),
    "collector_refused_events_total": ("counter", "Events that are stored but refused, by source."),
    "collector_reasons_total": ("counter", "Reasons of refused events, by code."),
    "collector_received_bytes_total": ("counter", "Bytes of bodies taken in, as they came."),
    "collector_shed_requests_total": ("counter", "Requests not taken in to protect the collector, by cause."),
    "collector_aborted_requests_total": ("counter", "Requests whose connection broke before they were whole."),
    "collector_commits_total": ("counter", "Group commits (one fsync each, or one object)."),
    "collector_finished_files_total": ("counter", "Landed files finished."),
    "collector_request_seconds": ("histogram", "From a request's first byte to its durable answer."),
    "collector_connections": ("gauge", "Open connections."),
    "collector_queued_bytes": ("gauge", "Bytes received that are not durable yet."),
    "collector_open_file_age_seconds": ("gauge", "Age of the oldest file that readers cannot see yet."),
    "collector_lag_seconds": ("gauge", "How long the oldest event that is not durable yet has waited."),
    "collector_free_bytes": ("gauge", "Free bytes of the landing's disk; absent on an object store."),
    "collector_contracts": ("gauge", "Contracts in force."),
    "collector_contract_problems": (
        "gauge",
        "Problems of the contracts' folder; the last good contracts are in force.",
    ),
    "collector_write_failing": ("gauge", "1 while the latest commit failed."),
}
_ADDED_GAUGES = ("collector_connections", "collector_queued_bytes")


class Sample(msgspec.Struct, frozen=True, order=True, array_like=True):
    """One time series' name and labels."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


class Reading(msgspec.Struct, array_like=True):
    """All series of one process at one moment."""

    values: list[tuple[Sample, float]]


class Metrics:
    """The counters of one process. Plain dictionaries: counting a batch costs a microsecond."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.received: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.shed: Counter[str] = Counter()
        self.received_bytes = 0
        self._latencies = [0] * (len(BUCKETS) + 1)
        self._latency_sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one request's latency."""
        self._latencies[bisect_left(BUCKETS, seconds)] += 1
        self._latency_sum += seconds

    def reading(self, gauges: Mapping[str, float]) -> Reading:
        """All series; `gauges` are those that are known elsewhere, by name."""
        values: list[tuple[Sample, float]] = [(Sample(name), value) for name, value in gauges.items()]
        values += _labelled("collector_requests_total", "status", self.requests)
        values += _labelled("collector_received_events_total", "source", self.received)
        values += _labelled("collector_accepted_events_total", "source", self.received - self.refused)
        values += _labelled("collector_refused_events_total", "source", self.refused)
        values += _labelled("collector_reasons_total", "code", self.reasons)
        values += _labelled("collector_shed_requests_total", "cause", self.shed)
        values.append((Sample("collector_received_bytes_total"), self.received_bytes))
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._latencies, strict=True):
            total += count
            values.append((Sample("collector_request_seconds_bucket", (("le", bound),)), total))
        values.append((Sample("collector_request_seconds_sum"), self._latency_sum))
        values.append((Sample("collector_request_seconds_count"), total))
        return Reading(values)


def _labelled(name: str, label: str, counts: Mapping[str, int] | Mapping[int, int]) -> list[tuple[Sample, float]]:
    return [(Sample(name, ((label, str(key)),)), value) for key, value in counts.items()]


def merge(readings: Iterable[Reading]) -> Reading:
    """The series of several processes as one: counters added, gauges the largest (or added, where they are amounts)."""
    merged: dict[Sample, float] = {}
    for reading in readings:
        for sample, value in reading.values:
            kind = _MEANINGS.get(sample.name, ("counter", ""))[0]
            if sample not in merged:
                merged[sample] = value
            elif kind == "gauge" and sample.name not in _ADDED_GAUGES:
                merged[sample] = max(merged[sample], value)
            else:
                merged[sample] += value
    return Reading(list(merged.items()))


def text(reading: Reading) -> bytes:
    """Prometheus' exposition format, version 0.0.4."""
    lines: list[str] = []
    told: set[str] = set()
    order = list(_MEANINGS)
    for sample, value in sorted(reading.values, key=lambda pair: order.index(_family(pair[0].name))):
        family = _family(sample.name)
        if family not in told:
            told.add(family)
            kind, meaning = _MEANINGS[family]
            lines += [f"# HELP {family} {meaning}", f"# TYPE {family} {kind}"]
        labels = ",".join(f'{name}="{_escaped(label)}"' for name, label in sample.labels)
        lines.append(f"{sample.name}{{{labels}}} {_number(value)}" if labels else f"{sample.name} {_number(value)}")
    return ("\n".join(lines) + "\n").encode()


def _family(name: str) -> str:
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and name.removesuffix(suffix) in _MEANINGS:
            return name.removesuffix(suffix)
    return name


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
