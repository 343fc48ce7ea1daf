"""The whole job once, on this machine: simulator, 200,000 sample leads, a real load, the report.

Nothing leaves the machine: the simulator listens on loopback only. The load ends with code 3, since some of the sample
rows are bad on purpose.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path("demo")
ROWS = 200_000
EXPECTED_CODE = 3
PACE = ["--rows-per-second", "4000", "--seconds-per-job", "0.5", "--min-poll-interval", "1"]


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(mode=0o700)
    orchestrator = [sys.executable, "-m", "orchestrator"]
    port_file = FOLDER / "port"
    simulator = subprocess.Popen(
        [*orchestrator, "simulator", "--quiet", "--port", "0", "--port-file", port_file.name, *PACE],
        cwd=FOLDER,
    )
    try:
        while not port_file.exists():
            if simulator.poll() is not None:
                print("the simulator did not start", file=sys.stderr)
                return 1
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port_file.read_text().strip()}"
        print(f"A simulated Marketo listens on {address}; nothing leaves this machine.\n")
        sample = [*orchestrator, "simulator", "--make-leads", "leads.csv", "--rows", str(ROWS)]
        subprocess.run(sample, cwd=FOLDER, check=True)
        print("\n$ orchestrator load leads.csv", flush=True)
        environment = {
            **os.environ,
            "ORCHESTRATOR_MARKETO__BASE_URL": address,
            "ORCHESTRATOR_MARKETO__CLIENT_ID": "demo-client",
            "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "demo-secret",
            "ORCHESTRATOR_POLLING__MIN_INTERVAL": "1",
            "ORCHESTRATOR_POLLING__MAX_INTERVAL": "4",
            "ORCHESTRATOR_LIMITS__CALLS_PER_20S": "90",
        }
        code = subprocess.run([*orchestrator, "load", "leads.csv"], cwd=FOLDER, env=environment).returncode
        if code != EXPECTED_CODE:
            print(f"the load ended with code {code}; {EXPECTED_CODE} was expected", file=sys.stderr)
            return 1
        (report,) = (FOLDER / "reports").iterdir()
        print(f"\n$ head -3 {report}/report.csv")
        with (report / "report.csv").open(encoding="utf-8") as file:
            for _ in range(3):
                print(file.readline()[:120].rstrip("\n"))
        totals = json.loads((report / "report.json").read_text())["totals"]
        print("\n" + ", ".join(f"{name} {count:,}" for name, count in totals.items() if count))
        print(f"The report for people: {report / 'report.html'}")
        print("The load ended with code 3, as it should: some of the sample rows are bad on purpose.")
        return 0
    finally:
        simulator.terminate()
        simulator.wait(10)


if __name__ == "__main__":
    sys.exit(main())
