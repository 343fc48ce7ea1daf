"""What do imports leave behind, key by key, and were two of them at one key at one moment?

A model of its own: it knows when each import was accepted, began and ended, and what was in it. Of two imports that run
at once it assumes the worst: their rows take effect one after the other, as time passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the keys and values of its rows, in order, and its times. `fails`: it leaves nothing behind."""

    rows: Sequence[tuple[str, object]]
    accepted_at: float
    started_at: float
    ended_at: float
    fails: bool = False


def key_of(value: str) -> str:
    """As Marketo compares lookup values; empty when a row has none."""
    return value.strip().lower()


def in_two_at_once(imports: Iterable[Import]) -> list[str]:
    """Keys that were in two unfinished imports at one moment."""
    ends: dict[str, float] = {}
    found: list[str] = []
    for one in sorted(imports, key=lambda one: one.accepted_at):
        for key in {key for key, _ in one.rows if key}:
            if ends.get(key, one.accepted_at) > one.accepted_at:
                found.append(key)
            ends[key] = max(one.ended_at, ends.get(key, 0.0))
    return found


def left_behind(imports: Iterable[Import], takes: Callable[[object], bool] = lambda _: True) -> dict[str, object]:
    """The last value of each key, after all imports. takes: whether a row is imported and not refused."""
    last: dict[str, tuple[float, int, object]] = {}
    for number, one in enumerate(imports):
        if one.fails:
            continue
        step_s = (one.ended_at - one.started_at) / max(1, len(one.rows))
        for index, (key, value) in enumerate(one.rows):
            if key and takes(value):
                moment = one.started_at + step_s * (index + 1)
                if key not in last or (moment, number) >= last[key][:2]:
                    last[key] = moment, number, value
    return {key: value for key, (_, _, value) in last.items()}
