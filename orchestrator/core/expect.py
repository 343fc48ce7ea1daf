"""When will each open batch end?

Marketo tells no times, so they are reckoned from when ends were noticed. The queue is first-in first-out with two
processors: a batch begins when it is accepted or when all but one of those before it are over, whichever is later.
What it then needs is learned as seconds per row from the newest batches of the subscription, whichever load or process
they belonged to; each counts as some more rows than it has, for what a job costs by itself.

An end that is noticed late looks like a long batch, and what looks long is asked after late: left alone, that goes up
and up. So a batch that was over at the first question counts as less than the time until then, the less the more
batches are so, and one that was seen importing before counts as hardly longer than then. This settles where about
three in four are over at the first question, and comes down quickly from where all are.

An expectation is a guess that only decides when to ask. No fact, no slot and no fence rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.model import Standing

PROCESSORS = 2
"""Jobs Marketo processes at the same time, of each subscription."""
LEARNED_FROM = 16
"""Newest batches that are learned from: few enough to follow Marketo through its day, enough for a quantile."""
OWN_ROWS = 1_000
"""What a batch costs by itself, in rows: a guess, since nobody tells. Without it, a file of five rows would teach that
one of 100,000 takes days, and nobody would ask after that for half an hour."""
FRESH_S = 600.0
"""Knowledge older than this, or than ten batches' time, is of another hour: the head of the queue is asked regularly
then."""
FAST_SHARE = 0.2
"""One batch in five is quicker than what is called fast."""


@dataclass(frozen=True, slots=True)
class Past:
    """One batch that is over, as the ledger knows it."""

    rows: int
    offered_at: float
    accepted_at: float
    queued_last_at: float | None
    importing_first_at: float | None
    importing_last_at: float | None
    ended_at: float
    """When its end was noticed."""


@dataclass(frozen=True, slots=True)
class Over:
    """One batch that is over: when it came, when it was probably over, when that was noticed."""

    accepted_at: float
    over_at: float
    noticed_at: float
    soonest_at: float
    """When it was over if it and all before it were fast ones."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was learned of one subscription."""

    row_s: float
    """Seconds that one processor needs for a row, of which each batch has OWN_ROWS more, by which it is asked after."""
    batch_s: float
    """The same of the mean batch."""
    pace_row_s: float
    """Seconds from one row to the next of one processor, noticing and waiting included: what a load can count on."""
    fast: float
    """One batch in five takes less than this share of what its rows let expect."""
    upload_s: float
    """From the intent to send a chunk to its batch id."""
    over: tuple[Over, ...]
    """The batches that were learned from."""

    @property
    def free_at(self) -> tuple[float, float]:
        """When each processor was probably free again after the batches that are over."""
        return _last_two(one.over_at for one in self.over)

    def dry_at(self, batches: Sequence[Standing]) -> float:
        """When a processor would fall idle if all batches were fast ones, those too that are over, and none were
        added."""
        free_at = _last_two(one.soonest_at for one in self.over)
        quick = expect(batches, replace(self, row_s=self.row_s * self.fast), free_at)
        return _last_two([*free_at, *(one.ends_at for one in quick)])[0]

    def is_fresh(self, now: float) -> bool:
        return now - max(one.noticed_at for one in self.over) <= max(FRESH_S, 10 * self.batch_s)


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of one batch."""

    begins_at: float
    ends_at: float
    """By what its rows need."""
    over_at: float
    """The same, or later when it was seen unfinished then: so that what stands behind it is expected later too."""
    others_before: bool
    """It was seen queued when it should have been importing: jobs of others stand before it."""

    @property
    def batch_s(self) -> float:
        return self.ends_at - self.begins_at


def work(rows: int, batches: int = 1) -> int:
    """What so many rows in so many batches cost, in rows."""
    return rows + OWN_ROWS * batches


def learn(past: Sequence[Past]) -> Speed | None:
    """What the newest ended batches say; None while nothing has ended.

    past: the newest LEARNED_FROM of the subscription, in any order.
    """
    if not past:
        return None
    in_order = sorted(past, key=lambda one: (one.accepted_at, one.ended_at))
    free_at = [0.0] * PROCESSORS
    took: list[tuple[int, float, float]] = []  # rows, seconds until the end was noticed, seconds it counts as
    for index, one in enumerate(in_order):
        begun_at = max(one.accepted_at, one.queued_last_at or 0.0, free_at[0])
        if one.importing_first_at is not None:
            begun_at = min(begun_at, one.importing_first_at)
        known = (
            index >= PROCESSORS or len(past) < LEARNED_FROM
        )  # what stood before the first of a longer history is not
        noticed_s = max(0.0, one.ended_at - begun_at)
        if known and one.rows > 0:
            seen_s = one.importing_last_at - begun_at if one.importing_last_at is not None else 0.0
            took.append((work(one.rows), noticed_s, seen_s))
        free_at = sorted([*free_at, one.ended_at])[-PROCESSORS:]
    rows, noticed = sum(rows for rows, _, _ in took), sum(noticed for _, noticed, _ in took)
    if rows == 0 or noticed <= 0:
        return None
    over_at_once = sum(seen_s <= 0 for _, _, seen_s in took) / len(took)
    counted = [(rows, _counts_as(noticed_s, seen_s, over_at_once)) for rows, noticed_s, seen_s in took]
    seconds = sum(seconds for _, seconds in counted)
    row_s = seconds / rows
    shares = sorted(seconds / (rows * row_s) for rows, seconds in counted)
    uploads = sorted(one.accepted_at - one.offered_at for one in past)
    fast = min(1.0, shares[int(FAST_SHARE * len(shares))])
    return Speed(
        row_s=row_s,
        batch_s=seconds / len(took),
        pace_row_s=noticed / rows,
        fast=fast,
        upload_s=uploads[len(uploads) // 2],
        over=tuple(_over(in_order, row_s, fast)),
    )


def _counts_as(noticed_s: float, seen_s: float, over_at_once: float) -> float:
    """How long a batch probably took whose end was noticed after `noticed_s`, and that was seen importing until
    `seen_s`."""
    if seen_s <= 0:
        return noticed_s * (1 - over_at_once**4 / 2)
    return min((seen_s + noticed_s) / 2, 1.25 * seen_s)


def _over(in_order: Sequence[Past], row_s: float, fast: float) -> Iterator[Over]:
    """When each was probably over, and when at the soonest: by what its rows need, and within what was seen."""
    free_at, soonest_free_at = (0.0, 0.0), (0.0, 0.0)
    for one in in_order:
        waited_until = max(one.accepted_at, one.queued_last_at or 0.0)
        seen_until, needs_s = one.importing_last_at or 0.0, work(one.rows) * row_s
        over_at = min(max(waited_until + needs_s, free_at[0] + needs_s, seen_until), one.ended_at)
        quick_s = needs_s * fast
        soonest_at = min(max(waited_until + quick_s, soonest_free_at[0] + quick_s, seen_until), one.ended_at)
        free_at = _last_two([*free_at, over_at])
        soonest_free_at = _last_two([*soonest_free_at, soonest_at])
        yield Over(one.accepted_at, over_at, one.ended_at, soonest_at)


def _last_two(times: Iterable[float]) -> tuple[float, float]:
    """The last two of these times: since then each processor has been free."""
    latest = sorted([0.0, 0.0, *times])
    return latest[-2], latest[-1]


def expect(batches: Sequence[Standing], speed: Speed, since: tuple[float, float] | None = None) -> list[Expected]:
    """What is expected of each accepted batch of the subscription, in the order of acceptance.

    since: when each processor was free for them; by default as the batches that are over say.

    One that was seen unfinished after its expected end is thought to need a quarter more than it has had.
    """
    free_at = list(since or speed.free_at)
    known_free_at = list(free_at)
    queued_until = 0.0
    expected: list[Expected] = []
    for standing in batches:
        offer = standing.offer
        assert offer is not None
        assert offer.accepted_at is not None
        begins_at = max(offer.accepted_at, free_at[0])
        should_have_begun_at = max(offer.accepted_at, known_free_at[0])
        others = offer.queued_last_at is not None and offer.queued_last_at > should_have_begun_at
        if offer.queued_last_at is not None:  # it waits, and so does what stands behind it
            more_s = (offer.queued_last_at - should_have_begun_at) / 2 if others else 0.0
            queued_until = max(queued_until, offer.queued_last_at + more_s)
        begins_at = max(begins_at, queued_until)
        if offer.importing_first_at is not None:
            begins_at = min(begins_at, offer.importing_first_at)
        ends_at = over_at = begins_at + work(standing.rows) * speed.row_s
        if offer.importing_last_at is not None and offer.importing_last_at >= ends_at:
            over_at = offer.importing_last_at + (offer.importing_last_at - begins_at) / 4
        expected.append(Expected(begins_at, ends_at, over_at, others))
        free_at = sorted([*free_at, over_at])[-PROCESSORS:]
        known_free_at = [*known_free_at[1:], float("inf")]
    return expected


def seconds_left(
    expected: Sequence[Expected], work_unsent: int, speed: Speed, now: float, *, one_at_a_time: bool = False
) -> float:
    """How long until all open batches and what is still to be sent are probably over.

    one_at_a_time: that never keeps both processors busy, since Marketo imports into a static list one batch after
    the other.
    """
    free_at = [max(now, at) for at in speed.free_at]
    for one in expected:
        free_at = sorted([*free_at, max(now, one.over_at)])[-PROCESSORS:]
    work_s = work_unsent * speed.pace_row_s
    if one_at_a_time:
        return free_at[1] + work_s - now
    behind_s = free_at[1] - free_at[0]
    if work_s <= behind_s:  # what is left fits in the processor that is free first
        return free_at[1] - now
    return free_at[1] + (work_s - behind_s) / PROCESSORS - now
