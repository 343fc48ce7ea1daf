"""After the load: are the books balanced, what does the terminal say, and is a load forgotten when it is to be?"""

from __future__ import annotations

import csv
import gzip
import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.shop import quick, shop
from e2e.test_endurance import limited

from orchestrator.adapters import locks
from orchestrator.simulator.leads import write_leads


def until(is_so: Callable[[], bool], patience_s: float = 60.0) -> None:
    for _ in range(int(patience_s / 0.05)):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def test_a_load_is_verified_and_then_forgotten(tmp_path: Path) -> None:
    """From end to end, by the commands that people type."""
    write_leads(tmp_path / "leads.csv", 500, bad_share=0.1)
    with shop(tmp_path, quick()) as market:
        loaded = market.run("load", "leads.csv", "--no-progress")
        assert loaded.code == 3, loaded
        folder = market.report().folder
        verified = market.run("verify", str(folder), "leads.csv", "--json")
        assert verified.code == verified.summary["exit_code"] == 0, verified
        short = limited(market, resource.RLIMIT_FSIZE, 1_000, "verify", str(folder), "leads.csv")
        assert short.code == 75, "no room is not an account that does not balance"
        source = (tmp_path / "leads.csv").read_bytes()
        (tmp_path / "other.csv").write_bytes(source.replace(b"lead00000400", b"lead00000999"))
        assert market.run("verify", str(folder), "other.csv").code == 65
        table = folder / "report.csv"
        table.write_bytes(table.read_bytes().replace(b"failure,", b"warning,", 1))
        assert market.run("verify", str(folder), "leads.csv").code == 70
        assert market.run("verify", "nowhere", "leads.csv").code == 66
        purged = market.run("purge", folder.name)
        assert purged.code == 0, purged
        assert not folder.exists()
        assert "no loads yet" in market.run("status").out
        assert market.run("purge", folder.name).code == 2


def test_a_report_folder_is_that_of_one_load(tmp_path: Path) -> None:
    """The second report would be written over the first, and purging one load would remove that of the other."""
    write_leads(tmp_path / "one.csv", 50, bad_share=0.2)
    write_leads(tmp_path / "two.csv", 50, first=100)
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "one.csv", "--report-dir", "desk").code == 3
        first = (tmp_path / "desk" / "report.jsonl").read_bytes()
        one = json.loads((tmp_path / "desk" / "report.json").read_text())["load_id"]
        for command in (["load", "two.csv"], ["load", "one.csv", "--force"], ["retry", one, "--reasons", "all"]):
            refused = market.run(*command, "--report-dir", "./desk")
            assert refused.code == 78, refused
            assert f"report folder {tmp_path / 'desk'}: it is that of load {one}" in refused.err
            assert "--report-dir" in refused.err
        assert market.run("load", "two.csv").code == 0
        assert market.run("load", "two.csv", "--report-dir", "desk").code == 78, "nor is it moved there"
        assert market.run("load", "one.csv", "--report-dir", "desk").code == 3, "the same load again"
        assert (tmp_path / "desk" / "report.jsonl").read_bytes() == first
        assert market.run("purge", one).code == 0
        assert market.run("load", "two.csv", "--report-dir", "desk").code == 0, "it is free again"


def test_two_loads_that_begin_at_one_moment_do_not_share_a_report_folder(tmp_path: Path) -> None:
    """Both would look and find it free: what was read first is not what holds when the load is written down."""
    for name, first in (("one.csv", 1), ("two.csv", 5_000)):
        write_leads(tmp_path / name, 3_000, first=first, bad_share=0.0)
    with shop(tmp_path, quick()) as market:
        loads = [market.start("load", name, "--report-dir", "desk") for name in ("one.csv", "two.csv")]
        ended = [(load.communicate(timeout=120.0)[1], load.returncode) for load in loads]
        assert sorted(code for _, code in ended) == [0, 78], ended
        (refused,) = [err for err, code in ended if code == 78]
        assert f"report folder {tmp_path / 'desk'}: it is that of load" in refused


