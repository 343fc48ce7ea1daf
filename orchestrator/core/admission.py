"""How many of our batches does Marketo let us have open, and how many are worth having?

Marketo tells nothing about the jobs of others but this: 1016 means that the ten places are taken, 1019 that a static
list is busy. So a refusal is a measurement: with k of ours there, the other 10 - k are somebody else's. What was
learned is the subscription's, not a process's: it stands in the ledger, one row for the queue and one for each list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.expect import PROCESSORS, Over, Speed
from orchestrator.core.pace import patience_s, retry_s

PLACES = 10
"""Jobs Marketo lets wait and be processed together, of everyone who uses the subscription."""
OTHERS_REMEMBERED_S = 900.0
"""For so long after a refusal others are taken to be there: then a place that we do not hold is theirs."""
BESIDE_OTHERS = PLACES - 2
"""Slots we want while others are there: as many as we can get, and two places for whoever comes with a job or two."""
PROBED_WITHIN_S = 5_400.0
"""No longer after a refusal: a batch whose end was noticed after a night teaches that batches take a night."""
SHORTER = 0.6
"""A batch that was through in this share of the time that a full queue took came into a queue that was not full."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What is known of a queue: the subscription's, or the lane of one static list.

    Up to `room` of ours are filled at once when one of them ends. When all of those are there one upload probes whether
    there is more: at once while nobody else was seen, after a refusal when a wait is over that grows with each. (The
    first two go together, one for each processor.) So a full queue costs a handful of uploads, not one for each chunk
    that waits.
    """

    room: int = 0
    """How many of ours fit for sure."""
    refusals: int = 0
    """In a row."""
    refused_first_at: float | None = None
    """When Marketo refused, the first time of this row; None since it last took one beyond `room`."""
    refused_last_at: float | None = None

    def accepted(self, in_marketo: int) -> Admission:
        """One more was taken; `in_marketo` of ours are there now."""
        if in_marketo <= self.room:
            return self
        return replace(self, room=in_marketo, refusals=0, refused_first_at=None)

    def refused(self, now: float, in_marketo: int) -> Admission:
        """There was no place, with `in_marketo` of ours in it."""
        return Admission(
            room=in_marketo,
            refusals=self.refusals + 1,
            refused_first_at=now if self.refused_first_at is None else self.refused_first_at,
            refused_last_at=now,
        )

    def probe_at(self, speed: Speed | None, max_interval_s: float) -> float:
        """When one more than fit for sure may be tried.

        Eight batches' time after a refusal sixteen have ended: whoever came with a few jobs is gone, and who came with
        many stays; after a second one sixteen batches' time. While nothing is known of batches twice `max_interval_s`,
        tripled with each further one.
        """
        if self.refusals == 0 or self.refused_last_at is None:
            return 0.0
        if speed is None:
            return self.refused_last_at + 2 * max_interval_s * 3.0 ** min(self.refusals - 1, 3)
        wait_s = max(max_interval_s / 10, 8 * speed.batch_s)
        return self.refused_last_at + min(wait_s * min(self.refusals, 2), PROBED_WITHIN_S)

    def ceiling(self, now: float, held: int, in_marketo: int, probe_at: float, past: Sequence[Over] = ()) -> int:
        """How many of our batches may be open or on their way now, when `held` are and `in_marketo` of them are there.

        past: the newest batches that are over: what was over at the refusal without our knowing did not take a place.
        """
        unnoticed = 0
        if self.refusals and (at := self.refused_last_at) is not None:
            unnoticed = sum(one.over_at <= at < one.noticed_at for one in past)
        fit = max(self.room - unnoticed, in_marketo)
        if self.refusals == 0 and not self.others_seen(now):
            return min(PLACES, max(PROCESSORS, fit + 1))
        may_probe = held == in_marketo >= fit and (now >= probe_at or self._is_shorter(past))
        if may_probe:
            return min(PLACES, fit + 1)
        return min(fit, in_marketo + 1) if self.refusals else fit  # what we lost a place to may take the next, too

    def _is_shorter(self, past: Sequence[Over]) -> bool:
        """Did a batch that came after the refusal go through much quicker than those that were there at it?"""
        at = self.refused_last_at
        if at is None:
            return False
        through = [one.noticed_at - one.accepted_at for one in past if one.accepted_at > at]
        full = [one.noticed_at - one.accepted_at for one in past if one.accepted_at <= at < one.over_at]
        return bool(through and full) and min(through) < SHORTER * max(full)

    def others_seen(self, now: float) -> bool:
        """Have others taken places that we would have had, lately?"""
        return self.refused_last_at is not None and now - self.refused_last_at < OTHERS_REMEMBERED_S


def depth(speed: Speed | None, *, min_interval_s: float, max_interval_s: float) -> int:
    """How many open batches keep both processors busy, at the least, while we are alone.

    An end is noticed late, and the upload that follows takes its time: so many quick batches must be waiting as the
    processors can end meanwhile, and one more. Everything while nothing is known.
    """
    if speed is None:
        return PLACES
    lag_s = patience_s(speed.batch_s, min_interval_s) + retry_s(speed.batch_s, 0.0, min_interval_s, max_interval_s)
    quick_s = max(speed.fast * speed.batch_s, 1e-9)
    waiting = math.ceil(min(PLACES, PROCESSORS * (lag_s + speed.upload_s) / quick_s))
    return min(PLACES, PROCESSORS + waiting + 1)
