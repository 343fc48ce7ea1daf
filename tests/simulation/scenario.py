"""One seed: a load, a Marketo, faults, crashes; run to its end; then everything that must be true is checked."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import structlog
from simulation.virtual import Deadlock, VirtualClock, VirtualLoop, drop, inline_threads
from simulation.world import Crash, DyingConnection, Life, Network, SimulatedTransport, intent_is_durable, owned_by

from orchestrator import library
from orchestrator.adapters.ledger import Ledger, connect
from orchestrator.config import Config, load_config
from orchestrator.core.isolate import budget
from orchestrator.core.lifecycle import AT_REST
from orchestrator.core.model import ChunkNumber, ChunkRecord, State
from orchestrator.errors import InternalFault, OrchestratorError
from orchestrator.library import LoadOptions, LoadResult, World
from orchestrator.simulator.faults import KINDS
from orchestrator.simulator.model import Marketo
from orchestrator.simulator.settings import Settings

DAY_S = 86_400.0
LONGEST_S = 3 * DAY_S
"""A load that is not over so long after all faults have ended never will be."""
LIVES_MAX = 80
BATCHES_MAX = 300
SECRET = "canary-client-secret"
RAM = Path("/dev/shm")


class BrokenPromise(AssertionError):
    """Something that must be true is not."""


def promise(kept: bool, what: str, *details: object) -> None:
    if not kept:
        raise BrokenPromise(f"{what}: {', '.join(map(str, details))}" if details else what)


@dataclass
class Scenario:
    """What one seed stands for."""

    seed: int
    rows: int
    queued_jobs: int
    settings: Settings
    network: Network
    rates: dict[str, float]
    kinds: frozenset[str]
    heal_at: float
    """Seconds after the beginning: no faults from then on."""
    foreign: list[tuple[float, int, float]]
    """(when, how many, seconds each): jobs of others."""
    crashes: list[int]
    """The n-th point of the first, second, ... life."""
    on_doubt: str
    list_id: int | None
    amnesia: tuple[float, float] | None = None
    """(from, until): Marketo says of every batch that it does not know it."""
    storage: float = 0.0
    """Share of commits that fail until the faults end."""

    @classmethod
    def of(cls, seed: int) -> Scenario:
        """Everything from the seed: every seed has its own subset of what can go wrong."""
        rng = Random(seed)

        def share() -> float:
            return rng.choice([0.0, 0.0, 0.02, 0.1, 0.3])

        every = sorted({kind for kinds in KINDS.values() for kind in kinds})
        rare = Random(seed + 3)  # of its own, so that a rarity more leaves the other seeds as they are
        settings = Settings(
            seed=seed,
            clients={"client": SECRET},
            rows_per_second=1e9,
            seconds_per_job=rng.choice([1.0, 10.0, 40.0, 120.0]),
            token_life=rng.choice([3600.0, 3600.0, 600.0, 70.0]),
            queue_limit=rng.choice([10, 10, 4]),
            failing_jobs=frozenset(rng.sample(range(1, 15), rng.choice([0, 0, 0, 1, 3]))),
            poison=rng.choice([None, None, None, "lead7@example.com"]),
            file_limit=rng.choice([10_000_000] * 4 + [950]),
            unknown_batch=rng.choice(["1013", "610", "404"]),
            list_busy=rng.choice(["importing", "queued", "never"]),
            requote=rng.random() < 0.8,
            drop_empty_lookup_column=rng.random() < 0.2,
            no_rows=rng.choice(["404", "empty", "header"]),
            order=rng.choice(["input", "shuffled"]),
            keep_bodies=True,
        )
        amnesia_at = rare.uniform(20.0, 600.0)
        amnesia = (amnesia_at, amnesia_at + rare.uniform(60.0, 600.0)) if rare.random() < 0.2 else None
        if rare.random() < 0.04:  # a broken instance: whatever is sent fails
            settings.failing_jobs = frozenset(range(1, BATCHES_MAX))
        return cls(
            seed=seed,
            rows=rng.randint(1, 70),
            queued_jobs=rng.choice([10, 3, 2, 1]),
            settings=settings,
            network=Network(
                refuse=share() / 3,
                cut=share() / 3,
                lose=share() / 3,
                hang=rng.choice([0.0, 0.0, 0.02]),
                early_reset=rare.random() < 0.5,
            ),
            rates={kind: share() for kind in KINDS},
            kinds=frozenset(rng.sample(every, rng.randint(1, len(every)))),
            heal_at=rng.choice([0.0, 600.0, 1800.0, 5400.0]),
            foreign=[
                (rng.uniform(0, 1200), rng.randint(1, 10), rng.uniform(10, 300))
                for _ in range(rng.choice([0, 0, 1, 3]))
            ],
            crashes=[rng.randint(1, rng.choice([20, 100, 400])) for _ in range(rng.choice([0, 0, 1, 1, 2, 4]))],
            on_doubt=rng.choice(["resend"] * 4 + ["stop"]),
            list_id=rng.choice([None, None, None, 1001]),
            storage=rng.choice([0.0, 0.0, 0.0, 0.01]),
            amnesia=amnesia,
        )


@dataclass
class Outcome:
    """What a seed came to, and what it went through."""

    seed: int
    virtual_s: float = 0.0
    lives: int = 0
    crashes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    doubts: int = 0
    points: int = 0
    """Points of the first life: where it could have died."""
    trace: tuple[Any, ...] = ()


def leads(rng: Random, rows: int) -> bytes:
    """A source in which no two rows are alike: some fail, some are warned of, some are hard to cut."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(["email", "firstName", "leadScore", "company"])
    for number in range(1, rows + 1):
        email = rng.choice([f"lead{number}@example.com"] * 6 + ["", f"lead{number}@example"])
        score = rng.choice([str(number)] * 6 + [f"{number}.5"])
        company = f"{number} " + rng.choice(["Acme", "Acme, Inc", 'the "A" firm', "two\nlines", "é😀", "x" * 120])
        writer.writerow([email, rng.choice(["Ann", "Bo", "O'Neil"]), score, company])
    return out.getvalue().encode()


