"""Which files of the inbox may be taken, and how is one taken?

The inbox and the folders in it (one level) belong to strangers: names, links, pipes and vanishing files are as they may
be. Everything is done by descriptors of the folders, nothing follows a link, and what is not a regular file with one
name is never taken. A file is taken when it is whole, which is known by one of:

- a file `NAME.ready` beside it;
- that it was not changed for `quiet_period`, and no process of this machine has it open for writing (where the system
  tells: by a lease, on a file of our own user or with CAP_LEASE).

So a file should be written elsewhere on the same disk, or under a name that begins with a dot or ends with `.part`, and
be renamed. After it was moved it is looked at again: one that did change waits, and so does one that is open
for writing (`is_written`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from orchestrator.daemon.deliveries import Deliveries, Delivery, made_folder, printable, sync_folder
from orchestrator.daemon.settings import (
    FOLDER_FILE,
    SETTINGS_BYTES_MAX,
    SUFFIX,
    LoadSettings,
    read_settings,
    settings_of,
)
from orchestrator.errors import Misconfigured

log = structlog.get_logger()

MARK = ".ready"
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart", "~")
"""Endings under which programs write what they rename later."""
HOLDS = (errno.EACCES, errno.EPERM, errno.EXDEV)
"""Its folder lets nobody else move files, or is on another disk: no reason to leave the others where they are."""
ENTRIES_MAX = 10_000
"""Of one folder, looked at in one scan."""

Seen = tuple[int, int, int, int]
"""Device, inode, size, time of writing in ns."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A file that may be taken, as it was looked at."""

    folder: str
    name: str
    seen: Seen
    settings: dict[str, Any]
    settings_inode: int | None


