"""The inbox belongs to strangers: names, links, pipes, files that are not whole, files that go away."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.daemon.deliveries import RECORD, Deliveries, printable, safe_name
from orchestrator.daemon.inbox import Inbox, Scan, is_written
from orchestrator.daemon.settings import LoadSettings
from orchestrator.errors import DaemonRunning, Misconfigured

QUIET_S = 10.0
NOW = 2_000_000_000.0


class Place:
    """An inbox with its folders, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.deliveries = Deliveries(folder / "work", folder / "done", folder / "failed")
        self.deliveries.prepare()
        self.inbox = Inbox(folder / "inbox", QUIET_S, self._check)
        self.inbox.prepare(self.deliveries)
        self.path = folder / "inbox"
        self.now = NOW
        self.refused = ""

    def _check(self, settings: LoadSettings) -> None:
        if self.refused:
            raise Misconfigured(self.refused)

    def put(self, name: str, content: str = "email\na@example.com\n", age_s: float = 3_600.0) -> Path:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        os.utime(path, (self.now - age_s, self.now - age_s))
        return path

    def scan(self, after_s: float = 1.0) -> Scan:
        self.now += after_s
        return self.inbox.scan(self.now)

    def ready(self) -> list[str]:
        """What may be taken, after two looks."""
        self.scan()
        return [one.name for one in self.scan().ready]

    def reasons(self) -> dict[str, str]:
        return {one.name: one.why for one in self.scan().not_taken}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def leases() -> Iterator[None]:
    """As in the daemon: a broken lease says so by a signal that is ignored."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.mark.parametrize("key", ["inbox", "work", "done", "failed"])
@pytest.mark.parametrize("where", ["file", "file/below", "/proc/none", "x" * 300])
def test_a_folder_that_cannot_be_is_named_with_its_key(tmp_path: Path, key: str, where: str) -> None:
    """The commonest mistake of a first start was called an internal fault."""
    (tmp_path / "file").touch()
    paths = {name: tmp_path / name for name in ("inbox", "work", "done", "failed")} | {key: tmp_path / where}
    deliveries = Deliveries(paths["work"], paths["done"], paths["failed"])

    def prepare() -> None:
        deliveries.prepare()
        Inbox(paths["inbox"], QUIET_S, lambda _: None).prepare(deliveries)

    with pytest.raises(Misconfigured, match=f"daemon.{key} = .*: ") as caught:
        prepare()
    assert "None" not in caught.value.message


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service of its own user, and a folder of root's."""
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "done")
    with pytest.raises(Misconfigured, match=r"daemon\.done = .*: Permission denied"):
        Place(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EXDEV])
def test_a_file_that_cannot_be_moved_is_named_and_keeps_no_other_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It lies in somebody else's folder, or on another disk: it was never loaded, and nobody was told."""
    rename = os.rename

    def refused(source: str, *arguments: Any, **known: Any) -> None:
        if source == "held.csv":
            raise OSError(number, os.strerror(number))
        rename(source, *arguments, **known)

    place.put("a/held.csv")
    place.put("b/free.csv")
    assert place.ready() == ["held.csv", "free.csv"]
    assert place.reasons() == {}
    with monkeypatch.context() as held:
        held.setattr(os, "rename", refused)
        taken = [place.inbox.take(one, place.deliveries, NOW) for one in place.scan().ready]
        assert [one.name for one in taken if one is not None] == ["free.csv"]
        assert place.reasons() == {"a/held.csv": f"it cannot be moved away: {os.strerror(number)}"}
    (one,) = place.scan().ready
    assert place.inbox.take(one, place.deliveries, NOW) is not None, "as soon as it can be"
    assert place.reasons() == {}


def test_a_file_is_not_taken_at_first_sight_and_is_taken_when_it_stays_as_it_is(place: Place) -> None:
    """One look cannot tell a whole file from one that grows."""
    place.put("leads.csv")
    assert place.scan().ready == ()
    assert [one.name for one in place.scan().ready] == ["leads.csv"]


