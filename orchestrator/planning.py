"""How does a source become a load that the ledger knows, or lead to the load that is known already?

The same source, settings and subscription are the same load: whoever gives its command again goes on with it. A load
that is known and not finished is owned before anything of it is changed. Blocking throughout.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from orchestrator import intake, retrying
from orchestrator.adapters import locks
from orchestrator.adapters.clock import Clock
from orchestrator.adapters.files import fingerprint_file, plan_file, private_folder
from orchestrator.adapters.ledger import Ledger
from orchestrator.config import Config
from orchestrator.core.model import (
    Fingerprint,
    Format,
    Load,
    LoadId,
    OnDoubt,
    OnDuplicate,
    Plan,
    Priority,
    Reading,
    RejectedRow,
    SourceFile,
    Target,
)
from orchestrator.core.origins import called, is_text, place
from orchestrator.core.plan import load_id
from orchestrator.core.rows import NOT_UTF8
from orchestrator.errors import Misconfigured, TooManyRejected

log = structlog.get_logger()

COLLECTED = "batches"
"""Folder inside the report's, for the failure and warning files of each batch."""
REJECTED_SHOWN = 5
"""Rejected rows named in a message."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What one command line asks of one load, over and above the configuration."""

    target: Target
    format: Format | None = None
    reading: Reading = field(default_factory=Reading)
    report_dir: Path | None = None
    """The report's own folder; None: `<report.dir>/<load id>`."""
    fail_on_warning: bool = False
    on_duplicate: OnDuplicate = "together"
    """What becomes of rows that share a key."""
    on_doubt: OnDoubt = "resend"
    priority: Priority | None = None
    """None: as it was, or normal."""
    max_wait_s: float | None = None
    max_rejected: int = 0
    force: bool = False
    retry: bool = True
    """Rows that fail by accident go again at the end."""


def find_or_plan(
    config: Config,
    ledger: Ledger,
    named: Sequence[str],
    options: LoadOptions,
    clock: Clock,
    interrupted: intake.Interrupted = lambda: None,
) -> tuple[Load, locks.Ownership | None]:
    """The load of this content and these settings: as the ledger knows it, then owned; or newly planned."""
    intake.sweep_spools(ledger)
    paths = intake.paths_of(named)
    for known in intake.loads_of(ledger, paths, options.reading, interrupted):
        mine = (known.target, known.on_duplicate) == (options.target, options.on_duplicate)
        mine = mine and known.subscription == config.subscription_host
        if mine and options.format in (None, known.format) and not (options.force and known.finished_at is not None):
            return known_again(ledger, known, None, options)
    with intake.opened(config, paths, options.reading, options.format, interrupted) as source:
        return _known_or_planned(config, ledger, source, replace(options, format=source.format), clock)


def _known_or_planned(
    config: Config, ledger: Ledger, source: intake.Source, options: LoadOptions, clock: Clock
) -> tuple[Load, locks.Ownership | None]:
    path = source.path
    fingerprint: Fingerprint | None = None
    known: Load | None = None
    if ledger.knows_size(path.stat().st_size):  # hashing is quicker than planning
        fingerprint = fingerprint_file(path)
        known = _newest(ledger, fingerprint, config, options)
    if known is not None and not (options.force and known.finished_at is not None):
        return known_again(ledger, known, source, options)
    keep_rejected = max(options.max_rejected, REJECTED_SHOWN)
    at, plan = plan_of(config, source, options, keep_rejected)
    check_rejected(source, plan, options.max_rejected)
    identity = identity_of(plan.fingerprint, plan.format, config, options)
    again = 0
    while options.force and (earlier := ledger.load(identity(again))) is not None and earlier.finished_at is not None:
        again += 1
    number = identity(again)
    report_dir = report_folder(ledger, number, options.report_dir or config.report_dir / number)
    at = replace(at, path=str(source.keep(number)))
    new = new_load(number, at, plan, options, config.subscription_host, report_dir, clock.now())
    new = replace(new, on_doubt=options.on_doubt, origin=source.origin, priority=options.priority or "normal")
    if not ledger.add_load(new, plan):  # another process planned it while we did
        taken = ledger.load(new.id)
        assert taken is not None
        return known_again(ledger, taken, source, options)
    log.info("load.planned", load=new.id, chunks=new.chunks, rows=new.rows, rejected=new.rejected)
    return new, None


def plan_of(config: Config, source: intake.Source, options: LoadOptions, keep_rejected: int) -> tuple[SourceFile, Plan]:
    """A source planned by these options; so many rejected rows are kept. Raises SourceUnusable."""
    beside_ledger = config.ledger_path.resolve().parent
    return plan_file(
        source.path,
        format=options.format,
        budget=config.limits.chunk_bytes,
        lookup_field=options.target.key_column,
        keep_rejected=keep_rejected,
        name=source.name,
        on_duplicate=options.on_duplicate,
        spill_folder=beside_ledger if beside_ledger.is_dir() else None,
    )


def new_load(
    number: LoadId, at: SourceFile, plan: Plan, options: LoadOptions, subscription: str, report_dir: Path, now: float
) -> Load:
    """The load of a plan, as it is before anything is known of how it is to be run."""
    return Load(
        id=number,
        subscription=subscription,
        source=at,
        fingerprint=plan.fingerprint,
        format=plan.format,
        header=plan.header,
        target=options.target,
        budget=plan.budget,
        rows=plan.rows,
        rejected=plan.rejected_rows + plan.superseded_rows,
        chunks=len(plan.chunks),
        on_doubt="resend",
        report_dir=str(report_dir),
        collected_dir=str(report_dir / COLLECTED),
        created_at=now,
        on_duplicate=options.on_duplicate,
    )


