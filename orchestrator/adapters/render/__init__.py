"""How is a report written? Five files in one private folder, each complete or not there.

Streams: at most one chunk of the source and its result files are in memory. `report.csv` is for people and their
spreadsheets (a cell that would run as a formula is made harmless); `report.jsonl` holds the same rows exactly;
`retry.csv` holds the failed rows byte for byte as the source had them, ready to be loaded again.

Blocking: call it in a worker thread. Which row stands where is decided by `core.report` and `core.locate`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from orchestrator.adapters.render.page import ROWS, write_page
from orchestrator.adapters.render.source import SourceBytes
from orchestrator.adapters.render.summary import head_of, write_summary
from orchestrator.core.locate import EchoFile, read_echoes
from orchestrator.core.model import ChunkRecord, CollectedFile, Load, RejectedRow, State, Totals
from orchestrator.core.reasons import ReasonCount, Reasons, by_column
from orchestrator.core.report import ReportRow, rows_of_chunk, totals

COLUMNS = ("kind", "reason", "source_row", "source_line", "chunk", "batch_id", "attempt")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")
"""A spreadsheet takes a cell that begins so for a formula (OWASP ASVS 1.2.10)."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and what it says in short."""

    folder: Path
    totals: Totals
    reasons: tuple[ReasonCount, ...]
    """The commonest first."""
    rows: int
    discrepancies: tuple[str, ...]
    undecoded: int
    """Rows that Marketo counted and its files do not name."""
    doubts: int
    """Uploads whose answer was lost."""


class _Tally:
    """What is counted, and kept for the page, while rows go by: those not imported before those that are."""

    def __init__(self, header: Sequence[str]) -> None:
        self.reasons = Reasons(header)
        self.rows = self.retry_missing = 0
        self._lost: list[ReportRow] = []
        self._warned: list[ReportRow] = []

    def add(self, row: ReportRow) -> None:
        self.rows += 1
        self.reasons.add(row.kind, row.reason, row.source_row)
        shown = self._warned if row.kind == "warning" else self._lost
        if len(shown) < ROWS:
            shown.append(row)

    def shown(self) -> list[ReportRow]:
        return (self._lost + self._warned)[:ROWS]


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
    source = SourceBytes(load)
    tally = _Tally(load.header.fields)
    with ExitStack() as files:
        table = files.enter_context(_atomic(folder / "report.csv"))
        lines = files.enter_context(_atomic(folder / "report.jsonl"))
        retry = files.enter_context(_atomic(folder / "retry.csv"))
        writer = csv.writer(table, lineterminator="\r\n")  # RFC 4180; with LF, a CR inside a value is not quoted
        writer.writerow([*COLUMNS, *map(harmless, _columns(load.header.fields))])
        retry.buffer.write(_ended(source.header()))
        for row in _rows(load, records(), list(rejected), source):
            tally.add(row)
            place = _place(row)
            blanks = [""] * (len(load.header.fields) - len(row.cells))
            writer.writerow([harmless(cell) for cell in (*map(_text, place.values()), *row.cells, *blanks)])
            named = dict(zip(load.header.fields, row.cells, strict=False))
            lines.write(json.dumps({**place, "candidates": list(row.candidates), "row": named}, ensure_ascii=False))
            lines.write("\n")
            if row.kind == "failure":
                if row.sent is not None:
                    retry.buffer.write(_ended(source.bytes_of(row.sent)))
                else:
                    tally.retry_missing += 1
    notes = list(source.notes)
    if tally.retry_missing:
        notes.append(f"{tally.retry_missing} failed rows could not be found in the source and are not in retry.csv")
    reasons = tally.reasons.counts()
    columns = by_column(reasons)
    head = head_of(load, sums, reasons, columns, calls, (started_at, finished_at), exit_code, stopped)
    with _atomic(folder / "report.json") as file:
        digest = write_summary(file, head, records(), notes)
    with _atomic(folder / "report.html") as file:
        write_page(
            file,
            load=load,
            totals=sums,
            summary=head,
            digest=digest,
            reasons=reasons,
            columns=columns,
            rows=tally.shown(),
            listed=tally.rows,
            key=_key_of(load),
        )
    return Written(folder, sums, reasons, tally.rows, tuple(digest.notes), digest.undecoded, len(digest.doubts))


def harmless(cell: str) -> str:
    """A cell that no spreadsheet runs: an apostrophe before what would begin a formula."""
    return "'" + cell if cell.startswith(FORMULA_STARTS) else cell


# --- rows ---------------------------------------------------------------------------------------------


def _rows(
    load: Load, records: Iterable[ChunkRecord], rejected: list[RejectedRow], source: SourceBytes
) -> Iterator[ReportRow]:
    """All rows of the report in the order of the source; rejected rows where they fall."""
    rejected.sort(key=lambda row: row.row, reverse=True)
    key = _key_of(load)
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


def _key_of(load: Load) -> str | None:
    """The column Marketo matches by; custom objects have dedupe fields that we do not know."""
    return {"leads": load.target.lookup_field, "members": "email", "customobjects": None}[load.target.kind]


def _has_rows(record: ChunkRecord) -> bool:
    offer = record.standing.offer
    if record.standing.state is State.REJECTED:
        return True
    if offer is None or record.standing.state not in (State.SETTLED, State.COLLECTING):
        return False
    return offer.failures is not None or offer.warnings is not None or offer.status == "Failed"


def _rejected_row(rejected: RejectedRow, source: SourceBytes) -> ReportRow:
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


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _columns(fields: Sequence[str]) -> list[str]:
    """The source's columns under names that no column of ours has, and no other of the source's."""
    taken = {*COLUMNS, *fields}
    names: list[str] = []
    for name in fields:
        unique = name
        while unique in COLUMNS or (unique != name and unique in taken):
            unique = f"source.{unique}"
        taken.add(unique)
        names.append(unique)
    return names


def _ended(row: bytes) -> bytes:
    return row if row.endswith(b"\n") else row + b"\n"


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
