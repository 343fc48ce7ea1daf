"""Rows that failed, sent again: by the real command line, against the simulator."""

from __future__ import annotations

import gzip
import json
import re
import resource
import time
from pathlib import Path

import pytest
from e2e.shop import Report, Shop, expected, quick, rows_received, shop
from e2e.test_endurance import limited

from orchestrator.simulator.leads import write_leads

SOURCE = """email,leadScore,country,notes\r
a1@x.io,1,DE,sound\r
 a2@x.io ,2.5,Deutschland,"a score, with decimals"\r
,3,DE,no key\r
a4@x.io,x,DE,"two\r
lines"\r
a5@x.io,5,DE,sound\r
"""
MAP = "DE,Germany\nDeutschland,Germany\n"


def loaded(market: Shop, source: str = "leads.csv", code: int = 3) -> str:
    done = market.run("load", source, "--no-retry", "--json")
    assert done.code == code, done
    return str(done.summary["load_id"])


def report_of(market: Shop, load: str) -> Report:
    return Report(market.folder / "reports" / load)


def lead_data_left(market: Shop) -> list[Path]:
    """Files beside source and reports that hold a lead."""
    state = [path for path in (market.folder / ".orchestrator").rglob("*") if path.is_file()]
    return [path for path in state if b"@x.io" in path.read_bytes() or b"@example" in path.read_bytes()]


def test_transient_rows_go_again_byte_for_byte_and_keep_their_numbers(tmp_path: Path) -> None:
    """A second chance for rows that failed by accident, without touching them and without losing their place."""
    write_leads(tmp_path / "leads.csv", 1_000, bad_share=0)
    with shop(tmp_path, quick(transient_share=0.05, transient_tries=2, keep_bodies=True)) as market:
        first = loaded(market)
        failed = [row["source_row"] for row in report_of(market, first).rows]
        assert len(failed) > 20
        done = market.run("retry", first, "--no-retry", "--json")
        assert done.code == 3, done  # they fail twice
        second = report_of(market, done.summary["load_id"])
        assert second.json["retry_of"] == first
        assert [row["source_row"] for row in second.rows] == failed
        assert [row["source_line"] for row in second.rows] == [
            row["source_line"] for row in report_of(market, first).rows
        ]
        (last,) = list(market.simulator.model.jobs.values())[-1:]
        assert last.body == (tmp_path / "reports" / first / "retry.csv").read_bytes()
        third = market.run("retry", done.summary["load_id"], "--json")
        assert third.code == 0, third
        assert report_of(market, third.summary["load_id"]).json["totals"]["imported"] == len(failed)
        assert lead_data_left(market) == []
        verified = market.run("verify", str(second.folder), "leads.csv")
        assert verified.code == 0, verified
        assert market.run("purge", third.summary["load_id"]).code == 0
        assert [violation.rule for violation in market.simulator.model.violations] == []


def test_a_retry_that_the_disk_has_no_room_for_says_so_and_is_made_later(tmp_path: Path) -> None:
    """It was called a fault of ours, and told nobody what to do."""
    rows = "".join(f"p{row}@x.io,ten\n" for row in range(1_000))
    (tmp_path / "leads.csv").write_text(f"email,leadScore\n{rows}")
    with shop(tmp_path) as market:
        first = loaded(market)
        short = limited(market, resource.RLIMIT_FSIZE, 2_000, "retry", first, "--reasons", "all")
        assert short.code == 75, short
        assert "Make room" in short.err
        assert lead_data_left(market) == []
        assert market.run("retry", first, "--reasons", "all", "--no-retry").code == 3


def test_a_retry_of_a_retry_names_rows_of_the_first_source(tmp_path: Path) -> None:
    """The spool of the first retry is gone by then, and its row numbers would mean nothing to anybody."""
    (tmp_path / "leads.csv").write_text(SOURCE, newline="")
    with shop(tmp_path, quick(keep_bodies=True)) as market:
        first = loaded(market)
        second = market.run("retry", first, "--reasons", "all", "--json")
        assert second.code == 3, second
        load = second.summary["load_id"]
        assert report_of(market, load).judged() == report_of(market, first).judged()
        assert [row["source_row"] for row in report_of(market, load).rows] == [2, 3, 4]
        third = market.run("retry", load, "--fix", "trim,blank-invalid:leadScore", "--json")
        assert third.code == 0, third
        assert report_of(market, third.summary["load_id"]).json["totals"]["rows"] == 2
        again = market.run("report", load)
        assert again.code == 3, again
        assert [row["source_row"] for row in report_of(market, load).rows] == [2, 3, 4]
        assert lead_data_left(market) == []


