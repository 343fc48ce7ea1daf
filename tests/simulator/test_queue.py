"""Which job is processed when, and what is said of it meanwhile."""

from __future__ import annotations

import heapq
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator.client import BATCH, Client, code, leads, result

ROWS = "email,vin\nana@example.com,1\n"
SLOW: dict[str, Any] = {"rows_per_second": 1.0, "seconds_per_job": 0.0, "min_poll_interval": 0.0}
"""A job lasts as many seconds as it has rows."""


def spans(client: Client) -> list[tuple[float, float | None]]:
    return [(batch["started_at"], batch["ended_at"]) for batch in client.marketo.truth(client.now)["batches"]]


@pytest.mark.parametrize("kind", ["leads", "members", "objects"])
def test_the_create_answer_is_shaped_as_for_its_kind(kind: str) -> None:
    """importId is text and missing for custom objects: a strict client breaks on the other shape."""
    created = result(Client().upload(ROWS, kind))
    batch = created.pop("batchId")
    assert isinstance(batch, int)
    assert 0 < batch < 2**31
    extra = {"objectApiName": "car_c"} if kind == "objects" else {"importId": str(batch)}
    assert created == {"status": "Queued", **extra}


def test_two_jobs_are_processed_at_a_time_first_in_first_out() -> None:
    """The pace of the whole load rests on it."""
    client = Client(**SLOW)
    batches = [client.batch(leads(rows, first=100 * rows)) for rows in (10, 4, 3, 5)]
    assert len(set(batches)) == 4
    assert [client.status(batch)["status"] for batch in batches] == ["Importing", "Importing", "Queued", "Queued"]
    client.now += 20.0
    assert [client.status(batch)["status"] for batch in batches] == ["Complete"] * 4
    assert spans(client) == [(100.0, 110.0), (100.0, 104.0), (104.0, 107.0), (107.0, 112.0)]


def test_the_eleventh_job_is_refused_whatever_its_kind_until_one_has_ended() -> None:
    """The ten include the two being processed, and all kinds share them."""
    client = Client(**SLOW)
    codes = [code(client.upload(leads(2, first=n), kind)) for n, kind in enumerate(["leads", "members"] * 5)]
    assert codes == [""] * 10
    assert code(client.upload(ROWS, "objects")) == "1016"
    client.now += 1.9
    assert code(client.upload(ROWS, "objects")) == "1016"
    client.now += 0.1
    assert [code(client.upload(leads(1, first=n))) for n in (50, 60, 70)] == ["", "", "1016"]
    assert client.rules_broken == ["an eleventh job"] * 3
    assert client.marketo.truth(client.now)["most_ours"] == 10


def test_the_queue_full_message_is_that_of_real_answers() -> None:
    """The documented text was never seen: clients that match on either must find the real one."""
    client = Client()
    client.marketo.occupy(10, client.now)
    (error,) = json.loads(client.upload(leads(1)).body)["errors"]
    assert error == {
        "code": "1016",
        "message": "There are 10 imports currently being processed. Please try again later",
    }


def test_jobs_of_others_take_places_and_processors_and_are_not_held_against_us() -> None:
    """1016 comes with fewer than ten of our own: the loader must wait and not count."""
    client = Client(**SLOW)
    client.marketo.occupy(8, client.now, seconds=10.0)
    mine = [client.batch(leads(1, first=n)) for n in range(2)]
    assert code(client.upload(leads(1, first=9))) == "1016"
    assert client.rules_broken == []
    client.now += 40.0
    assert [client.status(batch)["status"] for batch in mine] == ["Importing", "Importing"]
    client.now += 1.0
    assert client.marketo.truth(client.now)["unfinished"] == 0


def test_others_are_refused_the_eleventh_place_too() -> None:
    """Marketo never holds eleven: a simulated queue of twenty would teach waits that do not exist."""
    client = Client()
    client.marketo.occupy(20, client.now)
    assert client.marketo.truth(client.now)["unfinished"] == 10


