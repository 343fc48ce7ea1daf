"""How are the parts put together? The composition root: what the command line (and other shells) may call.

Shells hand in a Config and options, and get values and exceptions back; nothing here prints or exits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import structlog

from orchestrator import checks, intake, retrying
from orchestrator.adapters import locks
from orchestrator.adapters.clock import Clock
from orchestrator.adapters.files import read_chunk
from orchestrator.adapters.ledger import Connect, Ledger, connect, is_there
from orchestrator.adapters.marketo import Marketo, Transport
from orchestrator.adapters.mounts import network_file_system
from orchestrator.adapters.render import write_report
from orchestrator.adapters.salvage import Salvaged, Unreadable, salvage
from orchestrator.caller import Caller
from orchestrator.checks import CheckLine
from orchestrator.config import Config
from orchestrator.core.admission import PLACES
from orchestrator.core.expect import expect, learn, seconds_left, work
from orchestrator.core.fields import Described, misfits
from orchestrator.core.lifecycle import AT_REST
from orchestrator.core.locate import read_sent
from orchestrator.core.model import (
    ChunkRecord,
    Load,
    LoadId,
    OnDoubt,
    Plan,
    Priority,
    Released,
    Retry,
    Run,
    SourceFile,
    State,
    Target,
    Totals,
)
from orchestrator.core.origins import source_name
from orchestrator.core.pace import calls_of
from orchestrator.core.plan import load_id
from orchestrator.core.reasons import ReasonCount
from orchestrator.core.report import exit_code as exit_code_of
from orchestrator.core.report import totals as totals_of
from orchestrator.core.retry import Again, Tally
from orchestrator.core.schedule import Limits, in_queue
from orchestrator.core.share import HEARD_OF_S, Wish, allowed_slots, work_beside
from orchestrator.core.values import ValueFinding, Values
from orchestrator.core.worth import Which
from orchestrator.errors import (
    LedgerUnusable,
    LoadBusy,
    LoadUnfinished,
    Misconfigured,
    OrchestratorError,
    ReadingStopped,
    ReportFailing,
    SourceChanged,
    SourceMissing,
    SourceUnusable,
    UnknownLoad,
    WrongRepairRule,
    counted,
)
from orchestrator.planning import (
    REJECTED_SHOWN,
    LoadOptions,
    check_rejected,
    find_or_plan,
    identity_of,
    known_again,
    look_for_report,
    new_load,
    own,
    plan_of,
    rejected_at,
    rejected_remedy,
    report_folder,
    why_not,
)
from orchestrator.retention import forget_old
from orchestrator.retention import purge as purge_load
from orchestrator.runner.loop import Estimate, Progress, Runner
from orchestrator.runner.quota import Quota
from orchestrator.runner.strikes import doubt_held

log = structlog.get_logger()

PATIENCE_S = 5.0
"""How long Marketo is waited for where a load can do without the answer."""
COLUMNS_NAMED = 20
"""Columns that do not fit, each with a line of its own."""
IDS_SHOWN = 3
"""Ids of loads named in a message."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """How a load ended, or stopped."""

    load: Load
    totals: Totals
    exit_code: int
    report_dir: Path
    reasons: tuple[ReasonCount, ...] = ()
    """The commonest first."""
    doubts: int = 0
    seconds: float = 0.0
    eta_error: float | None = None
    """By which share the time that was foretold after a tenth of the rows was too long (or, below 0, too short)."""
    already_finished: bool = False
    """The load had finished before: nothing was sent, the report was written again."""
    stopped: OrchestratorError | None = None
    """Why it stopped before its end, when it did; it is resumable then."""
    interrupted: bool = False
    """A signal stopped it before its end; its report was not written."""
    notes: tuple[str, ...] = ()
    """What the report does not say, and why."""
    unfound: bool = False
    """Its rows cannot be found any more, so they cannot go again."""


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """What one command line asks of a retry."""

    reasons: Which = "unknown"
    fix: str = ""
    report_dir: Path | None = None
    max_rejected: int = 0
    force: bool = False


@dataclass(frozen=True, slots=True)
class RetrySummary:
    """Which rows of a load go again. `load` is the load of them, when it was planned; None when no row goes."""

    of: Load
    tally: Tally
    load: Load | None = None


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The dry run."""

    source: str
    plan: Plan
    load_id: LoadId
    calls: int
    """Calls of Marketo's daily quota it will probably cost."""
    calls_left: int | None
    """Calls that are left of it today; None when it was not asked, or Marketo did not say."""
    seconds: float | None
    """How long it will probably take, going by this subscription's past batches; None when there are none."""
    findings: tuple[str, ...]
    values: tuple[ValueFinding, ...] = ()
    """Values that Marketo will probably not take, when they were looked at."""


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """One load as the ledger shows it. `records` is filled in when one load was asked for."""

    load: Load
    totals: Totals
    chunks_by_state: Mapping[State, int]
    running: bool
    """A living process owns it now."""
    run: Run | None = None
    """What its run said last: what it waits for and when it will be done; of one that has ended, why it stopped
    early."""
    records: tuple[ChunkRecord, ...] = ()