class Simulation:
    """Runs one scenario in a folder of its own."""

    def __init__(self, scenario: Scenario, folder: Path, open: Callable[[Path], Any] = connect) -> None:
        self.scenario, self.folder, self._open = scenario, folder, open
        self.model = Marketo(scenario.settings)
        self.model.faults.rates.update(scenario.rates)
        self.model.faults.kinds = scenario.kinds
        self.rng = Random(scenario.seed + 1)
        self.time = 0.0
        self.outcome = Outcome(scenario.seed)
        self.source = folder / "leads.csv"
        self.source.write_bytes(leads(Random(scenario.seed + 2), scenario.rows))
        self._loop: VirtualLoop | None = None
        self._foreign = sorted(scenario.foreign, reverse=True)
        self.config = self._config()

    def _config(self) -> Config:
        environment = {
            "MARKETO__BASE_URL": "http://127.0.0.1:1",
            "MARKETO__CLIENT_ID": "client",
            "MARKETO__CLIENT_SECRET": SECRET,
            "LIMITS__CHUNK_BYTES": "1000",
            "LIMITS__QUEUED_JOBS": str(self.scenario.queued_jobs),
            "LIMITS__DOUBT_LEASE": "7200",
            "STATE__LEDGER": f"sqlite:///{self.folder / 'ledger.db'}",
            "REPORT__DIR": str(self.folder / "reports"),
        }
        if self.scenario.list_id is not None:
            environment["IMPORT__LIST_ID"] = str(self.scenario.list_id)
        return load_config(None, {f"ORCHESTRATOR_{name}": value for name, value in environment.items()}, {})

    # --- lives ------------------------------------------------------------------------------------------

    def run(self) -> LoadResult:
        """Life after life, the same command each time, until one ends with the load."""
        while True:
            crash_at = None
            if self.outcome.lives < len(self.scenario.crashes):
                crash_at = self.scenario.crashes[self.outcome.lives]
            self.outcome.lives += 1
            promise(self.outcome.lives < LIVES_MAX, "the load ends", f"{LIVES_MAX} lives were not enough")
            result = self._life(Life(crash_at))
            if result is not None and result.stopped is None:
                return result
            if result is not None and result.stopped is not None:
                self.outcome.stops[type(result.stopped).__name__] += 1
                if self._is_held():
                    return result
            self.time += self.rng.choice([1.0, 30.0, 600.0, 7200.0])

    def _is_held(self) -> bool:
        with Ledger(self.config.ledger_path) as ledger:
            (load,) = ledger.loads()
            states = {state for state, count in ledger.chunks_by_state(load.id).items() if count}
            return State.HELD in states and states <= AT_REST

    def _life(self, life: Life) -> LoadResult | None:
        """One process; None when it died, or gave up with an expected error."""
        loop = self._loop = VirtualLoop(self.time, self.scenario.heal_at + LONGEST_S + self.time)
        transport = SimulatedTransport(
            self.model,
            self.scenario.network,
            self.rng,
            life,
            self._now,
            intent_is_durable(self.config.ledger_path),
            self.outcome.faults,
        )
        connections: list[DyingConnection] = []

        def connected(path: Path) -> Any:
            connections.append(DyingConnection(path, life, self._storage_fault, self._open))
            return connections[-1]

        world = World(clock=VirtualClock(), rng=self.rng, transport=transport, connect=connected)  # type: ignore[arg-type]
        target = self.config.target()
        options = LoadOptions(target=target, on_doubt=self.scenario.on_doubt)  # type: ignore[arg-type]
        try:
            with inline_threads(), owned_by(life):
                return loop.run_until_complete(library.load(self.config, self.source, options, world=world))
        except Deadlock as deadlock:
            raise BrokenPromise(f"the load ends: {deadlock}") from deadlock
        except (Crash, BaseExceptionGroup, OrchestratorError) as error:
            if life.dead:
                self.outcome.crashes[life.died_at] += 1
                return None
            expected = _expected(error)
            promise(expected is not None and not isinstance(expected, InternalFault), "no fault of ours", repr(error))
            self.outcome.stops[type(expected).__name__] += 1
            return None
        finally:
            self.time = loop.time()
            self.outcome.points = self.outcome.points or life.points
            life.dead = True
            self.model.in_flight = 0
            for connection in connections:
                connection.close()
            drop(loop)
            self.outcome.virtual_s = self.time

    def _now(self) -> float:
        assert self._loop is not None
        now = self._loop.time()
        promise(len(self.model.jobs) < BATCHES_MAX, "the load ends", f"{BATCHES_MAX} batches were not enough")
        while self._foreign and self._foreign[-1][0] <= now:
            at, count, seconds = self._foreign.pop()
            self.model.occupy(count, max(at, self.model.now), seconds)
        if self.scenario.amnesia is not None:
            begins, ends = self.scenario.amnesia
            self.model.settings.batch_life = 0.0 if begins <= now < ends else 7 * DAY_S
        if now >= self.scenario.heal_at and self.model.faults.rates:
            self.model.faults.rates.clear()
            self.scenario.network.refuse = self.scenario.network.cut = 0.0
            self.scenario.network.lose = self.scenario.network.hang = 0.0
        return now

    def _storage_fault(self, sql: str) -> str | None:
        assert self._loop is not None
        if sql == "COMMIT" and self._loop.time() < self.scenario.heal_at and self.rng.random() < self.scenario.storage:
            self.outcome.faults["storage: commit failed"] += 1
            return "disk I/O error"
        return None

    # --- what must be true ------------------------------------------------------------------------------

    def check(self, result: LoadResult) -> None:
        """Every promise that this run could have broken."""
        self._loop, self.scenario.storage = None, 0.0
        self.model.queue.advance(self.time + 30 * DAY_S)
        with Ledger(self.config.ledger_path) as ledger:
            (load,) = ledger.loads()
            records = list(ledger.records(load.id))
        held = any(record.standing.state is State.HELD for record in records)
        promise(all(r.standing.state in AT_REST for r in records), "every chunk comes to rest")
        given_up = [r for r in records if r.standing.state is State.REJECTED and r.chunk.rows > 1]
        promise(not given_up, "what can be sent is sent", *given_up)
        lost = [r for r in records if r.standing.state is State.EXPIRED]
        promise(not lost, "a batch that Marketo has is not given up", *lost)
        self._check_rows(records)
        self._check_sendings(records)
        self._check_isolation(records)
        self._check_queue()
        self._check_report(result, records)
        if not held:
            promise(load.finished_at is not None, "a load that is over is marked so")
            self._check_again()
        self._check_secrets()
        self.outcome.faults.update(self.model.faults.injected)
        self.outcome.calls = sum(self.model.calls.values())
        self.outcome.doubts = sum(record.standing.doubts for record in records)
        self.outcome.trace = (self._facts(), self.time, self.outcome.calls)

    def _facts(self) -> tuple[Any, ...]:
        """Everything that was written down, in its order."""
        ledger = sqlite3.connect(self.config.ledger_path)
        try:
            return tuple(ledger.execute("SELECT chunk, at, kind FROM facts ORDER BY id"))
        finally:
            ledger.close()

    def _check_rows(self, records: list[ChunkRecord]) -> None:
        """Every row of the source is in exactly one chunk that was not halved, and what arrived is what stood there."""
        source = self.source.read_bytes()
        rows = list(csv.reader(io.StringIO(source.decode(), newline="")))
        covered: list[int] = []
        for record in records:
            if record.standing.state is State.HALVED:
                continue
            for span in record.chunk.spans:
                covered += range(span.first_row, span.first_row + span.rows)
                text = source[span.start : span.stop].decode()
                promise(
                    list(csv.reader(io.StringIO(text, newline="")))
                    == rows[span.first_row : span.first_row + span.rows],
                    "a chunk is made of whole rows",
                )
        promise(sorted(covered) == list(range(1, len(rows))), "every row is in exactly one chunk")
        planned = {record.chunk.sha256 for record in records}
        for job in self.model.jobs.values():
            promise(job.sha256 in planned, "what Marketo got is what was planned")
            assert job.body is not None
            promise(job.body.startswith(source[: source.index(b"\n")]), "every chunk begins with the header")
            promise(len(job.body) <= 1000, "no chunk is over the budget")

    def _check_sendings(self, records: list[ChunkRecord]) -> None:
        """Nothing known is sent twice; nothing is sent again while a first copy may run; the counts are Marketo's."""
        by_sha = defaultdict(list)
        for job in self.model.jobs.values():
            by_sha[job.sha256].append(job)
        ids: set[int] = set()
        for record in records:
            known = {offer.batch_id for offer in record.offers if offer.batch_id is not None}
            promise(not ids & known, "a batch id belongs to one chunk")
            ids |= known
            jobs = by_sha[record.chunk.sha256]
            unknown = [job for job in jobs if job.batch_id not in known]
            lost = [offer for offer in record.offers if offer.lost_at is not None]
            promise(len(unknown) <= len(lost), "an upload that is not known is a doubt", record.chunk.number)
            promise(len(lost) == record.standing.doubts, "doubts are counted", record.chunk.number)
            for earlier, later in itertools.pairwise(jobs):
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
                job = self.model.jobs[last.batch_id]
                promise(last.status == ("Failed" if job.fails else "Complete"), "the outcome is Marketo's")
                assert job.judgement is not None
                if not job.fails:
                    judged = (len(job.judgement.failed), len(job.judgement.warned))
                    promise((last.counts.failed, last.counts.warned) == judged, "the counts are Marketo's", last)

    def _check_isolation(self, records: list[ChunkRecord]) -> None:
        """Rows fail together only when the search for those that break their batch had come to its end."""
        by_number = {record.chunk.number: record for record in records}

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
        for record in records:
            whole, offer = root(record.chunk.number).chunk, record.standing.offer
            if record.standing.state is not State.SETTLED or offer is None or offer.status != "Failed":
                continue
            if record.chunk.rows == 1:
                promise(record.standing.batch_failures == 2, "a single row is sent twice before it is called bad")
            else:
                promise(failed[whole.number] > budget(whole.rows), "good rows are parted from bad ones", record.chunk)

    def _details(self) -> list[tuple[ChunkNumber, str, str]]:
        ledger = sqlite3.connect(self.config.ledger_path)
        try:
            return ledger.execute("SELECT chunk, kind, detail FROM facts ORDER BY id").fetchall()
        finally:
            ledger.close()

    def _check_queue(self) -> None:
        promise(self.model.queue.most_ours <= self.scenario.queued_jobs, "never more jobs than slots")
        allowed = {"body over the limit", "an unknown batch asked after", "the same file twice", "polled too often"}
        if self.scenario.settings.queue_limit < self.scenario.queued_jobs:
            allowed.add("an eleventh job")  # this subscription's queue is smaller than documented
        broken = [v for v in self.model.violations if v.rule not in allowed]
        promise(not broken, "no rule of Marketo's is broken", *broken[:3])

    def _check_report(self, result: LoadResult, records: list[ChunkRecord]) -> None:
        """The report is the truth, row for row, and its sums are right."""
        (folder,) = (self.folder / "reports").iterdir()
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        totals = report["totals"]
        promise(
            totals["rows"]
            == sum(totals[name] for name in ("imported", "failed", "rejected", "unsent", "unknown"))
            == self.scenario.rows,
            "every row is accounted for",
            totals,
        )
        doubts = sum(offer.lost_at is not None for record in records for offer in record.offers)
        promise(len(report["doubts"]) == doubts, "every doubt is in the report")
        lines = (folder / "report.jsonl").read_text(encoding="utf-8").splitlines()
        told = Counter((row["kind"], row["source_row"], row["reason"]) for row in map(json.loads, lines))
        numbers = {
            tuple(row): number
            for number, row in enumerate(csv.reader(io.StringIO(self.source.read_bytes().decode(), newline="")))
        }
        true: Counter[tuple[str, int, str]] = Counter()
        failed = imported = 0
        collected = True
        for record in records:
            offer = record.standing.offer
            if record.standing.state is not State.SETTLED:
                continue
            assert offer is not None
            assert offer.batch_id is not None
            job = self.model.jobs[offer.batch_id]
            assert job.judgement is not None
            if job.fails:
                failed += record.chunk.rows
                for row in range(record.chunk.first_row, record.chunk.last_row + 1):
                    what = "the whole batch" if record.chunk.rows > 1 else "a batch of this row alone"
                    true["failure", row, f"{what} failed: {offer.message}"] += 1
                continue
            failed += len(job.judgement.failed)
            imported += record.chunk.rows - len(job.judgement.failed)
            collected = collected and offer.collected_at is not None
            for kind, judged in (("failure", job.judgement.failed), ("warning", job.judgement.warned)):
                for one in judged:
                    true[kind, numbers[tuple(one.cells)], one.reason] += 1
        promise((totals["failed"], totals["imported"]) == (failed, imported), "the totals are Marketo's", totals)
        if not collected:
            promise(all(row in true for row in told), "no row is told of that did not fail")
        elif self.scenario.settings.requote and not (report["notes"] and self._files_were_cut()):
            promise(told == true, "every failed or warned row is told of, at its place", told - true, true - told)
        else:
            placed = Counter({row: count for row, count in told.items() if row[1] is not None})
            promise(not placed - true, "no wrong row is named", placed - true)
        expected = 0 if totals["imported"] == totals["rows"] else 3
        if not any(record.standing.state is State.HELD for record in records):
            promise(result.exit_code == report["exit_code"] == expected, "the exit code is right", result.exit_code)

    def _files_were_cut(self) -> bool:
        return any(fault.endswith("cut silently") for fault in self.model.faults.injected)

    def _check_again(self) -> None:
        """The same command once more sends nothing."""
        calls = sum(self.model.calls.values())
        again = self._life(Life())
        promise(again is not None and again.already_finished, "a finished load is not loaded again")
        promise(sum(self.model.calls.values()) == calls, "a finished load asks Marketo nothing")

    def _check_secrets(self) -> None:
        content = self.config.ledger_path.read_bytes()
        promise(SECRET.encode() not in content, "no secret is in the ledger")
        promise(b"@example" not in content, "no lead is in the ledger")


def _expected(error: BaseException) -> OrchestratorError | None:
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _expected(inner)) is not None), None)
    return error if isinstance(error, OrchestratorError) else None


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=RAM if RAM.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Without logs: a thousand loads would say a lot."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.reset_defaults()


def play(
    seed: int,
    change: Callable[[Scenario], Scenario] = lambda scenario: scenario,
    open: Callable[[Path], Any] = connect,
) -> Outcome:
    """Run one seed and check it. Raises BrokenPromise."""
    with _folder() as folder, quiet():
        simulation = Simulation(change(Scenario.of(seed)), folder, open)
        simulation.check(simulation.run())
        return simulation.outcome
