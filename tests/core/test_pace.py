"""Calls within the window, and polls where they are worth it."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.expect import Expected
from orchestrator.core.pace import (
    ANSWERS_A_CHUNK,
    BUDGET_S,
    BUDGET_SCARCE_S,
    STRETCH_MAX,
    WINDOW_S,
    Budget,
    CallWindow,
    ask_at,
    ask_last_at,
    ask_unknown_at,
    calls_of,
    quota_renews_at,
    retry_s,
    stretch,
)


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
    batch_s=st.floats(0.01, 1e5),
    late_s=st.floats(0, 1e6),
    bounds=st.tuples(st.floats(0.01, 10), st.floats(10, 60)),
)
def test_questions_about_one_batch_stay_between_the_configured_bounds(
    batch_s: float, late_s: float, bounds: tuple[float, float]
) -> None:
    """Faster than min_interval is what Marketo asks not to do; slower than max_interval a late end goes unnoticed."""
    low, high = bounds
    assert low <= retry_s(batch_s, late_s, low, high) <= high


@given(asked_after=st.floats(0, 500), slack_s=st.floats(-1000, 1000), fast=st.floats(0, 1))
def test_no_batch_is_asked_after_twice_within_the_interval(asked_after: float, slack_s: float, fast: float) -> None:
    """However urgent it seems and however wrong the guess is."""
    expected = Expected(begins_at=1000.0, ends_at=1060.0, over_at=1060.0, others_before=False)
    asked_at = 1000.0 + asked_after
    bounds = {"put_off": 1.0, "min_interval_s": 5.0, "max_interval_s": 30.0}
    assert ask_at(expected, fast, asked_at, slack_s=slack_s, **bounds) >= asked_at + 5.0
    assert ask_last_at(expected, fast, asked_at, **bounds) >= asked_at + 5.0


def test_a_late_batch_is_asked_after_at_growing_intervals() -> None:
    """One that takes an hour instead of a minute must not cost seven hundred calls."""
    waits = [retry_s(20.0, late_s, 5.0, 30.0) for late_s in (0, 10, 20, 40, 1000)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (5.0, 30.0)


def test_the_last_batches_are_asked_after_tightly() -> None:
    """Nobody refills behind them, but somebody waits."""
    expected = Expected(begins_at=1000.0, ends_at=1060.0, over_at=1060.0, others_before=False)
    bounds = {"put_off": 1.0, "min_interval_s": 5.0, "max_interval_s": 30.0}
    assert ask_last_at(expected, 0.7, None, **bounds) < ask_at(expected, 0.7, None, slack_s=100.0, **bounds)
    assert ask_last_at(expected, 0.7, 1070.0, **bounds) == 1075.0


def test_the_head_of_an_unknown_queue_is_asked_most_often() -> None:
    """Only the oldest two can end next: questions about the others are wasted calls."""
    at = [ask_unknown_at(p, 0.0, 0.0, put_off=1.0, min_interval_s=5.0, max_interval_s=30.0) for p in range(10)]
    assert at[:2] == [5.0, 5.0]
    assert at == sorted(at)
    assert at[-1] == 30.0


@given(calls_left=st.integers(0, 1000), unsent=st.integers(0, 500), open_=st.integers(0, 10))
def test_questions_are_put_off_only_as_far_as_calls_are_short(calls_left: int, unsent: int, open_: int) -> None:
    """A rich day changes nothing; an unknown one neither."""
    factor = stretch(calls_left, unsent, open_)
    assert 1.0 <= factor <= STRETCH_MAX
    assert stretch(None, unsent, open_) == 1.0
    if calls_left >= unsent + ANSWERS_A_CHUNK * (unsent + open_):
        assert factor == 1.0


def test_the_calls_of_a_load_are_foretold_with_its_result_files() -> None:
    """Eight chunks with failures and warnings made 45 to 48 calls: who is told of 29 runs out of them in mid load."""
    assert 45 <= calls_of(8) <= 50


def test_the_quota_is_renewed_after_midnight_in_chicago_whatever_the_season() -> None:
    """Too early means a refused call and another day lost; both readings of "CST" have passed by 06:05 UTC."""
    for now in (datetime(2026, 7, 1, 5, 30, tzinfo=UTC), datetime(2026, 12, 31, 23, 0, tzinfo=UTC)):
        at = datetime.fromtimestamp(quota_renews_at(now.timestamp()), UTC)
        assert (at.hour, at.minute) == (6, 5)
        assert 0 < (at - now).total_seconds() <= 86400


@given(first=st.integers(1, 20), then=st.integers(1, 20), gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_a_pace_that_is_shared_from_now_on_holds_from_now_on(first: int, then: int, gaps: list[float]) -> None:
    """A second process begins: both together must keep within what one was allowed."""
    window, now = CallWindow(first), 1000.0
    made: list[float] = []
    for index, gap in enumerate(gaps):
        if index == len(gaps) // 2:
            window.allow(then)
            made.clear()
        now = window.next_at(now + gap)
        window.made(now)
        made.append(now)
    for start in made:
        assert sum(start <= at < start + WINDOW_S for at in made) <= then


def test_what_others_used_of_the_day_is_taken_off_when_it_is_asked_again() -> None:
    """The quota is everybody's: a load that counts its own calls only runs into 607 for all."""
    budget = Budget(1_000)
    assert budget.left(7) is None
    assert budget.ask_at(0) == 0.0
    budget = budget.told(100, 50.0, 7)
    assert budget.left(7) == 900
    assert budget.left(27) == 880
    assert budget.told(600, 700.0, 27).left(27) == 400
    assert budget.told(None, 700.0, 27).left(27) == 880


def test_the_days_calls_are_asked_again_more_often_when_few_are_left() -> None:
    """Ten minutes of a busy neighbour are more than the last hundred calls."""
    assert Budget(1_000).told(100, 50.0, 0).ask_at(0) == 50.0 + BUDGET_S
    assert Budget(1_000).told(950, 50.0, 0).ask_at(0) == 50.0 + BUDGET_SCARCE_S
