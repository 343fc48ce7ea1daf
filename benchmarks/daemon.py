"""Do the daemon's page and API answer while it is busy? Beside the same daemon when it is idle, in one run.

A daemon and two simulators, in processes of their own. Five questions are asked steadily, each by somebody of its own:
first of the idle daemon, then while 20 loads of 10,000 to 1,000,000 rows run at once over two subscriptions. A time
begins when the question was due, so that one that waits behind a slow answer counts too. Beside that, the most batches
that were open at once in each subscription (ten may be), and how long loads waited for their first batch.

    python benchmarks/daemon.py [MOST_ROWS]
"""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOADS, LEAST_ROWS, MOST_ROWS = 20, 10_000, 1_000_000
SUBSCRIPTIONS = ("emea", "apac")
IDLE_S = 20.0
EVERY_S = 0.2
"""Between two questions of one asker."""
PATHS = ("/", "/loads/{id}", "/api/v1/loads", "/healthz", "/metrics")
SIMULATOR = ("--port", "0", "--rows-per-second", "10000", "--seconds-per-job", "1", "--quiet")
ROW = "load{:02d}row{:07d}@example.com,Ana,Lee,Example Company {:05d},+44 20 7946 {:04d}\n"


def write(path: Path, number: int, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("email,firstName,lastName,company,phone\n")
        file.writelines(ROW.format(number, row, row % 99_991, row % 9_973) for row in range(rows))


class Askers:
    """Ask each path every so often, each from a thread of its own, until told to stop."""

    def __init__(self, url: str, token: str, load: str) -> None:
        self._netloc, self._headers = urlsplit(url).netloc, {"Authorization": f"Bearer {token}"}
        self.times: dict[str, list[float]] = {path: [] for path in PATHS}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(path, path.format(id=load), number * EVERY_S / len(PATHS)))
            for number, path in enumerate(PATHS)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, name: str, path: str, after_s: float) -> None:
        connection = http.client.HTTPConnection(self._netloc, timeout=120)
        due_at = time.perf_counter() + after_s
        while not self._over.wait(max(0.0, due_at - time.perf_counter())):
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, (path, answer.status)
            self.times[name].append(time.perf_counter() - due_at)
            due_at += EVERY_S
        connection.close()

    def stop(self) -> dict[str, list[float]]:
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self.times


def get(url: str, token: str = "") -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def start(stack: ExitStack, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    with (folder / f"{arguments[0]}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    stack.enter_context(process)
    stack.callback(process.terminate)
    return process


def simulators(stack: ExitStack, folder: Path) -> dict[str, str]:
    """Subscription -> address of its simulator."""
    found: dict[str, str] = {}
    for name in SUBSCRIPTIONS:
        port_file = folder / f"{name}.port"
        process = start(stack, folder, "simulator", *SIMULATOR, "--port-file", str(port_file))
        while not port_file.exists():
            assert process.poll() is None, "the simulator did not start"
            time.sleep(0.05)
        found[name] = f"http://127.0.0.1:{int(port_file.read_text())}"
    return found


def configure(folder: Path, addresses: dict[str, str]) -> Path:
    lines = ["[limits]", "chunk_bytes = 2_000_000", "[daemon]", 'listen = "127.0.0.1:0"', "quiet_period = 0.1"]
    for name, address in addresses.items():
        lines += [f"[subscriptions.{name}.marketo]", f'base_url = "{address}"']
        lines += ['client_id = "demo-client"', 'client_secret = "demo-secret"']
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def cuts(times: list[float]) -> str:
    parts = statistics.quantiles(times, n=100, method="inclusive")
    return f"p50 {parts[49] * 1000:6.1f}   p99 {parts[98] * 1000:6.1f}   max {max(times) * 1000:6.1f} ms"


def waits(folder: Path) -> list[tuple[float, float]]:
    """Of each load: from its file being taken until it was planned, and until Marketo had its first batch. Seconds."""
    taken = [json.loads(path.read_text()) for path in folder.glob("done/*/delivery.json")]
    ledger = sqlite3.connect(folder / ".orchestrator" / "ledger.db")
    query = "SELECT created_at, min(accepted_at) FROM loads JOIN offers ON load_id = id WHERE id = ?"
    found: list[tuple[float, float]] = []
    for one in taken:
        ((planned_at, accepted_at),) = ledger.execute(query, (one["load_id"],))
        found.append((planned_at - one["taken_at"], accepted_at - one["taken_at"]))
    ledger.close()
    return found


def main() -> None:
    most_rows = int(sys.argv[1]) if len(sys.argv) > 1 else MOST_ROWS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = simulators(stack, folder)
        for name in SUBSCRIPTIONS:
            (folder / "inbox" / name).mkdir(parents=True)
            (folder / "inbox" / name / "load.toml").write_text(f'subscription = "{name}"\n')
        rows = [round(LEAST_ROWS * (most_rows / LEAST_ROWS) ** (n / (LOADS - 1))) for n in range(LOADS)]
        for number, count in enumerate(rows):
            write(folder / f"{number:02d}.csv", number, count)
        write(folder / "first.csv", LOADS, 1_000)

        process = start(stack, folder, "daemon", "--as-root", "--json", "--config", str(configure(folder, addresses)))
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        token = (folder / ".orchestrator" / "daemon.token").read_text().strip()

        def over() -> list[Any]:
            assert process.poll() is None, "the daemon ended"
            return [one for one in get(f"{url}/api/v1/loads", token)["loads"] if one["ended_at"] is not None]

        (folder / "first.csv").rename(folder / "inbox" / SUBSCRIPTIONS[0] / "first.csv")
        while not (first := over()):
            time.sleep(0.5)
        asking = Askers(url, token, first[0]["id"])
        time.sleep(IDLE_S)
        idle = asking.stop()

        begun = time.perf_counter()
        for number in reversed(range(LOADS)):
            where = folder / "inbox" / SUBSCRIPTIONS[number % 2]
            (folder / f"{number:02d}.csv").rename(where / f"{number:02d}.csv")
        largest = f"{LOADS - 1:02d}.csv"
        while not (seen := [one for one in get(f"{url}/api/v1/loads", token)["loads"] if one["name"] == largest]):
            time.sleep(0.1)
        asking = Askers(url, token, seen[0]["id"])
        while len(ended := over()) < LOADS + 1:
            time.sleep(1.0)
        busy, seconds = asking.stop(), time.perf_counter() - begun

        assert sum(one["imported"] for one in ended) == sum(rows) + 1_000, "rows are missing"
        print(
            f"{LOADS} loads of {rows[0]:,} to {rows[-1]:,} rows, {sum(rows):,} in all, over {len(addresses)} ", end=""
        )
        print(f"subscriptions, in {seconds:.0f} s; each question every {EVERY_S * 1000:.0f} ms")
        for path in PATHS:
            print(f"  {path:14} idle  {cuts(idle[path])}\n  {'':14} busy  {cuts(busy[path])}")
        for name, address in addresses.items():
            state = get(f"{address}/_simulator/state")
            print(f"  {name}: most of our batches open at once {state['most_ours']}, of {state['batches_accepted']}")
            assert state["most_ours"] <= 10
        planned, first_batch = zip(*waits(folder), strict=True)
        for what, taken in (("planned", planned), ("first batch in Marketo", first_batch)):
            print(f"  from taken to {what}: median {statistics.median(taken):.1f} s, longest {max(taken):.1f} s")


if __name__ == "__main__":
    main()
