"""Where is every row of a load, and which rows does the report list?

The counts of Marketo's status answers rule; the result files give the detail. `Complete` is not success: a batch whose
rows all failed is Complete. Warned rows are imported. What the counts leave open is `unknown`, and said.

    rows = imported + failed + rejected + unsent + unknown

Reading files and writing the report is `adapters/render`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.locate import Echo, EchoFile, Place, SentRow, locate, read_echoes, read_sent
from orchestrator.core.model import ChunkRecord, Format, Load, Offer, Standing, State, Totals
from orchestrator.core.plain import match, read_texts
from orchestrator.core.runs import Entry, Kind, ReportRow, row_of, run_of, sending_of, weave
from orchestrator.core.tags import is_tagged, place_tagged, untagged
from orchestrator.errors import BooksDoNotBalance

CANCELLED = "the load was cancelled before this was sent"
"""Why a chunk is rejected that Marketo never saw, and so what its rows are listed with."""
CANDIDATES_MAX = 20
"""Rows named for a record that could be one of several: thousands of equal rows are not listed once for each."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where the rows of one chunk are. `discrepancy` says when Marketo's counts cannot be right."""

    imported: int = 0
    failed: int = 0
    warned: int = 0
    unsent: int = 0
    unknown: int = 0
    moved: int = 0
    """Failed and sent again: they are counted where they came to."""
    discrepancy: str = ""


def account(record: ChunkRecord) -> Account:
    """Where the rows of one chunk are, by its state and by what Marketo counted.

    A chunk that waits to be sent again after a doubt or a batch that ended Failed may be imported, in whole or in part;
    so may a part of a chunk that went through one of them. The rows of a chunk that was halved are its parts'.
    """
    standing, rows = record.standing, record.chunk.rows
    offer = standing.offer
    match standing.state:
        case State.HALVED:
            return Account()
        case State.PLANNED | State.REJECTED | State.HELD if not _may_be_imported(standing):
            return Account(unsent=rows)
        case State.SETTLED | State.COLLECTING if offer is not None and offer.counts is not None:
            one = _counted(offer, rows)
            assert standing.moved <= one.failed, "only failed rows move on"
            return replace(one, failed=one.failed - standing.moved, moved=standing.moved)
        case _:
            return Account(unknown=rows)


def _may_be_imported(standing: Standing) -> bool:
    own = standing.doubts or standing.batch_failures
    return bool(own or standing.doubts_before or standing.batch_failures_before)


def _counted(offer: Offer, rows: int) -> Account:
    counts = offer.counts
    assert counts is not None
    imported, failed = min(counts.imported, rows), min(counts.failed, rows)
    discrepancy = ""
    if counts.imported + counts.failed > rows:
        imported = rows - failed
        discrepancy = f"Marketo counted {counts.imported} imported and {counts.failed} failed of {rows} rows"
    elif counts.imported + counts.failed < rows:
        discrepancy = f"Marketo counted {counts.imported + counts.failed} of {rows} rows"
    if offer.status == "Failed" and counts.imported == 0:  # the job broke and says that it imported nothing
        return Account(failed=rows)
    return Account(
        imported=imported,
        failed=failed,
        warned=min(counts.warned, imported),
        unknown=rows - imported - failed,
        discrepancy=discrepancy,
    )


def whole_batch_failed(offer: Offer) -> bool:
    """Did the job break without importing a row? Then every row of it has failed."""
    return offer.status == "Failed" and offer.counts is not None and offer.counts.imported == 0


def broken_by(record: ChunkRecord) -> str:
    """What is known of a row in a batch that broke: that it breaks one by itself, or that it was in it."""
    return "a batch of this row alone failed" if record.chunk.rows == 1 else "the whole batch failed"


def totals(load: Load, records: Iterable[ChunkRecord]) -> Totals:
    """Where every row of the load is. Raises BooksDoNotBalance when a row is nowhere, or in two places."""
    imported = failed = warned = unsent = unknown = 0
    for record in records:
        one = account(record)
        imported, failed, warned = imported + one.imported, failed + one.failed, warned + one.warned
        unsent, unknown = unsent + one.unsent, unknown + one.unknown
    if imported + failed + load.rejected + unsent + unknown != load.rows:
        raise BooksDoNotBalance(
            f"load {load.id}: {load.rows} rows, but {imported} imported + {failed} failed + {load.rejected} rejected "
            f"+ {unsent} unsent + {unknown} unknown",
            remedy="Please report this, with the output of `orchestrator status`.",
        )
    return Totals(load.rows, imported, failed, warned, load.rejected, unsent, unknown)


def exit_code(totals: Totals, *, fail_on_warning: bool) -> int:
    """0: every row is imported. 3: some are not, or nobody knows. 4: all are, some warned of, and that was to count."""
    if totals.failed or totals.rejected or totals.unsent or totals.unknown:
        return 3
    return 4 if totals.warned and fail_on_warning else 0


