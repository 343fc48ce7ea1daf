"""Rows that are sent with their numbers: what is written before them, and what result files then tell."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from core.test_locate import FORMATS, REASON, WILD, csv_text, sent_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters.files import plan_blocks
from orchestrator.core.locate import Place, SentRow, read_echoes
from orchestrator.core.model import ROW_TAG, Format, Plan
from orchestrator.core.tags import Tagger, place_tagged, untagged

KINDS = ["a,b", "a,b", '"x\ny",b', '"x\r\n1,y",b', "", "a", "a,b,c", 'a"b,c', '"q""",', ",", "é,ü", "x" * 9 + ","]
LINES = st.lists(st.sampled_from(KINDS), max_size=30)
CUTS = st.lists(st.integers(0, 400), max_size=9)


def tagged(rows: bytes, cuts: list[int]) -> bytes:
    """The rows with their numbers, fed in blocks that end at these places."""
    tagger = Tagger(Format.CSV, 2, base=0, line=1)
    places = sorted({min(cut, len(rows)) for cut in cuts} | {0, len(rows)})
    blocks = [rows[start:stop] for start, stop in itertools.pairwise(places)]
    return b"".join([*map(tagger.feed, blocks), tagger.finish()])


def planned(header: str, rows: bytes) -> Plan:
    content = header.encode() + rows
    return plan_blocks(
        lambda: [content],
        name="x.csv",
        source_bytes=len(content),
        format=Format.CSV,
        budget=1_000_000,
        lookup_field=None,
        keep_rejected=100,
    )


def read(header: str, rows: bytes, plan: Plan) -> dict[int, list[str]]:
    """The rows of the only chunk of a plan, by their numbers."""
    found: dict[int, list[str]] = {}
    for span in plan.chunks[0].spans:
        text = rows[span.start - len(header) : span.stop - len(header)].decode()
        found.update(enumerate(csv.reader(io.StringIO(text, newline="")), span.first_row))
    return found


@settings(max_examples=200, deadline=None)
@given(lines=LINES, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), cuts=CUTS)
def test_every_row_gets_the_number_that_the_plan_gives_it_and_is_what_it_was(
    lines: list[str], end: str, last: bool, cuts: list[int]
) -> None:
    """A number that is off by one would blame the neighbour of every row that failed."""
    rows = (end.join(["a,b", *lines]) + end * last).encode()
    content = tagged(rows, cuts)
    assert content == tagged(rows, []), "blocks make no difference"
    headers = "m,n\n", f"{ROW_TAG},m,n\n"
    before, after = planned(headers[0], rows), planned(headers[1], content)
    assert (before.rows, before.blank_lines) == (after.rows, after.blank_lines)
    assert [(row.row, row.line) for row in before.rejected] == [(row.row, row.line) for row in after.rejected]
    plain, numbered = read(headers[0], rows, before), read(headers[1], content, after)
    assert {row: [str(row), *cells] for row, cells in plain.items()} == numbered


@dataclass(frozen=True)
class Echoed:
    """Rows with their numbers, some of them failed, and a result file that is mangled in every way at once."""

    header: tuple[str, ...]
    sent: list[SentRow]
    failed: list[tuple[SentRow, str]]
    text: str
    format: Format


CHANGES: list[Callable[[str], str]] = [
    str,
    str.strip,
    str.upper,
    lambda cell: cell.replace("\r\n", "\n"),
    lambda _: "?",
]


@st.composite
def echoed(draw: st.DrawFn, words: list[str]) -> Echoed:
    format = draw(FORMATS)
    own = ("email", "b", "c")[: draw(st.integers(1, 3))]
    header = (ROW_TAG, *own)
    cells = st.lists(st.sampled_from(words), min_size=len(own), max_size=len(own))
    rows = draw(st.lists(cells, min_size=1, max_size=8))
    sent = sent_rows(*([str(number), *row] for number, row in enumerate(rows, 1)))
    failed = [(row, f"R{row.row}") for row in draw(st.lists(st.sampled_from(sent), unique=True, min_size=1))]
    columns = [ROW_TAG, *draw(st.lists(st.sampled_from(own), unique=True))]  # some are lost, some moved
    if draw(st.booleans()):
        columns.insert(draw(st.integers(1, len(columns))), "Lead Id")
    change, records = draw(st.sampled_from(CHANGES)), [[*columns, REASON]]
    for row, reason in failed:
        values = {"Lead Id": "7", **dict(zip(header, row.cells, strict=True))}
        records.append([row.cells[0], *(change(values[name]) for name in columns[1:]), reason])
        if len(columns) > 1 and draw(st.booleans()):
            del records[-1][1]  # a value is left out
    ways = [
        (format.delimiter.join(record) + "\n", csv_text([record], format, 0), csv_text([record], format, 1))
        for record in records
    ]
    text = ways[0][1] + "".join(draw(st.sampled_from(way)) for way in ways[1:])
    return Echoed(header, sent, failed, text, format)


def placed(made: Echoed) -> list[tuple[Place, str]]:
    file = read_echoes(made.text.encode(), made.format)
    found = place_tagged(file, made.header, made.sent, "email", made.format)
    return [(place, place.reason or echo.reason) for echo, place in found if not place.continues]


@settings(max_examples=600, deadline=None)
@given(echoed(WILD))
def test_every_failed_row_has_its_place_and_its_reason_however_its_values_are_mangled(made: Echoed) -> None:
    """Equal rows, values changed, lost, moved and not quoted again: that is what the number is sent for."""
    assert [(place.sent, reason) for place, reason in placed(made)] == made.failed


FORGED = ["", "a", "a\n2", "a\n1,b", "b\r\n3;a", '2\n"1",', '"\n3', "1", "a\n 2,1", '\n"', "2\t\n3\t"]


@settings(max_examples=700, deadline=None)
@given(echoed(FORGED))
def test_a_value_that_looks_like_the_number_of_a_row_leads_to_no_wrong_row(made: Echoed) -> None:
    """A note whose second line begins with "2," is no record of row 2."""
    rows = [place.sent.row for place, _ in placed(made) if place.sent is not None]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= {row.row for row, _ in made.failed}


def test_a_piece_of_a_value_is_not_the_record_of_the_row_whose_number_it_begins_with() -> None:
    """Row 1 has nothing but its number: "1,B" looks like all of it, and is the second line of row 6's e-mail."""
    sent = sent_rows(*([str(number), "", "", ""] for number in range(1, 6)), ["6", "a\n1,b", "", ""])
    text = f"{ROW_TAG},email,{REASON}\n2,,R2\n6,A\n1,B,R6\n"
    made = Echoed((ROW_TAG, "email", "b", "c"), sent, [(sent[1], "R2"), (sent[5], "R6")], text, Format.CSV)
    places = [place for place, _ in placed(made)]
    assert [place.sent.row for place in places if place.sent] == [2]
    assert [row.row for row in places[2].candidates] == [1, 6]


def test_a_row_is_shown_as_it_stood_in_the_source() -> None:
    """Nobody knows the column, and retry.csv is loaded again."""
    text = b"12,a@x,b\n"
    plain = untagged(SentRow(12, 13, ("12", "a@x", "b"), 0, len(text)))
    assert plain.cells == ("a@x", "b")
    assert text[plain.start : plain.stop] == b"a@x,b\n"
