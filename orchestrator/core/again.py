"""Which failed rows go again by themselves, in a last chunk at the end of the same load?

Rows whose reason is transient (`worth`) go again up to twice, those whose reason is unknown once, the others never. A
row goes only when its place in the source is certain: what is sent again is then exactly what failed. Rows of a batch
that broke as a whole were sent twice already, and searched (`isolate`): they do not go. Nor do rows that share a key
with others: they would take effect after rows that come later in the source.

A last chunk is spans of the source like any other chunk, most of one row. It supersedes the failures that it is made
of: they are counted where their rows came to in the end, once.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from orchestrator.core.locate import SentRow
from orchestrator.core.model import Chunk, ChunkNumber, ChunkRecord, Span
from orchestrator.core.runs import PlainRun, ReportRow
from orchestrator.core.worth import ReasonClass, class_of

TRIES: dict[ReasonClass, int] = {ReasonClass.TRANSIENT: 2, ReasonClass.UNKNOWN: 1, ReasonClass.PERMANENT: 0}
"""How often a row goes again by itself. What fails three times for a reason that passes will hardly pass today."""
ROWS_MAX = 100_000
"""So many rows of a load go again at a time, the first ones: each is a span in the ledger, and where more fail by
accident, something is wrong that another try at once does not mend. The others are left to `orchestrator retry`."""


def may_go_again(record: ChunkRecord, tries: int) -> bool:
    """Has this chunk failed rows that went again so many times, and a file that names them?"""
    offer = record.standing.offer
    counted = offer is not None and offer.failures is not None and offer.counts is not None and offer.counts.failed > 0
    return counted and not record.chunk.twins and record.chunk.again == tries and not record.standing.moved


def goes_again(row: ReportRow, tries: int) -> bool:
    """Does this row, which has gone again so many times, go once more?"""
    return row.kind == "failure" and row.source_row is not None and tries < TRIES[class_of(row.reason)]


class Later:
    """What rows that went again came to. Last chunks are added in the order in which rows went.

    unplaced: failures of last chunks whose row cannot be told.
    """

    def __init__(self) -> None:
        self._outcomes: dict[int, tuple[int, list[ReportRow]]] = {}
        self.unplaced: list[ReportRow] = []

    def add(self, record: ChunkRecord, rows: Iterable[ReportRow]) -> None:
        """A last chunk and its rows in the report."""
        for span in record.chunk.spans:
            for number in range(span.first_row, span.first_row + span.rows):
                tries, _ = self._outcomes.get(number, (0, []))
                self._outcomes[number] = tries + record.standing.attempts, []
        for row in rows:
            if row.source_row is None:
                self.unplaced.append(replace(row, sent=None))
            else:
                self._outcomes[row.source_row][1].append(row)

    def knows(self, run: PlainRun) -> bool:
        """Did any of these rows go again?"""
        return bool(self._outcomes) and any(run.sent.rows[position] in self._outcomes for position, _, _ in run.hits)

    def instead_of(self, row: ReportRow) -> list[ReportRow]:
        """What the report says of a row: what it came to, or the row itself when it did not go again."""
        if row.kind != "failure" or row.source_row not in self._outcomes:
            return [row]
        tries, outcome = self._outcomes[row.source_row]
        return [replace(one, attempt=(row.attempt or 0) + tries, sent=row.sent) for one in outcome]


@dataclass(slots=True)
class LastChunks:
    """Rows put together into chunks under the budget, in the order in which they come: that of the source.

    again: how many times these rows have gone, this one included. moved: rows taken out of each chunk.
    """

    header: bytes
    budget: int
    again: int
    rows: int = 0
    moved: dict[ChunkNumber, int] = field(default_factory=dict)
    _chunks: list[Chunk] = field(default_factory=list)
    _spans: list[Span] = field(default_factory=list)
    _size_bytes: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def take(self, record: ChunkRecord, rows: Iterable[tuple[SentRow, bytes]]) -> None:
        """Rows of a chunk, each with its bytes as they stand in the source."""
        assert record.standing.offer is not None
        assert record.standing.offer.counts is not None
        wanted = list(rows)[: ROWS_MAX - self.rows]
        if len(wanted) > record.standing.offer.counts.failed:  # the file names more rows than Marketo counted
            return
        spans = record.chunk.spans
        begins = list(accumulate((span.stop - span.start for span in spans), initial=0))
        for row, content in wanted:
            self._add(_span_of(spans, begins, row), content)
        if wanted:
            self.moved[record.chunk.number] = len(wanted)
            self.rows += len(wanted)

    def finish(self) -> list[Chunk]:
        """The chunks; the ledger gives them their numbers."""
        self._close()
        assert sum(chunk.rows for chunk in self._chunks) == self.rows == sum(self.moved.values())
        return self._chunks

    def _add(self, span: Span, content: bytes) -> None:
        assert span.stop - span.start == len(content), "the row's bytes are those of its span"
        if self._spans and self._size_bytes + len(content) > self.budget:
            self._close()
        if not self._spans:
            self._digest, self._size_bytes = hashlib.sha256(self.header), len(self.header)
        last = self._spans[-1] if self._spans else None
        if last is not None and last.stop == span.start:
            self._spans[-1] = replace(last, stop=span.stop, rows=last.rows + 1)
        else:
            self._spans.append(span)
        self._digest.update(content)
        self._size_bytes += len(content)

    def _close(self) -> None:
        if not self._spans:
            return
        self._chunks.append(
            Chunk(
                number=ChunkNumber(0),
                spans=tuple(self._spans),
                rows=sum(span.rows for span in self._spans),
                size_bytes=self._size_bytes,
                sha256=self._digest.hexdigest(),
                again=self.again,
            )
        )
        self._spans = []


def _span_of(spans: Sequence[Span], begins: Sequence[int], row: SentRow) -> Span:
    """Where one row of a chunk stands in the source. begins: where each span begins among the chunk's rows."""
    at = bisect_right(begins, row.start) - 1
    start = spans[at].start + row.start - begins[at]
    span = Span(start, start + row.stop - row.start, 1, row.row, row.line)
    assert span.stop <= spans[at].stop, "a row is in one span of its chunk"
    return span
