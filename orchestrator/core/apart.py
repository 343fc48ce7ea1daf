"""How is the plan of a source made whose twins are known?

It is read a second time. Rows without a twin go to chunks as in every plan, with gaps where twins stood; each twin goes
to its own chunk (`twins`), or is superseded. Which chunk that is was settled before, so that everything is written down
and hashed in the one order of the source. Spans are many now: they are in a file, and read when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from orchestrator.core.header import Head
from orchestrator.core.model import Chunk, ChunkNumber, Fingerprint, Plan, RejectedRow, Span
from orchestrator.core.plan import Lines, Planner
from orchestrator.core.reasons import SUPERSEDED
from orchestrator.core.replay import Replay
from orchestrator.core.rows import Scan
from orchestrator.core.spans import Spans
from orchestrator.core.spill import NewFile, Numbers, Spill
from orchestrator.core.twins import Twins
from orchestrator.errors import SourceChanged

_LF = ord("\n")


class Known:
    """A hash that is known already."""

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._sha256 = fingerprint.sha256

    def update(self, data: bytes | memoryview, /) -> None:
        """It is the hash of these bytes among others."""

    def hexdigest(self) -> str:
        return self._sha256


@dataclass(slots=True)
class _TwinChunk:
    """A chunk of twins while they are found."""

    digest: Any
    size_bytes: int
    rows: int = 0


class ApartPlanner(Planner):
    """A planner of a source whose twins are known; fingerprint, found: what its first reading has shown.

    Raises SourceChanged where it is not what it was then.
    """

    def __init__(
        self, twins: Twins, fingerprint: Fingerprint, found: Replay, new_file: NewFile, **options: Any
    ) -> None:
        super().__init__(fingerprint=Known(fingerprint), **options)
        self._twins, self._bytes_ahead_left_out, self._was = twins, twins.size_bytes, fingerprint
        self._found = found
        self._twin_chunks: list[_TwinChunk] = []
        self._twin_spans = Spill(new_file, 5, max(1, twins.chunks))
        self._superseded = Spill(new_file, 5, 1)
        self._spans_of_draft: list[Numbers] = []
        self._spans = _SpanFile(new_file())
        self._spans_of: list[Sequence[Span]] = []
        self._line_ends: tuple[Scan | None, Numbers] = (None, np.empty(0, np.int64))

    def _new_scanner(self, head: Head) -> Replay:
        return self._found.rewind(head.header.stop)

    def finish(self) -> Plan:
        self.end()
        if self._fed != self._was.size_bytes or self._rows != self._twins.source_rows:
            raise self._changed()
        plan = super().finish()
        rows = self._superseded_rows
        superseded = _Superseded(self._superseded)
        return replace(plan, superseded=superseded, superseded_rows=rows, shared_keys=self._twins.keys)

    def _chunks(self) -> Sequence[Chunk]:
        """Those of twins come first: some of them wait for others."""
        twins = tuple(
            Chunk(
                number=ChunkNumber(number),
                spans=self._spans.add(self._twin_spans.bucket(number - 1)),
                rows=one.rows,
                size_bytes=one.size_bytes,
                sha256=one.digest.hexdigest(),
                twins=True,
                after=None if after is None else ChunkNumber(after + 1),
            )
            for number, (one, after) in enumerate(zip(self._twin_chunks, self._twins.after, strict=True), 1)
        )
        if any(chunk.size_bytes > self._budget for chunk in twins):
            raise self._changed()
        return *twins, *(
            Chunk(
                number=ChunkNumber(number),
                spans=spans,
                rows=draft.rows,
                size_bytes=draft.size_bytes,
                sha256=draft.digest.hexdigest(),
            )
            for number, (draft, spans) in enumerate(zip(self._full, self._spans_of, strict=True), len(twins) + 1)
        )

    def _fill(self, scan: Scan, first: int, end: int, lines: Lines) -> None:
        """As ever, without the twins among these records; the cost is per chunk and per gap, not per row."""
        stops = np.frombuffer(scan.stops, np.int64)[first:end]
        starts = np.concatenate(([scan.begin(first)], stops[:-1]))
        row = self._rows + 1
        twins, into = self._twins.between(row, row + end - first)
        at = twins - row
        kept = np.ones(len(stops), np.bool_)
        kept[at] = False
        sizes = stops - starts
        # What is cut depends on the bytes that are still to come, twins excepted: all of these have come by now.
        self._bytes_ahead_left_out -= int(sizes[at].sum())
        if len(at):
            self._take_out(scan, starts[at], stops[at], twins, into)
        places = np.flatnonzero(kept)
        self._put(scan, starts[places], stops[places], places + row, int(stops[-1]))
        self._rows = row + end - first - 1

    def _put(self, scan: Scan, starts: Numbers, stops: Numbers, rows: Numbers, stop: int) -> None:
        """Put records into chunks. stop: where the last of those ends that twins stood among."""
        ends = np.cumsum(stops - starts)
        lines = self._lines(scan, starts)
        first = 0
        while first < len(starts):
            before = int(ends[first - 1]) if first else 0
            draft = self._draft or self._open_chunk(scan.base + stop - int(ends[-1]) + before)
            fits = int(np.searchsorted(ends, before + self._budget - draft.size_bytes, side="right"))
            enough = int(np.searchsorted(ends, before + draft.target_bytes - draft.size_bytes)) + 1
            cut = min(fits, enough, len(starts))
            if cut == first:
                self._close_chunk()
                continue
            run = slice(first, cut)
            gaps = np.flatnonzero(starts[run][1:] != stops[run][:-1]) + 1
            begins, lasts = np.append(0, gaps), np.append(gaps, cut - first) - 1
            run_starts, run_stops = starts[run][begins], stops[run][lasts]
            spans = np.stack(
                [
                    scan.base + run_starts,
                    scan.base + run_stops,
                    lasts - begins + 1,
                    rows[run][begins],
                    lines[run][begins],
                ],
                axis=1,
            )
            draft.digest.update(_joined(scan, run_starts, run_stops))
            self._spans_of_draft.append(spans)
            draft.size_bytes += int(ends[cut - 1]) - before
            draft.rows += cut - first
            first = cut
            if draft.size_bytes >= draft.target_bytes:
                self._close_chunk()

    def _take_out(self, scan: Scan, starts: Numbers, stops: Numbers, rows: Numbers, into: Numbers) -> None:
        """Twins of one scan: to their chunks, or nowhere."""
        places = [scan.base + starts, scan.base + stops]
        lines = self._lines(scan, starts)
        if not self._twins.chunks:
            self._superseded_rows += len(rows)
            self._superseded.put(np.zeros(len(rows), np.int64), np.stack([rows, lines, *places, into], axis=1))
            return
        if not self._twin_chunks:
            assert self._head is not None
            for _ in range(self._twins.chunks):
                self._twin_chunks.append(_TwinChunk(hashlib.sha256(self._head.raw), len(self._head.raw)))
        by_chunk = np.argsort(into, kind="stable")
        for some in np.split(by_chunk, np.flatnonzero(np.diff(into[by_chunk])) + 1):
            chunk = self._twin_chunks[into[some[0]]]
            content = _joined(scan, starts[some], stops[some])
            chunk.digest.update(content)
            chunk.size_bytes += len(content)
            chunk.rows += len(some)
        self._twin_spans.put(into, np.stack([*places, np.ones_like(rows), rows, lines], axis=1))

    def _close_chunk(self) -> None:
        full = len(self._full)
        super()._close_chunk()
        if len(self._full) > full:
            self._spans_of.append(self._spans.add(np.concatenate(self._spans_of_draft)))
            self._spans_of_draft = []

    def _lines(self, scan: Scan, offsets: Numbers) -> Numbers:
        """The lines of a scan on which these offsets stand."""
        if self._line_ends[0] is not scan:
            text = np.frombuffer(scan.data, np.uint8)
            self._line_ends = scan, np.flatnonzero(text[scan.start :] == _LF) + scan.start
        lines: Numbers = np.searchsorted(self._line_ends[1], offsets) + scan.first_line
        return lines

    def _changed(self) -> SourceChanged:
        return SourceChanged(
            f"{self._name}: it changed while it was read",
            remedy="Wait until it is written, then run the command again.",
        )


class _SpanFile:
    """Spans of many chunks, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, 0

    def add(self, spans: Numbers) -> Sequence[Span]:
        """The spans of one chunk: those back to back become one."""
        joins = spans[1:, 0] == spans[:-1, 1]
        begins = np.flatnonzero(np.append(True, ~joins))
        joined = spans[begins]
        joined[:, 1] = spans[np.append(begins[1:], len(spans)) - 1, 1]
        joined[:, 2] = np.add.reduceat(spans[:, 2], begins)
        first, last = Span(*joined[0].tolist()), Span(*joined[-1].tolist())
        if len(joined) == 1:
            return (first,)
        start, content = self._end, joined.tobytes()
        self._file.seek(start)
        self._file.write(content)
        self._end += len(content)
        return Spans(len(joined), first, last, partial(self._read, start, len(content)))

    def _read(self, start: int, size: int) -> Iterator[Span]:
        self._file.seek(start)
        spans = np.frombuffer(self._file.read(size), np.int64).reshape(-1, 5)
        return (Span(*span) for span in spans.tolist())


def _joined(scan: Scan, starts: Numbers, stops: Numbers) -> bytes:
    """The bytes of a scan from each start to its stop."""
    view = memoryview(scan.data)
    return b"".join([view[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)])


class _Superseded:
    """Rows that are not sent, each with the row that supersedes it; as often as they are asked for."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill

    def __iter__(self) -> Iterator[RejectedRow]:
        for records in self._spill.pieces(0):
            for row, line, start, stop, last in records.tolist():
                yield RejectedRow(row, line, start, stop, f"{SUPERSEDED}row {last}")
