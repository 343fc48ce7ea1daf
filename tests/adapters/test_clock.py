"""The clock goes on whatever happens to the machine's own."""

from __future__ import annotations

import time

import pytest

from orchestrator.adapters import clock
from orchestrator.adapters.clock import Clock


def test_a_step_of_the_systems_clock_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease must not become endless because somebody set the time."""
    seen = Clock()
    before = seen.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= seen.now() - before < 60


@pytest.mark.skipif(clock._BOOTTIME is None, reason="this system has no such clock")
def test_the_time_that_a_suspended_machine_slept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour with the lid closed a token is an hour older, and batches are to be asked after."""
    seen = Clock()
    before, gettime = seen.now(), time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda which: gettime(which) + 3_600.0 * (which == clock._BOOTTIME))
    assert 3_600 <= seen.now() - before < 3_660
