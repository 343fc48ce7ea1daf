"""How fast is a plan, beside other ways to cut the same file? Prints ratios of times measured in turn, in one run.

python benchmarks/plan.py [MB]
"""

from __future__ import annotations

import csv
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.adapters.files import plan_file
from orchestrator.simulator.leads import write_leads

ROUNDS = 5
BYTES_PER_LEAD = 330


def ours(path: Path) -> None:
    plan_file(path, format=None, budget=9_500_000, lookup_field="email", keep_rejected=5)


def csv_module(path: Path) -> None:
    """Rows counted by Python's csv: no hashes, no chunks."""
    with path.open(newline="", encoding="utf-8") as file:
        sum(1 for _ in csv.reader(file))


def gnu_split(path: Path) -> None:
    """Writes pieces to disk, and cuts through quoted line ends."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        subprocess.run(["split", "-C", "9500000", str(path), f"{folder}/x"], check=True)


def wc(path: Path) -> None:
    subprocess.run(["wc", "-l", str(path)], check=True, stdout=subprocess.DEVNULL)


def sha256sum(path: Path) -> None:
    subprocess.run(["sha256sum", str(path)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "leads.csv")
        size = write_leads(path, megabytes * 1_000_000 // BYTES_PER_LEAD).size_bytes
        ways: list[tuple[str, Callable[[Path], None]]] = [
            ("orchestrator plan", ours),
            ("wc -l", wc),
            ("sha256sum", sha256sum),
            ("Python's csv", csv_module),
        ]
        if shutil.which("split"):
            ways.append(("GNU split -C", gnu_split))
        times: dict[str, list[float]] = {name: [] for name, _ in ways}
        for _ in range(ROUNDS):
            for name, way in ways:
                begun = time.perf_counter()
                way(path)
                times[name].append(time.perf_counter() - begun)
        mine = statistics.median(times["orchestrator plan"])
        print(f"{size / 1e6:,.0f} MB, median of {ROUNDS} rounds in turn")
        for name, _ in ways:
            median = statistics.median(times[name])
            print(f"  {name:18} {size / median / 1e6:8,.0f} MB/s   {median / mine:6.2f} of our time")
        print(f"  peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
