"""Where do the rows of a load come from: the user's file itself, or a spool file made from what the user named?

A spooled load is recognised by its originals (their hashes, and how they are read) before anything is converted, so the
same command resumes at once; by the spool's own content otherwise, as every load is. A spool file that is gone is made
again, and must be what it was.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from orchestrator.adapters.files import fingerprint_file, private_folder
from orchestrator.adapters.ledger import Ledger
from orchestrator.adapters.sources import reading as sources
from orchestrator.adapters.sources.spool import Spool, folder_of, remove, sweep
from orchestrator.config import Config
from orchestrator.core.model import Format, Load, Origin, Reading, SourceFile
from orchestrator.core.origins import STANDARD_INPUT, is_text, names_of, origin_sha256
from orchestrator.errors import NotText, SourceChanged, SourceMissing, SpoolFailing

log = structlog.get_logger()

Interrupted = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Source:
    """What is planned and sent: a file of the user, or a spool file."""

    path: Path
    name: str
    """What people call it."""
    format: Format | None
    origin: Origin | None = None
    spool: Spool | None = None

    def keep(self, load_id: str) -> Path:
        """The file under the name that it has while its load lasts."""
        return self.path if self.spool is None else self.spool.keep(load_id)


def paths_of(named: Sequence[str]) -> list[str]:
    """Files as the user named them, patterns expanded in the order of their names. Raises SourceMissing."""
    paths: list[str] = []
    for name in named:
        if name == STANDARD_INPUT:
            paths.append(name)
            continue
        found = _matching(name) if set(name) & set("*?[") and not os.path.lexists(name) else [name]
        if not found:
            raise SourceMissing(f"{name}: no file has such a name", remedy="Check the pattern.")
        for path in found:
            try:
                if Path(path).is_fifo():  # that of a shell's `<(…)` has no path to resolve
                    remedy = "Give it to the command as its standard input, and name that: -"
                    raise SourceMissing(f"{path}: this is a pipe", remedy=remedy)
                paths.append(str(Path(path).resolve(strict=True)))
            except (OSError, RuntimeError) as error:  # up to Python 3.12, links in a circle are a RuntimeError
                why = error.strerror if isinstance(error, OSError) else os.strerror(errno.ELOOP)
                raise SourceMissing(f"{path}: {why}", remedy="Check the path of the source.") from error
            if Path(path).is_dir():
                inside = shlex.quote(str(Path(path, "*.csv")))
                raise SourceMissing(f"{path}: this is a folder", remedy=f"Name the files in it, such as {inside}.")
    for path in paths:
        if not is_text(path):
            raise NotText(f"{names_of([path])}: this name is not UTF-8", remedy="Rename the file, or its folder.")
        if paths.count(path) > 1:
            raise SourceMissing(f"{names_of([path])} is named twice", remedy="Name each file once.")
    return paths


def _matching(pattern: str) -> list[str]:
    path = Path(pattern)
    # Several stars in a part are one star, as for a shell; pathlib takes them for a mistake.
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in path.relative_to(path.anchor).parts]
    found = Path(path.anchor or ".").glob("/".join(parts))
    return sorted(str(path) for path in found if path.is_file())


def is_in_place(paths: Sequence[str], reading: Reading) -> bool:
    """Is the user's file itself what chunks are ranges of?"""
    return len(paths) == 1 and paths[0] != STANDARD_INPUT and sources.is_in_place(Path(paths[0]), reading)


def loads_of(ledger: Ledger, paths: Sequence[str], reading: Reading, interrupted: Interrupted) -> list[Load]:
    """The loads of these originals that the ledger knows, without converting anything; they are where they are now."""
    if STANDARD_INPUT in paths or not ledger.knows_spools() or is_in_place(paths, reading):
        return []
    originals = sources.originals_of(paths, interrupted)
    return [
        replace(load, origin=replace(load.origin, originals=originals))
        for load in ledger.loads_from(origin_sha256(originals, reading))
        if load.origin is not None
    ]


@contextmanager
def opened(
    config: Config, paths: Sequence[str], reading: Reading, format: Format | None, interrupted: Interrupted
) -> Iterator[Source]:
    """The source to plan. A spool file that nobody keeps is gone afterwards."""
    if is_in_place(paths, reading):
        path = Path(paths[0])
        yield Source(path, path.name, format)
        return
    folder, begun = folder_of(config.ledger_path.resolve()), time.monotonic()
    try:
        private_folder(folder)
    except OSError as error:
        raise SpoolFailing(
            f"spool folder {folder}: {error.strerror}", remedy="Put the ledger elsewhere (state.ledger)."
        ) from error
    spooled = sources.spool(
        paths,
        reading,
        format,
        folder=folder,
        bytes_max=config.limits.spool_bytes,
        interrupted=interrupted,
    )
    try:
        log.info("source.spooled", bytes=spooled.spool.size_bytes, seconds=round(time.monotonic() - begun, 3))
        yield Source(spooled.spool.path, names_of(list(paths)), spooled.format, spooled.origin, spooled.spool)
    finally:
        spooled.spool.release()


@contextmanager
def restored(config: Config, ledger: Ledger, load: Load, interrupted: Interrupted) -> Iterator[Load]:
    """A load whose spool file is there: made again from its originals when it is gone, and nobody sweeps it meanwhile.

    Raises SourceMissing, SourceChanged.
    """
    if load.origin is None or is_whole(load):
        yield load
        return
    paths = [original.path for original in load.origin.originals]
    if STANDARD_INPUT in paths:
        raise SourceMissing(
            f"load {load.id}: its spool file {load.source.path} is gone, and standard input cannot be read again",
            remedy="Pipe the same rows into the same command again."
            if load.finished_at is None
            else f"Its report in {load.report_dir} stays as it is; retry.csv there has the failed rows, to be loaded.",
        )
    with opened(config, paths, load.origin.reading, load.format, interrupted) as source:
        if fingerprint_file(source.path) != load.fingerprint:
            raise SourceChanged(
                f"{source.name}: it gives other rows now than when load {load.id} was planned",
                remedy="Put the planned file back to go on, or load the new one: that is another load.",
            )
        yield adopt(ledger, load, source)


def adopt(ledger: Ledger, load: Load, source: Source) -> Load:
    """The load goes on from this spool file, which has the same content."""
    path = source.keep(load.id)
    stat = path.stat()
    at = SourceFile(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    ledger.move_source(load.id, at, source.origin, load.report_dir, load.collected_dir)
    return replace(load, source=at, origin=source.origin)


def is_whole(load: Load) -> bool:
    """Is its spool file there, as long as it was?"""
    try:
        return Path(load.source.path).stat().st_size == load.source.size_bytes
    except OSError:
        return False


def forget(ledger: Ledger, load: Load) -> None:
    """The load has ended: no lead data stays at rest. Never a file of the user's: only what lies among the spools."""
    path = Path(load.source.path)
    if load.origin is not None and path.parent == folder_of(ledger.path.resolve()):
        remove(path)


def sweep_spools(ledger: Ledger) -> None:
    """Remove spool files that no unfinished load needs and nobody is making."""

    def is_wanted(load_id: str) -> bool:
        load = ledger.load(load_id)
        return load is not None and load.id == load_id and load.finished_at is None

    for name in sweep(folder_of(ledger.path), is_wanted):
        log.info("spool.swept", name=name)
