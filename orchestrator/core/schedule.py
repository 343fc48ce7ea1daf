"""Whose turn is it? What may be done now, and when to look again.

Level-triggered: `next_actions` looks at how things stand and keeps nothing between calls, so that a restart, a
second load, a changed limit and a lost wake-up are all the same case. Its cost depends on the open chunks (at
most ten) and the few planned ones it is shown, never on the size of the load.

Two questions are asked here: which batches are worth a question (`_ask_after`, with `pace` and `expect`), and which
chunks may be offered (`_submit`, with `admission` and `share`). What is waited for is said by the second in words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from orchestrator.core.admission import BESIDE_OTHERS, PLACES, Admission, depth
from orchestrator.core.expect import PROCESSORS, Expected, Speed, expect, seconds_left
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
from orchestrator.core.pace import WINDOW_S, ask_at, ask_last_at, ask_unknown_at, stretch
from orchestrator.core.share import Wish, allowed_slots, shares, work_beside

ChunkKey = tuple[LoadId, int]

UNASKED_MAX_S = 1800.0
"""No open batch goes longer without a question: an expectation that a pause of hours has taught must not last."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What this run may use. Seconds; `queued_jobs` of Marketo's ten, `concurrent_calls` of its ten."""

    queued_jobs: int
    concurrent_calls: int
    calls_per_20s: int
    doubt_lease_s: float
    min_interval_s: float
    max_interval_s: float
    queue_depth: int | None = None
    """Slots to hold while we are alone; None: as many as keep both processors busy."""

    @property
    def uploads_at_once(self) -> int:
        """One call is always left for polls: a slow upload must not blind us."""
        return max(1, self.concurrent_calls - 1)

    @property
    def poll_interval_s(self) -> float:
        """How often one batch is asked after, at most.

        While nothing is known a full queue is asked 4 times in each such interval (2 batches, and those behind them
        half as often for every two places): from 8 windows' share on, polls use half of the pace at most and uploads
        never wait for them.
        """
        return max(self.min_interval_s, min(self.max_interval_s, 8 * WINDOW_S / self.calls_per_20s))


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of asking after one batch, in this process only."""

    asked_at: float = 0.0
    failures: int = 0
    """Questions in a row that got no sound answer."""


@dataclass(frozen=True, slots=True)
class View:
    """How one subscription stands, as far as the next step needs to know."""

    load_id: LoadId
    open: tuple[Standing, ...]
    """Every chunk that holds a slot, of all loads in the ledger, the oldest offer first."""
    collecting: tuple[Standing, ...]
    """Ended batches of our loads whose files are still to be saved."""
    ready: tuple[Standing, ...]
    """The next planned chunks of the load, in order: those whose time has come first."""
    owned: frozenset[LoadId]
    """Loads whose open batches this process looks after."""
    queue: Admission
    """What is known of the subscription's queue."""
    lane: Admission | None = None
    """What is known of the load's static list, if it has one."""
    speed: Speed | None = None
    wishes: tuple[Wish, ...] = ()
    """What the running loads of the subscription want, this one included."""
    list_id: int | None = None
    list_open: int = 0
    """Open chunks that go into the same static list as the load; 0 without a list."""
    list_in_marketo: int = 0
    """Those of them that Marketo has, as far as we know."""
    unfinished: int = 0
    """Chunks of the load that are not at rest."""
    unsent: int = 0
    """Those of them that are planned."""
    work_unsent: int = 0
    """What the rows that are not sent cost (`expect.work`)."""
    calls_left: int | None = None
    """Of the day's calls; None when Marketo does not say."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to start now, when to look again at the latest, and what is being waited for."""

    actions: tuple[Action, ...]
    wake_at: float
    waiting_for: str = ""
    wants: int = 0
    """Chunks that could be sent if there were slots, ten at most."""
    others_act: bool = False
    """Another process has a say: what it writes down may change what is to be done."""
    eta_s: float | None = None
    """Seconds until the load is probably done; None while nothing is known."""


