"""Do the books of a report balance, by its own files and by the source?

Everything is recomputed, and nothing is asked of the ledger or of Marketo: the source is hashed and planned anew, each
chunk of the report must be a chunk of that plan, byte for byte; the sums are added up again; each row that the tables
list must stand at its place in the source, and all tables must list the same ones.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.adapters.files import fingerprint_file, plan_file, read_chunk
from orchestrator.adapters.render import NOT_IN_RETRY
from orchestrator.adapters.render.source import COLLECTED_GONE, SOURCE_CHANGED, SOURCE_GONE
from orchestrator.adapters.render.summary import NOTES_MAX
from orchestrator.adapters.render.tables import head_of_table, row_of_table
from orchestrator.checks import CheckLine
from orchestrator.core.audit import Listed, faults_of_sums
from orchestrator.core.locate import SentRow, read_sent
from orchestrator.core.model import Chunk, ChunkNumber, Format, Plan, SourceFile, Target
from orchestrator.errors import BooksDoNotBalance, SourceMissing

WRONG_SOURCE, NOT_BALANCED = 65, 70
FAULTS_SHOWN = 5


def verify(folder: Path, source: Path) -> list[CheckLine]:
    """One line for each thing that was checked. Raises SourceMissing when a file cannot be read. Blocking."""
    report = _report(folder)
    try:
        lines = [_line("the sums of report.json", faults_of_sums(report), "every row is in one place")]
        if report["retry_of"] is not None:
            return [*lines, *_retry(folder, report)]
        known, found = report["source"], fingerprint_file(source.resolve())
        same = (found.sha256, found.size_bytes) == (known["sha256"], known["bytes"])
        original = found.sha256 in [file["sha256"] for file in known["files"]]
        note = found.sha256
        if not same and original:
            note += "; it was made plain text before it was sent: its rows are not looked up again"
        elif not same:
            note = f"{source} has SHA-256 {note}; the load was of {known['sha256']}"
        lines.append(CheckLine(f"the source ({known['name']})", same or original, note, WRONG_SOURCE))
        at, plan = _plan(report, source) if same else (None, None)
        if plan is not None:
            lines.append(_line("the chunks", _faults_of_plan(report, plan), f"{len(plan.chunks):,}, planned anew"))
        listed = Listed(report)
        rows = _Rows(at, plan, report) if at is not None and plan is not None else None
        faults = list(_faults_of_rows(folder, listed, rows))
        lines.append(_line("the rows of report.jsonl", [*listed.faults(), *faults], _named(report, listed, same)))
        lines += _others(folder, report, plan.header.own if plan is not None else None)
    except (csv.Error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BooksDoNotBalance(
            f"{folder}: this is not a report as this release writes it ({type(error).__name__}: {error})",
            remedy="Write it again with `orchestrator report LOAD`.",
        ) from error
    return lines


def _retry(folder: Path, report: Mapping[str, Any]) -> Iterator[CheckLine]:
    """The source of a retry is gone with its end, and its rows go by the numbers of another load's source."""
    note = f"these are rows of load {report['retry_of']}: verify that one against its source"
    yield CheckLine("the source (of a retry)", True, note)
    listed = Listed(report, numbered=False)
    faults = list(_faults_of_rows(folder, listed, None))
    yield _line("the rows of report.jsonl", [*listed.faults(), *faults], _named(report, listed, same=False))
    yield from _others(folder, report, None)


def _others(folder: Path, report: Mapping[str, Any], fields: Sequence[str] | None) -> Iterator[CheckLine]:
    """The tables beside report.jsonl. fields: the columns of the source, where it is at hand."""
    fields = _fields(folder, report) if fields is None else fields
    yield _line("report.csv beside report.jsonl", _faults_of_table(folder, report, fields), "the same rows")
    yield _line("retry.csv beside report.jsonl", _faults_of_retry(folder, report, fields), "its failed rows")


