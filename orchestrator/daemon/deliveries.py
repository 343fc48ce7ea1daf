"""What has been taken, and how far is it? The folders work, done and failed, and one small file in each delivery.

A delivery is one file that was taken from the inbox or over HTTP. It has a folder of its own, named by an id that
nobody can choose, in which lie the file, under a name that is safe, and `delivery.json`. Every step is a rename or an
atomic write, in an order that makes it harmless to be killed between any two of them:

1. `work/ID/delivery.json` says which file is about to be taken; then the file is moved there. Without the file, the
   delivery never began: it is forgotten, and the file is still in the inbox.
2. What is loaded is known to the ledger by its content: begun again, it is the same load.
3. `delivery.json` says how it ended; then the whole folder is moved to done or failed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import structlog

from orchestrator.adapters.files import private_folder
from orchestrator.errors import DaemonRunning, Misconfigured

log = structlog.get_logger()

RECORD = "delivery.json"
NAME_CHARACTERS_MAX = 120
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")

Stage = Literal["taking", "uploaded", "open", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One file on its way, as `delivery.json` holds it. Times are seconds since the epoch."""

    id: str
    name: str
    """As it was called, made printable."""
    file: str
    """Its name inside the delivery's folder."""
    taken_at: float
    stage: Stage
    raw_name: str = ""
    """As it was called in the inbox, undecodable bytes as lone surrogates; empty: it came over HTTP."""
    folder: str = ""
    """Folder of the inbox it lay in; empty: the inbox itself, or HTTP."""
    settings_inode: int | None = None
    """Of the settings file that lay beside it."""
    settings: dict[str, Any] = field(default_factory=dict)
    load_id: str | None = None
    paused: bool = False
    cancelled: bool = False
    tries: int = 0
    """How often it was tried in a row without coming to an end."""
    not_before: float = 0.0
    why: str = ""
    """Why it waits, is paused, or failed."""
    exit_code: int | None = None
    ended_at: float | None = None
    to_tell: bool = False
    """It is over, and the hooks have not been told."""
    result: dict[str, Any] = field(default_factory=dict)
    """Of a finished load: totals, reasons, report_dir."""


