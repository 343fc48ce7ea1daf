"""The daemon for many days under virtual time: a file an hour, faults, and nothing that grows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from simulation.year import check, live

MEMORY = Path("/dev/shm")
"""Files in memory, where there are such: thousands of synchronisations of a disk prove nothing here."""


def test_nothing_grows_while_the_daemon_lives_on(record_property: Callable[[str, object], None]) -> None:
    """It is to run for months: memory, descriptors, tasks, ledger and folders stay as they are."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        told = live(Path(folder), days=7)
    check(told)
    record_property("daemon days", 7)
