"""Where every row is, and which rows are told of, from plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.locate import EchoFile, SentRow, read_echoes
from orchestrator.core.model import (
    BatchId,
    Chunk,
    ChunkNumber,
    ChunkRecord,
    Counts,
    Fingerprint,
    Format,
    Header,
    Load,
    LoadId,
    Offer,
    SourceFile,
    Span,
    Standing,
    State,
    Target,
    Totals,
)
from orchestrator.core.report import CANCELLED, Account, account, exit_code, rows_of_chunk, totals
from orchestrator.core.runs import ReportRow
from orchestrator.errors import BooksDoNotBalance

HEADER = ("email", "n")
SENT = [SentRow(row, row + 1, (f"{row}@x", "n"), 0, 0) for row in range(11, 15)]
COUNTED = {State.SETTLED, State.COLLECTING}


def record(
    state: State,
    rows: int = 10,
    counts: Counts | None = None,
    status: Literal["Complete", "Failed"] | None = "Complete",
    number: int = 1,
) -> ChunkRecord:
    offer = Offer(2, 1.0, 1, BatchId(7), status=status if counts else None, counts=counts)
    offers = () if state is State.PLANNED else (offer,)
    standing = Standing(
        LoadId("mine"), ChunkNumber(number), rows, state, why="610 not found", offer=offers[-1] if offers else None
    )
    span = Span(6, 16, rows, 11, 12)
    return ChunkRecord(Chunk(ChunkNumber(number), (span,), rows, 16, ""), standing, offers)


def a_load(rows: int, rejected: int = 0) -> Load:
    return Load(
        id=LoadId("mine"),
        subscription="host",
        source=SourceFile("/leads.csv", 16, 1, 2),
        fingerprint=Fingerprint(16, ""),
        format=Format.CSV,
        header=Header(0, 6, HEADER),
        target=Target(),
        budget=1_000,
        rows=rows,
        rejected=rejected,
        chunks=1,
        on_doubt="resend",
        report_dir="/reports",
        collected_dir="/batches",
        created_at=1.0,
    )


# --- accounts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.PLANNED, Account(unsent=10)),
        (State.REJECTED, Account(unsent=10)),
        (State.HALVED, Account()),
        (State.OFFERED, Account(unknown=10)),
        (State.DOUBTFUL, Account(unknown=10)),
        (State.QUEUED, Account(unknown=10)),
        (State.IMPORTING, Account(unknown=10)),
        (State.EXPIRED, Account(unknown=10)),
        (State.HELD, Account(unsent=10)),
        (State.COLLECTING, Account(unknown=10)),
        (State.SETTLED, Account(unknown=10)),
    ],
)
def test_without_counts_the_state_says_where_the_rows_are(state: State, expected: Account) -> None:
    """Rows that may have been imported must never be called unsent: somebody would send them again."""
    assert account(record(state)) == expected


def test_every_state_has_its_account() -> None:
    """A state added later must not fall through to `unknown` unnoticed."""
    assert {account(record(state)) for state in State} == {Account(unsent=10), Account(), Account(unknown=10)}
    assert len(State) == 11, "say where the rows of the new state are, above and here"


@pytest.mark.parametrize("state", sorted(COUNTED))
def test_the_counts_of_an_ended_batch_rule(state: State) -> None:
    """`Complete` is not success: a batch whose rows all failed is Complete."""
    assert account(record(state, counts=Counts(7, 3, 2))) == Account(imported=7, failed=3, warned=2)
    assert account(record(state, counts=Counts(0, 10, 0))) == Account(failed=10)


@pytest.mark.parametrize("counts", [Counts(0, 0, 0), Counts(0, 10, 0)])
def test_a_batch_that_broke_without_importing_has_failed_as_a_whole(counts: Counts) -> None:
    """None of its rows is in Marketo: they are failed, and go into retry.csv."""
    assert account(record(State.SETTLED, counts=counts, status="Failed")) == Account(failed=10)


def test_a_batch_that_broke_half_way_is_what_it_counted_and_the_rest_is_unknown() -> None:
    """The rows that were not reached may be anywhere."""
    one = account(record(State.SETTLED, counts=Counts(4, 1, 0), status="Failed"))
    assert (one.imported, one.failed, one.unknown) == (4, 1, 5)


@pytest.mark.parametrize("counts", [Counts(4, 1, 0), Counts(9, 9, 0), Counts(0, 11, 0), Counts(0, 0, 0)])
def test_counts_that_cannot_be_right_are_said(counts: Counts) -> None:
    """A difference that is swallowed is a lead that nobody looks for."""
    one = account(record(State.SETTLED, counts=counts))
    assert "of 10 rows" in one.discrepancy
    assert one.imported + one.failed + one.unknown == 10


COUNTS = st.builds(Counts, st.integers(0, 25), st.integers(0, 25), st.integers(0, 25))


@st.composite
def chunk_records(draw: st.DrawFn) -> ChunkRecord:
    return record(
        draw(st.sampled_from(sorted(set(State) - {State.HALVED}))),
        draw(st.integers(1, 20)),
        draw(st.none() | COUNTS),
        draw(st.sampled_from(["Complete", "Failed"])),
    )


@given(records=st.lists(chunk_records(), max_size=8), rejected=st.integers(0, 5), halved=st.integers(1, 20))
def test_the_books_always_balance(records: list[ChunkRecord], rejected: int, halved: int) -> None:
    """Whatever Marketo counts: a row is in one place, and in one only."""
    rows = rejected + sum(one.chunk.rows for one in records)
    sums = totals(a_load(rows, rejected), [record(State.HALVED, halved), *records])
    assert sums.rows == sums.imported + sums.failed + sums.rejected + sums.unsent + sums.unknown == rows
    assert min(sums.imported, sums.failed, sums.warned, sums.rejected, sums.unsent, sums.unknown) >= 0
    assert sums.warned <= sums.imported
    assert sums.rejected == rejected


@given(records=st.lists(chunk_records(), max_size=8), missing=st.integers(-5, 5).filter(bool))
def test_books_that_do_not_balance_are_not_shown_as_if_they_did(records: list[ChunkRecord], missing: int) -> None:
    """A chunk that is lost or doubled is our fault, and is said (70) instead of reported as success."""
    rows = sum(one.chunk.rows for one in records) + missing
    with pytest.raises(BooksDoNotBalance, match=f"{rows} rows") as caught:
        totals(a_load(rows), records)
    assert caught.value.exit_code == 70


GOOD = Totals(rows=5, imported=5, failed=0, warned=0, rejected=0, unsent=0, unknown=0)


@given(
    place=st.sampled_from(["failed", "rejected", "unsent", "unknown"]), warned=st.integers(0, 4), strict=st.booleans()
)
def test_one_row_that_is_not_known_to_be_imported_makes_it_3(place: str, warned: int, strict: bool) -> None:
    """A script that reads only the code must not take the load for done."""
    sums = replace(GOOD, imported=4, warned=warned, **{place: 1})
    assert exit_code(sums, fail_on_warning=strict) == 3


def test_warnings_count_only_when_asked_for() -> None:
    """A warned row is imported."""
    warned = replace(GOOD, warned=1)
    assert exit_code(GOOD, fail_on_warning=True) == 0
    assert exit_code(warned, fail_on_warning=False) == 0
    assert exit_code(warned, fail_on_warning=True) == 4


# --- the rows that are told of ------------------------------------------------------------------------------


def echoed(*lines: str) -> EchoFile:
    return read_echoes("\n".join(lines).encode(), Format.CSV)


def echoes(*rows: tuple[str, str]) -> EchoFile:
    return echoed("email,n,Import Failure Reason", *(f"{email},n,{reason}" for email, reason in rows))


def told(
    one: ChunkRecord, failures: EchoFile | None = None, warnings: EchoFile | None = None, sent: list[SentRow] = SENT
) -> list[ReportRow]:
    return list(rows_of_chunk(one, HEADER, "email", Format.CSV, failures, warnings, lambda: sent))


@pytest.mark.parametrize("state", sorted(COUNTED))
@pytest.mark.parametrize("message", ["", "the job broke"])
def test_a_batch_that_failed_as_a_whole_lists_every_row(state: State, message: str) -> None:
    """Marketo writes no failure file then; the rows would be in no report and in no retry.csv."""
    one = record(state, 4, Counts(0, 0, 0), "Failed")
    assert one.standing.offer is not None
    one = replace(one, standing=replace(one.standing, offer=replace(one.standing.offer, message=message)))
    rows = told(one)
    assert [(row.kind, row.source_row, row.source_line, row.sent) for row in rows] == [
        ("failure", row.row, row.line, row) for row in SENT
    ]
    assert {row.reason for row in rows} == {"the whole batch failed" + (f": {message}" if message else "")}
    assert {(row.chunk, row.batch_id, row.attempt) for row in rows} == {(1, 7, 2)}


def test_a_chunk_that_marketo_refused_lists_every_row_with_its_why() -> None:
    """They were never sent, and the one reason holds for all of them."""
    rows = told(record(State.REJECTED, 4))
    assert [(row.kind, row.source_row) for row in rows] == [("rejected", row.row) for row in SENT]
    assert {row.reason for row in rows} == {"Marketo refused the chunk: 610 not found"}


def test_rows_of_a_cancelled_load_are_not_said_to_be_refused_by_marketo() -> None:
    """Nobody asked it: whoever reads that would look for a fault of Marketo's."""
    one = record(State.REJECTED, 4)
    rows = told(replace(one, standing=replace(one.standing, why=CANCELLED)))
    assert {row.reason for row in rows} == {"the load was cancelled before this was sent"}
    doubted = told(replace(one, standing=replace(one.standing, why=CANCELLED, doubts=1)))
    assert {row.reason for row in doubted} == {f"{CANCELLED} again: it may have been imported before"}


