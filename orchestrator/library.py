"""How are the parts put together? The composition root: what the command line (and other shells) may call.

Shells hand in a Config and options, and get values and exceptions back; nothing here prints or exits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.core.model import ChunkRecord, Format, Load, LoadId, OnDoubt, Plan, State, Target, Totals
from orchestrator.errors import OrchestratorError


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
class Progress:
    """How a load stands at one moment; handed to the observer about twice a second and on the last step."""

    load_id: LoadId
    source_name: str
    now: float
    started_at: float
    """When this run of the load began (not the load itself)."""
    rows: int
    rows_settled: int
    rows_settled_before: int
    """Of `rows_settled`, how many were settled before this run began: leave them out of a rate."""
    imported: int
    failed: int
    warned: int
    chunks: int
    chunks_by_state: Mapping[State, int]
    slots_used: int
    """Slots held in this subscription, by all loads that share the ledger."""
    slots_limit: int
    bytes_sent: int
    eta_s: float | None
    """Seconds until the load is probably done; None while nothing is known."""
    waiting_for: str
    """In words, what is being waited for when nothing moves; empty otherwise."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """How a load ended, or stopped."""

    load: Load
    totals: Totals
    exit_code: int
    report_dir: Path
    reasons: tuple[tuple[str, str, int], ...] = ()
    """(kind, reason, rows), the commonest first."""
    doubts: int = 0
    seconds: float = 0.0
    already_finished: bool = False
    """The load had finished before: nothing was sent, the report was written again."""
    stopped: OrchestratorError | None = None
    """Why it stopped before its end, when it did; it is resumable then."""


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The dry run."""

    source: Path
    plan: Plan
    load_id: LoadId
    calls: int
    """Calls of Marketo's daily quota it will probably cost."""
    seconds: float
    """How long it will probably take, at the assumed processing speed."""
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
