"""Loads whose rows are sent with their numbers (`tag_rows = "column"`), by the real command line over HTTP."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from e2e.shop import Shop, quick, rows_of, rows_received, shop

COLUMN: dict[str, Any] = {"ORCHESTRATOR_IMPORT__TAG_ROWS": "column"}
BY_POSITION = ("--on-duplicate", "ignore")
"""Nearly all rows have one key here: in order, their chunks would be sent one after the other."""
MANGLED: dict[str, Any] = {"requote": False, "order": "shuffled", "drop_empty_lookup_column": True, "keep_bodies": True}


def write(path: Path, rows: int) -> list[int]:
    """Rows of three contents only, many of them without a key, with commas and line ends; those that must fail."""
    lines, failing = ["email,firstName,leadScore,company"], []
    for number in range(1, rows + 1):
        kind = number % 5
        email = "" if kind == 0 else "same@example.com"
        score = "1.5" if kind == 1 else "7"
        lines.append(f'{email},Ann,{score},"Acme, Inc\nof ""York"""')
        failing += [number] * (kind in (0, 1))
    path.write_bytes("\r\n".join(lines).encode())  # no line end at the end
    return failing


def failures(market: Shop) -> list[int | None]:
    return [row["source_row"] for row in market.report().rows if row["kind"] == "failure"]


def test_equal_rows_that_are_echoed_in_pieces_are_named_each(tmp_path: Path) -> None:
    """Without numbers nothing tells these rows apart; with them every place is exact, and nobody sees the column."""
    failing = write(tmp_path / "leads.csv", 600)
    source = rows_of(tmp_path / "leads.csv")
    with shop(tmp_path, quick(**MANGLED)) as market:
        market.environment.update(COLUMN)
        done = market.run("load", "leads.csv", "--json", *BY_POSITION)
        assert done.code == 3, done
        assert failures(market) == failing
        assert sorted(rows_received(market.simulator)) == sorted(
            [str(number), *row] for number, row in enumerate(source[1:], 1)
        )
        report = market.report()
        assert all(list(row["row"].values()) == source[row["source_row"]] for row in report.rows)
        assert [row["source_line"] for row in report.rows] == [2 * number for number in failing]
        assert rows_of(report.folder / "retry.csv") == [source[0], *(source[number] for number in failing)]
        for file in report.folder.iterdir():
            assert file.is_dir() or b"orchestrator_row" not in file.read_bytes(), file.name
        assert "orchestrator_row" not in done.err, "Marketo is known to ignore it"
        with market.simulator.lock:
            assert all(len(job.body or b"") <= 20_000 for job in market.simulator.model.jobs.values())
        assert list((tmp_path / ".orchestrator").rglob("*.spool/*")) == [], "no lead stays at rest"
        calls = dict(market.simulator.model.calls)
        assert market.run("load", "leads.csv", *BY_POSITION).code == 3
        assert dict(market.simulator.model.calls) == calls, "it is known again"
        retried = market.run("retry", report.folder.name, "--reasons", "all", "--json")
        assert retried.code == 3, retried
        again = Path(retried.summary["report_dir"])
        told = [json.loads(line) for line in (again / "report.jsonl").read_text().splitlines()]
        assert {row["source_row"] for row in told if row["source_row"] is not None} <= set(failing)
        verified = market.run("verify", str(report.folder), "leads.csv")
        assert verified.code == 0, verified
        assert "each stands at its place in the source" in verified.out
        assert list((tmp_path / ".orchestrator").rglob("*.spool/*")) == [], "no lead stays at rest"
        lines = report.folder / "report.jsonl"
        lines.write_bytes(lines.read_bytes().replace(b'"firstName": "Ann"', b'"firstName": "Bob"', 1))
        cooked = market.run("verify", str(report.folder), "leads.csv")
        assert cooked.code == 70, cooked


@pytest.mark.parametrize("accepted", [2, 8])
def test_killed_in_mid_load_the_numbers_are_the_same(tmp_path: Path, accepted: int) -> None:
    """The column is made again from the user's own file, when it must be, and a chunk is sent again as it was."""
    failing = write(tmp_path / "plain.csv", 600)
    (tmp_path / "leads.csv.gz").write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes()))
    settings = quick(**MANGLED, transient_share=0.1, file_limit=9_000, failing_jobs=frozenset({3}))
    with shop(tmp_path, settings) as market:
        market.environment.update(COLUMN)
        process = market.start("load", "leads.csv.gz", *BY_POSITION)
        while process.poll() is None and len(market.simulator.model.jobs) < accepted:
            pass
        process.kill()
        process.communicate()
        if accepted == 8:
            for spool in (tmp_path / ".orchestrator").rglob("*.spool/*"):
                spool.unlink()
        done = market.run("load", "leads.csv.gz", "--json", *BY_POSITION, ORCHESTRATOR_LIMITS__DOUBT_LEASE="2")
        assert done.code == 3, done
        assert failures(market) == failing
        assert done.summary["totals"]["imported"] == 600 - len(failing)
        sent = {tuple(row) for row in rows_received(market.simulator)}
        assert len(sent) == 600, "each row always with the same number"


def test_a_source_that_has_such_a_column_is_refused(tmp_path: Path) -> None:
    """Two columns of one name are one too many."""
    (tmp_path / "leads.csv").write_text("email,orchestrator_row\nann@x.io,7\n")
    with shop(tmp_path) as market:
        assert market.run("load", "leads.csv", **COLUMN).code == 65
        assert market.run("load", "leads.csv").code == 0
