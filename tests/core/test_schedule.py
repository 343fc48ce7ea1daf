"""Whose turn it is, decided from plain values."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import (
    BatchId,
    ChunkNumber,
    Collect,
    EndDoubt,
    LoadId,
    Offer,
    Poll,
    Standing,
    State,
    Submit,
)
from orchestrator.core.schedule import Admission, Decision, Limits, View, Watch, fence_passed, next_actions

LOAD = LoadId("mine")
LIMITS = Limits(
    queued_jobs=10,
    concurrent_calls=5,
    calls_per_20s=50,
    doubt_lease_s=1800.0,
    min_interval_s=5.0,
    max_interval_s=30.0,
)
NOW = 10_000.0


def planned(number: int, not_before: float = 0.0) -> Standing:
    return Standing(LOAD, ChunkNumber(number), 10, State.PLANNED, not_before=not_before)


def opened(number: int, state: State = State.QUEUED, load: str = LOAD, **offer: float | None) -> Standing:
    made = replace(
        Offer(attempt=1, offered_at=NOW - 100 + number, slot=number),
        **{"batch_id": BatchId(number), "accepted_at": NOW - 90, **offer},  # type: ignore[arg-type]
    )
    return Standing(LoadId(load), ChunkNumber(number), 10, state, attempts=1, offer=made)


def decide(
    *,
    open_: tuple[Standing, ...] = (),
    ready: tuple[Standing, ...] = (),
    collecting: tuple[Standing, ...] = (),
    limits: Limits = LIMITS,
    queue: Admission | None = None,
    watches: dict[tuple[LoadId, int], Watch] | None = None,
    busy: tuple[int, ...] = (),
    uploading: int = 0,
) -> Decision:
    view = View(
        open=open_, collecting=collecting, ready=ready, owned=frozenset({LOAD}), unfinished=len(ready) + len(open_)
    )
    return next_actions(
        view,
        now=NOW,
        limits=limits,
        queue=queue or Admission(10, room=10),
        lane=None,
        watches=watches or {},
        busy={(LOAD, number) for number in busy},
        uploading=uploading,
    )


@given(
    open_count=st.integers(0, 10),
    unclaimed=st.integers(0, 4),
    ready=st.integers(0, 12),
    queued_jobs=st.integers(1, 10),
    room=st.integers(0, 10),
    step=st.integers(1, 10),
)
def test_what_is_started_never_exceeds_the_slots(
    open_count: int, unclaimed: int, ready: int, queued_jobs: int, room: int, step: int
) -> None:
    """An eleventh job is refused, and the refusal costs an upload of ten megabytes."""
    chunks = tuple(planned(100 + i) for i in range(ready))
    busy = tuple(100 + i for i in range(min(unclaimed, ready)))
    decision = decide(
        open_=tuple(opened(i + 1) for i in range(open_count)),
        ready=chunks,
        limits=replace(LIMITS, queued_jobs=queued_jobs),
        queue=Admission(queued_jobs, room=room, step=step),
        busy=busy,
        uploading=len(busy),
    )
    submits = [a for a in decision.actions if isinstance(a, Submit)]
    assert not submits or open_count + len(busy) + len(submits) <= queued_jobs
    assert len(submits) + len(busy) <= max(LIMITS.uploads_at_once, len(busy))
    assert not {a.number for a in submits} & set(busy)


def test_one_call_is_always_left_for_questions() -> None:
    """Five slow uploads at once would leave nobody to notice that a batch has ended."""
    decision = decide(ready=tuple(planned(i) for i in range(1, 10)))
    assert sum(isinstance(a, Submit) for a in decision.actions) == LIMITS.concurrent_calls - 1


def test_a_refusal_leaves_as_many_as_marketo_had_room_for() -> None:
    """1016 measures the queue: filling up what is ours is free, going beyond is a probe after a wait."""
    queue = Admission(10, room=10)
    queue.refused(NOW, 2, wait_s=45.0)
    two = (opened(1), opened(2))
    assert not [a for a in decide(open_=two, ready=(planned(3),), queue=queue).actions if isinstance(a, Submit)]
    one_ended = decide(open_=two[:1], ready=(planned(3), planned(4)), queue=queue)
    assert [a for a in one_ended.actions if isinstance(a, Submit)] == [Submit(LOAD, ChunkNumber(3))]
    waiting = decide(open_=two, ready=(planned(3),), queue=queue, watches={(LOAD, i): Watch(NOW) for i in (1, 2)})
    assert "full" in waiting.waiting_for


def test_a_full_queue_is_probed_by_one_upload_at_a_time() -> None:
    """Ten tasks that each upload ten megabytes to be refused burn the quota and the line."""
    queue = Admission(10, room=10)
    queue.refused(NOW - 60, 0, wait_s=45.0)
    submits = list(decide(ready=tuple(planned(i) for i in range(1, 6)), queue=queue).actions)
    assert submits == [Submit(LOAD, ChunkNumber(1))]


def test_probes_that_are_accepted_grow_quickly() -> None:
    """When the neighbours leave, all ten slots must be ours again within a few uploads."""
    queue, held, rounds = Admission(10), 0, 0
    while held < 10:
        more = queue.ceiling(NOW, held) - held
        assert more > 0
        for _ in range(more):
            held += 1
            queue.accepted(held)
        rounds += 1
    assert rounds <= 4


def test_a_batch_is_asked_after_when_due_and_not_before() -> None:
    """Too early is impolite and costs quota; never would lose its end."""
    asked = {(LOAD, 1): Watch(NOW - 4.9), (LOAD, 2): Watch(NOW - 5.1)}
    decision = decide(open_=(opened(1), opened(2)), watches=asked)
    assert decision.actions == (Poll(LOAD, ChunkNumber(2), BatchId(2)),)
    assert abs(decision.wake_at - (NOW + 0.1)) < 1e-6


def test_batches_of_a_living_owner_are_left_to_it() -> None:
    """Two processes asking after one batch cost twice the calls, and both would record its end."""
    assert decide(open_=(opened(1, load="theirs"),)).actions == ()


def test_ended_batches_are_collected_and_deferred_ones_wait() -> None:
    """A result file that failed to download is tried again later, not in a tight loop."""
    now_due = replace(opened(1, State.COLLECTING), not_before=NOW)
    later = replace(opened(2, State.COLLECTING), not_before=NOW + 7)
    decision = decide(collecting=(now_due, later))
    assert decision.actions == (Collect(LOAD, ChunkNumber(1), BatchId(1)),)
    assert decision.wake_at == NOW + 7


def test_a_deferred_chunk_is_not_offered_before_its_time() -> None:
    """Marketo said not now."""
    decision = decide(ready=(planned(1, NOW + 12),))
    assert decision.actions == ()
    assert decision.wake_at == NOW + 12


def doubt(lost_at: float) -> Standing:
    return opened(9, State.DOUBTFUL, lost_at=lost_at, batch_id=None, accepted_at=None, offered_at=lost_at - 5)


def later(number: int, first: float, last: float, offered_at: float = NOW - 50) -> Standing:
    return opened(number, State.IMPORTING, offered_at=offered_at, importing_first_at=first, importing_last_at=last)


def test_two_later_batches_importing_at_one_moment_end_a_doubt() -> None:
    """First in, first out with two processors: whatever stood before them is over."""
    batches = (doubt(NOW - 60), later(1, NOW - 20, NOW - 10), later(2, NOW - 15, NOW - 5))
    assert fence_passed(batches[0], batches)
    assert EndDoubt(LOAD, ChunkNumber(9), "fence") in decide(open_=batches).actions


def test_a_doubt_outlives_batches_that_prove_nothing() -> None:
    """Sending again while the first copy still runs makes duplicate leads."""
    ghost = doubt(NOW - 60)
    one_after_another = (later(1, NOW - 20, NOW - 16), later(2, NOW - 15, NOW - 5))
    one_was_earlier = (later(1, NOW - 20, NOW - 5, offered_at=NOW - 70), later(2, NOW - 15, NOW - 5))
    seen_once_each = (later(1, NOW - 20, NOW - 21), later(2, NOW - 20, NOW - 21))
    for batches in (one_after_another, one_was_earlier, seen_once_each, ()):
        assert not fence_passed(ghost, (ghost, *batches))


def test_a_doubt_ends_by_its_lease_when_nothing_else_can_prove_it() -> None:
    """At the end of a load there are no later batches: the load must end all the same."""
    assert decide(open_=(doubt(NOW - 1799),)).actions == ()
    assert decide(open_=(doubt(NOW - 1801),)).actions == (EndDoubt(LOAD, ChunkNumber(9), "lease"),)


def test_doubts_keep_their_slots() -> None:
    """The ghost may stand in Marketo's queue: a slot lent out twice is an eleventh job."""
    ghosts = tuple(replace(doubt(NOW - 60), number=ChunkNumber(i)) for i in range(1, 11))
    assert decide(open_=ghosts, ready=(planned(20),)).actions == ()


def test_polls_of_a_full_queue_leave_half_of_the_pace_to_uploads() -> None:
    """With an interval of a second, ten batches would use up the calls of a whole window within five seconds."""
    eager = replace(LIMITS, min_interval_s=0.5, calls_per_20s=50)
    queue = [eager.poll_interval_s * 2 ** (position // 2) for position in range(10)]
    assert sum(20.5 / interval for interval in queue) <= 25
    assert replace(eager, calls_per_20s=100_000).poll_interval_s == 0.5
    assert replace(eager, min_interval_s=5.0).poll_interval_s == 5.0