def test_a_file_that_grows_is_not_taken_until_it_has_been_quiet(place: Place) -> None:
    """Half a file is a wrong load."""
    for _ in range(5):
        place.put("leads.csv", age_s=0.0)
        assert place.scan(5.0).ready == ()
    place.scan(QUIET_S - 6.0)
    assert [one.name for one in place.scan(QUIET_S).ready] == ["leads.csv"]


def test_a_file_with_a_time_in_the_future_is_taken_by_our_own_watching(place: Place) -> None:
    """Clocks of file servers go wrong: it must not wait for ever."""
    place.put("leads.csv", age_s=-1e6)
    assert place.ready() == []
    assert place.scan(QUIET_S).ready != ()


def test_a_mark_beside_it_says_that_a_file_is_whole(place: Place) -> None:
    """Who writes slowly can say when it is done."""
    place.put("leads.csv", age_s=0.0)
    (place.path / "leads.csv.ready").touch()
    (one,) = place.scan().ready
    assert place.inbox.take(one, place.deliveries, place.now) is not None
    assert list(place.path.iterdir()) == []


def test_a_file_that_is_open_for_writing_is_not_taken(place: Place, leases: None) -> None:
    """A writer may pause for longer than any quiet period."""
    path = place.put("leads.csv")
    with path.open("a"):
        assert is_written(path)
        assert place.ready() == []
        assert place.scan(1e6).ready == ()
    assert not is_written(path)
    assert [one.name for one in place.scan().ready] == ["leads.csv"]


@pytest.mark.parametrize(
    "name", [".hidden", "a.csv.part", "a.csv.tmp", "a.csv~", "load.toml", "a.csv.load.toml", "b.ready"]
)
def test_what_is_not_meant_to_be_loaded_is_not(place: Place, name: str) -> None:
    """Programs write under such names, and rename when they are done."""
    place.put(name)
    assert place.ready() == []


def test_links_pipes_and_files_with_two_names_are_never_taken(place: Place, tmp_path: Path) -> None:
    """F42: whoever may write into the inbox may not have /etc/shadow loaded, nor hang the daemon."""
    outside = tmp_path / "outside.csv"
    outside.write_text("email\na@example.com\n")
    (place.path / "link.csv").symlink_to(outside)
    (place.path / "dangling.csv").symlink_to("nowhere")
    os.link(outside, place.path / "second.csv")
    os.mkfifo(place.path / "pipe.csv")
    (tmp_path / "elsewhere").mkdir()
    (place.path / "folder").symlink_to(tmp_path / "elsewhere")
    (place.path / "loop").symlink_to(place.path / "loop")
    (place.path / "a" / "b").mkdir(parents=True)
    assert place.ready() == []
    reasons = place.reasons()
    assert set(reasons) == {"link.csv", "dangling.csv", "second.csv", "pipe.csv", "folder", "loop", "a/b"}
    assert reasons["link.csv"] == "it is a symbolic link"
    assert "hard link" in reasons["second.csv"]


def test_a_file_that_is_swapped_after_the_look_is_found_out(place: Place, tmp_path: Path) -> None:
    """F42: between check and use lies time enough for a link."""
    place.put("leads.csv")
    place.scan()
    (one,) = place.scan().ready
    (place.path / "leads.csv").unlink()
    (place.path / "leads.csv").symlink_to("/etc/passwd")
    delivery = place.inbox.take(one, place.deliveries, place.now)
    assert delivery is not None
    assert (delivery.stage, delivery.why) == ("failed", "it is a symbolic link")


def test_a_file_that_was_written_to_after_the_look_waits(place: Place) -> None:
    """It was taken, and is not loaded before it is quiet again."""
    place.put("leads.csv")
    place.scan()
    (one,) = place.scan().ready
    place.put("leads.csv", "email\nb@example.com\nc@example.com\n")
    delivery = place.inbox.take(one, place.deliveries, place.now)
    assert delivery is not None
    assert delivery.not_before == place.now + QUIET_S