def test_rows_stand_in_the_order_of_the_source_and_those_without_a_place_last() -> None:
    """Marketo promises no order, and people read the report beside the source."""
    failures = echoes(("13@x", "bad"), ("nobody@x", "lost"), ("11@x", "bad"))
    warnings = echoes(("12@x", "odd"), ("13@x", "odd"))
    rows = told(record(State.SETTLED, 4, Counts(2, 2, 2)), failures, warnings)
    assert [(row.kind, row.source_row) for row in rows] == [
        ("failure", 11),
        ("warning", 12),
        ("failure", 13),
        ("warning", 13),
        ("failure", None),
    ]
    assert rows[-1].cells == ("nobody@x", "n")
    assert rows[-1].sent is None


def test_a_row_has_the_cells_that_were_sent_and_not_those_that_came_back() -> None:
    """Marketo leaves out columns and strips quotes; the report shows what stood in the source."""
    file = echoed("email,Import Failure Reason", "12@x,bad")
    (row,) = told(record(State.SETTLED, 4, Counts(3, 1, 0)), file)
    assert row.cells == SENT[1].cells


def test_without_a_source_the_rows_are_told_as_they_came_back() -> None:
    """A source that was deleted after the load must not cost the reasons."""
    failures = echoed("n,email,own,Import Failure Reason", "1,12@x,7,bad")
    (row,) = told(record(State.SETTLED, 4, Counts(3, 1, 0)), failures, sent=[])
    assert row.cells == ("12@x", "1")
    assert (row.source_row, row.sent, row.reason) == (None, None, "bad")


