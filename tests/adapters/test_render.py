"""The report's five files, written from real sources and real result files."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import os
import re
import stat
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_case import Case, a_case

from orchestrator.adapters.render import aside, tables
from orchestrator.adapters.render.page import ticks_of
from orchestrator.adapters.render.tables import COLUMNS, FORMULA_STARTS, harmless, head_of_table
from orchestrator.config import load_config
from orchestrator.core import report
from orchestrator.core.model import BatchId, ChunkRecord, Counts, LoadId, Offer, State
from orchestrator.core.runs import Kind
from orchestrator.verification import verify

NAMES = {"report.csv", "report.jsonl", "report.json", "report.html", "retry.csv"}


# --- report.csv and report.jsonl --------------------------------------------------------------------------


def test_each_failed_and_warned_row_stands_in_one_merged_table(tmp_path: Path) -> None:
    """This is what the load is judged by: every row that needs somebody, where it stands, and why."""
    case = a_case(tmp_path, b'email,n\na@x,1\nb@x,"2\n2"\nc@x,3\nd@x,4\n', budget=30)
    assert len(case.plan.chunks) == 2
    assert case.plan.chunks[0].rows == 2
    case.settle(1, failures='b@x,"2\n2",bad\n', counts=Counts(1, 1, 0))
    case.settle(2, failures="c@x,3,bad\n", warnings="d@x,4,odd\n")
    written = case.write()
    assert case.table() == [
        [*COLUMNS, "email", "n"],
        ["failure", "bad", "2", "3", "1", "101", "1", "b@x", "2\n2"],
        ["failure", "bad", "3", "5", "2", "102", "1", "c@x", "3"],
        ["warning", "odd", "4", "6", "2", "102", "1", "d@x", "4"],
    ]
    assert [(one.kind, one.reason, one.rows, one.example_row) for one in written.reasons] == [
        ("failure", "bad", 2, 2),
        ("warning", "odd", 1, 4),
    ]
    assert (written.rows, written.discrepancies, written.undecoded) == (3, (), 0)
    summary = json.loads(case.read("report.json"))
    assert summary["totals"] == {
        "rows": 4,
        "imported": 2,
        "failed": 2,
        "warned": 1,
        "rejected": 0,
        "unsent": 0,
        "unknown": 0,
    }
    assert (summary["schema"], summary["exit_code"], summary["load_id"]) == (1, 3, "abcdef012345")
    assert [batch["batch_id"] for batch in summary["batches"]] == [101, 102]


def test_a_column_that_bears_one_of_our_names_is_told_apart(tmp_path: Path) -> None:
    """`reason` of a lead and the reason of its failure must not be one column to whoever reads by name."""
    case = a_case(tmp_path, b"reason,email,chunk\nwhy not,a@x,9\n")
    case.settle(1, failures="why not,a@x,9,bad\n")
    case.write()
    (row,) = csv.DictReader(io.StringIO(case.read("report.csv").decode(), newline=""))
    assert (row["reason"], row["source.reason"], row["source.chunk"], row["chunk"]) == ("bad", "why not", "9", "1")
    assert case.lines()[0]["row"] == {"reason": "why not", "email": "a@x", "chunk": "9"}


def test_source_file_is_a_name_like_any_other_where_the_table_has_no_such_column(tmp_path: Path) -> None:
    """Only a load of several files has one."""
    case = a_case(tmp_path, b"email,source_file\na@x,1\n")
    case.settle(1, failures="a@x,1,bad\n")
    case.write()
    assert case.table()[0] == [*COLUMNS, "email", "source_file"]
    assert head_of_table(["source_file"], several=True) == [*COLUMNS, "source_file", "source.source_file"]


def test_a_name_that_was_told_apart_does_not_meet_one_that_was_there(tmp_path: Path) -> None:
    """A report of a report has both; two columns of one name are one to most readers."""
    case = a_case(tmp_path, b"reason,email,source.reason\n1,a@x,2\n")
    case.settle(1, failures="1,a@x,2,bad\n")
    case.write()
    header = case.table()[0]
    assert len(set(header)) == len(header)


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=cmd|"/c calc"!A1', "plain", "", "'", "a=1", "é😀", "a\nb"]
HOSTILE += [
    "x;=1",
    "x\t=1",
    'x;"=1',
    "x\n=1",
    "x,\r@y",
    'x; ""-1',
    "\uff1d1",
    "x;\uff0b1",
    " =1",
    "a - b",
    "x;;=1",
    '"=1',
    "\n=1",
    "x\u2028=1",
    "\u0085=1",
    "\u00a0-1",
    "Ã\u0085;=1",
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=2), min_size=1, max_size=8))
def test_no_cell_of_the_table_runs_and_none_of_the_lines_is_altered(tmp_path: Path, rows: list[list[str]]) -> None:
    """Leads are typed in by strangers; who opens their failures in a spreadsheet must not run what they typed."""
    header = ["email", "=n", "@evil"]
    records = [[f"{number}@x", *row] for number, row in enumerate(rows)]
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([header, *records])
    case = a_case(tmp_path, out.getvalue().encode(), budget=100_000)
    echo = io.StringIO(newline="")
    csv.writer(echo, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([*record, "=bad()"] for record in records)
    case.settle(1, failures=echo.getvalue(), counts=Counts(0, len(rows), 0))
    case.write()
    table, lines = case.table(), case.lines()
    assert not [cell for record in table for cell in record if cell.startswith((*FORMULA_STARTS, *"\t\r\n\0"))]
    text = case.read("report.csv").decode()
    for separated in (r"[,\r\n]", r"[;\r\n]", r"[\t\r\n]", r"[,;\t\r\n]"):  # in other countries, quotes or not
        assert not [cell for cell in re.split(separated, text) if cell.lstrip(' "').startswith(tuple(FORMULA_STARTS))]
    assert table[0] == [*COLUMNS, "email", "'=n", "'@evil"]
    assert [record[len(COLUMNS) :] for record in table[1:]] == [[harmless(cell) for cell in row] for row in records]
    assert [line["row"] for line in lines] == [dict(zip(header, record, strict=True)) for record in records]
    assert {line["reason"] for line in lines} == {"=bad()"}
    assert list(csv.reader(io.StringIO(case.read("retry.csv").decode(), newline=""))) == [header, *records]


VALUES = [
    "",
    "a",
    "b",
    "=1",
    "+1",
    "a,b",
    "a;b",
    "a\tb",
    "\tc",
    "a;=1",
    "a; -1",
    " =1",
    " ",
    "\uff1d1",
    "a\t@1",
    '"=1',
    "a -1",
]
VALUES += ["back\\slash", 'say "a"', "two\nlines", "é😀", "\x07bell", "%s"]
VALUES += ["\u0085=1", "\u00a0", "a\u2028b", "Ã©", "\x7f", "日本"]
"""As Latin-1, the bytes of these are line ends, blanks and other letters."""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(st.sampled_from(VALUES), min_size=3, max_size=3), min_size=1, max_size=12),
    name=st.sampled_from(["leads.csv", "leads.tsv", "leads.ssv"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
    header=st.sampled_from([["email", "b", "100%"], ["reason", "email", "c"]]),
    data=st.data(),
)
def test_rows_written_many_at_once_are_the_same_bytes_as_one_by_one(
    tmp_path: Path,
    rows: list[list[str]],
    name: str,
    quoting: Literal[0, 1],
    line_end: str,
    ended: bool,
    header: list[str],
    data: st.DataObject,
) -> None:
    """Nearly all rows take the fast way; the other one is the easier to believe."""
    delimiter = {"leads.csv": ",", "leads.tsv": "\t", "leads.ssv": ";"}[name]

    def text(records: list[list[str]], end: str) -> str:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(records)
        return out.getvalue()

    content = text([header, *rows], line_end)
    content = content if ended else content.removesuffix(line_end)
    case = a_case(tmp_path, content.replace("two\nlines", f"two{line_end}lines").encode(), name, budget=100_000)
    if not case.plan.chunks:
        return
    kinds = [data.draw(st.sampled_from(["failure", "warning", ""])) for _ in rows]
    named = {
        kind: text(
            [[*row, f"{kind} 100%, {row[0]}"] for row, one in zip(rows, kinds, strict=True) if one == kind], "\n"
        )
        for kind in ("failure", "warning")
    }
    failed, warned = kinds.count("failure"), kinds.count("warning")
    failed = min(failed, case.plan.chunks[0].rows)
    counts = Counts(case.plan.chunks[0].rows - failed, failed, warned)
    case.settle(1, failures=named["failure"], warnings=named["warning"], counts=counts)
    with patch.object(tables, "ROWS_AT_ONCE", data.draw(st.sampled_from([1, 3, 500]))):
        case.write()
    with patch.object(report, "read_texts", lambda *_: None):
        case.write("slow")
    for file in ("report.csv", "report.jsonl", "retry.csv"):
        assert case.read(file) == (tmp_path / "slow" / file).read_bytes(), file


def test_rejected_rows_stand_where_they_stand_in_the_source(tmp_path: Path) -> None:
    """Whoever goes through the source goes through it once."""
    rows = [b"%d@x,%d\n" % (row, row) for row in range(1, 13)]
    for bad in (1, 4, 7, 12):
        rows[bad - 1] = b"%d@x\n" % bad
    case = a_case(tmp_path, b"email,n\n" + b"".join(rows), budget=36)
    assert len(case.plan.chunks) > 1
    for chunk in case.plan.chunks:
        inside = [row for row in range(chunk.first_row, chunk.last_row + 1) if row not in (1, 4, 7, 12)]
        case.settle(chunk.number, failures="".join(f"{row}@x,{row},bad\n" for row in reversed(inside)))
    case.write()
    found = [(record[0], int(record[2]), int(record[3])) for record in case.table()[1:]]
    assert found == [("rejected" if row in (1, 4, 7, 12) else "failure", row, row + 1) for row in range(1, 13)]
    assert b"4@x" not in case.read("retry.csv")


def test_making_a_cell_harmless_takes_no_longer_than_reading_it() -> None:
    """A megabyte of separators and signs is typed in by a stranger, too."""
    for cell in (";=" * 500_000, ";" * 1_000_000, '"' * 999_999 + "=", " " * 999_999 + "x", ";" + "= " * 500_000):
        assert harmless(cell).replace("'", "") == cell
    assert harmless("a - b, Tel +49") == "a - b, Tel +49"
    assert harmless("a,-5; =x") == "a,'-5;' =x"


def in_source_order(case: Case, numbers: Sequence[int]) -> None:
    """Every table lists these rows in this order, and what is tried again are their bytes."""
    assert [line["source_row"] for line in case.lines()] == numbers
    assert [record[2] for record in case.table()[1:]] == list(map(str, numbers))
    failed = [line["source_row"] for line in case.lines() if line["kind"] == "failure"]
    rows = case.source.read_bytes().splitlines(keepends=True)
    assert case.read("retry.csv") == rows[0] + b"".join(rows[number] for number in failed)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40),
    budget=st.sampled_from([80, 100, 200, 2_000]),
    on_duplicate=st.sampled_from(["together", "last"]),
    alike=st.booleans(),
    data=st.data(),
)
def test_rows_that_share_keys_stand_where_they_stand_in_the_source(
    tmp_path: Path,
    keys: list[str],
    budget: int,
    on_duplicate: Literal["together", "last"],
    alike: bool,
    data: st.DataObject,
) -> None:
    """They are sent in chunks that lie across all others; whoever goes through the source goes through it once."""
    rows = [f"{key}@x,{0 if alike else number}\n" for number, key in enumerate(keys, 1)]
    for number in data.draw(st.sets(st.integers(1, len(rows)))):
        if number % 5 == 0:
            rows[number - 1] = f"{keys[number - 1]}@x\n"
    case = a_case(tmp_path, f"email,n\n{''.join(rows)}".encode(), budget=budget, on_duplicate=on_duplicate)
    sent = set(range(1, len(rows) + 1)) - {row.row for row in (*case.plan.rejected, *case.plan.superseded)}
    judgements: dict[int, tuple[Kind, str]] = {}
    for number in sorted(sent):
        kind: Kind | None = data.draw(st.sampled_from(["failure", "warning", None]))
        if kind is not None:
            judgements[number] = kind, f"{kind} of {number % 3}"
    case.judge(judgements)
    all_imported = len(sent) == len(rows) and all(kind == "warning" for kind, _ in judgements.values())
    with patch.object(aside, "_ROWS_AT_ONCE", data.draw(st.sampled_from([1, 2_048]))):
        case.write(exit_code=0 if all_imported else 3)
    lines = case.lines()
    found = {line["source_row"]: line for line in lines if line["source_row"] is not None}
    if not alike:
        in_source_order(case, sorted({*judgements, *range(1, len(rows) + 1)} - (sent - judgements.keys())))
        assert {row: (found[row]["kind"], found[row]["reason"]) for row in judgements} == judgements
        assert all(list(line["row"].values()) == rows[row - 1].strip().split(",") for row, line in found.items())
    assert list(found) == sorted(found)
    assert len([line for line in lines if line["kind"] != "rejected"]) == len(judgements)
    assert all(line.ok for line in verify(tmp_path / "report", [str(case.source)], load_config(None, {}, {})))
    assert not [path for path in (tmp_path / "report").iterdir() if path.name not in NAMES]


def test_every_record_of_the_table_has_all_columns(tmp_path: Path) -> None:
    """Rejected rows are those with another number of cells: strict readers refuse a table that repeats that."""
    content = b"email,b,c\na@x\nb@x,1,2,3\nc@x,1,2\n" + b"x" * 200 + b",1,2\n"
    case = a_case(tmp_path, content, budget=100)
    assert case.plan.rejected_rows == 3
    case.settle(1)
    case.write()
    assert {len(record) for record in case.table()} == {len(COLUMNS) + 3}
    assert [list(line["row"].values()) + line.get("more_cells", []) for line in case.lines()] == [
        ["a@x"],
        ["b@x", "1", "2", "3"],  # what the table has no column for is not lost
        [],
    ]


def test_a_row_with_a_carriage_return_alone_is_reported_like_any_rejected_row(tmp_path: Path) -> None:
    """Python's csv refuses to read such a row: the report must not die of the very row it has to tell of."""
    case = a_case(tmp_path, b"email,n\na@x,1\rb@x,2\nc@x,3\n")
    assert case.plan.rejected_rows == 1
    case.settle(1)
    case.write()
    assert [record[:3] for record in case.table()[1:]] == [["rejected", case.plan.rejected[0].reason, "1"]]