def test_a_report_that_is_asked_for_while_its_load_ends_is_that_of_its_end(tmp_path: Path) -> None:
    """Written from what was known before, it would be put over the last one."""
    write_leads(tmp_path / "leads.csv", 400, bad_share=0.05)
    with shop(tmp_path, quick()) as market:
        number = market.run("plan", "leads.csv", "--json").summary["load_id"]
        (tmp_path / ".orchestrator").mkdir(exist_ok=True)

        def chunks() -> dict[str, int]:
            return dict(json.loads(market.run("status", "--json").out.splitlines()[0]).get("chunks", {}))

        with locks.reporting(tmp_path / ".orchestrator" / "ledger.db", number):
            load = market.start("load", "leads.csv", "--no-progress")
            until(lambda: len(market.simulator.model.jobs) > 0)
            asked = [market.start("report", number) for _ in range(2)]
            until(lambda: chunks().keys() == {"settled"})
            assert load.poll() is None, "it waits with its report"
            assert not (tmp_path / "reports" / number / "report.json").exists()
        load.communicate(timeout=60.0)
        assert load.returncode == 3
        for one in asked:
            one.communicate(timeout=60.0)
        report = market.report()
        assert (report.json["stopped"], report.json["exit_code"]) == ("", 3)
        assert not list(report.folder.glob(".*")), "nor is half a file left"


def test_a_report_stays_when_what_its_rows_are_found_from_is_gone(tmp_path: Path) -> None:
    """Somebody runs `report` a month later, or the same command again, and has nothing left."""
    write_leads(tmp_path / "leads.csv", 50, bad_share=0.2)
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "leads.csv").code == 3
        folder = market.report().folder
        before = {path.name: path.read_bytes() for path in folder.glob("re*.*")}
        for path in (folder / "batches").iterdir():
            path.unlink()
        for command in (["report", folder.name], ["load", "leads.csv"]):
            again = market.run(*command)
            assert again.code == 3, again
            assert "note: the report was not written again, and stays as it was: collected files are gone" in again.err
            assert "orchestrator retry" not in again.err
            assert {path.name: path.read_bytes() for path in folder.glob("re*.*")} == before
        retried = market.run("retry", folder.name, "--reasons", "all")
        assert retried.code == 65, retried
        assert "again with --force" in retried.err, "the source is not what is missing"
        (folder / "report.json").unlink()
        poor = market.run("report", folder.name)
        assert poor.code == 3, poor
        assert "note: collected files are gone" in poor.err
        assert "orchestrator retry" not in poor.err
        assert (folder / "report.csv").read_bytes().count(b"\n") == 1


def test_a_report_stays_when_its_rows_cannot_be_made_again(tmp_path: Path) -> None:
    """Rows of a packed source, or of a retry, are made again: not from a file that is gone, or says something else now.

    That was an error of the source, of a load that was long over."""
    (tmp_path / "leads.csv.gz").write_bytes(gzip.compress(b"email,leadScore\na@x.io,1\nb@x.io,many\nc@x.io,lots\n"))
    with shop(tmp_path, quick()) as market:
        first = market.run("load", "leads.csv.gz", "--json").summary["load_id"]
        (tmp_path / "map.csv").write_text("many,9\n")
        again = ["retry", first, "--fix", "map:leadScore=map.csv", "--reasons", "all", "--json"]
        second = market.run(*again).summary["load_id"]
        reports = tmp_path / "reports"
        assert (market.run("report", first).code, market.run("report", second).code) == (3, 3)
        before = {path: path.read_bytes() for path in reports.rglob("re*.*")}
        (tmp_path / "map.csv").write_text("many,8\n")
        other = market.run("report", second)
        assert (other.code, "are not what they were" in other.err) == (3, True), other
        (tmp_path / "map.csv").write_text("1,2,3\n")
        assert "map.csv, line 1: 3 values" in market.run("report", second).err
        (tmp_path / "leads.csv.gz").write_bytes(gzip.compress(b"email,leadScore\nz@x.io,1\n"))
        changed = market.run("report", first)
        assert (changed.code, "it gives other rows now" in changed.err) == (3, True), changed
        (tmp_path / "leads.csv.gz").unlink()
        for load in (first, second):
            gone = market.run("report", load)
            assert (gone.code, "stays as it was" in gone.err) == (3, True), gone
            assert "orchestrator retry" not in gone.err
        assert {path: path.read_bytes() for path in reports.rglob("re*.*")} == before
        assert market.run(*again).code == 66, "to send rows they must be there"


