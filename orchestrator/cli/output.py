"""What does a person, or a program, get to read?

Data goes to stdout, everything else to stderr. With --json, stdout is JSON lines: status, error, summary, each with
`"schema": 1`, the last one a summary. A closed stdout or stderr never stops a load.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, TextIO

from orchestrator.adapters.salvage import Salvaged, Unreadable
from orchestrator.checks import CheckLine
from orchestrator.core.model import Load, Plan
from orchestrator.core.origins import STANDARD_INPUT, source_name, source_path
from orchestrator.core.reasons import ReasonCount
from orchestrator.core.verdicts import plain, without_addresses
from orchestrator.core.worth import ReasonClass, class_of
from orchestrator.errors import DoubtHeld, LedgerUnusable, LoadBusy, LoadUnfinished, OrchestratorError, counted
from orchestrator.library import LoadResult, LoadStatus, PlanSummary
from orchestrator.runner.loop import Progress

SCHEMA = 1
REASONS_IN_JSON = 20
REASONS_SHOWN = 10
NOTES_SHOWN = 5
REASON_WIDTH = 60


class Output:
    """Where the command line writes to."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    def data(self, text: str) -> None:
        """For stdout."""
        if not self.as_json:
            _write(sys.stdout, text)

    def note(self, text: str) -> None:
        """For people, on stderr."""
        if not self.quiet:
            _write(sys.stderr, text)

    def always(self, text: str) -> None:
        """For people, on stderr, however quiet."""
        _write(sys.stderr, text)

    def json(self, kind: str, /, **content: Any) -> None:
        """One JSON line, when they are wanted."""
        if self.as_json:
            line = {"type": kind, "schema": SCHEMA, **content}
            text = json.dumps(line, ensure_ascii=False, default=str)
            _write(sys.stdout, text if text.isprintable() else json.dumps(line, default=str))

    def error(self, error: OrchestratorError) -> None:
        """An expected error: message and remedy; never a traceback."""
        self.always(f"error: {error}")
        self.json_error(error)

    def json_error(self, error: OrchestratorError) -> None:
        """The same for programs alone."""
        self.json("error", code=error.exit_code, message=error.message, remedy=error.remedy)


def visible(text: str, *, but: str = "") -> str:
    """A text in which what could move a cursor, turn the reading direction or forge a line is escaped: names of files
    may hold anything."""
    return "".join(c if c.isprintable() or c in but else c.encode("unicode_escape").decode() for c in text)


