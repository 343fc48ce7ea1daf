"""Real processes killed over and over, each load compared with one that never was: `make kills KILLS=500`.

A load of a few thousand rows runs against a simulator on loopback. Its process is killed after a random time, or kills
itself at a named point (`killed.py`), and the same command is run again, until it is let be.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent))

from e2e import killed
from e2e.shop import Report, Shop, quick, shop

from orchestrator.simulator.http import SimulatorServer
from orchestrator.simulator.leads import write_leads
from orchestrator.simulator.settings import Settings

ROWS = 1_500
LEASE_S = "4"
LEADS_SEED = 7

Judged = list[tuple[str, int, str]]


@dataclass
class Killed:
    """What became of one load whose processes were killed."""

    kills: Counter[str] = field(default_factory=Counter)
    """By point; "at random" for those killed from outside."""
    doubts: int = 0
    copies: int = 0
    """Batches that Marketo has and the report does not know: each must be a doubt's."""
    ready_s: list[float] = field(default_factory=list)
    """From each restart to its first call."""


def settings() -> Settings:
    return quick(seconds_per_job=0.3, rows_per_second=5_000.0)


@cache
def never_killed() -> tuple[dict[str, int], Judged]:
    """The same load, left in peace: its totals, and what its report says of which row."""
    with tempfile.TemporaryDirectory() as folder, shop(Path(folder), settings()) as market:
        write_leads(Path(folder, "leads.csv"), ROWS, bad_share=0.03, seed=LEADS_SEED)
        done = market.run("load", "leads.csv")
        assert done.code == 3, done
        report = market.report()
        return report.json["totals"], report.judged()


def kill(folder: Path, seed: int, kills: int, point: str | None = None) -> Killed:
    """One load, killed so many times (at `point`, or wherever the seed says), then left to end, and looked at.

    Raises AssertionError when it does not end as the load that was never killed.
    """
    rng, told = Random(seed), Killed()
    write_leads(folder / "leads.csv", ROWS, bad_share=0.03, seed=LEADS_SEED)
    with shop(folder, settings()) as market:
        for _ in range(kills):
            where = point or rng.choice(["at random", "at random", *killed.POINTS])
            if not _one_life(market, where, rng, told):
                break
        done = market.run("load", "leads.csv", ORCHESTRATOR_LIMITS__DOUBT_LEASE=LEASE_S)
        assert done.code == 3, done
        _check(market.report(), market.simulator, told)
    return told


def _one_life(market: Shop, where: str, rng: Random, told: Killed) -> bool:
    """Run the command once and have it killed; False when it came to its end before that."""
    calls, begun = _calls(market.simulator), time.monotonic()
    if where == "at random":
        process = market.start("load", "leads.csv", ORCHESTRATOR_LIMITS__DOUBT_LEASE=LEASE_S)
    else:
        process = market.start_script(
            killed.__file__,
            where,
            str(rng.randint(1, 9)),
            "load",
            "leads.csv",
            ORCHESTRATOR_LIMITS__DOUBT_LEASE=LEASE_S,
        )
    kill_at = begun + rng.uniform(0.3, 2.5) if where == "at random" else float("inf")
    while process.poll() is None:
        if time.monotonic() >= kill_at:
            process.kill()
        try:
            process.wait(0.005)
        except subprocess.TimeoutExpired:
            if calls >= 0 and _calls(market.simulator) > calls:
                told.ready_s.append(time.monotonic() - begun)
                calls = -1
    out, err = process.communicate()
    assert process.returncode in (-9, 3), (process.returncode, out, err)
    told.kills[where] += process.returncode == -9
    return process.returncode == -9


def _calls(simulator: SimulatorServer) -> int:
    with simulator.lock:
        return sum(simulator.model.calls.values())


def _check(report: Report, simulator: SimulatorServer, told: Killed) -> None:
    totals, judged = never_killed()
    state = simulator.truth()
    told.doubts = len(report.json["doubts"])
    rules = Counter(violation["rule"] for violation in state["violations"])
    assert rules["the same file twice"] <= told.doubts, "nothing is sent twice but after a doubt"
    assert set(rules) <= {"the same file twice"}, rules
    assert state["most_ours"] <= 10, "never an eleventh job"
    known = {batch["batch_id"] for batch in report.json["batches"]}
    copies = [batch for batch in state["batches"] if batch["batch_id"] not in known]
    told.copies = len(copies)
    assert told.copies <= told.doubts, "every copy is a doubt that was told"
    assert report.json["totals"] == totals, (report.json["totals"], totals)
    assert sorted(report.judged()) == sorted(judged), "the report is that of the load that was never killed"


def main() -> int:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    never_killed()
    kills, ready, doubts, copies, loads, broken, begun = Counter[str](), list[float](), 0, 0, 0, 0, time.monotonic()

    def one(seed: int) -> Killed | str:
        with tempfile.TemporaryDirectory() as folder:
            try:
                return kill(Path(folder), seed, 12)
            except AssertionError as error:
                return f"seed {seed}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seed = first
        while kills.total() < wanted:
            batch = range(seed, seed + 2 * (os.cpu_count() or 1))
            seed = batch.stop
            for told in pool.map(one, batch):
                loads += 1
                if isinstance(told, str):
                    broken += 1
                    print(told, flush=True)
                    continue
                kills += told.kills
                ready += told.ready_s
                doubts, copies = doubts + told.doubts, copies + told.copies
    seconds = time.monotonic() - begun
    print(f"{loads} loads, {kills.total()} kills, {broken} broke a promise; {seconds:,.0f} s")
    print(f"{doubts} doubts, {copies} of them had reached Marketo")
    print("kills: " + ", ".join(f"{point} {count}" for point, count in sorted(kills.items())))
    cuts = statistics.quantiles(ready, n=100)
    print(f"from restart to the first call: p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
