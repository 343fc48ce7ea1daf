"""How do rows of the report that are found out of order come to stand in the order of the source?

Chunks of twins lie across all others, and each has rows from all over the source: too many chunks to be open at once,
and too many rows to be kept. Their rows are written aside as they are found, and read back some thousand at a time, by
their numbers. The files have no name; they lie where the caller keeps lead data anyway.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

import numpy as np

from orchestrator.adapters.render.source import SourceBytes
from orchestrator.core.locate import SentRow
from orchestrator.core.plain import SentTexts
from orchestrator.core.runs import Entry, PlainRun, ReportRow, one_run, run_of, weave
from orchestrator.core.spill import Spill

_MEMORY_BYTES = 1 << 20
"""Less is kept in memory instead of a file."""
_ROWS_AT_ONCE = 2_048
"""Numbers that are sorted in memory, were every row of the source among them; there are no more buckets than 4,096."""


class Aside:
    """Rows of a source of so many rows; those without a place come last. files: closes what was opened."""

    def __init__(self, source_rows: int, folder: Path, files: ExitStack) -> None:
        self._rows, self._folder, self._files = source_rows, str(folder), files
        self._buckets = min(4_096, source_rows // _ROWS_AT_ONCE + 1)
        self._index = Spill(self._new_file, 2, self._buckets)
        self._found, self._end = self._new_file(), 0

    def put(self, entries: Iterable[Entry], source: SourceBytes) -> None:
        """Those of one chunk, in the order of the source."""
        buckets: list[int] = []
        index: list[tuple[int, int]] = []
        for bucket, entry in self._by_bucket(entries):
            written = marshal.dumps(_written(entry, source))
            self._found.write(written)
            buckets.append(bucket)
            index.append((self._end, len(written)))
            self._end += len(written)
        if index:
            self._index.put(np.array(buckets), np.array(index, np.int64))

    def in_order(self) -> Iterator[Entry]:
        """All of them, when no more come."""
        for bucket in range(self._buckets):
            runs: list[PlainRun] = []
            rows: list[ReportRow] = []
            for offset, size in self._index.bucket(bucket).tolist():
                self._found.seek(offset)
                entry = _read(marshal.loads(self._found.read(size)))  # noqa: S302 we wrote it
                if isinstance(entry, PlainRun):
                    runs.append(entry)
                else:
                    rows.append(entry)
            rows.sort(key=lambda row: row.begin)
            yield from weave([one_run(runs)] if runs else [], rows)

    def _by_bucket(self, entries: Iterable[Entry]) -> Iterator[tuple[int, Entry]]:
        for entry in entries:
            if isinstance(entry, PlainRun):
                buckets = [self._bucket(entry.sent.rows[position]) for position, _, _ in entry.hits]
                for bucket, hits in groupby(zip(buckets, entry.hits, strict=True), itemgetter(0)):
                    yield bucket, one_run([run_of(entry.sent, entry.sendings, [hit for _, hit in hits])])
            else:
                yield self._bucket(self._rows + 1 if entry.source_row is None else entry.source_row), entry

    def _bucket(self, number: int) -> int:
        return number * self._buckets // (self._rows + 2)

    def _new_file(self) -> BinaryIO:
        return cast(BinaryIO, self._files.enter_context(SpooledTemporaryFile(_MEMORY_BYTES, dir=self._folder)))


def _written(entry: Entry, source: SourceBytes) -> tuple[Any, ...]:
    if isinstance(entry, PlainRun):
        one = entry.sent
        return one.content, one.delimiter, one.texts, one.starts, one.rows, one.lines, entry.sendings, entry.hits
    sent = None if entry.sent is None else (entry.sent.row, entry.sent.line, entry.sent.cells, source.bytes_of(entry))
    place = (entry.kind, entry.reason, entry.source_row, entry.source_line, entry.candidates)
    return *place, entry.chunk, entry.batch_id, entry.attempt, entry.cells, sent


def _read(written: tuple[Any, ...]) -> Entry:
    if isinstance(written[0], bytes):
        *texts, sendings, hits = written
        return run_of(SentTexts(*texts), sendings, hits)
    *fields, sent = written
    row = ReportRow(*fields)
    if sent is None:
        return row
    number, line, cells, content = sent
    return replace(row, sent=SentRow(number, line, cells, 0, len(content)), content=content)
