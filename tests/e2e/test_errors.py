"""Every expected error, met by a real process: its code, its one clear message, and no traceback."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from e2e.shop import Shop, shop
from report_case import a_case

from orchestrator.adapters.ledger import Ledger
from orchestrator.core.model import LoadId
from orchestrator.simulator.leads import write_leads

LONG_NAME = "x" * 300 + ".csv"
GOOD = b"email,firstName\nann@x.io,Ann\nbo@x.io,Bo\n"
BAD_SOURCES = {
    "empty": (b"", ["leads.csv", "empty"]),
    "blank lines only": (b"\n\n \n"[:2], ["leads.csv"]),
    "header only": (b"email,firstName\n", ["leads.csv", "header"]),
    "binary": (b"email,x\n\x00\x01\x02,1\n", ["leads.csv", "NUL"]),
    "an archive": (b"PK\x03\x04" + bytes(200), ["leads.csv"]),
    "another encoding": (
        "email,x\nann@x.io,Zürich\n".encode("latin-1"),
        ["leads.csv", "UTF-8", "byte 11", "0xFC", "--encoding cp1252"],
    ),
    "another encoding in the header": ("email,größe\nann@x.io,1\n".encode("latin-1"), ["leads.csv", "--encoding"]),
    "semicolons and quotes": (b'"email";"x"\n"ann@x.io";"1"\n', ["leads.csv", "--format ssv"]),
    "quotes under no format": (b'"email" ;"x"\n"ann@x.io";"1"\n', ["leads.csv", "leave the quote out"]),
    "UTF-16 cut in a character": ("email,x\nann@x.io,1".encode("utf-16")[:-1], ["leads.csv", "utf-16", "row 1"]),
    "no lookup column": (b"e-mail,x\nann@x.io,1\n", ["leads.csv", "'email'", "--map email=e-mail"]),
    "a column twice": (b"email,x,x\nann@x.io,1,2\n", ["leads.csv", "'x'"]),
    "a column without a name": (b"email,,x\nann@x.io,1,2\n", ["leads.csv", "2"]),
    "an unclosed quote": (GOOD + b'cy@x.io,"Cy\n' + b"di@x.io,Di\n" * 5, ["leads.csv", "row 3", "line 4"]),
    "a ragged row": (GOOD + b"cy@x.io\n", ["leads.csv", "row 3", "line 4", "1 cell where the header has 2"]),
    "a row over the limit": (GOOD + b"cy@x.io," + b"x" * 20_000 + b"\n", ["leads.csv", "row 3", "line 4"]),
    "undecodable bytes": (GOOD + b"cy@x.io,\xff\xfe\n", ["leads.csv", "row 3", "line 4", "byte 9", "0xFF"]),
}


def assert_plain(err: str) -> None:
    """An expected error is a message and a remedy."""
    assert "Traceback" not in err, err
    assert "internal fault" not in err, err


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop of this module's processes; nothing may reach its simulator's queue."""
    with shop(tmp_path_factory.mktemp("shop")) as opened:
        yield opened


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_a_source_that_cannot_be_loaded_is_refused_with_65_and_nothing_is_sent(market: Shop, kind: str) -> None:
    """People meet these on their first day."""
    content, named = BAD_SOURCES[kind]
    (market.folder / "leads.csv").write_bytes(content)
    done = market.run("load", "leads.csv", "--json")
    assert done.code == 65, done
    assert_plain(done.err)
    for part in named:
        assert part in done.err, (part, done.err)
    error, summary = (json.loads(line) for line in done.out.splitlines()[-2:])
    assert (error["type"], error["code"], error["schema"]) == ("error", 65, 1)
    assert error["remedy"]
    assert summary["exit_code"] == 65
    assert market.simulator.truth()["batches_accepted"] == 0


