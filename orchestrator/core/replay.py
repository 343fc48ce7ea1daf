"""What was found when a source was first read? Written down, and told again at its second reading, block by block.

Finding records costs more than anything else that is done with a source, so it is done once. A scan is written as its
offsets, 4 bytes a record, and comes back with the bytes of the second reading. The blocks must be the same.
"""

from __future__ import annotations

import json
from array import array
from struct import Struct
from typing import BinaryIO, Final

from orchestrator.core.rows import Scan, TooLarge

_HEAD: Final = Struct("<qqqqq")
"""Of a scan: base, start, first line, records, bytes of its problems; of a record too large: its place, line, -1, 0."""
_TOO_LARGE: Final = -1
FEW_RECORDS: Final = 64
"""They are written without numpy, whose import takes longer."""


class Replay:
    """Scans of one source, written in order; then `feed` and `finish` as `RowScanner` has them, for the same blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._next: Scan | TooLarge | None = None
        self._at = 0
        """Which byte of the source the next block begins with."""
        self._kept = b""
        """What was fed of a record that goes on in the next block."""

    def write(self, found: Scan | TooLarge) -> None:
        match found:
            case TooLarge(start, stop, line):
                self._file.write(_HEAD.pack(start, stop, line, _TOO_LARGE, 0))
            case Scan():
                problems = json.dumps(list(found.problems.items())).encode() if found.problems else b""
                head = (found.base, found.start, found.first_line, len(found.stops), len(problems))
                self._file.write(_HEAD.pack(*head) + _shortened(found.stops) + problems)

    def rewind(self, at: int) -> Replay:
        """From the beginning; `at`: where the first block of rows will begin."""
        self._file.seek(0)
        self._at, self._next = at, self._read()
        return self

    def feed(self, block: bytes) -> list[Scan | TooLarge]:
        """What ends in this block."""
        results: list[Scan | TooLarge] = []
        begin, end = self._at, self._at + len(block)
        self._at = end
        done = begin
        while (found := self._next) is not None and _end_of(found) <= end:
            if isinstance(found, Scan):
                found = self._with_bytes(found, block, begin)
            results.append(found)
            done = _end_of(found)
            self._next = self._read()
        if isinstance(self._next, Scan) and self._next.base < end:
            self._kept = (b"" if results else self._kept) + block[max(0, done - begin) :]
        else:  # nothing goes on, or what does is too large to be kept
            self._kept = b""
        return results

    def finish(self) -> list[Scan | TooLarge]:
        """There is nothing that does not end with a block."""
        assert self._next is None
        return []

    def _with_bytes(self, scan: Scan, block: bytes, begin: int) -> Scan:
        data = block
        if scan.base > begin:  # the last record, without a line end
            data = block[scan.base - begin :]
        elif scan.base < begin:
            assert scan.base == begin - len(self._kept), "the blocks are those of the first reading"
            data = self._kept + block[: scan.base + scan.stops[-1] - begin]
        return Scan(data, scan.base, scan.start, scan.first_line, scan.stops, scan.problems, scan.keys)

    def _read(self) -> Scan | TooLarge | None:
        head = self._file.read(_HEAD.size)
        if not head:
            return None
        base, start, line, records, problem_bytes = _HEAD.unpack(head)
        if records == _TOO_LARGE:
            return TooLarge(base, start, line)
        stops = _lengthened(self._file.read(4 * records))
        problems = json.loads(self._file.read(problem_bytes)) if problem_bytes else ()
        return Scan(b"", base, start, line, stops, dict(problems), array("Q"))


def _shortened(stops: array[int]) -> bytes:
    if len(stops) < FEW_RECORDS:
        return array("i", stops).tobytes()
    import numpy as np

    return np.frombuffer(stops, np.int64).astype(np.int32).tobytes()


def _lengthened(stops: bytes) -> array[int]:
    if len(stops) < 4 * FEW_RECORDS:
        return array("q", array("i", stops))
    import numpy as np

    return array("q", np.frombuffer(stops, np.int32).astype(np.int64).tobytes())


def _end_of(found: Scan | TooLarge) -> int:
    return found.stop if isinstance(found, TooLarge) else found.base + found.stops[-1]
