"""What has gone wrong with a chunk, and what follows when it goes wrong again?

Troubles are counted per chunk, since it last went well, by what too many of them would lead to: three answers that a
batch is unknown and two that the service is down are not five answers that it is unknown. How many are too many is
decided by `verdicts`; when the next try is due, and when a load must stop, is said here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from orchestrator.core.lifecycle import DOUBTS_ALLOWED
from orchestrator.core.model import Standing
from orchestrator.core.pace import quota_renews_at
from orchestrator.core.schedule import ChunkKey, Limits
from orchestrator.core.verdicts import Ruling, Verdict
from orchestrator.errors import (
    AccessRefused,
    DoubtHeld,
    InternalFault,
    Misconfigured,
    OrchestratorError,
    QuotaSpent,
    Unreachable,
)


@dataclass(slots=True)
class _Count:
    """How often, and since when."""

    times: int = 0
    since: float = 0.0

    def one_more(self, now: float) -> None:
        self.since = self.since if self.times else now
        self.times += 1


class Strikes:
    """The troubles of every chunk of a run. Kept in memory: a new run begins with a clean slate."""

    def __init__(self, limits: Limits, rng: Random, subscription: str) -> None:
        self._limits, self._rng, self._subscription = limits, rng, subscription
        self._counted: defaultdict[ChunkKey, defaultdict[str, _Count]] = defaultdict(lambda: defaultdict(_Count))
        """All in a row, and by what would follow too many."""

    def verdict(self, key: ChunkKey, ruling: Ruling, now: float) -> Verdict:
        """The verdict, or what comes after it when it has been repeated often enough, for long enough."""
        if ruling.verdict is not Verdict.ASK_AGAIN:
            return ruling.verdict
        strikes = self._counted[key]
        strikes["all"].one_more(now)
        if ruling.tries is None:
            return Verdict.ASK_AGAIN
        counted = strikes[ruling.then.name]
        counted.one_more(now)
        enough = counted.times > ruling.tries and now - counted.since >= ruling.span_s
        return ruling.then if enough else Verdict.ASK_AGAIN

    def add(self, key: ChunkKey, what: str, now: float) -> None:
        """One more trouble of another kind than a ruling."""
        for name in ("all", what):
            self._counted[key][name].one_more(now)

    def of(self, key: ChunkKey, what: str) -> int:
        return self._counted[key][what].times

    def since(self, key: ChunkKey, what: str = "all") -> float:
        """When that began, since it last went well; infinitely late when it never did."""
        counted = self._counted[key][what]
        return counted.since if counted.times else float("inf")

    def forget(self, key: ChunkKey) -> None:
        """It went well."""
        self._counted.pop(key, None)

    def backoff_s(self, key: ChunkKey) -> float:
        """How long to wait before the next try: doubled with each trouble, with jitter, within the poll intervals."""
        base_s = self._limits.min_interval_s * 2.0 ** min(self._counted[key]["all"].times, 6)
        return min(base_s, self._limits.max_interval_s) * self._rng.uniform(0.5, 1.0)

    def give_up_if(self, verdict: Verdict, ruling: Ruling, now: float) -> None:
        """Raise what stops the load when no call of this kind can succeed until someone changes something."""
        if verdict is Verdict.WAIT_FOR_QUOTA:
            raise quota_spent(ruling.why, now)
        if verdict is Verdict.GIVE_UP_LOAD:
            kinds: dict[int, type[OrchestratorError]] = {69: Unreachable, 77: AccessRefused, 78: Misconfigured}
            kind = kinds.get(ruling.exit_code, InternalFault)
            raise kind(f"{self._subscription} refused: {ruling.why}", remedy=ruling.remedy)


def quota_spent(why: str, now: float) -> QuotaSpent:
    """What stops a load that has no calls left today."""
    at = datetime.fromtimestamp(quota_renews_at(now), UTC).strftime("%H:%M UTC on %Y-%m-%d")
    return QuotaSpent(
        f"the day's calls are used up until {at}: {why}",
        remedy="The quota is renewed by then; run the same command again after that.",
    )


def doubt_held(held: Sequence[Standing]) -> DoubtHeld:
    """What stops a load of which nothing is left but what people must decide."""
    doubted = [standing for standing in held if standing.doubts]
    most = max((standing.doubts for standing in doubted), default=0)
    why = "" if most < DOUBTS_ALLOWED else f"an answer was lost {most} times"
    return DoubtHeld([standing.number for standing in doubted], why)
