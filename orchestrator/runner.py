"""Who drives a load? One loop: look at how things stand, start what may be done, write down what happened.

It alone calls adapters during a load and it alone records facts; what may be done is `schedule`'s decision and
what an answer means is `verdicts`'. Ordering that everything rests on:

1. The intent (Offered, with its slot) is durable before the first byte of an upload leaves.
2. The batch id (Accepted) is durable before anything else happens after the answer.
3. A result file is on disk, complete, before Collected says so.

Killed at any instant, the next run finds the same ledger and goes on; an offer without an answer is then a doubt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

import anyio
import anyio.to_thread
import structlog

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.files import ChunkBytes, private_folder, read_spans
from orchestrator.adapters.ledger import BatchIdTaken, Ledger
from orchestrator.adapters.locks import Ownership, take
from orchestrator.adapters.marketo import Marketo, ResultFile
from orchestrator.caller import Caller
from orchestrator.core.answers import batch_id_of, status_of
from orchestrator.core.lifecycle import AT_REST
from orchestrator.core.locate import read_echoes
from orchestrator.core.model import (
    Accepted,
    Action,
    AnswerLost,
    Collect,
    Collected,
    CollectedFile,
    Deferred,
    DoubtEnded,
    EndDoubt,
    Ended,
    Expired,
    Fact,
    Halved,
    Load,
    LoadId,
    Poll,
    Refused,
    SeenImporting,
    Standing,
    State,
    Submit,
)
from orchestrator.core.pace import quota_renews_at
from orchestrator.core.plan import halve
from orchestrator.core.schedule import Admission, ChunkKey, Decision, Limits, View, Watch, next_actions
from orchestrator.core.schedule import in_marketo as count_in_marketo
from orchestrator.core.verdicts import Answered, Outcome, Ruling, Saved, Verdict
from orchestrator.errors import (
    AccessRefused,
    InternalFault,
    LedgerLocked,
    MaxWaitOver,
    Misconfigured,
    OrchestratorError,
    QuotaSpent,
    ReportFailing,
    SourceChanged,
    SourceMissing,
    Stopped,
    Unreachable,
)

T = TypeVar("T")
log = structlog.get_logger()

DRAIN_S = 8.0
"""How long uploads under way may go on after a stop was asked for: then what became of them is written down."""
ABANDON_S = 4.0
"""How long an upload that was made to end may take to say how far it had come."""
NOT_REACHED_S = 30.0
"""A load that has not reached Marketo once gives up after this long: the address or the network is wrong."""
SILENT_S = 1800.0
"""Without one sound answer for this long, Marketo is called unreachable: the load stops and can be resumed."""
BATCH_LIFE_S = 7 * 86400.0
"""Marketo: a batch id stays valid for seven days."""
FILE_TRIES = 3
"""Downloads of a result file that seems to be cut, before the last one is kept as it is."""
OBSERVE_S = 0.5
CALLS_STORED_EVERY_S = 10.0
ADOPT_S = 5.0
LEDGER_TRIES = 12


class _NoSlot(Exception):
    """Another load took the last slot between the decision and the claim."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How a load stands at one moment; handed to the observer about twice a second and on the last step."""

    load_id: LoadId
    source_name: str
    now: float
    started_at: float
    """When this run of the load began (not the load itself)."""
    rows: int
    rows_settled: int
    rows_settled_before: int
    """Of `rows_settled`, how many were settled before this run began: leave them out of a rate."""
    imported: int
    failed: int
    warned: int
    chunks: int
    chunks_by_state: Mapping[State, int]
    slots_used: int
    """Slots held in this subscription, by all loads that share the ledger."""
    slots_limit: int
    bytes_sent: int
    eta_s: float | None
    """Seconds until the load is probably done; None while nothing is known."""
    waiting_for: str
    """In words, what is being waited for when nothing moves; empty otherwise."""


