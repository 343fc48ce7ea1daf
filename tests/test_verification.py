"""Books that balance, and every way of cooking them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from report_case import Case, a_case

from orchestrator.checks import CheckLine
from orchestrator.config import load_config
from orchestrator.core.model import Counts
from orchestrator.errors import BooksDoNotBalance, SourceMissing, SourceUnusable
from orchestrator.verification import verify as verify_named


def verify(folder: Path, source: Path) -> list[CheckLine]:
    return verify_named(folder, [str(source)], load_config(None, {}, {}))


def a_report(folder: Path) -> Case:
    """Several chunks with failures, warnings, a rejected row, and a row that has no place."""
    rows = [f"{row}@x,{row}" for row in range(1, 41)]
    rows[6] = "7@x,7,too many"
    rows[20] = '21@x,"two\nlines"'
    case = a_case(folder, "\n".join(["email,n", *rows, ""]).encode(), budget=120)
    assert len(case.plan.chunks) >= 3
    for chunk in case.plan.chunks:
        inside = [row for row in range(chunk.first_row, chunk.last_row + 1) if row != 7]
        bad = [row for row in inside if row % 3 == 0]
        case.settle(
            chunk.number,
            failures="".join(f"{rows[row - 1]},bad\n" for row in bad) + "nobody@x,0,bad\n" * (chunk.number == 2),
            warnings="".join(f"{rows[row - 1]},odd\n" for row in inside if row % 5 == 0 and row not in bad),
            counts=Counts(len(inside) - len(bad) - (chunk.number == 2), len(bad) + (chunk.number == 2), 1),
        )
    case.write()
    return case


def results(case: Case) -> list[tuple[bool, int]]:
    return [(line.ok, line.exit_code) for line in verify(case.folder / "report", case.source)]


def test_books_that_balance_are_said_to(tmp_path: Path) -> None:
    """The proof must not cry wolf: mangled echoes and rejected rows are no fault of the books."""
    assert [ok for ok, _ in results(a_report(tmp_path))] == [True] * 7


def test_the_name_of_the_source_does_not_matter_and_its_content_does(tmp_path: Path) -> None:
    """Files are moved to an archive; a file of the same name may be tomorrow's."""
    case = a_report(tmp_path)
    moved = case.source.rename(tmp_path / "archive.csv")
    assert all(line.ok for line in verify(tmp_path / "report", moved))
    moved.write_bytes(moved.read_bytes().replace(b"9@x,9\n", b"9@x,8\n"))
    assert [line.exit_code for line in verify(tmp_path / "report", moved) if not line.ok] == [65]


@pytest.mark.parametrize("name", ["report.json", "report.jsonl"])
def test_what_no_program_can_read_is_no_report(tmp_path: Path, name: str) -> None:
    """Brackets without end are a spoilt file, not a fault of the program."""
    case = a_report(tmp_path)
    (tmp_path / "report" / name).write_bytes(b"[" * 100_000)
    with pytest.raises(BooksDoNotBalance):
        results(case)


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        report = json.loads((folder / "report.json").read_text())
        change(report)
        (folder / "report.json").write_text(json.dumps(report))

    return act


def swap(name: str, old: str, new: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        before = (folder / name).read_bytes()
        assert old.encode() in before
        (folder / name).write_bytes(before.replace(old.encode(), new.encode(), 1))

    return act


def without_line(name: str, at: int) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join(lines[:at] + lines[at + 1 :]))

    return act


def keep_lines(name: str, count: int) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(b"".join((folder / name).read_bytes().splitlines(keepends=True)[:count]))

    return act


def without_row(folder: Path) -> None:
    without_line("report.csv", 2)(folder)
    without_line("report.jsonl", 1)(folder)


