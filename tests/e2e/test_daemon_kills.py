"""The daemon killed every other second, while files come in: each is loaded once, and its report is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from e2e.daemon_kills import play


def test_fifty_files_are_loaded_once_each_by_a_daemon_that_is_killed_again_and_again(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nobody should have to think about where it was when the machine died."""
    told = play(tmp_path, files=50, seed=5, over_s=15.0)
    assert told.kills >= 5
    record_property("kills", told.kills)
