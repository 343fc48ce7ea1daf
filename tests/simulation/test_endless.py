"""Troubles that never pass, whole loads under virtual time. (In a seed they pass at last: no seed can show these.)"""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.play import Simulation
from simulation.promises import DAY_S
from simulation.test_alarms import one_batch
from simulation.virtual import inline_threads

from orchestrator.adapters.ledger import Ledger
from orchestrator.caller import SILENT_S
from orchestrator.core.lifecycle import AT_REST, DOUBTS_ALLOWED
from orchestrator.simulator.faults import Scripted

FOR_EVER = 1_000_000


def until_it_ends(simulation: Simulation) -> dict[str, int]:
    """Why the first process stopped, if it did."""
    with inline_threads(), simulation.kernel.locks():
        while not simulation.outcome.stops and not simulation.results:
            assert simulation.time < DAY_S, "it goes on for ever"
            simulation._go_on()
    return dict(simulation.outcome.stops)


@pytest.mark.parametrize("fault", ["code 601", "code 608"])
def test_a_load_of_which_no_upload_is_ever_taken_stops_and_says_so(tmp_path: Path, fault: str) -> None:
    """A sound envelope that refuses, for days: nobody would hear of it, and the load would never end."""
    simulation = one_batch(tmp_path, 60.0)
    kinds = ("create", "status", "other") if fault == "code 601" else ("create",)
    simulation.model.faults.scripted.extend(Scripted(fault, kind, times=FOR_EVER) for kind in kinds)
    assert until_it_ends(simulation) == {"Unreachable": 1}
    assert SILENT_S <= simulation.time < 2 * SILENT_S
    assert not simulation.model.jobs


def test_a_chunk_whose_answer_is_always_lost_is_not_sent_for_ever(tmp_path: Path) -> None:
    """Each time its rows may have been imported, and a campaign begun for them once more: somebody has to look."""
    simulation = one_batch(tmp_path, 60.0)
    simulation.model.faults.scripted.append(Scripted("http 502 after", "create", times=FOR_EVER))
    assert until_it_ends(simulation) == {"DoubtHeld": 1}
    assert len(simulation.model.jobs) == DOUBTS_ALLOWED
    (result,) = simulation.results
    assert result.stopped is not None
    assert f"an answer was lost {DOUBTS_ALLOWED} times" in result.stopped.message


@pytest.mark.parametrize("left", range(1, 12))
def test_a_load_that_is_done_with_the_last_call_of_the_day_is_done(tmp_path: Path, left: int) -> None:
    """It was called stopped, the whole day and however often its command was given, with nothing left to do."""
    simulation = one_batch(tmp_path, 5.0)
    simulation.sources[0].write_text("email,leadScore\na@example.com,ten\n")  # its failure file is the last call
    simulation.model._calls_today = 45_000 - left  # of 50,000 less the reserve
    stops = until_it_ends(simulation)
    with Ledger(simulation.config.ledger_path) as ledger:
        (load,) = ledger.loads()
        states = {state for state, count in ledger.chunks_by_state(load.id).items() if count}
    assert ("QuotaSpent" in stops) == (not states <= AT_REST), states


def test_the_time_that_a_machine_slept_is_not_called_silence(tmp_path: Path) -> None:
    """A lid is opened in the morning, and the network comes a moment later than the load: it must go on."""
    simulation = one_batch(tmp_path, 12 * 3600.0)

    def go_on(seconds: float) -> None:
        until = simulation.time + seconds
        while simulation._alive and simulation.time < until:
            simulation._go_on()

    with inline_threads(), simulation.kernel.locks():
        simulation._go_on()
        go_on(600.0)
        assert simulation.model.jobs
        simulation.model.faults.scripted.extend(Scripted("drop", kind, times=FOR_EVER) for kind in ("status", "other"))
        go_on(120.0)
        simulation.time += 8 * 3600.0
        go_on(120.0)
        simulation.model.faults.scripted.clear()
        go_on(48 * 3600.0)
    assert not simulation.outcome.stops
    (result,) = simulation.results
    assert result.exit_code in (0, 3)
