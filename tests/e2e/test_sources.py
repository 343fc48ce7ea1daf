"""Loads of every kind of source, by the real command line, over HTTP, against the simulator."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from adapters.sources.made import number, sheet, text, workbook, zipped
from backports import zstd
from e2e.shop import Finished, Shop, expected, quick, rows_of, rows_received, shop
from e2e.test_books import until
from e2e.test_load import wait_for

from orchestrator.simulator.leads import write_leads

ROWS = 1_200


def as_jsonl(source: Path, to: Path) -> None:
    header, *rows = rows_of(source)
    lines = (json.dumps(dict(zip(header, row, strict=True))) for row in rows)
    to.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_parquet(source: Path, to: Path) -> None:
    duckdb.sql(f"COPY (SELECT * FROM read_csv('{source}', all_varchar = true)) TO '{to}'")


def as_workbook(source: Path, to: Path) -> None:
    cells = [
        [number(cell) if cell.isdigit() and cell[0] != "0" else text(cell) for cell in row] for row in rows_of(source)
    ]
    workbook(to, {"Leads": sheet(list(enumerate(cells, 1)))})


def as_utf_16(source: Path, to: Path) -> None:
    to.write_bytes(source.read_bytes().decode().encode("utf-16"))


def packed(pack: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    def put(source: Path, to: Path) -> None:
        to.write_bytes(pack(source.read_bytes()))

    return put


KINDS: dict[str, Callable[[Path, Path], object]] = {
    "leads.csv.gz": packed(gzip.compress),
    "leads.csv.zst": packed(zstd.compress),
    "leads.csv.bz2": packed(bz2.compress),
    "leads.csv.xz": packed(lzma.compress),
    "leads.zip": lambda source, to: zipped(to, {"leads.csv": source.read_bytes()}),
    "leads.jsonl": as_jsonl,
    "leads.parquet": as_parquet,
    "leads.xlsx": as_workbook,
    "leads-utf16.csv": as_utf_16,
}


def spools(folder: Path) -> list[Path]:
    return sorted((folder / ".orchestrator/ledger.db.spool").glob("*"))


@pytest.mark.parametrize("name", KINDS)
def test_a_source_of_any_kind_is_loaded_and_reported_row_by_row(tmp_path: Path, name: str) -> None:
    """The whole promise holds for each: every row once, every failure at its row, no lead left on the disk."""
    plain = tmp_path / "plain.csv"
    write_leads(plain, ROWS, bad_share=0.05)
    KINDS[name](plain, tmp_path / name)
    with shop(tmp_path, quick(keep_bodies=True)) as market:
        done = market.run("load", name, "--json")
        assert done.code == 3, done
        assert sorted(rows_received(market.simulator)) == sorted(rows_of(plain)[1:])
        report = market.report()
        assert report.judged() == expected(market.simulator, plain)
        assert len(report.rows) > 30
        assert report.json["source"]["name"] == name
        assert spools(tmp_path) == []
        before = (report.folder / "report.csv").read_bytes(), (report.folder / "retry.csv").read_bytes()
        accepted = len(market.simulator.model.jobs)
        again = market.run("load", name, "--json")
        assert (again.code, again.summary["already_finished"]) == (3, True), again
        assert ((report.folder / "report.csv").read_bytes(), (report.folder / "retry.csv").read_bytes()) == before
        assert len(market.simulator.model.jobs) == accepted
        assert spools(tmp_path) == []


def lines_by_email(path: Path) -> dict[str, int]:
    """The physical line on which each lead's row begins."""
    found: dict[str, int] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader, line = csv.reader(file), 1
        for row in reader:
            found[row[0]] = line
            line = reader.line_num + 1
    return found


