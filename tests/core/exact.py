"""Python's csv, byte by byte and nothing else: what the planner must agree with, too simple to be wrong."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Literal

from orchestrator.core.model import Plan

Trouble = Literal["", "quote", "return"]


@dataclass(frozen=True, slots=True)
class Exact:
    """One record: its bytes [start, stop), its cells, and the first thing that readers could take differently.

    lone_return: it holds a carriage return that ends a record for csv and not for those who read lines.
    """

    start: int
    stop: int
    cells: int
    trouble: Trouble
    lone_return: bool


def exact_records(data: bytes, delimiter: bytes) -> tuple[list[Exact], int | None]:
    """Every record of the data, and where the last one begins if it opens a quote that is never closed."""
    records: list[Exact] = []
    start, cells, place = 0, 1, "begin"
    trouble: Trouble = ""
    lone_return = False
    for at in range(len(data)):
        byte, after = data[at : at + 1], data[at + 1 : at + 2]
        match place, byte:
            case "quoted", b'"':
                place = "closed"
            case "quoted", _:
                pass
            case "bare", b'"':
                trouble = trouble or "quote"
            case _, b'"':
                place = "quoted"
            case _, b"\n":
                records.append(Exact(start, at + 1, cells, trouble, lone_return))
                start, cells, place, trouble, lone_return = at + 1, 1, "begin", "", False
            case _, b"\r" if after in (b"\n", b""):
                pass
            case _, b"\r":
                place, trouble, lone_return = "bare", trouble or "return", True
            case _, _ if byte == delimiter:
                place, cells = "begin", cells + 1
            case "closed", _:
                place, trouble = "bare", trouble or "quote"
            case _:
                place = "bare"
    if start < len(data):
        if place == "quoted":
            return records, start
        records.append(Exact(start, len(data), cells, trouble, lone_return))
    return records, None


def csv_rows(data: bytes, delimiter: str) -> list[list[str]]:
    """What Python's csv reads, blank lines left out. Bytes become characters one for one, so that any can be read."""
    text = io.StringIO(data.decode("latin-1"), newline="")
    return [row for row in csv.reader(text, delimiter=delimiter) if row]


def sent(source: bytes, plan: Plan) -> bytes:
    """The rows of all chunks."""
    return b"".join(source[span.start : span.stop] for chunk in plan.chunks for span in chunk.spans)


def to_be_sent(source: bytes, plan: Plan) -> bytes:
    """The rows of the source without those that the plan rejects."""
    rejected = {row.row for row in plan.rejected}
    records, unclosed = exact_records(source[plan.header.stop :], plan.format.delimiter.encode())
    assert unclosed is None
    texts = [source[plan.header.stop :][record.start : record.stop] for record in records]
    rows = [text for text in texts if text not in (b"\n", b"\r\n", b"\r")]
    assert len(rows) == plan.rows
    return b"".join(text for number, text in enumerate(rows, 1) if number not in rejected)
