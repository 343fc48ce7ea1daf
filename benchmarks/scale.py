"""What does one step of the loop cost, and how much memory, with so many chunks in the ledger?

Ledgers of 100, 10,000 and 100,000 chunks, a tenth of them settled and five in Marketo's queue. In a process of its own
each, in turn, several times: one step (read how things stand, decide) and one batch's way through the ledger (claimed,
accepted, seen importing, ended, collected), each with its commits, in memory-backed files.

    python benchmarks/scale.py [ROUNDS]
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any, cast

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.ledger import Ledger
from orchestrator.core.model import (
    Accepted,
    BatchId,
    Chunk,
    ChunkNumber,
    Collected,
    Counts,
    Ended,
    Fingerprint,
    Format,
    Header,
    Load,
    LoadId,
    Plan,
    SeenImporting,
    SourceFile,
    Span,
    Target,
)
from orchestrator.core.schedule import Limits, next_actions
from orchestrator.runner.loop import Runner

SIZES = (100, 10_000, 100_000)
STEPS, BATCHES, OPEN = 300, 60, 5
ROWS = 20_000
NOW = 1_800_000_000.0
RAM = Path("/dev/shm")
LOAD = LoadId("0123456789ab")
LIMITS = Limits(
    queued_jobs=10,
    concurrent_calls=5,
    calls_per_20s=50,
    doubt_lease_s=1800.0,
    min_interval_s=5.0,
    max_interval_s=30.0,
)


def make(path: Path, size: int) -> None:
    """A load in the middle of its way."""
    chunks = tuple(
        Chunk(ChunkNumber(n), (Span(n * 100, n * 100 + 100, ROWS, 1 + n * ROWS, 2 + n * ROWS),), ROWS, 110, f"{n:064x}")
        for n in range(1, size + 1)
    )
    fingerprint, header = Fingerprint(size * 100, "0" * 64), Header(0, 10, ("email",))
    plan = Plan(Format.CSV, fingerprint, header, 9_500_000, size * ROWS, chunks, (), 0, 0)
    load = Load(
        id=LOAD,
        subscription="127.0.0.1",
        source=SourceFile(str(path), size * 100, 0, 0),
        fingerprint=fingerprint,
        format=Format.CSV,
        header=header,
        target=Target(),
        budget=plan.budget,
        rows=plan.rows,
        rejected=0,
        chunks=size,
        on_doubt="resend",
        report_dir=str(path.parent),
        collected_dir=str(path.parent),
        created_at=NOW,
    )
    with Ledger(path) as ledger:
        ledger.add_load(load, plan)
    settled = size // 10
    with sqlite3.connect(path) as database:
        database.execute("UPDATE chunks SET state = 'settled', attempts = 1 WHERE number <= ?", (settled,))
        database.execute(
            "INSERT INTO offers (load_id, chunk, attempt, subscription, slot, offered_at, batch_id, accepted_at, "
            "ended_at, status, imported, failed, warned, collected_at) SELECT load_id, number, 1, subscription, 1, "
            "?1 + 30 * number, number, ?1 + 1 + 30 * number, ?1 + 61 + 30 * number, 'Complete', rows, 0, 0, "
            "?1 + 62 + 30 * number FROM chunks WHERE state = 'settled'",
            (NOW,),
        )
    database.close()
    with Ledger(path) as ledger:
        for number in range(settled + 1, settled + 1 + OPEN):
            at = NOW + 30 * number
            ledger.claim(LOAD, ChunkNumber(number), at, 10)
            ledger.record(LOAD, ChunkNumber(number), Accepted(at + 1, BatchId(number)))


def measure(path: Path, size: int) -> dict[str, float]:
    """One step, one batch, and the peak of memory of a process that does nothing else."""
    with Ledger(path) as ledger:
        load = ledger.load(LOAD)
        assert load is not None
        nothing = cast(Any, None)
        runner = Runner(
            load, ledger=ledger, marketo=nothing, caller=nothing, clock=Clock(), rng=Random(1), limits=LIMITS
        )
        now = NOW + 3 * size + 200
        steps: list[float] = []
        for _ in range(STEPS):
            begun = time.perf_counter()
            view = runner._read_view(now)
            decision = next_actions(view, now=now, limits=LIMITS, watches={}, busy=(), uploading=0)
            steps.append(time.perf_counter() - begun)
            assert decision.actions
        batches: list[float] = []
        for number in range(size // 10 + 1 + OPEN, size // 10 + 1 + OPEN + BATCHES):
            chunk, batch = ChunkNumber(number), BatchId(number)
            begun = time.perf_counter()
            assert ledger.claim(LOAD, chunk, now, 10) is not None
            for fact in (
                Accepted(now, batch),
                SeenImporting(now, now),
                Ended(now, "Complete", Counts(ROWS, 0, 0), ""),
                Collected(now, None, None),
            ):
                ledger.record(LOAD, chunk, fact)
            batches.append(time.perf_counter() - begun)
        return {
            "step": statistics.median(steps),
            "batch": statistics.median(batches),
            "memory": peak_mb(),
        }


def peak_mb() -> float:
    """Of this program alone: the usage that wait tells includes what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    if len(sys.argv) > 2:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        seen: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
        for turn in range(rounds):
            for size in SIZES:
                path = Path(name, f"{size}-{turn}.db")
                make(path, size)
                command = [sys.executable, __file__, str(path), str(size)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                seen[size].append(json.loads(done.stdout))
                path.unlink()
    print(f"median of {rounds} rounds in turn; beside it, over that of {SIZES[0]} chunks")
    of = {size: {what: statistics.median(one[what] for one in seen[size]) for what in seen[size][0]} for size in SIZES}
    for size in SIZES:
        first, here = of[SIZES[0]], of[size]
        print(
            f"  {size:7,} chunks: a step {here['step'] * 1e6:6.0f} us ({here['step'] / first['step']:.2f}), "
            f"a batch's facts {here['batch'] * 1e6:6.0f} us ({here['batch'] / first['batch']:.2f}), "
            f"peak memory {here['memory']:5.1f} MB ({here['memory'] / first['memory']:.2f})"
        )


if __name__ == "__main__":
    main()
