"""Several loads, and others, in one queue: real processes that share a ledger."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from e2e.shop import Shop, quick, shop

from orchestrator import library
from orchestrator.adapters import locks
from orchestrator.config import load_config
from orchestrator.core.model import LoadId
from orchestrator.planning import LoadOptions
from orchestrator.simulator.faults import Scripted
from orchestrator.simulator.leads import write_leads


def wait_until(what: str, is_so: Callable[[], bool], timeout: float = 60.0) -> None:
    until = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < until, f"not within {timeout} s: {what}"
        time.sleep(0.05)


def accepted(market: Shop) -> int:
    with market.simulator.lock:
        return len(market.simulator.model.jobs)


def told(market: Shop) -> list[dict[str, object]]:
    """What `status --json` says of each load."""
    lines = [json.loads(line) for line in market.run("status", "--json").out.splitlines()]
    return [line for line in lines if line["type"] == "status"]


def ended(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, (out, err)


def test_a_small_urgent_load_passes_a_large_one(tmp_path: Path) -> None:
    """A thousand rows for this evening's campaign must not wait for a night's worth of others."""
    write_leads(tmp_path / "large.csv", 6_000, bad_share=0)
    write_leads(tmp_path / "small.csv", 400, bad_share=0, first=100_001)
    with shop(tmp_path, quick(seconds_per_job=0.5)) as market:
        large = market.start("load", "large.csv")
        wait_until("the large load is under way", lambda: accepted(market) >= 8)
        urgent = market.run("load", "small.csv", "--priority", "high")
        assert urgent.code == 0, urgent
        assert large.poll() is None, "the large load was over before the small one"
        with market.simulator.lock:
            assert len(market.simulator.model.jobs) < 60, "the large load went on as if nobody else were there"
        ended(large)
        state = market.simulator.truth()
        assert state["most_ours"] <= 10
        assert state["rows_accepted"] == 6_400


def test_equal_loads_share_the_slots_and_neither_starves(tmp_path: Path) -> None:
    """The one that came first would otherwise take every slot that comes free."""
    write_leads(tmp_path / "first.csv", 6_000, bad_share=0)
    write_leads(tmp_path / "second.csv", 2_000, bad_share=0, first=100_001)
    with shop(tmp_path, quick(seconds_per_job=0.4)) as market:
        first = market.start("load", "first.csv")
        wait_until("the first load fills the queue", lambda: accepted(market) >= 8)
        second = market.start("load", "second.csv")
        ended(second)
        assert first.poll() is None
        ended(first)
    with sqlite3.connect(tmp_path / ".orchestrator" / "ledger.db") as ledger:
        order = [
            name.rpartition("/")[2]
            for (name,) in ledger.execute(
                "SELECT l.source_path FROM offers o JOIN loads l ON l.id = o.load_id ORDER BY o.offered_at"
            )
        ]
    ledger.close()
    together = order[order.index("second.csv") : len(order) - order[::-1].index("second.csv")]
    share = together.count("second.csv") / len(together)
    assert 0.35 < share < 0.75, (share, order)


def test_status_says_what_a_running_load_waits_for(tmp_path: Path) -> None:
    """Nothing moves and nobody knows why: the question that gets people out of bed."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0)
    with shop(tmp_path) as market:
        market.simulator.occupy(10)
        load = market.start("load", "leads.csv")
        wait_until("it says so", lambda: any("queue is full" in str(one["waiting_for"]) for one in told(market)))
        (one,) = told(market)
        assert one["state"] == "running"
        assert one["waiting_since"] is not None
        plain = market.run("status").out
        assert "waiting for a slot: Marketo's queue is full, 0 of it ours; others hold the rest since" in plain
        market.simulator.release(10)
        ended(load)
        assert "waiting" not in market.run("status").out


def test_status_says_that_a_load_may_not_make_more_calls(tmp_path: Path) -> None:
    """The limit is our own: whoever set it must find it."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0)
    with shop(tmp_path) as market:
        load = market.start("load", "leads.csv", ORCHESTRATOR_LIMITS__CALLS_PER_20S="4")
        wait_until("it says so", lambda: any("limits.calls_per_20s" in str(one["waiting_for"]) for one in told(market)))
        load.terminate()
        load.communicate(timeout=60)


def test_status_says_why_a_load_stopped_early(tmp_path: Path) -> None:
    """The process is gone: what it knew must not be."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0)
    with shop(tmp_path, quick(calls_used_before=0)) as market:
        done = market.run(
            "load",
            "leads.csv",
            ORCHESTRATOR_LIMITS__CALLS_PER_DAY="40",
            ORCHESTRATOR_LIMITS__RESERVE_CALLS_PER_DAY="20",
        )
        assert done.code == 75, done
        until = r"stopped: the day's calls are used up until 06:05 UTC on \d{4}-\d{2}-\d{2}: "
        assert re.search(until, market.run("status").out)
        with market.simulator.lock:
            calls = market.simulator.model.calls
            assert sum(calls.values()) - calls["token"] <= 24, calls
        again = market.run("load", "leads.csv")
        assert again.code == 0, again


