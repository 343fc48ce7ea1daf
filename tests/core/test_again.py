"""Rows that go again by themselves: which, in which chunks, and what the report says of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from orchestrator.core.again import LastChunks, Later, goes_again, may_go_again
from orchestrator.core.locate import SentRow
from orchestrator.core.model import (
    BatchId,
    Chunk,
    ChunkNumber,
    ChunkRecord,
    CollectedFile,
    Counts,
    LoadId,
    Offer,
    Span,
    Standing,
    State,
)
from orchestrator.core.report import account
from orchestrator.core.runs import Kind, ReportRow

HEADER = b"email\n"
SOURCE = HEADER + b"".join(b"lead%02d@x.io\n" % n for n in range(1, 31))
SIZE = len(b"lead01@x.io\n")


def a_record(
    number: int, spans: tuple[tuple[int, int], ...], *, failed: int = 30, moved: int = 0, again: int = 0
) -> ChunkRecord:
    """A settled chunk of rows (first, rows)."""
    made = tuple(
        Span(len(HEADER) + (first - 1) * SIZE, len(HEADER) + (first - 1 + rows) * SIZE, rows, first, first + 1)
        for first, rows in spans
    )
    rows = sum(rows for _, rows in spans)
    failed = min(failed, rows)
    offer = Offer(
        1,
        1.0,
        1,
        batch_id=BatchId(number),
        counts=Counts(rows - failed, failed, 0),
        failures=CollectedFile("f", failed),
    )
    chunk = Chunk(ChunkNumber(number), made, rows, 1, "00", again=again)
    standing = Standing(LoadId("l"), chunk.number, rows, State.SETTLED, attempts=1, moved=moved, offer=offer)
    return ChunkRecord(chunk, standing, (offer,))


def a_row(number: int | None, reason: str = "System error", *, kind: Kind = "failure", chunk: int = 1) -> ReportRow:
    sent = None if number is None else SentRow(number, number + 1, (f"lead{number:02}@x.io",), 0, SIZE)
    return ReportRow(kind, reason, number, number and number + 1, (), chunk, BatchId(chunk), 1, ("x",), sent)


def in_chunk(record: ChunkRecord, number: int) -> tuple[SentRow, bytes]:
    """A row as it stands in a chunk's bytes, found the slow way."""
    at = 0
    for span in record.chunk.spans:
        if span.first_row <= number < span.first_row + span.rows:
            at += (number - span.first_row) * SIZE
            content = SOURCE[len(HEADER) + (number - 1) * SIZE :][:SIZE]
            return SentRow(number, number + 1, (), at, at + SIZE), content
        at += span.stop - span.start
    raise AssertionError(number)


@pytest.mark.parametrize(
    ("reason", "tries"),
    [("System error", 2), ("Lead is locked", 2), ("Lead not found", 1), ("Invalid data type in field X", 0)],
)
def test_a_reason_has_so_many_tries_and_no_more(reason: str, tries: int) -> None:
    """Transient twice, unknown once, permanent never: every try costs calls, and a row sent for ever never ends."""
    assert [goes_again(a_row(1, reason), n) for n in range(4)] == [n < tries for n in range(4)]


def test_only_failures_with_a_certain_place_go_again() -> None:
    """What is sent again must be exactly what failed."""
    assert not goes_again(a_row(None), 0)
    assert not goes_again(a_row(1, kind="warning"), 0)
    assert not goes_again(a_row(1, kind="rejected"), 0)


def test_a_chunk_is_read_again_once_for_each_time_its_rows_may_go() -> None:
    """Rows that moved on have left it; rows that went again stand in a later chunk."""
    record = a_record(1, ((1, 10),), failed=3)
    assert may_go_again(record, 0)
    assert not may_go_again(record, 1)
    assert may_go_again(a_record(1, ((1, 10),), failed=3, again=1), 1)
    assert not may_go_again(a_record(1, ((1, 10),), failed=0), 0)
    assert not may_go_again(a_record(1, ((1, 10),), failed=3, moved=1), 0)
    assert not may_go_again(replace(record, standing=replace(record.standing, offer=None)), 0)


def test_last_chunks_are_those_rows_of_the_source_and_nothing_else() -> None:
    """Hash and size are checked against what is read when the chunk is sent: one byte wrong, and it never goes."""
    first, second = a_record(1, ((1, 4), (7, 6))), a_record(2, ((13, 18),))
    last = LastChunks(HEADER, len(HEADER) + 4 * SIZE, 1)
    for record, numbers in ((first, (2, 3, 7, 12)), (second, (13, 14, 20, 30))):
        last.take(record, [in_chunk(record, number) for number in numbers])
    chunks = last.finish()
    assert last.moved == {1: 4, 2: 4}
    assert [[(s.first_row, s.rows, s.first_line) for s in chunk.spans] for chunk in chunks] == [
        [(2, 2, 3), (7, 1, 8), (12, 1, 13)],
        [(13, 2, 14), (20, 1, 21), (30, 1, 31)],
    ]
    for chunk in chunks:
        content = HEADER + b"".join(SOURCE[span.start : span.stop] for span in chunk.spans)
        assert (chunk.size_bytes, chunk.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (chunk.rows, chunk.again) == (4, 1)


def test_rows_of_a_last_chunk_go_again_from_where_they_stand() -> None:
    """Its spans are scattered: a row's bytes must be found among them."""
    record = a_record(3, ((2, 2), (7, 1), (12, 1)), again=1)
    last = LastChunks(HEADER, 1_000, 2)
    last.take(record, [in_chunk(record, 3), in_chunk(record, 12)])
    (chunk,) = last.finish()
    assert [SOURCE[span.start : span.stop] for span in chunk.spans] == [b"lead03@x.io\n", b"lead12@x.io\n"]


def test_a_file_that_names_more_rows_than_failed_is_not_believed() -> None:
    """Moving more rows than Marketo counted as failed would send rows that it imported."""
    record = a_record(1, ((1, 10),), failed=1)
    last = LastChunks(HEADER, 1_000, 1)
    last.take(record, [in_chunk(record, 1), in_chunk(record, 2)])
    assert last.finish() == []


def test_a_row_that_failed_and_was_imported_later_counts_as_imported_once() -> None:
    """The accounts of all chunks add up to the rows of the load."""
    first, last = (
        account(a_record(1, ((1, 10),), failed=3, moved=2)),
        account(a_record(2, ((2, 1), (5, 1)), failed=1, again=1)),
    )
    assert (first.imported, first.failed, first.moved) == (7, 1, 2)
    assert first.imported + last.imported + first.failed + last.failed == 10


def test_the_report_tells_of_a_row_once_as_what_it_came_to() -> None:
    """Two lines for one row would look like two failures; the attempts say that it was tried."""
    later = Later()
    later.add(
        a_record(2, ((2, 1), (5, 2)), again=1),
        [a_row(5, chunk=2), a_row(6, "Invalid email address", kind="warning", chunk=2)],
    )
    later.add(a_record(3, ((5, 1),), again=2), [a_row(5, "Lead is locked", chunk=3), a_row(None, chunk=3)])
    told = {number: later.instead_of(a_row(number)) for number in (1, 2, 5, 6)}
    assert told[1] == [a_row(1)]
    assert told[2] == []
    assert [(row.reason, row.chunk, row.attempt) for row in told[5]] == [("Lead is locked", 3, 3)]
    assert [(row.kind, row.chunk, row.attempt) for row in told[6]] == [("warning", 2, 2)]
    warned = a_row(2, "Invalid email address", kind="warning")
    assert later.instead_of(warned) == [warned]
    assert [row.source_row for row in later.unplaced] == [None]