def test_a_report_whose_folder_has_moved_is_said_to_be_written_anew(tmp_path: Path) -> None:
    """The ledger knows where the report was: a working folder that is moved gets no other report by being asked."""
    (tmp_path / "here").mkdir()
    write_leads(tmp_path / "here" / "leads.csv", 50, bad_share=0)
    with shop(tmp_path / "here", quick()) as market:
        load = market.run("load", "leads.csv", "--json").summary["load_id"]
        assert "any more" not in market.run("report", load).err
        market.folder = (tmp_path / "here").rename(tmp_path / "there")
        moved = market.run("report", load)
        assert moved.code == 0, moved
        assert f"no report was in {tmp_path}/here/reports/{load} any more" in moved.err


@pytest.mark.parametrize("command", [("resume",), ("load", "leads.csv")])
def test_a_load_whose_folder_has_moved_says_so_before_it_goes_on(tmp_path: Path, command: tuple[str, ...]) -> None:
    """What was collected until then is looked for where it was: its rows were missed in the report, hours later."""
    (tmp_path / "here").mkdir()
    write_leads(tmp_path / "here" / "leads.csv", 2_000, bad_share=0.1)
    with shop(tmp_path / "here", quick(seconds_per_job=0.3)) as market:
        stopped = market.run("load", "leads.csv", "--max-wait", "1s", "--json")
        assert (stopped.code, "folder_gone" in stopped.err) == (75, False), stopped
        market.folder = (tmp_path / "here").rename(tmp_path / "there")
        folder = f"{tmp_path}/here/reports/{stopped.summary['load_id']}"
        again = market.run(*command, "--max-wait", "1s")
        assert "report.folder_gone" in again.err
        assert folder in again.err


def test_a_folder_that_a_report_has_left_keeps_what_was_collected_there(tmp_path: Path) -> None:
    """The report is wanted elsewhere, and the folder is named again for another load, which is purged later."""
    write_leads(tmp_path / "leads.csv", 50, bad_share=0.2)
    write_leads(tmp_path / "others.csv", 40, bad_share=0.2)
    with shop(tmp_path, quick()) as market:
        for file, folder in (("leads.csv", "desk"), ("leads.csv", "shelf"), ("others.csv", "desk")):
            assert market.run("load", file, "--report-dir", folder).code == 3
        other = json.loads((tmp_path / "desk" / "report.json").read_bytes())["load_id"]
        assert market.run("purge", other).code == 0
        assert not (tmp_path / "desk" / "report.csv").exists()
        load = json.loads((tmp_path / "shelf" / "report.json").read_bytes())["load_id"]
        again = market.run("report", load)
        assert again.code == 3, again
        assert "note:" not in again.err
        assert market.run("purge", load).code == 0
        assert not list((tmp_path / "desk").rglob("*.csv"))