@dataclass(slots=True)
class _Draft:
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)


def next_actions(
    view: View,
    *,
    now: float,
    limits: Limits,
    watches: Mapping[ChunkKey, Watch],
    busy: Collection[ChunkKey],
    uploading: int,
) -> Decision:
    """Everything that may be started now.

    busy: chunks with an action under way. uploading: how many of those are uploads.
    """
    draft = _Draft()
    limits = replace(limits, queued_jobs=allowed_slots(view.wishes, limits.queued_jobs))
    accepted = in_queue(view.open)
    expected = expect(accepted, view.speed) if view.speed is not None else []
    dry_at = view.speed.dry_at(accepted) if view.speed is not None else 0.0
    _collect(view, now, busy, draft)
    _end_doubts(view, now, limits, busy, draft)
    _ask_after(view, accepted, expected, dry_at, now, limits, watches, busy, draft)
    others_before = any(one.others_before for one in expected)
    waiting_for, wants = _submit(view, others_before, now, limits, busy, uploading, draft)
    wake_at = min((at for at in draft.wakes if at > now), default=now + limits.max_interval_s)
    eta_s: float | None = None
    if view.speed is not None:
        in_list, unsent = view.list_id is not None, view.work_unsent
        if not in_list:
            slots = min(limits.queued_jobs, _wanted(view, others_before, now, limits))
            unsent += work_beside(view.wishes, view.load_id, unsent, slots, now)
        eta_s = seconds_left(expected, unsent, view.speed, now, one_at_a_time=in_list or limits.queued_jobs == 1)
    others_act = len(view.wishes) > 1 or any(s.load_id not in view.owned for s in view.open)
    return Decision(tuple(draft.actions), wake_at, waiting_for, wants, others_act, eta_s)


# --- batches in Marketo ---------------------------------------------------------------------------------


def _collect(view: View, now: float, busy: Collection[ChunkKey], draft: _Draft) -> None:
    """The files of batches that have ended."""
    for standing in view.collecting:
        if (standing.load_id, standing.number) not in busy:
            assert standing.offer is not None
            assert standing.offer.batch_id is not None
            if standing.not_before <= now:
                draft.actions.append(Collect(standing.load_id, standing.number, standing.offer.batch_id))
            else:
                draft.wakes.append(standing.not_before)


def _end_doubts(view: View, now: float, limits: Limits, busy: Collection[ChunkKey], draft: _Draft) -> None:
    """Doubts that are over."""
    for standing in view.open:
        if standing.state is not State.DOUBTFUL or standing.load_id not in view.owned:
            continue
        if (standing.load_id, standing.number) in busy:
            continue
        assert standing.offer is not None
        lease_over_at = (standing.offer.lost_at or now) + limits.doubt_lease_s
        if fence_passed(standing, view.open):
            draft.actions.append(EndDoubt(standing.load_id, standing.number, "fence"))
        elif lease_over_at <= now:
            draft.actions.append(EndDoubt(standing.load_id, standing.number, "lease"))
        else:
            draft.wakes.append(lease_over_at)


def _ask_after(
    view: View,
    accepted: Sequence[Standing],
    expected: Sequence[Expected],
    dry_at: float,
    now: float,
    limits: Limits,
    watches: Mapping[ChunkKey, Watch],
    busy: Collection[ChunkKey],
    draft: _Draft,
) -> None:
    """Questions that are due, about batches that this process looks after."""
    put_off = stretch(view.calls_left, view.unsent, len(view.open))
    for position, standing in enumerate(accepted):
        key, offer = (standing.load_id, standing.number), standing.offer
        assert offer is not None
        if key in busy or standing.load_id not in view.owned or offer.batch_id is None:
            continue
        watch = watches.get(key, Watch())
        due_at = _ask_at(view, position, standing, expected, dry_at, put_off, watch, now, limits)
        if watch.failures:  # asking itself is the trouble: less and less often
            wait_s = limits.poll_interval_s * 2.0 ** min(watch.failures, 10)
            due_at = max(due_at, watch.asked_at + min(wait_s, limits.max_interval_s))
        if due_at <= now:
            draft.actions.append(Poll(standing.load_id, standing.number, offer.batch_id))
        else:
            draft.wakes.append(due_at)


