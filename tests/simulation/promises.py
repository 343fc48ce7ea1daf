"""What must be true when everything is over, whatever went wrong meanwhile? (docs/promises.md)

Checked against what the simulated Marketo knows and the source says, never against what the loader believes.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import sqlite3
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from effects import Import, in_two_at_once, key_of, left_behind
from simulation.scenario import SECRET

from orchestrator.adapters.ledger import Ledger
from orchestrator.core.again import TRIES
from orchestrator.core.isolate import budget
from orchestrator.core.lifecycle import AT_REST, FINAL
from orchestrator.core.model import ChunkNumber, ChunkRecord, Load, State
from orchestrator.core.worth import class_of
from orchestrator.library import LoadResult
from orchestrator.simulator.queue import Job

if TYPE_CHECKING:
    from simulation.play import Simulation

DAY_S = 86_400.0


class BrokenPromise(AssertionError):
    """Something that must be true is not."""


def promise(kept: bool, what: str, *details: object) -> None:
    if not kept:
        raise BrokenPromise(f"{what}: {', '.join(map(str, details))}" if details else what)


def check(simulation: Simulation) -> None:
    """Every promise that this run could have broken."""
    scenario, model, outcome = simulation.scenario, simulation.model, simulation.outcome
    scenario.storage = scenario.locked = 0.0
    model.queue.advance(simulation.time + 30 * DAY_S)
    with Ledger(simulation.config.ledger_path) as ledger:
        loads = {load.source.path: load for load in ledger.loads()}
        records = {path: list(ledger.records(load.id)) for path, load in loads.items()}
        promise(len(loads) == len(ledger.loads()), "one load for one source")
    promise(not simulation.acts.broken, "a load has one owner", simulation.acts.broken)
    every = [record for some in records.values() for record in some]
    for number, source in enumerate(simulation.sources):
        load, some = loads[str(source)], records[str(source)]
        one = _Load(simulation, load, some, number, source)
        one.check()
        outcome.doubts += sum(record.standing.doubts for record in some)
        outcome.told += one.told()
    _check_sendings(every, list(model.jobs.values()), scenario.on_doubt)
    _check_queue(simulation)
    _check_facts(simulation)
    for number, source in enumerate(simulation.sources):
        if loads[str(source)].finished_at is not None:
            _check_again(simulation, number)
    content = simulation.config.ledger_path.read_bytes()
    promise(SECRET.encode() not in content, "no secret is in the ledger")
    promise(b"@example" not in content, "no lead is in the ledger")
    outcome.faults.update(model.faults.injected)
    outcome.calls = sum(model.calls.values())


class _Load:
    """One load at its end."""

    def __init__(
        self, simulation: Simulation, load: Load, records: list[ChunkRecord], number: int, source: Path
    ) -> None:
        self._simulation, self._load, self._records, self._number = simulation, load, records, number
        self._source = source.read_bytes()
        self._folder = Path(load.report_dir)
        self._held = any(record.standing.state is State.HELD for record in records)
        self._rows = list(csv.reader(io.StringIO(self._source.decode(), newline="")))
        self._superseded = self._last_rows() if simulation.scenario.on_duplicate == "last" else {}

    def check(self) -> None:
        records = self._records
        promise(all(r.standing.state in AT_REST for r in records), "every chunk comes to rest")
        given_up = [r for r in records if r.standing.state is State.REJECTED and r.chunk.rows > 1]
        promise(not given_up, "what can be sent is sent", *given_up)
        lost = [r for r in records if r.standing.state is State.EXPIRED]
        promise(not lost, "a batch that Marketo has is not given up", *lost)
        self._check_rows()
        self._check_keys()
        self._check_isolation()
        results = [result for result in self._simulation.results if result.load.id == self._load.id]
        promise(bool(results), "every load ends")
        for result in results:
            self._check_report(result)
        if not self._held:
            promise(self._load.finished_at is not None, "a load that is over is marked so")

    def told(self) -> tuple[object, ...]:
        """What the report says, without the numbers of batches, which depend on who came first."""
        report = json.loads((self._folder / "report.json").read_text(encoding="utf-8"))
        lines = (self._folder / "report.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [{**json.loads(line), "batch_id": None, "attempt": None} for line in lines]
        return (tuple(report["totals"].items()), json.dumps(rows))

    def _check_rows(self) -> None:
        """Every row of the source is in exactly one chunk that was not halved, and what arrived is what stood there."""
        source, rows, covered = self._source, self._rows, defaultdict[int, list[int]](list)
        for record in self._records:
            if record.standing.state is State.HALVED:
                continue
            for span in record.chunk.spans:
                covered[record.chunk.again] += range(span.first_row, span.first_row + span.rows)
                text = source[span.start : span.stop].decode()
                promise(
                    list(csv.reader(io.StringIO(text, newline="")))
                    == rows[span.first_row : span.first_row + span.rows],
                    "a chunk is made of whole rows",
                )
        sent = sorted([*covered[0], *self._superseded])
        promise(sent == list(range(1, len(rows))), "every row is in exactly one chunk")
        for again in range(1, max(covered) + 1):
            promise(len(set(covered[again])) == len(covered[again]), "a row goes again once at a time", again)
            promise(set(covered[again]) <= set(covered[again - 1]), "a row goes again after it went", again)
        planned = {record.chunk.sha256 for record in self._records}
        for job in self._simulation.model.jobs.values():
            if job.sha256 in planned:
                assert job.body is not None
                promise(job.body.startswith(source[: source.index(b"\n")]), "every chunk begins with the header")
                promise(len(job.body) <= 1000, "no chunk is over the budget")

    def _last_rows(self) -> dict[int, int]:
        """Rows that a later one supersedes, and the last row of their key."""
        last = {key_of(row[0]): number for number, row in enumerate(self._rows)}
        return {
            number: last[key]
            for number, row in enumerate(self._rows)
            if (key := key_of(row[0])) and last[key] != number
        }

    def _check_keys(self) -> None:
        """No key is in two unfinished batches, and what is left behind is what was imported, in the order of the file.

        A batch that ended Failed has imported nothing, and the rows of the others that Marketo refused neither.
        """
        if self._simulation.scenario.on_duplicate == "ignore":
            return
        planned = {record.chunk.sha256 for record in self._records}
        numbers = {tuple(row): number for number, row in enumerate(self._rows)}
        imports, imported = list[Import](), set[int]()
        for job in self._simulation.model.jobs.values():
            if job.sha256 not in planned:
                continue
            assert job.body is not None
            assert job.judgement is not None
            assert job.started_at is not None
            assert job.ended_at is not None
            refused = {one.cells for one in job.judgement.failed}
            body = list(csv.reader(io.StringIO(job.body.decode(), newline="")))[1:]
            rows = [(key_of(row[0]), numbers[tuple(row)] if tuple(row) not in refused else 0) for row in body]
            imports.append(Import(rows, job.accepted_at, job.started_at, job.ended_at, job.fails))
            if not job.fails:
                imported.update(number for _, number in rows if number)
        at_once = in_two_at_once(imports)
        promise(not at_once, "no key is in two unfinished batches", *at_once)
        wanted = {key_of(self._rows[number][0]): number for number in sorted(imported)}
        left = left_behind(imports, takes=bool)
        promise(left == wanted, "rows of one key take effect in the order of the file", left, wanted)

    def _check_isolation(self) -> None:
        """Rows fail together only when the search for those that break their batch had come to its end."""
        by_number = {record.chunk.number: record for record in self._records}

        def root(number: ChunkNumber) -> ChunkRecord:
            parent = by_number[number].chunk.parent
            return by_number[number] if parent is None else root(parent)

        failed = Counter[int]()
        for number, kind, detail in self._details():
            whole = root(number).chunk
            if kind == "Ended" and json.loads(detail)["status"] == "Failed":
                failed[whole.number] += 1
            if kind == "Halved" and by_number[number].standing.batch_failures:
                promise(failed[whole.number] <= budget(whole.rows), "the search for bad rows ends", number)
        for record in self._records:
            whole, offer = root(record.chunk.number).chunk, record.standing.offer
            if record.standing.state is not State.SETTLED or offer is None or offer.status != "Failed":
                continue
            if record.chunk.rows == 1:
                promise(record.standing.batch_failures == 2, "a single row is sent twice before it is called bad")
            else:
                promise(failed[whole.number] > budget(whole.rows), "good rows are parted from bad ones", record.chunk)

    def _details(self) -> list[tuple[ChunkNumber, str, str]]:
        ledger = sqlite3.connect(self._simulation.config.ledger_path)
        try:
            return ledger.execute(
                "SELECT chunk, kind, detail FROM facts WHERE load_id = ? ORDER BY id", (self._load.id,)
            ).fetchall()
        finally:
            ledger.close()

    def _check_report(self, result: LoadResult) -> None:
        """The report is the truth, row for row, and its sums are right."""
        records, simulation = self._records, self._simulation
        report = json.loads((self._folder / "report.json").read_text(encoding="utf-8"))
        totals = report["totals"]
        promise(
            totals["rows"]
            == sum(totals[name] for name in ("imported", "failed", "rejected", "unsent", "unknown"))
            == len(self._rows) - 1,
            "every row is accounted for",
            totals,
        )
        doubts = sum(offer.lost_at is not None for record in records for offer in record.offers)
        promise(len(report["doubts"]) == doubts, "every doubt is in the report")
        lines = (self._folder / "report.jsonl").read_text(encoding="utf-8").splitlines()
        told = Counter((row["kind"], row["source_row"], row["reason"]) for row in map(json.loads, lines))
        numbers = {tuple(row): number for number, row in enumerate(self._rows)}
        true: Counter[tuple[str, int, str]] = Counter()
        for row, last in self._superseded.items():
            true["rejected", row, f"superseded by row {last}"] += 1
        failed = imported = 0
        collected = True
        newest: dict[int, int] = defaultdict(int)
        for record in records:
            if record.standing.state is not State.HALVED:
                for row in _rows_in(record):
                    newest[row] = max(newest[row], record.chunk.again)
        left: list[tuple[int, str]] = []
        for record in records:
            offer, again = record.standing.offer, record.chunk.again
            if record.standing.state is not State.SETTLED:
                continue
            assert offer is not None
            assert offer.batch_id is not None
            job = simulation.model.jobs[offer.batch_id]
            assert job.judgement is not None
            if job.fails:
                failed += record.chunk.rows
                for row in _rows_in(record):
                    promise(newest[row] == again, "rows of a broken batch do not go again", row)
                    what = "the whole batch" if record.chunk.rows > 1 else "a batch of this row alone"
                    true["failure", row, f"{what} failed: {offer.message}"] += 1
                continue
            gone = {numbers[tuple(one.cells)]: one.reason for one in job.judgement.failed}
            for row in _rows_in(record):
                tries = TRIES[class_of(gone[row])] if row in gone and not record.chunk.twins else 0
                promise(newest[row] == again or again < tries, "a row goes again only when it is worth it", row)
                left += [(row, gone[row])] if newest[row] == again < tries else []
            failed += sum(newest[row] == again for row in gone)
            imported += record.chunk.rows - len(gone)
            collected = collected and offer.collected_at is not None
            for kind, judged in (("failure", job.judgement.failed), ("warning", job.judgement.warned)):
                for one in judged:
                    if newest[numbers[tuple(one.cells)]] > again:
                        continue
                    true[kind, numbers[tuple(one.cells)], one.reason] += 1
        promise((totals["failed"], totals["imported"]) == (failed, imported), "the totals are Marketo's", totals)
        if not collected:
            promise(all(row in true for row in told), "no row is told of that did not fail")
        elif simulation.scenario.settings.requote and not (report["notes"] and self._files_were_cut()):
            promise(told == true, "every failed or warned row is told of, at its place", told - true, true - told)
            promise(self._held or not left, "every row that is worth it goes again", *left)
        else:
            placed = Counter({row: count for row, count in told.items() if row[1] is not None})
            promise(not placed - true, "no wrong row is named", placed - true)
        expected = 0 if totals["imported"] == totals["rows"] else 3
        if not self._held:
            promise(result.exit_code == report["exit_code"] == expected, "the exit code is right", result.exit_code)

    def _files_were_cut(self) -> bool:
        return any(fault.endswith("cut silently") for fault in self._simulation.model.faults.injected)


def _check_sendings(records: list[ChunkRecord], jobs: list[Job], on_doubt: str) -> None:
    """Nothing known is sent twice; nothing is sent again while a first copy may run; the counts are Marketo's."""
    by_sha = defaultdict(list)
    by_id = {job.batch_id: job for job in jobs}
    for job in jobs:
        by_sha[job.sha256].append(job)
    planned = {record.chunk.sha256 for record in records}
    promise(set(by_sha) <= planned, "what Marketo got is what was planned")
    ids: set[int] = set()
    alike = defaultdict(list)  # a last chunk of all rows of a chunk has the chunk's own content
    for record in records:
        alike[record.chunk.sha256].append(record)
    for sha256, same in alike.items():
        known_of_all = {offer.batch_id for record in same for offer in record.offers}
        unknown_of_all = [job for job in by_sha[sha256] if job.batch_id not in known_of_all]
        lost_of_all = [offer for record in same for offer in record.offers if offer.lost_at is not None]
        promise(len(unknown_of_all) <= len(lost_of_all), "an upload that is not known is a doubt", sha256)
    for record in records:
        known = {offer.batch_id for offer in record.offers if offer.batch_id is not None}
        promise(not ids & known, "a batch id belongs to one chunk")
        ids |= known
        copies = by_sha[record.chunk.sha256]
        lost = [offer for offer in record.offers if offer.lost_at is not None]
        promise(len(lost) == record.standing.doubts, "doubts are counted", record.chunk.number)
        if on_doubt == "stop":
            held = all(offer.lost_at is None for offer in record.offers[:-1])
            promise(held, "a doubt is not sent again when the operator said so", record.chunk.number)
        for earlier, later in itertools.pairwise(copies):
            promise(
                earlier.ended_at is not None and earlier.ended_at <= later.accepted_at,
                "two copies of a chunk never run together",
                record.chunk.number,
            )
        sent = [offer for offer in record.offers if offer.batch_id is not None]
        for offer, following in itertools.pairwise(sent):
            promise(offer.status == "Failed", "a batch is sent again only when it ended Failed", offer, following)
        if record.standing.state is State.SETTLED:
            last = record.standing.offer
            promise(last is not None and last.counts is not None, "what is settled is counted")
            assert last is not None
            assert last.counts is not None
            assert last.batch_id is not None
            job = by_id[last.batch_id]
            promise(job.sha256 == record.chunk.sha256, "a batch id is its chunk's")
            promise(last.status == ("Failed" if job.fails else "Complete"), "the outcome is Marketo's")
            assert job.judgement is not None
            if not job.fails:
                judged = (len(job.judgement.failed), len(job.judgement.warned))
                promise((last.counts.failed, last.counts.warned) == judged, "the counts are Marketo's", last)