@pytest.mark.parametrize("source", ["missing.csv", ".", "/dev/null", "fifo", "circle.csv", LONG_NAME, "*" + LONG_NAME])
def test_a_source_that_is_not_there_is_66(market: Shop, source: str) -> None:
    """A FIFO must not hang the command, a folder is no file, and no file system has such a name."""
    if source == "fifo":
        subprocess.run(["mkfifo", market.folder / "fifo"], check=True)
    if source == "circle.csv":
        (market.folder / "circle.csv").symlink_to("circle.csv")
    done = market.run("load", source, timeout=20)
    assert done.code == 66, done
    assert_plain(done.err)
    assert Path(source).name in done.err
    if source == ".":
        assert "'*.csv'" in done.err, "the files in it are what was meant"
    if source == "fifo":
        assert "name that: -" in done.err


def test_wrong_arguments_are_2(market: Shop) -> None:
    """Two is what every shell expects."""
    for arguments in (
        ["load"],
        ["lod", "x"],
        ["load", "x", "--max-wait", "soon"],
        ["load", "x", "--max-rejected=-1"],
        ["--config", "config.toml", "load", "x"],
        ["simulator", "--port", "65536"],
    ):
        assert market.run(*arguments).code == 2
        told = market.run(*arguments, "--json")
        assert told.code == 2
        error, summary = map(json.loads, told.out.splitlines())
        assert (error["type"], error["code"], error["schema"]) == ("error", 2, 1)
        assert error["message"] in told.err
        assert error["remedy"]
        assert summary == {"type": "summary", "schema": 1, "exit_code": 2}


def test_sample_leads_that_cannot_be_written_are_2(market: Shop) -> None:
    """The first command of many a first day."""
    done = market.run("simulator", "--make-leads", "nowhere/leads.csv")
    assert done.code == 2
    assert done.err == "error: nowhere/leads.csv: No such file or directory\n"


@pytest.mark.parametrize(
    "flag",
    [
        ("--list-id", "x"),
        ("--list-id", "0"),
        ("--object", "nonsense"),
        ("--partition", ""),
        ("--lookup-field", ""),
        ("--encoding", "x"),
    ],
)
def test_a_value_that_a_flag_does_not_take_is_2_and_named_by_its_flag(market: Shop, flag: tuple[str, str]) -> None:
    """It was typed just now; the same value in a file is the configuration's fault, and 78."""
    (market.folder / "good.csv").write_bytes(GOOD)
    done = market.run("load", "good.csv", *flag, "--json")
    assert done.code == 2, done
    assert_plain(done.err)
    assert flag[0] in done.err
    error, summary = map(json.loads, done.out.splitlines())
    assert (error["type"], error["code"], summary["exit_code"]) == ("error", 2, 2)


def test_the_same_value_from_elsewhere_is_78(market: Shop) -> None:
    """A scheduler tells a typing error from a broken machine by the code."""
    done = market.run("load", "good.csv", ORCHESTRATOR_IMPORT__OBJECT="nonsense")
    assert done.code == 78, done
    assert "ORCHESTRATOR_IMPORT__OBJECT" in done.err


def test_wrong_credentials_are_77_at_once(market: Shop) -> None:
    """Nobody should wait for a wrong password."""
    (market.folder / "good.csv").write_bytes(GOOD)
    begun = time.monotonic()
    done = market.run("load", "good.csv", ORCHESTRATOR_MARKETO__CLIENT_SECRET="wrong-secret-here")
    assert done.code == 77, done
    assert_plain(done.err)
    assert "wrong-secret-here" not in done.out + done.err
    assert time.monotonic() - begun < 15
    checked = market.run("check", ORCHESTRATOR_MARKETO__CLIENT_SECRET="wrong-secret-here")
    assert checked.code == 77
    for text in (done.err, checked.out):
        for setting in ("marketo.client_id", "marketo.client_secret", "marketo.base_url"):
            assert setting in text


