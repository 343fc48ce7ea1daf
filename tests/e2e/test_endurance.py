"""What a long load, a short machine and a fault of ours do to a real process."""

from __future__ import annotations

import json
import resource
import signal
import time
from pathlib import Path

import pytest
from e2e.shop import Finished, Shop, expected, quick, shop

from orchestrator.simulator.leads import write_leads


def accepted(market: Shop) -> int:
    with market.simulator.lock:
        return len(market.simulator.model.jobs)


def test_descriptors_and_threads_do_not_grow_over_a_long_load(tmp_path: Path) -> None:
    """One descriptor a batch would end a load of a thousand chunks in its middle."""
    write_leads(tmp_path / "leads.csv", 12_000, bad_share=0.02)
    with shop(tmp_path, quick(seconds_per_job=0.0)) as market:
        process = market.start("load", "leads.csv", ORCHESTRATOR_LIMITS__CHUNK_BYTES="8000")
        about, most = Path(f"/proc/{process.pid}"), dict[str, list[int]](fd=[0, 0], task=[0, 0])
        while process.poll() is None:
            late = int(accepted(market) >= 200)
            for what, seen in most.items():
                try:
                    seen[late] = max(seen[late], len(list((about / what).iterdir())))
                except OSError:  # it has just ended
                    break
            time.sleep(0.005)
        out, err = process.communicate()
        assert process.returncode == 3, (out, err)
        assert accepted(market) > 400
        for what, (early, late) in most.items():
            assert 0 < late <= early + 3, (what, early, late)


def limited(market: Shop, limit: int, most: int, *arguments: str) -> Finished:
    """A command with a resource limit of its own."""
    script = "import os, resource, sys; resource.setrlimit(int(sys.argv[1]), (int(sys.argv[2]),) * 2); "
    script += "os.execv(sys.executable, [sys.executable, '-m', 'orchestrator', *sys.argv[3:]])"
    process = market.start_script("-c", script, str(limit), str(most), *arguments)
    out, err = process.communicate(timeout=90)
    return Finished(process.returncode, out, err)


@pytest.mark.parametrize(
    ("limit", "most"),
    [(resource.RLIMIT_FSIZE, 160_000), (resource.RLIMIT_NOFILE, 12)],
    ids=["files that may not grow", "hardly any descriptors"],
)
def test_a_machine_that_has_run_short_stops_a_load_that_goes_on_when_it_has_not(
    tmp_path: Path, limit: int, most: int
) -> None:
    """A full disk, a quota, a limit of somebody's: a clear end, nothing twice, nothing lost."""
    write_leads(tmp_path / "leads.csv", 3_000, bad_share=0.02)
    with shop(tmp_path) as market:
        short = limited(market, limit, most, "load", "leads.csv", "--json")
        assert short.code in (66, 69, 75), short
        assert "Traceback" not in short.err
        assert short.summary["exit_code"] == short.code
        done = market.run("load", "leads.csv", "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="2")
        assert done.code == 3, done
        twice = [violation for violation in market.simulator.model.violations if "twice" in violation.rule]
        assert len(twice) <= done.summary["doubts"], "what could not be written down is a doubt"
        totals = market.report().json["totals"]
        assert totals["rows"] == totals["imported"] + totals["failed"] == 3_000


def test_a_process_that_was_stopped_for_a_while_says_so_and_goes_on(tmp_path: Path) -> None:
    """A debugger, a suspended laptop, a machine that swaps: late, and nothing else."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0.02)
    with shop(tmp_path, quick(seconds_per_job=0.1)) as market:
        process = market.start("load", "leads.csv")
        until = time.monotonic() + 30
        while accepted(market) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3, (out, err)
        assert "loop.lagged" in err
        assert market.report().judged() == expected(market.simulator, tmp_path / "leads.csv")
        assert market.report().json["doubts"] == []


FAULTY = """
import sys
import anyio
from orchestrator.adapters.marketo import Marketo
from orchestrator.runner.following import Following
from orchestrator.cli.main import main
from orchestrator.adapters.ledger import Ledger
from orchestrator.errors import LedgerFailing

async def seen(self, action, status, asked_at):
    row = "canary@example.com"
    await anyio.sleep(0.5)
    raise RuntimeError(f"a fault of ours with a row of {len(row)} characters")

create = Marketo.create

async def slow(self, *arguments):
    outcome = await create(self, *arguments)
    await anyio.sleep(1.5)  # Marketo has one whose answer we have not when the fault comes
    return outcome

def tell(self, load_id, run):
    if run.ended and "--ledger-fails" in sys.argv:
        raise LedgerFailing("the disk is full as well")
    return told(self, load_id, run)

told, Ledger.tell = Ledger.tell, tell
Following._seen, Marketo.create = seen, slow
sys.exit(main([argument for argument in sys.argv[1:] if argument != "--ledger-fails"]))
"""


@pytest.mark.parametrize("flags", [[], ["-v"], ["--ledger-fails"]])
def test_a_fault_of_ours_is_70_says_no_row_and_loses_nothing(tmp_path: Path, flags: list[str]) -> None:
    """There is always one more: it must not talk, and the same command goes on when it is mended."""
    write_leads(tmp_path / "leads.csv", 500, bad_share=0)
    with shop(tmp_path) as market:
        process = market.start_script("-c", FAULTY, "load", "leads.csv", "--json", *flags)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 70, (out, err)
        assert "internal fault" in err
        assert "canary" not in out + err
        assert json.loads(out.splitlines()[-1]) == {"type": "summary", "schema": 1, "exit_code": 70}
        done = market.run("load", "leads.csv", "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="2")
        assert done.code == 0, done
        assert market.simulator.truth()["rows_accepted"] == 500
