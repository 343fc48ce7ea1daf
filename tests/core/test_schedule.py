"""Whose turn it is, decided from plain values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.admission import Admission
from orchestrator.core.expect import Past, learn
from orchestrator.core.model import (
    BatchId,
    ChunkNumber,
    Collect,
    EndDoubt,
    LoadId,
    Offer,
    Poll,
    Priority,
    Standing,
    State,
    Submit,
)
from orchestrator.core.schedule import Decision, Limits, View, Watch, fence_passed, next_actions
from orchestrator.core.share import Wish

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
    past: tuple[Past, ...] = (),
    unsent: int | None = None,
    work_unsent: int = 0,
    list_id: int | None = None,
    lane: Admission | None = None,
    list_open: int = 0,
    wishes: tuple[Wish, ...] = (),
    calls_left: int | None = None,
    watches: dict[tuple[LoadId, int], Watch] | None = None,
    busy: tuple[int, ...] = (),
    uploading: int = 0,
) -> Decision:
    view = View(
        load_id=LOAD,
        open=open_,
        collecting=collecting,
        ready=ready,
        owned=frozenset({LOAD}),
        queue=queue or Admission(room=10),
        speed=learn(past),
        wishes=wishes,
        unfinished=len(ready) + len(open_),
        unsent=len(ready) if unsent is None else unsent,
        work_unsent=work_unsent,
        list_id=list_id,
        lane=lane,
        list_open=list_open,
        list_in_marketo=list_open,
        calls_left=calls_left,
    )
    return next_actions(
        view,
        now=NOW,
        limits=limits,
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
)
def test_what_is_started_never_exceeds_the_slots(
    open_count: int, unclaimed: int, ready: int, queued_jobs: int, room: int
) -> None:
    """An eleventh job is refused, and the refusal costs an upload of ten megabytes."""
    chunks = tuple(planned(100 + i) for i in range(ready))
    busy = tuple(100 + i for i in range(min(unclaimed, ready)))
    decision = decide(
        open_=tuple(opened(i + 1) for i in range(open_count)),
        ready=chunks,
        limits=replace(LIMITS, queued_jobs=queued_jobs),
        queue=Admission(room=room),
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
    queue = Admission(room=10).refused(NOW, 2)
    two = (opened(1), opened(2))
    assert not [a for a in decide(open_=two, ready=(planned(3),), queue=queue).actions if isinstance(a, Submit)]
    one_ended = decide(open_=two[:1], ready=(planned(3), planned(4)), queue=queue)
    assert [a for a in one_ended.actions if isinstance(a, Submit)] == [Submit(LOAD, ChunkNumber(3), 2)]
    waiting = decide(open_=two, ready=(planned(3),), queue=queue, watches={(LOAD, i): Watch(NOW) for i in (1, 2)})
    assert "full" in waiting.waiting_for
    assert "since 1970-01-01 02:46 UTC" in waiting.waiting_for


def test_a_full_queue_is_probed_by_one_upload_at_a_time() -> None:
    """Ten tasks that each upload ten megabytes to be refused burn the quota and the line."""
    queue = Admission(room=10).refused(NOW - 60, 0)
    submits = list(decide(ready=tuple(planned(i) for i in range(1, 6)), queue=queue).actions)
    assert submits == [Submit(LOAD, ChunkNumber(1), 1)]
    under_way = decide(ready=tuple(planned(i) for i in range(1, 6)), queue=queue, busy=(1,), uploading=1)
    assert under_way.actions == ()


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


def over(number: int, seconds: float, ended_at: float) -> Past:
    """One of ours that was seen over, and importing a moment before."""
    began = ended_at - seconds
    return Past(10, began - 1, began, None, began, ended_at - 0.1, ended_at)


PAST = tuple(over(i, 60.0, NOW - 300 + 30 * i) for i in range(1, 9))
"""Two batches a minute, each of a minute."""


def test_a_batch_is_asked_after_when_it_should_be_over_and_those_behind_it_are_not() -> None:
    """Ten batches asked every five seconds would use the day's calls three times over."""
    batches = tuple(opened(i, accepted_at=NOW - 100 + i, offered_at=NOW - 101 + i) for i in range(1, 8))
    decision = decide(open_=batches, ready=(planned(20, NOW + 1000),), past=PAST)
    asked = {a.number for a in decision.actions if isinstance(a, Poll)}
    assert asked <= {1, 2}
    quiet = decide(open_=tuple(opened(i, accepted_at=NOW - i, offered_at=NOW - 1 - i) for i in range(1, 4)), past=PAST)
    assert not [a for a in quiet.actions if isinstance(a, Poll)]
    assert quiet.wake_at > NOW + 5


