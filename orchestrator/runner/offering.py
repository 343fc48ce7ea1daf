"""How is a chunk offered to Marketo, and what is written down of it?

1. The intent (Offered, with its slot) is durable before the first byte leaves.
2. The batch id (Accepted) is durable before anything else happens after the answer.
3. Whatever else comes back becomes a fact too: put off, refused, halved, or a doubt.

When a chunk is offered is decided by `schedule`, what an answer means by `verdicts`.
"""

from __future__ import annotations

from random import Random

import anyio
import structlog

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.files import ChunkBytes
from orchestrator.adapters.ledger import BatchIdTaken
from orchestrator.adapters.marketo import Marketo
from orchestrator.caller import Caller
from orchestrator.core.answers import batch_id_of
from orchestrator.core.model import Accepted, AnswerLost, Deferred, Halved, Load, Refused, Standing, Submit
from orchestrator.core.schedule import ChunkKey, Limits
from orchestrator.core.verdicts import CUTS_OF_A_ROW, Answered, Outcome, Ruling, Verdict, judge
from orchestrator.errors import SourceChanged, SourceMissing
from orchestrator.runner.books import Books
from orchestrator.runner.halving import halves
from orchestrator.runner.strikes import Strikes

log = structlog.get_logger()


class _NoSlot(Exception):
    """Another load took the last slot between the decision and the claim; or a stop was asked for."""


