"""A header against the subscription's fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.fields import LIKENED, Described, Field, described, misfits
from orchestrator.core.model import Target
from orchestrator.core.verdicts import Answered

KNOWN = Described(
    (
        Field("email", "Email Address", "email", 255, True),
        Field("firstName", "First Name", "string", 255, True),
        Field("leadScore", "Lead Score", "score", None, True),
        Field("createdAt", "Created At", "datetime", None, False),
        Field("id", "Id", "integer", None, False),
    )
)
LEADS = Target()


def notes(*header: str, target: Target = LEADS, known: Described = KNOWN) -> list[tuple[str, str, bool]]:
    return [(found.column, found.note, found.refuses) for found in misfits(header, known, target)]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("FirstName", "it is named 'firstName' (case and spaces count)"),
        (" email", "it is named 'email' (case and spaces count)"),
        ("First Name", "'First Name' is the label of 'firstName': use that, or --map firstName='First Name'"),
        ("first_name", "did you mean 'firstName'?"),
        ("fristName", "did you mean 'firstName'?"),
        ("leadScoer", "did you mean 'leadScore'?"),
    ],
)
def test_an_unknown_column_is_named_with_what_was_meant(column: str, said: str) -> None:
    """Marketo ignores it in silence; the only sign is missing data, months later."""
    ((name, note, refuses),) = notes("email", column)
    assert (name, refuses) == (column, False)
    assert note.startswith("Marketo has no such field and will ignore the column; ")
    assert said in note


def test_a_column_like_no_field_gets_no_guess_and_a_documented_one_no_word() -> None:
    """A wrong hint costs more time than none; links to companies are columns that no describe lists."""
    assert notes("email", "xyzzy") == [("xyzzy", "Marketo has no such field and will ignore the column", False)]
    assert notes("email", "externalCompanyId", "externalSalesPersonId", "leadPartitionId") == []


def test_only_the_first_of_many_unknown_columns_are_likened_to_fields() -> None:
    """Every one with every field takes seconds of a wide file, in which no signal and no page is looked at."""
    found = notes("email", "FirstName", *(f"firstName{number}" for number in range(LIKENED + 5)))
    assert sum("did you mean" in note for _, note, _ in found) == LIKENED - 1
    assert len(found) == LIKENED + 6


def test_a_field_that_cannot_be_written_is_said_unless_it_is_the_lookup_field() -> None:
    """`id` cannot be changed, and is what updates look leads up by."""
    assert notes("email", "createdAt") == [
        ("createdAt", "Marketo does not let this field be written: the column changes nothing", False)
    ]
    assert notes("id", "firstName", target=Target(lookup_field="id")) == []


def test_a_lookup_field_that_does_not_exist_refuses_the_load() -> None:
    """Every row would fail."""
    ((column, note, refuses),) = notes("emial", target=Target(lookup_field="emial"))
    assert (column, refuses) == ("emial", True)
    assert "did you mean 'email'?" in note


def test_a_documented_lookup_field_is_left_to_marketo_where_describe_does_not_name_it() -> None:
    """To refuse it would leave no way round: cookies are no field that can be written, and may be looked up by."""
    ((column, note, refuses),) = notes("cookies", "firstName", target=Target(lookup_field="cookies"))
    assert (column, refuses) == ("cookies", False)
    assert "may refuse" in note


def test_a_custom_object_needs_all_its_dedupe_fields() -> None:
    """Together they identify a record."""
    cars = Described((Field("vin", "VIN", "string", 255, True), Field("make", "Make", "string", 255, True)), ("vin",))
    target = Target(kind="customobjects", name="car_c")
    assert notes("vin", "make", target=target, known=cars) == []
    assert [(column, refuses) for column, _, refuses in notes("make", target=target, known=cars)] == [("vin", True)]


def test_a_custom_object_is_not_looked_up_by_email() -> None:
    """Its column of that name is as unknown as any other."""
    cars = Described((Field("vin", "VIN", "string", 255, True),), ("vin",))
    ((column, note, _),) = notes("vin", "email", target=Target(kind="customobjects", name="car_c"), known=cars)
    assert (column, note) == ("email", "Marketo has no such field and will ignore the column")


def test_program_members_and_unknown_fields_are_let_be() -> None:
    """Nothing is said where nothing is known."""
    assert notes("anything", target=Target(kind="members", name="1")) == []
    assert notes("anything", known=Described(())) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "fields", "dedupeFields", "length", "displayName"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_whatever_marketo_sends_is_read_without_an_error(result: list[object], header: list[str]) -> None:
    """Answers change with releases; a check must not stop a load."""
    misfits(header, described(Answered(True, tuple(result))), LEADS)
