"""What do the words of the glossary look like as types?

Plain frozen values: ids, the plan of a source, what happened to a chunk (facts), and what may be done next
(actions). Nothing here decides anything. Times are seconds since the epoch, UTC; offsets and sizes are
bytes; rows are numbered from 1 (the first row after the header); physical lines from 1 (the header's line).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NewType

LoadId = NewType("LoadId", str)
ChunkNumber = NewType("ChunkNumber", int)
BatchId = NewType("BatchId", int)

OnDoubt = Literal["resend", "stop"]
Priority = Literal["low", "normal", "high"]
"""Of a load among those of its subscription."""
OnDuplicate = Literal["together", "last", "ignore"]
"""What becomes of rows that share a key: `core.twins`."""


class Format(StrEnum):
    """The three formats Marketo's import accepts, by the wire's own names."""

    CSV = "csv"
    TSV = "tsv"
    SSV = "ssv"

    @property
    def delimiter(self) -> str:
        return {Format.CSV: ",", Format.TSV: "\t", Format.SSV: ";"}[self]


# --- the plan ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a source is known by: a resumed load must match it."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Span:
    """A run of whole rows, back to back in the source: bytes [start, stop), row ends included."""

    start: int
    stop: int
    rows: int
    first_row: int
    first_line: int


ROW_TAG = "orchestrator_row"
"""Name of the column that is sent before all others where rows are sent with their numbers (`core.tags`)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first record: bytes [start, stop) of the source, its row end included, a BOM excluded."""

    start: int
    stop: int
    fields: tuple[str, ...]

    @property
    def own(self) -> tuple[str, ...]:
        """The user's own columns: all but the one with the number of the row."""
        return self.fields[1:] if self.fields[:1] == (ROW_TAG,) else self.fields


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole rows that become one upload: the header, then the spans, in order.

    `size_bytes` and `sha256` are of exactly the bytes that are sent as the file: header, then spans.
    """

    number: ChunkNumber
    spans: Sequence[Span]
    rows: int
    size_bytes: int
    sha256: str
    parent: ChunkNumber | None = None
    again: int = 0
    """How many times its rows have gone again after they failed: 0 in the chunks of the plan and their halves."""
    twins: bool = False
    """Its rows share keys with each other: they take effect in the order of the source, and go again in no other."""
    after: ChunkNumber | None = None
    """It may be offered only when that one is at rest; None: at once, or that one is."""

    @property
    def first_row(self) -> int:
        return self.spans[0].first_row

    @property
    def last_row(self) -> int:
        return self.spans[-1].first_row + self.spans[-1].rows - 1


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be sent as it stands. `reason` says why and holds nothing of the row's content."""

    row: int
    line: int
    start: int
    stop: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The chunks of one source under one budget. The same source and budget give the same plan.

    `rows` counts every row of the source, the rejected ones included; blank lines are not rows.
    """

    format: Format
    fingerprint: Fingerprint
    header: Header
    budget: int
    rows: int
    chunks: Sequence[Chunk]
    rejected: tuple[RejectedRow, ...]
    """The first of them; all of them as long as there are no more than the planner was told to keep."""
    rejected_rows: int
    """How many there are."""
    blank_lines: int
    superseded: Iterable[RejectedRow] = ()
    """Rows that are not sent since a later one has their key."""
    superseded_rows: int = 0
    shared_keys: int = 0
    """Keys that several rows have, as far as they were looked for."""

    @property
    def twin_rows(self) -> int:
        """Rows that share keys and go to chunks of their own."""
        return sum(chunk.rows for chunk in self.chunks if chunk.twins)


# --- the load ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows go: the import settings that, with the source's content, make a load what it is."""

    kind: Literal["leads", "customobjects", "members"] = "leads"
    name: str | None = None
    """API name of the custom object, or the program's id; None for leads."""
    lookup_field: str = "email"
    """Used by leads only: custom objects have their dedupe fields, program members their e-mail."""
    list_id: int | None = None
    partition_name: str | None = None
    member_status: str | None = None

    @property
    def key_column(self) -> str | None:
        """The column that every row must have; None for custom objects, whose dedupe fields only Marketo knows."""
        return {"leads": self.lookup_field, "members": "email", "customobjects": None}[self.kind]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The file as it was when it was planned. `mtime_ns` and `inode` are hints; the hashes decide."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Original:
    """A file of the user, as it was when it was made into a spool file. `path` is "-" for standard input."""

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How originals are to be read, where the user said so."""

    encoding: str | None = None
    sheet: str | None = None
    query: str | None = None
    """SQL over a table named `source`."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(new name, old name) of columns."""
    tagged: bool = False
    """Each row is sent with its number."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of the spool that stands in one original, back to back.

    first: its first line of the spool (its first row, where originals are counted in rows). shift: what to add to a
    line (or row) of the spool to have the line of the original.
    """

    first: int
    original: int
    shift: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What a spool file was made from, and where its rows stand there."""

    originals: tuple[Original, ...]
    reading: Reading
    counted: Literal["lines", "rows", "not"] = "lines"
    """What stretches count; "not": a query's rows stand nowhere."""
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """What makes a load one of rows that failed before: of which load, which of its rows, mended how.

    reasons, fix: as they were asked for (`core.worth`, `core.repair`); the same again gives the same rows.
    """

    of: LoadId
    reasons: str
    fix: str


