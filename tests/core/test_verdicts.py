"""What answers mean, code by code."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.answers import batch_id_of, status_of
from orchestrator.core.model import BatchId
from orchestrator.core.verdicts import (
    CUTS,
    GONE_SPAN_S,
    Answered,
    ApiError,
    CallKind,
    Failed,
    Saved,
    Verdict,
    judge,
    without_addresses,
)

KINDS: tuple[CallKind, ...] = get_args(CallKind)


def refused(*codes: str) -> Answered:
    return Answered(False, (), tuple(ApiError(code, "text") for code in codes))


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("601", Verdict.RENEW_TOKEN),
        ("602", Verdict.RENEW_TOKEN),
        ("603", Verdict.GIVE_UP_LOAD),
        ("604", Verdict.DOUBT),
        ("606", Verdict.SLOW_DOWN),
        ("607", Verdict.WAIT_FOR_QUOTA),
        ("608", Verdict.ASK_AGAIN),
        ("610", Verdict.GIVE_UP_LOAD),
        ("611", Verdict.DOUBT),
        ("613", Verdict.GIVE_UP_LOAD),
        ("614", Verdict.ASK_AGAIN),
        ("615", Verdict.SLOW_DOWN),
        ("713", Verdict.ASK_AGAIN),
        ("1003", Verdict.ASK_AGAIN),
        ("1006", Verdict.GIVE_UP_LOAD),
        ("1009", Verdict.GIVE_UP_LOAD),
        ("1010", Verdict.GIVE_UP_LOAD),
        ("1013", Verdict.GIVE_UP_LOAD),
        ("1016", Verdict.WAIT_FOR_SLOT),
        ("1019", Verdict.WAIT_FOR_LIST),
        ("1077", Verdict.GIVE_UP_CHUNK),
        ("699", Verdict.ASK_AGAIN),
    ],
)
def test_a_refused_upload_means_what_adobe_documents(code: str, verdict: Verdict) -> None:
    """Reading 1016 as fatal drops data; reading 603 as passing burns the day's quota."""
    assert judge(refused(code), "create").verdict is verdict


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_upload_that_was_welcomed_in_an_unknown_way_is_doubted(status: int) -> None:
    """It says that it was taken: to send it again as if it were refused would import it twice in silence."""
    assert judge(Failed(f"HTTP {status}", status, body_sent=True), "create").verdict is Verdict.DOUBT
    assert judge(Failed(f"HTTP {status}", status), "status").verdict is Verdict.ASK_AGAIN


def test_a_full_queue_is_known_by_its_text_alone() -> None:
    """The text was recorded for years, the code beside it never: either must do."""
    answer = Answered(False, (), (ApiError("9999", "There are 10 imports currently being processed."),))
    assert judge(answer, "create").verdict is Verdict.WAIT_FOR_SLOT


def test_the_worst_of_several_errors_decides() -> None:
    """Waiting for a slot while the permission is missing would wait for ever."""
    assert judge(refused("1016", "603", "606"), "create").verdict is Verdict.GIVE_UP_LOAD


@pytest.mark.parametrize("kind", ["status", "failures", "warnings"])
@pytest.mark.parametrize("code", ["500", "502", "604", "608", "611", "614", "713", "1003", "1077", "799"])
def test_trouble_with_a_question_only_delays(kind: CallKind, code: str) -> None:
    """A poll that fails says nothing about the batch: it must never end one."""
    ruling = judge(refused(code), kind)
    assert ruling.verdict is Verdict.ASK_AGAIN
    assert ruling.tries is None


@pytest.mark.parametrize("status", [None, 200, 500, 502, 503, 504])
def test_a_lost_answer_is_a_doubt_only_when_the_body_was_sent(status: int | None) -> None:
    """Evidence decides: a body that was cut short cannot have been imported, a whole one may have been."""
    assert judge(Failed("reset", status, body_sent=True), "create").verdict is Verdict.DOUBT
    assert judge(Failed("reset", status, body_sent=False), "create").verdict is Verdict.ASK_AGAIN


def test_an_upload_cut_in_mid_body_again_and_again_is_too_large_and_never_a_doubt() -> None:
    """A server that answers 413 early and closes loses its answer to the reset: trying on for ever is no answer."""
    ruling = judge(Failed("reset", cut_off=True), "create")
    assert (ruling.verdict, ruling.tries, ruling.then) == (Verdict.ASK_AGAIN, CUTS - 1, Verdict.HALVE)
    assert judge(Failed("reset"), "create").tries is None


