"""What does the report's page draw? Shares, a time line of batches, and curves, as plain numbers.

Nothing here knows about HTML: positions are shares of a width of `WIDTH`. Batches are kept as a few numbers each, so
that a load of a hundred thousand of them is drawn in a few megabytes. Times are as our polls saw them: a batch is seen
importing, and ended, up to one poll later than it was. A batch that nobody asked after while it was imported began, as
far as can be told, when one of the two processors was through with those before it: the queue is first-in first-out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import islice
from typing import Literal

from orchestrator.core.model import Offer, Totals

WIDTH = 1_000.0
BINS = 200
"""Steps of a curve: more cannot be told apart on a screen."""
VISIBLE_MIN = 6.0
"""Narrowest part of the bar: ten failed rows of ten million are what the page is opened for."""
LANES = 2
"""Marketo imports two batches of a subscription at a time (Adobe, bulk import)."""

PartName = Literal["imported", "warned", "failed", "rejected", "unsent", "unknown"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the bar: `x` and `width` add up to WIDTH over all parts; `share` is the true one, 0 to 1."""

    name: PartName
    rows: int
    share: float
    x: float
    width: float


def parts_of(totals: Totals) -> tuple[Part, ...]:
    """The parts of a load that have rows, the good ones first. Their rows add up to all rows."""
    counts: tuple[tuple[PartName, int], ...] = (
        ("imported", totals.imported - totals.warned),
        ("warned", totals.warned),
        ("failed", totals.failed),
        ("rejected", totals.rejected),
        ("unsent", totals.unsent),
        ("unknown", totals.unknown),
    )
    shown = [(name, rows) for name, rows in counts if rows]
    assert sum(rows for _, rows in shown) == totals.rows, "every row is in one part of the bar"
    widths = widened([rows / totals.rows for _, rows in shown])
    parts: list[Part] = []
    x = 0.0
    for (name, rows), width in zip(shown, widths, strict=True):
        parts.append(Part(name, rows, rows / totals.rows, x, width))
        x += width
    return tuple(parts)


def widened(shares: Sequence[float]) -> list[float]:
    """Widths of shares that add up to 1: none is too narrow to be seen, at the cost of the widest."""
    widths = [max(VISIBLE_MIN, share * WIDTH) for share in shares]
    if widths:
        widths[widths.index(max(widths))] -= sum(widths) - WIDTH
    return widths


@dataclass(frozen=True, slots=True)
class Lane:
    """One batch on the time line. A part is (x, width); `importing` has no width where it has not begun."""

    sending: tuple[float, float]
    queued: tuple[float, float]
    importing: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curves:
    """What was going on over time, in BINS steps of equal length."""

    importing: tuple[float, ...]
    """Batches that were imported, on average in each step."""
    queued: tuple[float, ...]
    rows_done: tuple[int, ...]
    """Rows whose batch had ended by the end of each step."""
    most: int
    """The most batches in Marketo's queue in any step, rounded up: the height of the chart."""
    both_busy_share: float | None
    """Of the time from the first batch that was imported to the last end, how much both processors were at work."""
    rows_per_s: float | None
    """From the first upload to the last end."""
    best_rows_per_s: float | None
    """In the best tenth of the time."""


