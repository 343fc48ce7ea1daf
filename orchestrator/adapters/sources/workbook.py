"""How does a sheet of an Excel workbook become rows? As a stream: in memory are one piece and the shared texts.

Cells as people see them: text as it is (leading zeros kept), whole numbers without ".0", none with an exponent, at
most the 15 digits that Excel keeps; dates and times, by the cell's number format, in W3C form; true and false; the
stored value of a formula. Empty rows are no rows. An error (#N/A), or a formula without a stored value, is refused.

A workbook is a stranger's ZIP of XML: the parser is expat, document types are refused, so that no entity can be
declared; what is unpacked is counted. Sources: ECMA-376 part 1, 18.3 (sheets), 18.4 (shared texts), 18.8.30 (formats).
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from xml.parsers import expat

from orchestrator.adapters.sources.packed import PIECE_BYTES, RATIO_FROM_BYTES, RATIO_MAX
from orchestrator.adapters.sources.places import Places
from orchestrator.adapters.sources.spool import BUFFER_BYTES
from orchestrator.errors import ArchiveUnsound, EmptySource, TooLargeUnpacked, ValuesUnfit

ROWS_MAX = 1_048_576
"""Of a sheet, by Excel's own limit."""
COLUMNS_MAX = 5_000
"""Excel has 16,384; Marketo has a few thousand fields."""
SHARED_BYTES_MAX = 512 << 20
"""Shared texts are kept in memory, as UTF-8."""
DIGITS = 15
"""Excel keeps so many significant digits; files hold up to 17 (1.1 may be stored as 1.1000000000000001)."""
PLACES_SHOWN = 5

_SPACES = (
    "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    "http://purl.oclc.org/ooxml/spreadsheetml/main",
)
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")

# --- number formats -------------------------------------------------------------------------------------

_BUILT_IN: Mapping[int, str] = {
    **dict.fromkeys([14, 15, 16, 17, *range(27, 32), 36, *range(50, 55), 57, 58], "date"),
    **dict.fromkeys([18, 19, 20, 21, 32, 33, 34, 35, 45, 47, 55, 56], "time"),
    22: "datetime",
    46: "elapsed",
}
_LITERALS = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]', re.IGNORECASE)


def shows(code: str) -> str:
    """What a number format makes of a number: date, time, datetime, elapsed, a count of zeros, or "" for a number."""
    if re.fullmatch("0{2,}", code):
        return code
    plain = _LITERALS.sub("", code.partition(";")[0]).lower()
    if "general" in plain:
        return ""
    if re.search(r"\[[hms]+\]", plain):
        return "elapsed"
    times = "h" in plain or "s" in plain
    days = "y" in plain or "d" in plain or ("m" in plain and not times)
    return {(True, True): "datetime", (True, False): "date", (False, True): "time"}.get((days, times), "")


def number_text(stored: str, shown: str, is_1904: bool) -> str:
    """A number as its cell shows it. Raises ValueError when it is none, or no date."""
    if not shown:
        if stored.isdigit() and len(stored) <= DIGITS:
            return stored
        return _decimal(stored)
    if shown.startswith("0"):
        plain = _decimal(stored)
        return plain.zfill(len(shown)) if plain.isdigit() else plain
    days, seconds = divmod(round(float(stored) * 86_400), 86_400)
    clock = f"{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
    if shown == "elapsed":
        return f"{days * 24 + seconds // 3600:02}{clock[2:]}"
    if shown == "time":
        return clock
    if days < 0 or (days == 60 and not is_1904):
        raise ValueError("no date")  # Excel has a 29 February 1900; the calendar has none
    first = date(1904, 1, 1) if is_1904 else date(1899, 12, 30 if days > 60 else 31)
    day = (first + timedelta(days)).isoformat()
    return day if shown == "date" else f"{day}T{clock}"


def _decimal(stored: str) -> str:
    value = Decimal(f"{float(stored):.{DIGITS}g}")
    if not value.is_finite():
        raise ValueError("no number")
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) if value else "0"


# --- the workbook ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Book:
    """What must be known before a sheet is read."""

    sheets: list[tuple[str, str, bool]] = field(default_factory=list)
    """(name, part, visible)"""
    is_1904: bool = False
    formats: list[str] = field(default_factory=list)
    """By style: what it shows."""


