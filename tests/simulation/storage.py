"""A disk that fails under SQLite, or loses its power.

SQLite's own code runs on file system layers of ours (APSW's VFS), so that what fails fails where a disk would: in the
middle of a transaction, in the journal, in the sync that was to make it durable. `Connection` is for the n-th write,
sync or truncation that fails, once or for good; `PowerCut` for a machine that forgets what was not synced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import apsw

FAILING, CACHED = "failing", "cached"


@dataclass
class Disk:
    """Counts what is written, and fails from its n-th operation on."""

    fail_at: int | None = None
    for_good: bool = False
    full: bool = False
    operations: int = 0
    failures: int = 0

    def operation(self) -> None:
        self.operations += 1
        if self.fail_at is None or self.operations < self.fail_at:
            return
        if self.operations == self.fail_at or self.for_good:
            self.failures += 1
            raise (apsw.FullError if self.full else apsw.IOError)("injected")


DISK = Disk()
"""The disk of the moment: one VFS serves all connections of a process."""


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: Any) -> None:
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 SQLite's name
        DISK.operation()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        DISK.operation()
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        DISK.operation()
        super().xTruncate(newsize)


class _Vfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(FAILING, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802
        return _File(name, flags)


_VFS = _Vfs()


class Connection:
    """The part of sqlite3's connection that the ledger uses, with its exceptions, over one of these disks."""

    VFS: ClassVar[str] = FAILING

    def __init__(self, path: Path) -> None:
        self._real = apsw.Connection(str(path), vfs=self.VFS)
        self._real.setbusytimeout(1000)

    def execute(self, sql: str, arguments: Iterable[Any] = ()) -> Any:
        try:
            cursor = self._real.cursor()
            cursor.execute(sql, tuple(arguments))
            return _Rows(cursor.fetchall())
        except apsw.Error as error:
            raise _as_sqlite3(error) from error

    def executemany(self, sql: str, rows: list[Any]) -> None:
        try:
            self._real.cursor().executemany(sql, rows)
        except apsw.Error as error:
            raise _as_sqlite3(error) from error

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction

    def close(self) -> None:
        self._real.close(True)


class _Rows:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchall(self) -> list[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None


def _as_sqlite3(error: apsw.Error) -> sqlite3.Error:
    """As the standard library's module says it."""
    match error:
        case apsw.ConstraintError():
            return sqlite3.IntegrityError(str(error))
        case apsw.FullError():
            return sqlite3.OperationalError("database or disk is full")
        case apsw.IOError():
            return sqlite3.OperationalError("disk I/O error")
        case apsw.BusyError() | apsw.LockedError():
            return sqlite3.OperationalError("database is locked")
        case apsw.CorruptError() | apsw.NotADBError():
            return sqlite3.DatabaseError("database disk image is malformed")
        case _:
            return sqlite3.OperationalError(str(error))


# --- power cuts -----------------------------------------------------------------------------------------

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""


@dataclass
class _Image:
    """One file: what is on the disk for certain, and what was written since the last sync."""

    durable: bytearray
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    """(offset, bytes) of a write, or the size of a truncation, in order."""
    created: bool = False
    """Made since the last sync of it: its name may be lost as well."""

    def synced(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()
        self.created = False


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del content[change:]
        return
    offset, data = change
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class Cache:
    """What a machine holds in memory of its disk: an arbitrary part of it is gone when the power is.

    Writes reach the file at once, where every process sees them, and the disk at the next sync; until then each may be
    on the disk, or not, or in part, whatever came before or after it.
    """

    def __init__(self, rng: Random, cuts_at: Iterable[int] = ()) -> None:
        """cuts_at: after how many operations the power goes, counted anew each time it has come back."""
        self._rng, self._cuts_at = rng, iter(cuts_at)
        self._cut_at = next(self._cuts_at, None)
        self._images: dict[str, _Image] = {}
        self.without_power = False
        self.operations = 0
        self.cuts = 0
        self.lost_writes = 0

    def image(self, path: str) -> _Image:
        if path not in self._images:
            there = Path(path)
            known = there.exists() and there.stat().st_size > 0
            self._images[path] = _Image(bytearray(there.read_bytes() if known else b""), created=not known)
        return self._images[path]

    def write(self, path: str, offset: int, data: bytes) -> bool:
        """Whether the file may be written to: a machine without power writes nothing."""
        if self._goes_on():
            self.image(path).pending.append((offset, data))
        return not self.without_power

    def truncate(self, path: str, size: int) -> bool:
        if self._goes_on():
            self.image(path).pending.append(size)
        return not self.without_power

    def sync(self, path: str) -> None:
        if self._goes_on():
            self.image(path).synced()

    def _goes_on(self) -> bool:
        self.operations += 1
        if self.operations == self._cut_at:
            self.without_power = True
        return not self.without_power

    def delete(self, path: str) -> bool:
        """Whether the file may be deleted; SQLite syncs the folder with it."""
        if self._goes_on():
            self._images.pop(path, None)
        return not self.without_power

    def cut(self) -> None:
        """The power is gone. `restore` says what the disk then holds."""
        self.without_power = True

    def restore(self) -> None:
        """Write what has survived into the files: the synced, and any part of the rest."""
        for path, image in self._images.items():
            self.lost_writes += len(image.pending)
            kept = bytearray(image.durable)
            for change in self._survivors(image.pending):
                _apply(kept, change)
            if image.created and self._rng.random() < 0.5:
                Path(path).unlink(missing_ok=True)
            else:
                Path(path).write_bytes(kept)
        self._images.clear()
        self.cuts += 1
        self.without_power, self.operations, self._cut_at = False, 0, next(self._cuts_at, None)

    def _survivors(self, pending: list[tuple[int, bytes] | int]) -> Iterator[tuple[int, bytes] | int]:
        share = self._rng.choice([0.0, 0.3, 0.7, 1.0])
        for change in pending:
            if isinstance(change, int):
                if self._rng.random() < share:
                    yield change
                continue
            offset, data = change
            for start in range(0, len(data), SECTOR_BYTES):
                if self._rng.random() < share:
                    yield offset + start, data[start : start + SECTOR_BYTES]


CACHE = Cache(Random(0))
"""The memory of the moment, as DISK is its disk."""


class _CachedFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: Any) -> None:
        super().__init__("", name, flags)
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        if CACHE.write(self._path, offset, bytes(data)):
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        if CACHE.truncate(self._path, newsize):
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        CACHE.sync(self._path)


class _CachedVfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(CACHED, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802
        return _CachedFile(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if CACHE.delete(filename):
            super().xDelete(filename, syncdir)


_CACHED_VFS = _CachedVfs()


class PowerCut(Connection):
    """A connection on a machine that loses its power when CACHE says so, and whenever the process ends, however."""

    VFS = CACHED

    @property
    def without_power(self) -> bool:
        """The process has gone with it: whatever it did since did not happen."""
        return CACHE.without_power

    def close(self) -> None:
        CACHE.cut()
        super().close()
        CACHE.restore()