@pytest.mark.parametrize("bad", [b'a"b@x,1\n', b'"a@x"b,1\n', b"a@x,\xff\n", b"a@x,1,2\n", b"a@x\n"])
def test_a_row_that_cannot_be_sent_is_told_with_its_reason(tmp_path: Path, bad: bytes) -> None:
    """It is the only trace of a lead that Marketo has never seen."""
    case = a_case(tmp_path, b"email,n\n" + bad + b"c@x,3\n")
    assert case.plan.rejected_rows == 1
    case.settle(1)
    written = case.write()
    assert [(line["kind"], line["source_row"], line["source_line"]) for line in case.lines()] == [("rejected", 1, 2)]
    assert (written.totals.rejected, written.totals.imported) == (1, 1)


# --- retry.csv --------------------------------------------------------------------------------------------

ROWS = [b"a@x,1", b'b@x,"2, ""two"""', b'c@x,"3\r\nthree"', b"d@x, 4 ", '"e@x",é😀'.encode(), b'f@x,"=6"']


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("failed", [(0,), (2,), (5,), (1, 3, 5), tuple(range(6))])
def test_what_is_tried_again_is_byte_for_byte_what_stood_in_the_source(
    tmp_path: Path, end: bytes, bom: bytes, failed: tuple[int, ...]
) -> None:
    """A row that is written anew is another row: quotes, blanks and line ends included."""
    case = a_case(tmp_path, bom + b'email,"n"' + end + end.join(ROWS), budget=40)
    assert len(case.plan.chunks) > 2
    for chunk in case.plan.chunks:
        ours = [row for row in failed if chunk.first_row <= row + 1 <= chunk.last_row]
        echo = io.StringIO(newline="")
        parsed = [next(csv.reader(io.StringIO(ROWS[row].decode(), newline=""))) for row in ours]
        csv.writer(echo, lineterminator="\n").writerows([*cells, "bad"] for cells in parsed)
        case.settle(chunk.number, failures=echo.getvalue(), counts=Counts(chunk.rows - len(ours), len(ours), 0))
    written = case.write()
    expected = b'email,"n"' + end + b"".join(ROWS[row] + (b"\n" if row == 5 else end) for row in failed)
    assert case.read("retry.csv") == expected
    assert written.totals.failed == len(failed)
    assert written.discrepancies == ()