class TimeLine:
    """The batches of a load, as they come by."""

    def __init__(self) -> None:
        self._times = array("d")  # five numbers for each batch: offered, accepted, importing, ended, rows
        self._inferred = array("d")
        self.starts_at, self.ends_at = float("inf"), float("-inf")

    def add(self, offer: Offer, rows: int) -> None:
        """One batch: an offer that was accepted."""
        assert offer.accepted_at is not None
        accepted = max(offer.accepted_at, offer.offered_at)
        ended = max(accepted, offer.ended_at) if offer.ended_at is not None else float("nan")
        importing = max(accepted, offer.importing_first_at) if offer.importing_first_at is not None else float("nan")
        self._times.extend((offer.offered_at, accepted, importing, ended, rows))
        self.starts_at = min(self.starts_at, offer.offered_at)
        last = ended if ended == ended else importing if importing == importing else accepted
        self.ends_at = max(self.ends_at, last)

    def __len__(self) -> int:
        return len(self._times) // 5

    @property
    def seconds(self) -> float:
        """From the first upload to the last that is known."""
        return max(0.0, self.ends_at - self.starts_at) if len(self) else 0.0

    def lanes(self, count: int) -> list[Lane]:
        """The first batches, in the order they were added; WIDTH is the time in which they were under way."""
        shown = [
            (offered, accepted, min(importing, until) if importing == importing else until, until)
            for offered, accepted, importing, ended, _ in islice(self._batches(), count)
            for until in [ended if ended == ended else self.ends_at]
        ]
        starts_at, ends_at = min((one[0] for one in shown), default=0), max((one[3] for one in shown), default=0)
        scale = WIDTH / (ends_at - starts_at) if ends_at > starts_at else 0.0

        def bar(start: float, stop: float) -> tuple[float, float]:
            return (start - starts_at) * scale, (stop - start) * scale

        return [
            Lane(bar(offered, accepted), bar(accepted, begun), bar(begun, until))
            for offered, accepted, begun, until in shown
        ]

    def curves(self) -> Curves | None:
        """None when no time has passed."""
        if self.seconds <= 0:
            return None
        importing, queued, done = _Coverage(BINS), _Coverage(BINS), [0] * BINS
        first_import, last_end = float("inf"), float("-inf")
        for _, accepted, begun, ended, rows in self._batches():
            until = self.ends_at if ended != ended else ended
            begun = until if begun != begun else min(begun, until)
            queued.add(self._bin(accepted), self._bin(begun))
            importing.add(self._bin(begun), self._bin(until))
            if begun < until:
                first_import, last_end = min(first_import, begun), max(last_end, until)
            if ended == ended:
                done[min(BINS - 1, int(self._bin(ended)))] += int(rows)
        rows_done = _running(done)
        at_work = importing.steps()
        waiting = queued.steps()
        busy = None
        if first_import < last_end:
            inside = at_work[int(self._bin(first_import)) : max(1, round(self._bin(last_end)))]
            busy = sum(min(1.0, max(0.0, one - LANES + 1)) for one in inside) / len(inside) if inside else None
        return Curves(
            importing=tuple(at_work),
            queued=tuple(waiting),
            rows_done=tuple(rows_done),
            most=max(LANES, *(_up(one + other) for one, other in zip(at_work, waiting, strict=True))),
            both_busy_share=busy,
            rows_per_s=rows_done[-1] / self.seconds if rows_done[-1] else None,
            best_rows_per_s=self._best(rows_done),
        )

    def _best(self, rows_done: Sequence[int]) -> float | None:
        wide = BINS // 10
        before = [0] * wide + list(rows_done)
        most = max(now - earlier for now, earlier in zip(rows_done, before, strict=False))
        return most / (self.seconds / 10) if most else None

    def _batches(self) -> Iterable[tuple[float, float, float, float, float]]:
        times = iter(self._times)
        for number, (offered, accepted, seen, ended, rows) in enumerate(zip(*[times] * 5, strict=True)):
            yield offered, accepted, seen if seen == seen else self._begun()[number], ended, rows

    def _begun(self) -> array[float]:
        """When each batch began to be imported; of those that were not seen, when a processor was free for them."""
        if len(self._inferred) == len(self):
            return self._inferred
        accepted, seen, ended = self._times[1::5], self._times[2::5], self._times[3::5]
        begun, free_at = array("d", seen), [0.0] * LANES
        for number in sorted(range(len(self)), key=accepted.__getitem__):
            if seen[number] != seen[number] and ended[number] == ended[number]:
                begun[number] = min(ended[number], max(accepted[number], free_at[0]))
            if begun[number] == begun[number]:
                heapreplace(free_at, ended[number] if ended[number] == ended[number] else self.ends_at)
        self._inferred = begun
        return begun

    def _bin(self, at: float) -> float:
        return (at - self.starts_at) / self.seconds * BINS


class _Coverage:
    """How many of many intervals cover each of `bins` steps, on average; each interval costs the same."""

    def __init__(self, bins: int) -> None:
        self._bins = bins
        self._inside = [0.0] * bins
        self._changes = [0] * (bins + 1)

    def add(self, start: float, stop: float) -> None:
        """An interval in units of steps."""
        if stop <= start:
            return
        first, last = min(int(start), self._bins - 1), min(int(stop), self._bins - 1)
        if first == last:
            self._inside[first] += stop - start
            return
        self._inside[first] += first + 1 - start
        self._inside[last] += stop - last
        self._changes[first + 1] += 1
        self._changes[last] -= 1

    def steps(self) -> list[float]:
        return [inside + whole for inside, whole in zip(self._inside, _running(self._changes), strict=False)]


def _running(numbers: Iterable[int]) -> list[int]:
    sums: list[int] = []
    total = 0
    for number in numbers:
        total += number
        sums.append(total)
    return sums


def _up(number: float) -> int:
    """The next whole number; what is wrong by rounding only is none."""
    return -int(-(number - 1e-6) // 1)
