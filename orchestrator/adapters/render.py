"""How is a report written? Five files in one private folder, each complete or not there.

Streams: at most one chunk of the source and its result files are in memory. `report.csv` is for people and their
spreadsheets (a cell that would run as a formula is made harmless); `report.jsonl` holds the same rows exactly;
`retry.csv` holds the failed rows byte for byte as the source had them, ready to be loaded again.

Blocking: call it in a worker thread. Which row stands where is decided by `core.report` and `core.locate`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

import jinja2

from orchestrator.core.locate import EchoFile, SentRow, read_echoes, read_sent
from orchestrator.core.model import ChunkRecord, CollectedFile, Load, RejectedRow, Span, State, Totals
from orchestrator.core.origins import called, place, source_name
from orchestrator.core.report import ReportRow, account, rows_of_chunk, totals

SCHEMA = 1
COLUMNS = ("kind", "reason", "source_row", "source_line", "chunk", "batch_id", "attempt")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")
"""A spreadsheet takes a cell that begins so for a formula (OWASP ASVS 1.2.10)."""
HTML_ROWS = 200
HTML_BATCHES = 500


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and what it says in short."""

    folder: Path
    totals: Totals
    reasons: tuple[tuple[str, str, int], ...]
    """(kind, reason, rows), the commonest first."""
    rows: int
    discrepancies: tuple[str, ...]
    undecoded: int
    """Rows that Marketo counted and its files do not name."""
    doubts: int
    """Uploads whose answer was lost."""


@dataclass(slots=True)
class _Tally:
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: int = 0
    retry_missing: int = 0
    not_imported: int = 0
    shown: list[ReportRow] = field(default_factory=list)


def write_report(
    *,
    load: Load,
    records: Callable[[], Iterable[ChunkRecord]],
    rejected: Iterable[RejectedRow],
    folder: Path,
    calls: Mapping[str, int],
    started_at: float,
    finished_at: float,
    exit_code: int,
    stopped: str = "",
) -> Written:
    """Write all files of the report of a load; `records` is read more than once.

    stopped: why the load stopped before its end, empty when it did not.
    """
    _private(folder)
    sums = totals(load, records())
    source = _Source(load)
    tally = _Tally()
    with ExitStack() as files:
        table = files.enter_context(_atomic(folder / "report.csv"))
        lines = files.enter_context(_atomic(folder / "report.jsonl"))
        retry = files.enter_context(_atomic(folder / "retry.csv"))
        writer = csv.writer(table, lineterminator="\r\n")  # RFC 4180; with LF, a CR inside a value is not quoted
        several = load.origin is not None and len(load.origin.originals) > 1
        writer.writerow([*COLUMNS, *["source_file"] * several, *map(harmless, _columns(load.header.fields))])
        retry.buffer.write(_ended(source.header()))
        for found in _rows(load, records(), list(rejected), source):
            row, source_file = _in_original(load, found)
            tally.rows += 1
            tally.reasons[row.kind, row.reason] += 1
            if row.kind != "warning":
                tally.not_imported += 1
                if len(tally.shown) < HTML_ROWS:
                    tally.shown.append(row)
            at = _place(row)
            if several:
                at["source_file"] = source_file
            blanks = [""] * (len(load.header.fields) - len(row.cells))
            writer.writerow([harmless(cell) for cell in (*map(_text, at.values()), *row.cells, *blanks)])
            named = dict(zip(load.header.fields, row.cells, strict=False))
            lines.write(json.dumps({**at, "candidates": list(row.candidates), "row": named}, ensure_ascii=False))
            lines.write("\n")
            if row.kind == "failure":
                if row.sent is not None:
                    retry.buffer.write(_ended(source.bytes_of(row.sent)))
                else:
                    tally.retry_missing += 1
    reasons = tuple((kind, reason, count) for (kind, reason), count in tally.reasons.most_common())
    batches, doubts, notes, undecoded = _batches(records())
    notes += source.notes
    if tally.retry_missing:
        notes.append(f"{tally.retry_missing} failed rows could not be found in the source and are not in retry.csv")
    summary = _summary(load, sums, reasons, batches, doubts, notes, calls, started_at, finished_at, exit_code, stopped)
    with _atomic(folder / "report.json") as file:
        json.dump(summary, file, indent=2, ensure_ascii=False)
        file.write("\n")
    with _atomic(folder / "report.html") as file:
        file.write(_page(load, sums, summary, tally))
    return Written(folder, sums, reasons, tally.rows, tuple(notes), undecoded, len(doubts))


def harmless(cell: str) -> str:
    """A cell that no spreadsheet runs: an apostrophe before what would begin a formula."""
    return "'" + cell if cell.startswith(FORMULA_STARTS) else cell


# --- rows ---------------------------------------------------------------------------------------------


