"""Which rows of a load go again, and as what."""

from __future__ import annotations

import pytest

from orchestrator.core.locate import SentRow
from orchestrator.core.model import BatchId, Format
from orchestrator.core.repair import Repair, parse
from orchestrator.core.retry import Again, Tally, rows_again
from orchestrator.core.runs import Kind, ReportRow
from orchestrator.core.worth import Which

HEADER = ("email", "leadScore", "notes")


def a_row(
    number: int,
    reason: str,
    cells: tuple[str, ...],
    *,
    kind: Kind = "failure",
    sent: bool = True,
    chunk: int | None = 1,
) -> ReportRow:
    return ReportRow(
        kind=kind,
        reason=reason,
        source_row=number,
        source_line=number + 1,
        candidates=(),
        chunk=chunk,
        batch_id=BatchId(7),
        attempt=1,
        cells=cells,
        sent=SentRow(number, number + 1, cells, 0, 0) if sent else None,
    )


SCORE, LOCK, KEY = "Invalid data type in field Lead Score", "System error", "Value for lookup field 'email' not found"


def again(
    *rows: tuple[ReportRow, bytes], fix: str = "", which: Which = "unknown", format: Format = Format.CSV
) -> tuple[list[Again], Tally]:
    tally = Tally()
    repair = Repair(parse(fix), HEADER, {}) if fix else None
    return list(rows_again(rows, header=HEADER, format=format, which=which, repair=repair, tally=tally)), tally


def test_rows_go_again_as_they_stand_byte_for_byte() -> None:
    """A row that was quoted in its own way must not come out in ours when nothing in it was to change."""
    raw = b'"a@x.io",1,  "odd"\n'
    found, tally = again((a_row(3, LOCK, ("a@x.io", "1", '  "odd"')), raw))
    assert [(one.was.source_row, one.content, one.changes) for one in found] == [(3, raw, ())]
    assert (tally.rows, tally.again, tally.mended, tally.by_class) == (1, 1, 0, {"transient": 1})


def test_a_permanent_row_stays_unless_the_column_its_reason_names_is_mended() -> None:
    """Trimming a note does not make a score a number: the row would fail again."""
    row = a_row(1, SCORE, ("a@x.io", "1.5", " n ")), b"a@x.io,1.5, n \r\n"
    assert again(row)[1].staying == 1
    assert again(row, fix="trim:notes")[1].staying == 1
    (one,), tally = again(row, fix="trim:notes,blank-invalid:leadScore")
    assert one.content == b"a@x.io,,n\r\n"
    assert [(change.column, change.old, change.new) for change in one.changes] == [
        ("leadScore", "1.5", ""),
        ("notes", " n ", "n"),
    ]
    assert (tally.mended, tally.cells_changed) == (1, {"leadScore": 1, "notes": 1})


def test_a_permanent_reason_that_names_no_column_is_given_the_benefit_of_any_change() -> None:
    """`missing.dedupe.fields` says nothing of where: the rules' author knows."""
    row = a_row(1, "missing.dedupe.fields", ("a@x.io ", "1", "")), b"a@x.io ,1,\n"
    assert again(row, fix="trim")[1].again == 1
    assert again(row, fix="trim:notes")[1].again == 0


@pytest.mark.parametrize(("which", "rows"), [("transient", [1]), ("unknown", [1, 2]), ("all", [1, 2, 3])])
def test_the_caller_says_which_reasons_go_unmended(which: Which, rows: list[int]) -> None:
    """After a field was created in Marketo, permanent rows are worth sending as they are."""
    reasons = {1: LOCK, 2: "Lead not found", 3: KEY}
    found, _ = again(*((a_row(n, reason, ("", "", "")), b",,\n") for n, reason in reasons.items()), which=which)
    assert [one.was.source_row for one in found] == rows


def test_warned_rows_are_imported_and_never_go_again() -> None:
    """They would be imported a second time."""
    found, tally = again((a_row(1, "Invalid email address", ("a", "", ""), kind="warning"), b"a,,\n"), which="all")
    assert (found, tally) == ([], Tally())


def test_what_cannot_go_is_counted_and_nothing_is_lost_from_sight() -> None:
    """A retry that says nothing of the rest would look complete."""
    _, tally = again(
        (a_row(1, "5 cells where the header has 3", (), kind="rejected", sent=False, chunk=None), b""),
        (a_row(2, LOCK, ("a", "", ""), sent=False), b""),
        (a_row(3, "Marketo refused the chunk: 1003 Empty file", ("c", "", ""), kind="rejected"), b"c,,\n"),
        which="all",
    )
    assert (tally.rows, tally.unreadable, tally.not_found, tally.again, tally.staying) == (3, 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("format", "like", "content"),
    [
        (Format.CSV, b"x\r\n", b'a@x.io,,"one, ""two""\r\nthree\rfour"\r\n'),
        (Format.CSV, b"x\n", b'a@x.io,,"one, ""two""\r\nthree\rfour"\n'),
        (Format.CSV, b"x", b'a@x.io,,"one, ""two""\r\nthree\rfour"\n'),
        (Format.TSV, b"x\n", b'a@x.io\t\t"one, ""two""\r\nthree\rfour"\n'),
        (Format.SSV, b"x\n", b'a@x.io;;"one, ""two""\r\nthree\rfour"\n'),
    ],
)
def test_a_mended_row_is_written_in_the_sources_format_with_its_line_end(
    format: Format, like: bytes, content: bytes
) -> None:
    """What the rules did not touch must mean the same when it is read again."""
    row = a_row(1, SCORE, ("a@x.io", "x", 'one, "two"\r\nthree\rfour'))
    (one,), _ = again((row, like), fix="blank:leadScore", format=format)
    assert one.content == content