class Offering:
    """Offers the chunks of one load.

    Each answer tells how many of ours Marketo takes: the books remember it. `under_way`: uploads whose intent is
    durable and whose outcome is not. After `close`, no new one begins.
    """

    def __init__(
        self,
        load: Load,
        *,
        books: Books,
        strikes: Strikes,
        marketo: Marketo,
        caller: Caller,
        clock: Clock,
        rng: Random,
        limits: Limits,
    ) -> None:
        self._load, self._books, self._strikes = load, books, strikes
        self._marketo, self._caller, self._clock, self._rng, self._limits = marketo, caller, clock, rng, limits
        self.under_way: set[ChunkKey] = set()
        self._closed = anyio.Event()

    def close(self) -> None:
        """Begin no upload any more."""
        self._closed.set()

    async def submit(self, action: Submit) -> None:
        """Offer one chunk, and record what became of it."""
        try:
            await self._submit(action)
        finally:
            self.under_way.discard((action.load_id, action.number))

    async def _submit(self, action: Submit) -> None:
        load, books = self._load, self._books
        chunk = await books.ask(books.ledger.chunk, load.id, action.number)
        content = ChunkBytes(load.source, load.header, chunk)
        offered: Standing | None = None

        async def ask(token: str) -> Outcome:
            nonlocal offered
            offered = await self._claim(action)
            outcome = await self._marketo.create(token, load.target, load.format, content)
            ruling = judge(outcome, "create")
            if ruling.verdict is Verdict.RENEW_TOKEN:  # not executed, and another token may be long in coming
                log.warning("upload.refused", chunk=offered.number, verdict=ruling.verdict.name, why=ruling.why)
                key = (offered.load_id, offered.number)
                self._strikes.add(key, ruling.verdict.name, self._clock.now())
                await self._put_off(offered, ruling.why, self._strikes.backoff_s(key))
                offered = None
            return outcome

        try:
            outcome, ruling = await self._caller.call("create", ask)
        except _NoSlot:
            return
        except (SourceChanged, SourceMissing):  # the body was not complete: nothing was executed
            if offered is not None:
                await self._put_off(offered, "source changed")
            raise
        now = self._clock.now()
        if offered is None:  # no token that Marketo takes: nothing is left to write down
            self._strikes.give_up_if(ruling.verdict, ruling, now)
        elif isinstance(outcome, Answered) and ruling.verdict is Verdict.DONE:
            await self._answered(offered, outcome, now)
        else:
            await self._not_accepted(offered, ruling, now)

    async def _claim(self, action: Submit) -> Standing:
        if self._closed.is_set():
            raise _NoSlot
        assert action.slots <= self._limits.queued_jobs, "more slots than the configuration allows"
        standing = await self._books.claim(action, self._clock.now())
        if standing is None:
            raise _NoSlot
        self.under_way.add((action.load_id, action.number))
        if self._closed.is_set():  # a stop was asked for while it was written down
            await self._put_off(standing, "the load was stopped before this was sent")
            raise _NoSlot
        return standing

    async def _put_off(self, offered: Standing, why: str, wait_s: float = 0.0) -> None:
        """It was not executed, and is offered again. To be written down before anything is waited for."""
        now = self._clock.now()
        await self._books.record(offered, Deferred(now, now + wait_s, why))
        self.under_way.discard((offered.load_id, offered.number))

    async def _answered(self, offered: Standing, outcome: Answered, now: float) -> None:
        """Marketo said success: the batch id is durable before anything else happens."""
        batch_id = batch_id_of(outcome)
        if batch_id is None:
            await self._books.record(offered, AnswerLost(now, "Marketo said success without a batch id"))
            return
        try:
            await self._books.record(offered, Accepted(now, batch_id))
        except BatchIdTaken:
            why = f"Marketo answered with batch id {batch_id} of another chunk"
            await self._books.record(offered, AnswerLost(now, why))
            return
        log.info("batch.accepted", batch=batch_id, chunk=offered.number, rows=offered.rows)
        self._strikes.forget((offered.load_id, offered.number))
        await self._books.accepted(self._load.target.list_id)

    async def _not_accepted(self, offered: Standing, ruling: Ruling, now: float) -> None:
        """An upload that came back without a batch id: what the ledger has to know of it."""
        books, key, why = self._books, (offered.load_id, offered.number), ruling.why
        log.warning("upload.refused", chunk=offered.number, verdict=ruling.verdict.name, why=why)
        match verdict := self._strikes.verdict(key, ruling, now):
            case Verdict.WAIT_FOR_SLOT:
                await books.refused(None, now)  # first: the chunk would be offered again as if nothing had been learned
                await self._put_off(offered, why)
            case Verdict.WAIT_FOR_LIST:
                await books.refused(self._load.target.list_id, now)
                await self._put_off(offered, why)
            case Verdict.HALVE if ruling.verdict is Verdict.HALVE:
                await self._halve(offered, why)
            case Verdict.HALVE if self._is_cut_for_its_size(offered):
                cuts = self._strikes.of(key, verdict.name)
                why = f"the connection was cut {cuts} times while it was sent, and other calls got through ({why})"
                await self._halve(offered, why)
            case Verdict.DOUBT:
                await books.record(offered, AnswerLost(now, why))
            case Verdict.GIVE_UP_CHUNK:
                await books.record(offered, Refused(now, why))
            case Verdict.SLOW_DOWN:
                await self._put_off(offered, why, ruling.wait_s)
            case _:
                await self._put_off(offered, why, self._strikes.backoff_s(key))
                self._strikes.give_up_if(verdict, ruling, now)
                if verdict is Verdict.HALVE and not self._others_got_through(key):
                    await self._caller.call("other", self._marketo.usage)

    def _is_cut_for_its_size(self, offered: Standing) -> bool:
        """Cut in mid-body again and again: is it the chunk, and not the network? Then other calls get through."""
        key = (offered.load_id, offered.number)
        enough = offered.rows > 1 or self._strikes.of(key, Verdict.HALVE.name) >= CUTS_OF_A_ROW
        return enough and self._others_got_through(key)

    def _others_got_through(self, key: ChunkKey) -> bool:
        """Since the first of its cuts. Where no other call was made, one is made to see: any answer will do."""
        return (self._caller.sound_at or 0.0) >= self._strikes.since(key, Verdict.HALVE.name)

    async def _halve(self, offered: Standing, why: str) -> None:
        load, books, clock = self._load, self._books, self._clock
        chunk = await books.ask(books.ledger.chunk, load.id, offered.number)
        if chunk.rows == 1:
            await books.record(offered, Refused(clock.now(), f"row {chunk.first_row} alone is too large: {why}"))
            return
        try:
            parts = await halves(load, chunk)
        except (SourceChanged, SourceMissing) as error:
            await self._put_off(offered, error.message)
            raise
        await books.record(offered, Halved(clock.now(), parts, why))
