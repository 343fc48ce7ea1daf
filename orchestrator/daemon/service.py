"""How do the parts of the daemon run together? One task group, from the start to the drain.

The composition root of the daemon. Signals: SIGTERM and SIGINT drain and stop, a second one stops at once; SIGHUP reads
the configuration again and keeps the old one when the new one is refused.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio
import anyio.abc
import anyio.to_thread
import structlog

from orchestrator.daemon.deliveries import Deliveries, Delivery
from orchestrator.daemon.desk import Desk
from orchestrator.daemon.events import Changes
from orchestrator.daemon.hooks import Hooks
from orchestrator.daemon.http.app import application
from orchestrator.daemon.http.guard import Guard
from orchestrator.daemon.http.listen import Listener, bind
from orchestrator.daemon.http.listen import serve as serve_http
from orchestrator.daemon.http.tokens import Tokens, read_token
from orchestrator.daemon.inbox import Inbox, Scan
from orchestrator.daemon.metrics import Counters
from orchestrator.daemon.notify import Notifier
from orchestrator.daemon.overview import LOADS_SHOWN
from orchestrator.daemon.records import Records
from orchestrator.daemon.settings import LoadSettings
from orchestrator.daemon.setup import Setup, SetupSource
from orchestrator.daemon.supervisor import Supervisor
from orchestrator.errors import Misconfigured, OrchestratorError
from orchestrator.library import World
from orchestrator.runner.lag import watch_lag

log = structlog.get_logger()

SIGNAL_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
FIXED = (
    "inbox",
    "work",
    "done",
    "failed",
    "listen",
    "hosts",
    "behind_proxy",
    "tls_certificate",
    "tls_key",
    "token_file",
)
"""Keys that cannot change while the daemon runs."""
SCAN_LATE_S = 60.0
STUCK_EVERY_S = 600.0
HOUSEKEEPING_S = 3_600.0
DAY_S = 86_400.0
LOOKED_AT_AGAIN = 50
"""Deliveries that ended last, whose files the ledger may not know yet."""


class Service:
    """The daemon. `exit_code` is what it ends with."""

    def __init__(self, source: SetupSource, setup: Setup, world: World, environ: Mapping[str, str]) -> None:
        self.setup = setup
        self.world = self._shared(world)
        self.changes = Changes()
        daemon = setup.daemon
        self.deliveries = Deliveries(daemon.work, daemon.done, daemon.failed)
        self.inbox = Inbox(daemon.inbox, daemon.quiet_period, self._check)
        self.records = Records(setup.main, world.connect)
        self.counters = Counters()
        self.supervisor = Supervisor(
            self.deliveries,
            self.records,
            lambda: self.setup,
            self.world,
            self.changes,
            ended=self._ended,
            progressed=self.counters.progressed,
        )
        self.hooks = Hooks(lambda: self.setup.daemon, self._told, world.clock.now)
        self.ended: deque[Delivery] = deque(maxlen=LOADS_SHOWN)
        """Those that ended last, the newest first."""
        self.listener: Listener | None = None
        self.desk = Desk(
            self.deliveries,
            self.inbox,
            self.supervisor,
            self.records,
            lambda: self.setup,
            world.clock.now,
            lambda: self.scan,
            self.took,
            lambda: tuple(self.ended),
        )
        self.scan = Scan()
        self.scanned_at: float | None = None
        self._unusable: str | None = None
        """Why the inbox could not be looked into the last time: said once."""
        self.lag_s = 0.0
        self.started_at = world.clock.now()
        self.stopping = False
        self.exit_code = 0
        self._source, self._lag_every_s = source, world.lag_every_s
        self._notifier, self._alive_at = Notifier(environ), float("-inf")
        self._taking = anyio.CapacityLimiter(1)
        self._stop_watching = anyio.Event()
        """Set when a stop is asked for: whoever watches would keep the server from ending."""
        self._no_more = anyio.Event()
        """Set when the last load has written down where it stands."""
        self._http_over = anyio.Event()

    def _shared(self, world: World) -> World:
        """All loads of this process share the calls at a time of their subscription, and one look at the loop."""
        self._turns = dict(world.turns)
        self._share_calls()
        return replace(world, turns=self._turns, lag_every_s=None)

    def _share_calls(self) -> None:
        """Of each subscription as it is configured now; a changed number is for loads that begin afterwards."""
        configured = {one.subscription_host: one.limits.concurrent_calls for one in self.setup.by_name.values()}
        for host, most in configured.items():
            if host not in self._turns or self._turns[host].max_value != most:
                self._turns[host] = anyio.Semaphore(most, max_value=most)

    def _check(self, settings: LoadSettings) -> None:
        self.setup.check(settings)

    async def run(self, ready: Callable[[], None] = lambda: None) -> int:
        """Until it is asked to stop. Raises OrchestratorError when it cannot begin."""
        try:
            app = await anyio.to_thread.run_sync(self._prepare)
            async with anyio.create_task_group() as tasks:
                if self.listener is not None:
                    assert app is not None
                    tasks.start_soon(self._serve, app, self.listener)
                tasks.start_soon(self._supervised, tasks)
                tasks.start_soon(self._take_in)
                tasks.start_soon(self.hooks.run)
                tasks.start_soon(self._find_the_stuck)
                tasks.start_soon(self._keep_house)
                if self._lag_every_s is not None:
                    tasks.start_soon(watch_lag, self._lag_every_s, self._felt)
                log.info(
                    "daemon.started",
                    inbox=str(self.inbox.path),
                    loads=len(self.supervisor.open),
                    url=self.listener.url if self.listener is not None else None,
                )
                self._notifier.ready("taking loads")
                ready()
        finally:
            self.records.close()
        log.info("daemon.stopped", exit_code=self.exit_code)
        return self.exit_code

    def stop(self, exit_code: int) -> None:
        """Drain and end."""
        self.exit_code, self.stopping = self.exit_code or exit_code, True
        self._notifier.stopping()
        self._stop_watching.set()
        self.changes.tell()
        self.supervisor.stop()

    def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing."""
        try:
            new = self._source.read()
            self._same_places(new)
        except OrchestratorError as error:
            log.error("config.refused", why=error.sentence)
            self._notifier.status("the new configuration was refused; the old one is in use")
            return
        self.setup = new
        self._share_calls()
        self.inbox.quiet_s = new.daemon.quiet_period
        self.supervisor.try_again()
        self.changes.tell()
        log.info("config.reloaded", subscriptions=len(new.by_name))
        self._notifier.status("taking loads")

    def _same_places(self, new: Setup) -> None:
        """What cannot change while the daemon runs."""
        old = self.setup
        for name in FIXED:
            if getattr(new.daemon, name) != getattr(old.daemon, name):
                raise Misconfigured(f"daemon.{name} has changed", remedy="Restart the daemon to change that.")
        if new.main.ledger_path != old.main.ledger_path:
            raise Misconfigured("state.ledger has changed", remedy="Restart the daemon to use another ledger.")

    # --- tasks --------------------------------------------------------------------------------------------

    def _prepare(self) -> Guard | None:
        self.deliveries.prepare()
        self.inbox.prepare(self.deliveries)
        app: Guard | None = None
        if (listener := bind(self.setup.daemon)) is not None:
            self.listener = listener
            app = application(
                self.desk,
                listener.door,
                Tokens(read_token(self.setup.daemon.token_file)),
                self.changes,
                self.counters,
                self._stop_watching,
                now=self.world.clock.now,
                upload_bytes=lambda: self.setup.daemon.upload_bytes,
                not_ready=self.not_ready,
                pulse=lambda: (self.lag_s, self.started_at),
            )
        for delivery in self.deliveries.recover():
            known = delivery
            if delivery.stage == "taking":
                known = self.inbox.taken(delivery, self.deliveries, self.world.clock.now())
            if known.stage == "open":
                self.supervisor.add(known)
        self.ended.extend(self.deliveries.ended(LOADS_SHOWN))
        for delivery in reversed(self.deliveries.untold()):
            self.hooks.ended(delivery)
        return app

    async def _supervised(self, tasks: anyio.abc.TaskGroup) -> None:
        for delivery in tuple(self.ended)[:LOOKED_AT_AGAIN]:
            if delivery.load_id is not None:
                await self.records.source_moved(delivery.load_id, self.deliveries.path(delivery))
        await self.supervisor.run()
        self._no_more.set()
        if self.listener is not None:
            await self._http_over.wait()
        tasks.cancel_scope.cancel()

    async def _serve(self, app: Guard, listener: Listener) -> None:
        try:
            await serve_http(app, listener, self._no_more)
        finally:
            self._http_over.set()

    def not_ready(self) -> str:
        """Why no file would be loaded now; nothing when one would."""
        if self.stopping:
            return "stopping"
        if self.scanned_at is None or self.world.clock.now() - self.scanned_at > SCAN_LATE_S:
            return "the inbox cannot be looked into"
        return ""

    async def _take_in(self) -> None:
        """The inbox, again and again."""
        while not self.stopping:
            await self.look()
            await anyio.sleep(self.setup.daemon.scan_interval)

    async def look(self) -> None:
        """Look into the inbox once, and take what is whole."""
        try:
            async with self._taking:
                scan = await anyio.to_thread.run_sync(self.inbox.scan, self.world.clock.now())
                for ready in scan.ready:
                    if self.stopping:
                        break
                    take = partial(self.inbox.take, ready, self.deliveries, self.world.clock.now())
                    self.took(await anyio.to_thread.run_sync(take))
        except OSError as error:
            if self._unusable != error.strerror:
                log.error("inbox.unusable", why=error.strerror)
            self._unusable = error.strerror
            return
        self._unusable = None
        if scan != self.scan:
            self.changes.tell()
        self.scan, self.scanned_at = scan, self.world.clock.now()

    def took(self, delivery: Delivery | None) -> None:
        if delivery is not None and delivery.stage == "open":
            self.supervisor.add(delivery)
        if delivery is not None and delivery.stage == "failed":
            self._ended(delivery)
        self.changes.tell()

    def _ended(self, delivery: Delivery) -> None:
        self.ended.appendleft(delivery)
        self.counters.ended(delivery)
        self.hooks.ended(delivery)
        log.info("delivery.ended", delivery=delivery.id, stage=delivery.stage, exit_code=delivery.exit_code)

    async def _told(self, delivery: Delivery) -> None:
        """Its hooks need not be told again."""
        told = replace(delivery, to_tell=False)
        with suppress(OSError):  # it was removed meanwhile
            await anyio.to_thread.run_sync(self.deliveries.save, told)

    async def _find_the_stuck(self) -> None:
        """Loads that are not over and do not come forward."""
        while True:
            await anyio.sleep(min(STUCK_EVERY_S, self.setup.daemon.waiting_after / 10))
            supervisor = self.supervisor
            settled: dict[str, int] = {}
            for delivery in supervisor.open.values():
                run = supervisor.running.get(delivery.id)
                if not delivery.paused:
                    settled[delivery.id] = run.progress.rows_settled if run is not None and run.progress else 0
            self.hooks.stuck(supervisor.open, settled)

    async def _keep_house(self) -> None:
        """Remove what is older than `report.keep_days`: files that were loaded, reports, and loads."""
        while True:
            await self.tidy()
            await anyio.sleep(HOUSEKEEPING_S)

    async def tidy(self) -> None:
        now = self.world.clock.now()
        before = now - self.setup.main.report.keep_days * DAY_S

        def old() -> list[Delivery]:
            return list(self.deliveries.old(before, now - DAY_S))

        def forget() -> None:
            for delivery in deliveries:
                if delivery.stage != "uploaded" or self.deliveries.find_uploaded(delivery.id) is not None:
                    self.deliveries.forget(delivery)  # a load may have been made of an upload meanwhile

        try:
            deliveries = await anyio.to_thread.run_sync(old)
            failed = {one.load_id for one in deliveries if one.stage == "failed"}
            failed -= {one.load_id for one in self.supervisor.open.values()}
            loads = await self.records.prune(before, failed)  # first: after a crash its delivery still names it
            await anyio.to_thread.run_sync(forget)
        except (OrchestratorError, OSError) as error:
            log.warning("house.not_kept", why=error.message if isinstance(error, OrchestratorError) else error.strerror)
            return
        if deliveries or loads:
            log.info("house.kept", deliveries=len(deliveries), loads=len(loads))

    def _felt(self, late_s: float) -> None:
        """How late the event loop is; while it is not dead, systemd hears of it."""
        self.lag_s, now = late_s, anyio.current_time()
        if self._notifier.watchdog_s is not None and now >= self._alive_at + self._notifier.watchdog_s / 3:
            self._alive_at = now
            self._notifier.alive()


async def serve(service: Service, ready: Callable[[], None] = lambda: None) -> int:
    """Run the daemon under its signals."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # a lease that is broken while the inbox asks for one says so by it
    async with anyio.create_task_group() as tasks:
        await tasks.start(_signals, service)
        code = await service.run(ready)
        tasks.cancel_scope.cancel()
    return code


async def _signals(service: Service, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(*SIGNAL_CODES, signal.SIGHUP) as signals:
        task_status.started()
        async for received in signals:
            if received == signal.SIGHUP:
                service.reload()
            elif service.stopping:
                with suppress(OSError):
                    os.write(2, b"stopped at once\n")
                os._exit(SIGNAL_CODES[received])
            else:
                log.info("daemon.stopping", signal=signal.Signals(received).name)
                service.stop(SIGNAL_CODES[received])
