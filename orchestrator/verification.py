"""Do the books of a report balance, by its own files and by the source?

Everything is recomputed, and nothing is asked of the ledger or of Marketo: the source is hashed and planned anew, each
chunk of the report must be a chunk of that plan, byte for byte; the sums are added up again; each row that the tables
list must stand at its place in the source, all tables must list the same ones, and the page must tell of them.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

from orchestrator import intake
from orchestrator.adapters.files import fingerprint_file, plan_file, read_chunk
from orchestrator.adapters.render import NOT_IN_RETRY
from orchestrator.adapters.render.page import Rows, is_of_this_release, pieces_missing
from orchestrator.adapters.render.source import COLLECTED_GONE, SOURCE_CHANGED, SOURCE_GONE, cells_of
from orchestrator.adapters.render.summary import NOTES_MAX
from orchestrator.adapters.render.tables import FILE_COLUMN, head_of_table, row_of_table
from orchestrator.checks import CheckLine
from orchestrator.config import Config
from orchestrator.core.audit import Listed, faults_of_sums
from orchestrator.core.locate import SentRow, read_sent
from orchestrator.core.model import Chunk, Format, OnDuplicate, Origin, Plan, Reading, RejectedRow, SourceFile, Target
from orchestrator.core.origins import called, place
from orchestrator.core.report import CANDIDATES_MAX
from orchestrator.core.runs import ReportRow
from orchestrator.core.tags import is_tagged
from orchestrator.errors import BooksDoNotBalance, SourceMissing, SpoolFailing

WRONG_SOURCE, NOT_BALANCED = 65, 70
FAULTS_SHOWN = 5
SUMS = "the sums of report.json"
NUMBER_MAX = 1 << 53
"""No count of a report is larger, and programs that know floats only can still read it."""


def verify(folder: Path, named: Sequence[str], config: Config) -> list[CheckLine]:
    """One line for each thing that was checked. Raises SourceMissing when a file cannot be read. Blocking.

    named: the files that were loaded. config: where a spool file is made from them, if the load had one.
    """
    report = _report(folder)
    try:
        lines = [_line(SUMS, faults_of_sums(report), "every row is in one place")]
        if report["retry_of"] is not None:
            return [*lines, *_retry(folder, report), _page(folder, report, _fields(folder, report), lines[0])]
        with _source(report, intake.paths_of(named), config) as (line, at, origin):
            lines.append(line)
            rows = None
            if at is not None:
                file, plan = _plan(report, at, report["settings"]["on_duplicate"])
                lines.append(_line("the chunks", _faults_of_plan(report, plan), f"{len(plan.chunks):,}, planned anew"))
                rows = _Rows(file, plan, report, origin)
            listed = Listed(report)
            faults = list(_faults_of_rows(folder, listed, rows))
        note = _named(report, listed, same=rows is not None)
        lines.append(_line("the rows of report.jsonl", [*listed.faults(), *faults], note))
        fields = rows.fields if rows is not None else _fields(folder, report)
        lines += [*_others(folder, report, fields), _page(folder, report, fields, lines[0])]
    except (csv.Error, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise BooksDoNotBalance(
            f"{folder}: this is not a report as this release writes it ({type(error).__name__}: {error})",
            remedy="Write it again with `orchestrator report LOAD`.",
        ) from error
    return lines


_Opened = tuple[CheckLine, Path | None, Origin | None]


@contextmanager
def _source(report: Mapping[str, Any], paths: Sequence[str], config: Config) -> Iterator[_Opened]:
    """Are these the files that were loaded? And the file that was planned, made from them again if need be, with its
    origin; None where its rows cannot be had."""
    known = report["source"]
    what, sha256 = f"the source ({known['name']})", known["sha256"]
    wanted = [(file["bytes"], file["sha256"]) for file in known["files"]]
    found = [(one.size_bytes, one.sha256) for one in (fingerprint_file(Path(path)) for path in paths)]
    for path, one in zip(paths, found, strict=True):
        if one not in wanted:
            note = f"{path} has SHA-256 {one[1]}; the load was of {', '.join(sha for _, sha in wanted)}"
            yield CheckLine(what, False, note, WRONG_SOURCE), None, None
            return
    if wanted == [(known["bytes"], sha256)]:
        yield CheckLine(what, True, sha256), Path(paths[0]), None
        return
    told = report["settings"].get("reading")
    unread = "its rows are not looked up again"
    if told is None and "reading" in report["settings"]:  # it was loaded as it is
        size_bytes, own = found[0]
        note = f"report.json says {known['bytes']:,} bytes and SHA-256 {sha256} of it, and {size_bytes:,} and {own}"
        yield CheckLine(what, False, note, NOT_BALANCED), None, None
        return
    if found != wanted:
        note = f"it was made of {len(wanted)} files: {unread} unless all of them are named, in this order"
        yield CheckLine(what, True, note), None, None
        return
    if told is None or told["query"]:  # a query may give its rows in another order, and nobody asked for this one
        yield CheckLine(what, True, f"it was made plain text before it was sent: {unread}"), None, None
        return
    reading = Reading(**{**told, "renamed": tuple((new, old) for new, old in told["renamed"])})
    format = Format(report["settings"]["format"])
    with intake.opened(config, paths, reading, format, lambda: None) as source:
        again = fingerprint_file(source.path)
        if (again.size_bytes, again.sha256) == (known["bytes"], sha256):
            yield CheckLine(what, True, f"{sha256}, made plain text again"), source.path, source.origin
        else:
            note = f"made plain text it has SHA-256 {again.sha256}; the load was of {sha256}"
            yield CheckLine(what, False, note, WRONG_SOURCE), None, None


def _retry(folder: Path, report: Mapping[str, Any]) -> Iterator[CheckLine]:
    """The source of a retry is gone with its end, and its rows go by the numbers of another load's source."""
    note = f"these are rows of load {report['retry_of']}: verify that one against its source"
    yield CheckLine("the source (of a retry)", True, note)
    listed = Listed(report, numbered=False)
    faults = list(_faults_of_rows(folder, listed, None))
    yield _line("the rows of report.jsonl", [*listed.faults(), *faults], _named(report, listed, same=False))
    yield from _others(folder, report, _fields(folder, report))