def _rows(
    load: Load, records: Iterable[ChunkRecord], rejected: list[RejectedRow], source: _Source
) -> Iterator[ReportRow]:
    """All rows of the report in the order of the source; rejected rows where they fall."""
    rejected.sort(key=lambda row: row.row, reverse=True)
    key = {"leads": load.target.lookup_field, "members": "email", "customobjects": None}[load.target.kind]
    for record in records:
        while rejected and rejected[-1].row < record.chunk.first_row:
            yield _rejected_row(rejected.pop(), source)
        inside: list[ReportRow] = []
        if _has_rows(record):
            offer = record.standing.offer
            sent = source.rows(record)
            failures = _echoes(offer.failures if offer else None, load)
            warnings = _echoes(offer.warnings if offer else None, load)
            inside = list(rows_of_chunk(record, load.header.fields, key, load.format, failures, warnings, sent))
        if record.standing.state is State.HALVED:
            continue
        for row in inside:
            while rejected and row.source_row is not None and rejected[-1].row < row.source_row:
                yield _rejected_row(rejected.pop(), source)
            yield row
    while rejected:
        yield _rejected_row(rejected.pop(), source)


def _has_rows(record: ChunkRecord) -> bool:
    offer = record.standing.offer
    if record.standing.state is State.REJECTED:
        return True
    if offer is None or record.standing.state not in (State.SETTLED, State.COLLECTING):
        return False
    return offer.failures is not None or offer.warnings is not None or offer.status == "Failed"


def _rejected_row(rejected: RejectedRow, source: _Source) -> ReportRow:
    return ReportRow(
        kind="rejected",
        reason=rejected.reason,
        source_row=rejected.row,
        source_line=rejected.line,
        candidates=(),
        chunk=None,
        batch_id=None,
        attempt=None,
        cells=source.cells_of(rejected),
    )


def _echoes(file: CollectedFile | None, load: Load) -> EchoFile | None:
    if file is None:
        return None
    try:
        return read_echoes(Path(file.path).read_bytes(), load.format)
    except FileNotFoundError:
        return None


def _place(row: ReportRow) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "reason": row.reason,
        "source_row": row.source_row,
        "source_line": row.source_line,
        "chunk": row.chunk,
        "batch_id": row.batch_id,
        "attempt": row.attempt,
    }


def _in_original(load: Load, row: ReportRow) -> tuple[ReportRow, str | None]:
    """A row with its line in the user's own file, and that file's name."""
    if load.origin is None or row.source_row is None or row.source_line is None:
        return row, None
    original, line = place(load.origin, row.source_row, row.source_line)
    return replace(row, source_line=line), None if original is None else called(load.origin.originals[original].path)


def _files(load: Load) -> list[dict[str, Any]]:
    """The user's own files; the source itself when it is one of them."""
    if load.origin is None:
        size_bytes, sha256 = load.fingerprint.size_bytes, load.fingerprint.sha256
        return [{"name": source_name(load), "bytes": size_bytes, "sha256": sha256}]
    return [
        {"name": called(original.path), "bytes": original.size_bytes, "sha256": original.sha256}
        for original in load.origin.originals
    ]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _columns(fields: Sequence[str]) -> list[str]:
    """The source's columns under names that no column of ours has, and no other of the source's."""
    taken = {*COLUMNS, "source_file", *fields}
    names: list[str] = []
    for name in fields:
        unique = name
        while unique in (*COLUMNS, "source_file") or (unique != name and unique in taken):
            unique = f"source.{unique}"
        taken.add(unique)
        names.append(unique)
    return names


def _ended(row: bytes) -> bytes:
    return row if row.endswith(b"\n") else row + b"\n"


class _Source:
    """The source's bytes, as far as they still are what was sent. One chunk is kept at a time."""

    def __init__(self, load: Load) -> None:
        self._load, self.notes = load, list[str]()
        self._rows = b""

    def header(self) -> bytes:
        header = self._read(self._load.header.start, self._load.header.stop)
        if header is not None:
            line = header.decode(errors="replace").rstrip("\r\n")
            fields = next(csv.reader([line], delimiter=self._load.format.delimiter, strict=False), [])
            if tuple(fields) == self._load.header.fields:
                return header
        return self._load.format.delimiter.join(self._load.header.fields).encode()

    def rows(self, record: ChunkRecord) -> Callable[[], Iterable[SentRow]]:
        """Reads the rows of a chunk; none when its bytes are not those that were sent."""
        digest = hashlib.sha256(self.header())
        self._rows = b""
        rows = b"".join(self._read(span.start, span.stop) or b"" for span in record.chunk.spans)
        digest.update(rows)
        if digest.hexdigest() != record.chunk.sha256:
            self._note(
                "the source is gone or is not what was sent: rows of the report have no place in it, and retry.csv "
                "does not have them"
            )
            return lambda: ()
        self._rows = rows
        return lambda: read_sent(self._rows, record.chunk.spans, self._load.format)

    def bytes_of(self, row: SentRow) -> bytes:
        """One row of the chunk that was read last, as it stands in the source."""
        return self._rows[row.start : row.stop]

    def cells_of(self, rejected: RejectedRow) -> tuple[str, ...]:
        """A rejected row's cells, as far as they can be read; none when it is larger than a chunk."""
        if rejected.stop - rejected.start > self._load.budget:
            return ()
        content = self._read(rejected.start, rejected.stop)
        if content is None or not self._is_untouched():
            return ()
        span = Span(rejected.start, rejected.stop, 1, rejected.row, rejected.line)
        try:
            rows = list(read_sent(content, (span,), self._load.format))
        except csv.Error:  # a carriage return alone
            return ()
        return rows[0].cells[: len(self._load.header.fields)] if rows else ()

    def _is_untouched(self) -> bool:
        """By its time: no hash is kept of what was not sent."""
        try:
            return Path(self._load.source.path).stat().st_mtime_ns == self._load.source.mtime_ns
        except OSError:
            return False

    def _read(self, start: int, stop: int) -> bytes | None:
        try:
            with Path(self._load.source.path).open("rb") as file:
                file.seek(start)
                content = file.read(stop - start)
        except OSError:
            self._note("the source cannot be read any more")
            return None
        return content if len(content) == stop - start else None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


