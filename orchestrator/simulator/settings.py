"""What can be set about the simulated subscription? Every rule nobody documents is here, as a knob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Settings:
    """One simulated subscription. Times in seconds, sizes in bytes."""

    seed: int = 1
    clients: Mapping[str, str] = field(default_factory=lambda: {"demo-client": "demo-secret"})
    """client id -> client secret."""
    may_import: bool = True
    """False: the API user's role lacks Read-Write Lead; imports answer 603."""

    # Processing
    workers: int = 2
    queue_limit: int = 10
    rows_per_second: float = 2_000.0
    """Of each processor."""
    seconds_per_job: float = 0.5
    """Before the first row of a job."""
    failing_jobs: frozenset[int] = frozenset()
    """The n-th accepted jobs (from 1) that end Failed."""
    poison: str | None = None
    """A job with a row that holds this value ends Failed."""
    failed_message: str = "System error"
    transient_share: float = 0.0
    """Of rows that fail the first times they are imported, and not after that. No document shows one; users of other
    bulk imports know such rows. Rows that are alike count as one."""
    transient_tries: int = 1
    """How many times they fail."""
    transient_reason: str = "System error"

    # Tokens
    token_life: float = 3_600.0
    expires_in_zero: bool = True
    """In its last second a token comes with expires_in 0, as seen in real answers."""
    accept_token_in_form: bool = False
    """Whether tokens in form fields still work is not documented."""

    # Limits
    file_limit: int = 10_000_000
    """Of the whole body; Adobe says 10 MB and not which."""
    calls_per_20s: int = 100
    calls_at_once: int = 10
    calls_per_day: int = 50_000
    calls_used_before: int = 0
    """Calls of today that others made."""
    batch_life: float = 7 * 86_400.0
    unknown_batch: Literal["1013", "610", "404"] = "1013"

    # Parameters
    unknown_lookup: Literal["1006", "fail every row"] = "1006"
    lists: frozenset[int] = frozenset({1001, 1002})
    list_busy: Literal["importing", "queued", "never"] = "importing"
    """When a list counts as being imported to (1019): Adobe does not say whether a queued job counts."""
    partitions: tuple[str, ...] = ("Default",)
    programs: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: {1044: ("On List", "Member")})
    """program id -> member statuses of its channel."""

    # Result files
    requote: bool = True
    """False: values with delimiters or line ends are echoed without quotes, as seen in real files."""
    drop_empty_lookup_column: bool = False
    """True: a lookup column that is empty in all failed rows is left out, as seen in real files."""
    no_rows: Literal["404", "empty", "header"] = "empty"
    """What leads and members answer for a result file without rows. Custom objects answer 404 (documented)."""
    order: Literal["input", "shuffled"] = "input"

    # What is noted
    min_poll_interval: float = 5.0
    """A client that asks after one batch more often than this breaks a rule."""
    keep_leads: bool = False
    """Keep the end state, key -> row: costs memory."""
    keep_bodies: bool = False
    """Keep every accepted file: costs memory."""
