"""How long does it take from the start of a process to its first word to Marketo, with so many chunks in the ledger?

A load of 100 chunks, one of 10,000 and one of 100,000 are begun, with a tenth of their chunks settled and ten in
Marketo's queue, and stopped; then the same command is started again and again, and killed at its first call.

    python benchmarks/restart.py [STARTS]
"""

from __future__ import annotations

import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SIZES = (100, 10_000, 100_000)
CHUNK_BYTES = 1_000
ROW = "lead{:09d}@example.com,Ann\n"
ROWS_A_CHUNK = 33


class Door:
    """Listens on loopback, and notes when somebody first connects. It never answers: the first call is what counts."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._knocked = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        kept: list[socket.socket] = []
        while True:
            kept.append(self._socket.accept()[0])
            self._knocked.set()

    def wait_for_knock(self, seconds: float) -> None:
        if not self._knocked.wait(seconds):
            raise TimeoutError(f"nobody came within {seconds:.0f} s")

    def forget(self) -> None:
        self._knocked.clear()


def environment(door: Door) -> dict[str, str]:
    return {
        **os.environ,
        "ORCHESTRATOR_MARKETO__BASE_URL": door.base_url,
        "ORCHESTRATOR_MARKETO__CLIENT_ID": "id",
        "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "secret",
        "ORCHESTRATOR_LIMITS__CHUNK_BYTES": str(CHUNK_BYTES),
    }


def begin(folder: Path, chunks: int, door: Door) -> None:
    """A load that was interrupted: planned by the command itself, then carried on in the ledger as if it had run."""
    with (folder / "leads.csv").open("w", encoding="utf-8") as file:
        file.write("email,firstName\n")
        file.writelines(ROW.format(number) for number in range(chunks * ROWS_A_CHUNK))
    start_to_first_call(folder, door)
    ledger = sqlite3.connect(folder / ".orchestrator" / "ledger.db")
    with ledger:
        now = time.time()
        ((load, found),) = ledger.execute("SELECT load_id, count(*) FROM chunks GROUP BY load_id")
        settled = found // 10
        ledger.execute("UPDATE chunks SET state = 'planned', slot = NULL WHERE state <> 'planned'")
        ledger.execute("DELETE FROM offers")
        ledger.execute("UPDATE chunks SET state = 'settled', attempts = 1 WHERE number <= ?", (settled,))
        for slot in range(1, 11):
            ledger.execute(
                "UPDATE chunks SET state = 'queued', attempts = 1, slot = ? WHERE number = ?", (slot, settled + slot)
            )
        ledger.execute(
            "INSERT INTO offers (load_id, chunk, attempt, subscription, slot, offered_at, batch_id, accepted_at, "
            "ended_at, status, imported, failed, warned) SELECT load_id, number, 1, subscription, coalesce(slot, 1), "
            "?, 1000 + number, ?, CASE state WHEN 'settled' THEN ? END, CASE state WHEN 'settled' THEN 'Complete' END, "
            "CASE state WHEN 'settled' THEN rows END, 0, 0 FROM chunks WHERE load_id = ? AND number <= ?",
            (now - 600, now - 600, now - 60, load, settled + 10),
        )
    ledger.close()


def start_to_first_call(folder: Path, door: Door) -> float:
    """Seconds from the start of a process to its first connection."""
    door.forget()
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "load", "leads.csv", "--quiet"],
        cwd=folder,
        env=environment(door),
        stdout=subprocess.DEVNULL,
    )
    try:
        door.wait_for_knock(120.0)
        return time.perf_counter() - begun
    finally:
        process.kill()
        process.wait()


def main() -> None:
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    door = Door()
    with tempfile.TemporaryDirectory() as top:
        folders = {size: Path(top, str(size)) for size in SIZES}
        for size, folder in folders.items():
            folder.mkdir()
            begin(folder, size, door)
        times: dict[int, list[float]] = {size: [] for size in SIZES}
        for _ in range(starts):
            for size, folder in folders.items():
                times[size].append(start_to_first_call(folder, door))
        print(f"from the start of a process to its first call, {starts} starts each, in turn")
        for size, taken in times.items():
            cuts = statistics.quantiles(taken, n=100, method="inclusive")
            ledger_mb = (folders[size] / ".orchestrator" / "ledger.db").stat().st_size / 1e6
            print(
                f"  {size:7,} chunks (ledger {ledger_mb:6.1f} MB)   p50 {cuts[49]:.2f} s   p99 {cuts[98]:.2f} s   "
                f"{statistics.median(taken) / statistics.median(times[SIZES[0]]):.2f} of the smallest"
            )


if __name__ == "__main__":
    main()
