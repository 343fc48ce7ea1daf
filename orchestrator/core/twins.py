"""Which rows share a key, and what becomes of each of them?

Two batches are imported at once, and two imports of one key at one moment can make two leads of it. So rows that share
a key, *twins*, are taken out of the byte ranges that all other rows are sent in:

- all twins of a key go to one chunk, in the order of the source; keys come in the order of their first row;
- a key with more rows than a chunk has room for has chunks of its own, each of which waits for the one before;
- where only the last row of a key is wanted, it is no twin, and the others are not sent at all. Rows whose keys share
  one hash but not the other are different leads: they are all sent.

Memory: a bucket of rows, wherever the twins are, and nothing for each key; what is known of them all is on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.keys import BUCKETS, SIZE_BITS, Keys
from orchestrator.core.model import OnDuplicate
from orchestrator.core.spill import Numbers, Spill

_LIKELY: Final = (1 << 17) - 1


@dataclass(slots=True)
class _Filling:
    """Chunks that one key fills alone, by their numbers so far; the last of them has `size_bytes` of rows."""

    chunks: list[int]
    size_bytes: int = 0


@dataclass(slots=True)
class Found:
    """The keys of one bucket that several rows have: of each, its hash, its first and last row, and their bytes.

    last_hash: the second hash of the last row's key, where there is one.
    """

    hashes: Numbers
    first: Numbers = field(init=False)
    last: Numbers = field(init=False)
    last_hash: Numbers = field(init=False)
    size_bytes: Numbers = field(init=False)
    _likely: NDArray[np.bool_] = field(init=False)
    """By the end of a hash: may it be one of these? Most rows are told apart by that."""

    def __post_init__(self) -> None:
        self._likely = np.zeros(_LIKELY + 1, np.bool_)
        self._likely[self.hashes & _LIKELY] = True
        self.first = np.full(len(self.hashes), -1)
        self.last, self.last_hash, self.size_bytes = (np.zeros_like(self.first) for _ in range(3))

    def of(self, records: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """(key, place, second hash if there are two) of those records that have one of these keys, in their order."""
        records = records[self._likely[records[:, 0] & _LIKELY]]
        at = np.minimum(np.searchsorted(self.hashes, records[:, 0]), len(self.hashes) - 1)
        twins = self.hashes[at] == records[:, 0]
        return at[twins], records[twins, 1], records[twins, -1]

    def add(self, keys: Numbers, places: Numbers, second_hashes: Numbers) -> None:
        """More of their rows, in the order of the source."""
        rows, sizes = _taken_apart(places)
        some, at = np.unique(keys, return_index=True)
        new = self.first[some] < 0
        self.first[some[new]] = rows[at[new]]
        self.last[keys], self.last_hash[keys] = rows, second_hashes
        np.add.at(self.size_bytes, keys, sizes)


class Twins:
    """The twins of a source of so many rows, and the chunks they go to. room: of a chunk, for rows.

    rows, size_bytes: of those that are taken out. chunks: how many there are for them; `after[n]`: which of them chunk
    n waits for. All from 0.
    """

    def __init__(self, keys: Keys, rows: int, room: int, on_duplicate: OnDuplicate) -> None:
        self.source_rows, self._room, self._last_only = rows, room, on_duplicate == "last"
        self._by_first = Spill(keys.new_file, 2, BUCKETS)
        self._by_row = Spill(keys.new_file, 2, BUCKETS)
        self._alone: dict[int, _Filling] = {}
        self.rows = self.size_bytes = self.keys = 0
        self.after: list[int | None] = []
        by_hash = keys.by_hash()
        for bucket in range(BUCKETS):
            self._take(by_hash, bucket)
        self._pack()
        self._number()
        self._bucket, self._rest = 0, self._read(0)

    @property
    def chunks(self) -> int:
        return len(self.after)

    def between(self, first: int, end: int) -> tuple[Numbers, Numbers]:
        """(row, chunk) of the twins among rows first..end-1; asked in the order of the source.

        Where the last row of each key is kept: (row, last row with its key).
        """
        pieces: list[Numbers] = []
        while self._bucket < BUCKETS:
            cut = int(np.searchsorted(self._rest[:, 0], end))
            pieces.append(self._rest[:cut])
            self._rest = self._rest[cut:]
            if len(self._rest) or (self._bucket + 1) * (self.source_rows + 1) >= BUCKETS * end:
                break
            self._bucket += 1
            self._rest = self._read(self._bucket)
        found = np.concatenate(pieces) if pieces else self._rest
        assert not len(found) or found[0, 0] >= first
        return found[:, 0], found[:, 1] if self._last_only else self._numbers[found[:, 1]]

    # --- inside -----------------------------------------------------------------------------------------

    def _take(self, by_hash: Spill, bucket: int) -> None:
        pieces = by_hash.again(bucket)
        hashes = _met_twice(pieces())
        if not len(hashes):
            return
        found = Found(hashes)
        for records in pieces():
            found.add(*found.of(records))
        self.keys += len(hashes)
        for records in pieces():
            self._place(found, *found.of(records))

    def _place(self, found: Found, keys: Numbers, places: Numbers, second_hashes: Numbers) -> None:
        """What becomes of these rows, as far as it can be said before all are known."""
        if self._last_only:
            rows, _ = _taken_apart(places)
            superseded = (rows != found.last[keys]) & (second_hashes == found.last_hash[keys])
            self._take_out(places[superseded], found.last[keys[superseded]])
            return
        alone = found.size_bytes[keys] > self._room
        for key in np.unique(keys[alone]).tolist():
            self._fill_alone(int(found.first[key]), places[keys == key])
        first = found.first[keys[~alone]]
        self._by_first.put(self._bucket_of(first), np.stack([first, places[~alone]], axis=1))

    def _fill_alone(self, first_row: int, places: Numbers) -> None:
        """Rows of a key that needs several chunks, one after the other."""
        filling = self._alone.setdefault(first_row, _Filling([]))
        _, sizes = _taken_apart(places)
        ends = np.cumsum(sizes)
        chunks = np.empty(len(places), np.int64)
        first = 0
        while first < len(places):
            before = int(ends[first - 1]) if first else 0
            cut = int(np.searchsorted(ends, before + self._room - filling.size_bytes, side="right"))
            if cut == first or not filling.chunks:
                filling.chunks.append(self.chunks)
                filling.size_bytes = 0
                self.after.append(filling.chunks[-2] if len(filling.chunks) > 1 else None)
                continue
            chunks[first:cut] = filling.chunks[-1]
            filling.size_bytes += int(ends[cut - 1]) - before
            first = cut
        self._take_out(places, chunks)

    def _pack(self) -> None:
        """All other twins: whole keys into chunks that are about equal."""
        total = self.size_bytes
        size_bytes = wanted = 0
        for bucket in range(BUCKETS):
            for records in self._by_first.pieces(bucket):
                size_bytes += int(_taken_apart(records[:, 1])[1].sum())
        wanted = -(-size_bytes // max(1, self._room - self._room // 20))
        target = -(-size_bytes // max(1, wanted))
        filled = target  # as if there were a full chunk before
        for bucket in range(BUCKETS):
            records = self._by_first.bucket(bucket)
            records = records[np.argsort(records[:, 0], kind="stable")]
            filled = self._pack_bucket(records, target, filled)
        assert self.size_bytes == total + size_bytes

    def _pack_bucket(self, records: Numbers, target: int, filled: int) -> int:
        if not len(records):
            return filled
        key_ends = np.append(np.flatnonzero(np.diff(records[:, 0])) + 1, len(records))
        ends = np.cumsum(_taken_apart(records[:, 1])[1])[key_ends - 1]
        chunks = np.empty(len(ends), np.int64)
        first = 0
        while first < len(ends):
            before = int(ends[first - 1]) if first else 0
            cut = int(np.searchsorted(ends, before + self._room - filled, side="right"))
            cut = min(cut, int(np.searchsorted(ends, before + target - filled)) + 1)
            if filled >= target or cut == first:
                self.after.append(None)
                filled = 0
                continue
            cut = min(cut, len(ends))
            chunks[first:cut] = self.chunks - 1
            filled += int(ends[cut - 1]) - before
            first = cut
        self._take_out(records[:, 1], np.repeat(chunks, np.diff(key_ends, prepend=0)))
        return filled

    def _take_out(self, places: Numbers, into: Numbers) -> None:
        rows, sizes = _taken_apart(places)
        self.rows += len(rows)
        self.size_bytes += int(sizes.sum())
        self._by_row.put(self._bucket_of(rows), np.stack([rows, into], axis=1))

    def _number(self) -> None:
        """Keys that have chunks to themselves come first, in the order of the source: what waits should begin early."""
        order = [chunk for first in sorted(self._alone) for chunk in self._alone[first].chunks]
        order += sorted(set(range(self.chunks)) - set(order))
        self._numbers = np.empty(len(order), np.int64)
        self._numbers[order] = np.arange(len(order))
        after = [self.after[chunk] for chunk in order]
        self.after = [None if chunk is None else int(self._numbers[chunk]) for chunk in after]

    def _bucket_of(self, rows: Numbers) -> Numbers:
        return rows * BUCKETS // (self.source_rows + 1)

    def _read(self, bucket: int) -> Numbers:
        records = self._by_row.bucket(bucket) if bucket < BUCKETS else np.empty((0, 2), np.int64)
        return records[np.argsort(records[:, 0])]


def _met_twice(pieces: Iterator[Numbers]) -> Numbers:
    """The hashes that several records have, sorted."""
    seen = twice = np.empty(0, np.int64)
    for records in pieces:
        hashes = np.sort(np.concatenate([seen, records[:, 0]]))
        again = hashes[1:] == hashes[:-1]
        if again.any():
            twice = np.union1d(twice, hashes[1:][again])
            hashes = hashes[np.append(True, ~again)]
        seen = hashes
    return twice


def _taken_apart(places: Numbers) -> tuple[Numbers, Numbers]:
    """Rows and their bytes."""
    return places >> SIZE_BITS, places & ((1 << SIZE_BITS) - 1)
