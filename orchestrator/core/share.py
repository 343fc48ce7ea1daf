"""Which load may take the next slot, when several loads of one subscription want it?

Decided by each process for itself, from what the ledger shows to all of them: who wants slots, how urgently, how many
each holds, when each was last served. Nobody takes a slot away from another; a load that holds more than its share
only takes no more. `limits.queued_jobs` is about all loads together: where they were given different ones, the lowest
is everybody's while its load runs. (Else that load would wait until the others hold fewer, which they never need to.)

1. Every load that has something to send is entitled to one slot, as far as they go round: the most urgent first, then
   the one that was served longest ago; whoever has waited for STARVING_S goes before all others. So none starves.
2. The rest goes to the most urgent loads up to what they can use, in equal parts; then to the next urgent ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.core.model import LoadId, Priority

URGENCY: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}
STARVING_S = 600.0
"""A load that was not served for so long goes first, once, whatever its priority."""
HEARD_OF_S = 30.0
"""A run says every ten seconds in the ledger that it lives; one that was not heard of for so long wants nothing."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one running load wants of the slots."""

    load_id: LoadId
    priority: Priority
    unsent: int
    """Chunks it could send, ten at most: more make no difference."""
    held: int
    """Slots it holds."""
    served_at: float
    """When it last took a slot, or began to run."""
    work_unsent: int = 0
    """What it has still to send costs (`expect.work`)."""
    queued_jobs: int = 10
    """How many slots all loads together may hold, as far as this one is asked."""


def shares(wishes: Sequence[Wish], slots: int, now: float) -> dict[LoadId, int]:
    """How many slots each load is entitled to hold, of `slots` that are for all of them together."""
    share = {wish.load_id: 0 for wish in wishes}
    left = slots
    wanting = [wish for wish in wishes if wish.unsent + wish.held > 0]
    for wish in sorted(wanting, key=lambda wish: _turn(wish, now)):
        if left > 0:
            share[wish.load_id] += 1
            left -= 1
    for urgency in sorted(set(URGENCY.values())):
        group = [wish for wish in wanting if URGENCY[wish.priority] == urgency]
        while left > 0:
            least = [wish for wish in group if share[wish.load_id] < wish.unsent + wish.held]
            if not least:
                break
            next_one = min(least, key=lambda wish: (share[wish.load_id], wish.served_at, wish.load_id))
            share[next_one.load_id] += 1
            left -= 1
    assert sum(share.values()) <= max(slots, 0), "shares are of what there is"
    return share


def allowed_slots(wishes: Iterable[Wish], queued_jobs: int) -> int:
    """How many slots all loads together may hold, where this one's setting is `queued_jobs`."""
    return min([queued_jobs, *(wish.queued_jobs for wish in wishes)])


def work_beside(wishes: Sequence[Wish], load_id: LoadId, work: int, slots: int, now: float) -> int:
    """What is probably imported of other loads while `work` of this one is: each gets on as its share is."""
    share = shares(wishes, slots, now)
    mine = max(1, share.get(load_id, 0))
    others = (wish for wish in wishes if wish.load_id != load_id)
    return sum(min(wish.work_unsent, work * share[wish.load_id] // mine) for wish in others)


def _turn(wish: Wish, now: float) -> tuple[bool, int, float, str]:
    starving = wish.unsent > 0 and now - wish.served_at > STARVING_S
    return not starving, URGENCY[wish.priority], wish.served_at, wish.load_id
