"""Who drives a load? One loop: look at how things stand, start what may be done, sleep until something is due.

It alone calls adapters during a load and it alone records facts (by `offering`, `following` and `books`); what may be
done is `schedule`'s decision and what an answer means is `verdicts`'. Nothing is kept between two looks, so killed at
any instant, the next run finds the same ledger and goes on; an offer without an answer is then a doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

import anyio
import structlog

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.ledger import Ledger
from orchestrator.adapters.locks import Ownership, take
from orchestrator.adapters.marketo import Marketo
from orchestrator.caller import SILENT_S, Caller
from orchestrator.core.admission import PLACES
from orchestrator.core.expect import learn, work
from orchestrator.core.lifecycle import DOUBTS_ALLOWED
from orchestrator.core.model import (
    Action,
    Collect,
    DoubtEnded,
    EndDoubt,
    Load,
    LoadId,
    Poll,
    Run,
    Standing,
    State,
    Submit,
)
from orchestrator.core.origins import source_name
from orchestrator.core.report import CANCELLED
from orchestrator.core.schedule import ChunkKey, Decision, Limits, View, in_marketo, next_actions
from orchestrator.core.share import HEARD_OF_S
from orchestrator.errors import DoubtHeld, MaxWaitOver, OrchestratorError, Unreachable
from orchestrator.runner.books import Books
from orchestrator.runner.following import Following
from orchestrator.runner.lag import watch_lag
from orchestrator.runner.offering import Offering
from orchestrator.runner.quota import Quota
from orchestrator.runner.resending import send_again
from orchestrator.runner.strikes import Strikes, doubt_held, quota_spent

log = structlog.get_logger()

DRAIN_S = 8.0
"""How long uploads under way may go on after a stop was asked for: then what became of them is written down."""
ABANDON_S = 4.0
"""How long an upload that was made to end may take to say how far it had come."""
NOT_REACHED_S = 30.0
"""A load that has not reached Marketo once gives up after this long: the address or the network is wrong."""
OBSERVE_S = 0.5
CALLS_STORED_EVERY_S = 10.0
ADOPT_S = 5.0
LEDGER_GLANCE_S = 1.0
"""How often the ledger is asked whether another process has written to it, while one has a say."""
SAY_AGAIN_S = 1.0
SAY_EVERY_S = 10.0
"""Well within `share.HEARD_OF_S`."""
QUOTA_PATIENCE_S = 30.0
ESTIMATED_AFTER = 0.1
"""Share of the rows after which the time of the end is held against what it came to."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a load was expected to end, and when that was said."""

    at: float
    ends_at: float


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
    calls_made: int = 0
    """By this run so far."""
    calls_left: int | None = None
    """Calls of the day that this subscription may still make by `limits`; None while Marketo has not said."""


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
        quota: Quota | None = None,
        max_wait_s: float | None = None,
        retry: bool = True,
        observe: Callable[[Progress], None] | None = None,
        lag_every_s: float | None = None,
    ) -> None:
        self._load, self._ledger, self._marketo, self._caller = load, ledger, marketo, caller
        self._clock, self._limits = clock, limits
        self._quota, self._max_wait_s, self._observe = quota, max_wait_s, observe
        self._loads: dict[LoadId, Load] = {load.id: load}
        self._adopted: dict[LoadId, Ownership] = {}
        self._retry, self._lag_every_s = retry, lag_every_s
        self._books = books = Books(ledger, load)
        strikes = Strikes(limits, rng, load.subscription)
        self._offering = Offering(
            load,
            books=books,
            strikes=strikes,
            marketo=marketo,
            caller=caller,
            clock=clock,
            rng=rng,
            limits=limits,
        )
        self._following = Following(
            self._loads, books=books, strikes=strikes, marketo=marketo, caller=caller, clock=clock
        )
        self._adopted_before: set[LoadId] = set()
        self._busy: dict[ChunkKey, Action] = {}
        self._stop: OrchestratorError | None = None
        self._fault: Exception | None = None
        self._stop_requested = self._cancelled = False
        self._woken = anyio.Event()
        self._started_at = clock.now()
        self._observed_at = self._adopted_at = 0.0
        self._calls_stored_at = self._started_at
        self._slots_used = 0
        self.over = False
        """Every chunk is at rest, and no row is to go again. A run that was stopped has not looked."""
        self.estimate: Estimate | None = None
        """The first one after a tenth of the rows."""

    async def run(self) -> OrchestratorError | None:
        """Until every chunk is at rest (None), or the load stops early (why)."""
        await self._books.open()
        await self._books.recover(self._load.id, self._clock.now())
        wants = min(PLACES, self._books.by_state[State.PLANNED])
        self._said = Run(self._clock.now(), wants, queued_jobs=self._limits.queued_jobs)
        await self._tell(self._said)
        try:
            await self._drive()
        except Exception:
            if self._fault is None:  # a ledger that fails as well, say, must not hide it
                raise
        if self._fault is not None:
            raise self._fault
        return self._stop

    async def _drive(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                if self._lag_every_s is not None:
                    tasks.start_soon(watch_lag, self._lag_every_s)
                while True:
                    if self._cancelled:
                        await self._books.cancel(CANCELLED, self._clock.now())
                    view = await self._look()
                    now = self._clock.now()
                    if not self._busy and view.unfinished == 0:
                        if not await self._sent_again():
                            self.over = True
                            break
                        continue
                    if (reason := self._reason_to_stop(now)) is not None:
                        self._stop_for(reason)
                    if self._stop is not None or self._stop_requested or self._fault is not None:
                        await self._drain()
                        break
                    decision = next_actions(
                        view,
                        now=now,
                        limits=self._limits,
                        watches=self._following.watches,
                        busy=self._busy,
                        uploading=sum(isinstance(action, Submit) for action in self._busy.values()),
                    )
                    for action in decision.actions:
                        self._busy[action.load_id, action.number] = action
                        tasks.start_soon(self._do, action)
                    self._give_back(set(self._adopted) - {load_id for load_id, _ in self._busy})
                    if self._quota is not None and self._quota.is_due():
                        tasks.start_soon(self._quota.ask, QUOTA_PATIENCE_S)
                    self._caller.share_pace(len(view.wishes))
                    await self._say(decision, view.work_unsent, now)
                    self._show(decision, now)
                    wake_at = min(decision.wake_at, self._stop_at(now))
                    if decision.others_act:
                        await self._sleep_beside_others(wake_at)
                    else:
                        await self._sleep_until(wake_at)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def _sent_again(self) -> bool:
        """At the end: did rows that failed by accident go into new chunks?

        Also when the run is to stop: without them the load would count as done.
        """
        if not self._retry or self._cancelled or self._stop is not None:
            return False
        return await send_again(self._load, self._books, self._clock)

    def request_stop(self) -> None:
        """Start no upload any more, write down what became of those under way, and return."""
        self._stop_requested = True
        self._offering.close()
        self._woken.set()

    def cancel(self) -> None:
        """Send nothing any more, and come to an end: what Marketo has is followed, the rest counts as not sent."""
        self._cancelled = True
        self._offering.close()
        self._woken.set()

    def _stop_for(self, reason: OrchestratorError) -> None:
        self._stop = self._stop or reason
        self._offering.close()

    async def _end(self) -> None:
        self._give_back(set(self._adopted))
        await self._store_calls()
        self._stop = self._stop or await self._doubt_held()
        reason = self._stop.message if self._stop is not None else ""
        await self._tell(Run(self._clock.now(), 0, reason, self._clock.now() if reason else None, ended=True))
        self._show(None, self._clock.now())

    async def _doubt_held(self) -> DoubtHeld | None:
        """At the end: is there nothing left but doubts that people must decide?"""
        if self._books.unfinished or not self._books.by_state[State.HELD]:
            return None
        return doubt_held(await self._books.ask(self._ledger.held, self._load.id))

    async def _do(self, action: Action) -> None:
        """One action to its end. An expected error stops the load; what it left is in the ledger.

        So does a fault of ours, which is raised when what became of the uploads under way is written down.
        """
        try:
            match action:
                case Submit():
                    await self._offering.submit(action)
                case Poll():
                    await self._following.poll(action)
                case Collect():
                    await self._following.collect(action)
                case EndDoubt():
                    standing = await self._books.standing(action)
                    resend = self._loads[action.load_id].on_doubt == "resend" and standing.doubts < DOUBTS_ALLOWED
                    await self._books.record(standing, DoubtEnded(self._clock.now(), action.how, resend))
        except OrchestratorError as error:
            self._stop_for(error)
        except Exception as error:  # noqa: BLE001 none may be lost
            self._fault = self._fault or error
            self._offering.close()
        finally:
            self._busy.pop((action.load_id, action.number), None)
            self._woken.set()

    # --- how things stand -------------------------------------------------------------------------------

    async def _look(self) -> View:
        """How things stand, read in one go."""
        now = self._clock.now()
        if now >= self._calls_stored_at + CALLS_STORED_EVERY_S:
            self._calls_stored_at = now
            await self._store_calls()
        if now >= self._adopted_at + ADOPT_S:
            self._adopted_at = now
            await self._adopt()
        # Nothing may be awaited between the last read and the decision: an action that ended meanwhile would be no
        # longer busy and still look undone, and be done twice.
        view = await self._books.ask(self._view_of_one_moment, now)
        self._slots_used = len(view.open)
        return view

    def _view_of_one_moment(self, now: float) -> View:
        with self._ledger.reading():
            return self._read_view(now)

    def _read_view(self, now: float) -> View:
        ledger, load = self._ledger, self._load
        ledger.changed_by_others()  # whatever they write from now on is a change
        open_chunks = tuple(ledger.open_chunks(load.subscription))
        collecting = tuple(s for load_id in self._loads for s in ledger.collecting(load_id))
        list_id, in_list, lane = load.target.list_id, list[Standing](), None
        if list_id is not None:
            in_list = ledger.open_in_list(load.subscription, list_id)
            lane = ledger.admission(load.subscription, list_id)
        ready = tuple(ledger.ready(load.id, now, 2 * self._limits.uploads_at_once))
        rows_under_way = sum(s.rows for s in (*open_chunks, *collecting) if s.load_id == load.id)
        rows_unsent = max(0, load.rows - load.rejected - self._books.settled - rows_under_way)
        return View(
            load_id=load.id,
            open=open_chunks,
            collecting=collecting,
            ready=ready,
            owned=frozenset(self._loads),
            queue=ledger.admission(load.subscription),
            lane=lane,
            speed=learn(ledger.past(load.subscription)),
            wishes=tuple(ledger.wishes(load.subscription, now - HEARD_OF_S)),
            list_id=list_id,
            list_open=len(in_list),
            list_in_marketo=in_marketo(in_list),
            unfinished=self._books.unfinished,
            # Where all that are left wait for open ones, these are asked after as the last of a load are.
            unsent=self._books.by_state[State.PLANNED] if ready else 0,
            work_unsent=work(rows_unsent, self._books.by_state[State.PLANNED]),
            calls_left=self._quota.left() if self._quota is not None else None,
        )

    async def _adopt(self) -> None:
        """Look after the batches of loads whose owner died: their slots come back, and their files are saved in time.

        Such a load is owned for as long as something is done for it, and given back: whoever gives its command again
        finds it free.
        """
        for load in await self._books.ask(self._ledger.loads_under_way, self._load.subscription):
            if load.id not in self._loads:
                ownership = await self._books.ask(take, self._ledger.path, load.id)
                if ownership is not None:
                    self._adopted[load.id] = ownership
                    self._loads[load.id] = load
                    if load.id not in self._adopted_before:
                        self._adopted_before.add(load.id)
                        log.info("load.adopted", adopted=load.id)
                    await self._books.recover(load.id, self._clock.now())

    def _give_back(self, loads: set[LoadId]) -> None:
        for load_id in loads:
            del self._loads[load_id]
            self._adopted.pop(load_id).release()

    async def _store_calls(self) -> None:
        made = dict(self._caller.made)
        if not made:
            return
        self._caller.made.clear()
        await self._books.ask(self._ledger.add_calls, self._load.id, made)

    # --- what other processes may know --------------------------------------------------------------------

    async def _say(self, decision: Decision, work_unsent: int, now: float) -> None:
        """Write down what this run wants, waits for and expects: when that changes, and every ten seconds."""
        said, waiting_for = self._said, self._waiting_for(decision, now)
        changed = (decision.wants, waiting_for) != (said.unsent, said.waiting_for)
        if now - said.heard_at < (SAY_AGAIN_S if changed else SAY_EVERY_S):
            return
        since = (said.waiting_since if waiting_for == said.waiting_for else now) if waiting_for else None
        ends_at = now + decision.eta_s if decision.eta_s is not None else None
        self._said = replace(
            self._said,
            heard_at=now,
            unsent=decision.wants,
            waiting_for=waiting_for,
            waiting_since=since,
            ends_at=ends_at,
            work_unsent=work_unsent,
        )
        await self._tell(self._said)
        settled = self._books.settled
        if self.estimate is None and ends_at is not None and settled >= ESTIMATED_AFTER * self._load.rows:
            self.estimate = Estimate(now, ends_at)

    def _waiting_for(self, decision: Decision, now: float) -> str:
        """What the next call waits for stands in the way of everything else."""
        if self._caller.paused_until > now + 1.0:
            return "calls: Marketo asked this subscription to make fewer of them"
        if self._caller.next_turn_at > now + 1.0:
            return "calls: as many as are allowed were made in the last 20 s (limits.calls_per_20s)"
        return decision.waiting_for

    async def _tell(self, run: Run) -> None:
        await self._books.ask(self._ledger.tell, self._load.id, run)

    # --- the end ----------------------------------------------------------------------------------------

    def _stop_at(self, now: float) -> float:
        """When a limit on the load's time is next to be looked at."""
        limits = [self._started_at + NOT_REACHED_S]
        if self._max_wait_s is not None:
            limits.append(self._started_at + self._max_wait_s)
        return min((at for at in limits if at > now), default=float("inf"))

    def _reason_to_stop(self, now: float) -> OrchestratorError | None:
        reached, trouble = self._caller.sound_at is not None, self._caller.trouble
        if self._max_wait_s is not None and now - self._started_at >= self._max_wait_s:
            return MaxWaitOver(
                f"--max-wait of {self._max_wait_s:.0f} s is over; batches go on inside Marketo",
                remedy="Run the same command again to go on.",
            )
        if not reached and trouble and now - self._started_at >= NOT_REACHED_S:
            return Unreachable(
                f"{self._load.subscription} was not reached within {NOT_REACHED_S:.0f} s: {trouble}",
                remedy="Check marketo.base_url and the network, then run the same command again.",
            )
        if reached and self._caller.failing_s >= SILENT_S:
            return Unreachable(
                f"{self._load.subscription}: no call has done anything for {SILENT_S / 60:.0f} min: {trouble}",
                remedy="Run the same command again when Marketo is back.",
            )
        left = self._quota.left() if self._quota is not None else None
        if left is not None and left <= 0:
            return quota_spent("the calls left today are reserved for others (limits.reserve_calls_per_day)", now)
        return None

    async def _drain(self) -> None:
        """After a stop: let uploads under way end, then end them, so that what became of each is written down."""
        for patience_s in (DRAIN_S, ABANDON_S):
            with anyio.move_on_after(patience_s):
                while self._offering.under_way:
                    await self._sleep_until(self._clock.now() + patience_s)
            self._marketo.abandon_uploads()

    async def _sleep_beside_others(self, at: float) -> None:
        """Sleep until something is to be done, or another process has written to the ledger: nothing else tells us."""
        at = min(at, self._adopted_at + ADOPT_S, self._said.heard_at + SAY_EVERY_S)
        while True:
            woken = await self._sleep_until(min(at, self._clock.now() + LEDGER_GLANCE_S))
            if woken or self._clock.now() >= at or await self._books.ask(self._ledger.changed_by_others):
                return

    async def _sleep_until(self, at: float) -> bool:
        """Until then, or until an action ends or a stop is asked for. Returns whether it was that."""
        with anyio.move_on_after(max(0.0, at - self._clock.now())):
            await self._woken.wait()
        if woken := self._woken.is_set():
            self._woken = anyio.Event()
        return woken

    # --- the observer -----------------------------------------------------------------------------------

    def _show(self, decision: Decision | None, now: float) -> None:
        if self._observe is None or (decision is not None and now < self._observed_at + OBSERVE_S):
            return
        self._observed_at = now
        books = self._books
        self._observe(
            Progress(
                load_id=self._load.id,
                source_name=source_name(self._load),
                now=now,
                started_at=self._started_at,
                rows=self._load.rows,
                rows_settled=books.settled,
                rows_settled_before=books.settled_before,
                imported=books.imported,
                failed=books.failed,
                warned=books.warned,
                chunks=sum(books.by_state.values()) - books.by_state[State.HALVED],
                chunks_by_state={state: count for state, count in books.by_state.items() if count},
                slots_used=self._slots_used,
                slots_limit=self._limits.queued_jobs,
                bytes_sent=self._marketo.sent_bytes,
                eta_s=decision.eta_s if decision is not None else None,
                waiting_for=self._waiting_for(decision, now) if decision is not None else "",
                calls_made=self._caller.calls,
                calls_left=self._quota.left() if self._quota is not None else None,
            )
        )