def _ask_at(
    view: View,
    position: int,
    standing: Standing,
    expected: Sequence[Expected],
    dry_at: float,
    put_off: float,
    watch: Watch,
    now: float,
    limits: Limits,
) -> float:
    offer = standing.offer
    assert offer is not None
    importing_s = now - offer.importing_first_at if offer.importing_first_at is not None else 0.0
    asked_at = watch.asked_at or None  # not asked in this process: soon after its acceptance, at once after a restart
    since = asked_at or offer.accepted_at or 0.0
    bounds = {
        "put_off": put_off,
        "min_interval_s": limits.poll_interval_s,
        "max_interval_s": limits.max_interval_s,
    }
    regularly = ask_unknown_at(position, importing_s, since, **bounds)
    if view.speed is None or (position < PROCESSORS and not view.speed.is_fresh(now)):
        return regularly
    if any(s.state is State.DOUBTFUL for s in view.open):  # only sightings of importing batches prove that it is over
        return regularly
    if view.unsent == 0 and position >= len(expected) - PROCESSORS:
        due_at = ask_last_at(expected[position], view.speed.fast, asked_at, **bounds)
    else:
        slack_s = dry_at - view.speed.upload_s - expected[position].ends_at
        due_at = ask_at(expected[position], view.speed.fast, asked_at, slack_s=slack_s, **bounds)
    return min(due_at, since + put_off * UNASKED_MAX_S)


# --- chunks to be sent ----------------------------------------------------------------------------------


def _submit(
    view: View,
    others_before: bool,
    now: float,
    limits: Limits,
    busy: Collection[ChunkKey],
    uploading: int,
    draft: _Draft,
) -> tuple[str, int]:
    """Chunks that may be offered now. Returns what is waited for when none may, and how many could be sent."""
    waiting = [s for s in view.ready if (s.load_id, s.number) not in busy]
    # Uploads that have not claimed their slot yet are busy and not open: they count as open here.
    unclaimed = sum(1 for s in view.ready if (s.load_id, s.number) in busy and s.state is State.PLANNED)
    if not waiting:
        return _doubts(view, limits), unclaimed
    room = _room(view, others_before, unclaimed, now, limits, draft)
    may_start = min(room.free, limits.uploads_at_once - uploading)
    for standing in waiting:
        if standing.not_before > now:
            draft.wakes.append(standing.not_before)
        elif may_start > 0:
            draft.actions.append(Submit(standing.load_id, standing.number, room.slots))
            may_start -= 1
    due = any(standing.not_before <= now for standing in waiting)
    wants = min(PLACES, view.unsent) if due and not room.lane_is_busy else unclaimed
    return (room.waiting_for if due else "") or _doubts(view, limits), wants


@dataclass(frozen=True, slots=True)
class _Room:
    """What there is for this load."""

    free: int
    """How many more chunks may be offered."""
    slots: int
    """How many slots may be held then, by all loads together."""
    waiting_for: str
    lane_is_busy: bool


