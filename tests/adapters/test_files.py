"""The source's bytes and our own folders, on real files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters import files
from orchestrator.adapters.files import ChunkBytes, fingerprint_file, plan_file, private_folder, read_chunk
from orchestrator.core.model import Chunk, Fingerprint, Format, Plan, SourceFile
from orchestrator.core.plan import Planner
from orchestrator.errors import EmptySource, MissingLookupColumn, NotText, SourceChanged, SourceMissing, SpoolFailing

SOURCE = b"email,n\n" + b"".join(b"%d@x,%d\n" % (row, row) for row in range(1, 41))


@contextlib.contextmanager
def no_umask() -> Iterator[None]:
    """Modes must come from us, not from the luck of a strict umask."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def planned(path: Path, budget: int = 1_000) -> tuple[SourceFile, Plan]:
    return plan_file(path, format=None, budget=budget, lookup_field="email", keep_rejected=10)


def sent(file: SourceFile, plan: Plan, chunk: Chunk) -> tuple[bytes, Exception | None]:
    """What a server would have got, and how the body ended."""
    got: list[bytes] = []

    async def send() -> None:
        async for piece in ChunkBytes(file, plan.header, chunk):
            got.append(piece)

    try:
        anyio.run(send)
    except (SourceChanged, SourceMissing) as error:
        return b"".join(got), error
    return b"".join(got), None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "leads.csv"
    path.write_bytes(SOURCE)
    return path


# --- what is sent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
def test_a_chunk_is_sent_as_it_was_planned_and_as_often_as_asked(
    source: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """After a renewed token the same body is sent once more; its length was announced before."""
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    file, plan = planned(source, budget=100)
    assert len(plan.chunks) > 3
    for chunk in plan.chunks:
        body = ChunkBytes(file, plan.header, chunk)
        expected = b"email,n\n" + b"".join(SOURCE[span.start : span.stop] for span in chunk.spans)
        assert body.size_bytes == len(expected)

        async def twice(body: ChunkBytes = body) -> list[bytes]:
            return [b"".join([piece async for piece in body]) for _ in range(2)]

        assert anyio.run(twice) == [expected, expected]
        assert read_chunk(file, plan.header, chunk) == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), block_bytes=st.sampled_from([1, 5, 40, 1 << 20]))
def test_a_body_with_other_bytes_is_never_complete(
    source: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject, block_bytes: int
) -> None:
    """An incomplete body is refused and imports nothing; a complete one with other rows cannot be taken back."""
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    source.write_bytes(SOURCE)
    file, plan = planned(source, budget=100)
    chunk = data.draw(st.sampled_from(plan.chunks))
    ours = [*range(plan.header.stop), *(at for span in chunk.spans for at in range(span.start, span.stop))]
    place = data.draw(st.sampled_from(ours))
    changed = bytearray(SOURCE)
    if data.draw(st.booleans()):
        changed[place] ^= data.draw(st.integers(1, 255))
    else:
        del changed[place:]
    source.write_bytes(changed)
    got, error = sent(file, plan, chunk)
    assert isinstance(error, SourceChanged)
    assert f"chunk {chunk.number}, rows {chunk.first_row} to {chunk.last_row}" in error.message
    assert len(got) < chunk.size_bytes
    with pytest.raises(SourceChanged):
        read_chunk(file, plan.header, chunk)


def test_rows_that_moved_are_never_complete(source: Path) -> None:
    """One row written in front, and every chunk would hold other rows."""
    file, plan = planned(source, budget=100)
    source.write_bytes(SOURCE.replace(b"email,n\n", b"email,n\n0@x,0\n"))
    for chunk in plan.chunks:
        got, error = sent(file, plan, chunk)
        assert isinstance(error, SourceChanged)
        assert len(got) < chunk.size_bytes


