"""What are the keys of thousands of rows compared by? `keys.hash_of`, of all of them at once.

Values are read eight bytes a step out of the block they stand in, made lower case and mixed into hashes. A value that
this cannot do exactly (other letters than ASCII's, quotes within quotes, unusual space around it, one that is very
long or ends where the block does) is looked at by itself.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from orchestrator.core.keys import FINAL, FOLD, LENGTH, NO_KEY, WORDS_MAX, hash_of, normal

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

_QUOTE, _SPACE = b'" '
_BLANKS_MAX: Final = 4
"""More of them around a value are taken off by hand."""
_EACH: Final = 0x0101_0101_0101_0101
_HIGH: Final = np.uint64(0x80 * _EACH)
_FROM_A: Final = np.uint64((0x80 - ord("A")) * _EACH)
_BEYOND_Z: Final = np.uint64((0x7F - ord("Z")) * _EACH)
_QUOTES: Final = np.uint64(_QUOTE * _EACH)
_ONES: Final = np.uint64(_EACH)
_MASKS: Final = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_FOLD, _LENGTH = np.uint64(FOLD), np.uint64(LENGTH)


def hashes(data: bytes, starts: Places, stops: Places, salt: int) -> Hashes:
    """The hashes of the values at data[start:stop], as a sound record has them: bare, or in quotes as a whole."""
    text = np.frombuffer(data, np.uint8)
    if len(text) < 8:
        return np.array([_of_one(data[a:b], salt) for a, b in zip(starts, stops, strict=True)], np.uint64)
    given = starts, stops
    starts, stops = _unwrapped(text, starts, stops)
    lengths = stops - starts
    odd = (lengths > WORDS_MAX * 8) | (starts + ((lengths + 7) & ~7) > len(text))
    odd |= _is_blank(text, starts, lengths) | _is_blank(text, stops - 1, lengths)
    words = as_strided(text[:8].view("<u8"), (len(text) - 7,), (1,), writeable=False)
    factor = np.uint64(LENGTH ^ salt)
    folded = np.zeros(len(starts), np.uint64)
    unusual = np.zeros(len(starts), np.uint64)
    active = np.flatnonzero((lengths > 0) & ~odd)
    at, left = starts[active], lengths[active]
    while len(active):
        word = words[at] & _MASKS[np.minimum(left, 8)]
        quotes = word ^ _QUOTES
        unusual[active] |= (word | ((quotes - _ONES) & ~quotes)) & _HIGH
        capitals = (word + _FROM_A) & ~(word + _BEYOND_Z) & _HIGH
        word = (word | (capitals >> np.uint64(2))) * factor
        mixed = (folded[active] ^ word ^ (word >> np.uint64(32))) * _FOLD
        folded[active] = mixed ^ (mixed >> np.uint64(32))
        more = left > 8
        active, at, left = active[more], at[more] + 8, left[more] - 8
    folded ^= lengths.astype(np.uint64) * _LENGTH
    for final in FINAL:
        folded = (folded ^ (folded >> np.uint64(33))) * np.uint64(final)
    folded ^= folded >> np.uint64(33)
    folded[folded == 0] = 1
    folded[lengths <= 0] = NO_KEY
    for index in np.flatnonzero(odd | (unusual != 0)).tolist():
        folded[index] = _of_one(data[given[0][index] : given[1][index]], salt)
    return folded


def _unwrapped(text: NDArray[np.uint8], starts: Places, stops: Places) -> tuple[Places, Places]:
    """The values without their quotes and the blanks around them, as far as either is usual."""
    quoted = (stops - starts >= 2) & (text[np.minimum(starts, len(text) - 1)] == _QUOTE)
    starts, stops = starts + quoted, stops - quoted
    for _ in range(_BLANKS_MAX):
        blank = (stops > starts) & (text[np.minimum(starts, len(text) - 1)] == _SPACE)
        starts = starts + blank
        behind = (stops > starts) & (text[stops - 1] == _SPACE)
        stops = stops - behind
        if not (blank.any() or behind.any()):
            break
    return starts, stops


def _is_blank(text: NDArray[np.uint8], at: Places, lengths: Places) -> NDArray[np.bool_]:
    """Is a byte still one that could be space at the end of a value?"""
    blank: NDArray[np.bool_] = (lengths > 0) & (text[np.clip(at, 0, len(text) - 1)] <= _SPACE)
    return blank


def _of_one(value: bytes, salt: int) -> int:
    """The hash of one value as it stands in its record."""
    if value[:1] == b'"':
        value = value[1:-1]
    return hash_of(normal(value.replace(b'""', b'"').decode(errors="replace")), salt)
