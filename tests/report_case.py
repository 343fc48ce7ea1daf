"""Finished loads to write reports of: a source on disk, its plan, and what Marketo said of each chunk."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.adapters.files import plan_file
from orchestrator.adapters.render import Written, write_report
from orchestrator.core.locate import read_sent
from orchestrator.core.model import (
    BatchId,
    ChunkRecord,
    CollectedFile,
    Counts,
    Load,
    LoadId,
    Offer,
    OnDuplicate,
    Plan,
    Standing,
    State,
    Target,
)
from orchestrator.core.runs import Kind

FAILURE, WARNING = "Import Failure Reason", "Import Warning Reason"


@dataclass
class Case:
    """One finished load: its source on disk, its plan, and what Marketo said of each chunk."""

    folder: Path
    load: Load
    plan: Plan
    records: list[ChunkRecord] = field(default_factory=list)

    @property
    def source(self) -> Path:
        return Path(self.load.source.path)

    def settle(
        self,
        number: int,
        failures: str = "",
        warnings: str = "",
        status: Literal["Complete", "Failed"] = "Complete",
        counts: Counts | None = None,
        message: str = "",
    ) -> None:
        """Chunk `number` has ended with these result files, given without their header."""
        delimiter, chunk = self.plan.format.delimiter, self.plan.chunks[number - 1]
        files: list[CollectedFile | None] = []
        for name, column, content in (("failures", FAILURE, failures), ("warnings", WARNING, warnings)):
            path = self.folder / f"{number}.{name}"
            header = delimiter.join([*self.load.header.fields, column])
            path.write_bytes(f"{header}\n{content}".encode())
            files.append(CollectedFile(str(path), content.count("\n")) if content else None)
        failed, warned = failures.count("\n"), warnings.count("\n")
        offer = Offer(
            attempt=1,
            offered_at=1.0,
            slot=1,
            batch_id=BatchId(100 + number),
            accepted_at=2.0,
            ended_at=3.0,
            status=status,
            counts=counts or Counts(chunk.rows - failed, failed, warned),
            message=message,
            collected_at=4.0,
            failures=files[0],
            warnings=files[1],
        )
        standing = Standing(self.load.id, chunk.number, chunk.rows, State.SETTLED, attempts=1, offer=offer)
        self.records[number - 1] = ChunkRecord(chunk, standing, (offer,))

    def judge(self, judgements: Mapping[int, tuple[Kind, str]]) -> None:
        """All chunks have ended, and Marketo has judged rows so, by their numbers."""
        content = self.source.read_bytes()
        for chunk in self.plan.chunks:
            sent = b"".join(content[span.start : span.stop] for span in chunk.spans)
            files = {"failure": io.StringIO(newline=""), "warning": io.StringIO(newline="")}
            for row in read_sent(sent, chunk.spans, self.plan.format):
                if row.row in judgements:
                    kind, reason = judgements[row.row]
                    csv.writer(files[kind], lineterminator="\n").writerow([*row.cells, reason])
            self.settle(chunk.number, files["failure"].getvalue(), files["warning"].getvalue())

    def write(
        self,
        to: str = "report",
        records: Any = None,
        *,
        exit_code: int = 3,
        stopped: str = "",
        keep: bool = False,
    ) -> Written:
        return write_report(
            load=self.load,
            records=records or self.in_order,
            rejected=sorted((*self.plan.rejected, *self.plan.superseded), key=lambda row: row.row),
            folder=self.folder / to,
            calls={"import": 2},
            started_at=1.0,
            finished_at=61.0,
            exit_code=exit_code,
            stopped=stopped,
            keep=keep,
        )

    def in_order(self) -> list[ChunkRecord]:
        """As the ledger gives them."""
        return sorted(self.records, key=lambda one: (one.chunk.twins, one.chunk.first_row, one.chunk.number))

    def read(self, name: str) -> bytes:
        return (self.folder / "report" / name).read_bytes()

    def table(self) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.read("report.csv").decode(), newline="")))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read("report.jsonl").splitlines()]


def a_case(
    folder: Path,
    content: bytes,
    name: str = "leads.csv",
    budget: int = 1_000,
    key: str = "email",
    on_duplicate: OnDuplicate = "ignore",
) -> Case:
    path = folder / name
    path.write_bytes(content)
    file, plan = plan_file(
        path, format=None, budget=budget, lookup_field=key, keep_rejected=1_000, on_duplicate=on_duplicate
    )
    load = Load(
        id=LoadId("abcdef012345"),
        subscription="host",
        source=file,
        fingerprint=plan.fingerprint,
        format=plan.format,
        header=plan.header,
        target=Target(lookup_field=key),
        budget=budget,
        rows=plan.rows,
        rejected=plan.rejected_rows + plan.superseded_rows,
        chunks=len(plan.chunks),
        on_doubt="resend",
        report_dir=str(folder / "report"),
        collected_dir=str(folder),
        created_at=1.0,
        on_duplicate=on_duplicate,
    )
    case = Case(folder, load, plan)
    case.records = [
        ChunkRecord(chunk, Standing(load.id, chunk.number, chunk.rows, State.PLANNED), ()) for chunk in plan.chunks
    ]
    return case
