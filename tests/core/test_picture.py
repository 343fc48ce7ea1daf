"""What the page draws, as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import Offer, Totals
from orchestrator.core.picture import BINS, VISIBLE_MIN, WIDTH, TimeLine, parts_of

COUNTS = st.one_of(st.just(0), st.integers(1, 3), st.integers(1, 10**8))


@given(imported=COUNTS, warned=COUNTS, failed=COUNTS, rejected=COUNTS, unsent=COUNTS, unknown=COUNTS)
def test_the_bar_is_full_and_every_part_of_it_is_seen(
    imported: int, warned: int, failed: int, rejected: int, unsent: int, unknown: int
) -> None:
    """Ten failed rows of ten million are what somebody opens the page for."""
    warned = min(imported, warned)
    rows = imported + failed + rejected + unsent + unknown
    parts = parts_of(Totals(rows, imported, failed, warned, rejected, unsent, unknown))
    assert sum(part.rows for part in parts) == rows
    assert all(part.width >= VISIBLE_MIN - 1e-6 for part in parts)
    if parts:
        assert sum(part.width for part in parts) == pytest.approx(WIDTH)
        assert parts[-1].x + parts[-1].width == pytest.approx(WIDTH)
        assert sum(part.share for part in parts) == pytest.approx(1)


def line_of(*batches: tuple[float, float | None, float | None, int]) -> TimeLine:
    line = TimeLine()
    for accepted, importing, ended, rows in batches:
        offer = Offer(1, accepted, 1, accepted_at=accepted, importing_first_at=importing, ended_at=ended)
        line.add(offer, rows)
    return line


def test_two_batches_at_a_time_are_drawn_as_two() -> None:
    """Marketo imports two at a time: whether both were busy is how well the queue was kept full."""
    line = line_of((0, 0, 50, 10), (0, 0, 50, 10), (0, 50, 100, 20), (0, 50, 100, 60))
    curves = line.curves()
    assert curves is not None
    assert set(curves.importing) == {2.0}
    assert curves.queued[: BINS // 2] == (2.0,) * (BINS // 2)
    assert set(curves.queued[BINS // 2 :]) == {0.0}
    assert (curves.both_busy_share, curves.most) == (1.0, 4)
    assert (curves.rows_done[BINS // 2 - 1], curves.rows_done[-1]) == (0, 100)
    assert curves.rows_per_s == 1.0
    assert curves.best_rows_per_s == 8.0


def test_a_batch_that_nobody_saw_importing_began_when_a_processor_was_free() -> None:
    """Between two questions whole batches pass: drawn as waiting to their end, the queue would look idle."""
    line = line_of((1, None, 30, 10), (0, 0, 20, 10), (2, None, 50, 10), (3, None, None, 10))
    widths = [(lane.queued[1], lane.importing[1]) for lane in line.lanes(4)]
    assert widths == [(0, 580), (0, 400), (360, 600), (940, 0)]
    curves = line.curves()
    assert curves is not None
    assert max(curves.importing) == 2.0


def test_one_lane_that_stands_still_is_seen() -> None:
    """Half of the speed was paid for nothing."""
    curves = line_of((0, 0, 100, 10), (0, 0, 50, 10)).curves()
    assert curves is not None
    assert curves.both_busy_share == pytest.approx(0.5)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6), st.none() | st.floats(0, 1e6), st.none() | st.floats(0, 1e6), st.integers(1, 10**6)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_no_time_is_drawn_outside_of_the_picture(
    batches: list[tuple[float, float | None, float | None, int]],
) -> None:
    """Clocks jump, and a stopped load has batches without an end: the page must be drawn all the same."""
    line = line_of(*batches)
    for lane in line.lanes(30):
        for x, width in (lane.sending, lane.queued, lane.importing):
            assert x >= 0
            assert width >= 0
            assert x + width <= WIDTH + 1e-6
    curves = line.curves()
    if curves is not None:
        assert all(0 <= height <= curves.most for height in curves.importing)
        total = sum(curves.importing) + sum(curves.queued)
        assert total == pytest.approx(
            sum(lane.queued[1] + lane.importing[1] for lane in line.lanes(30)) / WIDTH * BINS, abs=1e-3
        )
        assert curves.both_busy_share is None or 0 <= curves.both_busy_share <= 1


def test_a_load_of_no_time_has_no_curve() -> None:
    """A load may end within the second."""
    assert TimeLine().curves() is None
    assert line_of((5, None, 5, 1)).curves() is None
    assert line_of((5, None, 5, 1)).lanes(1)[0].importing[1] == 0
