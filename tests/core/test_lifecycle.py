"""The state table: every pair of state and fact, and what each means."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from orchestrator.core import lifecycle
from orchestrator.core.model import (
    Accepted,
    AnswerLost,
    BatchId,
    Chunk,
    ChunkNumber,
    Collected,
    CollectedFile,
    Counts,
    Deferred,
    DoubtEnded,
    Ended,
    Expired,
    Fact,
    Halved,
    HeldBack,
    LoadId,
    MovedOn,
    Offer,
    Offered,
    Refused,
    Released,
    SeenImporting,
    SeenQueued,
    Span,
    Standing,
    State,
)
from orchestrator.errors import IllegalTransition

HALF = Chunk(ChunkNumber(2), (Span(10, 20, 1, 1, 2),), 1, 20, "00")
FACTS: dict[type[Fact], Fact] = {
    Offered: Offered(10.0, 3),
    Accepted: Accepted(11.0, BatchId(77)),
    Deferred: Deferred(11.0, 41.0, "1016"),
    Refused: Refused(11.0, "1003"),
    AnswerLost: AnswerLost(11.0, "reset"),
    DoubtEnded: DoubtEnded(20.0, "fence", resend=True),
    Released: Released(30.0),
    HeldBack: HeldBack(11.0, "chunk 1 is held"),
    SeenQueued: SeenQueued(13.0, 14.0),
    SeenImporting: SeenImporting(14.0, 15.0),
    Ended: Ended(20.0, "Complete", Counts(8, 2, 1), "done"),
    Expired: Expired(20.0, "1013"),
    Collected: Collected(21.0, CollectedFile("f", 2), None),
    Halved: Halved(11.0, (HALF, HALF), "413"),
    MovedOn: MovedOn(30.0, 2, 1),
}


def standing(state: State) -> Standing:
    counts = Counts(8, 2, 1) if state is State.SETTLED else None
    offer = None if state is State.PLANNED else Offer(attempt=1, offered_at=10.0, slot=3, counts=counts)
    return Standing(LoadId("l"), ChunkNumber(1), 10, state, attempts=0 if offer is None else 1, offer=offer)


def test_every_kind_of_fact_is_tried_here() -> None:
    """A fact that is added and not listed would go untested."""
    assert set(FACTS) == set(get_args(Fact))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", list(FACTS), ids=lambda kind: kind.__name__)
def test_a_fact_is_taken_exactly_where_the_table_says(state: State, kind: type[Fact]) -> None:
    """A fact out of place means a bug: going on could double a lead."""
    allowed = lifecycle.TRANSITIONS.get((state, kind))
    if allowed is None:
        with pytest.raises(IllegalTransition):
            lifecycle.apply(standing(state), FACTS[kind])
    else:
        assert lifecycle.apply(standing(state), FACTS[kind]).state in allowed


@pytest.mark.parametrize("state", sorted(lifecycle.FINAL))
def test_nothing_leads_out_of_a_final_state(state: State) -> None:
    """A settled chunk that comes back to life would be sent twice."""
    assert {after for (before, _), after in lifecycle.TRANSITIONS.items() if before is state} <= {frozenset({state})}


def test_no_more_rows_move_on_than_failed() -> None:
    """A row that moves on twice would be counted twice, and imported twice."""
    settled = standing(State.SETTLED)
    once = lifecycle.apply(settled, MovedOn(30.0, 1, 1))
    assert lifecycle.apply(once, MovedOn(31.0, 1, 2)).moved == 2
    for rows in (2, 0, -1):
        with pytest.raises(IllegalTransition):
            lifecycle.apply(once, MovedOn(31.0, rows, 2))


def test_every_state_can_be_reached_and_is_explained() -> None:
    """A state nobody can reach, or nobody can explain, does not belong in the table."""
    reached = {State.PLANNED}.union(*lifecycle.TRANSITIONS.values())
    assert reached == set(State) == set(lifecycle.STATES)


def test_every_state_leads_to_rest() -> None:
    """A chunk that can never come to rest would keep its load from ending."""
    resting = set(lifecycle.AT_REST)
    while True:
        more = {a for (a, _), after in lifecycle.TRANSITIONS.items() if after & resting} - resting
        if not more:
            break
        resting |= more
    assert resting == set(State)


def test_an_offer_is_filled_in_fact_by_fact() -> None:
    """The offer is what resuming and the report read: each fact must leave its mark and spoil no other."""
    chunk = standing(State.PLANNED)
    for kind in (Offered, Accepted, SeenImporting, Ended, Collected):
        chunk = lifecycle.apply(chunk, FACTS[kind])
    assert chunk.state is State.SETTLED
    assert chunk.offer == Offer(
        attempt=1,
        offered_at=10.0,
        slot=3,
        batch_id=BatchId(77),
        accepted_at=11.0,
        importing_first_at=15.0,
        importing_last_at=14.0,
        ended_at=20.0,
        status="Complete",
        counts=Counts(8, 2, 1),
        message="done",
        collected_at=21.0,
        failures=CollectedFile("f", 2),
    )


def test_a_failed_batch_is_sent_once_more_and_then_counted() -> None:
    """`Failed` means that the job broke; a second failure of the same rows must not loop for ever."""
    chunk = standing(State.QUEUED)
    failed = Ended(20.0, "Failed", Counts(0, 0, 0), "system error")
    chunk = lifecycle.apply(chunk, failed)
    assert (chunk.state, chunk.batch_failures) == (State.PLANNED, 1)
    for kind in (Offered, Accepted):
        chunk = lifecycle.apply(chunk, FACTS[kind])
    assert lifecycle.apply(chunk, failed).state is State.COLLECTING


def failing_part(rows: int) -> Standing:
    return replace(standing(State.QUEUED), rows=rows, batch_failures_before=2)


def test_a_part_of_a_broken_chunk_is_searched_at_its_first_failure_and_a_single_row_sent_twice() -> None:
    """Sending each part twice would double the cost; calling one row bad on one failure would lose it to a hiccup."""
    failed = Ended(20.0, "Failed", Counts(0, 0, 0), "system error")
    assert lifecycle.apply(failing_part(2), failed).state is State.COLLECTING
    row = lifecycle.apply(failing_part(1), failed)
    assert row.state is State.PLANNED
    for kind in (Offered, Accepted):
        row = lifecycle.apply(row, FACTS[kind])
    assert lifecycle.apply(row, failed).state is State.COLLECTING


@pytest.mark.parametrize(("resend", "after"), [(True, State.PLANNED), (False, State.HELD)])
def test_the_end_of_a_doubt_obeys_the_operator(resend: bool, after: State) -> None:
    """--on-doubt stop must never send again by itself."""
    assert lifecycle.apply(standing(State.DOUBTFUL), DoubtEnded(20.0, "lease", resend)).state is after


def test_counts_survive_when_only_the_files_are_gone() -> None:
    """After seven days the reasons are lost; the counts were read before and must still be reported."""
    offer = Offer(1, 10.0, 3, BatchId(7), 11.0, ended_at=20.0, status="Complete", counts=Counts(8, 2, 0))
    chunk = replace(standing(State.COLLECTING), offer=offer)
    after = lifecycle.apply(chunk, Expired(700_000.0, "1013"))
    assert (after.state, after.offer) == (State.SETTLED, offer)
