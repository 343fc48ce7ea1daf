"""Whole loads of the real code from seeds, under faults and crashes; and bugs on purpose, which must be found."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import anyio
import pytest
from simulation import play as simulation
from simulation import reached, storage
from simulation.planted import PLANTED, SHOWN_BY
from simulation.play import play
from simulation.promises import BrokenPromise
from simulation.scenario import Command, Network, Scenario

from orchestrator.adapters.marketo import Marketo, ResultFile
from orchestrator.core.model import BatchId, Poll, Target
from orchestrator.core.verdicts import Failed, Outcome
from orchestrator.library import StopRequest
from orchestrator.runner.following import Following

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "3000"))
SEEDS_A_TEST = 100
SEEDS_FOR_A_BUG = 400
SAME = range(16)
STORAGE_SEED = 3

Record = Callable[[str, object], None]


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_no_seed_breaks_a_promise(
    first: int, record_property: Record, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows once, slots kept, doubts told, reports true: whatever the network, Marketo, the disk and processes do.

    Whoever comes last of these tests looks whether all seeds together met what they used to meet.
    """
    hours = crashes = faults = 0.0
    met = Counter[str]()
    for seed in range(first, first + SEEDS_A_TEST):
        try:
            outcome = play(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error} (again: make sim SEED={seed})") from error
        hours += outcome.virtual_s / 3600
        crashes += outcome.crashes.total()
        faults += outcome.faults.total()
        met.update(set(outcome.reached))
    record_property("seeds", SEEDS_A_TEST)
    record_property("virtual hours", round(hours))
    record_property("sampled crashes", int(crashes))
    record_property("faults", int(faults))
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    (shared / f"reached-{first}.json").write_text(json.dumps(met))
    told = list(shared.glob("reached-*.json"))
    if len(told) >= 30 == SEEDS // SEEDS_A_TEST:
        every = sum((Counter(json.loads(path.read_text())) for path in told), Counter[str]())
        assert reached.missing(every) == []


def test_the_same_seed_is_the_same_run() -> None:
    """A failure that cannot be repeated cannot be mended: in one process, and in others with other hash seeds."""
    script = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "from simulation.play import play\n"
        f"for seed in range({SAME.stop}): print(hashlib.sha256(repr(play(seed).trace).encode()).hexdigest())\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent.parent)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for hash_seed in ("0", "1", "4711")
    ]
    assert len(runs[0]) == len(SAME)
    assert runs[0] == runs[1] == runs[2]


# --- every point of a load may be its last ----------------------------------------------------------------


def calm(scenario: Scenario) -> None:
    """One short load in which nothing goes wrong but what is put in."""
    scenario.alone()
    scenario.rows = [9]
    scenario.heal_at = scenario.storage = scenario.locked = 0.0
    scenario.foreign, scenario.list_id, scenario.on_doubt, scenario.queued_jobs = [], None, "resend", 3
    scenario.network, scenario.calls_at_once, scenario.calls_per_20s = Network(), 5, 50
    scenario.settings = replace(
        scenario.settings,
        failing_jobs=frozenset(),
        poison=None,
        file_limit=10_000_000,
        queue_limit=10,
        seconds_per_job=10.0,
        token_life=3600.0,
        requote=True,
    )


def poison(scenario: Scenario) -> None:
    scenario.settings = replace(scenario.settings, poison="lead7@example.com")


def halving(scenario: Scenario) -> None:
    scenario.settings = replace(scenario.settings, file_limit=700)


def doubts(scenario: Scenario) -> None:
    scenario.network, scenario.heal_at, scenario.rows = Network(lose=0.3), 600.0, [14]
    scenario.rates, scenario.kinds = {"create": 0.3}, frozenset({"drop after", "http 502 after", "no result"})


def held(scenario: Scenario) -> None:
    doubts(scenario)
    scenario.on_doubt = "stop"


def into_a_list(scenario: Scenario) -> None:
    scenario.list_id = 1001
    scenario.settings = replace(scenario.settings, list_busy="queued")


def broken_batches(scenario: Scenario) -> None:
    scenario.settings = replace(scenario.settings, failing_jobs=frozenset({1, 2, 4}))


def two_loads(scenario: Scenario) -> None:
    """The one that dies stays away: the other one has one slot to get back."""
    scenario.rows, scenario.queued_jobs = [9, 9], 1
    scenario.commands = [Command(away=True), Command(source=1, at=1.0)]


def the_same_load_twice(scenario: Scenario) -> None:
    scenario.commands = [Command(), Command(at=0.2)]


