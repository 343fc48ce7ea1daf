"""Where do spool files lie, who may look into them, and when do they go?

In a folder beside the ledger, 0700, files 0600: they hold lead data. A file is locked (flock) by the process that makes
it, from before its first byte until its load is in the ledger; a lock dies with its process. So whatever is not locked
and is not the spool of an unfinished load is left over, and `sweep` removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import SpoolFailing, TooLargeUnpacked

PART = ".part"
SPILL = ".tmp"
"""Added to the name of a part: the folder that DuckDB spills to."""
BUFFER_BYTES = 1 << 20


def folder_of(ledger: Path) -> Path:
    """Where the spool files of a ledger's loads lie."""
    return ledger.with_name(ledger.name + ".spool")


class Spool:
    """One spool file while it is made: locked, under a name of its own, counted."""

    def __init__(self, folder: Path, *, bytes_max: int, name: str) -> None:
        self.size_bytes = 0
        self._bytes_max, self._name = bytes_max, name
        self._pieces: list[bytes] = []
        self._held = 0
        try:
            while True:
                self.path = folder / (secrets.token_hex(8) + PART)
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                if os.fstat(self._descriptor).st_nlink:  # nobody swept it before it was locked
                    break
                os.close(self._descriptor)
        except OSError as error:
            raise self._failing(error) from error

    def write(self, data: bytes) -> None:
        """Append. Raises TooLargeUnpacked, SpoolFailing."""
        self.size_bytes += len(data)
        self._check_size(self.size_bytes)
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, so that others can read it by the path."""
        data, self._pieces, self._held = memoryview(b"".join(self._pieces)), [], 0
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise self._failing(error) from error

    def written_by_others(self) -> None:
        """Somebody else wrote into the file by its path."""
        self.size_bytes = os.fstat(self._descriptor).st_size
        self._check_size(self.size_bytes)

    def keep(self, load_id: str) -> Path:
        """Durable, under the name of its load. It stays locked until `release`."""
        self.flush()
        kept = self.path.with_name(load_id)
        try:
            os.fsync(self._descriptor)
            self.path = self.path.rename(kept)
            folder = os.open(kept.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failing(error) from error
        return kept

    def release(self) -> None:
        """The end of this process's part: what was not kept is removed."""
        if self.path.name.endswith(PART):
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._bytes_max:
            raise TooLargeUnpacked(
                f"{self._name}: its rows have more than {self._bytes_max:,} bytes as text; nothing was sent",
                remedy="If it is really that large, raise limits.spool_bytes.",
            )

    def _failing(self, error: OSError) -> SpoolFailing:
        what = "no space left on the device" if error.errno == errno.ENOSPC else error.strerror
        return SpoolFailing(
            f"spool folder {self.path.parent}: {what}; nothing was sent",
            remedy="Make room there, or put the ledger elsewhere (state.ledger), and run the same command again.",
        )


def remove(path: Path) -> None:
    """The load of this spool file has ended. What cannot be removed now is swept later."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def sweep(folder: Path, is_wanted: Callable[[str], bool]) -> list[str]:
    """Remove what dead processes left; returns the names. is_wanted: is this the id of an unfinished load?"""
    removed: list[str] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.endswith(SPILL):
            if not path.with_name(path.name.removesuffix(SPILL)).exists():
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
        elif (path.name.endswith(PART) or not is_wanted(path.name)) and _removed(path, is_wanted):
            removed.append(path.name)
    return removed


def _removed(path: Path, is_wanted: Callable[[str], bool]) -> bool:
    """Remove a file that no process has locked, unless its load was written down meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.name.endswith(PART) and is_wanted(path.name):
            return False
        path.unlink(missing_ok=True)
    except OSError:
        return False  # somebody is making it
    finally:
        os.close(descriptor)
    return True
