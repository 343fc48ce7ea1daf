"""A million rows and more than a gigabyte, through the real command line over HTTP."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.shop import FAST, quick, shop

from orchestrator.simulator.http import SimulatorServer
from orchestrator.simulator.leads import write_leads

ROWS = 1_000_000
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
open("peak", "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""
"""Runs a command from a small process: the system counts the memory of the process that forked it as well."""


def rows(path: Path) -> Iterator[list[str]]:
    """The rows of a file as Python's csv reads them, one at a time; the header included."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file)


def received(bodies: list[Path]) -> Iterator[list[str]]:
    """All rows of the accepted files, without their headers, in the order of the source."""

    def number(body: Path) -> str:
        reader = rows(body)
        next(reader)
        return next(reader)[18]  # the sample's own number, which every row has

    for body in sorted(bodies, key=number):
        reader = rows(body)
        next(reader)
        yield from reader


def truth(simulator: SimulatorServer, source: Path) -> list[tuple[str, int, str]]:
    """(kind, source row, reason) of everything that the simulator complained of."""
    wanted: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for batch in simulator.truth()["batches"]:
        assert batch["status"] == "Complete"
        for kind, key in (("failure", "failed"), ("warning", "warned")):
            for judged in batch[key]:
                wanted[tuple(judged["cells"])].append((kind, judged["reason"]))
    found = []
    for number, row in enumerate(rows(source)):
        for kind, reason in wanted.pop(tuple(row), ()):
            found.append((kind, number, reason))
    assert not wanted
    return found


def test_a_million_rows_arrive_once_at_full_speed_in_little_memory(tmp_path: Path) -> None:
    """What the product is for: every row once and unchanged, both processors busy, one right report, flat memory."""
    if shutil.disk_usage(tmp_path).free < 5_000_000_000:
        pytest.skip("5 GB of free disk are needed")
    source, kept = tmp_path / "leads.csv", tmp_path / "bodies"
    kept.mkdir()
    made = write_leads(source, ROWS, padding=760)
    assert made.size_bytes > 1_000_000_000
    settings = quick(rows_per_second=5_000.0, seconds_per_job=0.1, keep_bodies=True)
    with shop(tmp_path, settings, bodies=kept) as market:
        environment = {**market.environment, "ORCHESTRATOR_LIMITS__CHUNK_BYTES": "9500000"}
        assert environment["ORCHESTRATOR_POLLING__MAX_INTERVAL"] == FAST["ORCHESTRATOR_POLLING__MAX_INTERVAL"]
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-c", MEASURED, sys.executable, "-m", "orchestrator", "load", "leads.csv", "--json"],
                cwd=tmp_path,
                env=environment,
                stdout=out,
                stderr=err,
            )
            code = process.wait()
        peak_kb = int((tmp_path / "peak").read_text())
        assert code == 3, (tmp_path / "err").read_text()
        state = market.simulator.truth()
        complaints = truth(market.simulator, source)
        assert state["violations"] == []

    sent_rows = received(list(kept.iterdir()))
    source_rows = rows(source)
    next(source_rows)
    assert all(sent == row for sent, row in zip(sent_rows, source_rows, strict=True))

    assert state["rows_accepted"] == ROWS
    assert state["most_ours"] <= 10
    assert state["refused_imports"] == {}
    assert min(state["busy"]) >= 0.9, state["busy"]
    assert peak_kb < 150_000, f"{peak_kb} KB at most"

    (report,) = (tmp_path / "reports").iterdir()
    with (report / "report.jsonl").open(encoding="utf-8") as file:
        judged = [(row["kind"], row["source_row"], row["reason"]) for row in map(json.loads, file)]
    assert judged == complaints
    assert len(judged) == made.failing + made.warned
    totals = json.loads((report / "report.json").read_text())["totals"]
    assert totals["imported"] == ROWS - made.failing
    assert totals["failed"] == made.failing
    assert totals["warned"] == made.warned
    shutil.rmtree(kept)
    source.unlink()
    print(f"peak memory {peak_kb / 1000:.0f} MB, processors busy {state['busy']}")  # noqa: T201
