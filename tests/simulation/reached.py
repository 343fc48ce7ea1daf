"""Which fault met which state? A simulator that no longer injects what it used to finds nothing, and says nothing.

A cell is `fault @ state`: for a question about a batch the state of its chunk, else every state that a chunk then had.
`reached.txt` lists the cells that were seen in some of the first seeds (`make sim SEEDS=800 ARGS=reached` writes it).
`make test` fails when its seeds, all taken together, do not meet one of them any more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

LISTED = Path(__file__).with_name("reached.txt")
LISTED_FROM = 4
"""Seeds that must have reached a cell for it to be listed."""
AT_LEAST = 1
"""Of the seeds of `make test`, which those of the list are among."""


def missing(reached: Counter[str]) -> list[str]:
    """Listed cells that were reached in too few seeds."""
    return sorted(cell for cell in _listed() if reached[cell] < AT_LEAST)


def _listed() -> list[str]:
    lines = LISTED.read_text(encoding="utf-8").splitlines()
    return [
        f"{fault} @ {state}"
        for line in lines
        for fault, _, states in [line.rpartition(": ")]
        for state in states.split()
    ]


def write(reached: Counter[str]) -> int:
    """The list that these seeds make; how many cells it has."""
    states: defaultdict[str, list[str]] = defaultdict(list)
    for cell, count in sorted(reached.items()):
        if count >= LISTED_FROM:
            fault, _, state = cell.rpartition(" @ ")
            states[fault].append(state)
    LISTED.write_text("".join(f"{fault}: {' '.join(those)}\n" for fault, those in states.items()), encoding="utf-8")
    return sum(map(len, states.values()))
