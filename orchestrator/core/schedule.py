"""Whose turn is it? What may be done now, and when to look again.

Level-triggered: `next_actions` looks at how things stand and keeps nothing between calls, so that a restart, a
second load, a changed limit and a lost wake-up are all the same case. Its cost depends on the open chunks (at
most ten) and the few planned ones it is shown, never on the size of the load.

What Marketo has told us about its queue (how many of ours fit) is kept in `Admission`, one for the subscription
and one for each static list, by the same rule: a refusal is a measurement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from orchestrator.core.lifecycle import HOLDS_SLOT
from orchestrator.core.model import (
    Action,
    Collect,
    EndDoubt,
    LoadId,
    Poll,
    Standing,
    State,
    Submit,
)
from orchestrator.core.pace import PROCESSORS, WINDOW_S, poll_interval_s

ChunkKey = tuple[LoadId, int]

LEDGER_GLANCE_S = 1.0
"""How often the ledger is looked at again while slots are held by another process: nothing else tells us."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What this run may use. Seconds; `queued_jobs` of Marketo's ten, `concurrent_calls` of its ten."""

    queued_jobs: int
    concurrent_calls: int
    calls_per_20s: int
    doubt_lease_s: float
    min_interval_s: float
    max_interval_s: float

    @property
    def uploads_at_once(self) -> int:
        """One call is always left for polls: a slow upload must not blind us."""
        return max(1, self.concurrent_calls - 1)

    @property
    def poll_interval_s(self) -> float:
        """How often the batches at the head are asked after, at most.

        A full queue is asked 4 times in each such interval (2 batches, and those behind them half as often for every
        two places): from 8 windows' share on, polls use half of the pace at most and uploads never wait for them.
        """
        return max(self.min_interval_s, min(self.max_interval_s, 8 * WINDOW_S / self.calls_per_20s))


@dataclass(slots=True)
class Admission:
    """How many of our batches Marketo lets us have open, learned from acceptances and refusals.

    1016 while we hold k slots means that the other 10 - k are somebody else's: we fill k again at once when one
    of ours ends, and beyond that send one upload to probe, after a wait. So a full queue costs a handful of
    uploads, not one for each chunk that waits. A probe that is accepted doubles the next step.
    """

    limit: int
    room: int = 0
    """How many of ours fit for sure."""
    step: int = PROCESSORS
    """How far beyond `room` the next probe may go."""
    probe_at: float = 0.0
    refused_at: float | None = None
    """When Marketo last refused; None since it last accepted beyond `room`."""

    def ceiling(self, now: float, in_marketo: int) -> int:
        """How many of our batches may be open or on their way now, when `in_marketo` are there for sure."""
        fit = max(self.room, in_marketo)
        return min(self.limit, fit if now < self.probe_at else fit + self.step)

    def accepted(self, in_marketo: int) -> None:
        """One more was taken; `in_marketo` of ours are there now."""
        if in_marketo > self.room:
            self.room = in_marketo
            self.step = min(2 * self.step, self.limit)
            self.refused_at = None

    def refused(self, now: float, in_marketo: int, wait_s: float) -> None:
        """The queue was full with `in_marketo` of ours in it."""
        self.room, self.step, self.probe_at = in_marketo, 1, now + wait_s
        self.refused_at = now if self.refused_at is None else self.refused_at


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of asking after one batch, in this process only."""

    asked_at: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """How one subscription stands, as far as the next step needs to know."""

    open: tuple[Standing, ...]
    """Every chunk that holds a slot, of all loads in the ledger, the oldest offer first."""
    collecting: tuple[Standing, ...]
    """Ended batches of our loads whose files are still to be saved."""
    ready: tuple[Standing, ...]
    """The next planned chunks of the load, in order: those whose time has come first."""
    owned: frozenset[LoadId]
    """Loads whose open batches this process looks after."""
    list_open: int = 0
    """Open chunks that go into the same static list as the load; 0 without a list."""
    list_in_marketo: int = 0
    """Those of them that Marketo has, as far as we know."""
    unfinished: int = 0
    """Chunks of the load that are not at rest."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to start now, when to look again at the latest, and what is being waited for."""

    actions: tuple[Action, ...]
    wake_at: float
    waiting_for: str = ""


@dataclass(slots=True)
class _Draft:
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)


def next_actions(
    view: View,
    *,
    now: float,
    limits: Limits,
    queue: Admission,
    lane: Admission | None,
    watches: Mapping[ChunkKey, Watch],
    busy: Collection[ChunkKey],
    uploading: int,
) -> Decision:
    """Everything that may be started now.

    busy: chunks with an action under way. uploading: how many of those are uploads. lane: the admission of the
    load's static list, if it has one.
    """
    draft = _Draft()
    _ask_after(view, now, limits, watches, busy, draft)
    waiting_for = _submit(view, now, limits, queue, lane, busy, uploading, draft)
    wake_at = min((at for at in draft.wakes if at > now), default=now + limits.max_interval_s)
    return Decision(tuple(draft.actions), wake_at, waiting_for)


