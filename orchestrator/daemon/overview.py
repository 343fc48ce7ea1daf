"""How do things stand? One picture of everything, for the API, the page and the metrics.

Read in a worker thread from the ledger, from the deliveries and from the loads that run in this process; made at most
once a second, however many look at it. Nothing of any row is in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from orchestrator.adapters import locks
from orchestrator.adapters.ledger import Ledger
from orchestrator.core.admission import OTHERS_REMEMBERED_S, PLACES
from orchestrator.core.model import Load, LoadId, State
from orchestrator.core.origins import source_name
from orchestrator.daemon.deliveries import Delivery
from orchestrator.daemon.inbox import NotTaken
from orchestrator.daemon.setup import Setup
from orchestrator.runner.loop import Progress

LOADS_SHOWN = 200
HOURS_SHOWN = 12
STEP_S = 900.0
"""Of the throughput."""
REASONS_SHOWN = 20

Phase = Literal["waiting", "running", "paused", "done", "failed", "elsewhere", "interrupted", "finished"]
"""elsewhere: another process runs it. interrupted: nobody does. finished: a load that no delivery is of."""


@dataclass(frozen=True, slots=True)
class LoadView:
    """One load, or one delivery that is none yet. Rows are 0 while they are not counted."""

    id: str
    """The delivery's id when it has one, else the load's."""
    load_id: str | None
    delivery_id: str | None
    name: str
    subscription: str
    phase: Phase
    why: str = ""
    priority: str = "normal"
    created_at: float = 0.0
    ended_at: float | None = None
    exit_code: int | None = None
    rows: int = 0
    settled: int = 0
    imported: int = 0
    failed: int = 0
    warned: int = 0
    chunks: Mapping[str, int] = field(default_factory=dict)
    ends_at: float | None = None
    rows_per_s: float | None = None
    cancelled: bool = False
    report_dir: str | None = None
    reasons: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class SlotView:
    """One of the ten places. others: taken by somebody else, as far as the last refusal told."""

    slot: int
    what: Literal["free", "sending", "doubtful", "queued", "importing", "others"]
    load: str = ""
    chunk: int | None = None
    rows: int = 0
    since: float | None = None


@dataclass(frozen=True, slots=True)
class QueueView:
    """One subscription."""

    name: str
    host: str
    slots: tuple[SlotView, ...]
    calls_left: int | None
    calls_per_day: int
    reserve: int
    rows_by_step: tuple[int, ...]
    """Of the last hours, the newest last."""
    waits_s: tuple[float, ...]
    """Of the newest batches: from acceptance until one was seen importing."""

    @property
    def processors(self) -> tuple[SlotView | None, SlotView | None]:
        """What is imported now."""
        importing = [slot for slot in self.slots if slot.what == "importing"][:2]
        one, other = [*importing, None, None][:2]
        return one, other

    @property
    def calls_used(self) -> int | None:
        """Of today, by everybody, as Marketo counts."""
        if self.calls_left is None:
            return None
        return max(0, self.calls_per_day - self.reserve - self.calls_left)

    def count(self, what: str) -> int:
        return sum(slot.what == what for slot in self.slots)


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything at one moment."""

    at: float
    loads: tuple[LoadView, ...]
    queues: tuple[QueueView, ...]
    reasons: tuple[tuple[str, str, int], ...]
    """Kind, reason and rows of what failed in the loads that are shown, the commonest first."""
    waiting: tuple[str, ...]
    not_taken: tuple[NotTaken, ...]


@dataclass(frozen=True, slots=True)
class Inside:
    """What the daemon's own process knows."""

    now: float
    open: tuple[Delivery, ...]
    running: Mapping[str, Progress | None]
    ended: tuple[Delivery, ...]
    calls_left: Mapping[str, int]
    waiting: tuple[str, ...]
    not_taken: tuple[NotTaken, ...]


