"""How is a batch followed to its end, and what is written down of it?

Polled until Marketo says Complete or Failed; then its failure and warning files are saved, complete, before Collected
says so. Trouble with a question only delays it: a batch is never given up because asking was hard.

When a question is due is decided by `schedule`, what an answer means by `verdicts`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import structlog

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.files import private_folder
from orchestrator.adapters.marketo import Marketo, ResultFile
from orchestrator.caller import Caller
from orchestrator.core.age import days_to_tell, is_over, is_stalled
from orchestrator.core.answers import BatchStatus, status_of
from orchestrator.core.isolate import is_worth_halving
from orchestrator.core.locate import read_echoes
from orchestrator.core.model import (
    BatchId,
    Collect,
    Collected,
    CollectedFile,
    Deferred,
    Ended,
    Expired,
    Halved,
    Load,
    LoadId,
    Poll,
    SeenImporting,
    SeenQueued,
    Standing,
    State,
)
from orchestrator.core.schedule import ChunkKey, Watch
from orchestrator.core.verdicts import GONE_SPAN_S, Answered, Ruling, Saved, Verdict
from orchestrator.errors import ReportFailing, SourceChanged, SourceMissing
from orchestrator.runner.books import Books
from orchestrator.runner.halving import halves
from orchestrator.runner.strikes import Strikes

log = structlog.get_logger()

FILE_TRIES = 3
"""Downloads of a result file that seems to be cut, before the last one is kept as it is."""


class _LaterError(Exception):
    """A file could not be had now."""


class _GoneError(Exception):
    """A file cannot be had any more."""


class Following:
    """Follows the batches of the loads that this process looks after.

    `watches`: what is remembered of asking after each, in this process only. Every sighting of an importing batch is
    written down: the fence is proved by them, and how long batches take is learned from them.
    """

    def __init__(
        self,
        loads: dict[LoadId, Load],
        *,
        books: Books,
        strikes: Strikes,
        marketo: Marketo,
        caller: Caller,
        clock: Clock,
    ) -> None:
        self._loads, self._books, self._strikes = loads, books, strikes
        self._marketo, self._caller, self._clock = marketo, caller, clock
        self.watches: dict[ChunkKey, Watch] = {}
        self._said: set[tuple[BatchId, object]] = set()
        """What was said of a batch already: once is enough."""

    async def poll(self, action: Poll) -> None:
        """Ask how one batch stands."""
        load, key = self._loads[action.load_id], (action.load_id, action.number)
        asked_at = self._clock.now()
        outcome, ruling = await self._caller.call(
            "status", lambda token: self._marketo.status(token, load.target, action.batch_id)
        )
        status = status_of(outcome, action.batch_id) if isinstance(outcome, Answered) else None
        if ruling.verdict is Verdict.DONE and status is not None:
            self._strikes.forget(key)
            self.watches[key] = Watch(asked_at=self._clock.now())
            await self._seen(action, status, asked_at)
        else:
            await self._not_seen(action, ruling)

    async def _seen(self, action: Poll, status: BatchStatus, asked_at: float) -> None:
        now = self._clock.now()
        match status.word:
            case "Importing":
                standing = await self._books.standing(action)
                self._tell_age(action, standing, now)
                await self._books.record(standing, SeenImporting(asked_at, now))
            case "Complete" | "Failed":
                standing = await self._books.standing(action)
                await self._books.record(standing, Ended(now, status.word, status.counts, status.message))
                self.watches.pop((action.load_id, action.number), None)
                log.info("batch.ended", batch=action.batch_id, chunk=action.number, status=status.word)
            case "unknown" | "Queued":
                standing = await self._books.standing(action)
                self._tell_age(action, standing, now)
                if status.word == "Queued" and standing.state is State.QUEUED:  # one that was importing says nothing
                    await self._books.record(standing, SeenQueued(asked_at, now))
                if status.word == "unknown" and self._first_time(action.batch_id, "unknown"):
                    log.warning("batch.status_unknown", batch=action.batch_id)

    def _tell_age(self, action: Poll, standing: Standing, now: float) -> None:
        assert standing.offer is not None
        days = days_to_tell(standing.offer, now)
        if days is not None and self._first_time(action.batch_id, days):
            log.warning("batch.aged", batch=action.batch_id, chunk=action.number, days=days)
        if is_stalled(standing.offer, now) and self._first_time(action.batch_id, "stalled"):
            log.warning("batch.stalled", batch=action.batch_id, chunk=action.number)

    def _first_time(self, batch_id: BatchId, what: object) -> bool:
        known = (batch_id, what) in self._said
        self._said.add((batch_id, what))
        return not known

    async def _not_seen(self, action: Poll, ruling: Ruling) -> None:
        """No sound answer: asked again later, unless Marketo does not know the batch any more."""
        key, now = (action.load_id, action.number), self._clock.now()
        watch = self.watches.get(key, Watch())
        slow = ruling.verdict is Verdict.SLOW_DOWN
        self.watches[key] = replace(watch, asked_at=now, failures=watch.failures + (not slow))
        log.warning("poll.failed", batch=action.batch_id, verdict=ruling.verdict.name, why=ruling.why)
        standing = await self._books.standing(action)
        self._tell_age(action, standing, now)
        verdict = self._strikes.verdict(key, ruling, now)
        no_answer_s = now - self._strikes.since(key)
        if verdict is Verdict.GONE or (is_over(standing.offer, now) and no_answer_s >= GONE_SPAN_S):
            await self._books.record(standing, Expired(now, ruling.why or "seven days are over"))
        else:
            self._strikes.give_up_if(verdict, ruling, now)

    async def collect(self, action: Collect) -> None:
        """Save the failure and warning files of an ended batch, and count their rows against Marketo's.

        A chunk whose batch Failed for good is halved instead, while that may find the rows that broke it.
        """
        standing = await self._books.standing(action)
        assert standing.offer is not None
        counts = standing.offer.counts
        assert counts is not None
        if standing.offer.status == "Failed" and await self._halved(action, standing):
            return
        saved: dict[ResultFile, CollectedFile | None] = {"failures": None, "warnings": None}
        wanted: dict[ResultFile, int] = {"failures": counts.failed, "warnings": counts.warned}
        for which, rows in wanted.items():
            if rows > 0:
                try:
                    saved[which] = await self._collect_file(action, which, rows)
                except _LaterError as later:
                    now = self._clock.now()
                    wait_s = self._strikes.backoff_s((action.load_id, action.number))
                    await self._books.record(standing, Deferred(now, now + wait_s, str(later)))
                    return
                except _GoneError as gone:
                    await self._books.record(standing, Expired(self._clock.now(), str(gone)))
                    return
        await self._books.record(standing, Collected(self._clock.now(), saved["failures"], saved["warnings"]))
        log.info("chunk.settled", chunk=action.number, imported=counts.imported, failed=counts.failed)

    async def _halved(self, action: Collect, standing: Standing) -> bool:
        """Halve a chunk that breaks its batches, so that the rows that do it come to stand alone; False: no further."""
        books, load = self._books, self._loads[action.load_id]
        spent = await books.ask(books.ledger.spent, load.id, action.number)
        if not is_worth_halving(standing.rows, spent):
            return False
        chunk = await books.ask(books.ledger.chunk, load.id, action.number)
        try:
            parts = await halves(load, chunk)
        except (SourceChanged, SourceMissing) as error:  # what is known stays: the batch failed, as a whole
            log.warning("chunk.not_halved", chunk=action.number, why=error.message)
            return False
        why = f"its batch Failed: {standing.offer.message}" if standing.offer is not None else ""
        await books.record(standing, Halved(self._clock.now(), parts, why))
        log.info("chunk.halved", chunk=action.number, rows=standing.rows, failed_batches=spent.root_failures)
        return True

    async def _collect_file(self, action: Collect, which: ResultFile, rows: int) -> CollectedFile | None:
        try:
            return await self._save_file(action, which, rows)
        except OSError as error:
            raise ReportFailing(self._loads[action.load_id].collected_dir, error) from error

    async def _save_file(self, action: Collect, which: ResultFile, rows: int) -> CollectedFile | None:
        load, key = self._loads[action.load_id], (action.load_id, action.number)
        short, missing = f"{which} too short", f"{which} missing"
        folder = Path(load.collected_dir)
        await anyio.to_thread.run_sync(private_folder, folder)
        save_to = folder / f"{action.number:06d}-{action.batch_id}.{which}.{load.format}"
        outcome, ruling = await self._caller.call(
            which,
            lambda token: self._marketo.result_file(token, load.target, action.batch_id, which, save_to),
        )
        if isinstance(outcome, Saved):
            records, ended = await anyio.to_thread.run_sync(_count_records, save_to, load)
            # More records than rows are values with line ends that were not quoted again.
            if (records >= rows and ended) or self._strikes.of(key, short) >= FILE_TRIES:
                return CollectedFile(str(save_to), records)
            why = f"the {which} file has {records} rows where Marketo counted {rows}"
            if records >= rows:
                why = f"the {which} file does not end with a line end: it may be cut"
        elif ruling.verdict is Verdict.NOTHING_THERE and self._is_missing(key, missing):
            return None
        elif (verdict := self._strikes.verdict(key, ruling, self._clock.now())) is Verdict.GONE:
            raise _GoneError(ruling.why)
        else:
            self._strikes.give_up_if(verdict, ruling, self._clock.now())
            why = ruling.why or f"no {which} file, though Marketo counted {rows} rows"
        log.warning("collect.failed", batch=action.batch_id, which=which, why=why)
        if isinstance(outcome, Saved):
            self._strikes.add(key, short, self._clock.now())
        elif ruling.verdict is Verdict.NOTHING_THERE:
            self._strikes.add(key, missing, self._clock.now())
        raise _LaterError(why)

    def _is_missing(self, key: ChunkKey, missing: str) -> bool:
        """Marketo counted rows and says that there is no file of them: often enough, and for long enough?"""
        missing_s = self._clock.now() - self._strikes.since(key, missing)
        return self._strikes.of(key, missing) >= FILE_TRIES and missing_s >= GONE_SPAN_S


def _count_records(path: Path, load: Load) -> tuple[int, bool]:
    """How many records a result file has, and whether its last line is whole."""
    content = path.read_bytes()
    return len(read_echoes(content, load.format).records), content.endswith((b"\n", b"\r"))