def test_a_host_that_is_not_there_is_69_after_half_a_minute_and_resumable(market: Shop) -> None:
    """A wrong address must not wait for ever, a short outage at the start must be waited out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (market.folder / "good.csv").write_bytes(GOOD)
    begun = time.monotonic()
    done = market.run("load", "good.csv", ORCHESTRATOR_MARKETO__BASE_URL=f"http://127.0.0.1:{port}")
    assert done.code == 69, done
    assert 28 < time.monotonic() - begun < 50
    assert_plain(done.err)
    assert "not reached within 30 s" in done.err
    assert "orchestrator resume" in done.err


def test_a_certificate_that_nobody_trusts_is_69_at_once(market: Shop) -> None:
    """Trying on for half a minute changes nothing, and neither the secret nor a lead may go there meanwhile."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parent.parent / "adapters" / "certificates" / "self-signed.pem")
    read: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                with context.wrap_socket(listening.accept()[0], server_side=True) as connection:
                    read.append(connection.recv(1))
            except ssl.SSLError:
                continue
            except OSError:
                return

    (market.folder / "good.csv").write_bytes(GOOD)
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=[listening], daemon=True).start()
        address = f"https://127.0.0.1:{listening.getsockname()[1]}"
        done = market.run("load", "good.csv", "--force", ORCHESTRATOR_MARKETO__BASE_URL=address)
        listening.shutdown(socket.SHUT_RDWR)
    assert done.code == 69, done
    assert time.monotonic() - begun < 15
    assert_plain(done.err)
    assert "certificate is not to be trusted: self-signed certificate" in done.err
    assert "this machine's clock and its certificates" in done.err
    assert read == []


def test_a_broken_configuration_is_78(market: Shop) -> None:
    """Every command reads it first."""
    (market.folder / "bad.toml").write_text("[limits]\nqueued_jobs = 11\n")
    for command in (["load", "x.csv"], ["status"], ["config", "show"], ["check"]):
        done = market.run(*command, "--config", "bad.toml")
        assert done.code == 78, done
        assert_plain(done.err)
        assert "bad.toml" in done.err
        assert "1 to 10" in done.err
    assert market.run("status", "--config", "missing.toml").code == 78
    (market.folder / "config.toml").mkdir()  # is there, and cannot be read: what it says must not be left out
    unreadable = market.run("status")
    (market.folder / "config.toml").rmdir()
    assert unreadable.code == 78
    assert "config.toml: Is a directory" in unreadable.err
    missing = market.run("load", "good.csv", ORCHESTRATOR_MARKETO__CLIENT_SECRET="")
    assert missing.code == 78
    assert "ORCHESTRATOR_MARKETO__CLIENT_SECRET" in missing.err


def test_a_load_that_was_mistyped_is_2_and_said_to_be_none_or_several(tmp_path: Path) -> None:
    """It was typed just now: nothing is wrong with the configuration."""
    case = a_case(tmp_path, GOOD)
    (tmp_path / ".orchestrator").mkdir()
    with Ledger(tmp_path / ".orchestrator" / "ledger.db") as ledger:
        for name in ("aa1", "aa2", "aa3", "aa4", "ab1"):
            ledger.add_load(replace(case.load, id=LoadId(name), report_dir=name), case.plan)
    with shop(tmp_path) as market:
        for command in (["status"], ["report"], ["purge"], ["retry", "--dry-run"], ["resume"], ["export"]):
            none = market.run(*command, "zz")
            assert none.code == 2, none
            assert_plain(none.err)
            assert "no load 'zz'\n" in none.err
        for typed, shown in (("aa", "aa1, aa2, aa3, …"), ("aa3", None), ("a", "aa1, aa2, aa3, …")):
            several = market.run("status", typed)
            assert several.code == (2 if shown else 0), several
            if shown:
                assert f"the ids of several loads begin with {typed!r}: {shown}\n" in several.err
                assert "Type more of the id" in several.err