def look(ledger: Ledger, setup: Setup, inside: Inside) -> Overview:
    """Blocking. Loads that this process neither runs nor has ended are counted anew, by all their chunks."""
    known = {load.id: load for load in ledger.recent_loads(LOADS_SHOWN)}
    loads: list[LoadView] = []
    for delivery in (*inside.open, *inside.ended):
        load = known.pop(LoadId(delivery.load_id), None) if delivery.load_id else None
        running = delivery.id in inside.running
        loads.append(_of_delivery(ledger, setup, delivery, load, running, inside.running.get(delivery.id)))
    loads += [_of_load(ledger, setup, load) for load in known.values()]
    loads.sort(key=lambda one: (one.ended_at is not None, -(one.ended_at or one.created_at)))
    shown = tuple(loads[:LOADS_SHOWN])
    names = {one.load_id: one.name for one in shown if one.load_id}
    return Overview(
        at=inside.now,
        loads=shown,
        queues=tuple(_queue(ledger, setup, host, inside, names) for host in setup.hosts()),
        reasons=_reasons(shown),
        waiting=inside.waiting,
        not_taken=inside.not_taken,
    )


def view_of_open(
    ledger: Ledger, setup: Setup, delivery: Delivery, running: bool, progress: Progress | None
) -> LoadView:
    """One delivery that is not over. Blocking."""
    load = ledger.load(delivery.load_id) if delivery.load_id is not None else None
    return _of_delivery(ledger, setup, delivery, load, running, progress)


def view_of(ledger: Ledger, setup: Setup, delivery: Delivery | None, load: Load | None) -> LoadView:
    """One that is too old for the overview: a delivery that is over, or a load. Blocking."""
    if delivery is not None:
        return _of_delivery(ledger, setup, delivery, load, running=False, progress=None)
    assert load is not None, "a delivery or a load"
    return _of_load(ledger, setup, load)


def _of_delivery(
    ledger: Ledger, setup: Setup, delivery: Delivery, load: Load | None, running: bool, progress: Progress | None
) -> LoadView:
    phase: Phase = "waiting"
    if delivery.stage == "done" or delivery.stage == "failed":
        phase = delivery.stage
    elif running:
        phase = "running"
    elif delivery.paused:
        phase = "paused"
    totals, counts = delivery.result.get("totals", {}), _Counts()
    if progress is not None:
        counts = _Counts.of_progress(progress)
    elif totals:
        settled = totals["rows"] - totals["rejected"]
        counts = _Counts(totals["rows"], settled, totals["imported"], totals["failed"], totals["warned"])
    elif load is not None:
        counts = _Counts.of_load(ledger, load)
    elif delivery.load_id is not None and (found := ledger.load(delivery.load_id)) is not None:
        counts = _Counts.of_load(ledger, found)
    name = delivery.settings.get("subscription") or setup.name_of(setup.main.subscription_host)
    return LoadView(
        id=delivery.id,
        load_id=delivery.load_id,
        delivery_id=delivery.id,
        name=delivery.name,
        subscription=name,
        phase=phase,
        why=delivery.why or (progress.waiting_for and f"waiting for {progress.waiting_for}" if progress else ""),
        priority=delivery.settings.get("priority") or "normal",
        created_at=delivery.taken_at,
        ended_at=delivery.ended_at,
        exit_code=delivery.exit_code,
        cancelled=delivery.cancelled,
        report_dir=delivery.result.get("report_dir") or (load.report_dir if load is not None else None),
        reasons=delivery.result.get("reasons", ()),
        **asdict(counts),
    )


