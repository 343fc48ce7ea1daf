"""What does a monitoring system read? The text format of Prometheus, version 0.0.4.

Written here: the format is a few lines, and what is told is either in the overview or in one of the counters below.
Counters begin at 0 with the process, as Prometheus expects: of what appears with its first 1 it sees no increase, and
the alert about it would be silent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median

from orchestrator.core.worth import ReasonClass
from orchestrator.daemon.deliveries import Delivery
from orchestrator.daemon.overview import Overview
from orchestrator.runner.loop import Progress

Labels = tuple[tuple[str, str], ...]
PREFIX = "orchestrator_"
ENDINGS = ("0", "2", "3", "4", "65", "66", "70", "78", "none")
"""Exit codes of deliveries that are over; "none" of those cancelled before anything was sent."""
OUTCOMES = ("imported", "failed", "warned", "rejected", "unsent", "unknown")
SLOT_KINDS = ("sending", "queued", "importing", "doubtful", "others", "free")


class Counters:
    """What has been counted since the process began."""

    def __init__(self) -> None:
        self.loads = Counter(dict.fromkeys(ENDINGS, 0))
        self.rows = Counter(dict.fromkeys(OUTCOMES, 0))
        self.failures = Counter({str(one): 0 for one in ReasonClass})
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.doubts = 0
        self.eta_error: float | None = None
        self._seen: dict[str, tuple[float, int, int]] = {}
        """By delivery: when its newest run began, and bytes and calls of it that are counted."""

    def progressed(self, delivery_id: str, host: str, progress: Progress) -> None:
        """Bytes and calls of a run, beyond what was seen of it before."""
        began, sent, calls = self._seen.get(delivery_id, (progress.started_at, 0, 0))
        if began != progress.started_at:  # another run of the same delivery
            sent = calls = 0
        self.bytes[host] += progress.bytes_sent - sent
        self.calls[host] += progress.calls_made - calls
        self._seen[delivery_id] = (progress.started_at, progress.bytes_sent, progress.calls_made)

    def ended(self, delivery: Delivery) -> None:
        """A delivery is over."""
        self._seen.pop(delivery.id, None)
        self.loads[str(delivery.exit_code if delivery.exit_code is not None else "none")] += 1
        result = delivery.result
        if not result or result["already_finished"]:
            return
        for outcome in OUTCOMES:
            self.rows[outcome] += result["totals"][outcome]
        self.failures.update(result["failures"])
        self.doubts += result["doubts"]
        self.eta_error = result["eta_error"] if result["eta_error"] is not None else self.eta_error


def write(overview: Overview, counters: Counters, *, lag_s: float, started_at: float) -> str:
    """All metrics as one text."""
    lines: list[str] = []

    def family(name: str, kind: str, help: str, samples: Iterable[tuple[Labels, float]]) -> None:
        lines.append(f"# HELP {PREFIX}{name} {help}")
        lines.append(f"# TYPE {PREFIX}{name} {kind}")
        lines.extend(f"{PREFIX}{name}{_labels(labels)} {value:.17g}" for labels, value in samples)

    def by(label: str, counts: Mapping[str, int]) -> list[tuple[Labels, float]]:
        return [(((label, key),), count) for key, count in sorted(counts.items())]

    queues = overview.queues
    family(
        "slots",
        "gauge",
        "Places of the import queue by what is in them.",
        [((("subscription", q.name), ("state", kind)), q.count(kind)) for q in queues for kind in SLOT_KINDS],
    )
    family(
        "queue_wait_seconds",
        "gauge",
        "From acceptance to import, the median of the newest batches.",
        [((("subscription", q.name),), median(q.waits_s)) for q in queues if q.waits_s],
    )
    family(
        "calls_left",
        "gauge",
        "Calls that may still be made today.",
        [((("subscription", q.name),), q.calls_left) for q in queues if q.calls_left is not None],
    )
    phases = Counter(str(load.phase) for load in overview.loads if load.ended_at is None)
    family("loads_open", "gauge", "Loads that are not over, by phase.", by("phase", phases))
    waits = [overview.at - load.created_at for load in overview.loads if load.phase == "waiting"]
    family("oldest_waiting_seconds", "gauge", "Age of the oldest load that waits.", [((), max(waits, default=0.0))])
    family("files_not_taken", "gauge", "Entries of the inbox that stay there.", [((), len(overview.not_taken))])
    family("loads_total", "counter", "Deliveries that are over, by exit code.", by("exit_code", counters.loads))
    family("rows_total", "counter", "Rows of finished loads by outcome.", by("outcome", counters.rows))
    family("failures_total", "counter", "Failed rows by the class of their reason.", by("class", counters.failures))
    family("sent_bytes_total", "counter", "Bytes of uploads.", by("subscription_host", counters.bytes))
    family("calls_total", "counter", "Calls of Marketo's API.", by("subscription_host", counters.calls))
    family("doubts_total", "counter", "Uploads whose answer was lost, of finished loads.", [((), counters.doubts)])
    if counters.eta_error is not None:
        family("eta_error_ratio", "gauge", "Of the newest load: 0.1 is 10 % too long.", [((), counters.eta_error)])
    family("http_requests_total", "counter", "Requests answered, by status.", by("status", counters.requests))
    family("loop_lag_seconds", "gauge", "How late the event loop was last.", [((), lag_s)])
    family("start_time_seconds", "gauge", "When the process began, since the epoch.", [((), started_at)])
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