class _Shared:
    """The shared texts: UTF-8 back to back."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("Q", [0])

    def add(self, text: str) -> None:
        self._content += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._content))
        if len(self._content) > SHARED_BYTES_MAX:
            raise TooLargeUnpacked(f"its shared texts have more than {SHARED_BYTES_MAX:,} bytes; nothing was sent")

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self._ends) - 1:
            raise ValueError("no such shared text")
        return self._content[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


def rows_of(
    path: Path, name: str, sheet: str | None, places: Places, interrupted: Callable[[], None]
) -> Iterator[bytes]:
    """One sheet as CSV, its first row that is not empty as the header."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield from _Reader(archive, name, interrupted).rows(sheet, places, path.stat().st_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, expat.ExpatError) as error:
        raise ArchiveUnsound(
            f"{name}: the workbook cannot be read: it is damaged, encrypted, or not an .xlsx file",
            remedy="Open it in Excel and save it again, or export it as CSV.",
        ) from error


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, name: str, interrupted: Callable[[], None]) -> None:
        self._archive, self._name, self._interrupted = archive, name, interrupted

    def rows(self, sheet: str | None, places: Places, packed_bytes: int) -> Iterator[bytes]:
        book, shared = _Book(), _Shared()
        root = self._targets("", "_rels/.rels").get("officeDocument", "xl/workbook.xml")
        self._read_book(root, book)
        folder = posixpath.dirname(root)
        links = self._targets(folder, f"{folder}/_rels/{posixpath.basename(root)}.rels")
        if "styles" in links:
            self._read_styles(links["styles"], book)
        if "sharedStrings" in links:
            self._read_shared(links["sharedStrings"], shared)
        book.sheets = [(title, links.get(link, ""), visible) for title, link, visible in book.sheets]
        part = self._chosen(book, sheet, shared)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        width, made_bytes, number = 0, 0, 0
        rows = _Sheet(self, part, book, shared, self._name)
        for number, cells in rows.rows():
            if not width:
                while cells and not cells[-1]:
                    cells.pop()
                width = len(cells)
            else:
                places.next_rows(number)
                while len(cells) > width and not cells[-1]:
                    cells.pop()
                cells += [""] * (width - len(cells))
            writer.writerow(cells)
            if text.tell() >= BUFFER_BYTES:
                block = self._encoded(text.getvalue(), number)
                made_bytes += len(block)
                if made_bytes > max(RATIO_FROM_BYTES, RATIO_MAX * packed_bytes):
                    raise self.bomb()
                yield block
                text.seek(0)
                text.truncate()
        if not width:
            raise EmptySource(f"{self._name}: the sheet is empty", remedy="Nothing was sent; say --sheet.")
        rows.complain()
        yield self._encoded(text.getvalue(), number)

    def _encoded(self, text: str, number: int) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise ValuesUnfit(
                f"{self._name}: in row {number:,} or before, a value has half of a character (a lone surrogate)",
                remedy="Mend it in the workbook; nothing was sent.",
            ) from error

    def bomb(self) -> TooLargeUnpacked:
        return TooLargeUnpacked(
            f"{self._name}: unpacked it is more than {RATIO_MAX} times as large; nothing was sent",
            remedy="That is how decompression bombs look. If it is sound, export it as CSV.",
        )

    def pieces(self, part: str) -> Iterator[bytes]:
        """One part of the package, unpacked under count."""
        info = self._archive.getinfo(part.lstrip("/"))
        unpacked = 0
        with self._archive.open(info) as file:
            while piece := file.read(PIECE_BYTES):
                self._interrupted()
                unpacked += len(piece)
                if unpacked > RATIO_FROM_BYTES and unpacked > RATIO_MAX * info.compress_size:
                    raise self.bomb()
                yield piece

    def parser(self) -> expat.XMLParserType:
        """No document type, so no entity: neither a billion laughs nor a file of this machine."""

        def refuse(*_: object) -> None:
            raise ArchiveUnsound(
                f"{self._name}: the workbook's XML declares a document type, which no workbook needs; nothing was sent",
                remedy="Do not trust this file.",
            )

        parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = refuse
        return parser

    def _each(self, part: str, seen: Callable[[str, dict[str, str]], None]) -> None:
        parser = self.parser()
        parser.StartElementHandler = lambda name, attributes: seen(name.rpartition("}")[2], attributes)
        for piece in self.pieces(part):
            parser.Parse(piece, False)
        parser.Parse(b"", True)

    def _targets(self, folder: str, part: str) -> dict[str, str]:
        """Relations of a part: by id, and by the last word of their type."""
        found: dict[str, str] = {}

        def seen(tag: str, attributes: dict[str, str]) -> None:
            if tag == "Relationship" and attributes.get("TargetMode") != "External":
                target = attributes["Target"]
                whole = target.lstrip("/") if target.startswith("/") else posixpath.normpath(f"{folder}/{target}")
                found[attributes["Id"]] = found[attributes["Type"].rpartition("/")[2]] = whole.lstrip("/")

        self._each(part, seen)
        return found

    def _read_book(self, part: str, book: _Book) -> None:
        def seen(tag: str, attributes: dict[str, str]) -> None:
            if tag == "sheet":
                link = next((value for key, value in attributes.items() if key.endswith("}id")), "")
                book.sheets.append((attributes["name"], link, attributes.get("state", "visible") == "visible"))
            elif tag == "workbookPr":
                book.is_1904 = attributes.get("date1904") in ("1", "true")

        self._each(part, seen)

    def _read_styles(self, part: str, book: _Book) -> None:
        codes: dict[int, str] = {}
        inside: list[bool] = [False]

        def seen(tag: str, attributes: dict[str, str]) -> None:
            if tag == "numFmt":
                codes[int(attributes["numFmtId"])] = shows(attributes["formatCode"])
            elif tag in ("cellStyleXfs", "cellXfs", "dxfs", "cellStyles"):
                inside[0] = tag == "cellXfs"
            elif tag == "xf" and inside[0]:
                number = int(attributes.get("numFmtId", "0"))
                book.formats.append(codes.get(number, _BUILT_IN.get(number, "")))

        self._each(part, seen)

    def _read_shared(self, part: str, shared: _Shared) -> None:
        parser, texts = self.parser(), list[str]()
        depth = [0]  # inside of phonetic hints, which are not text

        def begin(name: str, _: dict[str, str]) -> None:
            tag = name.rpartition("}")[2]
            depth[0] += tag == "rPh"
            if tag == "t" and not depth[0]:
                parser.CharacterDataHandler = texts.append

        def end(name: str) -> None:
            tag = name.rpartition("}")[2]
            depth[0] -= tag == "rPh"
            if tag == "t":
                parser.CharacterDataHandler = None
            elif tag == "si":
                shared.add(unescaped("".join(texts)))
                texts.clear()

        parser.StartElementHandler, parser.EndElementHandler = begin, end
        for piece in self.pieces(part):
            parser.Parse(piece, False)
        parser.Parse(b"", True)

    def _chosen(self, book: _Book, sheet: str | None, shared: _Shared) -> str:
        if sheet is not None:
            for title, part, _ in book.sheets:
                if title == sheet:
                    return part
            raise ValuesUnfit(
                f"{self._name}: there is no sheet {sheet!r}",
                remedy=f"There are: {', '.join(title for title, *_ in book.sheets[:20])}.",
            )
        visible = [(title, part) for title, part, visible in book.sheets if visible and part]
        filled = visible
        if len(visible) > 1:
            filled = [
                (title, part)
                for title, part in visible
                if next(_Sheet(self, part, book, shared, self._name).rows(), None) is not None
            ]
        if len(filled) > 1:
            raise ValuesUnfit(
                f"{self._name}: several sheets have rows, and one is loaded",
                remedy=f"Say --sheet NAME: {', '.join(title for title, _ in filled[:20])}.",
            )
        if not filled:
            raise EmptySource(f"{self._name}: the workbook has no row", remedy="Nothing was sent.")
        return filled[0][1]


