"""Packed files: what is in them, whole or not at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from adapters.sources.made import sheet, spooled, text, workbook, zipped
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sources import packed
from orchestrator.errors import ArchiveUnsound, EmptySource, TooLargeUnpacked

TEXT = b"email,notes\n" + b"".join(b'lead%d@example.com,"line one\nline two"\n' % n for n in range(2_000))
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstd.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_file_gives_the_bytes_that_were_packed(tmp_path: Path, suffix: str) -> None:
    """Lines and bytes in messages are then those of the file that was packed."""
    made = spooled(tmp_path, put(tmp_path, f"leads.csv.{suffix}", PACKERS[suffix](TEXT)))
    assert made.content == TEXT
    assert made.line_of(3) == (0, 6)
    (original,) = made.origin.originals
    assert original.size_bytes == len(PACKERS[suffix](TEXT))


@pytest.mark.parametrize("suffix", PACKERS)
def test_members_that_follow_each_other_are_one_content(tmp_path: Path, suffix: str) -> None:
    """`cat a.gz b.gz` is how logs and exports are joined; reading the first alone loses the rest in silence."""
    pack = PACKERS[suffix]
    made = spooled(tmp_path, put(tmp_path, "leads", pack(TEXT[:1000]) + pack(b"") + pack(TEXT[1000:])))
    assert made.content == TEXT


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("junk", [b"x", b"email\n", os.urandom(3_000), b"\x1f"])
def test_what_follows_the_end_and_does_not_belong_to_it_is_refused(tmp_path: Path, suffix: str, junk: bytes) -> None:
    """It may be half of a broken transfer."""
    with pytest.raises(ArchiveUnsound, match=r"leads\.csv\.gz: .*(follows the end|ends in the middle)"):
        spooled(tmp_path, put(tmp_path, "leads.csv.gz", PACKERS[suffix](TEXT) + junk))


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    """A load of half of a file that looks whole is the worst outcome of all."""
    content = PACKERS[suffix](TEXT)
    for length in sorted({*range(7, len(content), max(1, len(content) // 40)), len(content) - 1}):
        with pytest.raises((ArchiveUnsound, EmptySource), match="leads"):
            spooled(tmp_path, put(tmp_path, "leads.csv.x", content[:length]))


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_changed_bit_is_refused_or_changes_nothing(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    """Every container has checksums; they must be looked at. (A few bits, such as gzip's time, mean nothing.)"""
    content = bytearray(PACKERS[suffix](TEXT))
    at = data.draw(st.integers(8, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    blocks = iter([bytes(content)])
    try:
        unpacked = b"".join(
            packed.unpack({"gz": packed.GZIP, "bz2": packed.BZIP2, "xz": packed.XZ}[suffix], blocks, "x")
        )
    except ArchiveUnsound:
        return
    assert unpacked == TEXT


@pytest.mark.parametrize("suffix", PACKERS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(min_size=1, max_size=5_000), cut=st.integers(1, 4_000))
def test_blocks_may_be_of_any_size(tmp_path: Path, suffix: str, content: bytes, cut: int) -> None:
    """Pipes deliver what they like."""
    whole = PACKERS[suffix](content) * 2
    kinds = {"gz": packed.GZIP, "bz2": packed.BZIP2, "xz": packed.XZ, "zst": packed.ZSTANDARD}
    blocks = (whole[at : at + cut] for at in range(0, len(whole), cut))
    assert b"".join(packed.unpack(kinds[suffix], blocks, "x")) == content * 2


def test_padding_with_zeros_is_no_junk(tmp_path: Path) -> None:
    """Tapes and xz pad."""
    assert spooled(tmp_path, put(tmp_path, "a.gz", gzip.compress(TEXT) + bytes(512))).content == TEXT


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_bomb_ends_at_the_ratio(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten megabytes of zeros are ten kilobytes: the disk must not be filled by a mail attachment."""
    monkeypatch.setattr(packed, "RATIO_FROM_BYTES", 1 << 20)
    content = b"email\n" + b"a" * 12_000_000
    with pytest.raises(TooLargeUnpacked, match=r"bomb: .*more than 400 times"):
        spooled(tmp_path, put(tmp_path, "bomb", PACKERS[suffix](content)))


def test_a_source_that_is_too_large_unpacked_ends_at_the_limit(tmp_path: Path) -> None:
    """The limit is on what is written, not on what is declared."""
    with pytest.raises(TooLargeUnpacked, match=r"leads\.gz: its rows have more than 50,000 bytes"):
        spooled(tmp_path, put(tmp_path, "leads.gz", gzip.compress(TEXT)), bytes_max=50_000)


def test_a_zstandard_window_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    """A frame of a few bytes can ask for gigabytes."""
    wanted = zstd.CompressionParameter
    options: dict[int, int] = {wanted.window_log: 30, wanted.enable_long_distance_matching: 1}
    compressor = zstd.ZstdCompressor(options=options)
    content = compressor.compress(TEXT * 20) + compressor.flush()
    with pytest.raises(ArchiveUnsound, match="damaged"):
        spooled(tmp_path, put(tmp_path, "a.zst", content))


def test_a_zip_archive_with_one_file_gives_that_file(tmp_path: Path) -> None:
    """Mail programs and macOS make them, with folders and notes of their own."""
    made = spooled(
        tmp_path, zipped(tmp_path / "a.zip", {"out/leads.tsv": b"email\tn\nx\t1\n", "__MACOSX/._leads": b"?"})
    )
    assert made.rows == [["email", "n"], ["x", "1"]]
    assert str(made.format) == "tsv"


@pytest.mark.parametrize("members", [{}, {"a.csv": b"email\nx\n", "b.csv": b"email\ny\n"}])
def test_a_zip_archive_with_another_number_of_files_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Which of them was meant?"""
    with pytest.raises(ArchiveUnsound, match=rf"a\.zip: the ZIP archive holds {len(members)} files"):
        spooled(tmp_path, zipped(tmp_path / "a.zip", members))


def test_a_damaged_or_cut_zip_archive_is_refused(tmp_path: Path) -> None:
    """By its checksum, or because its directory is gone."""
    whole = zipped(tmp_path / "a.zip", {"a.csv": TEXT}).read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 4
    for content in (bytes(changed), whole[:-30]):
        with pytest.raises(ArchiveUnsound, match=r"b\.zip: the ZIP"):
            spooled(tmp_path, put(tmp_path, "b.zip", content))


def test_a_zip_archive_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """The declared size is a stranger's word."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", TEXT)
    content = buffer.getvalue().replace(len(TEXT).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    with pytest.raises(ArchiveUnsound, match=r"a\.zip"):
        spooled(tmp_path, put(tmp_path, "a.zip", content))


def test_a_packed_workbook_is_read(tmp_path: Path) -> None:
    """It is a ZIP archive itself, which nobody who sends one by mail would think of."""
    book = workbook(tmp_path / "a.xlsx", {"Leads": sheet([(1, [text("email")]), (2, [text("x@y.de")])])}).read_bytes()
    for path in (put(tmp_path, "a.xlsx.gz", gzip.compress(book)), zipped(tmp_path / "a.zip", {"a.xlsx": book})):
        assert spooled(tmp_path, path).rows == [["email"], ["x@y.de"]]


def test_what_is_packed_twice_is_refused(tmp_path: Path) -> None:
    """One layer is unpacked; layers are how bombs nest."""
    with pytest.raises(ArchiveUnsound, match="packed again"):
        spooled(tmp_path, put(tmp_path, "a.gz", gzip.compress(gzip.compress(TEXT))))
    with pytest.raises(ArchiveUnsound, match="packed again"):
        spooled(tmp_path, zipped(tmp_path / "a.zip", {"a.gz": zlib.compress(b"")[:0] + gzip.compress(TEXT)}))
    inside = zipped(tmp_path / "inside.zip", {"a.csv": TEXT}).read_bytes()
    with pytest.raises(ArchiveUnsound, match="packed again"):
        spooled(tmp_path, put(tmp_path, "b.gz", gzip.compress(inside)))
