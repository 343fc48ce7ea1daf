"""Which rows go into which chunk?

A chunk is byte ranges of the source: the header is sent before them, and nothing is written. Rules:

- a chunk is at most `budget` bytes, its header included; a row is never cut;
- rows that cannot be sent as they stand, and blank lines, lie between the spans of a chunk;
- what needs more than one chunk is cut into an even number of about equal ones: Marketo processes two jobs at a
  time, so both processors then end together;
- the same source and budget give the same plan, however the source is fed.

Where records end is `rows`' business.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches

from orchestrator.core.model import (
    Chunk,
    ChunkNumber,
    Fingerprint,
    Format,
    Header,
    LoadId,
    Plan,
    RejectedRow,
    Span,
    Target,
)
from orchestrator.core.rows import BLANK, RowScanner, Scan, TooLarge, too_large
from orchestrator.errors import (
    DuplicateColumn,
    EmptySource,
    HeaderOnly,
    HeaderTooLarge,
    MissingLookupColumn,
    NotText,
    UnclosedQuote,
    UnknownEncoding,
)

BOM = b"\xef\xbb\xbf"
HEADER_BYTES_MAX = 1_000_000
"""No header is this long: Marketo's names have at most 255 characters, and it has a few thousand fields."""

UNEVEN_PART = 200
"""Rows do not end where a chunk is full: half a percent of its room is left for that when chunks are counted."""

_SIGNATURES: dict[bytes, str] = {
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
}
_SUFFIXES = {".csv": Format.CSV, ".tsv": Format.TSV, ".tab": Format.TSV, ".ssv": Format.SSV}


@dataclass(slots=True)
class _Draft:
    """The chunk being filled. `open` is the span whose rows still follow each other."""

    first_byte: int
    size_bytes: int
    target_bytes: int
    digest: hashlib._Hash
    rows: int = 0
    spans: list[Span] = field(default_factory=list)