@pytest.mark.parametrize("begin", [0.0, 0.1, 100.0])
def test_released_jobs_of_others_end_at_that_moment_and_not_before(begin: float) -> None:
    """A place that comes free in the past would let jobs start before they were sent."""
    client = Client(**SLOW)
    client.marketo.occupy(9, begin)
    client.now = begin + 1.0
    client.batch(leads(1))
    client.now = begin + 7.3
    client.marketo.release(9, client.now)
    assert spans(client) == [(client.now, None)]


@pytest.mark.parametrize(
    ("knob", "while_importing", "while_queued"),
    [("importing", "1019", ""), ("queued", "1019", "1019"), ("never", "", "")],
)
def test_a_list_takes_one_import_at_a_time(knob: str, while_importing: str, while_queued: str) -> None:
    """Chunks of one file into one list are refused with 1019; whether a queued one counts is not documented."""
    client, behind = Client(list_busy=knob, **SLOW), Client(list_busy=knob, **SLOW)
    client.batch(leads(10), listId="1001")
    client.batch(leads(30, first=100), listId="1002")
    assert code(client.upload(leads(5, first=200), listId="1001")) == while_importing
    client.now += 40.0
    assert code(client.upload(leads(5, first=300), listId="1001")) == ""
    behind.marketo.occupy(2, behind.now)
    behind.batch(leads(1), listId="1001")
    assert code(behind.upload(leads(1, first=5), listId="1001")) == while_queued


def test_counts_are_missing_while_queued_grow_while_importing_and_are_right_in_the_end() -> None:
    """A client that trusts the counts of an unfinished job reports rows as lost."""
    client = Client(**SLOW)
    client.marketo.occupy(2, client.now, seconds=5.0)
    batch = client.batch("email,leadScore\n" + "".join(f"l{n}@example.com,{n % 2}.0\n" for n in range(10)))
    bad = client.batch(leads(10) + "lead@nowhere,Ana\n" * 4 + ",Ana\n" * 6)
    assert set(client.status(bad)) == {"batchId", "importId", "status"}
    seen = []
    for _ in range(20):
        client.now += 1.0
        seen.append((client.status(batch).get("numOfRowsFailed", 0), client.status(bad).get("numOfLeadsProcessed", 0)))
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    client.now += 20.0
    end = client.status(bad)
    assert set(end) == {"batchId", "importId", "status", "message", *(name for name in end if name.startswith("num"))}
    assert (end["numOfLeadsProcessed"], end["numOfRowsFailed"], end["numOfRowsWithWarning"]) == (14, 6, 4)
    assert client.status(batch)["numOfRowsFailed"] == 10


def test_messages_are_those_of_adobes_samples() -> None:
    """People grep for them."""
    client = Client(min_poll_interval=0.0)
    files = (leads(3), leads(2) + ",Ana\n", "email\nana@nowhere\n")
    assert [client.judged(file)[0]["message"] for file in files] == [
        "Import succeeded, 3 records imported (3 members)",
        "Import completed with errors, 2 records imported (2 members), 1 failed",
        "Import succeeded, 1 records imported (1 members), 1 warning.",
    ]


def test_a_job_can_fail_as_a_whole_by_number_or_by_a_poisonous_value() -> None:
    """Failed says nothing of single rows: nothing of it counts as imported, and no result file lists it."""
    client = Client(failing_jobs=frozenset({2}), poison="arsenic", failed_message="Out of luck")
    ends = [client.judged(file) for file in (leads(1), leads(2), leads(1, first=5) + "bob@example.com,arsenic\n")]
    assert [end[0]["status"] for end in ends] == ["Complete", "Failed", "Failed"]
    for status, *files in ends[1:]:
        assert (status["message"], status["numOfLeadsProcessed"], files) == ("Out of luck", 0, ["", ""])