KINDS_OF_LOADS = [
    calm,
    poison,
    halving,
    doubts,
    held,
    into_a_list,
    broken_batches,
    two_loads,
    the_same_load_twice,
]
EXACT = {calm, halving, into_a_list, two_loads, the_same_load_twice}
"""Where the reports must not differ by a byte from those of a run without a crash, as long as no doubt arose."""
SEEDS_A_KIND = 2


@pytest.mark.parametrize("seed", range(SEEDS_A_KIND))
@pytest.mark.parametrize("kind", KINDS_OF_LOADS)
def test_every_point_of_a_load_may_be_its_last(
    kind: Callable[[Scenario], None], seed: int, record_property: Record
) -> None:
    """Crashes are enumerated, not sampled: before and after every commit and request, and within every answer."""

    def crashing(crashes: list[int]) -> Callable[[Scenario], None]:
        def change(scenario: Scenario) -> None:
            calm(scenario)
            kind(scenario)
            scenario.commands[0].crashes = crashes

        return change

    smooth = play(seed, crashing([]))
    assert smooth.points > 20
    for point in range(1, smooth.points + 1):
        again = [point, 1 + point % 20] if point % 5 == 0 else [point]  # each fifth dies in its recovery as well
        try:
            outcome = play(seed, crashing(again))
            assert kind not in EXACT or outcome.doubts or outcome.told == smooth.told, "the report is another one"
        except BaseException as error:
            raise AssertionError(f"{kind.__name__}, seed {seed}, crashes {again}: {error}") from error
    record_property("crash points", smooth.points)


def test_a_load_may_be_stopped_at_once_after_every_crash(record_property: Record) -> None:
    """What is left to do is done by the next run, also where only rows that failed by accident are left to go again."""

    def crashing(crashes: list[int]) -> Callable[[Scenario], None]:
        def change(scenario: Scenario) -> None:
            calm(scenario)
            scenario.settings = replace(scenario.settings, transient_share=0.6, transient_tries=1)
            scenario.commands = [Command(crashes=crashes, stops=[5000.0, 0.05])]

        return change

    smooth = play(0, crashing([]))
    for point in range(1, smooth.points + 1):
        try:
            outcome = play(0, crashing([point]))
            assert outcome.doubts or outcome.told == smooth.told, "the report is another one"
        except BaseException as error:
            raise AssertionError(f"crash {point}: {error}") from error
    record_property("crash points", smooth.points)


def test_a_load_that_is_stopped_while_it_looks_after_another_is_not_over() -> None:
    """All its own chunks are at rest then, and it has not looked yet which of their rows are to go again."""
    real, requests, stopped = Following.poll, list[StopRequest](), set[int]()

    def accidental(scenario: Scenario) -> None:
        calm(scenario)
        scenario.settings = replace(scenario.settings, transient_share=0.6, transient_tries=1)
        scenario.rows = [40, 20]
        scenario.commands = [Command(0, crashes=[100], away=True), Command(1)]

    def request() -> StopRequest:
        requests.append(StopRequest())
        return requests[-1]

    async def stopping(self: Following, action: Poll) -> None:
        if action.load_id != self._books._load.id and seed not in stopped:
            stopped.add(seed)
            while self._books.unfinished:  # noqa: ASYNC110 the answer is long in coming
                await anyio.sleep(1.0)
            requests[-1].set(143)
        await real(self, action)

    with patch.object(Following, "poll", stopping), patch.object(simulation, "StopRequest", request):
        for seed in range(10):
            play(seed, accidental)
    assert len(stopped) > 3


def rejected(command: Command, kinds: frozenset[str] = frozenset({"code 601"})) -> Callable[[Scenario], None]:
    """The token of the only upload is rejected, and another one is long in coming."""

    def change(scenario: Scenario) -> None:
        calm(scenario)
        scenario.rows, scenario.commands = [2], [command]
        scenario.settings = replace(scenario.settings, token_life=61.0)
        scenario.rates, scenario.kinds, scenario.heal_at = {"create": 1.0}, kinds, 15.0

    return change


def test_a_stop_while_a_rejected_token_is_waited_out_makes_no_doubt() -> None:
    """An upload whose token was rejected was not executed: no slot is held for it, and nobody is told of a doubt."""
    outcome = play(0, rejected(Command(stop_in_upload=1)))
    assert outcome.stops["interrupted"] == 1
    assert outcome.faults["create: code 601"] == 1
    assert outcome.doubts == 0


