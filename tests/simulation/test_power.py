"""Machines that lose their power in the middle of anything: what a commit has acknowledged is there afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from simulation import storage
from simulation.play import play
from simulation.promises import BrokenPromise
from simulation.scenario import Scenario

from orchestrator.errors import OrchestratorError

SEEDS_A_TEST = 30


def play_with_power_cuts(seed: int, connection: type[storage.PowerCut] = storage.PowerCut) -> int:
    """One seed on a machine whose power goes in the middle of writes and with every process; returns how many cuts."""
    rng = Random(seed)
    cuts = [rng.randint(1, rng.choice([12, 60, 400])) for _ in range(rng.choice([1, 2, 4, 8]))]
    storage.CACHE = storage.Cache(rng, cuts)
    play(seed, Scenario.alone, connection)  # one machine, and one process on it
    return storage.CACHE.cuts


@pytest.mark.parametrize("first", range(0, 4 * SEEDS_A_TEST, SEEDS_A_TEST))
def test_a_power_cut_takes_nothing_that_was_acknowledged(
    first: int, record_property: Callable[[str, object], None]
) -> None:
    """A batch id that is forgotten is a chunk that is sent twice; a torn ledger is a load nobody can account for."""
    cuts = 0
    for seed in range(first, first + SEEDS_A_TEST):
        try:
            cuts += play_with_power_cuts(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert cuts > SEEDS_A_TEST
    record_property("power cuts", cuts)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_ledger_that_does_not_wait_for_the_disk_is_found_out(synchronous: str) -> None:
    """It is faster, and on a machine that never loses its power nobody would notice."""

    class Hasty(storage.PowerCut):
        def execute(self, sql: str, arguments: Iterable[Any] = ()) -> Any:
            hasty = f"PRAGMA synchronous = {synchronous}" if "synchronous" in sql else sql
            return super().execute(hasty, arguments)

    for seed in range(SEEDS_A_TEST):
        try:
            play_with_power_cuts(seed, Hasty)
        except (BrokenPromise, AssertionError, OrchestratorError, ValueError, sqlite3.Error):
            return
    pytest.fail(f"synchronous = {synchronous} was not found in {SEEDS_A_TEST} seeds")