def test_a_report_of_a_load_that_is_not_finished_says_so(tmp_path: Path) -> None:
    """3 would tell a script that all is over, and that the rest was lost."""
    write_leads(tmp_path / "leads.csv", 4_000, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=30.0)) as market:
        process = market.start("load", "leads.csv")
        until = time.monotonic() + 30
        while len(market.simulator.model.jobs) < 4:
            assert time.monotonic() < until
            time.sleep(0.05)
        load = json.loads(market.run("status", "--json").out.splitlines()[0])["load_id"]
        running = market.run("report", load, "--json")
        assert running.code == running.summary["exit_code"] == 75, running
        assert f"not finished: load {load} is being run by process {process.pid}" in running.err
        assert running.summary["resume"] is None
        assert market.report().json["exit_code"] == 75
        process.kill()
        process.communicate()
        killed = market.run("report", load)
        assert killed.code == 75, killed
        assert f"not finished: load {load} was interrupted" in killed.err
        assert f"to go on: orchestrator resume {load}\n" in killed.err
        assert market.run("load", "leads.csv", "--max-wait", "1s").code == 75
        stopped = market.run("report", load)
        assert stopped.code == 75, stopped
        assert f"not finished: load {load} stopped early: --max-wait of 1 s is over" in stopped.err


def test_old_reports_are_removed_when_a_load_finishes(tmp_path: Path) -> None:
    """Nobody remembers to."""
    write_leads(tmp_path / "one.csv", 20)
    write_leads(tmp_path / "two.csv", 20, first=100)
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "one.csv").code == 0
        one = market.report().folder
        assert market.run("load", "two.csv", ORCHESTRATOR_REPORT__KEEP_DAYS="0.000001").code == 0
        assert not one.exists()
        assert market.report().folder != one


def test_the_terminal_says_in_five_lines_what_a_person_needs(tmp_path: Path) -> None:
    """Rows in, imported, not imported and why, what to do next, where the report is; and nobody's address."""
    write_leads(tmp_path / "leads.csv", 400, bad_share=0.1)
    with shop(tmp_path, quick()) as market:
        loaded = market.run("load", "leads.csv", "--no-progress")
        folder = market.report().folder
        last = loaded.err.rstrip().splitlines()[-5:]
        totals = market.report().json["totals"]
        assert re.fullmatch(r"rows: +400 in leads\.csv, in .*: .* rows a second", last[0]), last
        assert "in 0 s" not in last[0]
        assert last[1].startswith(f"imported:     {totals['imported']}, {totals['warned']} of them with a warning")
        assert re.match(rf"not imported: {totals['failed']} failed \(\d+ x ", last[2]), last
        rule = "blank-invalid:leadScore"
        assert last[3].endswith(f": orchestrator retry {folder.name} --fix {rule} --dry-run"), "each must be mended"
        tried = market.run(*last[3].partition(": orchestrator ")[2].split())
        assert tried.code == 0, tried
        assert "of them mended" in tried.out, "what is advised mends something"
        assert last[4] == f"report: {folder}"
        table = loaded.err.splitlines()
        head = next(number for number, line in enumerate(table) if line.startswith("ROWS"))
        assert re.search(
            r"failure +leadScore +Invalid data type in field Lead Score +row [\d,]+", "\n".join(table[head:])
        )
        assert "@example" not in loaded.err + loaded.out


def test_a_packed_source_is_known_again_by_its_own_bytes(tmp_path: Path) -> None:
    """What was sent was made from it; what people have is the packed file."""
    write_leads(tmp_path / "plain.csv", 300, bad_share=0.1)
    (tmp_path / "leads.csv.gz").write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes()))
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "leads.csv.gz", "--no-progress").code == 3
        folder = str(market.report().folder)
        verified = market.run("verify", folder, "leads.csv.gz")
        assert verified.code == 0, verified
        assert "each stands at its place in the source" in verified.out
        (tmp_path / "leads.csv.gz").write_bytes(gzip.compress(b"email\na@x\n"))
        assert market.run("verify", folder, "leads.csv.gz").code == 65