# --- the summary ----------------------------------------------------------------------------------------


def _batches(
    records: Iterable[ChunkRecord],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], int]:
    """One object for each batch, one for each doubt, what does not add up in words, and rows counted but not named."""
    batches: list[dict[str, Any]] = []
    doubts: list[dict[str, Any]] = []
    notes: list[str] = []
    undecoded_rows = 0
    for record in records:
        chunk, standing = record.chunk, record.standing
        if discrepancy := account(record).discrepancy:
            notes.append(f"chunk {chunk.number}: {discrepancy}")
        for offer in record.offers:
            if offer.lost_at is not None:
                doubts.append(
                    {
                        "chunk": chunk.number,
                        "attempt": offer.attempt,
                        "rows": chunk.rows,
                        "first_row": chunk.first_row,
                        "last_row": chunk.last_row,
                        "offered_at": _time(offer.offered_at),
                        "lost_at": _time(offer.lost_at),
                        "sent_again": standing.attempts > offer.attempt,
                    }
                )
            if offer.batch_id is None:
                continue
            counts = offer.counts
            undecoded = 0
            if counts is not None and offer.collected_at is not None:
                named = offer.failures.records if offer.failures else 0, offer.warnings.records if offer.warnings else 0
                undecoded = max(0, counts.failed - named[0]) + max(0, counts.warned - named[1])
                if undecoded:
                    notes.append(f"batch {offer.batch_id}: Marketo counted {undecoded} rows that its files do not name")
            undecoded_rows += undecoded
            batches.append(
                {
                    "chunk": chunk.number,
                    "attempt": offer.attempt,
                    "batch_id": offer.batch_id,
                    "state": str(standing.state) if offer == standing.offer else "failed",
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
                    "offered_at": _time(offer.offered_at),
                    "accepted_at": _time(offer.accepted_at),
                    "importing_first_at": _time(offer.importing_first_at),
                    "ended_at": _time(offer.ended_at),
                    "collected_at": _time(offer.collected_at),
                }
            )
    return batches, doubts, notes, undecoded_rows


def _summary(
    load: Load,
    sums: Totals,
    reasons: tuple[tuple[str, str, int], ...],
    batches: list[dict[str, Any]],
    doubts: list[dict[str, Any]],
    notes: list[str],
    calls: Mapping[str, int],
    started_at: float,
    finished_at: float,
    exit_code: int,
    stopped: str,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "load_id": load.id,
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
            "on_doubt": load.on_doubt,
        },
        "started_at": _time(started_at),
        "finished_at": _time(finished_at),
        "stopped": stopped,
        "totals": asdict(sums),
        "reasons": [{"kind": kind, "reason": reason, "rows": rows} for kind, reason, rows in reasons],
        "notes": notes,
        "doubts": doubts,
        "batches": batches,
        "calls": dict(calls),
        "exit_code": exit_code,
    }


def _page(load: Load, sums: Totals, summary: Mapping[str, Any], tally: _Tally) -> str:
    parts = [
        ("imported", sums.imported - sums.warned),
        ("warned", sums.warned),
        ("failed", sums.failed),
        ("rejected", sums.rejected),
        ("unsent", sums.unsent),
        ("unknown", sums.unknown),
    ]
    return _template().render(
        load=load,
        summary=summary,
        totals=sums,
        parts=[(name, count, 100 * count / sums.rows if sums.rows else 0) for name, count in parts if count],
        batches=summary["batches"][:HTML_BATCHES],
        batches_more=max(0, len(summary["batches"]) - HTML_BATCHES),
        shown=tally.shown,
        shown_more=tally.not_imported - len(tally.shown),
    )


@cache
def _template() -> jinja2.Template:
    """Compiled once in a process: that takes longer than a small report."""
    source = resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,}"
    return environment.from_string(source)


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- files ----------------------------------------------------------------------------------------------


def _private(folder: Path) -> None:
    for made in (*reversed(folder.parents), folder):
        if not made.exists():
            made.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _atomic(path: Path) -> Iterator[TextIO]:
    """A file that appears under its name only when it is complete and on disk; readable by its owner only."""
    partial = path.with_name(f".{path.name}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