@pytest.mark.parametrize("name", ["leads.tsv", "leads.ssv"])
def test_what_is_tried_again_is_in_the_format_of_the_source(tmp_path: Path, name: str) -> None:
    """It is loaded again by the same command with the same --format."""
    delimiter = {"leads.tsv": b"\t", "leads.ssv": b";"}[name]
    case = a_case(tmp_path, b"email|n\na@x|1,5\nb@x|2,5\n".replace(b"|", delimiter), name)
    case.settle(1, failures="b@x|2,5|bad\n".replace("|", delimiter.decode()))
    case.write()
    assert case.read("retry.csv") == b"email|n\nb@x|2,5\n".replace(b"|", delimiter)


def test_warned_and_rejected_rows_are_not_tried_again(tmp_path: Path) -> None:
    """The one is imported already, the other fails again as it stands."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x\nc@x,3\n")
    case.settle(1, failures="c@x,3,bad\n", warnings="a@x,1,odd\n")
    case.write()
    assert case.read("retry.csv") == b"email,n\nc@x,3\n"


def test_a_batch_that_failed_as_a_whole_is_listed_and_tried_again_whole(tmp_path: Path) -> None:
    """Marketo names none of its rows."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\n")
    case.settle(1, status="Failed", counts=Counts(0, 0, 0), message="system error")
    case.write()
    assert [record[1:3] for record in case.table()[1:]] == [
        ["the whole batch failed: system error", "1"],
        ["the whole batch failed: system error", "2"],
    ]
    assert case.read("retry.csv") == case.source.read_bytes()


