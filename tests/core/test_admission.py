"""What refusals and acceptances say of the queue, from plain values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.admission import PLACES, PROBED_WITHIN_S, Admission, depth
from orchestrator.core.expect import Over, Past, Speed, learn

NOW = 10_000.0


def speed_of(seconds: float) -> Speed:
    ends = [NOW - 10 * seconds + i * seconds / 2 for i in range(16)]
    speed = learn([Past(10, at - seconds - 1, at - seconds, None, at - seconds, at - seconds / 50, at) for at in ends])
    assert speed is not None
    return speed


def over(accepted_at: float, over_at: float, noticed_at: float) -> Over:
    return Over(accepted_at, over_at, noticed_at, over_at)


@given(held=st.integers(0, 10), room=st.integers(0, 10), refused=st.integers(0, 10), later=st.floats(0, 1e5))
def test_no_more_than_ten_and_after_a_refusal_at_most_one_beyond_what_fits(
    held: int, room: int, refused: int, later: float
) -> None:
    """Ten uploads of ten megabytes that are refused are a hundred megabytes for nothing."""
    queue = Admission(room=room).refused(NOW, refused)
    ceiling = queue.ceiling(NOW + later, held, held, NOW + 60.0)
    assert ceiling <= PLACES
    assert ceiling - max(refused, held) <= 1


def test_a_probe_comes_only_when_all_that_fits_is_there_and_nothing_is_on_its_way() -> None:
    """A probe beside a refill is two uploads refused instead of one."""
    queue = Admission().refused(NOW, 3)
    assert queue.ceiling(NOW + 70, 2, 2, NOW + 60) == 3
    assert queue.ceiling(NOW + 70, 3, 2, NOW + 60) == 3
    assert queue.ceiling(NOW + 70, 3, 3, NOW + 60) == 4
    assert queue.ceiling(NOW + 50, 3, 3, NOW + 60) == 3


def test_refusals_in_a_row_are_waited_out_longer_and_longer() -> None:
    """A neighbour that stays must not cost an upload a minute for hours."""
    queue, waits, unknown = Admission(), list[float](), list[float]()
    speed = speed_of(60.0)
    for _ in range(8):
        queue = queue.refused(NOW, 2)
        waits.append((queue.probe_at(speed, 30.0) - NOW) / speed.batch_s)
        unknown.append(queue.probe_at(None, 30.0) - NOW)
    assert waits == [8, 16, 16, 16, 16, 16, 16, 16]
    assert unknown == [60, 180, 540, 1620, 1620, 1620, 1620, 1620]
    assert queue.accepted(3).probe_at(speed, 30.0) == 0.0
    assert Admission().refused(NOW, 0).probe_at(speed_of(20_000.0), 30.0) == NOW + PROBED_WITHIN_S, "a night's batch"


def test_what_was_over_without_our_knowing_took_no_place_at_the_refusal() -> None:
    """Counting it would send the next upload to be refused as well."""
    queue = Admission().refused(NOW, 4)
    unnoticed = [over(NOW - 60, NOW - 5, NOW + 3), over(NOW - 60, NOW - 2, NOW + 4)]
    assert queue.ceiling(NOW + 5, 2, 2, NOW + 60, unnoticed) == 2
    assert queue.ceiling(NOW + 5, 2, 2, NOW + 60) == 3


def test_a_batch_that_goes_through_much_quicker_says_that_places_are_free_again() -> None:
    """Waiting for the clock alone would leave the processors idle when the neighbours have left."""
    queue = Admission().refused(NOW, 1).refused(NOW, 1).refused(NOW, 1)
    slow = over(NOW - 100, NOW + 200, NOW + 210)
    assert queue.ceiling(NOW + 280, 1, 1, NOW + 9999, [slow, over(NOW + 210, NOW + 270, NOW + 275)]) == 2
    assert queue.ceiling(NOW + 480, 1, 1, NOW + 9999, [slow, over(NOW + 210, NOW + 460, NOW + 475)]) == 1


def test_a_queue_that_is_ours_alone_is_filled_within_nine_rounds() -> None:
    """Both processors at once, then one more at a time: nobody knows yet how many fit."""
    queue, held, rounds = Admission(), 0, 0
    while held < PLACES:
        held = queue.ceiling(NOW, held, held, 0.0)
        queue = queue.accepted(held)
        rounds += 1
    assert rounds == 9


def test_quick_batches_need_a_deep_queue_and_long_ones_a_shallow_one() -> None:
    """As many must wait as the processors can end before an end is noticed and the next upload is through."""
    depths = [depth(speed_of(seconds), min_interval_s=5.0, max_interval_s=30.0) for seconds in (1, 5, 20, 60, 600)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == PLACES
    assert 3 <= depths[-1] <= 5
    assert depth(None, min_interval_s=5.0, max_interval_s=30.0) == PLACES
