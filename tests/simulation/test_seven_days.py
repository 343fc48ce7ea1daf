"""Loads that live past the day on which Marketo forgets their first batches, whole and under virtual time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from simulation.play import Simulation, folder, quiet
from simulation.promises import DAY_S, check
from simulation.test_alarms import one_batch
from simulation.virtual import inline_threads

from orchestrator.config import PollingSection
from orchestrator.core.model import State


@contextmanager
def slow(days_per_job: float, *, rows: int, queued_jobs: int) -> Iterator[Simulation]:
    """A load of several chunks on a Marketo that takes days for each, and is well otherwise."""
    with folder() as here, quiet():
        scenario = replace(one_batch(here, days_per_job * DAY_S).scenario, rows=[rows], queued_jobs=queued_jobs)
        simulation = Simulation(replace(scenario, heal_at=60 * DAY_S), here)
        hourly = PollingSection(min_interval=3_600.0, max_interval=3_600.0)  # otherwise days are 100,000 polls
        simulation.config = replace(simulation.config, polling=hourly)
        try:
            yield simulation
        finally:
            simulation.end()


def test_a_load_of_ten_days_loses_nothing() -> None:
    """Seven days are the life of a batch, not of a load: every batch is fetched in its own time."""
    with slow(2.5, rows=110, queued_jobs=4) as simulation:
        (result,) = simulation.run()
        check(simulation)
        assert simulation.time > 9 * DAY_S
        assert result.totals.unknown == result.totals.unsent == 0
        assert result.totals.imported + result.totals.failed == 110


def test_what_ended_while_nobody_looked_for_seven_days_is_unknown_and_the_rest_is_sent() -> None:
    """A machine was off for a week: those batches are neither called imported nor failed, and are not sent again."""
    with slow(1 / 1440, rows=110, queued_jobs=3) as simulation:
        with inline_threads(), simulation.kernel.locks():
            while simulation.time < 30.0:
                simulation._go_on()
        (process,) = simulation._alive
        simulation._gone(process)  # killed
        before = set(simulation.model.jobs)
        assert len(before) == 3
        simulation._waiting = [(8 * DAY_S, process.command)]
        (result,) = simulation.run()
        report = json.loads((result.report_dir / "report.json").read_text())
        lost = [batch for batch in report["batches"] if batch["state"] == State.EXPIRED]
        assert {batch["batch_id"] for batch in lost} == before
        assert result.exit_code == report["exit_code"] == 3
        assert result.totals.unknown == sum(batch["rows"] for batch in lost)
        assert result.totals.imported + result.totals.failed == 110 - result.totals.unknown
        sent = [job.sha256 for job in simulation.model.jobs.values()]
        assert len(set(sent)) == len(sent), "nothing is sent twice"


def test_a_batch_that_imports_for_more_than_seven_days_ends_unknown_and_its_load_ends() -> None:
    """Marketo does not know it any more: nobody could ever be told how it ended."""
    with slow(8.0, rows=10, queued_jobs=10) as simulation:
        (result,) = simulation.run()
        assert 7 * DAY_S < simulation.time < 8 * DAY_S
        assert result.exit_code == 3
        assert result.totals.unknown == result.totals.rows == 10
