"""How long does a load take, over the least it could? Beside a loader that sends one file at a time.

The simulator's two processors need a known time for all rows; no loader can be faster than half of their sum. Both
loaders run as processes against a fresh simulator, in one run.

    python benchmarks/load.py [ROWS]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from orchestrator.simulator.http import SimulatorServer
from orchestrator.simulator.leads import write_leads
from orchestrator.simulator.settings import Settings

ROWS_PER_SECOND = 4_000.0
CHUNK_BYTES = 2_000_000
POLL_S = 1.0

ONE_AT_A_TIME = """
import csv, io, json, sys, time, httpx
base, path, budget, poll = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
http = httpx.Client(base_url=base, timeout=60)
form = {"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": "demo-secret"}
http.headers["Authorization"] = "Bearer " + http.post("/identity/oauth/token", data=form).json()["access_token"]
def send(rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *rows])
    files = {"file": ("leads.csv", out.getvalue().encode(), "text/csv")}
    answer = http.post("/bulk/v1/leads.json", data={"format": "csv"}, files=files).json()
    batch = answer["result"][0]["batchId"]
    while True:
        time.sleep(poll)
        if http.get(f"/bulk/v1/leads/batch/{batch}.json").json()["result"][0]["status"] == "Complete":
            return
with open(path, newline="", encoding="utf-8") as file:
    reader = csv.reader(file)
    header = next(reader)
    rows, size = [], 0
    for row in reader:
        rows.append(row)
        size += sum(map(len, row)) + 3 * len(row)
        if size > budget:
            send(rows)
            rows, size = [], 0
    if rows:
        send(rows)
"""


def settings() -> Settings:
    return Settings(rows_per_second=ROWS_PER_SECOND, seconds_per_job=0.2, min_poll_interval=0.0)


def orchestrator(base: str, path: Path, folder: Path) -> float:
    environment = {
        **os.environ,
        "ORCHESTRATOR_MARKETO__BASE_URL": base,
        "ORCHESTRATOR_MARKETO__CLIENT_ID": "demo-client",
        "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "demo-secret",
        "ORCHESTRATOR_LIMITS__CHUNK_BYTES": str(CHUNK_BYTES),
        "ORCHESTRATOR_LIMITS__CALLS_PER_20S": "90",
        "ORCHESTRATOR_POLLING__MIN_INTERVAL": str(POLL_S),
        "ORCHESTRATOR_POLLING__MAX_INTERVAL": "10",
    }
    begun = time.perf_counter()
    command = [sys.executable, "-m", "orchestrator", "load", str(path), "--quiet", "--no-progress"]
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    assert done.returncode in (0, 3), done
    return time.perf_counter() - begun


def one_at_a_time(base: str, path: Path, folder: Path) -> float:
    begun = time.perf_counter()
    command = [sys.executable, "-c", ONE_AT_A_TIME, base, str(path), str(CHUNK_BYTES), str(POLL_S)]
    subprocess.run(command, cwd=folder, check=True)
    return time.perf_counter() - begun


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 150_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = write_leads(folder / "leads.csv", rows)
        print(f"{made.rows:,} rows, {made.size_bytes / 1e6:,.0f} MB, {ROWS_PER_SECOND:,.0f} rows/s a processor")
        for label, loader in (("orchestrator load", orchestrator), ("one file at a time", one_at_a_time)):
            with SimulatorServer(settings()) as simulator:
                seconds = loader(simulator.base_url, folder / "leads.csv", folder)
                with urllib.request.urlopen(f"{simulator.base_url}/_simulator/state") as answer:
                    state = json.load(answer)
            bound = (state["rows_accepted"] / ROWS_PER_SECOND + 0.2 * state["batches_accepted"]) / 2
            busy = sum(state["busy"]) / len(state["busy"])
            print(
                f"  {label:18} {seconds:6.1f} s = {seconds / bound:5.2f} of the least possible; processors busy "
                f"{busy:.0%} of the span; {sum(state['calls'].values()) / state['batches_accepted']:.1f} calls a batch"
            )


if __name__ == "__main__":
    main()
