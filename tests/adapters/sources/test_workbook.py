"""Excel workbooks: the cells as people see them, from a stranger's file."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from adapters.sources.made import Cell, letters, number, shared, sheet, spooled, text, workbook, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sources import packed
from orchestrator.adapters.sources import workbook as module
from orchestrator.adapters.sources.workbook import number_text, shows
from orchestrator.errors import ArchiveUnsound, EmptySource, TooLargeUnpacked, ValuesUnfit

_MARCH_1900 = datetime.fromisoformat("1900-03-01")
PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=10)


def one(folder: Path, *cells: Cell, formats: tuple[str, ...] = (), is_1904: bool = False) -> list[str]:
    """What a row of these cells becomes."""
    header = [text(f"c{at}") for at in range(len(cells))]
    book = workbook(folder / "a.xlsx", {"Leads": sheet([(1, header), (2, cells)])}, formats=formats, is_1904=is_1904)
    return spooled(folder, book).rows[1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.lists(PRINTABLE, min_size=3, max_size=3).filter(any), min_size=1, max_size=10))
def test_texts_in_are_texts_out(tmp_path: Path, rows: list[list[str]]) -> None:
    """Leading zeros and spaces, commas, quotes, anything."""
    table = [["a", "b", "c"], *rows]
    content = sheet([(at, [text(cell.replace("_x", "_x005F_x")) for cell in row]) for at, row in enumerate(table, 1)])
    assert spooled(tmp_path, workbook(tmp_path / "a.xlsx", {"Leads": content})).rows == table


@given(st.integers(-(10**15) + 1, 10**15 - 1))
def test_whole_numbers_are_written_whole(value: int) -> None:
    """An id with ".0" or an exponent is another id. Both ways in which files hold them."""
    assert number_text(str(value), "", False) == str(value)
    assert number_text(repr(float(value)), "", False) == str(value)


@given(st.decimals(-(10**6), 10**6, places=4, allow_nan=False))
def test_decimals_are_what_was_typed(value: Decimal) -> None:
    """Files hold 1.1 as 1.1000000000000001."""
    stored = f"{float(value):.17g}"
    assert Decimal(number_text(stored, "", False)) == value
    assert "e" not in number_text(stored, "", False).lower()


@given(st.integers(0, 255_606_191_999).map(lambda second: _MARCH_1900 + timedelta(seconds=second)))
def test_dates_are_w3c_dates(moment: datetime) -> None:
    """Both calendars of Excel, to the second."""
    since_1900 = (moment - _MARCH_1900) / timedelta(days=1) + 61
    since_1904 = since_1900 - 1462
    assert number_text(repr(since_1900), "datetime", False) == moment.isoformat()
    assert number_text(repr(since_1900), "date", False) == moment.date().isoformat()
    assert number_text(repr(since_1900), "time", False) == moment.time().isoformat()
    if since_1904 >= 0:
        assert number_text(repr(since_1904), "datetime", True) == moment.isoformat()


def test_days_before_march_1900_are_as_excel_shows_them() -> None:
    """Excel has a 29 February 1900, which never was."""
    assert number_text("1", "date", False) == "1900-01-01"
    assert number_text("59", "date", False) == "1900-02-28"
    assert number_text("61", "date", False) == "1900-03-01"
    assert number_text("60", "date", True) == "1904-03-01"
    with pytest.raises(ValueError, match="no date"):
        number_text("60", "date", False)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("General", ""),
        ("0.00", ""),
        ("#,##0 [$€-407]", ""),
        ('0 "days"', ""),
        ("[Red]0;[Blue]-0", ""),
        ("00000", "00000"),
        ("yyyy-mm-dd", "date"),
        ("[$-409]mmm d, yyyy;@", "date"),
        ("mmm\\-yy", "date"),
        ("m/d/yyyy h:mm AM/PM", "datetime"),
        ("hh:mm:ss", "time"),
        ("mm:ss.0", "time"),
        ("[h]:mm:ss", "elapsed"),
    ],
)
def test_a_number_format_says_what_a_number_is(code: str, shown: str) -> None:
    """A date is nothing but a number with such a format."""
    assert shows(code) == shown


def test_a_character_in_two_halves_is_read_and_half_of_one_refused(tmp_path: Path) -> None:
    """Question marks in their place would be sent, and nobody be told."""
    assert one(tmp_path, text("a_xD83D__xDE00_b")) == ["a\U0001f600b"]
    with pytest.raises(ValuesUnfit, match=r"in row 2 or before, a value has half of a character"):
        one(tmp_path, text("a_xD83D_b"))


def test_cells_of_every_kind_are_what_people_see(tmp_path: Path) -> None:
    """The whole way, through the file."""
    cells = (
        text("00123"),
        number("123", 1),
        number("45351.5091898148", 2),
        number("45351", 3),
        number("1.5", 4),
        Cell("<v>1</v>", "b"),
        Cell("<f>A1&amp;B1</f><v>made</v>", "str"),
        Cell("<f>1+1</f><v>2</v>"),
        Cell("<is><r><t>rich </t></r><r><t>text</t></r><rPh><t>hint</t></rPh></is>", "inlineStr"),
        text("a_x000D_b"),
        number("1E-7"),
        Cell("<v>2024-02-29</v>", "d"),
    )
    formats = ("00000", "yyyy-mm-dd hh:mm", "d.m.yyyy", "[h]:mm")
    assert one(tmp_path, *cells, formats=formats) == [
        "00123",
        "00123",
        "2024-02-29T12:13:14",
        "2024-02-29",
        "36:00:00",
        "true",
        "made",
        "2",
        "rich text",
        "a\rb",
        "0.0000001",
        "2024-02-29",
    ]


def test_shared_texts_are_looked_up_without_their_hints(tmp_path: Path) -> None:
    """How Excel itself stores every text."""
    texts = ["<t>email</t>", "<r><t>a</t></r><r><t xml:space='preserve'> b</t></r>", "<t>東</t><rPh><t>ヒ</t></rPh>"]
    content = sheet([(1, [shared(0)]), (2, [shared(1)]), (3, [shared(2)])])
    assert spooled(tmp_path, workbook(tmp_path / "a.xlsx", {"L": content}, texts=texts)).rows == [
        ["email"],
        ["a b"],
        ["東"],
    ]


def test_gaps_between_cells_and_rows_stay_gaps(tmp_path: Path) -> None:
    """Files leave out empty cells and rows; a row keeps its number, a value its column."""
    content = sheet(
        [
            (3, [text("a"), text("b"), text("c"), text("")]),
            (5, [None, None, text("z")]),
            (6, [text("")]),
            (9, [text("x")]),
        ]
    )
    made = spooled(tmp_path, workbook(tmp_path / "a.xlsx", {"L": content}))
    assert made.rows == [["a", "b", "c"], ["", "", "z"], ["x", "", ""]]
    assert [made.line_of(1), made.line_of(2)] == [(0, 5), (0, 9)]


def test_the_only_visible_sheet_with_rows_is_read_and_otherwise_one_is_asked_for(tmp_path: Path) -> None:
    """Loading the first of several in silence loses the others."""
    rows = {"A": sheet([(1, [text("a")])]), "Empty": sheet([]), "B": sheet([(1, [text("b")])])}
    assert spooled(tmp_path, workbook(tmp_path / "a.xlsx", rows, hidden=["B"])).rows == [["a"]]
    book = workbook(tmp_path / "b.xlsx", rows)
    with pytest.raises(ValuesUnfit, match=r"b\.xlsx: several sheets have rows[\s\S]*--sheet NAME: A, B"):
        spooled(tmp_path, book)
    assert spooled(tmp_path, book, sheet="B").rows == [["b"]]
    with pytest.raises(ValuesUnfit, match="there is no sheet 'C'"):
        spooled(tmp_path, book, sheet="C")
    (tmp_path / "d.csv").write_text("a\n")
    with pytest.raises(ValuesUnfit, match=r"d\.csv is delimited text and has no sheet 'B'"):
        spooled(tmp_path, tmp_path / "d.csv", sheet="B")
    with pytest.raises(EmptySource, match=r"c\.xlsx: the sheet is empty"):
        spooled(tmp_path, workbook(tmp_path / "c.xlsx", {"A": sheet([])}))


def test_cells_without_a_value_that_can_be_sent_are_named(tmp_path: Path) -> None:
    """An #N/A sent as text is a lead's company from then on; a formula without its value would be sent as empty."""
    with pytest.raises(ValuesUnfit, match=r"A2 \(#N/A\), B2 \(a formula without a stored value\), C2 \(no number"):
        one(tmp_path, Cell("<v>#N/A</v>", "e"), Cell("<f>1+1</f>"), number("x"))
    with pytest.raises(ValuesUnfit, match=r"A2 \(no number, date or text\)"):
        one(tmp_path, number("99999999999", 1), formats=("yyyy",))
    with pytest.raises(ValuesUnfit, match=r"A2 \(no number, date or text\)"):
        one(tmp_path, shared(7))