def _line(what: str, faults: Iterable[str], note: str) -> CheckLine:
    """The first faults, and how many more: every row may have one."""
    rest = iter(faults)
    shown = list(islice(rest, FAULTS_SHOWN))
    if not shown:
        return CheckLine(what, True, note)
    more = sum(1 for _ in rest)
    text = "; ".join(shown) + (f"; and {more:,} more" if more else "")
    return CheckLine(what, False, text, NOT_BALANCED)


def _named(report: Mapping[str, Any], listed: Listed, same: bool) -> str:
    note = "each stands at its place in the source" if same else "their places were not looked at"
    missing = listed.missing()
    if not missing:
        return note
    gone = [one.partition(": ")[0] for one in (COLLECTED_GONE, SOURCE_CHANGED, SOURCE_GONE) if one in report["notes"]]
    why = f"listed: {gone[0]}" if gone else "named by Marketo"
    return f"{note}; {missing:,} failed rows are counted and not {why}"


def _report(folder: Path) -> Mapping[str, Any]:
    path = folder / "report.json"
    try:
        report = json.loads(path.read_bytes())
    except OSError as error:
        raise SourceMissing(f"{path}: {error.strerror}", remedy="Name the folder of a report.") from error
    except ValueError as error:
        raise BooksDoNotBalance(f"{path}: {error}", remedy="Write it again with `orchestrator report LOAD`.") from error
    if not isinstance(report, dict) or report.get("schema") != 1:
        raise BooksDoNotBalance(f"{path}: this is not a report of this release")
    return report


def _plan(report: Mapping[str, Any], source: Path) -> tuple[SourceFile, Plan]:
    settings = report["settings"]
    return plan_file(
        source.resolve(),
        format=Format(settings["format"]),
        budget=settings["chunk_bytes"],
        lookup_field=Target(kind=settings["kind"], lookup_field=settings["lookup_field"]).key_column,
        keep_rejected=report["totals"]["rejected"],
        on_duplicate=settings["on_duplicate"],
    )


