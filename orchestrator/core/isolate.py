"""Which rows break a batch?

Marketo says of a batch that it `Failed`, never because of which row. So a chunk whose batch failed twice is halved, and
so is each part that fails, down to single rows: those that break a batch all alone are the ones. A single row is sent
twice before that is said of it. With one such row among n, about log2(n) parts fail.

When the service is broken and not the rows, everything fails: what may be spent is bounded, for a chunk of the plan and
for a load. Beyond that a part is reported as failed as a whole.

Sources: none. No document says why a batch fails, or what became of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

BATCHES_A_ROW = 4
"""How many rows of a chunk can be found before its budget is spent, about: each costs log2(rows) failed batches."""
BATCHES_OF_A_LOAD = 1_000
"""Failed batches of a load after which nothing is halved any more. Each costs an upload and two polls or more: beyond
some thousand calls, a tenth of a day's quota, the cause is not in the rows."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the search has cost so far."""

    root_rows: int
    """Rows of the chunk of the plan that is being searched."""
    root_failures: int
    """Batches of it and of its parts that ended Failed."""
    load_failures: int
    """Batches of the whole load that ended Failed."""


def budget(rows: int) -> int:
    """How many failed batches the search through a chunk of so many rows may cost."""
    return BATCHES_A_ROW * ceil(log2(rows)) + 8 if rows > 1 else 8


def is_worth_halving(rows: int, spent: Spent) -> bool:
    """Is a chunk (or part) of so many rows, whose batch failed for good, to be searched further?"""
    return rows > 1 and spent.root_failures <= budget(spent.root_rows) and spent.load_failures <= BATCHES_OF_A_LOAD
