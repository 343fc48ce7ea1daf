"""The terminal a load runs on: it may be closed in mid-load, and names of files must not play tricks on it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from e2e.shop import Shop, quick, rows_of, rows_received, shop

from orchestrator.simulator.leads import write_leads

ON_A_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'orchestrator', *sys.argv[1:]])"
)
DEAF = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"

NAMES = {
    "\x1b[31mred.csv": r"\x1b[31mred.csv",
    "two\nlines.csv": r"two\nlines.csv",
    "\u202evsc.exe.csv": r"\u202evsc.exe.csv",
    "=cmd|' C calc'!A0.csv": "=cmd|' C calc'!A0.csv",
    "x" * 251 + ".csv": "x" * 251 + ".csv",
}


def accepted(market: Shop) -> int:
    with market.simulator.lock:
        return len(market.simulator.model.jobs)


def test_a_terminal_closed_in_mid_load_saves_and_leaves_no_doubt(tmp_path: Path) -> None:
    """A laptop is shut, a connection breaks: the kernel sends SIGHUP, and there is nobody left to write to."""
    write_leads(tmp_path / "leads.csv", 3_000, bad_share=0.02)
    with shop(tmp_path, quick(seconds_per_job=0.05, keep_bodies=True)) as market:
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, "load", "leads.csv"],
            cwd=tmp_path,
            env={**market.environment, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown, until = b"", time.monotonic() + 30
        while (accepted(market) < 5 or b"leads.csv" not in shown) and time.monotonic() < until:
            if select.select([ours], [], [], 0.01)[0]:
                shown += os.read(ours, 65_536)
        os.close(ours)
        assert process.wait(20) == 143
        assert b"leads.csv" in shown, "it was watched"
        done = market.run("load", "leads.csv", "--json")
        assert (done.code, done.summary["doubts"]) == (3, 0), done
        assert sorted(rows_received(market.simulator)) == sorted(rows_of(tmp_path / "leads.csv")[1:])


def test_under_nohup_a_closed_terminal_is_nothing_to_a_load(tmp_path: Path) -> None:
    """Who starts it so wants it to go on."""
    write_leads(tmp_path / "leads.csv", 1_000, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        process = market.start_script("-c", DEAF, sys.executable, "-m", "orchestrator", "load", "leads.csv")
        until = time.monotonic() + 30
        while not accepted(market) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)


def test_a_name_is_loaded_whatever_it_holds_and_shown_escaped(tmp_path: Path) -> None:
    """A file that somebody dropped must not colour a terminal, forge a line of it, or turn its reading direction."""
    with shop(tmp_path) as market:
        for number, (name, shown) in enumerate(NAMES.items()):
            (tmp_path / name).write_text(f"email,firstName\nann{number}@x.io,Ann\n")
            done = market.run("load", f"./{name}")
            assert done.code == 0, done
            assert shown in done.err
            assert (done.out + done.err).replace("\n", "").isprintable()
        listed = market.run("status").out
        assert listed.replace("\n", "").isprintable()
        ends = [line.rpartition("/")[2] for line in listed.splitlines()[1:]]
        assert sorted(ends) == sorted(NAMES.values()), "one line for each"
        statuses = list(map(json.loads, market.run("status", "--json").out.splitlines()))[:-1]
        assert {status["source"] for status in statuses} == {str(tmp_path / name) for name in NAMES}, "machines get it"


def test_a_name_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    """It could be written neither into the ledger nor into a report."""
    name = os.fsdecode(b"caf\xe9.csv")
    (tmp_path / name).write_bytes(b"email\nann@x.io\n")
    with shop(tmp_path) as market:
        done = market.run("load", name, "--json")
        assert done.code == 65, done
        assert r"caf\udce9.csv: this name is not UTF-8" in done.err
        assert done.summary["exit_code"] == 65
        (tmp_path / "good.csv").write_bytes(b"email\nann@x.io\n")
        folder = market.run("load", "good.csv", "--report-dir", name)
        assert folder.code == 78, folder
        assert r"caf\udce9.csv: this name is not UTF-8" in folder.err
        assert market.run("status", name).code == 2
        assert market.simulator.truth()["batches_accepted"] == 0
