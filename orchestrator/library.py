"""How are the parts put together? The composition root: what the command line (and other shells) may call.

Shells hand in a Config and options, and get values and exceptions back; nothing here prints or exits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import structlog

from orchestrator.adapters import locks
from orchestrator.adapters.clock import Clock
from orchestrator.adapters.files import fingerprint_file, plan_file, private_folder
from orchestrator.adapters.ledger import Connect, Ledger, connect
from orchestrator.adapters.marketo import DESCRIBE_BYTES_MAX, Marketo, Transport
from orchestrator.adapters.mounts import network_file_system
from orchestrator.adapters.render import write_report
from orchestrator.adapters.salvage import Salvaged, Unreadable, salvage
from orchestrator.caller import Caller
from orchestrator.config import Config
from orchestrator.core.lifecycle import AT_REST
from orchestrator.core.model import (
    ChunkRecord,
    Fingerprint,
    Format,
    Load,
    LoadId,
    OnDoubt,
    Plan,
    Released,
    SourceFile,
    State,
    Target,
    Totals,
)
from orchestrator.core.plan import load_id
from orchestrator.core.reasons import ReasonCount
from orchestrator.core.report import exit_code as exit_code_of
from orchestrator.core.report import totals as totals_of
from orchestrator.core.schedule import Limits
from orchestrator.core.verdicts import Answered, Verdict
from orchestrator.errors import (
    DoubtHeld,
    LedgerUnusable,
    LoadBusy,
    Misconfigured,
    OrchestratorError,
    ReportFailing,
    SourceChanged,
    SourceMissing,
    TooManyRejected,
    UnknownLoad,
)
from orchestrator.retention import forget_old
from orchestrator.retention import purge as purge_load
from orchestrator.runner.loop import Progress, Runner

log = structlog.get_logger()

COLLECTED = "batches"
"""Folder inside the report's, for the failure and warning files of each batch."""
QUOTA_PATIENCE_S = 5.0
REJECTED_SHOWN = 5
"""Rejected rows named in a message."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What one command line asks of one load, over and above the configuration."""

    target: Target
    format: Format | None = None
    report_dir: Path | None = None
    """The report's own folder; None: `<report.dir>/<load id>`."""
    fail_on_warning: bool = False
    on_doubt: OnDoubt = "resend"
    max_wait_s: float | None = None
    max_rejected: int = 0
    force: bool = False


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
    already_finished: bool = False
    """The load had finished before: nothing was sent, the report was written again."""
    stopped: OrchestratorError | None = None
    """Why it stopped before its end, when it did; it is resumable then."""
    interrupted: bool = False
    """A signal stopped it before its end; its report was not written."""


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The dry run."""

    source: Path
    plan: Plan
    load_id: LoadId
    calls: int
    """Calls of Marketo's daily quota it will probably cost."""
    seconds: float | None
    """How long it will probably take, going by this subscription's past batches; None when there are none."""
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """One load as the ledger shows it. `records` is filled in when one load was asked for."""

    load: Load
    totals: Totals
    chunks_by_state: Mapping[State, int]
    running: bool
    """A living process owns it now."""
    records: tuple[ChunkRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One thing `check` looked at."""

    what: str
    ok: bool
    """False makes the command fail; a warning is ok with `note` set."""
    note: str = ""
    exit_code: int = 0


@dataclass
class StopRequest:
    """Set by a shell from a signal handler: the load drains and stops. `exit_code` is what it then returns."""

    exit_code: int = 0
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    def set(self, exit_code: int) -> None:
        self.exit_code = self.exit_code or exit_code
        for callback in self.callbacks:
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


# --- load ---------------------------------------------------------------------------------------------


async def load(
    config: Config,
    source: Path,
    options: LoadOptions,
    *,
    observer: Observer | None = None,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> LoadResult:
    """Load a source, or go on with the load of it that the ledger knows. Raises OrchestratorError."""
    world = world or World()
    clock = world.clock
    with _ledger(config, world.connect) as ledger:
        found = await anyio.to_thread.run_sync(partial(_find_or_plan, config, ledger, source, options, clock))
        if found.finished_at is not None:
            result = await anyio.to_thread.run_sync(partial(_report, ledger, found, clock.now(), found.exit_code))
            return replace(result, already_finished=True)
        return await _drive(config, ledger, found, options, world, observer, stop)


async def resume(
    config: Config,
    load: str | None,
    *,
    on_doubt: OnDoubt | None = None,
    max_wait_s: float | None = None,
    fail_on_warning: bool = False,
    observer: Observer | None = None,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> LoadResult:
    """Go on with an interrupted load: the one named (by the beginning of its id), else the newest."""
    world = world or World()
    clock = world.clock
    with _ledger(config, world.connect) as ledger:
        unfinished = [known for known in ledger.loads() if known.finished_at is None]
        if load is not None:
            found = _known(ledger, load)
        elif unfinished:
            found = unfinished[0]
        else:
            raise UnknownLoad(
                f"ledger {ledger.path}: no load is interrupted", remedy="`orchestrator status` lists the loads."
            )
        if found.finished_at is not None:
            result = await anyio.to_thread.run_sync(partial(_report, ledger, found, clock.now(), found.exit_code))
            return replace(result, already_finished=True)
        options = LoadOptions(
            target=found.target,
            on_doubt=on_doubt or found.on_doubt,
            max_wait_s=max_wait_s,
            fail_on_warning=fail_on_warning,
        )
        return await _drive(config, ledger, found, options, world, observer, stop)


def _find_or_plan(config: Config, ledger: Ledger, source: Path, options: LoadOptions, clock: Clock) -> Load:
    """The load of this content and these settings: as the ledger knows it, or newly planned and written down."""
    path = _existing(source)
    fingerprint: Fingerprint | None = None
    known: Load | None = None
    if ledger.knows_size(path.stat().st_size):  # hashing is quicker than planning
        fingerprint = fingerprint_file(path)
        known = _newest(ledger, fingerprint, config, options)
    if known is not None and not (options.force and known.finished_at is not None):
        return _known_again(ledger, known, path, options)
    at, plan = plan_file(
        path,
        format=options.format,
        budget=config.limits.chunk_bytes,
        lookup_field=_lookup_column(options.target),
        keep_rejected=max(options.max_rejected, REJECTED_SHOWN),
    )
    _check_rejected(path, plan, options.max_rejected)
    identity = _identity(plan.fingerprint, plan.format, config, options.target)
    again = 0
    while options.force and (earlier := ledger.load(identity(again))) is not None and earlier.finished_at is not None:
        again += 1
    number = identity(again)
    report_dir = _report_folder(options.report_dir or config.report_dir / number)
    new = Load(
        id=number,
        subscription=config.subscription_host,
        source=at,
        fingerprint=plan.fingerprint,
        format=plan.format,
        header=plan.header,
        target=options.target,
        budget=plan.budget,
        rows=plan.rows,
        rejected=plan.rejected_rows,
        chunks=len(plan.chunks),
        on_doubt=options.on_doubt,
        report_dir=str(report_dir),
        collected_dir=str(report_dir / COLLECTED),
        created_at=clock.now(),
    )
    if not ledger.add_load(new, plan):  # another process planned it while we did
        taken = ledger.load(new.id)
        assert taken is not None
        return _known_again(ledger, taken, path, options)
    log.info("load.planned", load=new.id, chunks=new.chunks, rows=new.rows, rejected=new.rejected)
    return new


def _known_again(ledger: Ledger, known: Load, path: Path, options: LoadOptions) -> Load:
    """A load that the ledger knows, with its source and report where they are now."""
    stat = path.stat()
    at = SourceFile(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    wanted = _report_folder(options.report_dir or Path(known.report_dir))
    collected = str(wanted / COLLECTED)
    ledger.move_source(known.id, at, str(wanted), collected)
    return replace(known, source=at, report_dir=str(wanted), collected_dir=collected)


def _report_folder(folder: Path) -> Path:
    """The report's folder, made before anything is sent."""
    try:
        folder = folder.resolve()
        private_folder(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written to")
    except (OSError, RuntimeError) as error:
        raise Misconfigured(
            f"report folder {folder}: {_why(error)}",
            remedy="Name another with --report-dir or report.dir; nothing was sent.",
        ) from error
    return folder


def _identity(
    fingerprint: Fingerprint,
    format: Format,
    config: Config,
    target: Target,
) -> Callable[[int], LoadId]:
    return lambda again: load_id(fingerprint, target, format, config.subscription_host, again)


def _newest(ledger: Ledger, fingerprint: Fingerprint, config: Config, options: LoadOptions) -> Load | None:
    """The newest load of this content into this target, in whichever format it was read."""
    newest: Load | None = None
    for format in [options.format] if options.format else list(Format):
        identity, again = _identity(fingerprint, format, config, options.target), 0
        while (known := ledger.load(identity(again))) is not None:
            newest, again = known, again + 1
    return newest


def _check_rejected(path: Path, plan: Plan, max_rejected: int) -> None:
    if plan.rejected_rows <= max_rejected:
        return
    named = "\n".join(
        f"  row {rejected.row} (line {rejected.line}): {rejected.reason}" for rejected in plan.rejected[:REJECTED_SHOWN]
    )
    more = plan.rejected_rows - min(REJECTED_SHOWN, len(plan.rejected))
    raise TooManyRejected(
        f"{path}: {plan.rejected_rows:,} of {plan.rows:,} rows cannot be sent as they stand; nothing was sent\n"
        f"{named}" + (f"\n  and {more:,} more" if more else ""),
        remedy=f"Mend them, or leave them out with --max-rejected {plan.rejected_rows}: the report names them.",
    )


async def _drive(
    config: Config,
    ledger: Ledger,
    load: Load,
    options: LoadOptions,
    world: World,
    observer: Observer | None,
    stop: StopRequest | None,
) -> LoadResult:
    """Own the load, run it, and write its report."""
    clock = world.clock
    ownership = locks.take(ledger.path, load.id)
    if ownership is None:
        pid = locks.owner_of(ledger.path, load.id)
        raise LoadBusy(
            f"load {load.id} is being run by process {pid or 'unknown'}",
            remedy="`orchestrator status` shows how it stands; wait for it, or stop it and run this again.",
        )
    try:
        if options.on_doubt != load.on_doubt:
            ledger.set_on_doubt(load.id, options.on_doubt)
            load = replace(load, on_doubt=options.on_doubt)
        if options.on_doubt == "resend":
            for standing in ledger.held(load.id):
                ledger.record(load.id, standing.number, Released(clock.now()))
        _check_source(load, ledger)
        structlog.contextvars.bind_contextvars(load=load.id)
        started_at = clock.now()
        async with _connected(config, world) as (marketo, caller):
            runner = Runner(
                load,
                ledger=ledger,
                marketo=marketo,
                caller=caller,
                clock=clock,
                rng=world.rng,
                limits=_limits(config),
                calls_left=await _calls_left(config, marketo, caller),
                max_wait_s=options.max_wait_s,
                observe=observer,
            )
            if stop is not None:
                stop.callbacks.append(runner.request_stop)
                if stop.exit_code:
                    runner.request_stop()
            stopped = await runner.run()
        interrupted = stop.exit_code if stop is not None else 0
        keep_days = config.report.keep_days
        finish = partial(_finish, ledger, load, options, clock, stopped, interrupted, keep_days)
        return replace(await anyio.to_thread.run_sync(finish), seconds=clock.now() - started_at)
    finally:
        structlog.contextvars.unbind_contextvars("load")
        ownership.release()


def _finish(
    ledger: Ledger,
    load: Load,
    options: LoadOptions,
    clock: Clock,
    stopped: OrchestratorError | None,
    interrupted: int,
    keep_days: float,
) -> LoadResult:
    """The load's last word: its report and exit code, or why it stopped."""
    states = ledger.chunks_by_state(load.id)
    over = all(state in AT_REST for state, count in states.items() if count)
    if over and states.get(State.HELD):
        held = ", ".join(str(standing.number) for standing in ledger.held(load.id))
        stopped = stopped or DoubtHeld(
            f"{states[State.HELD]} chunks may or may not have been imported (chunk {held}); --on-doubt is stop",
            remedy="Look in Marketo, then `resume --on-doubt resend` to send them again.",
        )
    if not over and stopped is None:
        totals = totals_of(load, ledger.records(load.id))
        return LoadResult(load, totals, interrupted, Path(load.report_dir), interrupted=True)
    if stopped is not None:
        result = _report(ledger, load, clock.now(), stopped.exit_code, stopped=stopped.message)
        return replace(result, stopped=stopped)
    totals = totals_of(load, ledger.records(load.id))
    code = exit_code_of(totals, fail_on_warning=options.fail_on_warning)
    result = _report(ledger, load, clock.now(), code)
    ledger.finish(load.id, clock.now(), code)
    forget_old(ledger, keep_days, clock.now(), but=load)
    return result


def _report(ledger: Ledger, load: Load, now: float, exit_code: int | None, *, stopped: str = "") -> LoadResult:
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
    )


# --- the other commands ---------------------------------------------------------------------------------


def plan(config: Config, source: Path, options: LoadOptions) -> PlanSummary:
    """The dry run: nothing is sent and nothing is written down."""
    path = _existing(source)
    _, planned = plan_file(
        path,
        format=options.format,
        budget=config.limits.chunk_bytes,
        lookup_field=_lookup_column(options.target),
        keep_rejected=max(options.max_rejected, 100),
    )
    findings = [f"row {rejected.row} (line {rejected.line}): {rejected.reason}" for rejected in planned.rejected]
    if planned.rejected_rows > len(findings):
        findings.append(f"and {planned.rejected_rows - len(findings):,} more rows that cannot be sent")
    if planned.blank_lines:
        findings.append(f"{planned.blank_lines:,} blank lines: they are not rows and are not sent")
    rows_per_s: float | None = None
    if config.ledger_path.exists():
        with _ledger(config) as ledger:
            rows_per_s = ledger.rows_per_second(config.subscription_host)
    seconds = (planned.rows - planned.rejected_rows) / rows_per_s / 2 if rows_per_s else None
    polls = 2.0
    if seconds is not None and planned.chunks:
        polls += 2 * seconds / len(planned.chunks) / config.polling.min_interval
    return PlanSummary(
        source=path,
        plan=planned,
        load_id=_identity(planned.fingerprint, planned.format, config, options.target)(0),
        calls=round(len(planned.chunks) * (1 + polls)) + 2,
        seconds=seconds,
        findings=tuple(findings),
    )


def status(config: Config, load: str | None = None) -> list[LoadStatus]:
    """The loads of the ledger, the newest first; with its chunks when one is named."""
    if not config.ledger_path.exists():
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
    return salvage(config.ledger_path, load)


def report(config: Config, load: str) -> LoadResult:
    """Write the report of a load again from what the ledger holds."""
    with _ledger(config) as ledger:
        known = _known(ledger, load)
        code = known.exit_code
        if code is None:
            code = exit_code_of(totals_of(known, ledger.records(known.id)), fail_on_warning=False)
        stopped = "" if known.finished_at is not None else "the load is not finished"
        return _report(ledger, known, Clock().now(), code, stopped=stopped)


def purge(config: Config, load: str, *, unfinished: bool = False) -> Load:
    """Remove a load: its report, its collected files, and what the ledger holds of it."""
    with _ledger(config) as ledger:
        known = _known(ledger, load)
        purge_load(ledger, known, unfinished=unfinished)
        return known


async def check(config: Config, source: Path | None, options: LoadOptions) -> list[CheckLine]:
    """Is the configuration sound, do the credentials work, may the user import, do header and target fit?"""
    lines = [CheckLine("configuration", True, f"{config.subscription_host}, as {config.marketo.client_id}")]
    header: tuple[str, ...] | None = None
    if source is not None:
        try:
            summary = await anyio.to_thread.run_sync(partial(plan, config, source, options))
        except OrchestratorError as error:
            lines.append(CheckLine(f"source {source}", False, str(error), error.exit_code))
        else:
            header = summary.plan.header.fields
            found = f"{summary.plan.rows:,} rows in {len(summary.plan.chunks)} chunks"
            bad = summary.plan.rejected_rows
            note = f"{found}; {bad:,} of them cannot be sent" if bad else found
            lines.append(CheckLine(f"source {source}", bad <= options.max_rejected, note, 65))
    async with _connected(config, World()) as (marketo, caller):
        lines += await _check_access(marketo, caller, options.target, header)
    return lines


async def _check_access(
    marketo: Marketo, caller: Caller, target: Target, header: tuple[str, ...] | None
) -> list[CheckLine]:
    path, what = "/rest/v1/leads/describe2.json", "permission to read leads"
    if target.kind == "customobjects":
        path, what = f"/rest/v1/customobjects/{target.name}/describe.json", f"custom object {target.name}"
    outcome, ruling = await caller.call("other", lambda token: marketo.get(token, path, bytes_max=DESCRIBE_BYTES_MAX))
    reached = caller.sound_at is not None
    refused = "" if reached else f"refused: {ruling.why}. {ruling.remedy}"
    lines = [CheckLine("credentials", reached, refused, ruling.exit_code if reached else 77)]
    if not reached and ruling.exit_code != 77:
        return [CheckLine("Marketo is reached", False, ruling.why, 69)]
    if not reached:
        return lines
    if ruling.verdict is not Verdict.DONE or not isinstance(outcome, Answered):
        return [*lines, CheckLine(what, False, f"{ruling.why}. {ruling.remedy}".strip(), ruling.exit_code or 77)]
    lines.append(CheckLine(what, True, "whether it may write is seen with the first upload"))
    fields = _field_names(outcome)
    if target.kind == "leads" and fields and target.lookup_field not in fields:
        near = get_close_matches(target.lookup_field, fields, n=1)
        note = f"Marketo has no field {target.lookup_field!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        lines.append(CheckLine("lookup field", False, note, 78))
    if header is not None and fields and target.kind != "members":
        lines += [_unknown_column(name, fields) for name in header if name not in fields]
    if target.kind == "leads":
        lines += await _check_places(marketo, caller, target)
    return lines


async def _check_places(marketo: Marketo, caller: Caller, target: Target) -> list[CheckLine]:
    """The static list and the partition. Both questions may need a permission that imports do not."""
    lines: list[CheckLine] = []
    if target.list_id is not None:
        path = f"/rest/v1/lists/{target.list_id}.json"
        outcome, ruling = await caller.call("other", lambda token: marketo.get(token, path))
        found = isinstance(outcome, Answered) and outcome.success and bool(outcome.result)
        note = "" if found else ruling.why or "Marketo has no such static list"
        lines.append(CheckLine(f"static list {target.list_id}", found, note, 78))
    outcome, ruling = await caller.call("other", lambda token: marketo.get(token, "/rest/v1/leads/partitions.json"))
    if isinstance(outcome, Answered) and outcome.success:
        names = [str(item["name"]) for item in outcome.result if isinstance(item, dict) and "name" in item]
        known = ", ".join(names)
        if target.partition_name is not None and target.partition_name not in names:
            lines.append(CheckLine(f"partition {target.partition_name}", False, f"there are: {known}", 78))
        elif target.partition_name is None and len(names) > 1:
            note = f"there are several ({known}): set import.partition_name"
            lines.append(CheckLine("partition", False, note, 78))
    else:
        lines.append(CheckLine("partitions", True, f"could not be asked: {ruling.why}"))
    return lines


def _unknown_column(name: str, fields: list[str]) -> CheckLine:
    near = get_close_matches(name, fields, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return CheckLine(f"column {name!r}", True, f"Marketo has no such field and will ignore the column{hint}")


def _field_names(outcome: Answered) -> list[str]:
    names: list[str] = []
    for described in outcome.result:
        fields = described.get("fields") if isinstance(described, dict) else None
        for item in fields if isinstance(fields, list) else []:
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                names.append(item["name"])
    return names


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
    )
    try:
        yield marketo, caller
    finally:
        with anyio.CancelScope(shield=True):
            await marketo.aclose()


async def _calls_left(config: Config, marketo: Marketo, caller: Caller) -> int | None:
    """Calls of today's quota that this load may use; None when Marketo does not say what was used."""
    outcome: object = None
    with anyio.move_on_after(QUOTA_PATIENCE_S):  # nothing else, no signal either, is looked at meanwhile
        outcome, _ = await caller.call("other", lambda token: marketo.get(token, "/rest/v1/stats/usage.json"))
    if not isinstance(outcome, Answered) or not outcome.success:
        return None
    match outcome.result:
        case ({"total": int(used)}, *_):
            left = config.limits.calls_per_day - config.limits.reserve_calls_per_day - used
            log.info("quota.asked", used=used, left=left)
            return left
    return None


def _limits(config: Config) -> Limits:
    return Limits(
        queued_jobs=config.limits.queued_jobs,
        concurrent_calls=config.limits.concurrent_calls,
        calls_per_20s=config.limits.calls_per_20s,
        doubt_lease_s=config.limits.doubt_lease,
        min_interval_s=config.polling.min_interval,
        max_interval_s=config.polling.max_interval,
    )


def _lookup_column(target: Target) -> str | None:
    """The column every row must have; custom objects have dedupe fields of their own, which Marketo checks."""
    return {"leads": target.lookup_field, "members": "email", "customobjects": None}[target.kind]


def _existing(source: Path) -> Path:
    try:
        return source.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SourceMissing(f"{source}: {_why(error)}", remedy="Check the path of the source.") from error


def _why(error: OSError | RuntimeError) -> str:
    """Why a path leads nowhere. (Up to Python 3.12 symbolic links in a circle are a RuntimeError of pathlib's.)"""
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return os.strerror(errno.ELOOP)


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
    found = ledger.load(load) if load else None
    if found is None:
        raise UnknownLoad(
            f"ledger {ledger.path}: no load {load!r}, or more than one whose id begins so",
            remedy="`orchestrator status` lists the loads.",
        )
    return found


def _check_source(load: Load, ledger: Ledger) -> None:
    """A source whose size changed cannot be the one that was planned. (Every upload checks its own bytes.)"""
    if not any(ledger.chunks_by_state(load.id).get(state) for state in (State.PLANNED, State.OFFERED, State.DOUBTFUL)):
        return  # nothing is left to send: the source may even be gone
    path = _existing(Path(load.source.path))
    size = path.stat().st_size
    if size != load.source.size_bytes:
        raise SourceChanged(
            f"{path}: {size:,} bytes now, {load.source.size_bytes:,} when load {load.id} was planned",
            remedy="Put the planned file back to go on, or load the new one: that is another load.",
        )


def _status(ledger: Ledger, load: Load) -> LoadStatus:
    return LoadStatus(
        load=load,
        totals=totals_of(load, ledger.records(load.id)),
        chunks_by_state=ledger.chunks_by_state(load.id),
        running=locks.owner_of(ledger.path, load.id) is not None,
    )