def test_no_open_batch_goes_without_a_question_for_longer_than_half_an_hour() -> None:
    """One row that nobody asked after for two hours taught that a batch of nineteen takes a day and a half."""
    slept = Past(1, NOW - 7201, NOW - 7200, None, None, None, NOW - 1)
    waiting = tuple(opened(number, accepted_at=NOW - 1799) for number in (1, 2))
    decision = decide(open_=waiting, past=(slept,), unsent=5)
    assert [a for a in decision.actions if isinstance(a, Poll)] == []
    assert decision.wake_at <= NOW + 1
    overdue = tuple(opened(number, accepted_at=NOW - 1801) for number in (1, 2))
    assert {a.number for a in decide(open_=overdue, past=(slept,)).actions if isinstance(a, Poll)} == {1, 2}


def test_alone_no_more_slots_are_held_than_keep_the_processors_busy() -> None:
    """Every slot we do not hold is free for somebody else, and queueing deeper makes nothing faster."""
    ready = tuple(planned(20 + i) for i in range(8))

    def held(**more: object) -> int:
        open_: tuple[Standing, ...] = ()
        while True:
            decision = decide(open_=open_, ready=ready, past=PAST, **more)  # type: ignore[arg-type]
            submits = [a for a in decision.actions if isinstance(a, Submit)]
            if not submits:
                return len(open_)
            open_ += tuple(opened(len(open_) + 1 + i, accepted_at=NOW, offered_at=NOW) for i in range(len(submits)))

    assert 3 <= held() <= 6
    assert held(limits=replace(LIMITS, queue_depth=9)) == 9
    assert held(queue=replace(Admission(room=10), refused_last_at=NOW - 60)) == 8


def test_a_load_takes_no_slot_that_a_more_urgent_one_has_a_right_to() -> None:
    """A small urgent load must not wait behind a large one."""
    other = LoadId("theirs")
    wishes = (Wish(LOAD, "normal", 10, 3, NOW), Wish(other, "high", 4, 0, NOW))
    three = tuple(opened(i) for i in range(1, 4))
    decision = decide(open_=three, ready=(planned(9),), wishes=wishes, limits=replace(LIMITS, queued_jobs=5))
    assert not [a for a in decision.actions if isinstance(a, Submit)]
    assert "its turn" in decision.waiting_for


def test_the_lowest_limit_of_the_loads_that_run_is_everybodys() -> None:
    """A load that asks for one slot at most would never get it while another may refill all of its own."""
    modest = Wish(LoadId("modest"), "normal", 10, 0, NOW - 60, queued_jobs=1)
    wishes = (Wish(LOAD, "normal", 10, 0, NOW), modest)
    for open_, may in [((opened(1), opened(2)), False), ((), False)]:
        decision = decide(open_=open_, ready=(planned(9),), wishes=wishes)
        assert bool([a for a in decision.actions if isinstance(a, Submit)]) == may, "it is the turn of the modest one"
    just_served = (wishes[0], replace(modest, served_at=NOW + 1))
    assert [a.slots for a in decide(ready=(planned(9),), wishes=just_served).actions if isinstance(a, Submit)] == [1]


