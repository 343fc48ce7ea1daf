"""What time is it? Wall time that never jumps while the process lives.

Anchored once to the wall clock and carried on by one that only goes forward, so that a step of the system's clock
cannot make a wait endless or a lease negative. That clock goes on while the machine sleeps, where there is one: after a
suspend, tokens are as old as they are and batches are due. Across restarts the wall clock counts again.
"""

from __future__ import annotations

import time

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""Linux's monotonic clock that counts a suspended machine's time as well."""


def _passed_s() -> float:
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class Clock:
    def __init__(self) -> None:
        self._offset = time.time() - _passed_s()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self._offset + _passed_s()
