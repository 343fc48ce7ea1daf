"""What can people ask of the daemon, over HTTP?

Every request names a load or an upload by an id that we gave it, or a file of the inbox by its name there; no path from
a request is ever opened. What cannot be done is said as NotThere or NotPossible, in words for whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread

from orchestrator.adapters import locks
from orchestrator.core.lifecycle import HOLDS_SLOT
from orchestrator.core.model import Load, LoadId, Priority, Standing
from orchestrator.daemon.deliveries import Deliveries, Delivery
from orchestrator.daemon.inbox import Inbox, Scan
from orchestrator.daemon.overview import REPORT_NAMES, Inside, LoadView, Overview, look, view_of, view_of_open
from orchestrator.daemon.records import Records
from orchestrator.daemon.settings import settings_of
from orchestrator.daemon.setup import Setup
from orchestrator.daemon.supervisor import Supervisor

FRESH_S = 0.5
"""How old the picture of everything may be that several people look at."""
CHUNKS_MAX = 1_000


class NotThere(Exception):
    """No such load, upload, file or report."""


class NotPossible(Exception):
    """It is there, and that cannot be done with it now."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What cancelling came to."""

    in_marketo: int
    """Batches that Marketo has of it: they go on, and are followed to their end."""


class Desk:
    """What the HTTP server may do. `ended`: the deliveries that ended last, the newest first."""

    def __init__(
        self,
        deliveries: Deliveries,
        inbox: Inbox,
        supervisor: Supervisor,
        records: Records,
        setup: Callable[[], Setup],
        now: Callable[[], float],
        scan: Callable[[], Scan],
        took: Callable[[Delivery | None], None],
        ended: Callable[[], tuple[Delivery, ...]],
    ) -> None:
        self._deliveries, self._inbox, self._supervisor, self._records = deliveries, inbox, supervisor, records
        self._setup, self._now, self._scan, self._took, self._ended = setup, now, scan, took, ended
        self._looking, self._making = anyio.Lock(), anyio.Lock()
        self._seen: Overview | None = None

    # --- looking ----------------------------------------------------------------------------------------

    async def overview(self) -> Overview:
        """How everything stands; a moment old at most."""
        async with self._looking:
            now = self._now()
            if self._seen is None or not 0 <= now - self._seen.at < FRESH_S:
                self._seen = await self._records.ask(look, self._records.ledger, self._setup(), self._inside(now))
            return self._seen

    def _inside(self, now: float) -> Inside:
        scan, supervisor = self._scan(), self._supervisor
        return Inside(
            now=now,
            open=tuple(supervisor.open.values()),
            running={one: run.progress for one, run in supervisor.running.items()},
            ended=self._ended(),
            calls_left=dict(supervisor.calls_left),
            waiting=scan.waiting,
            not_taken=scan.not_taken,
        )

    async def load(self, id: str) -> LoadView:
        """One load as it is now, by its own id or its delivery's. Raises NotThere."""
        ledger = self._records.ledger
        for one in self._supervisor.open.values():
            if id in (one.id, one.load_id):
                run = self._supervisor.running.get(one.id)
                progress = run.progress if run is not None else None
                return await self._records.ask(view_of_open, ledger, self._setup(), one, run is not None, progress)
        for view in (await self.overview()).loads:
            if id in (view.id, view.load_id) and view.ended_at is not None:
                return view
        delivery = await anyio.to_thread.run_sync(self._deliveries.find_ended, id)
        known = await self._records.ask(self._exact, id)
        if delivery is None and known is None:
            raise NotThere(f"there is no load {id}")
        return await self._records.ask(view_of, ledger, self._setup(), delivery, known)

    def _exact(self, load_id: str | None) -> Load | None:
        """A load by its whole id."""
        found = self._records.ledger.load(load_id) if load_id else None
        return found if found is not None and found.id == load_id else None

    async def chunks(self, id: str, after: int, most: int) -> list[Standing]:
        """Where the chunks behind one stand. Raises NotThere."""
        view = await self.load(id)
        if view.load_id is None:
            return []
        count = max(1, min(most, CHUNKS_MAX))
        return await self._records.ask(self._records.ledger.standings_after, LoadId(view.load_id), after, count)

    async def report(self, id: str, name: str) -> Path:
        """A file of its report. Raises NotThere."""
        view = await self.load(id)
        if name not in REPORT_NAMES or view.report_dir is None:
            raise NotThere(f"load {id} has no such report")
        path = Path(view.report_dir) / name
        if not await anyio.to_thread.run_sync(lambda: path.is_file() and not path.is_symlink()):
            raise NotThere(f"the report of load {id} is not written yet, or was removed")
        return path

    # --- making loads -----------------------------------------------------------------------------------

    async def begin_upload(self, name: str) -> tuple[Delivery, Path]:
        """Where an upload is to be written to; `Delivery.file` beside it, once it is whole."""
        delivery = await anyio.to_thread.run_sync(self._deliveries.begin, name, self._now(), "uploaded")
        return delivery, self._deliveries.path(delivery)

    async def forget_upload(self, delivery: Delivery) -> None:
        """It was not brought to its end."""
        await anyio.to_thread.run_sync(self._deliveries.forget, delivery)

    async def create(
        self, *, upload: str | None = None, inbox: str | None = None, settings: Mapping[str, Any]
    ) -> Delivery:
        """A load of an upload, or of a file of the inbox. Raises NotThere, NotPossible, Misconfigured."""
        self._setup().check(settings_of(settings, where="settings"))
        if upload is not None:
            async with self._making:  # of two who ask for the same one, the second comes too late
                delivery = await anyio.to_thread.run_sync(self._deliveries.find_uploaded, upload)
                if delivery is None:
                    raise NotThere(f"there is no upload {upload}")
                delivery = replace(delivery, stage="open", settings=dict(settings))
                await anyio.to_thread.run_sync(self._deliveries.save, delivery)
                self._took(delivery)
                return delivery
        folder, _, name = (inbox or "").rpartition("/")
        ready = await anyio.to_thread.run_sync(self._inbox.find, folder, name)
        if ready is None:
            raise NotThere("the inbox has no such file that may be taken")
        ready = replace(ready, settings={**ready.settings, **settings})
        self._setup().check(settings_of(ready.settings, where="settings"))
        take = partial(self._inbox.take, ready, self._deliveries, self._now())
        delivery = await anyio.to_thread.run_sync(take)
        if delivery is None:
            raise NotThere("the file is gone")
        self._took(delivery)
        return delivery

    # --- changing loads ---------------------------------------------------------------------------------

    async def pause(self, id: str) -> None:
        """Raises NotThere, NotPossible."""
        await self._supervisor.pause((await self._own(id)).id)

    async def resume(self, id: str, on_doubt: Literal["resend", "stop"] | None) -> None:
        """Also a load that was begun elsewhere and is run by nobody. Raises NotThere, NotPossible."""
        async with self._making:  # of two who ask for the same one, the second finds the delivery of the first
            view = await self.load(id)
            if view.phase == "interrupted" and view.load_id is not None:
                await self._adopt(view, on_doubt)
                return
        await self._supervisor.resume((await self._own(id)).id, on_doubt)

    async def cancel(self, id: str) -> Cancelled:
        """Raises NotThere, NotPossible."""
        delivery = await self._own(id)
        await self._supervisor.cancel(delivery.id)
        held = 0  # counted afterwards: an upload may have begun just before
        if delivery.load_id is not None:
            by_state = await self._records.ask(self._records.ledger.chunks_by_state, LoadId(delivery.load_id))
            held = sum(count for state, count in by_state.items() if state in HOLDS_SLOT)
        return Cancelled(held)

    async def prioritise(self, id: str, priority: Priority) -> None:
        """Raises NotThere, NotPossible."""
        view = await self.load(id)
        if view.delivery_id is None and view.load_id is not None and view.ended_at is None:
            await self._records.ask(self._records.ledger.set_priority, LoadId(view.load_id), priority)
            return
        await self._supervisor.prioritise((await self._own(id)).id, priority)

    async def _own(self, id: str) -> Delivery:
        """The delivery of a load that is not over. Raises NotThere, NotPossible."""
        for delivery in self._supervisor.open.values():
            if id in (delivery.id, delivery.load_id):
                return delivery
        view = await self.load(id)
        if view.ended_at is not None:
            raise NotPossible(f"load {id} is over")
        if view.load_id is not None:
            pid = await anyio.to_thread.run_sync(locks.owner_of, self._records.ledger.path, LoadId(view.load_id))
            by = f"process {pid} runs it" if pid is not None else "nobody runs it"
            raise NotPossible(f"load {id} was not begun by this daemon: {by}")
        raise NotPossible(f"load {id} is not one that this daemon runs")

    async def _adopt(self, view: LoadView, on_doubt: Literal["resend", "stop"] | None) -> None:
        """A delivery without a file, of a load that the ledger knows."""
        known = await self._records.ask(self._exact, view.load_id)
        if known is None:
            raise NotThere(f"there is no load {view.load_id}")
        # It may have been begun with "stop": then a person decides.
        settings: dict[str, Any] = {"priority": view.priority, "on_doubt": on_doubt or known.on_doubt}
        if view.subscription in self._setup().by_name:
            settings["subscription"] = view.subscription
        self._setup().check(settings_of(settings, where="settings"))
        begin = partial(self._deliveries.begin, view.name, self._now(), "open", load_id=view.load_id, settings=settings)
        self._took(await anyio.to_thread.run_sync(begin))