def test_a_file_that_vanishes_is_no_trouble(place: Place) -> None:
    """Others clean up, too."""
    path = place.put("leads.csv")
    place.scan()
    (one,) = place.scan().ready
    path.unlink()
    assert place.inbox.take(one, place.deliveries, place.now) is None
    assert [entry for entry in place.deliveries.work.iterdir() if entry.name != ".lock"] == []


HOSTILE = [
    "-rf",
    "a\nb.csv",
    "\x1b[2J.csv",
    "=cmd|calc.csv",
    "\u202egnp.csv",
    "ä" * 120,
    "x" * 251 + ".csv",
    "a b'\";`$(x).csv",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_any_kind_are_taken_under_a_name_that_is_safe(place: Place, name: str) -> None:
    """F41: no name reaches a path, a shell or a terminal as it is."""
    place.put(name)
    found = place.ready()
    assert len(found) == 1
    (one,) = place.scan().ready
    delivery = place.inbox.take(one, place.deliveries, place.now)
    assert delivery is not None
    assert place.deliveries.path(delivery).read_text() == "email\na@example.com\n"
    assert delivery.name.isprintable()
    assert place.deliveries.path(delivery).parent.parent == place.deliveries.work


def test_a_name_that_is_no_text_is_taken(place: Place) -> None:
    """Names of files are bytes."""
    path = os.fsencode(place.path) + b"/\xff\xfe.csv"
    with open(path, "wb") as file:  # noqa: PTH123 a name of bytes
        file.write(b"email\na@example.com\n")
    os.utime(path, (NOW - 99, NOW - 99))
    place.scan()
    (one,) = place.scan().ready
    delivery = place.inbox.take(one, place.deliveries, place.now)
    assert delivery is not None
    assert delivery.name == "\\udcff\\udcfe.csv"
    assert [known.raw_name for known in place.deliveries.recover()] == [one.name]


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=255))
def test_every_name_becomes_one_that_stays_in_its_folder(name: str) -> None:
    """No separator, no dot at the front, no control character, and never that of our own record."""
    safe = safe_name(name)
    assert safe.isascii()
    assert safe.isprintable()
    assert "/" not in safe
    assert safe[0] not in ".-"
    assert 0 < len(safe) <= 121
    assert not safe.startswith(RECORD)
    assert printable(name).isprintable()


def test_suffixes_survive(place: Place) -> None:
    """They say how a file is read."""
    assert safe_name("Fäir 2026 (final).csv.gz") == "F_ir_2026__final_.csv.gz"
    assert safe_name("x" * 300 + ".csv.zst").endswith(".csv.zst")


def test_wrong_settings_keep_a_file_in_the_inbox(place: Place) -> None:
    """Unknown keys, wrong values, no TOML, a pipe instead of a file."""
    place.put("leads.csv")
    settings = place.path / "leads.csv.load.toml"
    for content in ("list = 3\n", "list_id = 'x'\n", "not toml", "priority = 'urgent'\n", "query = 'SELECT 1'\n"):
        settings.write_text(content)
        assert place.ready() == []
        assert "leads.csv" in place.reasons()
    settings.unlink()
    os.mkfifo(settings)
    assert place.ready() == []
    settings.unlink()
    settings.mkdir()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 a listing that opens nothing else
    assert place.ready() == []
    assert "not a regular file" in place.reasons()["leads.csv"]
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    settings.rmdir()
    place.refused = "subscription 'x' is not configured"
    assert place.ready() == []
    assert "not configured" in place.reasons()["leads.csv"]
    place.refused = ""
    assert place.ready() == ["leads.csv"]