def test_a_load_beside_others_is_foretold_with_what_they_have_still_to_send() -> None:
    """An hour's load beside another of an hour takes two; a small one does not wait for the end of a large one."""
    other = LoadId("theirs")

    def eta_s(rows: int, theirs: int, priority: Priority = "normal") -> float:
        wishes = (Wish(LOAD, "normal", 10, 0, NOW, rows), Wish(other, priority, 10, 0, NOW, theirs))
        found = decide(past=PAST, work_unsent=rows, unsent=10, wishes=wishes).eta_s
        assert found is not None
        return found

    alone = eta_s(10_000, 0)
    assert eta_s(10_000, 10_000) == pytest.approx(2 * alone, rel=0.05)
    assert eta_s(10_000, 1_000_000) == pytest.approx(2 * alone, rel=0.3)
    assert eta_s(10_000, 1_000) == pytest.approx(1.1 * alone, rel=0.05)
    assert eta_s(10_000, 1_000_000, "high") > 3 * alone
    assert eta_s(10_000, 1_000_000, "low") < 1.5 * alone


def test_a_load_into_a_static_list_is_foretold_one_batch_at_a_time() -> None:
    """Two processors do not help where only one batch may be there."""
    both, one = decide(past=PAST, work_unsent=1000), decide(past=PAST, work_unsent=1000, list_id=7, lane=Admission())
    assert both.eta_s is not None
    assert one.eta_s is not None
    assert one.eta_s > 1.8 * both.eta_s


def test_who_is_in_the_way_in_a_static_list_is_said_truly() -> None:
    """ "Another import" sends people to look for one, when it is their own load's batch."""
    lane = Admission(room=1, refusals=1, refused_first_at=NOW - 5, refused_last_at=NOW - 5)
    ready = (planned(9),)
    own = decide(open_=(opened(1),), ready=ready, list_id=7, lane=lane, list_open=1)
    assert own.waiting_for == "its own batch before: static list 7 takes one import at a time"
    other = decide(open_=(opened(1, load="theirs"),), ready=ready, list_id=7, lane=lane, list_open=1)
    assert "static list 7: another import into it is under way since" in other.waiting_for
    assert not [a for a in (*own.actions, *other.actions) if isinstance(a, Submit)]


def test_slots_that_are_free_on_purpose_are_not_said_to_be_held() -> None:
    """Who is told that others hold the slots looks for somebody who is not there."""
    theirs = tuple(opened(number, load="theirs") for number in range(1, 7))
    on_purpose = decide(open_=theirs, ready=(planned(9),), limits=replace(LIMITS, queue_depth=6))
    assert on_purpose.waiting_for == (
        "batches to end: other loads of this ledger have 6 open, and no more are held at a time (limits.queue_depth)"
    )
    full = decide(open_=theirs, ready=(planned(9),), limits=replace(LIMITS, queued_jobs=6))
    assert full.waiting_for == "a slot: other loads of this ledger hold 6"


def test_when_the_days_calls_run_short_questions_wait_before_uploads_do() -> None:
    """The rows must get in; when their end is noticed matters less."""
    batches = tuple(opened(i, accepted_at=NOW - 20, offered_at=NOW - 21) for i in range(1, 5))
    ready = tuple(planned(20 + i) for i in range(8))
    rich = decide(open_=batches, ready=ready, unsent=100, calls_left=10_000)
    poor = decide(open_=batches, ready=ready, unsent=100, calls_left=150)
    last = decide(open_=batches, ready=ready, unsent=100, calls_left=8)
    assert any(isinstance(a, Poll) for a in rich.actions)
    assert not any(isinstance(a, Poll) for a in poor.actions)
    assert any(isinstance(a, Submit) for a in poor.actions)
    assert not any(isinstance(a, Submit) for a in last.actions)
    assert "calls are left today" in last.waiting_for


def test_a_load_beside_others_is_told_so() -> None:
    """Nothing but the ledger says what other processes do: then it is watched for changes."""
    other = LoadId("theirs")
    wishes = (Wish(LOAD, "normal", 10, 3, NOW), Wish(other, "normal", 4, 0, NOW))
    assert not decide(open_=(opened(1),)).others_act
    assert decide(open_=(opened(1),), wishes=wishes).others_act
