"""Is a loop that does not keep up noticed? In virtual time, in which only what blocks takes any."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import structlog
from simulation import virtual

from orchestrator.runner.lag import watch_lag


def told(blocked: dict[float, float], until: float) -> list[float]:
    """What is logged when the loop is blocked at some moments, each time for so many seconds."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual.VirtualLoop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_lag, 0.5)
            for at, seconds in blocked.items():
                await anyio.sleep(at - loop.time())
                loop._virtual_now += seconds
            await anyio.sleep(until - loop.time())
            tasks.cancel_scope.cancel()

    with structlog.testing.capture_logs() as logs:
        virtual.run(main)
    assert {log["event"] for log in logs} <= {"loop.lagged"}
    return [log["worst_s"] for log in logs]


def test_a_loop_that_keeps_up_says_nothing() -> None:
    """Half a second now and then is what a busy machine does."""
    assert told({10.0: 0.1, 20.0: 0.9}, until=3600.0) == []


def test_a_blocked_loop_is_told_of_once_in_a_minute_with_its_worst() -> None:
    """A line for every look would hide the rest of the log, and only the newest the worst."""
    assert told({10.25: 3.0, 20.25: 5.0, 30.25: 2.0}, until=300.0) == pytest.approx([2.9, 4.9], abs=0.15)
