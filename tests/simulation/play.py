"""Plays one seed: processes in one world, each of which may die on its own, until every load is over.

Every process has an event loop of its own; all of them live in one virtual time, on one ledger and one Marketo, and are
stepped in the order in which they have something to do. What must be true in the end is checked by `promises`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import structlog
from simulation.files import Files
from simulation.promises import DAY_S, BrokenPromise, check, promise
from simulation.scenario import SECRET, Command, Scenario, leads
from simulation.virtual import SteppedLoop, VirtualClock, drop, forget, inline_threads
from simulation.watched import Calls, intent_is_durable
from simulation.world import Acts, Crash, DyingConnection, Kernel, Life, SimulatedTransport

from orchestrator import library
from orchestrator.adapters.ledger import Ledger, connect
from orchestrator.config import Config, load_config
from orchestrator.core.lifecycle import AT_REST
from orchestrator.core.model import State
from orchestrator.errors import InternalFault, LedgerFailing, LedgerLocked, LoadBusy, OrchestratorError
from orchestrator.library import LoadResult, StopRequest, World
from orchestrator.planning import LoadOptions
from orchestrator.simulator.model import Marketo

LEASE_S = 2400.0
"""Longer than any job is in the model's queue: ten of 300 seconds, two at a time, are done in 1,500."""
LIVES_MAX = 80
BATCHES_MAX = 300
RAM = Path("/dev/shm")
NEVER = float("inf")
E = TypeVar("E", bound=BaseException)


@dataclass
class Outcome:
    """What a seed came to, and what it went through."""

    seed: int
    virtual_s: float = 0.0
    lives: int = 0
    crashes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    """Fault and the states of chunks it met; what loads and chunks came to."""
    calls: int = 0
    doubts: int = 0
    points: int = 0
    """Points of the first command's first life: where it could have died."""
    healed_s: float = 0.0
    """From the end of all faults and interruptions to the end of all loads."""
    told: tuple[Any, ...] = ()
    """What the reports say."""
    trace: tuple[Any, ...] = ()


@dataclass
class Process:
    """One process under way."""

    command: Command
    life: Life
    loop: SteppedLoop
    main: Any
    began_at: float


