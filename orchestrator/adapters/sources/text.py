"""How does text of any encoding, in one file or in several, become one UTF-8 text?

One file keeps its bytes but for the encoding, so lines and bytes are those that its user sees. Of several files the
first gives the header; every other must have the same columns in the same order, and its own header is left out.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from orchestrator.core.model import Format
from orchestrator.core.plan import BOM, HEADER_BYTES_MAX, format_of
from orchestrator.errors import EmptySource, FilesDiffer, Misconfigured, UnclosedQuote, UnknownEncoding

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Head:
    """The header of a text: its columns, its bytes, and what came after it in the first block."""

    fields: tuple[str, ...]
    format: Format
    before: bytes
    raw: bytes
    rest: bytes


def codec_of(encoding: str | None, head: bytes) -> str | None:
    """The codec to decode by; None for UTF-8, which is kept as it is."""
    if encoding is None:
        return "utf-16" if head.startswith(UTF16_MARKS) and not head.startswith(b"\xff\xfe\0\0") else None
    try:
        found = codecs.lookup(encoding)
        "".encode(found.name)  # refuses what is no encoding of text (zlib, rot13)
    except (LookupError, UnicodeError) as error:
        raise Misconfigured(
            f"--encoding {encoding}: no such encoding of text",
            remedy="Such as utf-16, latin-1, cp1252, shift_jis: the names that Python knows.",
        ) from error
    return None if found.name in ("utf-8", "utf-8-sig") else found.name


def transcoded(blocks: Iterator[bytes], codec: str, name: str) -> Iterator[bytes]:
    """The same text in UTF-8. Raises UnknownEncoding, naming row and byte of what is not in this encoding."""
    decoder = codecs.getincrementaldecoder(codec)()
    at, rows = 0, _Records()
    for final, block in _with_last(blocks):
        state = decoder.getstate()
        pending = len(state[0])
        try:
            text = decoder.decode(block, final)
        except UnicodeDecodeError as error:
            decoder.setstate(state)
            rows.feed(decoder.decode(block[: max(0, error.start - pending)]))
            byte = at - pending + error.start
            raise UnknownEncoding(
                f"{name}: byte {byte:,} ({rows.place()}) is not {codec}; nothing was sent",
                remedy="Say the right one with --encoding, or mend the file.",
            ) from error
        at += len(block)
        if "\0" in text:
            rows.feed(text[: text.index("\0")])
            raise UnknownEncoding(
                f"{name}: read as {codec}, there is NUL ({rows.place()}): it is in another encoding",
                remedy="Say the right one with --encoding.",
            )
        rows.feed(text)
        try:
            yield text.encode()
        except UnicodeEncodeError as error:
            raise UnknownEncoding(
                f"{name}: read as {codec}, there are halves of characters (about {rows.place()})",
                remedy="Say the right one with --encoding, or mend the file.",
            ) from error


class _Records:
    """Counts records by their line ends outside quotes."""

    def __init__(self) -> None:
        self._quoted, self._ends, self._lines = False, 0, 1

    def feed(self, text: str) -> None:
        parts = text.split('"')
        outside = parts[1::2] if self._quoted else parts[::2]
        self._ends += sum(part.count("\n") for part in outside)
        self._lines += text.count("\n")
        self._quoted ^= len(parts) % 2 == 0

    def place(self) -> str:
        return f"row {self._ends}, line {self._lines}" if self._ends else f"the header, line {self._lines}"


def _with_last(blocks: Iterator[bytes]) -> Iterator[tuple[bool, bytes]]:
    for block in blocks:
        yield False, block
    yield True, b""


def head_of(blocks: Iterator[bytes], name: str, inner: str, format: Format | None) -> Head:
    """Reads as far as the header's end. inner: the name without its packing, for its suffix."""
    data = b""
    for block in blocks:
        data += block
        start = _begin(data)
        stop = _record_end(data, start)
        if stop is not None:
            return _head(data, start, stop, inner, format)
        if len(data) > HEADER_BYTES_MAX + (1 << 20):
            raise UnclosedQuote(
                f"{name}: the header does not end within {HEADER_BYTES_MAX:,} bytes",
                remedy="Close the quote in the header, or check the line ends of the file.",
            )
    start = _begin(data)
    if start == len(data):
        raise EmptySource(f"{name}: the file is empty", remedy="Nothing was sent; check how it was exported.")
    return _head(data, start, len(data), inner, format)


def _begin(data: bytes) -> int:
    start = len(BOM) if data.startswith(BOM) else 0
    while data[start : start + 1] in (b"\r", b"\n"):
        start += 1
    return start


def _record_end(data: bytes, start: int) -> int | None:
    at = start
    while (end := data.find(b"\n", at)) >= 0:
        if data.count(b'"', start, end) % 2 == 0:
            return end + 1
        at = end + 1
    return None


def _head(data: bytes, start: int, stop: int, inner: str, format: Format | None) -> Head:
    text = data[start:stop].decode(errors="replace").rstrip("\r\n")
    found = format or format_of(inner, text)
    try:
        fields = tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=found.delimiter)))
    except csv.Error:  # a carriage return alone: the planner says so
        fields = (text,)
    return Head(fields, found, data[:start], data[start:stop], data[stop:])


def check_same(first: Head, first_name: str, other: Head, name: str) -> None:
    """Raises FilesDiffer, which says how, when two files are not of one load."""
    if first.format is not other.format:
        raise FilesDiffer(
            f"{name} is {other.format} and {first_name} is {first.format}: files of one load have one format",
            remedy="Load them one by one, or say --format.",
        )
    difference = _difference(first.fields, other.fields)
    if difference:
        raise FilesDiffer(
            f"{name} has other columns than {first_name}: {difference}; nothing was sent",
            remedy="Files of one load have the same columns in the same order. Load them one by one, or use --query.",
        )


def _difference(first: tuple[str, ...], other: tuple[str, ...]) -> str:
    if first == other:
        return ""
    parts = [f"it lacks {name!r}" for name in first if name not in other]
    parts += [f"it has {name!r} besides" for name in other if name not in first]
    if not parts:
        at = next(
            (at for at, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other))
        )
        if at >= len(other) or at >= len(first):
            return f"{len(other)} columns, not {len(first)}"
        return f"column {at + 1} is {other[at]!r}, not {first[at]!r}"
    return ", ".join(parts[:5]) + (f" and {len(parts) - 5} more differences" if len(parts) > 5 else "")


def ends_quoted(rows: BinaryIO, format: Format) -> bool:
    """Does a value go on at the end, for csv? (A line of our own is then swallowed by it.)"""
    lines = (_without_lone_returns(line.decode(errors="replace")) for line in rows)
    last = deque(csv.reader(chain(lines, ["\n", _END]), delimiter=format.delimiter), maxlen=1)
    return last.pop() != [_END]


_END = "end of file"


def _without_lone_returns(line: str) -> str:
    """csv refuses a carriage return alone; for quotes it is a character like others."""
    end = 2 if line.endswith("\r\n") else 1
    return line[:-end].replace("\r", " ") + line[-end:]