def test_mended_rows_arrive_as_the_rules_say(tmp_path: Path) -> None:
    """Repair and reload in one command."""
    (tmp_path / "leads.csv").write_text(SOURCE, newline="")
    (tmp_path / "countries.csv").write_text(MAP)
    fix = "trim,blank-invalid:leadScore,lower:email,map:country=countries.csv"
    with shop(tmp_path, quick(keep_bodies=True)) as market:
        first = loaded(market)
        before = len(rows_received(market.simulator))
        done = market.run("retry", first, "--fix", fix, "--json")
        assert done.code == 0, done
        assert rows_received(market.simulator)[before:] == [
            ["a2@x.io", "", "Germany", "a score, with decimals"],
            ["a4@x.io", "", "Germany", "two\r\nlines"],
        ]
        assert report_of(market, done.summary["load_id"]).json["settings"]["fix"] == fix
        calls = dict(market.simulator.model.calls)
        again = market.run("retry", first, "--fix", fix)
        assert again.code == 0, again
        assert "had finished before" in again.err
        assert dict(market.simulator.model.calls) == calls
        forced = market.run("retry", first, "--fix", fix, "--force")
        assert forced.code == 0, forced
        assert len(rows_received(market.simulator)) == before + 4


def test_a_dry_run_shows_the_changed_cells_and_sends_nothing(tmp_path: Path) -> None:
    """Rules are tried before they are trusted; the preview shows no address and no cell that stays as it is."""
    (tmp_path / "leads.csv").write_text(SOURCE.replace("two\r\n", "two\x1b[31m\r\n"), newline="")
    with shop(tmp_path) as market:
        first = loaded(market)
        calls = dict(market.simulator.model.calls)
        done = market.run("retry", first, "--dry-run", "--fix", "trim,upper:notes,blank-invalid:leadScore")
        assert done.code == 0, done
        assert "row 2 (line 3): Invalid data type in field Lead Score" in done.out
        assert '- email: " x0@x.xx "\n+ email: "x0@x.xx"' in done.out
        assert '- leadScore: "2.5"\n+ leadScore: ""' in done.out
        assert '+ notes: "TWO\\x1b[31M\\r\\nLINES"' in done.out
        assert "a2@" not in done.out
        assert "Deutschland" not in done.out
        assert "no key" not in done.out
        assert "2 go again (2 permanent); 2 of them mended" in done.out
        machine = market.run("retry", first, "--dry-run", "--fix", "trim,upper:notes,blank-invalid:leadScore", "--json")
        lines = [json.loads(line) for line in machine.out.splitlines()]
        assert [line.get("source_row") for line in lines] == [2, 4, None]
        assert (lines[-1]["again"], lines[-1]["staying"], lines[-1]["mended"]) == (2, 1, 2)
        assert dict(market.simulator.model.calls) == calls
        assert (
            len(json.loads(market.run("status", "--json").out.splitlines()[-1]) and [*(tmp_path / "reports").iterdir()])
            == 1
        )
        assert lead_data_left(market) == []