def test_status_says_which_doubts_stopped_a_load(tmp_path: Path) -> None:
    """Somebody has to look into Marketo for just these chunks."""
    write_leads(tmp_path / "leads.csv", 400, bad_share=0)
    with shop(tmp_path) as market:
        with market.simulator.lock:
            market.simulator.model.faults.scripted.append(Scripted("drop", "create", after=1))
        done = market.run("load", "leads.csv", "--on-doubt", "stop", ORCHESTRATOR_LIMITS__DOUBT_LEASE="1")
        assert done.code == 75, done
        (one,) = told(market)
        held = re.fullmatch(r"1 chunk may or may not have been imported \(chunk \d\); --on-doubt is stop", _why(one))
        assert held is not None, one
        assert f"stopped: {held[0]}" in market.run("status").out


def test_a_ledger_that_is_reached_by_a_link_has_the_same_owners(tmp_path: Path) -> None:
    """Two names of one ledger: the second process would take uploads of the first for a dead one's, and lose them."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0)
    (tmp_path / "link.db").symlink_to(tmp_path / ".orchestrator" / "ledger.db")
    with shop(tmp_path, quick(seconds_per_job=0.5)) as market:
        load = market.start("load", "leads.csv")
        wait_until("it is under way", lambda: accepted(market) >= 2)
        second = market.run("load", "leads.csv", ORCHESTRATOR_STATE__LEDGER="sqlite:///link.db")
        assert second.code == 75, second
        assert f"is being run by process {load.pid}" in second.err
        ended(load)


def _why(told: dict[str, object]) -> str:
    return str(told["waiting_for"])


def test_a_plan_foretells_what_waits_before_it_and_that_a_list_takes_one_batch_at_a_time(tmp_path: Path) -> None:
    """A load that ends an hour after it was said to is a campaign that goes to half of its people."""
    write_leads(tmp_path / "before.csv", 400, bad_share=0)
    write_leads(tmp_path / "now.csv", 2_000, bad_share=0, first=100_001)
    write_leads(tmp_path / "next.csv", 400, bad_share=0, first=200_001)

    def foretold(*flags: str) -> float:
        return float(market.run("plan", "next.csv", "--json", *flags).summary["seconds"])

    with shop(tmp_path, quick(seconds_per_job=1.0)) as market:
        assert market.run("load", "before.csv").code == 0
        alone = foretold()
        assert foretold("--list-id", "1001") == pytest.approx(2 * alone)
        load = market.start("load", "now.csv")
        wait_until("what is queued counts", lambda: foretold() > alone + 0.3)
        load.kill()
        load.communicate()


def test_a_plan_says_whether_its_calls_fit_into_the_day(tmp_path: Path) -> None:
    """A load that stops in the middle of the night for want of calls could have been begun after midnight."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0)
    with shop(tmp_path) as market:
        short = market.run("plan", "leads.csv", ORCHESTRATOR_LIMITS__CALLS_PER_DAY="5020")
        told = re.search(r"more than today allows: the (\d+) that are left today", short.out)
        assert told is not None, short
        with market.simulator.lock:
            calls = market.simulator.model.calls
            assert int(told[1]) == 20 - (sum(calls.values()) - calls["token"]), calls  # asking is a call, too
        assert "it fits in the" in market.run("plan", "leads.csv").out
    offline = market.run("plan", "leads.csv", ORCHESTRATOR_MARKETO__BASE_URL="http://127.0.0.1:1")
    assert offline.code == 0, offline
    assert "left today" not in offline.out


def test_a_load_that_ends_while_its_owner_is_waited_for_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file in two daemons, or twice in one: both were told as loaded, and its rows counted twice."""
    write_leads(tmp_path / "leads.csv", 50, bad_share=0)
    with shop(tmp_path) as market:
        assert market.run("load", "leads.csv").code == 0
        monkeypatch.chdir(tmp_path)
        config = load_config(None, market.environment, {})
        take = locks.take

        def end(finished_at: float | None) -> None:
            with closing(sqlite3.connect(config.ledger_path)) as ledger, ledger:
                ledger.execute("UPDATE loads SET finished_at = ?", (finished_at,))

        def taken(ledger: Path, load_id: LoadId) -> locks.Ownership | None:
            monkeypatch.setattr(locks, "take", take)
            end(time.time())
            return None

        end(None)
        monkeypatch.setattr(locks, "take", taken)
        result = anyio.run(library.load, config, Path("leads.csv"), LoadOptions(config.target()))
        assert (result.already_finished, result.totals.imported) == (True, 50)
        assert accepted(market) == 1
