"""The daemon for many days under virtual time: a file an hour, faults, and nothing that grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simulation.year import check, live

Record = Callable[[str, object], None]


def test_nothing_grows_while_the_daemon_lives_on(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """It is to run for months: memory, descriptors, tasks, ledger and folders stay as they are."""
    told = live(tmp_path, days=7)
    check(told)
    record_property("daemon days", 7)
