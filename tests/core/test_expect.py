"""Expected ends, against a queue that is known."""

from __future__ import annotations

from random import Random

import pytest

from orchestrator.core.expect import LEARNED_FROM, OWN_ROWS, Past, expect, learn, seconds_left, work
from orchestrator.core.model import BatchId, ChunkNumber, LoadId, Offer, Standing, State

NOW = 10_000.0


def history(seconds: float, spread: float = 0.0, lag: float = 0.2, seed: int = 1) -> list[Past]:
    """Batches of ten rows through a queue that is never empty; each was seen importing halfway, and over a bit late."""
    rng, free, past = Random(seed), [0.0, 0.0], list[Past]()
    for _ in range(LEARNED_FROM):
        began = min(free)
        free.remove(began)
        ended = began + seconds * rng.uniform(1 - spread, 1 + spread)
        free.append(ended)
        noticed = ended + lag * seconds
        past.append(Past(10, -5.0, -4.0, None, began + 0.1 * seconds, ended - 0.1 * seconds, noticed))
    return past


def waiting(number: int, accepted_at: float, rows: int = 10, **offer: float) -> Standing:
    made = Offer(1, accepted_at - 1, number, BatchId(number), accepted_at=accepted_at, **offer)  # type: ignore[arg-type]
    return Standing(LoadId("mine"), ChunkNumber(number), rows, State.QUEUED, attempts=1, offer=made)


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_how_long_a_row_takes_is_learned_from_batches_that_are_over(spread: float) -> None:
    """Everything that is asked later than needed or sooner rests on it."""
    speed = learn(history(60.0, spread))
    assert speed is not None
    assert 45 < speed.batch_s < 75
    assert speed.batch_s == pytest.approx((10 + OWN_ROWS) * speed.row_s)
    assert speed.upload_s == 1.0


def test_a_handful_of_rows_does_not_teach_that_a_large_file_takes_days() -> None:
    """Most of half a minute is what a job costs by itself: who believed otherwise would not ask for half an hour."""
    speed = learn([Past(5, at, at + 1, None, None, None, at + 30) for at in (0.0, 100.0, 200.0)])
    assert speed is not None
    (small, large) = expect([waiting(1, NOW, rows=5), waiting(2, NOW, rows=50_000)], speed)
    assert 10 < small.batch_s < 40
    assert 60 < large.batch_s < 1_800


def test_nothing_is_known_before_the_first_batch_is_over() -> None:
    """A guess would be a number nobody measured."""
    assert learn([]) is None


def test_ends_noticed_late_do_not_make_the_guess_go_up_and_up() -> None:
    """A guess that is too long is asked after late, which looks like a long batch: it must come down by itself."""
    guess, rounds = 10.0, 0
    while guess > 1.3 and rounds < 12:
        asked = 1.25 * 10 * guess  # every batch of ten seconds is found over at the first question
        late = [Past(10, at - 1, at, None, None, None, at + asked) for at in (i * asked / 2 for i in range(16))]
        speed = learn(late)
        assert speed is not None
        guess, rounds = speed.batch_s / 10, rounds + 1
    assert rounds < 12


def test_a_batch_begins_when_all_but_one_before_it_are_over() -> None:
    """First in, first out with two processors."""
    speed = learn(history(60.0))
    assert speed is not None
    batches = [waiting(i, NOW + i / 10) for i in range(1, 6)]
    expected = expect(batches, speed)
    assert [round(one.begins_at - NOW) for one in expected[:2]] == [0, 0]
    assert expected[2].begins_at == pytest.approx(expected[0].ends_at)
    assert expected[4].begins_at == pytest.approx(expected[2].ends_at)
    assert [one.ends_at for one in expected] == sorted(one.ends_at for one in expected)


def test_a_batch_seen_unfinished_after_its_time_holds_up_those_behind_it() -> None:
    """A heavy tail must not have the whole queue asked in vain."""
    speed = learn(history(60.0))
    assert speed is not None
    late = waiting(1, NOW, importing_first_at=NOW + 1, importing_last_at=NOW + 400)
    (first, second, third) = expect([late, waiting(2, NOW + 0.1), waiting(3, NOW + 0.2)], speed)
    assert first.over_at > NOW + 400
    assert third.begins_at == pytest.approx(second.ends_at)


def test_a_batch_that_waits_although_both_processors_should_be_free_tells_of_others() -> None:
    """They are seen by nothing else as long as the queue is not full."""
    speed = learn(history(60.0))
    assert speed is not None
    (one,) = expect([waiting(1, NOW, queued_last_at=NOW + 50)], speed)
    assert one.others_before
    assert one.begins_at > NOW + 50
    (two,) = expect([waiting(1, NOW)], speed)
    assert not two.others_before


def test_batches_into_a_static_list_have_one_processor() -> None:
    """They go one after the other: an ETA that counts on the second one is half of what it takes."""
    speed = learn(history(60.0, lag=0.0))
    assert speed is not None
    left = seconds_left([], work(1000), speed, NOW, one_at_a_time=True)
    assert left == pytest.approx((1000 + OWN_ROWS) * speed.pace_row_s)
    behind = seconds_left(expect([waiting(1, NOW)], speed, (NOW, NOW)), work(1000), speed, NOW, one_at_a_time=True)
    assert behind == pytest.approx(left + (10 + OWN_ROWS) * speed.row_s)


def test_what_is_left_is_shared_by_two_processors() -> None:
    """An ETA that forgets the second one is twice too long."""
    speed = learn(history(60.0, lag=0.0))
    assert speed is not None
    assert seconds_left([], work(1000, 4), speed, NOW) == pytest.approx((1000 + 4 * OWN_ROWS) * speed.pace_row_s / 2)
    assert seconds_left([], 0, speed, NOW) == 0.0
