"""Every exception we raise on purpose, as one tree, by whose fault it is.

    OrchestratorError
    ├── WrongArgument (2)        a flag's value is not allowed
    │   ├── WrongRepairRule      a rule of --fix that does not exist, or does not fit the source
    │   └── UnknownLoad          no such load in this ledger, or several
    ├── SourceUnusable (65)      the file cannot be loaded as it is
    │   ├── EmptySource, HeaderOnly, NotText, UnknownEncoding, HeaderTooLarge
    │   ├── MissingLookupColumn, DuplicateColumn, MalformedHeader, UnclosedQuote
    │   ├── ArchiveUnsound, TooLargeUnpacked    what is packed cannot be unpacked, or without end
    │   ├── UnknownColumn        --map names a column that is not there
    │   ├── FilesDiffer          several files that do not make one load
    │   ├── ValuesUnfit          values that have no form as text: nested ones, errors of a spreadsheet
    │   ├── QueryFailed          --query is wrong, or stumbled over a value
    │   ├── TooManyRejected      more unusable rows than --max-rejected allows
    │   └── SourceChanged        the bytes are not the bytes that were planned
    ├── SourceMissing (66)       the file does not exist or cannot be read
    ├── Unreachable (69)         Marketo cannot be reached, or kept failing past the deadline
    ├── InternalFault (70)       a fault of ours
    │   ├── IllegalTransition    a fact that cannot follow from where a chunk stands
    │   └── BooksDoNotBalance    rows are not all accounted for
    ├── Stopped (75)             stopped and resumable
    │   ├── MaxWaitOver, QuotaSpent, DoubtHeld, LoadBusy, LoadUnfinished
    │   ├── DaemonRunning        another daemon works in the same folders
    │   ├── LedgerLocked         another process holds it
    │   ├── LedgerFailing        its disk is full, or reads and writes fail
    │   ├── SpoolFailing         its disk is full, or cannot be written to
    │   ├── ReadingStopped       stopped by a signal while the source was read
    │   ├── WorkFailing          the daemon's folders cannot be written to
    │   └── ReportFailing        the report's folder cannot be written to
    ├── AccessRefused (77)       credentials or permissions refused
    └── Misconfigured (78)       the configuration is wrong
        ├── ReaderMissing        an extra that reads this kind of source is not installed
        └── LedgerUnusable       the ledger is corrupt, or of a later release

A message names the thing, the value, the limit; `remedy` says what to do next. Each class carries the
exit code of the command that meets it, so that the code is decided once, here.
"""

from __future__ import annotations

from collections.abc import Sequence


class OrchestratorError(Exception):
    """An expected error: shown as one message and a remedy, never as a traceback."""

    exit_code = 70

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    @property
    def sentence(self) -> str:
        """Message and remedy on one line."""
        text = f"{self.message}. {self.remedy}" if self.remedy else self.message
        return " ".join(text.split())

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class WrongArgument(OrchestratorError):
    """The value of a flag is not one that is allowed."""

    exit_code = 2


class WrongRepairRule(WrongArgument):
    """A rule of --fix that does not exist, is not complete, or names a column or a file that is not there."""


class UnknownLoad(WrongArgument):
    """The ledger holds no such load, or several whose ids begin as it was typed."""


class SourceUnusable(OrchestratorError):
    """The source cannot be loaded as it is; nothing was sent."""

    exit_code = 65


class EmptySource(SourceUnusable):
    """The source holds no bytes, or nothing but blank lines."""


class HeaderOnly(SourceUnusable):
    """The source has a header and no row."""


class NotText(SourceUnusable):
    """The source is binary: NUL bytes, or the signature of another format; or its name is no text."""


class UnknownEncoding(SourceUnusable):
    """The source is text in an encoding other than UTF-8."""


class HeaderTooLarge(SourceUnusable):
    """The header alone leaves no room for a row within the budget."""


class MissingLookupColumn(SourceUnusable):
    """The header has no column of the lookup field's name."""


class DuplicateColumn(SourceUnusable):
    """Two columns of the header bear the same name, or one bears none."""


class MalformedHeader(SourceUnusable):
    """The header has a quote that readers would take differently."""


class UnclosedQuote(SourceUnusable):
    """A quoted value is opened and never closed: it swallows the rest of the source."""


class ArchiveUnsound(SourceUnusable):
    """What is packed cannot be unpacked: cut, damaged, encrypted, or not exactly one file."""


