"""Where does a record end? Bytes in, offsets out.

Agrees with Python's `csv.reader` on every record that is sound: a line end inside quotes does not end it, a doubled
quote is a quote, LF and CRLF both end it, a blank line is no row. A record that readers could take differently is
not guessed at: it keeps its place and says what is wrong with it (another number of cells, a stray quote, a carriage
return alone, bytes that are not UTF-8, too large).

Fast where it can be: a run of lines without a quote is measured by operations on the whole run; a record with quotes
costs one match of a regular expression; only what neither understands is walked byte by byte, in the way of csv's own
state machine. Memory: one block and one record, and a record that is too large is followed without being kept.

Cutting into chunks is `plan`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from orchestrator.errors import NotText, UnclosedQuote

BLANK = ""
"""The problem of a blank line: none, but it is not a row."""

_QUOTE, _CR, _LF = 0x22, 0x0D, 0x0A


@dataclass(frozen=True, slots=True)
class Scan:
    """Records that tile `data` from its first byte on: record i is data[stops[i - 1]:stops[i]].

    Offsets are relative to `data`, which begins at byte `base` of the source, on line `first_line`. `problems`: by
    index, what keeps a record from being sent (BLANK for blank lines). `extra_lines`: by index, line ends inside it.
    """

    data: bytes
    base: int
    first_line: int
    stops: list[int]
    problems: Mapping[int, str]
    extra_lines: Mapping[int, int]


@dataclass(slots=True)
class _Found:
    stops: list[int] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    extra_lines: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A record that was followed without being kept: bytes [start, stop) of the source, from this line on."""

    start: int
    stop: int
    line: int


