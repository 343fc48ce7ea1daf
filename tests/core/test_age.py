"""What is said of a batch as it grows old."""

from __future__ import annotations

import pytest

from orchestrator.core.age import DAY_S, days_to_tell, is_over, is_stalled
from orchestrator.core.model import BatchId, Offer

HOUR_S = 3_600.0


@pytest.mark.parametrize(
    ("age_s", "days"), [(5 * DAY_S - 1, None), (5 * DAY_S, 5), (6 * DAY_S - 1, 5), (6 * DAY_S, 6), (8 * DAY_S, 6)]
)
def test_people_are_told_before_the_seventh_day(age_s: float, days: int | None) -> None:
    """After it nobody can say what became of the rows."""
    assert days_to_tell(Offer(1, 0.0, 1, BatchId(7), accepted_at=100.0), 100.0 + age_s) == days
    assert days_to_tell(Offer(1, 0.0, 1), 1e12) is None


def test_an_import_of_six_hours_is_told_of() -> None:
    """It is not sent again by itself, so somebody should look at it."""
    offer = Offer(1, 0.0, 1, BatchId(7), accepted_at=0.0, importing_first_at=10.0)
    assert not is_stalled(offer, 10.0 + 6 * HOUR_S - 1)
    assert is_stalled(offer, 10.0 + 6 * HOUR_S)
    assert not is_stalled(Offer(1, 0.0, 1, BatchId(7), accepted_at=0.0), 1e12)


def test_a_batch_is_over_after_seven_days_and_not_before() -> None:
    """Given up too early, its outcome is lost although it could be had."""
    offer = Offer(1, 0.0, 1, BatchId(7), accepted_at=0.0)
    assert not is_over(offer, 7 * DAY_S)
    assert is_over(offer, 7 * DAY_S + 1)
    assert not is_over(None, 1e12)
    assert not is_over(Offer(1, 0.0, 1), 1e12)