def unescaped(text: str) -> str:
    """Characters that XML cannot hold are written _xHHHH_, those beyond 16 bits in two halves."""
    if "_x" not in text:
        return text
    found = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


_ROW, _CELL, _VALUE, _TEXT, _FORMULA, _HINT = range(6)
_TAGS = {"row": _ROW, "c": _CELL, "v": _VALUE, "t": _TEXT, "f": _FORMULA, "rPh": _HINT}
_KINDS = {f"{space}}}{tag}": kind for space in _SPACES for tag, kind in _TAGS.items()}


class _Sheet:
    """One sheet, row by row."""

    def __init__(self, reader: _Reader, part: str, book: _Book, shared: _Shared, name: str) -> None:
        self._reader, self._part, self._book, self._shared, self._name = reader, part, book, shared, name
        self._done: list[tuple[int, list[str]]] = []
        self._number, self._cells, self._column = 0, list[str](), -1
        self._cell: dict[str, str] = {}
        self._texts: list[str] = []
        self._has_value = self._has_formula = False
        self._hints = 0
        self._letters: dict[str, int] = {}
        self._unfit: list[str] = []
        self._unfit_count = 0

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(row number, cells) of rows that are not empty."""
        self._parser = self._reader.parser()
        self._parser.StartElementHandler, self._parser.EndElementHandler = self._begin, self._end
        for piece in self._reader.pieces(self._part):
            self._parser.Parse(piece, False)
            yield from self._done
            self._done.clear()
        self._parser.Parse(b"", True)
        yield from self._done

    def complain(self) -> None:
        """Raises ValuesUnfit when cells had no value that can be sent."""
        if self._unfit_count:
            more = f" and {self._unfit_count - len(self._unfit)} more" if self._unfit_count > len(self._unfit) else ""
            raise ValuesUnfit(
                f"{self._name}: cells without a value that can be sent: {', '.join(self._unfit)}{more}",
                remedy="Mend them in the workbook; nothing was sent.",
            )

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        kind = _KINDS.get(name)
        if kind == _CELL:
            self._cell = attributes
            self._has_value = self._has_formula = False
        elif kind == _VALUE or (kind == _TEXT and not self._hints):
            self._has_value = True
            self._parser.CharacterDataHandler = self._texts.append
        elif kind == _FORMULA:
            self._has_formula = True
        elif kind == _ROW:
            self._number = int(attributes.get("r", self._number + 1))
            self._cells, self._column = [], -1
            if self._number > ROWS_MAX:
                raise TooLargeUnpacked(f"{self._name}: more than {ROWS_MAX:,} rows; nothing was sent")
        elif kind == _HINT:
            self._hints += 1

    def _end(self, name: str) -> None:
        kind = _KINDS.get(name)
        if kind in (_VALUE, _TEXT):
            self._parser.CharacterDataHandler = None
        elif kind == _CELL:
            self._end_cell()
        elif kind == _ROW and any(self._cells):
            self._done.append((self._number, self._cells))
        elif kind == _HINT:
            self._hints -= 1

    def _end_cell(self) -> None:
        at = self._column_of(self._cell.get("r"))
        self._column = at
        if not self._has_value:
            if self._has_formula:
                self._no_value(at, "a formula without a stored value")
            return
        stored = "".join(self._texts)
        self._texts.clear()
        if self._has_formula and not stored and self._cell.get("t", "n") == "n":
            self._no_value(at, "a formula without a stored value")
            return
        text = self._text(stored, at)
        if text:
            cells = self._cells
            if at >= len(cells):
                cells += [""] * (at + 1 - len(cells))
            cells[at] = text

    def _text(self, stored: str, at: int) -> str:
        kind = self._cell.get("t", "n")
        try:
            if kind == "s":
                return self._shared[int(stored)]
            if kind == "n":
                style = int(self._cell.get("s", "0"))
                formats = self._book.formats
                shown = formats[style] if style < len(formats) else ""
                return number_text(stored, shown, self._book.is_1904) if stored else ""
        except (ValueError, OverflowError):
            self._no_value(at, "no number, date or text")
            return ""
        if kind == "b":
            return "true" if stored == "1" else "false"
        if kind == "e":
            self._no_value(at, stored[:20])
            return ""
        return unescaped(stored)  # str, inlineStr, d

    def _column_of(self, reference: str | None) -> int:
        if reference is None:
            return self._column + 1
        letters = reference.rstrip("0123456789")
        at = self._letters.get(letters)
        if at is None:
            at = 0
            for letter in letters:
                at = at * 26 + ord(letter.upper()) - 64
            at -= 1
            if not 0 <= at < COLUMNS_MAX:
                raise TooLargeUnpacked(
                    f"{self._name}: row {self._number}: a cell beyond column {COLUMNS_MAX:,}; nothing was sent",
                    remedy="Remove what stands far to the right.",
                )
            self._letters[letters] = at
        return at

    def _no_value(self, at: int, what: str) -> None:
        self._unfit_count += 1
        if len(self._unfit) < PLACES_SHOWN:
            letters = next((letters for letters, column in self._letters.items() if column == at), f"column {at + 1} ")
            self._unfit.append(f"{letters}{self._number} ({what})")
