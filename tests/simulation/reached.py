"""Which fault met which state? A simulator that no longer injects what it used to finds nothing, and says nothing.

A cell is `fault @ state`: for a question about a batch the state of its chunk, else every state that a chunk then had.
`reached.txt` lists the cells that were seen in many of `make sim` seeds (`make sim SEEDS=600 ARGS=reached` writes it).
`make test` fails when one of them is hardly met any more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

LISTED = Path(__file__).with_name("reached.txt")
LISTED_SHARE = 1 / 40
"""Seeds that must have reached a cell for it to be listed: 75 of 3,000."""
AT_LEAST = 3
"""Of the 3,000 seeds of `make test`. Well below what chance may make of 75."""


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


def write(reached: Counter[str], seeds: int) -> int:
    """The list that these seeds make; how many cells it has."""
    states: defaultdict[str, list[str]] = defaultdict(list)
    for cell, count in sorted(reached.items()):
        if count >= seeds * LISTED_SHARE:
            fault, _, state = cell.rpartition(" @ ")
            states[fault].append(state)
    LISTED.write_text("".join(f"{fault}: {' '.join(those)}\n" for fault, those in states.items()), encoding="utf-8")
    return sum(map(len, states.values()))
