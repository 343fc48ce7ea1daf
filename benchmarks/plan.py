"""How fast is a plan, and in how much memory, beside other ways to cut the same file?

Every way runs as a process of its own, start-up included, all of them in turn in each round. What counts are ratios
within one run: the machine's own speed drops out, and what others do on it drops out of the ratio of processor times.
The others write their pieces to the disk; a plan writes nothing, but
hashes every byte twice (the whole, and each chunk), checks that it is UTF-8 and counts the cells of every row.
How long the two hashes take that are promised, side by side and without anything else, is shown as well: no plan can
be quicker.

    python benchmarks/plan.py [MB]               # 200 unless told; peers that are not installed are left out, and named
    python benchmarks/plan.py [MB] --memory MB   # and how much memory so much generated data needs, beside 200 MB
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import which

ROUNDS = 5
BYTES_PER_LEAD = 310
CHUNK_BYTES = 9_500_000
AS_INSTALLED = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
"""Modules are not compiled at each start, whatever the environment says."""

OURS = """
import sys; from pathlib import Path; from orchestrator.adapters.files import plan_file
plan_file(Path(sys.argv[1]), format=None, budget=9_500_000, lookup_field="email", keep_rejected=5)
"""
HASHES = """
import hashlib, sys; from threading import Thread
def digest():
    whole = hashlib.sha256()
    with open(sys.argv[1], "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            whole.update(block)
threads = [Thread(target=digest) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
GENERATED = """
import sys, tempfile; from pathlib import Path
from orchestrator.adapters.files import BLOCK_BYTES, plan_blocks
from orchestrator.simulator.leads import write_leads
with tempfile.TemporaryDirectory() as folder:
    write_leads(Path(folder, "some"), 1_000)
    header, _, rows = Path(folder, "some").read_bytes().partition(b"\\n")
copies = int(sys.argv[1]) // len(rows)
def blocks():
    block = header + b"\\n"
    for _ in range(copies):
        block += rows
        while len(block) >= BLOCK_BYTES:
            yield block[:BLOCK_BYTES]
            block = block[BLOCK_BYTES:]
    yield block
size = len(header) + 1 + copies * len(rows)
plan = plan_blocks(blocks, name="generated.csv", source_bytes=size, format=None, budget=9_500_000,
                   lookup_field="email", keep_rejected=5)
assert plan.rows == copies * 1_000 and plan.fingerprint.size_bytes == size, plan.rows
"""
CSV_MODULE = """
import csv, io, sys
rows, piece, out, size = csv.reader(open(sys.argv[1], newline="", encoding="utf-8")), 0, None, 0
header = next(rows)
for row in rows:
    if out is None or out.tell() > 9_450_000:
        piece += 1
        out = open(f"{sys.argv[2]}/{piece}.csv", "w", newline="", encoding="utf-8")
        write = csv.writer(out).writerow
        write(header)
    write(row)
"""
FILESPLIT = """
import sys; from filesplit.split import Split
Split(sys.argv[1], sys.argv[2]).bysize(9_500_000, newline=True, includeheader=True)
"""
POLARS = """
import sys, polars
for number, rows in enumerate(polars.scan_csv(sys.argv[1], infer_schema=False).collect_batches(chunk_size=30_000)):
    rows.write_csv(f"{sys.argv[2]}/{number}.csv")
"""
DUCKDB = """
import sys, duckdb
duckdb.sql(f"COPY (FROM read_csv('{sys.argv[1]}', all_varchar = true)) TO '{sys.argv[2]}/all' "
           "(FORMAT csv, HEADER, FILE_SIZE_BYTES '9MB')")
"""


@dataclass(slots=True)
class Way:
    """One way to cut the file: its command (source and a folder for pieces are appended), and the ratio to reach."""

    name: str
    command: list[str]
    goal: float | None = None
    takes_folder: bool = True
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    def run(self, source: Path) -> None:
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            extra = [folder + "/"] if self.takes_folder else []
            self._measure([*self.command, str(source), *extra])

    def run_alone(self, argument: str) -> None:
        self._measure([*self.command, argument])

    def _measure(self, command: list[str]) -> None:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=AS_INSTALLED)
        _, status, used = os.wait4(process.pid, 0)
        self.wall_s.append(time.perf_counter() - begun)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{self.name}: exit code {process.returncode}"
        self.cpu_s.append(used.ru_utime + used.ru_stime)
        self.peak_mb = max(self.peak_mb, used.ru_maxrss / 1024)


def ways() -> list[Way]:
    python = [sys.executable, "-c"]
    ours = Way("orchestrator's plan", [*python, OURS], takes_folder=False)
    hashes = Way("its two SHA-256, alone", [*python, HASHES], takes_folder=False)
    found = [ours, hashes, Way("wc -l", ["wc", "-l"], goal=0.15, takes_folder=False)]
    if which("split"):
        found.append(Way("GNU split -C", ["split", "-C", str(CHUNK_BYTES)]))
    found.append(Way("csv.reader + csv.writer", [*python, CSV_MODULE], goal=40))
    for module, name, script, goal in (
        ("filesplit", "filesplit", FILESPLIT, 4),
        ("polars", "polars", POLARS, 8),
        ("duckdb", "duckdb", DUCKDB, 8),
    ):
        if find_spec(module):
            found.append(Way(name, [*python, script], goal=goal))
        else:
            print(f"{name} is not installed and is left out: `make bench` installs it")
    return found


def compare(megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "leads.csv")
        _write_leads(source, megabytes)
        all_ways = ways()
        for _ in range(ROUNDS):
            for way in all_ways:
                way.run(source)
        size = source.stat().st_size
        print(f"{size / 1e6:,.0f} MB, {ROUNDS} rounds in turn; ratios are the median of the rounds'")
        _table(all_ways, size)


def _write_leads(source: Path, megabytes: int) -> None:
    rows = megabytes * 1_000_000 // BYTES_PER_LEAD
    writer = "import sys; from pathlib import Path; from orchestrator.simulator.leads import write_leads; "
    writer += "write_leads(Path(sys.argv[1]), int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", writer, str(source), str(rows)], check=True)


