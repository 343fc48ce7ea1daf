"""The corpus of mangled echoes: how much is located, kind by kind, and that nothing is located wrongly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core.echoes import kinds, shares

FOREIGN = "a column of Marketo's"


@pytest.mark.parametrize("hazards", list(kinds()), ids=lambda hazards: " + ".join(hazards) or "well-formed")
def test_no_kind_of_file_leads_to_a_wrong_place_and_few_records_have_none(
    hazards: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    """Never a wrong row; and a report that places nothing would be as useless as one that guesses."""
    found = shares(hazards)
    for name in ("exact", "ambiguous", "nowhere"):
        record_property(f"echoes {name}", getattr(found, name))
    assert found.wrong == 0
    assert found.records > 300
    if "lookup column dropped" not in hazards and "a column missing" not in hazards and FOREIGN not in hazards:
        assert found.exact == found.records
    elif FOREIGN not in hazards:  # what tells two rows apart may be just what is missing
        assert found.exact > 0.9 * found.records
        assert found.nowhere == 0
