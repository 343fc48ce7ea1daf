"""When may the next call be made, and when is a batch worth a poll?

Marketo allows 100 calls in any 20 seconds and ten at a time for the whole subscription, and asks every
integration to keep to half of that. The queue is first-in first-out with two processors, so only the oldest
batches can end next: those behind them are asked after rarely.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

WINDOW_S = 20.5
"""Marketo's window is 20 s (606 says "within '20' secs"); calls travel for unequal times, so half a second more."""

PROCESSORS = 2
"""Jobs Marketo processes at the same time, of each subscription."""


class CallWindow:
    """An exact sliding window: never more than `calls` in any WINDOW_S seconds.

    Not a leaky bucket: a bucket lets a burst and its refill through, twice the limit in the worst window.
    """

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._made: deque[float] = deque()
        self._paused_until = 0.0

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


def poll_interval_s(
    position: int, importing_s: float, failures: int, *, min_interval: float, max_interval: float
) -> float:
    """How long after the last question the next one is due.

    position: 0 for the oldest open batch of ours. importing_s: how long it has been seen importing (0 when
    queued). failures: questions in a row that got no sound answer.

    The two at the head are asked at `min_interval`, those behind half as often for every two places; a batch
    that has been importing for long is asked at a tenth of that time: finding its end 10 % late costs little.
    """
    interval = min_interval * 2.0 ** (position // PROCESSORS + failures)
    return min(max(interval, importing_s / 10), max_interval)


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