def _of_load(ledger: Ledger, setup: Setup, load: Load) -> LoadView:
    counts, phase, why = _Counts.of_load(ledger, load), "finished", ""
    if load.finished_at is None:
        pid = locks.owner_of(ledger.path, load.id)
        phase = "interrupted"
        if pid is not None:
            phase, why = "elsewhere", "" if pid == os.getpid() else f"process {pid} runs it"
    return LoadView(
        id=load.id,
        load_id=load.id,
        delivery_id=None,
        name=source_name(load),
        subscription=setup.name_of(load.subscription),
        phase=phase,  # type: ignore[arg-type]
        why=why,
        priority=load.priority,
        created_at=load.created_at,
        ended_at=load.finished_at,
        exit_code=load.exit_code,
        report_dir=load.report_dir,
        **asdict(counts if phase == "elsewhere" else replace(counts, ends_at=None)),
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a view tells of a load in numbers, under the names that it has there."""

    rows: int = 0
    settled: int = 0
    imported: int = 0
    failed: int = 0
    warned: int = 0
    chunks: Mapping[str, int] = field(default_factory=dict)
    ends_at: float | None = None
    rows_per_s: float | None = None

    @classmethod
    def of_progress(cls, progress: Progress) -> _Counts:
        chunks = {str(state): count for state, count in progress.chunks_by_state.items()}
        done, passed_s = progress.rows_settled - progress.rows_settled_before, progress.now - progress.started_at
        return cls(
            progress.rows,
            progress.rows_settled,
            progress.imported,
            progress.failed,
            progress.warned,
            chunks,
            progress.now + progress.eta_s if progress.eta_s is not None else None,
            done / passed_s if done and passed_s > 0 else None,
        )

    @classmethod
    def of_load(cls, ledger: Ledger, load: Load) -> _Counts:
        settled, imported, failed, warned = ledger.settled_counts(load.id)
        chunks = {str(state): count for state, count in ledger.chunks_by_state(load.id).items()}
        run = ledger.run_of(load.id) if load.finished_at is None else None
        return cls(load.rows, settled, imported, failed, warned, chunks, run.ends_at if run is not None else None)


def _queue(ledger: Ledger, setup: Setup, host: str, inside: Inside, names: Mapping[str, str]) -> QueueView:
    config = next(one for one in setup.by_name.values() if one.subscription_host == host)
    slots: dict[int, SlotView] = {}
    for standing in ledger.open_chunks(host):
        offer = standing.offer
        assert offer is not None, "an open chunk has an offer"
        what: Literal["sending", "doubtful", "queued", "importing"] = "queued"
        since = offer.accepted_at or offer.offered_at
        match standing.state:
            case State.OFFERED:
                what = "sending"
            case State.DOUBTFUL:
                what, since = "doubtful", offer.lost_at or since
            case State.IMPORTING:
                what, since = "importing", offer.importing_first_at or since
        name = names.get(standing.load_id, standing.load_id)
        slots[offer.slot] = SlotView(offer.slot, what, name, standing.number, standing.rows, since)
    known = ledger.admission(host)
    others = 0
    refused_at = known.refused_last_at
    if known.refusals and refused_at is not None and inside.now - refused_at < OTHERS_REMEMBERED_S:
        others = max(0, PLACES - max(known.room, len(slots)))
    free = [number for number in range(1, PLACES + 1) if number not in slots]
    taken = set(free[len(free) - others :]) if others else set()
    for number in free:
        slots[number] = SlotView(number, "others" if number in taken else "free")
    steps = int(HOURS_SHOWN * 3_600 / STEP_S)
    since = inside.now - steps * STEP_S
    ended = ledger.rows_ended(host, since, STEP_S)
    waits = [
        past.importing_first_at - past.accepted_at
        for past in ledger.past(host)
        if past.importing_first_at is not None and past.importing_first_at >= past.accepted_at
    ]
    return QueueView(
        name=setup.name_of(host),
        host=host,
        slots=tuple(slots[number] for number in sorted(slots)),
        calls_left=inside.calls_left.get(host),
        calls_per_day=config.limits.calls_per_day,
        reserve=config.limits.reserve_calls_per_day,
        rows_by_step=tuple(ended.get(step, 0) for step in range(steps)),
        waits_s=tuple(waits),
    )


def _reasons(loads: Sequence[LoadView]) -> tuple[tuple[str, str, int], ...]:
    sums: dict[tuple[str, str], int] = {}
    for load in loads:
        for reason in load.reasons:
            key = (str(reason["kind"]), str(reason["reason"]))
            sums[key] = sums.get(key, 0) + int(reason["rows"])
    ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return tuple((kind, reason, rows) for (kind, reason), rows in ordered[:REASONS_SHOWN])


REPORT_NAMES: Mapping[str, str] = {
    "report.html": "text/html; charset=utf-8",
    "report.csv": "text/csv; charset=utf-8",
    "report.jsonl": "application/x-ndjson",
    "report.json": "application/json",
    "retry.csv": "text/csv; charset=utf-8",
}
"""Files of a report, and what they are."""