class RowScanner:
    """Finds the records of one source, block by block.

    delimiter: one byte. cells: how many the header has. base, line: where the first byte fed stands in the source.
    row_bytes_max: a record longer than this is followed without being kept.
    """

    def __init__(self, delimiter: bytes, cells: int, *, base: int, line: int, row_bytes_max: int) -> None:
        self._delimiter, self._cells, self._max = delimiter, cells, row_bytes_max
        self._base, self._line, self._row = base, line, 1
        self._carry = b""
        self._skipping: _Skip | None = None
        d = re.escape(delimiter)
        quoted, plain = rb'"[^"]*+(?:""[^"]*+)*+"', rb'[^"\r\n' + d + rb"]*+"
        cell = rb"(?:" + quoted + rb"|" + plain + rb")"
        self._record = re.compile(cell + rb"(?:" + d + cell + rb")*+\r?\n")
        self._last_record = re.compile(cell + rb"(?:" + d + cell + rb")*+\r?\Z")
        self._begun = re.compile(rb"(?:" + cell + d + rb')*+(?:"[^"]*+(?:""[^"]*+)*+"?|' + plain + rb")\r?\Z")

    def feed(self, block: bytes) -> list[Scan | TooLarge]:
        """The records that end in this block, in order."""
        return self._advance(block, final=False)

    def finish(self) -> list[Scan | TooLarge]:
        """The last record, when the source does not end with a line end. Raises UnclosedQuote."""
        return self._advance(b"", final=True)

    def _advance(self, block: bytes, *, final: bool) -> list[Scan | TooLarge]:
        results: list[Scan | TooLarge] = []
        if (nul := block.find(b"\0")) >= 0:
            at = self._base + len(self._carry) + nul
            raise NotText(
                f"byte {at:,} is NUL: this is not a text file",
                remedy="Export it as UTF-8 text (CSV, TSV or SSV).",
            )
        if self._skipping is not None:
            used = self._skipping.follow(block)
            if used is None and not final:
                return results
            results.append(self._end_skip())
            block = block[used:] if used is not None else b""
        data = self._carry + block if self._carry else block
        found = _Found()
        end = self._scan(data, found, final)
        if found.stops:
            results.append(Scan(data, self._base, self._line, found.stops, found.problems, found.extra_lines))
            self._line, self._row = self._after(found)
        self._base += end
        self._carry = data[end:]
        if len(self._carry) > self._max and not final:
            kept, self._carry = self._carry, b""
            self._skipping = _Skip(self._base, self._line)
            used = self._skipping.follow(kept)
            if used is not None:  # by its quotes alone it has ended already: it is not sound
                results.append(self._end_skip())
                results += self._advance(kept[used:], final=False)
        return results

    def _end_skip(self) -> TooLarge:
        """The record that was followed has ended, or the source has."""
        assert self._skipping is not None
        skip, self._skipping = self._skipping, None
        if skip.quoted:
            raise self._unclosed(skip.line, self._row, skip.start)
        stop = skip.start + skip.length
        self._base, self._line, self._row = stop, skip.line + max(skip.lines, 1), self._row + 1
        return TooLarge(skip.start, stop, skip.line)

    def _after(self, found: _Found) -> tuple[int, int]:
        """Line and row of what comes after the records found."""
        blank = sum(problem == BLANK for problem in found.problems.values())
        line = self._line + len(found.stops) + sum(found.extra_lines.values())
        return line, self._row + len(found.stops) - blank

    def _scan(self, data: bytes, found: _Found, final: bool) -> int:
        """Finds records from the beginning of data; returns where the unfinished rest begins."""
        at, size = 0, len(data)
        while at < size:
            quote = data.find(b'"', at)
            if quote < 0:
                end = size if final else data.rfind(b"\n", at) + 1
                if end > at:
                    self._plain(data, at, end, found)
                    return end
                return at
            line_start = data.rfind(b"\n", at, quote) + 1
            if line_start > at:
                self._plain(data, at, line_start, found)
                at = line_start
            match = self._record.match(data, at) or (self._last_record.match(data, at) if final else None)
            if match is not None:
                self._quoted(data, at, match.end(), found)
                at = match.end()
            elif not final and self._begun.match(data, at):
                return at
            else:
                end_or_none, problem = self._walk(data, at, final)
                if end_or_none is None:
                    if final:
                        raise self._unclosed(*self._after(found), self._base + at)
                    return at
                self._add(data, at, end_or_none, problem or _encoding_problem(data[at:end_or_none]), found)
                at = end_or_none
        return at

    def _plain(self, data: bytes, start: int, end: int, found: _Found) -> None:
        """A run of whole lines without a quote."""
        run = data[start:end]
        lines = run.split(b"\n")
        unended = lines.pop()
        if unended:
            lines.append(unended)
        delimiter, wanted = self._delimiter, self._cells - 1
        lengths = [len(line) for line in lines]
        first = len(found.stops)
        stops = [start + stop for stop in accumulate(length + 1 for length in lengths)]
        if unended:
            stops[-1] -= 1
        found.stops += stops
        sound = (
            {line.count(delimiter) for line in lines} == {wanted}
            and min(lengths) > 1
            and max(lengths) < self._max
            and (b"\r" not in run or run.count(b"\r") == run.count(b"\r\n") + run.endswith(b"\r"))
            and _encoding_problem(run) is None
        )
        if not sound:
            for index, line in enumerate(lines, first):
                ended = found.stops[index] - (found.stops[index - 1] if index > first else start) > len(line)
                problem = self._line_problem(line, len(line) + ended)
                if problem is not None:
                    found.problems[index] = problem

    def _line_problem(self, line: bytes, size_bytes: int) -> str | None:
        text = line[:-1] if line.endswith(b"\r") else line
        if not text:
            return BLANK
        if b"\r" in text:
            return _LONE_CR
        return self._common_problem(line, line.count(self._delimiter) + 1, size_bytes)

    def _quoted(self, data: bytes, start: int, end: int, found: _Found) -> None:
        """A sound record with quotes. What stands outside of quotes are the even parts between them."""
        record = data[start:end]
        cells = b"".join(record.split(b'"')[::2]).count(self._delimiter) + 1
        self._add(data, start, end, self._common_problem(record, cells, len(record)), found)

    def _add(self, data: bytes, start: int, end: int, problem: str | None, found: _Found) -> None:
        index = len(found.stops)
        found.stops.append(end)
        if problem is not None:
            found.problems[index] = problem
        extra = data.count(b"\n", start, end) - (data[end - 1] == _LF)
        if extra:
            found.extra_lines[index] = extra

    def _common_problem(self, record: bytes, cells: int, size_bytes: int) -> str | None:
        if size_bytes > self._max:
            return too_large(size_bytes, self._max)
        if cells != self._cells:
            return self._count_problem(cells)
        return _encoding_problem(record)

    def _walk(self, data: bytes, at: int, final: bool) -> tuple[int | None, str | None]:
        """csv's state machine over one record that is not sound: where it ends (None: not yet), what is wrong."""
        delimiter, problem = self._delimiter[0], None
        begin, bare, quoted, closed = 0, 1, 2, 3
        state, cells = begin, 1
        for position in range(at, len(data)):
            byte = data[position]
            if state == quoted:
                if byte == _QUOTE:
                    state = closed
            elif byte == _QUOTE:
                if state == bare:
                    problem = problem or _STRAY_QUOTE
                else:  # it opens a value, or doubles the quote before it
                    state = quoted
            elif byte == _LF:
                return position + 1, problem or self._count_problem(cells)
            elif byte == delimiter:
                state, cells = begin, cells + 1
            elif byte == _CR:
                if position + 1 < len(data) and data[position + 1] != _LF:
                    problem = problem or _LONE_CR
                    state = bare
            else:
                if state == closed:
                    problem = problem or _STRAY_QUOTE
                state = bare
        if final and state != quoted:
            return len(data), problem or self._count_problem(cells)
        return None, problem

    def _count_problem(self, cells: int) -> str | None:
        if cells == self._cells:
            return None
        return f"{cells} {'cell' if cells == 1 else 'cells'} where the header has {self._cells}"

    def _unclosed(self, line: int, row: int, start: int) -> UnclosedQuote:
        return UnclosedQuote(
            f"row {row}, which begins on line {line} (byte {start:,}), opens a quote that is never "
            "closed: the rest of the file would be one value",
            remedy='Close the quote, or write a quote that belongs to a value as "" inside quotes.',
        )


_STRAY_QUOTE = "a quote stands inside an unquoted value, or text follows a closing quote"
_LONE_CR = "a carriage return stands alone outside quotes"


def too_large(size_bytes: int, row_bytes_max: int) -> str:
    return f"{size_bytes:,} bytes, and a chunk has room for {row_bytes_max:,}"


@dataclass(slots=True)
class _Skip:
    """Follows a record that is too large to keep, by the parity of its quotes."""

    start: int
    line: int
    length: int = 0
    lines: int = 0
    quoted: bool = False

    def follow(self, block: bytes) -> int | None:
        """How many bytes of the block belong to the record, when it ends in it."""
        at = 0
        while at < len(block):
            if self.quoted:
                quote = block.find(b'"', at)
                if quote < 0:
                    break
                self.quoted, at = False, quote + 1
                continue
            end = block.find(b"\n", at)
            quote = block.find(b'"', at, end if end >= 0 else len(block))
            if quote >= 0:
                self.quoted, at = True, quote + 1
                continue
            if end < 0:
                break
            self.length += end + 1
            self.lines += block.count(b"\n", 0, end + 1)
            return end + 1
        self.length += len(block)
        self.lines += block.count(b"\n")
        return None


def _encoding_problem(data: bytes) -> str | None:
    if data.isascii():
        return None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1:,} of the row (0x{data[error.start]:02X}) is not UTF-8"
    return None
