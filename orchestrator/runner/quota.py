"""How many calls of the day are left for this load, when others use the same subscription?

Marketo counts all calls of the subscription and tells the sum when asked; the asking is a call itself. Between two such
answers our own calls are taken off, those of others are not known: so it is asked again from time to time, and more
often when little is left. What must be left to others is never ours.
"""

from __future__ import annotations

import anyio
import structlog

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.marketo import Marketo
from orchestrator.caller import Caller
from orchestrator.core.pace import Budget
from orchestrator.core.verdicts import Answered, Outcome

log = structlog.get_logger()


class Quota:
    """The day's calls of one subscription."""

    def __init__(self, marketo: Marketo, caller: Caller, clock: Clock, *, calls_per_day: int, reserve: int) -> None:
        self._marketo, self._caller, self._clock = marketo, caller, clock
        self._ours_per_day = calls_per_day - reserve
        self._budget = Budget(self._ours_per_day)
        self._asking = False

    def left(self) -> int | None:
        """Calls that may still be made today; None when Marketo does not say what was used."""
        return self._budget.left(self._caller.calls)

    def is_due(self) -> bool:
        """Is it time to ask again what was used?"""
        return not self._asking and self._clock.now() >= self._budget.ask_at(self._caller.calls)

    async def ask(self, patience_s: float) -> None:
        """Ask Marketo what was used today. No answer within `patience_s` changes nothing."""
        self._asking = True
        outcome: Outcome | None = None
        try:
            with anyio.move_on_after(patience_s):
                outcome, _ = await self._caller.call("other", self._marketo.usage)
        finally:
            self._asking = False
        used: int | None = None
        if isinstance(outcome, Answered) and outcome.success:
            match outcome.result:
                case ({"total": int(total)}, *_):
                    used = total
        self._budget = self._budget.told(used, self._clock.now(), self._caller.calls)
        if used is not None:
            log.info("quota.asked", used=used, left=self.left())