def test_several_sources_are_verified_together(tmp_path: Path) -> None:
    """The report names the file of each row, and its line there."""
    write_leads(tmp_path / "one.csv", 200, bad_share=0.1)
    write_leads(tmp_path / "two.csv", 200, bad_share=0.1, first=500)
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "one.csv", "two.csv", "--no-progress").code == 3
        folder = market.report().folder
        verified = market.run("verify", str(folder), "one.csv", "two.csv")
        assert verified.code == 0, verified
        assert "each stands at its place in the source" in verified.out
        one = market.run("verify", str(folder), "two.csv")
        assert (one.code, "unless all of them are named" in one.out) == (0, True), one
        lines = folder / "report.jsonl"
        told = lines.read_bytes()
        lines.write_bytes(told.replace(b'"source_file": "two.csv"', b'"source_file": "one.csv"', 1))
        assert market.run("verify", str(folder), "one.csv", "two.csv").code == 70


@pytest.mark.parametrize("name", ["leads.tsv", "leads.ssv"])
def test_books_of_tables_with_other_delimiters_balance_to_the_end(tmp_path: Path, name: str) -> None:
    """Every file of the report, and what is made of it, has to know which delimiter is whose."""
    delimiter = {"leads.tsv": "\t", "leads.ssv": ";"}[name]
    rows = [
        [f"lead{row}@example.com", f'Zoë, {delimiter} "{row}"\n;\t=1', "x.5" if row % 3 == 0 else str(row)]
        for row in range(60)
    ]
    with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["email", "company", "leadScore"], *rows])
    failed = [row for row in rows if row[2] == "x.5"]
    with shop(tmp_path, quick()) as market:
        assert market.run("load", name, "--no-progress").code == 3
        folder = market.report().folder
        assert market.run("verify", str(folder), name).code == 0
        with (folder / "report.csv").open(encoding="utf-8", newline="") as table:
            assert [record[-3] for record in csv.reader(table)][1:] == [row[0] for row in failed]
        with (folder / "retry.csv").open(encoding="utf-8", newline="") as again:
            assert list(csv.reader(again, delimiter=delimiter))[1:] == failed
        retried = market.run("retry", folder.name, "--reasons", "all", "--fix", "blank-invalid:leadScore", "--json")
        assert retried.code == 0, retried
        assert market.run("verify", str(folder.parent / retried.summary["load_id"]), name).code == 0
        for load in (retried.summary["load_id"], folder.name):
            assert market.run("purge", load).code == 0
        assert not folder.exists()


def test_rows_as_large_as_a_chunk_fail_are_sent_again_and_forgotten(tmp_path: Path) -> None:
    """Nothing that is done to a row after it failed may need it to be small."""
    notes = 'é, "x"\n' * 900_000
    with (tmp_path / "leads.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["email", "leadScore", "notes"], *[[f"{row}@example.com", "x.5", notes] for row in range(2)]]
        )
    with shop(tmp_path, quick()) as market:
        market.environment["ORCHESTRATOR_LIMITS__CHUNK_BYTES"] = "9500000"
        assert market.run("load", "leads.csv", "--no-progress").code == 3
        folder = market.report().folder
        assert market.run("verify", str(folder), "leads.csv").code == 0
        retried = market.run("retry", folder.name, "--reasons", "all", "--fix", "blank-invalid:leadScore", "--json")
        assert retried.code == 0, retried
        assert market.run("purge", retried.summary["load_id"]).code == 0
        assert market.run("purge", folder.name).code == 0
        assert not folder.exists()


def test_a_number_that_was_changed_by_hand_is_named(tmp_path: Path) -> None:
    """The question is which one; a traceback, or counting to it, is no answer."""
    write_leads(tmp_path / "leads.csv", 50, bad_share=0.2)
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "leads.csv", "--no-progress").code == 3
        path = market.report().folder / "report.json"
        told = path.read_text()
        for wild in ("1e400", "-1", "9007199254740993", "9" * 5_000, "1000000000", "true", "[]"):
            path.write_text(re.sub(r'"imported": \d+', f'"imported": {wild}', told, count=1))
            verified = market.run("verify", str(path.parent), "leads.csv")
            assert verified.code == 70, verified
            assert "Traceback" not in verified.err
            assert "report" in verified.out + verified.err
