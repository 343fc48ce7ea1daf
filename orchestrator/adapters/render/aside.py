"""How do rows of the report that are found out of order come to stand in the order of the source?

Chunks of twins lie across all others, and each has rows from all over the source: too many chunks to be open at once,
and too many rows to be kept. Their rows are written aside as they are found, and read back one at a time, by their
numbers. The files have no name; they lie where the caller keeps lead data anyway.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import numpy as np

from orchestrator.core.locate import SentRow
from orchestrator.core.report import ReportRow
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
        self._index = Spill(self._new_file, 3, self._buckets)
        self._found, self._end = self._new_file(), 0

    def put(self, rows: Iterable[tuple[ReportRow, bytes]]) -> None:
        """Rows, each with its bytes as they stand in the source; of one number, in the order in which they are told."""
        index: list[tuple[int, int, int]] = []
        for row, content in rows:
            written = _written(row, content)
            self._found.write(written)
            number = self._rows + 1 if row.source_row is None else row.source_row
            index.append((number, self._end, len(written)))
            self._end += len(written)
        if index:
            records = np.array(index, np.int64)
            self._index.put(records[:, 0] * self._buckets // (self._rows + 2), records)

    def in_order(self) -> Iterator[ReportRow]:
        """All of them, when no more come."""
        for bucket in range(self._buckets):
            records = self._index.bucket(bucket)
            for _, offset, size in records[np.argsort(records[:, 0], kind="stable")].tolist():
                self._found.seek(offset)
                yield _read(self._found.read(size))

    def _new_file(self) -> BinaryIO:
        return cast(BinaryIO, self._files.enter_context(SpooledTemporaryFile(_MEMORY_BYTES, dir=self._folder)))


def _written(row: ReportRow, content: bytes) -> bytes:
    sent = None if row.sent is None else (row.sent.row, row.sent.line, content.decode())
    place = (row.kind, row.reason, row.source_row, row.source_line, row.candidates, row.chunk, row.batch_id)
    return json.dumps([*place, row.attempt, row.cells, sent]).encode()


def _read(written: bytes) -> ReportRow:
    kind, reason, number, line, candidates, chunk, batch_id, attempt, cells, sent = json.loads(written)
    cells, content = tuple(cells), None if sent is None else sent[2].encode()
    if content is not None:
        sent = SentRow(sent[0], sent[1], cells, 0, len(content))
    return ReportRow(kind, reason, number, line, tuple(candidates), chunk, batch_id, attempt, cells, sent, content)