def test_a_custom_object_job_says_its_object_its_operation_and_how_long_it_took() -> None:
    """Its status has other names for the same things."""
    client = Client(**SLOW)
    status, _, _ = client.judged("vin,year\n1,1999\n2,2001\n3,x\n", "objects")
    assert status == {
        "batchId": status["batchId"],
        "status": "Complete",
        "operation": "import",
        "objectApiName": "car_c",
        "numOfObjectsProcessed": 2,
        "numOfRowsFailed": 1,
        "numOfRowsWithWarning": 0,
        "importTime": "3 second(s)",
        "message": "Import completed with errors, 2 records imported (2 members), 1 failed",
    }


@pytest.mark.parametrize("what", ["status", "failures", "warnings"])
@pytest.mark.parametrize(("knob", "refusal"), [("1013", "1013"), ("610", "610"), ("404", "http 404")])
def test_a_batch_can_be_asked_after_for_seven_days(knob: str, refusal: str, what: str) -> None:
    """A load resumed after a week must learn that the answer is gone; how it is said is not documented."""
    client = Client(unknown_batch=knob)
    batch = client.batch(leads(1) + ",Ana\n", kind="leads")
    assert code(client.ask(batch + 1, what)) == refusal
    client.now += 7 * 86_400.0
    assert client.ask(batch, what).status == 200
    client.now += 1.0
    assert code(client.ask(batch, what)) == refusal


def test_a_batch_is_found_only_under_the_path_of_its_own_kind_and_object() -> None:
    """A client that mixes up its targets would otherwise read another load's result as its own."""
    client = Client()
    batches = {kind: client.batch(ROWS, kind) for kind in BATCH}
    for kind, batch in batches.items():
        assert [other for other in BATCH if not code(client.ask(batch, kind=other))] == [kind]
    path = BATCH["objects"].format(id=batches["objects"], what="/status").replace("car_c", "boat_c")
    assert code(client.call("GET", path)) in {"610", "1013"}


Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upload"), st.integers(1, 30), st.sampled_from([0, 0, 1])),
        st.tuples(st.just("foreign"), st.integers(1, 4), st.integers(1, 40)),
        st.tuples(st.just("wait"), st.integers(0, 25), st.just(0)),
    ),
    min_size=1,
    max_size=60,
)


@given(steps=STEPS)
def test_order_places_processors_and_rows_hold_under_any_sequence_whoever_looks(steps: list[Step]) -> None:
    """Against a queue of ten lines written differently: ends kept in a heap, each job placed when it comes."""
    client, watched = (Client(calls_per_20s=10**6, calls_per_day=10**6, **SLOW) for _ in range(2))
    free, ends = [client.now] * 2, list[float]()
    expected: list[tuple[float, float, int, int]] = []
    for kind, size, more in steps:
        now = client.now
        unfinished = sum(end > now for end in ends)
        if kind == "wait":
            client.now, watched.now = now + size, now + size
        for job in range(size if kind == "foreign" else kind == "upload"):
            accepted = unfinished + job < 10
            seconds = size + more if kind == "upload" else more
            if kind == "upload":
                file = leads(size, first=len(expected)) + ",Ana\n" * more
                assert {code(each.upload(file)) for each in (client, watched)} == {"" if accepted else "1016"}
            elif accepted:
                client.marketo.occupy(1, now, seconds)
                watched.marketo.occupy(1, now, seconds)
            if accepted:
                start = max(now, heapq.heappop(free))
                heapq.heappush(free, start + seconds)
                ends.append(start + seconds)
                if kind == "upload":
                    expected.append((start, start + seconds, size, more))
        for batch in watched.marketo.jobs:
            watched.status(batch)
    client.now = watched.now = max([client.now, *ends])
    truth = [each.marketo.truth(each.now)["batches"] for each in (client, watched)]
    assert truth[0] == truth[1]
    assert [(batch["started_at"], batch["ended_at"]) for batch in truth[0]] == [(a, b) for a, b, _, _ in expected]
    for batch, (_, _, imported, failed) in zip(client.marketo.jobs, expected, strict=True):
        status = client.status(batch)
        assert (status["numOfLeadsProcessed"], status["numOfRowsFailed"]) == (imported, failed)
    assert sum(batch["rows"] for batch in truth[0]) == sum(imported + failed for _, _, imported, failed in expected)
