"""Where can a chunk stand, and what does each fact make of it?

`STATES` says what is true in each state; `TRANSITIONS` is the whole table; `apply()` is the one door through
which facts change anything. A fact that the table does not list raises IllegalTransition: it is a fault of
ours, and going on would risk a doubled lead. Deciding what to do next is `schedule`'s business.

Source of the states: Marketo's own (Queued, Importing, Complete, Failed) between our intent before an upload
and our proof after it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from orchestrator.core.model import (
    Accepted,
    AnswerLost,
    Collected,
    Deferred,
    DoubtEnded,
    Ended,
    Expired,
    Fact,
    Halved,
    HeldBack,
    MovedOn,
    Offer,
    Offered,
    Refused,
    Released,
    SeenImporting,
    SeenQueued,
    Standing,
    State,
)
from orchestrator.errors import IllegalTransition

BATCH_FAILURES_ALLOWED = 1
"""A batch that ends Failed is sent once more: the job broke, which says little about its rows. When the second one
fails too, it is halved, or its rows are reported as failed (`isolate`). A part of a chunk that failed is suspect: it is
sent once, but a single row twice, since nothing more is tried with it. No document says whether `Failed` is ever
transient."""
DOUBTS_ALLOWED = 10
"""A chunk whose answer was lost so often is held, also under `--on-doubt resend`: perhaps its own rows break the answer
(611, a gateway that times out), and each time they may have been imported. To resume the load sends it once more."""

STATES: dict[State, str] = {
    State.PLANNED: "Not in Marketo. May be offered from `not_before` on.",
    State.OFFERED: "The intent to send is durable; the answer is not known yet. Holds a slot.",
    State.DOUBTFUL: "It was sent and no sound answer came: a batch may exist. Holds its slot.",
    State.QUEUED: "Marketo gave a batch id and has not been seen importing it. Holds a slot.",
    State.IMPORTING: "Marketo was seen importing the batch. Holds a slot.",
    State.COLLECTING: "The batch has ended and is counted; its files are still to be saved.",
    State.SETTLED: "Counted and collected: nothing more is asked of Marketo. Final.",
    State.EXPIRED: "Marketo no longer knows the batch: the outcome cannot be had. Final.",
    State.REJECTED: "Marketo will never take it, or its load was cancelled: its rows were not sent. Final.",
    State.HELD: "A doubt is over and the operator said not to send again, or it was the tenth; or such a chunk comes "
    "first. Until released.",
    State.HALVED: "Its children took its place. Final.",
}

HOLDS_SLOT = frozenset({State.OFFERED, State.DOUBTFUL, State.QUEUED, State.IMPORTING})
FINAL = frozenset({State.SETTLED, State.EXPIRED, State.REJECTED, State.HALVED})
AT_REST = FINAL | {State.HELD}
"""Nothing will happen to these by itself: a load all of whose chunks are at rest is finished."""

TRANSITIONS: dict[tuple[State, type[Fact]], frozenset[State]] = {
    (State.PLANNED, Offered): frozenset({State.OFFERED}),
    (State.PLANNED, Refused): frozenset({State.REJECTED}),
    (State.OFFERED, Accepted): frozenset({State.QUEUED}),
    (State.OFFERED, Deferred): frozenset({State.PLANNED}),
    (State.OFFERED, Refused): frozenset({State.REJECTED}),
    (State.OFFERED, Halved): frozenset({State.HALVED}),
    (State.OFFERED, AnswerLost): frozenset({State.DOUBTFUL}),
    (State.DOUBTFUL, DoubtEnded): frozenset({State.PLANNED, State.HELD}),
    (State.PLANNED, HeldBack): frozenset({State.HELD}),
    (State.HELD, Released): frozenset({State.PLANNED}),
    (State.QUEUED, SeenQueued): frozenset({State.QUEUED}),
    (State.QUEUED, SeenImporting): frozenset({State.IMPORTING}),
    (State.IMPORTING, SeenImporting): frozenset({State.IMPORTING}),
    (State.QUEUED, Ended): frozenset({State.COLLECTING, State.PLANNED}),
    (State.IMPORTING, Ended): frozenset({State.COLLECTING, State.PLANNED}),
    (State.QUEUED, Expired): frozenset({State.EXPIRED}),
    (State.IMPORTING, Expired): frozenset({State.EXPIRED}),
    (State.COLLECTING, Deferred): frozenset({State.COLLECTING}),
    (State.COLLECTING, Collected): frozenset({State.SETTLED}),
    (State.COLLECTING, Halved): frozenset({State.HALVED}),
    (State.COLLECTING, Expired): frozenset({State.SETTLED}),
    (State.SETTLED, MovedOn): frozenset({State.SETTLED}),
}


def apply(standing: Standing, fact: Fact) -> Standing:
    """Where the chunk stands after the fact.

    Raises IllegalTransition when the fact cannot follow from where the chunk stands.
    """
    allowed = TRANSITIONS.get((standing.state, type(fact)))
    if allowed is None:
        raise IllegalTransition(
            f"chunk {standing.number} of load {standing.load_id}: {type(fact).__name__} cannot follow {standing.state}"
        )
    after = _after(standing, fact)
    if after.state not in allowed:
        raise IllegalTransition(f"{type(fact).__name__} led from {standing.state} to {after.state}")
    if (after.state in HOLDS_SLOT) and after.offer is None:
        raise IllegalTransition(f"chunk {standing.number}: {after.state} without an offer")
    return after


def _after(standing: Standing, fact: Fact) -> Standing:
    match fact:
        case Offered():
            attempt = standing.attempts + 1
            return replace(
                standing,
                state=State.OFFERED,
                attempts=attempt,
                why="",
                offer=Offer(attempt=attempt, offered_at=fact.at, slot=fact.slot),
            )
        case Accepted():
            offer = replace(_offer(standing), batch_id=fact.batch_id, accepted_at=fact.at)
            return replace(standing, state=State.QUEUED, offer=offer)
        case Deferred():
            state = State.COLLECTING if standing.state is State.COLLECTING else State.PLANNED
            return replace(standing, state=state, not_before=fact.until, why=fact.why)
        case Refused():
            return replace(standing, state=State.REJECTED, why=fact.why)
        case AnswerLost():
            offer = replace(_offer(standing), lost_at=fact.at)
            return replace(standing, state=State.DOUBTFUL, doubts=standing.doubts + 1, why=fact.why, offer=offer)
        case DoubtEnded():
            state = State.PLANNED if fact.resend else State.HELD
            return replace(standing, state=state, not_before=fact.at)
        case HeldBack():
            return replace(standing, state=State.HELD, why=fact.why)
        case Released():
            return replace(standing, state=State.PLANNED, not_before=fact.at)
        case SeenQueued():
            return replace(standing, offer=replace(_offer(standing), queued_last_at=fact.asked_at))
        case SeenImporting():
            offer = _offer(standing)
            first = offer.importing_first_at if offer.importing_first_at is not None else fact.at
            offer = replace(offer, importing_first_at=first, importing_last_at=fact.asked_at)
            return replace(standing, state=State.IMPORTING, offer=offer)
        case Ended():
            offer = replace(
                _offer(standing),
                ended_at=fact.at,
                status=fact.status,
                counts=fact.counts,
                message=fact.message,
            )
            if fact.status == "Failed":
                failures = standing.batch_failures + 1
                suspect = standing.batch_failures_before > 0 and standing.rows > 1
                again = failures <= BATCH_FAILURES_ALLOWED and not suspect
                return replace(
                    standing,
                    state=State.PLANNED if again else State.COLLECTING,
                    batch_failures=failures,
                    not_before=fact.at,
                    why=fact.message or "the batch ended Failed",
                    offer=offer,
                )
            return replace(standing, state=State.COLLECTING, not_before=fact.at, why="", offer=offer)
        case Expired():
            if standing.state is State.COLLECTING:  # counted already: only the reasons are lost
                return replace(standing, state=State.SETTLED, why=fact.why)
            return replace(standing, state=State.EXPIRED, why=fact.why)
        case Collected():
            offer = replace(_offer(standing), collected_at=fact.at, failures=fact.failures, warnings=fact.warnings)
            return replace(standing, state=State.SETTLED, offer=offer)
        case MovedOn():
            counts = _offer(standing).counts
            moved = standing.moved + fact.rows
            if counts is None or fact.rows < 1 or moved > counts.failed:
                raise IllegalTransition(f"chunk {standing.number}: {moved} failed rows moved on, {counts} counted")
            return replace(standing, moved=moved)
        case Halved():
            return replace(standing, state=State.HALVED, why=fact.why)
        case _:
            assert_never(fact)


def _offer(standing: Standing) -> Offer:
    if standing.offer is None:
        raise IllegalTransition(f"chunk {standing.number} of load {standing.load_id} was never offered")
    return standing.offer