@pytest.mark.parametrize("outcome", [refused("1013"), refused("610"), Failed("HTTP 404", 404)])
def test_an_unknown_batch_is_believed_gone_after_many_answers_over_a_quarter_of_an_hour(outcome: Any) -> None:
    """All three ways to say so are alike: believing too soon loses the outcome of a chunk."""
    ruling = judge(outcome, "status")
    assert (ruling.verdict, ruling.then, ruling.span_s) == (Verdict.ASK_AGAIN, Verdict.GONE, GONE_SPAN_S)
    assert GONE_SPAN_S >= 300


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_that_is_not_to_be_trusted_stops_the_load_at_once(kind: CallKind) -> None:
    """Trying again would not help, and going on without checking it would hand the leads to anybody."""
    ruling = judge(Failed("expired", certificate=True), kind)
    assert (ruling.verdict, ruling.exit_code) == (Verdict.GIVE_UP_LOAD, 69)
    assert "clock" in ruling.remedy


def test_missing_result_files_are_no_error() -> None:
    """Custom objects answer 404 when no row failed."""
    assert judge(Failed("HTTP 404", 404), "failures").verdict is Verdict.NOTHING_THERE


@given(
    kind=st.sampled_from(KINDS),
    outcome=st.one_of(
        st.builds(Saved, st.text(), st.integers()),
        st.builds(
            Failed,
            st.text(),
            st.one_of(st.none(), st.integers(100, 599)),
            st.booleans(),
            st.one_of(st.none(), st.floats(0, 100)),
            st.booleans(),
            st.booleans(),
        ),
        st.builds(
            Answered,
            st.booleans(),
            st.just(()),
            st.lists(st.builds(ApiError, st.text(max_size=6), st.text(max_size=20)), max_size=3).map(tuple),
        ),
    ),
)
def test_every_outcome_has_a_verdict(kind: CallKind, outcome: Any) -> None:
    """An outcome nobody thought of must not become a traceback in the middle of a load."""
    ruling = judge(outcome, kind)
    assert isinstance(ruling.verdict, Verdict)
    if ruling.verdict is Verdict.DOUBT:
        assert kind == "create"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["batchId", "importId", "status", "numOfLeadsProcessed", "numOfRowsFailed"]),
                st.text(max_size=4),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(result=st.lists(JSON, max_size=3).map(tuple))
def test_result_objects_of_any_shape_are_read_without_a_fault(result: tuple[Any, ...]) -> None:
    """Marketo's fields go missing and change type: the parser answers None instead of breaking."""
    answer = Answered(True, result)
    batch_id = batch_id_of(answer)
    assert batch_id is None or batch_id > 0
    status = status_of(answer, BatchId(3))
    assert status is None or (status.counts.imported >= 0 and status.counts.failed >= 0)


def test_an_answer_about_another_batch_is_not_believed() -> None:
    """Counting another chunk's rows as ours would hide failures."""
    answer = Answered(True, ({"batchId": 8, "status": "Complete", "numOfLeadsProcessed": 5},))
    assert status_of(answer, BatchId(7)) is None


def test_the_word_of_bulk_extracts_ends_a_batch_too_and_an_unknown_one_does_not() -> None:
    """A client that waited for the wrong word looped for ever; one that ends on any word loses rows."""
    completed = status_of(Answered(True, ({"batchId": 7, "status": "Completed"},)), BatchId(7))
    unheard = status_of(Answered(True, ({"importId": "7", "status": "Paused"},)), BatchId(7))
    assert completed is not None
    assert completed.word == "Complete"
    assert unheard is not None
    assert unheard.word == "unknown"


@pytest.mark.parametrize(
    "address", ["ann@example.org", "o'brien@example.org", '"quoted me"@example.org', "é+1@example.org"]
)
@pytest.mark.parametrize("around", ["Invalid email '{}'", "email={};", '"{}" is known', "<{}>", "({}, x)", "{}"])
def test_no_part_of_an_address_is_left_in_words_for_people(address: str, around: str) -> None:
    """Marketo's words quote rows; logs and terminals are read by many."""
    assert without_addresses(around.format(address)) == around.format("<address>")
