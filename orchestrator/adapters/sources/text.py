"""How does text of any encoding, in one file or in several, become one UTF-8 text?

One file keeps its bytes but for the encoding, so lines and bytes are those that its user sees. Of several files the
first gives the header; every other must have the same columns in the same order, and its own header is left out.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from orchestrator.core.header import HEADER_BYTES_MAX, Head, HeaderReader
from orchestrator.core.model import Format
from orchestrator.errors import FilesDiffer, Misconfigured, UnknownEncoding

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def codec_of(encoding: str | None, head: bytes) -> str | None:
    """The codec to decode by; None for UTF-8, which is kept as it is."""
    if encoding is None:
        return "utf-16" if head.startswith(UTF16_MARKS) and not head.startswith(b"\xff\xfe\0\0") else None
    try:
        found = codecs.lookup(encoding)
        "".encode(found.name)  # refuses what is no encoding of text (zlib, rot13)
    except (LookupError, ValueError) as error:
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
        except UnicodeError:  # says no place: UTF-16 without a mark. Its text may quote a value.
            raise UnknownEncoding(
                f"{name}: it cannot be read as {codec}; nothing was sent",
                remedy="Say the right one with --encoding; UTF-16 without a byte order mark is utf-16-le or utf-16-be.",
            ) from None
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


def head_of(blocks: Iterator[bytes], name: str, inner: str, format: Format | None) -> tuple[bytes, Head]:
    """Reads as far as the header's end: what stands before it, and the header.

    inner: the name without its packing, for its suffix.
    """
    suffix = inner.lower().rpartition(".")[2]
    by_suffix = Format.TSV if suffix == "tab" else Format(suffix) if suffix in list(Format) else None
    reader = HeaderReader(format=format or by_suffix, name=name, lookup_field=None, budget=HEADER_BYTES_MAX)
    before = b""
    for block in blocks:
        before += block
        if (head := reader.feed(block)) is not None:
            break
    else:
        head = reader.finish()
    return before[: head.header.start], head


def check_same(first: Head, first_name: str, other: Head, name: str) -> None:
    """Raises FilesDiffer, which says how, when two files are not of one load."""
    if first.format is not other.format:
        raise FilesDiffer(
            f"{name} is {other.format} and {first_name} is {first.format}: files of one load have one format",
            remedy="Load them one by one, or say --format.",
        )
    difference = _difference(first.header.fields, other.header.fields)
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
    if not parts:  # no name stands twice in a header: the same ones stand in another order
        at = next(at for at, (a, b) in enumerate(zip(first, other, strict=True)) if a != b)
        return f"column {at + 1} is {other[at]!r}, not {first[at]!r}"
    return ", ".join(parts[:5]) + (f" and {len(parts) - 5} more differences" if len(parts) > 5 else "")


def open_quote(rows: BinaryIO, format: Format) -> tuple[int, int] | None:
    """Row and line, from 1, of the record in which a value goes on at the end, for csv; None when none does.

    (A line of our own is then swallowed by it.)
    """
    lines = (_without_lone_returns(line.decode(errors="replace")) for line in rows)
    reader = csv.reader(chain(lines, ["\n", _END]), delimiter=format.delimiter)
    row = begun = 0
    for record in reader:
        if record == [_END]:
            return None
        row += bool(record)  # a blank line is none
        last, begun = begun, reader.line_num
    return row, last + 1


_END = "end of file"


def _without_lone_returns(line: str) -> str:
    """csv refuses a carriage return alone; for quotes it is a character like others."""
    end = 2 if line.endswith("\r\n") else 1
    return line[:-end].replace("\r", " ") + line[-end:]