def test_a_failed_row_that_cannot_be_found_is_missed_aloud(tmp_path: Path) -> None:
    """Who loads retry.csv must know that it is not all of them."""
    case = a_case(tmp_path, b"email,n\na@x,1\n")
    case.settle(1, failures="nobody@x,1,bad\n")
    written = case.write()
    assert case.read("retry.csv") == b"email,n\n"
    assert case.table()[1][2:4] == ["", ""]
    assert any("1 failed rows could not be found" in note for note in written.discrepancies)


def test_rows_that_were_counted_and_not_named_are_missed_aloud(tmp_path: Path) -> None:
    """The counts rule: a file that says less does not make the failures fewer."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\nc@x,3\n")
    case.settle(1, failures="a@x,1,bad\n", counts=Counts(1, 2, 0))
    written = case.write()
    assert (written.totals.failed, written.undecoded) == (2, 1)
    assert any("1 rows that its files do not name" in note for note in written.discrepancies)


@pytest.mark.parametrize("status", ["Complete", "Failed"])
def test_a_very_long_value_does_not_cost_the_report(tmp_path: Path, status: Literal["Complete", "Failed"]) -> None:
    """One lead with a note of 200 KB, and nobody would learn what became of a million others."""
    content = b"email,n\na@x," + b"x" * 200_000 + b"\nb@x,2\n"
    case = a_case(tmp_path, content, budget=9_500_000)
    counts = Counts(0, 2, 0) if status == "Failed" else Counts(1, 1, 0)
    case.settle(1, failures="b@x,2,bad\n", status=status, counts=counts)
    case.write()
    assert b"b@x,2\n" in case.read("retry.csv")


# --- the source is not what it was ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["deleted", "other rows", "shorter", "a folder"])
def test_without_its_source_the_report_is_written_all_the_same(tmp_path: Path, what: str) -> None:
    """The source is often moved away as soon as the load ends; the reasons and the counts must survive that."""
    case = a_case(tmp_path, b"email,n\na@x,1\nbroken\nc@x,3\n")
    case.settle(1, failures="c@x,3,bad\n")
    case.source.unlink()
    if what == "other rows":
        case.source.write_bytes(b"email,n\nz@x,9\nsecret\ny@x,8\n")
    elif what == "shorter":
        case.source.write_bytes(b"email,n\n")
    elif what == "a folder":
        case.source.mkdir()
    written = case.write()
    assert (written.totals.imported, written.totals.failed, written.totals.rejected) == (1, 1, 1)
    assert [(line["kind"], line["source_row"]) for line in sorted(case.lines(), key=lambda line: line["kind"])] == [
        ("failure", None),
        ("rejected", 2),
    ]
    assert any("source" in note for note in written.discrepancies)
    assert any("not in retry.csv" in note for note in written.discrepancies)
    assert b"source" in case.read("report.html")


def test_nothing_of_another_file_gets_into_the_report(tmp_path: Path) -> None:
    """Yesterday's report written again would show today's leads under yesterday's reasons."""
    before, after = b"email,n\na@x,1\nbroken\nc@x,3\n", b"phone,m\nz@x,9\nsecret\ny@x,8\n"
    case = a_case(tmp_path, before)
    case.settle(1, failures="c@x,3,bad\n")
    case.source.write_bytes(after)
    os.utime(case.source, ns=(case.load.source.mtime_ns + 10**9,) * 2)
    case.write()
    for name in NAMES:
        for theirs in (b"phone", b"z@x", b"secret", b"y@x"):
            assert theirs not in case.read(name), name
    assert case.read("retry.csv") == b"email,n\n"