def test_a_load_with_nothing_worth_sending_says_so(tmp_path: Path) -> None:
    """Nothing to do is no failure: a pipeline may always call retry."""
    (tmp_path / "leads.csv").write_text(SOURCE, newline="")
    (tmp_path / "sound.csv").write_text("email\na@x.io\n")
    with shop(tmp_path) as market:
        for load, said in ((loaded(market), "no row goes again"), (loaded(market, "sound.csv", 0), "no row failed")):
            calls = dict(market.simulator.model.calls)
            done = market.run("retry", load)
            assert done.code == 0, done
            assert said in done.err
            assert dict(market.simulator.model.calls) == calls


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--fix", "trm"), 2, "Did you mean 'trim'?"),
        (("--fix", "lower:mail"), 2, "Did you mean 'email'?"),
        (("--fix", "map:country=none.csv"), 66, "none.csv: No such file"),
        (("--fix", "map:country=bad.csv"), 2, "bad.csv, line 1: 3 values"),
        (("--reasons", "none"), 2, "invalid choice"),
    ],
)
def test_a_rule_that_cannot_be_stops_before_anything_is_sent(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """Half a repair would send rows as nobody wanted them."""
    (tmp_path / "leads.csv").write_text(SOURCE, newline="")
    (tmp_path / "bad.csv").write_text("a,b,c\n")
    with shop(tmp_path) as market:
        load = loaded(market)
        calls = dict(market.simulator.model.calls)
        done = market.run("retry", load, *arguments)
        assert done.code == code, done
        assert said in done.err
        assert "Traceback" not in done.err
        assert dict(market.simulator.model.calls) == calls
        assert lead_data_left(market) == []


def test_an_unfinished_load_is_not_retried(tmp_path: Path) -> None:
    """Its rows may still be imported: sending them again would be sending them twice."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0.02)
    with shop(tmp_path, quick(seconds_per_job=1.0)) as market:
        assert market.run("load", "leads.csv", "--max-wait", "1s").code == 75
        load = json.loads(market.run("status", "--json").out.splitlines()[0])["load_id"]
        done = market.run("retry", load)
        assert done.code == 75, done
        assert f"orchestrator resume {load}" in done.err


def test_a_load_all_of_whose_rows_failed_is_retried_as_another_load(tmp_path: Path) -> None:
    """Its rows make the very content that was loaded before: by content alone it would count as done."""
    (tmp_path / "leads.csv").write_text("email\na@x.io\nb@x.io\n")
    with shop(tmp_path, quick(transient_share=1.0)) as market:
        first = loaded(market)
        done = market.run("retry", first, "--json")
        assert done.code == 0, done
        assert done.summary["load_id"] != first
        assert done.summary["totals"]["imported"] == 2
        calls = dict(market.simulator.model.calls)
        same = market.run("load", "leads.csv", "--json")  # this content is loaded, by whichever command
        assert same.code == 0, same
        assert same.summary["load_id"] == done.summary["load_id"]
        assert dict(market.simulator.model.calls) == calls
        assert (tmp_path / "leads.csv").read_text() == "email\na@x.io\nb@x.io\n"


def test_a_source_that_changed_is_not_taken_for_what_failed(tmp_path: Path) -> None:
    """Other rows would go under the failed ones' name."""
    (tmp_path / "leads.csv").write_text(SOURCE, newline="")
    with shop(tmp_path) as market:
        load = loaded(market)
        (tmp_path / "leads.csv").write_text(SOURCE.replace("a4@x.io", "b4@x.io"), newline="")
        calls = dict(market.simulator.model.calls)
        done = market.run("retry", load, "--fix", "blank-invalid:leadScore")
        assert done.code == 65, done
        assert "retry.csv" in done.err
        assert dict(market.simulator.model.calls) == calls
        assert lead_data_left(market) == []


def test_killed_in_mid_retry_the_same_command_goes_on(tmp_path: Path) -> None:
    """A retry is a load: kill -9 loses nothing, and no known batch is sent twice."""
    write_leads(tmp_path / "leads.csv", 3_000, bad_share=0)
    with shop(tmp_path, quick(transient_share=0.5, seconds_per_job=0.05)) as market:
        first = loaded(market)
        accepted = len(market.simulator.model.jobs)
        process = market.start("retry", first)
        until = time.monotonic() + 30
        while len(market.simulator.model.jobs) < accepted + 3 and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        done = market.run("retry", first, "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="3")
        assert done.code == 0, done
        twice = [v for v in market.simulator.model.violations if v.rule == "the same file twice"]
        assert len(twice) <= done.summary["doubts"]
        totals = done.summary["totals"]
        assert totals["imported"] == totals["rows"] == len(report_of(market, first).rows)
        assert len([*(tmp_path / "reports").iterdir()]) == 2
        assert lead_data_left(market) == []


def test_a_retry_that_is_given_up_leaves_no_lead_behind(tmp_path: Path) -> None:
    """Whoever purges it wants its rows gone now, and not when the next load begins."""
    (tmp_path / "leads.csv").write_text(SOURCE, newline="")
    with shop(tmp_path, quick()) as market:
        first = loaded(market)
        stopped = market.run("retry", first, "--reasons", "all", "--json", ORCHESTRATOR_MARKETO__CLIENT_SECRET="wrong")
        assert stopped.code == 77, stopped
        assert lead_data_left(market), "its rows are still to be sent"
        purged = market.run("purge", stopped.summary["load_id"], "--unfinished")
        assert purged.code == 0, purged
        assert lead_data_left(market) == []


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_retry_that_cannot_be_made_leaves_no_lead_behind(tmp_path: Path, dry_run: tuple[str, ...]) -> None:
    """The packed source was unpacked for it, of a load that is over: nobody would have come for that file."""
    (tmp_path / "leads.csv.gz").write_bytes(gzip.compress(SOURCE.encode()))
    with shop(tmp_path, quick()) as market:
        first = loaded(market, "leads.csv.gz")
        (tmp_path / "map.csv").write_text("1,2,3\n")
        refused = market.run("retry", first, "--fix", "map:country=map.csv", *dry_run)
        assert refused.code == 2, refused
        assert lead_data_left(market) == []


def test_a_spool_that_is_gone_is_written_again_or_nothing_is_sent(tmp_path: Path) -> None:
    """The spool is ours and may be swept; other rows under its name would be sent in place of the failed ones."""
    write_leads(tmp_path / "leads.csv", 1_000, bad_share=0)
    (tmp_path / "map.csv").write_text("Country 1,One\n")
    with shop(tmp_path, quick(transient_share=0.5, keep_bodies=True)) as market:
        first = loaded(market)
        before = len(rows_received(market.simulator))
        market.simulator.model.settings.transient_share = 0.0
        market.simulator.occupy(10)
        stopped = market.run("retry", first, "--fix", "map:country=map.csv", "--max-wait", "1s", "--json")
        assert stopped.code == 75, stopped
        market.simulator.release(10)
        load = stopped.summary["load_id"]
        (spool,) = (tmp_path / ".orchestrator" / "ledger.db.spool").iterdir()
        content = spool.read_bytes()
        spool.unlink()
        (tmp_path / "map.csv").write_text("Country 1,Two\n")
        refused = market.run("resume", load)
        assert refused.code == 65, refused
        assert "not what they were" in refused.err
        assert len(rows_received(market.simulator)) == before
        (tmp_path / "map.csv").write_text("Country 1,One\n")
        done = market.run("resume", load)
        assert done.code == 0, done
        assert len(rows_received(market.simulator)) - before == len(report_of(market, first).rows)
        assert content.count(b",One,") > 0
        assert lead_data_left(market) == []


def test_a_retry_of_packed_files_names_the_users_files_and_lines(tmp_path: Path) -> None:
    """Both spools are gone when the report is written again; people have only their own files."""
    for name, number in (("a", 1), ("b", 501)):
        write_leads(tmp_path / f"{name}.csv", 500, bad_share=0, first=number)
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress((tmp_path / f"{name}.csv").read_bytes()))
    with shop(tmp_path, quick(transient_share=0.05, transient_tries=2)) as market:
        done = market.run("load", "a.csv.gz", "b.csv.gz", "--no-retry", "--json")
        assert done.code == 3, done
        first = report_of(market, done.summary["load_id"])
        again = market.run("retry", done.summary["load_id"], "--no-retry", "--json")
        assert again.code == 3, again
        assert market.run("report", again.summary["load_id"]).code == 3
        second = report_of(market, again.summary["load_id"])
        places = [
            [(row["source_file"], row["source_line"], row["row"]["email"]) for row in report.rows]
            for report in (first, second)
        ]
        assert places[0] == places[1]
        assert {file for file, _, _ in places[1]} == {"a.csv.gz", "b.csv.gz"}
        third = market.run("retry", again.summary["load_id"])
        assert third.code == 0, third
        assert lead_data_left(market) == []


def test_rows_that_fail_by_accident_go_again_at_the_end_of_their_load(tmp_path: Path) -> None:
    """The person who started the load sees only what needs a person."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0.01)
    with shop(tmp_path, quick(transient_share=0.03, keep_bodies=True)) as market:
        done = market.run("load", "leads.csv", "--json")
        truth = expected(market.simulator, tmp_path / "leads.csv")
        report = market.report()
        bad = [one for one in truth if one[2] != "System error"]
        assert report.judged() == bad
        stumbled = sum(reason == "System error" for _, _, reason in truth)
        assert stumbled > 20
        failed = sum(kind == "failure" for kind, _, _ in bad)
        assert done.code == 3, done
        assert (done.summary["totals"]["imported"], done.summary["totals"]["failed"]) == (2_000 - failed, failed)
        last = [chunk for chunk in report.json["chunks"] if chunk["again"]]
        assert [(chunk["again"], chunk["rows"], chunk["imported"]) for chunk in last] == [(1, stumbled, stumbled)]
        assert sum(chunk["sent_again"] for chunk in report.json["chunks"]) == stumbled
        assert market.simulator.truth()["rows_accepted"] == 2_000 + stumbled
        assert [violation.rule for violation in market.simulator.model.violations] == []
        verified = market.run("verify", str(report.folder), "leads.csv")
        assert verified.code == 0, verified
        status = market.run("status", "--json")
        assert json.loads(status.out.splitlines()[0])["totals"] == done.summary["totals"]
        told = market.run("status", done.summary["load_id"]).out.split("CHUNK")[1].splitlines()
        cells = [re.split(r" {2,}", line.strip()) for line in told[1:]]
        assert sum(int(line[5].replace(",", "")) for line in cells) == failed, "each failed row is counted once"
        again = [chunk["sent_again"] for chunk in report.json["chunks"] if chunk["sent_again"]]
        assert [int(line[6]) for line in cells if line[6] != "0"] == again


@pytest.mark.parametrize(
    ("reason", "tries", "sent"), [("Lead is locked", 3, 3), ("Lead is locked", 2, 3), ("Try later", 3, 2)]
)
def test_no_row_goes_again_more_often_than_its_reason_allows(
    tmp_path: Path, reason: str, tries: int, sent: int
) -> None:
    """Transient rows are sent three times, unknown ones twice; what still fails is reported with its attempts."""
    write_leads(tmp_path / "leads.csv", 500, bad_share=0)
    with shop(tmp_path, quick(transient_share=0.05, transient_tries=tries, transient_reason=reason)) as market:
        done = market.run("load", "leads.csv")
        rows = market.report().rows
        assert done.code == (3 if tries >= sent else 0), done
        assert {row["attempt"] for row in rows} == ({sent} if tries >= sent else set())
        again = market.simulator.truth()["rows_accepted"] - 500
        assert again == sum(chunk["sent_again"] for chunk in market.report().json["chunks"])
        assert again > 10 * (sent - 1)
        calls = dict(market.simulator.model.calls)
        assert market.run("load", "leads.csv").code == done.code
        assert dict(market.simulator.model.calls) == calls
        if done.code == 3:
            (told,) = re.findall(r"^next: +send the failed rows again: orchestrator (retry [0-9a-f]+)$", done.err, re.M)
            assert market.run(*told.split()).code == 0, "what is to be typed next works"


def test_killed_between_the_last_chunk_and_its_end_no_row_goes_twice(tmp_path: Path) -> None:
    """The last chunk is in the ledger once, however often the load is begun again."""
    write_leads(tmp_path / "leads.csv", 1_000, bad_share=0)
    with shop(tmp_path, quick(transient_share=0.2, seconds_per_job=0.2)) as market:
        chunks = market.run("plan", "leads.csv", "--json").summary["chunks"]
        process = market.start("load", "leads.csv")
        until = time.monotonic() + 60
        while len(market.simulator.model.jobs) <= chunks and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        done = market.run("load", "leads.csv", "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="3")
        assert done.code == 0, done
        twice = [v for v in market.simulator.model.violations if v.rule == "the same file twice"]
        assert len(twice) <= done.summary["doubts"]
        assert done.summary["totals"]["imported"] == 1_000
