"""Reasons counted, and the columns they speak of."""

from __future__ import annotations

import tracemalloc

import pytest

from orchestrator.core.reasons import OTHER_REASONS, REASONS_MAX, Reasons, by_column, column_of

HEADER = ("email", "firstName", "company", "address", "leadScore", "custom_Field__c", "title", "type")


@pytest.mark.parametrize(
    ("reason", "column"),
    [
        ("Invalid data type in field Lead Score", "leadScore"),
        ("Value for lookup field 'email' not found", "email"),
        ("Invalid email address", "email"),
        ("Invalid data type in field Custom Field", None),
        ("Invalid data type in field Custom Field c", "custom_Field__c"),
        ("Value for required field 'address' is missing", "address"),
        ("Field 'leadScore' is of type integer", "leadScore"),
        ("missing.dedupe.fields", None),
        ("email or address", None),
        ("", None),
    ],
)
def test_a_reason_is_put_to_the_column_it_names(reason: str, column: str | None) -> None:
    """Marketo says `Lead Score`, the file says `leadScore`: who mends the file must not have to guess."""
    assert column_of(reason, HEADER) == column


def test_two_columns_that_could_be_meant_are_both_left_alone() -> None:
    """A wrong column sends people to mend what is sound."""
    assert column_of("Invalid data type in field Lead Score", ("leadScore", "lead_score")) is None


def test_the_commonest_reason_comes_first_with_the_first_row_that_has_it() -> None:
    """One row to look at says more than a number."""
    reasons = Reasons(HEADER)
    reasons.add("failure", "rare", 1)
    for row in (None, 7, 9):
        reasons.add("failure", "Invalid data type in field Lead Score", row)
    reasons.add("warning", "Invalid email address", 3, rows=2)
    counts = reasons.counts()
    assert [(one.kind, one.rows, one.column, one.example_row) for one in counts] == [
        ("failure", 3, "leadScore", 7),
        ("warning", 2, "email", 3),
        ("failure", 1, None, 1),
    ]
    assert [(one.column, one.kind, one.rows, one.example_row) for one in by_column(counts)] == [
        ("leadScore", "failure", 3, 7),
        ("email", "warning", 2, 3),
    ]


def test_reasons_that_quote_their_row_do_not_fill_the_memory() -> None:
    """Ten million rows may have ten million reasons, each with its own value in it."""
    reasons = Reasons(HEADER)
    tracemalloc.start()
    for row in range(5 * REASONS_MAX):
        reasons.add("failure", f"Value {row} is not a number" + "x" * 2_000, row)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counts = reasons.counts()
    assert counts[0].reason == OTHER_REASONS
    assert sum(one.rows for one in counts) == 5 * REASONS_MAX
    assert peak_bytes < 3_000 * REASONS_MAX