def test_it_can_be_killed_between_any_two_steps_of_taking_a_file(place: Place) -> None:
    """Each file is in the inbox or in a delivery afterwards: never in both, never in none."""
    place.put("leads.csv")
    (place.path / "leads.csv.load.toml").write_text("list_id = 7\n")
    place.scan()
    (one,) = place.scan().ready
    # killed before the file was moved: as if nothing had been
    known = {"raw_name": one.name, "settings": one.settings, "settings_inode": one.settings_inode}
    begun = place.deliveries.begin(one.name, place.now, "taking", **known)
    assert place.deliveries.recover() == []
    assert not (place.deliveries.work / begun.id).exists()
    assert (place.path / "leads.csv").exists()
    # killed in the middle of writing that down
    (place.deliveries.work / begun.id).mkdir()
    (place.deliveries.work / begun.id / (RECORD + ".part")).write_text("{")
    assert place.deliveries.recover() == []
    # killed after the file was moved
    begun = place.deliveries.begin(one.name, place.now, "taking", **known)
    (place.path / "leads.csv").rename(place.deliveries.path(begun))
    (left,) = place.deliveries.recover()
    taken = place.inbox.taken(left, place.deliveries, place.now)
    assert (taken.stage, taken.settings) == ("open", {"list_id": 7})
    assert list(place.path.iterdir()) == []
    # killed after it was written down how it ended, and before the folder was moved
    place.deliveries.save(replace(taken, stage="done", ended_at=place.now))
    assert place.deliveries.recover() == []
    assert [one.id for one in place.deliveries.ended(10)] == [taken.id]
    assert (place.deliveries.done / taken.id / taken.file).exists()


def test_a_file_is_not_thrown_away_with_a_record_that_cannot_be_read(place: Place) -> None:
    """Somebody edited it, a newer version wrote it, or the disk has a bad moment: the file may be the only one."""
    begun = place.deliveries.begin("leads.csv", NOW, "open")
    place.deliveries.path(begun).write_text("email\na@example.com\n")
    record = place.deliveries.path(begun).with_name("delivery.json")
    record.write_text(record.read_text().replace("{", '{"of_a_newer_version": 1, '))
    empty = place.deliveries.begin("never.csv", NOW, "taking")
    place.deliveries.path(empty).with_name("delivery.json").write_text("")
    assert place.deliveries.recover() == []
    assert place.deliveries.path(begun).read_text() == "email\na@example.com\n"
    assert not place.deliveries.path(empty).parent.exists()


def test_old_deliveries_are_removed_with_their_files(place: Place) -> None:
    """S10: they hold lead data."""
    old = place.deliveries.begin("old.csv", NOW, "open")
    place.deliveries.end(old, "done", NOW, exit_code=0)
    new = place.deliveries.begin("new.csv", NOW, "open")
    place.deliveries.end(new, "failed", NOW + 100, exit_code=65)
    uploaded = place.deliveries.begin("up.csv", NOW, "uploaded")
    found = list(place.deliveries.old(NOW + 50, NOW + 50))
    assert {one.id for one in found} == {old.id, uploaded.id}
    for one in found:
        place.deliveries.forget(one)
    assert list(place.deliveries.work.glob("*/*")) == []
    assert [one.id for one in place.deliveries.ended(10)] == [new.id]
    assert place.deliveries.find_ended("../" + new.id) is None
    assert place.deliveries.find_ended(new.id) is not None


def test_everything_is_for_its_owner_only(place: Place) -> None:
    """S8: no bit for anybody else, on folders and files."""
    place.put("leads.csv").chmod(0o600)
    place.scan()
    (one,) = place.scan().ready
    place.inbox.take(one, place.deliveries, time.time())
    for path in [place.deliveries.work, *place.deliveries.work.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_another_daemon_is_kept_out(place: Place) -> None:
    """Two of them would take the same file."""
    with pytest.raises(DaemonRunning):
        Deliveries(place.deliveries.work, place.deliveries.done, place.deliveries.failed).prepare()