def _table(all_ways: list[Way], size: int) -> None:
    print(f"  {'':24} {'MB/s':>7} {'CPU s':>6} {'peak MB':>8} {'CPU / ours':>11} {'time / ours':>12} {'goal':>6}")
    ours = all_ways[0]
    for way in all_ways:
        ratio = statistics.median(its / mine for its, mine in zip(way.wall_s, ours.wall_s, strict=True))
        work = statistics.median(its / mine for its, mine in zip(way.cpu_s, ours.cpu_s, strict=True))
        speed, cpu = size / statistics.median(way.wall_s) / 1e6, statistics.median(way.cpu_s)
        goal = "" if way.goal is None else f"{way.goal:6.2f}"
        print(f"  {way.name:24} {speed:7,.0f} {cpu:6.2f} {way.peak_mb:8.0f} {work:11.2f} {ratio:12.2f} {goal:>6}")


SHARED = """
import re, sys; from pathlib import Path; from random import Random
rng, source = Random(5), Path(sys.argv[1])
content = source.read_bytes()
rows = content.count(b"\\nlead0")
def one(found):
    return b"\\nLead%08d@example.com," % rng.randrange(1, rows + 1) if rng.random() < 0.05 else found.group(0)
Path(sys.argv[2]).write_bytes(re.sub(rb"\\nlead\\d{8}@example\\.com,", one, content))
"""


def shared_keys(megabytes: int) -> None:
    """What it costs to look for rows that share a key, where there are none and where there are 5 %."""
    with tempfile.TemporaryDirectory() as folder:
        plain, shared = Path(folder, "leads.csv"), Path(folder, "shared.csv")
        _write_leads(plain, megabytes)
        subprocess.run([sys.executable, "-c", SHARED, str(plain), str(shared)], check=True)
        ours = Way("cut by position", [sys.executable, "-c", OURS], takes_folder=False)
        looking = OURS.replace("keep_rejected=5", "keep_rejected=5, on_duplicate='together'")
        none = Way("together, none shared", [sys.executable, "-c", looking], goal=2, takes_folder=False)
        some = Way("together, 5 % shared", [sys.executable, "-c", looking], goal=2, takes_folder=False)
        last = Way("last, 5 % shared", [sys.executable, "-c", looking.replace("together", "last")], takes_folder=False)
        for _ in range(ROUNDS):
            for way, source in ((ours, plain), (none, plain), (some, shared), (last, shared)):
                way.run(source)
        print("rows that share a key; the goal is a most, and of the time")
        _table([ours, none, some, last], plain.stat().st_size)


def memory(megabytes: int) -> None:
    for size in (200, megabytes):
        way = Way("generated", [sys.executable, "-c", GENERATED], takes_folder=False)
        way.run_alone(str(size * 1_000_000))
        print(f"  plan of {size:6,} MB generated: peak {way.peak_mb:.1f} MB, {size / way.wall_s[0]:,.0f} MB/s")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("megabytes", nargs="?", type=int, default=200, help="size of the file to cut (200)")
    options.add_argument("--memory", type=int, metavar="MB", help="plan so much generated data, to see its memory")
    chosen = options.parse_args()
    compare(chosen.megabytes)
    shared_keys(chosen.megabytes)
    if chosen.memory:
        memory(chosen.memory)


if __name__ == "__main__":
    main()