def test_a_value_cut_at_its_line_end_is_one_row_with_its_own_reason() -> None:
    """Not quoted again, it comes as two records: two rows in the report would be one lead too many."""
    sent = [replace(SENT[0], cells=("11@x", "line 1\nline 2")), *SENT[1:]]
    file = echoed("email,n,Import Failure Reason", "11@x,line 1", "line 2,bad", "12@x,n,worse")
    rows = told(record(State.SETTLED, 4, Counts(2, 2, 0)), file, sent=sent)
    assert [(row.source_row, row.reason) for row in rows] == [(11, "bad"), (12, "worse")]


def test_equal_rows_that_cannot_be_told_apart_are_named_and_can_be_tried_again() -> None:
    """Any of them stands for the others: they are the same but for their place."""
    sent = [replace(row, cells=("same@x", "n")) for row in SENT[:2]]
    (row,) = told(record(State.SETTLED, 2, Counts(1, 1, 0)), echoes(("same@x", "bad")), sent=sent)
    assert (row.source_row, row.candidates) == (None, (11, 12))
    assert row.sent in sent


def test_rows_that_differ_are_never_tried_again_for_one_another() -> None:
    """They look alike only in what came back; one of them is imported already."""
    sent = [replace(row, cells=("same@x", str(row.row))) for row in SENT[:2]]
    file = echoed("email,Import Failure Reason", "same@x,bad")
    (row,) = told(record(State.SETTLED, 2, Counts(1, 1, 0)), file, sent=sent)
    assert (row.candidates, row.sent) == ((11, 12), None)
