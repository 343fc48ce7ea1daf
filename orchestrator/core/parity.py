"""Where do the records of a whole block end? All of them at once, 64 bytes a step.

A block becomes bitmaps: one bit for each byte, packed into words of 64. `quotes` has a bit where a quote stands,
`newlines` where a line feed does. Whether a byte stands inside quotes is the parity of the quotes up to it, and the
parities of all bytes together are the *prefix XOR* of `quotes`. An example, bit 0 at the left:

    text        a , " b LF c " , d LF         one record of two lines: a,"b\nc",d
    quotes      . . 1 .  . . 1 . .  .
    inside      . . 1 1  1 1 . . .  .         each 1 in `quotes` flips everything from there on
    newlines    . . . .  1 . . . .  1
    ends        . . . .  . . . . .  1         newlines and not inside

Within a word the prefix XOR takes six steps, `x ^= x << 1`, `<< 2`, ... `<< 32`: after the first each bit is the parity
of two bits, after the second of four, after the sixth of all up to it. Its top bit is then the parity of the whole
word; `xor.accumulate` over the words' parities says for each word whether it begins inside quotes, and if so, it is
inverted.

How many cells a record has is how many delimiters stand outside quotes between two ends: the number of bits before a
place (its *rank*) is the running sum of the words' popcounts, plus the popcount of the bits below it in its own word.

**When parity may be trusted.** It knows nothing of values. Where csv sees two stray quotes, it sees a quoted value:

    text        5 " , 6 " LF                  csv: two values, 5" and 6"
    quotes      . 1 . . 1 .
    inside      . 1 1 1 . .                   parity: one value, in which the delimiter counts for nothing
    misplaced   . 1 . . . .                   the opening quote follows a 5

Parity and csv's machine agree on everything before the first of these:

- an opening quote (one that is inside itself) which follows neither a delimiter, a line feed, a closing quote nor
  the beginning of a record;
- a closing quote which precedes neither a delimiter, a line end nor a quote;
- a carriage return outside quotes which no line feed follows.

For as long as every opening quote stands where csv opens a value, and every closing quote where csv closes one or
doubles a quote, each of them changes both in the same way. These places are found by bitmaps too, shifted by a bit to
lie over their neighbours: `opening & ~(separators << 1)`. Whoever asks walks the record of the first such place by
`record`, and comes back after it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.keys import ONE_HASH
from orchestrator.core.manykeys import hashes

Words = NDArray[np.uint64]
Places = NDArray[np.int64]

_QUOTE, _CR, _LF = b'"\r\n'
_WORD: Final = np.dtype("<u8")
_ALL: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE, _TOP = np.uint64(1), np.uint64(63)


@dataclass(frozen=True, slots=True)
class Sound:
    """Records that tile data from the first byte looked at: where each ends, as offsets into the data.

    lines: line feeds in them. odd: by index, the number of cells of each record that is blank, too long, or has another
    number of cells than the header. utf8: whether all of them together are. doubtful: the record after them holds a
    place where parity may not be trusted; without it, that record does not end in what was looked at. keys: the hashes
    of each record's key, when there is a key column; of no use for the odd ones.
    """

    stops: array[int]
    lines: int
    odd: dict[int, int]
    utf8: bool
    doubtful: bool
    keys: array[int]


class ParityScanner:
    """Finds records by the parity of their quotes, at most `window_bytes` at once, in buffers that are used again.

    key_column: from 0, the one whose values are hashed with each of the `salts`; None: none.
    """

    def __init__(
        self,
        delimiter: bytes,
        cells: int,
        row_bytes_max: int,
        window_bytes: int,
        key_column: int | None = None,
        salts: Sequence[int] = ONE_HASH,
    ) -> None:
        self._delimiter, self._cells, self._row_bytes_max = delimiter[0], cells, row_bytes_max
        self._key_column, self._salts = key_column, salts
        # glibc gives pieces of 128 KB and more back to the system as soon as they are free, and takes them again page
        # by page: 7 % of a plan's time, with bitmaps by the dozen. A large one, free at once, teaches it to keep them.
        np.empty(1 << 24, np.uint8)
        self._found = np.empty(-(-window_bytes // 64) * 64, np.bool_)

    def find(self, data: bytes, start: int, stop: int) -> Sound:
        """The records of data[start:stop], the first of which begins at `start`."""
        assert 0 < stop - start <= len(self._found)
        text = np.frombuffer(data, np.uint8, stop - start, start)
        newlines, delimiters = self._bitmap(text, _LF), self._bitmap(text, self._delimiter)
        returns = self._bitmap(text, _CR) if data.find(b"\r", start, stop) >= 0 else None
        ends, outside, doubts = newlines, delimiters, None
        if data.find(b'"', start, stop) >= 0:
            quotes = self._bitmap(text, _QUOTE)
            inside = _prefix_xor(quotes)
            ends, outside = newlines & ~inside, delimiters & ~inside
            doubts = _misplaced(quotes, inside, delimiters | newlines, returns)
            if returns is not None:
                returns &= ~inside
        if returns is not None:
            lone = returns & ~_next(newlines)
            doubts = lone if doubts is None else doubts | lone
        places = _places(ends)
        doubt = None if doubts is None else _first(doubts, stop - start - 1)
        if doubt is not None:
            places = places[: np.searchsorted(places, doubt)]
        if not len(places):
            return Sound(array("q"), 0, {}, True, doubt is not None, array("Q"))
        last = int(places[-1])
        ranks = _rank(outside, places)
        return Sound(
            stops=array("q", (places + (start + 1)).tobytes()),
            lines=int(np.bitwise_count(newlines).sum()) - data.count(b"\n", start + last + 1, stop),
            odd=self._odd(text, places, ranks, returns is not None),
            utf8=self._is_utf8(text[: last + 1]),
            doubtful=doubt is not None,
            keys=self._keys(data, start, text, places, outside, ranks),
        )

    def _bitmap(self, text: NDArray[np.uint8], byte: int) -> Words:
        """Where this byte stands; the last word has zeros behind the text."""
        found = self._found[: -(-len(text) // 64) * 64]
        np.equal(text, byte, out=found[: len(text)])
        found[len(text) :] = False
        return np.packbits(found, bitorder="little").view(_WORD)

    def _keys(
        self, data: bytes, start: int, text: NDArray[np.uint8], places: Places, outside: Words, ranks: Places
    ) -> array[int]:
        """The hashes of the keys of the records that end at these places; `ranks`: how many delimiters stand before."""
        if self._key_column is None:
            return array("Q")
        before = np.concatenate(([0], ranks[:-1])) + self._key_column  # delimiters before the end of each value
        begins = np.concatenate(([-1], places[:-1])) if self._key_column == 0 else _select(outside, before - 1)
        if self._key_column < self._cells - 1:
            stops = _select(outside, before)
        else:
            stops = places - ((places > 0) & (text[np.maximum(places - 1, 0)] == _CR))
        within = start + int(places[-1]) + 1  # values of records with too few cells lead beyond it
        begins = np.minimum(begins + (start + 1), within)
        stops = np.clip(stops + start, begins, within)
        of_each = np.stack([hashes(data, begins, stops, salt) for salt in self._salts], axis=1)
        return array("Q", of_each.tobytes())

    def _odd(self, text: NDArray[np.uint8], places: Places, ranks: Places, any_returns: bool) -> dict[int, int]:
        """Records to look at one by one, and how many cells each has."""
        lengths = np.diff(places, prepend=-1)
        cells = np.diff(ranks, prepend=0) + 1
        odd = (cells != self._cells) | (lengths > self._row_bytes_max)
        if self._cells == 1:  # else a blank line has another number of cells
            odd |= lengths == 1
            if any_returns:
                odd |= (lengths == 2) & (text[places - 1] == _CR)
        indexes = np.flatnonzero(odd)
        return dict(zip(indexes.tolist(), cells[indexes].tolist(), strict=True))

    def _is_utf8(self, text: NDArray[np.uint8]) -> bool:
        """Whether the bytes are UTF-8: decoded are only the words with a byte that is not ASCII, and what follows them.

        The word after such a word comes along even if it is ASCII: so each byte that is not ASCII has its true
        successor, and before it stands its true predecessor or ASCII. What is left out was ASCII: it cannot be wrong.
        """
        whole = len(text) & ~7
        high = np.less(text[:whole].view(np.int8), 0, out=self._found[:whole]).view(_WORD) != 0
        high[1:] |= high[:-1]
        chosen = text[:whole].view(_WORD)[np.flatnonzero(high)].tobytes() + text[whole:].tobytes()
        try:
            chosen.decode()
        except UnicodeDecodeError:
            return False
        return True


def _prefix_xor(quotes: Words) -> Words:
    """Each bit: the parity of the quotes up to it and with it."""
    inside = quotes.copy()
    for step in (1, 2, 4, 8, 16, 32):
        inside ^= inside << np.uint64(step)
    begins_inside = np.bitwise_xor.accumulate(inside >> _TOP)[:-1]
    inside[1:] ^= begins_inside * _ALL
    return inside


def _previous(bits: Words, first: int) -> Words:
    """Each bit: the one before it; `first` comes before them all."""
    shifted = bits << _ONE
    shifted[1:] |= bits[:-1] >> _TOP
    shifted[0] |= np.uint64(first)
    return shifted


def _next(bits: Words) -> Words:
    """Each bit: the one after it; none comes after the last."""
    shifted = bits >> _ONE
    shifted[:-1] |= bits[1:] << _TOP
    return shifted


def _misplaced(quotes: Words, inside: Words, separators: Words, returns: Words | None) -> Words:
    """The quotes that csv would take for something else than parity does, the first of them at least."""
    closing = quotes & ~inside
    opening = quotes & inside
    after = separators | quotes if returns is None else separators | quotes | returns
    return (opening & ~_previous(separators | closing, first=1)) | (closing & ~_next(after))


def _first(bits: Words, last: int) -> int | None:
    """The first bit that is set before place `last`, whose next byte is not known yet."""
    words = np.flatnonzero(bits)
    if not len(words):
        return None
    word = int(bits[words[0]])
    place = int(words[0]) * 64 + (word & -word).bit_length() - 1
    return place if place < last else None


def _places(bits: Words) -> Places:
    """Where the bits are set. Only words that have one are unpacked: rows are longer than words."""
    words = np.flatnonzero(bits != 0)  # of booleans it is twenty times as fast as of numbers
    set_bits = np.flatnonzero(np.unpackbits(bits[words].view(np.uint8), bitorder="little").view(np.bool_))
    places: Places = ((words[set_bits >> 6] << 6) | (set_bits & 63)).astype(np.int64, copy=False)
    return places


def _rank(bits: Words, places: Places) -> Places:
    """How many bits are set before each place."""
    counts = np.bitwise_count(bits)
    before = np.cumsum(counts, dtype=np.int64) - counts
    words = places >> 6
    below = bits[words] & ((_ONE << (places & 63).astype(np.uint64)) - _ONE)
    rank: Places = before[words] + np.bitwise_count(below)
    return rank


def _select(bits: Words, ranks: Places) -> Places:
    """Where the bits stand before which so many are set: the opposite of `_rank`. What no bit has leads anywhere."""
    counts = np.bitwise_count(bits)
    before = np.cumsum(counts, dtype=np.int64) - counts
    words = np.maximum(np.searchsorted(before, ranks, side="right") - 1, 0)
    rest, left = bits[words], (ranks - before[words]).astype(np.uint64)
    places = words << 6
    for width in (32, 16, 8, 4, 2, 1):
        below = np.bitwise_count(rest & np.uint64((1 << width) - 1))
        beyond = left >= below
        left -= below * beyond
        rest >>= np.uint64(width) * beyond
        places += width * beyond
    return places
