"""Files dropped while the daemon is killed again and again: `python tests/e2e/daemon_kills.py FILES`.

Each file must be loaded once, and its report must be right, as if nobody had ever been killed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).parent.parent))

from e2e.daemon import Daemon, drop, ended, people, report_of
from e2e.shop import Shop, quick, rows_received, shop

LIFE_S = (0.4, 2.5)
"""How long a daemon lives after it is ready."""
LEASE_S = "2"


@dataclass
class Told:
    """What happened on the way."""

    files: int
    kills: int = 0
    doubts: int = 0
    copies: int = 0
    """Batches that Marketo has beside those of the reports: each must be a doubt's."""


def play(folder: Path, files: int, seed: int, over_s: float) -> Told:
    """Drop so many files within so many seconds, kill until all are over, and look at everything.

    Raises AssertionError when a promise is broken.
    """
    rng, told = Random(seed), Told(files)
    wanted = {f"{n:04}.csv": (rng.randrange(1, 600), rng.randrange(0, 3)) for n in range(files)}
    with shop(folder, quick(seconds_per_job=0.03, keep_bodies=True)) as market:
        dropped, dropper = Event(), Random(seed + 1)

        def drop_them() -> None:
            for name, (rows, bad) in wanted.items():
                drop(folder / "inbox", name, people(f"f{name[:4]}x", rows, min(bad, rows)))
                time.sleep(dropper.uniform(0, 2 * over_s / files))
            dropped.set()

        thread = Thread(target=drop_them)
        thread.start()
        while not (dropped.is_set() and len(ended(folder / "done")) >= files * 0.9):
            _one_life(market, rng)
            told.kills += 1
        thread.join()
        last = Daemon(market, ORCHESTRATOR_LIMITS__DOUBT_LEASE=LEASE_S)
        last.ready()
        last.until(lambda: len(ended(folder / "done")) == files)
        assert last.end() == 143
        _check(market, wanted, told)
    return told


def _one_life(market: Shop, rng: Random) -> None:
    """A daemon from its start to its sudden end; sometimes before it is ready."""
    one = Daemon(market, ORCHESTRATOR_LIMITS__DOUBT_LEASE=LEASE_S)
    try:
        if rng.random() < 0.1:
            time.sleep(rng.uniform(0.05, 0.6))
        else:
            one.ready()
            time.sleep(rng.uniform(*LIFE_S))
        assert one.process.poll() is None, "".join(one.text)
    finally:
        one.kill()


def _check(market: Shop, wanted: dict[str, tuple[int, int]], told: Told) -> None:
    folder = market.folder
    assert sorted(path.name for path in (folder / "work").iterdir()) == [".lock"]
    assert list((folder / "inbox").iterdir()) == []
    assert list((folder / "failed").iterdir()) == []
    done = ended(folder / "done")
    assert len(list((folder / "done").iterdir())) == len(wanted), "each file was taken once"
    assert set(done) == set(wanted)
    known: set[int] = set()
    for name, (rows, bad) in wanted.items():
        report = report_of(market, done[name]).json
        totals, failed = report["totals"], min(bad, rows)
        assert (totals["rows"], totals["imported"], totals["failed"]) == (rows, rows - failed, failed), (name, totals)
        assert (totals["unknown"], totals["unsent"]) == (0, 0), (name, totals)
        assert done[name]["exit_code"] == report["exit_code"] == (3 if failed else 0)
        assert done[name]["result"]["totals"] == totals
        told.doubts += len(report["doubts"])
        known |= {batch["batch_id"] for batch in report["batches"] if batch["batch_id"] is not None}
    truth = market.simulator.truth()
    told.copies = len([batch for batch in truth["batches"] if batch["batch_id"] not in known])
    assert told.copies <= told.doubts, "every copy is a doubt that was told"
    rules = Counter(violation["rule"] for violation in truth["violations"])
    assert set(rules) <= {"the same file twice"}, rules
    assert rules["the same file twice"] <= told.doubts, "nothing is sent twice but after a doubt"
    assert truth["most_ours"] <= 10, "never an eleventh job"
    received = Counter(row[0] for row in rows_received(market.simulator) if row[0])
    missing = sum(rows - min(bad, rows) for rows, bad in wanted.values()) - len(received)
    assert missing == 0, f"{missing} rows never came"


def main() -> int:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        told = play(Path(folder), files, seed, over_s=files / 3)
    seconds = time.monotonic() - begun
    print(
        f"seed {seed}: {told.files} files, {told.kills} kills in {seconds:,.0f} s: each loaded once, each report right"
    )
    print(f"{told.doubts} uploads whose answer was lost; Marketo had {told.copies} of them twice, as the reports say")
    return 0


if __name__ == "__main__":
    sys.exit(main())
