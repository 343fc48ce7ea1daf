"""Processes killed outright, again and again, over a real server and a real ledger: every row ends where it should."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from e2e.shop import expected, quick, shop

from orchestrator.simulator.leads import write_leads

KILLS = 6


@pytest.mark.parametrize("seed", range(6))
def test_a_load_that_is_killed_over_and_over_ends_as_if_it_never_was(
    tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Machines die, containers are evicted, people are impatient: nothing is lost, and nothing doubled in silence."""
    rng = Random(seed)
    write_leads(tmp_path / "leads.csv", 1_500, bad_share=0.03, seed=seed)
    killed = 0
    with shop(tmp_path, quick(seconds_per_job=0.5, rows_per_second=5_000.0)) as market:
        for _ in range(KILLS):
            process = market.start("load", "leads.csv", ORCHESTRATOR_LIMITS__DOUBT_LEASE="6")
            try:
                process.wait(rng.uniform(0.3, 2.0))
                process.communicate()
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
        done = market.run("load", "leads.csv", "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="6")
        assert done.code == 3, done
        report = market.report()
        doubts = len(report.json["doubts"])
        state = market.simulator.truth()
        twice = [v for v in state["violations"] if v["rule"] == "the same file twice"]
        assert len(twice) <= doubts
        assert [v for v in state["violations"] if v["rule"] not in ("the same file twice",)] == []
        assert state["most_ours"] <= 10
        totals = report.json["totals"]
        assert totals["rows"] == totals["imported"] + totals["failed"] == 1_500
        known = {batch["batch_id"] for batch in report.json["batches"]}
        copies = [batch for batch in state["batches"] if batch["batch_id"] not in known]
        assert len(copies) <= doubts
        first_copies = {batch["sha256"] for batch in state["batches"] if batch["batch_id"] in known}
        assert {batch["sha256"] for batch in copies} <= first_copies
        if not copies:
            assert report.judged() == expected(market.simulator, tmp_path / "leads.csv")
    assert killed > 0
    record_property("kills", killed)