@dataclass(frozen=True, slots=True)
class Load:
    """One source on its way into one subscription with one set of import settings."""

    id: LoadId
    subscription: str
    """Host of the subscription's base URL: whose queue, whose quota."""
    source: SourceFile
    fingerprint: Fingerprint
    format: Format
    header: Header
    target: Target
    budget: int
    rows: int
    rejected: int
    chunks: int
    on_doubt: OnDoubt
    report_dir: str
    collected_dir: str
    created_at: float
    finished_at: float | None = None
    exit_code: int | None = None
    priority: Priority = "normal"
    on_duplicate: OnDuplicate = "ignore"
    """What became of rows that share a key when it was planned."""
    origin: Origin | None = None
    """What the source was made from, when `source` is a spool file. A retry has that of the first load."""
    retry: Retry | None = None
    """Its source is then a spool file of rows of an earlier load."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the run of a load last said of itself, for other processes to read."""

    heard_at: float
    unsent: int
    """Chunks it could send now, ten at most."""
    waiting_for: str = ""
    """In words; of a run that has ended, why it stopped early."""
    waiting_since: float | None = None
    ends_at: float | None = None
    """When the load will probably be done."""
    work_unsent: int = 0
    """What it has still to send costs, in rows (`expect.work`)."""
    ended: bool = False
    queued_jobs: int = 10
    """Its `limits.queued_jobs`."""


# --- where a chunk stands -----------------------------------------------------------------------------


class State(StrEnum):
    """Where a chunk stands. What is true in each: `lifecycle.STATES`."""

    PLANNED = "planned"
    OFFERED = "offered"
    DOUBTFUL = "doubtful"
    QUEUED = "queued"
    IMPORTING = "importing"
    COLLECTING = "collecting"
    SETTLED = "settled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    HELD = "held"
    HALVED = "halved"


@dataclass(frozen=True, slots=True)
class Counts:
    """What Marketo counted for one batch. `imported` includes the warned rows and excludes the failed ones."""

    imported: int
    failed: int
    warned: int


@dataclass(frozen=True, slots=True)
class CollectedFile:
    """A failure or warning file as it was saved: where, how many records it has, and what it should have."""

    path: str
    records: int


@dataclass(frozen=True, slots=True)
class Offer:
    """One attempt to send a chunk, and what became of it. Fields are filled in as facts arrive."""

    attempt: int
    offered_at: float
    slot: int
    batch_id: BatchId | None = None
    accepted_at: float | None = None
    lost_at: float | None = None
    queued_last_at: float | None = None
    """When the question was sent whose answer was Queued, the last time: not importing until then."""
    importing_first_at: float | None = None
    """When an answer that said Importing had arrived, the first time."""
    importing_last_at: float | None = None
    """When the question was sent whose answer was Importing, the last time: importing for sure until then."""
    ended_at: float | None = None
    status: Literal["Complete", "Failed"] | None = None
    counts: Counts | None = None
    message: str = ""
    collected_at: float | None = None
    failures: CollectedFile | None = None
    warnings: CollectedFile | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one chunk stands now, and the offer that brought it there."""

    load_id: LoadId
    number: ChunkNumber
    rows: int
    state: State
    attempts: int = 0
    """Offers made so far, refused and deferred ones included."""
    batch_failures: int = 0
    """How many of its batches ended Failed."""
    doubts: int = 0
    """How many of its offers lost their answer."""
    batch_failures_before: int = 0
    """Batches that ended Failed of the chunks it was cut from."""
    doubts_before: int = 0
    """Offers that lost their answer of the chunks it was cut from."""
    moved: int = 0
    """Of its failed rows, how many went into a later chunk of the load: they are counted there."""
    not_before: float = 0.0
    """PLANNED: earliest time of the next offer. COLLECTING: earliest time of the next try."""
    why: str = ""
    """Why it was deferred, doubted, held, rejected or expired, last."""
    offer: Offer | None = None
    """The newest offer; None until the first."""


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """Everything the ledger holds of one chunk: what it is, where it stands, every offer in order."""

    chunk: Chunk
    standing: Standing
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Where every row of a load is. `warned` rows are counted in `imported` too.

    Always `rows == imported + failed + rejected + unsent + unknown`.
    """

    rows: int
    imported: int
    failed: int
    warned: int
    rejected: int
    unsent: int
    unknown: int


