"""How are the source's bytes read, and where are our own files put?

The source is opened read-only and never modified. What was hashed when it was planned is what is sent: whoever reads a
chunk hashes what is read, and hands out no complete one before the hash agrees, so that a body of wrong content is
never complete and cannot have been imported. Size, time and inode only say what has changed; the hashes decide.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from tempfile import SpooledTemporaryFile, gettempdir
from threading import Thread
from typing import Any, BinaryIO, Final, Self, cast

import aiofiles
import anyio.to_thread

from orchestrator.core.keys import ONE_HASH, TWO_HASHES, Keys
from orchestrator.core.model import Chunk, Fingerprint, Format, Header, OnDuplicate, Plan, SourceFile
from orchestrator.core.plan import Planner
from orchestrator.core.replay import Replay
from orchestrator.errors import SourceChanged, SourceMissing, SourceUnusable, SpoolFailing

BLOCKS_AHEAD: Final = 1
"""Blocks that are being hashed while rows are found in the next one."""

SPILLED_FROM_BYTES: Final = 1 << 17
"""Less is kept in memory instead of a file."""

NEAR_BYTES: Final = 1 << 14
"""So much between two ranges is read along, and thrown away: a call costs as much."""

BLOCK_BYTES = 1 << 20
"""Larger blocks fall out of the processor's cache, smaller ones cost calls: a plan is 40 % slower at 256 KB."""


def plan_file(
    path: Path,
    *,
    format: Format | None,
    budget: int,
    lookup_field: str | None,
    keep_rejected: int,
    name: str | None = None,
    on_duplicate: OnDuplicate = "ignore",
    spill_folder: Path | None = None,
) -> tuple[SourceFile, Plan]:
    """Read a source: what it is known by, and its chunks. Blocking; memory does not grow with the source.

    name: what people call it, when not by the file's own name. on_duplicate: what becomes of rows that share a key;
    such a source is read twice. spill_folder: for what does not fit in memory; None: the system's. Files in it have no
    name, and go with the plan.
    """
    called = name or path.name
    with _opened(path) as (file, before):
        plan = plan_blocks(
            lambda: _blocks(path, file, before.st_size),
            name=called,
            source_bytes=before.st_size,
            format=format,
            budget=budget,
            lookup_field=lookup_field,
            keep_rejected=keep_rejected,
            on_duplicate=on_duplicate,
            spill_folder=spill_folder,
        )
        _same(path, before, file)
    return SourceFile(str(path), before.st_size, before.st_mtime_ns, before.st_ino), plan


def plan_blocks(
    blocks: Callable[[], Iterable[bytes]],
    *,
    name: str,
    source_bytes: int,
    format: Format | None,
    budget: int,
    lookup_field: str | None,
    keep_rejected: int,
    on_duplicate: OnDuplicate = "ignore",
    spill_folder: Path | None = None,
) -> Plan:
    """The plan of a source that comes in blocks, each time anew. Hashes of it and of each chunk are made beside."""

    def new_file() -> BinaryIO:
        # No value of a row stands in it: hashes of keys, numbers of rows, offsets.
        return cast(BinaryIO, _Nameless(spill_folder))

    keys = None
    if on_duplicate != "ignore" and lookup_field is not None:
        keys = Keys(new_file, TWO_HASHES if on_duplicate == "last" else ONE_HASH)
    with _HashingThread() as hashing:
        options: dict[str, Any] = {
            "format": format,
            "name": name,
            "source_bytes": source_bytes,
            "budget": budget,
            "lookup_field": lookup_field,
            "keep_rejected": keep_rejected,
            "chunk_digest": hashing.sha256,
        }

        def fed(planner: Planner) -> Planner:
            for block in blocks():
                planner.feed(block)
                hashing.hand_over(ahead=BLOCKS_AHEAD)
            return planner

        try:
            replay = Replay(new_file()) if keys is not None else None
            planner = fed(Planner(**options, fingerprint=hashing.sha256(), keys=keys, replay=replay))
            rows, room = planner.end()
            if keys is None or replay is None or keys.all_different():
                return planner.finish()
            from orchestrator.core.apart import ApartPlanner  # numpy: not for a few rows
            from orchestrator.core.twins import Twins

            twins = Twins(keys, rows, room, on_duplicate)
            if not twins.rows and not keys.seen_twice:
                return planner.finish()
            return fed(ApartPlanner(twins, planner.fingerprint(), replay, new_file, **options)).finish()
        except SourceUnusable as error:
            if name in error.message:
                raise
            raise type(error)(f"{name}: {error.message}", remedy=error.remedy) from None


