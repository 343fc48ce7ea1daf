"""What time is it? Wall time that never jumps while the process lives.

Anchored once to the wall clock and carried on by the monotonic one, so that a step of the system's clock cannot
make a wait endless or a lease negative. Across restarts the wall clock counts again.
"""

from __future__ import annotations

import time


class Clock:
    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self._offset + time.monotonic()
