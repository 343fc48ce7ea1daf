"""Calls within the window, and polls where they are worth it."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.pace import WINDOW_S, CallWindow, poll_interval_s, quota_renews_at


@given(calls=st.integers(1, 20), gaps=st.lists(st.floats(0, 5), min_size=1, max_size=120))
def test_no_window_ever_holds_more_calls_than_allowed(calls: int, gaps: list[float]) -> None:
    """A bucket that refills while it bursts lets twice the limit through: 606 for everybody."""
    window, now, made = CallWindow(calls), 1000.0, []
    for gap in gaps:
        now = window.next_at(now + gap)
        window.made(now)
        made.append(now)
    for start in made:
        assert sum(start <= at < start + WINDOW_S for at in made) <= calls


def test_a_call_is_not_delayed_while_there_is_room() -> None:
    """Pacing must cost nothing below the limit."""
    window = CallWindow(2)
    window.made(100.0)
    assert window.next_at(100.5) == 100.5


def test_a_pause_stops_every_call_until_it_is_over() -> None:
    """606 counts calls of the whole subscription: going on would keep it over the limit."""
    window = CallWindow(50)
    window.pause(130.0)
    assert window.next_at(100.0) == 130.0


@given(
    position=st.integers(0, 9),
    importing_s=st.floats(0, 1e6),
    failures=st.integers(0, 500),
    bounds=st.tuples(st.floats(0.01, 10), st.floats(10, 60)),
)
def test_polls_stay_between_the_configured_bounds(
    position: int, importing_s: float, failures: int, bounds: tuple[float, float]
) -> None:
    """Faster than min_interval is what Marketo asks not to do; slower than max_interval the user would wait."""
    low, high = bounds
    interval = poll_interval_s(position, importing_s, failures, min_interval=low, max_interval=high)
    assert low <= interval <= high


def test_the_head_of_the_queue_is_asked_most_often() -> None:
    """Only the oldest two can end next: questions about the others are wasted calls."""
    intervals = [poll_interval_s(p, 0.0, 0, min_interval=5.0, max_interval=30.0) for p in range(10)]
    assert intervals[:2] == [5.0, 5.0]
    assert intervals == sorted(intervals)
    assert intervals[-1] == 30.0


def test_the_quota_is_renewed_after_midnight_in_chicago_whatever_the_season() -> None:
    """Too early means a refused call and another day lost; both readings of "CST" have passed by 06:05 UTC."""
    for now in (datetime(2026, 7, 1, 5, 30, tzinfo=UTC), datetime(2026, 12, 31, 23, 0, tzinfo=UTC)):
        at = datetime.fromtimestamp(quota_renews_at(now.timestamp()), UTC)
        assert (at.hour, at.minute) == (6, 5)
        assert 0 < (at - now).total_seconds() <= 86400