COOKED: dict[str, Callable[[Path], None]] = {
    "a failed row counted as imported": edit(
        lambda report: report["totals"].update(
            imported=report["totals"]["imported"] + 1, failed=report["totals"]["failed"] - 1
        )
    ),
    "rows that are nowhere": edit(lambda report: report["totals"].update(imported=report["totals"]["imported"] - 1)),
    "a chunk that is left out": edit(lambda report: report["chunks"].pop()),
    "a chunk of other bytes": edit(lambda report: report["chunks"][0].update(sha256="0" * 64)),
    "a chunk that says less than its batch": edit(
        lambda report: (
            report["chunks"][0].update(imported=report["chunks"][0]["imported"] + 1, failed=0, unknown=0)
            if report["chunks"][0]["failed"] == 1
            else report["chunks"][0].update(
                imported=report["chunks"][0]["imported"] + report["chunks"][0]["failed"], failed=0
            )
        )
    ),
    "two batches of one id": edit(lambda report: report["batches"].append(report["batches"][0])),
    "a batch that is left out": edit(lambda report: report["batches"].pop()),
    "a reason that is not counted": edit(lambda report: report["reasons"].pop()),
    "a row left out of both tables": without_row,
    "a row left out of report.csv": without_line("report.csv", 2),
    "a row left out of report.jsonl": without_line("report.jsonl", 1),
    "a row under its neighbour's number": swap("report.jsonl", '"source_row": 9,', '"source_row": 10,'),
    "a row with another's values": swap("report.jsonl", '"9@x"', '"8@x"'),
    "a row on another line": swap("report.jsonl", '"source_line": 10,', '"source_line": 11,'),
    "a rejected row that is none": swap("report.jsonl", '"source_row": 7,', '"source_row": 8,'),
    "another reason": swap("report.jsonl", '"odd"', '"bad"'),
    "a table with another reason": swap("report.csv", "failure,bad", "failure,good"),
    "a table with another cell": swap("report.csv", ",9@x,9", ",9@x,8"),
    "a table with other columns": swap("report.csv", ",email,n", ",n,email"),
    "a row left out of retry.csv": without_line("retry.csv", 2),
    "a row more in retry.csv": swap("retry.csv", "9@x,9\n", "9@x,9\n10@x,10\n"),
    "a row of retry.csv with another cell": swap("retry.csv", "9@x,9", "9@x,8"),
    "rows of retry.csv in another order": swap("retry.csv", "3@x,3\n6@x,6\n", "6@x,6\n3@x,3\n"),
    "a retry.csv with other columns": swap("retry.csv", "email,n", "n,email"),
    "an empty retry.csv": keep_lines("retry.csv", 1),
    "a page that says more were imported": swap(
        "report.html", "<dt>Imported</dt><dd><b>25", "<dt>Imported</dt><dd><b>26"
    ),
    "a page with another sum": swap("report.html", "40 rows = 25 imported", "40 rows = 26 imported"),
    "a page with another reason": swap(
        "report.html", '<th scope="row" class="w wide plain">bad', '<th scope="row" class="w wide plain">good'
    ),
    "a page with another row": swap("report.html", ">9@x<", ">8@x<"),
    "a page with another batch": swap("report.html", 'data-label="Batch">101<', 'data-label="Batch">1101<'),
    "a page of another file": lambda folder: swap(
        "report.html", json.loads((folder / "report.json").read_text())["source"]["sha256"], "0" * 64
    )(folder),
    "a page with a word between its parts": swap("report.html", "</main>", "All is well.</main>"),
    "a page that hides its rows": swap("report.html", "</style>", ".rows { display: none; }</style>"),
    "a page that runs something": swap("report.html", "</script>", "alert();</script>"),
    "another exit code": edit(lambda report: report.update(exit_code=0)),
    "a chunk of other rows": edit(lambda report: report["chunks"][0].update(first_row=0)),
    "a chunk of more bytes": edit(lambda report: report["chunks"][0].update(bytes=9_999)),
    "a batch of more bytes": edit(lambda report: report["batches"][0].update(bytes=9_999)),
    "a chunk in a state that is none": edit(lambda report: report["chunks"][0].update(state="sttled")),
    "a rejected row with other values": swap("report.jsonl", '["too many"]', '["too much"]'),
    "a table that says another kind": swap("report.csv", "warning,odd", "failure,odd"),
}


@pytest.mark.parametrize("how", COOKED)
def test_cooked_books_are_found_out(tmp_path: Path, how: str) -> None:
    """A proof that nothing can fail proves nothing."""
    case = a_report(tmp_path)
    COOKED[how](tmp_path / "report")
    wrong = [(ok, code) for ok, code in results(case) if not ok]
    assert wrong
    assert {code for _, code in wrong} == {70}