def test_a_chunk_that_still_stands_as_it_was_sent_is_told_in_full(tmp_path: Path) -> None:
    """One changed row at the end of a file must not cost the places of all others."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\nc@x,3\nd@x,4\n", budget=21)
    assert len(case.plan.chunks) == 2
    case.settle(1, failures="b@x,2,bad\n")
    case.settle(2, failures="d@x,4,bad\n")
    case.source.write_bytes(b"email,n\na@x,1\nb@x,2\nc@x,3\nd@x,5\n")
    case.write()
    assert [record[2] for record in case.table()[1:]] == ["2", ""]
    assert case.read("retry.csv") == b"email,n\nb@x,2\n"


def test_a_result_file_that_is_gone_costs_its_rows_and_not_the_report(tmp_path: Path) -> None:
    """The counts are in the ledger."""
    case = a_case(tmp_path, b"email,n\na@x,1\n")
    case.settle(1, failures="a@x,1,bad\n")
    (tmp_path / "1.failures").unlink()
    assert case.write().totals.failed == 1
    assert len(case.table()) == 1


@pytest.mark.parametrize("what", ["no collected file", "no source", "another source", "a touched source"])
def test_a_report_with_rows_is_not_replaced_by_one_without(tmp_path: Path, what: str) -> None:
    """Sources are moved away and collected files expire; `report` must not lose what the files said before."""
    case = a_case(tmp_path, b"email,n\na@x,1\nbroken\nc@x,3\n")
    case.settle(1, failures="c@x,3,bad\n")
    whole = case.write()
    before = {name: case.read(name) for name in NAMES}
    if what == "no collected file":
        (tmp_path / "1.failures").unlink()
    elif what == "no source":
        case.source.unlink()
    elif what == "another source":
        case.source.write_bytes(b"email,n\nz@x,9\nsecret\ny@x,8\n")
    else:
        os.utime(case.source, ns=(case.load.source.mtime_ns + 10**9,) * 2)
    kept = case.write(keep=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before
    assert (kept.totals, kept.reasons, kept.rows) == (whole.totals, whole.reasons, whole.rows)
    assert kept.unfound == (what != "a touched source"), "rejected rows do not go again"
    (note,) = kept.discrepancies
    assert re.search("stays as it was: (the source|collected files)", note)


@pytest.mark.parametrize("what", ["none", "another load's", "an earlier one", "not JSON"])
def test_a_report_that_says_something_else_is_replaced(tmp_path: Path, what: str) -> None:
    """Counts that are wrong are worse than rows that are missing."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\nc@x,3\nd@x,4\n", budget=21)
    case.settle(1, failures="b@x,2,bad\n")
    if what != "none":
        case.write()
    if what == "another load's":
        case.load = replace(case.load, id=LoadId("0123456789ab"))
    elif what == "an earlier one":
        case.settle(2, failures="d@x,4,bad\n")
    elif what == "not JSON":
        (tmp_path / "report" / "report.json").write_text("{")
    case.source.unlink()
    written = case.write(keep=True)
    report = json.loads(case.read("report.json"))
    assert (report["load_id"], report["totals"]) == (case.load.id, asdict(written.totals))
    assert written.unfound
    assert any("source" in note for note in written.discrepancies)