# --- facts --------------------------------------------------------------------------------------------
# Past tense, immutable, with their time. `lifecycle.apply` says what each means for a chunk.


@dataclass(frozen=True, slots=True)
class Offered:
    """The chunk is about to be sent. Durable before its first byte leaves."""

    at: float
    slot: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Marketo answered with a batch id. Durable before anything else happens."""

    at: float
    batch_id: BatchId


@dataclass(frozen=True, slots=True)
class Deferred:
    """Certainly not executed: the chunk goes back until a time."""

    at: float
    until: float
    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Marketo will not take this chunk, now or later; or its load was cancelled before it was offered."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """The body was sent and no sound answer came: the batch may exist."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class DoubtEnded:
    """Whatever the lost upload started is over: its slot is free."""

    at: float
    how: Literal["fence", "lease"]
    resend: bool


@dataclass(frozen=True, slots=True)
class Released:
    """The operator let a held chunk be sent again."""

    at: float


@dataclass(frozen=True, slots=True)
class HeldBack:
    """The chunk that it waits for is held, so it is held as well."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class SeenQueued:
    """A status answer said Queued. `asked_at` is when the question left, `at` when the answer was there."""

    asked_at: float
    at: float


@dataclass(frozen=True, slots=True)
class SeenImporting:
    """A status answer said Importing. `asked_at` is when the question left, `at` when the answer was there."""

    asked_at: float
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A status answer said Complete or Failed."""

    at: float
    status: Literal["Complete", "Failed"]
    counts: Counts
    message: str


@dataclass(frozen=True, slots=True)
class Expired:
    """Marketo does not know the batch id any more: outcome and reasons are lost."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class Collected:
    """The failure and warning files are on disk and counted."""

    at: float
    failures: CollectedFile | None
    warnings: CollectedFile | None


@dataclass(frozen=True, slots=True)
class Halved:
    """The chunk was too large, or broke its batches: its children take its place and cover it exactly."""

    at: float
    children: tuple[Chunk, ...]
    why: str


@dataclass(frozen=True, slots=True)
class MovedOn:
    """Some of its failed rows went into a last chunk of the load."""

    at: float
    rows: int
    again: int
    """How many times they have gone again then."""


Fact = (
    Offered
    | Accepted
    | Deferred
    | Refused
    | AnswerLost
    | DoubtEnded
    | Released
    | HeldBack
    | SeenQueued
    | SeenImporting
    | Ended
    | Expired
    | Collected
    | Halved
    | MovedOn
)


# --- actions ------------------------------------------------------------------------------------------
# Imperative, never stored: what may be done now.


@dataclass(frozen=True, slots=True)
class Submit:
    load_id: LoadId
    number: ChunkNumber
    slots: int
    """How many slots may be held then, this one included, by all loads together."""


@dataclass(frozen=True, slots=True)
class Poll:
    load_id: LoadId
    number: ChunkNumber
    batch_id: BatchId


@dataclass(frozen=True, slots=True)
class Collect:
    load_id: LoadId
    number: ChunkNumber
    batch_id: BatchId


@dataclass(frozen=True, slots=True)
class EndDoubt:
    load_id: LoadId
    number: ChunkNumber
    how: Literal["fence", "lease"]


Action = Submit | Poll | Collect | EndDoubt