def _room(view: View, others_before: bool, unclaimed: int, now: float, limits: Limits, draft: _Draft) -> _Room:
    """What queue, lane, other loads and the day's calls leave for this load, and which of them is in the way."""
    held = len(view.open) + unclaimed
    mine = sum(s.load_id == view.load_id for s in view.open) + unclaimed
    probe_at = view.queue.probe_at(view.speed, limits.max_interval_s)
    over = view.speed.over if view.speed is not None else ()
    ceiling = min(limits.queued_jobs, view.queue.ceiling(now, held, in_marketo(view.open), probe_at, over))
    slots = min(ceiling, _wanted(view, others_before, now, limits))
    share = _share(view, slots, now)
    free = [slots - held, share - mine]
    why, lane_is_busy = "", False
    if view.calls_left is not None:  # what is open must be asked after, too
        free.append(view.calls_left - 2 * held)
        if free[-1] <= 0:
            why = f"batches to end: {view.calls_left} calls are left today, kept for asking after them"
    if slots - held <= 0 or share - mine <= 0:
        others = sum(s.load_id not in view.owned for s in view.open)
        if share - mine <= 0 < slots - held:
            why = "its turn: other loads of this ledger have a right to the free slots"
        elif others and mine <= share:
            why = f"a slot: other loads of this ledger hold {others}"
            if held < ceiling:
                why = f"batches to end: other loads of this ledger have {others} open"
                why += ", and no more are held at a time (limits.queue_depth)"
    if ceiling - held <= min(1, view.queue.refusals):  # a probe, too, waits for a slot
        draft.wakes.append(probe_at)
        if view.queue.refused_first_at is not None and held < limits.queued_jobs:
            since = _clock(view.queue.refused_first_at)
            why = f"a slot: Marketo's queue is full, {held} of it ours; others hold the rest since {since}"
    if view.lane is not None:
        in_list = view.list_open + unclaimed
        lane_probe_at = view.lane.probe_at(view.speed, limits.max_interval_s)
        free.append(view.lane.ceiling(now, in_list, view.list_in_marketo, lane_probe_at) - in_list)
        if lane_is_busy := free[-1] <= 0:
            draft.wakes.append(lane_probe_at)
            if view.lane.refused_first_at is not None:
                since = _clock(view.lane.refused_first_at)
                why = f"static list {view.list_id}: another import into it is under way since {since}"
                if mine and mine == in_list:
                    why = f"its own batch before: static list {view.list_id} takes one import at a time"
    return _Room(min(free), slots, why, lane_is_busy)


def _wanted(view: View, others_before: bool, now: float, limits: Limits) -> int:
    """How many slots are worth holding: all that we may while others take places, else as few as do the work."""
    if limits.queue_depth is not None:
        return limits.queue_depth
    if others_before or view.queue.others_seen(now):
        return BESIDE_OTHERS
    return depth(view.speed, min_interval_s=limits.poll_interval_s, max_interval_s=limits.max_interval_s)


def _share(view: View, slots: int, now: float) -> int:
    """How many of the slots are this load's; all of them while no other load runs."""
    if len(view.wishes) < 2:
        return slots
    running = {wish.load_id for wish in view.wishes}
    abandoned = sum(s.load_id not in running for s in view.open)
    return shares(view.wishes, slots - abandoned, now).get(view.load_id, slots)


def _doubts(view: View, limits: Limits) -> str:
    doubts = [s for s in view.open if s.state is State.DOUBTFUL and s.load_id in view.owned]
    if not doubts or len(doubts) < len(view.open):
        return ""
    latest = max((s.offer.lost_at or 0.0) for s in doubts if s.offer is not None) + limits.doubt_lease_s
    numbers = ", ".join(str(s.number) for s in doubts)
    return f"the end of a doubt: chunk {numbers}, over by {_clock(latest)} at the latest"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


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


def in_queue(standings: Collection[Standing]) -> list[Standing]:
    """Those that Marketo has accepted, in the order of acceptance."""
    return sorted(
        (s for s in standings if s.offer is not None and s.offer.accepted_at is not None),
        key=lambda s: (s.offer.accepted_at if s.offer and s.offer.accepted_at else 0.0, s.load_id, s.number),
    )


def in_marketo(standings: Collection[Standing]) -> int:
    """How many of these chunks are in Marketo's queue, as far as we know: accepted or doubtful."""
    return sum(s.state in HOLDS_SLOT and s.state is not State.OFFERED for s in standings)
