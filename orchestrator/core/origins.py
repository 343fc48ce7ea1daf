"""Where does a row of a spool file stand in the user's own files?

A spool file is made from originals: compressed, of another format or encoding, or several at once. What people read in
messages and reports are the names of their files and the lines in them. Nothing here reads a file.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict

from orchestrator.core.model import Load, Origin, Original, Reading

STANDARD_INPUT = "-"
NAMES_SHOWN = 3


def origin_sha256(originals: Iterable[Original], reading: Reading) -> str:
    """What originals and the way they are read are known by: their content, not their names."""
    how = asdict(reading)
    if not reading.tagged:  # releases that could not do so said nothing of it
        del how["tagged"]
    told = json.dumps([[original.sha256 for original in originals], how], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def is_text(name: str) -> bool:
    """Is it UTF-8, as ledgers and reports are? (Names may hold any bytes: Python keeps these as surrogates.)"""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def called(path: str) -> str:
    """A file's name for people."""
    return "standard input" if path == STANDARD_INPUT else path.rpartition("/")[2]


def source_name(load: Load) -> str:
    """What people call the source of a load."""
    if load.retry is not None:
        return f"retry of {load.retry.of}"
    if load.origin is None:
        return called(load.source.path)
    return names_of([original.path for original in load.origin.originals])


def source_path(load: Load) -> str:
    """Where people find it."""
    if load.retry is not None:
        return source_name(load)
    if load.origin is None:
        return load.source.path
    paths = [original.path for original in load.origin.originals]
    return "standard input" if paths == [STANDARD_INPUT] else paths[0] if len(paths) == 1 else names_of(paths)


def names_of(paths: list[str]) -> str:
    names = [called(path) for path in paths]
    if len(names) == 1:
        return names[0]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} files: {', '.join(names[:NAMES_SHOWN])}{more}"


def place(origin: Origin | None, row: int, line: int) -> tuple[int | None, int | None]:
    """Which original (from 0) a row of the spool stands in, and on which line of it; None where that cannot be told.

    For Parquet, lines are rows; for a workbook, rows of the sheet.
    """
    if origin is None:
        return None, line
    if origin.counted == "not":
        return None, None
    at = line if origin.counted == "lines" else row
    index = bisect_right(origin.stretches, at, key=lambda stretch: stretch.first) - 1
    if index < 0:
        return 0, at
    stretch = origin.stretches[index]
    return stretch.original, at + stretch.shift