def test_several_files_are_one_load_and_the_report_names_file_and_line(tmp_path: Path) -> None:
    """A folder of exports; the person who mends a row must find it."""
    for n in range(3):
        write_leads(tmp_path / f"part{n}.csv", 400, seed=n + 1, bad_share=0.1)
    (tmp_path / "part1.csv.gz").write_bytes(gzip.compress((tmp_path / "part1.csv").read_bytes()))
    lines = {"part0.csv": lines_by_email(tmp_path / "part0.csv"), "part2.csv": lines_by_email(tmp_path / "part2.csv")}
    lines["part1.csv.gz"] = lines_by_email(tmp_path / "part1.csv")
    (tmp_path / "part1.csv").unlink()
    with shop(tmp_path) as market:
        done = market.run("load", "part*.csv*", "--json")
        assert done.code == 3, done
        report = market.report()
        assert [file["name"] for file in report.json["source"]["files"]] == sorted(lines)
        named = [row for row in report.rows if row["row"]["email"]]
        assert {row["source_file"] for row in named} == set(lines)
        for row in named:
            assert lines[row["source_file"]][row["row"]["email"]] == row["source_line"], row
        with (report.folder / "report.csv").open(encoding="utf-8", newline="") as file:
            assert next(csv.reader(file))[7] == "source_file"


@pytest.mark.parametrize("pattern", ["part**.csv", "***.csv", "*/../part**"])
def test_stars_in_a_row_are_one_star_as_for_a_shell(pattern: str, tmp_path: Path) -> None:
    """pathlib takes them for a mistake, and what was typed once too often ended as a fault of ours."""
    (tmp_path / "folder").mkdir()
    write_leads(tmp_path / "part1.csv", 20, seed=1)
    with shop(tmp_path) as market:
        done = market.run("plan", pattern)
        assert done.code == 0, done
        assert "part1.csv" in done.out


