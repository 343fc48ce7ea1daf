"""Spool files: private, limited, and gone."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.adapters.sources import reading
from orchestrator.adapters.sources.spool import Spool, sweep
from orchestrator.core.model import Reading
from orchestrator.errors import ReadingStopped, SourceChanged, SourceMissing, SpoolFailing, TooLargeUnpacked


def begun(folder: Path, bytes_max: int = 1_000) -> Spool:
    return Spool(folder, bytes_max=bytes_max, name="leads.gz")


def test_a_spool_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    """It holds leads."""
    os.umask(0)
    try:
        with begun(tmp_path) as made:
            assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
            made.write(b"email\n")
            kept = made.keep("0123456789ab")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert kept.read_bytes() == b"email\n"
    finally:
        os.umask(0o022)


def test_what_is_not_kept_is_gone(tmp_path: Path) -> None:
    """Whatever went wrong meanwhile."""
    with pytest.raises(TooLargeUnpacked, match=r"leads\.gz"), begun(tmp_path) as made:
        made.write(b"x" * 1_001)
    assert list(tmp_path.iterdir()) == []


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    """A crash leaves leads on the disk; an unfinished load needs its file."""
    (tmp_path / "wanted").write_text("email\n")
    (tmp_path / "finished").write_text("email\n")
    (tmp_path / "aaaa.part").write_text("half")
    spilled = tmp_path / "aaaa.part.tmp"
    spilled.mkdir()
    (spilled / "rows").write_text("email\n")
    with begun(tmp_path) as made:
        made.path.with_name(made.path.name + ".tmp").mkdir()
        removed = sweep(tmp_path, lambda name: name == "wanted")
        assert removed == ["aaaa.part", "aaaa.part.tmp", "finished"]
        assert {path.name for path in tmp_path.iterdir()} == {"wanted", made.path.name, made.path.name + ".tmp"}
    assert sweep(tmp_path / "missing", lambda _: True) == []


def test_a_kept_file_is_not_swept_before_its_load_is_written_down(tmp_path: Path) -> None:
    """Between the two, no ledger knows it: the lock says that somebody does."""
    with begun(tmp_path) as made:
        made.keep("0123456789ab")
        assert sweep(tmp_path, lambda _: False) == []
    assert sweep(tmp_path, lambda _: False) == ["0123456789ab"]


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    """However it dies: kill -9 as well."""
    code = (
        "import os, sys; from pathlib import Path; from orchestrator.adapters.sources.spool import Spool; "
        "s = Spool(Path(sys.argv[1]), bytes_max=9, name='x'); print('made', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"made\n"
        assert sweep(tmp_path, lambda _: False) == []
        process.kill()
        process.wait()
    assert len(sweep(tmp_path, lambda _: False)) == 1


def test_a_full_disk_is_said_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user must know where to make room."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with begun(tmp_path) as made:
        monkeypatch.setattr(os, "write", full)
        made.write(b"email\n")
        with pytest.raises(SpoolFailing, match=rf"{tmp_path}: no space left"):
            made.flush()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    """A missing folder stands for any: root may write into all others."""
    with pytest.raises(SpoolFailing, match="missing: No such file"):
        begun(tmp_path / "missing")


# --- reading ----------------------------------------------------------------------------------------------


def read(folder: Path, *sources: Path, interrupted: object = None) -> None:
    stop = interrupted if callable(interrupted) else lambda: None
    spools = folder / "spools"
    spools.mkdir(exist_ok=True)
    try:
        made = reading.spool(
            [str(source) for source in sources], Reading(), None, folder=spools, bytes_max=10**9, interrupted=stop
        )
        made.spool.release()
    finally:
        assert list(spools.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "in_place"),
    [
        ("a.csv", b"email\nx\n", True),
        ("a.csv", b"\xef\xbb\xbfemail\nx\n", True),
        ("a.csv", b"", True),
        ("a", b"email;n\n", True),
        ("a.csv.gz", b"email\nx\n", True),
        ("a.csv", b"\x1f\x8b\x08", False),
        ("a.csv", b"PK\x03\x04", False),
        ("a", b"PAR1", False),
        ("a.csv", "email".encode("utf-16"), False),
        ("a.jsonl", b"email\n", False),
        ("a", b'{"email": 1}', False),
        ("a.csv", b"%PDF-1.4", True),
    ],
)
def test_plain_text_in_utf_8_is_read_in_place_and_nothing_else_is(
    tmp_path: Path, name: str, content: bytes, in_place: bool
) -> None:
    """By content: a suffix may lie. (What is neither is refused by the planner.)"""
    (tmp_path / name).write_bytes(content)
    assert reading.is_in_place(tmp_path / name, Reading()) == in_place
    assert not reading.is_in_place(tmp_path / name, Reading(query="SELECT 1"))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Half of one export and half of the next is a file that nobody made."""
    source = tmp_path / "a.csv"
    source.write_text("\ufeffemail\n" + "x\n" * 500_000, encoding="utf-16")
    calls = iter(range(1_000))

    def change() -> None:
        if next(calls) == 3:
            with source.open("ab") as file:
                file.write(b"y\0\n\0")

    with pytest.raises(SourceChanged, match=r"a\.csv: it changed while it was read"):
        read(tmp_path, source, interrupted=change)


def test_a_signal_is_heard_between_blocks(tmp_path: Path) -> None:
    """Unpacking 100 GB takes minutes: nobody should have to wait, and nothing may be left."""
    source = tmp_path / "a.csv"
    source.write_text("email\n" + "x\n" * 500_000, encoding="utf-16")

    def stop() -> None:
        raise ReadingStopped(130)

    with pytest.raises(ReadingStopped) as caught:
        read(tmp_path, source, interrupted=stop)
    assert caught.value.exit_code == 130


def test_what_is_no_file_is_said_at_once(tmp_path: Path) -> None:
    """A named pipe would hang, a folder would make no sense."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(SourceMissing):
            read(tmp_path, tmp_path / name)
