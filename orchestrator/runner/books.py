"""What does a run write down, and what has it counted?

The one way of a run to its ledger: blocking calls go through one door, one at a time, in a worker thread. Its facts are
recorded here and nowhere else, and the sums that the progress view shows are kept up as they are. The ledger stays the
truth: the sums are read off it when a run begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
import structlog

from orchestrator.adapters.ledger import Ledger
from orchestrator.core.admission import Admission
from orchestrator.core.lifecycle import AT_REST
from orchestrator.core.model import (
    Action,
    AnswerLost,
    Fact,
    Halved,
    Load,
    LoadId,
    Refused,
    Standing,
    State,
    Submit,
)
from orchestrator.errors import LedgerLocked

T = TypeVar("T")
log = structlog.get_logger()

LEDGER_TRIES = 12
"""Each waits for `ledger.BUSY_TIMEOUT_S`: a minute in all, then the load stops, resumable."""


class Books:
    """The ledger of one run, and the sums of its load.

    `settled` counts rows of chunks at rest, `settled_before` those that were so when the run began.
    """

    def __init__(self, ledger: Ledger, load: Load) -> None:
        self.ledger, self._load = ledger, load
        self._door = anyio.CapacityLimiter(1)
        self.by_state: Counter[State] = Counter()
        self.settled_before = self.settled = 0
        self.imported = self.failed = self.warned = 0

    async def open(self) -> None:
        """Read the sums as they stand."""
        await self._read()
        self.settled_before = self.settled

    async def _read(self) -> None:
        self.by_state = Counter(await self.ask(self.ledger.chunks_by_state, self._load.id))
        sums = await self.ask(self.ledger.settled_counts, self._load.id)
        self.settled, self.imported, self.failed, self.warned = sums

    async def ask(self, function: Callable[..., T], *arguments: object) -> T:
        """One blocking call, when it is its turn; a locked ledger is waited for."""
        for attempt in range(LEDGER_TRIES):
            try:
                return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._door)
            except LedgerLocked:
                if attempt == LEDGER_TRIES - 1:
                    raise
                log.warning("ledger.locked", attempt=attempt + 1)
        raise AssertionError("unreachable")

    async def standing(self, action: Action) -> Standing:
        """Where the chunk of an action stands now."""
        return await self.ask(self.ledger.standing, action.load_id, action.number)

    async def accepted(self, list_id: int | None) -> None:
        """Marketo took one more into its queue, and into the lane of the list."""
        for lane in (None,) if list_id is None else (None, list_id):
            await self.ask(self.ledger.learn, self._load.subscription, lane, Admission.accepted)

    async def refused(self, list_id: int | None, at: float) -> None:
        """There was no place in the queue (None), or in the lane of a list."""

        def change(known: Admission, there: int) -> Admission:
            return known.refused(at, there)

        await self.ask(self.ledger.learn, self._load.subscription, list_id, change)

    async def claim(self, action: Submit, at: float) -> Standing | None:
        """Write down the intent to send a chunk, with the slot it takes; None when no slot is free."""
        standing = await self.ask(self.ledger.claim, action.load_id, action.number, at, action.slots)
        if standing is not None:
            self.by_state[State.PLANNED] -= 1
            self.by_state[State.OFFERED] += 1
        return standing

    async def record(self, before: Standing, fact: Fact) -> Standing:
        """Make a fact durable; returns where its chunk stands then."""
        after = await self.ask(self.ledger.record, before.load_id, before.number, fact)
        if after.load_id == self._load.id:
            self._count(before, after, fact)
            if after.state is State.HELD:  # and with it what waits for it
                await self._read()
        return after

    async def recover(self, load_id: LoadId, now: float) -> None:
        """What the last owner of this load left without an answer is a doubt from now on."""
        for standing in await self.ask(self.ledger.unsettled_offers, load_id):
            await self.record(standing, AnswerLost(now, "the process ended before the answer was recorded"))

    async def cancel(self, why: str, now: float) -> None:
        """What was not sent never will be."""
        chunks, rows = await self.ask(self.ledger.refuse_planned, self._load.id, Refused(now, why))
        self.by_state[State.PLANNED] -= chunks
        self.by_state[State.REJECTED] += chunks
        self.settled += rows

    def moved_on(self, rows: int, chunks: int) -> None:
        """Failed rows are in new chunks now: they are open again."""
        self.by_state[State.PLANNED] += chunks
        self.settled -= rows
        self.failed -= rows

    def _count(self, before: Standing, after: Standing, fact: Fact) -> None:
        self.by_state[before.state] -= 1
        self.by_state[after.state] += 1
        if isinstance(fact, Halved):
            self.by_state[State.PLANNED] += len(fact.children)
        if after.state in AT_REST and after.state is not State.HALVED:
            self.settled += after.rows
            if after.offer is not None and after.offer.counts is not None:
                self.imported += after.offer.counts.imported
                self.failed += after.offer.counts.failed
                self.warned += after.offer.counts.warned

    @property
    def unfinished(self) -> int:
        """Chunks of the load that are not at rest."""
        return sum(count for state, count in self.by_state.items() if state not in AT_REST)