def test_the_place_of_a_row_is_that_of_the_user_s_own_file(tmp_path: Path) -> None:
    """Also where a value has line ends and lines are blank: the spool file's lines are nobody's."""
    lines = ['{"email":"a@x.de","notes":"one\\ntwo","leadScore":"1"}', "", '{"email":"b@x.de","leadScore":"ten"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "a.jsonl").code == 3
        (row,) = market.report().rows
        assert (row["source_row"], row["source_line"]) == (2, 3)
        with (market.report().folder / "report.csv").open(encoding="utf-8", newline="") as file:
            assert [place[2:4] for place in csv.reader(file)][1:] == [["2", "3"]]


def killed(process: subprocess.Popen[str]) -> None:
    """Kill -9, and close its pipes."""
    process.kill()
    if process.stdin is not None:
        process.stdin.close()
        process.stdin = None
    process.communicate()


def piped(market: Shop, content: bytes, *arguments: str) -> Finished:
    process = market.start("load", "-", *arguments, stdin=subprocess.PIPE)
    out, err = process.communicate(content.decode(), timeout=60)
    return Finished(process.returncode, out, err)


def test_a_pipe_is_resumed_from_its_spool_file_and_recognised_when_it_comes_again(tmp_path: Path) -> None:
    """Nobody can read a pipe twice."""
    write_leads(tmp_path / "leads.csv", 4_000, bad_share=0)
    content = (tmp_path / "leads.csv").read_bytes()
    with shop(tmp_path, quick(seconds_per_job=0.3, keep_bodies=True)) as market:
        process = market.start("load", "-", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(content.decode())
        process.stdin.close()
        wait_for(market, 11)
        killed(process)
        (spool,) = spools(tmp_path)
        assert stat.S_IMODE(spool.stat().st_mode) == 0o600
        assert stat.S_IMODE(spool.parent.stat().st_mode) == 0o700
        assert spool.read_bytes() == content
        done = market.run("resume", "--on-doubt", "resend", "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="1")
        assert done.code == 0, done
        assert spools(tmp_path) == []
        received = {tuple(row) for row in rows_received(market.simulator)}
        assert received == {tuple(row) for row in rows_of(tmp_path / "leads.csv")[1:]}
        report = market.run("report", done.summary["load_id"])
        assert report.code == 0, report
        assert "standard input cannot be read again" in report.err
        assert "stays as it was" in report.err
        assert market.report().json["exit_code"] == 0
        again = piped(market, content, "--json")
        assert again.code == 0, again
        assert again.summary["already_finished"]
        assert spools(tmp_path) == []


@pytest.mark.parametrize("command", ["plan", "check"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_dry_run_that_is_stopped_ends_at_once_and_leaves_no_lead_behind(
    tmp_path: Path, command: str, number: signal.Signals, code: int
) -> None:
    """It waited for the end of the source, a second interrupt showed a traceback, and what was read stayed there."""
    with shop(tmp_path, quick()) as market:
        process = market.start(command, "-", "--json", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write("email\na@example.com\n")
        process.stdin.flush()
        until(lambda: len(spools(tmp_path)) > 0)
        process.send_signal(number)
        assert process.wait(timeout=10) == code
        done = Finished(code, *process.communicate())
        assert "Traceback" not in done.err
        assert done.summary["exit_code"] == code
        assert spools(tmp_path) == []


def test_originals_that_have_moved_are_read_where_they_are_now(tmp_path: Path) -> None:
    """A load is known by its content: its command with the new name is as good as the old one, and so is a retry."""
    write_leads(tmp_path / "leads.csv", 50, bad_share=0.2)
    (tmp_path / "leads.csv.gz").write_bytes(gzip.compress((tmp_path / "leads.csv").read_bytes()))
    with shop(tmp_path, quick()) as market:
        assert market.run("load", "leads.csv.gz").code == 3
        folder = market.report().folder
        before = (folder / "report.csv").read_bytes()
        (folder / "report.csv").unlink()
        (tmp_path / "leads.csv.gz").rename(tmp_path / "done.csv.gz")
        again = market.run("load", "done.csv.gz", "--json")
        assert again.code == 3, again
        assert again.summary["already_finished"]
        assert (folder / "report.csv").read_bytes() == before
        assert market.report().json["source"]["name"] == "done.csv.gz"
        assert market.run("retry", folder.name, "--reasons", "all").code == 3
        assert spools(tmp_path) == []


def test_failed_rows_of_a_pipe_are_advised_to_be_loaded_from_retry_csv(tmp_path: Path) -> None:
    """Whoever is told to `retry` would be refused, and piping the rows again would change nothing."""
    write_leads(tmp_path / "leads.csv", 50, bad_share=0.2)
    content = (tmp_path / "leads.csv").read_bytes()
    with shop(tmp_path, quick()) as market:
        done = piped(market, content)
        assert done.code == 3, done
        folder = market.report().folder
        (told,) = re.findall(r"^next: +load (.+), mended where need be: standard input cannot", done.err, re.M)
        assert told == str(folder / "retry.csv")
        retried = market.run("retry", folder.name)
        assert retried.code == 66, retried
        assert "retry.csv there has the failed rows" in retried.err
        assert market.run("load", told).code == 3, "they are rows of a source"


def test_a_process_that_dies_while_it_unpacks_leaves_nothing_that_stays(tmp_path: Path) -> None:
    """Kill -9 in mid-conversion, then the same command: it loads, and the half spool file is gone."""
    write_leads(tmp_path / "leads.csv", ROWS, bad_share=0)
    content = (tmp_path / "leads.csv").read_bytes()
    with shop(tmp_path, quick()) as market:
        process = market.start("load", "-", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(content.decode()[: len(content) // 2])
        process.stdin.flush()
        until = time.monotonic() + 30
        while not spools(tmp_path) and time.monotonic() < until:
            time.sleep(0.01)
        killed(process)
        (part,) = spools(tmp_path)
        assert part.name.endswith(".part")
        done = piped(market, content, "--json")
        assert done.code == 0, done
        assert spools(tmp_path) == []
        assert market.simulator.truth()["rows_accepted"] == ROWS


def test_a_signal_stops_a_command_that_waits_for_its_pipe(tmp_path: Path) -> None:
    """A pipe may never deliver."""
    with shop(tmp_path, quick()) as market:
        process = market.start("load", "-", "--json", stdin=subprocess.PIPE)
        until = time.monotonic() + 30
        while not spools(tmp_path) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=20)  # its standard input is still open
        killed(process)
        assert code == 143
        assert spools(tmp_path) == []


def interrupted(market: Shop, folder: Path) -> Path:
    """A load of leads.csv.gz that was killed while it was at work; its spool file."""
    write_leads(folder / "leads.csv", 4_000, bad_share=0)
    (folder / "leads.csv.gz").write_bytes(gzip.compress((folder / "leads.csv").read_bytes()))
    process = market.start("load", "leads.csv.gz")
    wait_for(market, 11)
    killed(process)
    (spool,) = spools(folder)
    return spool


def test_the_same_command_resumes_without_unpacking_again(tmp_path: Path) -> None:
    """The hash of the packed file is enough to know the load."""
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        spool = interrupted(market, tmp_path)
        shutil.copy(tmp_path / "leads.csv.gz", tmp_path / "copy.gz")
        done = market.run("load", "copy.gz", "-v", ORCHESTRATOR_LIMITS__DOUBT_LEASE="1")
        assert done.code == 0, done
        assert "source.spooled" not in done.err
        assert not spool.exists()


def test_the_same_rows_from_another_kind_of_file_are_the_same_load_and_no_file_of_the_user_is_removed(
    tmp_path: Path,
) -> None:
    """A load is known by its content; what is removed at its end lies among the spool files, and nowhere else."""
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        spool = interrupted(market, tmp_path)
        done = market.run("load", "leads.csv", "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="1")
        assert done.code == 0, done
        assert done.summary["load_id"] == spool.name
        assert (tmp_path / "leads.csv").exists()
        accepted = len(market.simulator.model.jobs)
        for name in ("leads.csv.gz", "leads.csv"):
            again = market.run("load", name, "--json")
            assert (again.code, again.summary["already_finished"]) == (0, True), again
        assert len(market.simulator.model.jobs) == accepted
        assert (tmp_path / "leads.csv").exists()
        assert spools(tmp_path) == []


def test_a_spool_file_that_is_gone_is_made_again_and_must_be_the_same(tmp_path: Path) -> None:
    """By `resume`, which has no source to name; a source that changed meanwhile stops the load."""
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        interrupted(market, tmp_path).unlink()
        original = (tmp_path / "leads.csv.gz").read_bytes()
        (tmp_path / "leads.csv.gz").write_bytes(gzip.compress(b"email\nother@example.com\n"))
        changed = market.run("resume")
        assert changed.code == 65, changed
        assert "it gives other rows now" in changed.err
        (tmp_path / "leads.csv.gz").write_bytes(original)
        done = market.run("resume", "-v", ORCHESTRATOR_LIMITS__DOUBT_LEASE="1")
        assert done.code == 0, done
        assert "source.spooled" in done.err
        assert spools(tmp_path) == []


def test_a_query_and_renamed_columns_are_loaded(tmp_path: Path) -> None:
    """An export of another system, as it is."""
    (tmp_path / "crm.csv").write_text("Mail,First Name,Country\nA@x.de,Ann,DE\nB@x.fr,Ben,FR\nC@x.de,Cy,DE\n")
    with shop(tmp_path, quick(keep_bodies=True)) as market:
        done = market.run(
            "load", "crm.csv", "--map", "email=Mail", "--map", "firstName=First Name", "--map", "country=Country"
        )
        assert done.code == 0, done
        assert rows_received(market.simulator) == rows_of(tmp_path / "crm.csv")[1:]
        query = """SELECT lower("Mail") AS email FROM source WHERE "Country" = 'DE'"""
        done = market.run("load", "crm.csv", "--query", query)
        assert done.code == 0, done
        assert rows_received(market.simulator)[3:] == [["a@x.de"], ["c@x.de"]]


def test_rejected_rows_are_named_by_the_place_in_the_user_s_own_file(tmp_path: Path) -> None:
    """Before anything is sent."""
    (tmp_path / "a.csv").write_text("email,n\na@x.de,1\n")
    (tmp_path / "b.csv").write_text('email,n\nb@x.de,"1\n1"\nc@x.de\n')
    with shop(tmp_path, quick()) as market:
        done = market.run("load", "a.csv", "b.csv")
        assert done.code == 65, done
        assert "row 3 (b.csv, line 4): 1 cell where the header has 2" in done.err
        planned = market.run("plan", "a.csv", "b.csv")
        assert "finding: row 3 (b.csv, line 4)" in planned.out, planned
        assert spools(tmp_path) == []


# --- the header and the values ----------------------------------------------------------------------------


def test_a_load_warns_of_columns_that_marketo_will_ignore_and_loads(tmp_path: Path) -> None:
    """Marketo says nothing; the data would be missing, and nobody would know why."""
    (tmp_path / "a.csv").write_text("email,First Name,createdAt\na@x.de,Ann,2024-02-29T12:13:14Z\n")
    with shop(tmp_path, quick()) as market:
        done = market.run("load", "a.csv")
        assert done.code == 0, done
        warned = {line["column"]: line["note"] for line in map(json.loads, done.err.splitlines()[:2])}
        assert "--map firstName='First Name'" in warned["First Name"]
        assert "does not let this field be written" in warned["createdAt"]


def test_thousands_of_columns_that_do_not_fit_do_not_make_thousands_of_lines(tmp_path: Path) -> None:
    """Twenty by name, and how many more: `check` names them all."""
    columns = [f"zz{number}" for number in range(2_000)]
    (tmp_path / "a.csv").write_text(f"email,{','.join(columns)}\na@x.de,{','.join('x' for _ in columns)}\n")
    with shop(tmp_path, quick()) as market:
        done = market.run("load", "a.csv")
        assert done.code == 0, done
        lines = [json.loads(line) for line in done.err.splitlines() if ".unfit" in line]
        assert [line["event"] for line in lines] == ["column.unfit"] * 20 + ["columns.unfit"]
        assert lines[-1]["more"] == 1_980


def test_a_load_by_a_field_that_marketo_does_not_have_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """Every row would fail."""
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"emial,firstName\na@x.de,Ann\n"))
    with shop(tmp_path, quick()) as market:
        done = market.run("load", "a.csv.gz", "--lookup-field", "emial", "--json")
        assert done.code == 78, done
        assert "did you mean 'email'?" in done.err
        assert market.simulator.truth()["batches_accepted"] == 0
        assert spools(tmp_path) == []


def test_a_plan_checks_header_and_values_and_works_without_credentials(tmp_path: Path) -> None:
    """What will fail is known before it is sent; and a plan needs nobody."""
    (tmp_path / "a.jsonl").write_text(
        '{"email":"a@x.de","fristName":"Ann","leadScore":1}\n{"email":"b","leadScore":"ten"}\n{"email":"c@x.de"}\n'
    )
    with shop(tmp_path, quick()) as market:
        planned = market.run("plan", "a.jsonl", "--check-values", "--json")
        assert planned.code == 0, planned
        findings = planned.summary["findings"]
        assert "did you mean 'firstName'?" in findings[0]
        assert findings[1:] == [
            "column 'email': 1 value: not an e-mail address (row 2)",
            "column 'leadScore': 1 value: not a whole number (row 2)",
        ]
        assert planned.summary["values"][1] == {
            "column": "leadScore",
            "reason": "not a whole number",
            "rows": 1,
            "first_rows": [2],
        }
        alone = market.run("plan", "a.jsonl", "--check-values", "--json", ORCHESTRATOR_MARKETO__CLIENT_ID="")
        assert alone.code == 0, alone
        assert alone.summary["findings"] == [
            "the header was not checked against Marketo's fields: marketo.client_id is not set",
            "column 'email': 1 value: not an e-mail address (row 2)",
        ]
        away = market.run("plan", "a.jsonl", ORCHESTRATOR_MARKETO__BASE_URL="http://127.0.0.1:9")
        assert away.code == 0, away
        assert "the header was not checked" in away.out
        assert spools(tmp_path) == []
