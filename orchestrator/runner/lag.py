"""Does the event loop keep up?

Everything of a load runs in one loop: what keeps it busy keeps answers waiting and makes deadlines late. A task looks
every so often how late it is woken; much too late is logged, since nothing else would show it.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import structlog

log = structlog.get_logger()

WARN_S = 1.0
"""Twenty times what a load on a busy machine shows; a connection stands a minute of it."""
WARN_EVERY_S = 60.0


async def watch_lag(every_s: float, felt: Callable[[float], None] = lambda late_s: None) -> None:
    """Log `loop.lagged` when the loop was late by a second or more: the worst of a minute at the end of it.

    felt: called at each look, with the seconds by which it came late.
    """
    worst_s, told_at = 0.0, float("-inf")
    while True:
        due_at = anyio.current_time() + every_s
        await anyio.sleep(every_s)
        now = anyio.current_time()
        worst_s = max(worst_s, now - due_at)
        felt(max(0.0, now - due_at))
        if worst_s >= WARN_S and now - told_at >= WARN_EVERY_S:
            log.warning("loop.lagged", worst_s=round(worst_s, 1))
            worst_s, told_at = 0.0, now
