"""When may the next call be made, and when is a batch worth a poll?

Marketo allows 100 calls in any 20 seconds and ten at a time for the whole subscription, and asks every
integration to keep to half of that. The queue is first-in first-out with two processors, so a batch is asked after a
little later than its end is expected: too early costs a call, and late costs nothing while others wait behind it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from orchestrator.core.expect import PROCESSORS, Expected

WINDOW_S = 20.5
"""Marketo's window is 20 s (606 says "within '20' secs"); calls travel for unequal times, so half a second more."""

ANSWERS_A_CHUNK = 2.5
"""Calls that are kept for a chunk beside its upload when the day's calls run short: questions are put off then."""
QUESTIONS_A_CHUNK = 2.75
"""Questions that a chunk costs while questions need not be put off, from 2.4 to 3.2 as measured."""
RESULT_FILES = 2
"""Of failures and of warnings: what a chunk costs at most."""
OTHER_CALLS = 2
"""What a load costs over and above its chunks: the fields of the subscription, and what was used of the day's calls."""
STRETCH_MAX = 8.0
PUT_OFF_FIRST_MAX = 3.0
"""The first question is put off less than the others: what is noticed very late teaches that batches are very long."""
BUDGET_S = 600.0
"""How often it is asked what was used of the day's calls: 144 calls a day."""
BUDGET_SCARCE_S = 60.0
SCARCE_SHARE = 0.1


class CallWindow:
    """An exact sliding window: never more than `calls` in any WINDOW_S seconds.

    Not a leaky bucket: a bucket lets a burst and its refill through, twice the limit in the worst window.
    """

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._made: deque[float] = deque()
        self._paused_until = 0.0

    def allow(self, calls: int) -> None:
        """From now on so many."""
        self._calls = calls

    def next_at(self, now: float) -> float:
        """The earliest time, not before now, at which one more call may be made."""
        while self._made and self._made[0] <= now - WINDOW_S:
            self._made.popleft()
        free_at = now if len(self._made) < self._calls else self._made[-self._calls] + WINDOW_S
        return max(now, free_at, self._paused_until)

    def made(self, now: float) -> None:
        """One call is being made now."""
        self._made.append(now)

    def pause(self, until: float) -> None:
        """No call before `until`: Marketo said that the subscription is over its rate."""
        self._paused_until = max(self._paused_until, until)

    @property
    def paused_until(self) -> float:
        return self._paused_until


@dataclass(frozen=True, slots=True)
class Budget:
    """The day's calls: what was told, and what we have used of it since. `made` counts our calls since the run
    began."""

    per_day: int
    """What is ours at most: the quota without what is left to others."""
    told_left: int | None = None
    """What was left of it when Marketo said what was used; None while it did not."""
    told_at: float | None = None
    """When it was asked last, whether it answered or not."""
    made_then: int = 0

    def told(self, used: int | None, now: float, made: int) -> Budget:
        """Marketo was asked: `used` calls of the whole subscription today; None when it did not say."""
        if used is None:
            return replace(self, told_at=now)
        return replace(self, told_left=self.per_day - used, told_at=now, made_then=made)

    def left(self, made: int) -> int | None:
        return None if self.told_left is None else self.told_left - (made - self.made_then)

    def ask_at(self, made: int) -> float:
        """When to ask again: others use calls, too."""
        if self.told_at is None:
            return 0.0
        left = self.left(made)
        scarce = left is not None and left < SCARCE_SHARE * self.per_day
        return self.told_at + (BUDGET_SCARCE_S if scarce else BUDGET_S)


def patience_s(batch_s: float, min_interval_s: float) -> float:
    """How long after its expected end a batch is asked after, at the best: then most of them are over."""
    return batch_s / 4 + min_interval_s / 2


def retry_s(batch_s: float, late_s: float, min_interval_s: float, max_interval_s: float) -> float:
    """How long after a question the next one about the same batch is due, when it was over its time by `late_s`.

    It grows with the lateness: a batch that is twice as long as expected may well be ten times as long.
    """
    return max(min_interval_s, min(max_interval_s, max(batch_s / 8, late_s / 2)))


def ask_at(
    expected: Expected,
    fast: float,
    asked_at: float | None,
    *,
    slack_s: float,
    put_off: float,
    min_interval_s: float,
    max_interval_s: float,
) -> float:
    """When to ask after a batch in the middle of a load.

    fast: the share of a batch's time that one in five does not need. asked_at: the last question; None before the
    first. slack_s: how long its end may go unnoticed without a processor running dry; negative when that may be before
    it.
    """
    patience, batch_s = patience_s(expected.batch_s, min_interval_s), expected.batch_s
    # Where a question too early costs more than a batch's time, none is asked before it is over, however urgent.
    early = max(0.0, 1.0 - min_interval_s / max(batch_s, 1e-9))
    if put_off > 1.0:
        at = expected.ends_at + patience * min(put_off, PUT_OFF_FIRST_MAX)
    else:
        at = expected.ends_at + min(patience, max(slack_s, early * (fast - 1) * batch_s + (1 - early) * patience / 2))
    if asked_at is None:
        return at
    if asked_at < expected.ends_at:
        return max(at, asked_at + min_interval_s)
    return asked_at + put_off * retry_s(batch_s, asked_at - expected.ends_at, min_interval_s, max_interval_s)


def ask_last_at(
    expected: Expected,
    fast: float,
    asked_at: float | None,
    *,
    put_off: float,
    min_interval_s: float,
    max_interval_s: float,
) -> float:
    """When to ask after one of the last batches, whose end somebody waits for: tightly from its earliest end on."""
    earliest = expected.begins_at + fast * expected.batch_s
    if asked_at is None:
        return earliest
    wait_s = min(max_interval_s, max(min_interval_s, (asked_at - expected.begins_at) / 20))
    return max(asked_at + put_off * wait_s, earliest)


def ask_unknown_at(
    position: int,
    importing_s: float,
    asked_at: float,
    *,
    put_off: float,
    min_interval_s: float,
    max_interval_s: float,
) -> float:
    """When to ask while nothing is known of how long batches take.

    position: 0 for the oldest open batch. The two at the head at `min_interval_s`, those behind half as often for
    every two places; one that has been importing for long at a tenth of that time.
    """
    interval = min_interval_s * 2.0 ** (position // PROCESSORS)
    return asked_at + put_off * min(max(interval, importing_s / 10), max_interval_s)


def stretch(calls_left: int | None, unsent: int, open_: int) -> float:
    """By how much questions are put off so that the day's calls suffice for the uploads; 1 when they do anyway."""
    if calls_left is None or unsent + open_ == 0:
        return 1.0
    for_answers = (calls_left - unsent) / (unsent + open_)
    return min(STRETCH_MAX, max(1.0, ANSWERS_A_CHUNK / for_answers)) if for_answers > 0 else STRETCH_MAX


def calls_of(chunks: int) -> int:
    """How many of the day's calls a load of so many chunks will probably cost, when many of its rows fail."""
    return round(chunks * (1 + QUESTIONS_A_CHUNK + RESULT_FILES)) + OTHER_CALLS


def quota_renews_at(now: float) -> float:
    """When the daily quota is renewed: midnight "CST", as Adobe writes.

    Whether daylight saving applies is not documented: 06:00 UTC is right under both readings. A few minutes
    are added for clocks that differ.
    """
    moment = datetime.fromtimestamp(now, UTC)
    midnight = moment.replace(hour=6, minute=5, second=0, microsecond=0)
    if midnight <= moment:
        midnight += timedelta(days=1)
    return midnight.timestamp()
