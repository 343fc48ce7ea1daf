"""Who owns a load? A lock of the operating system, which dies with its process, however it dies.

The file beside the ledger stays; only the lock on it counts. It holds the owner's process id, for messages.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from orchestrator.core.model import LoadId
from orchestrator.errors import LedgerUnusable

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
    folder = ledger.with_name(ledger.name + ".owners")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / load_id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerUnusable(
            f"{folder}: {error.strerror}",
            remedy="The folder of the ledger must be one that can be written to: set state.ledger.",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not _is_there(descriptor, folder / load_id):  # its load was removed at this very moment
        os.close(descriptor)
        return take(ledger, load_id)
    with suppress(OSError):  # for people; it is owned without it, on a full disk
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return Ownership(descriptor)


def forget(ledger: Path, load_id: LoadId) -> None:
    """Remove the lock's file of a load that is no more. Its owner alone may do that."""
    (ledger.with_name(ledger.name + ".owners") / load_id).unlink(missing_ok=True)


def _is_there(descriptor: int, path: Path) -> bool:
    """Is the file that was locked still the one that others would lock?"""
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except OSError:
        return False


def take_when_free(ledger: Path, load_id: LoadId) -> Ownership | None:
    """Become the owner of a load; another load's process that only looks after its batches is waited for."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(TRY_EVERY_S)
        if (ownership := take(ledger, load_id)) is not None:
            return ownership
    return None


def owner_of(ledger: Path, load_id: LoadId) -> int | None:
    """Process id of the living owner of a load; None when nobody owns it."""
    path = ledger.with_name(ledger.name + ".owners") / load_id
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