def known_again(
    ledger: Ledger, known: Load, source: intake.Source | None, options: LoadOptions
) -> tuple[Load, locks.Ownership | None]:
    """A load that the ledger knows, with its source and report where they are now.

    One that is not finished is owned first: nothing is moved under the feet of a process that runs it.
    """
    ownership = own(ledger, known) if known.finished_at is None else None
    try:
        return _moved(ledger, known, source, options), ownership
    except BaseException:
        if ownership is not None:
            ownership.release()
        raise


def look_for_report(load: Load) -> None:
    """Warn that the folder of an unfinished load is gone, before anything more is collected: what there is of its
    result files may have moved with the working folder, and would be missed in the report."""
    if load.finished_at is None and not Path(load.report_dir).is_dir():
        log.warning("report.folder_gone", load=load.id, folder=load.report_dir)


def _moved(ledger: Ledger, known: Load, source: intake.Source | None, options: LoadOptions) -> Load:
    look_for_report(known)
    wanted = report_folder(ledger, known.id, options.report_dir or Path(known.report_dir))
    at, origin = known.source, known.origin
    if source is not None and (known.retry is None or source.spool is not None):  # a user's file is no spool
        path, origin = source.keep(known.id), source.origin
        stat = path.stat()
        at = SourceFile(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if at.path != known.source.path:  # the same rows from another file: the spool file of before is not needed
            retrying.forget(ledger, known)
    collected = str(wanted / COLLECTED)
    ledger.move_source(known.id, at, origin, str(wanted), collected)
    return replace(known, source=at, origin=origin, report_dir=str(wanted), collected_dir=collected)


def report_folder(ledger: Ledger, load: LoadId, folder: Path) -> Path:
    """The report's folder, made before anything is sent. Of one load only: another's report would be written over."""
    try:
        folder = folder.resolve()
        if not is_text(str(folder)):
            raise OSError(errno.EILSEQ, "this name is not UTF-8")
        private_folder(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written to")
    except (OSError, RuntimeError) as error:
        raise Misconfigured(
            f"report folder {folder}: {why_not(error)}",
            remedy="Name another with --report-dir or report.dir; nothing was sent.",
        ) from error
    ledger.check_report_dir(str(folder), load)
    return folder


def identity_of(
    fingerprint: Fingerprint,
    format: Format,
    config: Config,
    options: LoadOptions,
) -> Callable[[int], LoadId]:
    """By how many times it was loaded before: the id of the load of this content with these settings."""

    def identity(again: int) -> LoadId:
        host = config.subscription_host
        return load_id(fingerprint, options.target, format, host, again, options.on_duplicate)

    return identity


def _newest(ledger: Ledger, fingerprint: Fingerprint, config: Config, options: LoadOptions) -> Load | None:
    """The newest load of this content into this target, in whichever format it was read."""
    newest: Load | None = None
    for format in [options.format] if options.format else list(Format):
        identity, again = identity_of(fingerprint, format, config, options), 0
        while (known := ledger.load(identity(again))) is not None:
            newest, again = known, again + 1
    return newest


def check_rejected(source: intake.Source, plan: Plan, max_rejected: int) -> None:
    """Raises TooManyRejected, naming the first of them."""
    remedy = rejected_remedy(plan, max_rejected)
    if not remedy:
        return
    named = "\n".join(f"  {rejected_at(source, row)}" for row in plan.rejected[:REJECTED_SHOWN])
    more = plan.rejected_rows - min(REJECTED_SHOWN, len(plan.rejected))
    raise TooManyRejected(
        f"{source.name}: {plan.rejected_rows:,} of {plan.rows:,} rows cannot be sent as they stand; nothing was sent\n"
        f"{named}" + (f"\n  and {more:,} more" if more else ""),
        remedy=remedy,
    )


def rejected_remedy(plan: Plan, max_rejected: int) -> str:
    """What to do about more rows that cannot be sent than are allowed; empty where there are no more."""
    if plan.rejected_rows <= max_rejected:
        return ""
    leave = f"leave them out with --max-rejected {plan.rejected_rows}: the report names them."
    if any(row.reason.endswith(NOT_UTF8) for row in plan.rejected):
        return f"If the file is in another encoding, say which, such as --encoding cp1252; or mend them, or {leave}"
    return f"Mend them, or {leave}"


def own(ledger: Ledger, load: Load) -> locks.Ownership:
    """Become the load's owner, before anything of it is changed. Raises LoadBusy."""
    remedy = "`orchestrator status` shows how it stands; wait for it, or stop it and run this again."
    return locks.take_when_free(ledger.path, load.id, remedy)


def rejected_at(source: intake.Source, rejected: RejectedRow) -> str:
    """A rejected row by its place in the user's file."""
    original, line = place(source.origin, rejected.row, rejected.line)
    where = "" if line is None else f" (line {line})"
    if source.origin is not None and original is not None and len(source.origin.originals) > 1:
        where = f" ({called(source.origin.originals[original].path)}, line {line})"
    return f"row {rejected.row}{where}: {rejected.reason}"


def why_not(error: OSError | RuntimeError) -> str:
    """Why a path leads nowhere. (Up to Python 3.12 symbolic links in a circle are a RuntimeError of pathlib's.)"""
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return os.strerror(errno.ELOOP)
