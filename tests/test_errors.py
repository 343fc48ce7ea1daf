"""What messages say that count."""

from __future__ import annotations

from orchestrator.errors import DoubtHeld


def test_one_doubt_is_not_several() -> None:
    """A person decides by this sentence."""
    assert DoubtHeld([7]).message.startswith("1 chunk may or may not have been imported (chunk 7);")
    assert DoubtHeld([7, 9]).message.startswith("2 chunks may or may not have been imported (chunk 7, 9);")
