"""Who wants to know that something has changed? One counter, and a bell that rings when it moves."""

from __future__ import annotations

import anyio


class Changes:
    """Told by whoever changes something; waited for by whoever shows it."""

    def __init__(self) -> None:
        self.count = 0
        self._bell = anyio.Event()

    def tell(self) -> None:
        """Something that can be seen has changed."""
        self.count += 1
        self._bell.set()
        self._bell = anyio.Event()

    async def wait(self, seen: int, patience_s: float) -> int:
        """Until the counter is beyond `seen`, or the patience is over; returns it."""
        if self.count == seen:
            with anyio.move_on_after(patience_s):
                await self._bell.wait()
        return self.count