def test_a_crash_while_a_rejected_token_is_waited_out_makes_no_doubt(record_property: Record) -> None:
    """Its two uploads can be doubted in as many places as two uploads can, and in none between."""
    doubted, tried = list[int](), 0
    for kinds in (frozenset[str](), frozenset({"code 601"})):
        points = play(0, rejected(Command(), kinds)).points
        crashed = [play(0, rejected(Command(crashes=[point]), kinds)) for point in range(1, points + 1)]
        doubted.append(sum(outcome.doubts for outcome in crashed))
        tried += points
    record_property("crash points", tried)
    one_upload, two_uploads = doubted
    assert two_uploads == 2 * one_upload > 0


@pytest.mark.parametrize("stopped_at", [5.0, 60.0, 90.0, 120.0, 150.0])
def test_a_stop_while_it_is_asked_why_uploads_are_cut_makes_no_doubt(stopped_at: float) -> None:
    """An upload that was cut in its midst was not executed, however long the question takes that follows."""

    def cut(scenario: Scenario) -> None:
        calm(scenario)
        scenario.commands = [Command(stops=[stopped_at])]
        scenario.settings = replace(scenario.settings, file_limit=600)
        scenario.network = Network(early_reset=True)

    asked = 0

    async def silent(self: Marketo, token: str) -> Outcome:
        nonlocal asked
        asked += 1
        if asked > 6:
            return await self.get(token, "/rest/v1/stats/usage.json")
        await anyio.sleep(60.0)
        return Failed("no answer")

    with patch.object(Marketo, "usage", silent):
        outcome = play(0, cut)
    assert outcome.stops["interrupted"] == 1
    assert asked > 2
    assert outcome.doubts == 0


def test_a_file_that_was_missing_and_then_came_empty_is_asked_for_again() -> None:
    """Unlike troubles are not added up: a file that is too short is believed the fourth time, not the first."""
    real, asked = Marketo.result_file, 0

    async def forgetful(
        self: Marketo, token: str, target: Target, batch_id: BatchId, which: ResultFile, save_to: Path
    ) -> Outcome:
        nonlocal asked
        asked += 1
        if asked <= 4:
            return Failed("HTTP 404", 404, body_sent=True)
        outcome = await real(self, token, target, batch_id, which, save_to)
        if asked == 5:
            save_to.write_bytes(b"")  # noqa: ASYNC240 in RAM
        return outcome

    with patch.object(Marketo, "result_file", forgetful):
        play(0, calm)  # every failed row is told of
    assert asked > 5


@pytest.mark.parametrize(
    ("for_good", "full", "first"),
    [*((False, False, first) for first in (1, 2, 3, 4)), (True, False, 2), (False, True, 3), (True, True, 4)],
)
def test_every_write_and_every_sync_of_the_ledger_may_fail(
    for_good: bool, full: bool, first: int, record_property: Record
) -> None:
    """What is not durable is not sent; what was durable stays; the same command goes on when the disk is well.

    Every operation fails once; in each of the other ways every twelfth one does.
    """
    disk = storage.DISK
    disk.fail_at = None
    disk.operations = 0
    play(STORAGE_SEED, calm, storage.Connection)
    operations = disk.operations
    assert operations > 60

    class Mended(storage.Connection):
        """A new process comes after the disk was mended."""

        def __init__(self, path: Path) -> None:
            if disk.failures:
                disk.fail_at = None
            super().__init__(path)

    failing = range(first, operations + 1, 12 if for_good or full else 4)
    for operation in failing:
        disk.fail_at, disk.for_good, disk.full, disk.operations, disk.failures = operation, for_good, full, 0, 0
        try:
            play(STORAGE_SEED, calm, Mended)
        except BaseException as error:
            raise AssertionError(f"operation {operation}: {error}") from error
        assert disk.failures > 0
    record_property("storage faults", len(failing))


# --- bugs on purpose --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_a_planted_bug_is_found(bug: str, record_property: Record) -> None:
    """A simulation that finds nothing proves nothing."""
    record_property("planted bugs", 1)
    shown_by = SHOWN_BY.get(bug, lambda _: None)
    for seed in range(SEEDS_FOR_A_BUG):
        try:
            with PLANTED[bug]():
                play(seed, shown_by)
        except (BrokenPromise, AssertionError, sqlite3.IntegrityError):
            break
    else:
        pytest.fail(f"{bug!r} was not found in {SEEDS_FOR_A_BUG} seeds")
    play(seed, shown_by)  # without the bug nothing is broken: it is the bug that was found
