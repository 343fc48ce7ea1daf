"""Which rows go into which chunk?

A chunk is byte ranges of the source: the header is sent before them, and nothing is written. Rules:

- a chunk is at most `budget` bytes, its header included; a row is never cut;
- rows that cannot be sent as they stand, and blank lines, lie between the spans of a chunk;
- what needs more than one chunk is cut into an even number of about equal ones: Marketo processes two jobs at a
  time, so both processors then end together;
- the same source and budget give the same plan, however the source is fed.

Where records end is `rows`' business. Rows that share a key are seen to by `twins`, and taken apart by `apart`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Protocol

from orchestrator.core.header import Head, HeaderReader
from orchestrator.core.keys import Keys
from orchestrator.core.model import (
    Chunk,
    ChunkNumber,
    Fingerprint,
    Format,
    LoadId,
    OnDuplicate,
    Plan,
    RejectedRow,
    Span,
    Target,
)
from orchestrator.core.replay import Replay
from orchestrator.core.rows import BLANK, RowScanner, Scan, TooLarge, too_large
from orchestrator.errors import HeaderOnly

UNEVEN_PART: Final = 200
"""Rows do not end where a chunk is full: half a percent of its room is left for that when chunks are counted."""


class Sha256(Protocol):
    """What `hashlib.sha256()` is, or something that hashes in its own time."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(slots=True)
class Draft:
    """A chunk being filled, or filled; its hash is asked for when the plan is complete."""

    size_bytes: int
    target_bytes: int
    digest: Sha256
    rows: int = 0
    spans: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class Lines:
    """Tells lines of one scan: `line` is the one on which data[at] stands. Asked in order, it counts each byte once."""

    data: bytes
    at: int
    line: int

    def of(self, offset: int) -> int:
        self.line += self.data.count(b"\n", self.at, offset)
        self.at = offset
        return self.line


