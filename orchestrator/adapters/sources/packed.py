"""What is in a packed file? gzip, Zstandard, bzip2, xz, and ZIP archives with one member.

Unpacked in pieces of at most PIECE_BYTES, so that no input, however small, can fill the memory. Members that follow
each other are one content, as the tools that pack them say. Anything else after the end is refused: it may be the half
of a broken transfer. A member that ends early is refused, and so is one whose checksum does not agree.
"""

from __future__ import annotations

import bz2
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from orchestrator.errors import ArchiveUnsound, ReaderMissing, TooLargeUnpacked

PIECE_BYTES = 1 << 20
RATIO_MAX = 400
"""Text of leads packs 3 to 20 times smaller; a column of one repeated value 100 times. gzip can do 1,032."""
RATIO_FROM_BYTES = 64 << 20
"""Less than this is harmless at any ratio."""
XZ_MEMORY_BYTES = 256 << 20
"""xz -9 needs 65 MB."""
ZST_WINDOW_LOG = 27
"""128 MB, the library's own limit; zstd -1 to -19 stay below, --ultra and --long may not."""

GZIP, ZSTANDARD, BZIP2, XZ, ZIP = "gzip", "Zstandard", "bzip2", "xz", "ZIP"
SIGNATURES = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTANDARD, b"BZh": BZIP2, b"\xfd7zXZ\x00": XZ}


class _Unpacker(Protocol):
    """What bz2, lzma and Zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """zlib with the manners of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.eof and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def packed_as(head: bytes) -> str | None:
    """By its first bytes."""
    return next((kind for signature, kind in SIGNATURES.items() if head.startswith(signature)), None)


def unpack(kind: str, blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The content of a stream. Raises ArchiveUnsound, TooLargeUnpacked, ReaderMissing."""
    make, errors = _unpacker(kind, name)
    read = unpacked = members = 0
    unpacker: _Unpacker | None = None
    began = False
    for block in blocks:
        read += len(block)
        data = block
        while data or (unpacker is not None and not unpacker.needs_input):
            if unpacker is None:
                if members:
                    data = data.lstrip(b"\0")  # padding, as tapes and xz have it
                if not data:
                    break
                unpacker, began = make(), False
            try:
                piece = unpacker.decompress(data, PIECE_BYTES)
            except errors as error:
                raise _damaged(kind, name, read, unpacked, junk=bool(members) and not began) from error
            data = b""
            if piece:
                began = True
                unpacked += len(piece)
                if unpacked > RATIO_FROM_BYTES and unpacked > RATIO_MAX * read:
                    raise _bomb(name, unpacked, read)
                yield piece
            if unpacker.eof:
                data, unpacker, members = unpacker.unused_data, None, members + 1
    if unpacker is not None:
        if members and not began:
            raise _damaged(kind, name, read, unpacked, junk=True)
        raise ArchiveUnsound(
            f"{name}: the {kind} data ends in the middle, after {unpacked:,} unpacked bytes",
            remedy="The file was cut: copy or export it again.",
        )


def member_of(path: Path, name: str) -> tuple[str, Iterator[bytes]]:
    """The one file in a ZIP archive: its name and its content."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ArchiveUnsound(
            f"{name}: the ZIP archive cannot be read: it is cut or damaged", remedy="Copy or export it again."
        ) from error
    members = [item for item in archive.infolist() if not item.is_dir() and not item.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        raise ArchiveUnsound(
            f"{name}: the ZIP archive holds {len(members)} files, and one is read",
            remedy="Unpack it and name the files.",
        )
    (member,) = members
    if member.flag_bits & 1:
        raise ArchiveUnsound(f"{name}: the ZIP archive is encrypted", remedy="Unpack it first.")
    return member.filename, _member(archive, member, name)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Iterator[bytes]:
    unpacked = 0
    with archive:
        try:
            with archive.open(member) as file:
                while piece := file.read(PIECE_BYTES):
                    unpacked += len(piece)
                    if unpacked > RATIO_FROM_BYTES and unpacked > RATIO_MAX * member.compress_size:
                        raise _bomb(name, unpacked, member.compress_size)
                    yield piece
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError) as error:
            raise _damaged(ZIP, name, archive.start_dir, unpacked, junk=False) from error


def _unpacker(kind: str, name: str) -> tuple[Callable[[], _Unpacker], tuple[type[Exception], ...]]:
    if kind == GZIP:
        return _Gunzip, (zlib.error,)
    if kind == BZIP2:
        return bz2.BZ2Decompressor, (OSError, ValueError)
    if kind == XZ:
        return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_BYTES)), (lzma.LZMAError,)
    try:
        from backports import zstd
    except ImportError:
        try:
            from compression import zstd  # type: ignore[import-not-found, no-redef, unused-ignore]
        except ImportError as error:
            raise ReaderMissing(name, "a Zstandard file", "zstd") from error
    limits: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZST_WINDOW_LOG}
    return (lambda: zstd.ZstdDecompressor(options=limits)), (zstd.ZstdError,)


def _damaged(kind: str, name: str, read: int, unpacked: int, *, junk: bool) -> ArchiveUnsound:
    if junk:
        return ArchiveUnsound(
            f"{name}: something that is not {kind} data follows the end of the {kind} data (before byte {read:,})",
            remedy="Copy or export the file again; if the rest belongs there, unpack it yourself.",
        )
    return ArchiveUnsound(
        f"{name}: the {kind} data is damaged (before byte {read:,}, after {unpacked:,} unpacked bytes)",
        remedy="Copy or export the file again.",
    )


def _bomb(name: str, unpacked: int, read: int) -> TooLargeUnpacked:
    return TooLargeUnpacked(
        f"{name}: unpacked it is more than {RATIO_MAX} times as large ({unpacked:,} bytes of {read:,})",
        remedy="That is how decompression bombs look. If it is sound, unpack it yourself and load that.",
    )
