"""`make sim SEEDS=1000` or `SEEDS=5000-6000`: plays seeds in all processors and says what they went through.

A seed that breaks a promise prints one line that plays it again. With a single seed, it is played aloud. A long run
says every few minutes how far it is.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation import reached
from simulation.play import Outcome, play
from simulation.scenario import Scenario

AT_ONCE, LIFE = 25, 40
"""Seeds played in one go, and how many times a process does that before another takes its place."""
TELL_S = 180.0


def some(seeds: list[int]) -> list[Outcome | tuple[int, str]]:
    """What became of these seeds: an outcome, or why it broke a promise."""
    played: list[Outcome | tuple[int, str]] = []
    for seed in seeds:
        try:
            outcome = play(seed)
        except BaseException as error:  # noqa: BLE001 whatever it is, the seed is named
            played.append((seed, f"{type(error).__name__}: {error}"[:400]))
        else:
            outcome.told = outcome.trace = ()
            played.append(outcome)
    return played


def aloud(seed: int) -> int:
    """One seed, with what it stands for and the whole traceback."""
    print(Scenario.of(seed))
    try:
        print(play(seed))
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    return 0


class Sums:
    """What many seeds went through."""

    def __init__(self) -> None:
        self._begun = self._told = time.perf_counter()
        self.seeds = self.broken = 0
        self.virtual_s = self.healed_s = 0.0
        self.crashes, self.faults, self.stops, self.sums = (
            Counter[str](),
            Counter[str](),
            Counter[str](),
            Counter[str](),
        )
        self.reached = Counter[str]()

    def add(self, played: Outcome | tuple[int, str]) -> None:
        self.seeds += 1
        if isinstance(played, tuple):
            self.broken += 1
            print(f"seed {played[0]}: {played[1]}\n  again: make sim SEED={played[0]}", flush=True)
            return
        self.virtual_s += played.virtual_s
        self.healed_s = max(self.healed_s, played.healed_s)
        self.crashes += played.crashes
        self.faults += played.faults
        self.stops += played.stops
        self.sums += Counter(lives=played.lives, calls=played.calls, doubts=played.doubts)
        self.reached.update(set(played.reached))
        if time.perf_counter() - self._told > TELL_S:
            self._told = time.perf_counter()
            self.tell()

    def tell(self) -> None:
        seconds = time.perf_counter() - self._begun
        print(
            f"{self.seeds:,} seeds, {self.broken} broke a promise; {self.virtual_s / 3600:,.0f} virtual hours in "
            f"{seconds:,.0f} s: {self.seeds / seconds:.1f} seeds/s, {self.virtual_s / seconds:,.0f} times as fast",
            flush=True,
        )

    def tell_all(self) -> None:
        self.tell()
        sums = self.sums
        print(
            f"{sums['lives']:,} processes, {self.crashes.total():,} crashes, {sums['calls']:,} calls, "
            f"{self.faults.total():,} faults in {len(self.reached):,} pairs with states, {sums['doubts']:,} doubts; "
            f"at most {self.healed_s / 3600:.1f} h from the last fault to the end"
        )
        for name, counted in (("crashes", self.crashes), ("stops", self.stops), ("faults", self.faults)):
            print(f"{name}: " + ", ".join(f"{what} {count:,}" for what, count in sorted(counted.items())))


def main() -> int:
    first, _, last = sys.argv[1].partition("-")
    if "aloud" in sys.argv[2:]:
        return aloud(int(first))
    seeds = range(int(first), int(last)) if last else range(int(first))
    sums = Sums()
    # (concurrent.futures' pool comes to a stand where processes are replaced: python/cpython issue 115634.)
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=LIFE) as pool:
        for played in pool.imap(some, [list(seeds[at : at + AT_ONCE]) for at in range(0, len(seeds), AT_ONCE)]):
            for one in played:
                sums.add(one)
    sums.tell_all()
    if "reached" in sys.argv[2:]:
        print(f"{reached.write(sums.reached)} cells listed in {reached.LISTED}")
    return 1 if sums.broken else 0


if __name__ == "__main__":
    sys.exit(main())
