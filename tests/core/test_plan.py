"""The planner against Python's csv module, and against files as people have them."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator import errors
from orchestrator.core.model import Chunk, Fingerprint, Format, Plan, Target
from orchestrator.core.plan import Planner, halve, load_id


def plan_of(
    source: bytes,
    *,
    budget: int = 1_000,
    blocks: list[int] | None = None,
    format: Format | None = Format.CSV,
    name: str = "leads.csv",
    lookup_field: str | None = "email",
) -> Plan:
    planner = Planner(
        format=format,
        name=name,
        source_bytes=len(source),
        budget=budget,
        lookup_field=lookup_field,
        keep_rejected=10_000,
    )
    at = 0
    for size in blocks or []:
        planner.feed(source[at : at + size])
        at += size
    planner.feed(source[at:])
    return planner.finish()


def body(source: bytes, chunk: Chunk) -> bytes:
    return b"".join(source[span.start : span.stop] for span in chunk.spans)


def parsed(text: bytes, format: Format = Format.CSV) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(text.decode(), newline=""), delimiter=format.delimiter) if row]


CELL = st.text(alphabet='ab",;\t\n\r é€😀 ', max_size=8)


@st.composite
def sources(draw: st.DrawFn) -> tuple[bytes, Format]:
    """A sound file in any quoting, with any line ends, blank lines, with or without BOM and last newline."""
    format = draw(st.sampled_from(list(Format)))
    columns = draw(st.integers(1, 4))
    quoting: Literal[0, 1] = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    out = io.StringIO(newline="")
    ends = st.sampled_from(["\n", "\r\n"])
    names = ["email", "b", "c", "d"][:columns]
    csv.writer(out, delimiter=format.delimiter, lineterminator=draw(ends)).writerow(names)
    for _ in range(draw(st.integers(1, 30))):
        out.write(draw(st.sampled_from(["", "", "", "\n", "\r\n"])))
        cells = draw(st.lists(CELL, min_size=columns, max_size=columns))
        if quoting == csv.QUOTE_MINIMAL:  # the writer does not quote a carriage return
            cells = [cell.replace("\r", "") for cell in cells]
        if cells in ([""], ["\r"], ["\n"], ["\r\n"]):
            cells = ["x"]
        csv.writer(out, delimiter=format.delimiter, quoting=quoting, lineterminator=draw(ends)).writerow(cells)
    text = out.getvalue()
    if draw(st.booleans()):
        text = text.rstrip("\r\n") or text
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode(), format


@settings(max_examples=400, deadline=None)
@given(made=sources(), budget=st.integers(60, 400), blocks=st.lists(st.integers(1, 50), max_size=8))
def test_the_chunks_are_the_rows_of_the_source_and_nothing_else(
    made: tuple[bytes, Format], budget: int, blocks: list[int]
) -> None:
    """A row that is lost, doubled, cut or changed is a lead lost or spoilt."""
    source, format = made
    plan = plan_of(source, budget=budget, blocks=blocks, format=format)
    header = source[plan.header.start : plan.header.stop]
    sent = b"".join(body(source, chunk) for chunk in plan.chunks)
    rejected = {row.row for row in plan.rejected}
    assert all("room for" in row.reason for row in plan.rejected), plan.rejected
    rows = parsed(source.removeprefix(b"\xef\xbb\xbf"), format)[1:]
    assert parsed(sent, format) == [row for number, row in enumerate(rows, 1) if number not in rejected]
    assert plan.rows == len(rows)
    for chunk in plan.chunks:
        assert chunk.size_bytes == len(header) + len(body(source, chunk)) <= budget
        assert chunk.sha256 == hashlib.sha256(header + body(source, chunk)).hexdigest()
        assert chunk.rows == len(parsed(body(source, chunk), format)) > 0
    assert plan.fingerprint == Fingerprint(len(source), hashlib.sha256(source).hexdigest())


@settings(max_examples=200, deadline=None)
@given(made=sources(), budget=st.integers(60, 400), blocks=st.lists(st.integers(1, 50), max_size=8))
def test_the_plan_does_not_depend_on_how_the_source_is_fed(
    made: tuple[bytes, Format], budget: int, blocks: list[int]
) -> None:
    """A resumed load must find the plan it began with."""
    source, format = made
    assert plan_of(source, budget=budget, blocks=blocks, format=format) == plan_of(source, budget=budget, format=format)


@settings(max_examples=200, deadline=None)
@given(made=sources(), budget=st.integers(60, 400))
def test_every_span_knows_its_row_and_its_line(made: tuple[bytes, Format], budget: int) -> None:
    """The report names rows and lines: a wrong one sends people to the wrong lead."""
    source, format = made
    rows = parsed(source.removeprefix(b"\xef\xbb\xbf"), format)[1:]
    for chunk in plan_of(source, budget=budget, format=format).chunks:
        for span in chunk.spans:
            text = source[span.start : span.stop]
            assert parsed(text, format) == rows[span.first_row - 1 : span.first_row - 1 + span.rows]
            assert span.first_line == 1 + source.count(b"\n", 0, span.start)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet='a",\n\r', max_size=60).filter(lambda t: t.strip("\r\n") != ""),
    blocks=st.lists(st.integers(1, 20), max_size=6),
)
@example(text='a"b,c\n"d"e,f\n', blocks=[])
@example(text='"a""b\nc', blocks=[3])
@example(text='\r","', blocks=[])
def test_wild_input_is_cut_as_csv_cuts_it_or_named(text: str, blocks: list[int]) -> None:
    """A stray quote makes readers disagree about where rows end: such a row is named, never guessed at."""
    source = b"email,b\n" + text.encode()
    try:
        plan = plan_of(source, blocks=blocks)
    except (errors.UnclosedQuote, errors.HeaderOnly) as error:
        if isinstance(error, errors.UnclosedQuote) and "\r" not in text.replace("\r\n", ""):
            with pytest.raises(csv.Error):
                list(csv.reader(io.StringIO(source.decode(), newline=""), strict=True))
        return
    sent = b"".join(body(source, chunk) for chunk in plan.chunks)
    strict = list(csv.reader(io.StringIO(sent.decode(), newline=""), strict=True))
    assert [len(row) for row in strict] == [2] * sum(chunk.rows for chunk in plan.chunks)
    if "\r" not in text.replace("\r\n", ""):
        rows = parsed(source)[1:]
        rejected = {row.row for row in plan.rejected}
        assert strict == [row for number, row in enumerate(rows, 1) if number not in rejected]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x@y.z", "1 cell where the header has 2"),
        (b"x@y.z,b,c", "3 cells where the header has 2"),
        (b'"x@y.z",b,"c"', "3 cells where the header has 2"),
        (b'x@y.z,5" pipe', "a quote stands inside"),
        (b'"x@y.z" ,b', "text follows a closing quote"),
        (b"x@y.z,a\rb", "a carriage return stands alone"),
        (b"x@y.z,caf\xe9", "not UTF-8"),
        (b'x@y.z,"caf\xe9"', "not UTF-8"),
        (b"x@y.z," + b"n" * 200, "and a chunk has room for"),
        (b'x@y.z,"' + b"n\n" * 100 + b'"', "and a chunk has room for"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_row_that_cannot_be_sent_is_rejected_by_name_and_its_neighbours_are_sent(line: bytes, reason: str) -> None:
    """One bad row must cost one row, and be found again by the person who mends it."""
    source = b"email,b\na@b.c,1\n\n" + line + b"\nd@e.f,2\n"
    for blocks in ([], [7] * 40, [1] * 400):
        plan = plan_of(source, budget=108, blocks=blocks)
        (rejected,) = plan.rejected
        assert (rejected.row, rejected.line) == (2, 4)
        assert reason in rejected.reason
        assert source[rejected.start : rejected.stop] == line + b"\n"
        assert b"".join(body(source, chunk) for chunk in plan.chunks) == b"a@b.c,1\nd@e.f,2\n"
        assert (plan.rows, plan.rejected_rows, plan.blank_lines) == (3, 1, 1)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (b"", errors.EmptySource, "empty"),
        (b"\n\r\n\n", errors.EmptySource, "empty"),
        (b"\xef\xbb\xbf", errors.EmptySource, "empty"),
        (b"email,b\n", errors.HeaderOnly, "no row"),
        (b"email,b", errors.HeaderOnly, "no row"),
        (b"\x1f\x8b\x08\x00rest", errors.NotText, "gzip"),
        (b"PK\x03\x04rest", errors.NotText, "ZIP"),
        (b"email,b\nx\0,1\n", errors.NotText, "NUL"),
        ("email,b\nx,1\n".encode("utf-16"), errors.UnknownEncoding, "UTF-16"),
        ("email,naïve\nx,1\n".encode("latin-1"), errors.UnknownEncoding, "not UTF-8"),
        (b"email,b\rx,1\ry,2\r", errors.UnknownEncoding, "carriage return"),
        (b"mail,b\nx,1\n", errors.MissingLookupColumn, "no column 'email'"),
        (b"email,b,email\nx,1,2\n", errors.DuplicateColumn, "columns 1 and 3"),
        (b"email,,c\nx,1,2\n", errors.DuplicateColumn, "column 2"),
        (b'email,"b\nx,1\n', errors.UnclosedQuote, "header"),
        (b'email,b\nx,1\ny,"2\nz,3\n', errors.UnclosedQuote, "row 2, which begins on line 3 (byte 12)"),
        (b"email," + b"b" * 2_000 + b"\nx,1\n", errors.HeaderTooLarge, "no room"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_what_and_where(
    source: bytes, error: type[errors.SourceUnusable], words: str
) -> None:
    """Nothing is sent, and the message is all a person has to go by."""
    for blocks in ([], [1] * len(source)):
        with pytest.raises(error) as caught:
            plan_of(source, blocks=blocks)
        assert words in caught.value.message
        assert caught.value.remedy
        assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("header", "remedy"),
    [
        (b"Email,b", "--map email=Email"),
        (b" email,b", "--map 'email= email'"),
        (b"E-Mail,b", "--map email=E-Mail"),
        (b"mail,b", "nearest"),
        (b"x,b", "--map email=COLUMN"),
        (b"email;b", "say --format ssv"),
    ],
)
def test_a_missing_lookup_column_comes_with_the_likely_cause(header: bytes, remedy: str) -> None:
    """Every row would fail inside Marketo: the person needs the near miss, not the rule."""
    with pytest.raises(errors.MissingLookupColumn) as caught:
        plan_of(header + b"\nx,1\n")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "header", "format"),
    [
        ("a.csv", b"email,b", Format.CSV),
        ("a.TSV", b"email\tb", Format.TSV),
        ("a.ssv", b"email;b", Format.SSV),
        ("a.txt", b"email;b;c,d", Format.SSV),
        ("noname", b"email\tb", Format.TSV),
        ("noname", b"email", Format.CSV),
    ],
)
def test_the_format_is_found_by_suffix_and_then_by_the_header(name: str, header: bytes, format: Format) -> None:
    """People rename files; a wrong delimiter makes every row one cell."""
    row = header.replace(b"email", b"x")
    assert plan_of(header + b"\n" + row + b"\n", format=None, name=name).format is format


@pytest.mark.parametrize("rows", [220, 419, 421, 2_001, 10_001])
def test_a_large_source_becomes_an_even_number_of_even_chunks(rows: int) -> None:
    """Two jobs are processed at a time: an odd last chunk leaves one processor idle."""
    source = b"email,b\n" + b"".join(b"%06d@x.y,1234567\n" % i for i in range(rows))
    plan = plan_of(source, budget=4_000)
    assert len(plan.chunks) % 2 == 0
    sizes = [chunk.rows for chunk in plan.chunks]
    assert max(sizes) - min(sizes) <= 1
    assert len(plan.chunks) <= -(-len(source) // 3_970) + 1


@settings(max_examples=150, deadline=None)
@given(made=sources(), budget=st.integers(60, 300))
def test_halves_cover_their_chunk_exactly(made: tuple[bytes, Format], budget: int) -> None:
    """After 413 the two halves take the chunk's place: every row in one of them, none in both."""
    source, format = made
    plan = plan_of(source, budget=budget, format=format)
    header = source[plan.header.start : plan.header.stop]
    for chunk in plan.chunks:
        if chunk.rows > 1:
            left, right = halve(chunk, header, body(source, chunk), format)
            assert body(source, left) + body(source, right) == body(source, chunk)
            assert left.rows + right.rows == chunk.rows
            assert min(left.rows, right.rows) >= 1
            for half in (left, right):
                assert half.sha256 == hashlib.sha256(header + body(source, half)).hexdigest()
                assert half.size_bytes == len(header) + len(body(source, half))
                for span in half.spans:
                    assert span.first_line == 1 + source.count(b"\n", 0, span.start)
                    rows = parsed(source.removeprefix(b"\xef\xbb\xbf"), format)[1:]
                    assert parsed(source[span.start : span.stop], format)[0] == rows[span.first_row - 1]