def _ask_after(
    view: View,
    now: float,
    limits: Limits,
    watches: Mapping[ChunkKey, Watch],
    busy: Collection[ChunkKey],
    draft: _Draft,
) -> None:
    """Batches in Marketo: collect what has ended, ask after what is due, end doubts that are over."""
    for standing in view.collecting:
        if (standing.load_id, standing.number) not in busy:
            assert standing.offer is not None
            assert standing.offer.batch_id is not None
            if standing.not_before <= now:
                draft.actions.append(Collect(standing.load_id, standing.number, standing.offer.batch_id))
            else:
                draft.wakes.append(standing.not_before)
    position = 0
    for standing in view.open:
        key, offer = (standing.load_id, standing.number), standing.offer
        assert offer is not None
        in_queue, position = position, position + 1
        if key in busy or standing.load_id not in view.owned:
            continue
        if standing.state is State.DOUBTFUL:
            lease_over_at = (offer.lost_at or now) + limits.doubt_lease_s
            if fence_passed(standing, view.open):
                draft.actions.append(EndDoubt(standing.load_id, standing.number, "fence"))
            elif lease_over_at <= now:
                draft.actions.append(EndDoubt(standing.load_id, standing.number, "lease"))
            else:
                draft.wakes.append(lease_over_at)
        elif offer.batch_id is not None:
            watch = watches.get(key, Watch())
            importing_s = now - offer.importing_first_at if offer.importing_first_at is not None else 0.0
            due_at = watch.asked_at + poll_interval_s(
                in_queue,
                importing_s,
                watch.failures,
                min_interval=limits.poll_interval_s,
                max_interval=limits.max_interval_s,
            )
            if watch.asked_at == 0.0:  # never asked in this process: soon after its acceptance, at once after a restart
                due_at = (offer.accepted_at or 0.0) + limits.poll_interval_s
            if due_at <= now:
                draft.actions.append(Poll(standing.load_id, standing.number, offer.batch_id))
            else:
                draft.wakes.append(due_at)


def _submit(
    view: View,
    now: float,
    limits: Limits,
    queue: Admission,
    lane: Admission | None,
    busy: Collection[ChunkKey],
    uploading: int,
    draft: _Draft,
) -> str:
    """Chunks that may be offered now; returns what is waited for when none may."""
    waiting = [s for s in view.ready if (s.load_id, s.number) not in busy]
    if not waiting:
        return _doubts(view)
    # Uploads that have not claimed their slot yet are busy and not open: they count as open here.
    unclaimed = sum(1 for s in view.ready if (s.load_id, s.number) in busy and s.state is State.PLANNED)
    held = len(view.open) + unclaimed
    room = min(limits.queued_jobs, queue.ceiling(now, in_marketo(view.open))) - held
    lane_room = room if lane is None else lane.ceiling(now, view.list_in_marketo) - view.list_open - unclaimed
    may_start = min(room, lane_room, limits.uploads_at_once - uploading)
    for standing in waiting:
        if standing.not_before > now:
            draft.wakes.append(standing.not_before)
        elif may_start > 0:
            draft.actions.append(Submit(standing.load_id, standing.number))
            may_start -= 1
    if any(s.load_id not in view.owned for s in view.open):
        draft.wakes.append(now + LEDGER_GLANCE_S)
    if lane is not None and lane_room <= 0:
        draft.wakes.append(lane.probe_at)
        if lane.refused_at is not None:
            return "the static list: another import into it is under way"
    if room <= 0:
        draft.wakes.append(queue.probe_at)
        if queue.refused_at is not None and held < limits.queued_jobs:
            return f"a slot: Marketo's queue is full, {held} of it ours"
        others = sum(s.load_id not in view.owned for s in view.open)
        if others >= limits.queued_jobs:
            return "a slot: other loads of this ledger hold them all"
    return _doubts(view)


def _doubts(view: View) -> str:
    doubtful = [s.number for s in view.open if s.state is State.DOUBTFUL and s.load_id in view.owned]
    if not doubtful or len(doubtful) < len(view.open):
        return ""
    return f"the end of a doubt: chunk {', '.join(map(str, doubtful))}"


def fence_passed(doubt: Standing, batches: Collection[Standing]) -> bool:
    """Is the batch that the lost upload may have made over for certain?

    The queue is first-in first-out with two processors. If two batches that were sent after the answer was lost
    were importing at one moment, both processors were theirs, so whatever stood before them in the queue is
    over. A batch is importing for certain from the first answer that said so until the last question that was
    answered so.
    """
    assert doubt.offer is not None
    lost_at = doubt.offer.lost_at
    if lost_at is None:
        return False
    sure = [
        (s.offer.importing_first_at, s.offer.importing_last_at)
        for s in batches
        if s.offer is not None
        and s.offer.offered_at > lost_at
        and s.offer.importing_first_at is not None
        and s.offer.importing_last_at is not None
        and s.offer.importing_last_at >= s.offer.importing_first_at
    ]
    moments = [first for first, _ in sure]
    return any(sum(first <= moment <= last for first, last in sure) >= PROCESSORS for moment in moments)


def in_marketo(standings: Collection[Standing]) -> int:
    """How many of these chunks are in Marketo's queue, as far as we know: accepted or doubtful."""
    return sum(s.state in HOLDS_SLOT and s.state is not State.OFFERED for s in standings)