@dataclass(frozen=True, slots=True)
class NotTaken:
    """What lies in the inbox and stays there, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Scan:
    """The inbox at one moment. waiting: files that may still be written to."""

    ready: tuple[Ready, ...] = ()
    waiting: tuple[str, ...] = ()
    not_taken: tuple[NotTaken, ...] = ()


class Inbox:
    """The inbox. Blocking: call it in a worker thread, one call at a time.

    check: raises Misconfigured when the daemon cannot load a file with such settings.
    """

    def __init__(self, path: Path, quiet_s: float, check: Callable[[LoadSettings], None]) -> None:
        self.path, self.quiet_s, self._check = path.resolve(), quiet_s, check
        self._since: dict[tuple[str, str], tuple[Seen, float]] = {}
        """When each file was first seen as it is, by the clock given to `scan`."""
        self._held: dict[tuple[str, str], str] = {}
        """Why a file could not be moved the last time. (It is tried again.)"""
        self._said: set[NotTaken] = set()

    def prepare(self, deliveries: Deliveries) -> None:
        """Make it, and see that files can be moved out of it. Raises Misconfigured."""
        made_folder("daemon.inbox", self.path, os.R_OK | os.X_OK)
        devices = {path.stat().st_dev for path in (self.path, deliveries.work, deliveries.done, deliveries.failed)}
        if len(devices) > 1:
            raise Misconfigured(
                f"daemon.inbox = {self.path}: it is on another disk than daemon.work, daemon.done or daemon.failed",
                remedy="Put all four on one file system: files are moved by renaming them.",
            )

    def scan(self, now: float) -> Scan:
        """Look at everything once. now: wall time, seconds."""
        ready: list[Ready] = []
        waiting: list[str] = []
        not_taken: list[NotTaken] = []
        there: set[tuple[str, str]] = set()
        for folder in self._folders():
            try:
                with self._opened(folder) as descriptor:
                    for found in self._look(descriptor, folder, now, there):
                        match found:
                            case Ready():
                                ready.append(found)
                                if why := self._held.get((found.folder, found.name)):
                                    shown = printable(f"{folder}/{found.name}" if folder else found.name)
                                    not_taken.append(NotTaken(shown, f"it cannot be moved away: {why}"))
                            case NotTaken():
                                not_taken.append(found)
                            case _:
                                waiting.append(found)
            except OSError as error:
                not_taken.append(NotTaken(printable(folder) or ".", f"cannot be looked into: {error.strerror}"))
        self._since = {key: value for key, value in self._since.items() if key in there}
        self._held = {key: why for key, why in self._held.copy().items() if key in there}
        for one in not_taken:
            if one not in self._said:
                log.warning("file.not_taken", name=one.name, why=one.why)
        self._said = set(not_taken)
        return Scan(tuple(ready), tuple(waiting), tuple(not_taken))

    def find(self, folder: str, name: str) -> Ready | None:
        """A file that somebody who may says is whole. None when no such file may be taken. Raises Misconfigured."""
        if folder not in self._folders():
            return None
        with suppress(OSError), self._opened(folder) as descriptor:
            if name in _names(descriptor) and not _is_ours(name):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if _unfit(status) is None:
                    return self._ready(descriptor, folder, name, status)
        return None

    def take(self, ready: Ready, deliveries: Deliveries, now: float) -> Delivery | None:
        """Move a file into a delivery. None when it is gone, or no longer what was looked at."""
        with self._opened(ready.folder) as descriptor:
            delivery = deliveries.begin(
                ready.name,
                now,
                "taking",
                raw_name=ready.name,
                folder=ready.folder,
                settings=ready.settings,
                settings_inode=ready.settings_inode,
            )
            target = deliveries.path(delivery)
            try:
                os.rename(ready.name, target, src_dir_fd=descriptor)
            except OSError as error:
                deliveries.forget(delivery)
                if error.errno not in (errno.ENOENT, *HOLDS):
                    raise
                if error.errno in HOLDS:
                    self._held[ready.folder, ready.name] = str(error.strerror)
                return None
            self._held.pop((ready.folder, ready.name), None)
            sync_folder(target.parent)
        log.info("file.taken", name=delivery.name, delivery=delivery.id)
        return self.taken(delivery, deliveries, now, ready.seen)

    def taken(self, delivery: Delivery, deliveries: Deliveries, now: float, seen: Seen | None = None) -> Delivery:
        """The file is in its delivery: what lay beside it follows, and it is looked at again.

        Also what is left to be done of one that was taken when the last daemon died.
        """
        name = delivery.raw_name
        with suppress(OSError), self._opened(delivery.folder) as descriptor:
            with suppress(FileNotFoundError):
                os.unlink(name + MARK, dir_fd=descriptor)
            with suppress(FileNotFoundError):
                beside = os.stat(name + SUFFIX, dir_fd=descriptor, follow_symlinks=False)
                if beside.st_ino == delivery.settings_inode:
                    kept = deliveries.path(delivery).parent / FOLDER_FILE
                    os.rename(name + SUFFIX, kept, src_dir_fd=descriptor)
            os.fsync(descriptor)
        status = deliveries.path(delivery).lstat()
        if (unfit := _unfit(status)) is not None:
            return deliveries.end(replace(delivery, stage="open"), "failed", now, why=unfit, exit_code=66)
        whole = seen is None or seen == _seen(status)
        opened = replace(delivery, stage="open", not_before=0.0 if whole else now + self.quiet_s)
        with suppress(OSError):  # no room: "taking", with its file there, says as much to the next daemon
            deliveries.save(opened)
        return opened

    # --- one folder -------------------------------------------------------------------------------------

    def _folders(self) -> list[str]:
        """The inbox itself, and the folders in it."""
        folders = [""]
        with os.scandir(self.path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name)[:ENTRIES_MAX]:
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
        return folders

    @contextmanager
    def _opened(self, folder: str) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        root = os.open(self.path, flags)
        try:
            descriptor = os.open(folder or ".", flags, dir_fd=root)
        finally:
            os.close(root)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _look(
        self, descriptor: int, folder: str, now: float, there: set[tuple[str, str]]
    ) -> Iterator[Ready | NotTaken | str]:
        names = set(sorted(_names(descriptor))[:ENTRIES_MAX])
        for name in sorted(names):
            if _is_ours(name):
                continue
            shown = printable(f"{folder}/{name}" if folder else name)
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    if folder:
                        yield NotTaken(shown, "it is a folder inside a folder")
                    continue
                if (unfit := _unfit(status)) is not None:
                    yield NotTaken(shown, unfit)
                    continue
                there.add((folder, name))
                if name + MARK in names or self._is_quiet(descriptor, folder, name, status, now):
                    yield self._ready(descriptor, folder, name, status)
                else:
                    yield shown
            except Misconfigured as error:
                yield NotTaken(shown, error.sentence)
            except FileNotFoundError:  # it went away meanwhile
                continue
            except OSError as error:
                yield NotTaken(shown, f"it cannot be read: {error.strerror}")

    def _is_quiet(self, descriptor: int, folder: str, name: str, status: os.stat_result, now: float) -> bool:
        """Unchanged since the last scan, and for the quiet period by the file's own time or by our watching."""
        seen = _seen(status)
        before, since = self._since.get((folder, name), (None, now))
        if before != seen:
            self._since[folder, name] = (seen, now)
            return False
        if now - status.st_mtime < self.quiet_s and now - since < self.quiet_s:
            return False
        return not is_written(name, descriptor)

    def _ready(self, descriptor: int, folder: str, name: str, status: os.stat_result) -> Ready:
        """Raises Misconfigured when its settings are wrong."""
        of_folder, _ = _read(descriptor, FOLDER_FILE, f"{folder}/{FOLDER_FILE}" if folder else FOLDER_FILE)
        beside, inode = _read(descriptor, name + SUFFIX, name + SUFFIX)
        merged = {**of_folder, **beside}
        self._check(settings_of(merged, where=printable(name + SUFFIX if beside else f"{folder}/{FOLDER_FILE}")))
        return Ready(folder, name, _seen(status), merged, inode)


def _names(descriptor: int) -> list[str]:
    """What is in a folder now, by its descriptor."""
    with os.scandir(descriptor) as entries:
        return [entry.name for entry in entries]


def _is_ours(name: str) -> bool:
    """No file to load: settings, marks, and what is being written under another name."""
    return name.startswith(".") or name == FOLDER_FILE or name.endswith((SUFFIX, MARK, *UNFINISHED))


def _unfit(status: os.stat_result) -> str | None:
    """Why it may not be taken."""
    if stat.S_ISLNK(status.st_mode):
        return "it is a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_nlink != 1:
        return "it has another name elsewhere (a hard link), by which it could be changed"
    return None


def _seen(status: os.stat_result) -> Seen:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(descriptor: int, name: str, where: str) -> tuple[dict[str, Any], int | None]:
    """A settings file of a folder, when there is one, and its inode."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):  # no room for the suffix: no such file can be
            return {}, None
        raise Misconfigured(f"{printable(where)}: {error.strerror}", remedy="It must be a file of its own.") from None
    try:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise Misconfigured(f"{printable(where)}: it is not a regular file", remedy="Put a file there.")
        content = os.pread(opened, SETTINGS_BYTES_MAX + 1, 0)
    finally:
        os.close(opened)
    return read_settings(content, printable(where)), status.st_ino


def is_written(name: str | Path, folder: int | None = None) -> bool:
    """Does a process have the file open for writing? False where the system does not tell. Raises OSError."""
    if signal.getsignal(signal.SIGIO) is not signal.SIG_IGN:  # whoever opens it while we ask would kill us by it
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EBUSY)
    finally:
        os.close(descriptor)
    return False
