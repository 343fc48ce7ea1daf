"""How is one row of the report written? As a line of report.csv, of report.jsonl and, when it failed, of retry.csv.

report.csv is RFC 4180; a cell that a spreadsheet would run as a formula is made harmless there, and nowhere else.
Runs of plain rows are written by text alone: none of their values needs a quote or an escape, or it is written like any
other. Both ways write the same bytes.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, BinaryIO, TextIO

from orchestrator.adapters.render.source import SourceBytes
from orchestrator.core.model import Load
from orchestrator.core.report import Kind, PlainRun, ReportRow

COLUMNS = ("kind", "reason", "source_row", "source_line", "chunk", "batch_id", "attempt")
FILE_COLUMN = "source_file"
"""Stands after them where a load is made of several files."""
ROWS_AT_ONCE = 500
"""Of a run: formatted in one go, and little enough to stay in the processor's cache."""
_WIDE_STARTS = "\uff1d\uff0b\uff0d\uff20"
FORMULA_STARTS = "=+-@" + _WIDE_STARTS
"""A spreadsheet takes a cell that begins so for a formula, a Japanese one also with the wide letters (OWASP's page on
CSV injection)."""
_SEPARATORS, _BETWEEN = ",;\t\r\n", ' "'
"""What ends a cell, in one country or another, and what may stand before the formula then. (Quotes do not keep a cell
together where another separator rules: they count only at its beginning.)"""
_STARTS = re.escape(FORMULA_STARTS)
_FORMULA = re.compile(f"(?:^|(?<=[{_SEPARATORS}{_BETWEEN}]))[{_STARTS}]")
_SUSPECT = re.compile(f"{_FORMULA.pattern}|^[\t\r\n\0]")
_BEHIND_SEMICOLON = re.compile(f"; *[{_STARTS}]")
_FIRST = itemgetter(slice(1))
_ESCAPED = bytes(code for code in range(0x20) if code != 0x0A) + b"\\"
"""JSON escapes these; a value with one of them is written by the json module."""


def harmless(cell: str) -> str:
    """A cell that no spreadsheet runs, also when it takes another separator: an apostrophe before what would begin a
    formula. (Quotes around all cells would not do: where `;` separates, `"x;=1"` behind a comma is two cells.)"""
    if _SUSPECT.search(cell) is None:
        return cell
    pieces: list[str] = []
    done = 0
    for found in _FORMULA.finditer(cell):
        at = found.start()
        before = at - 1
        while before >= 0 and cell[before] in _BETWEEN:
            before -= 1
        if before < 0 or cell[before] in _SEPARATORS:
            pieces.append(cell[done:at])
            done = at
    text = "'".join([*pieces, cell[done:]]) if pieces else cell
    return "'" + text if cell.startswith(("\t", "\r", "\n", "\0")) else text


@dataclass(slots=True)
class _Lead:
    """How the lines of one kind and reason begin, and how many there were."""

    csv: str
    json: str
    first: int
    rows: int = 0


