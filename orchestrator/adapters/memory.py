"""How does memory that is free again go back to the system?"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

M_MMAP_THRESHOLD: Final = -3
"""Of mallopt(3): blocks from this size on are mapped by themselves, and unmapped when they are freed."""
LARGE_BYTES: Final = 4 << 20
"""A chunk's content is more, a block of reading is less: mapping those anew each time would cost time."""


def unmap_large_blocks() -> None:
    """Keep large blocks off the heap for good, where the C library is glibc.

    glibc raises the threshold by itself to the largest block that was freed. From then on each chunk's content lies on
    the heap of the thread that read it, which small objects keep from shrinking: a load of a gigabyte took 25 MB more.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
