"""Disks that fail or lose their power under reports and result files: what is told in the end is whole and true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from simulation.files import Files
from simulation.play import play
from simulation.scenario import Scenario
from simulation.test_simulation import calm

SEEDS = 60
SEED = 3


def without_power(scenario: Scenario) -> None:
    scenario.alone()
    scenario.power = True


def test_a_power_cut_takes_no_result_file_and_no_report(record_property: Callable[[str, object], None]) -> None:
    """The ledger says that a file was collected: then it is there, whole, or its rows' reasons are lost for good."""
    lost = 0
    for seed in range(SEEDS):
        files = Files(Path())
        try:
            play(seed, without_power, files=files)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        lost += files.lost
    assert lost > 0
    record_property("file writes lost to power cuts", lost)


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_every_write_sync_and_rename_of_a_report_may_fail(
    for_good: bool, full: bool, record_property: Callable[[str, object], None]
) -> None:
    """A full disk stops the load, resumable; the same command ends it when there is room again."""
    smooth = Files(Path())
    told = play(SEED, calm, files=smooth).told
    assert smooth.operations > 20
    for operation in range(1, smooth.operations + 1):
        files = Files(Path(), fail_at=operation, for_good=for_good, full=full)
        try:
            assert play(SEED, calm, files=files).told == told
        except BaseException as error:
            raise AssertionError(f"operation {operation}: {error}") from error
        assert files.failures > 0
    record_property("storage faults", smooth.operations)
