"""Who owns a load, and who writes its report? A lock of the operating system, which dies with its process.

The file beside the ledger stays; only the lock on it counts. It holds the owner's process id, for messages.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.core.model import LoadId
from orchestrator.errors import LedgerUnusable, LoadBusy

TRIES, TRY_EVERY_S = 6, 0.5
"""Who looks after another load's batches gives them back after each question."""


class Ownership:
    """Held from `take` to `release`, or to the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


def take(ledger: Path, load_id: LoadId) -> Ownership | None:
    """Become the owner of a load; None when a living process owns it, or looks who does. Raises LedgerUnusable."""
    path = _path(ledger, load_id)
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not _is_there(descriptor, path):  # its load was removed at this very moment
        os.close(descriptor)
        return take(ledger, load_id)
    with suppress(OSError):  # for people; it is owned without it, on a full disk
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return Ownership(descriptor)


@contextmanager
def reporting(ledger: Path, load_id: LoadId) -> Iterator[None]:
    """One report of a load is written (or removed) at a time: whoever else wants to waits. Raises LedgerUnusable.

    What the ledger says of the load must be read inside, or an older report could be written over a newer one.
    """
    path = _path(ledger, f"{load_id}.report")
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_there(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def forget(ledger: Path, load_id: LoadId) -> None:
    """Remove the locks' files of a load that is no more. Whoever holds both alone may do that."""
    for name in (load_id, f"{load_id}.report"):
        _path(ledger, name).unlink(missing_ok=True)


def _path(ledger: Path, name: str) -> Path:
    ledger = Path(os.path.realpath(ledger))  # by whichever link it was reached: two names are not two owners
    return ledger.with_name(ledger.name + ".owners") / name


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerUnusable(
            f"{path.parent}: {error.strerror}",
            remedy="The folder of the ledger must be one that can be written to: set state.ledger.",
        ) from error


def _is_there(descriptor: int, path: Path) -> bool:
    """Is the file that was locked still the one that others would lock?"""
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except OSError:
        return False


def take_when_free(ledger: Path, load_id: LoadId, remedy: str) -> Ownership:
    """Become the owner of a load; another load's process that only looks after its batches is waited for. Raises
    LoadBusy with this remedy, LedgerUnusable."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(TRY_EVERY_S)
        if (ownership := take(ledger, load_id)) is not None:
            return ownership
    raise LoadBusy(load_id, owner_of(ledger, load_id), remedy=remedy)


def owner_of(ledger: Path, load_id: LoadId) -> int | None:
    """Process id of the living owner of a load; None when nobody owns it."""
    path = _path(ledger, load_id)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # nobody ever owned it, or we may not look
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 20, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(descriptor)
    return None
