"""When is the report of a load removed, and what goes with it?

Reports hold lead data, so they do not stay for ever: those of loads that finished more than `report.keep_days` ago are
removed at the end of the next load that finishes, whoever runs it. Never that of an unfinished load, nor of one that
a living process owns, nor of the load that has just finished. What the ledger holds has no lead data and stays, until
`purge LOAD` removes it too; then the same source is a new load.

Only files that a report is made of are removed, by their names, and folders only when nothing else is in them: a report
may have been wanted in a folder where other things lie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from orchestrator.adapters import locks
from orchestrator.adapters.ledger import Ledger
from orchestrator.core.model import Load
from orchestrator.errors import LoadBusy, LoadUnfinished, ReportFailing

log = structlog.get_logger()

DAY_S = 86_400.0
REPORT_FILES = re.compile(r"\.?(report\.(csv|jsonl|json|html)|retry\.csv)(\.part)?")
COLLECTED_FILES = re.compile(r"\.?\d+-\d+\.(failures|warnings)\.(csv|tsv|ssv)(\..*)?")


def forget_old(ledger: Ledger, keep_days: float, now: float, but: Load) -> int:
    """Remove the reports of loads that finished long ago; says how many. One that cannot be removed is let be.

    A report that was written again has been wanted since: its own age counts too.
    """
    removed = 0
    for load in ledger.loads():
        if load.id == but.id or Path(load.report_dir) == Path(but.report_dir):
            continue
        if not _is_old(load, now - keep_days * DAY_S):
            continue
        try:
            with _owned(ledger, load):
                _remove_files(ledger, load, ledger.collected_paths(load.id))
        except LoadBusy:
            continue
        except OSError as error:
            log.warning("report.not_removed", old=load.id, why=error.strerror)
        else:
            removed += 1
            log.info("report.removed", old=load.id)
    return removed


def _is_old(load: Load, before: float) -> bool:
    if load.finished_at is None or load.finished_at > before:
        return False
    try:
        return (Path(load.report_dir) / "report.json").stat().st_mtime <= before
    except OSError:  # it is gone already
        return False


def purge(ledger: Ledger, load: Load, *, unfinished: bool) -> None:
    """Remove a load: its report, its collected files, and all that the ledger holds of it.

    unfinished: also one that is not finished; its batches then go on inside Marketo, and nobody will know of them.
    Raises LoadBusy while a living process runs it, LoadUnfinished, and ReportFailing when a file cannot be removed.
    """
    if load.finished_at is None and not unfinished:
        raise LoadUnfinished(
            f"load {load.id} is not finished: what it has sent may still be under way inside Marketo",
            remedy=f"Go on with `orchestrator resume {load.id}`, or give it up with `purge {load.id} --unfinished`.",
        )

    try:
        with _owned(ledger, load):
            if ledger.holds_slot(load.id):
                raise LoadUnfinished(
                    f"load {load.id} has batches that are, or may be, in Marketo's queue",
                    remedy=f"Their slots must be known until they end: `orchestrator resume {load.id}`, then purge.",
                )
            _remove_files(ledger, load, ledger.collected_paths(load.id))
            ledger.remove_load(load.id)  # last: what could not be removed is still known, and purged by the next try
            locks.forget(ledger.path, load.id)
    except OSError as error:
        remedy = f"See that it may be written to, and run `orchestrator purge {load.id}` again."
        raise ReportFailing(load.report_dir, error, remedy) from error


@contextmanager
def _owned(ledger: Ledger, load: Load) -> Iterator[None]:
    ownership = locks.take_when_free(ledger.path, load.id, "Wait for it, or stop it and run this again.")
    try:
        with locks.reporting(ledger.path, load.id):
            yield
    finally:
        ownership.release()


def _remove_files(ledger: Ledger, load: Load, collected: Iterable[str]) -> None:
    """What a report is made of, and the folders that are empty then.

    Earlier releases let several loads report to one folder: its report is that of the load it names. A load whose
    report went elsewhere leaves its collected files behind.
    """
    for path in map(Path, collected):
        path.unlink(missing_ok=True)
    shared = any(other != load.id for other in ledger.reporting_to(load.report_dir))
    if shared and not _is_of(load):
        return
    others = ledger.collected_by_others(load.collected_dir, load.id)
    for folder, names in ((Path(load.collected_dir), COLLECTED_FILES), (Path(load.report_dir), REPORT_FILES)):
        if not folder.is_dir() or (shared and names is COLLECTED_FILES):
            continue
        # report.json tells the age of a report: while anything of it is left, it is there.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "report.json"):
            if names.fullmatch(path.name) and str(path) not in others and (path.is_file() or path.is_symlink()):
                path.unlink()
        with suppress(OSError):  # something else lies there
            folder.rmdir()


def _is_of(load: Load) -> bool:
    """Is the report in its folder its own?"""
    try:
        report = json.loads((Path(load.report_dir) / "report.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and report.get("load_id") == load.id
