"""How do JSON lines become rows? One object a line; its keys are the columns.

- Columns are all keys of the file, in the order in which they are first seen; where an object lacks one, the value is
  empty. So no value is dropped because an early object did not have its key.
- Numbers stay exactly as they are written, booleans are true and false, null is empty.
- A nested value has no form as a cell and is refused, and so is a key that an object has twice.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator

from orchestrator.adapters.sources.places import Places
from orchestrator.adapters.sources.spool import BUFFER_BYTES, Spool
from orchestrator.core.header import BOM
from orchestrator.errors import EmptySource, TooLargeUnpacked, UnknownEncoding, ValuesUnfit

SUFFIXES = (".jsonl", ".ndjson", ".json")
LINE_BYTES_MAX = 16_000_000
"""A chunk holds less than 10 MB."""
COLUMNS_MAX = 5_000
"""Marketo has a few thousand fields."""


def looks_like(inner: str, head: bytes) -> bool:
    """By suffix, or because it begins with an object."""
    return inner.lower().endswith(SUFFIXES) or head.removeprefix(BOM).lstrip().startswith(b'{"')


def rows_of(files: Iterable[tuple[str, Iterator[bytes]]], body: Spool, places: Places) -> Iterator[bytes]:
    """All files as one CSV text. body: holds the rows until all columns are known."""
    table = _Table(body)
    for index, (name, blocks) in enumerate(files):
        places.file(index)
        for number, line in _lines(blocks, name):
            if line.strip():
                places.next_rows(number)
                table.add(_object(line, name, number), name, number)
    return table.csv()


class _Table:
    """Rows on their way to the body, under the columns known so far."""

    def __init__(self, body: Spool) -> None:
        self._body = body
        self._columns: dict[str, int] = {}
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)
        self._rows, self._grew = 0, False
        self._last = ("", 0)
        """File and line of the last row."""

    def add(self, pairs: list[tuple[str, object]], name: str, line: int) -> None:
        columns, cells = self._columns, [""] * len(self._columns)
        for key, value in pairs:
            at = columns.get(key)
            if at is None:
                at = self._new_column(key, name, line)
                cells.append("")
            if type(value) is not str:
                value = _cell(value, key, name, line)
            cells[at] = value
        if len({key for key, _ in pairs}) != len(pairs):
            twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
            raise ValuesUnfit(f"{name}: line {line:,}: key {twice!r} stands twice", remedy="Leave one of them out.")
        self._writer.writerow(cells)
        self._rows, self._last = self._rows + 1, (name, line)
        if self._text.tell() >= BUFFER_BYTES:
            self._flush()

    def csv(self) -> Iterator[bytes]:
        """The whole text, the header first."""
        if not self._columns:
            raise EmptySource("the JSON lines hold no object", remedy="Nothing was sent; check how it was exported.")
        self._flush()
        self._body.flush()
        header = io.StringIO(newline="")
        csv.writer(header).writerow(self._columns)
        yield header.getvalue().encode()
        if not self._grew:
            with self._body.path.open("rb") as file:
                while block := file.read(BUFFER_BYTES):
                    yield block
            return
        width = len(self._columns)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        with self._body.path.open(encoding="utf-8", newline="") as lines:
            for cells in csv.reader(lines):
                writer.writerow(cells + [""] * (width - len(cells)))
                if text.tell() >= BUFFER_BYTES:
                    yield text.getvalue().encode()
                    text.seek(0)
                    text.truncate()
        yield text.getvalue().encode()

    def _new_column(self, key: str, name: str, line: int) -> int:
        if len(self._columns) >= COLUMNS_MAX:
            raise ValuesUnfit(
                f"{name}: line {line:,}: more than {COLUMNS_MAX:,} different keys; nothing was sent",
                remedy="Keys must be names of fields; check how it was exported.",
            )
        self._grew = self._grew or self._rows > 0
        self._columns[key] = len(self._columns)
        return self._columns[key]

    def _flush(self) -> None:
        name, line = self._last
        try:
            self._body.write(self._text.getvalue().encode())
        except UnicodeEncodeError as error:
            raise UnknownEncoding(
                f"{name}: in line {line:,} or before, a value has half of a character (a lone surrogate)",
                remedy="Mend the file.",
            ) from error
        self._text.seek(0)
        self._text.truncate()


def _cell(value: object, key: str, name: str, line: int) -> str:
    if value is None:
        return ""
    if value is True:
        return "true"
    if value is False:
        return "false"
    raise ValuesUnfit(
        f"{name}: line {line:,}, key {key!r}: a nested value; nothing was sent",
        remedy="A cell holds text, a number, true, false or null: flatten it, or leave the key out.",
    )


def _pairs(pairs: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return pairs


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is not a number of JSON")


_decode = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=str, parse_float=str, parse_constant=_no_number, strict=False
).decode


def _object(line: bytes, name: str, number: int) -> list[tuple[str, object]]:
    try:
        found = _decode(line.decode())
    except UnicodeDecodeError as error:
        raise UnknownEncoding(
            f"{name}: line {number:,}: byte {error.start + 1:,} of the line (0x{line[error.start]:02X}) is not UTF-8",
            remedy="Say the right encoding with --encoding, or mend the file.",
        ) from error
    except (ValueError, RecursionError) as error:
        where = f" (at character {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ValuesUnfit(
            f"{name}: line {number:,} is not JSON{where}; nothing was sent",
            remedy="One complete object a line; an array goes through `jq -c '.[]'`.",
        ) from error
    if not line.lstrip().startswith(b"{"):
        raise ValuesUnfit(
            f"{name}: line {number:,} is not an object; nothing was sent",
            remedy="One object a line; an array goes through `jq -c '.[]'`.",
        )
    return found  # type: ignore[no-any-return]


def _lines(blocks: Iterator[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1. A BOM before the first is left out."""
    number, carry = 0, b""
    for block in blocks:
        if number == 0 and not carry:
            block = block.removeprefix(BOM)
        lines = (carry + block).split(b"\n")
        carry = lines.pop()
        if len(carry) > LINE_BYTES_MAX:
            raise TooLargeUnpacked(
                f"{name}: line {number + len(lines) + 1:,} has more than {LINE_BYTES_MAX:,} bytes; nothing was sent",
                remedy="One object a line.",
            )
        for line in lines:
            number += 1
            yield number, line
    if carry:
        yield number + 1, carry
