"""How does memory that is free again go back to the system, or stay at hand?"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Of mallopt(3)."""

LARGE_BYTES: Final = 4 << 20
"""A chunk's content is more, a block of reading is less: mapping those anew each time would cost time."""
KEPT_BYTES: Final = 1 << 24
"""The blocks and bitmaps of a plan come and go; what they lie in is kept, or each of their pages is made anew."""


def settle_memory() -> None:
    """Tell the C library, where it is glibc, what to do with memory that is free again.

    Large blocks are mapped by themselves and go back at once. glibc would raise that threshold by itself to the largest
    block that was freed; from then on each chunk's content lies on a heap, which small objects keep from shrinking: a
    load of a gigabyte took 25 MB more. With a threshold that is set, glibc gives back what is free at the end of a heap
    from 128 KB on, and asks for it again for the next block: a seventh of a plan's processor time. One heap for all
    threads is enough where they wait for the interpreter's lock, and a block freed by another thread is found again.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_ARENA_MAX, 1)
