"""Which columns does the source have, and where do its rows begin?

The header is the source's first record that is not blank, after a BOM if there is one. Its delimiter is told, else it
goes by the name's suffix, else by the header itself: the delimiter under which it is sound and has most columns.
Whatever is wrong with it, or shows that the source is not text, is a SourceUnusable that names place, value and remedy.
"""

from __future__ import annotations

import csv
import io
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from orchestrator.core.model import Format, Header
from orchestrator.core.record import LONE_RETURN, Record, telling_bytes
from orchestrator.errors import (
    DuplicateColumn,
    EmptySource,
    HeaderTooLarge,
    MalformedHeader,
    MissingLookupColumn,
    NotText,
    SourceUnusable,
    UnclosedQuote,
    UnknownEncoding,
)

BOM: Final = b"\xef\xbb\xbf"

HEADER_BYTES_MAX: Final = 1_000_000
"""No header is this long: Marketo's names have at most 255 characters, and it has a few thousand fields."""

_SIGNATURES: Final[dict[bytes, str]] = {
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    b"SQLite f": "an SQLite database",
}
_SIGNATURE_BYTES: Final = 8
_SUFFIXES: Final = {".csv": Format.CSV, ".tsv": Format.TSV, ".tab": Format.TSV, ".ssv": Format.SSV}

csv.field_size_limit(max(csv.field_size_limit(), HEADER_BYTES_MAX))  # its own limit is 128 KB a value


@dataclass(frozen=True, slots=True)
class Head:
    """What the rows rest on. line: the one on which they begin. rest: bytes that were fed and lie after the header."""

    header: Header
    format: Format
    raw: bytes
    line: int
    rest: bytes


