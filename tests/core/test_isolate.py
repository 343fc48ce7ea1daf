"""Which rows break a batch, and what may the search for them cost?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.isolate import BATCHES_OF_A_LOAD, Spent, budget, is_worth_halving
from orchestrator.core.lifecycle import BATCH_FAILURES_ALLOWED


def search(rows: int, bad: set[int]) -> tuple[list[range], int]:
    """The parts that are reported as failed, and how many batches ended Failed, as the lifecycle counts them."""
    reported: list[range] = []
    failures = 0
    parts = [range(rows)]
    while parts:
        part = parts.pop(0)
        if not bad.intersection(part):
            continue
        failures += 1 + BATCH_FAILURES_ALLOWED * (len(part) in (1, rows))
        if is_worth_halving(len(part), Spent(rows, failures, failures)):
            middle = len(part) // 2
            parts += [part[:middle], part[middle:]]
        else:
            reported.append(part)
    return reported, failures


@given(rows=st.integers(2, 40_000), data=st.data())
def test_a_bad_row_is_found_alone_and_the_others_get_through(rows: int, data: st.DataObject) -> None:
    """One row of thirty thousand must not keep the rest of its chunk out of Marketo."""
    bad = data.draw(st.integers(0, rows - 1))
    reported, failures = search(rows, {bad})
    assert reported == [range(bad, bad + 1)]
    assert failures <= budget(rows)


@pytest.mark.parametrize("rows", [2, 3, 100, 30_000])
def test_when_everything_fails_the_search_ends_soon(rows: int) -> None:
    """A broken instance must not turn a chunk into sixty thousand batches."""
    reported, failures = search(rows, set(range(rows)))
    assert sum(len(part) for part in reported) == rows, "every row is reported as failed, once"
    assert failures <= 3 * budget(rows)


def test_a_load_in_which_everything_fails_is_not_searched_chunk_by_chunk() -> None:
    """Thousands of chunks, each with a budget of its own, would cost the quota of days."""
    assert is_worth_halving(100, Spent(100, 2, BATCHES_OF_A_LOAD))
    assert not is_worth_halving(100, Spent(100, 2, BATCHES_OF_A_LOAD + 1))


def test_a_single_row_is_never_halved() -> None:
    """A row is never cut."""
    assert not is_worth_halving(1, Spent(100, 2, 2))