@dataclass
class StopRequest:
    """Set by a shell from a signal handler: the load drains and stops. `exit_code` is what it then returns."""

    exit_code: int = 0
    callbacks: list[Callable[[], None]] = field(default_factory=list)
    cancelled: bool = False
    """Nothing more is to be sent: the load comes to its end with what Marketo has."""
    cancellations: list[Callable[[], None]] = field(default_factory=list)

    def set(self, exit_code: int) -> None:
        self.exit_code = self.exit_code or exit_code
        for callback in self.callbacks:
            callback()

    def cancel(self) -> None:
        self.cancelled = True
        for callback in self.cancellations:
            callback()


Observer = Callable[[Progress], None]


@dataclass(frozen=True)
class World:
    """Everything outside that a load touches, so that a whole load can run under another clock and network."""

    clock: Clock = field(default_factory=Clock)
    rng: Random = field(default_factory=Random)
    transport: Transport | None = None
    """None: the network."""
    connect: Connect = connect
    lag_every_s: float | None = 0.5
    """How often to look whether the event loop keeps up; None: not at all, since under virtual time it always does."""
    turns: Mapping[str, anyio.Semaphore] = field(default_factory=dict)
    """By subscription: what the calls of several loads of this process share."""
    heavy: anyio.CapacityLimiter | None = None
    """How many threads may plan and write reports at a time, of all loads that share it; None: nobody else is there."""


# --- load ---------------------------------------------------------------------------------------------


