"""How is a report written? Five files in one private folder, each complete or not there.

Streams: at most one chunk of the source and its result files are in memory; rows of chunks that lie across others are
put in order by `aside`. `report.csv` is for people and their spreadsheets (a cell that would run as a formula is made
harmless); `report.jsonl` holds the same rows exactly; `retry.csv` holds the failed rows byte for byte as the source had
them, ready to be loaded again.

Blocking: call it in a worker thread. Which row stands where is decided by `core.report` and `core.locate`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from orchestrator.adapters.render.page import Rows, write_page
from orchestrator.adapters.render.source import COLLECTED_GONE, SourceBytes
from orchestrator.adapters.render.summary import SCHEMA, head_of, write_summary
from orchestrator.adapters.render.tables import Tables, ended
from orchestrator.core.again import Later
from orchestrator.core.model import ChunkRecord, CollectedFile, Load, RejectedRow, State, Totals
from orchestrator.core.origins import called, place
from orchestrator.core.reasons import ReasonCount, Reasons, by_column
from orchestrator.core.report import entries_of_chunk, totals, without_tag
from orchestrator.core.runs import Entry, Kind, PlainRun, ReportRow, each, weave
from orchestrator.core.tags import is_tagged

if TYPE_CHECKING:
    from orchestrator.adapters.render.aside import Aside

NOT_IN_RETRY = "failed rows could not be found in the source and are not in retry.csv"
"""A note, after how many they are."""
PlaceOf = Callable[[int], tuple[int, int] | None]
"""Row and line in the source of the first load, of a row of this one."""


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
    unfound: bool = False
    """The source or collected files are gone or changed: rows cannot be found any more."""


class _Tally:
    """What is counted, and kept for the page, while rows go by: those not imported before those that are."""

    def __init__(self, header: Sequence[str]) -> None:
        self.reasons = Reasons(header)
        self.rows = 0
        self.shown = Rows()

    def add(self, row: ReportRow) -> None:
        self.rows += 1
        self.reasons.add(row.kind, row.reason, row.source_row)
        self.shown.add(row.kind == "warning", [row])

    def add_run(self, run: PlainRun, counts: Iterable[tuple[Kind, str, int, int]]) -> None:
        for kind, reason, first, rows in counts:
            self.rows += rows
            self.reasons.add(kind, reason, first, rows)
        for warned in (False, True):
            self.shown.add(warned, (run.row(hit) for hit in run.hits if (hit[1] == "warning") == warned))


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
    place_of: PlaceOf | None = None,
    keep: bool = False,
) -> Written:
    """Write all files of the report of a load; `records` is read more than once.

    stopped: why the load stopped before its end, empty when it did not. place_of: of a retry, where its rows stand in
    the source of the first load; that is what the report names. keep: a report that is there, and says what became of
    the same rows, is kept when what the rows are found from is gone: one without them is worth less.
    """
    _private(folder)
    sums = totals(load, records())
    source = SourceBytes(load)
    tally = _Tally(load.header.own)
    kept: Written | None = None
    with ExitStack() as files:
        table, lines, retry = (
            files.enter_context(_atomic(folder / name, unless=lambda: kept is not None))
            for name in ("report.csv", "report.jsonl", "retry.csv")
        )
        tables = Tables(load, source, table.buffer, lines.buffer, retry.buffer)
        in_runs = load.origin is None and place_of is None
        for entry in _entries(load, records, rejected, source, folder):
            if isinstance(entry, PlainRun) and in_runs:
                tally.add_run(entry, tables.write_run(entry))
            else:
                for row in each(entry):
                    found, source_file = _in_original(load, _placed(row, place_of))
                    tables.write(found, source_file)
                    tally.add(found)
            del entry  # its chunk goes with it, before the next one comes
        if keep and source.lost():
            kept = _kept(folder, load, sums, source)
    if kept is not None:
        return kept
    notes = source.lost()
    if tables.retry_missing:
        notes.append(f"{tables.retry_missing} {NOT_IN_RETRY}")
    reasons = tally.reasons.counts()
    columns = by_column(reasons)
    head = head_of(load, sums, reasons, columns, calls, (started_at, finished_at), exit_code, stopped)
    with _atomic(folder / "report.json") as file:
        digest = write_summary(file, head, records(), notes)
    with _atomic(folder / "report.html") as file:
        write_page(file, summary=head, digest=digest, header=load.header.own, rows=tally.shown, listed=tally.rows)
    return Written(
        folder,
        sums,
        reasons,
        tally.rows,
        tuple(digest.notes),
        digest.undecoded,
        len(digest.doubts),
        unfound=bool(source.notes),
    )


def _kept(folder: Path, load: Load, sums: Totals, source: SourceBytes) -> Written | None:
    """The report that is there, when it is this load's and its counts are those of now."""
    try:
        report = json.loads((folder / "report.json").read_bytes())
        if (report["schema"], report["load_id"], report["totals"]) != (SCHEMA, load.id, asdict(sums)):
            return None
        reasons = tuple(ReasonCount(**one) for one in report["reasons"])
        undecoded = sum(batch["undecoded"] for batch in report["batches"])
        doubts = len(report["doubts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    why = "; ".join(note.partition(": ")[0] for note in source.lost())
    note = f"the report was not written again, and stays as it was: {why}"
    rows = sum(one.rows for one in reasons)
    return Written(folder, sums, reasons, rows, (note,), undecoded, doubts, unfound=bool(source.notes))


# --- rows ---------------------------------------------------------------------------------------------


def read_rows(
    load: Load,
    records: Callable[[], Iterable[ChunkRecord]],
    rejected: Iterable[RejectedRow],
    place_of: PlaceOf | None,
    folder: Path,
    notes: list[str],
) -> Iterator[tuple[ReportRow, bytes]]:
    """The rows that the report of a load lists, each with its bytes as they stand in the source (none without a place).

    folder: for rows that do not fit in memory, in files without a name. notes: gets what keeps the source from being
    read.
    """
    source = SourceBytes(load)
    for entry in _entries(load, records, rejected, source, folder):
        for row in each(entry):
            yield _placed(row, place_of), ended(source.bytes_of(row)) if row.sent is not None else b""
    notes += source.notes


def read_header(load: Load) -> bytes:
    """The header of a load's chunks, as it stands in the source while that is the one that was planned."""
    return ended(SourceBytes(load).header())


def read_own_header(load: Load) -> bytes:
    """The header of the user's own columns."""
    return ended(SourceBytes(load).own_header())


def _placed(row: ReportRow, place_of: PlaceOf | None) -> ReportRow:
    """The row under the number that it has in the source of the first load."""
    if place_of is None:
        return row
    place = place_of(row.source_row) if row.source_row is not None else None
    return replace(
        row,
        source_row=place[0] if place else None,
        source_line=place[1] if place else None,
        candidates=tuple(known[0] for one in row.candidates if (known := place_of(one)) is not None),
    )


def _entries(
    load: Load,
    records: Callable[[], Iterable[ChunkRecord]],
    rejected: Iterable[RejectedRow],
    source: SourceBytes,
    folder: Path,
) -> Iterator[Entry]:
    """All rows of the report in the order of the source, as people know them."""
    entries = _entries_as_sent(load, records, rejected, source, folder)
    if not is_tagged(load.header.fields):
        return entries
    return (without_tag(row) for entry in entries for row in each(entry))


def _entries_as_sent(
    load: Load,
    records: Callable[[], Iterable[ChunkRecord]],
    rejected: Iterable[RejectedRow],
    source: SourceBytes,
    folder: Path,
) -> Iterator[Entry]:
    """All rows of the report in the order of the source, those of which no place is known behind those of their chunk.

    Rejected rows and those of chunks of twins stand where they fall. Rows that went again are told of once, where they
    failed first, as what they came to.
    """
    with ExitStack() as files:
        later, twins = _out_of_order(load, records(), source, folder, files)
        between = weave((_rejected_row(row, source) for row in rejected), twins)
        yield from weave(_of_chunks(load, records(), source, later), between)
        yield from later.unplaced


def _of_chunks(load: Load, records: Iterable[ChunkRecord], source: SourceBytes, later: Later) -> Iterator[Entry]:
    """Those of chunks that lie one behind the other."""
    for record in records:
        if record.chunk.again or record.chunk.twins:
            continue
        for entry in _entries_of(load, record, source):
            if isinstance(entry, PlainRun) and not later.knows(entry):
                yield entry
            else:
                for failed in each(entry):
                    yield from later.instead_of(failed)
            del entry  # as above


def _out_of_order(
    load: Load, records: Iterable[ChunkRecord], source: SourceBytes, folder: Path, files: ExitStack
) -> tuple[Later, Iterator[Entry]]:
    """What became of rows that went again (they are few), and rows of chunks of twins in the order of the source."""
    last: list[ChunkRecord] = []
    twins: Aside | None = None
    for record in records:
        if record.chunk.again and record.standing.state is not State.HALVED:
            last.append(record)
        if record.chunk.twins and _has_rows(record):
            if twins is None:
                from orchestrator.adapters.render.aside import Aside  # numpy: not for every load

                twins = Aside(load.rows, folder, files)
            twins.put(_entries_of(load, record, source), source)
    later = Later()
    for record in sorted(last, key=lambda record: record.chunk.again):
        later.add(record, _rows_of(load, record, source))
    return later, iter(()) if twins is None else twins.in_order()


def read_chunk(load: Load, record: ChunkRecord, notes: list[str]) -> list[tuple[ReportRow, bytes]]:
    """The failed and warned rows of one chunk, each with its bytes (none without a place)."""
    source = SourceBytes(load)
    rows = _rows_of(load, record, source)
    notes += source.notes
    return [(row, source.bytes_of(row)) for row in rows]


def _rows_of(load: Load, record: ChunkRecord, source: SourceBytes) -> list[ReportRow]:
    return [row for entry in _entries_of(load, record, source) for row in each(entry)]


def _entries_of(load: Load, record: ChunkRecord, source: SourceBytes) -> Iterator[Entry]:
    """The rows of one chunk in the report."""
    if record.standing.state is State.HALVED or not _has_rows(record):
        return
    offer = record.standing.offer
    failures, warnings = (_read(file, source) for file in ((offer.failures, offer.warnings) if offer else (None, None)))
    content = source.content(record)
    key = load.target.key_column
    yield from entries_of_chunk(record, load.header.fields, key, load.format, failures, warnings, content)


def _in_original(load: Load, row: ReportRow) -> tuple[ReportRow, str | None]:
    """A row with its line in the user's own file, and that file's name."""
    if load.origin is None or row.source_row is None or row.source_line is None:
        return row, None
    original, line = place(load.origin, row.source_row, row.source_line)
    return replace(row, source_line=line), None if original is None else called(load.origin.originals[original].path)


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


def _read(file: CollectedFile | None, source: SourceBytes) -> bytes | None:
    """A collected file; None when there is none, or it is gone: the counts are in the ledger."""
    try:
        return Path(file.path).read_bytes() if file is not None else None
    except FileNotFoundError:
        source.note(COLLECTED_GONE)
        return None


# --- files ----------------------------------------------------------------------------------------------


def _private(folder: Path) -> None:
    for made in (*reversed(folder.parents), folder):
        if not made.exists():
            made.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _atomic(path: Path, *, unless: Callable[[], bool] = lambda: False) -> Iterator[TextIO]:
    """A file that appears under its name only when it is complete and on disk; readable by its owner only.

    unless: asked when it is complete: it is not wanted after all.
    """
    partial = path.with_name(f".{path.name}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file
        if unless():
            partial.unlink()
            return
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