LAUGHS = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "' + "&a;" * 10 + '"><!ENTITY c "' + "&b;" * 10 + '">]>'
FILES = '<!DOCTYPE x [<!ENTITY xxe SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("attack", [LAUGHS, FILES, '<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd">'])
def test_no_entity_can_be_declared(tmp_path: Path, attack: str) -> None:
    """A billion laughs fills the memory; an external entity reads a file of this machine into a lead."""
    book = workbook(tmp_path / "a.xlsx", {"L": sheet([(1, [Cell("<is><t>&c;</t></is>", "inlineStr")])], before=attack)})
    with pytest.raises(ArchiveUnsound, match="declares a document type"):
        spooled(tmp_path, book)


def test_bombs_end_at_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacked XML, cells that stretch rows, columns and rows far out."""
    monkeypatch.setattr(module, "RATIO_FROM_BYTES", 1 << 20)
    header = (1, [text(f"c{at}") for at in range(4_001)])
    wide = sheet([header, *((row, [None] * 4_000 + [text("x")]) for row in range(2, 20_000))])
    with pytest.raises(TooLargeUnpacked, match=f"more than {packed.RATIO_MAX} times"):
        spooled(tmp_path, workbook(tmp_path / "a.xlsx", {"L": wide}))
    spaces = sheet([(1, [text("email")])]) + b" " * 30_000_000
    with pytest.raises(TooLargeUnpacked, match=f"more than {packed.RATIO_MAX} times"):
        spooled(tmp_path, workbook(tmp_path / "b.xlsx", {"L": spaces}))
    far = sheet([(1, [text("email")])]).replace(b'r="A1"', f'r="{letters(5_000)}1"'.encode())
    with pytest.raises(TooLargeUnpacked, match="beyond column 5,000"):
        spooled(tmp_path, workbook(tmp_path / "c.xlsx", {"L": far}))
    with pytest.raises(TooLargeUnpacked, match="more than 1,048,576 rows"):
        spooled(tmp_path, workbook(tmp_path / "d.xlsx", {"L": sheet([(1_048_577, [text("email")])])}))


def test_a_damaged_workbook_is_refused_by_name(tmp_path: Path) -> None:
    """Cut, changed, or with parts missing."""
    whole = workbook(
        tmp_path / "a.xlsx", {"L": sheet([(row, [text(f"x{row}")]) for row in range(1, 500)])}
    ).read_bytes()
    for length in range(30, len(whole), 97):
        (tmp_path / "b.xlsx").write_bytes(whole[:length])
        with pytest.raises(ArchiveUnsound, match=r"b\.xlsx"):
            spooled(tmp_path, tmp_path / "b.xlsx")
    with pytest.raises(ArchiveUnsound, match=r"c\.xlsx"):
        spooled(tmp_path, zipped(tmp_path / "c.xlsx", {"[Content_Types].xml": b"", "xl/workbook.xml": b"<a>"}))


def test_days_without_a_time_are_dates() -> None:
    """A date column of Marketo takes YYYY-MM-DD and nothing else."""
    assert number_text("45351.75", "date", False) == date(2024, 2, 29).isoformat()
