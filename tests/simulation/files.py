"""The file system under reports and result files: it fails, it is where processes die, and it forgets at a power cut.

Python's own calls are counted (open for writing, write, fsync, rename); each is a point at which the process may die.
What was written and not synced goes with the power, from somewhere on; a rename does, until its folder was synced.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import aiofiles.threadpool

WRITES = os.O_WRONLY | os.O_RDWR


@dataclass
class Files:
    """What happens to files below `root`."""

    root: Path
    point: Callable[[str], None] = lambda _: None
    fail_at: int | None = None
    """The n-th operation fails."""
    for_good: bool = False
    full: bool = False
    operations: int = 0
    failures: int = 0
    lost: int = 0
    """What power cuts have taken: contents and renames."""
    _unsynced: set[Path] = field(default_factory=set)
    _renamed: dict[Path, tuple[Path, bytes | None]] = field(default_factory=dict)
    """New name -> the old one, and what the new one named before."""

    def operation(self, what: str) -> None:
        self.point(what)
        self.operations += 1
        if self.fail_at is not None and (
            self.operations == self.fail_at or (self.for_good and self.operations > self.fail_at)
        ):
            self.failures += 1
            code = errno.ENOSPC if self.full else errno.EIO
            raise OSError(code, os.strerror(code))

    def ours(self, path: object) -> bool:
        return isinstance(path, str | Path) and self.root in Path(path).parents

    def cut(self, rng: Random) -> None:
        """The power goes: what was not synced may be lost."""
        for path in sorted(self._unsynced):
            if path.exists() and rng.random() < 0.5:
                os.truncate(path, rng.randrange(path.stat().st_size + 1))
                self.lost += 1
        for new, (old, before) in sorted(self._renamed.items()):
            if new.exists() and rng.random() < 0.5:
                os.rename(new, old)  # noqa: PTH104 Path's own is the one we watch
                if before is not None:
                    new.write_bytes(before)
                self.lost += 1
        self._unsynced.clear()
        self._renamed.clear()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Every call of Python's that changes files goes through here."""
        with ExitStack() as patches:
            for owner, name, call in (
                (os, "open", self._open),
                (os, "fsync", self._fsync),
                (os, "fdopen", self._fdopen),
                (Path, "replace", self._replace),
                (aiofiles.threadpool, "sync_open", self._sync_open),
            ):
                patches.enter_context(patch.object(owner, name, call(getattr(owner, name))))
            yield

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def open(path: Any, flags: int, *others: Any, **named: Any) -> int:
            if flags & WRITES and self.ours(path):
                self.operation("before a file is opened")
                self._unsynced.add(Path(path))
            return real(path, flags, *others, **named)

        return open

    def _fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
            if self.ours(path):
                self.operation("before a sync")
                self._unsynced.discard(path)
                for new in [new for new in self._renamed if new.parent == path]:
                    del self._renamed[new]
            real(descriptor)

        return fsync

    def _replace(self, real: Callable[[Path, Any], Path]) -> Callable[[Path, Any], Path]:
        def replace(old: Path, new: Any) -> Path:
            there = Path(new)
            if self.ours(there):
                self.operation("before a rename")
                self._renamed[there] = (old, there.read_bytes() if there.exists() else None)
                if old in self._unsynced:
                    self._unsynced.remove(old)
                    self._unsynced.add(there)
            done = real(old, new)
            if self.ours(there):
                self.point("after a rename")
            return done

        return replace

    def _fdopen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def fdopen(descriptor: int, mode: str = "r", *others: Any, **named: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
            if "w" not in mode or not self.ours(path):
                return real(descriptor, mode, *others, **named)
            buffer = io.BufferedWriter(_Raw(self, descriptor))
            if "b" in mode:
                return buffer
            named.pop("buffering", None)
            return io.TextIOWrapper(buffer, **named)

        return fdopen

    def _sync_open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def sync_open(path: Any, mode: str = "r", *others: Any, **named: Any) -> Any:
            if "w" not in mode or not self.ours(path):
                return real(path, mode, *others, **named)
            opener = named["opener"]
            return io.BufferedWriter(_Raw(self, opener(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)))

        return sync_open


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, files: Files, descriptor: int) -> None:
        super().__init__(descriptor, "w")
        self._files = files

    def write(self, data: Any) -> int:
        self._files.operation("before a write")
        return super().write(data)
