"""Which kind of source is it, and through which hands does it go into the spool?

By content first (signatures, byte order marks), by suffix where content does not tell. Each original becomes delimited
text, packed or not; the first gives the header, the others must have the same; columns are renamed in the header alone;
a query runs over the result.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from orchestrator.adapters.sources import jsonlines, packed, text, workbook
from orchestrator.adapters.sources.inputs import Input, Interrupted
from orchestrator.adapters.sources.places import Places
from orchestrator.adapters.sources.spool import BUFFER_BYTES, Spool
from orchestrator.adapters.sources.tables import Tables
from orchestrator.core.header import Head
from orchestrator.core.model import ROW_TAG, Format, Origin, Original, Reading
from orchestrator.core.origins import called
from orchestrator.core.tags import Tagger
from orchestrator.errors import (
    ArchiveUnsound,
    DuplicateColumn,
    FilesDiffer,
    SourceUnusable,
    UnclosedQuote,
    UnknownColumn,
    ValuesUnfit,
)

PARQUET, ZIP_SIGNATURES = b"PAR1", (b"PK\x03\x04", b"PK\x05\x06")
Kind = Literal["text", "json", "workbook", "parquet"]
KINDS: dict[Kind, str] = {
    "text": "delimited text",
    "json": "JSON lines",
    "workbook": "an Excel workbook",
    "parquet": "a Parquet file",
}


@dataclass(frozen=True, slots=True)
class Spooled:
    """A spool file that is made, and what it was made from."""

    spool: Spool
    format: Format
    origin: Origin


@dataclass(frozen=True, slots=True)
class _Content:
    """What one original holds, unpacked: as blocks, or (kinds that are read from anywhere) as a file."""

    name: str
    inner: str
    """Its name without packing, for the suffix."""
    kind: Kind
    blocks: Iterator[bytes]
    path: Path | None = None


def is_in_place(path: Path, reading: Reading) -> bool:
    """Is this one file of UTF-8 text, so that nothing needs to be written? Raises SourceMissing, Misconfigured."""
    if reading.query or reading.renamed or reading.sheet or reading.tagged:
        return False
    with Input(str(path), lambda: None) as original:
        head = original.peek()
    return not (
        packed.packed_as(head)
        or head.startswith((*ZIP_SIGNATURES, PARQUET))
        or text.codec_of(reading.encoding, head)
        or jsonlines.looks_like(path.name, head)
    )


def originals_of(paths: Sequence[str], interrupted: Interrupted) -> tuple[Original, ...]:
    """What files are known by, without reading what they mean. Raises SourceMissing."""
    found: list[Original] = []
    for path in paths:
        with Input(path, interrupted) as original:
            found.append(original.finish())
    return tuple(found)


def spool(
    paths: Sequence[str],
    reading: Reading,
    format: Format | None,
    *,
    folder: Path,
    bytes_max: int,
    interrupted: Interrupted,
) -> Spooled:
    """Turn files (or "-") into one spool file in this folder. Raises a SourceUnusable that names file and place."""
    made = Spool(folder, bytes_max=bytes_max, name=called(paths[0]))
    reader = _Reader(paths, reading, format, made, folder, bytes_max, interrupted)
    try:
        return reader.read()
    except SourceUnusable as error:
        made.release()
        if reader.now in error.message:
            raise
        raise type(error)(f"{reader.now}: {error.message}", remedy=error.remedy) from error
    except BaseException:
        made.release()
        raise


class _Reader:
    """Reads the originals of one spool file."""

    def __init__(
        self,
        paths: Sequence[str],
        reading: Reading,
        format: Format | None,
        spool: Spool,
        folder: Path,
        bytes_max: int,
        interrupted: Interrupted,
    ) -> None:
        self._paths, self._reading, self._format, self._spool = paths, reading, format, spool
        self._folder, self._bytes_max, self._interrupted = folder, bytes_max, interrupted
        self._undo = ExitStack()
        self._originals: list[Original] = []
        self._places = Places()
        self.now = called(paths[0])
        """The file that is being read, for messages."""

    def read(self) -> Spooled:
        query = self._reading.query
        with self._undo:
            contents = self._contents()
            first = next(contents)
            kind = first.kind
            contents = chain([first], contents)
            into = self._temporary() if self._reading.tagged else self._spool
            if query is None:
                texts = self._texts(kind, contents)
                merged = self._merged(into, texts, kind == "text", renamed=self._reading.renamed)
            else:
                blocks = self._queried(query, kind, contents)
                texts = iter([(self.now, "query.csv", blocks)])
                merged = self._merged(into, texts, False, renamed=self._reading.renamed)
            if into is not self._spool:
                into.flush()
                self._tag(into, merged.format)
            self._spool.flush()
        counted: Literal["lines", "rows", "not"] = "not" if query else "lines" if kind == "text" else "rows"
        stretches = () if query else tuple(self._places.stretches)
        return Spooled(self._spool, merged.format, Origin(tuple(self._originals), self._reading, counted, stretches))

    def _tag(self, rows: Spool, format: Format) -> None:
        """Copy the text with the number of its row before each."""
        with rows.path.open("rb", buffering=0) as file:
            blocks = iter(lambda: file.read(BUFFER_BYTES), b"")
            before, head = text.head_of(blocks, self.now, f"rows.{format}", format)
            self._spool.write(before + f"{ROW_TAG}{format.delimiter}".encode() + head.raw)
            tagger = Tagger(format, len(head.header.fields), base=head.header.stop, line=head.line)
            for block in chain([head.rest], blocks):
                self._spool.write(tagger.feed(block))
                self._interrupted()
            self._spool.write(tagger.finish())

    def _merged(
        self,
        into: Spool,
        texts: Iterator[tuple[str, str, Iterator[bytes]]],
        counts_lines: bool,
        *,
        renamed: tuple[tuple[str, str], ...] = (),
        from_header: bool = False,
    ) -> _Merge:
        told = self._format if counts_lines else None
        several = len(self._paths) > 1
        merge = _Merge(into, renamed, told, self._places, several=several, from_header=from_header)
        for name, inner, blocks in texts:
            merge.add(name, inner, blocks, counts_lines=counts_lines)
        return merge

    def _queried(self, query: str, kind: Kind, contents: Iterator[_Content]) -> Iterator[bytes]:
        """What the query gives, as CSV. Parquet keeps its types; everything else is text."""
        if kind == "parquet":
            files = [(content.name, self._lasting(content)) for content in contents]
            found = self._undo.enter_context(Tables(self.now, self._temporary(), self._interrupted))
            found.parquet(files)
        else:
            text_file = self._temporary()
            # To DuckDB the first line is the header, also a blank one.
            merged = self._merged(text_file, self._texts(kind, contents), kind == "text", from_header=True)
            text_file.flush()
            found = self._undo.enter_context(Tables(self.now, self._temporary(), self._interrupted))
            found.delimited(text_file.path, merged.fields, merged.format)
        yield from found.rows(query)

    def _lasting(self, content: _Content) -> Path:
        """A file that can still be opened when the next one is read."""
        assert content.path is not None
        descriptor = os.open(content.path, os.O_RDONLY | os.O_CLOEXEC)
        self._undo.callback(os.close, descriptor)
        return Path(f"/dev/fd/{descriptor}")

    def _parquet(self, content: _Content) -> Iterator[bytes]:
        assert content.path is not None
        with Tables(content.name, self._temporary(), self._interrupted) as tables:
            rows = tables.parquet([(content.name, content.path)])
            self._places.next_rows(1, rows)
            yield from tables.rows("SELECT * FROM source")

    def _contents(self) -> Iterator[_Content]:
        """What each original holds; an original is known when the next one is asked for."""
        kind: Kind | None = None
        for index, path in enumerate(self._paths):
            self.now = called(path)
            with Input(path, self._interrupted) as original:
                content = self._content(original)
                if kind is not None and content.kind != kind:
                    raise FilesDiffer(
                        f"{content.name} is {KINDS[content.kind]} and {called(self._paths[0])} is {KINDS[kind]}",
                        remedy="Files of one load are of one kind. Load them one by one.",
                    )
                kind = content.kind
                if self._reading.sheet is not None and kind != "workbook":
                    raise ValuesUnfit(
                        f"{content.name} is {KINDS[kind]} and has no sheet {self._reading.sheet!r}",
                        remedy="Leave out --sheet.",
                    )
                self._places.file(index)
                yield content
                self._originals.append(original.finish())

    def _texts(self, kind: Kind, contents: Iterator[_Content]) -> Iterator[tuple[str, str, Iterator[bytes]]]:
        """Each original as delimited text: its name, its name without packing, its blocks."""
        if kind == "json":
            files = ((content.name, self._decoded(content)) for content in contents)
            yield self.now, "json.csv", jsonlines.rows_of(files, self._temporary(), self._places)
            return
        for content in contents:
            match content.kind:
                case "parquet":
                    yield content.name, "parquet.csv", self._parquet(content)
                case "workbook":
                    assert content.path is not None
                    sheet = self._reading.sheet
                    rows = workbook.rows_of(content.path, content.name, sheet, self._places, self._interrupted)
                    yield content.name, "workbook.csv", rows
                case _:
                    yield content.name, content.inner, self._decoded(content)

    def _decoded(self, content: _Content) -> Iterator[bytes]:
        """The blocks of a text in UTF-8."""
        blocks = content.blocks
        head = next(blocks, b"")
        while len(head) < 4 and (more := next(blocks, b"")):
            head += more
        blocks = chain([head], blocks)
        codec = text.codec_of(self._reading.encoding, head)
        return blocks if codec is None else text.transcoded(blocks, codec, content.name)

    # --- from packing to content ----------------------------------------------------------------------

    def _content(self, original: Input) -> _Content:
        head = original.peek()
        again = original.again
        return self._unwrapped(original.name, original.name, head, original.blocks(), again, packed_once=False)

    def _unwrapped(
        self, name: str, inner: str, head: bytes, blocks: Iterator[bytes], path: Path | None, *, packed_once: bool
    ) -> _Content:
        kind = packed.packed_as(head)
        if kind and packed_once:
            raise _packed_twice(name)
        if kind:
            return self._within(name, inner.rpartition(".")[0] or inner, packed.unpack(kind, blocks, name))
        if head.startswith(ZIP_SIGNATURES):
            path = path or self._to_file(blocks)
            if _is_workbook(path):
                return _Content(name, inner, "workbook", iter(()), path)
            if packed_once:
                raise _packed_twice(name)
            member, blocks = packed.member_of(path, name)
            return self._within(name, member, blocks)
        if head.startswith(PARQUET):
            return _Content(name, inner, "parquet", iter(()), path or self._to_file(blocks))
        json = jsonlines.looks_like(inner, head)
        return _Content(name, inner, "json" if json else "text", blocks)

    def _within(self, name: str, inner: str, blocks: Iterator[bytes]) -> _Content:
        head = b""
        for block in blocks:
            head += block
            if len(head) >= 64:
                break
        return self._unwrapped(name, inner, head, chain([head], blocks), None, packed_once=True)

    def _to_file(self, blocks: Iterator[bytes]) -> Path:
        """For what must be read from anywhere: a private copy, as long as it is needed."""
        copy = self._temporary()
        for block in blocks:
            copy.write(block)
        copy.flush()
        return copy.path

    def _temporary(self) -> Spool:
        return self._undo.enter_context(Spool(self._folder, bytes_max=self._bytes_max, name=self.now))


def _packed_twice(name: str) -> ArchiveUnsound:
    return ArchiveUnsound(f"{name}: what is packed is packed again", remedy="Unpack it once.")


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "[Content_Types].xml" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False


class _Merge:
    """Several delimited texts as one: a single header, one after the other."""

    def __init__(
        self,
        spool: Spool,
        renamed: tuple[tuple[str, str], ...],
        format: Format | None,
        places: Places,
        *,
        several: bool,
        from_header: bool,
    ) -> None:
        self._spool, self._renamed, self._places = spool, renamed, places
        self._several, self._from_header = several, from_header
        self._format, self._told = format, format
        self._first: tuple[Head, str] | None = None
        self._begun_at = 0
        """Where the rows of the file that is being added begin in the spool."""
        self._lines = self._quotes = 0
        self._last = b""

    def add(self, name: str, inner: str, blocks: Iterator[bytes], *, counts_lines: bool) -> None:
        """One file. Raises FilesDiffer when it cannot follow those before it."""
        before, head = text.head_of(blocks, name, inner, self._told)
        if self._first is None:
            self._first, self._format = (head, name), head.format
            self._write((b"" if self._from_header else before) + self._header(head, name))
        else:
            first, first_name = self._first
            text.check_same(first, first_name, head, name)
            if self._last not in (b"", b"\n"):
                self._write(b"\n")
        lines_before = (before + head.raw).count(b"\n")
        if counts_lines:
            self._places.run(self._lines + 1, lines_before + 1)
        self._begun_at, self._quotes = self._spool.size_bytes, 0
        self._first = (self._first[0], name)
        self._write(head.rest)
        for block in blocks:
            self._write(block)
        if self._several and self._quotes % 2:  # of one file, the plan says so
            self._check_closed(name, lines_before)

    @property
    def format(self) -> Format:
        assert self._format is not None, "there is a first file"
        return self._format

    @property
    def fields(self) -> tuple[str, ...]:
        assert self._first is not None, "there is a first file"
        return self._first[0].header.fields

    def _header(self, head: Head, name: str) -> bytes:
        """The header under its new names."""
        if not self._renamed:
            return head.raw
        new_names: dict[str, str] = {}
        for new, old in self._renamed:
            if new_names.setdefault(old, new) != new:
                raise DuplicateColumn(
                    f"{name}: --map gives column {old!r} two names, {new_names[old]!r} and {new!r}",
                    remedy=f"Leave one of them out. With --query a value can stand in two: SELECT *, … AS {new}.",
                )
            if old not in head.header.fields:
                raise UnknownColumn(
                    f"{name}: --map {new}={old}: there is no column {old!r}",
                    remedy=f"There are: {', '.join(head.header.fields[:20])}.",
                )
        line = io.StringIO(newline="")
        end = "\r\n" if head.raw.endswith(b"\r\n") else "\n"
        names = [new_names.get(field, field) for field in head.header.fields]
        csv.writer(line, delimiter=head.format.delimiter, lineterminator=end).writerow(names)
        return line.getvalue().encode()

    def _check_closed(self, name: str, lines_before: int) -> None:
        """Raises UnclosedQuote when the file that was added last ends inside of a value."""
        self._spool.flush()
        with self._spool.path.open("rb") as file:
            file.seek(self._begun_at)
            opened = text.open_quote(file, self.format)
        if opened is not None:
            row, line = opened
            raise UnclosedQuote(
                f"{name}: row {row}, which begins on line {line + lines_before}, opens a quote that is never closed: "
                "the rest of the file would be one value",
                remedy='Close the quote, or write a quote that belongs to a value as "" inside quotes.',
            )

    def _write(self, data: bytes) -> None:
        if data:
            self._lines += data.count(b"\n")
            self._quotes += data.count(b'"')
            self._last = data[-1:]
            self._spool.write(data)