def test_a_source_of_another_size_is_not_taken_for_one_that_was_packed(tmp_path: Path) -> None:
    """Its rows were not looked up any more, and all was well; the page says thousands of bytes only."""
    case = a_case(tmp_path, b"email,n\n" + b"".join(b"%d@x,%d\n" % (row, row) for row in range(2_000)), budget=9_000)
    case.judge({7: ("failure", "bad")})
    case.write()
    edit(lambda report: report["source"].update(bytes=report["source"]["bytes"] + 1))(tmp_path / "report")
    assert [code for ok, code in results(case) if not ok] == [70]


@pytest.mark.parametrize(
    "candidates", ["2, 5", "1, 2", "2, 9", "0, 2", "-1, 2", "3, 2", "2, 2, 3", "2, 2.5", '"2", "3"']
)
def test_rows_that_a_record_may_be_one_of_are_rows_of_its_chunk(tmp_path: Path, candidates: str) -> None:
    """Whoever looks them up must not be sent to a row that it cannot be."""
    rows = ["a@x,1", "same@x,1", "same@x,1", "d@x,4", "same@x,1"]
    case = a_case(tmp_path, "\n".join(["email,n", "1@x", *rows[1:], ""]).encode(), budget=35)
    assert [(chunk.first_row, chunk.last_row) for chunk in case.plan.chunks] == [(2, 3), (4, 5)]
    case.settle(1, failures="same@x,1,bad\n")
    case.settle(2)
    case.write()
    assert [ok for ok, _ in results(case)] == [True] * 7
    swap("report.jsonl", "[2, 3]", f"[{candidates}]")(tmp_path / "report")
    try:
        wrong = [code for ok, code in results(case) if not ok]
    except BooksDoNotBalance:
        wrong = [70]
    assert set(wrong) == {70}


def test_a_page_of_another_release_is_not_compared(tmp_path: Path) -> None:
    """The same numbers in other words are no fault; that nobody looked is said."""
    case = a_report(tmp_path)
    swap("report.html", 'content="orchestrator ', 'content="orchestrator 0')(tmp_path / "report")
    assert verify(tmp_path / "report", case.source)[-1].note == "another release wrote it: it was not looked at"


