"""How is one row of the report written? As a line of report.csv, of report.jsonl and, when it failed, of retry.csv.

report.csv is RFC 4180; a cell that a spreadsheet would run as a formula is made harmless there, and nowhere else.
Runs of plain rows are written by text alone: none of their values needs a quote or an escape, or it is written like any
other. Both ways write the same bytes. Texts of runs are narrow, as `core.plain` has them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from orchestrator.adapters.render.source import SourceBytes
from orchestrator.core.model import Load
from orchestrator.core.plain import narrow
from orchestrator.core.runs import Kind, PlainRun, ReportRow, Sending

COLUMNS = ("kind", "reason", "source_row", "source_line", "chunk", "batch_id", "attempt")
FILE_COLUMN = "source_file"
"""Stands after them where a load is made of several files."""
ROWS_AT_ONCE = 500
"""Of a run: formatted in one go, and little enough to stay in the processor's cache."""
_STARTS, _WIDE_STARTS = "-=+@", "\uff1d\uff0b\uff0d\uff20"
FORMULA_STARTS = _STARTS + _WIDE_STARTS
"""A spreadsheet takes a cell that begins so for a formula, a Japanese one also with the wide letters (OWASP's page on
CSV injection)."""
_SEPARATORS = ",;\t\r\n"
"""What ends a cell, in one country or another. (Quotes do not keep a cell together where another separator rules: they
count only at its beginning.)"""
_FORMULA = f'[ "]*+[{FORMULA_STARTS}]'
_NARROW_FORMULA = f'[ "]*+(?:[{_STARTS}]|{"|".join(map(narrow, _WIDE_STARTS))})'
_CELL = re.compile(f"^(?=[\t\r\n\0])|(?:^|(?<=[{_SEPARATORS}]))(?={_FORMULA})")
_CELLS = {mark: re.compile(f"{mark}(?={_NARROW_FORMULA})") for mark in _SEPARATORS}
_CELLS["\0"] = re.compile(f"\0(?=[\t\r\n]|{_NARROW_FORMULA})")
"""In a narrow text of many cells, with NUL between where there is no other mark: each is quick to find."""
_LINE_END = "\r\n"
"""With LF, csv would not quote a CR inside a value."""
_ESCAPED = bytes(code for code in range(0x20) if code != 0x0A) + b"\\"
"""JSON escapes these; a value with one of them is written by the json module."""


def harmless(cell: str) -> str:
    """A cell that no spreadsheet runs, also when it takes another separator: an apostrophe before what would begin a
    formula. (Quotes around all cells would not do: where `;` separates, `"x;=1"` behind a comma is two cells.)"""
    return _CELL.sub("'", cell)


def _harmless_behind(marks: str, text: str) -> str:
    """The same of all cells of a narrow text that stand behind one of these marks."""
    for mark in marks:
        text = _CELLS[mark].sub(f"{mark}'", text)
    return text


@dataclass(slots=True)
class _Lead:
    """What lines of one kind, reason and sending have in common (narrow), and how many there were."""

    csv: str
    csv_sent: str
    json: str
    json_sent: str
    first: int
    rows: int = 0


