"""What is counted is what was."""

from __future__ import annotations

from orchestrator.core.model import LoadId
from orchestrator.daemon.metrics import Counters
from orchestrator.runner.loop import Progress


def progress(started_at: float, bytes_sent: int, calls_made: int) -> Progress:
    return Progress(
        load_id=LoadId("0123456789ab"),
        source_name="leads.csv",
        now=started_at + 1.0,
        started_at=started_at,
        rows=9,
        rows_settled=0,
        rows_settled_before=0,
        imported=0,
        failed=0,
        warned=0,
        chunks=1,
        chunks_by_state={},
        slots_used=0,
        slots_limit=10,
        bytes_sent=bytes_sent,
        eta_s=None,
        waiting_for="",
        calls_made=calls_made,
    )


def test_the_calls_of_each_run_of_a_delivery_are_counted() -> None:
    """A run that was seen first with as many as the one before had made none, by the counter."""
    counters = Counters()
    for run in (progress(1.0, 0, 2), progress(1.0, 500, 3), progress(20.0, 500, 3), progress(40.0, 700, 5)):
        counters.progressed("a delivery", "host", run)
    assert (counters.calls["host"], counters.bytes["host"]) == (3 + 3 + 5, 500 + 500 + 700)