def test_a_plan_names_no_more_rejected_rows_than_it_was_told_to_and_counts_them_all() -> None:
    """A file in another encoding rejects every row: ten gigabytes of them must not be kept."""
    source = b"email,b\n" + b"ragged\n" * 50
    planner = Planner(
        format=None, name="x.csv", source_bytes=len(source), budget=100, lookup_field=None, keep_rejected=3
    )
    planner.feed(source)
    plan = planner.finish()
    assert [row.row for row in plan.rejected] == [1, 2, 3]
    assert (plan.rejected_rows, plan.rows) == (50, 50)


def test_a_load_is_known_by_content_settings_and_subscription() -> None:
    """The same command must find its load again, and another target must be another load."""
    here = load_id(Fingerprint(1, "aa"), Target(), Format.CSV, "host")
    assert here == load_id(Fingerprint(1, "aa"), Target(), Format.CSV, "host")
    others = {
        load_id(Fingerprint(1, "ab"), Target(), Format.CSV, "host"),
        load_id(Fingerprint(1, "aa"), replace(Target(), list_id=3), Format.CSV, "host"),
        load_id(Fingerprint(1, "aa"), Target(), Format.TSV, "host"),
        load_id(Fingerprint(1, "aa"), Target(), Format.CSV, "other"),
        load_id(Fingerprint(1, "aa"), Target(), Format.CSV, "host", 1),
    }
    assert here not in others
    assert len(others) == 5


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("ended", [True, False])
def test_a_row_that_just_fits_is_sent_and_one_byte_more_is_rejected(over: int, ended: bool) -> None:
    """Its line end counts. Beside an unsound row, each line is looked at alone: there the end was once forgotten."""
    header, room = b"email,b\n", 40
    row = b"a@x.io," + b"x" * (room - 7 - ended + over) + (b"\n" if ended else b"")
    plan = plan_of(header + b"ragged\n" + row, budget=len(header) + room)
    reasons = [rejected.reason for rejected in plan.rejected]
    assert len(reasons) == (2 if over > 0 else 1)
    assert [chunk.size_bytes for chunk in plan.chunks] == ([] if over > 0 else [len(header) + room + over])