class Deliveries:
    """The three folders. One daemon at a time: whoever holds the lock of `work`."""

    def __init__(self, work: Path, done: Path, failed: Path) -> None:
        self.work, self.done, self.failed = (path.resolve() for path in (work, done, failed))
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make them, and keep other daemons out for as long as this process lives.

        Raises DaemonRunning, Misconfigured.
        """
        for key, folder in (("work", self.work), ("done", self.done), ("failed", self.failed)):
            made_folder(f"daemon.{key}", folder, os.R_OK | os.W_OK | os.X_OK)
        self._lock = os.open(self.work / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            raise DaemonRunning(
                f"folder {self.work}: the daemon of process {pid or 'unknown'} works there",
                remedy="Stop it first, or give this one another inbox, work, done and failed folder.",
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())

    def path(self, delivery: Delivery) -> Path:
        """Where its file lies."""
        return self._folder(delivery) / delivery.file

    def begin(self, name: str, now: float, stage: Stage, **known: Any) -> Delivery:
        """Step 1, before the file is moved in."""
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
        delivery = Delivery(
            id=f"{moment}-{secrets.token_hex(4)}",
            name=printable(name),
            file=safe_name(name),
            taken_at=now,
            stage=stage,
            **known,
        )
        (self.work / delivery.id).mkdir(mode=0o700)
        try:
            return self.save(delivery)
        except OSError:  # no room: it is tried again and again
            self.forget(delivery)
            raise

    def save(self, delivery: Delivery) -> Delivery:
        """Durable when it returns."""
        folder = self._folder(delivery)
        part = folder / (RECORD + ".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(delivery), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / RECORD)
        sync_folder(folder)
        return delivery

    def end(self, delivery: Delivery, stage: Literal["done", "failed"], now: float, **known: Any) -> Delivery:
        """Step 3."""
        ended = replace(delivery, ended_at=now, to_tell=True, **known)
        self.save(replace(ended, stage=stage))  # still in work
        return self._put_away(replace(ended, stage=stage))

    def _put_away(self, delivery: Delivery) -> Delivery:
        target = self._folder(delivery, final=True)
        private_folder(target.parent)
        (self.work / delivery.id).rename(target)
        sync_folder(target.parent)
        sync_folder(self.work)
        return delivery

    def forget(self, delivery: Delivery) -> None:
        """It and its file are gone."""
        shutil.rmtree(self._folder(delivery), ignore_errors=True)

    def recover(self) -> list[Delivery]:
        """What is under way, after whatever happened to the last daemon. The oldest first."""
        left: list[Delivery] = []
        for folder in sorted(self.work.iterdir()):
            if not folder.is_dir() or not ID.fullmatch(folder.name):
                continue
            delivery = _read(folder)
            begun = delivery is not None and delivery.stage in ("taking", "uploaded")
            if delivery is None and not {path.name for path in folder.iterdir()} <= {RECORD, RECORD + ".part"}:
                log.error("delivery.unreadable", delivery=folder.name)  # its file may be the only one
            elif delivery is None or (begun and not (folder / delivery.file).exists()):
                shutil.rmtree(folder, ignore_errors=True)  # it never began: the file is where it was
                log.info("delivery.forgotten", delivery=folder.name)
            elif delivery.stage in ("done", "failed"):
                self._put_away(delivery)
            elif delivery.stage != "uploaded":
                left.append(delivery)
        return left

    def ended(self, most: int) -> list[Delivery]:
        """Those that are over, the newest first."""
        return list(islice(self._ended(), most))

    def untold(self) -> list[Delivery]:
        """Those that are over and of which the hooks have not been told, however many, the newest first."""
        return [delivery for delivery in self._ended() if delivery.to_tell]

    def _ended(self) -> Iterator[Delivery]:
        named = [(folder.name, folder) for root in (self.done, self.failed) for folder in root.iterdir()]
        for name, folder in sorted(named, reverse=True):
            if ID.fullmatch(name) and (delivery := _read(folder)) is not None:
                yield delivery

    def find_ended(self, delivery_id: str) -> Delivery | None:
        """One that is over, by its id."""
        if not ID.fullmatch(delivery_id):
            return None
        for root in (self.done, self.failed):
            if (delivery := _read(root / delivery_id)) is not None:
                return delivery
        return None

    def find_uploaded(self, delivery_id: str) -> Delivery | None:
        """An upload that is whole and of which no load was made yet, by its id."""
        if not ID.fullmatch(delivery_id):
            return None
        delivery = _read(self.work / delivery_id)
        if delivery is None or delivery.stage != "uploaded" or not self.path(delivery).is_file():
            return None
        return delivery

    def old(self, before: float, uploaded_before: float) -> Iterator[Delivery]:
        """What ended before a time, and uploads of before another that nobody made a load of.

        Their files hold lead data: they are to be forgotten.
        """
        for root in (self.done, self.failed, self.work):
            for folder in list(root.iterdir()):
                if not ID.fullmatch(folder.name) or (delivery := _read(folder)) is None:
                    continue
                ended = delivery.ended_at is not None and delivery.ended_at < before
                if ended or (delivery.stage == "uploaded" and delivery.taken_at < uploaded_before):
                    yield delivery

    def _folder(self, delivery: Delivery, *, final: bool = False) -> Path:
        if delivery.stage in ("done", "failed"):
            there = (self.done if delivery.stage == "done" else self.failed) / delivery.id
            if final or there.exists():
                return there
        return self.work / delivery.id


def _read(folder: Path) -> Delivery | None:
    """None when the folder holds no sound record: nothing was taken into it."""
    with suppress(OSError, ValueError, TypeError):
        return Delivery(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    return None


def printable(name: str) -> str:
    """A name from outside as people may see it: no control character, no direction mark, no lone surrogate."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)[:255]


def safe_name(name: str) -> str:
    """A name for a file of ours, with the suffixes of the one from outside: they say how it is read."""
    text = unicodedata.normalize("NFC", name)
    text = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text).lstrip(".-") or "_"
    stem, dot, suffixes = text.partition(".")
    suffixes = (dot + suffixes)[-40:]
    safe = stem[: NAME_CHARACTERS_MAX - len(suffixes)] + suffixes
    return f"_{safe}" if safe.startswith(RECORD) else safe


def made_folder(key: str, path: Path, access: int) -> None:
    """A folder of the configuration, made when it is not there. Raises Misconfigured."""
    try:
        private_folder(path)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(path, access):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise Misconfigured(
            f"{key} = {path}: {error.strerror}", remedy="Name a folder that this user may make and write to."
        ) from error


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