def _others(folder: Path, report: Mapping[str, Any], fields: Sequence[str]) -> Iterator[CheckLine]:
    """The tables beside report.jsonl. fields: the columns of the source."""
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
        report = _parsed(path.read_bytes())
    except OSError as error:
        raise SourceMissing(f"{path}: {error.strerror}", remedy="Name the folder of a report.") from error
    except (ValueError, RecursionError) as error:
        raise BooksDoNotBalance(f"{path}: {error}", remedy="Write it again with `orchestrator report LOAD`.") from error
    if not isinstance(report, dict) or report.get("schema") != 1:
        raise BooksDoNotBalance(f"{path}: this is not a report of this release")
    return report


def _parsed(text: str | bytes) -> Any:
    """JSON as a report has it: no number in it is negative, endless or beyond all counts."""
    return json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_number)


def _number(text: str) -> int | float:
    number = int(text) if text.isdigit() and len(text) < 20 else float(text)
    if not 0 <= number <= NUMBER_MAX:
        raise ValueError(f"{text[:20]} is no number of a report")
    return number


def _plan(report: Mapping[str, Any], source: Path, on_duplicate: OnDuplicate) -> tuple[SourceFile, Plan]:
    settings = report["settings"]
    if not isinstance(settings["chunk_bytes"], int):
        raise TypeError("chunk_bytes is no whole number")
    return plan_file(
        source,
        format=Format(settings["format"]),
        budget=settings["chunk_bytes"],
        lookup_field=Target(kind=settings["kind"], lookup_field=settings["lookup_field"]).key_column,
        keep_rejected=report["totals"]["rejected"],
        on_duplicate=on_duplicate,
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
        if one is not None and [one[name] for name in ("sha256", "rows", "first_row", "last_row", "bytes")] != [
            chunk.sha256,
            chunk.rows,
            chunk.first_row,
            chunk.last_row,
            chunk.size_bytes,
        ]:
            yield f"chunk {chunk.number} is not what stands in the source"


def _faults_of_rows(folder: Path, listed: Listed, rows: _Rows | None) -> Iterator[str]:
    """Counts every row of report.jsonl; looks each of them up in the source, if it is there."""
    with _opened(folder / "report.jsonl") as file:
        for line in file:
            row = _parsed(line)
            listed.add(row)
            number = row["source_row"]
            if rows is not None and number is not None:
                yield from rows.faults(number, row)
            elif rows is not None:
                yield from rows.faults_of_candidates(row["candidates"], row["chunk"])


class _Rows:
    """Rows of the source by their number, which only grows: a chunk at a time is read."""

    def __init__(self, file: SourceFile, plan: Plan, report: Mapping[str, Any], origin: Origin | None) -> None:
        self._file, self._origin, self.fields = file, origin, plan.header.own
        self._several = len(report["source"]["files"]) > 1
        self._tagged = is_tagged(plan.header.fields)
        self._roots = {chunk["chunk"]: chunk["parent"] for chunk in report["chunks"]}
        self._again = {chunk["chunk"] for chunk in report["chunks"] if chunk["again"]}
        import numpy as np  # not for every command

        try:
            with TemporaryFile() as unnamed:  # four bytes a row: as many as there are need not fit in memory
                if hasattr(os, "posix_fallocate"):  # without it a full disk kills us in mid-write
                    os.posix_fallocate(unnamed.fileno(), 0, 4 * (plan.rows + 1))
                self._chunk_of = np.memmap(unnamed, np.int32, "w+", shape=(plan.rows + 1,))
        except OSError as error:
            raise SpoolFailing(
                f"folder {gettempdir()}: no room for the numbers of the rows: {error.strerror}",
                remedy="Make room there, and run the same command again.",
            ) from error
        for chunk in plan.chunks:
            for span in chunk.spans:
                self._chunk_of[span.first_row : span.first_row + span.rows] = chunk.number
        apart = any(chunk.twins for chunk in plan.chunks) or plan.superseded_rows
        # Chunks that lie across each other are no way through the source; those it would have otherwise are.
        self._plan = _plan(report, Path(file.path), "ignore")[1] if apart else plan
        self._chunks = iter(self._plan.chunks)
        self._left = {row.row: row for row in (*plan.rejected, *plan.superseded)}
        self._budget, self._unread = report["settings"]["chunk_bytes"], bool(report["notes"])
        self._last_row = 0
        self._sent: Iterator[SentRow] = iter(())
        self._row: SentRow | None = None

    def faults(self, number: int, listed: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with a row of report.jsonl that has this number."""
        if listed["chunk"] is None:
            left = self._left.get(number)
            if left is None:
                yield f"row {number} is listed as rejected, and is none"
            elif not self._is_told(left, listed):
                yield f"row {number} is not what stands in the source"
            return
        if not self._is_in(number, listed["chunk"]):
            yield f"row {number} is listed under chunk {listed['chunk']}, which does not have it"
            return
        if listed["candidates"]:
            yield f"row {number} is said to be one of several, too"
        sent = self._find(number)
        cells = None if sent is None else list(sent.cells[self._tagged :])
        if sent is None or (cells, *self._place(sent)) != (
            list(listed["row"].values()),
            listed["source_line"],
            listed.get(FILE_COLUMN),
        ):
            yield f"row {number} is not what stands in the source"

    def faults_of_candidates(self, numbers: Sequence[int], chunk: int) -> Iterator[str]:
        """What is wrong with the rows that a record may be one of: by their numbers, since they come in no order."""
        if len(numbers) > CANDIDATES_MAX or list(numbers) != sorted(set(numbers)):
            yield f"the rows that one of chunk {chunk} may be are too many, or out of order"
        for number in numbers:
            if not self._is_in(number, chunk):
                yield f"a row of chunk {chunk} may not be row {number}, which is not in it"

    def _chunk(self, number: int) -> int:
        """The chunk of the plan that has a row; 0 of one that is not sent, -1 of none."""
        return int(self._chunk_of[number]) if 0 < number < len(self._chunk_of) else -1

    def _is_told(self, left: RejectedRow, listed: Mapping[str, Any]) -> bool:
        """Does the report say this of a row that was not sent? Of a source that it could not read, it has no values."""
        told = [*listed["row"].values(), *listed.get("more_cells", ())]
        return (left.reason, *self._place(left)) == (
            listed["reason"],
            listed["source_line"],
            listed.get(FILE_COLUMN),
        ) and (told == self._cells_of(left) or (not told and self._unread))

    def _cells_of(self, left: RejectedRow) -> list[str]:
        if left.stop - left.start > self._budget:
            return []
        with Path(self._file.path).open("rb") as file:
            file.seek(left.start)
            return list(cells_of(file.read(left.stop - left.start), left, self._plan.format)[self._tagged :])

    def _is_in(self, number: int, chunk: int) -> bool:
        """May this chunk of the report, or the one that it is a part of, have that row?"""
        seen = {chunk}
        while (parent := self._roots.get(chunk)) is not None and parent not in seen:
            chunk = parent
            seen.add(chunk)
        return self._chunk(number) > 0 and (self._chunk(number) == chunk or chunk in self._again)

    def _place(self, row: SentRow | RejectedRow) -> tuple[int | None, str | None]:
        """Line and, if it is one of several, name of the user's own file."""
        original, line = place(self._origin, row.row, row.line)
        if self._origin is None or original is None or not self._several:
            return line, None
        return line, called(self._origin.originals[original].path)

    def _find(self, number: int) -> SentRow | None:
        if self._row is not None and self._row.row == number:  # failed and warned of
            return self._row
        while number > self._last_row:
            following = next(self._chunks, None)
            if following is None:
                return None
            self._last_row = following.last_row
            if number <= self._last_row:
                self._read(following)
        self._row = next((row for row in self._sent if row.row >= number), None)
        return self._row if self._row is not None and self._row.row == number else None

    def _read(self, chunk: Chunk) -> None:
        content = read_chunk(self._file, self._plan.header, chunk)
        start = self._plan.header.stop - self._plan.header.start
        self._sent = read_sent(content[start:], chunk.spans, self._plan.format)


def _faults_of_table(folder: Path, report: Mapping[str, Any], fields: Sequence[str]) -> Iterator[str]:
    """Row by row, every column: the table for spreadsheets says what the lines for programs say."""
    with _opened(folder / "report.csv") as table, _opened(folder / "report.jsonl") as lines:
        records = csv.reader(table)
        head = next(records, None)
        if head is None or head != head_of_table(fields, several=len(report["source"]["files"]) > 1):
            yield "it has other columns"
            return
        for number, line in enumerate(lines, 1):
            row, record = _parsed(line), next(records, None)
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
        for row in map(_parsed, lines):
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


def _page(folder: Path, report: Mapping[str, Any], fields: Sequence[str], sums: CheckLine) -> CheckLine:
    """What people read, beside what programs read; sums: what was found of these."""
    what, listed, rows = "report.html beside the others", 0, Rows()
    if not sums.ok:
        return CheckLine(what, False, f"it cannot be compared: {SUMS} do not agree", NOT_BALANCED)
    with _opened(folder / "report.html") as file:
        page = file.read()
    if not is_of_this_release(page):
        return CheckLine(what, True, "another release wrote it: it was not looked at")
    with _opened(folder / "report.jsonl") as lines:
        for row in map(_parsed, lines):
            listed += 1
            rows.add(row["kind"] == "warning", map(_row, [row]))
    missing = pieces_missing(page, report, fields, rows, listed)
    return _line(what, (f"it says something else of: {name}" for name in missing), "the same numbers and rows")


def _row(line: Mapping[str, Any]) -> ReportRow:
    """A row of report.jsonl."""
    place = line["kind"], line["reason"], line["source_row"], line["source_line"], tuple(line["candidates"])
    return ReportRow(*place, line["chunk"], line["batch_id"], line["attempt"], tuple(line["row"].values()))


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
