"""What people are told of batches that take too long, seen in whole loads under virtual time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import structlog
from simulation.play import Simulation
from simulation.promises import DAY_S, check
from simulation.scenario import SECRET, Command, Network, Scenario
from simulation.virtual import inline_threads

from orchestrator.simulator.faults import Scripted
from orchestrator.simulator.settings import Settings


def one_batch(folder: Path, seconds: float) -> Simulation:
    """A load of one chunk, on a Marketo that takes so long for it and is well otherwise."""
    scenario = replace(
        Scenario.of(0),
        rows=[3],
        queued_jobs=10,
        settings=Settings(clients={"client": SECRET}, seconds_per_job=seconds, keep_bodies=True),
        network=Network(),
        rates={},
        heal_at=8 * DAY_S,
        foreign=[],
        commands=[Command()],
        on_doubt="resend",
        list_id=None,
        storage=0.0,
        locked=0.0,
        amnesia=None,
    )
    return Simulation(scenario, folder)


def test_a_batch_is_told_of_when_it_is_five_and_six_days_old_and_when_it_imports_for_hours(tmp_path: Path) -> None:
    """After the seventh day its outcome is lost: somebody must hear of it before, once and not at every poll."""
    simulation = one_batch(tmp_path, 6.1 * DAY_S)
    with inline_threads(), simulation.kernel.locks():
        while simulation.time < 600.0:
            simulation._go_on()
    for process in [*simulation._alive]:  # killed after it had seen the batch importing
        simulation._gone(process)
    simulation._waiting = [(5.9 * DAY_S, simulation.scenario.commands[0])]
    with structlog.testing.capture_logs() as logs:
        simulation.run()
        check(simulation)
    told = Counter((log["event"], log.get("days")) for log in logs if log["event"] in ("batch.aged", "batch.stalled"))
    assert told == {("batch.aged", 5): 1, ("batch.aged", 6): 1, ("batch.stalled", None): 1}


def test_a_word_for_a_status_that_nobody_documented_is_told_once_and_waited_out(tmp_path: Path) -> None:
    """Taken for the end it would lose the batch; told at every poll it would hide everything else."""
    simulation = one_batch(tmp_path, 600.0)
    simulation.model.faults.scripted.append(Scripted("unknown status", "status", times=9))
    with structlog.testing.capture_logs() as logs:
        (result,) = simulation.run()
    assert result.totals.imported + result.totals.failed == 3
    assert simulation.model.faults.injected["status: unknown status"] == 9
    assert [log["event"] for log in logs].count("batch.status_unknown") == 1
