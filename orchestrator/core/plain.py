"""Which rows of a chunk are found by their text alone?

Nearly all of them: a line of a result file without quotes is a row's text, a delimiter and a reason. This is the fast
way of `core.locate`, and it answers exactly as that does: what it cannot answer so, some records or the whole file, it
hands over. It may answer alone because

- a row whose values hold no delimiter, quote or line end reads the same with and without quotes;
- such a line could be another row's only where that row, written without quotes, reads the same, or has several lines
  of which the first is that line: both are looked for beforehand;
- a row that lost its empty lookup value has one value less, and a reason with a delimiter in it is believed only where
  nothing else explains a line.

Texts are narrow: UTF-8 read as Latin-1, a character for each byte. A name in any script is as quick as an English one
then. What leaves here is wide again, but for the texts themselves.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from orchestrator.core.locate import REASON_COLUMNS, Echo, EchoFile, Place, SentRow, locate_among
from orchestrator.core.model import Format, Span

PIECE_BYTES = 1 << 20

_NUL = "\0"
"""Stands in no row that is sent: the planner rejects it, as it does what is not UTF-8."""


def narrow(text: str) -> str:
    return text.encode().decode("latin-1")


def wide(text: str) -> str:
    return text.encode("latin-1").decode(errors="replace")


class _Wide(dict[str, str]):
    """Texts that come over and over, by what they are when narrow."""

    def __missing__(self, text: str) -> str:
        self[text] = wide(text)
        return self[text]


@dataclass(slots=True)
class SentTexts:
    """The rows of a chunk in order; a position is an index into these lists.

    content: the chunk's spans back to back. texts: a row's values with delimiters between, narrow; of an odd row, where
    a value holds a delimiter, quote or line end, its values with NUL before each. Line ends inside a text are LF.
    starts: where each row begins in content, and the last one ends.
    """

    content: bytes
    delimiter: str
    texts: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    odd: list[int] = field(default_factory=list)
    """Positions of the odd rows of a whole chunk."""

    def raw(self, position: int) -> bytes:
        """A row as it stands in the source, its line end included, if it has one."""
        return self.content[self.starts[position] : self.starts[position + 1]]

    def sent(self, position: int) -> SentRow:
        """A row with its values, and its bytes among those of the chunk."""
        start, stop = self.starts[position : position + 2]
        return SentRow(self.rows[position], self.lines[position], self.cells(position), start, stop)

    def cells(self, position: int) -> tuple[str, ...]:
        """A row's values as they stand in the source."""
        return tuple(map(wide, self.values(position)))

    def values(self, position: int) -> list[str]:
        """The same, narrow."""
        text = self.texts[position]
        if not text.startswith(_NUL):
            return text.split(self.delimiter)
        if "\n" in text and b"\r" in self.raw(position):  # then all line ends of the chunk are CR LF
            text = text.replace("\n", "\r\n")
        return text[1:].split(_NUL)


@dataclass(frozen=True, slots=True)
class Matched:
    """What became of a result file's records."""

    certain: list[tuple[int, str]]
    """(position, reason) of those whose row is found by its text."""
    others: list[tuple[int, Echo, Place]]
    """(line of the file, record, place) of the rest."""


def read_texts(content: bytes, spans: Sequence[Span], format: Format, columns: int) -> SentTexts | None:
    """The rows of a chunk; None where they are not as simple as nearly all are. `content`: its spans back to back."""
    crlf = content.count(b"\r\n") if b"\r" in content else 0
    if columns == 1 or b"\0" in content or content.count(b"\r") != crlf or crlf not in (0, content.count(b"\n")):
        return None
    sent = SentTexts(content, format.delimiter)
    lines = _lines(content)
    begins: list[int] = []
    """Which line each row begins with."""
    try:
        for start, stop, cells in _cut(lines, 0, sent.delimiter):
            if cells is None:
                sent.texts += lines[start:stop]
                begins += range(start, stop)
                continue
            text = _text_of(cells, sent.delimiter)
            if text.startswith(_NUL):
                sent.odd.append(len(sent.texts))
            sent.texts.append(text)
            begins.append(start)
    except csv.Error:
        return None
    line_end = 2 if crlf else 1
    line_starts = list(accumulate([len(line) + line_end for line in lines], initial=0))
    sent.starts = [*map(line_starts.__getitem__, begins), len(content)]
    offset = 0
    for span in spans:
        before = len(sent.rows)
        if before >= len(begins) or sent.starts[before] != offset:
            return None
        sent.rows += range(span.first_row, span.first_row + span.rows)
        moved = span.first_line - begins[before]
        sent.lines += [line + moved for line in begins[before : before + span.rows]]
        offset += span.stop - span.start
    return sent if len(sent.rows) == len(begins) and offset == len(content) else None


