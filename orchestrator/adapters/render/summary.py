"""What does report.json say? Totals, and an account of every chunk, batch and doubt, written as they come by.

Chunks and batches are never all in memory: one line of the file is one of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import Any, TextIO

from orchestrator.core.model import ChunkRecord, Load, Offer, State, Totals
from orchestrator.core.origins import called, source_name
from orchestrator.core.picture import TimeLine
from orchestrator.core.reasons import ColumnCount, ReasonCount
from orchestrator.core.report import account

SCHEMA = 1
BATCHES_KEPT = 500
"""Batches that the page lists."""
NOTES_MAX = 1_000
MEMORY_BYTES = 1 << 20
"""Batches wait in memory up to here, in a nameless file beyond, until the chunks are written."""


@dataclass(slots=True)
class Digest:
    """What is kept of chunks and batches: the first ones, doubts, what does not add up, and times for the page."""

    first: list[dict[str, Any]] = field(default_factory=list)
    doubts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    undecoded: int = 0
    """Rows that Marketo counted and its files do not name."""
    time_line: TimeLine = field(default_factory=TimeLine)
    notes_left_out: int = 0

    def note(self, text: str) -> None:
        if len(self.notes) < NOTES_MAX:
            self.notes.append(text)
        else:
            self.notes_left_out += 1


def head_of(
    load: Load,
    totals: Totals,
    reasons: Sequence[ReasonCount],
    columns: Sequence[ColumnCount],
    calls: Mapping[str, int],
    times: tuple[float, float],
    exit_code: int,
    stopped: str,
) -> dict[str, Any]:
    """Everything but chunks, batches, doubts and notes."""
    return {
        "schema": SCHEMA,
        "load_id": load.id,
        "retry_of": load.retry.of if load.retry is not None else None,
        "source": {
            "name": source_name(load),
            "files": _files(load),
            "bytes": load.fingerprint.size_bytes,
            "sha256": load.fingerprint.sha256,
            "rows": load.rows,
        },
        "settings": {
            "subscription": load.subscription,
            "format": str(load.format),
            **asdict(load.target),
            "chunk_bytes": load.budget,
            "on_duplicate": load.on_duplicate,
            "on_doubt": load.on_doubt,
            "reasons": load.retry.reasons if load.retry is not None else None,
            "fix": load.retry.fix if load.retry is not None else None,
            "reading": asdict(load.origin.reading) if load.origin is not None else None,
        },
        "started_at": time_text(times[0]),
        "finished_at": time_text(times[1]),
        "seconds": round(max(0.0, times[1] - times[0]), 3),
        "stopped": stopped,
        "exit_code": exit_code,
        "totals": asdict(totals),
        "reasons": [asdict(reason) for reason in reasons],
        "columns": [asdict(column) for column in columns],
        "calls": dict(calls),
    }


def _files(load: Load) -> list[dict[str, Any]]:
    """The user's own files; the source itself when it is one of them."""
    if load.origin is None:
        size_bytes, sha256 = load.fingerprint.size_bytes, load.fingerprint.sha256
        return [{"name": source_name(load), "bytes": size_bytes, "sha256": sha256}]
    return [
        {"name": called(original.path), "bytes": original.size_bytes, "sha256": original.sha256}
        for original in load.origin.originals
    ]


def write_summary(
    file: TextIO, head: Mapping[str, Any], records: Iterable[ChunkRecord], more_notes: Sequence[str]
) -> Digest:
    """Write report.json. Each line of it is a key, a chunk, a batch, a reason, a doubt or a note."""
    digest = Digest()
    file.write("{\n")
    for key, value in head.items():
        file.write(f" {json.dumps(key)}: {_lines(value)},\n")
    with SpooledTemporaryFile(MEMORY_BYTES, "w+", encoding="utf-8", newline="") as batches:
        file.write(' "chunks": [')
        for index, record in enumerate(records):
            file.write((",\n  " if index else "\n  ") + _line(_chunk(record)))
            for batch in _look_at(record, digest):
                batches.write((",\n  " if batches.tell() else "\n  ") + _line(batch))
        file.write('],\n "batches": [')
        batches.seek(0)
        shutil.copyfileobj(batches, file)
    for note in more_notes:
        digest.note(note)
    if digest.notes_left_out:
        digest.notes.append(f"and {digest.notes_left_out:,} notes more")
    file.write(f'],\n "doubts": {_lines(digest.doubts)},\n "notes": {_lines(digest.notes)}\n}}\n')
    return digest


