"""How are the source's bytes read, and where are our own files put?

The source is opened read-only and never modified. What was hashed when it was planned is what is sent: `ChunkBytes`
hashes while it reads and withholds the last piece until the hash agrees, so that a body of wrong content is never
complete, and cannot have been imported.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import aiofiles

from orchestrator.core.model import Chunk, Fingerprint, Format, Header, Plan, SourceFile, Span
from orchestrator.core.plan import Planner
from orchestrator.errors import SourceChanged, SourceMissing, SourceUnusable

BLOCK_BYTES = 1 << 20
"""Larger blocks fall out of the processor's cache, smaller ones cost calls (a third slower at 256 KB)."""


def plan_file(
    path: Path,
    *,
    format: Format | None,
    budget: int,
    lookup_field: str | None,
    keep_rejected: int,
    name: str | None = None,
) -> tuple[SourceFile, Plan]:
    """Read a source once: what it is known by, and its chunks. Blocking; memory does not grow with the source.

    name: what people call it, when not by the file's own name.
    """
    called = name or path.name
    with _opened(path) as (file, before):
        planner = Planner(
            format=format,
            name=called,
            source_bytes=before.st_size,
            budget=budget,
            lookup_field=lookup_field,
            keep_rejected=keep_rejected,
        )
        try:
            for block in _blocks(file, before.st_size):
                planner.feed(block)
            plan = planner.finish()
        except SourceUnusable as error:
            if called in error.message:
                raise
            raise type(error)(f"{called}: {error.message}", remedy=error.remedy) from None
        _same(path, before, os.fstat(file.fileno()))
    return SourceFile(str(path), before.st_size, before.st_mtime_ns, before.st_ino), plan


def fingerprint_file(path: Path) -> Fingerprint:
    """Size and SHA-256 of a source. Blocking."""
    digest, size = hashlib.sha256(), 0
    with _opened(path) as (file, before):
        for block in _blocks(file, before.st_size):
            digest.update(block)
            size += len(block)
        _same(path, before, os.fstat(file.fileno()))
    return Fingerprint(size, digest.hexdigest())


def read_spans(path: Path, header: Header, spans: tuple[Span, ...]) -> bytes:
    """What is sent of these spans: the header, then their bytes. Blocking."""
    with _opened(path) as (file, _):
        file.seek(header.start)
        pieces = [file.read(header.stop - header.start)]
        for span in spans:
            file.seek(span.start)
            pieces.append(file.read(span.stop - span.start))
    return b"".join(pieces)


class ChunkBytes:
    """The bytes of one chunk, as an async iterable that can be iterated again (after a renewed token, say).

    Raises SourceChanged before the last piece when they are not the bytes that were planned, and SourceMissing.
    """

    def __init__(self, path: Path, header: Header, chunk: Chunk) -> None:
        self._path, self._header, self._chunk = path, header, chunk
        self.size_bytes = chunk.size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        digest, held = hashlib.sha256(), b""
        try:
            async with aiofiles.open(self._path, "rb", opener=_open_regular) as file:
                for start, stop in self._ranges():
                    await file.seek(start)
                    while start < stop:
                        piece = await file.read(min(BLOCK_BYTES, stop - start))
                        if not piece:
                            raise self._changed("it is shorter now")
                        start += len(piece)
                        digest.update(piece)
                        if held:
                            yield held
                        held = piece
        except OSError as error:
            raise SourceMissing(
                f"{self._path}: {error.strerror}", remedy="Put the source back, then run the same command again."
            ) from error
        if digest.hexdigest() != self._chunk.sha256:
            raise self._changed("its content is not what was planned")
        yield held

    def _ranges(self) -> Iterator[tuple[int, int]]:
        yield self._header.start, self._header.stop
        for span in self._chunk.spans:
            yield span.start, span.stop

    def _changed(self, what: str) -> SourceChanged:
        first, last = self._chunk.first_row, self._chunk.last_row
        return SourceChanged(
            f"{self._path}: {what} (chunk {self._chunk.number}, rows {first} to {last}); the chunk was not sent",
            remedy="Put the planned file back to go on, or load the new one: that is another load.",
        )


def private_folder(path: Path) -> None:
    """Make a folder (and its parents) that only its owner can look into."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    try:
        descriptor = _open_regular(path)
    except OSError as error:
        raise SourceMissing(f"{path}: {error.strerror}", remedy="Check the path and its permissions.") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file, os.fstat(descriptor)


def _open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file. Raises OSError: a FIFO must not hang us, and a device has no end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is not a regular file")
    return descriptor


def _blocks(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """The first bytes of a file, so many at most: one that is still written to may never end."""
    while size_bytes > 0 and (block := file.read(min(BLOCK_BYTES, size_bytes))):
        size_bytes -= len(block)
        yield block


def _same(path: Path, before: os.stat_result, after: os.stat_result) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise SourceChanged(
            f"{path}: it changed while it was read", remedy="Wait until it is written, then run the command again."
        )
