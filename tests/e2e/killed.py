"""The command line, in a process that kills itself (SIGKILL) the N-th time it comes to a named point.

    python tests/e2e/killed.py POINT N ARGUMENT...

Nothing of it is shipped: the points are set from outside, round calls that the product makes.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from orchestrator.adapters.ledger import BUSY_TIMEOUT_S
from orchestrator.adapters.marketo import Marketo
from orchestrator.cli.main import main

POINTS = (
    "before a commit",
    "after a commit",
    "before an upload",
    "in the body of an upload",
    "after the answer to an upload",
    "before a file gets its name",
    "after a file got its name",
    "before a file is on disk",
)


class _Killer:
    def __init__(self, point: str, times: int) -> None:
        self._point, self._left = point, times

    def at(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def killed_at(point: str, times: int) -> Iterator[None]:
    """Everything inside dies when it comes to `point` for the `times`-th time."""
    killer = _Killer(point, times)
    create, counted, renamed, synced = Marketo.create, Marketo._count_sent, Path.replace, os.fsync

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                killer.at("before a commit")
            cursor = super().execute(sql, *arguments)
            if sql == "COMMIT":
                killer.at("after a commit")
            return cursor

    def connected(path: Path, **options: Any) -> sqlite3.Connection:
        return Connection(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)

    async def created(self: Marketo, *arguments: Any) -> Any:
        killer.at("before an upload")
        outcome = await create(self, *arguments)
        killer.at("after the answer to an upload")
        return outcome

    def count_sent(self: Marketo, size: int) -> None:
        killer.at("in the body of an upload")
        counted(self, size)

    def replaced(self: Path, target: Any) -> Path:
        killer.at("before a file gets its name")
        at = renamed(self, target)
        killer.at("after a file got its name")
        return at

    def sync(descriptor: Any) -> None:
        killer.at("before a file is on disk")
        synced(descriptor)

    patches: list[tuple[Any, str, Callable[..., Any]]] = [
        (sqlite3, "connect", connected),
        (Marketo, "create", created),
        (Marketo, "_count_sent", count_sent),
        (Path, "replace", replaced),
        (os, "fsync", sync),
    ]
    for thing, name, instead in patches:
        patch.object(thing, name, instead).start()
    try:
        yield
    finally:
        patch.stopall()


if __name__ == "__main__":
    with killed_at(sys.argv[1], int(sys.argv[2])):
        sys.exit(main(sys.argv[3:]))
