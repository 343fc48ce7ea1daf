"""What does the ledger know? The daemon's own connection to it, behind one door.

Loads have connections of their own. Nothing here records a fact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from orchestrator import retrying
from orchestrator.adapters.ledger import Connect, Ledger, connect
from orchestrator.config import Config
from orchestrator.core.model import Load, LoadId, SourceFile
from orchestrator.errors import LoadBusy, LoadUnfinished, OrchestratorError, ReportFailing
from orchestrator.retention import purge

T = TypeVar("T")


class Records:
    """One ledger, asked one question at a time in a worker thread."""

    def __init__(self, config: Config, connect: Connect = connect) -> None:
        self.ledger = Ledger(config.ledger_path, connect=connect)
        self._door = anyio.CapacityLimiter(1)

    def close(self) -> None:
        self.ledger.close()

    async def ask(self, function: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._door)

    async def source_moved(self, load_id: str, path: Path) -> None:
        """The file of a finished load lies elsewhere now: `report` and `retry` find it there. Done when it can be."""

        def move() -> None:
            with suppress(OSError, OrchestratorError):
                load = self.ledger.load(load_id)
                if load is None:
                    return
                stat = path.stat()
                source, origin = load.source, load.origin
                if origin is None:
                    source = SourceFile(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
                elif load.retry is None and len(origin.originals) == 1:
                    original = replace(origin.originals[0], path=str(path))
                    origin = replace(origin, originals=(original,))
                self.ledger.move_source(load.id, source, origin, load.report_dir, load.collected_dir)

        await self.ask(move)

    async def prune(self, before: float, failed: Collection[str | None] = ()) -> list[LoadId]:
        """Remove loads that finished before that time, with their reports. One that cannot be removed is let be.

        failed: loads whose files could not be loaded and are removed now. They never finish: they go as well, when
        nobody has gone on with them since that time.
        """

        def is_old(load: Load) -> bool:
            if load.finished_at is not None:
                return load.finished_at < before
            run = self.ledger.run_of(load.id)
            return load.id in failed and (run.heard_at if run is not None else load.created_at) < before

        def old() -> list[Load]:
            return [load for load in self.ledger.loads() if is_old(load)]

        def remove(load: Load) -> None:
            purge(self.ledger, load, unfinished=True)
            retrying.forget(self.ledger, load)

        removed: list[LoadId] = []
        for load in await self.ask(old):
            with suppress(LoadBusy, LoadUnfinished, ReportFailing):
                await self.ask(remove, load)
                removed.append(load.id)
        return removed
