"""How old is a batch, and what does its age mean?

Marketo keeps a batch for seven days: after that its outcome cannot be had. Nothing is given up for age alone, but
people are told in time, and the files of the oldest batches are fetched first. An import that takes hours keeps its
slot and is never sent again by itself: it may still be running.

Source: Adobe's bulk import guide (batch ids and result files are kept for seven days). The alarms are our choice.
"""

from __future__ import annotations

from orchestrator.core.model import Offer

DAY_S = 86_400.0
BATCH_LIFE_S = 7 * DAY_S
ALARM_DAYS = (6, 5)
"""Ages in days at which people are told: two working days are enough to look into it, one is the last chance."""
LONG_IMPORT_S = 6 * 3_600.0
"""Imports of a full chunk take minutes; hours mean that something is wrong inside Marketo."""


def days_to_tell(offer: Offer, now: float) -> int | None:
    """The age in days at which people are to be told of this unfinished batch; None while it is young."""
    if offer.accepted_at is None:
        return None
    age_s = now - offer.accepted_at
    return next((days for days in ALARM_DAYS if age_s >= days * DAY_S), None)


def is_stalled(offer: Offer, now: float) -> bool:
    """Has it been importing for so long that people are to be told?"""
    return offer.importing_first_at is not None and now - offer.importing_first_at >= LONG_IMPORT_S


def is_over(offer: Offer | None, now: float) -> bool:
    """Has Marketo dropped the batch by now, going by its age?"""
    return offer is not None and offer.accepted_at is not None and now - offer.accepted_at > BATCH_LIFE_S
