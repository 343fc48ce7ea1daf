"""Whole loads of the real code from seeds, under faults and crashes; and bugs on purpose, which must be found."""

from __future__ import annotations

import os
import sqlite3

import pytest
from simulation.planted import PLANTED
from simulation.scenario import BrokenPromise, play

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "3000"))
SEEDS_A_TEST = 100
SEEDS_FOR_A_BUG = 300


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_no_seed_breaks_a_promise(first: int) -> None:
    """Rows once, slots kept, doubts told, reports true: whatever the network, Marketo, the disk and the process do."""
    for seed in range(first, first + SEEDS_A_TEST):
        try:
            play(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error} (again: make sim SEED={seed})") from error


def test_the_same_seed_is_the_same_run() -> None:
    """A failure that cannot be repeated cannot be mended."""
    for seed in range(12):
        assert play(seed).trace == play(seed).trace


@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_a_planted_bug_is_found(bug: str) -> None:
    """A simulation that finds nothing proves nothing."""
    for seed in range(SEEDS_FOR_A_BUG):
        try:
            with PLANTED[bug]():
                play(seed)
        except (BrokenPromise, AssertionError, sqlite3.IntegrityError):
            return
    pytest.fail(f"{bug!r} was not found in {SEEDS_FOR_A_BUG} seeds")