@pytest.mark.parametrize("change", ["content", "length"])
def test_a_change_while_it_is_sent_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """An upload takes seconds: the hash is of the bytes that went out, not of the file before."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 1_000)
    path, content = tmp_path / "leads.csv", b"email,n\n" + b"a@x,1\n" * 20_000
    path.write_bytes(content)
    file, plan = planned(path, budget=200_000)
    chunk, got = plan.chunks[0], bytearray()
    assert chunk.size_bytes == len(content)

    def change_it() -> None:
        path.write_bytes(content[:50_000] if change == "length" else content[:-2] + b"2\n")

    async def send() -> None:
        async for piece in ChunkBytes(file, plan.header, chunk):
            if not got:
                change_it()
            got.extend(piece)

    with pytest.raises(SourceChanged):
        anyio.run(send)
    assert 0 < len(got) < chunk.size_bytes


@pytest.mark.parametrize("instead", ["nothing", "a folder"])
def test_a_source_that_is_gone_is_said_and_nothing_is_sent(source: Path, instead: str) -> None:
    """Code 66, and not a body of zero bytes."""
    file, plan = planned(source)
    source.unlink()
    if instead == "a folder":
        source.mkdir()
    got, error = sent(file, plan, plan.chunks[0])
    assert got == b""
    assert isinstance(error, SourceMissing)
    assert str(source) in error.message


def test_rows_added_at_the_end_do_not_spoil_what_was_planned(source: Path) -> None:
    """Only what was hashed is sent; the new rows belong to another load."""
    file, plan = planned(source)
    source.write_bytes(SOURCE + b"41@x,41\n")
    assert sent(file, plan, plan.chunks[0]) == (SOURCE, None)


def test_a_chunk_of_another_hash_is_not_complete_even_in_one_piece(source: Path) -> None:
    """The last piece is withheld however few there are."""
    file, plan = planned(source)
    got, error = sent(file, plan, replace(plan.chunks[0], sha256="0" * 64))
    assert isinstance(error, SourceChanged)
    assert len(got) < len(SOURCE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("grew", "it was written to (318 bytes instead of 310);"),
        ("cut", "it was written to (100 bytes instead of 310);"),
        ("written over", "it was written to;"),
        ("replaced", "another file was put in its place;"),
        ("written over, its time set back", "its content changed, though its size and time did not;"),
        ("gone", "No such file or directory"),
    ],
)
def test_a_load_that_stops_says_what_has_changed_and_how_to_go_on(source: Path, change: str, words: str) -> None:
    """Somebody has to find out who wrote into the file at night."""
    file, plan = planned(source)
    other = SOURCE.replace(b"7@x", b"8@x")
    match change:
        case "grew":
            source.write_bytes(other + b"41@x,41\n")
        case "cut":
            source.write_bytes(SOURCE[:100])
        case "replaced":
            beside = source.with_suffix(".new")
            beside.write_bytes(other)
            beside.rename(source)
        case "gone":
            source.unlink()
        case _:
            source.write_bytes(other)
    if "set back" in change:
        os.utime(source, ns=(file.mtime_ns, file.mtime_ns))
    elif change in ("grew", "cut", "written over"):
        os.utime(source, ns=(file.mtime_ns, file.mtime_ns + 1))
    got, error = sent(file, plan, plan.chunks[0])
    assert len(got) < plan.chunks[0].size_bytes
    assert isinstance(error, SourceMissing if change == "gone" else SourceChanged)
    assert error.message.startswith(f"{source}: ")
    assert words in error.message
    assert "back" in error.remedy or "path" in error.remedy


# --- what is planned --------------------------------------------------------------------------------------


def test_a_plan_knows_its_source(source: Path) -> None:
    """A resumed load finds its file by these."""
    file, plan = planned(source)
    status = source.stat()
    assert file == SourceFile(str(source), len(SOURCE), status.st_mtime_ns, status.st_ino)
    assert plan.fingerprint == Fingerprint(len(SOURCE), hashlib.sha256(SOURCE).hexdigest())
    assert (plan.format, plan.rows, len(plan.chunks)) == (Format.CSV, 40, 1)


def test_a_hash_that_fails_ends_the_plan_instead_of_waiting_for_ever() -> None:
    """It is made in another thread, whose errors nobody would see."""
    with files._HashingThread() as hashing:
        digest = hashing.sha256()
        digest.update("not bytes")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_fingerprint_is_the_size_and_the_sha256_of_the_file(tmp_path: Path, size: int) -> None:
    """People compare it with what sha256sum says."""
    content = os.urandom(size)
    path = tmp_path / "any"
    path.write_bytes(content)
    assert fingerprint_file(path) == Fingerprint(size, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("what", ["missing", "folder", "fifo", "dangling link", "under a file", "unreadable"])
def test_what_is_not_a_readable_file_is_said_at_once(tmp_path: Path, what: str) -> None:
    """Code 66; a FIFO without a writer would hang the load for ever."""
    path = tmp_path / "leads.csv"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "under a file":
        path.write_bytes(SOURCE)
        path = path / "leads.csv"
    elif what == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        path.write_bytes(SOURCE)
        path.chmod(0)
    for read in (planned, fingerprint_file):
        with pytest.raises(SourceMissing) as caught:
            read(path)
        assert caught.value.exit_code == 66
        assert str(path) in caught.value.message
        assert caught.value.remedy


CHANGES = ["it grew", "its time was set", "it was written over, its time set back", "another was put there", "it went"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_while_it_is_planned_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """An export that still runs: half of it would be loaded and called done."""

    before = source.stat()

    class Meanwhile(Planner):
        def feed(self, block: bytes) -> None:
            super().feed(block)
            if not block.startswith(b"email"):
                return
            match change:
                case "it grew":
                    with source.open("ab") as file:
                        file.write(b"41@x,41\n")
                case "its time was set":
                    os.utime(source, ns=(1, 1))
                case "it was written over, its time set back":
                    while source.stat().st_ctime_ns == before.st_ctime_ns:  # until the system's clock ticks
                        source.write_bytes(SOURCE.replace(b"40@x", b"41@x"))
                        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
                case "another was put there":
                    source.with_suffix(".new").write_bytes(SOURCE)
                    source.with_suffix(".new").rename(source)
                case _:
                    source.unlink()

    monkeypatch.setattr(files, "Planner", Meanwhile)
    monkeypatch.setattr(files, "BLOCK_BYTES", 400)
    with pytest.raises(SourceChanged, match="while it was read"):
        planned(source)


def test_a_disk_that_fails_while_the_source_is_read_is_said_of_the_source(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 66 and the path, not a traceback from the depths."""
    file, plan = planned(source)
    monkeypatch.setattr(files, "_open_regular", lambda path, flags=0: os.open(path, os.O_WRONLY))  # no read works
    for read in (planned, fingerprint_file, lambda _: read_chunk(file, plan.header, plan.chunks[0])):
        with pytest.raises(SourceMissing, match="Bad file descriptor") as caught:
            read(source)
        assert str(source) in caught.value.message
    got, error = sent(file, plan, plan.chunks[0])
    assert (got, type(error)) == (b"", SourceMissing)


