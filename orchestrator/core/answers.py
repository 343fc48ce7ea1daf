"""What does a sound answer say? Marketo's result objects, read without trust.

Fields may be missing, of another type, or new: nothing here raises on what Marketo sends. Counts are "so far"
until the batch has ended, and `numOfLeadsProcessed` counts imported rows (warned ones included, failed ones not).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.core.model import BatchId, Counts
from orchestrator.core.verdicts import Answered, plain

BatchWord = Literal["Queued", "Importing", "Complete", "Failed", "unknown"]

_WORDS: Mapping[str, BatchWord] = {
    "queued": "Queued",
    "importing": "Importing",
    "complete": "Complete",
    "completed": "Complete",  # the word of bulk extracts; a client that waited for the other one looped for ever
    "failed": "Failed",
}
_IDS_END = 2**63


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How Marketo says a batch stands. `word` is "unknown" for a word nobody documented: it is unfinished then."""

    word: BatchWord
    counts: Counts
    message: str


def batch_id_of(answer: Answered) -> BatchId | None:
    """The batch id in the answer to an upload; None when it names none, or more than one."""
    ids = {_integer(item.get("batchId", item.get("importId"))) for item in _objects(answer)}
    if len(ids) != 1:
        return None
    (number,) = ids
    return BatchId(number) if number is not None and 0 < number < _IDS_END else None


def status_of(answer: Answered, batch_id: BatchId) -> BatchStatus | None:
    """How this batch stands; None when the answer speaks of another one, or of none."""
    for item in _objects(answer):
        if _integer(item.get("batchId", item.get("importId"))) == batch_id:
            processed = item.get("numOfLeadsProcessed", item.get("numOfObjectsProcessed"))
            return BatchStatus(
                word=_WORDS.get(str(item.get("status", "")).strip().lower(), "unknown"),
                counts=Counts(
                    imported=_count(processed),
                    failed=_count(item.get("numOfRowsFailed")),
                    warned=_count(item.get("numOfRowsWithWarning")),
                ),
                message=plain(str(item.get("message") or "")),
            )
    return None


def _objects(answer: Answered) -> list[Mapping[str, Any]]:
    return [item for item in answer.result if isinstance(item, Mapping)]


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return None


def _count(value: Any) -> int:
    """A count; 0 when it is missing or makes no sense."""
    number = _integer(value)
    return number if number is not None and 0 <= number < _IDS_END else 0