def fingerprint_file(path: Path) -> Fingerprint:
    """Size and SHA-256 of a source. Blocking."""
    digest, size = hashlib.sha256(), 0
    with _opened(path) as (file, before):
        for block in _blocks(path, file, before.st_size):
            digest.update(block)
            size += len(block)
        _same(path, before, file)
    return Fingerprint(size, digest.hexdigest())


def read_chunk(source: SourceFile, header: Header, chunk: Chunk) -> bytes:
    """What is sent of a chunk: the header, then its rows. Blocking. Raises SourceChanged and SourceMissing."""
    path = Path(source.path)
    pieces: list[bytes] = []
    with _opened(path) as (file, _), _readable(path):
        pieces += [_read(file.fileno(), ranges) for ranges in _blocks_of(header, chunk)]
    content = b"".join(pieces)
    if hashlib.sha256(content).hexdigest() != chunk.sha256:
        raise _changed(source, chunk)
    return content


class ChunkBytes:
    """The bytes of one chunk, as an async iterable that can be iterated again (after a renewed token, say).

    Raises SourceChanged before the last piece when they are not the bytes that were planned, and SourceMissing.
    """

    def __init__(self, source: SourceFile, header: Header, chunk: Chunk) -> None:
        self._source, self._header, self._chunk = source, header, chunk
        self.size_bytes = chunk.size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        digest, held, path = hashlib.sha256(), b"", Path(self._source.path)

        def read(descriptor: int, ranges: _Ranges) -> bytes:
            piece = _read(descriptor, ranges)
            digest.update(piece)
            return piece

        with _readable(path):
            async with aiofiles.open(path, "rb", opener=_open_regular) as file:
                for ranges in _blocks_of(self._header, self._chunk):
                    piece = await anyio.to_thread.run_sync(read, file.fileno(), ranges)
                    if held:
                        yield held
                    held = piece
        if digest.hexdigest() != self._chunk.sha256:
            raise _changed(self._source, self._chunk)
        yield held


_Ranges = list[tuple[int, int]]
"""Bytes [start, stop) of the source."""


