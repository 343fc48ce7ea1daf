"""Sources of every kind, made by the test itself, and what the spool makes of them."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from orchestrator.adapters.sources import reading
from orchestrator.core.model import Format, Origin, Reading
from orchestrator.core.origins import place

BYTES_MAX = 200_000_000


@dataclass(frozen=True)
class Made:
    """A spool file, read back."""

    content: bytes
    format: Format
    origin: Origin

    @property
    def rows(self) -> list[list[str]]:
        """Header and rows, as Python's csv reads them."""
        text = io.StringIO(self.content.decode("utf-8-sig"), newline="")
        return [row for row in csv.reader(text, delimiter=self.format.delimiter) if row]

    def line_of(self, row: int) -> tuple[int | None, int | None]:
        """(original, line) of a row, from 1."""
        text = io.StringIO(self.content.decode("utf-8-sig"), newline="")
        reader, line = csv.reader(text, delimiter=self.format.delimiter), 1
        for number, _ in enumerate(reader):
            if number == row:
                return place(self.origin, row, line)
            line = reader.line_num + 1
        raise AssertionError(f"there is no row {row}")


def spooled(
    folder: Path,
    *sources: Path,
    format: Format | None = None,
    bytes_max: int = BYTES_MAX,
    encoding: str | None = None,
    sheet: str | None = None,
    query: str | None = None,
    renamed: tuple[tuple[str, str], ...] = (),
) -> Made:
    """What a spool file of these sources holds; nothing is left in the spool folder."""
    spools = folder / "spools"
    spools.mkdir(mode=0o700, exist_ok=True)
    try:
        made = reading.spool(
            [str(source) for source in sources],
            Reading(encoding, sheet, query, renamed),
            format,
            folder=spools,
            bytes_max=bytes_max,
            interrupted=lambda: None,
        )
        try:
            return Made(made.spool.path.read_bytes(), made.format, made.origin)
        finally:
            made.spool.release()
    finally:
        assert list(spools.iterdir()) == []


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    """A ZIP archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


# --- workbooks ------------------------------------------------------------------------------------------

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


@dataclass(frozen=True)
class Cell:
    """One cell as XML: its attributes but for the place, and what is in it."""

    inside: str
    kind: str = "n"
    style: int = 0


def text(value: str) -> Cell:
    return Cell(f'<is><t xml:space="preserve">{escape(value)}</t></is>', "inlineStr")


def number(value: str, style: int = 0) -> Cell:
    return Cell(f"<v>{value}</v>", "n", style)


def shared(index: int) -> Cell:
    return Cell(f"<v>{index}</v>", "s")


def letters(column: int) -> str:
    """A, B, … of column 0, 1, …"""
    name = ""
    while column >= 0:
        name = chr(65 + column % 26) + name
        column = column // 26 - 1
    return name


def sheet(rows: Sequence[tuple[int, Sequence[Cell | None]]], before: str = "") -> bytes:
    """A sheet of (row number, cells)."""
    lines = []
    for row, cells in rows:
        parts = [
            f'<c r="{letters(at)}{row}" t="{cell.kind}" s="{cell.style}">{cell.inside}</c>'
            for at, cell in enumerate(cells)
            if cell is not None
        ]
        lines.append(f'<row r="{row}">{"".join(parts)}</row>')
    head = f'<?xml version="1.0" encoding="UTF-8"?>{before}<worksheet xmlns="{MAIN}"><sheetData>'
    return f"{head}{''.join(lines)}</sheetData></worksheet>".encode()


def _state(is_hidden: bool) -> str:
    return "hidden" if is_hidden else "visible"


def workbook(
    path: Path,
    sheets: dict[str, bytes],
    *,
    formats: Sequence[str] = (),
    texts: Sequence[str] = (),
    hidden: Sequence[str] = (),
    is_1904: bool = False,
) -> Path:
    """An .xlsx file. formats: number format codes, of styles 1, 2, …; texts: <si> contents of the shared texts."""
    names = list(sheets)
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{at}" r:id="rId{at}" state="{_state(name in hidden)}"/>'
        for at, name in enumerate(names, 1)
    )
    links = "".join(
        f'<Relationship Id="rId{at}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{at}.xml"/>'
        for at in range(1, len(names) + 1)
    )
    links += f'<Relationship Id="s" Type="{OFFICE}/styles" Target="styles.xml"/>'
    links += f'<Relationship Id="t" Type="{OFFICE}/sharedStrings" Target="/xl/sharedStrings.xml"/>'
    codes = "".join(f'<numFmt numFmtId="{164 + at}" formatCode={quoteattr(code)}/>' for at, code in enumerate(formats))
    styles = '<xf numFmtId="0"/>' + "".join(f'<xf numFmtId="{164 + at}"/>' for at in range(len(formats)))
    root = f'<Relationship Id="r" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
    members = {
        "[Content_Types].xml": b"<Types/>",
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}">{root}</Relationships>'.encode(),
        "xl/workbook.xml": (
            f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><workbookPr date1904="{int(is_1904)}"/>'
            f"<sheets>{listed}</sheets></workbook>"
        ).encode(),
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}">{links}</Relationships>'.encode(),
        "xl/styles.xml": (
            f'<styleSheet xmlns="{MAIN}"><numFmts>{codes}</numFmts><cellStyleXfs><xf numFmtId="14"/></cellStyleXfs>'
            f"<cellXfs>{styles}</cellXfs></styleSheet>"
        ).encode(),
        "xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">{"".join(f"<si>{si}</si>" for si in texts)}</sst>'.encode(),
    }
    members |= {f"xl/worksheets/sheet{at}.xml": content for at, content in enumerate(sheets.values(), 1)}
    return zipped(path, members)