def test_why_a_load_stopped_is_told_to_programs_too(tmp_path: Path) -> None:
    """A scheduler reads stdout: its log must have the reason, and not the code alone."""
    (tmp_path / "good.csv").write_bytes(GOOD)
    with shop(tmp_path) as market:
        for command in (["load", "good.csv", "--list-id", "999999"], ["resume"]):
            stopped = market.run(*command, "--json")
            assert stopped.code == 78, stopped
            error, summary = map(json.loads, stopped.out.splitlines()[-2:])
            assert (error["type"], error["code"], error["schema"]) == ("error", 78, 1)
            assert f"stopped: {error['message']}\n  {error['remedy']}\n" in stopped.err
            assert summary["exit_code"] == 78
        unfinished = market.run("report", summary["load_id"], "--json")
        assert unfinished.code == 75, unfinished
        assert [json.loads(line)["type"] for line in unfinished.out.splitlines()] == ["error", "summary"]


def test_a_corrupt_ledger_is_78_and_left_as_it_is(market: Shop) -> None:
    """It may be the only place where batch ids exist: nothing may overwrite it."""
    ledger = market.folder / "broken.db"
    ledger.write_bytes(b"SQLite format 3\x00" + b"garbage" * 1000)
    before = ledger.read_bytes()
    (market.folder / "good.csv").write_bytes(GOOD)
    done = market.run("load", "good.csv", ORCHESTRATOR_STATE__LEDGER="sqlite:///broken.db")
    assert done.code == 78, done
    assert_plain(done.err)
    assert "broken.db" in done.err
    assert "orchestrator export" in done.err
    assert ledger.read_bytes() == before
    saved = market.run("export", ORCHESTRATOR_STATE__LEDGER="sqlite:///broken.db")
    assert saved.code == 78, saved
    assert_plain(saved.err)
    error, *_, summary = map(json.loads, saved.out.splitlines())
    assert (error["type"], summary["type"], summary["records"]) == ("error", "summary", {})
    assert ledger.read_bytes() == before


