"""What stood in the source? Its bytes, as far as they still are what was sent."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.locate import read_sent
from orchestrator.core.model import ROW_TAG, ChunkRecord, Format, Load, RejectedRow, Span
from orchestrator.core.runs import ReportRow
from orchestrator.core.tags import is_tagged

SOURCE_GONE = "the source cannot be read any more"
SOURCE_CHANGED = (
    "the source is gone or is not what was sent: rows of the report have no place in it, "
    "and retry.csv does not have them"
)
COLLECTED_GONE = "collected files are gone (after report.keep_days, or by hand): the rows in them are not listed"


class SourceBytes:
    """Reads a chunk at a time, and keeps the one read last. `notes` says what could not be read."""

    def __init__(self, load: Load) -> None:
        self._load, self.notes = load, list[str]()
        self._rows = b""
        self._rejected_unread = 0

    def lost(self) -> list[str]:
        """What could not be read: the notes, and rejected rows (which nobody misses who sends rows again)."""
        if not self._rejected_unread:
            return list(self.notes)
        return [*self.notes, f"the source has changed: {self._rejected_unread:,} rejected rows have no values here"]

    def header(self) -> bytes:
        header = self._read([(self._load.header.start, self._load.header.stop)])
        if header is not None:
            line = header.decode(errors="replace").rstrip("\r\n")
            fields = next(csv.reader([line], delimiter=self._load.format.delimiter, strict=False), [])
            if tuple(fields) == self._load.header.fields:
                return header
        return self._load.format.delimiter.join(self._load.header.fields).encode()

    def own_header(self) -> bytes:
        """Without the column of row numbers."""
        header = self.header()
        return header[len(ROW_TAG) + 1 :] if is_tagged(self._load.header.fields) else header

    def content(self, record: ChunkRecord) -> bytes | None:
        """A chunk's rows, back to back; None when they are not what was sent."""
        self._rows = b""  # one chunk is in memory, never two
        rows = self._read([(span.start, span.stop) for span in record.chunk.spans]) or b""
        digest = hashlib.sha256(self.header())
        digest.update(rows)
        if digest.hexdigest() != record.chunk.sha256:
            self.note(SOURCE_CHANGED)
            return None
        self._rows = rows
        return rows

    def bytes_of(self, row: ReportRow) -> bytes:
        """A row as it stands in the source, of the chunk that was read last or with its bytes; none without a place."""
        if row.content is not None or row.sent is None:
            return row.content or b""
        return self._rows[row.sent.start : row.sent.stop]

    def cells_of(self, rejected: RejectedRow) -> tuple[str, ...]:
        """A rejected row's cells, all that can be read of them; none when it is larger than a chunk."""
        if rejected.stop - rejected.start > self._load.budget:
            return ()
        content = self._read([(rejected.start, rejected.stop)])
        if content is None or not self._is_untouched():
            self._rejected_unread += 1
            return ()
        return cells_of(content, rejected, self._load.format)

    def _is_untouched(self) -> bool:
        """By its time: no hash is kept of what was not sent."""
        try:
            return Path(self._load.source.path).stat().st_mtime_ns == self._load.source.mtime_ns
        except OSError:
            return False

    def _read(self, ranges: Sequence[tuple[int, int]]) -> bytes | None:
        """Bytes [start, stop) of the source, back to back; None when they are not all there."""
        pieces: list[bytes] = []
        try:
            with Path(self._load.source.path).open("rb") as file:
                for start, stop in ranges:
                    file.seek(start)
                    pieces.append(file.read(stop - start))
        except OSError:
            self.note(SOURCE_GONE)
            return None
        content = b"".join(pieces)
        return content if len(content) == sum(stop - start for start, stop in ranges) else None

    def note(self, note: str) -> None:
        """Said once, however often it is true."""
        if note not in self.notes:
            self.notes.append(note)


def cells_of(content: bytes, rejected: RejectedRow, format: Format) -> tuple[str, ...]:
    """A rejected row's cells, all that can be read of them. content: its bytes."""
    span = Span(rejected.start, rejected.stop, 1, rejected.row, rejected.line)
    try:
        rows = list(read_sent(content, (span,), format))
    except csv.Error:  # a carriage return alone
        return ()
    return rows[0].cells if rows else ()
