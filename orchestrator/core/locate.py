"""Which row of the source is a failed or warned one?

Marketo echoes the submitted columns and adds a reason; it gives no row number and promises no order. What is seen in
real use: the empty lookup column is left out of the file, values with commas or line ends are not quoted again, and
equal rows appear once each. So echoes are read by header name and never trusted to be well-formed, and each is looked
for among the rows that were sent, exact values first. Never a wrong place: an echo that could be one of several rows
gets none, but its candidates are named.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.core.model import Format, Span

REASON_COLUMNS = ("Import Failure Reason", "Import Warning Reason")


@dataclass(frozen=True, slots=True)
class Echo:
    """One record of a result file. `cells` are as the file has them, the reason excluded."""

    cells: tuple[str, ...]
    reason: str
    well_formed: bool
    """It has as many cells as the file's header."""


@dataclass(frozen=True, slots=True)
class EchoFile:
    """A result file as it was read: its columns (the reason's excluded) and its records."""

    columns: tuple[str, ...]
    records: tuple[Echo, ...]


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
    """Where an echo belongs: the row, or the rows it may be one of when that cannot be told."""

    sent: SentRow | None
    candidates: tuple[SentRow, ...] = ()


def read_echoes(content: bytes, format: Format) -> EchoFile:
    """A failure or warning file, however malformed. Blank lines are no records."""
    text = content.decode("utf-8-sig", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=format.delimiter)
    columns: tuple[str, ...] | None = None
    records: list[Echo] = []
    for record in _tolerant(reader):
        if not record:
            continue
        if columns is None:
            columns = tuple(record[:-1] if record[-1] in REASON_COLUMNS else record)
            continue
        records.append(Echo(tuple(record[:-1]), record[-1], len(record) == len(columns) + 1))
    return EchoFile(columns or (), tuple(records))


def _tolerant(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """What csv can make of it; a value longer than csv allows is passed over."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            continue


def read_sent(rows: bytes, spans: Iterable[Span], format: Format) -> list[SentRow]:
    """The rows of a chunk. `rows` are the bytes of its spans back to back."""
    sent: list[SentRow] = []
    offset = 0
    for span in spans:
        length = span.stop - span.start
        content = rows[offset : offset + length]
        line, start = span.first_line, offset
        source = _Counted(_lines(content))
        reader = csv.reader(source, delimiter=format.delimiter)
        for index, cells in enumerate(reader):
            stop = offset + source.bytes_read
            sent.append(SentRow(span.first_row + index, line, tuple(cells), start, stop))
            start, line = stop, span.first_line + source.lines_read
        offset += length
    return sent


def _lines(content: bytes) -> list[bytes]:
    """Lines by LF alone: a carriage return inside quotes does not end one."""
    pieces = content.split(b"\n")
    lines = [piece + b"\n" for piece in pieces[:-1]]
    return [*lines, pieces[-1]] if pieces[-1] else lines


class _Counted:
    """Hands lines to csv and knows how far it has read."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines, self.bytes_read, self.lines_read = iter(lines), 0, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.bytes_read += len(line)
        self.lines_read += 1
        return line.decode("utf-8", errors="replace")


def locate(
    file: EchoFile, header: Sequence[str], sent: Sequence[SentRow], key: str | None, format: Format
) -> list[Place]:
    """The place of every record of a result file, in the file's order.

    Well-formed records are matched on all echoed columns. A record with another number of cells was not quoted again:
    it is matched on its joined text. What is then left is matched on the key alone, where one row has it.
    """
    columns = [(at, header.index(name)) for at, name in enumerate(file.columns) if name in header]
    among = list(sent)
    if key is not None and key in header and key not in file.columns:  # left out because it is empty
        at_key = header.index(key)
        among = [row for row in sent if not row.cells[at_key].strip()]
    echoes: dict[object, list[int]] = defaultdict(list)
    for index, echo in enumerate(file.records):
        if echo.well_formed and columns:
            echoes[tuple(_plain(echo.cells[at]) for at, _ in columns)].append(index)
        elif not echo.well_formed:
            echoes[_plain(format.delimiter.join(echo.cells))].append(index)
    rows: dict[object, list[SentRow]] = defaultdict(list)
    ragged = any(isinstance(value, str) for value in echoes)
    for row in among:
        cells = tuple(_plain(row.cells[column]) for _, column in columns)
        if cells in echoes:
            rows[cells].append(row)
        if ragged and (text := format.delimiter.join(cells)) in echoes:
            rows[text].append(row)
    places: dict[int, Place] = {}
    for value, indexes in echoes.items():
        places.update(_pair(indexes, rows.get(value, []), file.records))
    if key is not None and key in file.columns and key in header:
        left = [index for index in range(len(file.records)) if index not in places]
        taken = {place.sent.row for place in places.values() if place.sent is not None}
        places.update(_by_key(left, file, header.index(key), [row for row in sent if row.row not in taken], key))
    return [places.get(index, Place(None)) for index in range(len(file.records))]


def _pair(indexes: list[int], rows: list[SentRow], records: Sequence[Echo]) -> dict[int, Place]:
    """Echoes and rows that look alike. Certain when all of the rows came back and no choice between them matters."""
    if not rows:
        return {}
    reasons = {records[index].reason for index in indexes}
    alike = len({row.cells for row in rows}) == 1
    if len(indexes) == len(rows) and (alike or len(reasons) == 1):
        return {index: Place(row) for index, row in zip(indexes, rows, strict=True)}
    return {index: Place(None, tuple(rows)) for index in indexes}


def _by_key(indexes: list[int], file: EchoFile, column: int, sent: list[SentRow], key: str) -> dict[int, Place]:
    """By the key alone, where one row has it. In a ragged record only a first column is sure to stand in its place."""
    at = file.columns.index(key)
    wanted: dict[str, list[int]] = defaultdict(list)
    for index in indexes:
        echo = file.records[index]
        if (echo.well_formed or at == 0) and at < len(echo.cells) and echo.cells[at].strip():
            wanted[echo.cells[at]].append(index)
    rows: dict[str, list[SentRow]] = defaultdict(list)
    for row in sent:
        if row.cells[column] in wanted:
            rows[row.cells[column]].append(row)
    return {
        index: Place(rows[value][0])
        for value, found in wanted.items()
        if len(found) == 1 and len(rows[value]) == 1
        for index in found
    }


def _plain(value: str) -> str:
    """A value as it is compared: a line end in it may come back in either form."""
    return value.replace("\r\n", "\n")
