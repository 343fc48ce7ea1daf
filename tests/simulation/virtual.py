"""Time that is simulated: an event loop whose clock jumps to the next timer when nothing else can run.

Everything that would run in a worker thread runs inline, so that a run depends on its seed alone. When every task
waits and no timer is left, the loop raises Deadlock instead of hanging.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar
from unittest.mock import patch

import anyio._backends._asyncio as anyio_asyncio

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""Wall time at which every simulation begins: 2027-01-15 08:00 UTC."""


class Deadlock(BaseException):
    """Every task waits for another one, or the simulation went on beyond its end."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is virtual, from `start` to at most `end`."""

    def __init__(self, start: float = 0.0, end: float = float("inf")) -> None:
        super().__init__()
        self._virtual_now, self._end = start, end
        # The spacing of floats at this size of time: a finer resolution would never reach a timer.
        self._clock_resolution = 1e-6
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            events = select(0)
            if events or (timeout is not None and timeout <= 0):
                return events
            if timeout is None:
                raise Deadlock("every task waits and no timer is left")
            self._virtual_now = max(self._virtual_now + timeout, self._next_timer())
            if self._virtual_now > self._end:
                raise Deadlock(f"still running at {self._virtual_now:.0f} s of virtual time")
            return ()

        self._selector.select = jump  # type: ignore[attr-defined]

    def _next_timer(self) -> float:
        return self._scheduled[0].when() if self._scheduled else 0.0  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._virtual_now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> Any:
        future = self.create_future()
        try:
            result = func(*args)
        except BaseException as error:  # noqa: BLE001 handed to whoever awaits it, as a thread would
            _later(self, future, lambda error=error: future.set_exception(error))  # type: ignore[misc]
        else:
            _later(self, future, lambda: future.set_result(result))
        return future


class SteppedLoop(VirtualLoop):
    """An event loop that somebody steps: several processes, each with a loop of its own, live in one time.

    `due` is when it wants to be stepped next; the one who steps it sees to it that `now` is not before.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self._selector.select = lambda timeout=None: ()  # type: ignore[attr-defined]
        self.set_exception_handler(lambda *_: None)  # nobody asks a dead process what its tasks came to

    def time(self) -> float:
        return self._now()

    def due(self) -> float:
        """When something is to be run; infinity when every task waits for another one."""
        if self._ready:  # type: ignore[attr-defined]
            return self._now()
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(timers)._scheduled = False
        return float(timers[0].when()) if timers else float("inf")

    def step(self) -> None:
        """Run what is ready. An exception that ends a process (KeyboardInterrupt) comes out of here."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)  # type: ignore[attr-defined]
        asyncio._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)


def _later(loop: VirtualLoop, future: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    loop.call_soon(lambda: None if future.done() else settle())


class VirtualClock:
    """The Clock of a simulated process: wall time goes with the loop's time."""

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()


@contextlib.contextmanager
def inline_threads() -> Iterator[None]:
    """Make anyio's worker threads run inline; anyio hands work to threads of its own otherwise."""

    async def run_inline(
        func: Callable[..., T], args: tuple[Any, ...], abandon_on_cancel: bool = False, limiter: Any = None
    ) -> T:
        await asyncio.sleep(0)
        return func(*args)

    begin = anyio_asyncio.CancelScope.__init__

    def begin_in_order(scope: Any, *arguments: Any, **named: Any) -> None:
        begin(scope, *arguments, **named)
        scope._tasks, scope._child_scopes = _InOrder(), _InOrder()

    with (
        patch.object(anyio_asyncio.AsyncIOBackend, "run_sync_in_worker_thread", run_inline),
        patch.object(anyio_asyncio.CancelScope, "__init__", begin_in_order),
    ):
        yield


class _InOrder(dict[Any, None]):
    """As much of a set as a cancel scope needs, in the order of arrival: a set's order depends on addresses."""

    def add(self, one: Any) -> None:
        self[one] = None

    def remove(self, one: Any) -> None:
        del self[one]

    def discard(self, one: Any) -> None:
        self.pop(one, None)


def run(main: Callable[[], Awaitable[T]], *, start: float = 0.0, end: float = float("inf")) -> tuple[T, float]:
    """Run a coroutine function under virtual time; its result and the time at its end."""
    loop = VirtualLoop(start, end)
    try:
        with inline_threads():
            result = loop.run_until_complete(main())
            ended = loop.time()
            loop.run_until_complete(loop.shutdown_asyncgens())
        return result, ended
    finally:
        forget(drop(loop))


def drop(loop: VirtualLoop) -> list[asyncio.Task[Any]]:
    """Drop what is left without running it: a crashed process runs no `finally` either. The tasks that are left.

    Whoever gets them keeps them until nothing of their process matters any more: what is collected is closed, and
    what is closed runs.
    """
    left = list(asyncio.all_tasks(loop))
    # Whoever died of a crash is done, and yet known to anyio.
    left += [task for task in list(anyio_asyncio._task_states) if task.done() and task.get_loop() is loop]
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    return left


def forget(tasks: list[asyncio.Task[Any]]) -> None:
    """Let go of tasks that nobody ends: they would keep everything they know in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what anyio was to run in a task that never ran is not awaited
        for task in tasks:
            for _ in range(10):  # each time it may wait again in a `finally`
                try:
                    task.get_coro().close()
                except BaseException:  # noqa: BLE001 what a dead process says is of no interest
                    continue
                break
            # What anyio knows of a task leads back to the task, which a weak dictionary therefore never lets go.
            anyio_asyncio._task_states.pop(task, None)
        tasks.clear()