def test_a_locked_ledger_is_75_and_names_who_holds_it(market: Shop) -> None:
    """Somebody's forgotten shell with an open transaction: people must know which process to look at."""
    (market.folder / "good.csv").write_bytes(GOOD)
    ledger = market.folder / "held.db"
    Ledger(ledger).close()
    hold = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN EXCLUSIVE'); print(1); input()"
    holder = subprocess.Popen(
        [sys.executable, "-uc", hold, str(ledger)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        begun = time.monotonic()
        done = market.run("load", "good.csv", ORCHESTRATOR_STATE__LEDGER="sqlite:///held.db")  # nothing is sent
        took_s = time.monotonic() - begun
        holder.communicate("\n")
    assert done.code == 75, done
    assert_plain(done.err)
    assert f"held.db: process {holder.pid} has held it for 5 s" in done.err
    assert took_s > 5
    with shop(market.folder) as own:
        assert own.run("load", "good.csv", ORCHESTRATOR_STATE__LEDGER="sqlite:///held.db").code == 0


def test_a_sound_ledger_is_exported_whole_as_json_lines(market: Shop) -> None:
    """It is the second copy that can be kept elsewhere, and read by anything."""
    (market.folder / "good.csv").write_bytes(GOOD)
    with shop(market.folder) as own:
        assert own.run("load", "good.csv", ORCHESTRATOR_STATE__LEDGER="sqlite:///exported.db").code == 0
        done = own.run("export", ORCHESTRATOR_STATE__LEDGER="sqlite:///exported.db")
    assert done.code == 0, done
    *records, summary = map(json.loads, done.out.splitlines())
    assert {record["record"] for record in records} == {"load", "chunk", "offer", "fact", "calls"}
    assert summary["records"]["chunk"] == summary["records"]["offer"] == 1
    assert next(record["batch_id"] for record in records if record["record"] == "offer") > 0


@pytest.mark.parametrize("where", ["a file/ledger.db", "circle/ledger.db", "/proc/ledger.db", "owned.db"])
def test_a_ledger_that_cannot_be_written_to_is_78_and_nothing_is_sent(market: Shop, where: str) -> None:
    """A folder that is none, links in a circle, a file system that takes no files, owners that cannot be noted."""
    (market.folder / "good.csv").write_bytes(GOOD)
    (market.folder / "a file").write_bytes(b"")
    (market.folder / "owned.db.owners").write_bytes(b"")
    if not (market.folder / "circle").is_symlink():
        (market.folder / "circle").symlink_to("circle")
    done = market.run("load", "good.csv", ORCHESTRATOR_STATE__LEDGER=f"sqlite:///{where}")
    assert done.code == 78, done
    assert_plain(done.err)
    assert where.split("/")[-1] in done.err
    assert "state.ledger" in done.err
    assert market.simulator.truth()["batches_accepted"] == 0


@pytest.mark.parametrize("command", ["status", "export", "report x"])
def test_a_ledger_that_cannot_be_looked_at_is_78(market: Shop, command: str) -> None:
    """It is not one that was never begun: whoever may not see it would be told that there are no loads."""
    done = market.run(*command.split(), ORCHESTRATOR_STATE__LEDGER=f"sqlite:///{LONG_NAME}")
    assert done.code == 78, done
    assert_plain(done.err)
    assert "File name too long" in done.err
    assert "state.ledger" in done.err


def test_a_report_folder_that_cannot_be_is_78_and_nothing_is_sent(market: Shop) -> None:
    """A load whose report cannot be written is known to be useless before it is sent."""
    (market.folder / "good.csv").write_bytes(GOOD)
    accepted = market.simulator.truth()["batches_accepted"]
    done = market.run("load", "good.csv", "--force", "--report-dir", "good.csv/x")
    assert done.code == 78, done
    assert_plain(done.err)
    assert "good.csv/x" in done.err
    assert market.simulator.truth()["batches_accepted"] == accepted


def test_a_report_that_cannot_be_written_is_75_and_the_same_command_writes_it(market: Shop) -> None:
    """The leads are in Marketo by then: nothing may be sent again."""
    (market.folder / "late.csv").write_bytes(GOOD.replace(b"ann", b"late"))
    (market.folder / "late" / ".report.csv.part").mkdir(parents=True)
    done = market.run("load", "late.csv", "--report-dir", "late")
    assert done.code == 75, done
    assert_plain(done.err)
    accepted = market.simulator.truth()["batches_accepted"]
    (market.folder / "late" / ".report.csv.part").rmdir()
    assert market.run("load", "late.csv", "--report-dir", "late").code == 0
    assert (market.folder / "late" / "report.html").exists()
    assert market.simulator.truth()["batches_accepted"] == accepted


def test_warnings_alone_are_0_or_4(market: Shop) -> None:
    """A warned row is imported; who wants to stop on warnings says so."""
    (market.folder / "warned.csv").write_bytes(b"email,firstName\nann@example,Ann\n")
    assert market.run("load", "warned.csv").code == 0
    assert market.run("load", "warned.csv", "--force", "--fail-on-warning").code == 4


def test_check_and_plan_and_status_and_config_show_work_and_send_nothing(market: Shop) -> None:
    """What people run before they dare."""
    write_leads(market.folder / "many.csv", 500, bad_share=0)
    accepted = market.simulator.truth()["batches_accepted"]
    check = market.run("check", "many.csv")
    assert check.code == 0, check
    assert "ok    credentials" in check.out
    plan = market.run("plan", "many.csv", "--json")
    assert plan.code == 0, plan
    assert (plan.summary["rows"], plan.summary["rejected"]) == (500, 0)
    assert plan.summary["chunks"] > 1
    shown = market.run("config", "show")
    assert shown.code == 0
    assert "demo-secret" not in shown.out
    assert "environment ORCHESTRATOR_MARKETO__BASE_URL" in shown.out
    assert re.search(r"^daemon\.behind_proxy +false +default$", shown.out, re.MULTILINE)
    status = market.run("status", "--json")
    assert status.code == 0
    assert status.summary["loads"] >= 1
    assert market.simulator.truth()["batches_accepted"] == accepted
    (market.folder / "typo.csv").write_bytes(b"email,fristName\nann@x.io,Ann\n")
    typo = market.run("check", "typo.csv")
    assert typo.code == 0
    assert re.search(r"^warn  column: 'fristName': .*did you mean 'firstName'\?$", typo.out, re.MULTILINE)
    gone = market.run("check", ORCHESTRATOR_MARKETO__BASE_URL="http://127.0.0.1:1")
    assert gone.code == 69
    assert "Check marketo.base_url" in gone.out
    assert market.run("check", "--lookup-field", "emial").code == 78
    assert market.run("check", "--list-id", "999999").code == 78


def test_plan_foretells_a_refusal_and_status_counts_what_was_left_out(market: Shop) -> None:
    """A dry run that says nothing of it is believed; and columns of a table are added up."""
    (market.folder / "ragged.csv").write_bytes(GOOD + b"cy@x.io\n")
    planned = market.run("plan", "ragged.csv")
    assert planned.code == 0, planned
    assert "code 65" in planned.out
    assert "--max-rejected 1" in planned.out
    assert "code 65" not in market.run("plan", "ragged.csv", "--max-rejected", "1").out
    assert market.run("load", "ragged.csv", "--max-rejected", "1").code == 3
    head, newest = (line.split() for line in market.run("status").out.splitlines()[:2])
    counts = dict(zip(head[2:], newest[3:], strict=False))  # "finished (3)" are two words
    assert counts["REJECTED"] == "1"
    assert int(counts["ROWS"]) == sum(int(counts[name]) for name in ("IMPORTED", "FAILED", "REJECTED", "OPEN"))


def test_a_flag_that_the_object_cannot_take_is_refused(market: Shop) -> None:
    """Whoever names a list expects leads in it: a flag that is passed over in silence is a load that went elsewhere."""
    (market.folder / "good.csv").write_bytes(GOOD)
    before = market.run("status").out
    for flag, value, others, kind in (
        ("--list-id", "1001", ("--object", "members:1044", "--member-status", "On List"), "leads"),
        ("--partition", "Europe", ("--object", "customobjects:car_c"), "leads"),
        ("--lookup-field", "vin", ("--object", "customobjects:car_c"), "leads"),
        ("--member-status", "On List", (), "members"),
    ):
        for command in ("load", "plan", "check"):
            refused = market.run(command, "good.csv", flag, value, *others)
            assert refused.code == 2, refused
            assert f"{flag} is for {kind} only" in refused.err
    assert market.run("status").out == before


def test_no_remedy_is_a_flag_that_the_object_cannot_take(market: Shop) -> None:
    """Only leads have a lookup field that can be set: whoever followed the advice was refused once more."""
    (market.folder / "none.csv").write_bytes(b"make,year\nSaab,1999\n")
    cars = market.run("load", "none.csv", "--object", "customobjects:car_c")
    assert cars.code == 78, cars
    assert "--map vin=COLUMN" in cars.err
    assert "--lookup-field" not in cars.err
    people = market.run("load", "none.csv", "--object", "members:1044", "--member-status", "On List")
    assert people.code == 65, people
    assert "--map email=COLUMN, or (of leads) set --lookup-field" in people.err


def test_help_answers_without_loading_the_product() -> None:
    """`--help` is what people type while they think."""
    code = (
        "import sys; from orchestrator.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx', 'anyio', 'pydantic', 'rich', 'sqlite3', 'structlog', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_an_interrupt_amid_the_imports_shows_no_traceback(tmp_path: Path) -> None:
    """They are half of the time of a short command: who has mistyped stops it just then."""
    code = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'httpx': os.kill(os.getpid(), signal.SIGINT)\n"
        "from orchestrator.cli.main import main\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.exit(main(['status']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_a_reader_that_goes_away_does_not_stop_a_load(market: Shop) -> None:
    """`orchestrator load … | head -1` must load everything."""
    write_leads(market.folder / "piped.csv", 2_000, bad_share=0, first=50_001)
    process = market.start("load", "piped.csv", "--json", "-v")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
