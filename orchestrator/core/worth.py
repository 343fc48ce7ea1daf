"""Is a failed row worth sending again?

Marketo's reasons are free text without a code, so they are sorted by what the text says, carefully: a reason that
speaks of the row itself is permanent (the same row fails again), one that speaks of Marketo's own trouble is transient,
and whatever is not known is unknown. What a reason quotes, and the name of a field it ends with, is the customer's own
wording and sorts nothing: a field may be called "System Error".

What is done with a class is decided by who asks: `orchestrator retry` sends transient and unknown ones as they stand.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal


class ReasonClass(StrEnum):
    """How likely the same row is to succeed next time."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNKNOWN = "unknown"


Which = Literal["transient", "unknown", "all"]
"""Rows that go again as they stand: transient ones only, unknown ones too, or permanent ones too."""

_PERMANENT = (
    # Adobe's sample of a custom object failure file: a key of the row is empty.
    r"missing\.dedupe\.fields",
    # Adobe's sample of a program member failure file; custom objects since 2019 (a decimal in an integer field).
    r"invalid data type",
    # Seen by users in lead failure files: the lookup value is empty, or its column is not in the header.
    r"value for lookup field .* not found",
    # Adobe's sample of a warning file. As a failure it would be the row's own fault too.
    r"invalid e-?mail",
    # Error 1006, record-level in the other APIs: the text is known from real answers ("Lookup field 'x' not found").
    r"\bfield .* not found",
)
_TRANSIENT = (
    # Error 611, "System error": Adobe calls it all unhandled exceptions; also seen as the message of failed jobs.
    r"\bsystem error\b",
    # Errors 604 and 713 of Adobe's list: a time-out, and an error it calls transient and asks to repeat.
    r"\btime[- ]?out\b|\btimed[- ]out\b",
    r"\btransient\b",
    # Errors 608 and 502 of Adobe's list.
    r"\btemporarily unavailable\b|\bbad gateway\b",
    # Concurrent changes of one record. Adobe documents no such text for imports (1022, "object in use", is nearest);
    # other bulk loaders' users know it as the reason that goes away by itself.
    r"\b(?:dead)?lock(?:ed)?\b|\bobject in use\b",
)
_OWN_WORDS = re.compile(r"'[^']*'|\"[^\"]*\"|\bfields? (?!not\b).*", re.IGNORECASE)
"""What the customer named or wrote: anything in quotes, and all that follows the word "field"."""

_IS_PERMANENT = re.compile("|".join(_PERMANENT), re.IGNORECASE)
_IS_TRANSIENT = re.compile("|".join(_TRANSIENT), re.IGNORECASE)


def class_of(reason: str) -> ReasonClass:
    """The class of a reason as Marketo gave it."""
    if _IS_PERMANENT.search(reason):
        return ReasonClass.PERMANENT
    if _IS_TRANSIENT.search(_OWN_WORDS.sub(" ", reason)):
        return ReasonClass.TRANSIENT
    return ReasonClass.UNKNOWN


def goes_again(reason: str, which: Which) -> bool:
    """Does a row with this reason go again as it stands?"""
    match class_of(reason):
        case ReasonClass.TRANSIENT:
            return True
        case ReasonClass.UNKNOWN:
            return which != "transient"
        case ReasonClass.PERMANENT:
            return which == "all"
