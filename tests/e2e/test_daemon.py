"""The daemon as a real process: its inbox, its signals, its crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.daemon import daemon, drop, ended, people, report_of
from e2e.shop import Shop, quick, rows_received, shop


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path, quick(keep_bodies=True)) as one:
        yield one


def test_a_file_put_into_the_inbox_is_loaded_and_its_report_is_right(market: Shop) -> None:
    """The one thing that it is for."""
    with daemon(market) as one:
        drop(market.folder / "inbox", "leads.csv", people("a", 300, bad=2))
        done = market.folder / "done"
        one.until(lambda: ended(done))
        delivery = ended(done)["leads.csv"]
        assert one.end() == 143
    assert (delivery["stage"], delivery["exit_code"]) == ("done", 3)
    totals = report_of(market, delivery).json["totals"]
    assert (totals["rows"], totals["imported"], totals["failed"]) == (300, 298, 2)
    assert len(rows_received(market.simulator)) == 300
    assert names(market.folder / "inbox") == []
    assert names(market.folder / "work") == [".lock"]
    (finished,) = one.said("load.finished")
    assert (finished["rows"], finished["imported"], finished["load"]) == (300, 298, delivery["load_id"])
    settled = one.said("chunk.settled")
    assert settled
    assert {line["load"] for line in settled} == {delivery["load_id"]}
    assert sum(line["imported"] for line in settled) == 298


def test_settings_beside_a_file_and_in_its_folder_are_used(market: Shop) -> None:
    """Whoever drops files into a folder need not know Marketo's ids."""
    folder = market.folder / "inbox" / "fair"
    folder.mkdir(parents=True)
    (folder / "load.toml").write_text("list_id = 1001\npriority = 'low'\n")
    (folder / "two.csv.load.toml").write_text("list_id = 1002\nformat = 'csv'\n")
    drop(folder, "one.csv", people("one", 20))
    drop(folder, "two.csv", people("two", 20))
    with daemon(market) as one:
        one.until(lambda: len(ended(market.folder / "done")) == 2)
        assert one.end() == 143
    done = ended(market.folder / "done")
    lists = {name: report_of(market, done[name]).json["settings"]["list_id"] for name in done}
    assert lists == {"one.csv": 1001, "two.csv": 1002}
    assert names(folder) == ["load.toml"]


def test_a_file_that_cannot_be_loaded_goes_to_failed_and_says_why(market: Shop) -> None:
    """Somebody has to mend it, and the others go on."""
    inbox = market.folder / "inbox"
    drop(inbox, "good.csv", people("g", 10))
    (inbox / "bad.csv").write_text("firstName\nAna\n")
    (inbox / "bad.csv.ready").touch()
    with daemon(market) as one:
        one.until(lambda: ended(market.folder / "done") and ended(market.folder / "failed"))
        assert one.end() == 143
    failed = ended(market.folder / "failed")["bad.csv"]
    assert failed["exit_code"] == 65
    assert "email" in failed["why"]
    assert one.said("load.failed")[0]["code"] == 65
    assert names(inbox) == []


def test_wrong_settings_leave_a_file_where_it_is_until_they_are_mended(market: Shop) -> None:
    """A file is not taken to do something else with it than was wanted."""
    inbox = market.folder / "inbox"
    inbox.mkdir()
    (inbox / "leads.csv.load.toml").write_text("list = 1001\n")
    drop(inbox, "leads.csv", people("a", 10))
    with daemon(market) as one:
        one.until(lambda: one.said("file.not_taken"))
        assert "list: unknown key" in one.said("file.not_taken")[0]["why"]
        (inbox / "leads.csv.load.toml").write_text("list_id = 1001\n")
        one.until(lambda: ended(market.folder / "done"))
        assert one.end() == 143