def time_text(at: float | None) -> str | None:
    """UTC, to the second."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _lines(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(map(_line, value)) + "]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _chunk(record: ChunkRecord) -> dict[str, Any]:
    """Where the rows of one chunk are. The sums over all chunks are the totals."""
    chunk, offer, one = record.chunk, record.standing.offer, account(record)
    return {
        "chunk": chunk.number,
        "parent": chunk.parent,
        "state": str(record.standing.state),
        "rows": chunk.rows,
        "first_row": chunk.first_row,
        "last_row": chunk.last_row,
        "bytes": chunk.size_bytes,
        "sha256": chunk.sha256,
        "batch_id": offer.batch_id if offer else None,
        "attempts": record.standing.attempts,
        "imported": one.imported,
        "failed": one.failed,
        "warned": one.warned,
        "unsent": one.unsent,
        "unknown": one.unknown,
        "sent_again": one.moved,
        "again": chunk.again,
        "twins": chunk.twins,
    }


def _look_at(record: ChunkRecord, digest: Digest) -> list[dict[str, Any]]:
    """The batches of one chunk; its doubts and what does not add up go into the digest."""
    chunk, batches = record.chunk, []
    if discrepancy := account(record).discrepancy:
        digest.note(f"chunk {chunk.number}: {discrepancy}")
    if record.standing.state in (State.EXPIRED, State.HELD):
        rows = f"rows {chunk.first_row:,} to {chunk.last_row:,}"
        known = "it was not sent" if account(record).unsent else "what became of it is not known"
        digest.note(f"chunk {chunk.number} ({rows}): {known}: {record.standing.why}")
    for offer in record.offers:
        if offer.lost_at is not None:
            digest.doubts.append(
                {
                    "chunk": chunk.number,
                    "attempt": offer.attempt,
                    "rows": chunk.rows,
                    "first_row": chunk.first_row,
                    "last_row": chunk.last_row,
                    "offered_at": time_text(offer.offered_at),
                    "lost_at": time_text(offer.lost_at),
                    "sent_again": record.standing.attempts > offer.attempt,
                }
            )
        if offer.batch_id is None:
            continue
        undecoded = undecoded_of(offer)
        if undecoded:
            digest.note(f"batch {offer.batch_id}: Marketo counted {undecoded} rows that its files do not name")
        digest.undecoded += undecoded
        batch = _batch(record, offer, undecoded)
        batches.append(batch)
        if offer.accepted_at is not None:
            digest.time_line.add(offer, chunk.rows)
            if len(digest.first) < BATCHES_KEPT:
                digest.first.append(batch)
    return batches


def undecoded_of(offer: Offer) -> int:
    """Rows of a batch that Marketo counted and its files do not name."""
    if offer.counts is None or offer.collected_at is None:
        return 0
    named = offer.failures.records if offer.failures else 0, offer.warnings.records if offer.warnings else 0
    return max(0, offer.counts.failed - named[0]) + max(0, offer.counts.warned - named[1])


def _batch(record: ChunkRecord, offer: Offer, undecoded: int) -> dict[str, Any]:
    chunk, counts = record.chunk, offer.counts
    return {
        "chunk": chunk.number,
        "attempt": offer.attempt,
        "batch_id": offer.batch_id,
        "state": str(record.standing.state) if offer == record.standing.offer else "failed",
        "status": offer.status,
        "rows": chunk.rows,
        "first_row": chunk.first_row,
        "last_row": chunk.last_row,
        "bytes": chunk.size_bytes,
        "sha256": chunk.sha256,
        "imported": counts.imported if counts else None,
        "failed": counts.failed if counts else None,
        "warned": counts.warned if counts else None,
        "undecoded": undecoded,
        "message": offer.message,
        "offered_at": time_text(offer.offered_at),
        "accepted_at": time_text(offer.accepted_at),
        "importing_first_at": time_text(offer.importing_first_at),
        "ended_at": time_text(offer.ended_at),
        "collected_at": time_text(offer.collected_at),
    }