def _rows_in(record: ChunkRecord) -> list[int]:
    return [row for span in record.chunk.spans for row in range(span.first_row, span.first_row + span.rows)]


def _check_queue(simulation: Simulation) -> None:
    scenario, model = simulation.scenario, simulation.model
    promise(model.queue.most_ours <= scenario.queued_jobs, "never more jobs than slots")
    allowed = {"body over the limit", "an unknown batch asked after", "the same file twice", "polled too often"}
    if scenario.settings.queue_limit < scenario.queued_jobs:
        allowed.add("an eleventh job")  # this subscription's queue is smaller than documented
    broken = [v for v in model.violations if v.rule not in allowed]
    promise(not broken, "no rule of Marketo's is broken", *broken[:3])


def _check_facts(simulation: Simulation) -> None:
    """What was written down, in its order: time goes forward, and nothing follows a final fact."""
    ledger = sqlite3.connect(simulation.config.ledger_path)
    try:
        facts = ledger.execute("SELECT load_id, chunk, at, kind FROM facts ORDER BY id").fetchall()
        final = dict.fromkeys(
            ledger.execute(
                f"SELECT load_id, number FROM chunks WHERE state IN ({', '.join('?' * len(FINAL))})",
                [str(state) for state in sorted(FINAL)],
            )
        )
    finally:
        ledger.close()
    ends: dict[tuple[str, int], str] = {}
    at_before = 0.0
    for load_id, chunk, at, kind in facts:
        promise(at >= at_before, "facts are in the order of their times", chunk, kind)
        at_before = at
        if kind == "MovedOn":  # failed rows of a settled chunk go again in another one
            promise(ends.get((load_id, chunk)) == "Collected", "rows move on from a settled chunk", chunk)
            continue
        promise(ends.get((load_id, chunk)) not in _LAST, "nothing follows a final fact", chunk, kind)
        ends[load_id, chunk] = kind
    promise(all(ends[key] in _LAST for key in final), "a final state has its fact")
    simulation.outcome.trace = (tuple(facts), simulation.time, sum(simulation.model.calls.values()))


_LAST = frozenset({"Collected", "Refused", "Halved", "Expired"})


def _check_again(simulation: Simulation, source: int) -> None:
    """The same command once more sends nothing."""
    calls = sum(simulation.model.calls.values())
    promise(simulation.again(source).already_finished, "a finished load is not loaded again")
    promise(sum(simulation.model.calls.values()) == calls, "a finished load asks Marketo nothing")