def _write(stream: TextIO, text: str) -> None:
    try:
        print(visible(text, but="\n"), file=stream, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: go on without
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def table(rows: list[tuple[str, ...]], *, right: tuple[int, ...] = ()) -> str:
    """Columns that line up, a row to a line; the first row is the head."""
    rows = [tuple(map(visible, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    )


def span(seconds: float) -> str:
    """A length of time as people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def resume_command(
    result: LoadResult,
    config: str | None,
    subscription: str | None,
    *,
    fail_on_warning: bool = False,
    no_retry: bool = False,
) -> str:
    """The exact command that goes on."""
    flags = ["--fail-on-warning"] * fail_on_warning + ["--no-retry"] * no_retry
    if isinstance(result.stopped, DoubtHeld):
        flags += ["--on-doubt", "resend"]
    return _command("resume", result, config, subscription, *flags)


def retry_command(result: LoadResult, config: str | None, subscription: str | None) -> str:
    """The exact command that sends its failed rows again."""
    return _command("retry", result, config, subscription)


def _command(name: str, result: LoadResult, config: str | None, subscription: str | None, *flags: str) -> str:
    where = ["--config", config] if config is not None else []
    if subscription is not None:
        where += ["--subscription", subscription]
    return shlex.join(["orchestrator", name, result.load.id, *where, *flags])


def show_result(output: Output, result: LoadResult, *, resume: str, retry: str) -> int:
    """The last words of a load; returns its exit code. The report's folder is the last of them.

    resume, retry: the commands that go on with it, and that send its failed rows again.
    """
    totals, code = result.totals, result.exit_code
    stopped = result.interrupted or result.stopped is not None
    resumable = stopped and not isinstance(result.stopped, LoadBusy)
    reasons = [replace(one, reason=without_addresses(one.reason)) for one in result.reasons[:REASONS_IN_JSON]]
    if result.stopped is not None:
        output.json_error(result.stopped)
    output.json(
        "summary",
        load_id=result.load.id,
        exit_code=code,
        totals=asdict(totals),
        reasons=[asdict(one) for one in reasons],
        doubts=result.doubts,
        seconds=round(result.seconds, 3),
        eta_error=result.eta_error,
        report_dir=str(result.report_dir),
        notes=list(result.notes[:REASONS_IN_JSON]),
        already_finished=result.already_finished,
        resume=resume if resumable else None,
    )
    if stopped:
        if result.stopped is not None:
            word = "not finished" if isinstance(result.stopped, LoadBusy | LoadUnfinished) else "stopped"
            output.always(f"{word}: {result.stopped}")
        else:
            output.note("stopped; what was sent goes on inside Marketo")
        open_rows = totals.unsent + totals.unknown
        output.note(f"{totals.imported:,} of {totals.rows:,} rows are imported so far, {open_rows:,} are open")
        if resumable:
            output.always(f"to go on: {resume}")
        if result.stopped is not None:
            output.note(f"report so far: {result.report_dir}")
        return code
    if result.already_finished:
        output.note("this load had finished before: nothing was sent (--force loads the same content again)")
    if result.eta_error is not None:
        way = "long" if result.eta_error > 0 else "short"
        output.note(f"the time left, foretold when a tenth was done, was {abs(result.eta_error):.0%} too {way}")
    if result.reasons:
        output.note(f"\n{reasons_table(result.reasons)}\n")
    for note in result.notes[:NOTES_SHOWN]:
        output.note(f"note: {note}")
    if len(result.notes) > NOTES_SHOWN:
        output.note(f"and {len(result.notes) - NOTES_SHOWN:,} more notes in report.json")
    for name, text in _last_words(result, retry):
        output.note(f"{name + ':':<13} {text}")
    output.note(f"report: {result.report_dir}")
    return code


def _last_words(result: LoadResult, retry: str) -> list[tuple[str, str]]:
    """What a person needs to know: rows in, what was imported, what was not and why, how long, what to do next."""
    totals = result.totals
    rows = f"{totals.rows:,} in {visible(source_name(result.load))}"
    if result.seconds:
        settled = totals.imported + totals.failed
        rate = f": {settled / result.seconds:,.0f} rows a second" if settled else ""
        rows += f", in {span(result.seconds) if result.seconds >= 0.5 else 'under 1 s'}{rate}"
    if result.doubts:
        rows += f"; doubts: {result.doubts} (uploads whose answer was lost; the report names their rows)"
    imported = f"{totals.imported:,}" + f", {totals.warned:,} of them with a warning" * bool(totals.warned)
    lost = [(name, getattr(totals, name)) for name in ("failed", "rejected", "unsent", "unknown")]
    why = [f"{one.rows:,} x {_short(one.reason)}" for one in result.reasons if one.kind != "warning"][:2]
    not_imported = ", ".join(f"{count:,} {name}" for name, count in lost if count) or "0"
    return [
        ("rows", rows),
        ("imported", imported),
        ("not imported", not_imported + (f" ({'; '.join(why)})" if why else "")),
        ("next", _next_step(result, retry)),
    ]


def _next_step(result: LoadResult, retry: str) -> str:
    """What to type, or to look at, now."""
    totals, origin = result.totals, result.load.origin
    if totals.failed and result.unfound:
        return (
            f"look at {result.report_dir / 'report.html'}: the failed rows cannot be found any more to send them again"
        )
    if totals.failed and any(one.path == STANDARD_INPUT for one in (origin.originals if origin else ())):
        return f"load {result.report_dir / 'retry.csv'}, mended where need be: standard input cannot be read again"
    failures = [one for one in result.reasons if one.kind == "failure"]
    classes = {class_of(one.reason) for one in failures}
    if totals.failed and classes == {ReasonClass.PERMANENT}:
        key = result.load.target.key_column
        column = next((one.column for one in failures if one.column not in (None, key)), None)
        if column is None:
            return f"mend {result.report_dir / 'retry.csv'} and load it: the same rows would fail again"
        rule = f"blank-invalid:{column}"
        if "," in rule or '"' in rule:  # as rules are separated
            rule = '"' + rule.replace('"', '""') + '"'
        return f"mend the failed rows by rules and see what would be sent: {retry} --fix {shlex.quote(rule)} --dry-run"
    if totals.failed:
        mended = " (with --fix RULES those too that must be mended)" if ReasonClass.PERMANENT in classes else ""
        return f"send the failed rows again: {retry}{mended}"
    if totals.rejected or totals.unsent or totals.unknown or totals.warned:
        return f"look at {result.report_dir / 'report.html'}"
    return "nothing; every row is imported"


def reasons_table(reasons: Sequence[ReasonCount]) -> str:
    """The commonest reasons, each with its column and a row to look at; no address in them."""
    rows: list[tuple[str, ...]] = [("ROWS", "KIND", "COLUMN", "REASON", "EXAMPLE")]
    for one in reasons[:REASONS_SHOWN]:
        example = f"row {one.example_row:,}" if one.example_row is not None else ""
        rows.append((f"{one.rows:,}", one.kind, one.column or "", _short(one.reason), example))
    more = len(reasons) - REASONS_SHOWN
    return table(rows, right=(0,)) + (f"\nand {more:,} more reasons in the report" if more > 0 else "")


def _short(reason: str) -> str:
    """A reason on one line of a terminal: no address, no control characters, not long."""
    text = plain(reason)
    return text if len(text) <= REASON_WIDTH else text[: REASON_WIDTH - 1] + "…"


def show_plan(output: Output, summary: PlanSummary) -> int:
    plan = summary.plan
    sizes = [chunk.size_bytes for chunk in plan.chunks]
    output.json(
        "summary",
        load_id=summary.load_id,
        exit_code=0,
        rows=plan.rows,
        rejected=plan.rejected_rows,
        blank_lines=plan.blank_lines,
        shared_keys=plan.shared_keys,
        twins=plan.twin_rows,
        superseded=plan.superseded_rows,
        chunks=len(plan.chunks),
        bytes=plan.fingerprint.size_bytes,
        sha256=plan.fingerprint.sha256,
        format=str(plan.format),
        columns=list(plan.header.fields),
        calls=summary.calls,
        calls_left=summary.calls_left,
        seconds=summary.seconds,
        findings=list(summary.findings),
        values=[asdict(value) for value in summary.values],
    )
    lines = [
        ("source", str(summary.source)),
        ("size", f"{plan.fingerprint.size_bytes:,} bytes, {plan.format}, {len(plan.header.fields)} columns"),
        ("rows", f"{plan.rows:,}" + (f", {plan.rejected_rows:,} of them cannot be sent" * bool(plan.rejected_rows))),
        ("chunks", f"{len(plan.chunks):,}" + (f" of up to {max(sizes):,} bytes" if sizes else "")),
        *([("same keys", _shared(plan))] if plan.shared_keys else []),
        ("calls", f"about {summary.calls:,} of the day's quota{_fits(summary)}"),
        ("time", f"about {span(summary.seconds)}" if summary.seconds else "unknown before the first load"),
        ("load", summary.load_id),
    ]
    width = max(len(name) for name, _ in lines)
    output.data("\n".join(f"{name.ljust(width)}  {value}" for name, value in lines))
    for finding in summary.findings:
        output.data(f"finding: {finding}")
    return 0


def _shared(plan: Plan) -> str:
    """What becomes of rows that share a key."""
    keys = f"{counted(plan.shared_keys, 'key')} in several rows"
    if plan.superseded_rows:
        return f"{keys}: {counted(plan.superseded_rows, 'row')} superseded by later ones and not sent"
    chunks = sum(chunk.twins for chunk in plan.chunks)
    return f"{keys}: these {plan.twin_rows:,} rows go to {chunks:,} of the chunks, which have no others"


def _fits(summary: PlanSummary) -> str:
    if summary.calls_left is None:
        return ""
    verdict = "it fits in" if summary.calls <= summary.calls_left else "more than today allows:"
    return f"; {verdict} the {max(0, summary.calls_left):,} that are left today"


def show_status(output: Output, statuses: list[LoadStatus], *, named: bool) -> None:
    for status in statuses:
        output.json("status", **status_object(status))
    output.json("summary", exit_code=0, loads=len(statuses))
    if not statuses:
        output.data("no loads yet")
        return
    rows: list[tuple[str, ...]] = [("LOAD", "STATE", "ROWS", "IMPORTED", "FAILED", "REJECTED", "OPEN", "SOURCE")]
    for status in statuses:
        totals = status.totals
        rows.append(
            (
                status.load.id,
                state_of(status),
                f"{totals.rows:,}",
                f"{totals.imported:,}",
                f"{totals.failed:,}",
                f"{totals.rejected:,}",
                f"{totals.unsent + totals.unknown:,}",
                source_path(status.load),
            )
        )
    output.data(table(rows, right=(2, 3, 4, 5, 6)))
    for status in statuses:
        for sentence in _said(status):
            output.data(f"{status.load.id}: {sentence}")
    if named:
        head = ("CHUNK", "STATE", "ROWS", "BATCH", "IMPORTED", "FAILED", "SENT AGAIN", "WARNED", "WHY")
        chunks: list[tuple[str, ...]] = [head]
        for record in statuses[0].records:
            offer, moved = record.standing.offer, record.standing.moved
            counts = offer.counts if offer else None
            chunks.append(
                (
                    str(record.chunk.number),
                    str(record.standing.state),
                    f"{record.chunk.rows:,}",
                    str(offer.batch_id) if offer and offer.batch_id else "",
                    f"{counts.imported:,}" if counts else "",
                    f"{counts.failed - moved:,}" if counts else "",
                    f"{moved:,}" if counts else "",
                    f"{counts.warned:,}" if counts else "",
                    record.standing.why,
                )
            )
        output.data("\n" + table(chunks, right=(0, 2, 3, 4, 5, 6, 7)))


def _said(status: LoadStatus) -> Iterator[str]:
    """What the run of a load that is not finished said of itself."""
    run = status.run
    if run is None or status.load.finished_at is not None:
        return
    if run.waiting_for and status.running and not run.ended:
        yield f"waiting for {run.waiting_for}" + (
            f" (waiting since {_hour(run.waiting_since)})" * bool(run.waiting_since)
        )
    if run.waiting_for and run.ended and not status.running:
        yield f"stopped: {run.waiting_for}"
    if run.ends_at is not None and status.running:
        yield f"probably done at {_hour(run.ends_at)}"


def _hour(at: float | None) -> str:
    return datetime.fromtimestamp(at or 0.0, UTC).strftime("%Y-%m-%d %H:%M UTC")


def state_of(status: LoadStatus) -> str:
    """How a load is, in a word or two."""
    if status.load.finished_at is not None:
        return f"finished ({status.load.exit_code})"
    return "running" if status.running else "interrupted"


def status_object(status: LoadStatus) -> Mapping[str, Any]:
    """One load for machines."""
    return {
        "load_id": status.load.id,
        "state": state_of(status).split()[0],
        "exit_code": status.load.exit_code,
        "source": source_path(status.load),
        "totals": asdict(status.totals),
        "chunks": {str(state): count for state, count in status.chunks_by_state.items()},
        "report_dir": status.load.report_dir,
        "priority": status.load.priority,
        "waiting_for": status.run.waiting_for if status.run is not None else "",
        "waiting_since": status.run.waiting_since if status.run is not None else None,
        "ends_at": status.run.ends_at if status.run is not None and status.running else None,
    }


def progress_object(progress: Progress) -> Mapping[str, Any]:
    """How a load stands, for machines."""
    return {
        "load_id": progress.load_id,
        "rows": progress.rows,
        "rows_settled": progress.rows_settled,
        "imported": progress.imported,
        "failed": progress.failed,
        "warned": progress.warned,
        "chunks": {str(state): count for state, count in progress.chunks_by_state.items()},
        "slots_used": progress.slots_used,
        "slots_limit": progress.slots_limit,
        "bytes_sent": progress.bytes_sent,
        "eta_s": None if progress.eta_s is None else round(progress.eta_s, 1),
        "waiting_for": progress.waiting_for,
    }


def show_purged(output: Output, load: Load) -> int:
    output.json("summary", exit_code=0, load_id=load.id, report_dir=load.report_dir)
    output.data(f"load {load.id} ({visible(source_name(load))}) is removed, with its report in {load.report_dir}")
    return 0


def show_export(found: Iterable[Salvaged | Unreadable]) -> int:
    """The content of a ledger as JSON lines, whether --json was given or not; 78 when a part cannot be read."""
    output = Output(as_json=True, quiet=True)
    records, unreadable = Counter[str](), 0
    for one in found:
        match one:
            case Salvaged():
                records[one.what] += 1
                output.json("status", record=one.what, **one.row)
            case Unreadable():
                unreadable += 1
                where = f"table {one.table}"
                if one.after is not None:
                    upto = "" if one.before is None else f" and before {one.before}"
                    where += f", entries after {max(0, one.after)}{upto}"
                remedy = "A backup of the ledger may have them."
                output.json("error", code=LedgerUnusable.exit_code, message=f"{where}: {one.why}", remedy=remedy)
                output.always(f"error: {where} cannot be read ({one.why})")
    code = LedgerUnusable.exit_code if unreadable else 0
    output.json("summary", exit_code=code, records=dict(records), unreadable=unreadable)
    return code


def show_check(output: Output, lines: list[CheckLine]) -> int:
    """What was checked; returns the code of the first thing that is wrong."""
    code = next((line.exit_code for line in lines if not line.ok), 0)
    for line in lines:
        output.json("status", what=line.what, ok=line.ok, note=line.note)
        mark = "FAIL" if not line.ok else "warn" if line.warns else "ok  "
        output.data(f"{mark}  {line.what}" + (f": {line.note}" if line.note else ""))
    output.json("summary", exit_code=code)
    return code