def _blocks_of(header: Header, chunk: Chunk) -> Iterator[_Ranges]:
    """What a chunk is made of, about a block at a time: its rows may stand in thousands of places."""
    block: _Ranges = [(header.start, header.stop)]
    room = BLOCK_BYTES
    for span in chunk.spans:
        start = span.start
        while start < span.stop:
            stop = min(span.stop, start + room)
            block.append((start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield block
                block, room = [], BLOCK_BYTES
    if block:
        yield block


def _read(descriptor: int, ranges: _Ranges) -> bytes:
    """Their bytes, as far as they are there. What lies near is read in one go."""
    if len(ranges) == 1:
        return _read_range(descriptor, *ranges[0])
    pieces: list[memoryview] = []
    first = 0
    while first < len(ranges):
        begin, end = ranges[first]
        behind = first + 1
        while behind < len(ranges) and 0 <= ranges[behind][0] - end <= NEAR_BYTES:
            end = ranges[behind][1]
            behind += 1
        content = memoryview(_read_range(descriptor, begin, end))
        pieces += [content[start - begin : stop - begin] for start, stop in ranges[first:behind]]
        first = behind
    return b"".join(pieces)


def _read_range(descriptor: int, start: int, stop: int) -> bytes:
    content = os.pread(descriptor, stop - start, start)
    while 0 < len(content) < stop - start and (
        more := os.pread(descriptor, stop - start - len(content), start + len(content))
    ):
        content += more
    return content


def _changed(source: SourceFile, chunk: Chunk) -> SourceChanged:
    return SourceChanged(
        f"{source.path}: since it was planned, {_difference(source)}; chunk {chunk.number}, rows {chunk.first_row} to "
        f"{chunk.last_row}, was not sent",
        remedy="Put the planned file back to go on, or load the new one: that is another load.",
    )


def _difference(source: SourceFile) -> str:
    """What can be seen of a change from outside."""
    try:
        now = Path(source.path).stat()
    except OSError as error:
        return f"it cannot be read any more ({error.strerror})"
    seen = "its content changed, though its size and time did not"
    if now.st_ino != source.inode:
        seen = "another file was put in its place"
    elif now.st_mtime_ns != source.mtime_ns:
        seen = "it was written to"
    if now.st_size != source.size_bytes:
        seen += f" ({now.st_size:,} bytes instead of {source.size_bytes:,})"
    return seen


def private_folder(path: Path) -> None:
    """Make a folder (and its parents) that only its owner can look into."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    with _readable(path):
        descriptor = _open_regular(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file, os.fstat(descriptor)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever the system says against opening or reading the source is said of the source."""
    try:
        yield
    except OSError as error:
        raise SourceMissing(
            f"{path}: {error.strerror}",
            remedy="Check the path, its permissions and its disk, and run the command again.",
        ) from error


def _open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file. Raises OSError: a FIFO must not hang us, and a device has no end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is not a regular file")
    return descriptor


def _blocks(path: Path, file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """The first bytes of a file, so many at most: one that is still written to may never end."""
    file.seek(0)
    while size_bytes > 0:
        with _readable(path):
            block = file.read(min(BLOCK_BYTES, size_bytes))
        if not block:
            break
        size_bytes -= len(block)
        yield block


class _Nameless(SpooledTemporaryFile[bytes]):
    """A file without a name, in memory while it is small. It goes with its last reference. Raises SpoolFailing."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__(SPILLED_FROM_BYTES, dir=None if folder is None else str(folder))
        self._folder = folder or Path(gettempdir())

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            self.flush()  # else it would fail where it is read
        except OSError as error:
            raise SpoolFailing(
                f"folder {self._folder}: what does not fit in memory cannot be put there: {error.strerror}; "
                "nothing was sent",
                remedy="Make room there, or put the ledger elsewhere (state.ledger), and run the same command again.",
            ) from error
        return written

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()


_Work = tuple["hashlib._Hash", bytes | memoryview]


class _HashingThread:
    """Hashes one block while rows are found in the next: hashlib lets go of the interpreter's lock.

    What is to be hashed is gathered, and handed over block by block: the lock changes hands as rarely as can be.
    """

    def __init__(self) -> None:
        self._gathered: list[_Work] = []
        self._work: SimpleQueue[list[_Work] | None] = SimpleQueue()
        self._done: SimpleQueue[Exception | None] = SimpleQueue()
        self._under_way = 0
        self._thread = Thread(target=self._run, name="sha256", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._work.put(None)
        self._thread.join()

    def sha256(self) -> _LaterSha256:
        return _LaterSha256(self)

    def gather(self, digest: hashlib._Hash, data: bytes | memoryview) -> None:
        self._gathered.append((digest, data))

    def hand_over(self, *, ahead: int) -> None:
        """Have everything hashed that was gathered; returns when no more than so many such lots are not hashed yet."""
        self._work.put(self._gathered)
        self._gathered = []
        self._under_way += 1
        while self._under_way > ahead:
            failed = self._done.get()
            self._under_way -= 1
            if failed is not None:
                raise failed

    def _run(self) -> None:
        while (gathered := self._work.get()) is not None:
            try:
                for digest, data in gathered:
                    digest.update(data)
            except Exception as error:  # noqa: BLE001 whoever waits for the hash would wait for ever
                self._done.put(error)
            else:
                self._done.put(None)
            del gathered  # the block is free while the next one is waited for


class _LaterSha256:
    """A hash whose bytes are still on their way to it."""

    def __init__(self, thread: _HashingThread) -> None:
        self._thread, self._digest = thread, hashlib.sha256()

    def update(self, data: bytes | memoryview, /) -> None:
        self._thread.gather(self._digest, data)

    def hexdigest(self) -> str:
        self._thread.hand_over(ahead=0)
        return self._digest.hexdigest()


def _same(path: Path, before: os.stat_result, file: BinaryIO) -> None:
    """The file is what it was when it was opened, and it is still what stands at its path.

    Its status time counts as well: the system alone sets it, where the time of writing can be set back by anyone.
    """
    after, there = os.fstat(file.fileno()), None
    with suppress(OSError):
        there = path.stat()
    written = [(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns) for seen in (before, after)]
    if written[0] != written[1] or there is None or (there.st_dev, there.st_ino) != (before.st_dev, before.st_ino):
        raise SourceChanged(
            f"{path}: it changed while it was read", remedy="Wait until it is written, then run the command again."
        )
