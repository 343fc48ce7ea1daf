"""When is a trouble too much? Counted and timed per chunk."""

from __future__ import annotations

from random import Random

from orchestrator.core.model import LoadId
from orchestrator.core.schedule import Limits
from orchestrator.core.verdicts import GONE_AFTER, GONE_SPAN_S, Answered, ApiError, Verdict, judge
from orchestrator.runner.strikes import Strikes

KEY = (LoadId("l"), 1)
UNKNOWN = judge(Answered(False, (), (ApiError("1013", "not found"),)), "status")


def strikes() -> Strikes:
    return Strikes(Limits(10, 5, 50, 1800.0, 5.0, 30.0), Random(1), "host")


def test_a_batch_is_believed_gone_only_after_answers_over_a_span_of_time() -> None:
    """Many answers within a minute are one failover of theirs; believing it loses the outcome of a whole chunk."""
    counted = strikes()
    for second in range(0, int(GONE_SPAN_S), 30):
        assert counted.verdict(KEY, UNKNOWN, 1_000.0 + second) is Verdict.ASK_AGAIN
    assert counted.verdict(KEY, UNKNOWN, 1_000.0 + GONE_SPAN_S) is Verdict.GONE


def test_few_answers_far_apart_are_not_enough_either() -> None:
    """A process that slept between two answers has not seen many."""
    counted = strikes()
    for hour in range(GONE_AFTER):
        assert counted.verdict(KEY, UNKNOWN, 3_600.0 * hour) is Verdict.ASK_AGAIN


def test_one_good_answer_begins_the_count_anew() -> None:
    """The batch is there after all: what was said before means nothing any more."""
    counted = strikes()
    for minute in range(10):
        counted.verdict(KEY, UNKNOWN, 60.0 * minute)
    counted.forget(KEY)
    assert counted.of(KEY, "GONE") == 0
    assert counted.since(KEY) == float("inf")
    assert counted.verdict(KEY, UNKNOWN, 10_000.0) is Verdict.ASK_AGAIN