async def load(
    config: Config,
    source: Path | Sequence[str],
    options: LoadOptions,
    *,
    observer: Observer | None = None,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> LoadResult:
    """Load a source, or go on with the load of it that the ledger knows. Raises OrchestratorError.

    source: a file, or several names and patterns that make one load; "-" is standard input.
    """
    world = world or World()
    clock = world.clock
    named = [str(source)] if isinstance(source, Path) else list(source)
    with await anyio.to_thread.run_sync(_ledger, config, world.connect) as ledger:
        begin = partial(find_or_plan, config, ledger, named, options, clock, _interrupted(stop))
        found, ownership = await anyio.to_thread.run_sync(begin, limiter=world.heavy)
        if found.finished_at is not None:
            again = partial(_again, config, ledger, found, clock.now())
            return await anyio.to_thread.run_sync(again, limiter=world.heavy)
        return await _drive(config, ledger, found, options, world, observer, stop, ownership)


async def resume(
    config: Config,
    load: str | None,
    *,
    on_doubt: OnDoubt | None = None,
    priority: Priority | None = None,
    max_wait_s: float | None = None,
    fail_on_warning: bool = False,
    retry: bool = True,
    observer: Observer | None = None,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> LoadResult:
    """Go on with an interrupted load: the one named (by the beginning of its id), else the newest."""
    world = world or World()
    clock = world.clock
    with await anyio.to_thread.run_sync(_ledger, config, world.connect) as ledger:
        found = await anyio.to_thread.run_sync(_to_resume, config, ledger, load)
        if found.finished_at is not None:
            again = partial(_again, config, ledger, found, clock.now())
            return await anyio.to_thread.run_sync(again, limiter=world.heavy)
        options = LoadOptions(
            target=found.target,
            on_doubt=on_doubt or found.on_doubt,
            priority=priority,
            max_wait_s=max_wait_s,
            fail_on_warning=fail_on_warning,
            retry=retry,
        )
        return await _drive(config, ledger, found, options, world, observer, stop)


def _to_resume(config: Config, ledger: Ledger, load: str | None) -> Load:
    """The load whose id begins so, else the newest that is interrupted. Raises UnknownLoad, Misconfigured."""
    host = config.subscription_host
    if load is not None:
        found = _known(ledger, load)
    else:
        interrupted = (one for one in ledger.loads() if one.finished_at is None and one.subscription == host)
        newest = next(interrupted, None)
        if newest is None:
            raise UnknownLoad(
                f"ledger {ledger.path}: no load into {host} is interrupted",
                remedy="`orchestrator status` lists the loads.",
            )
        found = newest
    if found.finished_at is None:
        _check_subscription(config, found)
        look_for_report(found)
    return found


def preview_retry(config: Config, load: str, options: RetryOptions, show: Callable[[Again], None]) -> RetrySummary:
    """The dry run of a retry: every row that would go again is shown; nothing is sent and nothing is written down."""
    with _ledger(config) as ledger:
        of = _retryable(config, ledger, load)
        tally = Tally()
        for again in retrying.rows(config, ledger, of, Retry(of.id, options.reasons, options.fix), tally):
            show(again)
        return RetrySummary(of, tally)


def plan_retry(config: Config, load: str, options: RetryOptions, *, clock: Clock | None = None) -> RetrySummary:
    """Plan a load of the rows of a finished load that go again, or find the one that is known. `resume` drives it."""
    with _ledger(config) as ledger:
        intake.sweep_spools(ledger)
        of = _retryable(config, ledger, load)
        retry = Retry(of.id, options.reasons, options.fix)
        with retrying.written(config, ledger, of, retry) as rows:
            if not rows.tally.again:
                return RetrySummary(of, rows.tally)
            source = rows.source
            keep_rejected = max(options.max_rejected, REJECTED_SHOWN)
            again = LoadOptions(
                of.target, format=of.format, on_duplicate=of.on_duplicate, report_dir=options.report_dir
            )
            at, plan = plan_of(config, source, again, keep_rejected)
            check_rejected(replace(source, origin=None), plan, options.max_rejected)
            assert plan.rows == rows.tally.again, "every row that goes again is a row of the new load"
            known = _retry_of(ledger, of, plan, options.force)
            if isinstance(known, Load):
                moved, ownership = known_again(ledger, known, source, again)
                if ownership is not None:
                    ownership.release()
                return RetrySummary(of, rows.tally, moved)
            report_dir = report_folder(ledger, known, options.report_dir or config.report_dir / known)
            at = replace(at, path=str(source.keep(known)))
            new = new_load(known, at, plan, again, of.subscription, report_dir, (clock or Clock()).now())
            new = replace(new, on_doubt=of.on_doubt, origin=of.origin, retry=retry)
            if ledger.add_load(new, plan, rows.places()):
                log.info("load.planned", load=new.id, chunks=new.chunks, rows=new.rows, rejected=new.rejected)
            return RetrySummary(of, rows.tally, ledger.load(new.id))


def _retryable(config: Config, ledger: Ledger, load: str) -> Load:
    """The load whose rows are to go again: over, and of the subscription that is configured."""
    of = _known(ledger, load)
    if of.finished_at is None:
        raise LoadUnfinished(
            f"load {of.id} is not finished: rows of it may still be imported",
            remedy=f"Let it end first: orchestrator resume {of.id}",
        )
    _check_subscription(config, of)
    return of


def _check_subscription(config: Config, load: Load) -> None:
    """Its leads are for the subscription that they were loaded into, and its batches are known there only."""
    if load.subscription != config.subscription_host:
        raise Misconfigured(
            f"load {load.id} went to {load.subscription}, and marketo.base_url is {config.subscription_host}",
            remedy="Use the configuration (--config, --subscription) that it was loaded with.",
        )


def _retry_of(ledger: Ledger, of: Load, plan: Plan, force: bool) -> Load | LoadId:
    """The load of exactly these rows that retries `of`, or the id of a new one.

    (When every row of a source failed, its retry has the content of the load itself, and is another load all the same.)
    """
    again = 0
    while True:
        number = load_id(plan.fingerprint, of.target, plan.format, of.subscription, again)
        known = ledger.load(number)
        if known is None:
            return number
        if known.retry is not None and known.retry.of == of.id and not (force and known.finished_at is not None):
            return known
        again += 1


async def _drive(
    config: Config,
    ledger: Ledger,
    load: Load,
    options: LoadOptions,
    world: World,
    observer: Observer | None,
    stop: StopRequest | None,
    ownership: locks.Ownership | None = None,
) -> LoadResult:
    """Own the load, run it, and write its report."""
    clock = world.clock
    owned = ownership if ownership is not None else await anyio.to_thread.run_sync(own, ledger, load)
    try:
        known = await anyio.to_thread.run_sync(ledger.load, load.id)
        if known is not None and known.finished_at is not None:  # its owner, who was waited for, has finished it
            again = partial(_again, config, ledger, known, clock.now())
            return await anyio.to_thread.run_sync(again, limiter=world.heavy)
        load = await anyio.to_thread.run_sync(_as_asked, ledger, load, options, clock.now())
        with_source = partial(_with_source, config, ledger, load, _interrupted(stop))
        load = await anyio.to_thread.run_sync(with_source, limiter=world.heavy)
        structlog.contextvars.bind_contextvars(load=load.id)
        started_at = clock.now()
        async with _connected(config, world) as (marketo, caller):
            quota = _quota(config, marketo, caller, clock)
            await quota.ask(PATIENCE_S)  # nothing else, no signal either, is looked at meanwhile
            if caller.sound_at is not None and await anyio.to_thread.run_sync(_is_new, ledger, load):
                await _check_header(marketo, caller, ledger, load)
            runner = Runner(
                load,
                ledger=ledger,
                marketo=marketo,
                caller=caller,
                clock=clock,
                rng=world.rng,
                limits=_limits(config),
                quota=quota,
                max_wait_s=options.max_wait_s,
                retry=options.retry,
                observe=observer,
                lag_every_s=world.lag_every_s,
            )
            if stop is not None:
                stop.cancellations.append(runner.cancel)
                if stop.cancelled:
                    runner.cancel()
                stop.callbacks.append(runner.request_stop)
                if stop.exit_code:
                    runner.request_stop()
            stopped = await runner.run()
        interrupted = stop.exit_code if stop is not None else 0
        keep_days = config.report.keep_days
        finish = partial(_finish, ledger, load, options, clock, runner.over, stopped, interrupted, keep_days)
        result = await anyio.to_thread.run_sync(finish, limiter=world.heavy)
        now = clock.now()
        return replace(result, seconds=now - started_at, eta_error=_eta_error(runner.estimate, now))
    finally:
        structlog.contextvars.unbind_contextvars("load")
        owned.release()


def _as_asked(ledger: Ledger, load: Load, options: LoadOptions, now: float) -> Load:
    """The load with what this command asks of it anew, which is kept; what was held is released where it goes again."""
    if options.on_doubt != load.on_doubt:
        ledger.set_on_doubt(load.id, options.on_doubt)
    priority = options.priority or load.priority
    if priority != load.priority:
        ledger.set_priority(load.id, priority)
    if options.on_doubt == "resend":
        for standing in ledger.held(load.id):
            ledger.record(load.id, standing.number, Released(now))
    return replace(load, on_doubt=options.on_doubt, priority=priority)


def _is_new(ledger: Ledger, load: Load) -> bool:
    """Was nothing of it sent yet?"""
    return {state for state, count in ledger.chunks_by_state(load.id).items() if count} <= {State.PLANNED}


async def _check_header(marketo: Marketo, caller: Caller, ledger: Ledger, load: Load) -> None:
    """One question before the first upload. Raises Misconfigured when every row would fail; warns of lesser things."""
    known: Described | None = None
    with anyio.move_on_after(PATIENCE_S):
        known, _ = await checks.describe(marketo, caller, load.target)
    found = misfits(load.header.own, known, load.target) if known is not None else []
    for misfit in found:
        if misfit.refuses:
            retrying.forget(ledger, load)
            raise Misconfigured(
                f"{source_name(load)}: field {misfit.column!r}: {misfit.note}; nothing was sent",
                remedy="Name the column as Marketo names the field"
                + (", or set --lookup-field." if load.target.kind == "leads" else f" (--map {misfit.column}=COLUMN)."),
            )
    for misfit in found[:COLUMNS_NAMED]:
        log.warning("column.unfit", column=misfit.column, note=misfit.note)
    if len(found) > COLUMNS_NAMED:
        log.warning("columns.unfit", more=len(found) - COLUMNS_NAMED)


def _eta_error(estimate: Estimate | None, ended_at: float) -> float | None:
    if estimate is None or ended_at <= estimate.at:
        return None
    took_s = ended_at - estimate.at
    return round((estimate.ends_at - estimate.at - took_s) / took_s, 3)


def _finish(
    ledger: Ledger,
    load: Load,
    options: LoadOptions,
    clock: Clock,
    over: bool,
    stopped: OrchestratorError | None,
    interrupted: int,
    keep_days: float,
) -> LoadResult:
    """The load's last word: its report and exit code, or why it stopped."""
    if not over and stopped is None:
        assert interrupted, "a run ends before its load for a reason"
        totals = totals_of(load, ledger.records(load.id))
        return LoadResult(load, totals, interrupted, Path(load.report_dir), interrupted=True)
    if stopped is not None:
        with locks.reporting(ledger.path, load.id):
            result = _report(ledger, load, clock.now(), stopped.exit_code, stopped=stopped.message)
        return replace(result, stopped=stopped)
    totals = totals_of(load, ledger.records(load.id))
    code = exit_code_of(totals, fail_on_warning=options.fail_on_warning)
    with locks.reporting(ledger.path, load.id):
        result = _report(ledger, load, clock.now(), code)
        ledger.finish(load.id, clock.now(), code)
    retrying.forget(ledger, load)
    forget_old(ledger, keep_days, clock.now(), but=load)
    return result


def _is_over(states: Mapping[State, int]) -> bool:
    """Is every chunk at rest?"""
    return all(state in AT_REST for state, count in states.items() if count)


def _report(
    ledger: Ledger, load: Load, now: float, exit_code: int | None, *, stopped: str = "", keep: bool = False
) -> LoadResult:
    """keep: a report that is there is kept when its rows cannot be found any more."""
    try:
        written = write_report(
            load=load,
            records=lambda: ledger.records(load.id),
            rejected=ledger.rejected_rows(load.id),
            folder=Path(load.report_dir),
            calls=ledger.calls(load.id),
            started_at=load.created_at,
            finished_at=load.finished_at or now,
            exit_code=exit_code or 0,
            stopped=stopped,
            place_of=retrying.place_of(ledger, load),
            keep=keep,
        )
    except OSError as error:
        raise ReportFailing(load.report_dir, error) from error
    return LoadResult(
        load=load,
        totals=written.totals,
        exit_code=exit_code or 0,
        report_dir=written.folder,
        reasons=written.reasons,
        doubts=written.doubts,
        notes=written.discrepancies,
        unfound=written.unfound,
    )


# --- the other commands ---------------------------------------------------------------------------------


async def plan(
    config: Config,
    named: Sequence[str],
    options: LoadOptions,
    *,
    check_values: bool = False,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> PlanSummary:
    """The dry run: nothing is sent and nothing is kept. Works without Marketo too, and says so then."""
    known, why, left = await _asked(config, options.target, world or World())
    planning = partial(_planned, config, named, options, _interrupted(stop), (known, why), check_values)
    return replace(await anyio.to_thread.run_sync(planning), calls_left=left)


async def _asked(config: Config, target: Target, world: World) -> tuple[Described | None, str, int | None]:
    """The fields a header is checked against (None, and why, where they cannot be had), and the calls left today."""
    try:
        config.need_credentials()
    except Misconfigured as error:
        return None, error.message, None
    async with _connected(config, world) as (marketo, caller):
        quota = _quota(config, marketo, caller, world.clock)
        await quota.ask(PATIENCE_S)
        if caller.sound_at is not None:
            with anyio.move_on_after(PATIENCE_S):
                return *await checks.describe(marketo, caller, target), quota.left()
        return None, caller.trouble or f"{config.subscription_host} did not answer", quota.left()


def _planned(
    config: Config,
    named: Sequence[str],
    options: LoadOptions,
    interrupted: intake.Interrupted,
    fields: tuple[Described | None, str] | None = None,
    check_values: bool = False,
) -> PlanSummary:
    """fields: what the header is checked against, or why that cannot be done; None: it is not wanted."""
    paths = intake.paths_of(named)
    with intake.opened(config, paths, options.reading, options.format, interrupted) as source:
        options = replace(options, format=source.format)
        at, planned = plan_of(config, source, options, max(options.max_rejected, 100))
        findings = [rejected_at(source, row) for row in planned.rejected]
        values: list[ValueFinding] = []
        if check_values:
            values = _values(at, planned, fields[0] if fields is not None else None)
    if planned.rejected_rows > len(findings):
        findings.append(f"and {planned.rejected_rows - len(findings):,} more rows that cannot be sent")
    if remedy := rejected_remedy(planned, options.max_rejected):
        findings.append(f"`load` sends nothing as it is (code 65). {remedy}")
    if planned.blank_lines:
        findings.append(f"{counted(planned.blank_lines, 'blank line')}: no rows, and not sent")
    if fields is not None:
        findings = [*_header_findings(planned.header.own, fields, options.target), *findings]
    for value in values:
        rows = ", ".join(f"{row:,}" for row in value.first_rows) + (", …" if value.rows > len(value.first_rows) else "")
        where = f"row{'s' * (value.rows != 1)} {rows}"
        findings.append(f"column {value.column!r}: {counted(value.rows, 'value')}: {value.reason} ({where})")
    return PlanSummary(
        source=source.name if source.spool else str(source.path),
        plan=planned,
        load_id=identity_of(planned.fingerprint, planned.format, config, options)(0),
        calls=calls_of(len(planned.chunks)),
        calls_left=None,
        seconds=_foretold_s(config, planned, options),
        findings=tuple(findings),
        values=tuple(values),
    )


def _foretold_s(config: Config, plan: Plan, options: LoadOptions) -> float | None:
    """How long it will probably take, behind the batches that are in the queue now and beside the loads that run; None
    while nothing is known."""
    if not is_there(config.ledger_path):
        return None
    now = Clock().now()
    with _ledger(config) as ledger:
        speed = learn(ledger.past(config.subscription_host))
        queued = in_queue(ledger.open_chunks(config.subscription_host))
        running = ledger.wishes(config.subscription_host, now - HEARD_OF_S)
    if speed is None:
        return None
    unsent = work(plan.rows - plan.rejected_rows - plan.superseded_rows, len(plan.chunks))
    allowed = allowed_slots(running, config.limits.queued_jobs)
    one_at_a_time = options.target.list_id is not None or 1 in (len(plan.chunks), allowed)
    if not one_at_a_time:
        this = Wish(LoadId(""), options.priority or "normal", min(PLACES, len(plan.chunks)), 0, now)
        unsent += work_beside([*running, this], this.load_id, unsent, allowed, now)
    return seconds_left(expect(queued, speed), unsent, speed, now, one_at_a_time=one_at_a_time)


def _header_findings(header: tuple[str, ...], fields: tuple[Described | None, str], target: Target) -> list[str]:
    known, why = fields
    if known is None:
        return [f"the header was not checked against Marketo's fields: {why}"]
    return [f"column {misfit.column!r}: {misfit.note}" for misfit in misfits(header, known, target)]


def _values(source: SourceFile, plan: Plan, known: Described | None) -> list[ValueFinding]:
    """What Marketo will probably not take, of the rows that would be sent. One pass; one chunk is in memory."""
    values = Values(plan.header.fields, known)
    header_bytes = plan.header.stop - plan.header.start
    for chunk in plan.chunks:
        content = read_chunk(source, plan.header, chunk)[header_bytes:]
        values.feed((row.row, row.cells) for row in read_sent(content, chunk.spans, plan.format))
    return values.findings()


def status(config: Config, load: str | None = None) -> list[LoadStatus]:
    """The loads of the ledger, the newest first; with its chunks when one is named."""
    if not is_there(config.ledger_path):
        if load is not None:
            raise UnknownLoad(f"ledger {config.ledger_path} does not exist yet", remedy="Run a load first.")
        return []
    with _ledger(config) as ledger:
        if load is None:
            return [_status(ledger, known) for known in ledger.loads()]
        known = _known(ledger, load)
        return [replace(_status(ledger, known), records=tuple(ledger.records(known.id)))]


def export(config: Config, load: str | None = None) -> Iterator[Salvaged | Unreadable]:
    """Everything that can be read of the ledger, also of one that is refused as damaged."""
    found = False
    for one in salvage(config.ledger_path, load):
        found = True
        yield one
    if load is not None and not found:
        raise UnknownLoad(
            f"ledger {config.ledger_path}: no load {load!r}", remedy="`orchestrator status` lists the loads."
        )


def report(config: Config, load: str) -> LoadResult:
    """Write the report of a load again from what the ledger holds."""
    with _ledger(config) as ledger, locks.reporting(ledger.path, _known(ledger, load).id):
        known = _known(ledger, load)  # it may have ended while its report was waited for
        if known.finished_at is not None:
            return replace(_written_again(config, ledger, known, Clock().now()), already_finished=False)
        unfinished = _unfinished(ledger, known)
        code, why = unfinished.exit_code, unfinished.message
        result = _report(ledger, known, Clock().now(), code, stopped=why, keep=True)
        return replace(result, stopped=unfinished)


def _unfinished(ledger: Ledger, load: Load) -> OrchestratorError:
    """Why a load is not finished, by what the ledger says of it."""
    status = _status(ledger, load)
    if status.running:
        return LoadBusy(
            load.id,
            locks.owner_of(ledger.path, load.id),
            remedy="`orchestrator status` shows how it stands; run this again when it has ended.",
        )
    if status.chunks_by_state.get(State.HELD) and _is_over(status.chunks_by_state):
        return doubt_held(ledger.held(load.id))
    if status.run is not None and status.run.ended and status.run.waiting_for:
        return LoadUnfinished(f"load {load.id} stopped early: {status.run.waiting_for}")
    return LoadUnfinished(f"load {load.id} was interrupted")


def purge(config: Config, load: str, *, unfinished: bool = False) -> Load:
    """Remove a load: its report, its collected files, and what the ledger holds of it."""
    with _ledger(config) as ledger:
        known = _known(ledger, load)
        purge_load(ledger, known, unfinished=unfinished)
        retrying.forget(ledger, known)
        return known


async def check(
    config: Config, named: Sequence[str], options: LoadOptions, *, stop: StopRequest | None = None
) -> list[CheckLine]:
    """Is the configuration sound, do the credentials work, may the user import, do header and target fit?"""
    lines = [CheckLine("configuration", True, f"{config.subscription_host}, as {config.marketo.client_id}")]
    header: tuple[str, ...] | None = None
    if named:
        source = " ".join(named)
        try:
            planning = partial(_planned, config, named, options, _interrupted(stop))
            summary = await anyio.to_thread.run_sync(planning)
        except ReadingStopped:
            raise
        except OrchestratorError as error:
            lines.append(CheckLine(f"source {source}", False, str(error), error.exit_code))
        else:
            header = summary.plan.header.own
            found = f"{counted(summary.plan.rows, 'row')} in {counted(len(summary.plan.chunks), 'chunk')}"
            bad = summary.plan.rejected_rows
            note = f"{found}; {bad:,} of them cannot be sent" if bad else found
            lines.append(CheckLine(f"source {source}", bad <= options.max_rejected, note, 65))
    async with _connected(config, World()) as (marketo, caller):
        lines += await checks.access(marketo, caller, options.target, header)
    return lines


# --- parts ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _connected(config: Config, world: World) -> AsyncIterator[tuple[Marketo, Caller]]:
    secret = config.marketo.client_secret.get_secret_value()
    marketo = Marketo(config.marketo.base_url, config.marketo.client_id, secret, transport=world.transport)
    caller = Caller(
        marketo,
        world.clock,
        world.rng,
        calls_per_20s=config.limits.calls_per_20s,
        concurrent_calls=config.limits.concurrent_calls,
        turns=world.turns.get(config.subscription_host),
    )
    try:
        yield marketo, caller
    finally:
        with anyio.CancelScope(shield=True):
            await marketo.aclose()


def _quota(config: Config, marketo: Marketo, caller: Caller, clock: Clock) -> Quota:
    limits = config.limits
    return Quota(marketo, caller, clock, calls_per_day=limits.calls_per_day, reserve=limits.reserve_calls_per_day)


def _limits(config: Config) -> Limits:
    return Limits(
        queued_jobs=config.limits.queued_jobs,
        concurrent_calls=config.limits.concurrent_calls,
        calls_per_20s=config.limits.calls_per_20s,
        doubt_lease_s=config.limits.doubt_lease,
        min_interval_s=config.polling.min_interval,
        max_interval_s=config.polling.max_interval,
        queue_depth=None if config.limits.queue_depth == "auto" else config.limits.queue_depth,
    )


def _existing(source: Path) -> Path:
    try:
        return source.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SourceMissing(f"{source}: {why_not(error)}", remedy="Check the path of the source.") from error


def _ledger(config: Config, connect: Connect = connect) -> Ledger:
    """The ledger, on a disk of this machine."""
    path = config.ledger_path
    if (kind := network_file_system(path)) is not None:
        raise LedgerUnusable(
            f"ledger {path}: it is on a network file system ({kind}), whose locks cannot be trusted",
            remedy="Set state.ledger to a place on a local disk; sources and reports may stay where they are.",
        )
    return Ledger(path, connect=connect)


def _known(ledger: Ledger, load: str) -> Load:
    begin = ledger.beginning(load, IDS_SHOWN + 1) if load and load.isascii() else []
    if len(begin) > 1:
        shown = ", ".join(begin[:IDS_SHOWN]) + ", …" * (len(begin) > IDS_SHOWN)
        raise UnknownLoad(
            f"ledger {ledger.path}: the ids of several loads begin with {load!r}: {shown}",
            remedy="Type more of the id.",
        )
    found = ledger.load(begin[0]) if begin else None
    if found is None:
        raise UnknownLoad(f"ledger {ledger.path}: no load {load!r}", remedy="`orchestrator status` lists the loads.")
    return found


def _with_source(config: Config, ledger: Ledger, load: Load, interrupted: intake.Interrupted) -> Load:
    """The load with its source at hand. One whose size changed cannot be what was planned.

    (Every upload checks its own bytes.)
    """
    if not any(ledger.chunks_by_state(load.id).get(state) for state in (State.PLANNED, State.OFFERED, State.DOUBTFUL)):
        return load  # nothing is left to send: the source may even be gone
    with retrying.restored(config, ledger, load, interrupted) as whole:
        path = _existing(Path(whole.source.path))
        size = path.stat().st_size
        if size != whole.source.size_bytes:
            raise SourceChanged(
                f"{path}: {size:,} bytes now, {load.source.size_bytes:,} when load {load.id} was planned",
                remedy="Put the planned file back to go on, or load the new one: that is another load.",
            )
        return whole


def _again(config: Config, ledger: Ledger, load: Load, now: float) -> LoadResult:
    with locks.reporting(ledger.path, load.id):
        return _written_again(config, ledger, load, now)


def _written_again(config: Config, ledger: Ledger, load: Load, now: float) -> LoadResult:
    """A load that has finished: nothing is sent, its report is written again.

    Where the rows cannot be had any more, the report that is there is better than one without them.
    """
    gone = not (Path(load.report_dir) / "report.json").exists()
    try:
        with retrying.restored(config, ledger, load, lambda: None) as whole:
            result = _report(ledger, whole, now, load.exit_code, keep=True)
    except (SourceMissing, SourceUnusable, WrongRepairRule) as error:  # its spool file cannot be made again
        result = _report(ledger, load, now, load.exit_code, keep=True)
        result = replace(result, notes=(error.message, *result.notes))
    finally:
        retrying.forget(ledger, load)
    if gone:
        note = f"no report was in {load.report_dir} any more (removed, or moved with its folder): it was written anew"
        result = replace(result, notes=(note, *result.notes))
    return replace(result, already_finished=True)


def _interrupted(stop: StopRequest | None) -> intake.Interrupted:
    def check() -> None:
        if stop is not None and stop.exit_code:
            raise ReadingStopped(stop.exit_code)

    return check


def _status(ledger: Ledger, load: Load) -> LoadStatus:
    return LoadStatus(
        load=load,
        totals=totals_of(load, ledger.records(load.id)),
        chunks_by_state=ledger.chunks_by_state(load.id),
        running=locks.owner_of(ledger.path, load.id) is not None,
        run=ledger.run_of(load.id),
    )
