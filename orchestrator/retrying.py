"""How do the rows of a load that go again become the source of a load of their own?

They are written into a private spool file, in the order of the source, and from there on it is a load as any other:
known by its content and its target, so the same retry again resumes it. The spool goes when that load is over; since
the same load, collected files and rules give the same bytes, it is written again when somebody asks for it (a report
written again, a retry of the retry), and its content is checked against what was loaded.

Rows keep the numbers that they have in the source of the first load: the ledger holds them, and reports name them.
Blocking throughout. Which rows go again is decided by `core.retry`.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, get_args

from orchestrator import intake
from orchestrator.adapters.files import fingerprint_file, private_folder
from orchestrator.adapters.ledger import Ledger, Place
from orchestrator.adapters.render import read_own_header, read_rows
from orchestrator.adapters.render.source import COLLECTED_GONE
from orchestrator.adapters.sources.spool import Spool, folder_of, remove
from orchestrator.config import Config
from orchestrator.core.model import Load, Retry
from orchestrator.core.origins import source_name
from orchestrator.core.repair import Repair, parse, read_map
from orchestrator.core.retry import Again, Tally, rows_again
from orchestrator.core.worth import Which
from orchestrator.errors import SourceChanged, SourceMissing, SpoolFailing, WrongRepairRule
from orchestrator.intake import Interrupted, Source

MAP_BYTES_MAX = 10_000_000
_PLACE = struct.Struct("<qq")
_NOWHERE = (0, 0)
"""Rows and lines are numbered from 1."""


@dataclass
class Written:
    """The spool file of a retry, and where its rows came from."""

    source: Source
    tally: Tally
    _places: IO[bytes]

    def places(self) -> Iterator[Place | None]:
        """Of every row in order: where it stands in the source of the first load."""
        self._places.seek(0)
        while record := self._places.read(_PLACE.size):
            row, line = _PLACE.unpack(record)
            yield None if (row, line) == _NOWHERE else (row, line)


def rows(config: Config, ledger: Ledger, load: Load, retry: Retry, tally: Tally) -> Iterator[Again]:
    """The rows of a load that go again. Raises SourceMissing, SourceChanged, SpoolFailing."""
    with (
        _room(ledger),
        restored(config, ledger, load, lambda: None) as whole,
        _forgotten_if_over(ledger, whole),
    ):
        yield from _rows(ledger, whole, retry, tally)


def _rows(ledger: Ledger, load: Load, retry: Retry, tally: Tally) -> Iterator[Again]:
    repair = _repair(load, retry.fix)
    notes: list[str] = []
    found = read_rows(
        load,
        lambda: ledger.records(load.id),
        ledger.rejected_rows(load.id),
        place_of(ledger, load),
        ledger.path.resolve().parent,
        notes,
    )
    which = next(which for which in get_args(Which) if which == retry.reasons)
    yield from rows_again(found, header=load.header.own, format=load.format, which=which, repair=repair, tally=tally)
    if COLLECTED_GONE in notes:
        raise SourceChanged(
            f"{source_name(load)}: {COLLECTED_GONE}; nothing was sent",
            remedy=f"Load {load.report_dir}/retry.csv if it has the rows, or the whole source again with --force.",
        )
    if notes:
        raise SourceChanged(
            f"{source_name(load)}: {notes[0]}; nothing was sent",
            remedy=f"Put it back as it was loaded, or mend {load.report_dir}/retry.csv and load that.",
        )


@contextmanager
def written(config: Config, ledger: Ledger, load: Load, retry: Retry) -> Iterator[Written]:
    """The rows of a load that go again, in a spool file. It is gone afterwards unless it was kept."""
    folder, name, tally = folder_of(config.ledger_path.resolve()), f"retry of {load.id}", Tally()
    private_folder(folder)
    with (
        _room(ledger),
        # Numbers of rows only: these may lie in the system's folder for temporary files.
        tempfile.TemporaryFile() as places,
        Spool(folder, bytes_max=config.limits.spool_bytes, name=name) as spool,
        restored(config, ledger, load, lambda: None) as whole,
    ):
        with _forgotten_if_over(ledger, whole):
            spool.write(read_own_header(whole))
            for again in _rows(ledger, whole, retry, tally):
                spool.write(again.content)
                places.write(_PLACE.pack(again.was.source_row or 0, again.was.source_line or 0))
            spool.flush()
        yield Written(Source(spool.path, name, load.format, load.origin, spool), tally, places)


def place_of(ledger: Ledger, load: Load) -> Callable[[int], Place | None] | None:
    """Where rows of a retry stand in the source of the first load; None when the load is none."""
    return ledger.place_of(load.id) if load.retry is not None else None


@contextmanager
def restored(config: Config, ledger: Ledger, load: Load, interrupted: Interrupted) -> Iterator[Load]:
    """A load with its spool file, if it has one: made again when it is gone. Raises SourceMissing, SourceChanged."""
    if load.retry is None:
        with intake.restored(config, ledger, load, interrupted) as whole:
            yield whole
        return
    first = ledger.load(load.retry.of)
    if first is None or intake.is_whole(load):
        yield load
        return
    with written(config, ledger, first, load.retry) as again:
        if fingerprint_file(again.source.path) != load.fingerprint:
            raise SourceChanged(
                f"the rows of load {first.id} that load {load.id} sends again are not what they were",
                remedy="Put its source, its collected files and the files that --fix names back as they were.",
            )
        yield intake.adopt(ledger, load, again.source)


def forget(ledger: Ledger, load: Load) -> None:
    """The load has ended: no lead data stays at rest. Never a file of the user's."""
    path = Path(load.source.path)
    if load.retry is not None and path.parent == folder_of(ledger.path.resolve()):
        remove(path)
    elif load.retry is None:
        intake.forget(ledger, load)


@contextmanager
def _room(ledger: Ledger) -> Iterator[None]:
    """What is put aside on the way to a spool file fails as that does, where the disk has no room for it."""
    try:
        yield
    except OSError as error:
        raise SpoolFailing(
            f"the rows to be sent again cannot be put together: {error.strerror}; nothing was sent",
            remedy=f"Make room in {ledger.path.resolve().parent} and {tempfile.gettempdir()}, and run the same command "
            "again.",
        ) from error


@contextmanager
def _forgotten_if_over(ledger: Ledger, load: Load) -> Iterator[None]:
    """What was made again of a load that is over goes again, also when its rows could not be read."""
    try:
        yield
    finally:
        if load.finished_at is not None:
            forget(ledger, load)


def _repair(load: Load, fix: str) -> Repair | None:
    if not fix:
        return None
    rules = parse(fix)
    maps = {rule.value: _read_map(rule.value) for rule in rules if rule.name == "map" and rule.value is not None}
    return Repair(rules, load.header.own, maps)


def _read_map(path: str) -> dict[str, str]:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAP_BYTES_MAX + 1)
    except OSError as error:
        raise SourceMissing(
            f"--fix: map {path}: {error.strerror}", remedy="Check the path of the map, and that it can be read."
        ) from error
    if len(content) > MAP_BYTES_MAX:
        raise WrongRepairRule(f"--fix: map {path}: more than {MAP_BYTES_MAX:,} bytes", remedy="Map fewer values.")
    try:
        return read_map(path, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise WrongRepairRule(
            f"--fix: map {path}: byte {error.start + 1:,} is not UTF-8", remedy="Convert it."
        ) from None
