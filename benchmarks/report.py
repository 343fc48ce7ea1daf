"""How fast are failure rows merged into a report, beside csv.reader and csv.writer on the same rows?

The report is five files: each row is looked for in the source, and written to report.csv, report.jsonl and retry.csv
in the order of the source. The peer reads the finished report.csv and writes it again, and does nothing else. Measured
in turn, in one run, each in a process of its own, by processor time: what the disk and other processes do is nobody's.
Memory is the peak of the process that writes the report.

python benchmarks/report.py [ROWS [BATCHES [ROUNDS]]]     10000000 1000 1 for the full size
"""

from __future__ import annotations

import csv
import io
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from orchestrator.adapters.files import plan_file
from orchestrator.adapters.ledger import Ledger
from orchestrator.adapters.render import write_report
from orchestrator.core.locate import read_sent
from orchestrator.core.model import (
    Accepted,
    BatchId,
    Collected,
    CollectedFile,
    Counts,
    Ended,
    Load,
    LoadId,
    Plan,
    SourceFile,
    Target,
)
from orchestrator.simulator.leads import write_leads

ROUNDS = 5
REASONS = ("Invalid data type in field Lead Score", "Value for lookup field 'email' not found", "Invalid phone number")


def write_plain(path: Path, rows: int, keys: int) -> None:
    """Eight columns, no value with a comma; so many different keys."""
    with path.open("w", encoding="utf-8") as file:
        file.write("email,firstName,lastName,company,title,leadScore,phone,city\n")
        for row in range(rows):
            file.write(
                f"lead{row * 7 % keys:08}@example.com,Zoë,O'Neil,Acme {row % 97},Head of Marketing,{row % 100},"
                f"+1 555 {row:07},Kraków\n"
            )


def a_load(path: Path, batches: int) -> tuple[Load, Plan]:
    """The source cut into so many chunks, nearly."""
    budget = min(9_999_999, max(1_000, path.stat().st_size // batches + 400))
    file, plan = plan_file(
        path, format=None, budget=budget, lookup_field="email", keep_rejected=5, on_duplicate="together"
    )
    return _load(path, file, plan), plan


def _load(path: Path, file: SourceFile, plan: Plan) -> Load:
    return Load(
        id=LoadId("benchmark"),
        subscription="host",
        source=file,
        fingerprint=plan.fingerprint,
        format=plan.format,
        header=plan.header,
        target=Target(),
        budget=plan.budget,
        rows=plan.rows,
        rejected=0,
        chunks=len(plan.chunks),
        on_doubt="resend",
        report_dir=str(path.parent / "report"),
        collected_dir=str(path.parent),
        created_at=0.0,
    )


def fail_all(path: Path, load: Load, plan: Plan) -> None:
    """Every row of every chunk has failed: the files that Marketo would have given, and the ledger that knows them."""
    with Ledger(_ledger(load)) as ledger, path.open("rb") as source:
        ledger.add_load(load, plan)
        at = 1.0
        while ready := ledger.ready(load.id, at, 1):
            chunk = ledger.chunk(load.id, ready[0].number)
            content = b""
            for span in chunk.spans:
                source.seek(span.start)
                content += source.read(span.stop - span.start)
            out = io.StringIO(newline="")
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([*plan.header.fields, "Import Failure Reason"])
            for row in read_sent(content, chunk.spans, plan.format):
                writer.writerow([*row.cells, REASONS[row.row % 3]])
            saved = path.parent / f"{chunk.number}.failures"
            saved.write_text(out.getvalue(), encoding="utf-8", newline="")
            ledger.claim(load.id, chunk.number, at, 10)
            for fact in (
                Accepted(at, BatchId(chunk.number)),
                Ended(at + 1, "Complete", Counts(0, chunk.rows, 0), ""),
                Collected(at + 1, CollectedFile(str(saved), chunk.rows), None),
            ):
                ledger.record(load.id, chunk.number, fact)
            at += 2.0


def _ledger(load: Load) -> Path:
    return Path(load.collected_dir, "ledger.db")


def ours(load: Load) -> tuple[float, float]:
    """Seconds, and the peak of this process's memory in MB."""
    begun = time.process_time()
    with Ledger(_ledger(load)) as ledger:
        written = write_report(
            load=load,
            records=lambda: ledger.records(load.id),
            rejected=(),
            folder=Path(load.report_dir),
            calls={},
            started_at=0.0,
            finished_at=1.0,
            exit_code=3,
        )
    assert written.rows == load.rows
    assert written.discrepancies == ()
    return time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peer(load: Load) -> float:
    """csv.reader and csv.writer on the merged table."""
    begun = time.process_time()
    table = Path(load.report_dir, "report.csv")
    with (
        table.open(newline="", encoding="utf-8") as read,
        table.with_suffix(".peer").open("w", newline="", encoding="utf-8") as write,
    ):
        csv.writer(write).writerows(csv.reader(read))
    return time.process_time() - begun


def compare(name: str, path: Path, batches: int, rounds: int) -> Iterator[str]:
    load, plan = a_load(path, batches)
    fail_all(path, load, plan)
    times: list[tuple[float, float]] = []
    peak_mb = 0.0
    for _ in range(rounds):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            mine, used_mb = alone.submit(ours, load).result()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            theirs = alone.submit(peer, load).result()
        times.append((mine, theirs))
        peak_mb = max(peak_mb, used_mb)
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(other / one for one, other in times)
    yield f"{name}: {plan.rows:,} failed rows of {len(plan.header.fields)} columns in {len(plan.chunks):,} batches"
    yield f"  orchestrator, five files     {plan.rows / mine:12,.0f} rows/s   peak memory {peak_mb:,.0f} MB"
    yield f"  csv.reader and csv.writer    {plan.rows / theirs:12,.0f} rows/s"
    yield f"  ratio of speeds              {ratio:12.2f}   (goal: 0.5; median of {rounds} rounds in turn)"


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    batches = int(sys.argv[2]) if len(sys.argv) > 2 else max(1, rows // 10_000)
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else ROUNDS
    for name in ("plain values", "plain values, every key in ten rows", "sample leads (one row in ten has quotes)"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "leads.csv")
            if name.startswith("plain"):
                write_plain(path, rows, rows // 10 if "ten" in name else rows)
            else:
                write_leads(path, rows, bad_share=0.0)
            print("\n".join(compare(name, path, batches, rounds)), flush=True)


if __name__ == "__main__":
    main()
