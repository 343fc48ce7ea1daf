"""How are the bytes of an original read, and what is it known by then?

Opened read-only; hashed while it is read; refused when it changed meanwhile. Standard input is read in turns, so that a
signal is heard while nothing comes.
"""

from __future__ import annotations

import hashlib
import os
import select
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.core.model import Original
from orchestrator.core.origins import STANDARD_INPUT, called
from orchestrator.errors import SourceChanged, SourceMissing

BLOCK_BYTES = 1 << 18
HEAD_BYTES = 64
TURN_S = 0.2
"""How long a wait for standard input may last before a signal is looked for."""

Interrupted = Callable[[], None]
"""Called between blocks; raises when the command is to stop."""


class Input:
    """One original, opened. Raises SourceMissing."""

    def __init__(self, path: str, interrupted: Interrupted) -> None:
        self.path, self.name = path, called(path)
        self._interrupted = interrupted
        self._digest, self._read_bytes = hashlib.sha256(), 0
        self._head = b""
        self._is_stream = path == STANDARD_INPUT
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.dup(0) if self._is_stream else os.open(path, flags)
            self._before = os.fstat(self._descriptor)
            trouble = self._trouble()
        except OSError as error:
            trouble = error.strerror or "cannot be read"
        if trouble:
            raise SourceMissing(f"{self.name}: {trouble}", remedy="Check the path and its permissions.")

    def _trouble(self) -> str:
        if self._is_stream:
            return "this is a terminal: pipe the rows into the command" if os.isatty(self._descriptor) else ""
        return "" if stat.S_ISREG(self._before.st_mode) else "this is not a regular file"

    @property
    def again(self) -> Path | None:
        """The very same file, to be opened by others; None for a stream."""
        return None if self._is_stream else Path(f"/dev/fd/{self._descriptor}")

    def peek(self) -> bytes:
        """The first bytes; they are read again by `blocks`."""
        while len(self._head) < HEAD_BYTES and (more := self._more()):
            self._head += more
        return self._head[:HEAD_BYTES]

    def blocks(self) -> Iterator[bytes]:
        """Everything, from the beginning."""
        head, self._head = self._head, b""
        if head:
            yield head
        while block := self._more():
            yield block

    def finish(self) -> Original:
        """What it is known by; what was not read yet is read now. Raises SourceChanged."""
        while self._more():
            pass
        after = os.fstat(self._descriptor)
        before = self._before
        if not self._is_stream and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise SourceChanged(
                f"{self.name}: it changed while it was read",
                remedy="Wait until it is written, then run the command again.",
            )
        mtime_ns = 0 if self._is_stream else before.st_mtime_ns
        return Original(self.path, self._read_bytes, mtime_ns, self._digest.hexdigest())

    def _more(self) -> bytes:
        self._interrupted()
        if self._is_stream:
            while not select.select([self._descriptor], [], [], TURN_S)[0]:
                self._interrupted()
        try:
            block = os.read(self._descriptor, BLOCK_BYTES)
        except OSError as error:
            raise SourceMissing(f"{self.name}: {error.strerror}", remedy="Check the disk or the pipe.") from error
        self._digest.update(block)
        self._read_bytes += len(block)
        return block

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
