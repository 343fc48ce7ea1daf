"""Which reasons are worth a second try."""

from __future__ import annotations

import pytest

from orchestrator.core.worth import ReasonClass, Which, class_of, goes_again


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("missing.dedupe.fields", "permanent"),
        ("Invalid data type in field Lead Score", "permanent"),
        ("Value for lookup field 'email' not found", "permanent"),
        ("Invalid email address", "permanent"),
        ("Lookup field 'userId' not found", "permanent"),
        ("Field 'favouriteColour' not found", "permanent"),
        ("System error", "transient"),
        ("the whole batch failed: System error", "transient"),
        ("Lead could not be locked: lock wait time-out", "transient"),
        ("Record is locked by another process", "transient"),
        ("Deadlock found when trying to get lock", "transient"),
        ("Request timed out", "transient"),
        ("Operation timeout", "transient"),
        ("Transient Error", "transient"),
        ("API Temporarily Unavailable", "transient"),
        ("Object in use", "transient"),
        ("", "unknown"),
        ("Lead not found", "unknown"),
        ("the whole batch failed", "unknown"),
        ("Import was blocked by a rule", "unknown"),
        ("Unlocking is not allowed", "unknown"),
    ],
)
def test_a_reason_is_sorted_by_what_it_says_of_the_row(reason: str, expected: str) -> None:
    """A permanent failure sent again costs calls for nothing; a transient one not sent again costs the row."""
    assert class_of(reason) == expected


@pytest.mark.parametrize(
    "reason",
    [
        "Invalid data type in field Lock Time-out",
        "Value for lookup field 'System Error' not found",
    ],
)
def test_a_field_with_an_unlucky_name_stays_permanent(reason: str) -> None:
    """Reasons hold display names of fields, which customers choose."""
    assert class_of(reason) is ReasonClass.PERMANENT


@pytest.mark.parametrize(
    "reason", ["Cannot write field Last Lock Date", 'Duplicate value "system error"', "Rejected value 'timeout'"]
)
def test_names_and_quoted_values_do_not_make_a_reason_transient(reason: str) -> None:
    """Else a row that fails for ever would be sent for ever, for what its own cells say."""
    assert class_of(reason) is ReasonClass.UNKNOWN


@pytest.mark.parametrize(
    ("which", "sent"),
    [
        ("transient", {"transient"}),
        ("unknown", {"transient", "unknown"}),
        ("all", {"transient", "unknown", "permanent"}),
    ],
)
def test_what_goes_again_as_it_stands_is_the_callers_choice(which: Which, sent: set[str]) -> None:
    """Permanent rows go again unchanged only when somebody says so, after a change on Marketo's side for example."""
    reasons = {"transient": "System error", "unknown": "Lead not found", "permanent": "missing.dedupe.fields"}
    assert {name for name, reason in reasons.items() if goes_again(reason, which)} == sent