class HeaderReader:
    """Reads the header from the source's first blocks, however they are cut.

    name: for its suffix and for messages. lookup_field: a column that must be there, or None. budget: a chunk's, of
    which the header must leave something.
    """

    def __init__(self, *, format: Format | None, name: str, lookup_field: str | None, budget: int) -> None:
        self._name, self._lookup_field, self._budget = name, lookup_field, budget
        self._format = format or _SUFFIXES.get("." + name.lower().rpartition(".")[2])
        delimiters = [self._format] if self._format else Format
        self._record = Record(telling_bytes("".join(one.delimiter for one in delimiters).encode()))
        self._head = b""
        self._start = self._followed = 0

    def feed(self, block: bytes) -> Head | None:
        """The header, once it has ended."""
        self._head += block
        if len(self._head) < _SIGNATURE_BYTES:
            return None
        stop = self._stop()
        self._check_text(stop)
        if stop is not None:
            return self._read(stop)
        if self._record.size_bytes >= HEADER_BYTES_MAX:
            raise self._endless()
        return None

    def finish(self) -> Head:
        """The header of a source that ended before the header did."""
        stop = self._stop()
        self._check_text(stop)
        if self._start == len(self._head):
            raise EmptySource(f"{self._name}: the file is empty", remedy="Nothing was sent; check how it was exported.")
        if stop is None and self._record.in_quotes:
            raise self._endless()
        return self._read(stop or len(self._head))

    def _stop(self) -> int | None:
        """Where the header ends. Known for sure only if all its quotes stand where values begin and end.

        As long as the delimiter is not known, a quote after any of them opens a value. Where that is wrong, the header
        is malformed under the delimiter that is found in the end.
        """
        if self._followed == self._start:  # there may be blank lines before it
            self._start = len(BOM) if self._head.startswith(BOM) else 0
            self._start += len(self._head) - self._start - len(self._head[self._start :].lstrip(b"\r\n"))
            self._followed = self._start
        known = self._head[: self._start + HEADER_BYTES_MAX]
        stop = self._record.follow(known, self._followed)
        self._followed = len(known)
        return stop

    def _read(self, stop: int) -> Head:
        start, raw = self._start, self._head[self._start : stop]
        line = 1 + self._head.count(b"\n", 0, start)
        format = self._format or _likely_format(raw)
        record = Record(telling_bytes(format.delimiter.encode()))
        ended = record.follow(raw, 0)
        try:
            text = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UnknownEncoding(
                f"{self._name}: byte {start + error.start:,} of the header (line {line}) is not UTF-8",
                remedy="Say which encoding it is in, such as --encoding cp1252, or export it as UTF-8.",
            ) from error
        if record.problem is not None:
            raise self._malformed(record, line, _other_format(raw))
        assert not record.in_quotes, "quotes that are sound under one delimiter end where they end under any"
        assert ended in (None, stop - start), "a header that is sound ends where it was found to end"
        fields = tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=format.delimiter)))
        self._check_columns(fields, format, line)
        if len(raw) >= self._budget:
            raise HeaderTooLarge(
                f"{self._name}: the header has {len(raw):,} bytes and leaves no room within chunks of {self._budget:,}",
                remedy="Raise limits.chunk_bytes, or leave columns out.",
            )
        return Head(Header(start, stop, fields), format, raw, line + raw.count(b"\n"), self._head[stop:])

    # --- what may be wrong ------------------------------------------------------------------------------

    def _check_text(self, stop: int | None) -> None:
        """Up to the end of the header; the rows are looked at where they are read."""
        for signature, what in _SIGNATURES.items():
            if self._head.startswith(signature):
                raise NotText(
                    f"{self._name}: this is {what}, not text",
                    remedy="Unpack it, or export it as UTF-8 text (CSV, TSV or SSV).",
                )
        if self._head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnknownEncoding(
                f"{self._name}: this is UTF-16 text; only UTF-8 is read", remedy="Export or convert it as UTF-8."
            )
        if (nul := self._head.find(0, 0, self._followed if stop is None else stop)) >= 0:
            raise NotText(
                f"{self._name}: byte {nul:,} is NUL: this is not a text file, or not UTF-8",
                remedy="Export it as UTF-8 text (CSV, TSV or SSV).",
            )

    def _endless(self) -> SourceUnusable:
        line = 1 + self._head.count(b"\n", 0, self._start)
        if self._record.in_quotes:
            opened = self._start + self._record.opened
            return UnclosedQuote(
                f"{self._name}: the header on line {line} opens a quote that is never closed (byte {opened:,})",
                remedy="Close the quote in the header.",
            )
        if self._record.problem is not None:
            return self._malformed(self._record, line)
        return HeaderTooLarge(
            f"{self._name}: the first line is longer than {HEADER_BYTES_MAX:,} bytes",
            remedy="The first line must name the columns; check the line ends of the file.",
        )

    def _malformed(self, record: Record, line: int, remedy: str = "") -> SourceUnusable:
        place = self._start + record.problem_at
        if record.problem == LONE_RETURN:
            return UnknownEncoding(
                f"{self._name}: the header ends in a carriage return alone (byte {place:,}; old Mac text)",
                remedy="Convert the line ends to LF or CRLF.",
            )
        return MalformedHeader(
            f"{self._name}: in the header on line {line} {record.problem} (byte {place:,})",
            remedy=remedy
            or 'Readers would not agree on its columns: leave the quote out, or write it as "" inside quotes.',
        )

    def _check_columns(self, fields: tuple[str, ...], format: Format, line: int) -> None:
        columns: dict[str, int] = {}
        for position, name in enumerate(fields, 1):
            if not name.strip():
                raise DuplicateColumn(
                    f"{self._name}: column {position} of the header (line {line}) has no name",
                    remedy="Name it, or leave the column out.",
                )
            if (first := columns.setdefault(name, position)) != position:
                raise DuplicateColumn(
                    f"{self._name}: columns {first} and {position} of the header (line {line}) are both named {name!r}",
                    remedy="Rename or leave out one of them: Marketo would keep one value of the two.",
                )
        wanted = self._lookup_field
        if wanted is not None and wanted not in columns:
            raise MissingLookupColumn(
                f"{self._name}: the header (line {line}) has no column {wanted!r}; without it every row would fail",
                remedy=_lookup_remedy(wanted, fields, format),
            )


def _likely_format(raw: bytes) -> Format:
    """The one under which the header is sound and has most columns; CSV when all are equal."""
    return max(Format, key=lambda format: _fit(raw, format))


def _fit(raw: bytes, format: Format) -> tuple[bool, int]:
    """Is the header sound under this format, and how many columns has it then?"""
    record = Record(telling_bytes(format.delimiter.encode()))
    record.follow(raw, 0)
    return record.problem is None and not record.in_quotes, record.cells


def _other_format(raw: bytes) -> str:
    """What to say where the header is sound, and has several columns, under another format; else nothing."""
    likely = _likely_format(raw)
    sound, columns = _fit(raw, likely)
    return f"The header looks like {likely}: say --format {likely}." if sound and columns > 1 else ""


def _lookup_remedy(wanted: str, fields: tuple[str, ...], format: Format) -> str:
    for other in Format:
        if other is not format and len(fields) == 1 and other.delimiter in fields[0]:
            return f"The header looks like {other}: say --format {other}."
    plain = {_letters(name): name for name in reversed(fields)}
    near = get_close_matches(_letters(wanted), plain, n=1)
    if not near:
        return (
            f"Rename one with --map {wanted}=COLUMN, or (of leads) set --lookup-field to the one that identifies them."
        )
    name = plain[near[0]]
    rename = shlex.quote(f"{wanted}={name}")
    return (
        f"The nearest column is {name!r} (case and spaces count): say --map {rename}, or (of leads) set --lookup-field."
    )


def _letters(name: str) -> str:
    """A name without what people write differently."""
    return "".join(character for character in name.lower() if character.isalnum()) or name