# --- how it is written ------------------------------------------------------------------------------------


def test_only_the_owner_can_look_into_a_report(tmp_path: Path) -> None:
    """It holds lead data."""
    case = a_case(tmp_path, b"email,n\na@x,1\n")
    case.settle(1, failures="a@x,1,bad\n")
    before = os.umask(0)
    try:
        case.write("reports/today")
    finally:
        os.umask(before)
    made = tmp_path / "reports"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made, made / "today")] == [0o700, 0o700]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (made / "today").iterdir()} == dict.fromkeys(
        NAMES, 0o600
    )


@pytest.mark.parametrize("had_one", [False, True])
def test_a_report_that_breaks_half_way_is_not_there(tmp_path: Path, had_one: bool) -> None:
    """Half a table looks like a whole one; the last whole one is worth more."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\nc@x,3\nd@x,4\n", budget=21)
    case.settle(1, failures="a@x,1,bad\n")
    case.settle(2, failures="c@x,3,bad\n")
    if had_one:
        case.write()
    before = {name: case.read(name) for name in NAMES} if had_one else {}
    (tmp_path / "2.failures").unlink()
    (tmp_path / "2.failures").mkdir()
    with pytest.raises(IsADirectoryError):
        case.write()
    visible = {path.name for path in (tmp_path / "report").iterdir() if not path.name.startswith(".")}
    assert {name: case.read(name) for name in visible} == before


def test_a_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Somebody may have it open, and a resumed load writes it again."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\n")
    case.settle(1, failures="a@x,1,bad\nb@x,2,bad\n")
    case.write()
    with (tmp_path / "report" / "report.csv").open(encoding="utf-8", newline="") as opened:
        before = case.read("report.csv").decode()
        case.settle(1, failures="a@x,1,bad\n")
        case.write()
        assert opened.read() == before
    assert len(case.table()) == 2
    assert {path.name for path in (tmp_path / "report").iterdir()} == NAMES


def test_a_report_does_not_hold_a_whole_load_in_memory(tmp_path: Path) -> None:
    """`records` is streamed: a load of a terabyte has a hundred thousand chunks."""
    case = a_case(tmp_path, b"email,n\n" + b"a@x,1\n" * 40, budget=21)
    for chunk in case.plan.chunks:
        case.settle(chunk.number, failures="a@x,1,bad\n")
    alive = most = 0

    def stream() -> Iterator[ChunkRecord]:
        nonlocal alive, most
        for record in case.records:
            alive += 1
            most = max(most, alive)
            yield record
            alive -= 1

    case.write(records=stream)
    assert most == 1


def test_a_report_does_not_hold_rows_as_large_as_a_chunk_in_memory(tmp_path: Path) -> None:
    """The page lists a thousand rows; of each it shows so little that a thousand are no more than four."""

    def peak(rows: int) -> int:
        folder = tmp_path / str(rows)
        folder.mkdir()
        content = b"".join(b"%d@x,%s\n" % (row, b"n" * 900_000) for row in range(rows))
        case = a_case(folder, b"email,n\n" + content, budget=1_000_000)
        for chunk in case.plan.chunks:
            case.settle(chunk.number, status="Failed", counts=Counts(0, chunk.rows, 0))
        tracemalloc.start()
        case.write()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(case.plan.chunks) == len(case.table()) - 1 == rows
        return most

    assert peak(40) < 1.5 * peak(4)


# --- report.html ------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.links: set[str | None] = set()
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value for name, value in attrs if name == "href"}

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "<script src=http://evil.example/x.js></script><img src=x onerror=alert(1)>\"'--></td>&amp;{{7*7}}"


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    """Leads are typed in by strangers, and the page is opened from the disk of an employee."""
    quoted = '"' + EVIL.replace('"', '""') + '"'
    case = a_case(tmp_path, f"email,n\na@x,{quoted}\n{EVIL},x,y,z\n".encode(), "<b>leads.csv", budget=2_000)
    case.settle(1, failures=f"a@x,{quoted},{quoted}\n", message=EVIL)
    case.load = replace(case.load, subscription=EVIL)
    case.write()
    page = Page(case.read("report.html").decode())
    assert not page.tags.keys() & {"img", "iframe", "link", "object", "base", "form"}
    assert not page.attributes & {"src", "onerror", "onclick", "style", "action", "srcset", "data"}
    assert page.tags["script"] == 1
    assert page.links == {"#main", *(NAMES - {"report.html"})}
    assert EVIL in page.text
    assert "<b>leads.csv" in page.text


@pytest.mark.parametrize(
    ("seconds", "axis"),
    [
        (0.06, ["0", "0.015 s", "0.030 s", "0.045 s", "0.060 s"]),
        (0.5, ["0", "0.12 s", "0.25 s", "0.38 s", "0.50 s"]),
        (2.0, ["0", "0.5 s", "1.0 s", "1.5 s", "2.0 s"]),
        (8.0, ["0", "2 s", "4 s", "6 s", "8 s"]),
        (7200.0, ["0", "30 min", "1 h", "1 h 30 min", "2 h"]),
    ],
)
def test_an_axis_of_time_tells_its_quarters_apart(seconds: float, axis: list[str]) -> None:
    """A load that was over in half a second had an axis of zeros."""
    assert ticks_of(seconds) == axis


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    """It must look the same without a network, and must tell nobody that it was opened."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\n")
    case.settle(1, failures="a@x,1,bad\n", warnings="b@x,2,odd\n")
    case.write()
    page = case.read("report.html").decode()
    assert not [what for what in ("http:", "https:", "//", "url(", "@import", "src=") if what in page.lower()]
    assert Page(page).links == {"#main", *(NAMES - {"report.html"})}
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy).split(";"))
    assert rules["default-src"] == "'none'"
    for name, tag in (("style-src", "style"), ("script-src", "script")):
        (inside,) = re.findall(rf"<{tag}>(.*)</{tag}>", page, re.DOTALL)
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


