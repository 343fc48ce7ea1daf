"""When are the keys of two rows the same, and which keys does a source have?

As Marketo compares, as far as that is known: case and surrounding space do not count. Its documents say so of no field;
e-mail addresses are known to be matched so, and other text is assumed to be. Numbers are compared as they are written:
`7` and `07` are two keys. A key that is empty but for space is none: Marketo refuses such a row, whatever stands beside
it.

Rows are compared by a hash of 64 bits of their key. `hash_of` is that hash for one key; `manykeys` has it for thousands
at once, and both must agree: which of them sees a row depends on how the source is cut into blocks. Different keys that
happen to have one hash (in one of 3,000 sources of 100 million rows) only count as equal needlessly where rows are kept
together. Where one row makes another needless, a second hash must be the same, too.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orchestrator.core.rows import Scan
    from orchestrator.core.spill import NewFile, Spill

NO_KEY: Final = 0
"""Stands for a row without a key: it is like no other."""

ALL: Final = (1 << 64) - 1
FOLD: Final = 0x9E37_79B9_7F4A_7C15
LENGTH: Final = 0xC2B2_AE3D_27D4_EB4F
FINAL: Final = (0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53)
"""Odd numbers with bits all over, from splitmix64, xxHash and MurmurHash3."""

WORDS_MAX: Final = 32
"""A longer key (256 bytes; an e-mail address has 254 at most) is cut to a digest of it first."""

ONE_HASH: Final = (0,)
TWO_HASHES: Final = (0, 0xD6E8_FEB8_6659_FD92)
"""Salts, even numbers."""


def normal(value: str) -> bytes:
    """A lookup value as it is compared; empty when it is none."""
    return value.strip().lower().encode()


def hash_of(key: bytes, salt: int = 0) -> int:
    """The hash of a key in its normal form; NO_KEY of an empty one. salt: another one makes another hash.

    The salt is in the factor of each word, so that two keys with one hash have two by another salt.
    """
    if not key:
        return NO_KEY
    if len(key) > WORDS_MAX * 8:
        key = hashlib.blake2b(key, digest_size=32).digest()
    folded = 0
    for at in range(0, len(key), 8):
        word = int.from_bytes(key[at : at + 8], "little") * (LENGTH ^ salt) & ALL
        folded = (folded ^ word ^ word >> 32) * FOLD & ALL
        folded ^= folded >> 32
    folded ^= len(key) * LENGTH & ALL
    for factor in FINAL:
        folded = (folded ^ folded >> 33) * factor & ALL
    return (folded ^ folded >> 33) or 1


# --- the keys of a source -------------------------------------------------------------------------------

BUCKET_BITS: Final = 7
BUCKETS: Final = 1 << BUCKET_BITS
"""Of rows that are sorted on the disk: a bucket of a source of 100 million rows has 800,000."""
SIZE_BITS: Final = 28
"""A row and its bytes make one number, its *place*: 2**35 rows of up to 256 MB."""
HELD_ROWS: Final = 1 << 14
LOOKED_AT_ROWS: Final = 1 << 14
"""After so many rows, and then after four times as many, it is seen whether some share a key already."""
FEW_ROWS: Final = 5_000
"""They are compared without numpy, whose import takes longer."""


class Keys:
    """The keys of a source, put aside as its rows are found: on the disk where they are many. salts: of the hashes."""

    def __init__(self, new_file: NewFile, salts: Sequence[int] = ONE_HASH) -> None:
        self.new_file, self.salts = new_file, salts
        self._hashes, self._places = array("Q"), array("q")
        self._spill: Spill | None = None
        self._look_at_rows = LOOKED_AT_ROWS
        self.seen_twice = False
        """Were two rows with one key seen already? Looked at now and then."""

    def add(self, scan: Scan, first: int, end: int, row: int) -> None:
        """Sound records first..end-1 of a scan; the first of them is row `row`."""
        begin = scan.begin(first)
        if end - first < 64:
            for number, stop in enumerate(scan.stops[first:end], row):
                self._places.append(number << SIZE_BITS | (stop - begin))
                begin = stop
        else:
            import numpy as np

            sizes = np.diff(np.frombuffer(scan.stops, np.int64)[first:end], prepend=begin)
            rows = np.arange(row, row + end - first)
            self._places.frombytes((rows << SIZE_BITS | sizes).tobytes())
        self._hashes.extend(scan.keys[first * len(self.salts) : end * len(self.salts)])
        if len(self._places) >= self._look_at_rows and not self.seen_twice:
            self._look_at_rows *= 4
            self._look()
        if len(self._places) >= HELD_ROWS:
            self._put_aside()

    def all_different(self) -> bool:
        """Of a few rows: has no key two of them? False where it takes more to know."""
        if self._spill is not None or len(self._places) > FEW_ROWS:
            return False
        hashes = self._hashes[:: len(self.salts)]
        return len(set(hashes) - {NO_KEY}) == len(hashes) - hashes.count(NO_KEY)

    def by_hash(self) -> Spill:
        """(hash, place, other hashes) of every row that has a key, in buckets by hash, then in the source's order."""
        self._put_aside()
        assert self._spill is not None
        return self._spill

    def _look(self) -> None:
        import numpy as np

        hashes = np.sort(np.frombuffer(self._hashes, np.uint64)[:: len(self.salts)])
        again = hashes[1:][hashes[1:] == hashes[:-1]]
        self.seen_twice = bool((again != NO_KEY).any())

    def _put_aside(self) -> None:
        import numpy as np

        from orchestrator.core.spill import Spill

        if self._spill is None:
            self._spill = Spill(self.new_file, 1 + len(self.salts), BUCKETS)
        hashes = np.frombuffer(self._hashes, np.int64).reshape(-1, len(self.salts))
        keyed = np.flatnonzero(hashes[:, 0])
        records = np.insert(hashes[keyed], 1, np.frombuffer(self._places, np.int64)[keyed], axis=1)
        self._spill.put((records[:, 0].view(np.uint64) >> np.uint64(64 - BUCKET_BITS)).astype(np.uint8), records)
        self._hashes, self._places = array("Q"), array("q")
