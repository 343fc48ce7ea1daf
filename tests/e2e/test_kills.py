"""Processes killed outright, at random and at named points: every load ends as if it had never been touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from e2e import killed
from e2e.kills import kill

Record = Callable[[str, object], None]


@pytest.mark.parametrize("seed", range(4))
def test_a_load_that_is_killed_over_and_over_ends_as_if_it_never_was(
    tmp_path: Path, seed: int, record_property: Record
) -> None:
    """Machines die, containers are evicted, people are impatient: nothing is lost, and nothing doubled in silence."""
    told = kill(tmp_path, seed, kills=8)
    assert told.kills.total() > 0
    record_property("kills", told.kills.total())


@pytest.mark.parametrize("point", killed.POINTS)
def test_a_load_killed_at_a_named_point_ends_as_if_it_never_was(
    tmp_path: Path, point: str, record_property: Record
) -> None:
    """Between any two things that must happen together, the power may go."""
    told = kill(tmp_path, 1, kills=3, point=point)
    assert told.kills[point] > 0
    record_property("kills", told.kills.total())