class Tables:
    """The three files, open. `retry_missing` counts failed rows that could not be found in the source."""

    def __init__(self, load: Load, source: SourceBytes, table: BinaryIO, lines: BinaryIO, retry: BinaryIO) -> None:
        self._fields, self._delimiter = load.header.own, load.format.delimiter
        self._source, self._table, self._lines, self._retry = source, table, lines, retry
        row_json = ", ".join(f'{_json(name).replace("%", "%%")}: "%s"' for name in self._fields)
        self._line_json = f'%s, "row": {{{narrow(row_json)}}}}}\n'
        self._escaped = _ESCAPED.replace(self._delimiter.encode(), b"")
        self._separators = "".join({self._delimiter, ";"})
        self.retry_missing = 0
        self._several = load.origin is not None and len(load.origin.originals) > 1
        table.write(_csv_line(head_of_table(self._fields, several=self._several)).encode())
        retry.write(ended(source.own_header()))

    def write(self, row: ReportRow, source_file: str | None = None) -> None:
        """One row, whatever is in it. `source_file`: which of several original files it stands in."""
        at = {**_place(row), FILE_COLUMN: source_file} if self._several else _place(row)
        self._table.write(self._csv(row, at).encode())
        self._lines.write(self._json(row, at).encode())
        if row.kind == "failure":
            if row.sent is not None:
                self._retry.write(ended(self._source.bytes_of(row)))
            else:
                self.retry_missing += 1

    def write_run(self, run: PlainRun) -> list[tuple[Kind, str, int, int]]:
        """Many rows; says (kind, reason, first row, rows) of each kind and reason among them."""
        leads: dict[tuple[Kind, str, Sending], _Lead] = {}
        for at in range(0, len(run.hits), ROWS_AT_ONCE):
            self._write_rows(run, run.hits[at : at + ROWS_AT_ONCE], leads)
        return [(kind, reason, lead.first, lead.rows) for (kind, reason, _), lead in leads.items()]

    def _write_rows(
        self, run: PlainRun, hits: list[tuple[int, Kind, str]], leads: dict[tuple[Kind, str, Sending], _Lead]
    ) -> None:
        sent, numbers, lines = run.sent, run.sent.rows, run.sent.lines
        columns, delimiter = len(self._fields), self._delimiter
        texts = [sent.texts[position] for position, _, _ in hits]
        odd = self._odd(texts)
        for at in odd:
            texts[at] = delimiter * (columns - 1)
        values = delimiter.join(texts).split(delimiter)
        cells = self._plain_lines(texts)
        if odd:
            rows = [sent.values(hits[at][0]) for at in odd]
            for at, one, cells[at] in zip(odd, rows, _odd_lines(rows), strict=True):
                values[at * columns : (at + 1) * columns] = [_quoted(value)[1:-1] for value in one]
        table: list[str] = []
        heads: list[str] = []
        for (position, kind, reason), row in zip(hits, cells, strict=True):
            number, line, sending = numbers[position], lines[position], run.sendings[position]
            lead = leads.get((kind, reason, sending))
            if lead is None:
                lead = leads[kind, reason, sending] = _lead(kind, reason, sending, number)
            lead.rows += 1
            table.append(f"{lead.csv}{number},{line}{lead.csv_sent}{row}{_LINE_END}")
            heads.append(f'{lead.json}{number}, "source_line": {line}{lead.json_sent}')
        told: list[str] = [""] * (len(hits) * (columns + 1))
        told[:: columns + 1] = heads
        for at in range(columns):
            told[at + 1 :: columns + 1] = values[at::columns]
        self._table.write("".join(table).encode("latin-1"))
        self._lines.write((self._line_json * len(hits) % tuple(told)).encode("latin-1"))  # all at once: half the time
        self._retry.write(b"".join([ended(sent.raw(position)) for position, kind, _ in hits if kind == "failure"]))

    def _odd(self, texts: list[str]) -> list[int]:
        """Which rows need quotes or escapes? Those with NUL between their values, and few others."""
        plain = self._is_plain("\n".join([text for text in texts if not text.startswith("\0")]))
        return [at for at, text in enumerate(texts) if text.startswith("\0") or not (plain or self._is_plain(text))]

    def _is_plain(self, text: str) -> bool:
        content = text.encode("latin-1")
        return len(content.translate(None, self._escaped)) == len(content) and (
            self._delimiter == "," or "," not in text
        )

    def _plain_lines(self, texts: list[str]) -> list[str]:
        """Rows as lines of report.csv, no cell of which runs: all at once, a delimiter before and behind each."""
        between = f"{self._delimiter}\n{self._delimiter}"
        whole = self._delimiter + between.join(texts)
        lines = _harmless_behind(self._separators, whole)[1:].split(between)
        return lines if self._delimiter == "," else [line.replace(self._delimiter, ",") for line in lines]

    def _csv(self, row: ReportRow, at: Mapping[str, Any]) -> str:
        cells = row.cells[: len(self._fields)]
        blanks = [""] * (len(self._fields) - len(cells))
        return _csv_line([harmless(cell) for cell in (*map(_text, at.values()), *cells, *blanks)])

    def _json(self, row: ReportRow, at: Mapping[str, Any]) -> str:
        line = {**at, "candidates": list(row.candidates), "row": dict(zip(self._fields, row.cells, strict=False))}
        if more := row.cells[len(self._fields) :]:
            line["more_cells"] = list(more)  # of a row that was rejected for having them
        return _json(line) + "\n"


def _lead(kind: Kind, reason: str, sending: Sending, first: int) -> _Lead:
    begun = _csv_line([kind, harmless(reason), ""]).removesuffix(_LINE_END)
    chunk, batch, attempt = sending
    return _Lead(
        csv=narrow(begun),
        csv_sent=f",{chunk},{_text(batch)},{_text(attempt)},",
        json=narrow(f'{{"kind": {_json(kind)}, "reason": {_json(reason)}, "source_row": '),
        json_sent=f', "chunk": {chunk}, "batch_id": {_json(batch)}, "attempt": {_json(attempt)}, "candidates": []',
        first=first,
    )


def _odd_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of as many cells each, whatever is in these, as lines of report.csv."""
    text = "".join([f"\0{cell}" for row in rows for cell in row])
    cells = iter(_harmless_behind(_SEPARATORS + "\0", text).split("\0")[1:])
    lines: list[str] = []
    csv.writer(_Into(lines.append), lineterminator=_LINE_END).writerows([next(cells) for _ in row] for row in rows)
    return [line.removesuffix(_LINE_END) for line in lines]


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
    csv.writer(_Into(lines.append), lineterminator=_LINE_END).writerow(cells)
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
