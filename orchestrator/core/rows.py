"""Where do records end? Bytes in, offsets out.

Agrees with Python's `csv.reader` on every record that is sound: a line end inside quotes does not end it, a doubled
quote is a quote, LF and CRLF both end it, a blank line is no row. A record that readers could take differently is
not guessed at: it keeps its place and says what is wrong with it (another number of cells, a stray quote, a carriage
return alone, bytes that are not UTF-8, too large).

Two ways lead there and give the same answer. `parity` finds the records of a whole block at once, and says where it
cannot be trusted; `record` walks a single record exactly, and through as many blocks as it takes. What is found does
not depend on how the source is cut into blocks. Memory: one block and one record, and a record that is too large is
followed without being kept.

Where it is asked for, each sound record comes with the hash of its key (`keys`). Cutting into chunks is `plan`'s
business.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.core.keys import NO_KEY, ONE_HASH, hash_of, normal
from orchestrator.core.record import Record, telling_bytes
from orchestrator.errors import NotText, UnclosedQuote

if TYPE_CHECKING:
    from orchestrator.core.parity import ParityScanner, Sound

BLANK: Final = ""
"""The problem of a blank line: none, but it is not a row."""

WORTH_BYTES: Final = 1 << 14
"""Less is walked: a look by parity costs 0.2 ms however little there is to see (walking: 0.6 ms for as much), and
numpy's import 100 ms, which a small source need not pay."""

WINDOW_BYTES: Final = 1 << 21
"""No more is looked at in one go, so that the bitmaps do not grow with the blocks."""