def _lines(content: bytes) -> list[str]:
    """Its lines without their ends, narrow; made piece by piece, so that there is no second whole of it meanwhile."""
    lines: list[str] = []
    start = 0
    while start < len(content):
        stop = content.rfind(b"\n", start, start + PIECE_BYTES) + 1 or content.find(b"\n", start) + 1 or len(content)
        lines += _with_lf(content[start:stop]).split("\n")
        if not lines[-1]:
            lines.pop()
        start = stop
    return lines


def _with_lf(content: bytes) -> str:
    """A narrow text, line ends LF. (To look for one character is quick, for two it is not.)"""
    return (content.replace(b"\r\n", b"\n") if b"\r" in content else content).decode("latin-1")


def _text_of(cells: Sequence[str], delimiter: str) -> str:
    text = delimiter.join(cells)
    simple = '"' not in text and "\n" not in text and text.count(delimiter) == len(cells) - 1
    return text if simple else _NUL + _NUL.join(cells)


def match(content: bytes, sent: SentTexts, header: Sequence[str], key: str | None, format: Format) -> Matched | None:
    """The rows of a result file's records; None where `locate` must look at the whole file."""
    text = _with_lf(content.removeprefix(BOM_UTF8))
    lines = text.split("\n")
    if "\r" in text or _NUL in text or not lines[0]:
        return None
    index = {line: position for position, line in enumerate(sent.texts)}
    try:
        names = list(map(wide, next(csv.reader([lines[0]], delimiter=sent.delimiter))))
        if names[:-1] != list(header) or names[-1] not in REASON_COLUMNS:
            return None
        unquoted = _unquoted(sent, header.index(key) if key in header else None)
        if _could_be_odd(lines, index, unquoted):
            return None
        looked_up = _look_up(lines, index, sent.delimiter, [text for text in unquoted if '"' in text])
    except csv.Error:
        return None
    if looked_up is None:
        return None
    hits, records = looked_up
    found = _Found(sent, hits, len(index))
    others = found.unsure
    if records:
        file, at_lines = _file_of(records, lines, header)
        if file.text.count('"') % 2:  # a quoted reason that does not end where csv says
            return None
        places, possible = locate_among(file, header, _near(sent, file), key, format, found.rows_certain())
        if possible & found.rows():
            return None
        others += zip(at_lines, file.records, places, strict=True)
    return Matched(found.certain, sorted(others, key=lambda one: one[0]))


def _cut(lines: list[str], at: int, delimiter: str) -> Iterator[tuple[int, int, list[str] | None]]:
    """Lines [start, stop) without a quote, or one record with quotes and its values. Raises csv.Error."""
    for quoted in [number for number, line in enumerate(lines) if '"' in line]:
        if quoted < at:
            continue
        if quoted > at:
            yield at, quoted, None
        feed = _Feed(lines, quoted)
        cells = next(csv.reader(feed, delimiter=delimiter))
        yield quoted, feed.at, cells
        at = feed.at
    if at < len(lines):
        yield at, len(lines), None


class _Feed:
    """Hands lines to csv and knows how far it has read. Raises csv.Error where a quote is open at their end."""

    def __init__(self, lines: list[str], at: int) -> None:
        self._lines, self.at = lines, at

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at >= len(self._lines):
            raise csv.Error("a quote is never closed")
        self.at += 1
        return self._lines[self.at - 1] + "\n"


def _unquoted(sent: SentTexts, at_key: int | None) -> set[str]:
    """What odd rows would be without quotes, also without their lookup value where that is empty."""
    texts: set[str] = set()
    for position in sent.odd:
        cells = sent.texts[position][1:].split(_NUL)
        texts.add(sent.delimiter.join(cells))
        if at_key is not None and not cells[at_key]:
            texts.add(sent.delimiter.join(cells[:at_key] + cells[at_key + 1 :]))
    return texts


def _could_be_odd(lines: list[str], index: dict[str, int], unquoted: set[str]) -> bool:
    """May a line that reads like another row's text have come from an odd row that was not quoted again?"""
    beginnings: set[str] = set()
    for text in unquoted:
        first, line_end, _ = text.partition("\n")
        if line_end:
            beginnings.add(first)
        elif text in index:
            return True
    return bool(beginnings) and any(line in beginnings for line in lines)


