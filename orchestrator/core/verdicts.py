"""What does an answer of Marketo, or the lack of one, mean for us?

Marketo says most of what goes wrong inside an HTTP 200: `success: false` and a list of codes (strings on the
wire, integers in some clients' recordings). Evidence decides whether an upload may be repeated:

- every 6xx code means "not executed" by Adobe's error page; 604 (time-out) and 611 (unhandled exception) are
  doubted all the same for uploads: a server that timed out may have queued the job;
- a body that was not completely sent cannot have been imported;
- anything else after a complete body is a doubt.

Waiting, counting tries and recording facts is the runner's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

CallKind = Literal["token", "create", "status", "failures", "warnings", "other"]


class Verdict(Enum):
    """What to do about one outcome."""

    DONE = "it worked"
    RENEW_TOKEN = "fetch a token and repeat the call; it was not executed"  # noqa: S105
    SLOW_DOWN = "every call of this subscription pauses"
    WAIT_FOR_SLOT = "the queue is full"
    WAIT_FOR_LIST = "the static list is being imported to"
    WAIT_FOR_QUOTA = "the day's calls are used up"
    ASK_AGAIN = "not executed, or harmless to repeat: later"
    HALVE = "the chunk is too large as it is"
    DOUBT = "the upload may have been executed"
    NOTHING_THERE = "there is no such file"
    GONE = "Marketo does not know this batch"
    GIVE_UP_CHUNK = "this chunk can never be taken"
    GIVE_UP_LOAD = "no chunk can be taken until someone changes something"


@dataclass(frozen=True, slots=True)
class ApiError:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A sound Marketo envelope came back."""

    success: bool
    result: tuple[Any, ...]
    errors: tuple[ApiError, ...] = ()