WINDOW_BYTES_LEAST: Final = 1 << 10
"""From there five sound records, walked, lead back to a window that is worth a look."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Records that tile `data` from `start` on: each ends where the next begins, at its own of the `stops`.

    Offsets are relative to `data`, whose first byte is byte `base` of the source; `start` is on line `first_line`.
    `problems`: by index, what keeps a record from being sent (BLANK for blank lines). `keys`: the hashes of
    each record's key, one by each salt, where keys are asked for; of no use for those with a problem.
    """

    data: bytes
    base: int
    start: int
    first_line: int
    stops: array[int]
    problems: dict[int, str]
    keys: array[int]

    def begin(self, index: int) -> int:
        """Where record `index` begins."""
        return self.stops[index - 1] if index else self.start


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A record that was followed without being kept: bytes [start, stop) of the source, from this line on."""

    start: int
    stop: int
    line: int


@dataclass(slots=True)
class _Unfinished:
    """A record that goes on in the next block; `pieces` are its bytes, until it is too large to be sent."""

    record: Record
    start: int
    pieces: list[bytes]


class RowScanner:
    """Finds the records of one source, block by block.

    delimiter: one byte. cells: how many the header has. base, line: where the first byte fed stands in the source.
    row_bytes_max: a record longer than this is followed without being kept. key_column: from 0, the column of the key;
    None: keys are not asked for. salts: of their hashes. by_parity: False walks everything.
    """

    def __init__(
        self,
        delimiter: bytes,
        cells: int,
        *,
        base: int,
        line: int,
        row_bytes_max: int,
        key_column: int | None = None,
        salts: Sequence[int] = ONE_HASH,
        by_parity: bool = True,
    ) -> None:
        self._delimiter, self._cells, self._max = delimiter, cells, row_bytes_max
        self._key_column, self._salts = key_column, salts
        self._base, self._line, self._row = base, line, 1
        self._telling = telling_bytes(delimiter)
        self._parity: ParityScanner | None = None
        self._window_bytes = WINDOW_BYTES if by_parity else 0
        self._unfinished: _Unfinished | None = None

    def feed(self, block: bytes) -> list[Scan | TooLarge]:
        """The records that end in this block, in order. Raises NotText."""
        if (nul := block.find(b"\0")) >= 0:
            raise NotText(
                f"byte {self._base + nul:,} is NUL: this is not a text file",
                remedy="Export it as UTF-8 text (CSV, TSV or SSV).",
            )
        results: list[Scan | TooLarge] = []
        start = 0
        if self._unfinished is not None:
            stop = self._unfinished.record.follow(block, 0)
            start = len(block) if stop is None else stop
            self._keep(self._unfinished, block[:start])
            if stop is not None:
                results.append(self._end(self._unfinished))
        if start < len(block):
            scan = Scan(block, self._base, start, self._line, array("q"), {}, array("Q"))
            self._find(scan)
            if scan.stops:
                results.append(scan)
        self._base += len(block)
        return results

    def finish(self) -> list[Scan | TooLarge]:
        """The last record, when the source does not end with a line end. Raises UnclosedQuote."""
        last = self._unfinished
        if last is None:
            return []
        if last.record.in_quotes:
            raise UnclosedQuote(
                f"row {self._row}, which begins on line {self._line} (byte {last.start:,}), opens a quote that is "
                f"never closed (byte {last.start + last.record.opened:,}): the rest of the file would be one value",
                remedy='Close the quote, or write a quote that belongs to a value as "" inside quotes.',
            )
        return [self._end(last)]

    # --- within one block -------------------------------------------------------------------------------

    def _find(self, scan: Scan) -> None:
        """Fill in all that ends in the scan's data; what does not is unfinished.

        The window that parity looks at doubles with each look and each record that was sound, and is quartered where
        parity could not be trusted: a source with a stray quote in every line is walked, one with a few is not.
        """
        data, stops, at, size = scan.data, scan.stops, scan.start, len(scan.data)
        while at < size:
            window_bytes = min(size - at, self._window_bytes)
            if window_bytes >= WORTH_BYTES:
                sound = self._look(data, at, at + window_bytes)
                self._take(sound, scan, at)
                at = stops[-1] if sound.stops else at
                if sound.doubtful:
                    self._window_bytes = max(self._window_bytes // 4, WINDOW_BYTES_LEAST)
                else:
                    self._window_bytes = min(self._window_bytes * 2, WINDOW_BYTES)
                    if sound.stops:
                        continue
            record = Record(self._telling)
            stop = record.follow(data, at)
            if stop is None:
                self._unfinished = _Unfinished(record, self._base + at, [])
                self._keep(self._unfinished, data[at:])
                return
            if (problem := self._problem(data[at:stop], record.cells, record)) is not None:
                scan.problems[len(stops)] = problem
            self._add_key(scan.keys, data[at:stop], problem)
            stops.append(stop)
            self._count(1, int(problem == BLANK), record.lines)
            if record.problem is None:
                self._window_bytes = min(self._window_bytes * 2, WINDOW_BYTES)
            at = stop

    def _look(self, data: bytes, start: int, stop: int) -> Sound:
        if self._parity is None:
            from orchestrator.core.parity import ParityScanner  # numpy: not for who asks for --help

            self._parity = ParityScanner(
                self._delimiter, self._cells, self._max, WINDOW_BYTES, self._key_column, self._salts
            )
        return self._parity.find(data, start, stop)

    def _take(self, sound: Sound, scan: Scan, start: int) -> None:
        """Records found by parity: the odd ones are looked at one by one, and all of them if they are not UTF-8."""
        data, stops, problems, blank = scan.data, scan.stops, scan.problems, 0
        first = len(stops)
        for index in sound.odd if sound.utf8 else range(len(sound.stops)):
            record = data[sound.stops[index - 1] if index else start : sound.stops[index]]
            problem = self._problem(record, sound.odd.get(index, self._cells), None)
            if problem is not None:
                problems[first + index] = problem
                blank += problem == BLANK
        stops.extend(sound.stops)
        scan.keys.extend(sound.keys)
        self._count(len(sound.stops), blank, sound.lines)

    def _add_key(self, keys: array[int], record: bytes, problem: str | None) -> None:
        """The hashes of a walked record's key."""
        if self._key_column is None:
            return
        if problem is None:
            text = io.StringIO(record.decode(), newline="")
            cells = next(csv.reader(text, delimiter=self._delimiter.decode()))
            key = normal(cells[self._key_column])
            keys.extend(hash_of(key, salt) for salt in self._salts)
        else:
            keys.extend(NO_KEY for _ in self._salts)

    def _count(self, records: int, blank: int, lines: int) -> None:
        self._row += records - blank
        self._line += lines

    # --- over the ends of blocks ------------------------------------------------------------------------

    def _keep(self, unfinished: _Unfinished, piece: bytes) -> None:
        if unfinished.record.size_bytes > self._max:
            unfinished.pieces.clear()
        else:
            unfinished.pieces.append(piece)

    def _end(self, ended: _Unfinished) -> Scan | TooLarge:
        """The record that went over the end of a block, now that it has ended."""
        record, line, self._unfinished = ended.record, self._line, None
        if record.size_bytes > self._max:
            self._count(1, 0, record.lines)
            return TooLarge(ended.start, ended.start + record.size_bytes, line)
        data = b"".join(ended.pieces)
        assert len(data) == record.size_bytes, "a record that is not too large was kept"
        problem = self._problem(data, record.cells, record)
        self._count(1, int(problem == BLANK), record.lines)
        scan = Scan(data, ended.start, 0, line, array("q", [len(data)]), {}, array("Q"))
        if problem is not None:
            scan.problems[0] = problem
        self._add_key(scan.keys, data, problem)
        return scan

    # --- what is wrong with a record --------------------------------------------------------------------

    def _problem(self, record: bytes, cells: int, walked: Record | None) -> str | None:
        """The first that applies. walked: the record, if it was walked and not found by parity."""
        if record in _BLANK_LINES:
            return BLANK
        if len(record) > self._max:
            return too_large(len(record), self._max)
        if walked is not None and walked.problem is not None:
            return f"{walked.problem} (byte {walked.problem_at + 1:,} of the row)"
        if cells != self._cells:
            return f"{cells} {'cell' if cells == 1 else 'cells'} where the header has {self._cells}"
        return _encoding_problem(record)


NOT_UTF8: Final = "is not UTF-8"
_BLANK_LINES: Final = (b"\n", b"\r\n", b"\r")
"""The last of them only at the end of the source: elsewhere it would not end a record."""


def too_large(size_bytes: int, row_bytes_max: int) -> str:
    return f"{size_bytes:,} bytes, and a chunk has room for {row_bytes_max:,}"


def _encoding_problem(record: bytes) -> str | None:
    if record.isascii():
        return None
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1:,} of the row (0x{record[error.start]:02X}) {NOT_UTF8}"
    return None