class Runner:
    """Drives one load to its end, and looks after the open batches of loads whose owner is gone."""

    def __init__(
        self,
        load: Load,
        *,
        ledger: Ledger,
        marketo: Marketo,
        caller: Caller,
        clock: Clock,
        rng: Random,
        limits: Limits,
        calls_left: int | None = None,
        max_wait_s: float | None = None,
        observe: Callable[[Progress], None] | None = None,
    ) -> None:
        self._load, self._ledger, self._marketo, self._caller = load, ledger, marketo, caller
        self._clock, self._rng, self._limits = clock, rng, limits
        self._calls_left, self._max_wait_s, self._observe = calls_left, max_wait_s, observe
        self._ledger_door = anyio.CapacityLimiter(1)
        self._loads: dict[LoadId, Load] = {load.id: load}
        self._adopted: list[Ownership] = []
        self._queue = Admission(limits.queued_jobs)
        self._lane = Admission(limits.queued_jobs) if load.target.list_id is not None else None
        self._watches: dict[ChunkKey, Watch] = {}
        self._strikes: defaultdict[ChunkKey, Counter[str]] = defaultdict(Counter)
        """What went wrong with a chunk since it last went well: all in a row, and by what would follow too many."""
        self._busy: dict[ChunkKey, Action] = {}
        self._stop: OrchestratorError | None = None
        self._stop_requested = False
        self._offering: set[ChunkKey] = set()
        """Uploads whose intent is durable and whose outcome is not."""
        self._woken = anyio.Event()
        self._started_at = clock.now()
        self._observed_at = self._adopted_at = 0.0
        self._calls_stored_at = self._started_at
        self._by_state: Counter[State] = Counter()
        self._settled_before = self._settled = 0
        self._imported = self._failed = self._warned = 0
        self._slots_used = 0
        self._doubts_open = False

    # --- the loop ---------------------------------------------------------------------------------------

    async def run(self) -> OrchestratorError | None:
        """Until every chunk is at rest (None), or the load stops early (why)."""
        await self._begin()
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    view = await self._look()
                    now = self._clock.now()
                    self._stop = self._stop or self._reason_to_stop(now)
                    if not self._busy and view.unfinished == 0:
                        break
                    if self._stopping:
                        await self._drain()
                        break
                    decision = next_actions(
                        view,
                        now=now,
                        limits=self._limits,
                        queue=self._queue,
                        lane=self._lane,
                        watches=self._watches,
                        busy=self._busy,
                        uploading=self._uploading,
                    )
                    for action in decision.actions:
                        self._busy[action.load_id, action.number] = action
                        tasks.start_soon(self._do, action)
                    self._show(decision, now)
                    await self._sleep_until(min(decision.wake_at, self._stop_at(now)))
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()
        return self._stop

    def request_stop(self) -> None:
        """Start no upload any more, write down what became of those under way, and return."""
        self._stop_requested = True
        self._wake()

    @property
    def _stopping(self) -> bool:
        return self._stop is not None or self._stop_requested

    @property
    def _uploading(self) -> int:
        return sum(isinstance(action, Submit) for action in self._busy.values())

    async def _begin(self) -> None:
        states = await self._in_ledger(self._ledger.chunks_by_state, self._load.id)
        self._by_state.update(states)
        rows, self._imported, self._failed, self._warned = await self._in_ledger(
            self._ledger.settled_counts, self._load.id
        )
        self._settled = self._settled_before = rows
        await self._recover(self._load.id)

    async def _end(self) -> None:
        for ownership in self._adopted:
            ownership.release()
        await self._store_calls()
        self._show(None, self._clock.now())

    async def _recover(self, load_id: LoadId) -> None:
        """What the last owner of this load left without an answer is a doubt from now on."""
        for standing in await self._in_ledger(self._ledger.unsettled_offers, load_id):
            await self._record(
                standing, AnswerLost(self._clock.now(), "the process ended before the answer was recorded")
            )

    async def _look(self) -> View:
        """How things stand, read in one go."""
        now = self._clock.now()
        foreign = {s.load_id for s in await self._open_chunks()} - set(self._loads)
        if foreign and now >= self._adopted_at + ADOPT_S:
            self._adopted_at = now
            await self._adopt()
        if now >= self._calls_stored_at + CALLS_STORED_EVERY_S:
            self._calls_stored_at = now
            await self._store_calls()
        view = await self._in_ledger(self._read_view, now)
        self._slots_used = len(view.open)
        self._doubts_open = any(s.state is State.DOUBTFUL for s in view.open)
        return view

    async def _open_chunks(self) -> list[Standing]:
        return await self._in_ledger(self._ledger.open_chunks, self._load.subscription)

    def _read_view(self, now: float) -> View:
        ledger, load = self._ledger, self._load
        open_chunks = tuple(ledger.open_chunks(load.subscription))
        in_list: list[Standing] = []
        if load.target.list_id is not None:
            in_list = ledger.open_in_list(load.subscription, load.target.list_id)
        return View(
            open=open_chunks,
            collecting=tuple(s for load_id in self._loads for s in ledger.collecting(load_id)),
            ready=tuple(ledger.ready(load.id, now, 2 * self._limits.uploads_at_once)),
            owned=frozenset(self._loads),
            list_open=len(in_list),
            list_in_marketo=count_in_marketo(in_list),
            unfinished=sum(count for state, count in self._by_state.items() if state not in AT_REST),
        )

    async def _adopt(self) -> None:
        """Look after the open batches of loads whose owner died: their slots come back that way."""
        for load in await self._in_ledger(self._ledger.loads_with_open_chunks, self._load.subscription):
            if load.id not in self._loads:
                ownership = await self._in_ledger(take, self._ledger.path, load.id)
                if ownership is not None:
                    log.info("load.adopted", adopted=load.id)
                    self._adopted.append(ownership)
                    self._loads[load.id] = load
                    await self._recover(load.id)

    def _stop_at(self, now: float) -> float:
        """When a limit on the load's time is next to be looked at."""
        limits = [self._started_at + NOT_REACHED_S]
        if self._max_wait_s is not None:
            limits.append(self._started_at + self._max_wait_s)
        return min((at for at in limits if at > now), default=float("inf"))

    def _reason_to_stop(self, now: float) -> OrchestratorError | None:
        reached_at, trouble = self._caller.sound_at, self._caller.trouble
        if self._max_wait_s is not None and now - self._started_at >= self._max_wait_s:
            return MaxWaitOver(
                f"--max-wait of {self._max_wait_s:.0f} s is over; batches go on inside Marketo",
                remedy="Run the same command again to go on.",
            )
        if reached_at is None and trouble and now - self._started_at >= NOT_REACHED_S:
            return Unreachable(
                f"{self._load.subscription} was not reached within {NOT_REACHED_S:.0f} s: {trouble}",
                remedy="Check marketo.base_url and the network, then run the same command again.",
            )
        if reached_at is not None and trouble and now - reached_at >= SILENT_S:
            return Unreachable(
                f"{self._load.subscription} has given no sound answer for {SILENT_S / 60:.0f} min: {trouble}",
                remedy="Run the same command again when Marketo is back.",
            )
        if self._calls_left is not None and sum(self._caller.made.values()) >= self._calls_left:
            return _quota_spent("the calls left today are reserved for others (limits.reserve_calls_per_day)", now)
        return None

    async def _drain(self) -> None:
        """After a stop: let uploads under way end, then end them, so that what became of each is written down."""
        for patience_s in (DRAIN_S, ABANDON_S):
            with anyio.move_on_after(patience_s):
                while self._offering:
                    await self._sleep_until(self._clock.now() + patience_s)
            self._marketo.abandon_uploads()

    async def _sleep_until(self, at: float) -> None:
        with anyio.move_on_after(max(0.0, at - self._clock.now())):
            await self._woken.wait()
        if self._woken.is_set():
            self._woken = anyio.Event()

    def _wake(self) -> None:
        self._woken.set()

    # --- actions ----------------------------------------------------------------------------------------

    async def _do(self, action: Action) -> None:
        """One action to its end. An expected error stops the load; what it left is in the ledger."""
        try:
            match action:
                case Submit():
                    await self._submit(action)
                case Poll():
                    await self._poll(action)
                case Collect():
                    await self._collect(action)
                case EndDoubt():
                    resend = self._loads[action.load_id].on_doubt == "resend"
                    standing = await self._standing(action)
                    await self._record(standing, DoubtEnded(self._clock.now(), action.how, resend))
        except OrchestratorError as error:
            self._stop = self._stop or error
        finally:
            self._busy.pop((action.load_id, action.number), None)
            self._offering.discard((action.load_id, action.number))
            self._wake()

    async def _submit(self, action: Submit) -> None:
        load = self._load
        chunk = await self._in_ledger(self._ledger.chunk, load.id, action.number)
        content = ChunkBytes(Path(load.source.path), load.header, chunk)
        offered: Standing | None = None

        async def ask(token: str) -> Outcome:
            nonlocal offered
            if offered is None:
                if self._stopping:
                    raise _NoSlot
                offered = await self._claim(action)
            return await self._marketo.create(token, load.target, load.format, content)

        try:
            outcome, ruling = await self._caller.call("create", ask)
        except _NoSlot:
            return
        except (SourceChanged, SourceMissing):  # the body was not complete: nothing was executed
            if offered is not None:
                await self._record(offered, Deferred(self._clock.now(), self._clock.now(), "source changed"))
            raise
        now = self._clock.now()
        if offered is None:  # no token: nothing was sent, nothing is written down
            self._give_up_if(ruling.verdict, ruling)
            return
        if isinstance(outcome, Answered) and ruling.verdict is Verdict.DONE:
            batch_id = batch_id_of(outcome)
            if batch_id is None:
                await self._record(offered, AnswerLost(now, "Marketo said success without a batch id"))
                return
            try:
                await self._record(offered, Accepted(now, batch_id))
            except BatchIdTaken:
                await self._record(
                    offered, AnswerLost(now, f"Marketo answered with batch id {batch_id} of another chunk")
                )
                return
            log.info("batch.accepted", batch=batch_id, chunk=chunk.number, rows=chunk.rows)
            self._strikes.pop((load.id, chunk.number), None)
            self._queue.accepted(count_in_marketo(await self._open_chunks()))
            if self._lane is not None and load.target.list_id is not None:
                in_list = await self._in_ledger(self._ledger.open_in_list, load.subscription, load.target.list_id)
                self._lane.accepted(count_in_marketo(in_list))
            return
        await self._not_accepted(offered, ruling)

    async def _not_accepted(self, offered: Standing, ruling: Ruling) -> None:
        """An upload that came back without a batch id: what the ledger has to know of it."""
        load, now, why = self._load, self._clock.now(), ruling.why
        log.warning("upload.refused", chunk=offered.number, verdict=ruling.verdict.name, why=why)
        match verdict := self._after_tries((load.id, offered.number), ruling):
            case Verdict.WAIT_FOR_SLOT:
                wait_s = self._limits.max_interval_s * self._rng.uniform(1.0, 2.0)
                await self._record(offered, Deferred(now, now, why))
                self._queue.refused(now, count_in_marketo(await self._open_chunks()), wait_s)
            case Verdict.WAIT_FOR_LIST:
                wait_s = self._limits.max_interval_s * self._rng.uniform(1.0, 2.0)
                await self._record(offered, Deferred(now, now, why))
                if self._lane is not None and load.target.list_id is not None:
                    in_list = await self._in_ledger(self._ledger.open_in_list, load.subscription, load.target.list_id)
                    self._lane.refused(now, count_in_marketo(in_list), wait_s)
            case Verdict.HALVE:
                await self._halve(offered, why)
            case Verdict.DOUBT:
                await self._record(offered, AnswerLost(now, why))
            case Verdict.GIVE_UP_CHUNK:
                await self._record(offered, Refused(now, why))
            case Verdict.SLOW_DOWN:
                await self._record(offered, Deferred(now, now + ruling.wait_s, why))
            case _:
                wait_s = self._backoff_s((load.id, offered.number))
                await self._record(offered, Deferred(now, now + wait_s, why))
                self._give_up_if(verdict, ruling)

    async def _halve(self, offered: Standing, why: str) -> None:
        load, now = self._load, self._clock.now()
        chunk = await self._in_ledger(self._ledger.chunk, load.id, offered.number)
        if chunk.rows == 1:
            await self._record(offered, Refused(now, f"row {chunk.first_row} alone is too large: {why}"))
            return
        content = await anyio.to_thread.run_sync(partial(read_spans, Path(load.source.path), load.header, chunk.spans))
        header_bytes = load.header.stop - load.header.start
        children = halve(chunk, content[:header_bytes], content[header_bytes:], load.format)
        await self._record(offered, Halved(now, children, why))

    async def _poll(self, action: Poll) -> None:
        load, key = self._loads[action.load_id], (action.load_id, action.number)
        asked_at = self._clock.now()
        outcome, ruling = await self._caller.call(
            "status", lambda token: self._marketo.status(token, load.target, action.batch_id)
        )
        now = self._clock.now()
        status = status_of(outcome, action.batch_id) if isinstance(outcome, Answered) else None
        if ruling.verdict is Verdict.DONE and status is not None:
            self._strikes.pop(key, None)
            self._watches[key] = Watch(asked_at=now)
            if status.word == "Importing":
                standing = await self._standing(action)
                if standing.state is State.QUEUED or self._doubts_open:
                    await self._record(standing, SeenImporting(asked_at, now))
            elif status.word in ("Complete", "Failed"):
                standing = await self._standing(action)
                ended = Ended(now, status.word, status.counts, status.message)
                await self._record(standing, ended)
                self._watches.pop(key, None)
                log.info("batch.ended", batch=action.batch_id, chunk=action.number, status=status.word)
            elif status.word == "unknown":
                log.warning("batch.status_unknown", batch=action.batch_id)
            return
        watch = self._watches.get(key, Watch())
        slow = ruling.verdict is Verdict.SLOW_DOWN
        self._watches[key] = Watch(asked_at=now, failures=watch.failures + (not slow))
        log.warning("poll.failed", batch=action.batch_id, verdict=ruling.verdict.name, why=ruling.why)
        standing = await self._standing(action)
        accepted_at = standing.offer.accepted_at if standing.offer is not None else None
        verdict = self._after_tries(key, ruling)
        if verdict is Verdict.GONE or (accepted_at is not None and now - accepted_at > BATCH_LIFE_S):
            await self._record(standing, Expired(now, ruling.why or "seven days are over"))
        else:
            self._give_up_if(verdict, ruling)

    async def _collect(self, action: Collect) -> None:
        """Save the failure and warning files of an ended batch, and count their rows against Marketo's."""
        standing = await self._standing(action)
        assert standing.offer is not None
        counts = standing.offer.counts
        assert counts is not None
        saved: dict[ResultFile, CollectedFile | None] = {"failures": None, "warnings": None}
        wanted: dict[ResultFile, int] = {"failures": counts.failed, "warnings": counts.warned}
        for which, rows in wanted.items():
            if rows > 0:
                try:
                    saved[which] = await self._collect_file(action, which, rows)
                except _LaterError as later:
                    now = self._clock.now()
                    await self._record(standing, Deferred(now, now + self._backoff_s(later.key), later.why))
                    return
                except _GoneError as gone:
                    await self._record(standing, Expired(self._clock.now(), gone.why))
                    return
        await self._record(standing, Collected(self._clock.now(), saved["failures"], saved["warnings"]))
        log.info("chunk.settled", chunk=action.number, imported=counts.imported, failed=counts.failed)

    async def _collect_file(self, action: Collect, which: ResultFile, rows: int) -> CollectedFile | None:
        try:
            return await self._save_file(action, which, rows)
        except OSError as error:
            raise ReportFailing(self._loads[action.load_id].collected_dir, error) from error

    async def _save_file(self, action: Collect, which: ResultFile, rows: int) -> CollectedFile | None:
        load, key = self._loads[action.load_id], (action.load_id, action.number)
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
            if (records >= rows and ended) or self._strikes[key][which] >= FILE_TRIES:
                return CollectedFile(str(save_to), records)
            why = f"the {which} file has {records} rows where Marketo counted {rows}"
            if records >= rows:
                why = f"the {which} file does not end with a line end: it may be cut"
        elif ruling.verdict is Verdict.NOTHING_THERE and self._strikes[key][which] >= FILE_TRIES:
            return None
        elif (verdict := self._after_tries(key, ruling)) is Verdict.GONE:
            raise _GoneError(ruling.why)
        else:
            self._give_up_if(verdict, ruling)
            why = ruling.why or f"no {which} file, though Marketo counted {rows} rows"
        log.warning("collect.failed", batch=action.batch_id, which=which, why=why)
        if isinstance(outcome, Saved) or ruling.verdict is Verdict.NOTHING_THERE:
            self._strikes[key].update(("all", which))
        raise _LaterError(key, why)

    # --- rulings ----------------------------------------------------------------------------------------

    def _after_tries(self, key: ChunkKey, ruling: Ruling) -> Verdict:
        """The verdict, or what comes after it when it has been repeated often enough."""
        if ruling.verdict is not Verdict.ASK_AGAIN:
            return ruling.verdict
        strikes = self._strikes[key]
        strikes["all"] += 1
        if ruling.tries is None:
            return Verdict.ASK_AGAIN
        strikes[ruling.then.name] += 1
        return ruling.then if strikes[ruling.then.name] > ruling.tries else Verdict.ASK_AGAIN

    def _backoff_s(self, key: ChunkKey) -> float:
        base_s = self._limits.min_interval_s * 2.0 ** min(self._strikes[key]["all"], 6)
        return min(base_s, self._limits.max_interval_s) * self._rng.uniform(0.5, 1.0)

    def _give_up_if(self, verdict: Verdict, ruling: Ruling) -> None:
        """Stop the load when no call of this kind can succeed until someone changes something."""
        if verdict is Verdict.WAIT_FOR_QUOTA:
            raise _quota_spent(ruling.why, self._clock.now())
        if verdict is Verdict.GIVE_UP_LOAD:
            kinds: dict[int, type[OrchestratorError]] = {69: Unreachable, 77: AccessRefused, 78: Misconfigured}
            kind = kinds.get(ruling.exit_code, InternalFault)
            raise kind(f"{self._load.subscription} refused: {ruling.why}", remedy=ruling.remedy)

    # --- the ledger -------------------------------------------------------------------------------------

    async def _in_ledger(self, function: Callable[..., T], *arguments: object) -> T:
        """Everything blocking goes through one door, one at a time; a locked ledger is waited for."""
        for attempt in range(LEDGER_TRIES):
            try:
                return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._ledger_door)
            except LedgerLocked:
                if attempt == LEDGER_TRIES - 1:
                    raise
                log.warning("ledger.locked", attempt=attempt + 1)
        raise AssertionError("unreachable")

    async def _standing(self, action: Action) -> Standing:
        record = await self._in_ledger(self._ledger.record_of, action.load_id, action.number)
        return record.standing

    async def _claim(self, action: Submit) -> Standing:
        standing = await self._in_ledger(
            self._ledger.claim, action.load_id, action.number, self._clock.now(), self._limits.queued_jobs
        )
        if standing is None:
            raise _NoSlot
        self._offering.add((action.load_id, action.number))
        self._by_state[State.PLANNED] -= 1
        self._by_state[State.OFFERED] += 1
        return standing

    async def _record(self, before: Standing, fact: Fact) -> Standing:
        after = await self._in_ledger(self._ledger.record, before.load_id, before.number, fact)
        if after.load_id == self._load.id:
            self._by_state[before.state] -= 1
            self._by_state[after.state] += 1
            if isinstance(fact, Halved):
                self._by_state[State.PLANNED] += len(fact.children)
            if after.state in AT_REST and after.state is not State.HALVED:
                self._settled += after.rows
                if after.offer is not None and after.offer.counts is not None:
                    self._imported += after.offer.counts.imported
                    self._failed += after.offer.counts.failed
                    self._warned += after.offer.counts.warned
        return after

    async def _store_calls(self) -> None:
        made = dict(self._caller.made)
        self._caller.made.clear()
        if self._calls_left is not None:
            self._calls_left -= sum(made.values())
        await self._in_ledger(self._ledger.add_calls, self._load.id, made)

    # --- the observer -----------------------------------------------------------------------------------

    def _show(self, decision: Decision | None, now: float) -> None:
        if self._observe is None or (decision is not None and now < self._observed_at + OBSERVE_S):
            return
        self._observed_at = now
        done, passed_s = self._settled - self._settled_before, now - self._started_at
        left = self._load.rows - self._load.rejected - self._settled
        self._observe(
            Progress(
                load_id=self._load.id,
                source_name=Path(self._load.source.path).name,
                now=now,
                started_at=self._started_at,
                rows=self._load.rows,
                rows_settled=self._settled,
                rows_settled_before=self._settled_before,
                imported=self._imported,
                failed=self._failed,
                warned=self._warned,
                chunks=sum(self._by_state.values()) - self._by_state[State.HALVED],
                chunks_by_state={state: count for state, count in self._by_state.items() if count},
                slots_used=self._slots_used,
                slots_limit=self._limits.queued_jobs,
                bytes_sent=self._marketo.sent_bytes,
                eta_s=left * passed_s / done if done else None,
                waiting_for=decision.waiting_for if decision is not None else "",
            )
        )


class _LaterError(Exception):
    def __init__(self, key: ChunkKey, why: str) -> None:
        super().__init__(why)
        self.key, self.why = key, why


class _GoneError(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _count_records(path: Path, load: Load) -> tuple[int, bool]:
    """How many records a result file has, and whether its last line is whole."""
    content = path.read_bytes()
    return len(read_echoes(content, load.format).records), content.endswith((b"\n", b"\r"))


def _quota_spent(why: str, now: float) -> Stopped:
    at = datetime.fromtimestamp(quota_renews_at(now), UTC).strftime("%Y-%m-%d %H:%M UTC")
    return QuotaSpent(
        f"the day's calls are used up: {why}",
        remedy=f"The quota is renewed by {at}; run the same command again then.",
    )