WILD: tuple[Any, ...] = (None, "1", [], {}, -1, 1, 1.5, 10**9, 10**30, float("inf"), "\ud800")


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a document, as what it stands in and under which name."""
    for name, one in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, name
        if isinstance(one, dict | list):
            yield from leaves(one)


@pytest.mark.parametrize("wild", WILD, ids=lambda wild: repr(wild)[:10])
@pytest.mark.parametrize("name", ["report.json", "report.jsonl"])
def test_whatever_stands_in_a_report_it_is_told_what_is_wrong(tmp_path: Path, name: str, wild: Any) -> None:
    """Somebody has changed a number by hand, and asks; a traceback is no answer."""
    case = a_case(tmp_path, b"email,n\na@x,1\nsame@x,2\nsame@x,2\n4@x\n")
    case.settle(1, failures="a@x,1,bad\nsame@x,2,bad\n")
    case.write()
    path = tmp_path / "report" / name
    before = path.read_text()
    whole = json.loads(before) if name == "report.json" else [json.loads(line) for line in before.splitlines()]
    for parent, at in leaves(whole):
        kept, parent[at] = parent[at], wild
        text = json.dumps(whole) if name == "report.json" else "".join(json.dumps(line) + "\n" for line in whole)
        path.write_text(text)
        with suppress(BooksDoNotBalance, SourceUnusable):
            assert verify(tmp_path / "report", case.source)
        parent[at] = kept


def test_a_folder_that_holds_no_report_is_said_to(tmp_path: Path) -> None:
    """A typing error in a path is no fraud."""
    case = a_report(tmp_path)
    with pytest.raises(SourceMissing):
        verify(tmp_path / "nowhere", case.source)
    for name in ("retry.csv", "report.jsonl"):
        (tmp_path / "report" / name).unlink()
        with pytest.raises(SourceMissing):
            verify(tmp_path / "report", case.source)
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    nan = json.dumps({**told, "settings": {**told["settings"], "chunk_bytes": float("nan")}})
    for content in (nan, "[]", "{}", "{", '{"schema": 1}', '{"schema": 1, "totals": 3, "chunks": []}'):
        (tmp_path / "report" / "report.json").write_text(content)
        with pytest.raises(BooksDoNotBalance):
            verify(tmp_path / "report", case.source)


def test_a_report_of_a_stopped_load_balances_too(tmp_path: Path) -> None:
    """What was not sent is accounted for as not sent."""
    case = a_case(tmp_path, b"email,n\n" + b"".join(b"%d@x,1\n" % row for row in range(30)), budget=60)
    case.settle(1, failures="1@x,1,bad\n")
    case.write()
    assert [ok for ok, _ in results(case)] == [True] * 7


def test_verifying_reads_and_writes_nothing_else(tmp_path: Path) -> None:
    """It may be run by somebody who may only read."""
    case = a_report(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    results(case)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_cells_that_spreadsheets_would_run_and_equal_rows_are_no_faults(tmp_path: Path) -> None:
    """report.csv has an apostrophe that the other files do not have; a row among equal ones has no place of its own."""
    rows = ["a@x,=1", "same@x,1", "same@x,1", 'b@x,"-2\n3"', "@c,"]
    case = a_case(tmp_path, "\n".join(["email,=n", *rows, ""]).encode())
    case.settle(1, failures=f"{rows[0]},+bad\n{rows[1]},bad\n{rows[3]},bad\n@c,,bad\n", counts=Counts(1, 4, 0))
    case.write()
    assert b"'=1" in case.read("report.csv")
    assert all(ok for ok, _ in results(case))


def test_rows_of_files_that_are_gone_are_not_said_to_be_marketos_fault(tmp_path: Path) -> None:
    """The report says that they were removed."""
    case = a_report(tmp_path)
    for path in tmp_path.glob("*.failures"):
        path.unlink()
    case.write()
    lines = verify(tmp_path / "report", case.source)
    assert all(line.ok for line in lines)
    notes = " ".join(line.note for line in lines)
    assert "not listed: collected files are gone" in notes
    assert "named by Marketo" not in notes


@pytest.mark.parametrize("name", ["leads.tsv", "leads.ssv"])
def test_books_of_other_formats_balance(tmp_path: Path, name: str) -> None:
    """retry.csv is in the format of the source, report.csv never is."""
    delimiter = {"leads.tsv": "\t", "leads.ssv": ";"}[name]
    case = a_case(tmp_path, "email|n\na@x|1,5\nb@x|2,5\n".replace("|", delimiter).encode(), name)
    case.settle(1, failures="b@x|2,5|bad\n".replace("|", delimiter))
    case.write()
    assert all(ok for ok, _ in results(case))


def test_a_row_under_a_chunk_that_it_was_not_sent_in_is_found_out(tmp_path: Path) -> None:
    """Chunks of twins lie across all others: that a number is between the first and the last row says nothing."""
    keys = [1, 2, 3, 1, 4, 2, 5, 3, 1, 6]
    rows = [f"{key}@x,{number}\n" for number, key in enumerate(keys, 1)]
    case = a_case(tmp_path, f"email,n\n{''.join(rows)}".encode(), budget=60, on_duplicate="together")
    case.judge(dict.fromkeys(range(1, len(rows) + 1), ("failure", "bad")))
    case.write()
    assert all(ok for ok, _ in results(case))
    assert {chunk.twins for chunk in case.plan.chunks} == {True, False}
    (twins, *_), (single, *_) = (
        [one.number for one in case.plan.chunks if one.twins is kind] for kind in (True, False)
    )
    told = case.read("report.jsonl")
    for name in ("report.jsonl", "report.csv"):
        swap(name, *(f'"chunk": {n},' if name == "report.jsonl" else f",{n},10" for n in (single, twins)))(
            tmp_path / "report"
        )
    assert case.read("report.jsonl") != told
    assert (False, 70) in results(case)