def _faults_of_plan(report: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    left_out = plan.rejected_rows + plan.superseded_rows
    if plan.rows != report["totals"]["rows"] or left_out != report["totals"]["rejected"]:
        yield f"the source has {plan.rows:,} rows of which {left_out:,} cannot be sent or are superseded"
    told = {chunk["chunk"]: chunk for chunk in report["chunks"] if chunk["parent"] is None and not chunk["again"]}
    if told.keys() != {chunk.number for chunk in plan.chunks}:
        yield f"there are {len(told):,} chunks, {len(plan.chunks):,} are in the source"
    for chunk in plan.chunks:
        one = told.get(chunk.number)
        if one is not None and (one["sha256"], one["rows"]) != (chunk.sha256, chunk.rows):
            yield f"chunk {chunk.number} is not what stands in the source"


def _faults_of_rows(folder: Path, listed: Listed, rows: _Rows | None) -> Iterator[str]:
    """Counts every row of report.jsonl; looks each of them up in the source, if it is there."""
    with _opened(folder / "report.jsonl") as file:
        for line in file:
            row = json.loads(line)
            listed.add(row)
            number = row["source_row"]
            if rows is None or number is None:
                continue
            if row["chunk"] is None:
                if number not in rows.left_out:
                    yield f"row {number} is listed as rejected, and is none"
                continue
            sent = rows.find(number, row["chunk"])
            if sent is None or (sent.line, list(sent.cells)) != (row["source_line"], list(row["row"].values())):
                yield f"row {number} is not what stands in the source"


class _Rows:
    """Rows of the source by their number, which only grows (in each chunk of twins): a chunk at a time is read."""

    def __init__(self, source: SourceFile, plan: Plan, report: Mapping[str, Any]) -> None:
        self._source, self._plan = source, plan
        self.left_out = {row.row for row in (*plan.rejected, *plan.superseded)}
        self._chunks = iter([chunk for chunk in plan.chunks if not chunk.twins])
        self._twins = {chunk.number: chunk for chunk in plan.chunks if chunk.twins}
        self._parents = {chunk["chunk"]: chunk["parent"] for chunk in report["chunks"]}
        self._chunk: Chunk | None = None
        self._sent: Iterator[SentRow] = iter(())
        self._row: SentRow | None = None

    def find(self, number: int, listed_under: int) -> SentRow | None:
        """A row; `listed_under`: the chunk that the report names."""
        if self._row is not None and self._row.row == number:  # failed and warned of
            return self._row
        while self._parents.get(listed_under) is not None:
            listed_under = self._parents[listed_under]
        twins = self._twins.get(ChunkNumber(listed_under))
        if twins is not None:
            if self._chunk is not twins or self._row is None or self._row.row > number:
                self._read(twins)
        else:
            while self._chunk is None or self._chunk.twins or number > self._chunk.last_row:
                following = next(self._chunks, None)
                if following is None:
                    return None
                self._chunk, self._sent = following, iter(())
                if number <= following.last_row:
                    self._read(following)
        self._row = next((row for row in self._sent if row.row >= number), None)
        return self._row if self._row is not None and self._row.row == number else None

    def _read(self, chunk: Chunk) -> None:
        content = read_chunk(self._source, self._plan.header, chunk)
        start = self._plan.header.stop - self._plan.header.start
        self._chunk, self._sent = chunk, read_sent(content[start:], chunk.spans, self._plan.format)


def _faults_of_table(folder: Path, report: Mapping[str, Any], fields: Sequence[str]) -> Iterator[str]:
    """Row by row, every column: the table for spreadsheets says what the lines for programs say."""
    with _opened(folder / "report.csv") as table, _opened(folder / "report.jsonl") as lines:
        records = csv.reader(table)
        head = next(records, None)
        if head is None or head != head_of_table(fields, several=len(report["source"]["files"]) > 1):
            yield "it has other columns"
            return
        for number, line in enumerate(lines, 1):
            row, record = json.loads(line), next(records, None)
            if record is None:
                yield f"it ends before row {number}"
                return
            if list(row["row"]) != list(fields[: len(row["row"])]) or record != row_of_table(row, len(head)):
                yield f"its row {number} is another one"
        if next(records, None) is not None:
            yield "it has more rows"


def _faults_of_retry(folder: Path, report: Mapping[str, Any], fields: Sequence[str]) -> Iterator[str]:
    """It has the failed rows of report.jsonl, by their values and in their order, but those known to be missing."""
    left_out = 0
    with _opened(folder / "retry.csv") as retry, _opened(folder / "report.jsonl") as lines:
        records = csv.reader(retry, delimiter=Format(report["settings"]["format"]).delimiter)
        if next(records, None) != list(fields):
            yield "it has other columns than the source"
        number, record = 1, next(records, None)
        for row in map(json.loads, lines):
            if row["kind"] != "failure":
                continue
            if record == list(row["row"].values()):
                number, record = number + 1, next(records, None)
            else:
                left_out += 1
    if record is not None:
        yield f"its row {number} is not the failed row that should stand there"
    elif left_out != (missing := _missing(report["notes"])) and len(report["notes"]) < NOTES_MAX:
        yield f"{left_out:,} failed rows are not in it, {missing:,} are known to be missing"


def _missing(notes: Sequence[str]) -> int:
    """Failed rows that could not be written into retry.csv."""
    return sum(int(note.partition(" ")[0]) for note in notes if note.endswith(NOT_IN_RETRY))


def _fields(folder: Path, report: Mapping[str, Any]) -> list[str]:
    """The columns of the source, as retry.csv has them."""
    with _opened(folder / "retry.csv") as retry:
        return next(csv.reader(retry, delimiter=Format(report["settings"]["format"]).delimiter), [])


def _opened(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise SourceMissing(f"{path}: {error.strerror}", remedy="Name the folder of a whole report.") from error