class Planner:
    """Makes the plan of one source from its bytes, fed in blocks of any size.

    name: for its suffix and for messages. lookup_field: a column that must be there, or None. keep_rejected: how many
    rejected rows the plan names at most. Raises a SourceUnusable that names file, place, value and remedy.
    """

    def __init__(
        self,
        *,
        format: Format | None,
        name: str,
        source_bytes: int,
        budget: int,
        lookup_field: str | None,
        keep_rejected: int,
    ) -> None:
        self._format, self._name, self._source_bytes = format, name, source_bytes
        self._budget, self._lookup_field, self._keep_rejected = budget, lookup_field, keep_rejected
        self._fingerprint = hashlib.sha256()
        self._fed = 0
        self._head = b""
        self._header: Header | None = None
        self._scanner: RowScanner | None = None
        self._chunks: list[Chunk] = []
        self._chunks_wanted = 1
        self._draft: _Draft | None = None
        self._rejected: list[RejectedRow] = []
        self._rows = self._rejected_rows = self._blank_lines = 0

    def feed(self, block: bytes) -> None:
        """The next bytes of the source."""
        self._fingerprint.update(block)
        self._fed += len(block)
        if self._scanner is None:
            self._head += block
            self._find_header(final=False)
        else:
            self._take(self._scanner.feed(block))

    def finish(self) -> Plan:
        """The whole plan. Call it once, after the last block."""
        if self._scanner is None:
            self._find_header(final=True)
        assert self._scanner is not None
        assert self._header is not None
        assert self._format is not None
        self._take(self._scanner.finish())
        self._close_chunk()
        if self._rows == 0:
            raise HeaderOnly(
                f"{self._name}: there is a header and no row",
                remedy="Nothing was sent; check how it was exported.",
            )
        rows_in_chunks = sum(chunk.rows for chunk in self._chunks)
        assert rows_in_chunks + self._rejected_rows == self._rows, "every row is in exactly one chunk or rejected"
        return Plan(
            format=self._format,
            fingerprint=Fingerprint(self._fed, self._fingerprint.hexdigest()),
            header=self._header,
            budget=self._budget,
            rows=self._rows,
            chunks=tuple(self._chunks),
            rejected=tuple(self._rejected),
            rejected_rows=self._rejected_rows,
            blank_lines=self._blank_lines,
        )

    # --- the header -------------------------------------------------------------------------------------

    def _find_header(self, *, final: bool) -> None:
        if len(self._head) < 8 and not final:
            return
        self._check_text()
        start = len(BOM) if self._head.startswith(BOM) else 0
        while self._head[start : start + 1] in (b"\r", b"\n"):
            start += 1
        stop = _record_end(self._head, start)
        if stop is None and not final:
            if len(self._head) > HEADER_BYTES_MAX + 2**20:
                raise self._no_header_end(start)
            return
        if start == len(self._head):
            raise EmptySource(f"{self._name}: the file is empty", remedy="Nothing was sent; check how it was exported.")
        if stop is None:
            if self._head.count(b'"', start) % 2:
                raise self._no_header_end(start)
            stop = len(self._head)
        self._set_header(start, stop)

    def _no_header_end(self, start: int) -> UnclosedQuote | HeaderTooLarge:
        line = 1 + self._head.count(b"\n", 0, start)
        if self._head.count(b'"', start) % 2:
            return UnclosedQuote(
                f"{self._name}: the header on line {line} opens a quote that is never closed",
                remedy="Close the quote in the header.",
            )
        return HeaderTooLarge(
            f"{self._name}: the first line is longer than {HEADER_BYTES_MAX:,} bytes",
            remedy="The first line must name the columns; check the line ends of the file.",
        )

    def _check_text(self) -> None:
        head = self._head
        for signature, what in _SIGNATURES.items():
            if head.startswith(signature):
                raise NotText(
                    f"{self._name}: this is {what}, not text",
                    remedy="Unpack it, or export it as UTF-8 text (CSV, TSV or SSV).",
                )
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnknownEncoding(
                f"{self._name}: this is UTF-16 text; only UTF-8 is read", remedy="Export or convert it as UTF-8."
            )
        if b"\0" in head:
            raise NotText(
                f"{self._name}: byte {head.index(0):,} is NUL: this is not a text file, or not UTF-8",
                remedy="Export it as UTF-8 text (CSV, TSV or SSV).",
            )

    def _set_header(self, start: int, stop: int) -> None:
        raw = self._head[start:stop]
        line = 1 + self._head.count(b"\n", 0, start)
        try:
            text = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UnknownEncoding(
                f"{self._name}: byte {start + error.start:,} of the header (line {line}) is not UTF-8",
                remedy="Export or convert the file as UTF-8.",
            ) from error
        if "\r" in text.replace('"', ""):
            raise UnknownEncoding(
                f"{self._name}: lines end in a carriage return alone (old Mac text)",
                remedy="Convert the line ends to LF or CRLF.",
            )
        self._format = self._format or format_of(self._name, text)
        fields = tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=self._format.delimiter)))
        self._check_columns(fields, line)
        room = self._budget - len(raw)
        if room <= 0:
            raise HeaderTooLarge(
                f"{self._name}: the header has {len(raw):,} bytes and leaves no room within chunks of {self._budget:,}",
                remedy="Raise limits.chunk_bytes, or leave columns out.",
            )
        self._header = Header(start, stop, fields)
        self._header_digest = hashlib.sha256(raw)
        data_bytes = self._source_bytes - stop
        if data_bytes > room:
            chunks = -(-data_bytes // (room - room // UNEVEN_PART))
            self._chunks_wanted = chunks + chunks % 2
        self._scanner = RowScanner(
            self._format.delimiter.encode(),
            len(fields),
            base=stop,
            line=line + raw.count(b"\n"),
            row_bytes_max=room,
        )
        rest, self._head = self._head[stop:], b""
        self._take(self._scanner.feed(rest))

    def _check_columns(self, fields: tuple[str, ...], line: int) -> None:
        for position, name in enumerate(fields, 1):
            if not name.strip():
                raise DuplicateColumn(
                    f"{self._name}: column {position} of the header (line {line}) has no name",
                    remedy="Name it, or leave the column out.",
                )
            if name in fields[: position - 1]:
                first = fields.index(name) + 1
                raise DuplicateColumn(
                    f"{self._name}: columns {first} and {position} of the header (line {line}) are both named {name!r}",
                    remedy="Rename or leave out one of them: Marketo would keep one value of the two.",
                )
        wanted = self._lookup_field
        if wanted is not None and wanted not in fields:
            raise MissingLookupColumn(
                f"{self._name}: the header (line {line}) has no column {wanted!r}; without it every row would fail",
                remedy=_lookup_remedy(wanted, fields, self._format or Format.CSV),
            )

    # --- the rows ---------------------------------------------------------------------------------------

    def _take(self, results: list[Scan | TooLarge]) -> None:
        for result in results:
            if isinstance(result, TooLarge):
                self._rows += 1
                assert self._header is not None
                room = self._budget - (self._header.stop - self._header.start)
                reason = too_large(result.stop - result.start, room)
                self._reject(RejectedRow(self._rows, result.line, result.start, result.stop, reason))
            else:
                self._take_scan(result)

    def _take_scan(self, scan: Scan) -> None:
        """Runs of sound records go to chunks as a whole; what is not sound lies between them."""
        first = 0
        line = scan.first_line
        extra = sorted(scan.extra_lines.items(), reverse=True)
        for index in (*sorted(scan.problems), len(scan.stops)):
            if index > first:
                self._fill(scan, first, index, line)
            line += index - first
            while extra and extra[-1][0] < index:
                line += extra.pop()[1]
            if index < len(scan.stops):
                start = scan.stops[index - 1] if index else 0
                problem = scan.problems[index]
                if problem == BLANK:
                    self._blank_lines += 1
                else:
                    self._rows += 1
                    base = scan.base
                    self._reject(RejectedRow(self._rows, line, base + start, base + scan.stops[index], problem))
                line += 1
                if extra and extra[-1][0] == index:
                    line += extra.pop()[1]
            first = index + 1

    def _reject(self, rejected: RejectedRow) -> None:
        self._rejected_rows += 1
        if len(self._rejected) < self._keep_rejected:
            self._rejected.append(rejected)

    def _fill(self, scan: Scan, first: int, end: int, line: int) -> None:
        """Put sound records first..end-1 of a scan into chunks; the cost is per chunk, not per row."""
        stops = scan.stops
        while first < end:
            start = stops[first - 1] if first else 0
            draft = self._draft or self._open_chunk(scan.base + start)
            fits = bisect_right(stops, start + self._budget - draft.size_bytes, first, end)
            enough = bisect_left(stops, start + draft.target_bytes - draft.size_bytes, first, end) + 1
            cut = min(fits, enough, end)
            if cut == first:  # not even one more row fits
                assert draft.rows, "a row that no chunk has room for was rejected before"
                self._close_chunk()
                continue
            stop = stops[cut - 1]
            self._append(draft, scan, start, stop, cut - first, line)
            line += cut - first + sum(scan.extra_lines.get(i, 0) for i in range(first, cut) if scan.extra_lines)
            first = cut
            if draft.size_bytes >= draft.target_bytes:
                self._close_chunk()

    def _append(self, draft: _Draft, scan: Scan, start: int, stop: int, rows: int, line: int) -> None:
        draft.digest.update(memoryview(scan.data)[start:stop])
        span = Span(scan.base + start, scan.base + stop, rows, self._rows + 1, line)
        last = draft.spans[-1] if draft.spans else None
        if last is not None and last.stop == span.start:
            draft.spans[-1] = replace(last, stop=span.stop, rows=last.rows + rows)
        else:
            draft.spans.append(span)
        draft.size_bytes += stop - start
        draft.rows += rows
        self._rows += rows

    def _open_chunk(self, at: int) -> _Draft:
        assert self._header is not None
        header_bytes = self._header.stop - self._header.start
        left = max(1, self._chunks_wanted - len(self._chunks))
        even = header_bytes - (at - self._source_bytes) // left  # rounded up
        self._draft = _Draft(at, header_bytes, min(even, self._budget), self._header_digest.copy())
        return self._draft

    def _close_chunk(self) -> None:
        draft, self._draft = self._draft, None
        if draft is None or not draft.rows:
            return
        assert draft.size_bytes <= self._budget, "a chunk is never larger than its budget"
        self._chunks.append(
            Chunk(
                number=ChunkNumber(len(self._chunks) + 1),
                spans=tuple(draft.spans),
                rows=draft.rows,
                size_bytes=draft.size_bytes,
                sha256=draft.digest.hexdigest(),
            )
        )


def halve(chunk: Chunk, header: bytes, rows: bytes, format: Format) -> tuple[Chunk, Chunk]:
    """The two halves of a chunk of at least two rows, cut at the record nearest to its middle.

    header, rows: the bytes that were sent. The halves keep the chunk's number until the ledger gives them theirs.
    """
    assert chunk.rows > 1, "a row is never cut"
    cells = len(next(csv.reader(io.StringIO(header.decode().rstrip("\r\n"), newline=""), delimiter=format.delimiter)))
    scanner = RowScanner(format.delimiter.encode(), cells, base=0, line=1, row_bytes_max=len(rows) + 1)
    stops = [
        stop + found.base
        for found in (*scanner.feed(rows), *scanner.finish())
        if isinstance(found, Scan)
        for stop in found.stops
    ]
    assert len(stops) == chunk.rows, "the rows that were planned are the rows that are read"
    middle = bisect_left(stops, len(rows) // 2, 0, len(stops) - 2) + 1
    halves: list[Chunk] = []
    for first, end in ((0, middle), (middle, chunk.rows)):
        start, stop = stops[first - 1] if first else 0, stops[end - 1]
        halves.append(
            replace(
                chunk,
                spans=_cut_spans(chunk.spans, rows, stops, first, end),
                rows=end - first,
                size_bytes=len(header) + stop - start,
                sha256=hashlib.sha256(header + rows[start:stop]).hexdigest(),
            )
        )
    return halves[0], halves[1]


def _cut_spans(spans: tuple[Span, ...], rows: bytes, stops: list[int], first: int, end: int) -> tuple[Span, ...]:
    """The part of the spans that holds records first..end-1; `rows` are the spans' bytes back to back."""
    cut: list[Span] = []
    before = offset = 0
    for span in spans:
        low, high = max(first, before), min(end, before + span.rows)
        if low < high:
            start = stops[low - 1] if low else 0
            lines = rows.count(b"\n", offset, start)
            cut.append(
                Span(
                    start=span.start + start - offset,
                    stop=span.start + stops[high - 1] - offset,
                    rows=high - low,
                    first_row=span.first_row + low - before,
                    first_line=span.first_line + lines,
                )
            )
        before += span.rows
        offset += span.stop - span.start
    return tuple(cut)


def load_id(fingerprint: Fingerprint, target: Target, format: Format, subscription: str, again: int = 0) -> LoadId:
    """What a load is known by: its content, its import settings and its subscription. `again` counts --force."""
    identity = json.dumps([fingerprint.sha256, asdict(target), format, subscription, again], sort_keys=True)
    return LoadId(hashlib.sha256(identity.encode()).hexdigest()[:12])


def _record_end(data: bytes, start: int) -> int | None:
    """Where the record that begins at start ends, its line end included; None when it does not end in data."""
    at = start
    while (end := data.find(b"\n", at)) >= 0:
        if data.count(b'"', start, end) % 2 == 0:
            return end + 1
        at = end + 1
    return None


def format_of(name: str, header: str) -> Format:
    """By the file's suffix, else by the delimiter that stands most often outside the header's quotes."""
    suffix = "." + name.lower().rpartition(".")[2]
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    outside = "".join(header.split('"')[::2])
    return max(Format, key=lambda format: outside.count(format.delimiter))


def _lookup_remedy(wanted: str, fields: tuple[str, ...], format: Format) -> str:
    for other in Format:
        if other is not format and len(fields) == 1 and other.delimiter in fields[0]:
            return f"The header looks like {other}: say --format {other}."
    for name in fields:
        if name.strip().lower() == wanted.lower():
            return f"There is {name!r}: name it exactly {wanted!r} (case and spaces count), or set --lookup-field."
    near = get_close_matches(wanted, fields, n=1)
    hint = f"The nearest column is {near[0]!r}. " if near else ""
    return f"{hint}Rename the column, or set --lookup-field to the one that identifies a lead."