def test_the_page_of_a_load_that_is_not_finished_does_not_give_up_rows_that_are_under_way(tmp_path: Path) -> None:
    """A batch in the queue is no lost one, and rows that nobody has imported have no speed."""
    case = a_case(tmp_path, b"email,n\na@x,1\nb@x,2\n")
    (record,) = case.records
    offer = Offer(attempt=1, offered_at=1.0, slot=1, batch_id=BatchId(7), accepted_at=2.0)
    standing = replace(record.standing, state=State.QUEUED, attempts=1, offer=offer)
    case.records[0] = ChunkRecord(record.chunk, standing, (offer,))
    case.write(stopped="load abc is being run by process 7")
    text = Page(case.read("report.html").decode()).text
    assert "Not finished yet" in text
    assert "is being run by process 7" in text
    assert "Outcome not known yet" in text
    assert "nobody can say" not in text
    assert "rows a second" not in text


def test_the_page_counts_one_row_as_people_say_it_and_names_the_format_of_retry_csv(tmp_path: Path) -> None:
    """Whoever opens only the page mends that file, and loads it with what is written beside it."""
    case = a_case(tmp_path, b"email;b\na@x;1\n", "one.ssv")
    case.settle(1, "a@x;1;Invalid b\n")
    case.write()
    text = " ".join(Page(case.read("report.html").decode()).text.split())
    assert "0 of 1 row is imported. 1 is not: it is in report.csv with its reason" in text
    assert "1 row = 0 imported + 1 failed" in text
    assert "1 row in all." in text
    assert "1 row, failed, rejected or with a warning" in text
    assert "then load this file with --format ssv" in text


def test_the_page_says_how_many_rows_it_leaves_out(tmp_path: Path) -> None:
    """It shows the first ones: who sees a thousand must not think that there are a thousand."""
    rows = b"".join(b"%d@x,1\n" % row for row in range(1_050))
    case = a_case(tmp_path, b"email,n\n" + rows, budget=100_000)
    case.settle(1, failures="".join(f"{row}@x,1,bad\n" for row in range(1_050)))
    case.write()
    assert "; 50 more in report.csv" in case.read("report.html").decode()


def test_the_page_says_how_many_rows_of_a_refused_chunk_it_leaves_out(tmp_path: Path) -> None:
    """A chunk that Marketo refused is the largest list of all."""
    rows = b"".join(b"%d@x,1\n" % row for row in range(1_050))
    case = a_case(tmp_path, b"email,n\n" + rows, budget=100_000)
    record = case.records[0]
    case.records[0] = replace(record, standing=replace(record.standing, state=State.REJECTED, why="610"))
    case.write()
    assert len(case.table()) == 1_051
    assert "; 50 more in report.csv" in case.read("report.html").decode()