def _look_up(
    lines: list[str], index: dict[str, int], delimiter: str, with_quotes: list[str]
) -> tuple[list[tuple[int, int, str]], list[tuple[int, int, list[str]]]] | None:
    """(position, line, reason) of lines that are a row's text and a reason; (start, stop, values) of other records.

    with_quotes: texts of rows that have quotes in their values; None when a line of the file begins with one of them.
    """
    hits: list[tuple[int, int, str]] = []
    records: list[tuple[int, int, list[str]]] = []
    look_up, reasons = index.get, _Wide()
    begins = tuple(f"{text}{delimiter}" for text in with_quotes if "\n" not in text)
    for start, stop, cells in _cut(lines, 1, delimiter):
        if cells is not None:
            position = look_up(_text_of(cells[:-1], delimiter))
            if position is None:
                records.append((start, stop, cells))
            elif begins and lines[start].startswith(begins):
                return None
            else:
                hits.append((position, start, reasons[cells[-1]]))
            continue
        for at, line in enumerate(lines[start:stop], start):
            text, _, reason = line.rpartition(delimiter)
            position = look_up(text)
            if position is not None:
                hits.append((position, at, reasons[reason]))
            elif line:
                records.append((at, at + 1, line.split(delimiter)))
    return hits, records


class _Found:
    """Rows found by their text: certain where as many records came back as there are rows with that text."""

    def __init__(self, sent: SentTexts, hits: list[tuple[int, int, str]], different: int) -> None:
        self._sent, self._hits = sent, hits
        alike = _alike(sent) if different < len(sent.texts) else {}
        self._alike = {position: rows for rows in alike.values() for position in rows}
        times = Counter(position for position, _, _ in hits)
        self.unsure: list[tuple[int, Echo, Place]] = []
        if not alike and len(times) == len(hits):
            self.certain = [(position, reason) for position, _, reason in hits]
            return
        self.certain = []
        turns: dict[int, Iterator[int]] = {}
        for position, at, reason in hits:
            rows = self._alike.get(position, [position])
            if times[position] == len(rows):
                self.certain.append((next(turns.setdefault(position, iter(rows))), reason))
            else:
                place = Place(None, tuple(map(sent.sent, rows)))
                echoed = tuple(cell.replace("\r\n", "\n") for cell in sent.cells(position))
                self.unsure.append((at, Echo(echoed, reason, 0), place))

    def rows_certain(self) -> set[int]:
        return {self._sent.rows[position] for position, _ in self.certain}

    def rows(self) -> set[int]:
        """All rows that any of these records may be."""
        return {self._sent.rows[at] for position, _, _ in self._hits for at in self._alike.get(position, [position])}


def _alike(sent: SentTexts) -> dict[str, list[int]]:
    """Positions of the texts that several rows have."""
    alike: dict[str, list[int]] = defaultdict(list)
    for position, text in enumerate(sent.texts):
        alike[text].append(position)
    return {text: positions for text, positions in alike.items() if len(positions) > 1}


def _file_of(
    records: list[tuple[int, int, list[str]]], lines: list[str], header: Sequence[str]
) -> tuple[EchoFile, list[int]]:
    """A result file of these records alone."""
    echoes: list[Echo] = []
    pieces: list[str] = []
    offset = 0
    for start, stop, narrow_cells in records:
        *cells, reason = map(wide, narrow_cells)
        echoes.append(Echo(tuple(cells), reason, offset))
        piece = wide("\n".join(lines[start:stop]) + "\n")
        pieces.append(piece)
        offset += len(piece)
    return EchoFile(tuple(header), tuple(echoes), "".join(pieces)), [start for start, _, _ in records]


def _near(sent: SentTexts, file: EchoFile) -> Iterator[SentRow]:
    """Rows that may have become one of a file's records: those that begin as one of its lines or values does."""
    delimiter = sent.delimiter
    beginnings = {"", *(line.split(delimiter, 1)[0] for line in file.text.split("\n"))}
    beginnings.update(echo.cells[0].split("\n", 1)[0].split(delimiter, 1)[0] for echo in file.records if echo.cells)
    likely = set(map(narrow, beginnings))
    for position, text in enumerate(sent.texts):
        if text.startswith(_NUL) or text.partition(delimiter)[0] in likely:
            yield sent.sent(position)