def entries_of_chunk(
    record: ChunkRecord,
    header: Sequence[str],
    key: str | None,
    format: Format,
    failures: bytes | None,
    warnings: bytes | None,
    content: bytes | None,
) -> Iterator[Entry]:
    """`rows_of_chunk`, with those rows in runs that are found by their text, and fast where nearly all of them are.

    failures, warnings: the result files. content: the chunk's spans back to back; None when they are gone.
    """
    spans = record.chunk.spans
    texts = None
    if content is not None and not is_tagged(header):
        texts = read_texts(content, spans, format, len(header))
    if content is None or texts is None:

        def sent() -> Iterable[SentRow]:
            return read_sent(content, spans, format) if content is not None else ()

        files = [read_echoes(file, format) if file is not None else None for file in (failures, warnings)]
        yield from rows_of_chunk(record, header, key, format, files[0], files[1], sent)
        return
    hits: list[tuple[int, Kind, str]] = []
    others: list[ReportRow] = []
    whole = _reason_of_all(record)
    if whole is not None:
        hits = [(position, *whole) for position in range(len(texts.rows))]
    else:
        kinds: tuple[tuple[Kind, bytes | None], ...] = (("failure", failures), ("warning", warnings))
        for kind, file in kinds:
            if file is None:
                continue
            matched = match(file, texts, header, key, format)
            if matched is None:
                others += _located(
                    kind, read_echoes(file, format), record, header, key, format, read_sent(content, spans, format)
                )
                continue
            hits += [(position, kind, reason) for position, reason in matched.certain]
            found = EchoFile(tuple(header), ())
            others += [
                _of_echo(kind, found, echo, place, record, header)
                for _, echo, place in matched.others
                if not place.continues
            ]
    hits.sort()
    others.sort(key=_order)
    runs = [run_of(texts, [sending_of(record)] * len(texts.rows), hits)] if hits else []
    yield from weave(runs, others)


def rows_of_chunk(
    record: ChunkRecord,
    header: Sequence[str],
    key: str | None,
    format: Format,
    failures: EchoFile | None,
    warnings: EchoFile | None,
    sent: Callable[[], Iterable[SentRow]],
) -> Iterator[ReportRow]:
    """The report's rows of one chunk, in the order of the source, those without a place last.

    sent: reads the chunk's rows, once for each file; none when the source cannot be read any more.
    """
    found: list[ReportRow] = []
    whole = _reason_of_all(record)
    if whole is not None:
        found += [row_of(*whole, sending_of(record), row) for row in sent()]
    else:
        kinds: tuple[tuple[Kind, EchoFile | None], ...] = (("failure", failures), ("warning", warnings))
        for kind, file in kinds:
            if file is not None:
                found += _located(kind, file, record, header, key, format, sent())
    yield from sorted(found, key=_order)


def _reason_of_all(record: ChunkRecord) -> tuple[Kind, str] | None:
    """What every row of the chunk has in common, when the chunk was refused or its batch failed as a whole."""
    standing, offer = record.standing, record.standing.offer
    if standing.state is State.REJECTED:
        if standing.why != CANCELLED:
            return "rejected", f"Marketo refused the chunk: {standing.why}"
        again = " again: it may have been imported before" if _may_be_imported(standing) else ""
        return "rejected", f"{CANCELLED}{again}"
    if offer is not None and whole_batch_failed(offer) and standing.state in (State.SETTLED, State.COLLECTING):
        return "failure", broken_by(record) + (f": {offer.message}" if offer.message else "")
    return None


def _order(row: ReportRow) -> tuple[bool, int, str]:
    return row.source_row is None, row.source_row or 0, row.kind


def _located(
    kind: Kind,
    file: EchoFile,
    record: ChunkRecord,
    header: Sequence[str],
    key: str | None,
    format: Format,
    sent: Iterable[SentRow],
) -> list[ReportRow]:
    if is_tagged(header):
        placed = place_tagged(file, header, list(sent), key, format)
    else:
        placed = list(zip(file.records, locate(file, header, sent, key, format), strict=True))
    return [_of_echo(kind, file, echo, place, record, header) for echo, place in placed if not place.continues]


def without_tag(row: ReportRow) -> ReportRow:
    """A row of the report as people know it: without the number that it was sent with."""
    if row.sent is None:
        return replace(row, cells=row.cells[1:])
    content = row.content and row.content[len(row.sent.cells[0]) + 1 :]
    return replace(row, cells=row.cells[1:], sent=untagged(row.sent), content=content)


def _of_echo(
    kind: Kind, file: EchoFile, echo: Echo, place: Place, record: ChunkRecord, header: Sequence[str]
) -> ReportRow:
    chunk, batch_id, attempt = sending_of(record)
    sent = place.sent or (place.candidates[0] if _equal(place.candidates) else None)
    return ReportRow(
        kind=kind,
        reason=echo.reason if place.reason is None else place.reason,
        source_row=place.sent.row if place.sent else None,
        source_line=place.sent.line if place.sent else None,
        candidates=tuple(row.row for row in place.candidates[:CANDIDATES_MAX]),
        chunk=chunk,
        batch_id=batch_id,
        attempt=attempt,
        cells=sent.cells if sent else _in_order(file, echo.cells, header),
        sent=sent,
    )


def _equal(rows: Sequence[SentRow]) -> bool:
    """Are they all the same but for their place? Then any of them may stand for the others."""
    return len(rows) > 0 and len({row.cells for row in rows}) == 1


def _in_order(file: EchoFile, cells: tuple[str, ...], header: Sequence[str]) -> tuple[str, ...]:
    """Echoed cells under the source's columns; what the file does not have is empty."""
    by_name = dict(zip(file.columns, cells, strict=False))
    return tuple(by_name.get(name, "") for name in header)