def test_a_disk_without_room_for_what_a_plan_puts_aside_is_said_and_passes(tmp_path: Path) -> None:
    """A fault of ours, it was called: the daemon gave the file up, where it should try again."""
    path = tmp_path / "leads.csv"
    path.write_text("email\n" + "".join(f"{row}@example.com\n" for row in range(60_000)))

    def plan() -> Plan:
        return plan_file(
            path,
            format=None,
            budget=1_000_000,
            lookup_field="email",
            keep_rejected=0,
            on_duplicate="together",
            spill_folder=tmp_path,
        )[1]

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(SpoolFailing, match="File too large") as error:
            plan()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.exit_code == 75
    assert str(tmp_path) in error.value.message
    assert plan().rows == 60_000


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", EmptySource), (b"\x1f\x8b\x08\0\0\0\0\0\0", NotText), (b"mail,n\na@x,1\n", MissingLookupColumn)],
)
def test_what_is_wrong_with_a_source_names_the_file(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    """Among several sources it must be clear which one."""
    path = tmp_path / "export of monday.csv"
    path.write_bytes(content)
    with pytest.raises(error, match=r"^export of monday\.csv: "):
        planned(path)


def test_a_source_is_never_modified(source: Path) -> None:
    """It is the user's, and the only copy."""
    source.chmod(0o400)
    before = source.stat()
    file, plan = planned(source, budget=100)
    for chunk in plan.chunks:
        sent(file, plan, chunk)
        read_chunk(file, plan.header, chunk)
    fingerprint_file(source)
    after = source.stat()
    assert source.read_bytes() == SOURCE
    assert (after.st_mtime_ns, after.st_ino, after.st_mode) == (before.st_mtime_ns, before.st_ino, before.st_mode)


# --- our own folders --------------------------------------------------------------------------------------


def test_folders_that_we_make_can_be_looked_into_by_their_owner_only(tmp_path: Path) -> None:
    """Reports hold lead data, and so does their way there."""
    theirs = tmp_path / "shared"
    theirs.mkdir(mode=0o755)
    with no_umask():
        private_folder(theirs / "a" / "b")
        private_folder(theirs / "a" / "b")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (theirs / "a", theirs / "a" / "b")] == [0o700, 0o700]
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o755
