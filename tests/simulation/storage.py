"""A disk that fails under SQLite: the n-th write, sync or truncation, once or for good.

SQLite's own code runs on a file system layer of ours (APSW's VFS), so that what fails fails where a disk would: in the
middle of a transaction, in the journal, in the sync that was to make it durable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

NAME = "failing"


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
        super().__init__(NAME, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802
        return _File(name, flags)


_VFS = _Vfs()


class Connection:
    """The part of sqlite3's connection that the ledger uses, with its exceptions, over the failing disk."""

    def __init__(self, path: Path) -> None:
        self._real = apsw.Connection(str(path), vfs=NAME)
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
