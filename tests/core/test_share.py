"""Who may take the next slot, from plain values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import LoadId, Priority
from orchestrator.core.share import STARVING_S, Wish, shares

NOW = 10_000.0


def wish(name: str, priority: Priority = "normal", unsent: int = 10, held: int = 0, served: float = NOW) -> Wish:
    return Wish(LoadId(name), priority, unsent, held, served)


wishes = st.lists(
    st.builds(
        Wish,
        st.sampled_from([LoadId(name) for name in "abcdefghijkl"]),
        st.sampled_from(["low", "normal", "high"]),
        st.integers(0, 10),
        st.integers(0, 10),
        st.floats(NOW - 1000, NOW),
    ),
    unique_by=lambda one: one.load_id,
)


@given(wishes=wishes, slots=st.integers(0, 10))
def test_shares_are_all_there_is_and_no_more_than_is_wanted(wishes: list[Wish], slots: int) -> None:
    """A slot given twice is an eleventh job; a slot given to nobody is a processor that waits."""
    share = shares(wishes, slots, NOW)
    assert sum(share.values()) == min(slots, sum(one.unsent + one.held for one in wishes))
    assert all(share[one.load_id] <= one.unsent + one.held for one in wishes)


@given(wishes=wishes, slots=st.integers(1, 10))
def test_every_load_that_has_something_to_send_gets_a_slot_as_far_as_they_go_round(
    wishes: list[Wish], slots: int
) -> None:
    """No load starves behind a more urgent one."""
    share = shares(wishes, slots, NOW)
    wanting = [one for one in wishes if one.unsent + one.held > 0]
    assert sum(share[one.load_id] > 0 for one in wanting) >= min(slots, len(wanting))


def test_equal_loads_share_equally() -> None:
    """Two files at once take twice as long each, not one after the other."""
    assert shares([wish("a", held=9), wish("b")], 10, NOW) == {"a": 5, "b": 5}


def test_an_urgent_load_gets_all_but_what_keeps_the_others_going() -> None:
    """A thousand rows for this evening's campaign do not wait behind ten million."""
    assert shares([wish("large", held=10), wish("small", "high")], 10, NOW) == {"large": 1, "small": 9}
    assert shares([wish("large", held=10), wish("small", "high", unsent=3)], 10, NOW) == {"large": 7, "small": 3}
    assert shares([wish("large"), wish("small", "high")], 1, NOW) == {"large": 0, "small": 1}


def test_a_load_that_was_not_served_for_long_goes_first_whatever_its_priority() -> None:
    """With one slot and a stream of urgent loads it would wait for ever."""
    waited = wish("large", "low", served=NOW - STARVING_S - 1)
    assert shares([waited, wish("small", "high")], 1, NOW) == {"large": 1, "small": 0}


def test_among_equals_the_one_served_longest_ago_is_next() -> None:
    """More loads than slots take turns."""
    three = [wish("a", served=NOW - 1), wish("b", served=NOW - 3), wish("c", served=NOW - 2)]
    assert shares(three, 2, NOW) == {"a": 0, "b": 1, "c": 1}
