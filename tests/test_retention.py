"""Reports that are removed, and what must not be."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from report_case import Case, a_case

from orchestrator.adapters import locks
from orchestrator.adapters.ledger import Ledger
from orchestrator.core.model import ChunkNumber, Load, LoadId
from orchestrator.errors import LoadBusy, LoadUnfinished, ReportFailing
from orchestrator.retention import DAY_S, forget_old, purge

NOW = 1_800_000_000.0


def a_load(folder: Path, ledger: Ledger, name: str, *, days_ago: float | None, report: Path | None = None) -> Load:
    """A load in the ledger, with its report and a collected file; finished so many days ago, or not."""
    home = folder / name
    home.mkdir()
    case: Case = a_case(home, f"email,n\n{name}@x,1\n".encode())
    report_dir = report or home / "report"
    load = replace(
        case.load,
        id=LoadId(name),
        report_dir=str(report_dir),
        collected_dir=str(report_dir / "batches"),
        created_at=1.0,
    )
    case.load = load
    ledger.add_load(load, case.plan)
    case.write(str(report_dir))
    (report_dir / "batches").mkdir()
    (report_dir / "batches" / "000001-101.failures.csv").write_text("email\n")
    if days_ago is not None:
        at = NOW - days_ago * DAY_S
        ledger.finish(load.id, at, 0)
        os.utime(report_dir / "report.json", (at, at))
    found = ledger.load(name)
    assert found is not None
    return found


def test_old_reports_go_when_the_next_load_finishes_and_no_others(tmp_path: Path) -> None:
    """They hold lead data; what is young, unfinished, running or just finished is still wanted."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        old = a_load(tmp_path, ledger, "old", days_ago=31)
        young = a_load(tmp_path, ledger, "young", days_ago=29)
        unfinished = a_load(tmp_path, ledger, "unfinished", days_ago=None)
        running = a_load(tmp_path, ledger, "running", days_ago=31)
        again = a_load(tmp_path, ledger, "again", days_ago=31)
        os.utime(Path(again.report_dir, "report.json"), (NOW - DAY_S,) * 2)
        just = a_load(tmp_path, ledger, "just", days_ago=31)
        owner = locks.take(ledger.path, running.id)
        assert owner is not None
        assert forget_old(ledger, 30, NOW, but=just) == 1
        owner.release()
        assert not Path(old.report_dir).exists()
        for load in (young, unfinished, running, again, just):
            assert Path(load.report_dir, "report.csv").exists(), load.id
            assert Path(load.collected_dir, "000001-101.failures.csv").exists(), load.id
        assert ledger.load("old") is not None, "its counts are no lead data"
        assert forget_old(ledger, 30, NOW, but=just) == 1, "the one that was running"


def test_nothing_else_in_the_folder_is_removed(tmp_path: Path) -> None:
    """--report-dir may name a folder in which somebody keeps the work of a year."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        load = a_load(tmp_path, ledger, "one", days_ago=31, report=tmp_path / "desk")
        kept = [
            tmp_path / "desk" / name for name in ("thesis.csv", "report.csv.bak", "my report.csv", "batches/notes.txt")
        ]
        for path in kept:
            path.write_text("mine")
        (tmp_path / "desk" / "report.html.d").mkdir()
        purge(ledger, load, unfinished=False)
        assert sorted(path for path in (tmp_path / "desk").rglob("*") if path.is_file()) == sorted(kept)


def test_a_purged_load_is_unknown(tmp_path: Path) -> None:
    """Whoever asks to be forgotten is forgotten."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        load = a_load(tmp_path, ledger, "one", days_ago=1)
        other = a_load(tmp_path, ledger, "other", days_ago=1)
        purge(ledger, load, unfinished=False)
        assert [known.id for known in ledger.loads()] == ["other"]
        assert list(ledger.records(load.id)) == []
        assert len(list(ledger.records(other.id))) == 1
        assert not Path(load.report_dir).exists()
    db = sqlite3.connect(tmp_path / "ledger.db")
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        if "load_id" in [column[1] for column in db.execute(f"PRAGMA table_info({table})")]:
            assert db.execute(f"SELECT count(*) FROM {table} WHERE load_id = 'one'").fetchone() == (0,), table
    db.close()


def test_a_load_whose_report_cannot_be_removed_stays_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgotten first, its lead data would lie there for ever, and the next try would not know which load is meant."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        load = a_load(tmp_path, ledger, "one", days_ago=31)
        just = a_load(tmp_path, ledger, "just", days_ago=0)
        unlink = Path.unlink

        def stuck(path: Path, missing_ok: bool = False) -> None:
            if path.name == "retry.csv":
                raise PermissionError(1, "Operation not permitted")
            unlink(path, missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", stuck)
            with pytest.raises(ReportFailing) as caught:
                purge(ledger, load, unfinished=False)
            assert "orchestrator purge one" in caught.value.remedy
            assert forget_old(ledger, 30, NOW, but=just) == 0
        assert ledger.load("one") is not None
        assert forget_old(ledger, 30, NOW, but=just) == 1, "what is left of it is still known to be old"
        assert not Path(load.report_dir).exists()
        purge(ledger, load, unfinished=False)
        assert ledger.load("one") is None


def test_a_load_is_not_purged_under_somebody_who_runs_it(tmp_path: Path) -> None:
    """Its process would go on sending what nobody can account for."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        load = a_load(tmp_path, ledger, "one", days_ago=1)
        owner = locks.take(ledger.path, load.id)
        assert owner is not None
        with pytest.raises(LoadBusy):
            purge(ledger, load, unfinished=True)
        owner.release()
        assert ledger.load("one") is not None
        assert Path(load.report_dir, "report.csv").exists()


def test_an_unfinished_load_is_purged_only_when_told_and_never_with_a_slot_taken(tmp_path: Path) -> None:
    """An upload that may be in the queue keeps its slot: forgotten, it would make eleven of ten."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        load = a_load(tmp_path, ledger, "one", days_ago=None)
        with pytest.raises(LoadUnfinished, match="not finished"):
            purge(ledger, load, unfinished=False)
        ledger.claim(load.id, ChunkNumber(1), 5.0, 10)
        with pytest.raises(LoadUnfinished, match="queue"):
            purge(ledger, load, unfinished=True)
        assert Path(load.report_dir, "report.csv").exists()
        assert len(list(ledger.records(load.id))) == 1
        other = a_load(tmp_path, ledger, "other", days_ago=None)
        purge(ledger, other, unfinished=True)
        assert ledger.load("other") is None


def test_a_report_in_a_folder_that_another_load_shares_is_not_removed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier releases let two loads report to one folder; the report there is that of the later one."""
    monkeypatch.setattr(Ledger, "check_report_dir", lambda *_: None)
    with Ledger(tmp_path / "ledger.db") as ledger:
        first = a_load(tmp_path, ledger, "first", days_ago=40, report=tmp_path / "desk")
        for name in ("batches/000001-101.failures.csv", "batches"):
            path = tmp_path / "desk" / name
            path.unlink() if path.is_file() else path.rmdir()
        second = a_load(tmp_path, ledger, "second", days_ago=31, report=tmp_path / "desk")
        before = sorted(path for path in (tmp_path / "desk").rglob("*"))
        just = a_load(tmp_path, ledger, "just", days_ago=0)
        purge(ledger, first, unfinished=False)
        assert sorted(path for path in (tmp_path / "desk").rglob("*")) == before
        assert forget_old(ledger, 30, NOW, but=just) == 1, "nobody shares it any more"
        assert not Path(second.report_dir).exists()