@dataclass(frozen=True, slots=True)
class Saved:
    """A result file was downloaded to the end and is on disk."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """No sound answer. `body_sent` is evidence (the transport's own trace), not a guess from an error's class."""

    why: str
    http_status: int | None = None
    body_sent: bool = False
    retry_after_s: float | None = None
    cut_off: bool = False
    """The connection broke while the body was being sent."""
    certificate: bool = False
    """The peer's certificate is not to be trusted: repeating will not help."""


Outcome = Answered | Saved | Failed


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict with its particulars.

    `tries`: how often ASK_AGAIN may follow itself before `then` applies; None means for ever. `span_s`: for how long it
    must have done so, at least.
    `exit_code` and `remedy` serve GIVE_UP_LOAD.
    """

    verdict: Verdict
    why: str = ""
    wait_s: float = 0.0
    tries: int | None = None
    span_s: float = 0.0
    then: Verdict = Verdict.GIVE_UP_LOAD
    exit_code: int = 70
    remedy: str = ""


FEW = 5
"""Repeats of a call that may be wrong for good before we say so. Other clients use 3 to 10."""
GONE_AFTER = 3
GONE_SPAN_S = 900.0
"""Answers in a row that a batch is unknown, and the time they must span, before we believe it: believing wrongly loses
its outcome. A deployment or a failover of theirs takes minutes and may answer so all the while."""
UNAVAILABLE_SPAN_S = 1800.0
"""For how long an upload must have been put off for a trouble of Marketo's (608, 713) before the load stops,
resumable."""
CUTS = 5
"""Connections cut in the middle of one upload, while other calls get through, before we call it too large: a server
that says 413 early and closes often loses its answer to the reset. The body was not complete: nothing was executed."""
CUTS_OF_A_ROW = 20
"""The same for a single row, which cannot be halved: after that it is refused."""

RATE_PAUSE_S = 20.0
"""606 speaks of a window of 20 seconds; after that long it is empty for sure."""
CONCURRENCY_PAUSE_S = 2.0
"""615: calls in flight end within moments."""

_QUEUE_FULL_TEXT = re.compile(r"imports currently being processed|too many imports", re.IGNORECASE)
"""Seen in the wild without a recorded code: the text alone counts as 1016."""

_ADDRESS = re.compile(r"(?:\"[^\"\n]{1,64}\"|[^\s'\"<>(),;:=][^\s\"<>(),;:=]*)@[^\s'\"<>(),;:=]+")

_SLOTS, _LISTS = frozenset({"1016", "1029"}), frozenset({"1019"})
_TOKEN = frozenset({"601", "602"})
_DOUBTED_UPLOADS = frozenset({"500", "502", "604", "611"})
_AGAIN = frozenset({"502", "604", "608", "713"})
_FEW = frozenset({"500", "611", "614", "1014", "1022"})

_GIVE_UP: Mapping[str, tuple[int, str]] = {
    "600": (77, "The call carried no token."),
    "603": (
        77,
        "Give the API user's role Read-Write Lead (or Read-Write Custom Object); check Marketo's IP allow list.",
    ),
    "605": (70, "Please report this: the method of a call was wrong."),
    "609": (70, "Please report this: Marketo could not read what we sent."),
    "610": (78, "Check marketo.base_url and the names in import.object."),
    "612": (70, "Please report this: the content type of an upload was wrong."),
    "613": (70, "Please report this: Marketo could not read the multipart form."),
    "616": (77, "This subscription's type does not include the feature."),
    "701": (78, "A required field is blank: check the settings of [import]."),
    "703": (77, "The feature is not enabled for this subscription."),
    "1001": (78, "Check the types of the settings in [import] (list_id is a number)."),
    "1002": (78, "A required parameter is missing: program members need --member-status."),
    "1006": (78, "Set import.lookup_field (--lookup-field) to a field that exists in Marketo."),
    "1008": (77, "Give the API user's role access to the partition in its workspace."),
    "1009": (78, "This instance has several partitions: set import.partition_name (--partition)."),
    "1010": (78, "Leads of the source are in another partition: check import.partition_name (--partition)."),
    "1011": (78, "Set import.lookup_field (--lookup-field) to a field Marketo can match by."),
    "1013": (78, "Check the static list, program or custom object named in [import]."),
    "1021": (78, "Remove the company columns from the source."),
    "1025": (78, "Set --member-status to a status of the program's channel."),
    "1026": (77, "Custom objects are not enabled for this subscription."),
}

# The most severe first: an answer may carry several errors, and the worst of them decides.
_SEVERITY = (
    Verdict.GIVE_UP_LOAD,
    Verdict.GIVE_UP_CHUNK,
    Verdict.GONE,
    Verdict.DOUBT,
    Verdict.WAIT_FOR_QUOTA,
    Verdict.RENEW_TOKEN,
    Verdict.WAIT_FOR_SLOT,
    Verdict.WAIT_FOR_LIST,
    Verdict.SLOW_DOWN,
    Verdict.ASK_AGAIN,
    Verdict.NOTHING_THERE,
)


def judge(outcome: Outcome, kind: CallKind) -> Ruling:
    """What one outcome of one kind of call means. (Whether a success makes sense is `answers`' business.)"""
    match outcome:
        case Saved():
            return Ruling(Verdict.DONE)
        case Failed():
            return _judge_failure(outcome, kind)
        case Answered(success=True):
            return Ruling(Verdict.DONE)
        case Answered(errors=()):
            why = "Marketo said success: false without an error"
            return Ruling(Verdict.DOUBT if kind == "create" else Verdict.ASK_AGAIN, why)
        case Answered():
            rulings = [_judge_error(error, kind) for error in outcome.errors]
            return min(rulings, key=lambda ruling: _SEVERITY.index(ruling.verdict))


def plain(text: str) -> str:
    """A text of Marketo's, fit for logs and the ledger: short, one line, no e-mail address in it."""
    return "".join(c if c.isprintable() else " " for c in without_addresses(text[:2000]))[:500]


def without_addresses(text: str) -> str:
    """Marketo's words may quote a row: no e-mail address of it belongs in a log, a ledger or on a terminal."""
    return _ADDRESS.sub("<address>", text)


def _judge_error(error: ApiError, kind: CallKind) -> Ruling:
    code, why = error.code, f"{error.code} {error.message}".strip()
    if code in _SLOTS or (kind == "create" and _QUEUE_FULL_TEXT.search(error.message)):
        return Ruling(Verdict.WAIT_FOR_SLOT, why)
    if code in _LISTS:
        return Ruling(Verdict.WAIT_FOR_LIST, why)
    if code in _TOKEN:
        return Ruling(Verdict.RENEW_TOKEN, why)
    if code == "606":
        return Ruling(Verdict.SLOW_DOWN, why, wait_s=RATE_PAUSE_S)
    if code == "615":
        return Ruling(Verdict.SLOW_DOWN, why, wait_s=CONCURRENCY_PAUSE_S)
    if code == "607":
        return Ruling(Verdict.WAIT_FOR_QUOTA, why)
    if kind == "create" and code in _DOUBTED_UPLOADS:
        return Ruling(Verdict.DOUBT, why)
    if code == "1003" and kind == "create":
        # Other clients singled this out and repeated it for years: it is seen for files that are not empty.
        return Ruling(Verdict.ASK_AGAIN, why, tries=1, then=Verdict.GIVE_UP_CHUNK)
    if code == "702" and kind in ("failures", "warnings"):
        return Ruling(Verdict.NOTHING_THERE, why)
    if code in ("1013", "610") and kind in ("status", "failures", "warnings"):
        return _gone(why)
    if code in _AGAIN:
        if kind == "create":
            return replace(_few(why, kind, Verdict.GIVE_UP_LOAD, exit_code=69), span_s=UNAVAILABLE_SPAN_S)
        return Ruling(Verdict.ASK_AGAIN, why)
    if code in _FEW:
        then = Verdict.GIVE_UP_CHUNK if code in ("611", "1014") else Verdict.GIVE_UP_LOAD
        return _few(why, kind, then, exit_code=69)
    if code in _GIVE_UP:
        exit_code, remedy = _GIVE_UP[code]
        return Ruling(Verdict.GIVE_UP_LOAD, why, exit_code=exit_code, remedy=remedy)
    if code.startswith("1") and len(code) == 4:
        if kind == "create":
            return Ruling(Verdict.GIVE_UP_CHUNK, why)
        return Ruling(Verdict.ASK_AGAIN, why)
    return _few(why, kind, Verdict.GIVE_UP_LOAD, exit_code=69)


def _gone(why: str) -> Ruling:
    return Ruling(Verdict.ASK_AGAIN, why, tries=GONE_AFTER, span_s=GONE_SPAN_S, then=Verdict.GONE)


def _few(why: str, kind: CallKind, then: Verdict, *, exit_code: int) -> Ruling:
    """A few tries for an upload; for a question about a batch no end of them: polling never fails a batch."""
    if kind in ("status", "failures", "warnings"):
        return Ruling(Verdict.ASK_AGAIN, why)
    return Ruling(Verdict.ASK_AGAIN, why, tries=FEW, then=then, exit_code=exit_code)


def _judge_failure(failure: Failed, kind: CallKind) -> Ruling:
    status, why = failure.http_status, failure.why
    if failure.certificate:
        return Ruling(
            Verdict.GIVE_UP_LOAD,
            why,
            exit_code=69,
            remedy="Check marketo.base_url, this machine's clock and its certificates.",
        )
    if status is None:
        if kind == "create" and failure.body_sent:
            return Ruling(Verdict.DOUBT, why)
        if kind == "create" and failure.cut_off:
            return Ruling(Verdict.ASK_AGAIN, why, tries=CUTS - 1, then=Verdict.HALVE)
        return Ruling(Verdict.ASK_AGAIN, why)
    if status == 413 and kind == "create":
        return Ruling(Verdict.HALVE, why)
    if status == 429:
        pause_s = RATE_PAUSE_S if failure.retry_after_s is None else failure.retry_after_s
        return Ruling(Verdict.SLOW_DOWN, why, wait_s=pause_s)
    if status == 404 and kind in ("failures", "warnings"):
        return Ruling(Verdict.NOTHING_THERE, why)
    if status == 404 and kind == "status":
        return _gone(why)
    if status < 300 or status == 408 or status >= 500:  # a 2xx whose answer cannot be read: executed, for all we know
        if kind == "create" and failure.body_sent and status != 408:
            return Ruling(Verdict.DOUBT, why)
        return Ruling(Verdict.ASK_AGAIN, why)
    if 300 <= status < 400:
        remedy = "Redirects are never followed: set marketo.base_url to the address of the subscription."
        return Ruling(Verdict.GIVE_UP_LOAD, why, exit_code=78, remedy=remedy)
    if status in (400, 401) and kind == "token":
        return Ruling(
            Verdict.GIVE_UP_LOAD,
            f"the credentials ({why} from its identity service)",
            exit_code=77,
            remedy="Check marketo.client_id, marketo.client_secret and marketo.base_url: all three belong to one "
            "subscription, and the API user's service must still exist in Marketo (Admin, LaunchPoint).",
        )
    if status in (401, 403):
        return Ruling(Verdict.GIVE_UP_LOAD, why, exit_code=77, remedy="Check the client id, the secret and the role.")
    remedy = "Check marketo.base_url and the settings of [import]."
    return Ruling(Verdict.GIVE_UP_LOAD, why, exit_code=78, remedy=remedy)
