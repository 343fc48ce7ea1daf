"""Bugs, switched on one by one: the simulation is worth what it finds. Never shipped, never left on.

Each is a mistake that a loader of this kind has made or could make; `PLANTED` names it in the words of its author.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from random import Random
from typing import Any
from unittest.mock import patch

from simulation.scenario import Command, Scenario

from orchestrator import caller, library, planning
from orchestrator.adapters import locks, render
from orchestrator.adapters.files import plan_file
from orchestrator.adapters.ledger import Ledger
from orchestrator.core import isolate, lifecycle, report, schedule, twins
from orchestrator.core.again import Later, may_go_again
from orchestrator.core.answers import BatchStatus, status_of
from orchestrator.core.model import (
    Accepted,
    AnswerLost,
    Chunk,
    ChunkRecord,
    CollectedFile,
    Counts,
    Deferred,
    DoubtEnded,
    Ended,
    Fact,
    Format,
    Halved,
    Offered,
    Standing,
    State,
    Totals,
)
from orchestrator.core.plan import halve
from orchestrator.core.report import Account, entries_of_chunk
from orchestrator.core.runs import Entry, PlainRun
from orchestrator.core.schedule import Limits, next_actions
from orchestrator.core.verdicts import Answered, CallKind, Outcome, Ruling, Verdict, judge
from orchestrator.errors import IllegalTransition
from orchestrator.runner import following, halving, loop, resending
from orchestrator.runner.books import Books
from orchestrator.runner.following import Following
from orchestrator.runner.offering import Offering

Bug = Callable[[], AbstractContextManager[Any]]
PLANTED: dict[str, Bug] = {}
SHOWN_BY: dict[str, Callable[[Scenario], None]] = {}


def planted(name: str, shown_by: Callable[[Scenario], None] | None = None) -> Callable[[Bug], Bug]:
    """shown_by: what makes of any seed one that can show the bug, where few seeds can."""

    def add(bug: Bug) -> Bug:
        PLANTED[name] = bug
        if shown_by is not None:
            SHOWN_BY[name] = shown_by
        return bug

    return add


def _judged(change: Callable[[Ruling, Outcome, CallKind], Ruling]) -> AbstractContextManager[Any]:
    return patch.object(caller, "judge", lambda outcome, kind: change(judge(outcome, kind), outcome, kind))


def _status(change: Callable[[BatchStatus], BatchStatus]) -> AbstractContextManager[Any]:
    def changed(answer: Answered, batch_id: Any) -> BatchStatus | None:
        status = status_of(answer, batch_id)
        return None if status is None else change(status)

    return patch.object(following, "status_of", changed)


def _limits(change: Callable[[Limits], Limits]) -> AbstractContextManager[Any]:
    limits = library._limits
    return patch.object(library, "_limits", lambda config: change(limits(config)))


@contextmanager
def _both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


def _recorded(change: Callable[[Fact], Fact]) -> AbstractContextManager[Any]:
    record = Ledger.record
    return patch.object(
        Ledger, "record", lambda self, load_id, number, fact: record(self, load_id, number, change(fact))
    )


def _answered(kind: str, fault: str) -> Callable[[Scenario], None]:
    """Many calls of a kind meet one fault."""

    def change(scenario: Scenario) -> None:
        scenario.rates[kind], scenario.kinds = 0.3, frozenset([fault])
        scenario.heal_at = max(scenario.heal_at, 1800.0)

    return change


def _broken_instance(scenario: Scenario) -> None:
    """Whatever is sent fails."""
    scenario.settings.failing_jobs, scenario.settings.seconds_per_job = frozenset(range(1, 1000)), 10.0


def _dies_over_and_over(scenario: Scenario) -> None:
    """Also while an upload is under way."""
    scenario.alone()
    scenario.commands[0].crashes = [scenario.seed % 40 + 15] * 6


def _first_goes_away(scenario: Scenario) -> None:
    """Whoever came first dies in mid-load, and comes back only when the other is done."""
    scenario.rows, scenario.queued_jobs = [40, 40], 2
    scenario.commands = [Command(0, crashes=[scenario.seed % 100 + 60], away=True), Command(1)]


# --- sending --------------------------------------------------------------------------------------------


@planted("an upload without an answer is simply sent again")
def _() -> AbstractContextManager[Any]:
    def change(ruling: Ruling, _: Outcome, __: CallKind) -> Ruling:
        return replace(ruling, verdict=Verdict.ASK_AGAIN) if ruling.verdict is Verdict.DOUBT else ruling

    return _judged(change)


@planted("after a crash, what was under way counts as not sent", shown_by=_dies_over_and_over)
def _() -> AbstractContextManager[Any]:
    def change(fact: Fact) -> Fact:
        is_restart = isinstance(fact, AnswerLost) and "process ended" in fact.why
        return Deferred(fact.at, fact.at, "restart") if is_restart else fact

    return _recorded(change)


@planted("a doubt is over at once")
def _() -> AbstractContextManager[Any]:
    return patch.object(schedule, "fence_passed", lambda *_: True)


@planted("the lease of a doubt is a second")
def _() -> AbstractContextManager[Any]:
    return _limits(lambda limits: replace(limits, doubt_lease_s=1.0))


@planted("the fence believes one batch", lambda scenario: scenario.lose_answers(Random(scenario.seed)))
def _() -> AbstractContextManager[Any]:
    return patch.object(schedule, "PROCESSORS", 1)


@planted("slots are not counted")
def _() -> AbstractContextManager[Any]:
    return _limits(lambda limits: replace(limits, queued_jobs=10))


@planted("a doubt gives its slot back")
def _() -> AbstractContextManager[Any]:
    return patch.object(lifecycle, "HOLDS_SLOT", lifecycle.HOLDS_SLOT - {State.DOUBTFUL})


@planted("the intent is kept in memory until the answer is there")
@contextmanager
def _() -> Iterator[None]:
    claim, record = Ledger.claim, Ledger.record

    def claim_later(self: Ledger, load_id: Any, number: Any, at: float, limit: int) -> Standing:
        return lifecycle.apply(self.standing(load_id, number), Offered(at, 1))

    def record_both(self: Ledger, load_id: Any, number: Any, fact: Fact) -> Standing:
        if self.standing(load_id, number).state is State.PLANNED:
            claim(self, load_id, number, fact.at, 10)
        return record(self, load_id, number, fact)

    with patch.object(Ledger, "claim", claim_later), patch.object(Ledger, "record", record_both):
        yield


@planted("batches under way are forgotten at a restart")
def _() -> AbstractContextManager[Any]:
    opened = Books.open

    async def forgetting(self: Books) -> None:
        forget = "UPDATE chunks SET state = 'planned', slot = NULL WHERE state IN ('queued', 'importing')"
        with self.ledger._transaction():
            self.ledger._db.execute(forget)
        await opened(self)

    return patch.object(Books, "open", forgetting)


@planted("every chunk takes the first slot")
def _() -> AbstractContextManager[Any]:
    record = Ledger._record

    def first(self: Ledger, before: Standing, fact: Fact) -> Standing:
        return record(self, before, replace(fact, slot=1) if isinstance(fact, Offered) else fact)

    return patch.object(Ledger, "_record", first)


@planted("the budget is overdrawn by a header")
def _() -> AbstractContextManager[Any]:
    def generous(path: Any, *, budget: int, **others: Any) -> Any:
        return plan_file(path, budget=budget + 40, **others)

    return patch.object(planning, "plan_file", generous)


@planted("both halves of a chunk are its first half")
def _() -> AbstractContextManager[Any]:
    def same(chunk: Chunk, header: bytes, rows: bytes, format: Format) -> tuple[Chunk, Chunk]:
        first, second = halve(chunk, header, rows, format)
        return first, replace(first, number=second.number, spans=(replace(first.spans[0], rows=second.rows),))

    return patch.object(halving, "halve", same)


@planted("a chunk that is too large is given up")
def _() -> AbstractContextManager[Any]:
    def change(ruling: Ruling, _: Outcome, __: CallKind) -> Ruling:
        return replace(ruling, verdict=Verdict.GIVE_UP_CHUNK) if ruling.verdict is Verdict.HALVE else ruling

    return _judged(change)


@planted("one slot more than there are")
def _() -> AbstractContextManager[Any]:
    claim = Ledger.claim

    def one_more(self: Ledger, load_id: Any, number: Any, at: float, limit: int) -> Standing | None:
        return claim(self, load_id, number, at, limit + 1)

    return _both(
        patch.object(Ledger, "claim", one_more),
        _limits(lambda limits: replace(limits, queued_jobs=min(10, limits.queued_jobs + 1))),
    )


@planted("a stop ends uploads as if they had not been sent")
def _() -> AbstractContextManager[Any]:
    async def at_once(self: loop.Runner) -> None:
        for load_id, number in list(self._offering.under_way):
            with suppress(IllegalTransition):
                now = self._clock.now()
                await self._books.ask(self._ledger.record, load_id, number, Deferred(now, now, "stopped"))

    return patch.object(loop.Runner, "_drain", at_once)


@planted("a stop leaves uploads to the next process")
def _() -> AbstractContextManager[Any]:
    async def at_once(self: loop.Runner) -> None:
        pass

    return patch.object(loop.Runner, "_drain", at_once)


@planted("what the operator wanted held is sent again")
def _() -> AbstractContextManager[Any]:
    return _recorded(lambda fact: replace(fact, resend=True) if isinstance(fact, DoubtEnded) else fact)


# --- rows that share a key ------------------------------------------------------------------------------


def _few_keys(scenario: Scenario) -> None:
    """Most rows share their keys, and some keys need several chunks."""
    scenario.shared, scenario.shared_keys, scenario.on_duplicate = 0.9, 2, "together"
    scenario.rows = [max(40, rows) for rows in scenario.rows]


def _few_keys_and_accidents(scenario: Scenario) -> None:
    _few_keys(scenario)
    scenario.settings.transient_share, scenario.settings.transient_tries = 0.3, 1


def _only_the_last(scenario: Scenario) -> None:
    _few_keys(scenario)
    scenario.on_duplicate = "last"


def _chunks_added(change: Callable[[Chunk], Chunk]) -> AbstractContextManager[Any]:
    add = Ledger._add_chunks
    return patch.object(
        Ledger, "_add_chunks", lambda self, load_id, host, chunks: add(self, load_id, host, map(change, chunks))
    )


@planted("rows that share a key stay where they are", _few_keys)
def _() -> AbstractContextManager[Any]:
    return patch.object(
        planning, "plan_file", lambda path, **options: plan_file(path, **options | {"on_duplicate": "ignore"})
    )


@planted("a key in several chunks is sent all at once", _few_keys)
def _() -> AbstractContextManager[Any]:
    return _chunks_added(lambda chunk: replace(chunk, after=None) if chunk.parent is None else chunk)


@planted("the halves of a chunk of shared keys are sent at once", _few_keys)
def _() -> AbstractContextManager[Any]:
    return _chunks_added(lambda chunk: replace(chunk, after=None) if chunk.parent is not None else chunk)


@planted("what waits for a chunk is sent when that one is in the queue", _few_keys)
def _() -> AbstractContextManager[Any]:
    record = Ledger._record

    def at_once(self: Ledger, before: Standing, fact: Fact) -> Standing:
        if isinstance(fact, Accepted):
            Ledger._tell_waiting(self, before, fact)
        return record(self, before, fact)

    return patch.object(Ledger, "_record", at_once)


@planted("what waits for a chunk is sent when that one is halved", _few_keys)
def _() -> AbstractContextManager[Any]:
    tell = Ledger._tell_waiting

    def as_if_ended(self: Ledger, ended: Standing, fact: Any) -> list[Standing]:
        return tell(self, ended, None if isinstance(fact, Halved) else fact)  # type: ignore[arg-type]

    return patch.object(Ledger, "_tell_waiting", as_if_ended)


@planted("the last chunk of a key is sent first", _few_keys)
def _() -> AbstractContextManager[Any]:
    pack = twins.Twins._fill_alone

    def from_behind(self: twins.Twins, first_row: int, places: Any) -> None:
        pack(self, first_row, places[::-1])

    return patch.object(twins.Twins, "_fill_alone", from_behind)


@planted("failed rows that share a key go again after the others", _few_keys_and_accidents)
def _() -> AbstractContextManager[Any]:
    def whatever_it_is(record: ChunkRecord, tries: int) -> bool:
        return may_go_again(replace(record, chunk=replace(record.chunk, twins=False)), tries)

    return patch.object(resending, "may_go_again", whatever_it_is)


@planted("the first row of a key supersedes the others", _only_the_last)
def _() -> AbstractContextManager[Any]:
    add = twins.Found.add

    def first(self: twins.Found, *of_records: Any) -> None:
        add(self, *of_records)
        self.last = self.first.copy()

    return patch.object(twins.Found, "add", first)


# --- several processes ----------------------------------------------------------------------------------


@planted("a load has two owners")
def _() -> AbstractContextManager[Any]:
    return patch.object(locks.fcntl, "flock", lambda *_: None)  # type: ignore[attr-defined]


@planted("a load is adopted although its owner lives")
def _() -> AbstractContextManager[Any]:
    async def all_of_them(self: loop.Runner) -> None:
        for load in await self._books.ask(self._ledger.loads_under_way, self._load.subscription):
            self._loads[load.id] = load

    return patch.object(loop.Runner, "_adopt", all_of_them)


@planted("a dead owner's slots never return", _first_goes_away)
def _() -> AbstractContextManager[Any]:
    async def nothing(self: loop.Runner) -> None:
        pass

    return patch.object(loop.Runner, "_adopt", nothing)


@planted("an adopted load's chunks are sent, too")
def _() -> AbstractContextManager[Any]:
    read = loop.Runner._read_view
    submit = Offering._submit

    def of_all(self: loop.Runner, now: float) -> Any:
        ready = [s for load_id in self._loads for s in self._ledger.ready(load_id, now, 4)]
        return replace(read(self, now), ready=tuple(ready))

    async def of_any(self: Offering, action: Any) -> None:
        own = self._load
        try:
            self._load = next(load for load in self._books.ledger.loads() if load.id == action.load_id)
            await submit(self, action)
        finally:
            self._load = own

    return _both(patch.object(loop.Runner, "_read_view", of_all), patch.object(Offering, "_submit", of_any))


@planted("every task renews the token for itself")
def _() -> AbstractContextManager[Any]:
    begin = caller.Caller.__init__

    class Open:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *_: object) -> None:
            pass

    def unlocked(self: caller.Caller, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self._token_lock = Open()  # type: ignore[assignment]

    return patch.object(caller.Caller, "__init__", unlocked)


# --- asking ---------------------------------------------------------------------------------------------


@planted("complete is success")
def _() -> AbstractContextManager[Any]:
    def change(status: BatchStatus) -> BatchStatus:
        imported = status.counts.imported + status.counts.failed
        return replace(status, counts=replace(status.counts, imported=imported, failed=0))

    return _status(change)


@planted("a warned row counts as failed")
def _() -> AbstractContextManager[Any]:
    def change(status: BatchStatus) -> BatchStatus:
        counts = status.counts
        worse = Counts(counts.imported - counts.warned, counts.failed + counts.warned, counts.warned)
        return replace(status, counts=worse)

    return _status(change)


@planted("failed is complete")
def _() -> AbstractContextManager[Any]:
    return _status(lambda status: replace(status, word="Complete") if status.word == "Failed" else status)


@planted("an unknown status is the end", _answered("status", "unknown status"))
def _() -> AbstractContextManager[Any]:
    return _status(lambda status: replace(status, word="Complete") if status.word == "unknown" else status)


@planted("an answer about another batch is believed", _answered("status", "other batch"))
def _() -> AbstractContextManager[Any]:
    def any_batch(answer: Answered, batch_id: Any) -> BatchStatus | None:
        item = answer.result[0] if answer.result else None
        if isinstance(item, dict) and str(item.get("batchId")) != str(batch_id):
            return BatchStatus("Complete", Counts(0, 0, 0), "")
        return status_of(answer, batch_id)

    return patch.object(following, "status_of", any_batch)


@planted("a broken batch is sent again for ever")
def _() -> AbstractContextManager[Any]:
    return patch.object(lifecycle, "BATCH_FAILURES_ALLOWED", 10**9)


@planted("parts of a broken batch are not searched further")
def _() -> AbstractContextManager[Any]:
    worth = isolate.is_worth_halving
    return patch.object(following, "is_worth_halving", lambda rows, spent: rows > 3 and worth(rows, spent))


@planted("bad rows are searched for without end", _broken_instance)
def _() -> AbstractContextManager[Any]:
    return patch.object(isolate, "budget", lambda _: 10**9)


@planted("a bad row is sent once only")
def _() -> AbstractContextManager[Any]:
    apply = lifecycle.apply

    def once(standing: Standing, fact: Fact) -> Standing:
        after = apply(standing, fact)
        alone = standing.rows == 1 and standing.batch_failures_before > 0
        return replace(after, state=State.COLLECTING) if alone and isinstance(fact, Ended) else after

    return patch.object(lifecycle, "apply", once)


@planted("an upload that is cut off for its size is tried for ever")
def _() -> AbstractContextManager[Any]:
    def change(ruling: Ruling, _: Outcome, __: CallKind) -> Ruling:
        return replace(ruling, tries=None) if ruling.then is Verdict.HALVE else ruling

    return _judged(change)


@planted("an unknown batch is believed gone within a minute")
def _() -> AbstractContextManager[Any]:
    return _judged(lambda ruling, _, __: replace(ruling, span_s=0.0))


@planted("one failed question fails the batch")
def _() -> AbstractContextManager[Any]:
    def change(ruling: Ruling, _: Outcome, kind: CallKind) -> Ruling:
        doomed = kind == "status" and ruling.verdict is Verdict.ASK_AGAIN
        return replace(ruling, tries=0, then=Verdict.GONE) if doomed else ruling

    return _judged(change)


@planted("a deferred chunk is never looked at again")
def _() -> AbstractContextManager[Any]:
    ready = Ledger.ready
    return patch.object(
        Ledger, "ready", lambda self, *args: [s for s in ready(self, *args) if s.not_before == 0 or s.attempts == 0]
    )


@planted("the loop sleeps past its next due time")
def _() -> AbstractContextManager[Any]:
    return patch.object(loop, "next_actions", lambda *args, **more: replace(next_actions(*args, **more), wake_at=1e12))


@planted("whatever goes wrong with a question is passed over")
def _() -> AbstractContextManager[Any]:
    async def passed_over(self: Following, action: Any, ruling: Ruling) -> None:
        pass

    return patch.object(Following, "_not_seen", passed_over)


# --- collecting and reporting ---------------------------------------------------------------------------


@planted("the rows of a result file are not counted", _answered("failures", "cut silently"))
def _() -> AbstractContextManager[Any]:
    return patch.object(following, "_count_records", lambda *_: (10**9, True))


@planted("warnings are not collected")
def _() -> AbstractContextManager[Any]:
    collect = Following._collect_file

    async def failures_only(self: Following, action: Any, which: Any, rows: int) -> CollectedFile | None:
        return None if which == "warnings" else await collect(self, action, which, rows)

    return patch.object(Following, "_collect_file", failures_only)


@planted("a row is told of under its neighbour's number")
def _() -> AbstractContextManager[Any]:
    def shifted(record: ChunkRecord, *args: Any) -> Any:
        spans = tuple(replace(span, first_row=span.first_row + 1) for span in record.chunk.spans)
        return entries_of_chunk(replace(record, chunk=replace(record.chunk, spans=spans)), *args)

    return patch.object(render, "entries_of_chunk", shifted)


@planted("the report leaves out the last row of each chunk")
def _() -> AbstractContextManager[Any]:
    def without_last(*args: Any) -> list[Entry]:
        entries = list(entries_of_chunk(*args))
        last = entries.pop() if entries else None
        fewer = last.cut((last.last_row, ""))[0] if isinstance(last, PlainRun) else None
        return entries if fewer is None else [*entries, fewer]

    return patch.object(render, "entries_of_chunk", without_last)


@planted("a row that went again is counted twice")
def _() -> AbstractContextManager[Any]:
    account = report.account

    def twice(record: ChunkRecord) -> Account:
        one = account(record)
        return replace(one, failed=one.failed + one.moved)

    return patch.object(report, "account", twice)


@planted("a row that went again is told of twice")
def _() -> AbstractContextManager[Any]:
    return patch.object(Later, "instead_of", lambda self, row: [row])


@planted("after a crash, the last chunk is added once more")
@contextmanager
def _() -> Iterator[None]:
    add_last_chunks = Ledger.add_last_chunks

    def any_failed(record: ChunkRecord, tries: int) -> bool:
        return may_go_again(replace(record, standing=replace(record.standing, moved=0)), tries)

    def added(self: Ledger, load_id: Any, at: float, again: int, *others: Any) -> bool:
        done = add_last_chunks(self, load_id, at, again, *others)
        self._again_in_memory = again  # type: ignore[attr-defined]
        return done

    with (
        patch.object(resending, "may_go_again", any_failed),
        patch.object(Ledger, "add_last_chunks", added),
        patch.object(Ledger, "gone_again", lambda self, _: getattr(self, "_again_in_memory", 0)),
    ):
        yield


@planted("what is unknown counts as imported")
def _() -> AbstractContextManager[Any]:
    account = report.account

    def hopeful(record: ChunkRecord) -> Account:
        one = account(record)
        return replace(one, imported=one.imported + one.failed, failed=0)

    return patch.object(report, "account", hopeful)


@planted("after a restart the failed rows of ended batches count as imported")
def _() -> AbstractContextManager[Any]:
    opened = Books.open

    async def forgetting(self: Books) -> None:
        with self.ledger._transaction():
            self.ledger._db.execute("UPDATE offers SET imported = imported + failed, failed = 0 WHERE failed > 0")
        await opened(self)

    return patch.object(Books, "open", forgetting)


@planted("a broken batch's rows count as imported")
def _() -> AbstractContextManager[Any]:
    account = report.account

    def hopeful(record: ChunkRecord) -> Account:
        one, offer = account(record), record.standing.offer
        failed = offer is not None and offer.status == "Failed" and one.failed
        return replace(one, imported=one.imported + one.failed, failed=0) if failed else one

    return patch.object(report, "account", hopeful)


@planted("a load that is over asks Marketo once more")
def _() -> AbstractContextManager[Any]:
    return patch.object(Ledger, "finish", lambda *_: None)


@planted("a lead is quoted in a log")
def _() -> AbstractContextManager[Any]:
    seen = Following._seen

    async def loud(self: Following, action: Any, status: BatchStatus, asked_at: float) -> None:
        following.log.info("batch.seen", message="ann@example.com")
        await seen(self, action, status, asked_at)

    return patch.object(Following, "_seen", loud)


@planted("the exit code says that all is well")
def _() -> AbstractContextManager[Any]:
    def well(totals: Totals, *, fail_on_warning: bool) -> int:
        return 0

    return patch.object(library, "exit_code_of", well)


@planted("a secret is written down with a reason")
def _() -> AbstractContextManager[Any]:
    def change(fact: Fact) -> Fact:
        return replace(fact, why=f"{fact.why} (secret canary-client-secret)") if isinstance(fact, Deferred) else fact

    return _recorded(change)


@planted("the batch id is written down a moment later")
@contextmanager
def _() -> Iterator[None]:
    record, kept = Ledger.record, list[tuple[Any, Any, Fact]]()

    def late(self: Ledger, load_id: Any, number: Any, fact: Fact) -> Standing:
        while kept:
            record(self, *kept.pop())
        if isinstance(fact, Accepted):
            kept.append((load_id, number, fact))
            return lifecycle.apply(self.standing(load_id, number), fact)
        return record(self, load_id, number, fact)

    with patch.object(Ledger, "record", late):
        yield
