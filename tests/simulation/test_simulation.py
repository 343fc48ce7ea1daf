"""Whole loads of the real code from seeds, under faults and crashes; and bugs on purpose, which must be found."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from simulation import storage
from simulation.planted import PLANTED
from simulation.scenario import BrokenPromise, Scenario, play

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "3000"))
SEEDS_A_TEST = 100
SEEDS_FOR_A_BUG = 300
CRASH_SEEDS = (1, 5, 12, 31, 60, 90, 101, 104)
STORAGE_SEED = 3


Record = Callable[[str, object], None]


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_no_seed_breaks_a_promise(first: int, record_property: Record) -> None:
    """Rows once, slots kept, doubts told, reports true: whatever the network, Marketo, the disk and the process do."""
    record_property("seeds", SEEDS_A_TEST)
    for seed in range(first, first + SEEDS_A_TEST):
        try:
            play(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error} (again: make sim SEED={seed})") from error


def test_the_same_seed_is_the_same_run() -> None:
    """A failure that cannot be repeated cannot be mended."""
    for seed in range(12):
        assert play(seed).trace == play(seed).trace


@pytest.mark.parametrize("seed", CRASH_SEEDS)
def test_every_point_of_a_load_may_be_its_last(seed: int, record_property: Record) -> None:
    """Crashes are enumerated, not sampled: before and after every commit and request, and within every answer."""
    points = play(seed, lambda scenario: replace(scenario, crashes=[], storage=0.0)).points
    assert points > 20
    for point in range(1, points + 1):
        again = [point, 1 + point % 20] if point % 5 == 0 else [point]  # each fifth dies in its recovery as well
        try:
            play(seed, lambda scenario, again=again: replace(scenario, crashes=again, storage=0.0))  # type: ignore[misc]
        except BaseException as error:
            raise AssertionError(f"seed {seed}, crashes {again}: {error}") from error
    record_property("crash points", points)


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_every_write_and_every_sync_of_the_ledger_may_fail(for_good: bool, full: bool, record_property: Record) -> None:
    """What is not durable is not sent; what was durable stays; the same command goes on when the disk is well."""

    def calm(scenario: Scenario) -> Scenario:
        return replace(scenario, crashes=[], storage=0.0, heal_at=0.0, rows=12)

    disk = storage.DISK
    disk.fail_at = None
    disk.operations = 0
    play(STORAGE_SEED, calm, storage.Connection)
    operations = disk.operations
    assert operations > 60

    class Mended(storage.Connection):
        """A new process comes after the disk was mended."""

        def __init__(self, path: Path) -> None:
            if disk.failures:
                disk.fail_at = None
            super().__init__(path)

    for operation in range(1, operations + 1):
        disk.fail_at, disk.for_good, disk.full, disk.operations, disk.failures = operation, for_good, full, 0, 0
        try:
            play(STORAGE_SEED, calm, Mended)
        except BaseException as error:
            raise AssertionError(f"operation {operation}: {error}") from error
        assert disk.failures > 0
    record_property("storage faults", operations)


@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_a_planted_bug_is_found(bug: str, record_property: Record) -> None:
    """A simulation that finds nothing proves nothing."""
    record_property("planted bugs", 1)
    for seed in range(SEEDS_FOR_A_BUG):
        try:
            with PLANTED[bug]():
                play(seed)
        except (BrokenPromise, AssertionError, sqlite3.IntegrityError):
            return
    pytest.fail(f"{bug!r} was not found in {SEEDS_FOR_A_BUG} seeds")
