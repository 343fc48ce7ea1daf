"""How are more records sorted than fit in memory? Put by bucket, taken bucket by bucket, in the order they were put.

Records are rows of int64 numbers. What is held is sorted by bucket and appended to a file as one run whenever it is
enough; a bucket is a piece of each run. The file is handed in and is only asked for when something is written to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Buckets = NDArray[np.unsignedinteger[Any]]
NewFile = Callable[[], BinaryIO]
"""Makes an empty file that goes with its last reference."""

HELD_BYTES: Final = 1 << 19
PIECE_ROWS: Final = 1 << 18
"""So many records of a bucket are in memory at once."""


class Spill:
    """Records of so many columns in so many buckets."""

    def __init__(self, new_file: NewFile, columns: int, buckets: int) -> None:
        self._new_file, self._columns, self._buckets = new_file, columns, buckets
        self._short = np.uint16 if buckets <= 1 << 16 else np.uint32  # of short numbers a stable sort is a radix sort
        self._file: BinaryIO | None = None
        self._held: list[tuple[Buckets, Numbers]] = []
        self._held_rows = 0
        self._held_begins: Numbers | None = None
        """Where each bucket begins in what is held, once that is sorted."""
        self._runs: list[tuple[int, Numbers]] = []
        """(where it begins in the file, where each bucket begins in it) of each run."""
        self._end = 0

    def put(self, buckets: Numbers | Buckets, records: Numbers) -> None:
        """Records, each into its own bucket."""
        assert records.shape == (len(buckets), self._columns)
        self._held.append((buckets.astype(self._short), records))
        self._held_rows += len(records)
        self._held_begins = None
        if self._held_rows * self._columns * 8 >= HELD_BYTES:
            self._write()

    def pieces(self, bucket: int) -> Iterator[Numbers]:
        """A bucket's records in the order they were put, some at a time."""
        pieces: list[Numbers] = []
        rows = 0
        for piece in self._of_runs(bucket):
            pieces.append(piece)
            rows += len(piece)
            if rows >= PIECE_ROWS:
                yield np.concatenate(pieces)
                pieces, rows = [], 0
        if rows:
            yield np.concatenate(pieces)

    def again(self, bucket: int) -> Callable[[], Iterator[Numbers]]:
        """Its pieces for as often as that is called: read once, where there is one piece."""
        first = list(islice(self.pieces(bucket), 2))
        return (lambda: self.pieces(bucket)) if len(first) > 1 else (lambda: iter(first))

    def bucket(self, bucket: int) -> Numbers:
        """All of a bucket's records."""
        pieces = list(self.pieces(bucket))
        return np.concatenate(pieces) if pieces else np.empty((0, self._columns), np.int64)

    def _of_runs(self, bucket: int) -> Iterator[Numbers]:
        for start, begins in self._runs:
            first, end = int(begins[bucket]), int(begins[bucket + 1])
            if first < end:
                assert self._file is not None
                self._file.seek(start + first * self._columns * 8)
                content = self._file.read((end - first) * self._columns * 8)
                yield np.frombuffer(content, np.int64).reshape(-1, self._columns)
        if self._held_rows:
            if self._held_begins is None:
                buckets, records = self._gathered()
                order, self._held_begins = self._sorted(buckets)
                self._held = [(buckets[order], records[order])]
            begin, end = self._held_begins[bucket], self._held_begins[bucket + 1]
            if begin < end:
                yield self._held[0][1][begin:end]

    def _gathered(self) -> tuple[Buckets, Numbers]:
        return np.concatenate([one for one, _ in self._held]), np.concatenate([one for _, one in self._held])

    def _sorted(self, buckets: Buckets) -> tuple[Numbers, Numbers]:
        """The order of records by bucket, and where each bucket begins then."""
        begins = np.zeros(self._buckets + 1, np.int64)
        np.cumsum(np.bincount(buckets, minlength=self._buckets), out=begins[1:])
        return np.argsort(buckets, kind="stable"), begins

    def _write(self) -> None:
        if self._file is None:
            self._file = self._new_file()
        buckets, records = self._gathered()
        order, begins = self._sorted(buckets)
        self._file.seek(self._end)
        self._file.write(records[order].data)
        self._runs.append((self._end, begins))
        self._end += records.nbytes
        self._held, self._held_rows, self._held_begins = [], 0, None