class Simulation:
    """Runs one scenario in a folder of its own."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        open: Callable[[Path], Any] = connect,
        files: Files | None = None,
    ) -> None:
        self.scenario, self.folder, self._open = scenario, folder, open
        self.model = Marketo(scenario.settings)
        self.model.faults.rates.update(scenario.rates)
        self.model.faults.kinds = scenario.kinds
        self.model.faults.meets = self._meeting(self.model.faults.meets)  # type: ignore[method-assign, assignment]
        self.rng = Random(scenario.seed + 1)
        self.time = 0.0
        self.healed_at = max(scenario.heal_at, scenario.amnesia[1] if scenario.amnesia else 0.0)
        """When the last fault or interruption was."""
        self.outcome = Outcome(scenario.seed)
        self.sources = [folder / f"leads{number or ''}.csv" for number in range(len(scenario.rows))]
        for number, source in enumerate(self.sources):
            source.write_bytes(self._leads(number))
        self.kernel, self.acts = Kernel(), Acts()
        self.files = files or Files(Path())
        self.files.root, self.files.point = folder / "reports", lambda name: self.kernel.running.point(name)
        self._foreign = sorted(scenario.foreign, reverse=True)
        self._waiting: list[tuple[float, Command]] = [(command.at, command) for command in scenario.commands]
        self._alive: list[Process] = []
        self._lives: Counter[int] = Counter()
        self._dropped: list[asyncio.Task[Any]] = []
        self.results: list[LoadResult] = []
        self._states: list[str] = []
        self.config = self._config()

    def _leads(self, number: int) -> bytes:
        scenario = self.scenario
        rng, rows = Random(scenario.seed + 2), scenario.rows[number]
        return leads(rng, rows, number, scenario.shared, scenario.shared_keys)

    def _config(self) -> Config:
        environment = {
            "MARKETO__BASE_URL": "http://127.0.0.1:1",
            "MARKETO__CLIENT_ID": "client",
            "MARKETO__CLIENT_SECRET": SECRET,
            "LIMITS__CHUNK_BYTES": "1000",
            "LIMITS__QUEUED_JOBS": str(self.scenario.queued_jobs),
            "LIMITS__DOUBT_LEASE": f"{LEASE_S:.0f}",
            "LIMITS__CONCURRENT_CALLS": str(self.scenario.calls_at_once),
            "LIMITS__CALLS_PER_20S": str(self.scenario.calls_per_20s),
            "STATE__LEDGER": f"sqlite:///{self.folder / 'ledger.db'}",
            "REPORT__DIR": str(self.folder / "reports"),
        }
        if self.scenario.list_id is not None:
            environment["IMPORT__LIST_ID"] = str(self.scenario.list_id)
        return load_config(None, {f"ORCHESTRATOR_{name}": value for name, value in environment.items()}, {})

    # --- lives ------------------------------------------------------------------------------------------

    def run(self) -> list[LoadResult]:
        """The commands, each given again until its load is over; how they ended."""
        with inline_threads(), self.kernel.locks(), self.files.watched():
            try:
                while self._waiting or self._alive:
                    self._go_on()
            finally:
                for process in [*self._alive]:
                    self._gone(process)
        self.outcome.virtual_s = self.time
        self.outcome.healed_s = max(0.0, self.time - self.healed_at)
        return self.results

    def again(self, source: int) -> LoadResult:
        """The same command once more, after the end."""
        self.results.clear()
        self._waiting = [(self.time, Command(source))]
        (result,) = self.run()
        return result

    def end(self) -> None:
        """Let go of all that processes have left: until now to collect it would have run it."""
        with inline_threads():
            forget(self._dropped)

    def _go_on(self) -> None:
        """Whoever has something to do first does it; among several, chance decides."""
        due: list[tuple[float, Process | None, Command]] = [(at, None, command) for at, command in self._waiting]
        due += [(process.loop.due(), process, process.command) for process in self._alive]
        at = min(one[0] for one in due)
        if at == NEVER and not self._alive:  # who went away comes back when all others are done
            at = self.time + 60.0
            self._waiting = [(at, command) for _, command in self._waiting]
            return
        promise(at < NEVER, "the load ends", "every task waits and no timer is left")
        self.time = max(self.time, at)
        first = [one for one in due if one[0] <= self.time]
        _, process, command = first[0] if len(first) == 1 else self.rng.choice(first)
        if process is None:
            self._waiting.remove(next(one for one in self._waiting if one[1] is command))
            self._start(command)
            return
        promise(self.time <= self._ends_by(), "what has healed ends soon", f"still running at {self.time:.0f} s")
        self.kernel.running = process.life
        try:
            process.loop.step()
        except Crash:
            self._died(process)
        else:
            if process.main.done():
                self._done(process)

    def _ends_by(self) -> float:
        """When all must be over that nothing disturbs any more.

        Every batch may be waited for in turn, every doubt for its lease, and a hanging upload for its deadline before.
        """
        scenario = self.scenario
        batches = len(self.model.jobs) + sum(scenario.rows) / 3
        foreign_s = sum(count * seconds for _, count, seconds in scenario.foreign)
        patience_s = LEASE_S + 3600.0 + foreign_s + batches * (scenario.settings.seconds_per_job + 90.0)
        return self.healed_at + patience_s

    def _start(self, command: Command) -> None:
        number = self.scenario.commands.index(command) if command in self.scenario.commands else -1
        lives = self._lives[number]
        self._lives[number] += 1
        self.outcome.lives += 1
        promise(lives < LIVES_MAX, "the load ends", f"{LIVES_MAX} lives were not enough")
        crash_at = command.crashes[lives] if lives < len(command.crashes) else None
        self.healed_at = max(self.healed_at, self.time)
        if self.files.failures:  # a new process comes after the disk was mended
            self.files.fail_at = None
        stop, uploads = StopRequest(), itertools.count(1)

        def executed() -> None:
            if lives == 0 and next(uploads) == command.stop_in_upload:
                stop.set(143)

        life = Life(crash_at, f"process {self.outcome.lives} of command {number}")
        config = self.config
        transport = SimulatedTransport(
            self.model,
            self.scenario.network,
            self.rng,
            life,
            self._now,
            intent_is_durable(config.ledger_path, config.limits.queued_jobs, self.sources[command.source]),
            self._met,
            Calls(config.limits.concurrent_calls, config.limits.calls_per_20s),
            executed,
        )
        loop = SteppedLoop(lambda: self.time)

        def connected(path: Path) -> Any:
            return DyingConnection(path, life, self._storage_fault, self._open, self.acts)

        world = World(clock=VirtualClock(), rng=self.rng, transport=transport, connect=connected, lag_every_s=None)  # type: ignore[arg-type]
        options = LoadOptions(
            target=config.target(),
            on_doubt=self.scenario.on_doubt,  # type: ignore[arg-type]
            on_duplicate=self.scenario.on_duplicate,  # type: ignore[arg-type]
        )
        self.kernel.running = life
        main = loop.create_task(
            library.load(config, self.sources[command.source], options, stop=stop, world=world),
            context=contextvars.Context(),
        )
        if lives < len(command.stops):
            loop.call_at(self.time + command.stops[lives], stop.set, 143, context=contextvars.Context())
        self._alive.append(Process(command, life, loop, main, self.time))

    def _died(self, process: Process) -> None:
        assert process.life.dead
        self.outcome.crashes[process.life.died_at] += 1
        if process.life.died_at != "power cut":
            self._met(f"death: {process.life.died_at}", count=False)
        self._gone(process)
        if process.command.away:
            self._waiting.append((NEVER, process.command))
        else:
            self._again_later(process)

    def _done(self, process: Process) -> None:
        """It ended by itself: with its load, or with an expected error."""
        error, result = process.main.exception(), None
        expected = None if error is None else _found(error, OrchestratorError)
        if error is not None and (broken := _found(error, BrokenPromise)) is not None:
            raise broken
        if error is None:
            result = process.main.result()
        self._check_left(process, expected if result is None else result.stopped)
        self._gone(process)
        if error is not None:
            sound = expected is not None and not isinstance(expected, InternalFault)
            promise(sound, "no fault of ours", repr(error))
            self.outcome.stops[type(expected).__name__] += 1
            promise(
                not isinstance(expected, LoadBusy) or len(self.scenario.commands) > 1, "nobody else runs it", expected
            )
        if result is None or result.interrupted:
            self.outcome.stops["interrupted"] += result is not None
            self._again_later(process)
        elif result.stopped is not None:
            self.outcome.stops[type(result.stopped).__name__] += 1
            if self._is_held(result):
                self.results.append(result)
            else:
                self._again_later(process)
        else:
            self.results.append(result)

    def _again_later(self, process: Process) -> None:
        self._waiting.append((self.time + self.rng.choice([1.0, 30.0, 600.0, 7200.0]), process.command))

    def _check_left(self, process: Process, ended: BaseException | None) -> None:
        """What an ended process leaves behind: no task, no lock, no upload of which nobody knows what became of it."""
        # What closes a generator that nobody reads any more is a task of asyncio's own: its runner waits for it.
        left = [
            task for task in asyncio.all_tasks(process.loop) if not task.done() and inspect.iscoroutine(task.get_coro())
        ]
        promise(not left, "no task outlives its command", *left)
        promise(not any(owned.held for owned in process.life.owned.values()), "no lock outlives its command")
        offered = [chunk for chunk, kind in process.life.newest.items() if kind == "Offered"]
        if offered and not isinstance(ended, LedgerFailing | LedgerLocked):
            promise(False, "what became of every upload is written down before a process ends", *offered)

    def _gone(self, process: Process) -> None:
        self.healed_at = max(self.healed_at, self.time)
        self._alive.remove(process)
        if process.command is self.scenario.commands[0]:
            self.outcome.points = self.outcome.points or process.life.points
        process.life.end()
        self.model.in_flight -= process.life.in_flight
        self._dropped += drop(process.loop)
        if self.scenario.power:
            self.files.cut(self.rng)

    def _is_held(self, result: LoadResult) -> bool:
        with Ledger(self.config.ledger_path) as ledger:
            states = {state for state, count in ledger.chunks_by_state(result.load.id).items() if count}
            return State.HELD in states and states <= AT_REST

    # --- what goes wrong --------------------------------------------------------------------------------

    def _now(self) -> float:
        now = self.time
        promise(len(self.model.jobs) < BATCHES_MAX, "the load ends", f"{BATCHES_MAX} batches were not enough")
        while self._foreign and self._foreign[-1][0] <= now:
            at, count, seconds = self._foreign.pop()
            self.model.occupy(count, max(at, self.model.now), seconds)
        if self.scenario.amnesia is not None:
            begins, ends = self.scenario.amnesia
            self.model.settings.batch_life = 0.0 if begins <= now < ends else 7 * DAY_S
        if now >= self.scenario.heal_at and self.model.faults.rates:
            self.model.faults.rates.clear()
            self.scenario.network.heal()
        return now

    def _storage_fault(self, sql: str) -> str | None:
        if self.time >= self.scenario.heal_at:
            return None
        if sql == "COMMIT" and self.scenario.storage and self.rng.random() < self.scenario.storage:
            self._met("storage: commit failed")
            return "disk I/O error"
        if sql == "BEGIN IMMEDIATE" and self.scenario.locked and self.rng.random() < self.scenario.locked:
            self._met("storage: locked")
            return "database is locked"
        return None

    def _meeting(self, meets: Callable[[str], str | None]) -> Callable[[str], str | None]:
        def noted(kind: str) -> str | None:
            fault = meets(kind)
            if fault is not None:
                self._met(f"{kind}: {fault}", count=False)  # the model counts its own
            return fault

        return noted

    def _met(self, fault: str, *, count: bool = True) -> None:
        """A fault met a call, or a process: how did the chunks stand then?"""
        self.outcome.faults[fault] += count
        if self.kernel.running.connections:
            self._states = self.kernel.running.connections[0].states(self.kernel.running.asks)
        self.outcome.reached.update(f"{fault} @ {state}" for state in self._states)


def _found(error: BaseException, kind: type[E]) -> E | None:
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _found(inner, kind)) is not None), None)
    return error if isinstance(error, kind) else None


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="simulation-", dir=RAM if RAM.is_dir() else None))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _listen(logger: Any, method: str, event: Any) -> Any:
    """Hears everything that is logged, and keeps none of it."""
    text = str(event)
    promise(SECRET not in text, "no secret is in a log", text)
    promise("@example" not in text, "no lead is in a log", text)
    raise structlog.DropEvent


@contextmanager
def quiet() -> Iterator[None]:
    """Without logs: a thousand loads would say a lot. Nor of what dead processes have left open."""
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, _listen])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", "coroutine method 'aclose'", RuntimeWarning)
        try:
            yield
        finally:
            structlog.reset_defaults()


def play(
    seed: int,
    change: Callable[[Scenario], None] = lambda scenario: None,
    open: Callable[[Path], Any] = connect,
    files: Files | None = None,
) -> Outcome:
    """Run one seed and check it. Raises BrokenPromise."""
    scenario = Scenario.of(seed)
    change(scenario)
    with folder() as here, quiet():
        simulation = Simulation(scenario, here, open, files)
        try:
            simulation.run()
            check(simulation)
        finally:
            simulation.end()
        return simulation.outcome