class Planner:
    """Makes the plan of one source from its bytes, fed in blocks of any size.

    name: for its suffix and for messages. lookup_field: a column that must be there, or None. keep_rejected: how many
    rejected rows the plan names at most. fingerprint, chunk_digest: what hashes the source, and makes what hashes a
    chunk. keys: gets the keys of the rows, and `replay` where they stand; once two keys are known to be the same,
    chunks are not hashed any more, since their plan will not be wanted. Raises a SourceUnusable that names file, place,
    value and remedy.
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
        fingerprint: Sha256 | None = None,
        chunk_digest: Callable[[], Sha256] = hashlib.sha256,
        keys: Keys | None = None,
        replay: Replay | None = None,
        by_parity: bool = True,
    ) -> None:
        self._name, self._source_bytes, self._budget, self._keep_rejected = name, source_bytes, budget, keep_rejected
        self._fingerprint = fingerprint or hashlib.sha256()
        self._chunk_digest, self._by_parity = chunk_digest, by_parity
        self._keys, self._replay, self._lookup_field = keys, replay, lookup_field
        self._fed = 0
        self._ended = False
        self._header = HeaderReader(format=format, name=name, lookup_field=lookup_field, budget=budget)
        self._head: Head | None = None
        self._room = 0
        self._scanner: RowScanner | Replay | None = None
        self._full: list[Draft] = []
        self._chunks_wanted = 1
        self._draft: Draft | None = None
        self._rejected: list[RejectedRow] = []
        self._rows = self._rejected_rows = self._superseded_rows = self._blank_lines = 0
        self._bytes_ahead_left_out = 0
        """Of the bytes that were not fed yet, how many are known to go elsewhere."""

    def feed(self, block: bytes) -> None:
        """The next bytes of the source."""
        self._fingerprint.update(block)
        self._fed += len(block)
        if self._scanner is not None:
            self._take(self._scanner.feed(block))
        elif (head := self._header.feed(block)) is not None:
            self._begin(head)

    def end(self) -> tuple[int, int]:
        """Call it after the last block. Returns how many rows there are, and how many bytes of rows fit a chunk."""
        if not self._ended:
            self._ended = True
            if self._scanner is None:
                self._begin(self._header.finish())
            assert self._scanner is not None
            self._take(self._scanner.finish())
            self._close_chunk()
        if self._rows == 0:
            raise HeaderOnly(
                f"{self._name}: there is a header and no row",
                remedy="Nothing was sent; check how it was exported.",
            )
        return self._rows, self._room

    def fingerprint(self) -> Fingerprint:
        """Of all that was fed."""
        return Fingerprint(self._fed, self._fingerprint.hexdigest())

    def finish(self) -> Plan:
        """The whole plan. Call it once, after the last block."""
        self.end()
        assert self._head is not None
        chunks = self._chunks()
        rows = sum(chunk.rows for chunk in chunks) + self._rejected_rows + self._superseded_rows
        assert rows == self._rows, "every row is in exactly one chunk or rejected"
        return Plan(
            format=self._head.format,
            fingerprint=self.fingerprint(),
            header=self._head.header,
            budget=self._budget,
            rows=self._rows,
            chunks=chunks,
            rejected=tuple(self._rejected),
            rejected_rows=self._rejected_rows,
            blank_lines=self._blank_lines,
        )

    def _chunks(self) -> Sequence[Chunk]:
        return tuple(
            Chunk(
                number=ChunkNumber(number),
                spans=tuple(draft.spans),
                rows=draft.rows,
                size_bytes=draft.size_bytes,
                sha256=draft.digest.hexdigest(),
            )
            for number, draft in enumerate(self._full, 1)
        )

    def _begin(self, head: Head) -> None:
        """The header is known: how many chunks are wanted, and the rows that were fed with it."""
        self._head, self._room = head, self._budget - len(head.raw)
        assert self._room > 0, "a header that leaves no room was refused"
        stop = head.header.stop
        data_bytes = self._source_bytes - stop - self._bytes_ahead_left_out
        if data_bytes > self._room:
            chunks = -(-data_bytes // (self._room - self._room // UNEVEN_PART))
            self._chunks_wanted = chunks + chunks % 2
        self._scanner = self._new_scanner(head)
        self._take(self._scanner.feed(head.rest))

    def _new_scanner(self, head: Head) -> RowScanner | Replay:
        return RowScanner(
            head.format.delimiter.encode(),
            len(head.header.fields),
            base=head.header.stop,
            line=head.line,
            row_bytes_max=self._room,
            key_column=head.header.fields.index(self._lookup_field) if self._keys and self._lookup_field else None,
            salts=self._keys.salts if self._keys else (),
            by_parity=self._by_parity,
        )

    # --- the rows ---------------------------------------------------------------------------------------

    def _take(self, results: list[Scan | TooLarge]) -> None:
        for result in results:
            if self._replay is not None:
                self._replay.write(result)
            match result:
                case TooLarge(start, stop, line):
                    self._reject(line, start, stop, too_large(stop - start, self._room))
                case Scan():
                    self._take_scan(result)

    def _take_scan(self, scan: Scan) -> None:
        """Runs of sound records go to chunks as a whole; what is not sound lies between them."""
        lines = Lines(scan.data, scan.start, scan.first_line)
        first = 0
        for index in (*sorted(scan.problems), len(scan.stops)):
            if index > first:
                if self._keys is not None:
                    self._keys.add(scan, first, index, self._rows + 1)
                self._fill(scan, first, index, lines)
            first = index + 1
            if index == len(scan.stops):
                break
            if (problem := scan.problems[index]) == BLANK:
                self._blank_lines += 1
                continue
            start = scan.begin(index)
            self._reject(lines.of(start), scan.base + start, scan.base + scan.stops[index], problem)

    def _reject(self, line: int, start: int, stop: int, reason: str) -> None:
        self._rows += 1
        self._rejected_rows += 1
        if len(self._rejected) < self._keep_rejected:
            self._rejected.append(RejectedRow(self._rows, line, start, stop, reason))

    def _fill(self, scan: Scan, first: int, end: int, lines: Lines) -> None:
        """Put sound records first..end-1 of a scan into chunks; the cost is per chunk, not per row."""
        stops = scan.stops
        while first < end:
            start = scan.begin(first)
            draft = self._draft or self._open_chunk(scan.base + start)
            fits = bisect_right(stops, start + self._budget - draft.size_bytes, first, end)
            enough = bisect_left(stops, start + draft.target_bytes - draft.size_bytes, first, end) + 1
            cut = min(fits, enough, end)
            if cut == first:  # not even one more row fits
                assert draft.rows, "a row that no chunk has room for was rejected before"
                self._close_chunk()
                continue
            self._append(draft, scan, first, cut, lines)
            first = cut
            if draft.size_bytes >= draft.target_bytes:
                self._close_chunk()

    def _append(self, draft: Draft, scan: Scan, first: int, cut: int, lines: Lines) -> None:
        start, stop, rows = scan.begin(first), scan.stops[cut - 1], cut - first
        if self._keys is None or not self._keys.seen_twice:
            draft.digest.update(memoryview(scan.data)[start:stop])
        last = draft.spans[-1] if draft.spans else None
        if last is not None and last.stop == scan.base + start:
            draft.spans[-1] = replace(last, stop=scan.base + stop, rows=last.rows + rows)
        else:
            draft.spans.append(Span(scan.base + start, scan.base + stop, rows, self._rows + 1, lines.of(start)))
        draft.size_bytes += stop - start
        draft.rows += rows
        self._rows += rows

    def _open_chunk(self, at: int) -> Draft:
        assert self._head is not None
        header_bytes = len(self._head.raw)
        left = max(1, self._chunks_wanted - len(self._full))
        even = header_bytes - (at + self._bytes_ahead_left_out - self._source_bytes) // left  # rounded up
        self._draft = Draft(header_bytes, min(even, self._budget), self._chunk_digest())
        self._draft.digest.update(self._head.raw)
        return self._draft

    def _close_chunk(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None and draft.rows:
            assert draft.size_bytes <= self._budget, "a chunk is never larger than its budget"
            self._full.append(draft)


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
                after=None,
            )
        )
    return halves[0], halves[1]


def _cut_spans(spans: Sequence[Span], rows: bytes, stops: list[int], first: int, end: int) -> tuple[Span, ...]:
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


def load_id(
    fingerprint: Fingerprint,
    target: Target,
    format: Format,
    subscription: str,
    again: int = 0,
    on_duplicate: OnDuplicate = "together",
) -> LoadId:
    """What a load is known by: its content, its import settings and its subscription. `again` counts --force.

    (What became of twins has no part in it by default: loads of before they were seen to are still known.)
    """
    known_by = [fingerprint.sha256, asdict(target), format, subscription, again]
    identity = json.dumps(known_by + [on_duplicate] * (on_duplicate != "together"), sort_keys=True)
    return LoadId(hashlib.sha256(identity.encode()).hexdigest()[:12])