class Tables:
    """The three files, open. `retry_missing` counts failed rows that could not be found in the source."""

    def __init__(self, load: Load, source: SourceBytes, table: TextIO, lines: TextIO, retry: BinaryIO) -> None:
        self._fields, self._delimiter = load.header.own, load.format.delimiter
        self._source, self._table, self._lines, self._retry = source, table, lines, retry
        self._row_json = "{" + ", ".join(f'{_json(name).replace("%", "%%")}: "%s"' for name in self._fields) + "}"
        self._escaped = _ESCAPED.replace(self._delimiter.encode(), b"")
        self._behind_spaces = re.compile(f"[\n{self._delimiter}] +[{_STARTS}]")
        self.retry_missing = 0
        self._several = load.origin is not None and len(load.origin.originals) > 1
        table.write(_csv_line(head_of_table(self._fields, several=self._several)))
        retry.write(ended(source.own_header()))

    def write(self, row: ReportRow, source_file: str | None = None) -> None:
        """One row, whatever is in it. `source_file`: which of several original files it stands in."""
        at = {**_place(row), FILE_COLUMN: source_file} if self._several else _place(row)
        self._table.write(self._csv(row, at))
        self._lines.write(self._json(row, at))
        if row.kind == "failure":
            if row.sent is not None:
                self._retry.write(ended(self._source.bytes_of(row)))
            else:
                self.retry_missing += 1

    def write_run(self, run: PlainRun) -> list[tuple[Kind, str, int, int]]:
        """Many rows; says (kind, reason, first row, rows) of each kind and reason among them."""
        leads: dict[tuple[Kind, str], _Lead] = {}
        for at in range(0, len(run.hits), ROWS_AT_ONCE):
            self._write_rows(run, run.hits[at : at + ROWS_AT_ONCE], leads)
        return [(kind, reason, lead.first, lead.rows) for (kind, reason), lead in leads.items()]

    def _write_rows(
        self, run: PlainRun, hits: list[tuple[int, Kind, str]], leads: dict[tuple[Kind, str], _Lead]
    ) -> None:
        sent, numbers, lines = run.sent, run.sent.rows, run.sent.lines
        texts = [sent.texts[position] for position, _, _ in hits]
        if sent.odd:  # these have line ends inside, and are written like any other row
            texts = ["\0" if text.startswith("\0") else text for text in texts]
        plain = self._plain(texts)
        columns, delimiter = len(self._fields), self._delimiter
        blank = delimiter * (columns - 1)
        values = delimiter.join([text if one else blank for text, one in zip(texts, plain, strict=True)]).split(
            delimiter
        )
        cells = self._harmless(texts, values)
        for at, one in enumerate(plain):
            if not one:
                odd = sent.cells(hits[at][0])
                cells[at] = _csv_line(list(map(harmless, odd))).removesuffix("\r\n")
                values[at * columns : (at + 1) * columns] = [_quoted(value)[1:-1] for value in odd]
        offer, chunk = run.record.standing.offer, run.record.chunk.number
        batch, attempt = (offer.batch_id, offer.attempt) if offer else (None, None)
        csv_tail = f",{chunk},{_text(batch)},{_text(attempt)},"
        json_tail = f', "chunk": {chunk}, "batch_id": {_json(batch)}, "attempt": {_json(attempt)}, "candidates": []'
        table: list[str] = []
        heads: list[str] = []
        for (position, kind, reason), row in zip(hits, cells, strict=True):
            lead = leads.get((kind, reason))
            if lead is None:
                lead = leads[kind, reason] = _lead(kind, reason, numbers[position])
            lead.rows += 1
            number, line = numbers[position], lines[position]
            table.append(f"{lead.csv}{number},{line}{csv_tail}{row}\r\n")
            heads.append(f'{lead.json}{number}, "source_line": {line}{json_tail}')
        told: list[str] = [""] * (len(hits) * (columns + 1))
        told[:: columns + 1] = heads
        for column in range(columns):
            told[column + 1 :: columns + 1] = values[column::columns]
        self._table.write("".join(table))
        self._lines.write(f'%s, "row": {self._row_json}}}\n' * len(hits) % tuple(told))  # all at once: half the time
        self._retry.write(sent.raw_all([position for position, kind, _ in hits if kind == "failure"]).encode())

    def _plain(self, texts: list[str]) -> list[bool]:
        """Which rows need neither quotes nor escapes? (Those with line ends inside are known to need them.)"""
        whole = "\n".join([text for text in texts if text != "\0"]).encode()
        if len(whole.translate(None, self._escaped)) == len(whole) and (self._delimiter == "," or b"," not in whole):
            return [text != "\0" for text in texts]
        return [
            len((content := text.encode()).translate(None, self._escaped)) == len(content)
            and (self._delimiter == "," or "," not in text)
            for text in texts
        ]

    def _harmless(self, texts: list[str], values: list[str]) -> list[str]:
        """Texts as lines of report.csv, no cell of which runs: all at once, since few have such a cell. No value of
        them has a tab, a quote or a line end in it, nor a comma where that is not the delimiter."""
        delimiter = self._delimiter
        whole = "\n" + "\n".join(texts)
        begin = set(map(_FIRST, values))
        if (
            begin.intersection(_WIDE_STARTS)
            or (" " in begin and self._behind_spaces.search(whole))
            or (delimiter != ";" and _BEHIND_SEMICOLON.search(whole))
        ):
            lines = [delimiter.join(map(harmless, text.split(delimiter))) for text in texts]
        else:
            for before, first in ((delimiter, begin), ("\n", set(map(_FIRST, texts)))):
                for start in first.intersection(FORMULA_STARTS):
                    whole = whole.replace(before + start, f"{before}'{start}")
            lines = whole.split("\n")[1:]
        return lines if delimiter == "," else [line.replace(delimiter, ",") for line in lines]

    def _csv(self, row: ReportRow, at: Mapping[str, Any]) -> str:
        cells = row.cells[: len(self._fields)]
        blanks = [""] * (len(self._fields) - len(cells))
        return _csv_line([harmless(cell) for cell in (*map(_text, at.values()), *cells, *blanks)])

    def _json(self, row: ReportRow, at: Mapping[str, Any]) -> str:
        line = {**at, "candidates": list(row.candidates), "row": dict(zip(self._fields, row.cells, strict=False))}
        if more := row.cells[len(self._fields) :]:
            line["more_cells"] = list(more)  # of a row that was rejected for having them
        return _json(line) + "\n"


def _lead(kind: Kind, reason: str, first: int) -> _Lead:
    begun = _csv_line([kind, harmless(reason), "0"]).removesuffix("0\r\n")
    return _Lead(begun, f'{{"kind": {_json(kind)}, "reason": {_json(reason)}, "source_row": ', first)


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


def _csv_line(cells: Sequence[str]) -> str:
    """One record, its line end included."""
    lines: list[str] = []
    csv.writer(_Into(lines.append), lineterminator="\r\n").writerow(cells)  # with LF, a CR inside a value is not quoted
    return lines[0]


@dataclass(slots=True)
class _Into:
    """What csv writes to."""

    write: Callable[[str], None]


_json = json.JSONEncoder(ensure_ascii=False).encode
_quoted = json.encoder.encode_basestring


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def head_of_table(fields: Sequence[str], *, several: bool) -> list[str]:
    """The header of report.csv: our columns, and the source's under names that no column of ours has, and no other of
    the source's. several: the load is made of several files."""
    ours = [*COLUMNS, *[FILE_COLUMN] * several]
    taken = {*ours, *fields}
    names: list[str] = []
    for name in fields:
        unique = name
        while unique in ours or (unique != name and unique in taken):
            unique = f"source.{unique}"
        taken.add(unique)
        names.append(unique)
    return [*ours, *map(harmless, names)]


def row_of_table(row: Mapping[str, Any], columns: int) -> list[str]:
    """A row of report.jsonl as report.csv has it, with so many columns."""
    ours = [row[name] for name in (*COLUMNS, FILE_COLUMN) if name != FILE_COLUMN or name in row]
    cells = [harmless(_text(value)) for value in (*ours, *row["row"].values())]
    return cells + [""] * (columns - len(cells))


def ended(row: bytes) -> bytes:
    """A row that ends its line."""
    return row if row.endswith(b"\n") else row + b"\n"
