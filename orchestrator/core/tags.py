"""Which row is it, where every row was sent with its number?

With `tag_rows = "column"` a source is sent with one column more, its first: the number of each row. Marketo ignores a
column that it does not know and echoes it (users report so; no page of Adobe's says it), so a record of a result file
names its row, whatever has become of its other values. The column stands in the load's spool file: what is planned,
hashed, sent, halved and sent again are ranges of a file as ever. People never get to see it.

A number that begins a line is believed only where no value of the chunk can have put it there. Where one can, the
column is one like all others and `locate` decides; but a row whose number stands in a value is never sure then.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.core.locate import Echo, EchoFile, Place, SentRow, locate, rest_of_record
from orchestrator.core.model import ROW_TAG, Format
from orchestrator.core.rows import BLANK, RowScanner, TooLarge

_KEPT_BYTES_MAX = 1 << 16
"""Of a record that goes on in the next block; its bytes are written as they come, so nothing is lost."""
_INSIDE = re.compile(r'[\r\n]["\s]*(\d{1,12})(?=["\r\n,;\t]|\Z)')


class Tagger:
    """Puts the number of each row before it, block by block. Blank lines are no rows and stay as they are.

    cells: how many the header has. Rows are numbered as `plan` numbers them. Raises NotText and UnclosedQuote.
    """

    def __init__(self, format: Format, cells: int, *, base: int, line: int) -> None:
        self._delimiter = format.delimiter
        self._scanner = RowScanner(
            format.delimiter.encode(), cells, base=base, line=line, row_bytes_max=_KEPT_BYTES_MAX
        )
        self._at, self._row = base, 1
        self._held = b""
        """The beginning of a line that may still be blank."""
        self._begun = False
        """The row that is not at its end has its number already."""

    def feed(self, block: bytes) -> bytes:
        """The rows of this block with their numbers."""
        return self._tagged(self._held + block, self._ends(block))

    def finish(self) -> bytes:
        """What is left, when the source does not end with a line end."""
        return self._tagged(self._held, self._ends(None))

    def _ends(self, block: bytes | None) -> Iterator[tuple[int, bool]]:
        """Where records end, and whether they are blank lines."""
        for found in self._scanner.finish() if block is None else self._scanner.feed(block):
            if isinstance(found, TooLarge):
                yield found.stop, False
            else:
                for index, stop in enumerate(found.stops):
                    yield found.base + stop, found.problems.get(index) == BLANK

    def _tagged(self, data: bytes, ends: Iterator[tuple[int, bool]]) -> bytes:
        pieces: list[bytes] = []
        at = 0
        for end, blank in ends:
            stop = end - self._at
            if not blank and not self._begun:
                pieces.append(self._number())
            pieces.append(data[at:stop])
            at, self._begun = stop, False
        rest = data[at:]
        if len(rest) > len(b"\r\n") and not self._begun:  # longer than a blank line
            pieces.append(self._number())
            self._begun = True
        self._held = b"" if self._begun else rest
        self._at += len(data) - len(self._held)
        return b"".join([*pieces, rest]) if self._begun else b"".join(pieces)

    def _number(self) -> bytes:
        number = f"{self._row}{self._delimiter}".encode()
        self._row += 1
        return number


def is_tagged(header: Sequence[str]) -> bool:
    """Were rows sent with their numbers?"""
    return header[:1] == (ROW_TAG,)


def untagged(row: SentRow) -> SentRow:
    """A row as it stood in the source."""
    return replace(row, cells=row.cells[1:], start=row.start + len(row.cells[0]) + 1)


def place_tagged(
    file: EchoFile, header: Sequence[str], sent: Sequence[SentRow], key: str | None, format: Format
) -> list[tuple[Echo, Place]]:
    """Each record of a result file with its place: by the number that it begins with, else by its content."""
    found = _by_tag(file, header, sent, format)
    if found is None:
        forging: dict[int, list[SentRow]] = defaultdict(list)
        if file.columns[:1] == (ROW_TAG,):
            for row in sent:
                for number in _inside(row):
                    forging[number].append(row)
        places = locate(file, header, sent, key, format)
        found = [(echo, _doubted(place, forging)) for echo, place in zip(file.records, places, strict=True)]
    return found


def _doubted(place: Place, forging: Mapping[int, Sequence[SentRow]]) -> Place:
    """What looks like a row's record may be a piece of another one's value that has its number in it."""
    if place.sent is None or place.sent.row not in forging:
        return place
    may_be = {row.row: row for row in (place.sent, *forging[place.sent.row])}
    return replace(place, sent=None, candidates=tuple(may_be[number] for number in sorted(may_be)))


def _by_tag(
    file: EchoFile, header: Sequence[str], sent: Sequence[SentRow], format: Format
) -> list[tuple[Echo, Place]] | None:
    """The records of a result file by the numbers that they begin with; None where these cannot be trusted.

    A record goes on to the next number: nothing else of it needs to be read to know its row.
    """
    if file.columns[:1] != (ROW_TAG,):
        return None
    rows = {row.row: row for row in sent}
    begun = re.compile(rf'^(?:"(\d{{1,12}})"|(\d{{1,12}}))(?={re.escape(format.delimiter)})', re.M)
    first = file.records[0].at if file.records else len(file.text)
    starts = [
        (match.start(), number)
        for match in begun.finditer(file.text, first)
        if (number := int(match[1] or match[2])) in rows
    ]
    numbers = {number for _, number in starts}
    whole = not starts or starts[0][0] == first
    if not whole or len(numbers) < len(starts) or any(numbers & _inside(row) for row in rows.values()):
        return None
    stops = [at for at, _ in starts[1:]] + [len(file.text)]
    found: list[tuple[Echo, Place]] = []
    for (at, number), stop in zip(starts, stops, strict=True):
        record = file.text[at:stop].rstrip("\n")
        text = format.delimiter.join(rows[number].cells) if file.columns == tuple(header) else None
        reason = _reason(record, len(file.columns), text, format.delimiter)
        found.append((Echo((), reason, at), Place(rows[number])))
    return found


def _inside(row: SentRow) -> set[int]:
    """Numbers that begin a line inside of a value, and may begin one of the file where it is not quoted again."""
    return {int(match[1]) for cell in row.cells[1:] for match in _INSIDE.finditer(cell)}


def _reason(record: str, columns: int, text: str | None, delimiter: str) -> str:
    """What stands behind the row's values. text: these without quotes, where the file has the columns of the header."""
    if text is not None and record.startswith(before := text.replace("\r\n", "\n") + delimiter):
        return rest_of_record(record, len(before), delimiter)
    try:
        read = list(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:  # a quote that is never closed, or a carriage return alone
        read = []
    if len(read) == 1 and len(read[0]) == columns + 1:
        return read[0][-1]
    quoted = re.search(rf'{re.escape(delimiter)}"([^"]*(?:""[^"]*)*)"\Z', record)
    return quoted[1].replace('""', '"') if quoted else record.rpartition(delimiter)[2]
