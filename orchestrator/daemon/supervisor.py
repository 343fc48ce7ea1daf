"""Which deliveries are loaded now, and what becomes of each?

One task for each load that runs; the library does the loading. A load that stops early is tried again, later and later:
Marketo may be down for hours, and a person may mend the configuration meanwhile. What cannot be loaded at all goes to
`failed`. `open` has every delivery that is not over. What is to outlive the process is in its `delivery.json` too,
before anybody is told of it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import anyio.to_thread
import structlog

from orchestrator import library
from orchestrator.core.model import LoadId, Priority
from orchestrator.core.verdicts import plain
from orchestrator.core.worth import class_of
from orchestrator.daemon.deliveries import Deliveries, Delivery
from orchestrator.daemon.events import Changes
from orchestrator.daemon.inbox import is_written
from orchestrator.daemon.records import Records
from orchestrator.daemon.settings import settings_of
from orchestrator.daemon.setup import Setup
from orchestrator.errors import (
    AccessRefused,
    DoubtHeld,
    LedgerUnusable,
    LoadBusy,
    Misconfigured,
    OrchestratorError,
    ReadingStopped,
    SourceChanged,
    Stopped,
    Unreachable,
    WorkFailing,
    cause_of,
    counted,
)
from orchestrator.library import LoadResult, StopRequest, World
from orchestrator.runner.loop import Progress

log = structlog.get_logger()

FIRST_RETRY_S, LAST_RETRY_S = 15.0, 900.0
BUSY_RETRY_S = 10.0
"""Another process runs the same load: it is waited for."""
STOP_CODE = 143
REASONS_KEPT = 20
LARGE_BYTES = 25_000_000
"""A file of so many is planned apart from smaller ones, which take a moment each and need not wait for it."""
URGENCY: dict[Priority | None, int] = {"high": 0, "normal": 1, None: 1, "low": 2}

Ended = Callable[[Delivery], None]
Progressed = Callable[[str, str, Progress], None]
"""Delivery, subscription, and how its load stands."""


@dataclass
class RunningLoad:
    """One load under way in this process. subscription: its name in the configuration."""

    subscription: str
    priority: Priority | None = None
    """That it was begun with."""
    stop: StopRequest = field(default_factory=StopRequest)
    progress: Progress | None = None


class Supervisor:
    """Runs what is open, of each subscription as many at a time as may be: none waits for the queue of another."""

    def __init__(
        self,
        deliveries: Deliveries,
        records: Records,
        setup: Callable[[], Setup],
        world: World,
        changes: Changes,
        *,
        ended: Ended = lambda _: None,
        progressed: Progressed = lambda *_: None,
    ) -> None:
        self._deliveries, self._records, self._setup = deliveries, records, setup
        self._world, self._changes, self._ended, self._progressed = world, changes, ended, progressed
        self.open: dict[str, Delivery] = {}
        self.running: dict[str, RunningLoad] = {}
        self.calls_left: dict[str, int] = {}
        """By subscription: what Marketo said last, less what was called since."""
        self._stopping = False
        self._woken = anyio.Event()
        self._file = threading.Lock()
        self._over: set[str] = set()
        """Put away this very moment, and still in `open`."""
        # Planning and reports keep the interpreter busy: twenty threads of it end no sooner than one after the other,
        # and every step of the event loop waits 5 ms for each of them (measured: answers of 1.6 s).
        self._heavy = (anyio.CapacityLimiter(1), anyio.CapacityLimiter(1))

    def add(self, delivery: Delivery) -> None:
        """A new one, or one that the last daemon left."""
        self.open[delivery.id] = delivery
        self._wake()

    async def run(self) -> None:
        """Until `stop`, and until every load has written down where it stands."""
        async with anyio.create_task_group() as self._tasks:
            while not self._stopping or self.running:
                wake_at = self._start_due()
                with anyio.move_on_after(max(0.0, wake_at - self._world.clock.now())):
                    await self._woken.wait()
                if self._woken.is_set():
                    self._woken = anyio.Event()

    def stop(self) -> None:
        """Begin nothing any more; loads under way drain."""
        self._stopping = True
        for run in self.running.values():
            run.stop.set(STOP_CODE)
        self._wake()

    def try_again(self) -> None:
        """What waited for a better time is tried now: the configuration may have been mended."""
        for delivery in self.open.values():
            self.open[delivery.id] = replace(delivery, not_before=0.0)
        self._wake()

    # --- what people ask for ------------------------------------------------------------------------------

    async def pause(self, delivery_id: str) -> None:
        """Send nothing more of it until `resume`; what Marketo has goes on, and is asked after later."""
        await self._change(delivery_id, paused=True, why="paused")
        if (run := self.running.get(delivery_id)) is not None:
            run.stop.set(STOP_CODE)

    async def resume(self, delivery_id: str, on_doubt: Literal["resend", "stop"] | None = None) -> None:
        settings = self.open[delivery_id].settings
        if on_doubt is not None:
            settings = {**settings, "on_doubt": on_doubt}
        await self._change(delivery_id, paused=False, why="", not_before=0.0, tries=0, settings=settings)
        self._wake()

    async def cancel(self, delivery_id: str) -> None:
        """Send nothing more of it, ever. Its load ends when what Marketo has of it has ended."""
        delivery = self.open[delivery_id]
        run = self.running.get(delivery_id)
        if run is None and delivery.load_id is None:
            del self.open[delivery_id]  # nothing may start or change it while it is put away
            try:
                await self._end(delivery, "failed", why="cancelled before anything was sent", cancelled=True)
            except BaseException:
                self.add(delivery)
                raise
            return
        await self._change(delivery_id, cancelled=True, paused=False, not_before=0.0, why="cancelled")
        if run is not None:
            run.stop.cancel()
        self._wake()

    async def prioritise(self, delivery_id: str, priority: Priority) -> None:
        """Among the loads of its subscription; one under way minds it at once."""
        delivery = self.open[delivery_id]
        await self._change(delivery_id, settings={**delivery.settings, "priority": priority})
        if delivery.load_id is not None:
            await self._records.ask(self._records.ledger.set_priority, delivery.load_id, priority)
        self._wake()

    async def _prioritise_late(self, delivery_id: str, load_id: LoadId) -> None:
        """It was changed while the load was planned or begun again: the ledger had no such load, or got the old one."""
        delivery = self.open.get(delivery_id)
        if delivery is not None:
            with suppress(OrchestratorError):  # its load meets the same trouble, and begins with it the next time
                await self._records.ask(self._records.ledger.set_priority, load_id, delivery.settings["priority"])

    # --- one load -----------------------------------------------------------------------------------------

    def _start_due(self) -> float:
        """Start what may be started; returns when to look again."""
        now, wake_at = self._world.clock.now(), float("inf")
        if self._stopping:
            return wake_at
        running = Counter(run.subscription for run in self.running.values())
        waiting = [one for one in self.open.values() if one.id not in self.running and not one.paused]
        for delivery in sorted(waiting, key=lambda one: (URGENCY.get(one.settings.get("priority"), 1), one.taken_at)):
            subscription = delivery.settings.get("subscription") or ""
            if delivery.not_before > now:
                wake_at = min(wake_at, delivery.not_before)
            elif running[subscription] < self._setup().daemon.loads_at_once:
                running[subscription] += 1
                self.running[delivery.id] = run = RunningLoad(subscription, delivery.settings.get("priority"))
                if delivery.cancelled:
                    run.stop.cancel()
                self._tasks.start_soon(self._carry, delivery, run)
        return wake_at

    async def _carry(self, delivery: Delivery, run: RunningLoad) -> None:
        """One try of one delivery, to wherever it comes."""
        structlog.contextvars.bind_contextvars(delivery=delivery.id)
        try:
            await self._try(delivery, run)
        except WorkFailing as error:  # what became of it is not written down: it is found out again
            log.warning("load.put_off", code=error.exit_code, why=error.message, seconds=FIRST_RETRY_S)
            again_at = self._world.clock.now() + FIRST_RETRY_S
            self.open[delivery.id] = replace(self.open[delivery.id], not_before=again_at, why=error.message)
        finally:
            self.running.pop(delivery.id, None)
            self._wake()
            self._changes.tell()

    async def _try(self, delivery: Delivery, run: RunningLoad) -> None:
        """Raises WorkFailing."""
        try:
            try:
                result = await self._load(delivery, run)
            except BaseExceptionGroup as group:
                raise cause_of(group) from None
            await self._came_to(delivery.id, result)
        except OrchestratorError as error:
            await self._failed(delivery.id, error)
        except Exception:
            log.exception("load.broken")
            await self._end(self.open[delivery.id], "failed", why="an internal fault; see the log", exit_code=70)

    async def _load(self, delivery: Delivery, run: RunningLoad) -> LoadResult:
        settings = settings_of(delivery.settings, where=delivery.name)
        config, path = self._setup().of(settings), self._deliveries.path(delivery)
        observe = partial(self._observe, delivery.id, run, config.subscription_host)
        on_doubt: Literal["resend", "stop"] = "resend" if delivery.cancelled else settings.on_doubt
        world = replace(self._world, heavy=self._heavy[_is_large(path)])
        if delivery.load_id is not None:
            known = await self._records.ask(self._records.ledger.load, delivery.load_id)
            if known is not None and known.subscription != config.subscription_host:
                raise Stopped(
                    f"load {known.id} was begun in {known.subscription}, and {config.subscription_host} is configured",
                    remedy="Configure the subscription that it was begun in again, and send SIGHUP.",
                )
            return await library.resume(
                config,
                delivery.load_id,
                on_doubt=on_doubt,
                priority=settings.priority,
                fail_on_warning=settings.fail_on_warning,
                retry=settings.retry,
                observer=observe,
                stop=run.stop,
                world=world,
            )
        if await anyio.to_thread.run_sync(_is_written, path):
            raise SourceChanged(f"{delivery.name}: it is still being written to", remedy="It is waited for.")
        options = settings.options(config)
        return await library.load(config, path, options, observer=observe, stop=run.stop, world=world)

    def _observe(self, delivery_id: str, run: RunningLoad, host: str, progress: Progress) -> None:
        if run.progress is None and self.open[delivery_id].settings.get("priority") != run.priority:
            self._tasks.start_soon(self._prioritise_late, delivery_id, progress.load_id)
        run.progress = progress
        self._progressed(delivery_id, host, progress)
        if progress.calls_left is not None:
            self.calls_left[host] = progress.calls_left
        delivery = self.open[delivery_id]
        if delivery.load_id is None:  # durable before the load can come to its end: `force` must not begin another
            self.open[delivery_id] = replace(delivery, load_id=progress.load_id)
            self._store(delivery_id)
        self._changes.tell()

    async def _came_to(self, delivery_id: str, result: LoadResult) -> None:
        """It finished, or stopped for a reason, or was asked to stop."""
        already = result.already_finished and self.open[delivery_id].load_id is None  # not by itself, before a crash
        delivery = self.open[delivery_id] = replace(self.open[delivery_id], load_id=result.load.id)
        if result.stopped is not None:
            await self._failed(delivery_id, result.stopped)
        elif not result.interrupted:
            totals = asdict(result.totals)
            log.info(
                "load.finished",
                load=result.load.id,
                exit_code=result.exit_code,
                seconds=round(result.seconds, 3),
                already=already,
                eta_error=result.eta_error,
                **totals,
            )
            reasons = [{**asdict(one), "reason": plain(one.reason)} for one in result.reasons[:REASONS_KEPT]]
            failures: Counter[str] = Counter()  # by all reasons, not by the commonest only
            for one in result.reasons:
                if one.kind == "failure":
                    failures[str(class_of(one.reason))] += one.rows
            kept = {
                "totals": totals,
                "reasons": reasons,
                "failures": dict(failures),
                "report_dir": str(result.report_dir),
                "seconds": round(result.seconds, 3),
                "doubts": result.doubts,
                "already_finished": already,
                "eta_error": result.eta_error,
            }
            why = "this content had been loaded before: nothing was sent" if already else ""
            if already and (unsent := result.totals.unsent):  # cancelled, most often
                why = f"a load of this content had ended with {counted(unsent, 'row')} unsent: nothing was sent; "
                why += "force loads all of it again"
            why = "cancelled" if delivery.cancelled else why
            stage: Literal["done", "failed"] = "failed" if delivery.cancelled else "done"
            ended = await self._end(delivery, stage, why=why, exit_code=result.exit_code, result=kept)
            await self._records.source_moved(result.load.id, self._deliveries.path(ended))

    async def _failed(self, delivery_id: str, error: OrchestratorError) -> None:
        """It did not come to an end: what is to be done with it now?"""
        delivery, now = self.open[delivery_id], self._world.clock.now()
        if isinstance(error, ReadingStopped):
            return
        if isinstance(error, DoubtHeld):
            log.warning("load.held", load=delivery.load_id, why=error.message)
            await self._change(delivery_id, paused=True, why=error.message)
        elif _may_pass(error, delivery) or self._setup_is_wrong(delivery):
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(delivery.tries, 10))
            if isinstance(error, LoadBusy | SourceChanged):
                wait_s = BUSY_RETRY_S
            log.warning("load.put_off", code=error.exit_code, why=error.message, seconds=wait_s)
            await self._change(delivery_id, not_before=now + wait_s, tries=delivery.tries + 1, why=error.message)
        else:
            log.error("load.failed", load=delivery.load_id, code=error.exit_code, why=error.message)
            await self._end(delivery, "failed", why=plain(error.sentence), exit_code=error.exit_code)

    def _setup_is_wrong(self, delivery: Delivery) -> bool:
        """Is it the configuration, as it is now, that keeps it from being loaded? Then the file need not be mended."""
        try:
            self._setup().check(settings_of(delivery.settings, where=delivery.name))
        except Misconfigured:
            return True
        return False

    # --- what is durable ----------------------------------------------------------------------------------

    async def _change(self, delivery_id: str, **changes: Any) -> None:
        self.open[delivery_id] = replace(self.open[delivery_id], **changes)
        await anyio.to_thread.run_sync(self._store, delivery_id)
        self._changes.tell()

    def _store(self, delivery_id: str) -> None:
        """Write down how it is now. (Whoever comes second writes what is newest then.) Raises WorkFailing."""
        with self._file, self._writing():
            if (delivery := self.open.get(delivery_id)) is not None and delivery_id not in self._over:
                self._deliveries.save(delivery)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkFailing(str(self._deliveries.work), error) from error

    async def _end(self, delivery: Delivery, stage: Literal["done", "failed"], **known: Any) -> Delivery:
        def put_away() -> Delivery:
            with self._file, self._writing():
                ended = self._deliveries.end(delivery, stage, self._world.clock.now(), **known)
                self._over.add(delivery.id)
                return ended

        ended = await anyio.to_thread.run_sync(put_away)
        self.open.pop(delivery.id, None)
        self._over.discard(delivery.id)
        self._ended(ended)
        self._changes.tell()
        return ended

    def _wake(self) -> None:
        self._woken.set()


def _is_large(path: Path) -> bool:
    with suppress(OSError):  # the load will say what is wrong
        return path.stat().st_size >= LARGE_BYTES
    return False


def _is_written(path: Path) -> bool:
    try:
        return is_written(path)
    except OSError:
        return False  # the load will say what is wrong


def _may_pass(error: OrchestratorError, delivery: Delivery) -> bool:
    """Is it worth trying again? What is wrong with the file itself is not; nor is a fault of ours."""
    if isinstance(error, SourceChanged):
        return delivery.load_id is None  # while it was read first
    return isinstance(error, Stopped | Unreachable | AccessRefused | LedgerUnusable)