class TooLargeUnpacked(SourceUnusable):
    """Unpacked, the source is larger than any that is meant to be loaded: perhaps a decompression bomb."""


class UnknownColumn(SourceUnusable):
    """--map names a column that is not there."""


class FilesDiffer(SourceUnusable):
    """Several files that do not make one load: other columns, or another kind."""


class QueryFailed(SourceUnusable):
    """--query is wrong, or stumbled over a value."""


class ValuesUnfit(SourceUnusable):
    """The source holds values that have no form as text."""


class TooManyRejected(SourceUnusable):
    """More rows cannot be sent as they stand than --max-rejected allows."""


class SourceChanged(SourceUnusable):
    """The bytes of the source are not the bytes that were planned."""


class SourceMissing(OrchestratorError):
    """The source does not exist, is not a file, or may not be read."""

    exit_code = 66


class Unreachable(OrchestratorError):
    """Marketo cannot be reached, or kept failing past the deadline."""

    exit_code = 69


class InternalFault(OrchestratorError):
    """A fault of ours: please report it."""

    exit_code = 70


class IllegalTransition(InternalFault):
    """A fact that cannot follow from where a chunk stands."""


class BooksDoNotBalance(InternalFault):
    """Rows in are not rows out: imported + failed + rejected + unsent + unknown."""


class Stopped(OrchestratorError):
    """Stopped before the end, and resumable by the same command."""

    exit_code = 75


class MaxWaitOver(Stopped):
    """--max-wait ran out; batches go on inside Marketo."""


class QuotaSpent(Stopped):
    """The day's calls are used up (607), or what is left is reserved for others."""


class DoubtHeld(Stopped):
    """A doubt is over and --on-doubt is stop, or there were too many of one chunk: the operator decides."""

    def __init__(self, chunks: Sequence[int], why: str = "") -> None:
        named = ", ".join(map(str, chunks))
        super().__init__(
            f"{counted(len(chunks), 'chunk')} may or may not have been imported (chunk {named}); "
            f"{why or '--on-doubt is stop'}",
            remedy="Look in Marketo, then `resume --on-doubt resend` to send them again.",
        )


class LoadBusy(Stopped):
    """Another living process owns this load: `pid`, where that is known."""

    def __init__(self, load_id: str, pid: int | None, *, remedy: str) -> None:
        super().__init__(f"load {load_id} is being run by process {pid or 'unknown'}", remedy=remedy)


class LoadUnfinished(Stopped):
    """The load is not over: which rows fail is not known yet, and its batches may be in the queue."""


class DaemonRunning(Stopped):
    """Another daemon works in the same folders."""


class LedgerLocked(Stopped):
    """Another process held the ledger's write lock for too long."""


class LedgerFailing(Stopped):
    """The ledger could not be read or written: nothing more was sent, since nothing could be written down."""


class WorkFailing(Stopped):
    """The daemon could not write down how far a file has come: it is tried again."""

    def __init__(self, folder: str, error: OSError) -> None:
        super().__init__(f"folder {folder}: {error.strerror}", remedy="Make room there.")


class SpoolFailing(Stopped):
    """The spool file could not be written; nothing was sent."""


class ReadingStopped(Stopped):
    """A signal stopped the command while the source was read; nothing was sent."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(
            "stopped while the source was read; nothing was sent", remedy="Run the same command again to go on."
        )
        self.exit_code = exit_code


class ReportFailing(Stopped):
    """A result file or the report could not be written; everything else is in the ledger."""

    def __init__(self, folder: str, error: OSError, remedy: str = "") -> None:
        super().__init__(
            f"report folder {folder}: {error.strerror}",
            remedy=remedy
            or "Make room there and run the same command again, or `load` the source with another --report-dir.",
        )


class AccessRefused(OrchestratorError):
    """Marketo refused the credentials or the permission."""

    exit_code = 77


class Misconfigured(OrchestratorError):
    """The configuration is wrong: file, key, value, and what is allowed."""

    exit_code = 78


class ReaderMissing(Misconfigured):
    """An extra that reads this kind of source is not installed."""

    def __init__(self, name: str, what: str, extra: str) -> None:
        super().__init__(
            f"{name}: {what} is read with the extra [{extra}], which is not installed",
            remedy=f"pip install 'marketo-orchestrator[{extra}]'",
        )


class LedgerUnusable(Misconfigured):
    """The ledger is corrupt, or was written by a later release."""


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says why, out of what several tasks raised: an expected one where there is one."""
    inner: BaseException = group.subgroup(OrchestratorError) or group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
