"""How do the rows of the report come in the order of the source?

One by one, or many at once: a run is rows that were found by their text alone, as nearly all are. What comes from
several places (chunks, chunks of twins that lie across all others, rows that were never sent) is woven; where two runs
lie across each other, one is made of both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from orchestrator.core.locate import SentRow
from orchestrator.core.model import BatchId, ChunkRecord
from orchestrator.core.plain import SentTexts

Kind = Literal["failure", "warning", "rejected"]
Sending = tuple[int, BatchId | None, int | None]
"""Chunk, batch id and attempt: how a row was sent."""
Hit = tuple[int, Kind, str]
"""Position, kind and reason of a row that is found by its text."""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One line of the report. `cells` stand in the order of the source's columns; empty where they are not known."""

    kind: Kind
    reason: str
    source_row: int | None
    source_line: int | None
    candidates: tuple[int, ...]
    chunk: int | None
    batch_id: BatchId | None
    attempt: int | None
    cells: tuple[str, ...]
    sent: SentRow | None = None
    content: bytes | None = None
    """Its bytes as they stand in the source, where they are not those of `sent` in the chunk that was read last."""

    @property
    def begin(self) -> tuple[float, str]:
        return inf if self.source_row is None else self.source_row, self.kind


@dataclass(frozen=True, slots=True)
class PlainRun:
    """Rows that are found by their text, in the order of the source: those from `start` to `stop` of all hits.

    sendings: how the row of each position was sent.
    """

    sent: SentTexts
    sendings: list[Sending]
    all_hits: list[Hit]
    start: int
    stop: int

    @property
    def hits(self) -> list[Hit]:
        """There is one at least."""
        return self.all_hits[self.start : self.stop]

    def row(self, hit: Hit) -> ReportRow:
        position, kind, reason = hit
        return row_of(kind, reason, self.sendings[position], self.sent.sent(position), self.sent.raw(position))

    @property
    def begin(self) -> tuple[int, Kind]:
        return self._order(self.all_hits[self.start])

    @property
    def last_row(self) -> int:
        return self.sent.rows[self.all_hits[self.stop - 1][0]]

    def cut(self, at: tuple[float, str]) -> tuple[PlainRun | None, PlainRun | None]:
        """What comes before this row and kind, and the rest."""
        cut = bisect_left(self.all_hits, at, self.start, self.stop, key=self._order)
        return self._of(self.start, cut), self._of(cut, self.stop)

    def _of(self, start: int, stop: int) -> PlainRun | None:
        return PlainRun(self.sent, self.sendings, self.all_hits, start, stop) if start < stop else None

    def _order(self, hit: Hit) -> tuple[int, Kind]:
        return self.sent.rows[hit[0]], hit[1]


Entry = ReportRow | PlainRun


def run_of(sent: SentTexts, sendings: list[Sending], hits: list[Hit]) -> PlainRun:
    return PlainRun(sent, sendings, hits, 0, len(hits))


def one_run(runs: Sequence[PlainRun]) -> PlainRun:
    """One run of several. It has nothing of their chunks but what lies between their own first and last rows."""
    sent = SentTexts(b"", runs[0].sent.delimiter, starts=[0])
    contents: list[bytes] = []
    sendings: list[Sending] = []
    hits: list[Hit] = []
    for run in runs:
        part, ours = run.sent, run.hits
        first, stop = min(ours)[0], max(ours)[0] + 1
        moved, begins = len(sent.texts) - first, sent.starts[-1] - part.starts[first]
        hits += [(position + moved, kind, reason) for position, kind, reason in ours]
        sent.texts += part.texts[first:stop]
        sent.rows += part.rows[first:stop]
        sent.lines += part.lines[first:stop]
        sent.starts += [start + begins for start in part.starts[first + 1 : stop + 1]]
        sendings += run.sendings[first:stop]
        contents.append(part.content[part.starts[first] : part.starts[stop]])
    sent.content = b"".join(contents)
    rows = sent.rows
    hits.sort(key=lambda hit: (rows[hit[0]], hit[1]))
    return run_of(sent, sendings, hits)


def weave(ours: Iterable[Entry], others: Iterable[Entry]) -> Iterator[Entry]:
    """All of them in the order of the source. Ours without a place come where they stand, others at the end."""
    mine, theirs = iter(ours), iter(others)
    one, other = next(mine, None), next(theirs, None)
    while one is not None and other is not None:
        if isinstance(one, PlainRun) and isinstance(other, PlainRun):
            upto = min(one.last_row, other.last_row) + 1, ""
            (before, one), (between, other) = one.cut(upto), other.cut(upto)
            if before is not None and between is not None:
                yield one_run((before, between))
            elif (only := before or between) is not None:
                yield only
        elif isinstance(one, ReportRow) and (one.source_row is None or one.begin <= other.begin):
            yield one
            one = None
        elif isinstance(other, ReportRow) and other.begin <= one.begin:
            yield other
            other = None
        elif isinstance(one, PlainRun):
            before, one = one.cut(other.begin)
            if before is not None:
                yield before
        elif isinstance(other, PlainRun):
            between, other = other.cut(one.begin)
            if between is not None:
                yield between
        one, other = one or next(mine, None), other or next(theirs, None)
    if one is not None:
        yield one
    if other is not None:
        yield other
    del one, other  # a chunk may hang on each
    yield from mine
    yield from theirs


def each(entry: Entry) -> Iterator[ReportRow]:
    return map(entry.row, entry.hits) if isinstance(entry, PlainRun) else iter([entry])


def sending_of(record: ChunkRecord) -> Sending:
    offer = record.standing.offer
    return record.chunk.number, offer.batch_id if offer else None, offer.attempt if offer else None


def row_of(kind: Kind, reason: str, sending: Sending, row: SentRow, content: bytes | None = None) -> ReportRow:
    """The line of a row whose place is known."""
    return ReportRow(kind, reason, row.row, row.line, (), *sending, row.cells, row, content)
