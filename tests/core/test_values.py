"""Values that Marketo will probably not take."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.fields import Described, Field
from orchestrator.core.values import CHECKS, ROWS_SHOWN, ValueFinding, Values
from orchestrator.simulator.fields import CHECKS as SIMULATED

KNOWN = Described(
    (
        Field("email", "Email Address", "email", 255, True),
        Field("firstName", "First Name", "string", 5, True),
        Field("leadScore", "Lead Score", "score", None, True),
        Field("notes", "Notes", "text", None, True),
    )
)


@pytest.mark.parametrize(
    ("kind", "sound", "wrong"),
    [
        ("integer", ["0", "-7", "+7", "9223372036854775807"], ["1.0", "1,000", "x", " 1", "9223372036854775808"]),
        ("score", ["10"], ["10.5", "ten"]),
        ("percent", ["50"], ["50%", "0.5"]),
        ("currency", ["10", "10.50", "-3.1"], ["$10", "1,000.00", "10.", ".5", "1e3"]),
        ("float", ["0.1"], ["0,1", "NaN"]),
        ("date", ["2024-02-29"], ["2023-02-29", "29.02.2024", "2024-2-9", "2024-02-29T00:00:00Z", "20240229"]),
        ("datetime", ["2024-02-29T12:13:14Z", "2024-02-29T12:13:14+02:00", "2024-02-29T12:13:14.5-0600"],
         ["2024-02-29T12:13:14", "2024-02-29", "2024-02-29 12:13:14Z", "2024-02-30T12:13:14Z", "2024-02-29T25:13:14Z"]),
        ("boolean", ["true", "False", "TRUE"], ["1", "yes", "t", "wahr"]),
        ("email", ["a@b.de", "A.b+c@sub.example.com", "o'neil@x.io"],
         ["a", "a@b", "@b.de", "a@@b.de", "a b@c.de", "a@b.de ", "ü@b.de", "a@b..de", "a@-b.de", "<a@b.de>"]),
    ],
)  # fmt: skip
def test_a_type_takes_its_values_and_no_others(kind: str, sound: Sequence[str], wrong: Sequence[str]) -> None:
    """By what is documented: W3C dates, whole numbers, true and false, ASCII addresses."""
    assert [value for value in sound if CHECKS[kind](value)] == []
    assert [value for value in wrong if not CHECKS[kind](value)] == []


def test_values_are_counted_by_column_and_reason_with_their_first_rows() -> None:
    """A person mends a column, not a million rows."""
    values = Values(("email", "firstName", "leadScore", "own"), KNOWN)
    for block in range(3):
        rows = range(block * 10 + 1, block * 10 + 11)
        values.feed(
            (row, ("a@b.de" if row % 2 else "bad", "Maximilian" if row == 7 else "Max", "x", "?")) for row in rows
        )
    assert values.findings() == [
        ValueFinding("email", "not an e-mail address", 15, (2, 4, 6, 8, 10)),
        ValueFinding("firstName", "longer than 5 characters", 1, (7,)),
        ValueFinding("leadScore", "not a whole number", 30, (1, 2, 3, 4, 5)),
    ]


def test_the_first_rows_are_those_of_the_source_whatever_order_they_come_in() -> None:
    """Rows that share a key stand in chunks of their own, behind or before all others."""
    values = Values(("leadScore",), KNOWN)
    for number in (8, 15, 2, 40, 39, 38, 37, 1):
        values.feed([(number, ("x",))])
    assert values.findings() == [ValueFinding("leadScore", "not a whole number", 8, (1, 2, 8, 15, 37))]


def test_an_empty_value_is_never_wrong() -> None:
    """Marketo judges it, the lookup field's too."""
    values = Values(("email", "leadScore"), KNOWN)
    values.feed([(1, ("", ""))])
    assert values.findings() == []


def test_without_the_fields_only_email_is_looked_at() -> None:
    """It is the one field whose type everybody knows."""
    values = Values(("email", "leadScore"), None)
    values.feed([(1, ("x", "x"))])
    assert [finding.column for finding in values.findings()] == ["email"]


@given(
    st.lists(st.tuples(st.sampled_from(["1", "x", "", "22", "1.5"]), st.text(max_size=7)), max_size=60),
    st.integers(1, 9),
)
def test_blocks_of_any_size_find_what_a_look_at_each_value_finds(rows: list[tuple[str, str]], size: int) -> None:
    """Values are looked at once per block however often they stand in it: no row may be lost by that."""
    values = Values(("leadScore", "firstName"), KNOWN)
    numbered = list(enumerate(rows, 1))
    for at in range(0, len(rows), size):
        values.feed(numbered[at : at + size])
    wrong = [number for number, (score, _) in numbered if score and CHECKS["score"](score)]
    long = [number for number, (_, name) in numbered if len(name) > 5]
    found = {finding.column: (finding.rows, finding.first_rows) for finding in values.findings()}
    assert found.get("leadScore", (0, ())) == (len(wrong), tuple(wrong[:ROWS_SHOWN]))
    assert found.get("firstName", (0, ())) == (len(long), tuple(long[:ROWS_SHOWN]))


@given(st.text(alphabet="0123456789+-.:TZ truefalsyno@", max_size=24))
def test_what_passes_here_passes_the_simulator(value: str) -> None:
    """A clean report of the dry run that the load then contradicts would be worth nothing."""
    for kind, check in SIMULATED.items():
        if value and not CHECKS[kind](value):
            assert check(value), (kind, value)


def test_the_length_of_a_text_area_is_in_bytes_and_of_other_fields_in_characters() -> None:
    """Adobe's page of field types: 30,000 bytes, of which a character takes up to four."""
    known = Described((Field("notes", "Notes", "text", 5, True), Field("city", "City", "string", 5, True)))
    values = Values(("notes", "city"), known)
    values.feed([(1, ("abcde", "abcde")), (2, ("äöü", "äöüäö"))])
    assert values.findings() == [ValueFinding("notes", "longer than 5 bytes", 1, (2,))]
