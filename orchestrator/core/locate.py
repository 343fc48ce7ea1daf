"""Which row of the source is a failed or warned one?

Marketo echoes the submitted columns and adds a reason; it gives no row number and promises no order. What is seen in
real use: the empty lookup column is left out of the file, values with delimiters or line ends are not quoted again, and
equal rows appear once each. So a record is looked for in two ways at once: by its values as csv reads them, and as the
text that each row would have without any quoting. Never a wrong place: a record that could be one of several rows gets
none, but its candidates are named.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import AnyStr, Generic

from orchestrator.core.model import Format, Span

csv.field_size_limit(16_000_000)  # no value is larger than a chunk; csv's own limit of 128 KB is met by long notes

REASON_COLUMNS = ("Import Failure Reason", "Import Warning Reason")


@dataclass(frozen=True, slots=True)
class Echo:
    """One record of a result file. `cells` are as csv reads them, the reason excluded."""

    cells: tuple[str, ...]
    reason: str
    at: int
    """Where it begins in the file's text."""


@dataclass(frozen=True, slots=True)
class EchoFile:
    """A result file as it was read: its columns (the reason's excluded), its records, its text (line ends LF)."""

    columns: tuple[str, ...]
    records: tuple[Echo, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class SentRow:
    """One row of the source as it was sent. `start`, `stop`: its bytes among the chunk's rows."""

    row: int
    line: int
    cells: tuple[str, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record belongs: the row, or the rows it may be one of when that cannot be told.

    reason: what stands after the row's own text, where csv cannot tell it from the row's values. continues: this is no
    record, but the rest of the one before it, whose value has a line end in it.
    """

    sent: SentRow | None
    candidates: tuple[SentRow, ...] = ()
    reason: str | None = None
    continues: bool = False


def read_echoes(content: bytes, format: Format) -> EchoFile:
    """A failure or warning file, however malformed. Blank lines are no records."""
    text = _plain(content.decode("utf-8-sig", errors="replace"))
    # A value may have a carriage return alone, which csv refuses where it is not quoted: it is read as NUL meanwhile.
    has_return = "\r" in text and "\0" not in text
    source = _Lines(text.replace("\r", "\0") if has_return else text, "\n", 0, len(text))
    reader = csv.reader(source, delimiter=format.delimiter)
    columns: tuple[str, ...] | None = None
    records: list[Echo] = []
    while True:
        at = source.at
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error:  # a carriage return alone in a file with NUL, or a value longer than csv allows: passed over
            continue
        if not record:
            continue
        if has_return:
            record = [cell.replace("\0", "\r") for cell in record]
        if columns is None:
            columns = tuple(record[:-1] if record[-1] in REASON_COLUMNS else record)
        else:
            records.append(Echo(tuple(record[:-1]), record[-1], at))
    return EchoFile(columns or (), tuple(records), text)


def read_sent(rows: bytes, spans: Iterable[Span], format: Format) -> Iterator[SentRow]:
    """The rows of a chunk. `rows` are the bytes of its spans back to back."""
    offset = 0
    for span in spans:
        source = _Lines(rows, b"\n", offset, offset + span.stop - span.start)
        line, start = span.first_line, offset
        for index, cells in enumerate(csv.reader(source, delimiter=format.delimiter)):
            yield SentRow(span.first_row + index, line, tuple(cells), start, source.at)
            start, line = source.at, span.first_line + source.lines_read
        offset = source.stop


class _Lines(Generic[AnyStr]):
    """Hands lines to csv and knows how far it has read. A carriage return alone ends no line."""

    def __init__(self, content: AnyStr, line_end: AnyStr, start: int, stop: int) -> None:
        self._content: AnyStr = content
        self._line_end: AnyStr = line_end
        self.at, self.stop, self.lines_read = start, stop, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at >= self.stop:
            raise StopIteration
        start, end = self.at, self._content.find(self._line_end, self.at, self.stop)
        self.at = end + 1 if end >= 0 else self.stop
        self.lines_read += 1
        line = self._content[start : self.at]
        return line if isinstance(line, str) else line.decode("utf-8", errors="replace")


def locate(
    file: EchoFile, header: Sequence[str], sent: Iterable[SentRow], key: str | None, format: Format
) -> list[Place]:
    """The place of every record of a result file, in the file's order.

    key: the lookup field, whose empty value may be missing from a record. Records that no row's content explains
    (Marketo changed a value) are placed by their key, where only one row can have it.
    """
    return locate_among(file, header, sent, key, format, frozenset())[0]


def locate_among(
    file: EchoFile,
    header: Sequence[str],
    sent: Iterable[SentRow],
    key: str | None,
    format: Format,
    taken: Collection[int],
) -> tuple[list[Place], set[int]]:
    """`locate`, where the rows `taken` have their record already; also all rows that any of these records may be."""
    columns = [header.index(name) for name in file.columns if name in header]
    known = [name in header for name in file.columns]
    at_key = None
    if key is not None and key in file.columns and key in header:
        at_key = columns.index(header.index(key))
    rows = _Rows(sent, columns, at_key, format.delimiter, _beginnings(file, known, format.delimiter))
    if all(known):
        found = _search(file, rows)
    else:  # a column of Marketo's own: its values could be anything, so only values that cannot shift are believed
        found = [_Found() if rows.may_shift else _known_cells(echo, known, rows) for echo in file.records]
    continues = _continuations(found, file)
    places = _assign(found, continues, file.records)
    if all(known):
        _by_key(places, found, file, rows, taken)
    for index, one in enumerate(found):
        if index in continues:
            places[index] = Place(None, continues=True)
        elif one.reason is not None and not one.by_cells:
            places[index] = replace(places[index], reason=one.reason)
    possible = {row.row for one in found for alike in (*one.by_cells, *one.by_text) for row in alike.rows}
    return places, possible


@dataclass(eq=False, slots=True)
class _Alike:
    """Rows whose echoed values are the same."""

    number: int
    rows: list[SentRow] = field(default_factory=list)


@dataclass(slots=True)
class _Found:
    """What may have become one record."""

    by_cells: list[_Alike] = field(default_factory=list)
    """As csv reads it."""
    by_text: list[_Alike] = field(default_factory=list)
    """As text without quotes, and not found as csv reads it."""
    stop: int = 0
    """Where the longest such text ends in the file."""
    reason: str | None = None
    """What stands after it."""
    part: bool = False
    """It may be the rest of a row's text after a line end: then it is no record."""


class _Rows:
    """The sent rows by their echoed values, and by the text they would be without quotes.

    beginnings: rows none of whose lines begins with one of these values are not kept: nothing in the file is theirs.
    """

    def __init__(
        self,
        sent: Iterable[SentRow],
        columns: Sequence[int],
        at_key: int | None,
        delimiter: str,
        beginnings: Collection[str],
    ) -> None:
        self.delimiter, self.columns, self.at_key = delimiter, len(columns), at_key
        self.by_cells: dict[tuple[str, ...], list[_Alike]] = defaultdict(list)
        self.by_text: dict[str, list[_Alike]] = defaultdict(list)
        self.shapes: dict[str, set[tuple[int, int]]] = defaultdict(set)
        """(lines, delimiters of the last line) of the texts that have several lines, by their first line."""
        self.delimiters: set[int] = set()
        """How many delimiters the texts of one line have."""
        self.may_shift = False
        """Without quotes, a value of one column could be read as another's."""
        alike: dict[tuple[str, ...], _Alike] = {}
        for row in sent:
            cells = tuple(_plain(row.cells[column]) for column in columns)
            variants = [cells]
            if at_key is not None and not cells[at_key]:
                self.may_shift = True
                variants.append(cells[:at_key] + cells[at_key + 1 :])
            texts = [delimiter.join(variant) for variant in variants]
            self.may_shift = self.may_shift or _may_shift(texts[0], delimiter, len(cells))
            if not any(_first(line, delimiter) in beginnings for text in texts for line in text.split("\n")):
                continue
            if cells not in alike:
                alike[cells] = _Alike(len(alike))
                for variant, text in zip(variants, texts, strict=True):
                    self._add(alike[cells], variant, text)
            alike[cells].rows.append(row)

    def _add(self, alike: _Alike, cells: tuple[str, ...], text: str) -> None:
        self.by_cells[cells].append(alike)
        self.by_text[text].append(alike)
        first, *more = text.split("\n")
        if more:
            self.shapes[first].add((len(more) + 1, more[-1].count(self.delimiter)))
        else:
            self.delimiters.add(text.count(self.delimiter))

    def by_beginning(self) -> dict[str, set[_Alike]]:
        """Rows by the values up to the key, of each of their lines."""
        assert self.at_key is not None
        beginnings: dict[str, set[_Alike]] = defaultdict(set)
        for text, alike in self.by_text.items():
            for line in text.split("\n"):
                beginnings[self.delimiter.join(line.split(self.delimiter)[: self.at_key + 1])].update(alike)
        return beginnings


def _may_shift(text: str, delimiter: str, cells: int) -> bool:
    return '"' in text or "\n" in text or text.count(delimiter) >= cells


def _beginnings(file: EchoFile, known: Sequence[bool], delimiter: str) -> set[str]:
    """How the lines and the first values of a result file begin, up to the first delimiter."""
    at = known.index(True) if True in known else 0
    beginnings = {_first(line, delimiter) for line in file.text.split("\n")}
    for echo in file.records:
        if at < len(echo.cells):
            beginnings.add(_first(_plain(echo.cells[at]).split("\n", 1)[0], delimiter))
    return beginnings


def _first(line: str, delimiter: str) -> str:
    return line.split(delimiter, 1)[0]


def _search(file: EchoFile, rows: _Rows) -> list[_Found]:
    """For each record every row that may have become it, however it was written."""
    found: list[_Found] = []
    reached = at = 0
    for echo in file.records:
        while at < echo.at:  # lines that csv took for the rest of a quoted value may begin a row's text all the same
            end = _line_end(file.text, at)
            reached = max([reached, *_long_texts(file.text, at, end, rows)])
            at = end + 1
        one = _Found(list(rows.by_cells.get(tuple(map(_plain, echo.cells)), ())), part=echo.at < reached)
        for alike, stop in _texts_at(file.text, echo.at, rows, one):
            reached = max(reached, stop)
            if alike in one.by_cells:
                continue
            if alike not in one.by_text:
                one.by_text.append(alike)
            # Of a row with an empty key at its end, the text with and without it stand here.
            one.stop = max(one.stop, stop)
        if one.by_text:
            one.reason = rest_of_record(file.text, one.stop + 1, rows.delimiter)
        at = max(at, _line_end(file.text, echo.at) + 1)
        found.append(one)
    return found


def _texts_at(text: str, at: int, rows: _Rows, one: _Found) -> list[tuple[_Alike, int]]:
    """Rows whose text stands here, followed by a reason; each with the end of its text."""
    end = _line_end(text, at)
    likely: list[tuple[_Alike, int]] = []
    unlikely: list[tuple[_Alike, int]] = []
    pieces = text[at:end].split(rows.delimiter)
    for delimiters in rows.delimiters:
        if delimiters + 1 < len(pieces):
            whole = rows.delimiter.join(pieces[: delimiters + 1])
            if whole in rows.by_text:
                into = unlikely if _one_cell(text, at + len(whole) + 1, rows.delimiter) is None else likely
                into += [(alike, at + len(whole)) for alike in rows.by_text[whole]]
    for stop in _long_texts(text, at, end, rows):
        likely += [(alike, stop) for alike in rows.by_text[text[at:stop]]]
    # A reason with a delimiter in it is believed only where nothing else explains the record.
    return likely or ([] if one.by_cells else unlikely)


def _long_texts(text: str, at: int, end: int, rows: _Rows) -> list[int]:
    """Ends of the texts of several lines that begin here."""
    stops: list[int] = []
    for lines, delimiters in rows.shapes.get(text[at:end], ()):
        last = at
        for _ in range(lines - 1):
            last = _line_end(text, last) + 1
        pieces = text[last : _line_end(text, last)].split(rows.delimiter) if last <= len(text) else []
        if delimiters + 1 < len(pieces):
            stop = last + len(rows.delimiter.join(pieces[: delimiters + 1]))
            if text[at:stop] in rows.by_text:
                stops.append(stop)
    return stops


def _known_cells(echo: Echo, known: Sequence[bool], rows: _Rows) -> _Found:
    """The rows that have the record's values in the columns we know."""
    if len(echo.cells) != len(known):
        return _Found()
    cells = tuple(_plain(cell) for cell, one in zip(echo.cells, known, strict=True) if one)
    return _Found(list(rows.by_cells.get(cells, ())))


def _continuations(found: Sequence[_Found], file: EchoFile) -> set[int]:
    """Records that are the rest of the one before: a row's whole text with its line ends stands there."""
    continues: set[int] = set()
    reached = 0
    for index, (one, echo) in enumerate(zip(found, file.records, strict=True)):
        if echo.at < reached:
            continues.add(index)
        elif one.by_text and not one.by_cells and not one.part:
            reached = one.stop
    return continues


def _assign(found: Sequence[_Found], continues: Collection[int], records: Sequence[Echo]) -> list[Place]:
    """Records that may be the same rows. Certain when all of these came back and no choice between them matters."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, one in enumerate(found):
        if (one.by_cells or one.by_text) and not one.part and index not in continues:
            groups[tuple(sorted(alike.number for alike in (*one.by_cells, *one.by_text)))].append(index)
    places = [Place(None)] * len(records)
    times: Counter[int] = Counter()
    for indexes in groups.values():
        one = found[indexes[0]]
        rows = sorted((row for alike in (*one.by_cells, *one.by_text) for row in alike.rows), key=lambda row: row.row)
        unsure = Place(None, tuple(rows))
        sure = len(indexes) == len(rows) and (
            len({row.cells for row in rows}) == 1
            or len({found[index].reason or records[index].reason for index in indexes}) == 1
        )
        for position, index in enumerate(indexes):
            places[index] = Place(rows[position]) if sure else unsure
        if sure:
            times.update(row.row for row in rows)
    for index, place in enumerate(places):
        if place.sent is not None and times[place.sent.row] > 1:
            places[index] = Place(None)
    return places


def _by_key(places: list[Place], found: Sequence[_Found], file: EchoFile, rows: _Rows, placed: Collection[int]) -> None:
    """What no row's content explains is placed by its key, where only one row has a line that begins so."""
    if rows.at_key is None:
        return
    wanted: dict[str, list[int]] = defaultdict(list)
    for index, (echo, one) in enumerate(zip(file.records, found, strict=True)):
        explained = one.by_cells or one.by_text or one.part
        if not explained and len(echo.cells) == rows.columns and echo.cells[rows.at_key]:
            wanted[rows.delimiter.join(map(_plain, echo.cells[: rows.at_key + 1]))].append(index)
    beginnings = rows.by_beginning() if wanted else {}
    taken = {*placed, *(place.sent.row for place in places if place.sent is not None)}
    claims: dict[int, list[tuple[int, SentRow]]] = defaultdict(list)
    for beginning, indexes in wanted.items():
        among = [row for alike in beginnings.get(beginning, ()) for row in alike.rows]
        if len(among) == 1 and among[0].row not in taken:
            claims[among[0].row] += [(index, among[0]) for index in indexes]
    for claimed in claims.values():
        if len(claimed) == 1:
            ((index, row),) = claimed
            places[index] = Place(row)


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return end if end >= 0 else len(text)


def rest_of_record(text: str, at: int, delimiter: str) -> str:
    """The reason, which nothing separates from a row's text but the row's text."""
    cell = _one_cell(text, at, delimiter)
    return cell if cell is not None else text[at : _line_end(text, at)]


def _one_cell(text: str, at: int, delimiter: str) -> str | None:
    """The one value, quoted or without delimiters, that stands from here to the end of the record; None if not so."""
    if text.startswith('"', at):
        quoted = _QUOTED_LAST_CELL.match(text, at)
        return quoted[1].replace('""', '"') if quoted else None
    rest = text[at : _line_end(text, at)]
    return rest if delimiter not in rest else None


_QUOTED_LAST_CELL = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"(?=\n|\Z)')


def _plain(value: str) -> str:
    """A value as it is compared: a line end in it may come back in either form. (CR CR LF is one, too: what a line end
    becomes that was made CR LF twice.)"""
    while "\r\n" in value:
        value = value.replace("\r\n", "\n")
    return value