def test_a_load_is_drained_on_sigterm_and_goes_on_with_the_next_daemon(tmp_path: Path) -> None:
    """Machines are rebooted: nothing is lost, nothing is sent twice."""
    with shop(tmp_path, quick(seconds_per_job=0.3, keep_bodies=True)) as market:
        drop(market.folder / "inbox", "leads.csv", people("a", 3_000))
        with daemon(market) as one:
            one.until(lambda: len(one.said("batch.accepted")) >= 3)
            assert one.end() == 143
        assert not ended(market.folder / "done")
        with daemon(market) as one:
            one.until(lambda: ended(market.folder / "done"))
            assert one.end() == 143
        delivery = ended(market.folder / "done")["leads.csv"]
        report = report_of(market, delivery).json
        assert (report["totals"]["imported"], report["doubts"]) == (3_000, [])
        assert len(rows_received(market.simulator)) == 3_000


def test_sighup_refuses_a_bad_configuration_and_keeps_the_old(market: Shop) -> None:
    """A typing error must not stop a month of loads."""
    config = market.folder / "config.toml"
    config.write_text("[limits]\nqueued_jobs = 4\n")
    config.chmod(0o600)
    with daemon(market, "--config", "config.toml") as one:
        config.write_text("[limits]\nqueued_jobs = 40\n")
        one.signal(signal.SIGHUP)
        one.until(lambda: one.said("config.refused"))
        assert "queued_jobs" in one.said("config.refused")[0]["why"]
        drop(market.folder / "inbox", "leads.csv", people("a", 10))
        one.until(lambda: ended(market.folder / "done"))
        config.write_text("[limits]\nqueued_jobs = 3\n")
        one.signal(signal.SIGHUP)
        one.until(lambda: one.said("config.reloaded"))
        assert one.end() == 143


def test_a_load_of_the_command_line_and_the_daemon_share_ledger_and_slots(tmp_path: Path) -> None:
    """Two programs on one machine, and Marketo's queue has ten places for both."""
    with shop(tmp_path, quick(seconds_per_job=0.15)) as market:
        (tmp_path / "other.csv").write_text("\n".join(["email,firstName", *people("b", 6_000), ""]))
        drop(market.folder / "inbox", "leads.csv", people("a", 6_000))
        with daemon(market) as one:
            process = market.start("load", "other.csv", "--no-progress")
            one.until(lambda: ended(market.folder / "done"))
            assert process.wait(60) == 0
            process.communicate()
            assert one.end() == 143
        truth = market.simulator.truth()
        assert truth["most_ours"] <= 10
        assert truth["violations"] == []
        told = market.run("status", "--json")
        assert '"imported": 6000' in told.out


def test_a_second_daemon_in_the_same_folders_is_refused(market: Shop) -> None:
    """Two of them would take the same file twice."""
    with daemon(market):
        second = market.run("daemon", "--as-root")
        assert second.code == 75, second
        assert "daemon of process" in second.err


def test_it_does_not_run_as_root_unless_told_to(market: Shop) -> None:
    """S29: who can write into its inbox would reach further than need be."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    told = market.run("daemon")
    assert told.code == 78, told
    assert "--as-root" in told.err


def test_without_credentials_it_does_not_begin(market: Shop) -> None:
    """It would take files and be able to do nothing with them."""
    del market.environment["ORCHESTRATOR_MARKETO__CLIENT_SECRET"]
    told = market.run("daemon", "--as-root")
    assert told.code == 78, told
    assert "client_secret" in told.err


def test_a_killed_daemon_leaves_nothing_undone(tmp_path: Path) -> None:
    """SIGKILL while several files are under way: each is loaded once, and says so once."""
    with shop(tmp_path, quick(seconds_per_job=0.1, keep_bodies=True)) as market:
        for number in range(6):
            drop(market.folder / "inbox", f"{number}.csv", people(f"f{number}x", 300))
        lease = {"ORCHESTRATOR_LIMITS__DOUBT_LEASE": "1"}
        with daemon(market, **lease) as one:
            one.until(lambda: one.said("batch.accepted"))
            one.kill()
        with daemon(market, **lease) as one:
            one.until(lambda: len(ended(market.folder / "done")) == 6)
            assert one.end() == 143
        for delivery in ended(market.folder / "done").values():
            assert report_of(market, delivery).json["totals"]["imported"] == 300
