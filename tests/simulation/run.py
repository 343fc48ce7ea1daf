"""`make sim SEEDS=1000` or `SEEDS=5000-6000`: plays seeds in all processors and says what they went through.

A seed that breaks a promise prints one line that plays it again. With a single seed, it is played aloud.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.play import Outcome, play
from simulation.scenario import Scenario

AT_ONCE = 50


def some(seeds: list[int]) -> list[Outcome | tuple[int, str]]:
    """What became of these seeds: an outcome, or why it broke a promise."""
    played: list[Outcome | tuple[int, str]] = []
    for seed in seeds:
        try:
            played.append(play(seed))
        except BaseException as error:  # noqa: BLE001 whatever it is, the seed is named
            played.append((seed, f"{type(error).__name__}: {error}"[:400]))
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


def main() -> int:
    first, _, last = sys.argv[1].partition("-")
    if not last and len(sys.argv) > 2:
        return aloud(int(first))
    seeds = list(range(int(first), int(last))) if last else list(range(int(first)))
    begun = time.perf_counter()
    virtual_s, broken = 0.0, 0
    crashes, faults, stops, sums = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for played in pool.map(some, [seeds[at : at + AT_ONCE] for at in range(0, len(seeds), AT_ONCE)]):
            for one in played:
                if isinstance(one, tuple):
                    broken += 1
                    print(f"seed {one[0]}: {one[1]}\n  again: make sim SEED={one[0]}", flush=True)
                    continue
                virtual_s += one.virtual_s
                crashes += one.crashes
                faults += one.faults
                stops += one.stops
                sums += Counter(lives=one.lives, calls=one.calls, doubts=one.doubts)
    seconds = time.perf_counter() - begun
    print(f"{len(seeds):,} seeds, {broken} broke a promise; {virtual_s / 3600:,.0f} virtual hours in {seconds:,.0f} s")
    print(
        f"{sums['lives']:,} processes, {crashes.total():,} crashes, {sums['calls']:,} calls, {sums['doubts']:,} doubts"
    )
    for name, counted in (("crashes", crashes), ("stops", stops), ("faults", faults)):
        print(f"{name}: " + ", ".join(f"{what} {count:,}" for what, count in sorted(counted.items())))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
